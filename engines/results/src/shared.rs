//! Answers that nodes on one database share: one of them computes under a lease and leaves the answer in the
//! rows, where the others look for it.

use std::fmt::Write;
use std::time::Duration;

use base::{Base, Clock, OrganisationId, Tasks, Timestamp};
use bytes::Bytes;
use relational::{Db, Lease, Leases, Row, Tx, params};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::mirror::{Versions, covers};
use crate::question::Identity;
use crate::{Config, Error};

pub(crate) struct Shared {
    db: Db,
    leases: Leases,
    clock: Clock,
    tasks: Tasks,
    lease_lasts: Duration,
    look: Duration,
    wait_max: Duration,
    limits: Limits,
}

#[derive(Clone, Copy)]
struct Limits {
    bytes: i64,
    entries: i64,
    value_bytes: u64,
}

/// Where an answer stands in the rows.
#[derive(Clone)]
pub(crate) struct Spot {
    organisation: OrganisationId,
    hash: String,
    lease: String,
}

pub(crate) struct Answer {
    pub(crate) versions: Versions,
    pub(crate) until: Timestamp,
    pub(crate) bytes: Bytes,
}

pub(crate) enum Turn {
    /// Another node left it.
    Answered(Answer),
    /// Nobody else computes it while the right is there.
    Ours(Right),
    /// It is computed without the others: it is too large to share, or they take too long.
    Alone,
}

/// The lease, renewed and in the end released by a task, also when this is dropped.
pub(crate) struct Right {
    lease: Lease,
    _ends_with_this: DropGuard,
}

/// Lease names per organisation. Their rows stay for good, so there is not one for each question; two that
/// fall together wait for each other.
const LEASES: u16 = 4_096;
/// Renewals that fit into a lease, so that some can fail.
const RENEWALS: u32 = 3;
/// Rows that go in one transaction.
const GONE_AT_ONCE: i64 = 16;
const EXPIRED_AT_ONCE: i64 = 256;

impl Spot {
    pub(crate) fn of(identity: &Identity) -> Self {
        let digest = identity.digest();
        let mut hash = String::with_capacity(64);
        for byte in digest {
            write!(hash, "{byte:02x}").expect("writing to a string cannot fail");
        }
        let number = u16::from_le_bytes([digest[0], digest[1]]) % LEASES;
        Self { organisation: identity.organisation, hash, lease: format!("results/{number}") }
    }

    #[cfg(test)]
    pub(crate) fn lease(&self) -> &str {
        &self.lease
    }
}

impl Shared {
    pub(crate) fn new(config: &Config, base: &Base, db: &Db) -> Self {
        Self {
            db: db.clone(),
            leases: Leases::new(db, base),
            clock: base.clock.clone(),
            tasks: base.tasks.clone(),
            lease_lasts: config.shared_lease,
            look: config.shared_look,
            wait_max: config.shared_wait_max,
            limits: Limits {
                bytes: i64::try_from(config.shared_bytes_max).unwrap_or(i64::MAX),
                entries: i64::try_from(config.shared_entries_max).unwrap_or(i64::MAX),
                value_bytes: config.shared_value_bytes_max,
            },
        }
    }

    /// Waits until the answer is there or the caller may compute it.
    pub(crate) async fn turn(&self, spot: &Spot, wanted: &[i64]) -> Result<Turn, Error> {
        let began = self.clock.instant();
        loop {
            if let Some(turn) = self.find(spot, wanted).await? {
                return Ok(turn);
            }
            let lease = self.leases.acquire(spot.organisation, &spot.lease, self.lease_lasts);
            if let Some(lease) = lease.await? {
                let right = self.keep(lease);
                // Another node may have finished between the look and the lease.
                let found = self.find(spot, wanted).await?;
                return Ok(found.unwrap_or(Turn::Ours(right)));
            }
            if self.clock.instant() - began >= self.wait_max {
                tracing::warn!(lease = spot.lease, "another node takes too long for an answer");
                return Ok(Turn::Alone);
            }
            self.clock.sleep(self.look).await;
        }
    }

