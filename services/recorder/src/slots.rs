//! What charts are drawn from: opens counted by slots, which are quarters of an hour (docs/adr/0018).
//!
//! Whoever changes hits says in the same transaction which slots are stale by that. Upkeep counts those anew; until it
//! has, the dashboard counts them itself. So a chart is right at any moment, and no two transactions meet in a row.

use std::collections::BTreeSet;

use database::{Database, Error, InStatement, Timestamptz, Transaction, Work};
use tracking::{
    Timestamp,
    slots::{SLOT_MS, day_of, slot_of},
};

use crate::{partitions::Month, revisions};

/// Any number that nobody else uses for advisory locks in the same database.
const LOCK: i64 = 0x736c_6f74_735f_5f31;

/// A row for each, with no look at those that are there: nobody waits for anybody.
pub(crate) const MARK: &str = "-- slots: are stale
insert into stale_slots (slot_at) select unnest($1::timestamptz[])";

/// Two who count a slot at once might store the older of two counts.
const TRY_LOCK: &str = "-- slots: one counts at a time
select pg_try_advisory_xact_lock($1)";

/// For whom it is not enough that somebody else is counting.
const LOCK_NEXT: &str = "-- slots: be the next one who counts
select pg_advisory_xact_lock($1)";

/// Hits are locked before slots by all who lock both.
const HITS_FIRST: &str = "-- slots: hits come first
select from hits limit 0";

/// The stale ones of the latest day that has any. Those that are added meanwhile stay.
const TAKE: &str = "-- slots: take the stale ones of a day
with newest as (
  select date_bin(interval '24 hours', max(slot_at), timestamptz 'epoch') as day_at
  from stale_slots
  where slot_at >= $1 and slot_at < $2
)
delete from stale_slots using newest
where slot_at >= newest.day_at and slot_at < newest.day_at + interval '24 hours' and slot_at < $2
returning slot_at";

/// By the index of hits' times. What `doctor` leaves for an hour is in no chart (`tracking::doctor`).
const COUNT: &str = "-- slots: count opens
select date_bin(interval '15 minutes', opened_at, timestamptz 'epoch') as slot_at,
       case when grouping(agent) = 0 then 'agent' when grouping(device_type) = 0 then 'device'
            when grouping(geo_country) = 0 then 'country' else '' end,
       coalesce(agent, device_type, geo_country, ''),
       count(*) filter (where confidence = 'human'),
       count(*) filter (where confidence = 'likely'),
       count(*) filter (where confidence not in ('human', 'likely', 'automated')),
       count(*) filter (where confidence = 'automated')
from hits
where opened_at >= $1 and opened_at < $2 and is_open and not starts_with(email_id, 'doctor-')
  and date_bin(interval '15 minutes', opened_at, timestamptz 'epoch') = any($3)
group by slot_at, grouping sets ((), (agent), (device_type), (geo_country))";

/// Months that were removed keep their counts.
const KEPT: &str = "-- slots: whose hits are still there
select slot_at from unnest($1::timestamptz[]) as slot (slot_at)
where to_regclass('public.hits_' || to_char(slot_at at time zone 'UTC', 'YYYY_MM')) is not null";

const CLEAR: [&str; 3] = [
    "-- slots: forget opens\ndelete from slot_opens where slot_at = any($1)",
    "-- slots: forget kinds\ndelete from slot_kinds where slot_at = any($1)",
    "-- slots: forget days\ndelete from day_kinds where day_at = any($1)",
];

