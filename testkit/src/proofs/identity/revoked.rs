use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base::access::Door;
use serde_json::{Value, json};

use crate::http::{Http, Reply, Stream};
use crate::mqtt_client::MqttClient;
use crate::proofs::{Ground, Report, Size};
use crate::resp::Resp;
use crate::stack::{Launch, Stack};
use crate::stomp_client::StompClient;
use crate::wait::within_every;

/// What is open may go on for so long.
const WITHIN: Duration = Duration::from_secs(1);
const DOORS: [Door; 4] = [Door::Http, Door::Mqtt, Door::Resp, Door::Stomp];
const PASSWORD: &str = "correct horse battery";
/// The example of RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
const BACK: &str = "https://wiki.example/callback";

/// A key that is revoked, a session that ends, and what was given to a tool and is taken back end within a second, on open
/// connections of every door. A door without a row does not compile.
pub fn revoked(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    // Each round signs up somebody.
    let launch = Launch::new(&ground.binary, folder.path())
        .environment("MADANG__IDENTITY__SIGN_UPS_PER_ADDRESS_MAX", "1000");
    let stack = launch.start()?;
    let rounds = ground.count(2, 50);
    let mut worst: Vec<(&'static str, Duration)> = vec![];
    for round in 0..rounds {
        let mut found = vec![];
        for door in DOORS {
            found.extend(key_of(&stack, door)?);
        }
        found.extend(session(&stack, round)?);
        found.push(("a tool's access token, taken back", tool(&stack, round)?));
        worst.resize(found.len(), ("", Duration::ZERO));
        for (worst, (what, took)) in worst.iter_mut().zip(found) {
            *worst = (what, took.max(worst.1));
        }
    }
    // Beside other tests what is never looked at again is told from a loaded machine.
    let within = if ground.size == Size::Test { WITHIN * 10 } else { WITHIN };
    for (what, worst) in worst {
        report.bound(worst <= within, format!("{what}: at most {worst:?}, {rounds} times"));
    }
    Ok(report)
}

/// A key of its own, and how to revoke it.
struct Key<'a> {
    stack: &'a Stack,
    made: Value,
}

impl<'a> Key<'a> {
    fn new(stack: &'a Stack) -> Result<Self> {
        let grants = json!([{"action": "*", "resource": "*"}]);
        let body = json!({"label": "soon gone", "grants": grants});
        Ok(Self { stack, made: stack.api().post("/v1/keys", &body)?.ok()? })
    }

    fn text(&self, name: &str) -> &str {
        self.made[name].as_str().expect("a key has its texts")
    }

    /// The moment before it is revoked.
    #[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
    fn revoke(&self) -> Result<Instant> {
        let began = Instant::now();
        self.stack.api().delete(&format!("/v1/keys/{}", self.text("id")))?.ok()?;
        Ok(began)
    }
}

fn key_of(stack: &Stack, door: Door) -> Result<Vec<(&'static str, Duration)>> {
    let key = Key::new(stack)?;
    let (user, password) = (key.text("mqtt_user"), key.text("mqtt_password"));
    Ok(match door {
        Door::Http => {
            let api = stack.stranger().bearer(key.text("token"));
            let mut stream = api.events("/v1/events?topic=readings")?;
            ensure!(api.get("/v1/keys")?.status == 200, "the key opens nothing");
            let began = key.revoke()?;
            let request = until(began, || Ok(api.get("/v1/keys")?.status == 401))?;
            vec![
                ("a key's stream over HTTP", stream_ended(&mut stream, began)?),
                ("a key's request over HTTP, on a connection that is open", request),
            ]
        }
        Door::Mqtt => {
            let mut mqtt = MqttClient::connect(stack.mqtt_address(), user, user, password)?;
            ensure!(mqtt.subscribe("data/#")? != 0x80, "it may not subscribe");
            let began = key.revoke()?;
            mqtt.closed()?;
            vec![("a key's MQTT", began.elapsed())]
        }
        Door::Resp => {
            let mut resp = Resp::connect(stack.resp_address())?;
            resp.done(&["AUTH", user, password])?;
            resp.done(&["SET", "gone", "1"])?;
            let mut hearer = Resp::connect(stack.resp_address())?;
            hearer.done(&["AUTH", user, password])?;
            hearer.done(&["SUBSCRIBE", "gone"])?;
            let began = key.revoke()?;
            let asking = until(began, || Ok(resp.done(&["GET", "gone"]).is_err()))?;
            // It asks nothing; the server ends it, and may say why.
            while hearer.read().is_ok() {}
            vec![("a key's RESP that asks", asking), ("a key's RESP that listens", began.elapsed())]
        }
        Door::Stomp => {
            let mut stomp = StompClient::connect(stack.http_address(), key.text("token"))?;
            stomp.done("SUBSCRIBE\nid:0\ndestination:/topic/gone")?;
            let began = key.revoke()?;
            vec![("a key's STOMP", ended(&mut stomp, began))]
        }
    })
}

