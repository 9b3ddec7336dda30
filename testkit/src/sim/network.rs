//! Connections between two ends, and datagrams, with everything that a network does to them.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;

use super::{Agenda, Sim};

/// How many bytes are on their way or unread in one direction before a writer waits.
const WINDOW_BYTES: usize = 4 << 10;

/// All connections of a run; cloning shares them. Bytes of one direction arrive in order, in pieces, late; nothing moves
/// until [`Network::deliver`].
#[derive(Clone)]
pub struct Network(Arc<Mutex<State>>);

/// One end of a connection. Dropping it closes it.
pub struct End {
    network: Network,
    connection: usize,
    side: usize,
}

struct State {
    sim: Sim,
    agenda: Agenda<Arrival>,
    latency_max: Duration,
    connections: Vec<[Side; 2]>,
}

/// What one end sees.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each can be with each")]
struct Side {
    arrived: VecDeque<u8>,
    /// How many bytes are on their way to this end.
    flying: usize,
    /// When the last of them arrives.
    last: Duration,
    has_ended: bool,
    is_reset: bool,
    /// This end closed.
    is_closed: bool,
    /// Nothing comes to this end any more, and it is not told.
    is_deaf: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

struct Arrival {
    connection: usize,
    side: usize,
    what: What,
}

enum What {
    Bytes(Vec<u8>),
    End,
    Reset,
}

impl Network {
    pub fn new(sim: &Sim, latency_max: Duration) -> Self {
        let (sim, agenda) = (sim.clone(), Agenda::default());
        Self(Arc::new(Mutex::new(State { sim, agenda, latency_max, connections: Vec::new() })))
    }

    pub fn connect(&self) -> (End, End) {
        let mut state = self.0.lock();
        state.connections.push([Side::default(), Side::default()]);
        let connection = state.connections.len() - 1;
        let end = |side| End { network: self.clone(), connection, side };
        (end(0), end(1))
    }

    /// When something arrives next.
    pub fn next_at(&self) -> Option<Duration> {
        self.0.lock().agenda.next_at()
    }

    /// Lets everything arrive that is due by now.
    pub fn deliver(&self) {
        loop {
            let woken = {
                let mut state = self.0.lock();
                let now = state.sim.now();
                let Some(arrival) = state.agenda.due(now) else { return };
                state.arrive(arrival)
            };
            woken.into_iter().flatten().for_each(Waker::wake);
        }
    }

    /// Cuts a connection: both ends are told, and what is on its way is lost.
    pub fn cut(&self, end: &End) {
        let mut state = self.0.lock();
        state.sim.count("connection cut");
        for side in 0..2 {
            state.plan(end.connection, side, What::Reset);
            state.connections[end.connection][side].is_deaf = true;
        }
    }

    /// The other end of `end` hears nothing any more and is not told, as when a cable is pulled; nor does `end`.
    pub fn part(&self, end: &End) {
        let mut state = self.0.lock();
        state.sim.count("half-open connection");
        for side in &mut state.connections[end.connection] {
            side.is_deaf = true;
        }
    }

    /// Nothing that is sent on a connection from now on arrives before `until`.
    pub fn stall(&self, end: &End, until: Duration) {
        let mut state = self.0.lock();
        state.sim.count("connection stalled");
        for side in &mut state.connections[end.connection] {
            side.last = side.last.max(until);
        }
    }
}

impl State {
    fn plan(&mut self, connection: usize, side: usize, what: What) {
        let late = self.sim.below(self.latency_max.as_micros().max(1).try_into().unwrap_or(1));
        let now = self.sim.now();
        let to = &mut self.connections[connection][side];
        let at = match what {
            What::Reset => now,
            _ => to.last.max(now + Duration::from_micros(late)),
        };
        to.last = at;
        self.agenda.plan(at, Arrival { connection, side, what });
    }

    fn arrive(&mut self, Arrival { connection, side, what }: Arrival) -> [Option<Waker>; 2] {
        let to = &mut self.connections[connection][side];
        match what {
            What::Bytes(bytes) => {
                to.flying -= bytes.len();
                if to.is_deaf || to.is_closed {
                    return [None, None];
                }
                self.sim
                    .note(format_args!("network: {} bytes to {connection}/{side}", bytes.len()));
                to.arrived.extend(bytes);
            }
            What::End if to.is_deaf => return [None, None],
            What::End => to.has_ended = true,
            What::Reset => {
                to.is_reset = true;
                to.arrived.clear();
            }
        }
        [to.reader.take(), to.writer.take()]
    }
}

impl End {
    /// Which connection this is, for notes.
    pub fn number(&self) -> usize {
        self.connection
    }

