//! What somebody has here: told to them, and forgotten when they go.

use base::personal::{Forgotten, Someone, Texts, Told};
use base::{AccountId, Timestamp};
use relational::{Row, ToValue, Tx, params};
use serde_json::{Value, json};

use crate::article::{ArticleId, Known, subject};
use crate::person::{PEOPLE, account_of, username_key};
use crate::{Articles, Error, House, Result, card};

/// Rows that one transaction changes, and that one part tells.
const ROWS: i64 = 100;
/// Articles that one transaction deletes: each has hundreds of words by which it is found.
const ARTICLES: i64 = 5;

impl Articles {
    /// Takes their name, picture and what they say of themselves, whom they follow and what they favour, and what nobody has
    /// read yet; and, when texts go too, everything that they wrote.
    pub async fn forget(&self, tx: &mut Tx, who: &Someone, texts: Texts) -> Result<Forgotten> {
        let house = &self.0;
        if who.organisation != house.organisation {
            return Ok(Forgotten::All);
        }
        house.take_name(tx, who.account).await?;
        // One kind in a transaction.
        let mut forgotten = house.unfollow_all(tx, who.account).await?;
        if forgotten == Forgotten::All {
            forgotten = house.unfavour_all(tx, who.account).await?;
        }
        if forgotten == Forgotten::All {
            forgotten = house.delete_all(tx, who.account, texts).await?;
        }
        if forgotten == Forgotten::All && texts == Texts::Erase {
            forgotten = house.unsay_all(tx, who.account).await?;
        }
        Ok(forgotten)
    }

    /// A part of what they have here.
    pub async fn told(&self, who: &Someone, after: Option<String>) -> Result<Told> {
        let (house, account) = (&self.0, who.account);
        if who.organisation != house.organisation {
            return Ok(Told::default());
        }
        let (place, after) = match &after {
            None => (0, ""),
            Some(after) => {
                let (place, after) = after.split_once(' ').ok_or(Error::Stored("place"))?;
                (place.parse().map_err(|_| Error::Stored("place"))?, after)
            }
        };
        let Some(part) = PARTS.get(place) else { return Ok(Told::default()) };
        let (organisation, sql) = (house.organisation, part.sql);
        let after = if part.is_numbered {
            after.parse::<i64>().unwrap_or(i64::MIN).to_value()
        } else {
            after.to_value()
        };
        let rows = house.db.read(async move |read| {
            Ok::<_, Error>(read.query(sql, params![organisation, account, after, ROWS]).await?)
        });
        let rows = rows.await?;
        let lines = rows.iter().map(|row| Ok::<_, Error>((part.line)(row)?.to_string()));
        let lines = lines.collect::<Result<Vec<_>>>()?;
        let next = match (Forgotten::of(rows.len(), ROWS), rows.last()) {
            (Forgotten::Part, Some(last)) if part.is_numbered => {
                format!("{place} {}", last.get::<i64>("place")?)
            }
            (Forgotten::Part, Some(last)) => format!("{place} {}", last.get::<String>("place")?),
            _ => format!("{} ", place + 1),
        };
        Ok(Told { lines, next: Some(next).filter(|next| !next.starts_with(END)) })
    }
}

/// One kind of what somebody has, in the order of `place`.
struct Part {
    sql: &'static str,
    /// `place` is a number, and no text.
    is_numbered: bool,
    line: fn(&Row) -> Result<Value>,
}

const END: &str = "5 ";
const PARTS: [Part; 5] = [
    Part {
        sql: "SELECT account AS place, username, bio, image, created FROM article_person
            WHERE organisation = ? AND account = ? AND account > ? LIMIT ?",
        is_numbered: false,
        line: |row| {
            Ok(json!({
                "kind": "profile",
                "username": row.get::<String>("username")?,
                "bio": row.get::<Option<String>>("bio")?,
                "image": row.get::<Option<String>>("image")?,
                "created": moment(row, "created")?,
            }))
        },
    },
    Part {
        sql: "SELECT id AS place, slug, state, title, description, body, tags, favourites, created, updated FROM article
            WHERE organisation = ? AND author = ? AND id > ? ORDER BY id LIMIT ?",
        is_numbered: false,
        line: |row| {
            let tags: String = row.get("tags")?;
            let tags: Value = serde_json::from_str(&tags).map_err(|_| Error::Stored("tags"))?;
            Ok(json!({
                "kind": "article",
                "slug": row.get::<String>("slug")?,
                "state": row.get::<String>("state")?,
                "title": row.get::<String>("title")?,
                "description": row.get::<String>("description")?,
                "body": row.get::<String>("body")?,
                "tags": tags,
                "favourites": row.get::<i64>("favourites")?,
                "created": moment(row, "created")?,
                "updated": moment(row, "updated")?,
            }))
        },
    },
    Part {
        sql: "SELECT c.created AS created, c.body AS body, a.slug AS slug, c.id AS place
            FROM article_comment c JOIN article a ON a.organisation = c.organisation AND a.id = c.article
            WHERE c.organisation = ? AND c.author = ? AND c.id > ? ORDER BY c.id LIMIT ?",
        is_numbered: true,
        line: |row| {
            Ok(json!({
                "kind": "article-comment",
                "article": row.get::<String>("slug")?,
                "text": row.get::<String>("body")?,
                "created": moment(row, "created")?,
            }))
        },
    },
    Part {
        sql: "SELECT f.article AS place, a.slug AS slug, a.title AS title FROM article_favourite f
            JOIN article a ON a.organisation = f.organisation AND a.id = f.article
            WHERE f.organisation = ? AND f.account = ? AND f.article > ? ORDER BY f.article LIMIT ?",
        is_numbered: false,
        line: |row| {
            Ok(json!({
                "kind": "favourite",
                "article": row.get::<String>("slug")?,
                "title": row.get::<String>("title")?,
            }))
        },
    },
    Part {
        sql: "SELECT f.followed AS place, p.username AS username, f.created AS created FROM article_follow f
            JOIN article_person p ON p.organisation = f.organisation AND p.account = f.followed
            WHERE f.organisation = ? AND f.follower = ? AND f.followed > ? ORDER BY f.followed LIMIT ?",
        is_numbered: false,
        line: |row| {
            Ok(json!({
                "kind": "follows",
                "username": row.get::<String>("username")?,
                "created": moment(row, "created")?,
            }))
        },
    },
];

