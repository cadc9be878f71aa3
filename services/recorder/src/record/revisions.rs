//! Whether anything that a list shows has changed.

use database::{Error, InStatement, Transaction};

use super::{Statements, verdicts::Judged};

/// Last of the transaction: whoever raises the same row waits for a commit and for nothing else.
pub(super) const RAISE: &str = "-- record: raise the writer's revision
insert into revisions as mine (writer, revision) values ($1, 1)
on conflict (writer) do update set revision = mine.revision + 1";

/// Raises `writer`'s revision if anything about hits has changed.
pub(super) async fn raise(
    tx: &Transaction<'_>,
    statements: &Statements,
    writer: &str,
    judged: &[Judged<'_>],
) -> Result<(), Error> {
    if judged
        .iter()
        .any(|email| !email.new_hits.is_empty() || !email.corrected.is_empty())
    {
        tx.execute(&statements.raise_revision, &[&writer])
            .await
            .in_statement("raise_revision")?;
    }
    Ok(())
}

/// Raises `writer`'s revision in a transaction that records nothing.
pub(crate) async fn raise_revision(tx: &Transaction<'_>, writer: &str) -> Result<(), Error> {
    let raise = tx.prepare_cached(RAISE).await.in_statement("raise_revision")?;
    tx.execute(&raise, &[&writer])
        .await
        .in_statement("raise_revision")?;
    Ok(())
}
