/* A disk that loses power, below the process: loaded by LD_PRELOAD, it stands between a program and the
   files of one folder. It keeps what a power cut would take back: every change of a file that no fsync
   of the file followed, and every change of a name that no fsync of the folder followed. At the cut it
   writes these down and kills the process; testkit/src/disk/left.rs puts the folder into the state that is
   left. No fsync reaches the real disk, so a run is gentle to the machine.

   DISK_ROOT    the folder, which exists
   DISK_STATE   a folder beside it for what is kept here; has `control` (see struct control) and `pins`
   DISK_IGNORE  parts of paths, each followed by a comma: fsyncs of such files do nothing (a mutation)

   Not covered, and noted when it is seen: writable shared mappings but for SQLite's -shm, which needs
   none; names that cross the folder's edge. Streams of stdio and system calls without libc pass by
   unseen; the sizes and names written down at the cut show that they did. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* Shared with disk.rs by a mapping, so that it can be changed at run time. */
struct control {
    uint64_t operations;   /* seen so far on paths that contain `cut_part` */
    uint64_t cut_at;       /* the operation at which the power goes; 0: never */
    uint64_t fsync_micros; /* how long an fsync takes */
    uint64_t write_fails;  /* the n-th write from now on fails; 0: none */
    uint64_t write_errno;
    uint64_t sync_fails;   /* the n-th fsync from now on fails; 0: none */
    uint64_t sync_errno;
    uint64_t is_limited;   /* whether only `room` bytes more fit */
    uint64_t room;
    uint64_t failures;     /* operations that were made to fail */
    char cut_part[128];
    char fault_part[128];  /* only paths that contain it fail */
};

struct change { /* bytes of a file that are not on disk yet */
    uint64_t seq, offset, length, size_before, saved;
    char *bytes; /* what was there before, from `offset` on */
    struct change *next;
};

struct naming { /* a name that is not on disk yet */
    uint64_t seq, folder, before, after;
    char *name;
    struct naming *next;
};

struct node {
    uint64_t ino, size;
    int is_folder;
    char path[PATH_MAX];
    struct change *changes; /* newest first */
    struct node *next;
};

#define FDS 65536
#define BUCKETS 4096

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static volatile int is_on;
static char root[PATH_MAX], state[PATH_MAX];
static size_t root_length;
static dev_t device;
static struct control *control;
static struct node *nodes[BUCKETS];
static struct naming *namings; /* newest first */
static uint64_t sequence;
static char fds[FDS];
static char notes[65536];
static const char *ignored;

