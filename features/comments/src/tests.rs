//! What readings and writings cost, and what is kept of what is written.

use std::sync::Arc;

use base::access::{Action, Authority, Door, Principal, Refused, Resource};
use base::{Base, OrganisationId, PageRequest, Spent};
use edge::BoxFuture;
use relational::Db;
use results::Results;
use tokio::sync::watch;

use crate::owner::Deed;
use crate::page::Page;
use crate::site::{Moderation, Rules, Settings, Site};
use crate::store::{self, Of, State};
use crate::write::{NewComment, Visitor};
use crate::{Comments, Config, Error, NeedError, Needs, Passwords, transfer};

/// Passwords as they are; nobody asks for more here.
struct Plain;

impl Passwords for Plain {
    fn hash<'a>(&'a self, password: &'a str) -> BoxFuture<'a, Result<String, NeedError>> {
        Box::pin(async move { Ok(password.to_owned()) })
    }

    fn is<'a>(
        &'a self,
        password: &'a str,
        hash: Option<&'a str>,
    ) -> BoxFuture<'a, Result<bool, NeedError>> {
        Box::pin(async move { Ok(hash == Some(password)) })
    }
}

struct Nobody;

impl Authority for Nobody {
    fn authenticate<'a>(
        &'a self,
        _: Door,
        _: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Principal, Refused>> {
        Box::pin(async { Err(Refused::Unauthenticated) })
    }

    fn authorize(&self, _: &Principal, _: Action, _: Resource<'_>) -> Result<(), Refused> {
        Err(Refused::Forbidden)
    }

    fn epoch(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    fn is_current(&self, _: &Principal) -> bool {
        false
    }
}

async fn open(folder: &std::path::Path) -> (Comments, Site) {
    let base = Base::simulated("2026-11-21T00:00:00Z".parse().unwrap(), 1);
    let path = folder.join("rows.db");
    let rows = relational::Config { path, ..relational::Config::default() };
    let db = Db::open(rows, &base).await.unwrap();
    let kv = kv::Kv::for_rooms(kv::Config::default(), &base, &folder.join("kv")).await.unwrap();
    let results = Results::open_alone(results::Config::default(), &base, &db, &kv).await.unwrap();
    let needs = Needs { db, results, authority: Arc::new(Nobody), passwords: Arc::new(Plain) };
    let config = Config { writes_per_address_max: 10_000, ..Config::default() };
    let comments = Comments::open(config, &base, needs).await.unwrap();
    let settings = Settings {
        name: "Blog".into(),
        origins: vec!["https://a.kr".into()],
        zone: "Asia/Seoul".into(),
        moderation: Moderation::Open,
        rules: Rules::default(),
    };
    let site = comments.add_site(OrganisationId::DEFAULT, settings).await.unwrap();
    (comments, site)
}

async fn write(comments: &Comments, site: &Site, page: &Page, count: usize) {
    let mut parent = None;
    for number in 0..count {
        let visitor = guest(number);
        let new = NewComment { parent, ..new("hello **you**") };
        let entry = comments.write(site, page, &visitor, new).await.unwrap();
        comments.like(site, &visitor, (entry.id, true)).await.unwrap();
        // Each answers the one before: as deep as it is long.
        parent = Some(entry.id);
    }
}

#[tokio::test]
async fn a_thread_is_one_statement_however_long_and_deep_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (comments, site) = open(folder.path()).await;
    let page = Page::of("https://a.kr/one").unwrap();
    for count in [1, 9, 90] {
        write(&comments, &site, &page, count).await;
        let (own, id, db) = (site.id.clone(), page.id(), comments.0.needs.db.clone());
        let spent = Spent::default();
        let read = async move {
            let thread = db.read(async move |read| {
                let of = Of { organisation: OrganisationId::DEFAULT, site: &own };
                store::thread(read, of, (&id, None), 1_000).await
            });
            thread.await
        };
        let thread = spent.clone().scope(read).await.unwrap().unwrap();
        let entries = thread.entries().unwrap();
        assert!(entries.len() >= count && entries.iter().all(|one| one.likes == 1));
        assert_eq!(spent.statements(), 1);
    }
}

