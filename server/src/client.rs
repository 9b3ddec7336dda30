//! `madang jobs …` and `madang readings …`: asks a running server by its HTTP API, with a key, as any other client does.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// `[client]`: which server the commands ask.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Its address; plain HTTP only, so a server elsewhere is reached through a tunnel.
    pub(crate) url: String,
    /// The token of a key that may do what is asked for, such as `jobs.write` or `readings.publish`.
    pub(crate) key: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { url: "http://127.0.0.1:8080".to_owned(), key: String::new() }
    }
}

#[derive(Subcommand)]
pub(crate) enum Jobs {
    /// List jobs, the newest first
    List {
        /// Only those in this state: scheduled, ready, running, dead, …
        #[arg(long)]
        state: Option<String>,
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: u16,
    },
    /// Show one job with its attempts and what they noted
    Show { id: String },
    /// Give a dead, cancelled or discarded job a new set of attempts
    Retry { id: String },
    /// Keep a job from beginning, or ask a running one to stop
    Cancel { id: String },
    /// Let a delayed job begin now
    Run { id: String },
    /// Let no more jobs of a queue begin
    Pause { queue: String },
    /// Let jobs of a queue begin again
    Resume { queue: String },
    /// List queues and what waits in them
    Queues,
    /// List schedules
    Schedules,
}

/// Does it and gives what is to be printed.
pub(crate) fn jobs(config: &Config, deed: Jobs) -> Result<String> {
    let client = Client { config };
    match deed {
        Jobs::List { state, limit } => {
            let state = state.map(|state| plain(&state).map(|state| format!("&state={state}")));
            let state = state.transpose()?.unwrap_or_default();
            let page = client.ask("GET", &format!("/v1/jobs?limit={limit}{state}"))?;
            Ok(lines(
                &page["items"],
                &["id", "state", "kind", "queue", "due", "attempts", "last_error"],
            ))
        }
        Jobs::Show { id } => {
            let job = client.ask("GET", &format!("/v1/jobs/{}", plain(&id)?))?;
            Ok(serde_json::to_string_pretty(&job)? + "\n")
        }
        Jobs::Retry { id } => client.tell(&format!("/v1/jobs/{}/retry", plain(&id)?)),
        Jobs::Cancel { id } => client.tell(&format!("/v1/jobs/{}/cancel", plain(&id)?)),
        Jobs::Run { id } => client.tell(&format!("/v1/jobs/{}/run-now", plain(&id)?)),
        Jobs::Pause { queue } => client.tell(&format!("/v1/job-queues/{}/pause", plain(&queue)?)),
        Jobs::Resume { queue } => client.tell(&format!("/v1/job-queues/{}/resume", plain(&queue)?)),
        Jobs::Queues => {
            let overview = client.ask("GET", "/v1/jobs-overview")?;
            Ok(lines(&overview["queues"], &["name", "state", "ready", "oldest"]))
        }
        Jobs::Schedules => {
            let page = client.ask("GET", "/v1/job-schedules")?;
            Ok(lines(&page["items"], &["name", "kind", "cron", "zone", "paused", "next", "last"]))
        }
    }
}

#[derive(Subcommand)]
pub(crate) enum Readings {
    /// Take readings of the past from a CSV file; each counts once, however often it is imported
    ///
    /// Its heading names the columns: time, device, sensor, and one for each value, which may be empty.
    Import {
        file: PathBuf,
        /// The device of all lines, where there is no such column
        #[arg(long)]
        device: Option<String>,
        /// The sensor type of all lines, where there is no such column
        #[arg(long)]
        sensor: Option<String>,
        /// The time zone of times without an offset, such as Asia/Seoul
        #[arg(long)]
        zone: Option<String>,
    },
}

/// Of what was refused so many are told why.
const REASONS_MAX: usize = 20;

/// Does it and gives what is to be printed.
pub(crate) fn readings(config: &Config, deed: Readings) -> Result<String> {
    let client = Client { config };
    let Readings::Import { file, device, sensor, zone } = deed;
    let mut parts = Parts::open(&file)?;
    let (mut accepted, mut empty, mut refused, mut before) = (0, 0, 0, 0);
    let mut reasons: Vec<String> = Vec::new();
    while let Some(csv) = parts.next()? {
        let body = json!({"csv": csv, "device": device, "sensor": sensor, "zone": zone});
        let answer =
            client.send("POST", "/v1/readings-import", Some(&body)).with_context(|| {
                format!(
                    "after {before} readings, which are kept; the same file can be imported again"
                )
            })?;
        let count = |name: &str| answer[name].as_u64().unwrap_or(0);
        for reason in answer["reasons"].as_array().into_iter().flatten() {
            let (index, text) = (reason["index"].as_u64().unwrap_or(0), &reason["reason"]);
            if reasons.len() < REASONS_MAX {
                let text = text.as_str().unwrap_or("refused");
                reasons.push(format!("reading {}: {text}\n", before + index + 1));
            }
        }
        accepted += count("accepted");
        empty += count("empty");
        refused += count("refused");
        before = accepted + empty + refused;
    }
    let reasons = reasons.concat();
    Ok(format!(
        "{reasons}accepted {accepted}, without a value {empty}, refused {refused} (dead letters)\n"
    ))
}

/// A table in parts that fit a request, each with the heading.
struct Parts {
    from: BufReader<File>,
    heading: String,
}

