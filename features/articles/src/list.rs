//! Lists of articles, newest first: all, of a tag, of an author, favoured by somebody, of those whom somebody follows,
//! and what is found by words. One statement gives a page with its total.

use base::{AccountId, OrganisationId, Timestamp};
use relational::{Read, Row, Value, params};

use crate::article::{Article, ArticleId, WITH_AUTHOR, article_of, card_columns, columns};
use crate::error::Faults;
use crate::person::username_key;
use crate::store::{ALL, AUTHOR, Statement, TAG};
use crate::tag::Tagged;
use crate::terms::{Question, Wanted};
use crate::{Error, House, Result, card};

/// Which articles; all that are published without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub tag: Option<String>,
    /// A name.
    pub author: Option<String>,
    /// A name.
    pub favourite_of: Option<String>,
    pub followed_by: Option<AccountId>,
}

/// Which part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// After so many.
    Offset(u32),
    /// After this one.
    After(Timestamp, ArticleId),
}

/// A part of a list, and how many the whole has.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Listed {
    pub articles: Vec<Article>,
    pub total: u64,
}

impl House {
    pub(crate) async fn list(
        &self,
        viewer: Option<AccountId>,
        filter: Filter,
        part: Part,
        limit: u32,
    ) -> Result<Listed> {
        filter.check()?;
        let organisation = self.organisation;
        let listed = self.db.read(async move |read| {
            let list = List { organisation, table: "article", filter: &filter };
            let columns =
                |statement: &mut Statement| columns(statement, organisation, viewer, false);
            let (rows, total) = list.page(read, columns, &part, limit).await?;
            let articles = rows.iter().map(|row| article_of(row, false)).collect::<Result<_>>()?;
            Ok::<_, Error>(Listed { articles, total })
        });
        listed.await
    }

    /// The same as the Conduit API says it.
    pub(crate) async fn cards(
        &self,
        viewer: Option<AccountId>,
        filter: Filter,
        part: Part,
        limit: u32,
    ) -> Result<Tagged> {
        filter.check()?;
        let organisation = self.organisation;
        let listed = self.db.read(async move |read| {
            let list = List { organisation, table: "article_card", filter: &filter };
            let columns = |statement: &mut Statement| card_columns(statement, organisation, viewer);
            let (rows, total) = list.page(read, columns, &part, limit).await?;
            card::list(&rows, total)
        });
        listed.await
    }

    /// The tags of published articles, those of the most articles first.
    pub(crate) async fn tags(&self) -> Result<Vec<String>> {
        let (organisation, most) = (self.organisation, self.config.tags_shown_max);
        let tags = self.db.read(async move |read| {
            let sql = "SELECT name FROM article_tally
                WHERE organisation = ? AND kind = ? AND articles > 0
                ORDER BY articles DESC, name DESC LIMIT ?";
            let rows = read.query(sql, params![organisation, TAG, most]).await?;
            rows.iter().map(|row| Ok(row.get("name")?)).collect::<Result<_>>()
        });
        tags.await
    }
}

impl House {
    /// Published articles with every piece of a question, those that say it in the title first.
    pub(crate) async fn search(
        &self,
        viewer: Option<AccountId>,
        question: Question,
        offset: u32,
        limit: u32,
    ) -> Result<Vec<Article>> {
        if question.is_empty() {
            return Ok(Vec::new());
        }
        let organisation = self.organisation;
        let found = self.db.read(async move |read| {
            let mut statement = Statement::default();
            statement.add("SELECT ", &[]);
            columns(&mut statement, organisation, viewer, false);
            statement.add(" FROM (SELECT c.article AS article, SUM(c.weight) AS score FROM (", &[]);
            for (place, wanted) in question.terms.iter().enumerate() {
                if place > 0 {
                    statement.add(" UNION ALL ", &[]);
                }
                add_wanted(&mut statement, organisation, wanted);
            }
            let count = i64::try_from(question.terms.len()).unwrap_or(i64::MAX);
            statement.add(") c GROUP BY c.article HAVING COUNT(*) = ?) h", params![count]);
            let of = " JOIN article a ON a.organisation = ? AND a.id = h.article
                JOIN article_text x ON x.organisation = a.organisation AND x.article = a.id";
            statement.add(of, params![organisation]);
            statement.add(WITH_AUTHOR, &[]);
            statement.add(" WHERE a.state = 'published'", &[]);
            for (column, pieces) in [("words", &question.words), ("initials", &question.initials)] {
                for piece in pieces {
                    // A piece is letters and digits, so nothing in it stands for something else.
                    let like = format!(" AND x.{column} LIKE ?");
                    statement.add(&like, params![format!("%{piece}%")]);
                }
            }
            let order = " ORDER BY h.score DESC, a.created DESC, a.id DESC LIMIT ? OFFSET ?";
            statement.add(order, params![limit, offset]);
            let rows = read.query(&statement.sql, &statement.values).await?;
            rows.iter().map(|row| article_of(row, false)).collect()
        });
        found.await
    }
}

/// The articles with a term, each once.
fn add_wanted(statement: &mut Statement, organisation: OrganisationId, wanted: &Wanted) {
    match wanted {
        Wanted::Is(term) => statement.add(
            "SELECT article, weight FROM article_term WHERE organisation = ? AND term = ?",
            params![organisation, term],
        ),
        Wanted::Begins(term) => statement.add(
            "SELECT article, MAX(weight) AS weight FROM article_term
                WHERE organisation = ? AND term >= ? AND term < ? GROUP BY article",
            params![organisation, term, format!("{term}\u{10FFFF}")],
        ),
    }
}

