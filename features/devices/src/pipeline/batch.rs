//! Reads the log into batches. A backlog is read in pieces, some of them at once while the next one is fetched and while the batch
//! before is evaluated.

use std::collections::VecDeque;
use std::time::Duration;

use base::{Clock, Timestamp};
use eventlog::{Fetched, Topic};
use tokio::task::JoinHandle;

use crate::intake::RECEIVED;
use crate::reading::Refusal;
use crate::reading::sheaf::Sheaf;
use crate::{Error, Result};

/// Bytes that are fetched at once.
pub(super) const PIECE_BYTES: usize = 1 << 20;
/// With fewer bytes, handing them to another thread costs more than it saves.
const BYTES_APART_MIN: usize = 64 << 10;
/// Pieces that are read or wait, so that two threads always have some.
const PIECES_AT_ONCE: usize = 4;

/// Readings and what stands between them, in the order of the log.
#[derive(Default)]
pub(super) struct Batch {
    pub sheaf: Sheaf,
    pub poison: Vec<Poison>,
    /// The offset that it was read from.
    pub from: u64,
    /// The offset after it.
    pub next: u64,
    /// What reading it took of one thread.
    pub took: Duration,
    /// It ends before what was fetched does.
    is_cut: bool,
}

/// Something in the log that is no reading.
pub(super) struct Poison {
    pub offset: u64,
    pub value: Vec<u8>,
    pub refusal: Refusal,
}

/// How much a batch may have.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub bytes: usize,
    /// Bytes that are fetched at once.
    pub piece_bytes: usize,
    pub readings: usize,
    /// Records at this offset and later ones are left.
    pub until: u64,
}

/// Reads one partition.
#[derive(Clone)]
pub(super) struct Reader {
    pub readings: Topic,
    pub partition: u32,
    pub clock: Clock,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.sheaf.items.is_empty() && self.poison.is_empty()
    }

    fn join(&mut self, other: Self) {
        if self.is_empty() {
            *self = Self { from: self.from, took: self.took + other.took, ..other };
            return;
        }
        self.sheaf.join(&other.sheaf);
        self.poison.extend(other.poison);
        self.next = other.next;
        self.took += other.took;
        self.is_cut = other.is_cut;
    }
}

impl Reader {
    /// Reads from an offset on, nothing at the end of the log.
    #[cfg(test)]
    pub(super) async fn read(&self, from: u64, limits: Limits) -> Result<Batch> {
        self.begin(from, limits).await?.finish().await
    }

    /// Begins to read from an offset on: the first pieces, if they have more than few bytes, are read on other threads from here
    /// on, whether somebody waits for them or not.
    pub(super) async fn begin(&self, from: u64, limits: Limits) -> Result<Reading> {
        let mut reading = Reading {
            end: *self.readings.end(self.partition).borrow(),
            reader: self.clone(),
            limits,
            from,
            at: from,
            bytes: limits.bytes,
            pieces: VecDeque::new(),
            is_broken: false,
        };
        while reading.pieces.len() < PIECES_AT_ONCE && reading.fetch().await? {}
        Ok(reading)
    }

    fn piece(&self, fetched: Fetched, records: u64, limits: Limits) -> Piece {
        if fetched.bytes() < BYTES_APART_MIN {
            return Piece::Here(fetched, records, limits);
        }
        let reader = self.clone();
        Piece::Apart(tokio::task::spawn_blocking(move || reader.parse(&fetched, records, limits)))
    }

