//! What Disqus and WordPress export, both XML.

use std::collections::HashMap;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use super::Foreign;
use super::html::{decoded, text_of};
use crate::store::State;
use crate::{Error, Result};

/// An element that was read to its end: its own text, and those of what is in it by name.
#[derive(Default)]
struct Element {
    name: String,
    id: String,
    text: String,
    fields: HashMap<String, String>,
}

impl Element {
    fn new(start: &BytesStart<'_>) -> Self {
        let local = start.local_name();
        let name = String::from_utf8_lossy(local.as_ref()).into_owned();
        let id = start.attributes().flatten().find(|one| one.key.local_name().as_ref() == b"id");
        let id = id.map(|one| decoded(&String::from_utf8_lossy(&one.value))).unwrap_or_default();
        Self { name, id, ..Self::default() }
    }

    fn get(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", |text| text.trim())
    }

    /// What its parent keeps of it.
    fn into_parent(self, parent: &mut Self) {
        for (name, text) in self.fields {
            parent.fields.insert(format!("{}/{name}", self.name), text);
        }
        if !self.id.is_empty() {
            parent.fields.insert(format!("{}@id", self.name), self.id);
        }
        parent.fields.insert(self.name, self.text);
    }
}

/// Reads a document and tells of each element that ended, with the name of the one around it.
fn elements(text: &str, root: &str, mut ended: impl FnMut(&Element, &str)) -> Result<()> {
    let refused =
        |why: &dyn std::fmt::Display| Error::invalid("/text", format!("is no such XML: {why}"));
    let mut reader = Reader::from_str(text);
    let mut open: Vec<Element> = Vec::new();
    let mut is_right = false;
    loop {
        let event = reader.read_event().map_err(|error| refused(&error))?;
        match event {
            Event::Start(start) => {
                open.push(Element::new(&start));
                is_right |= open.len() == 1 && open[0].name == root;
                if open.len() > 64 {
                    return Err(refused(&"elements stand too deep in each other"));
                }
            }
            Event::Empty(start) => {
                if let Some(parent) = open.last_mut() {
                    Element::new(&start).into_parent(parent);
                }
            }
            Event::Text(words) => {
                let words = words.decode().map_err(|error| refused(&error))?;
                add(&mut open, &words);
            }
            Event::CData(words) => {
                let words = words.decode().map_err(|error| refused(&error))?;
                add(&mut open, &words);
            }
            Event::GeneralRef(name) => {
                let name = name.decode().map_err(|error| refused(&error))?;
                add(&mut open, &decoded(&format!("&{name};")));
            }
            Event::End(_) => {
                let Some(element) = open.pop() else { continue };
                let around = open.last().map_or("", |parent| parent.name.as_str());
                ended(&element, around);
                if let Some(parent) = open.last_mut()
                    // What holds everything keeps nothing of it.
                    && !matches!(parent.name.as_str(), "disqus" | "channel" | "rss")
                {
                    element.into_parent(parent);
                }
            }
            Event::Eof => break,
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
        }
    }
    if is_right && open.is_empty() {
        Ok(())
    } else {
        Err(refused(&format!("it does not begin with {root}")))
    }
}

fn add(open: &mut [Element], words: &str) {
    if let Some(element) = open.last_mut() {
        element.text.push_str(words);
    }
}

pub(super) fn disqus(text: &str) -> Result<Vec<Foreign>> {
    let mut threads: HashMap<String, (String, String)> = HashMap::new();
    let mut posts: Vec<(String, Foreign)> = Vec::new();
    elements(text, "disqus", |element, around| {
        if element.name == "thread" && around == "disqus" {
            let place = (element.get("link").to_owned(), element.get("title").to_owned());
            threads.insert(element.id.clone(), place);
        } else if element.name == "post" {
            let is = |name| element.get(name) == "true";
            let parent = element.get("parent@id");
            let post = Foreign {
                id: format!("disqus-{}", element.id),
                parent: (!parent.is_empty()).then(|| format!("disqus-{parent}")),
                url: String::new(),
                title: String::new(),
                name: element.get("author/name").to_owned(),
                text: text_of(element.get("message")),
                created: element.get("createdAt").to_owned(),
                state: match (is("isDeleted"), is("isSpam")) {
                    (true, _) => State::Deleted,
                    (_, true) => State::Spam,
                    _ => State::Shown,
                },
                secret: false,
                pinned: false,
                owner: false,
            };
            posts.push((element.get("thread@id").to_owned(), post));
        }
    })?;
    let placed = posts.into_iter().map(|(thread, post)| {
        let (url, title) = threads.get(&thread).cloned().unwrap_or_default();
        Foreign { url, title, ..post }
    });
    Ok(placed.collect())
}

