//! Other tools let people in by this server.

use std::collections::HashSet;
use std::time::Duration;

use base::access::Principal;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{DAY, House, PASSWORD, house, http, quick};
use crate::{
    Algorithm, Asked, Asking, Error, Exchange, Holds, Issued, Leaving, NewSession, NewTool, Shown,
    Step, ToolCredentials,
};

const BACK: &str = "https://wiki.example/callback";
const AFTER: &str = "https://wiki.example/bye";
const VERIFIER: &str = "a-verifier-of-at-least-forty-three-characters-long";
const MINUTE: Duration = Duration::from_mins(1);

async fn made(house: &House, by: &Principal, has_secret: bool) -> ToolCredentials {
    made_with(house, by, has_secret, Algorithm::default()).await
}

async fn made_with(
    house: &House,
    by: &Principal,
    has_secret: bool,
    algorithm: Algorithm,
) -> ToolCredentials {
    let (redirect_uris, logout_uris) = (vec![BACK.into()], vec![AFTER.into()]);
    let new = NewTool { name: "Wiki".into(), redirect_uris, logout_uris, has_secret, algorithm };
    house.identity.create_tool(http(by), new).await.unwrap()
}

fn asked(tool: &ToolCredentials) -> Asked {
    Asked {
        client_id: tool.tool.id.to_string(),
        redirect_uri: BACK.into(),
        response_type: "code".into(),
        scope: "openid email surprise".into(),
        state: Some("s 1&x".into()),
        nonce: Some("n-1".into()),
        code_challenge: Some(URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER))),
        code_challenge_method: Some("S256".into()),
        ..Asked::default()
    }
}

fn offline(tool: &ToolCredentials) -> Asked {
    Asked { scope: "openid offline_access profile".into(), ..asked(tool) }
}

/// What stands in an address under a name.
fn part(url: &str, name: &str) -> Option<String> {
    let url = url::Url::parse(url).unwrap();
    url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

fn shown(tool: &ToolCredentials) -> Shown {
    Shown { id: tool.tool.id.to_string(), secret: tool.secret.clone() }
}

fn exchange(tool: &ToolCredentials, code: &str) -> Exchange {
    Exchange {
        tool: shown(tool),
        code: code.to_owned(),
        redirect_uri: BACK.into(),
        code_verifier: VERIFIER.into(),
    }
}

fn claims(issued: &Issued) -> Value {
    let claims = issued.id_token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()
}

impl House {
    async fn begun(&self, asked: Asked) -> String {
        match self.identity.begin_authorization(asked).await.unwrap() {
            Asking::Ask(waiting) => waiting,
            Asking::Back(url) => panic!("sent back: {url}"),
        }
    }

    /// The word that a tool's link is answered with.
    async fn sent_back(&self, asked: Asked) -> String {
        match self.identity.begin_authorization(asked).await.unwrap() {
            Asking::Ask(_) => panic!("people are asked"),
            Asking::Back(url) => {
                assert!(url.starts_with(BACK) && part(&url, "code").is_none(), "{url}");
                part(&url, "error").unwrap()
            }
        }
    }

    async fn step(&self, session: &NewSession, waiting: &str) -> Step {
        let (principal, cookie) = (Some(&session.principal), Some(&*session.token));
        self.identity.step(principal, cookie, waiting).await.unwrap()
    }

    async fn answered(&self, session: &NewSession, waiting: &str, allow: bool) -> Option<String> {
        let by = Some(http(&session.principal));
        self.identity.answer(by, Some(&session.token), (waiting, allow)).await.unwrap()
    }

    async fn code_of(&self, session: &NewSession, asked: Asked) -> String {
        let waiting = self.begun(asked).await;
        part(&self.answered(session, &waiting, true).await.unwrap(), "code").unwrap()
    }

    async fn issued(&self, session: &NewSession, tool: &ToolCredentials, asked: Asked) -> Issued {
        let code = self.code_of(session, asked).await;
        self.identity.exchange_code(exchange(tool, &code)).await.unwrap()
    }

    async fn refused(&self, given: Exchange) -> &'static str {
        word(self.identity.exchange_code(given).await)
    }

    async fn refreshed(&self, tool: &ToolCredentials, issued: &Issued) -> Result<Issued, Error> {
        let text = issued.refresh_token.as_deref().unwrap();
        self.identity.refresh_tool(&shown(tool), text).await
    }

    async fn opens(&self, issued: &Issued) -> bool {
        self.identity.user_info(&issued.access_token).await.is_ok()
    }
}

