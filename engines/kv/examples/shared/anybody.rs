//! An authority that lets everybody do everything, for tests and measurements.

use std::future::{Future, ready};
use std::pin::Pin;

use base::OrganisationId;
use base::access::{Action, Authority, Door, Principal, Refused, Resource, Subject};
use tokio::sync::watch;

pub(crate) struct Anybody(watch::Sender<u64>);

impl Default for Anybody {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Authority for Anybody {
    fn authenticate<'a>(
        &'a self,
        _: Door,
        _: &'a str,
        _: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Principal, Refused>> + Send + 'a>> {
        Box::pin(ready(Ok(somebody())))
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

pub(crate) fn somebody() -> Principal {
    Principal {
        organisation: OrganisationId::DEFAULT,
        subject: Subject::System("kv-node"),
        name: "default".into(),
    }
}
