use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base::access::Door;
use serde_json::{Value, json};

use crate::http::{Http, Reply};
use crate::mqtt_client::MqttClient;
use crate::proofs::{Ground, Report};
use crate::resp::{self, Resp};
use crate::stack::{Launch, Stack};
use crate::stomp_client::StompClient;

const DOORS: [Door; 4] = [Door::Http, Door::Mqtt, Door::Resp, Door::Stomp];
/// What is asked at doors other than HTTP; a test of the sources fails when an action is neither here nor in the
/// `OpenAPI` document.
pub const OTHER_ACTIONS: &[&str] = &[
    "mqtt.publish",
    "mqtt.subscribe",
    "mqtt.client",
    "devices.register",
    "kv.read",
    "kv.write",
    "kv.publish",
    "kv.subscribe",
    "kv.admin",
    "sockets.subscribe",
    "sockets.publish",
];
const PASSWORD: &str = "correct horse battery";

/// Action × role × organisation × door, each cell asked from outside: who was granted it may; who was granted everything
/// else, or it for something else, may not. The rows of HTTP come from the `OpenAPI` document; those of the other doors
/// stand here. A door without a row does not compile.
pub fn rights(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    let stack = Launch::new(&ground.binary, folder.path()).start()?;
    let people = People::make(&stack)?;
    let mut table = Table::default();
    for door in DOORS {
        match door {
            Door::Http => http(&stack, &people, &mut table)?,
            Door::Mqtt => {
                mqtt(&stack, &people, &mut table)?;
                mqtt_clients(&stack, &people, &mut table)?;
                mqtt_devices(&stack, &mut table)?;
            }
            Door::Resp => resp(&stack, &people, &mut table)?,
            Door::Stomp => stomp(&stack, &people, &mut table)?,
        }
    }
    for (door, cells) in &table.cells {
        report.figure(format!("{door}: {cells} cells"));
    }
    let cells: usize = table.cells.values().sum();
    report.bound(table.wrong.is_empty(), format!("{cells} cells, {} wrong", table.wrong.len()));
    report.short.extend(table.wrong);
    let missing: Vec<_> =
        OTHER_ACTIONS.iter().filter(|action| !table.asked.contains(**action)).collect();
    let line = format!("{} actions asked, of other doors missing: {missing:?}", table.asked.len());
    report.bound(missing.is_empty() && table.asked.len() > 35, line);
    Ok(report)
}

