use super::Desk;

#[test]
fn the_first_who_waits_is_served_first() {
    let mut desk = Desk::new();
    let (a, b, c) = (desk.join(), desk.join(), desk.join());
    assert_eq!(desk.ask(a, "BLPOP q 0"), "");
    assert_eq!(desk.ask(b, "BLPOP p q 0"), "");
    assert_eq!(desk.ask(c, "RPUSH q one"), ":1");
    assert_eq!(desk.take(a), "*2 $1 q $3 one");
    assert_eq!(desk.take(b), "");
    assert_eq!(desk.ask(c, "RPUSH q two three"), ":2");
    assert_eq!(desk.take(b), "*2 $1 q $3 two");
    assert_eq!(desk.ask(c, "LRANGE q 0 -1"), "*1 $5 three");
    assert!(desk.engine.waiting.is_empty());
    assert_eq!(desk.engine.stats.blocked, 0);
}

#[test]
fn who_waits_too_long_gets_nothing_and_its_next_requests_are_run() {
    let mut desk = Desk::new();
    let (a, b) = (desk.join(), desk.join());
    assert_eq!(desk.ask(a, "BLPOP q 1.5\r\nSET after 1\r\nBRPOPLPUSH q r 1"), "");
    desk.now += 1_499;
    desk.engine.time_out(desk.now);
    assert_eq!(desk.take(a), "");
    assert_eq!(desk.ask(b, "GET after"), "$-1");
    desk.now += 1;
    desk.engine.time_out(desk.now);
    desk.give(b, b"");
    assert_eq!(desk.take(a), "*-1 +OK");
    desk.now += 1_000;
    desk.engine.time_out(desk.now);
    assert_eq!(desk.take(a), "$-1");
}

#[test]
fn an_element_goes_on_from_list_to_list() {
    let mut desk = Desk::new();
    let (a, b, c) = (desk.join(), desk.join(), desk.join());
    desk.ask(a, "BLMOVE one two LEFT RIGHT 0");
    desk.ask(b, "BRPOP two 0");
    assert_eq!(desk.ask(c, "LPUSH one x"), ":1");
    assert_eq!((desk.take(a), desk.take(b)), ("$1 x".into(), "*2 $3 two $1 x".into()));
    assert_eq!(desk.ask(c, "EXISTS one two"), ":0");
}

#[test]
fn a_transaction_is_over_before_anybody_is_served() {
    let mut desk = Desk::new();
    let (a, b) = (desk.join(), desk.join());
    desk.ask(a, "BZPOPMIN z 0");
    assert_eq!(desk.ask(b, "MULTI"), "+OK");
    desk.ask(b, "ZADD z 1 x");
    desk.ask(b, "DEL z");
    assert_eq!(desk.ask(b, "EXEC"), "*2 :1 :1");
    assert_eq!(desk.take(a), "");
    desk.ask(b, "ZADD z 2 y");
    assert_eq!(desk.take(a), "*3 $1 z $1 y $1 2");
}

#[test]
fn a_waiting_client_can_be_sent_on_by_another_or_leave() {
    let mut desk = Desk::new();
    let (a, b, c) = (desk.join(), desk.join(), desk.join());
    let id = desk.ask(a, "CLIENT ID").replace(':', "");
    desk.ask(a, "BLPOP q 0");
    desk.ask(c, "BLPOP q 0");
    assert_eq!(desk.ask(b, &format!("CLIENT UNBLOCK {id} ERROR")), ":1");
    assert_eq!(desk.take(a), "-UNBLOCKED client unblocked via CLIENT UNBLOCK");
    desk.engine.disconnect(c);
    assert!(desk.engine.waiting.is_empty());
    assert_eq!(desk.ask(b, "RPUSH q x"), ":1");
}

#[test]
fn a_watched_key_that_changes_or_expires_fails_exec() {
    let mut desk = Desk::new();
    let (a, b) = (desk.join(), desk.join());
    for spoil in ["SET w 2", "DEL w", "FLUSHALL", "RENAME w v", "EXPIRE w 10"] {
        desk.check(b, &[("SET w 1", "+OK")]);
        desk.check(a, &[("WATCH w", "+OK")]);
        desk.ask(b, spoil);
        desk.check(a, &[("MULTI", "+OK"), ("SET x 1", "+QUEUED"), ("EXEC", "*-1")]);
    }
    desk.check(b, &[("SET w 1 PX 50", "+OK")]);
    desk.check(a, &[("WATCH w", "+OK"), ("MULTI", "+OK"), ("PING", "+QUEUED")]);
    desk.now += 51;
    desk.check(a, &[("EXEC", "*-1")]);
    desk.check(
        a,
        &[("WATCH w", "+OK"), ("MULTI", "+OK"), ("PING", "+QUEUED"), ("EXEC", "*1 +PONG")],
    );
    assert!(desk.engine.watchers.is_empty());
}

#[test]
fn of_many_who_wait_only_those_are_asked_who_can_be_served() {
    let mut desk = Desk::new();
    let waiting: Vec<_> = (0..2_000).map(|_| desk.join()).collect();
    let pusher = desk.join();
    for (number, client) in waiting.iter().enumerate() {
        assert_eq!(desk.ask(*client, &format!("BLPOP q {}", 5 + number)), "");
    }
    let calls = |desk: &Desk| desk.engine.stats.calls.iter().sum::<u64>();
    let before = calls(&desk);
    assert_eq!(desk.ask(pusher, "RPUSH q a b c"), ":3");
    let asked = calls(&desk) - before;
    assert!(asked <= 5, "{asked} commands were run");
    for (client, element) in waiting.iter().zip(["a", "b", "c"]) {
        assert_eq!(desk.take(*client), format!("*2 $1 q $1 {element}"));
    }
    // The deadlines of those who were served are gone, and the others keep theirs.
    assert_eq!(desk.engine.next_timeout(), Some(desk.now + 8_000));
    desk.now += 8_000;
    desk.engine.time_out(desk.now);
    assert_eq!(desk.take(waiting[3]), "*-1");
    assert_eq!(desk.take(waiting[4]), "");
    for client in waiting {
        desk.engine.disconnect(client);
    }
    assert!(desk.engine.waiting.is_empty() && desk.engine.next_timeout().is_none());
    assert_eq!(desk.engine.stats.blocked, 0);
}

#[test]
fn who_is_asked_in_vain_keeps_its_place() {
    let mut desk = Desk::new();
    let (a, b, c) = (desk.join(), desk.join(), desk.join());
    desk.ask(a, "BLPOP q 9");
    desk.ask(b, "BLPOP q 9");
    desk.now += 1_000;
    // In a transaction the element is gone again before anybody is served.
    for line in ["MULTI", "RPUSH q x", "DEL q", "RPUSH other y"] {
        desk.ask(c, line);
    }
    desk.ask(c, "EXEC");
    desk.ask(c, "RPUSH q one");
    assert_eq!((desk.take(a), desk.take(b)), ("*2 $1 q $3 one".into(), String::new()));
    desk.now += 8_000;
    desk.engine.time_out(desk.now);
    assert_eq!(desk.take(b), "*-1");
}