#define REAL(type, name, ...) \
    static type (*real_##name)(__VA_ARGS__); \
    if (!real_##name) real_##name = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static int sys_open(const char *path, int flags, mode_t mode) {
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static void note(const char *what, const char *path) {
    size_t used = strlen(notes);
    if (used + strlen(what) + strlen(path) + 4 < sizeof notes)
        sprintf(notes + used, "%s %s\n", what, path);
}

/* ---- nodes ---- */

static struct node *node_of(uint64_t ino) {
    for (struct node *node = nodes[ino % BUCKETS]; node; node = node->next)
        if (node->ino == ino) return node;
    return NULL;
}

static struct node *know(const struct stat *stat, const char *path) {
    struct node *node = node_of(stat->st_ino);
    if (!node) {
        node = calloc(1, sizeof *node);
        node->ino = stat->st_ino;
        node->size = (uint64_t)stat->st_size;
        node->is_folder = S_ISDIR(stat->st_mode);
        node->next = nodes[node->ino % BUCKETS];
        nodes[node->ino % BUCKETS] = node;
    }
    if (path) snprintf(node->path, sizeof node->path, "%s", path);
    return node;
}

static int walk(const char *path, const struct stat *stat, int kind, struct FTW *ftw) {
    (void)kind, (void)ftw;
    know(stat, path);
    return 0;
}

/* ---- paths ---- */

static int is_below(const char *path) {
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || !path[root_length]);
}

/* The whole path without links and dots, whether or not its last name exists; false outside of the root. */
static int resolve(int at, const char *path, char *whole) {
    char text[PATH_MAX * 2], folder[PATH_MAX];
    if (!is_on || !path || !*path) return 0;
    if (path[0] == '/') {
        snprintf(text, sizeof text, "%s", path);
    } else {
        char link[64], base[PATH_MAX];
        if (at == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t length = readlink(link, base, sizeof base - 1);
        if (length <= 0) return 0;
        base[length] = 0;
        snprintf(text, sizeof text, "%s/%s", base, path);
    }
    size_t length = strlen(text);
    while (length > 1 && text[length - 1] == '/') text[--length] = 0;
    char *slash = strrchr(text, '/');
    const char *name = slash + 1;
    int kept = errno;
    if (!strcmp(name, ".") || !strcmp(name, "..")) {
        if (!realpath(text, whole)) { errno = kept; return 0; }
        return is_below(whole);
    }
    char name_kept[NAME_MAX + 1];
    snprintf(name_kept, sizeof name_kept, "%s", name);
    *slash = 0;
    if (!realpath(*text ? text : "/", folder)) { errno = kept; return 0; }
    if (strlen(folder) + strlen(name_kept) + 2 > PATH_MAX) return 0;
    sprintf(whole, "%s/%s", strcmp(folder, "/") ? folder : "", name_kept);
    return is_below(whole);
}

static uint64_t folder_of(const char *whole) {
    char folder[PATH_MAX];
    struct stat found;
    snprintf(folder, sizeof folder, "%s", whole);
    *strrchr(folder, '/') = 0;
    if (stat(folder, &found)) return 0;
    know(&found, folder);
    return found.st_ino;
}

static const char *name_of(const char *whole) { return strrchr(whole, '/') + 1; }

static void pin_path(char *pin, uint64_t ino) {
    snprintf(pin, PATH_MAX + 32, "%s/pins/%llu", state, (unsigned long long)ino);
}

/* Keeps a file whose name goes, so that the name can come back. */
static void pin(const char *whole, uint64_t ino) {
    char path[PATH_MAX + 32];
    pin_path(path, ino);
    if (syscall(SYS_linkat, AT_FDCWD, whole, AT_FDCWD, path, 0) && errno != EEXIST)
        note("not kept", whole);
}

/* ---- the cut ---- */

static void put(FILE *file, uint64_t number) { fwrite(&number, 8, 1, file); }

static void put_text(FILE *file, const char *text) {
    put(file, strlen(text));
    fwrite(text, 1, strlen(text), file);
}

static void cut(const char *what, const char *path) {
    char name[PATH_MAX + 32], unfinished[PATH_MAX + 32];
    snprintf(name, sizeof name, "%s/journal", state);
    snprintf(unfinished, sizeof unfinished, "%s/journal~", state);
    int fd = sys_open(unfinished, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    FILE *file = fdopen(fd, "w");
    fputc('O', file), put_text(file, what), put_text(file, path);
    fputc('U', file), put_text(file, notes);
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        for (struct node *node = nodes[bucket]; node; node = node->next) {
            fputc('K', file), put(file, node->ino), put(file, node->size);
            put(file, (uint64_t)node->is_folder);
            for (struct change *change = node->changes; change; change = change->next) {
                fputc('W', file), put(file, change->seq), put(file, node->ino);
                put(file, change->offset), put(file, change->length);
                put(file, change->size_before), put(file, change->saved);
                fwrite(change->bytes, 1, change->saved, file);
            }
        }
    for (struct naming *naming = namings; naming; naming = naming->next) {
        fputc('N', file), put(file, naming->seq), put(file, naming->folder);
        put(file, naming->before), put(file, naming->after), put_text(file, naming->name);
    }
    fputc('E', file);
    fflush(file);
    syscall(SYS_renameat, AT_FDCWD, unfinished, AT_FDCWD, name);
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

/* Counts an operation, which may be the last. The mutex is held. */
static void operation(const char *what, const char *path) {
    if (!strstr(path, control->cut_part)) return;
    control->operations++;
    if (control->cut_at && control->operations >= control->cut_at) cut(what, path);
}

static int fails(uint64_t *count, uint64_t number, const char *path) {
    if (!*count || !strstr(path, control->fault_part) || --*count) return 0;
    control->failures++;
    errno = (int)number;
    return 1;
}

static int is_full(const char *path) {
    if (!control->is_limited || control->room || !strstr(path, control->fault_part)) return 0;
    control->failures++;
    errno = ENOSPC;
    return 1;
}

/* ---- changes ---- */

/* Notes that bytes of a file change; what was there is read first. The mutex is held. */
static void changes(struct node *node, int fd, uint64_t offset, uint64_t length, uint64_t size) {
    struct change *change = calloc(1, sizeof *change);
    change->seq = ++sequence;
    change->offset = offset;
    change->length = length;
    change->size_before = size;
    if (offset < size) {
        uint64_t wanted = size - offset < length ? size - offset : length;
        change->bytes = malloc(wanted);
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        int reader = sys_open(link, O_RDONLY | O_CLOEXEC, 0);
        ssize_t count;
        while (change->saved < wanted
               && (count = pread(reader, change->bytes + change->saved, wanted - change->saved,
                                 (off_t)(offset + change->saved))) > 0)
            change->saved += (uint64_t)count;
        syscall(SYS_close, reader);
        if (change->saved < wanted) note("not saved", node->path);
    }
    change->next = node->changes;
    node->changes = change;
}

static void names(uint64_t seq, uint64_t folder, const char *name, uint64_t before, uint64_t after) {
    struct naming *naming = calloc(1, sizeof *naming);
    naming->seq = seq;
    naming->folder = folder;
    naming->before = before;
    naming->after = after;
    naming->name = strdup(name);
    naming->next = namings;
    namings = naming;
}

/* What happened up to `seq` is on disk now. */
static void settle(struct node *node, uint64_t seq) {
    for (struct change **at = &node->changes; *at;) {
        struct change *change = *at;
        if (change->seq > seq) { at = &change->next; continue; }
        *at = change->next;
        free(change->bytes);
        free(change);
    }
    for (struct naming **at = &namings; node->is_folder && *at;) {
        struct naming *naming = *at;
        if (naming->seq > seq || naming->folder != node->ino) { at = &naming->next; continue; }
        *at = naming->next;
        free(naming->name);
        free(naming);
    }
}

/* Locks and gives the node of a descriptor below the root; nothing, and unlocked, for any other. */
static struct node *enter(int fd, struct stat *found) {
    if (!is_on || fd < 0 || fd >= FDS || !fds[fd]) return NULL;
    int kept = errno;
    pthread_mutex_lock(&mutex);
    if (!fstat(fd, found) && found->st_dev == device && (S_ISREG(found->st_mode) || S_ISDIR(found->st_mode))) {
        struct node *node = node_of(found->st_ino);
        if (node) return node;
    }
    fds[fd] = 0;
    pthread_mutex_unlock(&mutex);
    errno = kept;
    return NULL;
}

static int leave(int result) {
    int kept = errno;
    pthread_mutex_unlock(&mutex);
    errno = kept;
    return result;
}

/* ---- files ---- */

static int opens(int at, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    if (!resolve(at, path, whole)) return (int)syscall(SYS_openat, at, path, flags, mode);
    pthread_mutex_lock(&mutex);
    struct stat found;
    int exists = !stat(whole, &found), kept = errno;
    if (!exists && flags & O_CREAT) {
        operation("create", whole);
        if (is_full(whole)) return leave(-1);
    }
    int truncates = exists && flags & O_TRUNC && flags & (O_WRONLY | O_RDWR) && found.st_size > 0;
    errno = kept;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, whole, flags & ~(truncates ? O_TRUNC : 0), mode);
    if (fd < 0) return leave(fd);
    struct node *node = NULL;
    if (!fstat(fd, &found)) node = know(&found, whole);
    if (truncates) {
        operation("truncate", whole);
        changes(node, fd, 0, (uint64_t)found.st_size, (uint64_t)found.st_size);
        syscall(SYS_ftruncate, fd, 0L);
        node->size = 0;
    }
    if (!exists && node) names(++sequence, folder_of(whole), name_of(whole), 0, node->ino);
    if (fd < FDS) fds[fd] = 1;
    return leave(fd);
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { va_list list; va_start(list, flags); mode = va_arg(list, mode_t); va_end(list); }

int open(const char *path, int flags, ...) { MODE(flags) return opens(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opens(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return opens(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return opens(at, path, flags, mode); }
int creat(const char *path, mode_t mode) { return opens(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int fd) {
    if (fd >= 0 && fd < FDS) fds[fd] = 0;
    return (int)syscall(SYS_close, fd);
}

static int copied(int from, int to) {
    if (from >= 0 && from < FDS && to >= 0 && to < FDS) fds[to] = fds[from];
    return to;
}

int dup(int fd) { return copied(fd, (int)syscall(SYS_dup, fd)); }
int dup2(int fd, int to) { return copied(fd, fd == to ? fcntl(fd, F_GETFD) < 0 ? -1 : to : (int)syscall(SYS_dup3, fd, to, 0)); }
int dup3(int fd, int to, int flags) { return copied(fd, (int)syscall(SYS_dup3, fd, to, flags)); }

static int controls(int fd, int command, void *argument) {
    REAL(int, fcntl64, int, int, ...);
    int result = real_fcntl64(fd, command, argument);
    return command == F_DUPFD || command == F_DUPFD_CLOEXEC ? copied(fd, result) : result;
}

#define ARGUMENT(last) va_list list; va_start(list, last); void *argument = va_arg(list, void *); va_end(list);
int fcntl(int fd, int command, ...) { ARGUMENT(command) return controls(fd, command, argument); }
int fcntl64(int fd, int command, ...) { ARGUMENT(command) return controls(fd, command, argument); }

/* Writes at `offset`, or where the descriptor stands when it is negative. */
static ssize_t stores(struct node *node, int fd, const struct stat *found, const char *bytes, size_t length, off_t offset) {
    operation("write", node->path);
    if (fails(&control->write_fails, control->write_errno, node->path)) return leave(-1);
    uint64_t size = (uint64_t)found->st_size;
    int appends = (fcntl(fd, F_GETFL) & O_APPEND) != 0;
    uint64_t start = appends ? size : offset < 0 ? (uint64_t)lseek(fd, 0, SEEK_CUR) : (uint64_t)offset;
    uint64_t growth = start + length > size ? start + length - size : 0;
    if (growth && control->is_limited && strstr(node->path, control->fault_part)) {
        if (growth > control->room) {
            uint64_t over = growth - control->room;
            if (over >= length) {
                control->failures++;
                errno = ENOSPC;
                return leave(-1);
            }
            length -= over;
            growth = control->room;
        }
        control->room -= growth;
    }
    if (length) changes(node, fd, start, length, size);
    ssize_t count = offset < 0 ? syscall(SYS_write, fd, bytes, length)
                               : syscall(SYS_pwrite64, fd, bytes, length, offset);
    if (count > 0 && start + (uint64_t)count > node->size) node->size = start + (uint64_t)count;
    int kept = errno;
    pthread_mutex_unlock(&mutex);
    errno = kept;
    return count;
}

ssize_t write(int fd, const void *bytes, size_t length) {
    struct stat found;
    struct node *node = enter(fd, &found);
    return node ? stores(node, fd, &found, bytes, length, -1) : syscall(SYS_write, fd, bytes, length);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    struct stat found;
    struct node *node = enter(fd, &found);
    return node ? stores(node, fd, &found, bytes, length, offset) : syscall(SYS_pwrite64, fd, bytes, length, offset);
}
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) { return pwrite64(fd, bytes, length, offset); }

static ssize_t gathers(int fd, const struct iovec *parts, int count, off_t offset) {
    size_t length = 0, used = 0;
    for (int part = 0; part < count; part++) length += parts[part].iov_len;
    char *bytes = malloc(length ? length : 1);
    for (int part = 0; part < count; used += parts[part++].iov_len)
        memcpy(bytes + used, parts[part].iov_base, parts[part].iov_len);
    ssize_t result = offset < 0 ? write(fd, bytes, length) : pwrite64(fd, bytes, length, offset);
    free(bytes);
    return result;
}

static int is_ours(int fd) { return is_on && fd >= 0 && fd < FDS && fds[fd]; }

ssize_t writev(int fd, const struct iovec *parts, int count) {
    return is_ours(fd) ? gathers(fd, parts, count, -1) : syscall(SYS_writev, fd, parts, count);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) {
    return is_ours(fd) ? gathers(fd, parts, count, offset) : syscall(SYS_pwritev, fd, parts, count, offset, 0L);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return pwritev64(fd, parts, count, offset); }
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    return is_ours(fd) ? gathers(fd, parts, count, offset) : syscall(SYS_pwritev2, fd, parts, count, offset, 0L, flags);
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags) {
    return pwritev2(fd, parts, count, offset, flags);
}

/* The caller writes by itself when these are refused. */
ssize_t copy_file_range(int from, off64_t *in, int to, off64_t *out, size_t length, unsigned flags) {
    if (is_ours(to)) { errno = ENOSYS; return -1; }
    return syscall(SYS_copy_file_range, from, in, to, out, length, flags);
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t length) {
    if (is_ours(to)) { errno = EINVAL; return -1; }
    return syscall(SYS_sendfile, to, from, offset, length);
}
ssize_t sendfile(int to, int from, off_t *offset, size_t length) { return sendfile64(to, from, offset, length); }

int ftruncate64(int fd, off64_t length) {
    struct stat found;
    struct node *node = enter(fd, &found);
    if (!node) return (int)syscall(SYS_ftruncate, fd, length);
    operation("truncate", node->path);
    if (fails(&control->write_fails, control->write_errno, node->path)) return leave(-1);
    if (length < found.st_size)
        changes(node, fd, (uint64_t)length, (uint64_t)(found.st_size - length), (uint64_t)found.st_size);
    else if (length > found.st_size)
        changes(node, fd, (uint64_t)found.st_size, (uint64_t)(length - found.st_size), (uint64_t)found.st_size);
    int result = (int)syscall(SYS_ftruncate, fd, length);
    if (!result) node->size = (uint64_t)length;
    return leave(result);
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int truncate64(const char *path, off64_t length) {
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    int result = ftruncate64(fd, length), kept = errno;
    close(fd);
    errno = kept;
    return result;
}
int truncate(const char *path, off_t length) { return truncate64(path, length); }

int fallocate64(int fd, int mode, off64_t offset, off64_t length) {
    struct stat found;
    struct node *node = enter(fd, &found);
    if (!node) return (int)syscall(SYS_fallocate, fd, mode, offset, length);
    operation("allocate", node->path);
    if (mode) { errno = EOPNOTSUPP; return leave(-1); }
    uint64_t growth = offset + length > found.st_size ? (uint64_t)(offset + length - found.st_size) : 0;
    if (control->is_limited && growth > control->room && strstr(node->path, control->fault_part)) {
        control->failures++;
        errno = ENOSPC;
        return leave(-1);
    }
    if (growth) changes(node, fd, (uint64_t)found.st_size, growth, (uint64_t)found.st_size);
    int result = (int)syscall(SYS_fallocate, fd, mode, offset, length);
    if (!result && growth) node->size += growth;
    return leave(result);
}
int fallocate(int fd, int mode, off_t offset, off_t length) { return fallocate64(fd, mode, offset, length); }
int posix_fallocate64(int fd, off64_t offset, off64_t length) { return fallocate64(fd, 0, offset, length) ? errno : 0; }
int posix_fallocate(int fd, off_t offset, off_t length) { return posix_fallocate64(fd, offset, length); }

void *mmap64(void *start, size_t length, int protection, int flags, int fd, off64_t offset) {
    if (is_ours(fd) && flags & MAP_SHARED && protection & PROT_WRITE) {
        struct stat found;
        struct node *node = enter(fd, &found);
        if (node) {
            size_t end = strlen(node->path);
            if (end < 4 || strcmp(node->path + end - 4, "-shm")) note("mapped", node->path);
            leave(0);
        }
    }
    return (void *)syscall(SYS_mmap, start, length, protection, flags, fd, offset);
}
void *mmap(void *start, size_t length, int protection, int flags, int fd, off_t offset) {
    return mmap64(start, length, protection, flags, fd, offset);
}

/* ---- fsync ---- */

static int is_ignored(const struct node *node) {
    const char *part = ignored, *end;
    for (; part && !node->is_folder && (end = strchr(part, ',')); part = end + 1) {
        char text[256];
        snprintf(text, sizeof text, "%.*s", (int)(end - part), part);
        if (strstr(node->path, text)) return 1;
    }
    return 0;
}

static int syncs(int fd, long number) {
    struct stat found;
    struct node *node = enter(fd, &found);
    if (!node) return (int)syscall(number, fd);
    operation("fsync", node->path);
    if (fails(&control->sync_fails, control->sync_errno, node->path)) return leave(-1);
    uint64_t seq = sequence;
    int does = !is_ignored(node);
    useconds_t micros = (useconds_t)control->fsync_micros;
    pthread_mutex_unlock(&mutex);
    if (micros) usleep(micros);
    pthread_mutex_lock(&mutex);
    if (does) settle(node, seq);
    return leave(0);
}

int fsync(int fd) { return syncs(fd, SYS_fsync); }
int fdatasync(int fd) { return syncs(fd, SYS_fdatasync); }
int sync_file_range(int fd, off64_t offset, off64_t length, unsigned flags) {
    /* Promises nothing after a power cut. */
    return is_ours(fd) ? 0 : (int)syscall(SYS_sync_file_range, fd, offset, length, flags);
}

/* ---- names ---- */

static int renames(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    char a[PATH_MAX], b[PATH_MAX];
    int below_a = resolve(from_at, from, a), below_b = resolve(to_at, to, b);
    if (!below_a || !below_b) {
        if (below_a || below_b) note("crosses the edge:", from);
        return (int)syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    }
    pthread_mutex_lock(&mutex);
    operation("rename", b);
    struct stat moved, victim = {0};
    if (lstat(a, &moved)) return leave(-1);
    if (flags & RENAME_EXCHANGE) note("exchanged", a);
    if (!lstat(b, &victim) && S_ISREG(victim.st_mode)) pin(b, victim.st_ino);
    int result = (int)syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, flags);
    if (!result && moved.st_ino != victim.st_ino) {
        know(&moved, b);
        uint64_t seq = ++sequence;
        names(seq, folder_of(a), name_of(a), moved.st_ino, 0);
        names(seq, folder_of(b), name_of(b), victim.st_ino, moved.st_ino);
    }
    return leave(result);
}

int rename(const char *from, const char *to) { return renames(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return renames(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return renames(a, from, b, to, flags); }

int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
    char a[PATH_MAX], b[PATH_MAX];
    int below_a = resolve(from_at, from, a), below_b = resolve(to_at, to, b);
    if (!below_a || !below_b) {
        if (below_a || below_b) note("crosses the edge:", from);
        return (int)syscall(SYS_linkat, from_at, from, to_at, to, flags);
    }
    pthread_mutex_lock(&mutex);
    operation("link", b);
    struct stat found;
    if (is_full(b) || stat(a, &found)) return leave(-1);
    int result = (int)syscall(SYS_linkat, AT_FDCWD, a, AT_FDCWD, b, flags);
    if (!result) {
        know(&found, b);
        names(++sequence, folder_of(b), name_of(b), 0, found.st_ino);
    }
    return leave(result);
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

/* A removed folder is moved away, so that its number is not given to another. */
static int removes_folder(const char *whole, uint64_t ino) {
    DIR *folder = opendir(whole);
    if (!folder) return -1;
    int entries = 0;
    while (readdir(folder)) entries++;
    closedir(folder);
    if (entries > 2) { errno = ENOTEMPTY; return -1; }
    char path[PATH_MAX + 32];
    pin_path(path, ino);
    return (int)syscall(SYS_renameat, AT_FDCWD, whole, AT_FDCWD, path);
}

int unlinkat(int at, const char *path, int flags) {
    char whole[PATH_MAX];
    if (!resolve(at, path, whole)) return (int)syscall(SYS_unlinkat, at, path, flags);
    pthread_mutex_lock(&mutex);
    operation("remove", whole);
    struct stat found;
    if (lstat(whole, &found)) return leave(-1);
    uint64_t folder = folder_of(whole);
    int result;
    if (flags & AT_REMOVEDIR) {
        result = removes_folder(whole, found.st_ino);
    } else {
        if (S_ISREG(found.st_mode)) pin(whole, found.st_ino);
        result = (int)syscall(SYS_unlinkat, AT_FDCWD, whole, flags);
    }
    if (!result) names(++sequence, folder, name_of(whole), found.st_ino, 0);
    return leave(result);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
    struct stat found;
    return unlinkat(AT_FDCWD, path, !lstat(path, &found) && S_ISDIR(found.st_mode) ? AT_REMOVEDIR : 0);
}

int mkdirat(int at, const char *path, mode_t mode) {
    char whole[PATH_MAX];
    if (!resolve(at, path, whole)) return (int)syscall(SYS_mkdirat, at, path, mode);
    pthread_mutex_lock(&mutex);
    operation("make folder", whole);
    if (is_full(whole)) return leave(-1);
    int result = (int)syscall(SYS_mkdirat, AT_FDCWD, whole, mode);
    struct stat found;
    if (!result && !stat(whole, &found)) {
        know(&found, whole);
        names(++sequence, folder_of(whole), name_of(whole), 0, found.st_ino);
    }
    return leave(result);
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* ---- start ---- */

static void in_child(void) { is_on = 0; }

__attribute__((constructor)) static void start(void) {
    const char *folder = getenv("DISK_ROOT"), *beside = getenv("DISK_STATE");
    struct stat found;
    if (!folder || !beside || !realpath(folder, root) || !realpath(beside, state)) return;
    root_length = strlen(root);
    ignored = getenv("DISK_IGNORE");
    char path[PATH_MAX + 32];
    snprintf(path, sizeof path, "%s/control", state);
    int fd = sys_open(path, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0 || stat(root, &found)) return;
    device = found.st_dev;
    control = (void *)syscall(SYS_mmap, NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0L);
    syscall(SYS_close, fd);
    if (control == MAP_FAILED) return;
    nftw(root, walk, 32, FTW_PHYS);
    pthread_atfork(NULL, NULL, in_child);
    is_on = 1;
}
