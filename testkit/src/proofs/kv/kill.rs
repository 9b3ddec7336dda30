use std::time::Duration;

use anyhow::Result;

use super::load::Known;
use super::{REWRITES_OFTEN, note_wrong, start_max};
use crate::disk::Dice;
use crate::node::NodeLaunch;
use crate::proofs::{Ground, Report};

const CLIENTS: usize = 6;
const DEPTH: u64 = 16;

/// kill -9 at seeded moments under load, while the log is rewritten: with every durability nothing acknowledged is
/// lost and nothing is done twice.
pub fn kill(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    for (seed, durability) in ["always", "everysec", "off"].into_iter().enumerate() {
        kills(ground, durability, seed as u64, &mut report)?;
    }
    Ok(report)
}

fn kills(ground: &Ground, durability: &str, seed: u64, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let launch = NodeLaunch::new(&ground.binary, &folder.path().join("kv"))?
        .setting(&format!("durability={durability}"))
        .setting(REWRITES_OFTEN);
    let (mut dice, mut known) = (Dice::new(seed), Known::new(CLIENTS));
    let (mut acknowledged, mut slowest, mut rewrites) = (0, Duration::ZERO, 0);
    let kills = ground.count(4, 200);
    let mut node = launch.start()?;
    for round in 0..kills {
        let load = known.load(&node.address, DEPTH, true);
        let after = 500 + dice.below(ground.count(3_000, 10_000) as u64);
        load.wait_for(after)?;
        // A rewrite that just begins is one more moment to be killed in.
        if dice.below(2) == 0 {
            node.client()?.ask(&["BGREWRITEAOF"])?;
        }
        load.wait_for(after + dice.below(200))?;
        node.kill()?;
        acknowledged += known.take(load)?.acknowledged;
        rewrites += newest(&folder.path().join("kv"))?;
        node = launch.start()?;
        slowest = slowest.max(node.ready_after);
        let when = format!("{durability}, after kill {round}");
        if !note_wrong(report, &when, known.settle(&node.address)?) {
            return Ok(());
        }
    }
    report.bound(
        rewrites > 0,
        format!("{durability}: {kills} kills, {acknowledged} deeds acknowledged, none missing or done twice; {rewrites} kills found a snapshot or a draft of one"),
    );
    report.bound(slowest < start_max(ground), format!("{durability}: slowest start {slowest:?}"));
    Ok(())
}

/// Whether a folder holds a snapshot, finished or not.
fn newest(folder: &std::path::Path) -> Result<usize> {
    for entry in std::fs::read_dir(folder)? {
        if entry?.file_name().to_string_lossy().contains("snapshot") {
            return Ok(1);
        }
    }
    Ok(0)
}
