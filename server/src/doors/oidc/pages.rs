//! The pages of a log-in to another tool. They have no script: a form, a link, and a page that goes on by itself.

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base::ErrorKind;
use edge::{
    Caller, Form, FromOwnPage, Operation, Peer, Query, Routes, SessionCookie, SessionToken, State,
    Undeclared, Via,
};
use identity::{Asked, Asking, Entered, Error, Holds, Leaving, SignIn, Step};
use schemars::JsonSchema;
use serde::Deserialize;
use url::form_urlencoded;

use super::html::{Language, Note, Page};
use crate::doors::Doors;
use crate::doors::accounts::by;
use crate::doors::session::{cookie, refused, visitor};

/// What a tool's link asks for (OpenID Connect Core 1.0, section 3.1.2.1). What else it has is not looked at.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(default)]
struct AuthorizeQuery {
    client_id: String,
    redirect_uri: String,
    /// `code`.
    response_type: String,
    response_mode: Option<String>,
    scope: String,
    state: Option<String>,
    nonce: Option<String>,
    code_challenge: Option<String>,
    /// `S256`.
    code_challenge_method: Option<String>,
    max_age: Option<String>,
    prompt: Option<String>,
    request: Option<String>,
    request_uri: Option<String>,
    registration: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
struct ConsentQuery {
    /// What the page before sends on.
    #[serde(default)]
    request: String,
}

#[derive(Deserialize, JsonSchema)]
struct ConsentForm {
    request: String,
    /// `allow` or `deny`.
    answer: String,
}

#[derive(Deserialize, JsonSchema)]
struct SignInForm {
    request: String,
    email: String,
    password: String,
}

#[derive(Deserialize, JsonSchema)]
struct SecondForm {
    request: String,
    challenge: String,
    /// Six digits of an app for codes, or a recovery code.
    code: String,
}

/// OpenID Connect RP-Initiated Logout 1.0, section 2.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(default)]
struct LogoutQuery {
    id_token_hint: Option<String>,
    client_id: Option<String>,
    post_logout_redirect_uri: Option<String>,
    state: Option<String>,
}

impl From<AuthorizeQuery> for Asked {
    fn from(given: AuthorizeQuery) -> Self {
        // What is there without a value counts as not there (RFC 6749, section 3.1).
        let said = |text: Option<String>| text.filter(|text| !text.is_empty());
        let objects = [&given.request, &given.request_uri, &given.registration];
        Self {
            has_objects: objects.iter().any(|it| it.as_ref().is_some_and(|it| !it.is_empty())),
            client_id: given.client_id,
            redirect_uri: given.redirect_uri,
            response_type: given.response_type,
            response_mode: said(given.response_mode),
            scope: given.scope,
            state: said(given.state),
            nonce: said(given.nonce),
            code_challenge: said(given.code_challenge),
            code_challenge_method: said(given.code_challenge_method),
            max_age: said(given.max_age),
            prompt: said(given.prompt),
        }
    }
}

impl From<&LogoutQuery> for Leaving {
    fn from(given: &LogoutQuery) -> Self {
        let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Self {
            id_token_hint: said(&given.id_token_hint),
            client_id: said(&given.client_id),
            post_logout_redirect_uri: said(&given.post_logout_redirect_uri),
            state: said(&given.state),
        }
    }
}

pub(super) fn routes(routes: Routes<Doors>) -> Routes<Doors> {
    let page = |place: Undeclared, id, summary| place.id(id).summary(summary).tag("oidc");
    let begins = "Where a tool sends people: a page that goes on to the one that asks, or 303 back with an error.";
    let leaves = "Where a tool sends people to sign out: a page that asks.";
    let get = Operation::get;
    let post = Operation::post;
    routes
        .add(
            page(get("/v1/oidc/authorize"), "beginAuthorization", begins)
                .public()
                .any_query()
                .media("text/html"),
            begin,
        )
        .add(
            page(post("/v1/oidc/authorize"), "postAuthorization", begins)
                .public()
                .any_query()
                .secret()
                .media("text/html"),
            begin_by_form,
        )
        .add(
            page(
                get("/v1/oidc/consent"),
                "showConsent",
                "The page that asks whether a tool may know who one is, or to sign in.",
            )
            .session_or_public()
            .media("text/html"),
            show,
        )
        .add(
            page(
                post("/v1/oidc/consent"),
                "answerConsent",
                "The answer to that page: 303 back to the tool.",
            )
            .session_or_public()
            .secret()
            .kinds(&[ErrorKind::Forbidden])
            .media("text/html"),
            answer,
        )
        .add(
            page(
                post("/v1/oidc/sign-in"),
                "signInForTool",
                "Signs in by a form of that page, and goes on with it.",
            )
            .public()
            .secret()
            .kinds(&[ErrorKind::Forbidden])
            .media("text/html"),
            sign_in,
        )
        .add(
            page(post("/v1/oidc/second"), "secondFactorForTool", "Goes on with a code.")
                .public()
                .secret()
                .kinds(&[ErrorKind::Forbidden])
                .media("text/html"),
            second,
        )
        .add(
            page(get("/v1/oidc/logout"), "beginLogout", leaves)
                .public()
                .any_query()
                .media("text/html"),
            leave,
        )
        .add(
            page(post("/v1/oidc/logout"), "postLogout", leaves)
                .public()
                .any_query()
                .secret()
                .media("text/html"),
            leave_by_form,
        )
        .add(
            page(
                post("/v1/oidc/sign-out"),
                "signOutForTool",
                "Ends the session of the cookie, by a form of that page: 303 to the tool.",
            )
            .public()
            .secret()
            .kinds(&[ErrorKind::Forbidden])
            .media("text/html"),
            sign_out,
        )
}

async fn begin(
    State(doors): State<Doors>,
    headers: HeaderMap,
    Query(given): Query<AuthorizeQuery>,
) -> edge::Result<Response> {
    begun(&doors, Language::of(&headers), given).await
}

async fn begin_by_form(
    State(doors): State<Doors>,
    headers: HeaderMap,
    Form(given): Form<AuthorizeQuery>,
) -> edge::Result<Response> {
    begun(&doors, Language::of(&headers), given).await
}

/// A click on another site brings no cookie of a session, and neither does what that click is sent on to. So a page of
/// ours asks for the next one, and that request brings it.
async fn begun(doors: &Doors, language: Language, given: AuthorizeQuery) -> edge::Result<Response> {
    match doors.identity.begin_authorization(given.into()).await {
        Ok(Asking::Ask(waiting)) => {
            let next = consent(&waiting);
            Ok(Page::new(language).onward(&next).response(StatusCode::OK))
        }
        Ok(Asking::Back(url)) => Ok(to(&url)),
        Err(error) => fault(language, error),
    }
}

async fn show(
    State(doors): State<Doors>,
    headers: HeaderMap,
    caller: Option<Caller>,
    SessionToken(cookie): SessionToken,
    Query(ConsentQuery { request }): Query<ConsentQuery>,
) -> edge::Result<Response> {
    let language = Language::of(&headers);
    let caller = caller.filter(|caller| caller.via == Via::Session);
    asked(&doors, language, (caller.as_ref(), cookie.as_deref()), &request).await
}

/// The page for whoever looks at it.
async fn asked(
    doors: &Doors,
    language: Language,
    (caller, cookie): (Option<&Caller>, Option<&str>),
    request: &str,
) -> edge::Result<Response> {
    let principal = caller.map(|caller| &caller.principal);
    let page = Page::new(language);
    let page = match doors.identity.step(principal, cookie, request).await {
        Ok(Step::SignIn { tool }) => page.sign_in(&tool, (request, &consent(request)), None),
        Ok(Step::Elsewhere { tool }) => {
            let note = Some(Note::Elsewhere);
            page.sign_in(&tool, (request, &consent(request)), note)
        }
        Ok(Step::Ask { tool, place, scope }) => {
            let name = principal.map(|principal| &*principal.name).unwrap_or_default();
            page.ask((&tool, &place), name, (request, &scope))
        }
        Err(error) => return fault(language, error),
    };
    Ok(page.response(StatusCode::OK))
}

#[expect(
    clippy::too_many_arguments,
    reason = "a form, who sends it and whence: each is taken by itself"
)]
async fn answer(
    State(doors): State<Doors>,
    headers: HeaderMap,
    caller: Option<Caller>,
    SessionToken(cookie): SessionToken,
    FromOwnPage(is_own): FromOwnPage,
    Form(ConsentForm { request, answer }): Form<ConsentForm>,
) -> edge::Result<Response> {
    let language = Language::of(&headers);
    if !is_own {
        return Ok(Page::new(language).note(Note::Foreign).response(StatusCode::FORBIDDEN));
    }
    let caller = caller.filter(|caller| caller.via == Via::Session);
    let is_wanted = match &*answer {
        "allow" => true,
        "deny" => false,
        _ => return Err(edge::Error::unreadable("the answer is allow or deny")),
    };
    let by = caller.as_ref().map(by);
    match doors.identity.answer(by, cookie.as_deref(), (&request, is_wanted)).await {
        Ok(Some(url)) => Ok(to(&url)),
        Ok(None) => asked(&doors, language, (caller.as_ref(), cookie.as_deref()), &request).await,
        Err(error) => fault(language, error),
    }
}

