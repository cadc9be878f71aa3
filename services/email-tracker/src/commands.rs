//! What the command line accepts.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use service_kit::program::EXIT_USAGE;

use crate::health::HealthUrl;

/// Email Tracker records when a tracked email is opened.
#[derive(Debug, Parser)]
#[command(
    name = "email-tracker",
    version,
    after_help = "Settings are environment variables: see `email-tracker settings`."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// One thing to do.
#[derive(Debug, Subcommand)]
#[expect(
    clippy::doc_markdown,
    reason = "these lines are the help text, which is plain"
)]
pub(crate) enum Command {
    /// Run everything in one process, on a private PostgreSQL under DATA_DIR (or on DATABASE_URL); Ctrl-C stops it
    Up,
    /// Bring the database at DATABASE_URL and its roles up to this version; may be run again at any time
    Migrate(crate::migrate::Arguments),
    /// Ask a service whether it is well: exit code 0 if it answers with a success, else 1
    Healthcheck {
        /// For example http://127.0.0.1:8090/health
        url: HealthUrl,
    },
    /// Copy the database into a file of the folder, checksummed, beside the earlier ones; it may be in use meanwhile
    Backup(crate::backup::Arguments),
    /// Put a backup in the place of the database; services that run meanwhile go on by themselves
    Restore(crate::restore::Arguments),
    /// Take over the emails and opens that an older server lists; may be run again at any time
    Import(crate::import::Arguments),
    /// Find out anew who made the stored hits, after an update of the rules or of AGENT_NETWORKS; cut off, it goes on
    Reclassify,
    /// Look at a running Email Tracker from here, and name what is wrong first: exit code 1 if something is
    Doctor(crate::doctor::Arguments),
    /// Look into a spool that no pixel uses, or deliver it
    #[command(subcommand)]
    Spool(SpoolCommand),
    /// Look after the events that a webhook was not told of, or try one
    #[command(subcommand)]
    Webhooks(WebhooksCommand),
    /// Print all settings of all services, as docs/settings.md has them
    Settings,
    /// Print the version
    Version,
}

/// What to do with a spool. A pixel that runs on it has to be stopped first.
#[derive(Debug, Subcommand)]
#[expect(
    clippy::doc_markdown,
    reason = "these lines are the help text, which is plain"
)]
pub(crate) enum SpoolCommand {
    /// Print the facts that the recorder refused, one line of JSON each
    List {
        /// Folder of the spool, such as ./data/spool
        folder: PathBuf,
    },
    /// Send what the recorder refused once more, to RECORDER_URL; what it refuses again stays
    Resend {
        /// Folder of the spool, such as ./data/spool
        folder: PathBuf,
    },
    /// Send everything that is not recorded yet to RECORDER_URL, for a pixel that will not run again; Ctrl-C gives up
    Drain {
        /// Folder of the spool, such as ./data/spool
        folder: PathBuf,
    },
}

/// What to do about webhooks.
#[derive(Debug, Subcommand)]
#[expect(
    clippy::doc_markdown,
    reason = "these lines are the help text, which is plain"
)]
pub(crate) enum WebhooksCommand {
    /// Print the events that were given up, one line of JSON each
    List {
        /// Only those for this target
        #[arg(long)]
        target: Option<String>,
    },
    /// Have them sent again
    Resend {
        /// Only those for this target
        #[arg(long)]
        target: Option<String>,
    },
    /// Send a message to a target of WEBHOOKS that says that it is a test
    Test {
        /// Its name
        target: String,
    },
}

/// Says what is wrong with the arguments, or what was asked for, such as the help.
pub(crate) fn refuse(error: &clap::Error) -> ExitCode {
    // Nothing can be done about a closed terminal.
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::from(EXIT_USAGE)
    } else {
        ExitCode::SUCCESS
    }
}

/// Prints the version.
#[expect(clippy::print_stdout, reason = "this is what was asked for")]
pub(crate) fn print_version() {
    println!("{} {}", crate::NAME, service_kit::VERSION);
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
