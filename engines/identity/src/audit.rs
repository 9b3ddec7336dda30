use std::collections::HashMap;
use std::time::Duration;

use base::access::{Action, Door, Principal, Subject};
use base::{Base, EventId, Failure, OrganisationId, Page, PageRequest, Timestamp};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use relational::{Row, ToValue, Tx, Value, params};

use crate::accounts::normal_email;
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
    /// Nothing where the server itself did it.
    pub door: Option<Door>,
    pub action: &'static str,
    pub resource: String,
    pub detail: String,
}

/// Who does something, and by which door.
pub type By<'a> = (&'a Principal, Door);

impl Change {
    pub fn of((principal, door): By<'_>, action: &'static str, resource: String) -> Self {
        Self {
            organisation: principal.organisation,
            subject: subject_text(principal.subject),
            door: Some(door),
            action,
            resource,
            detail: String::new(),
        }
    }
}

fn door_text(door: Door) -> &'static str {
    match door {
        Door::Http => "http",
        Door::Mqtt => "mqtt",
        Door::Resp => "resp",
        Door::Stomp => "stomp",
    }
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
        door: change.door.map_or("-", door_text).into(),
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
    tx.execute_later(sql, values).await?;
    Ok(())
}

/// Which lines of the audit log are wanted; all of them by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// `account:…`, `key:…`, `system:…`, `nobody`, or the address of an account.
    pub actor: Option<String>,
    /// `key.create`, or the beginning of some: `key.*`.
    pub action: Option<String>,
    pub outcome: Option<Outcome>,
    pub door: Option<String>,
    pub from: Option<Timestamp>,
    /// Not at this moment any more.
    pub until: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Denied,
}

impl Outcome {
    fn text(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Denied => "denied",
        }
    }
}

const CSV_ROWS: usize = 1_000;

/// In quotes; what a spreadsheet would take for a formula begins with an apostrophe (OWASP, CSV injection).
fn csv_cell(text: &str) -> String {
    let is_formula = text.len() > 1 && text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let guard = if is_formula { "'" } else { "" };
    format!("\"{guard}{}\"", text.replace('"', "\"\""))
}

