use std::io;
use std::sync::{Arc, mpsc};
use std::thread::ThreadId;
use std::time::Duration;

use argon2::password_hash::phc::{Output, Salt};
use argon2::{Algorithm, Argon2, Block, Params, PasswordHash, Version};
use base::watch::Thread;
use base::{Base, Entropy};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

pub(crate) use self::guessable::Leaked;
use crate::{Config, Error, Identity};

mod guessable;

const OF_ACCOUNT: (usize, &str) = (10, "must have at least 10 characters");
/// For whoever only uses what an organisation offers (NIST SP 800-63B, 5.1.1.2).
const OF_USER: (usize, &str) = (8, "must have at least 8 characters");
const BYTES_MAX: usize = 1_024;
/// A row that asks for more is damaged.
pub(crate) const MEMORY_KIB_MAX: u32 = 1 << 20;
/// How long a thread waits with its memory for the next password.
const IDLE_MAX: Duration = Duration::from_secs(1);

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
    lasts: Lasts,
    patience: Duration,
    checks: Counter,
    hashes: Counter,
    hurried: Counter,
}

/// The list of leaked passwords, if one is named.
pub(crate) fn leaked(config: &Config) -> Result<Option<Arc<Leaked>>, Error> {
    let path = &config.leaked_passwords;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let leaked = Leaked::open(path).map(Arc::new).map(Some);
    leaked.map_err(|error| Error::Config(format!("leaked_passwords {}: {error}", path.display())))
}

