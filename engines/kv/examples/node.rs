//! A node alone: `node FOLDER PORT [SETTING=VALUE…]`, settings by their names in the configuration. Everybody on this
//! machine is let in, or with `closed=true` everybody who says AUTH, so it is for proofs and measurements only.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use base::{Base, Failure};
use kv::{Config, Kv};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Map, Value};
use testkit::Anybody;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut args = std::env::args().skip(1);
    let folder = args.next().ok_or("a folder is needed")?;
    let port = args.next().ok_or("a port is needed")?.parse::<u16>()?;
    let mut settings = Map::new();
    for setting in args {
        let (name, value) = setting.split_once('=').ok_or("a setting is NAME=VALUE")?;
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        settings.insert(name.to_owned(), value);
    }
    let is_closed = settings.remove("closed") == Some(Value::Bool(true));
    let config: Config = serde_json::from_value(Value::Object(settings))?;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let base = Base::system();
    let authority = Arc::new(Anybody::default());
    let anonymous = (!is_closed).then(Anybody::principal);
    let kv = Kv::open(config, &base, Path::new(&folder), authority, anonymous).await?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        served = kv.serve(listener) => served?,
        _ = terminate.recv() => kv.close().await?,
    }
    Ok(())
}
