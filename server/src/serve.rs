//! `madang serve`: from settings to a running process, and from SIGTERM to its end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use base::Base;
use clap::Args;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use toml::Value;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, Log, Settings};
use crate::listen::{Port, Ports};
use crate::panics;
use crate::threads::Threads;
use crate::wiring::{self, Added, Running};

#[derive(Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(crate) struct Options {
    /// Load real sample data: a year of three weather stations, then live readings
    #[arg(long)]
    sample: bool,
    /// Where everything is kept
    #[arg(long, value_name = "FOLDER", conflicts_with = "ephemeral")]
    data_dir: Option<PathBuf>,
    /// Listen on any free ports
    #[arg(long)]
    free_ports: bool,
    /// Let strangers make accounts, each with an organisation of its own
    #[arg(long)]
    open_sign_up: bool,
    /// An empty stack for tests: a temporary folder that goes when it ends, free ports, open sign-up
    #[arg(long)]
    ephemeral: bool,
    /// When ready, write the doors and their credentials to this file as JSON
    #[arg(long, value_name = "FILE")]
    announce: Option<PathBuf>,
}

/// A stopping process drains for this long.
pub(crate) const DRAIN_MAX: Duration = Duration::from_secs(8);

pub(crate) fn serve(
    mut settings: Settings,
    mut options: Options,
    added: Option<Added>,
) -> Result<()> {
    let temporary = if options.ephemeral {
        options.free_ports = true;
        options.open_sign_up = true;
        let folder = tempfile::Builder::new().prefix("madang-ephemeral-").tempdir()?;
        options.data_dir = Some(folder.path().to_owned());
        Some(folder)
    } else {
        None
    };
    if let Some(folder) = &options.data_dir {
        settings.set(&["data_dir"], Value::String(folder.display().to_string()))?;
    }
    if options.open_sign_up {
        settings.set(&["identity", "sign_up"], Value::String("open".into()))?;
    }
    let config = settings.config()?;
    let base = Base::system();
    begin(&config.log, &base)?;
    let port = |section: &str, key: &str| match (options.free_ports, settings.is_set(section, key))
    {
        (true, _) => Port::Free,
        (_, true) => Port::Configured,
        _ => Port::Usual,
    };
    let ports = Ports {
        http: port("http", "listen"),
        http_tls: port("http", "listen_tls"),
        mqtt: port("mqtt", "listen"),
        mqtt_tls: port("mqtt", "listen_tls"),
        kv: port("kv", "listen"),
        kv_tls: port("kv", "listen_tls"),
    };
    let threads = Threads::start(&config.threads, config.watch.clone(), &base)?;
    let grounds = wiring::Bases {
        handlers: base.on(threads.handlers.handle()),
        io: base.on(threads.io.handle()),
    };
    let ended = threads.io.block_on(run(config, ports, grounds, (&options, added)));
    threads.end();
    drop(temporary);
    ended
}

/// What every server process does first: says what it does on standard error, panics too, and asks for open files.
pub(crate) fn begin(log: &Log, base: &Base) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(&log.filter).context("[log] filter")?)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    panics::report(base.clock.clone());
    allow_open_files();
    Ok(())
}

/// Each connection is an open file, and shells allow few of them unless they are asked.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, allowed = limit.current, "not more files can be open");
    }
}

/// Is ready when the process is told to end, by SIGTERM or Ctrl+C.
pub(crate) fn asked_to_stop() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn run(
    config: Config,
    ports: Ports,
    bases: wiring::Bases,
    (options, added): (&Options, Option<Added>),
) -> Result<()> {
    let stop = asked_to_stop()?;
    tokio::pin!(stop);
    let running = tokio::select! {
        running = wiring::start(config, ports, &bases, added) => running?,
        () = &mut stop => return Ok(()),
    };
    if options.sample {
        running.start_sample().await?;
    }
    if let Some(file) = &options.announce {
        announce(file, &running).await?;
    }
    greet(&running).await?;
    stop.await;
    tracing::info!("stopping");
    running.stop(&bases.io, DRAIN_MAX).await;
    Ok(())
}

/// Says on standard error where everything is.
async fn greet(running: &Running) -> Result<()> {
    let console = running.console_url();
    tracing::info!("the console is at {console}");
    let at = &running.addresses;
    tracing::info!("MQTT listens on {}", at.mqtt);
    if let Some(address) = at.kv {
        tracing::info!("RESP (Redis clients) listens on {address}");
    }
    if let (Some(http), Some(mqtt)) = (at.http_tls, at.mqtt_tls) {
        tracing::info!("under TLS HTTP listens on {http}, MQTT on {mqtt}");
    }
    if let Some(address) = at.kv_tls {
        tracing::info!("under TLS RESP listens on {address}");
    }
    if let Some(token) = running.administrator_link().await? {
        tracing::info!("sign in once with this link: {console}#/link?token={token}");
    }
    Ok(())
}

/// Writes the file whole or not at all: it is seen only when everything is ready.
async fn announce(file: &Path, running: &Running) -> Result<()> {
    let credentials = running.announced_keys().await?;
    let at = &running.addresses;
    let mut text = json!({
        "http": at.http.to_string(),
        "mqtt": at.mqtt.to_string(),
        "admin_token": credentials.admin_token,
        "mqtt_user": credentials.mqtt_user,
        "mqtt_password": credentials.mqtt_password,
    });
    // A door that is not there is absent.
    let others = [
        ("resp", at.kv),
        ("http_tls", at.http_tls),
        ("mqtt_tls", at.mqtt_tls),
        ("resp_tls", at.kv_tls),
    ];
    for (name, address) in others {
        if let Some(address) = address {
            text[name] = address.to_string().into();
        }
    }
    if let Some(password) = credentials.resp_password {
        text["resp_password"] = password.into();
    }
    base::write_whole(file, text.to_string().as_bytes())
        .with_context(|| format!("write {}", file.display()))
}
