//! SCIM 2.0 (RFC 7643, RFC 7644): a directory such as Entra ID or Okta keeps people and groups. Users are people, their `active`
//! is whether they may come in; groups are groups, and what a group lets people do is said here, by an administrator.
//!
//! The directory shows a key that may `accounts.read` and `accounts.write`, and all that those may do whom it changes.

mod answers;
mod filter;
mod patch;
mod schemas;

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base::personal::Texts;
use base::{AccountId, ErrorKind};
use edge::{
    Caller, Json, NoContent, Operation, Path, Peer, Query, Refusal, Routes, State, Undeclared,
};
use identity::{
    Edit, GroupChange, GroupId, Members, NewGroup, NewPerson, Person, PersonChange, Role, actions,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use self::answers::{Answers, Fields};
use self::patch::{GroupWish, UserWish};
use super::Doors;
use super::accounts::by;
use super::session::refused;

const MEDIA: &str = "application/scim+json";
const LIST_DEFAULT: usize = 100;
const LIST_MAX: usize = 1_000;
/// A write that was made from an older version is made again so often, where the directory named no version.
const TRIES: usize = 3;

/// RFC 7644, section 3.4.2.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
struct ListQuery {
    /// `userName eq "mina@example.org"`, and more of that joined by `and`.
    filter: Option<String>,
    /// Of the first one wanted, counted from 1.
    start_index: Option<i64>,
    /// At most 1,000.
    count: Option<i64>,
    /// Only these, by name and comma.
    attributes: Option<String>,
    /// All but these.
    excluded_attributes: Option<String>,
}

/// RFC 7644, section 3.4.3.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct SearchBody {
    schemas: Vec<String>,
    /// Passed over, as this server does not sort.
    sort_by: Option<String>,
    sort_order: Option<String>,
    filter: Option<String>,
    start_index: Option<i64>,
    count: Option<i64>,
    attributes: Option<Vec<String>>,
    excluded_attributes: Option<Vec<String>>,
}

impl From<SearchBody> for ListQuery {
    fn from(body: SearchBody) -> Self {
        let SearchBody { filter, start_index, count, attributes, excluded_attributes, .. } = body;
        let attributes = attributes.map(|names| names.join(","));
        let excluded_attributes = excluded_attributes.map(|names| names.join(","));
        Self { filter, start_index, count, attributes, excluded_attributes }
    }
}

/// A resource, or a change of one, in the words of RFC 7643 and 7644.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
struct Body(Map<String, Value>);

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    about_this(Routes::new(doors.clone()))
        .join(users(Routes::new(doors.clone())))
        .join(groups(Routes::new(doors.clone())))
}

/// All of them answer and refuse in SCIM's words.
fn scim(place: Undeclared, action: base::access::Action) -> Operation {
    place.tag("scim").action(action).any_query().refusals(in_scims_words).refusals_media(MEDIA)
}

fn about_this(routes: Routes<Doors>) -> Routes<Doors> {
    let read = |place| scim(place, actions::ACCOUNTS_READ).media(MEDIA);
    routes
        .add(
            read(
                Operation::get("/scim/v2/ServiceProviderConfig")
                    .id("scimConfig")
                    .summary("What this server does of SCIM (RFC 7643, section 5)."),
            ),
            async |State(doors): State<Doors>| Ok(found(&schemas::config(&doors.identity.origin()))),
        )
        .add(
            read(
                Operation::get("/scim/v2/ResourceTypes")
                    .id("scimResourceTypes")
                    .summary("Users and groups (RFC 7643, section 6)."),
            ),
            async |State(doors): State<Doors>| {
                Ok(found(&schemas::whole(&schemas::types(&doors.identity.origin()))))
            },
        )
        .add(
            read(
                Operation::get("/scim/v2/ResourceTypes/{id}")
                    .id("scimResourceType")
                    .summary("One of them."),
            ),
            async |State(doors): State<Doors>, Path(id): Path<String>| {
                one_of(&schemas::types(&doors.identity.origin()), &id)
            },
        )
        .add(
            read(
                Operation::get("/scim/v2/Schemas")
                    .id("scimSchemas")
                    .summary("Which attributes are kept (RFC 7643, section 7)."),
            ),
            async |State(doors): State<Doors>| {
                Ok(found(&schemas::whole(&schemas::all(&doors.identity.origin()))))
            },
        )
        .add(
            read(
                Operation::get("/scim/v2/Schemas/{id}")
                    .id("scimSchema")
                    .summary("Those of one schema."),
            ),
            async |State(doors): State<Doors>, Path(id): Path<String>| {
                one_of(&schemas::all(&doors.identity.origin()), &id)
            },
        )
        .add(
            read(
                Operation::get("/scim/v2/{id}")
                    .id("scimNothing")
                    .summary("Says in SCIM's words that there is nothing here."),
            ),
            async |Path(id): Path<String>| {
                // RFC 7644, section 3.11.
                let (status, detail) = match &*id {
                    "Me" => (501, "there is no Me here"),
                    _ => (404, "there is no such endpoint"),
                };
                Ok::<_, edge::Error>(failed(status, None, detail))
            },
        )
        .add(
            read(
                Operation::post("/scim/v2/.search")
                    .id("scimSearch")
                    .summary("Says that several kinds are not looked through at once; `/Users/.search` and `/Groups/.search` are."),
            ),
            async || {
                let detail = "several kinds are not looked through at once: ask /Users/.search";
                Ok::<_, edge::Error>(failed(501, None, detail))
            },
        )
}

