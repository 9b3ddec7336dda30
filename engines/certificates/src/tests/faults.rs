//! An authority that goes wrong, and what stays as it was.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use testkit::until;

use super::stand_in::{Asked, Said, StandIn, problem};
use super::*;

/// Keeps a certificate as if the authority had issued it: from so long ago, for so long.
fn keep(place: &Place, config: &Config, ago: Duration, life: Duration) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(params, KeyPair::generate().unwrap());
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(config.domains.clone()).unwrap();
    params.use_authority_key_identifier_extension = true;
    let now = place.base.clock.now().minus(ago).millis() / 1_000;
    let day = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = day + Duration::from_secs(now.unsigned_abs());
    params.not_after = params.not_before + life;
    let made = params.signed_by(&key, &issuer).unwrap();
    let kept = Kept::of_test(config, made.pem(), key.serialize_pem());
    place.open(config).0.store.write(CERTIFICATE, &kept).unwrap();
    made.der().to_vec()
}

const DAY: Duration = Duration::from_hours(24);

/// Runs until orders failed so often, and gives how it stands.
async fn failed(certificates: &Certificates, place: &Place, times: u32) -> Status {
    let kept = certificates.clone();
    let work = place.base.tasks.spawn("test_certificates", async move { kept.keep().await });
    until(&place.base.clock, "a failure", || {
        let status = certificates.status();
        status.failures >= times && status.phase == Phase::Waiting && status.failure.is_some()
    })
    .await;
    work.abort();
    certificates.status()
}

