//! All statements of the transaction, prepared before the first is sent.

use database::{Error, Transaction};
use tokio_postgres::Statement;

use super::{counters, emails, hits, marks, verdicts};
use crate::{erase, revisions, shards::Layout, slots};

/// Statements are sent together and must run in the order sent. Were one of them prepared in between, those after it
/// would overtake it; so all are prepared first. Each connection keeps them.
pub(super) struct Statements {
    pub(super) count_emails: Statement,
    pub(super) add_emails: Statement,
    pub(super) find_erased: Statement,
    pub(super) stored_hits: Statement,
    pub(super) stored_marks: Statement,
    pub(super) insert_marks: Statement,
    pub(super) insert_hits: Statement,
    pub(super) correct_hits: Statement,
    pub(super) update_emails: Statement,
    pub(super) mark_slots: Statement,
    pub(super) raise_revision: Statement,
}

impl Statements {
    /// Prepares what this connection has not prepared yet.
    pub(super) async fn prepare(tx: &Transaction<'_>, layout: Layout) -> Result<Self, Error> {
        let prepare = async |statement| tx.prepare_cached(&layout.form(statement)).await;
        Ok(Self {
            count_emails: prepare(emails::COUNT).await?,
            add_emails: prepare(emails::ADD).await?,
            find_erased: prepare(erase::NOTED).await?,
            stored_hits: prepare(hits::STORED).await?,
            stored_marks: prepare(marks::STORED).await?,
            insert_marks: prepare(marks::INSERT).await?,
            insert_hits: prepare(hits::INSERT).await?,
            correct_hits: prepare(verdicts::CORRECT).await?,
            update_emails: prepare(counters::UPDATE).await?,
            mark_slots: prepare(slots::MARK).await?,
            raise_revision: prepare(revisions::RAISE).await?,
        })
    }
}
