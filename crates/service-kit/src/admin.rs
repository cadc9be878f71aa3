//! The admin port: `/live`, `/ready`, `/metrics` and `/log-level`. It is for the operator and is never routed to from
//! outside.
//!
//! It runs on a thread and a runtime of its own, so that probes and scrapes are answered however busy the service is.

use std::{future::Future, net::TcpListener, pin::Pin, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    http::{self, Limits},
    telemetry::{LogLevel, Metrics},
};

/// How long one check may take before it counts as failing.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// What a check finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// All is well.
    Ok,
    /// The service does its work, but somebody should look.
    Degraded(String),
    /// The service cannot do its work.
    Failing(String),
}

type Check = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Health> + Send>> + Send + Sync>;

/// The checks behind `/ready`.
#[derive(Clone, Default)]
pub struct Readiness(Vec<(&'static str, Check)>);

impl Readiness {
    /// No check: ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a check, which is asked at each probe. It runs on the admin thread and must not block it.
    #[must_use]
    pub fn check<F, R>(mut self, name: &'static str, check: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Health> + Send + 'static,
    {
        self.0.push((name, Arc::new(move || Box::pin(check()))));
        self
    }

    /// Asks all checks at once: whether the service is ready, and what each found.
    async fn ask(&self) -> (StatusCode, serde_json::Value) {
        let answers = self.0.iter().map(async |(name, check)| {
            let health = tokio::time::timeout(CHECK_TIMEOUT, check())
                .await
                .unwrap_or_else(|_| Health::Failing(format!("no answer within {CHECK_TIMEOUT:?}")));
            (*name, health)
        });
        let answers = futures::future::join_all(answers).await;
        let any = |wanted: fn(&Health) -> bool| answers.iter().any(|(_, health)| wanted(health));
        let (code, status) = if any(|health| matches!(health, Health::Failing(_))) {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready")
        } else if any(|health| matches!(health, Health::Degraded(_))) {
            (StatusCode::OK, "degraded")
        } else {
            (StatusCode::OK, "ready")
        };
        let checks: serde_json::Map<_, _> = answers
            .into_iter()
            .map(|(name, health)| {
                let found = match health {
                    Health::Ok => json!({"ok": true}),
                    Health::Degraded(detail) => json!({"ok": true, "degraded": detail}),
                    Health::Failing(detail) => json!({"ok": false, "detail": detail}),
                };
                (name.to_owned(), found)
            })
            .collect();
        (code, json!({"status": status, "checks": checks}))
    }
}

#[derive(Clone)]
struct Admin {
    readiness: Readiness,
    metrics: Metrics,
    log_level: Option<LogLevel>,
}

/// Serves the admin port until `stop`. `log_level` is what `/log-level` shows and changes; without one it is not there.
///
/// # Panics
/// Never; a panic of the admin thread is reported as this task's error.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Metrics,
    log_level: Option<LogLevel>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/live", get(|| async { Json(json!({"status": "live"})) }))
        .route("/ready", get(ready))
        .route("/metrics", get(render_metrics))
        .route("/log-level", get(get_log_level).put(set_log_level))
        .with_state(Admin {
            readiness,
            metrics,
            log_level,
        });
    let (sender, ended) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("admin".to_owned())
        .spawn(move || {
            let served = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("no runtime for the admin port")
                .and_then(|runtime| {
                    runtime.block_on(async {
                        listener.set_nonblocking(true)?;
                        let listener = tokio::net::TcpListener::from_std(listener)?;
                        // Probes are short: nothing is worth a wait at the end.
                        http::serve(listener, router, Limits::default(), Duration::ZERO, stop).await
                    })
                });
            let _nobody_waits = sender.send(served);
        })
        .context("no thread for the admin port")?;
    ended.await.context("the admin thread panicked")?
}

async fn ready(State(admin): State<Admin>) -> Response {
    let (code, body) = admin.readiness.ask().await;
    (code, Json(body)).into_response()
}

async fn render_metrics(State(admin): State<Admin>) -> Response {
    match admin.metrics.render() {
        Ok(text) => ([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn get_log_level(State(admin): State<Admin>) -> Response {
    match admin.log_level {
        Some(level) => level.get().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn set_log_level(State(admin): State<Admin>, directives: String) -> Response {
    match admin.log_level.map(|level| level.set(&directives)) {
        Some(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Some(Err(error)) => (
            StatusCode::BAD_REQUEST,
            format!("{error}; expected a level or directives\n"),
        )
            .into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
