use std::process::Command;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    CLIENT, CLIENT_SECRET, PASSWORD, Program, Tried, Visit, cookie, header, launch, sign_up, who,
};
use crate::http::Reply;
use crate::proofs::{Ground, Report};
use crate::stack::{Stack, free_port};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/oidc/stand_in.py");

struct Scene {
    provider: Program,
    stack: Stack,
}

fn program(port: u16) -> Result<Program> {
    let mut command = Command::new("/usr/bin/python3");
    command.args([SCRIPT, &port.to_string()]);
    Program::start(port, command)
}

impl Scene {
    /// What the provider does from now on.
    #[allow(clippy::needless_pass_by_value, reason = "faults are written where they are set")]
    fn set(&self, faults: Value) -> Result<()> {
        self.provider.http().post("/faults", &faults)?.ok()?;
        Ok(())
    }

    /// What a person does there: says yes, and is sent back with a code.
    fn agree(&self, visit: &Visit) -> Result<String> {
        let path = visit.url.strip_prefix(&self.provider.place).context("its own page")?;
        Ok(header(&self.provider.http().get(path)?, "location").to_owned())
    }

    fn come(&self, name: &str) -> Result<Reply> {
        let visit = Visit::begin(&self.stack, name)?;
        visit.come_back(&self.stack, &self.agree(&visit)?)
    }

    /// Comes in, or is refused with this status and without a session.
    fn comes(
        &self,
        name: &str,
        expected: Result<&str, u16>,
        tried: &mut Tried,
        what: &str,
    ) -> Result<()> {
        let reply = self.come(name)?;
        let found = who(&self.stack, &reply)?;
        let held = match (&found, expected) {
            (Some(found), Ok(email)) => found["email"] == email,
            (None, Err(status)) => {
                reply.status == status && cookie(&reply, "madang_session").is_none()
            }
            _ => false,
        };
        tried.check(held, || {
            format!("{name}, {what}: {} {found:?}, not {expected:?}", reply.status)
        });
        Ok(())
    }
}

/// Kakao's OpenID Connect and Naver's OAuth 2, with every fault that a provider, a thief or a clock can have.
pub(super) fn stand_in(ground: &Ground, report: &mut Report) -> Result<()> {
    let port = free_port()?;
    let provider = program(port)?;
    let place = provider.place.clone();
    let naver = |path: &str| format!("{place}{path}");
    let (authorize, token, profile) =
        (naver("/oauth2.0/authorize"), naver("/oauth2.0/token"), naver("/v1/nid/me"));
    let settings = [
        ("KAKAO", "ISSUER", &*place),
        ("KAKAO", "CLIENT_ID", CLIENT),
        ("KAKAO", "CLIENT_SECRET", CLIENT_SECRET),
        ("KAKAO", "SCOPE", "openid account_email"),
        ("NAVER", "AUTHORIZATION_ENDPOINT", &*authorize),
        ("NAVER", "TOKEN_ENDPOINT", &*token),
        ("NAVER", "PROFILE_ENDPOINT", &*profile),
        ("NAVER", "PROFILE_SUBJECT", "/response/id"),
        ("NAVER", "CLIENT_ID", CLIENT),
        ("NAVER", "CLIENT_SECRET", CLIENT_SECRET),
    ];
    let mut tried = Tried::default();
    let mut provider = provider;
    for round in 0..ground.count(1, 5) {
        let folder = tempfile::tempdir()?;
        let stack = launch(ground, folder.path(), &settings).start()?;
        let scene = Scene { provider, stack };
        addresses(&scene, round, &mut tried)?;
        links(&scene, &mut tried)?;
        tokens(&scene, &mut tried)?;
        ways_back(&scene, &mut tried)?;
        provider = faults(scene, port, &mut tried)?.provider;
    }
    tried.tell(report, "a stand-in with the shapes of Kakao and Naver");
    Ok(())
}

/// Who is unknown gets an account for an address that the provider vouches for, and that nobody has here.
fn addresses(scene: &Scene, round: usize, tried: &mut Tried) -> Result<()> {
    sign_up(&scene.stack, "taken@example.org")?;
    for (what, told) in [
        ("no address", json!({})),
        ("an address", json!({"email": "mina@example.org"})),
        (
            "an address that is not verified",
            json!({"email": "mina@example.org", "email_verified": false}),
        ),
        (
            "an address that is verified in words",
            json!({"email": "mina@example.org", "email_verified": "false"}),
        ),
        ("no address that is verified", json!({"email": "", "email_verified": true})),
        ("what is no address", json!({"email": "mina", "email_verified": true})),
        (
            "an address of somebody here",
            json!({"email": "taken@example.org", "email_verified": true}),
        ),
        ("the same in capitals", json!({"email": "TAKEN@example.org", "email_verified": true})),
    ] {
        scene.set(told)?;
        scene.comes("kakao", Err(403), tried, what)?;
    }
    scene.set(json!({"email": "mina@example.org", "email_verified": true}))?;
    // A provider without ID tokens vouches for nothing.
    scene.comes("naver", Err(403), tried, "a profile with an address")?;
    scene.comes("kakao", Ok("mina@example.org"), tried, "a verified address")?;
    for told in [json!({}), json!({"email": "other@example.org", "email_verified": true})] {
        scene.set(told)?;
        scene.comes("kakao", Ok("mina@example.org"), tried, "the same subject")?;
    }
    scene.set(json!({"subject": format!("8-{round}")}))?;
    scene.comes("kakao", Err(403), tried, "another subject")
}

