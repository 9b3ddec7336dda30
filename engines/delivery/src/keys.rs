//! The secrets of endpoints as their rows keep them: sealed for one row and column, with the key said beside.

use base::{OrganisationId, Seal, SealingKeyId};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::{EndpointId, Error};

/// Stands at the head of the file.
pub(crate) const WHAT: &str = "Opens the URLs and secrets of endpoints in the rows. Keep it with the backup of the rows, and \
     not in it. See docs/guides/delivery.md.";

/// A text as its row keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) key: SealingKeyId,
    /// Nonce, what is sealed and tag, in base64.
    pub(crate) text: String,
}

/// The row and column that a text is in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) column: Column,
    pub(crate) organisation: OrganisationId,
    pub(crate) row: EndpointId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Url,
    Secret,
}

impl Place {
    pub(crate) fn seal(self, seal: &Seal, text: &str) -> Sealed {
        let (key, sealed) = seal.seal(&self.said(), text.as_bytes());
        Sealed { key, text: STANDARD.encode(sealed) }
    }

    /// The text again; an error when its key is not there, or when it was changed or moved.
    pub(crate) fn open(self, seal: &Seal, Sealed { key, text }: &Sealed) -> Result<String, Error> {
        let sealed = STANDARD.decode(text).ok();
        let plain = sealed.and_then(|sealed| seal.open_under(*key, &self.said(), &sealed));
        let text = plain.and_then(|plain| String::from_utf8(plain).ok());
        text.ok_or_else(|| Error::Sealed { row: self.row, key: key.to_string() })
    }

    fn said(self) -> Vec<u8> {
        let column: &[u8] = match self.column {
            Column::Url => b"delivery_endpoints.url",
            Column::Secret => b"delivery_secrets.secret",
        };
        [column, &self.organisation.bytes()[..], &self.row.bytes()[..]].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_opens_only_in_its_row_and_column_of_its_organisation() {
        let folder = tempfile::tempdir().unwrap();
        let seal = Seal::open(&folder.path().join("keys"), WHAT, &base::Base::system()).unwrap();
        let organisation = OrganisationId::DEFAULT;
        let place = Place { column: Column::Url, organisation, row: EndpointId::fixed(1) };
        let sealed = place.seal(&seal, "https://hooks.slack.com/secret");
        assert_eq!(place.open(&seal, &sealed).unwrap(), "https://hooks.slack.com/secret");
        let elsewhere = [
            Place { row: EndpointId::fixed(2), ..place },
            Place { column: Column::Secret, ..place },
            Place { organisation: OrganisationId::fixed(9), ..place },
        ];
        for other in elsewhere {
            let error = other.open(&seal, &sealed).unwrap_err().to_string();
            assert!(error.contains(&sealed.key.to_string()), "{error}");
        }
        let broken = Sealed { text: "not base64".to_owned(), ..sealed };
        assert!(matches!(place.open(&seal, &broken), Err(Error::Sealed { .. })));
    }
}
