//! A log on a disk, what is done to both, and what must come of it.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Base, OrganisationId, Timestamp};
use bytes::Bytes;
use testkit::sim::{self, Odds, Sim};
use tokio::sync::{Semaphore, oneshot};

use super::model::Model;
use crate::config::Config;
use crate::files::{Disk, DiskFile, Files, Lock};
use crate::groups::{Key, Positions};
use crate::metrics::Metrics;
use crate::partition::Partition;
use crate::store;
use crate::writer::{Append, Payload, Request, Writer};
use crate::{Error, Record, Stored};

const ORGANISATION: OrganisationId = OrganisationId::DEFAULT;
const TOPICS: [&str; 3] = ["alerts", "readings", "spares"];
const GROUPS: [&str; 2] = ["lake", "rules"];

/// What the disk does of its own accord, and says.
const BROKEN: &[&str] =
    &["write failed", "fsync failed", "folder fsync failed", "remove failed", "read failed"];
const FULL: &[&str] = &["disk full", "fsync found no room", "folder fsync found no room"];

/// A full disk that can refuse to take back as well what it had no room for.
const STUCK: &[&str] = &["fsync found no room", "folder fsync found no room"];

pub(super) struct World<'a> {
    sim: &'a Sim,
    disk: sim::Disk,
    files: Files,
    config: Config,
    metrics: Metrics,
    base: Base,
    model: Model,
    log: Option<Log>,
    appends: u64,
    /// Whether sealed segments rot in this history.
    rots: bool,
    /// What the disk had done when this life began.
    broken: u64,
}

struct Log {
    topics: Vec<(String, Vec<Arc<Partition>>)>,
    positions: Positions,
    writer: Writer,
}

/// What is expected of one request.
enum Asked {
    Append { lane: (String, u32), append: u64, answer: oneshot::Receiver<Result<u64, Error>> },
    Commit { key: Key, offset: u64, answer: oneshot::Receiver<Result<(), Error>> },
    Trim { lane: (String, u32), answer: oneshot::Receiver<Result<u64, Error>> },
}

