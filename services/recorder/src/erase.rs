//! Erasing: what is stored of an email goes, and a keyed hash of its id stays, so that it never comes back.
//!
//! 1. [`Begin`]: that it was asked for is written down.
//! 2. [`Note`]: the hashes of some emails are noted. From its commit on no transaction can add one of them that is not there:
//!    who adds an email looks, after its row is added, whether it is noted ([`Erased`], in the recording transaction).
//! 3. [`Remove`]: under the locks of their rows, what is stored of these emails is removed. A row that is not there is added
//!    first: so it waits for whoever is adding it without having seen the note, and then removes that as well.
//! 4. [`Finish`]: it is written down as done.
//!
//! It may be cut off anywhere. What is noted by then and still there is removed by upkeep; the rest is asked for again.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use database::{Database, Error, InStatement, Timestamptz, Transaction, Work};
use tokio_postgres::Row;
use tracking::{Timestamp, recipients::Address};
use uuid::Uuid;

use crate::{
    revisions,
    shards::{Layout, Shards},
    slots, webhooks,
};

/// Emails that one transaction removes.
const AT_ONCE: usize = 100;
/// Hits that one transaction removes: their emails are locked meanwhile. The rest of them is for the next one.
const HITS_AT_ONCE: i64 = 5_000;
/// Emails that one look for a recipient's finds, and that one look for noted ones reads.
const FOUND_AT_ONCE: i64 = 1_000;

/// HMAC-SHA-256 of the text `$subject`, by the key of the row `key`.
macro_rules! keyed_hash {
    ($subject:literal) => {
        concat!(
            "sha256(key.outer_pad || sha256(key.inner_pad || convert_to(",
            $subject,
            ", 'UTF8')))"
        )
    };
}

const BEGIN: &str = concat!(
    "-- erase: begin
insert into erasures (id, kind, subject, asked_at)
select $1::uuid, $2::text, ",
    keyed_hash!("$2::text || ' ' || $3::text"),
    ", $4::timestamptz from erasure_keys as key order by key.id limit 1"
);

/// In one order, so that two that note the same emails wait for each other one way only.
const NOTE: &str = concat!(
    "-- erase: note emails
insert into erased_emails (hash)
select new.hash from (
  select ",
    keyed_hash!("'email ' || email.email_id"),
    " as hash
  from (select * from erasure_keys order by id limit 1) as key
  cross join unnest($1::text[]) as email (email_id)
) as new
order by new.hash
on conflict (hash) do nothing"
);

/// Which of these emails are noted, by any key there is. Where nothing was ever erased, no hash is made.
pub(crate) const NOTED: &str = concat!(
    "-- erase: emails that are erased
select email.place::int
from unnest($1::text[]) with ordinality as email (email_id, place)
where exists (select from erased_emails) and exists (
  select from erasure_keys as key join erased_emails as erased
    on erased.hash = ",
    keyed_hash!("'email ' || email.email_id"),
    ")"
);

const LOCK: &str = "-- erase: lock emails
select email_id from tracked_emails where email_id = any($1) order by email_id for update";

const HITS: &str = "-- erase: remove hits
delete from hits using (
  select email_id, opened_at, event_id from hits where email_id = any($1) limit $2
) as found
where hits.email_id = any($1)
  and hits.email_id = found.email_id and hits.opened_at = found.opened_at and hits.event_id = found.event_id
returning hits.opened_at";

/// Known emails before new ones, each by id, as in the recording transaction.
const ADD: &str = "-- erase: add emails that are not there
insert into tracked_emails (email_id)
select new.email_id from unnest($1::text[]) as new (email_id) order by new.email_id collate \"C\"
on conflict (email_id) do nothing";

const MARKS: &str = "-- erase: remove marks
delete from marks where email_id = any($1)";

const EMAILS: &str = "-- erase: remove emails
delete from tracked_emails where email_id = any($1)";

const COUNT: &str = "-- erase: count what was removed
update erasures set emails = emails + $2, hits = hits + $3, marks = marks + $4 where id = $1";

const FINISH: &str = "-- erase: it is done
update erasures set finished_at = $2 where id = any($1) and finished_at is null";

/// By the primary key, some at a time. What this lets through too many of, [`Address`] decides: the server's `lower` knows
/// ASCII only under a collation that every server has.
const OF_RECIPIENT: &str = "-- erase: find the emails of a recipient
select email_id, recipient from tracked_emails
where email_id > $1
  and (octet_length(recipient) <> char_length(recipient) or strpos(lower(recipient collate \"C\"), $2) > 0)
order by email_id
limit $3";

const ALL: &str = "-- erase: go through the emails
select email_id from tracked_emails where email_id > $1 order by email_id limit $2";

const UNFINISHED: &str = "-- erase: find what was cut off
select id from erasures where finished_at is null and asked_at < $1 order by asked_at, id";

/// Its statements that look at stored rows of emails or change them.
#[cfg(test)]
pub(crate) const PER_EMAIL: &[&str] = &[LOCK, HITS, MARKS, EMAILS];

/// The names of its transactions.
pub(crate) const NAMES: [&str; 8] = [
    Begin::NAME,
    Note::NAME,
    Remove::NAME,
    Finish::NAME,
    OfRecipient::NAME,
    All::NAME,
    FindNoted::NAME,
    Unfinished::NAME,
];

/// What is to be erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The email with this id, stored or not.
    Email(String),
    /// All emails that have this address among their recipients.
    Recipient(Address),
}

impl Subject {
    /// Its kind, as it is written down.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Email(_) => "email",
            Self::Recipient(_) => "recipient",
        }
    }

    fn text(&self) -> &str {
        match self {
            Self::Email(email_id) => email_id,
            Self::Recipient(address) => address.as_str(),
        }
    }
}

/// What was erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Emails that were stored.
    pub emails: u64,
    /// Their hits.
    pub hits: u64,
    /// Their marks.
    pub marks: u64,
}

