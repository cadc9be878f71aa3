//! What an endpoint answers when it cannot answer: one shape, and nothing of the inside.

use std::error::Error;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use database::ErrorKind;
use recorder_client::CallError;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{auth::TOKEN_HEADER, openapi::schemas};

/// Seconds after which a client may try again when the database is away, or all places are taken.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// Why a request failed; its text is what the client reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// No token, a wrong one, or none is configured.
    #[error("Unauthorized")]
    Unauthorized,
    /// A parameter that cannot be understood.
    #[error("{name} {problem}")]
    Parameter {
        /// The parameter's name, one that the endpoint knows.
        name: &'static str,
        /// What is wrong with it and what is accepted.
        problem: String,
    },
    /// There is no such path.
    #[error("Not found")]
    NotFound,
    /// The path is there, but not for this method.
    #[error("Method not allowed")]
    MethodNotAllowed,
    /// The database cannot be reached, is too slow, or is not migrated yet.
    #[error("The database is not available")]
    DatabaseAway(#[source] database::Error),
    /// The recorder, which is to do it, has not done it.
    #[error("{}", away(.0))]
    Recorder(#[from] CallError),
    /// The request is understood and not allowed as it is.
    #[error("{1}")]
    Refused(StatusCode, &'static str),
    /// Too many wrong tokens from one address.
    #[error("Too many wrong tokens; try again in {seconds} s")]
    TooManyFailures {
        /// After how many seconds the next one may be given.
        seconds: i64,
    },
    /// All places are taken.
    #[error("{0}")]
    Full(&'static str),
    /// Something that the code does not understand: a defect.
    #[error("Internal error")]
    Defect(#[source] Box<dyn Error + Send + Sync>),
}

impl From<database::Error> for ApiError {
    fn from(error: database::Error) -> Self {
        let is_away = match error.kind() {
            ErrorKind::Data => false,
            // A missing table or column, database or schema will come with the migration.
            ErrorKind::Other => error.sqlstate().is_some_and(|state| match state.code() {
                "42P01" | "42703" => true,
                code => !code.starts_with("42"),
            }),
            _ => true,
        };
        if is_away {
            Self::DatabaseAway(error)
        } else {
            Self::Defect(error.into())
        }
    }
}

impl ApiError {
    /// An error about the parameter `name`; `problem` completes the sentence that the name begins.
    pub(crate) fn parameter(name: &'static str, problem: impl Into<String>) -> Self {
        Self::Parameter {
            name,
            problem: problem.into(),
        }
    }

    /// A defect, and what it looks like.
    pub(crate) fn defect(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Defect(cause.into())
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Parameter { .. } => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::DatabaseAway(_) | Self::Recorder(_) | Self::Full(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Refused(status, _) => *status,
            Self::TooManyFailures { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Defect(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// The failure's body, of every endpoint.
#[derive(Serialize, ToSchema)]
pub(crate) struct Failure {
    #[schema(schema_with = schemas::always_false)]
    ok: bool,
    /// What is wrong, for people; a bad parameter is named.
    #[schema(min_length = 1)]
    error: String,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match &self {
            Self::DatabaseAway(source) => {
                tracing::warn!(error = %source, "a request found no database");
            }
            Self::Recorder(error) => tracing::warn!(%error, "a request found no recorder"),
            Self::Defect(source) => {
                tracing::error!(error = %chain(source.as_ref()), "a request met a defect");
            }
            _ => {}
        }
        let body = Json(Failure {
            ok: false,
            error: self.to_string(),
        });
        let mut response = (self.status(), body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        match self {
            Self::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(TOKEN_HEADER));
            }
            Self::DatabaseAway(_) | Self::Recorder(CallError::Away(_)) | Self::Full(_) => {
                headers.insert(header::RETRY_AFTER, RETRY_AFTER_SECONDS);
            }
            Self::TooManyFailures { seconds } => {
                headers.insert(header::RETRY_AFTER, seconds.into());
            }
            _ => {}
        }
        response
    }
}

/// What a client is told of a recorder that has not done what it was asked.
const fn away(error: &CallError) -> &'static str {
    match error {
        CallError::Away(_) => "The recorder is not available; part of it may be done",
        CallError::Refused(_) => "The recorder refuses the dashboard; its log says why",
    }
}

/// An error with its causes.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_finds_no_place_is_told_when_to_come_again() {
        let response = ApiError::Full("Too many listen already").into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "5");
    }
}
