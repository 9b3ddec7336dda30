//! What a reading costs: one statement, whatever the thread holds.

use std::sync::Arc;

use base::access::{Action, Authority, Door, Principal, Refused, Resource};
use base::{Base, OrganisationId, Spent};
use edge::BoxFuture;
use relational::Db;
use results::Results;
use tokio::sync::watch;

use crate::page::Page;
use crate::site::{Moderation, Rules, Settings, Site};
use crate::store::{self, Of};
use crate::write::{NewComment, Visitor};
use crate::{Comments, Config, NeedError, Needs, Passwords};

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
    let base = Base::system();
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
        let visitor = Visitor {
            from: [127, 0, 0, 1].into(),
            browser: Some(format!("a-browser-of-nobody-{number}")),
            password: Some("pass word".into()),
            reader: None,
        };
        let new = NewComment {
            title: String::new(),
            parent,
            name: "Mina".into(),
            text: "hello **you**".into(),
            is_secret: false,
            nonce: None,
        };
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
        assert!(thread.entries.len() >= count && thread.entries.iter().all(|one| one.likes == 1));
        assert_eq!(spent.statements(), 1);
    }
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
