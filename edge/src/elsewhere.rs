use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base::ErrorKind;

use crate::problem::Error;

/// A door that only says where the real one is. What was to be changed is refused: it came in the clear.
pub fn elsewhere(url: &str) -> Router {
    let url = url.trim_end_matches('/').to_owned();
    Router::new().fallback(move |request: Request| {
        let url = url.clone();
        async move { answer(&url, &request) }
    })
}

fn answer(url: &str, request: &Request) -> Response {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let place = HeaderValue::from_str(&format!("{url}{path}"));
    match (request.method(), place) {
        (&Method::GET | &Method::HEAD, Ok(place)) => {
            (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, place)]).into_response()
        }
        _ => {
            Error::new(ErrorKind::Forbidden, format!("this is for HTTPS, at {url}")).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn readers_are_sent_on_and_writers_are_refused() {
        for (method, path, status, place) in [
            ("GET", "/a?b=c", 308, Some("https://x.example/a?b=c")),
            ("HEAD", "/", 308, Some("https://x.example/")),
            ("GET", "//evil.example", 308, Some("https://x.example//evil.example")),
            ("POST", "/v1/session", 403, None),
        ] {
            let request = Request::builder().method(method).uri(path).header("host", "evil");
            let request = request.body(Body::empty()).unwrap();
            let answer = elsewhere("https://x.example/").oneshot(request).await.unwrap();
            assert_eq!(answer.status().as_u16(), status);
            let found = answer.headers().get("location").map(|it| it.to_str().unwrap());
            assert_eq!(found, place);
        }
    }
}
