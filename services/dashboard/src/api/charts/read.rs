//! What charts show, read in one snapshot: counted opens, and the hits of the slots that are not counted yet.
//!
//! A slot is a quarter of an hour (docs/adr/0018). Those that recorders have marked stale are counted here, by the index
//! of hits' times; there are few, and most follow upon one another, as the present one and the one before.

use std::collections::BTreeSet;

use database::{Error, InStatement, IsolationLevel, Timestamptz, Transaction, Work};
use tokio_postgres::{Row, error::SqlState, types::ToSql};
use tracking::slots::{DAY_MS, SLOT_MS, day_of};

use crate::api::{etag::Revisions, list::ReadRevisions};

use super::Charts;

const STALE: &str = "-- charts: stale slots
select distinct slot_at from stale_slots where slot_at >= $1 and slot_at < $2 order by slot_at
";

/// As the recorder counts slots.
const LIVE: &str = "-- charts: opens of stale slots
with opens as materialized (
  select date_bin(interval '15 minutes', opened_at, timestamptz 'epoch') as slot_at,
         agent, device_type, geo_country, confidence, count(*) as number
  from hits
  where opened_at >= $1 and opened_at < $2 and is_open and not starts_with(email_id, 'doctor-')
  group by slot_at, agent, device_type, geo_country, confidence
)
select slot_at,
       case when grouping(agent) = 0 then 'agent' when grouping(device_type) = 0 then 'device'
            when grouping(geo_country) = 0 then 'country' else '' end,
       coalesce(agent, device_type, geo_country, ''),
       coalesce(sum(number) filter (where confidence = 'human'), 0)::bigint,
       coalesce(sum(number) filter (where confidence = 'likely'), 0)::bigint,
       coalesce(sum(number) filter (where confidence not in ('human', 'likely', 'automated')), 0)::bigint,
       coalesce(sum(number) filter (where confidence = 'automated'), 0)::bigint
from opens
group by slot_at, grouping sets ((), (agent), (device_type), (geo_country))
";

/// What is counted live, as a table.
macro_rules! live {
    () => {
        "unnest($4::timestamptz[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])
    as live (slot_at, dimension, value, human, likely, unclear, automated)"
    };
}

/// By periods, and by the hours of the week.
const TIMES: &str = concat!(
    "-- charts: opens over time
with slots as (
  select slot_at, human, likely, unclear, automated from slot_opens
  where slot_at >= $1 and slot_at < $2 and slot_at <> all($3)
  union all
  select slot_at, human, likely, unclear, automated from ",
    live!(),
    "
  where dimension = ''
), placed as (
  select date_trunc($11, slot_at, $12) as period, slot_at at time zone $12 as local, human, likely, unclear, automated
  from slots
)
select period, date_part('isodow', local)::int as weekday, date_part('hour', local)::int as hour,
       sum(human)::bigint, sum(likely)::bigint, sum(unclear)::bigint, sum(automated)::bigint
from placed
group by grouping sets ((period), (weekday, hour))
order by period, weekday, hour
"
);

/// Fails if there is none; the statement over time would not where there are no slots.
const ZONE: &str = "-- charts: the time zone
select timestamptz 'epoch' at time zone $1::text
";

const ZONE_NAME: &str = "time_zone";

/// Whether the database does not know the time zone.
pub(super) fn is_unknown_zone(error: &Error) -> bool {
    error.statement() == Some(ZONE_NAME) && error.sqlstate() == Some(&SqlState::INVALID_PARAMETER_VALUE)
}

