//! The handle that rooms have: one suite for the embedded store, Redis, Valkey, a cluster, and servers behind a sentinel.

use std::time::{Duration, Instant};

use base::{ErrorKind, OrganisationId};
use testkit::{RedisCluster, RedisKind, RedisSentinel, RedisServer};

use super::*;
use crate::value::Value as Answer;
use crate::{Address, Keys};

const ONE: OrganisationId = OrganisationId::DEFAULT;
const OTHER: OrganisationId = OrganisationId::fixed(2);

/// A store as rooms see it.
struct Rooms {
    runtime: Runtime,
    base: Base,
    kv: Kv,
    _folder: TempDir,
}

impl Rooms {
    fn open(config: Config) -> Result<Self, Error> {
        let folder = folder();
        let (runtime, base) = (Runtime::new().unwrap(), Base::system());
        let kv = runtime.block_on(Kv::for_rooms(config, &base, folder.path()))?;
        Ok(Self { runtime, base, kv, _folder: folder })
    }

    fn at(url: String) -> Self {
        Self::open(remote(url)).unwrap()
    }

    fn do_all(&self) {
        let (one, other) = (self.kv.keys(ONE), self.kv.keys(OTHER));
        self.runtime.block_on(async {
            texts_and_times(&one).await;
            families(&one).await;
            scripts(&one).await;
            refusals(&one).await;
            pages(&one, &other).await;
        });
        self.many_at_once(&one);
    }

    fn many_at_once(&self, keys: &Keys) {
        let adding: Vec<_> = (0..64)
            .map(|_| {
                let keys = keys.clone();
                self.runtime.spawn(async move {
                    for _ in 0..50 {
                        keys.increment("shared", 1).await.unwrap();
                    }
                })
            })
            .collect();
        for one in adding {
            self.runtime.block_on(one).unwrap();
        }
        let sum = self.runtime.block_on(keys.increment("shared", 0)).unwrap();
        assert_eq!(sum, 64 * 50);
    }

    /// Asks until it is answered.
    fn until_answered(&self) -> Duration {
        let began = now();
        let keys = self.kv.keys(ONE);
        loop {
            match self.runtime.block_on(keys.set("after", "1", None)) {
                Ok(()) => return began.elapsed(),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                    assert!(began.elapsed() < Duration::from_secs(30), "{error}");
                }
            }
        }
    }
}

fn now() -> Instant {
    base::Clock::system().instant()
}

fn remote(url: String) -> Config {
    Config {
        url: Address::new(url),
        connect_wait_max: Duration::from_secs(20),
        reply_wait_max: Duration::from_secs(20),
        reconnect_after: Duration::from_millis(20),
        ..relaxed()
    }
}

fn text(text: &str) -> Answer {
    Answer::Bytes(text.as_bytes().to_vec())
}

async fn ask(keys: &Keys, line: &str) -> Answer {
    let words: Vec<&str> = line.split(' ').collect();
    keys.ask(&words).await.unwrap_or_else(|error| panic!("{line}: {error}"))
}

async fn refusal(keys: &Keys, line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    keys.ask(&words).await.expect_err(line).to_string()
}

async fn texts_and_times(keys: &Keys) {
    let (key, value) = (b"a\0\r\n{}*".as_slice(), [0, 13, 10, 255, 36].as_slice());
    assert_eq!(keys.get(key).await.unwrap(), None);
    keys.set(key, value, None).await.unwrap();
    assert_eq!(keys.get(key).await.unwrap().as_deref(), Some(value));
    assert!(!keys.set_new(key, "other", Duration::from_mins(1)).await.unwrap());
    assert_eq!(keys.delete(&[key, b"none"]).await.unwrap(), 1);
    assert!(keys.set_new(key, "other", Duration::from_mins(1)).await.unwrap());
    assert_eq!(keys.increment("count", 5).await.unwrap(), 5);
    assert_eq!(keys.increment("count", -7).await.unwrap(), -2);
    let large = vec![7; 3 << 20];
    keys.set("large", &large, None).await.unwrap();
    assert_eq!(keys.get("large").await.unwrap(), Some(large));
    keys.set("short", "1", Some(Duration::from_millis(40))).await.unwrap();
    assert!(keys.expire("count", Duration::from_mins(1)).await.unwrap());
    assert!(!keys.expire("none", Duration::from_mins(1)).await.unwrap());
    let began = now();
    while keys.get("short").await.unwrap().is_some() {
        assert!(began.elapsed() < Duration::from_secs(10), "it does not expire");
    }
    assert_eq!(keys.delete::<&str>(&[]).await.unwrap(), 0);
}

