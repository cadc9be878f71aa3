//! The way to PostgreSQL for everything that stores or reads facts: configuration, pool, transactions by name with
//! their metrics, migrations, roles. The SQL of recording and of reading lives with the services that run it.
//!
//! ```no_run
//! # async fn example(meter: &opentelemetry::metrics::Meter) -> Result<(), Box<dyn std::error::Error>> {
//! use database::{Config, Database, Error, InStatement, Session, Transaction, Work};
//!
//! let config = Config::new("DATABASE_URL", "postgres://email_tracker_recorder@db.example.com/email_tracker")?
//!     .password(Some("s3cr:t/@"))
//!     .application_name("recorder")
//!     .pool_size(4)
//!     .session(Session::recorder());
//! let database = Database::open(&config, meter)?; // connects when first used
//! database.check_schema().await?;
//!
//! struct CountEmails;
//! impl Work for CountEmails {
//!     const NAME: &'static str = "count_emails";
//!     type Output = i64;
//!     async fn run(&self, tx: &Transaction<'_>) -> Result<i64, Error> {
//!         let statement = tx.prepare_cached("select count(*) from tracked_emails").await.in_statement("count")?;
//!         Ok(tx.query_one(&statement, &[]).await.in_statement("count")?.get(0))
//!     }
//! }
//! let emails = database.transact(&CountEmails).await?;
//! # Ok(()) }
//! ```

mod citus;
mod config;
mod copy;
mod error;
mod metrics;
mod migrations;
mod pool;
mod roles;
mod session;
mod timestamptz;
mod tls;

pub use citus::{DistributeError, Distributed, distribute, is_distributed};
pub use config::{Config, ConfigError};
pub use copy::CopyIn;
pub use error::{Error, ErrorKind, InStatement};
pub use migrations::{
    MigrateError, Migrated, SCHEMA_VERSION, SchemaError, check_schema, migrate, schema_version,
};
pub use pool::{Client, Database, Transaction, Work};
pub use roles::{DASHBOARD_ROLE, RECORDER_ROLE, RolePasswords};
pub use session::Session;
pub use timestamptz::Timestamptz;
pub use tokio_postgres::IsolationLevel;
