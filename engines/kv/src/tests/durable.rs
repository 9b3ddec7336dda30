use std::fs;
use std::path::Path;

use super::stream::{Client, Value};
use super::{House, bulk, folder, ok, relaxed};
use crate::{Config, Durability, Error};

/// Everything that a store holds, in an order of its own.
fn dump(client: &mut Client) -> Vec<(Vec<u8>, String)> {
    let Value::Array(keys) = client.ask(&["KEYS", "*"]).unwrap() else { panic!("no keys") };
    let mut all = Vec::new();
    for key in keys {
        let Value::Bulk(key) = key else { panic!("no key") };
        let name = String::from_utf8(key.clone()).unwrap();
        let Value::Simple(kind) = client.ask(&["TYPE", &name]).unwrap() else { panic!("no type") };
        let mut value = match kind.as_str() {
            "string" => client.ask(&["GET", &name]),
            "hash" => client.ask(&["HGETALL", &name]),
            "list" => client.ask(&["LRANGE", &name, "0", "-1"]),
            "set" => client.ask(&["SMEMBERS", &name]),
            _ => client.ask(&["ZRANGE", &name, "0", "-1", "WITHSCORES"]),
        }
        .unwrap();
        if let (Value::Array(all), "set") = (&mut value, kind.as_str()) {
            all.sort();
        }
        let expiry = client.ask(&["PEXPIRETIME", &name]).unwrap();
        all.push((key, format!("{kind} {value:?} {expiry:?}")));
    }
    all.sort();
    all
}

/// What a process that is killed now leaves.
fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

