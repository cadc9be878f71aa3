//! What charts are drawn from: opens counted by slots, which are quarters of an hour (docs/adr/0018).
//!
//! Whoever changes hits says in the same transaction which slots are stale by that. Upkeep counts those anew; until it
//! has, the dashboard counts them itself. So a chart is right at any moment, and no two transactions meet in a row.

use std::collections::BTreeSet;

use database::{Database, Error, InStatement, Timestamptz, Transaction, Work};
use tokio_postgres::Row;
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

/// Each once, however often it was marked.
const STALE: &str = "-- slots: find stale ones
select distinct slot_at from stale_slots where slot_at >= $1 and slot_at < $2 order by slot_at desc limit $3";

/// Marks that are added meanwhile stay.
const TAKE: &str = "-- slots: take a stale one
delete from stale_slots where slot_at = $1";

/// Months that were removed keep their counts.
const KEPT: &str = "-- slots: whether its hits are still there
select to_regclass('public.hits_' || to_char($1::timestamptz at time zone 'UTC', 'YYYY_MM')) is not null";

/// By the index of hits' times. What `doctor` leaves for an hour is in no chart (`tracking::doctor`). Citus has no grouping
/// sets over shards, but over what comes of them.
const COUNT: &str = "-- slots: count opens
with opens as materialized (
  select agent, device_type, geo_country, confidence, count(*) as number
  from hits
  where opened_at >= $1 and opened_at < $2 and is_open and not starts_with(email_id, 'doctor-')
  group by agent, device_type, geo_country, confidence
)
select case when grouping(agent) = 0 then 'agent' when grouping(device_type) = 0 then 'device'
            when grouping(geo_country) = 0 then 'country' else '' end,
       coalesce(agent, device_type, geo_country, ''),
       coalesce(sum(number) filter (where confidence = 'human'), 0)::bigint,
       coalesce(sum(number) filter (where confidence = 'likely'), 0)::bigint,
       coalesce(sum(number) filter (where confidence not in ('human', 'likely', 'automated')), 0)::bigint,
       coalesce(sum(number) filter (where confidence = 'automated'), 0)::bigint
from opens
group by grouping sets ((), (agent), (device_type), (geo_country))
having count(*) > 0";

const CLEAR: [&str; 2] = [
    "-- slots: forget opens\ndelete from slot_opens where slot_at = $1",
    "-- slots: forget kinds\ndelete from slot_kinds where slot_at = $1",
];

macro_rules! counts {
    () => {
        "
from unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
  as counts (dimension, value, human, likely, unclear, automated)
"
    };
}

const STORE: [&str; 2] = [
    concat!(
        "-- slots: store opens
insert into slot_opens (slot_at, human, likely, unclear, automated)
select $1, human, likely, unclear, automated",
        counts!(),
        "where dimension = ''"
    ),
    concat!(
        "-- slots: store kinds
insert into slot_kinds (slot_at, dimension, value, human, likely, unclear, automated)
select $1, dimension, value, human, likely, unclear, automated",
        counts!(),
        "where dimension <> ''"
    ),
];

/// Of a day that has more of them, the sums wait for the last one: nobody reads them before.
const HAS_MORE: &str = "-- slots: whether its day has more stale ones
select exists (select from stale_slots where slot_at >= $1 and slot_at < $1 + interval '24 hours')";

const CLEAR_DAY: &str = "-- slots: forget days
delete from day_kinds where day_at = $1";

const STORE_DAY: &str = "-- slots: store days
insert into day_kinds (day_at, dimension, value, human, likely, unclear, automated)
select $1, dimension, value, sum(human), sum(likely), sum(unclear), sum(automated)
from slot_kinds
where slot_at >= $1 and slot_at < $1 + interval '24 hours'
group by dimension, value";

const REMOVE: [&str; 3] = [
    "-- slots: remove old opens\ndelete from slot_opens where slot_at < $1",
    "-- slots: remove old kinds\ndelete from slot_kinds where slot_at < $1",
    "-- slots: remove old days\ndelete from day_kinds where day_at < $1",
];

/// The names of its transactions.
pub(crate) const NAMES: [&str; 3] = [Stale::NAME, Recount::NAME, Remove::NAME];

