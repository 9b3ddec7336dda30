use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::http::{Http, Reply};
use crate::proofs::{Ground, Report};
use crate::stack::{Launch, Stack};

/// No key, wrong key, other organisation, malformed, 10 MB body, unknown field: for every operation of the `OpenAPI`
/// document; an operation without a row fails.
pub fn strangers(ground: &Ground) -> Result<Report> {
    let mut report = Report::default();
    let folder = tempfile::tempdir()?;
    let stack = Launch::new(&ground.binary, folder.path()).start()?;
    let document = stack.stranger().get("/openapi.json")?.ok()?;
    let operations = operations(&document)?;
    let fixtures = Fixtures::make(&stack)?;
    let before = Fixtures::seen(&stack)?;
    let other = other_organisation(&stack)?;

    let mut rows = 0;
    let mut faults = vec![];
    for operation in &operations {
        let checks = operation.checks(&stack, &fixtures, &other)?;
        if checks.is_empty() {
            faults.push(format!("{} has no row", operation.name()));
        }
        for (what, fault) in checks {
            rows += 1;
            if let Some(fault) = fault {
                faults.push(format!("{} with {what}: {fault}", operation.name()));
            }
        }
    }
    let after = Fixtures::seen(&stack)?;
    if before != after {
        faults.push(format!("the first organisation's things changed: {before} became {after}"));
    }
    let alive = stack.api().get("/readyz")?.status == 200;
    report.bound(
        faults.is_empty() && alive,
        format!(
            "{} operations, {rows} rows, {} let in or answered wrongly",
            operations.len(),
            faults.len()
        ),
    );
    report.short.extend(faults);
    report.bound(operations.len() > 20, format!("{} operations in the document", operations.len()));
    Ok(report)
}

