//! One kind of database under a contract: as many empty ones of it as the cases ask for.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Result;
use tempfile::TempDir;

use crate::servers::Database;

pub struct Databases {
    database: Database,
    folder: TempDir,
    made: AtomicU32,
}

/// Where an empty database is.
pub struct Fresh {
    pub name: String,
    /// Empty for the embedded one.
    pub url: String,
    /// The file of the embedded one.
    pub path: PathBuf,
}

impl Databases {
    pub fn embedded() -> Result<Self> {
        Self::of(Database::Embedded)
    }

    pub fn postgres() -> Result<Self> {
        Self::of(Database::postgres()?)
    }

    pub fn mariadb() -> Result<Self> {
        Self::of(Database::mariadb()?)
    }

    fn of(database: Database) -> Result<Self> {
        Ok(Self { database, folder: tempfile::tempdir()?, made: AtomicU32::new(0) })
    }

    pub fn name(&self) -> &'static str {
        self.database.name()
    }

    pub fn fresh(&self) -> Result<Fresh> {
        let name = format!("contract{}", self.made.fetch_add(1, Ordering::Relaxed));
        let path = self.folder.path().join(&name).join("rows.db");
        Ok(Fresh { url: self.database.make(&name)?, name, path })
    }

    /// Cuts every connection to a database.
    pub fn cut(&self, name: &str) -> Result<()> {
        self.database.cut(name)
    }

    /// Kills the server and starts it again on its folder.
    pub fn crash(&mut self) -> Result<()> {
        self.database.crash()
    }
}

/// Runs each case on a ground, which has a name, and says which one it is in.
#[macro_export]
macro_rules! cases {
    ($ground:expr; $($case:path),+ $(,)?) => {$(
        eprintln!("{}: {}", $ground.name(), stringify!($case));
        $case(&$ground).await;
    )+};
}
