//! Whether anything that a list or a chart shows has changed.

use std::ops::RangeInclusive;

use database::{Error, InStatement, Transaction};

use super::{Recording, Statements, verdicts::Judged};
use crate::{shards::Layout, slots::slots_of};

/// Last of the transaction: whoever raises the same row waits for a commit and for nothing else.
pub(super) const RAISE: &str = "-- record: raise the writer's revision
insert into revisions as mine (writer, revision) values ($1, $2::bigint)
on conflict (writer) do update set revision = mine.revision + $2::bigint";

/// By how much a revision rises, at random. A database that goes back a little, as when a standby takes over that lacked
/// the last commits, must not come to a revision that a client knows of facts that are gone: its list would pass for
/// unchanged. With these steps a number lasts for five hundred billion transactions.
const STEPS: RangeInclusive<i64> = 1..=1 << 24;

/// The next one.
fn step() -> i64 {
    rand::random_range(STEPS)
}

/// Raises the writer's revision if anything about hits has changed.
///
/// A shard commits just before this row does. If the server dies in between, the batch comes again, with nothing new in
/// it: so there the revision rises in any case.
pub(super) async fn raise(
    tx: &Transaction<'_>,
    statements: &Statements,
    recording: &Recording<'_>,
    judged: &[Judged<'_>],
) -> Result<(), Error> {
    if has_changed(judged) || recording.layout == Layout::Sharded {
        tx.execute(&statements.raise_revision, &[&recording.writer, &step()])
            .await
            .in_statement("raise_revision")?;
    }
    Ok(())
}

fn has_changed(judged: &[Judged<'_>]) -> bool {
    judged
        .iter()
        .any(|email| !email.new_hits.is_empty() || !email.corrected.is_empty())
}

/// Says which slots are stale by what changes about hits, for charts; in shards in any case, as above.
pub(super) async fn mark_slots(
    tx: &Transaction<'_>,
    statements: &Statements,
    recording: &Recording<'_>,
    judged: &[Judged<'_>],
) -> Result<(), Error> {
    let corrected = || {
        judged
            .iter()
            .flat_map(|email| &email.corrected)
            .map(|hit| hit.key.opened_at)
    };
    let slots = if recording.layout == Layout::Sharded {
        slots_of(recording.batch.hit_times().chain(corrected()))
    } else {
        let new_hits = judged.iter().flat_map(|email| &email.new_hits);
        slots_of(new_hits.map(|hit| hit.described.hit.opened_at).chain(corrected()))
    };
    if !slots.is_empty() {
        tx.execute(&statements.mark_slots, &[&slots])
            .await
            .in_statement("mark_slots")?;
    }
    Ok(())
}

/// Raises `writer`'s revision in a transaction that records nothing.
pub(crate) async fn raise_revision(tx: &Transaction<'_>, writer: &str) -> Result<(), Error> {
    let raise = tx.prepare_cached(RAISE).await.in_statement("raise_revision")?;
    tx.execute(&raise, &[&writer, &step()])
        .await
        .in_statement("raise_revision")?;
    Ok(())
}
