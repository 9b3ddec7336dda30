use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use base::Timestamp;
use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use futures::StreamExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::delta::Version;
use crate::engine::{Engine, blocking};
use crate::files::{DataFile, Files};
use crate::rows::{ColumnType, Identities, Key, Rows, TableSpec, Value, day_of, key_at, row_at};
use crate::scan::{Scan, View};
use crate::tail::{Look, Tail};
use crate::{Config, Error};

/// Exchanges of rows that may wait for one table.
const EXCHANGES_MAX: usize = 1_000;

/// What is shown rows.
type See = Box<dyn FnMut(&[Value<'_>]) + Send>;

/// A table of one organisation; cloning shares it.
#[derive(Clone)]
pub struct Table {
    shared: Arc<Shared>,
    /// The owner task ends when the last handle is gone.
    _open: Arc<DropGuard>,
}

/// What the handles and the task that owns the table share.
pub(crate) struct Shared {
    pub(crate) spec: Arc<TableSpec>,
    pub(crate) config: Arc<Config>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) wake: Notify,
    pub(crate) closed: CancellationToken,
    pub(crate) folder: PathBuf,
    schema: SchemaRef,
    state: Mutex<State>,
    progress: watch::Sender<Progress>,
}

struct State {
    files: Arc<Files>,
    /// Rows that are being committed; they leave in the same moment as `files` gains them.
    flushing: Option<Arc<Tail>>,
    hot: Tail,
    /// The last offset per source that is in the table, committed or not.
    accepted: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    /// Counts appends; `flushing` reaches up to `flushing_sequence`.
    sequence: u64,
    flushing_sequence: u64,
    flush_asked: bool,
    exchanges: VecDeque<Exchange>,
}

/// Rows of one day that give place to others.
pub(crate) struct Exchange {
    pub(crate) day: i32,
    /// Those go that have this text in this column.
    pub(crate) column: usize,
    pub(crate) text: String,
    pub(crate) rows: Rows,
    pub(crate) answer: oneshot::Sender<Result<usize, Error>>,
}

#[derive(Debug, Clone, Default)]
struct Progress {
    /// The last append that is durable.
    committed: u64,
    failures: u64,
    error: Arc<str>,
    /// The owner is gone: at shutdown, or by a panic.
    ended: bool,
}

impl Progress {
    fn check(&self, failures: u64) -> Result<(), Error> {
        if self.ended {
            return Err(Error::Unavailable("the lake is closed".into()));
        }
        if self.failures > failures {
            return Err(Error::Unavailable(format!("rows cannot be written: {}", self.error)));
        }
        Ok(())
    }
}

/// What the owner finds to do.
pub(crate) struct Waiting {
    pub(crate) rows: bool,
    pub(crate) urgent: bool,
}

impl Table {
    pub(crate) fn new(
        spec: Arc<TableSpec>,
        config: Arc<Config>,
        engine: Arc<Engine>,
        version: Version,
        folder: PathBuf,
    ) -> (Self, Arc<Shared>) {
        let closed = CancellationToken::new();
        let state = State {
            files: Arc::new(version.files),
            flushing: None,
            hot: Tail::default(),
            accepted: version.offsets.clone(),
            durable: version.offsets,
            sequence: 0,
            flushing_sequence: 0,
            flush_asked: false,
            exchanges: VecDeque::new(),
        };
        let shared = Arc::new(Shared {
            schema: spec.schema(),
            spec,
            config,
            engine,
            wake: Notify::new(),
            closed: closed.clone(),
            folder,
            state: Mutex::new(state),
            progress: watch::Sender::new(Progress::default()),
        });
        (Self { shared: shared.clone(), _open: Arc::new(closed.drop_guard()) }, shared)
    }

    pub fn spec(&self) -> &TableSpec {
        &self.shared.spec
    }

    /// An empty batch for [`Table::append`].
    pub fn rows_builder(&self) -> Rows {
        Rows::new(&self.shared.spec).expect("the description was checked when the table was opened")
    }

    /// The same with memory for so many rows.
    pub fn rows_builder_for(&self, rows: usize) -> Rows {
        Rows::with_room(&self.shared.spec, rows)
            .expect("the description was checked when the table was opened")
    }

    /// The number of rows, without a query.
    pub fn rows(&self) -> u64 {
        let state = self.shared.state.lock();
        let flushing = state.flushing.as_ref().map_or(0, |tail| tail.rows);
        (state.files.rows + flushing + state.hot.rows) as u64
    }

    /// The last offset of `source` that is on disk: after a restart its owner continues with the next.
    pub fn durable(&self, source: &str) -> Option<u64> {
        self.shared.state.lock().durable.get(source).copied()
    }

    /// Adds the rows that `source` held up to `last_offset`. Queries see them when this returns; they are
    /// on disk when [`Table::durable`] has reached the offset. Offsets that are in already are ignored, so
    /// the batches of one source come in order, and after a restart begin at `durable + 1`.
    pub fn append<'a>(
        &'a self,
        source: &'a str,
        last_offset: u64,
        rows: Rows,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            if rows.spec() != &*shared.spec {
                let name = &shared.spec.name;
                return Err(Error::Invalid(format!("the rows were not made for table {name}")));
            }
            let mut rows = Some(rows);
            loop {
                shared.check_disk()?;
                let mut progress = shared.progress.subscribe();
                let failures = progress.borrow_and_update().failures;
                progress.borrow().check(failures)?;
                if shared.accept(source, last_offset, &mut rows)? {
                    shared.wake.notify_one();
                    return Ok(());
                }
                shared.wake.notify_one();
                // The sender lives as long as this handle.
                let _ = progress.changed().await;
                progress.borrow().check(failures)?;
            }
        })
    }

    /// Says for every key whether the table has a row of that identity.
    pub fn existing(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Vec<bool>, Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            if keys.len() > shared.config.existing_keys_max {
                return Err(Error::TooMany("lake.existing_keys_max"));
            }
            if keys.is_empty() {
                return Ok(Vec::new());
            }
            let (tails, files) = shared.looks();
            let work = shared.clone();
            blocking(move || async move { work.look_up(&keys, &tails, &files).await }).await
        })
    }

    /// Returns when every row accepted so far is on disk.
    pub fn flush(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            shared.check_disk()?;
            let mut progress = shared.progress.subscribe();
            let failures = progress.borrow().failures;
            let target = shared.state.lock().sequence;
            loop {
                {
                    let now = progress.borrow_and_update();
                    if now.committed >= target {
                        return Ok(());
                    }
                    now.check(failures)?;
                }
                shared.state.lock().flush_asked = true;
                shared.wake.notify_one();
                // The sender lives as long as this handle.
                let _ = progress.changed().await;
            }
        })
    }

    /// Puts rows in place of those of the UTC day of `time` that have this text in this column, in one commit; says how many
    /// went. Rows that wait to be committed are so before; such as are appended meanwhile stay.
    pub fn exchange<'a>(
        &'a self,
        time: Timestamp,
        (column, text): (&'a str, &'a str),
        rows: Rows,
    ) -> BoxFuture<'a, Result<usize, Error>> {
        Box::pin(async move {
            let shared = &self.shared;
            let place = shared.spec.columns.iter().position(|(name, _)| name == column);
            let place = place.filter(|place| shared.spec.columns[*place].1 == ColumnType::Text);
            let Some(column) = place else {
                return Err(Error::Invalid(format!("there is no column {column} of texts")));
            };
            if rows.spec() != &*shared.spec {
                let name = &shared.spec.name;
                return Err(Error::Invalid(format!("the rows were not made for table {name}")));
            }
            self.flush().await?;
            self.exchange_durable(day_of(time.micros()), (column, text), rows).await
        })
    }

    /// The same of rows that are on disk already.
    pub(crate) async fn exchange_durable(
        &self,
        day: i32,
        (column, text): (usize, &str),
        rows: Rows,
    ) -> Result<usize, Error> {
        let shared = &self.shared;
        let (answer, answered) = oneshot::channel();
        let text = text.to_owned();
        {
            let mut state = shared.state.lock();
            if shared.progress.borrow().ended {
                return Err(Error::Unavailable("the lake is closed".into()));
            }
            if state.exchanges.len() >= EXCHANGES_MAX {
                return Err(Error::TooMany("exchanges of rows wait"));
            }
            state.exchanges.push_back(Exchange { day, column, text, rows, answer });
        }
        shared.wake.notify_one();
        // The owner is gone: at shutdown, or by a panic.
        answered.await.map_err(|_| Error::Unavailable("the lake is closed".into()))?
    }

    /// The UTC days that have rows now, counted from 1970; no file is read.
    pub fn days(&self) -> BTreeSet<i64> {
        let View { files, tail, .. } = self.view();
        let time = self.shared.spec.index(&self.shared.spec.day_of);
        let of_tail = tail.iter().flat_map(|batch| {
            let times = batch.column(time).as_primitive::<TimestampMicrosecondType>();
            times.values().iter().map(|micros| day_of(*micros))
        });
        files.list.iter().map(|file| file.day).chain(of_tail).map(i64::from).collect()
    }

    /// Shows all rows of the UTC day of `time` that are there now, in no order, with what was seen so far.
    pub async fn visit_day<T: Send + 'static>(
        &self,
        time: Timestamp,
        seen: T,
        mut see: impl FnMut(&mut T, &[Value<'_>]) + Send + 'static,
    ) -> Result<T, Error> {
        let seen = Arc::new(Mutex::new(seen));
        let shared = seen.clone();
        self.see_day(time, Box::new(move |row| see(&mut shared.lock(), row))).await?;
        // What sees rows is gone with the visit.
        Arc::into_inner(seen)
            .map(Mutex::into_inner)
            .ok_or_else(|| Error::Unavailable("the visit goes on".into()))
    }

    fn see_day(&self, time: Timestamp, mut see: See) -> BoxFuture<'_, Result<(), Error>> {
        let shared = self.shared.clone();
        let View { files, tail, .. } = self.view();
        let day = day_of(time.micros());
        Box::pin(blocking(move || async move {
            let failed =
                |error| Error::internal(format!("read a day of {}", shared.spec.name), error);
            let time = shared.spec.index(&shared.spec.day_of);
            let mut row = Vec::new();
            for batch in &tail {
                for index in 0..batch.num_rows() {
                    row_at(batch.columns(), index, &mut row);
                    if matches!(row[time], Value::Time(at) if day_of(at.micros()) == day) {
                        see(&row);
                    }
                }
            }
            drop(row);
            let files: Vec<_> = files.list.iter().filter(|file| file.day == day).cloned().collect();
            if files.is_empty() {
                return Ok(());
            }
            let scan = Scan::whole(shared.schema.clone(), None);
            let mut rows = shared.engine.read(scan, &files).map_err(failed)?;
            while let Some(batch) = rows.next().await {
                let batch = batch.map_err(failed)?;
                let mut row = Vec::new();
                for index in 0..batch.num_rows() {
                    row_at(batch.columns(), index, &mut row);
                    see(&row);
                }
            }
            Ok(())
        }))
    }

    #[cfg(test)]
    pub(crate) fn begin_flush(&self) -> Arc<Tail> {
        self.shared.begin_flush().expect("rows wait")
    }

    pub(crate) fn view(&self) -> View {
        let state = self.shared.state.lock();
        let flushing = state.flushing.iter().flat_map(|tail| &tail.batches);
        View {
            schema: self.shared.schema.clone(),
            files: state.files.clone(),
            tail: flushing.chain(&state.hot.batches).cloned().collect(),
        }
    }
}

