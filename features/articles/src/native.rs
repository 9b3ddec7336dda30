//! The operations under `/v1`, with the conventions of the house: pages by cursor, search, drafts, moderation, ETags.

mod wire;

use axum::http::HeaderMap;
use axum::response::Response;
use base::{ErrorKind, Page};
use edge::{
    Caller, Created, Json, NoContent, Operation, PageBody, Paging, Path, Query, Routes, State,
    Undeclared,
};

use crate::list::{Filter, Part, after, cursor_of};
use crate::tag::tagged;
use crate::terms::Question;
use crate::{ARTICLES_MODERATE, ARTICLES_WRITE, Articles, Error, article};
use wire::{
    ArticleView, ListQuery, NewArticle, PeopleQuery, PersonView, ReportBody, ReportView,
    UpdateArticle,
};

const NOT_FOUND: &[ErrorKind] = &[ErrorKind::NotFound];

pub(crate) fn routes(routes: Routes<Articles>) -> Routes<Articles> {
    moderation(writing(reading(routes)))
}

fn of(place: Undeclared) -> Undeclared {
    place.tag("articles")
}

fn reading(routes: Routes<Articles>) -> Routes<Articles> {
    routes
        .add(
            of(Operation::get("/v1/articles"))
                .id("listArticles")
                .summary("Published articles, newest first; those with every piece of `q`, the best first.")
                .session_or_public(),
            list,
        )
        .add(
            of(Operation::get("/v1/articles/{slug}"))
                .id("readArticle")
                .summary("One article, with an ETag.")
                .session_or_public()
                .returns::<ArticleView>(200)
                .kinds(NOT_FOUND),
            read,
        )
        .add(
            of(Operation::get("/v1/article-people"))
                .id("findArticlePeople")
                .summary("People whose name, or whose id, begins with `q`: whom one may mean while one types.")
                .action(ARTICLES_WRITE),
            people,
        )
}

fn writing(routes: Routes<Articles>) -> Routes<Articles> {
    routes
        .add(
            of(Operation::get("/v1/articles/drafts"))
                .id("listDrafts")
                .summary("One's own articles that nobody else sees, newest first.")
                .action(ARTICLES_WRITE),
            drafts,
        )
        .add(
            of(Operation::post("/v1/articles"))
                .id("createArticle")
                .summary("Writes an article; a draft is seen by its author alone.")
                .action(ARTICLES_WRITE),
            create,
        )
        .add(
            of(Operation::patch("/v1/articles/{slug}"))
                .id("updateArticle")
                .summary("Changes one's own article or draft; a new title makes a new slug.")
                .action(ARTICLES_WRITE)
                .kinds(NOT_FOUND),
            update,
        )
        .add(
            of(Operation::delete("/v1/articles/{slug}"))
                .id("deleteArticle")
                .summary("Deletes one's own article or draft.")
                .action(ARTICLES_WRITE)
                .kinds(NOT_FOUND),
            delete,
        )
        .add(
            of(Operation::post("/v1/articles/{slug}/publish"))
                .id("publishArticle")
                .summary("Publishes a draft: from now on it is the newest. Again, it changes nothing.")
                .action(ARTICLES_WRITE)
                .kinds(NOT_FOUND),
            publish,
        )
        .add(
            of(Operation::post("/v1/articles/{slug}/report"))
                .id("reportArticle")
                .summary("Tells those who moderate what is wrong with an article; again, the newest reason counts.")
                .action(ARTICLES_WRITE)
                .kinds(NOT_FOUND),
            report,
        )
}

fn moderation(routes: Routes<Articles>) -> Routes<Articles> {
    routes
        .add(
            of(Operation::get("/v1/articles/reports"))
                .id("listArticleReports")
                .summary("What was reported of articles that are shown, the oldest first.")
                .action(ARTICLES_MODERATE),
            reports,
        )
        .add(
            of(Operation::post("/v1/articles/{slug}/hide"))
                .id("hideArticle")
                .summary("Hides an article from everybody but its author.")
                .action(ARTICLES_MODERATE)
                .kinds(NOT_FOUND),
            hide,
        )
        .add(
            of(Operation::post("/v1/articles/{slug}/show"))
                .id("showArticle")
                .summary("Shows a hidden article again, and drops what was reported of it.")
                .action(ARTICLES_MODERATE)
                .kinds(NOT_FOUND),
            show,
        )
        .add(
            of(Operation::delete("/v1/articles/{slug}/comments/{id}"))
                .id("removeArticleComment")
                .summary("Removes what somebody said to an article.")
                .action(ARTICLES_MODERATE)
                .kinds(NOT_FOUND),
            remove_comment,
        )
        .add(
            of(Operation::post("/v1/article-people/{username}/silence"))
                .id("silencePerson")
                .summary("Lets somebody write and comment no more.")
                .action(ARTICLES_MODERATE)
                .kinds(NOT_FOUND),
            silence,
        )
        .add(
            of(Operation::delete("/v1/article-people/{username}/silence"))
                .id("unsilencePerson")
                .summary("Lets somebody write and comment again.")
                .action(ARTICLES_MODERATE)
                .kinds(NOT_FOUND),
            unsilence,
        )
}

