use anyhow::{Result, ensure};

use crate::node::NodeLaunch;
use crate::proofs::{Ground, Report, Size};
use crate::redis::RedisKind;
use crate::resp::encoded;

const KEYS_AT_ONCE: usize = 1_000;

/// Resident bytes of a key of 16 and a value of 64 bytes, beside those of redis-server and valkey-server.
pub fn memory(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    let keys = ground.count(100_000, 10_000_000) / KEYS_AT_ONCE * KEYS_AT_ONCE;
    let ours = NodeLaunch::new(&ground.binary, &folder.path().join("kv"))?
        .setting("durability=off")
        .setting("rewrite_bytes_min=100000000000");
    let theirs = ["--save", "", "--appendonly", "no"];
    let redis = NodeLaunch::redis(&folder.path().join("redis"), &theirs)?;
    let valkey =
        NodeLaunch::program(&RedisKind::Valkey.program()?, &folder.path().join("valkey"), &theirs)?;
    let mut each = Vec::new();
    for (name, launch, settings) in [
        ("madang kv", &ours, "durability=off"),
        ("redis-server", &redis, "--save '' --appendonly no"),
        ("valkey-server", &valkey, "--save '' --appendonly no"),
    ] {
        let bytes = fill(launch, keys)?;
        report.figure(format!(
            "{name} ({settings}): {bytes:.1} bytes a key of 16 + 64 bytes, {keys} keys"
        ));
        each.push(bytes);
    }
    let is_full = ground.size == Size::Full;
    report.bound(
        !is_full || each[0] <= 130.0,
        format!(
            "{:.1} bytes a key, at most 130; {:.2} of redis-server's, {:.2} of valkey-server's",
            each[0],
            each[0] / each[1],
            each[0] / each[2]
        ),
    );
    Ok(report)
}

/// Resident bytes a key, beyond those of the empty store.
fn fill(launch: &NodeLaunch, keys: usize) -> Result<f64> {
    let node = launch.start()?;
    let mut client = node.client()?;
    let (before, _) = node.resident()?;
    let value = "x".repeat(64);
    for from in (0..keys).step_by(KEYS_AT_ONCE) {
        let requests = (from..from + KEYS_AT_ONCE)
            .flat_map(|key| encoded(&["SET", &format!("key:{key:012}"), &value]));
        client.send(&requests.collect::<Vec<u8>>())?;
        for _ in 0..KEYS_AT_ONCE {
            client.read()?;
        }
    }
    let found = client.number(&["DBSIZE"])?;
    ensure!(usize::try_from(found)? == keys, "{found} keys of {keys}");
    let (after, _) = node.resident()?;
    Ok(after.saturating_sub(before) as f64 / keys as f64)
}
