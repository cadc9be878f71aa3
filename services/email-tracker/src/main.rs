//! The command line: everything in one process (`up`), and the tools around the services.

mod backup;
mod commands;
mod data_dir;
mod doctor;
mod documentation;
mod health;
mod import;
mod migrate;
mod postgres;
mod reclassify;
mod restore;
mod spool;
mod up;
mod webhooks;

use std::process::ExitCode;

use clap::Parser as _;
use service_kit::{SettingsError, program};

use crate::commands::{Cli, Command};

/// How the process calls itself in its own messages.
const NAME: &str = "email-tracker";

/// A hit makes and frees some thirty pieces of memory, some of them in another thread; this one is made for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return commands::refuse(&error),
    };
    let outcome = match cli.command {
        Command::Up => up::up(),
        Command::Migrate(arguments) => migrate::migrate(arguments),
        Command::Healthcheck { url } => health::check(&url),
        Command::Backup(arguments) => backup::backup(&arguments),
        Command::Restore(arguments) => restore::restore(&arguments),
        Command::Import(arguments) => import::import(&arguments),
        Command::Reclassify => reclassify::reclassify(),
        Command::Doctor(arguments) => doctor::doctor(arguments),
        Command::Spool(command) => spool::spool(command),
        Command::Webhooks(command) => webhooks::webhooks(command),
        Command::Settings => {
            documentation::print();
            Ok(())
        }
        Command::Version => {
            commands::print_version();
            Ok(())
        }
    };
    match outcome.map_err(anyhow::Error::downcast::<SettingsError>) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Ok(settings)) => program::refuse_settings(NAME, &settings),
        Err(Err(error)) => program::exit_code(Err(error.context(NAME))),
    }
}