pub(super) fn wordpress(text: &str) -> Result<Vec<Foreign>> {
    let mut all = Vec::new();
    let mut waiting: Vec<Foreign> = Vec::new();
    elements(text, "rss", |element, around| {
        if element.name == "comment" && around == "item" {
            // What other pages said about this one is no comment.
            if matches!(element.get("comment_type"), "pingback" | "trackback") {
                return;
            }
            let parent = element.get("comment_parent");
            waiting.push(Foreign {
                id: format!("wordpress-{}", element.get("comment_id")),
                parent: (!matches!(parent, "" | "0")).then(|| format!("wordpress-{parent}")),
                url: String::new(),
                title: String::new(),
                name: element.get("comment_author").to_owned(),
                text: text_of(&element.get("comment_content").replace('\n', "<br>")),
                created: format!("{}Z", element.get("comment_date_gmt").replace(' ', "T")),
                state: match element.get("comment_approved") {
                    "1" => State::Shown,
                    "0" => State::Held,
                    "spam" => State::Spam,
                    _ => State::Deleted,
                },
                secret: false,
                pinned: false,
                owner: false,
            });
        } else if element.name == "item" {
            let (url, title) = (element.get("link"), element.get("title"));
            for comment in waiting.drain(..) {
                all.push(Foreign { url: url.to_owned(), title: title.to_owned(), ..comment });
            }
        }
    })?;
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_of_disqus_is_read() {
        let text = r#"<?xml version="1.0" encoding="utf-8"?>
<disqus xmlns="http://disqus.com" xmlns:dsq="http://disqus.com/disqus-internals">
<thread dsq:id="7"><id /><link>https://a.kr/post?a=1&amp;b=2</link><title>A &amp; B</title></thread>
<post dsq:id="1"><id /><message><![CDATA[<p>Hello <b>you</b></p>]]></message><createdAt>2020-01-02T03:04:05Z</createdAt><isDeleted>false</isDeleted><isSpam>false</isSpam><author><name>Mina</name><isAnonymous>true</isAnonymous></author><thread dsq:id="7" /></post>
<post dsq:id="2"><message><![CDATA[<p>spam</p>]]></message><createdAt>2020-01-03T03:04:05Z</createdAt><isDeleted>false</isDeleted><isSpam>true</isSpam><author><name>Bot</name></author><thread dsq:id="7" /><parent dsq:id="1" /></post>
</disqus>"#;
        let all = disqus(text).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].url.as_str(), all[0].title.as_str()),
            ("https://a.kr/post?a=1&b=2", "A & B")
        );
        assert_eq!((all[0].name.as_str(), all[0].text.as_str()), ("Mina", "Hello **you**"));
        assert_eq!(all[0].created, "2020-01-02T03:04:05Z");
        assert_eq!((all[1].parent.as_deref(), all[1].state), (Some("disqus-1"), State::Spam));
    }

    #[test]
    fn an_export_of_wordpress_is_read() {
        let text = r#"<?xml version="1.0"?><rss version="2.0" xmlns:wp="http://wordpress.org/export/1.2/"><channel><title>Blog</title>
<item><title>Post</title><link>https://a.kr/post/</link>
<wp:comment><wp:comment_id>5</wp:comment_id><wp:comment_author><![CDATA[Jun]]></wp:comment_author><wp:comment_date_gmt>2020-01-02 03:04:05</wp:comment_date_gmt><wp:comment_content><![CDATA[one
two]]></wp:comment_content><wp:comment_approved>1</wp:comment_approved><wp:comment_type>comment</wp:comment_type><wp:comment_parent>0</wp:comment_parent></wp:comment>
<wp:comment><wp:comment_id>6</wp:comment_id><wp:comment_author>Bot</wp:comment_author><wp:comment_date_gmt>2020-01-02 03:04:06</wp:comment_date_gmt><wp:comment_content>x</wp:comment_content><wp:comment_approved>1</wp:comment_approved><wp:comment_type>pingback</wp:comment_type><wp:comment_parent>0</wp:comment_parent></wp:comment>
<wp:comment><wp:comment_id>7</wp:comment_id><wp:comment_author>Hana</wp:comment_author><wp:comment_date_gmt>2020-01-02 03:04:07</wp:comment_date_gmt><wp:comment_content>wait</wp:comment_content><wp:comment_approved>0</wp:comment_approved><wp:comment_type></wp:comment_type><wp:comment_parent>5</wp:comment_parent></wp:comment>
</item></channel></rss>"#;
        let all = wordpress(text).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!(
            (all[0].text.as_str(), all[0].created.as_str()),
            ("one\ntwo", "2020-01-02T03:04:05Z")
        );
        assert_eq!(all[0].url, "https://a.kr/post/");
        assert_eq!((all[1].state, all[1].parent.as_deref()), (State::Held, Some("wordpress-5")));
    }

    #[test]
    fn other_documents_are_refused() {
        for text in ["", "<html></html>", "<disqus>", "<rss><a></rss>"] {
            assert!(wordpress(text).is_err(), "{text}");
        }
    }
}
