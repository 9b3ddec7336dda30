//! The RealWorld (Conduit) API 2.0.0. What goes over the wire stands in `conduit/wire.rs`.

mod wire;

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base::ErrorKind;
use edge::{
    Caller, Created, FromHere, Json, NoContent, Operation, Path, Peer, Query, Refusal, Routes,
    State, Undeclared,
};
use identity::{Identity, Visitor};
use results::Question;
use serde_json::{Map, Value};

use crate::article::subject;
use crate::list::{Filter, Part};
use crate::person::PEOPLE;
use crate::tag::{Tagged, tagged};
use crate::{ARTICLES_WRITE, Articles, Error, House, Result};
#[cfg(test)]
pub(crate) use wire::ArticlesAnswer as Listing;
use wire::{
    ArticleAnswer, ArticlesAnswer, CommentAnswer, CommentsAnswer, ListQuery, LogIn, NewArticleBody,
    NewCommentBody, NewUserBody, PartQuery, ProfileAnswer, TagsAnswer, UpdateArticleBody,
    UpdateUserBody, UserAnswer,
};
pub(crate) use wire::{ArticleBody, ProfileBody, written};

/// A longer one is no article's.
const SLUG_BYTES_MAX: usize = 119;

pub(crate) fn routes(articles: Articles) -> Routes<Articles> {
    let routes = Routes::new(articles);
    comment_routes(article_routes(list_routes(profile_routes(user_routes(routes)))))
}

fn of(place: Undeclared) -> Undeclared {
    place.tag("conduit")
}

fn user_routes(routes: Routes<Articles>) -> Routes<Articles> {
    routes
        .add(
            of(Operation::post("/conduit/api/users/login"))
                .id("conduitLogin")
                .summary("Signs in with a password; the token lasts for days.")
                .public()
                .secret()
                .kinds(&[ErrorKind::Unauthenticated, ErrorKind::TooMany])
                .cross_origin()
                .refusals(refused),
            log_in,
        )
        .add(
            of(Operation::post("/conduit/api/users"))
                .id("conduitCreateUser")
                .summary("Makes an account, where `articles.sign_up` allows it.")
                .public()
                .secret()
                .kinds(&[ErrorKind::AlreadyExists, ErrorKind::Forbidden, ErrorKind::TooMany])
                .cross_origin()
                .refusals(refused),
            create_user,
        )
        .add(
            of(Operation::get("/conduit/api/user"))
                .id("conduitGetCurrentUser")
                .summary("The account that asks.")
                .signed_in()
                .cross_origin()
                .refusals(refused),
            current_user,
        )
        .add(
            of(Operation::put("/conduit/api/user"))
                .id("conduitUpdateCurrentUser")
                .summary("Changes the account that asks; a new password ends its other sessions.")
                .signed_in()
                .secret()
                .kinds(&[ErrorKind::AlreadyExists])
                .cross_origin()
                .refusals(refused),
            update_user,
        )
}

fn profile_routes(routes: Routes<Articles>) -> Routes<Articles> {
    routes
        .add(
            of(Operation::get("/conduit/api/profiles/{username}"))
                .id("conduitGetProfile")
                .summary("Somebody as others see them.")
                .session_or_public()
                .cross_origin()
                .refusals(refused),
            profile,
        )
        .add(
            of(Operation::post("/conduit/api/profiles/{username}/follow"))
                .id("conduitFollow")
                .summary("Follows somebody.")
                .action(ARTICLES_WRITE)
                .cross_origin()
                .refusals(refused),
            follow,
        )
        .add(
            of(Operation::delete("/conduit/api/profiles/{username}/follow"))
                .id("conduitUnfollow")
                .summary("Follows somebody no more.")
                .action(ARTICLES_WRITE)
                .cross_origin()
                .refusals(refused),
            unfollow,
        )
}

fn list_routes(routes: Routes<Articles>) -> Routes<Articles> {
    routes
        .add(
            of(Operation::get("/conduit/api/articles"))
                .id("conduitGetArticles")
                .summary("The articles, newest first; all, of a tag, of an author, favoured by somebody.")
                .session_or_public()
                .at_the_door()
                .returns::<ArticlesAnswer>(200)
                .cross_origin()
                .refusals(refused),
            list,
        )
        .add(
            of(Operation::get("/conduit/api/articles/feed"))
                .id("conduitGetFeed")
                .summary("The articles of those whom the account follows, newest first.")
                .signed_in()
                .returns::<ArticlesAnswer>(200)
                .cross_origin()
                .refusals(refused),
            feed,
        )
        .add(
            of(Operation::get("/conduit/api/tags"))
                .id("conduitGetTags")
                .summary("The tags, those of the most articles first.")
                .public()
                .cross_origin()
                .refusals(refused),
            tags,
        )
}