macro_rules! counts {
    () => {
        "
from unnest($1::timestamptz[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
  as counts (slot_at, dimension, value, human, likely, unclear, automated)
"
    };
}

const STORE: [&str; 2] = [
    concat!(
        "-- slots: store opens
insert into slot_opens (slot_at, human, likely, unclear, automated)
select slot_at, human, likely, unclear, automated",
        counts!(),
        "where dimension = ''"
    ),
    concat!(
        "-- slots: store kinds
insert into slot_kinds (slot_at, dimension, value, human, likely, unclear, automated)
select slot_at, dimension, value, human, likely, unclear, automated",
        counts!(),
        "where dimension <> ''"
    ),
];

const STORE_DAYS: &str = "-- slots: store days
insert into day_kinds (day_at, dimension, value, human, likely, unclear, automated)
select day.day_at, dimension, value, sum(human), sum(likely), sum(unclear), sum(automated)
from unnest($1::timestamptz[]) as day (day_at)
join slot_kinds on slot_at >= day.day_at and slot_at < day.day_at + interval '24 hours'
group by day.day_at, dimension, value";

const REMOVE: [&str; 3] = [
    "-- slots: remove old opens\ndelete from slot_opens where slot_at < $1",
    "-- slots: remove old kinds\ndelete from slot_kinds where slot_at < $1",
    "-- slots: remove old days\ndelete from day_kinds where day_at < $1",
];

/// The names of its transactions.
pub(crate) const NAMES: [&str; 2] = [Recount::NAME, Remove::NAME];

/// The slots of these times, each once.
pub(crate) fn slots_of(times: impl IntoIterator<Item = Timestamp>) -> Vec<Timestamptz> {
    let slots: BTreeSet<Timestamptz> = times.into_iter().map(|time| slot_of(time).into()).collect();
    slots.into_iter().collect()
}

/// Says that the opens of these times are other ones when the transaction ends.
pub(crate) async fn mark_stale(
    tx: &Transaction<'_>,
    times: impl IntoIterator<Item = Timestamp>,
) -> Result<(), Error> {
    let mark = tx.prepare_cached(MARK).await.in_statement("mark_slots")?;
    tx.execute(&mark, &[&slots_of(times)])
        .await
        .in_statement("mark_slots")?;
    Ok(())
}

/// Counts anew the stale slots that are over at `now`, in `most_steps` transactions at most, one for each day; answers how
/// many, and whether there may be more. The latest come first: they are asked for most.
///
/// The present slot is stale again as soon as it is counted, and so may any other be while a backlog drains. It is each
/// day's turn once, or this would never end, and would read the same hits again and again.
pub(crate) async fn recount(
    database: &Database,
    now: Timestamp,
    most_steps: u32,
) -> Result<(u64, bool), Error> {
    let mut recount = Recount {
        from: Timestamp::from_millis(0),
        until: slot_of(now),
        waits: false,
    };
    let mut counted = 0;
    for _ in 0..most_steps {
        let Some(day) = database.transact(&recount).await? else {
            return Ok((counted, false));
        };
        counted += day.slots;
        recount.until = day.day_at;
    }
    Ok((counted, true))
}

/// Counts all stale slots of a month whose hits are to be removed.
pub(crate) async fn recount_month(database: &Database, month: Month) -> Result<(), Error> {
    let Some((from, until)) = month.start().zip(month.next().and_then(Month::start)) else {
        return Ok(());
    };
    let mut recount = Recount {
        from,
        until,
        waits: true,
    };
    while let Some(day) = database.transact(&recount).await? {
        recount.until = day.day_at;
    }
    Ok(())
}

/// Counts anew the stale slots of the latest day that has any from `from` on and before `until`. Answers which day that
/// was; `None` if there is none, or somebody else is counting.
struct Recount {
    from: Timestamp,
    until: Timestamp,
    /// Whether to wait for whoever else is counting.
    waits: bool,
}

/// A day whose stale slots were counted.
struct Counted {
    day_at: Timestamp,
    slots: u64,
}

impl Work for Recount {
    const NAME: &'static str = "recount_slots";
    type Output = Option<Counted>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Option<Counted>, Error> {
        if !self.lock(tx).await? {
            return Ok(None);
        }
        let stale = self.take(tx).await?;
        let Some(first) = stale.first() else {
            return Ok(None);
        };
        let kept = tx.prepare_cached(KEPT).await.in_statement("kept_slots")?;
        let rows = tx
            .query(&kept, &[&as_vec(&stale)])
            .await
            .in_statement("kept_slots")?;
        let kept: BTreeSet<Timestamptz> = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        if !kept.is_empty() {
            let counts = count(tx, &kept).await?;
            store(tx, &kept, &counts).await?;
        }
        Ok(Some(Counted {
            day_at: day_of(first.0),
            slots: u64::try_from(stale.len()).unwrap_or(u64::MAX),
        }))
    }
}

fn as_vec(slots: &BTreeSet<Timestamptz>) -> Vec<Timestamptz> {
    slots.iter().copied().collect()
}

impl Recount {
    /// Whether it is this one's turn.
    async fn lock(&self, tx: &Transaction<'_>) -> Result<bool, Error> {
        if self.waits {
            let lock = tx.prepare_cached(LOCK_NEXT).await.in_statement("lock_slots")?;
            tx.execute(&lock, &[&LOCK]).await.in_statement("lock_slots")?;
            return Ok(true);
        }
        let lock = tx.prepare_cached(TRY_LOCK).await.in_statement("lock_slots")?;
        let row = tx.query_one(&lock, &[&LOCK]).await.in_statement("lock_slots")?;
        Ok(row.try_get(0)?)
    }

    /// What is counted from here on is what these slots hold, or whoever changes it has marked them again.
    async fn take(&self, tx: &Transaction<'_>) -> Result<BTreeSet<Timestamptz>, Error> {
        let hits = tx.prepare_cached(HITS_FIRST).await.in_statement("take_slots")?;
        tx.execute(&hits, &[]).await.in_statement("take_slots")?;
        let take = tx.prepare_cached(TAKE).await.in_statement("take_slots")?;
        let rows = tx
            .query(&take, &[&Timestamptz(self.from), &Timestamptz(self.until)])
            .await
            .in_statement("take_slots")?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    }
}

/// The opens of some slots, all of them and by kinds, as the columns of a table.
#[derive(Default)]
struct Counts {
    slot_at: Vec<Timestamptz>,
    dimension: Vec<String>,
    value: Vec<String>,
    human: Vec<i64>,
    likely: Vec<i64>,
    unclear: Vec<i64>,
    automated: Vec<i64>,
}

async fn count(tx: &Transaction<'_>, slots: &BTreeSet<Timestamptz>) -> Result<Counts, Error> {
    let mut counts = Counts::default();
    let Some((first, last)) = slots.first().zip(slots.last()) else {
        return Ok(counts);
    };
    let until = Timestamptz(last.0.saturating_add_millis(SLOT_MS));
    let statement = tx.prepare_cached(COUNT).await.in_statement("count_slots")?;
    let rows = tx
        .query(&statement, &[first, &until, &as_vec(slots)])
        .await
        .in_statement("count_slots")?;
    for row in &rows {
        counts.slot_at.push(row.try_get(0)?);
        counts.dimension.push(row.try_get(1)?);
        counts.value.push(row.try_get(2)?);
        counts.human.push(row.try_get(3)?);
        counts.likely.push(row.try_get(4)?);
        counts.unclear.push(row.try_get(5)?);
        counts.automated.push(row.try_get(6)?);
    }
    Ok(counts)
}

async fn store(tx: &Transaction<'_>, slots: &BTreeSet<Timestamptz>, counts: &Counts) -> Result<(), Error> {
    let days: BTreeSet<Timestamptz> = slots.iter().map(|slot| day_of(slot.0).into()).collect();
    for (clear, which) in CLEAR.iter().zip([slots, slots, &days]) {
        let clear = tx.prepare_cached(clear).await.in_statement("clear_slots")?;
        tx.execute(&clear, &[&as_vec(which)])
            .await
            .in_statement("clear_slots")?;
    }
    for store in STORE {
        let store = tx.prepare_cached(store).await.in_statement("store_slots")?;
        tx.execute(
            &store,
            &[
                &counts.slot_at,
                &counts.dimension,
                &counts.value,
                &counts.human,
                &counts.likely,
                &counts.unclear,
                &counts.automated,
            ],
        )
        .await
        .in_statement("store_slots")?;
    }
    let sums = tx.prepare_cached(STORE_DAYS).await.in_statement("store_days")?;
    tx.execute(&sums, &[&as_vec(&days)])
        .await
        .in_statement("store_days")?;
    Ok(())
}

/// Removes the counts of slots before `before`, the beginning of a month.
pub(crate) struct Remove<'a> {
    pub(crate) before: Timestamp,
    /// Whose revision to raise.
    pub(crate) writer: &'a str,
}

impl Work for Remove<'_> {
    const NAME: &'static str = "remove_slots";
    type Output = ();

    async fn run(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        let mut removed = 0;
        for sql in REMOVE {
            let statement = tx.prepare_cached(sql).await.in_statement(Self::NAME)?;
            removed += tx
                .execute(&statement, &[&Timestamptz(self.before)])
                .await
                .in_statement(Self::NAME)?;
        }
        if removed > 0 {
            revisions::raise(tx, self.writer).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_quarters_of_an_hour_each_given_once() {
        let at = |text: &str| Timestamp::parse_iso(text).unwrap();
        let times = [
            at("2026-03-01T12:00:00.000Z"),
            at("2026-03-01T12:14:59.999Z"),
            at("2026-03-01T11:59:59.999Z"),
            at("1969-12-31T23:59:59.999Z"),
        ];
        let slots = slots_of(times).into_iter().map(|slot| slot.0.to_string());
        assert_eq!(
            slots.collect::<Vec<_>>(),
            [
                "1969-12-31T23:45:00.000Z",
                "2026-03-01T11:45:00.000Z",
                "2026-03-01T12:00:00.000Z"
            ]
        );
    }
}
