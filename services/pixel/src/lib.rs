//! The pixel.

pub mod spool;
