//! Comments, as pages of another origin and their owners use them: by HTTP, and by the widget in Chromium.

use serde_json::{Value, json};
use testkit::{Browser, Embedded, Http, Reply, Stack};

use crate::launch;

const BLOG: &str = "https://blog.example.com";
const PASSWORD: &str = "pass word";

fn site(stack: &Stack, more: &Value) -> Value {
    let mut new = json!({"name": "Blog", "origins": [BLOG], "zone": "Asia/Seoul"});
    for (name, value) in more.as_object().unwrap() {
        new[name] = value.clone();
    }
    stack.api().post("/v1/comment-sites", &new).unwrap().ok().unwrap()
}

/// Somebody's browser on a page of the site.
struct Reader {
    http: Http,
    key: String,
    browser: String,
}

impl Reader {
    fn new(stack: &Stack, site: &Value, name: &str) -> Self {
        let browser = format!("a-browser-of-{name}-0000000000");
        let key = site["key"].as_str().unwrap().to_owned();
        Self { http: stack.stranger().header("origin", BLOG), key, browser }
    }

    fn path(&self, rest: &str) -> String {
        format!("/comments/{}/{rest}", self.key)
    }

    fn post(&self, rest: &str, body: &Value) -> Reply {
        let mut body = body.clone();
        if body.get("browser").is_none() {
            body["browser"] = json!(self.browser);
        }
        self.http.post(&self.path(rest), &body).unwrap()
    }

    fn write(&self, page: &str, more: &Value) -> Reply {
        let mut body = json!({"url": format!("{BLOG}{page}"), "name": "Mina", "password": PASSWORD, "text": "hello"});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        self.post("comments", &body)
    }

    fn thread(&self, page: &str) -> Reply {
        let path = self.path(&format!("thread?url={BLOG}{page}"));
        self.http.get(&path).unwrap()
    }

    fn comments(&self, page: &str) -> Vec<Value> {
        self.thread(page).ok().unwrap()["comments"].as_array().unwrap().clone()
    }
}

fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    reply.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

fn id(reply: &Reply) -> String {
    reply.ok().unwrap()["id"].as_str().unwrap().to_owned()
}

#[test]
fn guests_write_answer_like_change_and_delete() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let site = site(&stack, &json!({}));
    let mina = Reader::new(&stack, &site, "mina");
    let jun = Reader::new(&stack, &site, "jun");
    assert_eq!(mina.comments("/one"), Vec::<Value>::new());
    let first = mina.write("/one?utm_source=x", &json!({"text": "**hi** <b>", "title": "One"}));
    assert_eq!(first.status, 201);
    let first = id(&first);
    let answer = id(&jun.write("/one/", &json!({"name": "Jun", "parent": first, "text": "yes"})));
    let deep = id(&mina.write("/one", &json!({"parent": answer})));
    let all = jun.comments("/one#top");
    assert_eq!(all.len(), 3);
    assert_eq!(all[0]["body"], json!([["p", ["strong", "hi"], " <b>"]]));
    assert_eq!((&all[1]["parent"], &all[2]["parent"]), (&json!(first), &json!(answer)));
    assert!(!String::from_utf8_lossy(&jun.thread("/one").body).contains("password"));

    // Likes count once for each browser, however often they are sent.
    let like = |reader: &Reader, liked| {
        reader.post(&format!("comments/{first}/like"), &json!({"liked": liked})).ok().unwrap()["likes"].clone()
    };
    assert_eq!(like(&jun, true), 1);
    assert_eq!(like(&jun, true), 1);
    assert_eq!(like(&mina, true), 2);
    assert_eq!(like(&jun, false), 1);
    assert_eq!(jun.comments("/one")[0]["likes"], 1);

    // The browser that wrote it changes it, or who knows the password; nobody else.
    let change = |reader: &Reader, body: Value| {
        let mut body = body;
        body["browser"] = json!(reader.browser);
        reader.http.patch(&reader.path(&format!("comments/{first}")), &body).unwrap()
    };
    assert_eq!(change(&jun, json!({"text": "stolen"})).status, 403);
    assert_eq!(change(&jun, json!({"text": "stolen", "password": "wrong"})).status, 403);
    assert_eq!(change(&mina, json!({"text": "by browser"})).ok().unwrap()["edited"], true);
    assert_eq!(change(&jun, json!({"text": "by password", "password": PASSWORD})).status, 200);
    assert_eq!(jun.comments("/one")[0]["body"], json!([["p", "by password"]]));
    let delete = |reader: &Reader, id: &str| {
        reader.post(&format!("comments/{id}/delete"), &json!({})).status
    };
    assert_eq!(delete(&jun, &first), 403);
    assert_eq!(delete(&mina, &first), 204);
    assert_eq!(delete(&mina, &first), 404);
    // What others answered stays, under one that says nothing any more.
    let all = jun.comments("/one");
    assert_eq!(all.len(), 3);
    assert_eq!(all[0]["deleted"], true);
    assert_eq!((&all[0]["name"], all[0].get("body")), (&json!(""), None));
    assert_eq!(mina.thread("/one").ok().unwrap()["count"], 2);
    assert_eq!((delete(&mina, &deep), delete(&jun, &answer)), (204, 204));
    assert_eq!(jun.comments("/one"), Vec::<Value>::new());
}

