//! This server as OpenID provider, for tools that let people in by it; which tools there are, and what people gave them.

mod html;
mod pages;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base::ErrorKind;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use edge::{
    Caller, Created, Form, Json, NoContent, Operation, PageBody, Paging, Path, Refusal, Routes,
    State,
};
use identity::{Algorithm, Error, Exchange, Given, Issued, NewTool, Shown, Tool, ToolId, actions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::Doors;
use super::accounts::by;
use super::session::refused;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct NewToolBody {
    name: String,
    /// Where browsers may be sent back to, letter by letter: HTTPS, or HTTP on this machine.
    redirect_uris: Vec<String>,
    /// Where they may be sent to after signing out.
    #[serde(default)]
    logout_uris: Vec<String>,
    /// Whether it can keep a secret; a page or an app on somebody's machine cannot.
    #[serde(default = "keeps_secrets")]
    has_secret: bool,
    /// How its ID tokens are signed; `RS256` is for tools that know nothing else.
    #[serde(default)]
    id_token_signed_response_alg: AlgorithmName,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
enum AlgorithmName {
    #[default]
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "RS256")]
    Rs256,
}

impl From<AlgorithmName> for Algorithm {
    fn from(name: AlgorithmName) -> Self {
        match name {
            AlgorithmName::Es256 => Self::Es256,
            AlgorithmName::Rs256 => Self::Rs256,
        }
    }
}

impl From<Algorithm> for AlgorithmName {
    fn from(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Es256 => Self::Es256,
            Algorithm::Rs256 => Self::Rs256,
        }
    }
}

fn keeps_secrets() -> bool {
    true
}

/// A tool that lets people in by this server.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Tool")]
struct ToolBody {
    /// Its `client_id`.
    id: String,
    name: String,
    redirect_uris: Vec<String>,
    logout_uris: Vec<String>,
    has_secret: bool,
    id_token_signed_response_alg: AlgorithmName,
    created_by: String,
    created: String,
}

#[derive(Serialize, JsonSchema)]
struct ToolMade {
    tool: ToolBody,
    /// Its `client_secret`, shown once.
    secret: Option<String>,
}

/// A tool that one's own account let in.
#[derive(Serialize, JsonSchema)]
struct GivenBody {
    id: String,
    name: String,
    scope: String,
    since: String,
}

/// RFC 6749, sections 4.1.3 and 6.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(default)]
struct TokenForm {
    /// `authorization_code` or `refresh_token`.
    grant_type: String,
    code: String,
    redirect_uri: String,
    code_verifier: String,
    refresh_token: String,
    client_id: Option<String>,
    client_secret: Option<String>,
}

