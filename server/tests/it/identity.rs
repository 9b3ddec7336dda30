//! Coming in from outside: what strangers try, and what people are mailed.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use testkit::{Http, Mail, Mailbox, MqttClient, Reply, Resp, Stack, StompClient};

use crate::launch;

const PASSWORD: &str = "a long password of mina";

/// The text of a mail, whatever it travelled as.
fn body(mail: &Mail) -> String {
    let text = mail.text();
    let (_, body) = text.split_once("\n\n").unwrap();
    match mail.header("content-transfer-encoding").unwrap_or_default() {
        "base64" => {
            let packed: String = body.split_whitespace().collect();
            String::from_utf8(STANDARD.decode(packed).unwrap()).unwrap()
        }
        // The parts that are looked at are ASCII.
        "quoted-printable" => body.replace("=\n", "").replace("=3D", "="),
        _ => body.to_owned(),
    }
}

/// The link of the newest mail to an address that leads to a page, and its token.
fn link(mailbox: &Mailbox, to: &str, page: &str) -> (String, String) {
    let wanted = format!("/#/{page}?token=");
    let fits = |mail: &Mail| {
        mail.header("to").is_some_and(|it| it.contains(to)) && body(mail).contains(&wanted)
    };
    mailbox.wait(Duration::from_secs(20), fits).unwrap();
    let mail = mailbox.mails().into_iter().rfind(fits).unwrap();
    let text = body(&mail);
    let link = text.split_whitespace().find(|word| word.contains(&wanted)).unwrap().to_owned();
    let token = link.split_once("token=").unwrap().1.to_owned();
    (link, token)
}

fn cookie(reply: &Reply) -> String {
    let set = reply.headers.iter().find(|(name, _)| name == "set-cookie").unwrap();
    set.1.split(';').next().unwrap().to_owned()
}

fn browser(stack: &Stack, cookie: &str) -> Http {
    stack.stranger().header("cookie", cookie).header("sec-fetch-site", "same-origin")
}

fn sign_up(stack: &Stack, email: &str) -> Reply {
    let account = json!({"email": email, "password": PASSWORD});
    stack.stranger().post("/v1/accounts", &account).unwrap()
}

fn sign_in(stack: &Stack, email: &str) -> Http {
    let credentials = json!({"email": email, "password": PASSWORD});
    let reply = stack.stranger().post("/v1/session", &credentials).unwrap();
    assert_eq!(reply.ok().unwrap(), json!({"second_factor": null}));
    browser(stack, &cookie(&reply))
}

fn session(http: &Http) -> Value {
    http.get("/v1/session").unwrap().ok().unwrap()
}

#[test]
fn an_account_comes_in_by_its_mailbox_and_no_token_is_in_a_log_or_a_list() {
    let folder = tempfile::tempdir().unwrap();
    let mailbox = Mailbox::open().unwrap();
    let stack = launch(&folder).mail_to(mailbox.port).start().unwrap();
    assert_eq!(sign_up(&stack, "mina@example.com").status, 202);
    let mina = sign_in(&stack, "mina@example.com");
    assert_eq!(session(&mina)["is_verified"], false);
    let everything = json!({"label": "all", "grants": [{"action": "*", "resource": "*"}]});
    assert_eq!(mina.post("/v1/keys", &everything).unwrap().status, 403, "little before that");
    let (_, verify) = link(&mailbox, "mina@example.com", "verify");
    let given = json!({ "token": verify });
    assert_eq!(stack.stranger().post("/v1/account/verification", &given).unwrap().status, 401);
    mina.post("/v1/account/verification", &given).unwrap().ok().unwrap();
    assert_eq!(session(&mina)["is_verified"], true);
    assert_eq!(mina.post("/v1/keys", &everything).unwrap().status, 201);

    // What a request calls this place is in no link.
    let asked = json!({"email": "mina@example.com"});
    let elsewhere = stack.stranger().header("x-forwarded-host", "evil.example");
    let elsewhere = elsewhere.header("forwarded", "host=evil.example;proto=https");
    elsewhere.post("/v1/session/links", &asked).unwrap().ok().unwrap();
    let (url, token) = link(&mailbox, "mina@example.com", "link");
    assert!(url.starts_with(&format!("http://{}/#/link", stack.http_address())), "{url}");
    let redeem = json!({ "token": token });
    let entered = stack.stranger().post("/v1/session/link", &redeem).unwrap();
    assert_eq!(session(&browser(&stack, &cookie(&entered)))["name"], "mina@example.com");
    assert_eq!(stack.stranger().post("/v1/session/link", &redeem).unwrap().status, 401, "once");

    stack.stranger().post("/v1/password-resets", &asked).unwrap().ok().unwrap();
    let (_, reset) = link(&mailbox, "mina@example.com", "reset");
    let finish = json!({"token": reset, "password": "another long password"});
    stack.stranger().post("/v1/password-resets/finish", &finish).unwrap().ok().unwrap();
    assert_eq!(mina.get("/v1/session").unwrap().status, 401, "every session ended");
    let old = json!({"email": "mina@example.com", "password": PASSWORD});
    assert_eq!(stack.stranger().post("/v1/session", &old).unwrap().status, 401);

    let messages = stack.api().get("/v1/messages").unwrap().ok().unwrap().to_string();
    let log = stack.log();
    for secret in [&*verify, &token, &reset, PASSWORD, "another long password"] {
        assert!(!log.contains(secret) && !messages.contains(secret), "{secret}");
    }
}

