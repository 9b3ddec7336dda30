//! What readers do: write, answer, change, delete, like, report, and read a secret again.

use std::net::IpAddr;

use base::{OrganisationId, Timestamp};
use relational::{NewEvent, Tx};

use crate::limits::{Deed, network};
use crate::page::Page;
use crate::site::{Site, Verdict};
use crate::store::{self, Entry, EntryId, NewPage, Of, Reader, State};
use crate::{Comments, Error, Fault, Result, TOPIC, markup};

/// A text of a writer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    /// As it was written.
    pub source: String,
    /// As it is read.
    pub tree: Vec<markup::Node>,
}

impl Text {
    pub(crate) fn of(given: &str) -> Self {
        let source = without_controls(given);
        Self { tree: markup::parse(&source), source }
    }

    /// The tree, as rows keep it.
    pub(crate) fn body(&self) -> String {
        serde_json::to_string(&self.tree).expect("a tree of texts is JSON")
    }
}

/// Who does it.
pub(crate) struct Visitor {
    pub from: IpAddr,
    /// A secret that a browser makes for itself: who has it wrote what was written with it.
    pub browser: Option<String>,
    pub password: Option<String>,
    /// Somebody with an account.
    pub reader: Option<Reader>,
}

/// A comment to be written.
pub(crate) struct NewComment {
    pub title: String,
    pub parent: Option<EntryId>,
    pub name: String,
    pub text: String,
    pub is_secret: bool,
    /// The same one again is the same comment.
    pub nonce: Option<String>,
}

pub(crate) const TITLE_CHARS_MAX: usize = 300;
const REASON_CHARS_MAX: usize = 300;
/// Of the secret of a browser, and of a nonce.
const SECRET_CHARS: std::ops::RangeInclusive<usize> = 16..=64;

impl Visitor {
    /// Whose likes and comments these are: the account's, or the browser's.
    fn author(&self, site: &Site) -> Result<String> {
        if let Some(reader) = &self.reader {
            return Ok(site.mark("account", &reader.account.to_string()));
        }
        match &self.browser {
            Some(browser) => Ok(site.mark("browser", browser)),
            None => Err(Error::invalid("/browser", "must be a secret that the browser made")),
        }
    }

    fn address(&self, site: &Site) -> String {
        site.mark("address", &network(self.from).to_string())
    }

    pub(crate) fn check(&self) -> Result<()> {
        let is_secret = |text: &String| SECRET_CHARS.contains(&text.len()) && is_plain(text);
        if self.browser.as_ref().is_some_and(|browser| !is_secret(browser)) {
            return Err(Error::invalid("/browser", "must be 16 to 64 letters, digits, - or _"));
        }
        Ok(())
    }
}

pub(crate) fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

impl Comments {
    fn limit(&self, deed: Deed, visitor: &Visitor) -> Result<()> {
        self.0.limits.count(deed, visitor.from, self.0.base.clock.now())
    }

    /// Writes a comment; the same nonce again gives the one that is there.
    pub(crate) async fn write(
        &self,
        site: &Site,
        page: &Page,
        visitor: &Visitor,
        new: NewComment,
    ) -> Result<Entry> {
        visitor.check()?;
        let (entry, verdict) = self.drafted(site, page, visitor, &new)?;
        self.limit(Deed::Write, visitor)?;
        let password = match (&visitor.reader, &visitor.password) {
            (None, Some(password)) => Some(self.0.needs.passwords.hash(password).await?),
            _ => None,
        };
        let entry = Entry { password, ..entry };
        let title = clean(&new.title);
        let organisation = site.organisation()?;
        let (comments, site, page) = (self.clone(), site.clone(), page.clone());
        let written = self.0.needs.db.write(async move |tx| {
            let of = Of { organisation, site: &site.id };
            if let Some(known) = store::entry_of_nonce(tx, of, &entry.page, &entry.nonce).await? {
                // Somebody else's nonce is no way to their comment.
                return if known.author == entry.author {
                    Ok((site.id.clone(), known))
                } else {
                    Err(Error::Refused)
                };
            }
            if store::is_banned(tx, of, [&entry.author, &entry.address]).await? {
                return Err(Error::Refused);
            }
            let new_page =
                NewPage { id: &entry.page, url: &page.url, title: &title, now: entry.created };
            if store::open_page(tx, of, &new_page).await? {
                return Err(Error::Closed);
            }
            if let Some(parent) = entry.parent {
                let parent = store::entry_of_id(tx, of, parent).await?;
                if parent.page != entry.page || parent.state != State::Shown {
                    return Err(Error::NotFound("comment"));
                }
            }
            let entry = judged(tx, of, entry.clone(), verdict).await?;
            store::add_entry(tx, of, &entry).await?;
            comments.happened(tx, of, &entry, "comment.written").await?;
            Ok((site.id.clone(), entry))
        });
        let (site, entry) = written.await?;
        self.tell(organisation, &site, &entry.page);
        Ok(entry)
    }