impl Erased {
    fn add(&mut self, more: Self) {
        self.emails += more.emails;
        self.hits += more.hits;
        self.marks += more.marks;
    }
}

/// Where it is done, and in whose name.
#[derive(Clone, Copy)]
pub(crate) struct Eraser<'a> {
    pub(crate) database: &'a Database,
    pub(crate) shards: &'a Shards,
    /// Whose row of `revisions` to raise.
    pub(crate) writer: &'a str,
}

/// An erasure as it was done.
#[derive(Clone, Copy, Debug)]
pub struct Erasure {
    /// What it is written down as.
    pub id: Uuid,
    /// What it has erased.
    pub erased: Erased,
    /// Whether there was time for all of it.
    pub is_complete: bool,
}

impl Eraser<'_> {
    /// Erases `subject`, as much of it as `patience` allows.
    pub(crate) async fn erase(
        self,
        subject: &Subject,
        now: Timestamp,
        patience: Duration,
    ) -> Result<Erasure, Error> {
        let begun = Instant::now();
        let id = Uuid::from_bytes(rand::random());
        self.database.transact(&Begin { id, subject, now }).await?;
        let mut erased = Erased::default();
        let mut is_complete = true;
        match subject {
            Subject::Email(email_id) => {
                erased.add(self.remove_for_good(id, vec![email_id.clone()]).await?);
            }
            Subject::Recipient(address) => {
                let mut after = Some(String::new());
                while let Some(last) = after.take() {
                    let find = OfRecipient {
                        address,
                        after: &last,
                    };
                    let (email_ids, last) = self.database.transact(&find).await?;
                    for some in email_ids.chunks(AT_ONCE) {
                        is_complete &= begun.elapsed() < patience;
                        if is_complete {
                            erased.add(self.remove_for_good(id, some.to_vec()).await?);
                        }
                    }
                    after = last.filter(|_| is_complete);
                }
            }
        }
        self.database.transact(&Finish { ids: &[id], now }).await?;
        Ok(Erasure {
            id,
            erased,
            is_complete,
        })
    }

    /// Removes what is noted as erased and there nevertheless, because an erasure asked for before `before` was cut off, or
    /// an older state was restored. Answers `None` if there is no such erasure.
    pub(crate) async fn finish(self, before: Timestamp, now: Timestamp) -> Result<Option<Erased>, Error> {
        let ids = self.database.transact(&Unfinished { before }).await?;
        let Some(first) = ids.first() else {
            return Ok(None);
        };
        let mut erased = Erased::default();
        let mut after = Some(String::new());
        while let Some(last) = after.take() {
            let (email_ids, last) = self.database.transact(&All { after: &last }).await?;
            let noted = self
                .database
                .transact(&FindNoted {
                    email_ids: &email_ids,
                })
                .await?;
            for some in noted.chunks(AT_ONCE) {
                erased.add(self.remove(*first, some.to_vec()).await?);
            }
            after = last;
        }
        self.database.transact(&Finish { ids: &ids, now }).await?;
        Ok(Some(erased))
    }

    async fn remove_for_good(self, id: Uuid, email_ids: Vec<String>) -> Result<Erased, Error> {
        self.database
            .transact(&Note {
                email_ids: &email_ids,
            })
            .await?;
        self.remove(id, email_ids).await
    }

    async fn remove(self, id: Uuid, email_ids: Vec<String>) -> Result<Erased, Error> {
        let layout = self.shards.layout(self.database).await?;
        let of_shards = self
            .shards
            .split(self.database, email_ids, String::as_str)
            .await
            .inspect_err(|error| self.shards.look_again_after(error))?;
        let mut erased = Erased::default();
        for email_ids in of_shards.values() {
            let remove = Remove {
                id,
                email_ids,
                layout,
                writer: self.writer,
            };
            loop {
                let removed = self.database.transact(&remove).await;
                let (removed, are_all) = removed.inspect_err(|error| self.shards.look_again_after(error))?;
                erased.add(removed);
                if are_all {
                    break;
                }
            }
        }
        Ok(erased)
    }
}

