//! Work on the project that cargo has no command for: the fault suite and the benchmarks.
//!
//! It drives the programs as they are shipped, over their sockets, and so depends on none of the services.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what cannot go on here ends a schedule or a measurement with a message that says why"
)]

mod bench;
mod client;
mod faults;
mod fill;
mod load;
mod programs;
mod stack;

use clap::Parser;

/// Email Tracker's fault suite and benchmarks.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Runs real services under load while things go wrong, and holds the tables against the reference model.
    Faults(faults::Options),
    /// Fills an empty database with made-up hits, many of them fast, to see how the product does with as many.
    Fill(fill::Options),
    /// Measures what the product costs and how fast it is, on this machine.
    Bench(bench::Options),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Faults(options) => faults::run(options).await,
        Task::Fill(options) => fill::run(options).await,
        Task::Bench(options) => bench::run(options).await,
    }
}
