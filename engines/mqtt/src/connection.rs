//! One connection: moves bytes between a socket, its protocol and the broker.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use base::Share;
use base::access::{Door, Principal, Refused};
use bytes::BytesMut;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use crate::broker::{Arrival, Attached, Broker, Ended, PUBLISH};
use crate::encode::{self, Delivered, Welcome};
use crate::outbox::Written;
use crate::packet::{Close, Connect, Options, Reason, Subscribe};
use crate::protocol::{Opened, Outcome, Protocol, Refusal, Request, Step, Ticket};
use crate::route::{Judged, Verdict};
use crate::{Accepted, Message, Qos, topic};

/// The least room that a read is given.
const READ_BYTES: usize = 8 << 10;

/// Somebody who comes.
pub(crate) struct Comer {
    /// There are too many, so that it is only told so.
    pub(crate) is_over: bool,
    /// What it takes of its peer's share until it is let in.
    pub(crate) share: Option<Share>,
}

/// Serves one connection to its end.
pub(crate) async fn serve<R, W>(broker: Arc<Broker>, read: R, write: W, comer: Comer)
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let protocol = Protocol::new(&broker.config, broker.base.clock.instant());
    let mut wire = Wire { read, write, input: BytesMut::new(), protocol };
    let admitted = tokio::select! {
        biased;
        admitted = wire.admit(&broker, comer.is_over) => admitted,
        () = broker.base.clock.sleep(broker.config.connect_time_max) => None,
        () = broker.base.tasks.stopping().cancelled_owned() => None,
    };
    if let Some((attached, principal)) = admitted {
        drop(comer.share);
        Box::pin(Live::new(broker.clone(), wire, attached, principal).run()).await;
    } else {
        wire.finish(&broker).await;
    }
}

struct Wire<R, W> {
    read: R,
    write: W,
    input: BytesMut,
    protocol: Protocol,
}

impl<R: AsyncRead + Unpin + Send, W: AsyncWrite + Unpin + Send> Wire<R, W> {
    /// Waits for the CONNECT, checks who it is and answers it.
    async fn admit(
        &mut self,
        broker: &Arc<Broker>,
        is_over: bool,
    ) -> Option<(Attached, Principal)> {
        let connect = self.connect(broker).await?;
        let checked = if is_over {
            Err(Refusal(Reason::QUOTA, "there are too many connections"))
        } else {
            check(broker, &connect).await
        };
        let principal = match checked {
            Ok(principal) => principal,
            Err(refusal) => {
                self.protocol.refuse(refusal);
                return None;
            }
        };
        match self.attach(broker, *connect, principal.clone()).await {
            Ok(attached) => Some((attached, principal)),
            Err(refusal) => {
                self.protocol.refuse(refusal);
                None
            }
        }
    }

