use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use super::*;

struct Place {
    folder: tempfile::TempDir,
    base: Base,
}

impl Place {
    fn new() -> Self {
        let base = Base::simulated("2026-11-01T00:00:00Z".parse().unwrap(), 1);
        Self { folder: tempfile::tempdir().unwrap(), base }
    }

    fn config(&self) -> Config {
        let path = |name| Some(self.folder.path().join(name));
        Config { certificate: path("chain.pem"), key: path("key.pem"), ..Config::default() }
    }

    /// A certificate until the end of a year; gives what it is in PEM.
    fn write(&self, year: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = date_time_ymd(year, 12, 31);
        let (chain, key) = (params.self_signed(&key).unwrap().pem(), key.serialize_pem());
        self.put("chain.pem", &chain);
        self.put("key.pem", &key);
        (chain, key)
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn open(&self) -> Result<Option<Shown>> {
        Shown::open(&self.config(), self.folder.path(), &self.base)
    }
}

fn files(shown: &Shown) -> &Files {
    match &shown.source {
        Source::Files(files) => files,
        Source::Authority(_) => panic!("it is from an authority"),
    }
}

fn shown(shown: &Shown) -> Vec<u8> {
    files(shown).current.0.read().cert[0].to_vec()
}

fn der(pem: &str) -> Vec<u8> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
}

#[test]
fn without_files_there_is_no_tls_and_one_alone_is_an_error() {
    let place = Place::new();
    let open = |config: &Config| Shown::open(config, place.folder.path(), &place.base);
    assert!(open(&Config::default()).unwrap().is_none());
    for alone in [
        Config { key: None, ..place.config() },
        Config { certificate: None, ..place.config() },
        Config { mqtt_client_authorities: Some("a".into()), ..Config::default() },
    ] {
        let error = open(&alone).err().unwrap();
        assert!(error.to_string().contains("go together"), "{error}");
    }
}

#[test]
fn what_cannot_be_used_is_said_at_the_start() {
    let place = Place::new();
    let fault = |place: &Place| format!("{:#}", place.open().err().unwrap());
    assert!(fault(&place).contains("chain.pem"), "{}", fault(&place));
    let (chain, key) = place.write(2030);
    assert!(place.open().unwrap().is_some());
    place.put("chain.pem", "nothing");
    assert!(fault(&place).contains("no certificate"), "{}", fault(&place));
    place.put("chain.pem", &chain);
    place.put("key.pem", &chain);
    assert!(fault(&place).contains("no private key"), "{}", fault(&place));
    place.put("key.pem", &KeyPair::generate().unwrap().serialize_pem());
    assert!(fault(&place).contains("key.pem"), "a key of another: {}", fault(&place));
    place.put("key.pem", &key);
    assert!(place.open().unwrap().is_some());
}

#[test]
fn a_changed_file_is_taken_over_and_a_bad_one_changes_nothing() {
    let place = Place::new();
    let (first, _) = place.write(2030);
    let open = place.open().unwrap().unwrap();
    let now = place.base.clock.now();
    files(&open).look(now);
    assert_eq!(shown(&open), der(&first));

    let (second, key) = place.write(2031);
    files(&open).look(now);
    assert_eq!(shown(&open), der(&second));
    assert!(place.base.metrics.text().contains("\nmadang_tls_certificate_end_seconds 1956"));

    let stays = |why: &str| {
        files(&open).look(now);
        assert_eq!(shown(&open), der(&second), "{why}");
    };
    place.put("key.pem", &KeyPair::generate().unwrap().serialize_pem());
    stays("the key of another");
    place.put("key.pem", "half a fi");
    stays("a file that is half written");
    std::fs::remove_file(place.folder.path().join("key.pem")).unwrap();
    stays("a file that is gone");
    place.write(2025);
    stays("one that has ended");

    place.put("chain.pem", &second);
    place.put("key.pem", &key);
    stays("the same again");
    let (third, _) = place.write(2032);
    files(&open).look(now);
    assert_eq!(shown(&open), der(&third));
}

#[test]
fn an_authority_and_files_exclude_each_other_and_it_needs_no_file() {
    let place = Place::new();
    place.write(2030);
    let acme: certificates::Config = serde_json::from_value(serde_json::json!({
        "domains": ["madang.example"], "terms_agreed": true, "challenge": "tls-alpn-01",
    }))
    .unwrap();
    let open = |config: &Config| Shown::open(config, place.folder.path(), &place.base);
    let error = open(&Config { acme: acme.clone(), ..place.config() }).err().unwrap();
    assert!(error.to_string().contains("exclude"), "{error}");
    let shown = open(&Config { acme, ..Config::default() }).unwrap().unwrap();
    assert_eq!(shown.authority().unwrap().status().validity, None);
    assert!(shown.answers().is_none(), "the HTTPS door is asked");
    let wrong = certificates::Config { domains: vec!["*.a.b".to_owned()], ..Default::default() };
    let error = open(&Config { acme: wrong, ..Config::default() }).err().unwrap();
    assert!(error.to_string().starts_with("[tls.acme] domains"), "{error}");
}
