use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::dialect::{Dialect, first_word};
use crate::outbox::Row as Event;
use crate::shared::{Shared, shortened};
use crate::sqlite::Slot;
use crate::work::{Place, Verdict};
use crate::{Error, Row, Value};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// One connection to a database over the network. Every call is waited for on the thread that makes it.
pub(crate) trait Driver: Send {
    fn dialect(&self) -> Dialect;

    /// Connects, unless it is connected.
    fn connect(&mut self, limit: Duration) -> Result<(), Trouble>;

    /// What runs next is one transaction.
    fn begin(&mut self) -> Result<(), Trouble>;

    fn run(&mut self, run: Run<'_>) -> Result<Ran, Trouble>;

    /// Runs statements one after another whose answers nobody waits for.
    fn flush(&mut self, later: Vec<Later>, limit: Duration) -> Result<(), Trouble>;

    /// Runs the statements that are left, tells the events and commits, in this order.
    fn commit(&mut self, last: Last, limit: Duration) -> Result<(), Trouble>;

    /// Ends the transaction without keeping anything; the connection is let go when that fails.
    fn rollback(&mut self);

    /// Runs a statement of a migration, which some databases commit at once.
    fn schema(&mut self, sql: &str, limit: Duration) -> Result<(), Trouble>;

    /// Keeps other servers from migrating until this transaction ends.
    fn lock_schema(&mut self, limit: Duration) -> Result<(), Trouble>;
}

/// One statement of a closure.
pub(crate) struct Run<'a> {
    pub(crate) sql: &'a Arc<str>,
    pub(crate) params: &'a [Value],
    /// Rows that are wanted; nothing where only the number of changes is.
    pub(crate) rows_max: Option<usize>,
    pub(crate) limit: Duration,
}

#[derive(Default)]
pub(crate) struct Ran {
    pub(crate) rows: Vec<Row>,
    /// There are more rows than were wanted.
    pub(crate) has_more: bool,
    pub(crate) changed: u64,
}

/// A statement whose answer its closure does not need.
pub(crate) struct Later {
    pub(crate) sql: Arc<str>,
    pub(crate) params: Vec<Value>,
}

/// What goes to the database together with the commit.
#[derive(Default)]
pub(crate) struct Last {
    pub(crate) later: Vec<Later>,
    pub(crate) events: Vec<Event>,
}

/// Why a statement or a commit failed.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It lost against another transaction: the closure runs again.
    Lost,
    /// The connection is gone and nothing is committed: the closure runs again on another one.
    Cut(Error),
    TimedOut,
    /// A migration's statement that was run before.
    Repeated,
    Of(Error),
}

pub(crate) struct Session {
    driver: Box<dyn Driver>,
    shared: Arc<Shared>,
    /// Statements in the database's words, with the number of their parameters.
    said: HashMap<Box<str>, (Arc<str>, usize)>,
    closure: Closure,
    /// Where it is said which statement runs.
    slot: Option<Arc<Slot>>,
}

/// What is known of the closure that runs.
struct Closure {
    place: Place,
    limit: Duration,
    until: Instant,
    failed: Option<Error>,
    /// The failure is not the closure's: it can run again.
    is_again: bool,
    has_changed: bool,
    emitted: i64,
    sent: i64,
    statements: u64,
    last: Last,
    wakes: Vec<Arc<Notify>>,
}

/// What becomes of a closure that has run.
pub(crate) enum Ended {
    /// It is committed, or it did not want to be.
    AsItSaid,
    Failed(Error),
    /// It runs again while there is time; else this is the error.
    Again(Error),
}

impl Trouble {
    /// Nobody answers.
    pub(crate) fn gone() -> Self {
        Self::Cut(unanswered())
    }

    /// The same about a commit: where it is not known whether it came to be, it cannot run again.
    pub(crate) fn of_commit(self) -> Self {
        match self {
            Self::Cut(error) => Self::Of(error),
            Self::TimedOut => Self::Of(unanswered()),
            trouble => trouble,
        }
    }
}

fn unanswered() -> Error {
    let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
    Error::Unavailable { during: "connect".into(), source: Arc::new(source) }
}

impl Session {
    pub(crate) fn new(driver: Box<dyn Driver>, shared: &Arc<Shared>) -> Self {
        let closure = Closure {
            place: std::panic::Location::caller(),
            limit: Duration::ZERO,
            until: shared.clock.instant(),
            failed: None,
            is_again: false,
            has_changed: false,
            emitted: 0,
            sent: 0,
            statements: 0,
            last: Last::default(),
            wakes: Vec::new(),
        };
        Self { driver, shared: shared.clone(), said: HashMap::new(), closure, slot: None }
    }

    /// Connects before the first closure does, for the error.
    pub(crate) fn connect(&mut self) -> Result<(), Error> {
        let limit = self.shared.config.connect_wait_max;
        self.driver.connect(limit).map_err(|trouble| self.error(trouble).0)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.driver.dialect()
    }

    pub(crate) fn emitted(&self) -> i64 {
        self.closure.emitted
    }

