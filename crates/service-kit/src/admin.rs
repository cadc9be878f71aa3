//! The admin port: `/live`, `/ready`, `/metrics` and `/log-level`. It is for the operator and is never routed to from
//! outside.
//!
//! It runs on a thread and a runtime of its own, so that probes and scrapes are answered however busy the service is: a
//! thread waiting for a socket costs nothing, and the system schedules it beside the service's. The checks themselves run
//! on the service's runtime: one that hangs is not ready, and a connection that a check opens lives where it is used.

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
use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    http::{self, Lanes, Limits},
    telemetry::{Directives, LogLevel, Metrics},
};

/// How long one check may take before it counts as failing; shorter than the 3 s that [`crate::program::healthcheck`] waits.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Probes and scrapes are few and short.
const LIMITS: Limits = Limits {
    connections: 256,
    head_bytes: 16 << 10,
    head_time: Duration::from_secs(75),
    lanes: Lanes::None,
};

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

    /// Adds a check, which is asked at each probe; no answer within 2 s, or a panic, counts as failing.
    #[must_use]
    pub fn check<F, R>(mut self, name: &'static str, check: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Health> + Send + 'static,
    {
        self.0.push((name, Arc::new(move || Box::pin(check()))));
        self
    }

    /// Asks all checks at once, on the service's runtime: whether the service is ready, and what each found.
    async fn ask(&self, service: &Handle) -> (StatusCode, serde_json::Value) {
        let answers = self.0.iter().map(async |(name, check)| {
            let asked = AbortOnDropHandle::new(service.spawn(check()));
            let health = match tokio::time::timeout(CHECK_TIMEOUT, asked).await {
                Ok(Ok(health)) => health,
                Ok(Err(error)) => Health::Failing(format!("the check itself failed: {error}")),
                Err(_) => Health::Failing(format!("no answer within {CHECK_TIMEOUT:?}")),
            };
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
        let found = answers
            .into_iter()
            .map(|(name, health)| (name.to_owned(), health.found()));
        let checks: serde_json::Map<_, _> = found.collect();
        (code, json!({"status": status, "checks": checks}))
    }
}

impl Health {
    /// `ok`: it does its work; `detail`: what somebody should look at.
    fn found(self) -> serde_json::Value {
        match self {
            Self::Ok => json!({"ok": true}),
            Self::Degraded(detail) => json!({"ok": true, "detail": detail}),
            Self::Failing(detail) => json!({"ok": false, "detail": detail}),
        }
    }
}

#[derive(Clone)]
struct Admin {
    readiness: Readiness,
    service: Handle,
    metrics: Metrics,
    log_level: Option<LogLevel>,
}

/// Serves the admin port until `stop`. `log_level` is what `/log-level` shows and changes; without one it is not there.
/// Call it on the service's runtime, where the checks are to run.
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
        // POST too: the one client in the containers, BusyBox's wget, knows no PUT.
        .route(
            "/log-level",
            get(get_log_level).put(set_log_level).post(set_log_level),
        )
        .with_state(Admin {
            readiness,
            service: Handle::current(),
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
                        http::serve(listener, router, LIMITS, Duration::ZERO, stop).await
                    })
                });
            let _nobody_waits = sender.send(served);
        })
        .context("no thread for the admin port")?;
    ended.await.context("the admin thread panicked")?
}

async fn ready(State(admin): State<Admin>) -> Response {
    let (code, body) = admin.readiness.ask(&admin.service).await;
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
        Some(level) => format!("{}\n", level.get()).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn set_log_level(State(admin): State<Admin>, directives: String) -> Response {
    let Some(level) = admin.log_level else {
        return StatusCode::NOT_FOUND.into_response();
    };
    match directives.trim().parse::<Directives>() {
        Ok(directives) => {
            level.set(&directives);
            tracing::warn!(level = %directives, "the log level was changed");
            StatusCode::NO_CONTENT.into_response()
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}
