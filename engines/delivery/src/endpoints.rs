//! What is done with endpoints by hand.

use std::time::Duration;

use base::{OrganisationId, Page, PageRequest};
use relational::{Read, Tx};
use serde_json::json;

use crate::egress::Target;
use crate::endpoint::is_event_type;
use crate::keys::{Column, Place, Sealed};
use crate::post::{self, Parcel, Verdict};
use crate::store::endpoints;
use crate::{
    Channel, Delivery, Endpoint, EndpointChange, EndpointId, EndpointState, Error, Inner,
    NewEndpoint, NewlyMade, Secret, Tested,
};

const NAME_CHARS_MAX: usize = 120;
/// What the body of a test names as its type.
const TEST_EVENT: &str = "endpoint.test";

impl Delivery {
    /// Makes an endpoint, and the secret of a webhook.
    pub async fn create_endpoint(
        &self,
        organisation: OrganisationId,
        new: NewEndpoint,
    ) -> Result<NewlyMade, Error> {
        let inner = self.0.clone();
        let new = inner.checked(new)?;
        let now = inner.clock.now();
        let id = EndpointId::new(now, &inner.entropy);
        let secret = (new.channel == Channel::Webhook).then(|| Secret::new(&inner.entropy));
        let secret_id = EndpointId::new(now, &inner.entropy);
        let max = inner.config.endpoints.endpoints_max;
        let url = inner.seal(Column::Url, (organisation, id), &new.url);
        let sealed = secret
            .as_ref()
            .map(|secret| inner.seal(Column::Secret, (organisation, secret_id), &secret.reveal()));
        let work = async move |tx: &mut Tx| {
            if endpoints::count(tx, organisation).await? >= u64::from(max) {
                return Err(Error::TooMany { what: "endpoints", max });
            }
            endpoints::insert(tx, (organisation, id), &new, &url, now).await?;
            if let Some(secret) = &sealed {
                endpoints::insert_secret(tx, (organisation, id), secret_id, secret, now).await?;
            }
            Ok(())
        };
        inner.db.write(work).await?;
        Ok(NewlyMade { endpoint: self.endpoint(organisation, id).await?, secret })
    }

    /// The organisation's endpoints, newest first.
    pub async fn endpoints(
        &self,
        organisation: OrganisationId,
        page: PageRequest,
    ) -> Result<Page<Endpoint>, Error> {
        let (limit, now) = (page.limit.clamp(1, PageRequest::LIMIT_MAX), self.0.clock.now());
        let seal = self.0.seal.clone();
        let read = async move |read: &mut Read| {
            endpoints::page(read, organisation, &page, now, &seal).await
        };
        let endpoints = self.0.db.read(read).await?;
        Ok(Page::of(endpoints, limit, |endpoint| endpoint.id.to_string()))
    }

    pub async fn endpoint(
        &self,
        organisation: OrganisationId,
        id: EndpointId,
    ) -> Result<Endpoint, Error> {
        let (now, seal) = (self.0.clock.now(), self.0.seal.clone());
        let one =
            async move |read: &mut Read| endpoints::one(read, organisation, id, now, &seal).await;
        self.0.db.read(one).await
    }

    /// Changes an endpoint; switching it on lets go what was held for it.
    pub async fn change_endpoint(
        &self,
        organisation: OrganisationId,
        id: EndpointId,
        change: EndpointChange,
    ) -> Result<Endpoint, Error> {
        let inner = self.0.clone();
        let work = async move |tx: &mut Tx| {
            let written = endpoints::written(tx, organisation, id, &inner.seal).await?;
            let (before, state, change) = (written.endpoint, written.state, change.clone());
            let after = inner.checked(NewEndpoint {
                channel: before.channel,
                name: change.name.unwrap_or(before.name),
                url: change.url.map_or(written.url, Ok)?,
                event_types: change.event_types.unwrap_or(before.event_types),
                contact: change.contact.unwrap_or(before.contact),
                rate_max: change.rate_max.unwrap_or(before.rate_max),
            })?;
            let now = inner.clock.now();
            let url = inner.seal(Column::Url, (organisation, id), &after.url);
            endpoints::update(tx, id, &after, &url, now).await?;
            match (change.is_enabled, state) {
                (Some(true), EndpointState::Disabled | EndpointState::Paused) => {
                    endpoints::switch(tx, id, (EndpointState::Active, None), now).await
                }
                (Some(false), EndpointState::Active | EndpointState::Paused) => {
                    endpoints::switch(tx, id, (EndpointState::Disabled, None), now).await
                }
                _ => Ok(()),
            }
        };
        self.0.db.write(work).await?;
        self.0.board.lock().look_at_all();
        self.0.wake.notify_one();
        self.endpoint(organisation, id).await
    }

