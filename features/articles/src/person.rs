//! People: an account with a name, what it says of itself, a picture, and whom it follows.

use base::AccountId;
use base::access::{Door, Principal};
use identity::{Entered, Holds, NewSession, NewUser, SessionId, SignIn, UserChange, Visitor};
use relational::{Read, Row, Tx, params};
use unicode_normalization::UnicodeNormalization;

use crate::error::{BLANK, Faults};
use crate::store::{Statement, person_columns};
use crate::{Config, Error, House, Result, SignUp};

/// Somebody as others see them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Profile {
    pub username: String,
    pub bio: Option<String>,
    pub image: Option<String>,
    pub following: bool,
}

/// Who wants to write here.
#[derive(Clone)]
pub(crate) struct NewPerson {
    pub username: String,
    pub email: String,
    pub password: String,
}

/// What somebody changes about themselves; an empty text about oneself is none.
#[derive(Clone, Default)]
#[expect(clippy::option_option, reason = "left as it is, taken away, or set")]
pub(crate) struct PersonChange {
    pub username: Option<String>,
    pub email: Option<String>,
    pub password: Option<String>,
    pub bio: Option<Option<String>>,
    pub image: Option<Option<String>>,
}

/// What cached answers depend on that show somebody.
pub(crate) const PEOPLE: &str = "article-people";

/// The form in which names are compared: two that look alike in capitals only are one.
pub(crate) fn username_key(username: &str) -> String {
    username.trim().nfc().flat_map(char::to_lowercase).collect()
}

pub(crate) fn profile_of(row: &Row) -> Result<Profile> {
    Ok(Profile {
        username: row.get("username")?,
        bio: row.get("bio")?,
        image: row.get("image")?,
        following: row.get::<i64>("following")? > 0,
    })
}

/// Somebody who was looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub account: AccountId,
    pub username: String,
    pub image: Option<String>,
}

/// Whose name, or whose id, begins in some way: a stretch of an index of organisation and that column, and no more of it than is
/// shown. A limit that is bound would make SQLite plan the statement anew at each run.
pub(crate) fn beginning(column: &str, limit: u32) -> String {
    format!(
        "SELECT account, username, image FROM article_person
        WHERE organisation = ? AND {column} >= ? AND {column} < ? ORDER BY {column} LIMIT {limit}"
    )
}

/// Letters of an id that say enough to look for it.
const ID_LETTERS_MIN: usize = 4;

impl House {
    /// People whose names begin with a text, in the order of names; behind them those whose ids do.
    pub(crate) async fn people(&self, begins: &str, limit: u32) -> Result<Vec<Found>> {
        let mut faults = Faults::default();
        faults.text("q", begins, self.config.username_characters_max);
        faults.check()?;
        let (organisation, name) = (self.organisation, username_key(begins));
        let is_id = name.len() >= ID_LETTERS_MIN
            && name.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        let columns: &[&str] = if is_id { &["username_key", "account"] } else { &["username_key"] };
        let found = self.db.read(async move |read| {
            // Sorts behind everything that begins so.
            let end = format!("{name}\u{10FFFF}");
            let mut found: Vec<Found> = Vec::new();
            for column in columns {
                let sql = beginning(column, limit);
                for row in read.query(&sql, params![organisation, name, end]).await? {
                    let account = row.get("account")?;
                    if found.len() < limit as usize && found.iter().all(|it| it.account != account)
                    {
                        let (username, image) = (row.get("username")?, row.get("image")?);
                        found.push(Found { account, username, image });
                    }
                }
            }
            Ok(found)
        });
        found.await
    }

    /// Makes an account and lets it in.
    pub(crate) async fn register(
        &self,
        visitor: &Visitor,
        is_here: bool,
        new: NewPerson,
    ) -> Result<(NewSession, Profile)> {
        let may = match self.config.sign_up {
            SignUp::Open => true,
            SignUp::Loopback => is_here,
            SignUp::Closed => false,
        };
        if !may {
            return Err(Error::SignUpClosed);
        }
        let mut faults = Faults::default();
        check_username(&self.config, &mut faults, &new.username);
        for (field, text) in [("email", &new.email), ("password", &new.password)] {
            if text.trim().is_empty() {
                faults.add(field, BLANK);
            }
        }
        faults.check()?;
        let username: String = new.username.trim().nfc().collect();
        let (organisation, base) = (self.organisation, self.base.clone());
        let user = NewUser {
            organisation,
            email: new.email,
            password: new.password,
            is_counted: !is_here,
        };
        let name = username.clone();
        let joined = self.identity.join(visitor, user, async move |tx: &mut Tx, account| {
            let key = username_key(&name);
            if account_of(tx, organisation, &key).await?.is_some() {
                return Err(Error::Taken("username"));
            }
            insert(tx, organisation, account, (&name, &key), base.clock.now()).await
        });
        let session = joined.await?;
        Ok((session, Profile { username, bio: None, image: None, following: false }))
    }

