//! Passkeys against a small authenticator, and against wrong ones.

use std::time::Duration;

use base::access::Principal;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{HERE, House, PASSWORD, house, http, quick};
use crate::{
    Config, Error, Holds, NewPasskey, NewSession, PasskeyRequest, Role, ShownPasskey, Visitor,
};

enum Pair {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// Does what an authenticator and a browser do; each part can be made wrong.
struct Authenticator {
    pair: Pair,
    id: Vec<u8>,
    site: String,
    origin: String,
    flags: u8,
    counter: u32,
    cross_origin: bool,
}

const UP: u8 = 1;
const UV: u8 = 4;
const BE: u8 = 8;
const BS: u8 = 16;
const AT: u8 = 64;
const ED: u8 = 128;

fn head(major: u8, number: usize) -> Vec<u8> {
    match u8::try_from(number) {
        Ok(small @ 0..=23) => vec![major << 5 | small],
        Ok(byte) => vec![major << 5 | 0x18, byte],
        Err(_) => {
            let [high, low] = u16::try_from(number).unwrap().to_be_bytes();
            vec![major << 5 | 0x19, high, low]
        }
    }
}

fn int(number: i64) -> Vec<u8> {
    match usize::try_from(number) {
        Ok(number) => head(0, number),
        Err(_) => head(1, usize::try_from(-1 - number).unwrap()),
    }
}

fn bytes(bytes: &[u8]) -> Vec<u8> {
    [head(2, bytes.len()), bytes.to_vec()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [head(3, text.len()), text.as_bytes().to_vec()].concat()
}

impl Authenticator {
    fn p256() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::of(Pair::P256(EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap()))
    }

    fn ed25519() -> Self {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::of(Pair::Ed25519(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()))
    }

    fn of(pair: Pair) -> Self {
        let id = match &pair {
            Pair::P256(pair) => Sha256::digest(pair.public_key()).to_vec(),
            Pair::Ed25519(pair) => Sha256::digest(pair.public_key()).to_vec(),
        };
        Self {
            pair,
            id,
            site: "localhost".into(),
            origin: "http://localhost:8080".into(),
            flags: UP | UV,
            counter: 0,
            cross_origin: false,
        }
    }

    fn cose(&self) -> Vec<u8> {
        match &self.pair {
            Pair::P256(pair) => {
                let point = pair.public_key().as_ref();
                let fields = [
                    [int(1), int(2)].concat(),
                    [int(3), int(-7)].concat(),
                    [int(-1), int(1)].concat(),
                    [int(-2), bytes(&point[1..33])].concat(),
                    [int(-3), bytes(&point[33..])].concat(),
                ];
                [head(5, 5), fields.concat()].concat()
            }
            Pair::Ed25519(pair) => {
                let fields = [
                    [int(1), int(1)].concat(),
                    [int(3), int(-8)].concat(),
                    [int(-1), int(6)].concat(),
                    [int(-2), bytes(pair.public_key().as_ref())].concat(),
                ];
                [head(5, 4), fields.concat()].concat()
            }
        }
    }

    fn data(&self, flags: u8) -> Vec<u8> {
        let site = Sha256::digest(self.site.as_bytes());
        [&site[..], &[flags], &self.counter.to_be_bytes()].concat()
    }

    fn client_data(&self, deed: &str, challenge: &str) -> Vec<u8> {
        let data = json!({
            "type": deed,
            "challenge": challenge,
            "origin": self.origin,
            "crossOrigin": self.cross_origin,
        });
        data.to_string().into_bytes()
    }

    fn make(&self, request: &PasskeyRequest) -> NewPasskey {
        let length = u16::try_from(self.id.len()).unwrap().to_be_bytes();
        let credential = [&[7; 16][..], &length, &self.id, &self.cose()].concat();
        let data = [self.data(self.flags | AT), credential].concat();
        let fields = [
            [text("fmt"), text("none")].concat(),
            [text("attStmt"), head(5, 0)].concat(),
            [text("authData"), bytes(&data)].concat(),
        ];
        NewPasskey {
            name: "phone".into(),
            client_data: self.client_data("webauthn.create", &request.challenge),
            attestation: [head(5, 3), fields.concat()].concat(),
        }
    }

    fn show(&self, request: &PasskeyRequest, user: &Principal) -> ShownPasskey {
        let client_data = self.client_data("webauthn.get", &request.challenge);
        let authenticator_data = self.data(self.flags);
        let message = [&authenticator_data[..], &Sha256::digest(&client_data)].concat();
        let signature = match &self.pair {
            Pair::P256(pair) => {
                pair.sign(&SystemRandom::new(), &message).unwrap().as_ref().to_vec()
            }
            Pair::Ed25519(pair) => pair.sign(&message).as_ref().to_vec(),
        };
        let user = match user.subject {
            base::access::Subject::Account(id) => id.bytes().to_vec(),
            _ => Vec::new(),
        };
        let credential = self.id.clone();
        ShownPasskey { credential, client_data, authenticator_data, signature, user }
    }
}

impl House {
    async fn passkey(&self, authenticator: &Authenticator, of: &Principal) -> Result<(), Error> {
        let by = http(of);
        let request = self.identity.begin_passkey(by, HERE, Some(PASSWORD)).await?;
        self.identity.add_passkey(by, authenticator.make(&request)).await.map(drop)
    }