    /// Leaves the answer for the others, unless somebody else was given the right meanwhile.
    pub(crate) async fn leave(
        &self,
        right: Right,
        spot: &Spot,
        answer: &Answer,
    ) -> Result<(), Error> {
        let is_small = answer.bytes.len() as u64 <= self.limits.value_bytes;
        let row = Left {
            spot: spot.clone(),
            versions: written(&answer.versions),
            until: answer.until,
            bytes: is_small.then(|| answer.bytes.clone()),
        };
        let (lease, limits) = (right.lease.clone(), self.limits);
        let left = self.db.write(async move |tx| {
            tx.fenced(&lease).await?;
            leave(tx, &row, limits).await
        });
        match left.await {
            // It took longer than its lease, and somebody else computes: the answer is right all the same.
            Err(relational::Error::Fenced { .. }) => Ok(()),
            left => Ok(left?),
        }
    }

    /// Takes answers away that ended before `now`.
    pub(crate) async fn tidy(&self, now: Timestamp) -> Result<(), relational::Error> {
        loop {
            let ended = self.db.read(async move |read| {
                let ended = "SELECT organisation, hash FROM result_kept
                    WHERE until_time <= ? LIMIT ?";
                let rows = read.query(ended, params![now, EXPIRED_AT_ONCE]).await?;
                let of = |row: &Row| Ok((row.get("organisation")?, row.get("hash")?));
                rows.iter().map(of).collect::<Result<Vec<(OrganisationId, String)>, _>>()
            });
            let ended = ended.await?;
            if ended.is_empty() {
                return Ok(());
            }
            self.db
                .write(async move |tx| {
                    let size = "SELECT size FROM result_kept
                        WHERE organisation = ? AND hash = ? AND until_time <= ?";
                    for (organisation, hash) in &ended {
                        let place = params![organisation, hash, now];
                        if let Some(row) = tx.query_optional(size, place).await? {
                            remove(tx, *organisation, hash, row.get("size")?).await?;
                        }
                    }
                    Ok::<_, relational::Error>(())
                })
                .await?;
        }
    }

    async fn find(&self, spot: &Spot, wanted: &[i64]) -> Result<Option<Turn>, Error> {
        let (place, now) = (spot.clone(), self.clock.now());
        let row = self.db.read(async move |read| {
            let kept = "SELECT versions, until_time, bytes FROM result_kept
                WHERE organisation = ? AND hash = ? AND until_time > ?";
            read.query_optional(kept, params![place.organisation, place.hash, now]).await
        });
        let row: Result<Option<Row>, relational::Error> = row.await;
        let Some(row) = row? else { return Ok(None) };
        let versions = read_versions(&row.get::<String>("versions")?);
        if !covers(&versions, wanted) {
            return Ok(None);
        }
        let Some(bytes) = row.get::<Option<Vec<u8>>>("bytes")? else {
            return Ok(Some(Turn::Alone));
        };
        let (until, bytes) = (row.get("until_time")?, bytes.into());
        Ok(Some(Turn::Answered(Answer { versions, until, bytes })))
    }

    fn keep(&self, lease: Lease) -> Right {
        let ended = CancellationToken::new();
        let right = Right { lease: lease.clone(), _ends_with_this: ended.clone().drop_guard() };
        let (leases, clock, lasts) = (self.leases.clone(), self.clock.clone(), self.lease_lasts);
        self.tasks.spawn("results_lease", async move {
            let mut current = lease.clone();
            let keep = async {
                loop {
                    clock.sleep(lasts / RENEWALS).await;
                    match leases.renew(&mut current, lasts).await {
                        Ok(()) => {}
                        Err(relational::Error::Fenced { .. }) => return,
                        Err(error) => tracing::warn!(%error, "a lease could not be renewed"),
                    }
                }
            };
            tokio::select! {
                () = keep => return,
                () = ended.cancelled() => {}
            }
            if let Err(error) = leases.release(lease).await {
                tracing::warn!(%error, "a lease stays until it runs out");
            }
        });
        right
    }
}

