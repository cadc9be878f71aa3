//! `migrate`: the owner brings the database and its roles up to this version.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use database::{Config, ErrorKind, MigrateError, RolePasswords};
use service_kit::{Reader, Secret, Setting, SettingsError};

/// How to migrate.
#[derive(Clone, Copy, Debug, Args)]
#[expect(
    clippy::doc_markdown,
    reason = "these lines are the help text, which is plain"
)]
pub(crate) struct Arguments {
    /// Then distribute the tables of facts by email_id with Citus, what they hold included; DATABASE_URL is the coordinator
    #[arg(long)]
    citus: bool,
    /// Over how many shards, each in one place: for good, so rather twice the processors that the cluster may ever have
    #[arg(long, value_name = "NUMBER", requires = "citus", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    shards: u16,
}

const DATABASE_URL: Setting = Setting::secret(
    "DATABASE_URL",
    "",
    "The owner's login: `postgres://OWNER@HOST:PORT/DATABASE`, the primary itself, not through a pooler.",
);
const DATABASE_PASSWORD: Setting = Setting::secret(
    "DATABASE_PASSWORD",
    "",
    "Password for `DATABASE_URL`, written as it is.",
);
const RECORDER_DB_PASSWORD: Setting = Setting::secret(
    "RECORDER_DB_PASSWORD",
    "",
    "Password that the role `email_tracker_recorder` gets; unset: the role is not made.",
);
const DASHBOARD_DB_PASSWORD: Setting = Setting::secret(
    "DASHBOARD_DB_PASSWORD",
    "",
    "Password that the role `email_tracker_dashboard` gets; unset: the role is not made.",
);
const DATABASE_WAIT_SECONDS: Setting = Setting::new(
    "DATABASE_WAIT_SECONDS",
    "60",
    "How long to wait for a database that does not answer, 0 to 3600.",
);

/// The settings of `migrate`, for the table in the documentation.
pub(crate) const SETTINGS: [Setting; 5] = [
    DATABASE_URL,
    DATABASE_PASSWORD,
    RECORDER_DB_PASSWORD,
    DASHBOARD_DB_PASSWORD,
    DATABASE_WAIT_SECONDS,
];

const PAUSE: Duration = Duration::from_millis(500);

struct Settings {
    database: Option<Config>,
    passwords: RolePasswords,
    wait: Duration,
}

impl Settings {
    fn read(reader: &mut Reader) -> Self {
        let password_of = |secret: Option<Secret>| secret.map(|secret| secret.expose().to_owned());
        Self {
            database: database(reader),
            passwords: RolePasswords {
                recorder: password_of(reader.secret(&RECORDER_DB_PASSWORD)),
                dashboard: password_of(reader.secret(&DASHBOARD_DB_PASSWORD)),
            },
            wait: reader.seconds(&DATABASE_WAIT_SECONDS, 60, 0, 3600),
        }
    }
}

fn database(reader: &mut Reader) -> Option<Config> {
    let is_set = reader.secret(&DATABASE_URL).is_some();
    let database = configured(reader);
    if !is_set {
        reader.refuse(
            &DATABASE_URL,
            "it says where the database is: postgres://OWNER@HOST:PORT/DATABASE",
        );
    }
    database
}

/// The database that `DATABASE_URL` names, if it is set, for what a pooler must not stand in between of.
pub(crate) fn configured(reader: &mut Reader) -> Option<Config> {
    through_any(reader)?
        .direct_for("this command")
        .map_err(|error| reader.refuse(&DATABASE_URL, error))
        .ok()
}

/// The database that `DATABASE_URL` names, if it is set, also through a pooler.
pub(crate) fn through_any(reader: &mut Reader) -> Option<Config> {
    let url = reader.secret(&DATABASE_URL);
    let password = reader.secret(&DATABASE_PASSWORD);
    match Config::new(DATABASE_URL.name, url?.expose()) {
        Ok(config) => Some(
            config
                .password(password.as_ref().map(Secret::expose))
                .application_name("email-tracker migrate"),
        ),
        Err(error) => {
            reader.refuse(&DATABASE_URL, error);
            None
        }
    }
}

/// The whole command.
pub(crate) fn migrate(arguments: Arguments) -> anyhow::Result<()> {
    let mut reader = Reader::from_environment();
    let settings = Settings::read(&mut reader);
    let settings = reader.finish(settings)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no runtime")?;
    runtime.block_on(bring_up(settings, arguments))
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn bring_up(settings: Settings, arguments: Arguments) -> anyhow::Result<()> {
    let Some(database) = settings.database else {
        return Err(SettingsError(vec!["DATABASE_URL: it is not set".to_owned()]).into());
    };
    let migrated = patiently(&database, &settings.passwords, settings.wait).await?;
    match migrated.from {
        Some(from) if from == migrated.to => {
            println!("{database}: version {from} already; roles and grants are in place");
        }
        Some(from) => println!("{database}: from version {from} to {}", migrated.to),
        None => println!("{database}: empty before, version {} now", migrated.to),
    }
    if arguments.citus {
        distribute(&database, arguments.shards).await?;
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn distribute(database: &Config, shards: u16) -> anyhow::Result<()> {
    let distributed = database::distribute(database, shards)
        .await
        .with_context(|| format!("cannot distribute the tables of {database}"))?;
    if distributed.tables.is_empty() {
        println!("{database}: distributed already");
    } else {
        println!(
            "{database}: distributed {} by email_id",
            distributed.tables.join(", ")
        );
    }
    if let Some(error) = distributed.left_behind {
        println!(
            "{database}: rows may still lie where they lay before: {error}; see `select * from citus_tables`, and \
             truncate_local_data_after_distributing_table in Citus's documentation"
        );
    }
    Ok(())
}

/// Refuses a database that Citus has distributed, for `what` does not work there.
pub(crate) fn refuse_distributed(is_distributed: bool, what: &str) -> anyhow::Result<()> {
    if is_distributed {
        bail!(
            "the tables are distributed by Citus, where {what} does not work: see docs/citus.md for what does"
        );
    }
    Ok(())
}

/// Migrates, and tries again for as long as `wait` while the database cannot be reached.
pub(crate) async fn patiently(
    database: &Config,
    passwords: &RolePasswords,
    wait: Duration,
) -> anyhow::Result<database::Migrated> {
    let since = Instant::now();
    loop {
        match database::migrate(database, passwords).await {
            Ok(migrated) => return Ok(migrated),
            Err(error) if is_away(&error) && since.elapsed() < wait => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error).with_context(|| format!("cannot migrate {database}")),
        }
    }
}

fn is_away(error: &MigrateError) -> bool {
    match error {
        MigrateError::Database(error) | MigrateError::Failed(error) => {
            matches!(
                error.kind(),
                ErrorKind::LostConnection | ErrorKind::TooManyConnections
            )
        }
        MigrateError::Divergent(_) => false,
    }
}
