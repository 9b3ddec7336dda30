//! Random commands by family, given to two servers whose replies must be equal.

use std::net::SocketAddr;

pub(crate) use testkit::{Resp as Client, Value};

/// Templates of a family. `k` is a key, `v` a value, `n` a whole number, `f` a float, `m` a member, `s` a score edge,
/// `l` a name edge, `t` a moment far away, `id` an entry, `end` an end of a range of them, `gr` a group, `co` a
/// consumer, `el` one of many elements, `lon` and `lat` a place, `rad` a length, `unit` its unit; every other word stands
/// for itself.
pub(crate) const FAMILIES: &[(&str, &[&str])] = &[
    ("strings", STRINGS),
    ("keys", KEYS),
    ("hashes", HASHES),
    ("lists", LISTS),
    ("sets", SETS),
    ("sorted", SORTED),
    ("bitmaps", BITMAPS),
    ("transactions", TRANSACTIONS),
    ("streams", STREAMS),
    ("groups", GROUPS),
    ("hyperloglog", HYPERLOGLOG),
    ("geo", GEO),
];

const STRINGS: &[&str] = &[
    "SET k v",
    "SET k v",
    "SET k v NX",
    "SET k v XX",
    "SET k v GET",
    "SET k v XX GET",
    "SET k v NX GET",
    "SET k v KEEPTTL",
    "SET k v PXAT t",
    "SET k v EXAT 99999999999",
    "SET k v EX 0",
    "SET k v EX n PX n",
    "GET k",
    "GET k",
    "GETSET k v",
    "GETDEL k",
    "GETEX k",
    "GETEX k PERSIST",
    "GETEX k PXAT t",
    "MGET k k k",
    "MSET k v k v",
    "MSET k v k",
    "MSETNX k v k v",
    "SETNX k v",
    "APPEND k v",
    "STRLEN k",
    "SETRANGE k n v",
    "GETRANGE k n n",
    "SUBSTR k n n",
    "INCR k",
    "DECR k",
    "INCRBY k n",
    "DECRBY k n",
    "INCRBYFLOAT kf f",
    "GET kf",
    "SET kf f",
    "LCS k k",
    "LCS k k LEN",
    "LCS k k IDX",
    "LCS k k IDX MINMATCHLEN n WITHMATCHLEN",
    "PEXPIRETIME k",
    "LPUSH k v",
    "SETEX k 0 v",
    "PSETEX k -1 v",
    "SET k n",
];

const KEYS: &[&str] = &[
    "SET k v",
    "SET k v",
    "RPUSH k v v",
    "SADD k m",
    "ZADD k n m",
    "ZADD lex 0 m 0 m",
    "HSET k m v",
    "DEL k k",
    "UNLINK k",
    "EXISTS k k k",
    "TOUCH k k",
    "TYPE k",
    "PEXPIREAT k t",
    "PEXPIREAT k t NX",
    "PEXPIREAT k t XX",
    "PEXPIREAT k t GT",
    "PEXPIREAT k t LT",
    "PEXPIREAT k t NX GT",
    "PEXPIREAT k t GT LT",
    "EXPIREAT k 99999999999",
    "EXPIRE k -1",
    "PEXPIREAT k 1",
    "PEXPIRETIME k",
    "EXPIRETIME k",
    "PERSIST k",
    "TTL nokey",
    "RENAME k k",
    "RENAMENX k k",
    "COPY k k",
    "COPY k k REPLACE",
    "COPY k k DB 1",
    "MOVE k 1",
    "SELECT 0",
    "DBSIZE",
    "KEYS *",
    "KEYS k[1-3]",
    "OBJECT REFCOUNT nokey",
    "EXPIRE k 99999999999999999",
    "EXPIRE k x",
    "EXPIRE k 1 ZZ",
    "SORT k",
    "SORT k ALPHA",
    "SORT k ALPHA DESC LIMIT 0 2",
    "RPUSH lk v",
    "SORT lk BY nosort",
    "SORT k BY w_* GET # GET w_*",
    "SORT k ALPHA STORE k",
    "SORT_RO k ALPHA",
    "SWAPDB 2 3",
    "DUMP nokey",
    "RESTORE k 0 v",
    "RESTORE k 0 v REPLACE",
    "RESTORE k -1 v",
    "RESTORE k x v REPLACE",
    "RESTORE nokey 0 v IDLETIME -1",
    "RESTORE nokey 0 v FREQ 300",
];

