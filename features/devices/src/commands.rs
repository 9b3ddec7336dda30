//! Commands to devices: one row each, from the wish to the device's answer.
//!
//! A command goes out at QoS 1 on `command/<device>`, again and again under its id, until the device answers on
//! `answer/<device>` or its time is over: so a device may see it twice, and its id says so. Of a chain of
//! commands the next one waits for the acknowledgement of the one before; is that refused or late, the rest is
//! not sent. Who sends is in `errands.rs`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{EventId, OrganisationId, Page, PageRequest, Timestamp};
use relational::{Read, Row, Tx, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::fleet::Fleet;
use crate::registry::{Actuator, Device, Step};
use crate::store::{AUTHOR_CHARS_MAX, json, parse};
use crate::{Config, Error, Fault, Result};

/// How much of what a device says about a command is kept.
const REASON_CHARS_MAX: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CommandState {
    /// For its pause, or for the one before it.
    Waiting,
    /// Sent, and not answered yet.
    Sent,
    Acknowledged,
    /// By the device.
    Refused,
    TimedOut,
    /// By a person, or because one before it failed.
    Cancelled,
}

impl CommandState {
    const ALL: [Self; 6] = [
        Self::Waiting,
        Self::Sent,
        Self::Acknowledged,
        Self::Refused,
        Self::TimedOut,
        Self::Cancelled,
    ];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Sent => "sent",
            Self::Acknowledged => "acknowledged",
            Self::Refused => "refused",
            Self::TimedOut => "timed-out",
            Self::Cancelled => "cancelled",
        }
    }

    fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_field_names, reason = "a command of an actuator is called so")]
pub(crate) struct Command {
    pub id: EventId,
    /// The id of the first of those that follow one another.
    pub chain: EventId,
    /// Its place among them.
    pub step: u64,
    pub device: String,
    pub actuator: String,
    pub command: String,
    pub values: BTreeMap<String, f64>,
    pub pause: Duration,
    /// How long the device may take to answer.
    pub timeout: Duration,
    /// Who wants it, as people know them.
    pub author: String,
    /// The alert that set it off.
    pub alert: Option<EventId>,
    pub created: Timestamp,
    pub state: CommandState,
    pub attempts: u64,
    pub sent: Option<Timestamp>,
    pub ended: Option<Timestamp>,
    /// What the device said.
    pub reason: Option<String>,
}

/// Who wants commands, and why.
#[derive(Debug, Clone)]
pub(crate) struct Wish {
    pub device: String,
    pub actuator: String,
    pub steps: Vec<Step>,
    pub timeout: Duration,
    pub author: String,
    pub alert: Option<EventId>,
}

impl Wish {
    /// The commands, one after another; `id` gives each its id by its place.
    pub(crate) fn chain(self, now: Timestamp, mut id: impl FnMut(u64) -> EventId) -> Vec<Command> {
        let chain = id(0);
        let author: String = self.author.chars().take(AUTHOR_CHARS_MAX).collect();
        let steps = self.steps.into_iter().zip(0..);
        let steps = steps.map(|(Step { command, values, pause_seconds }, step)| Command {
            id: if step == 0 { chain } else { id(step) },
            chain,
            step,
            device: self.device.clone(),
            actuator: self.actuator.clone(),
            command,
            values,
            pause: Duration::from_secs(pause_seconds),
            timeout: self.timeout,
            author: author.clone(),
            alert: self.alert,
            // They are listed in their order.
            created: now.plus(Duration::from_micros(step)),
            state: CommandState::Waiting,
            attempts: 0,
            sent: None,
            ended: None,
            reason: None,
        });
        steps.collect()
    }
}

impl Command {
    /// What the device gets.
    pub(crate) fn message(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Wire<'a> {
            id: String,
            actuator: &'a str,
            command: &'a str,
            values: &'a BTreeMap<String, f64>,
            created: String,
        }
        let wire = Wire {
            id: self.id.to_string(),
            actuator: &self.actuator,
            command: &self.command,
            values: &self.values,
            created: self.created.to_string(),
        };
        json(&wire).into_bytes()
    }

    /// When nobody waits for the answer any more.
    pub(crate) fn deadline(&self) -> Timestamp {
        self.sent.unwrap_or(self.created).plus(self.timeout)
    }
}