fn moment(row: &Row, name: &str) -> Result<String> {
    Ok(row.get::<Timestamp>(name)?.to_string())
}

impl House {
    async fn take_name(&self, tx: &mut Tx, account: AccountId) -> Result<()> {
        let organisation = self.organisation;
        let mut name = format!("removed-{account}");
        while account_of(tx, organisation, &username_key(&name))
            .await?
            .is_some_and(|of| of != account)
        {
            name = format!("removed-{account}-{}", crate::slug::suffix(&self.base.entropy));
        }
        let sql =
            "UPDATE article_person SET username = ?, username_key = ?, bio = NULL, image = NULL
            WHERE organisation = ? AND account = ?";
        let row = params![name, username_key(&name), organisation, account];
        tx.execute(sql, row).await?;
        self.results.bump(tx, &[PEOPLE]).await?;
        Ok(())
    }

    async fn unfollow_all(&self, tx: &mut Tx, account: AccountId) -> Result<Forgotten> {
        let organisation = self.organisation;
        let mut found = 0;
        for column in ["follower", "followed"] {
            let sql = format!(
                "SELECT follower, followed FROM article_follow
                WHERE organisation = ? AND {column} = ? LIMIT ?"
            );
            for row in tx.query(&sql, params![organisation, account, ROWS]).await? {
                let (follower, followed): (AccountId, AccountId) =
                    (row.get("follower")?, row.get("followed")?);
                let sql = "DELETE FROM article_follow
                    WHERE organisation = ? AND follower = ? AND followed = ?";
                tx.execute(sql, params![organisation, follower, followed]).await?;
                found += 1;
            }
        }
        Ok(Forgotten::of(found, ROWS))
    }

    async fn unfavour_all(&self, tx: &mut Tx, account: AccountId) -> Result<Forgotten> {
        let organisation = self.organisation;
        let sql = "SELECT f.article AS article, a.slug AS slug FROM article_favourite f
            JOIN article a ON a.organisation = f.organisation AND a.id = f.article
            WHERE f.organisation = ? AND f.account = ? ORDER BY f.article LIMIT ?";
        let rows = tx.query(sql, params![organisation, account, ROWS]).await?;
        for row in &rows {
            let (article, slug): (ArticleId, String) = (row.get("article")?, row.get("slug")?);
            let sql = "DELETE FROM article_favourite
                WHERE organisation = ? AND account = ? AND article = ?";
            tx.execute(sql, params![organisation, account, article]).await?;
            card::favoured(tx, organisation, article, -1).await?;
            self.results.bump(tx, &[&subject(&slug)]).await?;
        }
        Ok(Forgotten::of(rows.len(), ROWS))
    }

    async fn delete_all(&self, tx: &mut Tx, account: AccountId, texts: Texts) -> Result<Forgotten> {
        let state = match texts {
            Texts::Keep => "AND state = 'draft'",
            Texts::Erase => "",
        };
        let sql = format!(
            "SELECT id, slug, author, state, created FROM article
            WHERE organisation = ? AND author = ? {state} ORDER BY id LIMIT ?"
        );
        let rows = tx.query(&sql, params![self.organisation, account, ARTICLES]).await?;
        for row in &rows {
            let slug: String = row.get("slug")?;
            self.remove(tx, &Known::of(row)?, &slug).await?;
        }
        Ok(Forgotten::of(rows.len(), ARTICLES))
    }

    async fn unsay_all(&self, tx: &mut Tx, account: AccountId) -> Result<Forgotten> {
        let organisation = self.organisation;
        let sql = "SELECT id FROM article_comment WHERE organisation = ? AND author = ? LIMIT ?";
        let rows = tx.query(sql, params![organisation, account, ROWS]).await?;
        for row in &rows {
            let sql = "DELETE FROM article_comment WHERE organisation = ? AND id = ?";
            tx.execute(sql, params![organisation, row.get::<i64>("id")?]).await?;
        }
        Ok(Forgotten::of(rows.len(), ROWS))
    }
}
