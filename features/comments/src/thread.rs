//! A thread as readers get it: one answer, the same for everybody, packed once and kept until a comment changes.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Read as _;

use base::OrganisationId;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use flate2::read::GzDecoder;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};
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
    /// Threads hide them in how they are written, which is held against this.
    #[cfg(test)]
    Hidden,
    /// To its writer, or to an owner.
    Shown,
}

impl Seen<'_> {
    pub(crate) fn view(&self, secrets: Secrets) -> Result<CommentView<'_>> {
        let is_readable = !self.is_deleted() && (!self.is_secret || secrets == Secrets::Shown);
        let body = is_readable.then(|| serde_json::from_str(self.body)).transpose();
        Ok(CommentView { body: body.map_err(|_| Error::damaged("a comment"))?, ..self.head() })
    }

    /// The view without what was written.
    fn head(&self) -> CommentView<'_> {
        CommentView {
            id: &self.id,
            parent: self.parent.as_deref(),
            name: self.name,
            at: self.created.millis(),
            edited: self.is_edited,
            likes: self.likes,
            pinned: self.is_pinned,
            owner: self.is_owner,
            account: self.has_account,
            secret: self.is_secret,
            deleted: self.is_deleted(),
            held: matches!(self.state, State::Held | State::Spam),
            body: None,
        }
    }

    fn is_deleted(&self) -> bool {
        self.state == State::Deleted
    }

    /// Writes the view for everybody. The tree is JSON already, so it is not read anew.
    fn put(&self, out: &mut Vec<u8>) {
        put_json(out, &self.head());
        if !self.is_deleted() && !self.is_secret {
            // It comes last.
            out.pop();
            out.extend_from_slice(b",\"body\":");
            out.extend_from_slice(self.body.as_bytes());
            out.push(b'}');
        }
    }
}

fn put_json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("texts and numbers always become JSON");
}

/// A thread, ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Packed(Bytes);

/// Of the tag, without quotes: 16 bytes of a digest as text.
const TAG_BYTES: usize = 22;

/// A gzip file without a name and a time, packed quickly (RFC 1952 section 2.3).
const GZIP_HEAD: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 4, 255];

thread_local! {
    /// What packs has a quarter of a megabyte, which takes as long to make as a thread takes to pack.
    // An eighth larger than by default, in a quarter of the time that a reader waits for a new comment.
    static PACKER: RefCell<Compress> = RefCell::new(Compress::new(Compression::fast(), false));
}

