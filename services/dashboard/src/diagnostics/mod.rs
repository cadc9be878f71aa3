//! The diagnostics: how well "suppress next" works between the extension and Google's image proxy.

pub(crate) mod latency;
pub(crate) mod signals;
