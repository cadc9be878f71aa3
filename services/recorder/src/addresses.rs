//! Client addresses are shortened once they are older than the operator wants to know them: of IPv4 the last 8 bits become
//! zero, of IPv6 the last 80. The dedup key becomes that of the shortened address; a key of the full one would tell it to
//! whoever tries the 256 that it can be.
//!
//! Upkeep goes forward through the times of hits and of marks, in small steps, and remembers after each how far it has come.
//! Two that do the same step do no harm. What arrives behind it is shortened before it is recorded.

use std::net::IpAddr;

use database::{Database, Error, InStatement, Timestamptz, Transaction, Work};
use tokio_postgres::Row;
use tracking::{DedupKey, Fact, Timestamp, shortened};
use uuid::Uuid;

use crate::{
    revisions,
    shards::{Layout, Shards},
    steps::{self, Progress, Span, Table},
};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// How much sooner what arrives late is shortened than what is stored already. What was still recorded in full is thus
/// committed long before upkeep comes by, also by the clock of another recorder.
const LATE_MS: i64 = 60 * 60 * 1_000;

const HITS: &str = "-- addresses: hits of a step
select email_id, opened_at, event_id, client_address, user_agent
from hits where opened_at >= $1 and opened_at < $2 and client_address is not null";

const SHORTEN_HITS: &str = "-- addresses: shorten those of hits
update hits set client_address = new.client_address, dedup_key = new.dedup_key
from unnest($1::text[], $2::timestamptz[], $3::uuid[], $4::inet[], $5::bigint[])
  as new (email_id, opened_at, event_id, client_address, dedup_key)
where hits.email_id = new.email_id and hits.opened_at = new.opened_at and hits.event_id = new.event_id
  and hits.client_address <> new.client_address
  -- in shards: and hits.email_id = any($1)";

const MARKS: &str = "-- addresses: marks of a step
select email_id, marked_at, mark_id, client_address
from marks where marked_at >= $1 and marked_at < $2 and client_address is not null";

const SHORTEN_MARKS: &str = "-- addresses: shorten those of marks
update marks set client_address = new.client_address
from unnest($1::text[], $2::timestamptz[], $3::uuid[], $4::inet[])
  as new (email_id, marked_at, mark_id, client_address)
where marks.email_id = new.email_id and marks.marked_at = new.marked_at and marks.mark_id = new.mark_id
  and marks.client_address <> new.client_address
  -- in shards: and marks.email_id = any($1)";

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
pub(crate) const NAMES: [&str; 4] = [
    FindHits::NAME,
    ShortenHits::NAME,
    FindMarks::NAME,
    ShortenMarks::NAME,
];

/// Its statements that lock or change rows of some emails.
#[cfg(test)]
pub(crate) const PER_EMAIL: &[&str] = &[SHORTEN_HITS, SHORTEN_MARKS];

/// Shortens those that are older than `floor`, in so many steps at most.
pub(crate) async fn run(
    database: &Database,
    shards: &Shards,
    writer: &str,
    floor: Timestamp,
    most_steps: u32,
) -> Result<Shortened, Error> {
    let mut done = Shortened::default();
    let mut all_hits = false;
    for _ in 0..most_steps {
        if all_hits {
            let Some(step) = database.transact(&FindMarks { floor }).await? else {
                return Ok(done);
            };
            let was_last = step.span.is_last();
            done.marks += step.shorten_marks(database, shards).await?;
            if was_last {
                return Ok(done);
            }
        } else {
            match database.transact(&FindHits { floor }).await? {
                Some(step) => {
                    all_hits = step.span.is_last();
                    done.hits += step.shorten_hits(database, shards, writer).await?;
                }
                None => all_hits = true,
            }
        }
    }
    done.more = true;
    Ok(done)
}

/// A step through the hits or the marks: those whose address is to be shortened.
struct Step<T> {
    span: Span,
    found: Vec<T>,
}

/// What names a hit or a mark, and its address shortened.
struct Short {
    email_id: String,
    at: Timestamptz,
    id: Uuid,
    client_address: IpAddr,
}

impl Short {
    /// Of a row that begins with these columns; `None` if its address is short already.
    fn of(row: &Row) -> Result<Option<Self>, Error> {
        let full: IpAddr = row.try_get(3)?;
        let short = shortened(full);
        if short == full {
            return Ok(None);
        }
        Ok(Some(Self {
            email_id: row.try_get(0)?,
            at: row.try_get(1)?,
            id: row.try_get(2)?,
            client_address: short,
        }))
    }
}

const HITS_TASK: &str = "addresses of hits";
const MARKS_TASK: &str = "addresses of marks";

/// Finds one step through the hits, each with its new dedup key. `None` if all is done.
struct FindHits {
    floor: Timestamp,
}

