use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use crate::asset::{Encoding, asset};

/// The `Content-Security-Policy` of the console.
///
/// The import map is the one script inside `index.html`; its hash is taken from the file itself, so it cannot drift.
pub fn content_security_policy() -> String {
    let index =
        asset("index.html", Encoding::Identity).expect("index.html is embedded").body.bytes();
    let index = std::str::from_utf8(&index).expect("index.html is UTF-8; a test reads it");
    let hashes: Vec<String> = inline_scripts(index)
        .iter()
        .map(|script| format!(" 'sha256-{}'", STANDARD.encode(Sha256::digest(script.as_bytes()))))
        .collect();
    let hashes = hashes.concat();
    format!(
        "default-src 'none'; script-src 'self'{hashes}; style-src 'self'; img-src 'self' data:; \
         connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types default"
    )
}

/// The text of each `<script>` that has no `src`.
fn inline_scripts(html: &str) -> Vec<&str> {
    html.split("<script")
        .skip(1)
        .filter_map(|rest| rest.split_once('>'))
        .filter(|(attributes, _)| !attributes.contains("src="))
        .filter_map(|(_, rest)| rest.split_once("</script>"))
        .map(|(text, _)| text)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> String {
        let index = asset("index.html", Encoding::Identity).unwrap();
        String::from_utf8(index.body.bytes().to_vec()).unwrap()
    }

    #[test]
    fn the_import_map_is_the_only_inline_script_and_the_policy_names_its_hash() {
        let index = index();
        let scripts = inline_scripts(&index);
        assert_eq!(scripts.len(), 1);
        let map: serde_json::Value = serde_json::from_str(scripts[0]).unwrap();
        assert!(map["imports"]["preact"].is_string());
        let hash = STANDARD.encode(Sha256::digest(scripts[0].as_bytes()));
        assert!(content_security_policy().contains(&format!("'self' 'sha256-{hash}'")));
    }

    #[test]
    fn a_changed_import_map_changes_the_hash() {
        assert_eq!(inline_scripts("<script type=a>x</script><script src=\"b\"></script>"), ["x"]);
    }

    #[test]
    fn the_page_needs_no_inline_style_and_no_inline_handler() {
        let index = index();
        for word in
            [" style=", " onload=", " onclick=", "<style", "javascript:", "http://", "https://"]
        {
            assert!(!index.contains(word), "{word}");
        }
        assert!(!content_security_policy().contains("unsafe"));
    }
}
