//! One order, from the account to a certificate that can be shown.

use std::sync::Arc;

use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, CertificateIdentifier, ChallengeType,
    Identifier, NewAccount, NewOrder, Order, OrderStatus, RetryPolicy,
};
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, Der, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use crate::answers::{Prepared, certified};
use crate::certificate::{Validity, name_of};
use crate::error::told;
use crate::store::{ACCOUNT, CERTIFICATE};
use crate::{Challenge, Error, Inner};

/// The account, as it is kept.
#[derive(Serialize, Deserialize)]
struct KeptAccount {
    directory: String,
    contacts: Vec<String>,
    credentials: AccountCredentials,
}

/// A certificate, as it is kept.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) directory: String,
    pub(crate) domains: Vec<String>,
    chain: String,
    key: String,
}

/// A certificate that can be shown.
#[derive(Clone)]
pub(crate) struct Usable {
    pub(crate) certified: Arc<CertifiedKey>,
    pub(crate) validity: Validity,
}

const NO_SUCH_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";
const RATE_LIMITED: &str = "urn:ietf:params:acme:error:rateLimited";

impl Kept {
    #[cfg(test)]
    pub(crate) fn of_test(config: &crate::Config, chain: String, key: String) -> Self {
        let (directory, domains) = (config.directory.clone(), config.domains.clone());
        Self { directory, domains, chain, key }
    }

    /// What can be shown of it.
    pub(crate) fn usable(&self) -> Result<Usable, Error> {
        let unusable = |error: &dyn std::fmt::Display| Error::Unusable(error.to_string());
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|error| unusable(&error))?;
        let Some(first) = chain.first() else { return Err(unusable(&"there is none")) };
        let validity = Validity::of(first).ok_or_else(|| unusable(&"no dates can be read"))?;
        let parsed = ParsedCertificate::try_from(first).map_err(|error| unusable(&error))?;
        for domain in &self.domains {
            let name = ServerName::try_from(domain.as_str()).map_err(|error| unusable(&error))?;
            verify_server_name(&parsed, &name)
                .map_err(|_| unusable(&format!("{domain} is not in it")))?;
        }
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes());
        let key = key.map_err(|error| unusable(&error))?;
        let certified = certified(chain, key).map_err(|error| unusable(&error))?;
        Ok(Usable { certified: Arc::new(certified), validity })
    }
}

impl Usable {
    /// How the authority calls it (RFC 9773, section 4.1).
    pub(crate) fn name(&self) -> Option<CertificateIdentifier<'static>> {
        let (authority, serial) = name_of(self.certified.cert.first()?)?;
        Some(CertificateIdentifier::new(Der::from_slice(&authority), Der::from_slice(&serial)))
    }
}

impl Inner {
    /// Orders another certificate, keeps it and gives it.
    pub(crate) async fn order(
        &self,
        replaces: Option<CertificateIdentifier<'static>>,
    ) -> Result<Usable, Error> {
        let limit = self.config.order_time_max;
        let ordered = async {
            match self.order_as(&self.account().await?, replaces.clone()).await {
                Err(Refusal { of_account: true, error }) => {
                    tracing::warn!(%error, "the authority does not know the account, another one is made");
                    self.forget_account()?;
                    Ok(self.order_as(&self.account().await?, replaces).await?)
                }
                ordered => Ok(ordered?),
            }
        };
        match tokio::time::timeout(limit, ordered).await {
            Ok(ordered) => ordered,
            Err(_) => Err(Error::TimedOut(limit)),
        }
    }

    /// The account at the authority: the one that is kept, or a new one.
    pub(crate) async fn account(&self) -> Result<Account, Error> {
        if let Some(account) = self.account.lock().clone() {
            return Ok(account);
        }
        let kept: Option<KeptAccount> = self.store.read(ACCOUNT)?;
        let kept = kept.filter(|kept| kept.directory == self.config.directory);
        let contacts: Vec<&str> = self.config.contacts.iter().map(String::as_str).collect();
        let builder = || Account::builder_with_http(Box::new(self.web.clone()));
        let known = match kept {
            Some(kept) => self.known(kept, &contacts).await?,
            None => None,
        };
        let account = if let Some(account) = known {
            account
        } else {
            let new = NewAccount {
                contact: &contacts,
                terms_of_service_agreed: self.config.terms_agreed,
                only_return_existing: false,
            };
            let directory = self.config.directory.clone();
            let (account, credentials) = builder().create(&new, directory.clone(), None).await?;
            self.keep_account(directory, credentials);
            tracing::info!(
                account = account.id(),
                "an account at the certificate authority is made"
            );
            account
        };
        *self.account.lock() = Some(account.clone());
        Ok(account)
    }

    /// The kept account with the contacts of now; nothing where the authority does not know it any more.
    async fn known(&self, kept: KeptAccount, contacts: &[&str]) -> Result<Option<Account>, Error> {
        let KeptAccount { contacts: known, credentials, directory } = kept;
        let text = serde_json::to_vec(&credentials);
        let builder = Account::builder_with_http(Box::new(self.web.clone()));
        let account = builder.from_credentials(credentials).await?;
        if known != self.config.contacts {
            match account.update_contacts(contacts).await {
                Err(error) if is(&error, NO_SUCH_ACCOUNT) => return Ok(None),
                updated => updated?,
            }
            let credentials = text.and_then(|text| serde_json::from_slice(&text));
            self.keep_account(directory, credentials.map_err(instant_acme::Error::from)?);
        }
        Ok(Some(account))
    }

