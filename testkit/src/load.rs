use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::mqtt_client::MqttClient;
use crate::stack::Stack;

/// Publishers of readings that run until they are stopped or their server is lost, and know what was acknowledged.
pub struct Publishers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Sent>>,
}

/// What one publisher sent.
#[derive(Debug, Default, Clone)]
pub struct Sent {
    pub device: String,
    /// Times of readings (seconds of 2020) that were acknowledged.
    pub acknowledged: BTreeSet<u64>,
    /// Sent, and the server was lost before it answered: may be there or not, at most once.
    pub unanswered: BTreeSet<u64>,
    pub latencies: Vec<Duration>,
}

impl Publishers {
    /// Starts `count` publishers. Each has its own device and goes on with the reading after `from[i]`.
    pub fn start(
        count: usize,
        address: &str,
        key: (&str, &str),
        from: &[u64],
        in_flight: usize,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count)
            .map(|index| {
                let (address, user, password) =
                    (address.to_owned(), key.0.to_owned(), key.1.to_owned());
                let stop = stop.clone();
                let next = from.get(index).copied().unwrap_or(0);
                std::thread::spawn(move || {
                    let device = format!("load-{index:03}");
                    let mut sent = Sent { device: device.clone(), ..Sent::default() };
                    if let Ok(mut client) = MqttClient::connect(&address, &device, &user, &password)
                    {
                        // A lost connection is how a run under kill -9 ends; what counts is what was answered.
                        publish_until(&mut client, &mut sent, next, in_flight, &stop).ok();
                    }
                    sent
                })
            })
            .collect();
        Self { stop, threads }
    }

    /// Waits for publishers whose server was killed.
    pub fn join(self) -> Result<Vec<Sent>> {
        self.threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a publisher panicked")))
            .collect()
    }

    pub fn stop(self) -> Result<Vec<Sent>> {
        self.stop.store(true, Ordering::Release);
        self.join()
    }
}

#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn publish_until(
    client: &mut MqttClient,
    sent: &mut Sent,
    mut next: u64,
    in_flight: usize,
    stop: &AtomicBool,
) -> Result<()> {
    let topic = format!("data/{}", sent.device);
    let mut waiting = std::collections::VecDeque::new();
    loop {
        while waiting.len() < in_flight && !stop.load(Ordering::Acquire) {
            sent.unanswered.insert(next);
            let packet = u16::try_from(next % 65_000)? + 1;
            waiting.push_back((packet, next, Instant::now()));
            client.publish(&topic, packet, reading(next).as_bytes())?;
            next += 1;
        }
        let Some((packet, number, started)) = waiting.pop_front() else { return Ok(()) };
        let answered = client.puback()?.0;
        anyhow::ensure!(answered == packet, "PUBACK {answered} came before {packet}");
        sent.latencies.push(started.elapsed());
        sent.unanswered.remove(&number);
        sent.acknowledged.insert(number);
    }
}

/// The reading of second `number` of 2020. Every tenth is hot.
fn reading(number: u64) -> String {
    let (day, second) = (number / 86_400, number % 86_400);
    let temp = if number.is_multiple_of(10) { 99.0 } else { 20.0 };
    format!(
        r#"{{"sensor":"load","time":"2020-01-{:02}T{:02}:{:02}:{:02}Z","values":{{"temp":{temp:.1},"n":{number}}}}}"#,
        day + 1,
        second / 3600,
        second / 60 % 60,
        second % 60,
    )
}

/// The p99 of reads over HTTP by key, one after another.
#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
pub(crate) fn read_p99(stack: &Stack, requests: usize) -> Result<Duration> {
    let api = stack.api();
    let mut samples = Vec::with_capacity(requests);
    for _ in 0..requests {
        let began = Instant::now();
        api.get("/v1/sensors")?.ok()?;
        samples.push(began.elapsed());
    }
    Ok(Figures::new(samples).quantile(0.99))
}

/// A named list of figures with the quantiles that people ask for.
pub struct Figures(Vec<Duration>);

impl Figures {
    pub fn new(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self(samples)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The sample at or above `share` of all, such as 0.99.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count"
    )]
    pub fn quantile(&self, share: f64) -> Duration {
        let rank = (self.0.len() as f64 * share).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    pub fn max(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}
