//! HTML. Everything that people wrote goes through [`escaped`] or [`markdown`].

use std::fmt::Write;
use std::sync::LazyLock;

use axum::http::{HeaderMap, header};
use base::Page;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use edge::escaped;
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd};
use sha2::{Digest, Sha256};

use crate::Result;
use crate::article::{Article, tags_of};
use crate::comment::Comment;

const STYLE: &str = include_str!("style.css");

/// Nothing runs in these pages: they have no script, and the browser is told so.
pub(super) fn policy() -> &'static str {
    static POLICY: LazyLock<String> = LazyLock::new(|| {
        let style = STANDARD.encode(Sha256::digest(STYLE));
        format!(
            "default-src 'none'; style-src 'sha256-{style}'; img-src 'self' https: data:; \
             base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
        )
    });
    &POLICY
}

/// The language of what stands around the texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    Korean,
    English,
}

impl Language {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let wanted = headers.get(header::ACCEPT_LANGUAGE).and_then(|wanted| wanted.to_str().ok());
        let mut tags =
            wanted.unwrap_or_default().split(',').map(|tag| tag.trim().to_ascii_lowercase());
        let known = |tag: String| match tag.get(..2) {
            Some("ko") => Some(Self::Korean),
            Some("en") => Some(Self::English),
            _ => None,
        };
        tags.find_map(known).unwrap_or(Self::English)
    }

    fn code(self) -> &'static str {
        match self {
            Self::Korean => "ko",
            Self::English => "en",
        }
    }

    fn say(self, korean: &'static str, english: &'static str) -> &'static str {
        match self {
            Self::Korean => korean,
            Self::English => english,
        }
    }
}

/// A page of the list, and what it is a list of.
pub(super) struct Listing {
    pub(super) q: Option<String>,
    pub(super) tag: Option<String>,
    pub(super) author: Option<String>,
    pub(super) page: Page<Article>,
}

/// What stands in the head of a page.
struct Head<'a> {
    title: &'a str,
    description: &'a str,
    /// Below the origin.
    path: &'a str,
    kind: &'static str,
    /// More of it, already HTML.
    more: &'a str,
    is_listed: bool,
}

pub(super) fn list(origin: &str, language: Language, listing: &Listing) -> Result<String> {
    let Listing { q, tag, author, page } = listing;
    let all = language.say("글", "Articles");
    let (title, path) = match (q, tag, author) {
        (Some(q), _, _) => (format!("{q} · {all}"), format!("/articles?q={}", encoded(q))),
        (_, Some(tag), _) => (format!("#{tag} · {all}"), format!("/articles?tag={}", encoded(tag))),
        (_, _, Some(name)) => {
            (format!("{name} · {all}"), format!("/articles?author={}", encoded(name)))
        }
        _ => (all.to_owned(), "/articles".to_owned()),
    };
    let mut body = String::new();
    let asked = escaped(q.as_deref().unwrap_or_default());
    let look = language.say("찾기", "Search");
    put(
        &mut body,
        format_args!(
            "<form action=\"/articles\" role=\"search\"><input type=\"search\" name=\"q\" \
             aria-label=\"{look}\" value=\"{asked}\"><button>{look}</button></form><h1>{}</h1>",
            escaped(&title)
        ),
    );
    if page.items.is_empty() {
        put(&mut body, format_args!("<p>{}</p>", language.say("글이 없습니다.", "No articles.")));
    }
    for article in &page.items {
        let href = format!("/articles/{}", encoded(&article.slug));
        put(
            &mut body,
            format_args!(
                "<article><h2><a href=\"{href}\">{}</a></h2><p>{}</p>",
                escaped(&article.title),
                escaped(&article.description)
            ),
        );
        byline(&mut body, article)?;
        body.push_str("</article>");
    }
    if let Some(next) = &page.next {
        let join = if path.contains('?') { '&' } else { '?' };
        let href = format!("{path}{join}after={}", encoded(next));
        let older = language.say("이전 글", "Older");
        put(
            &mut body,
            format_args!("<nav><a rel=\"next\" href=\"{}\">{older}</a></nav>", escaped(&href)),
        );
    }
    let head = Head {
        title: &title,
        description: &title,
        path: &path,
        kind: "website",
        more: "",
        // What a search finds is for who searched.
        is_listed: q.is_none(),
    };
    Ok(whole(origin, language, &head, &body))
}

