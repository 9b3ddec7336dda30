//! Mails to somebody with an account: told to them, and forgotten when they go.

use base::Timestamp;
use base::personal::{Forgotten, Someone, Told};
use relational::{Read, Tx};
use serde_json::json;

use crate::{Delivery, Error, store};

/// Mails that one transaction forgets, and that one part tells.
const MAILS: i64 = 200;

impl Delivery {
    /// Takes away what was mailed to them until then, or waits to be: the address may be somebody else's since. What is sent at
    /// this moment is left to the next call.
    pub async fn forget(
        &self,
        tx: &mut Tx,
        who: &Someone,
        until: Timestamp,
    ) -> Result<Forgotten, Error> {
        let mailbox = (&*who.email, until);
        let gone = store::forget_mailbox(tx, who.organisation, mailbox, MAILS).await?;
        Ok(Forgotten::of(gone, MAILS))
    }

    /// A part of what was mailed to them, oldest first.
    pub async fn told(&self, who: &Someone, after: Option<String>) -> Result<Told, Error> {
        let (mailbox, after) = ((who.organisation, who.email.clone()), after.unwrap_or_default());
        let read = async move |read: &mut Read| {
            store::of_mailbox(read, mailbox.clone(), &after, MAILS).await
        };
        let mails = self.0.db.read(read).await?;
        let lines = mails.iter().map(|mail| {
            let line = json!({
                "kind": "mail",
                "to": mail.to,
                "subject": mail.subject,
                "body": mail.body,
                "state": mail.state.name(),
                "created": mail.created.to_string(),
                "sent": mail.sent.map(|moment| moment.to_string()),
            });
            line.to_string()
        });
        let lines = lines.collect();
        let next = match Forgotten::of(mails.len(), MAILS) {
            Forgotten::All => None,
            Forgotten::Part => mails.last().map(|mail| mail.id.to_string()),
        };
        Ok(Told { lines, next })
    }
}
