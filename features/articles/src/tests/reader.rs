use super::search::encoded;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_article_is_a_page_with_a_preview_and_without_a_script() {
    let stack = Stack::start().await;
    let mina = stack.register("mina").await;
    let image = json!({"user": {"image": "https://example.com/mina.png"}});
    stack.expect(200, &mina, Method::PUT, "/conduit/api/user", Some(image)).await;
    let article = json!({"article": {
        "title": "마당 <b> \"넓은\" 집", "description": "사계절 & 저녁",
        "body": "# 봄\n\n<script>alert(1)</script>", "tagList": ["집"],
    }});
    let path = "/conduit/api/articles";
    let made = stack.expect(201, &mina, Method::POST, path, Some(article)).await;
    let slug = encoded(made["article"]["slug"].as_str().unwrap());
    let comment = Some(json!({"comment": {"body": "<i>좋아요</i>"}}));
    let comments = format!("/conduit/api/articles/{slug}/comments");
    stack.expect(201, &mina, Method::POST, &comments, comment).await;

    let answer = stack.ask("", Method::GET, &format!("/articles/{slug}"), None).await;
    assert_eq!(answer.status, 200);
    assert!(answer.statements <= 2, "{}", answer.statements);
    let policy = answer.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("script"), "{policy}");
    let page = answer.body.as_str().unwrap();
    for part in [
        "<title>마당 &lt;b&gt; &quot;넓은&quot; 집</title>",
        "<meta property=\"og:title\" content=\"마당 &lt;b&gt; &quot;넓은&quot; 집\">",
        "<meta property=\"og:description\" content=\"사계절 &amp; 저녁\">",
        "<meta property=\"og:type\" content=\"article\">",
        "<meta property=\"og:image\" content=\"https://example.com/mina.png\">",
        "<meta property=\"article:published_time\" content=\"2026-11-21T",
        "<meta property=\"article:tag\" content=\"집\">",
        "<link rel=\"canonical\" href=\"http://localhost:8080/articles/%",
        "<h1>봄</h1>",
        "&lt;script&gt;",
        "&lt;i&gt;좋아요&lt;/i&gt;",
    ] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(!page.contains("<script") && !page.contains("<i>"), "{page}");

    let list = stack.ask("", Method::GET, "/articles?tag=%EC%A7%91", None).await;
    let page = list.body.as_str().unwrap();
    assert!(page.contains("마당 &lt;b&gt;") && page.contains("canonical"), "{page}");
    let found = stack.ask("", Method::GET, "/articles?q=%EB%A7%88%EB%8B%B9", None).await;
    let page = found.body.as_str().unwrap();
    assert!(page.contains("마당 &lt;b&gt;") && page.contains("noindex"), "{page}");
    let none = stack.ask("", Method::GET, "/articles/no-such-article", None).await;
    assert_eq!(none.status, 404);
    assert!(none.body.as_str().unwrap().contains("<h1>"), "{}", none.body);
    let korean = [(header::ACCEPT_LANGUAGE, "ko")];
    let list = stack.ask_with("", Method::GET, "/articles", None, &korean).await;
    assert!(list.body.as_str().unwrap().contains("<html lang=\"ko\">"));
}
