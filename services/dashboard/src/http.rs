//! The public port: routes, who may ask, and the headers that every answer carries.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::{Body, HttpBody as _},
    extract::{DefaultBodyLimit, RawQuery, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use database::{Database, Work};
use futures::{StreamExt, stream};
use recorder_client::Users;
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout_at;
use tower_http::{CompressionLevel, compression::CompressionLayer};
use tracking::Clock;

use crate::{
    api::{
        charts::{self, Charts},
        emails::Emails,
        erasures,
        errors::ApiError,
        export::{self, Csv, Exported, File, Format},
        list::{self, List},
        open_events::OpenEvents,
        parameters::Parameters,
        search::Search,
    },
    auth::{TOKEN_HEADER, Tokens},
    diagnostics::{
        latency::{Latencies, ReadLatencies},
        signals::{ReadSignals, SuppressSignals, SuppressionDebug},
    },
    failures::{Failures, Guesses, client_of},
    health::Health,
    live::{self, Live},
    metrics::{Metrics, Route, Shown},
    openapi,
    page::{ASSETS, Asset, INDEX, OPENAPI},
    session,
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
/// Until a body is there.
const LONGEST_BODY: Duration = Duration::from_secs(10);

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
    /// Who showed wrong ones in the header.
    pub(crate) guesses: Guesses,
    /// Who listens.
    pub(crate) live: Live,
    /// Whether machines' opens count.
    pub(crate) count_automated: bool,
    /// Who does what users ask for, if anybody does.
    pub(crate) recorder: Option<Users>,
    /// What it counts.
    pub(crate) metrics: Metrics,
}

/// A path of the API.
pub(crate) struct Endpoint {
    /// As it is asked for.
    pub(crate) path: &'static str,
    /// What the OpenAPI document says of it.
    pub(crate) document: fn() -> Value,
    methods: MethodRouter<Dashboard>,
}

/// The whole API: what is answered is documented.
pub(crate) fn endpoints() -> Vec<Endpoint> {
    let endpoint = |path, methods, document: fn() -> Value| Endpoint {
        path,
        document,
        methods,
    };
    let session_methods = get(session::show).post(session::log_in).delete(session::log_out);
    vec![
        endpoint("/dashboard/api/emails", get(list::<Emails>), openapi::emails),
        endpoint(
            "/dashboard/api/open-events",
            get(list::<OpenEvents>),
            openapi::open_events,
        ),
        endpoint("/dashboard/api/v1/emails", get(list::<Search>), openapi::search),
        endpoint(
            "/dashboard/api/v1/export/emails.csv",
            get(export::<Search, Csv>),
            openapi::emails_csv,
        ),
        endpoint(
            "/dashboard/api/v1/export/emails.json",
            get(export::<Search, export::Json>),
            openapi::emails_json,
        ),
        endpoint(
            "/dashboard/api/v1/export/opens.csv",
            get(export::<OpenEvents, Csv>),
            openapi::opens_csv,
        ),
        endpoint(
            "/dashboard/api/v1/export/opens.json",
            get(export::<OpenEvents, export::Json>),
            openapi::opens_json,
        ),
        endpoint("/dashboard/api/v1/charts", get(charts), openapi::charts),
        endpoint("/dashboard/api/v1/live", get(live::listen), openapi::live),
        endpoint(
            "/dashboard/api/v1/erasures",
            get(erasures::show).post(erasures::erase),
            openapi::erasures,
        ),
        endpoint(
            "/dashboard/api/v1/erasures/preview",
            get(erasures::preview),
            openapi::erasure_preview,
        ),
        endpoint(
            "/dashboard/api/v1/openapi.json",
            get(openapi_document),
            openapi::this_document,
        ),
        endpoint("/dashboard/session", session_methods, openapi::session),
        endpoint("/dashboard/health", get(health), openapi::health),
        endpoint(
            "/metrics/gmail-proxy-latency",
            get(gmail_proxy_latency),
            openapi::latencies,
        ),
        endpoint(
            "/metrics/suppress-signals",
            get(signals::<SuppressSignals>),
            openapi::suppress_signals,
        ),
        endpoint(
            "/metrics/suppression-debug",
            get(signals::<SuppressionDebug>),
            openapi::suppression_debug,
        ),
    ]
}

/// All that the public port answers.
pub(crate) fn router(dashboard: Dashboard) -> Router {
    let compression = CompressionLayer::new()
        .gzip(true)
        .quality(CompressionLevel::Fastest);
    let api = endpoints().into_iter().fold(Router::new(), |router, endpoint| {
        router.route(endpoint.path, endpoint.methods)
    });
    api.route("/dashboard", asset(INDEX))
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
        Ok(()) => next.run(request.map(in_time)).await,
        Err(refusal) => {
            let guesser = guesser(&refusal, &request);
            slow_down(&dashboard, guesser).await;
            refusal.into_response()
        }
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

/// Whose wrong token it is that the request is refused for, if that is why.
fn guesser(refusal: &ApiError, request: &Request) -> Option<IpAddr> {
    let headers = request.headers();
    let is_wrong_token = matches!(refusal, ApiError::Unauthorized) && headers.contains_key(TOKEN_HEADER);
    is_wrong_token.then(|| client_of(request.extensions(), headers))
}

/// Makes who shows one wrong token after the other wait for the answers.
async fn slow_down(dashboard: &Dashboard, guesser: Option<IpAddr>) {
    if let Some(client) = guesser {
        dashboard.metrics.wrong_token(Shown::InHeader);
        dashboard.guesses.note(client, dashboard.clock.now()).await;
    }
}

/// The body, which fails if it is not there in time: who may not even ask holds no connection by never ending to.
fn in_time(body: Body) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let end = tokio::time::Instant::now() + LONGEST_BODY;
    let frames = stream::unfold(body.into_data_stream(), move |mut body| async move {
        let frame = match timeout_at(end, body.next()).await {
            Ok(frame) => frame?,
            Err(_) => Err(axum::Error::new("the body took too long")),
        };
        Some((frame, body))
    });
    Body::from_stream(frames)
}

async fn list<L: List>(
    State(dashboard): State<Dashboard>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let list = L::read(&Parameters::of(query.as_deref(), dashboard.count_automated))?;
    list::answer(dashboard.database, dashboard.metrics, list, headers).await
}

async fn export<L: Exported, F: Format>(
    State(dashboard): State<Dashboard>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let file = File::<L, F>::read(&Parameters::of(query.as_deref(), dashboard.count_automated))?;
    export::answer(dashboard, file, headers).await
}

/// It tells nothing about anybody, but who may not read has no use for it.
async fn openapi_document(headers: HeaderMap) -> Response {
    let mut response = OPENAPI.response(&headers);
    let private = HeaderValue::from_static("private, no-cache");
    response.headers_mut().insert(header::CACHE_CONTROL, private);
    response
}

async fn charts(
    State(dashboard): State<Dashboard>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let charts = Charts::read(&Parameters::of(query.as_deref(), dashboard.count_automated))?;
    charts::answer(&dashboard.database, &charts, &headers).await
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

fn asset(asset: Asset) -> MethodRouter<Dashboard> {
    get(move |headers: HeaderMap| async move { asset.response(&headers) })
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_fails() {
        let whole = in_time(Body::from("{}"));
        assert_eq!(to_bytes(whole, 10).await.unwrap(), "{}");
        let dribble = stream::unfold((), |()| async {
            tokio::time::sleep(LONGEST_BODY / 10).await;
            Some((Ok::<_, axum::Error>("x"), ()))
        });
        let error = to_bytes(in_time(Body::from_stream(dribble)), 1_000)
            .await
            .unwrap_err();
        assert!(
            format!("{error:?}").contains("the body took too long"),
            "{error:?}"
        );
    }
}
