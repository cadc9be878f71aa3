//! What each path answers to whom.

use serde_json::{Value, json};

use super::{parameter, parameters_of, with};
use crate::{
    api::{
        charts::Charts,
        emails::Emails,
        erasures::{MOST_SHOWN, Wish},
        export::{Csv, File, Json},
        list::List,
        open_events::OpenEvents,
        parameters::Parameters,
        search::Search,
    },
    session::CSRF_HEADER,
};

const JSON: &str = "application/json";

fn reference(kind: &str, name: &str) -> Value {
    json!({"$ref": format!("#/components/{kind}/{name}")})
}

/// A successful answer with a body of `content_type`.
fn success(description: &str, content_type: &str, schema: &Value) -> Value {
    json!({"description": description, "content": {content_type: {"schema": schema}}})
}

/// The operation with these answers and failures, for who has the token or a session.
fn read(operation_id: &str, summary: &str, mut responses: Value, failures: &[(&str, &str)]) -> Value {
    for (status, name) in failures {
        responses = with(responses, status, reference("responses", name));
    }
    json!({
        "operationId": operation_id,
        "summary": summary,
        "security": [{"token": []}, {"session": []}],
        "responses": responses,
    })
}

/// What is sent as JSON.
fn body(schema: &str) -> Value {
    json!({"required": true, "content": {JSON: {"schema": reference("schemas", schema)}}})
}

fn failure(description: &str) -> Value {
    success(description, JSON, &reference("schemas", "Failure"))
}

/// What is answered to bodies that cannot be read.
fn refused_bodies() -> Value {
    json!({
        "400": failure("The body is not what it must be, or did not come."),
        "413": failure("The body is too large."),
        "415": failure("The body is not application/json."),
    })
}

const OF_READS: [(&str, &str); 3] = [
    ("401", "Unauthorized"),
    ("500", "InternalError"),
    ("503", "Unavailable"),
];
const OF_LISTS: [(&str, &str); 4] = [
    ("400", "BadParameter"),
    ("401", "Unauthorized"),
    ("500", "InternalError"),
    ("503", "Unavailable"),
];

fn tag(description: &str) -> Value {
    let schema = json!({"type": "string", "pattern": "^W/\".+\"$"});
    json!({"ETag": {"required": true, "schema": schema, "description": description}})
}

fn known_tag() -> Value {
    json!({
        "name": "If-None-Match", "in": "header", "schema": {"type": "string"},
        "description": "The `ETag` of an answer that the client holds.",
    })
}

/// A list: pages of `item`. `is_paged` if every answer is a page.
fn list<L: List>(operation_id: &str, summary: &str, item: &str, is_paged: bool) -> Value {
    let mut required = vec!["ok", "items"];
    if is_paged {
        required.push("next_cursor");
    }
    let body = json!({
        "type": "object",
        "required": required,
        "properties": {
            "ok": {"type": "boolean", "enum": [true]},
            "items": {"type": "array", "items": reference("schemas", item)},
            "next_cursor": {
                "type": ["string", "null"], "minLength": 1,
                "description": "Continues after the last item; null at the end. There if `limit` is.",
            },
        },
    });
    let mut page = success("The items.", JSON, &body);
    if is_paged {
        let links = json!({
            "next": {
                "operationId": operation_id,
                "parameters": {"query.cursor": "$response.body#/next_cursor"},
                "description": "The next page, with the other parameters as they were.",
            },
        });
        page = with(page, "links", links);
    }
    tagged(operation_id, summary, page, parameters_of::<L>())
}

/// What answers 304 to who holds the answer already.
fn tagged(operation_id: &str, summary: &str, found: Value, mut parameters: Vec<Value>) -> Value {
    let tag = tag("Of the data and the question.");
    let found = with(found, "headers", tag.clone());
    let unchanged = json!({"description": "The client holds the answer already.", "headers": tag});
    let operation = read(
        operation_id,
        summary,
        json!({"200": found, "304": unchanged}),
        &OF_LISTS,
    );
    parameters.push(known_tag());
    json!({"get": with(operation, "parameters", parameters.into())})
}

pub(crate) fn emails() -> Value {
    list::<Emails>(
        "listEmails",
        "All emails, the latest first; pages of them if limited",
        "Email",
        false,
    )
}

pub(crate) fn open_events() -> Value {
    list::<OpenEvents>(
        "listOpenEvents",
        "Opens, the latest first; pages of them if limited",
        "OpenEvent",
        false,
    )
}

