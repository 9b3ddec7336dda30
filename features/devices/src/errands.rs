//! What is to be done for devices at a time: commands that go out or are too late, wishes that are published, alerts
//! that nobody has taken in hand. The rows say what and when; one task per organisation does it.
//!
//! Rows first, messages after: killed in between, a message goes out again.

use std::sync::Arc;
use std::time::Duration;

use base::{ErrorKind, EventId, Failure, OrganisationId, Timestamp};
use parking_lot::Mutex;
use relational::{Tx, params};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::commands::{self, Command, CommandState};
use crate::fleet::Fleet;
use crate::intake::{COMMAND_PREFIX, DESIRED_PREFIX};
use crate::needs::{Message, Notice, Notifier, Recipient};
use crate::rule::Deed;
use crate::store::Alert;
use crate::twin::{self, Side};
use crate::{Error, Result, store};

/// How often the clock is looked at while something has a time.
const TURN_EVERY: Duration = Duration::from_millis(200);
/// Errands of each kind that one transaction does.
const ERRANDS_AT_ONCE: i64 = 100;
/// Notices of an escalation are told from those of its alert.
const ESCALATION: &[u8] = b"escalation";

/// When the next errand is due, as far as is known.
#[derive(Debug, Default)]
pub(crate) struct Errands {
    next: Mutex<Option<Timestamp>>,
    wake: Notify,
}

impl Errands {
    /// Something is to be done at this time.
    pub(crate) fn expect(&self, at: Timestamp) {
        let mut next = self.next.lock();
        *next = Some(next.map_or(at, |next| next.min(at)));
        self.wake.notify_one();
    }

    fn next(&self) -> Option<Timestamp> {
        *self.next.lock()
    }
}

/// What one turn sends when its rows are written.
#[derive(Default)]
struct Turn {
    commands: Vec<Command>,
    wishes: Vec<(String, Side)>,
    late: u64,
    next: Option<Timestamp>,
}

/// Does errands, forever.
pub(crate) async fn run(fleet: Arc<Fleet>) -> Result<(), Failure> {
    let clock = fleet.house.base.clock.clone();
    // What was due when another run broke off is in the rows.
    fleet.errands.expect(clock.now());
    loop {
        match fleet.errands.next() {
            None => fleet.errands.wake.notified().await,
            Some(next) if next <= clock.now() => fleet.errand_turn().await?,
            Some(_) => {
                tokio::select! {
                    () = fleet.errands.wake.notified() => {}
                    () = clock.sleep(TURN_EVERY) => {}
                }
            }
        }
    }
}

impl Fleet {
    async fn errand_turn(&self) -> Result<()> {
        self.errands.next.lock().take();
        let (organisation, now) = (self.organisation, self.house.base.clock.now());
        let again = now.plus(self.house.config.command_again);
        let notifier = self.house.needs.notifier.clone();
        let turn = async move |tx: &mut Tx| {
            let mut turn = Turn::default();
            for command in commands::due(tx, organisation, now, ERRANDS_AT_ONCE).await? {
                take(tx, organisation, command, (now, again, &mut turn)).await?;
            }
            turn.wishes = twin::due(tx, organisation, (now, again), ERRANDS_AT_ONCE).await?;
            escalate(tx, organisation, &*notifier, now).await?;
            turn.next = next(tx, organisation).await?;
            Ok::<_, Error>(turn)
        };
        let turn = self.house.needs.db.write(turn).await?;
        if let Some(next) = turn.next {
            self.errands.expect(next);
        }
        self.house.meters.commands_late.inc_by(turn.late);
        self.send(turn).await
    }

    async fn send(&self, turn: Turn) -> Result<()> {
        let organisation = self.organisation;
        let mut messenger = self.house.messenger.subscribe();
        // The broker begins after this room.
        let messenger = messenger.wait_for(Option::is_some).await;
        let Some(messenger) = messenger.ok().and_then(|messenger| messenger.clone()) else {
            return Ok(());
        };
        for command in turn.commands {
            let topic = format!("{COMMAND_PREFIX}{}", command.device);
            let message = Message { topic, payload: command.message(), is_kept: false };
            match messenger.publish(organisation, message).await {
                Ok(()) => drop(self.house.meters.commands_sent.inc()),
                // It goes out again, or is too late.
                Err(error) => {
                    tracing::warn!(%error, command = %command.id, "a command was not sent");
                }
            }
        }
        for (device, wish) in turn.wishes {
            let topic = format!("{DESIRED_PREFIX}{device}");
            let message = Message { topic, payload: twin::message(&wish), is_kept: true };
            match messenger.publish(organisation, message).await {
                Ok(()) => {
                    let version = wish.version;
                    let told = async move |tx: &mut Tx| {
                        twin::told(tx, organisation, &device, version).await
                    };
                    self.house.needs.db.write(told).await?;
                }
                Err(error) => tracing::warn!(%error, device, "a wish was not published"),
            }
        }
        Ok(())
    }
}

