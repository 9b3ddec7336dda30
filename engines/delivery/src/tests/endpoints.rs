use std::collections::{HashMap, HashSet};

use base::Entropy;
use serde_json::json;

use super::receiver::{Got, Receiver, Script};
use super::*;
use crate::egress::TargetError;
use crate::lanes::Slot;
use crate::{
    Channel, EndpointChange, EndpointId, EndpointState, NewEndpoint, NewlyMade, OutgoingEvent,
};

pub(super) fn webhook(receiver: &Receiver) -> NewEndpoint {
    NewEndpoint {
        channel: Channel::Webhook,
        name: "지붕 alerts".to_owned(),
        url: receiver.url(),
        event_types: Vec::new(),
        contact: None,
        rate_max: None,
    }
}

pub(super) fn slack(receiver: &Receiver) -> NewEndpoint {
    NewEndpoint { channel: Channel::Slack, rate_max: Some(1_000), ..webhook(receiver) }
}

pub(super) fn event(endpoint: EndpointId, key: &str) -> OutgoingEvent {
    OutgoingEvent {
        organisation: OURS,
        endpoint,
        event_type: "alert.raised".to_owned(),
        occurred: Timestamp::from_millis(1_357_034_400_000),
        text: "temp is <91>".to_owned(),
        data: json!({"temp": 91}),
        idempotency_key: key.to_owned(),
    }
}

/// Quick to retry, and no mail server.
pub(super) fn quick() -> Config {
    let mut config = Config {
        back_off_min: Duration::from_millis(1),
        back_off_max: Duration::from_millis(5),
        lease_margin: Duration::from_millis(500),
        ..Config::default()
    };
    config.endpoints.rest_max = Duration::from_millis(5);
    config.endpoints.webhooks_per_second_max = 100_000;
    config
}

/// Short-tempered, for endpoints that stall.
async fn impatient(house: &House, config: Config) -> Delivery {
    let egress = Egress { request_time_max: Duration::from_millis(500), ..loopback() };
    let config = house.keyed(config);
    Delivery::open(config, egress, &house.base, house.db.clone()).await.unwrap()
}

pub(super) async fn made(delivery: &Delivery, new: NewEndpoint) -> EndpointId {
    delivery.create_endpoint(OURS, new).await.unwrap().endpoint.id
}

pub(super) async fn told(
    house: &House,
    delivery: &Delivery,
    endpoint: EndpointId,
    key: &str,
) -> MessageId {
    enqueue(house, delivery, event(endpoint, key)).await.unwrap().id()
}

/// One round of the worker, by hand: what was due is tried and its end is written.
pub(super) async fn round(delivery: &Delivery) -> usize {
    let claim = worker::claim(&delivery.0).await.unwrap();
    let count = claim.claimed.len();
    for claimed in claim.claimed {
        let now = delivery.0.clock.now();
        let what = (&claimed.lane, claimed.id);
        let slot = Slot::take(&delivery.0.board, &delivery.0.wake, what, now);
        let ended = worker::attempt(&delivery.0, &claimed).await;
        worker::record(&delivery.0, &claimed, ended).await;
        drop(slot);
    }
    count
}

pub(super) fn is_signed(got: &Got, secret: &crate::Secret) -> bool {
    let at = got.header("webhook-timestamp").parse::<i64>().unwrap();
    let at = Timestamp::from_millis(at * 1_000);
    let signature = secret.sign(got.header("webhook-id"), at, got.body.as_bytes());
    got.header("webhook-signature").split(' ').any(|part| part == signature)
}

