use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::*;

const LATE: Duration = Duration::from_millis(20);

/// Everything on one disk, for one seed: returns what is left of ten sectors of ones after the power went.
fn left_of(seed: u64, sync: bool) -> Option<Vec<u8>> {
    let disk = Disk::new(&Sim::new(seed));
    let path = Path::new("/a");
    let file = disk.create(path).unwrap();
    file.write_all_at(&[1; 10 * SECTOR_BYTES], 0).unwrap();
    if sync {
        file.sync().unwrap();
        disk.sync_folder(Path::new("/")).unwrap();
    }
    disk.restart_machine();
    let file = disk.open(path).ok()?;
    let mut bytes = vec![0; usize::try_from(file.length().unwrap()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

#[test]
fn what_was_synced_with_its_name_is_there_and_everything_else_meets_every_fate() {
    let all = vec![1; 10 * SECTOR_BYTES];
    let (mut gone, mut empty, mut whole, mut zeros, mut torn) = (0, 0, 0, 0, 0);
    for seed in 0..400 {
        assert_eq!(left_of(seed, true).as_ref(), Some(&all), "seed {seed}");
        match left_of(seed, false) {
            None => gone += 1,
            Some(bytes) if bytes.is_empty() => empty += 1,
            Some(bytes) if bytes == all => whole += 1,
            Some(bytes) if bytes.iter().all(|byte| *byte == 0) => zeros += 1,
            Some(bytes) => {
                let pure = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
                assert!(bytes.chunks(SECTOR_BYTES).all(pure), "a sector is whole");
                torn += 1;
            }
        }
    }
    assert!([gone, empty, whole, zeros, torn].iter().all(|count| *count > 10));
}

#[test]
fn a_file_that_was_synced_without_its_folder_can_be_gone() {
    let gone = (0..50).filter(|seed| {
        let disk = Disk::new(&Sim::new(*seed));
        disk.create(Path::new("/a")).unwrap().sync().unwrap();
        disk.restart_machine();
        !disk.exists(Path::new("/a"))
    });
    assert!((10..40).contains(&gone.count()));
}

#[test]
fn what_a_failed_sync_lost_is_read_until_the_cache_forgets_it_and_no_later_sync_brings_it_back() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = Disk::new(&Sim::new(seed));
        let file = disk.create(Path::new("/a")).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        disk.set_odds(Odds { fsync_fails: 1, ..Odds::default() });
        file.sync().unwrap_err();
        disk.set_odds(Odds::default());
        file.sync().unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 0).unwrap();
        assert_eq!(&byte, b"x");
        file.forget_cache().unwrap();
        lost += u64::from(file.read_exact_at(&mut byte, 0).is_err() || &byte != b"x");
    }
    assert!((10..50).contains(&lost), "{lost}");
}

#[test]
fn a_full_disk_takes_what_fits_and_a_killed_process_leaves_what_it_wrote() {
    let disk = Disk::new(&Sim::new(1));
    let file = disk.create(Path::new("/a")).unwrap();
    disk.limit_room(Some(3));
    let full = file.write_all_at(b"12345", 0).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(file.length().unwrap(), 3);
    assert!(disk.create(Path::new("/b")).is_err());
    file.set_length(1).unwrap();
    file.write_all_at(b"6", 1).unwrap();
    disk.stop_at(1);
    assert!(file.sync().is_err() && disk.is_off() && file.length().is_err());
    disk.restart_process();
    assert_eq!(file.length().unwrap(), 2);
}

#[test]
fn the_same_seed_is_the_same_run_and_another_one_is_not() {
    let one = |sim: &Sim| {
        let disk = Disk::new(sim);
        for _ in 0..40 {
            let file = disk.create(Path::new(&format!("/{}", sim.below(9))));
            if let Ok(file) = file {
                file.write_all_at(&vec![7; sim.index(3_000)], 0).unwrap();
            }
            if sim.one_in(3) {
                disk.restart_machine();
                sim.note(format_args!("left {:x}", disk.fingerprint()));
            }
        }
        Ok(())
    };
    let traces: Vec<Outcome> = (0..20).map(|seed| Outcome::of(seed, one)).collect();
    for outcome in &traces {
        assert_eq!(Outcome::of(outcome.seed, one), *outcome);
    }
    let distinct: BTreeSet<u64> = traces.iter().map(|outcome| outcome.trace).collect();
    assert_eq!(distinct.len(), 20);
}

