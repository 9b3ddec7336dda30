//! Webhooks and Slack by the API of the real binary; a signature is verified by another language's own library.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};
use testkit::{Browser, Stack, within};

/// A request: its headers as `name: value`, and its body.
struct Got {
    headers: Vec<String>,
    body: String,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        let mut values = self.headers.iter().filter_map(|line| line.split_once(": "));
        values.find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }
}

/// Takes every request.
fn receiver() -> (u16, Receiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut headers = vec![];
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line.trim_end().is_empty() {
                    break;
                }
                headers.push(line.trim_end().to_owned());
            }
            let mut got = Got { headers, body: String::new() };
            let mut body = vec![0; got.header("content-length").parse().unwrap_or(0)];
            if reader.read_exact(&mut body).is_err() {
                continue;
            }
            got.body = String::from_utf8(body).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntaken").unwrap();
            if tell.send(got).is_err() {
                return;
            }
        }
    });
    (port, told)
}

const VERIFY: &str = r"
import base64, hashlib, hmac, json, sys
given = json.load(sys.stdin)
key = base64.b64decode(given['secret'].removeprefix('whsec_'))
text = (given['id'] + '.' + given['at'] + '.' + given['body']).encode()
signed = 'v1,' + base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
sys.exit(0 if any(hmac.compare_digest(signed, one) for one in given['signature'].split()) else 1)
";

/// Whether Python's library finds that the secret has signed the request.
fn is_signed(got: &Got, secret: &Value) -> bool {
    let given = json!({
        "secret": secret, "id": got.header("webhook-id"), "at": got.header("webhook-timestamp"),
        "signature": got.header("webhook-signature"), "body": got.body,
    });
    let mut python =
        Command::new("python3").args(["-c", VERIFY]).stdin(Stdio::piped()).spawn().unwrap();
    python.stdin.take().unwrap().write_all(given.to_string().as_bytes()).unwrap();
    python.wait().unwrap().success()
}

fn that_may_call_itself(folder: &tempfile::TempDir) -> Stack {
    crate::launch(folder)
        .environment("MADANG__EGRESS__ALLOW", "[\"127.0.0.1/32\"]")
        .environment("MADANG__EGRESS__PLAIN_HTTP", "true")
        .start()
        .unwrap()
}

#[test]
fn a_webhook_is_made_tested_rotated_and_told_of_alerts() {
    let folder = tempfile::tempdir().unwrap();
    let stack = that_may_call_itself(&folder);
    let (port, told) = receiver();
    let next = || told.recv_timeout(Duration::from_secs(20)).unwrap();
    let new = |url: &str| json!({"channel": "webhook", "name": "roof", "url": url, "event_types": ["alert.raised"]});
    let url = format!("http://127.0.0.1:{port}/hook?token=hidden");
    let api = stack.api();

    for refused in
        ["http://10.0.0.1/", "http://2130706433/", "ftp://example.org/", "http://a:b@127.0.0.1/"]
    {
        assert_eq!(api.post("/v1/endpoints", &new(refused)).unwrap().status, 422, "{refused}");
    }
    let made = api.post("/v1/endpoints", &new(&url)).unwrap().ok().unwrap();
    let id = made["id"].as_str().unwrap();
    let (one, secret) = (format!("/v1/endpoints/{id}"), &made["secret"]);
    let shown = api.get(&one).unwrap().ok().unwrap();
    assert_eq!(shown["url"], format!("http://127.0.0.1:{port}/…"));
    let listed = api.get("/v1/endpoints").unwrap().ok().unwrap().to_string() + &shown.to_string();
    assert!(!listed.contains(secret.as_str().unwrap()) && !listed.contains("hidden"), "{listed}");

    let tested = api.post(&format!("{one}/test"), &json!({})).unwrap().ok().unwrap();
    assert_eq!((&tested["taken"], &tested["answer"]), (&json!(true), &json!("taken")));
    let got = next();
    assert!(is_signed(&got, secret), "{}", got.body);
    assert!(!is_signed(&got, &json!("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")));

    let rotated = api.post(&format!("{one}/secrets"), &json!({})).unwrap().ok().unwrap();
    let sensor = json!({"name": "load", "values": [{"name": "temp"}]});
    api.post("/v1/sensors", &sensor).unwrap().ok().unwrap();
    let rule = json!({
        "name": "Hot", "sensor": "load", "cooldown_seconds": 0,
        "conditions": [{"value": "temp", "ranges": [{"min": 90.0, "max": null}]}],
        "actions": [{"type": "endpoint", "endpoint": id}],
    });
    api.post("/v1/rules", &rule).unwrap().ok().unwrap();
    let reading =
        json!({"sensor": "load", "time": "2020-01-01T00:00:00Z", "values": {"temp": 95.0}});
    api.post("/v1/devices/roof/readings", &reading).unwrap().ok().unwrap();
    // By the rule, and since it subscribes to all alerts.
    let (first, second) = (next(), next());
    assert_ne!(first.header("webhook-id"), second.header("webhook-id"));
    for got in [&first, &second] {
        assert!(is_signed(got, secret) && is_signed(got, &rotated["secret"]), "both sign");
        let body: Value = serde_json::from_str(&got.body).unwrap();
        assert_eq!(
            (&body["type"], &body["timestamp"]),
            (&json!("alert.raised"), &json!("2020-01-01T00:00:00Z"))
        );
        assert_eq!(body["data"]["device"], "roof");
    }
    let messages = within(Duration::from_secs(20), "both messages", || {
        let messages = api.all("/v1/messages")?;
        Ok(messages.iter().all(|message| message["state"] == "sent").then_some(messages))
    })
    .unwrap();
    let whole = api.get(&format!("/v1/messages/{}", messages[0]["id"].as_str().unwrap()));
    let whole = whole.unwrap().ok().unwrap();
    let attempt = &whole["attempts_made"][0];
    assert_eq!((&attempt["outcome"], &attempt["status"]), (&json!("sent"), &json!(200)));

    let off = api.patch(&one, &json!({"enabled": false, "contact": null})).unwrap().ok().unwrap();
    assert_eq!(off["state"], "disabled");
    let audit = api.get("/v1/audit").unwrap().ok().unwrap().to_string();
    assert!(audit.contains(&format!("endpoint/{id}")), "{audit}");
    assert_eq!(api.delete(&one).unwrap().status, 204);
    assert_eq!(api.get(&one).unwrap().status, 404);
    assert!(!stack.log().contains("hidden"), "no URL in the log");
}

