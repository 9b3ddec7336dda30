//! One connection without its socket: bytes and the time go in, requests come out; answers go in, bytes come out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::Timestamp;
use bytes::BytesMut;

use crate::decode::{self, Greeting};
use crate::encode::{self, Answer, REASON_BYTES_MAX, Welcome, Why};
use crate::packet::{Close, Connect, Packet, Publish, Reason, Subscribe, Version};
use crate::{Config, Message, Qos};

/// What is done with one packet or one moment.
#[derive(Debug)]
pub(crate) enum Step {
    Do(Request),
    /// Nothing more in the bytes so far.
    More,
    /// The next packet waits until a publish is answered.
    Full,
}

/// What a client wants that the protocol alone cannot answer.
#[derive(Debug)]
pub(crate) enum Request {
    Connect(Box<Connect>),
    Publish(Arc<Message>, Ticket),
    /// The client has a delivery.
    Acknowledge(u16),
    Subscribe(Subscribe),
    Unsubscribe {
        id: u16,
        filters: Vec<String>,
    },
    Disconnect {
        with_will: bool,
        expiry: Option<u32>,
    },
}

/// Which publish an outcome belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    pub(crate) qos: Qos,
    id: u16,
    pub(crate) since: Instant,
}

/// What became of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Done,
    Denied,
    /// The topic is not one that clients may publish to.
    BadTopic,
    Refused(String),
    /// A queue or the retained messages are full.
    Full,
    Unavailable,
}

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) Reason, pub(crate) &'static str);

pub(crate) struct Protocol {
    config: Config,
    version: Version,
    phase: Phase,
    keep_alive: Option<Duration>,
    /// When the last packet came.
    heard: Instant,
    client: Arc<str>,
    client_packet_bytes_max: u32,
    client_receive_max: u16,
    wants_problems: bool,
    session_ends: bool,
    aliases: HashMap<u16, Arc<str>>,
    /// Packets of QoS 2 that are not released; true when they were answered.
    received: HashMap<u16, bool>,
    /// Publishes that are not answered, of any QoS.
    pending: usize,
    /// Those of QoS 1 among them.
    pending_once: usize,
    pub(crate) out: BytesMut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing was heard yet.
    Silent,
    /// The CONNECT is being checked.
    Checking,
    Open,
}

