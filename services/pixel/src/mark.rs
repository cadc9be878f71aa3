//! `POST /mark-suppress-next`: what a body says, and the answers.

use std::{collections::HashMap, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::timeout;
use tracking::{InvalidFact, facts::check_email_id};
use utoipa::ToSchema;

use crate::openapi;

/// Longest body, in bytes.
const MAX_BODY_BYTES: usize = 16 << 10;
const BODY_TIME: Duration = Duration::from_secs(10);

/// Why a request is no mark, or was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkError {
    NotJson,
    TooLarge,
    TooSlow,
    Unreadable,
    NoEmailId,
    EmailIdTooLong,
    EmailIdWithNul,
    NotStored,
}

impl MarkError {
    const fn status(self) -> StatusCode {
        match self {
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Unreadable | Self::NoEmailId | Self::EmailIdTooLong | Self::EmailIdWithNul => {
                StatusCode::BAD_REQUEST
            }
            Self::NotStored => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::NotJson => "Content-Type must be application/json",
            Self::TooLarge => "the body is larger than 16 KiB",
            Self::TooSlow => "the body did not arrive within 10 seconds",
            Self::Unreadable => "the body could not be read",
            Self::NoEmailId => "email_id is required",
            Self::EmailIdTooLong => "email_id is longer than 1024 bytes",
            Self::EmailIdWithNul => "email_id contains a NUL character",
            Self::NotStored => "the mark cannot be stored right now; try again",
        }
    }
}

/// The answer to what is no mark, or was not stored.
#[derive(Serialize, ToSchema)]
#[schema(as = MarkRefused)]
pub(crate) struct Refused {
    #[schema(schema_with = openapi::always::<false>)]
    ok: bool,
    #[schema(min_length = 1)]
    error: &'static str,
}

/// The answer to a mark.
#[derive(Serialize, ToSchema)]
#[schema(as = MarkRecorded)]
pub(crate) struct Marked<'a> {
    #[schema(schema_with = openapi::always::<true>)]
    ok: bool,
    #[schema(min_length = 1, max_length = 1024)]
    email_id: &'a str,
    /// Milliseconds since 1970.
    #[schema(minimum = 0)]
    recorded_at_ms: i64,
}

impl IntoResponse for MarkError {
    fn into_response(self) -> Response {
        let refused = Refused {
            ok: false,
            error: self.text(),
        };
        json(self.status(), &refused)
    }
}

/// The answer to a mark that is durable.
pub(crate) fn recorded(email_id: &str, recorded_at_ms: i64) -> Response {
    let answer = Marked {
        ok: true,
        email_id,
        recorded_at_ms,
    };
    json(StatusCode::OK, &answer)
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let mut response = axum::Json(body).into_response();
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Reads the email id out of a request.
pub(crate) async fn read_email_id(headers: &HeaderMap, body: Body) -> Result<String, MarkError> {
    if !is_json(headers) {
        return Err(MarkError::NotJson);
    }
    let body = match timeout(BODY_TIME, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(MarkError::TooLarge),
        Ok(Err(_)) => return Err(MarkError::Unreadable),
        Err(_) => return Err(MarkError::TooSlow),
    };
    email_id_in(&body)
}

fn is_json(headers: &HeaderMap) -> bool {
    let essence = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(|essence| essence.trim().to_ascii_lowercase());
    essence.is_some_and(|essence| {
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
    })
}

/// The email id in a body. Numbers and booleans are taken as they are written: a number may have more digits than any
/// machine's number.
fn email_id_in(body: &[u8]) -> Result<String, MarkError> {
    let fields: HashMap<String, &RawValue> =
        serde_json::from_slice(body).map_err(|_| MarkError::NoEmailId)?;
    let text = fields.get("email_id").ok_or(MarkError::NoEmailId)?.get();
    let email_id = match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str::<String>(text).map_err(|_| MarkError::NoEmailId)?,
        Some(b'-' | b'0'..=b'9' | b't' | b'f') => text.to_owned(),
        _ => return Err(MarkError::NoEmailId),
    };
    let email_id = email_id.trim();
    match check_email_id(email_id) {
        Ok(()) => Ok(email_id.to_owned()),
        Err(InvalidFact::TooLong(_)) => Err(MarkError::EmailIdTooLong),
        Err(InvalidFact::Nul(_)) => Err(MarkError::EmailIdWithNul),
        Err(_) => Err(MarkError::NoEmailId),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_numbers_and_booleans_are_email_ids() {
        for (body, email_id) in [
            (r#"{"email_id":"a-b"}"#, "a-b"),
            (r#"{"email_id":"  a b\n"}"#, "a b"),
            (r#"{"email_id":"\u00fc"}"#, "ü"),
            (r#"{"email_id":17}"#, "17"),
            (r#"{"email_id":-1.50e3}"#, "-1.50e3"),
            (
                r#"{"email_id":123456789012345678901234567890}"#,
                "123456789012345678901234567890",
            ),
            (r#"{"email_id":true}"#, "true"),
            (r#"{"email_id":false}"#, "false"),
            (r#"{"email_id":"a","other":[{}],"email_id":"b"}"#, "b"),
            (" {\"email_id\" : \"a\"} ", "a"),
        ] {
            assert_eq!(email_id_in(body.as_bytes()).as_deref(), Ok(email_id), "{body}");
        }
    }

    #[test]
    fn anything_else_is_none() {
        let bodies: [&[u8]; 14] = [
            b"",
            b"{",
            b"null",
            b"[]",
            b"\"email_id\"",
            b"{}",
            br#"{"email_id":null}"#,
            br#"{"email_id":""}"#,
            br#"{"email_id":"  "}"#,
            br#"{"email_id":["a"]}"#,
            br#"{"email_id":{"a":1}}"#,
            br#"{"email_id":"a"} x"#,
            br#"{"email_id":"a"#,
            b"{\"email_id\":\"\xff\"}",
        ];
        for body in bodies {
            assert_eq!(
                email_id_in(body),
                Err(MarkError::NoEmailId),
                "{}",
                body.escape_ascii()
            );
        }
    }

    #[test]
    fn limits_are_named() {
        let of = |email_id: &str| email_id_in(format!(r#"{{"email_id":"{email_id}"}}"#).as_bytes());
        assert_eq!(of(&"x".repeat(1_024)).map(|it| it.len()), Ok(1_024));
        assert_eq!(of(&"x".repeat(1_025)), Err(MarkError::EmailIdTooLong));
        assert_eq!(of("a\\u0000b"), Err(MarkError::EmailIdWithNul));
    }
}
