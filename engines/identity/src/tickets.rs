use base::{AccountId, OrganisationId, Timestamp};
use relational::{Read, Row, Tx, params};

use crate::{Error, token};

/// What a one-time token is for. One of another kind opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Signs in.
    SignIn,
    /// Sets a password.
    Reset,
    /// Shows that the address is theirs.
    Verify,
    /// Goes on with the second factor, in a browser.
    Second,
    /// The same, for an app.
    SecondApp,
}

impl Kind {
    fn text(self) -> &'static str {
        match self {
            Self::SignIn => "sign-in",
            Self::Reset => "reset",
            Self::Verify => "verify",
            Self::Second => "second",
            Self::SecondApp => "second-app",
        }
    }
}

/// A one-time token on its way into its table, where only its hash is.
#[derive(Clone)]
pub(crate) struct NewTicket {
    pub(crate) kind: Kind,
    pub(crate) secret: String,
    pub(crate) account: AccountId,
    pub(crate) organisation: OrganisationId,
    /// It goes to the account's address, so whoever has it reads what comes there.
    pub(crate) proves: bool,
    pub(crate) created: Timestamp,
    pub(crate) expires: Timestamp,
}

/// Whose a token is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    pub(crate) account: AccountId,
    pub(crate) organisation: OrganisationId,
    pub(crate) proves: bool,
}

const COLUMNS: &str = "SELECT account, organisation, proves FROM ticket
    WHERE token_hash = ? AND kind = ? AND used IS NULL AND expires > ?";

pub(crate) async fn insert(tx: &mut Tx, new: &NewTicket) -> Result<(), Error> {
    let NewTicket { kind, secret, account, organisation, proves, created, expires } = new;
    let hash = token::stored(secret).ok_or(Error::LinkInvalid)?;
    let sql = "INSERT INTO ticket
        (token_hash, organisation, account, kind, proves, tries, created, expires)
        VALUES (?, ?, ?, ?, ?, 0, ?, ?)";
    let values = params![hash, organisation, account, kind.text(), proves, created, expires];
    tx.execute(sql, values).await?;
    Ok(())
}

pub(crate) async fn withdraw(tx: &mut Tx, made: &NewTicket) -> Result<(), Error> {
    let hash = token::stored(&made.secret).ok_or(Error::LinkInvalid)?;
    tx.execute("DELETE FROM ticket WHERE token_hash = ?", params![hash]).await?;
    Ok(())
}

/// Looks whether a token could be used, without using it.
pub(crate) async fn look(
    read: &mut Read,
    kind: Kind,
    token: &str,
    now: Timestamp,
) -> Result<Ticket, Error> {
    let hash = token::stored(token).ok_or(Error::LinkInvalid)?;
    let row = read.query_optional(COLUMNS, params![hash, kind.text(), now]).await?;
    of(&row.ok_or(Error::LinkInvalid)?)
}

/// Uses a token. Of many that come with it at once, one gets through.
pub(crate) async fn take(
    tx: &mut Tx,
    kind: Kind,
    token: &str,
    now: Timestamp,
) -> Result<Ticket, Error> {
    let hash = token::stored(token).ok_or(Error::LinkInvalid)?;
    let row = tx.query_optional(COLUMNS, params![hash, kind.text(), now]).await?;
    let ticket = of(&row.ok_or(Error::LinkInvalid)?)?;
    let sql = "UPDATE ticket SET used = ? WHERE token_hash = ? AND used IS NULL";
    if tx.execute(sql, params![now, hash]).await? == 0 {
        return Err(Error::LinkInvalid);
    }
    Ok(ticket)
}

/// Counts a try at a token that is used with something else beside, and gives whose it is.
pub(crate) async fn tried(
    tx: &mut Tx,
    kind: Kind,
    token: &str,
    (now, tries_max): (Timestamp, u32),
) -> Result<Ticket, Error> {
    let hash = token::stored(token).ok_or(Error::LinkInvalid)?;
    let row = tx.query_optional(COLUMNS, params![hash, kind.text(), now]).await?;
    let ticket = of(&row.ok_or(Error::LinkInvalid)?)?;
    let sql = "UPDATE ticket SET tries = tries + 1 WHERE token_hash = ? AND tries < ?";
    if tx.execute(sql, params![hash, tries_max]).await? == 0 {
        return Err(Error::LinkInvalid);
    }
    Ok(ticket)
}

fn of(row: &Row) -> Result<Ticket, Error> {
    Ok(Ticket {
        account: row.get("account")?,
        organisation: row.get("organisation")?,
        proves: row.get("proves")?,
    })
}

/// Ends all that were given out for an account, to tools too.
pub(crate) async fn forget(tx: &mut Tx, account: AccountId) -> Result<(), Error> {
    tx.execute("DELETE FROM ticket WHERE account = ?", params![account]).await?;
    crate::issuer::forget(tx, account).await
}
