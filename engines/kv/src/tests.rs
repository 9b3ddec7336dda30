mod chain;
mod durable;
mod failing;
mod families;
mod fields;
mod hostile;
mod in_step;
mod keys;
mod listening;
mod proofs;
mod rights;
mod scripts;
#[path = "../examples/in_step/stream.rs"]
mod stream;
mod tracking;
mod waiting;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use base::Base;
use base::access::{Authority, Principal};
use tempfile::TempDir;
use testkit::Anybody;
use tokio::runtime::Runtime;

use crate::engine::{Engine, Gate, Turn};
use crate::session::Token;
use crate::settings::Settings;
use crate::wire::request::Args;
use crate::{Config, Durability, Error, Kv};
use stream::{Client, Value};

/// A command with this argument panics when it has run.
const PANIC: &str = "this argument makes a command panic";

pub(crate) fn panic_if_asked(args: Args<'_>) {
    assert!(!args.iter().any(|arg| arg == PANIC.as_bytes()), "it was asked for");
}

/// The engine alone, with a clock that a test moves.
struct Desk {
    engine: Engine,
    now: i64,
}

impl Desk {
    fn new() -> Self {
        Self::with(
            &Config::default(),
            Gate { authority: Arc::new(Anybody::default()), anonymous: Some(Anybody::principal()) },
        )
    }

    fn with(config: &Config, gate: Gate) -> Self {
        let now = 1_700_000_000_000;
        Self { engine: Engine::new([7; 16], 1, gate, Settings::new(config), now), now }
    }

    fn join(&mut self) -> Token {
        self.engine.connect("test".into(), self.now).unwrap()
    }

    /// Gives one client a line and takes what came for it.
    fn ask(&mut self, client: Token, line: &str) -> String {
        self.give(client, format!("{line}\r\n").as_bytes());
        self.take(client)
    }

    fn give(&mut self, client: Token, bytes: &[u8]) {
        let turn =
            Turn { now: self.now, micros: self.now * 1_000, watch: &|| 0, aside: &|_, _| () };
        self.engine.input(client, bytes, &turn);
        while let Some(token) = self.engine.runnable.pop() {
            self.engine.input(token, b"", &turn);
        }
    }

    fn take(&mut self, client: Token) -> String {
        let Some(session) = self.engine.sessions[client].as_mut() else { return "gone".into() };
        session.is_listed = false;
        if std::mem::take(&mut session.is_full) {
            self.engine.runnable.push(client);
        }
        String::from_utf8_lossy(&std::mem::take(&mut session.out.bytes))
            .replace("\r\n", " ")
            .trim()
            .to_owned()
    }

    fn check(&mut self, client: Token, pairs: &[(&str, &str)]) {
        for (line, expected) in pairs {
            assert_eq!(self.ask(client, line), *expected, "{line}");
        }
    }
}

/// A store with its thread and a port.
struct House {
    // Dropped in this order: the store before its folder.
    runtime: Runtime,
    base: Base,
    kv: Kv,
    address: SocketAddr,
}

impl House {
    fn open(config: Config, folder: &Path) -> Result<Self, Error> {
        Self::with(config, folder, Arc::new(Anybody::default()), Some(Anybody::principal()))
    }

    fn with(
        config: Config,
        folder: &Path,
        authority: Arc<dyn Authority>,
        anonymous: Option<Principal>,
    ) -> Result<Self, Error> {
        let runtime = Runtime::new().unwrap();
        let base = Base::system();
        let kv = runtime.block_on(Kv::open(config, &base, folder, authority, anonymous))?;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = kv.clone();
        let entered = runtime.enter();
        base.tasks.spawn("kv", async move { server.serve(listener).await });
        drop(entered);
        Ok(Self { runtime, base, kv, address })
    }

    fn client(&self) -> Client {
        Client::connect(self.address).unwrap()
    }

    fn close(self) {
        self.runtime.block_on(self.kv.close()).unwrap();
        drop(self.base);
    }
}

