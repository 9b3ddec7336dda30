//! Which page a comment stands under: addresses that show the same page have one name.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use url::Url;

use crate::{Error, Result};

const URL_BYTES_MAX: usize = 2_000;

/// Parameters that say how somebody came, not what they see.
const TRACKING: &[&str] = &[
    "_ga",
    "_gl",
    "_hsenc",
    "_hsmi",
    "dclid",
    "fbclid",
    "gad_source",
    "gbraid",
    "gclid",
    "gclsrc",
    "igsh",
    "igshid",
    "li_fat_id",
    "mc_cid",
    "mc_eid",
    "mibextid",
    "mkt_tok",
    "msclkid",
    "n_media",
    "napm",
    "oly_anon_id",
    "oly_enc_id",
    "replytocom",
    "s_cid",
    "srsltid",
    "ttclid",
    "twclid",
    "vero_id",
    "wbraid",
    "wickedid",
    "yclid",
];
const TRACKING_BEGINNINGS: &[&str] = &["utm_", "hsa_", "pk_", "mtm_"];
/// A folder is shown by its index.
const INDEXES: &[&str] = &["index.html", "index.htm", "index.php"];

/// A page by the name that all its addresses share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// Host, and port unless it is a usual one.
    pub authority: String,
    /// Without scheme, slash at the end, fragment and tracking; what remains of the query in order of names.
    pub canonical: String,
    /// An address that shows it, as it was given without fragment and tracking.
    pub url: String,
}

impl Page {
    pub(crate) fn of(text: &str) -> Result<Self> {
        let refused = |why: &str| Err(Error::invalid("url", why));
        if text.len() > URL_BYTES_MAX {
            return refused("is longer than 2000 bytes");
        }
        let Ok(mut url) = Url::parse(text.trim()) else {
            return refused("is not the address of a page");
        };
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
            return refused("is not the address of a page");
        }
        url.set_fragment(None);
        // Somebody's name and password do not belong to a page.
        if url.set_username("").is_err() || url.set_password(None).is_err() {
            return refused("is not the address of a page");
        }
        let query = kept_query(&url);
        url.set_query(None);
        let authority = authority(&url);
        let path = tidy_path(url.path());
        let mut canonical = format!("{authority}{path}");
        if let Some(query) = &query {
            canonical.push('?');
            canonical.push_str(query);
            url.set_query(Some(query));
        }
        Ok(Self { authority, canonical, url: url.into() })
    }

    /// Its name in rows and in the names of answers: a digest, since addresses are long.
    pub(crate) fn id(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(self.canonical.as_bytes()))
    }
}

/// The host and port of an origin such as `https://blog.example.com`; nothing when it is none.
pub(crate) fn authority_of(origin: &str) -> Option<String> {
    let url = Url::parse(origin).ok()?;
    let is_origin = matches!(url.scheme(), "http" | "https")
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    (is_origin && url.host_str().is_some()).then(|| authority(&url))
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default().trim_end_matches('.').to_lowercase();
    match url.port() {
        // The other scheme's usual port is a usual one too, as the scheme does not count.
        Some(port) if !matches!(port, 80 | 443) => format!("{host}:{port}"),
        _ => host,
    }
}

fn tidy_path(path: &str) -> String {
    let path = tidy_escapes(path);
    let mut path = path.trim_end_matches('/');
    if let Some((folder, file)) = path.rsplit_once('/')
        && INDEXES.contains(&file)
    {
        path = folder.trim_end_matches('/');
    }
    path.to_owned()
}

/// What is kept of a query, in order of names, so that two orders are one page.
fn kept_query(url: &Url) -> Option<String> {
    let is_tracking = |name: &str| {
        let name = name.to_ascii_lowercase();
        TRACKING.contains(&name.as_str())
            || TRACKING_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
    };
    let pairs = url.query()?.split('&').filter(|pair| !pair.is_empty());
    let name_of = |pair: &&str| pair.split('=').next().unwrap_or_default().to_owned();
    let mut kept: Vec<String> =
        pairs.filter(|pair| !is_tracking(&name_of(pair))).map(tidy_escapes).collect();
    kept.sort();
    (!kept.is_empty()).then(|| kept.join("&"))
}

/// Escapes in one way: those of letters that need none are taken back, the others are in capitals.
fn tidy_escapes(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut tidy = String::with_capacity(text.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| bytes.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) if code.is_ascii_alphanumeric() || b"-._~".contains(&code) => {
                tidy.push(char::from(code));
                at += 3;
            }
            Some(code) => {
                write!(tidy, "%{code:02X}").expect("writing to a string cannot fail");
                at += 3;
            }
            // The parser of addresses leaves ASCII alone.
            None => {
                tidy.push(char::from(bytes[at]));
                at += 1;
            }
        }
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(url: &str) -> String {
        Page::of(url).unwrap().canonical
    }

    #[test]
    fn addresses_that_show_the_same_page_have_one_name() {
        for same in [
            "https://blog.example.com/posts/one",
            "http://blog.example.com/posts/one/",
            "https://BLOG.example.com:443/posts/one/index.html#comments",
            "http://blog.example.com:80/posts/one?utm_source=x&UTM_medium=y&fbclid=z",
            "https://blog.example.com/p%6Fsts/one?&",
            "https://me:secret@blog.example.com/posts/./one",
        ] {
            assert_eq!(canonical(same), "blog.example.com/posts/one", "{same}");
        }
        assert_eq!(canonical("http://a.kr/?b=2&a=1"), canonical("https://a.kr?a=1&b=2&gclid=3"));
        assert_eq!(canonical("http://a.kr/글"), canonical("https://a.kr/%ea%b8%80/"));
        assert_eq!(canonical("http://한글.kr/"), canonical("https://xn--bj0bj06e.kr"));
    }

    #[test]
    fn addresses_of_other_pages_have_other_names() {
        let all = [
            "https://a.kr/",
            "https://b.kr/",
            "https://a.kr:8080/",
            "https://a.kr/one",
            "https://a.kr/ONE",
            "https://a.kr/?p=1",
            "https://a.kr/?p=2",
            "https://a.kr/one%2Ftwo",
            "https://a.kr/one/two",
            "https://www.a.kr/",
        ];
        for (index, one) in all.iter().enumerate() {
            for other in &all[..index] {
                assert_ne!(canonical(one), canonical(other));
            }
        }
    }

    #[test]
    fn what_is_no_page_is_refused() {
        for bad in [
            "",
            "x",
            "ftp://a.kr/",
            "javascript:alert(1)",
            "file:///etc/passwd",
            "https://",
            "data:,x",
        ] {
            assert!(Page::of(bad).is_err(), "{bad}");
        }
        assert!(Page::of(&format!("https://a.kr/{}", "x".repeat(2_000))).is_err());
        assert_eq!(authority_of("https://Blog.example.com"), Some("blog.example.com".into()));
        assert_eq!(authority_of("http://localhost:4000"), Some("localhost:4000".into()));
        for bad in ["https://a.kr/path", "a.kr", "*", "https://a.kr?x", "null"] {
            assert_eq!(authority_of(bad), None, "{bad}");
        }
    }
}
