use std::net::IpAddr;

use base::access::{Door, Principal, Subject};
use base::{AccountId, Base, OrganisationId, Timestamp};
use relational::{Db, Tx, params};

use crate::audit::{By, Change, note};
use crate::letters::{Changed, Errand};
use crate::live::LiveAccount;
use crate::people::lock;
use crate::sessions::{account_of, delete_all};
use crate::{Config, Error, Grant, Identity, SignUp, factors, tickets, token};

/// What an account may do in its organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// What [`Config::member_grants`] lists.
    Member,
    /// Whoever uses what the organisation offers: what [`Config::user_grants`] lists.
    User,
}

/// Who wants an account.
#[derive(Clone)]
pub struct NewAccount {
    pub email: String,
    pub password: String,
    /// The name of the new organisation; the address without.
    pub organisation: Option<String>,
}

/// What somebody is shown about themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    pub organisation: OrganisationId,
    pub organisation_name: String,
    /// The address of an account, the label of a key.
    pub name: String,
    pub email: Option<String>,
    /// False while the account can be entered by a link only.
    pub has_password: bool,
    /// False while the account must still show that its address is its own.
    pub is_verified: bool,
    /// A code is asked for beside a password or a link.
    pub has_second_factor: bool,
    pub grants: Vec<Grant>,
}

const EMAIL_BYTES_MAX: usize = 254;
pub(crate) const NAME_CHARACTERS_MAX: usize = 100;

impl Role {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Member => "member",
            Self::User => "user",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "admin" => Ok(Self::Admin),
            "member" => Ok(Self::Member),
            "user" => Ok(Self::User),
            _ => Err(Error::Stored("role")),
        }
    }
}

/// The one form that an address is stored and compared in. ASCII only: two addresses that look alike must
/// not be two accounts.
pub(crate) fn normal_email(given: &str) -> Result<String, Error> {
    let email = given.trim().to_ascii_lowercase();
    if email.len() > EMAIL_BYTES_MAX {
        return Err(Error::Email("is too long"));
    }
    if !email.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::Email("must be ASCII without spaces"));
    }
    match email.split_once('@') {
        Some((name, domain))
            if !name.is_empty()
                && !domain.is_empty()
                && !domain.contains('@')
                && !domain.starts_with('.')
                && !domain.ends_with('.') =>
        {
            Ok(email)
        }
        _ => Err(Error::Email("must be like name@example.org")),
    }
}

/// A name for people: of an organisation, of a key.
pub(crate) fn normal_name(given: &str) -> Result<String, Error> {
    let name = given.trim();
    if name.is_empty() {
        return Err(Error::Name("must not be empty"));
    }
    if name.chars().count() > NAME_CHARACTERS_MAX {
        return Err(Error::Name("must have at most 100 characters"));
    }
    if name.contains(char::is_control) {
        return Err(Error::Name("must not have control characters"));
    }
    Ok(name.to_owned())
}

pub(crate) async fn first_start(db: &Db, config: &Config, base: &Base) -> Result<(), Error> {
    let organisation = OrganisationId::DEFAULT;
    let email = normal_email(&config.administrator_email)
        .map_err(|error| Error::Config(format!("administrator_email: {error}")))?;
    let base = base.clone();
    db.write(async move |tx| {
        let sql = "SELECT 1 AS there FROM organisation WHERE id = ?";
        if tx.query_optional(sql, params![organisation]).await?.is_some() {
            return Ok(());
        }
        let now = base.clock.now();
        let sql = "INSERT INTO organisation (id, name, created) VALUES (?, ?, ?)";
        tx.execute(sql, params![organisation, "Madang", now]).await?;
        insert_administrator(tx, &base, &email).await?;
        Ok(())
    })
    .await
}

/// Makes an administrator, where those of a backup were all removed since, and says whether it did. Who has the address of
/// the first start's by now stays what they are; this one gets another.
pub(crate) async fn ensure_administrator(
    db: &Db,
    config: &Config,
    base: &Base,
) -> Result<bool, Error> {
    let email = normal_email(&config.administrator_email)?;
    let base = base.clone();
    db.write(async move |tx| {
        lock(tx, OrganisationId::DEFAULT).await?;
        let sql = "SELECT 1 AS there FROM account WHERE organisation = ? AND role = 'admin'
            AND suspended IS NULL AND removed IS NULL LIMIT 1";
        if tx.query_optional(sql, params![OrganisationId::DEFAULT]).await?.is_some() {
            return Ok(false);
        }
        if insert_administrator(tx, &base, &email).await? == NewPerson::Taken {
            let another = format!("administrator-{}@localhost", base.clock.now().micros());
            insert_administrator(tx, &base, &another).await?;
        }
        Ok(true)
    })
    .await
}

