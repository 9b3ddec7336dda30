//! The command line as a person meets it.

use std::process::{Command, Output};

use crate::{binary, launch};

fn madang(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    Command::new(binary())
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(folder.path())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn alone_it_prints_help_and_names_its_commands() {
    let output = madang(&[], &[]);
    for word in ["serve", "jobs", "config", "openapi", "version"] {
        assert!(said(&output).contains(word), "{}", said(&output));
    }
}

#[test]
fn config_prints_what_is_in_force_with_secrets_masked() {
    let environment =
        [("MADANG__DELIVERY__SMTP__URL", "smtps://me:hunter2hunter2@mail.example.com")];
    let output = madang(&["config"], &environment);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("@mail.example.com"), "{}", said(&output));
    assert!(!said(&output).contains("hunter2"), "{}", said(&output));
    let environment = [("MADANG__RELATIONAL__URL", "postgres://me:hunter2@db.example.com/rows")];
    let output = madang(&["config"], &environment);
    assert!(said(&output).contains("postgres://me:…@db.example.com/rows"), "{}", said(&output));
}

#[test]
fn an_unknown_key_ends_the_start_with_its_name() {
    let output = madang(&["serve"], &[("MADANG__HTTP__LISSTEN", "127.0.0.1:0")]);
    assert!(!output.status.success());
    assert!(said(&output).contains("lissten"), "{}", said(&output));
}

#[test]
fn a_second_server_on_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let first = launch(&folder).start().unwrap();
    let data = folder.path().join("data");
    let output = madang(&["serve", "--free-ports", "--data-dir", data.to_str().unwrap()], &[]);
    assert!(!output.status.success(), "the second server started");
    assert!(said(&output).contains("data"), "{}", said(&output));
    assert_eq!(first.api().get("/readyz").unwrap().status, 200, "the first one goes on");
}

#[test]
fn a_busy_configured_port_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let first = launch(&folder).start().unwrap();
    let output = madang(&["serve"], &[("MADANG__HTTP__LISTEN", first.http_address())]);
    assert!(!output.status.success(), "the port was taken twice");
    assert!(said(&output).contains(first.http_address()), "{}", said(&output));
}

/// A process that goes with its handle.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_node_alone_serves_whoever_has_a_key_of_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (keys, data) = (path("keys.toml"), path("data"));
    let make = |label: &str, grants: &[&str]| {
        let mut words = vec!["kv-node", "--keys", &keys, "--new-key", label];
        words.extend(grants.iter().flat_map(|grant| ["--grant", grant]));
        let output = madang(&words, &[]);
        assert!(output.status.success(), "{}", said(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let missing = madang(&["kv-node", "--keys", &keys, "--data-dir", &data], &[]);
    assert!(said(&missing).contains("--new-key"), "{}", said(&missing));
    let all = make("all", &[]);
    let alone = std::fs::read_to_string(&keys).unwrap();
    let reader = make("reader", &["kv.read kv/app:*"]);
    let secret = reader.split_once(':').unwrap().1;
    assert!(!std::fs::read_to_string(&keys).unwrap().contains(secret));

    let address = format!("127.0.0.1:{}", testkit::free_port().unwrap());
    let start = || {
        let words = ["kv-node", "--keys", &keys, "--data-dir", &data, "--listen", &address];
        Running(Command::new(binary()).args(words).current_dir(folder.path()).spawn().unwrap())
    };
    let kv = |key: &str, words: &[&str]| {
        let output =
            madang(&[&["kv", "--server", &address, "--key", key][..], words].concat(), &[]);
        (output.status.success(), said(&output).trim().to_owned())
    };
    let served = |words: &[&str]| {
        let limit = std::time::Duration::from_secs(20);
        testkit::within(limit, "the node", || Ok(kv(&all, words).0.then_some(()))).unwrap();
    };
    let node = start();
    served(&["set", "app:greeting", "안녕"]);
    served(&["set", "other", "1", "--expire", "100"]);
    assert_eq!(kv(&reader, &["get", "app:greeting"]), (true, "안녕".into()));
    for words in [&["get", "other"][..], &["set", "app:greeting", "x"], &["keys"]] {
        let (is_done, said) = kv(&reader, words);
        assert!(!is_done && said.contains("NOPERM"), "{words:?}: {said}");
    }
    assert_eq!(kv(&all, &["keys", "app"]), (true, "app:greeting".into()));
    assert!(kv(&all, &["stats"]).1.contains("db0"), "{}", kv(&all, &["stats"]).1);
    assert!(kv(&all, &["get", "none"]).1.contains("there is no key"));
    changes_are_seen(&address, &all, || served(&["set", "app:new", "1"]));

    // Taken out of the file, a key opens nothing any more; what was written stays.
    std::fs::write(&keys, alone).unwrap();
    let limit = std::time::Duration::from_secs(20);
    testkit::within(limit, "the end of a key", || {
        let (is_done, said) = kv(&reader, &["get", "app:greeting"]);
        Ok((!is_done && said.contains("WRONGPASS")).then_some(()))
    })
    .unwrap();
    drop(node);
    let _node = start();
    served(&["get", "app:greeting"]);
}

fn changes_are_seen(address: &str, key: &str, change: impl Fn()) {
    use std::io::{BufRead, BufReader};
    let words = ["kv", "--server", address, "--key", key, "watch", "app:*", "--turn-on"];
    let command =
        Command::new(binary()).args(words).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut watching = Running(command);
    let mut lines = BufReader::new(watching.0.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("changes of app:*"));
    change();
    assert_eq!(lines.next().unwrap().unwrap(), "set\tapp:new");
}
