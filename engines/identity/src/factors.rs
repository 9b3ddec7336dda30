//! The second factor: codes of an app (RFC 6238), and recovery codes for when it is lost.

use std::fmt;
use std::net::IpAddr;

use base::access::{Door, Subject};
use base::{AccountId, OrganisationId, Timestamp};
use relational::{Read, Tx, params};

use crate::audit::{By, Change, note};
use crate::letters::Changed;
use crate::sessions::{Holds, NewSession, Visitor, account_of};
use crate::tickets::{self, Kind};
use crate::{Error, Identity, token, totp};

/// What an app for codes is given; shown once.
pub struct NewTotp {
    /// To be typed.
    pub secret: String,
    /// To be shown as a QR code.
    pub uri: String,
}

impl fmt::Debug for NewTotp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewTotp").finish_non_exhaustive()
    }
}

/// Texts that each stand for a code once; shown once.
#[derive(Clone)]
pub struct RecoveryCodes(pub Vec<String>);

impl fmt::Debug for RecoveryCodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RecoveryCodes({})", self.0.len())
    }
}

const RECOVERY_CODES: usize = 10;
/// 120 bits: enough for a plain hash (OWASP ASVS 6.5.2 asks for 112).
const RECOVERY_BYTES: usize = 15;

const IS_ON: &str = "SELECT 1 AS is_on FROM totp WHERE account = ? AND confirmed IS NOT NULL";

pub(crate) async fn is_on(tx: &mut Tx, account: AccountId) -> Result<bool, Error> {
    Ok(tx.query_optional(IS_ON, params![account]).await?.is_some())
}

pub(crate) async fn is_on_for(read: &mut Read, account: AccountId) -> Result<bool, Error> {
    Ok(read.query_optional(IS_ON, params![account]).await?.is_some())
}

pub(crate) async fn remove_all(tx: &mut Tx, account: AccountId) -> Result<(), Error> {
    tx.execute("DELETE FROM totp WHERE account = ?", params![account]).await?;
    tx.execute("DELETE FROM recovery_code WHERE account = ?", params![account]).await?;
    tx.execute("DELETE FROM passkey WHERE account = ?", params![account]).await?;
    tx.execute("DELETE FROM provider_link WHERE account = ?", params![account]).await?;
    Ok(())
}

impl Identity {
    /// Begins with codes: they are asked for once one of them was given.
    pub async fn begin_totp(
        &self,
        by: By<'_>,
        from: IpAddr,
        password: Option<&str>,
    ) -> Result<NewTotp, Error> {
        let account = account_of(by.0)?;
        self.again(account, from, password).await?;
        let inner = &self.0;
        let secret = inner.base.entropy.bytes::<{ totp::SECRET_BYTES }>();
        let sealed = inner.seal.close(account.bytes(), &secret);
        let (organisation, now) = (by.0.organisation, inner.base.clock.now());
        let stored = inner.db.write(async move |tx| {
            if is_on(tx, account).await? {
                return Err(Error::FactorExists);
            }
            tx.execute("DELETE FROM totp WHERE account = ?", params![account]).await?;
            let sql = "INSERT INTO totp (account, organisation, sealed, last_step, created)
                VALUES (?, ?, ?, 0, ?)";
            tx.execute(sql, params![account, organisation, sealed, now]).await?;
            Ok(())
        });
        stored.await?;
        let secret = totp::base32(&secret);
        let name: String = url::form_urlencoded::byte_serialize(by.0.name.as_bytes()).collect();
        let uri = format!("otpauth://totp/Madang:{name}?secret={secret}&issuer=Madang");
        Ok(NewTotp { secret, uri })
    }

