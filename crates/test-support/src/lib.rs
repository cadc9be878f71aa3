//! What tests of several crates share: a private PostgreSQL, a TCP proxy that fails on demand, our own programs as
//! child processes, a raw HTTP client, a browser, waiting without sleeping. For `[dev-dependencies]` only; all of it panics,
//! with a message that says what is wrong, where a test could not go on.
//!
//! ```no_run
//! # use test_support::*;
//! # async fn example() {
//! // One server for all tests of the process; each database is a fresh copy of the migrated template.
//! let server = PrivatePostgres::shared(|owner_url| async move { /* database::migrate(…) */ }).await;
//! let database = server.database().await;
//! let url = database.url_of("email_tracker_recorder"); // Unix socket, no password asked
//!
//! // A server of one's own may be crashed and started again.
//! let own = PrivatePostgres::start().await;
//! own.crash().await;
//! own.start_again().await;
//!
//! // Between two parties, when the line between them should fail.
//! let proxy = FaultProxy::start(own.tcp_address()).await;
//! proxy.stall(Direction::ToClient); // answers get lost
//! proxy.cut(); // and then the connections
//!
//! // Our own programs, killed with the test.
//! let mut command = std::process::Command::new("target/debug/pixel");
//! let mut pixel = Spawned::start(command.env("PORT", "0"));
//! pixel.line_with("listening").await;
//! pixel.signal(Signal::TERM);
//! assert!(pixel.exit().await.success());
//!
//! let answer = http::get(([127, 0, 0, 1], 8081).into(), "/health").await;
//! assert_eq!(answer.status, 200);
//! let rows = eventually("the email shows", async || Some(7)).await;
//! # }
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "a test's helper fails the test by panicking"
)]

mod browser;
mod fault_proxy;
pub mod http;
mod net;
mod postgres;
mod spawned;
pub mod tables;
mod wait;
mod watchdog;

/// SQL for an owner or superuser that makes a database look like one with Citus in it.
pub const CITUS_STAND_IN: &str = include_str!("citus_stand_in.sql");

pub use browser::Browser;
pub use fault_proxy::{Direction, FaultProxy};
pub use net::free_port;
pub use postgres::{OWNER, OWNER_PASSWORD, PgBouncer, PrivatePostgres, TestDatabase};
pub use rustix::process::Signal;
pub use spawned::Spawned;
pub use wait::{PATIENCE, eventually};
