use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::Clock;
use rusqlite::config::DbConfig;
use rusqlite::ffi;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags};
use tokio::sync::Notify;

use super::keeper::Slot;
use crate::shared::{Shared, shortened};
use crate::work::Place;
use crate::{Error, Row, Value};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// Whether a connection is looked over before it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Accept,
    Verify,
}

/// One connection, and the closure that has it.
pub(crate) struct Session {
    connection: Connection,
    access: Access,
    shared: Arc<Shared>,
    deadline: Deadline,
    /// Set while a statement of ours runs: closures may not begin or end transactions.
    is_ours: Arc<AtomicBool>,
    /// Pages in the write-ahead log after the last commit of this connection.
    wal_pages: Arc<AtomicU32>,
    closure: Closure,
    /// Where it says which statement runs.
    slot: Option<Arc<Slot>>,
    /// After a fault of the machine, until the connection was opened again and verified.
    is_suspect: bool,
}

/// What is known of the closure that runs.
struct Closure {
    place: Place,
    limit: Duration,
    failed: Option<Error>,
    emitted: i64,
    sent: i64,
    statements: u64,
    wakes: Vec<Arc<Notify>>,
}

/// Operations of SQLite's machine between two looks at the clock.
const OPERATIONS_PER_LOOK: i32 = 2_000;
const BUSY_WAIT: Duration = Duration::from_secs(5);

impl Session {
    pub(crate) fn open(shared: &Arc<Shared>, access: Access) -> Result<Self, Error> {
        let deadline = Deadline::new(&shared.clock);
        let is_ours = Arc::new(AtomicBool::new(false));
        let wal_pages = Arc::new(AtomicU32::new(0));
        let mut session = Self {
            connection: Connection::open_in_memory().map_err(|error| opening(shared, error))?,
            access,
            shared: shared.clone(),
            deadline,
            is_ours,
            wal_pages,
            closure: Closure {
                place: std::panic::Location::caller(),
                limit: Duration::ZERO,
                failed: None,
                emitted: 0,
                sent: 0,
                statements: 0,
                wakes: Vec::new(),
            },
            slot: None,
            is_suspect: false,
        };
        session.connection =
            session.connect(Trust::Accept).map_err(|error| opening(shared, error))?;
        Ok(session)
    }

    /// Replaces the connection after a fault and looks the whole database over.
    pub(crate) fn reopen(&mut self) -> Result<(), Error> {
        let reopened = self.reconnect();
        reopened.map_err(|error| opening(&self.shared, error))?;
        self.is_suspect = false;
        Ok(())
    }

    fn reconnect(&mut self) -> rusqlite::Result<()> {
        // The old connection goes first: its view of the files is what is in doubt.
        self.connection = Connection::open_in_memory()?;
        let connection = self.connect(Trust::Verify)?;
        self.connection = connection;
        Ok(())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.is_suspect
    }

    pub(crate) fn wal_pages(&self) -> u32 {
        self.wal_pages.load(Ordering::Relaxed)
    }

    /// False once SQLite has given up the transaction, as it does after some errors.
    pub(crate) fn is_in_transaction(&self) -> bool {
        !self.connection.is_autocommit()
    }

    /// Makes the session the closure's.
    pub(crate) fn begin(&mut self, place: Place, limit: Duration) {
        self.closure = Closure {
            place,
            limit,
            failed: None,
            emitted: 0,
            sent: 0,
            statements: 0,
            wakes: Vec::new(),
        };
        self.deadline.set(limit);
    }

    /// Takes it back; gives the error of the statement that failed, if one did.
    pub(crate) fn end(&mut self) -> Option<Error> {
        self.deadline.clear();
        self.closure.failed.take()
    }

    /// Says from now on in the slot what it does.
    pub(crate) fn report_to(&mut self, slot: &Arc<Slot>) {
        self.slot = Some(slot.clone());
    }

    /// How many statements the closure ran.
    pub(crate) fn statements(&self) -> u64 {
        self.closure.statements
    }

