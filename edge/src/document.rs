//! The OpenAPI 3.1 document, made from what operations and handlers say of themselves.

use std::collections::BTreeMap;

use base::ErrorKind;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::extract::FORM;
use crate::guard::SESSION_COOKIE;
use crate::once;
use crate::operation::{Access, Operation, names};
use crate::problem::{MEDIA as PROBLEM, Problem, status_of};

const HTML: &str = "text/html";

/// What the document says about the whole.
#[derive(Debug, Clone, Copy)]
pub struct Info {
    pub title: &'static str,
    pub version: &'static str,
    pub description: &'static str,
}

/// What the arguments and the reply of one handler say of themselves.
#[derive(Default)]
pub struct Description {
    pub(crate) path: Option<Schema>,
    pub(crate) body: Option<Schema>,
    /// The body is a form rather than JSON.
    pub(crate) is_form: bool,
    pub(crate) query: Vec<Parameter>,
    headers: Vec<Parameter>,
    answers: BTreeMap<u16, Vec<(&'static str, Option<Schema>)>>,
}

pub(crate) struct Parameter {
    pub(crate) name: String,
    is_required: bool,
    schema: Value,
}

impl Description {
    /// The properties of a struct become parameters of the query.
    pub fn query_of(&mut self, schema: &Schema) {
        let required = schema.get("required").and_then(Value::as_array);
        for (name, property) in properties(schema) {
            let is_required = required.is_some_and(|names| names.iter().any(|it| it == name));
            self.query.push(Parameter {
                name: name.clone(),
                is_required,
                schema: property.clone(),
            });
        }
    }

    pub fn header(&mut self, name: &str, schema: Schema) {
        let schema = schema.to_value();
        self.headers.push(Parameter { name: name.to_owned(), is_required: false, schema });
    }

    pub fn answers(&mut self, status: u16, media_type: &'static str, schema: Option<Schema>) {
        self.answers.entry(status).or_default().push((media_type, schema));
    }

    pub fn answers_nothing(&mut self, status: u16) {
        self.answers.entry(status).or_default();
    }
}

/// Collects operations and the schemas that they share.
pub(crate) struct Document {
    schemas: SchemaGenerator,
    paths: Map<String, Value>,
}

pub(crate) fn schemas() -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    settings.into_generator()
}

impl Document {
    pub(crate) fn new() -> Self {
        let mut schemas = schemas();
        schemas.subschema_for::<Problem>();
        Self { schemas, paths: Map::new() }
    }

    pub(crate) fn add(
        &mut self,
        operation: &Operation,
        describe: fn(&mut Description, &mut SchemaGenerator),
    ) {
        let mut said = Description::default();
        describe(&mut said, &mut self.schemas);
        for (status, schema) in &operation.returns {
            said.answers(*status, "application/json", Some(schema(&mut self.schemas)));
        }
        for media_type in &operation.media {
            said.answers(200, media_type, None);
        }
        let item = self.paths.entry(operation.path()).or_insert_with(|| json!({}));
        item[operation.method().as_str().to_ascii_lowercase()] = written(operation, &said);
    }

    pub(crate) fn finish(mut self, info: Info) -> Value {
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": info.title,
                "version": info.version,
                "description": info.description,
            },
            "servers": [{ "url": "/" }],
            "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
            "paths": self.paths,
            "components": {
                "schemas": self.schemas.take_definitions(true),
                "responses": {
                    "Problem": {
                        "description": "Why the request was refused (RFC 9457).",
                        "content": { PROBLEM: {
                            "schema": { "$ref": "#/components/schemas/Problem" },
                        } },
                    },
                },
                "securitySchemes": {
                    "bearer": { "type": "http", "scheme": "bearer", "bearerFormat": "madang_<id>_<secret>" },
                    "access": { "type": "http", "scheme": "bearer", "bearerFormat": "madang_<session>_<secret>", "description": "An app's text for a session of an account, from /v1/tokens; it opens what keys open too." },
                    "session": { "type": "apiKey", "in": "cookie", "name": SESSION_COOKIE },
                },
            },
        })
    }
}

