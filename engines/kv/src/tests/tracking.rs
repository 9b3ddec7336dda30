//! Clients that keep copies are told when a key changes.

use super::Desk;

/// A client of RESP3 that tracks with these options.
fn tracking(desk: &mut Desk, options: &str) -> usize {
    let client = desk.join();
    desk.ask(client, "HELLO 3");
    desk.check(client, &[(&format!("CLIENT TRACKING ON {options}"), "+OK")]);
    client
}

const STALE_K: &str = ">2 $10 invalidate *1 $1 k";

#[test]
fn who_read_a_key_is_told_once_that_it_changed() {
    let mut desk = Desk::new();
    let (reader, writer) = (tracking(&mut desk, ""), desk.join());
    desk.check(reader, &[("GET k", "_"), ("GET other", "_")]);
    desk.check(writer, &[("SET k 1", "+OK"), ("SET unread 1", "+OK")]);
    assert_eq!(desk.take(reader), STALE_K);
    desk.check(writer, &[("SET k 2", "+OK")]);
    assert_eq!(desk.take(reader), "");
    // Its own change is told after the reply, in a transaction after all of them.
    desk.check(reader, &[("GET k", "$1 2"), ("INCR k", &format!(":3 {STALE_K}"))]);
    desk.check(reader, &[("MULTI", "+OK"), ("GET k", "+QUEUED"), ("INCR k", "+QUEUED")]);
    desk.check(reader, &[("EXEC", &format!("*2 $1 3 :4 {STALE_K}"))]);
    // A key that expires changes.
    desk.check(reader, &[("SET k 1 PX 10", "+OK"), ("GET k", "$1 1")]);
    desk.now += 2_000;
    desk.engine.expire_some(desk.now, (100, 100));
    assert_eq!(desk.take(reader), STALE_K);
    desk.check(reader, &[("GET k", "_")]);
    desk.check(writer, &[("FLUSHDB", "+OK")]);
    assert_eq!(desk.take(reader), ">2 $10 invalidate _");
    desk.check(reader, &[("GET k", "_"), ("CLIENT TRACKING OFF", "+OK")]);
    desk.check(writer, &[("SET k 1", "+OK")]);
    assert_eq!(desk.take(reader), "");
}

#[test]
fn options_say_of_what_a_client_is_told() {
    let mut desk = Desk::new();
    let writer = desk.join();
    let quiet = tracking(&mut desk, "NOLOOP");
    desk.check(quiet, &[("GET k", "_"), ("SET k 1", "+OK"), ("GET k", "$1 1")]);
    let chooses = tracking(&mut desk, "OPTIN");
    desk.check(chooses, &[("GET k", "$1 1"), ("CLIENT CACHING YES", "+OK"), ("GET j", "_")]);
    let leaves_out = tracking(&mut desk, "OPTOUT");
    desk.check(leaves_out, &[("GET k", "$1 1"), ("CLIENT CACHING NO", "+OK"), ("GET j", "_")]);
    desk.check(writer, &[("MSET k 2 j 2", "+OK")]);
    assert_eq!(desk.take(quiet), STALE_K);
    assert_eq!(desk.take(chooses), ">2 $10 invalidate *1 $1 j");
    assert_eq!(desk.take(leaves_out), STALE_K);
    desk.check(quiet, &[("CLIENT GETREDIR", ":0")]);
    let told = desk.ask(chooses, "CLIENT TRACKINGINFO");
    assert_eq!(told, "%3 $5 flags ~2 $2 on $5 optin $8 redirect :0 $8 prefixes *0");
    for (line, part) in [
        ("CLIENT TRACKING ON OPTIN OPTOUT", "both OPTIN mode and OPTOUT"),
        ("CLIENT TRACKING ON PREFIX a", "requires BCAST"),
        ("CLIENT TRACKING ON BCAST", "can't switch BCAST"),
        ("CLIENT TRACKING ON OPTOUT", "can't switch OPTIN/OPTOUT"),
        ("CLIENT TRACKING ON REDIRECT 99999", "does not exist"),
        ("CLIENT TRACKING MAYBE", "syntax error"),
        ("CLIENT CACHING NO", "OPTOUT mode"),
    ] {
        let told = desk.ask(chooses, line);
        assert!(told.starts_with("-ERR") && told.contains(part), "{line}: {told}");
    }
}

