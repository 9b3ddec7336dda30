use std::time::Duration;

use anyhow::Result;

use crate::mqtt_client::MqttClient;
use crate::proofs::{Ground, Report, Size};
use crate::stack::Launch;
use crate::wait::within;

/// Ready in under 1 s, under 100 MB resident, SIGTERM to exit under 10 s with clients connected.
pub fn idle(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    // An unoptimised binary carries its symbols and more; the line itself is about a release.
    let (ready_max, resident_max) = match ground.size {
        Size::Test => (Duration::from_secs(30), 250_000_000),
        Size::Full => (Duration::from_secs(1), 100_000_000),
    };
    let mut readies = vec![];
    for _ in 0..ground.count(1, 5) {
        let folder = tempfile::tempdir()?;
        let stack = Launch::new(&ground.binary, folder.path()).start()?;
        readies.push(stack.ready_after);
        drop(stack);
    }
    readies.sort_unstable();
    let ready = readies[readies.len() / 2];
    report.bound(ready < ready_max, format!("ready after {ready:?} (median of {})", readies.len()));

    let folder = tempfile::tempdir()?;
    let stack = Launch::new(&ground.binary, folder.path()).start()?;
    let resident = stack.resident()?;
    report.bound(resident < resident_max, format!("{resident} bytes resident when ready"));

    // Clients of every kind stay connected while the process ends.
    let device = MqttClient::connect(
        stack.mqtt_address(),
        "idle",
        stack.mqtt_user(),
        stack.mqtt_password(),
    )?;
    let events = stack.api().events("/v1/events?topic=readings")?;
    let half_open = std::net::TcpStream::connect(stack.http_address())?;
    within(Duration::from_secs(10), "an answer with clients connected", || {
        Ok((stack.api().get("/readyz")?.status == 200).then_some(()))
    })?;
    let ended = stack.terminate()?;
    drop((device, events, half_open));
    report.bound(
        ended < Duration::from_secs(10),
        format!("ended {ended:?} after SIGTERM with MQTT, event stream and a silent HTTP connection open"),
    );

    // Started with `--ephemeral`, the folder goes when the process ends.
    let folder = tempfile::tempdir()?;
    let before = ephemeral_folders(folder.path())?;
    let stack = Launch::new(&ground.binary, folder.path())
        .environment("TMPDIR", &folder.path().display().to_string())
        .ephemeral()
        .start()?;
    let during = ephemeral_folders(folder.path())?;
    report.bound(during == before + 1, "an ephemeral stack keeps its data in a temporary folder");
    stack.terminate()?;
    let after = ephemeral_folders(folder.path())?;
    report.bound(after == before, "the temporary folder goes when the stack ends");
    Ok(report)
}

fn ephemeral_folders(parent: &std::path::Path) -> Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(parent)? {
        count += usize::from(entry?.file_name().to_string_lossy().starts_with("madang-ephemeral"));
    }
    Ok(count)
}
