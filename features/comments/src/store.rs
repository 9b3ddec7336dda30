//! Rows: sites, pages, comments, likes, reports, bans, and counts by quarters of an hour.

use std::borrow::Cow;

use base::{AccountId, Id, OrganisationId, Timestamp};
use relational::{Migration, Read, Row, Tx, Value, params};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::site::{OrganisationText, Settings, Site, SiteId};
use crate::{Error, Result, statistics};

pub(crate) const MIGRATIONS: &[Migration] = &[FIRST, PERSONS];

const PERSONS: Migration = Migration {
    id: "0002-persons",
    sql: "
CREATE INDEX comment_entries_account ON comment_entries (account, id);
CREATE INDEX comment_tokens_account ON comment_tokens (account);
",
};

const FIRST: Migration = Migration {
    id: "0001-comments",
    sql: "
CREATE TABLE comment_sites (
    organisation VARCHAR(36) NOT NULL,
    id VARCHAR(36) NOT NULL,
    key VARCHAR(32) NOT NULL,
    settings TEXT NOT NULL,
    salt VARCHAR(64) NOT NULL,
    created BIGINT NOT NULL,
    removed BIGINT,
    PRIMARY KEY (organisation, id)
);
CREATE UNIQUE INDEX comment_sites_key ON comment_sites (key);
CREATE TABLE comment_pages (
    organisation VARCHAR(36) NOT NULL,
    site VARCHAR(36) NOT NULL,
    page VARCHAR(43) NOT NULL,
    url TEXT NOT NULL,
    title TEXT NOT NULL,
    comments BIGINT NOT NULL,
    is_closed BIGINT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (organisation, site, page)
);
CREATE TABLE comment_entries (
    organisation VARCHAR(36) NOT NULL,
    site VARCHAR(36) NOT NULL,
    page VARCHAR(43) NOT NULL,
    id VARCHAR(36) NOT NULL,
    nonce VARCHAR(64) NOT NULL,
    parent VARCHAR(36),
    state VARCHAR(8) NOT NULL,
    reason VARCHAR(16),
    author VARCHAR(43) NOT NULL,
    address VARCHAR(43) NOT NULL,
    account VARCHAR(36),
    name VARCHAR(100) NOT NULL,
    password TEXT,
    source TEXT NOT NULL,
    body TEXT NOT NULL,
    is_owner BIGINT NOT NULL,
    is_secret BIGINT NOT NULL,
    is_pinned BIGINT NOT NULL,
    likes BIGINT NOT NULL,
    reports BIGINT NOT NULL,
    created BIGINT NOT NULL,
    edited BIGINT,
    PRIMARY KEY (organisation, site, page, id)
);
CREATE UNIQUE INDEX comment_entries_id ON comment_entries (organisation, site, id);
CREATE UNIQUE INDEX comment_entries_nonce ON comment_entries (organisation, site, page, nonce);
CREATE INDEX comment_entries_state ON comment_entries (organisation, site, state, id);
CREATE INDEX comment_entries_author ON comment_entries (organisation, site, author, state);
CREATE TABLE comment_likes (
    organisation VARCHAR(36) NOT NULL,
    site VARCHAR(36) NOT NULL,
    entry VARCHAR(36) NOT NULL,
    voter VARCHAR(43) NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (organisation, site, entry, voter)
);
CREATE TABLE comment_reports (
    organisation VARCHAR(36) NOT NULL,
    site VARCHAR(36) NOT NULL,
    entry VARCHAR(36) NOT NULL,
    voter VARCHAR(43) NOT NULL,
    reason TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (organisation, site, entry, voter)
);
CREATE TABLE comment_bans (
    organisation VARCHAR(36) NOT NULL,
    site VARCHAR(36) NOT NULL,
    mark VARCHAR(43) NOT NULL,
    name VARCHAR(100) NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (organisation, site, mark)
);
CREATE TABLE comment_quarters (
    organisation VARCHAR(36) NOT NULL,
    site VARCHAR(36) NOT NULL,
    quarter BIGINT NOT NULL,
    comments BIGINT NOT NULL,
    PRIMARY KEY (organisation, site, quarter)
);
CREATE TABLE comment_tokens (
    organisation VARCHAR(36) NOT NULL,
    site VARCHAR(36) NOT NULL,
    token VARCHAR(43) NOT NULL,
    home VARCHAR(36) NOT NULL,
    account VARCHAR(36) NOT NULL,
    name VARCHAR(100) NOT NULL,
    is_owner BIGINT NOT NULL,
    expires BIGINT NOT NULL,
    PRIMARY KEY (organisation, site, token)
);
",
};

#[derive(Debug)]
pub(crate) enum EntryKind {}
/// Names a comment; later ones sort after earlier ones.
pub(crate) type EntryId = Id<EntryKind>;

