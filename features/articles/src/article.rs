//! One article: reading it, writing it, favouring it.

use std::collections::BTreeSet;
use std::time::Duration;

use base::access::Principal;
use base::{AccountId, Id, OrganisationId, Timestamp};
use relational::{Read, Row, Tx, params};
use schemars::JsonSchema;
use serde::Serialize;
use unicode_normalization::UnicodeNormalization;

use crate::error::{BLANK, Faults};
use crate::person::{Profile, profile_of};
use crate::slug::{slug_of, suffix};
use crate::store::{ALL, AUTHOR, Statement, TAG, person_columns, tally};
use crate::{Config, Error, House, Result, card, terms};

pub(crate) type ArticleId = Id<Articles>;

/// Marks the ids of articles; never a value.
#[derive(Debug)]
pub(crate) enum Articles {}

/// An article as one viewer sees it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Article {
    pub id: ArticleId,
    pub slug: String,
    pub title: String,
    pub description: String,
    /// Not in lists.
    pub body: Option<String>,
    /// A JSON array of texts, as it is stored.
    pub tags: String,
    pub state: State,
    pub created: Timestamp,
    pub updated: Timestamp,
    pub favoured: bool,
    pub favourites: u64,
    pub author: Profile,
}

/// Who sees an article.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "ArticleState")]
pub(crate) enum State {
    /// Its author.
    Draft,
    /// Everybody.
    Published,
    /// Its author and who moderates.
    Hidden,
}

impl State {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Published => "published",
            Self::Hidden => "hidden",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        match text {
            "draft" => Ok(Self::Draft),
            "published" => Ok(Self::Published),
            "hidden" => Ok(Self::Hidden),
            _ => Err(Error::Stored("state of an article")),
        }
    }
}

/// What somebody writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewArticle {
    pub title: String,
    pub description: String,
    pub body: String,
    pub tags: Vec<String>,
    pub state: State,
}

/// What somebody writes anew.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ArticleChange {
    pub title: Option<String>,
    pub description: Option<String>,
    pub body: Option<String>,
    pub tags: Option<Vec<String>>,
}

/// What is known of an article before it is changed.
pub(crate) struct Known {
    pub id: ArticleId,
    pub author: AccountId,
    pub state: State,
    pub created: Timestamp,
}

impl Known {
    pub(crate) fn of(row: &Row) -> Result<Self> {
        Ok(Self {
            id: row.get("id")?,
            author: row.get("author")?,
            state: State::parse(&row.get::<String>("state")?)?,
            created: row.get("created")?,
        })
    }
}

/// What cached answers depend on that show one article.
pub(crate) fn subject(slug: &str) -> String {
    format!("article {slug}")
}

/// The columns of an article `a` with its author `p`; those of lists have no body.
pub(crate) fn columns(
    statement: &mut Statement,
    organisation: OrganisationId,
    viewer: Option<AccountId>,
    has_body: bool,
) {
    statement.add(
        "a.id AS id, a.slug AS slug, a.title AS title, a.description AS description, a.tags AS tags,
        a.state AS state, a.created AS created, a.updated AS updated, a.favourites AS favourites, ",
        &[],
    );
    if has_body {
        statement.add("a.body AS body, ", &[]);
    }
    favoured_column(statement, organisation, viewer);
    person_columns(statement, organisation, viewer);
}

/// The columns of a card `a` with its author `p`.
pub(crate) fn card_columns(
    statement: &mut Statement,
    organisation: OrganisationId,
    viewer: Option<AccountId>,
) {
    statement.add("a.card AS card, a.favourites AS favourites, ", &[]);
    favoured_column(statement, organisation, viewer);
    person_columns(statement, organisation, viewer);
}

/// Whether the viewer favours the article `a`.
fn favoured_column(
    statement: &mut Statement,
    organisation: OrganisationId,
    viewer: Option<AccountId>,
) {
    match viewer {
        Some(viewer) => statement.add(
            "(SELECT COUNT(*) FROM article_favourite v WHERE v.organisation = ? AND v.account = ?
                AND v.article = a.id) AS favoured, ",
            params![organisation, viewer],
        ),
        None => statement.add("0 AS favoured, ", &[]),
    }
}

/// An article always has an author with a name.
pub(crate) const WITH_AUTHOR: &str =
    " JOIN article_person p ON p.organisation = a.organisation AND p.account = a.author";