const HASHES: &[&str] = &[
    "HSET k m v",
    "HSET k m v m v",
    "HSET k m",
    "HMSET k m v",
    "HSETNX k m v",
    "HGET k m",
    "HMGET k m m m",
    "HDEL k m",
    "HDEL k m m",
    "HLEN k",
    "HSTRLEN k m",
    "HEXISTS k m",
    "HKEYS k",
    "HVALS k",
    "HGETALL k",
    "HINCRBY k m n",
    "HINCRBYFLOAT k fl f",
    "HSCAN k 0 COUNT 1000",
    "HRANDFIELD nokey",
    "HRANDFIELD nokey n",
    "DEL k",
    "SET k v",
    "HSET k m n",
    "TYPE k",
];

const LISTS: &[&str] = &[
    "LPUSH k v",
    "RPUSH k v v v",
    "LPUSH k m m",
    "RPUSH k m m",
    "LPUSHX k v",
    "RPUSHX k v",
    "LPOP k",
    "RPOP k",
    "LPOP k n",
    "RPOP k n",
    "LLEN k",
    "LINDEX k n",
    "LSET k n v",
    "LRANGE k n n",
    "LRANGE k 0 -1",
    "LTRIM k n n",
    "LINSERT k BEFORE m v",
    "LINSERT k AFTER m v",
    "LREM k n m",
    "LPOS k m",
    "LPOS k m COUNT n",
    "LPOS k m RANK n",
    "LPOS k m RANK -1 COUNT 0 MAXLEN n",
    "LMOVE k k LEFT RIGHT",
    "LMOVE k k RIGHT LEFT",
    "RPOPLPUSH k k",
    "LMPOP 2 k k LEFT",
    "LMPOP 2 k k RIGHT COUNT n",
    "LMPOP 0 k LEFT",
    "DEL k",
    "SET k v",
    "LINSERT k MIDDLE m v",
    "BLPOP k k x",
    "BLPOP k -1",
    "MULTI",
    "BLPOP k 0",
    "BLMOVE k k LEFT LEFT 0",
    "EXEC",
];

const SETS: &[&str] = &[
    "SADD k m",
    "SADD k m m m",
    "SADD k n n",
    "SREM k m",
    "SREM k m n",
    "SCARD k",
    "SISMEMBER k m",
    "SMISMEMBER k m m n",
    "SMEMBERS k",
    "SMOVE k k m",
    "SINTER k k",
    "SUNION k k k",
    "SDIFF k k",
    "SINTERSTORE k k k",
    "SUNIONSTORE k k k",
    "SDIFFSTORE k k k",
    "SINTERCARD 2 k k",
    "SINTERCARD 2 k k LIMIT n",
    "SINTERCARD 3 k k",
    "SSCAN k 0 COUNT 1000",
    "SPOP nokey",
    "SPOP nokey n",
    "SRANDMEMBER nokey n",
    "DEL k",
    "SET k v",
    "OBJECT ENCODING k",
];

