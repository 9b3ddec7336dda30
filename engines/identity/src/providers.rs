//! Log-in by others (OpenID Connect Core 1.0, and OAuth 2 with a profile). An account is known by the provider's subject, never
//! by an address that somebody claims.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use base::access::{Door, Principal};
use base::{AccountId, Failure, OrganisationId, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use relational::{Tx, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::accounts::{Insert, NewPerson, insert, normal_email};
use crate::audit::{By, Change, note};
use crate::jwt::{self, Keys, Wanted};
use crate::letters::Changed;
use crate::passkeys::spend;
use crate::sessions::{Entered, Holds, Visitor, account_of};
use crate::{Error, Identity, Role, SignUp, token};

/// `[identity.providers.NAME]`: somebody whose word on who somebody is counts.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Provider {
    /// For OpenID Connect: where `/.well-known/openid-configuration` is below. Without it the endpoints are given here.
    pub issuer: String,
    pub client_id: String,
    pub client_secret: String,
    pub scope: String,
    pub authorization_endpoint: String,
    pub token_endpoint: String,
    /// Says whose an access token is, as JSON.
    pub profile_endpoint: String,
    /// Where a profile has the subject, as a JSON pointer.
    pub profile_subject: String,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (issuer, client) = (&self.issuer, &self.client_id);
        f.debug_struct("Provider")
            .field("issuer", issuer)
            .field("client_id", client)
            .finish_non_exhaustive()
    }
}

impl Default for Provider {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            client_id: String::new(),
            client_secret: String::new(),
            scope: "openid email".into(),
            authorization_endpoint: String::new(),
            token_endpoint: String::new(),
            profile_endpoint: String::new(),
            profile_subject: "/id".into(),
        }
    }
}

impl Provider {
    pub(crate) fn check(&self, name: &str) -> Result<(), Error> {
        let wrong = |why: &str| Err(Error::Config(format!("providers.{name}: {why}")));
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 50 || !name.bytes().all(is_name) {
            return wrong("a name has small letters, digits and hyphens");
        }
        if self.client_id.is_empty() {
            return wrong("client_id is missing");
        }
        let is_given = !self.authorization_endpoint.is_empty()
            && !self.token_endpoint.is_empty()
            && !self.profile_endpoint.is_empty();
        if self.issuer.is_empty() && !is_given {
            return wrong("neither issuer nor all of authorization_, token_ and profile_endpoint");
        }
        if self.issuer.is_empty() && !self.profile_subject.starts_with('/') {
            return wrong("profile_subject is no JSON pointer");
        }
        Ok(())
    }
}

/// A request to a provider's server.
#[derive(Clone)]
pub struct WebRequest {
    pub url: String,
    /// Posted as a form; without it it is a GET.
    pub form: Option<String>,
    pub bearer: Option<String>,
    pub answer_bytes_max: usize,
}

/// What the server answered.
pub struct WebAnswer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// What identity needs to ask providers.
pub trait Web: Send + Sync + 'static {
    /// Asks once, follows nothing.
    fn ask(
        &self,
        request: WebRequest,
    ) -> Pin<Box<dyn Future<Output = Result<WebAnswer, Failure>> + Send + '_>>;
}

/// Where a browser goes next, and what it keeps until it comes back.
pub struct Visit {
    pub url: String,
    /// For a cookie that comes back from another site's page (`SameSite=Lax`); nobody can read or make it.
    pub cookie: String,
    pub lifetime: Duration,
}

/// What a browser came back with.
#[derive(Clone, Default)]
pub struct Return {
    pub state: String,
    pub code: Option<String>,
    /// RFC 9207.
    pub issuer: Option<String>,
}

/// What coming back led to.
#[derive(Debug)]
pub enum Returned {
    Entered(Entered),
    /// The account that began it is linked now.
    Linked,
}

/// A provider that an account is linked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub provider: String,
    pub created: Timestamp,
}

/// What is in the cookie, sealed.
#[derive(Serialize, Deserialize)]
struct Kept {
    state: String,
    nonce: String,
    verifier: String,
    /// In microseconds since 1970.
    expires: i64,
    /// Who wants to be linked.
    account: Option<AccountText>,
}

