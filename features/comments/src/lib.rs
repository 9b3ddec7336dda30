//! Comments: threads under the pages of others' sites, and the widget that those pages embed.
//!
//! A site belongs to an organisation and says where its pages are. Whoever reads a page reads its thread: one answer
//! that is the same for everybody, kept by `results` until a comment changes. Guests write with a name and a password,
//! people with accounts through a token that opens nothing else. Text is a part of Markdown, read into a tree; no HTML of
//! a writer is ever kept, sent or built.
//!
//! It has no accounts and sends no mail: those are needs, in `needs.rs`. Start at [`Comments`]; the widget is
//! `widget/comments.js`, what becomes of a text is in `site.rs` (`judge`).
//!
//! What is counted: a page and a quarter of an hour count the comments that are shown, in the commit that shows or
//! hides one. Addresses on the network are kept as digests that mean nothing on another site.

mod http;
mod limits;
mod live;
mod markup;
mod needs;
mod owner;
mod page;
mod persons;
mod site;
mod statistics;
mod store;
#[cfg(test)]
mod tests;
mod thread;
mod transfer;
mod widget;
mod write;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base::access::{Action, Authority};
use base::{Base, ErrorKind, Failure, OrganisationId};
use bytes::Bytes;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use parking_lot::Mutex;
use relational::{Db, Tx};
use results::{OrganisationResults, Question, Results};

use limits::Limits;
use live::Live;
use site::Site;

pub use needs::{NeedError, Passwords};

/// Seeing sites, the queue and statistics.
pub const COMMENTS_READ: Action = Action("comments.read");
/// Changing sites, and what becomes of comments.
pub const COMMENTS_WRITE: Action = Action("comments.write");

/// Every deed of this room that can be granted.
pub const ACTIONS: &[Action] = &[COMMENTS_READ, COMMENTS_WRITE];

/// The topic of what happens to comments, by way of the outbox: ids only, no text and no name.
pub const TOPIC: &str = "comments";

const ROOM: &str = "comments";

/// Limits of comments.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Sites of an organisation.
    pub sites_max: usize,
    /// Origins of a site.
    pub origins_max: usize,
    /// Words of one list of a site's rules.
    pub words_max: usize,
    /// Characters of a comment.
    pub text_chars_max: usize,
    /// Characters of a name: of a site, of a guest.
    pub name_chars_max: usize,
    /// Characters of a guest's password at least.
    pub password_chars_min: usize,
    /// Comments that one answer has: the newest, older ones are asked for.
    pub thread_comments_max: usize,
    /// How long a thread is kept in memory that does not change.
    #[serde(with = "duration")]
    pub thread_kept: Duration,
    /// Sites that are not read anew from what is kept of them, with each request.
    pub sites_known_max: usize,
    /// Pages whose counts are asked for at once.
    pub counts_pages_max: usize,
    /// Comments that one action of an owner changes.
    pub action_comments_max: usize,
    /// Bytes of a file of comments that is imported.
    pub import_bytes_max: usize,
    /// Hours, days or months of one statistic.
    pub statistics_parts_max: usize,
    /// Readers that follow pages as they change, of all sites.
    pub readers_max: usize,
    /// The time in which deeds of one address are counted.
    #[serde(with = "duration")]
    pub limits_window: Duration,
    /// Comments written or changed from one address (an IPv6 address counts with its /64).
    pub writes_per_address_max: u32,
    /// Likes given or taken back from one address.
    pub likes_per_address_max: u32,
    /// Comments reported from one address.
    pub reports_per_address_max: u32,
    /// Guests' passwords tried from one address.
    pub passwords_per_address_max: u32,
    /// Addresses whose deeds are counted; the oldest go first.
    pub limits_kept_max: usize,
    /// How long somebody with an account stays signed in on a site.
    #[serde(with = "duration")]
    pub token_time_max: Duration,
    /// Rows of a removed site that go in one commit.
    pub purge_rows: u32,
    /// How often tokens that ended are forgotten.
    #[serde(with = "duration")]
    pub tidy_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sites_max: 1_000,
            origins_max: 50,
            words_max: 1_000,
            text_chars_max: 5_000,
            name_chars_max: 40,
            password_chars_min: 4,
            thread_comments_max: 1_000,
            thread_kept: Duration::from_hours(1),
            sites_known_max: 1_000,
            counts_pages_max: 100,
            action_comments_max: 500,
            import_bytes_max: 8 << 20,
            statistics_parts_max: 1_000,
            readers_max: 800,
            limits_window: Duration::from_mins(10),
            writes_per_address_max: 30,
            likes_per_address_max: 200,
            reports_per_address_max: 20,
            passwords_per_address_max: 20,
            limits_kept_max: 50_000,
            token_time_max: Duration::from_hours(24 * 60),
            purge_rows: 1_000,
            tidy_every: Duration::from_hours(1),
        }
    }
}

