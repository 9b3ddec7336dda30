use super::*;

/// Every read of the Conduit API, with more and more on the page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_asks_at_most_two_statements_whatever_the_page_holds() {
    let stack = Stack::start().await;
    let (mina, joon) = (stack.register("mina").await, stack.register("joon").await);
    stack.expect(200, &joon, Method::POST, "/conduit/api/profiles/mina/follow", None).await;
    let mut slug = String::new();
    let mut costs: Vec<Vec<u64>> = Vec::new();
    for round in 0..3 {
        for number in 0..=round * 8 {
            slug = stack.publish(&mina, &format!("Title {number}"), "text", &["a", "b"]).await;
            let path = format!("/conduit/api/articles/{slug}");
            stack.expect(200, &joon, Method::POST, &format!("{path}/favorite"), None).await;
            let comment = json!({"comment": {"body": "well"}});
            let path = format!("{path}/comments");
            stack.expect(201, &joon, Method::POST, &path, Some(comment)).await;
        }
        let mut cost = Vec::new();
        for token in ["", &joon] {
            for path in [
                "/articles",
                "/articles?tag=a",
                "/articles?author=mina",
                "/articles?favorited=joon",
                "/articles?favorited=joon&tag=b&author=mina",
                "/articles?author=mina&offset=1000",
                "/articles/feed",
                "/tags",
                "/profiles/mina",
                "/user",
                &format!("/articles/{slug}"),
                &format!("/articles/{slug}/comments"),
            ] {
                let path = format!("/conduit/api{path}");
                let answer = stack.ask(token, Method::GET, &path, None).await;
                let is_own = path.ends_with("/feed") || path.ends_with("/user");
                let wanted = if is_own && token.is_empty() { 401 } else { 200 };
                assert_eq!(answer.status, wanted, "{path}: {}", answer.body);
                assert!(answer.statements <= 2, "{path}: {} statements", answer.statements);
                cost.push(answer.statements);
            }
        }
        costs.push(cost);
    }
    assert_eq!(costs[0], costs[1]);
    assert_eq!(costs[1], costs[2]);
    assert!(costs[0].iter().sum::<u64>() > 15, "they were counted: {costs:?}");
}
