//! The process's log lines and, if an endpoint is configured, its traces.

use std::{
    fmt,
    io::{self, IsTerminal},
    str::FromStr,
    time::Duration,
};

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{WithExportConfig, WithTonicConfig, tonic_types::transport::ClientTlsConfig};
use opentelemetry_sdk::{propagation::TraceContextPropagator, trace::SdkTracerProvider};
use thiserror::Error;
use tracing_subscriber::{
    Layer, Registry,
    filter::{FilterExt, LevelFilter, Targets},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use super::{TelemetryError, resource};
use crate::settings::{Common, LogFormat};

/// How long the end may wait for the last traces.
const LAST_TRACES: Duration = Duration::from_secs(3);

/// Which log lines are written: a level, or a level for each of some targets, as in `info,pixel=debug`.
#[derive(Clone, Debug, PartialEq)]
pub struct Directives(Targets);

/// A part of the directives is none.
#[derive(Debug, Error)]
#[error("{text:?} is not accepted; expected {accepted}", accepted = Directives::ACCEPTED)]
pub struct DirectivesError {
    text: String,
}

impl Directives {
    /// What is accepted, in words.
    pub const ACCEPTED: &'static str =
        "error, warn, info, debug, trace or off, or directives such as info,pixel=debug";
}

impl Default for Directives {
    fn default() -> Self {
        Self(Targets::new().with_default(LevelFilter::INFO))
    }
}

impl FromStr for Directives {
    type Err = DirectivesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || DirectivesError {
            text: text.to_owned(),
        };
        // `Targets` takes any word without a level for a target at TRACE, and mutes all others: a typing error would
        // silence the log.
        let is_directive =
            |part: &str| part.contains('=') || (!part.is_empty() && part.parse::<LevelFilter>().is_ok());
        if !text.split(',').map(str::trim).all(is_directive) {
            return Err(refused());
        }
        text.replace(' ', "").parse().map(Self).map_err(|_| refused())
    }
}

impl fmt::Display for Directives {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The process's logs and traces. Dropping it sends what traces are still held, for at most 3 s; drop it inside the
/// runtime, which does the sending.
pub struct Logging {
    level: LogLevel,
    traces: Option<SdkTracerProvider>,
}

/// The log level, which may be changed while the process runs. Clones change the same one.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<Targets, Registry>);

/// Starts the process's logs, and its traces if an endpoint is configured. Call it once, inside a multi-threaded runtime.
///
/// `LOG_LEVEL` is about lines alone: traces are as complete when only errors are logged.
pub fn logging(service: &'static str, common: &Common) -> Result<Logging, TelemetryError> {
    let (filter, level) = reload::Layer::new(common.log_level.0.clone());
    let traces = common
        .otlp_endpoint
        .as_deref()
        .map(|endpoint| tracer_provider(service, endpoint))
        .transpose()?;
    let spans = traces.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("email-tracker"))
            .with_filter(traced())
    });
    tracing_subscriber::registry()
        .with(lines(common.log_format).with_filter(filter.and(quiet_libraries())))
        .with(spans)
        .try_init()?;
    Ok(Logging {
        level: LogLevel(level),
        traces,
    })
}

fn lines(format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    let is_terminal = io::stdout().is_terminal();
    let json = match format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !is_terminal,
    };
    if json {
        let lines = tracing_subscriber::fmt::layer().json();
        Box::new(lines.flatten_event(true).with_current_span(false))
    } else {
        Box::new(tracing_subscriber::fmt::layer().with_ansi(is_terminal))
    }
}

/// What libraries may say at most, whatever `LOG_LEVEL` is. OpenTelemetry tells each start and end of its parts at INFO, and
/// the migrations each file they look at; below INFO the database's driver tells the values of each statement and HTTP/2
/// the bytes of each frame, which are people's addresses.
fn quiet_libraries() -> Targets {
    let capped = |level: LevelFilter| move |library: &'static str| (library, level);
    let chatty = [
        "opentelemetry",
        "opentelemetry_otlp",
        "opentelemetry_sdk",
        "refinery_core",
    ];
    let telling = ["h2", "hyper", "hyper_util", "tokio_postgres", "tonic", "tower"];
    Targets::new()
        .with_default(LevelFilter::TRACE)
        .with_targets(chatty.map(capped(LevelFilter::WARN)))
        .with_targets(telling.map(capped(LevelFilter::INFO)))
}

/// What becomes a span: our own work, not that of the libraries which bring the spans away.
fn traced() -> Targets {
    let libraries = [
        "h2",
        "hyper",
        "hyper_util",
        "opentelemetry",
        "opentelemetry_otlp",
        "opentelemetry_sdk",
        "tonic",
        "tower",
    ];
    Targets::new()
        .with_default(LevelFilter::INFO)
        .with_targets(libraries.map(|library| (library, LevelFilter::OFF)))
}

fn tracer_provider(service: &'static str, endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let mut exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint);
    if endpoint.starts_with("https:") {
        // Without this no certificate at all is trusted.
        exporter = exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots());
    }
    let exporter = exporter.build()?;
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource(service))
        .build())
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
        let Some(traces) = self.traces.take() else { return };
        if let Err(error) = traces.shutdown_with_timeout(LAST_TRACES) {
            tracing::warn!(%error, "the last traces could not be sent");
        }
    }
}

impl LogLevel {
    /// The directives in force.
    #[must_use]
    pub fn get(&self) -> Directives {
        self.0
            .with_current(Clone::clone)
            .map(Directives)
            .unwrap_or_default()
    }

    /// Puts other directives in force.
    pub fn set(&self, directives: &Directives) {
        if let Err(error) = self.0.reload(directives.0.clone()) {
            tracing::warn!(%error, "the log level could not be changed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_levels_or_have_one() {
        for accepted in ["info", "WARN", "off", "info,pixel=debug", "error, recorder=trace"] {
            accepted.parse::<Directives>().unwrap();
        }
        for refused in [
            "",
            " ",
            ",",
            "verbose",
            "info,pixel",
            "pixel=loud",
            "a=b=c",
            "info;warn",
        ] {
            let error = refused.parse::<Directives>().unwrap_err();
            assert!(error.to_string().contains("is not accepted; expected"), "{error}");
        }
    }

    #[test]
    fn directives_are_shown_as_they_are_given() {
        assert_eq!(Directives::default().to_string(), "info");
        let directives = "warn,pixel=debug".parse::<Directives>().unwrap();
        assert_eq!(directives.to_string().parse::<Directives>().unwrap(), directives);
    }
}
