use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::PasswordHasher;
use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordVerifier, Version};
use base::watch::Thread;
use base::{Base, Entropy};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::{Config, Error, Identity};

const CHARACTERS_MIN: usize = 10;
const USER_CHARACTERS_MIN: usize = 8;
const BYTES_MAX: usize = 1_024;

/// Hashes passwords with Argon2id, a few at once, on threads that run last of all: a hash takes tens of milliseconds, and whoever wakes up
/// meanwhile, a door, a handler, a database beside, would wait for a core. A hash that gets too little time so is made once more
/// with the priority of other work, and so are the next ones until it has ended: log-ins end under any load.
pub(crate) struct Hasher {
    argon2: Argon2<'static>,
    entropy: Entropy,
    /// A hash that no password has, to spend the same work on an account that does not exist.
    nobody: Arc<str>,
    places: Arc<Semaphore>,
    running: Arc<Semaphore>,
    /// Of threads that run last, also of those for whose result nobody waits any more.
    aside: Arc<Semaphore>,
    patience: Duration,
    checks: Counter,
    hashes: Counter,
    hurried: Counter,
}

/// A password that is long enough, and not so long that hashing it is an attack.
pub(crate) fn check(password: &str) -> Result<(), Error> {
    if password.chars().count() < CHARACTERS_MIN {
        return Err(Error::Password("must have at least 10 characters"));
    }
    check_length(password)
}

/// The same for whoever only uses what an organisation offers (NIST SP 800-63B, 5.1.1.2).
pub(crate) fn check_of_user(password: &str) -> Result<(), Error> {
    if password.chars().count() < USER_CHARACTERS_MIN {
        return Err(Error::Password("must have at least 8 characters"));
    }
    check_length(password)
}

fn check_length(password: &str) -> Result<(), Error> {
    if password.len() > BYTES_MAX {
        return Err(Error::Password("must have at most 1024 bytes"));
    }
    Ok(())
}

