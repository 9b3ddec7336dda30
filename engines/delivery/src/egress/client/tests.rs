use std::collections::VecDeque;
use std::time::Duration;

use base::{Base, ErrorKind};
use parking_lot::Mutex;

use super::*;
use crate::egress::Lookup;
use crate::tests::receiver::{AUTHORITY, Receiver, Script};

/// Answers of a name server, one after the other; the last one stays.
struct Answers(Mutex<VecDeque<Vec<&'static str>>>, Mutex<usize>);

impl Answers {
    fn new(answers: impl IntoIterator<Item = Vec<&'static str>>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(answers.into_iter().collect()), Mutex::new(0)))
    }

    fn asked(&self) -> usize {
        *self.1.lock()
    }
}

impl Names for Answers {
    fn addresses<'a>(&'a self, _: &'a str, port: u16) -> Lookup<'a> {
        *self.1.lock() += 1;
        let mut answers = self.0.lock();
        let now = answers[0].clone();
        if answers.len() > 1 {
            answers.pop_front();
        }
        let found = now.iter().map(|text| SocketAddr::new(text.parse().unwrap(), port)).collect();
        Box::pin(std::future::ready(Ok(found)))
    }
}

fn egress() -> Egress {
    Egress {
        allow: vec!["127.0.0.1/32".parse().unwrap()],
        plain_http: true,
        connect_time_max: Duration::from_secs(5),
        request_time_max: Duration::from_secs(10),
        ..Egress::default()
    }
}

async fn post(client: &Client, url: &str) -> Result<Answer, Error> {
    let target = Target::parse(url, client.egress()).unwrap();
    let headers = vec![("webhook-id", "msg_1".to_owned())];
    let body = Bytes::from_static(b"{}");
    let content_type = "application/json";
    client.post(&Request { target: &target, content_type, headers, body }).await
}

#[tokio::test]
async fn a_second_answer_of_the_name_server_leads_nowhere() {
    let base = Base::system();
    let good = Receiver::open(&base).await;
    let evil = Receiver::on(&base, &format!("127.0.0.2:{}", good.port()), None).await;
    let names = Answers::new([vec!["127.0.0.1"], vec!["127.0.0.2"]]);
    let client = Client::with_names(egress(), names.clone()).await.unwrap();
    let url = format!("http://rebind.example.test:{}/a?b=c", good.port());
    assert_eq!(post(&client, &url).await.unwrap().status, 200);
    assert_eq!(names.asked(), 1, "once for a request: what was judged is what is connected to");
    let got = good.got().remove(0);
    assert_eq!(got.header("host"), format!("rebind.example.test:{}", good.port()));
    assert_eq!((got.path.as_str(), got.body.as_str()), ("/a?b=c", "{}"));
    assert_eq!(got.header("content-type"), "application/json");
    assert_eq!(got.header("webhook-id"), "msg_1");
    let refused = post(&client, &url).await.unwrap_err();
    assert!(matches!(refused, Error::EgressRefused { network: "a loopback", .. }), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::Forbidden);
    assert_eq!((good.connections(), evil.connections()), (1, 0));
}

#[tokio::test]
async fn of_the_addresses_of_a_name_only_those_that_are_allowed_are_tried() {
    let base = Base::system();
    let good = Receiver::open(&base).await;
    let evil = Receiver::on(&base, &format!("127.0.0.2:{}", good.port()), None).await;
    let mixed = vec!["127.0.0.2", "10.0.0.1", "::1", "127.0.0.1"];
    let client = Client::with_names(egress(), Answers::new([mixed])).await.unwrap();
    let url = format!("http://mixed.example.test:{}/", good.port());
    assert_eq!(post(&client, &url).await.unwrap().status, 200);
    assert_eq!((good.connections(), evil.connections()), (1, 0));
    for (address, network) in [
        ("::ffff:127.0.0.1", "an IPv4-mapped"),
        ("::ffff:8.8.8.8", "an IPv4-mapped"),
        ("64:ff9b::7f00:1", "an IPv4-translating"),
        ("2002:7f00:1::", "an IPv4-translating"),
        ("169.254.169.254", "a link-local"),
        ("fe80::1", "a link-local"),
        ("fd00::1", "a private"),
        ("0.0.0.0", "an unspecified"),
    ] {
        let names = Answers::new([vec![address]]);
        let strict = Egress { allow: Vec::new(), ..egress() };
        let client = Client::with_names(strict, names).await.unwrap();
        let refused = post(&client, &url).await.unwrap_err();
        let is_so = matches!(&refused, Error::EgressRefused { network: n, .. } if *n == network);
        assert!(is_so, "{address}: {refused}");
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_not_followed() {
    let base = Base::system();
    let (first, second) = (Receiver::open(&base).await, Receiver::open(&base).await);
    first.script([Script::Redirect(second.url())]);
    let client = Client::open(egress()).await.unwrap();
    assert_eq!(post(&client, &first.url()).await.unwrap().status, 302);
    assert_eq!((first.connections(), second.connections()), (1, 0));
}

#[tokio::test]
async fn time_is_limited_and_the_url_is_not_told() {
    let base = Base::system();
    let receiver = Receiver::open(&base).await;
    receiver.script([Script::Stall, Script::Drop, Script::FloodHead]);
    let limit = Duration::from_millis(200);
    let quick = Egress { request_time_max: limit, ..egress() };
    let client = Client::open(quick).await.unwrap();
    let stalled = post(&client, &receiver.url()).await.unwrap_err();
    assert!(matches!(&stalled, Error::TimedOut { limit: l, .. } if *l == limit), "{stalled}");
    let patient = Client::open(egress()).await.unwrap();
    let dropped = post(&patient, &receiver.url()).await.unwrap_err();
    assert!(matches!(dropped, Error::Broken { .. }), "{dropped}");
    let flooded = post(&patient, &receiver.url()).await.unwrap_err();
    assert!(matches!(flooded, Error::Broken { .. }), "{flooded}");
    for error in [stalled, dropped, flooded] {
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/secret", nobody.local_addr().unwrap());
    drop(nobody);
    let unreachable = post(&patient, &url).await.unwrap_err();
    assert!(matches!(unreachable, Error::Unreachable { .. }), "{unreachable}");
}

#[tokio::test]
async fn the_head_decides_and_of_a_body_only_so_much_is_read() {
    let base = Base::system();
    let receiver = Receiver::open(&base).await;
    receiver.script([
        Script::Flood(200),
        Script::StallAfterHead(202),
        Script::Answer(429, "retry-after: 7\r\n", "slow down"),
    ]);
    let limits = Egress {
        answer_bytes_max: 1_000,
        request_time_max: Duration::from_millis(500),
        ..egress()
    };
    let client = Client::open(limits).await.unwrap();
    let flooded = post(&client, &receiver.url()).await.unwrap();
    assert_eq!((flooded.status, flooded.body.len(), flooded.is_cut), (200, 1_000, true));
    let stalled = post(&client, &receiver.url()).await.unwrap();
    assert_eq!((stalled.status, stalled.body, stalled.is_cut), (202, b"half".to_vec(), true));
    let whole = post(&client, &receiver.url()).await.unwrap();
    assert_eq!((whole.status, whole.is_cut), (429, false));
    assert_eq!(whole.retry_after.as_deref(), Some("7"));
    assert_eq!(whole.body, b"slow down");
}

#[tokio::test]
async fn tls_is_checked_against_the_name_and_not_against_the_address() {
    let base = Base::system();
    let receiver = Receiver::with_tls(&base).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("authority.pem");
    std::fs::write(&path, AUTHORITY).unwrap();
    let trusting = Egress { certificate_authorities: Some(path.clone()), ..egress() };
    let client = async |egress: &Egress| {
        Client::with_names(egress.clone(), Answers::new([vec!["127.0.0.1"]])).await.unwrap()
    };
    let url = |host: &str| format!("https://{host}:{}/secret", receiver.port());
    let sound = client(&trusting).await;
    assert_eq!(post(&sound, &url("hooks.example.test")).await.unwrap().status, 200);
    assert_eq!(receiver.got()[0].name.as_deref(), Some("hooks.example.test"));
    for host in ["other.example.test", "127.0.0.1"] {
        let error = post(&sound, &url(host)).await.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{host}: {error}");
        assert!(error.to_string().contains("certificate"), "{error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
    let stranger = client(&egress()).await;
    let error = post(&stranger, &url("hooks.example.test")).await.unwrap_err();
    assert!(matches!(error, Error::Tls { .. }), "an authority that nobody named: {error}");
    assert_eq!(receiver.got().len(), 1, "nothing was sent to a server that was not trusted");

    std::fs::write(&path, "no certificate").unwrap();
    let error = Client::open(trusting).await.err().unwrap().to_string();
    assert!(error.contains("egress.certificate_authorities"), "{error}");
}
