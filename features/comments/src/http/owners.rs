//! What owners ask.

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use base::{ErrorKind, PageRequest};
use bytes::Bytes;
use edge::{
    Caller, Created, Json, NoContent, Operation, PageBody, Paging, Path, Query, Routes, State,
    Undeclared,
};
use schemars::JsonSchema;
use serde::Deserialize;

use super::Result;
use super::wire::{
    ActBody, ActedView, AnswerBody, BanView, ClosedBody, EntriesQuery, EntryView, ImportBody,
    SitePatch, SiteView, StatesView, StatisticsQuery, StatisticsView, entry_id,
};
use crate::site::{Settings, Site};
use crate::store::{EntryFilter, State as EntryState};
use crate::transfer::{self, Imported};
use crate::write::{moment, without_controls};
use crate::{COMMENTS_READ, COMMENTS_WRITE, Comments};

const RESOURCE: &str = "comment-site/{id}";
const NONE: &[ErrorKind] = &[ErrorKind::NotFound];

pub(super) fn routes(routes: Routes<Comments>, import_bytes_max: usize) -> Routes<Comments> {
    comment_routes(site_routes(routes), import_bytes_max)
}

fn site_routes(routes: Routes<Comments>) -> Routes<Comments> {
    let of = |place: Undeclared| place.tag("comments");
    routes
        .add(
            of(Operation::get("/v1/comment-sites"))
                .id("listCommentSites")
                .summary("The sites whose pages have comments, the oldest first.")
                .action(COMMENTS_READ),
            list_sites,
        )
        .add(
            of(Operation::post("/v1/comment-sites"))
                .id("createCommentSite")
                .summary("Adds a site; its key goes into its pages.")
                .action(COMMENTS_WRITE)
                .kinds(&[ErrorKind::TooMany]),
            create_site,
        )
        .add(
            of(Operation::get("/v1/comment-sites/{id}"))
                .id("readCommentSite")
                .summary("One site.")
                .action(COMMENTS_READ)
                .resource(RESOURCE)
                .kinds(NONE),
            read_site,
        )
        .add(
            of(Operation::patch("/v1/comment-sites/{id}"))
                .id("updateCommentSite")
                .summary("Changes a site (JSON merge patch); its pages obey when this answers.")
                .action(COMMENTS_WRITE)
                .resource(RESOURCE)
                .kinds(NONE),
            change_site,
        )
        .add(
            of(Operation::delete("/v1/comment-sites/{id}"))
                .id("deleteCommentSite")
                .summary("Removes a site with all its comments.")
                .action(COMMENTS_WRITE)
                .resource(RESOURCE)
                .kinds(NONE),
            delete_site,
        )
        .add(
            of(Operation::post("/v1/comment-sites/{id}/rotate-key"))
                .id("rotateCommentSiteKey")
                .summary("Gives a site another key; pages with the former one show nothing.")
                .action(COMMENTS_WRITE)
                .resource(RESOURCE)
                .kinds(NONE),
            rotate_key,
        )
        .add(
            of(Operation::get("/v1/comment-sites/{id}/statistics"))
                .id("countSiteComments")
                .summary("Comments that are shown, by hour, day or month of the site's zone.")
                .action(COMMENTS_READ)
                .resource(RESOURCE)
                .kinds(NONE),
            statistics,
        )
}

