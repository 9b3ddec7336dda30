use base::access::Principal;
use base::{Id, OrganisationId, Page, PageRequest, Timestamp};
use relational::{Row, params};
use subtle::ConstantTimeEq;
use url::{Host, Url};

use super::{Algorithm, Given};
use crate::accounts::normal_name;
use crate::audit::{By, Change, note, subject_text};
use crate::sessions::account_of;
use crate::{Error, Identity, token};

/// Names a tool that lets people in by this server: its `client_id`.
pub type ToolId = Id<Tools>;

/// Marks the ids of tools; never a value.
#[derive(Debug)]
pub enum Tools {}

/// A tool to be known.
#[derive(Debug, Clone)]
pub struct NewTool {
    pub name: String,
    /// Where browsers may be sent back to, letter by letter.
    pub redirect_uris: Vec<String>,
    /// Where they may be sent to after signing out.
    pub logout_uris: Vec<String>,
    /// Whether it can keep a secret: a page or an app on somebody's machine cannot.
    pub has_secret: bool,
    /// How its ID tokens are signed.
    pub algorithm: Algorithm,
}

/// A tool that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    pub id: ToolId,
    pub organisation: OrganisationId,
    pub name: String,
    pub redirect_uris: Vec<String>,
    pub logout_uris: Vec<String>,
    pub has_secret: bool,
    pub algorithm: Algorithm,
    pub created_by: String,
    pub created: Timestamp,
    secret_hash: Option<String>,
}

/// A tool that was just made known; the secret is shown here only.
pub struct ToolCredentials {
    pub tool: Tool,
    pub secret: Option<String>,
}

/// What a tool shows of itself.
#[derive(Clone, Default)]
pub struct Shown {
    pub id: String,
    pub secret: Option<String>,
}

const URI_BYTES_MAX: usize = 1_000;
const URIS_MAX: usize = 10;
const SECRET: &str = "madang_toolsecret_";
const COLUMNS: &str =
    "SELECT id, organisation, name, redirect_uris, logout_uris, secret_hash, algorithm,
    created_by, created FROM tool";

impl Tool {
    fn of(row: &Row) -> Result<Self, Error> {
        let lines = |name: &str| {
            let text: String = row.get(name)?;
            Ok::<Vec<String>, Error>(text.lines().map(str::to_owned).collect())
        };
        let secret_hash: Option<String> = row.get("secret_hash")?;
        // Those of before had no word for it.
        let algorithm: Option<String> = row.get("algorithm")?;
        let algorithm = algorithm.map(|text| text.parse()).transpose();
        Ok(Self {
            id: row.get("id")?,
            organisation: row.get("organisation")?,
            name: row.get("name")?,
            redirect_uris: lines("redirect_uris")?,
            logout_uris: lines("logout_uris")?,
            has_secret: secret_hash.is_some(),
            algorithm: algorithm.map_err(|_| Error::Stored("tool"))?.unwrap_or_default(),
            created_by: row.get("created_by")?,
            created: row.get("created")?,
            secret_hash,
        })
    }

    /// Where browsers are sent back to, if the tool named that place.
    pub(super) fn place(&self, wanted: &str) -> Result<Url, Error> {
        named(&self.redirect_uris, wanted)
    }

    /// The same, after signing out.
    pub(super) fn place_after(&self, wanted: &str) -> Result<Url, Error> {
        named(&self.logout_uris, wanted)
    }
}

fn named(known: &[String], wanted: &str) -> Result<Url, Error> {
    let is_known = known.iter().any(|known| known == wanted);
    is_known.then(|| Url::parse(wanted).ok()).flatten().ok_or(Error::Redirect)
}

impl Identity {
    /// Makes a tool known to the principal's organisation: its accounts may enter it.
    pub async fn create_tool(&self, by: By<'_>, new: NewTool) -> Result<ToolCredentials, Error> {
        let inner = &self.0;
        let NewTool { name, redirect_uris, logout_uris, has_secret, algorithm } = new;
        let name = normal_name(&name)?;
        let are_few = redirect_uris.len() <= URIS_MAX && logout_uris.len() <= URIS_MAX;
        let are_places = redirect_uris.iter().chain(&logout_uris).all(|uri| is_place(uri));
        if redirect_uris.is_empty() || !are_few || !are_places {
            return Err(Error::Redirect);
        }
        let secret = has_secret.then(|| format!("{SECRET}{}", token::secret(&inner.base.entropy)));
        let now = inner.base.clock.now();
        let tool = Tool {
            id: ToolId::new(now, &inner.base.entropy),
            organisation: by.0.organisation,
            name,
            redirect_uris,
            logout_uris,
            has_secret,
            algorithm,
            created_by: subject_text(by.0.subject),
            created: now,
            secret_hash: secret.as_deref().and_then(token::stored),
        };
        let change = Change {
            detail: tool.name.clone(),
            ..Change::of(by, "tool.create", format!("tool/{}", tool.id))
        };
        let (base, row, max) = (inner.base.clone(), tool.clone(), inner.config.tools_max);
        let stored = inner.db.write(async move |tx| {
            let sql = "SELECT COUNT(*) AS there FROM tool WHERE organisation = ?";
            let there: i64 = tx.query_one(sql, params![row.organisation]).await?.get("there")?;
            if there >= i64::from(max) {
                return Err(Error::Limit { what: "tools", max: max as usize });
            }
            let sql =
                "INSERT INTO tool (id, organisation, name, redirect_uris, logout_uris, secret_hash,
                algorithm, created_by, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
            let Tool { id, organisation, name, created_by, created, secret_hash, .. } = &row;
            let (back, after) = (row.redirect_uris.join("\n"), row.logout_uris.join("\n"));
            let how = row.algorithm.as_str();
            let values =
                params![id, organisation, name, back, after, secret_hash, how, created_by, created];
            tx.execute(sql, values).await?;
            note(tx, &base, &change).await
        });
        stored.await?;
        // It may be the first that wants keys of its kind.
        self.forget_signing_keys();
        Ok(ToolCredentials { tool, secret })
    }