pub(crate) fn search() -> Value {
    list::<Search>(
        "searchEmails",
        "Emails as the page searches them, a page at a time",
        "Email",
        true,
    )
}

pub(crate) fn charts() -> Value {
    let asked = Parameters::asked_by(Charts::read);
    tagged(
        "charts",
        "The numbers that charts are drawn from, of the opens and emails of a span of time",
        success("As of now.", JSON, &reference("schemas", "Charts")),
        asked.into_iter().map(parameter).collect(),
    )
}

/// A list as a file.
fn file<L: List>(operation_id: &str, summary: &str, content_type: &str, schema: &Value) -> Value {
    let found = success(
        "The whole file; a connection that breaks off means that it is not.",
        content_type,
        schema,
    );
    let headers = json!({
        "Content-Disposition": {
            "required": true, "schema": {"type": "string", "pattern": "^attachment; filename=\""},
            "description": "Names the file, with the day.",
        },
    });
    let operation = read(
        operation_id,
        summary,
        json!({"200": with(found, "headers", headers)}),
        &OF_LISTS,
    );
    json!({"get": with(operation, "parameters", parameters_of::<L>().into())})
}

fn rows_of(item: &str) -> Value {
    json!({"type": "array", "items": reference("schemas", item)})
}

const CSV: &str = "text/csv";

pub(crate) fn emails_csv() -> Value {
    file::<File<Search, Csv>>(
        "exportEmailsAsCsv",
        "Emails as a CSV file",
        CSV,
        &json!({"type": "string"}),
    )
}

pub(crate) fn emails_json() -> Value {
    file::<File<Search, Json>>(
        "exportEmailsAsJson",
        "Emails as a JSON file",
        JSON,
        &rows_of("Email"),
    )
}

pub(crate) fn opens_csv() -> Value {
    file::<File<OpenEvents, Csv>>(
        "exportOpensAsCsv",
        "Opens as a CSV file",
        CSV,
        &json!({"type": "string"}),
    )
}

pub(crate) fn opens_json() -> Value {
    file::<File<OpenEvents, Json>>(
        "exportOpensAsJson",
        "Opens as a JSON file",
        JSON,
        &rows_of("OpenEvent"),
    )
}

pub(crate) fn live() -> Value {
    let events = json!({
        "description": "`changed` events whose id names the state of the data, for at most ten minutes.",
        "content": {"text/event-stream": {}},
    });
    let operation = read(
        "listen",
        "Says within a second that something which the lists show has changed",
        json!({"200": events}),
        &OF_READS,
    );
    let parameters = json!([{
        "name": "Last-Event-ID", "in": "header", "schema": {"type": "string"},
        "description": "The id of the last event; another state is told at once.",
    }]);
    json!({"get": with(operation, "parameters", parameters)})
}

pub(crate) fn this_document() -> Value {
    let tag = tag("Of the document.");
    let schema = json!({"type": "object", "required": ["openapi", "paths"]});
    let document = with(success("The document.", JSON, &schema), "headers", tag.clone());
    let unchanged = json!({"description": "The client holds it already.", "headers": tag});
    let responses = json!({"200": document, "304": unchanged});
    let operation = read("openapi", "This document", responses, &OF_READS);
    json!({"get": with(operation, "parameters", json!([known_tag()]))})
}

pub(crate) fn erasures() -> Value {
    let list = json!({
        "type": "object",
        "required": ["ok", "items"],
        "properties": {
            "ok": {"type": "boolean", "enum": [true]},
            "items": {"type": "array", "maxItems": MOST_SHOWN, "items": reference("schemas", "Erasure")},
        },
    });
    let found = success("The latest hundred.", JSON, &list);
    let summary = "What was erased when, the latest first; whose it was is not kept";
    let shown = read("listErasures", summary, json!({"200": found}), &OF_READS);

    let done = success("What was erased.", JSON, &reference("schemas", "Erased"));
    let mut responses = with(refused_bodies(), "200", done);
    let retry = json!({
        "schema": {"type": "integer", "minimum": 1},
        "description": "Seconds. There if the recorder or the database is away, and not if somebody has to set it up.",
    });
    let away = failure(
        "The recorder or the database is away, no recorder is set up, or it refuses the dashboard. Part of it may be done; \
         it may be asked for again.",
    );
    responses = with(
        responses,
        "503",
        with(away, "headers", json!({"Retry-After": retry})),
    );
    let refusals = [
        ("401", "Unauthorized"),
        ("403", "Forbidden"),
        ("500", "InternalError"),
    ];
    let mut erased = read(
        "erase",
        "Erases an email, or all emails to an address, for good",
        responses,
        &refusals,
    );
    erased = with(erased, "requestBody", body("ErasureRequest"));
    let token = json!({
        "name": CSRF_HEADER, "in": "header", "schema": {"type": "string"},
        "description": "The session's `csrf_token`; with the header of the dashboard's token it is not needed.",
    });
    json!({"get": shown, "post": with(erased, "parameters", json!([token]))})
}

