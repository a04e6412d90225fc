//! The description of the API for programs, OpenAPI 3.1, made from the table of routes. Pure.

use serde_json::{Map, Value, json};

use super::access::Access;
use super::routes::{Answer, Content, Kind, Parameter, Route, is_name};
use super::table::ROUTES;

const SCHEMAS: &str = include_str!("schemas.json");

/// A GUID is a tenant and a database.
const EXAMPLE: &str = "12345678-1234-5678-9abc-123456789012";

/// The whole document. `needs_token` says whether this instance has a token.
pub fn document(needs_token: bool) -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_lowercase()] = operation(route, needs_token);
    }
    let schemas: Value = serde_json::from_str(SCHEMAS).expect("BUG: the schemas are no JSON");
    let scheme = json!({"type": "http", "scheme": "bearer", "description": "server.apiToken"});
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "litestream-multitenant",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "One SQLite database per tenant, all of them replicated to object storage.",
        },
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"token": scheme}},
    })
}

fn operation(route: &Route, needs_token: bool) -> Value {
    let names = route
        .path
        .split('/')
        .filter(|part| is_name(part))
        .map(|part| {
            let name = part.trim_matches(['{', '}']);
            let schema = json!({"type": "string", "minLength": 1, "examples": [EXAMPLE]});
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        });
    let parameters: Vec<_> = names
        .chain(route.query.iter().map(query_parameter))
        .collect();
    let mut operation = json!({
        "operationId": operation_id(route),
        "summary": route.summary,
        "parameters": parameters,
        "responses": responses(route, needs_token),
    });
    if let Some(schema) = route.body {
        let content = content(Content::Json(schema));
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    if needs_token && route.access != Access::Open {
        operation["security"] = json!([{"token": []}]);
    }
    operation
}

/// `get_api_databases`, from method and path.
fn operation_id(route: &Route) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let path: String = route.path.chars().map(plain).collect();
    let words: Vec<_> = path.split('_').filter(|word| !word.is_empty()).collect();
    format!("{}_{}", route.method.to_lowercase(), words.join("_"))
}

fn query_parameter(parameter: &Parameter) -> Value {
    let schema = match parameter.kind {
        Kind::Text => json!({"type": "string"}),
        Kind::Status => json!({"$ref": "#/components/schemas/Status"}),
        Kind::Time => json!({"type": "string", "format": "date-time"}),
        Kind::Number => json!({"type": "integer", "minimum": 0}),
        Kind::Duration => json!({"type": "string", "examples": ["30s", "500ms", "1m30s"]}),
    };
    json!({"name": parameter.name, "in": "query", "description": parameter.doc, "schema": schema})
}

/// What any call of this shape may answer besides its own answers.
fn common(route: &Route, needs_token: bool) -> Vec<Answer> {
    let mut common = vec![(400, "the query, a name or the body is wrong")];
    if needs_token {
        common.push((401, "the token is missing or wrong"));
    } else {
        common.push((403, "the Host or the Origin is foreign"));
    }
    if route.path.split('/').any(is_name) {
        common.push((404, "there is no such client"));
        common.push((409, "several clients have this name; say which with prefix"));
    }
    if route.body.is_some() {
        common.push((408, "the body did not come in time"));
        common.push((413, "the body is too large"));
    }
    let error = |(status, doc)| Answer(status, doc, Content::Json("Error"));
    common.into_iter().map(error).collect()
}

fn responses(route: &Route, needs_token: bool) -> Value {
    let mut responses = Map::new();
    for Answer(status, doc, body) in common(route, needs_token).iter().chain(route.answers) {
        let mut response = json!({"description": doc});
        if *body != Content::Nothing {
            response["content"] = content(*body);
        }
        responses.insert(status.to_string(), response);
    }
    responses.into()
}

fn content(content: Content) -> Value {
    let (media, schema) = match content {
        Content::Nothing => return json!({}),
        Content::Json(name) => {
            let schema = json!({"$ref": format!("#/components/schemas/{name}")});
            ("application/json", schema)
        }
        Content::Media(media) => (media, json!({"type": "string"})),
    };
    json!({media: {"schema": schema}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_described() {
        let document = document(true);
        for route in ROUTES {
            let operation = &document["paths"][route.path][route.method.to_lowercase()];
            assert_eq!(operation["summary"], route.summary, "{}", route.path);
            assert!(!route.summary.is_empty(), "{}", route.path);
            assert_eq!(
                operation["security"].is_null(),
                route.access == Access::Open
            );
            assert_eq!(operation["requestBody"].is_null(), route.body.is_none());
            for Answer(status, ..) in route.answers {
                assert!(operation["responses"][status.to_string()].is_object());
            }
        }
        let health = &super::document(false)["paths"]["/api/databases"]["get"];
        assert!(health["security"].is_null());
        assert!(health["responses"]["403"].is_object() && health["responses"]["401"].is_null());
    }

    #[test]
    fn the_documentation_has_every_call() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api.md");
        let text = std::fs::read_to_string(path).expect("the documentation");
        for route in ROUTES.iter().filter(|route| !is_file_of_the_page(route)) {
            let call = format!("`{} {}`", route.method, route.path);
            assert!(text.contains(&call), "{path} has no {call}");
            for parameter in route.query {
                assert!(text.contains(&format!("`{}", parameter.name)));
            }
        }
    }

    fn is_file_of_the_page(route: &Route) -> bool {
        route.path.matches('/').count() == 1 && route.path.contains('.')
    }

    #[test]
    fn every_schema_that_is_named_exists_and_is_used() {
        let document = document(false).to_string();
        let schemas: Value = serde_json::from_str(SCHEMAS).expect("JSON");
        let known = schemas.as_object().expect("an object");
        let marker = "#/components/schemas/";
        for name in document.split(marker).skip(1) {
            let name = name.split('"').next().expect("a quote");
            assert!(known.contains_key(name), "{name}");
        }
        for name in known.keys() {
            assert!(document.contains(&format!("{marker}{name}\"")), "{name}");
        }
    }

    #[test]
    fn statuses_are_those_that_there_are() {
        use crate::tenant::roster::Status;
        let schemas: Value = serde_json::from_str(SCHEMAS).expect("JSON");
        let mut words: Vec<_> = Status::ALL.iter().map(|status| status.as_str()).collect();
        words.push(crate::api::query::IGNORED);
        assert_eq!(schemas["Status"]["enum"], json!(words));
    }
}
