//! Fields of hashes that expire.

use super::{Desk, House, bulk, folder, relaxed};
use crate::tests::stream::Value;

#[test]
fn a_field_goes_when_its_time_comes_and_its_hash_with_the_last_one() {
    let mut desk = Desk::new();
    let client = desk.join();
    desk.check(
        client,
        &[
            ("HSET h a 1 b 2 c 3", ":3"),
            ("HEXPIRE h 10 FIELDS 2 a nope", "*2 :1 :-2"),
            ("HPEXPIRE h 20000 FIELDS 1 b", "*1 :1"),
            ("HTTL h FIELDS 3 a b c", "*3 :10 :20 :-1"),
            ("HPTTL h FIELDS 1 a", "*1 :10000"),
            ("HEXPIRETIME h FIELDS 1 a", "*1 :1700000010"),
            ("HPEXPIRETIME h FIELDS 2 a none", "*2 :1700000010000 :-2"),
            ("HEXPIRE none 10 FIELDS 1 a", "*1 :-2"),
            ("HTTL none FIELDS 1 a", "*1 :-2"),
        ],
    );
    desk.now += 10_000;
    desk.check(client, &[("HGETALL h", "*4 $1 b $1 2 $1 c $1 3"), ("HLEN h", ":2")]);
    desk.check(client, &[("HPERSIST h FIELDS 3 a b c", "*3 :-2 :1 :-1")]);
    desk.check(client, &[("HPEXPIRE h 5 FIELDS 2 b c", "*2 :1 :1")]);
    desk.now += 5;
    assert!(!desk.engine.expire_some_fields(desk.now, 100));
    assert_eq!(desk.engine.store.len(0), 0);
    desk.check(
        client,
        &[("EXISTS h", ":0"), ("HSET h a 1", ":1"), ("HTTL h FIELDS 1 a", "*1 :-1")],
    );
    desk.check(client, &[("HEXPIRE h 0 FIELDS 1 a", "*1 :2"), ("EXISTS h", ":0")]);
}

#[test]
fn conditions_and_writes_decide_about_a_deadline() {
    let mut desk = Desk::new();
    let client = desk.join();
    desk.check(
        client,
        &[
            ("HSET h f 1", ":1"),
            ("HEXPIRE h 10 XX FIELDS 1 f", "*1 :0"),
            ("HEXPIRE h 10 GT FIELDS 1 f", "*1 :0"),
            ("HEXPIRE h 10 LT FIELDS 1 f", "*1 :1"),
            ("HEXPIRE h 20 NX FIELDS 1 f", "*1 :0"),
            ("HEXPIRE h 20 LT FIELDS 1 f", "*1 :0"),
            ("HEXPIRE h 20 GT FIELDS 1 f", "*1 :1"),
            // Counting keeps it, setting does not.
            ("HINCRBY h f 1", ":2"),
            ("HINCRBYFLOAT h f 0.5", "$3 2.5"),
            ("HTTL h FIELDS 1 f", "*1 :20"),
            ("HSET h f 1", ":0"),
            ("HTTL h FIELDS 1 f", "*1 :-1"),
        ],
    );
    for (line, told) in [
        (
            "HEXPIRE h 10 FIELD 1 f",
            "-ERR Mandatory argument FIELDS is missing or not at the right position",
        ),
        ("HEXPIRE h 10 FIELDS 0 f", "-ERR Number of fields must be a positive integer"),
        (
            "HEXPIRE h 10 FIELDS 2 f",
            "-ERR The `numfields` parameter must match the number of arguments",
        ),
        ("HEXPIRE h -1 FIELDS 1 f", "-ERR invalid expire time, must be >= 0"),
        (
            "HEXPIRE h 9223372036854775807 FIELDS 1 f",
            "-ERR invalid expire time in 'hexpire' command",
        ),
        ("HEXPIRE h x FIELDS 1 f", "-ERR value is not an integer or out of range"),
        ("HEXPIRE h 1", "-ERR wrong number of arguments for 'hexpire' command"),
    ] {
        desk.check(client, &[(line, told)]);
    }
}

#[test]
fn a_deadline_moves_with_its_hash() {
    let mut desk = Desk::new();
    let client = desk.join();
    desk.check(client, &[("HSET h f 1", ":1"), ("HPEXPIRE h 100 FIELDS 1 f", "*1 :1")]);
    desk.check(client, &[("COPY h copy", ":1"), ("RENAME h named", "+OK"), ("COPY copy m", ":1")]);
    desk.check(client, &[("MOVE m 3", ":1"), ("SWAPDB 3 4", "+OK")]);
    assert_eq!(desk.engine.store.len(0) + desk.engine.store.len(4), 3);
    desk.now += 100;
    desk.engine.expire_some_fields(desk.now, 100);
    assert_eq!(desk.engine.store.len(0) + desk.engine.store.len(4), 0);
}

#[test]
fn deadlines_of_fields_are_in_the_log_and_in_the_snapshot() {
    let folder = folder();
    let (at, late) = ("4102444800000", "4102444900000");
    for step in 0..3 {
        let house = House::open(relaxed(), folder.path()).unwrap();
        let mut client = house.client();
        if step == 0 {
            client.ask(&["HSET", "h", "a", "1", "b", "2", "c", "3", "gone", "4"]).unwrap();
            client.ask(&["HPEXPIREAT", "h", at, "FIELDS", "2", "a", "b"]).unwrap();
            client.ask(&["HINCRBYFLOAT", "h", "b", "1.5"]).unwrap();
            client.ask(&["HPEXPIREAT", "h", late, "FIELDS", "1", "c"]).unwrap();
            client.ask(&["HPERSIST", "h", "FIELDS", "1", "c"]).unwrap();
            client.ask(&["HPEXPIRE", "h", "1", "FIELDS", "1", "gone"]).unwrap();
            while client.ask(&["HLEN", "h"]).unwrap() == Value::Int(4) {}
        }
        let times = client.ask(&["HPEXPIRETIME", "h", "FIELDS", "4", "a", "b", "c", "gone"]);
        let at: i64 = at.parse().unwrap();
        assert_eq!(times.unwrap(), Value::Array([at, at, -1, -2].map(Value::Int).to_vec()));
        assert_eq!(client.ask(&["HGET", "h", "b"]).unwrap(), bulk("3.5"));
        if step == 1 {
            client.ask(&["BGREWRITEAOF"]).unwrap();
            let is_snapshot = |file: std::io::Result<std::fs::DirEntry>| {
                file.unwrap().path().extension().is_some_and(|end| end == "snapshot")
            };
            while !std::fs::read_dir(folder.path()).unwrap().any(is_snapshot) {
                client.ask(&["PING"]).unwrap();
            }
        }
        house.close();
    }
}
