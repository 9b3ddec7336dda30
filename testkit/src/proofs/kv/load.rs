//! Clients that change their keys as fast as they are answered, until the store goes away or refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow};

use super::history::{History, requests};
use crate::resp::{Resp, Value, encoded};
use crate::wait::within_every;

/// Keys that are all written again and again, so that the log is mostly dead soon.
const CHURNED: usize = 2_000;
const CHURNED_AT_ONCE: usize = 50;

/// What the world outside knows of a store.
#[derive(Default)]
pub(super) struct Known {
    pub(super) histories: Vec<History>,
    /// The last version of each churned key that was acknowledged, and the last that was sent.
    churned: Vec<(u64, u64)>,
}

pub(super) struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    clients: Vec<JoinHandle<(History, Option<String>)>>,
    churner: Option<JoinHandle<Vec<(u64, u64)>>>,
}

/// What became of a load.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) acknowledged: u64,
    /// Errors that the store answered.
    pub(super) refusals: Vec<String>,
}

impl Known {
    pub(super) fn new(clients: usize) -> Self {
        Self { histories: vec![History::default(); clients], churned: vec![(0, 0); CHURNED] }
    }

    /// Starts a client for each history, and one that churns. Each sends up to `depth` deeds at once.
    pub(super) fn load(&self, address: &str, depth: u64, churns: bool) -> Load {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients = self.histories.iter().enumerate().map(|(client, history)| {
            let work =
                Work { address: address.to_owned(), stop: stop.clone(), count: count.clone() };
            let history = history.clone();
            std::thread::spawn(move || work.run(client, history, depth))
        });
        let clients = clients.collect();
        let churner = churns.then(|| {
            let work =
                Work { address: address.to_owned(), stop: stop.clone(), count: count.clone() };
            let churned = self.churned.clone();
            std::thread::spawn(move || work.churn(churned))
        });
        Load { stop, count, clients, churner }
    }

    /// Takes over what the clients know after their store went away, or after they were stopped.
    pub(super) fn take(&mut self, load: Load) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for (client, thread) in load.clients.into_iter().enumerate() {
            let (history, refusal) = thread.join().map_err(|_| anyhow!("a client panicked"))?;
            outcome.acknowledged += history.acknowledged - self.histories[client].acknowledged;
            outcome.refusals.extend(refusal);
            self.histories[client] = history;
        }
        if let Some(churner) = load.churner {
            self.churned = churner.join().map_err(|_| anyhow!("the churner panicked"))?;
        }
        Ok(outcome)
    }

    /// Compares everything with what a store holds; gives what is wrong.
    pub(super) fn settle(&mut self, address: &str) -> Result<Vec<String>> {
        let mut store = Resp::connect(address)?;
        let mut wrong = Vec::new();
        for (client, history) in self.histories.iter_mut().enumerate() {
            wrong.extend(history.settle(&mut store, client)?);
        }
        for from in (0..CHURNED).step_by(CHURNED_AT_ONCE) {
            let keys = (from..from + CHURNED_AT_ONCE).map(churned_key);
            let request: Vec<String> = std::iter::once("MGET".to_owned()).chain(keys).collect();
            let Value::Array(found) = store.done(&request)? else {
                return Err(anyhow!("no values"));
            };
            for (at, value) in found.into_iter().enumerate() {
                let known = &mut self.churned[from + at];
                let version = version_of(from + at, &value);
                match version {
                    Some(version) if (known.0..=known.1).contains(&version) => {
                        *known = (version, version);
                    }
                    _ => wrong.push(format!(
                        "churned key {}: version {version:?}, acknowledged {}, sent {}",
                        from + at,
                        known.0,
                        known.1
                    )),
                }
            }
        }
        Ok(wrong)
    }
}

impl Load {
    /// Waits until so many deeds were acknowledged.
    pub(super) fn wait_for(&self, count: u64) -> Result<()> {
        within_every(Duration::from_millis(1), Duration::from_mins(1), "acknowledged deeds", || {
            Ok((self.count.load(Ordering::Acquire) >= count).then_some(()))
        })
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }
}

struct Work {
    address: String,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
}

impl Work {
    /// Does deeds until the store is gone, refuses one, or the load is stopped.
    fn run(&self, client: usize, mut history: History, depth: u64) -> (History, Option<String>) {
        let Ok(mut store) = Resp::connect(&self.address) else { return (history, None) };
        while !self.stop.load(Ordering::Acquire) {
            // Lengths differ from client to client and from time to time.
            let length = 1 + (history.sent / 7 + client as u64) % depth;
            let (bytes, replies) = requests(client, history.sent..history.sent + length);
            history.sent += length;
            if store.send(&bytes).is_err() {
                return (history, None);
            }
            for count in replies {
                match last_of(&mut store, count) {
                    Ok(Ok(())) => history.acknowledged += 1,
                    Ok(Err(refusal)) => {
                        // Refused, so it is not done; of those behind it nothing is known.
                        if history.acknowledged + 1 == history.sent {
                            history.sent = history.acknowledged;
                        }
                        return (history, Some(refusal));
                    }
                    Err(_) => return (history, None),
                }
            }
            self.count.fetch_add(length, Ordering::AcqRel);
        }
        (history, None)
    }

    fn churn(&self, mut churned: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
        let Ok(mut store) = Resp::connect(&self.address) else { return churned };
        let mut from = 0;
        while !self.stop.load(Ordering::Acquire) {
            let range = from..from + CHURNED_AT_ONCE;
            let mut bytes = Vec::new();
            for key in range.clone() {
                let version = churned[key].1 + 1;
                churned[key].1 = version;
                bytes.extend(encoded(&["SET", &churned_key(key), &churned_value(key, version)]));
            }
            if store.send(&bytes).is_err() {
                return churned;
            }
            for key in range {
                match store.read() {
                    Ok(Value::Simple(_)) => churned[key].0 = churned[key].1,
                    _ => return churned,
                }
            }
            from = (from + CHURNED_AT_ONCE) % CHURNED;
        }
        churned
    }
}

/// The replies of one deed: done, or the store's refusal.
fn last_of(store: &mut Resp, count: usize) -> Result<std::result::Result<(), String>> {
    let mut refusal = None;
    for _ in 0..count {
        if let Value::Error(text) = store.read()? {
            refusal.get_or_insert(text);
        }
    }
    Ok(refusal.map_or(Ok(()), Err))
}

fn churned_key(key: usize) -> String {
    format!("churned:{key}")
}

fn churned_value(key: usize, version: u64) -> String {
    let filler = "0123456789".repeat(8 + key % 9);
    format!("{version} {filler}")
}

/// Which version a value is, if it is one whole.
fn version_of(key: usize, value: &Value) -> Option<u64> {
    match value {
        Value::Null => Some(0),
        Value::Bulk(bytes) => {
            let text = std::str::from_utf8(bytes).ok()?;
            let version = text.split(' ').next()?.parse().ok()?;
            (churned_value(key, version) == text).then_some(version)
        }
        _ => None,
    }
}
