use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { header_count_max: 5, header_bytes_max: 200, body_bytes_max: 50 };

/// Every frame of some bytes, pushed in pieces, written in one line each; the last one is a fault if there was one.
fn decode(version: Option<Version>, bytes: &[u8], piece: usize) -> Vec<String> {
    let mut decoder = Decoder { version, ..Decoder::default() };
    let mut said = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        decoder.push(piece);
        loop {
            match decoder.next(&LIMITS) {
                Ok(Some(frame)) => {
                    let headers: Vec<String> =
                        frame.headers.0.iter().map(|(name, it)| format!("{name}={it}")).collect();
                    let body = String::from_utf8_lossy(&frame.body).into_owned();
                    said.push(format!("{} {} {body}", frame.command.text(), headers.join(",")));
                }
                Ok(None) => break,
                Err(fault) => {
                    said.push(fault.0.into_owned());
                    return said;
                }
            }
        }
        let most = LIMITS.header_bytes_max + LIMITS.body_bytes_max + piece.len() + 3;
        assert!(decoder.held() <= most, "{} bytes are held", decoder.held());
    }
    said
}

#[test]
fn frames_are_read_as_their_version_says() {
    use Version::{V10, V11, V12};
    let cases: &[(Option<Version>, &str, &[&str])] = &[
        (Some(V12), "SEND\ndestination:/topic/a\n\nhello\0", &["SEND destination=/topic/a hello"]),
        (Some(V12), "SEND\r\ndestination:a\r\n\r\nhello\0", &["SEND destination=a hello"]),
        // Only 1.2 takes the carriage return for an end.
        (Some(V11), "SEND\nname:a\r\n\nx\0", &["SEND name=a\r x"]),
        (Some(V12), "\n\r\n\nBEGIN\n\n\0\n\nABORT\n\n\0\r\n", &["BEGIN  ", "ABORT  "]),
        // The body may hold a NUL when its length is said.
        (Some(V12), "SEND\ncontent-length:3\n\na\0b\0", &["SEND content-length=3 a\0b"]),
        (Some(V12), "SEND\n\n\0", &["SEND  "]),
        // Of a repeated header both are there, and the first counts.
        (Some(V12), "SEND\nfoo:1\nfoo:2\n\n\0", &["SEND foo=1,foo=2 "]),
        (Some(V12), "SEND\nk\\c1:a\\nb\\\\c\\rd\n\n\0", &["SEND k:1=a\nb\\c\rd "]),
        (Some(V12), "SEND\nk:a:b \n\n\0", &["SEND k=a:b  "]),
        (Some(V12), "SEND\nk: a\n\n\0", &["SEND k= a "]),
        (Some(V10), "SEND\nk: a\\n \n\n\0", &["SEND k=a\\n "]),
        (
            None,
            "CONNECT\naccept-version:1.2\npasscode:a\\cb\n\n\0",
            &["CONNECT accept-version=1.2,passcode=a\\cb "],
        ),
        (None, "STOMP\nlogin: a\n\n\0", &["CONNECT login=a "]),
        // What goes wrong.
        (Some(V12), "SEND\nk:a\\tb\n\n\0", &["\"a\\\\tb\" has an undefined escape"]),
        (Some(V11), "SEND\nk:a\\rb\n\n\0", &["\"a\\\\rb\" has an undefined escape"]),
        (Some(V12), "SEND\nk:a\\", &[]),
        (Some(V12), "send\n\n\0", &["\"send\" is not a command of a client"]),
        (Some(V12), "MESSAGE\n\n\0", &["\"MESSAGE\" is not a command of a client"]),
        (Some(V12), "SEND\nnothing\n\n\0", &["\"nothing\" is not a header"]),
        (Some(V12), "SEND\n:x\n\n\0", &["\":x\" is not a header"]),
        (Some(V12), "SEND\nk:v\0", &["a frame without an empty line after its headers"]),
        (Some(V12), "SEND\ncontent-length:2\n\nabc\0", &["no NUL stands after the content-length"]),
        (
            Some(V12),
            "SEND\ncontent-length:-2\n\n",
            &["the content-length is not a number of bytes"],
        ),
        (
            Some(V12),
            "SEND\ncontent-length:+2\n\n",
            &["the content-length is not a number of bytes"],
        ),
        (Some(V12), "SEND\ncontent-length:51\n\n", &["the body is larger than 50 bytes"]),
        (Some(V12), "SUBSCRIBE\nid:1\n\nbody\0", &["a SUBSCRIBE frame must have no body"]),
        (Some(V12), "SEND\na:1\nb:2\nc:3\nd:4\ne:5\nf:6\n\n\0", &["more than 5 headers"]),
    ];
    for (version, bytes, wanted) in cases {
        for piece in [1, 2, 3, 7, 1_000] {
            assert_eq!(decode(*version, bytes.as_bytes(), piece), *wanted, "{bytes:?} by {piece}");
        }
    }
}

