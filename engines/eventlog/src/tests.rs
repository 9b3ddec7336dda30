//! The whole engine, on real files and on a disk that fails.

mod simulated;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{Base, ErrorKind, OrganisationId, Timestamp};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::core::batch::HEADER_BYTES;
use crate::core::batch::tests::batch_of;
use crate::files::Files;
use crate::files::faults::{EIO, ENOSPC, Faults, Op};
use crate::{Config, Error, EventLog, Group, Position, Record, Stored, Topic};

const ORGANISATION: OrganisationId = OrganisationId::DEFAULT;
const ALL: usize = 1 << 30;

/// A folder, and what surrounds the logs that are opened on it one after another.
struct Place {
    temporary: TempDir,
    config: Config,
    base: Base,
    files: Files,
    faults: Faults,
}

impl Place {
    fn new() -> Self {
        let temporary = TempDir::new().unwrap();
        let config = Config { dir: temporary.path().join("log"), ..Config::default() };
        let base = Base::simulated(Timestamp::from_millis(0), 1);
        let faults = Faults::default();
        Self { temporary, config, base, files: Files::on(faults.clone()), faults }
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut place = Self::new();
        change(&mut place.config);
        place.files.fsync_delay = place.config.fsync_delay;
        place
    }

    async fn open(&self) -> EventLog {
        self.try_open().await.unwrap()
    }

    async fn try_open(&self) -> Result<EventLog, Error> {
        EventLog::open_on(self.files.clone(), self.config.clone(), &self.base).await
    }

    fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The segments of a topic's first partition.
    fn segments(&self, topic: &str) -> Vec<PathBuf> {
        let folder = self.config.dir.join(ORGANISATION.to_string()).join(topic).join("0");
        let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        paths.sort();
        paths
    }
}

fn record(value: impl Into<String>) -> Record {
    Record {
        timestamp: Timestamp::from_millis(1_357_038_000_123),
        key: Some(Bytes::from_static(b"roof-1")),
        value: Bytes::from(value.into()),
        headers: vec![("event-id".to_owned(), Bytes::from_static(b"7"))],
    }
}

async fn topic(log: &EventLog) -> Topic {
    log.topic(ORGANISATION, "readings").await.unwrap()
}

/// Appends one record in a batch of its own.
async fn put(topic: &Topic, value: &str) -> Result<u64, Error> {
    topic.append(0, vec![record(value)]).await
}

/// Everything in the first partition, by as many fetches as it takes.
async fn everything(topic: &Topic) -> Vec<Stored> {
    let mut all = Vec::new();
    let mut from = topic.start(0);
    loop {
        let stored = topic.fetch(0, from, 100).await.unwrap();
        let Some(last) = stored.last() else { return all };
        from = last.offset + 1;
        all.extend(stored);
    }
}

fn values(stored: &[Stored]) -> Vec<&str> {
    stored.iter().map(|stored| str::from_utf8(&stored.record.value).unwrap()).collect()
}

