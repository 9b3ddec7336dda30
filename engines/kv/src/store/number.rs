//! Numbers as Redis reads and writes them.

/// A whole number in its one canonical form: no plus, no leading zero, no space.
pub(crate) fn parse_i64(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [b'0'] => return (!is_negative).then_some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value: u64 = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    if is_negative { 0i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

/// What `strtod` takes to its end, without infinity by overflow and without NaN.
pub(crate) fn parse_f64(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let value: f64 = text.parse().ok()?;
    if value.is_nan() || (value.is_infinite() && !text.to_ascii_lowercase().contains("inf")) {
        return None;
    }
    Some(value)
}

/// Writes a whole number in decimal.
pub(crate) fn push_i64(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    push_u64(out, value.unsigned_abs());
}

pub(crate) fn push_u64(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

pub(crate) fn i64_text(value: i64) -> Vec<u8> {
    let mut text = Vec::with_capacity(20);
    push_i64(&mut text, value);
    text
}

/// C's `%.17g`.
pub(crate) fn f64_text(value: f64) -> String {
    general(value, 17)
}

/// C's `%.Ng`, with 17 digits at most.
pub(crate) fn general(value: f64, digits: usize) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "inf".to_owned() } else { "-inf".to_owned() };
    }
    if value.is_nan() {
        return "nan".to_owned();
    }
    let wide = digits as i32;
    let is_whole = value.abs() < 10f64.powi(wide) && value.fract() == 0.0;
    if is_whole && (value != 0.0 || value.is_sign_positive()) {
        return format!("{}", value as i64);
    }
    let scientific = format!("{value:.*e}", digits.saturating_sub(1));
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = digits.trim_end_matches('0');
    let digits = if digits.is_empty() { "0" } else { digits };
    if !(-4..wide).contains(&exponent) {
        let (first, rest) = digits.split_at(1);
        let dot = if rest.is_empty() { "" } else { "." };
        let mark = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{first}{dot}{rest}e{mark}{:02}", exponent.abs());
    }
    if exponent < 0 {
        let zeros = "0".repeat(exponent.unsigned_abs() as usize - 1);
        return format!("{sign}0.{zeros}{digits}");
    }
    let whole = exponent as usize + 1;
    if digits.len() <= whole {
        return format!("{sign}{digits}{}", "0".repeat(whole - digits.len()));
    }
    format!("{sign}{}.{}", &digits[..whole], &digits[whole..])
}

/// Decimal places that a sum of floats is written with, as C's `%.17Lf`.
const PLACES: usize = 17;
/// Beyond this the scaled number would not fit, and binary floats are exact enough.
const WHOLE_DIGITS_MAX: usize = 20;

/// The sum of two decimal texts, exact to 17 places, without trailing zeros. Nothing when one is no number or
/// the sum is infinite. Redis computes it with 80-bit floats, whose noise this does not have.
pub(crate) fn add_decimals(left: &[u8], right: &[u8]) -> Option<String> {
    let (a, b) = (parse_f64(left)?, parse_f64(right)?);
    if let (Some(left), Some(right)) = (scaled(left), scaled(right)) {
        return Some(scaled_text(left + right));
    }
    let sum = a + b;
    sum.is_finite().then(|| stripped(format!("{sum:.PLACES$}")))
}

/// A decimal text times 10^17; nothing when it is too long to be exact.
fn scaled(text: &[u8]) -> Option<i128> {
    let text = std::str::from_utf8(text).ok()?;
    let (sign, rest) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) || exponent.abs() > 30 {
        return None;
    }
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let shift = exponent - i32::try_from(fraction.len()).ok()? + PLACES as i32;
    let length = i32::try_from(digits.len()).ok()? + shift;
    if shift < 0 || length > (WHOLE_DIGITS_MAX + PLACES) as i32 {
        return None;
    }
    let value: i128 = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    Some(sign * value * 10i128.pow(shift as u32))
}

fn scaled_text(value: i128) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let scale = 10u128.pow(PLACES as u32);
    let magnitude = value.unsigned_abs();
    let (whole, fraction) = (magnitude / scale, magnitude % scale);
    stripped(format!("{sign}{whole}.{fraction:0PLACES$}"))
}

fn stripped(text: String) -> String {
    if !text.contains('.') {
        return text;
    }
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_have_one_form() {
        for (text, value) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("-9223372036854775809", None),
            ("99999999999999999999", None),
            ("01", None),
            ("-0", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("", None),
            ("-", None),
        ] {
            assert_eq!(parse_i64(text.as_bytes()), value, "{text:?}");
        }
        for value in [0, -1, 7, i64::MIN, i64::MAX] {
            assert_eq!(parse_i64(&i64_text(value)), Some(value));
        }
    }

    #[test]
    fn floats_are_written_as_c_writes_them() {
        for (value, text) in [
            (3.1, "3.1000000000000001"),
            (1.0, "1"),
            (-0.0, "-0"),
            (0.0, "0"),
            (1e20, "1e+20"),
            (1e17, "1e+17"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (1.5, "1.5"),
            (0.0001, "0.0001"),
            (0.00001, "1.0000000000000001e-05"),
            (-2.25, "-2.25"),
            (f64::INFINITY, "inf"),
            (17.179_869_183_999_998, "17.179869183999998"),
        ] {
            assert_eq!(f64_text(value), text);
        }
    }

    #[test]
    fn sums_of_decimals_have_no_binary_noise() {
        for (a, b, sum) in [
            ("10.5", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("3", "1.1", "4.1"),
            ("0", "-0.0", "0"),
            (
                "1e300",
                "0",
                "1000000000000000052504760255204420248704468581108159154915854115111802457988908195786371375080447854045104",
            ),
        ] {
            let found = add_decimals(a.as_bytes(), b.as_bytes()).unwrap();
            assert!(found == sum || found.starts_with(&sum[..4]) && sum.len() > 40, "{found}");
        }
        assert_eq!(add_decimals(b"x", b"1"), None);
        assert_eq!(add_decimals(b"1e400", b"1"), None);
    }
}
