use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;

use base::access::{Action, Authority, Door, Principal, Refused, Resource, Subject};
use base::{AccountId, OrganisationId};
use subtle::ConstantTimeEq;
use tokio::sync::watch;

use crate::grant::too_wide;
use crate::token::{hash, key_id};
use crate::{Grant, Identity, SessionId};

impl Authority for Identity {
    fn authenticate<'a>(
        &'a self,
        door: Door,
        key: &'a str,
        secret: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Principal, Refused>> + Send + 'a>> {
        match self.session_named(key) {
            Some(id) => Box::pin(self.token_holder(door, id, secret)),
            None => Box::pin(ready(self.key_holder(door, key, secret))),
        }
    }

    fn authorize(
        &self,
        principal: &Principal,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<(), Refused> {
        self.decide(None, principal, action, resource)
    }

    fn authorize_at(
        &self,
        door: Door,
        principal: &Principal,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<(), Refused> {
        self.decide(Some(door), principal, action, resource)
    }

    fn address_of(&self, organisation: OrganisationId, account: AccountId) -> Option<Arc<str>> {
        let live = self.0.live.read();
        let account = live.accounts.get(&account)?;
        (account.organisation == organisation).then(|| account.email.clone())
    }

    fn epoch(&self) -> watch::Receiver<u64> {
        self.0.epoch.subscribe()
    }

    fn is_current(&self, principal: &Principal) -> bool {
        let live = self.0.live.read();
        match principal.subject {
            Subject::Account(id) => live
                .accounts
                .get(&id)
                .filter(|account| !account.is_suspended)
                .is_some_and(|account| account.organisation == principal.organisation),
            Subject::Key(id) => {
                live.keys.get(&id).is_some_and(|key| key.organisation == principal.organisation)
            }
            Subject::System(_) => true,
        }
    }
}

impl Identity {
    /// The one decision.
    fn decide(
        &self,
        door: Option<Door>,
        principal: &Principal,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<(), Refused> {
        let allowed = resource.organisation == principal.organisation
            && self.with_grants(principal, |grants| {
                grants.iter().any(|grant| grant.allows(action.0, resource.path))
            });
        if allowed {
            return Ok(());
        }
        self.0.denials.denied((principal, door), action, resource.path);
        Err(Refused::Forbidden)
    }

    /// An id that no key has may be a session's.
    fn session_named(&self, key: &str) -> Option<SessionId> {
        let id = key_id(key)?;
        let is_key = self.0.live.read().keys.contains_key(&id);
        (!is_key).then(|| SessionId::from_bytes(*id.bytes()))
    }

    fn key_holder(&self, door: Door, key: &str, secret: &str) -> Result<Principal, Refused> {
        // A key that is not there is compared too, with a hash that no secret is known for.
        const NOBODY: [u8; 32] = [0; 32];
        let id = key_id(key);
        let given = hash(secret).ok_or(Refused::Unauthenticated)?;
        let live = self.0.live.read();
        let found = id.and_then(|id| Some((id, live.keys.get(&id)?)));
        let wanted = found.map_or(&NOBODY, |(_, key)| &key.secret_hash);
        let is_right = bool::from(given.ct_eq(wanted));
        let Some((id, key)) = found else { return Err(Refused::Unauthenticated) };
        if !is_right {
            self.0.denials.unproved(key.organisation, door, Subject::Key(id));
            return Err(Refused::Unauthenticated);
        }
        Ok(Principal {
            organisation: key.organisation,
            subject: Subject::Key(id),
            name: key.label.clone(),
        })
    }

    /// What somebody may do now; nothing when they are gone, or name another organisation than their own.
    pub(crate) fn with_grants<T>(
        &self,
        principal: &Principal,
        ask: impl FnOnce(&[Grant]) -> T,
    ) -> T {
        let live = self.0.live.read();
        let all = || [Grant::all()];
        match principal.subject {
            Subject::System(_) => ask(&all()),
            Subject::Key(id) => match live.keys.get(&id) {
                Some(key) if key.organisation == principal.organisation => ask(&key.grants),
                _ => ask(&[]),
            },
            Subject::Account(id) => match live.accounts.get(&id) {
                Some(account) if account.organisation == principal.organisation => {
                    let config = &self.0.config;
                    if account.is_suspended {
                        ask(&[])
                    } else if self.0.checks_email && !account.is_verified {
                        // Of what they will be allowed, that which is so before too.
                        let own = account.grants(config);
                        let mut some = config.unverified_grants.clone();
                        some.retain(|grant| too_wide(own, std::slice::from_ref(grant)).is_none());
                        ask(&some)
                    } else {
                        ask(account.grants(config))
                    }
                }
                _ => ask(&[]),
            },
        }
    }
}
