use std::hash::{Hash, Hasher};
use std::time::Duration;

use base::OrganisationId;
use hashbrown::Equivalent;
use sha2::{Digest, Sha256};

use crate::{Config, Error};

/// What is asked, what its answer depends on, and how long the answer may be kept.
///
/// The key must hold everything that makes answers differ, also the rights of who asks, where they matter.
/// The subjects must name everything of the rows that the computation reads.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    name: &'static str,
    key: &'a str,
    subjects: &'a [&'a str],
    ttl: Duration,
    sharing: Sharing,
    is_by_time: bool,
}

/// Who computes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// The callers of this process.
    Process,
    /// Also those of every other node on the same database and kv.
    Nodes,
}

impl<'a> Question<'a> {
    /// `name` is the kind of question and stands in metrics; `subjects` is what `bump` is told when rows
    /// change. The same question names the same subjects in the same order.
    pub const fn new(
        name: &'static str,
        key: &'a str,
        subjects: &'a [&'a str],
        ttl: Duration,
    ) -> Self {
        Self { name, key, subjects, ttl, sharing: Sharing::Process, is_by_time: false }
    }

    /// A question about what has no version, such as another server: its answer is as old as `ttl` allows.
    pub const fn by_time(name: &'static str, key: &'a str, ttl: Duration) -> Self {
        Self { name, key, subjects: &[], ttl, sharing: Sharing::Process, is_by_time: true }
    }

    /// One node computes for all that have one kv: the others wait for its answer there. It costs some commands
    /// of kv, so it is for what takes longer than that.
    #[must_use]
    pub const fn shared(mut self) -> Self {
        self.sharing = Sharing::Nodes;
        self
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    pub(crate) fn sharing(&self) -> Sharing {
        self.sharing
    }

    pub(crate) fn check(&self, config: &Config) -> Result<(), Error> {
        let refused = |problem: String| Err(Error::Question(problem));
        if self.subjects.is_empty() && !self.is_by_time {
            return refused(format!("{} names no subject that it depends on", self.name));
        }
        if self.key.len() > config.key_bytes_max {
            let most = config.key_bytes_max;
            return refused(format!("a key of {} is longer than {most} bytes", self.name));
        }
        if self.subjects.len() > config.question_subjects_max {
            let most = config.question_subjects_max;
            return refused(format!("{} depends on more than {most} subjects", self.name));
        }
        match self.subjects.iter().find(|subject| !is_subject(subject)) {
            Some(subject) => refused(format!("{subject:?} is no subject: {SUBJECT_RULE}")),
            None => Ok(()),
        }
    }

    pub(crate) fn of(&self, organisation: OrganisationId) -> Asked<'a> {
        Asked { organisation, name: self.name, key: self.key, subjects: self.subjects }
    }
}

pub(crate) const SUBJECT_BYTES_MAX: usize = 128;
pub(crate) const SUBJECT_RULE: &str = "a subject has 1 to 128 bytes";

pub(crate) fn is_subject(subject: &str) -> bool {
    (1..=SUBJECT_BYTES_MAX).contains(&subject.len())
}

/// What makes two questions the same one, borrowed from a caller.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) organisation: OrganisationId,
    pub(crate) name: &'static str,
    pub(crate) key: &'a str,
    pub(crate) subjects: &'a [&'a str],
}

/// The same, kept.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) organisation: OrganisationId,
    pub(crate) name: &'static str,
    pub(crate) key: Box<str>,
    pub(crate) subjects: Box<[Box<str>]>,
}

impl Asked<'_> {
    pub(crate) fn kept(&self) -> Identity {
        Identity {
            organisation: self.organisation,
            name: self.name,
            key: self.key.into(),
            subjects: self.subjects.iter().map(|subject| Box::from(*subject)).collect(),
        }
    }
}

impl Identity {
    /// Memory that its text takes.
    pub(crate) fn bytes(&self) -> usize {
        let subjects: usize = self.subjects.iter().map(|s| s.len() + size_of::<Box<str>>()).sum();
        self.key.len() + subjects
    }

    /// Names the question in kv: SHA-256 over every part with its length.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let parts = [self.name, &*self.key].into_iter();
        for part in parts.chain(self.subjects.iter().map(|subject| &**subject)) {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }
}

// Both hash and compare alike, so that a look-up copies nothing.
impl Hash for Asked<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.organisation.hash(state);
        self.name.hash(state);
        self.key.hash(state);
        for subject in self.subjects {
            subject.hash(state);
        }
    }
}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.organisation.hash(state);
        self.name.hash(state);
        self.key.hash(state);
        for subject in &self.subjects {
            subject.hash(state);
        }
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.organisation == other.organisation
            && self.name == other.name
            && self.key == other.key
            && self.subjects == other.subjects
    }
}

impl Eq for Identity {}

impl<K: AsRef<Identity>> Equivalent<K> for Asked<'_> {
    fn equivalent(&self, kept: &K) -> bool {
        let kept = kept.as_ref();
        self.organisation == kept.organisation
            && self.name == kept.name
            && *self.key == *kept.key
            && self.subjects.len() == kept.subjects.len()
            && self.subjects.iter().zip(&kept.subjects).all(|(a, b)| **a == **b)
    }
}
