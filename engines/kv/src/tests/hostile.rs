use super::stream::{Random, Value};
use super::{Anybody, Desk, House, folder, relaxed};
use crate::engine::Gate;
use std::sync::Arc;

#[test]
fn random_bytes_close_at_most_the_client_that_sent_them() {
    let mut random = Random(5);
    let mut desk = Desk::new();
    let good = desk.join();
    let words: &[&[u8]] = &[
        b"*3\r\n",
        b"$3\r\n",
        b"SET\r\n",
        b"*",
        b"$",
        b"-1",
        b"1000000",
        b"\r\n",
        b"\n",
        b"\0",
        b"GET a\r\n",
        b"\"",
        b"'",
        b"EXEC\r\n",
        b"MULTI\r\n",
        b"SORT a BY *\r\n",
        b"BITFIELD a SET i64 0 -1\r\n",
        b"LPOS a b RANK\r\n",
        b"ZADD z nan x\r\n",
        b"SETRANGE a 9 b\r\n",
        b"HELLO 3\r\n",
        b"RESET\r\n",
        b"SUBSCRIBE a\r\n",
        b"SCAN 99999999999\r\n",
        b"GETRANGE a -9 -99\r\n",
        b"SELECT 15\r\n",
    ];
    for _ in 0..3_000 {
        let client = desk.join();
        for _ in 0..random.below(12) {
            if random.below(3) == 0 {
                let bytes: Vec<u8> = (0..random.below(30)).map(|_| random.next() as u8).collect();
                desk.give(client, &bytes);
            } else {
                desk.give(client, words[random.below(words.len())]);
            }
        }
        desk.engine.disconnect(client);
    }
    assert_eq!(desk.ask(good, "PING"), "+PONG");
    assert_eq!(desk.engine.clients, 1);
}

#[test]
fn every_command_takes_any_arguments_without_a_panic() {
    let mut random = Random(9);
    let mut desk = Desk::new();
    let mut client = desk.join();
    let words = [
        "a",
        "b",
        "c",
        "0",
        "1",
        "-1",
        "2",
        "9223372036854775807",
        "-9223372036854775808",
        "inf",
        "nan",
        "x",
        "*",
        "",
        "LEFT",
        "MIN",
        "COUNT",
        "WITHSCORES",
        "BYLEX",
        "[a",
        "(1",
        "LIMIT",
        "STORE",
        "u8",
        "i64",
        "GET",
        "SET",
        "#1",
        "MATCH",
        "100",
        "EX",
        "REV",
        "BY",
        "1.5",
        "DB",
    ];
    let mut errors = 0;
    for round in 0..40_000 {
        let command = &crate::command::COMMANDS[random.below(crate::command::COMMANDS.len())];
        let mut parts: Vec<String> = command.name.split('|').map(str::to_owned).collect();
        for _ in 0..random.below(7) {
            parts.push(words[random.below(words.len())].to_owned());
        }
        // A pad of gigabytes is allowed, and slow.
        if ["setrange", "setbit", "bitfield"].contains(&command.name) {
            parts.truncate(3);
        }
        let request = crate::wire::request::Owned::new(parts.iter().map(String::as_bytes));
        let mut bytes = format!("*{}\r\n", parts.len()).into_bytes();
        for part in request.args().iter() {
            bytes.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            bytes.extend_from_slice(part);
            bytes.extend_from_slice(b"\r\n");
        }
        desk.give(client, &bytes);
        errors += usize::from(desk.take(client).starts_with('-'));
        if round % 10 == 0
            || desk.engine.sessions[client]
                .as_ref()
                .is_none_or(|session| session.is_closing || session.is_blocked())
        {
            desk.engine.disconnect(client);
            client = desk.join();
        }
    }
    assert!(errors > 1_000, "{errors}");
}

#[test]
fn nobody_takes_memory_before_they_said_who_they_are() {
    let gate = Gate { authority: Arc::new(Anybody::default()), anonymous: None };
    let mut desk = Desk::with(&crate::Config::default(), gate);
    for bytes in [&b"*1000\r\n"[..], b"*2\r\n$4\r\nAUTH\r\n$100000000\r\n"] {
        let client = desk.join();
        desk.give(client, bytes);
        let session = desk.engine.sessions[client].as_ref().unwrap();
        assert!(session.is_closing && session.input.capacity() < 1_000);
        assert!(desk.take(client).starts_with("-ERR Protocol error: unauthenticated"));
    }
    let client = desk.join();
    desk.check(
        client,
        &[
            ("GET a", "-NOAUTH Authentication required."),
            ("FLUSHALL", "-NOAUTH Authentication required."),
        ],
    );
}

#[test]
fn ten_thousand_keys_that_expire_at_once_go_in_small_steps() {
    let mut desk = Desk::new();
    let client = desk.join();
    for number in 0..10_000 {
        desk.ask(client, &format!("SET k{number} v PX 100"));
    }
    desk.ask(client, "SET stays v");
    desk.now += 300;
    let mut steps = 0;
    let mut last = 0;
    while desk.engine.expire_some(desk.now, (64, 500)) {
        let expired = desk.engine.stats.expired;
        assert!(expired - last <= 500 + 1_024, "one step took {}", expired - last);
        last = expired;
        steps += 1;
        assert_eq!(desk.ask(client, "GET k77"), "$-1", "an expired key is not given, gone or not");
    }
    assert!(steps >= 5, "{steps}");
    assert_eq!(desk.ask(client, "DBSIZE"), ":1");
}

