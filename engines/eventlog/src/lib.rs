//! A partitioned, durable log: records are appended to topics and read in order by any number of consumers, each
//! at its own pace. What is acknowledged is on disk: everything that waits shares one write and one sync.
//!
//! Files hold Kafka record batches, so a Kafka client can be served from them as they are. It is not replicated,
//! it compacts nothing, and it speaks no protocol of its own.
//!
//! Start at [`EventLog::open`], then [`EventLog::topic`] and [`Topic::append`]. `core` holds the format and the
//! decisions, without files or clocks; `writer` is the one thread that writes; `partition` reads.

mod config;
mod core;
mod error;
mod files;
mod groups;
mod metrics;
mod partition;
mod record;
mod store;
#[cfg(test)]
mod tests;
mod topic;
mod writer;

pub use config::Config;
pub use error::Error;
pub use groups::{Group, Position};
pub use record::{Fetched, Record, RecordView, Stored};
pub use topic::Topic;

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use base::{Base, OrganisationId};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::files::{Files, Lock};
use crate::groups::{Key, Positions};
use crate::metrics::Metrics;
use crate::writer::{Request, Thread, Writer};

/// The log of one folder; cloning it is cheap. It ends with its last handle, at shutdown, or by [`EventLog::close`].
#[derive(Clone)]
pub struct EventLog(Arc<Inner>);

struct Inner {
    config: Config,
    files: Files,
    queue: mpsc::Sender<Request>,
    /// Bytes that may still be queued.
    room: Arc<Semaphore>,
    topics: RwLock<store::Topics>,
    /// Held while a topic is made.
    making: Mutex<()>,
    positions: Positions,
    /// Closes when the writer's thread ended.
    ended: watch::Receiver<()>,
}

/// A process that is just ending gets so long to let go of the folder.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

impl EventLog {
    /// Opens the folder or makes it: takes its lock, cuts what a crash tore, and starts the writer.
    pub async fn open(config: Config, base: &Base) -> Result<Self, Error> {
        Self::open_on(Files::system(config.fsync_delay), config, base).await
    }

    async fn open_on(files: Files, config: Config, base: &Base) -> Result<Self, Error> {
        config.check()?;
        let lock = lock(&files, &config, base).await?;
        let (topics, groups) = blocking({
            let (files, config) = (files.clone(), config.clone());
            move || store::open(&files, &config)
        })
        .await?;
        let (queue, receiver) = mpsc::channel(config.append_queue_max);
        let positions = groups.positions();
        let writer = Writer {
            config: config.clone(),
            files: files.clone(),
            groups,
            metrics: Metrics::register(&base.metrics),
            clock: base.clock.clone(),
            open: HashMap::new(),
            buffer: Vec::new(),
        };
        let tasks = base.tasks.clone();
        let ended = start(Thread { queue: receiver, tasks, writer, lock }, base)?;
        // An append of the largest size must fit at some time.
        let room = config.append_queue_bytes_max.max(config.group_bytes_max);
        Ok(Self(Arc::new(Inner {
            config,
            files,
            queue,
            room: Arc::new(Semaphore::new(room)),
            topics: RwLock::new(topics),
            making: Mutex::new(()),
            positions,
            ended,
        })))
    }

    /// Opens a topic of an organisation, and makes it durably if it is missing.
    pub async fn topic(&self, organisation: OrganisationId, name: &str) -> Result<Topic, Error> {
        store::check_topic_name(name)?;
        if let Some(parts) = self.0.parts(organisation, name) {
            return Ok(Topic { log: self.0.clone(), parts });
        }
        if self.0.queue.is_closed() {
            return Err(Error::Closed);
        }
        let (log, name) = (self.0.clone(), name.to_owned());
        let parts = blocking(move || log.make_topic(organisation, &name)).await?;
        Ok(Topic { log: self.0.clone(), parts })
    }

