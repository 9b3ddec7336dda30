use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use ureq::Agent;
use ureq::http::Request;

/// A client of the HTTP door that never hides a status.
#[derive(Clone)]
pub struct Http {
    agent: Agent,
    origin: String,
    headers: Vec<(String, String)>,
}

/// What came back.
pub struct Reply {
    pub status: u16,
    pub content_type: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Http {
    pub fn new(address: &str) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_mins(1)))
            .max_redirects(0)
            .build();
        Self { agent: config.into(), origin: format!("http://{address}"), headers: vec![] }
    }

    #[must_use]
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn origin(&self) -> &str {
        &self.origin
    }

    pub fn get(&self, path: &str) -> Result<Reply> {
        self.send("GET", path, None)
    }

    pub fn delete(&self, path: &str) -> Result<Reply> {
        self.send("DELETE", path, None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<Reply> {
        self.send("POST", path, Some(("application/json", body.to_string().as_bytes())))
    }

    pub fn put(&self, path: &str, body: &Value) -> Result<Reply> {
        self.send("PUT", path, Some(("application/json", body.to_string().as_bytes())))
    }

    pub fn patch(&self, path: &str, body: &Value) -> Result<Reply> {
        self.send("PATCH", path, Some(("application/json", body.to_string().as_bytes())))
    }

    pub fn send(&self, method: &str, path: &str, body: Option<(&str, &[u8])>) -> Result<Reply> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.origin));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let response = match body {
            Some((content_type, bytes)) => {
                self.agent.run(request.header("content-type", content_type).body(bytes)?)
            }
            None => self.agent.run(request.body(())?),
        };
        let mut response = response.with_context(|| format!("{method} {path}"))?;
        let text_of =
            |value: &ureq::http::HeaderValue| value.to_str().unwrap_or_default().to_owned();
        Ok(Reply {
            status: response.status().as_u16(),
            content_type: response.headers().get("content-type").map(text_of).unwrap_or_default(),
            headers: response
                .headers()
                .iter()
                .map(|(name, value)| (name.as_str().to_owned(), text_of(value)))
                .collect(),
            body: response.body_mut().with_config().limit(256 << 20).read_to_vec()?,
        })
    }

    /// Asks by SQL and gives the rows.
    pub fn sql(&self, sql: &str) -> Result<Vec<Vec<Value>>> {
        let answer = self.post("/v1/sql", &serde_json::json!({ "sql": sql }))?.ok()?;
        let rows = answer["rows"].as_array().context("no rows")?;
        Ok(rows.iter().map(|row| row.as_array().cloned().unwrap_or_default()).collect())
    }

    /// The single number that a query gives.
    pub fn sql_number(&self, sql: &str) -> Result<i64> {
        let rows = self.sql(sql)?;
        rows.first().and_then(|row| row.first()).and_then(Value::as_i64).context("no number")
    }

    /// Every item of a list, page by page.
    pub fn all(&self, path: &str) -> Result<Vec<Value>> {
        let mut items = vec![];
        let mut after = String::new();
        loop {
            let page = self.get(&format!("{path}?limit=1000{after}"))?.ok()?;
            items.extend(page["items"].as_array().context("no items")?.iter().cloned());
            match page["next"].as_str() {
                Some(next) => after = format!("&after={}", percent_encode(next)),
                None => return Ok(items),
            }
        }
    }

    /// Opens a stream of server-sent events.
    pub fn events(&self, path: &str) -> Result<Stream> {
        let config = Agent::config_builder().http_status_as_error(false).build();
        let agent: Agent = config.into();
        let mut request = Request::builder().method("GET").uri(format!("{}{path}", self.origin));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let response = agent.run(request.header("accept", "text/event-stream").body(())?)?;
        ensure!(response.status() == 200, "events: status {}", response.status());
        Ok(Stream { reader: BufReader::new(Box::new(response.into_body().into_reader())) })
    }
}

impl Reply {
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body)
            .with_context(|| format!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body of a success; an error otherwise, with what was said.
    pub fn ok(&self) -> Result<Value> {
        ensure!(
            (200..300).contains(&self.status),
            "status {}: {}",
            self.status,
            String::from_utf8_lossy(&self.body)
        );
        if self.body.is_empty() { Ok(Value::Null) } else { self.json() }
    }
}

/// An open stream of server-sent events.
pub struct Stream {
    reader: BufReader<Box<dyn Read + Send>>,
}

impl Stream {
    /// Waits for the next event: its id, its name and its data.
    pub fn next_event(&mut self) -> Result<Option<(String, String, String)>> {
        let (mut id, mut event, mut data) = (String::new(), String::new(), String::new());
        let mut line = String::new();
        loop {
            line.clear();
            if self.reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let text = line.trim_end();
            if text.is_empty() {
                if data.is_empty() {
                    continue;
                }
                return Ok(Some((id, event, data)));
            }
            match text.split_once(':') {
                Some(("id", value)) => id = value.trim_start().to_owned(),
                Some(("event", value)) => event = value.trim_start().to_owned(),
                Some(("data", value)) => data.push_str(value.trim_start()),
                _ => {}
            }
        }
    }
}

fn percent_encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
