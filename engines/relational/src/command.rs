//! Commands as rows: what waits, in which order, who works on it, and how an attempt ends.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use base::{CommandId, OrganisationId, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::dead_letter::{self, NewDeadLetter};
use crate::shared::Shared;
use crate::{Config, Error, Migration, Read, Row, Tx, Value, params};

/// Something to be done, by its one handler, once this transaction is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCommand {
    pub organisation: OrganisationId,
    /// What to do, in the imperative: `mail.send`. A handler of this name must be registered.
    pub name: &'static str,
    /// Commands of one name with the same key are carried out one after another, in the order of their commits.
    /// At most 200 characters.
    pub key: String,
    /// JSON.
    pub payload: Vec<u8>,
    /// It waits until then, and those behind it under the same key with it.
    pub not_before: Option<Timestamp>,
}

/// A command as its handler sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// The same at every attempt: effects elsewhere are keyed by it.
    pub id: CommandId,
    pub organisation: OrganisationId,
    pub name: String,
    pub key: String,
    pub payload: Vec<u8>,
    pub sent: Timestamp,
    /// 1 at the first attempt. Whoever works under an earlier number than the row's has been replaced.
    pub attempt: u32,
}

/// As much as every database can index.
const KEY_CHARS_MAX: usize = 200;

pub(crate) const MIGRATION: Migration = Migration {
    id: "0004-commands",
    // `due` is null behind another command of the same key, and the end of the lease while one is carried out
    // by `holder`. `attempt` counts the attempts begun.
    sql: "CREATE TABLE command (
            sequence INTEGER PRIMARY KEY,
            id VARCHAR(36) NOT NULL,
            organisation VARCHAR(36) NOT NULL,
            name VARCHAR(200) NOT NULL,
            order_key VARCHAR(200) NOT NULL,
            payload BLOB NOT NULL,
            sent BIGINT NOT NULL,
            not_before BIGINT NOT NULL,
            due BIGINT,
            attempt BIGINT NOT NULL,
            holder VARCHAR(36) NOT NULL,
            last_error TEXT
        );
        CREATE UNIQUE INDEX command_by_id ON command (id);
        CREATE INDEX command_by_due ON command (due);
        CREATE INDEX command_by_key ON command (organisation, name, order_key, sequence);
        ALTER TABLE dead_letter ADD COLUMN attempts BIGINT NOT NULL DEFAULT 1;
        ALTER TABLE dead_letter ADD COLUMN tried BIGINT;
        ALTER TABLE dead_letter ADD COLUMN record_time BIGINT;
        ALTER TABLE dead_letter ADD COLUMN headers BLOB;
        CREATE INDEX dead_letter_by_event ON dead_letter (handler, event)",
};

/// What every transaction and the runner know of commands.
#[derive(Default)]
pub(crate) struct CommandsState {
    length: AtomicI64,
    /// Told when there are more.
    pub(crate) sent: Notify,
    /// The names that have a handler here.
    handled: Mutex<BTreeSet<&'static str>>,
}

impl CommandsState {
    pub(crate) fn length(&self) -> u64 {
        u64::try_from(self.length.load(Ordering::Acquire)).unwrap_or(0)
    }

    pub(crate) fn register(&self, name: &'static str) -> Result<(), Error> {
        if self.handled.lock().insert(name) { Ok(()) } else { Err(Error::HandledTwice { name }) }
    }

    pub(crate) fn check(&self, name: &str) -> Result<(), Error> {
        if self.handled.lock().contains(name) {
            return Ok(());
        }
        Err(Error::NoHandler { name: name.to_owned() })
    }
}

impl Shared {
    /// Counts the commands that a commit sent, less those that it took away.
    pub(crate) fn commands_changed(&self, by: i64) {
        if by == 0 {
            return;
        }
        let length = self.commands.length.fetch_add(by, Ordering::AcqRel) + by;
        self.meter.commands_waiting.set(length);
        if by > 0 {
            self.commands.sent.notify_one();
        }
    }
}

pub(crate) async fn send(tx: &mut Tx, new: NewCommand) -> Result<CommandId, Error> {
    let shared = tx.session.shared().clone();
    shared.commands.check(new.name)?;
    let (bytes, bytes_max) = (new.payload.len(), shared.config.command_bytes_max);
    if bytes > bytes_max {
        return Err(Error::CommandTooLarge { bytes, bytes_max });
    }
    if new.key.chars().nth(KEY_CHARS_MAX).is_some() {
        let rule = format!("a command's key has at most {KEY_CHARS_MAX} characters");
        return Err(Error::Rule { rule });
    }
    let sent = shared.clock.now();
    let id = CommandId::new(sent, &shared.entropy);
    let NewCommand { organisation, key, payload, not_before, .. } = new;
    let name = new.name.to_owned();
    let command = Command { id, organisation, name, key, payload, sent, attempt: 0 };
    put(tx, &command, not_before.unwrap_or(sent)).await?;
    Ok(id)
}