    /// Tells readings from what is none. Asks neither clock nor registry of them: it must say the same again after a crash.
    fn parse(&self, fetched: &Fetched, records: u64, limits: Limits) -> Batch {
        let began = self.clock.instant();
        let mut sheaf = Sheaf::with_room(usize::try_from(records).unwrap_or(usize::MAX));
        let mut poison = Vec::new();
        let mut cut = None;
        // Records of one request have the same header.
        let mut received: (&[u8], Option<Timestamp>) = (&[], None);
        // Of each lane, whether this partition is the one of its device.
        let mut own = Vec::<bool>::new();
        fetched.visit(|record| {
            let (offset, value) = (record.offset, record.value);
            if cut.is_some() || offset >= limits.until {
                return;
            }
            if sheaf.items.len() >= limits.readings || sheaf.is_full() {
                cut = Some(offset);
                return;
            }
            let header = record.header(RECEIVED).unwrap_or_default();
            if header != received.0 {
                let text = std::str::from_utf8(header).ok();
                let micros = text.and_then(|text| text.parse().ok());
                received = (header, micros.map(Timestamp::from_micros));
            }
            let refused = match sheaf.push(value, offset, received.1) {
                Ok(()) => {
                    for lane in &sheaf.lanes[own.len()..] {
                        let place = self.readings.partition_for(lane.device.as_bytes());
                        own.push(place == self.partition);
                    }
                    // Another pipeline has the series of this device, so it cannot be judged here.
                    let is_own = sheaf.items.last().is_some_and(|item| own[item.lane as usize]);
                    if is_own {
                        return;
                    }
                    sheaf.pop();
                    Refusal::Misplaced
                }
                Err(refusal) => refusal,
            };
            poison.push(Poison { offset, value: value.to_vec(), refusal: refused });
        });
        let next = cut.unwrap_or_else(|| fetched.next().min(limits.until));
        let took = self.clock.instant() - began;
        Batch { sheaf, poison, from: fetched.from(), next, took, is_cut: cut.is_some() }
    }
}

/// A batch on its way.
pub(super) struct Reading {
    reader: Reader,
    limits: Limits,
    /// Where the log ended when somebody looked last.
    end: u64,
    from: u64,
    /// What is fetched next.
    at: u64,
    /// What may still be fetched.
    bytes: usize,
    pieces: VecDeque<Piece>,
    /// No more could be fetched.
    is_broken: bool,
}

impl Reading {
    /// Fetches one more piece; false where no more is wanted.
    async fn fetch(&mut self) -> Result<bool> {
        let Self { limits, from, at, .. } = *self;
        let is_wanted =
            at == from || (at < self.end.min(limits.until) && at - from < limits.readings as u64);
        if self.is_broken || self.bytes == 0 || !is_wanted {
            return Ok(false);
        }
        let most = self.bytes.min(limits.piece_bytes);
        let readings = &self.reader.readings;
        let fetched = match readings.fetch_raw(self.reader.partition, at, most).await {
            // What comes before it is taken first, and the next turn meets the error again.
            Err(_) if at > from => {
                self.is_broken = true;
                return Ok(false);
            }
            fetched => fetched?,
        };
        if fetched.is_empty() {
            self.is_broken = true;
            return Ok(false);
        }
        let rest = limits.readings - usize::try_from(at - from).unwrap_or(usize::MAX);
        let next = fetched.next();
        (self.at, self.bytes) = (next, self.bytes - most);
        let piece = self.reader.piece(fetched, next - at, Limits { readings: rest, ..limits });
        self.pieces.push_back(piece);
        Ok(true)
    }

    /// Reads the rest and puts it together.
    pub(super) async fn finish(mut self) -> Result<Batch> {
        let mut whole = Batch { from: self.from, next: self.from, ..Batch::default() };
        // What came since it began goes with it.
        self.end = *self.reader.readings.end(self.reader.partition).borrow();
        while !whole.is_cut && !whole.sheaf.is_full() {
            while self.pieces.len() <= PIECES_AT_ONCE && self.fetch().await? {}
            let Some(piece) = self.pieces.pop_front() else { break };
            whole.join(match piece {
                Piece::Here(fetched, records, limits) => {
                    self.reader.parse(&fetched, records, limits)
                }
                Piece::Apart(parsing) => parsing
                    .await
                    .map_err(|_| Error::Unavailable("reading the log was interrupted"))?,
            });
        }
        Ok(whole)
    }
}

enum Piece {
    Here(Fetched, u64, Limits),
    Apart(JoinHandle<Batch>),
}

#[cfg(test)]
mod tests {
    use base::{Base, OrganisationId};
    use eventlog::{EventLog, Record};

    use super::*;

    const COUNT: u64 = 5_000;

