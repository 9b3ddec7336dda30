//! The part of Markdown that comments have, read into a tree of few tags. Nothing is ever HTML from a writer: browsers
//! build elements from the tree, and HTML is written from it with every text escaped.
//!
//! Paragraphs, line breaks, `**strong**`, `*emphasis*`, `~~struck~~`, `` `code` ``, fenced code, `> quotes`, lists, `[links](https://…)` and
//! bare addresses. Everything else is text.

use std::fmt::Write as _;

use edge::escape;
use serde::ser::{Serialize, SerializeSeq, Serializer};
use url::Url;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    Text(String),
    Tag(&'static str, Vec<Node>),
    /// Where it leads, checked.
    Link(String, Vec<Node>),
}

/// As it is kept and sent: a text, `["em", …]`, or `["a", "https://…", …]`.
impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (tag, target, inside) = match self {
            Self::Text(text) => return serializer.serialize_str(text),
            Self::Tag(tag, inside) => (*tag, None, inside),
            Self::Link(target, inside) => ("a", Some(target), inside),
        };
        let mut list = serializer.serialize_seq(None)?;
        list.serialize_element(tag)?;
        if let Some(target) = target {
            list.serialize_element(target)?;
        }
        for node in inside {
            list.serialize_element(node)?;
        }
        list.end()
    }
}

/// How deep quotes and emphasis may stand in each other; deeper ones are text.
const DEPTH_MAX: usize = 6;

pub(crate) fn parse(text: &str) -> Vec<Node> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    blocks(&text.lines().collect::<Vec<_>>(), 0)
}

/// How many links there are, for rules about them.
pub(crate) fn links(nodes: &[Node]) -> usize {
    nodes
        .iter()
        .map(|node| match node {
            Node::Text(_) => 0,
            Node::Tag(_, inside) => links(inside),
            Node::Link(_, inside) => 1 + links(inside),
        })
        .sum()
}

/// HTML for readers without a script, such as those of feeds.
pub(crate) fn html(nodes: &[Node]) -> String {
    let mut html = String::new();
    write_html(nodes, &mut html);
    html
}

fn write_html(nodes: &[Node], html: &mut String) {
    for node in nodes {
        match node {
            Node::Text(text) => escape(text, html),
            Node::Tag("br", _) => html.push_str("<br>"),
            Node::Tag(tag, inside) => {
                write!(html, "<{tag}>").expect("writing to a string cannot fail");
                write_html(inside, html);
                write!(html, "</{tag}>").expect("writing to a string cannot fail");
            }
            Node::Link(target, inside) => {
                html.push_str("<a href=\"");
                escape(target, html);
                html.push_str("\" rel=\"nofollow ugc noopener\">");
                write_html(inside, html);
                html.push_str("</a>");
            }
        }
    }
}

fn blocks(lines: &[&str], depth: usize) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let begin = at;
        if line.trim().is_empty() {
            at += 1;
        } else if line.trim_start().starts_with("```") {
            at += 1;
            let code = taken(lines, &mut at, |line| !line.trim_start().starts_with("```"));
            at += 1;
            let code = Node::Tag("code", vec![Node::Text(code.join("\n"))]);
            nodes.push(Node::Tag("pre", vec![code]));
        } else if quoted(line).is_some() && depth < DEPTH_MAX {
            let inside = taken(lines, &mut at, |line| quoted(line).is_some());
            let inside: Vec<&str> = inside.iter().filter_map(|line| quoted(line)).collect();
            nodes.push(Node::Tag("blockquote", blocks(&inside, depth + 1)));
        } else if let Some((kind, _)) = listed(line) {
            let items =
                taken(lines, &mut at, |line| listed(line).is_some_and(|(it, _)| it == kind));
            let items = items.iter().filter_map(|line| listed(line));
            nodes.push(Node::Tag(
                kind,
                items.map(|(_, text)| Node::Tag("li", inline(text))).collect(),
            ));
        } else {
            // The first line belongs to it, whatever it looks like: a quote that is too deep.
            at += 1;
            taken(lines, &mut at, |line| {
                !line.trim().is_empty()
                    && !line.trim_start().starts_with("```")
                    && quoted(line).is_none()
                    && listed(line).is_none()
            });
            let mut inside = Vec::new();
            for (index, line) in lines[begin..at].iter().enumerate() {
                if index > 0 {
                    inside.push(Node::Tag("br", Vec::new()));
                }
                inside.extend(inline(line.trim()));
            }
            nodes.push(Node::Tag("p", inside));
        }
    }
    nodes
}

