//! Log-in by others, against a stand-in with the shapes of Kakao and Naver.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base::access::Authority;
use base::{Failure, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{HERE, House, PASSWORD, house_with, http, quick};
use crate::jwt::tests::Signer;
use crate::{
    Config, Entered, Error, Needs, NewSession, Provider, Return, Returned, SignUp, Visit, Visitor,
    Web, WebAnswer, WebRequest,
};

const KAKAO: &str = "https://kauth.kakao.com";
const NAVER: &str = "https://nid.naver.com";

/// Kakao's OpenID Connect and Naver's OAuth 2 with a profile, as their pages describe them.
struct StandIn {
    signer: Signer,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What was shown at the authorization endpoint, by code.
    codes: BTreeMap<String, BTreeMap<String, String>>,
    /// Overrides of ID tokens.
    claims: Value,
    subject: String,
    email: Option<(String, Option<bool>)>,
    is_down: bool,
    agreed: u32,
    asked: Vec<String>,
    now: i64,
}

impl Web for StandIn {
    fn ask(
        &self,
        request: WebRequest,
    ) -> Pin<Box<dyn Future<Output = Result<WebAnswer, Failure>> + Send + '_>> {
        let answer = self.answer(&request);
        Box::pin(std::future::ready(answer))
    }
}

impl StandIn {
    fn answer(&self, request: &WebRequest) -> Result<WebAnswer, Failure> {
        let mut state = self.state.lock();
        state.asked.push(request.url.clone());
        if state.is_down {
            return Err("no connection".into());
        }
        let form: BTreeMap<String, String> =
            request.form.as_deref().map_or_else(BTreeMap::new, |form| {
                url::form_urlencoded::parse(form.as_bytes()).into_owned().collect()
            });
        let (status, body) = match request.url.as_str() {
            "https://kauth.kakao.com/.well-known/openid-configuration" => (
                200,
                json!({
                    "issuer": KAKAO,
                    "authorization_endpoint": "https://kauth.kakao.com/oauth/authorize",
                    "token_endpoint": "https://kauth.kakao.com/oauth/token",
                    "jwks_uri": "https://kauth.kakao.com/.well-known/jwks.json",
                }),
            ),
            "https://kauth.kakao.com/.well-known/jwks.json" => (200, self.signer.keys()),
            "https://kauth.kakao.com/oauth/token" => match exchanged(&mut state, &form) {
                // Kakao's code for a code that is not good.
                None => (400, json!({"error": "invalid_grant", "error_code": "KOE320"})),
                Some(shown) => {
                    let mut claims = json!({
                        "iss": KAKAO, "aud": shown["client_id"], "sub": state.subject,
                        "iat": state.now, "exp": state.now + 21_599, "auth_time": state.now,
                        "nonce": shown["nonce"], "nickname": "민아",
                    });
                    if let Some((email, is_verified)) = &state.email {
                        claims["email"] = json!(email);
                        if let Some(is_verified) = is_verified {
                            claims["email_verified"] = json!(is_verified);
                        }
                    }
                    if let Some(overrides) = state.claims.as_object() {
                        for (name, value) in overrides {
                            claims[name] = value.clone();
                        }
                    }
                    let head = json!({"kid": "k1", "typ": "JWT", "alg": "ES256"});
                    let token = self.signer.sign(&head, &claims);
                    (
                        200,
                        json!({"token_type": "bearer", "access_token": "a", "id_token": token, "expires_in": 21599, "scope": "openid"}),
                    )
                }
            },
            // Naver says what is wrong under 200, and writes numbers as text.
            "https://nid.naver.com/oauth2.0/token" => match exchanged(&mut state, &form) {
                None => (
                    200,
                    json!({"error": "invalid_request", "error_description": "no valid data in session"}),
                ),
                Some(_) => (
                    200,
                    json!({"access_token": "naver", "token_type": "bearer", "expires_in": "3600"}),
                ),
            },
            "https://openapi.naver.com/v1/nid/me" if request.bearer.as_deref() == Some("naver") => {
                let response =
                    json!({"id": state.subject, "email": "mina@naver.com", "nickname": "민아"});
                (200, json!({"resultcode": "00", "message": "success", "response": response}))
            }
            _ => (404, json!({})),
        };
        Ok(WebAnswer { status, body: body.to_string().into_bytes() })
    }

    /// What a person does there: says yes, and is sent back with a code.
    fn agree(&self, visit: &Visit) -> Return {
        let url: url::Url = visit.url.parse().unwrap();
        let shown: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        assert_eq!(shown["response_type"], "code");
        assert_eq!(shown["code_challenge_method"], "S256");
        let mut state = self.state.lock();
        state.agreed += 1;
        let code = format!("code-{}", state.agreed);
        state.codes.insert(code.clone(), shown.clone());
        Return { state: shown["state"].clone(), code: Some(code), issuer: None }
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock());
    }
}

