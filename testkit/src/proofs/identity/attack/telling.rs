use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{PASSWORD, Tried, WRONG, launch, person, seen, sign_up, unlimited};
use crate::http::{Http, Reply};
use crate::mailbox::Mailbox;
use crate::proofs::{Ground, Report, Size};
use crate::stack::Stack;

type BodyOf = fn(&str) -> Value;

/// A body for one address at each operation that somebody may ask about it.
const ASKED: &[(&str, BodyOf)] = &[
    ("/v1/session", |email| person(email, WRONG)),
    ("/v1/tokens", |email| person(email, WRONG)),
    ("/conduit/api/users/login", |email| json!({"user": person(email, WRONG)})),
    ("/v1/session/links", |email| json!({ "email": email })),
    ("/v1/password-resets", |email| json!({ "email": email })),
    ("/v1/accounts", |email| person(email, PASSWORD)),
];
/// Of each kind of account one: with a password, with none, and one that only uses what is offered.
const KNOWN: [&str; 3] = ["mina@example.org", "admin@localhost", "reader@example.org"];

fn people(ground: &Ground, folder: &std::path::Path) -> Result<(Stack, Mailbox)> {
    let mailbox = Mailbox::open()?;
    let stack = unlimited(launch(ground, folder)).mail_to(mailbox.port).start()?;
    sign_up(&stack, "mina@example.org")?;
    let mut reader = person("reader@example.org", PASSWORD);
    reader["username"] = json!("reader");
    stack.stranger().post("/conduit/api/users", &json!({ "user": reader }))?.ok()?;
    Ok((stack, mailbox))
}

/// Answers are the same, byte by byte and header by header, whether there is an account or not: at first, and when attempts are
/// at their end.
pub(super) fn by_text(ground: &Ground, report: &mut Report) -> Result<()> {
    let mut tried = Tried::default();
    let folder = tempfile::tempdir()?;
    let (stack, _mailbox) = people(ground, folder.path())?;
    let log_in = asking_page(&stack)?;
    for round in 0..ground.count(1, 20) {
        for (path, body) in ASKED {
            for known in KNOWN {
                let stranger = stack.stranger();
                let found = seen(stranger.post(path, &body(known))?);
                let nobody = format!("nobody-{round}-{}@example.org", known.len());
                let missing = seen(stranger.post(path, &body(&nobody))?);
                tried.check(found == missing, || {
                    format!("{path} of {known}: {found:?}, {missing:?}")
                });
            }
        }
        for known in KNOWN {
            let found = page(&stack, &log_in, known)?;
            let missing = page(&stack, &log_in, "nobody@example.org")?;
            tried.check(found == missing, || format!("the page of a log-in, of {known}"));
        }
    }
    drop(stack);
    let folder = tempfile::tempdir()?;
    let mailbox = Mailbox::open()?;
    let stack = launch(ground, folder.path()).mail_to(mailbox.port).start()?;
    sign_up(&stack, "mina@example.org")?;
    for path in ["/v1/session", "/v1/session/links", "/v1/password-resets"] {
        let body = ASKED.iter().find(|(known, _)| *known == path).context("a body")?.1;
        for attempt in 0..12 {
            let found = seen(stack.stranger().post(path, &body("mina@example.org"))?);
            let missing = seen(stack.stranger().post(path, &body("nobody@example.org"))?);
            tried.check(found == missing, || {
                format!("{path}, attempt {attempt}: {found:?}, {missing:?}")
            });
        }
    }
    tried.tell(report, "answers about accounts");
    Ok(())
}

/// What a tool asked, as the page of a log-in carries it.
fn asking_page(stack: &Stack) -> Result<String> {
    let new = json!({"name": "Wiki", "redirect_uris": ["https://wiki.example/callback"], "has_secret": false});
    let made = stack.api().post("/v1/oidc/tools", &new)?.ok()?;
    let id = made["tool"]["id"].as_str().context("an id")?;
    let page = stack.stranger().get(&format!(
        "/v1/oidc/authorize?response_type=code&client_id={id}&redirect_uri=https%3A%2F%2Fwiki.example%2Fcallback\
         &scope=openid&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256"
    ))?;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    let request = page.split_once("consent?request=").context("a page that goes on")?.1;
    Ok(request.split('"').next().unwrap_or_default().to_owned())
}

/// What a log-in page says, without the address that was typed into it.
fn page(stack: &Stack, request: &str, email: &str) -> Result<(u16, String)> {
    let form = format!("request={request}&email={}&password=wrong", email.replace('@', "%40"));
    let own = stack.stranger().header("sec-fetch-site", "same-origin");
    let kind = "application/x-www-form-urlencoded";
    let (status, _, body) =
        seen(own.send("POST", "/v1/oidc/sign-in", Some((kind, form.as_bytes())))?);
    Ok((status, body.replace(email, "")))
}

/// A line is kept where chance alone does this at least so often.
const CHANCE_MIN: f64 = 0.001;
/// With every change it is run so often that chance comes by.
const CHANCE_MIN_IN_TESTS: f64 = 1e-5;

fn chance_min(ground: &Ground) -> f64 {
    match ground.size {
        Size::Test => CHANCE_MIN_IN_TESTS,
        Size::Full => CHANCE_MIN,
    }
}

