//! Panics, and turns that could not be put on disk.

use super::stream::{Client, Value};
use super::{Desk, House, PANIC, bulk, folder, ok, relaxed};
use crate::Config;
use crate::log::FAILED;

fn error_of(client: &mut Client, words: &[&str]) -> String {
    match client.ask(words).unwrap() {
        Value::Error(text) => text,
        other => format!("{other:?}"),
    }
}

#[test]
fn who_saw_a_change_that_is_not_on_disk_is_not_answered() {
    let mut desk = Desk::new();
    let [early, writer, reader, listener] = [(); 4].map(|()| desk.join());
    desk.ask(listener, "SUBSCRIBE news");
    desk.ask(writer, "SET other 1");
    // The turn before is on disk.
    desk.engine.effects.truncate(crate::log::frame::FRAME_HEADER);
    desk.engine.release();

    desk.give(early, b"GET k\r\n");
    desk.give(writer, b"SET k 1\r\nPUBLISH news k\r\n");
    desk.give(reader, b"GET k\r\n");
    desk.engine.disown();
    desk.engine.refusal = Some(FAILED);
    assert_eq!(desk.take(early), "$-1");
    for client in [writer, reader, listener] {
        assert!(desk.engine.sessions[client].as_ref().unwrap().is_closing);
        assert_eq!(desk.take(client), "");
        desk.engine.disconnect(client);
    }
    // Until it is on disk, nobody is shown it.
    let late = desk.join();
    for hidden in ["GET k", "EXISTS other k", "KEYS *", "DBSIZE", "SORT l BY *", "SET other 2"] {
        assert!(desk.ask(late, hidden).starts_with("-MISCONF"), "{hidden}");
    }
    desk.check(late, &[("GET other", "$1 1"), ("PING", "+PONG"), ("EXISTS none", ":0")]);
    desk.check(late, &[("MULTI", "+OK"), ("GET other", "+QUEUED"), ("EXEC", "*1 $1 1")]);
    desk.engine.unsettled = None;
    desk.engine.refusal = None;
    desk.check(late, &[("GET k", "$1 1"), ("DBSIZE", ":2")]);
}

#[test]
fn an_expired_key_needs_no_room_on_a_full_disk() {
    let mut desk = Desk::new();
    let client = desk.join();
    desk.ask(client, "SET k 1 PX 10");
    desk.engine.effects.truncate(crate::log::frame::FRAME_HEADER);
    desk.engine.refusal = Some(crate::log::FULL);
    desk.now += 11;
    desk.check(client, &[("GET k", "$-1"), ("EXISTS k", ":0")]);
    assert!(!desk.engine.has_effects());
    desk.engine.refusal = None;
    desk.check(client, &[("GET k", "$-1")]);
    assert!(desk.engine.has_effects());
}

#[test]
fn a_panic_while_reading_ends_one_client() {
    let folder = folder();
    let house = House::open(relaxed(), folder.path()).unwrap();
    let (mut culprit, mut other) = (house.client(), house.client());
    assert_eq!(other.ask(&["SET", "k", "1"]).unwrap(), ok());
    assert!(error_of(&mut culprit, &["GET", PANIC]).starts_with("ERR internal error"));
    assert!(culprit.ask(&["PING"]).is_err());
    assert_eq!(other.ask(&["GET", "k"]).unwrap(), bulk("1"));
    let metrics = house.base.metrics.clone();
    while !metrics.text().contains("kv_panics 1") {
        std::thread::yield_now();
    }
    house.close();
}

