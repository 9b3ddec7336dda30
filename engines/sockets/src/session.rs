//! One connection's side of the protocol, without its socket and without a clock: frames in, requests out, and what is
//! said in answer as bytes. It knows what is subscribed, what waits for an ACK and which transactions are open.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::Config;
use crate::destination::Destination;
use crate::frame::{Command, Fault, Frame, Headers, Version, encode, escape, shown, write_header};
use crate::message::{Draft, is_name, is_passed_on};

/// How a subscription acknowledges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AckMode {
    Auto,
    /// An ACK stands for everything before it too.
    Client,
    Individual,
}

/// What the connection must do for a frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Connect(Connect),
    Subscribe(Subscribe),
    Unsubscribe {
        number: u32,
        receipt: Option<String>,
    },
    /// In this order, all of them or none: one SEND, ACK or NACK, or a whole transaction.
    Do {
        deeds: Vec<Deed>,
        receipt: Option<String>,
    },
    Disconnect {
        receipt: Option<String>,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    /// A key as its id and its secret.
    pub(crate) key: Option<(String, String)>,
    /// What the client offers to send, and wants to hear, at least so often; zero is never.
    pub(crate) sends: Duration,
    pub(crate) wants: Duration,
    pub(crate) receipt: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subscribe {
    pub(crate) number: u32,
    pub(crate) destination: Destination,
    pub(crate) resume: Option<Resume>,
    pub(crate) prefetch: Option<usize>,
    pub(crate) receipt: Option<String>,
}

/// Where a subscription to a topic begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resume {
    /// With the first message that is kept.
    Earliest,
    /// After the message at this offset.
    After(u64),
    /// After a message, by its id: the partition is checked.
    AfterMessage { partition: u32, offset: u64 },
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Send { destination: Destination, draft: Draft, is_kept: bool },
    Settle { destination: Destination, number: u32, rows: Vec<u64>, verdict: Verdict },
}

/// What becomes of messages of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Done,
    /// Given out again, to another consumer if there is one.
    Again,
    /// Moved to the queue of dead ones.
    Dead,
}

#[derive(Debug)]
pub(crate) struct Session {
    limits: Arc<Config>,
    version: Option<Version>,
    subscriptions: Vec<Subscription>,
    transactions: Vec<Transaction>,
    next_number: u32,
    next_tag: u64,
}

#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) number: u32,
    pub(crate) id: Box<str>,
    pub(crate) destination: Destination,
    ack: AckMode,
    /// How each of its MESSAGE frames begins.
    head: Box<[u8]>,
    /// Given out and not acknowledged: the tag of the ACK and the row.
    waiting: VecDeque<(u64, u64)>,
}

#[derive(Debug)]
struct Transaction {
    id: String,
    steps: Vec<Step>,
    bytes: usize,
}

#[derive(Debug)]
enum Step {
    Send {
        destination: Destination,
        draft: Draft,
        is_kept: bool,
    },
    /// Looked up when the transaction is committed.
    Settle {
        acknowledgement: Acknowledgement,
        verdict: Verdict,
    },
}

/// Which message an ACK or NACK is about.
#[derive(Debug, Clone)]
enum Acknowledgement {
    /// The subscription's number and the tag.
    Tag(u32, u64),
    /// The message's id, and the subscription's number if it was said.
    Row(u64, Option<u32>),
    /// A message of a topic, or of a subscription that has ended: nothing waits for it.
    Nothing,
}

impl Session {
    pub(crate) fn new(limits: Arc<Config>) -> Self {
        Self {
            limits,
            version: None,
            subscriptions: Vec::new(),
            transactions: Vec::new(),
            next_number: 0,
            next_tag: 0,
        }
    }

    /// What both sides speak; the newest while that is open.
    pub(crate) fn version(&self) -> Version {
        self.version.unwrap_or(Version::V12)
    }

    pub(crate) fn subscriptions(&self) -> &[Subscription] {
        &self.subscriptions
    }