pub(crate) fn article_of(row: &Row, has_body: bool) -> Result<Article> {
    Ok(Article {
        id: row.get("id")?,
        slug: row.get("slug")?,
        title: row.get("title")?,
        description: row.get("description")?,
        body: if has_body { Some(row.get("body")?) } else { None },
        tags: row.get("tags")?,
        state: State::parse(&row.get::<String>("state")?)?,
        created: row.get("created")?,
        updated: row.get("updated")?,
        favoured: row.get::<i64>("favoured")? > 0,
        favourites: row.get("favourites")?,
        author: profile_of(row)?,
    })
}

/// The article with a slug, if the viewer may see it.
pub(crate) async fn find(
    read: &mut Read,
    organisation: OrganisationId,
    slug: &str,
    viewer: Option<AccountId>,
) -> Result<Article> {
    let mut statement = Statement::default();
    statement.add("SELECT ", &[]);
    columns(&mut statement, organisation, viewer, true);
    statement.add(" FROM article a", &[]);
    statement.add(WITH_AUTHOR, &[]);
    statement.add(" WHERE a.organisation = ? AND a.slug = ?", params![organisation, slug]);
    match viewer {
        Some(viewer) => {
            let own = " AND (a.state = 'published' OR a.author = ?)";
            statement.add(own, params![viewer]);
        }
        None => statement.add(" AND a.state = 'published'", &[]),
    }
    let row = read.query_optional(&statement.sql, &statement.values).await?;
    article_of(&row.ok_or(Error::NotFound("article"))?, true)
}

/// What is known of an article, whoever may see it.
pub(crate) async fn any(
    read: &mut Read,
    organisation: OrganisationId,
    slug: &str,
) -> Result<Known> {
    let sql = "SELECT id, author, state, created FROM article WHERE organisation = ? AND slug = ?";
    let row = read.query_optional(sql, params![organisation, slug]).await?;
    Known::of(&row.ok_or(Error::NotFound("article"))?)
}

/// The same for a viewer: an article that they may not see is not there for them.
pub(crate) async fn known(
    read: &mut Read,
    organisation: OrganisationId,
    slug: &str,
    viewer: Option<AccountId>,
) -> Result<Known> {
    let known = any(read, organisation, slug).await?;
    if known.state != State::Published && viewer != Some(known.author) {
        return Err(Error::NotFound("article"));
    }
    Ok(known)
}

impl House {
    pub(crate) async fn article(&self, viewer: Option<AccountId>, slug: String) -> Result<Article> {
        let organisation = self.organisation;
        self.db.read(async move |read| find(read, organisation, &slug, viewer).await).await
    }