/// Where a comment is between its writer and its readers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "EntryState")]
pub(crate) enum State {
    #[default]
    Shown,
    Held,
    Spam,
    Deleted,
}

impl State {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Shown => "shown",
            Self::Held => "held",
            Self::Spam => "spam",
            Self::Deleted => "deleted",
        }
    }

    fn of(text: &str) -> Result<Self> {
        [Self::Shown, Self::Held, Self::Spam, Self::Deleted]
            .into_iter()
            .find(|state| state.text() == text)
            .ok_or_else(|| Error::damaged("a comment's state"))
    }
}

/// A comment as rows have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub page: String,
    pub id: EntryId,
    pub nonce: String,
    pub parent: Option<EntryId>,
    pub state: State,
    /// Why it is held.
    pub reason: Option<String>,
    /// A digest of the account, or of the browser of a guest.
    pub author: String,
    /// A digest of the address on the network.
    pub address: String,
    pub account: Option<String>,
    pub name: String,
    pub password: Option<String>,
    /// As it was written.
    pub source: String,
    /// As it is shown: the tree of `markup`, as JSON.
    pub body: String,
    pub is_owner: bool,
    pub is_secret: bool,
    pub is_pinned: bool,
    pub likes: i64,
    pub reports: i64,
    pub created: Timestamp,
    pub edited: Option<Timestamp>,
}

/// Organisation and site: what every row of comments belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Of<'a> {
    pub organisation: OrganisationId,
    pub site: &'a str,
}

pub(crate) const ENTRY: &str = "page, id, nonce, parent, state, reason, author, address, account, name, password, source, body,
    is_owner, is_secret, is_pinned, likes, reports, created, edited";

pub(crate) fn entry(row: &Row) -> Result<Entry> {
    Ok(Entry {
        page: row.get("page")?,
        id: row.get("id")?,
        nonce: row.get("nonce")?,
        parent: row.get("parent")?,
        state: State::of(&row.get::<String>("state")?)?,
        reason: row.get("reason")?,
        author: row.get("author")?,
        address: row.get("address")?,
        account: row.get("account")?,
        name: row.get("name")?,
        password: row.get("password")?,
        source: row.get("source")?,
        body: row.get("body")?,
        is_owner: row.get("is_owner")?,
        is_secret: row.get("is_secret")?,
        is_pinned: row.get("is_pinned")?,
        likes: row.get("likes")?,
        reports: row.get("reports")?,
        created: row.get("created")?,
        edited: row.get("edited")?,
    })
}

// Sites.

const SITE: &str = "organisation, id, key, settings, salt, created";

fn site(row: &Row) -> Result<Site> {
    let settings = row.get::<String>("settings")?;
    let settings: Settings =
        serde_json::from_str(&settings).map_err(|_| Error::damaged("a site's settings"))?;
    Ok(Site {
        organisation: OrganisationText(row.get("organisation")?),
        id: row.get("id")?,
        key: row.get("key")?,
        authorities: settings.authorities(),
        settings,
        salt: row.get("salt")?,
        created: row.get("created")?,
    })
}

/// The one look-up that spans organisations: a key says whose site it is.
pub(crate) async fn site_of_key(read: &mut Read, key: &str) -> Result<Option<Site>> {
    let sql = format!("SELECT {SITE} FROM comment_sites WHERE key = ? AND removed IS NULL");
    read.query_optional(&sql, params![key]).await?.as_ref().map(site).transpose()
}

