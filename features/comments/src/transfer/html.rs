//! Comments of others are HTML; ours are a part of Markdown. What has no mark of ours is text.

use crate::markup;

/// The text of an HTML fragment, with the marks that we have. A tag is never kept.
pub(super) fn text_of(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut links: Vec<String> = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find(['<', '&']) {
        literal(&rest[..at], &mut text);
        rest = &rest[at..];
        if rest.starts_with('&') {
            let (letter, length) = entity(rest);
            literal(letter.encode_utf8(&mut [0; 4]), &mut text);
            rest = &rest[length..];
            continue;
        }
        let is_tag = rest[1..]
            .starts_with(|first: char| first.is_ascii_alphabetic() || "/!".contains(first));
        let Some(end) = rest.find('>').filter(|_| is_tag) else {
            text.push('<');
            rest = &rest[1..];
            continue;
        };
        tag(&rest[1..end], &mut text, &mut links);
        rest = &rest[end + 1..];
    }
    literal(rest, &mut text);
    tidy(&text)
}

/// Text of a page, in which our marks are no marks.
fn literal(words: &str, to: &mut String) {
    for letter in words.chars() {
        if matches!(letter, '*' | '_' | '~' | '`' | '[' | ']' | '\\') {
            to.push('\\');
        }
        to.push(letter);
    }
}

fn tag(inside: &str, text: &mut String, links: &mut Vec<String>) {
    let is_end = inside.starts_with('/');
    let inside = inside.trim_start_matches('/');
    let name = inside.split(|one: char| !one.is_ascii_alphanumeric()).next().unwrap_or_default();
    match name.to_ascii_lowercase().as_str() {
        "br" => text.push('\n'),
        "li" if !is_end => text.push_str("\n- "),
        "blockquote" if !is_end => text.push_str("\n\n> "),
        "p" | "div" | "ul" | "ol" | "h1" | "h2" | "h3" | "blockquote" => text.push_str("\n\n"),
        "b" | "strong" => text.push_str("**"),
        "i" | "em" => text.push('*'),
        "s" | "del" | "strike" => text.push_str("~~"),
        "a" if !is_end => {
            let target = attribute(inside, "href").unwrap_or_default();
            // Where it is no link of ours, its words stay.
            let is_link = markup::links(&markup::parse(&format!("[x]({target})"))) == 1;
            links.push(if is_link { target } else { String::new() });
            if is_link {
                text.push('[');
            }
        }
        "a" => {
            let target = links.pop().unwrap_or_default();
            if !target.is_empty() {
                text.push_str("](");
                text.push_str(&target);
                text.push(')');
            }
        }
        _ => {}
    }
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let at = tag.to_ascii_lowercase().find(&format!("{name}="))?;
    let value = &tag[at + name.len() + 1..];
    let value = match value.chars().next()? {
        mark @ ('"' | '\'') => value[1..].split(mark).next()?,
        _ => value.split_whitespace().next()?,
    };
    Some(decoded(value))
}

/// A text with its entities as letters.
pub(super) fn decoded(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        plain.push_str(&rest[..at]);
        let (letter, length) = entity(&rest[at..]);
        plain.push(letter);
        rest = &rest[at + length..];
    }
    plain.push_str(rest);
    plain
}

/// The letter that an entity stands for and its length; an ampersand when it is none.
fn entity(text: &str) -> (char, usize) {
    let known = || {
        let end = text.char_indices().take(12).find(|(_, letter)| *letter == ';')?.0;
        let name = &text[1..end];
        let letter = match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            "nbsp" => ' ',
            _ => {
                let number = name.strip_prefix('#')?;
                let code = match number.strip_prefix(['x', 'X']) {
                    Some(digits) => u32::from_str_radix(digits, 16).ok()?,
                    None => number.parse().ok()?,
                };
                char::from_u32(code).filter(|letter| !letter.is_control() || *letter == '\n')?
            }
        };
        Some((letter, end + 1))
    };
    known().unwrap_or(('&', 1))
}

/// At most one empty line between two others, and no space at the ends.
fn tidy(text: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim) {
        if !line.is_empty() || lines.last().is_some_and(|last| !last.is_empty()) {
            lines.push(line);
        }
    }
    lines.join("\n").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_become_text_with_our_marks() {
        for (html, wanted) in [
            ("<p>Hello <b>you</b></p><p>two<br>lines</p>", "Hello **you**\n\ntwo\nlines"),
            (
                "see <a href=\"https://a.kr/?x=1&amp;y=2\" rel=nofollow>this</a>",
                "see [this](https://a.kr/?x=1&y=2)",
            ),
            ("<a href='javascript:alert(1)'>click</a>", "click"),
            ("1 &lt; 2 &amp;&amp; 3 > 2 &#39;x&#x27; &bogus;", "1 < 2 && 3 > 2 'x' &bogus;"),
            ("2 * 3 * 4 and snake_case", "2 \\* 3 \\* 4 and snake\\_case"),
            ("<script>alert(1)</script><img src=x onerror=alert(1)>", "alert(1)"),
            ("a < b", "a < b"),
            ("<ul><li>one</li><li>two</li></ul>", "- one\n- two"),
        ] {
            assert_eq!(text_of(html), wanted, "{html}");
        }
    }
}
