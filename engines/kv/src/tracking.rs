//! Who keeps copies of which keys, and is told when they are not true any more (CLIENT TRACKING).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use indexmap::IndexMap;

use crate::engine::{DATABASES, Engine};
use crate::session::{Session, Token};

/// The channel that clients of RESP2 listen to.
const CHANNEL: &str = "__redis__:invalidate";
/// So many clients of one key are looked through for those that are gone.
const LOOK_THROUGH_MIN: usize = 16;

/// A key, or the beginning of keys, of an organisation, which is where its databases begin.
type Place = (usize, Box<[u8]>);

#[derive(Default)]
pub(crate) struct Trackers {
    /// By the numbers of their connections.
    clients: HashMap<u64, Tracker>,
    /// Who has read each key since it last changed.
    keys: IndexMap<Place, Vec<u64>>,
    /// Who wants to hear of all keys that begin so.
    prefixes: BTreeMap<Place, Prefix>,
}

#[derive(Default)]
struct Prefix {
    clients: BTreeSet<u64>,
    /// What changed since it was last told, and by whom.
    changed: IndexMap<Box<[u8]>, Option<u64>>,
}

/// How a client wants to be told.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub(crate) struct Wishes {
    pub(crate) redirect: Option<u64>,
    /// Of all keys with these beginnings, whether they were read or not.
    pub(crate) broadcasts: bool,
    pub(crate) prefixes: BTreeSet<Box<[u8]>>,
    /// Only of keys that are read after CLIENT CACHING YES.
    pub(crate) opts_in: bool,
    /// Not of keys that are read after CLIENT CACHING NO.
    pub(crate) opts_out: bool,
    /// Not of its own changes.
    pub(crate) no_loop: bool,
}

pub(crate) struct Tracker {
    token: Token,
    base: usize,
    pub(crate) wishes: Wishes,
    /// CLIENT CACHING was said before the command.
    pub(crate) caching: bool,
    redirect: Option<Token>,
    /// Whom it is told through is gone, and it knows.
    pub(crate) is_broken: bool,
}

/// What is not true any more.
enum Stale<'a> {
    Keys(&'a [Box<[u8]>]),
    All,
}

impl Trackers {
    pub(crate) fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    pub(crate) fn of(&self, id: u64) -> Option<&Tracker> {
        self.clients.get(&id)
    }

    pub(crate) fn of_mut(&mut self, id: u64) -> Option<&mut Tracker> {
        self.clients.get_mut(&id)
    }

    /// An organisation's clients, keys, clients of keys and prefixes.
    pub(crate) fn counts(&self, base: usize) -> [usize; 4] {
        let keys = || self.keys.iter().filter(|((of, _), _)| *of == base);
        [
            self.clients.values().filter(|client| client.base == base).count(),
            keys().count(),
            keys().map(|(_, clients)| clients.len()).sum(),
            self.prefixes.keys().filter(|(of, _)| *of == base).count(),
        ]
    }

    /// Lets a client track, or track in another way.
    pub(crate) fn start(&mut self, session: &Session, (wishes, redirect): (Wishes, Option<Token>)) {
        for prefix in &wishes.prefixes {
            let prefix = self.prefixes.entry((session.base, prefix.clone())).or_default();
            prefix.clients.insert(session.id);
        }
        let tracker = Tracker {
            token: session.token,
            base: session.base,
            wishes,
            caching: false,
            redirect,
            is_broken: false,
        };
        self.clients.insert(session.id, tracker);
    }

    /// Ends a client's tracking. Keys forget it when they change.
    pub(crate) fn stop(&mut self, id: u64) {
        let Some(tracker) = self.clients.remove(&id) else { return };
        for prefix in tracker.wishes.prefixes {
            let place = (tracker.base, prefix);
            if let Some(prefix) = self.prefixes.get_mut(&place) {
                prefix.clients.remove(&id);
                if prefix.clients.is_empty() {
                    self.prefixes.remove(&place);
                }
            }
        }
        if self.clients.is_empty() {
            self.keys = IndexMap::new();
        }
    }

    /// A connection is gone: nobody is told through it any more.
    pub(crate) fn leave(&mut self, id: u64) {
        self.stop(id);
        for tracker in
            self.clients.values_mut().filter(|tracker| tracker.wishes.redirect == Some(id))
        {
            tracker.redirect = None;
        }
    }

    fn add(&mut self, place: Place, id: u64) {
        let clients = &self.clients;
        let ids = self.keys.entry(place).or_default();
        if ids.contains(&id) {
            return;
        }
        if ids.len() >= LOOK_THROUGH_MIN && ids.len().is_power_of_two() {
            ids.retain(|id| clients.contains_key(id));
        }
        ids.push(id);
    }
}

