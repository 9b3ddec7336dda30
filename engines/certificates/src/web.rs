//! How the authority is asked: a connection for each request, over TLS only, no redirects.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Timestamp};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, HttpClient};
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{Config, Error};

const HEAD_BYTES_MAX: usize = 16 << 10;

/// Cloning shares it.
#[derive(Clone)]
pub(crate) struct Web(Arc<Inner>);

struct Inner {
    tls: TlsConnector,
    request_time_max: Duration,
    answer_bytes_max: usize,
    clock: Clock,
    /// Until when the authority asked to be left alone.
    not_before: Mutex<Option<Timestamp>>,
}

type Answered = Result<BytesResponse, instant_acme::Error>;

impl Web {
    pub(crate) fn open(config: &Config, clock: Clock) -> Result<Self, Error> {
        let tls = base::trusting(config.certificate_authorities.as_deref())
            .map_err(|error| Error::Config(format!("certificate_authorities: {error}")))?;
        Ok(Self(Arc::new(Inner {
            tls: TlsConnector::from(Arc::new(tls)),
            request_time_max: config.request_time_max,
            answer_bytes_max: config.answer_bytes_max,
            clock,
            not_before: Mutex::new(None),
        })))
    }

    /// Until when the authority asked to be left alone since this was asked last.
    pub(crate) fn take_not_before(&self) -> Option<Timestamp> {
        self.0.not_before.lock().take()
    }

    async fn ask(&self, request: Request<BodyWrapper<Bytes>>) -> Answered {
        let limit = self.0.request_time_max;
        let uri = request.uri().clone();
        let wrong =
            |reason: &dyn Display| instant_acme::Error::Other(format!("{uri}: {reason}").into());
        match tokio::time::timeout(limit, self.exchange(request)).await {
            Ok(Ok((head, body))) => {
                let (status, is_problem) = (head.status, is_object(&body));
                self.note(status, &head.headers);
                // A proxy or a front end that answers instead of the authority says nothing that could be read.
                if (status.is_client_error() || status.is_server_error()) && !is_problem {
                    return Err(wrong(&status));
                }
                Ok(BytesResponse { parts: head, body: Box::new(body) })
            }
            Ok(Err(error)) => Err(wrong(&error)),
            Err(_) => Err(wrong(&format!("no answer within {limit:?}"))),
        }
    }

    async fn exchange(
        &self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> io::Result<(hyper::http::response::Parts, Bytes)> {
        let (host, port) = place(request.uri())?;
        let authority = request.uri().authority().map(|it| HeaderValue::from_str(it.as_str()));
        if let Some(Ok(authority)) = authority {
            request.headers_mut().insert(HOST, authority);
        }
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(io::Error::other)?;
        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
        let stream = TcpStream::connect((host, port)).await?;
        let stream = self.0.tls.connect(name, stream).await?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX);
        let made = builder.handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = made.map_err(io::Error::other)?;
        let driven = async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the authority broke");
            }
            // What ended it is told by the request itself.
            std::future::pending::<()>().await;
        };
        let asked = async move {
            let answer = sender.send_request(request).await.map_err(io::Error::other)?;
            whole(answer, self.0.answer_bytes_max).await
        };
        tokio::select! {
            biased;
            answer = asked => answer,
            () = driven => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// Keeps in mind for how long the authority wants to be left alone.
    fn note(&self, status: StatusCode, headers: &HeaderMap) {
        if !matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            return;
        }
        let text = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let until = text.and_then(|text| moment_of(text, self.0.clock.now()));
        let mut not_before = self.0.not_before.lock();
        *not_before = (*not_before).max(until);
    }
}

async fn whole(
    answer: Response<Incoming>,
    bytes_max: usize,
) -> io::Result<(hyper::http::response::Parts, Bytes)> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, bytes_max).collect().await.map_err(io::Error::other)?;
    Ok((head, body.to_bytes()))
}

fn place(uri: &Uri) -> io::Result<(String, u16)> {
    let wrong = |text: &'static str| io::Error::new(io::ErrorKind::InvalidInput, text);
    if uri.scheme_str() != Some("https") {
        return Err(wrong("it is not for https"));
    }
    let host = uri.host().ok_or_else(|| wrong("there is no host in it"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    Ok((host.to_owned(), uri.port_u16().unwrap_or(443)))
}

fn is_object(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(body).is_ok()
}

/// `Retry-After`: seconds or a date (RFC 9110, section 10.2.3).
fn moment_of(text: &str, now: Timestamp) -> Option<Timestamp> {
    if let Ok(seconds) = text.trim().parse::<u32>() {
        return Some(now.plus(Duration::from_secs(seconds.into())));
    }
    let moment = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    Some(Timestamp::from_millis(moment.timestamp().as_millisecond()))
}

impl HttpClient for Web {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Answered> + Send>> {
        let web = self.clone();
        Box::pin(async move { web.ask(request).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_said_in_seconds_or_as_a_date() {
        let now: Timestamp = "2026-11-01T00:00:00Z".parse().unwrap();
        assert_eq!(moment_of(" 90 ", now), Some(now.plus(Duration::from_secs(90))));
        let date = moment_of("Sun, 01 Nov 2026 08:49:37 GMT", now).unwrap();
        assert_eq!(date, "2026-11-01T08:49:37Z".parse().unwrap());
        for wrong in ["", "-1", "soon", "1e9"] {
            assert_eq!(moment_of(wrong, now), None, "{wrong}");
        }
    }

    #[test]
    fn only_https_is_asked() {
        let place_of = |text: &str| place(&text.parse().unwrap());
        assert_eq!(place_of("https://ca.example/d").unwrap(), ("ca.example".to_owned(), 443));
        assert_eq!(place_of("https://[::1]:14000/d").unwrap(), ("::1".to_owned(), 14000));
        assert!(place_of("http://ca.example/d").is_err() && place_of("/d").is_err());
    }
}
