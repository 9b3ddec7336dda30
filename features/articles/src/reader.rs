//! Pages for people and search engines, made here and whole without scripts: the list at `/articles`, each article below it.

mod page;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base::Page;
use edge::{Operation, Path, Query, Refusal, Routes, State};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::list::{Filter, Part, after, cursor_of};
use crate::terms::Question;
use crate::{Articles, Error, House};
use page::{Language, Listing};

#[derive(Deserialize, JsonSchema)]
struct ListQuery {
    /// As in `/v1/articles`. Given alone.
    q: Option<String>,
    tag: Option<String>,
    /// The name of an author.
    author: Option<String>,
    /// Where the page before ended.
    after: Option<String>,
}

pub(crate) fn routes(routes: Routes<Articles>) -> Routes<Articles> {
    routes
        .add(
            Operation::get("/articles")
                .id("articlesPage")
                .summary("The articles as a page for people and search engines.")
                .tag("pages")
                .public()
                .media("text/html")
                .refusals(refused),
            list,
        )
        .add(
            Operation::get("/articles/{slug}")
                .id("articlePage")
                .summary("One article as a page, with what previews of links show.")
                .tag("pages")
                .public()
                .media("text/html")
                .refusals(refused),
            article,
        )
}

async fn list(
    State(Articles(house)): State<Articles>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> edge::Result<Response> {
    let limit = house.config.page;
    let ListQuery { q, tag, author, after: cursor } = query;
    let q = q.filter(|q| !q.trim().is_empty());
    let page = if let Some(q) = &q {
        let from = cursor.as_deref().map_or(Ok(0), str::parse).unwrap_or(u32::MAX);
        if from > house.config.offset_max {
            return Err(Error::invalid("after", "is not a cursor of this list").into());
        }
        let found = house.search(None, Question::of(q), from, limit + 1).await?;
        Page::of(found, limit as usize, |_| (from + limit).to_string())
    } else {
        let part = cursor.as_deref().map_or(Ok(Part::Offset(0)), after)?;
        let filter = Filter { tag: tag.clone(), author: author.clone(), ..Filter::default() };
        let listed = house.list(None, filter, part, limit + 1).await?;
        Page::of(listed.articles, limit as usize, cursor_of)
    };
    let language = Language::of(&headers);
    let listing = Listing { q, tag, author, page };
    Ok(html(StatusCode::OK, page::list(&house.config.origin, language, &listing)?))
}

async fn article(
    State(Articles(house)): State<Articles>,
    Path(slug): Path<String>,
    headers: HeaderMap,
) -> edge::Result<Response> {
    let (article, comments) = house.with_comments(slug).await?;
    let language = Language::of(&headers);
    let text = page::article(&house.config.origin, language, &article, &comments)?;
    Ok(html(StatusCode::OK, text))
}

impl House {
    /// An article as everybody sees it, with what was said to it.
    async fn with_comments(
        &self,
        slug: String,
    ) -> crate::Result<(crate::article::Article, Vec<crate::comment::Comment>)> {
        let house = self.clone();
        let found = self.db.read(async move |read| {
            let article = crate::article::find(read, house.organisation, &slug, None).await?;
            let comments = house.said_to(read, article.id, None).await?;
            Ok((article, comments))
        });
        found.await
    }
}

/// A refusal as a page.
fn refused(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    html(status, page::refusal(status.as_u16(), &refusal.detail))
}

fn html(status: StatusCode, text: String) -> Response {
    let mut response =
        (status, [(header::CONTENT_TYPE, "text/html; charset=utf-8")], text).into_response();
    let headers = response.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(page::policy()) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-language"));
    response
}
