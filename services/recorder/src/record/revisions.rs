//! Whether anything that a list shows has changed.

use database::{Error, InStatement, Transaction};

use super::{Statements, counters::Change};

/// Last of the transaction: whoever raises the same row waits for a commit and for nothing else.
pub(crate) const RAISE: &str = "-- record: raise the writer's revision
insert into revisions as mine (writer, revision) values ($1, 1)
on conflict (writer) do update set revision = mine.revision + 1";

/// Raises `writer`'s revision if an email changed.
pub(super) async fn raise(
    tx: &Transaction<'_>,
    statements: &Statements,
    writer: &str,
    changes: &[Change<'_>],
) -> Result<(), Error> {
    if !changes.is_empty() {
        tx.execute(&statements.raise_revision, &[&writer])
            .await
            .in_statement("raise_revision")?;
    }
    Ok(())
}