/// Things of the first organisation that a stranger may look for.
struct Fixtures(BTreeMap<&'static str, String>);

impl Fixtures {
    fn make(stack: &Stack) -> Result<Self> {
        let api = stack.api();
        let sensor = json!({"name": "secret-sensor", "values": [{"name": "temp", "unit": "°C", "label": "hidden value"}]});
        api.post("/v1/sensors", &sensor)?.ok()?;
        let device = json!({"name": "secret-device", "label": "hidden place", "latitude": 37.5, "longitude": 127.0, "sensors": ["secret-sensor"]});
        api.post("/v1/devices", &device)?.ok()?;
        let rule = json!({
            "name": "hidden rule", "sensor": "secret-sensor", "enabled": true,
            "conditions": [{"value": "temp", "ranges": [{"min": 90.0, "max": null}]}],
            "window": null, "cooldown_seconds": 60,
            "actions": [{"type": "email", "to": "ops@example.com"}],
        });
        let rule = api.post("/v1/rules", &rule)?.ok()?;
        let key =
            json!({"label": "hidden key", "grants": [{"action": "devices.*", "resource": "*"}]});
        let key = api.post("/v1/keys", &key)?.ok()?;
        let job =
            json!({"kind": "mail.send", "payload": "hidden", "run_at": "2100-01-01T00:00:00Z"});
        let job = api.post("/v1/jobs", &job)?.ok()?;
        let schedule = json!({"name": "secret-schedule", "kind": "mail.send", "cron": "0 0 1 1 *", "zone": "UTC"});
        api.post("/v1/job-schedules", &schedule)?.ok()?;
        let site = json!({"name": "hidden site", "origins": ["https://hidden.example"]});
        let site = api.post("/v1/comment-sites", &site)?.ok()?;
        let tool = json!({"name": "hidden tool", "redirect_uris": ["https://hidden.example/"]});
        let tool = api.post("/v1/oidc/tools", &tool)?.ok()?;
        let invited = json!({"email": "hidden@example.com", "role": "member"});
        let invited = api.post("/v1/invitations", &invited)?.ok()?;
        let id = |value: &Value| value["id"].as_str().map(str::to_owned).context("id");
        Ok(Self(BTreeMap::from([
            ("sensors", "secret-sensor".to_owned()),
            ("devices", "secret-device".to_owned()),
            ("rules", id(&rule)?),
            ("keys", id(&key)?),
            ("comment-sites", id(&site)?),
            ("jobs", id(&job)?),
            ("job-schedules", "secret-schedule".to_owned()),
            ("invitations", id(&invited["invitation"])?),
            ("tools", id(&tool["tool"])?),
        ])))
    }

    /// What the owner sees of them; must not change.
    fn seen(stack: &Stack) -> Result<Value> {
        let api = stack.api();
        let mut all = Map::new();
        for list in [
            "sensors",
            "devices",
            "rules",
            "job-schedules",
            "invitations",
            "comment-sites",
            "oidc/tools",
        ] {
            let mut items = api.all(&format!("/v1/{list}"))?;
            // The clock moves the server's own.
            items.retain(|item| item["built_in"] != true);
            all.insert(list.to_owned(), json!(items));
        }
        all.insert("jobs".to_owned(), api.get("/v1/jobs?state=scheduled")?.ok()?);
        let keys = api.all("/v1/keys")?;
        all.insert("keys".to_owned(), json!(keys.iter().map(|key| &key["id"]).collect::<Vec<_>>()));
        Ok(Value::Object(all))
    }

    /// The path with names that nobody has.
    fn nobodys(template: &str) -> String {
        Self(BTreeMap::from([
            ("sensors", "nobodys-sensor".to_owned()),
            ("devices", "nobodys-device".to_owned()),
        ]))
        .path(template)
    }

    /// The path with the first organisation's names in it.
    fn path(&self, template: &str) -> String {
        let mut list = "";
        let parts = template.split('/').map(|part| {
            let filled = if part.starts_with('{') {
                self.0.get(list).map_or("0192d4e0-7c1b-7cc3-8f7e-1a2b3c4d5e6f", String::as_str)
            } else {
                part
            };
            list = part;
            filled
        });
        parts.collect::<Vec<_>>().join("/")
    }
}

/// Somebody with every right in an organisation of their own, by key and in a browser.
struct Other {
    key: Http,
    browser: Http,
}

fn other_organisation(stack: &Stack) -> Result<Other> {
    let account = json!({"email": "other@example.com", "password": "a long password of somebody else", "organisation": "Other"});
    stack.stranger().post("/v1/accounts", &account)?.ok().context("sign up")?;
    let session =
        json!({"email": "other@example.com", "password": "a long password of somebody else"});
    let signed_in = stack.stranger().post("/v1/session", &session)?;
    signed_in.ok().context("sign in")?;
    let cookie =
        signed_in.headers.iter().find(|(name, _)| name == "set-cookie").context("no cookie")?;
    let cookie = cookie.1.split(';').next().context("no cookie")?.to_owned();
    let browser =
        stack.stranger().header("cookie", &cookie).header("sec-fetch-site", "same-origin");
    let key = json!({"label": "other", "grants": [{"action": "*", "resource": "*"}]});
    let key = browser.post("/v1/keys", &key)?.ok().context("make a key")?;
    let key = stack.stranger().bearer(key["token"].as_str().context("no token")?);
    Ok(Other { key, browser })
}

struct Operation {
    method: String,
    path: String,
    is_public: bool,
    /// A browser's session opens it, and no key.
    needs_session: bool,
    /// The JSON Schema of its body, references resolved at the top.
    body: Option<Value>,
    /// Its body is a form.
    takes_form: bool,
}

/// What a form of a page says that it is.
const FORM: &str = "application/x-www-form-urlencoded";

fn operations(document: &Value) -> Result<Vec<Operation>> {
    let mut operations = vec![];
    for (path, item) in document["paths"].as_object().context("no paths")? {
        for method in ["get", "post", "put", "patch", "delete"] {
            let Some(operation) = item.get(method) else { continue };
            let security = operation.get("security").or_else(|| document.get("security"));
            // `{}` among the requirements says that none is needed (OpenAPI 3.1, Security Requirement Object).
            let is_public = security.and_then(Value::as_array).is_none_or(|all| {
                all.is_empty() || all.iter().any(|one| one.as_object().is_some_and(Map::is_empty))
            });
            let needs_session = security
                .and_then(Value::as_array)
                .is_some_and(|all| all.iter().all(|one| one.get("bearer").is_none()));
            let content = &operation["requestBody"]["content"];
            let schema = &content["application/json"]["schema"];
            let body = (!schema.is_null()).then(|| resolve(document, schema)).transpose()?;
            operations.push(Operation {
                method: method.to_uppercase(),
                path: path.clone(),
                is_public,
                needs_session: needs_session && !is_public,
                body,
                takes_form: content.get(FORM).is_some(),
            });
        }
    }
    Ok(operations)
}

fn resolve(document: &Value, schema: &Value) -> Result<Value> {
    match schema["$ref"].as_str() {
        Some(reference) => {
            let found = document.pointer(reference.trim_start_matches('#'));
            Ok(found.with_context(|| format!("{reference} is not there"))?.clone())
        }
        None => Ok(schema.clone()),
    }
}

type Checks = Vec<(&'static str, Option<String>)>;

impl Operation {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn checks(&self, stack: &Stack, fixtures: &Fixtures, other: &Other) -> Result<Checks> {
        let path = fixtures.path(&self.path);
        let mut checks: Checks = vec![];
        let plain = self.body.as_ref().map(|_| ("application/json", b"{}".as_slice()));
        let wrong =
            "madang_0192d4e07c1b7cc38f7e1a2b3c4d5e6f_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        let strangers = [
            ("no key", stack.stranger()),
            ("wrong key", stack.stranger().bearer(wrong)),
            ("not even a key", stack.stranger().bearer("let me in")),
            (
                "wrong session",
                stack
                    .stranger()
                    .header("cookie", "madang_session=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
                    .header("sec-fetch-site", "same-origin"),
            ),
        ];
        for (what, stranger) in strangers {
            if self.is_public {
                // A public operation has no secret to keep; it must only not fall over. A public stream is of something, and
                // refuses without its name.
                if what == "no key" {
                    let reply = stranger.send(&self.method, &path, plain)?;
                    checks.push((what, refuse_server_error(&reply)));
                }
                continue;
            }
            let reply = stranger.send(&self.method, &path, plain)?;
            checks.push((what, self.expect(&reply, &[401])));
        }
        if self.needs_session {
            let reply = stack.api().send(&self.method, &path, plain)?;
            checks.push(("a key where a session is needed", self.expect(&reply, &[403])));
        }
        checks.extend(self.check_other(&path, other)?);
        if self.takes_form {
            checks.extend(self.check_forms(&stack.stranger(), &path)?);
        }
        if let Some(schema) = &self.body {
            let caller = if self.needs_session { other.browser.clone() } else { stack.api() };
            checks.extend(self.check_bodies(&caller, &path, schema)?);
        }
        Ok(checks)
    }

    /// Refused as this operation refuses: by a problem, or in the words of the API that it is compatible with.
    fn expect(&self, reply: &Reply, statuses: &[u16]) -> Option<String> {
        if self.path.starts_with("/conduit/") {
            return expect_conduit(reply, statuses);
        }
        if self.path.starts_with("/scim/") {
            return expect_scim(reply, statuses);
        }
        expect_problem(reply, statuses)
    }

    /// Refused as a whole, or, where a request holds many things, each of them with a reason.
    fn expect_refusal(&self, reply: &Reply) -> Option<String> {
        if reply.status == 202 {
            let body = reply.json().unwrap_or_default();
            let is_refused = body["accepted"] == 0
                && body["refused"].as_array().is_some_and(|all| !all.is_empty());
            return (!is_refused).then(|| format!("accepted: {body}"));
        }
        self.expect(reply, &[400, 422])
    }

    fn is_stream(&self) -> bool {
        self.path.ends_with("/events")
    }

    /// With every right in another organisation, the first one's things are not there: the answer is the one about a
    /// thing that nobody has.
    fn check_other(&self, path: &str, other: &Other) -> Result<Checks> {
        if self.is_public || self.needs_session || self.is_stream() {
            return Ok(vec![]);
        }
        // A right body, so that it is the name that is refused.
        let body = self.body.as_ref().map(|schema| sample(schema).to_string());
        let body = body.as_ref().map(|text| ("application/json", text.as_bytes()));
        let reply = other.key.send(&self.method, path, body)?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        let fault = if text.contains("hidden") {
            Some(format!("shows what is not theirs: {text}"))
        } else if self.path.contains('{') {
            let nobodys = Fixtures::nobodys(&self.path);
            let about_nothing = other.key.send(&self.method, &nobodys, body)?;
            (about_nothing.status != reply.status).then(|| {
                format!(
                    "status {}, and {} about what nobody has",
                    reply.status, about_nothing.status
                )
            })
        } else if self.path == "/scim/v2/.search" {
            // What of a protocol is not there, is there for nobody (RFC 7644, section 3.12).
            self.expect(&reply, &[501])
        } else {
            refuse_server_error(&reply)
        };
        Ok(vec![("another organisation's key", fault)])
    }

    /// Forms of other protocols are refused in their words, so only the status is looked at.
    fn check_forms(&self, api: &Http, path: &str) -> Result<Checks> {
        let mut checks: Checks = vec![];
        let twice = b"client_id=a&client_id=b&token=&request=".as_slice();
        for (what, kind, body) in [
            ("another content type", "application/json", b"{}".as_slice()),
            ("a field twice", FORM, twice),
        ] {
            let reply = api.send(&self.method, path, Some((kind, body)))?;
            let is_refused = (400..500).contains(&reply.status);
            checks.push((what, (!is_refused).then(|| format!("status {}", reply.status))));
        }
        let reply = api.send(&self.method, path, Some((FORM, b"%ff=%fe&\xff")))?;
        checks.push(("a form that is not UTF-8", refuse_server_error(&reply)));
        let huge = format!("token={}", "x".repeat(10_000_000));
        // The server may close before it read everything: then the client sees a broken pipe, not the answer.
        let fault = match api.send(&self.method, path, Some((FORM, huge.as_bytes()))) {
            Ok(reply) => (reply.status != 413).then(|| format!("status {}", reply.status)),
            Err(_) => None,
        };
        checks.push(("a 10 MB body", fault));
        Ok(checks)
    }

    fn check_bodies(&self, api: &Http, path: &str, schema: &Value) -> Result<Checks> {
        let mut checks: Checks = vec![];
        let malformed: [(&str, &[u8]); 4] = [
            ("a malformed body", b"{\"name\": "),
            ("a body that is not UTF-8", b"{\"name\": \"\xff\xfe\"}"),
            ("a body of another shape", b"[[[1]]]"),
            ("an empty body", b""),
        ];
        for (what, body) in malformed {
            let reply = api.send(&self.method, path, Some(("application/json", body)))?;
            checks.push((what, self.expect_refusal(&reply)));
        }
        let reply = api.send(&self.method, path, Some(("text/plain", b"name=1")))?;
        checks.push(("another content type", self.expect(&reply, &[415])));

        let mut surprising = sample(schema);
        match &mut surprising {
            Value::Object(fields) => {
                fields.insert("surprise".to_owned(), json!(1));
            }
            Value::Array(items) => items.push(json!({"surprise": 1})),
            _ => bail!("{}: a body that is no object", self.name()),
        }
        let reply = api.send(
            &self.method,
            path,
            Some(("application/json", surprising.to_string().as_bytes())),
        )?;
        checks.push(("an unknown field", self.expect_refusal(&reply)));

        let huge = format!("{{\"name\": \"{}\"}}", "x".repeat(10_000_000));
        // The server may close before it read everything: then the client sees a broken pipe, not the answer.
        let fault = match api.send(&self.method, path, Some(("application/json", huge.as_bytes())))
        {
            Ok(reply) => self.expect(&reply, &[413]),
            Err(_) => None,
        };
        checks.push(("a 10 MB body", fault));
        Ok(checks)
    }
}

/// The smallest value that fits a schema well enough to be told apart from a malformed one.
fn sample(schema: &Value) -> Value {
    if let Some(first) =
        schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(|all| all.get(0))
    {
        return sample(first);
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.first().cloned().unwrap_or_default(),
        kind => kind.clone(),
    };
    match kind.as_str() {
        Some("object") => {
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let fields = required
                .iter()
                .filter_map(Value::as_str)
                .map(|name| (name.to_owned(), sample(&schema["properties"][name])));
            Value::Object(fields.collect())
        }
        Some("array") => json!([]),
        Some("string") => json!("x"),
        Some("number" | "integer") => json!(1),
        Some("boolean") => json!(true),
        _ => Value::Object(Map::new()),
    }
}

fn expect_problem(reply: &Reply, statuses: &[u16]) -> Option<String> {
    let check = || -> Result<()> {
        ensure!(statuses.contains(&reply.status), "status {}, not {statuses:?}", reply.status);
        ensure!(
            reply.content_type.starts_with("application/problem+json"),
            "content type {}",
            reply.content_type
        );
        let problem = reply.json()?;
        ensure!(problem["status"] == reply.status, "the problem says status {}", problem["status"]);
        ensure!(problem["title"].is_string(), "the problem has no title");
        let text = problem.to_string();
        ensure!(!text.contains("hidden"), "the problem tells what exists: {text}");
        Ok(())
    };
    check().err().map(|error| {
        format!("{error:#}: {}", String::from_utf8_lossy(&reply.body[..reply.body.len().min(300)]))
    })
}

/// `{"errors": {"title": ["can't be blank"]}}`.
fn expect_conduit(reply: &Reply, statuses: &[u16]) -> Option<String> {
    let check = || -> Result<()> {
        ensure!(statuses.contains(&reply.status), "status {}, not {statuses:?}", reply.status);
        let body = reply.json()?;
        let errors = body["errors"].as_object().context("no errors")?;
        let are_texts = |texts: &Value| {
            texts.as_array().is_some_and(|all| !all.is_empty() && all.iter().all(Value::is_string))
        };
        ensure!(!errors.is_empty() && errors.values().all(are_texts), "errors are no texts");
        Ok(())
    };
    check().err().map(|error| {
        format!("{error:#}: {}", String::from_utf8_lossy(&reply.body[..reply.body.len().min(300)]))
    })
}

/// RFC 7644, section 3.12.
fn expect_scim(reply: &Reply, statuses: &[u16]) -> Option<String> {
    let check = || -> Result<()> {
        ensure!(statuses.contains(&reply.status), "status {}, not {statuses:?}", reply.status);
        ensure!(reply.content_type == "application/scim+json", "{}", reply.content_type);
        let body = reply.json()?;
        let schemas = json!(["urn:ietf:params:scim:api:messages:2.0:Error"]);
        ensure!(body["schemas"] == schemas, "schemas {}", body["schemas"]);
        let status = reply.status.to_string();
        ensure!(body["status"] == *status, "it says status {}", body["status"]);
        ensure!(body["detail"].is_string(), "it has no detail");
        ensure!(!body.to_string().contains("hidden"), "it tells what exists: {body}");
        Ok(())
    };
    check().err().map(|error| {
        format!("{error:#}: {}", String::from_utf8_lossy(&reply.body[..reply.body.len().min(300)]))
    })
}

fn refuse_server_error(reply: &Reply) -> Option<String> {
    (reply.status >= 500).then(|| format!("status {}", reply.status))
}
