//! Requests out of bytes, in place: an argument is a piece of the buffer that it came in.

use memchr::memchr;

use crate::store::number::parse_i64;

/// Where an argument is in its buffer: first byte and length.
pub(crate) type Span = (u32, u32);

/// The arguments of one command, its name first.
#[derive(Clone, Copy)]
pub(crate) struct Args<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    pub(crate) fn new(bytes: &'a [u8], spans: &'a [Span]) -> Self {
        Self { bytes, spans }
    }

    #[inline]
    pub(crate) fn len(self) -> usize {
        self.spans.len()
    }

    /// The argument at an index that is there.
    #[inline]
    pub(crate) fn at(self, index: usize) -> &'a [u8] {
        let (from, length) = self.spans[index];
        &self.bytes[from as usize..from as usize + length as usize]
    }

    pub(crate) fn get(self, index: usize) -> Option<&'a [u8]> {
        (index < self.spans.len()).then(|| self.at(index))
    }

    pub(crate) fn iter(
        self,
    ) -> impl ExactSizeIterator<Item = &'a [u8]> + DoubleEndedIterator + Clone {
        let bytes = self.bytes;
        self.spans
            .iter()
            .map(move |&(from, length)| &bytes[from as usize..from as usize + length as usize])
    }

    /// Those from an index on.
    pub(crate) fn from(self, index: usize) -> Self {
        Self { bytes: self.bytes, spans: self.spans.get(index..).unwrap_or_default() }
    }

    /// Whether the argument at an index is this word, in any case.
    pub(crate) fn is(self, index: usize, word: &str) -> bool {
        self.get(index).is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    }
}

/// A command that outlives the buffer that it came in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Owned {
    bytes: Vec<u8>,
    spans: Vec<Span>,
}

impl Owned {
    pub(crate) fn new<'a>(args: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut owned = Self::default();
        for arg in args {
            owned.spans.push((owned.bytes.len() as u32, arg.len() as u32));
            owned.bytes.extend_from_slice(arg);
        }
        owned
    }

    pub(crate) fn args(&self) -> Args<'_> {
        Args::new(&self.bytes, &self.spans)
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.bytes.capacity() + self.spans.capacity() * size_of::<Span>()
    }
}

/// What a request may be at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) arguments: usize,
    pub(crate) argument_bytes: usize,
    /// The client has not proved who it is.
    pub(crate) is_unknown: bool,
}

const LINE_BYTES_MAX: usize = 64 << 10;
/// Room is not made for more arguments than this before they came.
const AHEAD_MAX: usize = 64;

/// What stands at the beginning of the bytes.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// A command; its arguments were added to the spans. It ends here.
    Command(usize),
    /// A command on one line of text, which may hold quotes.
    Line(Owned, usize),
    /// Nothing to do up to here.
    Empty(usize),
    /// The rest has not come.
    Incomplete,
    /// No request; the text of the error.
    Broken(String),
}

/// How far a request was read whose rest has not come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    spans: Vec<Span>,
    count: usize,
    /// Where the next argument begins, from the request's beginning.
    at: usize,
    /// Bytes without which there is nothing new to see.
    needed: usize,
}

