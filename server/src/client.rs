//! `madang jobs …`: asks a running server by its HTTP API, with a key, as any other client does.

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// `[client]`: which server the commands ask.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// Its address; plain HTTP only, so a server elsewhere is reached through a tunnel.
    pub(crate) url: String,
    /// The token of a key that may read and write jobs.
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
            .header("authorization", format!("Bearer {key}"))
            .body(())?;
        let mut answer = agent.run(request).with_context(|| format!("ask {url}"))?;
        let text = answer.body_mut().read_to_string()?;
        let body: Value = if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? };
        if answer.status().is_success() {
            return Ok(body);
        }
        let detail = body["detail"].as_str().or_else(|| body["title"].as_str());
        bail!("{}: {}", answer.status(), detail.unwrap_or("the server does not say why"))
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
    fn what_is_no_name_and_an_absent_key_are_refused_before_anything_is_asked() {
        let refused = |deed| jobs(&Config::default(), deed).unwrap_err().to_string();
        assert!(refused(Jobs::Show { id: "../keys".into() }).contains("no id"));
        assert!(refused(Jobs::Queues).contains("MADANG__CLIENT__KEY"));
    }
}
