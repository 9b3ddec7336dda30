use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::LazyLock;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use rust_embed::{EmbeddedFile, RustEmbed};

/// One file of the console, ready to be sent.
#[derive(Clone, Debug)]
pub struct Asset {
    pub body: Body,
    pub content_type: &'static str,
    /// `Some("gzip")` when the body is packed; send `Vary: Accept-Encoding` with every asset.
    pub content_encoding: Option<&'static str>,
    /// Strong, in quotes: compare it with `If-None-Match`.
    pub etag: String,
    pub cache_control: &'static str,
}

/// The bytes of a file, or how they are made.
#[derive(Clone, Debug)]
pub enum Body {
    Ready(Bytes),
    /// Nobody asked for it before. Packing takes a while, so it is not for a thread that others wait for.
    Unpacked(Packing),
}

impl Body {
    /// Packs it where that was not done.
    pub fn bytes(self) -> Bytes {
        match self {
            Self::Ready(bytes) => bytes,
            Self::Unpacked(packing) => packing.run(),
        }
    }
}

/// A file that is to be packed.
#[derive(Clone, Debug)]
pub struct Packing {
    name: String,
    hash: Hash,
    plain: Bytes,
}

impl Packing {
    /// Packs it, and keeps that for whoever asks next.
    pub fn run(self) -> Bytes {
        let bytes = Bytes::from(gzip(&self.plain));
        PACKED.lock().insert(self.name, (self.hash, bytes.clone()));
        bytes
    }
}

/// What the client can unpack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    Identity,
    Gzip,
}

/// The file behind a request's path, with or without the leading slash.
///
/// A path whose last part has no dot is a page of the console, whatever its name: it gets `index.html`.
/// `None` is a 404; keep API paths away from here, for they have no dot either.
pub fn asset(path: &str, encoding: Encoding) -> Option<Asset> {
    let path = path.trim_start_matches('/');
    let name = if path.rsplit('/').next().is_some_and(|last| last.contains('.')) {
        path
    } else {
        "index.html"
    };
    let content_type = content_type(name)?;
    let file = Files::get(name)?;
    let hash = file.metadata.sha256_hash();
    let bytes = bytes(file);
    let plain = Asset {
        etag: etag(&hash, Encoding::Identity),
        body: Body::Ready(bytes.clone()),
        content_type,
        content_encoding: None,
        // Names carry no version, so a browser asks again; an unchanged file costs it a 304.
        cache_control: "no-cache",
    };
    if encoding == Encoding::Identity || bytes.len() < PACK_BYTES_MIN {
        return Some(plain);
    }
    let body = packed(name, hash, bytes);
    let etag = etag(&hash, Encoding::Gzip);
    Some(Asset { body, etag, content_encoding: Some("gzip"), ..plain })
}

/// Every path that [`asset`] serves as a file, sorted.
pub fn paths() -> Vec<Cow<'static, str>> {
    let mut paths: Vec<_> = Files::iter().filter(|path| content_type(path).is_some()).collect();
    paths.sort();
    paths
}

#[derive(RustEmbed)]
#[folder = "$CARGO_MANIFEST_DIR/ui"]
struct Files;

type Hash = [u8; 32];

/// Below this a packed file saves no packet.
const PACK_BYTES_MIN: usize = 1024;

// A file is packed once, when first asked for; there are as many entries as files.
static PACKED: LazyLock<Mutex<HashMap<String, (Hash, Bytes)>>> = LazyLock::new(Mutex::default);

fn packed(name: &str, hash: Hash, plain: Bytes) -> Body {
    match PACKED.lock().get(name) {
        Some((known, bytes)) if *known == hash => Body::Ready(bytes.clone()),
        _ => Body::Unpacked(Packing { name: name.to_owned(), hash, plain }),
    }
}

pub(crate) fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).and_then(|()| encoder.finish()).expect("writing to memory cannot fail")
}

fn bytes(file: EmbeddedFile) -> Bytes {
    match file.data {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => Bytes::from(bytes),
    }
}

fn etag(hash: &Hash, encoding: Encoding) -> String {
    let mut text = String::from("\"");
    for byte in &hash[..16] {
        write!(text, "{byte:02x}").expect("writing to memory cannot fail");
    }
    text.push_str(if encoding == Encoding::Gzip { "-gzip\"" } else { "\"" });
    text
}

/// A file of any other kind is not for browsers.
fn content_type(name: &str) -> Option<&'static str> {
    Some(match name.rsplit_once('.')?.1 {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    fn plain(path: &str) -> Asset {
        asset(path, Encoding::Identity).unwrap()
    }

    #[test]
    fn a_file_comes_with_its_type_and_a_strong_etag() {
        for (path, content_type) in [
            ("/main.js", "text/javascript; charset=utf-8"),
            ("style.css", "text/css; charset=utf-8"),
            ("/mark.svg", "image/svg+xml"),
            ("/map/world.json", "application/json"),
        ] {
            let asset = plain(path);
            assert_eq!(asset.content_type, content_type, "{path}");
            assert!(asset.etag.starts_with('"') && asset.etag.ends_with('"'), "{path}");
            assert!(!asset.body.bytes().is_empty(), "{path}");
        }
        assert_ne!(plain("/main.js").etag, plain("/api.js").etag);
        assert_eq!(plain("/main.js").etag, plain("/main.js").etag);
    }

    #[test]
    fn an_unknown_page_is_the_console_and_an_unknown_file_is_nothing() {
        let index = plain("/index.html");
        for path in ["", "/", "/map", "/rules/new"] {
            assert_eq!(plain(path).etag, index.etag, "{path}");
        }
        for path in
            ["/gone.js", "/favicon.ico", "/../Cargo.toml", "/vendor/VERSIONS.txt", "/a/../main.js"]
        {
            assert!(asset(path, Encoding::Identity).is_none(), "{path}");
        }
    }

    #[test]
    fn notes_for_developers_are_not_served() {
        assert!(asset("/README.md", Encoding::Identity).is_none());
        assert!(paths().iter().all(|path| !path.contains("README") && !path.contains("VERSIONS")));
    }

    #[test]
    fn a_packed_file_unpacks_to_the_same_bytes_under_an_etag_of_its_own() {
        let (plain, packed) = (plain("/style.css"), asset("/style.css", Encoding::Gzip).unwrap());
        let mut unpacked = Vec::new();
        let bytes = packed.body.bytes();
        GzDecoder::new(&bytes[..]).read_to_end(&mut unpacked).unwrap();
        assert_eq!(unpacked, plain.body.bytes());
        assert_eq!(packed.content_encoding, Some("gzip"));
        assert_ne!(packed.etag, plain.etag);
        let again = asset("/style.css", Encoding::Gzip).unwrap();
        assert!(matches!(again.body, Body::Ready(kept) if kept == bytes), "packed once");
    }
}
