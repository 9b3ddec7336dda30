//! A node alone: `node FOLDER PORT [always|everysec|off]`. Everybody on this machine is let in, so it is for tests and
//! measurements only.

use std::future::{Future, ready};
use std::net::TcpListener;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use base::access::{Action, Authority, Door, Principal, Refused, Resource, Subject};
use base::{Base, Failure, OrganisationId};
use kv::{Config, Durability, Kv};
use tokio::sync::watch;

/// Lets everybody do everything.
struct Anybody(watch::Sender<u64>);

impl Authority for Anybody {
    fn authenticate<'a>(
        &'a self,
        _: Door,
        _: &'a str,
        _: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<Principal, Refused>> + Send + 'a>> {
        Box::pin(ready(Ok(somebody())))
    }

    fn authorize(&self, _: &Principal, _: Action, _: Resource<'_>) -> Result<(), Refused> {
        Ok(())
    }

    fn epoch(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    fn is_current(&self, _: &Principal) -> bool {
        true
    }
}

fn somebody() -> Principal {
    Principal {
        organisation: OrganisationId::DEFAULT,
        subject: Subject::System("kv-node"),
        name: "default".into(),
    }
}

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
    let authority = Arc::new(Anybody(watch::Sender::new(0)));
    let kv = Kv::open(config, &base, Path::new(&folder), authority, Some(somebody())).await?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        served = kv.serve(listener) => served?,
        _ = terminate.recv() => kv.close().await?,
    }
    Ok(())
}
