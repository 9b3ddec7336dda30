//! Requests within requests (RFC 9112, sections 2.2, 3.2, 5.1, 6.3, 7.1 and 11.2): where two servers could disagree on where one
//! ends, this one refuses, or goes by the standard, and never answers what was hidden in another.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Tried, launch};
use crate::proofs::{Ground, Report};

/// What may be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// One refusal, and the end of the connection.
    Refused,
    /// One answer at most, and the end of the connection: where it shows only after the answer that the body is broken.
    Ended,
    /// One answer; what follows was its body.
    One,
}
use Expected::{Ended, One, Refused};

/// Follows each case. Whoever answers it took a part of another request for it.
const HIDDEN: &str = "GET /livez?hidden HTTP/1.1\r\nhost: here\r\n\r\n";
/// As long as what is hidden.
const HIDDEN_LENGTH: usize = HIDDEN.len();

struct Case {
    name: String,
    expected: Expected,
    /// `{}` is the method and the path.
    bytes: Vec<u8>,
}

const TARGETS: [&str; 5] = [
    "POST /v1/session",
    "GET /livez",
    "POST /nowhere",
    "POST /v1/keys",
    "PUT /v1/account/password",
];

/// Each case at operations that read their body and at others, at once and in parts.
pub(super) fn smuggling(ground: &Ground, report: &mut Report) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stack = launch(ground, folder.path()).start()?;
    let address = stack.http_address();
    let mut tried = Tried::default();
    // Two requests have two answers, so that a second one would be seen.
    let two = "GET /livez HTTP/1.1\r\nhost: here\r\n\r\n".repeat(2);
    let (answers, is_closed) = exchange(address, &[two.as_bytes()], 2)?;
    ensure!(answers.len() == 2 && !is_closed, "two requests: {answers:?}, {is_closed}");
    let targets = &TARGETS[..ground.count(2, TARGETS.len())];
    let mut cases = 0;
    for target in targets {
        for case in cases_at(target) {
            cases += 1;
            for parts in 1..=ground.count(1, 4) {
                let pieces: Vec<&[u8]> =
                    case.bytes.chunks(case.bytes.len().div_ceil(parts)).collect();
                let (answers, is_closed) = exchange(address, &pieces, 1)?;
                let held = match case.expected {
                    Refused => answers.len() == 1 && (400..600).contains(&answers[0]) && is_closed,
                    Ended => answers.len() <= 1 && is_closed,
                    One => answers.len() == 1,
                };
                tried.check(held, || {
                    let Case { name, expected, .. } = &case;
                    format!("{target}, {name} in {parts} parts: {answers:?}, closed {is_closed}, not {expected:?}")
                });
            }
        }
    }
    report.figure(format!("{cases} requests that are framed wrongly or oddly"));
    tried.tell(report, "requests within requests");
    Ok(())
}

/// Headers, the blank line and a body under a request line that is right.
fn framed(name: &str, expected: Expected, target: &str, rest: &str) -> Case {
    let bytes =
        format!("{target} HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\n{rest}");
    Case { name: name.into(), expected, bytes: bytes.into_bytes() }
}

fn cases_at(target: &str) -> Vec<Case> {
    let mut cases = lengths(target);
    cases.extend(codings(target));
    cases.extend(chunks(target));
    cases.extend(lines(target));
    cases
}

