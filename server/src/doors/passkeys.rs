//! Passkeys, in the JSON forms of Web Authentication Level 3: what `parseCreationOptionsFromJSON` takes and `toJSON` gives.

use axum::http::HeaderMap;
use base::ErrorKind;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use edge::{
    Caller, Created, Json, NoContent, Operation, PageBody, Path, Peer, Routes, SessionCookie, State,
};
use identity::{Holds, NewPasskey, Passkey, PasskeyId, PasskeyRequest, ShownPasskey};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Doors;
use super::accounts::{AgainBody, by};
use super::session::{cookie, refused, visitor};

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MadeBody {
    /// What its owner calls it.
    name: String,
    credential: MadeCredential,
}

/// A `RegistrationResponseJSON`; other fields of it are not looked at.
#[derive(Deserialize, JsonSchema)]
struct MadeCredential {
    response: MadeResponse,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct MadeResponse {
    #[serde(rename = "clientDataJSON")]
    client_data: String,
    attestation_object: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ShownBody {
    credential: ShownCredential,
}

/// An `AuthenticationResponseJSON`; other fields of it are not looked at.
#[derive(Deserialize, JsonSchema)]
struct ShownCredential {
    id: String,
    response: ShownResponse,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ShownResponse {
    #[serde(rename = "clientDataJSON")]
    client_data: String,
    authenticator_data: String,
    signature: String,
    user_handle: String,
}

/// A passkey of one's own.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Passkey")]
struct PasskeyBody {
    id: String,
    name: String,
    /// It is on more than one device.
    is_backed_up: bool,
    created: String,
    used: Option<String>,
}

impl From<Passkey> for PasskeyBody {
    fn from(passkey: Passkey) -> Self {
        Self {
            id: passkey.id.to_string(),
            name: passkey.name,
            is_backed_up: passkey.is_backed_up,
            created: passkey.created.to_string(),
            used: passkey.used.map(|used| used.to_string()),
        }
    }
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    Routes::new(doors.clone())
        .add(
            Operation::get("/v1/account/passkeys")
                .id("listPasskeys")
                .summary("One's own passkeys, oldest first.")
                .tag("account")
                .session(),
            list,
        )
        .add(
            Operation::post("/v1/account/passkeys/options")
                .id("beginPasskey")
                .summary("What a browser makes a passkey with (PublicKeyCredentialCreationOptionsJSON).")
                .tag("account")
                .session()
                .secret(),
            begin,
        )
        .add(
            Operation::post("/v1/account/passkeys")
                .id("addPasskey")
                .summary("Takes a passkey that a browser made (RegistrationResponseJSON).")
                .tag("account")
                .session()
                .secret()
                .kinds(&[ErrorKind::AlreadyExists]),
            add,
        )
        .add(
            Operation::delete("/v1/account/passkeys/{id}")
                .id("removePasskey")
                .summary("Takes a passkey for lost.")
                .tag("account")
                .session()
                .kinds(&[ErrorKind::NotFound]),
            remove,
        )
        .add(
            Operation::post("/v1/session/passkey/options")
                .id("passkeyOptions")
                .summary("What a browser shows a passkey with (PublicKeyCredentialRequestOptionsJSON).")
                .tag("session")
                .public(),
            options,
        )
        .add(
            Operation::post("/v1/session/passkey")
                .id("signInByPasskey")
                .summary("Signs in with a passkey (AuthenticationResponseJSON); the answer sets the session's cookie.")
                .tag("session")
                .public()
                .secret()
                .kinds(&[ErrorKind::Unauthenticated]),
            sign_in,
        )
}

async fn list(State(doors): State<Doors>, caller: Caller) -> edge::Result<PageBody<PasskeyBody>> {
    let passkeys = doors.identity.passkeys(&caller.principal).await.map_err(refused)?;
    let items = passkeys.into_iter().map(PasskeyBody::from).collect();
    Ok(PageBody { items, next: None })
}

async fn begin(
    State(doors): State<Doors>,
    caller: Caller,
    Peer(from): Peer,
    Json(AgainBody { password }): Json<AgainBody>,
) -> edge::Result<Json<Value>> {
    let request = doors.identity.begin_passkey(by(&caller), from, password.as_deref()).await;
    Ok(Json(options_of(request.map_err(refused)?)))
}

async fn add(
    State(doors): State<Doors>,
    caller: Caller,
    Json(MadeBody { name, credential }): Json<MadeBody>,
) -> edge::Result<Created<PasskeyBody>> {
    let response = credential.response;
    let new = NewPasskey {
        name,
        client_data: decoded("clientDataJSON", &response.client_data)?,
        attestation: decoded("attestationObject", &response.attestation_object)?,
    };
    let added = doors.identity.add_passkey(by(&caller), new).await.map_err(refused)?;
    Ok(Created(added.into()))
}

async fn remove(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    let id: PasskeyId =
        id.parse().map_err(|_| edge::Error::not_found("there is no such passkey"))?;
    doors.identity.remove_passkey(by(&caller), id).await.map_err(refused)?;
    Ok(NoContent)
}

async fn options(State(doors): State<Doors>) -> edge::Result<Json<Value>> {
    Ok(Json(options_of(doors.identity.passkey_request().map_err(refused)?)))
}

async fn sign_in(
    State(doors): State<Doors>,
    peer: Peer,
    headers: HeaderMap,
    Json(ShownBody { credential }): Json<ShownBody>,
) -> edge::Result<(SessionCookie, NoContent)> {
    let response = credential.response;
    let shown = ShownPasskey {
        credential: decoded("id", &credential.id)?,
        client_data: decoded("clientDataJSON", &response.client_data)?,
        authenticator_data: decoded("authenticatorData", &response.authenticator_data)?,
        signature: decoded("signature", &response.signature)?,
        user: decoded("userHandle", &response.user_handle)?,
    };
    let visitor = visitor(&peer, &headers);
    let session = doors.identity.passkey_sign_in(&visitor, shown, Holds::Cookie).await;
    Ok((cookie(&session.map_err(refused)?), NoContent))
}

fn decoded(name: &str, text: &str) -> edge::Result<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| {
        edge::Error::invalid("the body does not fit")
            .at(format!("/credential/{name}"), "is not base64url")
    })
}

fn options_of(request: PasskeyRequest) -> Value {
    let timeout = u64::try_from(request.lifetime.as_millis()).unwrap_or(u64::MAX);
    let Some(user) = request.user else {
        return json!({
            "challenge": request.challenge,
            "timeout": timeout,
            "rpId": request.relying_party,
            "userVerification": "required",
        });
    };
    let known = |id: &String| json!({ "type": "public-key", "id": id });
    json!({
        "challenge": request.challenge,
        "timeout": timeout,
        "rp": { "id": request.relying_party, "name": "Madang" },
        "user": { "id": user.id, "name": user.name, "displayName": user.name },
        "pubKeyCredParams": request
            .algorithms
            .iter()
            .map(|number| json!({ "type": "public-key", "alg": number }))
            .collect::<Vec<_>>(),
        "excludeCredentials": user.has.iter().map(known).collect::<Vec<_>>(),
        "authenticatorSelection": { "residentKey": "required", "userVerification": "required" },
        "attestation": "none",
    })
}