impl Parts {
    /// Half of what a request may have: a quotation mark is two bytes in JSON.
    const BYTES_MAX: usize = 768 << 10;
    const LINES_MAX: usize = 10_000;

    fn open(file: &Path) -> Result<Self> {
        let from = File::open(file).with_context(|| format!("open {}", file.display()))?;
        let mut parts = Self { from: BufReader::new(from), heading: String::new() };
        parts.heading = parts.line()?.with_context(|| format!("{} is empty", file.display()))?;
        Ok(parts)
    }

    /// One line of the table: a field in quotation marks may go over several of the file.
    fn line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        loop {
            let read = self.from.read_line(&mut line).context("read the file as UTF-8")?;
            let is_whole = line.matches('"').count().is_multiple_of(2);
            let most = Self::BYTES_MAX / 2;
            ensure!(line.len() <= most, "a line has more than {most} bytes");
            if is_whole || read == 0 {
                return Ok((!line.is_empty()).then_some(line));
            }
        }
    }

    fn next(&mut self) -> Result<Option<String>> {
        let (mut part, mut count) = (String::new(), 0);
        while count < Self::LINES_MAX && part.len() < Self::BYTES_MAX / 2 {
            let Some(line) = self.line()? else { break };
            part += &line;
            count += 1;
        }
        Ok((count > 0).then(|| format!("{}\n{part}", self.heading.trim_end())))
    }
}

struct Client<'a> {
    config: &'a Config,
}

impl Client<'_> {
    fn tell(&self, path: &str) -> Result<String> {
        let answer = self.ask("POST", path)?;
        let outcome = answer["outcome"].as_str().unwrap_or("done");
        Ok(format!("{outcome}\n"))
    }

    fn ask(&self, method: &str, path: &str) -> Result<Value> {
        self.send(method, path, None)
    }

    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let Config { url, key } = self.config;
        ensure!(
            !key.is_empty(),
            "no key: set [client] key, or MADANG__CLIENT__KEY, to a key's token"
        );
        ensure!(url.starts_with("http://"), "[client] url must begin with http://");
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
        let request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", url.trim_end_matches('/')))
            .header("authorization", format!("Bearer {key}"));
        let answer = match body {
            None => agent.run(request.body(())?),
            Some(body) => {
                let request = request.header("content-type", "application/json");
                agent.run(request.body(body.to_string())?)
            }
        };
        let mut answer = answer.with_context(|| format!("ask {url}"))?;
        let text = answer.body_mut().read_to_string()?;
        let body: Value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? };
        if answer.status().is_success() {
            return Ok(body);
        }
        let detail = body["detail"].as_str().or_else(|| body["title"].as_str());
        let mut said = detail.unwrap_or("the server does not say why").to_owned();
        for fault in body["errors"].as_array().into_iter().flatten() {
            let (at, text) = (fault["pointer"].as_str(), fault["detail"].as_str());
            said = format!("{said}; {}: {}", at.unwrap_or_default(), text.unwrap_or_default());
        }
        bail!("{}: {said}", answer.status())
    }
}

/// A part of a path as it stands.
fn plain(text: &str) -> Result<&str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    ensure!(!text.is_empty() && text.chars().all(is_plain), "{text:?} is no id and no name");
    Ok(text)
}

/// A line for each, with tabs between.
fn lines(items: &Value, fields: &[&str]) -> String {
    let mut lines = fields.join("\t") + "\n";
    for item in items.as_array().into_iter().flatten() {
        let words = fields.iter().map(|field| match &item[*field] {
            Value::Null => "-".to_owned(),
            Value::String(text) => text.replace(['\t', '\n'], " "),
            other => other.to_string(),
        });
        lines += &(words.collect::<Vec<_>>().join("\t") + "\n");
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_is_a_line_each_and_nothing_in_it_breaks_the_line() {
        let items = json!([{"id": "1", "error": "a\tb\nc", "count": 3}, {"id": "2"}]);
        assert_eq!(
            lines(&items, &["id", "error", "count"]),
            "id\terror\tcount\n1\ta b c\t3\n2\t-\t-\n"
        );
    }

    #[test]
    fn a_table_goes_in_parts_that_end_between_its_lines() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("readings.csv");
        let line = "2020-07-01T00:00:00Z,\"a\nb\"\r\n";
        std::fs::write(&file, format!("time,note\r\n{}", line.repeat(25_000))).unwrap();
        let mut parts = Parts::open(&file).unwrap();
        let mut count = 0;
        while let Some(part) = parts.next().unwrap() {
            let rest = part.strip_prefix("time,note\n").unwrap();
            assert_eq!(rest.replace(line, ""), "");
            assert!(part.len() < Parts::BYTES_MAX);
            count += rest.matches(line).count();
        }
        assert_eq!(count, 25_000);
        std::fs::write(&file, "").unwrap();
        assert!(Parts::open(&file).is_err());
    }

    #[test]
    fn what_is_no_name_and_an_absent_key_are_refused_before_anything_is_asked() {
        let refused = |deed| jobs(&Config::default(), deed).unwrap_err().to_string();
        assert!(refused(Jobs::Show { id: "../keys".into() }).contains("no id"));
        assert!(refused(Jobs::Queues).contains("MADANG__CLIENT__KEY"));
    }
}
