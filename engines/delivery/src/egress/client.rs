//! The one HTTP client for whatever leaves the house.
//!
//! A request has a connection of its own, to an address that was judged for this request: no pool, no redirects, no
//! proxy (its variables are not read), no cookies. The head of the answer decides; of its body only the first bytes
//! are read.

use std::convert::Infallible;
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::header::{
    CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::names::{Names, SystemNames};
use super::{Egress, Target};
use crate::Error;

/// Bytes of an answer's head; it ends the request when it is longer.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 100;
/// Nobody needs more to say a number of seconds or a date.
const RETRY_AFTER_BYTES_MAX: usize = 64;

/// Posts to URLs that others chose; cloning shares it.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    egress: Egress,
    names: Arc<dyn Names>,
    tls: TlsConnector,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Without a body.
    Get,
    Post,
}

/// What is posted, or asked for without a body.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    pub target: &'a Target,
    pub content_type: &'static str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// As the server wrote it.
    pub retry_after: Option<String>,
    /// The first bytes.
    pub body: Vec<u8>,
    /// There was more, or the rest did not come.
    pub is_cut: bool,
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

impl Client {
    /// Reads the certificate authorities that the configuration names.
    pub async fn open(egress: Egress) -> Result<Self, Error> {
        Self::with_names(egress, Arc::new(SystemNames)).await
    }

    pub(crate) async fn with_names(egress: Egress, names: Arc<dyn Names>) -> Result<Self, Error> {
        let more = egress.certificate_authorities.clone();
        let tls = tokio::task::spawn_blocking(move || base::trusting(more.as_deref())).await;
        let tls = tls.unwrap_or_else(|error| Err(io::Error::other(error)));
        let wrong = |error| Error::Config(format!("egress.certificate_authorities: {error}"));
        let tls = TlsConnector::from(Arc::new(tls.map_err(wrong)?));
        Ok(Self(Arc::new(Inner { egress, names, tls })))
    }

    pub fn egress(&self) -> &Egress {
        &self.0.egress
    }

    /// Posts once. Any answer is `Ok`, whatever its status; an error means that none came.
    pub async fn post(&self, request: &Request<'_>) -> Result<Answer, Error> {
        self.ask(Verb::Post, request, self.0.egress.answer_bytes_max).await
    }

    /// Asks once, and reads so much of the answer's body. Any answer is `Ok`, whatever its status.
    pub async fn ask(
        &self,
        verb: Verb,
        request: &Request<'_>,
        body_bytes_max: usize,
    ) -> Result<Answer, Error> {
        let limit = self.0.egress.request_time_max;
        let mut answer = None;
        let asked = self.exchange((verb, body_bytes_max), request, &mut answer);
        let ended = tokio::time::timeout(limit, asked).await;
        // With the head the receiver has decided; a body that stalls or breaks off takes nothing back.
        answer.ok_or_else(|| match ended {
            Ok(Err(error)) => error,
            Ok(Ok(())) => broken(request.target, &"it ended without an answer"),
            Err(_) => Error::TimedOut { host: request.target.host().to_owned(), limit },
        })
    }

    async fn exchange(
        &self,
        (verb, body_max): (Verb, usize),
        request: &Request<'_>,
        answer: &mut Option<Answer>,
    ) -> Result<(), Error> {
        let target = request.target;
        let stream = self.connect(target).await?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
        let made = builder.handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = made.map_err(|error| broken(target, &error))?;
        let driven = async move {
            if let Err(error) = connection.await {
                tracing::debug!(host = target.host(), %error, "a connection broke");
            }
            // What ended it is told by the request itself.
            std::future::pending::<Infallible>().await
        };
        let asked = async move {
            let sent = sender.send_request(head(verb, request)?).await;
            let (parts, mut body) = sent.map_err(|error| broken(target, &error))?.into_parts();
            let retry_after = parts.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let found = answer.insert(Answer {
                status: parts.status.as_u16(),
                retry_after: retry_after
                    .filter(|text| text.len() <= RETRY_AFTER_BYTES_MAX)
                    .map(str::to_owned),
                body: Vec::new(),
                is_cut: true,
            });
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { return Ok(()) };
                let Some(data) = frame.data_ref() else { continue };
                let room = body_max - found.body.len();
                found.body.extend_from_slice(&data[..data.len().min(room)]);
                if data.len() > room {
                    return Ok(());
                }
            }
            found.is_cut = false;
            Ok(())
        };
        tokio::select! {
            biased;
            ended = asked => ended,
            never = driven => match never {},
        }
    }

    /// A connection to an address that is judged here and now. The name is asked for once.
    async fn connect(&self, target: &Target) -> Result<Box<dyn Wire>, Error> {
        let limit = self.0.egress.connect_time_max;
        let connecting = async {
            let (host, port) = (target.host(), target.port());
            let found = match host.parse::<IpAddr>() {
                Ok(address) => vec![SocketAddr::new(address, port)],
                Err(_) => self
                    .0
                    .names
                    .addresses(host, port)
                    .await
                    .map_err(|source| Error::Unresolved { host: host.to_owned(), source })?,
            };
            let allowed = self.0.egress.judged(host, found)?;
            let stream = Egress::reach((host, port), allowed, limit).await?;
            if !target.is_tls() {
                return Ok(Box::new(stream) as Box<dyn Wire>);
            }
            let untrusted = |reason: &dyn Display| Error::Tls {
                host: host.to_owned(),
                reason: reason.to_string(),
            };
            let name = ServerName::try_from(host.to_owned()).map_err(|error| untrusted(&error))?;
            let stream = self.0.tls.connect(name, stream).await;
            Ok(Box::new(stream.map_err(|error| untrusted(&error))?) as Box<dyn Wire>)
        };
        match tokio::time::timeout(limit, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(Error::Unreachable {
                host: target.host().to_owned(),
                port: target.port(),
                source: io::Error::from(io::ErrorKind::TimedOut),
            }),
        }
    }
}

fn head(verb: Verb, request: &Request<'_>) -> Result<hyper::Request<Full<Bytes>>, Error> {
    let target = request.target;
    let path = target.path_and_query();
    let mut made = match verb {
        Verb::Get => hyper::Request::get(path),
        Verb::Post => hyper::Request::post(path)
            .header(CONTENT_TYPE, HeaderValue::from_static(request.content_type)),
    };
    made = made
        .header(HOST, target.authority())
        .header(USER_AGENT, concat!("Madang/", env!("CARGO_PKG_VERSION")))
        .header(CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in &request.headers {
        made = made.header(HeaderName::from_static(name), value);
    }
    let body = match verb {
        Verb::Get => Bytes::new(),
        Verb::Post => request.body.clone(),
    };
    made.body(Full::new(body)).map_err(|error| broken(target, &error))
}

fn broken(target: &Target, reason: &dyn Display) -> Error {
    Error::Broken { host: target.host().to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests;
