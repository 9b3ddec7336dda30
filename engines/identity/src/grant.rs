use relational::Row;
use serde::{Deserialize, Serialize};

use crate::Error;

/// What may be done to what. An action is `devices.write`, `devices.*` or `*`; a resource is a path in the
/// organisation, `device/roof-1`, or the beginning of one with a star, `device/*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    pub action: String,
    pub resource: String,
}

const ACTION_BYTES_MAX: usize = 100;
const RESOURCE_BYTES_MAX: usize = 1_000;

impl Grant {
    pub fn new(action: impl Into<String>, resource: impl Into<String>) -> Self {
        Self { action: action.into(), resource: resource.into() }
    }

    /// Everything in the organisation.
    pub fn all() -> Self {
        Self::new("*", "*")
    }

    /// Whether the grant is written as a grant can be.
    pub fn check(&self) -> Result<(), Error> {
        let action = self.action.strip_suffix(".*").unwrap_or(&self.action);
        let is_word = |word: &str| {
            !word.is_empty()
                && word.bytes().all(|byte| {
                    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte)
                })
        };
        let is_action = self.action == "*" || action.split('.').all(is_word);
        if !is_action || self.action.len() > ACTION_BYTES_MAX {
            return Err(Error::Grant(format!("names no action: {}", shown(&self.action))));
        }
        let resource = self.resource.strip_suffix('*').unwrap_or(&self.resource);
        if self.resource.is_empty()
            || resource.contains('*')
            || resource.contains(char::is_control)
            || self.resource.len() > RESOURCE_BYTES_MAX
        {
            return Err(Error::Grant(format!("names no resource: {}", shown(&self.resource))));
        }
        Ok(())
    }

    pub(crate) fn of(row: &Row) -> Result<Self, Error> {
        Ok(Self { action: row.get("action")?, resource: row.get("resource")? })
    }

    /// Whether it lets somebody do this to that.
    pub fn allows(&self, action: &str, resource: &str) -> bool {
        covers(&self.action, action) && covers(&self.resource, resource)
    }

    /// Whether whatever `other` allows is allowed by this one too.
    pub(crate) fn includes(&self, other: &Self) -> bool {
        // A pattern matches exactly what begins as it does, so it covers another pattern's text too.
        covers(&self.action, &other.action) && covers(&self.resource, &other.resource)
    }
}

/// The first of some grants that allows what whoever has `own` may not do.
pub(crate) fn too_wide<'a>(own: &[Grant], wanted: &'a [Grant]) -> Option<&'a Grant> {
    wanted.iter().find(|wanted| !own.iter().any(|own| own.includes(wanted)))
}

/// A trailing star stands for any rest; `devices.*` needs the dot, so it does not reach `devicesx`.
fn covers(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => text.starts_with(beginning),
        None => pattern == text,
    }
}

/// A caller's own words, short enough for a message.
fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn grants_are_written_in_one_way() {
        let check = |action: &str, resource: &str| Grant::new(action, resource).check().is_ok();
        for action in ["*", "devices.*", "devices.write", "lake.query", "a-b.c_d"] {
            assert!(check(action, "*"), "{action}");
        }
        for action in
            ["", ".", "*.*", "**", "devices.", ".x", "Devices.read", "a..b", "dev*", "a b"]
        {
            assert!(!check(action, "*"), "{action}");
        }
        for resource in ["*", "device/*", "device/roof-1", "mqtt/data/옥상"] {
            assert!(check("*", resource), "{resource}");
        }
        for resource in ["", "a*b", "**", "a/*/b", "a\n"] {
            assert!(!check("*", resource), "{resource}");
        }
        assert!(!check("*", &"x".repeat(1_001)));
    }

    /// Tries every way to read the star, one letter at a time.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) | (b"*", _) => true,
            ([p, pattern @ ..], [t, text @ ..]) => p == t && naive(pattern, text),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_a_naive_matcher_says(
            pattern in "[ab/]{0,4}\\*?",
            text in "[ab/*]{0,6}",
        ) {
            prop_assert_eq!(covers(&pattern, &text), naive(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn whoever_includes_a_grant_allows_all_that_it_allows(
            wide in "[ab/]{0,2}\\*?",
            narrow in "[ab/]{0,3}\\*?",
            text in "[ab/]{0,5}",
        ) {
            let wide = Grant::new("*", wide);
            let narrow = Grant::new("x.y", narrow);
            if wide.includes(&narrow) && narrow.allows("x.y", &text) {
                prop_assert!(wide.allows("x.y", &text));
            }
        }

        #[test]
        fn what_is_not_included_has_something_that_is_not_allowed(
            wide in "[ab]{0,2}\\*?",
            narrow in "[ab]{0,3}\\*?",
        ) {
            let wide = Grant::new("*", wide);
            let narrow = Grant::new("x.y", narrow);
            if !wide.includes(&narrow) {
                let text = narrow.resource.trim_end_matches('*');
                let longer = format!("{text}c");
                let both_allowed = [text, &longer].iter().all(|text| {
                    !narrow.allows("x.y", text) || wide.allows("x.y", text)
                });
                prop_assert!(!both_allowed);
            }
        }
    }
}