/// What somebody may show, and a wrong form of each, at every door.
fn show_everywhere(stack: &Stack, key: &Value) {
    let text = |name: &str| key[name].as_str().unwrap();
    let (user, secret) = (text("mqtt_user"), text("mqtt_password"));
    for (user, secret, token) in [
        (user, secret, text("token").to_owned()),
        (user, WRONG_SECRET, format!("madang_{user}_{WRONG_SECRET}")),
        ("mina@example.com", PASSWORD, PASSWORD.to_owned()),
    ] {
        let is_right = secret != PASSWORD && secret != WRONG_SECRET;
        let http = stack.stranger().bearer(&token).get("/v1/keys").unwrap().status;
        assert_eq!(http == 200, is_right);
        let mqtt = MqttClient::connect(stack.mqtt_address(), user, user, secret);
        assert_eq!(mqtt.is_ok(), is_right);
        let resp = Resp::connect(stack.resp_address()).unwrap().ask(&["AUTH", user, secret]);
        assert_eq!(matches!(resp.unwrap(), testkit::Value::Error(_)), !is_right);
        assert_eq!(StompClient::connect(stack.http_address(), &token).is_ok(), is_right);
    }
}

const WRONG_SECRET: &str = "AAAAAAAAAAAAAAAAAAAAAwrongAAAAAAAAAAAAAAAAA";

