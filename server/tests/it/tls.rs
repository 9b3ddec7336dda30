//! Every door under TLS, by clients that people already use.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;
use testkit::{Browser, Certificates, Launch, Pebble, Stack, free_port, within};

use crate::launch;

const SOON: Duration = Duration::from_secs(10);

fn tls(folder: &tempfile::TempDir) -> (Certificates, Launch) {
    let certificates = Certificates::new(&folder.path().join("tls")).unwrap();
    let launch = launch(folder).tls(&certificates);
    (certificates, launch)
}

/// What curl prints, with the names of the certificate leading here.
fn curl(certificates: &Certificates, port: &str, arguments: &[&str]) -> (bool, String) {
    let here = format!("madang.example:{port}:127.0.0.1");
    let mut command = Command::new("curl");
    command.args(["-sS", "--cacert", &certificates.path("authority.pem"), "--resolve", &here]);
    let output = command.args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn curl_chooses_its_http_and_is_told_to_come_in_no_other_way() {
    let folder = tempfile::tempdir().unwrap();
    let (certificates, launch) = tls(&folder);
    let stack = launch.start().unwrap();
    let port = stack.port("http_tls");
    let url = format!("https://madang.example:{port}/livez");
    let what = ["-o", "/dev/null", "-w", "%{http_version} %{response_code}"];
    let ask = |more: &[&str]| curl(&certificates, port, &[&what, more].concat());
    assert_eq!(ask(&[&url]), (true, "2 204".into()));
    assert_eq!(ask(&["--http1.1", &url]), (true, "1.1 204".into()));
    assert_eq!(ask(&["--tls-max", "1.2", &url]), (true, "2 204".into()));
    let (is_old, said) = ask(&["--tls-max", "1.1", &url]);
    assert!(!is_old, "{said}");
    let (is_stranger, _) = curl(&certificates, port, &["--cacert", "/dev/null", &url]);
    assert!(!is_stranger, "a certificate that nobody knows was taken");

    let heads = |url: &str| curl(&certificates, port, &["-D", "-", "-o", "/dev/null", url]).1;
    let named = heads(&url).to_lowercase();
    assert!(named.contains("strict-transport-security: max-age=31536000"), "{named}");
    let here = heads(&format!("https://localhost:{port}/livez")).to_lowercase();
    assert!(here.contains(" 204") && !here.contains("strict-transport"), "{here}");
    let bare = heads(&format!("http://{}/livez", stack.http_address())).to_lowercase();
    assert!(bare.contains(" 204") && !bare.contains("strict-transport"), "{bare}");
    // Plain HTTP at the port of TLS is refused, and does not hang.
    let (is_plain, _) = curl(&certificates, port, &[&format!("http://127.0.0.1:{port}/livez")]);
    assert!(!is_plain);
}

#[test]
fn cookies_that_come_under_tls_stay_there() {
    let folder = tempfile::tempdir().unwrap();
    let (certificates, launch) = tls(&folder);
    let stack = launch.start().unwrap();
    let port = stack.port("http_tls");
    let person = json!({"email": "mina@example.org", "password": "correct horse"});
    let made = json!({
        "email": "mina@example.org", "password": "correct horse", "organisation": "Mina's"
    });
    stack.stranger().post("/v1/accounts", &made).unwrap().ok().unwrap();
    let sign_in = |url: &str, origin: &str| {
        let body = person.to_string();
        let of = format!("origin: {origin}");
        let arguments = ["-D", "-", "-o", "/dev/null", "--json", &body, "-H", &of, url];
        let (_, heads) = curl(&certificates, port, &arguments);
        let mut lines = heads.lines();
        lines.find(|line| line.to_lowercase().starts_with("set-cookie")).unwrap().to_owned()
    };
    let origin = format!("https://madang.example:{port}");
    let cookie = sign_in(&format!("{origin}/v1/session"), &origin);
    assert!(cookie.ends_with("; Secure"), "{cookie}");
    let origin = format!("http://{}", stack.http_address());
    let cookie = sign_in(&format!("{origin}/v1/session"), &origin);
    assert!(!cookie.contains("Secure"), "{cookie}");
}

fn mosquitto_pub(stack: &Stack, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new("mosquitto_pub");
    command.args(["-h", "localhost", "-p", stack.port("mqtt_tls"), "-V", "5", "-q", "1"]);
    command.args(["-u", stack.mqtt_user(), "-P", stack.mqtt_password()]);
    let output = command.args(arguments).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

const READING: &str =
    r#"{"sensor":"weather","time":"2013-01-01T06:00:00Z","values":{"temp":39.0}}"#;

#[test]
fn mosquitto_publishes_under_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (certificates, launch) = tls(&folder);
    let stack = launch.start().unwrap();
    let authority = certificates.path("authority.pem");
    let what = ["-t", "data/roof-1", "-m", READING];
    let trusting = ["--cafile", &authority];
    let (is_sent, said) = mosquitto_pub(&stack, &[&trusting[..], &what].concat());
    assert!(is_sent, "{said}");
    within(SOON, "the reading in SQL", || {
        Ok((stack.api().sql_number("SELECT count(*) FROM readings")? == 1).then_some(()))
    })
    .unwrap();
    let other = Certificates::new(&folder.path().join("other")).unwrap();
    let trusting = ["--cafile", &other.path("authority.pem")];
    assert!(!mosquitto_pub(&stack, &[&trusting[..], &what].concat()).0, "by another authority");
    // Larger than any buffer on the way, there and back.
    let large = folder.path().join("large");
    std::fs::write(&large, vec![b'x'; 200_000]).unwrap();
    let text = large.display().to_string();
    let what = ["-r", "-t", "pictures/1", "-f", &text, "--cafile", &authority];
    let (is_sent, said) = mosquitto_pub(&stack, &what);
    assert!(is_sent, "{said}");
    let output = Command::new("mosquitto_sub")
        .args(["-h", "localhost", "-p", stack.port("mqtt_tls"), "--cafile", &authority])
        .args(["-u", stack.mqtt_user(), "-P", stack.mqtt_password()])
        .args(["-t", "pictures/#", "-C", "1", "-W", "20"])
        .output()
        .unwrap();
    assert_eq!(output.stdout.len(), 200_001, "the payload and an end of line");
}

#[test]
fn with_authorities_for_clients_a_key_alone_is_not_enough_for_mqtt() {
    let folder = tempfile::tempdir().unwrap();
    let (certificates, launch) = tls(&folder);
    certificates.client("roof-1").unwrap();
    let authority = certificates.path("authority.pem");
    let stack = launch.environment("MADANG__TLS__MQTT_CLIENT_AUTHORITIES", &authority);
    let stack = stack.start().unwrap();
    let what = ["-t", "state/roof-1", "-m", "on", "--cafile", &authority];
    assert!(!mosquitto_pub(&stack, &what).0, "let in without a certificate");
    let shown = |made: &Certificates| {
        let files = (made.path("client.pem"), made.path("client-key.pem"));
        mosquitto_pub(&stack, &[&what[..], &["--cert", &files.0, "--key", &files.1]].concat())
    };
    let (is_in, said) = shown(&certificates);
    assert!(is_in, "{said}");
    let other = Certificates::new(&folder.path().join("other")).unwrap();
    other.client("roof-1").unwrap();
    assert!(!shown(&other).0, "let in with a certificate of somebody else");
    // The other doors ask nobody for one.
    let url = format!("https://localhost:{}/livez", stack.port("http_tls"));
    assert!(curl(&certificates, "1", &["-f", &url]).0);
}

fn redis(stack: &Stack, program: &str, authority: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", "localhost", "-p", stack.port("resp_tls")]);
    command.args(["--tls", "--cacert", authority, "-a", stack.resp_password()]);
    command.args(arguments);
    command
}

#[test]
fn redis_clients_come_under_tls_one_by_one_and_in_pipelines() {
    let folder = tempfile::tempdir().unwrap();
    let (certificates, launch) = tls(&folder);
    let stack = launch.start().unwrap();
    let authority = certificates.path("authority.pem");
    let cli = |arguments: &[&str], input: &[u8]| {
        let arguments = [&["--no-auth-warning"], arguments].concat();
        let mut child = redis(&stack, "redis-cli", &authority, &arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
    };
    assert_eq!(cli(&["SET", "greeting", "안녕"], b""), "OK\n");
    assert_eq!(cli(&["--raw", "GET", "greeting"], b""), "안녕\n");
    // Larger than any buffer on the way, there and back.
    let large = "x".repeat(5 << 20);
    assert_eq!(cli(&["-x", "SET", "large"], large.as_bytes()), "OK\n");
    assert_eq!(cli(&["--raw", "GET", "large"], b"").trim_end(), large);
    let benchmark = ["-q", "-n", "20000", "-c", "20", "-P", "100", "-t", "set,get", "-d", "3000"];
    let output = redis(&stack, "redis-benchmark", &authority, &benchmark).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("GET:"), "{said}");
    // The bare door beside it sees the same.
    let (host, port) = stack.resp_address().split_once(':').unwrap();
    let output = Command::new("redis-cli")
        .args(["-h", host, "-p", port, "--no-auth-warning", "-a", stack.resp_password()])
        .args(["STRLEN", "large"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), large.len().to_string());
    let stranger = Command::new("redis-cli")
        .args(["-h", "localhost", "-p", stack.port("resp_tls"), "--tls", "PING"])
        .output()
        .unwrap();
    assert!(!stranger.status.success(), "a client that knows no authority went on");
}

/// stomp.py: a message to oneself.
const STOMP: &str = r#"
import stomp, sys, threading
port, authority, token = sys.argv[1:]
heard, done = [], threading.Event()
class Listener(stomp.ConnectionListener):
    def on_message(self, frame):
        heard.append(len(frame.body)); done.set()
    def on_error(self, frame):
        print(frame.body); done.set()
connection = stomp.Connection12([("localhost", int(port))])
connection.set_ssl(for_hosts=[("localhost", int(port))], ca_certs=authority)
connection.set_listener("", Listener())
connection.connect("", token, wait=True)
connection.subscribe("/topic/letters", id="1", headers={"receipt": "there"})
connection.send("/topic/letters", "x" * 100000)
done.wait(20)
print(heard)
connection.disconnect()
"#;

#[test]
fn stomp_py_talks_under_tls() {
    let folder = tempfile::tempdir().unwrap();
    let (certificates, launch) = tls(&folder);
    let port = free_port().unwrap().to_string();
    let address = format!("127.0.0.1:{port}");
    let stack = launch.environment("MADANG__SOCKETS__LISTEN_TLS", &address).start().unwrap();
    let authority = certificates.path("authority.pem");
    let output = Command::new("/usr/bin/python3")
        .args(["-c", STOMP, &port, &authority, stack.token()])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "[100000]", "{output:?}");
}

