use std::collections::{BTreeMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::SchemaGenerator;
use serde_json::Value;

use crate::around::{around, no_such_method, no_such_path};
use crate::document::{Description, Document, Info, schemas};
use crate::extract::{Inputs, discard};
use crate::guard::{Entrance, Gate, Shared, pass};
use crate::operation::{Operation, names};
use crate::origins::{OpenPaths, preflight};
use crate::reply::{Endpoint, Reply};

/// Operations with their handlers. A feature makes one with its state; the server joins them and builds.
///
/// ```
/// use edge::{Json, Operation, Routes, State};
///
/// async fn greeting(State(name): State<&'static str>) -> Json<String> {
///     Json(format!("hello {name}"))
/// }
///
/// let hello = Operation::get("/v1/hello").id("hello").summary("Greets.").public();
/// let routes = Routes::new("yard").add(hello, greeting);
/// assert_eq!(routes.operations().count(), 1);
/// ```
#[must_use]
pub struct Routes<S = ()> {
    state: S,
    entries: Vec<Entry>,
    pages: Option<Pages>,
}

type Pages = Arc<dyn Fn(&Parts) -> Option<Response> + Send + Sync>;

struct Entry {
    operation: Operation,
    describe: Describe,
    router: MethodRouter,
}

type Describe = fn(&mut Description, &mut SchemaGenerator);

/// What axum's functions give as handlers.
type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;

/// A handler with its state, and without its type: axum's services around a handler are compiled for this one, and not anew for each
/// operation, which took `rustc` longer than all else of a room's door.
#[derive(Clone)]
struct Erased(Arc<dyn Fn(Request) -> Answer + Send + Sync>);

impl Handler<(), ()> for Erased {
    type Future = Answer;

    fn call(self, request: Request, (): ()) -> Answer {
        (self.0)(request)
    }
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    pub fn new(state: S) -> Self {
        Self { state, entries: Vec::new(), pages: None }
    }

    /// Panics when the operation has no id or summary, or names a parameter that its path has not:
    /// a defect of the wiring, seen by every test that builds it.
    pub fn add<H, I, O>(mut self, operation: Operation, handler: H) -> Self
    where
        H: Handler<I, S, Future = Answer> + Endpoint<I, O>,
        I: Inputs + 'static,
        O: Reply,
    {
        let path = operation.path();
        assert!(!operation.id().is_empty(), "{path} has no id");
        assert!(!operation.place.summary.is_empty(), "{path} has no summary");
        for name in names(operation.resource) {
            assert!(names(path).any(|it| it == name), "{path} has no parameter {name}");
        }
        let method = MethodFilter::try_from(operation.method().clone())
            .expect("operations are made with methods that can be routed");
        let state = self.state.clone();
        let handler = Erased(Arc::new(move |request| handler.clone().call(request, state.clone())));
        self.entries.push(Entry {
            router: on(method, handler),
            operation,
            describe: |to, schemas| {
                I::describe(to, schemas);
                O::describe(to, schemas);
            },
        });
        self
    }

    /// Adds the operations of another part, whatever its state.
    pub fn join<T>(mut self, other: Routes<T>) -> Self {
        self.entries.extend(other.entries);
        self.pages = self.pages.or(other.pages);
        self
    }

    /// What answers a `GET` that no operation names: the files of the console, public. `None` is a 404.
    pub fn pages(
        mut self,
        pages: impl Fn(&Parts) -> Option<Response> + Send + Sync + 'static,
    ) -> Self {
        self.pages = Some(Arc::new(pages));
        self
    }

    /// Adds `GET /openapi.json`, which describes all operations that are there by now, and itself.
    pub fn describe(self, info: Info) -> Self {
        let operation = Operation::get("/openapi.json")
            .id("openapi")
            .summary("This document.")
            .tag("system")
            .public()
            .at_the_door()
            .returns::<Value>(200);
        // Added twice, so that the document has itself in it.
        let mut routes = self.add(operation.clone(), document_handler(String::new));
        let told: Vec<_> = routes.told().map(|(told, by)| (told.clone(), by)).collect();
        routes.entries.pop();
        let make = move || document(told.iter().map(|(told, by)| (told, *by)), info).to_string();
        routes.add(operation, document_handler(make))
    }

    /// The OpenAPI 3.1 document of all operations.
    pub fn document(&self, info: Info) -> Value {
        document(self.told(), info)
    }

    fn told(&self) -> impl Iterator<Item = (&Operation, Describe)> {
        self.entries.iter().map(|entry| (&entry.operation, entry.describe))
    }

    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.entries.iter().map(|entry| &entry.operation)
    }

    /// Panics when two operations have one id, or one method and path.
    pub fn build(self, gate: Gate) -> Router {
        let (mut open_paths, mut asked) = (OpenPaths::default(), BTreeMap::<_, Vec<_>>::new());
        for operation in self.operations().filter(|operation| operation.is_cross_origin) {
            open_paths.add(operation.path());
            asked.entry(operation.path()).or_default().push(operation.method().clone());
        }
        let shared = Arc::new(Shared::new(gate, open_paths));
        let mut ids = HashSet::new();
        let mut router = Router::new();
        for (path, methods) in asked {
            router = router.route(path, preflights(methods));
        }
        for Entry { operation, describe, router: handler } in self.entries {
            assert!(ids.insert(operation.id()), "two operations have the id {}", operation.id());
            let mut said = Description::default();
            describe(&mut said, &mut schemas());
            let title = format!("{} {} ({})", operation.method(), operation.path(), operation.id());
            let entrance = Arc::new(Entrance {
                title: title.into(),
                query: said.query.into_iter().map(|parameter| parameter.name).collect(),
                body_bytes_max: operation.body_bytes_max.unwrap_or(shared.config.body_bytes_max),
                operation,
            });
            let path = entrance.operation.path();
            let shared = shared.clone();
            let gated = handler.route_layer(from_fn(move |request: Request, next: Next| {
                pass(shared.clone(), entrance.clone(), request, next)
            }));
            router = router.route(path, gated);
        }
        let pages = self.pages;
        router
            .method_not_allowed_fallback(no_such_method)
            .fallback(move |request: Request| unmatched(pages.clone(), request))
            .layer(from_fn_with_state(shared, around))
    }
}