impl Protocol {
    pub(crate) fn new(config: &Config, now: Instant) -> Self {
        Self {
            config: config.clone(),
            version: Version::V3,
            phase: Phase::Silent,
            keep_alive: None,
            heard: now,
            client: "".into(),
            client_packet_bytes_max: u32::MAX,
            client_receive_max: u16::MAX,
            wants_problems: true,
            session_ends: true,
            aliases: HashMap::new(),
            received: HashMap::new(),
            pending: 0,
            pending_once: 0,
            out: BytesMut::new(),
        }
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// The largest packet that the client takes.
    pub(crate) fn client_packet_bytes_max(&self) -> u32 {
        self.client_packet_bytes_max
    }

    /// Deliveries that may be in flight to the client.
    pub(crate) fn client_receive_max(&self) -> u16 {
        self.client_receive_max
    }

    /// Publishes that still want an outcome.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Takes the next packet out of `input`.
    pub(crate) fn next(
        &mut self,
        now: Instant,
        wall: Timestamp,
        input: &mut BytesMut,
    ) -> Result<Step, Close> {
        loop {
            if self.phase == Phase::Checking {
                return Ok(Step::Full);
            }
            if self.phase == Phase::Open && self.pending >= self.inflight_max() {
                self.check_receive_max(input)?;
                return Ok(Step::Full);
            }
            let bytes_max = match self.phase {
                Phase::Silent => self.config.packet_bytes_before_auth_max,
                Phase::Checking | Phase::Open => self.config.packet_bytes_max,
            };
            let Some(frame) = decode::take_frame(input, bytes_max)? else { return Ok(Step::More) };
            self.heard = now;
            if self.phase == Phase::Silent {
                return self.greet(frame).map(Step::Do);
            }
            if let Some(request) = self.packet(now, wall, decode::packet(self.version, frame)?)? {
                return Ok(Step::Do(request));
            }
        }
    }

    fn greet(&mut self, frame: decode::Frame) -> Result<Request, Close> {
        match decode::greeting(&frame)? {
            Greeting::Speaks(version) => self.version = version,
            Greeting::Unacceptable(answer) => {
                self.out.extend_from_slice(answer);
                return Err(Close::of(Reason::VERSION, "the protocol version is not supported"));
            }
        }
        let packet = decode::packet(self.version, frame).inspect_err(|close| {
            if self.version == Version::V5 {
                let why = Why { reason: close.reason, text: close.text };
                encode::refusal(&mut self.out, Version::V5, why);
            }
        })?;
        let Packet::Connect(connect) = packet else {
            return Err(Close::protocol("the first packet is not a CONNECT"));
        };
        self.phase = Phase::Checking;
        self.client_packet_bytes_max = connect.packet_bytes_max;
        self.wants_problems = connect.wants_problems;
        Ok(Request::Connect(connect))
    }

    fn packet(
        &mut self,
        now: Instant,
        wall: Timestamp,
        packet: Packet,
    ) -> Result<Option<Request>, Close> {
        Ok(match packet {
            Packet::Connect(_) => return Err(Close::protocol("a second CONNECT")),
            Packet::Publish(publish) => return self.publish(now, wall, *publish),
            Packet::PublishAck { id } => Some(Request::Acknowledge(id)),
            Packet::PublishRelease { id } => {
                self.release(id);
                None
            }
            Packet::Subscribe(subscribe) => Some(Request::Subscribe(subscribe)),
            Packet::Unsubscribe { id, filters } => Some(Request::Unsubscribe { id, filters }),
            Packet::Ping => {
                encode::pong(&mut self.out);
                None
            }
            Packet::Disconnect { reason, expiry } => {
                if self.session_ends && expiry.is_some_and(|seconds| seconds > 0) {
                    return Err(Close::protocol("a session that ends cannot be kept"));
                }
                Some(Request::Disconnect { with_will: reason != 0, expiry })
            }
        })
    }

    fn publish(
        &mut self,
        now: Instant,
        wall: Timestamp,
        publish: Publish,
    ) -> Result<Option<Request>, Close> {
        if !publish.identifiers.is_empty() {
            return Err(Close::protocol("a client sent a subscription identifier"));
        }
        if publish.properties.response_topic.as_ref().is_some_and(|it| it.contains(['+', '#'])) {
            return Err(Close::protocol("a response topic with a wildcard"));
        }
        let topic = self.resolve(publish.topic, publish.alias)?;
        if topic.contains(['+', '#']) {
            return Err(Close::of(Reason::TOPIC, "a topic with a wildcard"));
        }
        let ticket = Ticket { qos: publish.qos, id: publish.id, since: now };
        if publish.qos == Qos::ExactlyOnce {
            match self.received.get(&publish.id) {
                // Its answer is on the way.
                Some(false) => return Ok(None),
                Some(true) => {
                    self.write_answer(Answer::Received, publish.id, Reason::SUCCESS, "");
                    return Ok(None);
                }
                None => {}
            }
        }
        let is_over = self.unreleased() >= self.inflight_max();
        if self.version == Version::V5 && publish.qos != Qos::AtMostOnce && is_over {
            // Only QoS 2 gets here, by publishing on without ever releasing.
            return Err(Close::of(Reason::RECEIVE_MAX, "more publishes than the receive maximum"));
        }
        self.pending += 1;
        match publish.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => self.pending_once += 1,
            Qos::ExactlyOnce => {
                self.received.insert(publish.id, false);
            }
        }
        let message = Message {
            topic,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            client: self.client.clone(),
            received: wall,
            expires: publish.expiry.map(|it| wall.plus(Duration::from_secs(it.into()))),
            properties: publish.properties,
        };
        Ok(Some(Request::Publish(Arc::new(message), ticket)))
    }

    fn resolve(&mut self, topic: Arc<str>, alias: Option<u16>) -> Result<Arc<str>, Close> {
        let Some(alias) = alias else {
            if topic.is_empty() {
                return Err(Close::protocol("a publish without a topic"));
            }
            return Ok(topic);
        };
        if alias > self.config.topic_alias_max {
            return Err(Close::of(Reason::ALIAS, "a topic alias over the maximum"));
        }
        if topic.is_empty() {
            let known = self.aliases.get(&alias).cloned();
            return known.ok_or(Close::protocol("a topic alias that was not defined"));
        }
        self.aliases.insert(alias, topic.clone());
        Ok(topic)
    }

    fn inflight_max(&self) -> usize {
        self.config.inflight_max.into()
    }

    /// What the client's share of the receive maximum is used for: MQTT 5, section 4.9.
    fn unreleased(&self) -> usize {
        self.pending_once + self.received.len()
    }

    fn check_receive_max(&self, input: &[u8]) -> Result<(), Close> {
        let exceeds = self.version == Version::V5
            && self.unreleased() >= self.inflight_max()
            && decode::is_acknowledged_publish(input);
        if exceeds {
            return Err(Close::of(Reason::RECEIVE_MAX, "more publishes than the receive maximum"));
        }
        Ok(())
    }

    fn release(&mut self, id: u16) {
        let reason = match self.received.remove(&id) {
            Some(_) => Reason::SUCCESS,
            None => Reason::ID_NOT_FOUND,
        };
        self.write_answer(Answer::Complete, id, reason, "");
    }