#[test]
fn the_console_and_its_sockets_work_under_tls() {
    const STOMPJS: &str = include_str!("../vendor/stomp.umd.min.js");
    let folder = tempfile::tempdir().unwrap();
    let (_certificates, launch) = tls(&folder);
    let stack = launch.start().unwrap();
    let browser = Browser::open(1000, 700, "en").unwrap();
    let place = format!("localhost:{}", stack.port("http_tls"));
    browser.go(&format!("https://{place}/")).unwrap();
    browser.script(&format!("{STOMPJS}\nreturn typeof StompJs.Client")).unwrap();
    browser.until("stompjs is there", "return typeof StompJs === 'object'").unwrap();
    let script = r"
        window.got = [];
        window.client = new StompJs.Client({
            brokerURL: 'wss://PLACE/v1/stomp', connectHeaders: { passcode: 'TOKEN' },
        });
        client.onConnect = () => {
            client.subscribe('/topic/chat', (message) => got.push(message.body));
            client.publish({ destination: '/topic/chat', body: 'x'.repeat(50000) + '안녕' });
        };
        client.activate();";
    browser.script(&script.replace("PLACE", &place).replace("TOKEN", stack.token())).unwrap();
    let heard = "return got.length === 1 && got[0].length === 50002 && got[0].endsWith('안녕')";
    browser.until("the message is back", heard).unwrap();
    let versions = "return performance.getEntriesByType('resource').map(it => it.nextHopProtocol)";
    let versions = browser.script(versions).unwrap().to_string();
    assert!(versions.contains("h2"), "{versions}");
}

