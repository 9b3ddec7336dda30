use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::load::Known;
use super::{REWRITES_OFTEN, note_wrong, start_max};
use crate::disk::{Dice, Disk, Left};
use crate::node::{Node, NodeLaunch};
use crate::proofs::{Ground, Report};
use crate::wait::within_every;

const CLIENTS: usize = 6;
const DEPTH: u64 = 8;
/// About what a third of a second of load makes, rewriting included.
const OPERATIONS: u64 = 600;
/// After so many cuts the next ones begin with an empty folder.
const CUTS_ON_A_FOLDER: usize = 25;
/// The files whose fsync the mutations leave out.
const MUTATED: [&str; 2] = [".log", "snapshot.draft"];

/// The power goes at seeded operations on the store's files: log, snapshots, and the turn from one to the next.
pub fn power_cut(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let (cuts, mut tally) = (ground.count(8, 400), Tally::default());
    while tally.rounds < cuts && report.short.is_empty() {
        let mut place = Place::new(ground, tally.rounds as u64, &[])?;
        place.cuts((cuts - tally.rounds).min(CUTS_ON_A_FOLDER), &mut tally, &mut report)?;
    }
    report.figure(tally.to_string());
    report.bound(tally.in_rewrite > 0, format!("{} cuts within a rewrite", tally.in_rewrite));
    report.bound(
        tally.slowest < start_max(ground),
        format!("slowest start after a cut {:?}", tally.slowest),
    );
    Ok(report)
}

/// The proof above is able to fail: with one fsync left out, it does.
pub fn power_cut_fails(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    for (number, mutated) in MUTATED.into_iter().enumerate() {
        let (mut broken, mut tally) = (Report::default(), Tally::default());
        let mut place = Place::new(ground, 9_000 + number as u64, &[mutated])?;
        let ran = place.cuts(ground.count(30, 60), &mut tally, &mut broken);
        let found = match ran {
            Err(error) => Some(format!("{error:#}")),
            Ok(()) => broken.short.first().cloned(),
        };
        let found = found.map(|text| {
            let text = text.replace(&place.folder.path().display().to_string(), "");
            text.lines().next_back().unwrap_or_default().chars().take(300).collect::<String>()
        });
        report.bound(
            found.is_some(),
            format!(
                "without fsync of {mutated}: {} cuts, then {}",
                tally.rounds,
                found.as_deref().unwrap_or("nothing was noticed")
            ),
        );
    }
    Ok(report)
}

#[derive(Default)]
struct Tally {
    rounds: usize,
    in_start: usize,
    in_rewrite: usize,
    changes_lost: usize,
    names_lost: usize,
    acknowledged: u64,
    slowest: Duration,
}

/// A node on a disk that loses power, and what the world outside knows of it.
struct Place {
    launch: NodeLaunch,
    disk: Disk,
    dice: Dice,
    known: Known,
    folder: tempfile::TempDir,
}

impl Place {
    fn new(ground: &Ground, seed: u64, mutated: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let disk = Disk::new(&folder.path().join("data"), &folder.path().join("disk"))?;
        let disk = disk.ignoring_fsync_of(mutated);
        let launch = NodeLaunch::new(&ground.binary, &folder.path().join("data/kv"))?
            .setting(REWRITES_OFTEN)
            .environment(disk.environment())
            .says_in(&folder.path().join("said.log"));
        Ok(Self { launch, disk, dice: Dice::new(seed), known: Known::new(CLIENTS), folder })
    }

    fn cuts(&mut self, cuts: usize, tally: &mut Tally, report: &mut Report) -> Result<()> {
        let mut node = self.launch.start()?;
        for _ in 0..cuts {
            let left = self.cut(node, tally).context("under load")?;
            tally.note(&left);
            tally.rounds += 1;
            let when = format!("after a cut at {}", self.named(&left.cut));
            node = self.start_again(tally).context(when.clone())?;
            tally.slowest = tally.slowest.max(node.ready_after);
            if !note_wrong(report, &when, self.known.settle(&node.address)?) {
                return Ok(());
            }
        }
        ensure!(tally.acknowledged > 0, "nothing was acknowledged");
        Ok(())
    }

    /// Runs load until the power goes, and puts the disk into a state that is left.
    fn cut(&mut self, node: Node, tally: &mut Tally) -> Result<Left> {
        let operation = 1 + self.dice.below(OPERATIONS);
        // One time in three the operations of a rewrite are counted alone.
        let (operation, part) = match self.dice.below(3) {
            0 => (1 + operation % 12, "snapshot"),
            _ => (operation, ""),
        };
        let load = self.known.load(&node.address, DEPTH, true);
        self.disk.cut_at(operation, part)?;
        if self.dice.below(2) == 0 {
            // The power may be gone already.
            drop(node.client().and_then(|mut client| client.ask(&["BGREWRITEAOF"])));
        }
        within_every(Duration::from_millis(2), Duration::from_mins(1), "the cut", || {
            Ok(self.disk.is_cut().then_some(()))
        })
        .with_context(|| {
            format!("{} of {operation} operations", self.disk.operations().unwrap_or_default())
        })?;
        node.ended(Duration::from_secs(10))?;
        let outcome = self.known.take(load)?;
        ensure!(outcome.refusals.is_empty(), "refused: {:?}", outcome.refusals);
        tally.acknowledged += outcome.acknowledged;
        self.disk.restore(self.dice.below(u64::MAX))
    }

    /// Starts the node; one time in four the power goes once more meanwhile.
    fn start_again(&mut self, tally: &mut Tally) -> Result<Node> {
        let launch = &self.launch;
        let (started, left) = self.disk.start_again(&mut self.dice, 12, || launch.start())?;
        if let Some(left) = left {
            tally.note(&left);
            tally.in_start += 1;
        }
        Ok(started)
    }

    /// An operation without the folder's own name, which differs from run to run.
    fn named(&self, cut: &str) -> String {
        cut.replace(&self.folder.path().display().to_string(), "")
    }
}

impl Tally {
    fn note(&mut self, left: &Left) {
        self.changes_lost += left.changes_lost;
        self.names_lost += left.names_lost;
        self.in_rewrite += usize::from(left.cut.contains("snapshot"));
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} cuts under load and {} while starting; {} unsynced changes and {} unsynced names lost; {} deeds acknowledged, none missing or done twice",
            self.rounds, self.in_start, self.changes_lost, self.names_lost, self.acknowledged
        )
    }
}
