//! Filters (RFC 7644, section 3.4.2.2): one or more of `attribute eq "value"`, joined by `and`. It is what directories ask to
//! find again whom they know; anything else is refused by name.

use base::AccountId;
use identity::{GroupsFilter, PeopleFilter};
use serde_json::Value;

use super::schemas;

/// Nothing where nobody can be meant: an id that is none.
pub(super) fn users(filter: Option<&str>) -> edge::Result<Option<PeopleFilter>> {
    let mut wanted = PeopleFilter::default();
    for (attribute, value) in conditions(filter)? {
        let text = || value.as_str().map(str::to_owned).ok_or_else(|| wrong("wants a text"));
        match &*attribute {
            "id" => match text()?.parse() {
                Ok(id) => wanted.id = Some(id),
                Err(_) => return Ok(None),
            },
            "username" => wanted.user_name = Some(text()?),
            "externalid" => wanted.outside_id = Some(text()?),
            "emails" | "emails.value" => wanted.email = Some(text()?),
            "active" => {
                let is_active = value.as_bool().ok_or_else(|| wrong("active is true or false"))?;
                wanted.is_suspended = Some(!is_active);
            }
            _ => return Err(unknown(&attribute, "id, userName, externalId, emails.value, active")),
        }
    }
    Ok(Some(wanted))
}

pub(super) fn groups(filter: Option<&str>) -> edge::Result<Option<GroupsFilter>> {
    let mut wanted = GroupsFilter::default();
    for (attribute, value) in conditions(filter)? {
        let text = value.as_str().ok_or_else(|| wrong("wants a text"))?.to_owned();
        match &*attribute {
            "id" => match text.parse() {
                Ok(id) => wanted.id = Some(id),
                Err(_) => return Ok(None),
            },
            "displayname" => wanted.name = Some(text),
            "externalid" => wanted.outside_id = Some(text),
            "members" | "members.value" => match text.parse::<AccountId>() {
                Ok(id) => wanted.member = Some(id),
                Err(_) => return Ok(None),
            },
            _ => return Err(unknown(&attribute, "id, displayName, externalId, members.value")),
        }
    }
    Ok(Some(wanted))
}

fn wrong(detail: impl Into<String>) -> edge::Error {
    edge::Error::unreadable("the filter cannot be read").at("filter", detail)
}

fn unknown(attribute: &str, known: &str) -> edge::Error {
    let attribute: String = attribute.chars().take(60).collect();
    wrong(format!("does not look at {attribute}; it looks at {known}"))
}

/// Attributes in lower case, without the name of a schema, and what each is to be.
pub(super) fn conditions(filter: Option<&str>) -> edge::Result<Vec<(String, Value)>> {
    let mut rest = filter.unwrap_or_default().trim();
    let mut found = vec![];
    while !rest.is_empty() {
        let (attribute, after) = attribute(rest)?;
        let (operator, after) = word(after);
        if !operator.eq_ignore_ascii_case("eq") {
            let operator: String = operator.chars().take(60).collect();
            return Err(wrong(format!("knows eq and and, not {operator:?}")));
        }
        let (value, after) = value(after)?;
        found.push((attribute, value));
        let (joint, after) = word(after);
        match joint {
            "" => break,
            joint if joint.eq_ignore_ascii_case("and") && !after.trim().is_empty() => {
                rest = after.trim_start();
            }
            _ => return Err(wrong("wants and between two conditions")),
        }
    }
    Ok(found)
}

fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    text.split_at(text.find(char::is_whitespace).unwrap_or(text.len()))
}

/// `userName`, `emails.value`, `emails[type eq "work"].value`, each also after its schema's name and a colon.
pub(super) fn attribute(text: &str) -> edge::Result<(String, &str)> {
    let text = text.trim_start();
    let mut end = text.len();
    let mut depth = 0_usize;
    let mut is_quoted = false;
    for (at, letter) in text.char_indices() {
        match letter {
            '"' => is_quoted = !is_quoted,
            '[' if !is_quoted => depth += 1,
            ']' if !is_quoted => depth = depth.saturating_sub(1),
            letter if letter.is_whitespace() && !is_quoted && depth == 0 => {
                end = at;
                break;
            }
            _ => {}
        }
    }
    if is_quoted || depth > 0 {
        return Err(wrong("has a bracket or a quote that does not end"));
    }
    let (path, rest) = text.split_at(end);
    Ok((plain(path), rest))
}

/// An attribute's path in lower case, without the name of a schema before it and what stands in brackets.
pub(super) fn plain(path: &str) -> String {
    let mut plain = String::new();
    let mut depth = 0_usize;
    for letter in path.chars() {
        match letter {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            letter if depth == 0 => plain.extend(letter.to_lowercase()),
            _ => {}
        }
    }
    for schema in [schemas::USER, schemas::GROUP] {
        if let Some(rest) = plain.strip_prefix(&schema.to_lowercase()) {
            return rest.trim_start_matches(':').to_owned();
        }
    }
    plain
}

/// A value of JSON, as filters have them.
fn value(text: &str) -> edge::Result<(Value, &str)> {
    let text = text.trim_start();
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next().and_then(Result::ok).ok_or_else(|| wrong("wants a value of JSON"))?;
    if value.is_object() || value.is_array() || value.is_null() {
        return Err(wrong("wants a text or true or false"));
    }
    let end = values.byte_offset();
    Ok((value, &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_directories_ask_is_read() {
        let filter = |text: &str| users(Some(text)).unwrap().unwrap();
        assert_eq!(users(None).unwrap(), Some(PeopleFilter::default()));
        assert_eq!(filter("userName eq \"Mina@B.c\"").user_name.as_deref(), Some("Mina@B.c"));
        assert_eq!(filter("username EQ \"a \\\"b\\\"\"").user_name.as_deref(), Some("a \"b\""));
        let of_work = filter("emails[type eq \"work\"].value eq \"mina@b.c\"");
        assert_eq!(of_work.email.as_deref(), Some("mina@b.c"));
        let both = filter("externalId eq \"7\" and active eq true");
        assert_eq!((both.outside_id.as_deref(), both.is_suspended), (Some("7"), Some(false)));
        let named = filter("urn:ietf:params:scim:schemas:core:2.0:User:userName eq \"x\"");
        assert_eq!(named.user_name.as_deref(), Some("x"));
        assert_eq!(users(Some("id eq \"no id\"")).unwrap(), None, "nobody");
        let group = groups(Some("displayName eq \"Roofs\"")).unwrap().unwrap();
        assert_eq!(group.name.as_deref(), Some("Roofs"));
    }

    #[test]
    fn what_is_not_looked_at_is_refused_and_nothing_is_guessed() {
        for text in [
            "userName",
            "userName eq",
            "userName eq mina",
            "userName co \"mi\"",
            "userName pr",
            "title eq \"x\"",
            "userName eq \"a\" or userName eq \"b\"",
            "userName eq \"a\" and",
            "userName eq \"a\" userName eq \"b\"",
            "not (userName eq \"a\")",
            "(userName eq \"a\")",
            "active eq \"true\"",
            "userName eq true",
            "userName eq {\"a\":1}",
            "emails[type eq \"work\".value eq \"a\"",
        ] {
            assert!(users(Some(text)).is_err(), "{text}");
        }
    }
}
