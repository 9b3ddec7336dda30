//! What an attacker tries from outside, without a key or with somebody else's browser.

mod entries;
mod origins;
mod pages;
mod smuggling;
mod telling;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Tried;
use crate::http::{Http, Reply};
use crate::proofs::{Ground, Report};
use crate::stack::{Launch, Stack};

const PASSWORD: &str = "correct horse battery";
const WRONG: &str = "not the password of anybody";
/// Where nobody's page is.
const ELSEWHERE: &str = "http://evil.example";

type Section = fn(&Ground, &mut Report) -> Result<()>;

/// Lists of leaked passwords, words and times that tell of accounts, planted sessions, pages of other origins, tokens that come
/// twice, connections by the thousand, headers that are made up, requests within requests, sockets without anybody, and tokens
/// that end while something is open. Each part says what it tried and how often the answer was wrong.
pub fn attack(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    for (name, section) in PARTS {
        if let Err(error) = section(ground, &mut report) {
            report.bound(false, format!("{name} broke off: {error:#}"));
        }
    }
    Ok(report)
}

const PARTS: [(&str, Section); 12] = [
    ("stuffing", entries::stuffing),
    ("telling by text", telling::by_text),
    ("fixation", pages::fixation),
    ("forgery", pages::forgery),
    ("reuse", entries::reuse),
    ("reconnects", entries::reconnects),
    ("spoofing", origins::spoofing),
    ("origins", origins::origins),
    ("smuggling", smuggling::smuggling),
    ("sockets", pages::sockets),
    ("ends", entries::ends),
    ("telling by time", telling::by_time),
];

/// A stack whose visitors may sign up often.
fn launch(ground: &Ground, folder: &std::path::Path) -> Launch {
    Launch::new(&ground.binary, folder)
        .environment("MADANG__IDENTITY__SIGN_UPS_PER_ADDRESS_MAX", "1000000")
}

/// The same, where attempts are not counted to an end.
fn unlimited(launch: Launch) -> Launch {
    let names = [
        "ATTEMPTS_PER_PAIR_MAX",
        "ATTEMPTS_PER_ACCOUNT_MAX",
        "ATTEMPTS_PER_ADDRESS_MAX",
        "MAILS_PER_EMAIL_MAX",
        "MAILS_PER_ADDRESS_MAX",
        "MAILS_WAITING_MAX",
    ];
    names.into_iter().fold(launch, |launch, name| {
        launch.environment(&format!("MADANG__IDENTITY__{name}"), "1000000")
    })
}

fn person(email: &str, password: &str) -> Value {
    json!({ "email": email, "password": password })
}

fn sign_up(stack: &Stack, email: &str) -> Result<()> {
    stack.stranger().post("/v1/accounts", &person(email, PASSWORD))?.ok()?;
    Ok(())
}

/// The text of the session of somebody who signs in.
fn sign_in(stack: &Stack, email: &str) -> Result<String> {
    let reply = stack.stranger().post("/v1/session", &person(email, PASSWORD))?;
    reply.ok()?;
    cookie(&reply)
}

/// As a page of this server's own asks.
fn browser(stack: &Stack, cookie: &str) -> Http {
    stack.stranger().header("cookie", cookie).header("sec-fetch-site", "same-origin")
}

/// An app's access token, and the one that it exchanges.
fn tokens(reply: &Reply) -> Result<(String, String)> {
    let answer = reply.ok()?;
    let text = |name: &str| answer[name].as_str().map(str::to_owned).context("a token");
    Ok((text("access_token")?, text("refresh_token")?))
}

fn cookie(reply: &Reply) -> Result<String> {
    let set = header(reply, "set-cookie");
    set.split(';').next().filter(|it| !it.is_empty()).map(str::to_owned).context("a cookie")
}

fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

/// Everything that somebody sees who asks, but what differs at each request.
fn seen(reply: Reply) -> (u16, Vec<(String, String)>, String) {
    let differs = |name: &str| matches!(name, "x-request-id" | "date");
    let headers = reply.headers.into_iter().filter(|(name, _)| !differs(name)).collect();
    (reply.status, headers, String::from_utf8_lossy(&reply.body).into_owned())
}

/// A counter of the server.
fn counter(stack: &Stack, name: &str) -> Result<u64> {
    let text = stack.api().get("/metrics")?.body;
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find(|line| !line.starts_with('#') && line.contains(name));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.and_then(|value| value.parse().ok()).with_context(|| format!("no counter {name}"))
}

/// How often Argon2 was run: for passwords that were shown, and for new ones.
fn hashed(stack: &Stack) -> Result<u64> {
    Ok(counter(stack, "identity_password_checks_total")?
        + counter(stack, "identity_password_hashes_total")?)
}
