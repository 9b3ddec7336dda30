//! Random commands by family, given to two servers whose replies must be equal.

use std::fmt::Write;
use std::net::SocketAddr;

use sha1::{Digest, Sha1};
pub(crate) use testkit::{Resp as Client, Value};

/// Templates of a family. `k` is a key, `v` a value, `n` a whole number, `f` a float, `m` a member, `s` a score edge,
/// `l` a name edge, `t` a moment far away, `id` an entry, `end` an end of a range of them, `gr` a group, `co` a
/// consumer, `el` one of many elements, `lon` and `lat` a place, `rad` a length, `unit` its unit, `sc` a script, `sha` its
/// name, `ch` a channel, `pat` a pattern of channels; every other word stands for itself.
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
    ("scripts", SCRIPTS),
    (LISTENING_FAMILY, LISTENING),
];

/// What is told of it comes between replies.
const LISTENING_FAMILY: &str = "pubsub";

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
    "PEXPIREAT k 1 ZZ",
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

const SCRIPTS: &[&str] = &[
    "EVAL sc 1 k v",
    "EVAL sc 1 k v",
    "EVAL sc 1 k n",
    "EVAL sc 2 k k v v",
    "EVAL sc 0",
    "EVAL sc n k v",
    "EVAL_RO sc 1 k v",
    "EVALSHA sha 1 k v",
    "EVALSHA sha 1 k n",
    "EVALSHA_RO sha 1 k v",
    "SCRIPT EXISTS sha sha",
    "SCRIPT LOAD sc",
    "SCRIPT FLUSH",
    "GET k",
    "SET k n",
    "DEL k k",
    "TYPE k",
    "RPUSH k v v",
    "MULTI",
    "EXEC",
    "EXEC",
];

const SCRIPT_TEXTS: &[&str] = &[
    "return redis.call('SET', KEYS[1], ARGV[1])",
    "return redis.call('GET', KEYS[1])",
    "return redis.call('INCRBY', KEYS[1], ARGV[1])",
    "return redis.pcall('INCRBY', KEYS[1], ARGV[1])",
    "return redis.pcall('INCRBY', KEYS[1], ARGV[1]).err or 'none'",
    "return {1, 2.9, 'x', true, false, {KEYS[1], ARGV[1]}, nil, 4}",
    "local t = redis.call('LRANGE', KEYS[1], 0, -1) table.sort(t) return t",
    "redis.call('RPUSH', KEYS[1], ARGV[1]) return redis.call('LLEN', KEYS[1])",
    "redis.call('SET', KEYS[1], 1) redis.call('LPUSH', KEYS[1], 1)",
    "return redis.error_reply('MY ' .. ARGV[1])",
    "return redis.status_reply(ARGV[1])",
    "return {err = ARGV[1]}",
    "return {ok = KEYS[1]}",
    "return tostring(tonumber(ARGV[1]))",
    "return cjson.encode({KEYS[1], ARGV[1], 1.5, true})",
    "return cjson.decode('[1,{\"a\":[2,3]},\"x\"]')[2].a",
    "return cjson.decode(ARGV[1])",
    "return #ARGV .. ':' .. #KEYS",
    "return redis.sha1hex(ARGV[1])",
    "return {string.byte(ARGV[1], 1, -1)}",
    "return {string.find(ARGV[1], '(l+)(.?)')}",
    "return {ARGV[1]:gsub('%w', '<%0>')}",
    "return {('key=val, k2 = v2'):gsub('(%w+)%s*=%s*(%w+)', '%2=%1')}",
    "local t = {} for k, v in (ARGV[1] .. ' a=1 b=2'):gmatch('(%w+)=(%w+)') do t[#t + 1] = k .. v end return t",
    "return {('hello world'):gsub('o', {o = '0'}), (('abc'):gsub('%w', function(c) return c:upper() .. ARGV[1] end))}",
    "return {(ARGV[1]):find('[%a_][%w_]*'), ('THE (quick) fox'):find('%((%a+)%)')}",
    "return {('x = [[a]] y'):match('%[(%b[])%]'), ('THE (quick) fox'):gsub('%f[%a]%a+', '<%0>')}",
    "return {(ARGV[1]):gsub('', '-')}",
    "return {('abc'):find('b', -1), ('abc'):find('', 10), ('a.b'):find('.', 1, true), ('aXb'):match('()X()')}",
    "return {ARGV[1]:match('^(.-)(%d*)$')}",
    "return {ARGV[1]:gsub('[^%l\\n]+', '.')}",
    "return {('aaa'):gsub('a', 'b', 2), (('abab'):gsub('(a)(b)%1', '%2'))}",
    "return ('x'):find('[a')",
    "return ('x'):find('%')",
    "return ('xxx'):gsub('x', '%2')",
    "return ('abc'):match('((a)(b)', 1)",
    "return string.find(nil, 'x')",
    "return ('x'):gsub('x', true)",
    "local s = ('x'):gsub('x', function() return {} end) return s",
    "local n = 0 for i = 1, 100 do n = n + i end return n / 7",
    "return redis.call('NOPE', KEYS[1])",
    "return redis.call('GET')",
    "return redis.call()",
    "return redis.call('SUBSCRIBE', 'x')",
    "return undefined_global",
    "new_global = 1",
    "error('boom')",
    "error({err = 'MINE own'})",
    "local ok, e = pcall(redis.call, 'GET') return {ok, type(e)}",
    "return 'not closed",
    "return redis.call('ZADD', KEYS[1], ARGV[1], 'm')",
    "return redis.call('ZADD', KEYS[1], 'NX', 3, ARGV[1], 4, 'b')",
    "return redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')",
    "return redis.call('DEL', KEYS[1], KEYS[2])",
    "return {bit.band(255, 15), bit.lshift(1, 4), bit.tohex(255)}",
    "return {struct.unpack('>I2bs', struct.pack('>I2bs', 258, -3, ARGV[1] or ''))}",
    "return cmsgpack.unpack(cmsgpack.pack({1, 'two', {3}, ARGV[1]}))",
    "#!lua flags=no-writes\nreturn redis.call('SET', KEYS[1], 1)",
    "#!lua flags=no-writes\nreturn redis.call('GET', KEYS[1])",
    "#!lua flags=nope\nreturn 1",
    "redis.setresp(3) return redis.call('ZSCORE', KEYS[1], 'm')",
    "return redis.call('TYPE', KEYS[1]).ok",
    "return {double = 3.5}",
    "return ({1, 2, 3})[tonumber(ARGV[1]) or 1]",
];