    async fn shown(&self, shown: ShownPasskey) -> Result<NewSession, Error> {
        self.identity.passkey_sign_in(&Visitor::from(HERE), shown, Holds::Cookie).await
    }
}

#[tokio::test]
async fn a_passkey_lets_its_owner_in_without_anything_else() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    for authenticator in [Authenticator::p256(), Authenticator::ed25519()] {
        house.passkey(&authenticator, &admin).await.unwrap();
        let request = house.identity.passkey_request().unwrap();
        assert_eq!(request.relying_party, "localhost");
        let session = house.shown(authenticator.show(&request, &admin)).await.unwrap();
        assert_eq!(session.principal, admin);
        assert!(house.identity.session(&session.token).await.is_ok());
    }
    let listed = house.identity.passkeys(&admin).await.unwrap();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|passkey| passkey.used.is_some() && !passkey.is_backed_up));
    let by = http(&admin);
    let request = house.identity.begin_passkey(by, HERE, Some(PASSWORD)).await.unwrap();
    assert_eq!(request.user.unwrap().has.len(), 2, "the same authenticator makes no second one");
    assert!(house.identity.begin_passkey(by, HERE, None).await.is_err());

    let member = house.join(&admin, "mina@b.c", Role::Member).await;
    let gone = house.identity.remove_passkey(http(&member), listed[0].id).await;
    assert!(matches!(gone, Err(Error::NotThere("passkey"))), "of another it is not there");
    house.identity.remove_passkey(by, listed[0].id).await.unwrap();
    assert_eq!(house.identity.passkeys(&admin).await.unwrap().len(), 1);
    let seen = house.audit(admin.organisation).await;
    for action in ["factor.passkey-add", "factor.passkey-remove", "session.passkey"] {
        assert!(seen.iter().any(|entry| entry.action == action), "{action}");
    }
}

#[tokio::test]
async fn a_passkey_that_is_made_wrongly_is_not_taken() {
    let house = house(Config { passkeys_per_account_max: 1, ..quick() }).await;
    let admin = house.administrator().await;
    let member = house.join(&admin, "mina@b.c", Role::Member).await;
    let wrong = |change: fn(&mut Authenticator)| {
        let mut authenticator = Authenticator::p256();
        change(&mut authenticator);
        authenticator
    };
    for (what, authenticator) in [
        ("another origin", wrong(|it| it.origin = "http://evil.example".into())),
        ("another port", wrong(|it| it.origin = "http://localhost:8081".into())),
        ("another site", wrong(|it| it.site = "evil.example".into())),
        ("in a frame", wrong(|it| it.cross_origin = true)),
        ("nobody there", wrong(|it| it.flags = UV)),
        ("nobody recognised", wrong(|it| it.flags = UP)),
        ("backed up and cannot be", wrong(|it| it.flags = UP | UV | BS)),
        ("extensions that are not there", wrong(|it| it.flags = UP | UV | ED)),
        ("an endless id", wrong(|it| it.id = vec![1; 1_024])),
        ("no id", wrong(|it| it.id = Vec::new())),
    ] {
        assert!(house.passkey(&authenticator, &admin).await.is_err(), "{what}");
    }
    let (by, good) = (http(&admin), Authenticator::p256());
    let begin = async |by| house.identity.begin_passkey(by, HERE, Some(PASSWORD)).await.unwrap();
    let another = begin(http(&member)).await;
    assert!(
        house.identity.add_passkey(by, good.make(&another)).await.is_err(),
        "for another account"
    );
    let sign_in = house.identity.passkey_request().unwrap();
    assert!(house.identity.add_passkey(by, good.make(&sign_in)).await.is_err(), "for signing in");
    let mut forged = begin(by).await;
    forged.challenge = URL_SAFE_NO_PAD.encode([0; 56]);
    assert!(house.identity.add_passkey(by, good.make(&forged)).await.is_err(), "of another server");
    let mut late = begin(by).await;
    house.base.clock.advance(Duration::from_mins(5));
    assert!(house.identity.add_passkey(by, good.make(&late)).await.is_err(), "too late");
    late = begin(by).await;
    for cut in [1, 10, 100] {
        let mut made = good.make(&late);
        made.attestation.truncate(made.attestation.len() - cut);
        assert!(house.identity.add_passkey(by, made).await.is_err(), "{cut} bytes short");
    }
    let mut swapped = good.make(&late);
    let get = String::from_utf8(swapped.client_data).unwrap().replace("create", "get");
    swapped.client_data = get.into_bytes();
    assert!(house.identity.add_passkey(by, swapped).await.is_err(), "for another deed");
    assert!(house.identity.passkeys(&admin).await.unwrap().is_empty());

    house.identity.add_passkey(by, good.make(&late)).await.unwrap();
    assert!(house.identity.add_passkey(by, good.make(&late)).await.is_err(), "answered twice");
    let more = house.passkey(&Authenticator::p256(), &admin).await;
    assert!(matches!(more, Err(Error::Limit { what: "passkeys", .. })));
    let theirs = house.passkey(&good, &member).await;
    assert!(matches!(theirs, Err(Error::FactorExists)), "a credential has one owner");
}

