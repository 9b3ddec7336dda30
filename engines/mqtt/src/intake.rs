use std::sync::Arc;

use base::access::Principal;
use futures::future::{BoxFuture, join_all};

use crate::Message;

/// Who takes messages over before they are acknowledged, such as the readings of devices.
pub trait Intake: Send + Sync + 'static {
    /// Called for each message that its sender may publish, in any QoS, before it is acknowledged and
    /// before subscribers see it. Several calls of one connection run at once; their results are
    /// used in the order of the messages. A message can come twice.
    fn accept<'a>(
        &'a self,
        principal: &'a Principal,
        message: &'a Message,
    ) -> BoxFuture<'a, Accepted>;

    /// The same of messages that came together by one connection, in their order; gives one answer for each. None of them is
    /// answered before the last one is.
    fn accept_all<'a>(
        &'a self,
        principal: &'a Principal,
        messages: &'a [Arc<Message>],
    ) -> BoxFuture<'a, Vec<Accepted>> {
        Box::pin(join_all(messages.iter().map(|message| self.accept(principal, message))))
    }

    /// A client was let in. Whoever listens must be quick: the connection waits.
    fn arrived(&self, _principal: &Principal, _client: &str) {}

    /// A connection of a client is over; not told when the server stops. A lost one whose will is delayed is told when
    /// the will is due, and not at all when the client is back before.
    fn left(&self, _principal: &Principal, _client: &str, _how: Left) {}
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// By DISCONNECT, without its will.
    Politely,
    /// The keep-alive ran out, the socket broke, it was closed by the broker, or it asked for its will.
    Lost,
}

/// What became of a message. All but `NotMine` and `Stored` keep it from subscribers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// An ordinary message between clients.
    NotMine,
    /// Durable now; subscribers get it as well.
    Stored,
    /// Durable as a dead letter. MQTT 5: 0x99 with the reason; 3.1.1 has no such word: acknowledged.
    Refused { reason: String },
    /// The sender may not. MQTT 5: 0x87; 3.1.1: acknowledged and dropped, as its section 3.3.5 allows.
    Denied,
    /// Nothing was stored and nothing is acknowledged: the connection is closed so that the client tries again.
    Unavailable,
}
