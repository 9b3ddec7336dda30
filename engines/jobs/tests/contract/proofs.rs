//! Proofs at a small size; the examples are built beside the tests.

use std::process::Command;

fn holds(example: &str, arguments: [&str; 2]) {
    let tests = std::env::current_exe().unwrap();
    let example = tests.parent().unwrap().with_file_name("examples").join(example);
    assert!(example.exists(), "{} is built by `cargo test -p jobs`", example.display());
    let folder = tempfile::tempdir().unwrap();
    let ran = Command::new(example).args(arguments).current_dir(folder.path()).output();
    let ran = ran.unwrap();
    eprintln!("{}", String::from_utf8_lossy(&ran.stdout));
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}

#[test]
fn a_ranking_that_is_killed_half_way_is_seen_old_or_new() {
    holds("ranking", ["1000", "2"]);
}

#[test]
fn schedules_keep_to_the_calendar_whatever_the_clock_does() {
    holds("clocks", ["12", "0"]);
}
