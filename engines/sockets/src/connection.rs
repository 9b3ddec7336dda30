//! One connection: moves bytes between a socket, its session and the hub. While nothing happens it holds no buffer.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::access::{Door, Principal, Refused};
use base::{Share, Stream};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::sync::{oneshot, watch};

use crate::destination::Destination;
use crate::frame::{Frame, Limits};
use crate::hub::{Hub, Member, Route, Work};
use crate::lane::{Read, Subscriber};
use crate::outbox::{End, Item, Outbox};
use crate::session::{AckMode, Connect, Deed, Request, Resume, Session, Subscribe, Verdict};
use crate::{Error, frame, web};

/// What one read takes.
const READ_BYTES: usize = 16 << 10;
/// Writes in a row before others have their turn.
const WRITES_MAX: usize = 8;
/// A buffer larger than this is not kept for the next write.
const SPARE_BYTES_MAX: usize = 256 << 10;

thread_local! {
    /// Every connection of a thread reads into the same memory, and writes from it when the peer keeps up.
    static INPUT: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static HEAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Somebody who showed who they are before CONNECT: by a cookie or a header of the request that opened the WebSocket.
#[derive(Clone)]
pub struct Guest {
    pub principal: Principal,
    /// Asked whenever access changes: whether their session is still there.
    pub still: Option<Still>,
    /// Asked so often besides: a session that ends by time changes nobody's access.
    pub still_every: Option<Duration>,
}

pub type Still = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// A connection that was accepted.
pub struct Arrival {
    pub stream: Stream,
    /// What was read behind the request that opened a WebSocket.
    pub read: Bytes,
    pub peer: IpAddr,
    pub guest: Option<Guest>,
    /// STOMP in the frames of a WebSocket; otherwise on the bare connection.
    pub is_web: bool,
}

/// Serves one connection to its end. `is_over`: there are too many, so that it is only told so.
pub(crate) async fn serve(hub: Arc<Hub>, arrival: Arrival, share: Share, is_over: bool) {
    let mut live = Live::new(hub, arrival, share);
    if is_over {
        live.fail("connections_max", "there are too many connections", None);
    }
    live.run().await;
}

struct Live {
    hub: Arc<Hub>,
    stream: Stream,
    peer: IpAddr,
    web: Option<web::Decoder>,
    decoder: frame::Decoder,
    session: Session,
    guest: Option<Guest>,
    admitted: Option<Admitted>,
    /// What it takes of its peer's share until it is let in.
    share: Option<Share>,
    outbox: Arc<Outbox>,
    /// Encoded, and written up to `out_at`.
    out: Vec<u8>,
    out_at: usize,
    /// A CONNECT, SUBSCRIBE or SEND that waits for something; what follows waits for it.
    control: Option<BoxFuture<'static, Control>>,
    /// What is being made durable, in the order of its frames.
    working: FuturesOrdered<BoxFuture<'static, Done>>,
    routes: Vec<(u32, Route)>,
    /// Subscriptions that are not where the topic is.
    resuming: VecDeque<(u32, u64)>,
    reading: Option<BoxFuture<'static, Result<Read, Error>>>,
    /// Messages of queues in `out` that need no ACK: done once they are written.
    unsent: Vec<(u32, u64)>,
    beats: Beats,
    /// The bytes so far hold no whole frame.
    is_starved: bool,
    is_eof: bool,
    /// It cannot be written to any more.
    is_broken: bool,
    ending: Option<Ending>,
}

struct Admitted {
    member: Arc<Member>,
    principal: Arc<Principal>,
    still: Option<Still>,
    still_every: Option<Duration>,
    sender: String,
}

struct Beats {
    began: Instant,
    last_read: Instant,
    last_written: Instant,
    stalled: Option<Instant>,
    sends: Option<Duration>,
    hears: Option<Duration>,
    /// When somebody's session was last looked at.
    looked: Instant,
}

#[derive(Clone, Copy)]
struct Ending {
    code: u16,
    /// What the client sent before is done first.
    is_polite: bool,
}

enum Control {
    Checked {
        connect: Connect,
        admitted: Result<Guest, Refused>,
    },
    Subscribed {
        subscribe: Subscribe,
        route: Result<Route, Error>,
    },
    /// One message to a topic is on its way to the log.
    Sent {
        receipt: Option<String>,
        answered: Result<Answered, Error>,
    },
    Prepared {
        receipt: Option<String>,
        work: Result<Work, Error>,
    },
}

type Answered = Option<oneshot::Receiver<Result<u64, Error>>>;

struct Done {
    receipt: Option<String>,
    result: Result<(), Error>,
}

enum Event {
    Stopping,
    AccessChanged,
    Tick,
    Control(Control),
    Done(Done),
    Read(Result<Read, Error>),
    Ready,
    Woken,
}

/// What can happen to any connection at any time; made once, since all connections share what they wait for.
struct Interrupts {
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
    epoch: BoxFuture<'static, watch::Receiver<u64>>,
    timer: BoxFuture<'static, ()>,
    due: Option<Instant>,
}

impl Interrupts {
    fn new(hub: &Hub) -> Self {
        Self {
            stopping: Box::pin(hub.base.tasks.stopping().cancelled_owned()),
            epoch: change_of(hub.authority.epoch()),
            timer: Box::pin(pending()),
            due: None,
        }
    }
}

fn change_of(mut epoch: watch::Receiver<u64>) -> BoxFuture<'static, watch::Receiver<u64>> {
    Box::pin(async move {
        if epoch.changed().await.is_err() {
            // The authority is gone, and so is everybody in a moment.
            pending::<()>().await;
        }
        epoch
    })
}

