//! The OpenAPI document in the repository: what the services say of themselves, in one, and never less than before.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod documented;

use serde_json::{Map, Value, json};

use crate::documented::assert_is_documented;

const FILE: &str = "../../docs/openapi.json";
/// What texts may say otherwise at any time.
const FOR_PEOPLE: [&str; 4] = ["description", "summary", "title", "version"];

/// What each service says, put together.
fn document() -> Value {
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Email Tracker",
            "version": "1",
            "description": "What clients of an Email Tracker may ask, at its one address. It only grows: paths, parameters, \
                            fields and words are added, none is taken away or gets another meaning. So a client ignores \
                            what it does not know, and so does the server with parameters. See docs/api.md.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
    });
    for part in [pixel::openapi(), dashboard::openapi()] {
        add(&mut document, part, "");
    }
    document
}

/// Adds what is not there yet. Two services that say different things of one name are wrong.
fn add(whole: &mut Value, part: Value, place: &str) {
    let Value::Object(fields) = part else {
        assert_eq!(*whole, part, "two services differ in {place}");
        return;
    };
    let whole = whole.as_object_mut().expect("an object, as in the part");
    for (name, value) in fields {
        let place = format!("{place}/{name}");
        match whole.get_mut(&name) {
            Some(present) => add(present, value, &place),
            None => {
                whole.insert(name, value);
            }
        }
    }
}

/// What `before` says and `now` does not, by place.
fn lost(before: &Value, now: &Value, place: &str) -> Vec<String> {
    match (before, now) {
        (Value::Object(before), Value::Object(now)) => lost_fields(before, now, place),
        (Value::Array(before), Value::Array(now)) => {
            let is_kept = |item: &&Value| !now.iter().any(|other| lost(item, other, "").is_empty());
            before
                .iter()
                .filter(is_kept)
                .map(|item| format!("{place}: {item}"))
                .collect()
        }
        _ if before == now => vec![],
        _ => vec![format!("{place}: {before} became {now}")],
    }
}

fn lost_fields(before: &Map<String, Value>, now: &Map<String, Value>, place: &str) -> Vec<String> {
    let fields = before
        .iter()
        .filter(|(name, value)| !(FOR_PEOPLE.contains(&name.as_str()) && value.is_string()));
    fields
        .flat_map(|(name, value)| match now.get(name) {
            Some(now) => lost(value, now, &format!("{place}/{name}")),
            None => vec![format!("{place}/{name}")],
        })
        .collect()
}

/// Parameters and fields of requests that are required now and were not there: a client of before does not send them.
fn newly_required(before: &Value, now: &Value) -> Vec<String> {
    let required = |document: &Value| -> Vec<String> {
        let mut found = Vec::new();
        for (path, item) in document["paths"].as_object().into_iter().flatten() {
            for (method, operation) in item.as_object().into_iter().flatten() {
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    if parameter["required"] == true {
                        found.push(format!("{method} {path}: {}", parameter["name"]));
                    }
                }
            }
        }
        found
    };
    let was_there = |operation: &str| {
        let (method, path) = operation.split_once(' ').unwrap();
        let path = path.split(": ").next().unwrap();
        before["paths"][path].get(method).is_some()
    };
    let before_required = required(before);
    required(now)
        .into_iter()
        .filter(|one| was_there(one) && !before_required.contains(one))
        .collect()
}

#[test]
fn the_document_is_the_one_in_the_repository_and_only_grows() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let before: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let now = document();
    assert_eq!(
        lost(&before, &now, ""),
        Vec::<String>::new(),
        "clients rely on it"
    );
    assert_eq!(
        newly_required(&before, &now),
        Vec::<String>::new(),
        "clients do not send it"
    );
    let text = format!("{}\n", serde_json::to_string_pretty(&now).unwrap());
    assert_is_documented(&text, FILE, "openapi");
}

#[test]
fn what_gets_lost_is_found() {
    let before = json!({"paths": {"/a": {"get": {
        "summary": "old words", "parameters": [{"name": "q", "in": "query"}],
        "responses": {"200": {"schema": {"type": ["string", "null"], "enum": ["a", "b"]}}},
    }}}});
    let changed = |change: fn(&mut Value)| {
        let mut now = before.clone();
        change(&mut now["paths"]["/a"]["get"]);
        (lost(&before, &now, "").len(), newly_required(&before, &now).len())
    };
    assert_eq!(changed(|get| get["summary"] = json!("new words")), (0, 0));
    assert_eq!(changed(|get| get["responses"]["404"] = json!({})), (0, 0));
    assert_eq!(
        changed(|get| get["parameters"] = json!([{"name": "p"}, {"name": "q", "in": "query"}])),
        (0, 0)
    );
    assert_eq!(changed(|get| get["parameters"] = json!([])), (1, 0));
    assert_eq!(
        changed(
            |get| get["parameters"] = json!([{"name": "q", "in": "query"}, {"name": "p", "required": true}])
        ),
        (0, 1)
    );
    assert_eq!(changed(|get| get["responses"] = json!({})), (1, 0));
    assert_eq!(
        changed(|get| get["responses"]["200"]["schema"]["enum"] = json!(["a"])),
        (1, 0)
    );
    assert_eq!(
        changed(|get| get["responses"]["200"]["schema"]["type"] = json!("string")),
        (1, 0)
    );
}