    /// Takes a frame in. A frame that needs nothing further is answered by the request to do nothing.
    pub(crate) fn input(&mut self, frame: Frame) -> Result<Request, Fault> {
        let receipt = frame.headers.get("receipt").map(str::to_owned);
        match (frame.command, self.version) {
            (Command::Connect, None) => return self.connect(&frame.headers, receipt),
            (Command::Connect, Some(_)) => return Err("a second CONNECT".into()),
            (command, None) => {
                return Err(format!("{} before CONNECT", command.text()).into());
            }
            (Command::Nack, Some(Version::V10)) => {
                return Err("NACK is not a command of STOMP 1.0".into());
            }
            _ => {}
        }
        let headers = &frame.headers;
        match frame.command {
            Command::Connect | Command::Send => self.send(frame, receipt),
            Command::Subscribe => self.subscribe(headers, receipt),
            Command::Unsubscribe => {
                let number = self.known(headers)?.number;
                Ok(Request::Unsubscribe { number, receipt })
            }
            Command::Ack => self.settle(headers, Verdict::Done, receipt),
            Command::Nack => {
                let is_dead = headers.get("requeue") == Some("false");
                let verdict = if is_dead { Verdict::Dead } else { Verdict::Again };
                self.settle(headers, verdict, receipt)
            }
            Command::Begin => {
                let id = required(headers, "transaction")?;
                if self.transactions.iter().any(|it| it.id == id) {
                    return Err(format!("the transaction {:?} is open already", shown(id)).into());
                }
                if self.transactions.len() >= self.limits.transactions_max {
                    let max = self.limits.transactions_max;
                    return Err(format!("more than {max} open transactions").into());
                }
                let id = id.to_owned();
                self.transactions.push(Transaction { id, steps: Vec::new(), bytes: 0 });
                Ok(Request::Do { deeds: Vec::new(), receipt })
            }
            Command::Commit => {
                let steps = self.take_transaction(headers)?;
                let mut deeds = Vec::with_capacity(steps.len());
                for step in steps {
                    match step {
                        Step::Send { destination, draft, is_kept } => {
                            deeds.push(Deed::Send { destination, draft, is_kept });
                        }
                        Step::Settle { acknowledgement, verdict } => {
                            deeds.extend(self.resolve(&acknowledgement, verdict)?);
                        }
                    }
                }
                Ok(Request::Do { deeds, receipt })
            }
            Command::Abort => {
                self.take_transaction(headers)?;
                Ok(Request::Do { deeds: Vec::new(), receipt })
            }
            Command::Disconnect => Ok(Request::Disconnect { receipt }),
        }
    }

    fn connect(&mut self, headers: &Headers, receipt: Option<String>) -> Result<Request, Fault> {
        let version = match headers.get("accept-version") {
            None => Version::V10,
            Some(offered) => {
                let offered: Vec<&str> = offered.split(',').map(str::trim).collect();
                let common = Version::ALL.into_iter().find(|it| offered.contains(&it.text()));
                common.ok_or("the supported versions are 1.0, 1.1 and 1.2")?
            }
        };
        let (sends, wants) = heart_beat(headers.get("heart-beat").unwrap_or("0,0"))?;
        self.version = Some(version);
        let key = credentials(headers)?;
        Ok(Request::Connect(Connect { version, key, sends, wants, receipt }))
    }

    fn subscribe(&mut self, headers: &Headers, receipt: Option<String>) -> Result<Request, Fault> {
        let text = required(headers, "destination")?;
        let destination = Destination::parse(text, self.limits.destination_bytes_max)?;
        if matches!(destination, Destination::Of { .. }) {
            return Err("somebody's queue is subscribed to as /user/queue/NAME".into());
        }
        // 1.0 may name a subscription by its destination.
        let id = match (headers.get("id"), self.version()) {
            (Some(id), _) => id,
            (None, Version::V10) => text,
            (None, _) => return Err("a SUBSCRIBE without an id".into()),
        };
        if self.subscriptions.iter().any(|it| *it.id == *id) {
            return Err(format!("the subscription {:?} is there already", shown(id)).into());
        }
        if self.subscriptions.len() >= self.limits.subscriptions_max {
            let max = self.limits.subscriptions_max;
            return Err(format!("more than {max} subscriptions").into());
        }
        let ack = match headers.get("ack") {
            None | Some("auto") => AckMode::Auto,
            Some("client") => AckMode::Client,
            Some("client-individual") => AckMode::Individual,
            Some(other) => {
                return Err(format!("{:?} is not a mode of ack", shown(other)).into());
            }
        };
        let resume = resume(headers)?;
        let is_queue = matches!(destination, Destination::Queue(_));
        if resume.is_some() && is_queue {
            return Err(
                "a queue has no place to resume from: what was not acknowledged comes again".into(),
            );
        }
        let prefetch = match headers.get("prefetch-count") {
            None => None,
            Some(text) => {
                let count = text.parse::<usize>().ok().filter(|count| *count > 0);
                Some(count.ok_or("prefetch-count is not a number above 0")?)
            }
        };
        let mut head = b"MESSAGE\nsubscription:".to_vec();
        escape(&mut head, id, self.version());
        head.push(b'\n');
        if is_queue {
            write_header(&mut head, "destination", text, self.version());
        }
        let number = self.next_number;
        self.next_number += 1;
        self.subscriptions.push(Subscription {
            number,
            id: id.into(),
            destination: destination.clone(),
            ack,
            head: head.into(),
            waiting: VecDeque::new(),
        });
        Ok(Request::Subscribe(Subscribe { number, destination, resume, prefetch, receipt }))
    }