/// The slots of these times, each once.
pub(crate) fn slots_of(times: impl IntoIterator<Item = Timestamp>) -> Vec<Timestamptz> {
    let slots: BTreeSet<Timestamptz> = times.into_iter().map(|time| slot_of(time).into()).collect();
    slots.into_iter().collect()
}

/// Says that the opens of these times are other ones when the transaction ends.
pub async fn mark_stale(
    tx: &Transaction<'_>,
    times: impl IntoIterator<Item = Timestamp>,
) -> Result<(), Error> {
    let mark = tx.prepare_cached(MARK).await.in_statement("mark_slots")?;
    tx.execute(&mark, &[&slots_of(times)])
        .await
        .in_statement("mark_slots")?;
    Ok(())
}

/// Counts anew the stale slots that are over at `now`, but no more than `most`; answers how many, and whether there may be
/// more, as also while somebody else is counting. The latest come first: they are asked for most.
///
/// The present slot is stale again as soon as it is counted, and so may any other be while a backlog drains. So each has
/// one turn, or this would never end, and would read the same hits again and again.
pub(crate) async fn recount(database: &Database, now: Timestamp, most: u32) -> Result<(u64, bool), Error> {
    let stale = Stale {
        from: Timestamp::from_millis(0),
        until: slot_of(now),
        most: Some(most),
    };
    let slots = database.transact(&stale).await?;
    let may_be_more = u32::try_from(slots.len()) == Ok(most);
    let mut counted = 0;
    for slot_at in slots {
        let turn = Turn::IfFree;
        if !database.transact(&Recount { slot_at, turn }).await? {
            return Ok((counted, true));
        }
        counted += 1;
    }
    Ok((counted, may_be_more))
}

/// Counts all stale slots of a month whose hits are to be removed.
pub(crate) async fn recount_month(database: &Database, month: Month) -> Result<(), Error> {
    let Some((from, until)) = month.start().zip(month.next().and_then(Month::start)) else {
        return Ok(());
    };
    let stale = Stale {
        from,
        until,
        most: None,
    };
    loop {
        let slots = database.transact(&stale).await?;
        if slots.is_empty() {
            return Ok(());
        }
        for slot_at in slots {
            let turn = Turn::Wait;
            database.transact(&Recount { slot_at, turn }).await?;
        }
    }
}

/// Looks which slots are stale, from `from` on and before `until`, the latest first.
struct Stale {
    from: Timestamp,
    until: Timestamp,
    /// `None` for all of them.
    most: Option<u32>,
}

impl Work for Stale {
    const NAME: &'static str = "find_stale_slots";
    const READ_ONLY: bool = true;
    type Output = Vec<Timestamp>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Vec<Timestamp>, Error> {
        let find = tx.prepare_cached(STALE).await.in_statement(Self::NAME)?;
        let (from, until) = (Timestamptz(self.from), Timestamptz(self.until));
        let rows = tx
            .query(&find, &[&from, &until, &self.most.map(i64::from)])
            .await
            .in_statement(Self::NAME)?;
        let slot_at = |row: &Row| Ok(row.try_get::<_, Timestamptz>(0)?.into());
        rows.iter().map(slot_at).collect()
    }
}

/// Waits until nobody else is counting, and keeps others from it until the transaction ends.
async fn lock_next(tx: &Transaction<'_>) -> Result<(), Error> {
    let lock = tx.prepare_cached(LOCK_NEXT).await.in_statement("lock_slots")?;
    tx.execute(&lock, &[&LOCK]).await.in_statement("lock_slots")?;
    Ok(())
}

/// Counts a slot anew, if it is stale; answers whether nobody else was counting.
struct Recount {
    slot_at: Timestamp,
    turn: Turn,
}

/// What to do if somebody else is counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Leave it to them.
    IfFree,
    /// Wait until they are done.
    Wait,
}

impl Work for Recount {
    const NAME: &'static str = "recount_slots";
    type Output = bool;

    async fn run(&self, tx: &Transaction<'_>) -> Result<bool, Error> {
        if !self.lock(tx).await? {
            return Ok(false);
        }
        if self.take(tx).await? {
            if self.has_hits(tx).await? {
                let counts = self.count(tx).await?;
                self.store(tx, &counts).await?;
            }
            // Also for those of the day's slots whose turn came before.
            self.sum_up_day(tx).await?;
        }
        Ok(true)
    }
}

