//! What each service's main needs: settings, logs, metrics and traces, the admin port, HTTP, and an orderly end.
//!
//! A service is a library with one entry, `run(settings, surroundings)`; [`program::Program`] is the main around it.
//! [`program::Surroundings`] holds its sockets, its clock, its metrics and the token that ends it; `email-tracker up` and
//! the tests make those themselves and call the same `run`.

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
