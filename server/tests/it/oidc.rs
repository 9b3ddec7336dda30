//! Another tool lets people in by this server: Authlib is the tool, Chromium the person's browser.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Browser, Http, Launch, Reply, Stack};

use crate::launch;

const TOOL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../testkit/clients/oidc/authlib_tool.py");
const VERIFIER: &str = "a-verifier-of-at-least-forty-three-characters-long";
const PASSWORD: &str = "a long password of admin";

/// Where a tool's callback would be: says what it was asked.
struct Callback {
    place: String,
    asked: Receiver<String>,
}

impl Callback {
    fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Another site than that of the server, whose address has no name.
        let place = format!("http://localhost:{}", listener.local_addr().unwrap().port());
        let (sender, asked) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let sender = sender.clone();
                // Each on its own: a browser opens connections that it does not use.
                std::thread::spawn(move || {
                    let mut stream = BufReader::new(stream.unwrap());
                    let mut line = String::new();
                    if stream.read_line(&mut line).is_err() || line.is_empty() {
                        return;
                    }
                    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                    let answer =
                        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
                    stream.get_mut().write_all(answer.as_bytes()).ok();
                    if path.starts_with("/callback") || path.starts_with("/bye") {
                        // The test may be over.
                        sender.send(path).ok();
                    }
                });
            }
        });
        Self { place, asked }
    }

    /// What a browser came with.
    fn heard(&self) -> String {
        let path = self.asked.recv_timeout(Duration::from_secs(30)).unwrap();
        format!("{}{path}", self.place)
    }
}

struct Tool {
    given: Value,
}

impl Tool {
    fn new(stack: &Stack, callback: &Callback, has_secret: bool) -> Self {
        Self::signed(stack, callback, (has_secret, "ES256"))
    }

    /// A tool that takes ID tokens of one algorithm only.
    fn signed(stack: &Stack, callback: &Callback, (has_secret, by): (bool, &str)) -> Self {
        let (back, bye) =
            (format!("{}/callback", callback.place), format!("{}/bye", callback.place));
        let body = json!({"name": "Wiki & <b>", "redirect_uris": [back], "logout_uris": [bye],
            "has_secret": has_secret, "id_token_signed_response_alg": by});
        let made = stack.api().post("/v1/oidc/tools", &body).unwrap().ok().unwrap();
        Self {
            given: json!({
                "issuer": format!("http://{}", stack.http_address()),
                "id": made["tool"]["id"],
                "secret": made["secret"],
                "back": back,
                "verifier": VERIFIER,
                "nonce": "n-1",
                "algorithm": by,
            }),
        }
    }

    fn id(&self) -> &str {
        self.given["id"].as_str().unwrap()
    }

