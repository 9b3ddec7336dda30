//! Certificates of the doors from an authority that speaks ACME (RFC 8555): ordered, kept sealed, shown, and renewed before they end.
//!
//! Names are shown by HTTP-01 or TLS-ALPN-01 (RFC 8737), renewal is by ARI (RFC 9773) where the authority has it. An order that fails takes
//! nothing away: the certificate that is there is shown on, and before the first one nobody is let in under TLS.
//!
//! It opens no door: whoever has one shows [`Certificates::resolver`] and asks [`Certificates::http_answer`]. It does no challenge by DNS, so no
//! wildcards, and shares nothing between nodes. Start at [`Certificates::open`]; when what is due is told in `renewal.rs`.

mod answers;
mod certificate;
mod config;
mod error;
mod order;
mod renewal;
mod store;
#[cfg(test)]
mod tests;
mod web;

use std::path::Path;
use std::sync::Arc;

use base::{Base, Failure, Timestamp};
use instant_acme::Account;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use rustls::server::ResolvesServerCert;

use crate::answers::Answers;
use crate::order::{Kept, Usable};
use crate::renewal::{Attempts, Wish};
use crate::store::{ATTEMPTS, CERTIFICATE, Store};
use crate::web::Web;

pub use answers::ACME_TLS;
pub use certificate::Validity;
pub use config::{Challenge, Config};
pub use error::Error;

/// The certificate of all doors, and who sees to it; cloning shares it.
#[derive(Clone)]
pub struct Certificates(Arc<Inner>);

pub(crate) struct Inner {
    config: Config,
    base: Base,
    store: Store,
    web: Web,
    answers: Arc<Answers>,
    /// Who we are at the authority, once it was asked.
    account: Mutex<Option<Account>>,
    state: Mutex<State>,
    orders: Family<Outcome, Counter>,
    /// When the certificate ends, in seconds since 1970.
    end: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

struct State {
    usable: Option<Usable>,
    /// It has the names, and is of the authority, that the configuration asks for.
    fits: bool,
    attempts: Attempts,
    wish: Option<Wish>,
    phase: Phase,
    next: Option<Timestamp>,
    failure: Option<(Timestamp, String)>,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Waiting,
    Ordering,
}

/// How it stands with the certificate.
#[derive(Debug, Clone)]
pub struct Status {
    pub directory: String,
    pub domains: Vec<String>,
    pub challenge: Challenge,
    /// Of the certificate that is shown.
    pub validity: Option<Validity>,
    pub phase: Phase,
    /// When the next order is made.
    pub next: Option<Timestamp>,
    /// Orders that failed since one did not.
    pub failures: u32,
    /// When and why the last of them failed.
    pub failure: Option<(Timestamp, String)>,
}

impl Certificates {
    /// Checks the configuration and shows what is kept; nothing is asked for until [`Certificates::keep`].
    pub fn open(
        config: Config,
        folder: &Path,
        key_file: &Path,
        base: &Base,
    ) -> Result<Self, Error> {
        config.check()?;
        let web = Web::open(&config, base.clock.clone())?;
        let store = Store::open(folder, key_file, base)?;
        let kept: Option<Kept> = store.read(CERTIFICATE)?;
        let attempts: Option<Attempts> = store.read(ATTEMPTS)?;
        let about = "Orders of a certificate by their outcome.";
        let orders = base.metrics.register("acme_orders", about, Family::default());
        let about =
            "When the certificate that doors show ends, in seconds since 1970; 0 is unknown";
        let end = base.metrics.register("tls_certificate_end_seconds", about, Gauge::default());
        let state = State {
            usable: None,
            fits: false,
            attempts: attempts
                .unwrap_or_default()
                .after_start(base.clock.now(), config.back_off_min),
            wish: None,
            phase: Phase::Waiting,
            next: None,
            failure: None,
        };
        let made = Inner {
            web,
            store,
            base: base.clone(),
            answers: Arc::default(),
            account: Mutex::new(None),
            state: Mutex::new(state),
            orders,
            end,
            config,
        };
        if let Some(kept) = kept {
            let config = &made.config;
            let fits = kept.domains == config.domains && kept.directory == config.directory;
            match kept.usable() {
                Ok(usable) => made.show(usable, fits),
                Err(error) => tracing::error!(%error, "the certificate that was kept is not shown"),
            }
        }
        Ok(Self(Arc::new(made)))
    }

    /// What TLS doors show. Before the first certificate it ends handshakes.
    pub fn resolver(&self) -> Arc<dyn ResolvesServerCert> {
        self.0.answers.clone()
    }

    pub fn challenge(&self) -> Challenge {
        self.0.config.challenge
    }

    /// What is answered at `/.well-known/acme-challenge/TOKEN`; nothing while nobody should ask.
    pub fn http_answer(&self, token: &str) -> Option<String> {
        self.0.answers.http(token)
    }

    /// Orders whenever one is due, for as long as the server runs; may be dropped at any moment.
    pub async fn keep(&self) -> Result<(), Failure> {
        self.0.keep().await
    }

    pub fn status(&self) -> Status {
        let (config, state) = (&self.0.config, self.0.state.lock());
        Status {
            directory: config.directory.clone(),
            domains: config.domains.clone(),
            challenge: config.challenge,
            validity: state.usable.as_ref().map(|usable| usable.validity),
            phase: state.phase,
            next: state.next,
            failures: state.attempts.failures,
            failure: state.failure.clone(),
        }
    }
}

impl Inner {
    fn show(&self, usable: Usable, fits: bool) {
        let now = self.base.clock.now();
        if usable.validity.end <= now {
            tracing::warn!(end = %usable.validity.end, "the certificate that is shown has ended");
        }
        self.end.set(usable.validity.end.millis() / 1_000);
        self.answers.show(usable.certified.clone());
        let mut state = self.state.lock();
        (state.usable, state.fits) = (Some(usable), fits);
        (state.phase, state.failure, state.wish) = (Phase::Waiting, None, None);
    }

    fn orders(&self, is_issued: bool) {
        let outcome = if is_issued { "issued" } else { "failed" };
        self.orders.get_or_create(&Outcome { outcome }).inc();
    }
}
