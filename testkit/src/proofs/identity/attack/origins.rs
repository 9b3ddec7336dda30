use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{
    ELSEWHERE, PASSWORD, Tried, WRONG, browser, cookie, header, launch, person, sign_in, sign_up,
};
use crate::http::Reply;
use crate::mailbox::{Mail, Mailbox};
use crate::proofs::{Ground, Report};
use crate::stack::Stack;

const MADE_UP: &str = "203.0.113.9";

/// Headers that proxies set, from somebody who is no proxy that is believed.
pub(super) fn spoofing(ground: &Ground, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mailbox = Mailbox::open()?;
    let stack = launch(ground, folder.path()).mail_to(mailbox.port).start()?;
    sign_up(&stack, "mina@example.org")?;
    let mut tried = Tried::default();
    addresses(ground, &stack, &mut tried)?;
    protocols(&stack, &mut tried)?;
    names(&stack, &mailbox, &mut tried)?;
    this_machine(&stack, &mut tried)?;
    tried.tell(report, "headers that are made up");
    Ok(())
}

/// Whoever says to be somebody else each time is counted as one.
fn addresses(ground: &Ground, stack: &Stack, tried: &mut Tried) -> Result<()> {
    for number in 0..ground.count(15, 300) {
        let from = format!("198.51.{}.{}", number / 250, number % 250 + 1);
        let mut page = stack.stranger();
        for name in [
            "x-forwarded-for",
            "x-real-ip",
            "true-client-ip",
            "cf-connecting-ip",
            "x-client-ip",
            "x-cluster-client-ip",
        ] {
            page = page.header(name, &from);
        }
        let page = page.header("forwarded", &format!("for={from}"));
        let status = page.post("/v1/session", &person("nobody@example.org", WRONG))?.status;
        let expected = if number < 10 { 401 } else { 429 };
        tried.check(status == expected, || format!("guess {number} as {from}: status {status}"));
    }
    let page = stack.stranger().header("x-forwarded-for", MADE_UP).header("x-real-ip", MADE_UP);
    let signed_in = page.post("/v1/session", &person("mina@example.org", PASSWORD))?;
    let browser = browser(stack, &cookie(&signed_in)?);
    for (page, path) in [(&browser, "/v1/account/sessions"), (&stack.api(), "/v1/audit")] {
        let told = page.get(path)?.ok()?.to_string();
        tried.check(!told.contains(MADE_UP), || format!("{path} believes it: {told}"));
        if path.ends_with("sessions") {
            tried.check(told.contains("127.0.0.1"), || format!("{path} has no address: {told}"));
        }
    }
    Ok(())
}

/// TLS that somebody only speaks of.
fn protocols(stack: &Stack, tried: &mut Tried) -> Result<()> {
    for (name, value) in [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-ssl", "on"),
        ("front-end-https", "on"),
        ("x-url-scheme", "https"),
        ("forwarded", "proto=https;host=evil.example"),
    ] {
        let page = stack.stranger().header(name, value);
        let reply = page.post("/v1/session", &person("mina@example.org", PASSWORD))?;
        reply.ok()?;
        let (set, hsts) =
            (header(&reply, "set-cookie"), header(&reply, "strict-transport-security"));
        let held = !set.contains("Secure") && hsts.is_empty();
        tried.check(held, || format!("{name} is believed: {set} {hsts}"));
    }
    Ok(())
}

/// What this place is called is nobody's to say: in mails, in discovery, in redirects.
fn names(stack: &Stack, mailbox: &Mailbox, tried: &mut Tried) -> Result<()> {
    let own = format!("http://{}", stack.http_address());
    let more = "x-forwarded-host: evil.example\r\nx-forwarded-server: evil.example\r\nx-host: evil.example\r\n\
                x-forwarded-proto: https\r\nx-forwarded-port: 444\r\nx-original-url: /v1/keys\r\n\
                x-rewrite-url: /v1/keys\r\nforwarded: host=evil.example\r\n";
    let body = json!({"email": "mina@example.org"}).to_string();
    for path in ["/v1/session/links", "/v1/password-resets"] {
        let answer = raw(
            stack,
            &format!(
                "POST {path} HTTP/1.1\r\nhost: evil.example\r\n{more}content-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
                body.len()
            ),
        )?;
        ensure!(answer.starts_with("HTTP/1.1 202"), "{answer}");
        let page = if path.ends_with("links") { "/#/link?" } else { "/#/reset?" };
        let mail = crate::wait::within(Duration::from_secs(20), "a mail with a link", || {
            Ok(mailbox.mails().iter().map(written).find(|text| text.contains(page)))
        })?;
        let held = mail.contains(&own) && !mail.contains("evil");
        tried.check(held, || format!("{path} mails {mail}"));
    }
    for path in ["/.well-known/openid-configuration", "/livez", "/", "/openapi.json", "/nowhere"] {
        let answer = raw(
            stack,
            &format!(
                "GET {path} HTTP/1.1\r\nhost: evil.example\r\n{more}connection: close\r\n\r\n"
            ),
        )?;
        tried.check(!answer.contains("evil.example"), || format!("{path} says it: {answer}"));
        if path.contains("openid") {
            let held = answer.contains(&format!("\"issuer\":\"{own}\""));
            tried.check(held, || format!("the issuer is not {own}: {answer}"));
        }
    }
    let livez = raw(
        stack,
        &format!("GET /livez HTTP/1.1\r\nhost: here\r\n{more}connection: close\r\n\r\n"),
    )?;
    tried.check(livez.starts_with("HTTP/1.1 204"), || format!("another path was asked: {livez}"));
    Ok(())
}

