//! What each client of a store did, and what its keys must hold after so many deeds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use anyhow::{Result, bail};

use crate::resp::{Resp, Value, encoded};

/// The keys of one client after a number of deeds; the deeds follow from their numbers, so that a state is told by
/// one number. A deed that is lost, done twice, done in part or out of order leads to another state.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct State {
    counter: i64,
    text: String,
    list: VecDeque<String>,
    hash: BTreeMap<String, i64>,
    set: BTreeSet<String>,
    scores: BTreeMap<String, i64>,
    gives: i64,
    takes: i64,
    passing: Option<String>,
}

/// Deeds after which a list or a text that grew is cut.
const CUT: u64 = 500;

/// The requests of a client's deed; the last reply tells of all of them.
pub(super) fn deed(client: usize, number: u64) -> Vec<Vec<String>> {
    let key = |name: &str| format!("client:{client}:{name}");
    let text = number.to_string();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    match number % 10 {
        0 => vec![words(&["INCR", &key("counter")])],
        1 if number % CUT == 1 => vec![words(&["LTRIM", &key("list"), "-5", "-1"])],
        1 => vec![words(&["RPUSH", &key("list"), &text])],
        2 if number % CUT == 2 => vec![words(&["SET", &key("text"), "begin"])],
        2 => vec![words(&["APPEND", &key("text"), &text])],
        3 => vec![words(&["HINCRBY", &key("hash"), &format!("f{}", number % 7), "1"])],
        4 => vec![
            words(&["MULTI"]),
            words(&["INCRBY", &key("gives"), "3"]),
            words(&["DECRBY", &key("takes"), "3"]),
            words(&["EXEC"]),
        ],
        5 => vec![words(&["ZINCRBY", &key("scores"), "2", &format!("m{}", number % 11)])],
        6 => vec![words(&["LPOP", &key("list")])],
        7 if number % 20 == 7 => {
            vec![words(&["SET", &key("passing"), &text, "PXAT", "9999999999999"])]
        }
        7 => vec![words(&["DEL", &key("passing")])],
        8 => vec![words(&["SADD", &key("set"), &text])],
        _ => vec![words(&["SREM", &key("set"), &number.saturating_sub(41).to_string()])],
    }
}

/// The bytes of some deeds, and how many replies come for each.
pub(super) fn requests(client: usize, numbers: std::ops::Range<u64>) -> (Vec<u8>, Vec<usize>) {
    let (mut bytes, mut replies) = (Vec::new(), Vec::new());
    for number in numbers {
        let deed = deed(client, number);
        replies.push(deed.len());
        for request in deed {
            bytes.extend_from_slice(&encoded(&request));
        }
    }
    (bytes, replies)
}

impl State {
    /// Does the deed of this number.
    pub(super) fn apply(&mut self, number: u64) {
        let text = number.to_string();
        match number % 10 {
            0 => self.counter += 1,
            1 if number % CUT == 1 => {
                let surplus = self.list.len().saturating_sub(5);
                self.list.drain(..surplus);
            }
            1 => self.list.push_back(text),
            2 if number % CUT == 2 => self.text = "begin".into(),
            2 => self.text.push_str(&text),
            3 => *self.hash.entry(format!("f{}", number % 7)).or_default() += 1,
            4 => {
                self.gives += 3;
                self.takes -= 3;
            }
            5 => *self.scores.entry(format!("m{}", number % 11)).or_default() += 2,
            6 => drop(self.list.pop_front()),
            7 if number % 20 == 7 => self.passing = Some(text),
            7 => self.passing = None,
            8 => drop(self.set.insert(text)),
            _ => drop(self.set.remove(&number.saturating_sub(41).to_string())),
        }
    }

    /// What a store holds for a client.
    pub(super) fn read(store: &mut Resp, client: usize) -> Result<Self> {
        let key = |name: &str| format!("client:{client}:{name}");
        let mut list = |words: &[&str]| -> Result<Vec<String>> {
            match store.done(words)? {
                Value::Array(all) => all.into_iter().map(text_of).collect(),
                other => bail!("{words:?}: {other:?}"),
            }
        };
        let pairs = |all: Vec<String>| -> Result<BTreeMap<String, i64>> {
            all.chunks(2).map(|pair| Ok((pair[0].clone(), pair[1].parse()?))).collect()
        };
        let elements = list(&["LRANGE", &key("list"), "0", "-1"])?;
        let hash = pairs(list(&["HGETALL", &key("hash")])?)?;
        let set = list(&["SMEMBERS", &key("set")])?;
        let scores = pairs(list(&["ZRANGE", &key("scores"), "0", "-1", "WITHSCORES"])?)?;
        let mut one = |name: &str| -> Result<Option<String>> {
            match store.done(&["GET", &key(name)])? {
                Value::Null => Ok(None),
                other => text_of(other).map(Some),
            }
        };
        Ok(Self {
            counter: one("counter")?.map_or(Ok(0), |text| text.parse())?,
            text: one("text")?.unwrap_or_default(),
            list: elements.into(),
            hash,
            set: set.into_iter().collect(),
            scores,
            gives: one("gives")?.map_or(Ok(0), |text| text.parse())?,
            takes: one("takes")?.map_or(Ok(0), |text| text.parse())?,
            passing: one("passing")?,
        })
    }
}

fn text_of(value: Value) -> Result<String> {
    match value {
        Value::Bulk(bytes) => Ok(String::from_utf8(bytes)?),
        Value::Simple(text) => Ok(text),
        other => bail!("no text: {other:?}"),
    }
}

/// One client's deeds over all starts of a store.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    /// Deeds that are known to be done, and what they led to.
    pub(super) done: u64,
    state: State,
    /// Deeds that were acknowledged and that were sent since.
    pub(super) acknowledged: u64,
    pub(super) sent: u64,
}

impl History {
    /// Finds out which of the deeds that were sent are done. What was acknowledged must be; the others in their
    /// order, up to any of them. Gives what is wrong.
    pub(super) fn settle(&mut self, store: &mut Resp, client: usize) -> Result<Option<String>> {
        let found = State::read(store, client)?;
        let mut state = self.state.clone();
        for number in self.done..self.acknowledged {
            state.apply(number);
        }
        let expected = state.clone();
        for number in self.acknowledged..=self.sent {
            if state == found {
                self.state = state;
                (self.done, self.acknowledged, self.sent) = (number, number, number);
                return Ok(None);
            }
            state.apply(number);
        }
        let (done, sent) = (self.acknowledged, self.sent);
        Ok(Some(format!(
            "client {client}: {done} deeds acknowledged of {sent}; at least {expected:?}, found {found:?}"
        )))
    }
}
