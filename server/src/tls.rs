//! `[tls]`: what doors show, from files that may change while the server runs.

mod lifetime;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base::{Base, Timestamp, Tls};
use jiff::fmt::serde::unsigned_duration::friendly::compact::required as text;
use parking_lot::RwLock;
use prometheus_client::metrics::gauge::Gauge;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// With a certificate and a key every door is there under TLS too.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// A PEM file: the certificate, and behind it those that lead to its authority.
    pub(crate) certificate: Option<PathBuf>,
    /// A PEM file: the certificate's private key.
    pub(crate) key: Option<PathBuf>,
    /// How often the two files are looked at; what changed is shown to those who come from then on.
    #[serde(with = "text")]
    pub(crate) check_every: Duration,
    /// A PEM file of authorities: who comes to MQTT under TLS shows a certificate of one of them, beside the key.
    pub(crate) mqtt_client_authorities: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            certificate: None,
            key: None,
            check_every: Duration::from_secs(5),
            mqtt_client_authorities: None,
        }
    }
}

/// Files that are longer are not read.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What each door shows. They share the certificate.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) http: Tls,
    pub(crate) mqtt: Tls,
    /// Of protocols that have nothing to agree on.
    pub(crate) other: Tls,
    files: Arc<Files>,
}

/// The two files, and what of them is shown.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    check_every: Duration,
    seen: RwLock<Seen>,
    current: Arc<Current>,
    /// When the certificate ends, in seconds since 1970.
    end: Gauge,
}

/// What the files held when they were looked at last, whether it could be used or not.
#[derive(PartialEq, Eq, Clone, Copy)]
struct Seen([u8; 32]);

/// The certificate that is shown, and its key.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

impl Shown {
    /// Reads the files; nothing where the configuration names none.
    pub(crate) fn open(config: &Config, base: &Base) -> Result<Option<Self>> {
        let (certificate, key) = match (&config.certificate, &config.key) {
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
            (None, None) if config.mqtt_client_authorities.is_none() => return Ok(None),
            _ => bail!("[tls] certificate and key go together"),
        };
        ensure!(!config.check_every.is_zero(), "[tls] check_every is zero");
        let provider = Arc::new(ring::default_provider());
        let (seen, found) = read(&certificate, &key)?;
        let found = usable(&found, &provider)?;
        let now = base.clock.now();
        if let Some(end) = found.end.filter(|end| *end <= now) {
            tracing::warn!(%end, file = %certificate.display(), "the certificate has ended");
        }
        let end = Gauge::default();
        let about =
            "When the certificate that doors show ends, in seconds since 1970; 0 is unknown";
        base.metrics.register("madang_tls_certificate_end_seconds", about, end.clone());
        end.set(seconds(found.end));
        let current = Arc::new(Current(RwLock::new(Arc::new(found.certified))));
        let authorities = config.mqtt_client_authorities.as_deref();
        let verifier = authorities.map(|file| clients_of(file, &provider)).transpose()?;
        let door = |alpn: &[&[u8]], verifier| door(&provider, &current, alpn, verifier);
        Ok(Some(Self {
            http: door(&[b"h2".as_slice(), b"http/1.1"], None)?,
            mqtt: door(&[], verifier)?,
            other: door(&[], None)?,
            files: Arc::new(Files {
                certificate,
                key,
                check_every: config.check_every,
                seen: RwLock::new(seen),
                current,
                end,
            }),
        }))
    }

    /// Looks at the files for as long as the server runs.
    pub(crate) async fn follow(self, base: Base) -> Result<(), base::Failure> {
        loop {
            base.clock.sleep(self.files.check_every).await;
            let (files, now) = (self.files.clone(), base.clock.now());
            tokio::task::spawn_blocking(move || files.look(now)).await?;
        }
    }
}

impl Files {
    /// Takes over what the files hold now. What cannot be used changes nothing, and is told once.
    fn look(&self, now: Timestamp) {
        let (seen, found) = match read(&self.certificate, &self.key) {
            Ok(found) => found,
            Err(error) => {
                // A file may be gone for the moment in which another takes its place; it is told again when it stays.
                let unread = Seen(Sha256::digest(format!("{error:#}")).into());
                if std::mem::replace(&mut *self.seen.write(), unread) == unread {
                    return;
                }
                tracing::error!("the certificate stays as it was: {error:#}");
                return;
            }
        };
        if std::mem::replace(&mut *self.seen.write(), seen) == seen {
            return;
        }
        let usable = usable(&found, &ring::default_provider()).and_then(|found| {
            let has_ended = found.end.is_some_and(|end| end <= now);
            ensure!(!has_ended, "{}: it has ended", self.certificate.display());
            Ok(found)
        });
        match usable {
            Ok(found) => {
                let end = found.end.map(|end| end.to_string());
                self.end.set(seconds(found.end));
                *self.current.0.write() = Arc::new(found.certified);
                tracing::info!(end, "another certificate is shown from now on");
            }
            Err(error) => tracing::error!("the certificate stays as it was: {error:#}"),
        }
    }
}

/// What the two files hold.
struct Found<'a> {
    certificate: (&'a Path, Vec<u8>),
    key: (&'a Path, Vec<u8>),
}

struct Usable {
    certified: CertifiedKey,
    end: Option<Timestamp>,
}

fn read<'a>(certificate: &'a Path, key: &'a Path) -> Result<(Seen, Found<'a>)> {
    let (chain, private) = (file(certificate)?, file(key)?);
    let digest = Sha256::new()
        .chain_update(chain.len().to_le_bytes())
        .chain_update(&chain)
        .chain_update(&private)
        .finalize();
    Ok((Seen(digest.into()), Found { certificate: (certificate, chain), key: (key, private) }))
}

fn file(path: &Path) -> Result<Vec<u8>> {
    let read = || {
        let file = std::fs::File::open(path)?;
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(file, FILE_BYTES_MAX), &mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    read().with_context(|| format!("[tls] read {}", path.display()))
}

fn usable(found: &Found<'_>, provider: &CryptoProvider) -> Result<Usable> {
    let (path, pem) = &found.certificate;
    let chain = certificates(path, pem)?;
    let end = lifetime::end_of(&chain[0]);
    let (path, pem) = &found.key;
    let key = PrivateKeyDer::from_pem_slice(pem);
    let key = key.with_context(|| format!("[tls] {} holds no private key", path.display()))?;
    let certified = CertifiedKey::from_der(chain, key, provider);
    let certified =
        certified.with_context(|| format!("[tls] {} and its certificate", path.display()))?;
    Ok(Usable { certified, end })
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.with_context(|| format!("[tls] {} is no PEM", path.display()))?;
    ensure!(!chain.is_empty(), "[tls] {} holds no certificate", path.display());
    Ok(chain)
}

/// Whoever has a certificate of the authorities in a file.
fn clients_of(path: &Path, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(path, &file(path)?)? {
        let added = roots.add(authority);
        added.with_context(|| format!("[tls] {} holds no authority", path.display()))?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    verifier.with_context(|| format!("[tls] {}", path.display()))
}

fn door(
    provider: &Arc<CryptoProvider>,
    current: &Arc<Current>,
    alpn: &[&[u8]],
    verifier: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<Tls> {
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .context("[tls]")?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(current.clone());
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // Who comes back shows a ticket in place of a signature of ours; nothing is kept for that.
    config.ticketer = ring::Ticketer::new().context("[tls] tickets")?;
    Ok(Tls::new(Arc::new(config)))
}

fn seconds(moment: Option<Timestamp>) -> i64 {
    moment.map_or(0, |moment| moment.millis() / 1_000)
}

#[cfg(test)]
mod tests;