fn word<T>(done: Result<T, Error>) -> &'static str {
    match done {
        Err(Error::OfTool(word, _)) => word,
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was let in"),
    }
}

#[tokio::test]
async fn a_code_is_for_one_tool_one_verifier_one_place_and_a_minute() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let (wiki, other) = (made(&house, &admin, true).await, made(&house, &admin, true).await);
    let session = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    let waiting = house.begun(asked(&wiki)).await;
    let url = house.answered(&session, &waiting, true).await.unwrap();
    assert!(url.starts_with(BACK), "{url}");
    assert_eq!(part(&url, "state").as_deref(), Some("s 1&x"));
    assert_eq!(part(&url, "iss").as_deref(), Some("http://localhost:8080"));
    let first = exchange(&wiki, &part(&url, "code").unwrap());
    let issued = house.identity.exchange_code(first.clone()).await.unwrap();
    assert_eq!(issued.scope, "openid email", "what is not known is left out");
    assert!(issued.refresh_token.is_none(), "not without offline_access");
    let info = house.identity.user_info(&issued.access_token).await.unwrap();
    assert_eq!(
        (&info["email"], &info["email_verified"]),
        (&"admin@localhost".into(), &true.into())
    );
    assert!(info.get("name").is_none(), "the profile was not asked for");
    // Another tool that finds the code can do nothing with it, nor end it.
    assert_eq!(house.refused(exchange(&other, &first.code)).await, "invalid_grant");
    assert!(house.opens(&issued).await);
    // A second time ends what the first gave.
    assert_eq!(house.refused(first).await, "invalid_grant");
    assert!(!house.opens(&issued).await);
    let audit = house.audit(admin.organisation).await;
    assert!(audit.iter().any(|entry| entry.action == "tool.token-reused"), "{audit:?}");

    for wrong in [
        Exchange { code_verifier: VERIFIER.replace("long", "wrong"), ..exchange(&wiki, "") },
        Exchange { code_verifier: String::new(), ..exchange(&wiki, "") },
        Exchange { redirect_uri: "https://wiki.example/".into(), ..exchange(&wiki, "") },
    ] {
        let code = house.code_of(&session, asked(&wiki)).await;
        let given = Exchange { code: code.clone(), ..wrong };
        assert_eq!(house.refused(given).await, "invalid_grant");
        assert_eq!(house.refused(exchange(&wiki, &code)).await, "invalid_grant", "no second try");
    }
    for secret in [None, Some("wrong".to_owned()), other.secret.clone()] {
        let code = house.code_of(&session, asked(&wiki)).await;
        let given = exchange(&wiki, &code);
        let tool = Shown { secret, ..given.tool.clone() };
        assert_eq!(house.refused(Exchange { tool, ..given }).await, "invalid_client");
    }
    let late = house.code_of(&session, asked(&wiki)).await;
    house.base.clock.advance(MINUTE);
    assert_eq!(house.refused(exchange(&wiki, &late)).await, "invalid_grant");
}

