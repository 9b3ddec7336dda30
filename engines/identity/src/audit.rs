use std::collections::HashMap;
use std::time::Duration;

use base::access::{Action, Door, Principal, Subject};
use base::{Base, EventId, Failure, OrganisationId, Page, PageRequest, Timestamp};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use relational::{Tx, params};

use crate::token::key_text;
use crate::{Config, Error, Identity};

/// A line of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: EventId,
    pub time: Timestamp,
    /// `account:…`, `key:…`, `system:…`, or `nobody`.
    pub subject: String,
    /// `http`, `mqtt`, or `-` where it is not known.
    pub door: String,
    pub action: String,
    pub resource: String,
    /// `done` or `denied`.
    pub outcome: String,
    pub detail: String,
}

/// A change that somebody made, on its way into the audit log.
#[derive(Debug, Clone)]
pub struct Change {
    pub organisation: OrganisationId,
    pub subject: String,
    pub action: &'static str,
    pub resource: String,
    pub detail: String,
}

const TEXT_CHARACTERS_MAX: usize = 1_000;
const HOUR: Duration = Duration::from_hours(1);

pub(crate) fn subject_text(subject: Subject) -> String {
    match subject {
        Subject::Account(id) => format!("account:{id}"),
        Subject::Key(id) => format!("key:{}", key_text(id)),
        Subject::System(name) => format!("system:{name}"),
    }
}

/// Writes a change down in the transaction that makes it.
pub(crate) async fn note(tx: &mut Tx, base: &Base, change: &Change) -> Result<(), Error> {
    let now = base.clock.now();
    let entry = Entry {
        id: EventId::new(now, &base.entropy),
        time: now,
        subject: change.subject.clone(),
        door: "-".into(),
        action: change.action.into(),
        resource: change.resource.clone(),
        outcome: "done".into(),
        detail: change.detail.clone(),
    };
    insert(tx, change.organisation, &entry).await
}

async fn insert(tx: &mut Tx, organisation: OrganisationId, entry: &Entry) -> Result<(), Error> {
    let sql = "INSERT INTO audit
        (id, organisation, time, subject, door, action, resource, outcome, detail)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let cut = |text: &str| text.chars().take(TEXT_CHARACTERS_MAX).collect::<String>();
    let Entry { id, time, subject, door, action, resource, outcome, detail } = entry;
    let (resource, detail) = (cut(resource), cut(detail));
    let values = params![id, organisation, time, subject, door, action, resource, outcome, detail];
    tx.execute(sql, values).await?;
    Ok(())
}

/// Refusals, gathered by kind: a client that is refused a thousand times a second makes one line a second.
pub(crate) struct Denials {
    waiting: Mutex<HashMap<Denial, u64>>,
    waiting_max: usize,
    dropped: Counter,
    denied: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Denial {
    organisation: OrganisationId,
    subject: String,
    door: &'static str,
    action: &'static str,
    resource: String,
}

impl Denials {
    pub(crate) fn new(config: &Config, base: &Base) -> Self {
        Self {
            waiting: Mutex::default(),
            waiting_max: config.denials_waiting_max,
            denied: base.metrics.register(
                "identity_denied",
                "Deeds that were refused.",
                Counter::default(),
            ),
            dropped: base.metrics.register(
                "identity_denials_dropped",
                "Refusals that the audit log does not show.",
                Counter::default(),
            ),
        }
    }

    pub(crate) fn denied(&self, principal: &Principal, action: Action, resource: &str) {
        let resource = resource.chars().take(TEXT_CHARACTERS_MAX).collect();
        self.add(Denial {
            organisation: principal.organisation,
            subject: subject_text(principal.subject),
            door: "-",
            action: action.0,
            resource,
        });
    }

    /// Somebody did not prove to be whom they named.
    pub(crate) fn unproved(&self, organisation: OrganisationId, door: Door, named: Subject) {
        let door = match door {
            Door::Http => "http",
            Door::Mqtt => "mqtt",
            Door::Resp => "resp",
            Door::Stomp => "stomp",
        };
        self.add(Denial {
            organisation,
            subject: "nobody".into(),
            door,
            action: "sign-in",
            resource: subject_text(named),
        });
    }

