//! The gRPC interface between pixel and recorder, and its translation to and from the domain.
//!
//! The types in [`v1`] are generated from `proto/` and kept in git, so that no build needs a protobuf compiler;
//! `tests/generated.rs` says when they are out of date and renews them.

mod convert;
mod encoded;

pub use crate::{
    convert::{MalformedFact, Outcome},
    encoded::{EncodedFacts, EncodedFactsClient},
};

/// Version 1 of the interface, as generated.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::pedantic,
    clippy::as_conversions,
    reason = "generated code"
)]
pub mod v1 {
    include!("generated/email_tracker.recorder.v1.rs");
}

/// The interface's descriptors, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptors.bin");

/// Most facts in one batch.
pub const MAX_BATCH_FACTS: usize = 2_000;
/// Most bytes of facts in one batch, as encoded.
pub const MAX_BATCH_BYTES: usize = 1 << 20;
/// Most bytes of one gRPC message: a batch, with room for one fact beyond and for framing.
pub const MAX_MESSAGE_BYTES: usize = 2 << 20;
