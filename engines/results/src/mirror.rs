//! What this process knows of versions without asking the rows. It does no I/O.
//!
//! A transaction that bumps a subject makes it doubtful *before* it commits, for nobody here is told the
//! moment of the commit. A doubtful subject's version is asked of the rows by every question, and is known
//! again once the rows show the bump, or once a later write was acknowledged, after which the fate of every
//! earlier one is decided.

use std::collections::HashMap;

use base::OrganisationId;
use parking_lot::RwLock;

/// One version per subject of a question, in its order.
pub(crate) type Versions = Vec<i64>;

/// Whether what was computed from `have` is as new as `wanted`.
pub(crate) fn covers(have: &[i64], wanted: &[i64]) -> bool {
    have.len() == wanted.len() && have.iter().zip(wanted).all(|(have, wanted)| have >= wanted)
}

pub(crate) struct Mirror {
    subjects_max: usize,
    doubts_max: usize,
    state: RwLock<State>,
}

/// A subject is in at most one of the two maps.
#[derive(Default)]
struct State {
    known: Subjects<i64>,
    doubts: Subjects<Doubt>,
    /// Grows with each bump.
    stamp: u64,
    /// Grows whenever something is forgotten, so that rows read before cannot be taken for news after.
    forgettings: u64,
    /// Too much was in doubt at this stamp: until it is settled, nothing is learnt.
    blind: Option<u64>,
}

/// A bump to `version` ran and may commit.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    version: i64,
    stamp: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    Known(Versions),
    /// The rows have to be asked; what they say is taken with this ticket.
    Ask(Ticket),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    forgettings: u64,
}

/// What became of what the rows said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Learned {
    All,
    /// A bump may still commit, or was rolled back.
    InDoubt,
}

impl Mirror {
    pub(crate) fn new(subjects_max: usize, doubts_max: usize) -> Self {
        Self { subjects_max, doubts_max, state: RwLock::default() }
    }

    pub(crate) fn look<S: AsRef<str>>(&self, organisation: OrganisationId, asked: &[S]) -> Look {
        let state = self.state.read();
        let known = |subject: &S| state.known.get(organisation, subject.as_ref()).copied();
        let versions: Option<Versions> = asked.iter().map(known).collect();
        versions.map_or(Look::Ask(Ticket { forgettings: state.forgettings }), Look::Known)
    }

    /// Takes what the rows said after the look that gave the ticket.
    pub(crate) fn learn<S: AsRef<str>>(
        &self,
        ticket: Ticket,
        organisation: OrganisationId,
        asked: &[S],
        versions: &[i64],
    ) -> Learned {
        let mut state = self.state.write();
        if state.blind.is_some() {
            return Learned::InDoubt;
        }
        let mut learned = Learned::All;
        for (subject, version) in asked.iter().zip(versions) {
            if !state.learn(ticket, organisation, subject.as_ref(), *version) {
                learned = Learned::InDoubt;
            }
        }
        if state.known.count > self.subjects_max {
            state.forgettings += 1;
            state.known = Subjects::default();
        }
        learned
    }

    /// A transaction set the subject's version and may commit.
    pub(crate) fn doubt(&self, organisation: OrganisationId, subject: &str, version: i64) {
        let mut state = self.state.write();
        state.stamp += 1;
        let stamp = state.stamp;
        state.known.remove(organisation, subject);
        state.doubts.put(organisation, subject, Doubt { version, stamp });
        if state.doubts.count > self.doubts_max {
            state.forgettings += 1;
            state.known = Subjects::default();
            state.doubts = Subjects::default();
            state.blind = Some(stamp);
        }
    }

    /// Everything that ran until now; for [`Mirror::settle`] after a write that began later was acknowledged.
    pub(crate) fn stamp(&self) -> u64 {
        self.state.read().stamp
    }

    /// Every bump up to `until` was committed or rolled back, which the rows show from now on.
    pub(crate) fn settle(&self, until: u64) {
        let mut state = self.state.write();
        state.forgettings += 1;
        state.blind = state.blind.filter(|stamp| *stamp > until);
        state.doubts.retain(|doubt| doubt.stamp > until);
    }
}

impl State {
    /// Says whether the version is known now.
    fn learn(
        &mut self,
        ticket: Ticket,
        organisation: OrganisationId,
        subject: &str,
        version: i64,
    ) -> bool {
        match self.doubts.get(organisation, subject) {
            Some(doubt) if version < doubt.version => return false,
            Some(_) => self.doubts.remove(organisation, subject),
            // What is known stays until somebody bumps, so it is as new as what the rows said.
            None if self.known.get(organisation, subject).is_some() => return true,
            // A bump that came since the look, and was forgotten since, may be newer than this.
            None if ticket.forgettings != self.forgettings => return true,
            None => {}
        }
        self.known.put(organisation, subject, version);
        true
    }
}

/// Something about each subject.
struct Subjects<T> {
    organisations: HashMap<OrganisationId, HashMap<Box<str>, T>>,
    count: usize,
}

impl<T> Default for Subjects<T> {
    fn default() -> Self {
        Self { organisations: HashMap::new(), count: 0 }
    }
}

impl<T> Subjects<T> {
    fn get(&self, organisation: OrganisationId, subject: &str) -> Option<&T> {
        self.organisations.get(&organisation)?.get(subject)
    }

    fn put(&mut self, organisation: OrganisationId, subject: &str, thing: T) {
        let subjects = self.organisations.entry(organisation).or_default();
        if let Some(place) = subjects.get_mut(subject) {
            *place = thing;
            return;
        }
        subjects.insert(subject.into(), thing);
        self.count += 1;
    }

    fn remove(&mut self, organisation: OrganisationId, subject: &str) {
        let Some(subjects) = self.organisations.get_mut(&organisation) else { return };
        if subjects.remove(subject).is_some() {
            self.count -= 1;
            if subjects.is_empty() {
                self.organisations.remove(&organisation);
            }
        }
    }

    fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        let mut count = 0;
        self.organisations.retain(|_, subjects| {
            subjects.retain(|_, thing| keep(thing));
            count += subjects.len();
            !subjects.is_empty()
        });
        self.count = count;
    }
}

#[cfg(test)]
mod tests;