pub(super) fn article(
    origin: &str,
    language: Language,
    article: &Article,
    comments: &[Comment],
) -> Result<String> {
    let mut more = String::new();
    for (property, moment) in
        [("published_time", article.created), ("modified_time", article.updated)]
    {
        put(
            &mut more,
            format_args!("<meta property=\"article:{property}\" content=\"{moment:.3}\">"),
        );
    }
    let author = escaped(&article.author.username);
    put(&mut more, format_args!("<meta name=\"author\" content=\"{author}\">"));
    for tag in tags_of(&article.tags)? {
        let tag = escaped(&tag);
        put(&mut more, format_args!("<meta property=\"article:tag\" content=\"{tag}\">"));
    }
    let image = article.author.image.as_deref().filter(|image| image.starts_with("https://"));
    if let Some(image) = image {
        let image = escaped(image);
        put(&mut more, format_args!("<meta property=\"og:image\" content=\"{image}\">"));
    }
    let mut body = String::new();
    put(&mut body, format_args!("<article><h1>{}</h1>", escaped(&article.title)));
    byline(&mut body, article)?;
    let text = markdown(article.body.as_deref().unwrap_or_default());
    put(&mut body, format_args!("<div class=\"text\">{text}</div></article>"));
    let said = language.say("댓글", "Comments");
    put(&mut body, format_args!("<section><h2>{said} {}</h2>", comments.len()));
    for comment in comments {
        let moment = format!("{:.3}", comment.created);
        put(
            &mut body,
            format_args!(
                "<article id=\"comment-{}\"><p class=\"by\"><b>{}</b> <time datetime=\"{moment}\">{}</time></p>\
                 <p class=\"said\">{}</p></article>",
                comment.id,
                escaped(&comment.author.username),
                &moment[..10],
                escaped(&comment.body)
            ),
        );
    }
    body.push_str("</section>");
    let path = format!("/articles/{}", encoded(&article.slug));
    let (title, description) = (&*article.title, &*article.description);
    let head =
        Head { title, description, path: &path, kind: "article", more: &more, is_listed: true };
    Ok(whole(origin, language, &head, &body))
}

/// A page that says why there is none.
pub(super) fn refusal(status: u16, detail: &str) -> String {
    let title = if status == 404 { "Not found · 없는 글" } else { "Madang" };
    let body = format!(
        "<h1>{title}</h1><p>{}</p><p><a href=\"/articles\">/articles</a></p>",
        escaped(detail)
    );
    let head = Head {
        title,
        description: title,
        path: "/articles",
        kind: "website",
        more: "",
        is_listed: false,
    };
    whole("", Language::English, &head, &body)
}

fn byline(body: &mut String, article: &Article) -> Result<()> {
    let moment = format!("{:.3}", article.created);
    let name = &article.author.username;
    put(
        body,
        format_args!(
            "<p class=\"by\"><a href=\"/articles?author={}\">{}</a> <time datetime=\"{moment}\">{}</time> ♥ {}",
            encoded(name),
            escaped(name),
            &moment[..10],
            article.favourites
        ),
    );
    for tag in tags_of(&article.tags)? {
        let (to, tag) = (encoded(&tag), escaped(&tag));
        put(body, format_args!(" <a rel=\"tag\" href=\"/articles?tag={to}\">#{tag}</a>"));
    }
    body.push_str("</p>");
    Ok(())
}

fn whole(origin: &str, language: Language, head: &Head<'_>, body: &str) -> String {
    let (title, description) = (escaped(head.title), escaped(head.description));
    let url = escaped(&format!("{origin}{}", head.path));
    let code = language.code();
    let mut page = String::with_capacity(body.len() + STYLE.len() + 2_048);
    put(
        &mut page,
        format_args!(
            "<!doctype html><html lang=\"{code}\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
             <meta name=\"description\" content=\"{description}\">\
             <meta property=\"og:title\" content=\"{title}\">\
             <meta property=\"og:description\" content=\"{description}\">\
             <meta property=\"og:type\" content=\"{}\">\
             <meta property=\"og:site_name\" content=\"Madang\">\
             <meta name=\"twitter:card\" content=\"summary\">{}",
            head.kind, head.more
        ),
    );
    if head.is_listed {
        put(
            &mut page,
            format_args!(
                "<link rel=\"canonical\" href=\"{url}\"><meta property=\"og:url\" content=\"{url}\">"
            ),
        );
    } else {
        page.push_str("<meta name=\"robots\" content=\"noindex\">");
    }
    put(
        &mut page,
        format_args!(
            "<style>{STYLE}</style></head><body><header><a href=\"/articles\">{}</a></header>\
             <main>{body}</main></body></html>",
            language.say("글", "Articles")
        ),
    );
    page
}

fn put(page: &mut String, words: std::fmt::Arguments<'_>) {
    page.write_fmt(words).expect("writing to a string cannot fail");
}

/// A part of a URL.
fn encoded(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                safe.push(char::from(byte));
            }
            byte => put(&mut safe, format_args!("%{byte:02X}")),
        }
    }
    safe
}

