use base::{Entropy, Metrics};

use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_000);
const LATER: Timestamp = Timestamp::from_millis(2_000);

fn memory(bytes_max: u64, entries_max: usize) -> Memory {
    Memory::new(bytes_max, entries_max, Arc::new(Meter::new(&Metrics::default())))
}

fn kept(organisation: u128, key: &str, size: usize, version: i64) -> Kept {
    let organisation = OrganisationId::fixed(organisation);
    let subjects = ["rows"];
    let identity = Asked { organisation, name: "test", key, subjects: &subjects }.kept();
    let meter = Meter::new(&Metrics::default()).question("test");
    let (identity, bytes) = (Arc::new(identity), Bytes::from(vec![7; size]));
    Kept { identity, versions: vec![version], until: LATER, bytes, meter }
}

impl Memory {
    fn has(&self, organisation: u128, key: &str, version: i64) -> bool {
        let organisation = OrganisationId::fixed(organisation);
        let asked = Asked { organisation, name: "test", key, subjects: &["rows"] };
        self.find(&asked, &[version], NOW).is_some()
    }

    /// Counts everything anew.
    fn audit(&self) {
        let shelves = self.shelves.read();
        let nodes: Vec<&Node> = shelves.nodes.iter().flatten().collect();
        assert_eq!(nodes.iter().map(|node| weight(&node.kept)).sum::<u64>(), shelves.bytes);
        assert_eq!((nodes.len(), nodes.len()), (shelves.entries, shelves.places.len()));
        assert!(shelves.bytes <= self.bytes_max && shelves.entries <= self.entries_max);
        assert_eq!(shelves.nodes.len(), shelves.entries + shelves.free.len());
        let mut bytes = 0;
        for (organisation, shelf) in &shelves.organisations {
            assert!(shelves.by_bytes.contains(&(shelf.bytes, *organisation)));
            let (mut place, mut older, mut count) = (shelf.newest, 0, 0);
            while let Some(at) = place {
                let node = shelves.node(at);
                assert_eq!(node.kept.identity.organisation, *organisation);
                assert!(shelf.subjects["rows"].contains(&at));
                older += node.bytes;
                count += 1;
                assert!(node.older.is_some() || shelf.oldest == Some(at));
                place = node.older;
            }
            assert_eq!((older, count), (shelf.bytes, shelf.subjects["rows"].len()));
            assert!(shelf.hand.is_none_or(|hand| shelves.nodes[hand as usize].is_some()));
            bytes += older;
        }
        assert_eq!((bytes, shelves.organisations.len()), (shelves.bytes, shelves.by_bytes.len()));
        let gauges = (self.meter.bytes.get(), self.meter.entries.get());
        assert_eq!(gauges, (shelves.bytes.cast_signed(), i64::try_from(shelves.entries).unwrap()));
    }
}

#[test]
fn the_bytes_are_never_above_their_limit_whatever_comes() {
    for seed in 0..8 {
        let chance = Entropy::seeded(seed);
        let below = |most: u64| usize::try_from(chance.number() % most).unwrap();
        let memory = memory(40_000, 30);
        for _ in 0..3_000 {
            let (organisation, key) = (below(4) as u128, below(60).to_string());
            match below(20) {
                0 => drop(memory.evict(OrganisationId::fixed(organisation), "rows")),
                1..=8 => drop(memory.has(organisation, &key, 0)),
                _ => {
                    let size = below(1 << below(17));
                    memory.keep(kept(organisation, &key, size, below(9).try_into().unwrap()), NOW);
                }
            }
            memory.audit();
        }
    }
}

#[test]
fn a_flood_of_one_organisation_evicts_nobody_who_takes_less_than_an_equal_share() {
    let one = weight(&kept(1, "0000", 1_000, 1));
    let memory = memory(one * 100, 1_000);
    for number in 0..40 {
        memory.keep(kept(1, &format!("{number:04}"), 1_000, 1), NOW);
    }
    for number in 0..2_000 {
        memory.keep(kept(2, &format!("{number:04}"), 1_000, 1), NOW);
    }
    assert!((0..40).all(|number| memory.has(1, &format!("{number:04}"), 1)));
    assert_eq!(memory.bytes_of(OrganisationId::fixed(2)), one * 60);
    memory.audit();
}

#[test]
fn what_is_used_stays_when_others_come_and_go() {
    let one = weight(&kept(1, "0000", 1_000, 1));
    let memory = memory(one * 10, 1_000);
    memory.keep(kept(1, "used", 1_000, 1), NOW);
    memory.keep(kept(1, "once", 1_000, 1), NOW);
    for number in 0..200 {
        assert!(memory.has(1, "used", 1), "gone after {number} others");
        memory.keep(kept(1, &format!("{number:04}"), 1_000, 1), NOW);
    }
    assert!(!memory.has(1, "once", 1));
}

#[test]
fn an_older_answer_does_not_take_the_place_of_a_newer_one() {
    let memory = memory(100_000, 10);
    memory.keep(kept(1, "a", 10, 5), NOW);
    memory.keep(kept(1, "a", 10, 4), NOW);
    assert!(memory.has(1, "a", 5));
    assert!(memory.has(1, "a", 4), "a newer one is right for who asks for less");
    assert!(!memory.has(1, "a", 6));
    memory.keep(kept(1, "a", 10, 6), NOW);
    assert!(memory.has(1, "a", 6));
    // What ended is in nobody's way.
    memory.keep(Kept { until: Timestamp::from_millis(3_000), ..kept(1, "a", 10, 5) }, LATER);
    assert!(memory.has(1, "a", 5) && !memory.has(1, "a", 6));
    memory.audit();
}

#[test]
fn the_same_key_of_another_organisation_question_or_subject_is_another() {
    let memory = memory(100_000, 10);
    memory.keep(kept(1, "a", 10, 5), NOW);
    assert!(!memory.has(2, "a", 5));
    let organisation = OrganisationId::fixed(1);
    let find = |name, key, subjects: &[&str]| {
        memory.find(&Asked { organisation, name, key, subjects }, &[5], NOW).is_some()
    };
    assert!(find("test", "a", &["rows"]));
    assert!(!find("other", "a", &["rows"]));
    assert!(!find("test", "a", &["cells"]));
    assert!(!find("test", "ar", &["ows"]));
}