const SORTED: &[&str] = &[
    "ZADD k n m",
    "ZADD k f m n m",
    "ZADD k NX n m",
    "ZADD k XX n m",
    "ZADD k GT n m",
    "ZADD k LT CH n m",
    "ZADD k CH n m n m",
    "ZADD k INCR n m",
    "ZADD k NX XX n m",
    "ZADD k GT LT n m",
    "ZADD k INCR n m n m",
    "ZADD k inf m",
    "ZADD k x m",
    "ZINCRBY k f m",
    "ZREM k m m",
    "ZCARD k",
    "ZSCORE k m",
    "ZMSCORE k m m",
    "ZRANK k m",
    "ZREVRANK k m",
    "ZRANGE k n n",
    "ZRANGE k 0 -1 WITHSCORES",
    "ZRANGE k n n REV WITHSCORES",
    "ZRANGE k s s BYSCORE",
    "ZRANGE k s s BYSCORE REV LIMIT n n",
    "ZRANGE lex l l BYLEX",
    "ZRANGE k 0 1 LIMIT 0 1",
    "ZRANGESTORE k k n n",
    "ZRANGESTORE k k s s BYSCORE",
    "ZREVRANGE k n n WITHSCORES",
    "ZRANGEBYSCORE k s s WITHSCORES",
    "ZRANGEBYSCORE k s s LIMIT n n",
    "ZREVRANGEBYSCORE k s s",
    "ZRANGEBYLEX lex l l",
    "ZREVRANGEBYLEX lex l l LIMIT n n",
    "ZCOUNT k s s",
    "ZLEXCOUNT lex l l",
    "ZREMRANGEBYRANK k n n",
    "ZREMRANGEBYSCORE k s s",
    "ZREMRANGEBYLEX lex l l",
    "ZPOPMIN k",
    "ZPOPMAX k n",
    "ZMPOP 2 k k MIN",
    "ZMPOP 2 k k MAX COUNT n",
    "ZUNION 2 k k WITHSCORES",
    "ZUNION 2 k k WEIGHTS f n AGGREGATE MAX WITHSCORES",
    "ZINTER 2 k k WITHSCORES",
    "ZDIFF 2 k k WITHSCORES",
    "ZUNIONSTORE k 2 k k",
    "ZINTERSTORE k 2 k k WEIGHTS 2 -3 AGGREGATE MIN",
    "ZDIFFSTORE k 2 k k",
    "ZINTERCARD 2 k k LIMIT n",
    "ZUNION 0 k",
    "ZINTER 9 k k",
    "ZSCAN k 0 COUNT 1000",
    "ZRANDMEMBER nokey n",
    "DEL k",
    "SET k v",
    "SADD k m n",
    "OBJECT ENCODING k",
];

const BITMAPS: &[&str] = &[
    "SETBIT k n 1",
    "SETBIT k n 0",
    "SETBIT k 99 1",
    "SETBIT k n 2",
    "GETBIT k n",
    "BITCOUNT k",
    "BITCOUNT k n n",
    "BITCOUNT k n n BIT",
    "BITCOUNT k 0 -1 BYTE",
    "BITCOUNT k 0",
    "BITPOS k 1",
    "BITPOS k 0",
    "BITPOS k 1 n",
    "BITPOS k 0 n n",
    "BITPOS k 0 n n BIT",
    "BITPOS k 2",
    "BITOP AND k k k",
    "BITOP OR k k k",
    "BITOP XOR k k k k",
    "BITOP NOT k k",
    "BITOP NOT k k k",
    "BITFIELD k GET u8 n",
    "BITFIELD k SET i5 n n",
    "BITFIELD k SET u63 n 9223372036854775807 GET i64 0",
    "BITFIELD k INCRBY u2 n 1",
    "BITFIELD k OVERFLOW SAT INCRBY u2 n 1 GET u4 0",
    "BITFIELD k OVERFLOW FAIL INCRBY i4 #1 n",
    "BITFIELD k GET u64 0",
    "BITFIELD_RO k GET u8 n GET i3 #2",
    "GET k",
    "STRLEN k",
    "SET k v",
    "APPEND k v",
    "DEL k",
    "LPUSH k v",
];

const TRANSACTIONS: &[&str] = &[
    "MULTI",
    "EXEC",
    "EXEC",
    "DISCARD",
    "WATCH k",
    "UNWATCH",
    "SET k v",
    "GET k",
    "INCR k",
    "NOPE",
    "GET",
    "LPUSH k v",
    "DEL k",
    "PUBLISH k v",
    "MULTI",
    "EXEC",
    "ECHO v",
    "PING",
    "SELECT 0",
    "SETNX k v",
];

