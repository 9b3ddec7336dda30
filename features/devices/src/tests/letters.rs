use base::{Page, PageRequest};

use super::*;
use crate::{DeadLetter, LetterFilter};

impl Stack {
    pub(super) async fn letters(
        &self,
        filter: &LetterFilter,
        limit: usize,
        after: Option<String>,
    ) -> Page<DeadLetter> {
        let page = PageRequest { after, limit };
        self.devices.dead_letters(OrganisationId::DEFAULT, filter, &page).await.unwrap()
    }

    pub(super) async fn all_letters(&self) -> Vec<DeadLetter> {
        self.letters(&LetterFilter::default(), 100, None).await.items
    }

    async fn refused(&self, device: &str, payload: &str) {
        let outcome = self.devices.accept(&principal("sender"), device, payload.as_bytes()).await;
        assert!(matches!(outcome, Outcome::Refused { .. }), "{outcome:?}");
    }

    async fn count(&self) -> u64 {
        self.devices.overview(OrganisationId::DEFAULT).await.unwrap().dead_letters
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_reading_is_taken_once_after_its_device_was_registered() {
    let stack = Stack::start().await;
    let (sender, admin) = (principal("sender"), principal("admin"));
    stack.refused("EWR", &reading(0, 50.0).to_string()).await;
    let letter = stack.all_letters().await.remove(0);
    assert_eq!((letter.attempts, letter.tried, stack.count().await), (1, None, 1));

    let again = stack.devices.replay_dead_letter(&sender, letter.offset).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
    assert!(again.to_string().contains("\"EWR\" is not registered"), "{again}");
    stack.weather_sensor().await;
    let again = stack.devices.replay_dead_letter(&sender, letter.offset).await.unwrap_err();
    assert!(again.to_string().contains("\"EWR\" is not registered"), "{again}");
    let tried = stack.devices.dead_letter(OrganisationId::DEFAULT, letter.offset).await.unwrap();
    assert_eq!((tried.attempts, tried.tried.is_some()), (3, true));
    assert_eq!((tried.time, &tried.payload), (letter.time, &letter.payload));

    stack.post("/v1/devices", &json!({"name": "EWR", "sensors": ["weather"]})).await;
    let replays = [(); 5].map(|()| stack.devices.replay_dead_letter(&sender, letter.offset));
    let replayed = futures::future::join_all(replays).await;
    assert!(replayed.iter().any(Result::is_ok), "{replayed:?}");
    let gone = stack.devices.replay_dead_letter(&admin, letter.offset).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    stack.settled().await;
    assert_eq!(stack.rows().await.as_array().unwrap().len(), 1, "it counts once");
    assert_eq!((stack.all_letters().await, stack.count().await), (Vec::new(), 0));
    let stack = stack.restart().await;
    assert_eq!((stack.all_letters().await, stack.count().await), (Vec::new(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_taken_again_says_why_and_can_be_discarded() {
    let stack = Stack::start().await;
    let admin = principal("admin");
    stack.refused("EWR", &"가".repeat(5_000)).await;
    stack.refused("EWR", "7").await;
    let fleet = stack.devices.fleet(OrganisationId::DEFAULT).await.unwrap();
    let record = |value: &'static [u8]| eventlog::Record {
        timestamp: NOW.parse().unwrap(),
        key: None,
        value: value.into(),
        headers: Vec::new(),
    };
    fleet.dead_letters.append(0, vec![record(b"from elsewhere")]).await.unwrap();
    let reasons = [
        "it could not be taken again: only the beginning of its payload was kept",
        "it could not be taken again: the payload is not a reading",
        "it could not be taken again: it did not come from a device",
    ];
    for (letter, reason) in stack.all_letters().await.into_iter().rev().zip(reasons) {
        let error = stack.devices.replay_dead_letter(&admin, letter.offset).await.unwrap_err();
        assert!(error.to_string().starts_with(reason), "{error}");
        let theirs = stack.devices.discard_dead_letter(OTHER, letter.offset).await.unwrap_err();
        assert_eq!(theirs.kind(), ErrorKind::NotFound);
        let own = OrganisationId::DEFAULT;
        stack.devices.discard_dead_letter(own, letter.offset).await.unwrap();
        let gone = stack.devices.discard_dead_letter(own, letter.offset).await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound);
    }
    assert_eq!(stack.count().await, 0);
    let beyond = stack.devices.dead_letter(OrganisationId::DEFAULT, 1_000).await.unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_are_wanted_are_found_in_pages_and_none_is_shown_twice() {
    let config = Config { dead_letters_looked_at_max: 7, ..Config::default() };
    let stack = Stack::with(config).await;
    for number in 0..20 {
        let payload = if number % 5 == 0 { reading(0, 1.0).to_string() } else { "7".into() };
        stack.refused(&format!("roof-{number}"), &payload).await;
    }
    for offset in [3, 15] {
        let own = OrganisationId::DEFAULT;
        stack.devices.discard_dead_letter(own, offset).await.unwrap();
    }
    let all = async |filter: &LetterFilter, limit| {
        let (mut offsets, mut after) = (Vec::new(), None);
        loop {
            let page = stack.letters(filter, limit, after).await;
            assert!(page.items.len() <= limit);
            offsets.extend(page.items.iter().map(|letter| letter.offset));
            after = page.next;
            if after.is_none() {
                return offsets;
            }
        }
    };
    let expected: Vec<u64> = (0..20).rev().filter(|offset| ![3, 15].contains(offset)).collect();
    for limit in [1, 2, 3, 5, 100] {
        assert_eq!(all(&LetterFilter::default(), limit).await, expected, "{limit} a page");
        let unknown = LetterFilter { kind: Some("unknown".into()), reason: None };
        assert_eq!(all(&unknown, limit).await, [10, 5, 0], "{limit} a page");
        let reason = LetterFilter { kind: None, reason: Some("\"ROOF-5\" is".into()) };
        assert_eq!(all(&reason, limit).await, [5], "{limit} a page");
    }
}
