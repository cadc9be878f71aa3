//! The one public address: each path goes to the service that answers it, everything else is not there.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::Request,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde_json::json;
use service_kit::http::{self, Limits, Mount};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// The paths of the dashboard outside `/dashboard`.
const DIAGNOSTICS: [&str; 3] = [
    "/metrics/gmail-proxy-latency",
    "/metrics/suppress-signals",
    "/metrics/suppression-debug",
];

/// Who answers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Service {
    Pixel,
    Dashboard,
}

/// Who answers a path. The path counts as it was sent: nobody decodes or shortens it before it is answered.
fn service_of(path: &str) -> Option<Service> {
    if path.starts_with("/t/") || path == "/mark-suppress-next" || path == "/health" {
        Some(Service::Pixel)
    } else if path == "/dashboard" || path.starts_with("/dashboard/") || DIAGNOSTICS.contains(&path) {
        Some(Service::Dashboard)
    } else {
        None
    }
}

/// The public socket and who answers on it.
pub(super) struct Front {
    pub(super) listener: TcpListener,
    pub(super) pixel: Mount,
    pub(super) dashboard: LateRouter,
}

/// The dashboard's router, which is there once its database is.
#[derive(Clone, Default)]
pub(super) struct LateRouter(Arc<OnceLock<Router>>);

impl LateRouter {
    /// From now on the dashboard answers.
    pub(super) fn join(&self, router: Router) {
        // There is one dashboard; a second one would be refused here.
        let _ = self.0.set(router);
    }

    async fn answer(&self, request: Request) -> Response {
        if let Some(router) = self.0.get() {
            return answer(router.clone(), request).await;
        }
        let starting = json!({"status": "unavailable", "ok": false, "error": "the database is starting"});
        (StatusCode::SERVICE_UNAVAILABLE, Json(starting)).into_response()
    }
}

impl Front {
    /// Serves as soon as the pixel can answer, until `stop`.
    pub(super) async fn serve(self, grace: Duration, stop: CancellationToken) -> anyhow::Result<()> {
        let Some(pixel) = self.pixel.router().await else {
            // A pixel that ended without a router says itself why; nothing else needs to go on starting.
            stop.cancel();
            return Ok(());
        };
        http::serve(
            self.listener,
            join(pixel, self.dashboard),
            Limits::default(),
            grace,
            stop,
        )
        .await
    }
}

fn join(pixel: Router, dashboard: LateRouter) -> Router {
    Router::new().fallback(
        async move |request: Request| match service_of(request.uri().path()) {
            Some(Service::Pixel) => answer(pixel.clone(), request).await,
            Some(Service::Dashboard) => dashboard.answer(request).await,
            None => StatusCode::NOT_FOUND.into_response(),
        },
    )
}

async fn answer(router: Router, request: Request) -> Response {
    router
        .oneshot(request)
        .await
        .unwrap_or_else(|never| match never {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_public_path_has_its_service() {
        for path in [
            "/t/",
            "/t/abc.gif",
            "/t/a/b",
            "/t/%zz",
            "/mark-suppress-next",
            "/health",
        ] {
            assert_eq!(service_of(path), Some(Service::Pixel), "{path}");
        }
        for path in [
            "/dashboard",
            "/dashboard/",
            "/dashboard/api/emails",
            "/metrics/suppress-signals",
        ] {
            assert_eq!(service_of(path), Some(Service::Dashboard), "{path}");
        }
    }

    #[test]
    fn nothing_else_is_there() {
        for path in [
            "/",
            "/t",
            "/metrics",
            "/metrics/",
            "/metrics/x",
            "/ready",
            "/live",
            "/healthz",
            "//t/x",
            "/dashboards",
        ] {
            assert_eq!(service_of(path), None, "{path}");
        }
    }

    #[tokio::test]
    async fn pixels_are_answered_before_the_dashboard_is_there() {
        let saying = |text: &'static str| Router::new().fallback(async move || text);
        let dashboard = LateRouter::default();
        let router = join(saying("pixel"), dashboard.clone());
        let get = async |path: &str| {
            let request = Request::builder()
                .uri(path)
                .body(axum::body::Body::empty())
                .unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            let status = response.status().as_u16();
            let body = axum::body::to_bytes(response.into_body(), 1024).await.unwrap();
            (status, String::from_utf8_lossy(&body).into_owned())
        };
        assert_eq!(get("/t/x.gif").await, (200, "pixel".to_owned()));
        let (status, body) = get("/dashboard/health").await;
        assert_eq!(status, 503);
        assert!(
            body.contains("\"status\":\"unavailable\"") && body.contains("\"ok\":false"),
            "{body}"
        );
        dashboard.join(saying("dashboard"));
        assert_eq!(get("/dashboard/health").await, (200, "dashboard".to_owned()));
        assert_eq!(get("/metrics").await.0, 404);
    }
}
