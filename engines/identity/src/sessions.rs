use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use base::access::{Door, Principal, Refused, Subject};
use base::{AccountId, Id, OrganisationId, Timestamp};
use relational::{Row, Tx, params};

use crate::accounts::normal_email;
use crate::audit::{By, Change, note};
use crate::tickets::{self, Kind, NewTicket};
use crate::{Config, Error, Identity, token};

/// Names a session; what opens it is not part of it.
pub type SessionId = Id<Sessions>;

/// Marks the ids of sessions; never a value.
#[derive(Debug)]
pub enum Sessions {}

/// An address and a password that somebody typed.
#[derive(Clone)]
pub struct SignIn {
    pub email: String,
    pub password: String,
    pub holds: Holds,
}

/// What is to hold a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// A browser's cookie, which lasts longer with each use.
    Cookie,
    /// An app, with a text to show that lasts for minutes and one to exchange for the next.
    Tokens,
    /// A client that keeps one text and cannot exchange it: it shows the same for as long as
    /// [`Config::bearer_time_max`].
    Bearer,
}

/// From where somebody comes, for the list of their sessions.
#[derive(Debug, Clone)]
pub struct Visitor {
    pub address: IpAddr,
    /// As their browser calls itself.
    pub agent: String,
}

impl From<IpAddr> for Visitor {
    fn from(address: IpAddr) -> Self {
        Self { address, agent: String::new() }
    }
}

/// What a right first factor leads to.
#[derive(Debug)]
pub enum Entered {
    In(NewSession),
    /// The account has a second factor: this text and a code open a session.
    Second(Challenge),
}

/// Shown again with the second factor.
pub struct Challenge {
    pub token: String,
    pub lifetime: Duration,
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge").finish_non_exhaustive()
    }
}

/// A session that just began or goes on; its texts are shown here only.
pub struct NewSession {
    pub id: SessionId,
    /// The cookie's text, or the one that an app exchanges for the next; empty for [`Holds::Bearer`].
    pub token: String,
    pub lifetime: Duration,
    /// What an app shows with each request.
    pub access: Option<AccessToken>,
    pub principal: Principal,
}

/// For `Authorization: Bearer`.
#[derive(Clone)]
pub struct AccessToken {
    pub text: String,
    pub lifetime: Duration,
}

impl fmt::Debug for NewSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewSession").field("principal", &self.principal).finish_non_exhaustive()
    }
}

/// A session as its account sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    pub id: SessionId,
    pub holds: Holds,
    pub agent: String,
    pub address: String,
    pub created: Timestamp,
    pub seen: Timestamp,
    pub expires: Timestamp,
    /// It is the one that asks.
    pub is_current: bool,
}

impl Holds {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Cookie => "cookie",
            // Nobody has the text that would be exchanged.
            Self::Tokens | Self::Bearer => "tokens",
        }
    }

    fn parse(text: &str) -> Result<Self, Error> {
        match text {
            "cookie" => Ok(Self::Cookie),
            "tokens" => Ok(Self::Tokens),
            _ => Err(Error::Stored("kind of a session")),
        }
    }

    fn second(self) -> Kind {
        match self {
            Self::Cookie => Kind::Second,
            Self::Tokens | Self::Bearer => Kind::SecondApp,
        }
    }
}

const AGENT_CHARACTERS_MAX: usize = 200;

/// All that is needed to let somebody in inside a transaction, again if it is run again.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) account: AccountId,
    pub(crate) organisation: OrganisationId,
    pub(crate) holds: Holds,
    /// For the audit log.
    pub(crate) action: &'static str,
    /// Nothing else is asked.
    pub(crate) is_whole: bool,
    id: SessionId,
    secret: String,
    access: Option<String>,
    visitor: Visitor,
    now: Timestamp,
}

/// What [`enter`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    In,
    Second,
}