const LISTENING: &[&str] = &[
    "SUBSCRIBE ch",
    "SUBSCRIBE ch ch",
    "UNSUBSCRIBE ch",
    "PSUBSCRIBE pat",
    "PUNSUBSCRIBE pat",
    "SSUBSCRIBE ch",
    "SUNSUBSCRIBE ch",
    "PUBLISH ch v",
    "PUBLISH ch v",
    "PUBLISH ch v",
    "SPUBLISH ch v",
    "PUBSUB CHANNELS",
    "PUBSUB CHANNELS pat",
    "PUBSUB NUMSUB ch ch",
    "PUBSUB NUMPAT",
    "PUBSUB SHARDCHANNELS",
    "PUBSUB SHARDNUMSUB ch",
    "PUBSUB NOPE",
    "PING",
    "PING v",
    "SET k v",
    "GET k",
    "MULTI",
    "EXEC",
    "EXEC",
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
        "sc" => random.of(SCRIPT_TEXTS).to_owned(),
        "sha" => {
            let digest = Sha1::digest(random.of(SCRIPT_TEXTS).as_bytes());
            digest.iter().fold(String::new(), |mut text, byte| {
                write!(text, "{byte:02x}").expect("writing to a string");
                text
            })
        }
        "ch" => format!("ch{}", random.below(4)),
        "pat" => random.of(&["*", "ch*", "ch[12]", "?h3", "none"]).to_owned(),
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
    // What is left at once is left in no order.
    if name.ends_with(b"UNSUBSCRIBE") && command.len() < 2 {
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
    // Redis shares small numbers, and says so.
    if name == "OBJECT" && value == Value::Int(i64::from(i32::MAX)) {
        return Value::Int(1);
    }
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

/// The first parts that differ, and what stands before them.
fn narrowed(a: Value, b: Value, within: &mut String) -> (Value, Value) {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let at = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            match at.checked_sub(1).map(|before| &a[before]) {
                Some(Value::Bulk(name)) => {
                    write!(within, " {at} after {}", String::from_utf8_lossy(name))
                }
                _ => write!(within, " {at}"),
            }
            .expect("writing to a string");
            let found = a.into_iter().zip(b).nth(at);
            found.map_or((Value::Null, Value::Null), |(a, b)| narrowed(a, b, within))
        }
        other => other,
    }
}

