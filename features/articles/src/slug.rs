use base::Entropy;

/// A slug has at most this many bytes before what makes it unique.
const BYTES_MAX: usize = 80;

/// The words of a title in lower case with hyphens between; letters of every script stay. `article` where there are none.
pub(crate) fn slug_of(title: &str) -> String {
    let mut slug = String::with_capacity(title.len());
    for letter in title.chars().flat_map(char::to_lowercase) {
        let is_word = letter.is_alphanumeric();
        if is_word && slug.len() + letter.len_utf8() > BYTES_MAX {
            break;
        }
        if is_word {
            slug.push(letter);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    let slug = slug.trim_end_matches('-');
    match slug {
        "" => "article".to_owned(),
        // They are paths of their own.
        slug if RESERVED.contains(&slug) => format!("article-{slug}"),
        slug => slug.to_owned(),
    }
}

/// Beside `/articles/{slug}` there are these.
const RESERVED: [&str; 4] = ["feed", "drafts", "search", "reports"];

/// What is put behind a slug that somebody has already: 40 bits of chance.
pub(crate) fn suffix(entropy: &Entropy) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut number = entropy.number();
    let letters = (0..8).map(|_| {
        let letter = LETTERS[(number % 32) as usize];
        number /= 32;
        char::from(letter)
    });
    letters.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_has_the_words_of_the_title() {
        let cases = [
            ("How to train your dragon", "how-to-train-your-dragon"),
            ("  C++ & Rust: 2026!  ", "c-rust-2026"),
            ("오늘의 날씨, 그리고 마당", "오늘의-날씨-그리고-마당"),
            ("???", "article"),
            ("Feed", "article-feed"),
            ("", "article"),
        ];
        for (title, slug) in cases {
            assert_eq!(slug_of(title), slug, "{title:?}");
        }
        let long = slug_of(&"마당 ".repeat(100));
        assert!(long.len() <= BYTES_MAX && !long.ends_with('-'), "{long}");
    }
}
