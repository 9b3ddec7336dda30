use base::Entropy;

use super::*;

const ORGANISATION: OrganisationId = OrganisationId::DEFAULT;
const NAMES: [&str; 3] = ["a", "b", "c"];

/// A database with one writer: bumps run one after the other, and are decided in the order of their groups.
#[derive(Default)]
struct Rows {
    committed: [i64; NAMES.len()],
    /// What writers were told.
    acknowledged: [i64; NAMES.len()],
    /// The open group as it would be committed.
    group: Option<[i64; NAMES.len()]>,
    groups_decided: u64,
}

struct Asker {
    subjects: Vec<usize>,
    ticket: Ticket,
    rows: Option<Versions>,
}

struct Settling {
    until: u64,
    /// The write is acknowledged with the group that this many were decided before.
    after_groups: u64,
}

impl Rows {
    fn bump(&mut self, mirror: &Mirror, subject: usize, now: i64, is_kept: bool) {
        let group = self.group.get_or_insert(self.committed);
        let version = (group[subject] + 1).max(now);
        if is_kept {
            group[subject] = version;
        }
        mirror.doubt(ORGANISATION, NAMES[subject], version);
    }

    fn decide(&mut self, is_kept: bool) {
        if let Some(group) = self.group.take() {
            self.groups_decided += 1;
            if is_kept {
                self.committed = group;
            }
        }
    }
}

fn named(subjects: &[usize]) -> Vec<&'static str> {
    subjects.iter().map(|subject| NAMES[*subject]).collect()
}

#[test]
fn what_is_known_is_never_older_than_acknowledged_nor_newer_than_committed() {
    let mut known_at_all = 0;
    for seed in 0..400 {
        let chance = Entropy::seeded(seed);
        let below = |most: u64| chance.number() % most;
        let most = if seed % 2 == 0 { 50 } else { 2 };
        let mirror = Mirror::new(most, most);
        let (mut rows, mut askers, mut settling) = (Rows::default(), Vec::new(), None);
        let mut now = 10;
        for step in 0..600 {
            match below(16) {
                0 | 1 => {
                    let subject = usize::try_from(below(3)).unwrap();
                    // Time stands, runs, and sometimes goes back.
                    now += i64::try_from(below(4)).unwrap() - 1;
                    rows.bump(&mirror, subject, now, below(4) > 0);
                }
                2 => rows.decide(below(5) > 0),
                3 => rows.acknowledged = rows.committed,
                4..=8 => {
                    let first = usize::try_from(below(3)).unwrap();
                    let subjects =
                        if below(2) == 0 { vec![first] } else { vec![first, (first + 1) % 3] };
                    match mirror.look(ORGANISATION, &named(&subjects)) {
                        Look::Known(versions) => {
                            known_at_all += 1;
                            for (subject, version) in subjects.iter().zip(versions) {
                                let at = format!("seed {seed}, step {step}, {}", NAMES[*subject]);
                                assert!(version >= rows.acknowledged[*subject], "{at} is too old");
                                assert!(
                                    version <= rows.committed[*subject],
                                    "{at} is not there yet"
                                );
                            }
                        }
                        Look::Ask(ticket) => askers.push(Asker { subjects, ticket, rows: None }),
                    }
                }
                9..=13 if !askers.is_empty() => {
                    let place = usize::try_from(below(askers.len() as u64)).unwrap();
                    let asker: &mut Asker = &mut askers[place];
                    let read = asker.subjects.iter().map(|subject| rows.committed[*subject]);
                    match asker.rows.take() {
                        None => asker.rows = Some(read.collect()),
                        Some(versions) => {
                            let asker = askers.swap_remove(place);
                            let subjects = named(&asker.subjects);
                            mirror.learn(asker.ticket, ORGANISATION, &subjects, &versions);
                        }
                    }
                }
                14 if settling.is_none() => {
                    let after_groups = rows.groups_decided + u64::from(rows.group.is_some());
                    settling = Some(Settling { until: mirror.stamp(), after_groups });
                }
                _ => {
                    let is_done =
                        |settling: &Settling| settling.after_groups <= rows.groups_decided;
                    if let Some(done) = settling.take_if(|settling| is_done(settling)) {
                        mirror.settle(done.until);
                    }
                }
            }
        }
    }
    assert!(known_at_all > 1_000, "the test saw only {known_at_all} known versions");
}

fn learn_all(mirror: &Mirror, name: &str, version: i64) -> Learned {
    let Look::Ask(ticket) = mirror.look(ORGANISATION, &[name]) else { return Learned::All };
    mirror.learn(ticket, ORGANISATION, &[name], &[version])
}

#[test]
fn a_bump_that_was_rolled_back_is_in_doubt_until_it_is_settled() {
    let mirror = Mirror::new(10, 10);
    assert_eq!(learn_all(&mirror, "a", 5), Learned::All);
    mirror.doubt(ORGANISATION, "a", 6);
    assert_eq!(learn_all(&mirror, "a", 5), Learned::InDoubt);
    assert!(matches!(mirror.look(ORGANISATION, &["a"]), Look::Ask(_)));
    mirror.settle(mirror.stamp());
    assert_eq!(learn_all(&mirror, "a", 5), Learned::All);
    assert_eq!(mirror.look(ORGANISATION, &["a"]), Look::Known(vec![5]));
    let other = OrganisationId::fixed(7);
    assert!(matches!(mirror.look(other, &["a"]), Look::Ask(_)), "another's subject is another");
}

#[test]
fn too_many_subjects_and_doubts_are_forgotten_and_nothing_is_learnt_until_it_is_settled() {
    let mirror = Mirror::new(3, 3);
    for name in ["a", "b", "c", "d"] {
        learn_all(&mirror, name, 1);
    }
    assert_eq!(mirror.state.read().known.count, 0);
    for (name, version) in [("a", 2), ("b", 2), ("c", 2), ("d", 2), ("e", 2)] {
        mirror.doubt(ORGANISATION, name, version);
    }
    assert_eq!(mirror.state.read().doubts.count, 1, "what came after the limit is noted again");
    assert_eq!(learn_all(&mirror, "a", 1), Learned::InDoubt);
    mirror.settle(mirror.stamp());
    assert_eq!(learn_all(&mirror, "a", 2), Learned::All);
    assert_eq!(mirror.look(ORGANISATION, &["a"]), Look::Known(vec![2]));
}

#[test]
fn newer_means_in_every_subject() {
    assert!(covers(&[2, 3], &[2, 2]));
    assert!(!covers(&[2, 3], &[3, 2]));
    assert!(!covers(&[2], &[2, 2]));
    assert!(covers(&[], &[]));
}