    /// Answers a publish. Outcomes come in the order of the publishes.
    pub(crate) fn answer(&mut self, ticket: Ticket, outcome: &Outcome) -> Result<(), Close> {
        self.pending -= 1;
        let answer = match ticket.qos {
            Qos::AtMostOnce => return Ok(()),
            Qos::AtLeastOnce => {
                self.pending_once -= 1;
                Answer::Ack
            }
            Qos::ExactlyOnce => Answer::Received,
        };
        let (reason, text) = match outcome {
            Outcome::Done => (Reason::SUCCESS, ""),
            Outcome::Denied => (Reason::NOT_AUTHORIZED, ""),
            Outcome::BadTopic => (Reason::TOPIC, ""),
            Outcome::Refused(reason) => (Reason::PAYLOAD, reason.as_str()),
            Outcome::Full if self.version == Version::V5 => (Reason::QUOTA, ""),
            Outcome::Full => {
                return Err(Close::of(Reason::QUOTA, "a subscriber's queue is full"));
            }
            Outcome::Unavailable => {
                return Err(Close::of(Reason::BUSY, "the message cannot be stored now"));
            }
        };
        let is_refused_aloud = self.version == Version::V5 && reason != Reason::SUCCESS;
        if ticket.qos == Qos::ExactlyOnce {
            if is_refused_aloud {
                self.received.remove(&ticket.id);
            } else {
                self.received.insert(ticket.id, true);
            }
        }
        self.write_answer(answer, ticket.id, reason, text);
        Ok(())
    }

    fn write_answer(&mut self, answer: Answer, id: u16, reason: Reason, text: &str) {
        if self.version == Version::V3 {
            encode::answer(&mut self.out, answer, id, Why { reason: Reason::SUCCESS, text: "" });
            return;
        }
        let mut text = if self.wants_problems { shortened(text) } else { "" };
        if text.len() + 10 > self.client_packet_bytes_max as usize {
            text = "";
        }
        encode::answer(&mut self.out, answer, id, Why { reason, text });
    }

    /// Lets the client in.
    pub(crate) fn open(&mut self, opened: Opened<'_>) {
        debug_assert_eq!(self.phase, Phase::Checking, "only a client that asked is let in");
        self.phase = Phase::Open;
        self.client = opened.client;
        self.session_ends = opened.session_ends;
        self.client_receive_max = opened.receive_max;
        self.received = opened.received.into_iter().map(|id| (id, true)).collect();
        let keep_alive = opened.welcome.keep_alive.unwrap_or(opened.keep_alive);
        self.keep_alive =
            (keep_alive > 0).then(|| Duration::from_millis(1_500 * u64::from(keep_alive)));
        encode::welcome(&mut self.out, self.version, &opened.welcome);
    }

    pub(crate) fn refuse(&mut self, refusal: Refusal) {
        let why = Why { reason: refusal.0, text: refusal.1 };
        encode::refusal(&mut self.out, self.version, why);
    }

    pub(crate) fn subscribed(&mut self, id: u16, codes: &[Reason]) {
        encode::codes(&mut self.out, 0x90, id, self.version, codes);
    }

    pub(crate) fn unsubscribed(&mut self, id: u16, codes: &[Reason]) {
        encode::codes(&mut self.out, 0xB0, id, self.version, codes);
    }

    /// Says why the connection is closed, if the client can understand it.
    pub(crate) fn close(&mut self, close: Close) {
        if self.phase == Phase::Open && self.version == Version::V5 {
            let why = Why { reason: close.reason, text: close.text };
            encode::disconnect(&mut self.out, why);
        }
    }

    /// When [`Protocol::overdue`] should be asked.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Silent | Phase::Checking => Some(self.heard + self.config.connect_time_max),
            Phase::Open => self.keep_alive.map(|keep_alive| self.heard + keep_alive),
        }
    }

    pub(crate) fn overdue(&self, now: Instant) -> Option<Close> {
        if now < self.deadline()? {
            return None;
        }
        Some(match self.phase {
            Phase::Silent | Phase::Checking => Close::of(Reason::BUSY, "the CONNECT took too long"),
            Phase::Open => {
                Close::of(Reason::KEEP_ALIVE, "nothing was heard in the keep-alive time")
            }
        })
    }

    /// The packets of QoS 2 that were answered and not released; the session keeps them.
    pub(crate) fn unreleased_ids(&self) -> Vec<u16> {
        self.received.iter().filter(|(_, answered)| **answered).map(|(id, _)| *id).collect()
    }
}

/// What a connection is opened with.
pub(crate) struct Opened<'a> {
    pub(crate) client: Arc<str>,
    pub(crate) keep_alive: u16,
    pub(crate) session_ends: bool,
    pub(crate) receive_max: u16,
    pub(crate) received: Vec<u16>,
    pub(crate) welcome: Welcome<'a>,
}

fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(REASON_BYTES_MAX)]
}

#[cfg(test)]
mod tests;
