//! Streams and dumps: waiting, the way through log and snapshot, and the way to and from a real Redis.

use super::in_step::Redis;
use super::stream::{Client, Value};
use super::{Desk, House, folder, ok, relaxed};
use crate::Config;

#[test]
fn who_waits_for_a_stream_gets_what_comes_after_it_asked() {
    let mut desk = Desk::new();
    let (a, b, c) = (desk.join(), desk.join(), desk.join());
    desk.ask(c, "XADD s 5-1 f old");
    assert_eq!(desk.ask(a, "XREAD BLOCK 0 STREAMS s $"), "");
    assert_eq!(desk.ask(b, "XREAD COUNT 1 BLOCK 100 STREAMS other s 0 $"), "");
    assert_eq!(desk.ask(c, "XADD s 5-2 f new"), "$3 5-2");
    let entry = "*1 *2 $1 s *1 *2 $3 5-2 *2 $1 f $3 new";
    assert_eq!((desk.take(a), desk.take(b)), (entry.to_owned(), entry.to_owned()));
    assert!(desk.engine.waiting.is_empty());
    desk.ask(a, "XREAD BLOCK 100 STREAMS s $");
    desk.now += 100;
    desk.engine.time_out(desk.now);
    assert_eq!(desk.take(a), "*-1");
    // Within a transaction nobody waits.
    desk.check(
        a,
        &[("MULTI", "+OK"), ("XREAD BLOCK 0 STREAMS s $", "+QUEUED"), ("EXEC", "*1 *-1")],
    );
}

#[test]
fn consumers_are_served_in_turn_and_told_when_their_group_goes() {
    let mut desk = Desk::new();
    let (a, b, c) = (desk.join(), desk.join(), desk.join());
    desk.check(c, &[("XGROUP CREATE s g $ MKSTREAM", "+OK")]);
    desk.ask(a, "XREADGROUP GROUP g one BLOCK 0 STREAMS s >");
    desk.ask(b, "XREADGROUP GROUP g two BLOCK 0 STREAMS s >");
    desk.ask(c, "XADD s 1-1 f x");
    assert_eq!(desk.take(a), "*1 *2 $1 s *1 *2 $3 1-1 *2 $1 f $1 x");
    assert_eq!(desk.take(b), "");
    desk.check(c, &[("XGROUP DESTROY s g", ":1")]);
    assert_eq!(
        desk.take(b),
        "-NOGROUP the consumer group this client was blocked on no longer exists"
    );
    for gone in ["DEL s", "SET s 1", "FLUSHALL", "PEXPIREAT s 1", "RENAME t s"] {
        desk.ask(c, "FLUSHALL");
        desk.ask(c, "XADD t 9-9 a b");
        desk.check(c, &[("XGROUP CREATE s g $ MKSTREAM", "+OK")]);
        assert_eq!(desk.ask(a, "XREADGROUP GROUP g one BLOCK 0 STREAMS s >"), "");
        desk.ask(c, gone);
        let told = desk.take(a);
        let group = "-NOGROUP the consumer group this client was blocked on no longer exists";
        let expected = if gone.starts_with("RENAME") {
            group
        } else {
            "-UNBLOCKED the stream key no longer exists"
        };
        assert_eq!(told, expected, "{gone}");
    }
    assert_eq!(desk.engine.stats.blocked, 0);
}

/// Everything that is known of the streams, but when consumers were seen.
fn picture(client: &mut Client) -> Vec<String> {
    let mut all = Vec::new();
    for key in ["s0", "s1", "s2", "empty"] {
        let info = client.ask(&["XINFO", "STREAM", key, "FULL", "COUNT", "0"]).unwrap();
        all.push(format!("{:?}", unseen(info)));
    }
    all
}

fn unseen(value: Value) -> Value {
    let Value::Array(parts) = value else { return value };
    let mut is_seen = false;
    let parts = parts.into_iter().map(|part| {
        let hides = std::mem::replace(&mut is_seen, part == super::bulk("seen-time"));
        if hides { Value::Null } else { unseen(part) }
    });
    Value::Array(parts.collect())
}