    pub(crate) fn emitted(&self) -> i64 {
        self.closure.emitted
    }

    /// Counts what the closure added to the outbox, or took from it.
    pub(crate) fn emits(&mut self, by: i64) {
        self.closure.emitted += by;
    }

    pub(crate) fn sent(&self) -> i64 {
        self.closure.sent
    }

    /// Counts the commands that the closure sent, less those that it took away.
    pub(crate) fn sends(&mut self, by: i64) {
        self.closure.sent += by;
    }

    pub(crate) fn wake(&mut self, waiting: &Arc<Notify>) {
        self.closure.wakes.push(waiting.clone());
    }

    /// Gives, once, who is woken by the closure's commit.
    pub(crate) fn wakes(&mut self) -> Vec<Arc<Notify>> {
        std::mem::take(&mut self.closure.wakes)
    }

    /// Ends the closure's transaction as a failed statement does, and gives the error back.
    pub(crate) fn fail(&mut self, error: Error) -> Error {
        self.closure.failed.get_or_insert(error).clone()
    }

    /// Runs a statement of ours, such as `BEGIN IMMEDIATE`.
    pub(crate) fn own(&mut self, sql: &str) -> Result<(), Error> {
        self.own_raw(sql).map_err(|error| self.fault(sql, error))
    }