async fn all_values(topic: &Topic) -> Vec<String> {
    values(&everything(topic).await).into_iter().map(str::to_owned).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn records_come_back_in_order_with_everything_that_they_carried() {
    let place = Place::new();
    let log = place.open().await;
    let topic = topic(&log).await;
    let bare = Record { key: None, headers: vec![], ..record("") };
    assert_eq!(topic.append(0, vec![record("a"), bare.clone()]).await.unwrap(), 0);
    assert_eq!(put(&topic, "b").await.unwrap(), 2);
    assert_eq!(topic.append(0, vec![]).await.unwrap(), 3, "nothing goes to the end");
    let expected: Vec<Stored> = (0..)
        .zip([record("a"), bare, record("b")])
        .map(|(offset, record)| Stored { offset, record })
        .collect();
    assert_eq!(everything(&topic).await, expected);
    log.close().await;
    assert_eq!(everything(&topic).await, expected, "a closed log is still read");
    let reopened = place.open().await;
    assert_eq!(everything(&self::topic(&reopened).await).await, expected);
}

#[tokio::test]
async fn records_as_they_lie_on_disk_are_those_that_are_fetched() {
    let place = Place::new();
    let log = place.open().await;
    let topic = topic(&log).await;
    topic.append(0, vec![record("a"), record("b"), record("c")]).await.unwrap();
    put(&topic, "d").await.unwrap();
    for from in 0..=4 {
        let stored = topic.fetch(0, from, ALL).await.unwrap();
        let fetched = topic.fetch_raw(0, from, ALL).await.unwrap();
        let mut seen = Vec::new();
        fetched.visit(|record| {
            let key = record.key().map(Bytes::copy_from_slice);
            let name = stored[seen.len()].record.headers.first().map(|(name, _)| name.as_str());
            let header = name.and_then(|name| record.header(name)).map(Bytes::copy_from_slice);
            let value = Bytes::copy_from_slice(record.value);
            seen.push((record.offset, record.timestamp(), key, value, header));
        });
        let expected = stored.into_iter().map(|Stored { offset, record }| {
            let header = record.headers.first().map(|(_, value)| value.clone());
            (offset, record.timestamp, record.key, record.value, header)
        });
        assert_eq!(seen, expected.collect::<Vec<_>>(), "from {from}");
        assert_eq!((fetched.next(), fetched.is_empty()), (4, from == 4));
    }
    assert_eq!(topic.fetch_raw(0, 2, 0).await.unwrap().next(), 3, "at least one batch");
    let beyond = topic.fetch_raw(0, 5, ALL).await.unwrap_err();
    assert!(matches!(beyond, Error::OutOfRange { start: 0, end: 4 }), "{beyond}");
}

#[tokio::test]
async fn a_fetch_begins_in_the_middle_of_a_batch_and_ends_at_the_durable_end() {
    let place = Place::new();
    let log = place.open().await;
    let topic = topic(&log).await;
    topic.append(0, vec![record("a"), record("b"), record("c")]).await.unwrap();
    put(&topic, "d").await.unwrap();
    assert_eq!(values(&topic.fetch(0, 1, ALL).await.unwrap()), ["b", "c", "d"]);
    assert_eq!(values(&topic.fetch(0, 2, 0).await.unwrap()), ["c"], "at least one batch");
    assert_eq!(topic.fetch(0, 4, ALL).await.unwrap(), []);
    let beyond = topic.fetch(0, 5, ALL).await.unwrap_err();
    assert!(matches!(beyond, Error::OutOfRange { start: 0, end: 4 }), "{beyond}");
    assert_eq!(topic.fetch(1, 0, ALL).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_fetch_stops_at_its_limit_and_reads_a_batch_larger_than_any() {
    let place = Place::with(|config| {
        config.fetch_bytes_max = 1_000;
        config.index_interval_bytes = 50;
    });
    let log = place.open().await;
    let topic = topic(&log).await;
    for size in [300, 300, 5_000, 300, 300] {
        put(&topic, &"x".repeat(size)).await.unwrap();
    }
    let counts =
        async |from: u64, bytes_max: usize| topic.fetch(0, from, bytes_max).await.unwrap().len();
    assert_eq!(counts(0, 1_000).await, 2, "the third does not fit");
    assert_eq!(counts(2, 1_000).await, 1, "larger than the limit");
    assert_eq!(counts(3, ALL).await, 2);
    assert_eq!(everything(&topic).await.len(), 5);
}

#[tokio::test]
async fn organisations_do_not_see_each_other() {
    let place = Place::new();
    let log = place.open().await;
    let other = OrganisationId::fixed(2);
    let (ours, theirs) = (topic(&log).await, log.topic(other, "readings").await.unwrap());
    put(&ours, "ours").await.unwrap();
    assert_eq!(*theirs.end(0).borrow(), 0);
    log.topic(other, "alerts").await.unwrap();
    assert_eq!(log.topics(ORGANISATION), ["readings"]);
    assert_eq!(log.topics(other), ["alerts", "readings"]);
    log.close().await;
    let log = place.open().await;
    assert_eq!(log.topics(other), ["alerts", "readings"]);
    assert_eq!(log.topics(OrganisationId::fixed(3)), [""; 0]);
}

#[tokio::test]
async fn names_that_are_no_file_names_are_refused() {
    let log = Place::new().open().await;
    let long = "x".repeat(250);
    for name in ["", ".", "..", "a/b", "a~", "größe", "a b", &long] {
        let error = log.topic(ORGANISATION, name).await.err().unwrap();
        assert!(matches!(error, Error::TopicName(_)), "{name}: {error}");
    }
    for name in ["a", "...", "A-z_0.9", &long[1..]] {
        assert!(log.topic(ORGANISATION, name).await.is_ok(), "{name}");
    }
}

#[tokio::test]
async fn keys_go_to_partitions_and_partitions_stay_as_they_were_made() {
    let mut place = Place::with(|config| config.partitions = 3);
    let log = place.open().await;
    let topic = topic(&log).await;
    let partition = topic.partition_for(b"21");
    assert!(partition < 3);
    topic.append(partition, vec![record("a")]).await.unwrap();
    assert_eq!(*topic.end(partition).borrow(), 1);
    assert_eq!((*topic.end(9).borrow(), topic.start(9)), (0, 0));
    log.close().await;
    place.config.partitions = 5;
    let log = place.open().await;
    let topic = self::topic(&log).await;
    assert_eq!((topic.partitions(), topic.partition_for(b"21")), (3, partition));
}

/// Appends from many tasks at once; gives how many records a second were acknowledged, and the syncs.
async fn hammer(tasks: usize, appends: usize) -> (f64, usize) {
    let place = Place::new();
    let log = place.open().await;
    let topic = topic(&log).await;
    let before = place.faults().syncs();
    let began = place.base.clock.instant();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let topic = topic.clone();
            place.base.tasks.spawn("appender", async move {
                let mut offsets = Vec::new();
                for i in 0..appends {
                    let value = format!("{task:04}-{i:06}{:89}", "");
                    offsets.push((put(&topic, &value).await.unwrap(), value));
                }
                offsets
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in running {
        let offsets = task.await.unwrap().unwrap();
        assert!(offsets.is_sorted(), "one task's records keep their order");
        all.extend(offsets);
    }
    let seconds = place.base.clock.instant().duration_since(began).as_secs_f64();
    let syncs = place.faults().syncs() - before;
    all.sort();
    let stored = everything(&topic).await;
    assert_eq!(stored.len(), tasks * appends);
    for (i, ((offset, value), stored)) in all.iter().zip(&stored).enumerate() {
        assert_eq!((i as u64, value.as_bytes()), (*offset, &stored.record.value[..]));
        assert_eq!(stored.offset, *offset, "offsets have no gap");
    }
    (all.len() as f64 / seconds, syncs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_appenders_share_syncs_and_get_offsets_without_a_gap() {
    for (tasks, appends) in [(1, 50), (50, 20), (1_000, 5)] {
        let (rate, syncs) = hammer(tasks, appends).await;
        println!(
            "{tasks} appenders: {rate:.0} records/s, {} records, {syncs} syncs",
            tasks * appends
        );
        if tasks > 1 {
            assert!(syncs * 2 < tasks * appends, "{syncs} syncs for {} appends", tasks * appends);
        }
    }
}

#[tokio::test]
async fn the_end_wakes_whoever_waits() {
    let place = Place::new();
    let log = place.open().await;
    let topic = topic(&log).await;
    let mut end = topic.end(0);
    let waiting = place.base.tasks.spawn("consumer", async move {
        end.changed().await.unwrap();
        *end.borrow_and_update()
    });
    topic.append(0, vec![record("a"), record("b")]).await.unwrap();
    assert_eq!(waiting.await.unwrap(), Some(2));
}

#[tokio::test]
async fn full_queues_make_appenders_wait_and_lose_nothing() {
    let place = Place::with(|config| {
        config.append_queue_max = 1;
        config.append_queue_bytes_max = 1;
        config.group_bytes_max = 600;
        config.batch_bytes_max = 300;
    });
    let log = place.open().await;
    let topic = topic(&log).await;
    let appends = (0..100).map(|i| {
        let topic = topic.clone();
        async move { put(&topic, &format!("{i}")).await.unwrap() }
    });
    let mut offsets = futures::future::join_all(appends).await;
    offsets.sort_unstable();
    assert_eq!(offsets, (0..100).collect::<Vec<u64>>());
    let large = put(&topic, &"x".repeat(600)).await.unwrap_err();
    assert_eq!(large.to_string(), "an append of 665 bytes is larger than 600");
}

#[tokio::test]
async fn what_is_over_a_limit_is_refused_by_name() {
    let place = Place::with(|config| {
        config.record_bytes_max = 100;
        config.topics_max = 1;
        config.group_positions_max = 1;
    });
    let log = place.open().await;
    let topic = topic(&log).await;
    let large = put(&topic, &"x".repeat(90)).await.unwrap_err();
    assert_eq!(large.to_string(), "a record of 105 bytes is larger than 100");
    let many = log.topic(ORGANISATION, "alerts").await.err().unwrap();
    assert_eq!(many.kind(), ErrorKind::TooMany);
    let position = |offset| Position { topic: "readings".to_owned(), partition: 0, offset };
    let group = |name: &str| Group { organisation: ORGANISATION, name: name.to_owned() };
    log.commit(&group("rules"), position(1)).await.unwrap();
    log.commit(&group("rules"), position(2)).await.unwrap();
    let many = log.commit(&group("lake"), position(1)).await.unwrap_err();
    assert_eq!(many.kind(), ErrorKind::TooMany);
    let config = Config { partitions: 0, ..place.config.clone() };
    let error = EventLog::open(config, &place.base).await.err().unwrap();
    assert!(error.to_string().contains("partitions must be between 1 and 1024"));
}

#[tokio::test]
async fn segments_roll_are_read_across_and_survive_reopening() {
    let place = Place::with(|config| {
        config.segment_bytes = 500;
        config.index_interval_bytes = 150;
    });
    let log = place.open().await;
    let topic = topic(&log).await;
    let mut expected = Vec::new();
    for i in 0..40 {
        expected.push(format!("value {i}"));
        put(&topic, &expected[i]).await.unwrap();
    }
    let segments = place.segments("readings");
    assert!(segments.len() > 5, "{segments:?}");
    assert!(segments.iter().all(|path| fs::metadata(path).unwrap().len() <= 500));
    assert_eq!(all_values(&topic).await, expected);
    log.close().await;
    let log = place.open().await;
    let topic = self::topic(&log).await;
    for from in 0..40 {
        let stored = topic.fetch(0, from, 0).await.unwrap();
        assert_eq!(values(&stored)[0], expected[usize::try_from(from).unwrap()]);
    }
    put(&topic, "more").await.unwrap();
    expected.push("more".to_owned());
    assert_eq!(all_values(&topic).await, expected);
}

#[tokio::test]
async fn an_append_across_segments_of_one_group_is_dense() {
    let place = Place::with(|config| {
        config.segment_bytes = 400;
        config.batch_bytes_max = 200;
        config.fsync_delay = Duration::from_millis(20);
    });
    let log = place.open().await;
    let topic = topic(&log).await;
    let appends = (0..60).map(|i| {
        let topic = topic.clone();
        async move { put(&topic, &format!("{i}")).await.unwrap() }
    });
    let mut offsets = futures::future::join_all(appends).await;
    offsets.sort_unstable();
    assert_eq!(offsets, (0..60).collect::<Vec<u64>>());
    assert!(place.segments("readings").len() > 5);
    log.close().await;
    assert_eq!(everything(&self::topic(&place.open().await).await).await.len(), 60);
}

#[tokio::test]
async fn trimming_deletes_whole_segments_from_the_front() {
    let place = Place::with(|config| config.segment_bytes = 1);
    let log = place.open().await;
    let topic = topic(&log).await;
    for i in 0..5 {
        put(&topic, &format!("{i}")).await.unwrap();
    }
    assert_eq!(topic.trim(0, 2).await.unwrap(), 2);
    assert_eq!((topic.start(0), place.segments("readings").len()), (2, 3));
    let gone = topic.fetch(0, 1, ALL).await.unwrap_err();
    assert!(matches!(gone, Error::OutOfRange { start: 2, end: 5 }), "{gone}");
    assert_eq!(topic.trim(0, 99).await.unwrap(), 4, "the last segment stays");
    log.close().await;
    let log = place.open().await;
    let topic = self::topic(&log).await;
    assert_eq!((topic.start(0), put(&topic, "5").await.unwrap()), (4, 5));
    assert_eq!(all_values(&topic).await, ["4", "5"]);
}

#[tokio::test]
async fn a_segment_that_could_not_be_deleted_leaves_no_gap() {
    let place = Place::with(|config| config.segment_bytes = 1);
    let log = place.open().await;
    let topic = topic(&log).await;
    for i in 0..5 {
        put(&topic, &format!("{i}")).await.unwrap();
    }
    place.faults().fail(Op::Remove, "readings", EIO);
    topic.trim(0, 1).await.unwrap_err();
    assert_eq!(all_values(&topic).await.len(), 5, "what is there is read");
    place.faults().heal();
    assert_eq!(topic.trim(0, 2).await.unwrap(), 2);
    log.close().await;
    let topic = self::topic(&place.open().await).await;
    assert_eq!((topic.start(0), all_values(&topic).await.len()), (2, 3));
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_is_cut_and_everything_before_is_there() {
    let place = Place::new();
    let log = place.open().await;
    let topic = topic(&log).await;
    put(&topic, "first").await.unwrap();
    topic.append(0, vec![record("second"), record("third")]).await.unwrap();
    let path = place.segments("readings").remove(0);
    let good = fs::metadata(&path).unwrap().len();
    topic.append(0, vec![record("torn"), record("torn")]).await.unwrap();
    log.close().await;
    let whole = fs::read(&path).unwrap();
    for length in usize::try_from(good).unwrap()..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let log = place.open().await;
        let topic = self::topic(&log).await;
        assert_eq!(all_values(&topic).await, ["first", "second", "third"], "cut at {length}");
        assert_eq!(fs::metadata(&path).unwrap().len(), good);
        assert_eq!(put(&topic, "next").await.unwrap(), 3);
        log.close().await;
    }
}

#[tokio::test]
async fn garbage_zeros_and_a_wrong_checksum_at_the_end_are_cut() {
    let place = Place::new();
    let log = place.open().await;
    let topic = topic(&log).await;
    put(&topic, "first").await.unwrap();
    let path = place.segments("readings").remove(0);
    let good = fs::read(&path).unwrap();
    put(&topic, "second").await.unwrap();
    log.close().await;
    let mut damaged = fs::read(&path).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    let repeated = [&good[..], &good[..]].concat();
    for tail in
        [damaged, [&good[..], &[0; 300]].concat(), [&good[..], &[0xAA; 90]].concat(), repeated]
    {
        fs::write(&path, tail).unwrap();
        let log = place.open().await;
        assert_eq!(all_values(&self::topic(&log).await).await, ["first"]);
        log.close().await;
        assert_eq!(fs::read(&path).unwrap(), good);
    }
}

#[tokio::test]
async fn damage_in_a_sealed_segment_is_an_error_that_names_file_and_position() {
    let place = Place::with(|config| config.segment_bytes = 400);
    let log = place.open().await;
    let topic = topic(&log).await;
    for i in 0..20 {
        put(&topic, &format!("{i}")).await.unwrap();
    }
    let sealed = place.segments("readings").remove(1);
    let before = fs::read(&sealed).unwrap();
    let second = 12 + i32::from_be_bytes(before[8..12].try_into().unwrap());
    log.close().await;
    flip(&sealed, usize::try_from(second).unwrap() + HEADER_BYTES);
    let log = place.open().await;
    let topic = self::topic(&log).await;
    let first_there: u64 = sealed.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let error = topic.fetch(0, first_there, ALL).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    let expected = format!("{} is corrupt at byte {second}: the checksum", sealed.display());
    assert!(error.to_string().starts_with(&expected), "{error}");
    assert_eq!(fs::metadata(&sealed).unwrap().len(), before.len() as u64, "nothing is cut");
    assert_eq!(put(&topic, "more").await.unwrap(), 20, "the rest of the partition serves");
    assert_eq!(topic.fetch(0, 20, ALL).await.unwrap().len(), 1);
    log.close().await;
    fs::write(&sealed, &before[..before.len() - 3]).unwrap();
    let topic = self::topic(&place.open().await).await;
    let error = topic.fetch(0, first_there, ALL).await.unwrap_err();
    assert!(error.to_string().ends_with("the batch is cut short"), "{error}");
}

#[tokio::test]
async fn bits_that_rot_while_it_runs_are_seen_by_the_next_fetch() {
    let place = Place::new();
    let log = place.open().await;
    let topic = topic(&log).await;
    put(&topic, "sound").await.unwrap();
    let path = place.segments("readings").remove(0);
    flip(&path, HEADER_BYTES + 9);
    let error = topic.fetch(0, 0, ALL).await.unwrap_err();
    assert!(matches!(error, Error::Corrupt { position: 0, .. }), "{error}");
}

#[tokio::test]
async fn an_offset_that_rots_outside_of_the_checksum_is_seen_by_the_next_fetch() {
    let place = Place::with(|config| config.index_interval_bytes = 1 << 20);
    let log = place.open().await;
    let topic = topic(&log).await;
    put(&topic, "first").await.unwrap();
    let path = place.segments("readings").remove(0);
    let second = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
    put(&topic, "second").await.unwrap();
    put(&topic, "third").await.unwrap();
    flip(&path, second + 7);
    for from in [0, 2] {
        let error = topic.fetch(0, from, ALL).await.unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    }
}

#[tokio::test]
async fn foreign_batches_are_stored_as_they_are_between_others() {
    let place = Place::new();
    let log = place.open().await;
    let topic = topic(&log).await;
    put(&topic, "a").await.unwrap();
    let batch = batch_of(77, &[record("b"), record("c")]);
    let foreign = |batch: &[u8]| BytesMut::from(batch);
    assert_eq!(topic.append_batch(0, foreign(&batch)).await.unwrap(), 1);
    put(&topic, "d").await.unwrap();
    assert_eq!(all_values(&topic).await, ["a", "b", "c", "d"]);
    let refused = topic.append_batch(0, foreign(&batch[1..])).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    log.close().await;
    let topic = self::topic(&place.open().await).await;
    assert_eq!(all_values(&topic).await, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn positions_of_groups_survive_and_the_last_one_counts() {
    let place = Place::new();
    let log = place.open().await;
    topic(&log).await;
    let group = Group { organisation: ORGANISATION, name: "rules".to_owned() };
    let other = Group { organisation: OrganisationId::fixed(2), ..group.clone() };
    let position = |offset| Position { topic: "readings".to_owned(), partition: 0, offset };
    assert_eq!(log.committed(&group, "readings", 0), None);
    for offset in [1, 5, 3] {
        log.commit(&group, position(offset)).await.unwrap();
    }
    assert_eq!(log.committed(&group, "readings", 0), Some(3));
    let unknown = log.commit(&other, position(1)).await.unwrap_err();
    assert!(matches!(unknown, Error::UnknownTopic(_)), "the topic is not theirs: {unknown}");
    let partition = Position { partition: 1, ..position(1) };
    assert_eq!(log.commit(&group, partition).await.unwrap_err().kind(), ErrorKind::NotFound);
    let nameless = Group { name: String::new(), ..group.clone() };
    assert!(matches!(log.commit(&nameless, position(1)).await, Err(Error::GroupName)));
    log.close().await;
    let log = place.open().await;
    assert_eq!(log.committed(&group, "readings", 0), Some(3));
    assert_eq!(log.committed(&other, "readings", 0), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_of_group_positions_is_rewritten_when_most_of_it_is_superseded() {
    let place = Place::new();
    let log = place.open().await;
    topic(&log).await;
    let group = |i| Group { organisation: ORGANISATION, name: format!("group {i}") };
    let position = |offset| Position { topic: "readings".to_owned(), partition: 0, offset };
    // 1,500 groups at a time share a sync; seven rounds pass the 10,000 records of a rewrite.
    for round in 1..=8 {
        let commits = (0..1_500).map(|i| {
            let log = log.clone();
            async move { log.commit(&group(i), position(round)).await.unwrap() }
        });
        futures::future::join_all(commits).await;
    }
    let files: Vec<_> = fs::read_dir(place.config.dir.join("groups")).unwrap().collect();
    assert_eq!(files.len(), 1);
    let path = files.into_iter().next().unwrap().unwrap().path();
    assert!(!path.ends_with("00000000000000000000.log"), "{}", path.display());
    log.close().await;
    // What a crash in the middle of a rewrite leaves behind: an older file and a draft.
    fs::copy(&path, path.with_file_name("00000000000000000000.log")).unwrap();
    fs::write(path.with_extension("draft"), "x").unwrap();
    let log = place.open().await;
    for i in 0..1_500 {
        assert_eq!(log.committed(&group(i), "readings", 0), Some(8));
    }
    log.commit(&group(0), position(9)).await.unwrap();
    assert_eq!(log.committed(&group(0), "readings", 0), Some(9));
}

#[tokio::test(start_paused = true)]
async fn a_second_owner_is_refused_in_clear_text_until_the_first_lets_go() {
    let place = Place::new();
    let log = place.open().await;
    let refused = place.try_open().await.err().unwrap();
    let expected = format!(
        "{} is in use by another process (process {})",
        place.config.dir.display(),
        std::process::id()
    );
    assert_eq!(refused.to_string(), expected);
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    log.close().await;
    drop(place.open().await);
}

#[tokio::test]
async fn the_folder_is_free_after_the_last_handle_is_dropped() {
    let place = Place::new();
    for i in 0..5 {
        let topic = topic(&place.open().await).await;
        assert_eq!(put(&topic, "a").await.unwrap(), i, "a topic keeps the log open");
    }
}

#[tokio::test]
async fn a_folder_of_another_format_is_refused() {
    let place = Place::new();
    place.open().await.close().await;
    let marker = place.config.dir.join("format");
    fs::write(&marker, "madang eventlog 2\n").unwrap();
    let error = place.try_open().await.err().unwrap().to_string();
    let expected = "this version reads \"madang eventlog 1\", found \"madang eventlog 2\"";
    assert!(error.ends_with(expected), "{error}");
    fs::remove_file(&marker).unwrap();
    let error = place.try_open().await.err().unwrap().to_string();
    assert!(error.ends_with("missing, and the folder is not empty"), "{error}");
}

#[tokio::test]
async fn a_topic_that_a_crash_left_half_made_is_gone() {
    let place = Place::new();
    let log = place.open().await;
    topic(&log).await;
    log.close().await;
    let draft = place.config.dir.join(ORGANISATION.to_string()).join("alerts~/0");
    fs::create_dir_all(&draft).unwrap();
    let log = place.open().await;
    assert_eq!(log.topics(ORGANISATION), ["readings"]);
    assert!(!draft.exists());
}

#[tokio::test]
async fn after_a_failed_sync_a_partition_acknowledges_nothing_until_it_is_reopened() {
    for op in [Op::Sync, Op::Write] {
        let place = Place::new();
        let log = place.open().await;
        let topic = topic(&log).await;
        let other = log.topic(ORGANISATION, "alerts").await.unwrap();
        put(&topic, "sound").await.unwrap();
        place.faults().fail(op, "readings", EIO);
        for _ in 0..2 {
            let error = put(&topic, "lost?").await.unwrap_err();
            assert!(matches!(error, Error::Unavailable { .. }), "{error}");
            assert!(error.to_string().contains("Input/output error"), "{error}");
            place.faults().heal();
        }
        assert_eq!(*topic.end(0).borrow(), 1, "the end does not move");
        assert_eq!(all_values(&topic).await, ["sound"], "reads go on");
        put(&other, "others go on").await.unwrap();
        assert!(place.base.metrics.text().contains("madang_eventlog_failed_partitions 1"));
        log.close().await;
        let topic = self::topic(&place.open().await).await;
        let next = put(&topic, "again").await.unwrap();
        let stored = all_values(&topic).await;
        assert_eq!((&stored[0][..], &stored[stored.len() - 1][..]), ("sound", "again"));
        assert_eq!(next + 1, stored.len() as u64);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_takes_back_and_recovers() {
    let place = Place::new();
    let log = place.open().await;
    let topic = topic(&log).await;
    put(&topic, "sound").await.unwrap();
    let path = place.segments("readings").remove(0);
    let durable = fs::read(&path).unwrap();
    place.faults().limit_room(40);
    let full = put(&topic, "too much").await.unwrap_err();
    assert!(matches!(full, Error::Full { .. }), "{full}");
    assert_eq!(full.kind(), ErrorKind::Unavailable);
    assert_eq!(fs::read(&path).unwrap(), durable, "half a batch is taken back");
    let group = Group { organisation: ORGANISATION, name: "rules".to_owned() };
    let position = Position { topic: "readings".to_owned(), partition: 0, offset: 1 };
    let full = log.commit(&group, position.clone()).await.unwrap_err();
    assert!(matches!(full, Error::Full { .. }), "{full}");
    assert_eq!(log.committed(&group, "readings", 0), None);
    place.faults().heal();
    assert_eq!(put(&topic, "room again").await.unwrap(), 1);
    log.commit(&group, position).await.unwrap();
    log.close().await;
    let log = place.open().await;
    assert_eq!(all_values(&self::topic(&log).await).await, ["sound", "room again"]);
    assert_eq!(log.committed(&group, "readings", 0), Some(1));
}

#[tokio::test]
async fn a_disk_too_full_for_a_new_segment_refuses_and_recovers() {
    let place = Place::with(|config| config.segment_bytes = 1);
    let log = place.open().await;
    let topic = topic(&log).await;
    put(&topic, "a").await.unwrap();
    place.faults().fail(Op::Create, "readings", ENOSPC);
    let full = put(&topic, "b").await.unwrap_err();
    assert!(matches!(full, Error::Full { .. }), "{full}");
    assert_eq!(place.segments("readings").len(), 1);
    place.faults().heal();
    assert_eq!(put(&topic, "b").await.unwrap(), 1);
    assert_eq!(all_values(&topic).await, ["a", "b"]);
}

#[tokio::test]
async fn a_new_segment_that_cannot_be_taken_back_stops_the_partition() {
    let place = Place::with(|config| config.segment_bytes = 1);
    let log = place.open().await;
    let topic = topic(&log).await;
    put(&topic, "a").await.unwrap();
    place.faults().fail(Op::SyncFolder, "readings", ENOSPC);
    place.faults().fail(Op::Remove, "readings", EIO);
    let error = put(&topic, "b").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    place.faults().heal();
    log.close().await;
    let topic = self::topic(&place.open().await).await;
    assert_eq!(put(&topic, "b").await.unwrap(), 1);
}

#[tokio::test]
async fn a_new_segment_whose_removal_is_not_on_disk_stops_the_partition() {
    let place = Place::with(|config| config.segment_bytes = 200);
    let log = place.open().await;
    let topic = topic(&log).await;
    put(&topic, "a").await.unwrap();
    place.faults().fail(Op::SyncFolder, "readings", ENOSPC);
    // Its name may be on disk: after a power cut the small one would stand in the segment before, at the same offset.
    let large = put(&topic, &"x".repeat(300)).await.unwrap_err();
    assert!(matches!(large, Error::Unavailable { .. }), "{large}");
    let small = put(&topic, "b").await.unwrap_err();
    assert!(matches!(small, Error::Unavailable { .. }), "{small}");
}

#[tokio::test]
async fn a_full_disk_that_cannot_be_taken_back_stops_the_partition() {
    let place = Place::new();
    let log = place.open().await;
    let topic = topic(&log).await;
    place.faults().limit_room(40);
    place.faults().fail(Op::Truncate, "readings", EIO);
    let error = put(&topic, "a").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    place.faults().heal();
    let error = put(&topic, "b").await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

#[tokio::test]
async fn a_topic_that_could_not_be_made_is_made_by_the_next_attempt() {
    let place = Place::new();
    let log = place.open().await;
    for (op, part) in [(Op::Create, "readings"), (Op::SyncFolder, &ORGANISATION.to_string()[..])] {
        place.faults().fail(op, part, ENOSPC);
        let error = log.topic(ORGANISATION, "readings").await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!(log.topics(ORGANISATION), [""; 0]);
        place.faults().heal();
    }
    assert_eq!(put(&topic(&log).await, "a").await.unwrap(), 0);
}

/// Appends, commits and makes topics all over, and gives what was acknowledged.
async fn busy(log: &EventLog) -> (Vec<(String, u64, String)>, Vec<(Group, String, u64)>) {
    let (mut appended, mut committed) = (Vec::new(), Vec::new());
    for round in 0..12_u64 {
        let name = format!("topic-{}", round % 4);
        let topic = log.topic(ORGANISATION, &name).await.unwrap();
        let puts = (0..5).map(|i| {
            let (topic, name) = (topic.clone(), name.clone());
            async move {
                let value = format!("{round}-{i}");
                (name, put(&topic, &value).await.unwrap(), value)
            }
        });
        appended.extend(futures::future::join_all(puts).await);
        let group = Group { organisation: ORGANISATION, name: format!("group {round}") };
        let position = Position { topic: name.clone(), partition: 0, offset: round };
        log.commit(&group, position).await.unwrap();
        committed.push((group, name, round));
    }
    (appended, committed)
}

#[tokio::test]
async fn a_power_cut_takes_nothing_that_was_acknowledged() {
    let mut place = Place::with(|config| config.segment_bytes = 400);
    let log = place.open().await;
    let (appended, committed) = busy(&log).await;
    let left = place.temporary.path().join("left");
    place.faults().power_cut(&place.config.dir, &left);
    log.close().await;
    place.config.dir = left;
    let log = place.open().await;
    for (topic, offset, value) in appended {
        let topic = log.topic(ORGANISATION, &topic).await.unwrap();
        let stored = topic.fetch(0, offset, 0).await.unwrap();
        assert_eq!(values(&stored)[0], value);
    }
    for (group, topic, offset) in committed {
        assert_eq!(log.committed(&group, &topic, 0), Some(offset));
    }
}

#[tokio::test]
async fn what_a_killed_process_left_unsynced_is_synced_before_it_is_read() {
    let place = Place::new();
    let log = place.open().await;
    topic(&log).await;
    log.close().await;
    // A process wrote this and was killed before the sync; the bytes are in the system's memory only.
    let path = place.segments("readings").remove(0);
    fs::write(&path, batch_of(0, &[record("unsynced")])).unwrap();
    let log = place.open().await;
    assert_eq!(all_values(&topic(&log).await).await, ["unsynced"]);
    let left = place.temporary.path().join("left");
    place.faults().power_cut(&place.config.dir, &left);
    let copy = left.join(path.strip_prefix(&place.config.dir).unwrap());
    assert_eq!(fs::read(copy).unwrap(), fs::read(&path).unwrap());
}

#[tokio::test]
async fn shutdown_finishes_what_was_accepted_and_refuses_the_rest() {
    let place = Place::with(|config| config.fsync_delay = Duration::from_millis(30));
    let log = place.open().await;
    let topic = topic(&log).await;
    let running: Vec<_> = (0..20)
        .map(|task| {
            let topic = topic.clone();
            place.base.tasks.spawn("appender", async move {
                let mut acknowledged = Vec::new();
                loop {
                    let value = format!("{task}-{}", acknowledged.len());
                    match put(&topic, &value).await {
                        Ok(offset) => acknowledged.push((offset, value)),
                        Err(Error::Closed) => return acknowledged,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    let mut end = topic.end(0);
    end.wait_for(|end| *end >= 40).await.unwrap();
    assert!(place.base.tasks.stop(Duration::from_secs(10)).await, "the writer ends");
    let mut acknowledged = Vec::new();
    for task in running {
        acknowledged.extend(task.await.unwrap().unwrap());
    }
    acknowledged.sort();
    let dense = acknowledged.iter().zip(0..).all(|((offset, _), i)| *offset == i);
    assert!(dense, "everything that was stored was acknowledged");
    let group = Group { organisation: ORGANISATION, name: "rules".to_owned() };
    let position = Position { topic: "readings".to_owned(), partition: 0, offset: 1 };
    assert!(matches!(log.commit(&group, position).await, Err(Error::Closed)));
    assert!(matches!(log.topic(ORGANISATION, "late").await, Err(Error::Closed)));
    let place = Place { base: Base::simulated(Timestamp::from_millis(0), 1), ..place };
    let log = place.open().await;
    let expected: Vec<String> = acknowledged.into_iter().map(|(_, value)| value).collect();
    assert_eq!(all_values(&self::topic(&log).await).await, expected);
}

#[tokio::test]
async fn writes_are_counted() {
    let place = Place::with(|config| config.open_files_max = 1);
    let log = place.open().await;
    let (one, two) = (topic(&log).await, log.topic(ORGANISATION, "alerts").await.unwrap());
    for topic in [&one, &two, &one] {
        topic.append(0, vec![record("a"), record("b")]).await.unwrap();
    }
    assert_eq!(place.faults().writes(), 3 + 1, "three groups, and the marker of the format");
    let text = place.base.metrics.text();
    for line in [
        "madang_eventlog_appended_records_total 6",
        "madang_eventlog_fsyncs_total 3",
        "madang_eventlog_fsync_seconds_count 3",
        "madang_eventlog_failed_partitions 0",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    assert!(!text.contains("madang_eventlog_appended_bytes_total 0"));
}

/// What the fixture of format 1 holds, written when that format was new.
fn fixture_records() -> Vec<Record> {
    let mut records: Vec<Record> = (0..12).map(|i| record(format!("value {i}"))).collect();
    records[3].key = None;
    records[4].headers = vec![("a".to_owned(), Bytes::new()), ("a".to_owned(), "é".into())];
    records[5].timestamp = Timestamp::from_millis(-1);
    records[6].value = Bytes::from(vec![0xFF; 300]);
    records
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let copy = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &copy);
        } else {
            fs::copy(entry.path(), copy).unwrap();
        }
    }
}

#[tokio::test]
async fn a_folder_of_format_1_is_read() {
    let place = Place::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/v1");
    copy_folder(&fixture, &place.config.dir);
    let log = place.open().await;
    let topic = topic(&log).await;
    let records: Vec<Record> = everything(&topic).await.into_iter().map(|s| s.record).collect();
    assert_eq!(records, fixture_records());
    assert!(place.segments("readings").len() > 1, "the fixture has a sealed segment");
    let group = Group { organisation: ORGANISATION, name: "rules".to_owned() };
    assert_eq!(log.committed(&group, "readings", 0), Some(7));
    assert_eq!(put(&topic, "next").await.unwrap(), 12);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn recovery_of_any_prefix_of_the_file_gives_a_prefix_of_the_records(
        sizes in proptest::collection::vec(1_usize..4, 1..8),
        cut: proptest::sample::Index,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let place = Place::new();
            let log = place.open().await;
            let topic = self::topic(&log).await;
            for (i, size) in sizes.iter().enumerate() {
                topic.append(0, (0..*size).map(|j| record(format!("{i}-{j}"))).collect()).await.unwrap();
            }
            let before = everything(&topic).await;
            log.close().await;
            let path = place.segments("readings").remove(0);
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..cut.index(bytes.len() + 1)]).unwrap();
            let topic = self::topic(&place.open().await).await;
            let after = everything(&topic).await;
            assert!(before.starts_with(&after));
            let next = *topic.end(0).borrow();
            assert_eq!(next, after.len() as u64);
        });
    }
}

#[tokio::test]
async fn handles_are_shared_between_threads() {
    fn shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    let log = Place::new().open().await;
    shared(&log);
    shared(&topic(&log).await);
    let _: Arc<EventLog> = Arc::new(log);
}