fn fill(client: &mut Client, round: usize) {
    let words =
        |text: &str| text.split(' ').map(|word| word.as_bytes().to_vec()).collect::<Vec<_>>();
    let commands = [
        format!("SET s{round} value{round}"),
        format!("SET e{round} x PXAT 9999999999999"),
        format!("INCRBY n {round}"),
        format!("APPEND log {round},"),
        format!("HSET h{} f{round} v", round % 7),
        format!("RPUSH l{} a b c{round}", round % 5),
        format!("LPOP l{}", round % 5),
        format!("SADD set{} m{round} n{round}", round % 3),
        format!("SPOP set{}", round % 3),
        format!("ZADD z {round} m{}", round % 20),
        format!("RENAME s{round} r{round}"),
        format!("DEL r{}", round / 2),
        format!("SETBIT bits {round} 1"),
        format!("INCRBYFLOAT f 0.{round}"),
        format!("SORT l{} ALPHA STORE sorted", round % 5),
        "ZUNIONSTORE zz 2 z z".to_owned(),
        format!("COPY z copy{} REPLACE", round % 4),
    ];
    let commands: Vec<Vec<Vec<u8>>> = commands.iter().map(|command| words(command)).collect();
    client.send_all(&commands).unwrap();
    for command in &commands {
        let reply = client.read().unwrap();
        assert!(!matches!(reply, Value::Error(_)), "{command:?} {reply:?}");
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    let (first, second) = (folder(), folder());
    let house = House::open(Config::default(), first.path()).unwrap();
    let mut client = house.client();
    for round in 0..150 {
        fill(&mut client, round);
    }
    let before = dump(&mut client);
    copy(first.path(), second.path());
    let again = House::open(Config::default(), second.path()).unwrap();
    assert_eq!(dump(&mut again.client()), before);
    again.close();
    house.close();
}

#[test]
fn a_torn_tail_is_cut_and_everything_before_it_stays() {
    let (first, second) = (folder(), folder());
    let house = House::open(Config::default(), first.path()).unwrap();
    let mut client = house.client();
    for number in 0..20 {
        assert_eq!(client.ask(&["SET", &format!("k{number}"), &"v".repeat(50)]).unwrap(), ok());
    }
    house.close();
    let log = "0000000001.log";
    let bytes = fs::read(first.path().join(log)).unwrap();
    copy(first.path(), second.path());
    let mut most = 0;
    for length in (0..bytes.len()).step_by(37) {
        // The rest is missing, or garbage of a write that did not finish.
        let mut torn = bytes[..length].to_vec();
        if length % 2 == 0 && length > 8 {
            torn.resize(length + 60, 0xa5);
        }
        fs::write(second.path().join(log), &torn).unwrap();
        let house = House::open(Config::default(), second.path()).unwrap();
        let mut client = house.client();
        let Value::Int(count) = client.ask(&["DBSIZE"]).unwrap() else { panic!("no size") };
        assert!(count >= most, "a longer log holds no less");
        most = count;
        for number in 0..count {
            assert_eq!(client.ask(&["GET", &format!("k{number}")]).unwrap(), bulk(&"v".repeat(50)));
        }
        // What is written now is behind the cut, not behind the garbage.
        assert_eq!(client.ask(&["SET", "after", "1"]).unwrap(), ok());
        house.close();
        let house = House::open(Config::default(), second.path()).unwrap();
        assert_eq!(house.client().ask(&["GET", "after"]).unwrap(), bulk("1"));
        assert_eq!(house.client().ask(&["DBSIZE"]).unwrap(), Value::Int(count + 1));
        house.close();
    }
    assert_eq!(most, 19, "one frame was cut off");
}

#[test]
fn a_rewritten_log_is_short_and_holds_the_same_while_writes_go_on() {
    let (first, second) = (folder(), folder());
    let house = House::open(relaxed(), first.path()).unwrap();
    let mut client = house.client();
    for round in 0..60 {
        fill(&mut client, round);
    }
    let commands: Vec<Vec<Vec<u8>>> = (0..20_000)
        .map(|number| vec![b"SET".to_vec(), format!("many{number}").into_bytes(), b"1".to_vec()])
        .collect();
    client.send_all(&commands).unwrap();
    for _ in &commands {
        assert_eq!(client.read().unwrap(), ok());
    }
    let mut runs = 0;
    for round in 60..400 {
        if round % 100 == 60 {
            let begun = client.ask(&["BGREWRITEAOF"]).unwrap();
            runs += usize::from(matches!(begun, Value::Simple(_)));
        }
        if round == 200 {
            // A flush ends a rewrite that runs; it begins again.
            client.ask(&["BGREWRITEAOF"]).unwrap();
            client.ask(&["FLUSHALL"]).unwrap();
        }
        fill(&mut client, round);
        client.ask(&["SET", &format!("many{round}"), &round.to_string()]).unwrap();
        client.ask(&["DEL", &format!("many{}", 20_000 - round)]).unwrap();
    }
    assert!(runs >= 2);
    // A folder that is being copied must not change meanwhile.
    loop {
        let Value::Bulk(info) = client.ask(&["INFO", "persistence"]).unwrap() else {
            panic!("no info")
        };
        if String::from_utf8(info).unwrap().contains("aof_rewrite_in_progress:0") {
            break;
        }
    }
    let before = dump(&mut client);
    copy(first.path(), second.path());
    let again = House::open(Config::default(), second.path()).unwrap();
    assert_eq!(dump(&mut again.client()), before);
    again.close();
    // When it is done, one snapshot and one log are left.
    client.ask(&["BGREWRITEAOF"]).unwrap();
    let names = || -> Vec<String> {
        let names = fs::read_dir(first.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with("log") || name.ends_with("snapshot")).collect()
    };
    while names().len() != 2 {
        client.ask(&["PING"]).unwrap();
    }
    let before = dump(&mut client);
    house.close();
    let again = House::open(Config::default(), first.path()).unwrap();
    assert_eq!(dump(&mut again.client()), before);
    again.close();
}

#[test]
fn a_broken_log_before_the_last_is_said_and_nothing_is_thrown_away() {
    let folder = folder();
    let house = House::open(Config::default(), folder.path()).unwrap();
    assert_eq!(house.client().ask(&["SET", "a", "1"]).unwrap(), ok());
    house.close();
    let log = folder.path().join("0000000001.log");
    let mut bytes = fs::read(&log).unwrap();
    fs::write(folder.path().join("0000000002.log"), &bytes).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&log, &bytes).unwrap();
    let Err(error) = House::open(Config::default(), folder.path()) else { panic!("it opened") };
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
    assert_eq!(fs::read(&log).unwrap(), bytes);
}

