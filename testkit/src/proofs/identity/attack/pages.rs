use anyhow::{Context, Result, ensure};
use serde_json::Map;

use super::{
    ELSEWHERE, PASSWORD, Tried, browser, cookie, header, launch, person, sign_in, sign_up,
};
use crate::http::{Http, Reply};
use crate::proofs::{Ground, Report};
use crate::stack::Stack;
use crate::stomp_client::StompClient;

const PLANTED: &str = "madang_session=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// What a form of a page says that it is.
const FORM: &str = "application/x-www-form-urlencoded";

/// A session that somebody else chose or knew is never the one that somebody signs in to.
pub(super) fn fixation(ground: &Ground, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stack = launch(ground, folder.path()).start()?;
    sign_up(&stack, "mina@example.org")?;
    sign_up(&stack, "thief@example.org")?;
    let mut tried = Tried::default();
    for _ in 0..ground.count(2, 100) {
        let thiefs = sign_in(&stack, "thief@example.org")?;
        for planted in [PLANTED, &*thiefs, "madang_session=", "madang_session=a; madang_session=b"]
        {
            planted_session(&stack, planted, &mut tried)?;
        }
        let mina = sign_in(&stack, "mina@example.org")?;
        let text = mina.split_once('=').context("a cookie")?.1.to_owned();
        for path in [
            format!("/v1/session?madang_session={text}"),
            format!("/v1/session?access_token={text}"),
            format!("/v1/session;madang_session={text}"),
        ] {
            let status = stack.stranger().get(&path)?.status;
            tried.check((400..500).contains(&status), || format!("a session in {path}: {status}"));
        }
        let status = stack.stranger().bearer(&text).get("/v1/session")?.status;
        tried.check(status == 401, || format!("a session's text as a bearer's: {status}"));
        ensure!(browser(&stack, &mina).delete("/v1/session")?.status < 300, "signed out");
        let status = browser(&stack, &mina).get("/v1/session")?.status;
        tried.check(status == 401, || format!("after signing out: {status}"));
    }
    tried.tell(report, "sessions that were planted");
    Ok(())
}

fn planted_session(stack: &Stack, planted: &str, tried: &mut Tried) -> Result<()> {
    let mina = person("mina@example.org", PASSWORD);
    let signed_in = browser(stack, planted).post("/v1/session", &mina)?;
    let own = cookie(&signed_in)?;
    tried.check(!planted.contains(&own), || format!("{planted} was taken up"));
    let set = header(&signed_in, "set-cookie");
    let is_kept = ["HttpOnly", "SameSite=Strict", "Path=/"].iter().all(|it| set.contains(it))
        && !set.to_lowercase().contains("domain=");
    tried.check(is_kept, || format!("the cookie is {set}"));
    let who = browser(stack, planted).get("/v1/session")?;
    let is_mina = String::from_utf8_lossy(&who.body).contains("mina@");
    tried.check(!is_mina, || format!("{planted} opens what was signed in to beside it"));
    let who = browser(stack, &own).get("/v1/session")?.ok()?;
    tried.check(who["email"] == "mina@example.org", || format!("signed in as {who}"));
    Ok(())
}

struct Operation {
    method: String,
    path: String,
    /// Nobody needs to be somebody.
    is_public: bool,
    takes_form: bool,
}

fn operations(stack: &Stack) -> Result<Vec<Operation>> {
    let document = stack.stranger().get("/openapi.json")?.ok()?;
    let mut found = vec![];
    for (path, operations) in document["paths"].as_object().context("paths")? {
        for (method, operation) in operations.as_object().context("operations")? {
            let Some(security) = operation["security"].as_array() else { continue };
            let is_public = security.iter().any(|one| one.as_object().is_some_and(Map::is_empty));
            if security.is_empty() || method == "get" {
                continue;
            }
            let filled = path.split('/').map(|part| if part.starts_with('{') { "x" } else { part });
            found.push(Operation {
                method: method.to_uppercase(),
                path: filled.collect::<Vec<_>>().join("/"),
                is_public,
                takes_form: operation["requestBody"]["content"].get(FORM).is_some(),
            });
        }
    }
    ensure!(found.len() > 80, "{} operations change something", found.len());
    // What ends the session that all the others show.
    found.sort_by_key(|it| it.path == "/v1/session");
    Ok(found)
}

impl Operation {
    fn send(&self, http: &Http) -> Result<Reply> {
        let body: (&str, &[u8]) = if self.takes_form {
            (FORM, b"request=x&answer=allow")
        } else {
            ("application/json", b"{}")
        };
        http.send(&self.method, &self.path, Some(body))
    }
}