/// A code is good once, for who began and where it was sent.
fn exchanged(
    state: &mut State,
    form: &BTreeMap<String, String>,
) -> Option<BTreeMap<String, String>> {
    let shown = state.codes.remove(form.get("code")?)?;
    let verifier = URL_SAFE_NO_PAD.encode(Sha256::digest(form.get("code_verifier")?));
    let is_good = form["grant_type"] == "authorization_code"
        && form["client_secret"] == "secret"
        && form["redirect_uri"] == shown["redirect_uri"]
        && form["state"] == shown["state"]
        && verifier == shown["code_challenge"];
    is_good.then_some(shown)
}

async fn with_providers(config: Config) -> (House, Arc<StandIn>) {
    let client = || Provider {
        client_id: "madang".into(),
        client_secret: "secret".into(),
        ..Provider::default()
    };
    let kakao = Provider { issuer: KAKAO.into(), ..client() };
    let naver = Provider {
        authorization_endpoint: format!("{NAVER}/oauth2.0/authorize"),
        token_endpoint: format!("{NAVER}/oauth2.0/token"),
        profile_endpoint: "https://openapi.naver.com/v1/nid/me".into(),
        profile_subject: "/response/id".into(),
        ..client()
    };
    let providers = BTreeMap::from([("kakao".to_owned(), kakao), ("naver".to_owned(), naver)]);
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let state = State { subject: "7".into(), now: now.millis() / 1_000, ..State::default() };
    let stand_in = Arc::new(StandIn { signer: Signer::new(), state: Mutex::new(state) });
    let needs = Needs { mailer: None, web: Some(stand_in.clone()), farewell: None };
    (house_with(Config { providers, ..config }, needs).await, stand_in)
}

impl House {
    async fn come_back(&self, name: &str, visit: &Visit, back: Return) -> Result<Returned, Error> {
        let with = (&*visit.cookie, back);
        self.identity.finish_provider(&Visitor::from(HERE), name, with).await
    }