type AccountText = String;

/// The part of a discovery document that counts (OpenID Connect Discovery 1.0).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct Tokens {
    access_token: Option<String>,
    id_token: Option<String>,
}

/// Who somebody is, by a provider.
struct Somebody {
    subject: String,
    verified_email: Option<String>,
}

const ANSWER_BYTES_MAX: usize = 64 << 10;
const CODE_BYTES_MAX: usize = 4 << 10;
const SUBJECT_BYTES_MAX: usize = 255;

impl Identity {
    /// The names of the providers that are set up.
    pub fn providers(&self) -> Vec<String> {
        self.0.config.providers.keys().cloned().collect()
    }

    /// Begins to sign in by a provider.
    pub async fn begin_provider(&self, name: &str) -> Result<Visit, Error> {
        self.visit(name, None).await
    }

    /// Begins to link the principal's account with a provider.
    pub async fn begin_link(
        &self,
        by: By<'_>,
        from: IpAddr,
        (name, password): (&str, Option<&str>),
    ) -> Result<Visit, Error> {
        let account = account_of(by.0)?;
        self.again(account, from, password).await?;
        self.visit(name, Some(account)).await
    }

    async fn visit(&self, name: &str, account: Option<AccountId>) -> Result<Visit, Error> {
        let inner = &self.0;
        let provider = self.provider(name)?;
        let endpoint = match self.discovery(provider).await? {
            Some(found) => found.authorization_endpoint,
            None => provider.authorization_endpoint.clone(),
        };
        let lifetime = inner.config.provider_time_max;
        let kept = Kept {
            state: token::secret(&inner.base.entropy),
            nonce: token::secret(&inner.base.entropy),
            verifier: token::secret(&inner.base.entropy),
            expires: inner.base.clock.now().plus(lifetime).micros(),
            account: account.map(|account| account.to_string()),
        };
        let mut url: url::Url =
            endpoint.parse().map_err(|_| Error::ProviderWrong("its endpoint is no URL"))?;
        // RFC 7636, section 4.2.
        let challenge = URL_SAFE_NO_PAD.encode(Sha256::digest(&kept.verifier));
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &provider.client_id)
            .append_pair("redirect_uri", &self.redirect_uri(name))
            .append_pair("scope", &provider.scope)
            .append_pair("state", &kept.state)
            .append_pair("nonce", &kept.nonce)
            .append_pair("code_challenge", &challenge)
            .append_pair("code_challenge_method", "S256");
        let text = serde_json::to_vec(&kept).map_err(|_| Error::Stored("log-in"))?;
        let sealed = inner.seal.close(&owner(name), &text);
        Ok(Visit { url: url.into(), cookie: URL_SAFE_NO_PAD.encode(sealed), lifetime })
    }

    /// Goes on when a browser comes back from a provider with what it was given by [`Identity::begin_provider`].
    pub async fn finish_provider(
        &self,
        visitor: &Visitor,
        name: &str,
        (cookie, back): (&str, Return),
    ) -> Result<Returned, Error> {
        let inner = &self.0;
        let provider = self.provider(name)?;
        let kept = self.kept(name, cookie, &back)?;
        // Once, whatever comes of it.
        let (state, expires) = (kept.state.clone(), Timestamp::from_micros(kept.expires));
        let spent = inner.db.write(async move |tx| spend(tx, state.as_bytes(), expires).await);
        spent.await.map_err(|error| match error {
            Error::PasskeyRefused => refused("it came back before"),
            error => error,
        })?;
        let code = back.code.filter(|code| code.len() <= CODE_BYTES_MAX);
        let code = code.ok_or_else(|| refused("the provider let nobody in"))?;
        let somebody = self.somebody((name, provider), &kept, (&code, back.issuer)).await?;
        match kept.account {
            Some(account) => {
                let account = account.parse().map_err(|_| refused("the cookie is broken"))?;
                self.link(name, account, &somebody).await?;
                Ok(Returned::Linked)
            }
            None => self.enter_by(visitor, name, &somebody).await.map(Returned::Entered),
        }
    }

    fn provider(&self, name: &str) -> Result<&Provider, Error> {
        self.0.config.providers.get(name).ok_or(Error::NotThere("provider"))
    }

    fn redirect_uri(&self, name: &str) -> String {
        format!("{}/v1/session/providers/{name}/callback", self.0.origin.text())
    }

    /// What the browser kept, if it began this here and not long ago.
    fn kept(&self, name: &str, cookie: &str, back: &Return) -> Result<Kept, Error> {
        let sealed = URL_SAFE_NO_PAD.decode(cookie).map_err(|_| refused("there is no cookie"))?;
        let text = self.0.seal.open_closed(&owner(name), &sealed);
        let text = text.ok_or_else(|| refused("the cookie is not of this log-in"))?;
        let kept: Kept =
            serde_json::from_slice(&text).map_err(|_| refused("the cookie is broken"))?;
        if !bool::from(kept.state.as_bytes().ct_eq(back.state.as_bytes())) {
            return Err(refused("the state is not of this browser"));
        }
        if Timestamp::from_micros(kept.expires) <= self.0.base.clock.now() {
            return Err(refused("it took too long"));
        }
        Ok(kept)
    }

    async fn discovery(&self, provider: &Provider) -> Result<Option<Discovery>, Error> {
        if provider.issuer.is_empty() {
            return Ok(None);
        }
        let base = provider.issuer.trim_end_matches('/');
        let url = format!("{base}/.well-known/openid-configuration");
        let found: Discovery = self.fetch(url, None, None).await?;
        if found.issuer != provider.issuer {
            return Err(Error::ProviderWrong("its discovery names another issuer"));
        }
        Ok(Some(found))
    }

    /// Exchanges the code, and learns who came.
    async fn somebody(
        &self,
        (name, provider): (&str, &Provider),
        kept: &Kept,
        (code, issuer): (&str, Option<String>),
    ) -> Result<Somebody, Error> {
        let discovery = self.discovery(provider).await?;
        if issuer.is_some_and(|issuer| !provider.issuer.is_empty() && issuer != provider.issuer) {
            return Err(refused("the answer is of another provider"));
        }
        let token_endpoint =
            discovery.as_ref().map_or(&provider.token_endpoint, |found| &found.token_endpoint);
        let form = self.token_form((name, provider), kept, code);
        let tokens: Tokens = self.fetch(token_endpoint.clone(), Some(form), None).await?;
        let Some(discovery) = discovery else {
            return self.profile_of(provider, tokens.access_token).await;
        };
        let token = tokens.id_token.ok_or_else(|| refused("there is no ID token"))?;
        let keys: Keys = self.fetch(discovery.jwks_uri, None, None).await?;
        let wanted = Wanted {
            issuer: &provider.issuer,
            client: &provider.client_id,
            nonce: &kept.nonce,
            now: self.0.base.clock.now(),
        };
        let claims = jwt::check(&token, &keys, wanted).map_err(refused)?;
        let verified_email = claims.verified_email().map(str::to_owned);
        Ok(Somebody { subject: claims.sub, verified_email })
    }

    /// RFC 6749, section 4.1.3, and RFC 7636, section 4.5.
    fn token_form(&self, (name, provider): (&str, &Provider), kept: &Kept, code: &str) -> String {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "authorization_code")
            .append_pair("code", code)
            .append_pair("redirect_uri", &self.redirect_uri(name))
            .append_pair("client_id", &provider.client_id)
            .append_pair("code_verifier", &kept.verifier)
            // Naver wants it here too; others pass it over.
            .append_pair("state", &kept.state);
        if !provider.client_secret.is_empty() {
            form.append_pair("client_secret", &provider.client_secret);
        }
        form.finish()
    }

    /// Of a provider without ID tokens. Its addresses are nobody's word.
    async fn profile_of(
        &self,
        provider: &Provider,
        access_token: Option<String>,
    ) -> Result<Somebody, Error> {
        let bearer = access_token.ok_or_else(|| refused("the code is not good"))?;
        let url = provider.profile_endpoint.clone();
        let profile: Value = self.fetch(url, None, Some(bearer)).await?;
        let subject = match profile.pointer(&provider.profile_subject) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        if subject.is_empty() || subject.len() > SUBJECT_BYTES_MAX {
            return Err(refused("the profile names nobody"));
        }
        Ok(Somebody { subject, verified_email: None })
    }

    async fn fetch<T: serde::de::DeserializeOwned>(
        &self,
        url: String,
        form: Option<String>,
        bearer: Option<String>,
    ) -> Result<T, Error> {
        let web = self.0.web.as_ref().ok_or(Error::ProviderWrong("nothing leaves this house"))?;
        let is_code = form.is_some();
        let request = WebRequest { url, form, bearer, answer_bytes_max: ANSWER_BYTES_MAX };
        let answer = web.ask(request).await.map_err(|error| {
            tracing::warn!(%error, "a provider could not be asked");
            Error::ProviderDown
        })?;
        match answer.status {
            200 => serde_json::from_slice(&answer.body)
                .map_err(|_| Error::ProviderWrong("its answer cannot be read")),
            400..=499 if is_code => Err(refused("the code is not good")),
            status => {
                tracing::warn!(status, "a provider refused to answer");
                Err(Error::ProviderDown)
            }
        }
    }

    async fn link(&self, name: &str, account: AccountId, somebody: &Somebody) -> Result<(), Error> {
        let principal: Principal = self.holder(account).ok_or(Error::NotAnAccount)?;
        let change = Change::of(
            (&principal, Door::Http),
            "factor.provider-link",
            format!("provider/{name}"),
        );
        let link = NewLink::new(name, (account, principal.organisation), somebody);
        let base = self.0.base.clone();
        let linked = self.0.db.write(async move |tx| {
            match link.owner(tx).await? {
                Some((owner, _)) if owner == account => return Ok(()),
                Some(_) => return Err(Error::FactorExists),
                None => {}
            }
            link.insert(tx, base.clock.now()).await?;
            note(tx, &base, &change).await
        });
        linked.await?;
        self.tell(account, Changed::Factors);
        Ok(())
    }

    /// Lets in whom a link knows; makes an account where strangers may and the provider vouches for an address.
    async fn enter_by(
        &self,
        visitor: &Visitor,
        name: &str,
        somebody: &Somebody,
    ) -> Result<Entered, Error> {
        let inner = &self.0;
        let looked = NewLink::new(name, (AccountId::fixed(0), OrganisationId::DEFAULT), somebody);
        let known = inner.db.read(async move |read| {
            let sql = "SELECT account, organisation FROM provider_link
                WHERE provider = ? AND subject_hash = ?";
            let row = read.query_optional(sql, params![looked.provider, looked.hash]).await?;
            row.map(|row| Ok::<_, Error>((row.get("account")?, row.get("organisation")?)))
                .transpose()
        });
        if let Some(whose) = known.await? {
            let entry = self.entry(whose, Holds::Cookie, visitor, "session.provider");
            let (identity, wanted) = (self.clone(), entry.clone());
            let way = inner.db.write(async move |tx| identity.enter(tx, &wanted).await);
            return self.entered(entry, way.await?);
        }
        let email = somebody.verified_email.as_deref().and_then(|it| normal_email(it).ok());
        let Some(email) = email.filter(|_| inner.config.sign_up == SignUp::Open) else {
            return Err(Error::ProviderNotLinked);
        };
        self.room_for_an_account()?;
        inner.attempts.sign_up(inner.base.clock.now(), visitor.address)?;
        let now = inner.base.clock.now();
        let organisation = OrganisationId::new(now, &inner.base.entropy);
        let account = AccountId::new(now, &inner.base.entropy);
        let whose = (account, organisation);
        let entry = self.entry(whose, Holds::Cookie, visitor, "session.provider");
        let link = NewLink::new(name, whose, somebody);
        let (identity, wanted, address) = (self.clone(), entry.clone(), email.clone());
        let way = inner.db.write(async move |tx| {
            let sql = "INSERT INTO organisation (id, name, created) VALUES (?, ?, ?)";
            tx.execute(sql, params![organisation, address, now]).await?;
            let (email, verified) = (&*address, Some(now));
            let role = Role::Admin;
            let new = Insert { account, organisation, email, role, hash: None, verified };
            // Whose address it is by the provider's word is not who has the account here.
            if insert(tx, &identity.0.base, new).await? == NewPerson::Taken {
                return Err(Error::ProviderNotLinked);
            }
            link.insert(tx, now).await?;
            let change = Change {
                organisation,
                subject: format!("account:{account}"),
                door: Some(Door::Http),
                action: "account.sign-up",
                resource: format!("account/{account}"),
                detail: format!("by {}", link.provider),
            };
            note(tx, &identity.0.base, &change).await?;
            identity.enter(tx, &wanted).await
        });
        let way = way.await?;
        self.remember(whose, &email, Role::Admin, true);
        self.entered(entry, way)
    }

    /// The providers that the principal's account is linked with.
    pub async fn links(&self, principal: &Principal) -> Result<Vec<Link>, Error> {
        let account = account_of(principal)?;
        let found = self.0.db.read(async move |read| {
            let sql = "SELECT provider, created FROM provider_link
                WHERE account = ? ORDER BY provider, created LIMIT 1000";
            let rows = read.query(sql, params![account]).await?;
            rows.iter()
                .map(|row| {
                    Ok(Link { provider: row.get("provider")?, created: row.get("created")? })
                })
                .collect::<Result<Vec<_>, Error>>()
        });
        found.await
    }

    /// Ends what the principal's account is linked with at a provider.
    pub async fn unlink(&self, by: By<'_>, name: &str) -> Result<(), Error> {
        let account = account_of(by.0)?;
        let change = Change::of(by, "factor.provider-unlink", format!("provider/{name}"));
        let (base, name) = (self.0.base.clone(), name.to_owned());
        let unlinked = self.0.db.write(async move |tx| {
            let sql = "DELETE FROM provider_link WHERE account = ? AND provider = ?";
            if tx.execute(sql, params![account, name]).await? == 0 {
                return Err(Error::NotThere("link"));
            }
            note(tx, &base, &change).await
        });
        unlinked.await?;
        self.tell(account, Changed::Factors);
        Ok(())
    }
}