fn comment_routes(routes: Routes<Comments>, most: usize) -> Routes<Comments> {
    let of = |place: Undeclared| place.tag("comments");
    routes
        .add(
            of(Operation::get("/v1/comment-sites/{id}/comments"))
                .id("listSiteComments")
                .summary("The comments of a site, secret ones too, the newest first; all, or those in a state, with a text, of a page or a time.")
                .action(COMMENTS_READ)
                .resource(RESOURCE)
                .kinds(NONE),
            list_entries,
        )
        .add(
            of(Operation::get("/v1/comment-sites/{id}/states"))
                .id("countSiteStates")
                .summary("How many comments are shown, held, spam and deleted.")
                .action(COMMENTS_READ)
                .resource(RESOURCE)
                .kinds(NONE),
            states,
        )
        .add(
            of(Operation::post("/v1/comment-sites/{id}/actions"))
                .id("actOnComments")
                .summary("Does the same to many comments, to all or to none.")
                .action(COMMENTS_WRITE)
                .resource(RESOURCE)
                .kinds(NONE),
            act,
        )
        .add(
            of(Operation::post("/v1/comment-sites/{id}/answers"))
                .id("answerComment")
                .summary("Answers a comment as the site's owner; a secret one in secret.")
                .action(COMMENTS_WRITE)
                .resource(RESOURCE)
                .kinds(NONE),
            answer,
        )
        .add(
            of(Operation::post("/v1/comment-sites/{id}/pages"))
                .id("closeCommentPage")
                .summary("Lets a page take comments, or no more.")
                .action(COMMENTS_WRITE)
                .resource(RESOURCE)
                .kinds(NONE),
            close_page,
        )
        .add(
            of(Operation::get("/v1/comment-sites/{id}/export"))
                .id("exportComments")
                .summary("Every comment of a site, the oldest first, one a line of JSON; no passwords and no addresses.")
                .action(COMMENTS_READ)
                .resource(RESOURCE)
                .kinds(NONE)
                .media("application/x-ndjson"),
            export,
        )
        .add(
            of(Operation::post("/v1/comment-sites/{id}/import"))
                .id("importComments")
                .summary("Takes in what this server, Disqus, WordPress or Isso exported. The same again changes nothing.")
                .action(COMMENTS_WRITE)
                .resource(RESOURCE)
                .body_bytes_max(most)
                .kinds(NONE),
            import,
        )
        .add(
            of(Operation::get("/v1/comment-sites/{id}/bans"))
                .id("listCommentBans")
                .summary("Who may not write.")
                .action(COMMENTS_READ)
                .resource(RESOURCE)
                .kinds(NONE),
            list_bans,
        )
        .add(
            of(Operation::delete("/v1/comment-sites/{id}/bans/{ban}"))
                .id("deleteCommentBan")
                .summary("Lets somebody write again.")
                .action(COMMENTS_WRITE)
                .resource(RESOURCE)
                .kinds(NONE),
            delete_ban,
        )
}

async fn own(comments: &Comments, caller: &Caller, id: &str) -> Result<Site> {
    Ok(comments.own_site(caller.organisation(), id).await?)
}

async fn list_sites(
    State(comments): State<Comments>,
    caller: Caller,
    Paging(page): Paging,
) -> Result<PageBody<SiteView>> {
    let sites = comments.sites(caller.organisation(), page).await?;
    Ok(sites.map(SiteView::from).into())
}

async fn create_site(
    State(comments): State<Comments>,
    caller: Caller,
    Json(settings): Json<Settings>,
) -> Result<Created<SiteView>> {
    Ok(Created(comments.add_site(caller.organisation(), settings).await?.into()))
}

