//! The pixel as a process of its own.

use std::process::ExitCode;

use pixel::Settings;
use service_kit::Program;

/// Threads free what other threads have allocated, a hit's bytes among them; the system's allocator takes twice as long.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let program = Program {
        name: "pixel",
        about: "answers tracking pixels and marks, and brings what it saw to the recorder",
        read: Settings::read,
        common: |settings| &settings.common,
    };
    program.main(pixel::run)
}
