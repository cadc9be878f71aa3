//! The emails' rows: everything that touches an email queues on its row, in the order of email ids.

use database::{Error, InStatement, Timestamptz, Transaction};
use tokio_postgres::Row;
use tracking::{Timestamp, verdicts::HitKey};

use super::{Batch, Statements};

/// The rows are inserted in the order of the ids, so that two recorders that meet the same new emails wait for each other
/// one way only.
pub(super) const ADD: &str = "-- record: add the emails never seen
insert into tracked_emails (email_id)
select new.email_id from unnest($1::text[]) as new (email_id)
where not exists (select from tracked_emails as known where known.email_id = new.email_id)
order by new.email_id collate \"C\"
on conflict (email_id) do nothing";

/// Whatever a later statement reads of these emails cannot change until the transaction ends.
pub(super) const LOCK: &str = "-- record: lock the emails
select first_opened_at, first_event_id, sender_opened_at, sender_event_id, last_opened_at
from tracked_emails where email_id = any($1::text[])
order by email_id
for no key update";

/// What an email's row says before this batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KnownEmail {
    /// The hit that it has its identity from.
    pub(super) first: Option<HitKey>,
    /// The hit that it has its sender from.
    pub(super) sender: Option<HitKey>,
    /// When its latest open was.
    pub(super) last_opened_at: Option<Timestamp>,
}

/// Adds the batch's emails where they are missing; answers how many were.
pub(super) async fn add(tx: &Transaction<'_>, statements: &Statements, batch: &Batch) -> Result<u64, Error> {
    tx.execute(&statements.add_emails, &[&batch.email_ids()])
        .await
        .in_statement("add_emails")
}

/// Locks the batch's emails; answers what their rows say, in the batch's order.
pub(super) async fn lock(
    tx: &Transaction<'_>,
    statements: &Statements,
    batch: &Batch,
) -> Result<Vec<KnownEmail>, Error> {
    let rows = tx
        .query(&statements.lock_emails, &[&batch.email_ids()])
        .await
        .in_statement("lock_emails")?;
    if rows.len() != batch.emails.len() {
        return Err(Error::unexpected(
            "an email's row was gone before it could be locked",
        ));
    }
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<KnownEmail, Error> {
    Ok(KnownEmail {
        first: hit_key(row, 0)?,
        sender: hit_key(row, 2)?,
        last_opened_at: row.try_get::<_, Option<Timestamptz>>(4)?.map(Timestamp::from),
    })
}

/// The hit named by the two columns from `column` on.
fn hit_key(row: &Row, column: usize) -> Result<Option<HitKey>, Error> {
    let opened_at: Option<Timestamptz> = row.try_get(column)?;
    let event_id = row.try_get(column + 1)?;
    Ok(opened_at.zip(event_id).map(|(opened_at, event_id)| HitKey {
        opened_at: opened_at.into(),
        event_id,
    }))
}