impl Shared {
    /// False when there is no room now.
    fn accept(
        &self,
        source: &str,
        last_offset: u64,
        rows: &mut Option<Rows>,
    ) -> Result<bool, Error> {
        let mut state = self.state.lock();
        if state.accepted.get(source).is_some_and(|accepted| *accepted >= last_offset) {
            return Ok(true);
        }
        let waiting = state.hot.rows + state.flushing.as_ref().map_or(0, |tail| tail.rows);
        let coming = rows.as_ref().map_or(0, Rows::len);
        if waiting > 0 && waiting + coming > self.config.tail_rows_max {
            state.flush_asked = true;
            return Ok(false);
        }
        if let Some(rows) = rows.take() {
            state.hot.push(source, last_offset, rows)?;
        }
        state.accepted.insert(source.to_owned(), last_offset);
        state.sequence += 1;
        Ok(true)
    }

    fn check_disk(&self) -> Result<(), Error> {
        match self.engine.sync.broken() {
            Some(text) => Err(Error::Unavailable(format!("{text}; restart to go on"))),
            None => Ok(()),
        }
    }

    pub(crate) fn waiting(&self) -> Waiting {
        let state = self.state.lock();
        let rows = state.flushing.is_some() || !state.hot.is_empty();
        // A commit that failed is tried again before rows are exchanged.
        let is_waited_for = state.flushing.is_some() && !state.exchanges.is_empty();
        let is_full = state.hot.rows >= self.config.flush_rows;
        let urgent = state.flush_asked || is_full || is_waited_for;
        Waiting { rows, urgent: rows && urgent }
    }

