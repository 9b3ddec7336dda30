//! Clients that people already use.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use testkit::{Stack, within};

use crate::launch;

fn mosquitto(program: &str, stack: &Stack, arguments: &[&str]) -> Command {
    let (host, port) = stack.mqtt_address().split_once(':').unwrap();
    let mut command = Command::new(program);
    command.args(["-h", host, "-p", port, "-u", stack.mqtt_user(), "-P", stack.mqtt_password()]);
    command.args(arguments);
    command
}

#[test]
fn mosquitto_publishes_a_reading_in_both_versions() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    for (version, hour) in [("311", 6), ("5", 7)] {
        let reading = format!(
            r#"{{"sensor":"weather","time":"2013-01-01T{hour:02}:00:00-05:00","values":{{"temp":39.0,"humid":59.4}}}}"#
        );
        let arguments = ["-V", version, "-q", "1", "-t", "data/roof-1", "-m", &reading];
        let output = mosquitto("mosquitto_pub", &stack, &arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    within(Duration::from_secs(10), "both readings in SQL", || {
        let count = stack.api().sql_number("SELECT count(DISTINCT time) FROM readings")?;
        Ok((count == 2).then_some(()))
    })
    .unwrap();
}

#[test]
fn mosquitto_subscribes_to_readings_retained_messages_and_last_wills() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let retain = ["-V", "5", "-q", "1", "-r", "-t", "state/roof-1", "-m", "online"];
    assert!(mosquitto("mosquitto_pub", &stack, &retain).status().unwrap().success());

    let arguments =
        ["-V", "5", "-q", "1", "-v", "-t", "state/#", "-t", "data/+", "-C", "3", "-W", "60"];
    let mut subscriber =
        mosquitto("mosquitto_sub", &stack, &arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(subscriber.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "state/roof-1 online");

    let reading = r#"{"sensor":"weather","time":"2013-01-01T06:00:00Z","values":{"temp":39.0}}"#;
    let publish = ["-q", "1", "-t", "data/roof-1", "-m", reading];
    assert!(mosquitto("mosquitto_pub", &stack, &publish).status().unwrap().success());
    assert_eq!(lines.next().unwrap().unwrap(), format!("data/roof-1 {reading}"));

    // A device that is lost: its process is killed, so that it says no goodbye. The retained message
    // that it is sent shows that its CONNECT, with the will, was taken.
    let will = ["-V", "5", "-v", "-t", "state/roof-1", "-W", "60"];
    let will_of = ["--will-topic", "state/roof-1", "--will-payload", "offline", "--will-qos", "1"];
    let mut lost = mosquitto("mosquitto_sub", &stack, &[&will[..], &will_of[..]].concat())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut heard = BufReader::new(lost.stdout.take().unwrap()).lines();
    assert_eq!(heard.next().unwrap().unwrap(), "state/roof-1 online");
    lost.kill().unwrap();
    lost.wait().unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "state/roof-1 offline");
    assert!(subscriber.wait().unwrap().success());
}

#[test]
fn a_wrong_password_is_refused_in_mqtts_own_words() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let (host, port) = stack.mqtt_address().split_once(':').unwrap();
    for version in ["311", "5"] {
        let output = Command::new("mosquitto_pub")
            .args([
                "-h",
                host,
                "-p",
                port,
                "-V",
                version,
                "-u",
                stack.mqtt_user(),
                "-P",
                "wrong",
                "-t",
                "a",
                "-m",
                "b",
            ])
            .output()
            .unwrap();
        assert!(!output.status.success(), "let in with a wrong password");
        let said = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert!(said.contains("authori") || said.contains("password"), "{said}");
    }
}

/// What redis-cli prints.
fn redis_cli(stack: &Stack, password: &str, arguments: &[&str]) -> String {
    let (host, port) = stack.resp_address().split_once(':').unwrap();
    let mut command = Command::new("redis-cli");
    command.args(["-h", host, "-p", port, "--no-auth-warning", "-a", password]).args(arguments);
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn redis_cli_keeps_values_through_kill_9_and_only_with_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let stack = launch(&folder).start().unwrap();
    let password = stack.resp_password().to_owned();
    assert_eq!(redis_cli(&stack, &password, &["SET", "greeting", "안녕"]), "OK");
    assert_eq!(redis_cli(&stack, &password, &["RPUSH", "steps", "one", "two"]), "2");
    assert_eq!(redis_cli(&stack, &password, &["ZADD", "scores", "3", "mina", "5", "joon"]), "2");
    assert_eq!(redis_cli(&stack, &password, &["XADD", "walk", "1-1", "step", "one"]), "1-1");
    let stranger = redis_cli(&stack, "nobody:wrong", &["GET", "greeting"]);
    assert!(stranger.contains("WRONGPASS") || stranger.contains("NOAUTH"), "{stranger}");
    assert!(!stranger.contains("안녕"), "{stranger}");
    assert_eq!(redis_cli(&stack, &password, &["EVAL", "return 1", "0"]), "1");
    let refused = redis_cli(&stack, &password, &["CLUSTER", "INFO"]);
    assert!(refused.starts_with("ERR unknown command"), "{refused}");
    stack.kill().unwrap();
    let stack = launch(&folder).start().unwrap();
    let password = stack.resp_password();
    assert_eq!(redis_cli(&stack, password, &["--raw", "GET", "greeting"]), "안녕");
    assert_eq!(
        redis_cli(&stack, password, &["--raw", "XRANGE", "walk", "-", "+"]),
        "1-1\nstep\none"
    );
    assert_eq!(redis_cli(&stack, password, &["--raw", "LRANGE", "steps", "0", "-1"]), "one\ntwo");
    assert_eq!(redis_cli(&stack, password, &["--raw", "ZRANK", "scores", "joon"]), "1");
}