impl<'a> World<'a> {
    pub(super) fn new(sim: &'a Sim) -> Self {
        let disk = sim::Disk::new(sim);
        let config = Config {
            dir: PathBuf::from("/var/log"),
            segment_bytes: sim.between(500, 6_000),
            partitions: u32::try_from(sim.between(1, 2)).unwrap(),
            batch_bytes_max: sim.index(3_000) + 100,
            group_bytes_max: sim.index(20_000) + 9_000,
            index_interval_bytes: sim.between(1, 2_000),
            open_files_max: sim.index(4) + 1,
            group_rewrite_records_min: sim.between(3, 12),
            ..Config::default()
        };
        let base = Base::simulated(Timestamp::from_millis(0), sim.seed());
        // The folder above was there before.
        disk.create_folder(Path::new("/var")).unwrap();
        disk.sync_folder(Path::new("/")).unwrap();
        Self {
            sim,
            files: Files::on(disk.clone()),
            disk,
            config,
            metrics: Metrics::register(&base.metrics),
            base,
            model: Model::default(),
            log: None,
            appends: 0,
            rots: sim.one_in(4),
            broken: 0,
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.disk.is_off()
    }

    fn struck(&self, kinds: &[&str]) -> u64 {
        kinds.iter().map(|kind| self.sim.counted(kind)).sum()
    }

    /// Opens the folder on a disk that may fail; says whether it is open.
    pub(super) fn open(&mut self) -> Result<bool, String> {
        let mut all_odds = Odds::default();
        if self.sim.one_in(3) {
            let odds = |sim: &Sim| if sim.one_in(3) { sim.between(3, 20) } else { 0 };
            all_odds = Odds {
                write_fails: odds(self.sim),
                fsync_fails: odds(self.sim),
                fsync_is_full: odds(self.sim),
                folder_fsync_fails: odds(self.sim),
                folder_fsync_is_full: odds(self.sim),
                remove_fails: odds(self.sim),
                read_fails: if self.sim.one_in(3) { self.sim.between(5, 40) } else { 0 },
            };
        }
        self.disk.set_odds(all_odds);
        if self.sim.one_in(2) && !self.sim.spares("operation cut short") {
            self.disk.stop_at(self.sim.between(1, 40));
        }
        let faults = self.struck(BROKEN) + self.struck(FULL);
        self.broken = self.struck(BROKEN) + self.struck(STUCK);
        let opened = self.try_open();
        let is_excused = self.is_off() || self.struck(BROKEN) + self.struck(FULL) > faults;
        match opened {
            Ok(log) => self.log = Some(log),
            Err(error) if is_excused => {
                self.sim.note(format_args!("it does not open: {error}"));
                return Ok(false);
            }
            Err(error) => return Err(format!("it does not open: {error}")),
        }
        // Whatever is there is compared, so that from here on everything is known.
        self.disk.set_odds(Odds::default());
        self.survived()?;
        self.disk.set_odds(all_odds);
        Ok(true)
    }

    fn try_open(&self) -> Result<Log, Error> {
        self.sim.note(format_args!("open"));
        drop(store::lock(&self.files, &self.config.dir)?);
        let (topics, groups) = store::open(&self.files, &self.config)?;
        let topics = topics.get(&ORGANISATION).into_iter().flatten();
        let topics = topics.map(|(name, parts)| (name.clone(), parts.partitions.clone()));
        Ok(Log {
            topics: topics.collect(),
            positions: groups.positions(),
            writer: Writer {
                config: self.config.clone(),
                files: self.files.clone(),
                groups,
                metrics: self.metrics.clone(),
                clock: self.base.clock.clone(),
                open: HashMap::new(),
                buffer: Vec::new(),
            },
        })
    }

    /// Compares everything that a start finds with the model.
    fn survived(&mut self) -> Result<(), String> {
        let Some(log) = &self.log else { return Ok(()) };
        if self.is_off() {
            return Ok(());
        }
        for (topic, is_told) in &self.model.topics {
            if *is_told && !log.topics.iter().any(|(name, _)| name == topic) {
                return Err(format!("topic {topic} is lost"));
            }
        }
        for (topic, partitions) in &log.topics {
            if self.model.topics.insert(topic.clone(), true).is_none() {
                return Err(format!("topic {topic} was made by nobody"));
            }
            if partitions.len() != self.config.partitions as usize {
                return Err(format!("topic {topic} has {} partitions", partitions.len()));
            }
            for (number, partition) in (0..).zip(partitions) {
                let lane = self.model.lanes.entry((topic.clone(), number)).or_default();
                let (start, end) = range(partition);
                let (stored, flaw) = everything(self.sim, partition, start, end);
                if let Some(error) = flaw.filter(|_| !lane.is_rotten) {
                    return Err(format!("{topic}/{number} is not read: {error}"));
                }
                self.sim.count_many("records read again", stored.len() as u64);
                self.sim.note(format_args!("{topic}/{number} is {start}..{end}"));
                lane.survived(start, end, &stored)
                    .map_err(|it| format!("{topic}/{number}: {it}"))?;
            }
        }
        let positions = log.positions.read();
        if let Some(key) = positions.keys().find(|key| !self.model.commits.contains_key(*key)) {
            return Err(format!("the position of {key:?} was committed by nobody"));
        }
        for (key, commits) in &mut self.model.commits {
            let found = positions.get(key).copied();
            commits.survived(found).map_err(|it| format!("the position of {key:?}: {it}"))?;
        }
        Ok(())
    }

    /// Does something, chosen by chance.
    pub(super) fn step(&mut self) -> Result<(), String> {
        match self.sim.below(20) {
            0..=11 => self.request(),
            12..=13 => self.make_topic(),
            14..=16 => self.read(),
            17 => {
                if self.rots {
                    self.rot()
                } else {
                    Ok(())
                }
            }
            _ => {
                let room = self.sim.one_in(2).then(|| self.sim.below(3_000));
                let room = room.filter(|_| !self.sim.spares("disk full"));
                self.sim.note(format_args!("room for {room:?}"));
                self.disk.limit_room(room);
                Ok(())
            }
        }
    }

    fn make_topic(&mut self) -> Result<(), String> {
        let name = TOPICS[self.sim.index(TOPICS.len())];
        let Some(log) = &mut self.log else { return Ok(()) };
        if log.topics.iter().any(|(known, _)| known == name) {
            return Ok(());
        }
        self.model.topics.entry(name.to_owned()).or_default();
        let faults = self.struck(BROKEN) + self.struck(FULL);
        let made = store::create_topic(&self.files, &self.config, ORGANISATION, name);
        let is_excused = self.is_off() || self.struck(BROKEN) + self.struck(FULL) > faults;
        let Some(log) = &mut self.log else { return Ok(()) };
        match made {
            Ok(parts) => {
                self.sim.note(format_args!("made {name}"));
                for number in 0..parts.count() {
                    self.model.lanes.entry((name.to_owned(), number)).or_default();
                }
                log.topics.push((name.to_owned(), parts.partitions));
                self.model.topics.insert(name.to_owned(), true);
                Ok(())
            }
            Err(error) if is_excused => {
                self.sim.note(format_args!("{name} is not made: {error}"));
                Ok(())
            }
            Err(error) => Err(format!("{name} is not made: {error}")),
        }
    }

    /// Hands some requests to the writer at once.
    fn request(&mut self) -> Result<(), String> {
        let (mut requests, mut asked) = (Vec::new(), Vec::new());
        for _ in 0..self.sim.between(1, 6) {
            let Some((lane, partition)) = self.any_partition() else { return Ok(()) };
            let (request, expected) = match self.sim.below(12) {
                0..=7 => self.append(lane, partition),
                8..=10 => self.commit(lane.0, lane.1),
                _ => self.trim(lane, partition),
            };
            requests.push(request);
            asked.push(expected);
        }
        let Some(log) = &mut self.log else { return Ok(()) };
        let (full, segments) = (kinds(self.sim, FULL), log.segments());
        let rewritten = position_files(&self.files, &self.config);
        log.writer.serve(requests.into_iter());
        let after = log.segments();
        self.sim.count_many("records sealed", after.1.saturating_sub(segments.1));
        self.sim.count_many("records trimmed", after.0.saturating_sub(segments.0));
        let is_new = position_files(&self.files, &self.config) != rewritten;
        self.sim.count_many("positions rewritten", u64::from(is_new && !self.disk.is_off()));
        let is_full = kinds(self.sim, FULL) > full;
        for asked in asked {
            self.answered(asked, is_full)?;
        }
        self.positions_are_as_told()
    }

    fn any_partition(&self) -> Option<((String, u32), Arc<Partition>)> {
        let log = self.log.as_ref()?;
        if log.topics.is_empty() {
            return None;
        }
        let (name, partitions) = &log.topics[self.sim.index(log.topics.len())];
        let number = self.sim.index(partitions.len());
        let lane = (name.clone(), u32::try_from(number).unwrap());
        Some((lane, partitions[number].clone()))
    }

    fn append(&mut self, lane: (String, u32), partition: Arc<Partition>) -> (Request, Asked) {
        self.appends += 1;
        let append = self.appends;
        let records: Vec<Record> =
            (0..self.sim.between(1, 4)).map(|place| self.record(append, place)).collect();
        let bytes = records.iter().map(Record::encoded_bytes_max).sum();
        let model = self.model.lanes.get_mut(&lane).expect("the lane was made with its topic");
        model.appends.insert(append, records.clone());
        let wanted = u32::try_from(bytes).unwrap();
        let room = Arc::new(Semaphore::new(bytes)).try_acquire_many_owned(wanted).unwrap();
        let (sender, answer) = oneshot::channel();
        let payload = Payload::Records(records);
        let request = Append { partition, payload, bytes, answer: sender, room };
        (Request::Append(request), Asked::Append { lane, append, answer })
    }

    fn record(&self, append: u64, place: u64) -> Record {
        let bytes = if self.sim.one_in(4) { self.sim.index(2_000) } else { self.sim.index(60) };
        // Never a zero, which a lost sector looks like.
        let fill = u8::try_from(append % 250).unwrap() + 1;
        Record {
            timestamp: Timestamp::from_millis(i64::try_from(append).unwrap()),
            key: Some(format!("{append}-{place}").into()),
            value: Bytes::from(vec![fill; bytes]),
            headers: vec![("event-id".to_owned(), Bytes::from_static(b"7"))],
        }
    }

    fn commit(&mut self, topic: String, partition: u32) -> (Request, Asked) {
        let group = GROUPS[self.sim.index(GROUPS.len())].to_owned();
        let key = Key { organisation: ORGANISATION, group, topic, partition };
        let commits = self.model.commits.entry(key.clone()).or_default();
        let last = commits.tried.iter().copied().max().max(commits.acknowledged);
        let offset = last.unwrap_or(0) + self.sim.between(1, 5);
        commits.tried.push(offset);
        let (sender, answer) = oneshot::channel();
        let request = Request::Commit { key: key.clone(), offset, answer: sender };
        (request, Asked::Commit { key, offset, answer })
    }

    fn trim(&mut self, lane: (String, u32), partition: Arc<Partition>) -> (Request, Asked) {
        let end = partition.log.lock().end();
        let before = self.sim.below(end + 2);
        let model = self.model.lanes.get_mut(&lane).expect("the lane was made with its topic");
        model.trim = model.trim.max(before);
        let (sender, answer) = oneshot::channel();
        (Request::Trim { partition, before, answer: sender }, Asked::Trim { lane, answer })
    }

    /// Takes the answer to a request into the model.
    fn answered(&mut self, asked: Asked, is_full: bool) -> Result<(), String> {
        const SILENT: &str = "a request was not answered";
        match asked {
            Asked::Append { lane, append, mut answer } => {
                let answer = answer.try_recv().map_err(|_| SILENT)?;
                self.sim.note(format_args!("append {append} to {lane:?}: {}", said(&answer)));
                let model = self.model.lanes.get_mut(&lane).expect("it was appended to");
                let records = model.appends[&append].len() as u64;
                match answer {
                    Ok(first) => {
                        self.sim.count_many("records acknowledged", records);
                        model.acknowledged(first, append).map_err(|it| format!("{lane:?}: {it}"))
                    }
                    Err(error) => {
                        self.sim.count_many("records refused", records);
                        self.may_be_refused(&error, is_full)
                    }
                }
            }
            Asked::Commit { key, offset, mut answer } => {
                let answer = answer.try_recv().map_err(|_| SILENT)?;
                self.sim.note(format_args!("commit {offset} of {key:?}: {}", said(&answer)));
                if let Err(error) = answer {
                    return self.may_be_refused(&error, is_full);
                }
                let commits = self.model.commits.entry(key).or_default();
                commits.acknowledged = Some(offset);
                // What was tried before it is overtaken; what comes after it in this group is not known yet.
                let at = commits.tried.iter().rposition(|tried| *tried == offset);
                commits.tried.drain(..=at.expect("it was tried"));
                Ok(())
            }
            Asked::Trim { lane, mut answer } => {
                let answer = answer.try_recv().map_err(|_| SILENT)?;
                self.sim.note(format_args!("trim {lane:?}: {}", said(&answer)));
                match answer {
                    Ok(start) => {
                        let model = self.model.lanes.get_mut(&lane).expect("it was trimmed");
                        model.start = start;
                        Ok(())
                    }
                    Err(error) => self.may_be_refused(&error, is_full),
                }
            }
        }
    }

    /// A refusal has a reason: the disk is full now, or it broke in this life.
    fn may_be_refused(&self, error: &Error, is_full: bool) -> Result<(), String> {
        let broken = self.struck(BROKEN) + self.struck(STUCK);
        let is_right = match error {
            Error::Full { .. } => is_full || self.is_off(),
            _ => broken > self.broken || self.is_off(),
        };
        if is_right { Ok(()) } else { Err(format!("refused without a reason: {error}")) }
    }

    fn positions_are_as_told(&self) -> Result<(), String> {
        let Some(log) = &self.log else { return Ok(()) };
        let positions = log.positions.read();
        for (key, commits) in &self.model.commits {
            if positions.get(key).copied() != commits.acknowledged {
                return Err(format!("{key:?} reads as {:?} meanwhile", positions.get(key)));
            }
        }
        Ok(())
    }

    fn read(&mut self) -> Result<(), String> {
        let Some((lane, partition)) = self.any_partition() else { return Ok(()) };
        let (start, end) = range(&partition);
        let from = self.sim.between(start, end);
        let faults = self.sim.counted("read failed");
        let read = partition.read(from, self.sim.index(4_000));
        let model = &self.model.lanes[&lane];
        self.sim.note(format_args!(
            "read {lane:?} from {from}: {}",
            said(&read.as_ref().map(Vec::len))
        ));
        match read {
            Ok(stored) => model.is_as_seen(&stored).map_err(|it| format!("{lane:?}: {it}")),
            Err(Error::Corrupt { .. }) if model.is_rotten => Ok(()),
            Err(_) if self.is_off() || self.sim.counted("read failed") > faults => Ok(()),
            Err(error) => Err(format!("{lane:?} is not read from {from}: {error}")),
        }
    }

    fn rot(&mut self) -> Result<(), String> {
        let Some((lane, partition)) = self.any_partition() else { return Ok(()) };
        let start = partition.log.lock().start();
        if partition.tail().segment > start && !self.is_off() {
            let rotted = self.disk.rot(&partition.segment_path(start));
            rotted.map_err(|error| format!("the first segment of {lane:?}: {error}"))?;
            self.model.lanes.get_mut(&lane).expect("it is there").is_rotten = true;
        }
        Ok(())
    }

    /// Ends a life.
    pub(super) fn end(&mut self) {
        if self.is_off() {
            self.sim.count("operation cut short");
        }
        self.log = None;
        let how = self.sim.below(3);
        if how == 0 && !self.is_off() {
            self.sim.count("clean end");
            self.disk.restart_process();
        } else if how == 1 || self.sim.spares("power cut") {
            self.sim.count("kill");
            self.disk.restart_process();
        } else {
            self.sim.count("power cut");
            self.disk.restart_machine();
        }
        self.sim.note(format_args!("a life ends, {how}: {:016x}", self.disk.fingerprint()));
    }

    /// A sync fails, the process is started again as its message says, and goes on.
    pub(super) fn fails_once_and_goes_on(&mut self) -> Result<(), String> {
        self.log = Some(self.try_open().map_err(|error| error.to_string())?);
        while self.model.topics.is_empty() {
            self.make_topic()?;
        }
        self.disk.set_odds(Odds { fsync_fails: 1, ..Odds::default() });
        self.request()?;
        self.disk.set_odds(Odds::default());
        self.heal()
    }

    /// A folder could not be put on disk, and then it can.
    pub(super) fn makes_a_topic_after_a_failure(&mut self) -> Result<(), String> {
        self.log = Some(self.try_open().map_err(|error| error.to_string())?);
        self.disk.set_odds(Odds { folder_fsync_fails: 2, ..Odds::default() });
        self.make_topic()?;
        self.disk.set_odds(Odds::default());
        while !self.model.topics.values().any(|is_told| *is_told) {
            self.make_topic()?;
        }
        self.disk.restart_machine();
        self.heal()
    }

    /// The first process is killed in the midst of its n-th operation, the second one works until the power goes.
    pub(super) fn is_killed_as_it_begins(&mut self, operation: u64) -> Result<(), String> {
        self.disk.stop_at(operation);
        if let Ok(log) = self.try_open() {
            self.log = Some(log);
            self.make_topic()?;
        }
        self.disk.restart_process();
        self.log = Some(self.try_open().map_err(|error| error.to_string())?);
        while !self.model.topics.values().any(|is_told| *is_told) {
            self.make_topic()?;
        }
        self.heal()
    }

    /// On a sound disk everything works, and stays through a last power cut.
    pub(super) fn heal(&mut self) -> Result<(), String> {
        for is_last in [false, true] {
            self.disk.set_odds(Odds::default());
            self.disk.limit_room(None);
            self.disk.restart_process();
            let opened = self.try_open();
            self.log = Some(opened.map_err(|error| format!("it does not open: {error}"))?);
            self.survived()?;
            if is_last {
                break;
            }
            let lanes: Vec<_> = self.log.iter().flat_map(Log::lanes).collect();
            for (lane, partition) in lanes {
                let (request, asked) = self.append(lane.clone(), partition);
                let (commit, committed) = self.commit(lane.0, lane.1);
                let Some(log) = &mut self.log else { break };
                log.writer.serve([request, commit].into_iter());
                self.broken = self.struck(BROKEN) + self.struck(STUCK);
                self.answered(asked, false)?;
                self.answered(committed, false)?;
            }
            self.log = None;
            self.disk.restart_machine();
        }
        Ok(())
    }
}

impl Log {
    fn lanes(&self) -> Vec<((String, u32), Arc<Partition>)> {
        let lanes = self.topics.iter().flat_map(|(name, partitions)| {
            (0..).zip(partitions).map(|(number, it)| ((name.clone(), number), it.clone()))
        });
        lanes.collect()
    }

