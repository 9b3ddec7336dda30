//! Drafts, and what those who moderate do: reports, hiding, silencing.

use base::access::Principal;
use base::{AccountId, Timestamp};
use edge::Caller;
use relational::{Row, Tx, params};

use crate::article::{
    Article, ArticleId, Known, State, WITH_AUTHOR, any, article_of, columns, find, known, subject,
};
use crate::error::Faults;
use crate::list::Part;
use crate::person::{account_of, username_key};
use crate::store::Statement;
use crate::{Error, House, Result};

const REASON_CHARACTERS_MAX: usize = 1_000;

/// What somebody said is wrong with an article.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub slug: String,
    pub title: String,
    /// A name.
    pub reporter: String,
    pub reason: String,
    pub created: Timestamp,
    article: ArticleId,
    account: AccountId,
}

impl Report {
    pub(crate) fn cursor(&self) -> String {
        format!("{}.{}.{}", self.created.micros(), self.article, self.account)
    }
}

fn report_of(row: &Row) -> Result<Report> {
    Ok(Report {
        slug: row.get("slug")?,
        title: row.get("title")?,
        reporter: row.get("reporter")?,
        reason: row.get("reason")?,
        created: row.get("created")?,
        article: row.get("article")?,
        account: row.get("account")?,
    })
}

impl House {
    /// Whoever moderates does so in their own organisation.
    pub(crate) fn check_own(&self, caller: &Caller) -> Result<()> {
        if caller.organisation() == self.organisation { Ok(()) } else { Err(Error::Stranger) }
    }

    /// One's own articles that nobody else sees.
    pub(crate) async fn drafts(
        &self,
        account: AccountId,
        part: Option<Part>,
        limit: u32,
    ) -> Result<Vec<Article>> {
        let organisation = self.organisation;
        let found = self.db.read(async move |read| {
            let mut statement = Statement::default();
            statement.add("SELECT ", &[]);
            columns(&mut statement, organisation, None, false);
            statement.add(" FROM article a", &[]);
            statement.add(WITH_AUTHOR, &[]);
            let own = " WHERE a.organisation = ? AND a.author = ? AND a.state <> 'published'";
            statement.add(own, params![organisation, account]);
            if let Some(Part::After(moment, id)) = &part {
                let after = " AND (a.created < ? OR (a.created = ? AND a.id < ?))";
                statement.add(after, params![moment, moment, id]);
            }
            statement.add(" ORDER BY a.created DESC, a.id DESC LIMIT ?", params![limit]);
            let rows = read.query(&statement.sql, &statement.values).await?;
            rows.iter().map(|row| article_of(row, false)).collect()
        });
        found.await
    }

    /// Publishes one's own draft: now it is the newest article.
    pub(crate) async fn publish_draft(&self, by: &Principal, slug: String) -> Result<Article> {
        let account = self.account(by)?;
        let house = self.clone();
        let published = self.db.write(async move |tx| {
            let organisation = house.organisation;
            let known = known(tx, organisation, &slug, Some(account)).await?;
            if known.author != account || known.state == State::Hidden {
                return Err(Error::Forbidden("article"));
            }
            let article = find(tx, organisation, &slug, Some(account)).await?;
            if known.state == State::Published {
                return Ok(article);
            }
            house.check_voice(tx, account).await?;
            let now = house.base.clock.now();
            let article =
                Article { state: State::Published, created: now, updated: now, ..article };
            let sql = "UPDATE article SET state = ?, created = ?, updated = ?
                WHERE organisation = ? AND id = ?";
            let state = article.state.text();
            tx.execute(sql, params![state, now, now, organisation, article.id]).await?;
            house.publish(tx, account, &article).await?;
            house.results.bump(tx, &[&subject(&slug)]).await?;
            Ok(article)
        });
        published.await
    }

    pub(crate) async fn report(&self, by: &Principal, slug: String, reason: String) -> Result<()> {
        let mut faults = Faults::default();
        faults.text("reason", &reason, REASON_CHARACTERS_MAX);
        faults.check()?;
        let account = self.account(by)?;
        let (house, name) = (self.clone(), by.name.clone());
        let reported = self.db.write(async move |tx| {
            let organisation = house.organisation;
            let known = known(tx, organisation, &slug, Some(account)).await?;
            house.ensure(tx, account, &name).await?;
            let now = house.base.clock.now();
            let sql = "UPDATE article_report SET reason = ?
                WHERE organisation = ? AND article = ? AND reporter = ?";
            if tx.execute(sql, params![reason, organisation, known.id, account]).await? == 0 {
                let sql =
                    "INSERT INTO article_report (organisation, article, reporter, reason, created)
                    VALUES (?, ?, ?, ?, ?)";
                tx.execute(sql, params![organisation, known.id, account, reason, now]).await?;
            }
            Ok(())
        });
        reported.await
    }

