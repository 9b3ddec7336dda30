//! STOMP over WebSocket and topics as server-sent events, with real clients: stompjs in Chromium, and frames by hand.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::{Browser, Stack, StompClient, within};

use crate::launch;

/// @stomp/stompjs as it is published.
const STOMPJS: &str = include_str!("../vendor/stomp.umd.min.js");

fn connect(stack: &Stack) -> StompClient {
    StompClient::connect(stack.http_address(), stack.token()).unwrap()
}

/// A page of the console's origin with stompjs in it.
fn page(stack: &Stack) -> Browser {
    let browser = Browser::open(1000, 700, "en").unwrap();
    browser.go(&format!("http://{}/", stack.http_address())).unwrap();
    browser.script(&format!("{STOMPJS}\nreturn typeof StompJs.Client")).unwrap();
    browser.until("stompjs is there", "return typeof StompJs === 'object'").unwrap();
    browser
}

#[test]
fn stompjs_subscribes_sends_acknowledges_and_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let browser = page(&stack);
    let script = r"
        window.got = []; window.jobs = []; window.errors = []; window.receipts = []; window.last = null; window.opened = 0;
        window.client = new StompJs.Client({
            brokerURL: 'ws://ADDRESS/v1/stomp',
            connectHeaders: { passcode: 'TOKEN' },
            reconnectDelay: 100, heartbeatIncoming: 1000, heartbeatOutgoing: 1000,
        });
        client.onStompError = (frame) => errors.push(frame.headers.message);
        client.onConnect = (frame) => {
            opened += 1;
            window.version = frame.headers.version;
            const headers = { id: 'chat' };
            if (last) headers.resume = last;
            client.subscribe('/topic/chat', (message) => {
                last = message.headers['message-id'];
                got.push(message.headers.kind === 'bytes' ? [...message.binaryBody].join(' ') : message.body);
            }, headers);
            client.subscribe('/queue/jobs', (message) => {
                jobs.push(message.body);
                const tx = client.begin();
                client.publish({ destination: '/topic/chat', body: 'did ' + message.body, headers: { transaction: tx.id } });
                message.ack({ transaction: tx.id });
                tx.commit();
            }, { id: 'jobs', ack: 'client-individual' });
        };
        client.activate();";
    let script = script.replace("ADDRESS", stack.http_address()).replace("TOKEN", stack.token());
    browser.script(&script).unwrap();
    browser.until("it is connected", "return client.connected && version === '1.2'").unwrap();
    browser
        .script(
            "client.watchForReceipt('r1', () => receipts.push('r1'));
             client.publish({ destination: '/topic/chat', body: 'hello 안녕', headers: { receipt: 'r1' } });
             client.publish({ destination: '/topic/chat', binaryBody: new Uint8Array([0, 255, 1]), headers: { kind: 'bytes' } });
             client.publish({ destination: '/queue/jobs', body: 'wash' });",
        )
        .unwrap();
    browser.until("the receipt", "return receipts.join() === 'r1'").unwrap();
    browser
        .until("all messages", "return got.join('|') === 'hello 안녕|0 255 1|did wash'")
        .unwrap();
    // Cut by an administrator: stompjs comes back and misses nothing.
    let mut sender = connect(&stack);
    let list = stack.api().all("/v1/sockets/connections").unwrap();
    let browsers = list.iter().find(|it| it["subscriptions"] == 2).unwrap();
    assert_eq!(
        (browsers["transport"].as_str(), browsers["version"].as_str()),
        (Some("websocket"), Some("1.2"))
    );
    let path = format!("/v1/sockets/connections/{}", browsers["id"].as_str().unwrap());
    stack.api().delete(&path).unwrap().ok().unwrap();
    sender.done("SEND\ndestination:/topic/chat\n\nmeanwhile").unwrap();
    browser.until("it came back", "return opened === 2 && got.length === 4").unwrap();
    sender.done("SEND\ndestination:/topic/chat\n\nafterwards").unwrap();
    browser
        .until("nothing is missed", "return got.slice(3).join('|') === 'meanwhile|afterwards'")
        .unwrap();
    assert_eq!(browser.script("return errors.join()").unwrap(), "closed by an administrator");
    // Heart-beats of both sides keep it open.
    within(Duration::from_mins(1), "some heart-beats", || {
        let beats = browser.script("window.beats = (window.beats || 0) + 1; return beats").unwrap();
        Ok((beats.as_i64() > Some(100)).then_some(()))
    })
    .unwrap();
    assert_eq!(browser.script("return opened").unwrap(), 2);
    let topics = stack.api().all("/v1/sockets/topics").unwrap();
    assert_eq!(topics[0]["destination"], "/topic/chat");
    let queues = stack.api().all("/v1/sockets/queues").unwrap();
    assert_eq!(
        queues[0],
        json!({"name": "jobs", "messages": 0, "unacknowledged": 0, "consumers": 1})
    );
}