pub(crate) async fn sites(
    read: &mut Read,
    organisation: OrganisationId,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Site>> {
    let sql = format!(
        "SELECT {SITE} FROM comment_sites WHERE organisation = ? AND id > ? AND removed IS NULL ORDER BY id LIMIT ?"
    );
    let rows = read.query(&sql, params![organisation, after.unwrap_or(""), limit]).await?;
    rows.iter().map(site).collect()
}

pub(crate) async fn site_of_id(
    read: &mut Read,
    organisation: OrganisationId,
    id: &str,
) -> Result<Site> {
    let sql = format!(
        "SELECT {SITE} FROM comment_sites WHERE organisation = ? AND id = ? AND removed IS NULL"
    );
    let row = read.query_optional(&sql, params![organisation, id]).await?;
    row.as_ref().map_or_else(|| Err(Error::NotFound("site")), site)
}

pub(crate) async fn add_site(tx: &mut Tx, site: &Site, most: usize) -> Result<()> {
    let organisation = site.organisation()?;
    let count =
        "SELECT COUNT(*) AS sites FROM comment_sites WHERE organisation = ? AND removed IS NULL";
    let sites: i64 = tx.query_one(count, params![organisation]).await?.get("sites")?;
    if usize::try_from(sites).unwrap_or(usize::MAX) >= most {
        return Err(Error::Full("sites", most));
    }
    let insert = "INSERT INTO comment_sites (organisation, id, key, settings, salt, created) VALUES (?, ?, ?, ?, ?, ?)";
    let settings = settings_text(&site.settings);
    let row = params![organisation, site.id, site.key, settings, site.salt, site.created];
    tx.execute(insert, row).await?;
    Ok(())
}

fn settings_text(settings: &Settings) -> String {
    serde_json::to_string(settings).expect("settings are texts and numbers")
}

pub(crate) async fn change_site(
    tx: &mut Tx,
    organisation: OrganisationId,
    id: &str,
    settings: &Settings,
    key: &str,
) -> Result<()> {
    let update = "UPDATE comment_sites SET settings = ?, key = ? WHERE organisation = ? AND id = ? AND removed IS NULL";
    tx.execute(update, params![settings_text(settings), key, organisation, id]).await?;
    Ok(())
}

/// A removed site answers nobody any more; its rows go bit by bit.
pub(crate) async fn remove_site(
    tx: &mut Tx,
    organisation: OrganisationId,
    id: &str,
    now: Timestamp,
) -> Result<()> {
    let update = "UPDATE comment_sites SET removed = ? WHERE organisation = ? AND id = ? AND removed IS NULL";
    tx.execute(update, params![now, organisation, id]).await?;
    Ok(())
}

/// A site that was removed and has rows.
pub(crate) async fn removed_site(read: &mut Read) -> Result<Option<(OrganisationId, String)>> {
    let sql = "SELECT organisation, id FROM comment_sites WHERE removed IS NOT NULL ORDER BY removed LIMIT 1";
    let row = read.query_optional(sql, &[]).await?;
    row.map(|row| Ok((row.get("organisation")?, row.get("id")?))).transpose()
}

/// Takes some rows of a removed site, and says whether it is gone.
pub(crate) async fn purge(tx: &mut Tx, of: Of<'_>, rows: i64) -> Result<bool> {
    let some =
        "SELECT id FROM comment_entries WHERE organisation = ? AND site = ? ORDER BY id LIMIT ?";
    let some = tx.query(some, params![of.organisation, of.site, rows]).await?;
    if let (Some(first), Some(last)) = (some.first(), some.last()) {
        let (first, last): (String, String) = (first.get("id")?, last.get("id")?);
        for (table, column) in
            [("comment_likes", "entry"), ("comment_reports", "entry"), ("comment_entries", "id")]
        {
            let delete = format!(
                "DELETE FROM {table} WHERE organisation = ? AND site = ? AND {column} >= ? AND {column} <= ?"
            );
            tx.execute(&delete, params![of.organisation, of.site, first, last]).await?;
        }
        return Ok(false);
    }
    for table in ["comment_pages", "comment_bans", "comment_quarters", "comment_tokens"] {
        let delete = format!("DELETE FROM {table} WHERE organisation = ? AND site = ?");
        tx.execute(&delete, params![of.organisation, of.site]).await?;
    }
    let delete = "DELETE FROM comment_sites WHERE organisation = ? AND id = ?";
    tx.execute(delete, params![of.organisation, of.site]).await?;
    Ok(true)
}

// Threads.

/// A page with its comments, the newest `limit` before a comment.
pub(crate) struct Thread {
    pub comments: i64,
    pub is_closed: bool,
    /// The newest first.
    rows: Vec<Row>,
}

/// What readers can see of a comment, and no more, lent by its row: a long thread has many of them.
#[expect(clippy::struct_excessive_bools, reason = "each is a column by itself")]
pub(crate) struct Seen<'a> {
    pub id: Cow<'a, str>,
    pub parent: Option<Cow<'a, str>>,
    pub state: State,
    pub name: &'a str,
    pub has_account: bool,
    pub body: &'a str,
    pub is_owner: bool,
    pub is_secret: bool,
    pub is_pinned: bool,
    pub likes: i64,
    pub created: Timestamp,
    pub is_edited: bool,
}

impl<'a> From<&'a Entry> for Seen<'a> {
    fn from(entry: &'a Entry) -> Self {
        Self {
            id: entry.id.to_string().into(),
            parent: entry.parent.map(|parent| parent.to_string().into()),
            state: entry.state,
            name: &entry.name,
            has_account: entry.account.is_some(),
            body: &entry.body,
            is_owner: entry.is_owner,
            is_secret: entry.is_secret,
            is_pinned: entry.is_pinned,
            likes: entry.likes,
            created: entry.created,
            is_edited: entry.edited.is_some(),
        }
    }
}

