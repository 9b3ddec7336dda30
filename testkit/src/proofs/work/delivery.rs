use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::receiver::{Receiver, STEPS, Step, Temper, Trigger};
use crate::mailbox::Mailbox;
use crate::proofs::{Ground, Report};
use crate::stack::{Launch, Stack};
use crate::wait::{within, within_every};

/// Actions of the rule: one mail, three webhooks, one Slack channel.
const CHANNELS: usize = 5;
const SEED: u64 = 20_261_121;

/// 1,300 messages in a burst: mails through a real SMTP server, webhooks and Slack to receivers that refuse, stall, answer
/// 429 and 5xx by chance; kill -9 at seeded steps of messages. None is lost; what was taken twice is known for a
/// repeat by its id, and counted at an attempt whose end nobody could write.
pub fn delivery(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let readings = ground.count(40, 260);
    let kills = ground.count(6, 45);
    let trigger = Arc::new(Trigger::default());
    let others = Others {
        mailbox: Mailbox::open()?,
        well: Receiver::open(Temper::Well, SEED, &trigger)?,
        moody: Receiver::open(Temper::Moody, SEED + 1, &trigger)?,
        asleep: Receiver::open(Temper::Asleep, SEED + 2, &trigger)?,
        slack: Receiver::open(Temper::Moody, SEED + 3, &trigger)?,
    };
    let folder = tempfile::tempdir()?;
    let launch = launch(&ground.binary, folder.path(), others.mailbox.port);
    let stack = launch.start()?;
    let rule = others.make_rule(&stack)?;
    burst(&stack, readings)?;

    let (stack, kills, slowest) = kill_at_steps(&launch, stack, &trigger, kills)?;
    let total: usize = kills.values().sum();
    let said: Vec<_> = kills.iter().map(|(step, count)| format!("{count} {step:?}")).collect();
    report.bound(
        kills.len() == STEPS.len(),
        format!(
            "{} messages in a burst; kill -9 {total} times ({}); slowest start after one {slowest:?}",
            readings * CHANNELS,
            said.join(", ")
        ),
    );

    // While one endpoint has slept all the time, the others are to be done.
    let awake = |message: &&Value| message["endpoint"] != rule.asleep.as_str();
    let done =
        within_every(Duration::from_millis(200), Duration::from_mins(5), "the others", || {
            let messages = stack.api().all("/v1/messages")?;
            let unsent = messages.iter().filter(awake).filter(|one| one["state"] != "sent").count();
            Ok((messages.len() == readings * CHANNELS && unsent == 0).then_some(messages))
        })?;
    let asleep = done.iter().filter(|message| !awake(message)).count();
    report.bound(
        others.asleep.taken().is_empty() && asleep == readings,
        "an endpoint that stalled all the while held back none of the others' messages",
    );
    others.asleep.wake();
    let messages = all_sent(&stack, readings * CHANNELS)?;
    others.check(&stack, &messages, &rule, &mut report)?;
    Ok(report)
}

fn launch(binary: &Path, folder: &Path, smtp_port: u16) -> Launch {
    let mut launch = Launch::new(binary, folder).mail_to(smtp_port);
    for (name, value) in [
        ("MADANG__EGRESS__PLAIN_HTTP", "true"),
        ("MADANG__EGRESS__REQUEST_TIME_MAX", "1s"),
        ("MADANG__DELIVERY__SMTP__SEND_TIME_MAX", "2s"),
        ("MADANG__DELIVERY__LEASE_MARGIN", "500ms"),
        ("MADANG__DELIVERY__BACK_OFF_MIN", "20ms"),
        ("MADANG__DELIVERY__BACK_OFF_MAX", "500ms"),
        ("MADANG__DELIVERY__ATTEMPTS_MAX", "1000"),
        ("MADANG__DELIVERY__ENDPOINTS__REST_MAX", "300ms"),
        ("MADANG__DELIVERY__ENDPOINTS__SLACK_PER_SECOND_MAX", "1000"),
    ] {
        launch = launch.environment(name, value);
    }
    launch
}

/// Those who get messages.
struct Others {
    mailbox: Mailbox,
    well: Receiver,
    moody: Receiver,
    asleep: Receiver,
    slack: Receiver,
}

/// The ids of the endpoints that the rule names.
struct Rule {
    well: String,
    moody: String,
    asleep: String,
    slack: String,
}

impl Others {
    fn make_rule(&self, stack: &Stack) -> Result<Rule> {
        let make = |channel: &str, name: &str, receiver: &Receiver| -> Result<String> {
            let url = format!("http://127.0.0.1:{}/{name}", receiver.port);
            let new = json!({"channel": channel, "name": name, "url": url});
            let made = stack.api().post("/v1/endpoints", &new)?.ok()?;
            Ok(made["id"].as_str().context("id")?.to_owned())
        };
        let rule = Rule {
            well: make("webhook", "well", &self.well)?,
            moody: make("webhook", "moody", &self.moody)?,
            asleep: make("webhook", "asleep", &self.asleep)?,
            slack: make("slack", "slack", &self.slack)?,
        };
        let sensor = json!({"name": "load", "values": [{"name": "temp"}, {"name": "n"}]});
        stack.api().post("/v1/sensors", &sensor)?.ok()?;
        let mut actions = vec![json!({"type": "email", "to": "ops@example.com"})];
        for endpoint in [&rule.well, &rule.moody, &rule.asleep, &rule.slack] {
            actions.push(json!({"type": "endpoint", "endpoint": endpoint}));
        }
        let text = json!({
            "name": "Hot", "sensor": "load",
            "conditions": [{"value": "temp", "ranges": [{"min": 90.0, "max": null}]}],
            "cooldown_seconds": 0, "actions": actions,
        });
        stack.api().post("/v1/rules", &text)?.ok()?;
        Ok(rule)
    }

