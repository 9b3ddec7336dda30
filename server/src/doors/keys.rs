//! Generated keys.

use base::{ErrorKind, KeyId};
use edge::{Caller, Created, Json, NoContent, Operation, PageBody, Paging, Path, Routes, State};
use identity::{Grant, Key, NewKey, actions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Doors;
use super::accounts::by;
use super::session::refused;

/// What a key may do, and to what.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantBody {
    /// An action such as `devices.read`, a group such as `devices.*`, or `*`.
    action: String,
    /// A resource such as `device/roof-1`, the beginning of one such as `device/*`, or `*`.
    resource: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewKeyBody {
    label: String,
    grants: Vec<GrantBody>,
}

#[derive(Serialize, JsonSchema)]
struct KeyBody {
    id: String,
    label: String,
    grants: Vec<GrantBody>,
    /// `account:…`, `key:…` or `system:…`.
    created_by: String,
    created: String,
}

/// A new key with its secret, which is never shown again.
#[derive(Serialize, JsonSchema)]
struct KeyMade {
    id: String,
    label: String,
    /// For `Authorization: Bearer`.
    token: String,
    mqtt_user: String,
    mqtt_password: String,
}

impl From<Grant> for GrantBody {
    fn from(grant: Grant) -> Self {
        Self { action: grant.action, resource: grant.resource }
    }
}

impl From<Key> for KeyBody {
    fn from(key: Key) -> Self {
        Self {
            id: key.id.to_string(),
            label: key.label,
            grants: key.grants.into_iter().map(GrantBody::from).collect(),
            created_by: key.created_by,
            created: key.created.to_string(),
        }
    }
}

pub(super) fn grants(given: Vec<GrantBody>) -> Vec<Grant> {
    given.into_iter().map(|grant| Grant::new(grant.action, grant.resource)).collect()
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    Routes::new(doors.clone())
        .add(
            Operation::get("/v1/keys")
                .id("listKeys")
                .summary("The keys that open something, oldest first.")
                .tag("keys")
                .action(actions::KEYS_READ),
            list,
        )
        .add(
            Operation::post("/v1/keys")
                .id("createKey")
                .summary("Makes a key that may do what its maker may, or less.")
                .tag("keys")
                .action(actions::KEYS_WRITE)
                .secret(),
            create,
        )
        .add(
            Operation::delete("/v1/keys/{id}")
                .id("revokeKey")
                .summary("Ends a key, also where it is in use.")
                .tag("keys")
                .action(actions::KEYS_WRITE)
                .resource("key/{id}")
                .kinds(&[ErrorKind::NotFound]),
            revoke,
        )
}

async fn list(
    State(doors): State<Doors>,
    caller: Caller,
    Paging(page): Paging,
) -> edge::Result<PageBody<KeyBody>> {
    let keys = doors.identity.keys(caller.organisation(), &page).await.map_err(refused)?;
    Ok(keys.map(KeyBody::from).into())
}

async fn create(
    State(doors): State<Doors>,
    caller: Caller,
    Json(new): Json<NewKeyBody>,
) -> edge::Result<Created<KeyMade>> {
    let new = NewKey { label: new.label, grants: grants(new.grants) };
    let key = doors.identity.create_key(by(&caller), new).await.map_err(refused)?;
    Ok(Created(KeyMade {
        id: key.id.to_string(),
        label: key.label,
        token: key.token,
        mqtt_user: key.mqtt_user,
        mqtt_password: key.mqtt_password,
    }))
}

async fn revoke(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    let id: KeyId = id.parse().map_err(|_| edge::Error::not_found("there is no such key"))?;
    doors.identity.revoke_key(by(&caller), id).await.map_err(refused)?;
    Ok(NoContent)
}