/// What a device says of a command.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    pub id: String,
    /// It did it.
    #[serde(default = "yes")]
    pub ok: bool,
    #[serde(default)]
    pub reason: Option<String>,
}

fn yes() -> bool {
    true
}

impl Fleet {
    pub(crate) fn actuator(&self, name: &str) -> Result<Arc<Actuator>> {
        let found = self.registry(|registry| registry.actuators.get(name).cloned());
        found.ok_or_else(|| Error::NotFound("actuator", name.to_owned()))
    }

    /// What is wrong with a wish as things stand; `at` is where its steps stand.
    pub(crate) fn check_wish(
        &self,
        device: Option<&Device>,
        (actuator, steps): (&str, &[Step]),
        (timeout, at): (Duration, &str),
    ) -> Vec<Fault> {
        let config: &Config = &self.house.config;
        let mut faults = Vec::new();
        let beside = |field: &str| format!("{}{field}", at.trim_end_matches("steps"));
        if let Ok(known) = self.actuator(actuator) {
            faults.extend(known.faults_of(steps, at, config));
        } else {
            let text = format!("there is no actuator {actuator:?}");
            faults.push(Fault::new(beside("actuator"), text));
        }
        if device.is_some_and(|device| !device.actuators.contains(actuator)) {
            let text = format!("the device does not carry the actuator {actuator:?}");
            faults.push(Fault::new(beside("actuator"), text));
        }
        let most = config.command_timeout_max.as_secs();
        if !(1..=most).contains(&timeout.as_secs()) {
            faults.push(Fault::new(beside("timeout_seconds"), format!("not from 1 to {most}")));
        }
        faults
    }

    /// Has commands sent, and gives them as they are stored.
    pub(crate) async fn command(&self, wish: Wish) -> Result<Vec<Command>> {
        let device = self.device(&wish.device)?;
        let wanted = (wish.actuator.as_str(), wish.steps.as_slice());
        let faults = self.check_wish(Some(&device), wanted, (wish.timeout, "/steps"));
        if !faults.is_empty() {
            return Err(Error::Invalid(faults));
        }
        let base = &self.house.base;
        let now = base.clock.now();
        let chain = Arc::new(wish.chain(now, |_| EventId::new(now, &base.entropy)));
        let (organisation, rows) = (self.organisation, chain.clone());
        let config = &self.house.config;
        let (open_max, entries_max) = (config.commands_open_max, config.command_entries_max);
        let write = async move |tx: &mut Tx| {
            put(tx, organisation, &rows, open_max).await?;
            forget_oldest(tx, organisation, &rows[0].device, entries_max).await
        };
        self.house.needs.db.write(write).await?;
        self.errands.expect(now);
        Ok(Arc::unwrap_or_clone(chain))
    }

    /// Takes a device's answer. Gives why it cannot be one, if so. The same again changes nothing.
    pub(crate) async fn answered(&self, device: &str, answer: Answer) -> Result<Option<String>> {
        let Ok(id) = answer.id.parse::<EventId>() else {
            return Ok(Some("the id is not one of a command".into()));
        };
        let (organisation, now) = (self.organisation, self.house.base.clock.now());
        let (device, is_done) = (device.to_owned(), answer.ok);
        let reason: Option<String> =
            answer.reason.map(|reason| reason.chars().take(REASON_CHARS_MAX).collect());
        let write = async move |tx: &mut Tx| {
            let sql = format!("{SELECT} WHERE organisation = ? AND id = ? AND device = ?");
            let Some(row) = tx.query_optional(&sql, params![organisation, id, device]).await?
            else {
                return Ok::<_, Error>(Some("the device has no command of this id".to_owned()));
            };
            let command = command_of(&row)?;
            if command.state != CommandState::Sent {
                return Ok(None);
            }
            let state = if is_done { CommandState::Acknowledged } else { CommandState::Refused };
            end(tx, organisation, &command, (state, now, reason.as_deref())).await?;
            Ok(None)
        };
        let refusal = self.house.needs.db.write(write).await?;
        self.errands.expect(now);
        Ok(refusal)
    }

