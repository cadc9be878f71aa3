//! Logs and traces, once for a process; metrics, once for a service.

use std::io::{self, IsTerminal};

use opentelemetry::{
    KeyValue,
    metrics::{Meter, MeterProvider},
    trace::TracerProvider,
};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{
    Resource, metrics::SdkMeterProvider, propagation::TraceContextPropagator, trace::SdkTracerProvider,
};
use prometheus::{Encoder, TextEncoder, process_collector::ProcessCollector};
use thiserror::Error;
use tracing_subscriber::{
    Layer, Registry,
    filter::{ParseError, Targets},
    layer::SubscriberExt,
    reload,
    util::{SubscriberInitExt, TryInitError},
};

use crate::settings::{Common, LogFormat};

/// Boundaries, in seconds, for what takes from a fraction of a millisecond to several seconds.
pub const SECONDS: [f64; 14] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Why logs, traces or metrics could not be set up.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// `LOG_LEVEL` holds no directives.
    #[error("LOG_LEVEL is not accepted: {0}")]
    Level(#[from] ParseError),
    /// Another subscriber was there first.
    #[error("logging cannot be set up: {0}")]
    Logging(#[from] TryInitError),
    /// The trace exporter could not be built.
    #[error("OTEL_EXPORTER_OTLP_ENDPOINT: traces cannot be exported there: {0}")]
    Traces(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The meter provider could not be built.
    #[error("metrics cannot be set up: {0}")]
    Metrics(#[from] opentelemetry_sdk::error::OTelSdkError),
    /// The registry refused a collector.
    #[error("metrics cannot be set up: {0}")]
    Registry(#[from] prometheus::Error),
}

/// The process's logs and traces. Dropping it sends what traces are still held.
pub struct Logging {
    level: LogLevel,
    traces: Option<SdkTracerProvider>,
}

/// The log level, which may be changed while the process runs. Clones change the same one.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<Targets, Registry>);

/// Starts the process's logs, and its traces if an endpoint is configured. Call it once, inside the runtime.
pub fn logging(service: &'static str, common: &Common) -> Result<Logging, TelemetryError> {
    let (filter, level) = reload::Layer::new(common.log_level.parse::<Targets>()?);
    let json = match common.log_format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !io::stdout().is_terminal(),
    };
    let lines: Box<dyn Layer<_> + Send + Sync> = if json {
        Box::new(
            tracing_subscriber::fmt::layer()
                .json()
                .flatten_event(true)
                .with_current_span(false),
        )
    } else {
        Box::new(tracing_subscriber::fmt::layer().with_ansi(io::stdout().is_terminal()))
    };
    let traces = common
        .otlp_endpoint
        .as_deref()
        .map(|endpoint| tracer_provider(service, endpoint))
        .transpose()?;
    let spans = traces
        .as_ref()
        .map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("email-tracker")));
    tracing_subscriber::registry()
        .with(filter)
        .with(spans)
        .with(lines)
        .try_init()?;
    Ok(Logging {
        level: LogLevel(level),
        traces,
    })
}

fn tracer_provider(service: &'static str, endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()?;
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource(service))
        .build())
}

fn resource(service: &'static str) -> Resource {
    Resource::builder()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.version", crate::VERSION))
        .build()
}

impl Logging {
    /// The level, to change it later.
    #[must_use]
    pub fn level(&self) -> LogLevel {
        self.level.clone()
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.traces.take().map(|provider| provider.shutdown()) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

impl LogLevel {
    /// The directives in force.
    #[must_use]
    pub fn get(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }

    /// Puts other directives in force.
    pub fn set(&self, directives: &str) -> Result<(), ParseError> {
        let targets: Targets = directives.trim().parse()?;
        if let Err(error) = self.0.reload(targets) {
            tracing::warn!(%error, "the log level could not be changed");
        }
        Ok(())
    }
}

/// One service's metrics: instruments are made from [`Metrics::meter`], and [`Metrics::render`] is what Prometheus reads.
///
/// Each service of a process has its own, since each has its own admin port.
#[derive(Clone)]
pub struct Metrics {
    registry: prometheus::Registry,
    provider: SdkMeterProvider,
    meter: Meter,
}

impl Metrics {
    /// The metrics of `service`, with those of the process and of the build in them already.
    pub fn new(service: &'static str) -> Result<Self, TelemetryError> {
        let registry = prometheus::Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .build()?;
        let provider = SdkMeterProvider::builder()
            .with_reader(exporter)
            .with_resource(resource(service))
            .build();
        let meter = provider.meter("email-tracker");
        meter
            .u64_gauge("email_tracker.build_info")
            .with_description("Always 1; the labels say which build of which service this is")
            .build()
            .record(
                1,
                &[
                    KeyValue::new("version", crate::VERSION),
                    KeyValue::new("service", service),
                ],
            );
        Ok(Self {
            registry,
            provider,
            meter,
        })
    }

    /// Where instruments come from.
    #[must_use]
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// All metrics in Prometheus's text format.
    pub fn render(&self) -> Result<String, TelemetryError> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Ends the collecting.
    pub fn shut_down(&self) {
        let _already_down = self.provider.shutdown();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruments_are_rendered_by_prometheus_conventions() {
        let metrics = Metrics::new("pixel").unwrap();
        let meter = metrics.meter();
        meter
            .u64_counter("email_tracker.pixel.hits")
            .with_description("Hits")
            .build()
            .add(3, &[]);
        let sync = meter
            .f64_histogram("email_tracker.pixel.sync.duration")
            .with_unit("s")
            .with_description("Syncs");
        sync.with_boundaries(SECONDS.to_vec()).build().record(0.002, &[]);
        let text = metrics.render().unwrap();
        for line in [
            "email_tracker_pixel_hits_total 3",
            "# HELP email_tracker_pixel_hits_total Hits",
            "email_tracker_pixel_sync_duration_seconds_bucket{le=\"0.0025\"} 1",
            "# TYPE process_resident_memory_bytes gauge",
        ] {
            assert!(text.contains(line), "no line {line:?} in\n{text}");
        }
        assert!(
            text.lines()
                .any(|line| line.starts_with("email_tracker_build_info{")),
            "{text}"
        );
    }
}
