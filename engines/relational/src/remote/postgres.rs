use std::collections::HashMap;
use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, StreamExt};
use tokio::runtime::Runtime;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, NoTls, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::session::{Access, Driver, Last, Later, Ran, Run, Trouble};
use super::tls;
use super::wait::{Wrong, runtime, within};
use crate::dialect::Dialect;
use crate::outbox;
use crate::{Config, Error, Row, Value};

/// One connection to PostgreSQL, <https://www.postgresql.org/docs/15/protocol.html>.
pub(crate) struct Postgres {
    config: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
    access: Access,
    settings: String,
    statements_max: usize,
    runtime: Runtime,
    client: Option<Client>,
    statements: HashMap<Arc<str>, Statement>,
    lock_key: Arc<str>,
    insert_event: Arc<str>,
    phase: Phase,
}

/// `BEGIN` is sent together with the first statement: one way to the server and back less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    Asked,
    Open,
}

const CANCEL_WAIT: Duration = Duration::from_secs(1);
const ROLLBACK_WAIT: Duration = Duration::from_secs(2);
/// Requests that are under way together; so few are sent in the order in which they are listed.
const PIPELINED_MAX: usize = 16;
/// Held until the commit, so that the events of a key are numbered in the order of their commits.
const LOCK_KEY: &str = "SELECT pg_advisory_xact_lock(1835101543, $1)";

impl Postgres {
    pub(crate) fn new(rows: &Config, access: Access) -> Result<Self, Error> {
        let url = rows.url.text();
        let wrong = |error: tokio_postgres::Error| {
            // The error itself only says that it is one.
            let problem = match error.source() {
                Some(source) => source.to_string(),
                None => error.to_string(),
            };
            Error::Config(format!("url: {problem}"))
        };
        let mut config: tokio_postgres::Config = url.parse().map_err(wrong)?;
        let is_local = config.get_hosts().iter().all(|host| match host {
            Host::Tcp(host) => tls::is_local(host),
            Host::Unix(_) => true,
        });
        if !url.contains("sslmode=") {
            config.ssl_mode(if is_local { SslMode::Disable } else { SslMode::Require });
        }
        config.connect_timeout(rows.connect_wait_max);
        config.application_name("madang");
        config.keepalives_idle(Duration::from_secs(30));
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(MakeRustlsConnect::new(tls::client(rows)?)),
        };
        let longest = rows.write_time_max.max(rows.read_time_max).as_millis();
        // A writer's statements look rows up by an index whatever their values are: so they are planned once, and a
        // look at a small table conflicts only with changes of what it looked at.
        let (seqscan, plans) = match access {
            Access::Write => ("off", "force_generic_plan"),
            Access::Read => ("on", "auto"),
        };
        // Compiling a statement takes longer than such statements run, and a table that can only be read whole
        // counts as expensive enough for it.
        let settings = format!(
            "SET default_transaction_isolation = 'serializable';
             SET statement_timeout = {longest};
             SET idle_in_transaction_session_timeout = {longest};
             SET standard_conforming_strings = on;
             SET enable_seqscan = {seqscan};
             SET plan_cache_mode = {plans};
             SET jit = off;
             SELECT set_config('synchronous_commit', 'on', false)
                 WHERE current_setting('synchronous_commit') IN ('off', 'local')"
        );
        Ok(Self {
            config,
            tls,
            access,
            settings,
            statements_max: rows.statements_kept_max,
            runtime: runtime()?,
            client: None,
            statements: HashMap::new(),
            lock_key: LOCK_KEY.into(),
            insert_event: Dialect::Postgres.statement(outbox::INSERT).0.into(),
            phase: Phase::Idle,
        })
    }

    fn begin_words(&self) -> &'static str {
        match self.access {
            Access::Write => "BEGIN",
            Access::Read => "BEGIN READ ONLY",
        }
    }

    /// The statement, prepared once per connection.
    fn prepare(&mut self, sql: &Arc<str>, limit: Duration) -> Result<Statement, Trouble> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let Some(client) = &self.client else { return Err(Trouble::gone()) };
        let prepared = within(&self.runtime, limit, client.prepare(sql));
        let statement = prepared.map_err(|wrong| self.trouble(wrong))?;
        if self.statements.len() >= self.statements_max {
            self.statements.clear();
        }
        self.statements.insert(sql.clone(), statement.clone());
        Ok(statement)
    }

    fn prepare_all(
        &mut self,
        later: Vec<Later>,
        limit: Duration,
    ) -> Result<Vec<(Statement, Later)>, Trouble> {
        let prepare = |later: Later| Ok((self.prepare(&later.sql, limit)?, later));
        later.into_iter().map(prepare).collect()
    }

    /// Says PostgreSQL's error in the caller's words, and lets a connection go that is no longer of use.
    fn trouble(&mut self, wrong: Wrong<tokio_postgres::Error>) -> Trouble {
        let error = match wrong {
            Wrong::Late => {
                self.cancel();
                return Trouble::TimedOut;
            }
            Wrong::Error(error) => error,
        };
        let code = error.code().cloned();
        let is_gone = error.is_closed()
            || error.source().is_some_and(<dyn std::error::Error>::is::<std::io::Error>);
        let Some(code) = code else {
            let error = Arc::new(error);
            if is_gone {
                self.client = None;
                return Trouble::Cut(Error::Unavailable {
                    during: "connection".into(),
                    source: error,
                });
            }
            return Trouble::Of(Error::Statement { sql: String::new(), source: error });
        };
        let is_stale =
            code == SqlState::FEATURE_NOT_SUPPORTED && error.to_string().contains("cached plan");
        if is_stale {
            self.statements.clear();
            return Trouble::Lost;
        }
        let trouble = of_code(&code, error);
        if matches!(trouble, Trouble::Cut(_)) {
            self.client = None;
        }
        trouble
    }

    /// Asks the server to end what runs, and lets the connection go.
    fn cancel(&mut self) {
        let Some(client) = self.client.take() else { return };
        let token = client.cancel_token();
        let cancelled = match &self.tls {
            None => within(&self.runtime, CANCEL_WAIT, token.cancel_query(NoTls)),
            Some(tls) => within(&self.runtime, CANCEL_WAIT, token.cancel_query(tls.clone())),
        };
        if cancelled.is_err() {
            tracing::warn!("a statement that ran too long could not be cancelled");
        }
    }
}