async fn insert_administrator(tx: &mut Tx, base: &Base, email: &str) -> Result<NewPerson, Error> {
    let (organisation, role) = (OrganisationId::DEFAULT, Role::Admin);
    let now = base.clock.now();
    let account = AccountId::new(now, &base.entropy);
    // Whoever set the address up has vouched for it.
    let verified = Some(now);
    insert(tx, base, Insert { account, organisation, email, role, hash: None, verified }).await
}

pub(crate) struct Insert<'a> {
    pub(crate) account: AccountId,
    pub(crate) organisation: OrganisationId,
    pub(crate) email: &'a str,
    pub(crate) role: Role,
    pub(crate) hash: Option<&'a str>,
    pub(crate) verified: Option<Timestamp>,
}

/// What came of making an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NewPerson {
    Made,
    /// The address has an account already.
    Taken,
}

pub(crate) async fn insert(tx: &mut Tx, base: &Base, new: Insert<'_>) -> Result<NewPerson, Error> {
    let Insert { account, organisation, email, role, hash, verified } = new;
    let taken = "SELECT 1 AS taken FROM account WHERE email = ?";
    if tx.query_optional(taken, params![email]).await?.is_some() {
        return Ok(NewPerson::Taken);
    }
    let sql =
        "INSERT INTO account (id, organisation, email, password_hash, role, created, verified)
        VALUES (?, ?, ?, ?, ?, ?, ?)";
    let now = base.clock.now();
    let values = params![account, organisation, email, hash, role.text(), now, verified];
    tx.execute(sql, values).await?;
    Ok(NewPerson::Made)
}

impl Identity {
    /// Makes an account with an organisation of its own, while sign-up is open. Says the same, after the same work,
    /// whether the address has one already; the address itself is told by mail.
    pub async fn sign_up(&self, from: IpAddr, new: NewAccount) -> Result<(), Error> {
        let inner = &self.0;
        if inner.config.sign_up != SignUp::Open {
            return Err(Error::SignUpClosed);
        }
        let email = normal_email(&new.email)?;
        self.check_new(&new.password, &email).await?;
        let name = normal_name(new.organisation.as_deref().unwrap_or(&email))?;
        self.room_for_an_account()?;
        inner.attempts.sign_up(inner.base.clock.now(), from)?;
        let hash = inner.hasher.hash(&new.password).await?;

        let now = inner.base.clock.now();
        let organisation = OrganisationId::new(now, &inner.base.entropy);
        let account = AccountId::new(now, &inner.base.entropy);
        let (base, address) = (inner.base.clone(), email.clone());
        let made = inner.db.write(async move |tx| {
            let (email, role, hash) = (&*address, Role::Admin, Some(&*hash));
            let sql = "SELECT id, organisation FROM account WHERE email = ?";
            let taken = tx.query_optional(sql, params![email]).await?;
            let (of, organisation_of) = match &taken {
                Some(row) => (row.get("id")?, row.get("organisation")?),
                None => (account, organisation),
            };
            if taken.is_none() {
                let sql = "INSERT INTO organisation (id, name, created) VALUES (?, ?, ?)";
                tx.execute(sql, params![organisation, name, now]).await?;
                let new = Insert { account, organisation, email, role, hash, verified: None };
                insert(tx, &base, new).await?;
            }
            let change = Change {
                organisation: organisation_of,
                subject: if taken.is_none() { format!("account:{of}") } else { "nobody".into() },
                door: Some(Door::Http),
                action: if taken.is_none() { "account.sign-up" } else { "account.sign-up-again" },
                resource: format!("account/{of}"),
                detail: format!("from {from}"),
            };
            note(tx, &base, &change).await?;
            Ok::<_, Error>(if taken.is_none() { NewPerson::Made } else { NewPerson::Taken })
        });
        let made = made.await?;
        let errand = match made {
            NewPerson::Made => {
                self.remember((account, organisation), &email, Role::Admin, false);
                Errand::Verify { account }
            }
            NewPerson::Taken => Errand::Taken { email },
        };
        if inner.post.can_send() {
            inner.post.take(errand)?;
        }
        Ok(())
    }