    pub(crate) fn emits(&mut self, by: i64) {
        self.closure.emitted += by;
    }

    pub(crate) fn report_to(&mut self, slot: &Arc<Slot>) {
        self.slot = Some(slot.clone());
    }

    /// Statements of the closure that runs.
    pub(crate) fn statements(&self) -> u64 {
        self.closure.statements
    }

    pub(crate) fn sent(&self) -> i64 {
        self.closure.sent
    }

    pub(crate) fn sends(&mut self, by: i64) {
        self.closure.sent += by;
    }

    pub(crate) fn wake(&mut self, waiting: &Arc<Notify>) {
        self.closure.wakes.push(waiting.clone());
    }

    /// Who is woken by the closure's commit.
    pub(crate) fn wakes(&self) -> &[Arc<Notify>] {
        &self.closure.wakes
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.shared.meter.statements.inc();
        self.closure.statements += 1;
        self.closure.last.events.push(event);
    }

    pub(crate) fn fail(&mut self, error: Error) -> Error {
        self.closure.failed.get_or_insert(error).clone()
    }

    /// Begins a transaction for a closure that may run until `until`.
    pub(crate) fn begin(
        &mut self,
        place: Place,
        limit: Duration,
        until: Instant,
    ) -> Result<(), Ended> {
        self.closure.place = place;
        self.closure.limit = limit;
        self.closure.until = until;
        self.closure.failed = None;
        self.closure.is_again = false;
        self.closure.has_changed = false;
        self.closure.emitted = 0;
        self.closure.sent = 0;
        self.closure.statements = 0;
        self.closure.last = Last::default();
        self.closure.wakes.clear();
        let begun = self.driver.connect(self.left().min(self.shared.config.connect_wait_max));
        begun.and_then(|()| self.driver.begin()).map_err(|trouble| {
            let (error, is_again) = self.error(trouble);
            if is_again { Ended::Again(error) } else { Ended::Failed(error) }
        })
    }

    /// Commits what the closure wants kept.
    pub(crate) fn end(&mut self, said: Result<Verdict, Error>) -> Ended {
        let failed = self.closure.failed.take();
        let keeps = match (said, failed) {
            (_, Some(error)) if self.closure.is_again => {
                self.driver.rollback();
                return Ended::Again(error);
            }
            (Err(error), _) | (Ok(Verdict::Keep), Some(error)) => {
                self.driver.rollback();
                return Ended::Failed(error);
            }
            (Ok(Verdict::Drop), Some(_)) => false,
            (Ok(Verdict::Keep), None) => true,
            // What it saw counts only if the commit says that it could be seen, so that is asked.
            (Ok(Verdict::Drop), None) => !self.closure.has_changed,
        };
        if !keeps {
            self.driver.rollback();
            return Ended::AsItSaid;
        }
        let last = std::mem::take(&mut self.closure.last);
        let started = self.shared.clock.instant();
        // A commit is given time even when the closure has used up its own.
        let limit = self.left().max(COMMIT_WAIT);
        let committed = self.driver.commit(last, limit);
        let took = self.shared.clock.instant() - started;
        match committed {
            Ok(()) => {
                self.shared.meter.commit_seconds.observe(took.as_secs_f64());
                Ended::AsItSaid
            }
            Err(trouble) => {
                self.driver.rollback();
                let (error, is_again) = self.error(trouble);
                if is_again { Ended::Again(error) } else { Ended::Failed(error) }
            }
        }
    }

    pub(crate) fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, Error> {
        let rows_max = self.shared.config.rows_max;
        let ran = self.statement(sql, params, Some(rows_max))?;
        if ran.has_more {
            return Err(self.fail(Error::TooManyRows { rows_max }));
        }
        Ok(ran.rows)
    }

    pub(crate) fn first(&mut self, sql: &str, params: &[Value]) -> Result<Option<Row>, Error> {
        Ok(self.statement(sql, params, Some(1))?.rows.pop())
    }

    /// A look that is nobody's statement.
    pub(crate) fn look(&mut self, sql: &str) -> Result<Option<Row>, Error> {
        let limit = self.left();
        let looked = self.translated(sql, &[]).and_then(|sql| {
            self.driver.run(Run { sql: &sql, params: &[], rows_max: Some(1), limit })
        });
        looked.map(|mut ran| ran.rows.pop()).map_err(|trouble| self.failed(trouble, sql))
    }

    pub(crate) fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Error> {
        self.closure.has_changed = true;
        Ok(self.statement(sql, params, None)?.changed)
    }

