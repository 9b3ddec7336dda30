//! Rows: transactions that many callers share one commit for, snapshots to read from, migrations, and
//! events that are durable together with the rows they tell of.
//!
//! It is not an object mapper and hides no SQL: statements are written by their room, portable between
//! databases. It knows no feature and listens on no socket.
//!
//! Start at [`Db`]. A write is a closure that can run again and awaits nothing but its [`Tx`]:
//!
//! ```
//! # async fn example(db: relational::Db, name: String) -> Result<(), relational::Error> {
//! use relational::params;
//!
//! db.write(async move |tx| {
//!     tx.execute("INSERT INTO guests (name) VALUES (?)", params![name]).await?;
//!     Ok(())
//! })
//! .await
//! # }
//! ```
//!
//! Where the error type is not known from the surroundings, the closure's last line says it:
//! `Ok::<_, Error>(())`.

#[cfg(test)]
extern crate self as relational;

mod claim;
mod command;
mod commands;
mod config;
mod db;
mod dead_letter;
mod describe;
mod dialect;
mod engine;
mod error;
mod handler;
mod lease;
mod meter;
mod migration;
mod outbox;
mod queue;
mod relay;
mod remote;
mod replay;
mod row;
mod session;
mod shared;
mod sqlite;
mod threads;
mod tx;
mod value;
mod work;

pub use claim::{Claimed, Claims, Deed};
pub use command::{Command, NewCommand};
pub use commands::Commands;
pub use config::{Address, Config};
pub use db::Db;
pub use dead_letter::{
    DEAD_LETTERS_READ, DEAD_LETTERS_WRITE, DeadLetter, DeadLetterFilter, DeadLetterId, Origin,
};
pub use error::{Error, Source};
pub use handler::{Handler, Unhandled, run_handler};
pub use lease::{Held, Lease, Leases};
pub use migration::Migration;
pub use relay::{event_id, event_kind, relay};
pub use replay::{Replayed, ReplayedMany};
pub use row::Row;
pub use tx::{NewEvent, Read, Tx};
pub use value::{FromValue, ToValue, Value};
pub use work::Place;
