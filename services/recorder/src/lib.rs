//! The recorder.

mod describe;
mod device;
mod geo;
mod grpc;
mod metrics;
mod partitions;
mod range;
mod record;
mod schema;
mod upkeep;
mod workers;
