//! What the pixel adds to the OpenAPI document (docs/openapi.json).

use serde_json::{Value, json};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::schema::{Object, ObjectBuilder, Type},
};

use crate::mark::{Marked, Refused};

/// A body's field that is always this.
pub(crate) fn always<const VALUE: bool>() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::Boolean)
        .enum_values(Some([VALUE]))
        .build()
}

/// Its `paths` and `components`.
pub(crate) fn document() -> Value {
    json!({
        "paths": {"/t/{token}.gif": pixel(), "/mark-suppress-next": mark(), "/health": health()},
        "components": {"schemas": {
            Marked::name(): Marked::schema(),
            Refused::name(): Refused::schema(),
        }},
    })
}

fn pixel() -> Value {
    let always_fresh = json!({
        "Cache-Control": {"required": true, "schema": {"type": "string", "enum": ["no-store, no-cache, must-revalidate, max-age=0"]}},
        "Pragma": {"required": true, "schema": {"type": "string", "enum": ["no-cache"]}},
        "Expires": {"required": true, "schema": {"type": "string", "enum": ["0"]}},
    });
    let operation = |operation_id: &str, summary: &str, content: Value| {
        let gif = json!({
            "description": "A transparent GIF of one pixel, whatever the token is.",
            "headers": always_fresh,
        });
        let gif = with_content(gif, content);
        json!({
            "operationId": operation_id,
            "summary": summary,
            "security": [],
            "parameters": [{
                "name": "token", "in": "path", "required": true,
                "schema": {"type": "string", "minLength": 1, "maxLength": 16384, "pattern": "^[A-Za-z0-9_-]+={0,2}$"},
                "description": "Base64 of `[user_id, email_id, recipient, sent_at, sender_email?]`. One that is not is \
                                counted, and records nothing.",
            }],
            "responses": {"200": gif},
        })
    };
    json!({
        "get": operation("pixel", "The pixel; a hit of the email that the token names is recorded", json!({"image/gif": {}})),
        "head": operation("pixelHead", "The headers alone; nothing is recorded", Value::Null),
    })
}

fn mark() -> Value {
    let answer = |description: &str, schema: &str| {
        json!({
            "description": description,
            "content": {"application/json": {"schema": {"$ref": format!("#/components/schemas/{schema}")}}},
        })
    };
    let email_id = json!({
        "description": "Names the email. White space around is trimmed; numbers and booleans are taken as their JSON text.",
        "type": ["string", "number", "boolean"], "minLength": 1, "maxLength": 1024,
        "pattern": "^[^\\x00]*[^\\x00\\s][^\\x00]*$",
    });
    json!({"post": {
        "operationId": "markSuppressNext",
        "summary": "The sender is about to look at their own mail: its next hit is to be no open",
        "security": [],
        "requestBody": {
            "required": true,
            "content": {"application/json": {"schema": {
                "type": "object", "required": ["email_id"], "properties": {"email_id": email_id},
            }}},
        },
        "responses": {
            "200": answer("The mark is durable.", "MarkRecorded"),
            "400": answer("There is no email id in it, or none that can be.", "MarkRefused"),
            "408": answer("The body did not come in time.", "MarkRefused"),
            "413": answer("The body is larger than 16 KiB.", "MarkRefused"),
            "415": answer("The body is not application/json.", "MarkRefused"),
            "503": answer("It cannot be stored right now.", "MarkRefused"),
        },
    }})
}

fn health() -> Value {
    let operation = |operation_id: &str, summary: &str, content: Value| {
        let ok = json!({"description": "It does."});
        let ok = with_content(ok, content);
        json!({"operationId": operation_id, "summary": summary, "security": [], "responses": {"200": ok}})
    };
    let body = json!({"application/json": {"schema": {
        "type": "object", "required": ["status", "ok"],
        "properties": {"status": {"type": "string", "enum": ["ok"]}, "ok": {"type": "boolean", "enum": [true]}},
    }}});
    json!({
        "get": operation("health", "Whether the pixel answers", body),
        "head": operation("healthHead", "The headers alone", Value::Null),
    })
}

/// The answer with what it holds, if it holds anything.
fn with_content(mut answer: Value, content: Value) -> Value {
    if let (Some(fields), false) = (answer.as_object_mut(), content.is_null()) {
        fields.insert("content".to_owned(), content);
    }
    answer
}