    async fn by(&self, name: &str, stand_in: &StandIn) -> Result<NewSession, Error> {
        let visit = self.identity.begin_provider(name).await?;
        match self.come_back(name, &visit, stand_in.agree(&visit)).await? {
            Returned::Entered(Entered::In(session)) => Ok(session),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_account_is_linked_by_its_owner_and_known_by_the_subject() {
    let (house, stand_in) = with_providers(quick()).await;
    let admin = house.administrator().await;
    for name in ["kakao", "naver"] {
        let refused = house.by(name, &stand_in).await;
        assert!(matches!(refused, Err(Error::ProviderNotLinked)), "{name}");
        let by = http(&admin);
        assert!(house.identity.begin_link(by, HERE, (name, None)).await.is_err(), "the password");
        let visit = house.identity.begin_link(by, HERE, (name, Some(PASSWORD))).await.unwrap();
        let linked = house.come_back(name, &visit, stand_in.agree(&visit)).await.unwrap();
        assert!(matches!(linked, Returned::Linked));
        let session = house.by(name, &stand_in).await.unwrap();
        assert_eq!(session.principal, admin, "{name}");
    }
    // Somebody else there is nobody here, whatever address they say.
    stand_in.set(|state| {
        state.subject = "8".into();
        state.email = Some(("admin@localhost".into(), None));
    });
    assert!(matches!(house.by("kakao", &stand_in).await, Err(Error::ProviderNotLinked)));
    stand_in.set(|state| state.subject = "7".into());
    let member = house.join(&admin, "mina@b.c", crate::Role::Member).await;
    let with = ("kakao", Some(PASSWORD));
    let visit = house.identity.begin_link(http(&member), HERE, with).await.unwrap();
    let taken = house.come_back("kakao", &visit, stand_in.agree(&visit)).await;
    assert!(matches!(taken, Err(Error::FactorExists)), "a subject has one account");
    assert_eq!(house.identity.links(&admin).await.unwrap().len(), 2);
    house.identity.unlink(http(&admin), "kakao").await.unwrap();
    assert!(matches!(house.by("kakao", &stand_in).await, Err(Error::ProviderNotLinked)));
    assert!(house.by("naver", &stand_in).await.is_ok());
    let mut epoch = house.identity.epoch();
    epoch.mark_unchanged();
    assert!(matches!(house.identity.begin_provider("x").await, Err(Error::NotThere("provider"))));
}

#[tokio::test]
async fn an_account_is_made_for_an_address_that_the_provider_vouches_for_only() {
    let (house, stand_in) = with_providers(quick()).await;
    house.administrator().await;
    for (email, is_verified) in [
        (None, None),
        (Some("mina@b.c"), None),
        (Some("mina@b.c"), Some(false)),
        (Some("not an address"), Some(true)),
        (Some("admin@localhost"), Some(true)),
    ] {
        stand_in.set(|state| state.email = email.map(|email| (email.to_owned(), is_verified)));
        let refused = house.by("kakao", &stand_in).await;
        assert!(matches!(refused, Err(Error::ProviderNotLinked)), "{email:?} {is_verified:?}");
    }
    stand_in.set(|state| state.email = Some(("mina@b.c".into(), Some(true))));
    let made = house.by("kakao", &stand_in).await.unwrap().principal;
    assert_eq!(&*made.name, "mina@b.c");
    assert!(house.identity.profile(&made).await.unwrap().is_verified);
    stand_in.set(|state| state.email = None);
    assert_eq!(house.by("kakao", &stand_in).await.unwrap().principal, made);

    let (house, stand_in) = with_providers(Config { sign_up: SignUp::Invitation, ..quick() }).await;
    stand_in.set(|state| state.email = Some(("mina@b.c".into(), Some(true))));
    assert!(matches!(house.by("kakao", &stand_in).await, Err(Error::ProviderNotLinked)));
}

#[tokio::test]
async fn what_comes_back_wrongly_opens_nothing() {
    let (house, stand_in) = with_providers(quick()).await;
    stand_in.set(|state| state.email = Some(("mina@b.c".into(), Some(true))));
    let begin = async || house.identity.begin_provider("kakao").await.unwrap();
    let refused = async |what: &str, visit: &Visit, back: Return| {
        let error = house.come_back("kakao", visit, back).await.unwrap_err();
        assert!(matches!(error, Error::ProviderRefused), "{what}: {error:?}");
    };
    let (mine, other) = (begin().await, begin().await);
    refused("another browser's state", &mine, stand_in.agree(&other)).await;
    let (visit, planted) = (begin().await, stand_in.agree(&other).state);
    let fixed = Return { state: planted, ..stand_in.agree(&visit) };
    refused("a state that somebody else began", &visit, fixed).await;
    let no_cookie = Visit { cookie: String::new(), ..begin().await };
    refused("no cookie", &no_cookie, stand_in.agree(&other)).await;
    let visit = begin().await;
    let denied = Return { code: None, ..stand_in.agree(&visit) };
    refused("the person said no", &visit, denied.clone()).await;
    refused("the same again", &visit, stand_in.agree(&visit)).await;
    let visit = begin().await;
    let elsewhere = house.come_back("naver", &visit, stand_in.agree(&visit)).await;
    assert!(matches!(elsewhere, Err(Error::ProviderRefused)), "by another provider");
    let visit = begin().await;
    let stolen = Return { code: stand_in.agree(&other).code, ..stand_in.agree(&visit) };
    refused("a code of another log-in", &visit, stolen).await;
    let visit = begin().await;
    let mixed = Return { issuer: Some("https://evil.example".into()), ..stand_in.agree(&visit) };
    refused("the answer of another provider", &visit, mixed).await;
    let visit = begin().await;
    let back = stand_in.agree(&visit);
    house.base.clock.advance(Duration::from_mins(10));
    refused("too late", &visit, back).await;
    stand_in.set(|state| state.now += 600);

    for (name, value) in [
        ("iss", json!("https://evil.example")),
        ("aud", json!("somebody-else")),
        ("nonce", json!("of another log-in")),
        ("exp", json!(1)),
        ("iat", json!(9_999_999_999_i64)),
        ("sub", json!("")),
    ] {
        stand_in.set(|state| state.claims = json!({name: value}));
        let visit = begin().await;
        refused(name, &visit, stand_in.agree(&visit)).await;
    }
    stand_in.set(|state| state.claims = Value::Null);
    let visit = begin().await;
    let back = stand_in.agree(&visit);
    let entered = house.come_back("kakao", &visit, back.clone()).await;
    assert!(entered.is_ok(), "{:?}", entered.err());
    refused("replayed", &visit, back).await;

    let naver = house.identity.begin_provider("naver").await.unwrap();
    let wrong = Return { code: Some("x".into()), ..stand_in.agree(&naver) };
    let error = house.come_back("naver", &naver, wrong).await.unwrap_err();
    assert!(matches!(error, Error::ProviderRefused), "an error under 200: {error:?}");
}

#[tokio::test]
async fn a_provider_that_is_down_is_said_to_be() {
    let (house, stand_in) = with_providers(quick()).await;
    let visit = house.identity.begin_provider("kakao").await.unwrap();
    let back = stand_in.agree(&visit);
    stand_in.set(|state| state.is_down = true);
    assert!(matches!(house.identity.begin_provider("kakao").await, Err(Error::ProviderDown)));
    let down = house.come_back("kakao", &visit, back).await;
    assert!(matches!(down, Err(Error::ProviderDown)));
    stand_in.set(|state| state.is_down = false);
    // What is asked is only ever what the configuration and its discovery name.
    let hosts = |url: &String| url.starts_with(KAKAO) || url.starts_with(NAVER);
    assert!(stand_in.state.lock().asked.iter().all(hosts));
}