impl Identity {
    pub(crate) fn entry(
        &self,
        (account, organisation): (AccountId, OrganisationId),
        holds: Holds,
        visitor: &Visitor,
        action: &'static str,
    ) -> Entry {
        let (entropy, now) = (&self.0.base.entropy, self.0.base.clock.now());
        let agent = visitor.agent.chars().filter(|letter| !letter.is_control());
        Entry {
            account,
            organisation,
            holds,
            action,
            is_whole: false,
            id: SessionId::new(now, entropy),
            secret: token::secret(entropy),
            access: (holds != Holds::Cookie).then(|| token::secret(entropy)),
            visitor: Visitor {
                address: visitor.address,
                agent: agent.take(AGENT_CHARACTERS_MAX).collect(),
            },
            now,
        }
    }

    /// Gives what the transaction of an entry made.
    pub(crate) fn entered(&self, entry: Entry, way: Way) -> Result<Entered, Error> {
        let config = &self.0.config;
        if way == Way::Second {
            let (token, lifetime) = (entry.secret, config.second_time_max);
            return Ok(Entered::Second(Challenge { token, lifetime }));
        }
        self.session_of(entry).map(Entered::In)
    }

    pub(crate) fn session_of(&self, entry: Entry) -> Result<NewSession, Error> {
        let config = &self.0.config;
        let principal = self.holder(entry.account).ok_or(Error::SignInFailed)?;
        let access = entry.access.map(|secret| AccessToken {
            text: token::access_text(entry.id, &secret),
            lifetime: config.access_time(entry.holds),
        });
        let token = match entry.holds {
            Holds::Cookie => entry.secret,
            Holds::Tokens => token::refresh_text(&entry.secret),
            Holds::Bearer => String::new(),
        };
        let lifetime = config.session_time(entry.holds);
        Ok(NewSession { id: entry.id, token, lifetime, access, principal })
    }

    /// Lets somebody in who knows the password. Says the same, after the same work, whether the address or
    /// the password was wrong.
    pub async fn sign_in(&self, visitor: &Visitor, given: SignIn) -> Result<Entered, Error> {
        let inner = &self.0;
        // What is no address is nobody's, and costs as much.
        let email = normal_email(&given.email).unwrap_or_default();
        inner.attempts.sign_in(inner.base.clock.now(), &email, visitor.address)?;
        let address = email.clone();
        let stored = inner.db.read(async move |read| {
            let sql = "SELECT id, organisation, password_hash FROM account WHERE email = ?";
            let Some(row) = read.query_optional(sql, params![address]).await? else {
                return Ok::<_, Error>(None);
            };
            let hash: Option<String> = row.get("password_hash")?;
            Ok(Some((row.get::<AccountId>("id")?, row.get("organisation")?, hash)))
        });
        let stored = stored.await?;
        let hash = stored.as_ref().and_then(|(_, _, hash)| hash.clone());
        let is_right = inner.hasher.verify(&given.password, hash.as_deref()).await?;
        let (true, Some((account, organisation, Some(hash)))) = (is_right, stored.clone()) else {
            if let Some((account, organisation, _)) = stored {
                inner.denials.unproved(organisation, Door::Http, Subject::Account(account));
            }
            return Err(Error::SignInFailed);
        };
        if !self.may_sign_in(account) {
            return Err(Error::SignInFailed);
        }
        inner.attempts.succeeded(&email, visitor.address);
        let whose = (account, organisation);
        let entry = self.entry(whose, given.holds, visitor, "session.sign-in");
        let (identity, wanted) = (self.clone(), entry.clone());
        let way = inner.db.write(async move |tx| {
            // A password that was changed meanwhile opens nothing.
            let sql = "SELECT 1 AS same FROM account WHERE id = ? AND password_hash = ?";
            if tx.query_optional(sql, params![account, hash]).await?.is_none() {
                return Err(Error::SignInFailed);
            }
            identity.enter(tx, &wanted).await
        });
        self.entered(entry, way.await?)
    }

