use bytes::Bytes;

use super::*;

/// A session that said CONNECT.
fn connected(version: &str) -> Session {
    let mut session = Session::new(Arc::new(Config::default()));
    say(&mut session, Command::Connect, &[("accept-version", version)], "").unwrap();
    session
}

fn say(
    session: &mut Session,
    command: Command,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Request, Fault> {
    let headers = headers.iter().map(|(name, it)| ((*name).to_owned(), (*it).to_owned()));
    let headers = Headers(headers.collect());
    session.input(Frame { command, headers, body: Bytes::copy_from_slice(body.as_bytes()) })
}

fn fault(said: Result<Request, Fault>) -> String {
    said.unwrap_err().0.into_owned()
}

#[test]
fn both_sides_speak_the_newest_version_that_both_know() {
    for (offered, wanted) in
        [("1.0,1.1,1.2", "1.2"), ("1.1, 1.0", "1.1"), ("1.0", "1.0"), ("2.0,1.1", "1.1")]
    {
        assert_eq!(connected(offered).version().text(), wanted);
    }
    let mut session = Session::new(Arc::new(Config::default()));
    let said = say(&mut session, Command::Connect, &[("accept-version", "2.1")], "");
    assert_eq!(fault(said), "the supported versions are 1.0, 1.1 and 1.2");
    let error = String::from_utf8(session.error("no", None)).unwrap();
    assert!(error.contains("version:1.0,1.1,1.2\n"), "{error}");
    let mut session = Session::new(Arc::new(Config::default()));
    say(&mut session, Command::Connect, &[], "").unwrap();
    assert_eq!(session.version(), Version::V10, "1.0 did not say");
}

#[test]
fn a_key_is_taken_in_each_of_its_forms() {
    let check = |headers: &[(&str, &str)]| {
        let mut session = Session::new(Arc::new(Config::default()));
        match say(&mut session, Command::Connect, headers, "") {
            Ok(Request::Connect(connect)) => Ok(connect.key),
            Ok(_) => panic!("not a CONNECT"),
            Err(fault) => Err(fault.0.into_owned()),
        }
    };
    let key = Ok(Some(("id".to_owned(), "secret".to_owned())));
    assert_eq!(check(&[("Authorization", "Bearer madang_id_secret")]), key);
    assert_eq!(check(&[("authorization", "bearer madang_id_secret")]), key);
    assert_eq!(check(&[("passcode", "madang_id_secret"), ("login", "mina")]), key);
    assert_eq!(check(&[("login", "id"), ("passcode", "secret")]), key);
    assert_eq!(check(&[]), Ok(None));
    assert_eq!(check(&[("login", "id")]), Ok(None));
    assert!(check(&[("Authorization", "Basic abc")]).is_err());
    assert!(check(&[("heart-beat", "soon")]).is_err());
}

#[test]
fn nothing_is_done_before_connect_and_connect_is_done_once() {
    let mut session = Session::new(Arc::new(Config::default()));
    let said = say(&mut session, Command::Send, &[("destination", "/topic/a")], "x");
    assert_eq!(fault(said), "SEND before CONNECT");
    let mut session = connected("1.2");
    assert_eq!(fault(say(&mut session, Command::Connect, &[], "")), "a second CONNECT");
}

#[test]
fn what_the_server_says_itself_is_not_taken_from_a_sender() {
    let mut session = connected("1.2");
    let headers = [
        ("destination", "/topic/a"),
        ("sender", "somebody else"),
        ("message-id", "t.0.1"),
        ("content-type", "text/plain"),
        ("content-type", "second"),
        ("colour", "red"),
        ("receipt", "7"),
    ];
    let Ok(Request::Do { deeds, receipt }) = say(&mut session, Command::Send, &headers, "hi")
    else {
        panic!("a SEND does something");
    };
    assert_eq!(receipt.as_deref(), Some("7"));
    let [Deed::Send { draft, is_kept, .. }] = &deeds[..] else { panic!("one SEND") };
    assert!(is_kept);
    let wanted = [("content-type", "text/plain"), ("colour", "red")];
    assert_eq!(draft.headers, wanted.map(|(name, it)| (name.to_owned(), it.to_owned())));
}

#[test]
fn subscriptions_are_named_and_limited() {
    let config = Config { subscriptions_max: 2, ..Config::default() };
    let mut session = Session::new(Arc::new(config));
    say(&mut session, Command::Connect, &[("accept-version", "1.2")], "").unwrap();
    let mut subscribe =
        |headers: &[(&str, &str)]| match say(&mut session, Command::Subscribe, headers, "") {
            Ok(Request::Subscribe(subscribe)) => format!("{:?}", subscribe.resume),
            Ok(other) => panic!("{other:?}"),
            Err(fault) => fault.0.into_owned(),
        };
    let to = ("destination", "/topic/a");
    assert_eq!(subscribe(&[to]), "a SUBSCRIBE without an id");
    assert_eq!(subscribe(&[("id", "0")]), "the header destination is missing");
    assert_eq!(subscribe(&[to, ("id", "0"), ("ack", "often")]), "\"often\" is not a mode of ack");
    assert_eq!(
        subscribe(&[to, ("id", "0"), ("from", "x")]),
        "from is neither an offset nor earliest"
    );
    assert_eq!(
        subscribe(&[("destination", "/queue/a"), ("id", "0"), ("from", "1")]),
        "a queue has no place to resume from: what was not acknowledged comes again"
    );
    assert_eq!(subscribe(&[to, ("id", "0"), ("from", "7")]), "Some(After(7))");
    assert_eq!(subscribe(&[to, ("id", "0")]), "the subscription \"0\" is there already");
    assert_eq!(
        subscribe(&[to, ("id", "1"), ("resume", "t.2.9"), ("ack", "client")]),
        "Some(AfterMessage { partition: 2, offset: 9 })"
    );
    assert_eq!(subscribe(&[to, ("id", "2")]), "more than 2 subscriptions");
    assert_eq!(
        fault(say(&mut session, Command::Unsubscribe, &[("id", "9")], "")),
        "there is no subscription \"9\""
    );
}

/// A session with a subscription to a queue and messages of the rows 1 to 5 given out.
fn with_messages(version: &str, ack: &str) -> Session {
    let mut session = connected(version);
    let headers = [("destination", "/queue/a"), ("id", "s"), ("ack", ack)];
    say(&mut session, Command::Subscribe, &headers, "").unwrap();
    for row in 1..=5 {
        session.queue_head(0, row, 1, &mut Vec::new()).unwrap();
    }
    session
}

fn settled(said: Result<Request, Fault>) -> Result<Vec<u64>, String> {
    match said {
        Ok(Request::Do { deeds, .. }) => Ok(deeds
            .into_iter()
            .flat_map(|deed| match deed {
                Deed::Settle { rows, .. } => rows,
                Deed::Send { .. } => vec![],
            })
            .collect()),
        Ok(other) => panic!("{other:?}"),
        Err(fault) => Err(fault.0.into_owned()),
    }
}

#[test]
fn an_ack_stands_for_one_message_or_for_all_before_it() {
    let mut session = with_messages("1.2", "client-individual");
    let mut ack = |id: &str| settled(say(&mut session, Command::Ack, &[("id", id)], ""));
    assert_eq!(ack("0-2"), Ok(vec![3]));
    assert_eq!(ack("0-0"), Ok(vec![1]));
    assert_eq!(ack("0-2"), Err("the message does not wait for an acknowledgement".to_owned()));
    assert_eq!(ack("0-t"), Ok(vec![]), "a topic's message waits for nothing");
    for wrong in ["0-5", "1-0", "x", "0", ""] {
        assert_eq!(ack(wrong), Err(format!("no message waits for the id {wrong:?}")));
    }
    let mut session = with_messages("1.2", "client");
    let mut ack = |id: &str| settled(say(&mut session, Command::Ack, &[("id", id)], ""));
    assert_eq!(ack("0-2"), Ok(vec![1, 2, 3]));
    assert_eq!(ack("0-4"), Ok(vec![4, 5]));
    // 1.1 names the message and the subscription, 1.0 the message.
    let mut session = with_messages("1.1", "client-individual");
    let headers = [("message-id", "q.4"), ("subscription", "s")];
    assert_eq!(settled(say(&mut session, Command::Nack, &headers, "")), Ok(vec![4]));
    let mut session = with_messages("1.0", "client");
    let headers = [("message-id", "q.4")];
    assert_eq!(settled(say(&mut session, Command::Ack, &headers, "")), Ok(vec![1, 2, 3, 4]));
    assert_eq!(
        fault(say(&mut session, Command::Nack, &headers, "")),
        "NACK is not a command of STOMP 1.0"
    );
}

#[test]
fn an_ack_after_the_subscription_has_ended_is_of_no_effect() {
    let mut session = with_messages("1.2", "client");
    let said = say(&mut session, Command::Unsubscribe, &[("id", "s")], "").unwrap();
    assert_eq!(said, Request::Unsubscribe { number: 0, receipt: None });
    session.unsubscribe(0);
    assert_eq!(settled(say(&mut session, Command::Ack, &[("id", "0-2")], "")), Ok(vec![]));
}

#[test]
fn a_transaction_is_done_whole_or_not_at_all() {
    let mut session = with_messages("1.2", "client-individual");
    let tx = ("transaction", "t");
    let send = [("destination", "/queue/b"), tx];
    assert_eq!(
        fault(say(&mut session, Command::Send, &send, "x")),
        "there is no transaction \"t\""
    );
    let nothing = Request::Do { deeds: vec![], receipt: None };
    assert_eq!(say(&mut session, Command::Begin, &[tx], "").unwrap(), nothing);
    assert_eq!(
        fault(say(&mut session, Command::Begin, &[tx], "")),
        "the transaction \"t\" is open already"
    );
    assert_eq!(say(&mut session, Command::Send, &send, "x").unwrap(), nothing);
    assert_eq!(say(&mut session, Command::Ack, &[("id", "0-1"), tx], "").unwrap(), nothing);
    let Request::Do { deeds, receipt } =
        say(&mut session, Command::Commit, &[tx, ("receipt", "r")], "").unwrap()
    else {
        panic!("a COMMIT does something");
    };
    assert_eq!(receipt.as_deref(), Some("r"));
    assert!(matches!(&deeds[..], [Deed::Send { .. }, Deed::Settle { rows, .. }] if *rows == [2]));
    assert!(say(&mut session, Command::Commit, &[tx], "").is_err(), "it is over");
    // What is aborted was never there: the message still waits.
    say(&mut session, Command::Begin, &[tx], "").unwrap();
    say(&mut session, Command::Ack, &[("id", "0-0"), tx], "").unwrap();
    assert_eq!(say(&mut session, Command::Abort, &[tx], "").unwrap(), nothing);
    assert_eq!(settled(say(&mut session, Command::Ack, &[("id", "0-0")], "")), Ok(vec![1]));
}

#[test]
fn transactions_have_limits() {
    let config = Config {
        transactions_max: 1,
        transaction_frames_max: 2,
        transaction_bytes_max: 100,
        ..Config::default()
    };
    let mut session = Session::new(Arc::new(config));
    say(&mut session, Command::Connect, &[("accept-version", "1.2")], "").unwrap();
    let tx = ("transaction", "t");
    say(&mut session, Command::Begin, &[tx], "").unwrap();
    assert_eq!(
        fault(say(&mut session, Command::Begin, &[("transaction", "u")], "")),
        "more than 1 open transactions"
    );
    let send = [("destination", "/queue/b"), tx];
    let large = "x".repeat(101);
    assert_eq!(
        fault(say(&mut session, Command::Send, &send, &large)),
        "the transactions are larger than 100 bytes"
    );
    say(&mut session, Command::Send, &send, "x").unwrap();
    say(&mut session, Command::Send, &send, "x").unwrap();
    assert_eq!(
        fault(say(&mut session, Command::Send, &send, "x")),
        "a transaction of more than 2 frames"
    );
}

#[test]
fn a_message_s_head_says_what_differs_between_subscribers() {
    let mut session = connected("1.2");
    let headers = [("destination", "/queue/a"), ("id", "a:b"), ("ack", "client")];
    say(&mut session, Command::Subscribe, &headers, "").unwrap();
    let headers = [("destination", "/topic/a"), ("id", "1")];
    say(&mut session, Command::Subscribe, &headers, "").unwrap();
    let mut head = Vec::new();
    session.queue_head(0, 17, 2, &mut head).unwrap();
    assert_eq!(
        String::from_utf8(head).unwrap(),
        "MESSAGE\nsubscription:a\\cb\ndestination:/queue/a\nack:0-0\nredelivered:true\n"
    );
    let mut head = Vec::new();
    assert!(session.topic_head(1, &mut head));
    assert_eq!(String::from_utf8(head).unwrap(), "MESSAGE\nsubscription:1\n");
    assert!(!session.topic_head(2, &mut Vec::new()));
}