#[tokio::test]
async fn an_id_token_says_who_for_whom_and_how_and_is_signed_by_a_shown_key() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let wiki = made(&house, &admin, false).await;
    assert!(wiki.secret.is_none());
    let session = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    house.base.clock.advance(MINUTE);
    let issued = house.issued(&session, &wiki, asked(&wiki)).await;
    let claims = claims(&issued);
    let now = house.base.clock.now().millis() / 1_000;
    let account = match admin.subject {
        base::access::Subject::Account(id) => id.to_string(),
        other => panic!("{other:?}"),
    };
    let left = &Sha256::digest(&issued.access_token)[..16];
    for (name, wanted) in [
        ("iss", "http://localhost:8080".into()),
        ("sub", Value::from(account)),
        ("aud", wiki.tool.id.to_string().into()),
        ("iat", now.into()),
        ("exp", (now + 600).into()),
        ("auth_time", (now - 60).into()),
        ("nonce", "n-1".into()),
        ("amr", serde_json::json!(["pwd"])),
        ("at_hash", URL_SAFE_NO_PAD.encode(left).into()),
        ("email", "admin@localhost".into()),
    ] {
        assert_eq!(claims[name], wanted, "{name}");
    }
    let (keys, _) = house.identity.public_keys().await.unwrap();
    assert_eq!(crate::jwt::signed(&issued.id_token, &keys), Some(claims));
    let (head, rest) = issued.id_token.split_once('.').unwrap();
    let forged = format!("{head}.{}{rest}", URL_SAFE_NO_PAD.encode("{\"sub\":\"x\"}"));
    assert_eq!(crate::jwt::signed(&forged, &keys), None);
    // It opens no door of this server.
    let parts = issued.access_token.strip_prefix("madang_").unwrap().split_once('_').unwrap();
    assert!(house.open_with(parts.0, parts.1).await.is_err());
    house.base.clock.advance(Duration::from_mins(10));
    assert!(!house.opens(&issued).await, "after its time");
}

#[tokio::test]
async fn a_request_that_is_not_right_goes_back_in_the_protocols_words_or_nowhere() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let wiki = made(&house, &admin, true).await;
    let right = || asked(&wiki);
    for (wrong, word) in [
        (Asked { response_type: "token".into(), ..right() }, "unsupported_response_type"),
        (Asked { response_mode: Some("fragment".into()), ..right() }, "invalid_request"),
        (Asked { scope: "email".into(), ..right() }, "invalid_scope"),
        (Asked { code_challenge: None, ..right() }, "invalid_request"),
        (Asked { code_challenge: Some("short".into()), ..right() }, "invalid_request"),
        (Asked { code_challenge_method: Some("plain".into()), ..right() }, "invalid_request"),
        (Asked { code_challenge_method: None, ..right() }, "invalid_request"),
        (Asked { max_age: Some("soon".into()), ..right() }, "invalid_request"),
        (Asked { nonce: Some("n".repeat(501)), ..right() }, "invalid_request"),
        (Asked { has_objects: true, ..right() }, "request_not_supported"),
        (Asked { prompt: Some("none".into()), ..right() }, "interaction_required"),
    ] {
        assert_eq!(house.sent_back(wrong).await, word);
    }
    for place in ["https://wiki.example/callback/", "https://wiki.example", "https://evil.example/"]
    {
        let elsewhere = Asked { redirect_uri: place.into(), response_type: "x".into(), ..right() };
        let begun = house.identity.begin_authorization(elsewhere).await;
        assert!(matches!(begun, Err(Error::Redirect)), "{place}");
    }
    let nobody = Asked { client_id: "x".into(), ..right() };
    let begun = house.identity.begin_authorization(nobody).await;
    assert!(matches!(begun, Err(Error::NotThere(_))));

    for uri in [
        "http://evil.example/",
        "https://a.example/#x",
        "https://me@a.example/",
        "https://a.example",
        "https://a.example/\nhttps://b.example/",
        "javascript:alert(1)",
        "",
    ] {
        let redirect_uris = vec![uri.to_owned()];
        let (name, logout_uris) = ("Evil".to_owned(), vec![]);
        let algorithm = Algorithm::default();
        let new = NewTool { name, redirect_uris, logout_uris, has_secret: true, algorithm };
        let made = house.identity.create_tool(http(&admin), new).await;
        assert!(matches!(made, Err(Error::Redirect)), "{uri}");
    }
}