    /// A comment as it would be, with everything checked that needs no rows, and what the site's rules say.
    fn drafted(
        &self,
        site: &Site,
        page: &Page,
        visitor: &Visitor,
        new: &NewComment,
    ) -> Result<(Entry, Verdict)> {
        let mut faults = Vec::new();
        let given = visitor.reader.as_ref().map_or(&new.name, |reader| &reader.name);
        let name = self.name(given).unwrap_or_else(|fault| {
            faults.push(fault);
            String::new()
        });
        if visitor.reader.is_none() {
            if !site.settings.rules.guests {
                return Err(Error::NoGuests);
            }
            let least = self.0.config.password_chars_min;
            let given = visitor.password.as_deref().unwrap_or_default();
            if given.chars().count() < least || given.len() > 1_024 {
                let text = format!("must have {least} characters, and at most 1024 bytes");
                faults.push(Fault::new("/password", text));
            }
        }
        let is_nonce = |text: &String| SECRET_CHARS.contains(&text.len()) && is_plain(text);
        if new.nonce.as_ref().is_some_and(|nonce| !is_nonce(nonce)) {
            faults.push(Fault::new("/nonce", "must be 16 to 64 letters, digits, - or _"));
        }
        if new.title.chars().count() > TITLE_CHARS_MAX {
            let text = format!("must have at most {TITLE_CHARS_MAX} characters");
            faults.push(Fault::new("/title", text));
        }
        let text = match self.text(&new.text) {
            Ok(text) if faults.is_empty() => text,
            text => {
                faults.extend(text.err());
                return Err(Error::Invalid(faults));
            }
        };
        let is_owner = visitor.reader.as_ref().is_some_and(|reader| reader.is_owner);
        // Owners are above the site's rules.
        let verdict = if is_owner { Verdict::Shown } else { site.judge(&text) };
        let now = self.0.base.clock.now();
        let id = EntryId::new(now, &self.0.base.entropy);
        let entry = Entry {
            page: page.id(),
            id,
            nonce: new.nonce.clone().unwrap_or_else(|| id.to_string()),
            parent: new.parent,
            state: State::Shown,
            reason: None,
            author: visitor.author(site)?,
            address: visitor.address(site),
            account: visitor.reader.as_ref().map(|reader| reader.account.to_string()),
            name,
            password: None,
            body: text.body(),
            source: text.source,
            is_owner,
            is_secret: new.is_secret,
            is_pinned: false,
            likes: 0,
            reports: 0,
            created: now,
            edited: None,
        };
        Ok((entry, verdict))
    }

    /// A name that is there and not too long.
    pub(crate) fn name(&self, given: &str) -> Result<String, Fault> {
        let (name, most) = (clean(given), self.0.config.name_chars_max);
        if name.is_empty() || name.chars().count() > most {
            return Err(Fault::new("/name", format!("must have 1 to {most} characters")));
        }
        Ok(name)
    }

    /// A text that is there and not too long, read before any transaction that writes it.
    pub(crate) fn text(&self, given: &str) -> Result<Text, Fault> {
        let most = self.0.config.text_chars_max;
        let seen = given.chars().filter(|letter| is_kept(*letter));
        let is_blank = seen.clone().all(char::is_whitespace);
        if is_blank || seen.count() > most {
            return Err(Fault::new("/text", format!("must have 1 to {most} characters")));
        }
        Ok(Text::of(given))
    }

    /// In the transaction: the thread is another one, and others hear of it.
    pub(crate) async fn happened(
        &self,
        tx: &mut Tx,
        of: Of<'_>,
        entry: &Entry,
        kind: &'static str,
    ) -> Result<()> {
        self.thread_changed(tx, of, &entry.page).await?;
        self.announce(tx, of, entry, kind).await
    }

