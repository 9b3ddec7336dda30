//! People and groups in the words of RFC 7643.

use base::OrganisationId;
use identity::{Group, Person};
use serde_json::{Map, Value, json};

use super::filter::plain;
use super::patch::role_name;
use super::schemas;
use crate::doors::Doors;

pub(super) struct Answers<'a> {
    doors: &'a Doors,
    organisation: OrganisationId,
    /// Where resources are.
    base: String,
}

impl<'a> Answers<'a> {
    pub(super) fn new(doors: &'a Doors, organisation: OrganisationId) -> Self {
        Self { doors, organisation, base: schemas::base(&doors.identity.origin()) }
    }

    pub(super) fn user(&self, person: &Person) -> Value {
        let (id, about) = (person.id.to_string(), &person.about);
        let role = role_name(person.role);
        let name = without_nothing(json!({
            "givenName": about.given_name,
            "familyName": about.family_name,
        }));
        let groups = person.groups.iter().map(|(id, name)| {
            let at = format!("{}/Groups/{id}", self.base);
            json!({ "value": id.to_string(), "display": name, "$ref": at, "type": "direct" })
        });
        without_nothing(json!({
            "schemas": [schemas::USER],
            "id": id,
            "externalId": about.outside_id,
            "userName": about.user_name.as_ref().unwrap_or(&about.email),
            "name": name,
            "displayName": about.name,
            "active": person.suspended.is_none(),
            "emails": [{ "value": about.email, "type": "work", "primary": true }],
            "roles": [{ "value": role, "primary": true }],
            "groups": groups.collect::<Vec<_>>(),
            "meta": {
                "resourceType": "User",
                "created": person.created.to_string(),
                "lastModified": person.changed.to_string(),
                "location": format!("{}/Users/{id}", self.base),
                "version": version(person.version),
            },
        }))
    }

    pub(super) fn group(&self, group: &Group, with_members: bool) -> Value {
        let id = group.id.to_string();
        let members = with_members.then(|| {
            let members = self.doors.identity.members(self.organisation, group.id).into_iter();
            let member = |id| {
                let at = format!("{}/Users/{id}", self.base);
                json!({ "value": format!("{id}"), "$ref": at, "type": "User" })
            };
            members.map(member).collect::<Vec<_>>()
        });
        without_nothing(json!({
            "schemas": [schemas::GROUP],
            "id": id,
            "externalId": group.outside_id,
            "displayName": group.name,
            "members": members,
            "meta": {
                "resourceType": "Group",
                "created": group.created.to_string(),
                "lastModified": group.changed.to_string(),
                "location": format!("{}/Groups/{id}", self.base),
                "version": version(group.version),
            },
        }))
    }
}

fn version(number: i64) -> String {
    format!("W/\"{number}\"")
}

/// An attribute without a value is left out (RFC 7643, section 2.5).
fn without_nothing(mut value: Value) -> Value {
    if let Some(parts) = value.as_object_mut() {
        parts.retain(|_, part| !part.is_null() && part.as_object().is_none_or(|it| !it.is_empty()));
    }
    value
}

pub(super) fn list(resources: &[Value], count: usize, (offset, _): (usize, usize)) -> Value {
    json!({
        "schemas": [schemas::LIST],
        "totalResults": count,
        "startIndex": offset + 1,
        "itemsPerPage": resources.len(),
        "Resources": resources,
    })
}

/// Which attributes are wanted (RFC 7644, section 3.9), in lower case.
pub(super) enum Fields {
    All,
    Only(Vec<String>),
    Except(Vec<String>),
}

impl Fields {
    pub(super) fn of(only: Option<&str>, except: Option<&str>) -> Self {
        let names = |text: &str| -> Vec<String> {
            text.split(',').map(|name| plain(name.trim())).filter(|it| !it.is_empty()).collect()
        };
        match (only.map(names), except.map(names)) {
            (Some(only), _) if !only.is_empty() => Self::Only(only),
            (_, Some(except)) if !except.is_empty() => Self::Except(except),
            _ => Self::All,
        }
    }

    /// Whether any of an attribute is wanted.
    pub(super) fn wants(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(only) => only.iter().any(|it| it.split('.').next() == Some(name)),
            Self::Except(except) => !except.iter().any(|it| it == name),
        }
    }

    fn wants_part(&self, name: &str, part: &str) -> bool {
        let path = format!("{name}.{part}");
        match self {
            Self::All => true,
            Self::Only(only) => only.iter().any(|it| it == name || *it == path),
            Self::Except(except) => !except.contains(&path),
        }
    }

    /// `schemas` and `id` are always there.
    pub(super) fn of_resource(&self, resource: &Value) -> Value {
        let mut kept = Map::new();
        for (name, value) in resource.as_object().into_iter().flatten() {
            let lower = name.to_lowercase();
            let is_always = matches!(&*lower, "schemas" | "id");
            if !is_always && !self.wants(&lower) {
                continue;
            }
            let parts = |of: &Map<String, Value>| -> Value {
                let parts =
                    of.iter().filter(|(part, _)| self.wants_part(&lower, &part.to_lowercase()));
                parts
                    .map(|(part, value)| (part.clone(), value.clone()))
                    .collect::<Map<_, _>>()
                    .into()
            };
            let value = match value {
                Value::Object(of) => parts(of),
                Value::Array(all) if !is_always => {
                    let all =
                        all.iter().map(|one| one.as_object().map_or_else(|| one.clone(), parts));
                    all.collect()
                }
                other => other.clone(),
            };
            kept.insert(name.clone(), value);
        }
        kept.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wanted_is_given_and_what_must_be_always_is() {
        let user = json!({
            "schemas": [schemas::USER], "id": "1", "userName": "mina@b.c", "active": true,
            "name": { "givenName": "Mina", "familyName": "Kim" },
            "emails": [{ "value": "mina@b.c", "primary": true }],
        });
        let of = |only, except| Fields::of(only, except).of_resource(&user);
        assert_eq!(of(None, None), user);
        let some = of(Some("userName, name.givenName,emails.value"), None);
        assert_eq!(
            some,
            json!({
                "schemas": [schemas::USER], "id": "1", "userName": "mina@b.c",
                "name": { "givenName": "Mina" }, "emails": [{ "value": "mina@b.c" }],
            })
        );
        let less = of(None, Some("emails,id,name.familyname"));
        assert_eq!(
            less,
            json!({
                "schemas": [schemas::USER], "id": "1", "userName": "mina@b.c", "active": true,
                "name": { "givenName": "Mina" },
            })
        );
        assert!(!Fields::of(None, Some("members")).wants("members"));
    }
}
