//! One-time codes by time (RFC 6238): HMAC-SHA-1, 30 seconds, six digits, which is what every app for them takes.

use base::Timestamp;
use ring::hmac;

/// RFC 4226 section 4 wants 128 bits and recommends 160.
pub(crate) const SECRET_BYTES: usize = 20;
const STEP_SECONDS: i64 = 30;
const DIGITS: usize = 6;
/// Steps that a clock may be off.
const DRIFT: i64 = 1;

/// The number of the step that a moment is in.
pub(crate) fn step(now: Timestamp) -> i64 {
    now.millis().div_euclid(1_000 * STEP_SECONDS)
}

/// The code of a step.
pub(crate) fn code(secret: &[u8], step: i64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let tag = tag.as_ref();
    let from = usize::from(tag[tag.len() - 1] & 0x0f);
    let word = u32::from_be_bytes([tag[from] & 0x7f, tag[from + 1], tag[from + 2], tag[from + 3]]);
    format!("{:0DIGITS$}", word % 1_000_000)
}

/// The step whose code this is, of the present one and its neighbours, and later than the last one that was used.
pub(crate) fn step_of(secret: &[u8], given: &str, now: Timestamp, last: i64) -> Option<i64> {
    use subtle::ConstantTimeEq;
    let present = step(now);
    let mut found = None;
    for step in present - DRIFT..=present + DRIFT {
        let is_it = bool::from(code(secret, step).as_bytes().ct_eq(given.as_bytes()));
        if is_it && step > last {
            found = Some(step);
        }
    }
    found
}

pub(crate) fn is_code(given: &str) -> bool {
    given.len() == DIGITS && given.bytes().all(|byte| byte.is_ascii_digit())
}

/// RFC 4648, without padding, as apps for codes read secrets.
pub(crate) fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    for chunk in bytes.chunks(5) {
        let mut five = [0; 8];
        five[3..3 + chunk.len()].copy_from_slice(chunk);
        let bits = u64::from_be_bytes(five);
        for letter in 0..(chunk.len() * 8).div_ceil(5) {
            let at = (bits >> (35 - 5 * letter)) & 31;
            text.push(char::from(LETTERS[usize::try_from(at).unwrap_or(0)]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_rfc() {
        // Appendix B of RFC 6238; the last six of its eight digits.
        let secret = b"12345678901234567890";
        for (seconds, wanted) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            let now = Timestamp::from_millis(seconds * 1_000);
            assert_eq!(code(secret, step(now)), wanted, "{seconds}");
        }
    }

    #[test]
    fn a_clock_may_be_one_step_off_and_a_step_counts_once() {
        let secret = b"12345678901234567890";
        let now = Timestamp::from_millis(1_111_111_111_000);
        let present = step(now);
        for (off, is_taken) in [(-2, false), (-1, true), (0, true), (1, true), (2, false)] {
            let code = code(secret, present + off);
            assert_eq!(step_of(secret, &code, now, 0).is_some(), is_taken, "{off}");
        }
        let given = code(secret, present);
        assert_eq!(step_of(secret, &given, now, present - 1), Some(present));
        assert_eq!(step_of(secret, &given, now, present), None, "it was used");
        assert_eq!(step_of(secret, "", now, 0), None);
    }

    #[test]
    fn base32_is_that_of_the_rfc() {
        for (bytes, wanted) in
            [("", ""), ("f", "MY"), ("fo", "MZXQ"), ("foo", "MZXW6"), ("foobar", "MZXW6YTBOI")]
        {
            assert_eq!(base32(bytes.as_bytes()), wanted);
        }
    }
}