    /// Takes a command back as far as it can be: those of its chain behind it go with it.
    pub(crate) async fn cancel_command(&self, id: EventId) -> Result<Command> {
        let (organisation, now) = (self.organisation, self.house.base.clock.now());
        let write = async move |tx: &mut Tx| {
            let sql = format!("{SELECT} WHERE organisation = ? AND id = ?");
            let row = tx.query_optional(&sql, params![organisation, id]).await?;
            let row = row.ok_or_else(|| Error::NotFound("command", id.to_string()))?;
            let mut command = command_of(&row)?;
            if !matches!(command.state, CommandState::Waiting | CommandState::Sent) {
                let state = command.state.word();
                return Err(Error::InUse(format!("the command is over: {state}")));
            }
            end(tx, organisation, &command, (CommandState::Cancelled, now, None)).await?;
            (command.state, command.ended) = (CommandState::Cancelled, Some(now));
            Ok(command)
        };
        self.house.needs.db.write(write).await
    }
}

const SELECT: &str = "SELECT id, chain, step, device, actuator, command, given, pause, timeout, \
                      author, alert, created, state, attempts, sent, ended, reason \
                      FROM device_commands";

fn number(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Stores a chain, unless too many commands are open.
pub(crate) async fn put(
    tx: &mut Tx,
    organisation: OrganisationId,
    chain: &[Command],
    open_max: usize,
) -> Result<()> {
    let sql = "SELECT COUNT(*) AS number FROM device_commands \
               WHERE organisation = ? AND state IN ('waiting', 'sent')";
    let open: u64 = tx.query_one(sql, params![organisation]).await?.get("number")?;
    if open + chain.len() as u64 > open_max as u64 {
        return Err(Error::Full("open commands", open_max));
    }
    for command in chain {
        let due = (command.step == 0).then(|| command.created.plus(command.pause));
        let sql = "INSERT INTO device_commands (organisation, id, chain, step, device, actuator, \
                   command, given, pause, timeout, author, alert, created, state, due, attempts) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)";
        let given = params![
            organisation,
            command.id,
            command.chain,
            number(command.step),
            command.device,
            command.actuator,
            command.command,
            json(&command.values),
            number(command.pause.as_secs()),
            number(command.timeout.as_secs()),
            command.author,
            command.alert,
            command.created,
            command.state.word(),
            due
        ];
        tx.execute(sql, given).await?;
    }
    Ok(())
}

/// Keeps the newest commands of a device.
pub(crate) async fn forget_oldest(
    tx: &mut Tx,
    organisation: OrganisationId,
    device: &str,
    entries_max: usize,
) -> Result<()> {
    let sql = "SELECT created FROM device_commands WHERE organisation = ? AND device = ? \
               ORDER BY created DESC, id DESC LIMIT 1 OFFSET ?";
    let given = params![organisation, device, number(entries_max as u64)];
    let Some(row) = tx.query_optional(sql, given).await? else { return Ok(()) };
    let created: Timestamp = row.get("created")?;
    let sql = "DELETE FROM device_commands WHERE organisation = ? AND device = ? \
               AND created <= ? AND state NOT IN ('waiting', 'sent')";
    tx.execute(sql, params![organisation, device, created]).await?;
    Ok(())
}

/// Commands whose time has come, the longest waiting first.
pub(crate) async fn due(
    tx: &mut Tx,
    organisation: OrganisationId,
    now: Timestamp,
    most: i64,
) -> Result<Vec<Command>> {
    let sql = format!("{SELECT} WHERE organisation = ? AND due <= ? ORDER BY due, id LIMIT ?");
    let rows = tx.query(&sql, params![organisation, now, most]).await?;
    rows.iter().map(command_of).collect()
}

/// Notes that a command goes out now, and when it is looked at again.
pub(crate) async fn go(
    tx: &mut Tx,
    organisation: OrganisationId,
    command: &Command,
    (sent, due): (Timestamp, Timestamp),
) -> Result<bool> {
    let sql = "UPDATE device_commands SET state = 'sent', sent = ?, due = ?, \
               attempts = attempts + 1 WHERE organisation = ? AND id = ? AND state = ?";
    let given = params![sent, due, organisation, command.id, command.state.word()];
    Ok(tx.execute(sql, given).await? == 1)
}

/// Ends a command, and lets the next one of its chain go or takes all of them back.
pub(crate) async fn end(
    tx: &mut Tx,
    organisation: OrganisationId,
    command: &Command,
    (state, now, reason): (CommandState, Timestamp, Option<&str>),
) -> Result<()> {
    let sql = "UPDATE device_commands SET state = ?, ended = ?, due = NULL, reason = ? \
               WHERE organisation = ? AND id = ? AND state = ?";
    let was = command.state.word();
    let given = params![state.word(), now, reason, organisation, command.id, was];
    if tx.execute(sql, given).await? != 1 {
        return Ok(());
    }
    let (chain, step) = (command.chain, number(command.step));
    if state != CommandState::Acknowledged {
        let sql = "UPDATE device_commands SET state = 'cancelled', ended = ?, due = NULL \
                   WHERE organisation = ? AND chain = ? AND step > ? AND state = 'waiting'";
        tx.execute(sql, params![now, organisation, chain, step]).await?;
        return Ok(());
    }
    let sql = "SELECT pause FROM device_commands \
               WHERE organisation = ? AND chain = ? AND step = ? AND state = 'waiting'";
    let next = step.saturating_add(1);
    let Some(row) = tx.query_optional(sql, params![organisation, chain, next]).await? else {
        return Ok(());
    };
    let due = now.plus(Duration::from_secs(row.get("pause")?));
    let sql =
        "UPDATE device_commands SET due = ? WHERE organisation = ? AND chain = ? AND step = ?";
    tx.execute(sql, params![due, organisation, chain, next]).await?;
    Ok(())
}

/// The commands of a device, the newest first. The cursor is the moment and the id of the last one.
pub(crate) async fn page(
    read: &mut Read,
    organisation: OrganisationId,
    device: &str,
    request: &PageRequest,
) -> Result<Page<Command>> {
    let (created, id) = match &request.after {
        None => (i64::MAX, String::new()),
        Some(cursor) => cursor
            .split_once(':')
            .and_then(|(created, id)| {
                Some((created.parse().ok()?, id.parse::<EventId>().ok()?.to_string()))
            })
            .ok_or_else(|| Error::cursor(cursor))?,
    };
    let limit = i64::try_from(request.limit + 1).unwrap_or(i64::MAX);
    let sql = format!(
        "{SELECT} WHERE organisation = ? AND device = ? \
         AND (created < ? OR (created = ? AND id < ?)) ORDER BY created DESC, id DESC LIMIT ?"
    );
    let rows = read.query(&sql, params![organisation, device, created, created, id, limit]).await?;
    let commands = rows.iter().map(command_of).collect::<Result<Vec<_>>>()?;
    Ok(Page::of(commands, request.limit, |it| format!("{}:{}", it.created.micros(), it.id)))
}

/// Forgets a device in the transaction that deletes it.
pub(crate) async fn delete(tx: &mut Tx, organisation: OrganisationId, device: &str) -> Result<()> {
    let sql = "DELETE FROM device_commands WHERE organisation = ? AND device = ?";
    tx.execute(sql, params![organisation, device]).await?;
    Ok(())
}

fn command_of(row: &Row) -> Result<Command> {
    let seconds = |name: &str| Ok::<_, Error>(Duration::from_secs(row.get::<u64>(name)?));
    let state = CommandState::read(&row.get::<String>("state")?);
    Ok(Command {
        id: row.get("id")?,
        chain: row.get("chain")?,
        step: row.get("step")?,
        device: row.get("device")?,
        actuator: row.get("actuator")?,
        command: row.get("command")?,
        values: parse(&row.get::<String>("given")?)?,
        pause: seconds("pause")?,
        timeout: seconds("timeout")?,
        author: row.get("author")?,
        alert: row.get("alert")?,
        created: row.get("created")?,
        state: state.ok_or_else(|| Error::damaged("the state of a command"))?,
        attempts: row.get("attempts")?,
        sent: row.get("sent")?,
        ended: row.get("ended")?,
        reason: row.get("reason")?,
    })
}