async fn list(
    State(Articles(house)): State<Articles>,
    caller: Option<Caller>,
    Paging(page): Paging,
    Query(query): Query<ListQuery>,
) -> edge::Result<PageBody<ArticleView>> {
    let viewer = house.viewer(caller.as_ref());
    let limit = u32::try_from(page.limit).unwrap_or(u32::MAX).min(house.config.page_max);
    let ListQuery { q, tag, author, favourite_of } = query;
    if let Some(q) = q {
        if tag.is_some() || author.is_some() || favourite_of.is_some() {
            let error = edge::Error::unreadable("a search cannot be combined");
            return Err(error.at("q", "is given alone"));
        }
        let from: u32 = match page.after.as_deref().map(str::parse) {
            None => 0,
            Some(Ok(from)) if from <= house.config.offset_max => from,
            Some(_) => return Err(Error::invalid("after", "is not a cursor of this list").into()),
        };
        let found = house.search(viewer, Question::of(&q), from, limit + 1).await?;
        let page = Page::of(found, limit as usize, |_| (from + limit).to_string());
        return views(page);
    }
    let part = match &page.after {
        Some(cursor) => after(cursor)?,
        None => Part::Offset(0),
    };
    let filter = Filter { tag, author, favourite_of, followed_by: None };
    let listed = house.list(viewer, filter, part, limit + 1).await?;
    views(Page::of(listed.articles, limit as usize, cursor_of))
}

fn views(page: Page<article::Article>) -> edge::Result<PageBody<ArticleView>> {
    let Page { items, next } = page;
    let items = items.into_iter().map(ArticleView::of).collect::<crate::Result<Vec<_>>>()?;
    Ok(PageBody { items, next })
}

async fn read(
    State(Articles(house)): State<Articles>,
    caller: Option<Caller>,
    Path(slug): Path<String>,
    headers: HeaderMap,
) -> edge::Result<Response> {
    let article = house.article(house.viewer(caller.as_ref()), slug).await?;
    let is_shared = caller.is_none();
    Ok(tagged(&headers, &ArticleView::of(article)?, is_shared)?)
}

async fn people(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Query(PeopleQuery { q, limit }): Query<PeopleQuery>,
) -> edge::Result<PageBody<PersonView>> {
    house.check_own(&caller)?;
    let most = house.config.people_found_max;
    let found = house.people(&q, limit.unwrap_or(most).clamp(1, most)).await?;
    Ok(PageBody { items: found.into_iter().map(Into::into).collect(), next: None })
}

async fn drafts(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Paging(page): Paging,
) -> edge::Result<PageBody<ArticleView>> {
    let account = house.account(&caller.principal)?;
    let limit = u32::try_from(page.limit).unwrap_or(u32::MAX).min(house.config.page_max);
    let part = page.after.as_deref().map(after).transpose()?;
    let found = house.drafts(account, part, limit + 1).await?;
    views(Page::of(found, limit as usize, cursor_of))
}

async fn create(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Json(given): Json<NewArticle>,
) -> edge::Result<Created<ArticleView>> {
    let article = house.write(&caller.principal, given.into()).await?;
    Ok(Created(ArticleView::of(article)?))
}

async fn update(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path(slug): Path<String>,
    Json(given): Json<UpdateArticle>,
) -> edge::Result<Json<ArticleView>> {
    let article = house.rewrite(&caller.principal, slug, given.into()).await?;
    Ok(Json(ArticleView::of(article)?))
}

async fn delete(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path(slug): Path<String>,
) -> edge::Result<NoContent> {
    house.delete(&caller.principal, slug).await?;
    Ok(NoContent)
}

async fn publish(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path(slug): Path<String>,
) -> edge::Result<Json<ArticleView>> {
    let article = house.publish_draft(&caller.principal, slug).await?;
    Ok(Json(ArticleView::of(article)?))
}

async fn report(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path(slug): Path<String>,
    Json(given): Json<ReportBody>,
) -> edge::Result<NoContent> {
    house.report(&caller.principal, slug, given.reason).await?;
    Ok(NoContent)
}

async fn reports(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Paging(page): Paging,
) -> edge::Result<PageBody<ReportView>> {
    house.check_own(&caller)?;
    let limit = page.limit.min(house.config.page_max as usize);
    let found = house.reports(page.after, limit + 1).await?;
    Ok(Page::of(found, limit, crate::moderation::Report::cursor).map(ReportView::from).into())
}

async fn hide(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path(slug): Path<String>,
) -> edge::Result<NoContent> {
    house.check_own(&caller)?;
    house.hide(slug).await?;
    Ok(NoContent)
}

async fn show(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path(slug): Path<String>,
) -> edge::Result<NoContent> {
    house.check_own(&caller)?;
    house.show(slug).await?;
    Ok(NoContent)
}

async fn remove_comment(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path((slug, id)): Path<(String, String)>,
) -> edge::Result<NoContent> {
    house.check_own(&caller)?;
    let id = id.parse().map_err(|_| Error::NotFound("comment"))?;
    house.remove_comment(slug, id).await?;
    Ok(NoContent)
}

async fn silence(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path(username): Path<String>,
) -> edge::Result<NoContent> {
    house.check_own(&caller)?;
    house.silence(&username, true).await?;
    Ok(NoContent)
}

async fn unsilence(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path(username): Path<String>,
) -> edge::Result<NoContent> {
    house.check_own(&caller)?;
    house.silence(&username, false).await?;
    Ok(NoContent)
}
