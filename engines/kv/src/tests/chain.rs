//! Logs that follow each other without waiting for the disk: what a kill or a power cut leaves of them.

use std::fs::{self, File};
use std::path::Path;

use tempfile::TempDir;

use super::{Desk, House, folder, ok, relaxed};
use crate::engine::Engine;
use crate::log::frame::{MAGIC, UNSURE};
use crate::log::{self, Log, effect};
use crate::{Config, Durability, Error};

const FIRST: &str = "0000000001.log";
const SECOND: &str = "0000000002.log";
const THIRD: &str = "0000000003.log";

fn open(folder: &Path) -> Result<(Engine, Log), Error> {
    let mut engine = Desk::new().engine;
    let log = log::recover(folder.to_owned(), &mut engine)?.log;
    Ok((engine, log))
}

fn put(log: &mut Log, durability: Durability, keys: &[&str]) {
    for key in keys {
        let mut frame = log::empty_frame();
        effect::push(&mut frame, 0, [b"SET", key.as_bytes(), b"1"].into_iter());
        log.commit(&mut frame, durability, 0).unwrap();
    }
}

fn roll(log: &mut Log, durability: Durability) {
    while !log.prepare(durability).unwrap() {
        std::thread::yield_now();
    }
    log.roll(durability).unwrap();
}

/// What a process that is killed leaves: `a` and `b` in the first log, `c` in the second, `d` in the third.
fn chain() -> TempDir {
    let folder = folder();
    let (_, mut log) = open(folder.path()).unwrap();
    assert!(log.check(Durability::Off).is_none());
    put(&mut log, Durability::Off, &["a", "b"]);
    roll(&mut log, Durability::Off);
    put(&mut log, Durability::Off, &["c"]);
    roll(&mut log, Durability::Off);
    put(&mut log, Durability::Off, &["d"]);
    folder
}

fn keys(folder: &Path) -> usize {
    open(folder).unwrap().0.store.len(0)
}

/// Takes bytes off a log's end.
fn shorten(path: &Path, bytes: u64) {
    let file = File::options().write(true).open(path).unwrap();
    let length = file.metadata().unwrap().len();
    file.set_len(length - bytes).unwrap();
}

fn begins(path: &Path) -> [u8; 8] {
    fs::read(path).unwrap()[..8].try_into().unwrap()
}

#[test]
fn after_a_kill_everything_is_there_and_each_log_stands_for_itself_again() {
    let folder = chain();
    assert_eq!(begins(&folder.path().join(THIRD)), *UNSURE);
    assert_eq!(keys(folder.path()), 4);
    for name in [SECOND, THIRD] {
        assert_eq!(begins(&folder.path().join(name)), *MAGIC, "{name}");
    }
    // What is acknowledged from here on is behind whole logs, so a broken one is said.
    shorten(&folder.path().join(FIRST), 1);
    assert!(matches!(open(folder.path()), Err(Error::Damaged { .. })));
}

#[test]
fn what_follows_a_torn_log_does_not_count() {
    let folder = chain();
    shorten(&folder.path().join(FIRST), 1);
    assert_eq!(keys(folder.path()), 1);
    assert!(!folder.path().join(SECOND).exists() && !folder.path().join(THIRD).exists());
    let (_, mut log) = open(folder.path()).unwrap();
    put(&mut log, Durability::Always, &["e"]);
    drop(log);
    assert_eq!(keys(folder.path()), 2);
}

#[test]
fn what_follows_a_log_whose_last_frames_are_missing_does_not_count_either() {
    let folder = chain();
    let path = folder.path().join(FIRST);
    let frame = (fs::metadata(&path).unwrap().len() - 8) / 2;
    shorten(&path, frame);
    // Where room was taken ahead, zeros stand in their place.
    File::options().write(true).open(&path).unwrap().set_len(1 << 20).unwrap();
    assert_eq!(keys(folder.path()), 1);
    assert!(!folder.path().join(SECOND).exists());
}

#[test]
fn a_log_in_the_middle_ends_the_chain_too() {
    let folder = chain();
    shorten(&folder.path().join(SECOND), 1);
    assert_eq!(keys(folder.path()), 2);
    assert!(folder.path().join(SECOND).exists() && !folder.path().join(THIRD).exists());
}

