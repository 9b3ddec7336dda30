//! Where a request ends, and whom it is for: what two servers in a row could read differently is not answered, so that nobody
//! hides one request in another (RFC 9112, sections 3.2, 6.1 and 11.2).
//!
//! hyper refuses what cannot be read at all: lengths that differ, folded headers, a last coding other than `chunked`.

use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, Version, header, uri};
use axum::response::Response;
use base::ErrorKind;

use crate::problem::{Error, Result};

/// How one request of HTTP/1 stands on its connection.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Framing {
    fault: Option<Fault>,
    /// It came in chunks. It may also have said a length, which hyper has dropped by then; so the connection ends with the answer.
    is_chunked: bool,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    Host,
    Coding,
}

impl Framing {
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        if request.version() > Version::HTTP_11 {
            return Self::default();
        }
        let headers = request.headers();
        let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
        let fault = if !has_a_host(headers, request.version()) {
            Some(Fault::Host)
        } else if is_chunked && !is_in_chunks_only(headers) {
            Some(Fault::Coding)
        } else {
            None
        };
        Self { fault, is_chunked }
    }

    pub(crate) fn check(self) -> Result<()> {
        match self.fault {
            None => Ok(()),
            Some(Fault::Host) => {
                Err(Error::unreadable("a request names its host, once, as a name or an address"))
            }
            Some(Fault::Coding) => Err(Error::with_status(
                ErrorKind::Invalid,
                StatusCode::NOT_IMPLEMENTED,
                "a body comes as it is, or in chunks and nothing else",
            )),
        }
    }

    /// Whether another request may follow.
    pub(crate) fn finish(self, response: &mut Response) {
        if self.is_chunked || self.fault.is_some() {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

/// HTTP/1.0 may leave it out.
fn has_a_host(headers: &HeaderMap, version: Version) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return version < Version::HTTP_11 && !headers.contains_key(header::HOST);
    };
    let authority = host.to_str().ok().and_then(|host| host.parse::<uri::Authority>().ok());
    authority.is_some_and(|it| !it.host().is_empty() && !it.as_str().contains('@'))
}

fn is_in_chunks_only(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let (Some(coding), None) = (codings.next(), codings.next()) else { return false };
    coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(version: Version, headers: &[(&str, &str)]) -> Option<Fault> {
        let mut request = Request::builder().version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Framing::of(&request.body(()).unwrap()).fault
    }

    #[test]
    fn a_request_names_its_host_once() {
        for hosts in [&["here"][..], &["here:8080"], &["[::1]:8080"], &["127.0.0.1"]] {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            assert!(fault(Version::HTTP_11, &headers).is_none(), "{hosts:?}");
        }
        for hosts in [&[][..], &[""], &["a b"], &["a/b"], &["me@here"], &["here", "here"]] {
            let headers: Vec<_> = hosts.iter().map(|host| ("host", *host)).collect();
            assert!(fault(Version::HTTP_11, &headers).is_some(), "{hosts:?}");
        }
        assert!(fault(Version::HTTP_10, &[]).is_none());
        assert!(fault(Version::HTTP_10, &[("host", "a"), ("host", "b")]).is_some());
        assert!(fault(Version::HTTP_2, &[]).is_none(), "it has `:authority`");
    }

    #[test]
    fn a_body_comes_in_chunks_and_no_other_coding() {
        let coded = |codings: &[&str]| {
            let codings = codings.iter().map(|it| ("transfer-encoding", *it));
            let headers: Vec<_> = [("host", "here")].into_iter().chain(codings).collect();
            fault(Version::HTTP_11, &headers)
        };
        assert!(coded(&["chunked"]).is_none() && coded(&[" Chunked"]).is_none());
        for codings in [&["gzip, chunked"][..], &["identity", "chunked"], &["chunked", "chunked"]] {
            assert!(coded(codings).is_some(), "{codings:?}");
        }
    }
}
