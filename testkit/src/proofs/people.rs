//! People: what those hold to who write, read and comment.

mod articles_speed;
mod crowd;
mod embed;
mod named;
mod thread_speed;
mod widget;

pub use articles_speed::articles_speed;
pub use crowd::crowd;
pub use embed::embed;
pub use named::people;
pub use thread_speed::thread_speed;
pub use widget::widget;

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::stack::{Launch, Stack};

const BLOG: &str = "https://blog.example.com";

/// A stack with one site, whose limits for one address do not count: everybody comes from here.
struct Threads {
    stack: Stack,
    site: String,
    key: String,
}

impl Threads {
    fn start(launch: Launch) -> Result<Self> {
        let mut launch = launch;
        for limit in ["WRITES", "LIKES", "REPORTS", "PASSWORDS"] {
            let name = format!("MADANG__COMMENTS__{limit}_PER_ADDRESS_MAX");
            launch = launch.environment(&name, "1000000000");
        }
        let stack = launch.start()?;
        let site = json!({"name": "Blog", "origins": [BLOG], "zone": "Asia/Seoul"});
        let site = stack.api().post("/v1/comment-sites", &site)?.ok()?;
        let text = |name: &str| site[name].as_str().map(str::to_owned).context("a site");
        let (site, key) = (text("id")?, text("key")?);
        Ok(Self { stack, site, key })
    }

    fn path(&self, rest: &str) -> String {
        format!("/comments/{}/{rest}", self.key)
    }

    fn thread_path(&self, page: &str) -> String {
        format!("/comments/{}/thread?url={BLOG}{page}", self.key)
    }
}

fn comment(page: &str, browser: &str, text: &str) -> Value {
    json!({
        "url": format!("{BLOG}{page}"), "name": "Mina", "password": "pass word", "browser": browser, "text": text,
    })
}

/// Some words, other ones for another seed; frequent ones are more frequent, as in texts.
fn words(seed: usize, count: usize) -> String {
    const WORDS: &str = "the of and to in is you that it for was on are as with they at be this have from or one had by but what some we can out other were \
        all there when up use your how said an each she which do their time if will way about many then them write would like so these her long make thing see \
        him two has look more day could go come did number sound no most people over know water than call first who may down side been now find garden persimmon \
        neighbour winter kettle sensor barometer harbour lantern granite cinnamon orchard thistle compass meadow pebble quartz ribbon saddle tunnel velvet walnut";
    let all: Vec<&str> = WORDS.split_whitespace().collect();
    let mut state = seed as u64 + 1;
    let mut chosen = Vec::with_capacity(count);
    for _ in 0..count {
        // Knuth's multiplier; its upper bits are the better ones.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let share = state >> 40;
        let place = (share * share * all.len() as u64) >> 48;
        chosen.push(all[usize::try_from(place).expect("a place in a short list")]);
    }
    chosen.join(" ")
}

/// What one run of wrk found.
struct Wrk {
    requests: f64,
    per_second: f64,
    p50_millis: f64,
    p99_millis: f64,
}

/// Asks from the last core.
fn wrk(url: &str, connections: usize, seconds: usize) -> Result<Wrk> {
    let cores = std::thread::available_parallelism()?.get();
    let wrk = Command::new("taskset")
        .args(["-c", &(cores - 1).to_string(), "wrk", "--latency", "-t1"])
        .args([format!("-c{connections}"), format!("-d{seconds}s")])
        .args(["-H", "accept-encoding: gzip", url])
        .output()
        .context("wrk")?;
    let text = String::from_utf8_lossy(&wrk.stdout).into_owned();
    ensure!(wrk.status.success(), "wrk: {}", String::from_utf8_lossy(&wrk.stderr));
    ensure!(!text.contains("Non-2xx"), "not every answer was one: {text}");
    Ok(Wrk {
        requests: number_after(&text, "requests in", true).context("no count of requests")?,
        per_second: number_after(&text, "Requests/sec:", false).context("no rate")?,
        p50_millis: millis(&text, "50%").context("no median")?,
        p99_millis: millis(&text, "99%").context("no 99th percentile")?,
    })
}

/// The number before or behind some words of a report.
fn number_after(text: &str, words: &str, is_before: bool) -> Option<f64> {
    let line = text.lines().find(|line| line.contains(words))?;
    let (before, after) = line.split_once(words)?;
    let number = if is_before { before } else { after };
    number.split_whitespace().next()?.parse().ok()
}

/// `99%    1.20ms`.
fn millis(text: &str, percentile: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.trim_start().starts_with(percentile))?;
    let value = line.split_whitespace().nth(1)?;
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1_000.0)];
    let (number, unit) =
        units.iter().find_map(|(unit, in_millis)| Some((value.strip_suffix(unit)?, in_millis)))?;
    Some(number.parse::<f64>().ok()? * unit)
}