#[test]
fn a_signed_in_page_needs_no_key_and_another_origin_s_page_gets_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let account = json!({"email": "mina@example.com", "password": "a long password of mina", "organisation": "Mina"});
    stack.stranger().post("/v1/accounts", &account).unwrap().ok().unwrap();
    let session = json!({"email": "mina@example.com", "password": "a long password of mina"});
    let signed_in = stack.stranger().post("/v1/session", &session).unwrap();
    let cookie = signed_in.headers.iter().find(|(name, _)| name == "set-cookie").unwrap();
    let cookie = cookie.1.split(';').next().unwrap();
    let address = stack.http_address();
    let said = |headers: &str| {
        let mut client = StompClient::open(address, headers).unwrap();
        client.say("CONNECT\naccept-version:1.2\n\n").unwrap();
        let heard = client.hear().unwrap().unwrap();
        (client, heard)
    };
    let own = format!("cookie: {cookie}\r\norigin: http://{address}\r\n");
    let (mut client, heard) = said(&own);
    assert_eq!(
        (heard.command.as_str(), heard.header("user-name")),
        ("CONNECTED", "mina@example.com")
    );
    for foreign in [
        format!("cookie: {cookie}\r\norigin: http://elsewhere.example\r\n"),
        format!("cookie: {cookie}\r\n"),
        String::new(),
    ] {
        let (mut client, heard) = said(&foreign);
        assert_eq!(
            (heard.command.as_str(), heard.text().as_str()),
            ("ERROR", "no valid credentials")
        );
        assert!(client.hear().unwrap().is_none(), "it is closed");
    }
    // The session ends, and the connection with it.
    let browser = stack.stranger().header("cookie", cookie).header("sec-fetch-site", "same-origin");
    browser.delete("/v1/session").unwrap().ok().unwrap();
    let heard = client.hear().unwrap().unwrap();
    assert_eq!(heard.text(), "the key or the session is not valid any more");
    // What is no WebSocket is told so.
    assert_eq!(stack.stranger().get("/v1/stomp").unwrap().status, 426);
}

#[test]
fn grants_are_asked_for_and_a_revoked_key_is_out() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let grants = json!([
        {"action": "sockets.*", "resource": "sockets/topic/chat.*"},
        {"action": "sockets.subscribe", "resource": "sockets/topic/devices.*"},
    ]);
    let key = json!({"label": "chat", "grants": grants});
    let key = stack.api().post("/v1/keys", &key).unwrap().ok().unwrap();
    let token = key["token"].as_str().unwrap();
    let address = stack.http_address();
    for (frame, wanted) in [
        (
            "SUBSCRIBE\nid:1\ndestination:/topic/other\n\n",
            "not allowed: sockets.subscribe on sockets/topic/other",
        ),
        (
            "SEND\ndestination:/topic/other\n\nx",
            "not allowed: sockets.publish on sockets/topic/other",
        ),
        // Readings want the right to read them too.
        (
            "SUBSCRIBE\nid:1\ndestination:/topic/devices.roof\n\n",
            "not allowed: sockets.subscribe on sockets/topic/devices.roof",
        ),
        (
            "SEND\ndestination:/topic/alerts\n\nx",
            "not allowed: sockets.publish on sockets/topic/alerts",
        ),
    ] {
        let mut client = StompClient::connect(address, token).unwrap();
        client.say(frame).unwrap();
        assert_eq!(client.hear().unwrap().unwrap().text(), wanted);
    }
    let mut client = StompClient::connect(address, token).unwrap();
    client.done("SUBSCRIBE\nid:1\ndestination:/topic/chat.7").unwrap();
    client.say("SEND\ndestination:/topic/chat.7\n\nhello").unwrap();
    assert_eq!(client.message().unwrap().text(), "hello");
    let path = format!("/v1/keys/{}", key["id"].as_str().unwrap());
    stack.api().delete(&path).unwrap().ok().unwrap();
    #[allow(clippy::disallowed_methods, reason = "the time is what is tested")]
    let revoked = Instant::now();
    let heard = client.hear().unwrap().unwrap();
    assert_eq!(heard.text(), "the key or the session is not valid any more");
    assert!(revoked.elapsed() < Duration::from_secs(10), "{:?}", revoked.elapsed());
    assert!(StompClient::connect(address, token).is_err());
}