/// Answers a browser that asks what a page of another origin may send to one path.
fn preflights(methods: Vec<Method>) -> MethodRouter {
    on(MethodFilter::OPTIONS, move |headers: HeaderMap| {
        futures::future::ready(preflight(&methods, &headers))
    })
}

fn document<'o>(told: impl Iterator<Item = (&'o Operation, Describe)>, info: Info) -> Value {
    let mut document = Document::new();
    for (operation, describe) in told {
        document.add(operation, describe);
    }
    document.finish(info)
}

/// The document is made when somebody asks for it first: a start has other things to do.
fn document_handler(
    make: impl FnOnce() -> String + Send + 'static,
) -> impl Fn() -> futures::future::Ready<Response> + Clone + Send + Sync + 'static {
    let text = Arc::new(LazyLock::new(make));
    move || {
        let headers = [(header::CONTENT_TYPE, "application/json")];
        let text: &String = &text;
        futures::future::ready((headers, text.clone()).into_response())
    }
}

async fn unmatched(pages: Option<Pages>, request: Request) -> Response {
    let is_read = matches!(*request.method(), axum::http::Method::GET | axum::http::Method::HEAD);
    let (parts, body) = request.into_parts();
    let page = pages.filter(|_| is_read).and_then(|pages| pages(&parts));
    if let Some(page) = page {
        return page;
    }
    discard(Request::from_parts(parts, body)).await;
    no_such_path().into_response()
}