fn entry_of(row: &Row) -> Result<Entry, Error> {
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

    pub(crate) fn denied(
        &self,
        (principal, door): (&Principal, Option<Door>),
        action: Action,
        resource: &str,
    ) {
        let resource = resource.chars().take(TEXT_CHARACTERS_MAX).collect();
        self.add(Denial {
            organisation: principal.organisation,
            subject: subject_text(principal.subject),
            door: door.map_or("-", door_text),
            action: action.0,
            resource,
        });
    }

    /// Somebody did not prove to be whom they named.
    pub(crate) fn unproved(&self, organisation: OrganisationId, door: Door, named: Subject) {
        self.add(Denial {
            organisation,
            subject: "nobody".into(),
            door: door_text(door),
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
            identity.forget_old(now).await?;
            // A list that cannot be written must not hold up the record of refusals.
            if let Err(error) = identity.note_removed().await {
                tracing::error!(%error, "a backup would bring somebody back who was removed");
            }
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
        by: By<'_>,
        action: Action,
        resource: String,
        detail: String,
    ) -> Result<(), Error> {
        let change = Change { detail, ..Change::of(by, action.0, resource) };
        let base = self.0.base.clone();
        self.0.db.write(async move |tx| note(tx, &base, &change).await).await
    }

    /// The same, in the transaction of the deed: both are there or neither.
    pub async fn note_in(&self, tx: &mut Tx, change: &Change) -> Result<(), Error> {
        note(tx, &self.0.base, change).await
    }

    /// The audit log of an organisation, newest first.
    pub async fn audit(
        &self,
        organisation: OrganisationId,
        filter: &Filter,
        page: &PageRequest,
    ) -> Result<Page<Entry>, Error> {
        let limit = page.limit;
        let (sql, values) = self.audit_query(organisation, filter, page)?;
        let entries = self.0.db.read(async move |read| {
            let rows = read.query(&sql, &values).await?;
            rows.iter().map(entry_of).collect::<Result<Vec<_>, Error>>()
        });
        Ok(Page::of(entries.await?, limit, |entry| entry.id.to_string()))
    }

    fn audit_query(
        &self,
        organisation: OrganisationId,
        filter: &Filter,
        page: &PageRequest,
    ) -> Result<(String, Vec<Value>), Error> {
        let mut sql = "SELECT id, time, subject, door, action, resource, outcome, detail
            FROM audit WHERE organisation = ?"
            .to_owned();
        let mut values = vec![organisation.to_value()];
        let mut also = |condition: &str, value: Value| {
            sql.push_str(" AND ");
            sql.push_str(condition);
            values.push(value);
        };
        if let Some(actor) = &filter.actor {
            also("subject = ?", self.subject_named(organisation, actor).to_value());
        }
        if let Some(action) = &filter.action {
            match action.strip_suffix('*') {
                Some(beginning) if beginning.is_ascii() && beginning.len() <= 100 => {
                    let condition = format!("SUBSTR(action, 1, {}) = ?", beginning.len());
                    also(&condition, beginning.to_value());
                }
                _ => also("action = ?", action.to_value()),
            }
        }
        if let Some(outcome) = filter.outcome {
            also("outcome = ?", outcome.text().to_value());
        }
        if let Some(door) = &filter.door {
            also("door = ?", door.to_value());
        }
        if let Some(from) = filter.from {
            also("time >= ?", from.to_value());
        }
        if let Some(until) = filter.until {
            also("time < ?", until.to_value());
        }
        if let Some(after) = &page.after {
            let after: EventId = after.parse().map_err(|_| Error::Cursor)?;
            also("id < ?", after.to_value());
        }
        sql.push_str(" ORDER BY id DESC LIMIT ?");
        values.push(i64::try_from(page.limit + 1).unwrap_or(i64::MAX).into());
        Ok((sql, values))
    }

    /// How the audit log writes an account that is named by its address.
    fn subject_named(&self, organisation: OrganisationId, name: &str) -> String {
        let Ok(email) = normal_email(name) else { return name.to_owned() };
        let live = self.0.live.read();
        let found = live
            .accounts
            .iter()
            .find(|(_, account)| account.organisation == organisation && *account.email == *email);
        found.map_or_else(|| name.to_owned(), |(id, _)| format!("account:{id}"))
    }

    /// A part of the audit log as CSV (RFC 4180), and where the next begins. The first part has the head.
    pub async fn audit_csv(
        &self,
        organisation: OrganisationId,
        filter: &Filter,
        after: Option<String>,
    ) -> Result<(String, Option<String>), Error> {
        let is_first = after.is_none();
        let page = PageRequest { after, limit: CSV_ROWS };
        let page = self.audit(organisation, filter, &page).await?;
        let mut text = String::new();
        if is_first {
            text.push_str("id,time,subject,door,action,resource,outcome,detail\r\n");
        }
        for Entry { id, time, subject, door, action, resource, outcome, detail } in page.items {
            let (id, time) = (id.to_string(), time.to_string());
            let cells = [&id, &time, &subject, &door, &action, &resource, &outcome, &detail];
            let cells: Vec<_> = cells.into_iter().map(|cell| csv_cell(cell)).collect();
            text.push_str(&cells.join(","));
            text.push_str("\r\n");
        }
        Ok((text, page.next))
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
    async fn forget_old(&self, now: Timestamp) -> Result<(), Error> {
        let before = now.minus(self.0.config.audit_kept);
        self.0
            .db
            .write(async move |tx| {
                tx.execute("DELETE FROM audit WHERE time < ?", params![before]).await?;
                tx.execute("DELETE FROM session WHERE expires < ?", params![now]).await?;
                tx.execute("DELETE FROM spent_token WHERE expires < ?", params![now]).await?;
                tx.execute("DELETE FROM ticket WHERE expires < ?", params![now]).await?;
                tx.execute("DELETE FROM spent_challenge WHERE expires < ?", params![now]).await?;
                tx.execute("DELETE FROM invitation WHERE expires < ?", params![now]).await?;
                Ok(())
            })
            .await
    }
}