    /// The subscription that an UNSUBSCRIBE names.
    fn known(&self, headers: &Headers) -> Result<&Subscription, Fault> {
        let id = match (headers.get("id"), self.version()) {
            (Some(id), _) => id,
            (None, Version::V10) => required(headers, "destination")?,
            (None, _) => return Err("an UNSUBSCRIBE without an id".into()),
        };
        let found = self.subscriptions.iter().find(|it| *it.id == *id);
        found.ok_or_else(|| format!("there is no subscription {:?}", shown(id)).into())
    }

    pub(crate) fn unsubscribe(&mut self, number: u32) {
        self.subscriptions.retain(|it| it.number != number);
    }

    fn send(&mut self, frame: Frame, receipt: Option<String>) -> Result<Request, Fault> {
        let text = required(&frame.headers, "destination")?;
        let destination = Destination::parse(text, self.limits.destination_bytes_max)?;
        let is_kept = frame.headers.get("persistent") != Some("false");
        let transaction = frame.headers.get("transaction").map(str::to_owned);
        let mut headers: Vec<(String, String)> = Vec::new();
        for (name, value) in frame.headers.0 {
            if !is_name(&name) {
                let name = shown(&name);
                return Err(format!("{name:?} is not a header's name: it has blanks").into());
            }
            if is_passed_on(&name) && !headers.iter().any(|(known, _)| *known == name) {
                headers.push((name, value));
            }
        }
        let draft = Draft { headers, body: frame.body };
        match transaction {
            None => {
                let deeds = vec![Deed::Send { destination, draft, is_kept }];
                Ok(Request::Do { deeds, receipt })
            }
            Some(id) => {
                // What is kept must not hold the whole buffer that it was read into.
                let body = bytes::Bytes::copy_from_slice(&draft.body);
                let draft = Draft { body, ..draft };
                let bytes = draft.bytes();
                self.join(&id, Step::Send { destination, draft, is_kept }, bytes)?;
                Ok(Request::Do { deeds: Vec::new(), receipt })
            }
        }
    }

    fn settle(
        &mut self,
        headers: &Headers,
        verdict: Verdict,
        receipt: Option<String>,
    ) -> Result<Request, Fault> {
        let acknowledgement = self.acknowledgement(headers)?;
        let deeds = match headers.get("transaction") {
            Some(id) => {
                let step = Step::Settle { acknowledgement, verdict };
                self.join(id, step, 0)?;
                Vec::new()
            }
            None => self.resolve(&acknowledgement, verdict)?.into_iter().collect(),
        };
        Ok(Request::Do { deeds, receipt })
    }