    /// Begins a session, or asks for the second factor where the account has one.
    pub(crate) async fn enter(&self, tx: &mut Tx, entry: &Entry) -> Result<Way, Error> {
        let inner = &self.0;
        let sql = "SELECT 1 AS there FROM account
            WHERE id = ? AND suspended IS NULL AND removed IS NULL";
        if tx.query_optional(sql, params![entry.account]).await?.is_none() {
            return Err(Error::SignInFailed);
        }
        if !entry.is_whole && crate::factors::is_on(tx, entry.account).await? {
            let ticket = NewTicket {
                kind: entry.holds.second(),
                secret: entry.secret.clone(),
                account: entry.account,
                organisation: entry.organisation,
                proves: false,
                created: entry.now,
                expires: entry.now.plus(inner.config.second_time_max),
            };
            tickets::insert(tx, &ticket).await?;
            return Ok(Way::Second);
        }
        begin(tx, &inner.config, entry).await?;
        note(tx, &inner.base, &change_of(entry)).await?;
        Ok(Way::In)
    }

    /// Finds the holder of a browser's session. Each use makes it last longer.
    pub async fn session(&self, token: &str) -> Result<Principal, Refused> {
        let inner = &self.0;
        let hash = token::stored(token).ok_or(Refused::Unauthenticated)?;
        let now = inner.base.clock.now();
        let oldest = now.minus(inner.config.session_age_max);
        let wanted = hash.clone();
        let found = inner.db.read(async move |read| {
            let sql = "SELECT account, seen FROM session
                WHERE token_hash = ? AND kind = 'cookie' AND expires > ? AND created > ?";
            let Some(row) = read.query_optional(sql, params![wanted, now, oldest]).await? else {
                return Ok::<_, Error>(None);
            };
            Ok(Some((row.get("account")?, row.get("seen")?)))
        });
        let found: Option<(AccountId, Timestamp)> = found.await.map_err(unavailable)?;
        let (account, seen) = found.ok_or(Refused::Unauthenticated)?;
        let principal = self.holder(account).ok_or(Refused::Unauthenticated)?;
        if now.since(seen) >= inner.config.session_touch {
            let expires = now.plus(inner.config.session_time_max);
            let touched = inner.db.write(async move |tx| {
                let sql = "UPDATE session SET seen = ?, expires = ? WHERE token_hash = ?";
                tx.execute(sql, params![now, expires, hash]).await?;
                Ok::<_, Error>(())
            });
            // The session is good all the same; its next use tries again.
            if let Err(error) = touched.await {
                tracing::warn!(%error, "a session's use could not be written down");
            }
        }
        Ok(principal)
    }

    /// When a browser's session ends if it is not used any more.
    pub async fn session_end(&self, token: &str) -> Option<Timestamp> {
        let hash = token::stored(token)?;
        let found = self.0.db.read(async move |read| {
            let sql =
                "SELECT created, expires FROM session WHERE token_hash = ? AND kind = 'cookie'";
            let row = read.query_optional(sql, params![hash]).await?;
            row.map(|row| Ok::<_, Error>((row.get("created")?, row.get("expires")?))).transpose()
        });
        // Whoever is told nothing looks again soon.
        let (created, expires): (Timestamp, Timestamp) = found.await.ok().flatten()?;
        Some(expires.min(created.plus(self.0.config.session_age_max)))
    }

    /// Ends a browser's session; one that is not there is ended already.
    pub async fn sign_out(&self, token: &str) -> Result<(), Error> {
        let Some(hash) = token::stored(token) else { return Ok(()) };
        let sql = "SELECT id, account, organisation FROM session WHERE token_hash = ?";
        self.end(sql, hash, "session.sign-out").await?;
        Ok(())
    }

    /// Ends the session that a query finds by one hash; says whether there was one.
    pub(crate) async fn end(
        &self,
        sql: &'static str,
        hash: String,
        action: &'static str,
    ) -> Result<bool, Error> {
        let base = self.0.base.clone();
        let ended = self.0.db.write(async move |tx| {
            let Some(row) = tx.query_optional(sql, params![hash]).await? else {
                return Ok::<_, Error>(None);
            };
            let (id, account): (SessionId, AccountId) = (row.get("id")?, row.get("account")?);
            delete(tx, id).await?;
            let change = Change {
                organisation: row.get("organisation")?,
                subject: format!("account:{account}"),
                door: Some(Door::Http),
                action,
                resource: format!("session/{id}"),
                detail: String::new(),
            };
            note(tx, &base, &change).await?;
            Ok(Some(id))
        });
        let ended = ended.await?;
        if let Some(id) = ended {
            self.ended(&[id]);
        }
        Ok(ended.is_some())
    }

