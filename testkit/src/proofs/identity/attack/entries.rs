use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::{
    PASSWORD, Tried, WRONG, browser, hashed, launch, person, seen, sign_in, sign_up, tokens,
    unlimited,
};
use crate::http::Reply;
use crate::mqtt_client::MqttClient;
use crate::proofs::{Ground, Report, Size};
use crate::resp::{self, Resp};
use crate::stack::Stack;
use crate::stomp_client::StompClient;

/// What `[identity]` says without being set.
const PER_PAIR: usize = 10;
const PER_ACCOUNT: usize = 100;
const PER_ADDRESS: usize = 50;
const AT_ONCE: usize = 40;

/// Leaked addresses and passwords, from one place and from many. A proxy that is believed says where each comes from.
pub(super) fn stuffing(ground: &Ground, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let launch = launch(ground, folder.path());
    let stack =
        launch.environment("MADANG__HTTP__TRUSTED_PROXIES", "[\"127.0.0.1/32\"]").start()?;
    for number in 0..4 {
        sign_up(&stack, &somebody(number))?;
    }
    let mut tried = Tried::default();
    list_of_one_address(ground, &stack, &mut tried)?;
    many_addresses(ground, &stack, &mut tried)?;
    all_at_once(&stack, &mut tried)?;
    other_doors(&stack, &mut tried)?;
    tried.tell(report, "credential stuffing");
    Ok(())
}

fn somebody(number: usize) -> String {
    format!("person-{number}@example.org")
}

fn guess(stack: &Stack, from: &str, email: &str, password: &str) -> Result<Reply> {
    stack.stranger().header("x-forwarded-for", from).post("/v1/session", &person(email, password))
}

/// After so many wrong ones not even a right one is looked at, and none of them costs a hash.
fn list_of_one_address(ground: &Ground, stack: &Stack, tried: &mut Tried) -> Result<()> {
    let before = hashed(stack)?;
    for number in 0..ground.count(70, 2_000) {
        let is_right = number >= PER_ADDRESS && number % 10 == 9;
        let (email, password) = if is_right {
            (somebody(0), PASSWORD)
        } else {
            (format!("leaked-{number}@x.org"), WRONG)
        };
        let status = guess(stack, "192.0.2.7", &email, password)?.status;
        let expected = if number < PER_ADDRESS { 401 } else { 429 };
        tried.check(status == expected, || format!("guess {number} of a list: status {status}"));
    }
    let known = seen(guess(stack, "192.0.2.7", &somebody(0), PASSWORD)?);
    let unknown = seen(guess(stack, "192.0.2.7", "nobody@example.org", PASSWORD)?);
    tried.check(known == unknown, || format!("locked out: {known:?}, and {unknown:?}"));
    let spent = hashed(stack)? - before;
    tried.check(spent == PER_ADDRESS as u64, || format!("{spent} hashes for a list"));
    let owner = guess(stack, "192.0.2.8", &somebody(0), PASSWORD)?.status;
    tried.check(owner == 200, || format!("the owner, from elsewhere: status {owner}"));
    Ok(())
}

/// Each address tries once; the account has its own end, whether there is one or not.
fn many_addresses(ground: &Ground, stack: &Stack, tried: &mut Tried) -> Result<()> {
    let mut ends = vec![];
    for (part, email) in [(1, somebody(1)), (2, "nobody@example.org".to_owned())] {
        for number in 0..ground.count(PER_ACCOUNT + 5, 500) {
            let from = format!("10.{part}.{}.{}", number / 200, number % 200 + 1);
            let status = guess(stack, &from, &email, WRONG)?.status;
            let expected = if number < PER_ACCOUNT { 401 } else { 429 };
            tried.check(status == expected, || format!("{email} from {from}: status {status}"));
        }
        ends.push(seen(guess(stack, "10.9.9.9", &email, PASSWORD)?));
    }
    tried.check(ends[0] == ends[1] && ends[0].0 == 429, || format!("at its end: {ends:?}"));
    Ok(())
}

/// Those that come at once do not slip through before they are counted.
fn all_at_once(stack: &Stack, tried: &mut Tried) -> Result<()> {
    for email in [somebody(2), "nobody-2@example.org".to_owned()] {
        let begin = Barrier::new(AT_ONCE);
        let statuses: Result<Vec<u16>> = thread::scope(|scope| {
            let all: Vec<_> = (0..AT_ONCE)
                .map(|_| {
                    scope.spawn(|| {
                        begin.wait();
                        Ok(guess(stack, "192.0.2.9", &email, WRONG)?.status)
                    })
                })
                .collect();
            all.into_iter().map(|one| one.join().ok().context("a guess panicked")?).collect()
        });
        let statuses = statuses?;
        let looked_at = statuses.iter().filter(|status| **status == 401).count();
        let rest = statuses.iter().filter(|status| **status == 429).count();
        let held = looked_at == PER_PAIR && looked_at + rest == AT_ONCE;
        tried.check(held, || format!("{email}: {looked_at} looked at, {rest} refused, at once"));
    }
    let owner = guess(stack, "192.0.2.10", &somebody(2), PASSWORD)?.status;
    tried.check(owner == 200, || format!("the owner beside a guesser: status {owner}"));
    Ok(())
}