    /// Lets an account in by its password.
    pub(crate) async fn log_in(
        &self,
        visitor: &Visitor,
        email: String,
        password: String,
    ) -> Result<(NewSession, Profile)> {
        let mut faults = Faults::default();
        for (field, text) in [("email", &email), ("password", &password)] {
            if text.trim().is_empty() {
                faults.add(field, BLANK);
            }
        }
        faults.check()?;
        let given = SignIn { email, password, holds: Holds::Bearer };
        let session = match self.identity.sign_in(visitor, given).await? {
            Entered::In(session) => session,
            Entered::Second(_) => return Err(Error::SecondFactor),
        };
        if session.principal.organisation != self.organisation {
            // Its account is of another organisation: here it is nobody's.
            self.identity.end_session((&session.principal, Door::Http), session.id).await?;
            return Err(Error::Credentials);
        }
        let profile = self.own_profile(&session.principal).await?;
        Ok((session, profile))
    }

    /// What somebody says of themselves; made from their address when they come here first.
    pub(crate) async fn own_profile(&self, principal: &Principal) -> Result<Profile> {
        let account = self.account(principal)?;
        let organisation = self.organisation;
        let found = self.db.read(async move |read| own(read, organisation, account).await);
        if let Some(profile) = found.await? {
            return Ok(profile);
        }
        let (house, principal) = (self.clone(), principal.clone());
        let made = self.db.write(async move |tx| house.ensure(tx, account, &principal.name).await);
        made.await
    }

    /// Changes what somebody says of themselves, and how they come in.
    pub(crate) async fn change_person(
        &self,
        principal: &Principal,
        keep: Option<SessionId>,
        change: PersonChange,
    ) -> Result<(Principal, Profile)> {
        let account = self.account(principal)?;
        let mut faults = Faults::default();
        if let Some(username) = &change.username {
            check_username(&self.config, &mut faults, username);
        }
        for (field, text) in [("email", &change.email), ("password", &change.password)] {
            if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
                faults.add(field, BLANK);
            }
        }
        let most = self.config.bio_characters_max;
        if change.bio.iter().flatten().any(|bio| bio.chars().count() > most) {
            faults.add("bio", format!("is too long (maximum is {most} characters)"));
        }
        if let Some(Some(bio)) = &change.bio {
            faults.zero("bio", bio);
        }
        check_image(&self.config, &mut faults, change.image.as_ref().and_then(Option::as_deref));
        faults.check()?;
        let PersonChange { username, email, password, bio, image } = change;
        let house = self.clone();
        let (organisation, name) = (self.organisation, principal.name.clone());
        let given = |text: Option<Option<String>>| {
            text.map(|text| text.filter(|text| !text.trim().is_empty()))
        };
        let (bio, image) = (given(bio), given(image));
        let username = username.map(|username| username.trim().nfc().collect::<String>());
        let by = (principal, Door::Http);
        let how = UserChange { email, password };
        let changed = self.identity.change_user(by, keep, how, async move |tx: &mut Tx| {
            let was = house.ensure(tx, account, &name).await?;
            let now = Profile {
                username: username.clone().unwrap_or_else(|| was.username.clone()),
                bio: bio.clone().unwrap_or_else(|| was.bio.clone()),
                image: image.clone().unwrap_or_else(|| was.image.clone()),
                following: was.following,
            };
            // Front ends send everything back: only what others see otherwise makes their answers old.
            if now == was {
                return Ok(());
            }
            let key = username_key(&now.username);
            if account_of(tx, organisation, &key).await?.is_some_and(|of| of != account) {
                return Err(Error::Taken("username"));
            }
            let sql = "UPDATE article_person
                SET username = ?, username_key = ?, bio = ?, image = ?
                WHERE organisation = ? AND account = ?";
            let row = params![now.username, key, now.bio, now.image, organisation, account];
            tx.execute(sql, row).await?;
            house.results.bump(tx, &[PEOPLE]).await?;
            Ok::<_, Error>(())
        });
        let principal = changed.await?;
        let profile = self.own_profile(&principal).await?;
        Ok((principal, profile))
    }

    /// Somebody as the viewer sees them.
    pub(crate) async fn profile(
        &self,
        viewer: Option<AccountId>,
        username: &str,
    ) -> Result<Profile> {
        let (organisation, key) = (self.organisation, username_key(username));
        let found = self.db.read(async move |read| {
            let mut statement = Statement::default();
            statement.add("SELECT ", &[]);
            person_columns(&mut statement, organisation, viewer);
            let place = " FROM article_person p WHERE p.organisation = ? AND p.username_key = ?";
            statement.add(place, params![organisation, key]);
            let row = read.query_optional(&statement.sql, &statement.values).await?;
            profile_of(&row.ok_or(Error::NotFound("profile"))?)
        });
        found.await
    }

    /// Begins or ends following somebody; again, it changes nothing.
    pub(crate) async fn follow(
        &self,
        principal: &Principal,
        username: &str,
        follows: bool,
    ) -> Result<Profile> {
        let (organisation, key) = (self.organisation, username_key(username));
        let account = self.account(principal)?;
        let (house, name) = (self.clone(), principal.name.clone());
        let followed = self.db.write(async move |tx| {
            let sql = "SELECT account, username, bio, image, 0 AS following FROM article_person
                WHERE organisation = ? AND username_key = ?";
            let row = tx.query_optional(sql, params![organisation, key]).await?;
            let row = row.ok_or(Error::NotFound("profile"))?;
            let of: AccountId = row.get("account")?;
            house.ensure(tx, account, &name).await?;
            let whom = params![organisation, account, of];
            let sql = "SELECT 1 AS there FROM article_follow
                WHERE organisation = ? AND follower = ? AND followed = ?";
            let is_there = tx.query_optional(sql, whom).await?.is_some();
            if follows && !is_there {
                let sql = "INSERT INTO article_follow (organisation, follower, followed, created)
                    VALUES (?, ?, ?, ?)";
                let now = house.base.clock.now();
                tx.execute(sql, params![organisation, account, of, now]).await?;
            } else if !follows && is_there {
                let sql = "DELETE FROM article_follow
                    WHERE organisation = ? AND follower = ? AND followed = ?";
                tx.execute(sql, whom).await?;
            }
            Ok::<_, Error>(Profile { following: follows, ..profile_of(&row)? })
        });
        followed.await
    }

    /// Somebody as they see themselves; an account that comes here first gets a name made of its address.
    pub(crate) async fn ensure(
        &self,
        tx: &mut Tx,
        account: AccountId,
        email: &str,
    ) -> Result<Profile> {
        if let Some(profile) = own(tx, self.organisation, account).await? {
            return Ok(profile);
        }
        let most = self.config.username_characters_max.saturating_sub(9).max(1);
        let plain: String =
            email.split('@').next().unwrap_or_default().chars().take(most).collect();
        let plain = if plain.is_empty() { "reader".to_owned() } else { plain };
        let mut name = plain.clone();
        while account_of(tx, self.organisation, &username_key(&name)).await?.is_some() {
            name = format!("{plain}-{}", crate::slug::suffix(&self.base.entropy));
        }
        let (key, now) = (username_key(&name), self.base.clock.now());
        insert(tx, self.organisation, account, (&name, &key), now).await?;
        Ok(Profile { username: name, bio: None, image: None, following: false })
    }
}