/// The fingerprint of the certificate that a door shows now.
fn fingerprint(port: &str) -> String {
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &format!("127.0.0.1:{port}"), "-servername", "localhost"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut text = String::new();
    client.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    client.wait().unwrap();
    let from = text.find("-----BEGIN CERTIFICATE").expect("a certificate");
    let to = text.find("-----END CERTIFICATE").expect("its end");
    text[from..to].replace(['\r', '\n'], "")
}

#[test]
fn a_renewed_certificate_is_shown_without_a_restart_and_a_bad_one_never() {
    let folder = tempfile::tempdir().unwrap();
    let (certificates, launch) = tls(&folder);
    let stack = launch.start().unwrap();
    let authority = certificates.path("authority.pem");
    let doors = ["http_tls", "mqtt_tls", "resp_tls"];
    // Somebody who came before stays.
    let mut subscriber = Command::new("mosquitto_sub")
        .args(["-h", "localhost", "-p", stack.port("mqtt_tls"), "--cafile", &authority, "-v"])
        .args(["-u", stack.mqtt_user(), "-P", stack.mqtt_password(), "-t", "state/#", "-W", "60"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(subscriber.stdout.take().unwrap()).lines();
    let publish = |text: &str| {
        let what = ["-r", "-t", "state/roof-1", "-m", text, "--cafile", &authority];
        assert!(mosquitto_pub(&stack, &what).0);
    };
    publish("before");
    assert_eq!(lines.next().unwrap().unwrap(), "state/roof-1 before");

    let shown = |pem: &str, door: &str| {
        let pem = pem.replace(['\r', '\n'], "");
        pem.starts_with(&fingerprint(stack.port(door)))
    };
    let renewed = certificates.renew().unwrap();
    for door in doors {
        within(SOON, door, || Ok(shown(&renewed, door).then_some(()))).unwrap();
    }
    publish("after");
    assert_eq!(lines.next().unwrap().unwrap(), "state/roof-1 after");
    subscriber.kill().unwrap();
    subscriber.wait().unwrap();

    std::fs::write(Path::new(&certificates.path("key.pem")), "half a fi").unwrap();
    within(SOON, "the refusal in the log", || {
        Ok(stack.log().contains("the certificate stays as it was").then_some(()))
    })
    .unwrap();
    for door in doors {
        assert!(shown(&renewed, door), "{door}");
    }
    let again = certificates.renew().unwrap();
    within(SOON, "the next good one", || Ok(shown(&again, "http_tls").then_some(()))).unwrap();
}

#[test]
fn only_proxies_that_are_named_say_who_asks_and_how() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder)
        .environment("MADANG__HTTP__TRUSTED_PROXIES", "[\"127.0.0.1/32\"]")
        .start()
        .unwrap();
    let certificates = Certificates::new(&folder.path().join("tls")).unwrap();
    let url = format!("http://{}/livez", stack.http_address());
    let heads = |more: &[&str]| {
        let arguments = [&["-D", "-", "-o", "/dev/null", "-H", "host: madang.example"], more];
        curl(&certificates, "1", &[&arguments.concat()[..], &[&url]].concat()).1.to_lowercase()
    };
    assert!(heads(&["-H", "x-forwarded-proto: https"]).contains("strict-transport-security"));
    assert!(!heads(&["-H", "x-forwarded-proto: http"]).contains("strict-transport-security"));

    let made = json!({
        "email": "mina@example.org", "password": "correct horse", "organisation": "Mina's"
    });
    stack.stranger().post("/v1/accounts", &made).unwrap().ok().unwrap();
    let body = json!({"email": "mina@example.org", "password": "correct horse"}).to_string();
    let tokens = format!("http://{}/v1/tokens", stack.http_address());
    let told = "x-forwarded-for: 203.0.113.9, 198.51.100.7";
    let (_, text) = curl(&certificates, "1", &["--json", &body, "-H", told, &tokens]);
    let tokens: serde_json::Value = serde_json::from_str(&text).unwrap();
    let token = tokens["access_token"].as_str().unwrap();
    let sessions = stack.stranger().bearer(token).get("/v1/account/sessions").unwrap().ok();
    let sessions = sessions.unwrap().to_string();
    assert!(sessions.contains("198.51.100.7") && !sessions.contains("203.0.113"), "{sessions}");
}