/// The text of a mail, whatever it travelled as.
fn written(mail: &Mail) -> String {
    let text = mail.text();
    let (_, body) = text.split_once("\n\n").unwrap_or_default();
    match mail.header("content-transfer-encoding").unwrap_or_default() {
        "base64" => {
            let packed: String = body.split_whitespace().collect();
            String::from_utf8_lossy(&STANDARD.decode(packed).unwrap_or_default()).into_owned()
        }
        "quoted-printable" => body.replace("=\n", "").replace("=3D", "="),
        _ => body.to_owned(),
    }
}

/// What is open to this machine is not to whoever reaches it by another name or through a proxy.
fn this_machine(stack: &Stack, tried: &mut Tried) -> Result<()> {
    let ask = |more: &str| {
        raw(stack, &format!("GET /metrics HTTP/1.1\r\n{more}connection: close\r\n\r\n"))
    };
    let own = ask(&format!("host: {}\r\n", stack.http_address()))?;
    ensure!(own.starts_with("HTTP/1.1 200"), "this machine is refused: {own}");
    for more in [
        "host: evil.example\r\n",
        "host: localhost.evil.example\r\n",
        "host: 127.0.0.1.evil.example\r\n",
        "host: localhost\r\norigin: http://evil.example\r\n",
        "host: localhost\r\norigin: null\r\n",
        "host: localhost\r\nx-forwarded-for: 127.0.0.1\r\n",
        "host: localhost\r\nx-forwarded-for: 203.0.113.9\r\n",
        "host: localhost\r\nforwarded: for=127.0.0.1\r\n",
        "host: localhost\r\nx-real-ip: 127.0.0.1\r\n",
        "host: localhost\r\nvia: 1.1 proxy\r\n",
    ] {
        let answer = ask(more)?;
        tried.check(answer.starts_with("HTTP/1.1 401"), || format!("{more:?} is let in: {answer}"));
    }
    Ok(())
}

/// A whole answer.
fn raw(stack: &Stack, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(stack.http_address())?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = vec![];
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// The beginnings of paths that pages of every origin may ask.
const OPEN: [&str; 7] = [
    "/conduit/api/",
    "/comments/",
    "/.well-known/openid-configuration",
    "/v1/oidc/jwks",
    "/v1/oidc/token",
    "/v1/oidc/revoke",
    "/v1/oidc/userinfo",
];
/// What begins so and is for pages of this origin alone: somebody's session makes the token, and the others are pages and what they load.
const OWN: [(&str, &str); 5] = [
    ("POST", "/comments/{site}/tokens"),
    ("GET", "/comments/sign-in"),
    ("GET", "/comments/sign-in.js"),
    ("GET", "/comments/pages.css"),
    ("GET", "/comments/demo"),
];
/// What those pages send.
const SENT: &str = "authorization,content-type";

/// Each operation of the document: what may be asked of elsewhere is allowed before and readable after, errors too; nothing else is, and
/// never with cookies. Which may be is said here, and the document says the same.
pub(super) fn origins(ground: &Ground, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stack = launch(ground, folder.path()).start()?;
    sign_up(&stack, "mina@example.org")?;
    let cookie = sign_in(&stack, "mina@example.org")?;
    let document = stack.stranger().get("/openapi.json")?.ok()?;
    let (mut tried, mut own) = (Tried::default(), 0);
    for (path, operations) in document["paths"].as_object().context("paths")? {
        for (method, operation) in operations.as_object().context("operations")? {
            let method = method.to_uppercase();
            let is_own = OWN.contains(&(&*method, &**path));
            own += usize::from(is_own);
            let is_open = begins_open(path) && !is_own;
            let said = operation["x-cross-origin"].as_bool().unwrap_or(false);
            tried.check(said == is_open, || format!("the document says {said} of {method} {path}"));
            of_operation(&stack, (&method, path, operation), (is_open, &cookie), &mut tried)?;
        }
    }
    ensure!(own == OWN.len(), "{own} of {} operations are there", OWN.len());
    for path in ["/conduit/api/nowhere", "/comments/x/nowhere", "/v1/nowhere", "/"] {
        for method in ["GET", "PATCH"] {
            let about = (begins_open(path), Whose::Somebodys, &*cookie);
            asked(&stack, (method, path, ELSEWHERE), about, &mut tried)?;
        }
    }
    tried.tell(report, "what other origins may ask and read");
    Ok(())
}

fn begins_open(path: &str) -> bool {
    OPEN.iter().any(|open| path.starts_with(open))
}

fn of_operation(
    stack: &Stack,
    (method, path, operation): (&str, &str, &Value),
    (is_open, cookie): (bool, &str),
    tried: &mut Tried,
) -> Result<()> {
    let filled: Vec<_> =
        path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
    let filled = filled.join("/");
    let is_stream = operation["responses"]["200"]["content"].get("text/event-stream").is_some();
    let security = operation["security"].as_array();
    // Whoever asks needs to be nobody.
    let is_public = security.is_some_and(|all| {
        all.is_empty() || all.iter().any(|one| one.as_object().is_some_and(Map::is_empty))
    });
    let whose = if is_public { Whose::Everybodys } else { Whose::Somebodys };
    for origin in [ELSEWHERE, "null"] {
        preflight(stack, (method, &filled, origin), is_open, tried)?;
        if !is_stream {
            asked(stack, (method, &filled, origin), (is_open, whose, cookie), tried)?;
        }
    }
    Ok(())
}

type Asked<'a> = (&'a str, &'a str, &'a str);

