use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{PASSWORD, Tried, cookie, header, launch, sign_up};
use crate::http::{Http, Reply};
use crate::proofs::{Ground, Report};
use crate::stack::Stack;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/oidc/authlib_tool.py");
const BACK: &str = "https://wiki.example/callback";
const VERIFIER: &str = "a-verifier-of-at-least-forty-three-characters-long";
const EMAIL: &str = "mina@example.org";

/// Authlib as the tool: it is told who somebody is, refreshes, asks after its text and gives it back; what is not its own it gets
/// nothing for.
pub(super) fn client(ground: &Ground, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    // One person enters more often than sessions are kept of one, and whoever made the tool must stay.
    let many = ("MADANG__IDENTITY__SESSIONS_PER_ACCOUNT_MAX", "10000");
    let stack = launch(ground, folder.path(), &[]).environment(many.0, many.1).start()?;
    let browser = sign_up(&stack, EMAIL)?;
    let mut tried = Tried::default();
    for round in 0..ground.count(1, 10) {
        for method in ["client_secret_basic", "client_secret_post", "none"] {
            for algorithm in ["ES256", "RS256"] {
                let tool = Tool::new(&stack, &browser, (method, algorithm))?;
                lets_in(&stack, &tool, round, &mut tried)?;
            }
        }
    }
    tried.tell(report, "log-ins by us into a tool that uses Authlib");
    Ok(())
}

struct Tool(Value);

impl Tool {
    fn new(stack: &Stack, maker: &Http, (method, algorithm): (&str, &str)) -> Result<Self> {
        let body = json!({"name": "Wiki", "redirect_uris": [BACK], "has_secret": method != "none",
            "id_token_signed_response_alg": algorithm});
        let made = maker.post("/v1/oidc/tools", &body)?.ok()?;
        Ok(Self(json!({
            "issuer": stack.stranger().origin(), "id": made["tool"]["id"], "secret": made["secret"],
            "back": BACK, "verifier": VERIFIER, "nonce": "n-1", "method": method,
            "scope": "openid email profile offline_access", "algorithm": algorithm,
        })))
    }

    fn run(&self, deed: &str, more: &Value) -> Result<Value> {
        let mut given = self.0.clone();
        let (all, more) =
            (given.as_object_mut().context("settings")?, more.as_object().context("more")?);
        all.extend(more.clone());
        let output = Command::new("/usr/bin/python3")
            .args([SCRIPT, deed, &given.to_string()])
            .env("AUTHLIB_INSECURE_TRANSPORT", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

fn form(http: &Http, path: &str, body: &str) -> Result<Reply> {
    http.send("POST", path, Some(("application/x-www-form-urlencoded", body.as_bytes())))
}

/// What a person does on our pages: signs in there, and says yes. Gives where they are sent.
fn agree(stack: &Stack, url: &str) -> Result<String> {
    let own = stack.stranger().header("sec-fetch-site", "same-origin");
    let path = url.strip_prefix(own.origin()).context("our own page")?;
    let page = own.get(path)?;
    let page = String::from_utf8_lossy(&page.body).into_owned();
    let request = page.split_once("consent?request=").context("a page that goes on")?.1;
    let request = request.split('"').next().unwrap_or_default();
    let typed = format!(
        "request={request}&email=mina%40example.org&password={}",
        PASSWORD.replace(' ', "+")
    );
    let signed_in = form(&own, "/v1/oidc/sign-in", &typed)?;
    let session = cookie(&signed_in, "madang_session").context("a session")?;
    let browser = own.header("cookie", &session);
    let allowed = form(&browser, "/v1/oidc/consent", &format!("request={request}&answer=allow"))?;
    Ok(header(&allowed, "location").to_owned())
}

fn lets_in(stack: &Stack, tool: &Tool, round: usize, tried: &mut Tried) -> Result<()> {
    let begun = tool.run("begin", &json!({}))?;
    let back = agree(stack, begun["url"].as_str().context("a URL")?)?;
    let finish = |more: Value| {
        let mut given = json!({"answer": back, "state": begun["state"]});
        given
            .as_object_mut()
            .context("an object")?
            .extend(more.as_object().context("more")?.clone());
        tool.run("finish", &given)
    };
    let wrong = finish(json!({"state": "of another browser"}))?;
    tried.check(wrong["error"].is_string(), || format!("another state: {wrong}"));
    let found = finish(json!({}))?;
    let held = found["claims"]["email"] == EMAIL && found["claims"]["nonce"] == "n-1";
    tried.check(held, || format!("round {round}: {found}"));
    let again = finish(json!({}))?;
    tried.check(again["error"].is_string(), || format!("a code that comes twice: {again}"));

    // What came of it ended with that; another time without.
    let begun = tool.run("begin", &json!({}))?;
    let back = agree(stack, begun["url"].as_str().context("a URL")?)?;
    let stolen = tool.run(
        "finish",
        &json!({
            "answer": back, "state": begun["state"], "verifier": VERIFIER.replace("long", "wrong"),
        }),
    )?;
    tried.check(stolen["error"].is_string(), || format!("a stolen code: {stolen}"));
    let begun = tool.run("begin", &json!({}))?;
    let back = agree(stack, begun["url"].as_str().context("a URL")?)?;
    let found = tool.run("finish", &json!({"answer": back, "state": begun["state"]}))?;
    let refresh = json!({"refresh_token": found["token"]["refresh_token"], "nonce": null});
    let refreshed = tool.run("refresh", &refresh)?;
    let held = refreshed["claims"]["sub"] == found["claims"]["sub"]
        && refreshed["claims"]["sub"].is_string();
    tried.check(held, || format!("refreshed: {refreshed}"));
    if tool.0["secret"].is_string() {
        let asked = json!({"token": refreshed["token"]["access_token"]});
        let told = tool.run("introspect", &asked)?;
        tried.check(told["active"] == true, || format!("asked after: {told}"));
    }
    let given = json!({"token": refreshed["token"]["refresh_token"]});
    let revoked = tool.run("revoke", &given)?;
    tried.check(revoked["status"] == 200, || format!("given back: {revoked}"));
    let bearer = refreshed["token"]["access_token"].as_str().context("an access token")?;
    let status = stack.stranger().bearer(bearer).get("/v1/oidc/userinfo")?.status;
    tried.check(status == 401, || format!("what was given back opens {status}"));
    Ok(())
}
