use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::{Error, Row, Tx, params};

/// One step of a room's tables. Once released, it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// Unique in its room, as `0001-devices`.
    pub id: &'static str,
    pub sql: &'static str,
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS migration (
    room TEXT NOT NULL,
    position BIGINT NOT NULL,
    id TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied BIGINT NOT NULL,
    PRIMARY KEY (room, position)
)";

/// Applies what is missing, after checking that what is there is what this version knows.
pub(crate) async fn apply(
    tx: &mut Tx,
    room: &'static str,
    migrations: &'static [Migration],
) -> Result<(), Error> {
    tx.execute(TABLE, &[]).await?;
    let applied = "SELECT id, checksum FROM migration WHERE room = ? ORDER BY position";
    let applied = tx.query(applied, params![room]).await?;
    for (position, row) in applied.iter().enumerate() {
        check(room, row, migrations.get(position))?;
    }
    for (position, migration) in migrations.iter().enumerate().skip(applied.len()) {
        if migrations[..position].iter().any(|earlier| earlier.id == migration.id) {
            return Err(refused(room, migration.id, "is there twice"));
        }
        tx.batch(migration.sql).await?;
        let now = tx.session.shared().clock.now();
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        tx.execute(
            "INSERT INTO migration (room, position, id, checksum, applied) VALUES (?, ?, ?, ?, ?)",
            params![room, position, migration.id, checksum(migration.sql), now],
        )
        .await?;
        tracing::info!(room, migration = migration.id, "migrated");
    }
    Ok(())
}

fn check(room: &'static str, row: &Row, known: Option<&Migration>) -> Result<(), Error> {
    let id: String = row.get("id")?;
    let Some(known) = known else {
        return Err(refused(room, &id, "is unknown: the database was written by a later version"));
    };
    if known.id != id {
        let problem = format!("was applied where this version has {}", known.id);
        return Err(refused(room, &id, &problem));
    }
    if row.get::<String>("checksum")? != checksum(known.sql) {
        return Err(refused(room, &id, "was changed after it was applied"));
    }
    Ok(())
}

fn refused(room: &'static str, id: &str, problem: &str) -> Error {
    Error::Migration { room, id: id.to_owned(), problem: problem.to_owned() }
}

fn checksum(sql: &str) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(sql.as_bytes()) {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    text
}
