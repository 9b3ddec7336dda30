//! What a directory wants somebody or a group to be: read from whole resources and from changes (RFC 7644, section 3.5.2), in the
//! forms that Entra ID and Okta send: operations in any case, `"active": "False"`, dotted names without a path.
//!
//! Attributes of RFC 7643 that are not kept, and those of other schemas, are passed over; unknown ones are refused.

use base::AccountId;
use identity::{About, Edit, Members, Person, Role};
use serde_json::{Map, Value, json};

use super::filter::{self, plain};

/// One operation of a change.
pub(super) struct Operation {
    kind: Kind,
    path: Option<String>,
    value: Option<Value>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Add,
    Replace,
    Remove,
}

const OPERATIONS_MAX: usize = 1_000;
/// What this server says itself; a directory that sends it back is not refused.
const OURS: &[&str] = &["schemas", "id", "meta", "groups"];
/// Of RFC 7643, section 4.1, and not kept.
const NOT_KEPT: &[&str] = &[
    "nickname",
    "profileurl",
    "title",
    "usertype",
    "preferredlanguage",
    "locale",
    "timezone",
    "phonenumbers",
    "ims",
    "photos",
    "addresses",
    "entitlements",
    "x509certificates",
];

fn wrong(path: &str, detail: &str) -> edge::Error {
    edge::Error::invalid(format!("{path} {detail}"))
}

fn no_path(path: &str, detail: &str) -> edge::Error {
    let path: String = path.chars().take(100).collect();
    edge::Error::unreadable("the path leads nowhere").at("path", format!("{path:?} {detail}"))
}

pub(super) fn operations(body: &Map<String, Value>) -> edge::Result<Vec<Operation>> {
    let all = body.iter().find(|(name, _)| name.eq_ignore_ascii_case("operations"));
    let all = all.and_then(|(_, all)| all.as_array()).filter(|all| !all.is_empty());
    let all = all.ok_or_else(|| edge::Error::unreadable("Operations is missing or empty"))?;
    if all.len() > OPERATIONS_MAX {
        return Err(edge::Error::unreadable(format!("more than {OPERATIONS_MAX} Operations")));
    }
    all.iter().map(operation).collect()
}

fn operation(given: &Value) -> edge::Result<Operation> {
    let text = |name: &str| given[name].as_str();
    let kind = match text("op").unwrap_or_default().to_ascii_lowercase().as_str() {
        "add" => Kind::Add,
        "replace" => Kind::Replace,
        "remove" => Kind::Remove,
        _ => return Err(edge::Error::unreadable("op is add, replace or remove")),
    };
    let path = text("path").map(str::to_owned);
    let value = given.get("value").filter(|value| !value.is_null()).cloned();
    if kind == Kind::Remove && path.is_none() {
        return Err(no_path("", "is missing, and a remove needs one"));
    }
    if kind != Kind::Remove && value.is_none() && path.is_none() {
        return Err(edge::Error::unreadable("value is missing"));
    }
    Ok(Operation { kind, path, value })
}

impl Operation {
    /// Each attribute that it is about, in lower case, with what is said of it. What is this server's to say is passed over where a
    /// directory sends it along, and refused where it is all that is meant.
    fn each(
        &self,
        mut take: impl FnMut(&str, Option<&Value>) -> edge::Result<()>,
    ) -> edge::Result<()> {
        match (&self.path, &self.value) {
            (Some(path), value) => {
                let path = plain(path);
                if OURS.contains(&&*path) {
                    return Err(no_path(&path, "is not a directory's to say"));
                }
                take(&path, value.as_ref().filter(|_| self.kind != Kind::Remove))
            }
            (None, Some(Value::Object(all))) => {
                let all = all.iter().map(|(name, value)| (plain(name), present(value)));
                let mut all = all.filter(|(name, _)| !OURS.contains(&&**name));
                all.try_for_each(|(name, value)| take(&name, value))
            }
            (None, _) => Err(edge::Error::unreadable("without a path, value is an object")),
        }
    }
}

/// Null is as good as nothing (RFC 7643, section 2.5).
fn present(value: &Value) -> Option<&Value> {
    (!value.is_null()).then_some(value)
}

fn text(path: &str, value: Option<&Value>) -> edge::Result<Option<String>> {
    match value {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(wrong(path, "must be a text")),
    }
}

fn needed(path: &str, value: Option<&Value>) -> edge::Result<String> {
    text(path, value)?.ok_or_else(|| wrong(path, "cannot be without a value"))
}