impl Thread {
    /// The oldest first.
    pub(crate) fn entries(&self) -> Result<Vec<Seen<'_>>> {
        self.rows.iter().rev().filter_map(|row| seen(row).transpose()).collect()
    }
}

/// The columns of a thread by their places: names would be looked for some thousand times. Nothing of a page without comments.
fn seen(row: &Row) -> Result<Option<Seen<'_>>> {
    let mut columns = row.columns().map(|(_, value)| value).skip(2);
    let mut next = || columns.next().unwrap_or(&Value::Null);
    let Some(id) = text(next())? else { return Ok(None) };
    Ok(Some(Seen {
        id: id.into(),
        parent: text(next())?.map(Cow::from),
        state: if flag(next())? { State::Deleted } else { State::Shown },
        name: text(next())?.unwrap_or_default(),
        has_account: flag(next())?,
        body: text(next())?.unwrap_or_default(),
        is_owner: flag(next())?,
        is_secret: flag(next())?,
        is_pinned: flag(next())?,
        likes: number(next())?,
        created: Timestamp::from_micros(number(next())?),
        is_edited: flag(next())?,
    }))
}

fn text(value: &Value) -> Result<Option<&str>> {
    match value {
        Value::Text(text) => Ok(Some(text)),
        Value::Null => Ok(None),
        _ => Err(Error::damaged("a comment")),
    }
}

fn number(value: &Value) -> Result<i64> {
    match value {
        Value::Int(number) => Ok(*number),
        _ => Err(Error::damaged("a comment")),
    }
}

fn flag(value: &Value) -> Result<bool> {
    Ok(number(value)? != 0)
}

/// One statement, whatever is there. Nothing when nobody ever wrote under the page.
pub(crate) async fn thread(
    read: &mut Read,
    of: Of<'_>,
    (page, before): (&str, Option<&str>),
    limit: i64,
) -> Result<Option<Thread>> {
    // A limit that is bound makes SQLite plan the statement anew at each run.
    let sql = format!(
        "SELECT p.comments AS page_comments, p.is_closed AS page_closed, c.id, c.parent, (c.state = 'deleted') AS is_deleted,
        c.name, (c.account IS NOT NULL) AS has_account, c.body, c.is_owner, c.is_secret, c.is_pinned, c.likes, c.created,
        (c.edited IS NOT NULL) AS is_edited
        FROM comment_pages p LEFT JOIN comment_entries c
        ON c.organisation = p.organisation AND c.site = p.site AND c.page = p.page AND c.id < ?
        AND c.state IN ('shown', 'deleted')
        WHERE p.organisation = ? AND p.site = ? AND p.page = ? ORDER BY c.id DESC LIMIT {limit}"
    );
    // Sorts after every id.
    let before = before.unwrap_or("g");
    let rows = read.query(&sql, params![before, of.organisation, of.site, page]).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let (comments, is_closed) = (first.get("page_comments")?, first.get("page_closed")?);
    Ok(Some(Thread { comments, is_closed, rows }))
}

/// How many comments pages have, by their names.
pub(crate) async fn counts(
    read: &mut Read,
    of: Of<'_>,
    pages: &[String],
) -> Result<Vec<(String, i64)>> {
    let marks = vec!["?"; pages.len()].join(", ");
    let sql = format!(
        "SELECT page, comments FROM comment_pages WHERE organisation = ? AND site = ? AND page IN ({marks})"
    );
    let mut values = params![of.organisation, of.site].to_vec();
    values.extend(pages.iter().map(Value::from));
    let rows = read.query(&sql, &values).await?;
    rows.iter().map(|row| Ok((row.get("page")?, row.get("comments")?))).collect()
}

pub(crate) async fn entry_of_id(read: &mut Read, of: Of<'_>, id: EntryId) -> Result<Entry> {
    let sql = format!(
        "SELECT {ENTRY} FROM comment_entries WHERE organisation = ? AND site = ? AND id = ?"
    );
    let row = read.query_optional(&sql, params![of.organisation, of.site, id]).await?;
    row.as_ref().map_or_else(|| Err(Error::NotFound("comment")), entry)
}

/// The one that was written with the same nonce: a request that came again.
pub(crate) async fn entry_of_nonce(
    tx: &mut Tx,
    of: Of<'_>,
    page: &str,
    nonce: &str,
) -> Result<Option<Entry>> {
    let sql = format!(
        "SELECT {ENTRY} FROM comment_entries WHERE organisation = ? AND site = ? AND page = ? AND nonce = ?"
    );
    let row = tx.query_optional(&sql, params![of.organisation, of.site, page, nonce]).await?;
    row.as_ref().map(entry).transpose()
}

