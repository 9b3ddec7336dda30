//! Articles as lists show them. A card has in one small row what a list says of a published article, already written as JSON, so that
//! a list reads no long text and writes nothing anew. It is made, changed and taken away in the commit that does so to the article.

use base::{AccountId, ErrorKind, OrganisationId};
use relational::{Db, Row, Tx, Value, params};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::article::{Article, ArticleId, State, WITH_AUTHOR, article_of, columns};
use crate::store::{CARDS, Statement, tally};
use crate::tag::{self, Tagged};
use crate::{Error, Result};

/// What of a card changes with its article only, in the words of the Conduit API.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    slug: &'a str,
    title: &'a str,
    description: &'a str,
    tag_list: &'a RawValue,
    created_at: String,
    updated_at: String,
}

/// What else a list says, of other rows and for one viewer.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rest<'a> {
    favorited: bool,
    favorites_count: i64,
    author: Author<'a>,
}

#[derive(Serialize)]
struct Author<'a> {
    username: &'a str,
    bio: Option<&'a str>,
    image: Option<&'a str>,
    following: bool,
}

/// A JSON object without its end, to which [`Rest`] is added.
fn written(article: &Article) -> Result<String> {
    let tag_list: &RawValue =
        serde_json::from_str(&article.tags).map_err(|_| Error::Stored("list of tags"))?;
    let mut text = json(&Written {
        slug: &article.slug,
        title: &article.title,
        description: &article.description,
        tag_list,
        created_at: crate::conduit::written(article.created),
        updated_at: crate::conduit::written(article.updated),
    });
    text.pop();
    Ok(text)
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts and numbers always become JSON")
}

pub(crate) async fn put(
    tx: &mut Tx,
    organisation: OrganisationId,
    author: AccountId,
    article: &Article,
) -> Result<()> {
    let sql = "INSERT INTO article_card (organisation, id, author, created, favourites, card)
        VALUES (?, ?, ?, ?, ?, ?)";
    let favourites = i64::try_from(article.favourites).unwrap_or(i64::MAX);
    let card = written(article)?;
    let row = params![organisation, article.id, author, article.created, favourites, card];
    tx.execute(sql, row).await?;
    Ok(())
}

pub(crate) async fn remove(tx: &mut Tx, organisation: OrganisationId, id: ArticleId) -> Result<()> {
    let sql = "DELETE FROM article_card WHERE organisation = ? AND id = ?";
    tx.execute(sql, params![organisation, id]).await?;
    Ok(())
}

/// Somebody more or less favours the article.
pub(crate) async fn favoured(
    tx: &mut Tx,
    organisation: OrganisationId,
    id: ArticleId,
    by: i64,
) -> Result<()> {
    for table in ["article", "article_card"] {
        let sql = format!(
            "UPDATE {table} SET favourites = favourites + ? WHERE organisation = ? AND id = ?"
        );
        tx.execute(&sql, params![by, organisation, id]).await?;
    }
    Ok(())
}

/// Articles whose cards are made in one commit.
const MADE_AT_ONCE: i64 = 200;

/// Makes the cards of articles that were published before there were any, once.
pub(crate) async fn make_missing(db: &Db, organisation: OrganisationId) -> Result<()> {
    loop {
        let made = db.write(async move |tx| {
            let sql = "SELECT articles FROM article_tally WHERE organisation = ? AND kind = ? AND name = ''";
            if tx.query_optional(sql, params![organisation, CARDS]).await?.is_some() {
                return Ok(0);
            }
            let mut statement = Statement::default();
            statement.add("SELECT a.author AS author, ", &[]);
            columns(&mut statement, organisation, None, false);
            statement.add(" FROM article a", &[]);
            statement.add(WITH_AUTHOR, &[]);
            let without =
                " LEFT JOIN article_card c ON c.organisation = a.organisation AND c.id = a.id
                WHERE a.organisation = ? AND a.state = ? AND c.id IS NULL ORDER BY a.id LIMIT ?";
            let published = State::Published.text();
            statement.add(without, params![organisation, published, MADE_AT_ONCE]);
            let rows = tx.query(&statement.sql, &statement.values).await?;
            for row in &rows {
                put(tx, organisation, row.get("author")?, &article_of(row, false)?).await?;
            }
            if rows.is_empty() {
                tally(tx, organisation, (CARDS, ""), 1).await?;
            }
            Ok::<_, Error>(rows.len())
        });
        match made.await {
            Ok(0) => return Ok(()),
            // Another node makes them too.
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
}

/// Bytes of a card with what is added to it, roughly.
const CARD_BYTES: usize = 512;

/// The answer of the Conduit API to a list.
pub(crate) fn list(rows: &[Row], total: u64) -> Result<Tagged> {
    let mut body = Vec::with_capacity(tag::BYTES + 64 + rows.len() * CARD_BYTES);
    body.resize(tag::BYTES, 0);
    body.extend_from_slice(b"{\"articles\":[");
    for (place, row) in rows.iter().enumerate() {
        if place > 0 {
            body.push(b',');
        }
        add(&mut body, row)?;
    }
    body.extend_from_slice(format!("],\"articlesCount\":{total}}}").as_bytes());
    Ok(Tagged::behind_its_place(body))
}

fn add(body: &mut Vec<u8>, row: &Row) -> Result<()> {
    body.extend_from_slice(text(row, "card")?.unwrap_or_default().as_bytes());
    let join = body.len();
    let rest = Rest {
        favorited: number(row, "favoured")? > 0,
        favorites_count: number(row, "favourites")?,
        author: Author {
            username: text(row, "username")?.unwrap_or_default(),
            bio: text(row, "bio")?,
            image: text(row, "image")?,
            following: number(row, "following")? > 0,
        },
    };
    serde_json::to_writer(&mut *body, &rest).map_err(|_| Error::Stored("article"))?;
    // The object goes on where it would begin anew.
    body[join] = b',';
    Ok(())
}

fn text<'a>(row: &'a Row, column: &str) -> Result<Option<&'a str>> {
    match row.value(column)? {
        Value::Text(text) => Ok(Some(text)),
        Value::Null => Ok(None),
        _ => Err(Error::Stored("article")),
    }
}

fn number(row: &Row, column: &str) -> Result<i64> {
    Ok(row.get(column)?)
}
