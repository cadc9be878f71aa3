//! One service's metrics, as instruments and as Prometheus's text.

use std::sync::atomic::Ordering;

use opentelemetry::{
    KeyValue,
    metrics::{Meter, MeterProvider},
};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Encoder, TextEncoder, process_collector::ProcessCollector};

use super::{TelemetryError, resource};
use crate::http::{CONNECTIONS, open_connections};

/// Boundaries, in seconds, for what takes from a fraction of a millisecond to several seconds.
pub const SECONDS: [f64; 14] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// One service's metrics: instruments are made from [`Metrics::meter`], and [`Metrics::render`] is what Prometheus reads.
///
/// Each service of a process has its own, since each has its own admin port. Clones are the same metrics.
#[derive(Clone)]
pub struct Metrics {
    registry: prometheus::Registry,
    meter: Meter,
    // Instruments are dead once their provider is dropped.
    _provider: SdkMeterProvider,
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
        describe_build(&meter, service);
        describe_connections(&meter);
        Ok(Self {
            registry,
            meter,
            _provider: provider,
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
}

fn describe_build(meter: &Meter, service: &'static str) {
    let labels = [
        KeyValue::new("version", crate::VERSION),
        KeyValue::new("service", service),
    ];
    meter
        .u64_gauge("email_tracker.build_info")
        .with_description("Always 1; the labels say which build of which service this is")
        .build()
        .record(1, &labels);
}

fn describe_connections(meter: &Meter) {
    meter
        .u64_observable_gauge("email_tracker.http.connections")
        .with_unit("{connection}")
        .with_description("HTTP connections open in this process, to admin ports as well")
        .with_callback(|gauge| gauge.observe(open_connections(), &[]))
        .build();
    meter
        .u64_observable_counter("email_tracker.http.accept_failures")
        .with_unit("{connection}")
        .with_description(
            "HTTP connections that this process could not accept, for want of file descriptors for example",
        )
        .with_callback(|counter| counter.observe(CONNECTIONS.not_accepted.load(Ordering::Relaxed), &[]))
        .build();
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
            "email_tracker_pixel_hits_total 3\n",
            "# HELP email_tracker_pixel_hits_total Hits\n",
            "email_tracker_pixel_sync_duration_seconds_bucket{le=\"0.0025\"} 1\n",
            "# TYPE process_resident_memory_bytes gauge\n",
            "# TYPE process_cpu_seconds_total counter\n",
            "# TYPE process_start_time_seconds gauge\n",
            "# TYPE process_open_fds gauge\n",
            "# TYPE email_tracker_http_connections gauge\n",
            "\nemail_tracker_http_accept_failures_total ",
        ] {
            assert!(text.contains(line), "no line {line:?} in\n{text}");
        }
        let build = text
            .lines()
            .find(|line| line.starts_with("email_tracker_build_info{"))
            .unwrap();
        assert!(
            build.contains(r#"service="pixel""#)
                && build.contains(&format!("version=\"{}\"", crate::VERSION)),
            "{build}"
        );
    }

    #[test]
    fn services_of_one_process_have_metrics_of_their_own() {
        let (pixel, recorder) = (Metrics::new("pixel").unwrap(), Metrics::new("recorder").unwrap());
        let counter = pixel.meter().u64_counter("only_here").build();
        counter.add(1, &[]);
        assert!(pixel.clone().render().unwrap().contains("only_here_total 1\n"));
        assert!(!recorder.render().unwrap().contains("only_here"));
    }
}
