//! Log-in by others, of others by us, and by passkeys: over real connections, with real programs on the other side.

mod client;
mod passkeys;
mod stand_in;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Tried;
use crate::http::{Http, Reply};
use crate::proofs::{Ground, Report};
use crate::redis::cache_folder;
use crate::stack::{Launch, Stack, free_port};
use crate::wait::within;

const PASSWORD: &str = "correct horse battery";
const CLIENT: &str = "madang";
const CLIENT_SECRET: &str = "a secret of the client";

type Part = fn(&Ground, &mut Report) -> Result<()>;

/// A provider from the package index and one with the shapes of Kakao and Naver let people in, link accounts, and fail in every
/// way that is known; passkeys of Chromium's own authenticator; a tool that uses Authlib lets people in by us.
pub fn providers(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let parts: [(&str, Part); 4] = [
        ("a stand-in", stand_in::stand_in),
        ("a provider of the index", registered),
        ("passkeys", passkeys::passkeys),
        ("a client", client::client),
    ];
    for (name, part) in parts {
        if let Err(error) = part(ground, &mut report) {
            report.bound(false, format!("{name} broke off: {error:#}"));
        }
    }
    Ok(report)
}

/// A program on the other side, ended when dropped.
struct Program {
    child: Child,
    /// `http://127.0.0.1:PORT`, its issuer too.
    place: String,
}

