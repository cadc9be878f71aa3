//! One backup: a dump, and what is in it, of one snapshot.

use anyhow::{Context as _, bail};
use database::{InStatement as _, SCHEMA_VERSION};
use service_kit::SystemClock;
use tracking::Clock as _;

use super::{Complete, Counts, DatabaseSettings, Folder, Manifest, Programs, programs::run};
use crate::migrate;

/// Of the session that holds the snapshot while the dump takes as long as it takes.
const SESSION: &str =
    "set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; set search_path = public;
                       begin isolation level repeatable read read only";

/// Who wants a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Hand,
    /// It knows no better, and does not take a database that was lost and begun anew for a newer state of the old one: its
    /// backups would be what a restore takes, and push out the good ones.
    Schedule,
}

/// Makes a backup in `folder`; what is unfinished when this is dropped is removed by the next one.
pub(super) async fn made(settings: &DatabaseSettings, folder: &Folder, by: By) -> anyhow::Result<Complete> {
    let config = settings.config()?;
    let session = config
        .connect()
        .await
        .with_context(|| format!("cannot reach {config}"))?;
    let version = database::schema_version(&session).await?;
    let Some(schema_version) = version else {
        bail!("{config} holds nothing to back up: `email-tracker migrate` was never run there");
    };
    if schema_version > SCHEMA_VERSION {
        bail!(
            "{config} has schema version {schema_version}, this is version {SCHEMA_VERSION}: use the newer email-tracker"
        );
    }
    migrate::refuse_distributed(database::is_distributed(&session).await?, "`backup`")?;
    session
        .batch_execute(SESSION)
        .await
        .in_statement("begin_backup")?;
    let row = session
        .query_one(
            "select pg_export_snapshot(), current_setting('server_version'), current_setting('server_version_num')::int,
                    (select count(*) from tracked_emails), (select count(*) from hits), (select count(*) from marks),
                    pg_database_size(current_database())",
            &[],
        )
        .await
        .in_statement("export_snapshot")?;
    let snapshot: String = row.try_get(0)?;
    let counts = Counts {
        emails: row.try_get(3)?,
        hits: row.try_get(4)?,
        marks: row.try_get(5)?,
    };
    if by == By::Schedule
        && counts.is_nothing()
        && let Some(newest) = folder.newest()?
        && !newest.manifest.counts.is_nothing()
    {
        bail!(
            "{config} is empty, and {} holds {}: restore that one; if it is meant to be empty, `email-tracker backup` by hand",
            newest.path.display(),
            newest.manifest
        );
    }
    let server = u32::try_from(row.try_get::<_, i32>(2)?)? / 10_000;
    let programs = Programs::find(settings, server)?;
    let created_at = SystemClock.now();
    let new = folder.begin(created_at)?;

    let mut dump = programs.command("pg_dump", Some(&config));
    dump.args([
        "--format=custom",
        "--schema=public",
        "--no-password",
        "--no-comments",
    ]);
    dump.arg(format!("--snapshot={snapshot}"))
        .arg("--file")
        .arg(new.path());
    run("pg_dump", dump)
        .await
        .with_context(|| format!("cannot back up {config}"))?;
    session.batch_execute("commit").await.in_statement("end_backup")?;

    // A file that cannot even be listed is no backup.
    let mut list = programs.command("pg_restore", None);
    list.arg("--list").arg(new.path());
    run("pg_restore --list", list).await?;
    new.complete(Manifest {
        created_at,
        email_tracker: service_kit::VERSION.to_owned(),
        schema_version,
        postgres: row.try_get(1)?,
        pg_dump: programs.major,
        counts,
    })
    .await
}
