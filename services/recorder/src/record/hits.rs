//! Hits in the database.

use std::pin::pin;

use database::{CopyIn, Error, InStatement, Timestamptz, Transaction};
use futures::TryStreamExt;
use tokio_postgres::{Row, types::Type};
use tracking::{
    DedupKey, Rules, Verdict,
    agents::Confidence,
    verdicts::{HitKey, KnownHit, MarkKey},
};
use uuid::Uuid;

use super::{
    Batch, Statements,
    neighbours::{Gathering, Spans},
    verdicts::{Judged, JudgedHit},
};

pub(super) const STORED: &str = "-- record: hits stored around the facts
select span.email, hit.opened_at, hit.event_id, hit.dedup_key,
       hit.is_duplicate, hit.consumed_mark_at, hit.consumed_mark_id, hit.compose_window, hit.confidence
from unnest($1::int[], $2::text[], $3::timestamptz[], $4::timestamptz[]) as span (email, email_id, since, until)
cross join lateral (
  select * from hits
  where hits.email_id = span.email_id and hits.opened_at between span.since and span.until
    -- in shards: and hits.email_id = any($2)
) as hit";

/// The name of [`INSERT`] in errors.
pub(super) const INSERT_NAME: &str = "insert_hits";

/// No way around a conflict: under the email's lock, what is stored already was found before. The key stands guard.
pub(super) const INSERT: &str = "-- record: insert hits
copy hits (
  email_id, opened_at, event_id, client_address, user_agent, referer_host, dedup_key, google_proxy,
  is_duplicate, consumed_mark_at, consumed_mark_id, compose_window,
  device_type, geo_country, geo_region, geo_city, latitude, longitude, agent, confidence)
from stdin with (format binary)";

const TYPES: [Type; 20] = [
    Type::TEXT,
    Type::TIMESTAMPTZ,
    Type::UUID,
    Type::INET,
    Type::TEXT,
    Type::TEXT,
    Type::INT8,
    Type::BOOL,
    Type::BOOL,
    Type::TIMESTAMPTZ,
    Type::UUID,
    Type::BOOL,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::TEXT,
    Type::FLOAT8,
    Type::FLOAT8,
    Type::TEXT,
    Type::TEXT,
];

/// The hits stored within `spans`, as far as they matter to `batch`, for each of its emails.
pub(super) async fn stored(
    tx: &Transaction<'_>,
    statements: &Statements,
    batch: &Batch,
    spans: &Spans<'_>,
    rules: &Rules,
) -> Result<Vec<Vec<KnownHit>>, Error> {
    let mut found = Gathering::new(batch, rules.dedup_window_ms);
    if spans.is_empty() {
        return Ok(found.by_email());
    }
    let rows = tx
        .query_raw(&statements.stored_hits, spans.parameters())
        .await
        .in_statement("stored_hits")?;
    let mut rows = pin!(rows);
    while let Some(row) = rows.try_next().await.in_statement("stored_hits")? {
        found.add(row.try_get(0)?, read(&row)?);
    }
    Ok(found.by_email())
}

fn read(row: &Row) -> Result<KnownHit, Error> {
    let mark_at: Option<Timestamptz> = row.try_get(5)?;
    let mark_id: Option<Uuid> = row.try_get(6)?;
    let consumed_mark = mark_at.zip(mark_id).map(|(marked_at, mark_id)| MarkKey {
        marked_at: marked_at.into(),
        mark_id,
    });
    Ok(KnownHit {
        key: HitKey {
            opened_at: row.try_get::<_, Timestamptz>(1)?.into(),
            event_id: row.try_get(2)?,
        },
        dedup_key: DedupKey::from_i64(row.try_get(3)?),
        verdict: Verdict {
            is_duplicate: row.try_get(4)?,
            consumed_mark,
            compose_window: row.try_get(7)?,
        },
        // A name that a later version gave is not ours to read; it counts as what says least.
        confidence: Confidence::named(row.try_get(8)?).unwrap_or(Confidence::Unclear),
    })
}

/// Inserts the new hits with their verdicts.
pub(super) async fn insert(
    tx: &Transaction<'_>,
    statements: &Statements,
    judged: &[Judged<'_>],
) -> Result<(), Error> {
    if judged.iter().all(|email| email.new_hits.is_empty()) {
        return Ok(());
    }
    let copied = copy(tx, statements, judged).await;
    copied.in_statement(INSERT_NAME)
}

async fn copy(tx: &Transaction<'_>, statements: &Statements, judged: &[Judged<'_>]) -> Result<(), Error> {
    let mut rows = CopyIn::begin(tx, &statements.insert_hits, &TYPES).await?;
    for email in judged {
        for hit in &email.new_hits {
            write(&mut rows, email.email_id, hit).await?;
        }
    }
    rows.finish().await?;
    Ok(())
}

async fn write(rows: &mut CopyIn<'_>, email_id: &str, new: &JudgedHit<'_>) -> Result<(), Error> {
    let (described, verdict) = (new.described, &new.verdict);
    let (hit, place) = (&described.hit, &described.place);
    let mark = verdict.consumed_mark.as_ref();
    rows.row(&[
        &email_id,
        &Timestamptz(hit.opened_at),
        &hit.event_id,
        &hit.client_address,
        &hit.user_agent,
        &hit.referer_host,
        &described.dedup_key.as_i64(),
        &described.google_proxy,
        &verdict.is_duplicate,
        &mark.map(|mark| Timestamptz(mark.marked_at)),
        &mark.map(|mark| mark.mark_id),
        &verdict.compose_window,
        &described.device.as_str(),
        &place.country,
        &place.region,
        &place.city,
        &place.coordinates.map(|(latitude, _)| latitude),
        &place.coordinates.map(|(_, longitude)| longitude),
        &described.agent.as_str(),
        &described.agent.confidence().as_str(),
    ])
    .await
}