#[test]
fn readings_and_alerts_are_topics_by_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let reading = |temperature: f64, minute: u32| {
        let reading = json!({"sensor": "weather",
            "time": format!("2013-01-01T06:{minute:02}:00Z"), "values": {"temp": temperature}});
        let path = "/v1/devices/roof-1/readings";
        stack.api().post(path, &reading).unwrap().ok().unwrap();
    };
    let sensor = json!({"name": "weather", "values": [{"name": "temp", "unit": "°F"}]});
    stack.api().post("/v1/sensors", &sensor).unwrap().ok().unwrap();
    let device = json!({"name": "roof-1", "label": null, "latitude": 37.5, "longitude": 127.0, "sensors": ["weather"]});
    stack.api().post("/v1/devices", &device).unwrap().ok().unwrap();
    let rule = json!({"name": "hot", "sensor": "weather", "enabled": true,
        "conditions": [{"value": "temp", "ranges": [{"min": 90.0, "max": null}]}],
        "window": null, "cooldown_seconds": 0, "actions": []});
    stack.api().post("/v1/rules", &rule).unwrap().ok().unwrap();
    let mut client = connect(&stack);
    client.done("SUBSCRIBE\nid:r\ndestination:/topic/devices.roof-1").unwrap();
    client.done("SUBSCRIBE\nid:a\ndestination:/topic/alerts").unwrap();
    reading(95.0, 1);
    let mut heard = [client.message().unwrap(), client.message().unwrap()];
    heard.sort_by_key(|it| it.header("subscription").to_owned());
    let [alert, told] = heard;
    let value: serde_json::Value = serde_json::from_slice(&told.body).unwrap();
    assert_eq!(value["values"]["temp"], 95.0, "{value}");
    assert!(alert.text().contains("hot"), "{}", alert.text());
    drop(client);
    reading(70.0, 2);
    let mut client = connect(&stack);
    let resume = told.header("message-id");
    client
        .say(&format!("SUBSCRIBE\nid:r\ndestination:/topic/devices.roof-1\nresume:{resume}\n\n"))
        .unwrap();
    assert!(client.message().unwrap().text().contains("70"));
}

#[test]
fn what_was_acknowledged_is_there_after_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let mut client = connect(&stack);
    client.done("SUBSCRIBE\nid:1\ndestination:/topic/chat").unwrap();
    client.say("SEND\ndestination:/topic/chat\n\nfirst").unwrap();
    let first = client.message().unwrap();
    client.done("UNSUBSCRIBE\nid:1").unwrap();
    for number in 0..20 {
        client.done(&format!("SEND\ndestination:/topic/chat\n\n{number}")).unwrap();
        client.done(&format!("SEND\ndestination:/queue/work\n\n{number}")).unwrap();
    }
    stack.kill().unwrap();
    let stack = launch(&folder).start().unwrap();
    let mut client = connect(&stack);
    let resume = first.header("message-id");
    client.say(&format!("SUBSCRIBE\nid:1\ndestination:/topic/chat\nresume:{resume}\n\n")).unwrap();
    for number in 0..20 {
        assert_eq!(client.message().unwrap().text(), number.to_string());
    }
    client.say("SUBSCRIBE\nid:2\ndestination:/queue/work\nack:client-individual\n\n").unwrap();
    for number in 0..20 {
        let message = client.message().unwrap();
        assert_eq!(message.text(), number.to_string());
        client.say(&format!("ACK\nid:{}\n\n", message.header("ack"))).unwrap();
    }
    client.done("BEGIN\ntransaction:t").unwrap();
    let queues = stack.api().all("/v1/sockets/queues").unwrap();
    assert_eq!(queues[0]["messages"], 0, "{queues:?}");
}

#[test]
fn an_event_stream_of_a_topic_resumes_by_its_last_id() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let mut events = stack.api().events("/v1/topics/room%2F7/events").unwrap();
    let mut client = connect(&stack);
    client.done("SEND\ndestination:/topic/room/7\n\none").unwrap();
    client.done("SEND\ndestination:/topic/room/7\n\ntwo").unwrap();
    let (id, event, data) = events.next_event().unwrap().unwrap();
    assert_eq!((event.as_str(), data.as_str()), ("message", "one"));
    drop(events);
    client.done("SEND\ndestination:/topic/room/7\n\nthree").unwrap();
    let api = stack.api().header("last-event-id", &id);
    let mut events = api.events("/v1/topics/room%2F7/events").unwrap();
    for wanted in ["two", "three"] {
        assert_eq!(events.next_event().unwrap().unwrap().2, wanted);
    }
    assert_eq!(stack.stranger().get("/v1/topics/a/events").unwrap().status, 401);
    assert_eq!(stack.api().get("/v1/topics/a%20b/events").unwrap().status, 422);
}

#[test]
fn the_console_shows_who_is_connected_and_disconnects_them() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let mut client = connect(&stack);
    client.done("SUBSCRIBE\nid:1\ndestination:/topic/chat.7").unwrap();
    client.done("SEND\ndestination:/queue/jobs\n\nwash").unwrap();
    let browser = Browser::open(1280, 900, "ko-KR").unwrap();
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sockets");
    browser.go(&stack.link().unwrap()).unwrap();
    browser.click("set-password-skip").unwrap();
    browser.click("nav-sockets").unwrap();
    browser.find("sockets-list").unwrap();
    assert!(browser.text("topics-list").unwrap().contains("/topic/chat.7"));
    assert!(browser.text("queues-list").unwrap().contains("/queue/jobs"));
    browser.screenshot(&shots.join("list.png")).unwrap();
    browser.script("document.documentElement.dataset.theme = 'dark'").unwrap();
    browser.screenshot(&shots.join("dark.png")).unwrap();
    browser.click("connection-close").unwrap();
    browser.click("confirm-yes").unwrap();
    assert_eq!(client.hear().unwrap().unwrap().text(), "closed by an administrator");
    let none = "return document.querySelector('[data-test=sockets-count]').dataset.count === '0'";
    browser.until("nobody is connected", none).unwrap();
    assert_eq!(browser.complaints().unwrap(), [""; 0]);
}
