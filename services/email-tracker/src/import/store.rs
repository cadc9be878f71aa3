//! Records imported facts as a recorder does, then adds what only the list knows of them.

use anyhow::Context as _;
use database::{Database, Error, InStatement as _, Timestamptz, Transaction, Work};
use recorder::{Recorder, mark_stale};
use recorder_api::Outcome;
use tracking::Fact;
use uuid::Uuid;

use super::facts::{Imported, NO_ADDRESS};

/// As many as a pixel sends at once.
const BATCH: usize = 1_000;

/// What became of facts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stored {
    /// Hits that were not there before.
    pub(super) recorded: u64,
    pub(super) already_known: u64,
    /// Hits of emails that users have erased here.
    pub(super) erased: u64,
    /// Listed opens that do not count here.
    pub(super) not_counting: u64,
}

/// Where facts go.
pub(super) struct Store {
    pub(super) recorder: Recorder,
    pub(super) database: Database,
}

impl Store {
    /// Records `facts`, whole emails.
    pub(super) async fn add(&self, facts: Vec<Imported>, stored: &mut Stored) -> anyhow::Result<()> {
        for batch in facts.chunks(BATCH) {
            let sent = batch.iter().map(|imported| imported.fact.clone()).collect();
            let outcomes = self.recorder.record(sent).await.context("cannot record")?;
            for (imported, outcome) in batch.iter().zip(outcomes) {
                if matches!(imported.fact, Fact::Hit(_)) {
                    match outcome {
                        Outcome::Recorded => stored.recorded += 1,
                        Outcome::Erased => stored.erased += 1,
                        _ => stored.already_known += 1,
                    }
                }
            }
        }
        // Only now: a later fact may have changed an earlier one's verdict.
        for batch in facts.chunks(BATCH) {
            let described = self.database.transact(&Describing::of(batch)).await;
            stored.not_counting += described.context("cannot describe what was recorded")?;
        }
        Ok(())
    }
}

/// Adds places, and takes back the addresses that stood for none. Answers how many of the opens do not count.
#[derive(Default)]
struct Describing<'a> {
    email_ids: Vec<&'a str>,
    opened_at: Vec<Timestamptz>,
    event_ids: Vec<Uuid>,
    listed: Vec<bool>,
    without_address: Vec<bool>,
    countries: Vec<Option<&'a str>>,
    regions: Vec<Option<&'a str>>,
    cities: Vec<Option<&'a str>>,
    latitudes: Vec<Option<f64>>,
    longitudes: Vec<Option<f64>>,
}

impl<'a> Describing<'a> {
    fn of(batch: &'a [Imported]) -> Self {
        let mut these = Self::default();
        for imported in batch {
            let Fact::Hit(hit) = &imported.fact else {
                continue;
            };
            let place = imported.place.as_ref();
            these.email_ids.push(&hit.token.email_id);
            these.opened_at.push(Timestamptz(hit.opened_at));
            these.event_ids.push(hit.event_id);
            these.listed.push(place.is_some());
            these.without_address.push(hit.client_address == NO_ADDRESS);
            these
                .countries
                .push(place.and_then(|place| place.country.as_deref()));
            these
                .regions
                .push(place.and_then(|place| place.region.as_deref()));
            these.cities.push(place.and_then(|place| place.city.as_deref()));
            these.latitudes.push(place.and_then(|place| place.latitude));
            these.longitudes.push(place.and_then(|place| place.longitude));
        }
        these
    }
}

impl Work for Describing<'_> {
    const NAME: &'static str = "describe_imported";
    type Output = u64;

    async fn run(&self, tx: &Transaction<'_>) -> Result<u64, Error> {
        let changed = tx
            .execute(
                DESCRIBE,
                &[
                    &self.email_ids,
                    &self.opened_at,
                    &self.event_ids,
                    &self.without_address,
                    &self.countries,
                    &self.regions,
                    &self.cities,
                    &self.latitudes,
                    &self.longitudes,
                ],
            )
            .await
            .in_statement("describe_hits")?;
        let marks = tx
            .execute(FORGET_ADDRESSES_OF_MARKS, &[&self.email_ids, &self.opened_at])
            .await
            .in_statement("forget_addresses_of_marks")?;
        if changed > 0 {
            // Charts count by country, and what was just recorded may be counted already.
            mark_stale(tx, self.opened_at.iter().map(|at| at.0)).await?;
        }
        if changed + marks > 0 {
            tx.execute(RAISE_REVISION, &[])
                .await
                .in_statement("raise_revision")?;
        }
        tx.execute(BEGIN_UPKEEP_ANEW, &[])
            .await
            .in_statement("begin_upkeep_anew")?;
        let row = tx
            .query_one(
                COUNT_NOT_COUNTING,
                &[&self.email_ids, &self.opened_at, &self.event_ids, &self.listed],
            )
            .await
            .in_statement("count_not_counting")?;
        Ok(u64::try_from(row.try_get::<_, i64>(0)?).unwrap_or_default())
    }
}

/// What the list says of a place goes before what this installation knows; what it does not say stays.
const DESCRIBE: &str = "
update hits h
set client_address = case when d.without_address then null else h.client_address end,
    geo_country = coalesce(d.country, h.geo_country), geo_region = coalesce(d.region, h.geo_region),
    geo_city = coalesce(d.city, h.geo_city), latitude = coalesce(d.latitude, h.latitude),
    longitude = coalesce(d.longitude, h.longitude)
from unnest($1::text[], $2::timestamptz[], $3::uuid[], $4::boolean[], $5::text[], $6::text[], $7::text[], $8::float8[],
            $9::float8[])
     as d (email_id, opened_at, event_id, without_address, country, region, city, latitude, longitude)
where h.email_id = d.email_id and h.opened_at = d.opened_at and h.event_id = d.event_id
  and (d.without_address and h.client_address is not null
       or (coalesce(d.country, h.geo_country), coalesce(d.region, h.geo_region), coalesce(d.city, h.geo_city),
           coalesce(d.latitude, h.latitude), coalesce(d.longitude, h.longitude))
          is distinct from (h.geo_country, h.geo_region, h.geo_city, h.latitude, h.longitude))";

const FORGET_ADDRESSES_OF_MARKS: &str = "
update marks m set client_address = null
from unnest($1::text[], $2::timestamptz[]) as d (email_id, marked_at)
where m.email_id = d.email_id and m.marked_at = d.marked_at and m.client_address = '0.0.0.0'";

const RAISE_REVISION: &str = "
insert into revisions as r (writer, revision) values ('import/places', 1)
  on conflict (writer) do update set revision = r.revision + 1";

/// What was recorded here is older than where the shortening of addresses may have come to.
const BEGIN_UPKEEP_ANEW: &str = "update upkeep set done_until = default";

const COUNT_NOT_COUNTING: &str = "
select count(*)
from unnest($1::text[], $2::timestamptz[], $3::uuid[], $4::boolean[]) as d (email_id, opened_at, event_id, listed)
join hits h on h.email_id = d.email_id and h.opened_at = d.opened_at and h.event_id = d.event_id
where d.listed and not h.is_open";
