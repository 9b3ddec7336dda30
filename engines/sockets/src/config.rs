use std::time::Duration;

use base::Cidr;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as text;
use serde::{Deserialize, Serialize};

/// The limits of sockets.
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
    #[serde(with = "text")]
    pub connect_time_max: Duration,
    /// Bytes of the CONNECT frame of a client that has not proved who it is.
    pub connect_bytes_max: usize,
    /// Headers of one frame.
    pub header_count_max: usize,
    /// Bytes of a frame's command and headers together.
    pub header_bytes_max: usize,
    /// Bytes of a frame's body.
    pub body_bytes_max: usize,
    /// Bytes of a destination.
    pub destination_bytes_max: usize,
    /// Subscriptions of one connection.
    pub subscriptions_max: usize,
    /// Transactions that are open at once in one connection.
    pub transactions_max: usize,
    /// Frames of one transaction.
    pub transaction_frames_max: usize,
    /// Bytes of the messages of all open transactions of one connection.
    pub transaction_bytes_max: usize,
    /// SEND, ACK and NACK frames of one connection that are being made durable at once.
    pub inflight_max: usize,
    /// Bytes that wait for one connection; a subscriber of a topic that takes nothing is then disconnected.
    pub outgoing_bytes_max: usize,
    /// Bytes that wait in memory for all connections together, those included that are written and not taken and those
    /// of frames that are not whole; the connection for which the most waits is then disconnected.
    pub waiting_bytes_max: usize,
    /// Bytes that are collected for one write.
    pub write_bytes_max: usize,
    /// How long a peer may take nothing of what is written.
    #[serde(with = "text")]
    pub write_time_max: Duration,
    /// How often the server is ready to send a heart-beat.
    #[serde(with = "text")]
    pub heart_beat_send: Duration,
    /// How often the server wants to hear something of a client that offers heart-beats.
    #[serde(with = "text")]
    pub heart_beat_receive: Duration,
    /// How long a closing connection may take to be told why.
    #[serde(with = "text")]
    pub close_time_max: Duration,
    /// Organisations whose topics and queues are in memory at once.
    pub organisations_max: usize,
    /// Sends to topics of one organisation that wait for the log; further ones wait before they are queued.
    pub publish_queue_max: usize,
    /// Bytes of messages that share one append to the log.
    pub publish_batch_bytes_max: usize,
    /// Messages to topics that each partition of an organisation keeps for those who come back; whole files of
    /// the log are deleted, so more may be there.
    pub kept_messages: u64,
    /// Bytes of the log that one step of a resume reads.
    pub resume_bytes_max: usize,
    /// Topics of which it is known when they were last sent to, so that a resume need not look.
    pub remembered_topics_max: usize,
    /// Queues of one organisation that are in memory at once.
    pub queues_max: usize,
    /// Messages of one queue; a further one is refused.
    pub queue_messages_max: u64,
    /// Bytes of the messages of one queue; a further one is refused.
    pub queue_bytes_max: u64,
    /// Messages of one queue that are in memory, ready to go; the others stay in their rows.
    pub queue_window: usize,
    /// Bytes of the same, beside one message.
    pub queue_window_bytes_max: u64,
    /// Unacknowledged messages that a subscription to a queue is given, unless it says `prefetch-count`.
    pub prefetch: usize,
    /// The most that `prefetch-count` may say.
    pub prefetch_max: usize,
    /// Bytes of the messages that a subscription to a queue has unacknowledged, beside one message.
    pub prefetch_bytes_max: u64,
    /// A message of a queue that was given out so often without an ACK is moved to the queue `dead.NAME`.
    pub queue_deliveries_max: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections_max: 16_384,
            connecting_per_peer_max: 256,
            peers_without_limit: Cidr::this_machine(),
            connect_time_max: Duration::from_secs(10),
            connect_bytes_max: 8 << 10,
            header_count_max: 64,
            header_bytes_max: 16 << 10,
            body_bytes_max: 256 << 10,
            destination_bytes_max: 200,
            subscriptions_max: 256,
            transactions_max: 8,
            transaction_frames_max: 1_000,
            transaction_bytes_max: 1 << 20,
            inflight_max: 256,
            outgoing_bytes_max: 4 << 20,
            waiting_bytes_max: 256 << 20,
            write_bytes_max: 64 << 10,
            write_time_max: Duration::from_secs(30),
            heart_beat_send: Duration::from_secs(10),
            heart_beat_receive: Duration::from_secs(10),
            close_time_max: Duration::from_secs(2),
            organisations_max: 1_000,
            publish_queue_max: 4_096,
            publish_batch_bytes_max: 1 << 20,
            kept_messages: 1_000_000,
            resume_bytes_max: 256 << 10,
            remembered_topics_max: 10_000,
            queues_max: 1_000,
            queue_messages_max: 100_000,
            queue_bytes_max: 256 << 20,
            queue_window: 1_000,
            queue_window_bytes_max: 256 << 10,
            prefetch: 32,
            prefetch_max: 1_000,
            prefetch_bytes_max: 2 << 20,
            queue_deliveries_max: 16,
        }
    }
}

impl Config {
    /// Names the limit that makes no sense.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let positive = [
            (self.connections_max, "connections_max"),
            (self.connecting_per_peer_max, "connecting_per_peer_max"),
            (self.header_count_max, "header_count_max"),
            (self.subscriptions_max, "subscriptions_max"),
            (self.inflight_max, "inflight_max"),
            (self.outgoing_bytes_max, "outgoing_bytes_max"),
            (self.write_bytes_max, "write_bytes_max"),
            (self.organisations_max, "organisations_max"),
            (self.publish_queue_max, "publish_queue_max"),
            (self.resume_bytes_max, "resume_bytes_max"),
            (self.queues_max, "queues_max"),
            (self.queue_window, "queue_window"),
            (self.prefetch, "prefetch"),
        ];
        if let Some((_, name)) = positive.iter().find(|(value, _)| *value == 0) {
            return Some(name);
        }
        // The smallest useful CONNECT with a key is about a hundred bytes.
        if self.connect_bytes_max < 256 {
            return Some("connect_bytes_max");
        }
        if self.waiting_bytes_max < self.outgoing_bytes_max {
            return Some("waiting_bytes_max");
        }
        if self.prefetch_max < self.prefetch {
            return Some("prefetch_max");
        }
        // Names of queues are keys of rows, and `dead.` comes before them.
        if !(16..=400).contains(&self.destination_bytes_max) {
            return Some("destination_bytes_max");
        }
        // The log takes a message whole.
        if self.body_bytes_max + self.header_bytes_max > 1 << 19 {
            return Some("body_bytes_max");
        }
        None
    }
}
