//! The answer to every pixel: one fully transparent 1×1 GIF that nobody may cache.

use axum::{body::Body, http::HeaderMap, response::Response};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};

/// A `GIF89a` of one pixel, whose only colour is marked as transparent.
pub const GIF: [u8; 43] = [
    b'G', b'I', b'F', b'8', b'9', b'a', // signature
    1, 0, 1, 0, 0x80, 0, 0, // 1×1, a colour table of two
    0, 0, 0, 0xff, 0xff, 0xff, // black, white
    0x21, 0xf9, 4, 1, 0, 0, 0, 0, // graphic control: colour 0 is transparent
    0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, // the image: 1×1 at 0, 0
    2, 2, 0x44, 1, 0,    // its pixel: colour 0
    0x3b, // end
];

const HEADERS: [(HeaderName, HeaderValue); 5] = [
    (header::CONTENT_TYPE, HeaderValue::from_static("image/gif")),
    (header::CONTENT_LENGTH, HeaderValue::from_static("43")),
    (
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-store, no-cache, must-revalidate, max-age=0"),
    ),
    (header::PRAGMA, HeaderValue::from_static("no-cache")),
    (header::EXPIRES, HeaderValue::from_static("0")),
];

/// Makes the answers; its headers are built once.
#[derive(Clone, Debug)]
pub(crate) struct GifResponse(HeaderMap);

impl GifResponse {
    pub(crate) fn new() -> Self {
        Self(HeaderMap::from_iter(HEADERS))
    }

    /// The answer to a GET; without its body also that to a HEAD, which HTTP sends without one.
    pub(crate) fn make(&self) -> Response {
        let mut response = Response::new(Body::from(Bytes::from_static(&GIF)));
        *response.headers_mut() = self.0.clone();
        response
    }
}