#[tokio::test]
async fn a_thread_says_what_it_leaves_out() {
    let folder = tempfile::tempdir().unwrap();
    let (comments, site) = open(folder.path()).await;
    let page = Page::of("https://a.kr/one").unwrap();
    let mut parent = None;
    for number in 0..4 {
        let entry = NewComment { parent, is_secret: number == 2, ..new("hello") };
        parent = Some(comments.write(&site, &page, &guest(number), entry).await.unwrap().id);
    }
    let first = comments.thread(&site, &page, None).await.unwrap();
    let read = |plain: Vec<u8>| serde_json::from_slice::<serde_json::Value>(&plain).unwrap();
    let whole = read(first.plain().unwrap());
    let ids: Vec<&str> =
        whole["comments"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    comments.delete(&site, &guest(1), ids[1].parse().unwrap()).await.unwrap();
    for (most, earlier, shown) in
        [(4, false, &ids[..]), (3, true, &ids[1..]), (2, true, &ids[2..]), (1, true, &ids[3..])]
    {
        let (own, id, db) = (site.id.clone(), page.id(), comments.0.needs.db.clone());
        let thread = db.read(async move |read| {
            let of = Of { organisation: OrganisationId::DEFAULT, site: &own };
            store::thread(read, of, (&id, None), i64::try_from(most).unwrap() + 1).await
        });
        let thread = thread.await.unwrap();
        let plain = read(crate::thread::plain("p", true, most, thread.as_ref()).unwrap());
        assert_eq!((&plain["earlier"], &plain["count"]), (&earlier.into(), &3.into()), "{most}");
        let found = plain["comments"].as_array().unwrap();
        assert_eq!(found.iter().map(|it| it["id"].as_str().unwrap()).collect::<Vec<_>>(), shown);
        let bodies = found.iter().map(|it| it.get("body").is_some()).collect::<Vec<_>>();
        assert_eq!(bodies, [true, false, false, true][4 - most..], "deleted, secret: {plain}");
    }
    // It has another tag with each change, and by its id older ones are asked for.
    let second = comments.thread(&site, &page, None).await.unwrap();
    assert_ne!(first.tag(), second.tag());
    let older = comments.thread(&site, &page, Some(ids[1].parse().unwrap())).await.unwrap();
    assert_eq!(read(older.plain().unwrap())["comments"][0]["id"], ids[0]);
    assert_eq!(read(older.plain().unwrap())["comments"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_file_goes_on_where_another_one_ended_and_answers_stay_under_what_they_answer() {
    let folder = tempfile::tempdir().unwrap();
    let (comments, site) = open(folder.path()).await;
    // More than two batches, each an answer to the one before.
    let file = |count: i64| -> Vec<transfer::Foreign> {
        let one = |number: i64| transfer::Foreign {
            id: format!("c{number}"),
            parent: Some(format!("c{}", number - 1)),
            url: "https://a.kr/one".into(),
            title: String::new(),
            name: "Mina".into(),
            text: number.to_string(),
            created: base::Timestamp::from_millis(number * 60_000).to_string(),
            state: State::Shown,
            secret: false,
            pinned: false,
            owner: false,
        };
        (0..count).map(one).collect()
    };
    // One file ends where a batch does, so that the first answer of the next batch is to what was there.
    for (count, added, known) in
        [(1_000, 1_000, 0), (1_500, 500, 1_000), (2_700, 1_200, 1_500), (2_700, 0, 2_700)]
    {
        let imported = comments.import(&site, file(count)).await.unwrap();
        assert_eq!((imported.added, imported.known, imported.skipped), (added, known, 0));
    }
    let (own, id, db) =
        (site.id.clone(), Page::of("https://a.kr/one").unwrap().id(), &comments.0.needs.db);
    let thread = db.read(async move |read| {
        let of = Of { organisation: OrganisationId::DEFAULT, site: &own };
        store::thread(read, of, (&id, None), 10_000).await
    });
    let thread = thread.await.unwrap().unwrap();
    assert_eq!(thread.comments, 2_700);
    let entries = thread.entries().unwrap();
    assert_eq!((entries.len(), &entries[0].parent), (2_700, &None));
    for pair in entries.windows(2) {
        assert_eq!(pair[1].parent, Some(pair[0].id.clone()), "{}", pair[1].body);
    }
    // Nobody is banned with the writer of what came from elsewhere.
    let last = entries[2_699].id.parse().unwrap();
    comments.act(&site, Deed::Ban, vec![last]).await.unwrap();
    let sql = "SELECT COUNT(*) AS bans FROM comment_bans";
    let bans = db.read(async move |read| read.query_one(sql, &[]).await?.get::<i64>("bans"));
    assert_eq!(bans.await.map_err(|error: relational::Error| error).unwrap(), 0);
}

#[tokio::test]
async fn a_removed_site_leaves_no_row() {
    let folder = tempfile::tempdir().unwrap();
    let (comments, site) = open(folder.path()).await;
    let page = Page::of("https://a.kr/one").unwrap();
    write(&comments, &site, &page, 5).await;
    comments.remove_site(&site).await.unwrap();
    comments.tidy().await.unwrap();
    let tables =
        ["comment_sites", "comment_pages", "comment_entries", "comment_likes", "comment_quarters"];
    for table in tables {
        let sql = format!("SELECT COUNT(*) AS rows FROM {table}");
        let left: i64 = comments
            .0
            .needs
            .db
            .read(async move |read| read.query_one(&sql, &[]).await?.get("rows"))
            .await
            .map_err(|error: relational::Error| error)
            .unwrap();
        assert_eq!(left, 0, "{table}");
    }
    assert!(comments.site(&site.key).await.is_err());
}

#[tokio::test]
async fn a_writer_is_looked_up_only_where_first_comments_wait() {
    let folder = tempfile::tempdir().unwrap();
    let (comments, site) = open(folder.path()).await;
    let page = Page::of("https://a.kr/one").unwrap();
    write(&comments, &site, &page, 1).await;
    let mut spent = Vec::new();
    for moderation in [Moderation::Open, Moderation::All, Moderation::First] {
        let site =
            Site { settings: Settings { moderation, ..site.settings.clone() }, ..site.clone() };
        let visitor = guest(7);
        let entry = spending(&mut spent, comments.write(&site, &page, &visitor, new("hi"))).await;
        let is_shown = entry.unwrap().state == State::Shown;
        assert_eq!(is_shown, moderation != Moderation::All, "{moderation:?}");
    }
    // Held, nothing is counted: neither page nor quarter.
    assert_eq!(spent, [spent[0], spent[0] - 2, spent[0] + 1]);
    let first = Settings { moderation: Moderation::First, ..site.settings.clone() };
    let first = Site { settings: first, ..site.clone() };
    let stranger = comments.write(&first, &page, &guest(8), new("hi")).await.unwrap();
    assert_eq!((stranger.state, stranger.reason.as_deref()), (State::Held, Some("first")));
}

#[tokio::test]
async fn many_comments_of_a_page_make_its_thread_another_one_once() {
    let folder = tempfile::tempdir().unwrap();
    let (comments, site) = open(folder.path()).await;
    let mut ids = Vec::new();
    for page in ["https://a.kr/one", "https://a.kr/two"] {
        let page = Page::of(page).unwrap();
        for number in 0..10 {
            let entry = comments.write(&site, &page, &guest(number), new("hi")).await.unwrap();
            ids.push(entry.id);
        }
    }
    let mut spent = Vec::new();
    for some in [&ids[..1], &ids[..2], &ids[..10], &ids[9..11]] {
        let pinned = comments.act(&site, Deed::Pin, some.to_vec());
        assert_eq!(spending(&mut spent, pinned).await.unwrap(), some.len());
    }
    let (each, page) = (spent[1] - spent[0], spent[3] - spent[1]);
    assert!(page > 0, "a page more costs more: {spent:?}");
    assert_eq!(spent[2], spent[0] + 9 * each);
    assert_eq!(each, 3, "read, changed, told: {spent:?}");
}

#[tokio::test]
async fn what_is_not_seen_is_kept_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let (comments, site) = open(folder.path()).await;
    let page = Page::of("https://a.kr/one").unwrap();
    let text = "one\0\u{7}\n**two**";
    let asked = comments.write(&site, &page, &guest(1), new(text)).await.unwrap();
    let account = "0".to_owned();
    let answer = (asked.id, text.to_owned());
    let answered = comments.answer(&site, (account, "Own\0er"), answer).await.unwrap();
    let foreign = transfer::Foreign {
        id: "1\0".into(),
        parent: None,
        url: page.url.clone(),
        title: "a\0title".into(),
        name: "Mi\0na".into(),
        text: text.into(),
        created: "2026-11-21T18:00:00Z".into(),
        state: State::Shown,
        secret: false,
        pinned: false,
        owner: false,
    };
    let blank = transfer::Foreign { id: "2".into(), text: "\0".into(), ..foreign.clone() };
    let imported = comments.import(&site, vec![foreign, blank]).await.unwrap();
    assert_eq!((imported.added, imported.skipped), (1, 1));
    assert!(comments.answer(&site, ("0".into(), "Owner"), (asked.id, "\0".into())).await.is_err());
    comments.report(&site, &guest(2), (asked.id, "ru\0de".into())).await.unwrap();
    let organisation = OrganisationId::DEFAULT;
    let all = comments.exported(organisation, site.id.clone(), request(None)).await.unwrap();
    assert_eq!(all.items.len(), 3);
    for one in &all.items {
        assert_eq!(one.text, "one\n**two**");
        assert!(["Mina", "Owner"].contains(&one.name.as_str()), "{}", one.name);
    }
    assert_eq!(answered.body, r#"[["p","one",["br"],["strong","two"]]]"#);
    let bad = comments.exported(organisation, site.id.clone(), request(Some("\0"))).await;
    assert!(matches!(bad, Err(Error::Invalid(_))));
    assert!(matches!(comments.unban(&site, "\0".into()).await, Err(Error::NotFound(_))));
    let sql = "SELECT COUNT(*) AS rows FROM comment_reports WHERE reason = 'rude'";
    let db = &comments.0.needs.db;
    let reports = db.read(async move |read| read.query_one(sql, &[]).await?.get::<i64>("rows"));
    assert_eq!(reports.await.map_err(|error: relational::Error| error).unwrap(), 1);
}

#[tokio::test]
async fn a_site_that_moves_lets_its_new_pages_in_and_the_former_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let (comments, site) = open(folder.path()).await;
    let settings = Settings { origins: vec!["https://b.kr".into()], ..site.settings.clone() };
    comments.change_site(&site, settings).await.unwrap();
    let (kept, own) = (
        comments.site(&site.key).await.unwrap(),
        Arc::new(comments.own_site(OrganisationId::DEFAULT, &site.id).await.unwrap()),
    );
    for site in [kept, own] {
        assert!(site.welcome(Some("https://b.kr"), None).is_ok());
        assert!(site.page("https://b.kr/one", None).is_ok());
        assert!(site.welcome(Some("https://a.kr"), None).is_err());
    }
}

#[tokio::test]
async fn a_site_is_read_anew_when_it_was_changed_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let (comments, site) = open(folder.path()).await;
    // What was computed is kept as a copy of its own size.
    comments.site(&site.key).await.unwrap();
    let first = comments.site(&site.key).await.unwrap();
    assert!(Arc::ptr_eq(&first, &comments.site(&site.key).await.unwrap()));
    let name = |name: &str| Settings { name: name.into(), ..site.settings.clone() };
    for new in ["Second", "Third"] {
        comments.change_site(&site, name(new)).await.unwrap();
        assert_eq!(comments.site(&site.key).await.unwrap().settings.name, new);
    }
    assert_eq!(first.settings.name, "Blog");
    for _ in 0..comments.0.config.sites_known_max {
        comments.known(&site.key, serde_json::to_vec(&*first).unwrap().into()).unwrap();
    }
    assert_eq!(comments.0.known.lock().len(), 1, "one of each key");
    let text: bytes::Bytes = serde_json::to_vec(&*first).unwrap().into();
    for number in 0..=comments.0.config.sites_known_max {
        comments.known(&number.to_string(), text.clone()).unwrap();
        assert!(comments.0.known.lock().len() <= comments.0.config.sites_known_max);
    }
}

fn guest(number: usize) -> Visitor {
    Visitor {
        from: [127, 0, 0, 1].into(),
        browser: Some(format!("a-browser-of-nobody-{number}")),
        password: Some("pass word".into()),
        reader: None,
    }
}

fn new(text: &str) -> NewComment {
    NewComment {
        title: String::new(),
        parent: None,
        name: "Mina".into(),
        text: text.into(),
        is_secret: false,
        nonce: None,
    }
}

fn request(after: Option<&str>) -> PageRequest {
    PageRequest { after: after.map(str::to_owned), limit: 100 }
}

/// What a piece of work gives; how many statements it took is noted.
async fn spending<T>(all: &mut Vec<u64>, work: impl Future<Output = T>) -> T {
    let spent = Spent::default();
    let done = spent.clone().scope(work).await;
    all.push(spent.statements());
    done
}