/// Whole days by their sums, the ends of the span and the days with stale slots by slots.
const KINDS: &str = concat!(
    "-- charts: opens by kinds
select dimension, value, sum(human)::bigint, sum(likely)::bigint, sum(unclear)::bigint, sum(automated)::bigint
from (
  select dimension, value, human, likely, unclear, automated from day_kinds
  where day_at >= $11 and day_at < $12 and day_at <> all($13)
  union all
  select dimension, value, human, likely, unclear, automated from slot_kinds
  where slot_at >= $1 and slot_at < least($2, $11) and slot_at <> all($3)
  union all
  select dimension, value, human, likely, unclear, automated from slot_kinds
  where slot_at >= $12 and slot_at < $2 and slot_at <> all($3)
  union all
  select dimension, value, human, likely, unclear, automated
  from unnest($13::timestamptz[]) as day (day_at)
  join slot_kinds on slot_at >= day.day_at and slot_at < day.day_at + interval '24 hours'
  where slot_at <> all($3)
  union all
  select dimension, value, human, likely, unclear, automated from ",
    live!(),
    "
  where dimension <> ''
) as counted
group by dimension, value
"
);

/// How long it took until the emails of the span were opened; their own counts, so that nothing of hits is read.
const EMAILS: &str = "-- charts: emails
with delay as (
  select array(select seconds * interval '1 second' from unnest($3::float8[]) as seconds order by seconds) as limits
)
select first_open, first_human_open, count(*)
from tracked_emails
cross join delay
cross join lateral (select
  case when $4::boolean then earliest_open_at else earliest_credible_open_at end as earliest) as counted
cross join lateral (select
  case when counted.earliest is null then -1
       else width_bucket(counted.earliest - sent_time, delay.limits) end as first_open,
  case when earliest_human_open_at is null then -1
       else width_bucket(earliest_human_open_at - sent_time, delay.limits) end as first_human_open) as opened
where first_opened_at >= $1 and first_opened_at < $2
  and (user_id <> 'doctor' or not starts_with(email_id, 'doctor-'))
group by first_open, first_human_open
";

/// Opens by how far they are believed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opens {
    pub(super) human: i64,
    pub(super) likely: i64,
    pub(super) unclear: i64,
    pub(super) automated: i64,
}

/// The opens of a period.
pub(super) struct OfPeriod {
    pub(super) at: Timestamptz,
    pub(super) opens: Opens,
}

/// The opens of an hour of the week.
pub(super) struct OfHour {
    pub(super) weekday: i32,
    pub(super) hour: i32,
    pub(super) opens: Opens,
}

/// The opens of one kind.
pub(super) struct OfKind {
    pub(super) dimension: String,
    pub(super) value: String,
    pub(super) opens: Opens,
}

/// Emails that were first opened so long after they were sent, by anything and by people.
pub(super) struct OfDelay {
    /// Which of [`Charts::DELAYS`] is above it, from 0 on; -1 is never; none is unknown.
    pub(super) first_open: Option<i32>,
    pub(super) first_human_open: Option<i32>,
    pub(super) emails: i64,
}

/// All that was read.
#[derive(Default)]
pub(super) struct Found {
    pub(super) periods: Vec<OfPeriod>,
    pub(super) hours: Vec<OfHour>,
    pub(super) kinds: Vec<OfKind>,
    pub(super) delays: Vec<OfDelay>,
}

/// The state of the data; and what was found in it, unless the client knows that.
pub(super) struct ReadCharts<'a> {
    pub(super) charts: &'a Charts,
    pub(super) is_known: &'a (dyn Fn(&Revisions) -> bool + Sync),
}

impl Work for ReadCharts<'_> {
    const NAME: &'static str = "read_charts";
    const ISOLATION: IsolationLevel = IsolationLevel::RepeatableRead;
    const READ_ONLY: bool = true;
    type Output = (Revisions, Option<Found>);

    async fn run(&self, tx: &Transaction<'_>) -> Result<Self::Output, Error> {
        let revisions = ReadRevisions.run(tx).await?;
        if (self.is_known)(&revisions) {
            return Ok((revisions, None));
        }
        let statement = tx.prepare_cached(ZONE).await.in_statement(ZONE_NAME)?;
        tx.query(&statement, &[&self.charts.zone])
            .await
            .in_statement(ZONE_NAME)?;
        let span = (self.charts.since, self.charts.until);
        let stale = Stale::read(tx, span).await?;
        let mut found = Found {
            delays: self.delays(tx).await?,
            kinds: stale.kinds(tx, span).await?,
            ..Found::default()
        };
        stale.times(tx, self.charts, &mut found).await?;
        Ok((revisions, Some(found)))
    }
}

