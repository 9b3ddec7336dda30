use std::collections::HashSet;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions,
    Result, UploadPart,
};
use parking_lot::Mutex;

/// Files on this machine's disk that survive a power cut once a write has returned: the stock store
/// never calls fsync.
#[derive(Debug, Clone)]
pub(crate) struct DurableFiles {
    inner: Arc<LocalFileSystem>,
    sync: Arc<Sync>,
}

/// Does and counts the fsyncs.
#[derive(Debug)]
pub(crate) struct Sync {
    /// Folders above it were there before the lake and are not synced.
    root: PathBuf,
    pub(crate) files: AtomicU64,
    pub(crate) folders: AtomicU64,
    /// Folders whose own name is known to be on disk.
    known: Mutex<HashSet<PathBuf>>,
    /// The first failed fsync: what the kernel still held may be lost, so nothing more is acknowledged.
    broken: Mutex<Option<String>>,
    staged: AtomicU64,
}

/// Forgotten folders are merely synced once more.
const KNOWN_MAX: usize = 10_000;

impl DurableFiles {
    pub(crate) fn new(root: &FsPath) -> Self {
        Self {
            inner: Arc::new(LocalFileSystem::new()),
            sync: Arc::new(Sync {
                root: root.to_path_buf(),
                files: AtomicU64::new(0),
                folders: AtomicU64::new(0),
                known: Mutex::new(HashSet::new()),
                broken: Mutex::new(None),
                staged: AtomicU64::new(0),
            }),
        }
    }

    pub(crate) fn sync(&self) -> Arc<Sync> {
        self.sync.clone()
    }

    async fn sync_after(&self, location: &Path) -> Result<()> {
        let path = self.inner.path_to_filesystem(location)?;
        let sync = self.sync.clone();
        blocking(move || sync.file(&path)).await
    }
}

impl Sync {
    pub(crate) fn broken(&self) -> Option<String> {
        self.broken.lock().clone()
    }

    /// As if an fsync had failed.
    #[cfg(test)]
    pub(crate) fn fail(&self, text: &str) {
        *self.broken.lock() = Some(text.to_owned());
    }

    /// Writes beside the target, syncs, and only then gives the name: a name never stands for half a file.
    fn put(&self, path: &FsPath, payload: &PutPayload, mode: &PutMode) -> Result<()> {
        self.create_folder(path)?;
        let (mut file, staged) = self.stage(path)?;
        let named = payload
            .iter()
            .try_for_each(|part| file.write_all(part))
            .map_err(|error| failed(path, &error))
            .and_then(|()| self.synced(path, file.sync_all()))
            .and_then(|()| match mode {
                PutMode::Create => std::fs::hard_link(&staged, path).map_err(|error| {
                    if error.kind() == ErrorKind::AlreadyExists {
                        let path = path.display().to_string();
                        return Error::AlreadyExists { path, source: error.into() };
                    }
                    failed(path, &error)
                }),
                _ => std::fs::rename(&staged, path).map_err(|error| failed(path, &error)),
            });
        if *mode == PutMode::Create || named.is_err() {
            // The stock store ignores names of this form, so one left behind does no harm.
            let _ = std::fs::remove_file(&staged);
        }
        named?;
        self.files.fetch_add(1, Ordering::Relaxed);
        self.folders(path)
    }

    fn stage(&self, path: &FsPath) -> Result<(File, PathBuf)> {
        loop {
            let number = self.staged.fetch_add(1, Ordering::Relaxed);
            let mut name = path.as_os_str().to_owned();
            name.push(format!("#{number}"));
            let staged = PathBuf::from(name);
            match OpenOptions::new().write(true).create_new(true).open(&staged) {
                Ok(file) => return Ok((file, staged)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(path, &error)),
            }
        }
    }

    fn create_folder(&self, path: &FsPath) -> Result<()> {
        let Some(folder) = path.parent() else { return Ok(()) };
        if self.known.lock().contains(folder) {
            return Ok(());
        }
        std::fs::create_dir_all(folder).map_err(|error| failed(folder, &error))
    }

    fn file(&self, path: &FsPath) -> Result<()> {
        let file = File::open(path).map_err(|error| failed(path, &error))?;
        self.synced(path, file.sync_all())?;
        self.files.fetch_add(1, Ordering::Relaxed);
        self.folders(path)
    }

    /// Syncs the folder of `path`, and every folder above it that may be new.
    fn folders(&self, path: &FsPath) -> Result<()> {
        let mut synced = Vec::new();
        for folder in path.ancestors().skip(1) {
            if !folder.starts_with(&self.root) {
                break;
            }
            let handle = File::open(folder).map_err(|error| failed(folder, &error))?;
            self.synced(folder, handle.sync_all())?;
            self.folders.fetch_add(1, Ordering::Relaxed);
            if self.known.lock().contains(folder) {
                break;
            }
            synced.push(folder.to_path_buf());
        }
        let mut known = self.known.lock();
        if known.len() + synced.len() > KNOWN_MAX {
            known.clear();
        }
        known.extend(synced);
        Ok(())
    }