fn refuses(status: u16, headers: Vec<(&'static str, String)>, body: Value) -> StandIn {
    StandIn::start(move |_, _| (status, headers.clone(), body.clone()))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_wants_to_be_left_alone_is_and_what_is_shown_stays() {
    let place = Place::new();
    let body = problem("rateLimited", "too many certificates for madang.test");
    let stand_in = refuses(429, vec![("retry-after", "7200".to_owned())], body);
    let config = stand_in.config();
    let der = keep(&place, &config, 80 * DAY, 90 * DAY);
    let certificates = place.open(&config);
    let status = failed(&certificates, &place, 1).await;
    let (at, said) = status.failure.unwrap();
    assert!(said.contains("too many certificates") && said.contains("rateLimited"), "{said}");
    let hours = Duration::from_secs(7_190)..Duration::from_secs(7_210);
    assert!(hours.contains(&certificates.0.due().await.since(at)));
    assert_eq!(certificates.0.answers.shown().unwrap().cert[0].to_vec(), der);
    assert_eq!(stand_in.count("POST /order"), 1);
    // It is left alone by the next process too.
    let again = place.open(&config);
    assert!(hours.contains(&again.0.due().await.since(at)));
    assert_eq!(again.0.answers.shown().unwrap().cert[0].to_vec(), der);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_is_told_in_its_own_words() {
    let page = Value::String("<html>Bad Gateway</html>".to_owned());
    let lines: [(u16, Value, &str); 5] = [
        (400, problem("badNonce", "the nonce is no nonce"), "the nonce is no nonce"),
        (400, problem("rejectedIdentifier", "madang.test is on a list"), "is on a list"),
        (502, page.clone(), "502"),
        (200, page, "JSON"),
        (201, json!({"status": "pending", "authorizations": [], "finalize": ""}), "order URL"),
    ];
    for (status, body, expected) in lines {
        let (place, stand_in) = (Place::new(), refuses(status, vec![], body));
        let certificates = place.open(&stand_in.config());
        let status = failed(&certificates, &place, 1).await;
        let (_, said) = status.failure.unwrap();
        assert!(said.contains(expected), "{expected}: {said}");
        assert!(certificates.0.answers.shown().is_none());
        let orders = certificates.0.base.metrics.text();
        assert!(orders.contains("\nmadang_acme_orders_total{outcome=\"failed\"}"), "{orders}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_nonce_is_answered_with_another_one_three_times() {
    let (place, stand_in) = (Place::new(), refuses(400, vec![], problem("badNonce", "no")));
    let certificates = place.open(&stand_in.config());
    certificates.0.order(None).await.err().unwrap();
    assert_eq!(stand_in.count("POST /order"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_two_bad_nonces_the_answer_is_that_to_the_third_request() {
    let left = AtomicUsize::new(2);
    let stand_in = StandIn::start(move |_, _| {
        let is_bad = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        let kind = if is_bad { "badNonce" } else { "rejectedIdentifier" };
        (400, vec![], problem(kind, kind))
    });
    let place = Place::new();
    let error = place.open(&stand_in.config()).0.order(None).await.err().unwrap().to_string();
    assert!(error.contains("rejectedIdentifier") && !error.contains("badNonce"), "{error}");
    assert_eq!(stand_in.count("POST /order"), 3);
}

/// One name; the order is `status`, and its challenge has gone wrong.
fn looks(asked: &Asked, url: &str, status: &str) -> Said {
    let order = json!({
        "status": status,
        "authorizations": [format!("{url}/authorization")],
        "finalize": format!("{url}/finalize"),
    });
    match asked.what.as_str() {
        "POST /order" | "POST /order/1" => {
            (201, vec![("location", format!("{url}/order/1"))], order)
        }
        "POST /authorization" => {
            let is_pending = status == "pending" || asked.said == json!("first");
            let fault = problem("connection", "192.0.2.7: no route to host");
            let challenge = json!({
                "type": "http-01", "url": format!("{url}/challenge"), "token": "abc",
                "status": "invalid", "error": fault,
            });
            let status = if is_pending { "pending" } else { "invalid" };
            let identifier = json!({"type": "dns", "value": NAME});
            let body =
                json!({"status": status, "identifier": identifier, "challenges": [challenge]});
            (200, vec![], body)
        }
        "POST /challenge" => {
            (200, vec![], json!({"type": "http-01", "url": "", "token": "", "status": "pending"}))
        }
        other => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_that_never_ends_is_given_up_and_leaves_no_answers() {
    let (place, stand_in) = (Place::new(), StandIn::start(|it, url| looks(it, url, "pending")));
    let config = Config { order_time_max: Duration::from_secs(5), ..stand_in.config() };
    let certificates = place.open(&config);
    let other = certificates.clone();
    let work = place.base.tasks.spawn("test_order", async move { other.0.order(None).await.err() });
    until(&place.base.clock, "an answer", || certificates.http_answer("abc").is_some()).await;
    let answer = certificates.http_answer("abc").unwrap();
    assert!(answer.starts_with("abc.") && answer.len() == 47, "{answer}");
    let error = work.await.unwrap().unwrap().unwrap();
    assert!(error.to_string().contains("5s") || error.to_string().contains("timed out"), "{error}");
    assert_eq!(certificates.http_answer("abc"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_authority_did_not_find_here_is_named_with_the_reason() {
    let seen = Arc::new(Mutex::new(0));
    let stand_in = StandIn::start(move |asked, url| {
        // Pending when it is asked first, invalid once it has looked.
        let mut asked = asked.clone();
        if asked.what == "POST /authorization" {
            *seen.lock() += 1;
            if *seen.lock() == 1 {
                asked.said = json!("first");
            }
        }
        looks(&asked, url, "invalid")
    });
    let place = Place::new();
    let certificates = place.open(&stand_in.config());
    let error = certificates.0.order(None).await.err().unwrap().to_string();
    assert!(error.contains(NAME) && error.contains("no route to host"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_that_is_not_offered_is_said() {
    let (place, stand_in) = (Place::new(), StandIn::start(|it, url| looks(it, url, "pending")));
    let config = Config { challenge: Challenge::TlsAlpn01, ..stand_in.config() };
    let error = place.open(&config).0.order(None).await.err().unwrap().to_string();
    assert!(error.contains("does not offer tls-alpn-01 for madang.test"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_authority_wants_renewed_early_is_and_the_order_says_what_it_replaces() {
    let window = Arc::new(Mutex::new(("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z")));
    let wanted = window.clone();
    let stand_in = StandIn::start(move |asked, _| {
        if asked.what.starts_with("GET /renewal/") {
            let (start, end) = *wanted.lock();
            let body = json!({"suggestedWindow": {"start": start, "end": end}});
            return (200, vec![("retry-after", "21600".to_owned())], body);
        }
        (403, vec![], problem("unauthorized", "not today"))
    });
    let (place, config) = (Place::new(), stand_in.config());
    keep(&place, &config, DAY, 90 * DAY);
    let certificates = place.open(&config);
    assert!(certificates.0.due().await < place.base.clock.now(), "an urgent wish");
    assert!(certificates.0.due().await < place.base.clock.now());
    let is_renewal = |asked: &&Asked| asked.what.starts_with("GET /renewal/");
    let asked = stand_in.asked.lock().iter().filter(is_renewal).count();
    assert_eq!(asked, 1, "it is asked again when it said so");
    failed(&certificates, &place, 1).await;
    let orders: Vec<Value> = {
        let asked = stand_in.asked.lock();
        asked.iter().filter(|it| it.what == "POST /order").map(|it| it.said.clone()).collect()
    };
    let name = stand_in.asked.lock().iter().find(is_renewal).unwrap().what.clone();
    assert_eq!(orders[0]["replaces"].as_str(), name.strip_prefix("GET /renewal/"));
    assert!(orders[1].get("replaces").is_none(), "without it when it is refused: {orders:?}");

    *window.lock() = ("2100-01-01T00:00:00Z", "2100-01-02T00:00:00Z");
    let again = place.open(&config);
    let end = again.status().validity.unwrap().end;
    assert_eq!(again.0.due().await, end, "later than it lives: not after its end");
    *window.lock() = ("2100-01-02T00:00:00Z", "2100-01-01T00:00:00Z");
    let due = place.open(&config).0.due().await;
    assert!(due < end.minus(30 * DAY) && due > end.minus(33 * DAY), "no window: {due}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_has_ended_is_shown_on_while_another_one_is_asked_for() {
    let (place, stand_in) = (Place::new(), refuses(500, vec![], problem("serverInternal", "oh")));
    let config = stand_in.config();
    let der = keep(&place, &config, 100 * DAY, 90 * DAY);
    let certificates = place.open(&config);
    failed(&certificates, &place, 2).await;
    assert_eq!(certificates.0.answers.shown().unwrap().cert[0].to_vec(), der);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_down_is_asked_again_later_and_later() {
    let place = Place::new();
    let port = testkit::free_port().unwrap();
    let directory = format!("https://127.0.0.1:{port}/directory");
    let config = Config { certificate_authorities: None, ..config_of(&directory, "") };
    let certificates = place.open(&config);
    let status = failed(&certificates, &place, 3).await;
    let (at, said) = status.failure.unwrap();
    assert!(said.contains("refused") && said.contains(&directory), "{said}");
    let pause = certificates.0.due().await.since(at).as_millis();
    let middle = 50 << (status.failures - 1);
    // Moments are kept in milliseconds.
    let bounds = middle * 3 / 4 - 2..=middle * 5 / 4;
    assert!(bounds.contains(&pause), "{} failures: {pause} ms", status.failures);
}
