//! What this server says of itself (RFC 7643, sections 5 to 7).

use serde_json::{Value, json};

pub(super) const USER: &str = "urn:ietf:params:scim:schemas:core:2.0:User";
pub(super) const GROUP: &str = "urn:ietf:params:scim:schemas:core:2.0:Group";
pub(super) const ERROR: &str = "urn:ietf:params:scim:api:messages:2.0:Error";
pub(super) const LIST: &str = "urn:ietf:params:scim:api:messages:2.0:ListResponse";

/// Where resources are.
pub(super) fn base(origin: &str) -> String {
    format!("{origin}/scim/v2")
}

/// All of a kind, of which there are few.
pub(super) fn whole(resources: &[Value]) -> Value {
    let count = resources.len();
    super::answers::list(resources, count, (0, count))
}

pub(super) fn config(origin: &str) -> Value {
    json!({
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"],
        "patch": { "supported": true },
        "bulk": { "supported": false, "maxOperations": 0, "maxPayloadSize": 0 },
        "filter": { "supported": true, "maxResults": super::LIST_MAX },
        "changePassword": { "supported": true },
        "sort": { "supported": false },
        "etag": { "supported": true },
        "authenticationSchemes": [{
            "type": "oauthbearertoken",
            "name": "Bearer",
            "description": "A key of the organisation that may accounts.read and accounts.write.",
            "primary": true,
        }],
        "meta": {
            "resourceType": "ServiceProviderConfig",
            "location": format!("{}/ServiceProviderConfig", base(origin)),
        },
    })
}

pub(super) fn types(origin: &str) -> Vec<Value> {
    let of = |name: &str, schema: &str, description: &str| {
        json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ResourceType"],
            "id": name,
            "name": name,
            "description": description,
            "endpoint": format!("/{name}s"),
            "schema": schema,
            "schemaExtensions": [],
            "meta": {
                "resourceType": "ResourceType",
                "location": format!("{}/ResourceTypes/{name}", base(origin)),
            },
        })
    };
    vec![
        of("User", USER, "Somebody of the organisation."),
        of("Group", GROUP, "People who may do something together."),
    ]
}

pub(super) fn all(origin: &str) -> Vec<Value> {
    let schema = |id: &str, name: &str, attributes: Value| {
        json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Schema"],
            "id": id,
            "name": name,
            "attributes": attributes,
            "meta": {
                "resourceType": "Schema",
                "location": format!("{}/Schemas/{id}", base(origin)),
            },
        })
    };
    vec![schema(USER, "User", user()), schema(GROUP, "Group", group())]
}

/// An attribute that a directory may write; `but` says what is different.
fn attribute(name: &str, kind: &str, description: &str, but: &Value) -> Value {
    let mut attribute = json!({
        "name": name,
        "type": kind,
        "multiValued": false,
        "description": description,
        "required": false,
        "caseExact": false,
        "mutability": "readWrite",
        "returned": "default",
        "uniqueness": "none",
    });
    for (name, value) in but.as_object().into_iter().flatten() {
        attribute[name] = value.clone();
    }
    attribute
}

fn text(name: &str, description: &str) -> Value {
    attribute(name, "string", description, &json!({}))
}

/// Values of which the primary one is kept. There is always one.
fn one_of_many(name: &str, description: &str, parts: &Value) -> Value {
    let but = json!({ "multiValued": true, "required": true, "subAttributes": parts });
    attribute(name, "complex", description, &but)
}

fn primary() -> Value {
    attribute("primary", "boolean", "Always true.", &json!({}))
}

fn references(name: &str, description: &str, to: &str, but: &Value) -> Value {
    let but_types = json!({ "referenceTypes": [to], "mutability": "immutable" });
    let kinds = json!({ "canonicalValues": [to], "mutability": "immutable" });
    let parts = json!([
        attribute("value", "string", "Its id.", &json!({ "mutability": "immutable" })),
        attribute("$ref", "reference", "Where it is.", &but_types),
        attribute("type", "string", "What it is.", &kinds),
    ]);
    let mut attribute = attribute(name, "complex", description, but);
    attribute["multiValued"] = true.into();
    attribute["subAttributes"] = parts;
    attribute
}

fn user() -> Value {
    let required = json!({ "required": true });
    let names =
        json!([text("givenName", "The given name."), text("familyName", "The family name."),]);
    let addresses = json!([
        attribute("value", "string", "An address of ASCII.", &required),
        attribute("type", "string", "Always work.", &json!({ "canonicalValues": ["work"] })),
        primary(),
    ]);
    let roles = json!({ "required": true, "canonicalValues": ["admin", "member", "user"] });
    let roles = json!([attribute("value", "string", "admin, member or user.", &roles), primary(),]);
    let secret = json!({ "mutability": "writeOnly", "returned": "never", "caseExact": true });
    let named = json!({ "required": true, "uniqueness": "server" });
    let read = json!({ "mutability": "readOnly" });
    let whole = "The name that others see; name.formatted where it is not said.";
    let address = "The address that they sign in by; userName where none is said.";
    json!([
        attribute("userName", "string", "What the directory calls them.", &named),
        attribute("name", "complex", "Their name.", &json!({ "subAttributes": names })),
        text("displayName", whole),
        attribute("active", "boolean", "Whether they may come in; true unless said.", &required),
        attribute("password", "string", "At least ten characters.", &secret),
        one_of_many("emails", address, &addresses),
        one_of_many("roles", "What they may do; a member unless said.", &roles),
        references("groups", "The groups that they are in.", "Group", &read),
        attribute("externalId", "string", "The directory's own id.", &json!({ "caseExact": true })),
    ])
}

fn group() -> Value {
    json!([
        attribute(
            "displayName",
            "string",
            "Its name.",
            &json!({ "required": true, "caseExact": true, "uniqueness": "server" }),
        ),
        references("members", "Who is in it; people only.", "User", &json!({})),
        attribute("externalId", "string", "The directory's own id.", &json!({ "caseExact": true })),
    ])
}
