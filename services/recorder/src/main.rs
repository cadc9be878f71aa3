//! The recorder's program.

use std::process::ExitCode;

use service_kit::Program;

fn main() -> ExitCode {
    Program {
        name: recorder::NAME,
        about: "Records hits and marks that pixels send, and judges which hits count",
        read: recorder::Settings::read,
        common: |settings| &settings.common,
    }
    .main(recorder::run)
}