async fn families(keys: &Keys) {
    assert_eq!(ask(keys, "HSET h a 1 b 2").await, Answer::Integer(2));
    assert_eq!(
        ask(keys, "HGETALL h").await,
        Answer::Map(vec![(text("a"), text("1")), (text("b"), text("2"))])
    );
    assert_eq!(ask(keys, "RPUSH l x y z").await, Answer::Integer(3));
    assert_eq!(
        ask(keys, "LMPOP 2 none l LEFT COUNT 2").await,
        Answer::List(vec![text("l"), Answer::List(vec![text("x"), text("y")])])
    );
    assert_eq!(ask(keys, "SADD s m").await, Answer::Integer(1));
    assert_eq!(ask(keys, "SUNION s none").await, Answer::List(vec![text("m")]));
    assert_eq!(ask(keys, "ZADD z 1.5 a 2 b").await, Answer::Integer(2));
    assert_eq!(ask(keys, "ZSCORE z a").await, Answer::Double(1.5));
    assert_eq!(
        ask(keys, "ZRANGE z 0 0 WITHSCORES").await,
        Answer::List(vec![Answer::List(vec![text("a"), Answer::Double(1.5)])])
    );
    let popped = ask(keys, "ZMPOP 1 z MAX").await;
    let pair = Answer::List(vec![text("b"), Answer::Double(2.0)]);
    assert_eq!(popped, Answer::List(vec![text("z"), Answer::List(vec![pair])]));
    assert_eq!(ask(keys, "XADD x 1-1 f v").await, text("1-1"));
    let fields = Answer::List(vec![text("f"), text("v")]);
    let entry = Answer::List(vec![text("1-1"), fields]);
    assert_eq!(
        ask(keys, "XREAD STREAMS x none 0 0").await,
        Answer::Map(vec![(text("x"), Answer::List(vec![entry]))])
    );
    assert_eq!(ask(keys, "RENAME s t").await, text("OK"));
    assert_eq!(ask(keys, "TYPE t").await, text("set"));
    assert_eq!(ask(keys, "COPY t s").await, Answer::Integer(1));
    assert_eq!(ask(keys, "BITOP NOT bits h2").await, Answer::Integer(0));
    assert_eq!(ask(keys, "PFADD p a b").await, Answer::Integer(1));
    assert_eq!(ask(keys, "PFCOUNT p none").await, Answer::Integer(2));
    assert_eq!(ask(keys, "OBJECT REFCOUNT t").await, Answer::Integer(1));
}

async fn scripts(keys: &Keys) {
    let code = "redis.call('SET', KEYS[1], ARGV[1]) redis.call('SET', KEYS[2], ARGV[2])
        return redis.call('MGET', KEYS[1], KEYS[2])";
    let answer = keys.script(code, &["one", "two"], &["1", "2"]).await.unwrap();
    assert_eq!(answer, Answer::List(vec![text("1"), text("2")]));
    assert_eq!(ask(keys, "MGET one two none").await, {
        Answer::List(vec![text("1"), text("2"), Answer::Null])
    });
    let failed = keys.script("return redis.call('LPUSH', KEYS[1], 1)", &["one"], &[""; 0]).await;
    let said = failed.unwrap_err().to_string();
    assert!(said.starts_with("WRONGTYPE Operation against a key"), "{said}");
}

async fn refusals(keys: &Keys) {
    for line in [
        "KEYS *",
        "FLUSHALL",
        "SELECT 1",
        "MULTI",
        "SUBSCRIBE c",
        "MOVE one 1",
        "SORT l",
        "PING",
        "COPY one two DB 1",
        "BLPOP l 0",
        "XREAD BLOCK 0 STREAMS x $",
        "CONFIG GET *",
        "DUMP one",
        "RANDOMKEY",
        "AUTH a",
        "WATCH one",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let error = keys.ask(&words).await.expect_err(line);
        assert!(matches!(error, Error::Refused(_)), "{line}: {error}");
    }
    let wrong = "WRONGTYPE Operation against a key holding the wrong kind of value";
    assert_eq!(refusal(keys, "GET l").await, wrong);
    assert_eq!(
        refusal(keys, "INCR one two").await,
        "ERR wrong number of arguments for 'incr' command"
    );
    assert!(refusal(keys, "NONSENSE one").await.starts_with("ERR unknown command 'NONSENSE'"));
    assert_eq!(refusal(keys, "SET one 1 EX").await, "ERR syntax error");
    let no_group = refusal(keys, "XREADGROUP GROUP g c STREAMS x >").await;
    assert_eq!(
        no_group,
        "NOGROUP No such key 'x' or consumer group 'g' in XREADGROUP with GROUP option"
    );
}