#[test]
fn the_console_makes_an_endpoint_shows_its_secret_once_tests_and_switches_it_off() {
    let folder = tempfile::tempdir().unwrap();
    let stack = that_may_call_itself(&folder);
    let (port, told) = receiver();
    let browser = Browser::open(1280, 900, "ko-KR").unwrap();
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("endpoints");
    let look = |name: &str| browser.screenshot(&shots.join(format!("{name}.png"))).unwrap();
    browser.go(&stack.link().unwrap()).unwrap();
    browser.click("set-password-skip").unwrap();
    browser.click("nav-rules").unwrap();
    browser.click("tab-endpoints").unwrap();
    browser.click("endpoint-new").unwrap();
    browser.fill("endpoint-name-input", "roof").unwrap();
    browser.fill("endpoint-url-input", "https://10.0.0.1/").unwrap();
    browser.click("endpoint-save").unwrap();
    browser.find("endpoint-error").unwrap();
    browser.fill("endpoint-url-input", &format!("http://127.0.0.1:{port}/hidden")).unwrap();
    look("1-form");
    browser.click("endpoint-save").unwrap();
    let secret = browser.text("endpoint-secret").unwrap();
    assert!(secret.starts_with("whsec_"), "{secret}");
    look("2-secret");
    browser.click("secret-done").unwrap();
    browser.click("endpoint-test").unwrap();
    browser.find("test-result").unwrap();
    assert_eq!(browser.attribute("test-result", "data-taken").unwrap().as_deref(), Some("true"));
    assert!(is_signed(&told.recv_timeout(Duration::from_secs(20)).unwrap(), &json!(secret)));
    look("3-test");
    browser.keys("test-dialog", "\u{E00C}").unwrap();
    browser.click("endpoint-switch").unwrap();
    browser
        .until(
            "that it is off",
            "return !!document.querySelector('[data-test=\"endpoint-roof\"][data-state=\"disabled\"]')",
        )
        .unwrap();
    look("4-list");
    browser.click("endpoint-delete").unwrap();
    browser.click("confirm-yes").unwrap();
    browser
        .until("an empty list", "return !document.querySelector('[data-test=\"endpoints-list\"]')")
        .unwrap();
    browser.click("tab-messages").unwrap();
    browser.find("messages-state").unwrap();
    assert_eq!(browser.complaints().unwrap(), Vec::<String>::new());
}