async fn sign_in(
    State(doors): State<Doors>,
    peer: Peer,
    headers: HeaderMap,
    FromOwnPage(is_own): FromOwnPage,
    Form(form): Form<SignInForm>,
) -> edge::Result<Response> {
    let language = Language::of(&headers);
    let page = Page::new(language);
    if !is_own {
        return Ok(page.note(Note::Foreign).response(StatusCode::FORBIDDEN));
    }
    let SignInForm { request, email, password } = form;
    let tool = match doors.identity.step(None, None, &request).await {
        Ok(Step::SignIn { tool } | Step::Elsewhere { tool } | Step::Ask { tool, .. }) => tool,
        Err(error) => return fault(language, error),
    };
    let given = SignIn { email, password, holds: Holds::Cookie };
    let next = consent(&request);
    match doors.identity.sign_in(&visitor(&peer, &headers), given).await {
        Ok(Entered::In(session)) => Ok((cookie(&session), to(&next)).into_response()),
        Ok(Entered::Second(challenge)) => {
            Ok(page.second(&tool, (&request, &challenge.token), None).response(StatusCode::OK))
        }
        Err(Error::SignInFailed) => {
            let page = page.sign_in(&tool, (&request, &next), Some(Note::Wrong));
            Ok(page.response(StatusCode::UNAUTHORIZED))
        }
        Err(error) => tried(page, error),
    }
}