#[test]
fn a_failure_is_told_with_its_seed_in_few_operations_and_with_the_faults_that_it_needs() {
    let told = std::panic::catch_unwind(|| {
        run("some", 0..100, |sim| {
            let mut fell = 0;
            while sim.step() && fell < 1_000 {
                sim.strikes("harmless", 2);
                fell += u64::from(sim.strikes("harmful", 20));
                if fell == 2 {
                    sim.note(format_args!("it fell twice"));
                    return Err("it broke".to_owned());
                }
                if sim.now() == Duration::ZERO && sim.seed() < 7 {
                    return Ok(());
                }
            }
            Ok(())
        })
    });
    let told = *told.unwrap_err().downcast::<String>().unwrap();
    assert!(told.starts_with("seed 7 fails: it broke\n"), "{told}");
    assert!(told.contains(" operations, with: harmful: it broke"), "{told}");
    assert!(told.contains("it fell twice"), "{told}");
    assert!(told.contains("MADANG_SIM_SEED=7 cargo test -p some simulated"), "{told}");
}

/// Sends until everything that one end wrote was read by the other, or the connection is over.
fn carried(
    sim: &Sim,
    network: &Network,
    (from, to): (&End, &End),
    bytes: &[u8],
) -> (Vec<u8>, bool) {
    let (mut sent, mut got) = (0, Vec::new());
    loop {
        let Some(count) = from.write(&bytes[sent..]).or_else(|| (sent == bytes.len()).then_some(0))
        else {
            return (got, false);
        };
        sent += count;
        if sent == bytes.len() {
            from.close();
        }
        match to.read() {
            Some(some) => got.extend(some),
            None => return (got, true),
        }
        sim.wait_until(network.next_at().unwrap_or_else(|| sim.now()));
        network.deliver();
    }
}

#[test]
fn a_connection_carries_bytes_in_order_in_pieces_and_then_its_end() {
    let bytes: Vec<u8> = (0..20_000_u32).map(|i| i.to_le_bytes()[0]).collect();
    for seed in 0..20 {
        let sim = Sim::new(seed);
        let network = Network::new(&sim, LATE);
        let (one, two) = network.connect();
        assert_eq!(carried(&sim, &network, (&one, &two), &bytes), (bytes.clone(), true));
        assert!(sim.counted("partial read") > 0 && sim.counted("partial write") > 0);
        assert!(sim.now() > LATE);
    }
}

#[test]
fn a_cut_connection_tells_both_ends_and_a_parted_one_neither() {
    let sim = Sim::new(3);
    let network = Network::new(&sim, LATE);
    let (one, two) = network.connect();
    one.write(b"lost").unwrap();
    network.cut(&one);
    network.deliver();
    assert!(one.read().is_none() && two.read().is_none() && two.write(b"x").is_none());
    let (one, two) = network.connect();
    one.write(b"lost").unwrap();
    network.part(&one);
    one.close();
    sim.wait_until(Duration::from_secs(9));
    network.deliver();
    assert_eq!((one.read(), two.read()), (Some(vec![]), Some(vec![])));
}

#[test]
fn a_stalled_connection_arrives_late_and_whole() {
    let sim = Sim::new(3);
    let network = Network::new(&sim, LATE);
    let (one, two) = network.connect();
    network.stall(&one, Duration::from_secs(5));
    let sent = &b"late"[..one.write(b"late").unwrap()];
    sim.wait_until(Duration::from_millis(4_999));
    network.deliver();
    assert_eq!(two.read(), Some(vec![]));
    sim.wait_until(Duration::from_millis(5_200));
    network.deliver();
    let (mut got, mut turns) = (Vec::new(), 0);
    while got != sent && turns < 9 {
        got.extend(two.read().unwrap());
        turns += 1;
    }
    assert_eq!(got, sent);
}

#[test]
fn datagrams_are_lost_doubled_reordered_and_kept_apart() {
    let sim = Sim::new(5);
    let mut datagrams = Datagrams::new(&sim, LATE);
    (datagrams.lost_one_in, datagrams.doubled_one_in) = (10, 10);
    (0..200).for_each(|number| datagrams.send(1, 2, number));
    datagrams.part(&[1], &[2]);
    datagrams.send(1, 2, 999);
    datagrams.heal();
    sim.wait_until(LATE);
    let got: Vec<i32> = std::iter::from_fn(|| datagrams.receive()).map(|(_, _, n)| n).collect();
    let different: BTreeSet<i32> = got.iter().copied().collect();
    assert!(different.len() < 200 && got.len() > different.len() && !got.is_sorted());
    assert!(!different.contains(&999));
}

#[test]
fn a_kind_of_fault_that_never_took_effect_is_named() {
    let tally = run("some", 0..5, |sim| {
        sim.strikes("often", 1);
        sim.strikes("never", 0);
        Ok(())
    });
    assert_eq!(tally.missing(&["often", "never"]), ["never"]);
    assert_eq!((tally.seeds, tally.count("often")), (5, 5));
}
