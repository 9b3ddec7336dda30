use base::AccountId;
use relational::params;

use super::search::encoded;
use super::*;
use crate::card::make_missing;
use crate::conduit::Listing;
use crate::list::{Filter, Part};

impl Stack {
    /// Every kind of list, as its cards say it and as its articles do.
    async fn lists_agree(&self, viewers: &[AccountId], after: &str) {
        let house = &self.articles.0;
        let text = |text: &str| Some(text.to_owned());
        let filters = [
            Filter::default(),
            Filter { tag: text("집"), ..Filter::default() },
            Filter { author: text("mina"), ..Filter::default() },
            Filter { favourite_of: text("joon"), ..Filter::default() },
            Filter { tag: text("집"), author: text("mina"), ..Filter::default() },
            Filter { followed_by: viewers.last().copied(), ..Filter::default() },
        ];
        for viewer in [None].into_iter().chain(viewers.iter().copied().map(Some)) {
            for filter in &filters {
                for (part, limit) in [(0, 2), (1, 20), (50, 20)] {
                    let part = Part::Offset(part);
                    let cards = house.cards(viewer, filter.clone(), part.clone(), limit);
                    let cards = cards.await.unwrap();
                    let cards = std::str::from_utf8(&cards.bytes()[crate::tag::BYTES..]).unwrap();
                    let listed = house.list(viewer, filter.clone(), part, limit).await.unwrap();
                    let wanted = serde_json::to_string(&Listing::of(listed).unwrap()).unwrap();
                    assert_eq!(cards, wanted, "{filter:?} after {after}");
                }
            }
        }
    }

    async fn account(&self, username: &str) -> AccountId {
        let house = &self.articles.0;
        let (organisation, key) = (house.organisation, username.to_owned());
        let sql = "SELECT account FROM article_person WHERE organisation = ? AND username_key = ?";
        let found = house.db.read(async move |read| {
            let row = read.query_one(sql, params![organisation, key]).await?;
            row.get("account")
        });
        let found: Result<AccountId, relational::Error> = found.await;
        found.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cards_say_what_articles_say_after_every_deed() {
    let stack = Stack::start().await;
    let (mina, joon) = (stack.register("mina").await, stack.register("joon").await);
    let viewers = [stack.account("mina").await, stack.account("joon").await];
    let mut slugs = Vec::new();
    for title in ["마당 \"넓은\" 집", "Tab\tand \\ slash", "Third", "Fourth"] {
        slugs.push(encoded(&stack.publish(&mina, title, &"글 ".repeat(3_000), &["집", "b"]).await));
    }
    let draft =
        json!({"title": "D", "description": "d", "body": "b", "draft": true, "tags": ["집"]});
    let draft = stack.expect(201, &mina, Method::POST, "/v1/articles", Some(draft)).await;
    stack.lists_agree(&viewers, "writing").await;
    let admin = stack.admin().await;
    let of = |slug: &str, rest: &str| format!("/conduit/api/articles/{slug}{rest}");
    let own = |slug: &str, rest: &str| format!("/v1/articles/{slug}{rest}");
    let change = |article: Value| Some(json!({ "article": article }));
    let user = json!({"user": {"bio": "a \"bio\"", "image": "https://example.com/m.png"}});
    let draft = draft["slug"].as_str().unwrap();
    let deeds = [
        ("favouring", &joon, Method::POST, of(&slugs[0], "/favorite"), None),
        ("favouring again", &joon, Method::POST, of(&slugs[0], "/favorite"), None),
        ("favouring one's own", &mina, Method::POST, of(&slugs[0], "/favorite"), None),
        ("favouring another", &joon, Method::POST, of(&slugs[2], "/favorite"), None),
        ("following", &joon, Method::POST, "/conduit/api/profiles/mina/follow".into(), None),
        ("a new text", &mina, Method::PUT, of(&slugs[0], ""), change(json!({"description": "n"}))),
        ("other tags", &mina, Method::PUT, of(&slugs[1], ""), change(json!({"tagList": ["c"]}))),
        ("a new picture", &mina, Method::PUT, "/conduit/api/user".into(), Some(user)),
        ("publishing", &mina, Method::POST, own(draft, "/publish"), None),
        ("hiding", &admin, Method::POST, own(&slugs[2], "/hide"), None),
        ("favouring no more", &joon, Method::DELETE, of(&slugs[0], "/favorite"), None),
        ("showing", &admin, Method::POST, own(&slugs[2], "/show"), None),
        ("deleting", &mina, Method::DELETE, of(&slugs[3], ""), None),
        ("a new title", &mina, Method::PUT, of(&slugs[1], ""), change(json!({"title": "New"}))),
    ];
    for (deed, token, method, path, body) in deeds {
        let answer = stack.ask(token, method, &path, body).await;
        assert!(answer.status.is_success(), "{deed}: {} {}", answer.status, answer.body);
        stack.lists_agree(&viewers, deed).await;
    }
    let list = stack.get("/conduit/api/articles").await;
    let counts: Vec<&Value> =
        list["articles"].as_array().unwrap().iter().map(|it| &it["favoritesCount"]).collect();
    assert_eq!(counts, [&json!(0), &json!(1), &json!(0), &json!(1)], "{list}");
    assert_eq!(list["articlesCount"], 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn articles_that_were_there_before_cards_get_theirs() {
    let stack = Stack::start().await;
    let mina = stack.register("mina").await;
    let fan = stack.register("fan").await;
    for number in 0..450 {
        let slug = stack.publish(&mina, &format!("Title {number}"), "b", &["t"]).await;
        if number % 100 == 0 {
            let path = format!("/conduit/api/articles/{slug}/favorite");
            stack.expect(200, &fan, Method::POST, &path, None).await;
        }
    }
    let draft = json!({"title": "D", "description": "d", "body": "b", "draft": true});
    stack.expect(201, &mina, Method::POST, "/v1/articles", Some(draft)).await;
    let before = stack.get("/conduit/api/articles?limit=100").await;
    let house = &stack.articles.0;
    let dropped = house.db.write(async move |tx| {
        tx.execute("DELETE FROM article_card", &[]).await?;
        tx.execute("DELETE FROM article_tally WHERE kind = 'cards'", &[]).await?;
        Ok::<_, relational::Error>(())
    });
    dropped.await.unwrap();
    assert_eq!(stack.get("/conduit/api/articles").await["articles"], json!([]));
    for _ in 0..2 {
        make_missing(&house.db, house.organisation).await.unwrap();
        assert_eq!(stack.get("/conduit/api/articles?limit=100").await, before);
    }
    let sql = "SELECT COUNT(*) AS cards FROM article_card";
    let cards = house.db.read(async move |read| read.query_one(sql, &[]).await?.get("cards"));
    let cards: Result<i64, relational::Error> = cards.await;
    assert_eq!(cards.unwrap(), 450, "a draft has none");
}
