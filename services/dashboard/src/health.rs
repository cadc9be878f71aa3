//! Whether the dashboard can read: what its health and its readiness say.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use database::Database;
use serde::Serialize;
use tokio::{sync::Mutex, time::timeout};
use utoipa::ToSchema;

use crate::openapi::schemas;

/// Longest that a check waits for the database.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// How long an answer holds. Anybody may ask for the health; however often, the database is asked once in this time.
const FRESH: Duration = Duration::from_secs(1);

/// Asks the database now and then whether it can be read. Clones share what was found.
#[derive(Clone)]
pub(crate) struct Health {
    database: Database,
    last: Arc<Mutex<Option<Finding>>>,
}

/// What was found, and when.
type Finding = (Instant, Result<(), String>);

/// The body of `/dashboard/health`.
#[derive(Serialize, ToSchema)]
#[schema(as = DashboardHealth)]
pub(crate) struct Body {
    #[schema(schema_with = schemas::status)]
    status: &'static str,
    ok: bool,
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

impl Health {
    /// Of `database`.
    pub(crate) fn of(database: Database) -> Self {
        Self {
            database,
            last: Arc::default(),
        }
    }

    /// Whether a read works and the schema is at least the one this build needs; else why not, for the operator.
    pub(crate) async fn check(&self) -> Result<(), String> {
        let mut last = self.last.lock().await;
        if let Some((at, found)) = &*last
            && at.elapsed() < FRESH
        {
            return found.clone();
        }
        let found = match timeout(PATIENCE, self.database.check_schema()).await {
            Ok(checked) => checked.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the database did not answer within {PATIENCE:?}")),
        };
        *last = Some((Instant::now(), found.clone()));
        found
    }

    /// The answer of `/dashboard/health`. The reason of a failure is for the log and `/ready`, not for the public.
    pub(crate) async fn response(&self) -> Response {
        let (code, body) = match self.check().await {
            Ok(()) => (
                StatusCode::OK,
                Body {
                    status: "ok",
                    ok: true,
                    error: None,
                },
            ),
            Err(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                Body {
                    status: "unavailable",
                    ok: false,
                    error: Some("The database is not available"),
                },
            ),
        };
        let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
        (code, no_store, Json(body)).into_response()
    }
}