/// Makes the page if nobody wrote under it before, and says whether it is closed.
pub(crate) async fn open_page(tx: &mut Tx, of: Of<'_>, page: &NewPage<'_>) -> Result<bool> {
    let sql = "SELECT title, is_closed FROM comment_pages WHERE organisation = ? AND site = ? AND page = ?";
    let known = tx.query_optional(sql, params![of.organisation, of.site, page.id]).await?;
    if let Some(row) = known {
        return Ok(row.get("is_closed")?);
    }
    let insert = "INSERT INTO comment_pages (organisation, site, page, url, title, comments, is_closed, created)
        VALUES (?, ?, ?, ?, ?, 0, 0, ?)";
    let row = params![of.organisation, of.site, page.id, page.url, page.title, page.now];
    tx.execute(insert, row).await?;
    Ok(false)
}

pub(crate) struct NewPage<'a> {
    pub id: &'a str,
    pub url: &'a str,
    pub title: &'a str,
    pub now: Timestamp,
}

pub(crate) async fn add_entry(tx: &mut Tx, of: Of<'_>, new: &Entry) -> Result<()> {
    insert_entry(tx, of, (new, new.parent)).await?;
    if new.state == State::Shown {
        count(tx, of, new, 1).await?;
    }
    Ok(())
}

/// A row that the caller counts, under a parent.
pub(crate) async fn insert_entry(
    tx: &mut Tx,
    of: Of<'_>,
    (new, parent): (&Entry, Option<EntryId>),
) -> Result<()> {
    let insert = format!(
        "INSERT INTO comment_entries (organisation, site, {ENTRY})
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    );
    let row = params![
        of.organisation,
        of.site,
        new.page,
        new.id,
        new.nonce,
        parent,
        new.state.text(),
        new.reason,
        new.author,
        new.address,
        new.account,
        new.name,
        new.password,
        new.source,
        new.body,
        new.is_owner,
        new.is_secret,
        new.is_pinned,
        new.likes,
        new.reports,
        new.created,
        new.edited,
    ];
    tx.execute(&insert, row).await?;
    Ok(())
}

/// Puts a comment into another state, with its counts.
pub(crate) async fn set_state(
    tx: &mut Tx,
    of: Of<'_>,
    old: &Entry,
    state: State,
    reason: Option<&str>,
) -> Result<()> {
    let update = "UPDATE comment_entries SET state = ?, reason = ? WHERE organisation = ? AND site = ? AND id = ?";
    tx.execute(update, params![state.text(), reason, of.organisation, of.site, old.id]).await?;
    match (old.state == State::Shown, state == State::Shown) {
        (true, false) => count(tx, of, old, -1).await,
        (false, true) => count(tx, of, old, 1).await,
        _ => Ok(()),
    }
}

/// Takes everything away that somebody wrote; what others answered stays where it is.
pub(crate) async fn erase(tx: &mut Tx, of: Of<'_>, old: &Entry) -> Result<()> {
    let update = "UPDATE comment_entries SET name = '', password = NULL, account = NULL, source = '', body = '[]', is_pinned = 0,
        likes = 0 WHERE organisation = ? AND site = ? AND id = ?";
    tx.execute(update, params![of.organisation, of.site, old.id]).await?;
    for table in ["comment_likes", "comment_reports"] {
        let delete =
            format!("DELETE FROM {table} WHERE organisation = ? AND site = ? AND entry = ?");
        tx.execute(&delete, params![of.organisation, of.site, old.id]).await?;
    }
    set_state(tx, of, old, State::Deleted, None).await
}

/// Takes away who wrote it; nobody can change it from then on.
pub(crate) async fn take_name(tx: &mut Tx, of: Of<'_>, id: EntryId, name: &str) -> Result<()> {
    let update = "UPDATE comment_entries SET name = ?, account = NULL, password = NULL, author = '', address = ''
        WHERE organisation = ? AND site = ? AND id = ?";
    tx.execute(update, params![name, of.organisation, of.site, id]).await?;
    Ok(())
}

pub(crate) async fn set_text(tx: &mut Tx, of: Of<'_>, new: &Entry) -> Result<()> {
    let update = "UPDATE comment_entries SET source = ?, body = ?, is_secret = ?, edited = ?
        WHERE organisation = ? AND site = ? AND id = ?";
    let row =
        params![new.source, new.body, new.is_secret, new.edited, of.organisation, of.site, new.id];
    tx.execute(update, row).await?;
    Ok(())
}

pub(crate) async fn set_pinned(
    tx: &mut Tx,
    of: Of<'_>,
    id: EntryId,
    is_pinned: bool,
) -> Result<()> {
    let update =
        "UPDATE comment_entries SET is_pinned = ? WHERE organisation = ? AND site = ? AND id = ?";
    tx.execute(update, params![is_pinned, of.organisation, of.site, id]).await?;
    Ok(())
}