const STREAMS: &[&str] = &[
    "XADD k 1-* m v",
    "XADD k 2-* m v m v",
    "XADD k 3-* m v",
    "XADD k 3-* m v",
    "XADD k 4-* same 1 other v",
    "XADD k 4-* same 2 other v",
    "XADD k id m v",
    "XADD k id m",
    "XADD k NOMKSTREAM 4-* m v",
    "XADD k MAXLEN n 4-* m v",
    "XADD k MAXLEN = n 4-* m v",
    "XADD k MAXLEN ~ n 4-* m v",
    "XADD k MAXLEN ~ n LIMIT n 4-* m v",
    "XADD k MAXLEN n LIMIT n 4-* m v",
    "XADD k MINID id 4-* m v",
    "XADD k MINID ~ id 4-* m v",
    "XADD k MAXLEN n MINID id 4-* m v",
    "XADD k LIMIT n 4-* m v",
    "XADD k x-* m v",
    "XADD k 18446744073709551615-18446744073709551615 m v",
    "XLEN k",
    "XRANGE k - +",
    "XRANGE k end end",
    "XRANGE k end end COUNT n",
    "XREVRANGE k + -",
    "XREVRANGE k end end COUNT n",
    "XDEL k id",
    "XDEL k id id id",
    "XDEL k 3-1 3-2 4-0",
    "XTRIM k MAXLEN n",
    "XTRIM k MAXLEN ~ n",
    "XTRIM k MAXLEN ~ n LIMIT n",
    "XTRIM k MINID id",
    "XTRIM k MINID = id",
    "XTRIM k LIMIT n",
    "XTRIM k NOPE n",
    "XSETID k id",
    "XSETID k id ENTRIESADDED n",
    "XSETID k 9-9 ENTRIESADDED 300 MAXDELETEDID id",
    "XREAD STREAMS k id",
    "XREAD COUNT n STREAMS k k id id",
    "XREAD STREAMS k $",
    "XREAD STREAMS k >",
    "XREAD STREAMS k k id",
    "XREAD COUNT n k id",
    "XREAD GROUP gr co STREAMS k id",
    "XREAD NOACK STREAMS k id",
    "XREAD BLOCK x STREAMS k id",
    "XREAD BLOCK -1 STREAMS k id",
    "XINFO STREAM k",
    "XINFO STREAM k FULL",
    "XINFO STREAM k FULL COUNT n",
    "XINFO STREAM k FULL NOPE n",
    "COPY k k REPLACE",
    "RENAME k k",
    "OBJECT ENCODING k",
    "TYPE k",
    "DEL k",
    "SET k v",
    "CONFIG SET stream-node-max-entries 3",
    "CONFIG SET stream-node-max-entries 100",
    "CONFIG SET stream-node-max-bytes 300",
    "CONFIG SET stream-node-max-bytes 4096",
];

const GROUPS: &[&str] = &[
    "XADD k 1-* m v",
    "XADD k 2-* m v",
    "XADD k 3-* m v",
    "XADD k 3-* m v",
    "XADD k 3-* m v",
    "XADD k 3-* m v",
    "XDEL k id",
    "XTRIM k MAXLEN n",
    "DEL k",
    "SET k v",
    "XGROUP CREATE k gr $",
    "XGROUP CREATE k gr 0",
    "XGROUP CREATE k gr id MKSTREAM",
    "XGROUP CREATE k gr id ENTRIESREAD n",
    "XGROUP CREATE k gr id NOPE",
    "XGROUP SETID k gr id",
    "XGROUP SETID k gr $ ENTRIESREAD n",
    "XGROUP DESTROY k gr",
    "XGROUP CREATECONSUMER k gr co",
    "XGROUP DELCONSUMER k gr co",
    "XGROUP NOPE k gr",
    "XREADGROUP GROUP gr co STREAMS k >",
    "XREADGROUP GROUP gr co COUNT n STREAMS k >",
    "XREADGROUP GROUP gr co COUNT 1 STREAMS k >",
    "XREADGROUP GROUP gr co COUNT 1 NOACK STREAMS k >",
    "XREADGROUP GROUP gr co STREAMS k 0",
    "XREADGROUP GROUP gr co COUNT n STREAMS k k id >",
    "XREADGROUP GROUP gr co STREAMS k $",
    "XREADGROUP NOACK COUNT 1 STREAMS k >",
    "XACK k gr id",
    "XACK k gr id id id",
    "XPENDING k gr",
    "XPENDING k gr - + n",
    "XPENDING k gr end end 10 co",
    "XPENDING k gr IDLE 1000000 - + 10",
    "XPENDING k gr - +",
    "XCLAIM k gr co 0 id id",
    "XCLAIM k gr co 0 3-0 3-1 3-2 JUSTID",
    "XCLAIM k gr co 99999999 id",
    "XCLAIM k gr co 0 id TIME 1000 RETRYCOUNT n FORCE",
    "XCLAIM k gr co 0 id FORCE JUSTID LASTID id",
    "XCLAIM k gr co x id",
    "XCLAIM k gr co 0 id NOPE",
    "XAUTOCLAIM k gr co 0 end",
    "XAUTOCLAIM k gr co 0 0 COUNT n",
    "XAUTOCLAIM k gr co 0 0 COUNT 2 JUSTID",
    "XAUTOCLAIM k gr co 99999999 0",
    "XINFO STREAM k FULL",
    "XINFO GROUPS k",
    "XINFO CONSUMERS k gr",
    "COPY k k REPLACE",
];

