//! What somebody with an account wrote here, on sites of every organisation: told to them, and forgotten when they go.

use std::collections::BTreeSet;

use base::OrganisationId;
use base::personal::{Forgotten, Someone, Texts, Told};
use relational::{Tx, params};
use serde_json::json;

use crate::store::{self, ENTRY, Of, State};
use crate::{Comments, Error, Result};

/// Comments that one transaction changes, and that one part tells.
const COMMENTS: i64 = 100;
/// In place of a name. Readers of every language see that there was one.
const NAMELESS: &str = "—";

impl Comments {
    /// Takes their name and their marks from what they wrote, or what they wrote as well; and what they are signed in by on
    /// sites. What they liked and reported is kept under a digest that nothing leads back from.
    pub async fn forget(&self, tx: &mut Tx, who: &Someone, texts: Texts) -> Result<Forgotten> {
        tx.execute("DELETE FROM comment_tokens WHERE account = ?", params![who.account]).await?;
        let sql = format!(
            "SELECT organisation, site, {ENTRY} FROM comment_entries WHERE account = ? ORDER BY id LIMIT ?"
        );
        let rows = tx.query(&sql, params![who.account, COMMENTS]).await?;
        let (mut pages, mut marks) = (BTreeSet::new(), BTreeSet::new());
        for row in &rows {
            let (organisation, site): (OrganisationId, String) =
                (row.get("organisation")?, row.get("site")?);
            let of = Of { organisation, site: &site };
            let mut entry = store::entry(row)?;
            if texts == Texts::Erase && entry.state != State::Deleted {
                store::erase(tx, of, &entry).await?;
                entry.state = State::Deleted;
                self.announce(tx, of, &entry, "comment.deleted").await?;
            }
            let name = if entry.state == State::Deleted { "" } else { NAMELESS };
            store::take_name(tx, of, entry.id, name).await?;
            // A ban is of who wrote and of where they came from.
            for mark in [entry.author, entry.address] {
                marks.insert((organisation, site.clone(), mark));
            }
            pages.insert((organisation, site, entry.page));
        }
        for (organisation, site, mark) in &marks {
            let sql =
                "UPDATE comment_bans SET name = ? WHERE organisation = ? AND site = ? AND mark = ?";
            tx.execute(sql, params![NAMELESS, *organisation, site, mark]).await?;
        }
        for (organisation, site, page) in &pages {
            self.thread_changed(tx, Of { organisation: *organisation, site }, page).await?;
        }
        Ok(Forgotten::of(rows.len(), COMMENTS))
    }

    /// A part of what they wrote, oldest first; on sites of other organisations only when they ask themselves.
    pub async fn told(&self, who: &Someone, is_own: bool, after: Option<String>) -> Result<Told> {
        let (account, home) = (who.account, who.organisation);
        let after = after.unwrap_or_default();
        let rows = self.0.needs.db.read(async move |read| {
            let sql = "SELECT e.id AS id, p.url AS url, p.title AS title, e.name AS name, e.source AS source,
                    e.state AS state, e.is_secret AS is_secret, e.likes AS likes, e.created AS created, e.edited AS edited
                FROM comment_entries e
                JOIN comment_pages p ON p.organisation = e.organisation AND p.site = e.site AND p.page = e.page
                WHERE e.account = ? AND e.id > ? AND (e.organisation = ? OR ? = 1) ORDER BY e.id LIMIT ?";
            let is_own = i64::from(is_own);
            let place = params![account, after, home, is_own, COMMENTS];
            Ok::<_, Error>(read.query(sql, place).await?)
        });
        let mut told = Told::default();
        let rows = rows.await?;
        for row in &rows {
            let edited: Option<base::Timestamp> = row.get("edited")?;
            let line = json!({
                "kind": "comment",
                "page": row.get::<String>("url")?,
                "title": row.get::<String>("title")?,
                "name": row.get::<String>("name")?,
                "text": row.get::<String>("source")?,
                "state": row.get::<String>("state")?,
                "is_secret": row.get::<bool>("is_secret")?,
                "likes": row.get::<i64>("likes")?,
                "created": row.get::<base::Timestamp>("created")?.to_string(),
                "edited": edited.map(|moment| moment.to_string()),
            });
            told.lines.push(line.to_string());
        }
        if Forgotten::of(rows.len(), COMMENTS) == Forgotten::Part {
            told.next = rows.last().map(|row| row.get("id")).transpose()?;
        }
        Ok(told)
    }
}
