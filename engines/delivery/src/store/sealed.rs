//! URLs and secrets in their rows: sealed, or plain as an earlier version left them.

use base::{OrganisationId, Seal, SealingKeyId, Timestamp};
use relational::{Row, Tx, Value, params};

use crate::keys::{Column, Place, Sealed};
use crate::{EndpointId, Error};

/// Rows that one commit seals.
const SEALED_MAX: i64 = 100;
const COLUMNS: [(&str, &str, Column); 2] =
    [("delivery_endpoints", "url", Column::Url), ("delivery_secrets", "secret", Column::Secret)];

/// What a row holds in its column, whose key stands beside it.
pub(super) fn opened(
    row: &Row,
    seal: &Seal,
    place: Place,
    name: &'static str,
) -> Result<String, Error> {
    let text: String = row.get(name)?;
    match row.get::<Option<SealingKeyId>>("sealed_by")? {
        Some(key) => place.open(seal, &Sealed { key, text }),
        None => Ok(text),
    }
}

/// Notes the key that seals from now on, so that no server begins with keys of its own; `is_lost`: whatever was sealed
/// before is given up.
pub(crate) async fn agree(
    tx: &mut Tx,
    seal: &Seal,
    is_lost: bool,
    now: Timestamp,
) -> Result<(), Error> {
    let rows = tx.query("SELECT id FROM delivery_keys ORDER BY id", &[]).await?;
    let used = rows.iter().map(|row| row.get("id")).collect::<Result<Vec<SealingKeyId>, _>>()?;
    if let Some(missing) = used.iter().find(|key| !seal.has(**key))
        && !is_lost
    {
        return Err(Error::Config(format!(
            "delivery.key_file has not the key {missing}, which secrets of endpoints are sealed under: put the file of the \
             backup or of the other server there; when it is lost, start with delivery.key_lost = true, and give each \
             endpoint its URL and a secret anew"
        )));
    }
    if !used.contains(&seal.newest()) {
        let insert = "INSERT INTO delivery_keys (id, first_used) VALUES (?, ?)";
        tx.execute(insert, params![seal.newest(), now]).await?;
    }
    Ok(())
}

/// Forgets older keys of the file, under which nothing is sealed any more.
pub(crate) async fn forget_older(tx: &mut Tx, seal: &Seal) -> Result<(), Error> {
    for key in seal.older() {
        tx.execute("DELETE FROM delivery_keys WHERE id = ?", params![key]).await?;
    }
    Ok(())
}

/// Seals rows that are plain or under an older key of the file; says whether there may be more.
pub(crate) async fn seal_some(tx: &mut Tx, seal: &Seal) -> Result<bool, Error> {
    let older: Vec<SealingKeyId> = seal.older().collect();
    let mut is_more = false;
    for (table, name, column) in COLUMNS {
        let marks = vec!["?"; older.len()].join(", ");
        let under_older =
            if older.is_empty() { String::new() } else { format!(" OR sealed_by IN ({marks})") };
        let sql = format!(
            "SELECT id, organisation, {name}, sealed_by FROM {table} WHERE sealed_by IS NULL{under_older} LIMIT ?"
        );
        let mut values: Vec<Value> = older.iter().map(|key| Value::from(*key)).collect();
        values.push(SEALED_MAX.into());
        let rows = tx.query(&sql, &values).await?;
        is_more |= i64::try_from(rows.len()).is_ok_and(|count| count == SEALED_MAX);
        for row in &rows {
            let (organisation, id): (OrganisationId, EndpointId) =
                (row.get("organisation")?, row.get("id")?);
            let place = Place { column, organisation, row: id };
            let sealed = place.seal(seal, &opened(row, seal, place, name)?);
            let update = format!("UPDATE {table} SET {name} = ?, sealed_by = ? WHERE id = ?");
            tx.execute(&update, params![sealed.text, sealed.key, id]).await?;
        }
    }
    Ok(is_more)
}
