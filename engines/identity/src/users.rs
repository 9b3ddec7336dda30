//! People who use what an organisation offers: a feature makes their accounts, with rows of its own in the same commit.

use base::access::{Door, Principal};
use base::{AccountId, OrganisationId};
use relational::{Tx, params};

use crate::accounts::{Insert, NewPerson, insert, normal_email};
use crate::audit::{By, Change, note};
use crate::letters::{Changed, Errand};
use crate::sessions::{Holds, Kept, NewSession, SessionId, Visitor, account_of, delete_all};
use crate::{Error, Identity, Role, tickets, token};

/// Who wants to use what an organisation offers.
#[derive(Clone)]
pub struct NewUser {
    pub organisation: OrganisationId,
    pub email: String,
    pub password: String,
    /// Whether it counts among the accounts that its address makes; not for one on this machine.
    pub is_counted: bool,
}

/// What somebody changes about their own account.
#[derive(Clone, Default)]
pub struct UserChange {
    pub email: Option<String>,
    pub password: Option<String>,
}

impl Identity {
    /// Makes an account of the role [`Role::User`] and lets it in. `with` adds the caller's rows in the same commit; its error
    /// takes back all of it. That an address has an account already is told, so it is for where anybody may ask that.
    pub async fn join<E, F>(
        &self,
        visitor: &Visitor,
        new: NewUser,
        with: F,
    ) -> Result<NewSession, E>
    where
        E: From<Error> + From<relational::Error> + Send + 'static,
        F: AsyncFn(&mut Tx, AccountId) -> Result<(), E> + Send + 'static,
    {
        let inner = &self.0;
        let NewUser { organisation, email, password, is_counted } = new;
        let email = normal_email(&email)?;
        self.check_new_of_user(&password, &email).await?;
        self.room_for_an_account()?;
        let now = inner.base.clock.now();
        if is_counted {
            inner.attempts.sign_up(now, visitor.address)?;
        }
        let hash = inner.hasher.hash(&password).await?;
        let account = AccountId::new(now, &inner.base.entropy);
        let mut entry =
            self.entry((account, organisation), Holds::Bearer, visitor, "session.sign-in");
        entry.is_whole = true;
        let (identity, wanted, address) = (self.clone(), entry.clone(), email.clone());
        let from = visitor.address;
        let made = inner.db.write(async move |tx| {
            let (email, hash) = (&*address, Some(&*hash));
            let role = Role::User;
            let new = Insert { account, organisation, email, role, hash, verified: None };
            if insert(tx, &identity.0.base, new).await? == NewPerson::Taken {
                return Err(E::from(Error::AccountExists));
            }
            with(tx, account).await?;
            let change = Change {
                organisation,
                subject: format!("account:{account}"),
                door: Some(Door::Http),
                action: "account.join",
                resource: format!("account/{account}"),
                detail: format!("from {from}"),
            };
            note(tx, &identity.0.base, &change).await?;
            identity.enter(tx, &wanted).await?;
            Ok(())
        });
        made.await?;
        self.remember((account, organisation), &email, Role::User, false);
        if inner.checks_email {
            inner.post.take(Errand::Verify { account })?;
        }
        Ok(self.session_of(entry)?)
    }

    /// Changes the principal's own account, which must have the role [`Role::User`]. With a new password its other
    /// sessions end; `keep` is the one that asks. `with` changes the caller's rows in the same commit.
    pub async fn change_user<E, F>(
        &self,
        by: By<'_>,
        keep: Option<SessionId>,
        change: UserChange,
        with: F,
    ) -> Result<Principal, E>
    where
        E: From<Error> + From<relational::Error> + Send + 'static,
        F: AsyncFn(&mut Tx) -> Result<(), E> + Send + 'static,
    {
        let account = account_of(by.0)?;
        let organisation = by.0.organisation;
        let email = change.email.as_deref().map(normal_email).transpose()?;
        let email = email.filter(|email| **email != *by.0.name);
        let changes_account = email.is_some() || change.password.is_some();
        if changes_account && !self.is_plain_user(account) {
            return Err(E::from(Error::NotAUser));
        }
        let hash = match &change.password {
            Some(password) => {
                let email = email.as_deref().unwrap_or(&by.0.name);
                self.check_new_of_user(password, email).await?;
                Some(self.0.hasher.hash(password).await?)
            }
            None => None,
        };
        let base = self.0.base.clone();
        let noted = [
            email.as_ref().map(|_| "account.set-email"),
            hash.as_ref().map(|_| "account.set-password"),
        ];
        let noted: Vec<Change> = noted
            .into_iter()
            .flatten()
            .map(|action| Change::of(by, action, format!("account/{account}")))
            .collect();
        let (address, new_hash) = (email.clone(), hash.clone());
        let ended = self.0.db.write(async move |tx| {
            if let Some(email) = &address {
                let sql = "SELECT id FROM account WHERE email = ?";
                if tx.query_optional(sql, params![email]).await?.is_some() {
                    return Err(E::from(Error::AccountExists));
                }
                let sql = "UPDATE account SET email = ?, verified = NULL, readdressed = NULL,
                    version = version + 1, changed = ? WHERE id = ? AND organisation = ?";
                let now = base.clock.now();
                tx.execute(sql, params![email, now, account, organisation]).await?;
            }
            let mut ended = Vec::new();
            if let Some(hash) = &new_hash {
                let sql = "UPDATE account SET password_hash = ? WHERE id = ? AND organisation = ?";
                tx.execute(sql, params![hash, account, organisation]).await?;
                let kept = keep.map_or(Kept::Nothing, Kept::Session);
                ended = delete_all(tx, account, kept).await?;
                tickets::forget(tx, account).await?;
            }
            with(tx).await?;
            for change in &noted {
                note(tx, &base, change).await?;
            }
            Ok(ended)
        });
        let ended = ended.await?;
        if let Some(email) = &email {
            self.readdressed(account, email);
            if self.0.checks_email {
                self.0.post.take(Errand::Verify { account })?;
            }
        }
        if hash.is_some() {
            self.ended(&ended);
            self.tell(account, Changed::Password);
        }
        Ok(self.holder(account).ok_or(Error::NotAnAccount)?)
    }

    /// The session that a text which a client shows is of; nothing when it is not of that form.
    pub fn session_of_text(text: &str) -> Option<SessionId> {
        let (id, _) = text.strip_prefix("madang_")?.split_once('_')?;
        Some(SessionId::from_bytes(*token::key_id(id)?.bytes()))
    }

    /// Whoever is in a group may do more than users do, and changes what they enter by where the password is asked for.
    fn is_plain_user(&self, account: AccountId) -> bool {
        let live = self.0.live.read();
        let account = live.accounts.get(&account);
        account.is_some_and(|account| account.role == Role::User && account.groups.is_empty())
    }
}