fn users(routes: Routes<Doors>) -> Routes<Doors> {
    let read = |place| scim(place, actions::ACCOUNTS_READ).media(MEDIA);
    let write = |place| scim(place, actions::ACCOUNTS_WRITE).kinds(CHANGES);
    routes
        .add(
            read(
                Operation::get("/scim/v2/Users")
                    .id("scimListUsers")
                    .summary("People, by a filter or all of them (RFC 7644, section 3.4.2)."),
            ),
            list_users,
        )
        .add(
            read(
                Operation::post("/scim/v2/Users/.search")
                    .id("scimSearchUsers")
                    .summary("The same, by a body (RFC 7644, section 3.4.3)."),
            )
            .secret(),
            search_users,
        )
        .add(
            write(
                Operation::post("/scim/v2/Users")
                    .id("scimCreateUser")
                    .summary("Makes somebody known; they come in by a mailed link, a provider, or the password that is given."),
            )
            .secret()
            .media(MEDIA),
            create_user,
        )
        .add(
            read(
                Operation::get("/scim/v2/Users/{id}")
                    .id("scimGetUser")
                    .summary("Somebody."),
            )
            .resource("person/{id}"),
            get_user,
        )
        .add(
            write(
                Operation::put("/scim/v2/Users/{id}")
                    .id("scimReplaceUser")
                    .summary("Says all of somebody anew (RFC 7644, section 3.5.1)."),
            )
            .secret()
            .resource("person/{id}")
            .media(MEDIA),
            replace_user,
        )
        .add(
            write(
                Operation::patch("/scim/v2/Users/{id}")
                    .id("scimPatchUser")
                    .summary("Changes somebody (RFC 7644, section 3.5.2); without `active` they are signed out everywhere."),
            )
            .secret()
            .resource("person/{id}")
            .media(MEDIA),
            patch_user,
        )
        .add(
            write(
                Operation::delete("/scim/v2/Users/{id}")
                    .id("scimDeleteUser")
                    .summary("Removes somebody; what they wrote elsewhere stays."),
            )
            .resource("person/{id}"),
            delete_user,
        )
}

fn groups(routes: Routes<Doors>) -> Routes<Doors> {
    let read = |place| scim(place, actions::ACCOUNTS_READ).media(MEDIA);
    let write = |place| scim(place, actions::ACCOUNTS_WRITE).kinds(CHANGES);
    routes
        .add(
            read(
                Operation::get("/scim/v2/Groups")
                    .id("scimListGroups")
                    .summary("Groups, by a filter or all of them."),
            ),
            list_groups,
        )
        .add(
            read(
                Operation::post("/scim/v2/Groups/.search")
                    .id("scimSearchGroups")
                    .summary("The same, by a body."),
            )
            .secret(),
            search_groups,
        )
        .add(
            write(
                Operation::post("/scim/v2/Groups")
                    .id("scimCreateGroup")
                    .summary("Makes a group; what it lets people do is said by an administrator."),
            )
            .media(MEDIA),
            create_group,
        )
        .add(
            read(Operation::get("/scim/v2/Groups/{id}").id("scimGetGroup").summary("A group."))
                .resource("group/{id}"),
            get_group,
        )
        .add(
            write(
                Operation::put("/scim/v2/Groups/{id}")
                    .id("scimReplaceGroup")
                    .summary("Says all of a group anew."),
            )
            .resource("group/{id}")
            .media(MEDIA),
            replace_group,
        )
        .add(
            write(
                Operation::patch("/scim/v2/Groups/{id}")
                    .id("scimPatchGroup")
                    .summary("Changes a group, and who is in it."),
            )
            .resource("group/{id}")
            .media(MEDIA),
            patch_group,
        )
        .add(
            write(
                Operation::delete("/scim/v2/Groups/{id}")
                    .id("scimDeleteGroup")
                    .summary("Ends a group."),
            )
            .resource("group/{id}"),
            delete_group,
        )
}