fn lengths(target: &str) -> Vec<Case> {
    let refused = |text: &str| {
        let rest = format!("content-length: {text}\r\n\r\nhello{HIDDEN}");
        framed(&format!("content-length {text:?}"), Refused, target, &rest)
    };
    let wrong = [
        "5, 6",
        "+5",
        "-5",
        "0x5",
        "5 5",
        "5;",
        "5.0",
        "five",
        "",
        "99999999999999999999999",
        "\u{665}",
    ];
    let mut cases: Vec<Case> = wrong.into_iter().map(refused).collect();
    for (name, rest) in [
        ("two lengths", format!("content-length: 5\r\ncontent-length: 6\r\n\r\nhello{HIDDEN}")),
        (
            "two lengths, the other way",
            format!("content-length: 6\r\ncontent-length: 5\r\n\r\nhello{HIDDEN}"),
        ),
        (
            "two lengths, one zero",
            format!("content-length: 0\r\ncontent-length: {HIDDEN_LENGTH}\r\n\r\n{HIDDEN}"),
        ),
    ] {
        cases.push(framed(name, Refused, target, &rest));
    }
    let body = format!("content-length: {HIDDEN_LENGTH}\r\n\r\n{HIDDEN}");
    cases.push(framed("a body that looks like a request", One, target, &body));
    let twice = format!(
        "content-length: {HIDDEN_LENGTH}\r\ncontent-length: {HIDDEN_LENGTH}\r\n\r\n{HIDDEN}"
    );
    cases.push(framed("one length said twice", One, target, &twice));
    cases
}

fn codings(target: &str) -> Vec<Case> {
    let mut cases = vec![];
    let all = format!("{HIDDEN_LENGTH:x}\r\n{HIDDEN}\r\n0\r\n\r\n");
    // Both say where the body ends: by RFC 9112, 6.3, the coding counts, and the connection ends with the answer.
    for (name, rest) in [
        (
            "a length, and chunks that end before it (CL.TE)",
            format!(
                "content-length: {}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}",
                HIDDEN_LENGTH + 5
            ),
        ),
        (
            "chunks, and a length beyond them (CL.TE)",
            format!(
                "transfer-encoding: chunked\r\ncontent-length: {}\r\n\r\n0\r\n\r\n{HIDDEN}",
                HIDDEN_LENGTH + 5
            ),
        ),
        (
            "a length within the chunks (TE.CL)",
            format!("content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n{all}{HIDDEN}"),
        ),
        (
            "chunks, and a length within them (TE.CL)",
            format!("transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n{all}{HIDDEN}"),
        ),
        (
            "chunks and no length (CL.0)",
            format!("transfer-encoding: chunked\r\ncontent-length: 0\r\n\r\n{all}{HIDDEN}"),
        ),
    ] {
        cases.push(framed(name, Ended, target, &rest));
    }
    // Another server could read these as no coding at all (TE.TE).
    let refused = [
        "transfer-encoding: identity\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: chunkedx\r\n",
        "transfer-encoding: \"chunked\"\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: identity, chunked\r\n",
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: chunked;a=b\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: x\r\n",
        "transfer-encoding: \r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding\t: chunked\r\n",
        " transfer-encoding: chunked\r\n",
        "x: y\r\n transfer-encoding: chunked\r\n",
        "x: y\r\n\ttransfer-encoding: chunked\r\n",
        "transfer-encoding:\r\n chunked\r\n",
        "transfer-encoding: \u{b}chunked\r\n",
        "transfer-encoding: chunked\u{0}\r\n",
        "x: y\rtransfer-encoding: chunked\r\n",
        "\u{0}transfer-encoding: chunked\r\n",
    ];
    for header in refused {
        let rest = format!("content-length: 4\r\n{header}\r\n{all}{HIDDEN}");
        cases.push(framed(&format!("{header:?} beside a length"), Refused, target, &rest));
        let rest = format!("{header}\r\n{all}{HIDDEN}");
        cases.push(framed(&format!("{header:?}"), Refused, target, &rest));
    }
    // No name of a coding: a header that nobody reads.
    for header in ["transfer_encoding: chunked\r\n", "x-transfer-encoding: chunked\r\n"] {
        let rest = format!("{header}content-length: {HIDDEN_LENGTH}\r\n\r\n{HIDDEN}");
        cases.push(framed(&format!("{header:?}"), One, target, &rest));
    }
    let rest = format!("Transfer-ENCODING: CHUNKED\r\n\r\n{all}");
    cases.push(framed("a coding in capitals", One, target, &rest));
    let old = format!(
        "{target} HTTP/1.0\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n{all}{HIDDEN}"
    );
    cases.push(Case { name: "chunks of HTTP/1.0".into(), expected: Refused, bytes: old.into() });
    cases
}