/// Puts a command at the end of its key's queue, with no attempt begun.
pub(crate) async fn put(tx: &mut Tx, new: &Command, not_before: Timestamp) -> Result<(), Error> {
    let shared = tx.session.shared().clone();
    let length = shared.commands.length().saturating_add_signed(tx.session.sent());
    if length >= shared.config.commands_max {
        return Err(Error::CommandsFull { length });
    }
    let before = "SELECT id FROM command
        WHERE organisation = ? AND name = ? AND order_key = ? ORDER BY sequence LIMIT 1";
    let place = params![new.organisation, new.name, new.key];
    let is_first = tx.query_optional(before, place).await?.is_none();
    let due = is_first.then_some(not_before);
    let insert = "INSERT INTO command
            (id, organisation, name, order_key, payload, sent, not_before, due, attempt, holder)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0, '')";
    let Command { id, organisation, name, key, payload, sent, .. } = new;
    let row = params![id, organisation, name, key, payload, sent, not_before, due];
    tx.execute_later(insert, row).await?;
    tx.session.sends(1);
    Ok(())
}

/// One attempt at a command, which ends before its lease does.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) command: Arc<Command>,
    pub(crate) until: Timestamp,
}

/// Who claims commands, and which.
pub(crate) struct Claimant {
    names: Vec<&'static str>,
    sql: String,
    /// Tells this runner from every other one.
    pub(crate) holder: String,
}

impl Claimant {
    pub(crate) fn new(names: Vec<&'static str>, holder: String) -> Self {
        // Names that only another version knows are left to it.
        let places = vec!["?"; names.len()].join(", ");
        let sql = format!(
            "SELECT id, organisation, name, order_key, payload, sent, attempt, last_error
            FROM command WHERE due <= ? AND name IN ({places}) ORDER BY due, sequence LIMIT ?"
        );
        Self { names, sql, holder }
    }

    /// When the next one is due, which may be when somebody's lease ends.
    pub(crate) async fn next_due(&self, read: &mut Read) -> Result<Option<Timestamp>, Error> {
        let places = vec!["?"; self.names.len()].join(", ");
        let sql = format!(
            "SELECT due FROM command WHERE due IS NOT NULL AND name IN ({places}) ORDER BY due LIMIT 1"
        );
        let names: Vec<Value> = self.names.iter().map(|name| Value::from(*name)).collect();
        read.query_optional(&sql, &names).await?.map(|row| row.get("due")).transpose()
    }