/// A password opens HTTP only, and elsewhere costs nothing.
fn other_doors(stack: &Stack, tried: &mut Tried) -> Result<()> {
    let before = hashed(stack)?;
    let email = somebody(3);
    let mqtt = MqttClient::open(stack.mqtt_address())?.log_in("c", &email, PASSWORD);
    tried.check(!matches!(mqtt, Ok(0)), || "a password opens MQTT".into());
    let resp = Resp::connect(stack.resp_address())?.ask(&["AUTH", &email, PASSWORD])?;
    tried.check(matches!(resp, resp::Value::Error(_)), || format!("a password at RESP: {resp:?}"));
    let mut stomp = StompClient::open(stack.http_address(), "")?;
    let stomp = stomp.log_in(&format!("login:{email}\npasscode:{PASSWORD}"));
    tried.check(stomp.is_err(), || "a password opens STOMP".into());
    let spent = hashed(stack)? - before;
    tried.check(spent == 0, || format!("{spent} hashes at doors that take keys"));
    Ok(())
}

/// A refresh token that comes a second time ends all that came of it, whichever it is and however many come at once.
pub(super) fn reuse(ground: &Ground, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stack = launch(ground, folder.path()).start()?;
    sign_up(&stack, "mina@example.org")?;
    let mut tried = Tried::default();
    for family in 0..ground.count(3, 100) {
        family_ends(ground, &stack, family, &mut tried)?;
        race(&stack, &mut tried)?;
    }
    tried.tell(report, "refresh tokens that come again");
    Ok(())
}

fn app(stack: &Stack) -> Result<(String, String)> {
    tokens(&stack.stranger().post("/v1/tokens", &person("mina@example.org", PASSWORD))?)
}

fn refresh(stack: &Stack, token: &str) -> Result<Reply> {
    stack.stranger().post("/v1/tokens/refresh", &json!({ "refresh_token": token }))
}

#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn family_ends(ground: &Ground, stack: &Stack, family: usize, tried: &mut Tried) -> Result<()> {
    let (mut access, mut next) = app(stack)?;
    let mut spent = vec![];
    for _ in 0..3 {
        spent.push(next.clone());
        let before = access;
        (access, next) = tokens(&refresh(stack, &next)?)?;
        let status = stack.stranger().bearer(&before).get("/v1/session")?.status;
        tried.check(status == 401, || format!("an access token that was replaced: {status}"));
    }
    let holder = stack.stranger().bearer(&access);
    let mut stream = holder.events("/v1/events?topic=readings")?;
    ensure!(holder.get("/v1/session")?.status == 200, "the newest opens nothing");
    let began = Instant::now();
    let again = refresh(stack, &spent[family % spent.len()])?.status;
    tried.check(again == 401, || format!("a spent refresh token: {again}"));
    while stream.next_event()?.is_some() {}
    let took = began.elapsed();
    tried.check(took <= within(ground), || format!("its stream ended after {took:?}"));
    let status = holder.get("/v1/session")?.status;
    tried.check(status == 401, || format!("the access token of an ended family: {status}"));
    let status = refresh(stack, &next)?.status;
    tried.check(status == 401, || format!("the newest token of an ended family: {status}"));
    Ok(())
}

/// Of many exchanges at once one at most is good, and then it came twice.
fn race(stack: &Stack, tried: &mut Tried) -> Result<()> {
    let (_, token) = app(stack)?;
    let begin = Barrier::new(8);
    let replies: Result<Vec<Reply>> = thread::scope(|scope| {
        let one = || {
            begin.wait();
            refresh(stack, &token)
        };
        let all: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
        all.into_iter().map(|one| one.join().ok().context("an exchange panicked")?).collect()
    });
    let good: Vec<_> = replies?.into_iter().filter(|reply| reply.status == 200).collect();
    tried.check(good.len() <= 1, || format!("{} exchanges of one token", good.len()));
    for reply in &good {
        let (access, _) = tokens(reply)?;
        let status = stack.stranger().bearer(&access).get("/v1/session")?.status;
        tried.check(status == 401, || format!("what one of eight exchanges gave: {status}"));
    }
    Ok(())
}