fn article_routes(routes: Routes<Articles>) -> Routes<Articles> {
    routes
        .add(
            of(Operation::post("/conduit/api/articles"))
                .id("conduitCreateArticle")
                .summary("Publishes an article.")
                .action(ARTICLES_WRITE)
                .cross_origin()
                .refusals(refused),
            create_article,
        )
        .add(
            of(Operation::get("/conduit/api/articles/{slug}"))
                .id("conduitGetArticle")
                .summary("One article, with an ETag.")
                .session_or_public()
                .at_the_door()
                .returns::<ArticleAnswer>(200)
                .cross_origin()
                .refusals(refused),
            article,
        )
        .add(
            of(Operation::put("/conduit/api/articles/{slug}"))
                .id("conduitUpdateArticle")
                .summary("Changes one's own article; a new title makes a new slug.")
                .action(ARTICLES_WRITE)
                .cross_origin()
                .refusals(refused),
            update_article,
        )
        .add(
            of(Operation::delete("/conduit/api/articles/{slug}"))
                .id("conduitDeleteArticle")
                .summary("Deletes one's own article with its comments.")
                .action(ARTICLES_WRITE)
                .cross_origin()
                .refusals(refused),
            delete_article,
        )
        .add(
            of(Operation::post("/conduit/api/articles/{slug}/favorite"))
                .id("conduitFavorite")
                .summary("Favours an article.")
                .action(ARTICLES_WRITE)
                .cross_origin()
                .refusals(refused),
            favour,
        )
        .add(
            of(Operation::delete("/conduit/api/articles/{slug}/favorite"))
                .id("conduitUnfavorite")
                .summary("Favours an article no more.")
                .action(ARTICLES_WRITE)
                .cross_origin()
                .refusals(refused),
            disfavour,
        )
}

fn comment_routes(routes: Routes<Articles>) -> Routes<Articles> {
    routes
        .add(
            of(Operation::get("/conduit/api/articles/{slug}/comments"))
                .id("conduitGetComments")
                .summary("What was said to an article, newest first.")
                .session_or_public()
                .cross_origin()
                .refusals(refused),
            comments,
        )
        .add(
            of(Operation::post("/conduit/api/articles/{slug}/comments"))
                .id("conduitCreateComment")
                .summary("Says something to an article.")
                .action(ARTICLES_WRITE)
                .cross_origin()
                .refusals(refused),
            create_comment,
        )
        .add(
            of(Operation::delete("/conduit/api/articles/{slug}/comments/{id}"))
                .id("conduitDeleteComment")
                .summary("Takes back what one said.")
                .action(ARTICLES_WRITE)
                .cross_origin()
                .refusals(refused),
            delete_comment,
        )
}

