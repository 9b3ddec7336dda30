use super::search::encoded;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draft_is_its_authors_until_it_is_published() {
    let stack = Stack::start().await;
    let (mina, joon) = (stack.register("mina").await, stack.register("joon").await);
    stack.publish(&mina, "Before", "b", &[]).await;
    let draft = json!({
        "title": "마당", "description": "d", "body": "b", "tags": ["t"], "draft": true,
    });
    let made = stack.expect(201, &mina, Method::POST, "/v1/articles", Some(draft)).await;
    assert_eq!(made["state"], "draft");
    let slug = encoded(made["slug"].as_str().unwrap());
    stack.publish(&mina, "Between", "b", &[]).await;
    let (path, conduit) = (format!("/v1/articles/{slug}"), format!("/conduit/api/articles/{slug}"));
    for token in ["", &joon] {
        stack.expect(404, token, Method::GET, &path, None).await;
        stack.expect(404, token, Method::GET, &conduit, None).await;
    }
    let publish = format!("{path}/publish");
    for (method, path) in [
        (Method::DELETE, &path),
        (Method::POST, &publish),
        (Method::POST, &format!("{conduit}/favorite")),
    ] {
        stack.expect(404, &joon, method, path, None).await;
    }
    stack.expect(200, &mina, Method::GET, &path, None).await;
    // Favourites are in order of publication: what is not published has no place among them.
    let favourite = format!("{conduit}/favorite");
    stack.expect(404, &mina, Method::POST, &favourite, None).await;
    let drafts = stack.expect(200, &mina, Method::GET, "/v1/articles/drafts", None).await;
    assert_eq!(drafts["items"][0]["slug"], made["slug"]);
    let none = stack.expect(200, &joon, Method::GET, "/v1/articles/drafts", None).await;
    assert_eq!(none["items"], json!([]));
    let is_shown = async || {
        let list = stack.get("/conduit/api/articles").await;
        let tags = stack.get("/conduit/api/tags").await;
        let found = stack.get(&format!("/v1/articles?q={}", encoded("마당"))).await;
        (list["articlesCount"].clone(), tags["tags"].clone(), found["items"][0]["slug"].clone())
    };
    assert_eq!(is_shown().await, (json!(2), json!([]), Value::Null));
    for _ in 0..2 {
        let published = stack.expect(200, &mina, Method::POST, &publish, None).await;
        assert_eq!(published["state"], "published");
    }
    assert_eq!(is_shown().await, (json!(3), json!(["t"]), made["slug"].clone()));
    let list = stack.get("/conduit/api/articles").await;
    assert_eq!(list["articles"][0]["slug"], made["slug"], "it is the newest now");
    stack.expect(200, &mina, Method::POST, &favourite, None).await;
    for slug in ["before", "between"] {
        let path = format!("/conduit/api/articles/{slug}/favorite");
        stack.expect(200, &mina, Method::POST, &path, None).await;
    }
    let favoured = stack.get("/conduit/api/articles?favorited=mina").await;
    assert_eq!(favoured["articles"][0]["slug"], made["slug"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_skip_and_double_nothing_when_articles_come_in_between() {
    let stack = Stack::start().await;
    let token = stack.register("mina").await;
    let mut all = Vec::new();
    for number in 0..10 {
        all.push(stack.publish(&token, &format!("Title {number}"), "b", &["t"]).await);
    }
    all.reverse();
    for filter in ["", "&tag=t", "&author=mina"] {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = stack.get(&format!("/v1/articles?limit=3{filter}{after}")).await;
            for item in page["items"].as_array().unwrap() {
                seen.push(item["slug"].as_str().unwrap().to_owned());
            }
            let new = stack.publish(&token, "New", "b", &["t"]).await;
            all.insert(0, new);
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        let from = all.iter().position(|slug| *slug == seen[0]).unwrap();
        assert_eq!(seen, all[from..], "{filter}");
    }
    for wrong in ["after=x", "after=1.x", "q=a&after=x", "q=a&tag=t", "limit=0"] {
        let answer = stack.ask("", Method::GET, &format!("/v1/articles?{wrong}"), None).await;
        assert!(matches!(answer.status.as_u16(), 400 | 422), "{wrong}: {}", answer.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_the_newest_form_is_sent_nothing() {
    let stack = Stack::start().await;
    let (mina, joon) = (stack.register("mina").await, stack.register("joon").await);
    let slug = stack.publish(&mina, "Title", "b", &[]).await;
    let path = format!("/conduit/api/articles/{slug}");
    let own = format!("/v1/articles/{slug}");
    let tag = async |token: &str, path: &str| {
        let answer = stack.ask(token, Method::GET, path, None).await;
        assert_eq!(answer.status, 200);
        assert!(answer.headers[header::CACHE_CONTROL].to_str().unwrap().contains("no-cache"));
        answer.headers[header::ETAG].to_str().unwrap().to_owned()
    };
    let known = async |token: &str, path: &str, tag: &str| {
        let given = [(header::IF_NONE_MATCH, tag)];
        let answer = stack.ask_with(token, Method::GET, path, None, &given).await;
        answer.status.as_u16()
    };
    for (token, path) in
        [("", &*path), (&*joon, &*path), ("", &*own), ("", "/conduit/api/articles")]
    {
        let before = tag(token, path).await;
        assert_eq!(known(token, path, &before).await, 304, "{path}");
        assert_eq!(known(token, path, &format!("\"x\", W/{before}")).await, 304);
        assert_eq!(known(token, path, "\"x\"").await, 200);
    }
    // Each of these changes what everybody sees.
    let deeds = [
        (&mina, Method::PUT, path.clone(), Some(json!({"article": {"body": "anew"}}))),
        (&joon, Method::POST, format!("{path}/favorite"), None),
        (&joon, Method::DELETE, format!("{path}/favorite"), None),
        (&mina, Method::PUT, "/conduit/api/user".into(), Some(json!({"user": {"bio": "x"}}))),
    ];
    for (token, method, to, body) in deeds {
        let before = tag("", &path).await;
        let shown = stack.get(&path).await;
        stack.expect(200, token, method, &to, body).await;
        assert_ne!(stack.get(&path).await, shown, "{to}");
        assert_eq!(known("", &path, &before).await, 200, "{to}");
    }
    stack.expect(204, &mina, Method::DELETE, &path, None).await;
    stack.expect(404, "", Method::GET, &path, None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_article_asks_no_statement_of_the_rows() {
    let stack = Stack::start().await;
    let token = stack.register("mina").await;
    let slug = stack.publish(&token, "Title", "b", &[]).await;
    let path = format!("/conduit/api/articles/{slug}");
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.push(stack.ask("", Method::GET, &path, None).await.statements);
    }
    assert!(asked[0] <= 2 && asked[2] == 0, "{asked:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_reported_is_hidden_and_shown_and_whoever_is_silenced_writes_no_more() {
    let stack = Stack::start().await;
    let (mina, joon) = (stack.register("mina").await, stack.register("joon").await);
    let admin = stack.admin().await;
    // Another one is on each page, so that counts are seen that move too far or not at all.
    let other = stack.publish(&mina, "Other", "b", &["t"]).await;
    let favourite = format!("/conduit/api/articles/{other}/favorite");
    stack.expect(200, &joon, Method::POST, &favourite, None).await;
    let slug = stack.publish(&mina, "Title", "b", &["t"]).await;
    let (path, conduit) = (format!("/v1/articles/{slug}"), format!("/conduit/api/articles/{slug}"));
    stack.expect(200, &joon, Method::POST, &format!("{conduit}/favorite"), None).await;
    let comment = Some(json!({"comment": {"body": "rude"}}));
    let comments = format!("{conduit}/comments");
    let said = stack.expect(201, &joon, Method::POST, &comments, comment.clone()).await;
    for (token, reason) in [(&joon, "spam"), (&mina, "mine"), (&joon, "worse")] {
        let report = Some(json!({"reason": reason}));
        stack.expect(204, token, Method::POST, &format!("{path}/report"), report).await;
    }
    let reports = async || {
        let (mut all, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/articles/reports?limit=1{after}");
            let page = stack.expect(200, &admin, Method::GET, &path, None).await;
            for item in page["items"].as_array().unwrap() {
                let of = |field: &str| item[field].as_str().unwrap().to_owned();
                all.push((of("reporter"), of("reason")));
            }
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return all,
            }
        }
    };
    let wanted =
        [("joon", "worse"), ("mina", "mine")].map(|(who, why)| (who.to_owned(), why.to_owned()));
    assert_eq!(reports().await, wanted);

    for _ in 0..2 {
        stack.expect(204, &admin, Method::POST, &format!("{path}/hide"), None).await;
    }
    assert_eq!(reports().await, []);
    for token in ["", &joon] {
        stack.expect(404, token, Method::GET, &conduit, None).await;
        stack.expect(404, token, Method::GET, &comments, None).await;
    }
    let own = stack.expect(200, &mina, Method::GET, &path, None).await;
    assert_eq!(own["state"], "hidden");
    stack.expect(403, &mina, Method::POST, &format!("{path}/publish"), None).await;
    for list in ["?tag=t", "?author=mina", "?favorited=joon", ""] {
        let list = stack.get(&format!("/conduit/api/articles{list}")).await;
        let slugs: Vec<&Value> =
            list["articles"].as_array().unwrap().iter().map(|article| &article["slug"]).collect();
        assert_eq!((&list["articlesCount"], slugs), (&json!(1), vec![&json!(other)]));
    }
    stack.expect(204, &admin, Method::POST, &format!("{path}/show"), None).await;
    assert_eq!(reports().await, []);
    for list in ["?favorited=joon&tag=t", "?tag=t", "?author=mina", ""] {
        let list = stack.get(&format!("/conduit/api/articles{list}")).await;
        assert_eq!(list["articlesCount"], 2);
    }

    let silence = "/v1/article-people/joon/silence";
    stack.expect(204, &admin, Method::POST, silence, None).await;
    stack.expect(403, &joon, Method::POST, &comments, comment.clone()).await;
    let id = &said["comment"]["id"];
    stack.expect(204, &admin, Method::DELETE, &format!("{path}/comments/{id}"), None).await;
    assert_eq!(stack.get(&comments).await["comments"], json!([]));
    stack.expect(204, &admin, Method::DELETE, silence, None).await;
    stack.expect(201, &joon, Method::POST, &comments, comment).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_not_moderate_does_not() {
    let stack = Stack::start().await;
    let token = stack.register("mina").await;
    let slug = stack.publish(&token, "Title", "b", &[]).await;
    let report = json!({"reason": "spam"});
    let path = format!("/v1/articles/{slug}");
    for _ in 0..2 {
        let report = Some(report.clone());
        stack.expect(204, &token, Method::POST, &format!("{path}/report"), report).await;
    }
    for (method, path) in [
        (Method::GET, "/v1/articles/reports".to_owned()),
        (Method::POST, format!("{path}/hide")),
        (Method::POST, format!("{path}/show")),
        (Method::DELETE, format!("{path}/comments/1")),
        (Method::POST, "/v1/article-people/mina/silence".to_owned()),
        (Method::DELETE, "/v1/article-people/mina/silence".to_owned()),
    ] {
        stack.expect(403, &token, method.clone(), &path, None).await;
        stack.expect(401, "", method, &path, None).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_answers_what_a_read_shows_and_reads_none_of_it_back() {
    let stack = Stack::start().await;
    let (mina, joon) = (stack.register("mina").await, stack.register("joon").await);
    // The author's own view, with a follower of themselves.
    stack.expect(200, &mina, Method::POST, "/conduit/api/profiles/mina/follow", None).await;
    let article =
        json!({"title": "마당 넓은 집", "description": "d", "body": "b", "tags": ["t", "u"]});
    let draft =
        json!({"title": "Draft", "description": "d", "body": "b", "tags": [], "draft": true});
    let written = stack.ask(&mina, Method::POST, "/v1/articles", Some(article)).await;
    let path = format!("/v1/articles/{}", encoded(written.body["slug"].as_str().unwrap()));
    assert_eq!(written.body, stack.expect(200, &mina, Method::GET, &path, None).await);
    let mut statements = vec![written.statements];
    stack.expect(200, &mina, Method::POST, &favourite_of(&written.body), None).await;
    for change in [json!({"body": "anew"}), json!({"title": "Other", "tags": ["u", "v"]})] {
        let path = format!("/v1/articles/{}", encoded(slug_of(&stack, &mina).await.as_str()));
        let changed = stack.ask(&mina, Method::PATCH, &path, Some(change)).await;
        let path = format!("/v1/articles/{}", encoded(changed.body["slug"].as_str().unwrap()));
        assert_eq!(changed.body, stack.expect(200, &mina, Method::GET, &path, None).await);
        statements.push(changed.statements);
    }
    let drafted = stack.ask(&mina, Method::POST, "/v1/articles", Some(draft)).await;
    let path = format!("/v1/articles/{}", drafted.body["slug"].as_str().unwrap());
    let publish = stack.ask(&mina, Method::POST, &format!("{path}/publish"), None).await;
    assert_eq!(publish.body, stack.expect(200, &mina, Method::GET, &path, None).await);
    statements.extend([drafted.statements, publish.statements]);
    // What they see of each other is a follow's.
    stack.expect(200, &joon, Method::POST, "/conduit/api/profiles/joon/follow", None).await;
    let comment = json!({"comment": {"body": "well"}});
    let comments = "/conduit/api/articles/draft/comments";
    let said = stack.ask(&joon, Method::POST, comments, Some(comment)).await;
    let shown = stack.expect(200, &joon, Method::GET, comments, None).await;
    assert_eq!(said.body["comment"], shown["comments"][0]);
    statements.push(said.statements);
    // Written, changed twice, drafted, published, said: a statement that reads back is one more.
    assert_eq!(statements, [17, 26, 28, 4, 12, 5]);
}

fn favourite_of(article: &Value) -> String {
    format!("/conduit/api/articles/{}/favorite", encoded(article["slug"].as_str().unwrap()))
}

/// Of the newest article.
async fn slug_of(stack: &Stack, token: &str) -> String {
    let list = stack.expect(200, token, Method::GET, "/v1/articles", None).await;
    list["items"][0]["slug"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_others_see_of_somebody_makes_kept_articles_old() {
    let stack = Stack::start().await;
    let token = stack.register("mina").await;
    let slug = stack.publish(&token, "Title", "b", &[]).await;
    let path = format!("/conduit/api/articles/{slug}");
    for (change, is_seen) in [
        (json!({"bio": "a bio"}), true),
        (json!({"email": "other@example.com", "bio": "a bio", "username": "mina"}), false),
        (json!({"image": "https://a.kr/1.png"}), true),
        (json!({"image": "https://a.kr/1.png", "password": "another password"}), false),
        (json!({"username": "Mina"}), true),
    ] {
        stack.get(&path).await;
        stack.get(&path).await;
        let user = Some(json!({"user": change}));
        stack.expect(200, &token, Method::PUT, "/conduit/api/user", user).await;
        let shown = stack.ask("", Method::GET, &path, None).await;
        assert_eq!(shown.statements > 0, is_seen, "{change}");
        let own = stack.expect(200, &token, Method::GET, "/conduit/api/user", None).await;
        for field in ["username", "bio", "image"] {
            assert_eq!(shown.body["article"]["author"][field], own["user"][field], "{change}");
        }
    }
}
