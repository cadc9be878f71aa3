//! The monthly partitions of hits: which exist, and how a missing one is made.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use database::{Database, Error, InStatement, Timestamptz, Transaction, Work};
use jiff::{ToSpan, civil, tz::TimeZone};
use tracking::Timestamp;

use crate::{metrics::Metrics, revisions};

/// A month in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Month(civil::Date);

impl Month {
    /// The month of `at`; `None` beyond the years that a calendar has.
    pub(crate) fn of(at: Timestamp) -> Option<Self> {
        let at = jiff::Timestamp::from_millisecond(at.as_millis()).ok()?;
        Some(Self(at.to_zoned(TimeZone::UTC).date().first_of_month()))
    }

    /// The month after this one.
    pub(crate) fn next(self) -> Option<Self> {
        self.0.checked_add(1.month()).ok().map(Self)
    }

    /// When it begins.
    pub(crate) fn start(self) -> Option<Timestamp> {
        let start = self.0.to_zoned(TimeZone::UTC).ok()?;
        Some(Timestamp::from_millis(start.timestamp().as_millisecond()))
    }
}

impl Month {
    /// The month of a partition, which is named by it.
    fn of_partition(name: &str) -> Option<Self> {
        let (year, month) = name.strip_prefix("hits_")?.split_once('_')?;
        let date = civil::Date::new(year.parse().ok()?, month.parse().ok()?, 1).ok()?;
        Some(Self(date))
    }
}

/// Who has waited so long for another worker's try has no time left for one of his own before the pixel gives the call up.
const PATIENCE: Duration = Duration::from_secs(2);

/// Remembers which months have a partition, so that a batch costs no question about it.
#[derive(Debug)]
pub(crate) struct Partitions {
    known: Mutex<BTreeSet<Month>>,
    /// One at a time meets new months: all workers come with the same after a start.
    meeting: tokio::sync::Mutex<()>,
    /// Whether months were met since upkeep announced them once more.
    announce_again: AtomicBool,
    metrics: Metrics,
}

