//! The one gate before every handler: who is calling, and may they. Nothing of the body is read before.

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::{FromRequestParts, RawPathParams, Request};
use axum::http::request::Parts;
use axum::http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, header, uri,
};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base::access::{Action, Authority, Door, Principal, Refused, Resource, Subject};
use base::{Base, ErrorKind, OrganisationId, Shares, Tally, Tasks, Timestamp};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::around::{Passage, caught};
use crate::extract::{Peer, discard};
use crate::metrics::Counts;
use crate::once::{self, Claims};
use crate::operation::{Access, Operation};
use crate::origins::OpenPaths;
use crate::places::Places;
use crate::problem::{Error, Result, shaped};
use crate::{Config, Query};

pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The name of the cookie that a browser's session is kept in.
pub const SESSION_COOKIE: &str = "madang_session";

/// What edge needs to know about browsers' sessions.
pub trait Sessions: Send + Sync + 'static {
    /// Finds the holder of a session by the text of its cookie.
    fn session<'a>(&'a self, cookie: &'a str) -> BoxFuture<'a, Result<Principal, Refused>>;

    /// When it ends if it is not used any more; nothing where that is not known, and it is asked often.
    fn session_end<'a>(&'a self, _cookie: &'a str) -> BoxFuture<'a, Option<Timestamp>> {
        Box::pin(std::future::ready(None))
    }
}

/// What the gate asks, and with which limits.
#[derive(Clone)]
pub struct Gate {
    pub authority: Arc<dyn Authority>,
    pub sessions: Arc<dyn Sessions>,
    /// Without it, `Idempotency-Key` is refused.
    pub claims: Option<Arc<dyn Claims>>,
    pub config: Config,
    pub base: Base,
    /// Where handlers run, apart from the threads that move bytes: one that does not let go holds up no door.
    pub handlers: Tasks,
}

/// Somebody who came through the gate; a handler that takes it as an argument cannot run without one.
#[derive(Clone)]
pub struct Caller {
    pub principal: Principal,
    pub via: Via,
    authority: Arc<dyn Authority>,
}

/// How a caller showed who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    Key,
    Session,
    /// An app's text for a session of its account.
    Token,
}

impl Caller {
    pub fn organisation(&self) -> OrganisationId {
        self.principal.organisation
    }

    pub fn subject(&self) -> Subject {
        self.principal.subject
    }

    /// A further question, for what an operation's own action and resource do not say.
    pub fn authorize(&self, action: Action, path: &str) -> Result<()> {
        let resource = Resource { organisation: self.organisation(), path };
        let (door, principal) = (Door::Http, &self.principal);
        Ok(self.authority.authorize_at(door, principal, action, resource)?)
    }
}

/// Splits `madang_<id>_<secret>`, the text of a key.
pub fn parse_token(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.strip_prefix("madang_")?.split_once('_')?;
    (!id.is_empty() && !secret.is_empty()).then_some((id, secret))
}

/// What all operations share.
pub(crate) struct Shared {
    pub(crate) authority: Arc<dyn Authority>,
    pub(crate) sessions: Arc<dyn Sessions>,
    pub(crate) claims: Option<Arc<dyn Claims>>,
    pub(crate) config: Config,
    pub(crate) base: Base,
    pub(crate) handlers: Tasks,
    pub(crate) counts: Counts,
    pub(crate) places: Places,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) stream_peers: Arc<Shares>,
    pub(crate) keyed: Arc<Semaphore>,
    /// Keys that each caller used.
    pub(crate) keys: Tally<(OrganisationId, Subject)>,
    /// What `Strict-Transport-Security` says.
    pub(crate) hsts: Option<HeaderValue>,
    pub(crate) open_paths: OpenPaths,
    /// What names the next request that has no name of its own.
    ids: AtomicU64,
}

impl Shared {
    pub(crate) fn new(gate: Gate, open_paths: OpenPaths) -> Self {
        let hsts = gate.config.hsts_max_age.as_secs();
        let hsts = (hsts > 0).then(|| format!("max-age={hsts}"));
        let counts = Counts::new(&gate.base.metrics);
        Self {
            open_paths,
            ids: AtomicU64::new(gate.base.entropy.number()),
            hsts: hsts.and_then(|text| HeaderValue::from_str(&text).ok()),
            places: Places::new(&gate.config, &counts.bodies),
            counts,
            streams: Arc::new(Semaphore::new(gate.config.streams_max)),
            stream_peers: Shares::new(
                gate.config.streams_per_peer_max,
                gate.config.unlimited_peers(),
            ),
            keyed: Arc::new(Semaphore::new(gate.config.keyed_requests_max)),
            keys: Tally::new(gate.config.keyed_requests_window, gate.config.keyed_callers_max),
            authority: gate.authority,
            sessions: gate.sessions,
            claims: gate.claims,
            config: gate.config,
            base: gate.base,
            handlers: gate.handlers,
        }
    }
}