/// CommonMark as HTML. HTML in it is shown as text, and an address leads only where a page may lead.
pub(super) fn markdown(text: &str) -> String {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
    let mut is_link = Vec::new();
    let events = Parser::new_ext(text, options).map(|event| match event {
        Event::Html(html) | Event::InlineHtml(html) => Event::Text(html),
        Event::Start(Tag::Link { dest_url, .. }) => {
            let leads = leads(&dest_url, &["https:", "http:", "mailto:"]);
            is_link.push(leads);
            let open = if leads {
                format!("<a rel=\"nofollow ugc noopener\" href=\"{}\">", escaped(&dest_url))
            } else {
                String::new()
            };
            Event::InlineHtml(CowStr::from(open))
        }
        Event::End(TagEnd::Link) => {
            let close = if is_link.pop().unwrap_or(false) { "</a>" } else { "" };
            Event::InlineHtml(CowStr::from(close))
        }
        Event::Start(Tag::Image { link_type, dest_url, title, id }) => {
            let dest_url = if leads(&dest_url, &["https:"]) { dest_url } else { CowStr::from("") };
            Event::Start(Tag::Image { link_type, dest_url, title, id })
        }
        event => event,
    });
    let mut page = String::with_capacity(text.len() * 3 / 2);
    pulldown_cmark::html::push_html(&mut page, events);
    page
}

/// Whether an address has one of the schemes, or is a path of this place.
fn leads(address: &str, schemes: &[&str]) -> bool {
    let address = address.trim_start().to_ascii_lowercase();
    let is_path =
        (address.starts_with('/') && !address.starts_with("//")) || address.starts_with('#');
    is_path || schemes.iter().any(|scheme| address.starts_with(scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_people_wrote_runs() {
        let corpus = [
            "<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
            "a <b onmouseover=alert(1)>b</b>",
            "[x](javascript:alert(1))",
            "[x](JaVaScRiPt:alert(1))",
            "[x]( javascript:alert(1))",
            "[x](java\nscript:alert(1))",
            "[x](&#106;avascript:alert(1))",
            "[x](data:text/html;base64,PHNjcmlwdD4=)",
            "[x](vbscript:x)",
            "[x](//evil.example)",
            "![x](javascript:alert(1))",
            "![x](http://tracker.example/a.png)",
            "![\" onerror=\"alert(1)](https://a.example/a.png)",
            "[x](https://a.example/\"onmouseover=\"alert(1))",
            "<https://a.example/?\"><script>alert(1)</script>",
            "```\"><script>\nalert(1)\n```",
            "``` js\" onload=\"alert(1)\nx\n```",
            "<!-- --><iframe src=javascript:alert(1)>",
            "<svg/onload=alert(1)>",
            "[x]: javascript:alert(1)\n\n[x]",
            "| a |\n|---|\n| <script>alert(1)</script> |",
        ];
        for text in corpus {
            let page = markdown(text);
            assert!(tags_are_ours(&page), "{text:?} became {page:?}");
        }
    }

    /// Every tag has a name that the renderer writes, and only attributes that it writes.
    fn tags_are_ours(page: &str) -> bool {
        const NAMES: &str = " p a b em strong code pre h1 h2 h3 h4 h5 h6 ul ol li blockquote img br hr table \
            thead tbody tr th td del ";
        page.split('<').skip(1).all(|rest| {
            let Some((tag, _)) = rest.split_once('>') else { return false };
            let tag = tag.trim_start_matches('/').trim_end_matches('/').trim();
            let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            let is_known = NAMES.contains(&format!(" {name} "));
            // Between quoted values stand names of attributes.
            let mut names =
                attributes.split('"').step_by(2).map(|name| name.trim().trim_end_matches('='));
            let are_known = names.all(|name| {
                matches!(
                    name,
                    "" | "href" | "rel" | "src" | "alt" | "title" | "class" | "start" | "style"
                )
            });
            let values: Vec<&str> = attributes.split('"').skip(1).step_by(2).collect();
            let is_safe = values.iter().all(|value| {
                let value = value.to_ascii_lowercase().replace(['\n', ' '], "");
                !value.starts_with("javascript:")
                    && !value.starts_with("data:")
                    && !value.starts_with("vbscript:")
            });
            is_known && are_known && is_safe
        })
    }

    #[test]
    fn common_markdown_is_shown() {
        let page = markdown(
            "# 제목\n\n*a* **b** `c` ~~d~~\n\n- [x](https://a.example/?a=1&b=2)\n- y\n\n| a |\n|---|\n| 1 |",
        );
        for part in [
            "<h1>제목</h1>",
            "<em>a</em>",
            "<strong>b</strong>",
            "<code>c</code>",
            "<del>d</del>",
            "<li><a rel=\"nofollow ugc noopener\" href=\"https://a.example/?a=1&amp;b=2\">x</a></li>",
            "<td>1</td>",
        ] {
            assert!(page.contains(part), "{part} is not in {page}");
        }
    }

    #[test]
    fn the_language_is_the_first_that_is_known() {
        let of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_LANGUAGE, text.parse().unwrap());
            Language::of(&headers)
        };
        assert_eq!(of("fr, ko-KR;q=0.8, en;q=0.5"), Language::Korean);
        assert_eq!(of("en-GB, ko"), Language::English);
        assert_eq!(Language::of(&HeaderMap::new()), Language::English);
    }
}