    /// Runs a statement with the next one, or with the commit.
    pub(crate) fn execute_later(&mut self, sql: &str, params: &[Value]) -> Result<(), Error> {
        if let Some(error) = &self.closure.failed {
            return Err(error.clone());
        }
        if self.closure.last.later.len() >= LATER_MAX {
            self.flush()?;
        }
        self.closure.statements += 1;
        self.closure.has_changed = true;
        self.shared.meter.statements.inc();
        match self.translated(sql, params) {
            Ok(sql) => self.closure.last.later.push(Later { sql, params: params.to_vec() }),
            Err(trouble) => return Err(self.failed(trouble, sql)),
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        let later = std::mem::take(&mut self.closure.last.later);
        let Some(first) = later.first() else { return Ok(()) };
        let sql = match later.len() {
            1 => first.sql.clone(),
            more => format!("{more} statements from {}", first.sql).into(),
        };
        if let Some(slot) = &self.slot {
            slot.step(&sql);
        }
        let started = self.shared.clock.instant();
        let limit = self.left();
        let ran =
            if limit.is_zero() { Err(Trouble::TimedOut) } else { self.driver.flush(later, limit) };
        if let Some(slot) = &self.slot {
            slot.step_ended();
        }
        let took = self.shared.clock.instant() - started;
        self.shared.statement_took(self.closure.place, &sql, took);
        ran.map_err(|trouble| self.failed(trouble, &sql))
    }

    /// A statement of a migration.
    pub(crate) fn schema(&mut self, sql: &str, is_repeated: bool) -> Result<(), Error> {
        if let Some(error) = &self.closure.failed {
            return Err(error.clone());
        }
        self.flush()?;
        self.closure.has_changed = true;
        let limit = self.left();
        match self.driver.schema(sql, limit) {
            Err(Trouble::Repeated) if is_repeated => Ok(()),
            ran => ran.map_err(|trouble| self.failed(trouble, sql)),
        }
    }

    pub(crate) fn lock_schema(&mut self) -> Result<(), Error> {
        let limit = self.left();
        self.driver.lock_schema(limit).map_err(|trouble| self.failed(trouble, "lock the schema"))
    }

    fn statement(
        &mut self,
        sql: &str,
        params: &[Value],
        rows_max: Option<usize>,
    ) -> Result<Ran, Error> {
        if let Some(error) = &self.closure.failed {
            return Err(error.clone());
        }
        self.flush()?;
        self.closure.statements += 1;
        if let Some(slot) = &self.slot {
            slot.step(sql);
        }
        let started = self.shared.clock.instant();
        let ran = if started >= self.closure.until {
            Err(Trouble::TimedOut)
        } else {
            self.translated(sql, params).and_then(|said| {
                let limit = self.left();
                self.driver.run(Run { sql: &said, params, rows_max, limit })
            })
        };
        if let Some(slot) = &self.slot {
            slot.step_ended();
        }
        let took = self.shared.clock.instant() - started;
        self.shared.statement_ran(self.closure.place, sql, took);
        ran.map_err(|trouble| self.failed(trouble, sql))
    }

    fn translated(&mut self, sql: &str, params: &[Value]) -> Result<Arc<str>, Trouble> {
        if let Some((said, wanted)) = self.said.get(sql) {
            check_count(sql, *wanted, params.len())?;
            return Ok(said.clone());
        }
        if !matches!(first_word(sql), "SELECT" | "INSERT" | "UPDATE" | "DELETE" | "WITH") {
            return Err(Trouble::Of(Error::Forbidden { sql: shortened(sql) }));
        }
        let (said, wanted) = self.driver.dialect().statement(sql);
        check_count(sql, wanted, params.len())?;
        let said: Arc<str> = said.into();
        if self.said.len() >= self.shared.config.statements_kept_max {
            self.said.clear();
        }
        self.said.insert(sql.into(), (said.clone(), wanted));
        Ok(said)
    }

    fn failed(&mut self, trouble: Trouble, sql: &str) -> Error {
        let (error, is_again) = self.error(trouble);
        let error = match error {
            Error::Statement { source, .. } => Error::Statement { sql: shortened(sql), source },
            Error::Unavailable { source, .. } => {
                Error::Unavailable { during: shortened(sql), source }
            }
            error => error,
        };
        self.closure.is_again = is_again;
        self.closure.failed = Some(error.clone());
        error
    }

    /// The error in the caller's words, and whether the closure can run again.
    fn error(&self, trouble: Trouble) -> (Error, bool) {
        let Closure { place, limit, .. } = self.closure;
        match trouble {
            Trouble::Lost => (Error::Conflict, true),
            Trouble::Cut(error) => (error, true),
            Trouble::TimedOut => (Error::TimedOut { place, limit }, false),
            Trouble::Repeated => {
                (Error::Rule { rule: "the table, column or index is there already".into() }, false)
            }
            Trouble::Of(error) => (error, false),
        }
    }

    fn left(&self) -> Duration {
        self.closure.until.saturating_duration_since(self.shared.clock.instant())
    }
}

fn check_count(sql: &str, wanted: usize, given: usize) -> Result<(), Trouble> {
    if wanted == given {
        return Ok(());
    }
    Err(Trouble::Of(Error::Parameters { sql: shortened(sql), wanted, given }))
}

const COMMIT_WAIT: Duration = Duration::from_secs(5);
/// Statements whose answers nobody waits for, of one closure at a time.
const LATER_MAX: usize = 16;