    /// The names of an organisation's topics, sorted.
    pub fn topics(&self, organisation: OrganisationId) -> Vec<String> {
        let topics = self.0.topics.read();
        topics.get(&organisation).map(|topics| topics.keys().cloned().collect()).unwrap_or_default()
    }

    /// Stores how far a group has read a topic of its organisation. It is on disk when this returns.
    pub async fn commit(&self, group: &Group, position: Position) -> Result<(), Error> {
        group.check()?;
        let Position { topic, partition, offset } = position;
        let parts = self.0.parts(group.organisation, &topic);
        parts.ok_or_else(|| Error::UnknownTopic(topic.clone()))?.partition(partition)?;
        let key = key(group, topic, partition);
        let (answer, answered) = oneshot::channel();
        self.0.send(Request::Commit { key, offset, answer }).await?;
        answered.await.map_err(|_| Error::Closed)?
    }

    /// What the group committed last.
    pub fn committed(&self, group: &Group, topic: &str, partition: u32) -> Option<u64> {
        let key = key(group, topic.to_owned(), partition);
        self.0.positions.read().get(&key).copied()
    }

    /// Ends the writer after everything that was accepted, and waits until the folder is free. Reads go on.
    pub async fn close(&self) {
        // A refusal says that it is closed already.
        drop(self.0.send(Request::Close).await);
        let mut ended = self.0.ended.clone();
        // Nothing is ever sent: the error is the end.
        while ended.changed().await.is_ok() {}
    }
}

impl Inner {
    fn parts(&self, organisation: OrganisationId, name: &str) -> Option<Arc<topic::Parts>> {
        self.topics.read().get(&organisation)?.get(name).cloned()
    }

    /// Blocks on the disk.
    fn make_topic(
        &self,
        organisation: OrganisationId,
        name: &str,
    ) -> Result<Arc<topic::Parts>, Error> {
        let _making = self.making.lock();
        if let Some(parts) = self.parts(organisation, name) {
            return Ok(parts);
        }
        let max = self.config.topics_max;
        if self.topics.read().values().map(BTreeMap::len).sum::<usize>() >= max {
            return Err(Error::TooMany { what: "topics", max });
        }
        let made = store::create_topic(&self.files, &self.config, organisation, name)?;
        let parts = Arc::new(made);
        let mut topics = self.topics.write();
        topics.entry(organisation).or_default().insert(name.to_owned(), parts.clone());
        Ok(parts)
    }
}

fn key(group: &Group, topic: String, partition: u32) -> Key {
    Key { organisation: group.organisation, group: group.name.clone(), topic, partition }
}

/// Starts the writer's thread, and a task that lasts as long and passes a panic on to whoever counts them.
fn start(thread: Thread, base: &Base) -> Result<watch::Receiver<()>, Error> {
    let dir = thread.writer.config.dir.clone();
    let (end, ended) = watch::channel(());
    let (done, finished) = oneshot::channel();
    std::thread::Builder::new()
        .name("eventlog".to_owned())
        .spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| thread.run()));
            // The task is gone when the runtime is.
            drop(done.send(outcome));
            drop(end);
        })
        .map_err(Error::io("start the writer of", &dir))?;
    base.tasks.spawn("eventlog", async move {
        if let Ok(Err(panic)) = finished.await {
            resume_unwind(panic);
        }
    });
    Ok(ended)
}

async fn lock(files: &Files, config: &Config, base: &Base) -> Result<Lock, Error> {
    let mut waited = Duration::ZERO;
    loop {
        let (here, dir) = (files.clone(), config.dir.clone());
        if let Some(lock) = blocking(move || store::lock(&here, &dir)).await? {
            return Ok(lock);
        }
        if waited >= LOCK_WAIT {
            return Err(store::in_use(files, &config.dir));
        }
        base.clock.sleep(LOCK_PAUSE).await;
        waited += LOCK_PAUSE;
    }
}

/// Runs what waits for the disk where it holds nobody up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    // It is not cancelled and does not panic, unless the runtime is going down.
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Closed)?
}