const CHANGES: &[ErrorKind] = &[ErrorKind::AlreadyExists, ErrorKind::NotFound, ErrorKind::TooMany];

/// RFC 7644, section 3.12.
fn in_scims_words(refusal: &Refusal) -> Response {
    let of = |name: &str| refusal.fields.iter().any(|field| field.pointer == name);
    let kind = match refusal.kind {
        ErrorKind::AlreadyExists => Some("uniqueness"),
        ErrorKind::Invalid if of("filter") => Some("invalidFilter"),
        ErrorKind::Invalid if of("path") => Some("invalidPath"),
        ErrorKind::Invalid if refusal.status == 422 => Some("invalidValue"),
        ErrorKind::Invalid if refusal.status == 400 => Some("invalidSyntax"),
        _ => None,
    };
    let said = refusal.fields.iter().map(|field| format!("{}: {}", field.pointer, field.detail));
    let mut detail = refusal.detail.clone();
    for field in said {
        detail.push_str("; ");
        detail.push_str(&field);
    }
    // SCIM has one status for what can never succeed.
    failed(if refusal.status == 422 { 400 } else { refusal.status }, kind, &detail)
}

fn failed(status: u16, kind: Option<&str>, detail: &str) -> Response {
    let mut body = json!({
        "schemas": [schemas::ERROR],
        "status": status.to_string(),
        "detail": detail,
    });
    if let Some(kind) = kind {
        body["scimType"] = kind.into();
    }
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    written(status, &body)
}

fn found(body: &Value) -> Response {
    written(StatusCode::OK, body)
}

fn written(status: StatusCode, body: &Value) -> Response {
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA))];
    (status, kind, body.to_string()).into_response()
}

fn one_of(all: &[Value], id: &str) -> edge::Result<Response> {
    let one = all.iter().find(|one| one["id"] == id);
    one.map(found).ok_or_else(|| edge::Error::not_found("there is no such resource"))
}