fn chunks(target: &str) -> Vec<Case> {
    let chunked = |name: &str, expected, body: &str| {
        let rest = format!("transfer-encoding: chunked\r\n\r\n{body}{HIDDEN}");
        framed(name, expected, target, &rest)
    };
    let mut cases = vec![];
    for size in
        ["ffffffffffffffff1", "fffffffffffffffff", "-5", "+5", "0x5", "g", "", "5 5", "5,", "5_"]
    {
        let body = format!("{size}\r\nhello\r\n0\r\n\r\n");
        cases.push(chunked(&format!("a chunk of size {size:?}"), Ended, &body));
    }
    let long = "x".repeat(40_000);
    for (name, body) in [
        ("more than the size says", "5\r\nhelloX\r\n0\r\n\r\n".to_owned()),
        ("less than the size says", "8\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("a size ended by a bare line feed", "5\nhello\r\n0\r\n\r\n".to_owned()),
        ("data ended by a bare line feed", "5\r\nhello\n0\r\n\r\n".to_owned()),
        ("a size ended by a bare carriage return", "5\rhello\r\n0\r\n\r\n".to_owned()),
        ("an extension with a line feed (TERM.EXT)", "5;a\nb\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("an extension with a carriage return", "5;a\rb\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("an extension without end", format!("5;{long}\r\nhello\r\n0\r\n\r\n")),
        ("a last chunk ended by a bare line feed", "5\r\nhello\r\n0\n\n".to_owned()),
        ("trailers without end", format!("5\r\nhello\r\n0\r\nx: {long}\r\n\r\n")),
    ] {
        cases.push(chunked(name, Ended, &body));
    }
    for (name, body) in [
        ("an extension", "5;a=b;c=\"d\"\r\nhello\r\n0;e\r\n\r\n"),
        ("a trailer", "5\r\nhello\r\n0\r\nx-a: b\r\n\r\n"),
        ("a trailer that says a length", "5\r\nhello\r\n0\r\ncontent-length: 500\r\n\r\n"),
        ("zeros before a size", "00000005\r\nhello\r\n000\r\n\r\n"),
    ] {
        // The coding ends the connection with the answer, so that nothing follows.
        cases.push(chunked(name, Ended, body));
    }
    cases
}

fn lines(target: &str) -> Vec<Case> {
    let (method, path) = target.split_once(' ').unwrap_or((target, "/"));
    let whole = |name: &str, expected, text: String| Case {
        name: name.into(),
        expected,
        bytes: format!("{text}{HIDDEN}").into_bytes(),
    };
    let headed = |name: &str, text: &str| {
        whole(
            name,
            Refused,
            format!("{target} HTTP/1.1\r\nhost: here\r\n{text}\r\ncontent-length: 0\r\n\r\n"),
        )
    };
    let mut cases = vec![
        headed("a space before the colon", "x-a : b"),
        headed("a header without a colon", "garbage"),
        headed("a header without a name", ": b"),
        headed("a name of two words", "a b: c"),
        headed("a NUL in a value", "x-a: b\u{0}c"),
        headed("a carriage return in a value", "x-a: b\rc: d"),
        headed("a folded header", "x-a: b\r\n c"),
        headed("a folded header, by a tab", "x-a: b\r\n\tc"),
        headed("a name that is not ASCII", "x-\u{e4}: b"),
        headed("two hosts", "host: there"),
        headed("two hosts, the same", "host: here"),
    ];
    for (name, line) in [
        ("no host", format!("{target} HTTP/1.1\r\n\r\n")),
        ("an empty host", format!("{target} HTTP/1.1\r\nhost:\r\n\r\n")),
        ("a host with a space", format!("{target} HTTP/1.1\r\nhost: here there\r\n\r\n")),
        ("a host with a path", format!("{target} HTTP/1.1\r\nhost: here/there\r\n\r\n")),
        ("a host with a person", format!("{target} HTTP/1.1\r\nhost: evil@here\r\n\r\n")),
        ("two hosts in one", format!("{target} HTTP/1.1\r\nhost: here, there\r\n\r\n")),
        ("a version twice", format!("{target} HTTP/1.1 HTTP/1.1\r\nhost: here\r\n\r\n")),
        ("two spaces", format!("{method}  {path} HTTP/1.1\r\nhost: here\r\n\r\n")),
        ("a tab", format!("{method}\t{path} HTTP/1.1\r\nhost: here\r\n\r\n")),
        ("a version in small letters", format!("{target} http/1.1\r\nhost: here\r\n\r\n")),
        ("a version that is none", format!("{target} HTTP/1.10\r\nhost: here\r\n\r\n")),
        ("another version", format!("{target} HTTP/3.0\r\nhost: here\r\n\r\n")),
        ("no version", format!("{target}\r\nhost: here\r\n\r\n")),
        ("a method that is none", format!("{method}@ {path} HTTP/1.1\r\nhost: here\r\n\r\n")),
        ("lines ended by carriage returns", format!("{target} HTTP/1.1\rhost: here\r\r")),
        (
            "a target with a fragment",
            format!("{method} {path}\u{1} HTTP/1.1\r\nhost: here\r\n\r\n"),
        ),
    ] {
        cases.push(whole(name, Refused, line));
    }
    // RFC 9112, section 2.2: a line feed may end a line by itself, and an empty line may come before a request.
    let bare = format!("{target} HTTP/1.1\nhost: here\ncontent-length: {HIDDEN_LENGTH}\n\n");
    cases.push(whole("lines ended by bare line feeds", One, bare));
    let before =
        format!("\r\n{target} HTTP/1.1\r\nhost: here\r\ncontent-length: {HIDDEN_LENGTH}\r\n\r\n");
    cases.push(whole("an empty line before it", One, before));
    let absolute = format!(
        "{method} http://here{path} HTTP/1.1\r\nhost: here\r\ncontent-length: {HIDDEN_LENGTH}\r\n\r\n"
    );
    cases.push(whole("a target with the same host", One, absolute));
    let elsewhere = format!(
        "{method} http://there{path} HTTP/1.1\r\nhost: here\r\ncontent-length: {HIDDEN_LENGTH}\r\n\r\n"
    );
    cases.push(whole("a target with another host", One, elsewhere));
    let expecting = format!(
        "{target} HTTP/1.1\r\nhost: here\r\nexpect: 100-continue\r\ncontent-length: {HIDDEN_LENGTH}\r\n\r\n"
    );
    cases.push(whole("a body that was not waited for", One, expecting));
    cases
}

/// How long nothing must come for there to be nothing.
const QUIET: Duration = Duration::from_millis(150);
const PATIENCE: Duration = Duration::from_secs(20);

/// The statuses of what is answered, and whether the connection was ended. 100 is no answer.
fn exchange(address: &str, pieces: &[&[u8]], wanted: usize) -> Result<(Vec<u16>, bool)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(QUIET))?;
    let mut seen = vec![];
    for (number, piece) in pieces.iter().enumerate() {
        // Whoever was refused may have been closed already.
        if stream.write_all(piece).is_err() {
            break;
        }
        if number + 1 < pieces.len() {
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
    let mut buffer = vec![0; 64 << 10];
    let mut quiet = Duration::ZERO;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok((statuses(&seen)?, true)),
            Ok(count) => {
                seen.extend_from_slice(&buffer[..count]);
                quiet = Duration::ZERO;
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                quiet += QUIET;
                let found = statuses(&seen)?;
                if found.len() >= wanted || quiet >= PATIENCE {
                    return Ok((found, false));
                }
            }
            // A reset is an end too.
            Err(_) => return Ok((statuses(&seen)?, true)),
        }
    }
}

/// Answers are JSON, pages or nothing, so that their first lines stand nowhere else.
fn statuses(seen: &[u8]) -> Result<Vec<u16>> {
    let text = String::from_utf8_lossy(seen);
    let lines = text.split("HTTP/1.").skip(1);
    let statuses: Result<Vec<u16>> = lines
        .map(|line| line.split(' ').nth(1).context("a status")?.parse().context("a status"))
        .collect();
    Ok(statuses?.into_iter().filter(|status| *status != 100).collect())
}
