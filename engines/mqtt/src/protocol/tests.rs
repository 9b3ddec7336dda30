use proptest::prelude::*;

use super::*;

const CONNECT: &[u8] =
    b"\x10\x21\x00\x04MQTT\x04\xC2\x00\x0A\x00\x02me\x00\x04roof\x00\x0Broof-secret";

fn instant() -> Instant {
    base::Clock::system().instant()
}

fn input(bytes: &[u8]) -> BytesMut {
    BytesMut::from(bytes)
}

fn step(protocol: &mut Protocol, now: Instant, bytes: &[u8]) -> Result<Step, Close> {
    protocol.next(now, Timestamp::from_millis(1), &mut input(bytes))
}

/// A protocol whose client was let in.
fn opened(config: &Config, now: Instant, connect: &[u8]) -> Protocol {
    let mut protocol = Protocol::new(config, now);
    let Ok(Step::Do(Request::Connect(connect))) = step(&mut protocol, now, connect) else {
        panic!("it is a CONNECT")
    };
    protocol.open(Opened {
        client: connect.client.as_str().into(),
        keep_alive: connect.keep_alive,
        session_ends: true,
        receive_max: connect.receive_max,
        received: Vec::new(),
        welcome: Welcome::default(),
    });
    protocol.out.clear();
    protocol
}

#[test]
fn silence_for_one_and_a_half_keep_alives_is_too_long() {
    let start = instant();
    let mut protocol = opened(&Config::default(), start, CONNECT);
    let after = |seconds: u64| start + Duration::from_secs(seconds);
    assert_eq!(protocol.overdue(after(14)), None);
    assert_eq!(protocol.overdue(after(15)).unwrap().reason, Reason::KEEP_ALIVE);
    assert!(matches!(step(&mut protocol, after(14), b"\xC0\x00"), Ok(Step::More)));
    assert_eq!(&protocol.out[..], b"\xD0\x00");
    assert_eq!(protocol.overdue(after(28)), None);
    assert_eq!(protocol.deadline(), Some(after(29)));
    let mut connect = CONNECT.to_vec();
    connect[11] = 0;
    let protocol = opened(&Config::default(), start, &connect);
    assert_eq!(protocol.deadline(), None, "a keep-alive of 0 is none");
}

#[test]
fn half_a_packet_does_not_keep_a_connection_alive() {
    let start = instant();
    let mut protocol = opened(&Config::default(), start, CONNECT);
    let later = start + Duration::from_secs(10);
    assert!(matches!(step(&mut protocol, later, b"\x30\x10\x00"), Ok(Step::More)));
    assert!(protocol.overdue(start + Duration::from_secs(15)).is_some());
}

#[test]
fn the_connect_has_a_time_limit() {
    let start = instant();
    let mut protocol = Protocol::new(&Config::default(), start);
    assert!(matches!(step(&mut protocol, start, &CONNECT[..9]), Ok(Step::More)));
    assert!(protocol.overdue(start + Duration::from_secs(9)).is_none());
    assert!(protocol.overdue(start + Duration::from_secs(10)).is_some());
}

#[test]
fn publishes_wait_when_too_many_are_not_answered() {
    let now = instant();
    let config = Config { inflight_max: 2, ..Config::default() };
    let mut protocol = opened(&config, now, CONNECT);
    let mut bytes = input(b"\x32\x05\x00\x01a\x00\x01\x30\x03\x00\x01a\x32\x05\x00\x01a\x00\x02");
    let mut next = |protocol: &mut Protocol| {
        protocol.next(now, Timestamp::from_millis(1), &mut bytes).unwrap()
    };
    let Step::Do(Request::Publish(_, first)) = next(&mut protocol) else { panic!() };
    let Step::Do(Request::Publish(_, second)) = next(&mut protocol) else { panic!() };
    assert!(matches!(next(&mut protocol), Step::Full));
    protocol.answer(first, &Outcome::Done).unwrap();
    assert_eq!(&protocol.out[..], b"\x40\x02\x00\x01");
    assert!(matches!(next(&mut protocol), Step::Do(Request::Publish(..))));
    assert!(matches!(next(&mut protocol), Step::Full));
    protocol.answer(second, &Outcome::Done).unwrap();
    assert_eq!(&protocol.out[..], b"\x40\x02\x00\x01", "QoS 0 is not answered");
}

#[test]
fn what_clients_must_not_send_closes_the_connection() {
    let now = instant();
    let cases: [(&str, &[u8], Reason); 5] = [
        ("a second CONNECT", CONNECT, Reason::PROTOCOL),
        ("a wildcard", b"\x30\x03\x00\x01#", Reason::TOPIC),
        ("no filter", b"\x82\x02\x00\x01", Reason::MALFORMED),
        ("identifier 0", b"\x32\x05\x00\x01a\x00\x00", Reason::MALFORMED),
        ("reserved flags", b"\xC1\x00", Reason::MALFORMED),
    ];
    for (what, bytes, reason) in cases {
        let mut protocol = opened(&Config::default(), now, CONNECT);
        assert_eq!(step(&mut protocol, now, bytes).unwrap_err().reason, reason, "{what}");
    }
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_never_panic_and_hold_no_memory(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..10),
        is_open in any::<bool>(),
    ) {
        let now = instant();
        let config = Config::default();
        let mut protocol =
            if is_open { opened(&config, now, CONNECT) } else { Protocol::new(&config, now) };
        let mut bytes = BytesMut::new();
        'all: for piece in pieces {
            bytes.extend_from_slice(&piece);
            loop {
                match protocol.next(now, Timestamp::from_millis(1), &mut bytes) {
                    Ok(Step::Do(Request::Publish(_, ticket))) => {
                        if protocol.answer(ticket, &Outcome::Done).is_err() {
                            break 'all;
                        }
                    }
                    Ok(Step::Do(_)) => {}
                    Ok(Step::More | Step::Full) => break,
                    Err(close) => {
                        protocol.close(close);
                        break 'all;
                    }
                }
            }
        }
        prop_assert!(protocol.out.len() < 10_000);
    }
}
