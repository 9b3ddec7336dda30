//! Stand-ins for `identity` at one room's door.

use std::collections::HashSet;
use std::future::{Future, ready};
use std::pin::Pin;
use std::time::Duration;

use base::access::{Action, Authority, Door, Principal, Refused, Resource, Subject};
use base::{Clock, KeyId, OrganisationId};
use parking_lot::Mutex;
use tokio::sync::watch;

type Answer<'a> = Pin<Box<dyn Future<Output = Result<Principal, Refused>> + Send + 'a>>;
type Rule = Box<dyn Fn(&Principal, Action, Resource<'_>) -> bool + Send + Sync>;

/// Knows keys by their names; each one's secret is its name with `-secret`, and `foreign` is of [`Doorman::OTHER`]. They may
/// do everything but what is forbidden, which at first is what has `forbidden` in it.
pub struct Doorman {
    door: Door,
    keys: &'static [&'static str],
    epoch: watch::Sender<u64>,
    revoked: Mutex<HashSet<String>>,
    forbidden: Mutex<Vec<Rule>>,
    /// Loses its key while it is being let in.
    leaving: Mutex<Option<String>>,
}

/// Lets everybody do everything, as [`Anybody::principal`].
pub struct Anybody(watch::Sender<u64>);

impl Doorman {
    pub const OTHER: OrganisationId = OrganisationId::fixed(2);

    pub fn new(door: Door, keys: &'static [&'static str]) -> Self {
        let doorman = Self {
            door,
            keys,
            epoch: watch::Sender::new(1),
            revoked: Mutex::default(),
            forbidden: Mutex::default(),
            leaving: Mutex::default(),
        };
        doorman.forbid("forbidden");
        doorman
    }

    pub fn revoke(&self, key: &str) {
        self.revoked.lock().insert(key.to_owned());
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    pub fn revoke_while_let_in(&self, key: &str) {
        *self.leaving.lock() = Some(key.to_owned());
    }

    /// Forbids deeds with this in their `action resource`.
    pub fn forbid(&self, part: &str) {
        let part = part.to_owned();
        self.forbid_when(move |_, action, on| format!("{} {}", action.0, on.path).contains(&part));
    }

    pub fn forbid_when(
        &self,
        rule: impl Fn(&Principal, Action, Resource<'_>) -> bool + Send + Sync + 'static,
    ) {
        self.forbidden.lock().push(Box::new(rule));
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    pub fn principal(&self, key: &str) -> Option<Principal> {
        let number = self.keys.iter().position(|known| *known == key)?;
        Some(Principal {
            organisation: if key == "foreign" { Self::OTHER } else { OrganisationId::DEFAULT },
            subject: Subject::Key(KeyId::fixed(number as u128 + 1)),
            name: key.into(),
        })
    }
}

impl Authority for Doorman {
    fn authenticate<'a>(&'a self, door: Door, key: &'a str, secret: &'a str) -> Answer<'a> {
        assert_eq!(door, self.door);
        let is_right = secret == format!("{key}-secret") && !self.revoked.lock().contains(key);
        let found = self.principal(key).filter(|_| is_right).ok_or(Refused::Unauthenticated);
        if self.leaving.lock().as_deref() != Some(key) {
            return Box::pin(ready(found));
        }
        Box::pin(async move {
            self.revoke(key);
            // The connection hears of it meanwhile.
            Clock::system().sleep(Duration::from_millis(50)).await;
            found
        })
    }

    fn authorize(
        &self,
        principal: &Principal,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<(), Refused> {
        assert_eq!(principal.organisation, resource.organisation, "{action:?} {resource:?}");
        let forbidden = self.forbidden.lock();
        let is_forbidden = forbidden.iter().any(|rule| rule(principal, action, resource));
        if is_forbidden { Err(Refused::Forbidden) } else { Ok(()) }
    }

    fn epoch(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    fn is_current(&self, principal: &Principal) -> bool {
        !self.revoked.lock().contains(&*principal.name)
    }
}

impl Default for Anybody {
    fn default() -> Self {
        Self(watch::Sender::new(1))
    }
}

impl Anybody {
    pub fn principal() -> Principal {
        Principal {
            organisation: OrganisationId::DEFAULT,
            subject: Subject::System("anybody"),
            name: "default".into(),
        }
    }
}

impl Authority for Anybody {
    fn authenticate<'a>(&'a self, _: Door, _: &'a str, _: &'a str) -> Answer<'a> {
        Box::pin(ready(Ok(Self::principal())))
    }

    fn authorize(&self, _: &Principal, _: Action, _: Resource<'_>) -> Result<(), Refused> {
        Ok(())
    }

    fn epoch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    fn is_current(&self, _: &Principal) -> bool {
        true
    }
}