/// An account is linked by whoever is signed in to it and shows the password.
fn links(scene: &Scene, tried: &mut Tried) -> Result<()> {
    let stack = &scene.stack;
    let (jin, sora) = (sign_up(stack, "jin@example.org")?, sign_up(stack, "sora@example.org")?);
    for name in ["kakao", "naver"] {
        scene
            .set(json!({"subject": "jin", "email": "sora@example.org", "email_verified": true}))?;
        let path = format!("/v1/account/providers/{name}");
        for body in [json!({}), json!({"password": "wrong password"})] {
            let status = jin.post(&path, &body)?.status;
            tried.check(status == 403, || format!("{name}, linking by {body}: {status}"));
        }
        let password = json!({ "password": PASSWORD });
        let foreign = stack.stranger().post(&path, &password)?.status;
        tried.check(foreign == 401, || format!("{name}, linking by nobody: {foreign}"));
        let visit = Visit::of(&jin.post(&path, &password)?)?;
        let reply = visit.come_back(stack, &scene.agree(&visit)?)?;
        let held = reply.status == 303 && header(&reply, "location") == "/#/account";
        tried.check(held, || format!("{name}, linking: {}", reply.status));
        scene.comes(name, Ok("jin@example.org"), tried, "linked")?;
        // Somebody else cannot have the same one, nor take it over by the address that it claims.
        let visit = Visit::of(&sora.post(&path, &password)?)?;
        let status = visit.come_back(stack, &scene.agree(&visit)?)?.status;
        tried.check(status == 409, || format!("{name}, linking twice: {status}"));
        scene.comes(name, Ok("jin@example.org"), tried, "still linked")?;
        let status = jin.delete(&path)?.status;
        tried.check(status == 204, || format!("{name}, unlinking: {status}"));
        scene.set(json!({"subject": "jin"}))?;
        scene.comes(name, Err(403), tried, "unlinked")?;
    }
    Ok(())
}

/// An ID token that is not right for this log-in opens nothing; a clock may be off by less than a minute.
fn tokens(scene: &Scene, tried: &mut Tried) -> Result<()> {
    let ok = json!({"email": "mina@example.org", "email_verified": true});
    let with = |more: Value| {
        let mut all = ok.clone();
        if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
            all.extend(more);
        }
        all
    };
    for (what, more) in [
        ("of another issuer", json!({"claims": {"iss": "https://evil.example"}})),
        (
            "of an issuer with a slash more",
            json!({"claims": {"iss": format!("{}/", scene.provider.place)}}),
        ),
        ("for another client", json!({"claims": {"aud": "somebody-else"}})),
        ("for nobody", json!({"without": ["aud"]})),
        ("for several, of which none is us", json!({"claims": {"aud": ["a", "b"]}})),
        ("of another log-in", json!({"claims": {"nonce": "of another log-in"}})),
        ("of no log-in", json!({"without": ["nonce"]})),
        ("of nobody", json!({"claims": {"sub": ""}})),
        ("without a subject", json!({"without": ["sub"]})),
        ("without an end", json!({"without": ["exp"]})),
        ("that ended", json!({"lasts": -600})),
        ("by a clock that is ten minutes early", json!({"skew": -600, "lasts": 60})),
        ("by a clock that is ten minutes late", json!({"skew": 600})),
        ("by another key", json!({"signed": "other key"})),
        ("that was changed", json!({"signed": "changed"})),
        ("without a signature", json!({"signed": "none"})),
        ("signed by what everybody knows", json!({"signed": "HS256"})),
        ("that is not there", json!({"no_id_token": true})),
    ] {
        scene.set(with(more))?;
        scene.comes("kakao", Err(401), tried, &format!("an ID token {what}"))?;
    }
    for skew in [-30, 30] {
        scene.set(with(json!({"skew": skew, "lasts": 300})))?;
        let what = format!("a clock that is {skew} s off");
        scene.comes("kakao", Ok("mina@example.org"), tried, &what)?;
    }
    scene.set(with(json!({"skew": -30, "lasts": 0})))?;
    scene.comes("kakao", Ok("mina@example.org"), tried, "an ID token that ended as it came")?;
    scene.set(with(json!({"issuer": "https://evil.example"})))?;
    let status = scene.stack.stranger().send("POST", "/v1/session/providers/kakao", None)?.status;
    tried.check(status >= 400, || format!("discovery that names another issuer: {status}"));
    scene.set(ok)
}