    fn run(&self, deed: &str, more: &Value) -> Value {
        let mut given = self.given.clone();
        given.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let output = Command::new("/usr/bin/python3")
            .args([TOOL, deed, &given.to_string()])
            .env("AUTHLIB_INSECURE_TRANSPORT", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Where it sends people, and its state.
    fn begin(&self, more: &Value) -> (String, Value) {
        let begun = self.run("begin", more);
        (begun["url"].as_str().unwrap().to_owned(), begun["state"].clone())
    }

    fn finish(&self, answer: &str, state: &Value, more: &Value) -> Value {
        let mut given = json!({ "answer": answer, "state": state });
        given.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.run("finish", &given)
    }
}

/// The administrator, who set a password.
fn with_password(stack: &Stack) {
    let link = stack.link().unwrap();
    let token = link.split_once("token=").unwrap().1;
    let entered = stack.stranger().post("/v1/session/link", &json!({ "token": token })).unwrap();
    let set = entered.headers.iter().find(|(name, _)| name == "set-cookie").unwrap();
    let browser = stack.stranger().header("cookie", set.1.split(';').next().unwrap());
    let browser = browser.header("sec-fetch-site", "same-origin");
    let body = json!({ "password": PASSWORD }).to_string();
    let body = Some(("application/json", body.as_bytes()));
    browser.send("PUT", "/v1/account/password", body).unwrap().ok().unwrap();
}

/// Comes from the tool's own page by a click, as people do: the cookie of the session does not come along.
fn follow(browser: &Browser, callback: &Callback, url: &str) {
    browser.go(&callback.place).unwrap();
    browser.script(&format!("location.assign({})", json!(url))).unwrap();
}

fn sign_in(browser: &Browser) {
    browser.fill("oidc-email", "admin@localhost").unwrap();
    browser.fill("oidc-password", PASSWORD).unwrap();
    browser.click("oidc-sign-in").unwrap();
}

fn userinfo(stack: &Stack, token: &Value) -> u16 {
    let bearer = format!("Bearer {}", token["access_token"].as_str().unwrap());
    stack.stranger().header("authorization", &bearer).get("/v1/oidc/userinfo").unwrap().status
}

#[test]
fn a_real_tool_learns_who_somebody_is_with_a_secret_and_without() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    with_password(&stack);
    let (browser, callback) = (Browser::open(1000, 800, "en").unwrap(), Callback::open());
    let kinds = [
        (true, "client_secret_basic", "ES256"),
        (true, "client_secret_post", "RS256"),
        (false, "none", "RS256"),
    ];
    for (round, (has_secret, method, by)) in kinds.into_iter().enumerate() {
        let tool = Tool::signed(&stack, &callback, (has_secret, by));
        let method = json!({"method": method, "scope": "openid email profile offline_access"});
        let (url, state) = tool.begin(&method);
        follow(&browser, &callback, &url);
        // Once signed in, people are only asked.
        if round == 0 {
            sign_in(&browser);
        }
        browser.find("oidc-allow").unwrap();
        let text = browser.script("return document.body.innerText").unwrap();
        let text = text.as_str().unwrap();
        assert!(
            text.contains("Sign in to Wiki & <b>") && text.contains("admin@localhost"),
            "{text}"
        );
        browser.click("oidc-allow").unwrap();
        let back = callback.heard();
        assert!(back.contains("code="), "{back}");
        let found = tool.finish(&back, &state, &method);
        assert_eq!(found["claims"]["email"], "admin@localhost", "{found}");
        assert_eq!(found["claims"]["amr"], json!(["pwd"]), "{found}");
        assert_eq!(found["info"]["name"], "admin@localhost", "{found}");
        assert_eq!(userinfo(&stack, &found["token"]), 200);

        let refreshed = tool.run(
            "refresh",
            &json!({"refresh_token": found["token"]["refresh_token"], "method": method["method"], "nonce": null}),
        );
        assert_eq!(refreshed["claims"]["sub"], found["claims"]["sub"], "{refreshed}");
        assert_eq!(userinfo(&stack, &found["token"]), 401, "replaced");
        assert_eq!(userinfo(&stack, &refreshed["token"]), 200);
        if has_secret {
            let asked =
                json!({"token": refreshed["token"]["access_token"], "method": method["method"]});
            assert_eq!(tool.run("introspect", &asked)["active"], true);
        }
        let given =
            json!({"token": refreshed["token"]["refresh_token"], "method": method["method"]});
        assert_eq!(tool.run("revoke", &given)["status"], 200);
        assert_eq!(userinfo(&stack, &refreshed["token"]), 401, "given back");
    }
    assert!(browser.complaints().unwrap().is_empty(), "{:?}", browser.complaints());
}

#[test]
fn what_is_not_right_gives_a_tool_nothing_and_leads_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    with_password(&stack);
    let (browser, callback) = (Browser::open(1000, 800, "ko").unwrap(), Callback::open());
    let tool = Tool::new(&stack, &callback, true);
    let (url, state) = tool.begin(&json!({}));
    follow(&browser, &callback, &url);
    browser.fill("oidc-email", "admin@localhost").unwrap();
    browser.fill("oidc-password", "not the password").unwrap();
    browser.click("oidc-sign-in").unwrap();
    assert_eq!(browser.text("oidc-note").unwrap(), "입력한 내용이 올바르지 않습니다.");
    sign_in(&browser);
    browser.click("oidc-deny").unwrap();
    let denied = callback.heard();
    assert!(denied.contains("error=access_denied"), "{denied}");
    assert!(denied.contains(state.as_str().unwrap()), "{denied}");

    // Somebody else with the code has no verifier or no secret; then it is gone for its owner too.
    let (url, state) = tool.begin(&json!({}));
    follow(&browser, &callback, &url);
    browser.click("oidc-allow").unwrap();
    let back = callback.heard();
    let found = tool.finish(&back, &state, &json!({"secret": "wrong"}));
    assert!(found["error"].as_str().unwrap().contains("invalid_client"), "{found}");
    let other = VERIFIER.replace("long", "wrong");
    let found = tool.finish(&back, &state, &json!({ "verifier": other }));
    assert!(found["error"].as_str().unwrap().contains("invalid_grant"), "{found}");
    let found = tool.finish(&back, &state, &json!({}));
    assert!(found["error"].as_str().unwrap().contains("invalid_grant"), "{found}");