    /// The tools of an organisation, oldest first.
    pub async fn tools(
        &self,
        organisation: OrganisationId,
        page: &PageRequest,
    ) -> Result<Page<Tool>, Error> {
        let (after, limit) = (page.after.clone().unwrap_or_default(), page.limit);
        let found = self.0.db.read(async move |read| {
            let sql = format!("{COLUMNS} WHERE organisation = ? AND id > ? ORDER BY id LIMIT ?");
            let more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
            let rows = read.query(&sql, params![organisation, after, more]).await?;
            rows.iter().map(Tool::of).collect::<Result<Vec<_>, Error>>()
        });
        Ok(Page::of(found.await?, limit, |tool| tool.id.to_string()))
    }

    /// Forgets a tool; what it holds opens nothing any more.
    pub async fn delete_tool(&self, by: By<'_>, id: ToolId) -> Result<(), Error> {
        let organisation = by.0.organisation;
        let change = Change::of(by, "tool.delete", format!("tool/{id}"));
        let base = self.0.base.clone();
        let deleted = self.0.db.write(async move |tx| {
            let sql = "DELETE FROM tool WHERE id = ? AND organisation = ?";
            if tx.execute(sql, params![id, organisation]).await? == 0 {
                return Err(Error::NotThere("tool"));
            }
            let sql = "DELETE FROM tool_spent
                WHERE given IN (SELECT id FROM tool_grant WHERE tool = ?)";
            tx.execute(sql, params![id]).await?;
            tx.execute("DELETE FROM tool_grant WHERE tool = ?", params![id]).await?;
            note(tx, &base, &change).await
        });
        deleted.await
    }

    /// The tools that the principal's account let in and that may still act, newest first.
    pub async fn given(&self, principal: &Principal) -> Result<Vec<Given>, Error> {
        let account = account_of(principal)?;
        let now = self.0.base.clock.now();
        let found = self.0.db.read(async move |read| {
            let sql = "SELECT tool.id, tool.name, tool_grant.scope, tool_grant.created AS since FROM tool_grant
                JOIN tool ON tool.id = tool_grant.tool
                WHERE tool_grant.account = ? AND tool_grant.expires > ?
                ORDER BY tool_grant.created DESC, tool_grant.id DESC LIMIT 1000";
            let rows = read.query(sql, params![account, now]).await?;
            rows.iter()
                .map(|row| {
                    Ok(Given {
                        tool: row.get("id")?,
                        name: row.get("name")?,
                        scope: row.get("scope")?,
                        since: row.get("since")?,
                    })
                })
                .collect::<Result<Vec<_>, Error>>()
        });
        let mut found = found.await?;
        let mut seen = std::collections::HashSet::new();
        found.retain(|given| seen.insert(given.tool));
        Ok(found)
    }

    /// Takes back all that the principal's account gave a tool.
    pub async fn take_back(&self, by: By<'_>, tool: ToolId) -> Result<(), Error> {
        let account = account_of(by.0)?;
        let change = Change::of(by, "tool.take-back", format!("tool/{tool}"));
        let base = self.0.base.clone();
        let taken = self.0.db.write(async move |tx| {
            let sql = "DELETE FROM tool_spent WHERE given IN
                (SELECT id FROM tool_grant WHERE account = ? AND tool = ?)";
            tx.execute(sql, params![account, tool]).await?;
            let sql = "DELETE FROM tool_grant WHERE account = ? AND tool = ?";
            if tx.execute(sql, params![account, tool]).await? == 0 {
                return Err(Error::NotThere("tool"));
            }
            note(tx, &base, &change).await
        });
        taken.await
    }

    pub(super) async fn tool_by_text(&self, id: &str) -> Result<Tool, Error> {
        let id: ToolId = id.parse().map_err(|_| Error::NotThere("tool"))?;
        let found = self.0.db.read(async move |read| {
            let row = read.query_optional(&format!("{COLUMNS} WHERE id = ?"), params![id]).await?;
            Tool::of(&row.ok_or(Error::NotThere("tool"))?)
        });
        found.await
    }

    /// The tool that asks, if it shows its secret, where it has one.
    pub(super) async fn shown_tool(&self, given: &Shown) -> Result<Tool, Error> {
        const WRONG: Error =
            Error::OfTool("invalid_client", "the client is not known, or its secret is wrong");
        let tool = match self.tool_by_text(&given.id).await {
            Ok(tool) => tool,
            Err(Error::NotThere(_)) => return Err(WRONG),
            Err(error) => return Err(error),
        };
        let shown = given.secret.as_deref().and_then(token::stored);
        let is_right = match (&tool.secret_hash, &shown) {
            (None, None) => true,
            (Some(known), Some(shown)) => known.as_bytes().ct_eq(shown.as_bytes()).into(),
            _ => false,
        };
        if is_right { Ok(tool) } else { Err(WRONG) }
    }
}

/// HTTPS, or HTTP on the machine of whoever looks (RFC 8252, section 7.3), written as browsers write it.
fn is_place(uri: &str) -> bool {
    let Ok(url) = Url::parse(uri) else { return false };
    let is_here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    uri.len() <= URI_BYTES_MAX
        && url.as_str() == uri
        && (url.scheme() == "https" || (url.scheme() == "http" && is_here))
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none()
}
