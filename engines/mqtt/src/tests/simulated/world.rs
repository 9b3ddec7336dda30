//! One broker after the other on the same rows, with clients on a network that fails.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use base::{Base, Timestamp};
use parking_lot::Mutex;
use testkit::sim::{End, Network, Sim};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::client::{Client, Line};
use super::memory::{Memory, Tables};
use super::model::{Desk, Shared, Will, number};
use crate::broker::Broker;
use crate::connection::Comer;
use crate::tests::house::doorman;
use crate::{Config, connection};

const TICK: Duration = Duration::from_millis(10);
const LATENCY_MAX: Duration = Duration::from_millis(30);
/// Longer than a keep-alive of one second, a broker's patience with a closing client, and what rows take.
const SETTLED_TICKS: u64 = 500;
/// By then everything sound has come to rest.
const HEALED_TICKS: u64 = 3_000;

pub(super) struct World {
    sim: Sim,
    network: Network,
    tables: Arc<Mutex<Tables>>,
    ledger: Shared,
    clients: Vec<Client>,
    /// Connections that their clients forgot.
    forgotten: Vec<Line>,
    is_calm: Arc<AtomicBool>,
}

/// The broker's side of a connection.
struct Half(Arc<End>);

impl World {
    pub(super) fn new(sim: &Sim) -> Self {
        let ledger = Shared::default();
        let count = sim.index(3) + 2;
        Self {
            sim: sim.clone(),
            network: Network::new(sim, LATENCY_MAX),
            tables: Arc::default(),
            clients: (0..count).map(|index| Client::new(sim, &ledger, index)).collect(),
            ledger,
            forgotten: Vec::new(),
            is_calm: Arc::default(),
        }
    }

    pub(super) fn run(&mut self) -> Result<(), String> {
        let lives = self.sim.between(1, 3);
        for life in 1..=lives {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .map_err(|error| error.to_string())?;
            self.tables.lock().begin_life();
            runtime.block_on(self.live(life == lives))?;
            self.power_cut();
            drop(runtime);
        }
        Ok(())
    }

    /// One process, from its start on.
    async fn live(&mut self, is_last: bool) -> Result<(), String> {
        let now = Timestamp::from_millis(1_000_000).plus(self.sim.now());
        let base = Base::simulated(now, self.sim.seed());
        let desk = Desk {
            sim: self.sim.clone(),
            clock: base.clock.clone(),
            ledger: self.ledger.clone(),
            is_calm: self.is_calm.clone(),
        };
        let store = Memory::new(&self.sim, &base, &self.tables, &self.is_calm);
        let doors = (Arc::new(doorman()) as _, Arc::new(desk) as _);
        let opened = Broker::open(Config::default(), &base, Arc::new(store), doors).await;
        let broker = opened.map_err(|error| error.to_string())?;
        let sweeper = broker.clone();
        base.tasks.supervise("mqtt-sweep", move || sweeper.clone().sweep());
        for _ in 0..self.sim.between(50, 250) {
            self.tick(&broker, true).await?;
        }
        if !is_last {
            return Ok(());
        }
        self.is_calm.store(true, Ordering::Relaxed);
        self.heal(&broker).await
    }