    // Somewhere else is never sent to, whatever is asked.
    let (url, _) = tool.begin(&json!({}));
    let path = url.split_once("/v1/").unwrap().1;
    let at = |path: &str| stack.stranger().get(&format!("/v1/{path}")).unwrap();
    for evil in [
        path.replace("http%3A%2F%2Flocalhost", "http%3A%2F%2Fevil.example"),
        path.replace("%2Fcallback", "%2Fcallback%2F..%2Fx"),
        path.replace(tool.id(), "0192d4e0-7c1b-7cc3-8f7e-1a2b3c4d5e6f"),
    ] {
        assert_ne!(evil, path);
        for more in ["", "&prompt=none", "&response_type=token"] {
            let reply = at(&format!("{evil}{more}"));
            assert_eq!(reply.status, 400, "{evil}{more}");
            assert_eq!(header(&reply, "location"), "", "{evil}{more}");
        }
    }
    let silent = at(&format!("{path}&prompt=none"));
    assert_eq!(silent.status, 303);
    assert!(header(&silent, "location").contains("error=interaction_required"));
    assert_eq!(at(&format!("{path}&surprise=1")).status, 200, "what is not known is passed over");
}

fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

/// The value of a hidden field, as it stands in a page.
fn hidden(reply: &Reply) -> String {
    let page = String::from_utf8_lossy(&reply.body).into_owned();
    let rest = page.split_once("name=\"request\" value=\"").unwrap().1;
    rest.split('"').next().unwrap().to_owned()
}

fn form(http: &Http, path: &str, fields: &[(&str, &str)]) -> Reply {
    let mut text = url::form_urlencoded::Serializer::new(String::new());
    text.extend_pairs(fields);
    let body = text.finish();
    let kind = "application/x-www-form-urlencoded";
    http.send("POST", path, Some((kind, body.as_bytes()))).unwrap()
}

#[test]
fn pages_of_a_log_in_have_no_script_and_take_nothing_from_other_sites() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    with_password(&stack);
    let callback = Callback::open();
    let tool = Tool::new(&stack, &callback, false);
    let (url, _) = tool.begin(&json!({}));
    let reply =
        stack.stranger().get(&format!("/v1/{}", url.split_once("/v1/").unwrap().1)).unwrap();
    let page = String::from_utf8_lossy(&reply.body).into_owned();
    let next = page.split_once("url=").unwrap().1.split('"').next().unwrap().to_owned();
    let asked = stack.stranger().get(&next).unwrap();
    for reply in [&reply, &asked] {
        let policy = header(reply, "content-security-policy");
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(
            policy.contains("frame-ancestors 'none'") && !policy.contains("script"),
            "{policy}"
        );
        assert_eq!(header(reply, "cache-control"), "no-store");
        assert!(!String::from_utf8_lossy(&reply.body).contains("<script"));
    }
    let request = hidden(&asked);
    let signing_in = [("request", &*request), ("email", "admin@localhost"), ("password", PASSWORD)];
    let elsewhere = stack.stranger().header("sec-fetch-site", "cross-site");
    let unknown = stack.stranger().header("origin", "null");
    for other in [&elsewhere, &unknown, &stack.stranger()] {
        let reply = form(other, "/v1/oidc/sign-in", &signing_in);
        assert_eq!((reply.status, header(&reply, "set-cookie")), (403, ""));
        let reply = form(other, "/v1/oidc/sign-out", &[]);
        assert_eq!((reply.status, header(&reply, "set-cookie")), (403, ""));
    }
    let own = stack.stranger().header("sec-fetch-site", "same-origin");
    let signed_in = form(&own, "/v1/oidc/sign-in", &signing_in);
    assert_eq!(signed_in.status, 303, "{}", String::from_utf8_lossy(&signed_in.body));
    let cookie = header(&signed_in, "set-cookie").split(';').next().unwrap().to_owned();
    let allowing = [("request", &*request), ("answer", "allow")];
    let forged = elsewhere.header("cookie", &cookie);
    assert_eq!(form(&forged, "/v1/oidc/consent", &allowing).status, 403);
    let person = own.header("cookie", &cookie);
    let allowed = form(&person, "/v1/oidc/consent", &allowing);
    assert_eq!(allowed.status, 303);
    assert!(header(&allowed, "location").starts_with(&callback.place));
    // The same texts, with a key in place of the cookie: no browser, so nobody is there to be asked.
    let by_key =
        form(&stack.api().header("sec-fetch-site", "same-origin"), "/v1/oidc/consent", &allowing);
    assert_eq!(by_key.status, 200);
    assert!(String::from_utf8_lossy(&by_key.body).contains("oidc-sign-in"));

    // Mistakes in OAuth's words, whatever they are.
    let token = |fields: &[(&str, &str)]| form(&stack.stranger(), "/v1/oidc/token", fields);
    for (fields, status, word) in [
        (&[][..], 400, "invalid_request"),
        (&[("grant_type", "password")], 400, "unsupported_grant_type"),
        (&[("grant_type", "authorization_code"), ("client_id", "x")], 401, "invalid_client"),
        (&[("grant_type", "refresh_token"), ("client_id", tool.id())], 400, "invalid_grant"),
        (&[("grant_type", "a"), ("grant_type", "b")], 400, "invalid_request"),
    ] {
        let reply = token(fields);
        assert_eq!((reply.status, &reply.json().unwrap()["error"]), (status, &json!(word)));
    }
    let json = stack.stranger().post("/v1/oidc/token", &json!({})).unwrap();
    assert_eq!((json.status, &json.json().unwrap()["error"]), (415, &json!("invalid_request")));
}

