//! A client that keeps to the protocol, over a connection that may break at any byte.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rmqtt_codec::types::{Publish, QoS};
use rmqtt_codec::v3::{Codec, Connect, ConnectAckReason, LastWill, Packet};
use testkit::sim::{End, Sim};
use tokio_util::codec::{Decoder, Encoder};

use super::model::{Kept, Sent, Shared, Will, number};

/// How long it waits for any word.
const PATIENCE: Duration = Duration::from_secs(3);
const PING_EVERY: Duration = Duration::from_millis(600);
const UNACKNOWLEDGED_MAX: usize = 6;

#[allow(clippy::struct_excessive_bools, reason = "each can be with each")]
pub(super) struct Client {
    sim: Sim,
    ledger: Shared,
    pub(super) index: usize,
    /// Its session is kept.
    pub(super) is_kept: bool,
    pub(super) subscribes: bool,
    pub(super) line: Option<Line>,
    pub(super) retry_at: Duration,
    pub(super) stays_away: bool,
    connections: u64,
    /// A CONNECT of a kept session may have come through unanswered.
    has_tried: bool,
    last_id: u16,
    /// Publishes of QoS 1 without a PUBACK, in order.
    unacknowledged: VecDeque<(u16, Publish)>,
    pub(super) session: Session,
}

/// What it knows of its session.
#[derive(Default)]
pub(super) struct Session {
    /// A CONNACK said that it is there; with false it may be.
    pub(super) is_there: Option<bool>,
    /// How much had happened when the SUBACK came.
    pub(super) subscribed: Option<u64>,
    /// How often each message came: new, and again.
    pub(super) got: BTreeMap<usize, (u64, u64)>,
    last_first: BTreeMap<(usize, u8), usize>,
}

/// One connection.
pub(super) struct Line {
    pub(super) end: End,
    codec: Codec,
    input: BytesMut,
    output: BytesMut,
    pub(super) is_open: bool,
    pub(super) is_leaving: bool,
    /// What it says may not arrive.
    pub(super) is_broken: bool,
    /// When the last stall is over for good; more of them in a row would outlast the keep-alive.
    pub(super) stalls_at: Duration,
    pub(super) will: String,
    heard: Duration,
    ping_at: Duration,
    /// What was sent on this connection and wants a PUBACK, in order.
    awaited: VecDeque<u16>,
    /// PUBACKs to send.
    owed: VecDeque<(Duration, u16)>,
    unanswered: BTreeMap<u16, usize>,
    pub(super) retained: BTreeMap<String, Vec<u8>>,
}

impl Client {
    pub(super) fn new(sim: &Sim, ledger: &Shared, index: usize) -> Self {
        Self {
            sim: sim.clone(),
            ledger: ledger.clone(),
            index,
            is_kept: !sim.one_in(3),
            subscribes: index == 0 || sim.one_in(2),
            line: None,
            retry_at: Duration::ZERO,
            stays_away: false,
            connections: 0,
            has_tried: false,
            last_id: 0,
            unacknowledged: VecDeque::new(),
            session: Session { is_there: Some(false), ..Session::default() },
        }
    }

    pub(super) fn name(&self) -> String {
        format!("client-{}", self.index)
    }

    pub(super) fn is_settled(&self) -> bool {
        let is_open = self.line.as_ref().is_some_and(|line| line.is_open && line.owed.is_empty());
        is_open && self.unacknowledged.is_empty() && self.has_subscribed()
    }

    fn has_subscribed(&self) -> bool {
        !self.subscribes || self.session.subscribed.is_some()
    }

