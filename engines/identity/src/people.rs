//! People as their organisation sees them: who is there, what each is called, their role, and whether they may come in. An
//! administrator changes them by hand, a directory by SCIM.
//!
//! Nobody changes somebody who may do more than they: whoever sets an address or a password could come in by it.

use std::net::IpAddr;
use std::sync::Arc;

use base::access::{Principal, Subject};
use base::{AccountId, OrganisationId, Page, PageRequest, Timestamp};
use relational::{Row, ToValue, Tx, Value, params};

use crate::accounts::{insert, normal_email, normal_name};
use crate::audit::{By, Change, note};
use crate::grant::too_wide;
use crate::groups::GroupId;
use crate::letters::{Changed, Errand};
use crate::sessions::{Kept, delete_all};
use crate::settling::Whom;
use crate::{Config, Error, Grant, Identity, Role, accounts, tickets};

/// Somebody of an organisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub id: AccountId,
    pub about: About,
    pub role: Role,
    /// Since when they cannot come in.
    pub suspended: Option<Timestamp>,
    pub is_verified: bool,
    /// By name.
    pub groups: Vec<(GroupId, String)>,
    pub created: Timestamp,
    pub changed: Timestamp,
    pub signed_in: Option<Timestamp>,
    /// One more with each change.
    pub version: i64,
}

/// What is said of somebody, by themselves, an administrator or a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// By which they sign in.
    pub email: String,
    /// What a directory calls them, in lower case; nothing where none does.
    pub user_name: Option<String>,
    /// A directory's own id of them.
    pub outside_id: Option<String>,
    pub name: Option<String>,
    pub given_name: Option<String>,
    pub family_name: Option<String>,
}

/// Somebody to make known.
#[derive(Clone)]
pub struct NewPerson {
    pub about: About,
    pub role: Role,
    pub is_suspended: bool,
    /// Without one they come in by a mailed link, by a provider, or not yet.
    pub password: Option<String>,
}

/// What changes about somebody; the rest stays.
#[derive(Clone, Default)]
pub struct PersonChange {
    pub about: Option<About>,
    pub role: Option<Role>,
    pub is_suspended: Option<bool>,
    pub password: Edit<String>,
    /// The version that the change was made from; without it the newest counts.
    pub version: Option<i64>,
}

/// What becomes of something that somebody may have or not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Edit<T> {
    #[default]
    Keep,
    Set(T),
    Clear,
}

impl<T> Edit<T> {
    pub fn of(value: Option<T>) -> Self {
        value.map_or(Self::Clear, Self::Set)
    }

    pub fn is_kept(&self) -> bool {
        matches!(self, Self::Keep)
    }

    /// What is there from now on, where anything is set.
    pub fn set(&self) -> Option<&T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Keep | Self::Clear => None,
        }
    }
}

/// Who is wanted; everybody by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeopleFilter {
    pub id: Option<AccountId>,
    pub email: Option<String>,
    /// How the address begins.
    pub email_begins: Option<String>,
    pub group: Option<GroupId>,
    /// Their name in a directory, or without one their address.
    pub user_name: Option<String>,
    pub outside_id: Option<String>,
    pub is_suspended: Option<bool>,
}

const OUTSIDE_ID_BYTES_MAX: usize = 254;
const COLUMNS: &str =
    "id, email, user_name, outside_id, name, given_name, family_name, role, suspended, verified,
    created, changed, signed_in, version";

impl About {
    /// In the one form that it is stored and compared in.
    fn normal(&self) -> Result<Self, Error> {
        Ok(Self {
            email: normal_email(&self.email)?,
            user_name: self.user_name.as_deref().map(normal_user_name).transpose()?,
            outside_id: self.outside_id.as_deref().map(outside_id).transpose()?,
            name: named(self.name.as_deref())?,
            given_name: named(self.given_name.as_deref())?,
            family_name: named(self.family_name.as_deref())?,
        })
    }
}