    /// Ends the beginning with a first code: from now on one is asked for. Gives recovery codes.
    pub async fn confirm_totp(&self, by: By<'_>, code: &str) -> Result<RecoveryCodes, Error> {
        let account = account_of(by.0)?;
        self.0.attempts.second(self.0.base.clock.now(), account)?;
        let codes = self.recovery_codes();
        let change = Change::of(by, "factor.totp-on", format!("account/{account}"));
        let (identity, code, stored) = (self.clone(), code.trim().to_owned(), codes.clone());
        let organisation = by.0.organisation;
        let confirmed = self.0.db.write(async move |tx| {
            let now = identity.0.base.clock.now();
            if is_on(tx, account).await? {
                return Err(Error::FactorExists);
            }
            identity.use_totp(tx, account, &code, now).await?;
            let sql = "UPDATE totp SET confirmed = ? WHERE account = ?";
            tx.execute(sql, params![now, account]).await?;
            store_codes(tx, (account, organisation), &stored).await?;
            note(tx, &identity.0.base, &change).await
        });
        confirmed.await.map_err(of_somebody)?;
        self.0.attempts.second_succeeded(account);
        self.tell(account, Changed::Factors);
        Ok(codes)
    }

    /// Asks for codes no more; takes one, or a recovery code.
    pub async fn end_totp(&self, by: By<'_>, code: &str) -> Result<(), Error> {
        self.with_code((by, "factor.totp-off"), code, None).await?;
        self.tell(account_of(by.0)?, Changed::Factors);
        Ok(())
    }

    /// New recovery codes in place of the old ones; takes a code, or an old recovery code.
    pub async fn new_recovery_codes(&self, by: By<'_>, code: &str) -> Result<RecoveryCodes, Error> {
        let codes = self.recovery_codes();
        self.with_code((by, "factor.recovery-codes"), code, Some(codes.clone())).await?;
        Ok(codes)
    }

    /// Uses a code and, in the same transaction, stores recovery codes or ends the asking.
    async fn with_code(
        &self,
        (by, action): (By<'_>, &'static str),
        code: &str,
        codes: Option<RecoveryCodes>,
    ) -> Result<(), Error> {
        let account = account_of(by.0)?;
        let change = Change::of(by, action, format!("account/{account}"));
        let organisation = by.0.organisation;
        self.0.attempts.second(self.0.base.clock.now(), account)?;
        let (identity, code) = (self.clone(), code.trim().to_owned());
        let done = self.0.db.write(async move |tx| {
            let now = identity.0.base.clock.now();
            if !is_on(tx, account).await? {
                return Err(Error::NotThere("second factor"));
            }
            identity.use_code(tx, account, &code, now).await?;
            if let Some(codes) = &codes {
                store_codes(tx, (account, organisation), codes).await?;
            } else {
                tx.execute("DELETE FROM totp WHERE account = ?", params![account]).await?;
                let sql = "DELETE FROM recovery_code WHERE account = ?";
                tx.execute(sql, params![account]).await?;
            }
            note(tx, &identity.0.base, &change).await
        });
        done.await.map_err(of_somebody)?;
        self.0.attempts.second_succeeded(account);
        Ok(())
    }

    /// Goes on from a right password or link with a code of the app, or a recovery code.
    pub async fn second(
        &self,
        visitor: &Visitor,
        challenge: &str,
        code: &str,
        holds: Holds,
    ) -> Result<NewSession, Error> {
        let inner = &self.0;
        let kind = match holds {
            Holds::Cookie => Kind::Second,
            Holds::Tokens | Holds::Bearer => Kind::SecondApp,
        };
        let (now, text) = (inner.base.clock.now(), challenge.to_owned());
        let tries_max = inner.config.second_tries_max;
        // A try counts whether or not it succeeds, so it is written first.
        let found =
            inner.db.write(async move |tx| tickets::tried(tx, kind, &text, (now, tries_max)).await);
        let found = found.await?;
        inner.attempts.second(now, found.account)?;
        let whose = (found.account, found.organisation);
        let mut entry = self.entry(whose, holds, visitor, "session.second-factor");
        entry.is_whole = true;
        let (identity, wanted) = (self.clone(), entry.clone());
        let (text, code) = (challenge.to_owned(), code.trim().to_owned());
        let entered = inner.db.write(async move |tx| {
            let ticket = tickets::take(tx, kind, &text, now).await?;
            identity.use_code(tx, ticket.account, &code, now).await?;
            identity.enter(tx, &wanted).await?;
            Ok::<_, Error>(())
        });
        if let Err(error) = entered.await {
            if matches!(error, Error::CodeWrong) {
                let account = Subject::Account(found.account);
                inner.denials.unproved(found.organisation, Door::Http, account);
            }
            return Err(error);
        }
        inner.attempts.second_succeeded(found.account);
        self.session_of(entry)
    }