    /// Begins a connection whose other end the broker has.
    pub(super) fn connect(&mut self, end: End) {
        self.connections += 1;
        let will = format!("w{}-{}", self.index, self.connections);
        self.sim.note(format_args!("{} connects with {will} on {}", self.name(), end.number()));
        self.ledger.lock().wills.insert(will.clone(), Will::Open);
        let now = self.sim.now();
        let mut line = Line {
            end,
            codec: Codec::new(0),
            input: BytesMut::new(),
            output: BytesMut::new(),
            is_open: false,
            is_leaving: false,
            is_broken: false,
            stalls_at: Duration::ZERO,
            will: will.clone(),
            heard: now,
            ping_at: now + PING_EVERY,
            awaited: VecDeque::new(),
            owed: VecDeque::new(),
            unanswered: BTreeMap::new(),
            retained: BTreeMap::new(),
        };
        let last_will = LastWill {
            qos: QoS::AtLeastOnce,
            retain: false,
            topic: format!("w/{}", self.index).into(),
            message: will.into(),
        };
        line.say(Packet::Connect(Box::new(Connect {
            clean_session: !self.is_kept,
            keep_alive: 1,
            last_will: Some(last_will),
            client_id: self.name().into(),
            username: Some("roof".into()),
            password: Some(Bytes::from_static(b"roof-secret")),
            ..Connect::default()
        })));
        if !self.is_kept {
            self.unacknowledged.clear();
            self.session = Session { is_there: Some(false), ..Session::default() };
        }
        if self.has_tried && self.is_kept && self.session.is_there == Some(false) {
            self.session.is_there = None;
        }
        self.has_tried = true;
        self.line = Some(line);
    }

    /// Moves bytes and answers what came.
    pub(super) fn turn(&mut self) -> Result<(), String> {
        let now = self.sim.now();
        let Some(mut line) = self.line.take() else { return Ok(()) };
        let mut is_over = false;
        while let Some(&(due, id)) = line.owed.front() {
            if due > now || line.is_leaving {
                break;
            }
            line.owed.pop_front();
            line.unanswered.remove(&id);
            line.say(Packet::PublishAck { packet_id: NonZeroU16::new(id).expect("it was one") });
        }
        if line.is_open && !line.is_leaving && now >= line.ping_at {
            line.ping_at = now + PING_EVERY;
            line.say(Packet::PingRequest);
        }
        // One that said good-bye waits for the broker to close: only then it knows that it was heard.
        if !line.output.is_empty() {
            match line.end.write(&line.output) {
                Some(count) => drop(line.output.split_to(count)),
                None => is_over = true,
            }
        }
        match line.end.read() {
            Some(bytes) if bytes.is_empty() => {}
            Some(bytes) => {
                line.heard = now;
                line.input.extend_from_slice(&bytes);
            }
            None => is_over = true,
        }
        while let Some((packet, _)) =
            line.codec.decode(&mut line.input).map_err(|error| format!("unreadable: {error:?}"))?
        {
            self.hear(&mut line, packet)?;
        }
        if line.is_leaving && line.output.is_empty() {
            line.end.close();
        }
        let is_given_up = now > line.heard + PATIENCE;
        if is_given_up && line.is_leaving {
            self.expect(&line, Will::Open);
        }
        if is_over || is_given_up {
            self.lost(line);
        } else {
            self.line = Some(line);
        }
        Ok(())
    }

    /// The connection is over for this end.
    pub(super) fn lost(&mut self, line: Line) {
        self.sim.note(format_args!("{} is off", self.name()));
        self.retry_at = self.sim.now() + Duration::from_millis(self.sim.below(300));
        drop(line);
    }

    /// Sets what must become of this connection's will, unless it is known better.
    fn expect(&self, line: &Line, will: Will) {
        self.ledger.lock().wills.insert(line.will.clone(), will);
    }

    fn hear(&mut self, line: &mut Line, packet: Packet) -> Result<(), String> {
        match packet {
            Packet::ConnectAck(ack) if ack.return_code == ConnectAckReason::ConnectionAccepted => {
                self.welcome(line, ack.session_present)
            }
            Packet::ConnectAck(ack) => {
                self.sim.note(format_args!("{} is refused: {ack:?}", self.name()));
                Ok(())
            }
            Packet::PublishAck { packet_id } => self.acknowledged(line, packet_id.get()),
            Packet::SubscribeAck { .. } => {
                let mut ledger = self.ledger.lock();
                ledger.events += 1;
                self.session.subscribed = Some(ledger.events);
                Ok(())
            }
            Packet::Publish(publish) => self.delivered(line, &publish),
            Packet::PingResponse => Ok(()),
            other => Err(format!("a broker does not say {other:?}")),
        }
    }

