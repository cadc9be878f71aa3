//! Emails that users have erased: what comes of them is refused.
//!
//! An email that has a row is not erased, or is about to be, by someone who waits for that row. So only those without one are
//! looked for, and only after their rows are added: whoever erases one of them from then on waits for this transaction, and
//! whoever has done so before has committed the note that is looked for.

use database::{Error, InStatement, Transaction};

use super::{Batch, Statements, emails::Standing};
use crate::erase;

pub(super) const REMOVE: &str = "-- record: remove the emails that are erased
delete from tracked_emails where email_id = any($1)";

/// The places in the batch of the [`New`](Standing::New) emails that are erased.
pub(super) async fn find(
    tx: &Transaction<'_>,
    statements: &Statements,
    batch: &Batch,
    standings: &[Standing],
) -> Result<Vec<usize>, Error> {
    let emails = batch.emails.iter().zip(standings).enumerate();
    let (places, email_ids): (Vec<usize>, Vec<&str>) = emails
        .filter(|(_, (_, standing))| **standing == Standing::New)
        .map(|(place, (facts, _))| (place, facts.email_id.as_str()))
        .unzip();
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let rows = tx
        .query(&statements.find_erased, &[&email_ids])
        .await
        .in_statement("find_erased")?;
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        found.extend(places.get(erase::place(row)?));
    }
    Ok(found)
}

/// Takes the rows of the emails at `places`, which this transaction has added, away again.
pub(super) async fn refuse(
    tx: &Transaction<'_>,
    batch: &Batch,
    standings: &mut [Standing],
    places: &[usize],
) -> Result<(), Error> {
    if places.is_empty() {
        return Ok(());
    }
    let mut email_ids = Vec::with_capacity(places.len());
    for place in places {
        if let (Some(standing), Some(facts)) = (standings.get_mut(*place), batch.emails.get(*place)) {
            *standing = Standing::Erased;
            email_ids.push(facts.email_id.as_str());
        }
    }
    let remove = tx.prepare_cached(REMOVE).await.in_statement("remove_erased")?;
    tx.execute(&remove, &[&email_ids])
        .await
        .in_statement("remove_erased")?;
    Ok(())
}
