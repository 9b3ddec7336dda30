//! Whom a connection over the network trusts.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use crate::{Config, Error};

/// Certificates of the machine, and those of `tls_roots`.
pub(crate) fn client(config: &Config) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if let Some(path) = &config.tls_roots {
        let wrong = |error: &dyn std::fmt::Display| {
            Error::Config(format!("tls_roots {}: {error}", path.display()))
        };
        let own = CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
        for certificate in own {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            roots.add(certificate).map_err(|error| wrong(&error))?;
        }
    }
    if roots.is_empty() {
        return Err(Error::Config("there is no root certificate; name one in tls_roots".into()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Config(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// A connection that does not leave the machine needs no TLS.
pub(crate) fn is_local(host: &str) -> bool {
    if host.starts_with('/') || host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    match ServerName::try_from(host) {
        Ok(ServerName::IpAddress(address)) => std::net::IpAddr::from(address).is_loopback(),
        _ => false,
    }
}