/// Names in a directory are told apart without regard to case (RFC 7643, section 4.1.1).
fn normal_user_name(given: &str) -> Result<String, Error> {
    let name = given.trim().to_lowercase();
    if name.is_empty() || name.len() > OUTSIDE_ID_BYTES_MAX || name.contains(char::is_control) {
        return Err(Error::Name(
            "in the directory must have 1 to 254 bytes and no control characters",
        ));
    }
    Ok(name)
}

pub(crate) fn outside_id(given: &str) -> Result<String, Error> {
    if given.is_empty() || given.len() > OUTSIDE_ID_BYTES_MAX || given.contains(char::is_control) {
        return Err(Error::Name(
            "in the directory must have 1 to 254 bytes and no control characters",
        ));
    }
    Ok(given.to_owned())
}

/// An empty name is none.
fn named(given: Option<&str>) -> Result<Option<String>, Error> {
    let given = given.map(str::trim).filter(|name| !name.is_empty());
    given.map(normal_name).transpose()
}

impl PeopleFilter {
    fn conditions(&self, organisation: OrganisationId) -> (String, Vec<Value>) {
        let lower = |text: &str| text.trim().to_lowercase().to_value();
        let beginning = self.email_begins.as_deref().map(|it| it.trim().to_ascii_lowercase());
        let letters = beginning.as_deref().map_or(0, |it| it.chars().count());
        let begins = format!("SUBSTR(email, 1, {letters}) = ?");
        let group = "id IN (SELECT account FROM group_member WHERE people_group = ?)";
        let wanted = [
            ("id = ?", self.id.map(|id| vec![id.to_value()])),
            ("email = ?", self.email.as_deref().map(|email| vec![lower(email)])),
            (&*begins, beginning.map(|it| vec![it.to_value()])),
            (
                "(user_name = ? OR (user_name IS NULL AND email = ?))",
                self.user_name.as_deref().map(|name| vec![lower(name), lower(name)]),
            ),
            ("outside_id = ?", self.outside_id.as_ref().map(|id| vec![id.to_value()])),
            (group, self.group.map(|group| vec![group.to_value()])),
            ("suspended IS NOT NULL", (self.is_suspended == Some(true)).then(Vec::new)),
            ("suspended IS NULL", (self.is_suspended == Some(false)).then(Vec::new)),
        ];
        let mut sql = "organisation = ? AND removed IS NULL".to_owned();
        let mut values = vec![organisation.to_value()];
        for (condition, given) in wanted {
            let Some(given) = given else { continue };
            sql.push_str(" AND ");
            sql.push_str(condition);
            values.extend(given);
        }
        (sql, values)
    }
}

