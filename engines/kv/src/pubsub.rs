//! Who listens to which channel.

use std::collections::HashMap;

use crate::engine::Engine;
use crate::session::{Session, Subscriptions, Token};
use crate::store::glob;

/// An organisation's first database and a channel's name.
type Place = (usize, Box<[u8]>);

/// About what a name takes beside its bytes.
pub(crate) const NAME_BYTES: usize = 64;

#[derive(Default)]
pub(crate) struct Channels {
    pub(crate) plain: HashMap<Place, Vec<Token>>,
    pub(crate) patterns: HashMap<Place, Vec<Token>>,
    pub(crate) shards: HashMap<Place, Vec<Token>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listening {
    Channel,
    Pattern,
    Shard,
}

impl Listening {
    pub(crate) fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Channel => ("subscribe", "unsubscribe"),
            Self::Pattern => ("psubscribe", "punsubscribe"),
            Self::Shard => ("ssubscribe", "sunsubscribe"),
        }
    }
}

impl Channels {
    fn of(&mut self, listening: Listening) -> &mut HashMap<Place, Vec<Token>> {
        match listening {
            Listening::Channel => &mut self.plain,
            Listening::Pattern => &mut self.patterns,
            Listening::Shard => &mut self.shards,
        }
    }

    pub(crate) fn join(&mut self, session: &mut Session, listening: Listening, channel: &[u8]) {
        let all = session.subscriptions.get_or_insert_default();
        if names(all, listening).insert(channel.into()) {
            all.bytes += channel.len() + NAME_BYTES;
            self.of(listening)
                .entry((session.base, channel.into()))
                .or_default()
                .push(session.token);
        }
    }

    pub(crate) fn leave(&mut self, session: &mut Session, listening: Listening, channel: &[u8]) {
        let Some(all) = &mut session.subscriptions else { return };
        if !names(all, listening).remove(channel) {
            return;
        }
        all.bytes -= channel.len() + NAME_BYTES;
        let place = (session.base, Box::from(channel));
        let channels = self.of(listening);
        if let Some(tokens) = channels.get_mut(&place) {
            tokens.retain(|token| *token != session.token);
            if tokens.is_empty() {
                channels.remove(&place);
            }
        }
    }

    pub(crate) fn leave_all(&mut self, session: &mut Session) {
        for listening in [Listening::Channel, Listening::Pattern, Listening::Shard] {
            let Some(all) = &mut session.subscriptions else { return };
            for channel in names(all, listening).clone() {
                self.leave(session, listening, &channel);
            }
        }
        session.subscriptions = None;
    }
}

pub(crate) fn names(
    all: &mut Subscriptions,
    listening: Listening,
) -> &mut std::collections::BTreeSet<Box<[u8]>> {
    match listening {
        Listening::Channel => &mut all.channels,
        Listening::Pattern => &mut all.patterns,
        Listening::Shard => &mut all.shards,
    }
}

impl Engine {
    /// Gives a message to everybody of the organisation who listens; says to how many.
    pub(crate) fn publish(&mut self, base: usize, channel: &[u8], message: &[u8]) -> usize {
        if self.channels.plain.is_empty() && self.channels.patterns.is_empty() {
            return 0;
        }
        let mut count = 0;
        if let Some(tokens) = self.channels.plain.get(&(base, Box::from(channel))).cloned() {
            for token in tokens {
                self.deliver(token, |reply| {
                    reply.push(3);
                    reply.text("message");
                    reply.bulk(channel);
                    reply.bulk(message);
                });
                count += 1;
            }
        }
        let matching: Vec<(Box<[u8]>, Vec<Token>)> = self
            .channels
            .patterns
            .iter()
            .filter(|((of, pattern), _)| *of == base && glob::matches(pattern, channel))
            .map(|((_, pattern), tokens)| (pattern.clone(), tokens.clone()))
            .collect();
        for (pattern, tokens) in matching {
            for token in tokens {
                self.deliver(token, |reply| {
                    reply.push(4);
                    reply.text("pmessage");
                    reply.bulk(&pattern);
                    reply.bulk(channel);
                    reply.bulk(message);
                });
                count += 1;
            }
        }
        count
    }

    pub(crate) fn publish_to_shard(
        &mut self,
        base: usize,
        channel: &[u8],
        message: &[u8],
    ) -> usize {
        let Some(tokens) = self.channels.shards.get(&(base, Box::from(channel))).cloned() else {
            return 0;
        };
        let count = tokens.len();
        for token in tokens {
            self.deliver(token, |reply| {
                reply.push(3);
                reply.text("smessage");
                reply.bulk(channel);
                reply.bulk(message);
            });
        }
        count
    }
}
