//! What TLS itself does not say of the server's own certificate, read out of its DER.

use base::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const BOOLEAN: u8 = 0x01;
const OBJECT: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]`, around the version, and primitive within the authority's key identifier.
const VERSION: u8 = 0xA0;
const KEY_IDENTIFIER: u8 = 0x80;
/// `[3]`, around the extensions.
const EXTENSIONS: u8 = 0xA3;
/// 2.5.29.35 (RFC 5280, section 4.2.1.1).
const AUTHORITY_KEY_IDENTIFIER: [u8; 3] = [0x55, 0x1D, 0x23];

/// From when to when a certificate counts (RFC 5280, section 4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub begin: Timestamp,
    pub end: Timestamp,
}

impl Validity {
    /// Nothing where it cannot be read.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (_, rest) = numbered(certificate)?;
        // Algorithm and issuer.
        let rest = any(any(rest)?.2)?.2;
        let (_, validity, _) = element(rest, SEQUENCE)?;
        let (kind, begin, rest) = any(validity)?;
        let begin = moment(kind, begin)?;
        let (kind, end, _) = any(rest)?;
        Some(Self { begin, end: moment(kind, end)? })
    }
}

/// The key identifier of its authority and its serial number, by which the authority knows it (RFC 9773, section 4.1).
pub(crate) fn name_of(certificate: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (serial, mut rest) = numbered(certificate)?;
    while rest.first()? != &EXTENSIONS {
        rest = any(rest)?.2;
    }
    let (_, extensions, _) = any(rest)?;
    let (_, mut extensions, _) = element(extensions, SEQUENCE)?;
    while !extensions.is_empty() {
        let (_, extension, rest) = element(extensions, SEQUENCE)?;
        extensions = rest;
        let (_, object, mut value) = element(extension, OBJECT)?;
        if object != AUTHORITY_KEY_IDENTIFIER {
            continue;
        }
        if value.first() == Some(&BOOLEAN) {
            value = any(value)?.2;
        }
        let (_, value, _) = element(value, OCTETS)?;
        let (_, value, _) = element(value, SEQUENCE)?;
        let (_, identifier, _) = element(value, KEY_IDENTIFIER)?;
        return Some((identifier.to_vec(), serial.to_vec()));
    }
    None
}

/// The serial number, and what is behind it.
fn numbered(certificate: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, body, _) = element(certificate, SEQUENCE)?;
    let (_, mut body, _) = element(body, SEQUENCE)?;
    if body.first() == Some(&VERSION) {
        body = any(body)?.2;
    }
    let (_, serial, rest) = element(body, INTEGER)?;
    Some((serial, rest))
}

fn moment(kind: u8, text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
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

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, IsCa, Issuer, KeyIdMethod, KeyPair, SerialNumber,
        date_time_ymd,
    };

    use super::*;

    #[test]
    fn both_ends_are_read_in_both_forms() {
        for year in [2030, 2049, 2050, 3000] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
            params.not_before = date_time_ymd(2026, 1, 2);
            params.not_after = date_time_ymd(year, 12, 31);
            let made = params.self_signed(&key).unwrap();
            let validity = Validity::of(made.der()).unwrap();
            assert_eq!(validity.begin, "2026-01-02T00:00:00Z".parse().unwrap());
            assert_eq!(validity.end, format!("{year}-12-31T00:00:00Z").parse().unwrap());
            for length in 0..made.der().len().min(200) {
                assert_eq!(Validity::of(&made.der()[..length]), None);
                assert_eq!(name_of(&made.der()[..length]), None);
            }
        }
    }

    #[test]
    fn an_authority_knows_it_by_its_own_key_and_the_number() {
        let authority = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_identifier_method = KeyIdMethod::PreSpecified(vec![7; 20]);
        let issuer = Issuer::new(params, authority);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from_slice(&[0x80, 1, 2]));
        let made = params.signed_by(&key, &issuer).unwrap();
        assert_eq!(name_of(made.der()), None, "there is none in it");
        params.use_authority_key_identifier_extension = true;
        let made = params.signed_by(&key, &issuer).unwrap();
        assert_eq!(name_of(made.der()).unwrap(), (vec![7; 20], vec![0, 0x80, 1, 2]));
    }
}
