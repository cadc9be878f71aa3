//! What single fields may hold, where their types do not say it, and the names of all schemas.

use serde_json::{Map, Value, json};
use tracking::{
    agents::{AgentClass, Confidence},
    token::{MAX_FIELD_BYTES, MAX_RECIPIENT_BYTES},
};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr,
        schema::{Object, ObjectBuilder, Schema, SchemaFormat, SchemaType, Type},
    },
};

use crate::{
    api::{charts::Period, emails, erasures, errors::Failure, list::IsoTime, open_events},
    diagnostics::{
        latency::Latencies,
        signals::{SuppressSignals, SuppressionDebug},
    },
    health, session,
};

/// A time as the API writes it, to the millisecond.
const TIME_PATTERN: &str = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$";
/// IPv4, or IPv6 as RFC 5952 writes it.
const ADDRESS_PATTERN: &str = r"^(\d{1,3}(\.\d{1,3}){3}|[0-9a-f:]*:[0-9a-f:.]*)$";

/// As PostgreSQL writes them.
const UUID_PATTERN: &str = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$";

/// All that answers and bodies are made of.
pub(super) fn all() -> Map<String, Value> {
    let mut schemas = Vec::new();
    add::<emails::Item<'_>>(&mut schemas);
    add::<open_events::Item<'_>>(&mut schemas);
    add::<erasures::Amount>(&mut schemas);
    add::<erasures::Done>(&mut schemas);
    add::<erasures::Item>(&mut schemas);
    add::<Failure>(&mut schemas);
    add::<Latencies>(&mut schemas);
    add::<SuppressSignals>(&mut schemas);
    add::<SuppressionDebug>(&mut schemas);
    add::<session::Opened<'_>>(&mut schemas);
    add::<session::Credentials>(&mut schemas);
    add::<health::Body>(&mut schemas);
    schemas
        .into_iter()
        .map(|(name, schema)| (name, json!(schema)))
        .chain([
            ("ErasureRequest".to_owned(), erasure_request()),
            ("Charts".to_owned(), charts()),
        ])
        .collect()
}

/// The one or the other, and not both.
fn erasure_request() -> Value {
    let of = |name: &str, other: &str, schema: Value| {
        json!({
            "type": "object",
            "required": [name],
            "properties": {name: schema, other: {"type": "null"}},
        })
    };
    // Bounds in bytes, of which a character has at least one.
    let email_id = json!({
        "type": "string", "minLength": 1, "maxLength": MAX_FIELD_BYTES, "pattern": "^[^\\x00]*$",
        "description": "The email with this id.",
    });
    let recipient = json!({
        "type": "string", "minLength": 1, "maxLength": MAX_RECIPIENT_BYTES,
        "pattern": "^[^\\x00,]*[^\\x00,\\s][^\\x00,]*$",
        "description": "All emails that have this address among their comma-separated ones, in any case.",
    });
    json!({
        "description": "What is to be erased.",
        "oneOf": [of("email_id", "recipient", email_id), of("recipient", "email_id", recipient)],
    })
}

/// Opens by how far they are believed, beside `others`.
fn counts(mut others: Value) -> Value {
    let mut required = Vec::new();
    if let Some(properties) = others.as_object_mut() {
        for confidence in Confidence::ALL {
            properties.insert(confidence.as_str().to_owned(), count());
        }
        required.extend(properties.keys().cloned());
    }
    json!({"type": "object", "required": required, "properties": others})
}

fn count() -> Value {
    json!({"type": "integer", "minimum": 0})
}

fn charts() -> Value {
    let opens = || counts(json!({}));
    let bars = |of: Value| json!({"type": "array", "items": counts(json!({"of": of}))});
    let emails = json!({
        "type": "object",
        "required": ["tracked", "opened", "opened_by_people"],
        "properties": {"tracked": count(), "opened": count(), "opened_by_people": count()},
    });
    let first_opens = json!({
        "type": "object",
        "required": ["within_seconds", "emails", "by_people"],
        "properties": {
            "within_seconds": {"type": ["integer", "null"], "minimum": 1,
                               "description": "And not within those of the bar before; null for all beyond."},
            "emails": count(),
            "by_people": count(),
        },
    });
    let properties = json!({
        "ok": {"type": "boolean", "enum": [true]},
        "zone": {"type": "string"},
        "by": {"type": "string", "enum": Period::ALL.map(Period::as_str)},
        "opens": opens(),
        "emails": emails,
        "over_time": bars(json!(IsoTime::schema())),
        "hours": {"type": "array", "minItems": 24, "maxItems": 24, "items": opens(), "description": "From midnight on."},
        "weekdays": {"type": "array", "minItems": 7, "maxItems": 7, "items": opens(), "description": "From Monday on."},
        "first_opens": {"type": "array", "items": first_opens, "description": "By the time from sending to the first open."},
        "classes": bars(json!(agent_class())),
        "devices": bars(json!(device_type())),
        "countries": bars(json!({"type": ["string", "null"], "description": "The country's code, if it is known."})),
    });
    let required: Vec<&String> = properties.as_object().into_iter().flat_map(Map::keys).collect();
    json!({"type": "object", "required": required, "properties": properties})
}

/// With all that it refers to.
fn add<T: ToSchema>(schemas: &mut Vec<(String, RefOr<Schema>)>) {
    schemas.push((T::name().into_owned(), T::schema()));
    T::schemas(schemas);
}

impl ToSchema for IsoTime {
    fn name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }
}

impl PartialSchema for IsoTime {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("ISO 8601 in UTC, with milliseconds."))
            .format(Some(SchemaFormat::Custom("date-time".into())))
            .pattern(Some(TIME_PATTERN))
            .into()
    }
}

fn words(words: impl IntoIterator<Item = &'static str>) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(words))
        .build()
}

pub(crate) fn device_type() -> Object {
    words(["phone", "computer", "other"])
}

pub(crate) fn agent_class() -> Object {
    words(AgentClass::ALL.map(AgentClass::as_str))
}

pub(crate) fn confidence() -> Object {
    words(Confidence::ALL.map(Confidence::as_str))
}

pub(crate) fn status() -> Object {
    words(["ok", "unavailable"])
}

pub(crate) fn erasure_kind() -> Object {
    words(["email", "recipient", "restore"])
}

pub(crate) fn uuid() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::Custom("uuid".into())))
        .pattern(Some(UUID_PATTERN))
        .build()
}

pub(crate) fn suppression_reason() -> Object {
    let reasons = ["duplicate", "mark_suppress_next", "compose_window"];
    let reasons = reasons.map(Value::from).into_iter().chain([Value::Null]);
    ObjectBuilder::new()
        .schema_type(or_null(Type::String))
        .enum_values(Some(reasons))
        .build()
}

pub(crate) fn address_or_null() -> Object {
    ObjectBuilder::new()
        .schema_type(or_null(Type::String))
        .description(Some("An IPv4 or IPv6 address."))
        .pattern(Some(ADDRESS_PATTERN))
        .build()
}

/// The numbers by which the API says no and yes.
pub(crate) fn flag() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::Integer)
        .enum_values(Some([0, 1]))
        .build()
}

pub(crate) fn always_true() -> Object {
    always(true)
}

pub(crate) fn always_false() -> Object {
    always(false)
}

fn always(value: bool) -> Object {
    ObjectBuilder::new()
        .schema_type(Type::Boolean)
        .enum_values(Some([value]))
        .build()
}

fn or_null(kind: Type) -> SchemaType {
    SchemaType::Array(vec![kind, Type::Null])
}
