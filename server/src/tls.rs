//! `[tls]`: what doors show, from files that may change while the server runs, or from an authority that speaks ACME.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base::{Base, Failure, Timestamp, Tls};
use certificates::{ACME_TLS, Certificates, Challenge, Validity};
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

/// With a certificate and a key, or with an authority that issues them, every door is there under TLS too.
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
    /// In place of the two files: where certificates are ordered.
    pub(crate) acme: certificates::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            certificate: None,
            key: None,
            check_every: Duration::from_secs(5),
            mqtt_client_authorities: None,
            acme: certificates::Config::default(),
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
    source: Source,
}

/// Where the certificate is from.
#[derive(Clone)]
enum Source {
    Files(Arc<Files>),
    Authority(Certificates),
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
    /// Reads the files, or what an authority issued before; nothing where the configuration names neither.
    pub(crate) fn open(config: &Config, data_dir: &Path, base: &Base) -> Result<Option<Self>> {
        if config.acme.is_on() {
            let has_files = config.certificate.is_some() || config.key.is_some();
            ensure!(!has_files, "[tls] certificate and key exclude acme.domains");
            let (folder, keys) =
                (data_dir.join("certificates"), data_dir.join("keys/certificates"));
            let made = Certificates::open(config.acme.clone(), &folder, &keys, base)?;
            // Whoever offers this protocol first would else be spoken HTTP to in it.
            let asked = matches!(made.challenge(), Challenge::TlsAlpn01).then_some(ACME_TLS);
            let resolver = made.resolver();
            return Self::show(config, &resolver, asked, Source::Authority(made)).map(Some);
        }
        let (certificate, key) = match (&config.certificate, &config.key) {
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
            (None, None) if config.mqtt_client_authorities.is_none() => return Ok(None),
            _ => bail!("[tls] certificate and key go together"),
        };
        ensure!(!config.check_every.is_zero(), "[tls] check_every is zero");
        let (seen, found) = read(&certificate, &key)?;
        let found = usable(&found, &ring::default_provider())?;
        let now = base.clock.now();
        if let Some(end) = found.end.filter(|end| *end <= now) {
            tracing::warn!(%end, file = %certificate.display(), "the certificate has ended");
        }
        let about =
            "When the certificate that doors show ends, in seconds since 1970; 0 is unknown";
        let end = base.metrics.register("tls_certificate_end_seconds", about, Gauge::default());
        end.set(seconds(found.end));
        let current = Arc::new(Current(RwLock::new(Arc::new(found.certified))));
        let resolver: Arc<dyn ResolvesServerCert> = current.clone();
        let files = Files {
            certificate,
            key,
            check_every: config.check_every,
            seen: RwLock::new(seen),
            current,
            end,
        };
        Self::show(config, &resolver, None, Source::Files(Arc::new(files))).map(Some)
    }

    fn show(
        config: &Config,
        resolver: &Arc<dyn ResolvesServerCert>,
        asked: Option<&'static [u8]>,
        source: Source,
    ) -> Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let authorities = config.mqtt_client_authorities.as_deref();
        let verifier = authorities.map(|file| clients_of(file, &provider)).transpose()?;
        let door = |alpn: &[&[u8]], verifier| door(&provider, resolver, alpn, verifier);
        let spoken: Vec<&[u8]> = [b"h2".as_slice(), b"http/1.1"].into_iter().chain(asked).collect();
        Ok(Self {
            http: door(&spoken, None)?,
            mqtt: door(&[], verifier)?,
            other: door(&[], None)?,
            source,
        })
    }

    /// Looks at the files, or sees to the certificate, for as long as the server runs.
    pub(crate) async fn follow(self, base: Base) -> Result<(), Failure> {
        let files = match &self.source {
            Source::Files(files) => files,
            Source::Authority(certificates) => return certificates.keep().await,
        };
        loop {
            base.clock.sleep(files.check_every).await;
            let (files, now) = (files.clone(), base.clock.now());
            tokio::task::spawn_blocking(move || files.look(now)).await?;
        }
    }

    /// What answers an authority that asks the bare HTTP door, where it is told to ask there.
    pub(crate) fn answers(&self) -> Option<Certificates> {
        self.authority().filter(|made| made.challenge() == Challenge::Http01)
    }

    /// Who orders the certificate, where it is not from files.
    pub(crate) fn authority(&self) -> Option<Certificates> {
        match &self.source {
            Source::Files(_) => None,
            Source::Authority(certificates) => Some(certificates.clone()),
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
    let end = Validity::of(&chain[0]).map(|validity| validity.end);
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
    resolver: &Arc<dyn ResolvesServerCert>,
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
    let mut config = builder.with_cert_resolver(resolver.clone());
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
