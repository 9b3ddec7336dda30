//! The last retained message of each topic of one organisation.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Timestamp;

use crate::Message;

#[derive(Default)]
pub(crate) struct Retained {
    root: Node,
    count: usize,
    bytes: usize,
}

#[derive(Default)]
struct Node {
    /// In order, so that a subscriber gets the same messages in the same order each time.
    children: BTreeMap<Box<str>, Node>,
    message: Option<Arc<Message>>,
}

impl Retained {
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn get(&self, topic: &str) -> Option<&Arc<Message>> {
        let mut node = &self.root;
        for level in topic.split('/') {
            node = node.children.get(level)?;
        }
        node.message.as_ref()
    }

    /// Whether a message may be kept beside the others.
    pub(crate) fn has_room(&self, message: &Message, count_max: usize, bytes_max: usize) -> bool {
        let (count, bytes) =
            self.get(&message.topic).map_or((0, 0), |replaced| (1, replaced.cost()));
        self.count - count < count_max && self.bytes - bytes + message.cost() <= bytes_max
    }

    pub(crate) fn set(&mut self, message: Arc<Message>) {
        let mut node = &mut self.root;
        for level in message.topic.split('/') {
            if !node.children.contains_key(level) {
                node.children.insert(level.into(), Node::default());
            }
            node = node.children.get_mut(level).expect("the level was inserted above");
        }
        self.bytes += message.cost();
        match node.message.replace(message) {
            Some(replaced) => self.bytes -= replaced.cost(),
            None => self.count += 1,
        }
    }

    pub(crate) fn clear(&mut self, topic: &str) {
        let levels: Vec<&str> = topic.split('/').collect();
        if let Some(removed) = self.root.clear(&levels) {
            self.bytes -= removed.cost();
            self.count -= 1;
        }
    }

    /// The messages that a new subscription gets.
    pub(crate) fn matching(&self, filter: &str, now: Timestamp) -> Vec<Arc<Message>> {
        let levels: Vec<&str> = filter.split('/').collect();
        let mut found = Vec::new();
        self.root.matching(&levels, true, &mut |message| {
            if !message.is_expired(now) {
                found.push(message.clone());
            }
        });
        found
    }

    pub(crate) fn expired(&self, now: Timestamp) -> Vec<Arc<str>> {
        let mut found = Vec::new();
        self.root.all(true, true, &mut |message| {
            if message.is_expired(now) {
                found.push(message.topic.clone());
            }
        });
        found
    }
}

impl Node {
    fn clear(&mut self, levels: &[&str]) -> Option<Arc<Message>> {
        let [first, rest @ ..] = levels else { return self.message.take() };
        let child = self.children.get_mut(*first)?;
        let removed = child.clear(rest);
        if child.message.is_none() && child.children.is_empty() {
            self.children.remove(*first);
        }
        removed
    }

    fn matching(&self, levels: &[&str], is_root: bool, found: &mut impl FnMut(&Arc<Message>)) {
        match levels {
            [] => self.message.iter().for_each(found),
            ["#"] => self.all(is_root, false, found),
            ["+", rest @ ..] => {
                for (level, child) in &self.children {
                    if !(is_root && level.starts_with('$')) {
                        child.matching(rest, false, found);
                    }
                }
            }
            [first, rest @ ..] => {
                if let Some(child) = self.children.get(*first) {
                    child.matching(rest, false, found);
                }
            }
        }
    }

    fn all(&self, is_root: bool, with_system: bool, found: &mut impl FnMut(&Arc<Message>)) {
        self.message.iter().for_each(&mut *found);
        for (level, child) in &self.children {
            if with_system || !(is_root && level.starts_with('$')) {
                child.all(false, with_system, found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::{Properties, Qos, topic};

    fn message(topic: &str) -> Arc<Message> {
        Arc::new(Message {
            topic: topic.into(),
            payload: Bytes::from_static(b"x"),
            qos: Qos::AtMostOnce,
            retain: true,
            client: "".into(),
            received: Timestamp::from_millis(0),
            expires: None,
            properties: Properties::default(),
        })
    }

    proptest! {
        #[test]
        fn a_filter_finds_the_topics_that_it_matches(
            topics in prop::collection::btree_set("(a|b|\\$s)?(/(a|b|\\$s)?){0,3}", 1..20),
            filter in "((a|b|\\+|\\$s)?/){0,3}(a|\\+|#)",
        ) {
            let mut retained = Retained::default();
            for topic in &topics {
                retained.set(message(topic));
                retained.set(message(topic));
            }
            prop_assert_eq!(retained.count(), topics.len());
            let expected: Vec<&str> =
                topics.iter().filter(|each| topic::matches(&filter, each)).map(String::as_str).collect();
            let found = retained.matching(&filter, Timestamp::from_millis(0));
            let mut found: Vec<&str> = found.iter().map(|message| &*message.topic).collect();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
            for topic in &topics {
                retained.clear(topic);
            }
            prop_assert_eq!((retained.count(), retained.bytes), (0, 0));
            prop_assert!(retained.root.children.is_empty());
        }
    }

    #[test]
    fn a_full_store_takes_replacements_only() {
        let mut retained = Retained::default();
        retained.set(message("a"));
        assert!(retained.has_room(&message("a"), 1, 1_000));
        assert!(!retained.has_room(&message("b"), 1, 1_000));
        assert!(!retained.has_room(&message("b"), 2, 200));
    }
}
