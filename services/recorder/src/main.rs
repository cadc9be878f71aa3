//! The recorder's program.

use std::process::ExitCode;

use service_kit::Program;

/// A hit makes and frees some thirty pieces of memory, some of them in another thread; this one is made for that.
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
