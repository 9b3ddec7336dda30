//! Pebble issues: it comes to the doors as a public authority does.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use testkit::{Certificates as Authority, Pebble, free_port, until};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;

const DAY: Duration = Duration::from_hours(24);
const LONG: Duration = Duration::from_hours(90 * 24);

/// Whose certificate the authority itself shows when it is asked.
fn authority(place: &Place) -> Authority {
    Authority::new(&place.path("authority")).unwrap()
}

/// Comes to the HTTPS door, trusting the authority alone.
async fn come(port: u16, root: &str) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from(OTHER_NAME).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

async fn issues(challenge: Challenge) {
    let (place, sockets) = (Place::new(), Sockets::open().await);
    let ports = sockets.ports();
    let made = authority(&place);
    let pebble = Pebble::start(free_port().unwrap(), &made, ports, LONG).unwrap();
    let root = pebble.root().unwrap();
    let config = Config { challenge, ..config_of(pebble.directory(), &made.path("authority.pem")) };
    let certificates = place.open(&config);
    let begun = come(ports.1, &root);
    sockets.serve(&certificates, &place.base);
    assert!(begun.await.is_err(), "nobody is let in before the first certificate");
    until(&place.base.clock, "a certificate", || certificates.status().validity.is_some()).await;

    let found = shown(&come(ports.1, &root).await.unwrap());
    let status = certificates.status();
    assert_eq!((status.failures, status.failure, status.phase), (0, None, Phase::Waiting));
    let validity = Validity::of(&found).unwrap();
    assert_eq!(status.validity, Some(validity));
    let not_before = certificates.0.state.lock().attempts.not_before();
    assert!(
        not_before > place.base.clock.now().plus(DAY / 2),
        "not again at once, whatever clocks say"
    );
    let third = LONG / 3;
    until(&place.base.clock, "the next one planned", || {
        let next = certificates.status().next.unwrap();
        next > validity.end.minus(third * 11 / 10) && next <= validity.end.minus(third)
    })
    .await;
    assert_eq!(certificates.http_answer(""), None);
    assert!(certificates.0.answers.prepare().is_empty(), "no answer stays behind");

    // A start shows what is kept, and asks nobody.
    drop(pebble);
    let again = place.open(&config);
    assert_eq!(again.0.answers.shown().unwrap().cert[0].to_vec(), found);
    assert!(again.0.due().await > place.base.clock.now());
    // Other names are ordered at once, and the one that is there is shown on.
    let other = place.open(&Config { domains: vec![NAME.to_owned()], ..config });
    assert!(other.0.due().await <= place.base.clock.now());
    assert_eq!(other.0.answers.shown().unwrap().cert[0].to_vec(), found);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_comes_by_http_01() {
    issues(Challenge::Http01).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_comes_by_tls_alpn_01() {
    issues(Challenge::TlsAlpn01).await;
}

/// A life of twenty seconds: a machine that is held up for some of them has the next one in time.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_renewed_before_it_ends_and_open_connections_stay() {
    let (place, sockets) = (Place::new(), Sockets::open().await);
    let (ports, port) = (sockets.ports(), free_port().unwrap());
    let made = authority(&place);
    let pebble = Pebble::start(port, &made, ports, Duration::from_secs(20)).unwrap();
    let config = config_of(pebble.directory(), &made.path("authority.pem"));
    let certificates = place.open(&config);
    sockets.serve(&certificates, &place.base);
    let clock = &place.base.clock;
    until(clock, "a certificate", || certificates.status().validity.is_some()).await;
    let root = pebble.root().unwrap();
    let mut open = come(ports.1, &root).await.unwrap();
    let before = shown(&open);
    let end = certificates.status().validity.unwrap().end;
    // Not before a third of its life is left.
    clock.sleep(Duration::from_secs(10)).await;
    until(clock, "another one", || certificates.status().validity.unwrap().end > end).await;
    assert!(clock.now() < end, "before the first one has ended");
    let now = come(ports.1, &root).await.unwrap();
    assert_ne!(shown(&now), before);
    // Who came before is served on.
    open.write_all(b"still there").await.unwrap();
    let mut heard = [0; 11];
    open.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_cannot_be_kept_is_shown_and_no_other_is_ordered() {
    let (place, sockets) = (Place::new(), Sockets::open().await);
    let ports = sockets.ports();
    let made = authority(&place);
    let pebble = Pebble::start(free_port().unwrap(), &made, ports, LONG).unwrap();
    let config = config_of(pebble.directory(), &made.path("authority.pem"));
    let certificates = place.open(&config);
    // What cannot be replaced by a file, whoever wants to.
    std::fs::create_dir_all(place.path("certificates").join(crate::store::CERTIFICATE)).unwrap();
    sockets.serve(&certificates, &place.base);
    let clock = &place.base.clock;
    until(clock, "a certificate", || certificates.status().validity.is_some()).await;
    let status = certificates.status();
    assert_eq!((status.failures, status.failure), (0, None));
    until(clock, "the next one planned", || {
        certificates.status().next.is_some_and(|next| next > clock.now().plus(LONG / 2))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_forgot_the_account_gets_another_one() {
    forgets("mailto:ops@madang.test").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn also_where_the_contacts_are_others() {
    forgets("mailto:others@madang.test").await;
}

async fn forgets(contact: &str) {
    let (place, sockets) = (Place::new(), Sockets::open().await);
    let (ports, port) = (sockets.ports(), free_port().unwrap());
    let made = authority(&place);
    let first = Pebble::start(port, &made, ports, LONG).unwrap();
    let config = config_of(first.directory(), &made.path("authority.pem"));
    let certificates = place.open(&config);
    sockets.serve(&certificates, &place.base);
    let clock = &place.base.clock;
    until(clock, "a certificate", || certificates.status().validity.is_some()).await;
    let found = certificates.0.answers.shown().unwrap();
    drop(first);
    let _second = Pebble::start(port, &made, ports, LONG).unwrap();
    let contacts = vec![contact.to_owned()];
    let again = place.open(&Config { domains: vec![NAME.to_owned()], contacts, ..config });
    // The doors ask the first handle, so what this one prepares is not found; but the account is made.
    let error = again.0.order(None).await.err().unwrap().to_string();
    assert!(error.starts_with(NAME) && error.contains("not validated"), "{error}");
    assert!(error.contains("unauthorized"), "{error}");
    let shown = again.0.answers.shown().unwrap();
    assert_eq!(shown.cert, found.cert, "a failed order takes nothing away");
}
