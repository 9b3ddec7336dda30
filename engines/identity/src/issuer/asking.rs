use std::time::Duration;

use base::access::{Principal, Subject};
use base::{AccountId, OrganisationId, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use relational::{Tx, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use url::Url;

use super::{GrantId, OFFLINE, OPENID, SCOPES, Tool, ToolId, has};
use crate::audit::{By, Change, note};
use crate::sessions::SessionId;
use crate::{Error, Identity, token};

/// A request for authorization, as the tool's link has it (OpenID Connect Core 1.0, section 3.1.2.1).
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub struct Asked {
    pub client_id: String,
    pub redirect_uri: String,
    pub response_type: String,
    pub response_mode: Option<String>,
    pub scope: String,
    pub state: Option<String>,
    pub nonce: Option<String>,
    pub code_challenge: Option<String>,
    pub code_challenge_method: Option<String>,
    /// Seconds since the password was given, at most.
    pub max_age: Option<String>,
    pub prompt: Option<String>,
    /// Whether it has `request`, `request_uri` or `registration`.
    pub has_objects: bool,
}

/// What a request for authorization leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Asking {
    /// To the page that asks people, which shows this text again.
    Ask(String),
    /// Back to the tool, with an error.
    Back(String),
}

/// What the page shows.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Somebody must sign in, or do so again.
    SignIn { tool: String },
    /// Whoever is signed in has no account of the tool's organisation.
    Elsewhere { tool: String },
    /// Whoever is signed in is asked.
    Ask { tool: String, place: String, scope: String },
}

/// What is on its way between a tool's link and the answer to it; a tag keeps it as it was.
#[derive(Deserialize, Serialize)]
struct Waiting {
    asked: Asked,
    /// In milliseconds.
    began: i64,
}

impl Waiting {
    fn began(&self) -> Timestamp {
        Timestamp::from_millis(self.began)
    }
}

/// Of what a tool gives to be given back.
const STATE_BYTES_MAX: usize = 1_000;
const NONCE_BYTES_MAX: usize = 500;
/// SHA-256 in base64url.
const CHALLENGE_BYTES: usize = 43;
const PURPOSE: &str = "oidc request";
const WAITING_BYTES_MAX: usize = 8 << 10;

/// The session that somebody asks with.
struct Seat {
    session: SessionId,
    began: Timestamp,
    methods: Option<String>,
}

/// On its way into its row.
#[derive(Clone)]
struct NewGrant {
    id: GrantId,
    organisation: OrganisationId,
    tool: ToolId,
    account: AccountId,
    session: SessionId,
    asked: Asked,
    scope: String,
    auth_time: Timestamp,
    methods: Option<String>,
    code_hash: String,
    now: Timestamp,
    expires: Timestamp,
}

