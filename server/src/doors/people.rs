//! People of an organisation and their groups, as an administrator changes them by hand. A directory does so by [`super::scim`].

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base::access::Subject;
use base::personal::{Someone, Texts};
use base::{AccountId, ErrorKind, Failure};
use edge::{
    Caller, Created, Json, NoContent, Operation, PageBody, Paging, Path, Peer, Query, Routes, State,
};
use futures::stream;
use identity::{
    Group, GroupChange, GroupId, GroupsFilter, Members, NewGroup, PeopleFilter, Person,
    PersonChange, actions,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Doors;
use super::accounts::{RoleBody, by};
use super::keys::{GrantBody, grants};
use super::session::refused;
use crate::persons::Telling;

/// Somebody of the organisation.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Person")]
struct PersonBody {
    id: String,
    email: String,
    name: Option<String>,
    role: RoleBody,
    state: StateBody,
    /// They showed that the address is theirs, or nobody has to.
    is_verified: bool,
    /// By name.
    groups: Vec<GroupName>,
    /// A directory keeps them, by SCIM.
    from_directory: bool,
    created: String,
    signed_in: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct GroupName {
    id: String,
    name: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "PersonState")]
enum StateBody {
    Active,
    /// Comes in by no door.
    Suspended,
}

#[derive(Deserialize, JsonSchema)]
struct PeopleQuery {
    /// An address, or how it begins.
    email: Option<String>,
    state: Option<StateBody>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PersonPatch {
    /// At most 100 characters; an empty one takes the name away.
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    role: Option<RoleBody>,
    #[serde(default)]
    state: Option<StateBody>,
}

/// What becomes of what somebody wrote for others.
#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum TextsBody {
    /// It stays, without their name.
    #[default]
    Keep,
    Erase,
}

#[derive(Deserialize, JsonSchema)]
struct RemovalQuery {
    #[serde(default)]
    texts: TextsBody,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RemovalBody {
    /// The account's, where it has one.
    #[serde(default)]
    password: Option<String>,
    #[serde(default)]
    texts: TextsBody,
}

/// Lines of JSON.
const NDJSON: &str = "application/x-ndjson";

impl From<TextsBody> for Texts {
    fn from(texts: TextsBody) -> Self {
        match texts {
            TextsBody::Keep => Self::Keep,
            TextsBody::Erase => Self::Erase,
        }
    }
}

/// People who may do something together.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Group")]
struct GroupBody {
    id: String,
    name: String,
    /// What everybody in it may do, beside what their role lets them.
    grants: Vec<GrantBody>,
    members: usize,
    /// A directory keeps it, by SCIM.
    from_directory: bool,
    created: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewGroupBody {
    name: String,
    #[serde(default)]
    grants: Vec<GrantBody>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct GroupPatch {
    #[serde(default)]
    name: Option<String>,
    /// In place of those from before.
    #[serde(default)]
    grants: Option<Vec<GrantBody>>,
}

#[derive(Deserialize, JsonSchema)]
struct MemberPath {
    id: String,
    person: String,
}

impl From<Person> for PersonBody {
    fn from(person: Person) -> Self {
        let groups = person.groups.into_iter();
        Self {
            id: person.id.to_string(),
            email: person.about.email,
            name: person.about.name,
            role: person.role.into(),
            state: if person.suspended.is_some() {
                StateBody::Suspended
            } else {
                StateBody::Active
            },
            is_verified: person.is_verified,
            groups: groups.map(|(id, name)| GroupName { id: id.to_string(), name }).collect(),
            from_directory: person.about.user_name.is_some() || person.about.outside_id.is_some(),
            created: person.created.to_string(),
            signed_in: person.signed_in.map(|moment| moment.to_string()),
        }
    }
}

impl From<Group> for GroupBody {
    fn from(group: Group) -> Self {
        Self {
            id: group.id.to_string(),
            name: group.name,
            grants: group.grants.into_iter().map(GrantBody::from).collect(),
            members: group.members,
            from_directory: group.outside_id.is_some(),
            created: group.created.to_string(),
        }
    }
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    people(Routes::new(doors.clone())).join(groups(Routes::new(doors.clone())))
}

fn people(routes: Routes<Doors>) -> Routes<Doors> {
    routes
        .add(
            Operation::get("/v1/people")
                .id("listPeople")
                .summary("The people of the organisation, in the order in which they came.")
                .tag("people")
                .action(actions::ACCOUNTS_READ),
            list,
        )
        .add(
            Operation::get("/v1/people/{id}")
                .id("getPerson")
                .summary("Somebody of the organisation.")
                .tag("people")
                .action(actions::ACCOUNTS_READ)
                .resource("person/{id}"),
            get,
        )
        .add(
            Operation::patch("/v1/people/{id}")
                .id("changePerson")
                .summary("Changes somebody who may do no more than oneself; who is suspended is signed out everywhere.")
                .tag("people")
                .action(actions::ACCOUNTS_WRITE)
                .resource("person/{id}")
                .kinds(&[ErrorKind::Conflict]),
            change,
        )
        .add(
            Operation::delete("/v1/people/{id}")
                .id("removePerson")
                .summary("Removes somebody for good: signed out everywhere, and forgotten in every room; what they wrote stays without a name, or goes too.")
                .tag("people")
                .action(actions::ACCOUNTS_WRITE)
                .resource("person/{id}")
                .kinds(&[ErrorKind::Conflict]),
            remove,
        )
        .add(
            Operation::get("/v1/people/{id}/export")
                .id("exportPerson")
                .summary("All that is kept about somebody who may do no more than oneself, a JSON object in each line.")
                .tag("people")
                .action(actions::ACCOUNTS_WRITE)
                .resource("person/{id}")
                .media(NDJSON),
            export,
        )
        .add(
            Operation::get("/v1/account/export")
                .id("exportAccount")
                .summary("All that is kept about oneself, a JSON object in each line.")
                .tag("account")
                .session()
                .media(NDJSON),
            export_own,
        )
        .add(
            Operation::post("/v1/account/removal")
                .id("removeAccount")
                .summary("Removes one's own account for good, as an administrator removes somebody.")
                .tag("account")
                .session()
                .secret()
                .kinds(&[ErrorKind::Conflict]),
            leave,
        )
}

fn groups(routes: Routes<Doors>) -> Routes<Doors> {
    routes
        .add(
            Operation::get("/v1/groups")
                .id("listGroups")
                .summary("Groups of people, oldest first.")
                .tag("people")
                .action(actions::ACCOUNTS_READ),
            list_groups,
        )
        .add(
            Operation::post("/v1/groups")
                .id("createGroup")
                .summary("Makes a group that lets people do what its maker may, or less.")
                .tag("people")
                .action(actions::ACCOUNTS_WRITE)
                .kinds(&[ErrorKind::AlreadyExists, ErrorKind::TooMany]),
            create_group,
        )
        .add(
            Operation::patch("/v1/groups/{id}")
                .id("changeGroup")
                .summary(
                    "Names a group, or says what it lets people do; at once for everybody in it.",
                )
                .tag("people")
                .action(actions::ACCOUNTS_WRITE)
                .resource("group/{id}")
                .kinds(&[ErrorKind::AlreadyExists]),
            change_group,
        )
        .add(
            Operation::delete("/v1/groups/{id}")
                .id("removeGroup")
                .summary("Ends a group; whoever was in it may do what it let them no more.")
                .tag("people")
                .action(actions::ACCOUNTS_WRITE)
                .resource("group/{id}"),
            remove_group,
        )
        .add(
            Operation::get("/v1/groups/{id}/members")
                .id("listMembers")
                .summary("Everybody in a group.")
                .tag("people")
                .action(actions::ACCOUNTS_READ)
                .resource("group/{id}"),
            members,
        )
        .add(
            Operation::put("/v1/groups/{id}/members/{person}")
                .id("addMember")
                .summary("Takes somebody into a group; also when they are in it already.")
                .tag("people")
                .action(actions::ACCOUNTS_WRITE)
                .resource("group/{id}")
                .kinds(&[ErrorKind::TooMany]),
            add_member,
        )
        .add(
            Operation::delete("/v1/groups/{id}/members/{person}")
                .id("removeMember")
                .summary("Takes somebody out of a group; also when they are not in it.")
                .tag("people")
                .action(actions::ACCOUNTS_WRITE)
                .resource("group/{id}"),
            remove_member,
        )
}

fn person_id(text: &str) -> edge::Result<AccountId> {
    text.parse().map_err(|_| edge::Error::not_found("there is no such person"))
}

fn group_id(text: &str) -> edge::Result<GroupId> {
    text.parse().map_err(|_| edge::Error::not_found("there is no such group"))
}

async fn list(
    State(doors): State<Doors>,
    caller: Caller,
    Query(wanted): Query<PeopleQuery>,
    Paging(page): Paging,
) -> edge::Result<PageBody<PersonBody>> {
    let filter = PeopleFilter {
        email_begins: wanted.email,
        is_suspended: wanted.state.map(|state| state == StateBody::Suspended),
        ..PeopleFilter::default()
    };
    let people = doors.identity.people(caller.organisation(), &filter, &page).await;
    Ok(people.map_err(refused)?.map(PersonBody::from).into())
}

async fn get(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<Json<PersonBody>> {
    let person = doors.identity.person(caller.organisation(), person_id(&id)?).await;
    Ok(Json(person.map_err(refused)?.into()))
}

async fn change(
    State(doors): State<Doors>,
    caller: Caller,
    Peer(from): Peer,
    Path(id): Path<String>,
    Json(patch): Json<PersonPatch>,
) -> edge::Result<Json<PersonBody>> {
    let id = person_id(&id)?;
    let mut change = PersonChange {
        role: patch.role.map(Into::into),
        is_suspended: patch.state.map(|state| state == StateBody::Suspended),
        ..PersonChange::default()
    };
    if let Some(name) = patch.name {
        let now = doors.identity.person(caller.organisation(), id).await.map_err(refused)?;
        let mut about = now.about;
        about.name = Some(name);
        change.about = Some(about);
        change.version = Some(now.version);
    }
    let person = doors.identity.change_person((by(&caller), from), id, change).await;
    Ok(Json(person.map_err(refused)?.into()))
}

async fn remove(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
    Query(RemovalQuery { texts }): Query<RemovalQuery>,
) -> edge::Result<NoContent> {
    let (id, texts) = (person_id(&id)?, texts.into());
    doors.identity.remove_person(by(&caller), id, texts).await.map_err(refused)?;
    Ok(NoContent)
}

async fn leave(
    State(doors): State<Doors>,
    caller: Caller,
    Peer(from): Peer,
    Json(removal): Json<RemovalBody>,
) -> edge::Result<NoContent> {
    let RemovalBody { password, texts } = removal;
    let who = (by(&caller), from);
    doors.identity.leave(who, password.as_deref(), texts.into()).await.map_err(refused)?;
    Ok(NoContent)
}

async fn export(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<Response> {
    let who = doors.identity.someone_below(by(&caller), person_id(&id)?).map_err(refused)?;
    told(&doors, &caller, who).await
}

async fn export_own(State(doors): State<Doors>, caller: Caller) -> edge::Result<Response> {
    let Subject::Account(id) = caller.subject() else {
        return Err(refused(identity::Error::NotAnAccount));
    };
    let who = doors.identity.someone(caller.organisation(), id).map_err(refused)?;
    told(&doors, &caller, who).await
}

async fn told(doors: &Doors, caller: &Caller, who: Someone) -> edge::Result<Response> {
    doors.identity.note_told(by(caller), &who).await.map_err(refused)?;
    let is_own = caller.subject() == Subject::Account(who.account);
    let mut telling = Telling::new(doors.persons.clone(), who, is_own);
    let first = telling.next().await.map_err(edge::Error::internal)?;
    // What comes later comes as fast as it is taken. An error breaks the answer off, so that it is no whole one.
    let rest = stream::try_unfold(telling, |mut telling| async move {
        let part = telling.next().await?;
        Ok::<_, Failure>(part.map(|part| (Bytes::from(part), telling)))
    });
    let first = stream::once(async move { Ok(Bytes::from(first.unwrap_or_default())) });
    let headers = [
        (header::CONTENT_TYPE, NDJSON),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"person.ndjson\""),
        (header::CACHE_CONTROL, "no-store"),
    ];
    let body = Body::from_stream(futures::StreamExt::chain(first, rest));
    Ok((headers, body).into_response())
}

async fn list_groups(
    State(doors): State<Doors>,
    caller: Caller,
    Paging(page): Paging,
) -> edge::Result<PageBody<GroupBody>> {
    let filter = GroupsFilter::default();
    let groups = doors.identity.groups(caller.organisation(), &filter, &page).await;
    Ok(groups.map_err(refused)?.map(GroupBody::from).into())
}

async fn create_group(
    State(doors): State<Doors>,
    caller: Caller,
    Json(new): Json<NewGroupBody>,
) -> edge::Result<Created<GroupBody>> {
    let NewGroupBody { name, grants: given } = new;
    let new = NewGroup { name, grants: grants(given), ..NewGroup::default() };
    let group = doors.identity.create_group(by(&caller), new).await.map_err(refused)?;
    Ok(Created(group.into()))
}

async fn change_group(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
    Json(patch): Json<GroupPatch>,
) -> edge::Result<Json<GroupBody>> {
    let GroupPatch { name, grants: given } = patch;
    let change = GroupChange { name, grants: given.map(grants), ..GroupChange::default() };
    let group = doors.identity.change_group(by(&caller), group_id(&id)?, change).await;
    Ok(Json(group.map_err(refused)?.into()))
}

async fn remove_group(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    doors.identity.remove_group(by(&caller), group_id(&id)?).await.map_err(refused)?;
    Ok(NoContent)
}

async fn members(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
    Paging(page): Paging,
) -> edge::Result<PageBody<PersonBody>> {
    let id = group_id(&id)?;
    let organisation = caller.organisation();
    doors.identity.group(organisation, id).await.map_err(refused)?;
    let filter = PeopleFilter { group: Some(id), ..PeopleFilter::default() };
    let people = doors.identity.people(organisation, &filter, &page).await;
    Ok(people.map_err(refused)?.map(PersonBody::from).into())
}

async fn add_member(
    State(doors): State<Doors>,
    caller: Caller,
    Path(path): Path<MemberPath>,
) -> edge::Result<NoContent> {
    let add = vec![person_id(&path.person)?];
    change_members(&doors, &caller, &path.id, Members::Change { add, remove: vec![] }).await
}

async fn remove_member(
    State(doors): State<Doors>,
    caller: Caller,
    Path(path): Path<MemberPath>,
) -> edge::Result<NoContent> {
    let remove = vec![person_id(&path.person)?];
    change_members(&doors, &caller, &path.id, Members::Change { add: vec![], remove }).await
}

async fn change_members(
    doors: &Doors,
    caller: &Caller,
    id: &str,
    members: Members,
) -> edge::Result<NoContent> {
    let change = GroupChange { members: Some(members), ..GroupChange::default() };
    let id = group_id(id)?;
    doors.identity.change_group(by(caller), id, change).await.map_err(refused)?;
    Ok(NoContent)
}
