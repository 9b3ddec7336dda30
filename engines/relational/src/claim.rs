use std::sync::Arc;

use base::personal::Forgotten;
use base::{OrganisationId, Timestamp};

use crate::{Db, Error, Migration, Tx, params};

/// A deed that is done once under its key: a request that can be sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    pub organisation: OrganisationId,
    /// Who asks; keys of different subjects are different keys.
    pub subject: String,
    pub operation: String,
    pub key: String,
    /// Tells this deed from another one under the same key.
    pub fingerprint: Vec<u8>,
}

/// Which deeds were begun and how they ended, kept for `claims_kept`.
#[derive(Clone)]
pub struct Claims {
    db: Db,
}

/// What is known of a deed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// Nobody did it: the caller does, and ends this claim.
    New {
        claim: Timestamp,
    },
    /// Its key was used for another deed.
    Other,
    /// It began then and has not ended, or its end was not kept.
    Begun {
        since: Timestamp,
    },
    Ended(Vec<u8>),
}

pub(crate) const MIGRATION: Migration = Migration {
    id: "0003-claims",
    sql: "CREATE TABLE claim (
            organisation VARCHAR(36) NOT NULL,
            subject VARCHAR(100) NOT NULL,
            operation VARCHAR(100) NOT NULL,
            key VARCHAR(255) NOT NULL,
            fingerprint BLOB NOT NULL,
            began BIGINT NOT NULL,
            outcome BLOB,
            PRIMARY KEY (organisation, subject, operation, key)
        );
        CREATE INDEX claim_by_time ON claim (organisation, began);
        CREATE TABLE claim_count (
            organisation VARCHAR(36) NOT NULL PRIMARY KEY,
            claims BIGINT NOT NULL
        )",
};

/// Old claims that a new one takes away: more than it adds.
const FORGOTTEN_AT_ONCE: i64 = 8;
/// Claims of somebody who goes that one transaction takes away.
const FORGOTTEN_OF_ONE: i64 = 200;

impl Claims {
    pub fn new(db: &Db) -> Self {
        Self { db: db.clone() }
    }

    /// Claims the deed for one run. Durable when this returns, so nobody is told `New` twice.
    pub async fn begin(&self, deed: Deed) -> Result<Claimed, Error> {
        let asked = self.db.write(async move |tx| begin(tx, &deed).await);
        match asked.await {
            // Two came first at the same time, and the other one is in.
            Err(Error::AlreadyExists { .. }) => Err(Error::Conflict),
            asked => asked,
        }
    }

    /// Forgets some of what a subject's requests were answered, in the caller's transaction.
    pub async fn forget(
        tx: &mut Tx,
        organisation: OrganisationId,
        subject: &str,
    ) -> Result<Forgotten, Error> {
        let some = "SELECT operation, key, began FROM claim
            WHERE organisation = ? AND subject = ? ORDER BY operation, key LIMIT ?";
        let rows = tx.query(some, params![organisation, subject, FORGOTTEN_OF_ONE]).await?;
        for row in &rows {
            let deed = Deed {
                organisation,
                subject: subject.to_owned(),
                operation: row.get("operation")?,
                key: row.get("key")?,
                fingerprint: Vec::new(),
            };
            remove(tx, &deed, row.get("began")?).await?;
        }
        Ok(Forgotten::of(rows.len(), FORGOTTEN_OF_ONE))
    }

    /// Keeps how the deed ended; nothing lets it be done again. False when the claim is no longer this one.
    pub async fn end(
        &self,
        deed: Deed,
        claim: Timestamp,
        outcome: Option<Vec<u8>>,
    ) -> Result<bool, Error> {
        let outcome = outcome.map(Arc::new);
        self.db.write(async move |tx| end(tx, &deed, claim, outcome.as_deref()).await).await
    }
}