impl Program {
    fn start(port: u16, mut command: Command) -> Result<Self> {
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        let program = Self { child, place: format!("http://127.0.0.1:{port}") };
        within(Duration::from_secs(30), "a provider", || {
            Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok())
        })?;
        Ok(program)
    }

    fn http(&self) -> Http {
        Http::new(self.place.trim_start_matches("http://"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A stack that knows these providers by their settings.
fn launch(ground: &Ground, folder: &std::path::Path, settings: &[(&str, &str, &str)]) -> Launch {
    let mut launch = Launch::new(&ground.binary, folder)
        .environment("MADANG__EGRESS__ALLOW", "[\"127.0.0.1/32\"]")
        .environment("MADANG__EGRESS__PLAIN_HTTP", "true");
    for name in ["ATTEMPTS_PER_PAIR_MAX", "ATTEMPTS_PER_ACCOUNT_MAX", "ATTEMPTS_PER_ADDRESS_MAX"] {
        launch = launch.environment(&format!("MADANG__IDENTITY__{name}"), "1000000");
    }
    for (provider, key, value) in settings {
        let name = format!("MADANG__IDENTITY__PROVIDERS__{provider}__{key}");
        launch = launch.environment(&name, value);
    }
    launch
}

fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

fn cookie(reply: &Reply, name: &str) -> Option<String> {
    let all = reply.headers.iter().filter(|(header, _)| header == "set-cookie");
    let mut texts = all.filter_map(|(_, value)| value.split(';').next());
    let found = texts.find(|text| text.split('=').next() == Some(name))?;
    (found.len() > name.len() + 1).then(|| found.to_owned())
}

/// A browser that was sent to a provider: where, and what it keeps.
struct Visit {
    url: String,
    kept: String,
}

impl Visit {
    fn of(reply: &Reply) -> Result<Self> {
        let url = reply.ok()?["url"].as_str().context("a URL")?.to_owned();
        Ok(Self { url, kept: cookie(reply, "madang_provider").context("a cookie")? })
    }

    fn begin(stack: &Stack, name: &str) -> Result<Self> {
        Self::of(&stack.stranger().send("POST", &format!("/v1/session/providers/{name}"), None)?)
    }

    /// With what it kept, to where the provider sent it.
    fn come_back(&self, stack: &Stack, place: &str) -> Result<Reply> {
        let path = place.strip_prefix(stack.stranger().origin()).context("our own callback")?;
        stack.stranger().header("cookie", &self.kept).get(path)
    }
}

/// Who somebody is that came back and was let in.
fn who(stack: &Stack, reply: &Reply) -> Result<Option<Value>> {
    let Some(session) = cookie(reply, "madang_session").filter(|_| reply.status == 303) else {
        return Ok(None);
    };
    let browser = stack.stranger().header("cookie", &session);
    Ok(Some(browser.get("/v1/session")?.ok()?))
}

fn sign_up(stack: &Stack, email: &str) -> Result<Http> {
    let person = json!({"email": email, "password": PASSWORD});
    stack.stranger().post("/v1/accounts", &person)?.ok()?;
    let signed_in = stack.stranger().post("/v1/session", &person)?;
    let session = cookie(&signed_in, "madang_session").context("a session")?;
    Ok(stack.stranger().header("cookie", &session).header("sec-fetch-site", "same-origin"))
}

/// `oidc-provider-mock`, where `cargo xtask test` puts it.
fn from_the_index(port: u16, more: &[&str]) -> Result<Program> {
    let program: PathBuf = cache_folder()?.join("oidc-provider/tools/bin/oidc-provider-mock");
    ensure!(program.exists(), "{} is missing: `cargo xtask test` fetches it", program.display());
    let mut command = Command::new(program);
    command.args(["--port", &port.to_string(), "--require-nonce", "true"]).args(more);
    Program::start(port, command)
}

/// A provider that knows nothing of us, and signs by RS256.
fn registered(ground: &Ground, report: &mut Report) -> Result<()> {
    let port = free_port()?;
    let provider = from_the_index(port, &[])?;
    let folder = tempfile::tempdir()?;
    let settings = [
        ("MOCK", "ISSUER", &*provider.place),
        ("MOCK", "CLIENT_ID", CLIENT),
        ("MOCK", "CLIENT_SECRET", CLIENT_SECRET),
    ];
    let stack = launch(ground, folder.path(), &settings).start()?;
    let mut tried = Tried::default();
    let known = |person: &str, claims: &Value| -> Result<()> {
        let body = claims.to_string();
        let body = Some(("application/json", body.as_bytes()));
        let reply = provider.http().send("PUT", &format!("/users/{person}"), body)?;
        ensure!(reply.status < 300, "status {}", reply.status);
        Ok(())
    };
    let agree = |visit: &Visit, person: &str| -> Result<String> {
        let path = visit.url.strip_prefix(&provider.place).context("the provider's own page")?;
        let form = format!("sub={person}");
        let body = Some(("application/x-www-form-urlencoded", form.as_bytes()));
        let reply = provider.http().send("POST", path, body)?;
        let place = header(&reply, "location").to_owned();
        ensure!(!place.is_empty(), "status {}", reply.status);
        Ok(place)
    };
    for round in 0..ground.count(1, 10) {
        for (person, claims, is_let_in) in [
            ("without", json!({"name": "Somebody"}), false),
            (
                "unverified",
                json!({"email": format!("u-{round}@example.org"), "email_verified": false}),
                false,
            ),
            ("unsaid", json!({"email": format!("s-{round}@example.org")}), false),
            (
                "verified",
                json!({"email": format!("v-{round}@example.org"), "email_verified": true}),
                true,
            ),
        ] {
            let person = format!("{person}-{round}");
            known(&person, &claims)?;
            let visit = Visit::begin(&stack, "mock")?;
            let back = agree(&visit, &person)?;
            let reply = visit.come_back(&stack, &back)?;
            let found = who(&stack, &reply)?;
            let held = match &found {
                None => !is_let_in && reply.status == 403,
                Some(found) => is_let_in && found["email"] == claims["email"],
            };
            tried.check(held, || format!("{person}: {}, {found:?}", reply.status));
            let again = visit.come_back(&stack, &back)?;
            tried.check(again.status == 401, || format!("{person}, replayed: {}", again.status));
        }
        // Known by the subject from then on, whatever is said of the address.
        let person = format!("verified-{round}");
        known(&person, &json!({"name": "Somebody"}))?;
        let visit = Visit::begin(&stack, "mock")?;
        let found = who(&stack, &visit.come_back(&stack, &agree(&visit, &person)?)?)?;
        let held = found.as_ref().is_some_and(|it| it["email"] == format!("v-{round}@example.org"));
        tried.check(held, || format!("{person}, again: {found:?}"));
    }
    let visit = Visit::begin(&stack, "mock")?;
    let back = agree(&visit, "verified-0")?;
    drop(provider);
    let begun = stack.stranger().send("POST", "/v1/session/providers/mock", None)?.status;
    let came = visit.come_back(&stack, &back)?.status;
    tried
        .check((begun, came) == (503, 503), || format!("a provider that is gone: {begun}, {came}"));
    // Another one at the same place has other keys and knows no code of the first.
    let _provider = from_the_index(port, &["--token-max-age", "-3600"])?;
    let visit = Visit::begin(&stack, "mock")?;
    let path = visit.url.split_once("/oauth2").context("its page")?.1;
    let form = Some(("application/x-www-form-urlencoded", b"sub=verified-0".as_slice()));
    let reply =
        Http::new(&format!("127.0.0.1:{port}")).send("POST", &format!("/oauth2{path}"), form)?;
    let came = visit.come_back(&stack, header(&reply, "location"))?.status;
    tried.check(came == 401, || format!("tokens that ended an hour ago: {came}"));
    tried.tell(report, "oidc-provider-mock");
    Ok(())
}
