//! Comments from elsewhere, and to elsewhere. What is read is a list of comments with the names that they had there; the
//! same file again changes nothing.

mod html;
mod xml;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use base::{OrganisationId, Page as ListPage, PageRequest, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::page::Page;
use crate::site::Site;
use crate::store::{self, Entry, EntryId, NewPage, Of, State};
use crate::write::{TITLE_CHARS_MAX, Text, clean, without_controls};
use crate::{Comments, Error, Result, statistics};

/// What a file of comments looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// What this server exports.
    Madang,
    /// The XML that Disqus exports.
    Disqus,
    /// The WXR (XML) that WordPress exports.
    Wordpress,
    /// Rows of Isso's database, as `sqlite3 -json` gives them.
    Isso,
}

/// A comment of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Foreign {
    /// Its name where it comes from; the same again is the same comment.
    pub id: String,
    #[serde(default)]
    pub parent: Option<String>,
    /// The page's address.
    pub url: String,
    #[serde(default)]
    pub title: String,
    pub name: String,
    pub text: String,
    /// RFC 3339.
    #[schemars(extend("format" = "date-time"))]
    pub created: String,
    #[serde(default)]
    pub state: State,
    #[serde(default)]
    pub secret: bool,
    #[serde(default)]
    pub pinned: bool,
    #[serde(default)]
    pub owner: bool,
}

/// What became of a file.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Imported {
    /// New comments.
    pub added: usize,
    /// Those that were there before.
    pub known: usize,
    /// Those that were not taken, such as of pages elsewhere.
    pub skipped: usize,
    /// Why, of the first ones.
    pub reasons: Vec<String>,
}

const REASONS_MAX: usize = 20;
/// Comments of one commit.
const BATCH: usize = 1_000;

impl Imported {
    fn skip(&mut self, id: &str, why: &str) {
        self.skipped += 1;
        if self.reasons.len() < REASONS_MAX {
            let id: String = id.chars().take(40).collect();
            self.reasons.push(format!("{id}: {why}"));
        }
    }
}

/// The comments of a file, parents before their answers as far as the file is right.
pub(crate) fn read(format: Format, text: &str) -> Result<Vec<Foreign>> {
    let mut all = match format {
        Format::Madang => text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .enumerate()
            .map(|(index, line)| {
                serde_json::from_str(line).map_err(|error| {
                    Error::invalid("/text", format!("line {} is no comment: {error}", index + 1))
                })
            })
            .collect::<Result<Vec<Foreign>>>()?,
        Format::Disqus => xml::disqus(text)?,
        Format::Wordpress => xml::wordpress(text)?,
        Format::Isso => isso(text)?,
    };
    // A parent is older than its answers; files are in any order.
    all.sort_by_cached_key(|one| {
        one.created.parse::<Timestamp>().map_or(i64::MIN, Timestamp::micros)
    });
    Ok(all)
}

/// A row of `SELECT t.uri, t.title, c.* FROM comments c JOIN threads t ON t.id = c.tid`.
#[derive(Deserialize)]
struct IssoRow {
    uri: String,
    #[serde(default)]
    title: Option<String>,
    id: i64,
    #[serde(default)]
    parent: Option<i64>,
    created: f64,
    /// 1 shown, 2 waiting, 4 deleted.
    mode: i64,
    text: String,
    #[serde(default)]
    author: Option<String>,
}

fn isso(text: &str) -> Result<Vec<Foreign>> {
    let rows: Vec<IssoRow> = serde_json::from_str(text)
        .map_err(|error| Error::invalid("/text", format!("is no list of Isso's rows: {error}")))?;
    let foreign = |row: IssoRow| Foreign {
        id: format!("isso-{}", row.id),
        parent: row.parent.map(|parent| format!("isso-{parent}")),
        url: row.uri,
        title: row.title.unwrap_or_default(),
        name: row.author.unwrap_or_default(),
        text: row.text,
        #[expect(clippy::cast_possible_truncation, reason = "a moment in microseconds")]
        created: Timestamp::from_micros((row.created * 1e6) as i64).to_string(),
        state: match row.mode {
            1 => State::Shown,
            2 => State::Held,
            _ => State::Deleted,
        },
        secret: false,
        pinned: false,
        owner: false,
    };
    Ok(rows.into_iter().map(foreign).collect())
}

