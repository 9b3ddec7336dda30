//! Keys of Redis clients over HTTP and in the console, and keys on another server.

use std::path::Path;

use serde_json::{Value, json};
use testkit::{Browser, RedisKind, RedisServer, Resp, Stack};

use crate::launch;

fn client(stack: &Stack) -> Resp {
    let mut client = Resp::connect(stack.resp_address()).unwrap();
    client.done(&["AUTH", stack.resp_password()]).unwrap();
    client
}

fn fill(client: &mut Resp) {
    let requests: &[&[&str]] = &[
        &["SET", "greeting:one", "안녕", "EX", "3600"],
        &["HSET", "session:7", "name", "mina", "city", "Seoul"],
        &["RPUSH", "steps", "one", "two", "three"],
        &["SADD", "tags", "red"],
        &["ZADD", "scores", "3", "mina", "5.5", "joon"],
        &["XADD", "walk", "1-1", "step", "one"],
        &["SET", "large", &"x".repeat(10_000)],
    ];
    for request in requests {
        client.done(request).unwrap();
    }
}

#[test]
fn keys_are_listed_by_what_they_begin_with_and_shown_with_their_values() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let mut client = client(&stack);
    fill(&mut client);
    for number in 0..250 {
        client.done(&["SET", &format!("many:{number}"), "1"]).unwrap();
    }
    client.done(&["SELECT", "3"]).unwrap();
    client.done(&["SET", "elsewhere", "1"]).unwrap();

    let api = stack.api();
    let overview = api.get("/v1/kv").unwrap().ok().unwrap();
    assert_eq!((&overview["embedded"], &overview["keys"]), (&json!(true), &json!(257)));
    assert_eq!(overview["expiring"], 1);
    assert!(
        overview["commands"].as_u64() > Some(250)
            && overview["memory_bytes"].as_u64() > Some(10_000)
    );

    let (mut found, mut after) = (std::collections::BTreeSet::new(), String::new());
    loop {
        let path = format!("/v1/kv/keys?prefix=many%3A&limit=40{after}");
        let page = api.get(&path).unwrap().ok().unwrap();
        let items = page["items"].as_array().unwrap();
        found.extend(items.iter().map(|one| one["name"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(found.len(), 250);
    let other = api.get("/v1/kv/keys?db=3").unwrap().ok().unwrap();
    assert_eq!(other["items"][0]["name"], "elsewhere");

    let value = |name: &str| {
        let page = api.get(&format!("/v1/kv/keys?prefix={name}")).unwrap().ok().unwrap();
        let id = page["items"][0]["id"].as_str().unwrap().to_owned();
        api.get(&format!("/v1/kv/keys/{id}")).unwrap().ok().unwrap()
    };
    let greeting = value("greeting");
    assert_eq!(greeting["elements"], json!([["안녕"]]));
    assert!(greeting["key"]["ttl_ms"].as_i64() > Some(3_000_000));
    let seen: Vec<(Value, Value)> = ["steps", "tags", "scores", "walk", "session"]
        .map(&value)
        .map(|value| (value["key"]["type"].clone(), value["elements"].clone()))
        .to_vec();
    assert_eq!(seen[0], (json!("list"), json!([["one"], ["two"], ["three"]])));
    assert_eq!(seen[1], (json!("set"), json!([["red"]])));
    assert_eq!(seen[2], (json!("zset"), json!([["mina", "3"], ["joon", "5.5"]])));
    assert_eq!(seen[3], (json!("stream"), json!([["1-1", "step one"]])));
    assert_eq!(seen[4].0, "hash");
    assert!(seen[4].1.as_array().unwrap().contains(&json!(["city", "Seoul"])));
    let large = value("large");
    assert_eq!((&large["length"], &large["truncated"]), (&json!(10_000), &json!(true)));
    assert_eq!(large["elements"][0][0].as_str().unwrap().len(), 4_096);
    assert_eq!(greeting["truncated"], false);

    assert_eq!(api.get("/v1/kv/keys/bm9uZQ").unwrap().status, 404);
    assert_eq!(api.get("/v1/kv?db=16").unwrap().status, 422);
    client.done(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]).unwrap();
    client.done(&["HSET", "slow", "a", "1"]).unwrap();
    let slow = api.get("/v1/kv/slow").unwrap().ok().unwrap();
    assert_eq!(slow["items"][0]["command"], "HSET slow a 1");
}

#[test]
fn with_keys_on_another_server_there_is_no_door_and_the_server_may_go() {
    let mut server = RedisServer::start(RedisKind::Redis, &[]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let launch = launch(&folder).environment("MADANG__KV__URL", &server.url());
    let stack = launch.start().unwrap();
    let announced = std::fs::read_to_string(folder.path().join("announce.json")).unwrap();
    assert!(!announced.contains("\"resp"), "{announced}");
    let api = stack.api();
    assert_eq!(api.get("/v1/kv").unwrap().ok().unwrap()["embedded"], false);
    assert_eq!(api.get("/v1/kv/keys").unwrap().status, 422);
    server.kill().unwrap();
    let reading =
        json!({"sensor": "weather", "time": "2013-01-01T06:00:00-05:00", "values": {"temp": 39.0}});
    api.post("/v1/devices/roof-1/readings", &reading).unwrap().ok().unwrap();
    assert_eq!(api.get("/v1/overview").unwrap().ok().unwrap()["devices"], 1);
    drop(stack);

    let refused = launch.environment("MADANG__KV__LISTEN", "127.0.0.1:0").start();
    let said = format!("{:#}", refused.err().unwrap());
    assert!(said.contains("kv.listen and kv.url exclude each other"), "{said}");
}

#[test]
fn the_console_shows_keys_their_values_and_what_the_store_does() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let mut client = client(&stack);
    fill(&mut client);
    for number in 0..120 {
        client.done(&["SET", &format!("cache:page:{number}"), "1", "EX", "600"]).unwrap();
    }
    client.done(&["CONFIG", "SET", "slowlog-log-slower-than", "0"]).unwrap();
    client.done(&["ZADD", "scores", "1", "sol"]).unwrap();
    client.done(&["CONFIG", "SET", "slowlog-log-slower-than", "10000"]).unwrap();
    let browser = Browser::open(1280, 900, "en-US").unwrap();
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kv");
    let look = |name: &str| browser.screenshot(&shots.join(format!("{name}.png"))).unwrap();
    let rows = |is_so: &str| {
        let script = format!(
            "return document.querySelectorAll('[data-test=\"kv-list\"] tbody tr').length {is_so}"
        );
        browser.until(&format!("{is_so} keys in the list"), &script).unwrap();
    };
    browser.go(&stack.link().unwrap()).unwrap();
    browser.click("set-password-skip").unwrap();
    browser.click("nav-kv").unwrap();
    rows("> 40");
    browser.until("a rate", "return document.querySelectorAll('.spark, svg').length > 0").unwrap();
    assert_eq!(browser.text("kv-count").unwrap(), "127");
    look("1-list");
    browser.click("kv-more").unwrap();
    rows("> 90");
    browser.fill("kv-prefix", "session:").unwrap();
    browser.click("kv-search").unwrap();
    rows("=== 1");
    browser.click("kv-show").unwrap();
    browser.find("kv-value").unwrap();
    assert!(browser.text("kv-type").unwrap().starts_with("hash"));
    assert!(browser.text("kv-value").unwrap().contains("Seoul"));
    look("2-value");
    browser.keys("kv-dialog", "\u{E00C}").unwrap();
    assert!(browser.text("kv-slow").unwrap().contains("ZADD scores 1 sol"));

    browser.script("localStorage.setItem('madang.language', 'ko'); localStorage.setItem('madang.theme', 'dark'); location.reload();").unwrap();
    rows("> 40");
    look("3-list-ko-dark");
    browser.fill("kv-prefix", "greeting").unwrap();
    browser.click("kv-search").unwrap();
    rows("=== 1");
    browser.click("kv-show").unwrap();
    browser.find("kv-value").unwrap();
    look("4-value-ko-dark");
    browser.keys("kv-dialog", "\u{E00C}").unwrap();
    browser.resize(390, 844).unwrap();
    look("5-list-ko-phone");
    let complaints = browser.complaints().unwrap();
    assert!(complaints.is_empty(), "{complaints:?}");
}
