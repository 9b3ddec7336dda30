use std::fmt::Write as _;

use super::*;

const ARTICLES: &str = include_str!("search/articles.tsv");
const QUESTIONS: &str = include_str!("search/questions.tsv");

/// 60 articles and more than 200 questions in Korean, with what a reader finds who looks into every text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_question_finds_what_a_reader_of_all_texts_finds() {
    let stack = Stack::start().await;
    let token = stack.register("mina").await;
    let mut slugs = Vec::new();
    for line in ARTICLES.lines() {
        let [title, tags, description, body] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("four columns: {line}");
        };
        let tags: Vec<&str> = tags.split(',').collect();
        let article = json!({"article": {
            "title": title, "description": description, "body": body, "tagList": tags,
        }});
        let path = "/conduit/api/articles";
        let made = stack.expect(201, &token, Method::POST, path, Some(article)).await;
        slugs.push(made["article"]["slug"].as_str().unwrap().to_owned());
    }
    let questions: Vec<(&str, &str)> =
        QUESTIONS.lines().map(|line| line.split_once('\t').unwrap()).collect();
    assert!(questions.len() >= 200, "{}", questions.len());
    for (question, wanted) in questions {
        let wanted: Vec<usize> = wanted.split(',').filter_map(|it| it.parse().ok()).collect();
        let path = format!("/v1/articles?limit=100&q={}", encoded(question));
        let answer = stack.ask("", Method::GET, &path, None).await;
        assert!(answer.statements <= 2, "{question}: {} statements", answer.statements);
        let found = answer.body["items"].as_array().unwrap();
        let place = |it: &Value| slugs.iter().position(|slug| it["slug"] == **slug).unwrap() + 1;
        let mut found: Vec<usize> = found.iter().map(place).collect();
        found.sort_unstable();
        assert_eq!(found, wanted, "{question}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_title_counts_most_then_the_newer_one_and_pages_follow_each_other() {
    let stack = Stack::start().await;
    let token = stack.register("mina").await;
    let in_body = stack.publish(&token, "하나", "바다 이야기", &[]).await;
    let in_title = stack.publish(&token, "바다 보러 가자", "둘", &[]).await;
    let in_tag = stack.publish(&token, "셋", "셋", &["바다"]).await;
    let newer = stack.publish(&token, "넷", "바다", &[]).await;
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/articles?limit=1&q={}{after}", encoded("바다"));
        let page = stack.get(&path).await;
        found.push(page["items"][0]["slug"].as_str().unwrap().to_owned());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(found, [in_title, in_tag, newer.clone(), in_body]);
    // What is written anew is found by its new words alone, and what is hidden or deleted not at all.
    let path = format!("/conduit/api/articles/{}", encoded(&newer));
    let change = json!({"article": {"body": "산"}});
    stack.expect(200, &token, Method::PUT, &path, Some(change)).await;
    let count = async |text: &str| {
        let page = stack.get(&format!("/v1/articles?q={}", encoded(text))).await;
        page["items"].as_array().unwrap().len()
    };
    assert_eq!((count("바다").await, count("산").await), (3, 1));
    stack.expect(204, &token, Method::DELETE, &path, None).await;
    assert_eq!(count("산").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_that_stand_apart_are_no_word() {
    let stack = Stack::start().await;
    let token = stack.register("mina").await;
    // Every pair of 가나다 and every three of ㅁㄷㄱㅈ is there, and none of the two.
    stack.publish(&token, "가나 나다 모두가 다가자", "b", &[]).await;
    let whole = stack.publish(&token, "가나다 마당가지", "b", &[]).await;
    for question in ["가나다", "ㅁㄷㄱㅈ"] {
        let found = stack.get(&format!("/v1/articles?q={}", encoded(question))).await;
        let slugs: Vec<&Value> =
            found["items"].as_array().unwrap().iter().map(|article| &article["slug"]).collect();
        assert_eq!(slugs, [&json!(whole)], "{question}");
    }
}

pub(super) fn encoded(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        write!(escaped, "%{byte:02X}").unwrap();
    }
    escaped
}
