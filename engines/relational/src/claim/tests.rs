use std::time::Duration;

use base::Base;
use tempfile::TempDir;

use super::*;
use crate::Config;

struct Fixture {
    claims: Claims,
    base: Base,
    _dir: TempDir,
}

async fn fixture(claims_max: u64) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let base = Base::simulated(Timestamp::from_millis(1_000_000_000), 1);
    let path = dir.path().join("rows.db");
    let db = Db::open(Config { path, claims_max, ..Config::default() }, &base).await.unwrap();
    Fixture { claims: Claims::new(&db), base, _dir: dir }
}

fn deed(key: impl Into<String>) -> Deed {
    Deed {
        organisation: OrganisationId::DEFAULT,
        subject: "mina".into(),
        operation: "makeThing".into(),
        key: key.into(),
        fingerprint: vec![1, 2, 3],
    }
}

impl Fixture {
    async fn begin(&self, deed: Deed) -> Claimed {
        self.claims.begin(deed).await.unwrap()
    }

    async fn begin_new(&self, deed: Deed) -> Timestamp {
        match self.begin(deed).await {
            Claimed::New { claim } => claim,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_thousand_who_claim_one_deed_one_does_it() {
    let fixture = fixture(10_000).await;
    let asking = (0..1_000).map(|_| fixture.claims.begin(deed("a")));
    let said = futures::future::try_join_all(asking).await.unwrap();
    let new = said.iter().filter(|it| matches!(it, Claimed::New { .. })).count();
    let begun = said.iter().filter(|it| matches!(it, Claimed::Begun { .. })).count();
    assert_eq!((new, begun), (1, 999));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deed_ends_once_and_its_end_is_told_until_it_is_forgotten() {
    let fixture = fixture(10_000).await;
    let claim = fixture.begin_new(deed("a")).await;
    assert!(fixture.claims.end(deed("a"), claim, Some(b"done".to_vec())).await.unwrap());
    let again = fixture.claims.end(deed("a"), claim, Some(b"other".to_vec())).await.unwrap();
    assert!(!again, "it has ended");
    assert_eq!(fixture.begin(deed("a")).await, Claimed::Ended(b"done".to_vec()));
    let other = Deed { fingerprint: vec![9], ..deed("a") };
    assert_eq!(fixture.begin(other).await, Claimed::Other);
    for elsewhere in [
        Deed { organisation: OrganisationId::fixed(7), ..deed("a") },
        Deed { subject: "jun".into(), ..deed("a") },
        Deed { operation: "dropThing".into(), ..deed("a") },
    ] {
        fixture.begin_new(elsewhere).await;
    }
    fixture.base.clock.advance(Duration::from_hours(24));
    assert_eq!(fixture.begin(deed("a")).await, Claimed::Ended(b"done".to_vec()));
    fixture.base.clock.advance(Duration::from_micros(1));
    let later = fixture.begin_new(deed("a")).await;
    assert!(later > claim);
    let late = fixture.claims.end(deed("a"), claim, None).await.unwrap();
    assert!(!late, "the claim is not the old one's");
    assert_eq!(fixture.begin(deed("a")).await, Claimed::Begun { since: later });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deed_that_did_nothing_is_free_again() {
    let fixture = fixture(10_000).await;
    let claim = fixture.begin_new(deed("a")).await;
    assert!(fixture.claims.end(deed("a"), claim, None).await.unwrap());
    fixture.begin_new(deed("a")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_beyond_the_limit_are_refused_until_old_ones_are_forgotten() {
    let fixture = fixture(20).await;
    for number in 0..20 {
        fixture.begin_new(deed(number.to_string())).await;
    }
    let refused = fixture.claims.begin(deed("one more")).await.unwrap_err();
    assert!(matches!(refused, Error::ClaimsFull { claims_max: 20 }), "{refused:?}");
    assert!(matches!(fixture.begin(deed("7")).await, Claimed::Begun { .. }));
    let other = Deed { organisation: OrganisationId::fixed(7), ..deed("a") };
    fixture.begin_new(other).await;
    fixture.base.clock.advance(Duration::from_hours(25));
    fixture.begin_new(deed("one more")).await;
}
