//! Marks in the database.

use std::pin::pin;

use database::{Error, InStatement, Timestamptz, Transaction};
use futures::TryStreamExt;
use tracking::{Rules, verdicts::MarkKey};

use super::{
    Batch, Statements,
    neighbours::{Gathering, Spans},
    verdicts::Judged,
};

pub(super) const STORED: &str = "-- record: marks stored around the facts
select span.email, mark.marked_at, mark.mark_id
from unnest($1::int[], $2::text[], $3::timestamptz[], $4::timestamptz[]) as span (email, email_id, since, until)
cross join lateral (
  select * from marks
  where marks.email_id = span.email_id and marks.marked_at between span.since and span.until
    -- in shards: and marks.email_id = any($2)
) as mark";

pub(super) const INSERT: &str = "-- record: insert marks
insert into marks (email_id, marked_at, mark_id, client_address, user_agent)
select * from unnest($1::text[], $2::timestamptz[], $3::uuid[], $4::inet[], $5::text[])";

/// The marks stored within `spans`, as far as they matter to `batch`, for each of its emails.
pub(super) async fn stored(
    tx: &Transaction<'_>,
    statements: &Statements,
    batch: &Batch,
    spans: &Spans<'_>,
    rules: &Rules,
) -> Result<Vec<Vec<MarkKey>>, Error> {
    let mut found = Gathering::new(batch, rules.dedup_window_ms);
    if spans.is_empty() {
        return Ok(found.by_email());
    }
    let rows = tx
        .query_raw(&statements.stored_marks, spans.parameters())
        .await
        .in_statement("stored_marks")?;
    let mut rows = pin!(rows);
    while let Some(row) = rows.try_next().await.in_statement("stored_marks")? {
        let marked_at: Timestamptz = row.try_get(1)?;
        found.add(
            row.try_get(0)?,
            MarkKey {
                marked_at: marked_at.into(),
                mark_id: row.try_get(2)?,
            },
        );
    }
    Ok(found.by_email())
}

/// Inserts the new marks.
pub(super) async fn insert(
    tx: &Transaction<'_>,
    statements: &Statements,
    judged: &[Judged<'_>],
) -> Result<(), Error> {
    let marks = || judged.iter().flat_map(|email| &email.new_marks);
    if marks().next().is_none() {
        return Ok(());
    }
    let email_id: Vec<&str> = marks().map(|mark| mark.email_id.as_str()).collect();
    let marked_at: Vec<Timestamptz> = marks().map(|mark| mark.marked_at.into()).collect();
    let mark_id: Vec<_> = marks().map(|mark| mark.mark_id).collect();
    let client_address: Vec<_> = marks().map(|mark| mark.client_address).collect();
    let user_agent: Vec<_> = marks().map(|mark| mark.user_agent.as_deref()).collect();
    tx.execute(
        &statements.insert_marks,
        &[&email_id, &marked_at, &mark_id, &client_address, &user_agent],
    )
    .await
    .in_statement("insert_marks")?;
    Ok(())
}