async fn read_site(
    State(comments): State<Comments>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<SiteView>> {
    Ok(Json(own(&comments, &caller, &id).await?.into()))
}

async fn change_site(
    State(comments): State<Comments>,
    caller: Caller,
    Path(id): Path<String>,
    Json(patch): Json<SitePatch>,
) -> Result<Json<SiteView>> {
    let site = own(&comments, &caller, &id).await?;
    let settings = patch.apply(site.settings.clone());
    Ok(Json(comments.change_site(&site, settings).await?.into()))
}

async fn delete_site(
    State(comments): State<Comments>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<NoContent> {
    let site = own(&comments, &caller, &id).await?;
    comments.remove_site(&site).await?;
    Ok(NoContent)
}

async fn rotate_key(
    State(comments): State<Comments>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<SiteView>> {
    let site = own(&comments, &caller, &id).await?;
    Ok(Json(comments.rotate_key(&site).await?.into()))
}

async fn statistics(
    State(comments): State<Comments>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<StatisticsQuery>,
) -> Result<Json<StatisticsView>> {
    let site = own(&comments, &caller, &id).await?;
    let parts = comments.statistics(&site, query.by, (&query.from, &query.to)).await?;
    let total = parts.iter().map(|part| part.comments).sum();
    Ok(Json(StatisticsView { zone: site.settings.zone, total, parts }))
}

async fn list_entries(
    State(comments): State<Comments>,
    caller: Caller,
    Path(id): Path<String>,
    Paging(page): Paging,
    Query(query): Query<EntriesQuery>,
) -> Result<PageBody<EntryView>> {
    let site = own(&comments, &caller, &id).await?;
    let moment = |name, text: Option<String>| text.map(|text| moment(name, &text)).transpose();
    let url = query.url.map(|url| crate::page::Page::of(&url)).transpose()?;
    let filter = EntryFilter {
        state: query.state,
        text: query.text.map(|text| without_controls(&text)).filter(|text| !text.is_empty()),
        page: url.map(|page| page.id()),
        reported: query.reported,
        times: (moment("from", query.from)?, moment("to", query.to)?),
    };
    Ok(comments.entries(&site, filter, page).await?.map(EntryView::of).into())
}

async fn states(
    State(comments): State<Comments>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<StatesView>> {
    let site = own(&comments, &caller, &id).await?;
    let mut view = StatesView::default();
    for (state, count) in comments.states(&site).await? {
        match state {
            EntryState::Shown => view.shown = count,
            EntryState::Held => view.held = count,
            EntryState::Spam => view.spam = count,
            EntryState::Deleted => view.deleted = count,
        }
    }
    Ok(Json(view))
}

async fn act(
    State(comments): State<Comments>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<ActBody>,
) -> Result<Json<ActedView>> {
    let site = own(&comments, &caller, &id).await?;
    let ids = body.comments.iter().map(|id| entry_id(id)).collect::<Result<_>>()?;
    Ok(Json(ActedView { changed: comments.act(&site, body.action, ids).await? }))
}

async fn answer(
    State(comments): State<Comments>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<AnswerBody>,
) -> Result<Created<EntryView>> {
    let site = own(&comments, &caller, &id).await?;
    let who = match caller.subject() {
        base::access::Subject::Account(id) => id.to_string(),
        base::access::Subject::Key(id) => id.to_string(),
        base::access::Subject::System(part) => part.to_owned(),
    };
    let parent = entry_id(&body.parent)?;
    let entry = comments.answer(&site, (who, &body.name), (parent, body.text)).await?;
    Ok(Created(EntryView::of((entry, String::new(), String::new()))))
}

async fn close_page(
    State(comments): State<Comments>,
    caller: Caller,
    Path(id): Path<String>,
    Json(body): Json<ClosedBody>,
) -> Result<NoContent> {
    let site = own(&comments, &caller, &id).await?;
    comments.close_page(&site, &body.url, body.closed).await?;
    Ok(NoContent)
}

async fn list_bans(
    State(comments): State<Comments>,
    caller: Caller,
    Path(id): Path<String>,
    Paging(page): Paging,
) -> Result<PageBody<BanView>> {
    let site = own(&comments, &caller, &id).await?;
    let bans = comments.bans(&site, page).await?;
    let view = |(id, name, created): (String, String, base::Timestamp)| BanView {
        id,
        name,
        created: created.to_string(),
    };
    Ok(bans.map(view).into())
}

/// Comments of one part of an export.
const EXPORT_ITEMS: usize = 1_000;

async fn export(
    State(comments): State<Comments>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Response> {
    let site = own(&comments, &caller, &id).await?;
    let organisation = site.organisation()?;
    let begin = Some(PageRequest { after: None, limit: EXPORT_ITEMS });
    // One part at a time, as fast as it is taken.
    let parts = futures::stream::try_unfold(begin, move |next| {
        let (comments, site) = (comments.clone(), site.id.clone());
        async move {
            let Some(next) = next else { return Ok::<_, crate::Error>(None) };
            let page = comments.exported(organisation, site, next).await?;
            let mut lines = Vec::new();
            for comment in &page.items {
                serde_json::to_writer(&mut lines, comment).expect("a comment is texts");
                lines.push(b'\n');
            }
            let more =
                page.next.map(|after| PageRequest { after: Some(after), limit: EXPORT_ITEMS });
            Ok(Some((Bytes::from(lines), more)))
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"comments.ndjson\""),
    ];
    Ok((headers, Body::from_stream(parts)).into_response())
}

async fn import(
    State(comments): State<Comments>,
    caller: Caller,
    Path(id): Path<String>,
    Json(ImportBody { format, text }): Json<ImportBody>,
) -> Result<Json<Imported>> {
    let site = own(&comments, &caller, &id).await?;
    // A long file is read away from the threads that serve others.
    let read = tokio::task::spawn_blocking(move || transfer::read(format, &text));
    let all = read.await.map_err(edge::Error::internal)??;
    Ok(Json(comments.import(&site, all).await?))
}

#[derive(Deserialize, JsonSchema)]
struct BanPath {
    id: String,
    ban: String,
}

async fn delete_ban(
    State(comments): State<Comments>,
    caller: Caller,
    Path(path): Path<BanPath>,
) -> Result<NoContent> {
    let site = own(&comments, &caller, &path.id).await?;
    comments.unban(&site, path.ban).await?;
    Ok(NoContent)
}