/// Counts a shown comment, or one that is shown no more, under its page and in its quarter of an hour.
async fn count(tx: &mut Tx, of: Of<'_>, entry: &Entry, by: i64) -> Result<()> {
    count_page(tx, of, &entry.page, by).await?;
    count_quarter(tx, of, statistics::quarter(entry.created), by).await
}

pub(crate) async fn count_page(tx: &mut Tx, of: Of<'_>, page: &str, by: i64) -> Result<()> {
    let update = "UPDATE comment_pages SET comments = comments + ? WHERE organisation = ? AND site = ? AND page = ?";
    tx.execute(update, params![by, of.organisation, of.site, page]).await?;
    Ok(())
}

pub(crate) async fn count_quarter(tx: &mut Tx, of: Of<'_>, quarter: i64, by: i64) -> Result<()> {
    let update = "UPDATE comment_quarters SET comments = comments + ? WHERE organisation = ? AND site = ? AND quarter = ?";
    if tx.execute(update, params![by, of.organisation, of.site, quarter]).await? == 0 {
        let insert = "INSERT INTO comment_quarters (organisation, site, quarter, comments) VALUES (?, ?, ?, ?)";
        tx.execute(insert, params![of.organisation, of.site, quarter, by]).await?;
    }
    Ok(())
}

pub(crate) async fn quarters(
    read: &mut Read,
    of: Of<'_>,
    (first, end): (i64, i64),
) -> Result<Vec<(i64, i64)>> {
    let sql = "SELECT quarter, comments FROM comment_quarters
        WHERE organisation = ? AND site = ? AND quarter >= ? AND quarter < ?";
    let rows = read.query(sql, params![of.organisation, of.site, first, end]).await?;
    rows.iter().map(|row| Ok((row.get("quarter")?, row.get("comments")?))).collect()
}

// Likes, reports, bans.

/// Adds a voter's row, or takes it away; false when it was so before.
pub(crate) async fn set_like(
    tx: &mut Tx,
    of: Of<'_>,
    (entry, voter): (EntryId, &str),
    (is_liked, now): (bool, Timestamp),
) -> Result<bool> {
    let sql = "SELECT 1 AS is_there FROM comment_likes WHERE organisation = ? AND site = ? AND entry = ? AND voter = ?";
    let row = params![of.organisation, of.site, entry, voter];
    if tx.query_optional(sql, row).await?.is_some() == is_liked {
        return Ok(false);
    }
    if is_liked {
        let insert = "INSERT INTO comment_likes (organisation, site, entry, voter, created) VALUES (?, ?, ?, ?, ?)";
        tx.execute(insert, params![of.organisation, of.site, entry, voter, now]).await?;
    } else {
        let delete = "DELETE FROM comment_likes WHERE organisation = ? AND site = ? AND entry = ? AND voter = ?";
        tx.execute(delete, row).await?;
    }
    let update = "UPDATE comment_entries SET likes = likes + ? WHERE organisation = ? AND site = ? AND id = ?";
    let by = if is_liked { 1_i64 } else { -1 };
    tx.execute(update, params![by, of.organisation, of.site, entry]).await?;
    Ok(true)
}

/// Notes a report, once for each voter; how many there are now, or nothing when this one is not new.
pub(crate) async fn add_report(
    tx: &mut Tx,
    of: Of<'_>,
    (entry, voter): (&Entry, &str),
    (reason, now): (&str, Timestamp),
) -> Result<Option<i64>> {
    let sql = "SELECT 1 AS is_there FROM comment_reports WHERE organisation = ? AND site = ? AND entry = ? AND voter = ?";
    if tx.query_optional(sql, params![of.organisation, of.site, entry.id, voter]).await?.is_some() {
        return Ok(None);
    }
    let insert = "INSERT INTO comment_reports (organisation, site, entry, voter, reason, created) VALUES (?, ?, ?, ?, ?, ?)";
    tx.execute(insert, params![of.organisation, of.site, entry.id, voter, reason, now]).await?;
    let update = "UPDATE comment_entries SET reports = reports + 1 WHERE organisation = ? AND site = ? AND id = ?";
    tx.execute(update, params![of.organisation, of.site, entry.id]).await?;
    Ok(Some(entry.reports + 1))
}

pub(crate) async fn is_banned(tx: &mut Tx, of: Of<'_>, marks: [&str; 2]) -> Result<bool> {
    let sql = "SELECT 1 AS is_there FROM comment_bans WHERE organisation = ? AND site = ? AND mark IN (?, ?)";
    Ok(tx
        .query_optional(sql, params![of.organisation, of.site, marks[0], marks[1]])
        .await?
        .is_some())
}

