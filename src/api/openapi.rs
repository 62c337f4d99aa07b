//! The OpenAPI 3.1 document, made from the route table; `docs/openapi.json` is a copy that a test
//! keeps current.

use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use crate::api::action::Anonymous;
use crate::api::action::Kind;
use crate::api::action::PERMISSIONS;
use crate::api::rest;
use crate::api::rest::route::Field;
use crate::api::rest::route::Route;
use crate::api::rest::route::Schema;

/// The document, pretty-printed, ended by a line feed.
pub fn document() -> String {
    let mut text = serde_json::to_string_pretty(&tree()).expect("a JSON value has a text");
    text.push('\n');
    text
}

fn tree() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in rest::routes() {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.verb.name().to_ascii_lowercase()] = operation(route);
    }
    let mut schemas: Map<String, Value> = Map::new();
    for schema in schemas_in_use() {
        schemas.insert(schema.name.to_owned(), object(schema));
    }
    schemas.insert("Error".to_owned(), error());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Obelisk",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": "A validating peer for permissioned ledgers. docs/api.md explains.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "certificate": { "type": "mutualTLS" } },
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "summary": route.summary,
        "operationId": operation_id(route),
        "parameters": parameters(route),
        "responses": responses(route),
        "x-permission": permission(route.kind),
        "security": security(route.kind),
    });
    if let Some(body) = route.body {
        let content = json!({ "application/json": { "schema": reference(body.name) } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

fn responses(route: &Route) -> Value {
    let failure = json!({
        "description": "Any failure.",
        "content": { "application/json": { "schema": reference("Error") } },
    });
    let (media, schema) = match route.answer.fields.is_empty() {
        true => ("application/openmetrics-text", json!({ "type": "string" })),
        false => ("application/json", reference(route.answer.name)),
    };
    let success = json!({
        "description": route.answer.doc,
        "content": { media: { "schema": schema } },
    });
    match route.kind {
        Kind::Registrar => json!({ "default": failure }),
        _ => json!({ "2XX": success, "default": failure }),
    }
}

fn parameters(route: &Route) -> Vec<Value> {
    let in_path = path_names(route.path).map(|name| {
        let schema = match name {
            "height" => json!({ "type": "integer", "minimum": 0 }),
            "id" => json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" }),
            _ => json!({ "type": "string" }),
        };
        json!({ "name": name, "in": "path", "required": true, "schema": schema })
    });
    let in_query = route.query.iter().map(|p| {
        let schema = json!({ "type": p.kind });
        json!({ "name": p.name, "in": "query", "description": p.doc, "schema": schema })
    });
    in_path.chain(in_query).collect()
}

fn path_names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

fn operation_id(route: &Route) -> String {
    let mut id = route.verb.name().to_ascii_lowercase();
    for part in route.path.split('/').filter(|part| !part.is_empty()) {
        id.push('_');
        id.extend(part.chars().filter(char::is_ascii_alphanumeric));
    }
    id
}

fn permission(kind: Kind) -> Value {
    let Some(row) = PERMISSIONS.iter().find(|p| p.kind == kind) else { return json!(null) };
    let roles: Vec<&str> = row.roles.iter().map(|role| role.name()).collect();
    let anonymous = match row.anonymous {
        Anonymous::Always => "always",
        Anonymous::WhenOpen => "when the node is open",
        Anonymous::Never => "never",
    };
    json!({ "roles": roles, "anonymous": anonymous })
}

fn security(kind: Kind) -> Value {
    match PERMISSIONS.iter().find(|p| p.kind == kind).map(|p| p.anonymous) {
        Some(Anonymous::Always) => json!([]),
        Some(Anonymous::WhenOpen) => json!([{ "certificate": [] }, {}]),
        _ => json!([{ "certificate": [] }]),
    }
}

fn object(schema: &Schema) -> Value {
    let properties: Map<String, Value> =
        schema.fields.iter().map(|f| (f.name.to_owned(), member(f))).collect();
    let required: Vec<&str> = schema.fields.iter().filter(|f| f.required).map(|f| f.name).collect();
    json!({
        "type": "object",
        "description": schema.doc,
        "properties": properties,
        "required": required,
    })
}

fn member(field: &Field) -> Value {
    let mut schema = kind(field.kind);
    schema["description"] = json!(field.doc);
    schema
}

fn kind(name: &str) -> Value {
    match name {
        "integer" => json!({ "type": "integer" }),
        "string" => json!({ "type": "string" }),
        "boolean" => json!({ "type": "boolean" }),
        "base64" => json!({ "type": "string", "contentEncoding": "base64" }),
        "hex" => json!({ "type": "string", "pattern": "^[0-9a-f]*$" }),
        "any" => json!({}),
        _ => match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(item) => json!({ "type": "array", "items": kind(item) }),
            None => reference(name),
        },
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn error() -> Value {
    json!({
        "type": "object",
        "required": ["error"],
        "properties": { "error": {
            "type": "object",
            "required": ["code", "message", "hint"],
            "properties": {
                "code": { "type": "string", "description": "Short stable word; docs/api.md." },
                "message": { "type": "string", "description": "What happened." },
                "hint": { "type": "string", "description": "What to do about it." },
                "retry_after_ms": { "type": "integer", "description": "When to come back." },
            },
        } },
    })
}

/// Every schema that a route or another schema names.
pub fn schemas_in_use() -> Vec<&'static Schema> {
    let of_routes = rest::routes()
        .flat_map(|route| [Some(route.answer), route.body])
        .flatten()
        .filter(|schema| !schema.fields.is_empty());
    let shared = [
        rest::chain::SHARED,
        rest::transactions::SHARED,
        rest::state::SHARED,
        rest::network::SHARED,
        rest::status::SHARED,
    ];
    of_routes.chain(shared.into_iter().flatten().copied()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::api::rest::route::Verb;

    /// `docs/openapi.json` is what the route table says. OBELISK_UPDATE_GOLDEN=1 writes it anew.
    #[test]
    fn committed_document_is_current() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
        if std::env::var_os("OBELISK_UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, document()).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == document(),
            "docs/openapi.json is stale; run this test with OBELISK_UPDATE_GOLDEN=1"
        );
    }

    /// Every schema that is named exists, and every operation has an id of its own.
    #[test]
    fn references_resolve_and_ids_are_unique() {
        let names: BTreeSet<&str> = schemas_in_use().iter().map(|s| s.name).collect();
        let known = ["integer", "string", "boolean", "base64", "hex", "any"];
        for field in schemas_in_use().iter().flat_map(|s| s.fields) {
            let kind = field.kind.trim_start_matches('[').trim_end_matches(']');
            assert!(known.contains(&kind) || names.contains(kind), "unknown kind {kind}");
        }
        let ids: Vec<String> = rest::routes().map(operation_id).collect();
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len());
        let reading = rest::routes().filter(|r| r.verb != Verb::Post);
        assert!(reading.into_iter().all(|r| r.body.is_none()), "only POST has a body");
    }
}
