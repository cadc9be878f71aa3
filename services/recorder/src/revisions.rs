//! The revisions: each that writes has a row of its own, and raises it in each transaction that changes what a list or a
//! chart shows. All rows together name the state of the data.

use std::ops::RangeInclusive;

use database::{Error, InStatement, Transaction};

/// Last of a transaction: whoever raises the same row waits for a commit and for nothing else.
pub(crate) const RAISE: &str = "-- record: raise the writer's revision
insert into revisions as mine (writer, revision) values ($1, $2::bigint)
on conflict (writer) do update set revision = mine.revision + $2::bigint";

/// The name of [`RAISE`] in errors.
pub(crate) const RAISE_NAME: &str = "raise_revision";

/// By how much a revision rises, at random. A database that goes back a little, as when a standby takes over that lacked
/// the last commits, must not come to a revision that a client knows of facts that are gone: its list would pass for
/// unchanged. With these steps a number lasts for five hundred billion transactions.
const STEPS: RangeInclusive<i64> = 1..=1 << 24;

/// The next one.
pub(crate) fn step() -> i64 {
    rand::random_range(STEPS)
}

/// Raises `writer`'s revision in a transaction that records nothing.
pub(crate) async fn raise(tx: &Transaction<'_>, writer: &str) -> Result<(), Error> {
    let raise = tx.prepare_cached(RAISE).await.in_statement(RAISE_NAME)?;
    tx.execute(&raise, &[&writer, &step()])
        .await
        .in_statement(RAISE_NAME)?;
    Ok(())
}