/// Writes down what is asked for.
struct Begin<'a> {
    id: Uuid,
    subject: &'a Subject,
    now: Timestamp,
}

impl Work for Begin<'_> {
    const NAME: &'static str = "begin_erasure";
    type Output = ();

    async fn run(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        let begin = tx.prepare_cached(BEGIN).await.in_statement(Self::NAME)?;
        let (kind, text) = (self.subject.kind(), self.subject.text());
        let written = tx
            .execute(&begin, &[&self.id, &kind, &text, &Timestamptz(self.now)])
            .await
            .in_statement(Self::NAME)?;
        if written == 0 {
            return Err(Error::unexpected("the table erasure_keys has no key"));
        }
        Ok(())
    }
}

/// Notes emails as erased.
struct Note<'a> {
    email_ids: &'a [String],
}

impl Work for Note<'_> {
    const NAME: &'static str = "note_erased";
    type Output = ();

    async fn run(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        let note = tx.prepare_cached(NOTE).await.in_statement(Self::NAME)?;
        tx.execute(&note, &[&self.email_ids])
            .await
            .in_statement(Self::NAME)?;
        Ok(())
    }
}

/// Removes what is stored of emails that are noted, all of one shard; answers what that was, and whether it was all.
struct Remove<'a> {
    id: Uuid,
    email_ids: &'a [String],
    layout: Layout,
    writer: &'a str,
}

impl Work for Remove<'_> {
    const NAME: &'static str = "remove_erased";
    type Output = (Erased, bool);

    async fn run(&self, tx: &Transaction<'_>) -> Result<(Erased, bool), Error> {
        let lock = tx.prepare_cached(LOCK).await.in_statement("lock_erased")?;
        let rows = tx
            .query(&lock, &[&self.email_ids])
            .await
            .in_statement("lock_erased")?;
        let known: HashSet<String> = rows.iter().map(text).collect::<Result<_, Error>>()?;
        let times = self.hits(tx).await?;
        let mut erased = Erased {
            hits: u64::try_from(times.len()).unwrap_or(u64::MAX),
            ..Erased::default()
        };
        let are_all = i64::try_from(erased.hits).is_ok_and(|hits| hits < HITS_AT_ONCE);
        if are_all {
            self.add_missing(tx, &known).await?;
            erased.marks = self.delete(tx, MARKS, "erased_marks").await?;
            self.delete(tx, EMAILS, "erased_emails").await?;
            let gone: Vec<&str> = self.email_ids.iter().map(String::as_str).collect();
            webhooks::forget(tx, self.layout, &gone).await?;
            erased.emails = u64::try_from(known.len()).unwrap_or(u64::MAX);
        }
        let count = tx.prepare_cached(COUNT).await.in_statement("count_erased")?;
        let [emails, hits, marks] =
            [erased.emails, erased.hits, erased.marks].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
        tx.execute(&count, &[&self.id, &emails, &hits, &marks])
            .await
            .in_statement("count_erased")?;
        slots::mark_stale(tx, times).await?;
        revisions::raise(tx, self.writer).await?;
        Ok((erased, are_all))
    }
}

impl Remove<'_> {
    /// Not more than [`HITS_AT_ONCE`]; answers when they were. Hits are of known emails alone.
    async fn hits(&self, tx: &Transaction<'_>) -> Result<Vec<Timestamp>, Error> {
        let hits = tx
            .prepare_cached(&self.layout.form(HITS))
            .await
            .in_statement("erased_hits")?;
        let rows = tx
            .query(&hits, &[&self.email_ids, &HITS_AT_ONCE])
            .await
            .in_statement("erased_hits")?;
        let time = |row: &Row| Ok(row.try_get::<_, Timestamptz>(0)?.into());
        rows.iter().map(time).collect()
    }

    async fn add_missing(&self, tx: &Transaction<'_>, known: &HashSet<String>) -> Result<(), Error> {
        let missing: Vec<&String> = self
            .email_ids
            .iter()
            .filter(|email_id| !known.contains(*email_id))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let add = tx.prepare_cached(ADD).await.in_statement("add_erased")?;
        let added = tx.execute(&add, &[&missing]).await.in_statement("add_erased")?;
        if usize::try_from(added) != Ok(missing.len()) {
            return Err(Error::overtaken(
                "another transaction has added an email that is being erased",
            ));
        }
        Ok(())
    }

    async fn delete(
        &self,
        tx: &Transaction<'_>,
        statement: &'static str,
        name: &'static str,
    ) -> Result<u64, Error> {
        let delete = tx.prepare_cached(statement).await.in_statement(name)?;
        tx.execute(&delete, &[&self.email_ids]).await.in_statement(name)
    }
}

