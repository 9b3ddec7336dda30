use std::sync::Arc;
use std::time::Duration;

use mysql_async::consts::ColumnType;
use mysql_async::prelude::Queryable;
use mysql_async::{Column, Conn, Opts, OptsBuilder, Params, SslOpts};
use tokio::runtime::Runtime;

use super::session::{Access, Driver, Last, Later, Ran, Run, Trouble};
use super::tls;
use super::wait::{Wrong, runtime, within};
use crate::dialect::Dialect;
use crate::outbox;
use crate::{Config, Error, Row, Value};

/// One connection to MySQL or MariaDB, <https://mariadb.com/kb/en/clientserver-protocol/>.
pub(crate) struct MySql {
    opts: Opts,
    access: Access,
    runtime: Runtime,
    connection: Option<Conn>,
    /// Texts are compared by their bytes, and spaces at their end count.
    collation: &'static str,
    insert_event: String,
    is_open: bool,
    has_schema_lock: bool,
}

const ROLLBACK_WAIT: Duration = Duration::from_secs(2);
/// The character set of bytes.
const BINARY: u16 = 63;
/// Held until the commit, so that the events of a key are numbered in the order of their commits.
const LOCK_KEY: &str =
    "INSERT INTO outbox_order (bucket) VALUES (?) ON DUPLICATE KEY UPDATE bucket = bucket";

impl MySql {
    pub(crate) fn new(rows: &Config, access: Access) -> Result<Self, Error> {
        let url = rows.url.text().replacen("mariadb://", "mysql://", 1);
        let opts = Opts::from_url(&url).map_err(|error| Error::Config(format!("url: {error}")))?;
        let is_local = opts.socket().is_some() || tls::is_local(opts.ip_or_hostname());
        let asked = opts.ssl_opts().cloned();
        let ssl = match asked {
            None if is_local || url.contains("require_ssl=false") => None,
            asked => {
                // The driver takes the process's provider, and two are built in.
                rustls::crypto::ring::default_provider().install_default().ok();
                let roots = rows.tls_roots.iter().map(|path| path.clone().into()).collect();
                Some(asked.unwrap_or_else(SslOpts::default).with_root_certs(roots))
            }
        };
        let seconds = rows.write_time_max.max(rows.read_time_max).as_secs().max(1);
        let isolation = match access {
            Access::Write => "SERIALIZABLE",
            Access::Read => "REPEATABLE READ",
        };
        let setup = vec![
            "SET SESSION sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES,\
                STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO'"
                .to_owned(),
            format!("SET SESSION TRANSACTION ISOLATION LEVEL {isolation}"),
            format!("SET SESSION innodb_lock_wait_timeout = {seconds}"),
        ];
        let opts = OptsBuilder::from_opts(opts)
            .ssl_opts(ssl)
            .setup(setup)
            // A row that is set to what it was counts as changed, as elsewhere.
            .client_found_rows(true)
            .stmt_cache_size(rows.statements_kept_max)
            .tcp_keepalive(Some(Duration::from_secs(30)))
            .prefer_socket(false);
        Ok(Self {
            opts: opts.into(),
            access,
            runtime: runtime()?,
            connection: None,
            collation: "",
            insert_event: Dialect::MySql.statement(outbox::INSERT).0,
            is_open: false,
            has_schema_lock: false,
        })
    }

    /// Says the error in the caller's words, and lets a connection go that is no longer of use.
    fn trouble(&mut self, wrong: Wrong<mysql_async::Error>) -> Trouble {
        let error = match wrong {
            Wrong::Late => {
                // The server ends the transaction when its connection goes.
                self.connection = None;
                return Trouble::TimedOut;
            }
            Wrong::Error(error) => error,
        };
        let mysql_async::Error::Server(server) = &error else {
            self.connection = None;
            let source = Arc::new(error);
            return Trouble::Cut(Error::Unavailable { during: "connection".into(), source });
        };
        let (code, message) = (server.code, server.message.clone());
        let trouble = of_code(code, message, error);
        if matches!(trouble, Trouble::Cut(_)) {
            self.connection = None;
        }
        trouble
    }

    fn unlock_schema(&mut self) {
        let unlock = "DO RELEASE_LOCK('madang-schema')";
        if std::mem::take(&mut self.has_schema_lock) && self.simple(unlock, ROLLBACK_WAIT).is_err()
        {
            // A connection that goes takes its locks along.
            self.connection = None;
        }
    }

