//! One room's handle becomes another's need. This file is the map of couplings.

use base::access::{Principal, Refused};
use delivery::{Delivery, EmailAddress, OutgoingMail};
use devices::{
    Devices, IssuedKey, KeyIssuer, KeyRequest, Mail, Mailer, NeedError, Outcome, TxFuture,
};
use edge::{BoxFuture, Sessions};
use identity::{Grant, Identity, NewKey};
use mqtt::{Accepted, Intake, Message};
use relational::Tx;

/// Messages to `data/<device>` are readings.
pub(crate) struct Readings(pub(crate) Devices);

impl Intake for Readings {
    fn accept<'a>(
        &'a self,
        principal: &'a Principal,
        message: &'a Message,
    ) -> BoxFuture<'a, Accepted> {
        Box::pin(async move {
            let Some(device) = Devices::device_of(&message.topic) else { return Accepted::NotMine };
            match self.0.accept(principal, device, &message.payload).await {
                Outcome::Stored => Accepted::Stored,
                Outcome::Refused { reason } => Accepted::Refused { reason },
                Outcome::Unavailable => Accepted::Unavailable,
            }
        })
    }
}

/// Alerts are mailed.
pub(crate) struct AlertMails(pub(crate) Delivery);

impl Mailer for AlertMails {
    fn accepts(&self, address: &str) -> bool {
        address.parse::<EmailAddress>().is_ok()
    }

    fn enqueue<'a>(
        &'a self,
        tx: &'a mut Tx,
        mail: &'a Mail,
    ) -> TxFuture<'a, Result<(), NeedError>> {
        Box::pin(async move {
            let to = mail.to.parse::<EmailAddress>().map_err(|error| NeedError {
                kind: base::ErrorKind::Invalid,
                source: error.into(),
            })?;
            let mail = OutgoingMail {
                organisation: mail.organisation,
                to,
                subject: mail.subject.clone(),
                body_text: mail.body.clone(),
                idempotency_key: mail.key.to_string(),
            };
            match self.0.enqueue(tx, mail).await {
                Ok(_) => Ok(()),
                Err(error) => Err(NeedError { kind: error.kind(), source: error.into() }),
            }
        })
    }
}

/// Devices get keys of their own.
pub(crate) struct DeviceKeys(pub(crate) Identity);

impl KeyIssuer for DeviceKeys {
    fn issue<'a>(
        &'a self,
        principal: &'a Principal,
        request: KeyRequest,
    ) -> BoxFuture<'a, Result<IssuedKey, NeedError>> {
        Box::pin(async move {
            let grants = request.grants.into_iter().map(|(action, on)| Grant::new(action, on));
            let new = NewKey { label: request.label, grants: grants.collect() };
            let key = self.0.create_key(principal, new).await;
            let key =
                key.map_err(|error| NeedError { kind: error.kind(), source: error.into() })?;
            Ok(IssuedKey {
                id: key.id.to_string(),
                label: key.label,
                token: key.token,
                mqtt_user: key.mqtt_user,
                mqtt_password: key.mqtt_password,
            })
        })
    }
}

/// Browsers come with a session.
pub(crate) struct BrowserSessions(pub(crate) Identity);

impl Sessions for BrowserSessions {
    fn session<'a>(&'a self, cookie: &'a str) -> BoxFuture<'a, Result<Principal, Refused>> {
        Box::pin(self.0.session(cookie))
    }
}