    fn synced(&self, path: &FsPath, result: std::io::Result<()>) -> Result<()> {
        result.map_err(|error| {
            let text = format!("fsync of {} failed: {error}", path.display());
            self.broken.lock().get_or_insert(text);
            failed(path, &error)
        })
    }
}

fn failed(path: &FsPath, error: &std::io::Error) -> Error {
    let context = std::io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    Error::Generic { store: "lake", source: Box::new(context) }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(source) => Err(Error::Generic { store: "lake", source: Box::new(source) }),
    }
}

impl fmt::Display for DurableFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DurableFiles({})", self.sync.root.display())
    }
}

#[async_trait]
impl ObjectStore for DurableFiles {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        if matches!(options.mode, PutMode::Update(_)) || !options.attributes.is_empty() {
            return self.inner.put_opts(location, payload, options).await;
        }
        let path = self.inner.path_to_filesystem(location)?;
        let sync = self.sync.clone();
        blocking(move || sync.put(&path, &payload, &options.mode)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(DurableUpload { upload, files: self.clone(), location: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.sync_after(to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await?;
        self.sync_after(to).await
    }
}

/// Data files come this way; Delta names them in a commit only after they are complete.
#[derive(Debug)]
struct DurableUpload {
    upload: Box<dyn MultipartUpload>,
    files: DurableFiles,
    location: Path,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.upload.complete().await?;
        self.files.sync_after(&self.location).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    struct Place {
        files: DurableFiles,
        sync: Arc<Sync>,
        root: Path,
        _folder: tempfile::TempDir,
    }

    fn place() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let files = DurableFiles::new(folder.path());
        let root = Path::from_absolute_path(folder.path()).unwrap();
        Place { sync: files.sync(), files, root, _folder: folder }
    }

    impl Place {
        /// File and folder syncs since the last time.
        fn counts(&self) -> (u64, u64) {
            (
                self.sync.files.swap(0, Ordering::Relaxed),
                self.sync.folders.swap(0, Ordering::Relaxed),
            )
        }
    }

    #[tokio::test]
    async fn every_way_of_writing_syncs_the_file_and_its_folders() {
        let place = place();
        let (a, b, c) = ("x/y/a", "x/y/b", "x/y/c");
        let at = |name: &str| Path::parse(format!("{}/{name}", place.root)).unwrap();
        place.files.put(&at(a), "1".into()).await.unwrap();
        assert_eq!(place.counts(), (1, 3), "the file, two new folders and the one above them");
        place.files.put(&at(a), "2".into()).await.unwrap();
        assert_eq!(place.counts(), (1, 1), "the folder is known by now");
        place.files.copy(&at(a), &at(b)).await.unwrap();
        assert_eq!(place.counts(), (1, 1));
        place.files.rename_if_not_exists(&at(b), &at(c)).await.unwrap();
        assert_eq!(place.counts(), (1, 1));
        let mut upload = place.files.put_multipart(&at("x/z/d")).await.unwrap();
        upload.put_part("3".into()).await.unwrap();
        assert_eq!(place.counts(), (0, 0), "nothing is claimed before it is complete");
        upload.complete().await.unwrap();
        assert_eq!(place.counts(), (1, 2), "the file, its new folder, the known one above it");
        let text = place.files.get(&at(c)).await.unwrap().bytes().await.unwrap();
        assert_eq!(text, "2");
    }

    #[tokio::test]
    async fn a_name_is_given_only_once() {
        let place = place();
        let at = Path::parse(format!("{}/log/0.json", place.root)).unwrap();
        let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        place.files.put_opts(&at, "first".into(), create()).await.unwrap();
        let second = place.files.put_opts(&at, "second".into(), create()).await;
        assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
        let text = place.files.get(&at).await.unwrap().bytes().await.unwrap();
        assert_eq!(text, "first");
        let folder = place.files.inner.path_to_filesystem(&at).unwrap();
        let names = std::fs::read_dir(folder.parent().unwrap()).unwrap().count();
        assert_eq!(names, 1, "nothing staged is left behind");
    }

    #[tokio::test]
    async fn a_failed_fsync_is_remembered() {
        let place = place();
        let broken = std::io::Error::other("the disk is gone");
        assert!(place.sync.synced(FsPath::new("a"), Err(broken)).is_err());
        assert!(place.sync.broken().unwrap().contains("the disk is gone"));
    }
}
