//! The schema: migrations forward only, and the gate that keeps a service off an older one.

use thiserror::Error;
use tokio_postgres::Client;

use crate::{Config, Error as DatabaseError, InStatement, RolePasswords, roles};

/// The schema version that this build needs; a newer database serves it as well.
pub const SCHEMA_VERSION: i32 = 7;

/// Any number that no other software uses for its advisory locks in the same database.
const MIGRATION_LOCK: i64 = 0x656d_6169_6c74_7261;

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated"
)]
mod embedded {
    refinery::embed_migrations!("migrations");
}

/// What [`migrate`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// The version before; none in an empty database.
    pub from: Option<i32>,
    /// The version now; above [`SCHEMA_VERSION`] if a newer build was here before.
    pub to: i32,
}

/// Why a database was not migrated. Each migration that succeeded before stays applied.
#[derive(Debug, Error)]
pub enum MigrateError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A migration was applied in another form than this build's: the build or the database is not ours.
    #[error("the database's history of migrations is not this build's: {0}; nothing was changed")]
    Divergent(String),
    /// A migration failed and was rolled back.
    #[error("a migration failed and was rolled back: {0}")]
    Failed(DatabaseError),
}

/// Why a service cannot use this database, for now.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SchemaError {
    /// Never migrated.
    #[error("the database has no schema yet: run `email-tracker migrate`")]
    Missing,
    /// Migrated by an older build.
    #[error(
        "the database's schema is version {found}, this build needs {needed}: run `email-tracker migrate`"
    )]
    TooOld {
        /// The database's version.
        found: i32,
        /// [`SCHEMA_VERSION`].
        needed: i32,
    },
    /// The version could not be read.
    #[error(transparent)]
    Unreadable(#[from] DatabaseError),
}

/// Brings the database to [`SCHEMA_VERSION`], and its roles to their grants and `passwords`.
///
/// To be run by the owner, on a direct connection (not through PgBouncer in transaction mode). Any number of them may
/// run at once: they queue. A database of a newer version is left as it is.
pub async fn migrate(config: &Config, passwords: &RolePasswords) -> Result<Migrated, MigrateError> {
    let mut client = config.connect().await?;
    lock(&client).await?;
    let from = schema_version(&client).await?;
    if from.is_none_or(|found| found <= SCHEMA_VERSION) {
        embedded::migrations::runner()
            .run_async(&mut client)
            .await
            .map_err(|error| sort_out(&error))?;
    }
    roles::apply(&mut client, passwords).await?;
    let to = schema_version(&client).await?.unwrap_or(SCHEMA_VERSION);
    Ok(Migrated { from, to })
}

/// Makes a session fit to change the schema, and waits until no other one does.
pub(crate) async fn lock(client: &Client) -> Result<(), DatabaseError> {
    client
        .batch_execute("set search_path = public; set statement_timeout = 0; set lock_timeout = 0")
        .await
        .in_statement("prepare_migration")?;
    // Of the session, so that it spans the transactions of several migrations; it ends with the connection.
    client
        .execute("select pg_advisory_lock($1)", &[&MIGRATION_LOCK])
        .await
        .in_statement("lock_migrations")?;
    Ok(())
}

fn sort_out(error: &refinery::Error) -> MigrateError {
    use refinery::error::Kind;
    match error.kind() {
        Kind::DivergentVersion(..) | Kind::MissingVersion(_) | Kind::RepeatedVersion(_) => {
            MigrateError::Divergent(error.to_string())
        }
        Kind::Connection(message, cause) => {
            let failed = match cause
                .downcast_ref::<tokio_postgres::Error>()
                .and_then(|e| e.as_db_error())
            {
                Some(refusal) => DatabaseError::refused(refusal),
                None => DatabaseError::unexpected(format!("{message}: {cause}")),
            };
            MigrateError::Failed(failed)
        }
        _ => MigrateError::Failed(DatabaseError::unexpected(error.to_string())),
    }
}

/// The version of the database's schema; none if it was never migrated.
pub async fn schema_version(client: &Client) -> Result<Option<i32>, DatabaseError> {
    let migrated: bool = client
        .query_one(
            "select to_regclass('public.refinery_schema_history') is not null",
            &[],
        )
        .await
        .in_statement("schema_version")?
        .try_get(0)?;
    if !migrated {
        return Ok(None);
    }
    let row = client
        .query_one("select max(version) from public.refinery_schema_history", &[])
        .await
        .in_statement("schema_version")?;
    Ok(row.try_get(0)?)
}

/// Whether the schema is at least [`SCHEMA_VERSION`]. A newer one is fine: migrations expand first, and contract only
/// what no build in use still needs.
pub async fn check_schema(client: &Client) -> Result<(), SchemaError> {
    match schema_version(client).await? {
        None => Err(SchemaError::Missing),
        Some(found) if found < SCHEMA_VERSION => Err(SchemaError::TooOld {
            found,
            needed: SCHEMA_VERSION,
        }),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What databases out there have applied must stay what it was: change the schema by a new migration. (Until the
    /// first release V1 may still be edited, with its line here.)
    #[test]
    fn merged_migrations_never_change() {
        let mut migrations = embedded::migrations::runner().get_migrations().clone();
        migrations.sort();
        let embedded: Vec<String> = migrations
            .iter()
            .map(|migration| format!("{migration} {}", migration.checksum()))
            .collect();
        let committed: Vec<&str> = include_str!("../migrations/checksums.txt").lines().collect();
        assert_eq!(
            embedded, committed,
            "migrations/ (left) and migrations/checksums.txt (right) differ"
        );
    }

    #[test]
    fn this_build_needs_its_newest_migration() {
        let newest = embedded::migrations::runner()
            .get_migrations()
            .iter()
            .map(refinery::Migration::version)
            .max();
        assert_eq!(newest, Some(SCHEMA_VERSION));
    }
}