    /// In the transaction: others hear of it.
    pub(crate) async fn announce(
        &self,
        tx: &mut Tx,
        of: Of<'_>,
        entry: &Entry,
        kind: &'static str,
    ) -> Result<()> {
        let payload = serde_json::json!({
            "site": of.site, "page": entry.page, "comment": entry.id.to_string(), "state": entry.state.text(),
        });
        let key = format!("{}/{}", of.site, entry.page);
        let payload = payload.to_string().into_bytes();
        let event = NewEvent { organisation: of.organisation, topic: TOPIC, kind, key, payload };
        tx.emit(event).await?;
        Ok(())
    }

    /// Changes a text; by its writer.
    pub(crate) async fn change(
        &self,
        site: &Site,
        visitor: &Visitor,
        id: EntryId,
        (text, is_secret): (String, Option<bool>),
    ) -> Result<Entry> {
        let text = self.text(&text)?;
        self.limit(Deed::Write, visitor)?;
        let (organisation, seen) = self.own(site, visitor, id).await?;
        let verdict = if seen.is_owner { Verdict::Shown } else { site.judge(&text) };
        let body = text.body();
        let now = self.0.base.clock.now();
        let (comments, own) = (self.clone(), site.clone());
        let changed = self.0.needs.db.write(async move |tx| {
            let of = Of { organisation, site: &own.id };
            let old = still(store::entry_of_id(tx, of, id).await?, &seen)?;
            let new = Entry {
                source: text.source.clone(),
                body: body.clone(),
                is_secret: is_secret.unwrap_or(old.is_secret),
                edited: Some(now),
                ..old.clone()
            };
            store::set_text(tx, of, &new).await?;
            let mut judged = judged(tx, of, new, verdict).await?;
            // What waits goes on waiting, and what was approved is held only for what is new in it.
            if old.state == State::Shown && judged.state == State::Held {
                let reason = judged.reason.clone();
                store::set_state(tx, of, &old, State::Held, reason.as_deref()).await?;
            } else {
                judged.state = old.state;
            }
            comments.happened(tx, of, &judged, "comment.changed").await?;
            Ok::<_, Error>(judged)
        });
        let changed = changed.await?;
        self.tell(organisation, &site.id, &changed.page);
        Ok(changed)
    }

    /// Deletes a comment; by its writer.
    pub(crate) async fn delete(&self, site: &Site, visitor: &Visitor, id: EntryId) -> Result<()> {
        let (organisation, seen) = self.own(site, visitor, id).await?;
        let (comments, own, page) = (self.clone(), site.id.clone(), seen.page.clone());
        let deleted = self.0.needs.db.write(async move |tx| {
            let of = Of { organisation, site: &own };
            let old = still(store::entry_of_id(tx, of, id).await?, &seen)?;
            store::erase(tx, of, &old).await?;
            comments.happened(tx, of, &old, "comment.deleted").await
        });
        deleted.await?;
        self.tell(organisation, &site.id, &page);
        Ok(())
    }

    /// A comment with its text, to its writer.
    pub(crate) async fn reveal(
        &self,
        site: &Site,
        visitor: &Visitor,
        id: EntryId,
    ) -> Result<Entry> {
        Ok(self.own(site, visitor, id).await?.1)
    }

    /// A comment that is the visitor's, by account, by browser or by password; an owner's is every one.
    async fn own(
        &self,
        site: &Site,
        visitor: &Visitor,
        id: EntryId,
    ) -> Result<(OrganisationId, Entry)> {
        visitor.check()?;
        let (organisation, of_site) = (site.organisation()?, site.id.clone());
        let entry = self.0.needs.db.read(async move |read| {
            store::entry_of_id(read, Of { organisation, site: &of_site }, id).await
        });
        let entry: Entry = entry.await?;
        if entry.state == State::Deleted {
            return Err(Error::NotFound("comment"));
        }
        if visitor.reader.as_ref().is_some_and(|reader| reader.is_owner) {
            return Ok((organisation, entry));
        }
        if visitor.author(site).is_ok_and(|author| author == entry.author) {
            return Ok((organisation, entry));
        }
        if let (Some(password), None) = (&visitor.password, &entry.account) {
            self.limit(Deed::Password, visitor)?;
            if self.0.needs.passwords.is(password, entry.password.as_deref()).await? {
                return Ok((organisation, entry));
            }
        }
        Err(Error::NotYours)
    }

