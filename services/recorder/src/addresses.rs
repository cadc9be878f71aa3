//! Client addresses are shortened once they are older than the operator wants to know them: of IPv4 the last 8 bits become
//! zero, of IPv6 the last 80. The dedup key becomes that of the shortened address; a key of the full one would tell it to
//! whoever tries the 256 that it can be.
//!
//! Upkeep goes forward through the times of hits and of marks, in small transactions that remember how far it has come. What
//! arrives behind it is shortened before it is recorded.

use std::net::IpAddr;

use database::{Database, Error, InStatement, Timestamptz, Transaction, Work};
use tracking::{DedupKey, Fact, Timestamp, shortened};
use uuid::Uuid;

use crate::record;

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// How much sooner what arrives late is shortened than what is stored already. What was still recorded in full is thus
/// committed long before upkeep comes by, also by the clock of another recorder.
const LATE_MS: i64 = 60 * 60 * 1_000;

/// Rows that one transaction shortens, and those of the same millisecond as the last.
const AT_ONCE: i64 = 1_000;

/// By the primary key. Whoever shortens at the same time waits here, and goes on where this one ended.
const PLACE: &str = "-- addresses: how far they are shortened
select done_until from upkeep where task = $1 for update";

const PROGRESS: &str = "-- addresses: they are shortened so far
update upkeep set done_until = $2 where task = $1";

/// By the index of their times, as far as that of the next statement.
const LAST_OF_HITS: &str = "-- addresses: the last hit of a step
select opened_at from hits where opened_at >= $1 and opened_at < $2 order by opened_at offset $3 limit 1";

const HITS: &str = "-- addresses: hits of a step
select email_id, opened_at, event_id, client_address, user_agent
from hits where opened_at >= $1 and opened_at < $2 and client_address is not null";

/// In the order in which all lock emails: the recording transaction changes hits under this lock.
const LOCK: &str = "-- addresses: lock emails
select from tracked_emails where email_id = any($1) order by email_id for no key update";

const SHORTEN_HITS: &str = "-- addresses: shorten those of hits
update hits set client_address = new.client_address, dedup_key = new.dedup_key
from unnest($1::text[], $2::timestamptz[], $3::uuid[], $4::inet[], $5::bigint[])
  as new (email_id, opened_at, event_id, client_address, dedup_key)
where hits.email_id = new.email_id and hits.opened_at = new.opened_at and hits.event_id = new.event_id";

const LAST_OF_MARKS: &str = "-- addresses: the last mark of a step
select marked_at from marks where marked_at >= $1 and marked_at < $2 order by marked_at offset $3 limit 1";

const MARKS: &str = "-- addresses: marks of a step
select email_id, marked_at, mark_id, client_address
from marks where marked_at >= $1 and marked_at < $2 and client_address is not null";

const SHORTEN_MARKS: &str = "-- addresses: shorten those of marks
update marks set client_address = new.client_address
from unnest($1::text[], $2::timestamptz[], $3::uuid[], $4::inet[])
  as new (email_id, marked_at, mark_id, client_address)
where marks.email_id = new.email_id and marks.marked_at = new.marked_at and marks.mark_id = new.mark_id";

/// For how long addresses are kept in full.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Addresses {
    /// `None`: for ever.
    days: Option<u32>,
}

impl Addresses {
    pub(crate) fn new(days: Option<u32>) -> Self {
        Self { days }
    }

    /// The time before which no address is kept in full, if there is one.
    pub(crate) fn floor(self, now: Timestamp) -> Option<Timestamp> {
        self.days
            .map(|days| now.saturating_add_millis(-DAY_MS * i64::from(days)))
    }

    /// A fact as it may be recorded at `now`.
    pub(crate) fn admit(self, mut fact: Fact, now: Timestamp) -> Fact {
        let late = self.floor(now).map(|floor| floor.saturating_add_millis(LATE_MS));
        if late.is_some_and(|late| fact.at() < late) {
            let address = fact.client_address_mut();
            *address = shortened(*address);
        }
        fact
    }
}

/// How many addresses were shortened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shortened {
    /// Of hits.
    pub hits: u64,
    /// Of marks.
    pub marks: u64,
    /// Whether there are more, for the next round.
    pub more: bool,
}

/// The names of its transactions.
pub(crate) const NAMES: [&str; 2] = [OfHits::NAME, OfMarks::NAME];

/// Shortens those that are older than `floor`, in so many steps at most.
pub(crate) async fn run(
    database: &Database,
    writer: &str,
    floor: Timestamp,
    most_steps: u32,
) -> Result<Shortened, Error> {
    let mut done = Shortened::default();
    let mut all_hits = false;
    for _ in 0..most_steps {
        if all_hits {
            let step = database.transact(&OfMarks { floor }).await?;
            done.marks += step.shortened;
            if step.was_last {
                return Ok(done);
            }
        } else {
            let step = database.transact(&OfHits { floor, writer }).await?;
            done.hits += step.shortened;
            all_hits = step.was_last;
        }
    }
    done.more = true;
    Ok(done)
}

/// What a transaction did.
struct Step {
    shortened: u64,
    was_last: bool,
}

/// The times of a step: from the first to before the second.
struct Span {
    from: Timestamptz,
    until: Timestamptz,
    was_last: bool,
}