    /// None lost; of what was taken more than once, each surplus belongs to an attempt whose end is unknown.
    fn check(
        &self,
        stack: &Stack,
        messages: &[Value],
        rule: &Rule,
        report: &mut Report,
    ) -> Result<()> {
        let mut mails = BTreeMap::<String, u32>::new();
        for mail in self.mailbox.mails() {
            let id = mail.header("message-id").context("a mail without a Message-ID")?.to_owned();
            *mails.entry(id).or_default() += 1;
        }
        let receivers = [
            (Some(rule.well.as_str()), "webhook, well", self.well.taken(), self.well.refused()),
            (Some(rule.moody.as_str()), "webhook, moody", self.moody.taken(), self.moody.refused()),
            (
                Some(rule.asleep.as_str()),
                "webhook, asleep",
                self.asleep.taken(),
                self.asleep.refused(),
            ),
            (Some(rule.slack.as_str()), "Slack, moody", self.slack.taken(), self.slack.refused()),
            (None, "mail", mails, 0),
        ];
        for (endpoint, name, taken, refused) in receivers {
            let is_ours = |message: &&Value| message["endpoint"].as_str() == endpoint;
            let (mut lost, mut repeats, mut unknown, mut unexplained) = (0, 0, 0, 0);
            let mut count = 0;
            for message in messages.iter().filter(is_ours) {
                count += 1;
                let key = if name.starts_with("Slack") { "body" } else { "message_id" };
                let key = message[key].as_str().context("no id")?;
                let times = taken.get(key).copied().unwrap_or(0);
                let unknowns = unknown_attempts(stack, message)?;
                lost += u32::from(times == 0);
                unknown += unknowns;
                repeats += times.saturating_sub(1);
                unexplained += u32::from(times.saturating_sub(1) > unknowns);
            }
            let strangers = taken.len().abs_diff(count);
            report.bound(
                lost == 0 && unexplained == 0 && strangers == 0,
                format!(
                    "{name}: {count} messages, {lost} lost, {} ids taken, {repeats} taken again under the same id, \
                     {unexplained} of them without an attempt of unknown end ({unknown} such attempts shown), \
                     {refused} refusals",
                    taken.len()
                ),
            );
        }
        Ok(())
    }
}

/// Attempts whose end nobody wrote, or nobody waited for, as the API shows them: the receiver may have taken those.
fn unknown_attempts(stack: &Stack, message: &Value) -> Result<u32> {
    if message["attempts"] == 1 {
        return Ok(0);
    }
    let id = message["id"].as_str().context("id")?;
    let whole = stack.api().get(&format!("/v1/messages/{id}"))?.ok()?;
    let attempts = whole["attempts_made"].as_array().context("attempts")?;
    let unknown = attempts.iter().filter(|attempt| is_open(attempt)).count();
    Ok(u32::try_from(unknown)?)
}

fn is_open(attempt: &Value) -> bool {
    let error = attempt["error"].as_str().unwrap_or_default();
    let is_late = ["did not answer within", "took longer than"].iter().any(|it| error.contains(it));
    attempt["outcome"] == "unknown" || (attempt["status"].is_null() && is_late)
}

/// Hot readings, each of which sets off every action.
fn burst(stack: &Stack, readings: usize) -> Result<()> {
    for first in (0..readings).step_by(50) {
        let some: Vec<_> = (first..readings.min(first + 50))
            .map(|n| {
                let time = format!("2020-01-01T{:02}:{:02}:{:02}Z", n / 3600, n / 60 % 60, n % 60);
                json!({"sensor": "load", "time": time, "values": {"temp": 95.0, "n": n}})
            })
            .collect();
        stack.api().post("/v1/devices/roof/readings", &json!(some))?.ok()?;
    }
    Ok(())
}

/// Kills the server at steps of messages and starts it again; how often at which step, and the slowest start.
fn kill_at_steps(
    launch: &Launch,
    mut stack: Stack,
    trigger: &Arc<Trigger>,
    kills: usize,
) -> Result<(Stack, BTreeMap<Step, usize>, Duration)> {
    let mut done = BTreeMap::new();
    let mut slowest = Duration::ZERO;
    for kill in 0..kills {
        let step = STEPS[kill % STEPS.len()];
        // Sometimes at once, sometimes in the middle of what has been claimed.
        trigger.set(stack.pid(), step, (kill as u64 * 7 + SEED) % 23);
        let gone_off = within(Duration::from_secs(20), "a step to kill at", || {
            Ok(trigger.has_gone_off().then_some(()))
        });
        if gone_off.is_err() {
            // Everything is sent.
            trigger.clear();
            break;
        }
        stack.ended(Duration::from_secs(10))?;
        stack = launch.start()?;
        slowest = slowest.max(stack.ready_after);
        *done.entry(step).or_insert(0) += 1;
    }
    Ok((stack, done, slowest))
}

fn all_sent(stack: &Stack, count: usize) -> Result<Vec<Value>> {
    within_every(Duration::from_millis(200), Duration::from_mins(5), "every message", || {
        let messages = stack.api().all("/v1/messages")?;
        let sent = messages.iter().filter(|message| message["state"] == "sent").count();
        Ok((messages.len() == count && sent == count).then_some(messages))
    })
}