impl Work for FindHits {
    const NAME: &'static str = "find_addresses_of_hits";
    const READ_ONLY: bool = true;
    type Output = Option<Step<(Short, i64)>>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Self::Output, Error> {
        let Some(span) = Span::next(tx, HITS_TASK, Table::Hits, self.floor).await? else {
            return Ok(None);
        };
        let hits = tx.prepare_cached(HITS).await.in_statement("hits_of_step")?;
        let rows = tx
            .query(&hits, &[&span.from, &span.until])
            .await
            .in_statement("hits_of_step")?;
        let mut found = Vec::new();
        for row in &rows {
            if let Some(short) = Short::of(row)? {
                let dedup_key = DedupKey::of(short.client_address, row.try_get(4)?).as_i64();
                found.push((short, dedup_key));
            }
        }
        Ok(Some(Step { span, found }))
    }
}

impl Step<(Short, i64)> {
    async fn shorten_hits(self, database: &Database, shards: &Shards, writer: &str) -> Result<u64, Error> {
        let layout = shards.layout(database).await?;
        let mut shortened = 0;
        let by_shard = shards
            .split(database, self.found, |(short, _)| &short.email_id)
            .await?;
        for hits in by_shard.values() {
            shortened += database.transact(&ShortenHits { hits, writer, layout }).await?;
        }
        let span = self.span;
        database
            .transact(&Progress {
                task: HITS_TASK,
                span,
            })
            .await?;
        Ok(shortened)
    }
}

/// Shortens the addresses of these hits; answers of how many.
struct ShortenHits<'a> {
    hits: &'a [(Short, i64)],
    writer: &'a str,
    layout: Layout,
}

impl Work for ShortenHits<'_> {
    const NAME: &'static str = "shorten_addresses_of_hits";
    type Output = u64;

    async fn run(&self, tx: &Transaction<'_>) -> Result<u64, Error> {
        let (hits, dedup_key): (Vec<&Short>, Vec<i64>) =
            self.hits.iter().map(|(hit, key)| (hit, *key)).unzip();
        let email_id: Vec<&str> = hits.iter().map(|hit| hit.email_id.as_str()).collect();
        let opened_at: Vec<&Timestamptz> = hits.iter().map(|hit| &hit.at).collect();
        let event_id: Vec<Uuid> = hits.iter().map(|hit| hit.id).collect();
        let client_address: Vec<IpAddr> = hits.iter().map(|hit| hit.client_address).collect();
        steps::lock(tx, &email_id).await?;
        let shorten = tx
            .prepare_cached(&self.layout.form(SHORTEN_HITS))
            .await
            .in_statement("shorten_hits")?;
        let shortened = tx
            .execute(
                &shorten,
                &[&email_id, &opened_at, &event_id, &client_address, &dedup_key],
            )
            .await
            .in_statement("shorten_hits")?;
        if shortened > 0 {
            revisions::raise(tx, self.writer).await?;
        }
        Ok(shortened)
    }
}

/// Finds one step through the marks. `None` if all is done.
struct FindMarks {
    floor: Timestamp,
}

impl Work for FindMarks {
    const NAME: &'static str = "find_addresses_of_marks";
    const READ_ONLY: bool = true;
    type Output = Option<Step<Short>>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Self::Output, Error> {
        let Some(span) = Span::next(tx, MARKS_TASK, Table::Marks, self.floor).await? else {
            return Ok(None);
        };
        let marks = tx.prepare_cached(MARKS).await.in_statement("marks_of_step")?;
        let rows = tx
            .query(&marks, &[&span.from, &span.until])
            .await
            .in_statement("marks_of_step")?;
        let found = rows.iter().filter_map(|row| Short::of(row).transpose());
        Ok(Some(Step {
            span,
            found: found.collect::<Result<_, _>>()?,
        }))
    }
}

impl Step<Short> {
    async fn shorten_marks(self, database: &Database, shards: &Shards) -> Result<u64, Error> {
        let layout = shards.layout(database).await?;
        let mut shortened = 0;
        let by_shard = shards
            .split(database, self.found, |short| &short.email_id)
            .await?;
        for marks in by_shard.values() {
            shortened += database.transact(&ShortenMarks { marks, layout }).await?;
        }
        let span = self.span;
        database
            .transact(&Progress {
                task: MARKS_TASK,
                span,
            })
            .await?;
        Ok(shortened)
    }
}

/// Shortens the addresses of these marks; answers of how many. Nothing else changes a mark, and no list shows one.
struct ShortenMarks<'a> {
    marks: &'a [Short],
    layout: Layout,
}

impl Work for ShortenMarks<'_> {
    const NAME: &'static str = "shorten_addresses_of_marks";
    type Output = u64;

    async fn run(&self, tx: &Transaction<'_>) -> Result<u64, Error> {
        let email_id: Vec<&str> = self.marks.iter().map(|mark| mark.email_id.as_str()).collect();
        let marked_at: Vec<&Timestamptz> = self.marks.iter().map(|mark| &mark.at).collect();
        let mark_id: Vec<Uuid> = self.marks.iter().map(|mark| mark.id).collect();
        let client_address: Vec<IpAddr> = self.marks.iter().map(|mark| mark.client_address).collect();
        let shorten = tx
            .prepare_cached(&self.layout.form(SHORTEN_MARKS))
            .await
            .in_statement("shorten_marks")?;
        tx.execute(&shorten, &[&email_id, &marked_at, &mark_id, &client_address])
            .await
            .in_statement("shorten_marks")
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
