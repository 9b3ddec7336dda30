//! Signing in and out, making an account, and the password: what a browser needs before anything else.

use base::ErrorKind;
use edge::{
    Caller, Created, Json, NoContent, Operation, Peer, Routes, SessionCookie, SessionToken, State,
};
use identity::{Error, NewAccount, NewSession, SignIn};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Doors;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Credentials {
    email: String,
    password: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Link {
    /// The token of a one-time link.
    token: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AccountBody {
    email: String,
    /// At least ten characters.
    password: String,
    /// The name of the organisation that is made with it; the address without.
    #[serde(default)]
    organisation: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    /// At least ten characters.
    password: String,
}

#[derive(Serialize, JsonSchema)]
struct AccountMade {
    id: String,
    organisation: String,
}

#[derive(Serialize, JsonSchema)]
struct SessionBody {
    /// The organisation's name.
    organisation: String,
    organisation_id: String,
    /// The address of an account, or the label of a key.
    name: String,
    email: Option<String>,
    /// False while the account can be entered by a link only.
    has_password: bool,
    /// What may be done, as patterns such as `devices.*`.
    actions: Vec<String>,
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    Routes::new(doors.clone())
        .add(
            Operation::post("/v1/session")
                .id("signIn")
                .summary("Signs in with a password; the answer sets the session's cookie.")
                .tag("session")
                .public()
                .kinds(&[ErrorKind::Unauthenticated, ErrorKind::TooMany]),
            sign_in,
        )
        .add(
            Operation::post("/v1/session/link")
                .id("redeemLink")
                .summary("Signs in with a one-time link.")
                .tag("session")
                .public()
                .kinds(&[ErrorKind::Unauthenticated]),
            redeem_link,
        )
        .add(
            Operation::get("/v1/session")
                .id("session")
                .summary("Who is asking, and what they may do.")
                .tag("session")
                .signed_in(),
            session,
        )
        .add(
            Operation::delete("/v1/session")
                .id("signOut")
                .summary("Ends the session of the cookie.")
                .tag("session")
                .session(),
            sign_out,
        )
        .add(
            Operation::post("/v1/accounts")
                .id("signUp")
                .summary("Makes an account with an organisation of its own, where sign-up is open.")
                .tag("session")
                .public()
                .kinds(&[ErrorKind::Forbidden, ErrorKind::AlreadyExists, ErrorKind::TooMany]),
            sign_up,
        )
        .add(
            Operation::put("/v1/account/password")
                .id("setPassword")
                .summary("Sets the password of one's own account; its other sessions end.")
                .tag("session")
                .session()
                .secret(),
            set_password,
        )
}

async fn sign_in(
    State(doors): State<Doors>,
    Peer(from): Peer,
    Json(given): Json<Credentials>,
) -> edge::Result<(SessionCookie, NoContent)> {
    let given = SignIn { email: given.email, password: given.password };
    Ok(begun(&doors.identity.sign_in(from, given).await.map_err(refused)?))
}

async fn redeem_link(
    State(doors): State<Doors>,
    Json(link): Json<Link>,
) -> edge::Result<(SessionCookie, NoContent)> {
    Ok(begun(&doors.identity.redeem_link(&link.token).await.map_err(refused)?))
}

async fn session(State(doors): State<Doors>, caller: Caller) -> edge::Result<Json<SessionBody>> {
    let profile = doors.identity.profile(&caller.principal).await.map_err(refused)?;
    Ok(Json(SessionBody {
        organisation: profile.organisation_name,
        organisation_id: profile.organisation.to_string(),
        name: profile.name,
        email: profile.email,
        has_password: profile.has_password,
        actions: profile.grants.into_iter().map(|grant| grant.action).collect(),
    }))
}

async fn sign_out(
    State(doors): State<Doors>,
    SessionToken(token): SessionToken,
) -> edge::Result<(SessionCookie, NoContent)> {
    if let Some(token) = token {
        doors.identity.sign_out(&token).await.map_err(refused)?;
    }
    Ok((SessionCookie::clear(), NoContent))
}

async fn sign_up(
    State(doors): State<Doors>,
    Peer(from): Peer,
    Json(account): Json<AccountBody>,
) -> edge::Result<Created<AccountMade>> {
    let AccountBody { email, password, organisation } = account;
    let made = doors.identity.sign_up(from, NewAccount { email, password, organisation }).await;
    let made = made.map_err(refused)?;
    Ok(Created(AccountMade {
        id: made.account.to_string(),
        organisation: made.organisation.to_string(),
    }))
}

async fn set_password(
    State(doors): State<Doors>,
    caller: Caller,
    SessionToken(token): SessionToken,
    Json(new): Json<NewPassword>,
) -> edge::Result<NoContent> {
    let keep = token.as_deref();
    doors.identity.set_password(&caller.principal, keep, &new.password).await.map_err(refused)?;
    Ok(NoContent)
}

fn begun(session: &NewSession) -> (SessionCookie, NoContent) {
    (SessionCookie::set(&session.token, session.lifetime), NoContent)
}

pub(super) fn refused(error: Error) -> edge::Error {
    edge::Error::of(error.kind(), error)
}