/// Reads the request that begins at `start`.
pub(crate) fn parse(
    bytes: &[u8],
    start: usize,
    limits: Limits,
    progress: &mut Progress,
    spans: &mut Vec<Span>,
) -> Parsed {
    let Some(&first) = bytes.get(start) else { return Parsed::Incomplete };
    if progress.count == 0 {
        if first != b'*' {
            return parse_line(&bytes[start..], start);
        }
        let (count, at) = match bytes[start..] {
            // Most commands have few arguments.
            [_, digit @ b'1'..=b'9', b'\r', _, ..]
                if usize::from(digit - b'0') <= limits.arguments =>
            {
                (usize::from(digit - b'0'), 4)
            }
            _ => match parse_count(&bytes[start..], limits) {
                Ok(Some(found)) => found,
                Ok(None) => return Parsed::Incomplete,
                Err(text) => return Parsed::Broken(text),
            },
        };
        if count == 0 {
            return Parsed::Empty(start + at);
        }
        (progress.count, progress.at) = (count, at);
    } else if bytes.len() - start < progress.needed {
        return Parsed::Incomplete;
    }
    let before = spans.len();
    if !progress.spans.is_empty() {
        let moved = progress.spans.drain(..).map(|(from, length)| (from + start as u32, length));
        spans.extend(moved);
    } else if progress.count > 4 {
        spans.reserve(progress.count.min(AHEAD_MAX));
    }
    let mut at = start + progress.at;
    while spans.len() - before < progress.count {
        match parse_bulk(bytes, at, limits) {
            Ok(Bulk::Whole(span, next)) => {
                spans.push(span);
                at = next;
            }
            Ok(Bulk::Missing(needed)) => {
                let parsed =
                    spans.drain(before..).map(|(from, length)| (from - start as u32, length));
                progress.spans.extend(parsed);
                progress.at = at - start;
                progress.needed = needed.saturating_sub(start);
                return Parsed::Incomplete;
            }
            Err(text) => return Parsed::Broken(text),
        }
    }
    progress.count = 0;
    progress.needed = 0;
    Parsed::Command(at)
}

/// The number of arguments, and where they begin.
fn parse_count(bytes: &[u8], limits: Limits) -> Result<Option<(usize, usize)>, String> {
    let Some(end) = line_end(bytes, "too big mbulk count string")? else { return Ok(None) };
    let Some(count) = parse_i64(&bytes[1..end]).filter(|count| *count <= limits.arguments as i64)
    else {
        return Err("Protocol error: invalid multibulk length".into());
    };
    if limits.is_unknown && count > 10 {
        return Err("Protocol error: unauthenticated multibulk length".into());
    }
    Ok(Some((usize::try_from(count).unwrap_or(0), end + 2)))
}

enum Bulk {
    Whole(Span, usize),
    /// So many bytes of the buffer are needed to go on.
    Missing(usize),
}

#[inline]
fn parse_bulk(bytes: &[u8], at: usize, limits: Limits) -> Result<Bulk, String> {
    // One digit is the usual length of names and short keys, two or three that of values.
    let (length, from) = match bytes[at.min(bytes.len())..] {
        [b'$', a @ b'0'..=b'9', b'\r', _, ..] => (usize::from(a - b'0'), at + 4),
        [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', _, ..] => {
            (usize::from(a - b'0') * 10 + usize::from(b - b'0'), at + 5)
        }
        [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b'\r', _, ..]
            if limits.argument_bytes > 999 =>
        {
            let digits = [a, b, c].map(|digit| usize::from(digit - b'0'));
            (digits[0] * 100 + digits[1] * 10 + digits[2], at + 6)
        }
        [] => return Ok(Bulk::Missing(at + 1)),
        _ => match parse_length(&bytes[at..], limits)? {
            Some((length, header)) => (length, at + header),
            None => return Ok(Bulk::Missing(bytes.len() + 1)),
        },
    };
    let end = from + length + 2;
    if bytes.len() < end {
        return Ok(Bulk::Missing(end));
    }
    Ok(Bulk::Whole((from as u32, length as u32), end))
}

fn parse_length(bytes: &[u8], limits: Limits) -> Result<Option<(usize, usize)>, String> {
    let Some(end) = line_end(bytes, "too big bulk count string")? else { return Ok(None) };
    if bytes[0] != b'$' {
        let found = char::from(bytes[0]);
        return Err(format!("Protocol error: expected '$', got '{found}'"));
    }
    let length = parse_i64(&bytes[1..end]).and_then(|length| usize::try_from(length).ok());
    let Some(length) = length.filter(|length| *length <= limits.argument_bytes) else {
        return Err("Protocol error: invalid bulk length".into());
    };
    if limits.is_unknown && length > 16_384 {
        return Err("Protocol error: unauthenticated bulk length".into());
    }
    Ok(Some((length, end + 2)))
}

/// Where the line's CR LF is, when both have come.
fn line_end(bytes: &[u8], too_long: &str) -> Result<Option<usize>, String> {
    let window = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match memchr(b'\r', window) {
        Some(end) if end + 1 < bytes.len() => Ok(Some(end)),
        None if bytes.len() > LINE_BYTES_MAX => Err(format!("Protocol error: {too_long}")),
        _ => Ok(None),
    }
}

