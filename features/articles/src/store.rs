//! The tables, and what every part of this room asks them with.

use base::{AccountId, OrganisationId};
use relational::{Migration, Tx, Value, params};

use crate::Result;

pub(crate) const USERNAME_CHARACTERS: usize = 64;
pub(crate) const TAG_CHARACTERS: usize = 100;
pub(crate) const TITLE_CHARACTERS: usize = 500;

pub(crate) const MIGRATIONS: &[Migration] = &[FIRST, SECOND, THIRD];

const THIRD: Migration = Migration {
    id: "0003-leaving",
    sql: "
CREATE INDEX article_follow_followed ON article_follow (organisation, followed);
CREATE INDEX article_comment_author ON article_comment (organisation, author);
",
};

const SECOND: Migration = Migration {
    id: "0002-cards",
    sql: "
CREATE TABLE article_card (
    organisation VARCHAR(36) NOT NULL,
    id VARCHAR(36) NOT NULL,
    author VARCHAR(36) NOT NULL,
    created BIGINT NOT NULL,
    favourites BIGINT NOT NULL,
    card TEXT NOT NULL,
    PRIMARY KEY (organisation, id)
);
CREATE INDEX article_card_newest ON article_card (organisation, created, id);
CREATE INDEX article_card_author ON article_card (organisation, author, created, id);
",
};

const FIRST: Migration = Migration {
    id: "0001-articles",
    // `created` of an article is the moment of its publication; its tags, favourites and terms carry what they are
    // ordered by. `username_key` is the name as it is compared. A tally counts published articles: of all, of a tag, of an author.
    sql: "
CREATE TABLE article_person (
    organisation VARCHAR(36) NOT NULL,
    account VARCHAR(36) NOT NULL,
    username VARCHAR(64) NOT NULL,
    username_key VARCHAR(192) NOT NULL,
    bio TEXT,
    image TEXT,
    created BIGINT NOT NULL,
    silenced BIGINT,
    PRIMARY KEY (organisation, account)
);
CREATE UNIQUE INDEX article_person_name ON article_person (organisation, username_key);
CREATE TABLE article (
    organisation VARCHAR(36) NOT NULL,
    id VARCHAR(36) NOT NULL,
    slug VARCHAR(120) NOT NULL,
    author VARCHAR(36) NOT NULL,
    state VARCHAR(10) NOT NULL,
    title VARCHAR(500) NOT NULL,
    description TEXT NOT NULL,
    body TEXT NOT NULL,
    tags TEXT NOT NULL,
    favourites BIGINT NOT NULL,
    created BIGINT NOT NULL,
    updated BIGINT NOT NULL,
    PRIMARY KEY (organisation, id)
);
CREATE UNIQUE INDEX article_slug ON article (organisation, slug);
CREATE INDEX article_newest ON article (organisation, state, created, id);
CREATE INDEX article_author ON article (organisation, author, state, created, id);
CREATE TABLE article_tag (
    organisation VARCHAR(36) NOT NULL,
    tag VARCHAR(100) NOT NULL,
    article VARCHAR(36) NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (organisation, article, tag)
);
CREATE INDEX article_tag_newest ON article_tag (organisation, tag, created, article);
CREATE TABLE article_tally (
    organisation VARCHAR(36) NOT NULL,
    kind VARCHAR(10) NOT NULL,
    name VARCHAR(100) NOT NULL,
    articles BIGINT NOT NULL,
    PRIMARY KEY (organisation, kind, name)
);
CREATE INDEX article_tally_most ON article_tally (organisation, kind, articles, name);
CREATE TABLE article_favourite (
    organisation VARCHAR(36) NOT NULL,
    account VARCHAR(36) NOT NULL,
    article VARCHAR(36) NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (organisation, account, article)
);
CREATE INDEX article_favourite_newest ON article_favourite (organisation, account, created, article);
CREATE INDEX article_favourite_article ON article_favourite (organisation, article);
CREATE TABLE article_follow (
    organisation VARCHAR(36) NOT NULL,
    follower VARCHAR(36) NOT NULL,
    followed VARCHAR(36) NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (organisation, follower, followed)
);
CREATE TABLE article_comment (
    organisation VARCHAR(36) NOT NULL,
    id BIGINT NOT NULL,
    article VARCHAR(36) NOT NULL,
    author VARCHAR(36) NOT NULL,
    body TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (organisation, id)
);
CREATE INDEX article_comment_article ON article_comment (organisation, article, id);
CREATE TABLE article_text (
    organisation VARCHAR(36) NOT NULL,
    article VARCHAR(36) NOT NULL,
    words TEXT NOT NULL,
    initials TEXT NOT NULL,
    PRIMARY KEY (organisation, article)
);
CREATE TABLE article_term (
    organisation VARCHAR(36) NOT NULL,
    term VARCHAR(60) NOT NULL,
    article VARCHAR(36) NOT NULL,
    weight BIGINT NOT NULL,
    PRIMARY KEY (organisation, term, article)
);
CREATE INDEX article_term_article ON article_term (organisation, article);
CREATE TABLE article_report (
    organisation VARCHAR(36) NOT NULL,
    article VARCHAR(36) NOT NULL,
    reporter VARCHAR(36) NOT NULL,
    reason TEXT NOT NULL,
    created BIGINT NOT NULL,
    PRIMARY KEY (organisation, article, reporter)
);
CREATE INDEX article_report_oldest ON article_report (organisation, created, article);
",
};

/// Text of a statement, with the values of its placeholders in their order.
#[derive(Default)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    pub(crate) values: Vec<Value>,
}

impl Statement {
    /// Adds text and the values that it has placeholders for.
    pub(crate) fn add(&mut self, sql: &str, values: &[Value]) {
        self.sql.push_str(sql);
        self.values.extend_from_slice(values);
    }
}

/// Counts published articles up or down.
pub(crate) async fn tally(
    tx: &mut Tx,
    organisation: OrganisationId,
    (kind, name): (&str, &str),
    by: i64,
) -> Result<()> {
    let sql = "UPDATE article_tally SET articles = articles + ?
        WHERE organisation = ? AND kind = ? AND name = ?";
    if tx.execute(sql, params![by, organisation, kind, name]).await? == 0 {
        let sql = "INSERT INTO article_tally (organisation, kind, name, articles)
            VALUES (?, ?, ?, ?)";
        tx.execute(sql, params![organisation, kind, name, by]).await?;
    }
    if by < 0 && kind == TAG {
        let sql = "DELETE FROM article_tally
            WHERE organisation = ? AND kind = ? AND name = ? AND articles <= 0";
        tx.execute(sql, params![organisation, kind, name]).await?;
    }
    Ok(())
}

pub(crate) const ALL: &str = "all";
/// Counts nothing: says that every published article has its card.
pub(crate) const CARDS: &str = "cards";
pub(crate) const TAG: &str = "tag";
pub(crate) const AUTHOR: &str = "author";

/// The columns of somebody as others see them, of `p`; whether the viewer follows them, of `following`.
pub(crate) fn person_columns(
    statement: &mut Statement,
    organisation: OrganisationId,
    viewer: Option<AccountId>,
) {
    statement.add("p.username AS username, p.bio AS bio, p.image AS image, ", &[]);
    match viewer {
        Some(viewer) => statement.add(
            "(SELECT COUNT(*) FROM article_follow w WHERE w.organisation = ? AND w.follower = ?
                AND w.followed = p.account) AS following",
            params![organisation, viewer],
        ),
        None => statement.add("0 AS following", &[]),
    }
}