/// A link on its way into its table.
#[derive(Clone)]
struct NewLink {
    provider: String,
    hash: String,
    subject: String,
    account: AccountId,
    organisation: OrganisationId,
}

impl NewLink {
    fn new(
        provider: &str,
        (account, organisation): (AccountId, OrganisationId),
        somebody: &Somebody,
    ) -> Self {
        let hash = token::hex(&Sha256::digest(somebody.subject.as_bytes()));
        let (provider, subject) = (provider.to_owned(), somebody.subject.clone());
        Self { provider, hash, subject, account, organisation }
    }

    async fn owner(&self, tx: &mut Tx) -> Result<Option<(AccountId, OrganisationId)>, Error> {
        let sql = "SELECT account, organisation FROM provider_link
            WHERE provider = ? AND subject_hash = ?";
        let row = tx.query_optional(sql, params![self.provider, self.hash]).await?;
        row.map(|row| Ok((row.get("account")?, row.get("organisation")?))).transpose()
    }

    async fn insert(&self, tx: &mut Tx, now: Timestamp) -> Result<(), Error> {
        let Self { provider, hash, subject, account, organisation } = self;
        let sql = "INSERT INTO provider_link
            (provider, subject_hash, subject, account, organisation, created)
            VALUES (?, ?, ?, ?, ?, ?)";
        tx.execute(sql, params![provider, hash, subject, account, organisation, now]).await?;
        Ok(())
    }
}

fn owner(name: &str) -> Vec<u8> {
    format!("provider {name}").into_bytes()
}

/// Whoever comes back wrongly learns nothing more; the log has why.
fn refused(reason: &'static str) -> Error {
    tracing::debug!(reason, "a log-in by a provider was refused");
    Error::ProviderRefused
}

/// The configuration of all providers, by name.
pub(crate) type Providers = BTreeMap<String, Provider>;