    /// Deletes an endpoint; what was not sent to it is failed.
    pub async fn delete_endpoint(
        &self,
        organisation: OrganisationId,
        id: EndpointId,
    ) -> Result<(), Error> {
        let seal = self.0.seal.clone();
        let work = async move |tx: &mut Tx| {
            endpoints::written(tx, organisation, id, &seal).await?;
            endpoints::delete(tx, id).await
        };
        self.0.db.write(work).await?;
        crate::worker::count(&self.0).await
    }

    /// Gives a webhook a new secret. The one before signs beside it for `[delivery.endpoints] secret_overlap`.
    pub async fn rotate_secret(
        &self,
        organisation: OrganisationId,
        id: EndpointId,
    ) -> Result<Secret, Error> {
        let inner = self.0.clone();
        let secret = Secret::new(&inner.entropy);
        let written = secret.reveal();
        let work = async move |tx: &mut Tx| {
            let endpoint = endpoints::written(tx, organisation, id, &inner.seal).await?.endpoint;
            if endpoint.channel != Channel::Webhook {
                return Err(Error::NoSecret(id));
            }
            let now = inner.clock.now();
            let limits = &inner.config.endpoints;
            let expires = now.plus(limits.secret_overlap);
            let signing = endpoints::expire_newest(tx, id, expires, now).await?;
            if signing >= u64::from(limits.secrets_max) {
                return Err(Error::TooMany { what: "secrets", max: limits.secrets_max });
            }
            let secret_id = EndpointId::new(now, &inner.entropy);
            let sealed = inner.seal(Column::Secret, (organisation, secret_id), &written);
            endpoints::insert_secret(tx, (organisation, id), secret_id, &sealed, now).await
        };
        self.0.db.write(work).await?;
        Ok(secret)
    }

    /// Posts a test at once, also to an endpoint that is switched off. It is no message and changes nothing.
    pub async fn test_endpoint(
        &self,
        organisation: OrganisationId,
        id: EndpointId,
    ) -> Result<Tested, Error> {
        let inner = &self.0;
        let tests_max = u32::try_from(inner.config.endpoints.tests_max).unwrap_or(u32::MAX);
        let busy = |_| Error::TooMany { what: "tests", max: tests_max };
        let slot = inner.tests.clone().try_acquire_owned().map_err(busy)?;
        let (name, destination) = {
            let (clock, seal) = (inner.clock.clone(), inner.seal.clone());
            let work = async move |tx: &mut Tx| {
                let written = endpoints::written(tx, organisation, id, &seal).await?;
                let destination = endpoints::destination(tx, id, clock.now(), &seal).await?;
                Ok::<_, Error>((written.endpoint.name, destination))
            };
            inner.db.write(work).await?
        };
        let at = inner.clock.now();
        let text = format!("Madang can reach this channel as \"{name}\".");
        let data = json!({ "endpoint": id.to_string(), "name": name });
        let body = post::body(destination.channel, (TEST_EVENT, at), &text, &data);
        let message_id = format!("msg_{}", EndpointId::new(at, &inner.entropy));
        let begun = inner.clock.instant();
        let parcel = Parcel { message_id: &message_id, body: &body, at };
        let posted = post::post(&inner.client, &destination, &parcel, inner.reading()).await;
        drop(slot);
        let took: Duration = inner.clock.instant().saturating_duration_since(begun);
        let (was_taken, error) = match posted.verdict {
            Verdict::Taken => (true, None),
            Verdict::Later(reason) | Verdict::Never(reason) => (false, Some(reason)),
        };
        Ok(Tested { was_taken, status: posted.status, error, answer: posted.answer, took })
    }
}

impl Inner {
    fn seal(
        &self,
        column: Column,
        (organisation, row): (OrganisationId, EndpointId),
        text: &str,
    ) -> Sealed {
        Place { column, organisation, row }.seal(&self.seal, text)
    }

    /// What was given for an endpoint, if it can be one; its URL in its usual form.
    fn checked(&self, new: NewEndpoint) -> Result<NewEndpoint, Error> {
        let invalid = |what, reason: &str| Err(Error::Invalid { what, reason: reason.to_owned() });
        if new.channel == Channel::Email {
            return invalid("channel", "an endpoint is a webhook or of Slack");
        }
        let name = new.name.trim();
        if name.is_empty() || name.chars().any(char::is_control) {
            return invalid("name", "it is empty or has control characters");
        }
        if name.chars().count() > NAME_CHARS_MAX {
            return invalid("name", "it is longer than 120 characters");
        }
        let limits = &self.config.endpoints;
        if new.event_types.len() > limits.event_types_max {
            return invalid("event_types", "there are too many");
        }
        if !new.event_types.iter().all(|text| is_event_type(text)) {
            return invalid("event_types", "one is not of the form alert.raised");
        }
        if new.rate_max == Some(0) {
            return invalid("rate_max", "it must be at least 1");
        }
        let target = Target::parse(&new.url, self.client.egress())?;
        Ok(NewEndpoint { name: name.to_owned(), url: target.reveal().to_owned(), ..new })
    }
}