impl Config {
    fn check(&self) -> Result<()> {
        let positive = [
            ("thread_comments_max", self.thread_comments_max),
            ("statistics_parts_max", self.statistics_parts_max),
            ("counts_pages_max", self.counts_pages_max),
            ("limits_kept_max", self.limits_kept_max),
            ("purge_rows", self.purge_rows as usize),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::Config(format!("comments.{name} must be at least 1")));
        }
        if self.name_chars_max > 100 {
            return Err(Error::Config("comments.name_chars_max must be at most 100".to_owned()));
        }
        Ok(())
    }
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something about comments was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("there is no such {0}")]
    NotFound(&'static str),
    #[error("the request does not fit")]
    Invalid(Vec<Fault>),
    #[error("{0}")]
    Config(String),
    #[error("the site has no pages at this origin")]
    Elsewhere,
    #[error("the page takes no more comments")]
    Closed,
    #[error("the site wants an account for comments")]
    NoGuests,
    #[error("this comment was not taken")]
    Refused,
    #[error("the password is not the one, or the comment is not yours")]
    NotYours,
    #[error("the token is not valid any more")]
    SignedOut,
    #[error("an organisation may have {1} {0} at most")]
    Full(&'static str, usize),
    #[error("too often from this address")]
    TooOften(Duration),
    #[error("{0}")]
    Unavailable(&'static str),
    #[error("{0} is damaged")]
    Damaged(&'static str),
    #[error(transparent)]
    Need(#[from] NeedError),
    #[error(transparent)]
    Rows(#[from] relational::Error),
    #[error(transparent)]
    Answer(#[from] results::Error),
}

/// One part of a request that does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// A JSON pointer into the body, or the name of a parameter.
    pub pointer: String,
    pub text: String,
}

impl Fault {
    pub(crate) fn new(pointer: impl Into<String>, text: impl Into<String>) -> Self {
        Self { pointer: pointer.into(), text: text.into() }
    }
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        Self::Invalid(vec![fault])
    }
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Invalid(_) | Self::Config(_) | Self::Refused => ErrorKind::Invalid,
            Self::Elsewhere | Self::NoGuests | Self::NotYours => ErrorKind::Forbidden,
            Self::Closed => ErrorKind::Conflict,
            Self::SignedOut => ErrorKind::Unauthenticated,
            Self::Full(..) | Self::TooOften(_) => ErrorKind::TooMany,
            Self::Unavailable(_) => ErrorKind::Unavailable,
            Self::Damaged(_) => ErrorKind::Internal,
            Self::Need(error) => error.kind,
            Self::Rows(error) => error.kind(),
            Self::Answer(error) => error.kind(),
        }
    }

    pub(crate) fn invalid(pointer: &str, text: impl Into<String>) -> Self {
        Fault::new(pointer, text).into()
    }

    pub(crate) fn damaged(what: &'static str) -> Self {
        Self::Damaged(what)
    }
}

/// What comments stand on.
#[derive(Clone)]
pub struct Needs {
    pub db: Db,
    pub results: Results,
    pub authority: Arc<dyn Authority>,
    pub passwords: Arc<dyn Passwords>,
}

/// The comments of all sites; cloning it is cheap.
#[derive(Clone)]
pub struct Comments(Arc<House>);

pub(crate) struct House {
    pub config: Config,
    pub base: Base,
    pub needs: Needs,
    pub limits: Limits,
    pub live: Live,
    /// By their keys, with the bytes that each was read from.
    known: Mutex<HashMap<String, (Bytes, Arc<Site>)>>,
}

impl Comments {
    /// Makes the tables.
    pub async fn open(config: Config, base: &Base, needs: Needs) -> Result<Self> {
        config.check()?;
        needs.db.migrate(ROOM, store::MIGRATIONS).await?;
        let house = House {
            limits: Limits::new(&config),
            live: Live::new(config.readers_max),
            known: Mutex::default(),
            config,
            base: base.clone(),
            needs,
        };
        let comments = Self(Arc::new(house));
        base.tasks.supervise("comments_tidy", {
            let comments = comments.clone();
            move || {
                let comments = comments.clone();
                async move { comments.keep_tidy().await }
            }
        });
        Ok(comments)
    }

    /// The operations: those of owners under `/v1`, those of pages under `/comments`.
    pub fn routes(&self) -> edge::Routes<Self> {
        http::routes(self.clone())
    }

    async fn keep_tidy(&self) -> Result<(), Failure> {
        loop {
            self.tidy().await?;
            self.0.base.clock.sleep(self.0.config.tidy_every).await;
        }
    }

    /// Takes away what removed sites left, and tokens that ended.
    pub(crate) async fn tidy(&self) -> Result<()> {
        let db = &self.0.needs.db;
        let now = self.0.base.clock.now();
        db.write(async move |tx| store::forget_tokens(tx, now).await).await?;
        let rows = i64::from(self.0.config.purge_rows);
        while let Some((organisation, site)) =
            db.read(async |read| store::removed_site(read).await).await?
        {
            db.write(async move |tx| {
                store::purge(tx, store::Of { organisation, site: &site }, rows).await
            })
            .await?;
        }
        Ok(())
    }

    /// A site by its key, from memory while nobody changes it.
    pub(crate) async fn site(&self, key: &str) -> Result<Arc<Site>> {
        if key.is_empty() || key.len() > 32 || !key.is_ascii() {
            return Err(Error::NotFound("site"));
        }
        let subject = site_subject(key);
        let subjects = [subject.as_str()];
        let question = Question::new("comments.site", key, &subjects, self.0.config.thread_kept);
        let (db, wanted) = (self.0.needs.db.clone(), key.to_owned());
        // A key that nobody has is an error, which is not kept: guesses fill no memory.
        let directory = self.directory();
        let found = directory.answer(question, move || async move {
            let found = db.read(async move |read| store::site_of_key(read, &wanted).await).await;
            let site = found.and_then(|found| found.ok_or(Error::NotFound("site")));
            let text = serde_json::to_vec(&site.map_err(into_answer)?);
            Ok::<_, results::Error>(text.expect("a site is texts and numbers").into())
        });
        self.known(key, found.await?)
    }

    /// The site that these bytes are, read once: while they are held here, no others are in their place.
    fn known(&self, key: &str, bytes: Bytes) -> Result<Arc<Site>> {
        let is_it = |from: &Bytes| (from.as_ptr(), from.len()) == (bytes.as_ptr(), bytes.len());
        if let Some((from, site)) = self.0.known.lock().get(key)
            && is_it(from)
        {
            return Ok(site.clone());
        }
        let site = serde_json::from_slice(&bytes).map_err(|_| Error::damaged("a site"))?;
        let site = Arc::new(site);
        let mut known = self.0.known.lock();
        if known.len() >= self.0.config.sites_known_max {
            known.clear();
        }
        if self.0.config.sites_known_max > 0 {
            known.insert(key.to_owned(), (bytes, Arc::clone(&site)));
        }
        Ok(site)
    }

    /// Keys name sites of every organisation, so what is known of them is kept for none.
    fn directory(&self) -> OrganisationResults {
        self.0.needs.results.for_organisation(OrganisationId::DEFAULT)
    }

    /// Says in the transaction that changes a site that its key says something else.
    pub(crate) async fn site_changed(
        &self,
        tx: &mut Tx,
        key: &str,
    ) -> Result<(), relational::Error> {
        self.directory().bump(tx, &[&site_subject(key)]).await
    }
}

fn site_subject(key: &str) -> String {
    format!("comments/site/{key}")
}

/// An error inside a computation of an answer.
pub(crate) fn into_answer(error: Error) -> results::Error {
    match error {
        Error::Rows(error) => error.into(),
        Error::Answer(error) => error,
        other => results::Error::of(other.kind(), other),
    }
}
