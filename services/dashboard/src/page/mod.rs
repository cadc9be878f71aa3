//! The dashboard page: the files that the browser loads, compiled in. It asks nobody else for anything.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

use crate::api::etag::ETag;

/// Only what comes from here, and nothing inline; texts never become markup.
const CONTENT_SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
);

/// The page itself.
pub(crate) const INDEX: Asset = Asset {
    content: include_str!("index.html"),
    content_type: "text/html; charset=utf-8",
};

/// Loaded when a chart is drawn first (vendor/README.md).
const CHART_LIBRARY: &str = "/dashboard/chart.umd.min.js";

/// What the page loads, by path.
pub(crate) const ASSETS: [(&str, Asset); 18] = [
    ("/dashboard/style.css", css(include_str!("style.css"))),
    ("/dashboard/icon.svg", svg(include_str!("icon.svg"))),
    ("/dashboard/app.js", script(include_str!("app.js"))),
    ("/dashboard/charts.js", script(include_str!("charts.js"))),
    ("/dashboard/dom.js", script(include_str!("dom.js"))),
    ("/dashboard/drawing.js", script(include_str!("drawing.js"))),
    ("/dashboard/emails.js", script(include_str!("emails.js"))),
    ("/dashboard/erase.js", script(include_str!("erase.js"))),
    ("/dashboard/export.js", script(include_str!("export.js"))),
    ("/dashboard/fresh.js", script(include_str!("fresh.js"))),
    ("/dashboard/list.js", script(include_str!("list.js"))),
    ("/dashboard/notify.js", script(include_str!("notify.js"))),
    ("/dashboard/place.js", script(include_str!("place.js"))),
    ("/dashboard/requests.js", script(include_str!("requests.js"))),
    ("/dashboard/session.js", script(include_str!("session.js"))),
    ("/dashboard/timeline.js", script(include_str!("timeline.js"))),
    ("/dashboard/words.js", script(include_str!("words.js"))),
    (CHART_LIBRARY, script(include_str!("vendor/chart.umd.min.js"))),
];

/// Whether `path` is the page or something that it loads.
pub(crate) fn is_page(path: &str) -> bool {
    matches!(path, "/dashboard" | "/dashboard/") || ASSETS.iter().any(|(asset, _)| *asset == path)
}

/// One file of the page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asset {
    content: &'static str,
    content_type: &'static str,
}

/// What the API is, for programs.
pub(crate) const OPENAPI: Asset = Asset {
    content: include_str!("../../../../docs/openapi.json"),
    content_type: "application/json",
};

const fn script(content: &'static str) -> Asset {
    Asset {
        content,
        content_type: "text/javascript; charset=utf-8",
    }
}

const fn css(content: &'static str) -> Asset {
    Asset {
        content,
        content_type: "text/css; charset=utf-8",
    }
}

const fn svg(content: &'static str) -> Asset {
    Asset {
        content,
        content_type: "image/svg+xml",
    }
}

impl Asset {
    /// The file, or 304 if the client holds it. Revalidated each time, so that an update of the server is seen at once.
    pub(crate) fn response(self, request: &HeaderMap) -> Response {
        let etag = ETag::new("page", &self.content, &Vec::new());
        let mut response = if etag.is_known(request) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let content_type = [(header::CONTENT_TYPE, self.content_type)];
            (content_type, Body::from(self.content)).into_response()
        };
        let headers = response.headers_mut();
        if let Some(etag) = etag.header() {
            headers.insert(header::ETAG, etag);
        }
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_that_is_imported_is_served_and_all_are_loaded_at_once() {
        for (path, asset) in ASSETS {
            let imports = asset.content.split("from \"./").skip(1);
            for name in imports.filter_map(|rest| rest.split('"').next()) {
                assert!(is_page(&format!("/dashboard/{name}")), "{path} imports {name}");
            }
            let is_named = ["href", "src"].map(|by| INDEX.content.contains(&format!("{by}=\"{path}\"")));
            assert_eq!(is_named.contains(&true), path != CHART_LIBRARY, "{path}");
        }
    }

    #[test]
    fn the_chart_library_is_the_one_that_its_notes_describe() {
        use sha2::{Digest, Sha256};
        use std::fmt::Write;

        let digest = Sha256::digest(include_str!("vendor/chart.umd.min.js"));
        let hash = digest.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        assert!(include_str!("vendor/README.md").contains(&hash), "{hash}");
    }
}
