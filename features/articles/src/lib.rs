//! Articles: people write, follow, favour and comment. The RealWorld (Conduit) API 2.0.0 at `/conduit/api`, exactly; beside it
//! `/v1/articles` with pages by cursor, search, drafts and moderation.
//!
//! Its people are accounts of `identity` with a name, a text about them and a picture here. It renders no feed of its own and sends
//! no mail. Start at [`Articles`]; the Conduit operations are in `conduit.rs`, the rows in `store.rs`, what search
//! finds in `terms.rs`.
//!
//! What holds:
//! - A read asks the rows at most two statements, whatever the page holds, and one more the first time that a session is seen.
//! - The counts (`articlesCount`, `favoritesCount`) move in the commit of what they count.
//! - A card, which lists show, is there if and only if its article is published.
//! - Lists are newest first by the moment of publication and then by id, so two articles never tie.

mod article;
mod card;
mod comment;
mod conduit;
mod error;
mod leaving;
mod list;
mod moderation;
mod native;
mod person;
mod reader;
mod slug;
mod store;
mod tag;
mod terms;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use base::access::{Action, Principal, Subject};
use base::{AccountId, Base, OrganisationId};
use edge::{Caller, Routes};
use identity::Identity;
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use relational::Db;
use results::{OrganisationResults, Results};
use serde::{Deserialize, Serialize};

pub use error::{Error, Fault};

pub(crate) use error::Result;

/// Writing, following, favouring and commenting.
pub const ARTICLES_WRITE: Action = Action("articles.write");
/// Hiding what others wrote, and seeing what was reported.
pub const ARTICLES_MODERATE: Action = Action("articles.moderate");

/// Every deed of this room that can be granted.
pub const ACTIONS: &[Action] = &[ARTICLES_WRITE, ARTICLES_MODERATE];

const ROOM: &str = "articles";

/// Limits of articles.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where people reach this server, for previews of links. Never read from a request and no key of this section: the
    /// server fills it in from `http.public_url`.
    #[serde(skip)]
    pub origin: String,
    /// Who may make an account to write and comment.
    pub sign_up: SignUp,
    /// Characters of a name.
    pub username_characters_max: usize,
    /// Characters of what somebody says about themselves.
    pub bio_characters_max: usize,
    /// Bytes of the address of a picture.
    pub image_bytes_max: usize,
    /// Characters of a title.
    pub title_characters_max: usize,
    /// Characters of a description.
    pub description_characters_max: usize,
    /// Bytes of the text of an article.
    pub body_bytes_max: usize,
    /// Tags of an article.
    pub tags_max: usize,
    /// Characters of a tag.
    pub tag_characters_max: usize,
    /// Bytes of a comment.
    pub comment_bytes_max: usize,
    /// Comments that one answer shows, the newest ones.
    pub comments_shown_max: u32,
    /// Tags that one answer shows, those of the most articles.
    pub tags_shown_max: u32,
    /// Articles of a page where the request does not say.
    pub page: u32,
    /// Articles of a page at most; a request for more is given as many.
    pub page_max: u32,
    /// People that one look for them finds.
    pub people_found_max: u32,
    /// How far into a list `offset` reaches; cursors reach further.
    pub offset_max: u32,
    /// How long an article is kept as everybody sees it, when nothing changes.
    #[serde(with = "duration")]
    pub kept_max: Duration,
    /// Words and pieces of words by which one article is found.
    pub terms_max: usize,
}

/// Who may make an account here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SignUp {
    /// Nobody.
    Closed,
    /// Whoever asks from this machine itself.
    Loopback,
    /// Everybody.
    Open,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            origin: "http://localhost:8080".into(),
            sign_up: SignUp::Loopback,
            username_characters_max: 40,
            bio_characters_max: 2_000,
            image_bytes_max: 2_000,
            title_characters_max: 200,
            description_characters_max: 1_000,
            body_bytes_max: 256 << 10,
            tags_max: 20,
            tag_characters_max: 50,
            comment_bytes_max: 16 << 10,
            comments_shown_max: 1_000,
            tags_shown_max: 1_000,
            page: 20,
            page_max: 100,
            people_found_max: 20,
            offset_max: 10_000,
            kept_max: Duration::from_hours(1),
            terms_max: 4_000,
        }
    }
}

impl Config {
    fn check(&self) -> Result<()> {
        if self.page == 0 || self.page > self.page_max {
            return Err(Error::Config("articles.page must be from 1 to articles.page_max".into()));
        }
        let columns = [
            ("username_characters_max", self.username_characters_max, store::USERNAME_CHARACTERS),
            ("tag_characters_max", self.tag_characters_max, store::TAG_CHARACTERS),
            ("title_characters_max", self.title_characters_max, store::TITLE_CHARACTERS),
        ];
        match columns.iter().find(|(_, wanted, most)| wanted > most) {
            Some((name, _, most)) => {
                Err(Error::Config(format!("articles.{name} must be at most {most}")))
            }
            None => Ok(()),
        }
    }
}

/// What articles stand on.
#[derive(Clone)]
pub struct Needs {
    pub db: Db,
    pub identity: Identity,
    pub results: Results,
}

/// The articles of one organisation; cloning it is cheap.
#[derive(Clone)]
pub struct Articles(Arc<House>);

#[derive(Clone)]
pub(crate) struct House {
    pub(crate) config: Config,
    pub(crate) base: Base,
    pub(crate) db: Db,
    pub(crate) identity: Identity,
    pub(crate) results: OrganisationResults,
    pub(crate) organisation: OrganisationId,
}

impl Articles {
    /// Makes the tables. The articles are those of the default organisation: its paths name none.
    pub async fn open(config: Config, base: &Base, needs: Needs) -> Result<Self> {
        config.check()?;
        needs.db.migrate(ROOM, store::MIGRATIONS).await?;
        let organisation = OrganisationId::DEFAULT;
        card::make_missing(&needs.db, organisation).await?;
        Ok(Self(Arc::new(House {
            config,
            base: base.clone(),
            db: needs.db,
            identity: needs.identity,
            results: needs.results.for_organisation(organisation),
            organisation,
        })))
    }

    /// The operations under `/conduit/api` and `/v1`, and the pages.
    pub fn routes(&self) -> Routes<Self> {
        reader::routes(native::routes(conduit::routes(self.clone())))
    }
}

impl House {
    /// Whose favourites and follows an answer shows. A key has none, nor has a stranger's account.
    pub(crate) fn viewer(&self, caller: Option<&Caller>) -> Option<AccountId> {
        self.account(&caller?.principal).ok()
    }

    /// The account that writes.
    pub(crate) fn account(&self, principal: &Principal) -> Result<AccountId> {
        match principal.subject {
            Subject::Account(account) if principal.organisation == self.organisation => Ok(account),
            _ => Err(Error::Stranger),
        }
    }
}

/// The feature that the guide has one write compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guides/add-a-feature.md")]
struct Guide;
