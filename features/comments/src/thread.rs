//! A thread as readers get it: one answer, the same for everybody, packed once and kept until a comment changes.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};

use base::OrganisationId;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use relational::Tx;
use results::Question;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::page::Page;
use crate::site::Site;
use crate::store::{self, EntryId, Of, Seen, State};
use crate::{Comments, Error, Result, into_answer};

/// A page's comments.
#[derive(Serialize, JsonSchema)]
pub(crate) struct ThreadView<'a> {
    /// The page's name, which all its addresses share.
    page: &'a str,
    /// Shown comments of the page, with those that this answer leaves out.
    count: i64,
    /// It takes no more comments.
    closed: bool,
    /// People without an account may write.
    guests: bool,
    /// There are older comments: ask with `before`, the id of the first one here.
    earlier: bool,
    /// The oldest first. A parent comes before its answers, or is not there.
    comments: Vec<CommentView<'a>>,
}

/// A comment as everybody may see it. What is not said is false, or nothing.
#[expect(clippy::struct_excessive_bools, reason = "each stands on the wire by itself")]
#[derive(Serialize, JsonSchema)]
pub(crate) struct CommentView<'a> {
    pub id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<&'a str>,
    pub name: &'a str,
    /// Milliseconds since 1970.
    pub at: i64,
    #[serde(skip_serializing_if = "is_not")]
    pub edited: bool,
    #[serde(skip_serializing_if = "is_none")]
    pub likes: i64,
    #[serde(skip_serializing_if = "is_not")]
    pub pinned: bool,
    /// By an owner of the site.
    #[serde(skip_serializing_if = "is_not")]
    pub owner: bool,
    /// By somebody with an account.
    #[serde(skip_serializing_if = "is_not")]
    pub account: bool,
    /// Only its writer and the owners may read it.
    #[serde(skip_serializing_if = "is_not")]
    pub secret: bool,
    #[serde(skip_serializing_if = "is_not")]
    pub deleted: bool,
    /// Somebody has to approve it first; its writer alone is told so.
    #[serde(skip_serializing_if = "is_not")]
    pub held: bool,
    /// A tree: a text, or a list of a tag, for `a` its target, and what is inside.
    #[schemars(with = "Option<Vec<serde_json::Value>>")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<&'a RawValue>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_not(flag: &bool) -> bool {
    !flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_none(count: &i64) -> bool {
    *count == 0
}

/// Whether a text that not everybody may read is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secrets {
    Hidden,
    /// To its writer, or to an owner.
    Shown,
}

impl Seen {
    pub(crate) fn view(&self, secrets: Secrets) -> Result<CommentView<'_>> {
        let is_deleted = self.state == State::Deleted;
        let is_readable = !is_deleted && (!self.is_secret || secrets == Secrets::Shown);
        let body = is_readable.then(|| serde_json::from_str(&self.body)).transpose();
        Ok(CommentView {
            id: &self.id,
            parent: self.parent.as_deref(),
            name: &self.name,
            at: self.created.millis(),
            edited: self.is_edited,
            likes: self.likes,
            pinned: self.is_pinned,
            owner: self.is_owner,
            account: self.has_account,
            secret: self.is_secret,
            deleted: is_deleted,
            held: matches!(self.state, State::Held | State::Spam),
            body: body.map_err(|_| Error::damaged("a comment"))?,
        })
    }
}

/// A thread, ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Packed(Bytes);

/// Of the tag, without quotes: 16 bytes of a digest as text.
const TAG_BYTES: usize = 22;

impl Packed {
    fn new(plain: &[u8]) -> Self {
        let tag = URL_SAFE_NO_PAD.encode(&Sha256::digest(plain)[..16]);
        // An eighth larger than by default, in a quarter of the time that a reader waits for a new comment.
        let mut encoder = GzEncoder::new(tag.into_bytes(), Compression::fast());
        let packed = encoder.write_all(plain).and_then(|()| encoder.finish());
        Self(packed.expect("writing to memory cannot fail").into())
    }

    /// Changes with every change of what it holds.
    pub(crate) fn tag(&self) -> &str {
        self.0.get(..TAG_BYTES).and_then(|tag| std::str::from_utf8(tag).ok()).unwrap_or_default()
    }

    pub(crate) fn gzip(&self) -> Bytes {
        self.0.slice(TAG_BYTES.min(self.0.len())..)
    }

    pub(crate) fn plain(&self) -> Result<Vec<u8>> {
        let mut plain = Vec::new();
        let read = GzDecoder::new(&self.gzip()[..]).read_to_end(&mut plain);
        read.map_err(|_| Error::damaged("a packed thread"))?;
        Ok(plain)
    }
}

/// What changes when a comment of the page changes.
fn subject(site: &str, page: &str) -> String {
    format!("comments/{site}/{page}")
}

