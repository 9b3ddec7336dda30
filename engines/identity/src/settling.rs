//! Changes of people and groups: one at a time, rows first, and then memory learns from rows what is so. It goes on when whoever
//! asked has gone away, and whatever came of the write, so memory and rows do not part.

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use base::AccountId;
use relational::params;

use crate::groups::GroupId;
use crate::live::{LiveAccount, LiveGroup, grants_of};
use crate::{Error, Identity};

/// What a change is about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Whom {
    Person(AccountId),
    Group(GroupId),
}

/// After so many times that rows cannot be read the worst is taken for true; and how long it waits between them.
const TRIES: usize = 20;
const PAUSE: Duration = Duration::from_millis(250);

impl Identity {
    /// Writes a change, and has memory learn of it before the next one is written.
    pub(crate) async fn settle<T: Send + 'static>(
        &self,
        whom: Whom,
        write: impl Future<Output = Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let identity = self.clone();
        let task = self.0.base.tasks.spawn("identity_people", async move {
            // It is never closed.
            let _one_at_a_time = identity.0.settling.acquire().await.ok();
            let written = write.await;
            identity.learn_surely(whom).await;
            written
        });
        // Without an answer the server is ending, or the write panicked.
        task.await.ok().flatten().unwrap_or(Err(relational::Error::Closed.into()))
    }

    /// Asks until rows can be read; no other change is made meanwhile.
    async fn learn_surely(&self, whom: Whom) {
        let stopping = self.0.base.tasks.stopping();
        for tried in 1.. {
            match self.learn(whom).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(%error, "what became of a change cannot be read"),
            }
            if tried == TRIES {
                self.shut_out(whom);
            }
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.0.base.clock.sleep(PAUSE) => {}
            }
        }
    }

    /// Who was perhaps to be shut out comes in no more until it is known.
    fn shut_out(&self, whom: Whom) {
        if let Whom::Person(id) = whom {
            let mut live = self.0.live.write();
            if let Some(account) = live.accounts.get_mut(&id) {
                account.is_suspended = true;
            }
            live.generation += 1;
            live.sessions.retain(|_, session| session.account != id);
        }
        self.changed();
    }

    async fn learn(&self, whom: Whom) -> Result<(), Error> {
        match whom {
            Whom::Person(id) => self.learn_person(id).await?,
            Whom::Group(id) => self.learn_group(id).await?,
        }
        self.changed();
        Ok(())
    }

    async fn learn_person(&self, id: AccountId) -> Result<(), Error> {
        let stored = self.0.db.read(async move |read| {
            let sql = "SELECT id, organisation, email, role, verified, suspended FROM account
                WHERE id = ? AND removed IS NULL";
            let Some(row) = read.query_optional(sql, params![id]).await? else {
                return Ok::<_, Error>(None);
            };
            let mut account = LiveAccount::of(&row)?;
            let sql = "SELECT people_group FROM group_member WHERE account = ?";
            for row in read.query(sql, params![id]).await? {
                account.groups.insert(row.get("people_group")?);
            }
            Ok(Some(account))
        });
        let stored = stored.await?;
        let mut live = self.0.live.write();
        match stored {
            Some(mut account) => {
                if let Some(before) = live.accounts.get(&id) {
                    // They may have shown it since the row was read.
                    account.is_verified |= before.is_verified && before.email == account.email;
                }
                live.accounts.insert(id, account);
                live.sum_up(&self.0.config, id);
            }
            None => drop(live.accounts.remove(&id)),
        }
        // Those that go on are read again when they are shown.
        live.generation += 1;
        live.sessions.retain(|_, session| session.account != id);
        Ok(())
    }

    async fn learn_group(&self, id: GroupId) -> Result<(), Error> {
        let stored = self.0.db.read(async move |read| {
            let sql = "SELECT organisation, name FROM people_group WHERE id = ?";
            let Some(row) = read.query_optional(sql, params![id]).await? else {
                return Ok::<_, Error>(None);
            };
            let (organisation, name) = (row.get("organisation")?, row.get::<String>("name")?);
            let grants = grants_of(read, id).await?;
            let sql = "SELECT account FROM group_member WHERE people_group = ?";
            let rows = read.query(sql, params![id]).await?;
            let members = rows.iter().map(|row| row.get("account")).collect::<Result<_, _>>()?;
            Ok(Some((LiveGroup { organisation, name: name.into(), grants }, members)))
        });
        let (group, members): (_, Option<BTreeSet<AccountId>>) = stored.await?.unzip();
        let members = members.unwrap_or_default();
        let mut live = self.0.live.write();
        match group {
            Some(group) => drop(live.groups.insert(id, group)),
            None => drop(live.groups.remove(&id)),
        }
        let before: Vec<AccountId> = live.members(id).collect();
        for account in before.iter().chain(&members) {
            if let Some(live) = live.accounts.get_mut(account) {
                if members.contains(account) {
                    live.groups.insert(id)
                } else {
                    live.groups.remove(&id)
                };
            }
            live.sum_up(&self.0.config, *account);
        }
        Ok(())
    }
}