/// All that people, apps, devices and tools show or are given, with everything logged that can be.
#[test]
fn no_secret_is_in_any_log() {
    let folder = tempfile::tempdir().unwrap();
    let mailbox = Mailbox::open().unwrap();
    let stack = launch(&folder)
        .mail_to(mailbox.port)
        .environment("MADANG__LOG__FILTER", "trace")
        .environment("MADANG__IDENTITY__PROVIDERS__KAKAO__ISSUER", "https://kauth.example")
        .environment("MADANG__IDENTITY__PROVIDERS__KAKAO__CLIENT_ID", "madang")
        .environment("MADANG__IDENTITY__PROVIDERS__KAKAO__CLIENT_SECRET", "the-secret-of-a-client")
        .start()
        .unwrap();
    let mut secrets: Vec<String> = [
        PASSWORD,
        WRONG_SECRET,
        "the-secret-of-a-client",
        "a guess of somebody",
        "another long password",
    ]
    .map(str::to_owned)
    .to_vec();
    secrets.push(stack.token().splitn(3, '_').nth(2).unwrap().to_owned());

    assert_eq!(sign_up(&stack, "mina@example.com").status, 202);
    let guess = json!({"email": "mina@example.com", "password": "a guess of somebody"});
    assert_eq!(stack.stranger().post("/v1/session", &guess).unwrap().status, 401);
    let credentials = json!({"email": "mina@example.com", "password": PASSWORD});
    let signed_in = stack.stranger().post("/v1/session", &credentials).unwrap();
    let session = cookie(&signed_in);
    let mina = browser(&stack, &session);
    secrets.push(session.split_once('=').unwrap().1.to_owned());
    let (_, verify) = link(&mailbox, "mina@example.com", "verify");
    mina.post("/v1/account/verification", &json!({ "token": verify })).unwrap().ok().unwrap();
    secrets.push(verify);

    let tokens = stack.stranger().post("/v1/tokens", &credentials).unwrap().ok().unwrap();
    let again = json!({"refresh_token": tokens["refresh_token"]});
    let next = stack.stranger().post("/v1/tokens/refresh", &again).unwrap().ok().unwrap();
    assert_eq!(stack.stranger().post("/v1/tokens/refresh", &again).unwrap().status, 401);
    for given in [&tokens, &next] {
        for name in ["access_token", "refresh_token"] {
            secrets.push(given[name].as_str().unwrap().splitn(3, '_').nth(2).unwrap().to_owned());
        }
    }

    let everything = json!({"label": "all", "grants": [{"action": "*", "resource": "*"}]});
    let key = mina.post("/v1/keys", &everything).unwrap().ok().unwrap();
    secrets.push(key["mqtt_password"].as_str().unwrap().to_owned());
    show_everywhere(&stack, &key);

    let totp = json!({ "password": PASSWORD });
    let totp = mina.post("/v1/account/totp", &totp).unwrap().ok().unwrap();
    secrets.push(totp["secret"].as_str().unwrap().to_owned());
    let tool =
        json!({"name": "Wiki", "redirect_uris": ["https://wiki.example/back"], "has_secret": true});
    let tool = mina.post("/v1/oidc/tools", &tool).unwrap().ok().unwrap();
    secrets.push(tool["secret"].as_str().unwrap().splitn(3, '_').nth(2).unwrap().to_owned());
    let invited = json!({"email": "jin@example.com", "role": "member"});
    mina.post("/v1/invitations", &invited).unwrap().ok().unwrap();
    let (_, invitation) = link(&mailbox, "jin@example.com", "invitation");
    let accepted = json!({"token": invitation, "password": PASSWORD});
    stack.stranger().post("/v1/invitations/accept", &accepted).unwrap().ok().unwrap();
    secrets.push(invitation);

    let asked = json!({"email": "mina@example.com"});
    stack.stranger().post("/v1/session/links", &asked).unwrap().ok().unwrap();
    let (_, entry) = link(&mailbox, "mina@example.com", "link");
    let entered = stack.stranger().post("/v1/session/link", &json!({ "token": entry })).unwrap();
    secrets.push(cookie(&entered).split_once('=').unwrap().1.to_owned());
    secrets.push(entry);
    stack.stranger().post("/v1/password-resets", &asked).unwrap().ok().unwrap();
    let (_, reset) = link(&mailbox, "mina@example.com", "reset");
    let finish = json!({"token": reset, "password": "another long password"});
    stack.stranger().post("/v1/password-resets/finish", &finish).unwrap().ok().unwrap();
    secrets.push(reset);

    let reader = stack.stranger().bearer(key["token"].as_str().unwrap());
    let mut kept = vec![];
    for path in ["/v1/audit.csv", "/v1/messages", "/v1/dead-letters", "/v1/keys", "/v1/oidc/tools"]
    {
        for of in [&stack.api(), &reader] {
            let reply = of.get(path).unwrap();
            assert_eq!(reply.status, 200, "{path}");
            kept.push((path, String::from_utf8_lossy(&reply.body).into_owned()));
        }
    }
    for path in ["/metrics", "/v1/stuck"] {
        let reply = stack.api().get(path).unwrap();
        kept.push((path, String::from_utf8_lossy(&reply.body).into_owned()));
    }
    let log = stack.log();
    assert!(log.contains("DEBUG") && log.lines().count() > 100, "little was logged");
    kept.push(("the log", log));
    assert!(secrets.len() > 18 && secrets.iter().all(|secret| secret.len() > 9), "{secrets:?}");
    for secret in &secrets {
        for (place, text) in &kept {
            assert!(!text.contains(&**secret), "{place} has {secret}");
        }
    }
}