    pub(crate) fn next_exchange(&self) -> Option<Exchange> {
        self.state.lock().exchanges.pop_front()
    }

    /// The rows to commit next; again the same ones until [`Shared::committed`].
    pub(crate) fn begin_flush(&self) -> Option<Arc<Tail>> {
        let mut state = self.state.lock();
        state.flush_asked = false;
        if state.flushing.is_none() && !state.hot.is_empty() {
            state.flushing = Some(Arc::new(std::mem::take(&mut state.hot)));
            state.flushing_sequence = state.sequence;
        }
        state.flushing.clone()
    }

    /// The rows that were flushing are in `files`: the one moment in which they move.
    pub(crate) fn committed(&self, files: Files) {
        let committed = {
            let mut state = self.state.lock();
            state.files = Arc::new(files);
            if let Some(tail) = state.flushing.take() {
                state.durable.extend(tail.offsets.iter().map(|(key, value)| (key.clone(), *value)));
            }
            state.flushing_sequence
        };
        self.progress.send_modify(|progress| progress.committed = committed);
    }

    pub(crate) fn replaced(&self, files: Files) {
        self.state.lock().files = Arc::new(files);
    }

    pub(crate) fn failed(&self, error: &Error) {
        self.progress.send_modify(|progress| {
            progress.failures += 1;
            progress.error = cause(error).into();
        });
    }

