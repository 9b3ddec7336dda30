use super::Desk;

#[test]
fn a_message_reaches_whoever_listens_to_its_channel() {
    let mut desk = Desk::new();
    let (a, b, c) = (desk.join(), desk.join(), desk.join());
    assert_eq!(
        desk.ask(a, "SUBSCRIBE news sport"),
        "*3 $9 subscribe $4 news :1 *3 $9 subscribe $5 sport :2"
    );
    assert_eq!(desk.ask(b, "PSUBSCRIBE n?ws"), "*3 $10 psubscribe $4 n?ws :1");
    assert_eq!(desk.ask(c, "PUBLISH news hello"), ":2");
    assert_eq!(desk.take(a), "*3 $7 message $4 news $5 hello");
    assert_eq!(desk.take(b), "*4 $8 pmessage $4 n?ws $4 news $5 hello");
    assert!(desk.ask(a, "GET x").starts_with("-ERR Can't execute 'get': only (P|S)SUBSCRIBE"));
    assert_eq!(
        desk.ask(a, "UNSUBSCRIBE"),
        "*3 $11 unsubscribe $4 news :1 *3 $11 unsubscribe $5 sport :0"
    );
    assert_eq!(desk.ask(a, "GET x"), "$-1");
    desk.engine.disconnect(b);
    assert_eq!(desk.ask(c, "PUBLISH news again"), ":0");
}

#[test]
fn with_resp3_a_listener_goes_on_with_other_commands() {
    let mut desk = Desk::new();
    let a = desk.join();
    desk.ask(a, "HELLO 3");
    assert_eq!(desk.ask(a, "SUBSCRIBE c"), ">3 $9 subscribe $1 c :1");
    assert_eq!(desk.ask(a, "GET x"), "_");
    assert_eq!(desk.ask(a, "PUBLISH c m"), ":1 >3 $7 message $1 c $1 m");
}

#[test]
fn events_of_keys_are_published_when_they_are_asked_for() {
    let mut desk = Desk::new();
    let (a, b) = (desk.join(), desk.join());
    desk.check(b, &[("CONFIG SET notify-keyspace-events KEA", "+OK")]);
    desk.ask(a, "PSUBSCRIBE __key*@0__:*");
    desk.ask(b, "SET k v PX 10");
    let events = desk.take(a);
    assert!(
        events.contains("__keyspace@0__:k $3 set") && events.contains("__keyevent@0__:set $1 k"),
        "{events}"
    );
    assert!(events.contains("__keyevent@0__:expire $1 k"));
    desk.now += 11;
    desk.engine.expire_some(desk.now + 128, (100, 100));
    assert!(desk.take(a).contains("__keyevent@0__:expired $1 k"));
}

#[test]
fn a_client_that_does_not_take_its_messages_is_closed() {
    let mut desk = Desk::new();
    desk.engine.settings.output_bytes_max = 10_000;
    let (a, b) = (desk.join(), desk.join());
    desk.ask(a, "SUBSCRIBE c");
    for _ in 0..200 {
        desk.ask(b, &format!("PUBLISH c {}", "x".repeat(100)));
    }
    assert!(desk.engine.sessions[a].as_ref().unwrap().is_closing);
    assert_eq!(desk.engine.stats.output_closed, 1);
}