/// Times of answers, taken in turns whose order is drawn: by Mann and Whitney's test they do not tell accounts from none.
/// Before it, the test is shown a difference that it must see.
pub(super) fn by_time(ground: &Ground, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (stack, _mailbox) = people(ground, folder.path())?;
    for number in 0..8 {
        sign_up(&stack, &known(number))?;
    }
    let api = stack.stranger();
    let mut order = Order(0x9E37_79B9_7F4A_7C15);
    // So many that some which the machine held up do not hide it.
    let control = in_turns(40, &mut order, |is_known, _| {
        // Too long to be looked at.
        let password = if is_known { "x".repeat(2_000) } else { WRONG.to_owned() };
        timed(|| api.post("/v1/session", &person("control@example.org", &password)))
    })?;
    let line = format!("time tells one password from one that is not hashed: {}", control.line());
    report.bound(control.chance < 1e-4, line);
    for (path, body) in ASKED {
        let count = match *path {
            "/v1/session/links" | "/v1/password-resets" => ground.count(60, 1_000),
            "/v1/accounts" => ground.count(12, 300),
            _ => ground.count(12, 400),
        };
        let found = in_turns(count, &mut order, |is_known, turn| {
            let email = if is_known {
                known(turn % 8)
            } else {
                format!("new-{turn}{}@example.org", path.len())
            };
            let took = timed(|| api.post(path, &body(&email)))?;
            // Whatever follows in the background is not part of the next turn.
            std::thread::park_timeout(Duration::from_millis(8));
            Ok(took)
        })?;
        report.bound(found.chance >= chance_min(ground), format!("{path}: {}", found.line()));
    }
    in_the_background(ground, &api, &mut order, report)
}

/// What others ask right after it does not tell either.
fn in_the_background(
    ground: &Ground,
    api: &Http,
    order: &mut Order,
    report: &mut Report,
) -> Result<()> {
    let found = in_turns(ground.count(60, 1_000), order, |is_known, turn| {
        let email = if is_known { known(turn % 8) } else { format!("absent-{turn}@example.org") };
        ensure!(
            api.post("/v1/password-resets", &json!({ "email": email }))?.status == 202,
            "refused"
        );
        let mut took = Duration::ZERO;
        for _ in 0..10 {
            took += timed(|| api.get("/v1/session/providers"))?;
        }
        std::thread::park_timeout(Duration::from_millis(8));
        Ok(took)
    })?;
    let line = format!("ten requests right after /v1/password-resets: {}", found.line());
    report.bound(found.chance >= chance_min(ground), line);
    Ok(())
}

fn known(number: usize) -> String {
    format!("known-{number}@example.org")
}

#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn timed(ask: impl FnOnce() -> Result<Reply>) -> Result<Duration> {
    let began = Instant::now();
    let reply = ask()?;
    let took = began.elapsed();
    ensure!(reply.status < 500, "status {}", reply.status);
    Ok(took)
}

/// What a test of two samples found.
struct Found {
    count: usize,
    medians: (f64, f64),
    /// How often chance alone does as much.
    chance: f64,
}

impl Found {
    fn line(&self) -> String {
        let (known, unknown) = self.medians;
        let (chance, count) = (self.chance, self.count);
        format!("medians {known:.0} and {unknown:.0} µs, {count} each, chance {chance:.4}")
    }
}

/// Asks of both kinds in turns, either one first.
fn in_turns(
    count: usize,
    order: &mut Order,
    mut ask: impl FnMut(bool, usize) -> Result<Duration>,
) -> Result<Found> {
    for turn in 0..3 {
        ask(true, turn)?;
        ask(false, usize::MAX - turn)?;
    }
    let (mut known, mut unknown) = (Vec::with_capacity(count), Vec::with_capacity(count));
    for turn in 0..count {
        let first = order.next();
        for is_known in [first, !first] {
            let took = ask(is_known, turn)?.as_secs_f64() * 1e6;
            if is_known { known.push(took) } else { unknown.push(took) }
        }
    }
    let chance = mann_whitney(&known, &unknown);
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok(Found { count, medians: (median(&mut known), median(&mut unknown)), chance })
}

/// Coins from a fixed seed (xorshift64).
struct Order(u64);

impl Order {
    fn next(&mut self) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 & 1 == 1
    }
}

/// The two-sided probability of Mann and Whitney's U, by its normal approximation.
fn mann_whitney(one: &[f64], other: &[f64]) -> f64 {
    let mut all: Vec<(f64, bool)> =
        one.iter().map(|it| (*it, true)).chain(other.iter().map(|it| (*it, false))).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut ranks = 0.0;
    let mut at = 0;
    for equal in all.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        let rank = at as f64 + f64::midpoint(equal.len() as f64, 1.0);
        ranks += rank * equal.iter().filter(|(_, is_one)| *is_one).count() as f64;
        at += equal.len();
    }
    let (ones, others) = (one.len() as f64, other.len() as f64);
    let u = ranks - ones * (ones + 1.0) / 2.0;
    let spread = (ones * others * (ones + others + 1.0) / 12.0).sqrt();
    tails((u - ones * others / 2.0).abs() / spread)
}

/// Of a normal distribution, both ends from `z` on (Abramowitz and Stegun, 7.1.26).
fn tails(z: f64) -> f64 {
    let x = z / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let factors = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let sum = factors.iter().fold(0.0, |sum, factor| (sum + factor) * t);
    (sum * (-x * x).exp()).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_samples_of_one_kind_are_told_from_two_of_two() {
        let even: Vec<f64> = (0..200).map(|it| f64::from(it * 2)).collect();
        let odd: Vec<f64> = (0..200).map(|it| f64::from(it * 2 + 1)).collect();
        let later: Vec<f64> = odd.iter().map(|it| it + 100.0).collect();
        assert!(mann_whitney(&even, &odd) > 0.9);
        assert!(mann_whitney(&even, &later) < 1e-6);
        // Of a normal distribution a twentieth lies beyond 1.96.
        assert!((tails(1.959_964) - 0.05).abs() < 1e-5);
    }
}