impl Hasher {
    pub(crate) fn new(config: &Config, base: &Base) -> Result<Self, Error> {
        let (memory, passes) = (config.hash_memory_kib, config.hash_passes);
        let params = Params::new(memory, passes, 1, Some(Params::DEFAULT_OUTPUT_LEN))
            .map_err(|error| Error::Config(error.to_string()))?;
        let nobody = format!(
            "$argon2id$v=19$m={memory},t={passes},p=1${}${}",
            "A".repeat(22),
            "A".repeat(43)
        );
        Ok(Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            entropy: base.entropy.clone(),
            nobody: nobody.into(),
            places: Arc::new(Semaphore::new(config.hash_at_once + config.hash_waiting_max)),
            running: Arc::new(Semaphore::new(config.hash_at_once)),
            aside: Arc::new(Semaphore::new(config.hash_at_once)),
            patience: config.hash_patience,
            checks: base.metrics.register(
                "identity_password_checks",
                "Passwords compared with a hash.",
                Counter::default(),
            ),
            hashes: base.metrics.register(
                "identity_password_hashes",
                "New passwords that were hashed.",
                Counter::default(),
            ),
            hurried: base.metrics.register(
                "identity_password_hurries",
                "Hashes of passwords that were made with the priority of other work, for want of time.",
                Counter::default(),
            ),
        })
    }

    /// The hash as a PHC string, with a salt of its own.
    pub(crate) async fn hash(&self, password: &str) -> Result<String, Error> {
        let (argon2, password) = (self.argon2.clone(), password.to_owned());
        let salt = self.entropy.bytes::<16>();
        self.run(&self.hashes, move || {
            let hash: PasswordHash = argon2
                .hash_password_with_salt(password.as_bytes(), &salt)
                .map_err(|error| Error::Hash(error.to_string()))?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Whether the password is the one; as much work without a hash as with one.
    pub(crate) async fn verify(&self, password: &str, hash: Option<&str>) -> Result<bool, Error> {
        if password.len() > BYTES_MAX {
            return Ok(false);
        }
        let exists = hash.is_some();
        let hash = hash.unwrap_or(&self.nobody).to_owned();
        let (argon2, password) = (self.argon2.clone(), password.to_owned());
        self.run(&self.checks, move || {
            let hash = PasswordHash::new(&hash).map_err(|_| Error::Stored("hash of a password"))?;
            let is_right = argon2.verify_password(password.as_bytes(), &hash).is_ok();
            Ok(is_right && exists)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        counter: &Counter,
        work: impl Fn() -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| Error::Busy)?;
        let turn = self.running.clone().acquire_owned().await;
        let turn = turn.expect("the semaphore is never closed");
        counter.inc();
        // The place is held until the work is over, also when nobody waits for it any more.
        let work = Arc::new(move || {
            let _place = &place;
            work()
        });
        let Ok(aside) = self.aside.clone().try_acquire_owned() else {
            self.hurried.inc();
            return hurry(turn, work).await;
        };
        let mut last = pin!(run_last(aside, work.clone()));
        if let Ok(result) = tokio::time::timeout(self.patience, &mut last).await {
            return result;
        }
        self.hurried.inc();
        tokio::select! {
            result = last => result,
            result = hurry(turn, work) => result,
        }
    }
}

/// On a thread of its own, since one that runs last stays so.
async fn run_last<T: Send + 'static>(
    aside: OwnedSemaphorePermit,
    work: Arc<impl Fn() -> Result<T, Error> + Send + Sync + 'static>,
) -> Result<T, Error> {
    let (done, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("password".into()).spawn(move || {
        Thread::current().slow();
        let result = work();
        drop((work, aside));
        // Nobody waits where it was made once more and that was quicker.
        done.send(result).ok();
    });
    thread.map_err(|error| Error::Hash(error.to_string()))?;
    result.await.map_err(|_| Error::Hash("it panicked".into()))?
}

async fn hurry<T: Send + 'static>(
    turn: OwnedSemaphorePermit,
    work: Arc<impl Fn() -> Result<T, Error> + Send + Sync + 'static>,
) -> Result<T, Error> {
    let result = tokio::task::spawn_blocking(move || {
        let result = work();
        drop((work, turn));
        result
    });
    result.await.map_err(|error| Error::Hash(error.to_string()))?
}

impl Identity {
    /// The hash of a password that belongs to no account, such as a guest's, made as those of accounts are and with
    /// the same few at once.
    pub async fn hash_password(&self, password: &str) -> Result<String, Error> {
        check_length(password)?;
        self.0.hasher.hash(password).await
    }

    /// Whether it is the password of that hash; as much work without a hash as with one.
    pub async fn is_password(&self, password: &str, hash: Option<&str>) -> Result<bool, Error> {
        self.0.hasher.verify(password, hash).await
    }
}

#[cfg(test)]
mod tests {
    use base::Timestamp;

    use super::*;

    fn hasher(config: &Config) -> (Hasher, Base) {
        let base = Base::simulated(Timestamp::from_millis(0), 3);
        (Hasher::new(config, &base).unwrap(), base)
    }

    #[tokio::test]
    async fn a_password_is_known_by_its_hash_only() {
        let (hasher, _) = hasher(&Config::default());
        let hash = hasher.hash("correct horse").await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert!(hasher.verify("correct horse", Some(&hash)).await.unwrap());
        assert!(!hasher.verify("correct horsE", Some(&hash)).await.unwrap());
        assert_ne!(hash, hasher.hash("correct horse").await.unwrap(), "each has its own salt");
        let error = hasher.verify("correct horse", Some("plain")).await.unwrap_err();
        assert!(matches!(error, Error::Stored(_)), "{error}");
    }

    #[tokio::test]
    async fn nobody_costs_as_much_as_somebody() {
        let (hasher, base) = hasher(&Config::default());
        assert!(!hasher.verify("", None).await.unwrap());
        assert!(base.metrics.text().contains("identity_password_checks_total 1"));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_empties() {
        let config = Config { hash_at_once: 1, hash_waiting_max: 1, ..Config::default() };
        let (hasher, _) = hasher(&config);
        let (first, second, third) =
            tokio::join!(hasher.hash("one"), hasher.hash("two"), hasher.hash("three"));
        assert!(first.is_ok() && second.is_ok());
        assert!(matches!(third, Err(Error::Busy)));
        assert!(hasher.hash("three").await.is_ok());
    }

    #[tokio::test]
    async fn a_hash_that_gets_no_time_is_made_once_more() {
        let config = Config {
            hash_at_once: 1,
            hash_waiting_max: 1,
            hash_patience: Duration::ZERO,
            ..Config::default()
        };
        let (hasher, base) = hasher(&config);
        let says = |text: &str| assert!(base.metrics.text().contains(text), "{text}");
        let hash = hasher.hash("correct horse").await.unwrap();
        says("identity_password_hurries_total 1");
        says("identity_password_hashes_total 1");
        // Until the one that runs last is over, the next ones do not wait for it; nor is there a place more.
        let aside = hasher.aside.clone().acquire_owned().await.unwrap();
        assert!(hasher.verify("correct horse", Some(&hash)).await.unwrap());
        says("identity_password_hurries_total 2");
        drop(aside);
        let patient = Config { hash_patience: Duration::from_mins(1), ..config };
        let (hasher, base) = self::hasher(&patient);
        assert!(hasher.verify("correct horse", Some(&hash)).await.unwrap());
        assert!(base.metrics.text().contains("identity_password_hurries_total 0"));
    }

    #[test]
    fn passwords_have_a_shortest_and_a_longest() {
        assert!(check("123456789").is_err());
        assert!(check("비밀번호를정해주세요").is_ok());
        assert!(check(&"x".repeat(1_024)).is_ok());
        assert!(check(&"x".repeat(1_025)).is_err());
    }
}