/// RFC 7009, section 2.1; RFC 7662, section 2.1.
#[derive(Deserialize, JsonSchema, Default)]
#[serde(default)]
struct TextForm {
    token: String,
    client_id: Option<String>,
    client_secret: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct IssuedBody {
    access_token: String,
    token_type: &'static str,
    expires_in: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    id_token: String,
    scope: String,
}

impl From<Tool> for ToolBody {
    fn from(tool: Tool) -> Self {
        Self {
            id: tool.id.to_string(),
            name: tool.name,
            redirect_uris: tool.redirect_uris,
            logout_uris: tool.logout_uris,
            has_secret: tool.has_secret,
            id_token_signed_response_alg: tool.algorithm.into(),
            created_by: tool.created_by,
            created: tool.created.to_string(),
        }
    }
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    let routes = pages::routes(Routes::new(doors.clone()));
    given(tools(texts(protocol(routes))))
}

fn protocol(routes: Routes<Doors>) -> Routes<Doors> {
    let user_info = |place: edge::Undeclared, id| {
        let summary = "Who somebody is, for a tool with an access token of theirs.";
        let operation = place.id(id).summary(summary).tag("oidc").public().cross_origin();
        operation.returns::<Value>(200).kinds(&[ErrorKind::Unauthenticated])
    };
    routes
        .add(
            Operation::get("/.well-known/openid-configuration")
                .id("discoverOpenid")
                .summary("Where everything is, for tools that let people in by this server.")
                .tag("oidc")
                .public()
                .cross_origin(),
            discovery,
        )
        .add(
            Operation::get("/v1/oidc/jwks")
                .id("listSigningKeys")
                .summary("The public keys of ID tokens (RFC 7517).")
                .tag("oidc")
                .public()
                .cross_origin()
                .returns::<Value>(200),
            keys,
        )
        .add(user_info(Operation::get("/v1/oidc/userinfo"), "userInfo"), show_user)
        .add(user_info(Operation::post("/v1/oidc/userinfo"), "postUserInfo").secret(), show_user)
}

/// What tools ask with texts that they hold; refused in OAuth's words.
fn texts(routes: Routes<Doors>) -> Routes<Doors> {
    const KINDS: &[ErrorKind] = &[ErrorKind::Unauthenticated];
    routes
        .add(
            Operation::post("/v1/oidc/token")
                .id("exchangeCode")
                .summary("Exchanges a code or a refresh token, by a form (RFC 6749, sections 4.1.3 and 6).")
                .tag("oidc")
                .public()
                .cross_origin()
                .secret()
                .returns::<IssuedBody>(200)
                .refusals(in_oauths_words)
                .kinds(KINDS),
            exchange,
        )
        .add(
            Operation::post("/v1/oidc/revoke")
                .id("revokeText")
                .summary("Ends what an access token or a refresh token is of (RFC 7009).")
                .tag("oidc")
                .public()
                .cross_origin()
                .secret()
                .returns::<Value>(200)
                .refusals(in_oauths_words)
                .kinds(KINDS),
            revoke,
        )
        .add(
            Operation::post("/v1/oidc/introspect")
                .id("introspectText")
                .summary("What a text still opens, for the tool with a secret that it is of (RFC 7662).")
                .tag("oidc")
                .public()
                .secret()
                .returns::<Value>(200)
                .refusals(in_oauths_words)
                .kinds(KINDS),
            introspect,
        )
}

fn tools(routes: Routes<Doors>) -> Routes<Doors> {
    routes
        .add(
            Operation::get("/v1/oidc/tools")
                .id("listTools")
                .summary("Tools that let people in by this server, oldest first.")
                .tag("oidc")
                .action(actions::TOOLS_READ),
            list,
        )
        .add(
            Operation::post("/v1/oidc/tools")
                .id("createTool")
                .summary("Makes a tool known; its secret is shown once.")
                .tag("oidc")
                .action(actions::TOOLS_WRITE)
                .secret()
                .kinds(&[ErrorKind::TooMany]),
            create,
        )
        .add(
            Operation::delete("/v1/oidc/tools/{id}")
                .id("deleteTool")
                .summary("Forgets a tool; what it holds opens nothing any more.")
                .tag("oidc")
                .action(actions::TOOLS_WRITE)
                .resource("tool/{id}")
                .kinds(&[ErrorKind::NotFound]),
            delete,
        )
}

fn given(routes: Routes<Doors>) -> Routes<Doors> {
    routes
        .add(
            Operation::get("/v1/account/tools")
                .id("listOwnTools")
                .summary(
                    "The tools that one's own account let in and that may still ask who it is.",
                )
                .tag("account")
                .session(),
            own,
        )
        .add(
            Operation::delete("/v1/account/tools/{id}")
                .id("leaveTool")
                .summary("Takes back all that one's own account gave a tool.")
                .tag("account")
                .session()
                .kinds(&[ErrorKind::NotFound]),
            leave,
        )
}

async fn discovery(State(doors): State<Doors>) -> Json<Value> {
    Json(doors.identity.openid_configuration())
}

async fn keys(State(doors): State<Doors>) -> edge::Result<Response> {
    let (keys, kept) = doors.identity.public_keys().await.map_err(refused)?;
    let kept = format!("public, max-age={}", kept.as_secs());
    Ok(([(header::CACHE_CONTROL, kept)], Json(keys)).into_response())
}

async fn exchange(
    State(doors): State<Doors>,
    headers: HeaderMap,
    Form(form): Form<TokenForm>,
) -> edge::Result<Response> {
    answered(exchanged(&doors, &headers, form).await, |issued: Issued| {
        Json(IssuedBody {
            access_token: issued.access_token,
            token_type: "Bearer",
            expires_in: issued.lifetime.as_secs(),
            refresh_token: issued.refresh_token,
            id_token: issued.id_token,
            scope: issued.scope,
        })
    })
}

async fn exchanged(doors: &Doors, headers: &HeaderMap, form: TokenForm) -> Result<Issued, Error> {
    let TokenForm { code, redirect_uri, code_verifier, refresh_token, .. } = form;
    let tool = shown(headers, form.client_id, form.client_secret)?;
    match &*form.grant_type {
        "authorization_code" => {
            let given = Exchange { tool, code, redirect_uri, code_verifier };
            doors.identity.exchange_code(given).await
        }
        "refresh_token" => doors.identity.refresh_tool(&tool, &refresh_token).await,
        "" => Err(Error::OfTool("invalid_request", "grant_type is missing")),
        _ => Err(Error::OfTool("unsupported_grant_type", "it is for codes and refresh tokens")),
    }
}

async fn revoke(
    State(doors): State<Doors>,
    headers: HeaderMap,
    Form(form): Form<TextForm>,
) -> edge::Result<Response> {
    let revoked = async {
        let tool = shown(&headers, form.client_id, form.client_secret)?;
        doors.identity.revoke_text(&tool, &form.token).await
    };
    answered(revoked.await, |()| Json(json!({})))
}

async fn introspect(
    State(doors): State<Doors>,
    headers: HeaderMap,
    Form(form): Form<TextForm>,
) -> edge::Result<Response> {
    let known = async {
        let tool = shown(&headers, form.client_id, form.client_secret)?;
        doors.identity.introspect(&tool, &form.token).await
    };
    answered(known.await, Json)
}

fn answered<T, R: IntoResponse>(
    done: Result<T, Error>,
    body: impl FnOnce(T) -> R,
) -> edge::Result<Response> {
    match done {
        Ok(done) => Ok(body(done).into_response()),
        Err(Error::OfTool(word, why)) => Ok(fault(word, why)),
        Err(error) => Err(refused(error)),
    }
}

/// As OAuth says it (RFC 6749, section 5.2).
fn fault(word: &str, why: &str) -> Response {
    let body = Json(json!({ "error": word, "error_description": why }));
    if word != "invalid_client" {
        return (StatusCode::BAD_REQUEST, body).into_response();
    }
    let how = [(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"madang\""))];
    (StatusCode::UNAUTHORIZED, how, body).into_response()
}

