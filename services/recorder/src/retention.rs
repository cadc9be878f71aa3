//! Retention: what is older than the operator wants it kept goes. Hits go by whole months, whose partitions are dropped;
//! marks and emails follow in small transactions, each of which holds its rows for a moment.
//!
//! All of it may be cut off anywhere and begun again, and done by several recorders at once.

use database::{Database, Error, InStatement, Timestamptz, Transaction, Work};
use tokio_postgres::Row;
use tracking::Timestamp;
use uuid::Uuid;

use crate::{
    partitions::{DropPartition, Month, Months},
    revisions,
    shards::{Layout, Shards},
    slots, steps, webhooks,
};

/// Rows that one transaction removes.
const AT_ONCE: i64 = 1_000;

/// By the index of their times.
const OLD_MARKS: &str = "-- retention: find old marks
select email_id, marked_at, mark_id from marks where marked_at < $1 order by marked_at, mark_id limit $2";

const MARKS: &str = "-- retention: remove marks
delete from marks
using unnest($1::text[], $2::timestamptz[], $3::uuid[]) as old (email_id, marked_at, mark_id)
where marks.email_id = old.email_id and marks.marked_at = old.marked_at and marks.mark_id = old.mark_id
  -- in shards: and marks.email_id = any($1)";

/// An email that is known by its marks alone is not shown; without them it is nothing.
const MARKED_ONLY: &str = "-- retention: remove emails that had nothing but marks
delete from tracked_emails
where email_id = any($1) and first_opened_at is null and last_marked_at < $2";

/// Those whose first hit is gone, oldest first, by the index of the list.
const OLD_EMAILS: &str = "-- retention: find old emails
select email_id, first_opened_at, last_hit_at < $1
from tracked_emails
where first_opened_at < $1
  and first_opened_at >= $2 and (first_opened_at > $2 or email_id < $3)
order by first_opened_at, email_id desc
limit $4";

/// Whether something has come meanwhile is known once the row is locked.
const EMAILS: &str = "-- retention: remove emails
delete from tracked_emails
where email_id = any($1) and last_hit_at < $2 and coalesce(last_marked_at < $2, true)";

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Months of hits.
    pub months: u64,
    /// Marks.
    pub marks: u64,
    /// Emails, with their counts.
    pub emails: u64,
}

/// The names of its transactions.
pub(crate) const NAMES: [&str; 6] = [
    Months::NAME,
    DropPartition::NAME,
    OldMarks::NAME,
    RemoveMarks::NAME,
    OldEmails::NAME,
    RemoveEmails::NAME,
];

/// Its statements that lock or change rows of some emails.
#[cfg(test)]
pub(crate) const PER_EMAIL: &[&str] = &[MARKS, MARKED_ONLY, EMAILS];

/// Removes the months of hits that end before `floor`, the marks of those months, and, unless `keep_counts`, the emails
/// that nothing is left of.
pub(crate) async fn run(
    database: &Database,
    shards: &Shards,
    writer: &str,
    floor: Timestamp,
    keep_counts: bool,
) -> Result<Removed, Error> {
    let mut removed = Removed::default();
    let Some(first_kept) = Month::of(floor) else {
        return Ok(removed);
    };
    let Some(before) = first_kept.start() else {
        return Ok(removed);
    };
    for month in database.transact(&Months).await? {
        if month < first_kept {
            if keep_counts {
                slots::recount_month(database, month).await?;
            }
            let dropped = database.transact(&DropPartition { month, writer }).await?;
            removed.months += u64::from(dropped);
        }
    }
    let layout = shards.layout(database).await?;
    loop {
        let marks = database.transact(&OldMarks { before }).await?;
        let were_all = i64::try_from(marks.len()).is_ok_and(|found| found < AT_ONCE);
        for marks in shards
            .split(database, marks, |mark| &mark.email_id)
            .await?
            .values()
        {
            removed.marks += database
                .transact(&RemoveMarks {
                    marks,
                    before,
                    layout,
                })
                .await?;
        }
        if were_all {
            break;
        }
    }
    if !keep_counts {
        removed.emails = remove_emails(database, shards, writer, before).await?;
        database.transact(&slots::Remove { before, writer }).await?;
    }
    Ok(removed)
}

async fn remove_emails(
    database: &Database,
    shards: &Shards,
    writer: &str,
    before: Timestamp,
) -> Result<u64, Error> {
    let layout = shards.layout(database).await?;
    let mut removed = 0;
    let mut after = None;
    loop {
        let found = database.transact(&OldEmails { before, after }).await?;
        let without_hits = shards.split(database, found.without_hits, String::as_str).await?;
        for email_ids in without_hits.values() {
            let remove = RemoveEmails {
                email_ids,
                before,
                writer,
                layout,
            };
            removed += database.transact(&remove).await?;
        }
        let Some(last) = found.last else {
            return Ok(removed);
        };
        after = Some(last);
    }
}