const HYPERLOGLOG: &[&str] = &[
    "PFADD k el",
    "PFADD k el el el el el el el el",
    "PFADD k el el el el el el el el el el el el el el el el el el el el el el el el el el el el el el el el",
    "PFADD k",
    "PFCOUNT k",
    "PFCOUNT k k",
    "PFCOUNT k k k",
    "PFMERGE k k",
    "PFMERGE k k k",
    "PFMERGE k",
    "GET k",
    "STRLEN k",
    "OBJECT ENCODING k",
    "DEL k",
    "SETRANGE bad n v",
    "PFADD bad el",
    "PFCOUNT bad",
    "LPUSH k v",
    "CONFIG SET hll-sparse-max-bytes 200",
    "CONFIG SET hll-sparse-max-bytes 3000",
];

const GEO: &[&str] = &[
    "GEOADD k lon lat m",
    "GEOADD k lon lat el lon lat el",
    "GEOADD k lon lat el lon lat el lon lat el",
    "GEOADD k NX lon lat m",
    "GEOADD k XX CH lon lat m",
    "GEOADD k NX XX lon lat m",
    "GEOADD k lon lat",
    "GEOADD k 200 lat m",
    "GEOPOS k m m",
    "GEODIST k m m",
    "GEODIST k m m unit",
    "GEOHASH k m m",
    "GEOSEARCH k FROMLONLAT lon lat BYRADIUS rad unit",
    "GEOSEARCH k FROMLONLAT lon lat BYRADIUS rad unit ASC WITHDIST WITHHASH WITHCOORD",
    "GEOSEARCH k FROMLONLAT lon lat BYBOX rad rad unit",
    "GEOSEARCH k FROMLONLAT lon lat BYBOX rad rad unit DESC WITHDIST",
    "GEOSEARCH k FROMMEMBER m BYRADIUS rad unit COUNT n ASC",
    "GEOSEARCH k FROMMEMBER m BYRADIUS rad unit COUNT n ANY",
    "GEOSEARCH k FROMMEMBER m BYRADIUS rad unit ANY",
    "GEOSEARCH k FROMMEMBER m BYBOX rad rad unit COUNT 3",
    "GEOSEARCH k FROMMEMBER m FROMLONLAT lon lat BYRADIUS rad unit",
    "GEOSEARCH k FROMMEMBER m BYRADIUS rad unit BYBOX rad rad unit",
    "GEOSEARCH k FROMLONLAT lon lat ASC ASC ASC",
    "GEOSEARCH k BYRADIUS rad unit ASC ASC ASC",
    "GEOSEARCHSTORE k k FROMLONLAT lon lat BYRADIUS rad unit",
    "GEOSEARCHSTORE k k FROMMEMBER m BYBOX rad rad unit STOREDIST",
    "GEOSEARCHSTORE k k FROMMEMBER m BYBOX rad rad unit WITHDIST",
    "GEORADIUS k lon lat rad unit",
    "GEORADIUS k lon lat rad unit WITHDIST ASC",
    "GEORADIUS k lon lat rad unit STORE k",
    "GEORADIUS k lon lat rad unit STOREDIST k COUNT n",
    "GEORADIUS_RO k lon lat rad unit COUNT n",
    "GEORADIUS_RO k lon lat rad unit STORE k",
    "GEORADIUSBYMEMBER k m rad unit",
    "GEORADIUSBYMEMBER k m rad unit STORE k WITHDIST",
    "GEORADIUSBYMEMBER_RO k m rad unit WITHHASH",
    "ZRANGE k 0 -1 WITHSCORES",
    "DEL k",
    "SET k v",
];

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is below a usize")
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

