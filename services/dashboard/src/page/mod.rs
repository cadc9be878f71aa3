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

/// One file of the page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asset {
    content: &'static str,
    content_type: &'static str,
}

/// The page itself.
pub(crate) const INDEX: Asset = Asset {
    content: include_str!("index.html"),
    content_type: "text/html; charset=utf-8",
};
/// What it does.
pub(crate) const APP: Asset = Asset {
    content: include_str!("app.js"),
    content_type: "text/javascript; charset=utf-8",
};
/// What it lets people keep.
pub(crate) const EXPORT: Asset = Asset {
    content: include_str!("export.js"),
    content_type: "text/javascript; charset=utf-8",
};
/// How it erases.
pub(crate) const ERASE: Asset = Asset {
    content: include_str!("erase.js"),
    content_type: "text/javascript; charset=utf-8",
};
/// How it looks.
pub(crate) const STYLE: Asset = Asset {
    content: include_str!("style.css"),
    content_type: "text/css; charset=utf-8",
};
/// What the API is, for programs.
pub(crate) const OPENAPI: Asset = Asset {
    content: include_str!("../../../../docs/openapi.json"),
    content_type: "application/json",
};
/// Its icon.
pub(crate) const ICON: Asset = Asset {
    content: include_str!("icon.svg"),
    content_type: "image/svg+xml",
};

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