/// Sends a command, sends it again, or gives it up.
async fn take(
    tx: &mut Tx,
    organisation: OrganisationId,
    mut command: Command,
    (now, again, turn): (Timestamp, Timestamp, &mut Turn),
) -> Result<()> {
    if command.state == CommandState::Sent && command.deadline() <= now {
        let late = (CommandState::TimedOut, now, None);
        turn.late += 1;
        return commands::end(tx, organisation, &command, late).await;
    }
    // The time that the device has counts from the first time.
    command.sent = command.sent.or(Some(now));
    let due = again.min(command.deadline());
    if commands::go(tx, organisation, &command, (command.sent.unwrap_or(now), due)).await? {
        turn.commands.push(command);
    }
    Ok(())
}

/// Tells more people of alerts that nobody has taken in hand.
async fn escalate(
    tx: &mut Tx,
    organisation: OrganisationId,
    notifier: &dyn Notifier,
    now: Timestamp,
) -> Result<()> {
    for alert in store::neglected(tx, organisation, now, ERRANDS_AT_ONCE).await? {
        if store::escalate(tx, organisation, alert.id, now).await? {
            tell(tx, organisation, notifier, (alert, now)).await?;
        }
    }
    Ok(())
}

async fn tell(
    tx: &mut Tx,
    organisation: OrganisationId,
    notifier: &dyn Notifier,
    (alert, now): (Alert, Timestamp),
) -> Result<()> {
    let id = alert.id;
    let version = alert.why.as_ref().map(|why| (alert.rule, why.version));
    let Some(version) = version else { return Ok(()) };
    // The text as it was when it raised the alert.
    let Some(rule) = store::written_version(tx, organisation, version).await? else {
        return Ok(());
    };
    let Some(escalation) = rule.text.escalation else { return Ok(()) };
    let body = format!(
        "Nobody has taken this alert in hand since {}.\n\nRule:   {}\nDevice: {}\nSensor: {}\nTime:   {}\nValues: {}\n",
        alert.raised, alert.rule_name, alert.device, alert.sensor, alert.time, alert.values
    );
    for (action, part) in escalation.actions.iter().zip(0_u64..) {
        let to = match action {
            Deed::Email { to } => Recipient::Email(to.clone()),
            Deed::Endpoint { endpoint } => Recipient::Endpoint(endpoint.clone()),
            Deed::Actuator { .. } => continue,
        };
        let mut hash = Sha256::new();
        hash.update(ESCALATION);
        hash.update(id.bytes());
        hash.update(part.to_le_bytes());
        let mut key = [0; 16];
        key.copy_from_slice(&hash.finalize()[..16]);
        let notice = Notice {
            organisation,
            event: "alert.escalated",
            to,
            subject: format!("{}: {} (escalated)", alert.rule_name, alert.device),
            body: body.clone(),
            occurred: now,
            data: alert.to_json(),
            key: EventId::from_bytes(key),
        };
        match notifier.enqueue(tx, &notice).await {
            Ok(()) => {}
            Err(error) if matches!(error.kind, ErrorKind::Invalid | ErrorKind::TooMany) => {
                let sql = "UPDATE alerts SET mail_error = ? WHERE organisation = ? AND id = ?";
                tx.execute(sql, params![error.to_string(), organisation, id]).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// When the next errand is due.
async fn next(tx: &mut Tx, organisation: OrganisationId) -> Result<Option<Timestamp>> {
    let mut next: Option<Timestamp> = None;
    for sql in [
        "SELECT MIN(due) AS at FROM device_commands WHERE organisation = ? AND due IS NOT NULL",
        "SELECT MIN(due) AS at FROM twins WHERE organisation = ? AND due IS NOT NULL",
        "SELECT MIN(escalate) AS at FROM alerts WHERE organisation = ? AND escalate IS NOT NULL",
    ] {
        let at: Option<Timestamp> = tx.query_one(sql, params![organisation]).await?.get("at")?;
        next = next.into_iter().chain(at).min();
    }
    Ok(next)
}
