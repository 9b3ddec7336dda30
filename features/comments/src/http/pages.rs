//! What pages of sites ask, from any origin that the site has; without cookies.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base::ErrorKind;
use edge::{
    Caller, Events, Json, NoContent, Operation, Path, Peer, Query, Routes, State, Streams,
    Undeclared, knows, takes_gzip,
};

use super::Result;
use super::wire::{
    ChangeBody, CommentBody, CommentPath, CountsBody, CountsView, LikeBody, LikesView, OwnBody,
    PageQuery, ReportBody, ThreadQuery, TokenBody, TokenView, entry_id,
};
use crate::site::Site;
use crate::store::{Reader, Seen};
use crate::thread::{CommentView, Secrets, ThreadView};
use crate::write::{NewComment, Visitor};
use crate::{COMMENTS_WRITE, Comments, Error};

const REFUSALS: &[ErrorKind] = &[ErrorKind::NotFound, ErrorKind::Forbidden, ErrorKind::TooMany];

pub(super) fn routes(routes: Routes<Comments>) -> Routes<Comments> {
    let of = |place: Undeclared| place.tag("comments");
    let routes = routes
        .add(
            of(Operation::get("/comments/{site}/thread"))
                .id("readThread")
                .summary("The comments of a page, the same answer for everybody; with an ETag.")
                .public()
                .cross_origin()
                .at_the_door()
                .returns::<ThreadView<'static>>(200)
                .kinds(&[ErrorKind::NotFound, ErrorKind::Forbidden]),
            read_thread,
        )
        .add(
            of(Operation::get("/comments/{site}/events"))
                .id("followThread")
                .summary("Says `changed` whenever the comments of a page change.")
                .public()
                .cross_origin()
                .kinds(&[ErrorKind::NotFound, ErrorKind::Forbidden]),
            follow,
        )
        .add(
            of(Operation::post("/comments/{site}/counts"))
                .id("countComments")
                .summary("How many comments each of a list of pages has.")
                .public()
                .cross_origin()
                .kinds(&[ErrorKind::NotFound, ErrorKind::Forbidden]),
            counts,
        )
        .add(
            of(Operation::post("/comments/{site}/comments"))
                .id("writeComment")
                .summary("Writes a comment, or an answer to one. The same nonce again is the same comment.")
                .public()
                .cross_origin()
                .secret()
                .returns::<CommentView<'static>>(201)
                .kinds(&[ErrorKind::NotFound, ErrorKind::Forbidden, ErrorKind::TooMany, ErrorKind::Conflict]),
            write,
        );
    own_routes(routes)
}