    fn add(&self, denial: Denial) {
        self.denied.inc();
        let mut waiting = self.waiting.lock();
        if let Some(count) = waiting.get_mut(&denial) {
            *count += 1;
        } else if waiting.len() < self.waiting_max {
            waiting.insert(denial, 1);
        } else {
            self.dropped.inc();
        }
    }
}

/// Keeps the audit log: writes refusals down now and then, and once more at the end; forgets what is old.
pub(crate) fn keep(identity: &Identity) {
    let base = &identity.0.base;
    let (gather, last) = (identity.clone(), identity.clone());
    base.tasks.supervise("identity_audit", move || {
        let identity = gather.clone();
        async move { gather_denials(&identity).await }
    });
    let stopping = base.tasks.stopping();
    base.tasks.spawn("identity_audit_end", async move {
        stopping.cancelled().await;
        if let Err(error) = last.write_denials().await {
            tracing::warn!(%error, "the last refusals could not be written down");
        }
    });
}

async fn gather_denials(identity: &Identity) -> Result<(), Failure> {
    let inner = &identity.0;
    let mut forgot = Timestamp::from_micros(0);
    loop {
        let now = inner.base.clock.now();
        if now.since(forgot) >= HOUR {
            identity.forget(now).await?;
            forgot = now;
        }
        inner.base.clock.sleep(inner.config.denials_interval).await;
        identity.write_denials().await?;
    }
}

impl Identity {
    /// Writes down what somebody did in a part that knows nobody.
    pub async fn note(
        &self,
        principal: &Principal,
        action: Action,
        resource: String,
        detail: String,
    ) -> Result<(), Error> {
        let subject = subject_text(principal.subject);
        let organisation = principal.organisation;
        let change = Change { organisation, subject, action: action.0, resource, detail };
        let base = self.0.base.clone();
        self.0.db.write(async move |tx| note(tx, &base, &change).await).await
    }

    /// The audit log of an organisation, newest first.
    pub async fn audit(
        &self,
        organisation: OrganisationId,
        page: &PageRequest,
    ) -> Result<Page<Entry>, Error> {
        let after = match &page.after {
            Some(after) => after.clone(),
            None => "~".into(),
        };
        let limit = page.limit;
        let entries = self.0.db.read(async move |read| {
            let sql = "SELECT id, time, subject, door, action, resource, outcome, detail
                FROM audit WHERE organisation = ? AND id < ? ORDER BY id DESC LIMIT ?";
            let more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
            let rows = read.query(sql, params![organisation, after, more]).await?;
            rows.iter()
                .map(|row| {
                    Ok(Entry {
                        id: row.get("id")?,
                        time: row.get("time")?,
                        subject: row.get("subject")?,
                        door: row.get("door")?,
                        action: row.get("action")?,
                        resource: row.get("resource")?,
                        outcome: row.get("outcome")?,
                        detail: row.get("detail")?,
                    })
                })
                .collect::<Result<Vec<_>, Error>>()
        });
        Ok(Page::of(entries.await?, limit, |entry| entry.id.to_string()))
    }

    /// Writes down the refusals that wait. What cannot be written waits on, within its limit.
    pub async fn write_denials(&self) -> Result<(), Error> {
        let taken = std::mem::take(&mut *self.0.denials.waiting.lock());
        if taken.is_empty() {
            return Ok(());
        }
        let base = self.0.base.clone();
        let now = base.clock.now();
        let entries: Vec<_> = taken
            .iter()
            .map(|(denial, count)| {
                let entry = Entry {
                    id: EventId::new(now, &base.entropy),
                    time: now,
                    subject: denial.subject.clone(),
                    door: denial.door.into(),
                    action: denial.action.into(),
                    resource: denial.resource.clone(),
                    outcome: "denied".into(),
                    detail: format!("{count} times"),
                };
                (denial.organisation, entry)
            })
            .collect();
        let written = self.0.db.write(async move |tx| {
            for (organisation, entry) in &entries {
                insert(tx, *organisation, entry).await?;
            }
            Ok::<_, Error>(())
        });
        if let Err(error) = written.await {
            let mut waiting = self.0.denials.waiting.lock();
            for (denial, count) in taken {
                if waiting.len() < self.0.denials.waiting_max || waiting.contains_key(&denial) {
                    *waiting.entry(denial).or_default() += count;
                } else {
                    self.0.denials.dropped.inc_by(count);
                }
            }
            return Err(error);
        }
        Ok(())
    }

    /// Drops old audit entries, sessions and links.
    async fn forget(&self, now: Timestamp) -> Result<(), Error> {
        let before = now.minus(self.0.config.audit_kept);
        self.0
            .db
            .write(async move |tx| {
                tx.execute("DELETE FROM audit WHERE time < ?", params![before]).await?;
                tx.execute("DELETE FROM session WHERE expires < ?", params![now]).await?;
                tx.execute("DELETE FROM link WHERE expires < ?", params![now]).await?;
                Ok(())
            })
            .await
    }
}