impl Live {
    fn new(hub: Arc<Hub>, arrival: Arrival, share: Share) -> Self {
        let now = hub.base.clock.instant();
        let mut live = Self {
            stream: arrival.stream,
            peer: arrival.peer,
            web: arrival.is_web.then(web::Decoder::default),
            decoder: frame::Decoder::default(),
            session: Session::new(hub.config.clone()),
            guest: arrival.guest,
            admitted: None,
            share: Some(share),
            outbox: Outbox::new(hub.config.outgoing_bytes_max, &hub.pool),
            out: Vec::new(),
            out_at: 0,
            control: None,
            working: FuturesOrdered::new(),
            routes: Vec::new(),
            resuming: VecDeque::new(),
            reading: None,
            unsent: Vec::new(),
            beats: Beats {
                began: now,
                last_read: now,
                last_written: now,
                stalled: None,
                sends: None,
                hears: None,
                looked: now,
            },
            is_starved: true,
            is_eof: false,
            is_broken: false,
            ending: None,
            hub,
        };
        if !arrival.read.is_empty() {
            live.take_in(&mut arrival.read.to_vec());
        }
        live
    }

    async fn run(mut self) {
        let mut interrupts = Interrupts::new(&self.hub);
        loop {
            self.advance();
            self.read_on();
            self.write();
            let unwritten = self.out.len() - self.out_at;
            self.outbox.holds(unwritten + self.decoder.held() + self.session.transaction_bytes());
            if self.is_done() {
                break;
            }
            self.arm(&mut interrupts);
            match self.event(&mut interrupts).await {
                Event::Stopping => {
                    interrupts.stopping = Box::pin(pending());
                    self.end(web::GOING_AWAY, true);
                }
                Event::AccessChanged => self.check_access().await,
                Event::Tick => {
                    interrupts.due = None;
                    interrupts.timer = Box::pin(pending());
                    self.tick();
                    self.look_again().await;
                }
                Event::Control(control) => self.controlled(control),
                Event::Done(done) => self.done(done),
                Event::Read(read) => self.was_read(read),
                Event::Ready => self.read(),
                Event::Woken => {}
            }
        }
        self.leave();
        self.finish().await;
    }