/// Who may ask for an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Everybodys,
    Somebodys,
}

fn preflight(
    stack: &Stack,
    (method, path, origin): Asked<'_>,
    is_open: bool,
    tried: &mut Tried,
) -> Result<()> {
    let page = stack.stranger().header("origin", origin);
    let page = page.header("access-control-request-method", method);
    let page = page.header("access-control-request-headers", SENT);
    let reply = page.send("OPTIONS", path, None)?;
    let says = |name: &str, wanted: &str| {
        let told = header(&reply, name).to_lowercase();
        wanted.to_lowercase().split(',').all(|one| told.split(", ").any(|it| it == one))
    };
    let held = if is_open {
        reply.status == 204
            && allows_origin(&reply) == "*"
            && says("access-control-allow-methods", method)
            && says("access-control-allow-headers", SENT)
    } else {
        allows_origin(&reply).is_empty()
            && header(&reply, "access-control-allow-methods").is_empty()
    };
    let held = held && header(&reply, "access-control-allow-credentials").is_empty();
    tried.check(held, || {
        format!("OPTIONS {path} for {method}: {} {:?}", reply.status, reply.headers)
    });
    Ok(())
}

/// As nobody, with a key that is none, with a body that is none, with a browser's cookie.
fn asked(
    stack: &Stack,
    (method, path, origin): Asked<'_>,
    (is_open, whose, cookie): (bool, Whose, &str),
    tried: &mut Tried,
) -> Result<()> {
    let page = || stack.stranger().header("origin", origin);
    let body: Option<(&str, &[u8])> =
        (method != "GET").then_some(("application/json", b"{".as_slice()));
    for (what, page) in [
        ("nobody", page()),
        ("a key that is none", page().bearer("let me in")),
        ("a cookie", page().header("cookie", cookie).header("sec-fetch-site", "cross-site")),
    ] {
        let reply = page.send(method, path, body)?;
        let wanted = if is_open { "*" } else { "" };
        let held = allows_origin(&reply) == wanted
            && header(&reply, "access-control-allow-credentials").is_empty();
        let status = reply.status;
        tried.check(held, || format!("{method} {path} by {what}: {status} {:?}", reply.headers));
        let told = [
            ("x-content-type-options", "nosniff"),
            // Of pages of a log-in to our own origin, and of nothing else.
            ("referrer-policy", if path.starts_with("/v1/oidc/") { "" } else { "no-referrer" }),
            ("content-security-policy", "frame-ancestors"),
            ("cache-control", ""),
        ];
        let is_told = told.iter().all(|(name, text)| {
            let value = header(&reply, name);
            !value.is_empty() && value.contains(text)
        });
        tried.check(is_told, || {
            format!("{method} {path} by {what} lacks headers: {:?}", reply.headers)
        });
        // The gate of an operation of this origin alone lets nothing change by a cookie.
        let changes = what == "a cookie"
            && whose == Whose::Somebodys
            && method != "GET"
            && (200..400).contains(&status);
        tried.check(!changes, || format!("{method} {path} by a cookie of elsewhere: {status}"));
    }
    Ok(())
}

fn allows_origin(reply: &Reply) -> &str {
    header(reply, "access-control-allow-origin")
}