fn check_length(password: &str, (least, why): (usize, &'static str)) -> Result<(), Error> {
    if password.chars().count() < least {
        return Err(Error::Password(why));
    }
    // Hashing a long one would be an attack.
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
            lasts: Lasts { idle: Arc::default(), idle_max: IDLE_MAX },
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
        self.run(&self.hashes, move |memory| {
            let made = PasswordHash {
                algorithm: Algorithm::Argon2id.ident(),
                version: Some(Version::V0x13.into()),
                params: argon2.params().try_into().map_err(not_hashed)?,
                salt: Some(Salt::new(&salt).map_err(not_hashed)?),
                hash: Some(output(&argon2, password.as_bytes(), &salt, memory)?),
            };
            Ok(made.to_string())
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
        let password = password.to_owned();
        self.run(&self.checks, move |memory| {
            let stored = || Error::Stored("hash of a password");
            let hash = PasswordHash::new(&hash).map_err(|_| stored())?;
            let argon2 = argon2_of(&hash).ok_or_else(stored)?;
            let (salt, wanted) = hash.salt.zip(hash.hash).ok_or_else(stored)?;
            // Compared in the same time whatever differs.
            Ok(output(&argon2, password.as_bytes(), &salt, memory)? == wanted && exists)
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        counter: &Counter,
        work: impl Fn(&mut Memory) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| Error::Busy)?;
        let turn = self.running.clone().acquire_owned().await;
        let turn = turn.expect("the semaphore is never closed");
        counter.inc();
        // The place is held until the work is over, also when nobody waits for it any more.
        let work = Arc::new(move |memory: &mut Memory| {
            let _place = &place;
            work(memory)
        });
        let Ok(aside) = self.aside.clone().try_acquire_owned() else {
            self.hurried.inc();
            return hurry(turn, work).await;
        };
        let mut last = match self.run_last(aside, work.clone()) {
            Ok(last) => last,
            Err(error) => {
                tracing::warn!(%error, "no thread for passwords was to be had");
                self.hurried.inc();
                return hurry(turn, work).await;
            }
        };
        let panicked = |_| Error::Hash("it panicked".into());
        if let Ok(result) = tokio::time::timeout(self.patience, &mut last).await {
            return result.map_err(panicked)?;
        }
        self.hurried.inc();
        tokio::select! {
            result = last => result.map_err(panicked)?,
            result = hurry(turn, work) => result,
        }
    }

    fn run_last<T: Send + 'static>(
        &self,
        aside: OwnedSemaphorePermit,
        work: Arc<impl Fn(&mut Memory) -> Result<T, Error> + Send + Sync + 'static>,
    ) -> io::Result<oneshot::Receiver<Result<T, Error>>> {
        let (done, result) = oneshot::channel();
        self.lasts.run(Box::new(move |memory| {
            let result = work(memory);
            Box::new(move || {
                drop((work, aside));
                // Nobody waits where it was made once more and that was quicker.
                done.send(result).ok();
            })
        }))?;
        Ok(result)
    }
}

async fn hurry<T: Send + 'static>(
    turn: OwnedSemaphorePermit,
    work: Arc<impl Fn(&mut Memory) -> Result<T, Error> + Send + Sync + 'static>,
) -> Result<T, Error> {
    let result = tokio::task::spawn_blocking(move || {
        let result = work(&mut Memory::new());
        drop((work, turn));
        result
    });
    result.await.map_err(|error| Error::Hash(error.to_string()))?
}

/// What Argon2 fills.
type Memory = Vec<Block>;
/// Gives what says that it is over, once its thread can take another.
type Job = Box<dyn FnOnce(&mut Memory) -> Box<dyn FnOnce()> + Send>;

/// Threads that run last of all, as many as there are jobs at once. Each keeps its memory while there is work: to give it back and
/// to take it anew for each job would hold up whoever in this process maps memory at the same time.
#[derive(Clone)]
struct Lasts {
    idle: Arc<Mutex<Vec<Idle>>>,
    idle_max: Duration,
}

/// One that waits for its next job.
struct Idle {
    thread: ThreadId,
    jobs: mpsc::Sender<Job>,
}

impl Lasts {
    fn run(&self, mut job: Job) -> io::Result<()> {
        // One that ended by a panic takes nothing any more.
        while let Some(idle) = { self.idle.lock().pop() } {
            match idle.jobs.send(job) {
                Ok(()) => return Ok(()),
                Err(mpsc::SendError(back)) => job = back,
            }
        }
        let all = self.clone();
        std::thread::Builder::new().name("password".into()).spawn(move || all.work(job)).map(drop)
    }

    fn work(&self, first: Job) {
        Thread::current().slow();
        let thread = std::thread::current().id();
        let (jobs, given) = mpsc::channel();
        let mut memory = Memory::new();
        let mut next = Some(first);
        loop {
            if let Some(job) = next.take() {
                let over = job(&mut memory);
                self.idle.lock().push(Idle { thread, jobs: jobs.clone() });
                over();
            }
            next = given.recv_timeout(self.idle_max).ok();
            // Whoever has taken it out of the idle ones is about to give it a job.
            if next.is_none() && self.leave(thread) {
                return;
            }
        }
    }

    /// Whether it was idle, and is not to be had any more.
    fn leave(&self, thread: ThreadId) -> bool {
        let mut idle = self.idle.lock();
        let place = idle.iter().position(|one| one.thread == thread);
        place.map(|place| idle.swap_remove(place)).is_some()
    }
}

fn argon2_of(hash: &PasswordHash) -> Option<Argon2<'static>> {
    let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok()?;
    let version = hash.version.map(Version::try_from).transpose().ok()?.unwrap_or_default();
    let params = Params::try_from(hash).ok()?;
    (params.m_cost() <= MEMORY_KIB_MAX).then(|| Argon2::new(algorithm, version, params))
}

fn output(
    argon2: &Argon2<'_>,
    password: &[u8],
    salt: &[u8],
    memory: &mut Memory,
) -> Result<Output, Error> {
    let count = argon2.params().block_count();
    memory.try_reserve_exact(count.saturating_sub(memory.len())).map_err(not_hashed)?;
    memory.resize(count, Block::default());
    let length = argon2.params().output_len().unwrap_or(Params::DEFAULT_OUTPUT_LEN);
    let mut out = vec![0; length];
    argon2.hash_password_into_with_memory(password, salt, &mut out, memory).map_err(not_hashed)?;
    Output::new(&out).map_err(not_hashed)
}

fn not_hashed(error: impl std::fmt::Display) -> Error {
    Error::Hash(error.to_string())
}

impl Identity {
    /// Whether the account of an address may have this password: long enough, and not what others guess first.
    pub(crate) async fn check_new(&self, password: &str, email: &str) -> Result<(), Error> {
        check_length(password, OF_ACCOUNT)?;
        self.check_guess(password, email).await
    }

    /// The same of whoever only uses what an organisation offers.
    pub(crate) async fn check_new_of_user(&self, password: &str, email: &str) -> Result<(), Error> {
        check_length(password, OF_USER)?;
        if !self.0.config.user_passwords_checked {
            return Ok(());
        }
        self.check_guess(password, email).await
    }