    /// The sessions of the principal's account, newest first. `current` is the text of the cookie that asks.
    pub async fn sessions(
        &self,
        principal: &Principal,
        current: Option<&str>,
    ) -> Result<Vec<Session>, Error> {
        let account = account_of(principal)?;
        let current = current.and_then(token::stored);
        let now = self.0.base.clock.now();
        let sessions = self.0.db.read(async move |read| {
            let sql =
                "SELECT id, kind, token_hash, agent, address, created, seen, expires FROM session
                WHERE account = ? AND expires > ? ORDER BY created DESC, id DESC LIMIT 1000";
            let rows = read.query(sql, params![account, now]).await?;
            rows.iter().map(|row| session_row(row, current.as_deref())).collect()
        });
        sessions.await
    }

    /// Ends one session of the principal's account, also where it is in use.
    pub async fn end_session(&self, by: By<'_>, id: SessionId) -> Result<(), Error> {
        let account = account_of(by.0)?;
        let (base, change) =
            (self.0.base.clone(), Change::of(by, "session.end", format!("session/{id}")));
        let ended = self.0.db.write(async move |tx| {
            let sql = "DELETE FROM session WHERE id = ? AND account = ?";
            if tx.execute(sql, params![id, account]).await? == 0 {
                return Err(Error::NotThere("session"));
            }
            tx.execute("DELETE FROM spent_token WHERE session = ?", params![id]).await?;
            note(tx, &base, &change).await
        });
        ended.await?;
        self.ended(&[id]);
        Ok(())
    }

    /// Ends all sessions of the principal's account but the one of the cookie that asks. Says how many.
    pub async fn end_other_sessions(&self, by: By<'_>, keep: Option<&str>) -> Result<usize, Error> {
        let account = account_of(by.0)?;
        let keep = keep.and_then(token::stored);
        let change = Change::of(by, "session.end-others", format!("account/{account}"));
        let base = self.0.base.clone();
        let ended = self.0.db.write(async move |tx| {
            let ended = delete_all(tx, account, keep.as_deref().into()).await?;
            note(tx, &base, &change).await?;
            Ok::<_, Error>(ended)
        });
        let ended = ended.await?;
        self.ended(&ended);
        Ok(ended.len())
    }

    /// Memory forgets sessions that are gone, and doors look again.
    pub(crate) fn ended(&self, ids: &[SessionId]) {
        let mut live = self.0.live.write();
        live.generation += 1;
        for id in ids {
            live.sessions.remove(id);
        }
        drop(live);
        self.changed();
    }

    pub(crate) fn holder(&self, id: AccountId) -> Option<Principal> {
        let live = self.0.live.read();
        let account = live.accounts.get(&id).filter(|account| !account.is_suspended)?;
        Some(Principal {
            organisation: account.organisation,
            subject: Subject::Account(id),
            name: account.email.clone(),
        })
    }

    fn may_sign_in(&self, id: AccountId) -> bool {
        self.0.config.unverified_sign_in || !self.is_unverified(id)
    }

    /// Whether an account must still show that its address is its own.
    pub(crate) fn is_unverified(&self, id: AccountId) -> bool {
        let live = self.0.live.read();
        self.0.checks_email && live.accounts.get(&id).is_some_and(|account| !account.is_verified)
    }
}

pub(crate) fn account_of(principal: &Principal) -> Result<AccountId, Error> {
    match principal.subject {
        Subject::Account(account) => Ok(account),
        Subject::Key(_) | Subject::System(_) => Err(Error::NotAnAccount),
    }
}

fn session_row(row: &Row, current: Option<&str>) -> Result<Session, Error> {
    let hash: String = row.get("token_hash")?;
    Ok(Session {
        id: row.get("id")?,
        holds: Holds::parse(&row.get::<String>("kind")?)?,
        agent: row.get("agent")?,
        address: row.get("address")?,
        created: row.get("created")?,
        seen: row.get("seen")?,
        expires: row.get("expires")?,
        is_current: current == Some(&*hash),
    })
}