#[test]
fn a_log_that_was_only_prepared_is_no_later_log() {
    let folder = folder();
    let (_, mut log) = open(folder.path()).unwrap();
    put(&mut log, Durability::Off, &["a", "b"]);
    while !log.prepare(Durability::Off).unwrap() {
        std::thread::yield_now();
    }
    drop(log);
    let (first, second) = (folder.path().join(FIRST), folder.path().join(SECOND));
    assert_eq!(begins(&second), *UNSURE);
    shorten(&first, 1);
    assert_eq!(keys(folder.path()), 1);
    assert!(!second.exists());
    // The power went before its beginning was there.
    for bytes in [&b""[..], &MAGIC[..3], &[0; 8]] {
        let (_, mut log) = open(folder.path()).unwrap();
        put(&mut log, Durability::Off, &["b"]);
        drop(log);
        shorten(&first, 1);
        fs::write(&second, bytes).unwrap();
        assert_eq!(keys(folder.path()), 1);
        assert!(!second.exists());
    }
}

#[test]
fn what_is_synced_later_syncs_what_came_before_it() {
    for durability in [Durability::Always, Durability::Off] {
        let folder = folder();
        let (_, mut log) = open(folder.path()).unwrap();
        put(&mut log, Durability::Off, &["a"]);
        roll(&mut log, Durability::Off);
        put(&mut log, durability, &["b"]);
        if durability == Durability::Off {
            assert_eq!(begins(&folder.path().join(SECOND)), *UNSURE);
            log.settle().unwrap();
        }
        assert_eq!(begins(&folder.path().join(SECOND)), *MAGIC);
        drop(log);
        assert_eq!(keys(folder.path()), 2);
        shorten(&folder.path().join(FIRST), 1);
        assert!(matches!(open(folder.path()), Err(Error::Damaged { .. })));
    }
}

#[test]
fn a_log_that_was_prepared_in_vain_is_used_where_everything_is_synced() {
    let folder = folder();
    let (_, mut log) = open(folder.path()).unwrap();
    put(&mut log, Durability::Off, &["a"]);
    while !log.prepare(Durability::Off).unwrap() {
        std::thread::yield_now();
    }
    roll(&mut log, Durability::Always);
    put(&mut log, Durability::Always, &["b"]);
    assert_eq!(begins(&folder.path().join(SECOND)), *MAGIC);
    drop(log);
    assert_eq!(keys(folder.path()), 2);
}

#[test]
fn room_is_taken_ahead_in_every_way_and_given_back() {
    for durability in [Durability::Always, Durability::Off] {
        let folder = folder();
        let (_, mut log) = open(folder.path()).unwrap();
        assert!(log.check(durability).is_none());
        let length = || fs::metadata(folder.path().join(FIRST)).unwrap().len();
        assert!(length() >= 4 << 20, "{durability:?} {}", length());
        put(&mut log, durability, &["a"]);
        drop(log);
        assert_eq!(keys(folder.path()), 1);
        assert!(length() < 100, "{durability:?} {}", length());
    }
}

#[test]
fn what_is_answered_before_a_turn_ends_is_written_before_too() {
    let (first, second) = (folder(), folder());
    let house = House::open(relaxed(), first.path()).unwrap();
    let mut clients: Vec<_> = (0..4).map(|_| house.client()).collect();
    let value = b"v".repeat(300);
    for (number, client) in clients.iter_mut().enumerate() {
        let sets: Vec<Vec<Vec<u8>>> = (0..3_000)
            .map(|key| vec![b"SET".to_vec(), format!("{number}:{key}").into_bytes(), value.clone()])
            .collect();
        client.send_all(&sets).unwrap();
    }
    for client in &mut clients {
        for _ in 0..3_000 {
            assert_eq!(client.read().unwrap(), ok());
        }
    }
    for name in fs::read_dir(first.path()).unwrap().map(|entry| entry.unwrap().file_name()) {
        fs::copy(first.path().join(&name), second.path().join(&name)).unwrap();
    }
    assert_eq!(keys(second.path()), 12_000);
    house.close();
}

#[test]
fn a_store_that_ends_in_order_leaves_logs_that_stand_for_themselves() {
    let folder = folder();
    let house = House::open(Config { rewrite_bytes_min: 1, ..relaxed() }, folder.path()).unwrap();
    let mut client = house.client();
    for number in 0..2_000 {
        assert_eq!(client.ask(&["SET", &format!("k{number}"), &"v".repeat(300)]).unwrap(), ok());
    }
    house.close();
    let (engine, _log) = open(folder.path()).unwrap();
    assert_eq!(engine.store.len(0), 2_000);
}
