use std::sync::Arc;
use std::time::Duration;

use base::{Base, Clock, OrganisationId, Tasks, Timestamp};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Db, Error, Migration, Tx, params};

/// The right to be the only one who works on something, kept by `Leases` and checked by [`Tx::fenced`].
///
/// Its token is greater than that of every earlier holder. The moment it ends is for the holder, who
/// should stop by then; what keeps a late holder's write out is the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    organisation: OrganisationId,
    name: Arc<str>,
    token: i64,
    until: Timestamp,
}

/// Leases on named things of an organisation: each has at most one holder.
///
/// Time decides only when somebody else may come: after a lease's end and `lease_grace`, so that clocks
/// that differ by less do not let two work at once. However wrong a clock is, a replaced holder's write
/// is refused. The name's row stays when nobody holds it, so that tokens never come again.
#[derive(Clone)]
pub struct Leases {
    db: Db,
    clock: Clock,
    tasks: Tasks,
}

/// What the work of [`Leases::hold`] gets.
#[derive(Debug, Clone)]
pub struct Held {
    /// For [`Tx::fenced`]; its end is that of the beginning, and the renewals go on behind it.
    pub lease: Lease,
    /// Becomes cancelled when the lease is lost: what the work still writes is refused.
    pub lost: CancellationToken,
}

pub(crate) const MIGRATION: Migration = Migration {
    id: "0002-leases",
    // `until_time` is 0 while nobody holds it; `holder` names the process.
    sql: "CREATE TABLE lease (
        organisation VARCHAR(36) NOT NULL,
        name VARCHAR(255) NOT NULL,
        token BIGINT NOT NULL,
        holder VARCHAR(36) NOT NULL,
        until_time BIGINT NOT NULL,
        PRIMARY KEY (organisation, name)
    )",
};

/// Renewals that fit into a lease, so that some can fail.
const RENEWALS: u32 = 3;
/// How often somebody who waits for a lease looks again, as a share of its time.
const LOOKS: u32 = 4;
const FREE: Timestamp = Timestamp::from_micros(0);

impl Lease {
    pub fn token(&self) -> i64 {
        self.token
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// When it ends unless it is renewed.
    pub fn until(&self) -> Timestamp {
        self.until
    }

    fn lost(&self) -> Error {
        Error::Fenced { name: self.name.clone(), token: self.token }
    }
}

impl Leases {
    pub fn new(db: &Db, base: &Base) -> Self {
        Self { db: db.clone(), clock: base.clock.clone(), tasks: base.tasks.clone() }
    }

    /// Nothing while somebody else holds it.
    pub async fn acquire(
        &self,
        organisation: OrganisationId,
        name: &str,
        lasts: Duration,
    ) -> Result<Option<Lease>, Error> {
        acquire(&self.db, organisation, name, Asked { lasts, of_own: OfOwn::Waits }).await
    }

    /// Puts the end off, also of a lease that ran out and that nobody else was granted.
    pub async fn renew(&self, lease: &mut Lease, lasts: Duration) -> Result<(), Error> {
        renew(&self.db, lease, lasts).await
    }

    /// Lets others come at once. A lease that was lost is left to its new holder.
    pub async fn release(&self, lease: Lease) -> Result<(), Error> {
        self.db.write(async move |tx| free(tx, &lease).await).await
    }

    /// Waits for the lease, runs `work` while it is renewed, and lets it go; also when this is dropped.
    pub async fn hold<T>(
        &self,
        organisation: OrganisationId,
        name: &str,
        lasts: Duration,
        work: impl AsyncFnOnce(Held) -> T,
    ) -> Result<T, Error> {
        let lease = loop {
            match self.acquire(organisation, name, lasts).await? {
                Some(lease) => break lease,
                None => self.clock.sleep(lasts / LOOKS).await,
            }
        };
        let ended = CancellationToken::new();
        let held = Held { lease: lease.clone(), lost: CancellationToken::new() };
        let _ends_with_this: DropGuard = ended.clone().drop_guard();
        let (leases, lost) = (self.clone(), held.lost.clone());
        self.tasks.spawn("lease", async move {
            let mut current = lease.clone();
            tokio::select! {
                () = leases.keep(&mut current, lasts) => lost.cancel(),
                () = ended.cancelled() => {}
            }
            if let Err(error) = leases.release(lease).await {
                tracing::warn!(%error, lease = current.name(), "a lease stays until it runs out");
            }
        });
        Ok(work(held).await)
    }

