//! The recorder's program.

use std::process::ExitCode;

use service_kit::Program;

/// Threads free what other threads have allocated, a hit's bytes among them; the system's allocator takes twice as long.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    Program {
        name: recorder::NAME,
        about: "Records hits and marks that pixels send, and judges which hits count",
        read: recorder::Settings::read,
        common: |settings| &settings.common,
    }
    .main(recorder::run)
}