#[tokio::test]
async fn people_are_asked_and_what_is_asked_cannot_be_changed_on_the_way() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let wiki = made(&house, &admin, true).await;
    let session = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    let waiting = house.begun(asked(&wiki)).await;
    let step = house.identity.step(None, None, &waiting).await.unwrap();
    assert_eq!(step, Step::SignIn { tool: "Wiki".into() });
    let step = house.identity.step(Some(&admin), None, &waiting).await.unwrap();
    assert_eq!(step, Step::SignIn { tool: "Wiki".into() }, "a key or an app is not asked");
    let (tool, place) = ("Wiki".into(), "https://wiki.example".into());
    let wanted = Step::Ask { tool, place, scope: "openid email".into() };
    assert_eq!(house.step(&session, &waiting).await, wanted);
    let denied = house.answered(&session, &waiting, false).await.unwrap();
    assert_eq!(part(&denied, "error").as_deref(), Some("access_denied"));
    assert_eq!(part(&denied, "code"), None);

    let (text, tag) = waiting.split_once('.').unwrap();
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).unwrap()).unwrap();
    let wider = URL_SAFE_NO_PAD.encode(text.replace("openid email", "openid profile"));
    for changed in [format!("{wider}.{tag}"), format!("{wider}."), wider, String::new()] {
        let step = house.identity.step(None, None, &changed).await;
        assert!(matches!(step, Err(Error::LinkInvalid)), "{changed}");
    }
    // Somebody of another organisation has no business there.
    house.stranger("joon@example.org").await;
    let joon = house.sign_in("joon@example.org", PASSWORD).await.unwrap();
    assert_eq!(house.step(&joon, &waiting).await, Step::Elsewhere { tool: "Wiki".into() });
    assert_eq!(house.answered(&joon, &waiting, true).await, None);
    house.base.clock.advance(Duration::from_mins(11));
    let step = house.identity.step(None, None, &waiting).await;
    assert!(matches!(step, Err(Error::LinkInvalid)), "too old");
}

#[tokio::test]
async fn a_tool_may_want_people_to_sign_in_again() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let wiki = made(&house, &admin, true).await;
    let before = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    house.base.clock.advance(MINUTE * 2);
    let again = Asked { prompt: Some("login".into()), ..asked(&wiki) };
    let old = Asked { max_age: Some("60".into()), ..asked(&wiki) };
    for wanted in [again, old] {
        let waiting = house.begun(wanted).await;
        assert_eq!(house.step(&before, &waiting).await, Step::SignIn { tool: "Wiki".into() });
        assert_eq!(house.answered(&before, &waiting, true).await, None);
        let after = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
        assert!(matches!(house.step(&after, &waiting).await, Step::Ask { .. }));
    }
    let young = house.begun(Asked { max_age: Some("3600".into()), ..asked(&wiki) }).await;
    assert!(matches!(house.step(&before, &young).await, Step::Ask { .. }));
}

#[tokio::test]
async fn a_refresh_token_counts_once_and_twice_ends_everything() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let (wiki, other) = (made(&house, &admin, true).await, made(&house, &admin, true).await);
    let session = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    let first = house.issued(&session, &wiki, offline(&wiki)).await;
    // It goes on without the session that it began in.
    house.identity.sign_out(&session.token).await.unwrap();
    house.base.clock.advance(DAY);
    assert_eq!(word(house.refreshed(&other, &first).await), "invalid_grant", "another tool");
    let second = house.refreshed(&wiki, &first).await.unwrap();
    assert!(house.opens(&second).await && !house.opens(&first).await);
    assert_eq!(second.scope, "openid profile offline_access");
    let claims = claims(&second);
    assert_eq!(claims["name"], "admin@localhost");
    assert!(claims.get("nonce").is_none());
    assert_eq!(word(house.refreshed(&wiki, &first).await), "invalid_grant", "used");
    assert!(!house.opens(&second).await, "both ended");
    assert_eq!(word(house.refreshed(&wiki, &second).await), "invalid_grant");

    let session = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    let mut issued = house.issued(&session, &wiki, offline(&wiki)).await;
    for _ in 0..29 {
        house.base.clock.advance(DAY);
        issued = house.refreshed(&wiki, &issued).await.unwrap();
    }
    house.base.clock.advance(DAY);
    let late = house.refreshed(&wiki, &issued).await;
    assert_eq!(word(late), "invalid_grant", "30 days from the answer on");
}

