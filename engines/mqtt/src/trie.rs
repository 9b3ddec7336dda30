//! Subscriptions by filter, so that a topic finds its subscribers without looking at the others.

use std::collections::HashMap;

/// Filters of many holders, each with a value. A holder is a number.
pub(crate) struct Trie<T> {
    root: Node<T>,
}

struct Node<T> {
    children: HashMap<Box<str>, Node<T>>,
    /// Holders of the filter that ends here.
    here: Vec<(u64, T)>,
    /// Holders of the filter that ends here and goes on with `/#`.
    below: Vec<(u64, T)>,
}

impl<T> Trie<T> {
    /// Says whether the holder had the filter before; its value is replaced.
    pub(crate) fn insert(&mut self, filter: &str, holder: u64, value: T) -> bool {
        let mut node = &mut self.root;
        let mut holders = None;
        for level in filter.split('/') {
            if level == "#" {
                holders = Some(&mut node.below);
                break;
            }
            if !node.children.contains_key(level) {
                node.children.insert(level.into(), Node::default());
            }
            node = node.children.get_mut(level).expect("the level was inserted above");
        }
        let holders = match holders {
            Some(below) => below,
            None => &mut node.here,
        };
        if let Some(held) = holders.iter_mut().find(|(number, _)| *number == holder) {
            held.1 = value;
            return true;
        }
        holders.push((holder, value));
        false
    }

    /// Says whether the holder had the filter.
    pub(crate) fn remove(&mut self, filter: &str, holder: u64) -> bool {
        let levels: Vec<&str> = filter.split('/').collect();
        self.root.remove(&levels, holder)
    }

    /// Calls `found` for each value whose filter matches; once per filter, so a holder can come twice.
    pub(crate) fn matches<'a>(&'a self, topic: &str, found: &mut impl FnMut(u64, &'a T)) {
        let levels: Vec<&str> = topic.split('/').collect();
        self.root.matches(&levels, topic.starts_with('$'), found);
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.root.is_empty()
    }
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        Self { root: Node::default() }
    }
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { children: HashMap::new(), here: Vec::new(), below: Vec::new() }
    }
}

impl<T> Node<T> {
    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.here.is_empty() && self.below.is_empty()
    }

    fn remove(&mut self, levels: &[&str], holder: u64) -> bool {
        let holders = match levels {
            [] => &mut self.here,
            ["#"] => &mut self.below,
            [first, rest @ ..] => {
                let Some(child) = self.children.get_mut(*first) else { return false };
                let removed = child.remove(rest, holder);
                if child.is_empty() {
                    self.children.remove(*first);
                }
                return removed;
            }
        };
        let before = holders.len();
        holders.retain(|(number, _)| *number != holder);
        holders.len() < before
    }

    /// `is_system`: the first level of a `$` topic is matched by no wildcard.
    fn matches<'a>(&'a self, levels: &[&str], is_system: bool, found: &mut impl FnMut(u64, &'a T)) {
        if !is_system {
            self.below.iter().for_each(|(holder, value)| found(*holder, value));
        }
        let [first, rest @ ..] = levels else {
            self.here.iter().for_each(|(holder, value)| found(*holder, value));
            return;
        };
        if let Some(child) = self.children.get(*first) {
            child.matches(rest, false, found);
        }
        if !is_system && let Some(child) = self.children.get("+") {
            child.matches(rest, false, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::topic;

    fn level() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["a", "b", "", "$s", "c"])
    }

    fn topics() -> impl Strategy<Value = String> {
        prop::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/"))
    }

    fn filters() -> impl Strategy<Value = String> {
        let level = prop::sample::select(vec!["a", "b", "", "$s", "c", "+"]);
        (prop::collection::vec(level, 0..5), any::<bool>()).prop_map(|(mut levels, hash)| {
            if hash || levels.is_empty() {
                levels.push("#");
            }
            levels.join("/")
        })
    }

    proptest! {
        #[test]
        fn a_trie_finds_what_comparing_one_by_one_finds(
            filters in prop::collection::vec(filters(), 1..30),
            removed in prop::collection::vec(any::<bool>(), 30),
            topic in topics(),
        ) {
            let mut trie = Trie::default();
            for (holder, filter) in filters.iter().enumerate() {
                prop_assert!(!trie.insert(filter, holder as u64, holder));
                prop_assert!(trie.insert(filter, holder as u64, holder));
            }
            let mut kept = Vec::new();
            for (holder, filter) in filters.iter().enumerate() {
                if removed[holder] {
                    prop_assert!(trie.remove(filter, holder as u64));
                    prop_assert!(!trie.remove(filter, holder as u64));
                } else if topic::matches(filter, &topic) {
                    kept.push(holder);
                }
            }
            let mut found = Vec::new();
            trie.matches(&topic, &mut |_, holder| found.push(*holder));
            found.sort_unstable();
            prop_assert_eq!(found, kept);
            for (holder, filter) in filters.iter().enumerate() {
                trie.remove(filter, holder as u64);
            }
            prop_assert!(trie.is_empty(), "removed filters leave no nodes behind");
        }
    }
}
