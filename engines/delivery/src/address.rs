use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One checked e-mail address: `someone@example.org`, in ASCII, fit for a header and for SMTP.
///
/// The part before the @ is a dot-atom (RFC 5322 §3.2.3); quoted parts and letters beyond ASCII there are
/// refused. A domain beyond ASCII is turned into its `xn--` form.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EmailAddress(lettre::Address);

/// Why a text is no e-mail address. It does not repeat the text, which may hold anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("an e-mail address needs a part before and a domain after one @")]
    Shape,
    #[error("an e-mail address is at most 254 bytes long, 64 of them before the @")]
    Length,
    #[error("letters beyond ASCII, spaces, quotes and signs are not supported before the @")]
    Local,
    #[error("the domain of the e-mail address is not valid")]
    Domain,
}

/// RFC 5321 §4.5.3.1: a path has 256 bytes with its angle brackets, a local part 64.
const BYTES_MAX: usize = 254;
const LOCAL_BYTES_MAX: usize = 64;

impl EmailAddress {
    pub fn domain(&self) -> &str {
        self.0.domain()
    }

    pub(crate) fn inner(&self) -> &lettre::Address {
        &self.0
    }
}

impl FromStr for EmailAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (local, domain) = text.rsplit_once('@').ok_or(AddressError::Shape)?;
        if local.is_empty() || domain.is_empty() {
            return Err(AddressError::Shape);
        }
        if local.len() > LOCAL_BYTES_MAX || text.len() > BYTES_MAX {
            return Err(AddressError::Length);
        }
        let is_atom = |atom: &str| !atom.is_empty() && atom.bytes().all(is_atom_byte);
        if !local.split('.').all(is_atom) {
            return Err(AddressError::Local);
        }
        let domain = domain_of(domain).ok_or(AddressError::Domain)?;
        if local.len() + 1 + domain.len() > BYTES_MAX {
            return Err(AddressError::Length);
        }
        lettre::Address::new(local, domain).map(Self).map_err(|_| AddressError::Domain)
    }
}

/// RFC 5322 `atext`.
fn is_atom_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

/// The domain as SMTP takes it: labels of letters, digits and hyphens. An address in brackets is not taken: it could
/// not be written into a header.
fn domain_of(text: &str) -> Option<String> {
    let url::Host::Domain(domain) = url::Host::parse(text).ok()? else { return None };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    // `url` decodes %41, which is no part of an e-mail address.
    (domain.split('.').all(is_label) && !text.contains('%')).then_some(domain)
}

impl fmt::Display for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for EmailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl TryFrom<String> for EmailAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<EmailAddress> for String {
    fn from(address: EmailAddress) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn usual_addresses_are_taken() {
        let taken = [
            ("a@b", "a@b"),
            ("root@localhost", "root@localhost"),
            ("first.last+tag@Example.ORG", "first.last+tag@example.org"),
            ("o'neil@example.org", "o'neil@example.org"),
            ("someone@마당.kr", "someone@xn--ok1b32k.kr"),
        ];
        for (text, written) in taken {
            let address: EmailAddress = text.parse().expect(text);
            assert_eq!(address.to_string(), written);
            assert_eq!(written.parse::<EmailAddress>().unwrap(), address);
        }
    }

    #[test]
    fn addresses_that_could_carry_more_than_an_address_are_refused() {
        let local = AddressError::Local;
        let long = format!("{}@example.org", "a".repeat(65));
        let longer = format!("a@{}example.org", "b.".repeat(130));
        let refused = [
            ("", AddressError::Shape),
            ("nobody", AddressError::Shape),
            ("@example.org", AddressError::Shape),
            ("a@", AddressError::Shape),
            ("a@b@c", local),
            ("a@example.org\r\nBcc: x@example.org", local),
            ("a\r\nRCPT TO:<x@example.org>@example.org", local),
            ("a@example.org\n", AddressError::Domain),
            ("a@exam\rple.org", AddressError::Domain),
            ("a@example.org>", AddressError::Domain),
            ("a@%65xample.org", AddressError::Domain),
            ("<a@example.org", local),
            ("A <a@example.org>", local),
            ("a,b@example.org", local),
            ("a b@example.org", local),
            ("\"a b\"@example.org", local),
            (".a@example.org", local),
            ("a..b@example.org", local),
            ("김@example.org", local),
            ("a\0@example.org", local),
            ("a@-example.org", AddressError::Domain),
            ("a@example..org", AddressError::Domain),
            ("a@example.org SIZE=1", AddressError::Domain),
            ("a@[127.0.0.1\r\n]", AddressError::Domain),
            ("a@127.0.0.1", AddressError::Domain),
            ("a@[127.0.0.1]", AddressError::Domain),
            ("a@[IPv6:::1]", AddressError::Domain),
            (&long, AddressError::Length),
            (&longer, AddressError::Length),
        ];
        for (text, error) in refused {
            assert_eq!(text.parse::<EmailAddress>(), Err(error), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_taken_stays_on_one_line_of_smtp(text in "\\PC{0,12}@\\PC{0,20}|[ -~\r\n]{0,30}") {
            if let Ok(address) = text.parse::<EmailAddress>() {
                let written = address.to_string();
                prop_assert!(written.is_ascii());
                prop_assert!(!written.bytes().any(|b| b <= b' ' || b == b'<' || b == b'>' || b == 0x7f));
                prop_assert_eq!(written.parse::<EmailAddress>().unwrap(), address);
            }
        }
    }
}