impl Identity {
    /// Looks at a tool's link. An error here goes to no tool: it, or the place to go back to, is not known. The cookie of a
    /// session does not come with a click on another site, so nothing is decided yet.
    pub async fn begin_authorization(&self, asked: Asked) -> Result<Asking, Error> {
        let tool = self.tool_by_text(&asked.client_id).await?;
        let place = tool.place(&asked.redirect_uri)?;
        if let Some(fault) = fault_of(&asked) {
            return Ok(Asking::Back(self.way_back(place, &asked, Err(fault))));
        }
        let waiting = Waiting { asked, began: self.0.base.clock.now().millis() };
        let text = serde_json::to_vec(&waiting).map_err(|_| Error::LinkInvalid)?;
        let tag = self.0.seal.tag(PURPOSE, &[&Sha256::digest(&text)]);
        Ok(Asking::Ask(format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(&text),
            URL_SAFE_NO_PAD.encode(tag)
        )))
    }

    /// What the page shows to whoever looks at it, with the session's cookie if there is one.
    pub async fn step(
        &self,
        principal: Option<&Principal>,
        cookie: Option<&str>,
        waiting: &str,
    ) -> Result<Step, Error> {
        let waiting = self.waiting(waiting)?;
        let (tool, place) = self.place_of(&waiting.asked).await?;
        Ok(self.seat_of((principal, cookie), &waiting, &tool).await?.map_or_else(
            |step| step,
            |_| Step::Ask {
                tool: tool.name,
                place: place.origin().ascii_serialization(),
                scope: scope_of(&waiting.asked.scope),
            },
        ))
    }

    /// Where a browser goes that was answered: back to the tool, with a code or without. Nothing when somebody must sign in
    /// first.
    pub async fn answer(
        &self,
        by: Option<By<'_>>,
        cookie: Option<&str>,
        (waiting, is_wanted): (&str, bool),
    ) -> Result<Option<String>, Error> {
        let waiting = self.waiting(waiting)?;
        let (tool, place) = self.place_of(&waiting.asked).await?;
        let asked = &waiting.asked;
        if !is_wanted {
            let denied = ("access_denied", "the person does not want to");
            return Ok(Some(self.way_back(place, asked, Err(denied))));
        }
        let seat = self.seat_of((by.map(|by| by.0), cookie), &waiting, &tool).await?;
        let (Ok(seat), Some(by)) = (seat, by) else { return Ok(None) };
        let Subject::Account(account) = by.0.subject else { return Err(Error::NotAnAccount) };
        if self.is_unverified(account) {
            let denied = ("access_denied", "the address of the account is not verified");
            return Ok(Some(self.way_back(place, asked, Err(denied))));
        }
        let secret = token::secret(&self.0.base.entropy);
        let now = self.0.base.clock.now();
        let new = NewGrant {
            id: GrantId::new(now, &self.0.base.entropy),
            organisation: tool.organisation,
            tool: tool.id,
            account,
            session: seat.session,
            asked: asked.clone(),
            scope: scope_of(&asked.scope),
            auth_time: seat.began,
            methods: seat.methods,
            code_hash: token::stored(&secret).ok_or(Error::LinkInvalid)?,
            now,
            expires: now.plus(self.0.config.tool_code_time_max),
        };
        let change = Change {
            detail: tool.name.clone(),
            ..Change::of(by, "tool.enter", format!("tool/{}", tool.id))
        };
        let base = self.0.base.clone();
        let stored = self.0.db.write(async move |tx| {
            insert(tx, &new).await?;
            note(tx, &base, &change).await
        });
        stored.await?;
        Ok(Some(self.way_back(place, asked, Ok(&secret))))
    }

    /// What was on its way, if it is as it was and not too old.
    fn waiting(&self, text: &str) -> Result<Waiting, Error> {
        let decoded = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        let parts = text.split_once('.').filter(|_| text.len() <= WAITING_BYTES_MAX);
        let parts = parts.and_then(|(text, tag)| Some((decoded(text)?, decoded(tag)?)));
        let (text, tag) = parts.ok_or(Error::LinkInvalid)?;
        if !self.0.seal.is_tag(PURPOSE, &[&Sha256::digest(&text)], &tag) {
            return Err(Error::LinkInvalid);
        }
        let waiting: Waiting = serde_json::from_slice(&text).map_err(|_| Error::LinkInvalid)?;
        let age = self.0.base.clock.now().since(waiting.began());
        if age > self.0.config.tool_asking_time_max {
            return Err(Error::LinkInvalid);
        }
        Ok(waiting)
    }

    /// The tool, and the way back to it; both may be gone since.
    async fn place_of(&self, asked: &Asked) -> Result<(Tool, Url), Error> {
        let tool = self.tool_by_text(&asked.client_id).await?;
        let place = tool.place(&asked.redirect_uri)?;
        Ok((tool, place))
    }

    /// The session that may answer, or what is shown instead.
    async fn seat_of(
        &self,
        (principal, cookie): (Option<&Principal>, Option<&str>),
        waiting: &Waiting,
        tool: &Tool,
    ) -> Result<Result<Seat, Step>, Error> {
        let sign_in = || Step::SignIn { tool: tool.name.clone() };
        let account = principal.and_then(|principal| match principal.subject {
            Subject::Account(account) => Some((account, principal.organisation)),
            Subject::Key(_) | Subject::System(_) => None,
        });
        let Some((account, organisation)) = account else { return Ok(Err(sign_in())) };
        let Some(seat) = self.seat(cookie, account).await? else { return Ok(Err(sign_in())) };
        if organisation != tool.organisation {
            return Ok(Err(Step::Elsewhere { tool: tool.name.clone() }));
        }
        let is_again = waiting.asked.wants("login") || waiting.asked.wants("select_account");
        let max_age = waiting.asked.max_age.as_deref().and_then(|text| text.parse().ok());
        let is_old = max_age.is_some_and(|max| {
            // Whoever just signed in for this request did so as lately as one can.
            waiting.began().since(seat.began) > Duration::from_secs(max)
        });
        let is_of_before = seat.began < waiting.began();
        if is_of_before && (is_again || is_old) {
            return Ok(Err(sign_in()));
        }
        Ok(Ok(seat))
    }

    async fn seat(&self, cookie: Option<&str>, account: AccountId) -> Result<Option<Seat>, Error> {
        let Some(hash) = cookie.and_then(token::stored) else { return Ok(None) };
        let found = self.0.db.read(async move |read| {
            let sql = "SELECT id, created, methods FROM session
                WHERE token_hash = ? AND account = ? AND kind = 'cookie'";
            let Some(row) = read.query_optional(sql, params![hash, account]).await? else {
                return Ok::<_, Error>(None);
            };
            let (began, methods) = (row.get("created")?, row.get("methods")?);
            Ok(Some(Seat { session: row.get("id")?, began, methods }))
        });
        found.await
    }

    /// The place with what a tool gets there, and who says it (RFC 9207).
    pub(super) fn way_back(
        &self,
        mut place: Url,
        asked: &Asked,
        answer: Result<&str, (&str, &str)>,
    ) -> String {
        let mut query = place.query_pairs_mut();
        match answer {
            Ok(code) => query.append_pair("code", code),
            Err((error, why)) => {
                query.append_pair("error", error).append_pair("error_description", why)
            }
        };
        if let Some(state) = asked.state.as_deref().filter(|it| it.len() <= STATE_BYTES_MAX) {
            query.append_pair("state", state);
        }
        query.append_pair("iss", &self.0.origin.text());
        drop(query);
        place.into()
    }
}