    /// What was reported of articles that everybody sees, the oldest first.
    pub(crate) async fn reports(&self, after: Option<String>, limit: usize) -> Result<Vec<Report>> {
        let organisation = self.organisation;
        let after = after.as_deref().map(report_cursor).transpose()?;
        let found = self.db.read(async move |read| {
            let mut statement = Statement::default();
            let sql = "SELECT a.slug AS slug, a.title AS title, p.username AS reporter,
                    r.reason AS reason, r.created AS created, r.article AS article, r.reporter AS account
                FROM article_report r
                JOIN article a ON a.organisation = r.organisation AND a.id = r.article
                JOIN article_person p ON p.organisation = r.organisation AND p.account = r.reporter
                WHERE r.organisation = ? AND a.state = 'published'";
            statement.add(sql, params![organisation]);
            if let Some((moment, article, account)) = after {
                let after = " AND (r.created > ? OR (r.created = ?
                    AND (r.article > ? OR (r.article = ? AND r.reporter > ?))))";
                statement.add(after, params![moment, moment, article, article, account]);
            }
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let order = " ORDER BY r.created, r.article, r.reporter LIMIT ?";
            statement.add(order, params![limit]);
            let rows = read.query(&statement.sql, &statement.values).await?;
            rows.iter().map(report_of).collect()
        });
        found.await
    }

    /// Takes a published article from everybody but its author.
    pub(crate) async fn hide(&self, slug: String) -> Result<()> {
        let house = self.clone();
        let hidden = self.db.write(async move |tx| {
            let known = any(tx, house.organisation, &slug).await?;
            match known.state {
                State::Draft => return Err(Error::NotFound("article")),
                State::Hidden => return Ok(()),
                State::Published => {}
            }
            house.withdraw(tx, &known).await?;
            house.set_state(tx, (&known, &slug), State::Hidden).await
        });
        hidden.await
    }

    pub(crate) async fn show(&self, slug: String) -> Result<()> {
        let house = self.clone();
        let shown = self.db.write(async move |tx| {
            let known = any(tx, house.organisation, &slug).await?;
            match known.state {
                State::Draft => return Err(Error::NotFound("article")),
                State::Hidden => {
                    let author = known.author;
                    let article = find(tx, house.organisation, &slug, Some(author)).await?;
                    house.publish(tx, author, &article).await?;
                    house.set_state(tx, (&known, &slug), State::Published).await?;
                }
                State::Published => {}
            }
            let sql = "DELETE FROM article_report WHERE organisation = ? AND article = ?";
            tx.execute(sql, params![house.organisation, known.id]).await?;
            Ok(())
        });
        shown.await
    }

    pub(crate) async fn remove_comment(&self, slug: String, id: i64) -> Result<()> {
        let house = self.clone();
        let removed = self.db.write(async move |tx| {
            let known = any(tx, house.organisation, &slug).await?;
            let sql = "DELETE FROM article_comment
                WHERE organisation = ? AND id = ? AND article = ?";
            match tx.execute(sql, params![house.organisation, id, known.id]).await? {
                0 => Err(Error::NotFound("comment")),
                _ => Ok(()),
            }
        });
        removed.await
    }

    /// Lets somebody write no more, or again.
    pub(crate) async fn silence(&self, username: &str, is_silenced: bool) -> Result<()> {
        let (organisation, key) = (self.organisation, username_key(username));
        let since = is_silenced.then(|| self.base.clock.now());
        let silenced = self.db.write(async move |tx| {
            let account = account_of(tx, organisation, &key).await?;
            let account = account.ok_or(Error::NotFound("profile"))?;
            let sql = "UPDATE article_person SET silenced = ?
                WHERE organisation = ? AND account = ?";
            tx.execute(sql, params![since, organisation, account]).await?;
            Ok(())
        });
        silenced.await
    }

    async fn set_state(
        &self,
        tx: &mut Tx,
        (known, slug): (&Known, &str),
        state: State,
    ) -> Result<()> {
        let sql = "UPDATE article SET state = ? WHERE organisation = ? AND id = ?";
        tx.execute(sql, params![state.text(), self.organisation, known.id]).await?;
        self.results.bump(tx, &[&subject(slug)]).await?;
        Ok(())
    }
}

fn report_cursor(cursor: &str) -> Result<(Timestamp, ArticleId, AccountId)> {
    let read = || {
        let mut parts = cursor.split('.');
        let moment = Timestamp::from_micros(parts.next()?.parse().ok()?);
        let (article, account) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        parts.next().is_none().then_some((moment, article, account))
    };
    read().ok_or_else(|| Error::invalid("after", "is not a cursor of this list"))
}
