use std::sync::Arc;

use base::access::Door;
use testkit::Doorman;

use super::stream::{Client, Value};
use super::{House, bulk, folder, ok, relaxed};

/// Each key may do what its grants say.
fn doorman() -> Arc<Doorman> {
    let doorman = Doorman::new(Door::Resp, &["admin", "reader", "session", "foreign"]);
    doorman.forbid_when(|principal, action, resource| {
        let grants: &[(&str, &str)] = match &*principal.name {
            "reader" => &[("kv.read", "kv/")],
            "session" => &[
                ("kv.read", "kv/session:"),
                ("kv.write", "kv/session:"),
                ("kv.subscribe", "kv-channel/mine:"),
            ],
            _ => &[("", "")],
        };
        let path = resource.path;
        !grants.iter().any(|(deed, start)| action.0.starts_with(deed) && path.starts_with(start))
    });
    Arc::new(doorman)
}

fn error(client: &mut Client, words: &[&str]) -> String {
    match client.ask(words).unwrap() {
        Value::Error(text) => text.split(' ').next().unwrap().to_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn each_may_do_what_their_grants_say_and_organisations_do_not_meet() {
    let folder = folder();
    let doorman = doorman();
    let house = House::with(relaxed(), folder.path(), doorman.clone(), None).unwrap();
    let (mut admin, mut reader, mut session, mut other) =
        (house.client(), house.client(), house.client(), house.client());
    assert_eq!(error(&mut admin, &["GET", "a"]), "NOAUTH");
    assert_eq!(error(&mut admin, &["AUTH", "admin", "wrong"]), "WRONGPASS");
    assert_eq!(admin.ask(&["AUTH", "admin:admin-secret"]).unwrap(), ok());
    assert_eq!(reader.ask(&["AUTH", "reader", "reader-secret"]).unwrap(), ok());
    assert!(matches!(
        session.ask(&["HELLO", "3", "AUTH", "session", "session-secret", "SETNAME", "s"]).unwrap(),
        Value::Array(_)
    ));
    assert_eq!(other.ask(&["AUTH", "foreign", "foreign-secret"]).unwrap(), ok());

    assert_eq!(admin.ask(&["SET", "a", "1"]).unwrap(), ok());
    assert_eq!(reader.ask(&["GET", "a"]).unwrap(), bulk("1"));
    for words in [
        &["SET", "a", "2"][..],
        &["FLUSHALL"],
        &["CONFIG", "SET", "maxmemory", "1"],
        &["RENAME", "a", "b"],
        &["PUBLISH", "c", "m"],
    ] {
        assert_eq!(error(&mut reader, words), "NOPERM", "{words:?}");
    }
    assert_eq!(session.ask(&["SET", "session:1", "x"]).unwrap(), ok());
    for words in [
        &["GET", "a"][..],
        &["MSET", "session:2", "x", "a", "3"],
        &["KEYS", "*"],
        &["RENAME", "session:1", "a"],
        &["SUBSCRIBE", "theirs"],
    ] {
        assert_eq!(error(&mut session, words), "NOPERM", "{words:?}");
    }
    assert_eq!(error(&mut session, &["SORT", "session:l", "BY", "a_*"]), "ERR");
    assert_eq!(session.ask(&["ACL", "WHOAMI"]).unwrap(), bulk("session"));
    assert_eq!(session.ask(&["ACL", "GETUSER", "admin"]).unwrap(), Value::Null);
    let dry = session.ask(&["ACL", "DRYRUN", "session", "GET", "a"]).unwrap();
    assert!(matches!(dry, Value::Bulk(text) if text.ends_with(b"keys used as arguments")));
    assert_eq!(session.ask(&["ACL", "DRYRUN", "session", "GET", "session:1"]).unwrap(), ok());

    // A script may what its client may, and names of keys are for who may read them.
    let script = "return redis.call('get', ARGV[1])";
    assert_eq!(session.ask(&["EVAL", script, "0", "session:1"]).unwrap(), bulk("x"));
    for words in [
        &["EVAL", script, "0", "a"][..],
        &["EVAL", "return redis.call('publish', 'theirs', 'm')", "0"],
        &["FUNCTION", "LOAD", "#!lua name=l\nredis.register_function('f', function() end)"],
        &["CLIENT", "TRACKING", "ON", "BCAST"],
        &["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "sess"],
    ] {
        assert_eq!(error(&mut session, words), "NOPERM", "{words:?}");
    }
    let tracks = &["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "session:"];
    assert_eq!(session.ask(tracks).unwrap(), ok());
    assert_eq!(session.ask(&["CLIENT", "TRACKING", "OFF"]).unwrap(), ok());
    let Value::Bulk(name) = session.ask(&["SCRIPT", "LOAD", "return 1"]).unwrap() else { panic!() };
    let name = String::from_utf8(name).unwrap();
    assert_eq!(error(&mut other, &["EVALSHA", &name, "0"]), "NOSCRIPT");

    assert_eq!(other.ask(&["GET", "a"]).unwrap(), Value::Null);
    assert_eq!(other.ask(&["SET", "a", "theirs"]).unwrap(), ok());
    assert_eq!(other.ask(&["DBSIZE"]).unwrap(), Value::Int(1));
    assert_eq!(other.ask(&["FLUSHALL"]).unwrap(), ok());
    assert_eq!(other.ask(&["SET", "b", "kept"]).unwrap(), ok());
    assert_eq!(admin.ask(&["GET", "a"]).unwrap(), bulk("1"));

    // A key that is taken away ends its open connections.
    doorman.revoke("reader");
    while reader.ask(&["PING"]).is_ok() {}
    assert_eq!(admin.ask(&["PING"]).unwrap(), Value::Simple("PONG".into()));
    house.close();

    let house = House::with(relaxed(), folder.path(), doorman, None).unwrap();
    let mut other = house.client();
    assert_eq!(other.ask(&["AUTH", "foreign", "foreign-secret"]).unwrap(), ok());
    assert_eq!(other.ask(&["GET", "b"]).unwrap(), bulk("kept"));
    assert_eq!(other.ask(&["DBSIZE"]).unwrap(), Value::Int(1));
    house.close();
}
