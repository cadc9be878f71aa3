//! A whole service as a process of its own: arguments, settings, signals, logs, traces, limits.
//!
//! This program is both the tests and, if it is told so, the service that they start.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helper fails the test by panicking"
)]

mod child;
mod collector;
mod end;
mod limits;
mod service;
mod start;
mod telemetry;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// Set in the environment of the service's process.
const ACT_AS_SERVICE: &str = "ACT_AS_SERVICE";

type Tests = &'static [(&'static str, fn())];

fn main() -> ExitCode {
    if std::env::var_os(ACT_AS_SERVICE).is_some() {
        return service::main();
    }
    let tests: [Tests; 4] = [start::TESTS, end::TESTS, limits::TESTS, telemetry::TESTS];
    let trials = tests.concat().into_iter().map(|(name, test)| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