/// A resource with its version.
fn shown(status: StatusCode, resource: &Value, fields: &Fields) -> Response {
    let mut response = written(status, &fields.of_resource(resource));
    let meta = |name: &str| resource["meta"][name].as_str().map(HeaderValue::from_str);
    if let Some(Ok(version)) = meta("version") {
        response.headers_mut().insert(header::ETAG, version);
    }
    if let (StatusCode::CREATED, Some(Ok(location))) = (status, meta("location")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The same, and 304 for whoever has it already (RFC 7644, section 3.14).
fn shown_anew(headers: &HeaderMap, resource: &Value, fields: &Fields) -> Response {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|it| it.to_str().ok());
    match known {
        Some(known) if resource["meta"]["version"] == known => {
            (StatusCode::NOT_MODIFIED, [(header::ETAG, known.to_owned())]).into_response()
        }
        _ => shown(StatusCode::OK, resource, fields),
    }
}

/// The version that a change was made from, where the directory names one.
fn if_match(headers: &HeaderMap) -> edge::Result<Option<i64>> {
    let Some(given) = headers.get(header::IF_MATCH).and_then(|it| it.to_str().ok()) else {
        return Ok(None);
    };
    if given.trim() == "*" {
        return Ok(None);
    }
    let number = given.trim().trim_start_matches("W/").trim_matches('"').parse();
    number.map(Some).map_err(|_| edge::Error::unreadable("If-Match is no version of this server"))
}

/// A change that was made from another version than the newest.
fn is_old() -> Response {
    failed(412, None, "it was changed since that version")
}

/// A member that is not there is a wrong value: the group is there.
fn not_there(error: identity::Error) -> edge::Error {
    match error {
        identity::Error::NotThere("person") => edge::Error::invalid("there is no such member"),
        error => refused(error),
    }
}

impl ListQuery {
    /// How many to pass over, and how many to give.
    fn part(&self) -> (usize, usize) {
        let start = usize::try_from(self.start_index.unwrap_or(1).max(1)).unwrap_or(1);
        let count = self.count.map_or(LIST_DEFAULT, |it| usize::try_from(it.max(0)).unwrap_or(0));
        (start - 1, count.min(LIST_MAX))
    }

    fn fields(&self) -> Fields {
        Fields::of(self.attributes.as_deref(), self.excluded_attributes.as_deref())
    }
}

fn user_id(text: &str) -> edge::Result<AccountId> {
    text.parse().map_err(|_| edge::Error::not_found("there is no such user"))
}

fn group_id(text: &str) -> edge::Result<GroupId> {
    text.parse().map_err(|_| edge::Error::not_found("there is no such group"))
}

async fn list_users(
    State(doors): State<Doors>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> edge::Result<Response> {
    users_like(&doors, &caller, &query).await
}

async fn search_users(
    State(doors): State<Doors>,
    caller: Caller,
    Json(body): Json<SearchBody>,
) -> edge::Result<Response> {
    users_like(&doors, &caller, &body.into()).await
}

async fn users_like(doors: &Doors, caller: &Caller, query: &ListQuery) -> edge::Result<Response> {
    let answers = Answers::new(doors, caller.organisation());
    let part = query.part();
    let (people, count) = match filter::users(query.filter.as_deref())? {
        Some(wanted) => {
            let found = doors.identity.people_at(caller.organisation(), &wanted, part).await;
            found.map_err(refused)?
        }
        None => (vec![], 0),
    };
    let fields = query.fields();
    let users = people.iter().map(|person| fields.of_resource(&answers.user(person)));
    Ok(found(&answers::list(&users.collect::<Vec<_>>(), count, part)))
}

async fn get_user(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> edge::Result<Response> {
    let organisation = caller.organisation();
    let person = doors.identity.person(organisation, user_id(&id)?).await.map_err(refused)?;
    let user = Answers::new(&doors, organisation).user(&person);
    Ok(shown_anew(&headers, &user, &query.fields()))
}

async fn create_user(
    State(doors): State<Doors>,
    caller: Caller,
    Peer(from): Peer,
    Json(Body(body)): Json<Body>,
) -> edge::Result<Response> {
    let mut wish = UserWish::default();
    wish.take_all(&body)?;
    let new = NewPerson {
        about: wish.about()?,
        role: wish.role.unwrap_or(Role::Member),
        is_suspended: !wish.is_active.unwrap_or(true),
        password: wish.password.set().cloned(),
    };
    let added = doors.identity.add_person((by(&caller), from), new).await;
    let user = Answers::new(&doors, caller.organisation()).user(&added.map_err(refused)?);
    Ok(shown(StatusCode::CREATED, &user, &Fields::All))
}

#[expect(clippy::too_many_arguments, reason = "each is a part of the request")]
async fn replace_user(
    State(doors): State<Doors>,
    caller: Caller,
    Peer(from): Peer,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(Body(body)): Json<Body>,
) -> edge::Result<Response> {
    let whole = || {
        let mut wish = UserWish::default();
        wish.take_all(&body)?;
        wish.about()?;
        Ok(wish)
    };
    // What cannot be read is refused whoever it is about.
    whole().map(drop)?;
    change_user(&doors, (&caller, from), (&id, &headers), |_| whole()).await
}

#[expect(clippy::too_many_arguments, reason = "each is a part of the request")]
async fn patch_user(
    State(doors): State<Doors>,
    caller: Caller,
    Peer(from): Peer,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(Body(body)): Json<Body>,
) -> edge::Result<Response> {
    let operations = patch::operations(&body)?;
    change_user(&doors, (&caller, from), (&id, &headers), |now| {
        let mut wish = UserWish::of(now);
        for operation in &operations {
            wish.apply(operation)?;
        }
        Ok(wish)
    })
    .await
}

async fn change_user(
    doors: &Doors,
    (caller, from): (&Caller, IpAddr),
    (id, headers): (&str, &HeaderMap),
    wish: impl Fn(&Person) -> edge::Result<UserWish>,
) -> edge::Result<Response> {
    let (id, wanted) = (user_id(id)?, if_match(headers)?);
    let organisation = caller.organisation();
    for tried in 1.. {
        let now = doors.identity.person(organisation, id).await.map_err(refused)?;
        let wish = wish(&now)?;
        let change = PersonChange {
            about: Some(wish.about()?),
            role: wish.role,
            is_suspended: wish.is_active.map(|is_active| !is_active),
            password: wish.password,
            version: Some(wanted.unwrap_or(now.version)),
        };
        match doors.identity.change_person((by(caller), from), id, change).await {
            Ok(person) => {
                let user = Answers::new(doors, organisation).user(&person);
                return Ok(shown(StatusCode::OK, &user, &Fields::All));
            }
            Err(identity::Error::Changed) if wanted.is_some() => return Ok(is_old()),
            Err(identity::Error::Changed) if tried < TRIES => {}
            Err(error) => return Err(refused(error)),
        }
    }
    unreachable!("the loop ends by an answer")
}

async fn delete_user(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    doors.identity.remove_person(by(&caller), user_id(&id)?, Texts::Keep).await.map_err(refused)?;
    Ok(NoContent)
}

async fn list_groups(
    State(doors): State<Doors>,
    caller: Caller,
    Query(query): Query<ListQuery>,
) -> edge::Result<Response> {
    groups_like(&doors, &caller, &query).await
}

async fn search_groups(
    State(doors): State<Doors>,
    caller: Caller,
    Json(body): Json<SearchBody>,
) -> edge::Result<Response> {
    groups_like(&doors, &caller, &body.into()).await
}

async fn groups_like(doors: &Doors, caller: &Caller, query: &ListQuery) -> edge::Result<Response> {
    let answers = Answers::new(doors, caller.organisation());
    let part = query.part();
    let (groups, count) = match filter::groups(query.filter.as_deref())? {
        Some(wanted) => {
            let found = doors.identity.groups_at(caller.organisation(), &wanted, part).await;
            found.map_err(refused)?
        }
        None => (vec![], 0),
    };
    let fields = query.fields();
    let groups = groups
        .iter()
        .map(|group| fields.of_resource(&answers.group(group, fields.wants("members"))));
    Ok(found(&answers::list(&groups.collect::<Vec<_>>(), count, part)))
}

async fn get_group(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> edge::Result<Response> {
    let organisation = caller.organisation();
    let group = doors.identity.group(organisation, group_id(&id)?).await.map_err(refused)?;
    let fields = query.fields();
    let group = Answers::new(&doors, organisation).group(&group, fields.wants("members"));
    Ok(shown_anew(&headers, &group, &fields))
}

async fn create_group(
    State(doors): State<Doors>,
    caller: Caller,
    Json(Body(body)): Json<Body>,
) -> edge::Result<Response> {
    let mut wish = GroupWish::default();
    wish.take_all(&body)?;
    let new = NewGroup {
        name: wish.name.unwrap_or_default(),
        outside_id: wish.outside_id.set().cloned(),
        grants: vec![],
        members: match wish.members {
            Some(Members::Are(members)) => members,
            _ => vec![],
        },
    };
    let group = doors.identity.create_group(by(&caller), new).await.map_err(not_there)?;
    let group = Answers::new(&doors, caller.organisation()).group(&group, true);
    Ok(shown(StatusCode::CREATED, &group, &Fields::All))
}

async fn replace_group(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(Body(body)): Json<Body>,
) -> edge::Result<Response> {
    let mut wish = GroupWish::default();
    wish.take_all(&body)?;
    // What is not said is taken away; but a group has a name.
    if wish.outside_id.is_kept() {
        wish.outside_id = Edit::Clear;
    }
    wish.members.get_or_insert(Members::Are(vec![]));
    change_group(&doors, &caller, (&id, &headers), wish).await
}

async fn patch_group(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
    headers: HeaderMap,
    Json(Body(body)): Json<Body>,
) -> edge::Result<Response> {
    let mut wish = GroupWish::default();
    for operation in patch::operations(&body)? {
        wish.apply(&operation)?;
    }
    change_group(&doors, &caller, (&id, &headers), wish).await
}

async fn change_group(
    doors: &Doors,
    caller: &Caller,
    (id, headers): (&str, &HeaderMap),
    wish: GroupWish,
) -> edge::Result<Response> {
    let (id, wanted) = (group_id(id)?, if_match(headers)?);
    let change = GroupChange {
        name: wish.name,
        outside_id: wish.outside_id,
        grants: None,
        members: wish.members,
        version: wanted,
    };
    match doors.identity.change_group(by(caller), id, change).await {
        Ok(group) => {
            let group = Answers::new(doors, caller.organisation()).group(&group, true);
            Ok(shown(StatusCode::OK, &group, &Fields::All))
        }
        Err(identity::Error::Changed) => Ok(is_old()),
        Err(error) => Err(not_there(error)),
    }
}

async fn delete_group(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    doors.identity.remove_group(by(&caller), group_id(&id)?).await.map_err(refused)?;
    Ok(NoContent)
}
