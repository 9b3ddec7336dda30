//! Scripts and functions: beside a real Redis, in the log, within their limits, and apart from each other.

use std::sync::Arc;
use std::time::Duration;

use super::in_step::Redis;
use super::stream::{Client, Value};
use super::{Anybody, Desk, House, PANIC, bulk, folder, ok, relaxed};
use crate::Config;

/// Scripts whose replies must be Redis's: RESP2, then RESP3 where the client says so.
const SCRIPTS: &[(&str, &[&str])] = &[
    ("return 1", &[]),
    ("return 3.99", &[]),
    ("return 'text'", &[]),
    ("return {1,2,{3,'a',nil,4}}", &[]),
    ("return true", &[]),
    ("return false", &[]),
    ("return nil", &[]),
    ("return {ok='fine'}", &[]),
    ("return {err='MY error'}", &[]),
    ("return redis.error_reply('My Err')", &[]),
    ("return redis.error_reply('single')", &[]),
    ("return redis.error_reply('-CODE text')", &[]),
    ("return redis.status_reply('FINE')", &[]),
    ("return {KEYS[1],KEYS[2],ARGV[1],#ARGV}", &["2", "a", "b", "c", "d"]),
    ("return redis.call('set',KEYS[1],ARGV[1])", &["1", "k", "v"]),
    ("return redis.call('get',KEYS[1])", &["1", "k"]),
    ("return redis.call('get','nokey')", &[]),
    ("return redis.call('incrby','n',5)", &[]),
    ("return redis.call('incr','k')", &[]),
    ("return redis.pcall('incr','k')", &[]),
    ("return redis.pcall('incr','k')['err']", &[]),
    ("redis.call('set','a','1'); redis.call('nope')", &[]),
    ("return redis.pcall('nope').err", &[]),
    ("return redis.call('get')", &[]),
    ("return redis.call()", &[]),
    ("return redis.call('get', {})", &[]),
    ("return redis.call('subscribe','a')", &[]),
    ("return redis.call('multi')", &[]),
    ("return redis.call('eval','return 1',0)", &[]),
    ("return redis.call('client','id')", &[]),
    ("return redis.call('blpop','nolist',0)", &[]),
    ("return nonesuch", &[]),
    ("nonesuch = 1", &[]),
    ("error('boom')", &[]),
    ("error({err='MINE went wrong'})", &[]),
    ("return {pcall(function() return nonesuch end)}", &[]),
    ("return {pcall(redis.call,'nope')}", &[]),
    ("local function f() error('deep') end f()", &[]),
    ("return redis.sha1hex('')", &[]),
    ("return redis.sha1hex()", &[]),
    ("return 1 +", &[]),
    ("return {redis.LOG_WARNING, redis.REPL_ALL, redis.REDIS_VERSION}", &[]),
    ("return {type(redis), type(KEYS), type(cjson), type(struct), type(bit), type(cmsgpack)}", &[]),
    ("redis.x = 1", &[]),
    ("string.x = 1", &[]),
    ("return ('x'):rep(5)", &[]),
    ("return tostring(0.1)", &[]),
    ("return tostring(1e15)", &[]),
    ("return string.format('%5.2f|%d|%s|%q', 3.14159, 42, 'x', 'a\\nb')", &[]),
    ("return {tonumber('0x10'), tonumber('z',36), tonumber('nan') == nil and 1 or 0}", &[]),
    ("return {1,2,3,unpack({4,5})}", &[]),
    ("return loadstring('return KEYS[1]')()", &["1", "a"]),
    ("local t={} for w in string.gmatch('a b c','%a') do t[#t+1]=w end return t", &[]),
    ("return {math.floor(-3.5), math.max(1,9,3), math.fmod(7,3)}", &[]),
    ("return redis.call('hgetall',KEYS[1])", &["1", "h"]),
    ("redis.call('hset','h','a',1,'b',2.5) return redis.call('hget','h','b')", &[]),
    ("redis.call('zadd','z',1.5,'m') return redis.call('zrange','z',0,-1,'withscores')", &[]),
    ("return cjson.encode({1,2,{a='b'},true,1.5,'x/\"y'})", &[]),
    ("return cjson.encode({})", &[]),
    ("return cjson.encode(cjson.null)", &[]),
    ("return cjson.decode('[1,2.5,\"x\",null,true,{\"a\":[]}]')[3]", &[]),
    ("return cjson.decode('{\"a\":{\"b\":[10,20]}}').a.b[2]", &[]),
    ("return cjson.decode('\"\\\\u00e9\\\\ud83d\\\\ude00\"')", &[]),
    ("return tostring(cjson.decode('null') == cjson.null)", &[]),
    ("return cjson.encode({[1]=1,[100]=2})", &[]),
    ("return cjson.encode(0.1)", &[]),
    ("return cjson.encode(1e20)", &[]),
    ("return cmsgpack.pack({1,2,'three',{a=4},-5,1.5,true,false,300,70000,-40000})", &[]),
    ("local a,b = cmsgpack.unpack(cmsgpack.pack('x',7)) return {a,b}", &[]),
    ("return cmsgpack.unpack(cmsgpack.pack({1,2,{3}}))", &[]),
    ("return {cmsgpack.unpack_one('\\1\\2\\3')}", &[]),
    ("return {cmsgpack.unpack_limit('\\1\\2\\3', 2, 0)}", &[]),
    ("return struct.pack('>I2h>bs', 258, -2, 7, 'text')", &[]),
    ("return {struct.unpack('>I2h', '\\1\\2\\254\\255')}", &[]),
    ("return struct.pack('<i4Bd', -7, 200, 0.5)", &[]),
    ("return {struct.unpack('<Bc0s', '\\3abctail\\0')}", &[]),
    ("return struct.size('<ihb!8d')", &[]),
    ("return {bit.band(0xff,0x0f), bit.bor(1,2,4), bit.bxor(5,1), bit.bnot(0)}", &[]),
    (
        "return {bit.lshift(1,31), bit.rshift(-1,28), bit.arshift(-256,4), bit.rol(0x12345678,8)}",
        &[],
    ),
    ("return {bit.tohex(255), bit.tohex(255,4), bit.tohex(-1,-8), bit.tobit(4294967295)}", &[]),
    ("redis.setresp(3) return redis.call('hgetall','h')", &[]),
    ("redis.setresp(3) return redis.call('get','nokey')", &[]),
    ("redis.setresp(3) return {double=1.5}", &[]),
    ("redis.setresp(3) return true", &[]),
    ("redis.setresp(3) return false", &[]),
    ("return {double=3.25}", &[]),
    ("return {map={a=1}}", &[]),
    ("return {set={x=true}}", &[]),
    ("return {big_number='123456789012345678901234567890'}", &[]),
    ("return {verbatim_string={string='hi',format='txt'}}", &[]),
    ("redis.setresp(4)", &[]),
    ("return redis.call('select', 3) and redis.call('set','in3','1')", &[]),
    ("#!lua flags=no-writes\nreturn redis.call('get','k')", &[]),
    ("#!lua flags=no-writes\nreturn redis.call('set','k','1')", &[]),
    ("#!lua flags=nope\nreturn 1", &[]),
    ("#!py\nreturn 1", &[]),
    ("return redis.acl_check_cmd('set','k','v')", &[]),
    ("return redis.acl_check_cmd('nope')", &[]),
];