#[test]
fn beginnings_of_keys_are_told_of_together() {
    let mut desk = Desk::new();
    let writer = desk.join();
    let all = tracking(&mut desk, "BCAST");
    let some = tracking(&mut desk, "BCAST PREFIX a: PREFIX b: NOLOOP");
    desk.check(writer, &[("MULTI", "+OK"), ("SET a:1 1", "+QUEUED"), ("SET c:1 1", "+QUEUED")]);
    desk.check(writer, &[("SET a:2 1", "+QUEUED"), ("EXEC", "*3 +OK +OK +OK")]);
    assert_eq!(desk.take(all), ">2 $10 invalidate *3 $3 a:1 $3 c:1 $3 a:2");
    assert_eq!(desk.take(some), ">2 $10 invalidate *2 $3 a:1 $3 a:2");
    desk.check(some, &[("SET a:1 2", "+OK")]);
    assert_eq!(desk.take(all), ">2 $10 invalidate *1 $3 a:1");
    for wrong in ["PREFIX a", "PREFIX a:1", "PREFIX x PREFIX xy"] {
        let told = desk.ask(some, &format!("CLIENT TRACKING ON BCAST {wrong}"));
        assert!(told.contains("must not overlap"), "{wrong}: {told}");
    }
    desk.engine.disconnect(some);
    desk.check(writer, &[("SET b:1 2", "+OK")]);
    assert_eq!(desk.engine.trackers.counts(0), [1, 0, 0, 1]);
}

#[test]
fn another_connection_can_be_told_instead() {
    let mut desk = Desk::new();
    let (writer, listener, reader) = (desk.join(), desk.join(), desk.join());
    let id = desk.ask(listener, "CLIENT ID").trim_start_matches(':').to_owned();
    desk.ask(listener, "SUBSCRIBE __redis__:invalidate");
    desk.check(reader, &[(&format!("CLIENT TRACKING ON REDIRECT {id}"), "+OK")]);
    desk.check(reader, &[("CLIENT GETREDIR", &format!(":{id}")), ("GET k", "$-1")]);
    desk.check(writer, &[("SET k 1", "+OK")]);
    assert_eq!(desk.take(listener), "*3 $7 message $20 __redis__:invalidate *1 $1 k");
    assert_eq!(desk.take(reader), "");
    desk.ask(reader, "HELLO 3");
    desk.check(reader, &[("GET k", "$1 1")]);
    desk.engine.disconnect(listener);
    desk.check(writer, &[("SET k 2", "+OK")]);
    assert_eq!(desk.take(reader), format!(">2 $21 tracking-redir-broken :{id}"));
    assert!(desk.ask(reader, "CLIENT TRACKINGINFO").contains("broken_redirect"));
}

#[test]
fn a_script_that_reads_tracks_the_keys_that_it_names() {
    let mut desk = Desk::new();
    let (reader, writer) = (tracking(&mut desk, ""), desk.join());
    desk.check(reader, &[("EVAL \"return redis.call('set','x',1)\" 1 k", "+OK")]);
    desk.check(writer, &[("SET k 1", "+OK")]);
    assert_eq!(desk.take(reader), "");
    desk.check(reader, &[("EVAL \"return redis.call('get','x')\" 1 k", "$1 1")]);
    desk.check(writer, &[("SET x 1", "+OK"), ("SET k 2", "+OK")]);
    assert_eq!(desk.take(reader), STALE_K);
}

#[test]
fn keys_beyond_the_limit_are_told_and_forgotten() {
    let mut desk = Desk::new();
    let reader = tracking(&mut desk, "");
    for number in 0..10 {
        desk.check(reader, &[(&format!("GET k{number}"), "_")]);
    }
    let told = desk.ask(reader, "CONFIG SET tracking-table-max-keys 3");
    assert_eq!(told.matches("invalidate").count(), 7, "{told}");
    assert_eq!(desk.engine.trackers.counts(0), [1, 3, 3, 0]);
}
