//! The public port: routes, who may ask, and the headers that every answer carries.

use std::{sync::Arc, time::Instant};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, RawQuery, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use database::{Database, Work};
use recorder_client::Users;
use serde::Serialize;
use tower_http::{CompressionLevel, compression::CompressionLayer};
use tracking::Clock;

use crate::{
    api::{
        charts,
        emails::Emails,
        erasures,
        errors::ApiError,
        list::{self, List},
        open_events::OpenEvents,
        parameters::Parameters,
        search::Search,
    },
    auth::Tokens,
    diagnostics::{
        latency::{Latencies, ReadLatencies},
        signals::{ReadSignals, SuppressSignals, SuppressionDebug},
    },
    health::Health,
    live::{self, Live},
    metrics::{Metrics, Route},
    page::{ASSETS, Asset, INDEX},
    session::{self, Failures},
};

/// Headers of every answer that does not say otherwise itself.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=()",
    ),
];

/// Of what is sent to log in or to erase, in bytes.
const LARGEST_BODY: usize = 16 << 10;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Dashboard {
    /// Where it reads.
    pub(crate) database: Database,
    /// The time by which marks expire.
    pub(crate) clock: Arc<dyn Clock>,
    /// Who may read.
    pub(crate) tokens: Tokens,
    /// Whether it can.
    pub(crate) health: Health,
    /// Who gave wrong tokens.
    pub(crate) failures: Failures,
    /// Who listens.
    pub(crate) live: Live,
    /// Whether machines' opens count.
    pub(crate) count_automated: bool,
    /// Who does what users ask for, if anybody does.
    pub(crate) recorder: Option<Users>,
    /// What it counts.
    pub(crate) metrics: Metrics,
}

/// All that the public port answers.
pub(crate) fn router(dashboard: Dashboard) -> Router {
    let compression = CompressionLayer::new()
        .gzip(true)
        .quality(CompressionLevel::Fastest);
    Router::new()
        .route("/dashboard/api/emails", get(list::<Emails>))
        .route("/dashboard/api/open-events", get(list::<OpenEvents>))
        .route("/dashboard/api/v1/emails", get(list::<Search>))
        .route("/dashboard/api/v1/charts", get(charts))
        .route("/dashboard/api/v1/live", get(live::listen))
        .route(
            "/dashboard/api/v1/erasures",
            get(erasures::show).post(erasures::erase),
        )
        .route("/dashboard/api/v1/erasures/preview", get(erasures::preview))
        .route(
            "/dashboard/session",
            get(session::show).post(session::log_in).delete(session::log_out),
        )
        .route("/metrics/gmail-proxy-latency", get(gmail_proxy_latency))
        .route("/metrics/suppress-signals", get(signals::<SuppressSignals>))
        .route("/metrics/suppression-debug", get(signals::<SuppressionDebug>))
        .route("/dashboard/health", get(health))
        .route("/dashboard", asset(INDEX))
        .route("/dashboard/", asset(INDEX))
        .merge(assets())
        .fallback(|| async { ApiError::NotFound })
        .method_not_allowed_fallback(|| async { ApiError::MethodNotAllowed })
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(compression)
        .layer(middleware::from_fn_with_state(dashboard.clone(), guard))
        .with_state(dashboard)
}

/// Counts the request, asks for the token where personal data lies, and adds [`HEADERS`].
async fn guard(State(dashboard): State<Dashboard>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let path = request.uri().path();
    let route = Route::of(path);
    let is_private =
        path == "/dashboard/api" || path.starts_with("/dashboard/api/") || path.starts_with("/metrics/");
    let admitted = if is_private {
        session::may_read(&dashboard, request.headers()).await
    } else {
        Ok(())
    };
    let mut response = match admitted {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    dashboard
        .metrics
        .answered(route, response.status(), started.elapsed());
    response
}

async fn list<L: List>(
    State(dashboard): State<Dashboard>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let parameters = Parameters::of(query.as_deref(), dashboard.count_automated);
    list::answer::<L>(dashboard.database, dashboard.metrics, &parameters, headers).await
}

async fn charts(
    State(dashboard): State<Dashboard>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let parameters = Parameters::of(query.as_deref(), dashboard.count_automated);
    charts::answer(&dashboard.database, &parameters, &headers).await
}

async fn gmail_proxy_latency(State(dashboard): State<Dashboard>) -> Result<Response, ApiError> {
    diagnostic(&dashboard, ReadLatencies, Latencies::of).await
}

async fn signals<T>(State(dashboard): State<Dashboard>) -> Result<Response, ApiError>
where
    T: From<<ReadSignals as Work>::Output> + Serialize,
{
    let now = dashboard.clock.now();
    diagnostic(&dashboard, ReadSignals { now }, T::from).await
}

/// Reads by `work` and answers what `sum_up` makes of it. It is personal data: nobody keeps it.
async fn diagnostic<W: Work, T: Serialize>(
    dashboard: &Dashboard,
    work: W,
    sum_up: impl FnOnce(W::Output) -> T,
) -> Result<Response, ApiError> {
    let found = dashboard.database.transact(&work).await?;
    let no_store = [(header::CACHE_CONTROL, "no-store")];
    Ok((no_store, Json(sum_up(found))).into_response())
}

async fn health(State(dashboard): State<Dashboard>) -> Response {
    dashboard.health.response().await
}

/// What the page loads.
fn assets() -> Router<Dashboard> {
    ASSETS.iter().fold(Router::new(), |router, (path, file)| {
        router.route(path, asset(*file))
    })
}

fn asset(asset: Asset) -> axum::routing::MethodRouter<Dashboard> {
    get(move |headers: HeaderMap| async move { asset.response(&headers) })
}