fn in_oauths_words(refusal: &Refusal) -> Response {
    let word = match refusal.kind {
        ErrorKind::Unauthenticated | ErrorKind::Forbidden => "access_denied",
        ErrorKind::TooMany | ErrorKind::Unavailable => "temporarily_unavailable",
        ErrorKind::Internal => "server_error",
        _ => "invalid_request",
    };
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::BAD_REQUEST);
    let body = json!({ "error": word, "error_description": refusal.detail });
    (status, Json(body)).into_response()
}

/// Who a tool says it is: by Basic, each part written as in a form before (RFC 6749, section 2.3.1), or in the body.
/// Refused when it says both and they differ.
fn shown(headers: &HeaderMap, id: Option<String>, secret: Option<String>) -> Result<Shown, Error> {
    let Some((named, password)) = basic(headers) else {
        let secret = secret.filter(|secret| !secret.is_empty());
        return Ok(Shown { id: id.unwrap_or_default(), secret });
    };
    if secret.is_some() || id.is_some_and(|id| id != named) {
        return Err(Error::OfTool("invalid_request", "the client shows itself in two ways"));
    }
    Ok(Shown { id: named, secret: Some(password).filter(|it| !it.is_empty()) })
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (_, text) =
        given.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))?;
    let text = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    // `a=` makes a form of it.
    let plain = |text: &str| {
        let form = format!("a={text}");
        form_urlencoded::parse(form.as_bytes()).next().map(|(_, value)| value.into_owned())
    };
    Some((plain(id)?, plain(secret)?))
}

async fn show_user(State(doors): State<Doors>, headers: HeaderMap) -> edge::Result<Response> {
    let given = headers.get(header::AUTHORIZATION).and_then(|given| given.to_str().ok());
    let token = given
        .and_then(|given| given.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    match doors.identity.user_info(token.unwrap_or_default()).await {
        Ok(claims) => Ok(Json(claims).into_response()),
        Err(Error::TokenInvalid) if token.is_some() => {
            // RFC 6750, section 3.1.
            let how = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            let mut response = refused(Error::TokenInvalid).into_response();
            response.headers_mut().insert(header::WWW_AUTHENTICATE, how);
            Ok(response)
        }
        Err(error) => Err(refused(error)),
    }
}

async fn list(
    State(doors): State<Doors>,
    caller: Caller,
    Paging(page): Paging,
) -> edge::Result<PageBody<ToolBody>> {
    let tools = doors.identity.tools(caller.organisation(), &page).await.map_err(refused)?;
    let items = tools.items.into_iter().map(ToolBody::from).collect();
    Ok(PageBody { items, next: tools.next })
}

async fn create(
    State(doors): State<Doors>,
    caller: Caller,
    Json(body): Json<NewToolBody>,
) -> edge::Result<Created<ToolMade>> {
    let NewToolBody { name, redirect_uris, logout_uris, has_secret, .. } = body;
    let algorithm = body.id_token_signed_response_alg.into();
    let new = NewTool { name, redirect_uris, logout_uris, has_secret, algorithm };
    let made = doors.identity.create_tool(by(&caller), new).await.map_err(refused)?;
    Ok(Created(ToolMade { tool: made.tool.into(), secret: made.secret }))
}

fn tool_id(text: &str) -> edge::Result<ToolId> {
    text.parse().map_err(|_| edge::Error::not_found("no such tool"))
}

async fn delete(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    doors.identity.delete_tool(by(&caller), tool_id(&id)?).await.map_err(refused)?;
    Ok(NoContent)
}

async fn own(State(doors): State<Doors>, caller: Caller) -> edge::Result<PageBody<GivenBody>> {
    let given = doors.identity.given(&caller.principal).await.map_err(refused)?;
    let body = |Given { tool, name, scope, since }| GivenBody {
        id: tool.to_string(),
        name,
        scope,
        since: since.to_string(),
    };
    Ok(PageBody { items: given.into_iter().map(body).collect(), next: None })
}

async fn leave(
    State(doors): State<Doors>,
    caller: Caller,
    Path(id): Path<String>,
) -> edge::Result<NoContent> {
    doors.identity.take_back(by(&caller), tool_id(&id)?).await.map_err(refused)?;
    Ok(NoContent)
}