/// Connections that each show a key; none pays for a password.
pub(super) fn reconnects(ground: &Ground, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stack = launch(ground, folder.path()).start()?;
    let each = ground.count(100, 12_500);
    let user = stack.mqtt_user().to_owned();
    let doors: [(&str, &dyn Fn() -> Result<()>); 4] = [
        ("HTTP", &|| {
            let status = stack.api().get("/v1/keys?limit=1")?.status;
            ensure!(status == 200, "status {status}");
            Ok(())
        }),
        ("MQTT", &|| {
            let client = format!("{user}-again");
            MqttClient::connect(stack.mqtt_address(), &client, &user, stack.mqtt_password())?;
            Ok(())
        }),
        ("RESP", &|| {
            let mut client = Resp::connect(stack.resp_address())?;
            client.done(&["AUTH", stack.resp_password()])?;
            Ok(())
        }),
        ("STOMP", &|| StompClient::connect(stack.http_address(), stack.token()).map(drop)),
    ];
    for (door, come) in doors {
        let (hashes, cpu) = (hashed(&stack)?, stack.cpu()?);
        for _ in 0..each {
            come().context(door)?;
        }
        let spent = stack.cpu()?.saturating_sub(cpu).as_secs_f64() * 1e6 / each as f64;
        let hashes = hashed(&stack)? - hashes;
        // A hash is some 20,000 µs.
        let held = hashes == 0 && (ground.size == Size::Test || spent < 1_000.0);
        let line = format!(
            "{door}: {each} connections with a key, {hashes} hashes, {spent:.0} µs of processor each"
        );
        report.bound(held, line);
    }
    Ok(())
}

/// How long an access token and a session last: beside other tests, long enough to open something by them.
fn lives(ground: &Ground) -> (Duration, Duration) {
    match ground.size {
        Size::Test => (Duration::from_secs(10), Duration::from_secs(15)),
        Size::Full => (Duration::from_secs(2), Duration::from_secs(4)),
    }
}

/// How soon something is closed; beside other tests only a standstill is told from a loaded machine.
fn within(ground: &Ground) -> Duration {
    Duration::from_secs(if ground.size == Size::Test { 10 } else { 1 })
}

/// What ends by time ends what is open by it.
pub(super) fn ends(ground: &Ground, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let lives = lives(ground);
    let text = |life: Duration| format!("{}s", life.as_secs());
    let stack = unlimited(launch(ground, folder.path()))
        .environment("MADANG__IDENTITY__ACCESS_TIME_MAX", &text(lives.0))
        .environment("MADANG__IDENTITY__SESSION_AGE_MAX", &text(lives.1))
        .start()?;
    sign_up(&stack, "mina@example.org")?;
    let count = ground.count(2, 40);
    let found: Result<Vec<Vec<Late>>> = thread::scope(|scope| {
        let all: Vec<_> = (0..count).map(|_| scope.spawn(|| late(&stack, lives))).collect();
        all.into_iter().map(|one| one.join().ok().context("it panicked")?).collect()
    });
    let mut found: Vec<Late> = found?.into_iter().flatten().collect();
    found.sort_by_key(|(what, _)| *what);
    for of_one in found.chunk_by(|one, other| one.0 == other.0) {
        let latest = of_one.iter().map(|(_, late)| late.end).fold(f64::MIN, f64::max);
        let earliest = of_one.iter().map(|(_, late)| late.start).fold(f64::MAX, f64::min);
        let held = latest <= within(ground).as_secs_f64() && earliest >= 0.0;
        let line = format!(
            "{}: closed {earliest:.2} to {latest:.2} s after its end, {count} times",
            of_one[0].0
        );
        report.bound(held, line);
    }
    Ok(())
}

/// What was open, and how many seconds after its end it was closed: at most and at least, for its life began between the
/// request and the answer.
type Late = (&'static str, std::ops::Range<f64>);

#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn late(stack: &Stack, (access_life, session_life): (Duration, Duration)) -> Result<Vec<Late>> {
    let asked = Instant::now();
    let (access, _) = app(stack)?;
    let issued = asked..Instant::now();
    let asked = Instant::now();
    let cookie = sign_in(stack, "mina@example.org")?;
    let began = asked..Instant::now();
    let mut by_token = stack.stranger().bearer(&access).events("/v1/events?topic=readings")?;
    let header = format!("authorization: Bearer {access}\r\n");
    let mut token_socket = StompClient::open(stack.http_address(), &header)?;
    token_socket.log_in("host:here")?;
    let mut by_cookie = browser(stack, &cookie).events("/v1/events?topic=readings")?;
    let header = format!("cookie: {cookie}\r\norigin: http://{}\r\n", stack.http_address());
    let mut cookie_socket = StompClient::open(stack.http_address(), &header)?;
    cookie_socket.log_in("host:here")?;
    let after = |began: &std::ops::Range<Instant>, life: Duration| {
        let of = |began: Instant| began.elapsed().as_secs_f64() - life.as_secs_f64();
        of(began.start)..of(began.end)
    };
    let (issued, began) = (&issued, &began);
    thread::scope(|scope| {
        let all = [
            scope.spawn(move || {
                while by_token.next_event()?.is_some() {}
                Ok(("a stream of an access token", after(issued, access_life)))
            }),
            scope.spawn(move || {
                while matches!(token_socket.hear(), Ok(Some(_))) {}
                Ok(("a socket of an access token", after(issued, access_life)))
            }),
            scope.spawn(move || {
                while by_cookie.next_event()?.is_some() {}
                Ok(("a stream of a browser's session", after(began, session_life)))
            }),
            scope.spawn(move || {
                while matches!(cookie_socket.hear(), Ok(Some(_))) {}
                Ok(("a socket of a browser's session", after(began, session_life)))
            }),
        ];
        all.into_iter().map(|one| one.join().ok().context("it panicked")?).collect()
    })
}
