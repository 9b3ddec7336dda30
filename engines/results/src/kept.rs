//! Answers in kv: they outlast the process, and the nodes that have one kv share them. Nothing depends on what is there:
//! where kv is lost or slow, answers are computed, and an answer says itself what it was computed from.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use base::{Base, Clock, Entropy, OrganisationId, Tasks, Timestamp};
use bytes::Bytes;
use kv::{Keys, Kv, Value};
use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Config;
use crate::meter::Meter;
use crate::mirror::{Versions, covers};
use crate::question::Identity;

pub(crate) struct Store {
    kv: Kv,
    clock: Clock,
    entropy: Entropy,
    tasks: Tasks,
    meter: Arc<Meter>,
    config: Config,
    folder: Arc<str>,
    /// After a failure kv is left alone for a while, so that a lost one costs a question nothing.
    rests_until: Mutex<Option<Instant>>,
}

/// Where an answer stands.
#[derive(Clone)]
pub(crate) struct Spot {
    organisation: OrganisationId,
    /// What its key begins with: the rows it was computed from, and the release.
    folder: Arc<str>,
    name: String,
}

pub(crate) struct Answer {
    pub(crate) versions: Versions,
    pub(crate) until: Timestamp,
    pub(crate) bytes: Bytes,
}

pub(crate) enum Turn {
    /// Another node left it.
    Answered(Answer),
    /// Nobody else computes it while the right is there.
    Ours(Right),
    /// It is computed without the others: they take too long, or kv is lost.
    Alone,
}

/// Is renewed and in the end given back by a task, also when this is dropped.
pub(crate) struct Right {
    _ends_with_this: DropGuard,
}

/// Answers of another release may have another form.
const RELEASE: &str = env!("CARGO_PKG_VERSION");
/// The form of what is kept: until when, how many versions, the versions, the answer.
const FORM: u8 = 1;
const HEAD: usize = 1 + 8 + 4;
const KEEP: &str = include_str!("kept.lua");
/// The right belongs to who has the token.
const RENEW: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0";
const GIVE_BACK: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then
    return redis.call('DEL', KEYS[1])
end
return 0";
/// Renewals that fit into a right, so that some can fail.
const RENEWALS: u32 = 3;

impl Spot {
    fn key(&self) -> String {
        format!("{}{}", self.folder, self.name)
    }

    fn right(&self) -> String {
        format!("{}right:{}", self.folder, self.name)
    }
}

impl Store {
    pub(crate) fn new(
        config: &Config,
        base: &Base,
        (kv, place): (&Kv, String),
        meter: Arc<Meter>,
    ) -> Self {
        Self {
            folder: format!("results:{place}:{RELEASE}:").into(),
            kv: kv.clone(),
            clock: base.clock.clone(),
            entropy: base.entropy.clone(),
            tasks: base.tasks.clone(),
            meter,
            config: config.clone(),
            rests_until: Mutex::default(),
        }
    }

    pub(crate) fn spot(&self, identity: &Identity) -> Spot {
        let mut name = String::with_capacity(64);
        for byte in identity.digest() {
            write!(name, "{byte:02x}").expect("writing to a string cannot fail");
        }
        Spot { organisation: identity.organisation, folder: self.folder.clone(), name }
    }

    /// The answer that is kept, whatever it was computed from; none where kv does not say.
    pub(crate) async fn find(&self, spot: &Spot) -> Option<Answer> {
        let keys = self.keys(spot);
        let kept = self.asked(keys.get(spot.key())).await??;
        let answer = read(kept)?;
        let now = self.clock.now();
        (now < answer.until && answer.until <= now.plus(self.config.ttl_max)).then_some(answer)
    }

    /// Waits until an answer is there that covers `wanted`, or the caller may compute it.
    pub(crate) async fn turn(&self, spot: &Spot, wanted: &[i64]) -> Turn {
        let began = self.clock.instant();
        let token = format!("{:032x}", u128::from_le_bytes(self.entropy.bytes()));
        let lasts = self.config.shared_lease;
        loop {
            let keys = self.keys(spot);
            match self.asked(keys.set_new(spot.right(), &token, lasts)).await {
                None => return Turn::Alone,
                Some(true) => {
                    let right = self.hold(keys, spot.right(), token);
                    // Another node may have finished between the look and the right.
                    let found = self.find(spot).await;
                    let found = found.filter(|answer| covers(&answer.versions, wanted));
                    return found.map_or(Turn::Ours(right), Turn::Answered);
                }
                Some(false) => {}
            }
            if self.clock.instant() - began >= self.config.shared_wait_max {
                tracing::warn!(answer = spot.name, "another node takes too long for an answer");
                return Turn::Alone;
            }
            self.clock.sleep(self.config.shared_look).await;
            let found = self.find(spot).await;
            if let Some(answer) = found.filter(|answer| covers(&answer.versions, wanted)) {
                return Turn::Answered(answer);
            }
        }
    }

