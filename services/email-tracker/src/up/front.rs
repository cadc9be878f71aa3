//! The one public address: each path goes to the service that answers it, everything else is not there.

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
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

/// Joins the routers of both services.
pub(super) fn join(pixel: Router, dashboard: Router) -> Router {
    Router::new().fallback(async move |request: Request| -> Response {
        let router = match service_of(request.uri().path()) {
            Some(Service::Pixel) => pixel.clone(),
            Some(Service::Dashboard) => dashboard.clone(),
            None => return StatusCode::NOT_FOUND.into_response(),
        };
        router
            .oneshot(request)
            .await
            .unwrap_or_else(|never| match never {})
    })
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
}