impl Identity {
    /// The people of an organisation, in the order in which they came.
    pub async fn people(
        &self,
        organisation: OrganisationId,
        filter: &PeopleFilter,
        page: &PageRequest,
    ) -> Result<Page<Person>, Error> {
        let (conditions, mut values) = filter.conditions(organisation);
        values.push(page.after.clone().unwrap_or_default().to_value());
        values.push(count_value(page.limit + 1));
        let sql = format!(
            "SELECT {COLUMNS} FROM account WHERE {conditions} AND id > ? ORDER BY id LIMIT ?"
        );
        let rows = self.0.db.read(async move |read| read.query(&sql, &values).await).await?;
        let people = rows.iter().map(|row| self.person_of(row)).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::of(people, page.limit, |person| person.id.to_string()))
    }

    /// The same, so many of them after so many others, and how many there are at all.
    pub async fn people_at(
        &self,
        organisation: OrganisationId,
        filter: &PeopleFilter,
        (offset, limit): (usize, usize),
    ) -> Result<(Vec<Person>, usize), Error> {
        let (conditions, values) = filter.conditions(organisation);
        let part = [values.clone(), vec![count_value(limit), count_value(offset)]].concat();
        let count = format!("SELECT COUNT(*) AS count FROM account WHERE {conditions}");
        let sql = format!(
            "SELECT {COLUMNS} FROM account WHERE {conditions} ORDER BY id LIMIT ? OFFSET ?"
        );
        let found = self.0.db.read(async move |read| {
            let count: i64 = read.query_one(&count, &values).await?.get("count")?;
            Ok::<_, Error>((read.query(&sql, &part).await?, count))
        });
        let (rows, count) = found.await?;
        let people = rows.iter().map(|row| self.person_of(row)).collect::<Result<Vec<_>, _>>()?;
        Ok((people, usize::try_from(count).unwrap_or(0)))
    }

    pub async fn person(
        &self,
        organisation: OrganisationId,
        id: AccountId,
    ) -> Result<Person, Error> {
        let row = self.0.db.read(async move |read| {
            let sql = format!(
                "SELECT {COLUMNS} FROM account WHERE id = ? AND organisation = ? AND removed IS NULL"
            );
            Ok::<_, Error>(read.query_optional(&sql, params![id, organisation]).await?)
        });
        self.person_of(&row.await?.ok_or(Error::NotThere("person"))?)
    }

    /// Makes somebody known who did not ask for it: a directory says that they are there.
    pub async fn add_person(
        &self,
        (by, from): (By<'_>, IpAddr),
        new: NewPerson,
    ) -> Result<Person, Error> {
        let inner = &self.0;
        let organisation = by.0.organisation;
        let about = new.about.normal()?;
        self.check_role(by.0, new.role)?;
        self.room_for_an_account()?;
        let now = inner.base.clock.now();
        // Whoever has an organisation of their own could ask so for everybody's addresses.
        if organisation != OrganisationId::DEFAULT {
            inner.attempts.sign_up(now, from)?;
        }
        let hash = self.hash_of(new.password.as_deref(), &about.email).await?;
        let account = AccountId::new(now, &inner.base.entropy);
        let (base, role, is_suspended) = (inner.base.clone(), new.role, new.is_suspended);
        let change = Change {
            detail: role.text().into(),
            ..Change::of(by, "account.add", format!("account/{account}"))
        };
        let db = inner.db.clone();
        let add = async move |tx: &mut Tx| {
            let (email, hash) = (&*about.email, hash.as_deref());
            let new = accounts::Insert { account, organisation, email, role, hash, verified: None };
            if insert(tx, &base, new).await? == accounts::NewPerson::Taken {
                return Err(Error::AccountExists);
            }
            check_user_name(tx, (organisation, account), &about).await?;
            set_about(tx, account, &about).await?;
            let sql = "UPDATE account SET suspended = ?, changed = ? WHERE id = ?";
            tx.execute(sql, params![is_suspended.then_some(now), now, account]).await?;
            note(tx, &base, &change).await
        };
        self.settle(Whom::Person(account), async move { db.write(add).await }).await?;
        self.person(organisation, account).await
    }

    /// Changes somebody. Whoever is suspended, or gets another password, is signed out everywhere.
    pub async fn change_person(
        &self,
        (by, from): (By<'_>, IpAddr),
        id: AccountId,
        change: PersonChange,
    ) -> Result<Person, Error> {
        let organisation = by.0.organisation;
        self.check_above(by.0, id)?;
        if let Some(role) = change.role {
            self.check_role(by.0, role)?;
        }
        let about = change.about.as_ref().map(About::normal).transpose()?;
        // A session left open is not enough for what one enters by.
        let is_own = by.0.subject == Subject::Account(id);
        let is_readdressed = about.as_ref().is_some_and(|about| self.is_another(id, &about.email));
        if is_own && (is_readdressed || !change.password.is_kept()) {
            return Err(Error::CurrentPassword);
        }
        // As for new people: addresses are asked for and mailed to.
        if is_readdressed && organisation != OrganisationId::DEFAULT {
            self.0.attempts.sign_up(self.0.base.clock.now(), from)?;
        }
        let hash = match change.password {
            Edit::Set(password) => {
                let own = self.email_of(id);
                let email = about.as_ref().map_or(&*own, |about| &about.email);
                Edit::of(self.hash_of(Some(&password), email).await?)
            }
            Edit::Clear => Edit::Clear,
            Edit::Keep => Edit::Keep,
        };
        let wanted = Wanted {
            can_send: self.0.post.can_send(),
            organisation,
            id,
            about,
            role: change.role,
            is_suspended: change.is_suspended,
            hash,
            version: change.version,
            noted: Change::of(by, "account.change", format!("account/{id}")),
            own: self.with_grants(by.0, <[Grant]>::to_vec),
            config: self.0.config.clone(),
        };
        let (base, db, given) = (self.0.base.clone(), self.0.db.clone(), wanted);
        let write = async move |tx: &mut Tx| given.write(tx, &base).await;
        let written = self.settle(Whom::Person(id), async move { db.write(write).await }).await?;
        if written.is_reset {
            self.tell(id, Changed::Password);
        }
        if written.is_readdressed && self.0.checks_email {
            // They can ask for it once more.
            if let Err(error) = self.0.post.take(Errand::Verify { account: id }) {
                tracing::warn!(%error, "nobody is asked to show that a new address is theirs");
            }
        }
        self.person(organisation, id).await
    }

    fn is_another(&self, id: AccountId, email: &str) -> bool {
        self.0.live.read().accounts.get(&id).is_some_and(|account| *account.email != *email)
    }

    /// Empty where there is no such account.
    pub(crate) fn email_of(&self, id: AccountId) -> Arc<str> {
        self.0
            .live
            .read()
            .accounts
            .get(&id)
            .map(|account| account.email.clone())
            .unwrap_or_default()
    }

    /// Whether the principal may do all that somebody of their organisation may.
    pub(crate) fn check_above(&self, principal: &Principal, id: AccountId) -> Result<(), Error> {
        let grants = {
            let live = self.0.live.read();
            let account = live.accounts.get(&id);
            let account = account.filter(|it| it.organisation == principal.organisation);
            account.ok_or(Error::NotThere("person"))?.grants(&self.0.config).to_vec()
        };
        self.check_within(principal, &grants).map_err(|_| Error::PersonAbove)
    }

    async fn hash_of(&self, password: Option<&str>, email: &str) -> Result<Option<String>, Error> {
        let Some(password) = password else { return Ok(None) };
        self.check_new(password, email).await?;
        Ok(Some(self.0.hasher.hash(password).await?))
    }

    fn person_of(&self, row: &Row) -> Result<Person, Error> {
        let id: AccountId = row.get("id")?;
        let live = self.0.live.read();
        let groups = live.accounts.get(&id).into_iter().flat_map(|account| &account.groups);
        let name = |group: &GroupId| Some((*group, live.groups.get(group)?.name.to_string()));
        let mut groups: Vec<(GroupId, String)> = groups.filter_map(name).collect();
        groups.sort_by(|one, other| one.1.cmp(&other.1));
        let created: Timestamp = row.get("created")?;
        Ok(Person {
            id,
            about: about_of(row)?,
            role: Role::parse(&row.get::<String>("role")?)?,
            suspended: row.get("suspended")?,
            is_verified: !self.0.checks_email
                || row.get::<Option<Timestamp>>("verified")?.is_some(),
            groups,
            created,
            changed: row.get::<Option<Timestamp>>("changed")?.unwrap_or(created),
            signed_in: row.get("signed_in")?,
            version: row.get("version")?,
        })
    }
}

/// How many, for a query.
pub(crate) fn count_value(count: usize) -> Value {
    i64::try_from(count).unwrap_or(i64::MAX).to_value()
}

/// A change that was looked at and goes into rows.
#[derive(Clone)]
struct Wanted {
    /// A mailed link is a way in.
    can_send: bool,
    organisation: OrganisationId,
    id: AccountId,
    about: Option<About>,
    role: Option<Role>,
    is_suspended: Option<bool>,
    /// Of the password from now on.
    hash: Edit<String>,
    version: Option<i64>,
    /// Who changes it, to be written down with each deed.
    noted: Change,
    /// What whoever changes it may do.
    own: Vec<Grant>,
    config: Config,
}

/// What they are told of a change that was written.
#[derive(Default)]
struct Written {
    is_readdressed: bool,
    is_reset: bool,
}

impl Wanted {
    /// Writes nothing where all is so already.
    async fn write(&self, tx: &mut Tx, base: &base::Base) -> Result<Written, Error> {
        let Self { organisation, id, .. } = *self;
        let row = locked(tx, organisation, id).await?;
        check_above_still(tx, (&self.own, &self.config), id, &row).await?;
        let (was, about) = (Standing::of(&row)?, about_of(&row)?);
        if self.version.is_some_and(|version| version != was.version) {
            return Err(Error::Changed);
        }
        let (role, now) = (self.role.unwrap_or(was.role), base.clock.now());
        let is_suspended = self.is_suspended.unwrap_or(was.is_suspended);
        let next = self.about.as_ref().filter(|next| **next != about);
        let email = next.map(|next| &next.email).filter(|email| **email != about.email);
        let is_shut_out = is_suspended && !was.is_suspended;
        let deeds = [
            (email.is_some(), "account.set-email", ""),
            (next.is_some() && email.is_none(), "account.set-name", ""),
            (role != was.role, "account.set-role", role.text()),
            (is_shut_out, "account.suspend", ""),
            (was.is_suspended && !is_suspended, "account.restore", ""),
            (!self.hash.is_kept(), "account.set-password", ""),
        ];
        if deeds.iter().all(|(is_done, ..)| !is_done) {
            return Ok(Written::default());
        }
        if let Some(next) = next {
            let sql = "SELECT 1 AS taken FROM account WHERE email = ? AND id <> ?";
            if tx.query_optional(sql, params![next.email, id]).await?.is_some() {
                return Err(Error::AccountExists);
            }
            check_user_name(tx, (organisation, id), next).await?;
            set_about(tx, id, next).await?;
        }
        let suspended = is_suspended.then_some(was.suspended.unwrap_or(now));
        let sql = "UPDATE account SET role = ?, suspended = ?, changed = ?, version = version + 1
            WHERE id = ?";
        tx.execute(sql, params![role.text(), suspended, now, id]).await?;
        if email.is_some() {
            // Links that wait went to the address from before.
            tickets::forget(tx, id).await?;
            let sql = "UPDATE account SET verified = NULL, readdressed = ? WHERE id = ?";
            tx.execute(sql, params![now, id]).await?;
        }
        if !self.hash.is_kept() {
            let sql = "UPDATE account SET password_hash = ? WHERE id = ?";
            tx.execute(sql, params![self.hash.set(), id]).await?;
        }
        if is_shut_out || !self.hash.is_kept() {
            sign_out(tx, id).await?;
        }
        let stays = role == Role::Admin && !is_suspended && self.hash != Edit::Clear;
        let one_went = was.is_administrator() && !stays;
        check_administrators(tx, (organisation, self.can_send), one_went).await?;
        for (_, action, detail) in deeds.into_iter().filter(|(is_done, ..)| *is_done) {
            let change = Change { action, detail: detail.into(), ..self.noted.clone() };
            note(tx, base, &change).await?;
        }
        Ok(Written { is_readdressed: email.is_some(), is_reset: !self.hash.is_kept() })
    }
}

/// Where somebody stands before a change.
pub(crate) struct Standing {
    role: Role,
    suspended: Option<Timestamp>,
    is_suspended: bool,
    version: i64,
}

impl Standing {
    pub(crate) fn of(row: &Row) -> Result<Self, Error> {
        let suspended: Option<Timestamp> = row.get("suspended")?;
        let role = Role::parse(&row.get::<String>("role")?)?;
        Ok(Self {
            role,
            suspended,
            is_suspended: suspended.is_some(),
            version: row.get("version")?,
        })
    }

    pub(crate) fn is_administrator(&self) -> bool {
        self.role == Role::Admin && !self.is_suspended
    }
}

/// Lets no other change of an organisation's people or groups be made until this one ends.
pub(crate) async fn lock(tx: &mut Tx, organisation: OrganisationId) -> Result<(), Error> {
    let sql = "UPDATE organisation SET name = name WHERE id = ?";
    tx.execute(sql, params![organisation]).await?;
    Ok(())
}

/// Somebody's row, while no other change of their organisation's people is made: two administrators who suspend each other
/// at once must not both succeed.
pub(crate) async fn locked(
    tx: &mut Tx,
    organisation: OrganisationId,
    id: AccountId,
) -> Result<Row, Error> {
    lock(tx, organisation).await?;
    let sql = format!(
        "SELECT {COLUMNS} FROM account WHERE id = ? AND organisation = ? AND removed IS NULL"
    );
    let row = tx.query_optional(&sql, params![id, organisation]).await?;
    row.ok_or(Error::NotThere("person"))
}

/// Whether somebody may no more than whoever changes them, as it is now in rows: between the look at memory and this, they may
/// have been given more.
pub(crate) async fn check_above_still(
    tx: &mut Tx,
    (own, config): (&[Grant], &Config),
    id: AccountId,
    row: &Row,
) -> Result<(), Error> {
    let role = Role::parse(&row.get::<String>("role")?)?;
    let sql = "SELECT g.action, g.resource FROM access_grant g
        JOIN group_member m ON m.people_group = g.subject WHERE m.account = ?";
    let mut their = config.grants_of(role).to_vec();
    for row in tx.query(sql, params![id]).await? {
        their.push(Grant::of(&row)?);
    }
    if too_wide(own, &their).is_none() { Ok(()) } else { Err(Error::PersonAbove) }
}

/// After an administrator went: whether one is left who can come in.
pub(crate) async fn check_administrators(
    tx: &mut Tx,
    (organisation, can_send): (OrganisationId, bool),
    one_went: bool,
) -> Result<(), Error> {
    // The first organisation's is printed a link at each start while none has a password.
    let way_in = if can_send || organisation == OrganisationId::DEFAULT {
        ""
    } else {
        "AND (password_hash IS NOT NULL
            OR EXISTS (SELECT 1 FROM passkey WHERE passkey.account = account.id)
            OR EXISTS (SELECT 1 FROM provider_link WHERE provider_link.account = account.id))"
    };
    let sql = format!(
        "SELECT 1 AS there FROM account WHERE organisation = ? AND role = 'admin'
            AND suspended IS NULL AND removed IS NULL {way_in} LIMIT 1"
    );
    if one_went && tx.query_optional(&sql, params![organisation]).await?.is_none() {
        return Err(Error::LastAdministrator);
    }
    Ok(())
}