#[test]
fn after_a_panic_while_changing_the_data_is_as_the_log_says() {
    let folder = folder();
    let house = House::open(Config::default(), folder.path()).unwrap();
    let (mut culprit, mut other) = (house.client(), house.client());
    for number in 0..100 {
        assert_eq!(other.ask(&["SET", &format!("k{number}"), "kept"]).unwrap(), ok());
    }
    assert_eq!(other.ask(&["CONFIG", "SET", "maxclients", "77"]).unwrap(), ok());
    // A rewrite that runs is given up or finished.
    other.ask(&["BGREWRITEAOF"]).unwrap();
    let words = |words: &[&str]| words.iter().map(|word| word.as_bytes().to_vec()).collect();
    culprit
        .send_all(&[
            words(&["SET", "k1", "lost"]),
            words(&["RPUSH", "list", PANIC]),
            words(&["PING"]),
        ])
        .unwrap();
    assert!(matches!(culprit.read(), Ok(Value::Error(text)) if text.contains("internal error")));
    assert!(culprit.read().is_err());
    assert!(other.ask(&["PING"]).is_err(), "everybody connects again");
    let mut again = house.client();
    assert_eq!(again.ask(&["GET", "k1"]).unwrap(), bulk("kept"));
    assert_eq!(again.ask(&["EXISTS", "list"]).unwrap(), Value::Int(0));
    assert_eq!(again.ask(&["DBSIZE"]).unwrap(), Value::Int(100));
    assert_eq!(again.ask(&["SET", "k2", "new"]).unwrap(), ok());
    let Value::Array(found) = again.ask(&["CONFIG", "GET", "maxclients"]).unwrap() else {
        panic!("no setting")
    };
    assert_eq!(found[1], bulk("77"));
    house.close();
    let house = House::open(Config::default(), folder.path()).unwrap();
    assert_eq!(house.client().ask(&["GET", "k2"]).unwrap(), bulk("new"));
    assert_eq!(house.client().ask(&["DBSIZE"]).unwrap(), Value::Int(100));
    house.close();
}

#[test]
fn a_panic_in_a_transaction_undoes_all_of_it() {
    let folder = folder();
    let house = House::open(Config::default(), folder.path()).unwrap();
    let mut client = house.client();
    client.ask(&["SET", "a", "1"]).unwrap();
    for words in [&["MULTI"][..], &["SET", "a", "2"], &["SET", "b", PANIC], &["SET", "c", "3"]] {
        client.ask(words).unwrap();
    }
    assert!(error_of(&mut client, &["EXEC"]).contains("internal error"));
    let mut client = house.client();
    assert_eq!(client.ask(&["GET", "a"]).unwrap(), bulk("1"));
    assert_eq!(client.ask(&["EXISTS", "b", "c"]).unwrap(), Value::Int(0));
    house.close();
}

#[test]
fn a_client_that_ends_its_side_gets_its_replies_and_is_closed() {
    use std::io::{Read, Write};
    let folder = folder();
    let house = House::open(Config::default(), folder.path()).unwrap();
    for (request, replies) in
        [("PING\r\n", "+PONG\r\n"), ("SET a 1\r\nGET a\r\nBLPOP q 0\r\n", "+OK\r\n$1\r\n1\r\n")]
    {
        for _ in 0..30 {
            let mut stream = std::net::TcpStream::connect(house.address).unwrap();
            stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut found = String::new();
            stream.read_to_string(&mut found).unwrap();
            assert_eq!(found, replies);
        }
    }
    house.close();
}

#[test]
fn a_client_that_says_nothing_is_closed_and_one_that_waits_is_not() {
    let folder = folder();
    let config = Config { idle_max: std::time::Duration::from_secs(1), ..relaxed() };
    let house = House::open(config, folder.path()).unwrap();
    let (mut idle, mut waiting) = (house.client(), house.client());
    assert_eq!(idle.ask(&["PING"]).unwrap(), Value::Simple("PONG".into()));
    waiting.send_all(&[vec![b"BLPOP".to_vec(), b"q".to_vec(), b"0".to_vec()]]).unwrap();
    assert!(idle.read().is_err());
    assert_eq!(house.client().ask(&["RPUSH", "q", "x"]).unwrap(), Value::Int(1));
    assert_eq!(waiting.read().unwrap(), Value::Array(vec![bulk("q"), bulk("x")]));
    house.close();
}