fn fill(client: &mut Client) {
    let mut ask = |line: String| {
        let words: Vec<&str> = line.split(' ').collect();
        let reply = client.ask(&words).unwrap();
        assert!(!matches!(reply, Value::Error(_)), "{line}: {reply:?}");
        reply
    };
    ask("XGROUP CREATE empty g $ MKSTREAM".into());
    for key in ["s0", "s1", "s2"] {
        ask(format!("XGROUP CREATE {key} g 0 MKSTREAM"));
        ask(format!("XGROUP CREATE {key} other $ ENTRIESREAD 7"));
        for number in 0..250 {
            ask(format!("XADD {key} MAXLEN ~ 220 * f {number} g same"));
        }
        ask(format!("XREADGROUP GROUP g one COUNT 30 STREAMS {key} >"));
        ask(format!("XREADGROUP GROUP g two COUNT 10 STREAMS {key} >"));
        ask(format!("XREADGROUP GROUP g two COUNT 5 NOACK STREAMS {key} >"));
        ask(format!("XREADGROUP GROUP g one COUNT 3 STREAMS {key} 0"));
        let Value::Array(entries) = ask(format!("XRANGE {key} - + COUNT 12")) else { panic!() };
        for entry in entries.iter().skip(2) {
            let Value::Array(parts) = entry else { panic!() };
            let Value::Bulk(id) = &parts[0] else { panic!() };
            let id = String::from_utf8_lossy(id).into_owned();
            match id.bytes().map(usize::from).sum::<usize>() % 3 {
                0 => ask(format!("XDEL {key} {id}")),
                1 => ask(format!("XACK {key} g {id}")),
                _ => ask(format!("XCLAIM {key} g three 0 {id} RETRYCOUNT 9")),
            };
        }
        ask(format!("XAUTOCLAIM {key} g four 0 0 COUNT 4"));
        ask(format!("XTRIM {key} MAXLEN 200"));
        ask(format!("XGROUP DELCONSUMER {key} g four"));
    }
}

#[test]
fn streams_with_their_groups_come_back_from_log_and_snapshot() {
    let folder = folder();
    let house = House::open(Config::default(), folder.path()).unwrap();
    let mut client = house.client();
    fill(&mut client);
    let before = picture(&mut client);
    house.close();
    // From the log, then from a snapshot.
    let house = House::open(Config::default(), folder.path()).unwrap();
    let mut client = house.client();
    assert_eq!(picture(&mut client), before);
    client.ask(&["BGREWRITEAOF"]).unwrap();
    let snapshots = || {
        let files = std::fs::read_dir(folder.path()).unwrap();
        files
            .filter(|file| {
                file.as_ref().unwrap().path().extension().is_some_and(|e| e == "snapshot")
            })
            .count()
    };
    while snapshots() == 0 {
        client.ask(&["PING"]).unwrap();
    }
    assert_eq!(picture(&mut client), before);
    house.close();
    let house = House::open(Config::default(), folder.path()).unwrap();
    assert_eq!(picture(&mut house.client()), before);
    house.close();
}

fn bytes(value: Value) -> Vec<u8> {
    let Value::Bulk(bytes) = value else { panic!("{value:?}") };
    bytes
}

