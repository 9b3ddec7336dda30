//! What browsers get from this server: the widget, its sign-in page and a page to try it on.

use std::sync::LazyLock;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base::ErrorKind;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use edge::{Operation, Query, Routes, State, Undeclared, escape, knows, takes_gzip};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{Comments, Error};

/// What the build script made of a file.
macro_rules! packed {
    ($name:literal, $content_type:expr) => {
        LazyLock::new(|| {
            let plain = include_bytes!(concat!(env!("OUT_DIR"), "/", $name));
            let gzip = include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".gz"));
            File::new(plain, gzip, $content_type)
        })
    };
}

const SIGN_IN: &str = include_str!("../widget/sign-in.html");
const DEMO: &str = include_str!("../widget/demo.html");

const SCRIPT_TYPE: &str = "text/javascript; charset=utf-8";
static WIDGET: LazyLock<File> = packed!("comments.js", SCRIPT_TYPE);
static SIGN_IN_SCRIPT: LazyLock<File> = packed!("sign-in.js", SCRIPT_TYPE);
static STYLE: LazyLock<File> = packed!("pages.css", "text/css; charset=utf-8");

/// A file that is the same for everybody.
struct File {
    plain: &'static [u8],
    gzip: &'static [u8],
    tag: String,
    content_type: &'static str,
}

impl File {
    fn new(plain: &'static [u8], gzip: &'static [u8], content_type: &'static str) -> Self {
        let tag = format!("W/\"{}\"", URL_SAFE_NO_PAD.encode(&Sha256::digest(plain)[..16]));
        Self { plain, gzip, tag, content_type }
    }
}

pub(crate) fn routes(routes: Routes<Comments>) -> Routes<Comments> {
    let of = |place: Undeclared| place.tag("comments");
    routes
        .add(
            of(Operation::get("/comments/widget.js"))
                .id("readWidget")
                .summary("The script that a page embeds.")
                .public()
                .cross_origin()
                .media("text/javascript"),
            |headers: HeaderMap| async move { file(&WIDGET, &headers) },
        )
        .add(
            of(Operation::get("/comments/sign-in.js"))
                .id("readSignInScript")
                .summary("The script of the sign-in page.")
                .public()
                .media("text/javascript"),
            |headers: HeaderMap| async move { file(&SIGN_IN_SCRIPT, &headers) },
        )
        .add(
            of(Operation::get("/comments/pages.css"))
                .id("readPagesStyle")
                .summary("The style of the sign-in page and of the demo.")
                .public()
                .media("text/css"),
            |headers: HeaderMap| async move { file(&STYLE, &headers) },
        )
        .add(
            of(Operation::get("/comments/sign-in"))
                .id("showSignIn")
                .summary("Where the widget's window signs in: on this origin, where no cookie is a third party's.")
                .public()
                .kinds(&[ErrorKind::NotFound])
                .media("text/html"),
            sign_in,
        )
        .add(
            of(Operation::get("/comments/demo"))
                .id("showDemo")
                .summary("A page with the comments of a site, to try them on.")
                .public()
                .kinds(&[ErrorKind::NotFound])
                .media("text/html"),
            demo,
        )
}

/// A file, packed for those who take it; asked for again it costs a 304.
fn file(file: &File, headers: &HeaderMap) -> Response {
    let mut response = if knows(headers, &file.tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if takes_gzip(headers) {
        ([(header::CONTENT_ENCODING, "gzip")], file.gzip).into_response()
    } else {
        file.plain.into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(file.content_type));
    let cache = "public, max-age=300, stale-while-revalidate=86400";
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if let Ok(tag) = HeaderValue::from_str(&file.tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

#[derive(Deserialize, JsonSchema)]
struct SignInQuery {
    /// The site's key.
    site: String,
    /// The origin of the page that gets the token.
    origin: String,
}

#[derive(Deserialize, JsonSchema)]
struct DemoQuery {
    /// The site's key.
    site: String,
    /// `light`, `dark` or `auto`.
    theme: Option<String>,
    /// `ko` or `en`.
    lang: Option<String>,
}

async fn sign_in(
    State(comments): State<Comments>,
    Query(SignInQuery { site, origin }): Query<SignInQuery>,
    headers: HeaderMap,
) -> edge::Result<Response> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let found = comments.site(&site).await?;
    found.welcome(Some(&origin), host)?;
    let words = [("SITE", site), ("ORIGIN", origin), ("NAME", found.settings.name.clone())];
    let mut response = page(SIGN_IN, &words);
    // The page that opened the window is of another origin, and waits for a message.
    let policy = HeaderName::from_static("cross-origin-opener-policy");
    response.headers_mut().insert(policy, HeaderValue::from_static("unsafe-none"));
    Ok(response)
}

async fn demo(
    State(comments): State<Comments>,
    Query(DemoQuery { site, theme, lang }): Query<DemoQuery>,
) -> edge::Result<Response> {
    let found = comments.site(&site).await?;
    let lang = lang.unwrap_or_else(|| "en".to_owned());
    let theme = theme.unwrap_or_else(|| "auto".to_owned());
    if !["en", "ko"].contains(&lang.as_str()) {
        return Err(Error::invalid("lang", "must be ko or en").into());
    }
    if !["auto", "light", "dark"].contains(&theme.as_str()) {
        return Err(Error::invalid("theme", "must be light, dark or auto").into());
    }
    let words =
        [("SITE", site), ("NAME", found.settings.name.clone()), ("THEME", theme), ("LANG", lang)];
    Ok(page(DEMO, &words))
}

/// A page of ours with words put in, each as text.
fn page(template: &str, words: &[(&str, String)]) -> Response {
    let mut pieces = template.split("%%");
    let mut html = pieces.next().unwrap_or_default().to_owned();
    while let (Some(name), Some(rest)) = (pieces.next(), pieces.next()) {
        let word = words.iter().find(|(known, _)| *known == name);
        escape(word.map_or("", |(_, text)| text), &mut html);
        html.push_str(rest);
    }
    let policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
        base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    (headers, html).into_response()
}

#[cfg(test)]
#[path = "../widget/pack.rs"]
mod pack;

#[cfg(test)]
mod tests {
    use super::*;

    /// What all files of the widget may weigh, packed.
    const WIDGET_GZIP_BYTES_MAX: usize = 6 << 10;

    #[test]
    fn the_widget_weighs_no_more_than_promised() {
        let bytes = WIDGET.gzip.len();
        assert!(bytes <= WIDGET_GZIP_BYTES_MAX, "{bytes} bytes");
    }

    #[test]
    fn the_widget_asks_nobody_else_and_makes_no_markup_of_text() {
        for word in [
            "http://",
            "//cdn",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
            "cookie",
            "srcdoc",
        ] {
            let code = std::str::from_utf8(WIDGET.plain).unwrap();
            assert!(!code.contains(word), "{word}");
        }
    }

    #[tokio::test]
    async fn words_are_put_in_as_text() {
        let response = page("<p>%%NAME%%</p>", &[("NAME", "<script>\"".to_owned())]);
        let policy = response.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(!policy.contains("unsafe"), "{policy}");
        let body = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
        assert_eq!(body, "<p>&lt;script&gt;&quot;</p>");
    }
}