impl Comments {
    /// A page's thread; kept, and computed by one statement when it is not.
    pub(crate) async fn thread(
        &self,
        site: &Site,
        page: &Page,
        before: Option<EntryId>,
    ) -> Result<Packed> {
        let organisation = site.organisation()?;
        let (page, guests) = (page.id(), site.settings.rules.guests);
        let before = before.map(|before| before.to_string());
        let key = format!("{page} {} {guests}", before.as_deref().unwrap_or_default());
        let subject = subject(&site.id, &page);
        let subjects = [subject.as_str()];
        let kept = self.0.config.thread_kept;
        let question = Question::new("comments.thread", &key, &subjects, kept);
        let (db, site) = (self.0.needs.db.clone(), site.id.clone());
        let most = self.0.config.thread_comments_max;
        let answers = self.0.needs.results.for_organisation(organisation);
        let packed = answers.answer(question, move || async move {
            let limit = i64::try_from(most).unwrap_or(i64::MAX - 1) + 1;
            let (of_site, of_page) = (site.clone(), page.clone());
            let thread = db
                .read(async move |read| {
                    let of = Of { organisation, site: &of_site };
                    store::thread(read, of, (&of_page, before.as_deref()), limit).await
                })
                .await
                .map_err(into_answer)?;
            let plain = plain(&page, guests, most, thread).map_err(into_answer)?;
            Ok::<_, results::Error>(Packed::new(&plain).0)
        });
        Ok(Packed(packed.await?))
    }

    /// Says in the transaction that changes a comment that its page's thread is another one.
    pub(crate) async fn thread_changed(
        &self,
        tx: &mut Tx,
        of: Of<'_>,
        page: &str,
    ) -> Result<(), relational::Error> {
        let answers = self.0.needs.results.for_organisation(of.organisation);
        answers.bump(tx, &[&subject(of.site, page)]).await
    }

    /// Tells those who read the page, after the commit.
    pub(crate) fn tell(&self, organisation: OrganisationId, site: &str, page: &str) {
        self.0.live.changed(organisation, site, page);
    }
}

fn plain(page: &str, guests: bool, most: usize, thread: Option<store::Thread>) -> Result<Vec<u8>> {
    let (count, closed) = thread.as_ref().map_or((0, false), |it| (it.comments, it.is_closed));
    let entries = thread.map(|thread| thread.entries).unwrap_or_default();
    // One more than there may be was asked for: the oldest.
    let earlier = entries.len() > most;
    let entries = &entries[usize::from(earlier)..];
    let kept = with_answers(entries);
    let comments = entries.iter().zip(kept).filter(|(_, kept)| *kept);
    let comments = comments.map(|(entry, _)| entry.view(Secrets::Hidden)).collect::<Result<_>>()?;
    let view = ThreadView { page, count, closed, guests, earlier, comments };
    Ok(serde_json::to_vec(&view).expect("a thread is texts and numbers"))
}

/// A deleted comment stays while something under it is shown.
fn with_answers(entries: &[Seen]) -> Vec<bool> {
    let places: HashMap<&str, usize> =
        entries.iter().enumerate().map(|(place, entry)| (entry.id.as_str(), place)).collect();
    let mut kept: Vec<bool> = entries.iter().map(|entry| entry.state == State::Shown).collect();
    // Answers come after what they answer, so one way back is enough.
    for place in (0..entries.len()).rev() {
        let parent = entries[place].parent.as_deref().and_then(|parent| places.get(parent));
        if let (true, Some(parent)) = (kept[place], parent) {
            kept[*parent] = true;
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use base::Timestamp;

    use super::*;

    fn entry(number: u128, parent: Option<u128>, state: State) -> Seen {
        Seen {
            id: number.to_string(),
            parent: parent.map(|parent| parent.to_string()),
            state,
            name: "Mina".into(),
            has_account: false,
            body: r#"[["p","hi"]]"#.into(),
            is_owner: false,
            is_secret: false,
            is_pinned: false,
            likes: 0,
            created: Timestamp::from_millis(5),
            is_edited: false,
        }
    }

    #[test]
    fn a_deleted_comment_stays_as_long_as_an_answer_is_shown() {
        let deleted = State::Deleted;
        let entries = [
            entry(1, None, deleted),
            entry(2, Some(1), deleted),
            entry(3, Some(2), State::Shown),
            entry(4, None, deleted),
            entry(5, Some(4), deleted),
        ];
        assert_eq!(with_answers(&entries), [true, true, true, false, false]);
    }

    #[test]
    fn nothing_of_a_deleted_or_secret_comment_is_said() {
        let mut secret = entry(1, None, State::Shown);
        secret.is_secret = true;
        let shown =
            |entry: &Seen, secrets| serde_json::to_string(&entry.view(secrets).unwrap()).unwrap();
        assert!(!shown(&secret, Secrets::Hidden).contains("hi"));
        assert!(shown(&secret, Secrets::Shown).contains(r#""body":[["p","hi"]]"#));
        assert!(!shown(&entry(1, None, State::Deleted), Secrets::Shown).contains("hi"));
    }

    #[test]
    fn a_packed_thread_has_a_tag_of_what_it_holds() {
        let (one, two) = (Packed::new(b"one"), Packed::new(b"two"));
        assert_eq!(one.plain().unwrap(), b"one");
        assert_eq!(one.tag().len(), TAG_BYTES);
        assert_ne!(one.tag(), two.tag());
        assert_eq!(one.tag(), Packed::new(b"one").tag());
    }

    #[test]
    fn what_is_left_out_is_said() {
        let thread = || store::Thread {
            comments: 3,
            is_closed: false,
            entries: (1..4).map(|number| entry(number, None, State::Shown)).collect(),
        };
        let read = |most| -> serde_json::Value {
            serde_json::from_slice(&plain("p", true, most, Some(thread())).unwrap()).unwrap()
        };
        assert_eq!(
            (read(3)["earlier"].clone(), read(3)["comments"].as_array().unwrap().len()),
            (false.into(), 3)
        );
        assert_eq!(
            (read(2)["earlier"].clone(), read(2)["comments"].as_array().unwrap().len()),
            (true.into(), 2)
        );
        assert_eq!(read(2)["count"], 3);
    }
}
