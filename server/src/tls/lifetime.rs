//! When a certificate ends, read out of its DER: the one thing that TLS itself does not say of the server's own.

use base::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, around the version.
const VERSION: u8 = 0xA0;

/// The end of its validity (RFC 5280, section 4.1.2.5); nothing where it cannot be read.
pub(super) fn end_of(certificate: &[u8]) -> Option<Timestamp> {
    let (_, body, _) = element(certificate, SEQUENCE)?;
    let (_, mut body, _) = element(body, SEQUENCE)?;
    if body.first() == Some(&VERSION) {
        body = any(body)?.2;
    }
    // Serial number, algorithm and issuer.
    for _ in 0..3 {
        body = any(body)?.2;
    }
    let (_, validity, _) = element(body, SEQUENCE)?;
    let (_, _, rest) = any(validity)?;
    let (kind, end, _) = any(rest)?;
    let text = std::str::from_utf8(end).ok()?.strip_suffix('Z')?;
    let text = match kind {
        // Two digits of the year: from 1950 on.
        UTC_TIME if text.get(..2)? < "50" => format!("20{text}"),
        UTC_TIME => format!("19{text}"),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let moment = DateTime::strptime("%Y%m%d%H%M%S", text).ok()?;
    let moment = TimeZone::UTC.to_timestamp(moment).ok()?;
    Some(Timestamp::from_millis(moment.as_millisecond()))
}

/// The first element: its tag, what is in it and what is behind it.
fn any(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
        if digits.is_empty() || digits.len() > 4 {
            return None;
        }
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn element(bytes: &[u8], tag: u8) -> Option<(u8, &[u8], &[u8])> {
    any(bytes).filter(|(found, ..)| *found == tag)
}