    /// A password is asked for again before something changes about how an account is entered.
    pub(crate) async fn again(
        &self,
        account: AccountId,
        from: IpAddr,
        password: Option<&str>,
    ) -> Result<(), Error> {
        if self.has_password(account).await? {
            let password = password.ok_or(Error::CurrentPassword)?;
            self.check_password(from, account, password).await?;
        }
        Ok(())
    }

    async fn use_code(
        &self,
        tx: &mut Tx,
        account: AccountId,
        code: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        if totp::is_code(code) {
            return self.use_totp(tx, account, code, now).await;
        }
        let written: String = code.chars().filter(|letter| !matches!(letter, '-' | ' ')).collect();
        let hash = token::stored(&written.to_ascii_uppercase()).ok_or(Error::CodeWrong)?;
        let sql = "UPDATE recovery_code SET used = ?
            WHERE account = ? AND code_hash = ? AND used IS NULL";
        if tx.execute(sql, params![now, account, hash]).await? == 0 {
            return Err(Error::CodeWrong);
        }
        Ok(())
    }

    /// Each step counts once, so a code that was seen on its way opens nothing.
    async fn use_totp(
        &self,
        tx: &mut Tx,
        account: AccountId,
        code: &str,
        now: Timestamp,
    ) -> Result<(), Error> {
        let sql = "SELECT sealed, last_step FROM totp WHERE account = ?";
        let row = tx.query_optional(sql, params![account]).await?;
        let row = row.ok_or(Error::NotThere("second factor"))?;
        let sealed: Vec<u8> = row.get("sealed")?;
        let last: i64 = row.get("last_step")?;
        let secret = self.0.seal.open_closed(account.bytes(), &sealed);
        let secret = secret.ok_or(Error::SealBroken)?;
        let step = totp::step_of(&secret, code, now, last).ok_or(Error::CodeWrong)?;
        let sql = "UPDATE totp SET last_step = ? WHERE account = ? AND last_step < ?";
        if tx.execute(sql, params![step, account, step]).await? == 0 {
            return Err(Error::CodeWrong);
        }
        Ok(())
    }

    fn recovery_codes(&self) -> RecoveryCodes {
        let entropy = &self.0.base.entropy;
        let code = || {
            let letters = totp::base32(&entropy.bytes::<RECOVERY_BYTES>());
            let parts: Vec<_> = letters.as_bytes().chunks(6).map(String::from_utf8_lossy).collect();
            parts.join("-")
        };
        RecoveryCodes((0..RECOVERY_CODES).map(|_| code()).collect())
    }
}

/// A wrong code does not sign out whoever is signed in.
fn of_somebody(error: Error) -> Error {
    if matches!(error, Error::CodeWrong) { Error::CodeRefused } else { error }
}

async fn store_codes(
    tx: &mut Tx,
    (account, organisation): (AccountId, OrganisationId),
    codes: &RecoveryCodes,
) -> Result<(), Error> {
    tx.execute("DELETE FROM recovery_code WHERE account = ?", params![account]).await?;
    let sql = "INSERT INTO recovery_code (account, code_hash, organisation) VALUES (?, ?, ?)";
    for code in &codes.0 {
        let hash = token::stored(&code.replace('-', "")).ok_or(Error::Stored("code"))?;
        tx.execute(sql, params![account, hash, organisation]).await?;
    }
    Ok(())
}