impl Engine {
    /// Notes which keys a client has read.
    pub(crate) fn remember<'a>(&mut self, session: &Session, keys: impl Iterator<Item = &'a [u8]>) {
        let Some(tracker) = self.trackers.of(session.id) else { return };
        let wishes = &tracker.wishes;
        let is_left_out = (wishes.opts_in && !tracker.caching)
            || (wishes.opts_out && tracker.caching)
            || wishes.broadcasts;
        if is_left_out {
            return;
        }
        for key in keys {
            self.trackers.add((session.base, key.into()), session.id);
        }
    }

    /// Forgets keys that are more than the limit, which tells their clients.
    pub(crate) fn limit_tracking(&mut self) {
        while self.trackers.keys.len() > self.settings.tracked_keys_max {
            let chance = self.chance() as usize % self.trackers.keys.len();
            if let Some((place, ids)) = self.trackers.keys.swap_remove_index(chance) {
                self.tell_of_key(&place.1, &ids, None);
            }
        }
    }

    /// A key changed, by a client or by itself.
    pub(crate) fn invalidate(&mut self, db: usize, key: &[u8], by: Option<u64>) {
        let base = db - db % DATABASES;
        let matching = self
            .trackers
            .prefixes
            .iter_mut()
            .filter(|((of, prefix), _)| *of == base && key.starts_with(prefix));
        for (_, prefix) in matching {
            prefix.changed.entry(key.into()).or_insert(by);
        }
        if let Some(ids) = self.trackers.keys.swap_remove(&(base, Box::from(key))) {
            self.tell_of_key(key, &ids, by);
        }
    }

    fn tell_of_key(&mut self, key: &[u8], ids: &[u64], by: Option<u64>) {
        let keys = [Box::from(key)];
        for id in ids {
            let Some(tracker) = self.trackers.of(*id) else { continue };
            let is_own = tracker.wishes.no_loop && by == Some(*id);
            if !tracker.wishes.broadcasts && !is_own {
                self.tell(*id, &Stale::Keys(&keys));
            }
        }
    }

    /// All keys of an organisation are gone, or those of a database, which is not told apart.
    pub(crate) fn invalidate_all(&mut self, base: usize) {
        self.trackers.keys.retain(|(of, _), _| *of != base);
        let clients = self.trackers.clients.iter().filter(|(_, client)| client.base == base);
        let ids: Vec<u64> = clients.map(|(id, _)| *id).collect();
        for id in ids {
            self.tell(id, &Stale::All);
        }
    }

    /// Tells of what changed among the keys with a beginning, in one message each.
    pub(crate) fn broadcast(&mut self) {
        let mut told = Vec::new();
        for prefix in self.trackers.prefixes.values_mut().filter(|one| !one.changed.is_empty()) {
            told.push((prefix.clients.clone(), std::mem::take(&mut prefix.changed)));
        }
        for (clients, changed) in told {
            for id in clients {
                let no_loop = self.trackers.of(id).is_some_and(|tracker| tracker.wishes.no_loop);
                let keys: Vec<Box<[u8]>> = changed
                    .iter()
                    .filter(|(_, by)| !(no_loop && **by == Some(id)))
                    .map(|(key, _)| key.clone())
                    .collect();
                if !keys.is_empty() {
                    self.tell(id, &Stale::Keys(&keys));
                }
            }
        }
    }

    fn tell(&mut self, id: u64, stale: &Stale<'_>) {
        let Some(tracker) = self.trackers.of_mut(id) else { return };
        let own = tracker.token;
        let through = match (tracker.wishes.redirect, tracker.redirect) {
            (None, _) => own,
            (Some(_), Some(token)) => token,
            (Some(redirect), None) => {
                tracker.is_broken = true;
                self.deliver(own, |reply| {
                    if reply.is_resp3 {
                        reply.push(2);
                        reply.text("tracking-redir-broken");
                        reply.int(redirect as i64);
                    }
                });
                return;
            }
        };
        // Without a push of RESP3 only a listener can tell it from a reply.
        let listens = through != own && self.listens(through);
        self.deliver(through, |reply| {
            if reply.is_resp3 {
                reply.push(2);
                reply.text("invalidate");
            } else if listens {
                reply.push(3);
                reply.text("message");
                reply.text(CHANNEL);
            } else {
                return;
            }
            match stale {
                Stale::All => reply.null_array(),
                Stale::Keys(keys) => {
                    reply.array(keys.len());
                    keys.iter().for_each(|key| reply.bulk(key));
                }
            }
        });
    }

    /// Whether a connection listens to channels; one whose command runs now does if it is not here.
    fn listens(&self, token: Token) -> bool {
        let session = self.sessions.get(token).and_then(Option::as_ref);
        session.is_none_or(|session| session.subscriptions.is_some())
    }
}