fn parse_line(bytes: &[u8], start: usize) -> Parsed {
    let Some(end) = memchr(b'\n', &bytes[..bytes.len().min(LINE_BYTES_MAX)]) else {
        if bytes.len() > LINE_BYTES_MAX {
            return Parsed::Broken("Protocol error: too big inline request".into());
        }
        return Parsed::Incomplete;
    };
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    let after = start + end + 1;
    match split_line(line) {
        None => Parsed::Broken("Protocol error: unbalanced quotes in request".into()),
        Some(args) if args.is_empty() => Parsed::Empty(after),
        Some(args) => Parsed::Line(Owned::new(args.iter().map(Vec::as_slice)), after),
    }
}

/// Words of a line; `"…"` takes escapes, `'…'` only `\'`. Nothing when a quote does not end a word.
pub(crate) fn split_line(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(|byte| is_space(*byte)) {
            at += 1;
        }
        if at == line.len() {
            return Some(words);
        }
        let mut word = Vec::new();
        while let Some(&byte) = line.get(at) {
            match byte {
                b'"' => at = double_quoted(line, at + 1, &mut word)?,
                b'\'' => at = single_quoted(line, at + 1, &mut word)?,
                _ if is_space(byte) => break,
                _ => {
                    word.push(byte);
                    at += 1;
                    continue;
                }
            }
            if line.get(at).is_some_and(|byte| !is_space(*byte)) {
                return None;
            }
        }
        words.push(word);
    }
}

fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b || byte == 0
}

fn double_quoted(line: &[u8], mut at: usize, word: &mut Vec<u8>) -> Option<usize> {
    loop {
        match line[at..] {
            [] => return None,
            [b'"', ..] => return Some(at + 1),
            [b'\\', b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0) as u8;
                word.push(digit(high) << 4 | digit(low));
                at += 4;
            }
            [b'\\', escaped, ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => other,
                });
                at += 2;
            }
            [byte, ..] => {
                word.push(byte);
                at += 1;
            }
        }
    }
}