#[test]
fn a_secret_is_for_its_writer_and_the_owners() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let site = site(&stack, &json!({}));
    let mina = Reader::new(&stack, &site, "mina");
    let jun = Reader::new(&stack, &site, "jun");
    let secret = id(&mina.write("/one", &json!({"text": "only you", "secret": true})));
    let thread = jun.thread("/one");
    assert!(!String::from_utf8_lossy(&thread.body).contains("only you"));
    assert_eq!(jun.comments("/one")[0]["secret"], true);
    let reveal =
        |reader: &Reader, body: &Value| reader.post(&format!("comments/{secret}/reveal"), body);
    assert_eq!(reveal(&jun, &json!({})).status, 403);
    assert_eq!(reveal(&jun, &json!({"password": "wrong"})).status, 403);
    assert_eq!(reveal(&mina, &json!({})).ok().unwrap()["source"], "only you");
    assert_eq!(reveal(&jun, &json!({"password": PASSWORD})).ok().unwrap()["source"], "only you");
    let own = format!("/v1/comment-sites/{}/comments", site["id"].as_str().unwrap());
    assert_eq!(stack.api().all(&own).unwrap()[0]["text"], "only you");
    assert_eq!(stack.stranger().get(&own).unwrap().status, 401);
}

#[test]
fn only_pages_of_the_site_are_let_in_and_errors_can_be_read_there() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let site = site(&stack, &json!({}));
    let mina = Reader::new(&stack, &site, "mina");
    let preflight = mina.http.send("OPTIONS", &mina.path("comments"), None).unwrap();
    assert_eq!(preflight.status, 204);
    assert_eq!(header(&preflight, "access-control-allow-origin"), Some("*"));
    assert_eq!(header(&preflight, "access-control-allow-methods"), Some("POST"));
    assert!(header(&preflight, "access-control-allow-headers").unwrap().contains("content-type"));
    let thread = mina.thread("/one");
    let refused = [
        (mina.write("/one", &json!({"text": ""})), 422),
        (mina.write("/one", &json!({"surprise": 1})), 422),
        (mina.http.get("/comments/nobodys/thread?url=https://a.kr").unwrap(), 404),
        (mina.http.get(&mina.path("nothing")).unwrap(), 404),
        (mina.http.get(&mina.path("thread?url=https://elsewhere.example/")).unwrap(), 403),
        (mina.http.get(&mina.path("thread")).unwrap(), 400),
        (mina.http.send("PUT", &mina.path("comments"), None).unwrap(), 405),
        (
            stack
                .stranger()
                .header("origin", "https://evil.example")
                .get(&mina.path("thread?url=https://blog.example.com/"))
                .unwrap(),
            403,
        ),
    ];
    for (reply, status) in
        refused.iter().map(|(reply, status)| (reply, *status)).chain([(&thread, 200)])
    {
        assert_eq!(reply.status, status, "{}", String::from_utf8_lossy(&reply.body));
        assert_eq!(header(reply, "access-control-allow-origin"), Some("*"), "{status}");
        assert_eq!(header(reply, "access-control-allow-credentials"), None);
    }
    // What is not for other origins says nothing to them.
    let own =
        stack.api().header("origin", "https://evil.example").get("/v1/comment-sites").unwrap();
    assert_eq!(header(&own, "access-control-allow-origin"), None);
    assert_eq!(stack.stranger().send("OPTIONS", "/v1/comment-sites", None).unwrap().status, 405);

    // A changed site is obeyed at once, and a former key opens nothing.
    let path = format!("/v1/comment-sites/{}", site["id"].as_str().unwrap());
    stack.api().patch(&path, &json!({"origins": ["https://other.example"]})).unwrap().ok().unwrap();
    assert_eq!(mina.thread("/one").status, 403);
    let rotated =
        stack.api().post(&format!("{path}/rotate-key"), &json!({})).unwrap().ok().unwrap();
    assert_eq!(mina.thread("/one").status, 404);
    let now = Reader::new(&stack, &rotated, "mina");
    assert_eq!(now.thread("/one").status, 403);
    stack.api().delete(&path).unwrap().ok().unwrap();
    assert_eq!(now.thread("/one").status, 404);
}