/// What names a mark.
struct OldMark {
    email_id: String,
    marked_at: Timestamptz,
    mark_id: Uuid,
}

/// Looks at some old marks, the oldest.
struct OldMarks {
    before: Timestamp,
}

impl Work for OldMarks {
    const NAME: &'static str = "find_old_marks";
    const READ_ONLY: bool = true;
    type Output = Vec<OldMark>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Vec<OldMark>, Error> {
        let find = tx.prepare_cached(OLD_MARKS).await.in_statement(Self::NAME)?;
        let rows = tx
            .query(&find, &[&Timestamptz(self.before), &AT_ONCE])
            .await
            .in_statement(Self::NAME)?;
        let read = |row: &Row| {
            Ok(OldMark {
                email_id: row.try_get(0)?,
                marked_at: row.try_get(1)?,
                mark_id: row.try_get(2)?,
            })
        };
        rows.iter().map(read).collect()
    }
}

/// Removes marks, and the emails that have nothing else; answers how many marks.
struct RemoveMarks<'a> {
    marks: &'a [OldMark],
    before: Timestamp,
    layout: Layout,
}

impl Work for RemoveMarks<'_> {
    const NAME: &'static str = "remove_marks";
    type Output = u64;

    async fn run(&self, tx: &Transaction<'_>) -> Result<u64, Error> {
        let email_ids: Vec<&str> = self.marks.iter().map(|mark| mark.email_id.as_str()).collect();
        let marked_at: Vec<&Timestamptz> = self.marks.iter().map(|mark| &mark.marked_at).collect();
        let mark_ids: Vec<Uuid> = self.marks.iter().map(|mark| mark.mark_id).collect();
        let remove = tx
            .prepare_cached(&self.layout.form(MARKS))
            .await
            .in_statement(Self::NAME)?;
        let removed = tx
            .execute(&remove, &[&email_ids, &marked_at, &mark_ids])
            .await
            .in_statement(Self::NAME)?;
        steps::lock(tx, &email_ids).await?;
        let emails = tx
            .prepare_cached(MARKED_ONLY)
            .await
            .in_statement("remove_marked_only")?;
        tx.execute(&emails, &[&email_ids, &Timestamptz(self.before)])
            .await
            .in_statement("remove_marked_only")?;
        Ok(removed)
    }
}

/// Where one look at the old emails ended.
type Place = (Timestamp, String);

/// Looks at some emails whose first hit is gone.
struct OldEmails {
    before: Timestamp,
    after: Option<Place>,
}

struct Found {
    /// Those whose last hit is gone as well.
    without_hits: Vec<String>,
    /// `None` if these were the last.
    last: Option<Place>,
}

impl Work for OldEmails {
    const NAME: &'static str = "find_old_emails";
    type Output = Found;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Found, Error> {
        let find = tx.prepare_cached(OLD_EMAILS).await.in_statement(Self::NAME)?;
        let earliest = (Timestamp::from_millis(0), String::new());
        let (after, email_id) = self.after.as_ref().unwrap_or(&earliest);
        let rows = tx
            .query(
                &find,
                &[
                    &Timestamptz(self.before),
                    &Timestamptz(*after),
                    email_id,
                    &AT_ONCE,
                ],
            )
            .await
            .in_statement(Self::NAME)?;
        let mut found = Found {
            without_hits: Vec::new(),
            last: None,
        };
        for row in &rows {
            let (email_id, at): (String, Timestamptz) = (row.try_get(0)?, row.try_get(1)?);
            found.last = Some((at.into(), email_id.clone()));
            if row.try_get::<_, Option<bool>>(2)? == Some(true) {
                found.without_hits.push(email_id);
            }
        }
        Ok(found)
    }
}

/// Removes those of the emails that still have neither hit nor young mark; answers how many.
struct RemoveEmails<'a> {
    email_ids: &'a [String],
    before: Timestamp,
    writer: &'a str,
    layout: Layout,
}

impl Work for RemoveEmails<'_> {
    const NAME: &'static str = "remove_emails";
    type Output = u64;

    async fn run(&self, tx: &Transaction<'_>) -> Result<u64, Error> {
        let email_ids: Vec<&str> = self.email_ids.iter().map(String::as_str).collect();
        steps::lock(tx, &email_ids).await?;
        let emails = tx.prepare_cached(EMAILS).await.in_statement(Self::NAME)?;
        let removed = tx
            .execute(&emails, &[&email_ids, &Timestamptz(self.before)])
            .await
            .in_statement(Self::NAME)?;
        if removed > 0 {
            webhooks::forget(tx, self.layout, &email_ids).await?;
            revisions::raise(tx, self.writer).await?;
        }
        Ok(removed)
    }
}
