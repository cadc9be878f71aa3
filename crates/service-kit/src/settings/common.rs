//! What every service is told.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{Reader, Setting};
use crate::telemetry::Directives;

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// What every service is told.
#[derive(Clone, Debug)]
pub struct Common {
    /// Where the service itself listens.
    pub listen: SocketAddr,
    /// Where `/live`, `/ready` and `/metrics` are.
    pub admin: SocketAddr,
    /// Which log lines are written.
    pub log_level: Directives,
    /// How they look.
    pub log_format: LogFormat,
    /// Where traces go, by OTLP over gRPC; none are made without it.
    pub otlp_endpoint: Option<String>,
    /// How long the end may take, from the signal on.
    pub grace: Duration,
}

const LISTEN: Setting = Setting::new("LISTEN", "127.0.0.1", "Address to listen on; images set 0.0.0.0.");
const PORT: Setting = Setting::new(
    "PORT",
    "8081 pixel, 8082 dashboard, 50051 recorder",
    "Port of the service itself.",
);
const ADMIN_LISTEN: Setting = Setting::new("ADMIN_LISTEN", "LISTEN", "Address of the admin port.");
const ADMIN_PORT: Setting = Setting::new(
    "ADMIN_PORT",
    "9081 pixel, 9082 dashboard, 9083 recorder",
    "Port of `/live`, `/ready` and `/metrics`; images set 9090. Never let the public reach it.",
);
const LOG_LEVEL: Setting = Setting::new(
    "LOG_LEVEL",
    "info",
    "error, warn, info, debug or trace, or directives such as `info,pixel=debug`.",
);
const LOG_FORMAT: Setting = Setting::new(
    "LOG_FORMAT",
    "auto",
    "json, text, or auto: text on a terminal, else JSON.",
);
const SHUTDOWN_GRACE_SECONDS: Setting = Setting::new(
    "SHUTDOWN_GRACE_SECONDS",
    "10",
    "How long a stop may take to finish what is under way, 0 to 3600.",
);
const OTEL_EXPORTER_OTLP_ENDPOINT: Setting = Setting::new(
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "",
    "Where traces are sent, by OTLP over gRPC, such as `http://collector:4317`; unset: no traces.",
);

/// The settings that every service has.
pub const COMMON: [Setting; 8] = [
    LISTEN,
    PORT,
    ADMIN_LISTEN,
    ADMIN_PORT,
    LOG_LEVEL,
    LOG_FORMAT,
    SHUTDOWN_GRACE_SECONDS,
    OTEL_EXPORTER_OTLP_ENDPOINT,
];

impl Common {
    /// Reads what every service has; the ports' defaults are the service's own.
    pub fn read(reader: &mut Reader, default_port: u16, default_admin_port: u16) -> Self {
        let listen = reader.address(&LISTEN, IpAddr::from([127, 0, 0, 1]));
        let admin = reader.address(&ADMIN_LISTEN, listen);
        Self {
            listen: SocketAddr::new(listen, reader.port(&PORT, default_port)),
            admin: SocketAddr::new(admin, reader.port(&ADMIN_PORT, default_admin_port)),
            log_level: reader.or(&LOG_LEVEL, Directives::default(), Directives::ACCEPTED, |text| {
                text.parse().ok()
            }),
            log_format: reader.word(
                &LOG_FORMAT,
                LogFormat::Auto,
                &[
                    ("auto", LogFormat::Auto),
                    ("json", LogFormat::Json),
                    ("text", LogFormat::Text),
                ],
            ),
            otlp_endpoint: reader.url(&OTEL_EXPORTER_OTLP_ENDPOINT),
            grace: reader.seconds(&SHUTDOWN_GRACE_SECONDS, 10, 0, 3_600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_have_defaults() {
        let mut reader = Reader::default();
        let common = Common::read(&mut reader, 8081, 9081);
        assert_eq!(
            reader.printable(),
            "LISTEN=127.0.0.1 ADMIN_LISTEN=127.0.0.1 PORT=8081 ADMIN_PORT=9081 LOG_LEVEL=info LOG_FORMAT=auto \
             SHUTDOWN_GRACE_SECONDS=10"
        );
        let common = reader.finish(common).unwrap();
        assert_eq!(common.listen, "127.0.0.1:8081".parse().unwrap());
        assert_eq!(common.admin, "127.0.0.1:9081".parse().unwrap());
        assert_eq!(common.log_level.to_string(), "info");
        assert_eq!(common.grace, Duration::from_secs(10));
        assert_eq!(common.otlp_endpoint, None);
    }

    #[test]
    fn the_admin_port_is_where_the_service_is() {
        let mut reader = Reader::from_variables([("LISTEN", "[::]"), ("ADMIN_PORT", "9090")]);
        let common = Common::read(&mut reader, 8081, 9081);
        assert_eq!(common.admin, "[::]:9090".parse().unwrap());
        reader.set("ADMIN_LISTEN", "127.0.0.1");
        let common = Common::read(&mut reader, 8081, 9081);
        assert_eq!(common.admin, "127.0.0.1:9090".parse().unwrap());
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let mut reader = Reader::from_variables([
            ("LISTEN", "localhost"),
            ("PORT", "65536"),
            ("LOG_FORMAT", "xml"),
            ("LOG_LEVEL", "verbose"),
            ("SHUTDOWN_GRACE_SECONDS", "-1"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector"),
        ]);
        Common::read(&mut reader, 1, 2);
        let problems = reader.finish(()).unwrap_err().0;
        assert_eq!(problems.len(), 6, "{problems:#?}");
    }
}
