//! What commands do to their keys, in the words of Redis's key specifications.

use crate::wire::request::Args;

/// The words for the first key, the second and so on, and the commands; the last words are for all further keys.
const FLAGS: &[(&[&str], &str)] = &[
    (&["not_key"], "spublish ssubscribe sunsubscribe"),
    (&["OW insert"], "msetnx setnx"),
    (&["OW update"], "mset psetex restore setex"),
    (
        &["OW update", "RO access"],
        "bitop geosearchstore sdiffstore sunionstore zdiffstore zinterstore zrangestore zunionstore",
    ),
    (&["RM delete"], "del unlink"),
    (
        &["RO"],
        "exists hexists hlen hstrlen llen memory|usage object|encoding object|freq object|idletime object|refcount scard sismember strlen touch type watch xlen zcard",
    ),
    (
        &["RO access"],
        "bitcount bitfield_ro bitpos dump eval_ro evalsha_ro expiretime fcall_ro geodist geohash geopos georadius_ro georadiusbymember_ro geosearch get getbit getrange hexpiretime hget hgetall hkeys hmget hpexpiretime hpttl hrandfield hscan httl hvals lcs lindex lpos lrange mget pexpiretime pttl sdiff sinter sintercard smembers smismember srandmember sscan substr sunion ttl xinfo|consumers xinfo|groups xinfo|stream xpending xrange xread xreadgroup xrevrange zcount zdiff zinter zintercard zlexcount zmscore zrandmember zrange zrangebylex zrangebyscore zrank zrevrange zrevrangebylex zrevrangebyscore zrevrank zscan zscore zunion",
    ),
    (&["RO access", "OW update"], "copy"),
    (&["RO access", "OW update", "OW update"], "georadius georadiusbymember"),
    (&["RO access", "RO access"], "sort_ro"),
    (&["RO access", "OW update"], "sort"),
    (&["RW access"], "pfcount"),
    (
        &["RW access delete"],
        "blmpop blpop brpop bzmpop bzpopmax bzpopmin getdel lmpop lpop rpop spop zmpop zpopmax zpopmin",
    ),
    (&["RW access delete", "OW insert"], "renamenx"),
    (&["RW access delete", "OW update"], "rename"),
    (&["RW access delete", "RW insert"], "blmove brpoplpush lmove rpoplpush smove"),
    (&["RW access insert", "RO access"], "pfmerge"),
    (
        &["RW access update"],
        "decr decrby eval evalsha fcall getex getset hincrby hincrbyfloat incr incrby incrbyfloat move setbit zincrby",
    ),
    (&["RW access update"], "set"),
    (
        &["RW delete"],
        "hdel lrem ltrim srem xautoclaim xdel xgroup|delconsumer xgroup|destroy xtrim zrem zremrangebylex zremrangebyrank zremrangebyscore",
    ),
    (
        &["RW insert"],
        "append hsetnx linsert lpush lpushx pfadd rpush rpushx sadd xgroup|create xgroup|createconsumer",
    ),
    (
        &["RW update"],
        "expire expireat geoadd hexpire hexpireat hmset hpersist hpexpire hpexpireat hset lset persist pexpire pexpireat setrange xack xadd xclaim xgroup|setid xsetid zadd",
    ),
    (&["RW update access"], "bitfield"),
    (&["RW update", "RO access"], "sinterstore"),
];

/// What a command does to its keys, one after the other.
pub(crate) fn flags(name: &str, args: Args<'_>) -> impl Fn(usize) -> Vec<&'static str> {
    let has = |word: &str| (2..args.len()).any(|at| args.is(at, word));
    // What two do depends on their options, as if they were others.
    let name = match name {
        "set" if !has("GET") => "psetex",
        "bitfield" if !has("SET") && !has("INCRBY") => "bitfield_ro",
        name => name,
    };
    let known = FLAGS.iter().find(|(_, names)| names.split(' ').any(|known| known == name));
    let words: &[&str] = known.map_or(&[], |(words, _)| words);
    move |at| {
        let words = words.get(at).or_else(|| words.last()).copied().unwrap_or_default();
        words.split(' ').filter(|word| !word.is_empty()).collect()
    }
}