#[test]
fn answers_do_not_tell_whether_there_is_an_account() {
    let folder = tempfile::tempdir().unwrap();
    let mailbox = Mailbox::open().unwrap();
    let stack = launch(&folder).mail_to(mailbox.port).start().unwrap();
    assert_eq!(sign_up(&stack, "mina@example.com").status, 202);
    let wrong = "not the password of mina";
    let ask = |path: &str, email: &str| {
        let body = match path {
            "/v1/session" | "/v1/tokens" | "/v1/accounts" => {
                json!({"email": email, "password": wrong})
            }
            _ => json!({ "email": email }),
        };
        let reply = stack.stranger().post(path, &body).unwrap();
        let names: Vec<_> = reply
            .headers
            .iter()
            .filter(|(name, _)| !matches!(&**name, "x-request-id" | "date"))
            .cloned()
            .collect();
        (reply.status, names, reply.body)
    };
    for path in
        ["/v1/session", "/v1/tokens", "/v1/session/links", "/v1/password-resets", "/v1/accounts"]
    {
        assert_eq!(ask(path, "mina@example.com"), ask(path, "nobody@example.com"), "{path}");
    }
    // The mail that tells the owner, and no second account.
    let told = |mail: &Mail| body(mail).contains("which has one");
    mailbox.wait(Duration::from_secs(20), told).unwrap();
    sign_in(&stack, "mina@example.com");
}

#[test]
fn an_app_s_stream_ends_with_its_session() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    sign_up(&stack, "mina@example.com");
    let credentials = json!({"email": "mina@example.com", "password": PASSWORD});
    let tokens = |reply: Reply| {
        let tokens = reply.ok().unwrap();
        let text = |name: &str| tokens[name].as_str().unwrap().to_owned();
        (text("access_token"), text("refresh_token"))
    };
    let stranger = stack.stranger();
    let refresh = |token: &str| {
        stack.stranger().post("/v1/tokens/refresh", &json!({ "refresh_token": token })).unwrap()
    };
    let (_, first) = tokens(stranger.post("/v1/tokens", &credentials).unwrap());
    let (access, second) = tokens(refresh(&first));
    let app = stack.stranger().bearer(&access);
    assert_eq!(session(&app)["email"], "mina@example.com");
    let mut stream = app.events("/v1/events?topic=readings").unwrap();

    // The first one was stolen and comes again: the session ends for both.
    assert_eq!(refresh(&first).status, 401);
    #[allow(clippy::disallowed_methods, reason = "the time is what is tested")]
    let began = Instant::now();
    assert!(stream.next_event().unwrap().is_none());
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(app.get("/v1/session").unwrap().status, 401);
    assert_eq!(refresh(&second).status, 401);

    // Listed and ended from a browser.
    let (access, _) = tokens(stranger.post("/v1/tokens", &credentials).unwrap());
    let app = stack.stranger().bearer(&access);
    let mut stream = app.events("/v1/events?topic=readings").unwrap();
    let mina = sign_in(&stack, "mina@example.com");
    let sessions = mina.get("/v1/account/sessions").unwrap().ok().unwrap();
    let sessions = sessions["items"].as_array().unwrap();
    assert_eq!(sessions.len(), 2);
    assert_eq!(sessions.iter().filter(|it| it["is_current"] == true).count(), 1);
    let id = sessions.iter().find(|it| it["kind"] == "tokens").unwrap()["id"].as_str().unwrap();
    mina.delete(&format!("/v1/account/sessions/{id}")).unwrap().ok().unwrap();
    assert!(stream.next_event().unwrap().is_none());
    assert_eq!(app.get("/v1/session").unwrap().status, 401);
}

