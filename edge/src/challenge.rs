use axum::Router;
use axum::extract::Request;
use axum::http::{Method, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};

/// Where a certificate authority looks whether a name leads here (RFC 8555, section 8.3).
const PLACE: &str = "/.well-known/acme-challenge/";

/// The same, but before all else it answers an authority that asks for a token which `answer` knows. The answer is for everybody: it says
/// nothing but that this door is this door.
pub fn well_known(
    router: Router,
    answer: impl Fn(&str) -> Option<String> + Clone + Send + Sync + 'static,
) -> Router {
    router.layer(middleware::from_fn(move |request: Request, next: Next| {
        let known = token_of(&request).and_then(&answer);
        async move {
            match known {
                Some(text) => said(text),
                None => next.run(request).await,
            }
        }
    }))
}

fn token_of(request: &Request) -> Option<&str> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    request.uri().path().strip_prefix(PLACE).filter(|_| is_read)
}

fn said(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream")], text).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn only_a_token_that_is_known_is_answered_and_all_else_goes_on() {
        let below = crate::elsewhere("https://x.example/");
        let door = well_known(below, |token| (token == "abc").then(|| "abc.def".to_owned()));
        for (method, path, status) in [
            ("GET", "/.well-known/acme-challenge/abc", 200),
            ("HEAD", "/.well-known/acme-challenge/abc", 200),
            ("GET", "/.well-known/acme-challenge/abd", 308),
            ("GET", "/.well-known/acme-challenge/", 308),
            ("GET", "/.well-known/acme-challenge/../abc", 308),
            ("GET", "/abc", 308),
            ("POST", "/.well-known/acme-challenge/abc", 403),
        ] {
            let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
            let answer = door.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status().as_u16(), status, "{method} {path}");
            if method == "GET" && status == 200 {
                let body = axum::body::to_bytes(answer.into_body(), 100).await.unwrap();
                assert_eq!(&body[..], b"abc.def");
            }
        }
    }
}