/// Whether somebody has a comment that is shown.
pub(crate) async fn is_known(tx: &mut Tx, of: Of<'_>, author: &str) -> Result<bool> {
    let sql = "SELECT 1 AS is_there FROM comment_entries WHERE organisation = ? AND site = ? AND author = ? AND state = 'shown' LIMIT 1";
    Ok(tx.query_optional(sql, params![of.organisation, of.site, author]).await?.is_some())
}

pub(crate) async fn ban(
    tx: &mut Tx,
    of: Of<'_>,
    (mark, name): (&str, &str),
    now: Timestamp,
) -> Result<()> {
    let sql =
        "SELECT 1 AS is_there FROM comment_bans WHERE organisation = ? AND site = ? AND mark = ?";
    if tx.query_optional(sql, params![of.organisation, of.site, mark]).await?.is_none() {
        let insert = "INSERT INTO comment_bans (organisation, site, mark, name, created) VALUES (?, ?, ?, ?, ?)";
        tx.execute(insert, params![of.organisation, of.site, mark, name, now]).await?;
    }
    Ok(())
}

pub(crate) async fn unban(tx: &mut Tx, of: Of<'_>, mark: &str) -> Result<()> {
    let delete = "DELETE FROM comment_bans WHERE organisation = ? AND site = ? AND mark = ?";
    match tx.execute(delete, params![of.organisation, of.site, mark]).await? {
        0 => Err(Error::NotFound("ban")),
        _ => Ok(()),
    }
}

pub(crate) async fn bans(
    read: &mut Read,
    of: Of<'_>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<(String, String, Timestamp)>> {
    let sql = "SELECT mark, name, created FROM comment_bans WHERE organisation = ? AND site = ? AND mark > ? ORDER BY mark LIMIT ?";
    let rows =
        read.query(sql, params![of.organisation, of.site, after.unwrap_or(""), limit]).await?;
    rows.iter().map(|row| Ok((row.get("mark")?, row.get("name")?, row.get("created")?))).collect()
}

// What owners see.

/// Which comments an owner asks for.
pub(crate) struct EntryFilter {
    pub state: Option<State>,
    /// A text in the comment or in its writer's name.
    pub text: Option<String>,
    /// The page's name.
    pub page: Option<String>,
    /// Those with reports only.
    pub reported: bool,
    /// From this moment on, and before that one.
    pub times: (Option<Timestamp>, Option<Timestamp>),
}

/// A comment with where it stands, the newest first.
pub(crate) async fn entries(
    read: &mut Read,
    of: Of<'_>,
    filter: &EntryFilter,
    (before, limit): (Option<&str>, i64),
) -> Result<Vec<(Entry, String, String)>> {
    let columns = ENTRY.split(',').map(|name| format!("c.{}", name.trim())).collect::<Vec<_>>();
    let mut sql = format!(
        "SELECT {}, p.url AS page_url, p.title AS page_title FROM comment_entries c JOIN comment_pages p
        ON p.organisation = c.organisation AND p.site = c.site AND p.page = c.page
        WHERE c.organisation = ? AND c.site = ? AND c.id < ?",
        columns.join(", ")
    );
    let mut values = params![of.organisation, of.site, before.unwrap_or("g")].to_vec();
    let mut and = |condition: &str, value: Value| {
        sql.push_str(" AND ");
        sql.push_str(condition);
        values.push(value);
    };
    match filter.state {
        Some(state) => and("c.state = ?", state.text().into()),
        None => and("c.state <> ?", State::Deleted.text().into()),
    }
    if let Some(page) = &filter.page {
        and("c.page = ?", page.into());
    }
    if filter.reported {
        and("c.reports > ?", 0_i64.into());
    }
    if let Some(from) = filter.times.0 {
        and("c.created >= ?", from.into());
    }
    if let Some(to) = filter.times.1 {
        and("c.created < ?", to.into());
    }
    if let Some(text) = &filter.text {
        let pattern = format!(
            "%{}%",
            text.to_lowercase().replace('!', "!!").replace('%', "!%").replace('_', "!_")
        );
        and("(LOWER(c.source) LIKE ? ESCAPE '!'", pattern.clone().into());
        sql.push_str(" OR LOWER(c.name) LIKE ? ESCAPE '!')");
        values.push(pattern.into());
    }
    sql.push_str(" ORDER BY c.id DESC LIMIT ?");
    values.push(limit.into());
    let rows = read.query(&sql, &values).await?;
    rows.iter().map(|row| Ok((entry(row)?, row.get("page_url")?, row.get("page_title")?))).collect()
}