/// The lines from here on that fit.
fn taken<'a, 'b>(
    lines: &'b [&'a str],
    at: &mut usize,
    fits: impl Fn(&str) -> bool,
) -> &'b [&'a str] {
    let begin = *at;
    while *at < lines.len() && fits(lines[*at]) {
        *at += 1;
    }
    &lines[begin..*at]
}

fn quoted(line: &str) -> Option<&str> {
    let line = line.trim_start().strip_prefix('>')?;
    Some(line.strip_prefix(' ').unwrap_or(line))
}

fn listed(line: &str) -> Option<(&'static str, &str)> {
    let line = line.trim_start();
    if let Some(text) = line.strip_prefix("- ").or_else(|| line.strip_prefix("* ")) {
        return Some(("ul", text));
    }
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let text = line.get(digits..)?.strip_prefix(". ")?;
    (1..=3).contains(&digits).then_some(("ol", text))
}

fn inline(text: &str) -> Vec<Node> {
    Inline::default().read(text, 0, true)
}

/// What is marked inside a line.
#[derive(Default)]
struct Inline {
    /// Marks that have no end any more, so that a line of marks is not searched once for each.
    unended: Vec<(&'static str, usize)>,
}

/// Marks and their tags; the longer ones first.
const MARKS: &[(&str, &str)] = &[("**", "strong"), ("~~", "del"), ("*", "em"), ("_", "em")];

impl Inline {
    fn read(&mut self, text: &str, depth: usize, may_link: bool) -> Vec<Node> {
        let (mut nodes, mut plain, mut at) = (Vec::new(), String::new(), 0);
        // What is known of ends holds for one text only.
        let outer = std::mem::take(&mut self.unended);
        while let Some(letter) = text[at..].chars().next() {
            let before = text[..at].chars().next_back();
            if let Some((node, length)) = self.marked(&text[at..], before, (depth, may_link)) {
                if !plain.is_empty() {
                    nodes.push(Node::Text(std::mem::take(&mut plain)));
                }
                nodes.push(node);
                at += length;
                continue;
            }
            if letter == '\\'
                && let Some(next) = text[at + 1..].chars().next().filter(char::is_ascii_punctuation)
            {
                plain.push(next);
                at += 2;
                continue;
            }
            plain.push(letter);
            at += letter.len_utf8();
        }
        if !plain.is_empty() {
            nodes.push(Node::Text(plain));
        }
        self.unended = outer;
        nodes
    }

    /// Something marked that begins here, and how long it is.
    fn marked(
        &mut self,
        text: &str,
        before: Option<char>,
        (depth, may_link): (usize, bool),
    ) -> Option<(Node, usize)> {
        if let Some(rest) = text.strip_prefix('`') {
            let end = self.end("`", rest)?;
            let code = Node::Tag("code", vec![Node::Text(rest[..end].to_owned())]);
            return (end > 0).then_some((code, end + 2));
        }
        if may_link && let Some(rest) = text.strip_prefix('[') {
            return self.link(rest, depth);
        }
        if may_link && text.starts_with("http") && !before.is_some_and(char::is_alphanumeric) {
            return bare_link(text);
        }
        let (mark, tag) = MARKS.iter().find(|(mark, _)| text.starts_with(mark))?;
        // A word with underscores in it is a name.
        if depth >= DEPTH_MAX || (*mark == "_" && before.is_some_and(char::is_alphanumeric)) {
            return None;
        }
        let rest = &text[mark.len()..];
        let end = self.end(mark, rest)?;
        let inside = &rest[..end];
        let is_marked = end > 0
            && !inside.starts_with(char::is_whitespace)
            && !inside.ends_with(char::is_whitespace);
        let next = rest[end + mark.len()..].chars().next();
        if !is_marked || (*mark == "_" && next.is_some_and(char::is_alphanumeric)) {
            return None;
        }
        let node = Node::Tag(tag, self.read(inside, depth + 1, may_link));
        Some((node, end + 2 * mark.len()))
    }

    fn link(&mut self, rest: &str, depth: usize) -> Option<(Node, usize)> {
        let middle = self.end("](", rest)?;
        let target = &rest[middle + 2..];
        let end = self.end(")", target)?;
        let address = checked(&target[..end])?;
        let inside = self.read(&rest[..middle], depth + 1, false);
        (!inside.is_empty()).then_some((Node::Link(address, inside), 1 + middle + 2 + end + 1))
    }

