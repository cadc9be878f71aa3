//! What tells those who read that something has changed: the writer's revision, and the slots that charts count anew.

use database::{Error, InStatement, Transaction};

use super::{Recording, Statements, verdicts::Judged};
use crate::{
    revisions::{RAISE_NAME, step},
    shards::Layout,
    slots::slots_of,
};

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
            .in_statement(RAISE_NAME)?;
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