impl ReadCharts<'_> {
    async fn delays(&self, tx: &Transaction<'_>) -> Result<Vec<OfDelay>, Error> {
        let charts = self.charts;
        let bounds = Charts::DELAYS.map(f64::from).to_vec();
        let statement = tx.prepare_cached(EMAILS).await.in_statement("emails")?;
        let rows = tx
            .query(
                &statement,
                &[&charts.since, &charts.until, &bounds, &charts.count_automated],
            )
            .await
            .in_statement("emails")?;
        let read = |row: &Row| {
            Ok(OfDelay {
                first_open: row.try_get(0)?,
                first_human_open: row.try_get(1)?,
                emails: row.try_get(2)?,
            })
        };
        rows.iter().map(read).collect()
    }
}

/// From the first to before the second.
type Span = (Timestamptz, Timestamptz);

/// The stale slots of a span, and their opens.
#[derive(Default)]
struct Stale {
    slots: Vec<Timestamptz>,
    slot_at: Vec<Timestamptz>,
    dimension: Vec<String>,
    value: Vec<String>,
    human: Vec<i64>,
    likely: Vec<i64>,
    unclear: Vec<i64>,
    automated: Vec<i64>,
}

impl Stale {
    async fn read(tx: &Transaction<'_>, (since, until): Span) -> Result<Self, Error> {
        let statement = tx.prepare_cached(STALE).await.in_statement("stale_slots")?;
        let rows = tx
            .query(&statement, &[&since, &until])
            .await
            .in_statement("stale_slots")?;
        let slots: Result<Vec<Timestamptz>, _> = rows.iter().map(|row| row.try_get(0)).collect();
        let mut stale = Self {
            slots: slots?,
            ..Self::default()
        };
        let statement = tx.prepare_cached(LIVE).await.in_statement("live_opens")?;
        for (from, until) in runs(&stale.slots) {
            for row in tx
                .query(&statement, &[&from, &until])
                .await
                .in_statement("live_opens")?
            {
                stale.add(&row)?;
            }
        }
        Ok(stale)
    }

    fn add(&mut self, row: &Row) -> Result<(), Error> {
        self.slot_at.push(row.try_get(0)?);
        self.dimension.push(row.try_get(1)?);
        self.value.push(row.try_get(2)?);
        let opens = opens(row, 3)?;
        self.human.push(opens.human);
        self.likely.push(opens.likely);
        self.unclear.push(opens.unclear);
        self.automated.push(opens.automated);
        Ok(())
    }

    /// The parameters that all statements begin with.
    fn parameters<'a>(&'a self, (since, until): &'a Span) -> Vec<&'a (dyn ToSql + Sync)> {
        vec![
            since,
            until,
            &self.slots,
            &self.slot_at,
            &self.dimension,
            &self.value,
            &self.human,
            &self.likely,
            &self.unclear,
            &self.automated,
        ]
    }

    async fn times(&self, tx: &Transaction<'_>, charts: &Charts, found: &mut Found) -> Result<(), Error> {
        let span = (charts.since, charts.until);
        let period = charts.period.as_str();
        let mut parameters = self.parameters(&span);
        parameters.push(&period);
        parameters.push(&charts.zone);
        let statement = tx.prepare_cached(TIMES).await.in_statement("opens_over_time")?;
        for row in tx
            .query(&statement, &parameters)
            .await
            .in_statement("opens_over_time")?
        {
            let opens = opens(&row, 3)?;
            match row.try_get(0)? {
                Some(at) => found.periods.push(OfPeriod { at, opens }),
                None => found.hours.push(OfHour {
                    weekday: row.try_get(1)?,
                    hour: row.try_get(2)?,
                    opens,
                }),
            }
        }
        Ok(())
    }