impl Comments {
    /// Takes comments of a file in, some in each commit; whatever ends it in between, the same file again goes on.
    pub(crate) async fn import(&self, site: &Site, all: Vec<Foreign>) -> Result<Imported> {
        let organisation = site.organisation()?;
        let mut imported = Imported::default();
        let mut names: HashMap<String, EntryId> = HashMap::new();
        let mut pages = BTreeSet::new();
        let mut batches = all.chunks(BATCH);
        let mut next = batches.next().map(|some| self.drafts(site, some, &mut names));
        while let Some(Drafts { drafts, skipped }) = next.take() {
            imported.known += drafts.len();
            for (id, why) in &skipped {
                imported.skip(id, why);
            }
            pages.extend(drafts.iter().map(|draft| draft.entry.page.clone()));
            let (comments, own) = (self.clone(), site.id.clone());
            let writing = self.0.needs.db.write(async move |tx| {
                let of = Of { organisation, site: &own };
                comments.take_in(tx, of, &drafts).await
            });
            // While these are written, the next ones are read.
            let reading = async { batches.next().map(|some| self.drafts(site, some, &mut names)) };
            let (taken, upcoming) = futures::join!(writing, reading);
            let Taken { added, there } = taken?;
            next = upcoming;
            imported.added += added;
            imported.known -= added;
            if !there.is_empty() {
                // Answers of a later batch name what was there before by its own id.
                let waiting = next.iter_mut().flat_map(|next| &mut next.drafts);
                let parents = waiting.filter_map(|draft| draft.entry.parent.as_mut());
                for id in names.values_mut().chain(parents) {
                    *id = there.get(id).copied().unwrap_or(*id);
                }
            }
        }
        for page in pages {
            self.tell(organisation, &site.id, &page);
        }
        Ok(imported)
    }

    fn drafts(
        &self,
        site: &Site,
        some: &[Foreign],
        names: &mut HashMap<String, EntryId>,
    ) -> Drafts {
        let mut all = Drafts { drafts: Vec::with_capacity(some.len()), skipped: Vec::new() };
        for foreign in some {
            match self.draft(site, foreign, names) {
                Ok(draft) => all.drafts.push(draft),
                Err(why) => all.skipped.push((foreign.id.clone(), why)),
            }
        }
        all
    }

    fn draft(
        &self,
        site: &Site,
        foreign: &Foreign,
        names: &mut HashMap<String, EntryId>,
    ) -> Result<Draft, String> {
        let page = site.page(&foreign.url, None).map_err(|error| error.to_string())?;
        let created: Timestamp =
            foreign.created.parse().map_err(|_| "its time is not RFC 3339".to_owned())?;
        let state = foreign.state;
        let is_deleted = state == State::Deleted;
        let text = if is_deleted { String::new() } else { without_controls(&foreign.text) };
        if !is_deleted && text.trim().is_empty() {
            return Err("it has no text".to_owned());
        }
        let most = self.0.config.text_chars_max;
        let text = Text::of(text.char_indices().nth(most).map_or(&text, |(end, _)| &text[..end]));
        let name: String =
            clean(&foreign.name).chars().take(self.0.config.name_chars_max).collect();
        let id = EntryId::new(created, &self.0.base.entropy);
        names.insert(foreign.id.clone(), id);
        let parent = foreign.parent.as_ref().and_then(|parent| names.get(parent)).copied();
        let entry = Entry {
            page: page.id(),
            id,
            nonce: site.mark("import", &foreign.id),
            parent,
            state,
            reason: (state == State::Held).then(|| "import".to_owned()),
            // Nobody who comes here is known to have written it. A mark for each name would cost more than all else: their
            // index has no order that comments come in.
            author: String::new(),
            address: String::new(),
            account: None,
            name: if is_deleted || !name.is_empty() { name } else { "–".to_owned() },
            password: None,
            body: text.body(),
            source: text.source,
            is_owner: foreign.owner,
            is_secret: foreign.secret,
            is_pinned: foreign.pinned && !is_deleted,
            likes: 0,
            reports: 0,
            created,
            edited: None,
        };
        let title = clean(&foreign.title).chars().take(TITLE_CHARS_MAX).collect();
        Ok(Draft { entry, page, title })
    }

