//! Identity: accounts, browsers' sessions, generated keys, what each may do, and the record of it. It
//! implements [`base::access::Authority`], which every door asks.
//!
//! It speaks no protocol: doors bring credentials and get a [`base::access::Principal`]. It sends no
//! mail: a one-time link is given to its caller. Start at [`Identity::open`].

mod accounts;
mod attempts;
mod audit;
mod authority;
mod config;
mod error;
mod grant;
mod keys;
mod live;
mod password;
mod sessions;
mod tables;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;

use base::Base;
use parking_lot::RwLock;
use relational::Db;
use tokio::sync::watch;

pub use accounts::{NewAccount, Profile, Role, SignedUp};
pub use audit::{Change, Entry};
pub use config::Config;
pub use error::Error;
pub use grant::Grant;
pub use keys::{Key, KeyCredentials, NewKey};
pub use sessions::{NewSession, SignIn};
pub use token::{key_id, key_text};

/// What identity itself lets people do, for the operations that offer it.
pub mod actions {
    use base::access::Action;

    pub const KEYS_READ: Action = Action("keys.read");
    pub const KEYS_WRITE: Action = Action("keys.write");
    pub const ACCOUNTS_WRITE: Action = Action("accounts.write");
    pub const AUDIT_READ: Action = Action("audit.read");
}

/// Everybody who may come in. Cloning shares it.
#[derive(Clone)]
pub struct Identity(Arc<Inner>);

struct Inner {
    config: Config,
    base: Base,
    db: Db,
    live: RwLock<live::Live>,
    epoch: watch::Sender<u64>,
    hasher: password::Hasher,
    attempts: attempts::Attempts,
    denials: audit::Denials,
}

impl Identity {
    /// Makes the tables, and at the first start the default organisation with an administrator that has no
    /// password; then loads all keys and accounts, which are answered from memory.
    pub async fn open(config: Config, base: &Base, db: Db) -> Result<Self, Error> {
        config.check()?;
        db.migrate("identity", tables::MIGRATIONS).await?;
        accounts::first_start(&db, &config, base).await?;
        let live = live::load(&db, &config).await?;
        let identity = Self(Arc::new(Inner {
            hasher: password::Hasher::new(&config, base)?,
            attempts: attempts::Attempts::new(&config),
            denials: audit::Denials::new(&config, base),
            live: RwLock::new(live),
            epoch: watch::Sender::new(0),
            config,
            base: base.clone(),
            db,
        }));
        audit::keep(&identity);
        Ok(identity)
    }

    /// Tells doors to look again. Comes after the commit and after memory knows.
    fn changed(&self) {
        self.0.epoch.send_modify(|epoch| *epoch += 1);
    }
}