    fn simple(&mut self, sql: &str, limit: Duration) -> Result<(), Trouble> {
        let Some(connection) = &mut self.connection else { return Err(Trouble::gone()) };
        let ran = within(&self.runtime, limit, connection.query_drop(sql));
        ran.map_err(|wrong| self.trouble(wrong))
    }
}

impl Driver for MySql {
    fn dialect(&self) -> Dialect {
        Dialect::MySql
    }

    fn connect(&mut self, limit: Duration) -> Result<(), Trouble> {
        if self.connection.is_some() {
            return Ok(());
        }
        let opts = self.opts.clone();
        let opened = within(&self.runtime, limit, async move {
            let mut connection = Conn::new(opts).await?;
            let is_mariadb = connection.server_version().0 >= 10;
            let collation = if is_mariadb { "utf8mb4_nopad_bin" } else { "utf8mb4_0900_bin" };
            connection.query_drop(format!("SET NAMES utf8mb4 COLLATE {collation}")).await?;
            Ok::<_, mysql_async::Error>((connection, collation))
        });
        match opened {
            Ok((connection, collation)) => {
                self.connection = Some(connection);
                self.collation = collation;
                self.is_open = false;
                Ok(())
            }
            Err(Wrong::Late) => Err(Trouble::gone()),
            Err(Wrong::Error(error)) => {
                let source = Arc::new(error);
                Err(Trouble::Cut(Error::Unavailable { during: "connect".into(), source }))
            }
        }
    }

    fn begin(&mut self) -> Result<(), Trouble> {
        let words = match self.access {
            Access::Write => "START TRANSACTION",
            Access::Read => "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
        };
        self.simple(words, ROLLBACK_WAIT)?;
        self.is_open = true;
        Ok(())
    }

    fn run(&mut self, run: Run<'_>) -> Result<Ran, Trouble> {
        let Some(connection) = &mut self.connection else { return Err(Trouble::gone()) };
        let ran = within(&self.runtime, run.limit, answer(connection, &run));
        ran.map_err(|wrong| self.trouble(wrong))
    }

    fn flush(&mut self, later: Vec<Later>, limit: Duration) -> Result<(), Trouble> {
        let Some(connection) = &mut self.connection else { return Err(Trouble::gone()) };
        let ran = within(&self.runtime, limit, async {
            for Later { sql, params } in later {
                connection.exec_drop(&*sql, given(&params)).await?;
            }
            Ok(())
        });
        ran.map_err(|wrong| self.trouble(wrong))
    }

    fn commit(&mut self, last: Last, limit: Duration) -> Result<(), Trouble> {
        let Last { later, events } = last;
        self.flush(later, limit)?;
        let Some(connection) = &mut self.connection else { return Err(Trouble::gone()) };
        let told = within(&self.runtime, limit, async {
            for bucket in outbox::buckets(&events) {
                connection.exec_drop(LOCK_KEY, (bucket,)).await?;
            }
            for event in events {
                connection
                    .exec_drop(self.insert_event.as_str(), given(&event.into_params()))
                    .await?;
            }
            Ok(())
        });
        told.map_err(|wrong| self.trouble(wrong))?;
        let Some(connection) = &mut self.connection else { return Err(Trouble::gone()) };
        let committed = within(&self.runtime, limit, connection.query_drop("COMMIT"));
        self.is_open = false;
        self.unlock_schema();
        committed.map_err(|wrong| self.trouble(wrong).of_commit())
    }

    fn rollback(&mut self) {
        if std::mem::take(&mut self.is_open) && self.simple("ROLLBACK", ROLLBACK_WAIT).is_err() {
            self.connection = None;
        }
        self.unlock_schema();
    }

    fn schema(&mut self, sql: &str, limit: Duration) -> Result<(), Trouble> {
        if !sql.trim_start().starts_with("CREATE TABLE") {
            return self.simple(sql, limit);
        }
        let collation = self.collation;
        self.simple(&format!("{sql} ENGINE = InnoDB CHARSET utf8mb4 COLLATE {collation}"), limit)
    }

    fn lock_schema(&mut self, limit: Duration) -> Result<(), Trouble> {
        // A lock of the connection: the statements of a migration commit at once.
        self.simple("DO GET_LOCK('madang-schema', 3600)", limit)?;
        self.has_schema_lock = true;
        Ok(())
    }
}

