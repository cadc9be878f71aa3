//! Citus: the tables of facts spread over many servers by `email_id`.

use thiserror::Error;
use tokio_postgres::{Client, GenericClient};

use crate::{Config, Error as DatabaseError, InStatement, migrations};

/// Those that are distributed, the first of which the others lie beside: all that is of one email is in one shard.
const TABLES: [&str; 5] = [
    "tracked_emails",
    "hits",
    "marks",
    "webhook_queues",
    "webhook_events",
];

/// What [`distribute`] did.
#[derive(Debug)]
pub struct Distributed {
    /// The tables that were not distributed before.
    pub tables: Vec<&'static str>,
    /// Why rows may still lie, unseen, where they lay before they were distributed.
    pub left_behind: Option<DatabaseError>,
}

/// Why the tables were not distributed, or not all: those that are stay so, and it can be tried again.
#[derive(Debug, Error)]
pub enum DistributeError {
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Citus is not there.
    #[error(
        "the database has no Citus: `create extension citus` in it, on this server and on each worker, and \
         `select citus_add_node(…)` here for each worker"
    )]
    NoCitus,
}

/// Whether the tables of facts are distributed.
///
/// # Errors
/// If the database does not say.
pub async fn is_distributed(client: &impl GenericClient) -> Result<bool, DatabaseError> {
    // A plain server does not know Citus's list of distributed tables, and refuses what names it.
    let statements = [
        "select to_regclass('pg_dist_partition') is not null",
        "select exists (select from pg_dist_partition where logicalrelid = to_regclass('tracked_emails'))",
    ];
    for statement in statements {
        let row = client
            .query_one(statement, &[])
            .await
            .in_statement("is_distributed")?;
        if !row.try_get::<_, bool>(0)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Distributes the tables of facts by `email_id`, what they hold included, over `shards` shards.
///
/// To be run by the owner on the coordinator, after [`migrate`](crate::migrate). What is distributed already stays as it
/// is. Nobody can write to a table while its rows move.
///
/// # Errors
/// [`DistributeError`]; it may be run again.
pub async fn distribute(config: &Config, shards: u16) -> Result<Distributed, DistributeError> {
    let client = config.connect().await?;
    migrations::lock(&client).await?;
    let row = client
        .query_one(
            "select exists (select from pg_proc where proname = 'create_distributed_table')",
            &[],
        )
        .await
        .in_statement("find_citus")?;
    if !row.try_get::<_, bool>(0).map_err(DatabaseError::from)? {
        return Err(DistributeError::NoCitus);
    }
    let mut distributed = Distributed {
        tables: Vec::new(),
        left_behind: None,
    };
    for table in TABLES {
        if distribute_table(&client, table, shards).await? {
            distributed.tables.push(table);
        }
    }
    for table in &distributed.tables {
        if let Err(error) = forget_local_rows(&client, table).await {
            distributed.left_behind = Some(error);
        }
    }
    Ok(distributed)
}

/// Answers whether it was not distributed before.
async fn distribute_table(client: &Client, table: &str, shards: u16) -> Result<bool, DatabaseError> {
    let row = client
        .query_one(
            "select exists (select from pg_dist_partition where logicalrelid = to_regclass($1))",
            &[&table],
        )
        .await
        .in_statement("is_distributed")?;
    if row.try_get(0)? {
        return Ok(false);
    }
    let [first, ..] = TABLES;
    let statement = if table == first {
        format!(
            "select create_distributed_table('{table}', 'email_id', colocate_with => 'none', shard_count => {shards})"
        )
    } else {
        format!("select create_distributed_table('{table}', 'email_id', colocate_with => '{first}')")
    };
    client
        .batch_execute(&statement)
        .await
        .in_statement("create_distributed_table")?;
    Ok(true)
}

/// Citus copies the rows and leaves them where they were, where no query sees them: not what an operator expects who is
/// asked to erase someone.
async fn forget_local_rows(client: &Client, table: &str) -> Result<(), DatabaseError> {
    let statement = format!("select truncate_local_data_after_distributing_table('{table}')");
    client
        .batch_execute(&statement)
        .await
        .in_statement("truncate_local_data")
}
