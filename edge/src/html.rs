/// Writes text as text of HTML and of XML, in elements and in quoted attributes.
pub fn escape(text: &str, to: &mut String) {
    let mut rest = text;
    // All five are ASCII, so a cut beside one is a cut between letters.
    while let Some(at) = rest.bytes().position(|byte| entity(byte).is_some()) {
        let (before, from) = rest.split_at(at);
        to.push_str(before);
        to.push_str(entity(from.as_bytes()[0]).unwrap_or_default());
        rest = &from[1..];
    }
    to.push_str(rest);
}

/// Text as text of HTML and of XML, in elements and in quoted attributes.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    escape(text, &mut safe);
    safe
}

const fn entity(byte: u8) -> Option<&'static str> {
    match byte {
        b'&' => Some("&amp;"),
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        b'"' => Some("&quot;"),
        b'\'' => Some("&#39;"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_leaves_its_element_or_its_attribute() {
        for (text, safe) in [
            ("", ""),
            ("감사합니다", "감사합니다"),
            ("<b>'가'</b>", "&lt;b&gt;&#39;가&#39;&lt;/b&gt;"),
            ("a\"&&amp;", "a&quot;&amp;&amp;amp;"),
        ] {
            assert_eq!(escaped(text), safe);
        }
    }
}