async fn answer(connection: &mut Conn, run: &Run<'_>) -> Result<Ran, mysql_async::Error> {
    let mut found = connection.exec_iter(&**run.sql, given(run.params)).await?;
    let Some(rows_max) = run.rows_max else {
        let changed = found.affected_rows();
        found.drop_result().await?;
        return Ok(Ran { changed, ..Ran::default() });
    };
    let types = found.columns_ref().to_vec();
    let names: Arc<[Box<str>]> = types.iter().map(|column| column.name_str().into()).collect();
    let mut ran = Ran::default();
    while let Some(row) = found.next().await? {
        if ran.rows.len() == rows_max {
            ran.has_more = true;
            break;
        }
        let cells = row.unwrap().into_iter().zip(&types);
        let values = cells.map(|(cell, column)| value(cell, column)).collect::<Result<_, _>>()?;
        ran.rows.push(Row::new(names.clone(), values));
    }
    found.drop_result().await?;
    Ok(ran)
}

/// Codes by <https://mariadb.com/kb/en/mariadb-error-code-reference/>.
fn of_code(code: u16, message: String, error: mysql_async::Error) -> Trouble {
    let source = Arc::new(error);
    match code {
        // Deadlock; waited too long for a lock; the record has changed since it was last read.
        1213 | 1205 | 1020 => Trouble::Lost,
        1062 | 1586 => Trouble::Of(Error::AlreadyExists { constraint: message }),
        1216 | 1217 | 1451 | 1452 => Trouble::Of(Error::Reference),
        1021 | 1114 => Trouble::Of(Error::Full { source }),
        1792 => Trouble::Of(Error::ReadOnly),
        1050 | 1060 | 1061 => Trouble::Repeated,
        1969 | 3024 => Trouble::TimedOut,
        1048 | 1264 | 1265 | 1364 | 1366 | 1406 | 3819 | 4025 => {
            Trouble::Of(Error::Rule { rule: message })
        }
        1040 | 1053 | 1077 | 1152 | 1184 | 1927 => {
            Trouble::Cut(Error::Unavailable { during: "connection".into(), source })
        }
        1037 | 1038 | 1041 => {
            Trouble::Of(Error::Unavailable { during: "statement".into(), source })
        }
        _ => Trouble::Of(Error::Statement { sql: String::new(), source }),
    }
}

fn given(params: &[Value]) -> Params {
    use mysql_async::Value as Given;
    if params.is_empty() {
        return Params::Empty;
    }
    let given = params.iter().map(|value| match value {
        Value::Null => Given::NULL,
        Value::Int(number) => Given::Int(*number),
        Value::Real(number) => Given::Double(*number),
        Value::Text(text) => Given::Bytes(text.clone().into_bytes()),
        Value::Blob(bytes) => Given::Bytes(bytes.clone()),
    });
    Params::Positional(given.collect())
}

fn value(found: mysql_async::Value, column: &Column) -> Result<Value, mysql_async::Error> {
    use mysql_async::Value as Found;
    let wrong = |what: &str| {
        let problem = format!("column {} holds {what}", column.name_str());
        mysql_async::Error::Other(problem.into())
    };
    Ok(match found {
        Found::NULL => Value::Null,
        Found::Int(number) => Value::Int(number),
        Found::UInt(number) => {
            Value::Int(i64::try_from(number).map_err(|_| wrong("more than 63 bits"))?)
        }
        Found::Float(number) => Value::Real(number.into()),
        Found::Double(number) => Value::Real(number),
        Found::Bytes(bytes) => match column.column_type() {
            ColumnType::MYSQL_TYPE_NEWDECIMAL | ColumnType::MYSQL_TYPE_DECIMAL => {
                let text = String::from_utf8(bytes).map_err(|_| wrong("no decimal"))?;
                match text.parse() {
                    Ok(number) => Value::Int(number),
                    Err(_) => Value::Real(text.parse().map_err(|_| wrong("no decimal"))?),
                }
            }
            _ if column.character_set() == BINARY => Value::Blob(bytes),
            _ => Value::Text(String::from_utf8(bytes).map_err(|_| wrong("no UTF-8"))?),
        },
        Found::Date(..) | Found::Time(..) => return Err(wrong("a moment")),
    })
}
