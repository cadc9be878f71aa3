//! Whether the database can be recorded into: it answers, and its schema is new enough.

use std::sync::atomic::{AtomicBool, Ordering};

use database::{Database, SchemaError};

/// Remembers that the schema was new enough: it never gets older.
#[derive(Debug)]
pub(crate) struct SchemaGate {
    database: Database,
    passed: AtomicBool,
}

impl SchemaGate {
    pub(crate) fn new(database: Database) -> Self {
        Self {
            database,
            passed: AtomicBool::new(false),
        }
    }

    /// Asks the database now.
    pub(crate) async fn check(&self) -> Result<(), SchemaError> {
        self.database.check_schema().await?;
        self.passed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Asks the database unless the schema was seen to be new enough.
    pub(crate) async fn pass(&self) -> Result<(), SchemaError> {
        if self.passed.load(Ordering::Relaxed) {
            Ok(())
        } else {
            self.check().await
        }
    }
}