impl Driver for Postgres {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn connect(&mut self, limit: Duration) -> Result<(), Trouble> {
        if self.client.as_ref().is_some_and(|client| !client.is_closed()) {
            return Ok(());
        }
        self.statements.clear();
        self.phase = Phase::Idle;
        self.client = None;
        let (config, settings, tls) = (&self.config, &self.settings, self.tls.clone());
        let opened = within(&self.runtime, limit, async move {
            let client = match tls {
                None => {
                    let (client, connection) = config.connect(NoTls).await?;
                    tokio::runtime::Handle::current().spawn(connection.map(drop));
                    client
                }
                Some(tls) => {
                    let (client, connection) = config.connect(tls).await?;
                    tokio::runtime::Handle::current().spawn(connection.map(drop));
                    client
                }
            };
            client.batch_execute(settings).await?;
            Ok::<_, tokio_postgres::Error>(client)
        });
        match opened {
            Ok(client) => self.client = Some(client),
            Err(Wrong::Late) => return Err(Trouble::gone()),
            Err(Wrong::Error(error)) => {
                let source = Arc::new(error);
                return Err(Trouble::Cut(Error::Unavailable { during: "connect".into(), source }));
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Trouble> {
        self.phase = Phase::Asked;
        Ok(())
    }

    fn run(&mut self, run: Run<'_>) -> Result<Ran, Trouble> {
        let statement = self.prepare(run.sql, run.limit)?;
        let begin = (self.phase == Phase::Asked).then(|| self.begin_words());
        self.phase = Phase::Open;
        let Some(client) = &self.client else { return Err(Trouble::gone()) };
        let params: Vec<Param<'_>> = run.params.iter().map(Param).collect();
        let ran = within(&self.runtime, run.limit, async {
            let ran = answer(client, &statement, &params, run.rows_max);
            match begin {
                None => ran.await,
                Some(begin) => {
                    let (begun, ran) = tokio::join!(biased; client.batch_execute(begin), ran);
                    begun.and(ran)
                }
            }
        });
        ran.map_err(|wrong| self.trouble(wrong))
    }

    fn flush(&mut self, later: Vec<Later>, limit: Duration) -> Result<(), Trouble> {
        let later = self.prepare_all(later, limit)?;
        let begin = (self.phase == Phase::Asked).then(|| self.begin_words());
        self.phase = Phase::Open;
        let Some(client) = &self.client else { return Err(Trouble::gone()) };
        let mut requests = Vec::new();
        requests.extend(begin.map(|begin| client.batch_execute(begin).boxed()));
        requests.extend(later.into_iter().map(|later| run_later(client, later)));
        let ran = within(&self.runtime, limit, pipelined(requests));
        ran.map_err(|wrong| self.trouble(wrong))
    }

    fn commit(&mut self, last: Last, limit: Duration) -> Result<(), Trouble> {
        let Last { later, events } = last;
        if self.phase == Phase::Asked && events.is_empty() && later.is_empty() {
            self.phase = Phase::Idle;
            return Ok(());
        }
        let later = self.prepare_all(later, limit)?;
        let (mut lock, mut insert) = (None, None);
        if !events.is_empty() {
            let (lock_key, insert_event) = (self.lock_key.clone(), self.insert_event.clone());
            lock = Some(self.prepare(&lock_key, limit)?);
            insert = Some(self.prepare(&insert_event, limit)?);
        }
        let begin = (self.phase == Phase::Asked).then(|| self.begin_words());
        let Some(client) = &self.client else { return Err(Trouble::gone()) };
        let mut requests: Vec<Request<'_>> = Vec::new();
        requests.extend(begin.map(|begin| client.batch_execute(begin).boxed()));
        requests.extend(later.into_iter().map(|later| run_later(client, later)));
        for bucket in outbox::buckets(&events) {
            let lock = lock.as_ref();
            requests.push(
                async move {
                    let Some(lock) = lock else { return Ok(()) };
                    client.query(lock, &[&bucket]).await.map(drop)
                }
                .boxed(),
            );
        }
        for event in events {
            let insert = insert.as_ref();
            requests.push(
                async move {
                    let Some(insert) = insert else { return Ok(()) };
                    let row = event.into_params();
                    client.execute_raw(insert, row.iter().map(Param)).await.map(drop)
                }
                .boxed(),
            );
        }
        requests.push(client.batch_execute("COMMIT").boxed());
        let committed = within(&self.runtime, limit, pipelined(requests));
        self.phase = Phase::Idle;
        committed.map_err(|wrong| self.trouble(wrong).of_commit())
    }

    fn rollback(&mut self) {
        if std::mem::replace(&mut self.phase, Phase::Idle) != Phase::Open {
            return;
        }
        let Some(client) = &self.client else { return };
        let ended = within(&self.runtime, ROLLBACK_WAIT, client.batch_execute("ROLLBACK"));
        if ended.is_err() {
            self.client = None;
        }
    }

    fn schema(&mut self, sql: &str, limit: Duration) -> Result<(), Trouble> {
        let begin = (self.phase == Phase::Asked).then(|| self.begin_words());
        self.phase = Phase::Open;
        let Some(client) = &self.client else { return Err(Trouble::gone()) };
        let ran = within(&self.runtime, limit, async {
            if let Some(begin) = begin {
                client.batch_execute(begin).await?;
            }
            client.batch_execute(sql).await
        });
        ran.map_err(|wrong| self.trouble(wrong))
    }

    fn lock_schema(&mut self, limit: Duration) -> Result<(), Trouble> {
        self.schema("SELECT pg_advisory_xact_lock(1835101543)", limit)
    }
}

type Request<'a> = BoxFuture<'a, Result<(), tokio_postgres::Error>>;

/// Sends some at once, and waits for the answer of each. After one that failed the server refuses all others.
async fn pipelined(mut requests: Vec<Request<'_>>) -> Result<(), tokio_postgres::Error> {
    while !requests.is_empty() {
        let some = requests.drain(..requests.len().min(PIPELINED_MAX));
        for answer in join_all(some).await {
            answer?;
        }
    }
    Ok(())
}

fn run_later(client: &Client, (statement, later): (Statement, Later)) -> Request<'_> {
    async move { client.execute_raw(&statement, later.params.iter().map(Param)).await.map(drop) }
        .boxed()
}

async fn answer(
    client: &Client,
    statement: &Statement,
    params: &[Param<'_>],
    rows_max: Option<usize>,
) -> Result<Ran, tokio_postgres::Error> {
    let Some(rows_max) = rows_max else {
        let changed = client.execute_raw(statement, params).await?;
        return Ok(Ran { changed, ..Ran::default() });
    };
    let columns: Arc<[Box<str>]> =
        statement.columns().iter().map(|column| column.name().into()).collect();
    let mut ran = Ran::default();
    let mut found = Box::pin(client.query_raw(statement, params).await?);
    while let Some(row) = found.next().await {
        let row = row?;
        if ran.rows.len() == rows_max {
            ran.has_more = true;
            break;
        }
        let values = (0..columns.len()).map(|place| Ok(row.try_get::<_, Raw>(place)?.0));
        let values = values.collect::<Result<Vec<_>, tokio_postgres::Error>>()?;
        ran.rows.push(Row::new(columns.clone(), values));
    }
    Ok(ran)
}

/// Codes by <https://www.postgresql.org/docs/15/errcodes-appendix.html>.
fn of_code(code: &SqlState, error: tokio_postgres::Error) -> Trouble {
    let named = error.as_db_error().and_then(|error| error.constraint()).unwrap_or_default();
    let named = if named.is_empty() { error.to_string() } else { named.to_owned() };
    let source = Arc::new(error);
    match code.code() {
        "40001" | "40P01" => Trouble::Lost,
        "23505" => Trouble::Of(Error::AlreadyExists { constraint: named }),
        "23503" => Trouble::Of(Error::Reference),
        "57014" => Trouble::TimedOut,
        "53100" => Trouble::Of(Error::Full { source }),
        "25006" => Trouble::Of(Error::ReadOnly),
        "42P07" | "42701" => Trouble::Repeated,
        "57P01" | "57P02" | "57P03" | "53300" | "25P03" => {
            Trouble::Cut(Error::Unavailable { during: "connection".into(), source })
        }
        code if code.starts_with("23") || code.starts_with("22") => {
            Trouble::Of(Error::Rule { rule: named })
        }
        code if code.starts_with("08") => {
            Trouble::Cut(Error::Unavailable { during: "connection".into(), source })
        }
        code if code.starts_with("53") || code.starts_with("58") => {
            Trouble::Of(Error::Unavailable { during: "statement".into(), source })
        }
        _ => Trouble::Of(Error::Statement { sql: String::new(), source }),
    }
}

/// Gives a value as the type that the server found for the placeholder.
#[derive(Debug)]
struct Param<'a>(&'a Value);

type Wrongly = Box<dyn std::error::Error + Sync + Send>;

impl ToSql for Param<'_> {
    fn to_sql(&self, wanted: &Type, out: &mut bytes::BytesMut) -> Result<IsNull, Wrongly> {
        match (self.0, wanted) {
            (Value::Null, _) => Ok(IsNull::Yes),
            (Value::Int(number), &Type::INT8) => number.to_sql(wanted, out),
            (Value::Int(number), &Type::INT4) => i32::try_from(*number)?.to_sql(wanted, out),
            (Value::Int(number), &Type::INT2) => i16::try_from(*number)?.to_sql(wanted, out),
            (Value::Int(number), &Type::FLOAT8) => (*number as f64).to_sql(wanted, out),
            (Value::Real(number), &Type::FLOAT8) => number.to_sql(wanted, out),
            (Value::Text(text), &(Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME)) => {
                text.to_sql(wanted, out)
            }
            (Value::Blob(bytes), &Type::BYTEA) => bytes.to_sql(wanted, out),
            (value, wanted) => {
                Err(format!("{} was given for a {wanted}", value.type_name()).into())
            }
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// A column of whatever type, as a value.
struct Raw(Value);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(found: &Type, raw: &'a [u8]) -> Result<Self, Wrongly> {
        Ok(Self(match *found {
            Type::INT8 => Value::Int(i64::from_sql(found, raw)?),
            Type::INT4 => Value::Int(i32::from_sql(found, raw)?.into()),
            Type::INT2 => Value::Int(i16::from_sql(found, raw)?.into()),
            Type::BOOL => Value::Int(bool::from_sql(found, raw)?.into()),
            Type::FLOAT8 => Value::Real(f64::from_sql(found, raw)?),
            Type::FLOAT4 => Value::Real(f32::from_sql(found, raw)?.into()),
            Type::BYTEA => Value::Blob(raw.to_owned()),
            Type::NUMERIC => numeric(raw)?,
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME => {
                Value::Text(std::str::from_utf8(raw)?.to_owned())
            }
            _ => {
                return Err(
                    format!("a column of type {found} is not for a portable statement").into()
                );
            }
        }))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Wrongly> {
        Ok(Self(Value::Null))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// The sum of integers, which PostgreSQL gives in groups of four decimal digits.
fn numeric(raw: &[u8]) -> Result<Value, Wrongly> {
    let mut words = raw.chunks_exact(2).map(|word| i16::from_be_bytes([word[0], word[1]]));
    let mut next = || words.next().ok_or("a numeric is too short");
    let (count, weight, sign, scale) = (next()?, next()?, next()?, next()?);
    if scale != 0 {
        let mut number = 0.0;
        for place in 0..count {
            number += f64::from(next()?) * 10_000_f64.powi(i32::from(weight - place));
        }
        return Ok(Value::Real(if sign == 0 { number } else { -number }));
    }
    let mut number: i64 = 0;
    for place in 0..=weight.max(-1) {
        let digits = if place < count { i64::from(next()?) } else { 0 };
        let more = number.checked_mul(10_000).and_then(|number| number.checked_add(digits));
        number = more.ok_or("a sum is larger than 64 bits")?;
    }
    match sign {
        0 => Ok(Value::Int(number)),
        0x4000 => Ok(Value::Int(-number)),
        _ => Err("a numeric is not a number".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_an_integer_and_a_fraction_a_float() {
        let words =
            |words: &[i16]| -> Vec<u8> { words.iter().flat_map(|w| w.to_be_bytes()).collect() };
        assert_eq!(numeric(&words(&[2, 1, 0, 0, 12, 345])).unwrap(), Value::Int(120_345));
        assert_eq!(numeric(&words(&[1, 1, 0x4000, 0, 7])).unwrap(), Value::Int(-70_000));
        assert_eq!(numeric(&words(&[0, 0, 0, 0])).unwrap(), Value::Int(0));
        assert_eq!(numeric(&words(&[2, 0, 0, 1, 1, 5_000])).unwrap(), Value::Real(1.5));
        assert!(numeric(&words(&[5, 4, 0, 0, 9_999, 9_999, 9_999, 9_999, 9_999])).is_err());
        assert!(numeric(&words(&[1, 0])).is_err());
    }
}
