use base::OrganisationId;
use relational::params;

use super::search::encoded;
use super::*;
use crate::person::beginning;

impl Stack {
    async fn found(&self, token: &str, q: &str) -> Vec<String> {
        let path = format!("/v1/article-people?q={}", encoded(q));
        let found = self.expect(200, token, Method::GET, &path, None).await;
        let items = found["items"].as_array().unwrap().iter();
        items.map(|item| item["username"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_found_by_the_beginning_of_a_name_or_of_an_id() {
    let stack = Stack::start().await;
    let mina = stack.register("Mina").await;
    let names = ["minseo", "MIRA", "joon", "마당쇠", "마당", "mi%na", "mi_"];
    for (number, name) in names.into_iter().enumerate() {
        let user = json!({"user": {
            "username": name, "email": format!("{number}@example.com"), "password": "password123",
        }});
        stack.expect(201, "", Method::POST, "/conduit/api/users", Some(user)).await;
    }
    assert_eq!(stack.found(&mina, "mI").await, ["mi%na", "mi_", "Mina", "minseo", "MIRA"]);
    assert_eq!(stack.found(&mina, "mi_").await, ["mi_"], "nothing in it stands for something else");
    assert_eq!(stack.found(&mina, "마").await, ["마당", "마당쇠"]);
    assert_eq!(stack.found(&mina, "minaa").await, Vec::<String>::new());
    let path = "/v1/article-people?q=joon";
    let joon = stack.expect(200, &mina, Method::GET, path, None).await["items"][0].clone();
    let id = joon["id"].as_str().unwrap();
    assert_eq!(stack.found(&mina, id).await, ["joon"]);
    // All came in the same second, so their ids begin alike; an id of three letters is no id.
    let path = format!("/v1/article-people?q={}", &id[..8]);
    let cost = stack.ask(&mina, Method::GET, &path, None).await;
    assert_eq!((cost.statements, cost.body["items"].as_array().unwrap().len()), (2, 8));
    assert_eq!(stack.found(&mina, &id[..3]).await, Vec::<String>::new());
    let two = "/v1/article-people?q=mi&limit=2";
    let two = stack.expect(200, &mina, Method::GET, two, None).await;
    assert_eq!(two["items"].as_array().unwrap().len(), 2);
    for q in ["", "%20", "%00", "a%00"] {
        let path = format!("/v1/article-people?q={q}");
        assert_eq!(stack.ask(&mina, Method::GET, &path, None).await.status, 422, "{q}");
    }
    assert_eq!(stack.ask("", Method::GET, "/v1/article-people?q=joon", None).await.status, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looking_for_people_reads_a_stretch_of_an_index() {
    let stack = Stack::start().await;
    let house = &stack.articles.0;
    for (column, index) in
        [("username_key", "article_person_name"), ("account", "sqlite_autoindex_article_person_1")]
    {
        let sql = format!("EXPLAIN QUERY PLAN {}", beginning(column, 20));
        let plan = house.db.read(async move |read| {
            let rows = read.query(&sql, params![OrganisationId::DEFAULT, "a", "b"]).await?;
            rows.iter().map(|row| row.get("detail")).collect::<Result<Vec<String>, _>>()
        });
        let plan: Result<_, relational::Error> = plan.await;
        let wanted = format!(
            "SEARCH article_person USING INDEX {index} (organisation=? AND {column}>? AND {column}<?)"
        );
        assert_eq!(plan.unwrap(), [wanted], "one step, and no sorting");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_null_character_is_refused_by_the_name_of_its_field() {
    let stack = Stack::start().await;
    let mina = stack.register("mina").await;
    let slug = stack.publish(&mina, "Title", "b", &[]).await;
    let of = format!("/conduit/api/articles/{slug}");
    let article = |field: &str| {
        let mut article = json!({"title": "t", "description": "d", "body": "b", "tagList": ["t"]});
        let zero = json!("a\0b");
        article[field] = if field == "tagList" { json!([zero]) } else { zero };
        Some(json!({ "article": article }))
    };
    let (articles, comment) = ("/conduit/api/articles", json!({"comment": {"body": "\0"}}));
    let mut asked = vec![(Method::POST, format!("{of}/comments"), Some(comment), "body")];
    for field in ["title", "description", "body", "tagList"] {
        asked.push((Method::POST, articles.to_owned(), article(field), field));
        asked.push((Method::PUT, of.clone(), article(field), field));
    }
    for field in ["bio", "username", "image"] {
        let mut user = json!({});
        user[field] = json!("https://\0");
        let body = Some(json!({ "user": user }));
        asked.push((Method::PUT, "/conduit/api/user".into(), body, field));
    }
    for field in ["tag", "author", "favorited"] {
        asked.push((Method::GET, format!("{articles}?{field}=a%00"), None, field));
    }
    for (method, path, body, field) in asked {
        let answer = stack.ask(&mina, method.clone(), &path, body).await;
        assert_eq!(answer.status, 422, "{method} {path} {field}: {}", answer.body);
        assert!(answer.body["errors"][field][0].is_string(), "{field}: {}", answer.body);
    }
    for path in [
        format!("{articles}/a%00"),
        format!("{articles}/a%00/comments"),
        "/conduit/api/profiles/a%00".into(),
        "/v1/articles/a%00".into(),
        "/articles/a%00".into(),
        "/v1/articles?tag=%00".into(),
        "/v1/articles?after=%00".into(),
        "/v1/articles?q=%00".into(),
    ] {
        let answer = stack.ask("", Method::GET, &path, None).await;
        assert!(answer.status.as_u16() < 500, "{path}: {} {}", answer.status, answer.body);
    }
}