#[test]
fn a_bare_door_that_the_network_reaches_sends_people_to_https() {
    let folder = tempfile::tempdir().unwrap();
    let (certificates, launch) = tls(&folder);
    let stack = launch
        .environment("MADANG__HTTP__LISTEN", "0.0.0.0:0")
        .environment("MADANG__HTTP__PUBLIC_URL", "https://madang.example")
        .start()
        .unwrap();
    let url = format!("http://127.0.0.1:{}/devices", stack.port("http"));
    let what = ["-o", "/dev/null", "-w", "%{response_code} %{redirect_url}"];
    let ask = |more: &[&str]| curl(&certificates, "1", &[&what, more].concat()).1;
    assert_eq!(ask(&[&url]), "308 https://madang.example/devices");
    assert_eq!(ask(&["--json", "{}", &url]), "403 ");
}

/// How it stands with the certificate of an authority, once it is as wanted.
fn certificate(stack: &Stack, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    within(Duration::from_mins(1), "the certificate", || {
        let found = stack.api().get("/v1/certificate")?.ok()?;
        Ok(wanted(&found).then_some(found))
    })
    .unwrap()
}

/// Asks the HTTPS door for the name in the certificate, trusting one authority only.
fn asks_as(stack: &Stack, authority: &str) -> bool {
    let port = stack.port("http_tls");
    let (resolved, url) =
        (format!("madang.test:{port}:127.0.0.1"), format!("https://madang.test:{port}/livez"));
    let mut command = Command::new("curl");
    command.args(["-sf", "--max-time", "20", "--cacert", authority, "--resolve", &resolved, &url]);
    command.status().unwrap().success()
}

