//! Random commands of every family against this store and a real redis-server: `in_step [COMMANDS [SEED]]`. Prints
//! what was equal, and fails when anything was not.

mod stream;

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Arc;

use base::{Base, Failure};
use kv::{Config, Durability, Kv};
use testkit::Anybody;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let count: usize = args.next().map_or(Ok(1_000_000), |text| text.parse())?;
    let seed: u64 = args.next().map_or(Ok(1), |text| text.parse())?;
    let folder = tempfile::tempdir()?;
    let base = Base::system();
    let config = Config { durability: Durability::Off, ..Config::default() };
    let kv = Kv::open(
        config,
        &base,
        folder.path(),
        Arc::new(Anybody::default()),
        Some(Anybody::principal()),
    )
    .await?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let ours = listener.local_addr()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut redis = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--save", "", "--appendonly", "no"])
        .stdout(Stdio::null())
        .spawn()?;
    let server = kv.clone();
    let served = base.tasks.spawn("kv", async move { server.serve(listener).await });
    let compared = tokio::task::spawn_blocking(move || compare(ours, port, (count, seed))).await?;
    redis.kill()?;
    redis.wait()?;
    kv.close().await?;
    drop(served);
    compared
}

#[allow(clippy::print_stdout, reason = "the figures are what it is for")]
fn compare(ours: SocketAddr, port: u16, (count, seed): (usize, u64)) -> Result<(), Failure> {
    let theirs = SocketAddr::from(([127, 0, 0, 1], port));
    while stream::Client::connect(theirs).is_err() {
        std::thread::yield_now();
    }
    let version = Command::new("redis-server").arg("--version").output()?;
    println!("beside {}", String::from_utf8_lossy(&version.stdout).trim());
    let mut differences = Vec::new();
    for (family, templates) in stream::FAMILIES {
        // Many short runs show more kinds of differences than one that ends at the first.
        let runs = 20;
        let found: Vec<String> = (seed..seed + runs)
            .filter_map(|seed| {
                stream::run(ours, theirs, (family, templates, seed, count / 20)).err()
            })
            .collect();
        println!(
            "{family}: {count} commands of {} forms, seeds {seed} to {}, {} runs with a difference",
            templates.len(),
            seed + runs - 1,
            found.len()
        );
        differences.extend(found);
    }
    if differences.is_empty() { Ok(()) } else { Err(differences.join("\n\n").into()) }
}