fn without_names(value: Value) -> Value {
    match value {
        // What Redis's cjson says of a nested error's line stays as it is.
        Value::Array(parts) => Value::Array(parts.into_iter().map(without_names).collect()),
        value => value,
    }
}

#[test]
fn scripts_answer_as_in_redis() {
    let folder = folder();
    let house = House::open(relaxed(), folder.path()).unwrap();
    let redis = Redis::start();
    let mut differences = Vec::new();
    for version in ["2", "3"] {
        let (mut ours, mut theirs) = (house.client(), Client::connect(redis.address).unwrap());
        for client in [&mut ours, &mut theirs] {
            client.ask(&["FLUSHALL"]).unwrap();
            client.ask(&["HELLO", version]).unwrap();
        }
        for (script, rest) in SCRIPTS {
            let rest = if rest.is_empty() { &["0"][..] } else { *rest };
            let words: Vec<&str> =
                ["EVAL", script].into_iter().chain(rest.iter().copied()).collect();
            let (a, b) = (ours.ask(&words).unwrap(), theirs.ask(&words).unwrap());
            if without_names(a.clone()) != without_names(b.clone()) {
                differences.push(format!("RESP{version} {script}\n  ours   {a:?}\n  theirs {b:?}"));
            }
        }
    }
    house.close();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

const COMMANDS: &[&[&str]] = &[
    &["SCRIPT", "LOAD", "return 7"],
    &["EVALSHA", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "0"],
    &["EVALSHA", "SCRIPT", "0"],
    &["EVAL", "return 1", "x"],
    &["EVAL", "return 1", "-1"],
    &["EVAL", "return 1", "5", "a"],
    &["EVAL_RO", "return redis.call('set','a','b')", "0"],
    &["EVAL_RO", "return redis.call('get','a')", "0"],
    &["SCRIPT", "EXISTS", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db", "x"],
    &["SCRIPT", "KILL"],
    &["SCRIPT", "FLUSH", "NOPE"],
    &["SCRIPT", "FLUSH", "SYNC"],
    &["SCRIPT", "EXISTS", "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"],
    &["FUNCTION", "LOAD", "return 1"],
    &["FUNCTION", "LOAD", "#!lua\nreturn 1"],
    &["FUNCTION", "LOAD", "#!py name=a\nreturn 1"],
    &["FUNCTION", "LOAD", "#!lua name=bad-name\nreturn 1"],
    &["FUNCTION", "LOAD", "#!lua name=one\nreturn 1"],
    &["FUNCTION", "LOAD", "#!lua name=one\nlocal x ="],
    &[
        "FUNCTION",
        "LOAD",
        "#!lua name=one\nredis.register_function('f', function(keys, args) return {keys[1], args[1]} end)",
    ],
    &["FUNCTION", "LOAD", "#!lua name=one\nredis.register_function('f', function() return 1 end)"],
    &["FUNCTION", "LOAD", "#!lua name=two\nredis.register_function('f', function() return 1 end)"],
    &["FCALL", "f", "1", "k", "a"],
    &["FCALL", "nope", "0"],
    &["FCALL", "f", "x"],
    &[
        "FUNCTION",
        "LOAD",
        "REPLACE",
        "#!lua name=one\nlocal n = 0\nredis.register_function{function_name='g', callback=function() n = n + 1 return n end, flags={'no-writes'}, description='counts'}",
    ],
    &["FCALL", "f", "0"],
    &["FCALL", "g", "0"],
    &["FCALL_RO", "g", "0"],
    &["FUNCTION", "LIST"],
    &["FUNCTION", "LIST", "LIBRARYNAME", "o*", "WITHCODE"],
    &["FUNCTION", "LIST", "NOPE"],
    &[
        "FUNCTION",
        "LOAD",
        "#!lua name=w\nredis.register_function('w', function(keys) return redis.call('set', keys[1], 1) end)",
    ],
    &["FCALL", "w", "1", "k"],
    &["FCALL_RO", "w", "1", "k"],
    &["FUNCTION", "LOAD", "#!lua name=bad\nredis.call('set','a',1)"],
    &["FUNCTION", "LOAD", "#!lua name=bad\nx = 1"],
    &["FUNCTION", "LOAD", "#!lua name=bad\nredis.register_function('a b', function() end)"],
    &["FUNCTION", "LOAD", "#!lua name=bad\nredis.register_function('a')"],
    &["FUNCTION", "LOAD", "#!lua name=bad\nredis.register_function('a', 1)"],
    &["FUNCTION", "STATS"],
    &["FUNCTION", "DELETE", "one"],
    &["FUNCTION", "DELETE", "one"],
    &["FCALL", "g", "0"],
    &["FUNCTION", "FLUSH", "NOPE"],
    &["FUNCTION", "FLUSH"],
    &["FUNCTION", "LIST"],
    &["FUNCTION", "KILL"],
];

#[test]
fn commands_of_scripts_and_functions_answer_as_in_redis() {
    let folder = folder();
    let house = House::open(relaxed(), folder.path()).unwrap();
    let redis = Redis::start();
    let (mut ours, mut theirs) = (house.client(), Client::connect(redis.address).unwrap());
    let mut differences = Vec::new();
    for words in COMMANDS {
        let (a, b) = (ours.ask(words).unwrap(), theirs.ask(words).unwrap());
        if a != b {
            differences.push(format!("{words:?}\n  ours   {a:?}\n  theirs {b:?}"));
        }
    }
    // A dump of functions is taken by the other.
    let code = "#!lua name=l\nredis.register_function('h', function() return 'here' end)";
    for is_ours in [true, false] {
        let (from, to) = if is_ours { (&mut ours, &mut theirs) } else { (&mut theirs, &mut ours) };
        from.ask(&["FUNCTION", "LOAD", "REPLACE", code]).unwrap();
        to.ask(&["FUNCTION", "FLUSH"]).unwrap();
        let Value::Bulk(payload) = from.ask(&["FUNCTION", "DUMP"]).unwrap() else { panic!() };
        let restore = [b"FUNCTION".to_vec(), b"RESTORE".to_vec(), payload];
        assert_eq!(to.ask(&restore).unwrap(), ok());
        assert_eq!(to.ask(&["FCALL", "h", "0"]).unwrap(), bulk("here"));
    }
    house.close();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn what_a_script_changed_and_functions_come_back_and_the_script_is_not_run_again() {
    let folder = folder();
    let house = House::open(Config::default(), folder.path()).unwrap();
    let mut client = house.client();
    let script = "redis.call('set','a',redis.call('time')[1]) redis.call('sadd','s','x','y','z')
        return redis.call('spop','s')";
    client.ask(&["EVAL", script, "0"]).unwrap();
    let code =
        "#!lua name=l\nredis.register_function('f', function() return redis.call('incr','n') end)";
    client.ask(&["FUNCTION", "LOAD", code]).unwrap();
    client.ask(&["FCALL", "f", "0"]).unwrap();
    let shown = |client: &mut Client| {
        [
            &["GET", "a"][..],
            &["SORT", "s", "ALPHA"],
            &["GET", "n"],
            &["FUNCTION", "LIST", "WITHCODE"],
        ]
        .map(|words| client.ask(words).unwrap())
    };
    let before = shown(&mut client);
    house.close();
    for is_rewritten in [false, true] {
        let house = House::open(Config::default(), folder.path()).unwrap();
        let mut client = house.client();
        assert_eq!(shown(&mut client), before);
        if !is_rewritten {
            client.ask(&["BGREWRITEAOF"]).unwrap();
            let has_snapshot = || {
                std::fs::read_dir(folder.path()).unwrap().any(|file| {
                    file.unwrap().path().extension().is_some_and(|end| end == "snapshot")
                })
            };
            while !has_snapshot() {
                client.ask(&["PING"]).unwrap();
            }
        }
        house.close();
    }
}

fn error_of(client: &mut Client, words: &[&str]) -> String {
    match client.ask(words).unwrap() {
        Value::Error(text) => text,
        other => panic!("{words:?}: {other:?}"),
    }
}

/// Scripts that only Lua's hook can end.
const ENDLESS: &[&str] = &[
    "while true do end",
    "while true do redis.call('get','n') end",
    "while true do pcall(function() while true do end end) end",
    "while true do xpcall(function() while true do end end, function(e) return e end) end",
    "while true do xpcall(error, function() while true do end end) end",
    "local f f = function() return f() end return f()",
    "coroutine.wrap(function() while true do end end)()",
    "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
    "while true do redis.pcall('nope') end",
    "table.sort({3,2,1}, function() while true do end end)",
    "return (('x'):gsub('x', function() while true do end end))",
];

#[test]
fn a_script_that_never_ends_is_ended_and_others_go_on() {
    let folder = folder();
    let config = Config { script_time_max: Duration::from_millis(50), ..relaxed() };
    let house = House::open(config, folder.path()).unwrap();
    let mut client = house.client();
    for script in ENDLESS {
        let told = error_of(&mut client, &["EVAL", script, "0"]);
        assert!(told.contains("script_time_max and was ended"), "{script}: {told}");
    }
    let code = "#!lua name=l\nlocal c = coroutine.create(function() while true do coroutine.yield() \
        for i = 1, 1e12 do end end end)\n\
        redis.register_function('f', function() for i = 1, 9 do coroutine.resume(c) end end)";
    client.ask(&["FUNCTION", "LOAD", code]).unwrap();
    assert!(
        error_of(&mut client, &["FUNCTION", "LOAD", "#!lua name=m\nwhile 1 do end"])
            .contains("FUNCTION LOAD timeout")
    );
    assert_eq!(client.ask(&["EVAL", "return 'well'", "0"]).unwrap(), bulk("well"));
    house.close();
}

#[test]
fn nothing_is_left_of_a_script_that_wrote_and_took_too_long() {
    let folder = folder();
    let config = Config { script_time_max: Duration::from_millis(50), ..relaxed() };
    let house = House::open(config, folder.path()).unwrap();
    let mut client = house.client();
    client.ask(&["SET", "a", "before"]).unwrap();
    let script = "redis.call('set','a','half') redis.call('rpush','l','half') while true do end";
    let told = error_of(&mut client, &["EVAL", script, "0"]);
    assert!(told.contains("nothing of it was done"), "{told}");
    assert!(client.ask(&["PING"]).is_err(), "everybody connects again");
    let mut client = house.client();
    assert_eq!(client.ask(&["GET", "a"]).unwrap(), bulk("before"));
    assert_eq!(client.ask(&["EXISTS", "l"]).unwrap(), Value::Int(0));
    for words in [&["MULTI"][..], &["SET", "a", "half"], &["EVAL", script, "0"]] {
        client.ask(words).unwrap();
    }
    assert!(error_of(&mut client, &["EXEC"]).contains("nothing of it was done"));
    assert_eq!(house.client().ask(&["GET", "a"]).unwrap(), bulk("before"));
    house.close();
    let house = House::open(relaxed(), folder.path()).unwrap();
    assert_eq!(house.client().ask(&["GET", "a"]).unwrap(), bulk("before"));
    house.close();
}

/// Waits until a script keeps the store busy; gives what others are told.
fn refusal(client: &mut Client) -> String {
    loop {
        if let Value::Error(text) = client.ask(&["PING"]).unwrap() {
            return text;
        }
    }
}

fn send(client: &mut Client, words: &[&str]) {
    client.send_all(&[words.iter().map(|word| word.as_bytes().to_vec()).collect()]).unwrap();
}

#[test]
fn others_hear_that_a_script_keeps_the_store_busy_and_can_end_it() {
    let folder = folder();
    let config = Config { script_busy_after: Duration::from_millis(10), ..relaxed() };
    // Nobody is known before AUTH, also while a script runs.
    let house = House::with(config, folder.path(), Arc::new(Anybody::default()), None).unwrap();
    let [mut runs, mut asks, mut queues] = [(); 3].map(|()| {
        let mut client = house.client();
        assert_eq!(client.ask(&["AUTH", "x"]).unwrap(), ok());
        client
    });
    let code = "#!lua name=l\nredis.register_function('f', function() while true do end end)";
    asks.ask(&["FUNCTION", "LOAD", code]).unwrap();
    queues.ask(&["MULTI"]).unwrap();
    queues.ask(&["SET", "k", "1"]).unwrap();
    for (words, kill, wrong) in [
        (
            &["EVAL", "while true do pcall(redis.call, 'get', 'k') end", "0"][..],
            "SCRIPT",
            "FUNCTION",
        ),
        (&["FCALL", "f", "0"], "FUNCTION", "SCRIPT"),
    ] {
        send(&mut runs, words);
        let told = refusal(&mut asks);
        assert!(told.starts_with("BUSY") && told.contains(&format!("{kill} KILL")), "{told}");
        assert!(error_of(&mut asks, &[wrong, "KILL"]).starts_with("BUSY"));
        if kill == "FUNCTION" {
            let shown = format!("{:?}", asks.ask(&["FUNCTION", "STATS"]).unwrap());
            assert!(shown.contains(&format!("{:?}", bulk("duration_ms"))), "{shown}");
        } else {
            assert!(error_of(&mut queues, &["EXEC"]).starts_with("EXECABORT"));
        }
        let mut late = house.client();
        assert!(error_of(&mut late, &["PING"]).starts_with("NOAUTH"));
        assert_eq!(late.ask(&["AUTH", "x"]).unwrap(), ok());
        assert_eq!(late.ask(&[kill, "KILL"]).unwrap(), ok());
        let Value::Error(text) = runs.read().unwrap() else { panic!("{words:?}") };
        assert!(text.contains(&format!("killed by user with {kill} KILL")), "{text}");
        assert_eq!(asks.ask(&["EXISTS", "k"]).unwrap(), Value::Int(0));
        assert!(error_of(&mut asks, &[kill, "KILL"]).starts_with("NOTBUSY"));
    }
    house.close();
}

#[test]
fn a_script_that_wrote_is_not_killed_and_its_replies_wait_for_the_disk() {
    let folder = folder();
    let config = Config {
        script_busy_after: Duration::from_millis(10),
        script_time_max: Duration::from_secs(4),
        ..Config::default()
    };
    let house = House::open(config, folder.path()).unwrap();
    let (mut runs, mut asks, mut waits) = (house.client(), house.client(), house.client());
    send(&mut waits, &["BLPOP", "l", "0"]);
    let is_blocked = |info: Value| matches!(info, Value::Bulk(text) if text.windows(17).any(|part| part == b"blocked_clients:1"));
    while !is_blocked(asks.ask(&["INFO", "clients"]).unwrap()) {}
    send(&mut runs, &["EVAL", "redis.call('rpush','l','x') while true do end", "0"]);
    refusal(&mut asks);
    assert!(error_of(&mut asks, &["SCRIPT", "KILL"]).starts_with("UNKILLABLE"));
    assert!(matches!(runs.read(), Ok(Value::Error(text)) if text.contains("nothing of it")));
    assert!(waits.read().is_err(), "half of a script was shown");
    house.close();
}

#[test]
fn a_panic_within_a_script_undoes_all_of_it() {
    let folder = folder();
    let house = House::open(relaxed(), folder.path()).unwrap();
    let mut client = house.client();
    let script = format!("redis.call('set','a','1') pcall(redis.call, 'set', '{PANIC}', '1')");
    assert!(error_of(&mut client, &["EVAL", &script, "0"]).contains("internal error"));
    assert_eq!(house.client().ask(&["EXISTS", "a"]).unwrap(), Value::Int(0));
    house.close();
}

#[test]
fn a_script_gets_no_more_memory_than_its_share() {
    let folder = folder();
    let config = Config {
        script_memory_bytes_max: 8 << 20,
        output_bytes_max: 16 << 20,
        request_bytes_max: 4 << 20,
        ..relaxed()
    };
    let house = House::open(config, folder.path()).unwrap();
    let mut client = house.client();
    for (hungry, reason) in [
        ("local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1000) .. i end", "not enough memory"),
        ("local s = ('x'):rep(1e9)", "not enough memory"),
        ("return cjson.encode({s,s,s,s,s,s,s,s,s,s})", "not enough memory"),
        ("return cmsgpack.pack(s,s,s,s,s,s,s,s,s,s)", "not enough memory"),
        ("return struct.pack('ssssssssss',s,s,s,s,s,s,s,s,s,s)", "not enough memory"),
        ("local t = {} t[1] = t t[2] = t return cjson.encode(t)", "excessive depth"),
        ("local t = {} for i = 1, 500 do t[i] = s end return t", "output_bytes_max"),
        ("return redis.call('mset','a',s,'b',s,'c',s,'d',s,'e',s)", "request_bytes_max"),
    ] {
        let script = format!("local s = ('x'):rep(1e6) {hungry}");
        let told = error_of(&mut client, &["EVAL", &script, "0"]);
        assert!(told.contains(reason), "{hungry}: {told}");
        assert_eq!(client.ask(&["EVAL", "return 1", "0"]).unwrap(), Value::Int(1));
    }
    house.close();
}

#[test]
fn a_script_that_wanted_too_much_takes_nothing_from_the_next() {
    let folder = folder();
    let config = Config { script_memory_bytes_max: 1 << 20, ..relaxed() };
    let house = House::open(config, folder.path()).unwrap();
    let mut client = house.client();
    // Memory ends at another place of Lua's own work each time.
    for length in 1..600 {
        let hungry =
            format!("local t = {{}} while true do t[#t + 1] = ('x'):rep({length}) .. #t end");
        let told = error_of(&mut client, &["EVAL", &hungry, "0"]);
        assert!(told.starts_with("OOM"), "{length}: {told}");
        let next = format!("return {{ {length}, ('x'):rep(1000) }}");
        let answer = client.ask(&["EVAL", &next, "0"]).unwrap();
        assert!(
            matches!(&answer, Value::Array(parts) if parts[0] == Value::Int(length)),
            "{length}: {answer:?}"
        );
    }
    house.close();
}

#[test]
fn the_scripts_that_were_learnt_first_make_room_for_new_ones() {
    let folder = folder();
    let config = Config { scripts_max: 3, script_memory_bytes_max: 12 << 20, ..relaxed() };
    let house = House::open(config, folder.path()).unwrap();
    let mut client = house.client();
    let name = |client: &mut Client, text: &str| match client.ask(&["SCRIPT", "LOAD", text]) {
        Ok(Value::Bulk(name)) => String::from_utf8(name).unwrap(),
        other => panic!("{other:?}"),
    };
    let names: Vec<String> =
        (0..4).map(|number| name(&mut client, &format!("return {number}"))).collect();
    assert!(error_of(&mut client, &["EVALSHA", &names[0], "0"]).starts_with("NOSCRIPT"));
    assert_eq!(client.ask(&["EVALSHA", &names[3], "0"]).unwrap(), Value::Int(3));
    // Large ones take each other's room, too.
    for number in 0..20 {
        let large = format!("return {number}, '{}'", "x".repeat(1 << 20));
        assert_eq!(client.ask(&["EVAL", &large, "0"]).unwrap(), Value::Int(number));
    }
    house.close();
}

#[test]
fn scripts_hold_more_values_than_there_are_places_for_outside_of_lua() {
    let folder = folder();
    let house = House::open(relaxed(), folder.path()).unwrap();
    let mut client = house.client();
    let fill = "local t = {} for i = 1, 20000 do t[i] = 'v' .. i end";
    for (script, length) in [
        ("return #redis.call('lrange','l',0,-1)", 20_000),
        (
            "local n = 0 for i = 1, 20000, 7000 do \
            n = redis.call('rpush','m',unpack(t, i, math.min(i + 6999, 20000))) end return n",
            20_000,
        ),
        ("return #cjson.decode(cjson.encode(t))", 20_000),
        ("return #cmsgpack.unpack(cmsgpack.pack(t))", 20_000),
        (
            "local m = {} for i, v in ipairs(t) do m[v] = v end \
            return #cjson.encode(m) > 0 and #cmsgpack.pack(m) > 0 and 1 or 0",
            1,
        ),
    ] {
        client.ask(&["DEL", "l", "m"]).unwrap();
        let script = format!("{fill} for i = 1, #t do redis.call('rpush','l',t[i]) end {script}");
        assert_eq!(client.ask(&["EVAL", &script, "0"]).unwrap(), Value::Int(length), "{script}");
    }
    let all = client.ask(&["EVAL", &format!("{fill} return t"), "0"]).unwrap();
    assert!(matches!(all, Value::Array(all) if all.len() == 20_000));
    let told = error_of(
        &mut client,
        &["EVAL", &format!("{fill} return redis.call('del',unpack(t))"), "0"],
    );
    assert!(told.contains("too many results to unpack"), "{told}");
    // As many scripts as are cached, and functions, stay known.
    for number in 0..9_000 {
        send(&mut client, &["SCRIPT", "LOAD", &format!("return {number}")]);
    }
    for _ in 0..9_000 {
        assert!(matches!(client.read().unwrap(), Value::Bulk(_)));
    }
    assert_eq!(client.ask(&["EVAL", "return 8999", "0"]).unwrap(), Value::Int(8_999));
    house.close();
}

#[test]
fn libraries_come_all_or_none() {
    let mut desk = Desk::new();
    let client = desk.join();
    let load = |name: &str, function: &str| {
        format!(
            "FUNCTION LOAD \"#!lua name={name}\\nredis.register_function('{function}', function() return '{name}' end)\""
        )
    };
    desk.check(client, &[(&load("a", "f"), "$1 a"), (&load("b", "g"), "$1 b")]);
    let dump = |desk: &mut Desk| {
        desk.give(client, b"FUNCTION DUMP\r\n");
        let reply = std::mem::take(&mut desk.engine.sessions[client].as_mut().unwrap().out.bytes);
        desk.engine.sessions[client].as_mut().unwrap().is_listed = false;
        let start = reply.windows(2).position(|pair| pair == b"\r\n").unwrap() + 2;
        reply[start..reply.len() - 2].to_vec()
    };
    let payload = dump(&mut desk);
    desk.check(client, &[("FUNCTION DELETE a", "+OK"), (&load("c", "f"), "$1 c")]);
    let restore = |desk: &mut Desk, policy: &str| {
        let head = format!("*4\r\n$8\r\nFUNCTION\r\n$7\r\nRESTORE\r\n${}\r\n", payload.len());
        let tail = format!("\r\n${}\r\n{policy}\r\n", policy.len());
        desk.give(client, &[head.as_bytes(), &payload, tail.as_bytes()].concat());
        desk.take(client)
    };
    // `f` is of `c` now, so neither `a` nor `b` changes.
    assert_eq!(restore(&mut desk, "APPEND"), "-ERR Library b already exists");
    assert_eq!(restore(&mut desk, "REPLACE"), "-ERR Function f already exists");
    desk.check(client, &[("FCALL f 0", "$1 c"), ("FCALL g 0", "$1 b")]);
    assert_eq!(restore(&mut desk, "FLUSH"), "+OK");
    desk.check(client, &[("FCALL f 0", "$1 a"), ("FUNCTION DELETE c", "-ERR Library not found")]);
}

#[test]
fn nothing_lasts_from_one_script_to_the_next() {
    let mut desk = Desk::new();
    let client = desk.join();
    for script in [
        "rawset(_G,'leak',1)",
        "rawset(string,'leak',1)",
        "setmetatable(_G,{})",
        "getmetatable('').__index.leak = 1",
        "getmetatable(_G).__index.leak = 1",
        "string.leak = 1",
        "redis.leak = 1",
        "_G.leak = 1",
        "table.insert = nil",
        "loadstring('leak = 1')()",
        "coroutine.wrap(function() leak = 1 end)()",
    ] {
        let told = desk.ask(client, &format!("EVAL \"{script}\" 0"));
        assert!(told.starts_with('-'), "{script}: {told}");
    }
    for gone in [
        "io",
        "os.execute",
        "package",
        "require",
        "debug",
        "setfenv",
        "getfenv",
        "dofile",
        "newproxy",
        "print",
    ] {
        let told = desk.ask(client, &format!("EVAL \"return {gone}\" 0"));
        assert!(told.starts_with('-') || told == "$-1", "{gone}: {told}");
    }
    let bytecode = "EVAL \"return loadstring(string.char(27)..'Lua')\" 0";
    assert_eq!(desk.ask(client, bytecode), "$-1");
}

#[test]
fn a_pattern_ends_with_its_script() {
    let folder = folder();
    let config = Config { script_time_max: Duration::from_millis(200), ..relaxed() };
    let house = House::open(config, folder.path()).unwrap();
    let mut client = house.client();
    for (hostile, told) in [
        ("('a'):rep(20000):find(('.-'):rep(12) .. 'b')", "script_time_max"),
        ("('a'):rep(20000):gsub(('a*'):rep(12) .. 'b', '')", "script_time_max"),
        ("('a'):rep(20000):gsub(('.-'):rep(12) .. 'b', function() end)", "script_time_max"),
        ("('a'):rep(20000):gmatch(('.-'):rep(12) .. 'b')()", "script_time_max"),
        ("pcall(string.match, ('a'):rep(20000), ('.-'):rep(12) .. 'b')", "script_time_max"),
        ("('a'):rep(300000):find(('a?'):rep(300000))", "pattern too complex"),
        ("('x'):rep(1e6):gsub('x', ('y'):rep(1e6))", "not enough memory"),
    ] {
        let told_us = error_of(&mut client, &["EVAL", &format!("return {hostile}"), "0"]);
        assert!(told_us.contains(told), "{hostile}: {told_us}");
    }
    // A search for a text as it is takes no longer than the text is long.
    let plain = "local s = ('a'):rep(1e7) return s:find(('a'):rep(5e6) .. 'b', 1, true)";
    assert_eq!(client.ask(&["EVAL", plain, "0"]).unwrap(), Value::Null);
    house.close();
}

#[test]
fn a_script_that_writes_too_much_is_undone() {
    let folder = folder();
    let config = Config { script_write_bytes_max: 1 << 20, ..relaxed() };
    let house = House::open(config, folder.path()).unwrap();
    let mut client = house.client();
    assert_eq!(client.ask(&["SET", "before", "1"]).unwrap(), ok());
    for endless in [
        "while true do redis.call('RPUSH', 'l', ('x'):rep(1000)) end",
        // Little in the log, much in memory.
        "local i = 0 while true do i = i + 1 redis.call('SETBIT', i, 999999, 1) end",
        // Little in memory, much in the log.
        "while true do redis.call('SET', 'k', ('x'):rep(1000)) end",
    ] {
        let told = error_of(&mut client, &["EVAL", endless, "0"]);
        assert!(told.contains("script_write_bytes_max"), "{told}");
        client = house.client();
        assert_eq!(client.ask(&["DBSIZE"]).unwrap(), Value::Int(1), "{endless}");
    }
    house.close();
}
