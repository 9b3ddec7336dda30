//! What is done with messages by hand.

use base::{OrganisationId, Page, PageRequest};
use relational::{Read, Tx};

use crate::lanes::Lane;
use crate::{
    Attempt, Counts, Delivery, EndpointId, Error, Message, MessageFilter, MessageId, State, mail,
    store, worker,
};

/// Messages that one [`Delivery::retry_failed`] retries.
const RETRIED_MAX: u32 = 1_000;
const ATTEMPTS_SHOWN_MAX: u32 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Release,
    Retry,
}

impl Delivery {
    /// The organisation's messages, newest first.
    pub async fn messages(
        &self,
        organisation: OrganisationId,
        page: PageRequest,
    ) -> Result<Page<Message>, Error> {
        self.messages_like(organisation, MessageFilter::default(), page).await
    }

    /// Those of its messages that fit, newest first; the ones that failed are the dead letters.
    pub async fn messages_like(
        &self,
        organisation: OrganisationId,
        filter: MessageFilter,
        page: PageRequest,
    ) -> Result<Page<Message>, Error> {
        let limit = page.limit.clamp(1, PageRequest::LIMIT_MAX);
        let read =
            async move |read: &mut Read| store::page(read, organisation, filter, &page).await;
        let messages = self.0.db.read(read).await?;
        Ok(Page::of(messages, limit, |message| message.id.to_string()))
    }

    pub async fn message(
        &self,
        organisation: OrganisationId,
        id: MessageId,
    ) -> Result<Message, Error> {
        self.0.db.read(async move |read| store::one(read, organisation, id).await).await
    }

    /// The newest hundred attempts at a message, newest first.
    pub async fn attempts(
        &self,
        organisation: OrganisationId,
        id: MessageId,
    ) -> Result<Vec<Attempt>, Error> {
        let read = async move |read: &mut Read| {
            store::one(read, organisation, id).await?;
            store::attempts::list(read, (organisation, id), ATTEMPTS_SHOWN_MAX).await
        };
        self.0.db.read(read).await
    }

    pub async fn counts(&self, organisation: OrganisationId) -> Result<Counts, Error> {
        self.0.db.read(async move |read| store::counts(read, organisation).await).await
    }

    /// Mails that are held because no server was configured.
    pub async fn held_mails(&self, organisation: OrganisationId) -> Result<u64, Error> {
        self.0.db.read(async move |read| store::held_mails(read, organisation).await).await
    }

    /// Lets a held mail go out. Its `Message-ID` becomes one of the sender's domain of now. What is held for an
    /// endpoint goes out when that is switched on.
    pub async fn release(&self, organisation: OrganisationId, id: MessageId) -> Result<(), Error> {
        self.let_go(organisation, id, Deed::Release).await
    }

    /// Gives a failed message a whole new set of attempts, under its old id.
    pub async fn retry(&self, organisation: OrganisationId, id: MessageId) -> Result<(), Error> {
        self.let_go(organisation, id, Deed::Retry).await
    }

    async fn let_go(
        &self,
        organisation: OrganisationId,
        id: MessageId,
        deed: Deed,
    ) -> Result<(), Error> {
        let inner = self.0.clone();
        let work = async move |tx: &mut Tx| {
            let found = store::found(tx, organisation, id).await?;
            let (wanted, name) = match deed {
                Deed::Release => (State::Held, "released"),
                Deed::Retry => (State::Failed, "retried"),
            };
            if found.state != wanted {
                return Err(Error::WrongState { id, state: found.state, wanted, deed: name });
            }
            let mut message_id = None;
            match found.lane {
                Lane::Mail if inner.relay.is_none() => return Err(Error::NoServer),
                Lane::Mail if deed == Deed::Release => {
                    let key = &found.idempotency_key;
                    message_id = Some(mail::message_id(organisation, key, &inner.domain));
                }
                Lane::Mail => {}
                Lane::Endpoint(endpoint) => {
                    let there = store::endpoints::addressee(tx, organisation, endpoint).await?;
                    there.ok_or(Error::NoReceiver { id, deed: name })?;
                }
            }
            // The count goes on, since it names attempts; only its end moves.
            let attempts_max = found.attempts.saturating_add(inner.config.attempts_max);
            let times = (attempts_max, inner.clock.now());
            store::set_waiting(tx, id, times, message_id.as_deref()).await?;
            store::hold_if_off(tx, id).await
        };
        self.0.db.write(work).await?;
        worker::count(&self.0).await?;
        self.0.board.lock().look_at_all();
        self.0.wake.notify_one();
        Ok(())
    }

    /// Retries the oldest failed messages of an endpoint, at most a thousand; says how many.
    pub async fn retry_failed(
        &self,
        organisation: OrganisationId,
        endpoint: EndpointId,
    ) -> Result<u64, Error> {
        let inner = self.0.clone();
        let work = async move |tx: &mut Tx| {
            let there = store::endpoints::addressee(tx, organisation, endpoint).await?;
            there.ok_or(Error::NoEndpoint(endpoint))?;
            let place = (organisation, Lane::Endpoint(endpoint));
            let failed = store::failed_of(tx, place, RETRIED_MAX).await?;
            for (id, attempts) in &failed {
                let attempts_max = attempts.saturating_add(inner.config.attempts_max);
                store::set_waiting(tx, *id, (attempts_max, inner.clock.now()), None).await?;
                store::hold_if_off(tx, *id).await?;
            }
            Ok::<_, Error>(failed.len() as u64)
        };
        let retried = self.0.db.write(work).await?;
        worker::count(&self.0).await?;
        self.0.board.lock().look_at_all();
        self.0.wake.notify_one();
        Ok(retried)
    }

    /// Gives a failed or held message up. It stays listed, so that its key is not sent after all.
    pub async fn discard(&self, organisation: OrganisationId, id: MessageId) -> Result<(), Error> {
        let work = async move |tx: &mut Tx| {
            let state = store::found(tx, organisation, id).await?.state;
            if !matches!(state, State::Failed | State::Held) {
                let (wanted, deed) = (State::Failed, "discarded");
                return Err(Error::WrongState { id, state, wanted, deed });
            }
            store::discard(tx, id).await
        };
        self.0.db.write(work).await?;
        worker::count(&self.0).await
    }
}