/// A code, a state and a cookie belong to one browser and one log-in, once.
fn ways_back(scene: &Scene, tried: &mut Tried) -> Result<()> {
    let stack = &scene.stack;
    let own = stack.stranger().origin().to_owned();
    let parts = |place: &str| -> Result<(String, String)> {
        let query = place.split_once('?').context("a query")?.1;
        let part = |name: &str| {
            let mut all = query.split('&').filter_map(|it| it.split_once('='));
            all.find(|(known, _)| *known == name)
                .map(|(_, value)| value.to_owned())
                .context("a part")
        };
        Ok((part("code")?, part("state")?))
    };
    for name in ["kakao", "naver"] {
        let at = |query: &str| format!("{own}/v1/session/providers/{name}/callback?{query}");
        let (mine, victims) = (Visit::begin(stack, name)?, Visit::begin(stack, name)?);
        let (code, state) = parts(&scene.agree(&mine)?)?;
        let (stolen, their_state) = parts(&scene.agree(&victims)?)?;
        let nobody = |kept: &str| Visit { url: String::new(), kept: kept.to_owned() };
        for (what, visit, query) in [
            ("a stolen code", &mine, format!("code={stolen}&state={state}")),
            ("a stolen code and its state", &mine, format!("code={stolen}&state={their_state}")),
            ("a state that somebody planted", &victims, format!("code={code}&state={state}")),
            ("no state", &victims, format!("code={stolen}")),
            ("an empty state", &victims, format!("code={stolen}&state=")),
            (
                "no cookie",
                &nobody("madang_provider="),
                format!("code={stolen}&state={their_state}"),
            ),
            (
                "a cookie that was made up",
                &nobody("madang_provider=AAAA"),
                format!("code={stolen}&state={their_state}"),
            ),
        ] {
            let reply = visit.come_back(stack, &at(&query))?;
            let held = reply.status == 401 && cookie(&reply, "madang_session").is_none();
            tried.check(held, || format!("{name}, {what}: {}", reply.status));
        }
        let fresh = Visit::begin(stack, name)?;
        let (_, state) = parts(&scene.agree(&fresh)?)?;
        let denied = fresh.come_back(stack, &at(&format!("error=access_denied&state={state}")))?;
        tried.check(denied.status == 401, || format!("{name}, a no: {}", denied.status));
        let made_up = Visit::begin(stack, name)?;
        let (_, state) = parts(&scene.agree(&made_up)?)?;
        let reply = made_up.come_back(stack, &at(&format!("code=x&state={state}")))?;
        tried.check(reply.status == 401, || {
            format!("{name}, a code that is none: {}", reply.status)
        });
    }
    let visit = Visit::begin(stack, "kakao")?;
    let place = scene.agree(&visit)?;
    let other = place.replace("/kakao/", "/naver/");
    let reply = visit.come_back(stack, &other)?;
    tried.check(reply.status == 401, || format!("by another provider: {}", reply.status));
    let visit = Visit::begin(stack, "kakao")?;
    let mixed = format!("{}&iss=https%3A%2F%2Fevil.example", scene.agree(&visit)?);
    let reply = visit.come_back(stack, &mixed)?;
    tried
        .check(reply.status == 401, || format!("the answer of another provider: {}", reply.status));
    let visit = Visit::begin(stack, "kakao")?;
    let place = scene.agree(&visit)?;
    let first = visit.come_back(stack, &place)?.status;
    let again = visit.come_back(stack, &place)?.status;
    tried.check((first, again) == (303, 401), || format!("replayed: {first}, {again}"));
    Ok(())
}

/// A provider that is broken or gone lets nobody in, and holds up nobody who comes by another way.
fn faults(scene: Scene, port: u16, tried: &mut Tried) -> Result<Scene> {
    for broken in ["500", "garbage", "huge", "moved"] {
        scene.set(json!({}))?;
        let visit = Visit::begin(&scene.stack, "kakao")?;
        let place = scene.agree(&visit)?;
        scene.set(json!({ "broken": broken }))?;
        let begun =
            scene.stack.stranger().send("POST", "/v1/session/providers/kakao", None)?.status;
        let reply = visit.come_back(&scene.stack, &place)?;
        let held =
            begun >= 400 && reply.status >= 400 && cookie(&reply, "madang_session").is_none();
        tried.check(held, || format!("a provider that is {broken}: {begun}, {}", reply.status));
    }
    scene.set(json!({}))?;
    let visit = Visit::begin(&scene.stack, "kakao")?;
    let place = scene.agree(&visit)?;
    let Scene { provider, stack } = scene;
    drop(provider);
    let begun = stack.stranger().send("POST", "/v1/session/providers/kakao", None)?.status;
    let came = visit.come_back(&stack, &place)?.status;
    tried
        .check((begun, came) == (503, 503), || format!("a provider that is gone: {begun}, {came}"));
    let person = json!({"email": "jin@example.org", "password": PASSWORD});
    let status = stack.stranger().post("/v1/session", &person)?.status;
    tried.check(status == 200, || format!("a password meanwhile: {status}"));
    let scene = Scene { provider: program(port)?, stack };
    scene.set(json!({}))?;
    scene.comes("kakao", Ok("mina@example.org"), tried, "it came back, with another key")?;
    Ok(scene)
}
