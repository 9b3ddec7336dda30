//! A node alone: `node FOLDER PORT [always|everysec|off]`. Everybody on this machine is let in, so it is for tests and
//! measurements only.

#[path = "shared/anybody.rs"]
mod anybody;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use anybody::{Anybody, somebody};
use base::{Base, Failure};
use kv::{Config, Durability, Kv};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("a folder is needed")?;
    let port = args.next().ok_or("a port is needed")?.parse::<u16>()?;
    let durability = match args.next().as_deref() {
        None | Some("always") => Durability::Always,
        Some("everysec") => Durability::Everysec,
        Some("off") => Durability::Off,
        Some(other) => return Err(format!("no durability {other}").into()),
    };
    let base = Base::system();
    let config = Config { durability, ..Config::default() };
    let authority = Arc::new(Anybody::default());
    let kv = Kv::open(config, &base, Path::new(&folder), authority, Some(somebody())).await?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        served = kv.serve(listener) => served?,
        _ = terminate.recv() => kv.close().await?,
    }
    Ok(())
}
