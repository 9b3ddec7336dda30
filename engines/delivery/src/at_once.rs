//! Mails that hold a secret, such as a link that signs in: handed over now, stored nowhere, shown to nobody.

use std::time::Duration;

use crate::mail::Parts;
use crate::{Delivery, Error, OutgoingMail, mail};

impl Delivery {
    /// Whether mail leaves the house: a server is configured.
    pub fn has_mail_server(&self) -> bool {
        self.0.relay.is_some()
    }

    /// Sends a mail now and waits until the server took it, with a few attempts under one `Message-ID`. It is not in
    /// any list and does not outlive the process: what is in it can be asked for again.
    pub async fn send_at_once(&self, mail: OutgoingMail) -> Result<(), Error> {
        let inner = &self.0;
        let relay = inner.relay.as_ref().ok_or(Error::NoServer)?;
        let message_id = mail::message_id(mail.organisation, &mail.idempotency_key, &inner.domain);
        let parts = Parts {
            from: &inner.sender,
            to: &mail.to,
            subject: &mail.subject,
            body: &mail.body_text,
            message_id: &message_id,
            created: inner.clock.now(),
        };
        let bytes = mail::compose(&parts)
            .map_err(|error| Error::Invalid { what: "mail", reason: error.to_string() })?;
        let mut pause = Duration::from_secs(1).min(inner.config.back_off_max);
        let mut attempt = 1;
        loop {
            let Err(refusal) = relay.send(&mail.to, &bytes).await else {
                inner.meters.sent.inc();
                return Ok(());
            };
            if refusal.is_permanent || attempt >= inner.config.smtp.at_once_attempts_max {
                inner.meters.failed.inc();
                return Err(Error::NotTaken { reason: refusal.reason });
            }
            inner.meters.retried.inc();
            attempt += 1;
            inner.clock.sleep(pause).await;
            pause = (pause * 2).min(inner.config.back_off_max);
        }
    }
}