    /// Reads some of what arrived; 0 when the other end closed.
    pub fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.network.0.lock();
        let sim = state.sim.clone();
        let [own, other] = self.sides(&mut state);
        if own.is_reset {
            return Poll::Ready(Err(ErrorKind::ConnectionReset.into()));
        }
        let there = own.arrived.len().min(buffer.len());
        if there == 0 {
            if own.has_ended || buffer.is_empty() {
                return Poll::Ready(Ok(0));
            }
            own.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = if sim.strikes("partial read", 3) { sim.index(there) + 1 } else { there };
        for (place, byte) in buffer.iter_mut().zip(own.arrived.drain(..count)) {
            *place = byte;
        }
        let waiting = other.writer.take();
        drop(state);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        Poll::Ready(Ok(count))
    }

    /// Takes some of the bytes, as many as there is room for on the way.
    pub fn poll_write(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.network.0.lock();
        let sim = state.sim.clone();
        let [own, other] = self.sides(&mut state);
        if own.is_reset || own.is_closed {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW_BYTES.saturating_sub(other.flying + other.arrived.len()).min(bytes.len());
        if room == 0 {
            own.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = if sim.strikes("partial write", 3) { sim.index(room) + 1 } else { room };
        other.flying += count;
        let mut rest = &bytes[..count];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(sim.index(rest.len()) + 1);
            state.plan(self.connection, 1 - self.side, What::Bytes(piece.to_vec()));
            rest = after;
        }
        Poll::Ready(Ok(count))
    }

    /// Reads what arrived without waiting; none when the connection is over.
    pub fn read(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; WINDOW_BYTES];
        match self.poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
            Poll::Pending => Some(Vec::new()),
            Poll::Ready(Ok(0) | Err(_)) => None,
            Poll::Ready(Ok(count)) => {
                buffer.truncate(count);
                Some(buffer)
            }
        }
    }

    /// Writes as much as there is room for, without waiting; none when the connection is over.
    pub fn write(&self, bytes: &[u8]) -> Option<usize> {
        match self.poll_write(&mut Context::from_waker(Waker::noop()), bytes) {
            Poll::Pending => Some(0),
            Poll::Ready(Ok(count)) => Some(count),
            Poll::Ready(Err(_)) => None,
        }
    }

    /// Sends nothing more; what was sent still arrives.
    pub fn close(&self) {
        let mut state = self.network.0.lock();
        let [own, _] = self.sides(&mut state);
        // Of what is cut or parted nobody hears.
        let is_heard = !own.is_deaf;
        if !std::mem::replace(&mut own.is_closed, true) && is_heard {
            state.plan(self.connection, 1 - self.side, What::End);
        }
    }

    fn sides<'a>(&self, state: &'a mut State) -> [&'a mut Side; 2] {
        let [first, second] = &mut state.connections[self.connection];
        if self.side == 0 { [first, second] } else { [second, first] }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.close();
    }
}

/// Datagrams between numbered places: each is late, lost, doubled and out of order on its own account.
pub struct Datagrams<T> {
    sim: Sim,
    agenda: Agenda<(usize, usize, T)>,
    latency_max: Duration,
    /// One in so many is lost; 0 for none.
    pub lost_one_in: u64,
    /// One in so many arrives twice.
    pub doubled_one_in: u64,
    parted: BTreeSet<(usize, usize)>,
}

impl<T: Clone> Datagrams<T> {
    pub fn new(sim: &Sim, latency_max: Duration) -> Self {
        let (sim, agenda, parted) = (sim.clone(), Agenda::default(), BTreeSet::new());
        Self { sim, agenda, latency_max, lost_one_in: 0, doubled_one_in: 0, parted }
    }

    pub fn send(&mut self, from: usize, to: usize, datagram: T) {
        if self.parted.contains(&(from, to)) {
            self.sim.count("datagram kept apart");
            return;
        }
        if self.sim.strikes("datagram lost", self.lost_one_in) {
            return;
        }
        if self.sim.strikes("datagram doubled", self.doubled_one_in) {
            self.plan(from, to, datagram.clone());
        }
        self.plan(from, to, datagram);
    }

    fn plan(&mut self, from: usize, to: usize, datagram: T) {
        let late = self.sim.below(self.latency_max.as_micros().max(1).try_into().unwrap_or(1));
        self.agenda.plan(self.sim.now() + Duration::from_micros(late), (from, to, datagram));
    }

    /// Nothing that is sent from one of these to one of those arrives, until [`Datagrams::heal`].
    pub fn part(&mut self, these: &[usize], those: &[usize]) {
        self.parted.extend(these.iter().flat_map(|from| those.iter().map(|to| (*from, *to))));
    }

    pub fn heal(&mut self) {
        self.parted.clear();
    }

    pub fn next_at(&self) -> Option<Duration> {
        self.agenda.next_at()
    }

    /// What arrives next by now: from, to, what.
    pub fn receive(&mut self) -> Option<(usize, usize, T)> {
        self.agenda.due(self.sim.now())
    }
}