    /// It is good also where it cannot be kept; the next start makes another one then.
    fn keep_account(&self, directory: String, credentials: AccountCredentials) {
        let contacts = self.config.contacts.clone();
        let kept = KeptAccount { directory, contacts, credentials };
        if let Err(error) = self.store.write(ACCOUNT, &kept) {
            tracing::error!(%error, "the account at the certificate authority is not kept");
        }
    }

    fn forget_account(&self) -> Result<(), Error> {
        *self.account.lock() = None;
        self.store.remove(ACCOUNT)
    }

    async fn order_as(
        &self,
        account: &Account,
        replaces: Option<CertificateIdentifier<'static>>,
    ) -> Result<Usable, Refusal> {
        let domains = &self.config.domains;
        let names: Vec<_> = domains.iter().cloned().map(Identifier::Dns).collect();
        let new = NewOrder::new(&names);
        let mut order = match replaces {
            None => account.new_order(&new).await?,
            // What it replaces is a hint; one that the authority does not take costs nobody a certificate.
            Some(replaces) => {
                match account.new_order(&NewOrder::new(&names).replaces(replaces)).await {
                    Err(error) if !is(&error, RATE_LIMITED) => account.new_order(&new).await?,
                    order => order?,
                }
            }
        };
        // The answers go when this ends, however it does.
        let prepared = self.answers.prepare();
        self.answer(&mut order, &prepared).await?;
        let waits = RetryPolicy::new().backoff(1.5).timeout(self.config.order_time_max);
        let ready = order.poll_ready(&waits).await;
        if !matches!(ready, Ok(OrderStatus::Ready)) {
            // What was seen at a name says more than what became of the order.
            if let Some(reason) = self.reason(&mut order).await.ok().flatten() {
                return Err(reason.into());
            }
            let status = format!("the order is {:?}", ready?).to_lowercase();
            return Err(Error::Authority(status).into());
        }
        let key = order.finalize().await?;
        let chain = order.poll_certificate(&waits).await?;
        let directory = self.config.directory.clone();
        let kept = Kept { directory, domains: domains.clone(), chain, key };
        let usable = kept.usable()?;
        // It is as good as one that is kept, until the next start; an order each time would use up what the authority gives.
        if let Err(error) = self.store.write(CERTIFICATE, &kept) {
            tracing::error!(%error, "the certificate is shown, but is not kept");
        }
        Ok(usable)
    }

    /// Prepares what the authority will ask for, and says that it may.
    async fn answer(&self, order: &mut Order, prepared: &Prepared<'_>) -> Result<(), Refusal> {
        let wanted = self.config.challenge;
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            let name = authorization.identifier().to_string();
            match authorization.status {
                AuthorizationStatus::Pending => {}
                AuthorizationStatus::Valid => continue,
                status => {
                    let reason = format!("its authorization is {status:?}").to_lowercase();
                    return Err(Error::NotValidated { name, reason }.into());
                }
            }
            let kind = match wanted {
                Challenge::Http01 => ChallengeType::Http01,
                Challenge::TlsAlpn01 => ChallengeType::TlsAlpn01,
            };
            let Some(mut challenge) = authorization.challenge(kind) else {
                return Err(Error::NotOffered { name, challenge: wanted.as_str() }.into());
            };
            let said = challenge.key_authorization();
            match wanted {
                Challenge::Http01 => prepared.http(&challenge.token, said.as_str()),
                Challenge::TlsAlpn01 => prepared.tls(&name, said.digest().as_ref())?,
            }
            challenge.set_ready().await?;
        }
        Ok(())
    }

    /// Why an order came to nothing, as the authority saw it at the first name that it did not find here.
    async fn reason(&self, order: &mut Order) -> Result<Option<Error>, Refusal> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.refresh().await?.status != AuthorizationStatus::Invalid {
                continue;
            }
            let fault = authorization.challenges.iter().find_map(|it| it.error.as_ref());
            if let Some(fault) = fault {
                let name = authorization.identifier().to_string();
                return Ok(Some(Error::NotValidated { name, reason: told(fault) }));
            }
        }
        Ok(None)
    }
}

/// Why there was no certificate, and whether it is the account that is not known.
struct Refusal {
    error: Error,
    of_account: bool,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { error, of_account: false }
    }
}

impl From<instant_acme::Error> for Refusal {
    fn from(error: instant_acme::Error) -> Self {
        let of_account = is(&error, NO_SUCH_ACCOUNT);
        Self { of_account, error: error.into() }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        refusal.error
    }
}

fn is(error: &instant_acme::Error, kind: &str) -> bool {
    matches!(error, instant_acme::Error::Api(problem) if problem.r#type.as_deref() == Some(kind))
}