#[test]
fn a_tool_signs_somebody_out_when_they_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    with_password(&stack);
    let (browser, callback) = (Browser::open(1000, 800, "en").unwrap(), Callback::open());
    let tool = Tool::new(&stack, &callback, true);
    let (url, state) = tool.begin(&json!({}));
    follow(&browser, &callback, &url);
    sign_in(&browser);
    browser.click("oidc-allow").unwrap();
    let found = tool.finish(&callback.heard(), &state, &json!({}));
    assert_eq!(userinfo(&stack, &found["token"]), 200, "{found}");
    let leave = tool.run("logout", &json!({}))["url"].as_str().unwrap().to_owned();
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("id_token_hint", found["token"]["id_token"].as_str().unwrap());
    query.append_pair("post_logout_redirect_uri", &format!("{}/bye", callback.place));
    query.append_pair("state", "s-2");
    follow(&browser, &callback, &format!("{leave}?{}", query.finish()));
    browser.find("oidc-sign-out").unwrap();
    assert_eq!(userinfo(&stack, &found["token"]), 200, "a link alone ends nothing");
    browser.click("oidc-sign-out").unwrap();
    assert!(callback.heard().ends_with("/bye?state=s-2"));
    assert_eq!(userinfo(&stack, &found["token"]), 401, "it ended with the session");
    let (url, _) = tool.begin(&json!({}));
    follow(&browser, &callback, &url);
    browser.find("oidc-sign-in").unwrap();
}

#[test]
fn people_see_the_tools_that_they_let_in_and_take_that_back() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    with_password(&stack);
    let (browser, callback) = (Browser::open(1000, 1400, "ko").unwrap(), Callback::open());
    let account = format!("http://{}/#/account", stack.http_address());
    let mut held = vec![];
    for more in [json!({}), json!({"scope": "openid email offline_access"})] {
        let tool = Tool::new(&stack, &callback, true);
        let (url, state) = tool.begin(&more);
        follow(&browser, &callback, &url);
        if held.is_empty() {
            sign_in(&browser);
            browser.find("oidc-allow").unwrap();
            // Nobody was let in yet.
            browser.go(&account).unwrap();
            browser.find("sessions-list").unwrap();
            assert_eq!(browser.count("[data-test=given-list]").unwrap(), 0);
            follow(&browser, &callback, &url);
        }
        browser.click("oidc-allow").unwrap();
        let found = tool.finish(&callback.heard(), &state, &json!({}));
        assert_eq!(userinfo(&stack, &found["token"]), 200, "{found}");
        held.push(found);
    }
    browser.go(&account).unwrap();
    let list = browser.text("given-list").unwrap();
    assert!(list.contains("Wiki & <b>") && list.contains("로그아웃한 뒤에도"), "{list}");
    assert_eq!(browser.count("[data-test=given-leave]").unwrap(), 2);
    // The newest stands first.
    browser.click("given-leave").unwrap();
    let one_left = "return document.querySelectorAll('[data-test=given-leave]').length === 1";
    browser.until("one tool", one_left).unwrap();
    assert_eq!(userinfo(&stack, &held[1]["token"]), 401, "taken back");
    assert_eq!(userinfo(&stack, &held[0]["token"]), 200, "the other one stays");
    browser.click("given-leave").unwrap();
    let none_left = "return !document.querySelector('[data-test=given-list]')";
    browser.until("no tool", none_left).unwrap();
    assert_eq!(userinfo(&stack, &held[0]["token"]), 401);
    assert!(browser.complaints().unwrap().is_empty(), "{:?}", browser.complaints());
}