/// A row as it is left.
struct Left {
    spot: Spot,
    versions: String,
    until: Timestamp,
    bytes: Option<Bytes>,
}

async fn leave(tx: &mut Tx, left: &Left, limits: Limits) -> Result<(), relational::Error> {
    let Spot { organisation, hash, .. } = &left.spot;
    let former = "SELECT size FROM result_kept WHERE organisation = ? AND hash = ?";
    if let Some(row) = tx.query_optional(former, params![organisation, hash]).await? {
        remove(tx, *organisation, hash, row.get("size")?).await?;
    }
    let size = left.bytes.as_ref().map_or(0, Bytes::len) + left.versions.len() + hash.len();
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    if !has_room(tx, *organisation, size, limits).await? {
        return Ok(());
    }
    let insert = "INSERT INTO result_kept (organisation, hash, versions, until_time, size, bytes)
        VALUES (?, ?, ?, ?, ?, ?)";
    let row = params![organisation, hash, left.versions, left.until, size, left.bytes];
    tx.execute(insert, row).await?;
    count(tx, *organisation, 1, size).await
}

/// Takes away what ends first, until there is room; not more at once than a transaction should do.
async fn has_room(
    tx: &mut Tx,
    organisation: OrganisationId,
    size: i64,
    limits: Limits,
) -> Result<bool, relational::Error> {
    let total = "SELECT entries, bytes FROM result_total WHERE organisation = ?";
    let Some(total) = tx.query_optional(total, params![organisation]).await? else {
        return Ok(size <= limits.bytes && limits.entries > 0);
    };
    let (mut entries, mut bytes): (i64, i64) = (total.get("entries")?, total.get("bytes")?);
    let fits = |entries: i64, bytes: i64| {
        entries < limits.entries && bytes.saturating_add(size) <= limits.bytes
    };
    if fits(entries, bytes) {
        return Ok(true);
    }
    let first = "SELECT hash, size FROM result_kept WHERE organisation = ?
        ORDER BY until_time, hash LIMIT ?";
    for row in tx.query(first, params![organisation, GONE_AT_ONCE]).await? {
        let gone: i64 = row.get("size")?;
        remove(tx, organisation, &row.get::<String>("hash")?, gone).await?;
        (entries, bytes) = (entries - 1, bytes - gone);
        if fits(entries, bytes) {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn remove(
    tx: &mut Tx,
    organisation: OrganisationId,
    hash: &str,
    size: i64,
) -> Result<(), relational::Error> {
    let delete = "DELETE FROM result_kept WHERE organisation = ? AND hash = ?";
    tx.execute(delete, params![organisation, hash]).await?;
    count(tx, organisation, -1, -size).await
}

/// Counts what comes and goes: a look at all rows would be slow.
async fn count(
    tx: &mut Tx,
    organisation: OrganisationId,
    entries: i64,
    bytes: i64,
) -> Result<(), relational::Error> {
    let update = "UPDATE result_total SET entries = entries + ?, bytes = bytes + ?
        WHERE organisation = ?";
    if tx.execute(update, params![entries, bytes, organisation]).await? == 0 {
        let insert = "INSERT INTO result_total (organisation, entries, bytes) VALUES (?, ?, ?)";
        tx.execute(insert, params![organisation, entries, bytes]).await?;
    }
    Ok(())
}

fn written(versions: &[i64]) -> String {
    versions.iter().map(i64::to_string).collect::<Vec<_>>().join(",")
}

/// What is not a number is older than everything.
fn read_versions(text: &str) -> Versions {
    let numbers = text.split(',').filter(|number| !number.is_empty());
    numbers.map(|number| number.parse().unwrap_or(i64::MIN)).collect()
}