/// The authority is not there yet when the server starts, and not any more when it starts again.
fn comes_from_an_authority(challenge: &str) {
    let folder = tempfile::tempdir().unwrap();
    let made = Certificates::new(&folder.path().join("authority")).unwrap();
    let port = free_port().unwrap();
    let launch = crate::launch(&folder)
        .environment("MADANG__TLS__ACME__DOMAINS", "[\"madang.test\"]")
        .environment("MADANG__TLS__ACME__TERMS_AGREED", "true")
        .environment("MADANG__TLS__ACME__CHALLENGE", challenge)
        .environment("MADANG__TLS__ACME__DIRECTORY", &format!("https://127.0.0.1:{port}/dir"))
        .environment("MADANG__TLS__ACME__CERTIFICATE_AUTHORITIES", &made.path("authority.pem"))
        .environment("MADANG__TLS__ACME__BACK_OFF_MIN", "200ms");
    let stack = launch.start().unwrap();
    let found = certificate(&stack, |it| it["failures"].as_u64() >= Some(1));
    assert_eq!(found["state"], "none", "{found}");
    assert!(found["fault"].as_str().unwrap().contains("refused"), "{found}");
    assert!(!asks_as(&stack, &made.path("authority.pem")), "let in without a certificate");

    let bare = stack.http_address().rsplit_once(':').unwrap().1.parse().unwrap();
    let doors = (bare, stack.port("http_tls").parse().unwrap());
    let pebble = Pebble::start(port, &made, doors, Duration::from_hours(90 * 24)).unwrap();
    let found = certificate(&stack, |it| it["state"] == "shown");
    assert_eq!((&found["failures"], &found["fault"]), (&json!(0), &json!(null)), "{found}");
    let root = folder.path().join("root.pem");
    std::fs::write(&root, pebble.root().unwrap()).unwrap();
    let root = root.display().to_string();
    assert!(asks_as(&stack, &root), "{found}");
    assert!(!asks_as(&stack, &made.path("authority.pem")), "of another authority");
    let ping =
        redis(&stack, "redis-cli", &root, &["--sni", "madang.test", "PING"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ping.stdout).trim(), "PONG", "the other doors show it too");
    let stranger = stack.stranger().get("/.well-known/acme-challenge/abc").unwrap();
    assert_eq!(
        stranger.content_type, "text/html; charset=utf-8",
        "the console's, as of any other path"
    );

    drop((pebble, stack));
    let stack = launch.start().unwrap();
    assert!(asks_as(&stack, &root), "what was issued is shown after a restart");
    let found = certificate(&stack, |it| it["next_order"].is_string());
    assert_eq!((&found["state"], &found["failures"]), (&json!("shown"), &json!(0)), "{found}");
}

#[test]
fn a_certificate_comes_from_an_authority_that_asks_the_bare_door() {
    comes_from_an_authority("http-01");
}

#[test]
fn a_certificate_comes_from_an_authority_that_asks_the_https_door() {
    comes_from_an_authority("tls-alpn-01");
}
