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