    /// Waits for whatever happens first.
    async fn event(&mut self, interrupts: &mut Interrupts) -> Event {
        let interest = match (self.can_read(), self.out_at < self.out.len()) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        };
        let Self { stream, control, working, reading, outbox, .. } = self;
        let Interrupts { stopping, epoch, timer, .. } = interrupts;
        tokio::select! {
            biased;
            () = stopping.as_mut() => Event::Stopping,
            receiver = epoch.as_mut() => {
                *epoch = change_of(receiver);
                Event::AccessChanged
            }
            () = timer.as_mut() => Event::Tick,
            it = present(control) => { *control = None; Event::Control(it) }
            Some(done) = working.next(), if !working.is_empty() => Event::Done(done),
            read = present(reading) => { *reading = None; Event::Read(read) }
            () = ready(stream, interest) => Event::Ready,
            () = outbox.wake.notified() => Event::Woken,
        }
    }

    /// While something waits for the rows or for the peer, the peer waits too.
    fn can_read(&self) -> bool {
        !self.is_eof
            && self.ending.is_none()
            && self.control.is_none()
            && self.is_starved
            && self.out.len() - self.out_at < self.hub.config.write_bytes_max
    }

    /// Takes frames out of the bytes that are there, as far as limits let it.
    fn advance(&mut self) {
        self.is_starved = false;
        while self.ending.is_none()
            && self.control.is_none()
            && self.working.len() < self.hub.config.inflight_max
            && self.out.len() - self.out_at < self.hub.config.write_bytes_max
        {
            let limits = match &self.admitted {
                Some(_) => Limits::after_connect(&self.hub.config),
                None => Limits::before_connect(&self.hub.config),
            };
            match self.decoder.next(&limits) {
                Ok(Some(frame)) => self.handle(frame),
                Ok(None) => {
                    self.is_starved = true;
                    return;
                }
                Err(fault) => self.fail("protocol", &fault.0, None),
            }
        }
    }

    fn handle(&mut self, frame: Frame) {
        let receipt = frame.headers.get("receipt").map(str::to_owned);
        match self.session.input(frame) {
            Ok(Request::Connect(connect)) => self.connect(connect),
            Ok(Request::Subscribe(subscribe)) => self.subscribe(subscribe),
            Ok(Request::Unsubscribe { number, receipt }) => {
                self.unsubscribe(number);
                self.receipt(receipt);
            }
            Ok(Request::Do { deeds, receipt }) => self.perform(deeds, receipt),
            Ok(Request::Disconnect { receipt }) => {
                self.receipt(receipt);
                self.end(web::NORMAL, true);
            }
            Err(fault) => self.fail("protocol", &fault.0, receipt.as_deref()),
        }
    }

    fn connect(&mut self, connect: Connect) {
        self.decoder.version = Some(connect.version);
        let (authority, guest) = (self.hub.authority.clone(), self.guest.take());
        self.control(Box::pin(async move {
            let admitted = match (&connect.key, guest) {
                (Some((key, secret)), _) => {
                    let checked = authority.authenticate(Door::Stomp, key, secret).await;
                    checked.map(|principal| Guest { principal, still: None, still_every: None })
                }
                // They may have been signed out since the request.
                (None, Some(guest)) => match &guest.still {
                    Some(still) if !still().await => Err(Refused::Unauthenticated),
                    _ => Ok(guest),
                },
                (None, None) => Err(Refused::Unauthenticated),
            };
            Control::Checked { connect, admitted }
        }));
    }

    fn checked(&mut self, connect: Connect, admitted: Result<Guest, Refused>) {
        let receipt = connect.receipt.as_deref();
        let guest = match admitted {
            Ok(guest) => guest,
            Err(refused) => return self.fail("credentials", &refused.to_string(), receipt),
        };
        // A change while it was being checked was told to nobody.
        if !self.hub.authority.is_current(&guest.principal) {
            return self.fail("credentials", &Refused::Unauthenticated.to_string(), receipt);
        }
        let config = self.hub.config.clone();
        let negotiated = |one: Duration, other: Duration| {
            (!one.is_zero() && !other.is_zero()).then(|| one.max(other))
        };
        self.beats.sends = negotiated(config.heart_beat_send, connect.wants);
        self.beats.hears = negotiated(connect.sends, config.heart_beat_receive);
        let id = self.hub.next_member();
        let member = self.hub.enter(Member {
            id,
            principal: guest.principal.clone(),
            peer: self.peer,
            since: self.hub.base.clock.now(),
            version: connect.version.text(),
            is_web: self.web.is_some(),
            outbox: self.outbox.clone(),
            subscriptions: AtomicU32::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        });
        let (sends, hears) = (config.heart_beat_send, config.heart_beat_receive);
        let beats = format!("{},{}", sends.as_millis(), hears.as_millis());
        let names = (id.to_string(), guest.principal.name.clone());
        let connected = self.session.connected(&beats, (&names.0, &names.1));
        self.say(&connected);
        self.share = None;
        self.admitted = Some(Admitted {
            sender: Member::sender(&guest.principal),
            member,
            principal: Arc::new(guest.principal),
            still: guest.still,
            still_every: guest.still_every,
        });
        self.receipt(connect.receipt);
    }

    fn subscribe(&mut self, subscribe: Subscribe) {
        let Some(admitted) = &self.admitted else { return };
        let principal = admitted.principal.clone();
        if !self.hub.may_subscribe(&principal, &subscribe.destination) {
            let text =
                format!("not allowed: sockets.subscribe on {}", subscribe.destination.resource());
            return self.fail("access", &text, subscribe.receipt.as_deref());
        }
        let hub = self.hub.clone();
        self.control(Box::pin(async move {
            let route = hub.route(&principal, &subscribe.destination).await;
            Control::Subscribed { subscribe, route }
        }));
    }

    fn subscribed(&mut self, subscribe: Subscribe, route: Result<Route, Error>) {
        let Subscribe { number, resume, prefetch, receipt, .. } = subscribe;
        let route = match route {
            Ok(route) => route,
            Err(error) => return self.refuse(&error, receipt.as_deref()),
        };
        let Some(admitted) = &self.admitted else { return };
        match &route {
            Route::Queue(queue) => {
                let config = &self.hub.config;
                let prefetch = prefetch.unwrap_or(config.prefetch).min(config.prefetch_max);
                queue.join((admitted.member.id, number), &self.outbox, prefetch);
            }
            Route::Topic { lane, channel } => {
                let from = match resume {
                    None => None,
                    Some(Resume::Earliest) => Some(lane.start()),
                    Some(Resume::After(offset)) => Some(offset.saturating_add(1)),
                    Some(Resume::AfterMessage { partition, offset })
                        if partition == lane.partition() =>
                    {
                        Some(offset.saturating_add(1))
                    }
                    Some(Resume::AfterMessage { .. }) => {
                        let text = "the message to resume from is not one of this topic";
                        return self.fail("protocol", text, receipt.as_deref());
                    }
                };
                match from {
                    None => lane.join(channel, &self.outbox, number),
                    Some(from) => {
                        let subscriber = Subscriber { outbox: self.outbox.clone(), number, from };
                        if !lane.join_at(channel, subscriber) {
                            self.resuming.push_back((number, from));
                        }
                    }
                }
            }
        }
        self.routes.push((number, route));
        admitted.member.subscriptions.fetch_add(1, Ordering::Relaxed);
        self.hub.meter.subscriptions.inc();
        self.receipt(receipt);
    }

    fn unsubscribe(&mut self, number: u32) {
        self.session.unsubscribe(number);
        if self.resuming.front().is_some_and(|(it, _)| *it == number) {
            // What is read for it is not for the next one.
            self.reading = None;
        }
        self.resuming.retain(|(it, _)| *it != number);
        if let Some(place) = self.routes.iter().position(|(it, _)| *it == number) {
            let (_, route) = self.routes.swap_remove(place);
            self.leave_route(number, route);
        }
    }

    fn leave_route(&self, number: u32, route: Route) {
        let Some(admitted) = &self.admitted else { return };
        admitted.member.subscriptions.fetch_sub(1, Ordering::Relaxed);
        self.hub.meter.subscriptions.dec();
        match route {
            Route::Topic { lane, channel } => lane.leave(&channel, &self.outbox, number),
            Route::Queue(queue) => {
                let (hub, id) = (self.hub.clone(), (admitted.member.id, number));
                // A task of its own, so that it ends also when this connection does.
                self.hub.base.tasks.spawn("sockets-leave", async move {
                    hub.leave_queue(queue, id).await;
                });
            }
        }
    }

    fn perform(&mut self, mut deeds: Vec<Deed>, receipt: Option<String>) {
        if deeds.is_empty() {
            return self.receipt(receipt);
        }
        let Some(admitted) = &self.admitted else { return };
        let (principal, id) = (admitted.principal.clone(), admitted.member.id);
        let mut sends = 0;
        for deed in &mut deeds {
            let Deed::Send { destination, draft, .. } = deed else { continue };
            if let Err(error) = self.hub.may_publish(&principal, destination) {
                let text = match error {
                    Error::Forbidden => {
                        format!("not allowed: sockets.publish on {}", destination.resource())
                    }
                    error => error.to_string(),
                };
                return self.fail("access", &text, receipt.as_deref());
            }
            draft.headers.insert(0, ("sender".to_owned(), admitted.sender.clone()));
            sends += 1;
        }
        self.hub.meter.received.inc_by(sends);
        admitted.member.received.fetch_add(sends, Ordering::Relaxed);
        let hub = self.hub.clone();
        if let [Deed::Send { destination, .. }] = &deeds[..]
            && !matches!(destination, Destination::Queue(_))
            && let Some(Deed::Send { destination, draft, is_kept }) = deeds.pop()
        {
            return self.control(Box::pin(async move {
                let answered = send(&hub, (&principal, &destination), draft, is_kept).await;
                Control::Sent { receipt, answered }
            }));
        }
        self.control(Box::pin(async move {
            let work = hub.prepare((id, &principal), deeds).await;
            Control::Prepared { receipt, work }
        }));
    }

    /// Begins what the next frame has to wait for; mostly it is done at once.
    fn control(&mut self, mut work: BoxFuture<'static, Control>) {
        match (&mut work).now_or_never() {
            Some(control) => self.controlled(control),
            None => self.control = Some(work),
        }
    }

    fn controlled(&mut self, control: Control) {
        match control {
            Control::Checked { connect, admitted } => self.checked(connect, admitted),
            Control::Subscribed { subscribe, route } => self.subscribed(subscribe, route),
            Control::Sent { receipt, answered: Ok(None) } => self.receipt(receipt),
            Control::Sent { receipt, answered: Ok(Some(answered)) } => {
                self.working.push_back(Box::pin(async move {
                    let result = answered.await.unwrap_or(Err(Error::Stopping)).map(drop);
                    Done { receipt, result }
                }));
            }
            Control::Prepared { receipt, work: Ok(work) } => {
                let Some(admitted) = &self.admitted else { return };
                let (hub, id) = (self.hub.clone(), admitted.principal.organisation);
                self.working.push_back(Box::pin(async move {
                    Done { receipt, result: hub.commit(id, work).await }
                }));
            }
            Control::Sent { receipt, answered: Err(error) }
            | Control::Prepared { receipt, work: Err(error) } => {
                self.refuse(&error, receipt.as_deref());
            }
        }
    }

    fn done(&mut self, done: Done) {
        match done.result {
            Ok(()) => {
                if let Some(receipt) = done.receipt {
                    let receipt = self.session.receipt(&receipt);
                    self.say(&receipt);
                }
            }
            Err(error) => self.refuse(&error, done.receipt.as_deref()),
        }
    }

    /// Acknowledges a frame, after those that are before it.
    fn receipt(&mut self, receipt: Option<String>) {
        let Some(id) = receipt else { return };
        if self.working.is_empty() {
            let receipt = self.session.receipt(&id);
            return self.say(&receipt);
        }
        let done = Done { receipt: Some(id), result: Ok(()) };
        self.working.push_back(Box::pin(std::future::ready(done)));
    }

    /// Reads kept messages for a subscription that resumes, as fast as the client takes them.
    fn read_on(&mut self) {
        while self.reading.is_none()
            && self.ending.is_none()
            && let Some((number, from)) = self.resuming.front().copied()
            && self.outbox.bytes() <= self.hub.config.outgoing_bytes_max / 4
        {
            let route = self.routes.iter().find(|(it, _)| *it == number);
            let Some((_, Route::Topic { lane, channel })) = route else {
                self.resuming.pop_front();
                continue;
            };
            let (lane, channel) = (lane.clone(), channel.clone());
            self.reading = Some(Box::pin(async move { lane.read(&channel, from).await }));
        }
    }

    fn was_read(&mut self, read: Result<Read, Error>) {
        let Some((number, _)) = self.resuming.front().copied() else { return };
        let route = self.routes.iter().find(|(it, _)| *it == number);
        let Some((_, Route::Topic { lane, channel })) = route else { return };
        let from = match read {
            Ok(Read::Messages { messages, next }) => {
                self.hub.meter.resumed.inc_by(messages.len() as u64);
                for message in messages {
                    self.outbox.give(Item::Topic { number, message });
                }
                next
            }
            Ok(Read::Gap { kept_from }) => {
                let message = lane.gap(channel, kept_from);
                self.outbox.give(Item::Topic { number, message });
                kept_from
            }
            Err(error) => return self.refuse(&error, None),
        };
        let subscriber = Subscriber { outbox: self.outbox.clone(), number, from };
        if lane.join_at(channel, subscriber) {
            self.resuming.pop_front();
        } else if let Some(first) = self.resuming.front_mut() {
            first.1 = from;
        }
    }

    /// Looks at a session that may have ended by time.
    async fn look_again(&mut self) {
        let now = self.hub.base.clock.instant();
        if self.look_due().is_some_and(|due| due <= now) {
            self.beats.looked = now;
            self.check_access().await;
        }
    }

    fn look_due(&self) -> Option<Instant> {
        Some(self.beats.looked + self.admitted.as_ref()?.still_every?)
    }

    async fn check_access(&mut self) {
        let Some(admitted) = &self.admitted else { return };
        let principal = admitted.principal.clone();
        let mut is_current = self.hub.authority.is_current(&principal);
        if is_current && let Some(still) = &admitted.still {
            is_current = still().await;
        }
        if !is_current {
            return self.fail("revoked", "the key or the session is not valid any more", None);
        }
        let mut subscriptions = self.session.subscriptions().iter();
        let lost = subscriptions.find(|it| !self.hub.may_subscribe(&principal, &it.destination));
        if let Some(lost) = lost {
            let text = format!(
                "not allowed any more: sockets.subscribe on {}",
                lost.destination.resource()
            );
            self.fail("revoked", &text, None);
        }
    }

    fn refuse(&mut self, error: &Error, receipt: Option<&str>) {
        use base::ErrorKind;
        let reason = match error.kind() {
            ErrorKind::TooMany => "full",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Internal => {
                tracing::error!(%error, "a frame could not be carried out");
                return self.fail("internal", "the server failed", receipt);
            }
            _ => "protocol",
        };
        self.fail(reason, &error.to_string(), receipt);
    }

    /// Says what is wrong, as the last thing.
    fn fail(&mut self, reason: &'static str, text: &str, receipt: Option<&str>) {
        if self.ending.is_some() {
            return;
        }
        self.hub.meter.closed(reason);
        tracing::debug!(reason, text, peer = %self.peer, "a connection ends with an ERROR");
        let error = self.session.error(text, receipt);
        self.say(&error);
        let code = if reason == "protocol" { web::PROTOCOL_ERROR } else { web::POLICY };
        self.end(code, false);
    }

    fn end(&mut self, code: u16, is_polite: bool) {
        self.ending.get_or_insert(Ending { code, is_polite });
        self.outbox.end(End::Gone);
    }

    fn is_done(&self) -> bool {
        if self.is_broken {
            return true;
        }
        match self.ending {
            Some(ending) => {
                !ending.is_polite || (self.working.is_empty() && self.control.is_none())
            }
            None => self.is_eof && self.is_starved && self.control.is_none(),
        }
    }

    fn read(&mut self) {
        if self.is_eof || self.ending.is_some() {
            return;
        }
        INPUT.with_borrow_mut(|input| match self.stream.try_read(input) {
            Ok(0) => self.is_eof = true,
            Ok(count) => {
                self.beats.last_read = self.hub.base.clock.instant();
                self.take_in(&mut input[..count]);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.is_eof = true,
        });
    }

    fn take_in(&mut self, bytes: &mut [u8]) {
        let Some(web) = &mut self.web else { return self.decoder.push(bytes) };
        let (decoder, out) = (&mut self.decoder, &mut self.out);
        let mut is_closed = false;
        let taken = web.take(bytes, |piece| match piece {
            web::Piece::Data(bytes) => decoder.push(bytes),
            web::Piece::Ping(payload) => web::pong(out, payload),
            web::Piece::Close => is_closed = true,
        });
        if let Err(fault) = taken {
            self.fail("protocol", &fault.0, None);
        } else if is_closed {
            // What was said before is heard.
            self.advance();
            self.end(web::NORMAL, true);
        }
    }

    /// Puts a frame behind what is written already.
    fn say(&mut self, frame: &[u8]) {
        if self.web.is_some() {
            web::begin(&mut self.out, true, frame.len());
        }
        self.out.extend_from_slice(frame);
    }

    /// Writes as much as the peer takes.
    fn write(&mut self) {
        for _ in 0..WRITES_MAX {
            while self.out_at < self.out.len() {
                match self.stream.try_write(&self.out[self.out_at..]) {
                    Ok(count) => {
                        self.out_at += count;
                        self.beats.stalled = None;
                        self.beats.last_written = self.hub.base.clock.instant();
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        let now = self.hub.base.clock.instant();
                        self.beats.stalled.get_or_insert(now);
                        self.look_at_end();
                        return;
                    }
                    Err(_) => {
                        self.is_broken = true;
                        return;
                    }
                }
            }
            self.out_at = 0;
            let mut spare = std::mem::take(&mut self.out);
            spare.clear();
            self.acknowledge_sent();
            if spare.capacity() > 0 && spare.capacity() <= SPARE_BYTES_MAX {
                SPARE.set(spare);
            }
            if !self.fill() {
                return;
            }
        }
        // Others first; then on.
        self.outbox.wake.notify_one();
    }

    /// Whether somebody wants this connection to end while it takes nothing.
    fn look_at_end(&mut self) {
        if self.ending.is_none()
            && let Some(end) = self.outbox.ended()
        {
            self.ended(end);
        }
    }

    fn ended(&mut self, end: End) {
        match end {
            End::Slow => {
                let max = self.hub.config.outgoing_bytes_max;
                let text = format!("too slow: more than {max} bytes wait to be taken");
                self.fail("slow", &text, None);
            }
            End::Crowded(bytes) => {
                let max = self.hub.config.waiting_bytes_max;
                let text = format!(
                    "too slow: more than {max} bytes wait for all, and the most, {bytes}, for this connection"
                );
                self.fail("crowded", &text, None);
            }
            End::Closed => self.fail("closed", "closed by an administrator", None),
            End::Gone => {}
        }
    }

    /// Encodes what waits. Says whether there is something to write.
    fn fill(&mut self) -> bool {
        let bytes_max = self.hub.config.write_bytes_max;
        let Self { session, out, outbox, unsent, web, .. } = self;
        let (version, is_web) = (session.version(), web.is_some());
        let mut count = 0;
        let taken = HEAD.with_borrow_mut(|head| {
            outbox.take(|item| {
                if out.capacity() == 0 {
                    *out = SPARE.take();
                }
                head.clear();
                let message = match item {
                    Item::Topic { number, message } => {
                        session.topic_head(number, head).then_some(message)
                    }
                    Item::Queue { number, row, deliveries, message } => {
                        let mode = session.queue_head(number, row, deliveries, head);
                        if mode == Some(AckMode::Auto) {
                            unsent.push((number, row));
                        }
                        mode.map(|_| message)
                    }
                };
                let Some(message) = message else { return true };
                let tail = message.tail(version);
                if is_web {
                    web::begin(out, message.is_text, head.len() + tail.len());
                }
                out.extend_from_slice(head);
                out.extend_from_slice(tail);
                count += 1;
                out.len() < bytes_max
            })
        });
        if count > 0 {
            self.hub.meter.sent.inc_by(count);
            if let Some(admitted) = &self.admitted {
                admitted.member.sent.fetch_add(count, Ordering::Relaxed);
            }
        }
        if let Err(end) = taken
            && self.ending.is_none()
        {
            self.ended(end);
        }
        !self.out.is_empty()
    }

    /// Messages of queues that want no ACK are done when they are written.
    fn acknowledge_sent(&mut self) {
        if self.unsent.is_empty() {
            return;
        }
        let Some(admitted) = &self.admitted else { return };
        let (principal, id) = (admitted.principal.clone(), admitted.member.id);
        let mut deeds: Vec<Deed> = Vec::new();
        for (sent, row) in std::mem::take(&mut self.unsent) {
            let known = deeds.iter_mut().find_map(|deed| match deed {
                Deed::Settle { number, rows, .. } if *number == sent => Some(rows),
                _ => None,
            });
            if let Some(rows) = known {
                rows.push(row);
                continue;
            }
            let subscription = self.session.subscriptions().iter().find(|it| it.number == sent);
            if let Some(subscription) = subscription {
                let destination = subscription.destination.clone();
                let (number, rows, verdict) = (sent, vec![row], Verdict::Done);
                deeds.push(Deed::Settle { destination, number, rows, verdict });
            }
        }
        let hub = self.hub.clone();
        self.working.push_back(Box::pin(async move {
            let result = match hub.prepare((id, &principal), deeds).await {
                Ok(work) => hub.commit(principal.organisation, work).await,
                Err(error) => Err(error),
            };
            Done { receipt: None, result }
        }));
    }

    /// When something is due next.
    fn deadline(&self) -> Option<Instant> {
        let config = &self.hub.config;
        let connect = self.admitted.is_none().then(|| self.beats.began + config.connect_time_max);
        let stall = self.beats.stalled.map(|since| since + config.write_time_max);
        let send = self.beats.sends.map(|every| self.beats.last_written + early(every));
        // Twice, for what the network and the client's clock add.
        let hear = self.beats.hears.map(|every| self.beats.last_read + every * 2);
        [connect, stall, send, hear, self.look_due()].into_iter().flatten().min()
    }

    /// The timer fires no later than the next deadline; one that moved on is looked at when it fires.
    fn arm(&self, interrupts: &mut Interrupts) {
        let Some(next) = self.deadline() else { return };
        if interrupts.due.is_some_and(|due| due <= next) {
            return;
        }
        let clock = self.hub.base.clock.clone();
        let wait = next.saturating_duration_since(clock.instant());
        interrupts.due = Some(next);
        interrupts.timer = Box::pin(async move { clock.sleep(wait).await });
    }

    fn tick(&mut self) {
        let now = self.hub.base.clock.instant();
        let config = &self.hub.config;
        let stalled = self.beats.stalled;
        if stalled.is_some_and(|since| now >= since + config.write_time_max) {
            // The peer may have taken something while this thread had no processor.
            self.write();
            if self.beats.stalled == stalled {
                self.is_broken = true;
            }
            return;
        }
        if self.admitted.is_none() && now >= self.beats.began + config.connect_time_max {
            return self.fail("connect", "no CONNECT came in time", None);
        }
        if !self.can_read() {
            // Heart-beats that nobody read are not missing.
            self.beats.last_read = now;
        }
        let last_read = self.beats.last_read;
        if self.beats.hears.is_some_and(|every| now >= last_read + every * 2) {
            // What came while this thread had no processor was in time.
            self.read();
            if self.beats.last_read == last_read {
                return self.fail("heart-beat", "no heart-beat came in time", None);
            }
        }
        let is_due = |every: Duration| now >= self.beats.last_written + early(every);
        if self.beats.sends.is_some_and(is_due) && self.out_at == self.out.len() {
            self.say(b"\n");
        }
    }

    /// Lets go of everything that others hold for it.
    fn leave(&mut self) {
        self.outbox.end(End::Gone);
        for (number, route) in std::mem::take(&mut self.routes) {
            self.leave_route(number, route);
        }
        if let Some(admitted) = &self.admitted {
            self.hub.gone(&admitted.member);
        }
        // What is being made durable is not left half-way.
        let mut working = std::mem::take(&mut self.working);
        if !working.is_empty() {
            self.hub
                .base
                .tasks
                .spawn("sockets-finish", async move { while working.next().await.is_some() {} });
        }
    }

    /// Sends what is left and waits for the peer to close, within the time that a close may take.
    async fn finish(mut self) {
        if self.is_broken {
            return;
        }
        let code = self.ending.map_or(web::NORMAL, |ending| ending.code);
        if self.web.is_some() {
            web::close(&mut self.out, code);
        }
        let (clock, close_time_max) = (self.hub.base.clock.clone(), self.hub.config.close_time_max);
        let send = async {
            // The peer may be gone; there is nobody to tell.
            if self.stream.write_all(&self.out[self.out_at..]).await.is_err()
                || self.stream.shutdown().await.is_err()
                || self.is_eof
            {
                return;
            }
            // A close with bytes unread would take back what was sent.
            while self.stream.ready(Interest::READABLE).await.is_ok() {
                let read = INPUT.with_borrow_mut(|input| self.stream.try_read(input));
                match read {
                    Ok(1..) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Ok(0) | Err(_) => return,
                }
            }
        };
        tokio::select! {
            biased;
            () = send => {}
            () = clock.sleep(close_time_max) => {}
        }
    }
}

/// A heart-beat goes out a little before it is due.
fn early(every: Duration) -> Duration {
    every * 7 / 8
}

/// Hands one message to a topic.
async fn send(
    hub: &Hub,
    (principal, destination): (&Principal, &Destination),
    draft: crate::message::Draft,
    is_kept: bool,
) -> Result<Answered, Error> {
    let Route::Topic { lane, channel } = hub.route(principal, destination).await? else {
        return Err(Error::NotFound("topic"));
    };
    if !is_kept {
        lane.tell_only(&channel, &draft);
        return Ok(None);
    }
    Ok(Some(lane.publish(vec![(channel, draft)]).await?))
}

/// Waits for what is there; without it, for ever.
async fn present<T>(work: &mut Option<BoxFuture<'static, T>>) -> T {
    match work {
        Some(work) => work.await,
        None => pending().await,
    }
}

async fn ready(stream: &Stream, interest: Option<Interest>) {
    match interest {
        // An error shows in the read or write that follows.
        Some(interest) => drop(stream.ready(interest).await),
        None => pending().await,
    }
}