    /// Reads which message is meant: 1.2 says the `ack` header of the MESSAGE, the others its id.
    fn acknowledgement(&self, headers: &Headers) -> Result<Acknowledgement, Fault> {
        if self.version() == Version::V12 {
            let id = required(headers, "id")?;
            let wrong = || Fault::from(format!("no message waits for the id {:?}", shown(id)));
            let (number, tag) = id.split_once('-').ok_or_else(wrong)?;
            let number = number.parse::<u32>().map_err(|_| wrong())?;
            if number >= self.next_number {
                return Err(wrong());
            }
            if tag == "t" {
                return Ok(Acknowledgement::Nothing);
            }
            let tag = tag.parse::<u64>().map_err(|_| wrong())?;
            if tag >= self.next_tag {
                return Err(wrong());
            }
            return Ok(Acknowledgement::Tag(number, tag));
        }
        let id = required(headers, "message-id")?;
        let number = match headers.get("subscription") {
            Some(name) => match self.subscriptions.iter().find(|it| *it.id == *name) {
                Some(subscription) => Some(subscription.number),
                None => return Ok(Acknowledgement::Nothing),
            },
            None => None,
        };
        match id.split_once('.') {
            Some(("t" | "n", _)) => Ok(Acknowledgement::Nothing),
            Some(("q", row)) if row.parse::<u64>().is_ok() => {
                Ok(Acknowledgement::Row(row.parse().unwrap_or_default(), number))
            }
            _ => Err(format!("no message waits for the message-id {:?}", shown(id)).into()),
        }
    }

    /// Takes the messages that an ACK or NACK is about out of those that wait.
    fn resolve(
        &mut self,
        acknowledgement: &Acknowledgement,
        verdict: Verdict,
    ) -> Result<Option<Deed>, Fault> {
        let place = |subscription: &Subscription| match acknowledgement {
            Acknowledgement::Tag(number, tag) if subscription.number == *number => {
                subscription.waiting.iter().position(|(known, _)| known == tag)
            }
            Acknowledgement::Row(row, number)
                if number.is_none_or(|number| number == subscription.number) =>
            {
                subscription.waiting.iter().position(|(_, known)| known == row)
            }
            _ => None,
        };
        let is_gone = match acknowledgement {
            Acknowledgement::Nothing => return Ok(None),
            Acknowledgement::Tag(number, _) => {
                !self.subscriptions.iter().any(|it| it.number == *number)
            }
            Acknowledgement::Row(..) => false,
        };
        if is_gone {
            return Ok(None);
        }
        let mut subscriptions = self.subscriptions.iter_mut();
        let found = subscriptions.find_map(|it| place(it).map(|place| (it, place)));
        let Some((subscription, place)) = found else {
            return Err("the message does not wait for an acknowledgement".into());
        };
        let rows = match subscription.ack {
            AckMode::Client => subscription.waiting.drain(..=place).map(|(_, row)| row).collect(),
            _ => subscription.waiting.remove(place).map(|(_, row)| row).into_iter().collect(),
        };
        let destination = subscription.destination.clone();
        Ok(Some(Deed::Settle { destination, number: subscription.number, rows, verdict }))
    }

    fn join(&mut self, id: &str, step: Step, bytes: usize) -> Result<(), Fault> {
        let all = self.transaction_bytes();
        let bytes_max = self.limits.transaction_bytes_max;
        if all + bytes > bytes_max {
            return Err(format!("the transactions are larger than {bytes_max} bytes").into());
        }
        let frames_max = self.limits.transaction_frames_max;
        let transaction = self.transactions.iter_mut().find(|it| it.id == id);
        let transaction =
            transaction.ok_or_else(|| format!("there is no transaction {:?}", shown(id)))?;
        if transaction.steps.len() >= frames_max {
            return Err(format!("a transaction of more than {frames_max} frames").into());
        }
        transaction.bytes += bytes;
        transaction.steps.push(step);
        Ok(())
    }

    /// Bytes that open transactions hold.
    pub(crate) fn transaction_bytes(&self) -> usize {
        self.transactions.iter().map(|it| it.bytes).sum()
    }

    fn take_transaction(&mut self, headers: &Headers) -> Result<Vec<Step>, Fault> {
        let id = required(headers, "transaction")?;
        let place = self.transactions.iter().position(|it| it.id == id);
        let place = place.ok_or_else(|| format!("there is no transaction {:?}", shown(id)))?;
        let steps = self.transactions.remove(place).steps;
        if self.transactions.is_empty() {
            self.transactions = Vec::new();
        }
        Ok(steps)
    }

    /// How the MESSAGE frames of a subscription to a topic begin, up to what all subscribers share; nothing when it
    /// has ended.
    pub(crate) fn topic_head(&self, number: u32, into: &mut Vec<u8>) -> bool {
        let Some(subscription) = self.subscriptions.iter().find(|it| it.number == number) else {
            return false;
        };
        into.extend_from_slice(&subscription.head);
        if subscription.ack != AckMode::Auto {
            writeln!(into, "ack:{number}-t").expect("writing to memory");
        }
        true
    }