#[test]
fn a_thread_that_did_not_change_is_not_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let site = site(&stack, &json!({}));
    let mina = Reader::new(&stack, &site, "mina");
    let nonce = "the-same-nonce-0001";
    let first = id(&mina.write("/one", &json!({"nonce": nonce})));
    assert_eq!(
        id(&mina.write("/one", &json!({"nonce": nonce}))),
        first,
        "sent again it is the same"
    );
    let jun = Reader::new(&stack, &site, "jun");
    assert_eq!(
        jun.write("/one", &json!({"nonce": nonce})).status,
        422,
        "another's nonce gives nothing away"
    );
    let thread = mina.thread("/one");
    let tag = header(&thread, "etag").unwrap();
    let known = mina.http.clone().header("if-none-match", tag);
    let path = mina.path(&format!("thread?url={BLOG}/one"));
    assert_eq!(known.get(&path).unwrap().status, 304);
    id(&mina.write("/two", &json!({})));
    assert_eq!(
        known.get(&path).unwrap().status,
        304,
        "another page's comment changes nothing here"
    );
    id(&mina.write("/one", &json!({})));
    let changed = known.get(&path).unwrap();
    assert_eq!(changed.status, 200);
    assert_eq!(changed.ok().unwrap()["count"], 2);
    let urls = json!({"urls": [format!("{BLOG}/two/"), format!("{BLOG}/none"), format!("http://blog.example.com/one?fbclid=1")]});
    assert_eq!(
        mina.http.post(&mina.path("counts"), &urls).unwrap().ok().unwrap()["counts"],
        json!([1, 0, 2])
    );
    // One statement, whatever the thread holds; see http_request_statements.
    let metrics = stack.stranger().get("/metrics").unwrap();
    assert_eq!(metrics.status, 200);
}

#[test]
fn what_waits_for_an_owner_is_shown_when_it_is_approved() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let site = site(
        &stack,
        &json!({"moderation": "first", "rules": {"held_words": ["casino"], "refused_words": ["바보"], "reports_hold": 2}}),
    );
    let (mina, jun) = (Reader::new(&stack, &site, "mina"), Reader::new(&stack, &site, "jun"));
    let own = |rest: &str| format!("/v1/comment-sites/{}/{rest}", site["id"].as_str().unwrap());
    let held = mina.write("/one", &json!({}));
    assert_eq!(held.ok().unwrap()["held"], true);
    let held = id(&held);
    assert_eq!(mina.comments("/one"), Vec::<Value>::new());
    let queue = stack.api().get(&own("comments?state=held")).unwrap().ok().unwrap();
    assert_eq!(
        (&queue["items"][0]["id"], &queue["items"][0]["reason"]),
        (&json!(held), &json!("first"))
    );
    let act = |action: &str, ids: &[&str]| {
        let body = json!({"action": action, "comments": ids});
        stack.api().post(&own("actions"), &body).unwrap().ok().unwrap()["changed"].clone()
    };
    assert_eq!(act("approve", &[&held]), 1);
    assert_eq!(mina.comments("/one").len(), 1);
    // Now known, only rules hold.
    let second = id(&mina.write("/one", &json!({"text": "second"})));
    assert_eq!(mina.comments("/one").len(), 2);
    assert_eq!(mina.write("/one", &json!({"text": "a CASINO"})).ok().unwrap()["held"], true);
    assert_eq!(mina.write("/one", &json!({"text": "이 바보"})).status, 422);
    // Two reports of one browser are one.
    let report = |reader: &Reader| {
        reader.post(&format!("comments/{second}/report"), &json!({"reason": "rude"})).status
    };
    assert_eq!((report(&mina), report(&mina)), (204, 204));
    assert_eq!(mina.comments("/one").len(), 2);
    assert_eq!(report(&jun), 204);
    assert_eq!(mina.comments("/one").len(), 1);
    assert_eq!(act("pin", &[&held]), 1);
    assert_eq!(mina.comments("/one")[0]["pinned"], true);
    let answered = json!({"parent": held, "name": "Owner", "text": "thanks"});
    stack.api().post(&own("answers"), &answered).unwrap().ok().unwrap();
    assert_eq!(mina.comments("/one")[1]["owner"], true);
    assert_eq!(act("ban", &[&held, &second]), 2);
    assert_eq!(mina.write("/one", &json!({})).status, 422);
    let states = stack.api().get(&own("states")).unwrap().ok().unwrap();
    assert_eq!(states, json!({"shown": 1, "held": 1, "spam": 2, "deleted": 0}));
    for ban in stack.api().all(&own("bans")).unwrap() {
        stack
            .api()
            .delete(&own(&format!("bans/{}", ban["id"].as_str().unwrap())))
            .unwrap()
            .ok()
            .unwrap();
    }
    assert_eq!(mina.write("/one", &json!({})).status, 201);
    // A closed page takes nothing, and says so.
    let close = json!({"url": format!("{BLOG}/one"), "closed": true});
    stack.api().post(&own("pages"), &close).unwrap().ok().unwrap();
    assert_eq!(mina.write("/one", &json!({})).status, 409);
    assert_eq!(mina.thread("/one").ok().unwrap()["closed"], true);
}

