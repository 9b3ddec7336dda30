use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::load::Known;
use super::{REWRITES_OFTEN, note_wrong};
use crate::disk::{Disk, EIO};
use crate::node::{Node, NodeLaunch};
use crate::proofs::{Ground, Report};
use crate::resp::Value;
use crate::wait::within;

const CLIENTS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(20);

/// A full disk is refused with Redis's word for it while reads go on, and left behind when there is room. After a
/// failed fsync nothing is acknowledged and nobody is shown what is not on disk, until a new start.
pub fn disk(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let mut place = Place::new(ground)?;
    let mut node = place.launch.start()?;
    for round in 0..ground.count(2, 20) as u64 {
        place.full(&node, round, &mut report)?;
        node = place.failed_fsync(node, round, &mut report)?;
    }
    place.cut(node, &mut report)?;
    Ok(report)
}

struct Place {
    launch: NodeLaunch,
    disk: Disk,
    known: Known,
    _folder: tempfile::TempDir,
}

impl Place {
    fn new(ground: &Ground) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let disk = Disk::new(&folder.path().join("data"), &folder.path().join("disk"))?;
        let launch = NodeLaunch::new(&ground.binary, &folder.path().join("data/kv"))?
            .setting(REWRITES_OFTEN)
            .environment(disk.environment())
            .says_in(&folder.path().join("said.log"));
        Ok(Self { launch, disk, known: Known::new(CLIENTS), _folder: folder })
    }

    fn full(&mut self, node: &Node, round: u64, report: &mut Report) -> Result<()> {
        let load = self.known.load(&node.address, 1, true);
        load.wait_for(200)?;
        self.disk.limit_room(10_000 + 4_096 * round)?;
        // Each client ends with its first refusal.
        let outcome = self.known.take(load)?;
        let is_clear = |text: &&String| text.contains("MISCONF") && text.contains("disk is full");
        report.bound(
            outcome.refusals.iter().filter(is_clear).count() == CLIENTS,
            format!(
                "full: {} clients are refused: {}",
                outcome.refusals.len(),
                outcome.refusals.first().map_or("", String::as_str)
            ),
        );
        let is_right = note_wrong(report, "full", self.known.settle(&node.address)?);
        report.bound(is_right, "full: reads go on, and what was acknowledged is there");
        self.disk.make_room()?;
        self.goes_on(node, "full, then room", report)
    }

    fn failed_fsync(&mut self, node: Node, round: u64, report: &mut Report) -> Result<Node> {
        let failures = self.disk.failures()?;
        let load = self.known.load(&node.address, 1, false);
        load.wait_for(100)?;
        self.disk.fail_only(".log")?;
        self.disk.fail_fsync(1 + round, EIO)?;
        // Clients whose changes were in that turn are closed without a reply, the others are refused.
        self.known.take(load)?;
        report.bound(self.disk.failures()? == failures + 1, "one fsync of the log failed");
        let mut client = node.client()?;
        let Value::Error(refusal) = client.ask(&["SET", "other", "1"])? else {
            bail!("it was acknowledged")
        };
        report.bound(
            refusal.starts_with("MISCONF"),
            format!("after a failed fsync nothing is acknowledged: {refusal}"),
        );
        let unchanged = client.ask(&["GET", "churned:0"])?;
        report.bound(matches!(unchanged, Value::Bulk(_)), "after a failed fsync reads go on");
        self.hidden(&node, report)?;
        self.disk.fail_only("")?;
        node.kill()?;
        let node = self.launch.start()?;
        let when = "after a failed fsync and a new start";
        let is_right = note_wrong(report, when, self.known.settle(&node.address)?);
        report.bound(is_right, format!("{when}: what was acknowledged is there"));
        self.goes_on(&node, when, report)?;
        Ok(node)
    }

    /// A deed that was not acknowledged is not shown: its key is refused, or as it was before.
    fn hidden(&self, node: &Node, report: &mut Report) -> Result<()> {
        let mut client = node.client()?;
        let (mut refused, mut shown) = (0, 0);
        for (number, history) in self.known.histories.iter().enumerate() {
            if history.acknowledged == history.sent {
                continue;
            }
            for request in super::history::deed(number, history.acknowledged) {
                let Some(key) = request.get(1) else { continue };
                // What takes from an empty list or set changes nothing.
                let surely_changes = matches!(history.acknowledged % 10, 0 | 2..=5 | 8);
                match client.ask(&["TYPE", key])? {
                    Value::Error(text) if text.starts_with("MISCONF") => refused += 1,
                    _ => shown += usize::from(surely_changes),
                }
            }
        }
        report.bound(
            refused > 0 && shown == 0,
            format!("after a failed fsync {refused} changed keys are refused to readers, {shown} are shown"),
        );
        Ok(())
    }

    /// After all of this, what was acknowledged is also on the disk.
    fn cut(&mut self, node: Node, report: &mut Report) -> Result<()> {
        let load = self.known.load(&node.address, 8, true);
        self.disk.cut_at(200, "")?;
        node.ended(PATIENCE)?;
        self.known.take(load)?;
        self.disk.restore_bare()?;
        let node = self.launch.start()?;
        let when = "after a power cut in the end";
        let is_right = note_wrong(report, when, self.known.settle(&node.address)?);
        report.bound(is_right, format!("{when}: what was acknowledged is there"));
        Ok(())
    }

    /// Everybody is served again.
    fn goes_on(&mut self, node: &Node, when: &str, report: &mut Report) -> Result<()> {
        within(PATIENCE, "a write that is taken", || {
            let reply = node.client()?.ask(&["SET", "other", "1"])?;
            Ok(matches!(reply, Value::Simple(_)).then_some(()))
        })
        .context(when.to_owned())?;
        let load = self.known.load(&node.address, 1, true);
        load.wait_for(200).context(when.to_owned())?;
        load.stop();
        let outcome = self.known.take(load)?;
        let is_right = note_wrong(report, when, self.known.settle(&node.address)?);
        report.bound(
            is_right && outcome.refusals.is_empty(),
            format!("{when}: {} deeds acknowledged, all are there", outcome.acknowledged),
        );
        Ok(())
    }
}