    pub(crate) async fn write(&self, by: &Principal, new: NewArticle) -> Result<Article> {
        let mut faults = Faults::default();
        check_texts(
            &self.config,
            &mut faults,
            (Some(&new.title), Some(&new.description), Some(&new.body)),
        );
        let tags = check_tags(&self.config, &mut faults, &new.tags);
        faults.check()?;
        let account = self.account(by)?;
        let (house, name) = (self.clone(), by.name.clone());
        let written = self.db.write(async move |tx| {
            let author = house.ensure(tx, account, &name).await?;
            house.check_voice(tx, account).await?;
            let now = house.base.clock.now();
            let article = Article {
                id: ArticleId::new(now, &house.base.entropy),
                slug: house.free_slug(tx, &new.title).await?,
                title: new.title.clone(),
                description: new.description.clone(),
                body: Some(new.body.clone()),
                tags: json_of(&tags),
                state: new.state,
                created: now,
                updated: now,
                favoured: false,
                favourites: 0,
                author,
            };
            let sql =
                "INSERT INTO article (organisation, id, slug, author, state, title, description,
                    body, tags, favourites, created, updated)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)";
            let values = params![
                house.organisation,
                article.id,
                article.slug,
                account,
                article.state.text(),
                article.title,
                article.description,
                article.body,
                article.tags,
                now,
                now
            ];
            tx.execute(sql, values).await?;
            if article.state == State::Published {
                house.publish(tx, account, &article).await?;
            }
            Ok(article)
        });
        written.await
    }

    pub(crate) async fn rewrite(
        &self,
        by: &Principal,
        slug: String,
        change: ArticleChange,
    ) -> Result<Article> {
        let account = self.account(by)?;
        let mut faults = Faults::default();
        let texts =
            (change.title.as_deref(), change.description.as_deref(), change.body.as_deref());
        check_texts(&self.config, &mut faults, texts);
        let tags = change.tags.as_ref().map(|tags| check_tags(&self.config, &mut faults, tags));
        let house = self.clone();
        let is_fit = faults.check();
        let rewritten = self.db.write(async move |tx| {
            let organisation = house.organisation;
            let known = known(tx, organisation, &slug, Some(account)).await?;
            if known.author != account {
                return Err(Error::Forbidden("article"));
            }
            if let Err(Error::Invalid(faults)) = &is_fit {
                return Err(Error::Invalid(faults.clone()));
            }
            house.check_voice(tx, account).await?;
            let was = find(tx, organisation, &slug, Some(account)).await?;
            let title = change.title.clone().unwrap_or_else(|| was.title.clone());
            let article = Article {
                slug: if title == was.title {
                    slug.clone()
                } else {
                    house.free_slug(tx, &title).await?
                },
                title,
                description: change.description.clone().unwrap_or(was.description),
                body: change.body.clone().or(was.body),
                tags: tags.as_ref().map_or(was.tags, |tags| json_of(tags)),
                // Two changes within a millisecond must be told apart by who reads milliseconds.
                updated: house.base.clock.now().max(was.updated.plus(Duration::from_millis(1))),
                ..was
            };
            let sql = "UPDATE article
                SET slug = ?, title = ?, description = ?, body = ?, tags = ?, updated = ?
                WHERE organisation = ? AND id = ?";
            let texts = params![
                article.slug,
                article.title,
                article.description,
                article.body,
                article.tags,
                article.updated,
                organisation,
                article.id
            ];
            tx.execute(sql, texts).await?;
            if article.state == State::Published {
                house.unindex(tx, article.id).await?;
                house.index(tx, account, &article).await?;
                house.results.bump(tx, &[&subject(&slug), &subject(&article.slug)]).await?;
            }
            Ok(article)
        });
        rewritten.await
    }

    pub(crate) async fn delete(&self, by: &Principal, slug: String) -> Result<()> {
        let account = self.account(by)?;
        let house = self.clone();
        let deleted = self.db.write(async move |tx| {
            let organisation = house.organisation;
            let known = known(tx, organisation, &slug, Some(account)).await?;
            if known.author != account {
                return Err(Error::Forbidden("article"));
            }
            house.remove(tx, &known, &slug).await
        });
        deleted.await
    }

    /// Takes an article away with everything that hangs on it.
    pub(crate) async fn remove(&self, tx: &mut Tx, known: &Known, slug: &str) -> Result<()> {
        if known.state == State::Published {
            self.withdraw(tx, known).await?;
        }
        for table in ["article_favourite", "article_comment", "article_report"] {
            let sql = format!("DELETE FROM {table} WHERE organisation = ? AND article = ?");
            tx.execute(&sql, params![self.organisation, known.id]).await?;
        }
        let sql = "DELETE FROM article WHERE organisation = ? AND id = ?";
        tx.execute(sql, params![self.organisation, known.id]).await?;
        self.results.bump(tx, &[&subject(slug)]).await?;
        Ok(())
    }

    /// Begins or ends favouring an article; again, it changes nothing.
    pub(crate) async fn favour(
        &self,
        by: &Principal,
        slug: String,
        favours: bool,
    ) -> Result<Article> {
        let account = self.account(by)?;
        let (house, name) = (self.clone(), by.name.clone());
        let favoured = self.db.write(async move |tx| {
            let organisation = house.organisation;
            let known = known(tx, organisation, &slug, Some(account)).await?;
            // Favourites are listed by the moment of publication, which a draft does not have yet.
            if known.state != State::Published {
                return Err(Error::NotFound("article"));
            }
            house.ensure(tx, account, &name).await?;
            let which = params![organisation, account, known.id];
            let sql = "SELECT 1 AS there FROM article_favourite
                WHERE organisation = ? AND account = ? AND article = ?";
            let is_there = tx.query_optional(sql, which).await?.is_some();
            if favours != is_there {
                if favours {
                    let sql =
                        "INSERT INTO article_favourite (organisation, account, article, created)
                        VALUES (?, ?, ?, ?)";
                    let row = params![organisation, account, known.id, known.created];
                    tx.execute(sql, row).await?;
                } else {
                    let sql = "DELETE FROM article_favourite
                        WHERE organisation = ? AND account = ? AND article = ?";
                    tx.execute(sql, which).await?;
                }
                let by = if favours { 1 } else { -1 };
                card::favoured(tx, organisation, known.id, by).await?;
                house.results.bump(tx, &[&subject(&slug)]).await?;
            }
            find(tx, organisation, &slug, Some(account)).await
        });
        favoured.await
    }

    /// Whoever was silenced writes nothing more.
    pub(crate) async fn check_voice(&self, tx: &mut Tx, account: AccountId) -> Result<()> {
        let sql = "SELECT silenced FROM article_person WHERE organisation = ? AND account = ?";
        let row = tx.query_optional(sql, params![self.organisation, account]).await?;
        let silenced = row.map(|row| row.get::<Option<Timestamp>>("silenced")).transpose()?;
        if silenced.flatten().is_some() { Err(Error::Silenced) } else { Ok(()) }
    }

    /// Lets everybody see and find an article.
    pub(crate) async fn publish(
        &self,
        tx: &mut Tx,
        author: AccountId,
        article: &Article,
    ) -> Result<()> {
        tally(tx, self.organisation, (ALL, ""), 1).await?;
        tally(tx, self.organisation, (AUTHOR, &author.to_string()), 1).await?;
        self.index(tx, author, article).await
    }

    /// Takes an article from the lists, the counts and the search.
    pub(crate) async fn withdraw(&self, tx: &mut Tx, known: &Known) -> Result<()> {
        tally(tx, self.organisation, (ALL, ""), -1).await?;
        tally(tx, self.organisation, (AUTHOR, &known.author.to_string()), -1).await?;
        self.unindex(tx, known.id).await
    }

    /// Writes what a published article is found by: its card, its tags and its words.
    async fn index(&self, tx: &mut Tx, author: AccountId, article: &Article) -> Result<()> {
        let organisation = self.organisation;
        card::put(tx, organisation, author, article).await?;
        let tags = tags_of(&article.tags)?;
        for tag in &tags {
            let sql = "INSERT INTO article_tag (organisation, tag, article, created)
                VALUES (?, ?, ?, ?)";
            tx.execute(sql, params![organisation, tag, article.id, article.created]).await?;
            tally(tx, organisation, (TAG, tag), 1).await?;
        }
        let fields = terms::Fields {
            title: &article.title,
            tags: &tags.join(" "),
            description: &article.description,
            body: article.body.as_deref().unwrap_or_default(),
        };
        terms::put(tx, (organisation, article.id), &fields, self.config.terms_max).await
    }

    async fn unindex(&self, tx: &mut Tx, id: ArticleId) -> Result<()> {
        let organisation = self.organisation;
        card::remove(tx, organisation, id).await?;
        let sql = "SELECT tag FROM article_tag WHERE organisation = ? AND article = ?";
        for row in tx.query(sql, params![organisation, id]).await? {
            tally(tx, organisation, (TAG, &row.get::<String>("tag")?), -1).await?;
        }
        for table in ["article_tag", "article_term", "article_text"] {
            let sql = format!("DELETE FROM {table} WHERE organisation = ? AND article = ?");
            tx.execute(&sql, params![organisation, id]).await?;
        }
        Ok(())
    }

    async fn free_slug(&self, tx: &mut Tx, title: &str) -> Result<String> {
        let plain = slug_of(title);
        let mut slug = plain.clone();
        loop {
            let sql = "SELECT 1 AS taken FROM article WHERE organisation = ? AND slug = ?";
            let taken = tx.query_optional(sql, params![self.organisation, slug]).await?;
            if taken.is_none() {
                return Ok(slug);
            }
            slug = format!("{plain}-{}", suffix(&self.base.entropy));
        }
    }
}