    /// Begins an attempt at up to `limit` commands that are due. Durable before any of them is carried out, so
    /// that one that ends the process is not tried for ever.
    pub(crate) async fn claim(&self, tx: &mut Tx, limit: usize) -> Result<Claimed, Error> {
        let shared = tx.session.shared().clone();
        let (now, config) = (shared.clock.now(), &shared.config);
        let until = now.plus(lease(config));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let names = self.names.iter().map(|name| Value::from(*name));
        let given: Vec<Value> =
            [Value::from(now)].into_iter().chain(names).chain([Value::from(limit)]).collect();
        let mut claimed = Claimed::default();
        for row in tx.query(&self.sql, &given).await? {
            let mut command = command(&row)?;
            if command.attempt >= config.command_attempts_max {
                let error: Option<String> = row.get("last_error")?;
                let before =
                    error.map_or_else(String::new, |error| format!("; before that: {error}"));
                end_dead(tx, &command, &format!("the last attempt did not end{before}")).await?;
                claimed.dead.push(command);
                continue;
            }
            let update = "UPDATE command SET attempt = ?, due = ?, holder = ?
                WHERE id = ? AND attempt = ?";
            let attempt = command.attempt + 1;
            let row = params![attempt, until, self.holder, command.id, command.attempt];
            if tx.execute(update, row).await? > 0 {
                command.attempt = attempt;
                claimed.attempts.push(Attempt { command: Arc::new(command), until });
            }
        }
        Ok(claimed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Claimed {
    pub(crate) attempts: Vec<Attempt>,
    /// Those whose last attempt never reported its end.
    pub(crate) dead: Vec<Command>,
}

/// How an attempt ended that did not carry the command out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failed {
    Later,
    Dead,
    /// It is no longer this attempt's: its lease ended, or it was carried out after all.
    Gone,
}

/// Takes the command away, if it is still this attempt's, and lets the next of its key come. Goes into the
/// transaction of its effect and before it, so that a replaced attempt changes nothing.
pub(crate) async fn remove(tx: &mut Tx, command: &Command) -> Result<bool, Error> {
    let delete = "DELETE FROM command WHERE id = ? AND attempt = ?";
    if tx.execute(delete, params![command.id, command.attempt]).await? == 0 {
        return Ok(false);
    }
    tx.session.sends(-1);
    let next = "SELECT id FROM command
        WHERE organisation = ? AND name = ? AND order_key = ? ORDER BY sequence LIMIT 1";
    let place = params![command.organisation, command.name, command.key];
    if let Some(next) = tx.query_optional(next, place).await? {
        let update = "UPDATE command SET due = not_before WHERE id = ?";
        tx.execute(update, params![next.get::<CommandId>("id")?]).await?;
    }
    Ok(true)
}

/// Puts the next attempt off, or makes the command a dead letter.
pub(crate) async fn fail(
    tx: &mut Tx,
    command: &Command,
    reason: &str,
    next: Option<Timestamp>,
) -> Result<Failed, Error> {
    let Some(next) = next else {
        let is_dead = end_dead(tx, command, reason).await?;
        return Ok(if is_dead { Failed::Dead } else { Failed::Gone });
    };
    let update = "UPDATE command SET due = ?, holder = '', last_error = ?
        WHERE id = ? AND attempt = ?";
    let row = params![next, dead_letter::shortened(reason), command.id, command.attempt];
    Ok(if tx.execute(update, row).await? > 0 { Failed::Later } else { Failed::Gone })
}

async fn end_dead(tx: &mut Tx, command: &Command, reason: &str) -> Result<bool, Error> {
    if !remove(tx, command).await? {
        return Ok(false);
    }
    let letter = NewDeadLetter {
        organisation: command.organisation,
        handler: &command.name,
        topic: "",
        place: None,
        event: Some(command.id.to_string()),
        kind: Some(&command.name),
        key: Some(command.key.as_bytes()),
        payload: &command.payload,
        reason,
        attempts: command.attempt,
        record_time: command.sent,
        headers: None,
    };
    dead_letter::keep(tx, letter).await?;
    Ok(true)
}

/// For a database that only this process can open: every former holder has ended. What may have ended it waits
/// longer with each time.
pub(crate) async fn free_all(tx: &mut Tx) -> Result<(), Error> {
    free(tx, "SELECT id, attempt FROM command WHERE holder <> ''", &[]).await
}

/// For a runner whose earlier run has ended.
pub(crate) async fn free_own(tx: &mut Tx, holder: &str) -> Result<(), Error> {
    free(tx, "SELECT id, attempt FROM command WHERE holder = ?", params![holder]).await
}

async fn free(tx: &mut Tx, held: &str, given: &[Value]) -> Result<(), Error> {
    let shared = tx.session.shared().clone();
    for row in tx.query(held, given).await? {
        let pause = back_off(&shared.config, row.get("attempt")?, shared.entropy.number());
        let update = "UPDATE command SET due = ?, holder = '' WHERE id = ?";
        let due = shared.clock.now().plus(pause);
        tx.execute(update, params![due, row.get::<CommandId>("id")?]).await?;
    }
    Ok(())
}

/// The earliest moment at which one can be claimed, by its index.
pub(crate) const NEXT_DUE: &str = "SELECT MIN(due) AS due FROM command";

pub(crate) async fn length(read: &mut Read) -> Result<i64, Error> {
    read.query_one("SELECT COUNT(*) AS length FROM command", &[]).await?.get("length")
}

/// The names of all that wait.
pub(crate) async fn names(read: &mut Read) -> Result<Vec<String>, Error> {
    let rows = read.query("SELECT DISTINCT name FROM command ORDER BY name", &[]).await?;
    rows.iter().map(|row| row.get("name")).collect()
}

/// The outside part, the commit behind it, and what clocks may differ by.
fn lease(config: &Config) -> Duration {
    config.command_time_max + config.write_time_max + config.lease_grace
}

/// Doubles with each attempt; up to half of it is taken off by chance, so that what failed together spreads.
pub(crate) fn back_off(config: &Config, attempt: u32, chance: u64) -> Duration {
    let doublings = attempt.saturating_sub(1).min(30);
    let whole = config.command_back_off_min.saturating_mul(1 << doublings);
    let whole = whole.min(config.command_back_off_max);
    let half = u64::try_from(whole.as_micros() / 2).unwrap_or(u64::MAX - 1);
    whole.saturating_sub(Duration::from_micros(chance % (half + 1)))
}

fn command(row: &Row) -> Result<Command, Error> {
    Ok(Command {
        id: row.get("id")?,
        organisation: row.get("organisation")?,
        name: row.get("name")?,
        key: row.get("order_key")?,
        payload: row.get("payload")?,
        sent: row.get("sent")?,
        attempt: row.get("attempt")?,
    })
}