impl Shared {
    /// A number that no other request has: names are for the log, so they need not be secret, and asking the system for chance
    /// each time takes longer than the rest of it. The steps of SplitMix64, which goes through all 2^64 numbers.
    pub(crate) fn request_number(&self) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let number = self.ids.fetch_add(STEP, Ordering::Relaxed);
        let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        number ^ (number >> 31)
    }
}

/// What one operation's gate knows.
pub(crate) struct Entrance {
    pub(crate) operation: Operation,
    /// Its method, its path and its id, for the log.
    pub(crate) title: Arc<str>,
    /// The query parameters that its handler reads; any other is refused.
    pub(crate) query: Vec<String>,
    pub(crate) body_bytes_max: usize,
}

/// What the gate found; a stream asks it again when keys or grants change.
#[derive(Clone)]
pub(crate) struct Admission {
    pub(crate) caller: Option<Caller>,
    pub(crate) action: Option<(Action, String)>,
    pub(crate) shown: Proof,
    /// How long a body may be.
    pub(crate) body_bytes_max: usize,
}

impl Admission {
    pub(crate) fn of(extensions: &Extensions) -> Result<&Self> {
        extensions.get().ok_or_else(|| Error::internal("something was asked of the gate before it"))
    }
}

/// What is looked at again for as long as a stream or a socket is open.
#[derive(Clone)]
pub(crate) enum Proof {
    /// The authority knows whether the caller is still there.
    Known,
    Cookie(String),
    /// A session's id and secret: it ends by time too.
    Token(String, String),
}

impl Proof {
    pub(crate) async fn holds(&self, shared: &Shared) -> bool {
        match self {
            Self::Known => true,
            Self::Cookie(cookie) => shared.sessions.session(cookie).await.is_ok(),
            Self::Token(id, secret) => {
                shared.authority.authenticate(Door::Http, id, secret).await.is_ok()
            }
        }
    }

    /// When to look again although nothing changed. A token is answered from memory, so that it is just asked often; what a
    /// cookie opens is in rows, which know its end.
    pub(crate) async fn next_look(&self, shared: &Shared) -> Option<Timestamp> {
        let soon = || shared.base.clock.now().plus(shared.config.token_check);
        match self {
            Self::Known => None,
            Self::Cookie(cookie) => {
                Some(shared.sessions.session_end(cookie).await.unwrap_or_else(soon))
            }
            Self::Token(..) => Some(soon()),
        }
    }
}

/// What was found out about what somebody showed, for who asks often.
pub(crate) struct Seen {
    shown: Proof,
    /// The epoch of access then, and the moment of the next look in microseconds.
    last: Mutex<(u64, i64)>,
}

impl Seen {
    pub(crate) fn new(shown: Proof) -> Self {
        Self { shown, last: Mutex::new((0, i64::MIN)) }
    }

    /// Whether it still holds; nobody is asked while nothing changed and its time has not come.
    pub(crate) async fn holds(&self, shared: &Shared) -> bool {
        let epoch = *shared.authority.epoch().borrow();
        let last = *self.last.lock();
        if last.0 == epoch && shared.base.clock.now().micros() < last.1 {
            return true;
        }
        if !self.shown.holds(shared).await {
            return false;
        }
        let next = self.shown.next_look(shared).await.map_or(i64::MAX, Timestamp::micros);
        *self.last.lock() = (epoch, next);
        true
    }
}

pub(crate) async fn pass(
    shared: Arc<Shared>,
    entrance: Arc<Entrance>,
    request: Request,
    next: Next,
) -> Response {
    if let Ok(passage) = Passage::of(request.extensions()) {
        passage.trace.matched(&entrance);
    }
    let (mut parts, body) = request.into_parts();
    let admitted = admit(&shared, &entrance, &mut parts).await;
    let admitted = admitted.and_then(|()| once::key(&shared, &entrance.operation, &parts));
    let request = Request::from_parts(parts, body);
    let shape = entrance.operation.shape;
    let response = match admitted {
        Ok(None) => handle(&shared, &entrance, request, next).await,
        Ok(Some(key)) => once::once(shared, entrance, key, request, next).await,
        Err(error) => {
            discard(request).await;
            error.into_response()
        }
    };
    match shape {
        Some(shape) => shaped(shape, response),
        None => response,
    }
}

