//! redis-rs: both protocols, pipelines, transactions that watch, scripts, publish and subscribe, streams.

use std::error::Error;
use std::fmt::Debug;

use redis::{Client, Commands, Connection, ErrorKind, Script, pipe, transaction};

type Done = Result<(), Box<dyn Error>>;

struct Checks(usize);

impl Checks {
    fn same<T: PartialEq + Debug>(&mut self, found: T, expected: T) {
        assert_eq!(found, expected);
        self.0 += 1;
    }
}

fn main() -> Done {
    let (host, port) = (std::env::var("HOST")?, std::env::var("PORT")?);
    let mut checks = Checks(0);
    for protocol in ["resp2", "resp3"] {
        let client = Client::open(format!("redis://{host}:{port}/?protocol={protocol}"))?;
        let mut connection = client.get_connection()?;
        redis::cmd("FLUSHALL").exec(&mut connection)?;
        values(&mut connection, &mut checks)?;
        together(&mut connection, &mut checks)?;
        listening(&client, &mut connection, &mut checks)?;
    }
    println!("ok {} checks", checks.0);
    Ok(())
}

fn values(connection: &mut Connection, checks: &mut Checks) -> Done {
    connection.set::<_, _, ()>("k", "v")?;
    checks.same(connection.get::<_, Option<String>>("k")?, Some("v".to_owned()));
    checks.same(connection.get::<_, Option<String>>("none")?, None);
    let binary = vec![0u8, 13, 10, 255];
    connection.set::<_, _, ()>(&binary, &binary)?;
    checks.same(connection.get::<_, Vec<u8>>(&binary)?, binary);
    connection.hset_multiple::<_, _, _, ()>("h", &[("a", 1), ("b", 2)])?;
    let hash: std::collections::BTreeMap<String, i64> = connection.hgetall("h")?;
    checks.same(hash, [("a".to_owned(), 1), ("b".to_owned(), 2)].into());
    connection.zadd_multiple::<_, _, _, ()>("z", &[(1.5, "a"), (2.0, "b")])?;
    let ranked: Vec<(String, f64)> = connection.zrange_withscores("z", 0, -1)?;
    checks.same(ranked, vec![("a".to_owned(), 1.5), ("b".to_owned(), 2.0)]);
    checks.same(connection.rpush::<_, _, i64>("l", &["a", "b"])?, 2);
    checks.same(connection.lrange::<_, Vec<String>>("l", 0, -1)?, vec!["a".into(), "b".into()]);
    let wrong = connection.incr::<_, _, i64>("h", 1).expect_err("a hash was counted");
    checks.same(wrong.code(), Some("WRONGTYPE"));
    let id: String = redis::cmd("XADD").arg("s").arg("1-1").arg("f").arg("v").query(connection)?;
    checks.same(id, "1-1".to_owned());
    checks.same(connection.xlen::<_, usize>("s")?, 1);
    let _: ErrorKind = wrong.kind();
    Ok(())
}

fn together(connection: &mut Connection, checks: &mut Checks) -> Done {
    let piped: (i64, String) =
        pipe().set("p", 1).ignore().incr("p", 1).get("p").query(connection)?;
    checks.same(piped, (2, "2".to_owned()));
    let atomic: (i64,) = pipe().atomic().incr("p", 5).query(connection)?;
    checks.same(atomic, (7,));
    let (watched,): (i64,) = transaction(connection, &["p"], |connection, pipe| {
        let old: i64 = connection.get("p")?;
        pipe.set("p", old * 2).ignore().get("p").query(connection)
    })?;
    checks.same(watched, 14);
    let script = Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    checks.same(script.key("p").arg(6).invoke::<i64>(connection)?, 20);
    checks.same(script.key("p").arg(1).invoke::<i64>(connection)?, 21);
    Ok(())
}

fn listening(client: &Client, connection: &mut Connection, checks: &mut Checks) -> Done {
    let mut other = client.get_connection()?;
    let mut listener = other.as_pubsub();
    listener.subscribe("news")?;
    checks.same(connection.publish::<_, _, i64>("news", "hello")?, 1);
    checks.same(listener.get_message()?.get_payload::<String>()?, "hello".to_owned());
    Ok(())
}