    /// Commits; keeps SQLite's error, for some do not concern the whole group.
    pub(crate) fn commit(&mut self) -> Result<(), Uncommitted> {
        #[cfg(test)]
        if take_one(&self.shared.faults.commits) {
            let error = ffi::Error::new(ffi::SQLITE_IOERR_FSYNC);
            let error = self.fault("COMMIT", rusqlite::Error::SqliteFailure(error, None));
            return Err(Uncommitted { error, is_of_one: false });
        }
        self.own_raw(COMMIT).map_err(|error| {
            let is_of_one = error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation);
            Uncommitted { error: self.fault("COMMIT", error), is_of_one }
        })
    }

    /// Ends the transaction without keeping anything, whatever state it is in.
    pub(crate) fn rollback(&mut self) {
        if self.is_in_transaction() && self.own(ROLLBACK).is_err() {
            self.is_suspect = true;
        }
    }

    /// Empties the write-ahead log if readers let it within `wait`.
    pub(crate) fn restart_wal(&mut self, wait: Duration) -> Result<bool, Error> {
        let restarted = self.connection.busy_timeout(wait).and_then(|()| {
            let mode = rusqlite::wal::CheckpointMode::RESTART;
            self.connection.wal_checkpoint_v2(None::<&str>, mode)
        });
        let restored = self.connection.busy_timeout(BUSY_WAIT);
        match restarted {
            Ok((pages, moved)) => {
                restored.map_err(|error| self.fault("busy_timeout", error))?;
                Ok(pages == moved)
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(false),
            Err(error) => Err(self.fault("wal_checkpoint", error)),
        }
    }

    /// Every row of the answer.
    pub(crate) fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, Error> {
        let rows_max = self.shared.config.rows_max;
        let (rows, more) = self
            .statement(sql, |connection| rows(&mut prepared(connection, sql, params)?, rows_max))?;
        if more { Err(Error::TooManyRows { rows_max }) } else { Ok(rows) }
    }

    /// The first row of the answer; the rest is not looked for.
    pub(crate) fn first(&mut self, sql: &str, params: &[Value]) -> Result<Option<Row>, Error> {
        let (mut rows, _) =
            self.statement(sql, |connection| rows(&mut prepared(connection, sql, params)?, 1))?;
        Ok(rows.pop())
    }

    pub(crate) fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Error> {
        let changed =
            self.statement(sql, |connection| prepared(connection, sql, params)?.raw_execute())?;
        Ok(changed as u64)
    }

    pub(crate) fn batch(&mut self, sql: &str) -> Result<(), Error> {
        self.statement(sql, |connection| connection.execute_batch(sql))
    }

    /// Runs one statement of the closure under its deadline, counted and timed.
    fn statement<T>(
        &mut self,
        sql: &str,
        run: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        match &self.closure.failed {
            // It was told that its time is over and goes on all the same, perhaps for ever: so it is ended.
            Some(error @ Error::TimedOut { .. }) => resume_unwind(Box::new(error.clone())),
            Some(error) => return Err(error.clone()),
            None => {}
        }
        let started = self.shared.clock.instant();
        self.closure.statements += 1;
        if let Some(slot) = &self.slot {
            slot.step(sql);
        }
        let ran = if self.deadline.is_over() {
            Err(self.timed_out())
        } else {
            run(&self.connection).map_err(|error| self.fault(sql, error))
        };
        if let Some(slot) = &self.slot {
            slot.step_ended();
        }
        let took = self.shared.clock.instant() - started;
        self.shared.statement_ran(self.closure.place, sql, took);
        ran.inspect_err(|error| self.closure.failed = Some(error.clone()))
    }

    fn own_raw(&self, sql: &str) -> rusqlite::Result<()> {
        self.is_ours.store(true, Ordering::Relaxed);
        let ran = self.connection.prepare_cached(sql).and_then(|mut ours| ours.raw_execute());
        self.is_ours.store(false, Ordering::Relaxed);
        ran.map(drop)
    }

    /// Says SQLite's error in the caller's words, and notes when the machine is at fault.
    fn fault(&mut self, sql: &str, error: rusqlite::Error) -> Error {
        let (code, extended) = match &error {
            rusqlite::Error::SqliteFailure(failure, _) => (failure.code, failure.extended_code),
            rusqlite::Error::SqlInputError { error, .. } => (error.code, error.extended_code),
            rusqlite::Error::InvalidParameterCount(given, wanted) => {
                return Error::Parameters { sql: shortened(sql), wanted: *wanted, given: *given };
            }
            _ => return Error::Statement { sql: shortened(sql), source: Arc::new(error) },
        };
        match code {
            ErrorCode::ConstraintViolation => constraint(extended, &error),
            ErrorCode::DiskFull => Error::Full { source: Arc::new(error) },
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Error::Conflict,
            ErrorCode::OperationInterrupted => self.timed_out(),
            ErrorCode::ReadOnly => Error::ReadOnly,
            ErrorCode::AuthorizationForStatementDenied => Error::Forbidden { sql: shortened(sql) },
            ErrorCode::SystemIoFailure
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase
            | ErrorCode::CannotOpen
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OutOfMemory => {
                self.is_suspect = true;
                Error::Unavailable { during: shortened(sql), source: Arc::new(error) }
            }
            _ => Error::Statement { sql: shortened(sql), source: Arc::new(error) },
        }
    }

    fn timed_out(&self) -> Error {
        Error::TimedOut { place: self.closure.place, limit: self.closure.limit }
    }

    fn connect(&self, trust: Trust) -> rusqlite::Result<Connection> {
        #[cfg(test)]
        if take_one(&self.shared.faults.opens) {
            return Err(rusqlite::Error::SqliteFailure(
                ffi::Error::new(ffi::SQLITE_CANTOPEN),
                None,
            ));
        }
        let mut connection = connect(&self.shared, self.access)?;
        if trust == Trust::Verify {
            verify(&connection)?;
        }
        let deadline = self.deadline.clone();
        connection.progress_handler(OPERATIONS_PER_LOOK, Some(move || deadline.is_over()))?;
        if self.access == Access::Write {
            let wal_pages = self.wal_pages.clone();
            connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, pages: i32| {
                wal_pages.store(u32::try_from(pages).unwrap_or(0), Ordering::Relaxed);
                Ok(())
            }))?;
        }
        let is_ours = self.is_ours.clone();
        connection.authorizer(Some(move |asked: AuthContext<'_>| {
            if is_ours.load(Ordering::Relaxed) { Authorization::Allow } else { allowed(&asked) }
        }))?;
        Ok(connection)
    }
}