/// Comments of a site with where they stand, the oldest first.
pub(crate) async fn oldest(
    read: &mut Read,
    of: Of<'_>,
    (after, limit): (Option<&str>, i64),
) -> Result<Vec<(Entry, String, String)>> {
    let columns = ENTRY.split(',').map(|name| format!("c.{}", name.trim())).collect::<Vec<_>>();
    let sql = format!(
        "SELECT {}, p.url AS page_url, p.title AS page_title FROM comment_entries c JOIN comment_pages p
        ON p.organisation = c.organisation AND p.site = c.site AND p.page = c.page
        WHERE c.organisation = ? AND c.site = ? AND c.id > ? ORDER BY c.id LIMIT ?",
        columns.join(", ")
    );
    let rows =
        read.query(&sql, params![of.organisation, of.site, after.unwrap_or(""), limit]).await?;
    rows.iter().map(|row| Ok((entry(row)?, row.get("page_url")?, row.get("page_title")?))).collect()
}

/// Which of these nonces a page has, and of which comments.
pub(crate) async fn nonces(
    tx: &mut Tx,
    of: Of<'_>,
    (page, nonces): (&str, &[&str]),
) -> Result<Vec<(String, EntryId)>> {
    let mut known = Vec::new();
    for some in nonces.chunks(500) {
        let marks = vec!["?"; some.len()].join(", ");
        let sql = format!(
            "SELECT nonce, id FROM comment_entries WHERE organisation = ? AND site = ? AND page = ? AND nonce IN ({marks})"
        );
        let mut values = params![of.organisation, of.site, page].to_vec();
        values.extend(some.iter().map(|nonce| Value::from(*nonce)));
        for row in tx.query(&sql, &values).await? {
            known.push((row.get("nonce")?, row.get("id")?));
        }
    }
    Ok(known)
}

/// How many comments are in each state.
pub(crate) async fn states(read: &mut Read, of: Of<'_>) -> Result<Vec<(State, i64)>> {
    let sql = "SELECT state, COUNT(*) AS entries FROM comment_entries WHERE organisation = ? AND site = ? GROUP BY state";
    let rows = read.query(sql, params![of.organisation, of.site]).await?;
    rows.iter()
        .map(|row| Ok((State::of(&row.get::<String>("state")?)?, row.get("entries")?)))
        .collect()
}

pub(crate) async fn set_closed(tx: &mut Tx, of: Of<'_>, page: &str, is_closed: bool) -> Result<()> {
    let update =
        "UPDATE comment_pages SET is_closed = ? WHERE organisation = ? AND site = ? AND page = ?";
    tx.execute(update, params![is_closed, of.organisation, of.site, page]).await?;
    Ok(())
}

// Readers with accounts.

/// An account that comments on a site from its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reader {
    /// The organisation of the account, which can be another one than the site's.
    pub home: OrganisationId,
    pub account: AccountId,
    pub name: String,
    pub is_owner: bool,
}

pub(crate) async fn add_token(
    tx: &mut Tx,
    of: Of<'_>,
    (token, reader): (&str, &Reader),
    expires: Timestamp,
) -> Result<()> {
    let insert = "INSERT INTO comment_tokens (organisation, site, token, home, account, name, is_owner, expires) VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    let row = params![
        of.organisation,
        of.site,
        token,
        reader.home,
        reader.account,
        reader.name,
        reader.is_owner,
        expires
    ];
    tx.execute(insert, row).await?;
    Ok(())
}

pub(crate) async fn reader(
    read: &mut Read,
    of: Of<'_>,
    token: &str,
    now: Timestamp,
) -> Result<Option<Reader>> {
    let sql = "SELECT home, account, name, is_owner FROM comment_tokens
        WHERE organisation = ? AND site = ? AND token = ? AND expires > ?";
    let row = read.query_optional(sql, params![of.organisation, of.site, token, now]).await?;
    row.map(|row| {
        Ok(Reader {
            home: row.get("home")?,
            account: row.get("account")?,
            name: row.get("name")?,
            is_owner: row.get("is_owner")?,
        })
    })
    .transpose()
}

pub(crate) async fn remove_token(tx: &mut Tx, of: Of<'_>, token: &str) -> Result<()> {
    let delete = "DELETE FROM comment_tokens WHERE organisation = ? AND site = ? AND token = ?";
    tx.execute(delete, params![of.organisation, of.site, token]).await?;
    Ok(())
}

/// Tokens that open nothing any more.
pub(crate) async fn forget_tokens(tx: &mut Tx, now: Timestamp) -> Result<()> {
    tx.execute("DELETE FROM comment_tokens WHERE expires <= ?", params![now]).await?;
    Ok(())
}

pub(crate) fn site_id(text: &str) -> Result<SiteId> {
    text.parse().map_err(|_| Error::NotFound("site"))
}