#[tokio::test]
async fn what_a_tool_holds_ends_with_the_tool_the_session_the_password_and_a_word() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let wiki = made(&house, &admin, true).await;
    let session = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    let short = house.issued(&session, &wiki, asked(&wiki)).await;
    let long = house.issued(&session, &wiki, offline(&wiki)).await;
    house.identity.sign_out(&session.token).await.unwrap();
    assert!(!house.opens(&short).await && house.opens(&long).await);

    let given = house.identity.given(&admin).await.unwrap();
    assert_eq!((given.len(), &*given[0].name), (1, "Wiki"));
    house.identity.take_back(http(&admin), wiki.tool.id).await.unwrap();
    assert!(!house.opens(&long).await);
    assert_eq!(word(house.refreshed(&wiki, &long).await), "invalid_grant");
    let nothing = house.identity.take_back(http(&admin), wiki.tool.id).await;
    assert!(matches!(nothing, Err(Error::NotThere(_))));

    let session = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    let before = house.issued(&session, &wiki, offline(&wiki)).await;
    house.set_password(&admin, None, Some(PASSWORD), "another long password").await.unwrap();
    assert!(!house.opens(&before).await, "a new password");

    let session = house.sign_in("admin@localhost", "another long password").await.unwrap();
    let last = house.issued(&session, &wiki, offline(&wiki)).await;
    let stranger = house.stranger("joon@example.org").await;
    let deleted = house.identity.delete_tool(http(&stranger), wiki.tool.id).await;
    assert!(matches!(deleted, Err(Error::NotThere(_))), "another organisation's");
    assert!(house.opens(&last).await);
    house.identity.delete_tool(http(&admin), wiki.tool.id).await.unwrap();
    assert!(!house.opens(&last).await);
    assert_eq!(word(house.refreshed(&wiki, &last).await), "invalid_client");
}

#[tokio::test]
async fn a_tool_gives_back_and_asks_after_its_own_texts_only() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let wiki = made(&house, &admin, true).await;
    let other = made(&house, &admin, true).await;
    let open = made(&house, &admin, false).await;
    let session = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    let issued = house.issued(&session, &wiki, offline(&wiki)).await;
    let refresh = issued.refresh_token.clone().unwrap();
    let about = async |tool: &ToolCredentials, text: &str| {
        house.identity.introspect(&shown(tool), text).await.unwrap()
    };
    for (text, kind) in [(&issued.access_token, "Bearer"), (&refresh, "refresh_token")] {
        let told = about(&wiki, text).await;
        assert_eq!((&told["active"], &told["token_type"]), (&true.into(), &kind.into()));
        assert_eq!(told["client_id"], wiki.tool.id.to_string());
        assert_eq!(about(&other, text).await, serde_json::json!({ "active": false }));
        house.identity.revoke_text(&shown(&other), text).await.unwrap();
    }
    assert!(house.opens(&issued).await, "another tool ends nothing");
    assert_eq!(about(&wiki, "madang_tool_x").await, serde_json::json!({ "active": false }));
    let asks = house.identity.introspect(&shown(&open), &issued.access_token).await;
    assert_eq!(word(asks), "invalid_client", "no secret");
    let thief = Shown { secret: None, ..shown(&wiki) };
    assert_eq!(word(house.identity.revoke_text(&thief, &refresh).await), "invalid_client");

    house.identity.revoke_text(&shown(&wiki), &refresh).await.unwrap();
    assert!(!house.opens(&issued).await);
    assert_eq!(word(house.refreshed(&wiki, &issued).await), "invalid_grant");
    house.identity.revoke_text(&shown(&wiki), &refresh).await.unwrap();
}