/// Whatever changes something wants more than the cookie that a browser sends along by itself.
pub(super) fn forgery(ground: &Ground, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stack = launch(ground, folder.path()).start()?;
    sign_up(&stack, "mina@example.org")?;
    let cookie = sign_in(&stack, "mina@example.org")?;
    let address = stack.http_address().to_owned();
    let own = format!("http://{address}");
    let (below, before) =
        (format!("http://{address}.evil.example"), format!("http://evil{address}"));
    let disguises: Vec<Vec<(&str, &str)>> = vec![
        vec![],
        vec![("origin", ELSEWHERE)],
        vec![("origin", "null")],
        vec![("origin", "")],
        vec![("origin", &below)],
        vec![("origin", &before)],
        vec![("origin", "http://127.0.0.1:1")],
        vec![("origin", "http://127.0.0.1")],
        vec![("referer", &own)],
        vec![("x-requested-with", "XMLHttpRequest")],
        vec![("sec-fetch-site", "cross-site"), ("origin", ELSEWHERE)],
        vec![("sec-fetch-site", "cross-site"), ("origin", &own)],
        vec![("sec-fetch-site", "same-site"), ("origin", &own)],
        vec![("sec-fetch-site", ""), ("origin", &own)],
    ];
    let operations = operations(&stack)?;
    let mut tried = Tried::default();
    let rounds = ground.count(1, 5);
    for disguise in disguises.iter().cycle().take(disguises.len() * rounds) {
        // Each on a connection of its own: one that was refused may be ended.
        let page = || {
            let page = stack.stranger().header("cookie", &cookie);
            disguise.iter().fold(page, |it, (name, value)| it.header(name, value))
        };
        for operation in &operations {
            let status = operation.send(&page())?.status;
            // What is for everybody takes the page for nobody's, and its body is none.
            let held = if operation.is_public {
                (400..500).contains(&status)
            } else {
                matches!(status, 401 | 403)
            };
            let Operation { method, path, .. } = operation;
            tried.check(held, || format!("{method} {path} with {disguise:?}: {status}"));
        }
        for (name, value) in [("x-http-method-override", "DELETE"), ("x-method-override", "DELETE")]
        {
            page().header(name, value).get("/v1/session")?;
        }
        let status = browser(&stack, &cookie).get("/v1/session")?.status;
        tried.check(status == 200, || format!("after {disguise:?} the session opens {status}"));
    }
    // A page of this server's own is let in: it was the origin that was refused.
    for operation in operations.iter().filter(|it| !it.is_public) {
        let reply = operation.send(&browser(&stack, &cookie))?;
        let is_origin = String::from_utf8_lossy(&reply.body).contains("another origin");
        let (status, Operation { method, path, .. }) = (reply.status, operation);
        tried
            .check(status != 401 && !is_origin, || format!("{method} {path} of our own: {status}"));
    }
    tried.tell(report, "requests that pages of others forge");
    Ok(())
}

/// A socket whose request shows nobody, or a browser's cookie beside another origin, gets nothing.
pub(super) fn sockets(ground: &Ground, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stack = launch(ground, folder.path()).start()?;
    sign_up(&stack, "mina@example.org")?;
    let mut tried = Tried::default();
    let own = format!("origin: http://{}\r\n", stack.http_address());
    for _ in 0..ground.count(1, 50) {
        let cookie = format!("cookie: {}\r\n", sign_in(&stack, "mina@example.org")?);
        let below = format!("origin: http://{}.evil.example\r\n", stack.http_address());
        for (what, headers) in [
            ("nobody", String::new()),
            ("nobody, of our own page", own.clone()),
            ("a cookie without an origin", cookie.clone()),
            ("a cookie and another origin", format!("{cookie}origin: {ELSEWHERE}\r\n")),
            ("a cookie and no origin's name", format!("{cookie}origin: null\r\n")),
            ("a cookie and a name that begins as ours", format!("{cookie}{below}")),
            (
                "a cookie of another site's page",
                format!("{cookie}{own}sec-fetch-site: cross-site\r\n"),
            ),
            ("a planted cookie", format!("cookie: {PLANTED}\r\n{own}")),
            ("a key that is none", "authorization: Bearer let me in\r\n".to_owned()),
        ] {
            let socket = StompClient::open(stack.http_address(), &headers);
            let is_in = socket.is_ok_and(|mut it| it.log_in("host:here").is_ok());
            tried.check(!is_in, || format!("{what} is let in"));
            // Nor before it says who it is.
            for deed in ["SEND\ndestination:/topic/a\n\nx", "SUBSCRIBE\nid:0\ndestination:/topic/a"]
            {
                let socket = StompClient::open(stack.http_address(), &headers);
                let is_done = socket.is_ok_and(|mut it| it.done(deed).is_ok());
                tried.check(!is_done, || format!("{what} does {deed:?}"));
            }
        }
        let mut page = StompClient::open(stack.http_address(), &format!("{cookie}{own}"))?;
        let is_in = page.log_in("host:here").is_ok();
        tried.check(is_in, || "a page of our own is refused".into());
        let key = StompClient::connect(stack.http_address(), stack.token());
        tried.check(key.is_ok(), || "a key is refused".into());
    }
    tried.tell(report, "sockets of nobody");
    Ok(())
}