impl Asked {
    fn wants(&self, prompt: &str) -> bool {
        self.prompt.as_deref().is_some_and(|given| has(given, prompt))
    }
}

/// What is wrong with a request, in the protocol's word, and why.
fn fault_of(asked: &Asked) -> Option<(&'static str, &'static str)> {
    let is_challenge = |text: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        text.len() == CHALLENGE_BYTES && text.bytes().all(is_plain)
    };
    let has_challenge = asked.code_challenge_method.as_deref() == Some("S256")
        && asked.code_challenge.as_deref().is_some_and(is_challenge);
    let is_long = asked.nonce.as_ref().is_some_and(|nonce| nonce.len() > NONCE_BYTES_MAX)
        || asked.state.as_ref().is_some_and(|state| state.len() > STATE_BYTES_MAX);
    let is_age = asked.max_age.as_ref().is_none_or(|age| age.parse::<u64>().is_ok());
    let is_query = asked.response_mode.as_ref().is_none_or(|mode| mode == "query");
    if asked.has_objects {
        return Some(("request_not_supported", "parameters are taken from the query only"));
    }
    if asked.response_type != "code" {
        return Some(("unsupported_response_type", "response_type must be code"));
    }
    if !has(&asked.scope, OPENID) {
        return Some(("invalid_scope", "scope must have openid"));
    }
    if !has_challenge {
        return Some(("invalid_request", "code_challenge with the method S256 is required"));
    }
    if is_long || !is_age || !is_query {
        let why = "state or nonce is too long, max_age is no number, or response_mode is not query";
        return Some(("invalid_request", why));
    }
    // Who is signed in is not known here, and everybody is asked.
    asked.wants("none").then_some(("interaction_required", "people are asked each time"))
}

/// Those that are known, in our order.
fn scope_of(asked: &str) -> String {
    let known = SCOPES.iter().copied().filter(|known| has(asked, known));
    known.collect::<Vec<_>>().join(" ")
}

async fn insert(tx: &mut Tx, new: &NewGrant) -> Result<(), Error> {
    let NewGrant { id, organisation, tool, account, session, scope, .. } = new;
    let NewGrant { auth_time, methods, code_hash, now, expires, asked, .. } = new;
    tx.execute("DELETE FROM tool_grant WHERE expires <= ?", params![now]).await?;
    tx.execute("DELETE FROM tool_spent WHERE expires <= ?", params![now]).await?;
    let sql = "INSERT INTO tool_grant (id, organisation, tool, account, session, offline, scope, nonce, auth_time,
            methods, redirect_uri, challenge, code_hash, code_expires, created, expires)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let (is_offline, challenge) =
        (has(scope, OFFLINE), asked.code_challenge.as_deref().unwrap_or_default());
    let values = params![
        id,
        organisation,
        tool,
        account,
        session,
        is_offline,
        scope,
        asked.nonce,
        auth_time,
        methods,
        asked.redirect_uri,
        challenge,
        code_hash,
        expires,
        now,
        expires
    ];
    tx.execute(sql, values).await?;
    Ok(())
}