fn truth(path: &str, value: Option<&Value>) -> edge::Result<bool> {
    match value {
        Some(Value::Bool(truth)) => Ok(*truth),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
        Some(Value::String(text)) if text.eq_ignore_ascii_case("false") => Ok(false),
        _ => Err(wrong(path, "must be true or false")),
    }
}

/// The value that counts of many: the primary one, then that of work, or the first.
fn primary<'a>(path: &str, value: Option<&'a Value>) -> edge::Result<Option<&'a Value>> {
    let one = match value {
        Some(Value::Array(all)) => all
            .iter()
            .find(|one| is_primary(one))
            .or_else(|| all.iter().find(|one| is_of_work(one)))
            .or_else(|| all.first()),
        one => one,
    };
    Ok(match one {
        Some(Value::Object(one)) => {
            let value = one.get("value").and_then(present);
            Some(value.ok_or_else(|| wrong(path, "must have a value"))?)
        }
        one => one,
    })
}

fn is_primary(one: &Value) -> bool {
    truth("primary", one.get("primary")).unwrap_or(false)
}

fn is_of_work(one: &Value) -> bool {
    one["type"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("work"))
}

/// Whether nothing of this is the one value that is kept: it says that it is another.
fn is_beside(value: Option<&Value>) -> bool {
    let is_other = |one: &Value| {
        let is_typed = one["type"].is_string() && !is_of_work(one);
        (is_typed && !is_primary(one)) || one["primary"] == false
    };
    match value {
        Some(Value::Array(all)) => !all.is_empty() && all.iter().all(is_other),
        Some(one) => is_other(one),
        None => false,
    }
}

/// What a directory wants somebody to be.
#[derive(Default)]
pub(super) struct UserWish {
    about: About,
    /// The address is the name in the directory unless it is said.
    email: Option<String>,
    /// `displayName` was said, which goes before `name.formatted`.
    is_displayed: bool,
    /// The role before.
    now: Option<Role>,
    pub(super) role: Option<Role>,
    pub(super) is_active: Option<bool>,
    pub(super) password: Edit<String>,
}

impl UserWish {
    /// All as it is.
    pub(super) fn of(person: &Person) -> Self {
        let about = person.about.clone();
        let follows = about.user_name.as_ref() == Some(&about.email);
        let email = (!follows).then(|| about.email.clone());
        Self { about, email, now: Some(person.role), ..Self::default() }
    }

    pub(super) fn about(&self) -> edge::Result<About> {
        let email = self.address().ok_or_else(|| wrong("userName", "is missing"))?;
        Ok(About { email: email.to_owned(), ..self.about.clone() })
    }

    /// A whole resource.
    pub(super) fn take_all(&mut self, body: &Map<String, Value>) -> edge::Result<()> {
        if !body.iter().any(|(name, value)| plain(name) == "username" && !value.is_null()) {
            return Err(wrong("userName", "is missing"));
        }
        // Null and an empty list are as good as nothing.
        let said = body.iter().filter(|(_, value)| !value.is_null() && *value != &json!([]));
        let said = said.map(|(name, value)| (plain(name), value));
        let mut said = said.filter(|(name, _)| !OURS.contains(&&**name));
        said.try_for_each(|(name, value)| self.set(&name, Some(value)))
    }

    pub(super) fn apply(&mut self, operation: &Operation) -> edge::Result<()> {
        if self.is_of_another(operation)? {
            return Ok(());
        }
        operation.each(|path, value| self.set(path, value))
    }

    /// Whether it is about an address or a role that is not the one which is kept, such as `emails[type eq "home"]`.
    fn is_of_another(&self, operation: &Operation) -> edge::Result<bool> {
        let path = operation.path.as_deref().unwrap_or_default();
        let area = plain(path);
        let area = area.split('.').next().unwrap_or_default();
        if !matches!(area, "emails" | "roles") {
            return Ok(false);
        }
        let Some(condition) = within(path) else {
            return Ok(operation.kind == Kind::Add && is_beside(operation.value.as_ref()));
        };
        let is_of_all = filter::conditions(Some(condition))?.iter().all(|(name, value)| {
            let text = value.as_str().unwrap_or_default();
            match (area, &**name) {
                (_, "primary") => truth("primary", Some(value)).unwrap_or(false),
                ("emails", "type") => text.eq_ignore_ascii_case("work"),
                ("emails", "value") => {
                    self.address().is_some_and(|it| it.eq_ignore_ascii_case(text))
                }
                ("roles", "value") => self.now.is_some_and(|role| text == role_name(role)),
                _ => false,
            }
        });
        Ok(!is_of_all)
    }