/// A whole log-in by forms, as it also runs on other databases.
pub(crate) fn a_whole_log_in(launch: &Launch) {
    const BACK: &str = "https://wiki.example/callback";
    let stack = launch.start().unwrap();
    with_password(&stack);
    let body = json!({"name": "Wiki", "redirect_uris": [BACK], "has_secret": true,
        "id_token_signed_response_alg": "RS256"});
    let made = stack.api().post("/v1/oidc/tools", &body).unwrap().ok().unwrap();
    let (id, secret) = (made["tool"]["id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    let own = stack.stranger().header("sec-fetch-site", "same-origin");
    // RFC 7636, appendix B.
    let (verifier, challenge) = (
        "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
    );
    let begun = form(
        &own,
        "/v1/oidc/authorize",
        &[
            ("client_id", id),
            ("redirect_uri", BACK),
            ("response_type", "code"),
            ("scope", "openid email offline_access"),
            ("code_challenge", challenge),
            ("code_challenge_method", "S256"),
        ],
    );
    let page = String::from_utf8_lossy(&begun.body).into_owned();
    let next = page.split_once("url=").unwrap().1.split('"').next().unwrap().to_owned();
    let request = hidden(&own.get(&next).unwrap());
    let person = [("request", &*request), ("email", "admin@localhost"), ("password", PASSWORD)];
    let signed_in = form(&own, "/v1/oidc/sign-in", &person);
    assert_eq!(header(&signed_in, "location"), next);
    let browser = own.header("cookie", header(&signed_in, "set-cookie").split(';').next().unwrap());
    let allowed = form(&browser, "/v1/oidc/consent", &[("request", &request), ("answer", "allow")]);
    let place = url::Url::parse(header(&allowed, "location")).unwrap();
    let code = place.query_pairs().find(|(name, _)| name == "code").unwrap().1.into_owned();

    let client = [("client_id", id), ("client_secret", secret)];
    let ask = |path: &str, fields: &[(&str, &str)]| {
        form(&stack.stranger(), path, &[&client[..], fields].concat())
    };
    let exchange = [
        ("grant_type", "authorization_code"),
        ("code", &*code),
        ("redirect_uri", BACK),
        ("code_verifier", verifier),
    ];
    let first = ask("/v1/oidc/token", &exchange).ok().unwrap();
    let refresh = |text: &Value| {
        let text = text["refresh_token"].as_str().unwrap();
        ask("/v1/oidc/token", &[("grant_type", "refresh_token"), ("refresh_token", text)])
    };
    let second = refresh(&first).ok().unwrap();
    assert_eq!((userinfo(&stack, &first), userinfo(&stack, &second)), (401, 200));
    let access = second["access_token"].as_str().unwrap();
    let told = ask("/v1/oidc/introspect", &[("token", access)]).ok().unwrap();
    assert_eq!((&told["active"], &told["username"]), (&json!(true), &json!("admin@localhost")));
    let own_tools = browser.get("/v1/account/tools").unwrap().ok().unwrap();
    assert_eq!(own_tools["items"][0]["scope"], "openid email offline_access");
    assert_eq!(refresh(&first).json().unwrap()["error"], "invalid_grant", "it came twice");
    assert_eq!(userinfo(&stack, &second), 401);
    assert_eq!(ask("/v1/oidc/token", &exchange).json().unwrap()["error"], "invalid_grant");

    let listed = stack.api().get("/v1/oidc/tools").unwrap().ok().unwrap();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    stack.api().delete(&format!("/v1/oidc/tools/{id}")).unwrap().ok().unwrap();
    assert_eq!(ask("/v1/oidc/token", &exchange).status, 401);
    let audit = stack.api().get("/v1/audit?action=tool.*").unwrap().ok().unwrap();
    let deeds: Vec<_> =
        audit["items"].as_array().unwrap().iter().map(|it| it["action"].clone()).collect();
    assert_eq!(deeds, ["tool.delete", "tool.token-reused", "tool.enter", "tool.create"]);
    let log = stack.log();
    for secret in [secret, access, &*code, second["refresh_token"].as_str().unwrap()] {
        assert!(!log.contains(secret), "a secret is in the log");
    }
}

#[test]
fn a_log_in_goes_by_forms_alone() {
    let folder = tempfile::tempdir().unwrap();
    a_whole_log_in(&launch(&folder));
}