fn check_texts(
    config: &Config,
    faults: &mut Faults,
    (title, description, body): (Option<&str>, Option<&str>, Option<&str>),
) {
    if let Some(title) = title {
        faults.text("title", title, config.title_characters_max);
    }
    if let Some(description) = description {
        faults.text("description", description, config.description_characters_max);
    }
    if let Some(body) = body {
        faults.bytes("body", body, config.body_bytes_max);
    }
}

/// The tags in the order in which they were given, each once, in one form.
fn check_tags(config: &Config, faults: &mut Faults, given: &[String]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let tags: Vec<String> = given
        .iter()
        .map(|tag| tag.trim().nfc().collect::<String>())
        .filter(|tag| seen.insert(tag.clone()))
        .collect();
    if tags.len() > config.tags_max {
        faults.add("tagList", format!("has too many tags (maximum is {})", config.tags_max));
    }
    if tags.iter().any(String::is_empty) {
        faults.add("tagList", BLANK);
    }
    let most = config.tag_characters_max;
    if tags.iter().any(|tag| tag.chars().count() > most) {
        faults.add("tagList", format!("has a tag that is too long (maximum is {most} characters)"));
    }
    if tags.iter().any(|tag| tag.contains(char::is_control)) {
        faults.add("tagList", "has a tag with control characters");
    }
    tags
}

fn json_of(tags: &[String]) -> String {
    serde_json::to_string(tags).expect("texts always become JSON")
}

pub(crate) fn tags_of(text: &str) -> Result<Vec<String>> {
    serde_json::from_str(text).map_err(|_| Error::Stored("list of tags"))
}
