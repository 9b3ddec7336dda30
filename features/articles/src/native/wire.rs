use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::article::{self, Article, ArticleChange, State};
use crate::conduit::ProfileBody;
use crate::moderation::Report;
use crate::person::Found;
use crate::{Error, Result};

#[derive(Deserialize, JsonSchema)]
pub(super) struct ListQuery {
    /// Words, pieces of Korean words, initial consonants (`ㅁㄷ`); the last word may be a beginning. Given alone.
    pub(super) q: Option<String>,
    pub(super) tag: Option<String>,
    /// The name of an author.
    pub(super) author: Option<String>,
    /// The name of whoever favours them.
    pub(super) favourite_of: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct PeopleQuery {
    /// How a name begins, in capitals or not; or an id, from its fourth letter on.
    pub(super) q: String,
    /// How many at most.
    pub(super) limit: Option<u32>,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ArticlePerson")]
pub(super) struct PersonView {
    /// The account's.
    id: String,
    username: String,
    image: Option<String>,
}

impl From<Found> for PersonView {
    fn from(found: Found) -> Self {
        let Found { account, username, image } = found;
        Self { id: account.to_string(), username, image }
    }
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ArticleView")]
pub(super) struct ArticleView {
    slug: String,
    title: String,
    description: String,
    /// Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[schemars(with = "Vec<String>")]
    tags: Box<RawValue>,
    state: State,
    /// When it was published; a draft: when it was written.
    #[schemars(extend("format" = "date-time"))]
    created: String,
    #[schemars(extend("format" = "date-time"))]
    updated: String,
    favourites: u64,
    is_favourite: bool,
    author: ProfileBody,
}

impl ArticleView {
    pub(super) fn of(article: Article) -> Result<Self> {
        let tags = RawValue::from_string(article.tags);
        Ok(Self {
            slug: article.slug,
            title: article.title,
            description: article.description,
            body: article.body,
            tags: tags.map_err(|_| Error::Stored("list of tags"))?,
            state: article.state,
            created: article.created.to_string(),
            updated: article.updated.to_string(),
            favourites: article.favourites,
            is_favourite: article.favoured,
            author: article.author.into(),
        })
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewArticle")]
pub(super) struct NewArticle {
    title: String,
    description: String,
    /// Markdown.
    body: String,
    #[serde(default)]
    tags: Vec<String>,
    /// Seen by its author alone until it is published.
    #[serde(default)]
    draft: bool,
}

impl From<NewArticle> for article::NewArticle {
    fn from(new: NewArticle) -> Self {
        let NewArticle { title, description, body, tags, draft } = new;
        let state = if draft { State::Draft } else { State::Published };
        Self { title, description, body, tags, state }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "UpdateArticle")]
pub(super) struct UpdateArticle {
    title: Option<String>,
    description: Option<String>,
    body: Option<String>,
    tags: Option<Vec<String>>,
}

impl From<UpdateArticle> for ArticleChange {
    fn from(change: UpdateArticle) -> Self {
        let UpdateArticle { title, description, body, tags } = change;
        Self { title, description, body, tags }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ArticleReportBody")]
pub(super) struct ReportBody {
    pub(super) reason: String,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ArticleReport")]
pub(super) struct ReportView {
    slug: String,
    title: String,
    /// The name of whoever reported it.
    reporter: String,
    reason: String,
    #[schemars(extend("format" = "date-time"))]
    created: String,
}

impl From<Report> for ReportView {
    fn from(report: Report) -> Self {
        let Report { slug, title, reporter, reason, created, .. } = report;
        Self { slug, title, reporter, reason, created: created.to_string() }
    }
}