#[test]
fn statistics_are_bounded_whatever_is_asked() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let site = site(&stack, &json!({}));
    let mina = Reader::new(&stack, &site, "mina");
    let gone = id(&mina.write("/one", &json!({})));
    id(&mina.write("/one", &json!({})));
    id(&mina.write("/two", &json!({})));
    assert_eq!(mina.post(&format!("comments/{gone}/delete"), &json!({})).status, 204);
    let ask = |by: &str, from: &str, to: &str| {
        let id = site["id"].as_str().unwrap();
        let path = format!("/v1/comment-sites/{id}/statistics?by={by}&from={from}&to={to}");
        stack.api().get(&path).unwrap()
    };
    let seoul = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::get("Asia/Seoul").unwrap());
    let (from, to) = (
        seoul.yesterday().unwrap().date().to_string(),
        seoul.tomorrow().unwrap().date().to_string(),
    );
    for by in ["hour", "day", "month"] {
        let said = ask(by, &from, &to).ok().unwrap();
        assert_eq!((&said["total"], &said["zone"]), (&json!(2), &json!("Asia/Seoul")), "{by}");
        assert_eq!(ask(by, &to, &from).status, 422, "the start is after the end");
        assert_eq!(ask(by, "1026-01-01", "2026-01-01").status, 422, "a thousand years");
        assert_eq!(ask(by, "x", "y").status, 422);
    }
    assert_eq!(ask("day", &from, &to).ok().unwrap()["parts"].as_array().unwrap().len(), 3);
    assert_eq!(ask("week", &from, &to).status, 400);
}

#[test]
fn one_address_cannot_flood_a_site() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder)
        .environment("MADANG__COMMENTS__WRITES_PER_ADDRESS_MAX", "2")
        .environment("MADANG__COMMENTS__PASSWORDS_PER_ADDRESS_MAX", "3")
        .start()
        .unwrap();
    let site = site(&stack, &json!({}));
    let (mina, jun) = (Reader::new(&stack, &site, "mina"), Reader::new(&stack, &site, "jun"));
    let first = id(&mina.write("/one", &json!({})));
    id(&mina.write("/one", &json!({})));
    let refused = mina.write("/one", &json!({}));
    assert_eq!(refused.status, 429);
    let pause: u64 = header(&refused, "retry-after").unwrap().parse().unwrap();
    assert!((1..=600).contains(&pause));
    let guess = |password: &str| {
        jun.post(&format!("comments/{first}/reveal"), &json!({"password": password})).status
    };
    assert_eq!([guess("a"), guess("b"), guess("c"), guess(PASSWORD)], [403, 403, 403, 429]);
}

