//! Events of keys, published to `__keyspace@N__:key` and `__keyevent@N__:event`.

pub(crate) type Class = u32;

pub(crate) const KEYSPACE: Class = 1 << 0;
pub(crate) const KEYEVENT: Class = 1 << 1;
pub(crate) const GENERIC: Class = 1 << 2;
pub(crate) const STRING: Class = 1 << 3;
pub(crate) const LIST: Class = 1 << 4;
pub(crate) const SET: Class = 1 << 5;
pub(crate) const HASH: Class = 1 << 6;
pub(crate) const SORTED: Class = 1 << 7;
pub(crate) const EXPIRED: Class = 1 << 8;
pub(crate) const EVICTED: Class = 1 << 9;
pub(crate) const STREAM: Class = 1 << 10;
pub(crate) const MISS: Class = 1 << 11;
const MODULE: Class = 1 << 13;
pub(crate) const NEW: Class = 1 << 14;
/// What `A` stands for.
const ALL: Class =
    GENERIC | STRING | LIST | SET | HASH | SORTED | EXPIRED | EVICTED | STREAM | MODULE;

const LETTERS: &[(char, Class)] = &[
    ('g', GENERIC),
    ('$', STRING),
    ('l', LIST),
    ('s', SET),
    ('h', HASH),
    ('z', SORTED),
    ('x', EXPIRED),
    ('e', EVICTED),
    ('t', STREAM),
    ('d', MODULE),
];
const OTHERS: &[(char, Class)] = &[('K', KEYSPACE), ('E', KEYEVENT), ('m', MISS), ('n', NEW)];

/// Reads `notify-keyspace-events`.
pub(crate) fn parse(text: &str) -> Option<Class> {
    text.chars().try_fold(0, |classes, letter| {
        if letter == 'A' {
            return Some(classes | ALL);
        }
        let mut known = LETTERS.iter().chain(OTHERS);
        known.find(|(known, _)| *known == letter).map(|(_, class)| classes | class)
    })
}

/// Writes it in the order that Redis does.
pub(crate) fn text(classes: Class) -> String {
    let mut text = String::new();
    if classes & ALL == ALL {
        text.push('A');
    } else {
        text.extend(LETTERS.iter().filter(|(_, class)| classes & class != 0).map(|(l, _)| *l));
    }
    text.extend(OTHERS.iter().filter(|(_, class)| classes & class != 0).map(|(l, _)| *l));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_and_written() {
        for (given, written) in [("KEA", "AKE"), ("Kg$", "g$K"), ("", ""), ("KEgxmn", "gxKEmn")] {
            assert_eq!(text(parse(given).unwrap()), written);
        }
        assert_eq!(parse("Q"), None);
    }
}