async fn check_user_name(
    tx: &mut Tx,
    (organisation, id): (OrganisationId, AccountId),
    about: &About,
) -> Result<(), Error> {
    let Some(name) = &about.user_name else { return Ok(()) };
    let sql =
        "SELECT 1 AS taken FROM account WHERE organisation = ? AND removed IS NULL AND id <> ?
        AND (user_name = ? OR (user_name IS NULL AND email = ?))";
    if tx.query_optional(sql, params![organisation, id, name, name]).await?.is_some() {
        return Err(Error::NameTaken("person"));
    }
    Ok(())
}

pub(crate) async fn set_about(tx: &mut Tx, id: AccountId, about: &About) -> Result<(), Error> {
    let About { email, user_name, outside_id, name, given_name, family_name } = about;
    let sql =
        "UPDATE account SET email = ?, user_name = ?, outside_id = ?, name = ?, given_name = ?,
        family_name = ? WHERE id = ?";
    let values = params![email, user_name, outside_id, name, given_name, family_name, id];
    tx.execute(sql, values).await?;
    Ok(())
}

/// Ends all that somebody is signed in by, also at tools and by links that wait.
pub(crate) async fn sign_out(tx: &mut Tx, id: AccountId) -> Result<(), Error> {
    delete_all(tx, id, Kept::Nothing).await?;
    tickets::forget(tx, id).await
}

fn about_of(row: &Row) -> Result<About, Error> {
    Ok(About {
        email: row.get("email")?,
        user_name: row.get("user_name")?,
        outside_id: row.get("outside_id")?,
        name: row.get("name")?,
        given_name: row.get("given_name")?,
        family_name: row.get("family_name")?,
    })
}
