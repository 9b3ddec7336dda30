//! This server as OpenID provider: other tools let in whoever is signed in here (OpenID Connect Core 1.0, by
//! authorization code with PKCE; RFC 6749, 7636, 9700). Only ID tokens are signed; every other text that a tool holds is
//! a row, so that it ends at once with the tool, with the account, and when it comes twice.

mod asking;
mod given;
mod leaving;
mod signing;
mod tools;

use std::time::Duration;

use base::{AccountId, Id, OrganisationId, Timestamp};
use relational::{Row, Tx, params};
use serde_json::{Value, json};

use crate::{Error, Identity};

pub use asking::{Asked, Asking, Step};
pub use given::{Exchange, Issued};
pub use leaving::Leaving;
pub use signing::Algorithm;
pub(crate) use signing::Signing;
pub use tools::{NewTool, Shown, Tool, ToolCredentials, ToolId};

/// What an account gave a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub tool: ToolId,
    pub name: String,
    pub scope: String,
    pub since: Timestamp,
}

/// Marks the ids of what accounts gave tools; never a value.
#[derive(Debug)]
enum Grants {}

type GrantId = Id<Grants>;

const OPENID: &str = "openid";
const EMAIL: &str = "email";
const PROFILE: &str = "profile";
/// Goes on when nobody is there (OpenID Connect Core 1.0, section 11).
const OFFLINE: &str = "offline_access";
/// In our order.
const SCOPES: [&str; 4] = [OPENID, EMAIL, PROFILE, OFFLINE];
/// How texts of tools begin, so that scanners of code know them. No door takes them for a key.
const ACCESS: &str = "madang_tool_";
const REFRESH: &str = "madang_toolrefresh_";

/// A grant's row, but for the texts in it.
struct Grant {
    id: GrantId,
    organisation: OrganisationId,
    tool: ToolId,
    account: AccountId,
    is_offline: bool,
    scope: String,
    nonce: Option<String>,
    auth_time: Timestamp,
    methods: Option<String>,
    redirect_uri: String,
    challenge: String,
    code_expires: Timestamp,
    is_used: bool,
    access_expires: Option<Timestamp>,
    expires: Timestamp,
}

/// One that was given in a browser ends with its session, unless it was given for longer.
const GRANT: &str = "SELECT id, organisation, tool, account, offline, scope, nonce, auth_time, methods, redirect_uri,
    challenge, code_expires, code_used, access_expires, expires FROM tool_grant
    WHERE (offline = 1 OR EXISTS (SELECT 1 FROM session WHERE session.id = tool_grant.session))";

impl Grant {
    fn of(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.get("id")?,
            organisation: row.get("organisation")?,
            tool: row.get("tool")?,
            account: row.get("account")?,
            is_offline: row.get("offline")?,
            scope: row.get("scope")?,
            nonce: row.get("nonce")?,
            auth_time: row.get("auth_time")?,
            methods: row.get("methods")?,
            redirect_uri: row.get("redirect_uri")?,
            challenge: row.get("challenge")?,
            code_expires: row.get("code_expires")?,
            is_used: row.get::<Option<Timestamp>>("code_used")?.is_some(),
            access_expires: row.get("access_expires")?,
            expires: row.get("expires")?,
        })
    }
}

impl Identity {
    /// What tools read to know where everything is (OpenID Connect Discovery 1.0).
    pub fn openid_configuration(&self) -> Value {
        let issuer = self.0.origin.text();
        let at = |path: &str| format!("{issuer}/v1/oidc/{path}");
        let methods = ["client_secret_basic", "client_secret_post", "none"];
        json!({
            "issuer": issuer,
            "authorization_endpoint": at("authorize"),
            "token_endpoint": at("token"),
            "userinfo_endpoint": at("userinfo"),
            "jwks_uri": at("jwks"),
            "revocation_endpoint": at("revoke"),
            "introspection_endpoint": at("introspect"),
            "end_session_endpoint": at("logout"),
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": Algorithm::ALL.map(Algorithm::as_str),
            "token_endpoint_auth_methods_supported": methods,
            "revocation_endpoint_auth_methods_supported": methods,
            "introspection_endpoint_auth_methods_supported": &methods[..2],
            "code_challenge_methods_supported": ["S256"],
            "scopes_supported": SCOPES,
            "claims_supported": ["iss", "sub", "aud", "exp", "iat", "auth_time", "amr", "nonce", "at_hash", "email",
                "email_verified", "name", "preferred_username", "organisation"],
            "ui_locales_supported": ["ko", "en"],
            "claims_parameter_supported": false,
            "request_parameter_supported": false,
            "request_uri_parameter_supported": false,
            "authorization_response_iss_parameter_supported": true,
        })
    }

    /// The public keys that tools check signatures with (RFC 7517), and how long they may be kept.
    pub async fn public_keys(&self) -> Result<(Value, Duration), Error> {
        let keys = self.signing_keys().await?;
        let public: Vec<Value> = keys.iter().map(signing::SigningKey::public).collect();
        Ok((json!({ "keys": public }), signing::KEPT))
    }

    /// Who somebody is, as far as a scope goes.
    fn claims(&self, account: AccountId, scope: &str) -> Option<Value> {
        let holder = self.holder(account)?;
        let mut claims = json!({ "sub": account.to_string() });
        if has(scope, EMAIL) {
            let live = self.0.live.read();
            claims["email"] = (*holder.name).into();
            claims["email_verified"] = live.accounts.get(&account)?.is_verified.into();
        }
        if has(scope, PROFILE) {
            claims["name"] = (*holder.name).into();
            claims["preferred_username"] = (*holder.name).into();
            claims["organisation"] = holder.organisation.to_string().into();
        }
        Some(claims)
    }
}

fn has(scope: &str, wanted: &str) -> bool {
    scope.split(' ').any(|one| one == wanted)
}

fn seconds(moment: Timestamp) -> i64 {
    moment.millis().div_euclid(1_000)
}

async fn delete(tx: &mut Tx, id: GrantId) -> Result<(), Error> {
    tx.execute("DELETE FROM tool_spent WHERE given = ?", params![id]).await?;
    tx.execute("DELETE FROM tool_grant WHERE id = ?", params![id]).await?;
    Ok(())
}

/// Ends all that tools hold of an account.
pub(crate) async fn forget(tx: &mut Tx, account: AccountId) -> Result<(), Error> {
    let sql = "DELETE FROM tool_spent WHERE given IN (SELECT id FROM tool_grant WHERE account = ?)";
    tx.execute(sql, params![account]).await?;
    tx.execute("DELETE FROM tool_grant WHERE account = ?", params![account]).await?;
    Ok(())
}
