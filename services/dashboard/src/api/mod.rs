//! The API that the extension and the page read.

pub(crate) mod cells;
pub(crate) mod charts;
pub(crate) mod cursor;
pub(crate) mod emails;
pub(crate) mod erasures;
pub(crate) mod errors;
pub(crate) mod etag;
pub(crate) mod export;
pub(crate) mod list;
pub(crate) mod open_events;
pub(crate) mod parameters;
pub(crate) mod search;