impl Recount {
    /// Whether it is this one's turn.
    async fn lock(&self, tx: &Transaction<'_>) -> Result<bool, Error> {
        if self.turn == Turn::Wait {
            lock_next(tx).await?;
            return Ok(true);
        }
        let lock = tx.prepare_cached(TRY_LOCK).await.in_statement("lock_slots")?;
        let row = tx.query_one(&lock, &[&LOCK]).await.in_statement("lock_slots")?;
        Ok(row.try_get(0)?)
    }

    /// Takes the slot's marks away; answers whether there were any. What is counted from here on is what the slot holds, or
    /// whoever changes it has marked it again.
    async fn take(&self, tx: &Transaction<'_>) -> Result<bool, Error> {
        let hits = tx.prepare_cached(HITS_FIRST).await.in_statement("take_slots")?;
        tx.execute(&hits, &[]).await.in_statement("take_slots")?;
        let slot_at = Timestamptz(self.slot_at);
        let take = tx.prepare_cached(TAKE).await.in_statement("take_slots")?;
        let taken = tx.execute(&take, &[&slot_at]).await.in_statement("take_slots")?;
        Ok(taken > 0)
    }

    async fn has_hits(&self, tx: &Transaction<'_>) -> Result<bool, Error> {
        let kept = tx.prepare_cached(KEPT).await.in_statement("kept_slots")?;
        let row = tx
            .query_one(&kept, &[&Timestamptz(self.slot_at)])
            .await
            .in_statement("kept_slots")?;
        Ok(row.try_get(0)?)
    }

    async fn count(&self, tx: &Transaction<'_>) -> Result<Counts, Error> {
        let until = Timestamptz(self.slot_at.saturating_add_millis(SLOT_MS));
        let count = tx.prepare_cached(COUNT).await.in_statement("count_slots")?;
        let rows = tx
            .query(&count, &[&Timestamptz(self.slot_at), &until])
            .await
            .in_statement("count_slots")?;
        let mut counts = Counts::default();
        for row in &rows {
            counts.dimension.push(row.try_get(0)?);
            counts.value.push(row.try_get(1)?);
            counts.human.push(row.try_get(2)?);
            counts.likely.push(row.try_get(3)?);
            counts.unclear.push(row.try_get(4)?);
            counts.automated.push(row.try_get(5)?);
        }
        Ok(counts)
    }

    /// Stores the slot's counts.
    async fn store(&self, tx: &Transaction<'_>, counts: &Counts) -> Result<(), Error> {
        let slot_at = Timestamptz(self.slot_at);
        for clear in CLEAR {
            let clear = tx.prepare_cached(clear).await.in_statement("clear_slots")?;
            tx.execute(&clear, &[&slot_at])
                .await
                .in_statement("clear_slots")?;
        }
        for store in STORE {
            let store = tx.prepare_cached(store).await.in_statement("store_slots")?;
            tx.execute(
                &store,
                &[
                    &slot_at,
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
        Ok(())
    }

    /// Stores the sums of the slot's day, if this was its last stale slot.
    async fn sum_up_day(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        let day_at = Timestamptz(day_of(self.slot_at));
        let has_more = tx.prepare_cached(HAS_MORE).await.in_statement("store_days")?;
        let row = tx
            .query_one(&has_more, &[&day_at])
            .await
            .in_statement("store_days")?;
        if row.try_get(0)? {
            return Ok(());
        }
        for sql in [CLEAR_DAY, STORE_DAY] {
            let statement = tx.prepare_cached(sql).await.in_statement("store_days")?;
            tx.execute(&statement, &[&day_at])
                .await
                .in_statement("store_days")?;
        }
        Ok(())
    }
}

/// The opens of a slot, all of them and by kinds, as the columns of a table.
#[derive(Default)]
struct Counts {
    dimension: Vec<String>,
    value: Vec<String>,
    human: Vec<i64>,
    likely: Vec<i64>,
    unclear: Vec<i64>,
    automated: Vec<i64>,
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
        // Or who counts a slot meanwhile might sum up its day from what is being removed.
        lock_next(tx).await?;
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