    async fn kinds(&self, tx: &Transaction<'_>, span: Span) -> Result<Vec<OfKind>, Error> {
        let days = whole_days(span);
        let stale: BTreeSet<Timestamptz> = self.slots.iter().map(|slot| day_of(slot.0).into()).collect();
        let stale: Vec<Timestamptz> = stale
            .into_iter()
            .filter(|day| (days.0..days.1).contains(day))
            .collect();
        let mut parameters = self.parameters(&span);
        parameters.push(&days.0);
        parameters.push(&days.1);
        parameters.push(&stale);
        let statement = tx.prepare_cached(KINDS).await.in_statement("kinds")?;
        let rows = tx.query(&statement, &parameters).await.in_statement("kinds")?;
        let read = |row: &Row| {
            Ok(OfKind {
                dimension: row.try_get(0)?,
                value: row.try_get(1)?,
                opens: opens(row, 2)?,
            })
        };
        rows.iter().map(read).collect()
    }
}

fn opens(row: &Row, from: usize) -> Result<Opens, Error> {
    Ok(Opens {
        human: row.try_get(from)?,
        likely: row.try_get(from + 1)?,
        unclear: row.try_get(from + 2)?,
        automated: row.try_get(from + 3)?,
    })
}

/// Slots, in order, joined to spans where one follows upon another.
fn runs(slots: &[Timestamptz]) -> Vec<Span> {
    let mut runs: Vec<Span> = Vec::new();
    for slot in slots {
        let end = Timestamptz(slot.0.saturating_add_millis(SLOT_MS));
        match runs.last_mut() {
            Some((_, until)) if *until == *slot => *until = end,
            _ => runs.push((*slot, end)),
        }
    }
    runs
}

/// The days in UTC that lie within the span; empty, at its end, if there are none.
fn whole_days((since, until): Span) -> Span {
    let first = day_of(since.0.saturating_add_millis(DAY_MS - 1)).into();
    let end = day_of(until.0).into();
    if first < end { (first, end) } else { (until, until) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamptz {
        Timestamptz(tracking::Timestamp::parse_iso(text).unwrap())
    }

    #[test]
    fn slots_that_follow_upon_one_another_are_read_at_once() {
        let (a, b, c, d) = (
            at("2026-03-01T11:45:00Z"),
            at("2026-03-01T12:00:00Z"),
            at("2026-03-01T12:15:00Z"),
            at("2026-03-01T12:45:00Z"),
        );
        assert_eq!(runs(&[]), []);
        assert_eq!(runs(&[a]), [(a, b)]);
        assert_eq!(runs(&[a, b, d]), [(a, c), (d, at("2026-03-01T13:00:00Z"))]);
    }

    #[test]
    fn days_count_as_whole_only_within_the_span() {
        let days = |since, until| whole_days((at(since), at(until)));
        assert_eq!(
            days("2026-03-01T05:00:00Z", "2026-03-04T05:00:00Z"),
            (at("2026-03-02T00:00:00Z"), at("2026-03-04T00:00:00Z"))
        );
        assert_eq!(
            days("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"),
            (at("2026-03-01T00:00:00Z"), at("2026-03-02T00:00:00Z"))
        );
        let none = at("2026-03-02T23:45:00Z");
        assert_eq!(days("2026-03-01T00:15:00Z", "2026-03-02T23:45:00Z"), (none, none));
        let none = at("2026-03-01T13:00:00Z");
        assert_eq!(days("2026-03-01T12:00:00Z", "2026-03-01T13:00:00Z"), (none, none));
    }
}