#[test]
fn pages_of_other_sites_sign_nobody_in_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    sign_up(&stack, "mina@example.com");
    let credentials = json!({"email": "mina@example.com", "password": PASSWORD}).to_string();
    // What a page of another site can send without being asked first (a simple request).
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let reply =
            stack.stranger().send("POST", "/v1/session", Some((kind, credentials.as_bytes())));
        assert_eq!(reply.unwrap().status, 415, "{kind}");
    }
    let json = Some(("application/json", credentials.as_bytes()));
    let planted = "madang_session=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let reply =
        stack.stranger().header("cookie", planted).send("POST", "/v1/session", json).unwrap();
    let cookie = cookie(&reply);
    assert_ne!(cookie, planted, "a planted session is not taken up");
    let set = reply.headers.iter().find(|(name, _)| name == "set-cookie").unwrap();
    assert!(set.1.contains("HttpOnly") && set.1.contains("SameSite=Strict"), "{}", set.1);
    let password = json!({"password": "the password of a thief", "current": PASSWORD});
    let password = password.to_string();
    let password = Some(("application/json", password.as_bytes()));
    let evil = stack.stranger().header("cookie", &cookie).header("origin", "http://evil.example");
    assert_eq!(evil.send("PUT", "/v1/account/password", password).unwrap().status, 403);
    let mina = browser(&stack, &cookie);
    for body in [
        json!({"password": "a new long password"}),
        json!({"password": "a new long password", "current": "wrong password"}),
    ] {
        let body = body.to_string();
        let reply =
            mina.send("PUT", "/v1/account/password", Some(("application/json", body.as_bytes())));
        assert_eq!(reply.unwrap().status, 403, "{body}");
    }
}

#[test]
fn guesses_are_counted_by_the_connection_s_address_whatever_headers_say() {
    let folder = tempfile::tempdir().unwrap();
    let launch = launch(&folder).environment("MADANG__IDENTITY__ATTEMPTS_PER_PAIR_MAX", "3");
    let stack = launch.start().unwrap();
    sign_up(&stack, "mina@example.com");
    for email in ["mina@example.com", "nobody@example.com"] {
        let guess = json!({"email": email, "password": "not the password"});
        let statuses: Vec<_> = (0..5)
            .map(|number| {
                let spoofed = stack
                    .stranger()
                    .header("x-forwarded-for", &format!("203.0.113.{number}"))
                    .header("x-real-ip", &format!("203.0.113.{number}"))
                    .header("forwarded", &format!("for=203.0.113.{number}"));
                spoofed.post("/v1/session", &guess).unwrap().status
            })
            .collect();
        assert_eq!(statuses, [401, 401, 401, 429, 429], "{email}");
    }
}

#[test]
fn the_audit_log_says_who_did_what_by_which_door() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let key = json!({"label": "=1+1", "grants": [{"action": "devices.read", "resource": "*"}]});
    let key = stack.api().post("/v1/keys", &key).unwrap().ok().unwrap();
    let reader = stack.stranger().bearer(key["token"].as_str().unwrap());
    assert_eq!(reader.get("/v1/keys").unwrap().status, 403);
    let made = stack.api().get("/v1/audit?action=key.*&door=http&outcome=done").unwrap();
    let made = made.ok().unwrap();
    assert_eq!(made["items"].as_array().unwrap().len(), 1, "{made}");
    assert_eq!(made["items"][0]["action"], "key.create");
    let csv = stack.api().get("/v1/audit.csv?action=key.create").unwrap();
    assert_eq!(csv.content_type, "text/csv; charset=utf-8; header=present");
    let csv = String::from_utf8(csv.body).unwrap();
    assert!(csv.starts_with("id,time,subject,door,action,resource,outcome,detail\r\n"), "{csv}");
    assert!(csv.contains(r#""'=1+1""#), "a spreadsheet takes it for no formula: {csv}");
    for wrong in ["from=yesterday", "outcome=maybe", "surprise=1", "after=x"] {
        let status = stack.api().get(&format!("/v1/audit?{wrong}")).unwrap().status;
        assert!(matches!(status, 400 | 422), "{wrong}: {status}");
    }
    assert_eq!(reader.get("/v1/audit.csv").unwrap().status, 403);
}