fn relaxed() -> Config {
    Config { durability: Durability::Off, ..Config::default() }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn bulk(text: &str) -> Value {
    Value::Bulk(text.as_bytes().to_vec())
}

fn ok() -> Value {
    Value::Simple("OK".into())
}

#[test]
fn the_defects_of_the_first_store_are_not_here() {
    let mut desk = Desk::new();
    let client = desk.join();
    desk.check(
        client,
        &[
            ("GET missing", "$-1"),
            ("set a 1 ex 100", "+OK"),
            ("SET a 2 KEEPTTL", "+OK"),
            ("TTL a", ":100"),
            ("SET", "-ERR wrong number of arguments for 'set' command"),
            ("SET a", "-ERR wrong number of arguments for 'set' command"),
            ("SET a 1 EX", "-ERR syntax error"),
            ("SADD s x", ":1"),
            ("KEYS a", "*1 $1 a"),
            ("KEYS a.*", "*0"),
        ],
    );
    desk.give(
        client,
        b"*3\r\n$3\r\nSET\r\n$4\r\nk\r\nz\r\n$3\r\n\0\r\n\r\n*2\r\n$3\r\nGET\r\n$4\r\nk\r\nz\r\n",
    );
    let session = desk.engine.sessions[client].as_mut().unwrap();
    assert_eq!(session.out.bytes, b"+OK\r\n$3\r\n\0\r\n\r\n");
}

#[test]
fn where_the_server_listens_is_not_changed_by_clients() {
    let mut desk = Desk::new();
    let client = desk.join();
    for name in ["bind", "port"] {
        assert_eq!(desk.ask(client, &format!("CONFIG SET {name} \"\"")), "+OK");
        let told = desk.ask(client, &format!("CONFIG SET {name} 1"));
        assert!(told.starts_with("-ERR CONFIG SET failed (possibly related to"), "{told}");
    }
}

#[test]
fn a_scan_gives_every_key_that_is_there_all_the_time() {
    let mut desk = Desk::new();
    let client = desk.join();
    for number in 0..3_000 {
        desk.ask(client, &format!("SET key:{number} {number}"));
    }
    let (mut cursor, mut seen, mut added) = ("0".to_owned(), std::collections::HashSet::new(), 0);
    loop {
        let reply = desk.ask(client, &format!("SCAN {cursor} COUNT 20"));
        let words: Vec<&str> = reply.split(' ').collect();
        seen.extend(
            words.iter().filter(|word| word.starts_with("key:")).map(|word| (*word).to_owned()),
        );
        cursor = words[2].to_owned();
        if cursor == "0" {
            break;
        }
        for _ in 0..30 {
            added += 1;
            desk.ask(client, &format!("SET other:{added} 1"));
            desk.ask(client, &format!("DEL other:{}", added - 50));
        }
    }
    assert_eq!(seen.len(), 3_000);
}

#[test]
fn memory_stays_below_its_limit_and_what_was_used_stays() {
    let mut desk = Desk::new();
    let client = desk.join();
    desk.check(
        client,
        &[
            ("CONFIG SET maxmemory 2mb maxmemory-policy allkeys-lru", "+OK"),
            ("SET precious 1", "+OK"),
        ],
    );
    let value = "x".repeat(500);
    for number in 0..10_000 {
        desk.now += 1_000;
        desk.engine.store.stamp = (desk.now / 1_000) as u32 & 0x00ff_ffff;
        assert_eq!(desk.ask(client, &format!("SET filler:{number} {value}")), "+OK");
        if number % 20 == 0 {
            assert_eq!(desk.ask(client, "GET precious"), "$1 1", "at {number}");
        }
    }
    assert!(desk.engine.memory_used() <= (2 << 20) + 4_096, "{}", desk.engine.memory_used());
    assert!(desk.engine.stats.evicted > 5_000);
    desk.check(
        client,
        &[
            ("CONFIG SET maxmemory-policy noeviction maxmemory 1mb", "+OK"),
            ("SET more 1", "-OOM command not allowed when used memory > 'maxmemory'."),
            ("GET precious", "$1 1"),
            ("DEL precious", ":1"),
        ],
    );
}

#[test]
fn the_account_of_memory_comes_back_to_where_it_was() {
    let mut desk = Desk::new();
    let client = desk.join();
    desk.ask(client, "SET first 1");
    let before = desk.engine.store.used_bytes();
    for round in 0..200 {
        desk.ask(client, &format!("SET s{round} {}", "y".repeat(round * 40)));
        desk.ask(client, &format!("APPEND s{round} {}", "z".repeat(round)));
        desk.ask(client, &format!("HSET h{round} a 1 b {}", "2".repeat(round)));
        desk.ask(client, &format!("RPUSH l{round} 1 2 3"));
        desk.ask(client, &format!("SADD set{round} 1 b c"));
        desk.ask(client, &format!("ZADD z{round} 1 a 2 b"));
        desk.ask(client, &format!("XADD x{round} * a {}", "3".repeat(round * 30)));
        desk.ask(client, &format!("XGROUP CREATE x{round} g 0"));
        desk.ask(client, &format!("XREADGROUP GROUP g c STREAMS x{round} >"));
        desk.ask(client, &format!("PEXPIREAT h{round} 9999999999999"));
        desk.ask(client, &format!("COPY z{round} zz{round}"));
    }
    assert!(desk.engine.store.used_bytes() > before + 100_000);
    for round in 0..200 {
        desk.ask(
            client,
            &format!("DEL s{round} h{round} l{round} set{round} z{round} zz{round} x{round}"),
        );
    }
    // The table keeps its slots.
    assert!(
        desk.engine.store.used_bytes() <= before + 40_000,
        "{}",
        desk.engine.store.used_bytes() - before
    );
    desk.ask(client, "FLUSHALL");
    assert!(desk.engine.store.used_bytes() <= before);
}

#[test]
fn clients_for_whom_most_waits_go_when_all_together_are_over_their_part() {
    let folder = folder();
    let house = House::open(relaxed(), folder.path()).unwrap();
    let (mut one, mut other) = (house.client(), house.client());
    assert_eq!(other.ask(&["CONFIG", "SET", "maxmemory-clients", "1mb"]).unwrap(), ok());
    one.done(&["MULTI"]).unwrap();
    let large = "x".repeat(2 << 20);
    one.done(&["SET", "a", &large]).unwrap();
    testkit::within(std::time::Duration::from_secs(20), "the end of the greedy one", || {
        Ok(one.ask(&["PING"]).is_err().then_some(()))
    })
    .unwrap();
    assert!(other.text(&["INFO", "stats"]).unwrap().contains("evicted_clients:1"));
    for (value, said) in [
        ("101%", "percentage argument must be less or equal to 100"),
        ("x%", "argument must be a memory or percent value"),
    ] {
        let error = other.ask(&["CONFIG", "SET", "maxmemory-clients", value]).unwrap();
        assert!(matches!(error, Value::Error(text) if text.ends_with(said)));
    }
    assert_eq!(other.ask(&["CONFIG", "SET", "maxmemory-clients", "5%"]).unwrap(), ok());
    let shown = other.ask(&["CONFIG", "GET", "maxmemory-clients"]).unwrap();
    assert_eq!(shown, Value::Array(vec![bulk("maxmemory-clients"), bulk("5%")]));
}

#[test]
fn large_values_that_are_unlinked_are_freed_by_another_thread_and_counted() {
    let folder = folder();
    let house = House::open(relaxed(), folder.path()).unwrap();
    let mut client = house.client();
    let field = |client: &mut Client, name: &str| {
        let info = client.text(&["INFO"]).unwrap();
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    let fill = |client: &mut Client| {
        for number in 0..100 {
            client.done(&["RPUSH", "large", &number.to_string()]).unwrap();
            client.done(&["RPUSH", &format!("small {}", number % 30), "1"]).unwrap();
        }
    };
    let empty = field(&mut client, "used_memory");
    for (request, freed) in
        [(&["DEL", "large"][..], 0), (&["UNLINK", "large"], 1), (&["UNLINK", "none", "small 0"], 1)]
    {
        fill(&mut client);
        client.done(request).unwrap();
        testkit::within(std::time::Duration::from_secs(20), "the other thread", || {
            Ok((field(&mut client, "lazyfree_pending_objects") == 0).then_some(()))
        })
        .unwrap();
        assert_eq!(field(&mut client, "lazyfreed_objects"), freed, "{request:?}");
    }
    client.done(&["FLUSHALL", "ASYNC"]).unwrap();
    assert!(field(&mut client, "used_memory") <= empty + 1_000);
    client.done(&["CONFIG", "RESETSTAT"]).unwrap();
    assert_eq!(field(&mut client, "lazyfreed_objects"), 0);
}

#[test]
fn latency_knows_what_took_long_and_how_long_commands_take() {
    let mut desk = Desk::new();
    let client = desk.join();
    desk.check(
        client,
        &[
            ("CONFIG RESETSTAT", "+OK"),
            ("SET a 1", "+OK"),
            ("SET a 2", "+OK"),
            (
                "LATENCY HISTOGRAM set nothing",
                "*2 $3 set *4 $5 calls :2 $14 histogram_usec *2 :1 :1",
            ),
            ("LATENCY HISTOGRAM nothing", "*0"),
            ("LATENCY LATEST", "*0"),
            ("LATENCY RESET", ":0"),
            ("CONFIG SET latency-monitor-threshold 10", "+OK"),
            ("CONFIG GET key-load-delay", "*2 $14 key-load-delay $1 0"),
        ],
    );
    let now = desk.now;
    desk.engine.note_latency("command", now, 9_999);
    desk.engine.note_latency("command", now, 10_000);
    let second = now / 1_000;
    desk.check(
        client,
        &[
            ("LATENCY LATEST", &format!("*1 *4 $7 command :{second} :10 :10")),
            ("LATENCY HISTORY command", &format!("*1 *2 :{second} :10")),
            ("LATENCY HISTORY other", "*0"),
            ("LATENCY RESET other", ":0"),
            ("LATENCY RESET command", ":1"),
        ],
    );
    assert!(!desk.ask(client, "CONFIG GET *").contains("key-load-delay"));
    assert!(desk.ask(client, "LATENCY DOCTOR").contains("Nothing took long."));
}