    fn welcome(&mut self, line: &mut Line, is_present: bool) -> Result<(), String> {
        let name = self.name();
        self.sim.note(format_args!("{name} is in, session present: {is_present}"));
        if self.session.is_there.is_some_and(|expected| expected != is_present) {
            return Err(format!("{name} hears session present = {is_present}"));
        }
        if is_present {
            self.sim.count("sessions resumed");
        } else {
            self.session = Session::default();
        }
        self.session.is_there = Some(self.is_kept);
        line.is_open = true;
        self.expect(line, Will::Due);
        for (id, publish) in &mut self.unacknowledged {
            self.sim.note(format_args!("{name} sends {id} again"));
            publish.dup = true;
            line.awaited.push_back(*id);
            line.say(Packet::Publish(Box::new(publish.clone())));
            self.sim.count("messages sent again");
            if let Some(number) = number(&publish.payload) {
                self.ledger.lock().sent[number].transmissions += 1;
            }
        }
        if self.subscribes && self.session.subscribed.is_none() {
            line.say(Packet::Subscribe {
                packet_id: NonZeroU16::MAX,
                topic_filters: vec![
                    ("t/#".into(), QoS::AtLeastOnce),
                    ("w/#".into(), QoS::AtMostOnce),
                ],
            });
        }
        Ok(())
    }

    fn acknowledged(&mut self, line: &mut Line, id: u16) -> Result<(), String> {
        let name = self.name();
        if line.awaited.pop_front() != Some(id) {
            return Err(format!("{name} hears PUBACK {id} out of order"));
        }
        let (expected, publish) = self.unacknowledged.pop_front().ok_or("it awaits one")?;
        if expected != id {
            return Err(format!("{name} hears PUBACK {id} and awaits {expected}"));
        }
        self.sim.count("messages acknowledged");
        let mut ledger = self.ledger.lock();
        if publish.retain
            && let Some(kept) = ledger.kept.get_mut(&*publish.topic)
            && let Some(kept) = kept.iter_mut().rev().find(|it| it.id == id)
        {
            kept.is_acknowledged = true;
        }
        if let Some(number) = number(&publish.payload) {
            ledger.sent[number].is_acknowledged = true;
            if !ledger.accepted.contains_key(&number) {
                return Err(format!("message {number} is acknowledged and was not taken"));
            }
        }
        Ok(())
    }

    fn delivered(&mut self, line: &mut Line, publish: &Publish) -> Result<(), String> {
        let name = self.name();
        if publish.topic.starts_with("r/") {
            line.retained.insert(publish.topic.to_string(), publish.payload.to_vec());
            if let Some(id) = publish.packet_id {
                line.owed.push_back((self.sim.now(), id.get()));
            }
            return Ok(());
        }
        let found = number(&publish.payload);
        if let Some(id) = publish.packet_id {
            let what = found.unwrap_or(usize::MAX);
            if line.unanswered.insert(id.get(), what).is_some() {
                return Err(format!("{name} is sent identifier {id} again before its PUBACK"));
            }
            let due = self.sim.now() + Duration::from_millis(self.sim.below(150));
            let due = line.owed.back().map_or(due, |(last, _)| due.max(*last));
            line.owed.push_back((due, id.get()));
        }
        if publish.topic.starts_with("w/") {
            return Ok(());
        }
        let number = found.ok_or_else(|| format!("{name} is sent what nobody published"))?;
        let ledger = self.ledger.lock();
        let taken = ledger.accepted.get(&number).copied().unwrap_or(0);
        let got = self.session.got.entry(number).or_default();
        *if publish.dup { &mut got.1 } else { &mut got.0 } += 1;
        let (new, again) = *got;
        let dup = publish.dup;
        self.sim.note(format_args!("{name} gets m{number}, again: {dup}, {:?}", publish.packet_id));
        self.sim.count(if publish.dup { "delivered again" } else { "messages delivered" });
        if new > taken {
            return Err(format!("{name} gets message {number} as new {new} times of {taken}"));
        }
        // One that was sent again may have come first when nobody had subscribed yet.
        let is_first = new + again == 1 && taken == 1;
        let sender = (ledger.sent[number].client, publish.qos.value());
        if is_first {
            let last = self.session.last_first.insert(sender, number);
            if last.is_some_and(|it| it > number) {
                return Err(format!(
                    "{name} gets message {number} after a later one of its sender"
                ));
            }
        }
        Ok(())
    }