pub(crate) fn erasure_preview() -> Value {
    let found = success("As of now.", JSON, &reference("schemas", "ErasureAmount"));
    let operation = read(
        "previewErasure",
        "How much would be erased; one of the parameters must be given, and not both",
        json!({"200": found}),
        &OF_LISTS,
    );
    let asked = Parameters::asked_by(Wish::read);
    let parameters: Vec<Value> = asked.into_iter().map(parameter).collect();
    json!({"get": with(operation, "parameters", parameters.into())})
}

fn diagnostic(operation_id: &str, summary: &str, schema: &str) -> Value {
    let found = success("As of now.", JSON, &reference("schemas", schema));
    json!({"get": read(operation_id, summary, json!({"200": found}), &OF_READS)})
}

pub(crate) fn latencies() -> Value {
    diagnostic(
        "gmailProxyLatency",
        "How long Gmail's proxy took from a mark to its hit, in milliseconds",
        "Latencies",
    )
}

pub(crate) fn suppress_signals() -> Value {
    diagnostic("suppressSignals", "What became of marks", "SuppressSignals")
}

pub(crate) fn suppression_debug() -> Value {
    diagnostic(
        "suppressionDebug",
        "What became of marks, by email",
        "SuppressionDebug",
    )
}

pub(crate) fn health() -> Value {
    let answer = |description: &str| success(description, JSON, &reference("schemas", "DashboardHealth"));
    json!({"get": {
        "operationId": "dashboardHealth",
        "summary": "Whether the dashboard can read",
        "security": [],
        "responses": {"200": answer("It can."), "503": answer("Its database is not available.")},
    }})
}

pub(crate) fn session() -> Value {
    let opened = success("The session.", JSON, &reference("schemas", "Session"));
    let cookie = json!({"Set-Cookie": {"required": true, "schema": {"type": "string"},
                                             "description": "The session, for the browser alone."}});
    let begun = with(opened.clone(), "headers", cookie);
    let ended = json!({
        "type": "object",
        "required": ["ok", "all_sessions_ended"],
        "properties": {
            "ok": {"type": "boolean", "enum": [true]},
            "all_sessions_ended": {
                "type": "boolean",
                "description": "Whether those of everybody are; false without a recorder, or if it is away.",
            },
        },
    });
    let mut of_log_in = with(refused_bodies(), "200", begun);
    for (status, name) in [
        ("401", "Unauthorized"),
        ("403", "Forbidden"),
        ("429", "TooManyFailures"),
        ("500", "InternalError"),
        ("503", "Unavailable"),
    ] {
        of_log_in = with(of_log_in, status, reference("responses", name));
    }
    let of_a_session = |success: Value| {
        json!({
            "200": success,
            "401": reference("responses", "Unauthorized"),
            "403": reference("responses", "Forbidden"),
            "500": reference("responses", "InternalError"),
        })
    };
    let of_the_one_shown = with(of_a_session(opened), "503", reference("responses", "Unavailable"));
    json!({
        "post": {
            "operationId": "logIn",
            "summary": "Gives a session for the token",
            "security": [],
            "requestBody": body("Credentials"),
            "responses": of_log_in,
        },
        "get": {
            "operationId": "showSession",
            "summary": "The session that the cookie is of",
            "security": [{"session": []}],
            "responses": of_the_one_shown,
        },
        "delete": {
            "operationId": "logOut",
            "summary": "Takes the cookie away, and ends all sessions if there is a recorder",
            "security": [{"session": []}],
            "parameters": [{
                "name": CSRF_HEADER, "in": "header", "required": true, "schema": {"type": "string"},
                "description": "The session's `csrf_token`.",
            }],
            "responses": of_a_session(success("The session's cookie is gone.", JSON, &ended)),
        },
    })
}
