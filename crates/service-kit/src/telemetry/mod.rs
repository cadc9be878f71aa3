//! Logs and traces, once for a process; metrics, once for a service.

mod logging;
mod metrics;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use thiserror::Error;
use tracing_subscriber::util::TryInitError;

pub use self::{
    logging::{Directives, DirectivesError, LogLevel, Logging, logging},
    metrics::{Metrics, SECONDS},
};

/// Why logs, traces or metrics could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// Another subscriber was there first.
    #[error("logging cannot be set up: {0}")]
    Logging(#[from] TryInitError),
    /// The trace exporter could not be built.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT: traces cannot be exported there: {0}")]
    Traces(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The meter provider could not be built.
    #[error("metrics cannot be set up: {0}")]
    Metrics(#[from] opentelemetry_sdk::error::OTelSdkError),
    /// The registry refused a collector, or could not be rendered.
    #[error("metrics cannot be collected: {0}")]
    Registry(#[from] prometheus::Error),
}

fn resource(service: &'static str) -> Resource {
    Resource::builder()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.version", crate::VERSION))
        .build()
}