    async fn tick(&mut self, broker: &Arc<Broker>, is_wild: bool) -> Result<(), String> {
        broker.base.clock.sleep(TICK).await;
        broker.base.clock.advance(TICK);
        self.sim.wait_until(self.sim.now() + TICK);
        self.network.deliver();
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            client.turn()?;
            let is_due = !client.stays_away && self.sim.now() >= client.retry_at;
            if client.line.is_none() && is_due {
                let end = connect(&self.network, broker);
                client.connect(end);
            }
            if is_wild && self.sim.one_in(4) && self.sim.step() {
                self.act(broker, index);
            }
        }
        self.ledger.lock().violation.take().map_or(Ok(()), Err)
    }

    /// Lets a client do something, or something happen to it.
    fn act(&mut self, broker: &Arc<Broker>, index: usize) {
        let what = self.sim.below(120);
        let client = &mut self.clients[index];
        let Some(line) = &mut client.line else { return };
        let unsure = if line.is_open && !line.is_leaving { Will::Due } else { Will::Open };
        match what {
            0..=1 if !self.sim.spares("connection cut") => {
                line.is_broken = true;
                self.network.cut(&line.end);
                self.ledger.lock().wills.insert(line.will.clone(), unsure);
            }
            2 if !self.sim.spares("half-open connection") => {
                line.is_broken = true;
                self.network.part(&line.end);
                self.ledger.lock().wills.insert(line.will.clone(), unsure);
            }
            3..=5
                if !line.is_leaving
                    && self.sim.now() >= line.stalls_at
                    && !self.sim.spares("connection stalled") =>
            {
                let until = self.sim.now() + Duration::from_millis(self.sim.below(500));
                line.stalls_at = until + Duration::from_secs(2);
                self.network.stall(&line.end, until);
            }
            6..=7 => client.leave(),
            8 if !self.sim.spares("taken over") => {
                self.sim.count("taken over");
                self.ledger.lock().wills.insert(line.will.clone(), unsure);
                self.forgotten.extend(client.line.take());
                let end = connect(&self.network, broker);
                client.connect(end);
            }
            9..=20 => {}
            _ => client.publish(),
        }
    }

    /// The broker is gone with everything in its memory.
    fn power_cut(&mut self) {
        self.sim.count("power cut");
        self.sim.note(format_args!("the broker is gone"));
        self.tables.lock().end_life();
        {
            let mut ledger = self.ledger.lock();
            let published = ledger.published_wills.clone();
            for (will, expected) in &mut ledger.wills {
                if *expected == Will::Due && !published.contains_key(will) {
                    *expected = Will::Open;
                }
            }
        }
        for client in &mut self.clients {
            if let Some(line) = client.line.take() {
                self.network.cut(&line.end);
                client.lost(line);
            }
        }
        for line in self.forgotten.drain(..) {
            self.network.cut(&line.end);
        }
    }

    /// With everything sound, everything that was promised happens.
    async fn heal(&mut self, broker: &Arc<Broker>) -> Result<(), String> {
        self.sim.note(format_args!("nothing fails any more"));
        for turn in 0.. {
            self.tick(broker, false).await?;
            let is_settled = |client: &Client| client.is_settled() && client.missing().is_empty();
            if self.clients.iter().all(is_settled) {
                break;
            }
            if turn > HEALED_TICKS {
                let slow = self.clients.iter().find(|client| !is_settled(client));
                let what = slow.map(|client| (client.name(), client.missing()));
                return Err(format!("it does not come to rest: {what:?}"));
            }
        }
        for _ in 0..SETTLED_TICKS {
            self.tick(broker, false).await?;
        }
        self.retained_is_right(broker).await?;
        self.clients.iter_mut().for_each(Client::leave);
        self.clients.iter_mut().for_each(|client| client.stays_away = true);
        for _ in 0..SETTLED_TICKS {
            self.tick(broker, false).await?;
        }
        let wills = self.ledger.lock().wills_are_right()?;
        self.sim.count_many("wills published", wills);
        Ok(())
    }

    async fn retained_is_right(&mut self, broker: &Arc<Broker>) -> Result<(), String> {
        // A client may have been put out meanwhile; whoever is there asks.
        let asks = self.clients.iter().position(Client::is_settled).ok_or("nobody is there")?;
        if let Some(line) = &mut self.clients[asks].line {
            line.ask_for_retained();
        }
        for _ in 0..SETTLED_TICKS {
            self.tick(broker, false).await?;
        }
        let line = self.clients[asks].line.as_ref().ok_or("its connection is gone")?;
        for index in 0..self.clients.len() {
            let topic = format!("r/{index}");
            let found = line.retained.get(&topic);
            let value = found.and_then(|payload| number(payload));
            let possible = self.ledger.lock().possible(&topic);
            self.sim.count("retained messages compared");
            if !possible.contains(&value) {
                return Err(format!("{topic} is {value:?} and may be one of {possible:?}"));
            }
        }
        Ok(())
    }
}

fn connect(network: &Network, broker: &Arc<Broker>) -> End {
    let (end, other) = network.connect();
    let other = Arc::new(other);
    let (read, write) = (Half(other.clone()), Half(other));
    let served =
        connection::serve(broker.clone(), read, write, Comer { is_over: false, share: None });
    drop(broker.base.tasks.spawn("mqtt-connection", served));
    end
}

impl AsyncRead for Half {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.0.poll_read(context, buffer.initialize_unfilled());
        read.map_ok(|count| buffer.advance(count))
    }
}

impl AsyncWrite for Half {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.close();
        Poll::Ready(Ok(()))
    }
}
