//! The dashboard's part of the OpenAPI document (docs/openapi.json): what the code reads and writes, in the words of
//! OpenAPI 3.1. Parameters are those that a list asks for (`Parameters::asked_by`), schemas those of the types that are
//! written; so only texts and statuses are said here a second time, and schemathesis looks whether they are true.

mod operations;
pub(crate) mod schemas;

use serde_json::{Map, Value, json};

pub(crate) use operations::*;

use crate::{
    api::{
        list::List,
        parameters::{Asked, Kind, MAX_ZONE_BYTES, Parameters},
    },
    auth::TOKEN_HEADER,
    http::endpoints,
    session,
};

/// All that the dashboard adds to the document: `paths` and `components`.
pub(crate) fn document() -> Value {
    let paths: Map<_, _> = endpoints()
        .into_iter()
        .map(|endpoint| (endpoint.path.to_owned(), (endpoint.document)()))
        .collect();
    json!({
        "paths": paths,
        "components": {
            "schemas": schemas::all(),
            "responses": failures(),
            "securitySchemes": {
                "token": {
                    "type": "apiKey", "in": "header", "name": TOKEN_HEADER,
                    "description": "The dashboard's token. If it is there, right or wrong, it decides.",
                },
                "session": {
                    "type": "apiKey", "in": "cookie", "name": session::COOKIE,
                    "description": "A session that `POST /dashboard/session` gave for the token.",
                },
            },
        },
    })
}

fn failures() -> Value {
    let failure = |description: &str| {
        json!({
            "description": description,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Failure"}}},
        })
    };
    let with_retry = |description: &str| {
        let headers = json!({
            "Retry-After": {"required": true, "schema": {"type": "integer", "minimum": 1},
                            "description": "Seconds."},
        });
        with(failure(description), "headers", headers)
    };
    json!({
        "BadParameter": failure("A parameter cannot be understood; the error begins with its name."),
        "Unauthorized": failure("No token or session, or a wrong one. Said before anything else is looked at."),
        "Forbidden": failure("A page of another origin asks, or the CSRF token is missing or wrong."),
        "NotFound": failure("There is no such path."),
        "MethodNotAllowed": failure("The path is there, but not for this method; `Allow` names those that are."),
        "TooManyFailures": with_retry("Too many wrong tokens from this address."),
        "InternalError": failure("A defect. What is wrong stands in the log."),
        "Unavailable": with_retry("The database is away, or all places are taken."),
    })
}

/// The object with one more field.
fn with(mut object: Value, name: &str, value: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(name.to_owned(), value);
    }
    object
}

/// The parameters of a list.
fn parameters_of<L: List>() -> Vec<Value> {
    let asked = Parameters::asked_by(L::read);
    asked.into_iter().map(parameter).collect()
}

fn parameter(Asked { name, kind }: Asked) -> Value {
    let schema = match &kind {
        // A bound in bytes, of which a character has at least one.
        Kind::Text(max_bytes) => json!({
            "type": "string", "minLength": 1, "maxLength": max_bytes, "pattern": "^[^\\x00]*$",
        }),
        Kind::Words(words) => json!({"type": "string", "enum": words}),
        Kind::Number(max) => json!({"type": "integer", "minimum": 1, "maximum": max}),
        Kind::Time => json!({"type": "string", "format": "date-time"}),
        Kind::Zone => json!({
            "type": "string", "format": "time-zone", "maxLength": MAX_ZONE_BYTES, "pattern": "^[A-Za-z0-9_+/-]+$",
        }),
        Kind::Cursor => json!({"type": "string", "format": "cursor", "pattern": "^[A-Za-z0-9_-]+$"}),
    };
    json!({"name": name, "in": "query", "schema": schema, "description": description(name)})
}

/// What a parameter does, as in docs/api.md.
fn description(name: &str) -> &'static str {
    match name {
        "limit" => "At most so many.",
        "cursor" => {
            "What follows the page whose `next_cursor` it was; keep the other parameters as they were."
        }
        "user_id" => "Emails of this user.",
        "recipient" => "Emails that have this address among their comma-separated ones, in any case.",
        "opened" => "Emails with an open, or those without.",
        "since" => "Emails with `created_at` at this time or later.",
        "until" => "Emails with `created_at` before this time.",
        "q" => "Emails whose recipient or id contains this text, in any case.",
        "include" => {
            "`all`: also hits that do not count. `doctor`: also what `email-tracker doctor` made up within the last hour."
        }
        "email_id" => "Those of this email.",
        "zone" => "The time zone of days and hours, by its IANA name; UTC unless given.",
        "by" => "What one bar over time spans; a day unless given.",
        "sort" => "The order, the greatest first.",
        "sender" => "Emails whose `sender_email` is this address, in any case.",
        "device" => "Emails with an open on such a device.",
        "class" => "Emails with an open by an agent of this class.",
        "human" => "Emails with an open by a person, or those without.",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All values under `key`, wherever they are.
    fn all_under<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v Value>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if name == key {
                        found.push(value);
                    }
                    all_under(value, key, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| all_under(item, key, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut references = Vec::new();
        all_under(&document, "$ref", &mut references);
        assert!(references.len() > 20);
        for reference in references {
            let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }

    #[test]
    fn every_operation_and_parameter_says_what_it_is() {
        let document = document();
        let mut names = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let operation_id = operation["operationId"].as_str().expect(path);
                assert!(!names.contains(&operation_id), "{operation_id} twice");
                names.push(operation_id);
                assert!(operation["summary"].is_string(), "{method} {path}");
                for parameter in operation["parameters"].as_array().into_iter().flatten() {
                    let description = parameter["description"].as_str().unwrap_or_default();
                    assert!(!description.is_empty(), "{method} {path}: {parameter}");
                }
            }
        }
        assert!(names.len() > 10);
    }
}
