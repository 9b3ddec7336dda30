//! How people come in by their mailbox: links that sign in, a new password, and showing that an address is theirs.

use std::net::IpAddr;

use base::access::{Door, Principal, Subject};
use base::{AccountId, OrganisationId};
use relational::{Tx, params};

use crate::accounts::normal_email;
use crate::audit::{Change, note};
use crate::letters::{Changed, Errand};
use crate::sessions::{Entered, Holds, Kept, Visitor, delete_all};
use crate::tickets::{self, Kind, NewTicket, Ticket};
use crate::{Error, Identity, SessionId, factors, token};

/// How somebody shows that an account is theirs, beside the link.
pub enum Showing<'a> {
    Session(&'a Principal),
    Password(&'a str),
    Nothing,
}

impl Identity {
    /// Mails a link that signs in. Says the same, at once, whether there is such an account.
    pub fn mail_link(&self, from: IpAddr, email: &str) -> Result<(), Error> {
        let email = self.asked_for_mail(from, email)?;
        self.0.post.take(Errand::SignIn { email })
    }

    /// Mails a link that sets a password. Says the same, at once, whether there is such an account.
    pub fn mail_reset(&self, from: IpAddr, email: &str) -> Result<(), Error> {
        let email = self.asked_for_mail(from, email)?;
        self.0.post.take(Errand::Reset { email })
    }

    /// Mails once more the link that shows whose an address is.
    pub fn mail_verification(&self, from: IpAddr, principal: &Principal) -> Result<(), Error> {
        let account = crate::sessions::account_of(principal)?;
        self.asked_for_mail(from, &principal.name)?;
        self.0.post.take(Errand::Verify { account })
    }

    fn asked_for_mail(&self, from: IpAddr, email: &str) -> Result<String, Error> {
        if !self.0.post.can_send() {
            return Err(Error::NoMail);
        }
        let email = normal_email(email)?;
        self.0.attempts.mail(self.0.base.clock.now(), &email, from)?;
        Ok(email)
    }

    /// The text of a one-time link for the default organisation's administrator, in place of any older
    /// one. Nothing once the administrator has a password.
    pub async fn administrator_link(&self) -> Result<Option<String>, Error> {
        let inner = &self.0;
        let secret = token::secret(&inner.base.entropy);
        let now = inner.base.clock.now();
        let expires = now.plus(inner.config.link_time_max);
        let organisation = OrganisationId::DEFAULT;
        let link = secret.clone();
        let made = inner.db.write(async move |tx| {
            let sql = "SELECT id, password_hash FROM account
                WHERE organisation = ? AND role = 'admin' AND suspended IS NULL AND removed IS NULL
                ORDER BY id";
            let rows = tx.query(sql, params![organisation]).await?;
            for row in &rows {
                if row.get::<Option<String>>("password_hash")?.is_some() {
                    return Ok::<_, Error>(false);
                }
            }
            let account: AccountId =
                rows.first().ok_or(Error::Stored("administrator"))?.get("id")?;
            tickets::forget(tx, account).await?;
            let ticket = NewTicket {
                kind: Kind::SignIn,
                secret: link.clone(),
                account,
                organisation,
                proves: false,
                created: now,
                expires,
            };
            tickets::insert(tx, &ticket).await?;
            Ok(true)
        });
        Ok(made.await?.then_some(secret))
    }

    /// Lets the holder of a one-time link in, once.
    pub async fn redeem_link(
        &self,
        visitor: &Visitor,
        link: &str,
        holds: Holds,
    ) -> Result<Entered, Error> {
        let inner = &self.0;
        // Looked at first, so that an entry can be made for its account; what counts is the transaction.
        let now = inner.base.clock.now();
        let text = link.to_owned();
        let found =
            inner.db.read(async move |read| tickets::look(read, Kind::SignIn, &text, now).await);
        let found = found.await?;
        let whose = (found.account, found.organisation);
        let entry = self.entry(whose, holds, visitor, "session.link");
        let (identity, wanted, text) = (self.clone(), entry.clone(), link.to_owned());
        let done = inner.db.write(async move |tx| {
            let ticket = tickets::take(tx, Kind::SignIn, &text, now).await?;
            let ended = identity.proved(tx, &ticket).await?;
            let way = identity.enter(tx, &wanted).await?;
            Ok::<_, Error>((way, ended))
        });
        let (way, ended) = done.await?;
        self.now_proved(&found, &ended);
        self.entered(entry, way)
    }

    /// Sets the password of whoever has the link, and ends all their sessions. It signs nobody in, so a second factor
    /// is asked for as ever.
    pub async fn finish_reset(&self, link: &str, new: &str) -> Result<(), Error> {
        let inner = &self.0;
        let now = inner.base.clock.now();
        let text = link.to_owned();
        // Hashing is dear, so nobody gets it without a link.
        let found =
            inner.db.read(async move |read| tickets::look(read, Kind::Reset, &text, now).await);
        let found = found.await?;
        self.check_new(new, &self.email_of(found.account)).await?;
        let hash = inner.hasher.hash(new).await?;
        let (identity, text) = (self.clone(), link.to_owned());
        let ended = inner.db.write(async move |tx| {
            let ticket = tickets::take(tx, Kind::Reset, &text, now).await?;
            identity.proved(tx, &ticket).await?;
            let sql = "UPDATE account SET password_hash = ? WHERE id = ?";
            tx.execute(sql, params![hash, ticket.account]).await?;
            let ended = delete_all(tx, ticket.account, Kept::Nothing).await?;
            tickets::forget(tx, ticket.account).await?;
            note(tx, &identity.0.base, &change(&ticket, "account.reset-password")).await?;
            Ok::<_, Error>(ended)
        });
        let ended = ended.await?;
        self.now_proved(&found, &ended);
        self.ended(&ended);
        self.tell(found.account, Changed::Password);
        Ok(())
    }

    /// Takes an address for somebody's own, who has the link that went there. The link alone is not enough: whoever
    /// made the account may be somebody else, and whoever reads the mail would open it for them.
    pub async fn verify(
        &self,
        from: IpAddr,
        link: &str,
        showing: Showing<'_>,
    ) -> Result<(), Error> {
        let inner = &self.0;
        let now = inner.base.clock.now();
        let text = link.to_owned();
        let found =
            inner.db.read(async move |read| tickets::look(read, Kind::Verify, &text, now).await);
        let found = found.await?;
        match showing {
            Showing::Session(principal) if principal.subject == Subject::Account(found.account) => {
            }
            Showing::Password(password) => {
                self.check_password(from, found.account, password).await?;
            }
            Showing::Session(_) | Showing::Nothing => return Err(Error::NotShown),
        }
        let (base, text) = (inner.base.clone(), link.to_owned());
        let verified = inner.db.write(async move |tx| {
            let ticket = tickets::take(tx, Kind::Verify, &text, now).await?;
            let sql = "UPDATE account SET verified = ? WHERE id = ?";
            tx.execute(sql, params![now, ticket.account]).await?;
            note(tx, &base, &change(&ticket, "account.verify")).await
        });
        verified.await?;
        self.now_proved(&found, &[]);
        Ok(())
    }

    /// Compares the password of an account that is known, counted like a sign-in.
    pub(crate) async fn check_password(
        &self,
        from: IpAddr,
        account: AccountId,
        given: &str,
    ) -> Result<(), Error> {
        let inner = &self.0;
        let stored = inner.db.read(async move |read| {
            let sql = "SELECT email, password_hash FROM account WHERE id = ?";
            let row = read.query_optional(sql, params![account]).await?;
            let row = row.ok_or(Error::CurrentPassword)?;
            Ok::<_, Error>((
                row.get::<String>("email")?,
                row.get::<Option<String>>("password_hash")?,
            ))
        });
        let (email, hash) = stored.await?;
        inner.attempts.sign_in(inner.base.clock.now(), &email, from)?;
        if !inner.hasher.verify(given, hash.as_deref()).await? {
            return Err(Error::CurrentPassword);
        }
        inner.attempts.succeeded(&email, from);
        Ok(())
    }

    /// Somebody showed that they read an account's mails. What was set before anybody had shown that was perhaps set by
    /// somebody else who waits for the owner to come: it ends.
    async fn proved(&self, tx: &mut Tx, ticket: &Ticket) -> Result<Vec<SessionId>, Error> {
        if !ticket.proves {
            return Ok(Vec::new());
        }
        let now = self.0.base.clock.now();
        let sql = "UPDATE account SET verified = ?, readdressed = NULL
            WHERE id = ? AND verified IS NULL AND readdressed IS NOT NULL";
        if tx.execute(sql, params![now, ticket.account]).await? > 0 {
            note(tx, &self.0.base, &change(ticket, "account.verify")).await?;
            return Ok(Vec::new());
        }
        let sql = "UPDATE account SET verified = ?, password_hash = NULL
            WHERE id = ? AND verified IS NULL";
        if tx.execute(sql, params![now, ticket.account]).await? == 0 {
            return Ok(Vec::new());
        }
        factors::remove_all(tx, ticket.account).await?;
        note(tx, &self.0.base, &change(ticket, "account.verify")).await?;
        delete_all(tx, ticket.account, Kept::Nothing).await
    }

    fn now_proved(&self, ticket: &Ticket, ended: &[SessionId]) {
        if !ticket.proves {
            return;
        }
        let mut live = self.0.live.write();
        let account = live.accounts.get_mut(&ticket.account);
        let was = account.map(|account| std::mem::replace(&mut account.is_verified, true));
        drop(live);
        if was == Some(false) || !ended.is_empty() {
            self.ended(ended);
        }
    }
}

fn change(ticket: &Ticket, action: &'static str) -> Change {
    Change {
        organisation: ticket.organisation,
        subject: format!("account:{}", ticket.account),
        door: Some(Door::Http),
        action,
        resource: format!("account/{}", ticket.account),
        detail: String::new(),
    }
}

/// For tests and first entries: nothing more was asked.
impl Entered {
    /// The session, where no second factor was asked for.
    pub fn session(self) -> Option<crate::NewSession> {
        match self {
            Self::In(session) => Some(session),
            Self::Second(_) => None,
        }
    }
}
