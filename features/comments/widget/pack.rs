//! Takes remarks and needless space out of a script of ours; texts, templates and patterns stay as they are.
//!
//! It is no parser of the language: a pattern begins where a value can, a statement ends with a semicolon or a brace, none is empty
//! before a brace, and no list ends with a hole.

/// The same script, shorter.
pub(super) fn pack(script: &str) -> String {
    let mut packed = String::with_capacity(script.len());
    let mut rest = script;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\'' | '"' => quoted(rest, first),
            '`' => {
                let length = template(rest, &mut packed);
                rest = &rest[length..];
                continue;
            }
            '/' if rest.starts_with("//") => {
                rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
                continue;
            }
            '/' if begins_a_value(&packed) => pattern(rest),
            first if first.is_whitespace() => {
                rest = rest.trim_start();
                let before = packed.chars().next_back();
                if before.is_some_and(is_of_word) && rest.chars().next().is_some_and(is_of_word) {
                    packed.push(' ');
                }
                continue;
            }
            first => first.len_utf8(),
        };
        // What a bracket ends needs no end of its own.
        let is_needless = match first {
            '}' => packed.ends_with([',', ';']),
            ')' | ']' => packed.ends_with(','),
            _ => false,
        };
        if is_needless {
            packed.pop();
        }
        packed.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    packed
}

fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_' || letter == '$'
}

fn begins_a_value(before: &str) -> bool {
    before.chars().next_back().is_none_or(|letter| "(,=:[!&|?{};".contains(letter))
}

/// The length of a text, its marks included.
fn quoted(text: &str, mark: char) -> usize {
    let mut is_escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            letter if letter == mark => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of a pattern between slashes; a slash within brackets does not end it.
fn pattern(text: &str) -> usize {
    let (mut is_escaped, mut is_class) = (false, false);
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '[' => is_class = true,
            ']' => is_class = false,
            '/' if !is_class => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Writes a template with what is computed in it packed, and says how long it was.
fn template(text: &str, packed: &mut String) -> usize {
    packed.push('`');
    let mut at = 1;
    while let Some(letter) = text[at..].chars().next() {
        if letter == '`' {
            packed.push('`');
            return at + 1;
        }
        if let Some(inside) = text[at..].strip_prefix("${") {
            let length = computed(inside);
            packed.push_str("${");
            packed.push_str(&pack(&inside[..length]));
            packed.push('}');
            at += 2 + length + 1;
            continue;
        }
        let length = letter.len_utf8();
        let length = if letter == '\\' {
            1 + text[at + 1..].chars().next().map_or(0, char::len_utf8)
        } else {
            length
        };
        packed.push_str(&text[at..at + length]);
        at += length;
    }
    text.len()
}

/// How long it is up to the brace that ends it.
fn computed(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while let Some(letter) = text[at..].chars().next() {
        match letter {
            '`' => {
                at += template(&text[at..], &mut String::new());
                continue;
            }
            '\'' | '"' => {
                at += quoted(&text[at..], letter);
                continue;
            }
            '{' => depth += 1,
            '}' if depth == 0 => return at,
            '}' => depth -= 1,
            _ => {}
        }
        at += letter.len_utf8();
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn space_and_remarks_go_and_texts_stay() {
        for (script, wanted) in [
            ("const a = 1; // one\nreturn  a", "const a=1;return a"),
            ("go(() => { a([1, 2,], { b, },); });", "go(()=>{a([1,2],{b})});"),
            ("say('a  // b', \"it's  \\\" c\")", "say('a  // b',\"it's  \\\" c\")"),
            ("x = /a  \\/ [/ ]'/ .test( y ) / 2", "x=/a  \\/ [/ ]'/.test(y)/2"),
            ("`a  ${ b + `c  ${ d }` }  e`", "`a  ${b+`c  ${d}`}  e`"),
            ("`a ${ b ? '}' : c }`", "`a ${b?'}':c}`"),
        ] {
            assert_eq!(pack(script), wanted);
        }
    }
}