impl Filter {
    fn check(&self) -> Result<()> {
        let mut faults = Faults::default();
        let texts =
            [("tag", &self.tag), ("author", &self.author), ("favorited", &self.favourite_of)];
        for (field, text) in texts {
            if let Some(text) = text {
                faults.zero(field, text);
            }
        }
        faults.check()
    }
}

struct List<'a> {
    organisation: OrganisationId,
    /// `article`, or `article_card`, which has published ones only.
    table: &'static str,
    filter: &'a Filter,
}

/// The table whose rows are in the order of the list, with its columns of time and article.
struct Driver {
    created: &'static str,
    id: &'static str,
}

impl List<'_> {
    async fn page(
        &self,
        read: &mut Read,
        columns: impl FnOnce(&mut Statement),
        part: &Part,
        limit: u32,
    ) -> Result<(Vec<Row>, u64)> {
        let mut statement = Statement::default();
        statement.add("SELECT ", &[]);
        columns(&mut statement);
        statement.add(", (", &[]);
        self.total(&mut statement);
        statement.add(") AS total", &[]);
        let driver = self.which(&mut statement);
        let Driver { created, id } = driver;
        if let Part::After(moment, article) = part {
            let after = format!(" AND ({created} < ? OR ({created} = ? AND {id} < ?))");
            statement.add(&after, params![moment, moment, article]);
        }
        // A limit that is bound makes SQLite plan the statement anew at each run.
        let order = format!(" ORDER BY {created} DESC, {id} DESC LIMIT {limit}");
        statement.add(&order, &[]);
        if let Part::Offset(offset) = part {
            statement.add(" OFFSET ?", params![offset]);
        }
        let rows = read.query(&statement.sql, &statement.values).await?;
        let total = match rows.first() {
            Some(row) => row.get("total")?,
            None if *part == Part::Offset(0) => 0,
            // There is no row that could carry it.
            None => {
                let mut statement = Statement::default();
                self.total(&mut statement);
                let row = read.query_optional(&statement.sql, &statement.values).await?;
                row.map(|row| row.get::<u64>("articles")).transpose()?.unwrap_or(0)
            }
        };
        Ok((rows, total))
    }

    /// A query of one number: kept with every commit where one thing is asked for, counted otherwise.
    fn total(&self, statement: &mut Statement) {
        let Filter { tag, author, favourite_of, followed_by } = self.filter;
        let kept = "SELECT t.articles AS articles FROM article_tally t
            WHERE t.organisation = ? AND t.kind = ? AND t.name = ";
        let organisation = self.organisation;
        match (tag, author, favourite_of, followed_by) {
            (None, None, None, None) => {
                statement.add(kept, params![organisation, ALL]);
                statement.add("?", params![""]);
            }
            (Some(tag), None, None, None) => {
                statement.add(kept, params![organisation, TAG]);
                statement.add("?", params![tag]);
            }
            (None, Some(author), None, None) => {
                statement.add(kept, params![organisation, AUTHOR]);
                self.account(statement, author);
            }
            _ => {
                statement.add("SELECT COUNT(*) AS articles", &[]);
                self.which(statement);
            }
        }
    }

    /// The tables and the conditions.
    fn which(&self, statement: &mut Statement) -> Driver {
        let Filter { tag, author, favourite_of, followed_by } = self.filter;
        let mut driver = Driver { created: "a.created", id: "a.id" };
        statement.add(&format!(" FROM {} a", self.table), &[]);
        statement.add(WITH_AUTHOR, &[]);
        if favourite_of.is_some() {
            let join =
                " JOIN article_favourite f ON f.organisation = a.organisation AND f.article = a.id";
            statement.add(join, &[]);
            driver = Driver { created: "f.created", id: "f.article" };
        }
        if tag.is_some() {
            let join =
                " JOIN article_tag g ON g.organisation = a.organisation AND g.article = a.id";
            statement.add(join, &[]);
            driver = Driver { created: "g.created", id: "g.article" };
        }
        if followed_by.is_some() {
            let join = " JOIN article_follow o
                ON o.organisation = a.organisation AND o.followed = a.author";
            statement.add(join, &[]);
        }
        let organisation: Value = self.organisation.into();
        let of = [organisation];
        statement.add(" WHERE a.organisation = ?", &of);
        if self.table == "article" {
            statement.add(" AND a.state = 'published'", &[]);
        }
        if let Some(tag) = tag {
            statement.add(" AND g.organisation = ?", &of);
            statement.add(" AND g.tag = ?", params![tag]);
        }
        if let Some(name) = favourite_of {
            statement.add(" AND f.organisation = ?", &of);
            statement.add(" AND f.account = ", &[]);
            self.account(statement, name);
        }
        if let Some(name) = author {
            statement.add(" AND a.author = ", &[]);
            self.account(statement, name);
        }
        if let Some(account) = followed_by {
            statement.add(" AND o.organisation = ?", &of);
            statement.add(" AND o.follower = ?", params![account]);
        }
        driver
    }

    /// The account with a name; nobody's for a name that nobody has.
    fn account(&self, statement: &mut Statement, name: &str) {
        let sql = "(SELECT n.account FROM article_person n
            WHERE n.organisation = ? AND n.username_key = ?)";
        statement.add(sql, params![self.organisation, username_key(name)]);
    }
}

/// The cursor that goes on after an article.
pub(crate) fn cursor_of(article: &Article) -> String {
    format!("{}.{}", article.created.micros(), article.id)
}

/// Reads what [`cursor_of`] wrote.
pub(crate) fn after(cursor: &str) -> Result<Part> {
    let read = || {
        let (micros, id) = cursor.split_once('.')?;
        Some(Part::After(Timestamp::from_micros(micros.parse().ok()?), id.parse().ok()?))
    };
    read().ok_or_else(|| Error::invalid("after", "is not a cursor of this list"))
}