/// Gives both servers the same commands; the first difference is the error.
pub(crate) fn run(
    ours: SocketAddr,
    theirs: SocketAddr,
    (family, templates, seed, count): (&str, &[&str], u64, usize),
) -> Result<(), String> {
    if family == LISTENING_FAMILY {
        return run_listening(ours, theirs, (templates, seed, count));
    }
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
                let mut within = String::new();
                let (a, b) = narrowed(a, b, &mut within);
                return Err(format!(
                    "seed {seed}, command {}: at{within} ours {a:?}, theirs {b:?}, after\n{}",
                    done + at,
                    shown.join("\n")
                ));
            }
        }
        done += batch.len();
    }
    Ok(())
}

/// As [`run`], where a command is answered by as many messages as it likes: a PING at the end of each batch says that all
/// have come. Every other seed speaks RESP3, where a listener also publishes: what it is told of its own messages stands
/// before the reply in Redis 7.0, also within that of EXEC, and behind it here as since Redis 7.2.
fn run_listening(
    ours: SocketAddr,
    theirs: SocketAddr,
    (templates, seed, count): (&[&str], u64, usize),
) -> Result<(), String> {
    let text = |error| format!("{error:#}");
    let is_resp3 = seed.is_multiple_of(2);
    let mut clients =
        [Client::connect(ours).map_err(text)?, Client::connect(theirs).map_err(text)?];
    for client in &mut clients {
        client.ask(&["FLUSHALL"]).map_err(text)?;
        if is_resp3 {
            client.done(&["HELLO", "3"]).map_err(text)?;
        }
    }
    let mut random = Random(seed);
    let mut done = 0;
    while done < count {
        let mut batch: Vec<Vec<Vec<u8>>> =
            (0..100).map(|_| command(&mut random, templates)).collect();
        if is_resp3 {
            batch.retain(|command| command[0] != b"MULTI");
        }
        done += batch.len();
        let mark = format!("mark {done}").into_bytes();
        // Within a transaction PING would only be queued.
        batch.push(vec![b"EXEC".to_vec()]);
        batch.push(vec![b"PING".to_vec(), mark.clone()]);
        for client in &mut clients {
            client.send_all(&batch).map_err(text)?;
        }
        let [ours, theirs] = &mut clients;
        let came = [told_until(ours, &mark)?, told_until(theirs, &mark)?];
        if came[0] != came[1] {
            let [a, b] = came.map(Value::Array);
            let mut within = String::new();
            let (a, b) = narrowed(a, b, &mut within);
            let shown: Vec<String> = batch
                .iter()
                .map(|command| String::from_utf8_lossy(&command.join(&b' ')).into_owned())
                .collect();
            return Err(format!(
                "seed {seed}, in the batch before {done}: at{within} ours {a:?}, theirs {b:?}, after\n{}",
                shown.join("\n")
            ));
        }
    }
    Ok(())
}

/// All that comes up to the answer to the PING. Lists of channels have no order of their own, nor have the patterns by which
/// a message comes.
fn told_until(client: &mut Client, mark: &[u8]) -> Result<Vec<Value>, String> {
    let is_of = |value: &Value, word: &str| matches!(value, Value::Array(parts) if parts.first() == Some(&Value::Bulk(word.into())));
    let (mut came, mut told): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    loop {
        let mut value = client.read().map_err(|error| format!("{error:#}"))?;
        let is_message = ["message", "pmessage", "smessage"].iter().any(|word| is_of(&value, word));
        let is_last = match &mut value {
            Value::Bulk(bytes) => bytes == mark,
            Value::Array(parts) => {
                let is_last = parts.last() == Some(&Value::Bulk(mark.to_vec()));
                let is_list = parts.iter().all(|part| matches!(part, Value::Bulk(_)));
                if is_list && !is_message && !is_last {
                    parts.sort();
                }
                is_last
            }
            _ => false,
        };
        if is_message {
            told.push(value);
            continue;
        }
        came.push(value);
        if is_last {
            told.sort();
            came.append(&mut told);
            return Ok(came);
        }
    }
}