async fn begin(tx: &mut Tx, deed: &Deed) -> Result<Claimed, Error> {
    let shared = tx.session.shared().clone();
    let now = shared.clock.now();
    let oldest = now.minus(shared.config.claims_kept);
    forget(tx, deed.organisation, oldest).await?;
    let known = "SELECT fingerprint, began, outcome FROM claim
        WHERE organisation = ? AND subject = ? AND operation = ? AND key = ?";
    let place = params![deed.organisation, deed.subject, deed.operation, deed.key];
    if let Some(known) = tx.query_optional(known, place).await? {
        let since: Timestamp = known.get("began")?;
        if since >= oldest {
            if known.get::<Vec<u8>>("fingerprint")? != deed.fingerprint {
                return Ok(Claimed::Other);
            }
            let outcome: Option<Vec<u8>> = known.get("outcome")?;
            return Ok(outcome.map_or(Claimed::Begun { since }, Claimed::Ended));
        }
        remove(tx, deed, since).await?;
    }
    if count(tx, deed.organisation, 1).await? > shared.config.claims_max {
        return Err(Error::ClaimsFull { claims_max: shared.config.claims_max });
    }
    let insert = "INSERT INTO claim (organisation, subject, operation, key, fingerprint, began)
        VALUES (?, ?, ?, ?, ?, ?)";
    let (whose, place) = (deed.organisation, &deed.fingerprint);
    let row = params![whose, deed.subject, deed.operation, deed.key, place, now];
    tx.execute(insert, row).await?;
    Ok(Claimed::New { claim: now })
}

async fn end(
    tx: &mut Tx,
    deed: &Deed,
    claim: Timestamp,
    outcome: Option<&Vec<u8>>,
) -> Result<bool, Error> {
    let Some(outcome) = outcome else { return remove(tx, deed, claim).await };
    let update = "UPDATE claim SET outcome = ? WHERE organisation = ? AND subject = ?
        AND operation = ? AND key = ? AND began = ? AND outcome IS NULL";
    let whose = deed.organisation;
    let row = params![outcome, whose, deed.subject, deed.operation, deed.key, claim];
    Ok(tx.execute(update, row).await? > 0)
}

async fn remove(tx: &mut Tx, deed: &Deed, claim: Timestamp) -> Result<bool, Error> {
    let delete = "DELETE FROM claim WHERE organisation = ? AND subject = ?
        AND operation = ? AND key = ? AND began = ?";
    let row = params![deed.organisation, deed.subject, deed.operation, deed.key, claim];
    if tx.execute(delete, row).await? == 0 {
        return Ok(false);
    }
    count(tx, deed.organisation, -1).await?;
    Ok(true)
}

/// Counts claims that come or go, and says how many there are: a look at all of them would be slow.
async fn count(tx: &mut Tx, organisation: OrganisationId, by: i64) -> Result<u64, Error> {
    let update = "UPDATE claim_count SET claims = claims + ? WHERE organisation = ?";
    if tx.execute(update, params![by, organisation]).await? == 0 {
        let insert = "INSERT INTO claim_count (organisation, claims) VALUES (?, ?)";
        tx.execute(insert, params![organisation, by]).await?;
    }
    let claims = "SELECT claims FROM claim_count WHERE organisation = ?";
    tx.query_one(claims, params![organisation]).await?.get("claims")
}

async fn forget(tx: &mut Tx, organisation: OrganisationId, oldest: Timestamp) -> Result<(), Error> {
    let old = "SELECT subject, operation, key, began FROM claim
        WHERE organisation = ? AND began < ? ORDER BY began LIMIT ?";
    for row in tx.query(old, params![organisation, oldest, FORGOTTEN_AT_ONCE]).await? {
        let deed = Deed {
            organisation,
            subject: row.get("subject")?,
            operation: row.get("operation")?,
            key: row.get("key")?,
            fingerprint: Vec::new(),
        };
        remove(tx, &deed, row.get("began")?).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