    /// One batch: how many are new, and of the others the id that they would have had and the one that they have.
    async fn take_in(
        &self,
        tx: &mut relational::Tx,
        of: Of<'_>,
        drafts: &[Draft],
    ) -> Result<Taken> {
        let mut pages: BTreeMap<&str, Vec<&Draft>> = BTreeMap::new();
        for draft in drafts {
            pages.entry(&draft.entry.page).or_default().push(draft);
        }
        let mut there: HashMap<EntryId, EntryId> = HashMap::new();
        for (page, drafts) in &pages {
            let nonces: Vec<&str> = drafts.iter().map(|draft| draft.entry.nonce.as_str()).collect();
            let known = store::nonces(tx, of, (page, &nonces)).await?;
            let known: HashMap<String, EntryId> = known.into_iter().collect();
            for Draft { entry, .. } in drafts {
                if let Some(id) = known.get(&entry.nonce) {
                    there.insert(entry.id, *id);
                }
            }
        }
        let mut quarters: BTreeMap<i64, i64> = BTreeMap::new();
        let mut seen = HashSet::new();
        for (page, drafts) in &pages {
            let mut shown = 0;
            let mut is_changed = false;
            for Draft { entry, page, title } in drafts {
                // A file can name one comment twice.
                if there.contains_key(&entry.id) || !seen.insert((&entry.page, &entry.nonce)) {
                    continue;
                }
                if !is_changed {
                    is_changed = true;
                    let new =
                        NewPage { id: &entry.page, url: &page.url, title, now: entry.created };
                    store::open_page(tx, of, &new).await?;
                }
                let parent =
                    entry.parent.map(|parent| there.get(&parent).copied().unwrap_or(parent));
                store::insert_entry(tx, of, (entry, parent)).await?;
                if entry.state == State::Shown {
                    shown += 1;
                    *quarters.entry(statistics::quarter(entry.created)).or_default() += 1;
                }
            }
            if is_changed {
                store::count_page(tx, of, page, shown).await?;
                self.thread_changed(tx, of, page).await?;
            }
        }
        for (quarter, comments) in quarters {
            store::count_quarter(tx, of, quarter, comments).await?;
        }
        Ok(Taken { added: seen.len(), there })
    }

    /// A part of all comments of a site, the oldest first.
    pub(crate) async fn exported(
        &self,
        organisation: OrganisationId,
        site: String,
        page: PageRequest,
    ) -> Result<ListPage<Foreign>> {
        let PageRequest { after, limit } = crate::owner::cursor(page)?;
        let rows = i64::try_from(limit).unwrap_or(i64::MAX - 1) + 1;
        let entries = self.0.needs.db.read(async move |read| {
            let of = Of { organisation, site: &site };
            store::oldest(read, of, (after.as_deref(), rows)).await
        });
        let entries: Vec<(Entry, String, String)> = entries.await?;
        let page = ListPage::of(entries, limit, |(entry, _, _)| entry.id.to_string());
        Ok(page.map(|(entry, url, title)| Foreign {
            id: entry.id.to_string(),
            parent: entry.parent.map(|parent| parent.to_string()),
            url,
            title,
            name: entry.name,
            text: entry.source,
            created: entry.created.to_string(),
            state: entry.state,
            secret: entry.is_secret,
            pinned: entry.is_pinned,
            owner: entry.is_owner,
        }))
    }
}

/// What became of a batch.
struct Taken {
    added: usize,
    there: HashMap<EntryId, EntryId>,
}

/// A batch that is read and not written yet.
struct Drafts {
    drafts: Vec<Draft>,
    /// Which were not taken, and why.
    skipped: Vec<(String, String)>,
}

struct Draft {
    entry: Entry,
    page: Page,
    title: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_isso_are_read() {
        let rows = r#"[{"uri":"https://a.kr/x","title":"X","tid":1,"id":2,"parent":1,"created":1700000000.5,"modified":null,"mode":1,"remote_addr":"1.2.3.0","text":"hi","author":"Mina","email":null,"website":null,"likes":0,"dislikes":0,"voters":"","notification":0},
            {"uri":"https://a.kr/x","title":null,"tid":1,"id":1,"parent":null,"created":1600000000.0,"mode":4,"text":"","author":null}]"#;
        let read = read(Format::Isso, rows).unwrap();
        assert_eq!((read[0].id.as_str(), read[0].state), ("isso-1", State::Deleted));
        assert_eq!(read[1].parent.as_deref(), Some("isso-1"));
        assert_eq!(read[1].created, "2023-11-14T22:13:20.5Z");
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        for format in [Format::Madang, Format::Disqus, Format::Wordpress, Format::Isso] {
            assert!(super::read(format, "nothing of it").is_err(), "{format:?}");
        }
    }
}