    /// A reading in most places, and something else in every hundredth.
    fn value(offset: u64) -> String {
        if offset % 100 == 7 {
            return format!("nothing {offset}");
        }
        let (device, hour, minute) = (offset % 3, offset / 60 % 24, offset % 60);
        let more = if offset.is_multiple_of(5) { r#","humid":2.0"# } else { "" };
        format!(
            r#"{{"device":"device-{device}","sensor":"weather","time":"2013-01-01T{hour:02}:{minute:02}:00Z","values":{{"temp":{offset}.5{more}}}}}"#
        )
    }

    async fn backlog(folder: &std::path::Path) -> (EventLog, Reader) {
        backlog_of(eventlog::Config { dir: folder.into(), ..Default::default() }).await
    }

    async fn backlog_of(config: eventlog::Config) -> (EventLog, Reader) {
        let base = Base::system();
        let log = EventLog::open(config, &base).await.unwrap();
        let readings = log.topic(OrganisationId::fixed(1), "readings").await.unwrap();
        for first in (0..COUNT).step_by(50) {
            let records = (first..first + 50).map(|offset| Record {
                timestamp: Timestamp::from_millis(1),
                key: None,
                value: value(offset).into_bytes().into(),
                headers: vec![(RECEIVED.to_owned(), (offset / 7).to_string().into())],
            });
            readings.append(0, records.collect()).await.unwrap();
        }
        (log, Reader { readings, partition: 0, clock: base.clock })
    }

    /// What a batch holds: offset, received, and the record as it is written again.
    fn told(batch: &Batch) -> Vec<(u64, Option<Timestamp>, String)> {
        let sheaf = &batch.sheaf;
        let readings = sheaf.items.iter().map(|item| {
            let json = sheaf.reading(item).to_json();
            (item.offset, item.received, String::from_utf8(json).unwrap())
        });
        let poison = batch
            .poison
            .iter()
            .map(|poison| (poison.offset, None, String::from_utf8(poison.value.clone()).unwrap()));
        let mut told: Vec<_> = readings.chain(poison).collect();
        told.sort_by_key(|(offset, ..)| *offset);
        told
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_backlog_is_read_once_however_it_is_cut() {
        let folder = tempfile::tempdir().unwrap();
        let (log, reader) = backlog(folder.path()).await;
        let all: Vec<_> = (0..COUNT)
            .map(|offset| {
                let received = i64::try_from(offset / 7).unwrap();
                let received = (offset % 100 != 7).then(|| Timestamp::from_micros(received));
                (offset, received, value(offset))
            })
            .collect();
        let mib = 1 << 20;
        for (piece_bytes, bytes, readings) in [
            (8 * mib, 8 * mib, 10_000),
            (10_000, mib, 10_000),
            (100_000, mib, 2_500),
            (150_000, 400_000, 999),
            (100_000, mib, 999),
        ] {
            let limits = Limits { bytes, piece_bytes, readings, until: u64::MAX };
            let (mut found, mut next) = (Vec::new(), 0);
            while next < COUNT {
                let batch = reader.read(next, limits).await.unwrap();
                assert!(batch.sheaf.items.len() <= readings);
                // Poison is beside them, and counts when pieces are wanted.
                let is_cut_by_bytes = bytes < mib;
                let least = (readings - readings / 50)
                    .min(usize::try_from(COUNT - next).unwrap() * 98 / 100);
                assert!(
                    is_cut_by_bytes || batch.sheaf.items.len() >= least,
                    "{piece_bytes}: {}",
                    batch.sheaf.items.len()
                );
                assert!(batch.next > next);
                next = batch.next;
                found.extend(told(&batch));
            }
            assert_eq!(found, all, "{piece_bytes} {bytes} {readings}");
            let end = reader.read(COUNT, limits).await.unwrap();
            assert_eq!((end.is_empty(), end.next), (true, COUNT));
        }
        let limits = Limits { bytes: mib, piece_bytes: 100_000, readings: 10_000, until: 1_234 };
        let batch = reader.read(0, limits).await.unwrap();
        assert_eq!((told(&batch), batch.next), (all[..1_234].to_vec(), 1_234));
        assert!(reader.read(COUNT + 1, limits).await.is_err(), "there is nothing yet");
        log.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_batch_has_more_than_one_fetch_gives() {
        let folder = tempfile::tempdir().unwrap();
        let config = eventlog::Config { dir: folder.path().into(), ..Default::default() };
        let (log, reader) =
            backlog_of(eventlog::Config { fetch_bytes_max: 50_000, ..config }).await;
        let limits =
            Limits { bytes: 1 << 20, piece_bytes: 40_000, readings: 10_000, until: u64::MAX };
        let batch = reader.read(0, limits).await.unwrap();
        assert_eq!((batch.next, told(&batch).len() as u64), (COUNT, COUNT));
        log.close().await;
    }
}
