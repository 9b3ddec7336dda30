//! `madang`: the whole backend in one process. `serve` starts it; see `wiring` for what starts in which order.
//!
//! A library only so that a development tool can start the same with a room of its own beside the others: see
//! [`Added`]. Start at [`main`].

mod adapters;
mod client;
mod config;
mod doors;
mod kv_client;
mod kv_node;
mod listen;
mod panics;
mod persons;
mod sample;
mod serve;
mod threads;
mod tls;
mod wiring;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::config::Settings;

pub use wiring::{Added, Ground};

/// See docs/decisions/0022.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The backend of a product company in one binary.
#[derive(Parser)]
#[command(name = "madang", version, arg_required_else_help = true)]
struct Arguments {
    /// The configuration file [default: madang.toml, when it is there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything on one disk, on loopback
    Serve(serve::Options),
    /// Start the store of keys alone, for Redis clients with keys from a file
    KvNode(kv_node::Options),
    /// Look into a running store of keys: get, set, watch, stats, keys
    Kv(kv_client::Options),
    /// Look after the jobs of a running server
    Jobs {
        #[command(subcommand)]
        deed: client::Jobs,
    },
    /// Give a running server readings of the past
    Readings {
        #[command(subcommand)]
        deed: client::Readings,
    },
    /// Print the configuration in force, secrets masked
    Config,
    /// Print the `OpenAPI` document of the HTTP API
    Openapi {
        /// Write it to a file instead
        #[arg(long, value_name = "FILE")]
        write: Option<PathBuf>,
    },
    /// Print the version
    Version,
}

/// What the binary does. `added` is for development tools: the binary itself adds nothing.
pub fn main(added: Option<Added>) -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments, added) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("madang: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "commands print their answer")]
fn run(arguments: Arguments, added: Option<Added>) -> Result<()> {
    match arguments.command {
        Command::Serve(options) => {
            serve::serve(Settings::read(arguments.config.as_deref())?, options, added)
        }
        Command::KvNode(options) => {
            kv_node::kv_node(&Settings::read(arguments.config.as_deref())?, &options)
        }
        Command::Kv(options) => kv_client::run(&options, &mut std::io::stdout().lock()),
        Command::Jobs { deed } => {
            let config = Settings::read(arguments.config.as_deref())?.config()?;
            print!("{}", client::jobs(&config.client, deed)?);
            Ok(())
        }
        Command::Readings { deed } => {
            let config = Settings::read(arguments.config.as_deref())?.config()?;
            print!("{}", client::readings(&config.client, deed)?);
            Ok(())
        }
        Command::Config => {
            print!("{}", Settings::read(arguments.config.as_deref())?.config()?.masked()?);
            Ok(())
        }
        Command::Openapi { write } => {
            let document = doors::openapi_document()?;
            if let Some(file) = write {
                return Ok(std::fs::write(file, document)?);
            }
            print!("{document}");
            Ok(())
        }
        Command::Version => {
            println!("madang {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}