#[test]
fn what_is_too_large_is_refused_before_it_is_held() {
    let long = format!("SEND\nk:{}", "v".repeat(400));
    let body = format!("SEND\n\n{}", "b".repeat(80));
    for piece in [1, 10, 1_000] {
        assert_eq!(decode(None, long.as_bytes(), piece), ["the headers are larger than 200 bytes"]);
        assert_eq!(decode(None, body.as_bytes(), piece), ["the body is larger than 50 bytes"]);
    }
    assert_eq!(decode(None, b"SEND\nk:\xFF\n\n\0", 100), ["headers are not UTF-8"]);
}

#[test]
fn a_header_survives_writing_and_reading_in_every_version_that_can() {
    for version in [Version::V11, Version::V12] {
        let value = if version == Version::V12 { "a:b\\c\nd\re" } else { "a:b\\c\nd" };
        let mut bytes = b"SEND\n".to_vec();
        write_header(&mut bytes, "k:1", value, version);
        bytes.extend_from_slice(b"\n\0");
        let mut decoder = Decoder { version: Some(version), ..Decoder::default() };
        decoder.push(&bytes);
        let frame = decoder.next(&LIMITS).unwrap().unwrap();
        assert_eq!(frame.headers.0, [("k:1".to_owned(), value.to_owned())]);
    }
}

fn versions() -> impl Strategy<Value = Option<Version>> {
    prop_oneof![
        Just(None),
        Just(Some(Version::V10)),
        Just(Some(Version::V11)),
        Just(Some(Version::V12))
    ]
}

/// Bytes that look like frames more often than chance makes them.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let words: Vec<&'static [u8]> = vec![
        b"SEND",
        b"CONNECT",
        b"\n",
        b"\r\n",
        b"\n\n",
        b"\0",
        b":",
        b"\\",
        b"\\n",
        b"a:b",
        b"content-length:",
        b"3",
        b"destination:/topic/a",
        b"\xFF",
        "한".as_bytes(),
    ];
    let word = prop_oneof![
        8 => proptest::sample::select(words).prop_map(<[u8]>::to_vec),
        1 => proptest::collection::vec(any::<u8>(), 0..40),
    ];
    proptest::collection::vec(word, 0..60).prop_map(|words| words.concat())
}

proptest! {
    /// Whatever comes, in whatever pieces: the same frames, no panic, and memory within the limits.
    #[test]
    fn bytes_mean_the_same_in_any_pieces(
        version in versions(), bytes in bytes(), piece in 1_usize..20
    ) {
        prop_assert_eq!(decode(version, &bytes, piece), decode(version, &bytes, 1));
    }

    #[test]
    fn a_frame_survives_writing_and_reading(
        headers in proptest::collection::vec(("[a-z:\\\\\n\r한]{1,6}", "[ -~\n\r글]{0,12}"), 0..5),
        body in proptest::collection::vec(any::<u8>(), 0..50),
    ) {
        let mut bytes = b"SEND\n".to_vec();
        for (name, value) in &headers {
            write_header(&mut bytes, name, value, Version::V12);
        }
        bytes.extend_from_slice(format!("content-length:{}\n\n", body.len()).as_bytes());
        bytes.extend_from_slice(&body);
        bytes.push(0);
        let limits = Limits { header_count_max: 6, header_bytes_max: 1_000, body_bytes_max: 50 };
        let mut decoder = Decoder { version: Some(Version::V12), ..Decoder::default() };
        decoder.push(&bytes);
        let frame = decoder.next(&limits).unwrap().unwrap();
        prop_assert_eq!(&frame.headers.0[..headers.len()], &headers[..]);
        prop_assert_eq!(&frame.body[..], &body[..]);
        prop_assert_eq!(decoder.held(), 0);
    }
}
