//! What goes over the wire.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Result;
use crate::owner::Deed;
use crate::site::{Moderation, Rules, Settings, Site};
use crate::statistics::{Bucket, By};
use crate::store::{Entry, EntryId, State};
use crate::transfer::Format;
use crate::{Error, markup};

/// A comment that is named by nothing is not there.
pub(super) fn entry_id(text: &str) -> Result<EntryId> {
    Ok(text.parse().map_err(|_| Error::NotFound("comment"))?)
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct CommentPath {
    /// The site's key.
    pub site: String,
    pub comment: String,
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct PageQuery {
    /// The page's address; its canonical one, when it says one.
    pub url: String,
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct ThreadQuery {
    /// The page's address; its canonical one, when it says one.
    pub url: String,
    /// The id of a comment: those that are older.
    pub before: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CommentBody {
    /// The page's address; its canonical one, when it says one.
    pub url: String,
    /// The page's title, for the owners.
    #[serde(default)]
    pub title: String,
    /// What it answers.
    #[serde(default)]
    pub parent: Option<String>,
    /// A guest's; somebody with an account has one.
    #[serde(default)]
    pub name: String,
    /// A guest's: with it the comment can be changed from another browser.
    #[serde(default)]
    pub password: Option<String>,
    /// A secret that the browser made for itself: with it the comment can be changed.
    #[serde(default)]
    pub browser: Option<String>,
    pub text: String,
    /// For its writer and the owners only.
    #[serde(default)]
    pub secret: bool,
    /// The same one again is the same comment.
    #[serde(default)]
    pub nonce: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeBody {
    pub text: String,
    #[serde(default)]
    pub secret: Option<bool>,
    #[serde(default)]
    pub password: Option<String>,
    #[serde(default)]
    pub browser: Option<String>,
}

/// Shows whose comment it is.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OwnBody {
    #[serde(default)]
    pub browser: Option<String>,
    #[serde(default)]
    pub password: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LikeBody {
    pub liked: bool,
    #[serde(default)]
    pub browser: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct LikesView {
    /// How many like it now.
    pub likes: i64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReportBody {
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub browser: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CountsBody {
    pub urls: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct CountsView {
    /// In the order of the addresses.
    pub counts: Vec<i64>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenBody {
    /// The name that comments show.
    pub name: String,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct TokenView {
    /// For `Authorization: Bearer`, on this site's pages only.
    pub token: String,
    pub name: String,
    /// Of the site.
    pub owner: bool,
}

// What owners see.

#[derive(Serialize, JsonSchema)]
pub(super) struct SiteView {
    pub id: String,
    /// Stands in the pages.
    pub key: String,
    #[serde(flatten)]
    pub settings: Settings,
    #[schemars(extend("format" = "date-time"))]
    pub created: String,
}

impl From<Site> for SiteView {
    fn from(site: Site) -> Self {
        let created = base::Timestamp::from_micros(site.created).to_string();
        Self { id: site.id, key: site.key, settings: site.settings, created }
    }
}

/// What changes; what is not said stays.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SitePatch {
    pub name: Option<String>,
    pub origins: Option<Vec<String>>,
    pub zone: Option<String>,
    pub moderation: Option<Moderation>,
    pub rules: Option<Rules>,
}

impl SitePatch {
    pub(super) fn apply(self, old: Settings) -> Settings {
        Settings {
            name: self.name.unwrap_or(old.name),
            origins: self.origins.unwrap_or(old.origins),
            zone: self.zone.unwrap_or(old.zone),
            moderation: self.moderation.unwrap_or(old.moderation),
            rules: self.rules.unwrap_or(old.rules),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct EntriesQuery {
    /// Without one, every one but those that were deleted.
    pub state: Option<State>,
    /// In the text or in the writer's name.
    pub text: Option<String>,
    /// A page's address.
    pub url: Option<String>,
    /// Those with reports only.
    #[serde(default)]
    pub reported: bool,
    /// From this moment on.
    pub from: Option<String>,
    /// Before this moment.
    pub to: Option<String>,
}

/// A comment as owners see it.
#[derive(Serialize, JsonSchema)]
pub(super) struct EntryView {
    pub id: String,
    pub parent: Option<String>,
    pub state: State,
    /// Why it is held: `word`, `links`, `first`, `all` or `reports`.
    pub reason: Option<String>,
    pub name: String,
    /// A guest has none.
    pub account: Option<String>,
    /// As it was written.
    pub text: String,
    /// Without marks, for lists.
    pub html: String,
    pub secret: bool,
    pub pinned: bool,
    pub owner: bool,
    pub likes: i64,
    pub reports: i64,
    pub url: String,
    pub title: String,
    #[schemars(extend("format" = "date-time"))]
    pub created: String,
    #[schemars(extend("format" = "date-time"))]
    pub edited: Option<String>,
}

impl EntryView {
    pub(super) fn of((entry, url, title): (Entry, String, String)) -> Self {
        Self {
            id: entry.id.to_string(),
            parent: entry.parent.map(|parent| parent.to_string()),
            state: entry.state,
            reason: entry.reason,
            name: entry.name,
            account: entry.account,
            html: markup::html(&markup::parse(&entry.source)),
            text: entry.source,
            secret: entry.is_secret,
            pinned: entry.is_pinned,
            owner: entry.is_owner,
            likes: entry.likes,
            reports: entry.reports,
            url,
            title,
            created: entry.created.to_string(),
            edited: entry.edited.map(|edited| edited.to_string()),
        }
    }
}

#[derive(Default, Serialize, JsonSchema)]
pub(super) struct StatesView {
    pub shown: i64,
    pub held: i64,
    pub spam: i64,
    pub deleted: i64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ActBody {
    pub action: Deed,
    pub comments: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct ActedView {
    /// How many were there to be changed.
    pub changed: usize,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AnswerBody {
    /// What is answered.
    pub parent: String,
    /// The name that the answer shows.
    pub name: String,
    pub text: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportBody {
    pub format: Format,
    /// The file.
    pub text: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ClosedBody {
    pub url: String,
    pub closed: bool,
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct StatisticsQuery {
    pub by: By,
    /// The first day, in the site's zone.
    pub from: String,
    /// The last day.
    pub to: String,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct StatisticsView {
    pub zone: String,
    /// Of all parts together.
    pub total: i64,
    pub parts: Vec<Bucket>,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct BanView {
    /// A digest of an account, a browser or an address.
    pub id: String,
    /// The name of the comment that it was banned for.
    pub name: String,
    #[schemars(extend("format" = "date-time"))]
    pub created: String,
}
