use std::time::Duration;

use base::Cidr;
use serde::{Deserialize, Serialize};

/// The limits of the broker.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Open connections, in all organisations together.
    pub connections_max: usize,
    /// Those of one peer that have not proved who they are: of an address of IPv4 or a /64 of IPv6. More are closed at
    /// once.
    pub connecting_per_peer_max: usize,
    /// Networks whose peers have no such limit: this machine, as it comes.
    pub peers_without_limit: Vec<Cidr>,
    /// How long a new connection may take until its CONNECT is complete and checked.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub connect_time_max: Duration,
    /// The largest packet of a client that has not proved who it is.
    pub packet_bytes_before_auth_max: u32,
    /// The largest packet of a client, header included; MQTT 5 clients are told.
    pub packet_bytes_max: u32,
    /// The longest client identifier.
    pub client_id_bytes_max: usize,
    /// Seconds of keep-alive that a client may ask for; 0 leaves it to the client.
    pub keep_alive_seconds_max: u16,
    /// Publishes of one connection that are being made durable at once, and deliveries to one client
    /// that wait for its PUBACK.
    pub inflight_max: u16,
    /// Topic aliases that an MQTT 5 client may define per connection.
    pub topic_alias_max: u16,
    /// Levels of a topic or a filter.
    pub topic_levels_max: usize,
    /// Subscriptions of one session.
    pub subscriptions_max: usize,
    /// Sessions of one organisation, connected or kept.
    pub sessions_max: usize,
    /// How long a session is kept without its client, at most.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub session_expiry_max: Duration,
    /// Messages that wait for one client; one that is away misses those that come when as many wait.
    pub queue_messages_max: usize,
    /// Bytes of the messages that wait for one client.
    pub queue_bytes_max: usize,
    /// Bytes of waiting messages in memory, for all clients together; those of one organisation have at most half.
    pub queues_bytes_max: usize,
    /// How long a publish waits for room in the queue of a connected subscriber. Then a kept session misses messages
    /// until half of its queue is free, and any other subscriber is disconnected.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub queue_wait_max: Duration,
    /// Retained messages of one organisation.
    pub retained_max: usize,
    /// Bytes of the retained messages of one organisation.
    pub retained_bytes_max: usize,
    /// Bytes that are read ahead from one connection.
    pub read_bytes_max: usize,
    /// Bytes that are collected for one write to a connection.
    pub write_bytes_max: usize,
    /// How long a closing connection may take to finish the publishes that it sent.
    #[serde(with = "jiff::fmt::serde::unsigned_duration::friendly::compact::required")]
    pub close_time_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            connecting_per_peer_max: 256,
            peers_without_limit: Cidr::this_machine(),
            connect_time_max: Duration::from_secs(10),
            packet_bytes_before_auth_max: 16 << 10,
            packet_bytes_max: 256 << 10,
            client_id_bytes_max: 256,
            keep_alive_seconds_max: 0,
            inflight_max: 128,
            topic_alias_max: 16,
            topic_levels_max: 64,
            subscriptions_max: 1_000,
            sessions_max: 100_000,
            session_expiry_max: Duration::from_hours(7 * 24),
            queue_messages_max: 10_000,
            queue_bytes_max: 4 << 20,
            queues_bytes_max: 256 << 20,
            queue_wait_max: Duration::from_secs(1),
            retained_max: 10_000,
            retained_bytes_max: 64 << 20,
            read_bytes_max: 64 << 10,
            write_bytes_max: 64 << 10,
            close_time_max: Duration::from_secs(2),
        }
    }
}

impl Config {
    /// Says which limit makes no sense.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let positive = [
            (self.connections_max, "connections_max"),
            (self.connecting_per_peer_max, "connecting_per_peer_max"),
            (self.inflight_max.into(), "inflight_max"),
            (self.topic_levels_max, "topic_levels_max"),
            (self.queue_messages_max, "queue_messages_max"),
            (self.read_bytes_max, "read_bytes_max"),
            (self.write_bytes_max, "write_bytes_max"),
        ];
        if let Some((_, name)) = positive.iter().find(|(value, _)| *value == 0) {
            return Some(name);
        }
        // The smallest useful CONNECT with a key and its secret is about a hundred bytes.
        if self.packet_bytes_before_auth_max < 256 {
            return Some("packet_bytes_before_auth_max");
        }
        if self.packet_bytes_max < self.packet_bytes_before_auth_max {
            return Some("packet_bytes_max");
        }
        // Matching walks the levels recursively.
        if self.topic_levels_max > 512 {
            return Some("topic_levels_max");
        }
        None
    }
}
