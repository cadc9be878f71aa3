//! The emails' rows: everything that touches an email queues on its row, in the order of email ids.
//!
//! Nearly every batch comes after all that is stored of its emails, and out of reach of it. Then its verdicts follow from
//! the batch alone; so it is judged first, and the statement that locks the rows counts it as well, where its row says that
//! this is so.

use std::{ops::RangeInclusive, pin::pin};

use database::{Error, InStatement, Timestamptz, Transaction};
use futures::TryStreamExt;
use tokio_postgres::{Row, types::ToSql};
use tracking::{Rules, Timestamp, verdicts::HitKey};
use uuid::Uuid;

use super::{
    Batch, Statements,
    counters::{Change, LastOpenedAt, Opens},
};

/// Whether all that is stored of the email is before whatever could matter to the change, and says who it is of.
macro_rules! in_order {
    () => {
        "email.first_event_id is not null
      and (email.sender_event_id is not null or not change.names_sender)
      and greatest(email.last_hit_at, email.last_marked_at) < change.reaches_back_to"
    };
}

/// Locks the rows of the emails that are known, in the order of their ids. Whatever a later statement reads of these
/// emails cannot change until the transaction ends.
///
/// What is written even where the batch is not in order holds in any order: the latest times are of facts that are stored
/// when the transaction ends, and so are the hits; those that turn out to be stored already are taken off again. Nearly
/// all that comes soon after something is a repeat, of which nothing but this is counted.
pub(super) const COUNT: &str = concat!(
    "-- record: count emails in order
update tracked_emails as email
set hit_count = email.hit_count + change.hits,
    last_hit_at = greatest(email.last_hit_at, change.last_hit_at),
    last_marked_at = greatest(email.last_marked_at, change.last_marked_at),
    open_count = email.open_count + case when ",
    in_order!(),
    " then change.opens else 0 end,
    credible_open_count = email.credible_open_count + case when ",
    in_order!(),
    " then change.credible_opens else 0 end,
    human_open_count = email.human_open_count + case when ",
    in_order!(),
    " then change.human_opens else 0 end,
    last_opened_at = greatest(email.last_opened_at, case when ",
    in_order!(),
    " then change.last_opened_at end),
    last_credible_open_at = greatest(email.last_credible_open_at, case when ",
    in_order!(),
    " then change.last_credible_open_at end),
    last_human_open_at = greatest(email.last_human_open_at, case when ",
    in_order!(),
    " then change.last_human_open_at end),
    earliest_open_at = coalesce(email.earliest_open_at, case when ",
    in_order!(),
    " then change.earliest_open_at end),
    earliest_credible_open_at = coalesce(email.earliest_credible_open_at, case when ",
    in_order!(),
    " then change.earliest_credible_open_at end),
    earliest_human_open_at = coalesce(email.earliest_human_open_at, case when ",
    in_order!(),
    " then change.earliest_human_open_at end),
    counted_by = case when ",
    in_order!(),
    " then $1::bigint else email.counted_by end
from unnest(
    $2::int[], $3::text[], $4::timestamptz[], $5::boolean[], $6::bigint[], $7::timestamptz[], $8::timestamptz[],
    $9::bigint[], $10::timestamptz[], $11::bigint[], $12::timestamptz[], $13::bigint[], $14::timestamptz[],
    $15::timestamptz[], $16::timestamptz[], $17::timestamptz[]
  ) as change (
    email, email_id, reaches_back_to, names_sender, hits, last_hit_at, last_marked_at,
    opens, last_opened_at, credible_opens, last_credible_open_at, human_opens, last_human_open_at,
    earliest_open_at, earliest_credible_open_at, earliest_human_open_at)
where email.email_id = change.email_id
  -- in shards: and email.email_id = any($3)
returning change.email, coalesce(email.counted_by = $1, false),
  case when email.counted_by = $1 then null else email.last_marked_at >= change.reaches_back_to end,
  case when email.counted_by = $1 then null else email.first_opened_at end,
  case when email.counted_by = $1 then null else email.first_event_id end,
  case when email.counted_by = $1 then null else email.sender_opened_at end,
  case when email.counted_by = $1 then null else email.sender_event_id end,
  case when email.counted_by = $1 then null else email.last_opened_at end,
  case when email.counted_by = $1 then null else email.last_credible_open_at end,
  case when email.counted_by = $1 then null else email.last_human_open_at end,
  case when email.counted_by = $1 then null else email.earliest_open_at end,
  case when email.counted_by = $1 then null else email.earliest_credible_open_at end,
  case when email.counted_by = $1 then null else email.earliest_human_open_at end"
);

/// The rows are inserted in the order of the ids, so that two recorders that meet the same new emails wait for each other
/// one way only; and none is locked that was not known, so that nobody who waits for a known one waits for a new one.
pub(super) const ADD: &str = "-- record: add the emails never seen
insert into tracked_emails (
  email_id, hit_count, open_count, last_opened_at, last_hit_at, last_marked_at,
  user_id, recipient, sent_at, first_opened_at, first_event_id,
  sender_email, sender_opened_at, sender_event_id,
  credible_open_count, last_credible_open_at, human_open_count, last_human_open_at,
  sent_time, earliest_open_at, earliest_credible_open_at, earliest_human_open_at)
select * from unnest(
  $1::text[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[],
  $7::text[], $8::text[], $9::text[], $10::timestamptz[], $11::uuid[],
  $12::text[], $13::timestamptz[], $14::uuid[],
  $15::bigint[], $16::timestamptz[], $17::bigint[], $18::timestamptz[],
  $19::timestamptz[], $20::timestamptz[], $21::timestamptz[], $22::timestamptz[]) as new (email_id)
order by new.email_id collate \"C\"
on conflict (email_id) do nothing";

/// What an email's row says about a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// There was none.
    #[default]
    New,
    /// All that is stored is out of the batch's reach, and the batch is counted.
    InOrder,
    /// Something that is stored may matter. The row is locked, and of the batch all hits are counted and no opens.
    Near(KnownEmail),
    /// There was none and will be none.
    Erased,
}

/// What an email's row says of what is stored before this batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KnownEmail {
    /// Whether any mark, stored or of the batch, may matter to the batch.
    pub(super) has_marks_near: bool,
    /// The hit that it has its identity from.
    pub(super) first: Option<HitKey>,
    /// The hit that it has its sender from.
    pub(super) sender: Option<HitKey>,
    /// When its latest opens were.
    pub(super) last_opened_at: Opens<Option<Timestamp>>,
    /// When its earliest opens were.
    pub(super) earliest_open_at: Opens<Option<Timestamp>>,
}

/// Locks the batch's emails as far as they are known, and counts `changes`, each email's change if nothing near is
/// stored, where that is so. Answers how each email stands, in the batch's order.
pub(super) async fn count(
    tx: &Transaction<'_>,
    statements: &Statements,
    batch: &Batch,
    changes: &[Change<'_>],
    rules: &Rules,
) -> Result<Vec<Standing>, Error> {
    let counts = Counts::of(changes.iter());
    let numbers: Vec<i32> = (0..).take(changes.len()).collect();
    let names_sender: Vec<bool> = changes.iter().map(|change| change.sender.is_some()).collect();
    let reaches_back_to: Vec<Timestamptz> = batch
        .emails
        .iter()
        .map(|facts| {
            let first = facts.first_at().unwrap_or(Timestamp::from_millis(i64::MIN));
            first.saturating_add_millis(-rules.reach_ms()).into()
        })
        .collect();
    let counted_by: i64 = rand::random();
    let mut standings = vec![Standing::New; changes.len()];
    let parameters: [&(dyn ToSql + Sync); 17] = [
        &counted_by,
        &numbers,
        &counts.email_id,
        &reaches_back_to,
        &names_sender,
        &counts.hits,
        &counts.last_hit_at,
        &counts.last_marked_at,
        &counts.opens.all,
        &counts.last_opened_at.all,
        &counts.opens.credible,
        &counts.last_opened_at.credible,
        &counts.opens.human,
        &counts.last_opened_at.human,
        &counts.earliest_open_at.all,
        &counts.earliest_open_at.credible,
        &counts.earliest_open_at.human,
    ];
    let rows = tx
        .query_raw(&statements.count_emails, parameters)
        .await
        .in_statement("count_emails")?;
    let mut rows = pin!(rows);
    while let Some(row) = rows.try_next().await.in_statement("count_emails")? {
        let place = usize::try_from(row.try_get::<_, i32>(0)?).unwrap_or(usize::MAX);
        if let Some(standing) = standings.get_mut(place) {
            *standing = read(&row)?;
        }
    }
    Ok(standings)
}

fn read(row: &Row) -> Result<Standing, Error> {
    if row.try_get(1)? {
        return Ok(Standing::InOrder);
    }
    Ok(Standing::Near(KnownEmail {
        has_marks_near: row.try_get::<_, Option<bool>>(2)?.unwrap_or(false),
        first: hit_key(row, 3)?,
        sender: hit_key(row, 5)?,
        last_opened_at: Opens {
            all: time(row, 7)?,
            credible: time(row, 8)?,
            human: time(row, 9)?,
        },
        earliest_open_at: Opens {
            all: time(row, 10)?,
            credible: time(row, 11)?,
            human: time(row, 12)?,
        },
    }))
}

fn time(row: &Row, column: usize) -> Result<Option<Timestamp>, Error> {
    Ok(row
        .try_get::<_, Option<Timestamptz>>(column)?
        .map(Timestamp::from))
}

/// The hit named by the two columns from `column` on.
fn hit_key(row: &Row, column: usize) -> Result<Option<HitKey>, Error> {
    let opened_at: Option<Timestamptz> = row.try_get(column)?;
    let event_id = row.try_get(column + 1)?;
    Ok(opened_at.zip(event_id).map(|(opened_at, event_id)| HitKey {
        opened_at: opened_at.into(),
        event_id,
    }))
}

/// Adds the emails that are [`New`](Standing::New), with all that their first batch says; answers how many. Fails with
/// [`Error::overtaken`] if somebody else has added one of them meanwhile.
pub(super) async fn add(
    tx: &Transaction<'_>,
    statements: &Statements,
    changes: &[Change<'_>],
    standings: &[Standing],
) -> Result<u64, Error> {
    let pairs = changes.iter().zip(standings);
    let new: Vec<&Change<'_>> = pairs
        .filter(|(_, standing)| **standing == Standing::New)
        .map(|(change, _)| change)
        .collect();
    if new.is_empty() {
        return Ok(0);
    }
    let counts = Counts::of(new.iter().copied());
    let identities = Identities::of(new.iter().copied());
    let added = tx
        .execute(
            &statements.add_emails,
            &[
                &counts.email_id,
                &counts.hits,
                &counts.opens.all,
                &counts.last_opened_at.all,
                &counts.last_hit_at,
                &counts.last_marked_at,
                &identities.user_id,
                &identities.recipient,
                &identities.sent_at,
                &identities.first_opened_at,
                &identities.first_event_id,
                &identities.sender_email,
                &identities.sender_opened_at,
                &identities.sender_event_id,
                &counts.opens.credible,
                &counts.last_opened_at.credible,
                &counts.opens.human,
                &counts.last_opened_at.human,
                &identities.sent_time,
                &counts.earliest_open_at.all,
                &counts.earliest_open_at.credible,
                &counts.earliest_open_at.human,
            ],
        )
        .await
        .in_statement("add_emails")?;
    if usize::try_from(added) != Ok(new.len()) {
        return Err(Error::overtaken("another transaction has added the same email"));
    }
    Ok(added)
}

/// The times that the database can hold; what a token says may be beyond.
const STORABLE: RangeInclusive<Timestamp> =
    Timestamp::from_millis(-62_135_596_800_000)..=Timestamp::from_millis(253_402_300_799_999);

/// How changes count, as the columns of a table.
#[derive(Default)]
pub(super) struct Counts<'a> {
    pub(super) email_id: Vec<&'a str>,
    pub(super) hits: Vec<i64>,
    pub(super) opens: Opens<Vec<i64>>,
    pub(super) last_opened_at: Opens<Vec<Option<Timestamptz>>>,
    pub(super) earliest_open_at: Opens<Vec<Option<Timestamptz>>>,
    pub(super) last_hit_at: Vec<Option<Timestamptz>>,
    pub(super) last_marked_at: Vec<Option<Timestamptz>>,
}

impl<'a> Counts<'a> {
    pub(super) fn of<'b>(changes: impl Iterator<Item = &'b Change<'a>>) -> Self
    where
        'a: 'b,
    {
        let time = |at: Option<Timestamp>| at.map(Timestamptz::from);
        let mut columns = Self::default();
        for change in changes {
            columns.email_id.push(change.email_id);
            columns.hits.push(change.hits);
            columns.opens.all.push(change.opens.all);
            columns.opens.credible.push(change.opens.credible);
            columns.opens.human.push(change.opens.human);
            let last = match change.last_opened_at {
                LastOpenedAt::Are(last) => last,
                LastOpenedAt::LookUp => Opens::default(),
            };
            columns.last_opened_at.all.push(time(last.all));
            columns.last_opened_at.credible.push(time(last.credible));
            columns.last_opened_at.human.push(time(last.human));
            let earliest = change.earliest_open_at;
            columns.earliest_open_at.all.push(earliest.all.known());
            columns.earliest_open_at.credible.push(earliest.credible.known());
            columns.earliest_open_at.human.push(earliest.human.known());
            columns.last_hit_at.push(time(change.last_hit_at));
            columns.last_marked_at.push(time(change.last_marked_at));
        }
        columns
    }
}

/// What changes say of who sent what to whom, as the columns of a table. Parsing the time that a token names has its
/// price, so these are made only for the emails that need them.
#[derive(Default)]
pub(super) struct Identities<'a> {
    pub(super) user_id: Vec<Option<&'a str>>,
    pub(super) recipient: Vec<Option<&'a str>>,
    pub(super) sent_at: Vec<Option<&'a str>>,
    pub(super) sent_time: Vec<Option<Timestamptz>>,
    pub(super) first_opened_at: Vec<Option<Timestamptz>>,
    pub(super) first_event_id: Vec<Option<Uuid>>,
    pub(super) sender_email: Vec<Option<&'a str>>,
    pub(super) sender_opened_at: Vec<Option<Timestamptz>>,
    pub(super) sender_event_id: Vec<Option<Uuid>>,
}

impl<'a> Identities<'a> {
    pub(super) fn of<'b>(changes: impl Iterator<Item = &'b Change<'a>>) -> Self
    where
        'a: 'b,
    {
        let mut columns = Self::default();
        for change in changes {
            let first = change.first.map(|first| &first.described.hit);
            let token = first.map(|hit| &hit.token);
            columns.user_id.push(token.map(|token| token.user_id.as_str()));
            columns
                .recipient
                .push(token.map(|token| token.recipient.as_str()));
            columns.sent_at.push(token.map(|token| token.sent_at.as_str()));
            let sent_time = token.and_then(|token| Timestamp::parse_iso(&token.sent_at));
            let sent_time = sent_time.filter(|at| STORABLE.contains(at));
            columns.sent_time.push(sent_time.map(Timestamptz::from));
            columns
                .first_opened_at
                .push(first.map(|hit| hit.opened_at.into()));
            columns.first_event_id.push(first.map(|hit| hit.event_id));

            let sender = change.sender.map(|(hit, email)| (&hit.described.hit, email));
            columns.sender_email.push(sender.map(|(_, email)| email));
            columns
                .sender_opened_at
                .push(sender.map(|(hit, _)| hit.opened_at.into()));
            columns.sender_event_id.push(sender.map(|(hit, _)| hit.event_id));
        }
        columns
    }
}
