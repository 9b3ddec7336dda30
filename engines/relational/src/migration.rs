use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::{Error, Row, Tx, dialect, params};

/// One step of a room's tables. Once released, it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// Unique in its room, as `0001-devices`.
    pub id: &'static str,
    /// Portable: upper-case keywords, `BIGINT`, `DOUBLE PRECISION`, `BLOB`, `TEXT`, `VARCHAR(n)` for what
    /// keys and indexes are made of, `INTEGER PRIMARY KEY` for what counts by itself.
    pub sql: &'static str,
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS migration (
    room VARCHAR(60) NOT NULL,
    position BIGINT NOT NULL,
    id VARCHAR(200) NOT NULL,
    checksum VARCHAR(64) NOT NULL,
    statements BIGINT NOT NULL,
    applied BIGINT NOT NULL,
    PRIMARY KEY (room, position)
)";

/// Applies what is missing, after checking that what is there is what this version knows.
///
/// MySQL and MariaDB commit each statement that changes a table at once, so it is noted how many of a
/// migration's have run; where a server died between one and its note, that one may be there already.
pub(crate) async fn apply(
    tx: &mut Tx,
    room: &'static str,
    migrations: &'static [Migration],
) -> Result<(), Error> {
    tx.session.lock_schema()?;
    tx.session.schema(TABLE, true)?;
    let applied = "SELECT id, checksum, statements FROM migration WHERE room = ? ORDER BY position";
    let applied = tx.query(applied, params![room]).await?;
    for (position, row) in applied.iter().enumerate() {
        check(room, row, migrations.get(position))?;
    }
    for (position, migration) in migrations.iter().enumerate() {
        if migrations[..position].iter().any(|earlier| earlier.id == migration.id) {
            return Err(refused(room, migration.id, "is there twice"));
        }
        let position_number = i64::try_from(position).unwrap_or(i64::MAX);
        let done = match applied.get(position) {
            Some(row) => Some(row.get::<i64>("statements")?),
            None => None,
        };
        step(tx, room, position_number, *migration, done).await?;
    }
    Ok(())
}

/// Runs what is left of one migration.
async fn step(
    tx: &mut Tx,
    room: &'static str,
    position: i64,
    migration: Migration,
    done: Option<i64>,
) -> Result<(), Error> {
    let statements = dialect::statements(migration.sql);
    if done.is_some_and(|done| usize::try_from(done).is_ok_and(|done| done >= statements.len())) {
        return Ok(());
    }
    let now = tx.session.shared().clock.now();
    if done.is_none() {
        let insert = "INSERT INTO migration (room, position, id, checksum, statements, applied)
            VALUES (?, ?, ?, ?, 0, ?)";
        let row = params![room, position, migration.id, checksum(migration.sql), now];
        tx.execute(insert, row).await?;
    }
    let begin = done.unwrap_or(0);
    for (number, statement) in (0_i64..).zip(&statements).skip_while(|(number, _)| *number < begin)
    {
        let is_repeated = done == Some(number);
        tx.session.schema(statement, is_repeated)?;
        let note = "UPDATE migration SET statements = ? WHERE room = ? AND position = ?";
        tx.execute(note, params![number + 1, room, position]).await?;
    }
    tracing::info!(room, migration = migration.id, "migrated");
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
