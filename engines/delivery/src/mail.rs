//! From a row to the bytes of an e-mail. The same row gives the same bytes at every attempt.

use std::time::{Duration, UNIX_EPOCH};

use base::{OrganisationId, Timestamp};
use lettre::message::header::{
    ContentTransferEncoding, ContentType, HeaderName, HeaderValue, MIME_VERSION_1_0,
};
use lettre::message::{Body, Mailbox};
use sha2::{Digest, Sha256};

use crate::EmailAddress;

/// What an e-mail is made of.
pub(crate) struct Parts<'a> {
    pub(crate) from: &'a Mailbox,
    pub(crate) to: &'a EmailAddress,
    pub(crate) subject: &'a str,
    pub(crate) body: &'a str,
    pub(crate) message_id: &'a str,
    pub(crate) created: Timestamp,
}

/// The `Message-ID` header: of the idempotency key, so that a repeat is known for one by every mailbox.
pub(crate) fn message_id(organisation: OrganisationId, key: &str, domain: &str) -> String {
    format!("<{}@{domain}>", digest(organisation, key))
}

/// The `webhook-id`: of the idempotency key, without a full stop, which would blur what is signed.
pub(crate) fn webhook_id(organisation: OrganisationId, key: &str) -> String {
    format!("msg_{}", digest(organisation, key))
}

fn digest(organisation: OrganisationId, key: &str) -> String {
    let digest = Sha256::new().chain_update(organisation.bytes()).chain_update(key).finalize();
    let mut text = String::with_capacity(32);
    for byte in &digest[..16] {
        text.push(char::from(b"0123456789abcdef"[usize::from(byte >> 4)]));
        text.push(char::from(b"0123456789abcdef"[usize::from(byte & 15)]));
    }
    text
}

/// One line: what could end a header or confuse a reader of it becomes a space.
pub(crate) fn one_line(text: &str) -> String {
    let is_break = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let spaced: String = text.chars().map(|c| if is_break(c) { ' ' } else { c }).collect();
    spaced.trim().to_owned()
}

pub(crate) fn compose(parts: &Parts<'_>) -> Result<Vec<u8>, lettre::error::Error> {
    let micros = u64::try_from(parts.created.micros()).unwrap_or(0);
    let mut message = lettre::Message::builder()
        .from(parts.from.clone())
        .to(Mailbox::new(None, parts.to.inner().clone()))
        .subject(one_line(parts.subject))
        .message_id(Some(parts.message_id.to_owned()))
        .date(UNIX_EPOCH + Duration::from_micros(micros))
        .header(MIME_VERSION_1_0)
        .header(ContentType::TEXT_PLAIN)
        .body(body_of(parts.body))?;
    // RFC 3834: nobody's out-of-office assistant answers.
    message.headers_mut().insert_raw(HeaderValue::new(
        HeaderName::new_from_ascii_str("Auto-Submitted"),
        "auto-generated".to_owned(),
    ));
    Ok(message.formatted())
}

/// Lines end in CRLF only, and bytes that SMTP forbids or that servers read differently travel encoded.
fn body_of(text: &str) -> Body {
    let lines = text.replace("\r\n", "\n").replace(['\r', '\n'], "\r\n");
    if text.chars().any(|c| c.is_control() && !matches!(c, '\r' | '\n' | '\t')) {
        let encoding = ContentTransferEncoding::Base64;
        return Body::new_with_encoding(lines, encoding).unwrap_or_else(Body::new);
    }
    Body::new(lines)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn composed(subject: &str, body: &str) -> String {
        let from = Mailbox::new(Some("마당".into()), "madang@example.org".parse().unwrap());
        let to = "a@example.org".parse().unwrap();
        let created = Timestamp::from_millis(1_357_034_400_000);
        let id = message_id(OrganisationId::DEFAULT, "event/0", "example.org");
        let parts = Parts { from: &from, to: &to, subject, body, message_id: &id, created };
        String::from_utf8(compose(&parts).unwrap()).unwrap()
    }

    fn headers(mail: &str) -> Vec<String> {
        let (head, _) = mail.split_once("\r\n\r\n").unwrap();
        head.replace("\r\n ", " ").split("\r\n").map(str::to_owned).collect()
    }

    #[test]
    fn a_mail_has_these_headers_and_no_others() {
        let mail = composed("Hot", "temp is 91");
        let lines = headers(&mail);
        let mut names: Vec<_> = lines.iter().filter_map(|line| line.split(':').next()).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "Auto-Submitted",
                "Content-Transfer-Encoding",
                "Content-Type",
                "Date",
                "From",
                "MIME-Version",
                "Message-ID",
                "Subject",
                "To"
            ]
        );
        assert!(mail.contains("Date: Tue, 01 Jan 2013 10:00:00 +0000\r\n"), "{mail}");
        assert!(mail.contains("Content-Type: text/plain; charset=utf-8\r\n"), "{mail}");
        assert!(mail.ends_with("\r\n\r\ntemp is 91"), "{mail}");
        assert_eq!(mail, composed("Hot", "temp is 91"), "a retry has the same bytes");
    }

    #[test]
    fn a_message_id_depends_on_organisation_and_key_only() {
        let id = |number, key| message_id(OrganisationId::fixed(number), key, "example.org");
        assert_eq!(id(1, "a"), id(1, "a"));
        assert_ne!(id(1, "a"), id(2, "a"));
        assert_ne!(id(1, "a"), id(1, "b"));
        assert_eq!(id(1, "a\r\nBcc: x").len(), "<@example.org>".len() + 32);
        let webhook = webhook_id(OrganisationId::fixed(1), "a.b\r\nx: y");
        assert!(webhook.strip_prefix("msg_").unwrap().bytes().all(|b| b.is_ascii_hexdigit()));
    }

    #[test]
    fn a_subject_cannot_add_a_header() {
        for subject in [
            "Hot\r\nBcc: victim@example.org",
            "Hot\nBcc: victim@example.org",
            "Hot\rBcc: victim@example.org",
            "Hot\r\n\r\nBcc: victim@example.org",
            "더움\r\nBcc: victim@example.org",
            "Hot\0Bcc: victim@example.org",
            "Hot\u{2028}Bcc: victim@example.org",
            "Hot\u{85}Bcc: victim@example.org",
        ] {
            let lines = headers(&composed(subject, ""));
            assert_eq!(lines.len(), 9, "{lines:?}");
            assert!(!lines.iter().any(|line| line.starts_with("Bcc")), "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_adds_a_header_or_leaves_seven_bits(subject in any::<String>(), body in any::<String>()) {
            let mail = composed(&subject, &body);
            prop_assert!(mail.is_ascii());
            prop_assert!(!mail.contains('\0'));
            prop_assert_eq!(mail.matches('\r').count(), mail.matches("\r\n").count());
            prop_assert_eq!(mail.matches('\n').count(), mail.matches("\r\n").count());
            prop_assert!(mail.split("\r\n").all(|line| line.len() <= 998));
            prop_assert_eq!(headers(&mail).len(), 9);
        }
    }
}
