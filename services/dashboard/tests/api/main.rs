//! The dashboard over HTTP, against a real database.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helper fails the test by panicking"
)]

mod access;
mod automated;
mod charts;
mod diagnostics;
mod document;
mod emails;
mod erasures;
mod export;
mod live;
mod measure;
mod open_events;
mod outage;
mod recorder;
mod replica;
mod search;
mod session;
mod streaming;
mod support;