    /// Likes a comment, or not any more; however often it is said. How many do now.
    pub(crate) async fn like(
        &self,
        site: &Site,
        visitor: &Visitor,
        (id, is_liked): (EntryId, bool),
    ) -> Result<i64> {
        visitor.check()?;
        let voter = visitor.author(site)?;
        self.limit(Deed::Like, visitor)?;
        let (organisation, own) = (site.organisation()?, site.id.clone());
        let (comments, now) = (self.clone(), self.0.base.clock.now());
        let liked = self.0.needs.db.write(async move |tx| {
            let of = Of { organisation, site: &own };
            let entry = shown(store::entry_of_id(tx, of, id).await?)?;
            if !store::set_like(tx, of, (id, &voter), (is_liked, now)).await? {
                return Ok((entry.page, entry.likes, false));
            }
            comments.thread_changed(tx, of, &entry.page).await?;
            Ok::<_, Error>((entry.page, entry.likes + if is_liked { 1 } else { -1 }, true))
        });
        let (page, likes, is_new): (String, i64, bool) = liked.await?;
        if is_new {
            self.tell(organisation, &site.id, &page);
        }
        Ok(likes)
    }

    /// Tells the owners of a comment; enough reports hold it.
    pub(crate) async fn report(
        &self,
        site: &Site,
        visitor: &Visitor,
        (id, reason): (EntryId, String),
    ) -> Result<()> {
        visitor.check()?;
        let voter = visitor.author(site)?;
        if reason.chars().count() > REASON_CHARS_MAX {
            let text = format!("must have at most {REASON_CHARS_MAX} characters");
            return Err(Error::invalid("/reason", text));
        }
        let reason = without_controls(&reason);
        self.limit(Deed::Report, visitor)?;
        let (organisation, own) = (site.organisation()?, site.clone());
        let (comments, now) = (self.clone(), self.0.base.clock.now());
        let reported = self.0.needs.db.write(async move |tx| {
            let of = Of { organisation, site: &own.id };
            let entry = shown(store::entry_of_id(tx, of, id).await?)?;
            let reports = store::add_report(tx, of, (&entry, &voter), (&reason, now)).await?;
            let most = i64::from(own.settings.rules.reports_hold);
            let is_held =
                most > 0 && !entry.is_owner && reports.is_some_and(|reports| reports >= most);
            if is_held {
                store::set_state(tx, of, &entry, State::Held, Some("reports")).await?;
                comments.happened(tx, of, &entry, "comment.held").await?;
            }
            Ok::<_, Error>((entry.page, is_held))
        });
        let (page, is_held) = reported.await?;
        if is_held {
            self.tell(organisation, &site.id, &page);
        }
        Ok(())
    }
}

/// The same comment as was seen before the transaction, and its writer's still.
fn still(now: Entry, seen: &Entry) -> Result<Entry> {
    if now.state == State::Deleted || now.author != seen.author {
        return Err(Error::NotFound("comment"));
    }
    Ok(now)
}

fn shown(entry: Entry) -> Result<Entry> {
    if entry.state == State::Shown { Ok(entry) } else { Err(Error::NotFound("comment")) }
}

/// A comment as the site's rules leave it.
async fn judged(tx: &mut Tx, of: Of<'_>, entry: Entry, verdict: Verdict) -> Result<Entry> {
    let reason = match verdict {
        Verdict::Shown => return Ok(entry),
        Verdict::First => {
            if store::is_known(tx, of, &entry.author).await? {
                return Ok(entry);
            }
            "first"
        }
        Verdict::Held(reason) => reason,
        Verdict::Refused => return Err(Error::Refused),
    };
    Ok(Entry { state: State::Held, reason: Some(reason.to_owned()), ..entry })
}

/// A text without what is neither seen nor a line, which not every database keeps.
pub(crate) fn without_controls(text: &str) -> String {
    text.chars().filter(|letter| is_kept(*letter)).collect()
}

fn is_kept(letter: char) -> bool {
    !letter.is_control() || matches!(letter, '\n' | '\t')
}

/// A name on one line, without what is not seen: marks that turn the direction of text, for one.
pub(crate) fn clean(name: &str) -> String {
    let is_hidden = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    let words = name.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().filter(|letter| !is_hidden(*letter)).collect::<String>().trim().to_owned()
}

/// The moment that a person means by a day, for filters.
pub(crate) fn moment(name: &'static str, text: &str) -> Result<Timestamp> {
    text.parse().map_err(|_| Error::invalid(name, "must be a moment such as 2026-11-21T18:00:00Z"))
}