    /// The sum of all starts, and of all last segments' bases.
    fn segments(&self) -> (u64, u64) {
        let partitions = self.topics.iter().flat_map(|(_, partitions)| partitions);
        partitions.fold((0, 0), |(starts, lasts), partition| {
            let start = partition.log.lock().start();
            (starts + start, lasts + partition.tail().segment)
        })
    }
}

fn position_files(files: &Files, config: &Config) -> Vec<PathBuf> {
    let mut found = files.list(&config.dir.join("groups")).unwrap_or_default();
    found.sort_unstable();
    found
}

/// Everything that can be read, by as many reads as it takes, and why it stopped early.
fn everything(
    sim: &Sim,
    partition: &Partition,
    start: u64,
    end: u64,
) -> (Vec<Stored>, Option<Error>) {
    let mut all: Vec<Stored> = Vec::new();
    let mut from = start;
    while from < end {
        match partition.read(from, sim.index(4_000)) {
            Ok(stored) => {
                from += stored.len() as u64;
                all.extend(stored);
            }
            Err(error) => return (all, Some(error)),
        }
    }
    (all, None)
}

fn range(partition: &Partition) -> (u64, u64) {
    let log = partition.log.lock();
    (log.start(), log.end())
}

fn kinds(sim: &Sim, kinds: &[&str]) -> u64 {
    kinds.iter().map(|kind| sim.counted(kind)).sum()
}

fn said<T: std::fmt::Debug, E: std::fmt::Display>(result: &Result<T, E>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    }
}

impl Disk for sim::Disk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.create_folder(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.sync_folder(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.list(path)
    }

    fn is_folder(&self, path: &Path) -> bool {
        self.is_folder(path)
    }

    fn exists(&self, path: &Path) -> bool {
        self.exists(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(self.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.remove(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.remove_folder(path)
    }

    fn lock(&self, _: &Path) -> io::Result<Option<Lock>> {
        Ok(Some(Box::new(())))
    }
}

impl DiskFile for sim::DiskFile {
    fn length(&self) -> io::Result<u64> {
        self.length()
    }

    fn read_exact_at(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        self.read_exact_at(buffer, position)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.write_all_at(bytes, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync()
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        self.set_length(bytes)
    }

    fn forget_cache(&self, _: u64) -> io::Result<()> {
        self.forget_cache()
    }
}
