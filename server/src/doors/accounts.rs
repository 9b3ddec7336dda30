//! Accounts: making one, showing whose its address is, its password, its sessions, its second factor; and invitations.

use axum::http::HeaderMap;
use base::ErrorKind;
use base::access::Door;
use edge::{
    Accepted, Caller, Created, Json, NoContent, Operation, PageBody, Paging, Path, Peer, Routes,
    SessionCookie, SessionToken, State,
};
use identity::{
    By, Holds, Invitation, InvitationId, NewAccount, Role, SessionId, Showing, actions,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Doors;
use super::session::{EmailBody, SignedIn, entered_browser, refused, visitor};

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
struct VerifyBody {
    /// The token of the link that was mailed.
    token: String,
    /// Where nobody is signed in.
    #[serde(default)]
    password: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewPassword {
    /// At least ten characters.
    password: String,
    /// The one that counts now, where there is one.
    #[serde(default)]
    current: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ResetBody {
    token: String,
    /// At least ten characters.
    password: String,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AgainBody {
    /// The account's, where it has one.
    #[serde(default)]
    pub(super) password: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CodeBody {
    /// Six digits of an app for codes, or a recovery code.
    code: String,
}

/// What an app for codes is given; shown once.
#[derive(Serialize, JsonSchema)]
struct TotpBody {
    /// To be typed.
    secret: String,
    /// To be shown as a QR code.
    uri: String,
}

#[derive(Serialize, JsonSchema)]
struct RecoveryBody {
    /// Each stands for a code, once; shown once.
    recovery_codes: Vec<String>,
}

/// One of an account's sessions.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Session")]
struct OneSession {
    id: String,
    /// `cookie` of a browser, or `tokens` of an app.
    kind: String,
    /// What the browser or app called itself.
    agent: String,
    /// Where it was when it signed in.
    address: String,
    created: String,
    seen: String,
    expires: String,
    is_current: bool,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "Role")]
pub(super) enum RoleBody {
    Admin,
    Member,
    /// Uses what the organisation offers, such as its articles.
    User,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct InviteBody {
    email: String,
    role: RoleBody,
}

/// An invitation that waits.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Invitation")]
struct InvitationBody {
    id: String,
    email: String,
    role: RoleBody,
    invited_by: String,
    created: String,
    expires: String,
}

#[derive(Serialize, JsonSchema)]
struct Invited {
    invitation: InvitationBody,
    /// To hand over, where no mail server is set up; null where the invitation went by mail.
    token: Option<String>,
}

impl From<RoleBody> for Role {
    fn from(role: RoleBody) -> Self {
        match role {
            RoleBody::Admin => Self::Admin,
            RoleBody::Member => Self::Member,
            RoleBody::User => Self::User,
        }
    }
}

impl From<Role> for RoleBody {
    fn from(role: Role) -> Self {
        match role {
            Role::Admin => Self::Admin,
            Role::Member => Self::Member,
            Role::User => Self::User,
        }
    }
}

impl From<Invitation> for InvitationBody {
    fn from(invitation: Invitation) -> Self {
        Self {
            id: invitation.id.to_string(),
            email: invitation.email,
            role: invitation.role.into(),
            invited_by: invitation.invited_by,
            created: invitation.created.to_string(),
            expires: invitation.expires.to_string(),
        }
    }
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    own(Routes::new(doors.clone()))
        .join(sessions(Routes::new(doors.clone())))
        .join(codes(Routes::new(doors.clone())))
        .join(invitations(Routes::new(doors.clone())))
}

fn own(routes: Routes<Doors>) -> Routes<Doors> {
    const SHOWN: &[ErrorKind] = &[ErrorKind::Unauthenticated, ErrorKind::TooMany];
    routes
        .add(
            Operation::post("/v1/accounts")
                .id("signUp")
                .summary("Makes an account with an organisation of its own, where sign-up is open; says the same whether the address has one.")
                .tag("account")
                .public()
                .secret()
                .kinds(&[ErrorKind::Forbidden, ErrorKind::TooMany]),
            sign_up,
        )
        .add(
            Operation::post("/v1/account/verification")
                .id("verifyEmail")
                .summary("Takes the address for one's own, by the link that went there, and a session or the password.")
                .tag("account")
                .session_or_public()
                .secret()
                .kinds(SHOWN),
            verify,
        )
        .add(
            Operation::post("/v1/account/verification-mail")
                .id("mailVerification")
                .summary("Mails the link once more that shows whose the address is.")
                .tag("account")
                .session(),
            mail_verification,
        )
        .add(
            Operation::put("/v1/account/password")
                .id("setPassword")
                .summary("Sets the password of one's own account; its other sessions end.")
                .tag("account")
                .session()
                .secret(),
            set_password,
        )
        .add(
            Operation::post("/v1/password-resets")
                .id("mailReset")
                .summary("Mails a one-time link that sets a password; says the same whether there is such an account.")
                .tag("account")
                .public()
                .kinds(&[ErrorKind::TooMany]),
            mail_reset,
        )
        .add(
            Operation::post("/v1/password-resets/finish")
                .id("finishReset")
                .summary("Sets the password by a mailed link; every session ends.")
                .tag("account")
                .public()
                .secret()
                .kinds(&[ErrorKind::Unauthenticated]),
            finish_reset,
        )
}

fn sessions(routes: Routes<Doors>) -> Routes<Doors> {
    routes
        .add(
            Operation::get("/v1/account/sessions")
                .id("listSessions")
                .summary("One's own sessions, newest first.")
                .tag("account")
                .session(),
            list_sessions,
        )
        .add(
            Operation::delete("/v1/account/sessions/{id}")
                .id("endSession")
                .summary("Ends a session of one's own, also where it is in use.")
                .tag("account")
                .session()
                .kinds(&[ErrorKind::NotFound]),
            end_session,
        )
        .add(
            Operation::delete("/v1/account/sessions")
                .id("endOtherSessions")
                .summary("Ends one's own sessions but the one that asks.")
                .tag("account")
                .session(),
            end_other_sessions,
        )
}

fn codes(routes: Routes<Doors>) -> Routes<Doors> {
    const CODE: &[ErrorKind] = &[ErrorKind::NotFound, ErrorKind::AlreadyExists];
    routes
        .add(
            Operation::post("/v1/account/totp")
                .id("beginTotp")
                .summary("Begins with one-time codes (RFC 6238); nothing is asked for before one was confirmed.")
                .tag("account")
                .session()
                .secret()
                .kinds(CODE),
            begin_totp,
        )
        .add(
            Operation::post("/v1/account/totp/confirm")
                .id("confirmTotp")
                .summary("Turns one-time codes on with a first one; gives recovery codes.")
                .tag("account")
                .session()
                .secret()
                .kinds(CODE),
            confirm_totp,
        )
        .add(
            Operation::post("/v1/account/totp/end")
                .id("endTotp")
                .summary("Turns one-time codes off, with one of them or a recovery code.")
                .tag("account")
                .session()
                .secret()
                .kinds(CODE),
            end_totp,
        )
        .add(
            Operation::post("/v1/account/recovery-codes")
                .id("newRecoveryCodes")
                .summary("New recovery codes in place of the old, with a code.")
                .tag("account")
                .session()
                .secret()
                .kinds(CODE),
            recovery_codes,
        )
}

fn invitations(routes: Routes<Doors>) -> Routes<Doors> {
    routes
        .add(
            Operation::get("/v1/invitations")
                .id("listInvitations")
                .summary("Invitations that wait, oldest first.")
                .tag("account")
                .action(actions::ACCOUNTS_WRITE),
            list_invitations,
        )
        .add(
            Operation::post("/v1/invitations")
                .id("invite")
                .summary("Invites an address; says the same whether it has an account elsewhere.")
                .tag("account")
                .action(actions::ACCOUNTS_WRITE)
                .secret(),
            invite,
        )
        .add(
            Operation::delete("/v1/invitations/{id}")
                .id("withdrawInvitation")
                .summary("Takes an invitation back.")
                .tag("account")
                .action(actions::ACCOUNTS_WRITE)
                .kinds(&[ErrorKind::NotFound]),
            withdraw,
        )
        .add(
            Operation::post("/v1/invitations/accept")
                .id("acceptInvitation")
                .summary("Makes the account of whoever was invited, and signs them in.")
                .tag("account")
                .public()
                .secret()
                .kinds(&[ErrorKind::Unauthenticated, ErrorKind::Forbidden, ErrorKind::TooMany]),
            accept,
        )
}

/// Who does it, by this door.
pub(super) fn by(caller: &Caller) -> By<'_> {
    (&caller.principal, Door::Http)
}

async fn sign_up(
    State(doors): State<Doors>,
    Peer(from): Peer,
    Json(account): Json<AccountBody>,
) -> edge::Result<Accepted> {
    let AccountBody { email, password, organisation } = account;
    let new = NewAccount { email, password, organisation };
    doors.identity.sign_up(from, new).await.map_err(refused)?;
    Ok(Accepted)
}

async fn verify(
    State(doors): State<Doors>,
    caller: Option<Caller>,
    Peer(from): Peer,
    Json(given): Json<VerifyBody>,
) -> edge::Result<NoContent> {
    let showing = match (&given.password, &caller) {
        (Some(password), _) => Showing::Password(password),
        (None, Some(caller)) => Showing::Session(&caller.principal),
        (None, None) => Showing::Nothing,
    };
    doors.identity.verify(from, &given.token, showing).await.map_err(refused)?;
    Ok(NoContent)
}

async fn mail_verification(
    State(doors): State<Doors>,
    caller: Caller,
    Peer(from): Peer,
) -> edge::Result<Accepted> {
    doors.identity.mail_verification(from, &caller.principal).map_err(refused)?;
    Ok(Accepted)
}

async fn set_password(
    State(doors): State<Doors>,
    caller: Caller,
    Peer(from): Peer,
    SessionToken(token): SessionToken,
    Json(new): Json<NewPassword>,
) -> edge::Result<NoContent> {
    let (keep, current) = (token.as_deref(), new.current.as_deref());
    let set = doors.identity.set_password((by(&caller), from), keep, current, &new.password).await;
    set.map_err(refused)?;
    Ok(NoContent)
}

async fn mail_reset(
    State(doors): State<Doors>,
    Peer(from): Peer,
    Json(EmailBody { email }): Json<EmailBody>,
) -> edge::Result<Accepted> {
    doors.identity.mail_reset(from, &email).map_err(refused)?;
    Ok(Accepted)
}

async fn finish_reset(
    State(doors): State<Doors>,
    Json(ResetBody { token, password }): Json<ResetBody>,
) -> edge::Result<NoContent> {
    doors.identity.finish_reset(&token, &password).await.map_err(refused)?;
    Ok(NoContent)
}

async fn list_sessions(
    State(doors): State<Doors>,
    caller: Caller,
    SessionToken(token): SessionToken,
) -> edge::Result<PageBody<OneSession>> {
    let sessions = doors.identity.sessions(&caller.principal, token.as_deref()).await;
    let items = sessions.map_err(refused)?.into_iter().map(|session| OneSession {
        id: session.id.to_string(),
        kind: match session.holds {
            Holds::Cookie => "cookie".to_owned(),
            Holds::Tokens | Holds::Bearer => "tokens".to_owned(),
        },
        agent: session.agent,
        address: session.address,
        created: session.created.to_string(),
        seen: session.seen.to_string(),
        expires: session.expires.to_string(),
        is_current: session.is_current,
    });
    Ok(PageBody { items: items.collect(), next: None })
}

async fn end_session(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    let id: SessionId =
        id.parse().map_err(|_| edge::Error::not_found("there is no such session"))?;
    doors.identity.end_session(by(&caller), id).await.map_err(refused)?;
    Ok(NoContent)
}

async fn end_other_sessions(
    State(doors): State<Doors>,
    caller: Caller,
    SessionToken(token): SessionToken,
) -> edge::Result<NoContent> {
    let ended = doors.identity.end_other_sessions(by(&caller), token.as_deref()).await;
    ended.map_err(refused)?;
    Ok(NoContent)
}

async fn begin_totp(
    State(doors): State<Doors>,
    caller: Caller,
    Peer(from): Peer,
    Json(AgainBody { password }): Json<AgainBody>,
) -> edge::Result<Created<TotpBody>> {
    let made = doors.identity.begin_totp(by(&caller), from, password.as_deref()).await;
    let made = made.map_err(refused)?;
    Ok(Created(TotpBody { secret: made.secret, uri: made.uri }))
}

async fn confirm_totp(
    State(doors): State<Doors>,
    caller: Caller,
    Json(CodeBody { code }): Json<CodeBody>,
) -> edge::Result<Created<RecoveryBody>> {
    let codes = doors.identity.confirm_totp(by(&caller), &code).await.map_err(refused)?;
    Ok(Created(RecoveryBody { recovery_codes: codes.0 }))
}

async fn end_totp(
    State(doors): State<Doors>,
    caller: Caller,
    Json(CodeBody { code }): Json<CodeBody>,
) -> edge::Result<NoContent> {
    doors.identity.end_totp(by(&caller), &code).await.map_err(refused)?;
    Ok(NoContent)
}

async fn recovery_codes(
    State(doors): State<Doors>,
    caller: Caller,
    Json(CodeBody { code }): Json<CodeBody>,
) -> edge::Result<Created<RecoveryBody>> {
    let codes = doors.identity.new_recovery_codes(by(&caller), &code).await.map_err(refused)?;
    Ok(Created(RecoveryBody { recovery_codes: codes.0 }))
}

async fn list_invitations(
    State(doors): State<Doors>,
    caller: Caller,
    Paging(page): Paging,
) -> edge::Result<PageBody<InvitationBody>> {
    let waiting = doors.identity.invitations(caller.organisation(), &page).await;
    Ok(waiting.map_err(refused)?.map(InvitationBody::from).into())
}

async fn invite(
    State(doors): State<Doors>,
    caller: Caller,
    Json(InviteBody { email, role }): Json<InviteBody>,
) -> edge::Result<Created<Invited>> {
    let invited = doors.identity.invite(by(&caller), &email, role.into()).await.map_err(refused)?;
    Ok(Created(Invited { invitation: invited.invitation.into(), token: invited.link }))
}

async fn withdraw(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    let id: InvitationId =
        id.parse().map_err(|_| edge::Error::not_found("there is no such invitation"))?;
    doors.identity.withdraw(by(&caller), id).await.map_err(refused)?;
    Ok(NoContent)
}

async fn accept(
    State(doors): State<Doors>,
    peer: Peer,
    headers: HeaderMap,
    Json(ResetBody { token, password }): Json<ResetBody>,
) -> edge::Result<(Option<SessionCookie>, Json<SignedIn>)> {
    let visitor = visitor(&peer, &headers);
    let entered = doors.identity.accept(&visitor, &token, &password).await.map_err(refused)?;
    Ok(entered_browser(entered))
}
