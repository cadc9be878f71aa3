//! Hits in the database.

use std::{net::IpAddr, pin::pin};

use database::{Error, InStatement, Timestamptz, Transaction};
use futures::TryStreamExt;
use tokio_postgres::Row;
use tracking::{
    DedupKey, Rules, Verdict,
    verdicts::{HitKey, KnownHit, MarkKey},
};
use uuid::Uuid;

use super::{
    Batch, Statements,
    neighbours::{Gathering, Spans},
    verdicts::Judged,
};

pub(super) const STORED: &str = "-- record: hits stored around the facts
select span.email, hit.opened_at, hit.event_id, hit.dedup_key,
       hit.is_duplicate, hit.consumed_mark_at, hit.consumed_mark_id, hit.compose_window
from unnest($1::int[], $2::text[], $3::timestamptz[], $4::timestamptz[]) as span (email, email_id, since, until)
cross join lateral (
  select * from hits
  where hits.email_id = span.email_id and hits.opened_at between span.since and span.until
) as hit";

/// The name of [`INSERT`] in errors.
pub(super) const INSERT_NAME: &str = "insert_hits";

/// No `on conflict`: under the email's lock, what is stored already was found before. The key stands guard.
pub(super) const INSERT: &str = "-- record: insert hits
insert into hits (
  email_id, opened_at, event_id, client_address, user_agent, referer_host, dedup_key, google_proxy,
  is_duplicate, consumed_mark_at, consumed_mark_id, compose_window,
  device_type, geo_country, geo_region, geo_city, latitude, longitude)
select * from unnest(
  $1::text[], $2::timestamptz[], $3::uuid[], $4::inet[], $5::text[], $6::text[], $7::bigint[], $8::boolean[],
  $9::boolean[], $10::timestamptz[], $11::uuid[], $12::boolean[],
  $13::text[], $14::text[], $15::text[], $16::text[], $17::double precision[], $18::double precision[])";

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
    })
}

/// The columns of the table, one value for each new hit.
#[derive(Default)]
struct Columns<'a> {
    email_id: Vec<&'a str>,
    opened_at: Vec<Timestamptz>,
    event_id: Vec<Uuid>,
    client_address: Vec<IpAddr>,
    user_agent: Vec<Option<&'a str>>,
    referer_host: Vec<Option<&'a str>>,
    dedup_key: Vec<i64>,
    google_proxy: Vec<bool>,
    is_duplicate: Vec<bool>,
    consumed_mark_at: Vec<Option<Timestamptz>>,
    consumed_mark_id: Vec<Option<Uuid>>,
    compose_window: Vec<bool>,
    device_type: Vec<&'static str>,
    geo_country: Vec<Option<&'a str>>,
    geo_region: Vec<Option<&'a str>>,
    geo_city: Vec<Option<&'a str>>,
    latitude: Vec<Option<f64>>,
    longitude: Vec<Option<f64>>,
}

/// Inserts the new hits with their verdicts.
pub(super) async fn insert(
    tx: &Transaction<'_>,
    statements: &Statements,
    judged: &[Judged<'_>],
) -> Result<(), Error> {
    let mut columns = Columns::default();
    for email in judged {
        for new in &email.new_hits {
            let hit = &new.described.hit;
            columns.email_id.push(email.email_id);
            columns.opened_at.push(hit.opened_at.into());
            columns.event_id.push(hit.event_id);
            columns.client_address.push(hit.client_address);
            columns.user_agent.push(hit.user_agent.as_deref());
            columns.referer_host.push(hit.referer_host.as_deref());
            columns.dedup_key.push(new.described.dedup_key.as_i64());
            columns.google_proxy.push(new.described.google_proxy);
            columns.is_duplicate.push(new.verdict.is_duplicate);
            columns
                .consumed_mark_at
                .push(new.verdict.consumed_mark.map(|mark| mark.marked_at.into()));
            columns
                .consumed_mark_id
                .push(new.verdict.consumed_mark.map(|mark| mark.mark_id));
            columns.compose_window.push(new.verdict.compose_window);
            columns.device_type.push(new.described.device.as_str());
            let place = &new.described.place;
            columns.geo_country.push(place.country.as_deref());
            columns.geo_region.push(place.region.as_deref());
            columns.geo_city.push(place.city.as_deref());
            columns
                .latitude
                .push(place.coordinates.map(|(latitude, _)| latitude));
            columns
                .longitude
                .push(place.coordinates.map(|(_, longitude)| longitude));
        }
    }
    columns.insert(tx, statements).await
}

impl Columns<'_> {
    async fn insert(&self, tx: &Transaction<'_>, statements: &Statements) -> Result<(), Error> {
        if self.email_id.is_empty() {
            return Ok(());
        }
        tx.execute(
            &statements.insert_hits,
            &[
                &self.email_id,
                &self.opened_at,
                &self.event_id,
                &self.client_address,
                &self.user_agent,
                &self.referer_host,
                &self.dedup_key,
                &self.google_proxy,
                &self.is_duplicate,
                &self.consumed_mark_at,
                &self.consumed_mark_id,
                &self.compose_window,
                &self.device_type,
                &self.geo_country,
                &self.geo_region,
                &self.geo_city,
                &self.latitude,
                &self.longitude,
            ],
        )
        .await
        .in_statement(INSERT_NAME)?;
        Ok(())
    }
}