/// Writes down that erasures are done.
struct Finish<'a> {
    ids: &'a [Uuid],
    now: Timestamp,
}

impl Work for Finish<'_> {
    const NAME: &'static str = "finish_erasure";
    type Output = ();

    async fn run(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        let finish = tx.prepare_cached(FINISH).await.in_statement(Self::NAME)?;
        tx.execute(&finish, &[&self.ids, &Timestamptz(self.now)])
            .await
            .in_statement(Self::NAME)?;
        Ok(())
    }
}

/// Some emails, and after which one to go on, if there may be more.
type Found = (Vec<String>, Option<String>);

/// Looks for a recipient's emails after one.
struct OfRecipient<'a> {
    address: &'a Address,
    after: &'a str,
}

impl Work for OfRecipient<'_> {
    const NAME: &'static str = "find_recipients_emails";
    const READ_ONLY: bool = true;
    type Output = Found;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Found, Error> {
        let find = tx.prepare_cached(OF_RECIPIENT).await.in_statement(Self::NAME)?;
        let rows = tx
            .query(&find, &[&self.after, &self.address.as_str(), &FOUND_AT_ONCE])
            .await
            .in_statement(Self::NAME)?;
        let mut email_ids = Vec::new();
        for row in &rows {
            if self.address.is_among(row.try_get(1)?) {
                email_ids.push(text(row)?);
            }
        }
        Ok((email_ids, last_of_many(&rows)?))
    }
}

/// Reads the emails after one.
struct All<'a> {
    after: &'a str,
}

impl Work for All<'_> {
    const NAME: &'static str = "go_through_emails";
    const READ_ONLY: bool = true;
    type Output = Found;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Found, Error> {
        let all = tx.prepare_cached(ALL).await.in_statement(Self::NAME)?;
        let rows = tx
            .query(&all, &[&self.after, &FOUND_AT_ONCE])
            .await
            .in_statement(Self::NAME)?;
        let email_ids = rows.iter().map(text).collect::<Result<_, Error>>()?;
        Ok((email_ids, last_of_many(&rows)?))
    }
}

/// Looks which emails are noted.
struct FindNoted<'a> {
    email_ids: &'a [String],
}

impl Work for FindNoted<'_> {
    const NAME: &'static str = "find_erased";
    const READ_ONLY: bool = true;
    type Output = Vec<String>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Vec<String>, Error> {
        let noted = tx.prepare_cached(NOTED).await.in_statement(Self::NAME)?;
        let rows = tx
            .query(&noted, &[&self.email_ids])
            .await
            .in_statement(Self::NAME)?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            found.extend(self.email_ids.get(place(row)?).cloned());
        }
        Ok(found)
    }
}

/// Looks for erasures that were cut off.
struct Unfinished {
    before: Timestamp,
}

impl Work for Unfinished {
    const NAME: &'static str = "find_unfinished_erasures";
    const READ_ONLY: bool = true;
    type Output = Vec<Uuid>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Vec<Uuid>, Error> {
        let find = tx.prepare_cached(UNFINISHED).await.in_statement(Self::NAME)?;
        let rows = tx
            .query(&find, &[&Timestamptz(self.before)])
            .await
            .in_statement(Self::NAME)?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}

/// The place of an email in what was asked of [`NOTED`].
pub(crate) fn place(row: &Row) -> Result<usize, Error> {
    let place = usize::try_from(row.try_get::<_, i32>(0)?).unwrap_or_default();
    Ok(place.saturating_sub(1))
}

fn text(row: &Row) -> Result<String, Error> {
    Ok(row.try_get(0)?)
}

/// The last one, if there may be more after it.
fn last_of_many(rows: &[Row]) -> Result<Option<String>, Error> {
    let are_all = i64::try_from(rows.len()).is_ok_and(|found| found < FOUND_AT_ONCE);
    rows.last().filter(|_| !are_all).map(text).transpose()
}