#[test]
fn large_values_and_many_pieces_are_as_they_were() {
    let folder = folder();
    let house = House::open(relaxed(), folder.path()).unwrap();
    let mut client = house.client();
    let large: Vec<u8> = (0..3_000_000u32).map(|at| (at * 7) as u8).collect();
    let set = vec![b"SET".to_vec(), b"large\0key".to_vec(), large.clone()];
    let get = vec![b"GET".to_vec(), b"large\0key".to_vec()];
    let many: Vec<Vec<u8>> = std::iter::once(b"RPUSH".to_vec())
        .chain((0..100_000).map(|number| format!("element{number}").into_bytes()))
        .collect();
    client.send_all(&[set, get, many]).unwrap();
    assert_eq!(client.read().unwrap(), Value::Simple("OK".into()));
    assert_eq!(client.read().unwrap(), Value::Bulk(large.clone()));
    assert_eq!(client.read().unwrap(), Value::Int(99_999));
    house.close();
    let house = House::open(relaxed(), folder.path()).unwrap();
    let mut client = house.client();
    client.send_all(&[vec![b"GET".to_vec(), b"large\0key".to_vec()]]).unwrap();
    assert_eq!(client.read().unwrap(), Value::Bulk(large));
    house.close();
}

#[test]
fn who_does_not_read_is_not_answered_further() {
    const GETS: usize = 1_000;
    let folder = folder();
    let house = House::open(relaxed(), folder.path()).unwrap();
    let (mut lazy, mut other) = (house.client(), house.client());
    let value = "v".repeat(256 << 10);
    assert_eq!(lazy.ask(&["SET", "large", &value]).unwrap(), Value::Simple("OK".into()));
    let Value::Int(id) = lazy.ask(&["CLIENT", "ID"]).unwrap() else { panic!("no id") };
    lazy.send_all(&vec![vec!["GET", "large"]; GETS]).unwrap();
    let list = ["CLIENT", "LIST", "ID", &id.to_string()];
    let line = loop {
        let line = other.text(&list).unwrap();
        if line.contains("cmd=get") {
            break line;
        }
    };
    let field = line.split("omem=").nth(1).unwrap();
    let waiting: usize = field.split(' ').next().unwrap().parse().unwrap();
    assert!(waiting < 2 << 20, "{waiting} bytes wait for one client");
    for _ in 0..GETS {
        assert_eq!(lazy.read().unwrap(), Value::Bulk(value.clone().into_bytes()));
    }
    assert_eq!(lazy.ask(&["PING"]).unwrap(), Value::Simple("PONG".into()));
    house.close();
}

#[test]
fn a_reply_is_no_longer_than_its_limit() {
    let config = crate::Config { output_bytes_max: 100_000, ..crate::Config::default() };
    let gate =
        Gate { authority: Arc::new(Anybody::default()), anonymous: Some(Anybody::principal()) };
    let mut desk = Desk::with(&config, gate);
    let client = desk.join();
    let too_long = "-ERR the reply is longer than output_bytes_max";
    desk.ask(client, &format!("SET k {}", "v".repeat(30_000)));
    assert_eq!(desk.ask(client, "MGET k k k k"), too_long);
    desk.ask(client, "MULTI");
    for _ in 0..4 {
        desk.ask(client, "GET k");
    }
    let reply = desk.ask(client, "EXEC");
    assert!(reply.starts_with("*4 $30000 v") && reply.ends_with(too_long), "{}", reply.len());
    let call = "EVAL \"return #redis.pcall('MGET', 'k', 'k', 'k', 'k').err\" 0";
    assert_eq!(desk.ask(client, call), ":45");
    assert_eq!(desk.ask(client, "GET k").len(), 30_007);
}

#[test]
fn what_a_client_wants_kept_has_a_limit() {
    let config = crate::Config { request_bytes_max: 100_000, ..crate::Config::default() };
    let gate =
        Gate { authority: Arc::new(Anybody::default()), anonymous: Some(Anybody::principal()) };
    let mut desk = Desk::with(&config, gate);
    for begin in ["MULTI", "PING", "HELLO 3"] {
        let client = desk.join();
        desk.ask(client, begin);
        let name = "n".repeat(1_000);
        let line = match begin {
            "MULTI" => format!("SET k {name}"),
            "PING" => format!("WATCH {name}"),
            _ => format!("SUBSCRIBE {name}"),
        };
        let mut times = 0;
        while !desk.engine.sessions[client].as_ref().unwrap().is_closing {
            desk.ask(client, &format!("{line}{times}"));
            times += 1;
            assert!(times < 200, "{begin}: nothing ends it");
        }
        assert!(times > 50, "{begin}: {times}");
        desk.engine.disconnect(client);
    }
    // What is given up is not counted any more.
    let client = desk.join();
    for round in 0..300 {
        desk.ask(client, &format!("WATCH {}{round}", "n".repeat(1_000)));
        desk.ask(client, "UNWATCH");
        desk.ask(client, &format!("SUBSCRIBE {}{round}", "n".repeat(1_000)));
        desk.ask(client, "UNSUBSCRIBE");
    }
    assert_eq!(desk.ask(client, "PING"), "+PONG");
}
