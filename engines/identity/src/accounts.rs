use std::net::IpAddr;

use base::access::{Principal, Subject};
use base::{AccountId, Base, OrganisationId};
use relational::{Db, Tx, params};

use crate::audit::{Change, note, subject_text};
use crate::live::LiveAccount;
use crate::{Config, Error, Grant, Identity, password, token};

/// What an account may do in its organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything.
    Admin,
    /// What [`Config::member_grants`] lists.
    Member,
}

/// Who wants an account.
#[derive(Clone)]
pub struct NewAccount {
    pub email: String,
    pub password: String,
    /// The name of the new organisation; the address without.
    pub organisation: Option<String>,
}

/// An account that somebody made for themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedUp {
    pub account: AccountId,
    pub organisation: OrganisationId,
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
    pub grants: Vec<Grant>,
}

const EMAIL_BYTES_MAX: usize = 254;
pub(crate) const NAME_CHARACTERS_MAX: usize = 100;

impl Role {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Member => "member",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "admin" => Ok(Self::Admin),
            "member" => Ok(Self::Member),
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
        let account = AccountId::new(now, &base.entropy);
        let new = Insert { account, organisation, email: &email, role: Role::Admin, hash: None };
        insert(tx, &base, new).await
    })
    .await
}

struct Insert<'a> {
    account: AccountId,
    organisation: OrganisationId,
    email: &'a str,
    role: Role,
    hash: Option<&'a str>,
}

async fn insert(tx: &mut Tx, base: &Base, new: Insert<'_>) -> Result<(), Error> {
    let Insert { account, organisation, email, role, hash } = new;
    let taken = "SELECT 1 AS taken FROM account WHERE email = ?";
    if tx.query_optional(taken, params![email]).await?.is_some() {
        return Err(Error::AccountExists);
    }
    let sql = "INSERT INTO account (id, organisation, email, password_hash, role, created)
        VALUES (?, ?, ?, ?, ?, ?)";
    let now = base.clock.now();
    tx.execute(sql, params![account, organisation, email, hash, role.text(), now]).await?;
    Ok(())
}

impl Identity {
    /// Makes an account with an organisation of its own, while sign-up is open.
    pub async fn sign_up(&self, from: IpAddr, new: NewAccount) -> Result<SignedUp, Error> {
        let inner = &self.0;
        if !inner.config.open_sign_up {
            return Err(Error::SignUpClosed);
        }
        let email = normal_email(&new.email)?;
        password::check(&new.password)?;
        let name = normal_name(new.organisation.as_deref().unwrap_or(&email))?;
        self.room_for_an_account()?;
        inner.attempts.sign_up(inner.base.clock.now(), from)?;
        let hash = inner.hasher.hash(&new.password).await?;

        let now = inner.base.clock.now();
        let organisation = OrganisationId::new(now, &inner.base.entropy);
        let account = AccountId::new(now, &inner.base.entropy);
        let base = inner.base.clone();
        let address = email.clone();
        inner
            .db
            .write(async move |tx| {
                let sql = "INSERT INTO organisation (id, name, created) VALUES (?, ?, ?)";
                tx.execute(sql, params![organisation, name, now]).await?;
                let (email, role, hash) = (&*address, Role::Admin, Some(&*hash));
                insert(tx, &base, Insert { account, organisation, email, role, hash }).await?;
                let change = Change {
                    organisation,
                    subject: format!("account:{account}"),
                    action: "account.sign-up",
                    resource: format!("account/{account}"),
                    detail: String::new(),
                };
                note(tx, &base, &change).await
            })
            .await?;
        self.remember(account, organisation, &email, Role::Admin);
        Ok(SignedUp { account, organisation })
    }

    /// Adds somebody to the principal's organisation, and gives the text of the one-time link that lets
    /// them in. Whoever adds an administrator must be one.
    pub async fn add_account(
        &self,
        principal: &Principal,
        email: &str,
        role: Role,
    ) -> Result<String, Error> {
        let inner = &self.0;
        let email = normal_email(email)?;
        self.room_for_an_account()?;
        let wanted = match role {
            Role::Admin => vec![Grant::all()],
            Role::Member => inner.config.member_grants.clone(),
        };
        self.check_within(principal, &wanted)?;
        let now = inner.base.clock.now();
        let account = AccountId::new(now, &inner.base.entropy);
        let organisation = principal.organisation;
        let link = token::secret(&inner.base.entropy);
        let change = Change {
            organisation,
            subject: subject_text(principal.subject),
            action: "account.add",
            resource: format!("account/{account}"),
            detail: role.text().into(),
        };
        let (base, address) = (inner.base.clone(), email.clone());
        let (secret, expires) = (link.clone(), now.plus(inner.config.link_time_max));
        inner
            .db
            .write(async move |tx| {
                let email = &*address;
                insert(tx, &base, Insert { account, organisation, email, role, hash: None })
                    .await?;
                crate::sessions::insert_link(tx, &secret, (account, organisation), (now, expires))
                    .await?;
                note(tx, &base, &change).await
            })
            .await?;
        self.remember(account, organisation, &email, role);
        Ok(link)
    }

    /// Sets the password of the principal's account. Its other sessions and its links end; `keep` is the
    /// session that asks.
    pub async fn set_password(
        &self,
        principal: &Principal,
        keep: Option<&str>,
        new: &str,
    ) -> Result<(), Error> {
        let Subject::Account(account) = principal.subject else {
            return Err(Error::NotAnAccount);
        };
        password::check(new)?;
        let inner = &self.0;
        let hash = inner.hasher.hash(new).await?;
        let kept = keep.and_then(token::hash).map_or(String::new(), |hash| token::hex(&hash));
        let organisation = principal.organisation;
        let change = Change {
            organisation,
            subject: subject_text(principal.subject),
            action: "account.set-password",
            resource: format!("account/{account}"),
            detail: String::new(),
        };
        let base = inner.base.clone();
        inner
            .db
            .write(async move |tx| {
                let sql = "UPDATE account SET password_hash = ? WHERE id = ? AND organisation = ?";
                if tx.execute(sql, params![hash, account, organisation]).await? == 0 {
                    return Err(Error::NotAnAccount);
                }
                let sql = "DELETE FROM session WHERE account = ? AND token_hash <> ?";
                tx.execute(sql, params![account, kept]).await?;
                tx.execute("DELETE FROM link WHERE account = ?", params![account]).await?;
                note(tx, &base, &change).await
            })
            .await?;
        self.changed();
        Ok(())
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
                Ok((name, Some((row.get::<String>("email")?, has_password))))
            })
            .await?;
        let (email, has_password) = stored.unzip();
        Ok(Profile {
            organisation,
            organisation_name,
            name: principal.name.to_string(),
            email,
            has_password: has_password.unwrap_or(false),
            grants: self.with_grants(principal, <[Grant]>::to_vec),
        })
    }

    fn room_for_an_account(&self) -> Result<(), Error> {
        let max = self.0.config.accounts_max;
        if self.0.live.read().accounts.len() >= max {
            return Err(Error::Limit { what: "accounts", max });
        }
        Ok(())
    }

    fn remember(&self, account: AccountId, organisation: OrganisationId, email: &str, role: Role) {
        let live = LiveAccount { organisation, email: email.into(), role };
        self.0.live.write().accounts.insert(account, live);
        self.changed();
    }
}