/// Runs the handler on the threads for handlers. It ends when nobody waits for it any more.
pub(crate) async fn handle(
    shared: &Arc<Shared>,
    entrance: &Entrance,
    request: Request,
    next: Next,
) -> Response {
    let response = run(shared, entrance, request, next).await;
    match entrance.operation.shape {
        Some(shape) => shaped(shape, response),
        None => response,
    }
}

async fn run(shared: &Arc<Shared>, entrance: &Entrance, request: Request, next: Next) -> Response {
    if entrance.operation.is_at_the_door {
        return next.run(request).await;
    }
    let trace = Passage::of(request.extensions()).ok().map(|passage| passage.trace.clone());
    let own = shared.clone();
    let work = async move { caught(&own, next.run(request)).await };
    let spawned = match trace {
        Some(trace) => shared.handlers.spawn("http_handler", trace.follow(work)),
        None => shared.handlers.spawn("http_handler", work),
    };
    let mut handling = Handling(spawned);
    match (&mut handling.0).await {
        Ok(Some(response)) => response,
        Ok(None) => Error::internal("a handler panicked").into_response(),
        Err(_) => Error::new(ErrorKind::Unavailable, "the server is stopping").into_response(),
    }
}

/// A handler that runs.
struct Handling(JoinHandle<Option<Response>>);

impl Drop for Handling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn admit(shared: &Shared, entrance: &Entrance, request: &mut Parts) -> Result<()> {
    let admission = permit(shared, entrance, request).await?;
    request.extensions.insert(admission);
    if !entrance.operation.takes_any_query {
        check_query(&request.uri, &entrance.query)?;
    }
    let announced = request.headers.get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|bytes| bytes > entrance.body_bytes_max) {
        return Err(Error::too_large(entrance.body_bytes_max));
    }
    Ok(())
}

async fn permit(shared: &Shared, entrance: &Entrance, request: &mut Parts) -> Result<Admission> {
    let Entrance { operation, body_bytes_max, .. } = entrance;
    let body_bytes_max = *body_bytes_max;
    let nobody = Admission { caller: None, action: None, shown: Proof::Known, body_bytes_max };
    let action = match operation.access {
        Access::Public => return Ok(nobody),
        Access::LoopbackOr(_) if is_from_this_machine(request) => return Ok(nobody),
        Access::Optional => {
            return Ok(match identify(shared, operation, request).await {
                Ok((caller, shown)) => Admission { caller: Some(caller), shown, ..nobody },
                Err(_) => nobody,
            });
        }
        Access::SignedIn | Access::Session => None,
        Access::Action(action) | Access::LoopbackOr(action) => Some(action),
    };
    let (caller, shown) = identify(shared, operation, request).await?;
    if operation.access == Access::Session && caller.via == Via::Key {
        return Err(Error::new(ErrorKind::Forbidden, "only somebody's session may do this"));
    }
    let Some(action) = action else {
        return Ok(Admission { caller: Some(caller), shown, ..nobody });
    };
    let path = fill(operation.resource, request).await?;
    caller.authorize(action, &path)?;
    Ok(Admission { caller: Some(caller), action: Some((action, path)), shown, body_bytes_max })
}

/// How the text of a key is announced: by RFC 6750, and as clients of some compatible APIs do.
const SCHEMES: [&str; 2] = ["bearer", "token"];

/// A bearer key counts before a cookie: whoever sends one means it.
async fn identify(
    shared: &Shared,
    operation: &Operation,
    request: &Parts,
) -> Result<(Caller, Proof)> {
    let headers = &request.headers;
    let authority = shared.authority.clone();
    if let Some(given) = headers.get(header::AUTHORIZATION) {
        let (id, secret) = given
            .to_str()
            .ok()
            .and_then(|given| given.split_once(' '))
            .filter(|(scheme, _)| SCHEMES.iter().any(|it| scheme.eq_ignore_ascii_case(it)))
            .and_then(|(_, token)| parse_token(token.trim()))
            .ok_or(Refused::Unauthenticated)?;
        let principal = shared.authority.authenticate(Door::Http, id, secret).await?;
        let (via, shown) = match principal.subject {
            Subject::Account(_) => (Via::Token, Proof::Token(id.to_owned(), secret.to_owned())),
            Subject::Key(_) | Subject::System(_) => (Via::Key, Proof::Known),
        };
        return Ok((Caller { principal, via, authority }, shown));
    }
    let cookie = session_cookie(headers).ok_or(Refused::Unauthenticated)?;
    // Whoever a page of another origin acts for, it shows in the request itself.
    let says_whence = headers.contains_key(header::ORIGIN) || headers.contains_key(FETCH_SITE);
    if operation.is_cross_origin && says_whence && !is_same_origin(headers, &request.uri) {
        return Err(Refused::Unauthenticated.into());
    }
    let principal = shared.sessions.session(cookie).await?;
    let is_safe = matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS);
    if !is_safe && !is_same_origin(headers, &request.uri) {
        return Err(Error::new(ErrorKind::Forbidden, "the request came from another origin"));
    }
    let shown = Proof::Cookie(cookie.to_owned());
    Ok((Caller { principal, via: Via::Session, authority }, shown))
}