    pub(crate) fn ended(&self) {
        self.progress.send_modify(|progress| progress.ended = true);
        self.state.lock().exchanges.clear();
    }

    pub(crate) fn files(&self) -> Arc<Files> {
        self.state.lock().files.clone()
    }

    /// Everything there is at one moment.
    fn looks(&self) -> (Vec<Look>, Arc<Files>) {
        let state = self.state.lock();
        let tails = state.flushing.as_deref().into_iter().chain([&state.hot]);
        (tails.map(Tail::look).collect(), state.files.clone())
    }

    async fn look_up(
        &self,
        keys: &[Key],
        tails: &[Look],
        files: &Files,
    ) -> Result<Vec<bool>, Error> {
        let identity: Vec<usize> =
            self.spec.identity.iter().map(|name| self.spec.index(name)).collect();
        let mut found = vec![false; keys.len()];
        for tail in tails {
            tail.mark(keys, &identity, &mut found)?;
        }
        let missing = || keys.iter().zip(&found).filter(|(_, found)| !**found).map(|(key, _)| key);
        let days = days_to_read(missing(), files, self.spec.index(&self.spec.day_of));
        if days.is_empty() {
            return Ok(found);
        }
        let wanted: Identities = missing().map(|key| key.bytes.clone()).collect();
        let seen = self.in_files(days, wanted).await?;
        for (key, found) in keys.iter().zip(&mut found) {
            *found |= seen.contains(&key.bytes);
        }
        Ok(found)
    }

    async fn in_files(&self, days: Vec<Day>, wanted: Identities) -> Result<Identities, Error> {
        let failed = |error| Error::internal(format!("look up rows of {}", self.spec.name), error);
        let columns: Vec<usize> =
            self.spec.identity.iter().map(|name| self.spec.index(name)).collect();
        let mut seen = Identities::new();
        let mut key = Vec::new();
        for day in days {
            let scan = Scan::whole(self.schema.clone(), Some(columns.clone()));
            let time = self.spec.index(&self.spec.day_of);
            let scan = scan.between(time, day.first, day.last);
            let mut rows = self.engine.read(scan, &day.files).map_err(failed)?;
            while let Some(batch) = rows.next().await {
                let batch = batch.map_err(failed)?;
                for row in 0..batch.num_rows() {
                    key_at(batch.columns(), row, &mut key)?;
                    if let Some(key) = wanted.get(key.as_slice()) {
                        seen.insert(key.clone());
                    }
                }
            }
        }
        Ok(seen)
    }
}

/// The first thing that went wrong, for people.
pub(crate) fn cause(error: &Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The part of one day that has to be read to look for some keys.
struct Day {
    first: i64,
    last: i64,
    files: Vec<Arc<DataFile>>,
}

fn days_to_read<'a>(keys: impl Iterator<Item = &'a Key>, files: &Files, day_of: usize) -> Vec<Day> {
    let mut days: HashMap<i32, Day> = HashMap::new();
    for key in keys {
        let new = || Day { first: key.time, last: key.time, files: Vec::new() };
        let day = days.entry(key.day()).or_insert_with(new);
        day.first = day.first.min(key.time);
        day.last = day.last.max(key.time);
    }
    if days.is_empty() {
        return Vec::new();
    }
    for file in &files.list {
        let Some(day) = days.get_mut(&file.day) else { continue };
        let (first, last) = file.times(day_of).unwrap_or((i64::MIN, i64::MAX));
        if first <= day.last && day.first <= last {
            day.files.push(file.clone());
        }
    }
    days.into_values().filter(|day| !day.files.is_empty()).collect()
}