    /// Publishes something.
    pub(super) fn publish(&mut self) {
        let Some(line) = &mut self.line else { return };
        let is_ready = line.is_open && !line.is_leaving && line.output.len() < 2_000;
        if !is_ready || self.unacknowledged.len() >= UNACKNOWLEDGED_MAX {
            return;
        }
        let mut ledger = self.ledger.lock();
        ledger.events += 1;
        let retain = self.sim.one_in(5);
        let qos = if retain || !self.sim.one_in(3) { QoS::AtLeastOnce } else { QoS::AtMostOnce };
        let id = (qos == QoS::AtLeastOnce).then(|| {
            // Small, so that identifiers come again.
            self.last_id = self.last_id % 20 + 1;
            self.last_id
        });
        let number = ledger.sent.len();
        let is_removal = retain && self.sim.one_in(4);
        let kind = if self.sim.one_in(2) { "s" } else { "x" };
        let topic =
            if retain { format!("r/{}", self.index) } else { format!("t/{}/{kind}", self.index) };
        if retain {
            let value = (!is_removal).then_some(number);
            let kept = Kept { value, id: id.unwrap_or(0), is_acknowledged: false };
            ledger.kept.entry(topic.clone()).or_default().push(kept);
        }
        let (client, at) = (self.index, ledger.events);
        ledger.sent.push(Sent {
            client,
            qos: qos.value(),
            transmissions: 1,
            is_acknowledged: false,
            at,
        });
        let payload = if is_removal { Bytes::new() } else { format!("m{number}").into() };
        self.sim.note(format_args!("client-{client} publishes m{number} to {topic} as {id:?}"));
        let publish = Publish {
            dup: false,
            retain,
            qos,
            topic: topic.into(),
            packet_id: id.and_then(NonZeroU16::new),
            payload,
            properties: None,
        };
        line.say(Packet::Publish(Box::new(publish.clone())));
        if let Some(id) = id {
            line.awaited.push_back(id);
            self.unacknowledged.push_back((id, publish));
        }
    }

    /// Says good-bye.
    pub(super) fn leave(&mut self) {
        if let Some(line) = &mut self.line
            && line.is_open
            && !line.is_leaving
        {
            line.is_leaving = true;
            line.say(Packet::Disconnect);
            let will = line.will.clone();
            // A publish that cannot be stored closes the connection before the good-bye is read.
            let is_sure =
                line.awaited.is_empty() && (!self.subscribes || self.session.subscribed.is_some());
            self.sim.count("clean end");
            self.sim.note(format_args!("client-{} says good-bye", self.index));
            let expected = if is_sure { Will::Never } else { Will::Open };
            self.ledger.lock().wills.insert(will, expected);
        }
    }

    /// Messages that its kept session owes it.
    pub(super) fn missing(&self) -> BTreeSet<usize> {
        let Some(since) = self.session.subscribed else { return BTreeSet::new() };
        let ledger = self.ledger.lock();
        let kept: BTreeSet<usize> =
            ledger.kept.values().flatten().filter_map(|kept| kept.value).collect();
        let owed = ledger.sent.iter().enumerate().filter(|(number, sent)| {
            sent.qos == 1
                && sent.is_acknowledged
                && sent.at > since
                && ledger.accepted.contains_key(number)
                && !kept.contains(number)
        });
        owed.map(|(number, _)| number).filter(|it| !self.session.got.contains_key(it)).collect()
    }
}

impl Line {
    pub(super) fn say(&mut self, packet: Packet) {
        self.codec.encode(packet, &mut self.output).expect("what a client says can be written");
    }

    /// Asks for everything that is retained.
    pub(super) fn ask_for_retained(&mut self) {
        self.say(Packet::Subscribe {
            packet_id: NonZeroU16::MIN,
            topic_filters: vec![("r/#".into(), QoS::AtMostOnce)],
        });
    }
}
