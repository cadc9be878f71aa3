//! The dashboard as a program of its own.

use std::process::ExitCode;

use dashboard::Settings;
use service_kit::Program;

fn main() -> ExitCode {
    let program = Program {
        name: "dashboard",
        about: "shows the recorded emails and opens",
        read: Settings::read,
        common: |settings| &settings.common,
    };
    program.main(dashboard::run)
}