#[test]
fn a_second_process_is_kept_out() {
    let folder = folder();
    let house = House::open(Config::default(), folder.path()).unwrap();
    assert!(matches!(House::open(Config::default(), folder.path()), Err(Error::InUse(_))));
    house.close();
    House::open(Config::default(), folder.path()).unwrap().close();
}

#[test]
fn a_transaction_is_one_frame() {
    let (first, second) = (folder(), folder());
    let house = House::open(Config::default(), first.path()).unwrap();
    let mut client = house.client();
    for words in
        [&["SET", "before", "1"][..], &["MULTI"], &["SET", "a", "1"], &["SET", "b", "2"], &["EXEC"]]
    {
        client.ask(words).unwrap();
    }
    house.close();
    let log = "0000000001.log";
    let bytes = fs::read(first.path().join(log)).unwrap();
    copy(first.path(), second.path());
    for length in (8..bytes.len()).rev() {
        fs::write(second.path().join(log), &bytes[..length]).unwrap();
        let house = House::open(Config::default(), second.path()).unwrap();
        let Value::Int(size) = house.client().ask(&["DBSIZE"]).unwrap() else { panic!("no size") };
        assert!(size < 2, "half of a transaction: {size} keys of {length} bytes");
        house.close();
        if size == 0 {
            break;
        }
    }
}

#[test]
fn a_store_in_memory_writes_nothing_and_begins_empty() {
    let folder = folder();
    let config = || Config {
        durability: Durability::Memory,
        script_write_bytes_max: 1 << 20,
        ..Config::default()
    };
    let house = House::open(config(), folder.path()).unwrap();
    let mut client = house.client();
    assert_eq!(client.ask(&["SET", "a", "1"]).unwrap(), ok());
    assert_eq!(client.ask(&["GET", "a"]).unwrap(), bulk("1"));
    let said = client.ask(&["CONFIG", "GET", "appendonly"]).unwrap();
    assert_eq!(said, Value::Array(vec![bulk("appendonly"), bulk("no")]));
    for refused in [&["SAVE"][..], &["BGREWRITEAOF"], &["CONFIG", "SET", "appendfsync", "everysec"]]
    {
        let told = client.ask(refused).unwrap();
        assert!(
            matches!(&told, Value::Error(text) if text.contains("nothing is kept")),
            "{told:?}"
        );
    }
    // Half of a script is shown to nobody, here too.
    let endless = "while true do redis.call('RPUSH', 'l', ('x'):rep(1000)) end";
    let told = client.ask(&["EVAL", endless, "0"]).unwrap();
    assert!(matches!(&told, Value::Error(text) if text.contains("all keys are gone")), "{told:?}");
    let mut client = house.client();
    assert_eq!(client.ask(&["DBSIZE"]).unwrap(), Value::Int(0));
    assert_eq!(client.ask(&["SET", "b", "1"]).unwrap(), ok());
    house.close();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    let house = House::open(config(), folder.path()).unwrap();
    assert_eq!(house.client().ask(&["DBSIZE"]).unwrap(), Value::Int(0));
    house.close();
}

#[test]
fn a_store_in_memory_leaves_keys_alone_that_another_kept() {
    let folder = folder();
    let house = House::open(relaxed(), folder.path()).unwrap();
    assert_eq!(house.client().ask(&["SET", "a", "1"]).unwrap(), ok());
    house.close();
    let config = Config { durability: Durability::Memory, ..Config::default() };
    assert!(matches!(House::open(config, folder.path()), Err(Error::Kept(_))));
    let house = House::open(relaxed(), folder.path()).unwrap();
    assert_eq!(house.client().ask(&["GET", "a"]).unwrap(), bulk("1"));
    house.close();
}