/// Why a commit failed.
pub(crate) struct Uncommitted {
    pub(crate) error: Error,
    /// One closure's rows are to blame (a deferred foreign key), so the others can commit without it.
    pub(crate) is_of_one: bool,
}

// Each ends in a remark, so that no statement of a closure is the same text and taken from the cache.
pub(crate) const BEGIN_WRITE: &str = "BEGIN IMMEDIATE -- ours";
pub(crate) const BEGIN_READ: &str = "BEGIN -- ours";
pub(crate) const COMMIT: &str = "COMMIT -- ours";
pub(crate) const ROLLBACK: &str = "ROLLBACK -- ours";
pub(crate) const SAVEPOINT: &str = "SAVEPOINT work -- ours";
pub(crate) const RELEASE: &str = "RELEASE work -- ours";
pub(crate) const ROLLBACK_TO: &str = "ROLLBACK TO work -- ours";

/// Opens a connection with every setting that durability and the limits ask for.
pub(crate) fn connect(shared: &Shared, access: Access) -> rusqlite::Result<Connection> {
    let config = &shared.config;
    let flags = match access {
        Access::Read => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
    };
    let connection =
        Connection::open_with_flags(&config.path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_WAIT)?;
    connection.set_prepared_statement_cache_capacity(config.statements_kept_max);
    // Names are never text: `"x"` is a column or an error, as elsewhere.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    // Otherwise each run of a statement with `LIMIT ?` plans it anew.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // A failed read of a mapped page would kill the process, so nothing is mapped.
    connection.pragma_update(None, "mmap_size", 0)?;
    let cache_bytes = match access {
        Access::Write => config.cache_bytes / 2,
        Access::Read => config.cache_bytes / 2 / config.readers() as u64,
    };
    let cache_kib = i64::try_from(cache_bytes >> 10).unwrap_or(i64::MAX).max(1);
    connection.pragma_update(None, "cache_size", -cache_kib)?;
    if access == Access::Read {
        connection.pragma_update(None, "query_only", true)?;
        return Ok(connection);
    }
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if !mode.eq_ignore_ascii_case("wal") {
        let error = ffi::Error::new(ffi::SQLITE_CANTOPEN);
        let text = format!("the file system allows no write-ahead log, only {mode}");
        return Err(rusqlite::Error::SqliteFailure(error, Some(text)));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // What is deleted is overwritten: who was forgotten must not lie in a free page of a backup.
    connection.pragma_update_and_check(None, "secure_delete", true, |_| Ok(()))?;
    // The keeper does it, so that no commit waits for it.
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    let wal_bytes_max = i64::try_from(config.wal_bytes_max).unwrap_or(i64::MAX);
    connection.pragma_update(None, "journal_size_limit", wal_bytes_max)?;
    if config.database_bytes_max > 0 {
        let page_bytes: i64 = connection.pragma_query_value(None, "page_size", |row| row.get(0))?;
        let bytes_max = i64::try_from(config.database_bytes_max).unwrap_or(i64::MAX);
        let pages_max = (bytes_max / page_bytes.max(1)).max(1);
        connection.pragma_update_and_check(None, "max_page_count", pages_max, |_| Ok(()))?;
    }
    Ok(connection)
}

/// Reads the whole database and its structure.
fn verify(connection: &Connection) -> rusqlite::Result<()> {
    let found: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if found == "ok" {
        return Ok(());
    }
    let error = ffi::Error::new(ffi::SQLITE_CORRUPT);
    Err(rusqlite::Error::SqliteFailure(error, Some(found)))
}

/// When the running closure's time is over; looked at by SQLite's progress handler.
#[derive(Clone)]
struct Deadline {
    clock: Clock,
    origin: Instant,
    /// Microseconds after the origin; 0 for never.
    at: Arc<AtomicU64>,
}

impl Deadline {
    fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), origin: clock.instant(), at: Arc::default() }
    }

    fn set(&self, limit: Duration) {
        self.at.store(micros(self.elapsed().saturating_add(limit)).max(1), Ordering::Relaxed);
    }

    fn clear(&self) {
        self.at.store(0, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        let at = self.at.load(Ordering::Relaxed);
        at != 0 && micros(self.elapsed()) >= at
    }

    fn elapsed(&self) -> Duration {
        self.clock.instant().saturating_duration_since(self.origin)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What a closure may not do: touch the transaction that it shares, the settings, or other files.
fn allowed(asked: &AuthContext<'_>) -> Authorization {
    match asked.action {
        // They only look: at the tables, and (for `ALTER TABLE`) whether the rows keep its rules.
        AuthAction::Pragma {
            pragma_name:
                "table_info" | "index_list" | "index_info" | "foreign_key_list" | "quick_check",
            ..
        } => Authorization::Allow,
        AuthAction::Transaction { .. }
        | AuthAction::Savepoint { .. }
        | AuthAction::Pragma { .. }
        | AuthAction::Attach { .. }
        | AuthAction::Detach { .. } => Authorization::Deny,
        _ => Authorization::Allow,
    }
}

fn prepared<'a>(
    connection: &'a Connection,
    sql: &str,
    params: &[Value],
) -> rusqlite::Result<CachedStatement<'a>> {
    let mut statement = connection.prepare_cached(sql)?;
    let wanted = statement.parameter_count();
    if wanted != params.len() {
        return Err(rusqlite::Error::InvalidParameterCount(params.len(), wanted));
    }
    for (position, value) in params.iter().enumerate() {
        statement.raw_bind_parameter(position + 1, Bound(value))?;
    }
    Ok(statement)
}