    /// Where a mark ends, from the beginning of what is left.
    fn end(&mut self, mark: &'static str, rest: &str) -> Option<usize> {
        if self.unended.iter().any(|(known, left)| *known == mark && rest.len() <= *left) {
            return None;
        }
        let found = rest.find(mark);
        if found.is_none() {
            self.unended.push((mark, rest.len()));
        }
        found
    }
}

fn bare_link(text: &str) -> Option<(Node, usize)> {
    if !text.starts_with("http://") && !text.starts_with("https://") {
        return None;
    }
    let end = text.find(|letter: char| letter.is_whitespace() || "<>\"'`".contains(letter));
    let address = text[..end.unwrap_or(text.len())]
        .trim_end_matches(['.', ',', ')', ':', ';', '!', '?', '*', '_', '~']);
    let target = checked(address)?;
    Some((Node::Link(target, vec![Node::Text(address.to_owned())]), address.len()))
}

/// An address that a link may lead to, as the parser of addresses writes it.
fn checked(address: &str) -> Option<String> {
    let url = Url::parse(address.trim()).ok()?;
    match url.scheme() {
        "http" | "https" if url.host_str().is_some_and(|host| !host.is_empty()) => Some(url.into()),
        "mailto" => Some(url.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn made(text: &str) -> String {
        html(&parse(text))
    }

    #[test]
    fn what_is_marked_becomes_elements() {
        for (text, wanted) in [
            ("hello\nthere", "<p>hello<br>there</p>"),
            ("one\n\ntwo", "<p>one</p><p>two</p>"),
            (
                "**a** *b* _c_ ~~d~~ `e*f*`",
                "<p><strong>a</strong> <em>b</em> <em>c</em> <del>d</del> <code>e*f*</code></p>",
            ),
            ("**a *b* c**", "<p><strong>a <em>b</em> c</strong></p>"),
            ("snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"),
            (
                "> quoted\n> more\n\nmine",
                "<blockquote><p>quoted<br>more</p></blockquote><p>mine</p>",
            ),
            ("- a\n- b\n1. c", "<ul><li>a</li><li>b</li></ul><ol><li>c</li></ol>"),
            (
                "```rust\nlet a = 1 < 2;\n```\nend",
                "<pre><code>let a = 1 &lt; 2;</code></pre><p>end</p>",
            ),
            ("\\*not\\*", "<p>*not*</p>"),
            (
                "[Isso](https://isso-comments.de)",
                "<p><a href=\"https://isso-comments.de/\" rel=\"nofollow ugc noopener\">Isso</a></p>",
            ),
            (
                "see https://a.kr/글, or",
                "<p>see <a href=\"https://a.kr/%EA%B8%80\" rel=\"nofollow ugc noopener\">https://a.kr/글</a>, or</p>",
            ),
            ("안녕 **하세요**!", "<p>안녕 <strong>하세요</strong>!</p>"),
            ("", ""),
        ] {
            assert_eq!(made(text), wanted, "{text}");
        }
    }

    #[test]
    fn links_lead_to_the_web_and_to_mail_only() {
        for text in [
            "[x](javascript:alert(1))",
            "[x](JaVaScRiPt:alert(1))",
            "[x](java\nscript:alert(1))",
            "[x](data:text/html,<script>alert(1)</script>)",
            "[x](vbscript:x)",
            "[x](//evil.example)",
            "[x](/path)",
            "[x]( \tjavascript:alert(1))",
        ] {
            assert!(!made(text).contains("<a"), "{text}: {}", made(text));
        }
        assert_eq!(links(&parse("[x](https://a.kr) and https://b.kr *https://c.kr*")), 3);
    }

    proptest! {
        #[test]
        fn only_our_own_tags_are_ever_written(text in "[ab<>&\"'`*_~\\[\\]()!/:\\\\ \n>.-]{0,80}|(<script>|\\[x\\]\\(javascript:|onerror=|https://a.kr/|\\*\\*|`|\n|> |- ){0,12}") {
            let html = made(&text);
            let mut rest = html.as_str();
            while let Some(begin) = rest.find('<') {
                let end = begin + rest[begin..].find('>').unwrap();
                let tag = rest[begin + 1..end].trim_start_matches('/');
                let is_plain = ["p", "br", "strong", "em", "del", "code", "pre", "blockquote", "ul", "ol", "li", "a"].contains(&tag);
                let is_link = tag.starts_with("a href=\"http") && tag.ends_with("\" rel=\"nofollow ugc noopener\"") && tag.matches('"').count() == 4;
                prop_assert!(is_plain || is_link, "{tag} of {text}");
                rest = &rest[end + 1..];
            }
        }

        #[test]
        fn reading_ends_soon(mark in "[*_~`\\[>(!]{1,3}") {
            let text: String = mark.repeat(5_000).chars().take(5_000).collect();
            parse(&text);
        }
    }
}