#[tokio::test]
async fn a_webhook_gets_signed_json_under_one_id_at_every_attempt() {
    let house = House::new().await;
    let receiver = Receiver::open(&house.base).await;
    receiver.script([Script::Answer(500, "", "not\r\nnow"), Script::Drop]);
    let delivery = house.open(quick()).await;
    let NewlyMade { endpoint, secret } =
        delivery.create_endpoint(OURS, webhook(&receiver)).await.unwrap();
    let id = told(&house, &delivery, endpoint.id, "a").await;
    house.wait_for_state(&delivery, id, State::Sent).await;

    let got = receiver.got();
    assert_eq!(got.len(), 3);
    let message = delivery.message(OURS, id).await.unwrap();
    for one in &got {
        assert_eq!(one.header("webhook-id"), message.message_id);
        assert_eq!(one.header("content-type"), "application/json");
        assert!(one.header("user-agent").starts_with("Madang/"));
        assert!(is_signed(one, secret.as_ref().unwrap()));
        assert_eq!(
            one.body,
            r#"{"type":"alert.raised","timestamp":"2013-01-01T10:00:00Z","data":{"temp":91}}"#
        );
    }
    assert_eq!(
        (message.channel, message.endpoint, message.to.as_str(), message.subject.as_str()),
        (Channel::Webhook, Some(endpoint.id), "지붕 alerts", "alert.raised")
    );
    let attempts = delivery.attempts(OURS, id).await.unwrap();
    let shown: Vec<_> =
        attempts.iter().map(|a| (a.number, a.outcome, a.status, a.answer.as_deref())).collect();
    assert_eq!(
        shown,
        [
            (3, AttemptOutcome::Sent, Some(200), Some("ok")),
            (2, AttemptOutcome::Retry, None, None),
            (1, AttemptOutcome::Retry, Some(500), Some("not  now")),
        ]
    );
    assert!(attempts.iter().all(|attempt| attempt.took.is_some()));
    assert_eq!(attempts[2].error.as_deref(), Some("the answer was 500"));
    assert_eq!(delivery.attempts(THEIRS, id).await.unwrap_err().kind(), ErrorKind::NotFound);
    let after = delivery.endpoint(OURS, endpoint.id).await.unwrap();
    assert_eq!((after.failures, after.failing_since), (0, None));
    assert!(after.last_success.is_some());
}

#[tokio::test]
async fn endpoints_that_nothing_is_for_cost_little() {
    let house = House::new().await;
    let receiver = Receiver::open(&house.base).await;
    let delivery = house.open_idle(quick()).await;
    let busy = made(&delivery, webhook(&receiver)).await;
    for _ in 0..60 {
        made(&delivery, webhook(&receiver)).await;
    }
    for number in 0..40 {
        told(&house, &delivery, busy, &number.to_string()).await;
        assert_eq!(round(&delivery).await, 1);
    }
    let read = testkit::metric(&house.base.metrics, "madang_delivery_endpoints_read_total");
    let read = read.unwrap();
    // Once a second all, and otherwise the one.
    assert!((61..61 * 20).contains(&read), "{read} endpoints were looked at for 40 messages");
    // What another process wrote is found all the same.
    let other = house.open_idle(quick()).await;
    let quiet = made(&delivery, webhook(&receiver)).await;
    round(&delivery).await;
    told(&house, &other, quiet, "from elsewhere").await;
    let found = async {
        while round(&delivery).await == 0 {
            house.base.clock.sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), found).await.expect("it is found");
}