#[derive(Default)]
struct Table {
    cells: BTreeMap<&'static str, usize>,
    asked: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Table {
    fn cell(
        &mut self,
        (door, action): (&'static str, &str),
        (may, did): (bool, bool),
        what: impl FnOnce() -> String,
    ) {
        *self.cells.entry(door).or_default() += 1;
        self.asked.insert(action.to_owned());
        if may != did {
            let found = if did { "let in" } else { "refused" };
            self.wrong.push(format!("{door}: {}: {found}", what()));
        }
    }
}

/// Everybody who asks, but for keys of one action.
struct People {
    /// The administrator of another organisation, by a key with every right there.
    other: Http,
    other_key: Key,
    roles: Vec<Role>,
}

/// Who it is, what they show, and what their role may do.
type Role = (&'static str, String, fn(&str) -> bool);

impl People {
    fn make(stack: &Stack) -> Result<Self> {
        let (member_token, member_cookie) = member(stack)?;
        let (other, other_key) = other_organisation(stack)?;
        let bearer = |token: &str| format!("authorization: Bearer {token}");
        let shown = |cookie: &str| format!("cookie: {cookie}\r\nsec-fetch-site: same-origin");
        let roles: Vec<Role> = vec![
            ("a key with everything", bearer(stack.token()), |_| true),
            ("an administrator's browser", shown(&administrator(stack)?), |_| true),
            ("a member's app", bearer(&member_token), is_of_members),
            ("a member's browser", shown(&member_cookie), is_of_members),
            ("a user", format!("authorization: Token {}", user(stack)?), is_of_users),
            ("another organisation's administrator", bearer(other_key.text("token")), |_| true),
        ];
        Ok(Self { other, other_key, roles })
    }
}

/// What `[identity] member_grants` says without being set.
fn is_of_members(action: &str) -> bool {
    let groups = ["devices.", "readings.", "rules.", "alerts."];
    groups.iter().any(|group| action.starts_with(group))
        || matches!(action, "commands.send" | "lake.query" | "articles.write")
}

/// What `[identity] user_grants` says without being set.
fn is_of_users(action: &str) -> bool {
    action == "articles.write"
}

fn cookie(reply: &Reply) -> Result<String> {
    let set = reply.headers.iter().find(|(name, _)| name == "set-cookie").context("a cookie")?;
    Ok(set.1.split(';').next().unwrap_or_default().to_owned())
}

/// The cookie of the first administrator, who comes by the link of the first start.
fn administrator(stack: &Stack) -> Result<String> {
    let link = stack.link()?;
    let token = link.split_once("token=").context("a token")?.1;
    cookie(&stack.stranger().post("/v1/session/link", &json!({ "token": token }))?)
}

/// What somebody shows who was invited as a member: an app's text, and a browser's cookie.
fn member(stack: &Stack) -> Result<(String, String)> {
    let person = json!({"email": "member@example.org", "password": PASSWORD});
    let invited = json!({"email": person["email"], "role": "member"});
    let invited = stack.api().post("/v1/invitations", &invited)?.ok()?;
    let accepted = json!({"token": invited["token"], "password": PASSWORD});
    stack.stranger().post("/v1/invitations/accept", &accepted)?.ok()?;
    let tokens = stack.stranger().post("/v1/tokens", &person)?.ok()?;
    let token = tokens["access_token"].as_str().context("an access token")?.to_owned();
    Ok((token, cookie(&stack.stranger().post("/v1/session", &person)?)?))
}

/// Somebody who only uses what the organisation offers.
fn user(stack: &Stack) -> Result<String> {
    let person = json!({"user": {"username": "reader", "email": "reader@example.org", "password": PASSWORD}});
    let made = stack.stranger().post("/conduit/api/users", &person)?.ok()?;
    made["user"]["token"].as_str().map(str::to_owned).context("a token")
}

fn other_organisation(stack: &Stack) -> Result<(Http, Key)> {
    let person = json!({"email": "other@example.org", "password": PASSWORD});
    stack.stranger().post("/v1/accounts", &person)?.ok()?;
    let cookie = cookie(&stack.stranger().post("/v1/session", &person)?)?;
    let browser =
        stack.stranger().header("cookie", &cookie).header("sec-fetch-site", "same-origin");
    let key = Key::new(&browser, &[("*", "*")])?;
    Ok((browser, key))
}

/// Articles are people's, and of the organisation that serves them: who has the grant and is neither is refused, or for the
/// body before that; nothing is done.
fn is_for(action: &str, who: &str) -> bool {
    let is_key = who.contains("key");
    let is_other = who.contains("another organisation");
    !match action {
        "articles.write" => is_key || is_other,
        "articles.moderate" => is_other,
        _ => false,
    }
}

/// A key with these grants.
struct Key(Value);

impl Key {
    fn new(maker: &Http, grants: &[(&str, &str)]) -> Result<Self> {
        let grants = grants.iter().map(|(action, on)| json!({"action": action, "resource": on}));
        let body = json!({"label": "cell", "grants": grants.collect::<Vec<_>>()});
        Ok(Self(maker.post("/v1/keys", &body)?.ok()?))
    }

    fn text(&self, name: &str) -> &str {
        self.0[name].as_str().expect("a key has its texts")
    }

    fn shown(&self) -> String {
        format!("authorization: Bearer {}", self.text("token"))
    }
}

struct Operation {
    method: String,
    path: String,
    action: String,
    has_body: bool,
    /// From this machine nobody needs to be somebody.
    is_open: bool,
}

fn operations(stack: &Stack) -> Result<Vec<Operation>> {
    let document = stack.stranger().get("/openapi.json")?.ok()?;
    let paths = document["paths"].as_object().context("paths")?;
    let mut found = vec![];
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().context("operations")? {
            let Some(action) = operation["x-action"].as_str() else { continue };
            let security = operation["security"].as_array().context("security")?;
            // A name that nobody has.
            let filled = path.split('/').map(|part| {
                let is_name = part.starts_with('{');
                if is_name { "0192d4e0-7c1b-7cc3-8f7e-1a2b3c4d5e6f" } else { part }
            });
            found.push(Operation {
                method: method.to_uppercase(),
                path: filled.collect::<Vec<_>>().join("/"),
                action: action.to_owned(),
                has_body: operation.get("requestBody").is_some(),
                is_open: security.contains(&json!({})),
            });
        }
    }
    ensure!(found.len() > 100, "{} operations have an action", found.len());
    Ok(found)
}

impl Operation {
    /// The status, without waiting for streams to end.
    fn ask(&self, stack: &Stack, shown: &str) -> Result<u16> {
        let mut stream = TcpStream::connect(stack.http_address())?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let body = if self.has_body { "{}" } else { "" };
        let shown = if shown.is_empty() { String::new() } else { format!("{shown}\r\n") };
        write!(
            stream,
            "{} {} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n{shown}\r\n{body}",
            self.method,
            self.path,
            stack.http_address(),
            body.len(),
        )?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let status = line.split(' ').nth(1).context("a status")?;
        Ok(status.parse()?)
    }
}

fn http(stack: &Stack, people: &People, table: &mut Table) -> Result<()> {
    let operations = operations(stack)?;
    let actions: BTreeSet<&str> = operations.iter().map(|it| &*it.action).collect();
    for action in actions.iter().copied() {
        let others = others(&actions, action);
        let others: Vec<(&str, &str)> = others.iter().map(|it| (&**it, "*")).collect();
        let mut rows: Vec<(&str, String, bool)> = people
            .roles
            .iter()
            .map(|(who, shown, may)| (*who, shown.clone(), may(action)))
            .collect();
        for (maker, of) in [
            (&stack.api(), ["a key with it", "a key with all else", "a key with it elsewhere"]),
            (
                &people.other,
                [
                    "another organisation's key with it",
                    "another organisation's key with all else",
                    "another organisation's key with it elsewhere",
                ],
            ),
        ] {
            let grants: [&[(&str, &str)]; 3] =
                [&[(action, "*")], &others, &[(action, "nowhere/*")]];
            for ((who, grants), may) in of.into_iter().zip(grants).zip([true, false, false]) {
                rows.push((who, Key::new(maker, grants)?.shown(), may));
            }
        }
        rows.push(("nobody", String::new(), false));
        for operation in operations.iter().filter(|it| it.action == action) {
            for (who, shown, may) in &rows {
                let status = operation.ask(stack, shown)?;
                let is_granted = *may || operation.is_open;
                let may = is_granted && is_for(action, who);
                let expected = if shown.is_empty() { 401 } else { 403 };
                let did = match (is_granted, may) {
                    (true, true) => !matches!(status, 401 | 403),
                    (true, false) => !(400..500).contains(&status),
                    (false, _) => status != expected,
                };
                table.cell(("http", action), (may, did), || {
                    format!("{} {} by {who}, status {status}", operation.method, operation.path)
                });
            }
        }
    }
    Ok(())
}

/// Everything but one action, in few grants: the other areas, and the rest of its own.
fn others(actions: &BTreeSet<&str>, action: &str) -> Vec<String> {
    let area_of = |action: &str| action.split('.').next().unwrap_or_default().to_owned();
    let area = area_of(action);
    let mut found = BTreeSet::new();
    for other in actions.iter().chain(OTHER_ACTIONS).filter(|other| **other != action) {
        let is_near = area_of(other) == area;
        found.insert(if is_near { (*other).to_owned() } else { format!("{}.*", area_of(other)) });
    }
    found.into_iter().collect()
}

fn connect(stack: &Stack, key: &Key, name: &str) -> Result<MqttClient> {
    let (user, password) = (key.text("mqtt_user"), key.text("mqtt_password"));
    MqttClient::connect(stack.mqtt_address(), &format!("{user}-{name}"), user, password)
}

/// Grants of one deed on one topic each, by the administrator.
fn mqtt(stack: &Stack, people: &People, table: &mut Table) -> Result<()> {
    const TOPICS: [&str; 2] = ["cell/a", "cell/b"];
    let actions = ["mqtt.subscribe", "mqtt.publish"];
    let mut keys = vec![];
    for action in actions {
        for topic in TOPICS {
            let on = format!("mqtt/{topic}");
            keys.push(((action, topic), Key::new(&stack.api(), &[(action, &on)])?));
        }
    }
    let hearer = Key::new(&stack.api(), &[("mqtt.subscribe", "*")])?;
    let mut hearer = connect(stack, &hearer, "hearer")?;
    ensure!(hearer.subscribe("cell/#")? != 0x80, "nobody may hear");
    let marker = Key::new(&stack.api(), &[("mqtt.publish", "mqtt/cell/mark")])?;
    let mut marker = connect(stack, &marker, "marker")?;
    for (has, key) in &keys {
        for topic in TOPICS {
            let did = connect(stack, key, "s")?.subscribe(topic)? != 0x80;
            let may = *has == ("mqtt.subscribe", topic);
            table.cell(("mqtt", "mqtt.subscribe"), (may, did), || {
                format!("subscribes to {topic} with {has:?}")
            });
            let did = is_heard((&mut hearer, &mut marker), connect(stack, key, "p")?, topic)?;
            let may = *has == ("mqtt.publish", topic);
            table.cell(("mqtt", "mqtt.publish"), (may, did), || {
                format!("publishes to {topic} with {has:?}")
            });
        }
    }
    // With every right in another organisation nothing arrives in this one.
    let theirs = connect(stack, &people.other_key, "p")?;
    let did = is_heard((&mut hearer, &mut marker), theirs, "cell/a")?;
    table.cell(("mqtt", "mqtt.publish"), (false, did), || "another organisation's".to_owned());
    let mut stranger = MqttClient::open(stack.mqtt_address())?;
    let did = stranger.log_in("nobody", "0192d4e07c1b7cc38f7e1a2b3c4d5e6f", "wrong")? == 0;
    table.cell(("mqtt", "mqtt.publish"), (false, did), || "nobody".to_owned());
    Ok(())
}

/// Whose session of a client another key may take over.
fn mqtt_clients(stack: &Stack, people: &People, table: &mut Table) -> Result<()> {
    let owner = Key::new(&stack.api(), &[("mqtt.subscribe", "*")])?;
    let comes = |key: &Key, client: &str| -> Result<(MqttClient, bool)> {
        let mut opened = MqttClient::open(stack.mqtt_address())?;
        let code = opened.log_in(client, key.text("mqtt_user"), key.text("mqtt_password"))?;
        Ok((opened, code == 0))
    };
    for (number, (action, on, may)) in [
        ("mqtt.client", "client/cell-0", true),
        ("mqtt.client", "client/cell-0", false),
        ("mqtt.publish", "*", false),
        ("mqtt.subscribe", "*", false),
    ]
    .into_iter()
    .enumerate()
    {
        let client = format!("cell-{number}");
        let key = Key::new(&stack.api(), &[(action, on)])?;
        let (_held, is_held) = comes(&owner, &client)?;
        ensure!(is_held, "{client} is not free");
        let (_taken, did) = comes(&key, &client)?;
        table.cell(("mqtt", "mqtt.client"), (may, did), || {
            format!("takes {client} with {action} on {on}")
        });
    }
    // Another organisation has clients of its own by that name.
    let (mut held, _) = comes(&owner, "cell-own")?;
    let (_theirs, is_in) = comes(&people.other_key, "cell-own")?;
    let is_held = held.subscribe("cell/still").is_ok();
    table.cell(("mqtt", "mqtt.client"), (false, !(is_in && is_held)), || {
        "another organisation's takes one of the same name".to_owned()
    });
    Ok(())
}

/// Who may make a device known by its first reading.
fn mqtt_devices(stack: &Stack, table: &mut Table) -> Result<()> {
    const DEVICES: [&str; 2] = ["cell-1", "cell-2"];
    const READING: &[u8] =
        br#"{"sensor":"cell","time":"2013-01-01T06:00:00Z","values":{"temp":1.5}}"#;
    for has in ["nothing", "device/cell-1", "device/cell-2"] {
        let mut grants = vec![("mqtt.publish", "mqtt/data/*"), ("devices.register", has)];
        if has == "nothing" {
            grants.pop();
        }
        let key = Key::new(&stack.api(), &grants)?;
        for device in DEVICES {
            let path = format!("/v1/devices/{device}");
            let mut client = connect(stack, &key, "d")?;
            client.publish(&format!("data/{device}"), 1, READING)?;
            client.puback()?;
            let did = stack.api().get(&path)?.status == 200;
            let may = has == format!("device/{device}");
            table.cell(("mqtt", "devices.register"), (may, did), || {
                format!("makes {device} known with {has}")
            });
            if did {
                stack.api().delete(&path)?.ok()?;
            }
        }
    }
    Ok(())
}

/// Whether what somebody publishes arrives.
fn is_heard(
    (hearer, marker): (&mut MqttClient, &mut MqttClient),
    mut client: MqttClient,
    topic: &str,
) -> Result<bool> {
    client.publish(topic, 1, b"cell")?;
    client.puback()?;
    // What comes after it came over the same way.
    marker.publish("cell/mark", 1, b"mark")?;
    marker.puback()?;
    let mut is_heard = false;
    loop {
        let (heard, _) = hearer.message()?;
        if heard == "cell/mark" {
            return Ok(is_heard);
        }
        is_heard |= heard == topic;
    }
}

fn resp(stack: &Stack, people: &People, table: &mut Table) -> Result<()> {
    let deeds: [(&str, &str, &[&str]); 9] = [
        ("kv.read", "kv/a", &["GET", "a"]),
        ("kv.read", "kv/b", &["GET", "b"]),
        ("kv.write", "kv/a", &["SET", "a", "1"]),
        ("kv.write", "kv/b", &["SET", "b", "1"]),
        ("kv.publish", "kv-channel/a", &["PUBLISH", "a", "1"]),
        ("kv.publish", "kv-channel/b", &["PUBLISH", "b", "1"]),
        ("kv.subscribe", "kv-channel/a", &["SUBSCRIBE", "a"]),
        ("kv.subscribe", "kv-channel/b", &["SUBSCRIBE", "b"]),
        ("kv.admin", "*", &["CONFIG", "GET", "maxmemory"]),
    ];
    let opened = |key: &Key| -> Result<Resp> {
        let mut client = Resp::connect(stack.resp_address())?;
        client.done(&["AUTH", key.text("mqtt_user"), key.text("mqtt_password")])?;
        Ok(client)
    };
    for (action, on, _) in deeds {
        let key = Key::new(&stack.api(), &[(action, on)])?;
        for (wanted, path, request) in deeds {
            let answer = opened(&key)?.ask(request)?;
            let did = !matches!(&answer, resp::Value::Error(text) if text.starts_with("NOPERM"));
            let may = (wanted, path) == (action, on);
            table.cell(("resp", wanted), (may, did), || {
                format!("{request:?} with {action} on {on}: {answer:?}")
            });
        }
    }
    // With every right in another organisation the keys of this one are not there.
    let mut ours = opened(&Key::new(&stack.api(), &[("kv.*", "*")])?)?;
    ours.done(&["SET", "a", "ours"])?;
    let seen = opened(&people.other_key)?.done(&["GET", "a"])?;
    let did = seen != resp::Value::Null;
    table.cell(("resp", "kv.read"), (false, did), || "GET of another organisation".to_owned());
    let nobody = Resp::connect(stack.resp_address())?.ask(&["GET", "a"])?;
    let did = !matches!(nobody, resp::Value::Error(text) if text.starts_with("NOAUTH"));
    table.cell(("resp", "kv.read"), (false, did), || "GET by nobody".to_owned());
    Ok(())
}

fn stomp(stack: &Stack, people: &People, table: &mut Table) -> Result<()> {
    let deeds = [
        ("sockets.subscribe", "sockets/topic/a", "SUBSCRIBE\nid:0\ndestination:/topic/a"),
        ("sockets.subscribe", "sockets/topic/b", "SUBSCRIBE\nid:0\ndestination:/topic/b"),
        ("sockets.publish", "sockets/topic/a", "SEND\ndestination:/topic/a\n\nx"),
        ("sockets.publish", "sockets/topic/b", "SEND\ndestination:/topic/b\n\nx"),
    ];
    for (action, on, _) in deeds {
        let key = Key::new(&stack.api(), &[(action, on)])?;
        for (wanted, path, frame) in deeds {
            let mut client = StompClient::connect(stack.http_address(), key.text("token"))?;
            let did = client.done(frame).is_ok();
            let may = (wanted, path) == (action, on);
            table
                .cell(("stomp", wanted), (may, did), || format!("{frame:?} with {action} on {on}"));
        }
    }
    // With every right in another organisation its frames go to its own topic of that name.
    let key = Key::new(&stack.api(), &[("sockets.*", "*")])?;
    let mut ours = StompClient::connect(stack.http_address(), key.text("token"))?;
    ours.done("SUBSCRIBE\nid:0\ndestination:/topic/own")?;
    let theirs = people.other_key.text("token");
    let mut theirs = StompClient::connect(stack.http_address(), theirs)?;
    theirs.done("SEND\ndestination:/topic/own\n\ntheirs")?;
    let mut second = StompClient::connect(stack.http_address(), key.text("token"))?;
    second.done("SEND\ndestination:/topic/own\n\nours")?;
    let heard = ours.message()?.text();
    table.cell(("stomp", "sockets.publish"), (false, heard != "ours"), || {
        format!("another organisation's: {heard:?}")
    });
    let nobody = StompClient::connect(stack.http_address(), "let me in").is_ok();
    table.cell(("stomp", "sockets.subscribe"), (false, nobody), || "nobody".to_owned());
    Ok(())
}