fn own_routes(routes: Routes<Comments>) -> Routes<Comments> {
    let of = |place: Undeclared| place.tag("comments");
    routes
        .add(
            of(Operation::patch("/comments/{site}/comments/{comment}"))
                .id("changeComment")
                .summary("Changes the text of one's own comment.")
                .public()
                .cross_origin()
                .secret()
                .returns::<CommentView<'static>>(200)
                .kinds(REFUSALS),
            change,
        )
        .add(
            of(Operation::post("/comments/{site}/comments/{comment}/delete"))
                .id("deleteComment")
                .summary("Deletes one's own comment. Answers to it stay.")
                .public()
                .cross_origin()
                .secret()
                .kinds(REFUSALS),
            delete,
        )
        .add(
            of(Operation::post("/comments/{site}/comments/{comment}/reveal"))
                .id("revealComment")
                .summary("One's own comment with its text, also when it is secret; an owner's is every one.")
                .public()
                .cross_origin()
                .secret()
                .returns::<CommentView<'static>>(200)
                .kinds(REFUSALS),
            reveal,
        )
        .add(
            of(Operation::post("/comments/{site}/comments/{comment}/like"))
                .id("likeComment")
                .summary("Likes a comment, or not any more; said twice it counts once.")
                .public()
                .cross_origin()
                .secret()
                .kinds(REFUSALS),
            like,
        )
        .add(
            of(Operation::post("/comments/{site}/comments/{comment}/report"))
                .id("reportComment")
                .summary("Tells the owners of a comment.")
                .public()
                .cross_origin()
                .secret()
                .kinds(REFUSALS),
            report,
        )
        .add(
            of(Operation::post("/comments/{site}/tokens"))
                .id("createCommentToken")
                .summary("A token with which one's own account comments on this site, and does nothing else.")
                .session()
                .secret()
                .kinds(&[ErrorKind::NotFound]),
            create_token,
        )
        .add(
            of(Operation::delete("/comments/{site}/tokens"))
                .id("deleteCommentToken")
                .summary("Ends the token that it is sent with.")
                .public()
                .cross_origin()
                .kinds(&[ErrorKind::NotFound, ErrorKind::Forbidden]),
            delete_token,
        )
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The site, when the request came from one of its pages.
async fn site(comments: &Comments, key: &str, headers: &HeaderMap) -> Result<Arc<Site>> {
    let site = comments.site(key).await?;
    site.welcome(text(headers, &header::ORIGIN), text(headers, &header::HOST))?;
    Ok(site)
}

/// The text of a token that stands in the request.
fn token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = text(headers, &header::AUTHORIZATION)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

async fn visitor(
    comments: &Comments,
    site: &Site,
    (peer, headers): (Peer, &HeaderMap),
    OwnBody { browser, password }: OwnBody,
) -> Result<Visitor> {
    let reader = match token(headers) {
        Some(token) => Some(comments.reader(site, token).await?),
        None => None,
    };
    Ok(Visitor { from: peer.0, browser, password, reader })
}

async fn read_thread(
    State(comments): State<Comments>,
    Path(key): Path<String>,
    Query(ThreadQuery { url, before }): Query<ThreadQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let site = site(&comments, &key, &headers).await?;
    let page = site.page(&url, text(&headers, &header::HOST))?;
    let before = before.as_deref().map(entry_id).transpose()?;
    let packed = comments.thread(&site, &page, before).await?;
    let tag = format!("W/\"{}\"", packed.tag());
    let mut response = if knows(&headers, &tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if takes_gzip(&headers) {
        ([(header::CONTENT_ENCODING, "gzip")], packed.gzip()).into_response()
    } else {
        packed.plain()?.into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding, origin"));
    headers.insert(header::ETAG, HeaderValue::from_str(&tag).map_err(edge::Error::internal)?);
    Ok(response)
}

async fn follow(
    State(comments): State<Comments>,
    Path(key): Path<String>,
    Query(PageQuery { url }): Query<PageQuery>,
    headers: HeaderMap,
    streams: Streams,
) -> Result<Events> {
    let site = site(&comments, &key, &headers).await?;
    let page = site.page(&url, text(&headers, &header::HOST))?;
    let organisation = site.organisation()?;
    streams.open(comments.0.live.follow(organisation, &site.id, &page.id())?)
}

async fn counts(
    State(comments): State<Comments>,
    Path(key): Path<String>,
    headers: HeaderMap,
    Json(CountsBody { urls }): Json<CountsBody>,
) -> Result<Json<CountsView>> {
    let site = site(&comments, &key, &headers).await?;
    let most = comments.0.config.counts_pages_max;
    if urls.is_empty() || urls.len() > most {
        return Err(Error::invalid("/urls", format!("must be 1 to {most} addresses")).into());
    }
    let host = text(&headers, &header::HOST);
    let pages = urls.iter().map(|url| site.page(url, host)).collect::<crate::Result<_>>()?;
    Ok(Json(CountsView { counts: comments.counts(&site, pages).await? }))
}

async fn write(
    State(comments): State<Comments>,
    Path(key): Path<String>,
    peer: Peer,
    headers: HeaderMap,
    Json(body): Json<CommentBody>,
) -> Result<Response> {
    let site = site(&comments, &key, &headers).await?;
    let page = site.page(&body.url, text(&headers, &header::HOST))?;
    let own = OwnBody { browser: body.browser, password: body.password };
    let visitor = visitor(&comments, &site, (peer, &headers), own).await?;
    let new = NewComment {
        title: body.title,
        parent: body.parent.as_deref().map(entry_id).transpose()?,
        name: body.name,
        text: body.text,
        is_secret: body.secret,
        nonce: body.nonce,
    };
    let entry = comments.write(&site, &page, &visitor, new).await?;
    let view = view(&Seen::from(&entry))?;
    Ok((StatusCode::CREATED, JSON, view).into_response())
}

/// To its writer.
fn view(seen: &Seen<'_>) -> Result<Vec<u8>> {
    serde_json::to_vec(&seen.view(Secrets::Shown)?).map_err(edge::Error::internal)
}

const JSON: [(HeaderName, HeaderValue); 1] =
    [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];

async fn change(
    State(comments): State<Comments>,
    Path(path): Path<CommentPath>,
    peer: Peer,
    headers: HeaderMap,
    Json(body): Json<ChangeBody>,
) -> Result<Response> {
    let site = site(&comments, &path.site, &headers).await?;
    let own = OwnBody { browser: body.browser, password: body.password };
    let visitor = visitor(&comments, &site, (peer, &headers), own).await?;
    let id = entry_id(&path.comment)?;
    let entry = comments.change(&site, &visitor, id, (body.text, body.secret)).await?;
    let view = view(&Seen::from(&entry))?;
    Ok((JSON, view).into_response())
}

async fn delete(
    State(comments): State<Comments>,
    Path(path): Path<CommentPath>,
    peer: Peer,
    headers: HeaderMap,
    Json(own): Json<OwnBody>,
) -> Result<NoContent> {
    let site = site(&comments, &path.site, &headers).await?;
    let visitor = visitor(&comments, &site, (peer, &headers), own).await?;
    comments.delete(&site, &visitor, entry_id(&path.comment)?).await?;
    Ok(NoContent)
}

/// With the source too, which is what its writer changes.
async fn reveal(
    State(comments): State<Comments>,
    Path(path): Path<CommentPath>,
    peer: Peer,
    headers: HeaderMap,
    Json(own): Json<OwnBody>,
) -> Result<Response> {
    let site = site(&comments, &path.site, &headers).await?;
    let visitor = visitor(&comments, &site, (peer, &headers), own).await?;
    let entry = comments.reveal(&site, &visitor, entry_id(&path.comment)?).await?;
    let view = serde_json::to_value(Seen::from(&entry).view(Secrets::Shown)?);
    let mut view = view.map_err(edge::Error::internal)?;
    view["source"] = entry.source.into();
    Ok((JSON, view.to_string()).into_response())
}

async fn like(
    State(comments): State<Comments>,
    Path(path): Path<CommentPath>,
    peer: Peer,
    headers: HeaderMap,
    Json(body): Json<LikeBody>,
) -> Result<Json<LikesView>> {
    let site = site(&comments, &path.site, &headers).await?;
    let own = OwnBody { browser: body.browser, password: None };
    let visitor = visitor(&comments, &site, (peer, &headers), own).await?;
    let id = entry_id(&path.comment)?;
    Ok(Json(LikesView { likes: comments.like(&site, &visitor, (id, body.liked)).await? }))
}

async fn report(
    State(comments): State<Comments>,
    Path(path): Path<CommentPath>,
    peer: Peer,
    headers: HeaderMap,
    Json(body): Json<ReportBody>,
) -> Result<NoContent> {
    let site = site(&comments, &path.site, &headers).await?;
    let own = OwnBody { browser: body.browser, password: None };
    let visitor = visitor(&comments, &site, (peer, &headers), own).await?;
    let id = entry_id(&path.comment)?;
    comments.report(&site, &visitor, (id, body.reason)).await?;
    Ok(NoContent)
}

/// Asked by the sign-in page of this origin, which hands the token to the page that opened it.
async fn create_token(
    State(comments): State<Comments>,
    Path(key): Path<String>,
    caller: Caller,
    Json(TokenBody { name }): Json<TokenBody>,
) -> Result<Json<TokenView>> {
    let site = comments.site(&key).await?;
    let base::access::Subject::Account(account) = caller.subject() else {
        return Err(edge::Error::new(ErrorKind::Forbidden, "only an account comments"));
    };
    let name = comments.name(&name).map_err(Error::from)?;
    let is_owner = caller.organisation() == site.organisation()?
        && caller.authorize(COMMENTS_WRITE, &format!("comment-site/{}", site.id)).is_ok();
    let reader = Reader { home: caller.organisation(), account, name: name.clone(), is_owner };
    let token = comments.add_token(&site, reader).await?;
    Ok(Json(TokenView { token, name, owner: is_owner }))
}

async fn delete_token(
    State(comments): State<Comments>,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Result<NoContent> {
    let site = site(&comments, &key, &headers).await?;
    if let Some(token) = token(&headers) {
        comments.remove_token(&site, token).await?;
    }
    Ok(NoContent)
}
