use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::load::Publishers;
use crate::mailbox::Mailbox;
use crate::proofs::ledger::{Ledger, check, make_rule, wait_for_load};
use crate::proofs::{Ground, Report, Size};
use crate::stack::Launch;

/// 20 × kill -9 under load by 50 publishers: every acknowledged reading is there once, no alert lost, an alert's repeats
/// carry one Message-ID; up again in under 2 s. After the last the same with the last segment torn.
pub fn kill(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let mailbox = Mailbox::open()?;
    let folder = tempfile::tempdir()?;
    // A mail that was being sent when its server was killed is tried again after its lease.
    let launch = Launch::new(&ground.binary, folder.path())
        .mail_to(mailbox.port)
        .environment("MADANG__DELIVERY__SMTP__SEND_TIME_MAX", "2s")
        .environment("MADANG__DELIVERY__LEASE_MARGIN", "1s");
    let publishers = ground.count(50, 50);
    let rounds = ground.count(5, 20);
    let mut ledger = Ledger::default();
    let mut slowest_start = Duration::ZERO;

    let mut stack = launch.start()?;
    make_rule(&stack)?;
    for round in 0..rounds {
        let load = Publishers::start(
            publishers,
            stack.mqtt_address(),
            (stack.mqtt_user(), stack.mqtt_password()),
            &ledger.next(publishers),
            4,
        );
        let before = ledger.acknowledged();
        let wanted = 200 * (1 + round as u64 % 4);
        wait_for_load(&stack, wanted)?;
        stack.kill()?;
        ledger.add(load.join()?);
        ensure!(ledger.acknowledged() > before, "round {round}: nothing was acknowledged");
        stack = launch.start()?;
        slowest_start = slowest_start.max(stack.ready_after);
    }
    let start_max =
        if ground.size == Size::Test { Duration::from_secs(30) } else { Duration::from_secs(2) };
    report.bound(
        slowest_start < start_max,
        format!("{rounds} kills under {publishers} publishers; slowest start after one {slowest_start:?}"),
    );
    check(&stack, &mailbox, &ledger, "after the kills", &mut report)?;

    // A torn tail: half a batch follows what was acknowledged, as a lost machine leaves it.
    stack.kill()?;
    let torn = tear_last_segment(&folder.path().join("data"))?;
    report.figure(format!("torn: {}", torn.display()));
    let stack = launch.start()?;
    report.bound(
        stack.ready_after < start_max,
        format!("start with a torn segment {:?}", stack.ready_after),
    );
    let load = Publishers::start(
        publishers,
        stack.mqtt_address(),
        (stack.mqtt_user(), stack.mqtt_password()),
        &ledger.next(publishers),
        4,
    );
    wait_for_load(&stack, 400)?;
    ledger.add(load.stop()?);
    check(&stack, &mailbox, &ledger, "after the torn segment", &mut report)?;
    Ok(report)
}

/// Appends half of the newest segment's own first bytes to it: a batch that was being written.
fn tear_last_segment(data: &Path) -> Result<PathBuf> {
    let mut segments = vec![];
    collect_segments(data, &mut segments)?;
    let newest = segments
        .into_iter()
        .filter(|path| path.components().any(|part| part.as_os_str() == "readings"))
        .max()
        .context("no segment of readings")?;
    let bytes = std::fs::read(&newest)?;
    let half = bytes.len().min(90);
    let mut file = OpenOptions::new().append(true).open(&newest)?;
    std::io::Write::write_all(&mut file, &bytes[..half])?;
    Ok(newest)
}

fn collect_segments(folder: &Path, segments: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect_segments(&path, segments)?;
        } else if path.extension().is_some_and(|extension| extension == "log") {
            segments.push(path);
        }
    }
    Ok(())
}