fn single_quoted(line: &[u8], mut at: usize, word: &mut Vec<u8>) -> Option<usize> {
    loop {
        match line[at..] {
            [] => return None,
            [b'\'', ..] => return Some(at + 1),
            [b'\\', b'\'', ..] => {
                word.push(b'\'');
                at += 2;
            }
            [byte, ..] => {
                word.push(byte);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: Limits =
        Limits { arguments: 1 << 20, argument_bytes: 512 << 20, is_unknown: false };
    const UNKNOWN: Limits = Limits { is_unknown: true, ..KNOWN };

    /// Every request in the bytes, which come in pieces of this length.
    fn requests(bytes: &[u8], piece: usize, limits: Limits) -> Result<Vec<Vec<Vec<u8>>>, String> {
        let (mut found, mut start, mut progress) = (Vec::new(), 0, Progress::default());
        for end in (1..=bytes.len()).filter(|end| end % piece == 0 || *end == bytes.len()) {
            let came = &bytes[..end];
            loop {
                let mut spans = Vec::new();
                match parse(came, start, limits, &mut progress, &mut spans) {
                    Parsed::Command(next) => {
                        found.push(Args::new(came, &spans).iter().map(<[u8]>::to_vec).collect());
                        start = next;
                    }
                    Parsed::Line(owned, next) => {
                        found.push(owned.args().iter().map(<[u8]>::to_vec).collect());
                        start = next;
                    }
                    Parsed::Empty(next) => start = next,
                    Parsed::Incomplete => break,
                    Parsed::Broken(text) => return Err(text),
                }
            }
        }
        Ok(found)
    }

    #[test]
    fn requests_are_the_same_however_their_bytes_come() {
        let bytes = b"*2\r\n$3\r\nGET\r\n$4\r\na\0\r\n\r\n*0\r\n\r\nSET  x \"a\\x00\\n b\" 'q\\'s'\r\n*1\r\n$12\r\nPINGPINGPING\r\n";
        let expected: Vec<Vec<Vec<u8>>> = vec![
            vec![b"GET".into(), b"a\0\r\n".into()],
            vec![b"SET".into(), b"x".into(), b"a\0\n b".into(), b"q's".into()],
            vec![b"PINGPINGPING".into()],
        ];
        for piece in 1..=bytes.len() {
            assert_eq!(requests(bytes, piece, KNOWN).unwrap(), expected, "pieces of {piece}");
        }
    }

    #[test]
    fn arguments_of_every_length_are_whole_however_their_bytes_come() {
        let lengths = [0, 9, 10, 99, 100, 101, 256, 999, 1_000];
        let words: Vec<Vec<u8>> = lengths.map(|length| vec![b'\r'; length]).into();
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in &words {
            bytes.extend(format!("${}\r\n", word.len()).into_bytes());
            bytes.extend(word);
            bytes.extend(b"\r\n");
        }
        for piece in [1, 2, 7, 100, bytes.len()] {
            assert_eq!(requests(&bytes, piece, KNOWN).unwrap(), vec![words.clone()], "{piece}");
        }
    }

    #[test]
    fn small_limits_hold_for_short_numbers_too() {
        let limits = Limits { arguments: 3, argument_bytes: 300, is_unknown: false };
        for (bytes, text) in [
            (&b"*4\r\n"[..], "Protocol error: invalid multibulk length"),
            (b"*1\r\n$301\r\n", "Protocol error: invalid bulk length"),
        ] {
            assert_eq!(requests(bytes, bytes.len(), limits).unwrap_err(), text);
        }
        assert_eq!(requests(b"*3\r\n$1\r\na\r\n", 4, limits).unwrap().len(), 0);
    }

    #[test]
    fn what_is_no_request_is_refused_in_redis_own_words() {
        for (bytes, limits, text) in [
            (&b"*x\r\n"[..], KNOWN, "Protocol error: invalid multibulk length"),
            (b"*20000000\r\n", KNOWN, "Protocol error: invalid multibulk length"),
            (b"*1\r\nx\r\n", KNOWN, "Protocol error: expected '$', got 'x'"),
            (b"*1\r\n$-1\r\n", KNOWN, "Protocol error: invalid bulk length"),
            (b"*1\r\n$9999999999\r\n", KNOWN, "Protocol error: invalid bulk length"),
            (b"*11\r\n", UNKNOWN, "Protocol error: unauthenticated multibulk length"),
            (b"*1\r\n$16385\r\n", UNKNOWN, "Protocol error: unauthenticated bulk length"),
            (b"set \"a\"b\r\n", KNOWN, "Protocol error: unbalanced quotes in request"),
        ] {
            assert_eq!(requests(bytes, 1, limits).unwrap_err(), text);
        }
        let long = vec![b'a'; LINE_BYTES_MAX + 1];
        assert!(requests(&long, 100_000, KNOWN).unwrap_err().contains("too big inline request"));
        let long = [b"*", &vec![b'1'; LINE_BYTES_MAX][..]].concat();
        assert!(requests(&long, 100_000, KNOWN).unwrap_err().contains("too big mbulk count"));
    }

    #[test]
    fn a_count_alone_takes_no_memory() {
        let (mut progress, mut spans) = (Progress::default(), Vec::new());
        let parsed = parse(b"*1000000\r\n$400000000\r\n", 0, KNOWN, &mut progress, &mut spans);
        assert!(matches!(parsed, Parsed::Incomplete));
        assert!(spans.capacity() <= AHEAD_MAX && progress.spans.capacity() <= AHEAD_MAX);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(0u8.., 0..200), piece in 1usize..50) {
            drop(requests(&bytes, piece, KNOWN));
        }

        #[test]
        fn nearly_requests_do_not_either(words in proptest::collection::vec(
            prop::sample::select(vec!["*", "$", "1", "2", "-", "\r\n", "\r", "\n", "a", "\"", "'", "\\x", " "]), 0..40),
            piece in 1usize..10,
        ) {
            drop(requests(words.concat().as_bytes(), piece, UNKNOWN));
        }
    }
}