fn change_of(entry: &Entry) -> Change {
    Change {
        organisation: entry.organisation,
        subject: format!("account:{}", entry.account),
        door: Some(Door::Http),
        action: entry.action,
        resource: format!("session/{}", entry.id),
        detail: match entry.visitor.address {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => String::new(),
            address => format!("from {address}"),
        },
    }
}

/// How somebody entered, in the words of RFC 8176; it has none for a mailed link and for others' log-ins.
fn methods_of(action: &str) -> Option<&'static str> {
    match action {
        "session.sign-in" => Some("pwd"),
        // The first factor was a password, a link or another's log-in.
        "session.second-factor" => Some("otp mfa"),
        "session.passkey" => Some("pop user"),
        _ => None,
    }
}

async fn begin(tx: &mut Tx, config: &Config, entry: &Entry) -> Result<(), Error> {
    let Entry { account, organisation, id, now, visitor, .. } = entry;
    let hash = token::stored(&entry.secret).ok_or(Error::SignInFailed)?;
    let access = entry.access.as_deref().and_then(token::stored);
    let access_expires = access.is_some().then(|| now.plus(config.access_time(entry.holds)));
    let expires = now.plus(config.session_time(entry.holds));
    let sql = "INSERT INTO session (id, organisation, account, kind, token_hash, access_hash,
            access_expires, agent, address, created, seen, expires, methods)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let (kind, address) = (entry.holds.text(), visitor.address.to_string());
    let (hashes, times) = ((hash, access), (now, now, expires));
    let values = params![
        id,
        organisation,
        account,
        kind,
        hashes.0,
        hashes.1,
        access_expires,
        visitor.agent,
        address,
        times.0,
        times.1,
        times.2,
        methods_of(entry.action)
    ];
    tx.execute(sql, values).await?;
    let sql = "SELECT id FROM session WHERE account = ? AND id <> ?
        ORDER BY created DESC, id LIMIT 1000 OFFSET ?";
    let others = i64::from(config.sessions_per_account_max.saturating_sub(1));
    for row in tx.query(sql, params![account, id, others]).await? {
        delete(tx, row.get("id")?).await?;
    }
    let sql = "UPDATE account SET signed_in = ? WHERE id = ?";
    tx.execute(sql, params![now, account]).await?;
    Ok(())
}

pub(crate) async fn delete(tx: &mut Tx, id: SessionId) -> Result<(), Error> {
    tx.execute("DELETE FROM session WHERE id = ?", params![id]).await?;
    tx.execute("DELETE FROM spent_token WHERE session = ?", params![id]).await?;
    Ok(())
}

/// Which of an account's sessions goes on when the others end.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kept<'a> {
    Nothing,
    Hash(&'a str),
    Session(SessionId),
}

/// Ends the sessions of an account but one, and says which.
pub(crate) async fn delete_all(
    tx: &mut Tx,
    account: AccountId,
    kept: Kept<'_>,
) -> Result<Vec<SessionId>, Error> {
    let sql = "SELECT id, token_hash FROM session WHERE account = ?";
    let rows = tx.query(sql, params![account]).await?;
    let mut ended = Vec::with_capacity(rows.len());
    for row in rows {
        let (id, hash): (SessionId, String) = (row.get("id")?, row.get("token_hash")?);
        let is_kept = match kept {
            Kept::Nothing => false,
            Kept::Hash(kept) => hash == kept,
            Kept::Session(kept) => id == kept,
        };
        if !is_kept {
            delete(tx, id).await?;
            ended.push(id);
        }
    }
    Ok(ended)
}

impl<'a> From<Option<&'a str>> for Kept<'a> {
    fn from(hash: Option<&'a str>) -> Self {
        hash.map_or(Self::Nothing, Self::Hash)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn unavailable(error: Error) -> Refused {
    tracing::warn!(%error, "a session could not be looked up");
    Refused::Unavailable
}