    fn address(&self) -> Option<&str> {
        self.email.as_deref().or(self.about.user_name.as_deref())
    }

    fn set(&mut self, path: &str, value: Option<&Value>) -> edge::Result<()> {
        let (area, part) = path.split_once('.').unwrap_or((path, ""));
        match (area, part) {
            ("username", "") => self.about.user_name = Some(needed("userName", value)?),
            ("externalid", "") => self.about.outside_id = text("externalId", value)?,
            ("displayname", "") => {
                self.about.name = text("displayName", value)?;
                self.is_displayed = true;
            }
            ("name", "") => match value {
                Some(Value::Object(parts)) => {
                    for (part, value) in parts {
                        self.set(&format!("name.{}", part.to_lowercase()), present(value))?;
                    }
                }
                None => (self.about.given_name, self.about.family_name) = (None, None),
                Some(_) => return Err(wrong("name", "must be an object")),
            },
            ("name", "givenname") => self.about.given_name = text("name.givenName", value)?,
            ("name", "familyname") => self.about.family_name = text("name.familyName", value)?,
            ("name", "formatted") if self.is_displayed => {}
            ("name", "formatted") => self.about.name = text("name.formatted", value)?,
            ("active", "") => self.is_active = Some(truth("active", value)?),
            ("emails", "" | "value") => {
                self.email = text("emails.value", primary("emails", value)?)?;
            }
            ("roles", "" | "value") => self.role = Some(role(primary("roles", value)?)?),
            ("name", "middlename" | "honorificprefix" | "honorificsuffix")
            | ("emails" | "roles", "type" | "primary" | "display") => {}
            ("password", "") => self.password = Edit::of(text("password", value)?),
            (area, _) if NOT_KEPT.contains(&area) || area.starts_with("urn:") => {}
            _ => return Err(no_path(path, "is no attribute of a user")),
        }
        Ok(())
    }
}

pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Admin => "admin",
        Role::Member => "member",
        Role::User => "user",
    }
}

/// Whoever has no role is a member.
fn role(value: Option<&Value>) -> edge::Result<Role> {
    match text("roles.value", value)?.as_deref() {
        None | Some("member") => Ok(Role::Member),
        Some("admin") => Ok(Role::Admin),
        Some("user") => Ok(Role::User),
        Some(_) => Err(wrong("roles.value", "is admin, member or user")),
    }
}

/// What a directory wants a group to be.
#[derive(Default)]
pub(super) struct GroupWish {
    pub(super) name: Option<String>,
    pub(super) outside_id: Edit<String>,
    pub(super) members: Option<Members>,
}

impl GroupWish {
    /// A whole resource.
    pub(super) fn take_all(&mut self, body: &Map<String, Value>) -> edge::Result<()> {
        if !body.iter().any(|(name, value)| plain(name) == "displayname" && !value.is_null()) {
            return Err(wrong("displayName", "is missing"));
        }
        for (name, value) in body {
            let name = plain(name);
            if !OURS.contains(&&*name) && !value.is_null() {
                self.set(Kind::Replace, &name, Some(value))?;
            }
        }
        Ok(())
    }

    /// One more operation, after those before it.
    pub(super) fn apply(&mut self, operation: &Operation) -> edge::Result<()> {
        let path = operation.path.as_deref().unwrap_or_default();
        if operation.kind == Kind::Remove && plain(path) == "members" {
            let gone = match (within(path), &operation.value) {
                (Some(condition), _) => Some(vec![member_of(condition)?]),
                (None, Some(value)) => Some(members(Some(value))?),
                (None, None) => None,
            };
            self.change_members(match gone {
                Some(remove) => Members::Change { add: vec![], remove },
                None => Members::Are(vec![]),
            });
            return Ok(());
        }
        let kind = operation.kind;
        operation.each(|path, value| self.set(kind, path, value))
    }

    fn set(&mut self, kind: Kind, path: &str, value: Option<&Value>) -> edge::Result<()> {
        match path {
            "displayname" => self.name = Some(needed("displayName", value)?),
            "externalid" => self.outside_id = Edit::of(text("externalId", value)?),
            "members" if kind == Kind::Add => {
                let add = members(value)?;
                self.change_members(Members::Change { add, remove: vec![] });
            }
            "members" if value.is_none() => {
                return Err(wrong("members", "are taken away by remove, or replaced by []"));
            }
            "members" => self.change_members(Members::Are(members(value)?)),
            path if path.starts_with("urn:") => {}
            _ => return Err(no_path(path, "is no attribute of a group")),
        }
        Ok(())
    }

