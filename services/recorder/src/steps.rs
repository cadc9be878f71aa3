//! What upkeep does to all hits or marks goes forward through their times, in steps that remember how far they have come.
//!
//! A step first finds what it is to change, then changes it in transactions of one shard each, then remembers that it is
//! done. It may be cut off anywhere, and done by two at once: what a step does is the same the second time.

use database::{Error, InStatement, Timestamptz, Transaction, Work};
use tracking::Timestamp;

/// Rows of a step, and those of the same millisecond as the last.
const AT_ONCE: i64 = 1_000;

/// By the primary key.
const PLACE: &str = "-- steps: how far it is done
select done_until from upkeep where task = $1";

/// Unless somebody else has gone on, or has set it back, meanwhile.
const PROGRESS: &str = "-- steps: it is done so far
update upkeep set done_until = $3 where task = $1 and done_until = $2";

/// By the index of their times.
const LAST_OF_HITS: &str = "-- steps: the last hit of a step
select opened_at from hits where opened_at >= $1 and opened_at < $2 order by opened_at offset $3 limit 1";

/// By the index of their times.
const LAST_OF_MARKS: &str = "-- steps: the last mark of a step
select marked_at from marks where marked_at >= $1 and marked_at < $2 order by marked_at offset $3 limit 1";

/// In the order in which all lock emails: the recording transaction changes hits and emails under this lock.
const LOCK: &str = "-- steps: lock emails
select from tracked_emails where email_id = any($1) order by email_id for update";

/// Its statements that lock or change rows of some emails.
#[cfg(test)]
pub(crate) const PER_EMAIL: &[&str] = &[LOCK];

/// What is gone through.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Table {
    Hits,
    Marks,
}

/// The times of a step: from the first to before the second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) from: Timestamptz,
    pub(crate) until: Timestamptz,
    is_last: bool,
}

impl Span {
    /// The next one of `task` before `floor`; `None` if all is done.
    pub(crate) async fn next(
        tx: &Transaction<'_>,
        task: &'static str,
        table: Table,
        floor: Timestamp,
    ) -> Result<Option<Self>, Error> {
        let place = tx.prepare_cached(PLACE).await.in_statement("place_of_step")?;
        let row = tx
            .query_one(&place, &[&task])
            .await
            .in_statement("place_of_step")?;
        let from: Timestamptz = row.try_get(0)?;
        if from.0 >= floor {
            return Ok(None);
        }
        let last = match table {
            Table::Hits => LAST_OF_HITS,
            Table::Marks => LAST_OF_MARKS,
        };
        let last = tx.prepare_cached(last).await.in_statement("last_of_step")?;
        let last = tx
            .query_opt(&last, &[&from, &Timestamptz(floor), &(AT_ONCE - 1)])
            .await
            .in_statement("last_of_step")?;
        let until = match &last {
            Some(row) => row.try_get::<_, Timestamptz>(0)?.0.saturating_add_millis(1),
            None => floor,
        };
        Ok(Some(Self {
            from,
            until: Timestamptz(until),
            is_last: last.is_none(),
        }))
    }

    /// The same for `millis` milliseconds at least, but not beyond `floor`.
    pub(crate) fn at_least(self, millis: i64, floor: Timestamp) -> Self {
        let until = self
            .until
            .0
            .max(self.from.0.saturating_add_millis(millis))
            .min(floor);
        Self {
            until: Timestamptz(until),
            ..self
        }
    }

    /// Whether nothing comes after it for now.
    pub(crate) const fn is_last(self) -> bool {
        self.is_last
    }
}

/// Remembers that a step is done.
pub(crate) struct Progress {
    pub(crate) task: &'static str,
    pub(crate) span: Span,
}

/// The names of its transactions.
pub(crate) const NAMES: [&str; 1] = [Progress::NAME];

impl Work for Progress {
    const NAME: &'static str = "step_done";
    type Output = ();

    async fn run(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        let progress = tx.prepare_cached(PROGRESS).await.in_statement(Self::NAME)?;
        tx.execute(&progress, &[&self.task, &self.span.from, &self.span.until])
            .await
            .in_statement(Self::NAME)?;
        Ok(())
    }
}

/// Waits for whoever records facts of these emails, and keeps others from it until the transaction ends.
pub(crate) async fn lock(tx: &Transaction<'_>, email_ids: &[&str]) -> Result<(), Error> {
    let lock = tx.prepare_cached(LOCK).await.in_statement("lock_emails")?;
    tx.execute(&lock, &[&email_ids])
        .await
        .in_statement("lock_emails")?;
    Ok(())
}
