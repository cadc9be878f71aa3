//! All statements of the transaction, prepared before the first is sent.

use database::{Error, Transaction};
use tokio_postgres::Statement;

use super::{counters, emails, hits, marks, revisions, verdicts};

/// Statements are sent together and must run in the order sent. Were one of them prepared in between, those after it
/// would overtake it; so all are prepared first. Each connection keeps them.
pub(super) struct Statements {
    pub(super) count_emails: Statement,
    pub(super) add_emails: Statement,
    pub(super) stored_hits: Statement,
    pub(super) stored_marks: Statement,
    pub(super) insert_marks: Statement,
    pub(super) insert_hits: Statement,
    pub(super) correct_hits: Statement,
    pub(super) update_emails: Statement,
    pub(super) raise_revision: Statement,
}

impl Statements {
    /// Prepares what this connection has not prepared yet.
    pub(super) async fn prepare(tx: &Transaction<'_>) -> Result<Self, Error> {
        Ok(Self {
            count_emails: tx.prepare_cached(emails::COUNT).await?,
            add_emails: tx.prepare_cached(emails::ADD).await?,
            stored_hits: tx.prepare_cached(hits::STORED).await?,
            stored_marks: tx.prepare_cached(marks::STORED).await?,
            insert_marks: tx.prepare_cached(marks::INSERT).await?,
            insert_hits: tx.prepare_cached(hits::INSERT).await?,
            correct_hits: tx.prepare_cached(verdicts::CORRECT).await?,
            update_emails: tx.prepare_cached(counters::UPDATE).await?,
            raise_revision: tx.prepare_cached(revisions::RAISE).await?,
        })
    }
}
