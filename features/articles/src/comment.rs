//! What people say to an article.

use base::access::Principal;
use base::{AccountId, Timestamp};
use relational::{Read, Row, params};

use crate::article::{ArticleId, known};
use crate::error::Faults;
use crate::person::{Profile, profile_of};
use crate::store::{Statement, person_columns};
use crate::{Error, House, Result};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Comment {
    pub id: i64,
    pub body: String,
    pub created: Timestamp,
    pub author: Profile,
}

fn comment_of(row: &Row) -> Result<Comment> {
    Ok(Comment {
        id: row.get("id")?,
        body: row.get("body")?,
        created: row.get("created")?,
        author: profile_of(row)?,
    })
}

impl House {
    pub(crate) async fn say(&self, by: &Principal, slug: String, body: String) -> Result<Comment> {
        let mut faults = Faults::default();
        faults.bytes("body", &body, self.config.comment_bytes_max);
        faults.check()?;
        let account = self.account(by)?;
        let (house, name) = (self.clone(), by.name.clone());
        let said = self.db.write(async move |tx| {
            let organisation = house.organisation;
            let known = known(tx, organisation, &slug, Some(account)).await?;
            let author = house.ensure(tx, account, &name).await?;
            house.check_voice(tx, account).await?;
            let now = house.base.clock.now();
            // Numbers that programs in browsers hold exactly, each once, later ones larger.
            let mut id = now.micros();
            let taken = "SELECT 1 AS taken FROM article_comment WHERE organisation = ? AND id = ?";
            while tx.query_optional(taken, params![organisation, id]).await?.is_some() {
                id += 1;
            }
            let sql =
                "INSERT INTO article_comment (organisation, id, article, author, body, created)
                VALUES (?, ?, ?, ?, ?, ?)";
            tx.execute(sql, params![organisation, id, known.id, account, body, now]).await?;
            Ok(Comment { id, body: body.clone(), created: now, author })
        });
        said.await
    }

    /// What was said to an article, the newest first.
    pub(crate) async fn said(
        &self,
        viewer: Option<AccountId>,
        slug: String,
    ) -> Result<Vec<Comment>> {
        let house = self.clone();
        let said = self.db.read(async move |read| {
            let known = known(read, house.organisation, &slug, viewer).await?;
            house.said_to(read, known.id, viewer).await
        });
        said.await
    }

    pub(crate) async fn said_to(
        &self,
        read: &mut Read,
        article: ArticleId,
        viewer: Option<AccountId>,
    ) -> Result<Vec<Comment>> {
        let mut statement = Statement::default();
        statement.add("SELECT c.id AS id, c.body AS body, c.created AS created, ", &[]);
        person_columns(&mut statement, self.organisation, viewer);
        let sql = " FROM article_comment c
            JOIN article_person p ON p.organisation = c.organisation AND p.account = c.author
            WHERE c.organisation = ? AND c.article = ? ORDER BY c.id DESC LIMIT ?";
        let of = params![self.organisation, article, self.config.comments_shown_max];
        statement.add(sql, of);
        let rows = read.query(&statement.sql, &statement.values).await?;
        rows.iter().map(comment_of).collect()
    }

    /// Takes back what one said.
    pub(crate) async fn unsay(&self, by: &Principal, slug: String, id: i64) -> Result<()> {
        let account = self.account(by)?;
        let organisation = self.organisation;
        let unsaid = self.db.write(async move |tx| {
            let known = known(tx, organisation, &slug, Some(account)).await?;
            let sql = "SELECT author FROM article_comment
                WHERE organisation = ? AND id = ? AND article = ?";
            let row = tx.query_optional(sql, params![organisation, id, known.id]).await?;
            let row = row.ok_or(Error::NotFound("comment"))?;
            if row.get::<AccountId>("author")? != account {
                return Err(Error::Forbidden("comment"));
            }
            let sql = "DELETE FROM article_comment WHERE organisation = ? AND id = ?";
            tx.execute(sql, params![organisation, id]).await?;
            Ok(())
        });
        unsaid.await
    }
}