async fn second(
    State(doors): State<Doors>,
    peer: Peer,
    headers: HeaderMap,
    FromOwnPage(is_own): FromOwnPage,
    Form(form): Form<SecondForm>,
) -> edge::Result<Response> {
    let language = Language::of(&headers);
    let page = Page::new(language);
    if !is_own {
        return Ok(page.note(Note::Foreign).response(StatusCode::FORBIDDEN));
    }
    let SecondForm { request, challenge, code } = form;
    let tool = match doors.identity.step(None, None, &request).await {
        Ok(Step::SignIn { tool } | Step::Elsewhere { tool } | Step::Ask { tool, .. }) => tool,
        Err(error) => return fault(language, error),
    };
    let visitor = visitor(&peer, &headers);
    match doors.identity.second(&visitor, &challenge, &code, Holds::Cookie).await {
        Ok(session) => Ok((cookie(&session), to(&consent(&request))).into_response()),
        Err(Error::CodeWrong) => {
            let page = page.second(&tool, (&request, &challenge), Some(Note::Wrong));
            Ok(page.response(StatusCode::UNAUTHORIZED))
        }
        Err(Error::LinkInvalid) => {
            let page = page.sign_in(&tool, (&request, &consent(&request)), Some(Note::Wrong));
            Ok(page.response(StatusCode::UNAUTHORIZED))
        }
        Err(error) => tried(page, error),
    }
}

async fn leave(
    State(doors): State<Doors>,
    headers: HeaderMap,
    Query(given): Query<LogoutQuery>,
) -> edge::Result<Response> {
    left(&doors, Language::of(&headers), &given).await
}

async fn leave_by_form(
    State(doors): State<Doors>,
    headers: HeaderMap,
    Form(given): Form<LogoutQuery>,
) -> edge::Result<Response> {
    left(&doors, Language::of(&headers), &given).await
}

/// Nobody is signed out by a link of another site: people are asked.
async fn left(doors: &Doors, language: Language, given: &LogoutQuery) -> edge::Result<Response> {
    let leaving = Leaving::from(given);
    let (tool, place) = match doors.identity.leaving(&leaving).await {
        Ok(found) => found,
        Err(error) => return fault(language, error),
    };
    let kept = [
        ("id_token_hint", &leaving.id_token_hint),
        ("client_id", &leaving.client_id),
        ("post_logout_redirect_uri", &leaving.post_logout_redirect_uri),
        ("state", &leaving.state),
    ];
    let kept: Vec<(&str, &str)> =
        kept.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
    let page = Page::new(language).leave(tool.as_deref(), (&kept, place.as_deref()));
    Ok(page.response(StatusCode::OK))
}

async fn sign_out(
    State(doors): State<Doors>,
    headers: HeaderMap,
    SessionToken(token): SessionToken,
    FromOwnPage(is_own): FromOwnPage,
    Form(given): Form<LogoutQuery>,
) -> edge::Result<Response> {
    let language = Language::of(&headers);
    if !is_own {
        return Ok(Page::new(language).note(Note::Foreign).response(StatusCode::FORBIDDEN));
    }
    let place = match doors.identity.leaving(&Leaving::from(&given)).await {
        Ok((_, place)) => place,
        Err(error) => return fault(language, error),
    };
    if let Some(token) = token {
        doors.identity.sign_out(&token).await.map_err(refused)?;
    }
    let next = match place {
        Some(place) => to(&place),
        None => Page::new(language).note(Note::Gone).response(StatusCode::OK),
    };
    Ok((SessionCookie::clear(), next).into_response())
}

/// Where the page is that asks.
fn consent(waiting: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("request", waiting);
    format!("/v1/oidc/consent?{}", query.finish())
}

fn to(place: &str) -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, place)]).into_response()
}

/// What people see when a link cannot be followed; what it asked for is sent nowhere.
fn fault(language: Language, error: Error) -> edge::Result<Response> {
    let note = match error {
        Error::NotThere(_) => Note::NoTool,
        Error::Redirect => Note::NoPlace,
        Error::LinkInvalid | Error::TokenInvalid => Note::Old,
        error => return Err(refused(error)),
    };
    Ok(Page::new(language).note(note).response(StatusCode::BAD_REQUEST))
}

fn tried(page: Page, error: Error) -> edge::Result<Response> {
    let note = match error {
        Error::TooManyAttempts => (Note::TooMany, StatusCode::TOO_MANY_REQUESTS),
        Error::Busy => (Note::TooMany, StatusCode::SERVICE_UNAVAILABLE),
        error => return Err(refused(error)),
    };
    Ok(page.note(note.0).response(note.1))
}
