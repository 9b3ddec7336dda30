use base::Timestamp;

/// As programs in browsers write moments: `2026-11-21T18:03:39.123Z`, with three digits always.
pub(crate) fn written(moment: Timestamp) -> String {
    let millis = moment.millis();
    let (days, of_day) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    let (year, month, day) = date(days);
    let (seconds, milli) = (of_day / 1_000, of_day % 1_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let mut text = String::with_capacity(24);
    for (number, digits, after) in [
        (year, 4, "-"),
        (month, 2, "-"),
        (day, 2, "T"),
        (hour, 2, ":"),
        (minute, 2, ":"),
        (second, 2, "."),
        (milli, 3, "Z"),
    ] {
        let mut unit = 10_i64.pow(digits - 1);
        while unit > 0 {
            let digit = u8::try_from(number / unit % 10).unwrap_or_default();
            text.push(char::from(b'0' + digit));
            unit /= 10;
        }
        text.push_str(after);
    }
    text
}

/// The civil date of a day since 1970 (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_three_digits_after_the_second() {
        let cases = [
            ("2026-11-21T18:03:39.123456Z", "2026-11-21T18:03:39.123Z"),
            ("2024-02-29T23:59:59.999Z", "2024-02-29T23:59:59.999Z"),
            ("2000-03-01T00:00:00Z", "2000-03-01T00:00:00.000Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.500Z"),
        ];
        for (given, wanted) in cases {
            assert_eq!(written(given.parse().unwrap()), wanted);
        }
    }
}
