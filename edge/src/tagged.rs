//! What a reader says of the answers that it has and can unpack, for answers that come with an `ETag`.

use axum::http::{HeaderMap, HeaderName, header};

/// Whether the reader has the form with this `ETag`, so that 304 is enough (RFC 9110 section 13.1.2). Weak tags count as
/// strong ones here; a tag of ours has no comma in it.
pub fn knows(headers: &HeaderMap, etag: &str) -> bool {
    let is_it = |known: &str| known == "*" || opaque(known) == opaque(etag);
    listed(headers, header::IF_NONE_MATCH).any(is_it)
}

/// Whether the reader unpacks gzip, and likes it no less than the plain form (RFC 9110 section 12.5.3). One that says
/// nothing gets what everybody can read.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut identity, mut other) = (None, None, None);
    for coding in listed(headers, header::ACCEPT_ENCODING) {
        let mut words = coding.split(';').map(str::trim);
        let name = words.next().unwrap_or_default().to_ascii_lowercase();
        match name.as_str() {
            "gzip" | "x-gzip" => gzip = Some(weight(words)),
            "identity" => identity = Some(weight(words)),
            "*" => other = Some(weight(words)),
            _ => {}
        }
    }
    let gzip = gzip.or(other).unwrap_or(0.0);
    gzip > 0.0 && identity.is_none_or(|identity| gzip >= identity)
}

fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// What is not a number is taken for no wish at all.
fn weight<'a>(mut words: impl Iterator<Item = &'a str>) -> f32 {
    let given = words.find_map(|word| word.strip_prefix("q=").or_else(|| word.strip_prefix("Q=")));
    given.map_or(1.0, |text| text.parse().unwrap_or(0.0))
}

/// The parts of a list, which may stand in more than one line.
fn listed(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &HeaderName, lines: &[&'static str]) -> HeaderMap {
        lines.iter().map(|line| (name.clone(), line.parse().unwrap())).collect()
    }

    #[test]
    fn a_form_is_known_by_its_whole_tag_in_any_line_weak_or_strong() {
        let check = |lines: &[&'static str], expected: [bool; 2]| {
            let headers = headers(&header::IF_NONE_MATCH, lines);
            assert_eq!(
                ["\"a\"", "W/\"a\""].map(|etag| knows(&headers, etag)),
                expected,
                "{lines:?}"
            );
        };
        check(&[], [false; 2]);
        check(&["\"a\""], [true; 2]);
        check(&["W/\"a\""], [true; 2]);
        check(&["\"b\" ,W/\"a\""], [true; 2]);
        check(&["\"b\"", "\"a\""], [true; 2]);
        check(&["*"], [true; 2]);
        check(&["\"b\"", "\"a-gzip\"", "a", "w/\"a\"", "\"A\""], [false; 2]);
    }

    #[test]
    fn gzip_is_for_those_who_take_it_and_do_not_rather_have_the_plain_form() {
        for (lines, expected) in [
            (&[][..], false),
            (&["br"], false),
            (&["gzip;q=0, br"], false),
            (&["gzip ; q=0.000"], false),
            (&["gzip;q=none"], false),
            (&["not-gzip"], false),
            (&["identity, gzip;q=0.5"], false),
            (&["*;q=0"], false),
            (&["gzip;q=0, *"], false),
            (&["gzip"], true),
            (&["GZip;Q=0.1"], true),
            (&["x-gzip"], true),
            (&["*"], true),
            (&["gzip, deflate, br"], true),
            (&["br;q=1.0, gzip;q=0.5"], true),
            (&["br", "gzip"], true),
            (&["identity;q=0.5, gzip"], true),
        ] {
            assert_eq!(
                takes_gzip(&headers(&header::ACCEPT_ENCODING, lines)),
                expected,
                "{lines:?}"
            );
        }
    }
}
