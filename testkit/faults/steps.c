/* Does what its arguments say, one step each, in the folder it is started in, and ends with the number of the
   first step that failed. A step is a word and its operands with colons between. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int step(char *text) {
    char *word = strtok(text, ":"), *a = strtok(NULL, ":"), *b = strtok(NULL, ":");
    int folder = !strcmp(word, "sync-folder"), flags = folder ? O_RDONLY : O_RDWR;
    if (!strcmp(word, "mkdir")) return mkdir(a, 0700);
    if (!strcmp(word, "rmdir")) return rmdir(a);
    if (!strcmp(word, "rename")) return rename(a, b);
    if (!strcmp(word, "link")) return link(a, b);
    if (!strcmp(word, "unlink")) return unlink(a);
    if (!strcmp(word, "create")) flags |= O_CREAT | O_EXCL;
    if (!strcmp(word, "empty")) flags |= O_TRUNC;
    int fd = open(a, flags, 0600), result = fd < 0 ? -1 : 0;
    if (fd < 0) return -1;
    if (!strcmp(word, "append")) {
        lseek(fd, 0, SEEK_END);
        result = write(fd, b, strlen(b)) == (ssize_t)strlen(b) ? 0 : -1;
    } else if (!strcmp(word, "over")) {
        result = pwrite(fd, b, strlen(b), 0) == (ssize_t)strlen(b) ? 0 : -1;
    } else if (!strcmp(word, "fill")) {
        char block[512];
        memset(block, 'x', sizeof block);
        for (int count = atoi(b); count > 0 && !result; count--)
            result = write(fd, block, sizeof block) == sizeof block ? 0 : -1;
    } else if (!strcmp(word, "cut")) {
        result = ftruncate(fd, atoi(b));
    } else if (!strcmp(word, "sync") || folder) {
        result = fsync(fd);
    }
    close(fd);
    return result;
}

int main(int count, char **arguments) {
    for (int index = 1; index < count; index++)
        if (step(arguments[index])) return index;
    return 0;
}