    /// Sets the password of the principal's account. Its other sessions and its links end; `keep` is the
    /// session that asks. Where there is a password, it must be given: a session left open is not enough.
    pub async fn set_password(
        &self,
        (by, from): (By<'_>, IpAddr),
        keep: Option<&str>,
        current: Option<&str>,
        new: &str,
    ) -> Result<(), Error> {
        let account = account_of(by.0)?;
        self.check_new(new, &by.0.name).await?;
        let inner = &self.0;
        self.again(account, from, current).await?;
        let hash = inner.hasher.hash(new).await?;
        let kept = keep.and_then(token::stored);
        let organisation = by.0.organisation;
        let change = Change::of(by, "account.set-password", format!("account/{account}"));
        let base = inner.base.clone();
        let ended = inner.db.write(async move |tx| {
            let sql = "UPDATE account SET password_hash = ? WHERE id = ? AND organisation = ?";
            if tx.execute(sql, params![hash, account, organisation]).await? == 0 {
                return Err(Error::NotAnAccount);
            }
            let ended = delete_all(tx, account, kept.as_deref().into()).await?;
            tickets::forget(tx, account).await?;
            note(tx, &base, &change).await?;
            Ok(ended)
        });
        let ended = ended.await?;
        self.ended(&ended);
        self.tell(account, Changed::Password);
        Ok(())
    }

    pub(crate) async fn has_password(&self, account: AccountId) -> Result<bool, Error> {
        let found = self.0.db.read(async move |read| {
            let sql = "SELECT password_hash FROM account WHERE id = ?";
            let row = read.query_optional(sql, params![account]).await?;
            let hash = row.map(|row| row.get::<Option<String>>("password_hash")).transpose()?;
            Ok::<_, Error>(hash.flatten().is_some())
        });
        found.await
    }

    /// What somebody is and may do.
    pub async fn profile(&self, principal: &Principal) -> Result<Profile, Error> {
        let organisation = principal.organisation;
        let account = match principal.subject {
            Subject::Account(account) => Some(account),
            Subject::Key(_) | Subject::System(_) => None,
        };
        let (organisation_name, stored) = self
            .0
            .db
            .read(async move |read| {
                let sql = "SELECT name FROM organisation WHERE id = ?";
                let name = read.query_one(sql, params![organisation]).await?.get("name")?;
                let Some(account) = account else { return Ok::<_, Error>((name, None)) };
                let sql = "SELECT email, password_hash FROM account WHERE id = ?";
                let row = read.query_one(sql, params![account]).await?;
                let has_password = row.get::<Option<String>>("password_hash")?.is_some();
                let has_second = factors::is_on_for(read, account).await?;
                Ok((name, Some((row.get::<String>("email")?, (has_password, has_second)))))
            })
            .await?;
        let (email, has) = stored.unzip();
        let (has_password, has_second_factor) = has.unwrap_or_default();
        Ok(Profile {
            organisation,
            organisation_name,
            name: principal.name.to_string(),
            email,
            has_password,
            is_verified: account.is_none_or(|account| !self.is_unverified(account)),
            has_second_factor,
            grants: self.with_grants(principal, <[Grant]>::to_vec),
        })
    }

    pub(crate) fn room_for_an_account(&self) -> Result<(), Error> {
        let max = self.0.config.accounts_max;
        if self.0.live.read().accounts.len() >= max {
            return Err(Error::Limit { what: "accounts", max });
        }
        Ok(())
    }

    pub(crate) fn remember(
        &self,
        (account, organisation): (AccountId, OrganisationId),
        email: &str,
        role: Role,
        is_verified: bool,
    ) {
        let live = LiveAccount::new(organisation, email.into(), role, is_verified);
        self.0.live.write().accounts.insert(account, live);
        self.changed();
    }

    /// An account has another address now, which nobody showed to be theirs yet.
    pub(crate) fn readdressed(&self, account: AccountId, email: &str) {
        if let Some(live) = self.0.live.write().accounts.get_mut(&account) {
            live.email = email.into();
            live.is_verified = false;
        }
        self.changed();
    }
}