/// What stands before the claims.
fn head(issued: &Issued) -> Value {
    let head = URL_SAFE_NO_PAD.decode(issued.id_token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice(&head).unwrap()
}

async fn keys_of(house: &House, algorithm: &str) -> Vec<Value> {
    let (keys, _) = house.identity.public_keys().await.unwrap();
    let keys = keys["keys"].as_array().unwrap().clone();
    keys.into_iter().filter(|key| key["alg"] == algorithm).collect()
}

#[tokio::test]
async fn a_tool_that_knows_only_rs256_gets_it_and_others_stay_as_they_were() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let wiki = made(&house, &admin, true).await;
    assert_eq!(
        (keys_of(&house, "ES256").await.len(), keys_of(&house, "RS256").await.len()),
        (1, 0)
    );
    let old = made_with(&house, &admin, true, Algorithm::Rs256).await;
    let tools = house.identity.tools(admin.organisation, &base::PageRequest::default()).await;
    let kinds: Vec<_> = tools.unwrap().items.iter().map(|tool| tool.algorithm).collect();
    assert_eq!(kinds, [Algorithm::Es256, Algorithm::Rs256]);
    let keys = keys_of(&house, "RS256").await;
    assert_eq!((keys.len(), &keys[0]["kty"], &keys[0]["e"]), (1, &"RSA".into(), &"AQAB".into()));
    assert_eq!(keys[0]["n"].as_str().unwrap().len(), 342, "2048 bits");
    let private = ["d", "p", "q", "dp", "dq", "qi"];
    assert!(private.iter().all(|part| keys[0].get(*part).is_none()));

    let session = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    let (public, _) = house.identity.public_keys().await.unwrap();
    for (tool, algorithm) in [(&old, "RS256"), (&wiki, "ES256")] {
        let issued = house.issued(&session, tool, offline(tool)).await;
        assert_eq!(head(&issued)["alg"], algorithm);
        assert_eq!(crate::jwt::signed(&issued.id_token, &public), Some(claims(&issued)));
        let refreshed = house.refreshed(tool, &issued).await.unwrap();
        assert_eq!(head(&refreshed)["alg"], algorithm, "after a refresh");
        // A head that names the other algorithm is none of ours.
        let other = if algorithm == "RS256" { "ES256" } else { "RS256" };
        let mut forged = head(&issued);
        forged["alg"] = other.into();
        let (_, rest) = issued.id_token.split_once('.').unwrap();
        let forged = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(forged.to_string()));
        assert_eq!(crate::jwt::signed(&forged, &public), None);
    }
    let said = house.identity.openid_configuration();
    let offered = &said["id_token_signing_alg_values_supported"];
    assert_eq!(*offered, serde_json::json!(["ES256", "RS256"]));
}

#[tokio::test]
async fn another_node_has_the_first_key_for_rsa_once_a_tool_wants_it() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let wiki = made(&house, &admin, true).await;
    let session = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    house.issued(&session, &wiki, asked(&wiki)).await;
    let node = house.again(quick()).await;
    assert_eq!(node.public_keys().await.unwrap(), house.identity.public_keys().await.unwrap());
    let new = NewTool {
        name: "Old".into(),
        redirect_uris: vec![BACK.into()],
        logout_uris: vec![],
        has_secret: true,
        algorithm: Algorithm::Rs256,
    };
    let old = node.create_tool(http(&admin), new).await.unwrap();
    // This node read its keys just now, and has none for it.
    let issued = house.issued(&session, &old, asked(&old)).await;
    assert_eq!(head(&issued)["alg"], "RS256");
    assert_eq!(node.public_keys().await.unwrap(), house.identity.public_keys().await.unwrap());
}

#[tokio::test]
async fn a_signing_key_is_shown_before_it_signs_and_after() {
    for algorithm in Algorithm::ALL {
        signs_for_months(algorithm).await;
    }
}