/// Lends a value to SQLite.
struct Bound<'a>(&'a Value);

impl rusqlite::ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Int(number) => ValueRef::Integer(*number),
            Value::Real(number) => ValueRef::Real(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// At most `rows_max` rows, and whether there are more.
fn rows(
    statement: &mut CachedStatement<'_>,
    rows_max: usize,
) -> rusqlite::Result<(Vec<Row>, bool)> {
    let columns: Arc<[Box<str>]> = statement.column_names().map(Box::from).collect();
    let mut cursor = statement.raw_query();
    let mut rows = Vec::new();
    while let Some(row) = cursor.next()? {
        if rows.len() == rows_max {
            return Ok((rows, true));
        }
        let mut values = Vec::with_capacity(columns.len());
        for place in 0..columns.len() {
            values.push(match row.get_ref(place)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(number) => Value::Int(number),
                ValueRef::Real(number) => Value::Real(number),
                ValueRef::Text(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
                ValueRef::Blob(bytes) => Value::Blob(bytes.to_owned()),
            });
        }
        rows.push(Row::new(columns.clone(), values));
    }
    Ok((rows, false))
}

/// Tells the rules apart by SQLite's extended codes, <https://sqlite.org/rescode.html>.
fn constraint(extended: i32, error: &rusqlite::Error) -> Error {
    let text = error.to_string();
    let named = text.split_once(": ").map_or(text.as_str(), |(_, name)| name).to_owned();
    match extended {
        ffi::SQLITE_CONSTRAINT_UNIQUE
        | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
        | ffi::SQLITE_CONSTRAINT_ROWID => Error::AlreadyExists { constraint: named },
        ffi::SQLITE_CONSTRAINT_FOREIGNKEY => Error::Reference,
        _ => Error::Rule { rule: named },
    }
}

fn opening(shared: &Shared, error: rusqlite::Error) -> Error {
    Error::Unavailable {
        during: format!("open {}", shared.config.path.display()),
        source: Arc::new(error),
    }
}

#[cfg(test)]
fn take_one(faults: &AtomicU32) -> bool {
    let less = |count: u32| count.checked_sub(1);
    faults.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
}