    /// Keeps an answer in the place of the former one, if there is room for it.
    pub(crate) async fn keep(&self, spot: &Spot, answer: &Answer) {
        let now = self.clock.now();
        let lasts = answer.until.since(now);
        let is_small = answer.bytes.len() as u64 <= self.config.kept_value_bytes_max;
        if !is_small || lasts.is_zero() || self.config.kept_entries_max == 0 {
            return;
        }
        let folder = &*self.folder;
        let names = [spot.key(), format!("{folder}ends"), format!("{folder}sizes")];
        let args = [
            spot.name.clone().into_bytes(),
            written(answer),
            number(&now.millis()),
            number(&lasts.as_millis().max(1)),
            number(&answer.until.millis()),
            number(&self.config.kept_entries_max),
            number(&self.config.kept_bytes_max),
            number(&self.config.ttl_max.as_millis().max(1)),
        ];
        let keys = self.keys(spot);
        if let Some(kept) = self.asked(keys.script(KEEP, &names, &args)).await {
            if kept == Value::Integer(1) {
                self.meter.stored.inc();
            } else {
                self.meter.no_room.inc();
            }
        }
    }

    fn keys(&self, spot: &Spot) -> Keys {
        self.kv.keys(spot.organisation)
    }

    /// What kv said, in time; a failure is counted and lets it rest.
    async fn asked<T>(&self, asking: impl Future<Output = Result<T, kv::Error>>) -> Option<T> {
        let rests = self.rests_until.lock().is_some_and(|until| self.clock.instant() < until);
        if rests {
            return None;
        }
        let limit = self.config.kept_wait_max;
        let error = match tokio::time::timeout(limit, asking).await {
            Ok(Ok(said)) => return Some(said),
            Ok(Err(kv::Error::Reply(text))) => {
                // It is there, and has no room, or takes no writes.
                self.meter.kept_failures.inc();
                tracing::debug!(text, "kv refuses what concerns an answer");
                return None;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {limit:?}"),
        };
        self.meter.kept_failures.inc();
        tracing::warn!(error, "kv is left alone for a while: answers are computed");
        *self.rests_until.lock() = Some(self.clock.instant() + self.config.kept_rest);
        None
    }

    fn hold(&self, keys: Keys, name: String, token: String) -> Right {
        let ended = CancellationToken::new();
        let right = Right { _ends_with_this: ended.clone().drop_guard() };
        let (clock, lasts) = (self.clock.clone(), self.config.shared_lease);
        self.tasks.spawn("results_right", async move {
            let millis = lasts.as_millis().max(1).to_string();
            let renew = async {
                loop {
                    clock.sleep(lasts / RENEWALS).await;
                    match keys.script(RENEW, &[&name], &[&token, &millis]).await {
                        Ok(Value::Integer(0)) => return,
                        Ok(_) => {}
                        Err(error) => tracing::debug!(%error, "a right could not be renewed"),
                    }
                }
            };
            tokio::select! {
                () = renew => return,
                () = ended.cancelled() => {}
            }
            if let Err(error) = keys.script(GIVE_BACK, &[&name], &[&token]).await {
                tracing::debug!(%error, "a right stays until it runs out");
            }
        });
        right
    }
}

fn number(number: &impl ToString) -> Vec<u8> {
    number.to_string().into_bytes()
}

fn written(answer: &Answer) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + answer.versions.len() * 8 + answer.bytes.len());
    bytes.push(FORM);
    bytes.extend_from_slice(&answer.until.micros().to_le_bytes());
    let count = u32::try_from(answer.versions.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&count.to_le_bytes());
    answer.versions.iter().for_each(|version| bytes.extend_from_slice(&version.to_le_bytes()));
    bytes.extend_from_slice(&answer.bytes);
    bytes
}

/// Nothing for what has another form.
fn read(bytes: Vec<u8>) -> Option<Answer> {
    let bytes = Bytes::from(bytes);
    let (form, rest) = bytes.split_first_chunk::<1>()?;
    let (until, rest) = rest.split_first_chunk::<8>()?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*count)).ok()?.checked_mul(8)?;
    let (versions, _) = rest.split_at_checked(length)?;
    let (versions, _) = versions.as_chunks::<8>();
    let versions = versions.iter().map(|version| i64::from_le_bytes(*version)).collect();
    let until = Timestamp::from_micros(i64::from_le_bytes(*until));
    (form[0] == FORM).then(|| Answer { versions, until, bytes: bytes.slice(HEAD + length..) })
}

/// How long a right lasts that was taken by one who then stopped.
#[cfg(test)]
pub(crate) async fn take_right(store: &Store, spot: &Spot) -> bool {
    let taken = store.keys(spot).set_new(spot.right(), "stopped", store.config.shared_lease).await;
    taken.expect("kv is there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_it_was_written_and_anything_else_is_none() {
        let until = Timestamp::from_micros(1_234_567_890_123);
        let answer = Answer { versions: vec![-1, i64::MAX], until, bytes: "한글".into() };
        let bytes = written(&answer);
        let found = read(bytes.clone()).unwrap();
        assert_eq!((found.versions, found.until), (answer.versions, until));
        assert_eq!(found.bytes, answer.bytes);
        for length in 0..HEAD + 16 {
            assert!(read(bytes[..length].to_vec()).is_none(), "{length}");
        }
        let mut other = bytes;
        other[0] = 2;
        assert!(read(other).is_none());
    }
}