#[tokio::test]
async fn slack_gets_a_text_and_what_it_cannot_read_fails_at_once() {
    let house = House::new().await;
    let receiver = Receiver::open(&house.base).await;
    receiver.script([Script::Answer(400, "", "invalid_payload")]);
    let delivery = house.open(quick()).await;
    let made = delivery.create_endpoint(OURS, slack(&receiver)).await.unwrap();
    assert_eq!(made.secret, None);
    let id = made.endpoint.id;
    let first = told(&house, &delivery, id, "a").await;
    house.wait_for_state(&delivery, first, State::Failed).await;
    let error = delivery.message(OURS, first).await.unwrap().last_error.unwrap();
    assert_eq!(error, "the answer was 400: invalid_payload");
    assert_eq!(delivery.endpoint(OURS, id).await.unwrap().failures, 0, "others may be fine");
    let second = told(&house, &delivery, id, "b").await;
    house.wait_for_state(&delivery, second, State::Sent).await;
    let got = receiver.got().remove(1);
    assert_eq!(got.body, r#"{"text":"temp is &lt;91&gt;"}"#);
    assert_eq!(got.header("webhook-signature"), "");
    let refused = delivery.rotate_secret(OURS, id).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn a_rotated_secret_signs_beside_the_new_one_for_a_day() {
    let house = House::on(Base::simulated(Timestamp::from_millis(1_700_000_000_000), 7)).await;
    let receiver = Receiver::open(&house.base).await;
    let delivery = house.open_idle(quick()).await;
    let made = delivery.create_endpoint(OURS, webhook(&receiver)).await.unwrap();
    let (id, old) = (made.endpoint.id, made.secret.unwrap());
    let new = delivery.rotate_secret(OURS, id).await.unwrap();
    assert_ne!(old, new);
    let secrets = delivery.endpoint(OURS, id).await.unwrap().secrets;
    let day = Duration::from_hours(24);
    assert_eq!(secrets.len(), 2);
    assert_eq!(
        (secrets[0].expires, secrets[1].expires),
        (None, Some(secrets[0].created.plus(day)))
    );
    told(&house, &delivery, id, "a").await;
    assert_eq!(round(&delivery).await, 1);
    house.base.clock.advance(day);
    told(&house, &delivery, id, "b").await;
    assert_eq!(round(&delivery).await, 1);
    let got = receiver.got();
    assert!(is_signed(&got[0], &old) && is_signed(&got[0], &new));
    assert_eq!(got[0].header("webhook-signature").split(' ').count(), 2);
    assert!(!is_signed(&got[1], &old) && is_signed(&got[1], &new));
    assert_eq!(delivery.endpoint(OURS, id).await.unwrap().secrets.len(), 1);
    worker::keep_house(&delivery.0).await.unwrap();

    for _ in 0..3 {
        delivery.rotate_secret(OURS, id).await.unwrap();
    }
    let full = delivery.rotate_secret(OURS, id).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::TooMany);
    let secrets = delivery.endpoint(OURS, id).await.unwrap().secrets;
    assert_eq!(secrets.iter().filter(|secret| secret.expires.is_none()).count(), 1);
}

#[tokio::test]
async fn a_retry_after_is_obeyed_by_everything_that_waits_for_the_endpoint() {
    let house = House::on(Base::simulated(Timestamp::from_millis(1_700_000_000_000), 7)).await;
    let receiver = Receiver::open(&house.base).await;
    let other = Receiver::open(&house.base).await;
    receiver.script([Script::Answer(429, "retry-after: 7\r\n", "")]);
    let delivery = house.open_idle(quick()).await;
    let id = made(&delivery, slack(&receiver)).await;
    let free = made(&delivery, webhook(&other)).await;
    let first = told(&house, &delivery, id, "a").await;
    assert_eq!(round(&delivery).await, 1);
    told(&house, &delivery, id, "b").await;
    told(&house, &delivery, free, "c").await;
    house.base.clock.advance(Duration::from_millis(6_999));
    assert_eq!(round(&delivery).await, 1, "the other endpoint's");
    let endpoint = delivery.endpoint(OURS, id).await.unwrap();
    assert_eq!(endpoint.rests_until, Some(house.base.clock.now().plus(Duration::from_millis(1))));
    let claim = worker::claim(&delivery.0).await.unwrap();
    assert_eq!((claim.claimed.len(), claim.next), (0, endpoint.rests_until));
    house.base.clock.advance(Duration::from_millis(1));
    assert_eq!(round(&delivery).await, 1, "one, to see whether it is well again");
    assert_eq!(round(&delivery).await, 1);
    assert_eq!(delivery.message(OURS, first).await.unwrap().state, State::Sent);
    assert_eq!((receiver.got().len(), other.got().len()), (3, 1));
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_rests_between_single_attempts() {
    let house = House::on(Base::simulated(Timestamp::from_millis(1_700_000_000_000), 7)).await;
    let receiver = Receiver::open(&house.base).await;
    receiver.always(Script::Answer(503, "", ""));
    let delivery = house.open_idle(Config::default()).await;
    let id = made(&delivery, webhook(&receiver)).await;
    for number in 0..50 {
        told(&house, &delivery, id, &number.to_string()).await;
    }
    assert_eq!(round(&delivery).await, 4, "as many as an endpoint may have at once");
    assert_eq!(round(&delivery).await, 1, "then one by one");
    let rest = delivery.endpoint(OURS, id).await.unwrap().rests_until.unwrap();
    assert_eq!(round(&delivery).await, 0);
    assert!(rest > house.base.clock.now());
    let mut requests = receiver.got().len();
    for _ in 0..60 {
        house.base.clock.advance(Duration::from_mins(1));
        while round(&delivery).await > 0 {}
    }
    requests = receiver.got().len() - requests;
    assert!((10..40).contains(&requests), "{requests} requests in an hour to a dead endpoint");
    receiver.take_all();
    house.base.clock.advance(Duration::from_hours(2));
    while round(&delivery).await > 0 {}
    assert_eq!(delivery.counts(OURS).await.unwrap(), Counts { sent: 50, ..Counts::default() });
}

#[tokio::test]
async fn a_redirect_to_loopback_is_not_followed_and_the_message_says_so() {
    let house = House::new().await;
    let receiver = Receiver::open(&house.base).await;
    let inside = Receiver::open(&house.base).await;
    receiver.always(Script::Redirect(inside.url()));
    let delivery = house.open(Config { attempts_max: 2, ..quick() }).await;
    let id = made(&delivery, webhook(&receiver)).await;
    let message = told(&house, &delivery, id, "a").await;
    house.wait_for_state(&delivery, message, State::Failed).await;
    let error = delivery.message(OURS, message).await.unwrap().last_error.unwrap();
    assert_eq!(
        error,
        "gave up: the answer was 302, a redirect, which is not followed: change the URL"
    );
    assert_eq!((receiver.connections(), inside.connections()), (2, 0));
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_paused_with_a_notice_and_nothing_is_lost() {
    let house = House::new().await;
    let receiver = Receiver::open(&house.base).await;
    let sink = Sink::open(&house.base).await;
    receiver.always(Script::Answer(410, "", "bye"));
    let delivery = house.open(config(sink.port())).await;
    let contact = Some("keeper@example.org".parse().unwrap());
    let id = made(&delivery, NewEndpoint { contact, ..webhook(&receiver) }).await;
    let first = told(&house, &delivery, id, "a").await;
    house.wait_for_state(&delivery, first, State::Held).await;
    let endpoint = delivery.endpoint(OURS, id).await.unwrap();
    assert_eq!(endpoint.state, EndpointState::Paused);
    assert_eq!(endpoint.reason.as_deref(), Some("the answer was 410"));
    let notice = sink.wait_for(1).await.remove(0);
    assert_eq!(notice.to, "keeper@example.org");
    let filter = MessageFilter { channel: Some(Channel::Email), ..MessageFilter::default() };
    let told = delivery.messages_like(OURS, filter, PageRequest::default()).await.unwrap().items;
    assert_eq!((told.len(), told[0].subject.as_str()), (1, "Paused: 지붕 alerts"));
    assert!(told[0].body.contains("the answer was 410"), "{}", told[0].body);
    assert_eq!(house.db.outbox_length(), 1, "the event endpoint.paused");
    let second = enqueue(&house, &delivery, event(id, "b")).await.unwrap();
    assert!(matches!(second, Enqueued::Held(_)), "{second:?}");

    receiver.take_all();
    let on = EndpointChange { is_enabled: Some(true), ..EndpointChange::default() };
    let endpoint = delivery.change_endpoint(OURS, id, on).await.unwrap();
    assert_eq!((endpoint.state, endpoint.reason), (EndpointState::Active, None));
    for message in [first, second.id()] {
        house.wait_for_state(&delivery, message, State::Sent).await;
    }
}

#[tokio::test]
async fn after_days_of_nothing_but_failures_an_endpoint_is_paused() {
    let house = House::on(Base::simulated(Timestamp::from_millis(1_700_000_000_000), 7)).await;
    let receiver = Receiver::open(&house.base).await;
    receiver.always(Script::Answer(500, "", ""));
    let delivery = house.open_idle(Config::default()).await;
    let id = made(&delivery, webhook(&receiver)).await;
    let state = async || delivery.endpoint(OURS, id).await.unwrap().state;
    for day in 0..5 {
        told(&house, &delivery, id, &day.to_string()).await;
        assert!(round(&delivery).await >= 1);
        assert_eq!(state().await, EndpointState::Active, "day {day}");
        house.base.clock.advance(Duration::from_hours(24));
    }
    assert!(round(&delivery).await >= 1);
    assert_eq!(state().await, EndpointState::Paused);
    let endpoint = delivery.endpoint(OURS, id).await.unwrap();
    assert_eq!(endpoint.reason.as_deref(), Some("nothing was taken for 5 days"));
    assert_eq!(delivery.counts(OURS).await.unwrap().held, 5);
    house.base.clock.advance(Duration::from_hours(24));
    assert_eq!(round(&delivery).await, 0);
}

#[tokio::test]
async fn a_stalled_endpoint_holds_back_neither_others_nor_mail() {
    let house = House::new().await;
    let stalled = Receiver::open(&house.base).await;
    let well = Receiver::open(&house.base).await;
    let sink = Sink::open(&house.base).await;
    stalled.always(Script::Stall);
    let delivery = Delivery::open(
        house.keyed(config(sink.port())),
        Egress { request_time_max: Duration::from_mins(5), ..loopback() },
        &house.base,
        house.db.clone(),
    );
    let delivery = delivery.await.unwrap();
    let dead = made(&delivery, webhook(&stalled)).await;
    let burst = delivery.clone();
    let many = async move |tx: &mut relational::Tx| {
        for number in 0..1_300 {
            burst.enqueue(tx, event(dead, &number.to_string())).await?;
        }
        Ok::<_, Error>(())
    };
    house.db.write(many).await.unwrap();
    stalled.wait_for(4).await;
    let alive = made(&delivery, webhook(&well)).await;
    let mut waits = Vec::new();
    for number in 0..20 {
        let began = house.base.clock.instant();
        told(&house, &delivery, alive, &format!("well {number}")).await;
        let got = well.wait_for(number + 1).await;
        waits.push(got[number].at.saturating_duration_since(began));
    }
    waits.sort();
    println!("beside 1,300 to a stalled endpoint: p50 {:?}, worst {:?}", waits[10], waits[19]);
    // Whoever waits behind the stalled one waits for minutes.
    assert!(waits[19] < Duration::from_secs(20), "{waits:?}");
    let mail = enqueued(&house, &delivery, "mail").await;
    house.wait_for_state(&delivery, mail, State::Sent).await;
    assert_eq!(stalled.connections(), 4, "no more than its share");
    let counts = delivery.counts(OURS).await.unwrap();
    assert_eq!((counts.sending, counts.waiting), (4, 1_296));
}

#[tokio::test]
async fn a_crash_between_the_receivers_yes_and_its_note_repeats_the_same_id_and_is_counted() {
    let house = House::on(Base::simulated(Timestamp::from_millis(1_700_000_000_000), 7)).await;
    let receiver = Receiver::open(&house.base).await;
    let crashing = house.open_idle(quick()).await;
    let id = made(&crashing, webhook(&receiver)).await;
    let message = told(&house, &crashing, id, "a").await;
    let claim = worker::claim(&crashing.0).await.unwrap();
    let ended = worker::attempt(&crashing.0, &claim.claimed[0]).await;
    assert!(matches!(ended.outcome, Outcome::Sent(_)), "{ended:?}");
    // Here the process dies: the receiver has the message and the row does not say so.
    let lease = crashing.0.post_lease();
    drop(crashing);

    let delivery = house.open_idle(quick()).await;
    assert_eq!(round(&delivery).await, 0, "the lease holds");
    house.base.clock.advance(lease);
    assert_eq!(round(&delivery).await, 1);
    let got = receiver.got();
    assert_eq!(got.len(), 2);
    assert_eq!(got[0].header("webhook-id"), got[1].header("webhook-id"));
    assert_eq!(got[0].body, got[1].body);
    house.wait_for_metric("madang_delivery_unknown_total 1").await;
    let attempts = delivery.attempts(OURS, message).await.unwrap();
    let outcomes: Vec<_> = attempts.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [AttemptOutcome::Sent, AttemptOutcome::Unknown]);
}

#[tokio::test]
async fn none_is_lost_among_random_faults_and_only_an_unanswered_one_is_taken_twice() {
    for seed in 1..=3 {
        let house = House::new().await;
        let chance = Entropy::seeded(seed);
        let delivery = impatient(&house, quick()).await;
        let mut receivers = Vec::new();
        let mut ids = Vec::new();
        for number in 0..3 {
            let receiver = Receiver::open(&house.base).await;
            receiver.script((0..60).map(|_| match chance.number() % 12 {
                0 => Script::Stall,
                1 => Script::Drop,
                2 => Script::FloodHead,
                3 => Script::Answer(429, "retry-after: 0\r\n", "slow"),
                4 => Script::Answer(500, "", "oh"),
                5 => Script::Answer(503, "", ""),
                6 => Script::Answer(404, "", ""),
                7 => Script::Redirect("http://127.0.0.1/".to_owned()),
                8 => Script::StallAfterHead(202),
                9 => Script::Flood(200),
                _ => Script::Answer(204, "", ""),
            }));
            let id = made(&delivery, webhook(&receiver)).await;
            for message in 0..40 {
                let key = format!("{number}/{message}");
                ids.push(told(&house, &delivery, id, &key).await);
            }
            receivers.push(receiver);
        }
        // An attempt without an answer leaves open whether the receiver has taken it.
        let mut unanswered = HashMap::new();
        for id in ids {
            house.wait_for_state(&delivery, id, State::Sent).await;
            let message_id = delivery.message(OURS, id).await.unwrap().message_id;
            let attempts = delivery.attempts(OURS, id).await.unwrap();
            let open = attempts.iter().filter(|attempt| attempt.status.is_none()).count();
            unanswered.insert(message_id, open);
        }
        let mut taken = HashMap::<String, usize>::new();
        for got in receivers.iter().flat_map(Receiver::got).filter(Got::was_taken) {
            *taken.entry(got.header("webhook-id").to_owned()).or_default() += 1;
        }
        assert_eq!((unanswered.len(), taken.len()), (120, 120), "seed {seed}");
        for (id, times) in taken {
            let open = unanswered.get(&id).copied();
            assert!(
                open.is_some_and(|open| times <= 1 + open),
                "seed {seed}: {id} {times} {open:?}"
            );
        }
    }
}

#[tokio::test]
async fn published_events_go_to_the_endpoints_that_name_their_type() {
    let house = House::new().await;
    let delivery = house.open(Config::default()).await;
    let receiver = Receiver::open(&house.base).await;
    let typed = |types: &[&str]| NewEndpoint {
        event_types: types.iter().map(|&text| text.to_owned()).collect(),
        ..webhook(&receiver)
    };
    let all = made(&delivery, typed(&["alert.raised"])).await;
    made(&delivery, typed(&[])).await;
    let alerts = made(&delivery, typed(&["alert.raised", "alert.ended"])).await;
    made(&delivery, typed(&["user.created"])).await;
    delivery.create_endpoint(THEIRS, typed(&["alert.raised"])).await.unwrap();
    let publish = async || {
        let delivery = delivery.clone();
        let write = async move |tx: &mut relational::Tx| {
            delivery.publish(tx, &event(EndpointId::fixed(0), "a")).await
        };
        house.db.write(write).await.unwrap()
    };
    let enqueued = publish().await;
    assert_eq!(enqueued.len(), 2);
    let again = publish().await;
    assert!(again.iter().all(|one| matches!(one, Enqueued::Repeated(_))), "{again:?}");
    let page = PageRequest::default();
    let listed = delivery.messages(OURS, page.clone()).await.unwrap();
    let places: HashSet<_> = listed.items.iter().map(|message| message.endpoint).collect();
    assert_eq!(places, HashSet::from([Some(all), Some(alerts)]));
    let filter = MessageFilter { endpoint: Some(all), ..MessageFilter::default() };
    assert_eq!(delivery.messages_like(OURS, filter, page.clone()).await.unwrap().items.len(), 1);
    let filter = MessageFilter { channel: Some(Channel::Slack), ..MessageFilter::default() };
    assert_eq!(delivery.messages_like(OURS, filter, page).await.unwrap().items.len(), 0);
}

#[tokio::test]
async fn what_is_no_endpoint_is_refused_with_the_reason() {
    let house = House::new().await;
    let receiver = Receiver::open(&house.base).await;
    let mut limits = Config::default();
    limits.endpoints.endpoints_max = 2;
    limits.endpoints.event_types_max = 1;
    limits.endpoints.body_bytes_max = 200;
    limits.endpoints.unsent_max = 2;
    let delivery = house.open_idle(limits).await;
    let refused = async |new: NewEndpoint| delivery.create_endpoint(OURS, new).await.unwrap_err();
    let new = || webhook(&receiver);
    let inside = refused(NewEndpoint { url: "https://10.0.0.1/".into(), ..new() }).await;
    assert!(matches!(inside, Error::Target(TargetError::Refused { .. })), "{inside}");
    let hidden = refused(NewEndpoint { url: "https://0x7f.1/".into(), ..new() }).await;
    assert!(matches!(hidden, Error::Target(TargetError::NumericHost)), "{hidden}");
    let two = vec!["a".to_owned(), "b".to_owned()];
    for wrong in [
        NewEndpoint { channel: Channel::Email, ..new() },
        NewEndpoint { name: " ".into(), ..new() },
        NewEndpoint { name: "a\nb".into(), ..new() },
        NewEndpoint { name: "a".repeat(121), ..new() },
        NewEndpoint { event_types: two, ..new() },
        NewEndpoint { event_types: vec!["a b".into()], ..new() },
        NewEndpoint { rate_max: Some(0), ..new() },
    ] {
        assert_eq!(refused(wrong.clone()).await.kind(), ErrorKind::Invalid, "{wrong:?}");
    }
    let made = delivery.create_endpoint(OURS, new()).await.unwrap();
    assert_eq!(made.endpoint.url, format!("http://127.0.0.1:{}/…", receiver.port()));
    assert!(made.secret.as_ref().unwrap().reveal().starts_with("whsec_"));
    let shown = format!("{made:?}");
    assert!(shown.contains("whsec_***") && !shown.contains("token=secret"), "{shown}");
    let id = made.endpoint.id;
    delivery.create_endpoint(OURS, new()).await.unwrap();
    assert_eq!(refused(new()).await.kind(), ErrorKind::TooMany);
    delivery.create_endpoint(THEIRS, new()).await.unwrap();
    let page = delivery.endpoints(OURS, PageRequest { after: None, limit: 1 }).await.unwrap();
    assert!(page.next.is_some() && page.items[0].id > id, "newest first");
    assert_eq!(delivery.endpoint(THEIRS, id).await.unwrap_err().kind(), ErrorKind::NotFound);
    let change = EndpointChange::default();
    let hidden = delivery.change_endpoint(THEIRS, id, change).await.unwrap_err();
    assert_eq!(hidden.kind(), ErrorKind::NotFound);
    let url = Some("http://user:pw@127.0.0.1:8080/".to_owned());
    let change = EndpointChange { url, ..EndpointChange::default() };
    let wrong = delivery.change_endpoint(OURS, id, change).await.unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Invalid);

    let theirs = OutgoingEvent { organisation: THEIRS, ..event(id, "a") };
    assert_eq!(enqueue(&house, &delivery, theirs).await.unwrap_err().kind(), ErrorKind::NotFound);
    let long = OutgoingEvent { data: json!("a".repeat(200)), ..event(id, "a") };
    let long = enqueue(&house, &delivery, long).await.unwrap_err();
    assert!(matches!(long, Error::TooLong { what: "body", .. }), "{long}");
    let odd = OutgoingEvent { event_type: "a b".into(), ..event(id, "a") };
    assert_eq!(enqueue(&house, &delivery, odd).await.unwrap_err().kind(), ErrorKind::Invalid);
    told(&house, &delivery, id, "a").await;
    told(&house, &delivery, id, "b").await;
    let full = enqueue(&house, &delivery, event(id, "c")).await.unwrap_err();
    assert_eq!(full.kind(), ErrorKind::TooMany);
    enqueued(&house, &delivery, "mail").await;
}

#[tokio::test]
async fn failed_messages_are_retried_discarded_or_end_with_their_endpoint() {
    let house = House::new().await;
    let receiver = Receiver::open(&house.base).await;
    receiver.always(Script::Answer(500, "", ""));
    let delivery = house.open(Config { attempts_max: 1, ..quick() }).await;
    let id = made(&delivery, webhook(&receiver)).await;
    let mut messages = Vec::new();
    for key in ["a", "b", "c"] {
        let message = told(&house, &delivery, id, key).await;
        house.wait_for_state(&delivery, message, State::Failed).await;
        messages.push(message);
    }
    delivery.discard(OURS, messages[0]).await.unwrap();
    let again = delivery.discard(OURS, messages[0]).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
    let repeated = enqueue(&house, &delivery, event(id, "a")).await.unwrap();
    assert_eq!(repeated, Enqueued::Repeated(messages[0]), "it is not sent after all");
    assert_eq!(delivery.retry(OURS, messages[0]).await.unwrap_err().kind(), ErrorKind::Conflict);
    receiver.take_all();
    let hidden = delivery.retry_failed(THEIRS, id).await.unwrap_err();
    assert_eq!(hidden.kind(), ErrorKind::NotFound);
    assert_eq!(delivery.retry_failed(OURS, id).await.unwrap(), 2);
    for message in &messages[1..] {
        house.wait_for_state(&delivery, *message, State::Sent).await;
    }
    let ids: HashSet<_> =
        receiver.got().iter().map(|got| got.header("webhook-id").to_owned()).collect();
    assert_eq!(ids.len(), 3, "each kept its id");

    let off = EndpointChange { is_enabled: Some(false), ..EndpointChange::default() };
    delivery.change_endpoint(OURS, id, off).await.unwrap();
    let held = told(&house, &delivery, id, "d").await;
    assert_eq!(delivery.message(OURS, held).await.unwrap().state, State::Held);
    delivery.delete_endpoint(OURS, id).await.unwrap();
    let message = delivery.message(OURS, held).await.unwrap();
    assert_eq!(message.state, State::Failed);
    assert_eq!(message.last_error.as_deref(), Some("the endpoint was deleted"));
    let gone = delivery.retry(OURS, held).await.unwrap_err();
    assert!(matches!(gone, Error::NoReceiver { .. }), "{gone}");
    assert_eq!(delivery.delete_endpoint(OURS, id).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_test_is_posted_at_once_and_leaves_nothing_behind() {
    let house = House::new().await;
    let receiver = Receiver::open(&house.base).await;
    let delivery = house.open(quick()).await;
    let made = delivery.create_endpoint(OURS, webhook(&receiver)).await.unwrap();
    let id = made.endpoint.id;
    let off = EndpointChange { is_enabled: Some(false), ..EndpointChange::default() };
    delivery.change_endpoint(OURS, id, off).await.unwrap();
    let tested = delivery.test_endpoint(OURS, id).await.unwrap();
    assert!(tested.was_taken);
    assert_eq!((tested.status, tested.answer.as_deref()), (Some(200), Some("ok")));
    let got = receiver.got().remove(0);
    assert!(is_signed(&got, &made.secret.unwrap()));
    assert!(got.body.contains(r#""type":"endpoint.test""#), "{}", got.body);
    receiver.script([Script::Answer(401, "", "who")]);
    let tested = delivery.test_endpoint(OURS, id).await.unwrap();
    assert!(!tested.was_taken);
    assert_eq!(tested.error.as_deref(), Some("the answer was 401"));
    assert_eq!(delivery.counts(OURS).await.unwrap(), Counts::default());
    assert_eq!(delivery.endpoint(OURS, id).await.unwrap().failures, 0);
    let hidden = delivery.test_endpoint(THEIRS, id).await.unwrap_err();
    assert_eq!(hidden.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_clock_that_is_set_forward_sends_nothing_twice_at_once() {
    let now = Timestamp::from_millis(1_700_000_000_000);
    let base = Base { clock: base::Clock::simulated(now), ..Base::system() };
    let house = House::on(base).await;
    let receiver = Receiver::open(&house.base).await;
    let delivery = house.open_idle(quick()).await;
    let endpoint = made(&delivery, webhook(&receiver)).await;
    told(&house, &delivery, endpoint, "a").await;
    let claim = worker::claim(&delivery.0).await.unwrap();
    let claimed = &claim.claimed[0];
    let what = (&claimed.lane, claimed.id);
    let slot = Slot::take(&delivery.0.board, &delivery.0.wake, what, now);
    house.base.clock.advance(Duration::from_hours(1));
    let again = worker::claim(&delivery.0).await.unwrap();
    assert_eq!((again.claimed.len(), again.unknown), (0, 0), "it is on its way");
    drop(slot);
    let again = worker::claim(&delivery.0).await.unwrap();
    assert_eq!((again.claimed.len(), again.unknown), (1, 1), "its end was never written");
}
