//! Bodies of the Conduit API. A field that is missing is `None`; one that is null is there and has nothing in it.

use base::Timestamp;
use base::access::Principal;
use identity::NewSession;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::article::{Article, ArticleChange, NewArticle, State};
use crate::comment::Comment;
use crate::error::{BLANK, Faults};
use crate::person::{NewPerson, PersonChange, Profile};
use crate::{Error, Result};

/// A field that may be missing, null or there: `None`, `Some(None)`, `Some(Some(value))`.
#[expect(clippy::option_option, reason = "a field can be missing, null or there")]
fn given<'de, D, T>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Some)
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ConduitLogin")]
pub(super) struct LogIn {
    pub(super) user: LogInUser,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ConduitLoginUser")]
pub(super) struct LogInUser {
    email: Option<String>,
    password: Option<String>,
}

impl LogInUser {
    pub(super) fn parts(self) -> (String, String) {
        (self.email.unwrap_or_default(), self.password.unwrap_or_default())
    }
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ConduitNewUser")]
pub(super) struct NewUserBody {
    pub(super) user: NewUserFields,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ConduitNewUserFields")]
pub(super) struct NewUserFields {
    username: Option<String>,
    email: Option<String>,
    password: Option<String>,
}

impl From<NewUserFields> for NewPerson {
    fn from(fields: NewUserFields) -> Self {
        Self {
            username: fields.username.unwrap_or_default(),
            email: fields.email.unwrap_or_default(),
            password: fields.password.unwrap_or_default(),
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ConduitUpdateUser")]
pub(super) struct UpdateUserBody {
    pub(super) user: UpdateUserFields,
}

/// At least one of them.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ConduitUpdateUserFields")]
#[expect(clippy::option_option, reason = "a field can be missing, null or there")]
pub(super) struct UpdateUserFields {
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    username: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    email: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    password: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    bio: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    image: Option<Option<String>>,
}

impl UpdateUserFields {
    pub(super) fn change(self) -> Result<PersonChange> {
        let Self { username, email, password, bio, image } = self;
        let is_empty = [&username, &email, &password, &bio, &image].iter().all(|it| it.is_none());
        if is_empty {
            return Err(Error::invalid("user", BLANK));
        }
        let mut faults = Faults::default();
        let mut text = |field, given: Option<Option<String>>| {
            if given == Some(None) {
                faults.add(field, BLANK);
            }
            given.flatten()
        };
        let username = text("username", username);
        let email = text("email", email);
        let password = text("password", password);
        faults.check()?;
        Ok(PersonChange { username, email, password, bio, image })
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ConduitUser")]
pub(super) struct UserAnswer {
    user: UserBody,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ConduitUserFields")]
struct UserBody {
    email: String,
    /// For `Authorization: Token`. Empty where a browser's session asked.
    token: String,
    username: String,
    bio: Option<String>,
    image: Option<String>,
}

impl UserAnswer {
    pub(super) fn of(principal: &Principal, token: &str, profile: Profile) -> Self {
        let Profile { username, bio, image, .. } = profile;
        let (email, token) = (principal.name.to_string(), token.to_owned());
        Self { user: UserBody { email, token, username, bio, image } }
    }

    pub(super) fn begun(session: &NewSession, profile: Profile) -> Self {
        let token = session.access.as_ref().map_or("", |access| &*access.text);
        Self::of(&session.principal, token, profile)
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ConduitProfile")]
pub(super) struct ProfileAnswer {
    pub(super) profile: ProfileBody,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "Profile")]
pub(crate) struct ProfileBody {
    pub(crate) username: String,
    pub(crate) bio: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) following: bool,
}

impl From<Profile> for ProfileBody {
    fn from(profile: Profile) -> Self {
        let Profile { username, bio, image, following } = profile;
        Self { username, bio, image, following }
    }
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct ListQuery {
    /// Articles with this tag.
    pub(super) tag: Option<String>,
    /// Articles of the author with this name.
    pub(super) author: Option<String>,
    /// Articles that whoever has this name favours.
    pub(super) favorited: Option<String>,
    /// How many at most; 20 without.
    pub(super) limit: Option<String>,
    /// After how many.
    pub(super) offset: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct PartQuery {
    /// How many at most; 20 without.
    pub(super) limit: Option<String>,
    /// After how many.
    pub(super) offset: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ConduitNewArticle")]
pub(super) struct NewArticleBody {
    pub(super) article: NewArticleFields,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConduitNewArticleFields")]
pub(super) struct NewArticleFields {
    title: Option<String>,
    description: Option<String>,
    body: Option<String>,
    tag_list: Option<Vec<String>>,
}

impl From<NewArticleFields> for NewArticle {
    fn from(fields: NewArticleFields) -> Self {
        Self {
            title: fields.title.unwrap_or_default(),
            description: fields.description.unwrap_or_default(),
            body: fields.body.unwrap_or_default(),
            tags: fields.tag_list.unwrap_or_default(),
            state: State::Published,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ConduitUpdateArticle")]
pub(super) struct UpdateArticleBody {
    pub(super) article: UpdateArticleFields,
}

/// At least one of them.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConduitUpdateArticleFields")]
#[expect(clippy::option_option, reason = "a field can be missing, null or there")]
pub(crate) struct UpdateArticleFields {
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    title: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    description: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<String>")]
    body: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    #[schemars(with = "Option<Vec<String>>")]
    tag_list: Option<Option<Vec<String>>>,
}

impl UpdateArticleFields {
    pub(crate) fn change(self) -> Result<ArticleChange> {
        let Self { title, description, body, tag_list } = self;
        let texts = [("title", &title), ("description", &description), ("body", &body)];
        if texts.iter().all(|(_, text)| text.is_none()) && tag_list.is_none() {
            return Err(Error::invalid("article", BLANK));
        }
        let mut faults = Faults::default();
        for (field, _) in texts.into_iter().filter(|(_, text)| **text == Some(None)) {
            faults.add(field, BLANK);
        }
        if tag_list == Some(None) {
            faults.add("tagList", BLANK);
        }
        faults.check()?;
        Ok(ArticleChange {
            title: title.flatten(),
            description: description.flatten(),
            body: body.flatten(),
            tags: tag_list.flatten(),
        })
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ConduitArticle")]
pub(super) struct ArticleAnswer {
    pub(super) article: ArticleBody,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConduitArticles")]
pub(crate) struct ArticlesAnswer {
    articles: Vec<ArticleBody>,
    /// Of the whole list, not of this part.
    articles_count: u64,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Article")]
pub(crate) struct ArticleBody {
    pub(crate) slug: String,
    pub(crate) title: String,
    pub(crate) description: String,
    /// Not in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) body: Option<String>,
    #[schemars(with = "Vec<String>")]
    pub(crate) tag_list: Box<RawValue>,
    #[schemars(extend("format" = "date-time"))]
    pub(crate) created_at: String,
    #[schemars(extend("format" = "date-time"))]
    pub(crate) updated_at: String,
    pub(crate) favorited: bool,
    pub(crate) favorites_count: u64,
    pub(crate) author: ProfileBody,
}

impl ArticleBody {
    pub(crate) fn of(article: Article) -> Result<Self> {
        let tags = RawValue::from_string(article.tags);
        Ok(Self {
            slug: article.slug,
            title: article.title,
            description: article.description,
            body: article.body,
            tag_list: tags.map_err(|_| Error::Stored("list of tags"))?,
            created_at: written(article.created),
            updated_at: written(article.updated),
            favorited: article.favoured,
            favorites_count: article.favourites,
            author: article.author.into(),
        })
    }
}

/// Lists are written from cards; this is what they must say.
#[cfg(test)]
impl ArticlesAnswer {
    pub(crate) fn of(listed: crate::list::Listed) -> Result<Self> {
        let articles = listed.articles.into_iter().map(ArticleBody::of).collect::<Result<_>>()?;
        Ok(Self { articles, articles_count: listed.total })
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ConduitTags")]
pub(super) struct TagsAnswer {
    pub(super) tags: Vec<String>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ConduitNewComment")]
pub(super) struct NewCommentBody {
    pub(super) comment: NewCommentFields,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ConduitNewCommentFields")]
pub(super) struct NewCommentFields {
    body: Option<String>,
}

impl NewCommentFields {
    pub(super) fn body(self) -> String {
        self.body.unwrap_or_default()
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ConduitComment")]
pub(super) struct CommentAnswer {
    pub(super) comment: CommentBody,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ConduitComments")]
pub(super) struct CommentsAnswer {
    pub(super) comments: Vec<CommentBody>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ConduitCommentFields")]
pub(super) struct CommentBody {
    id: i64,
    #[schemars(extend("format" = "date-time"))]
    created_at: String,
    #[schemars(extend("format" = "date-time"))]
    updated_at: String,
    body: String,
    author: ProfileBody,
}

impl From<Comment> for CommentBody {
    fn from(comment: Comment) -> Self {
        let written = written(comment.created);
        Self {
            id: comment.id,
            created_at: written.clone(),
            updated_at: written,
            body: comment.body,
            author: comment.author.into(),
        }
    }
}

/// As programs in browsers write moments: with three digits after the second, always.
pub(crate) fn written(moment: Timestamp) -> String {
    format!("{moment:.3}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_has_three_digits_after_the_second() {
        let cases = [
            ("2026-11-21T18:03:39.123456Z", "2026-11-21T18:03:39.123Z"),
            ("2026-11-21T18:03:39.999999Z", "2026-11-21T18:03:39.999Z"),
            ("2024-02-29T23:59:59.999Z", "2024-02-29T23:59:59.999Z"),
            ("2000-03-01T00:00:00Z", "2000-03-01T00:00:00.000Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.500Z"),
        ];
        for (given, wanted) in cases {
            assert_eq!(written(given.parse().unwrap()), wanted);
        }
    }
}