#[test]
fn readers_hear_of_changes() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let site = site(&stack, &json!({}));
    let mina = Reader::new(&stack, &site, "mina");
    let mut events = mina.http.events(&mina.path(&format!("events?url={BLOG}/one/"))).unwrap();
    assert_eq!(events.next_event().unwrap().unwrap().1, "heard");
    id(&mina.write("/two", &json!({})));
    id(&mina.write("/one?utm_medium=mail", &json!({})));
    assert_eq!(events.next_event().unwrap().unwrap().1, "changed");
    assert_eq!(mina.comments("/one").len(), 1);
}

/// The cookie of a new account.
fn sign_up(stack: &Stack, email: &str) -> String {
    let password = "a long password of somebody";
    let account = json!({"email": email, "password": password, "organisation": email});
    stack.stranger().post("/v1/accounts", &account).unwrap().ok().unwrap();
    let session = json!({"email": email, "password": password});
    let signed_in = stack.stranger().post("/v1/session", &session).unwrap();
    header(&signed_in, "set-cookie").unwrap().split(';').next().unwrap().to_owned()
}

fn in_browser(stack: &Stack, cookie: &str) -> Http {
    stack.stranger().header("cookie", cookie).header("sec-fetch-site", "same-origin")
}

#[test]
fn an_account_comments_by_a_token_that_opens_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let owner = in_browser(&stack, &sign_up(&stack, "owner@example.com"));
    let new = json!({"name": "Blog", "origins": [BLOG]});
    let site = owner.post("/v1/comment-sites", &new).unwrap().ok().unwrap();
    let cookie = sign_up(&stack, "reader@example.com");
    let reader = in_browser(&stack, &cookie);
    let key = site["key"].as_str().unwrap();
    let token = |http: &Http, name: &str| {
        http.post(&format!("/comments/{key}/tokens"), &json!({"name": name})).unwrap().ok().unwrap()
    };
    let (own, others) = (token(&owner, "Sunny"), token(&reader, "Hana"));
    assert_eq!((&own["owner"], &others["owner"]), (&json!(true), &json!(false)));
    let as_reader = |token: &Value, name: &str| {
        let mut reader = Reader::new(&stack, &site, name);
        reader.http = reader.http.bearer(token["token"].as_str().unwrap());
        reader
    };
    let (sunny, hana) = (as_reader(&own, "sunny"), as_reader(&others, "hana"));
    let secret =
        id(&hana.write("/one", &json!({"name": "somebody else", "secret": true, "text": "psst"})));
    let all = hana.comments("/one");
    assert_eq!((&all[0]["name"], &all[0]["account"]), (&json!("Hana"), &json!(true)));
    // From another browser of the account; not by a guest; an owner reads everything.
    let mut elsewhere = as_reader(&others, "hana-elsewhere");
    let reveal = |reader: &Reader| {
        reader.post(&format!("comments/{secret}/reveal"), &json!({"password": PASSWORD})).status
    };
    assert_eq!((reveal(&elsewhere), reveal(&sunny)), (200, 200));
    assert_eq!(reveal(&Reader::new(&stack, &site, "guest")), 403);
    id(&sunny.write("/one", &json!({"parent": secret})));
    assert_eq!(sunny.comments("/one")[1]["owner"], true);
    // It is no key of the API, and the browser's session is none of a page of another origin.
    elsewhere.http = stack.stranger().bearer(others["token"].as_str().unwrap());
    assert_eq!(elsewhere.http.get("/v1/session").unwrap().status, 401);
    let evil = stack.stranger().header("cookie", &cookie).header("origin", BLOG);
    assert_eq!(
        evil.post(&format!("/comments/{key}/tokens"), &json!({"name": "x"})).unwrap().status,
        403
    );
    // Signed out, it opens nothing.
    hana.http.send("DELETE", &hana.path("tokens"), None).unwrap().ok().unwrap();
    assert_eq!(hana.write("/one", &json!({})).status, 401);
}

