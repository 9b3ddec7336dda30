//! Coming in and going out: with a password, a link, an invitation, a second factor; in a browser and in an app.

use axum::http::HeaderMap;
use axum::http::header::USER_AGENT;
use base::ErrorKind;
use edge::{
    Accepted, Caller, Json, NoContent, Operation, Peer, Routes, SessionCookie, SessionToken, State,
};
use identity::{Entered, Error, Holds, NewSession, SignIn, Visitor};
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
pub(super) struct EmailBody {
    pub(super) email: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SecondBody {
    /// From the answer before.
    challenge: String,
    /// Six digits of an app for codes, or a recovery code.
    code: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RefreshBody {
    refresh_token: String,
}

/// Signed in, or half of the way.
#[derive(Serialize, JsonSchema)]
pub(super) struct SignedIn {
    /// Null when a session began; otherwise a second factor is asked for.
    second_factor: Option<ChallengeBody>,
}

/// What goes back with the second factor.
#[derive(Serialize, JsonSchema)]
struct ChallengeBody {
    challenge: String,
    expires_in_seconds: u64,
}

/// What an app keeps; or what it sends with the second factor.
#[derive(Serialize, JsonSchema)]
struct Tokens {
    /// For `Authorization: Bearer`.
    access_token: Option<String>,
    expires_in_seconds: Option<u64>,
    /// Exchanged once for the next two at `/v1/tokens/refresh`.
    refresh_token: Option<String>,
    second_factor: Option<ChallengeBody>,
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
    /// False while the account must still show that its address is its own.
    is_verified: bool,
    /// A code is asked for beside a password or a link.
    has_second_factor: bool,
    /// What may be done, as patterns such as `devices.*`.
    actions: Vec<String>,
}

const REFUSALS: &[ErrorKind] = &[ErrorKind::Unauthenticated, ErrorKind::TooMany];

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    browser(Routes::new(doors.clone())).join(app(Routes::new(doors.clone())))
}

fn browser(routes: Routes<Doors>) -> Routes<Doors> {
    routes
        .add(
            Operation::post("/v1/session")
                .id("signIn")
                .summary("Signs in with a password; the answer sets the session's cookie, or asks for a second factor.")
                .tag("session")
                .public()
                .secret()
                .kinds(REFUSALS),
            sign_in,
        )
        .add(
            Operation::post("/v1/session/second")
                .id("secondFactor")
                .summary("Goes on with a code; the answer sets the session's cookie.")
                .tag("session")
                .public()
                .secret()
                .kinds(REFUSALS),
            second,
        )
        .add(
            Operation::post("/v1/session/link")
                .id("redeemLink")
                .summary("Signs in with a one-time link.")
                .tag("session")
                .public()
                .secret()
                .kinds(&[ErrorKind::Unauthenticated]),
            redeem_link,
        )
        .add(
            Operation::post("/v1/session/links")
                .id("mailLink")
                .summary("Mails a one-time link that signs in; says the same whether there is such an account.")
                .tag("session")
                .public()
                .kinds(&[ErrorKind::TooMany]),
            mail_link,
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
}

fn app(routes: Routes<Doors>) -> Routes<Doors> {
    routes
        .add(
            Operation::post("/v1/tokens")
                .id("signInApp")
                .summary("Signs an app in with a password: a text to show for minutes, and one to exchange for the next.")
                .tag("session")
                .public()
                .secret()
                .kinds(REFUSALS),
            tokens,
        )
        .add(
            Operation::post("/v1/tokens/second")
                .id("secondFactorApp")
                .summary("Goes on with a code.")
                .tag("session")
                .public()
                .secret()
                .kinds(REFUSALS),
            tokens_second,
        )
        .add(
            Operation::post("/v1/tokens/refresh")
                .id("refreshTokens")
                .summary("Exchanges a refresh token, once; one that comes again ends its session.")
                .tag("session")
                .public()
                .secret()
                .kinds(&[ErrorKind::Unauthenticated]),
            refresh,
        )
        .add(
            Operation::post("/v1/tokens/revoke")
                .id("revokeTokens")
                .summary("Ends an app's session by its refresh token.")
                .tag("session")
                .public()
                .secret(),
            revoke,
        )
}

async fn sign_in(
    State(doors): State<Doors>,
    peer: Peer,
    headers: HeaderMap,
    Json(given): Json<Credentials>,
) -> edge::Result<(Option<SessionCookie>, Json<SignedIn>)> {
    let Credentials { email, password } = given;
    let given = SignIn { email, password, holds: Holds::Cookie };
    let entered = doors.identity.sign_in(&visitor(&peer, &headers), given).await;
    Ok(entered_browser(entered.map_err(refused)?))
}

async fn second(
    State(doors): State<Doors>,
    peer: Peer,
    headers: HeaderMap,
    Json(given): Json<SecondBody>,
) -> edge::Result<(SessionCookie, NoContent)> {
    let visitor = visitor(&peer, &headers);
    let SecondBody { challenge, code } = given;
    let session = doors.identity.second(&visitor, &challenge, &code, Holds::Cookie).await;
    Ok((cookie(&session.map_err(refused)?), NoContent))
}

async fn redeem_link(
    State(doors): State<Doors>,
    peer: Peer,
    headers: HeaderMap,
    Json(link): Json<Link>,
) -> edge::Result<(Option<SessionCookie>, Json<SignedIn>)> {
    let visitor = visitor(&peer, &headers);
    let entered = doors.identity.redeem_link(&visitor, &link.token, Holds::Cookie).await;
    Ok(entered_browser(entered.map_err(refused)?))
}

async fn mail_link(
    State(doors): State<Doors>,
    Peer(from): Peer,
    Json(EmailBody { email }): Json<EmailBody>,
) -> edge::Result<Accepted> {
    doors.identity.mail_link(from, &email).map_err(refused)?;
    Ok(Accepted)
}

async fn session(State(doors): State<Doors>, caller: Caller) -> edge::Result<Json<SessionBody>> {
    let profile = doors.identity.profile(&caller.principal).await.map_err(refused)?;
    Ok(Json(SessionBody {
        organisation: profile.organisation_name,
        organisation_id: profile.organisation.to_string(),
        name: profile.name,
        email: profile.email,
        has_password: profile.has_password,
        is_verified: profile.is_verified,
        has_second_factor: profile.has_second_factor,
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

async fn tokens(
    State(doors): State<Doors>,
    peer: Peer,
    headers: HeaderMap,
    Json(given): Json<Credentials>,
) -> edge::Result<Json<Tokens>> {
    let Credentials { email, password } = given;
    let given = SignIn { email, password, holds: Holds::Tokens };
    let entered = doors.identity.sign_in(&visitor(&peer, &headers), given).await;
    Ok(Json(match entered.map_err(refused)? {
        Entered::In(session) => tokens_of(session),
        Entered::Second(challenge) => Tokens {
            access_token: None,
            expires_in_seconds: None,
            refresh_token: None,
            second_factor: Some(challenge_body(challenge)),
        },
    }))
}

async fn tokens_second(
    State(doors): State<Doors>,
    peer: Peer,
    headers: HeaderMap,
    Json(given): Json<SecondBody>,
) -> edge::Result<Json<Tokens>> {
    let visitor = visitor(&peer, &headers);
    let SecondBody { challenge, code } = given;
    let session = doors.identity.second(&visitor, &challenge, &code, Holds::Tokens).await;
    Ok(Json(tokens_of(session.map_err(refused)?)))
}

async fn refresh(
    State(doors): State<Doors>,
    Json(given): Json<RefreshBody>,
) -> edge::Result<Json<Tokens>> {
    let session = doors.identity.refresh(&given.refresh_token).await;
    Ok(Json(tokens_of(session.map_err(refused)?)))
}

async fn revoke(
    State(doors): State<Doors>,
    Json(given): Json<RefreshBody>,
) -> edge::Result<NoContent> {
    doors.identity.end_tokens(&given.refresh_token).await.map_err(refused)?;
    Ok(NoContent)
}

/// From where somebody comes. Only what the connection itself says counts for the address.
pub(super) fn visitor(Peer(address): &Peer, headers: &HeaderMap) -> Visitor {
    let agent = headers.get(USER_AGENT).and_then(|agent| agent.to_str().ok());
    Visitor { address: *address, agent: agent.unwrap_or_default().to_owned() }
}

pub(super) fn cookie(session: &NewSession) -> SessionCookie {
    SessionCookie::set(&session.token, session.lifetime)
}

pub(super) fn entered_browser(entered: Entered) -> (Option<SessionCookie>, Json<SignedIn>) {
    match entered {
        Entered::In(session) => (Some(cookie(&session)), Json(SignedIn { second_factor: None })),
        Entered::Second(challenge) => {
            (None, Json(SignedIn { second_factor: Some(challenge_body(challenge)) }))
        }
    }
}

fn challenge_body(challenge: identity::Challenge) -> ChallengeBody {
    ChallengeBody { challenge: challenge.token, expires_in_seconds: challenge.lifetime.as_secs() }
}

fn tokens_of(session: NewSession) -> Tokens {
    let (text, lifetime) = session.access.map(|it| (it.text, it.lifetime.as_secs())).unzip();
    Tokens {
        access_token: text,
        expires_in_seconds: lifetime,
        refresh_token: Some(session.token),
        second_factor: None,
    }
}

pub(super) fn refused(error: Error) -> edge::Error {
    edge::Error::of(error.kind(), error)
}