    async fn check_guess(&self, password: &str, email: &str) -> Result<(), Error> {
        let known = [email, self.0.origin.host(), "madang"];
        if let Some(reason) = guessable::reason(password, &known) {
            return Err(Error::Password(reason));
        }
        let Some(leaked) = self.0.leaked.clone() else { return Ok(()) };
        let password = password.to_owned();
        let unread = |error: String| {
            tracing::error!(%error, "the list of leaked passwords cannot be read");
            Error::LeakedUnread
        };
        match tokio::task::spawn_blocking(move || leaked.holds(&password)).await {
            Ok(Ok(true)) => {
                Err(Error::Password("leaked somewhere and is tried first: choose another"))
            }
            Ok(Ok(false)) => Ok(()),
            Ok(Err(error)) => Err(unread(error.to_string())),
            Err(error) => Err(unread(error.to_string())),
        }
    }

    /// The hash of a password that belongs to no account, such as a guest's, made as those of accounts are and with
    /// the same few at once.
    pub async fn hash_password(&self, password: &str) -> Result<String, Error> {
        check_length(password, (0, ""))?;
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
    async fn a_thread_hashes_again_and_leaves_with_its_memory() {
        let minute = Duration::from_mins(1);
        let config = Config { hash_at_once: 2, hash_patience: minute, ..Config::default() };
        let (mut hasher, _) = hasher(&config);
        let idle = |hasher: &Hasher| {
            hasher.lasts.idle.lock().iter().map(|one| one.thread).collect::<Vec<_>>()
        };
        hasher.lasts.idle_max = minute;
        for _ in 0..3 {
            hasher.hash("correct horse").await.unwrap();
        }
        let first = idle(&hasher);
        assert_eq!(first.len(), 1);
        let (one, two) = tokio::join!(hasher.hash("one"), hasher.hash("two"));
        assert!(one.is_ok() && two.is_ok());
        let both = idle(&hasher);
        assert!(both.len() == 2 && both.contains(&first[0]));
        // These wait for a minute; others leave at once.
        hasher.lasts = Lasts { idle: Arc::default(), idle_max: Duration::ZERO };
        assert!(hasher.hash("three").await.is_ok());
        let clock = Base::system().clock;
        let gone = async {
            while !idle(&hasher).is_empty() {
                clock.sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(minute, gone).await.unwrap();
        assert!(hasher.hash("four").await.is_ok());
    }

    #[tokio::test]
    async fn a_stored_hash_that_wants_all_memory_is_an_error() {
        let (hasher, _) = hasher(&Config::default());
        let salt = "A".repeat(22);
        let hash = format!("$argon2id$v=19$m=4294967295,t=1,p=1${salt}${}", "A".repeat(43));
        let asked = hasher.verify("correct horse", Some(&hash)).await;
        assert!(matches!(asked, Err(Error::Stored(_))), "{asked:?}");
    }

    #[tokio::test]
    async fn a_job_that_panics_ends_its_thread_and_no_other() {
        let (hasher, _) = hasher(&Config::default());
        let panics = hasher.run(&hasher.hashes, |_| -> Result<(), Error> { panic!("on purpose") });
        assert!(matches!(panics.await, Err(Error::Hash(_))));
        assert!(hasher.lasts.idle.lock().is_empty());
        assert!(hasher.hash("correct horse").await.is_ok());
    }

    #[tokio::test]
    async fn a_hash_made_with_other_settings_is_still_known() {
        let (old, _) =
            hasher(&Config { hash_memory_kib: 8_192, hash_passes: 3, ..Config::default() });
        let (new, _) = hasher(&Config::default());
        let hash = old.hash("correct horse").await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=8192,t=3,p=1$"), "{hash}");
        assert!(new.verify("correct horse", Some(&hash)).await.unwrap());
        assert!(!new.verify("correct horsE", Some(&hash)).await.unwrap());
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
        let check = |password: &str| check_length(password, OF_ACCOUNT);
        assert!(check("123456789").is_err());
        assert!(check("비밀번호를정해주세요").is_ok());
        assert!(check(&"x".repeat(1_024)).is_ok());
        assert!(check(&"x".repeat(1_025)).is_err());
    }
}
