//! What identity keeps about somebody, for themselves or for who must answer them (GDPR, articles 15 and 20). Nothing that opens a
//! door is in it: no hash, no secret, no key.

use base::personal::{Someone, Told};
use base::{AccountId, OrganisationId, PageRequest, Timestamp};
use relational::{Read, Row, params};
use serde_json::{Value, json};

use crate::audit::{By, Change, Filter, note};
use crate::{Error, Identity};

/// Lines of the audit log that are told at once.
const LINES: usize = 500;

impl Identity {
    /// Somebody of an organisation, for the rooms that tell or forget.
    pub fn someone(&self, organisation: OrganisationId, id: AccountId) -> Result<Someone, Error> {
        let live = self.0.live.read();
        let account = live.accounts.get(&id).filter(|it| it.organisation == organisation);
        let account = account.ok_or(Error::NotThere("person"))?;
        let (email, is_verified) = (account.email.to_string(), account.is_verified);
        Ok(Someone { organisation, account: id, email, is_verified })
    }

    /// The same for who wants to be told of somebody else: they may do all that these may.
    pub fn someone_below(&self, by: By<'_>, id: AccountId) -> Result<Someone, Error> {
        self.check_above(by.0, id)?;
        self.someone(by.0.organisation, id)
    }

    /// Writes down that somebody was told of, before they are.
    pub async fn note_told(&self, by: By<'_>, who: &Someone) -> Result<(), Error> {
        let change = Change::of(by, "account.export", format!("account/{}", who.account));
        let base = self.0.base.clone();
        self.0.db.write(async move |tx| note(tx, &base, &change).await).await
    }

    /// A part of what is kept, and where the next begins.
    pub async fn told(&self, who: &Someone, after: Option<String>) -> Result<Told, Error> {
        let Some(after) = after else { return self.told_first(who).await };
        let filter =
            Filter { actor: Some(format!("account:{}", who.account)), ..Filter::default() };
        let page = PageRequest { after: Some(after).filter(|it| !it.is_empty()), limit: LINES };
        let page = self.audit(who.organisation, &filter, &page).await?;
        let lines = page.items.iter().map(|entry| {
            let line = json!({
                "kind": "audit",
                "time": entry.time.to_string(),
                "door": entry.door,
                "action": entry.action,
                "resource": entry.resource,
                "outcome": entry.outcome,
                "detail": entry.detail,
            });
            line.to_string()
        });
        Ok(Told { lines: lines.collect(), next: page.next })
    }

    async fn told_first(&self, who: &Someone) -> Result<Told, Error> {
        let person = self.person(who.organisation, who.account).await?;
        let mut lines = vec![json!({
            "kind": "account",
            "id": person.id.to_string(),
            "email": person.about.email,
            "is_verified": person.is_verified,
            "name": person.about.name,
            "given_name": person.about.given_name,
            "family_name": person.about.family_name,
            "user_name": person.about.user_name,
            "outside_id": person.about.outside_id,
            "role": person.role.text(),
            "groups": person.groups.iter().map(|(_, name)| name).collect::<Vec<_>>(),
            "suspended": person.suspended.map(|moment| moment.to_string()),
            "created": person.created.to_string(),
            "changed": person.changed.to_string(),
            "signed_in": person.signed_in.map(|moment| moment.to_string()),
        })];
        let account = who.account;
        let rows = self.0.db.read(async move |read| {
            let mut lines = Vec::new();
            for kept in KEPT {
                lines.extend(kept.read(read, account).await?);
            }
            let sql = "SELECT id, label, created, revoked FROM access_key
                WHERE organisation = (SELECT organisation FROM account WHERE id = ?) AND created_by = ? ORDER BY id";
            let by = format!("account:{account}");
            for row in read.query(sql, params![account, by]).await? {
                lines.push(line(&row, "key", &["label"], &["created", "revoked"])?);
            }
            Ok::<_, Error>(lines)
        });
        lines.extend(rows.await?);
        let lines = lines.iter().map(Value::to_string).collect();
        // The audit log follows.
        Ok(Told { lines, next: Some(String::new()) })
    }
}

/// Rows about an account in one table.
struct Kept {
    kind: &'static str,
    table: &'static str,
    texts: &'static [&'static str],
    moments: &'static [&'static str],
}

const KEPT: &[Kept] = &[
    Kept {
        kind: "session",
        table: "session",
        texts: &["agent", "address"],
        moments: &["created", "seen", "expires"],
    },
    Kept {
        kind: "passkey",
        table: "passkey",
        texts: &["name", "credential"],
        moments: &["created", "used"],
    },
    Kept { kind: "one-time-codes", table: "totp", texts: &[], moments: &["created", "confirmed"] },
    Kept {
        kind: "provider-link",
        table: "provider_link",
        texts: &["provider", "subject"],
        moments: &["created"],
    },
    Kept {
        kind: "tool",
        table: "tool_grant",
        texts: &["tool", "scope"],
        moments: &["created", "expires"],
    },
];

impl Kept {
    async fn read(&self, read: &mut Read, account: AccountId) -> Result<Vec<Value>, Error> {
        let Self { kind, table, texts, moments } = *self;
        let columns = [texts, moments].concat().join(", ");
        let sql = format!("SELECT {columns} FROM {table} WHERE account = ? ORDER BY created");
        let rows = read.query(&sql, params![account]).await?;
        rows.iter().map(|row| line(row, kind, texts, moments)).collect()
    }
}

fn line(row: &Row, kind: &str, texts: &[&str], moments: &[&str]) -> Result<Value, Error> {
    let mut line = json!({ "kind": kind });
    for name in texts {
        line[*name] = json!(row.get::<String>(name)?);
    }
    for name in moments {
        let moment: Option<Timestamp> = row.get(name)?;
        line[*name] = json!(moment.map(|moment| moment.to_string()));
    }
    Ok(line)
}