fn check_username(config: &Config, faults: &mut Faults, username: &str) {
    faults.text("username", username, config.username_characters_max);
    if username.contains(char::is_control) {
        faults.add("username", "must not have control characters");
    }
}

/// A picture is an address that a page may show.
fn check_image(config: &Config, faults: &mut Faults, image: Option<&str>) {
    let Some(image) = image.map(str::trim).filter(|image| !image.is_empty()) else { return };
    if image.len() > config.image_bytes_max {
        let most = config.image_bytes_max;
        faults.add("image", format!("is too long (maximum is {most} bytes)"));
    }
    let is_address = ["https://", "http://", "/"].iter().any(|begin| image.starts_with(begin));
    if !is_address || image.contains(|letter: char| letter.is_control() || letter == ' ') {
        faults.add("image", "must be an address that begins with https:// or http://");
    }
}

async fn own(
    read: &mut Read,
    organisation: base::OrganisationId,
    account: AccountId,
) -> Result<Option<Profile>> {
    let mut statement = Statement::default();
    statement.add("SELECT ", &[]);
    person_columns(&mut statement, organisation, Some(account));
    let place = " FROM article_person p WHERE p.organisation = ? AND p.account = ?";
    statement.add(place, params![organisation, account]);
    let row = read.query_optional(&statement.sql, &statement.values).await?;
    row.as_ref().map(profile_of).transpose()
}

/// Whose name it is.
pub(crate) async fn account_of(
    read: &mut Read,
    organisation: base::OrganisationId,
    key: &str,
) -> Result<Option<AccountId>> {
    let sql = "SELECT account FROM article_person WHERE organisation = ? AND username_key = ?";
    let row = read.query_optional(sql, params![organisation, key]).await?;
    Ok(row.map(|row| row.get("account")).transpose()?)
}

async fn insert(
    tx: &mut Tx,
    organisation: base::OrganisationId,
    account: AccountId,
    (name, key): (&str, &str),
    now: base::Timestamp,
) -> Result<()> {
    let sql = "INSERT INTO article_person (organisation, account, username, username_key, created)
        VALUES (?, ?, ?, ?, ?)";
    tx.execute(sql, params![organisation, account, name, key, now]).await?;
    Ok(())
}