fn word(random: &mut Random, word: &str) -> Vec<u8> {
    let text = match word {
        "k" => format!("k{}", random.below(6)),
        "v" => match random.below(8) {
            0 => return b"a\0b\r\nc".to_vec(),
            1 => String::new(),
            2 => "x".repeat(random.below(200)),
            3 => format!("{}", random.below(1_000)),
            4 => random
                .of(&["3.5", "-7", "1e3", "inf", "9223372036854775807", " 1", "007", "nan"])
                .to_owned(),
            _ => random.of(&["hello", "world", "foo", "bar", "ohmytext", "mynewtext"]).to_owned(),
        },
        "n" => match random.below(6) {
            0 => format!("-{}", 1 + random.below(5)),
            1 => format!("{}", random.below(200)),
            _ => format!("{}", random.below(6)),
        },
        "f" => random.of(&["0.5", "1.25", "-3", "2", "1e2", "0", "-0.75", "3.0e3"]).to_owned(),
        "m" => format!("m{}", random.below(9)),
        "s" => random.of(&["-inf", "+inf", "0", "1", "(1", "3", "(4", "5", "100", "x"]).to_owned(),
        "l" => random.of(&["-", "+", "[m1", "(m3", "[m7", "(m9", "z"]).to_owned(),
        "t" => format!("{}", 4_000_000_000_000 + random.below(1_000)),
        "id" => match random.below(12) {
            0 => random.of(&["0", "0-0", "5", "x", "-", "+", "3-", "1-x"]).to_owned(),
            _ => format!("{}-{}", 1 + random.below(4), random.below(12)),
        },
        "end" => match random.below(8) {
            0 => random.of(&["-", "+", "(", "x", "(-", "18446744073709551616"]).to_owned(),
            1 => format!("{}", random.below(6)),
            2 => format!("({}-{}", 1 + random.below(4), random.below(12)),
            _ => format!("{}-{}", 1 + random.below(4), random.below(12)),
        },
        "gr" => format!("g{}", random.below(2)),
        "co" => format!("c{}", random.below(3)),
        "el" => format!("x{}", random.below(100_000)),
        "lon" => format!("{}", random.below(3_600_000) as f64 / 10_000.0 - 180.0),
        "lat" => format!("{}", random.below(1_720_000) as f64 / 10_000.0 - 86.0),
        "rad" => random.of(&["0", "1", "200", "5000.5", "30000", "1e6", "-1", "x"]).to_owned(),
        "unit" => random.of(&["m", "km", "km", "ft", "mi", "MI", "x"]).to_owned(),
        other => other.to_owned(),
    };
    text.into_bytes()
}

/// One command of a family.
pub(crate) fn command(random: &mut Random, templates: &[&str]) -> Vec<Vec<u8>> {
    let template = templates[random.below(templates.len())];
    let mut command: Vec<Vec<u8>> = template.split(' ').map(|part| word(random, part)).collect();
    // Some are broken on purpose.
    match random.below(60) {
        0 if command.len() > 1 => drop(command.pop()),
        1 => command.push(b"hello".to_vec()),
        2 if command.len() > 2 => command[2] = b"world".to_vec(),
        _ => {}
    }
    // These wait for ever, or close, when they are broken.
    let name = command[0].to_ascii_uppercase();
    if name.starts_with(b"BLPOP") && command.len() < 3 {
        command = vec![b"PING".to_vec()];
    }
    command
}

