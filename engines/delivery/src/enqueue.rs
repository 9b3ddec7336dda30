//! How a message becomes a row.

use relational::Tx;

use crate::lanes::Lane;
use crate::store::endpoints::Addressee;
use crate::{
    Channel, Delivery, EndpointState, Enqueued, Error, MessageId, OutgoingEvent, OutgoingMail,
    State, endpoint, mail, post, store,
};

/// Bytes of an [`OutgoingMail::idempotency_key`].
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 200;

impl Delivery {
    pub(crate) async fn enqueue_mail(
        &self,
        tx: &mut Tx,
        mail: OutgoingMail,
    ) -> Result<Enqueued, Error> {
        let inner = &self.0;
        not_longer("subject", &mail.subject, inner.config.subject_bytes_max)?;
        not_longer("body", &mail.body_text, inner.config.body_bytes_max)?;
        let (organisation, key) = (mail.organisation, mail.idempotency_key);
        let now = inner.clock.now();
        let state = if inner.relay.is_some() { State::Waiting } else { State::Held };
        let new = store::New {
            id: MessageId::new(now, &inner.entropy),
            organisation,
            channel: Channel::Email,
            lane: Lane::Mail,
            to: mail.to.to_string(),
            subject: mail::one_line(&mail.subject),
            body: mail.body_text,
            message_id: mail::message_id(organisation, &key, &inner.domain),
            idempotency_key: key,
            state,
            attempts_max: inner.config.attempts_max,
            now,
        };
        self.insert(tx, new, inner.config.unsent_max).await
    }

    pub(crate) async fn enqueue_event(
        &self,
        tx: &mut Tx,
        addressee: &Addressee,
        event: &OutgoingEvent,
    ) -> Result<Enqueued, Error> {
        let inner = &self.0;
        if !endpoint::is_event_type(&event.event_type) {
            let reason = "it is not of the form alert.raised".to_owned();
            return Err(Error::Invalid { what: "event_type", reason });
        }
        let what = (event.event_type.as_str(), event.occurred);
        let body = post::body(addressee.channel, what, &event.text, &event.data);
        not_longer("body", &body, inner.config.endpoints.body_bytes_max)?;
        let now = inner.clock.now();
        let is_active = addressee.state == EndpointState::Active;
        let new = store::New {
            id: MessageId::new(now, &inner.entropy),
            organisation: event.organisation,
            channel: addressee.channel,
            lane: Lane::Endpoint(addressee.id),
            to: addressee.name.clone(),
            subject: event.event_type.clone(),
            body,
            message_id: mail::webhook_id(event.organisation, &event.idempotency_key),
            idempotency_key: event.idempotency_key.clone(),
            state: if is_active { State::Waiting } else { State::Held },
            attempts_max: inner.config.attempts_max,
            now,
        };
        self.insert(tx, new, inner.config.endpoints.unsent_max).await
    }

    async fn insert(
        &self,
        tx: &mut Tx,
        new: store::New,
        unsent_max: u64,
    ) -> Result<Enqueued, Error> {
        let inner = &self.0;
        not_longer("idempotency key", &new.idempotency_key, IDEMPOTENCY_KEY_BYTES_MAX)?;
        if let Some(id) = store::with_key(tx, new.organisation, &new.idempotency_key).await? {
            return Ok(Enqueued::Repeated(id));
        }
        let place = (new.organisation, new.lane);
        if inner.backlog.lock().get(&place).is_some_and(|unsent| *unsent >= unsent_max) {
            return Err(Error::TooManyUnsent { unsent_max });
        }
        store::insert(tx, &new).await?;
        *inner.backlog.lock().entry(place).or_default() += 1;
        inner.board.lock().stir(new.lane);
        // Behind the commit: whoever looks before it finds nothing.
        tx.wake(&inner.wake);
        let is_waiting = new.state == State::Waiting;
        Ok(if is_waiting { Enqueued::Waiting(new.id) } else { Enqueued::Held(new.id) })
    }
}

fn not_longer(what: &'static str, text: &str, bytes_max: usize) -> Result<(), Error> {
    if text.len() > bytes_max { Err(Error::TooLong { what, bytes_max }) } else { Ok(()) }
}
