use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;

use parking_lot::RwLock;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::Error;

/// The protocol by which an authority asks a TLS door (RFC 8737).
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// What doors show, and what they answer to an authority that asks whether names lead here.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    current: RwLock<Option<Arc<CertifiedKey>>>,
    http: RwLock<HashMap<String, String>>,
    tls: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

/// Answers that are there until it is dropped.
pub(crate) struct Prepared<'a>(&'a Answers);

impl Answers {
    pub(crate) fn show(&self, certified: Arc<CertifiedKey>) {
        *self.current.write() = Some(certified);
    }

    pub(crate) fn shown(&self) -> Option<Arc<CertifiedKey>> {
        self.current.read().clone()
    }

    pub(crate) fn http(&self, token: &str) -> Option<String> {
        self.http.read().get(token).cloned()
    }

    pub(crate) fn prepare(&self) -> Prepared<'_> {
        Prepared(self)
    }
}

impl Prepared<'_> {
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.http.read().is_empty() && self.0.tls.read().is_empty()
    }

    pub(crate) fn http(&self, token: &str, answer: &str) {
        self.0.http.write().insert(token.to_owned(), answer.to_owned());
    }

    /// A certificate that only says this digest (RFC 8737, section 3).
    pub(crate) fn tls(&self, name: &str, digest: &[u8]) -> Result<(), Error> {
        let made = || {
            let mut params = CertificateParams::new(vec![name.to_owned()])?;
            params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
            let key = KeyPair::generate()?;
            let certificate = params.self_signed(&key)?;
            Ok::<_, rcgen::Error>((certificate.der().clone(), key.serialize_der()))
        };
        let unusable = |error: &dyn Display| Error::Unusable(format!("for the challenge: {error}"));
        let (certificate, key) = made().map_err(|error| unusable(&error))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        let key = ring::sign::any_supported_type(&key).map_err(|error| unusable(&error))?;
        // Not compared with its key: nobody but an authority reads what it says, so the reader of `rustls` refuses it.
        let certified = CertifiedKey::new(vec![certificate], key);
        self.0.tls.write().insert(name.to_owned(), Arc::new(certified));
        Ok(())
    }
}

impl Drop for Prepared<'_> {
    fn drop(&mut self) {
        self.0.http.write().clear();
        self.0.tls.write().clear();
    }
}

impl ResolvesServerCert for Answers {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Who asks so gets the answer or nothing, never the certificate of everybody.
        if hello.alpn().is_some_and(|mut names| names.any(|name| name == ACME_TLS)) {
            return self.tls.read().get(hello.server_name()?).cloned();
        }
        self.shown()
    }
}

/// A certificate with its key, if they belong together.
pub(crate) fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, String> {
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| error.to_string())
}
