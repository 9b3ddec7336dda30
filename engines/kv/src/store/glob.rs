//! Patterns of KEYS, SCAN and PSUBSCRIBE.

/// Whether the pattern matches all of the text: `*`, `?`, `[a-z]`, `[^a]`, and `\` before a literal byte.
/// Its time is at most the product of both lengths.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    Glob { is_caseless: false }.matches(pattern, text)
}

pub(crate) fn matches_caseless(pattern: &[u8], text: &[u8]) -> bool {
    Glob { is_caseless: true }.matches(pattern, text)
}

/// Whether the pattern matches nothing but itself.
pub(crate) fn is_literal(pattern: &[u8]) -> bool {
    !pattern.iter().any(|byte| b"*?[\\".contains(byte))
}

struct Glob {
    is_caseless: bool,
}

impl Glob {
    fn matches(&self, pattern: &[u8], text: &[u8]) -> bool {
        let (mut p, mut t) = (0, 0);
        // Where to go on when what follows the last star does not match: one byte later.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            if p < pattern.len() && pattern[p] == b'*' {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            if p == pattern.len() && t == text.len() {
                return true;
            }
            if p < pattern.len()
                && t < text.len()
                && let Some(next) = self.one(pattern, p, text[t])
            {
                p = next;
                t += 1;
                continue;
            }
            match retry {
                Some((after_star, from)) if from < text.len() => {
                    retry = Some((after_star, from + 1));
                    p = after_star;
                    t = from + 1;
                }
                _ => return false,
            }
        }
    }

    /// Where the pattern goes on when its element at `p` matches the byte.
    fn one(&self, pattern: &[u8], p: usize, byte: u8) -> Option<usize> {
        match pattern[p] {
            b'?' => Some(p + 1),
            b'[' => self.class(pattern, p + 1, byte),
            b'\\' if p + 1 < pattern.len() => self.same(pattern[p + 1], byte).then_some(p + 2),
            literal => self.same(literal, byte).then_some(p + 1),
        }
    }

    fn class(&self, pattern: &[u8], mut p: usize, byte: u8) -> Option<usize> {
        let is_negated = pattern.get(p) == Some(&b'^');
        if is_negated {
            p += 1;
        }
        let byte = self.folded(byte);
        let mut is_found = false;
        while let Some(&element) = pattern.get(p) {
            match element {
                b'\\' if p + 1 < pattern.len() => {
                    p += 1;
                    is_found |= self.folded(pattern[p]) == byte;
                }
                b']' => {
                    return (is_found != is_negated).then_some(p + 1);
                }
                _ if pattern.get(p + 1) == Some(&b'-') && p + 2 < pattern.len() => {
                    let (a, b) = (self.folded(element), self.folded(pattern[p + 2]));
                    is_found |= (a.min(b)..=a.max(b)).contains(&byte);
                    p += 2;
                }
                _ => is_found |= self.folded(element) == byte,
            }
            p += 1;
        }
        // A class that is not closed ends with the pattern.
        (is_found != is_negated).then_some(p)
    }

    fn same(&self, a: u8, b: u8) -> bool {
        self.folded(a) == self.folded(b)
    }

    fn folded(&self, byte: u8) -> u8 {
        if self.is_caseless { byte.to_ascii_lowercase() } else { byte }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeeello", true),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("[\\]]", "]", true),
            ("[a", "a", true),
            ("foo\\", "foo\\", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
        assert!(matches_caseless(b"MAX*", b"maxmemory"));
        assert!(!matches(b"MAX*", b"maxmemory"));
    }

    #[test]
    fn a_pattern_of_stars_ends_in_time() {
        let pattern = b"a*".repeat(500);
        let text = b"a".repeat(2_000);
        assert!(!matches(&[&pattern[..], b"b"].concat(), &text));
    }
}
