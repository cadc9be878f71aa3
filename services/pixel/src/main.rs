//! The pixel as a process of its own.

use std::process::ExitCode;

use pixel::Settings;
use service_kit::Program;

/// A hit makes and frees some thirty pieces of memory, some of them in another thread; this one is made for that.
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