async fn signs_for_months(algorithm: Algorithm) {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let wiki = made_with(&house, &admin, true, algorithm).await;
    let kid = |issued: &Issued| head(issued)["kid"].as_str().unwrap().to_owned();
    let mut tokens: Vec<Issued> = vec![];
    let mut shown_before: HashSet<String> = HashSet::new();
    for day in 0..65 {
        let session = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
        let issued = house.issued(&session, &wiki, asked(&wiki)).await;
        assert!(
            day == 0 || shown_before.contains(&kid(&issued)),
            "day {day}: a key out of nowhere"
        );
        let (keys, _) = house.identity.public_keys().await.unwrap();
        if let Some(yesterdays) = tokens.last() {
            assert!(crate::jwt::signed(&yesterdays.id_token, &keys).is_some(), "day {day}");
        }
        let fitting = keys_of(&house, algorithm.as_str()).await;
        shown_before = fitting.iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect();
        assert!((1..=3).contains(&shown_before.len()), "day {day}: {shown_before:?}");
        tokens.push(issued);
        house.base.clock.advance(DAY);
    }
    let signed: HashSet<String> = tokens.iter().map(kid).collect();
    assert_eq!(signed.len(), 3, "a new one each month");
    // The keys are the same after a restart.
    let (keys, _) = house.identity.public_keys().await.unwrap();
    assert_eq!(house.again(quick()).await.public_keys().await.unwrap().0, keys);
}

#[tokio::test]
async fn a_tool_sends_people_to_sign_out_and_only_where_it_said() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let (wiki, other) = (made(&house, &admin, true).await, made(&house, &admin, true).await);
    let session = house.sign_in("admin@localhost", PASSWORD).await.unwrap();
    let issued = house.issued(&session, &wiki, asked(&wiki)).await;
    house.base.clock.advance(DAY);
    let hint = Leaving {
        id_token_hint: Some(issued.id_token.clone()),
        post_logout_redirect_uri: Some(AFTER.into()),
        state: Some("s".into()),
        ..Leaving::default()
    };
    let found = house.identity.leaving(&hint).await.unwrap();
    assert_eq!(found, (Some("Wiki".into()), Some(format!("{AFTER}?state=s"))));
    assert_eq!(house.identity.leaving(&Leaving::default()).await.unwrap(), (None, None));
    let evil = Some("https://evil.example/".to_owned());
    for wrong in [
        Leaving { post_logout_redirect_uri: evil, ..hint.clone() },
        Leaving { post_logout_redirect_uri: Some(BACK.into()), ..hint.clone() },
        Leaving { id_token_hint: None, ..hint.clone() },
        Leaving { id_token_hint: Some(format!("{}x", issued.id_token)), ..hint.clone() },
        Leaving { client_id: Some(other.tool.id.to_string()), ..hint.clone() },
    ] {
        assert!(house.identity.leaving(&wrong).await.is_err(), "{wrong:?}");
    }
    let named = Leaving { id_token_hint: None, client_id: Some(wiki.tool.id.to_string()), ..hint };
    assert!(house.identity.leaving(&named).await.is_ok());
}

#[tokio::test]
async fn an_app_or_a_key_is_no_browser_that_may_answer() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let wiki = made(&house, &admin, true).await;
    let waiting = house.begun(asked(&wiki)).await;
    let app = house.enter("admin@localhost", PASSWORD, Holds::Tokens).await.unwrap();
    let app = app.session().unwrap();
    let by = Some(http(&app.principal));
    let answered = house.identity.answer(by, Some(&app.token), (&waiting, true)).await.unwrap();
    assert_eq!(answered, None);
    let key = house.key(&admin, &[("*", "*")]).await;
    let key = house.open_with(&key.mqtt_user, &key.mqtt_password).await.unwrap();
    let answered = house.identity.answer(Some(http(&key)), None, (&waiting, true)).await.unwrap();
    assert_eq!(answered, None);
    assert!(house.identity.take_back(http(&key), wiki.tool.id).await.is_err());
}