fn written(operation: &Operation, said: &Description) -> Value {
    let mut written = json!({
        "operationId": operation.id(),
        "summary": operation.place.summary,
    });
    if !operation.place.tag.is_empty() {
        written["tags"] = json!([operation.place.tag]);
    }
    let parameters = parameters(operation, said);
    if !parameters.is_empty() {
        written["parameters"] = parameters.into();
    }
    if let Some(body) = &said.body {
        let kind = if said.is_form { FORM } else { "application/json" };
        written["requestBody"] = json!({
            "required": true,
            "content": { kind: { "schema": body } },
        });
    }
    if operation.is_cross_origin {
        written["x-cross-origin"] = true.into();
    }
    written["responses"] = responses(operation, said);
    written["security"] = match operation.access {
        Access::Public => json!([]),
        Access::Optional => json!([{}, { "bearer": [] }, { "session": [] }]),
        Access::Session => json!([{ "session": [] }, { "access": [] }]),
        Access::SignedIn => json!([{ "bearer": [] }, { "session": [] }]),
        Access::Action(action) => {
            written["x-action"] = action.0.into();
            json!([{ "bearer": [] }, { "session": [] }])
        }
        Access::LoopbackOr(action) => {
            written["x-action"] = action.0.into();
            json!([{}, { "bearer": [] }, { "session": [] }])
        }
    };
    written
}

fn parameters(operation: &Operation, said: &Description) -> Vec<Value> {
    let text = json!({ "type": "string" });
    let in_path = names(operation.path()).map(|name| {
        let schema = said.path.as_ref().map_or(&text, |schema| {
            let property = properties(schema).find(|(property, _)| *property == name);
            match property {
                Some((_, property)) => property,
                None if properties(schema).next().is_none() => schema.as_value(),
                None => &text,
            }
        });
        json!({ "name": name, "in": "path", "required": true, "schema": schema })
    });
    let others = |place: &'static str, parameters: &[Parameter]| {
        parameters
            .iter()
            .map(|it| {
                let (name, required, schema) = (&it.name, it.is_required, &it.schema);
                json!({ "name": name, "in": place, "required": required, "schema": schema })
            })
            .collect::<Vec<_>>()
    };
    let key = once::is_taken(operation).then(|| {
        json!({
            "name": once::NAME,
            "in": "header",
            "required": false,
            "description": "Sent again under the same key, the request is answered as the first time and does nothing.",
            "schema": { "type": "string", "minLength": 1, "maxLength": once::KEY_BYTES_MAX },
        })
    });
    let given = in_path.chain(others("query", &said.query)).chain(others("header", &said.headers));
    given.chain(key).collect()
}

fn responses(operation: &Operation, said: &Description) -> Value {
    let mut responses = Map::new();
    for (status, contents) in &said.answers {
        let mut content = Map::new();
        for (media_type, schema) in contents {
            let schema = schema.as_ref().map_or_else(|| json!({}), |it| json!({ "schema": it }));
            content.insert((*media_type).to_owned(), schema);
        }
        let mut response = json!({ "description": words(*status) });
        if !content.is_empty() {
            response["content"] = content.into();
        }
        responses.insert(status.to_string(), response);
    }
    let is_page = operation.media.contains(&HTML);
    let refusal = |status: Option<u16>| {
        if operation.shape.is_none() && !is_page {
            return json!({ "$ref": "#/components/responses/Problem" });
        }
        let mut content = match operation.shape {
            None => json!({ PROBLEM: { "schema": { "$ref": "#/components/schemas/Problem" } } }),
            Some(_) => json!({ operation.shape_media: {} }),
        };
        // A page says in a page why not, where it was asked for as one.
        if is_page {
            content[HTML] = json!({});
        }
        json!({ "description": status.map_or("Answer", words), "content": content })
    };
    for status in refusals(operation, said) {
        responses.insert(status.to_string(), refusal(Some(status)));
    }
    responses.insert("default".into(), refusal(None));
    responses.into()
}

/// The refusals that follow from what an operation is and takes.
fn refusals(operation: &Operation, said: &Description) -> Vec<u16> {
    let mut statuses = vec![400, 413, 500, 503];
    if !matches!(operation.access, Access::Public | Access::Optional) {
        statuses.extend([401, 403, 429]);
    }
    if said.body.is_some() {
        statuses.extend([408, 415]);
    }
    if said.body.is_some() || !said.query.is_empty() {
        statuses.push(422);
    }
    if once::is_taken(operation) {
        statuses.extend([409, 422]);
    }
    statuses.extend(operation.kinds.iter().map(|kind| status_of(*kind).as_u16()));
    if !names(operation.path()).collect::<Vec<_>>().is_empty() {
        statuses.push(status_of(ErrorKind::NotFound).as_u16());
    }
    statuses.sort_unstable();
    statuses.dedup();
    statuses
}

fn words(status: u16) -> &'static str {
    axum::http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or("Answer")
}

fn properties(schema: &Schema) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flatten()
}
