//! `madang kv-node`: the store of keys alone, for clients whose keys are in a file.

mod keys;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use base::Base;
use base::access::Authority;
use clap::Args;
use identity::Grant;
use kv::Kv;

use crate::config::{Config, Settings};
use crate::listen::{Port, entries};
use crate::serve::{DRAIN_MAX, asked_to_stop, begin};
use crate::tls::Shown;
use keys::KeyFile;

#[derive(Args)]
pub(crate) struct Options {
    /// The keys that clients log in with, as TOML; `--new-key` makes it
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
    /// Where the data is kept
    #[arg(long, value_name = "FOLDER", default_value = "madang-kv")]
    data_dir: PathBuf,
    /// Address and port [default: 127.0.0.1:6379, or the next free port]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Make a key, print it once as ID:SECRET, and end
    #[arg(long, value_name = "LABEL")]
    new_key: Option<String>,
    /// What the new key may do, as in `kv.read kv/session:*` [default: everything]
    #[arg(long, value_name = "ACTION RESOURCE", requires = "new_key")]
    grant: Vec<String>,
}

#[allow(clippy::print_stdout, reason = "a new key is shown once")]
pub(crate) fn kv_node(settings: &Settings, options: &Options) -> Result<()> {
    if let Some(label) = &options.new_key {
        let grants = options.grant.iter().map(|text| grant(text)).collect::<Result<Vec<_>>>()?;
        println!("{}", keys::add(&options.keys, label, grants, &Base::system().entropy)?);
        return Ok(());
    }
    let config = settings.config()?;
    let base = Base::system();
    begin(&config.log, &base)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start threads")?;
    runtime.block_on(serve(config, options, &base))
}

async fn serve(mut config: Config, options: &Options, base: &Base) -> Result<()> {
    let stop = asked_to_stop()?;
    ensure!(config.kv.part.url.is_embedded(), "a node is a store itself: unset kv.url");
    config.kv.listen.clone_from(&options.listen);
    let port =
        |address: &Option<String>| if address.is_some() { Port::Configured } else { Port::Usual };
    let ports = (port(&config.kv.listen), port(&config.kv.listen_tls));
    ensure!(
        !config.tls.acme.is_on(),
        "[tls.acme] is not for a node: an authority would come to a door that it does not have; name files"
    );
    let shown = Shown::open(&config.tls, &options.data_dir, base)?;
    let tls = shown.as_ref().map(|shown| shown.other.clone());
    let usual = ["127.0.0.1:6379", "127.0.0.1:6380"];
    let doors = entries("kv", &config.kv, usual, ports, tls)?;
    if let Some(shown) = shown {
        let on = base.clone();
        base.tasks.supervise("tls_files", move || shown.clone().follow(on.clone()));
    }
    let keys = Arc::new(KeyFile::open(&options.keys)?);
    base.tasks.supervise("kv_keys", {
        let (keys, clock) = (keys.clone(), base.clock.clone());
        move || keys::follow(keys.clone(), clock.clone())
    });
    let authority: Arc<dyn Authority> = keys;
    let kv = Kv::open(config.kv.part, base, &options.data_dir, authority, None).await?;
    tracing::info!("RESP (Redis clients) listens on {}", doors.bare.address);
    if let Some(door) = doors.secured {
        kv.listen(door.listener.into_std()?, door.tls)?;
        tracing::info!("RESP under TLS listens on {}", door.address);
    }
    let served = kv.serve(doors.bare.listener.into_std()?);
    tokio::pin!(served);
    tokio::select! {
        served = &mut served => served.context("the store has ended")?,
        () = stop => {}
    }
    tracing::info!("stopping");
    kv.close().await?;
    if !base.tasks.stop(DRAIN_MAX).await {
        tracing::warn!("some tasks did not end in time");
    }
    Ok(())
}

/// `kv.read kv/session:*`
fn grant(text: &str) -> Result<Grant> {
    let Some((action, resource)) = text.split_once(' ') else {
        bail!("`{text}`: a grant is an action, a space and a resource");
    };
    let grant = Grant::new(action, resource);
    grant.check()?;
    Ok(grant)
}