/// Values of every kind and size, by the command that shows them.
fn varied(client: &mut Client) -> Vec<(&'static str, &'static [&'static str])> {
    let long = "long text that Redis compresses ".repeat(40);
    let mut ask = |words: &[&str]| {
        let reply = client.ask(words).unwrap();
        assert!(!matches!(reply, Value::Error(_)), "{words:?}: {reply:?}");
    };
    ask(&["SET", "text", &long]);
    ask(&["SET", "number", "-1234"]);
    ask(&["SET", "empty", ""]);
    for number in 0..300 {
        let text = format!("{number}");
        let name = format!("name{number}");
        ask(&["RPUSH", "list", &text, &name, &long]);
        ask(&["SADD", "numbers", &text]);
        ask(&["SADD", "set", &name]);
        ask(&["HSET", "hash", &name, &long]);
        ask(&["ZADD", "sorted", &format!("{number}.25"), &name]);
        ask(&["XADD", "stream", &format!("{number}-1"), &name, &long, "b", &text]);
        ask(&["PFADD", "counted", &name]);
        if number < 20 {
            ask(&["HSET", "small-hash", &name, &text]);
            ask(&["ZADD", "small-sorted", &text, &name]);
            ask(&["RPUSH", "small-list", &text, &name]);
        }
    }
    ask(&["XDEL", "stream", "7-1"]);
    ask(&["XGROUP", "CREATE", "stream", "g", "0"]);
    ask(&["XREADGROUP", "GROUP", "g", "c", "COUNT", "9", "STREAMS", "stream", ">"]);
    vec![
        ("text", &["GET"]),
        ("number", &["GET"]),
        ("empty", &["GET"]),
        ("list", &["LRANGE", "0", "-1"]),
        ("numbers", &["SORT"]),
        ("set", &["SORT", "ALPHA"]),
        ("hash", &["HGETALL"]),
        ("sorted", &["ZRANGE", "0", "-1", "WITHSCORES"]),
        ("stream", &["XRANGE", "-", "+"]),
        ("stream", &["XPENDING", "g", "-", "+", "100"]),
        ("counted", &["PFCOUNT"]),
        ("small-hash", &["HGETALL"]),
        ("small-sorted", &["ZRANGE", "0", "-1", "WITHSCORES"]),
        ("small-list", &["LRANGE", "0", "-1"]),
    ]
}

fn shown(client: &mut Client, key: &str, command: &[&str]) -> Value {
    let mut words = vec![command[0], key];
    words.extend(&command[1..]);
    let value = client.ask(&words).unwrap();
    match value {
        // Pairs of a large hash come in any order, and time goes on.
        Value::Array(mut parts) if command[0] == "HGETALL" => {
            parts.sort();
            Value::Array(parts)
        }
        Value::Array(parts) if command[0] == "XPENDING" => Value::Int(parts.len() as i64),
        value => value,
    }
}

#[test]
fn values_go_to_redis_and_come_from_it_as_dumps() {
    let folder = folder();
    let house = House::open(relaxed(), folder.path()).unwrap();
    let redis = Redis::start();
    for is_ours in [true, false] {
        let (mut from, mut to) = (house.client(), Client::connect(redis.address).unwrap());
        if !is_ours {
            std::mem::swap(&mut from, &mut to);
        }
        for client in [&mut from, &mut to] {
            client.ask(&["FLUSHALL"]).unwrap();
        }
        let all = varied(&mut from);
        for (key, command) in all {
            let payload = bytes(from.ask(&["DUMP", key]).unwrap());
            let request = [&b"RESTORE"[..], key.as_bytes(), b"0", &payload, b"REPLACE"];
            to.send_all(&[request.map(<[u8]>::to_vec).to_vec()]).unwrap();
            assert_eq!(to.read().unwrap(), ok(), "{key}, ours: {is_ours}");
            assert_eq!(
                shown(&mut to, key, command),
                shown(&mut from, key, command),
                "{key}, ours: {is_ours}"
            );
        }
        // What was restored goes on.
        assert_eq!(to.ask(&["XADD", "stream", "299-*", "a", "b"]).unwrap(), super::bulk("299-2"));
    }
    house.close();
}

#[test]
fn a_restored_key_expires_when_it_should() {
    let mut desk = Desk::new();
    let client = desk.join();
    desk.ask(client, "SET a 1");
    desk.give(client, b"DUMP a\r\n");
    let reply = std::mem::take(&mut desk.engine.sessions[client].as_mut().unwrap().out.bytes);
    let payload = &reply[memchr::memchr(b'\n', &reply).unwrap() + 1..reply.len() - 2];
    let restore = |desk: &mut Desk, key: &str, rest: &[&str]| {
        let mut words = vec![b"RESTORE".to_vec(), key.into(), rest[0].into(), payload.to_vec()];
        words.extend(rest[1..].iter().map(|word| word.as_bytes().to_vec()));
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(&word);
            request.extend_from_slice(b"\r\n");
        }
        desk.give(client, &request);
        desk.take(client)
    };
    assert_eq!(restore(&mut desk, "a", &["0"]), "-BUSYKEY Target key name already exists.");
    assert_eq!(restore(&mut desk, "b", &["5000"]), "+OK");
    let until = (desk.now + 7_000).to_string();
    assert_eq!(restore(&mut desk, "c", &[&until, "ABSTTL"]), "+OK");
    desk.check(client, &[("PTTL b", ":5000"), ("PTTL c", ":7000"), ("GET c", "$1 1")]);
    assert_eq!(restore(&mut desk, "c", &["1", "ABSTTL", "REPLACE"]), "+OK");
    desk.check(client, &[("EXISTS c", ":0")]);
}