impl Partitions {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            known: Mutex::default(),
            meeting: tokio::sync::Mutex::default(),
            announce_again: AtomicBool::default(),
            metrics,
        }
    }

    /// Sees to it that each of `months` has its partition, and that the sessions of the database know.
    pub(crate) async fn ensure(&self, database: &Database, months: &BTreeSet<Month>) -> Result<(), Error> {
        // Announced even where none had to be added: who added them may have come no further.
        self.meet(database, months, AnnouncePartitions { once_more: false })
            .await
    }

    /// The same once a hit of one of `months` has found no partition: that was dropped since, or a session that has missed
    /// it is still in use.
    pub(crate) async fn ensure_again(
        &self,
        database: &Database,
        months: &BTreeSet<Month>,
    ) -> Result<(), Error> {
        self.with_known(|known| known.retain(|month| !months.contains(month)));
        self.meet(database, months, AnnouncePartitions { once_more: true })
            .await
    }

    async fn meet(
        &self,
        database: &Database,
        months: &BTreeSet<Month>,
        announce: AnnouncePartitions,
    ) -> Result<(), Error> {
        if self.unknown(months).is_empty() {
            return Ok(());
        }
        let asked = Instant::now();
        let _meeting = self.meeting.lock().await;
        let unknown = self.unknown(months);
        if unknown.is_empty() {
            return Ok(());
        }
        if asked.elapsed() > PATIENCE {
            return Err(Error::overtaken("another worker could not announce a month"));
        }
        for month in &unknown {
            if database.transact(&AddPartition(*month)).await? {
                self.metrics.partition_made();
                tracing::info!(month = %month.0.strftime("%Y-%m"), "made a partition of hits");
            }
        }
        database.transact(&announce).await?;
        self.announce_again.store(true, Ordering::Relaxed);
        self.with_known(|known| known.extend(unknown));
        Ok(())
    }

    /// The same for the month of `now` and the next, long before their first hits come. What was met since the last round
    /// is announced once more: to sessions that nobody waited for, of a standby or stopped for long.
    pub(crate) async fn ensure_ahead(&self, database: &Database, now: Timestamp) -> Result<(), Error> {
        let this = Month::of(now);
        let months = this.into_iter().chain(this.and_then(Month::next)).collect();
        let again = self.announce_again.swap(false, Ordering::Relaxed);
        // First, as a long transaction may be in the way of an announcement.
        let ensured = self.ensure(database, &months).await;
        if again {
            let announced = database.transact(&AnnouncePartitions { once_more: true }).await;
            announced.inspect_err(|_| self.announce_again.store(true, Ordering::Relaxed))?;
        }
        ensured
    }

    fn unknown(&self, months: &BTreeSet<Month>) -> Vec<Month> {
        self.with_known(|known| months.difference(known).copied().collect())
    }

    /// Forgets what is known of the months before that of `floor`: they are dropped, here or by another recorder, and may be
    /// made anew by a third.
    pub(crate) fn forget_before(&self, floor: Timestamp) {
        let first_kept = Month::of(floor);
        self.with_known(|known| known.retain(|month| Some(*month) >= first_kept));
    }

    fn with_known<T>(&self, what: impl FnOnce(&mut BTreeSet<Month>) -> T) -> T {
        what(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The transactions that make a partition.
pub(crate) const NAMES: [&str; 2] = [AddPartition::NAME, AnnouncePartitions::NAME];

/// Adds the partition of a month; answers whether it was missing.
struct AddPartition(Month);

impl Work for AddPartition {
    const NAME: &'static str = "add_partition";
    type Output = bool;

    async fn run(&self, tx: &Transaction<'_>) -> Result<bool, Error> {
        let Some(start) = self.0.start() else {
            return Ok(false);
        };
        // Who waits for a table's lock makes all others wait behind it: rather give up and be asked again.
        tx.batch_execute("set local lock_timeout = '2s'")
            .await
            .in_statement("set_lock_timeout")?;
        let row = tx
            .query_one(
                "-- add_partition\nselect add_hits_partition($1)",
                &[&Timestamptz(start)],
            )
            .await
            .in_statement("add_partition")?;
        Ok(row.try_get(0)?)
    }
}

/// Has the sessions of the database read anew which months have a partition, if there is one that they were not told of.
struct AnnouncePartitions {
    /// Also if there is none.
    once_more: bool,
}

impl Work for AnnouncePartitions {
    const NAME: &'static str = "announce_partitions";
    type Output = ();

    async fn run(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        // As above; and the wait for others' transactions is to end before the pixel gives the call up, which would leave
        // a connection of the pool busy.
        tx.batch_execute("set local lock_timeout = '2s'; set local statement_timeout = '12s'")
            .await
            .in_statement("set_timeouts")?;
        tx.execute(
            "-- announce_partitions\nselect announce_hits_partitions($1)",
            &[&self.once_more],
        )
        .await
        .in_statement(Self::NAME)?;
        Ok(())
    }
}

/// Lists the months that have a partition.
pub(crate) struct Months;

impl Work for Months {
    const NAME: &'static str = "list_partitions";
    type Output = Vec<Month>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Vec<Month>, Error> {
        let rows = tx
            .query(
                "-- list_partitions
select partition.relname::text
from pg_inherits join pg_class as partition on partition.oid = inhrelid
where inhparent = 'hits'::regclass
order by 1",
                &[],
            )
            .await
            .in_statement(Self::NAME)?;
        let names = rows.iter().map(|row| row.try_get::<_, String>(0));
        let names: Vec<String> = names.collect::<Result<_, _>>()?;
        Ok(names
            .iter()
            .filter_map(|name| Month::of_partition(name))
            .collect())
    }
}

/// Drops the partition of a month, all its hits with it; answers whether there was one.
pub(crate) struct DropPartition<'a> {
    pub(crate) month: Month,
    /// Whose revision to raise.
    pub(crate) writer: &'a str,
}

impl Work for DropPartition<'_> {
    const NAME: &'static str = "drop_partition";
    type Output = bool;

    async fn run(&self, tx: &Transaction<'_>) -> Result<bool, Error> {
        let Some(start) = self.month.start() else {
            return Ok(false);
        };
        // As above. Everybody who reads or writes hits would wait.
        tx.batch_execute("set local lock_timeout = '500ms'")
            .await
            .in_statement("set_lock_timeout")?;
        let row = tx
            .query_one(
                "-- drop_partition\nselect drop_hits_partition($1)",
                &[&Timestamptz(start)],
            )
            .await
            .in_statement(Self::NAME)?;
        let dropped = row.try_get(0)?;
        if dropped {
            revisions::raise(tx, self.writer).await?;
            tracing::info!(month = %self.month.0.strftime("%Y-%m"), "drops a partition of hits");
        }
        Ok(dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_by_their_months() {
        let month = |at: &str| Month::of(Timestamp::parse_iso(at).unwrap());
        assert_eq!(Month::of_partition("hits_2026_03"), month("2026-03-01T00:00:00Z"));
        for other in [
            "hits",
            "hits_",
            "hits_2026",
            "hits_2026_13",
            "hits_new_ones",
            "marks_2026_03",
        ] {
            assert_eq!(Month::of_partition(other), None, "{other}");
        }
    }

    #[test]
    fn months_begin_at_midnight_utc() {
        let month = |at: &str| Month::of(Timestamp::parse_iso(at).unwrap()).unwrap();
        let start = |month: Month| month.start().unwrap().to_string();
        assert_eq!(
            start(month("2026-02-28T23:59:59.999Z")),
            "2026-02-01T00:00:00.000Z"
        );
        assert_eq!(
            start(month("2026-03-01T00:00:00.000Z")),
            "2026-03-01T00:00:00.000Z"
        );
        assert_eq!(
            start(month("2026-12-31T23:59:59.999Z").next().unwrap()),
            "2027-01-01T00:00:00.000Z"
        );
    }
}