/// Replies without an order of their own are sorted.
fn settled(command: &[Vec<u8>], value: Value) -> Value {
    let name = String::from_utf8_lossy(&command[0]).to_uppercase();
    let is_loose = matches!(
        name.as_str(),
        "SMEMBERS"
            | "SINTER"
            | "SUNION"
            | "SDIFF"
            | "KEYS"
            | "SSCAN"
            | "HGETALL"
            | "HKEYS"
            | "HVALS"
            | "HSCAN"
    );
    let value = if name.starts_with('X') { without_moments(&name, value) } else { value };
    let sorted = |value| match value {
        Value::Array(mut all) => {
            all.sort();
            Value::Array(all)
        }
        other => other,
    };
    match value {
        Value::Array(parts) if is_loose && name.ends_with("SCAN") => {
            Value::Array(parts.into_iter().map(sorted).collect())
        }
        value if is_loose => sorted(value),
        value => value,
    }
}

/// Replies about streams without what depends on the clock.
fn without_moments(name: &str, value: Value) -> Value {
    let is_pending = name == "XPENDING";
    match value {
        Value::Int(moment) if moment > 1_600_000_000_000 => Value::Int(0),
        Value::Array(parts) => {
            let is_idle = |at: usize, parts: &[Value]| {
                (is_pending && at == 2 && parts.len() == 4 && matches!(parts[1], Value::Bulk(_)))
                    || (at > 0 && parts[at - 1] == Value::Bulk(b"idle".to_vec()))
            };
            let idle: Vec<bool> = (0..parts.len()).map(|at| is_idle(at, &parts)).collect();
            let parts = parts.into_iter().zip(idle);
            Value::Array(
                parts
                    .map(|(part, is_idle)| match part {
                        Value::Int(_) if is_idle => Value::Int(0),
                        part => without_moments(name, part),
                    })
                    .collect(),
            )
        }
        value => value,
    }
}

/// The first parts that differ.
fn narrowed(a: Value, b: Value) -> (Value, Value) {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let mut pairs = a.into_iter().zip(b);
            let found = pairs.find(|(a, b)| a != b);
            found.map_or((Value::Null, Value::Null), |(a, b)| narrowed(a, b))
        }
        other => other,
    }
}

/// Gives both servers the same commands; the first difference is the error.
pub(crate) fn run(
    ours: SocketAddr,
    theirs: SocketAddr,
    (templates, seed, count): (&[&str], u64, usize),
) -> Result<(), String> {
    let text = |error| format!("{error:#}");
    let (mut ours, mut theirs) =
        (Client::connect(ours).map_err(text)?, Client::connect(theirs).map_err(text)?);
    let mut random = Random(seed);
    for client in [&mut ours, &mut theirs] {
        client.ask(&["FLUSHALL"]).map_err(text)?;
    }
    let mut is_queueing = false;
    let mut done = 0;
    while done < count {
        let mut batch: Vec<Vec<Vec<u8>>> = Vec::new();
        for _ in 0..100 {
            let command = command(&mut random, templates);
            // Outside a transaction it would wait.
            let name = command[0].to_ascii_uppercase();
            match &name[..] {
                // A broken MULTI begins nothing.
                b"MULTI" => is_queueing |= command.len() == 1,
                b"EXEC" | b"DISCARD" => is_queueing = false,
                b"BLPOP" | b"BLMOVE"
                    if !is_queueing
                        && !command.last().is_some_and(|last| last == b"x" || last == b"-1") =>
                {
                    continue;
                }
                _ => {}
            }
            batch.push(command);
        }
        ours.send_all(&batch).map_err(text)?;
        theirs.send_all(&batch).map_err(text)?;
        for (at, command) in batch.iter().enumerate() {
            let (a, b) = (ours.read().map_err(text)?, theirs.read().map_err(text)?);
            let (a, b) = (settled(command, a), settled(command, b));
            if a != b {
                let shown: Vec<String> = batch[at.saturating_sub(12)..=at]
                    .iter()
                    .map(|command| {
                        command
                            .iter()
                            .map(|arg| String::from_utf8_lossy(arg).into_owned())
                            .collect::<Vec<_>>()
                            .join(" ")
                    })
                    .collect();
                let (a, b) = narrowed(a, b);
                return Err(format!(
                    "seed {seed}, command {}: ours {a:?}, theirs {b:?}, after\n{}",
                    done + at,
                    shown.join("\n")
                ));
            }
        }
        done += batch.len();
    }
    Ok(())
}