async fn pages(one: &Keys, other: &Keys) {
    for number in 0..300 {
        one.set(format!("page*[{number}"), "1", None).await.unwrap();
    }
    one.set("pageant", "1", None).await.unwrap();
    other.set("page*[of another", "2", None).await.unwrap();
    assert_eq!(other.get("page*[1").await.unwrap(), None);
    let (mut found, mut from, mut pages) = (std::collections::BTreeSet::new(), None, 0);
    loop {
        let page = one.scan(b"page*[", from.as_deref(), 50).await.unwrap();
        found.extend(page.names);
        pages += 1;
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(found.len(), 300);
    assert!(pages > 3 && found.iter().all(|name| name.starts_with(b"page*[")));
    assert!(one.scan(b"", Some("x"), 10).await.is_err());
}

#[test]
fn rooms_use_the_embedded_store() {
    Rooms::open(Config::default()).unwrap().do_all();
}

#[test]
fn rooms_use_redis_alike_and_leave_the_keys_of_others_alone() {
    let server = RedisServer::start(RedisKind::Redis, &[]).unwrap();
    server.client().unwrap().done(&["SET", "one", "not ours"]).unwrap();
    Rooms::at(server.url() + "/0").do_all();
    let mut client = server.client().unwrap();
    assert_eq!(client.text(&["GET", "one"]).unwrap(), "not ours");
    assert_eq!(client.text(&["GET", &format!("madang:{{{ONE}}}:one")]).unwrap(), "1");
}

#[test]
fn rooms_use_valkey_alike() {
    let server = RedisServer::start(RedisKind::Valkey, &[]).unwrap();
    Rooms::at(server.url().replace("redis", "valkey")).do_all();
}

#[test]
fn rooms_use_a_cluster_alike() {
    for kind in [RedisKind::Redis, RedisKind::Valkey] {
        let cluster = RedisCluster::start(kind).unwrap();
        Rooms::at(cluster.url()).do_all();
    }
}

#[test]
fn rooms_use_servers_behind_a_sentinel_alike_also_after_another_became_master() {
    let mut sentinel = RedisSentinel::start(RedisKind::Redis).unwrap();
    let rooms = Rooms::at(sentinel.url());
    rooms.do_all();
    sentinel.fail_over().unwrap();
    rooms.until_answered();
    let value = rooms.runtime.block_on(rooms.kv.keys(ONE).get("after")).unwrap();
    assert_eq!(value.as_deref(), Some(&b"1"[..]));
}

#[test]
fn a_server_that_is_away_is_told_at_once_and_used_again_when_it_is_back() {
    let mut server = RedisServer::start(RedisKind::Redis, &[]).unwrap();
    let rooms = Rooms::at(server.url());
    rooms.until_answered();
    server.kill().unwrap();
    let keys = rooms.kv.keys(ONE);
    for _ in 0..50 {
        let began = now();
        let error = rooms.runtime.block_on(keys.get("after")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(began.elapsed() < Duration::from_secs(3), "{error} took {:?}", began.elapsed());
    }
    server.revive().unwrap();
    rooms.until_answered();
    let shown = rooms.base.metrics.text();
    assert!(shown.contains("madang_kv_remote_connects_total 2"), "{shown}");
}

#[test]
fn a_command_that_broke_off_is_not_sent_again() {
    let mut server = RedisServer::start(RedisKind::Redis, &[]).unwrap();
    let config = Config { reply_wait_max: Duration::from_millis(300), ..remote(server.url()) };
    let rooms = Rooms::open(config).unwrap();
    rooms.until_answered();
    // It takes commands, and answers none for a while.
    server.client().unwrap().done(&["CLIENT", "PAUSE", "5000", "WRITE"]).unwrap();
    let keys = rooms.kv.keys(ONE);
    let error = rooms.runtime.block_on(keys.increment("paused", 1)).unwrap_err();
    assert!(matches!(error, Error::Lost(_)), "{error}");
    let name = format!("madang:{{{ONE}}}:paused");
    let mut client = server.client().unwrap();
    testkit::within(Duration::from_secs(20), "the end of the pause", || {
        let paused = client.text(&["INFO", "clients"])?.contains("blocked_clients:0");
        Ok(paused.then_some(()))
    })
    .unwrap();
    rooms.until_answered();
    let count = client.ask(&["GET", &name]).unwrap();
    assert!(matches!(&count, testkit::Value::Null) || count == testkit::Value::Bulk(b"1".to_vec()));
    server.kill().unwrap();
}

#[test]
fn a_part_of_a_cluster_that_is_away_is_an_error_in_time() {
    let mut cluster = RedisCluster::start(RedisKind::Redis).unwrap();
    let rooms = Rooms::at(cluster.url());
    rooms.until_answered();
    cluster.servers().iter_mut().for_each(|server| server.kill().unwrap());
    let began = now();
    let error = rooms.runtime.block_on(rooms.kv.keys(ONE).get("a")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn passwords_and_certificates_are_asked_for() {
    let server = RedisServer::start(RedisKind::Redis, &["--requirepass", "a secret/"]).unwrap();
    let address = server.url().replace("redis://", "");
    let error = Rooms::open(remote(server.url())).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    let error = Rooms::open(remote(format!("redis://:wrong@{address}"))).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error}");
    Rooms::at(format!("redis://:a%20secret%2F@{address}")).until_answered();

    let (server, certificate) = RedisServer::start_with_tls(RedisKind::Redis).unwrap();
    let trusting = Config { tls_roots: Some(certificate), ..remote(server.url()) };
    let rooms = Rooms::open(trusting).unwrap();
    rooms.until_answered();
    let stranger = Rooms::at(server.url());
    let error = stranger.runtime.block_on(stranger.kv.keys(ONE).get("a")).unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
}

#[test]
fn what_rooms_keep_no_client_reaches_and_it_is_there_after_a_start() {
    let folder = folder();
    let house = House::open(Config::default(), folder.path()).unwrap();
    let keys = house.kv.keys(ONE);
    house.runtime.block_on(async {
        keys.set("secret", "1", None).await.unwrap();
        house.kv.keys(OTHER).set("secret", "2", None).await.unwrap();
        house.kv.command((OTHER, 0), &["SET", "of a client", "3"]).await.unwrap();
    });
    let mut client = house.client();
    client.done(&["SET", "mine", "1"]).unwrap();
    for request in [&["KEYS", "*"][..], &["SCAN", "0", "COUNT", "1000"]] {
        let seen = format!("{:?}", client.ask(request).unwrap());
        assert!(!seen.contains(&format!("{:?}", b"secret")), "{seen}");
    }
    client.done(&["FLUSHALL"]).unwrap();
    drop(client);
    house.close();
    let house = House::open(Config::default(), folder.path()).unwrap();
    house.runtime.block_on(async {
        assert_eq!(house.kv.keys(ONE).get("secret").await.unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(house.kv.keys(OTHER).get("secret").await.unwrap().as_deref(), Some(&b"2"[..]));
        let seen = house.kv.command((OTHER, 0), &["KEYS", "*"]).await.unwrap();
        assert_eq!(seen, Answer::List(vec![text("of a client")]));
    });
    house.close();
}

#[test]
fn rooms_that_ask_too_much_at_once_are_told() {
    let rooms = Rooms::open(Config { requests_max: 2, ..relaxed() }).unwrap();
    let keys = rooms.kv.keys(ONE);
    let (mut done, mut refused) = (0, 0);
    // A quick store may have answered the first before the third asks.
    while refused == 0 && done < 1_000 {
        let (one, two) = (keys.increment("a", 1), keys.increment("a", 1));
        let (three, four) = (keys.increment("a", 1), keys.increment("a", 1));
        let all = rooms.runtime.block_on(async { tokio::join!(one, two, three, four) });
        for one in [all.0, all.1, all.2, all.3] {
            match one {
                Ok(_) => done += 1,
                Err(Error::TooMany { requests_max: 2 }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(refused > 0, "{done} were let in");
    // A place is given back with the answer, which the store may have given and not left yet.
    let sum = loop {
        if let Ok(sum) = rooms.runtime.block_on(keys.increment("a", 0)) {
            break sum;
        }
    };
    assert_eq!(sum, done);
}

#[test]
fn a_command_holds_its_place_although_nobody_waits_for_it() {
    let config = Config {
        requests_max: 2,
        script_busy_after: Duration::ZERO,
        script_time_max: Duration::from_secs(4),
        ..relaxed()
    };
    let folder = folder();
    let house = House::open(config, folder.path()).unwrap();
    let keys = house.kv.keys(ONE);
    let mut busy = house.client();
    busy.send_all(&[vec!["EVAL", "while true do end", "0"]]).unwrap();
    let asked = || {
        house.runtime.block_on(async {
            tokio::time::timeout(Duration::from_millis(20), keys.get("k")).await
        })
    };
    let began = now();
    while !matches!(asked(), Ok(Err(Error::TooMany { requests_max: 2 }))) {
        assert!(
            began.elapsed() < Duration::from_secs(3),
            "those that were given up are not counted"
        );
    }
    assert!(matches!(busy.read(), Ok(Value::Error(_))));
    // Those that were given up are run first.
    while house.runtime.block_on(async { keys.get("k").await }).is_err() {}
    house.close();
}