/// Somebody with an account of their own organisation: their address, and a browser that is signed in.
fn somebody(stack: &Stack, name: &str) -> Result<(Value, Http, String)> {
    let person = json!({"email": format!("{name}@example.org"), "password": PASSWORD});
    stack.stranger().post("/v1/accounts", &person)?.ok()?;
    let signed_in = stack.stranger().post("/v1/session", &person)?;
    let cookie = header(&signed_in, "set-cookie").split(';').next().unwrap_or_default().to_owned();
    let browser = stack.stranger().header("cookie", &cookie);
    Ok((person, browser.header("sec-fetch-site", "same-origin"), cookie))
}

#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn session(stack: &Stack, round: usize) -> Result<Vec<(&'static str, Duration)>> {
    let (person, browser, cookie) = somebody(stack, &format!("somebody-{round}"))?;
    let tokens = stack.stranger().post("/v1/tokens", &person)?.ok()?;
    let text = |name: &str| tokens[name].as_str().map(str::to_owned).context("tokens");
    let mut by_cookie = browser.events("/v1/events?topic=readings")?;
    let app = stack.stranger().bearer(&text("access_token")?);
    let mut by_app = app.events("/v1/events?topic=readings")?;
    let headers = format!("cookie: {cookie}\r\norigin: http://{}\r\n", stack.http_address());
    let mut stomp = StompClient::open(stack.http_address(), &headers)?;
    stomp.log_in("host:here")?;
    stomp.done("SUBSCRIBE\nid:0\ndestination:/topic/gone")?;

    let began = Instant::now();
    app.post("/v1/tokens/revoke", &json!({"refresh_token": text("refresh_token")?}))?.ok()?;
    let app = stream_ended(&mut by_app, began)?;
    let began = Instant::now();
    browser.delete("/v1/session")?.ok()?;
    let stomp = ended(&mut stomp, began);
    let cookie = stream_ended(&mut by_cookie, began)?;
    Ok(vec![
        ("an app's stream, its session ended", app),
        ("a browser's STOMP, its session ended", stomp),
        ("a browser's stream, its session ended", cookie),
    ])
}

/// How long a tool may still ask who somebody is who takes that back.
#[allow(clippy::disallowed_methods, reason = "a development tool measures real time")]
fn tool(stack: &Stack, round: usize) -> Result<Duration> {
    let (_, browser, _) = somebody(stack, &format!("person-{round}"))?;
    let new = json!({"name": "Wiki", "redirect_uris": [BACK], "has_secret": false});
    let made = browser.post("/v1/oidc/tools", &new)?.ok()?;
    let id = made["tool"]["id"].as_str().context("an id")?;
    let link = format!(
        "/v1/oidc/authorize?response_type=code&client_id={id}&redirect_uri=https%3A%2F%2Fwiki.example%2Fcallback\
         &scope=openid%20offline_access&code_challenge={CHALLENGE}&code_challenge_method=S256"
    );
    let page = browser.get(&link)?;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    let request = page.split_once("consent?request=").context("a page that goes on")?.1;
    let request = request.split('"').next().unwrap_or_default();
    let allowed = form(&browser, "/v1/oidc/consent", &format!("request={request}&answer=allow"))?;
    let place = header(&allowed, "location");
    let code = place.split_once("code=").context("a code")?.1.split('&').next().unwrap_or_default();
    let asked = format!(
        "grant_type=authorization_code&client_id={id}&code={code}&code_verifier={VERIFIER}\
         &redirect_uri=https%3A%2F%2Fwiki.example%2Fcallback"
    );
    let issued = form(&stack.stranger(), "/v1/oidc/token", &asked)?.ok()?;
    let wiki = stack.stranger().bearer(issued["access_token"].as_str().context("a token")?);
    wiki.get("/v1/oidc/userinfo")?.ok()?;
    let began = Instant::now();
    browser.delete(&format!("/v1/account/tools/{id}"))?.ok()?;
    until(began, || Ok(wiki.get("/v1/oidc/userinfo")?.status == 401))
}

fn form(http: &Http, path: &str, body: &str) -> Result<Reply> {
    http.send("POST", path, Some(("application/x-www-form-urlencoded", body.as_bytes())))
}

fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

fn stream_ended(stream: &mut Stream, began: Instant) -> Result<Duration> {
    while stream.next_event()?.is_some() {}
    Ok(began.elapsed())
}

/// Until a connection says nothing more but why.
fn ended(stomp: &mut StompClient, began: Instant) -> Duration {
    while matches!(stomp.hear(), Ok(Some(_))) {}
    began.elapsed()
}

fn until(began: Instant, mut is_over: impl FnMut() -> Result<bool>) -> Result<Duration> {
    within_every(Duration::from_millis(5), Duration::from_secs(20), "the end", || {
        Ok(is_over()?.then_some(()))
    })?;
    Ok(began.elapsed())
}