impl Span {
    /// The next one before `floor`; `last` finds where it ends. `None` if all is done.
    async fn next(
        tx: &Transaction<'_>,
        task: &'static str,
        last: &str,
        floor: Timestamp,
    ) -> Result<Option<Self>, Error> {
        let place = tx.prepare_cached(PLACE).await.in_statement("shortened_so_far")?;
        let row = tx
            .query_one(&place, &[&task])
            .await
            .in_statement("shortened_so_far")?;
        let from: Timestamptz = row.try_get(0)?;
        if from.0 >= floor {
            return Ok(None);
        }
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
            was_last: last.is_none(),
        }))
    }

    /// Remembers that it is done.
    async fn done(&self, tx: &Transaction<'_>, task: &'static str) -> Result<(), Error> {
        let progress = tx.prepare_cached(PROGRESS).await.in_statement("shortened")?;
        tx.execute(&progress, &[&task, &self.until])
            .await
            .in_statement("shortened")?;
        Ok(())
    }
}

/// One step through the hits.
struct OfHits<'a> {
    floor: Timestamp,
    writer: &'a str,
}

impl OfHits<'_> {
    const TASK: &'static str = "addresses of hits";
}

impl Work for OfHits<'_> {
    const NAME: &'static str = "shorten_addresses_of_hits";
    type Output = Step;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Step, Error> {
        let Some(span) = Span::next(tx, Self::TASK, LAST_OF_HITS, self.floor).await? else {
            return Ok(Step {
                shortened: 0,
                was_last: true,
            });
        };
        let hits = tx.prepare_cached(HITS).await.in_statement("hits_of_step")?;
        let rows = tx
            .query(&hits, &[&span.from, &span.until])
            .await
            .in_statement("hits_of_step")?;
        let (mut email_id, mut opened_at, mut event_id) = (Vec::new(), Vec::new(), Vec::new());
        let (mut client_address, mut dedup_key) = (Vec::new(), Vec::new());
        for row in &rows {
            let full: IpAddr = row.try_get(3)?;
            let short = shortened(full);
            if short == full {
                continue;
            }
            email_id.push(row.try_get::<_, String>(0)?);
            opened_at.push(row.try_get::<_, Timestamptz>(1)?);
            event_id.push(row.try_get::<_, Uuid>(2)?);
            client_address.push(short);
            dedup_key.push(DedupKey::of(short, row.try_get(4)?).as_i64());
        }
        if !email_id.is_empty() {
            let lock = tx.prepare_cached(LOCK).await.in_statement("lock_emails")?;
            tx.execute(&lock, &[&email_id])
                .await
                .in_statement("lock_emails")?;
            let shorten = tx
                .prepare_cached(SHORTEN_HITS)
                .await
                .in_statement("shorten_hits")?;
            tx.execute(
                &shorten,
                &[&email_id, &opened_at, &event_id, &client_address, &dedup_key],
            )
            .await
            .in_statement("shorten_hits")?;
            record::raise_revision(tx, self.writer).await?;
        }
        span.done(tx, Self::TASK).await?;
        Ok(Step {
            shortened: u64::try_from(email_id.len()).unwrap_or(u64::MAX),
            was_last: span.was_last,
        })
    }
}

/// One step through the marks. Nothing changes a mark, and no list shows one.
struct OfMarks {
    floor: Timestamp,
}

impl OfMarks {
    const TASK: &'static str = "addresses of marks";
}

impl Work for OfMarks {
    const NAME: &'static str = "shorten_addresses_of_marks";
    type Output = Step;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Step, Error> {
        let Some(span) = Span::next(tx, Self::TASK, LAST_OF_MARKS, self.floor).await? else {
            return Ok(Step {
                shortened: 0,
                was_last: true,
            });
        };
        let marks = tx.prepare_cached(MARKS).await.in_statement("marks_of_step")?;
        let rows = tx
            .query(&marks, &[&span.from, &span.until])
            .await
            .in_statement("marks_of_step")?;
        let (mut email_id, mut marked_at, mut mark_id) = (Vec::new(), Vec::new(), Vec::new());
        let mut client_address = Vec::new();
        for row in &rows {
            let full: IpAddr = row.try_get(3)?;
            let short = shortened(full);
            if short == full {
                continue;
            }
            email_id.push(row.try_get::<_, String>(0)?);
            marked_at.push(row.try_get::<_, Timestamptz>(1)?);
            mark_id.push(row.try_get::<_, Uuid>(2)?);
            client_address.push(short);
        }
        if !email_id.is_empty() {
            let shorten = tx
                .prepare_cached(SHORTEN_MARKS)
                .await
                .in_statement("shorten_marks")?;
            tx.execute(&shorten, &[&email_id, &marked_at, &mark_id, &client_address])
                .await
                .in_statement("shorten_marks")?;
        }
        span.done(tx, Self::TASK).await?;
        Ok(Step {
            shortened: u64::try_from(email_id.len()).unwrap_or(u64::MAX),
            was_last: span.was_last,
        })
    }
}

#[cfg(test)]
mod tests {
    use tracking::{Mark, facts::new_id};

    use super::*;

    #[test]
    fn what_comes_late_is_shortened_before_it_is_recorded() {
        let now = Timestamp::from_millis(1_800_000_000_000);
        let admitted = |days: Option<u32>, age_ms: i64| {
            let marked_at = now.saturating_add_millis(-age_ms);
            let mark = Mark {
                mark_id: new_id(marked_at, [0; 10]).unwrap(),
                marked_at,
                email_id: "e".to_owned(),
                client_address: [198, 51, 100, 77].into(),
                user_agent: None,
            };
            *Addresses::new(days)
                .admit(Fact::Mark(mark), now)
                .client_address_mut()
        };
        let (full, short): (IpAddr, IpAddr) = ([198, 51, 100, 77].into(), [198, 51, 100, 0].into());
        assert_eq!(admitted(None, 1_000 * DAY_MS), full);
        assert_eq!(admitted(Some(30), 0), full);
        assert_eq!(admitted(Some(30), 30 * DAY_MS - LATE_MS), full);
        assert_eq!(admitted(Some(30), 30 * DAY_MS - LATE_MS + 1), short);
    }
}
