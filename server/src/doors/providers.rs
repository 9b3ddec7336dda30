//! Log-in by other providers: to them, back from them, and what an account is linked with.

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base::ErrorKind;
use edge::{Caller, Json, NoContent, Operation, PageBody, Path, Peer, Query, Routes, State};
use identity::{Entered, Link, Return, Returned, Visit};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Doors;
use super::accounts::{AgainBody, by};
use super::session::{cookie, refused, visitor};

/// Comes back with a page of another site, so it is `Lax`; it opens nothing by itself.
const COOKIE: &str = "madang_provider";

#[derive(Serialize, JsonSchema)]
struct ProviderBody {
    name: String,
}

#[derive(Serialize, JsonSchema)]
struct VisitBody {
    /// Where the browser goes next.
    url: String,
}

/// What providers add to the address; some of it is not looked at.
#[derive(Deserialize, JsonSchema)]
struct Back {
    #[serde(default)]
    state: String,
    code: Option<String>,
    iss: Option<String>,
    #[expect(dead_code, reason = "providers send it; its absence of a code says enough")]
    error: Option<String>,
    #[expect(dead_code, reason = "words for people, not of this server")]
    error_description: Option<String>,
    #[expect(dead_code, reason = "Google sends it")]
    scope: Option<String>,
    #[expect(dead_code, reason = "Google sends it")]
    authuser: Option<String>,
    #[expect(dead_code, reason = "Google sends it")]
    prompt: Option<String>,
    #[expect(dead_code, reason = "Google sends it")]
    hd: Option<String>,
    #[expect(dead_code, reason = "Keycloak sends it")]
    session_state: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct LinkBody {
    provider: String,
    created: String,
}

pub(super) fn routes(doors: &Doors) -> Routes<Doors> {
    Routes::new(doors.clone())
        .add(
            Operation::get("/v1/session/providers")
                .id("listProviders")
                .summary("By whom people can sign in.")
                .tag("session")
                .public(),
            list,
        )
        .add(
            Operation::post("/v1/session/providers/{name}")
                .id("beginProvider")
                .summary("Begins to sign in by a provider: where the browser goes, and a cookie for the way back.")
                .tag("session")
                .public()
                .returns::<VisitBody>(200)
                .kinds(&[ErrorKind::NotFound]),
            begin,
        )
        .add(
            Operation::get("/v1/session/providers/{name}/callback")
                .id("finishProvider")
                .summary("Where a provider sends the browser back to; 303 to the console, signed in.")
                .tag("session")
                .public()
                .kinds(&[ErrorKind::Unauthenticated, ErrorKind::Forbidden, ErrorKind::NotFound]),
            finish,
        )
        .add(
            Operation::get("/v1/account/providers")
                .id("listLinks")
                .summary("The providers that one's own account is linked with.")
                .tag("account")
                .session(),
            links,
        )
        .add(
            Operation::post("/v1/account/providers/{name}")
                .id("linkProvider")
                .summary("Begins to link one's own account with a provider.")
                .tag("account")
                .session()
                .secret()
                .returns::<VisitBody>(200)
                .kinds(&[ErrorKind::NotFound]),
            link,
        )
        .add(
            Operation::delete("/v1/account/providers/{name}")
                .id("unlinkProvider")
                .summary("Ends what one's own account is linked with at a provider.")
                .tag("account")
                .session()
                .kinds(&[ErrorKind::NotFound]),
            unlink,
        )
}

async fn list(State(doors): State<Doors>) -> PageBody<ProviderBody> {
    let items = doors.identity.providers().into_iter().map(|name| ProviderBody { name });
    PageBody { items: items.collect(), next: None }
}

async fn begin(State(doors): State<Doors>, Path(name): Path<String>) -> edge::Result<Response> {
    Ok(leave(doors.identity.begin_provider(&name).await.map_err(refused)?))
}

async fn finish(
    State(doors): State<Doors>,
    Path(name): Path<String>,
    Query(back): Query<Back>,
    peer: Peer,
    headers: HeaderMap,
) -> edge::Result<Response> {
    let kept = edge::cookie(&headers, COOKIE).unwrap_or_default();
    let back = Return { state: back.state, code: back.code, issuer: back.iss };
    let visitor = visitor(&peer, &headers);
    let finished = doors.identity.finish_provider(&visitor, &name, (kept, back)).await;
    let gone = format!("{COOKIE}=; Path=/v1/session/providers; HttpOnly; SameSite=Lax; Max-Age=0");
    let to = |page: String| {
        let headers = [(header::LOCATION, page), (header::SET_COOKIE, gone)];
        (StatusCode::SEE_OTHER, headers)
    };
    Ok(match finished.map_err(refused)? {
        Returned::Linked => to("/#/account".into()).into_response(),
        Returned::Entered(Entered::In(session)) => {
            (cookie(&session), to("/#/".into())).into_response()
        }
        // What follows `#` is sent to no server.
        Returned::Entered(Entered::Second(challenge)) => {
            to(format!("/#/second?token={}", challenge.token)).into_response()
        }
    })
}

async fn links(State(doors): State<Doors>, caller: Caller) -> edge::Result<PageBody<LinkBody>> {
    let links = doors.identity.links(&caller.principal).await.map_err(refused)?;
    let body = |Link { provider, created }| LinkBody { provider, created: created.to_string() };
    Ok(PageBody { items: links.into_iter().map(body).collect(), next: None })
}

async fn link(
    State(doors): State<Doors>,
    caller: Caller,
    Path(name): Path<String>,
    Peer(from): Peer,
    Json(AgainBody { password }): Json<AgainBody>,
) -> edge::Result<Response> {
    let with = (&*name, password.as_deref());
    let visit = doors.identity.begin_link(by(&caller), from, with).await;
    Ok(leave(visit.map_err(refused)?))
}

async fn unlink(
    State(doors): State<Doors>,
    caller: Caller,
    Path(name): Path<String>,
) -> edge::Result<NoContent> {
    doors.identity.unlink(by(&caller), &name).await.map_err(refused)?;
    Ok(NoContent)
}

fn leave(visit: Visit) -> Response {
    let Visit { url, cookie, lifetime } = visit;
    let seconds = lifetime.as_secs();
    let kept = format!(
        "{COOKIE}={cookie}; Path=/v1/session/providers; HttpOnly; SameSite=Lax; Max-Age={seconds}"
    );
    ([(header::SET_COOKIE, kept)], Json(VisitBody { url })).into_response()
}