/// `{"errors": {"title": ["can't be blank"]}}`: a field of the request, or the thing that it is about.
fn refused(refusal: &Refusal) -> Response {
    let mut errors = Map::new();
    for field in &refusal.fields {
        // Of a JSON pointer, the last step.
        let name = field.pointer.rsplit('/').next().unwrap_or_default();
        let name = if name.is_empty() { "body" } else { name };
        let texts = errors.entry(name).or_insert_with(|| Value::Array(Vec::new()));
        if let Some(texts) = texts.as_array_mut() {
            texts.push(field.detail.clone().into());
        }
    }
    if errors.is_empty() {
        let (name, text) = match refusal.kind {
            ErrorKind::Unauthenticated => ("token", "is missing"),
            ErrorKind::Forbidden => ("account", &*refusal.detail),
            _ => ("request", &*refusal.detail),
        };
        errors.insert(name.to_owned(), vec![text].into());
    }
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::json!({ "errors": errors }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// From where somebody comes. Only what the connection itself says counts for the address.
fn visitor(Peer(address): Peer, headers: &HeaderMap) -> Visitor {
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    Visitor { address, agent: agent.unwrap_or_default().to_owned() }
}

/// The text that came with a request; empty for a browser's session, which has a cookie.
fn token_of(headers: &HeaderMap) -> &str {
    let given = headers.get(header::AUTHORIZATION).and_then(|given| given.to_str().ok());
    given.and_then(|given| given.split_once(' ')).map_or("", |(_, token)| token.trim())
}

async fn create_user(
    State(Articles(house)): State<Articles>,
    peer: Peer,
    FromHere(is_here): FromHere,
    headers: HeaderMap,
    Json(given): Json<NewUserBody>,
) -> edge::Result<Created<UserAnswer>> {
    let visitor = visitor(peer, &headers);
    let (session, profile) = house.register(&visitor, is_here, given.user.into()).await?;
    Ok(Created(UserAnswer::begun(&session, profile)))
}

async fn log_in(
    State(Articles(house)): State<Articles>,
    peer: Peer,
    headers: HeaderMap,
    Json(given): Json<LogIn>,
) -> edge::Result<Json<UserAnswer>> {
    let visitor = visitor(peer, &headers);
    let (email, password) = given.user.parts();
    let (session, profile) = house.log_in(&visitor, email, password).await?;
    Ok(Json(UserAnswer::begun(&session, profile)))
}

async fn current_user(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    headers: HeaderMap,
) -> edge::Result<Json<UserAnswer>> {
    let profile = house.own_profile(&caller.principal).await?;
    Ok(Json(UserAnswer::of(&caller.principal, token_of(&headers), profile)))
}

async fn update_user(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    headers: HeaderMap,
    Json(given): Json<UpdateUserBody>,
) -> edge::Result<Json<UserAnswer>> {
    let token = token_of(&headers);
    let keep = Identity::session_of_text(token);
    let change = given.user.change()?;
    let (principal, profile) = house.change_person(&caller.principal, keep, change).await?;
    Ok(Json(UserAnswer::of(&principal, token, profile)))
}

async fn profile(
    State(Articles(house)): State<Articles>,
    caller: Option<Caller>,
    Path(username): Path<String>,
) -> edge::Result<Json<ProfileAnswer>> {
    let profile = house.profile(house.viewer(caller.as_ref()), &username).await?;
    Ok(Json(ProfileAnswer { profile: profile.into() }))
}

async fn follow(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path(username): Path<String>,
) -> edge::Result<Json<ProfileAnswer>> {
    let profile = house.follow(&caller.principal, &username, true).await?;
    Ok(Json(ProfileAnswer { profile: profile.into() }))
}

async fn unfollow(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path(username): Path<String>,
) -> edge::Result<Json<ProfileAnswer>> {
    let profile = house.follow(&caller.principal, &username, false).await?;
    Ok(Json(ProfileAnswer { profile: profile.into() }))
}

impl House {
    /// What `limit` and `offset` ask for.
    fn part(&self, limit: Option<&str>, offset: Option<&str>) -> Result<(Part, u32)> {
        let number = |field: &'static str, text: Option<&str>, least: u32, without: u32| {
            let Some(text) = text else { return Ok(without) };
            let number = text.parse::<u32>().ok().filter(|number| *number >= least);
            number.ok_or_else(|| {
                Error::invalid(field, format!("must be a whole number of at least {least}"))
            })
        };
        let limit = number("limit", limit, 1, self.config.page)?.min(self.config.page_max);
        let offset = number("offset", offset, 0, 0)?;
        let most = self.config.offset_max;
        if offset > most {
            return Err(Error::invalid("offset", format!("must be at most {most}")));
        }
        Ok((Part::Offset(offset), limit))
    }
}

async fn list(
    State(Articles(house)): State<Articles>,
    caller: Option<Caller>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> edge::Result<Response> {
    let ListQuery { tag, author, favorited, limit, offset } = query;
    let (part, limit) = house.part(limit.as_deref(), offset.as_deref())?;
    let filter = Filter { tag, author, favourite_of: favorited, followed_by: None };
    let listed = house.cards(house.viewer(caller.as_ref()), filter, part, limit).await?;
    Ok(listed.answer(&headers, caller.is_none()))
}

async fn feed(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Query(PartQuery { limit, offset }): Query<PartQuery>,
    headers: HeaderMap,
) -> edge::Result<Response> {
    let account = house.account(&caller.principal)?;
    let (part, limit) = house.part(limit.as_deref(), offset.as_deref())?;
    let filter = Filter { followed_by: Some(account), ..Filter::default() };
    let listed = house.cards(Some(account), filter, part, limit).await?;
    Ok(listed.answer(&headers, false))
}

async fn tags(State(Articles(house)): State<Articles>) -> edge::Result<Json<TagsAnswer>> {
    Ok(Json(TagsAnswer { tags: house.tags().await? }))
}

async fn create_article(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Json(given): Json<NewArticleBody>,
) -> edge::Result<Created<ArticleAnswer>> {
    let article = house.write(&caller.principal, given.article.into()).await?;
    Ok(Created(ArticleAnswer { article: ArticleBody::of(article)? }))
}

async fn article(
    State(Articles(house)): State<Articles>,
    caller: Option<Caller>,
    Path(slug): Path<String>,
    headers: HeaderMap,
) -> edge::Result<Response> {
    match house.viewer(caller.as_ref()) {
        None => Ok(house.shown(slug).await?.answer(&headers, true)),
        viewer => {
            let article = ArticleBody::of(house.article(viewer, slug).await?)?;
            Ok(tagged(&headers, &ArticleAnswer { article }, false)?)
        }
    }
}

impl House {
    /// An article as everybody sees it who is nobody here; computed once, and kept until it changes.
    async fn shown(self: &Arc<Self>, slug: String) -> Result<Tagged> {
        if slug.len() > SLUG_BYTES_MAX {
            return Err(Error::NotFound("article"));
        }
        let subject = subject(&slug);
        let subjects = [&*subject, PEOPLE];
        let question = Question::new("articles.shown", &slug, &subjects, self.config.kept_max);
        let (house, wanted) = (self.clone(), slug.clone());
        let bytes = self.results.answer(question, move || async move {
            let compute = async {
                let article = ArticleBody::of(house.article(None, wanted).await?)?;
                Ok(Tagged::of(&ArticleAnswer { article })?.bytes().clone())
            };
            compute.await.map_err(|error: Error| results::Error::of(error.kind(), error))
        });
        Ok(Tagged::kept(bytes.await?))
    }
}

async fn update_article(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path(slug): Path<String>,
    Json(given): Json<UpdateArticleBody>,
) -> edge::Result<Json<ArticleAnswer>> {
    let article = house.rewrite(&caller.principal, slug, given.article.change()?).await?;
    Ok(Json(ArticleAnswer { article: ArticleBody::of(article)? }))
}

async fn delete_article(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path(slug): Path<String>,
) -> edge::Result<NoContent> {
    house.delete(&caller.principal, slug).await?;
    Ok(NoContent)
}

async fn favour(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path(slug): Path<String>,
) -> edge::Result<Json<ArticleAnswer>> {
    let article = house.favour(&caller.principal, slug, true).await?;
    Ok(Json(ArticleAnswer { article: ArticleBody::of(article)? }))
}

async fn disfavour(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path(slug): Path<String>,
) -> edge::Result<Json<ArticleAnswer>> {
    let article = house.favour(&caller.principal, slug, false).await?;
    Ok(Json(ArticleAnswer { article: ArticleBody::of(article)? }))
}

async fn comments(
    State(Articles(house)): State<Articles>,
    caller: Option<Caller>,
    Path(slug): Path<String>,
) -> edge::Result<Json<CommentsAnswer>> {
    let said = house.said(house.viewer(caller.as_ref()), slug).await?;
    Ok(Json(CommentsAnswer { comments: said.into_iter().map(Into::into).collect() }))
}

async fn create_comment(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path(slug): Path<String>,
    Json(given): Json<NewCommentBody>,
) -> edge::Result<Created<CommentAnswer>> {
    let comment = house.say(&caller.principal, slug, given.comment.body()).await?;
    Ok(Created(CommentAnswer { comment: comment.into() }))
}

async fn delete_comment(
    State(Articles(house)): State<Articles>,
    caller: Caller,
    Path((slug, id)): Path<(String, String)>,
) -> edge::Result<NoContent> {
    // What is no number is no comment's.
    let id = id.parse().map_err(|_| Error::NotFound("comment"))?;
    house.unsay(&caller.principal, slug, id).await?;
    Ok(NoContent)
}