impl Packed {
    fn new(plain: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(TAG_BYTES + 64 + plain.len() / 2);
        bytes.resize(TAG_BYTES, 0);
        bytes.extend_from_slice(&GZIP_HEAD);
        PACKER.with_borrow_mut(|packer| pack(packer, plain, &mut bytes));
        let mut sum = Crc::new();
        sum.update(plain);
        bytes.extend_from_slice(&sum.sum().to_le_bytes());
        bytes.extend_from_slice(&sum.amount().to_le_bytes());
        // What is packed the same is the same, and there is a quarter of it.
        let (tag, packed) = bytes.split_at_mut(TAG_BYTES);
        let digest = &Sha256::digest(packed)[..16];
        URL_SAFE_NO_PAD.encode_slice(digest, tag).expect("a tag has its place");
        Self(bytes.into())
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

fn pack(packer: &mut Compress, plain: &[u8], out: &mut Vec<u8>) {
    packer.reset();
    loop {
        let taken = usize::try_from(packer.total_in()).expect("a thread fits into memory");
        let status = packer.compress_vec(&plain[taken..], out, FlushCompress::Finish);
        if status.expect("packing in memory cannot fail") == Status::StreamEnd {
            return;
        }
        out.reserve(4 << 10);
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
            let plain = plain(&page, guests, most, thread.as_ref()).map_err(into_answer)?;
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

/// Bytes of a comment, roughly.
const COMMENT_BYTES: usize = 400;

pub(crate) fn plain(
    page: &str,
    guests: bool,
    most: usize,
    thread: Option<&store::Thread>,
) -> Result<Vec<u8>> {
    let (count, closed) = thread.map_or((0, false), |it| (it.comments, it.is_closed));
    let entries = thread.map(store::Thread::entries).transpose()?.unwrap_or_default();
    // One more than there may be was asked for: the oldest.
    let earlier = entries.len() > most;
    let entries = &entries[usize::from(earlier)..];
    Ok(written(&ThreadView { page, count, closed, guests, earlier, comments: Vec::new() }, entries))
}

/// The view of a thread with these comments.
fn written(view: &ThreadView<'_>, entries: &[Seen<'_>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + entries.len() * COMMENT_BYTES);
    put_json(&mut out, view);
    // The list is last and empty so far.
    out.truncate(out.len() - b"]}".len());
    let begin = out.len();
    let kept = with_answers(entries);
    for (entry, _) in entries.iter().zip(kept).filter(|(_, kept)| *kept) {
        if out.len() > begin {
            out.push(b',');
        }
        entry.put(&mut out);
    }
    out.extend_from_slice(b"]}");
    out
}

/// A deleted comment stays while something under it is shown.
fn with_answers(entries: &[Seen<'_>]) -> Vec<bool> {
    let mut kept: Vec<bool> = entries.iter().map(|entry| entry.state == State::Shown).collect();
    if kept.iter().all(|kept| *kept) {
        return kept;
    }
    let places: HashMap<&str, usize> =
        entries.iter().enumerate().map(|(place, entry)| (&*entry.id, place)).collect();
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

    fn entry(number: u128, parent: Option<u128>, state: State) -> Seen<'static> {
        Seen {
            id: number.to_string().into(),
            parent: parent.map(|parent| parent.to_string().into()),
            state,
            name: "Mina",
            has_account: false,
            body: r#"[["p","hi"]]"#,
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
        let shown = |entry: &Seen<'_>, secrets| {
            serde_json::to_string(&entry.view(secrets).unwrap()).unwrap()
        };
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
    fn a_thread_of_any_length_is_packed_and_unpacked_again() {
        let mut state = 1_u32;
        let mut noise = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        for length in [0, 1, 700, 70_000, 3 << 20] {
            // What cannot be packed comes out longer than it went in.
            for plain in [vec![b'a'; length], (0..length).map(&mut noise).collect()] {
                let packed = Packed::new(&plain);
                assert!(packed.plain().unwrap() == plain, "{length}");
                let mut whole = Vec::new();
                flate2::read::MultiGzDecoder::new(&packed.gzip()[..])
                    .read_to_end(&mut whole)
                    .unwrap();
                assert_eq!(whole.len(), length, "one file, and nothing behind it");
            }
        }
    }

    fn view(earlier: bool, comments: Vec<CommentView<'_>>) -> ThreadView<'_> {
        ThreadView { page: "p", count: 3, closed: true, guests: false, earlier, comments }
    }

    /// Every flag by itself and all of them, and a name that JSON has signs for.
    fn of_every_kind() -> Vec<Seen<'static>> {
        let change: [fn(&mut Seen<'static>); 9] = [
            |it| it.is_edited = true,
            |it| it.likes = 1_234_567,
            |it| it.is_pinned = true,
            |it| it.is_owner = true,
            |it| it.has_account = true,
            |it| it.is_secret = true,
            |it| it.name = "\"\\ \u{1}\u{2028} 마당 😀",
            |it| it.created = Timestamp::from_micros(-1),
            |it| it.body = "[]",
        ];
        let mut all = vec![entry(1, None, State::Shown)];
        for (number, change) in (2..).zip(&change) {
            let mut one = entry(number, Some(number - 1), State::Shown);
            change(&mut one);
            all.push(one);
        }
        let mut whole = entry(90, Some(1), State::Deleted);
        for change in &change {
            change(&mut whole);
        }
        all.extend([whole, entry(91, Some(90), State::Deleted), entry(92, Some(91), State::Shown)]);
        all
    }

    #[test]
    fn a_thread_is_written_as_its_view_says() {
        let all = of_every_kind();
        for entries in [&all[..0], &all[..1], &all[..]] {
            let comments = entries.iter().map(|it| it.view(Secrets::Hidden).unwrap()).collect();
            let wanted = serde_json::to_string(&view(true, comments)).unwrap();
            let found = written(&view(true, Vec::new()), entries);
            assert_eq!(String::from_utf8(found).unwrap(), wanted);
        }
    }
}
