use axum::http::Method;
use axum::response::Response;
use base::ErrorKind;
use base::access::Action;
use schemars::{JsonSchema, Schema, SchemaGenerator};

use crate::problem::Refusal;

/// One thing that the API does, as data: where it is, who may, and what else it can say. What it takes
/// and gives is read from its handler's signature, so the two cannot differ.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each says one thing, whatever the others say")]
pub struct Operation {
    pub(crate) place: Undeclared,
    pub(crate) access: Access,
    pub(crate) resource: &'static str,
    pub(crate) kinds: &'static [ErrorKind],
    pub(crate) body_bytes_max: Option<usize>,
    pub(crate) is_secret: bool,
    pub(crate) is_at_the_door: bool,
    pub(crate) is_cross_origin: bool,
    pub(crate) takes_any_query: bool,
    pub(crate) media: Vec<&'static str>,
    pub(crate) returns: Vec<(u16, SchemaOf)>,
    pub(crate) shape: Option<Shape>,
    /// Of refusals in the words of another's API.
    pub(crate) shape_media: &'static str,
}

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// Writes a refusal as a compatible API does.
pub(crate) type Shape = fn(&Refusal) -> Response;

/// An operation that has not said who may call it; it cannot be added to [`crate::Routes`].
#[derive(Clone)]
#[must_use]
pub struct Undeclared {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) tag: &'static str,
}

/// Who may call an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody; credentials are not looked at.
    Public,
    /// Anybody; valid credentials make a [`crate::Caller`], others are not looked at.
    Optional,
    /// Anybody with valid credentials, for things of their own.
    SignedIn,
    /// A person in a browser or an app; keys are refused.
    Session,
    /// Whoever was granted the action on the operation's resource.
    Action(Action),
    /// The same, and anybody on this machine that does not come through a proxy.
    LoopbackOr(Action),
}

impl Operation {
    /// `/v1/devices/{name}`: the path as OpenAPI writes it.
    pub fn get(path: &'static str) -> Undeclared {
        Undeclared::new(Method::GET, path)
    }

    pub fn post(path: &'static str) -> Undeclared {
        Undeclared::new(Method::POST, path)
    }

    pub fn put(path: &'static str) -> Undeclared {
        Undeclared::new(Method::PUT, path)
    }

    pub fn patch(path: &'static str) -> Undeclared {
        Undeclared::new(Method::PATCH, path)
    }

    pub fn delete(path: &'static str) -> Undeclared {
        Undeclared::new(Method::DELETE, path)
    }

    /// What the action is done to: a template such as `device/{name}` over the path's parameters. `*` without.
    #[must_use]
    pub fn resource(mut self, template: &'static str) -> Self {
        self.resource = template;
        self
    }

    /// Refusals of its own, for the document, beside those that follow from its access and inputs.
    #[must_use]
    pub fn kinds(mut self, kinds: &'static [ErrorKind]) -> Self {
        self.kinds = kinds;
        self
    }

    /// A limit of its own for the body.
    #[must_use]
    pub fn body_bytes_max(mut self, bytes: usize) -> Self {
        self.body_bytes_max = Some(bytes);
        self
    }

    /// Its body or answer holds a secret, so nothing of either is kept: `Idempotency-Key` is refused.
    #[must_use]
    pub fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }

    /// Answered on the threads of the door itself: it is short, and answers also when every thread for handlers is
    /// kept by one that does not let go.
    #[must_use]
    pub fn at_the_door(mut self) -> Self {
        self.is_at_the_door = true;
        self
    }

    /// Scripts of pages of every origin may call it and read its answers, without the cookies of this one: whom they act
    /// for stands in the request. Which origins are welcome is the handler's to say.
    #[must_use]
    pub fn cross_origin(mut self) -> Self {
        self.is_cross_origin = true;
        self
    }

    /// Passes over parameters of the query that it does not know, where another's protocol wants that.
    #[must_use]
    pub fn any_query(mut self) -> Self {
        self.takes_any_query = true;
        self
    }

    /// A JSON answer, where the handler gives a plain response.
    #[must_use]
    pub fn returns<T: JsonSchema>(mut self, status: u16) -> Self {
        self.returns.push((status, |schemas| schemas.subschema_for::<T>()));
        self
    }

    /// Another form that the successful answer can have, chosen by `Accept` or alone.
    #[must_use]
    pub fn media(mut self, media_type: &'static str) -> Self {
        self.media.push(media_type);
        self
    }

    /// Refuses in the words of the API that it is compatible with, in place of problems (RFC 9457).
    #[must_use]
    pub fn refusals(mut self, shape: fn(&Refusal) -> Response) -> Self {
        self.shape = Some(shape);
        self
    }

    /// The media type of refusals in the words of another's API, where it is not `application/json`.
    #[must_use]
    pub fn refusals_media(mut self, media_type: &'static str) -> Self {
        self.shape_media = media_type;
        self
    }

    pub fn id(&self) -> &'static str {
        self.place.id
    }

    pub fn method(&self) -> &Method {
        &self.place.method
    }

    pub fn path(&self) -> &'static str {
        self.place.path
    }

    pub fn access(&self) -> Access {
        self.access
    }
}

impl Undeclared {
    fn new(method: Method, path: &'static str) -> Self {
        Self { method, path, id: "", summary: "", tag: "" }
    }

    /// Its name in the document, in metrics and in generated clients: `listDevices`. Required.
    pub fn id(mut self, id: &'static str) -> Self {
        self.id = id;
        self
    }

    /// One line for people. Required.
    pub fn summary(mut self, summary: &'static str) -> Self {
        self.summary = summary;
        self
    }

    /// The group that it is shown in.
    pub fn tag(mut self, tag: &'static str) -> Self {
        self.tag = tag;
        self
    }

    /// Whoever was granted this action.
    #[must_use]
    pub fn action(self, action: Action) -> Operation {
        self.access(Access::Action(action))
    }

    #[must_use]
    pub fn public(self) -> Operation {
        self.access(Access::Public)
    }

    #[must_use]
    pub fn session_or_public(self) -> Operation {
        self.access(Access::Optional)
    }

    #[must_use]
    pub fn signed_in(self) -> Operation {
        self.access(Access::SignedIn)
    }

    #[must_use]
    pub fn session(self) -> Operation {
        self.access(Access::Session)
    }

    #[must_use]
    pub fn loopback_or(self, action: Action) -> Operation {
        self.access(Access::LoopbackOr(action))
    }

    #[must_use]
    pub fn access(self, access: Access) -> Operation {
        Operation {
            place: self,
            access,
            resource: "*",
            kinds: &[],
            body_bytes_max: None,
            is_secret: false,
            is_at_the_door: false,
            is_cross_origin: false,
            takes_any_query: false,
            media: Vec::new(),
            returns: Vec::new(),
            shape: None,
            shape_media: "application/json",
        }
    }
}

/// The names in `{}` of a path or a template, in order.
pub(crate) fn names(template: &str) -> impl Iterator<Item = &str> {
    template.split('{').skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name))
}
