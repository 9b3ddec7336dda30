use std::time::Duration;

use base::Cidr;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as text;
use serde::{Deserialize, Serialize};

/// Limits of the HTTP door. Durations are written as `30s`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Largest body of a request, unless its operation says otherwise.
    pub body_bytes_max: usize,
    /// How much of a refused body is read and thrown away, so that its sender sees the refusal.
    pub body_discard_bytes_max: usize,
    /// How long the body of a request may take to arrive.
    #[serde(with = "text")]
    pub body_read_time_max: Duration,
    /// How long an answer may take to begin: longer than a read or a query may, which say what was too slow.
    #[serde(with = "text")]
    pub request_time_max: Duration,
    /// A request that has not ended after so long is named in the log while it runs.
    #[serde(with = "text")]
    pub request_told_after: Duration,
    /// Requests that are worked on at once.
    pub requests_max: usize,
    /// The same of one peer, those included whose bodies are still coming: of an address of IPv4 or a /64 of IPv6, as
    /// `trusted_proxies` say it.
    pub requests_per_peer_max: usize,
    /// Requests whose bodies are still coming; they are not worked on meanwhile.
    pub bodies_max: usize,
    /// Event streams that are open at once.
    pub streams_max: usize,
    /// The same of one peer.
    pub streams_per_peer_max: usize,
    /// An open stream or socket of somebody who showed what ends by time asks this often whether it still opens.
    #[serde(with = "text")]
    pub token_check: Duration,
    /// Silence after which an event stream sends a comment.
    #[serde(with = "text")]
    pub stream_keep_alive: Duration,
    /// Largest request line and headers together; at least 8 KiB.
    pub header_bytes_max: usize,
    /// Most headers in a request.
    pub header_count_max: usize,
    /// How long the headers of a request may take, and how long a connection may wait without one.
    #[serde(with = "text")]
    pub header_read_time_max: Duration,
    /// How long a peer may take nothing of an answer before its connection is closed.
    #[serde(with = "text")]
    pub write_time_max: Duration,
    /// Connections that are open at once; more wait to be accepted.
    pub connections_max: usize,
    /// The same of one peer that connects; more are closed at once.
    pub connections_per_peer_max: usize,
    /// Networks whose peers have no limit of their own, beside `trusted_proxies`: this machine, as it comes.
    pub peers_without_limit: Vec<Cidr>,
    /// Requests that are worked on at once in one HTTP/2 connection.
    pub connection_requests_max: u32,
    /// How long open requests may go on after shutdown began.
    #[serde(with = "text")]
    pub drain_time_max: Duration,
    /// Requests with an `Idempotency-Key` that are worked on at once.
    pub keyed_requests_max: usize,
    /// Keys that one caller may use within `keyed_requests_window`, so that all are left room to be remembered.
    pub keyed_requests_per_caller_max: u32,
    /// The time in which they are counted.
    #[serde(with = "text")]
    pub keyed_requests_window: Duration,
    /// Callers whose keys are counted.
    pub keyed_callers_max: usize,
    /// The largest answer that is kept for a request with an `Idempotency-Key`.
    pub kept_answer_bytes_max: usize,
    /// Session cookies are for HTTPS only, also those of requests that came without TLS.
    pub cookie_secure: bool,
    /// Proxies that are believed when they say whom they ask for (`X-Forwarded-For`) and how they were asked
    /// (`X-Forwarded-Proto`).
    pub trusted_proxies: Vec<Cidr>,
    /// How long browsers that came under TLS shall come in no other way (HSTS); 0 says nothing to them.
    #[serde(with = "text")]
    pub hsts_max_age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            body_bytes_max: 1 << 20,
            body_discard_bytes_max: 16 << 20,
            body_read_time_max: Duration::from_secs(20),
            request_time_max: Duration::from_secs(35),
            request_told_after: Duration::from_secs(5),
            requests_max: 1_024,
            requests_per_peer_max: 128,
            bodies_max: 1_024,
            streams_max: 1_000,
            streams_per_peer_max: 250,
            token_check: Duration::from_millis(500),
            stream_keep_alive: Duration::from_secs(15),
            header_bytes_max: 32 << 10,
            header_count_max: 100,
            header_read_time_max: Duration::from_secs(30),
            write_time_max: Duration::from_secs(30),
            connections_max: 4_096,
            connections_per_peer_max: 512,
            peers_without_limit: Cidr::this_machine(),
            connection_requests_max: 100,
            drain_time_max: Duration::from_secs(8),
            keyed_requests_max: 256,
            keyed_requests_per_caller_max: 25_000,
            keyed_requests_window: Duration::from_hours(24),
            keyed_callers_max: 10_000,
            kept_answer_bytes_max: 64 << 10,
            cookie_secure: false,
            trusted_proxies: Vec::new(),
            hsts_max_age: Duration::from_hours(365 * 24),
        }
    }
}

impl Config {
    /// Whose connections and requests are not counted: what stands before others speaks for many.
    pub(crate) fn unlimited_peers(&self) -> Vec<Cidr> {
        self.peers_without_limit.iter().chain(&self.trusted_proxies).copied().collect()
    }
}