    /// Renews until the lease is lost.
    async fn keep(&self, lease: &mut Lease, lasts: Duration) {
        loop {
            let left = lease.until.since(self.clock.now());
            self.clock.sleep(left.min(lasts / RENEWALS)).await;
            let left = lease.until.since(self.clock.now()).max(lasts / RENEWALS);
            match tokio::time::timeout(left, self.renew(lease, lasts)).await {
                Ok(Ok(())) => {}
                Ok(Err(error @ Error::Fenced { .. })) => {
                    tracing::warn!(%error, "a lease was lost");
                    return;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, lease = lease.name(), "a lease could not be renewed");
                    if lease.until <= self.clock.now() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}

/// How somebody asks for a lease.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) lasts: Duration,
    pub(crate) of_own: OfOwn,
}

/// What becomes of a lease that this very process holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OfOwn {
    Waits,
    /// It is replaced: the caller knows that the work under it has ended.
    Replaces,
}

pub(crate) async fn acquire(
    db: &Db,
    organisation: OrganisationId,
    name: &str,
    asked: Asked,
) -> Result<Option<Lease>, Error> {
    let name: Arc<str> = name.into();
    let granted = db.write(async move |tx| grant(tx, organisation, &name, asked).await);
    match granted.await {
        // Two came first at the same time, and the other one is in.
        Err(Error::AlreadyExists { .. }) => Ok(None),
        granted => granted,
    }
}

pub(crate) async fn renew(db: &Db, lease: &mut Lease, lasts: Duration) -> Result<(), Error> {
    let (old, clock) = (lease.clone(), db.shared().clock.clone());
    lease.until =
        db.write(async move |tx| prolong(tx, &old, clock.now().plus(lasts)).await).await?;
    Ok(())
}

async fn grant(
    tx: &mut Tx,
    organisation: OrganisationId,
    name: &Arc<str>,
    asked: Asked,
) -> Result<Option<Lease>, Error> {
    let shared = tx.session.shared().clone();
    let now = shared.clock.now();
    let stored = "SELECT token, holder, until_time FROM lease WHERE organisation = ? AND name = ?";
    let stored = tx.query_optional(stored, params![organisation, name]).await?;
    let until = now.plus(asked.lasts);
    let Some(stored) = stored else {
        let lease = Lease { organisation, name: name.clone(), token: 1, until };
        let insert = "INSERT INTO lease (organisation, name, token, holder, until_time)
            VALUES (?, ?, ?, ?, ?)";
        let params = params![organisation, name, lease.token, shared.process, until];
        tx.execute(insert, params).await?;
        return Ok(Some(lease));
    };
    let held_until: Timestamp = stored.get("until_time")?;
    let is_held = held_until != FREE && now < held_until.plus(shared.config.lease_grace);
    let is_own = stored.get::<String>("holder")? == shared.process;
    if is_held && !(is_own && asked.of_own == OfOwn::Replaces) {
        return Ok(None);
    }
    let token: i64 = stored.get("token")?;
    let update = "UPDATE lease SET token = ?, holder = ?, until_time = ?
        WHERE organisation = ? AND name = ? AND token = ?";
    let params = params![token + 1, shared.process, until, organisation, name, token];
    match tx.execute(update, params).await? {
        0 => Err(tx.session.fail(Error::Conflict)),
        _ => Ok(Some(Lease { organisation, name: name.clone(), token: token + 1, until })),
    }
}

async fn prolong(tx: &mut Tx, lease: &Lease, until: Timestamp) -> Result<Timestamp, Error> {
    let update = "UPDATE lease SET until_time = ?
        WHERE organisation = ? AND name = ? AND token = ? AND until_time <> ?";
    let params = params![until, lease.organisation, lease.name, lease.token, FREE];
    match tx.execute(update, params).await? {
        0 => Err(tx.session.fail(lease.lost())),
        _ => Ok(until),
    }
}

async fn free(tx: &mut Tx, lease: &Lease) -> Result<(), Error> {
    let update = "UPDATE lease SET until_time = ?
        WHERE organisation = ? AND name = ? AND token = ?";
    tx.execute(update, params![FREE, lease.organisation, lease.name, lease.token]).await?;
    Ok(())
}

pub(crate) async fn check(tx: &mut Tx, lease: &Lease) -> Result<(), Error> {
    let newest = "SELECT token, until_time FROM lease WHERE organisation = ? AND name = ?";
    let newest = tx.query_optional(newest, params![lease.organisation, lease.name]).await?;
    let Some(newest) = newest else { return Err(tx.session.fail(lease.lost())) };
    if newest.get::<i64>("token")? != lease.token || newest.get::<Timestamp>("until_time")? == FREE
    {
        return Err(tx.session.fail(lease.lost()));
    }
    Ok(())
}

/// For a database that only this process can open: every former holder has ended.
pub(crate) async fn free_all(tx: &mut Tx) -> Result<(), Error> {
    tx.execute("UPDATE lease SET until_time = ? WHERE until_time <> ?", params![FREE, FREE])
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests;