    /// What comes later counts: all operations of a change are one change.
    fn change_members(&mut self, later: Members) {
        let Members::Change { add, remove } = later else {
            self.members = Some(later);
            return;
        };
        let before = self.members.take();
        self.members = Some(match before {
            None => Members::Change { add, remove },
            Some(Members::Are(mut are)) => {
                are.retain(|one| !remove.contains(one));
                are.extend(add);
                Members::Are(are)
            }
            Some(Members::Change { add: mut added, remove: mut removed }) => {
                added.retain(|one| !remove.contains(one));
                removed.retain(|one| !add.contains(one));
                added.extend(add);
                removed.extend(remove);
                Members::Change { add: added, remove: removed }
            }
        });
    }
}

/// What stands in the brackets of a path.
fn within(path: &str) -> Option<&str> {
    let (_, rest) = path.split_once('[')?;
    rest.rsplit_once(']').map(|(within, _)| within)
}

fn member_of(condition: &str) -> edge::Result<AccountId> {
    let wanted = filter::groups(Some(&format!("members.{}", condition.trim())))?;
    let member = wanted.and_then(|wanted| wanted.member);
    member.ok_or_else(|| no_path(condition, "names no member"))
}

fn members(value: Option<&Value>) -> edge::Result<Vec<AccountId>> {
    let one = |one: &Value| {
        let id = one.get("value").unwrap_or(one).as_str().and_then(|id| id.parse().ok());
        id.ok_or_else(|| wrong("members.value", "must be the id of a user"))
    };
    match value {
        None => Ok(vec![]),
        Some(Value::Array(all)) => all.iter().map(one).collect(),
        Some(value) => Ok(vec![one(value)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(operations_of: &Value) -> Vec<Operation> {
        let body = json!({ "Operations": operations_of });
        operations(body.as_object().unwrap()).unwrap()
    }

    fn user(body: &Value) -> edge::Result<UserWish> {
        let mut wish = UserWish::default();
        wish.take_all(body.as_object().unwrap())?;
        Ok(wish)
    }

    #[test]
    fn whole_users_of_directories_are_read() {
        let okta = user(&json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
            "userName": "Mina@example.org",
            "name": { "givenName": "Mina", "familyName": "Kim" },
            "emails": [{ "primary": true, "value": "mina@example.org", "type": "work" }],
            "displayName": "Mina Kim", "locale": "ko-KR", "externalId": "00u1", "groups": [],
            "password": "a long one indeed", "active": true,
        }))
        .unwrap();
        let about = okta.about().unwrap();
        assert_eq!((&*about.email, about.name.as_deref()), ("mina@example.org", Some("Mina Kim")));
        assert_eq!((okta.is_active, okta.password.set().is_some()), (Some(true), true));
        let entra = user(&json!({
            "externalId": "7", "userName": "joon@example.org", "active": "True",
            "emails": [{ "value": "a@b.c" }, { "primary": "true", "value": "joon.lee@example.org" }],
            "name": { "formatted": "Joon Lee" }, "title": "Roofer",
            "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": { "department": "Roofs" },
            "roles": [{ "primary": "True", "value": "admin" }],
        }))
        .unwrap();
        let about = entra.about().unwrap();
        assert_eq!(
            (&*about.email, about.name.as_deref()),
            ("joon.lee@example.org", Some("Joon Lee"))
        );
        assert_eq!((entra.role, entra.is_active), (Some(Role::Admin), Some(true)));
        let least = user(&json!({ "userName": "x@b.c" })).unwrap();
        assert_eq!(least.about().unwrap().email, "x@b.c");
        for wrong in [
            json!({}),
            json!({ "userName": null }),
            json!({ "userName": 7 }),
            json!({ "userName": "x@b.c", "active": "perhaps" }),
            json!({ "userName": "x@b.c", "roles": [{ "value": "king" }] }),
            json!({ "userName": "x@b.c", "emails": [{ "type": "work" }] }),
            json!({ "userName": "x@b.c", "favouriteColour": "blue" }),
        ] {
            assert!(user(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn changes_of_directories_are_read() {
        for form in [
            json!([{ "op": "Replace", "path": "active", "value": "False" }]),
            json!([{ "op": "replace", "value": { "active": false } }]),
            json!([{ "op": "add", "path": "urn:ietf:params:scim:schemas:core:2.0:User:active", "value": false }]),
        ] {
            let mut wish = UserWish::default();
            for operation in read(&form) {
                wish.apply(&operation).unwrap();
            }
            assert_eq!(wish.is_active, Some(false));
        }
        let mut wish = UserWish::default();
        for operation in read(&json!([
            { "op": "Replace", "path": "emails[type eq \"work\"].value", "value": "new@b.c" },
            { "op": "Add", "value": { "name.givenName": "Mina", "userName": "m@b.c", "phoneNumbers": [] } },
            { "op": "Remove", "path": "name.familyName" },
            { "op": "Replace", "path": "roles[primary eq \"True\"].value", "value": "user" },
        ])) {
            wish.apply(&operation).unwrap();
        }
        let about = wish.about().unwrap();
        assert_eq!((&*about.email, about.given_name.as_deref()), ("new@b.c", Some("Mina")));
        assert_eq!((about.user_name.as_deref(), wish.role), (Some("m@b.c"), Some(Role::User)));
        for wrong in [
            json!([{ "op": "remove", "path": "userName" }]),
            json!([{ "op": "replace", "path": "id", "value": "x" }]),
            json!([{ "op": "replace", "path": "shoeSize", "value": 44 }]),
            json!([{ "op": "replace", "value": "x" }]),
        ] {
            let operations = read(&wrong);
            let done = operations.iter().try_for_each(|it| UserWish::default().apply(it));
            assert!(done.is_err(), "{wrong}");
        }
        for wrong in [json!([]), json!([{ "op": "move" }]), json!([{ "op": "remove" }])] {
            let body = json!({ "Operations": wrong });
            assert!(operations(body.as_object().unwrap()).is_err(), "{body}");
        }
    }

    #[test]
    fn what_is_said_of_another_address_or_role_changes_neither() {
        let now = || UserWish {
            about: About { user_name: Some("m@b.c".into()), ..About::default() },
            email: Some("mina@b.c".into()),
            now: Some(Role::Admin),
            ..UserWish::default()
        };
        for other in [
            json!([{ "op": "replace", "path": "emails[type eq \"home\"].value", "value": "home@b.c" }]),
            json!([{ "op": "remove", "path": "emails[value eq \"old@b.c\"]" }]),
            json!([{ "op": "remove", "path": "roles[value eq \"user\"]" }]),
            json!([{ "op": "add", "path": "emails", "value": [{ "type": "home", "value": "home@b.c" }] }]),
            json!([{ "op": "replace", "value": { "id": "7", "schemas": [], "displayName": "Mina" } }]),
        ] {
            let mut wish = now();
            for operation in read(&other) {
                wish.apply(&operation).unwrap();
            }
            assert_eq!((&*wish.about().unwrap().email, wish.role), ("mina@b.c", None), "{other}");
        }
        let mut wish = now();
        for operation in read(&json!([
            { "op": "replace", "path": "emails[primary eq true].value", "value": "new@b.c" },
            { "op": "remove", "path": "roles[value eq \"admin\"]" },
        ])) {
            wish.apply(&operation).unwrap();
        }
        assert_eq!((&*wish.about().unwrap().email, wish.role), ("new@b.c", Some(Role::Member)));
        let mut unsaid = UserWish::default();
        let body = json!({ "userName": "m@b.c", "roles": [], "password": null, "active": null });
        unsaid.take_all(body.as_object().unwrap()).unwrap();
        assert_eq!((unsaid.role, unsaid.is_active), (None, None));
        assert!(unsaid.password.is_kept());
    }

    #[test]
    fn what_comes_later_counts_among_members() {
        let id = |number: u128| AccountId::fixed(number);
        let value = |number: u128| json!([{ "value": id(number).to_string() }]);
        let wish = |operations: &Value| {
            let mut wish = GroupWish::default();
            for operation in read(operations) {
                wish.apply(&operation).unwrap();
            }
            wish.members.unwrap()
        };
        let changed = wish(&json!([
            { "op": "Add", "path": "members", "value": value(1) },
            { "op": "Add", "path": "members", "value": value(2) },
            { "op": "Remove", "path": "members", "value": value(1) },
            { "op": "remove", "path": format!("members[value eq \"{}\"]", id(3)) },
        ]));
        let (add, remove) = (vec![id(2)], vec![id(1), id(3)]);
        assert_eq!(changed, Members::Change { add, remove });
        let replaced = wish(&json!([
            { "op": "add", "path": "members", "value": value(1) },
            { "op": "replace", "path": "members", "value": value(4) },
            { "op": "add", "value": { "members": value(5) } },
        ]));
        assert_eq!(replaced, Members::Are(vec![id(4), id(5)]));
        assert_eq!(wish(&json!([{ "op": "remove", "path": "members" }])), Members::Are(vec![]));
    }
}