pub(crate) fn session_cookie(headers: &HeaderMap) -> Option<&str> {
    cookie(headers, SESSION_COOKIE)
}

/// A cookie's text.
pub fn cookie<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|cookies| cookies.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find_map(|(name, value)| (name == wanted).then_some(value))
}

const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A browser says where a request comes from; what does not say so is taken for a stranger.
pub(crate) fn is_same_origin(headers: &HeaderMap, target: &Uri) -> bool {
    let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    if let Some(site) = text(FETCH_SITE) {
        return matches!(site, "same-origin" | "none");
    }
    let origin = text(header::ORIGIN).and_then(|origin| origin.split_once("://"));
    let host = target.authority().map(uri::Authority::as_str).or_else(|| text(header::HOST));
    matches!((origin, host), (Some((_, origin)), Some(host)) if origin.eq_ignore_ascii_case(host))
}

/// The name or the address that a request is for.
pub(crate) fn host_of(headers: &HeaderMap, target: &Uri) -> Option<String> {
    let told = || headers.get(header::HOST)?.to_str().ok()?.parse::<uri::Authority>().ok();
    let authority = target.authority().cloned().or_else(told)?;
    Some(authority.host().to_owned())
}

/// A page of another site can make a browser on this machine ask, by a name that points here or as another origin: so
/// host and origin must be this machine's too.
pub(crate) fn is_from_this_machine(request: &Parts) -> bool {
    let headers = &request.headers;
    let peer = request.extensions.get::<Peer>();
    let host = host_of(headers, &request.uri);
    let origin = headers.get(header::ORIGIN).map(|origin| {
        let origin = origin.to_str().ok().and_then(|origin| origin.parse::<Uri>().ok());
        origin.as_ref().and_then(Uri::host).unwrap_or_default().to_owned()
    });
    host.as_deref().is_some_and(is_loopback)
        && origin.as_deref().is_none_or(is_loopback)
        && peer.is_some_and(|peer| peer.0.to_canonical().is_loopback())
        && !is_of_a_proxy(request)
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// A proxy on this machine asks for others. The most used one, as it comes, shows it by speaking HTTP/1.0 only.
fn is_of_a_proxy(request: &Parts) -> bool {
    let is_told = |name: &HeaderName| {
        matches!(name.as_str(), "forwarded" | "via" | "x-real-ip")
            || name.as_str().starts_with("x-forwarded-")
    };
    request.version < Version::HTTP_11 || request.headers.keys().any(is_told)
}

/// Fills a resource template from the path. A slash or a star inside a parameter stays encoded: it must
/// not reach into another's path, nor look like a pattern.
async fn fill(template: &str, request: &mut Parts) -> Result<String> {
    if !template.contains('{') {
        return Ok(template.to_owned());
    }
    let params = RawPathParams::from_request_parts(request, &()).await;
    let params =
        params.map_err(|_| Error::unreadable("the path is not UTF-8 once it is decoded"))?;
    let mut path = String::with_capacity(template.len() + 16);
    for (index, piece) in template.split(['{', '}']).enumerate() {
        if index % 2 == 0 {
            path.push_str(piece);
            continue;
        }
        let (_, value) = params
            .iter()
            .find(|(name, _)| *name == piece)
            .ok_or_else(|| Error::internal(format!("no path parameter is named {piece}")))?;
        for letter in value.chars() {
            match letter {
                '/' | '*' | '%' => {
                    write!(path, "%{:02X}", u32::from(letter)).expect("writing to a string");
                }
                letter => path.push(letter),
            }
        }
    }
    Ok(path)
}

fn check_query(uri: &Uri, known: &[String]) -> Result<()> {
    if uri.query().is_none_or(str::is_empty) {
        return Ok(());
    }
    let Query(given) = Query::<Vec<(String, String)>>::parse(uri)?;
    let mut error = None;
    for (name, _) in given.iter().filter(|(name, _)| !known.contains(name)) {
        let so_far =
            error.unwrap_or_else(|| Error::unreadable("the query has an unknown parameter"));
        error = Some(so_far.at(name, "is not a parameter of this operation"));
    }
    error.map_or(Ok(()), Err)
}
