//! What each service's main needs: settings, logs, metrics and traces, the admin port, HTTP, and an orderly end.
//!
//! A service is a library with one entry, `run(settings, surroundings)`; [`program::Program`] is the main around it.
//! [`program::Surroundings`] holds its sockets, its clock, its metrics and the token that ends it; `email-tracker up` and
//! the tests make those themselves and call the same `run`. It is given [`Metrics`] and not only a `Meter`, because its
//! admin port must show what the meter's instruments hold.
//!
//! What is there once for a process is made by its main: log lines, traces, signals, the limit of open files. What each
//! service of a process has for itself is in its surroundings.

pub mod admin;
pub mod clock;
pub mod http;
pub mod program;
pub mod settings;
pub mod tasks;
pub mod telemetry;

pub use admin::{Health, Readiness};
pub use clock::SystemClock;
pub use http::Public;
pub use program::{Program, Sockets, Surroundings};
pub use settings::{Common, Reader, Secret, Setting, SettingsError};
pub use tasks::Tasks;
pub use telemetry::Metrics;

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