#[tokio::test]
async fn a_passkey_that_is_shown_wrongly_opens_nothing() {
    let house = house(quick()).await;
    let admin = house.administrator().await;
    let member = house.join(&admin, "mina@b.c", Role::Member).await;
    let mut good = Authenticator::p256();
    good.flags = UP | UV | BE | BS;
    house.passkey(&good, &admin).await.unwrap();
    let ask = || house.identity.passkey_request().unwrap();
    let refused = async |what: &str, shown: ShownPasskey| {
        let error = house.shown(shown).await.unwrap_err();
        assert!(matches!(error, Error::PasskeyRefused), "{what}: {error}");
    };
    let mut other = Authenticator::p256();
    refused("unknown", other.show(&ask(), &admin)).await;
    other.id.clone_from(&good.id);
    refused("signed with another key", other.show(&ask(), &admin)).await;
    refused("named for another", good.show(&ask(), &member)).await;
    let mut shown = good.show(&ask(), &admin);
    shown.signature[10] ^= 1;
    refused("a changed signature", shown).await;
    let mut shown = good.show(&ask(), &admin);
    shown.authenticator_data[33] ^= 1;
    refused("a changed counter", shown).await;
    let mut shown = good.show(&ask(), &admin);
    shown.client_data.push(b' ');
    refused("changed client data", shown).await;
    for flags in [UP, UV, 0] {
        let kept = std::mem::replace(&mut good.flags, flags);
        refused("without its owner", good.show(&ask(), &admin)).await;
        good.flags = kept;
    }
    good.origin = "https://localhost:8080".into();
    refused("another origin", good.show(&ask(), &admin)).await;
    good.origin = "http://localhost:8080".into();
    let made = house.identity.begin_passkey(http(&admin), HERE, Some(PASSWORD)).await.unwrap();
    refused("the challenge of making one", good.show(&made, &admin)).await;
    let late = ask();
    house.base.clock.advance(Duration::from_mins(5));
    refused("too late", good.show(&late, &admin)).await;

    let request = ask();
    let shown = good.show(&request, &admin);
    house.shown(shown.clone()).await.unwrap();
    refused("replayed", shown).await;
    refused("signed anew for an answered challenge", good.show(&request, &admin)).await;
    let race = good.show(&ask(), &admin);
    let many = (0..8).map(|_| house.shown(race.clone()));
    let opened = futures::future::join_all(many).await;
    assert_eq!(opened.iter().filter(|opened| opened.is_ok()).count(), 1);

    good.counter = 5;
    house.shown(good.show(&ask(), &admin)).await.unwrap();
    for counter in [5, 4, 0] {
        good.counter = counter;
        refused("a copy that counts less", good.show(&ask(), &admin)).await;
    }
    assert!(house.identity.passkeys(&admin).await.unwrap()[0].is_backed_up);
}

#[tokio::test]
async fn passkeys_need_a_name_and_not_an_address() {
    let config = Config { origin: "http://192.0.2.1:8080".into(), ..quick() };
    let house = house(config).await;
    let admin = house.administrator().await;
    assert!(matches!(house.identity.passkey_request(), Err(Error::NoPasskeys)));
    let begun = house.identity.begin_passkey(http(&admin), HERE, Some(PASSWORD)).await;
    assert!(matches!(begun, Err(Error::NoPasskeys)));
}