#[test]
fn comments_go_elsewhere_and_come_from_elsewhere_once() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let (old, new) = (site(&stack, &json!({})), site(&stack, &json!({})));
    let mina = Reader::new(&stack, &old, "mina");
    let first = id(&mina.write("/one", &json!({"text": "**first**", "title": "One"})));
    let gone = id(&mina.write("/one", &json!({"parent": first})));
    id(&mina.write("/one", &json!({"parent": gone, "secret": true, "text": "psst"})));
    assert_eq!(mina.post(&format!("comments/{gone}/delete"), &json!({})).status, 204);
    let of = |site: &Value, rest: &str| {
        format!("/v1/comment-sites/{}/{rest}", site["id"].as_str().unwrap())
    };
    let exported = stack.api().get(&of(&old, "export")).unwrap();
    let text = String::from_utf8(exported.body).unwrap();
    assert_eq!((exported.status, text.lines().count()), (200, 3));
    assert!(!text.contains("argon2"));
    let import = |format: &str, text: &str| {
        stack.api().post(&of(&new, "import"), &json!({"format": format, "text": text})).unwrap()
    };
    let counts = |reply: Reply| {
        let said = reply.ok().unwrap();
        ["added", "known", "skipped"].map(|name| said[name].as_u64().unwrap())
    };
    assert_eq!(counts(import("madang", &text)), [3, 0, 0]);
    assert_eq!(counts(import("madang", &text)), [0, 3, 0], "again it changes nothing");
    let there = Reader::new(&stack, &new, "jun");
    let all = there.comments("/one");
    assert_eq!(all.len(), 3);
    assert_eq!(all[0]["body"], json!([["p", ["strong", "first"]]]));
    assert_eq!((&all[1]["deleted"], &all[1]["parent"]), (&json!(true), &all[0]["id"]));
    assert_eq!((&all[2]["secret"], &all[2]["parent"]), (&json!(true), &all[1]["id"]));
    let disqus = format!(
        r#"<disqus xmlns:dsq="http://disqus.com/disqus-internals"><thread dsq:id="7"><link>{BLOG}/two/</link><title>Two</title></thread>
        <thread dsq:id="8"><link>https://elsewhere.example/</link><title>x</title></thread>
        <post dsq:id="1"><message><![CDATA[<p>from <i>Disqus</i><script>alert(1)</script></p>]]></message><createdAt>2020-01-02T03:04:05Z</createdAt><isDeleted>false</isDeleted><isSpam>false</isSpam><author><name>Hana</name></author><thread dsq:id="7" /></post>
        <post dsq:id="2"><message>x</message><createdAt>2020-01-02T03:04:05Z</createdAt><isDeleted>false</isDeleted><isSpam>false</isSpam><author><name>Hana</name></author><thread dsq:id="8" /></post></disqus>"#
    );
    assert_eq!(counts(import("disqus", &disqus)), [1, 0, 1]);
    assert_eq!(
        there.comments("/two")[0]["body"],
        json!([["p", "from ", ["em", "Disqus"], "alert(1)"]])
    );
    let path = of(&new, "statistics?by=month&from=2020-01-01&to=2020-02-01");
    assert_eq!(stack.api().get(&path).unwrap().ok().unwrap()["total"], 1);
    assert_eq!(import("wordpress", &disqus).status, 422);
}

// The widget.

/// Ways to run a script that were found in comments, names and links elsewhere.
const HOSTILE: &[&str] = &[
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>",
    "<svg><script>alert(1)</script></svg>",
    "<iframe src=javascript:alert(1)></iframe>",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "<a href=javascript:alert(1) autofocus onfocus=alert(1)>x</a>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
    "<template><script>alert(1)</script></template>",
    "<details open ontoggle=alert(1)>",
    "<input autofocus onfocus=alert(1)>",
    "<style>@import 'javascript:alert(1)'</style>",
    "<base href=javascript:/a/-alert(1)///>",
    "<object data=javascript:alert(1)></object>",
    "<meta http-equiv=refresh content='0;url=javascript:alert(1)'>",
    "\"><img src=x onerror=alert(1)>",
    "'\"--></style></script><script>alert(1)</script>",
    "</textarea><script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt&colon;alert(1))",
    "[x](java\tscript:alert(1))",
    "[x](\u{1}javascript:alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:alert(1))",
    "[x](https://a.kr/\" onmouseover=\"alert(1))",
    "[<img src=x onerror=alert(1)>](https://a.kr)",
    "[x](https://a.kr/'onmouseover='alert(1))",
    "https://a.kr/\"onmouseover=\"alert(1)",
    "http://javascript:alert(1)@a.kr/",
    "**<img src=x onerror=alert(1)>**",
    "`<img src=x onerror=alert(1)>`",
    "```\n</code></pre><script>alert(1)</script>\n```",
    "> <script>alert(1)</script>",
    "- <img src=x onerror=alert(1)>",
    "${alert(1)} {{constructor.constructor('alert(1)')()}} <%= alert(1) %>",
    "\u{202e}<script>alert(1)</script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "\\u003cscript\\u003ealert(1)\\u003c/script\\u003e",
    "<scr\0ipt>alert(1)</scr\0ipt>",
    "<img src=\"x` `<script>alert(1)</script>\"` `>",
    "<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">",
    "__proto__",
    "constructor",
];