    /// The same for a queue: the message waits for its ACK from now on, unless none is wanted.
    pub(crate) fn queue_head(
        &mut self,
        number: u32,
        row: u64,
        deliveries: u32,
        into: &mut Vec<u8>,
    ) -> Option<AckMode> {
        let subscription = self.subscriptions.iter_mut().find(|it| it.number == number)?;
        into.extend_from_slice(&subscription.head);
        if subscription.ack != AckMode::Auto {
            let tag = self.next_tag;
            self.next_tag += 1;
            writeln!(into, "ack:{number}-{tag}").expect("writing to memory");
            subscription.waiting.push_back((tag, row));
        }
        if deliveries > 1 {
            into.extend_from_slice(b"redelivered:true\n");
        }
        Some(subscription.ack)
    }

    pub(crate) fn connected(&self, heart_beat: &str, (id, name): (&str, &str)) -> Vec<u8> {
        let headers = [
            ("version", self.version().text()),
            ("heart-beat", heart_beat),
            ("server", concat!("madang/", env!("CARGO_PKG_VERSION"))),
            ("session", id),
            ("user-name", name),
        ];
        encode("CONNECTED", &headers, "", self.version())
    }

    pub(crate) fn receipt(&self, id: &str) -> Vec<u8> {
        encode("RECEIPT", &[("receipt-id", id)], "", self.version())
    }

    pub(crate) fn error(&self, text: &str, receipt: Option<&str>) -> Vec<u8> {
        let mut headers = vec![("message", text)];
        if self.version.is_none() {
            headers.push(("version", "1.0,1.1,1.2"));
        }
        headers.push(("content-type", "text/plain"));
        if let Some(receipt) = receipt {
            headers.push(("receipt-id", receipt));
        }
        encode("ERROR", &headers, text, self.version())
    }
}

fn required<'a>(headers: &'a Headers, name: &str) -> Result<&'a str, Fault> {
    headers.get(name).ok_or_else(|| format!("the header {name} is missing").into())
}

fn heart_beat(text: &str) -> Result<(Duration, Duration), Fault> {
    let part =
        |text: &str| text.trim().parse::<u32>().ok().map(|it| Duration::from_millis(it.into()));
    let parts = text.split_once(',').and_then(|(sends, wants)| Some((part(sends)?, part(wants)?)));
    parts.ok_or_else(|| format!("{:?} is not a heart-beat", shown(text)).into())
}

/// A bearer key, whole in `Authorization` or `passcode`, or as login and passcode.
fn credentials(headers: &Headers) -> Result<Option<(String, String)>, Fault> {
    let authorization = headers.get("Authorization").or_else(|| headers.get("authorization"));
    if let Some(given) = authorization {
        let token =
            given.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let key = token.and_then(|(_, token)| parse_token(token.trim()));
        return key.map(Some).ok_or_else(|| "Authorization is not a bearer key".into());
    }
    let Some(passcode) = headers.get("passcode").filter(|it| !it.is_empty()) else {
        return Ok(None);
    };
    if let Some(key) = parse_token(passcode) {
        return Ok(Some(key));
    }
    Ok(headers.get("login").map(|login| (login.to_owned(), passcode.to_owned())))
}

/// `madang_<id>_<secret>`.
fn parse_token(token: &str) -> Option<(String, String)> {
    let (id, secret) = token.strip_prefix("madang_")?.split_once('_')?;
    (!id.is_empty() && !secret.is_empty()).then(|| (id.to_owned(), secret.to_owned()))
}

fn resume(headers: &Headers) -> Result<Option<Resume>, Fault> {
    if let Some(from) = headers.get("from") {
        if from == "earliest" {
            return Ok(Some(Resume::Earliest));
        }
        let after = from.parse::<u64>().map(Resume::After);
        return after.map(Some).map_err(|_| "from is neither an offset nor earliest".into());
    }
    let Some(id) = headers.get("resume") else { return Ok(None) };
    let wrong = || Fault::from(format!("{:?} is not the id of a message of a topic", shown(id)));
    let (partition, offset) = id
        .strip_prefix("t.")
        .and_then(|rest| rest.split_once('.'))
        .and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)))
        .ok_or_else(wrong)?;
    Ok(Some(Resume::AfterMessage { partition, offset }))
}

#[cfg(test)]
mod tests;