    async fn connect(&mut self, broker: &Broker) -> Option<Box<Connect>> {
        loop {
            let clock = &broker.base.clock;
            match self.protocol.next(clock.instant(), clock.now(), &mut self.input) {
                Ok(Step::Do(Request::Connect(connect))) => return Some(connect),
                Ok(Step::Do(_) | Step::Full) => return None,
                Ok(Step::More) => {}
                Err(close) => {
                    tracing::debug!(reason = close.text, "a connection is refused");
                    return None;
                }
            }
            self.input.reserve(READ_BYTES.min(broker.config.packet_bytes_before_auth_max as usize));
            match self.read.read_buf(&mut self.input).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => return None,
            }
        }
    }

    async fn attach(
        &mut self,
        broker: &Arc<Broker>,
        connect: Connect,
        principal: Principal,
    ) -> Result<Attached, Refusal> {
        let config = &broker.config;
        let assigned = connect.client.is_empty().then(|| {
            let chance: u128 = u128::from_le_bytes(broker.base.entropy.bytes());
            format!("madang-{chance:032x}")
        });
        let client: Arc<str> = assigned.as_deref().unwrap_or(&connect.client).into();
        let expiry = broker.limited_expiry(connect.expiry);
        let arrival = Arrival {
            principal,
            client: client.clone(),
            clean_start: connect.clean_start,
            expiry,
            will: connect.will,
        };
        let mut attached = broker.attach(arrival).await?;
        attached.arrived();
        let max = config.keep_alive_seconds_max;
        let is_limited = max > 0 && (connect.keep_alive == 0 || connect.keep_alive > max);
        let received = std::mem::take(&mut attached.session.state.lock().received);
        self.protocol.open(Opened {
            client,
            keep_alive: connect.keep_alive,
            session_ends: connect.expiry == 0,
            receive_max: connect.receive_max.min(config.inflight_max),
            received,
            welcome: Welcome {
                session_present: attached.session_present,
                assigned: assigned.as_deref(),
                expiry: (expiry != connect.expiry).then_some(expiry),
                keep_alive: is_limited.then_some(max),
                receive_max: config.inflight_max,
                packet_bytes_max: config.packet_bytes_max,
                topic_alias_max: config.topic_alias_max,
            },
        });
        Ok(attached)
    }

    /// Reads, writes or hears of deliveries, whatever can be done; each is asked first in its turn.
    async fn turn(&mut self, turn: usize, can_read: bool, wake: &Notify) -> Event {
        let can_write = !self.protocol.out.is_empty();
        let mut read = pin!(self.read.read_buf(&mut self.input));
        let mut write = pin!(self.write.write_buf(&mut self.protocol.out));
        let mut woken = pin!(wake.notified());
        poll_fn(|context| {
            for offset in 0..3 {
                let event = match (turn + offset) % 3 {
                    0 if can_read => {
                        read.as_mut().poll(context).map(|it| Event::Read(it.unwrap_or(0)))
                    }
                    1 if can_write => {
                        write.as_mut().poll(context).map(|it| Event::Wrote(it.unwrap_or(0)))
                    }
                    2 => woken.as_mut().poll(context).map(|()| Event::Woken),
                    _ => Poll::Pending,
                };
                if event.is_ready() {
                    return event;
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Sends what is left, within the time that a close may take.
    async fn finish(mut self, broker: &Broker) {
        let send = async {
            // The peer may be gone; there is nobody to tell.
            let _ = self.write.write_all_buf(&mut self.protocol.out).await;
            let _ = self.write.shutdown().await;
        };
        tokio::select! {
            biased;
            () = send => {}
            () = broker.base.clock.sleep(broker.config.close_time_max / 2) => {}
        }
    }
}

/// Checks a CONNECT up to who is asking.
async fn check(broker: &Broker, connect: &Connect) -> Result<Principal, Refusal> {
    if connect.wants_enhanced {
        return Err(Refusal(Reason::AUTH_METHOD, "enhanced authentication is not supported"));
    }
    let Some((key, secret)) = connect.key.as_deref().zip(connect.secret.as_deref()) else {
        return Err(Refusal(Reason::NOT_AUTHORIZED, "a key and its secret are wanted"));
    };
    let wrong = Refusal(Reason::CREDENTIALS, "the key or its secret is wrong");
    let secret = std::str::from_utf8(secret).map_err(|_| wrong)?;
    let authenticated = broker.authority.authenticate(Door::Mqtt, key, secret).await;
    let principal = authenticated.map_err(|refused| match refused {
        Refused::Unauthenticated => wrong,
        Refused::Forbidden => Refusal(Reason::NOT_AUTHORIZED, "the key is not for this door"),
        Refused::TooMany => Refusal(Reason::RATE, "too many attempts"),
        Refused::Unavailable => Refusal(Reason::UNAVAILABLE, "keys cannot be checked now"),
    })?;
    let is_kept_without_name =
        connect.version == crate::packet::Version::V3 && !connect.clean_start;
    if connect.client.is_empty() && is_kept_without_name {
        return Err(Refusal(Reason::CLIENT_ID, "a kept session wants a client identifier"));
    }
    if connect.client.len() > broker.config.client_id_bytes_max {
        return Err(Refusal(Reason::CLIENT_ID, "the client identifier is too long"));
    }
    if let Some(will) = &connect.will
        && !topic::is_topic(&will.publish.topic, broker.config.topic_levels_max)
    {
        return Err(Refusal(Reason::TOPIC, "the will's topic is not one to publish to"));
    }
    Ok(principal)
}

/// A connection whose client was let in.
struct Live<R, W> {
    broker: Arc<Broker>,
    wire: Wire<R, W>,
    attached: Arc<Attached>,
    principal: Arc<Principal>,
    /// Publishes that came together and that nobody has looked at, with what is answered to those that may not be.
    incoming: Vec<(Ticket, Arc<Message>, Option<Outcome>)>,
    /// Publishes that the intake looks at, in their order.
    accepting: FuturesOrdered<BoxFuture<'static, Vec<(Ticket, Judged)>>>,
    /// Those that it has looked at.
    judged: Vec<(Ticket, Judged)>,
    /// Those that are made durable and delivered.
    routing: Option<BoxFuture<'static, Vec<(Ticket, Outcome)>>>,
    /// A SUBSCRIBE or UNSUBSCRIBE; what follows waits for it.
    control: Option<BoxFuture<'static, Result<Control, crate::Error>>>,
    /// Filters whose retained messages were not looked up yet.
    retained: VecDeque<(Arc<str>, Options)>,
    /// Rows of deliveries that are done.
    finished: Vec<u64>,
    forgetting: Option<BoxFuture<'static, ()>>,
    /// The bytes so far hold no whole packet.
    is_starved: bool,
    /// The client sends nothing more.
    is_eof: bool,
    ending: Option<Ending>,
    /// A publish was not acknowledged; none behind it may be.
    has_failed: bool,
    /// Counts events.
    turn: usize,
}

enum Control {
    Subscribed { id: u16, subscribed: crate::subscribe::Subscribed },
    Unsubscribed { id: u16, codes: Vec<Reason> },
}

struct Ending {
    close: Option<Close>,
    with_will: bool,
    expiry: Option<u32>,
}

enum Event {
    /// How many bytes; none when the peer is gone.
    Read(usize),
    Wrote(usize),
    Judged(Option<Vec<(Ticket, Judged)>>),
    Routed(Vec<(Ticket, Outcome)>),
    Control(Result<Control, crate::Error>),
    Forgotten,
    Woken,
    Tick,
    AccessChanged,
    Stopping,
}

type Timer = Pin<Box<dyn Future<Output = ()> + Send>>;

impl<R: AsyncRead + Unpin + Send, W: AsyncWrite + Unpin + Send> Live<R, W> {
    fn new(
        broker: Arc<Broker>,
        wire: Wire<R, W>,
        attached: Attached,
        principal: Principal,
    ) -> Self {
        Self {
            broker,
            wire,
            attached: Arc::new(attached),
            principal: Arc::new(principal),
            incoming: Vec::new(),
            accepting: FuturesOrdered::new(),
            judged: Vec::new(),
            routing: None,
            control: None,
            retained: VecDeque::new(),
            finished: Vec::new(),
            forgetting: None,
            is_starved: true,
            is_eof: false,
            ending: None,
            has_failed: false,
            turn: 0,
        }
    }

    async fn run(mut self) {
        let mut interrupts = Interrupts::new(&self.broker);
        let mut timer = self.timer();
        let mut is_closing = false;
        // Access may have changed while it was being let in.
        self.check_access().await;
        loop {
            loop {
                self.advance();
                self.judge();
                // What is answered at once makes room for packets that are there, and no event would tell of it.
                if !self.route() {
                    break;
                }
            }
            self.send();
            self.forget();
            if self.is_done() {
                break;
            }
            if self.is_leaving() && !is_closing {
                is_closing = true;
                timer = self.closing_timer();
            }
            match self.event(&mut interrupts, &mut timer).await {
                Event::Read(count) => self.is_eof |= count == 0,
                Event::Wrote(count) => self.wrote(count),
                Event::Judged(judged) => self.judged.extend(judged.into_iter().flatten()),
                Event::Routed(answers) => self.answer(answers),
                Event::Control(result) => self.controlled(result),
                Event::Forgotten => self.forgetting = None,
                Event::Woken => self.look_at_session(),
                Event::Tick if is_closing => break,
                Event::Tick => {
                    let overdue = self.wire.protocol.overdue(self.broker.base.clock.instant());
                    self.close_if(overdue);
                    timer = self.timer();
                }
                Event::AccessChanged => self.check_access().await,
                Event::Stopping => {
                    let close = Close::of(Reason::SHUTTING_DOWN, "the server is stopping");
                    // A stopping server keeps sessions; their clients are not gone.
                    self.end(Ending { close: Some(close), with_will: false, expiry: None });
                }
            }
        }
        self.leave().await;
    }

    /// Waits for whatever happens first.
    async fn event(&mut self, interrupts: &mut Interrupts, timer: &mut Timer) -> Event {
        let can_read = !self.is_eof
            && self.ending.is_none()
            && (self.is_starved || self.wire.input.len() < self.broker.config.read_bytes_max);
        self.turn = self.turn.wrapping_add(1);
        let turn = self.turn;
        let Self { wire, accepting, routing, control, forgetting, attached, .. } = self;
        if can_read {
            wire.input.reserve(READ_BYTES);
        }
        // What comes seldom goes first; what can come without an end takes turns. No chance is in it.
        tokio::select! {
            biased;
            event = interrupts.next() => event,
            () = &mut *timer => Event::Tick,
            result = present(control) => { *control = None; Event::Control(result) }
            answers = present(routing) => { *routing = None; Event::Routed(answers) }
            judged = accepting.next(), if !accepting.is_empty() => Event::Judged(judged),
            () = present(forgetting) => Event::Forgotten,
            event = wire.turn(turn, can_read, &attached.session.wake) => event,
        }
    }

    /// Takes packets out of the bytes that are there, as far as limits let it.
    fn advance(&mut self) {
        let (now, wall) = (self.broker.base.clock.instant(), self.broker.base.clock.now());
        let out_max = self.broker.config.write_bytes_max;
        self.is_starved = false;
        while self.ending.is_none()
            && self.control.is_none()
            && self.wire.protocol.out.len() < out_max
        {
            match self.wire.protocol.next(now, wall, &mut self.wire.input) {
                Ok(Step::Do(request)) => self.begin(request),
                Ok(Step::Full) => return,
                Ok(Step::More) => {
                    self.is_starved = true;
                    return;
                }
                Err(close) => self.close_if(Some(close)),
            }
        }
    }

    fn begin(&mut self, request: Request) {
        match request {
            Request::Publish(message, ticket) => self.publish(message, ticket),
            Request::Acknowledge(id) => self.acknowledge(id),
            Request::Subscribe(subscribe) => self.subscribe(subscribe),
            Request::Unsubscribe { id, filters } => {
                let (broker, attached) = (self.broker.clone(), self.attached.clone());
                self.control(Box::pin(async move {
                    let codes = broker.unsubscribe(&attached, filters).await?;
                    Ok(Control::Unsubscribed { id, codes })
                }));
            }
            Request::Disconnect { with_will, expiry } => {
                self.end(Ending { close: None, with_will, expiry });
            }
            Request::Connect(_) => self.close_if(Some(Close::protocol("a second CONNECT"))),
        }
    }

    fn publish(&mut self, message: Arc<Message>, ticket: Ticket) {
        self.broker.meter.received.inc();
        let refused = if !topic::is_topic(&message.topic, self.broker.config.topic_levels_max) {
            Some(Outcome::BadTopic)
        } else if !self.broker.may(&self.principal, PUBLISH, &message.topic) {
            Some(Outcome::Denied)
        } else {
            None
        };
        self.incoming.push((ticket, message, refused));
    }

    /// Has the intake look at what came together.
    fn judge(&mut self) {
        if self.incoming.is_empty() {
            return;
        }
        let incoming = std::mem::take(&mut self.incoming);
        let (broker, principal) = (self.broker.clone(), self.principal.clone());
        let mut judge: BoxFuture<'static, _> = Box::pin(async move {
            let asked = incoming.iter().filter(|(_, _, refused)| refused.is_none());
            let asked: Vec<Arc<Message>> = asked.map(|(_, message, _)| message.clone()).collect();
            let mut accepted = broker.intake.accept_all(&principal, &asked).await.into_iter();
            let judged = incoming.into_iter().map(|(ticket, message, refused)| {
                let verdict = match refused {
                    Some(outcome) => Verdict::Answer(outcome),
                    None => accepted.next().unwrap_or(Accepted::Unavailable).into(),
                };
                (ticket, Judged { message, verdict })
            });
            judged.collect::<Vec<_>>()
        });
        if self.accepting.is_empty()
            && let Some(judged) = (&mut judge).now_or_never()
        {
            self.judged.extend(judged);
            return;
        }
        self.accepting.push_back(judge);
    }

    fn acknowledge(&mut self, id: u16) {
        let session = &self.attached.session;
        let acknowledged = session.state.lock().outbox.acknowledge(id);
        // One that is not in flight: MQTT 5 has no answer to it, and nothing is lost.
        if let Some(acknowledged) = acknowledged {
            if acknowledged.is_durable {
                self.finished.push(acknowledged.sequence);
            }
            session.space.notify_waiters();
        }
    }

    fn subscribe(&mut self, subscribe: Subscribe) {
        let id = subscribe.id;
        if self.retained.len() + subscribe.filters.len() > self.broker.config.subscriptions_max {
            let codes = vec![Reason::QUOTA; subscribe.filters.len()];
            self.wire.protocol.subscribed(id, &codes);
            return;
        }
        let (broker, attached) = (self.broker.clone(), self.attached.clone());
        self.control(Box::pin(async move {
            let subscribed = broker.subscribe(&attached, subscribe).await?;
            Ok(Control::Subscribed { id, subscribed })
        }));
    }

    fn control(&mut self, mut work: BoxFuture<'static, Result<Control, crate::Error>>) {
        match (&mut work).now_or_never() {
            Some(result) => self.controlled(result),
            None => self.control = Some(work),
        }
    }

    fn controlled(&mut self, result: Result<Control, crate::Error>) {
        match result {
            Ok(Control::Subscribed { id, subscribed }) => {
                self.wire.protocol.subscribed(id, &subscribed.codes);
                self.retained.extend(subscribed.retained);
            }
            Ok(Control::Unsubscribed { id, codes }) => {
                self.wire.protocol.unsubscribed(id, &codes);
            }
            Err(error) => {
                tracing::warn!(%error, "subscriptions could not be stored");
                let close = Close::of(Reason::BUSY, "subscriptions cannot be stored now");
                self.close_if(Some(close));
            }
        }
    }

    /// Hands what the intake has seen to the broker, one batch at a time so that the order stays; says whether something was
    /// answered.
    fn route(&mut self) -> bool {
        let mut has_answered = false;
        while self.routing.is_none() {
            while let Some(Some(judged)) = self.accepting.next().now_or_never() {
                self.judged.extend(judged);
            }
            if self.judged.is_empty() {
                break;
            }
            let (tickets, batch): (Vec<_>, Vec<_>) = self.judged.drain(..).unzip();
            if self.has_failed {
                let refused = tickets.into_iter().map(|ticket| (ticket, Outcome::Unavailable));
                self.answer(refused.collect());
                has_answered = true;
                continue;
            }
            let broker = self.broker.clone();
            let organisation = self.attached.organisation.clone();
            let source = self.attached.session.number;
            let mut work: BoxFuture<'static, _> = Box::pin(async move {
                let outcomes = broker.route(&organisation, source, batch).await;
                tickets.into_iter().zip(outcomes).collect()
            });
            match (&mut work).now_or_never() {
                Some(answers) => {
                    self.answer(answers);
                    has_answered = true;
                }
                None => self.routing = Some(work),
            }
        }
        has_answered
    }

    fn answer(&mut self, answers: Vec<(Ticket, Outcome)>) {
        let now = self.broker.base.clock.instant();
        for (ticket, outcome) in answers {
            if outcome == Outcome::Unavailable && ticket.qos == Qos::AtMostOnce {
                self.broker.meter.dropped("unavailable", 1);
            }
            if let Err(close) = self.wire.protocol.answer(ticket, &outcome) {
                self.has_failed = true;
                self.close_if(Some(close));
                continue;
            }
            let seconds = now.saturating_duration_since(ticket.since).as_secs_f64();
            self.broker.meter.publish_seconds.observe(seconds);
        }
    }

    /// Writes deliveries into the output, as many as it has room for.
    fn send(&mut self) {
        let config = &self.broker.config;
        let out_max = config.write_bytes_max;
        if self.is_leaving() || self.wire.protocol.out.len() >= out_max {
            return;
        }
        let protocol = &mut self.wire.protocol;
        let (version, bytes_max) = (protocol.version(), protocol.client_packet_bytes_max());
        let window = usize::from(protocol.client_receive_max());
        let now = self.broker.base.clock.now();
        let session = &self.attached.session;
        let mut state = session.state.lock();
        while state.outbox.retained_count() == 0 {
            let Some((filter, options)) = self.retained.pop_front() else { break };
            for delivery in self.broker.retained(&self.attached, &filter, options) {
                state.outbox.push_retained(delivery);
            }
        }
        let out = &mut protocol.out;
        let flushed = state.outbox.flush(now, window, |delivery, id| {
            if out.len() >= out_max {
                return Written::Later;
            }
            let delivered = Delivered {
                message: &delivery.message,
                qos: delivery.qos,
                dup: delivery.dup,
                retain: delivery.retain,
                id,
                expiry: delivery.message.seconds_left(now),
                identifiers: &delivery.identifiers,
            };
            if encode::publish(out, version, &delivered, bytes_max) {
                Written::Yes
            } else {
                Written::TooLarge
            }
        });
        drop(state);
        let meter = &self.broker.meter;
        meter.sent.inc_by(flushed.sent);
        meter.dropped("expired", flushed.expired);
        meter.dropped("too_large", flushed.too_large);
        if flushed.sent + flushed.expired + flushed.too_large > 0 {
            session.space.notify_waiters();
        }
        self.finished.extend(flushed.finished);
    }

    fn forget(&mut self) {
        if self.finished.is_empty() || self.forgetting.is_some() {
            return;
        }
        let (broker, session) = (self.broker.clone(), self.attached.session.clone());
        let sequences = std::mem::take(&mut self.finished);
        self.forgetting = Some(Box::pin(async move {
            if let Err(error) = broker.store.forget(session.number, sequences.clone()).await {
                session.state.lock().unforgotten.extend(sequences);
                tracing::warn!(%error, "delivered messages may be delivered again after a restart");
            }
        }));
    }

    fn wrote(&mut self, count: usize) {
        if count == 0 {
            self.is_eof = true;
            self.wire.protocol.out.clear();
        }
    }

    fn look_at_session(&mut self) {
        let kicked = self.attached.session.state.lock().kicked;
        self.close_if(kicked);
    }

    /// Looks again at who this is and what it may read, after keys or grants changed.
    async fn check_access(&mut self) {
        let broker = self.broker.clone();
        if !broker.authority.is_current(&self.principal) {
            let close = Close::of(Reason::NOT_AUTHORIZED, "the key is not valid any more");
            self.close_if(Some(close));
            return;
        }
        let (organisation, session) = (&self.attached.organisation, &self.attached.session);
        if broker.take_lost_filters(organisation, session, &self.principal).await {
            let close = Close::of(Reason::NOT_AUTHORIZED, "a subscription is not granted any more");
            self.close_if(Some(close));
        }
    }

    fn close_if(&mut self, close: Option<Close>) {
        if let Some(close) = close {
            let client = &*self.attached.session.client;
            tracing::debug!(client, reason = close.text, "a connection is closed");
            self.end(Ending { close: Some(close), with_will: true, expiry: None });
        }
    }

    fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
    }

    fn is_leaving(&self) -> bool {
        self.ending.is_some() || self.is_eof
    }

    /// Nothing is left that the client was promised an answer to.
    fn is_done(&self) -> bool {
        let is_read = self.ending.is_some() || (self.is_eof && self.is_starved);
        is_read && self.wire.protocol.pending() == 0 && self.control.is_none()
    }

    fn timer(&self) -> Timer {
        let Some(deadline) = self.wire.protocol.deadline() else {
            return Box::pin(std::future::pending());
        };
        let clock = self.broker.base.clock.clone();
        Box::pin(async move {
            let left = deadline.saturating_duration_since(clock.instant());
            clock.sleep(left).await;
        })
    }

    fn closing_timer(&self) -> Timer {
        let (clock, time_max) =
            (self.broker.base.clock.clone(), self.broker.config.close_time_max / 2);
        Box::pin(async move { clock.sleep(time_max).await })
    }

    /// Lets the session go, so that its next connection need not wait, and then says why.
    async fn leave(mut self) {
        let ending = self.ending.take();
        let ending = ending.unwrap_or(Ending { close: None, with_will: true, expiry: None });
        if let Some(routing) = self.routing.take() {
            // It holds promises to subscribers, so it is not dropped halfway.
            self.broker.base.tasks.spawn("mqtt-route", routing);
        }
        // It holds the session.
        self.control = None;
        if let Some(forgetting) = self.forgetting.take() {
            forgetting.await;
        }
        self.forget();
        if let Some(forgetting) = self.forgetting.take() {
            forgetting.await;
        }
        let ended = Ended {
            with_will: ending.with_will,
            expiry: ending.expiry,
            received: self.wire.protocol.unreleased_ids(),
        };
        let attached = Arc::into_inner(self.attached);
        attached.expect("the futures that share it are gone").detach(ended).await;
        if let Some(close) = ending.close {
            self.wire.protocol.close(close);
        }
        self.wire.finish(&self.broker).await;
    }
}

/// What can end any connection at any time.
struct Interrupts {
    epoch: tokio::sync::watch::Receiver<u64>,
    stopping: Pin<Box<tokio_util::sync::WaitForCancellationFutureOwned>>,
    has_stopped: bool,
    has_epoch: bool,
}

impl Interrupts {
    fn new(broker: &Broker) -> Self {
        let epoch = broker.authority.epoch();
        let stopping = Box::pin(broker.base.tasks.stopping().cancelled_owned());
        Self { epoch, stopping, has_stopped: false, has_epoch: true }
    }

    async fn next(&mut self) -> Event {
        let Self { epoch, stopping, has_stopped, has_epoch } = self;
        loop {
            tokio::select! {
                biased;
                () = &mut *stopping, if !*has_stopped => {
                    *has_stopped = true;
                    return Event::Stopping;
                }
                changed = epoch.changed(), if *has_epoch => match changed {
                    Ok(()) => return Event::AccessChanged,
                    Err(_) => *has_epoch = false,
                },
                else => std::future::pending().await,
            }
        }
    }
}

/// Waits for the work, if there is some.
async fn present<T>(work: &mut Option<BoxFuture<'static, T>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}