#[test]
fn nothing_that_somebody_wrote_runs() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder)
        .environment("MADANG__COMMENTS__WRITES_PER_ADDRESS_MAX", "1000")
        .start()
        .unwrap();
    let (blog, site) = Embedded::blog(&stack).unwrap();
    let path = format!("/comments/{}/comments", site["key"].as_str().unwrap());
    let site_path = format!("/v1/comment-sites/{}", site["id"].as_str().unwrap());
    let rules = json!({"rules": {"links_max": 100}, "name": "<script>alert(1)</script>"});
    stack.api().patch(&site_path, &rules).unwrap().ok().unwrap();
    for (index, hostile) in HOSTILE.iter().enumerate() {
        let name: String = hostile.chars().take(40).collect();
        let body = json!({
            "url": format!("{}/post", blog.origin()), "title": hostile.chars().take(300).collect::<String>(),
            "name": name, "password": PASSWORD, "browser": format!("a-hostile-browser-{index:04}"), "text": hostile,
        });
        stack.stranger().post(&path, &body).unwrap().ok().unwrap();
    }
    let page = Embedded::open(&format!("{}/post", blog.origin())).unwrap();
    let count = HOSTILE.len();
    page.until("all of them", &format!("return all().length === {count}")).unwrap();
    // Move over everything, focus everything, follow what looks like a script.
    let found = page.run(
        "for (const one of root.querySelectorAll('*')) {
            for (const type of ['mouseover', 'focus', 'toggle', 'error', 'load']) one.dispatchEvent(new Event(type));
        }
        const bad = [];
        const allowed = 'section div h2 select option button p form textarea span input label ol ul li article b time br strong em del code pre blockquote a'.split(' ');
        for (const one of root.querySelectorAll('*')) {
            if (!allowed.includes(one.localName)) bad.push(one.localName);
            for (const { name, value } of one.attributes) {
                if (name.startsWith('on') || (name === 'href' && !/^(https?|mailto):/.test(value))) bad.push(name + '=' + value);
            }
        }
        return bad.join();",
    );
    assert_eq!(found.unwrap(), "");
    // What the server writes as HTML, put into a page without any guard.
    let entries = stack.api().all(&format!("{site_path}/comments")).unwrap();
    assert_eq!(entries.len(), count);
    let html: String = entries.iter().map(|entry| entry["html"].as_str().unwrap()).collect();
    page.browser.go(&format!("http://{}/livez", stack.http_address())).unwrap();
    let plain = Browser::open(600, 600, "en").unwrap();
    plain.go("about:blank").unwrap();
    let script = format!(
        "window.ran = 0; window.alert = () => {{ window.ran += 1; }};
        document.body.innerHTML = {};
        const links = [...document.querySelectorAll('a')];
        const others = document.body.querySelectorAll('script,img,svg,iframe,object,style,template,details,input,base,meta,math').length;
        return [links.length > 0, links.every((link) => /^(https?|mailto):/.test(link.href)), others].join()",
        json!(html)
    );
    assert_eq!(plain.script(&script).unwrap(), "true,true,0");
    assert_eq!(plain.script("return window.ran").unwrap(), 0);
    // The pages of the server itself, with a hostile name of a site.
    let demo = format!(
        "http://{}/comments/demo?site={}",
        stack.http_address(),
        site["key"].as_str().unwrap()
    );
    plain.go(&demo).unwrap();
    assert_eq!(
        plain.script("return document.querySelector('h1').textContent").unwrap(),
        "<script>alert(1)</script>"
    );
    page.browser.go(&format!("{}/post", blog.origin())).unwrap();
    let again = format!("return all().length === {count} && window.ran === 0");
    page.until("all of them again", &again).unwrap();
}
