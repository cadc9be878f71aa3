//! What an email's row says about its hits: counters, the latest open, and its identity.

use database::{Error, InStatement, Transaction};
use tracking::Timestamp;

use super::{
    Statements,
    emails::{Columns, KnownEmail, Standing},
    verdicts::{Judged, JudgedHit},
};

/// For emails that something is stored near to. A withdrawn open that was the latest one leaves the question which one is now; only the hits know. They are written
/// before this runs.
pub(super) const UPDATE: &str = "-- record: update the emails
update tracked_emails as email
set hit_count = email.hit_count + change.hits,
    open_count = email.open_count + change.opens,
    last_opened_at = case when change.look_up_last then (
        select hit.opened_at from hits as hit
        where hit.email_id = email.email_id and hit.is_open
          -- in shards: and hit.email_id = any($1)
        order by hit.opened_at desc, hit.event_id desc limit 1
      ) else change.last_opened_at end,
    user_id = coalesce(change.user_id, email.user_id),
    recipient = coalesce(change.recipient, email.recipient),
    sent_at = coalesce(change.sent_at, email.sent_at),
    first_opened_at = coalesce(change.first_opened_at, email.first_opened_at),
    first_event_id = coalesce(change.first_event_id, email.first_event_id),
    sender_email = coalesce(change.sender_email, email.sender_email),
    sender_opened_at = coalesce(change.sender_opened_at, email.sender_opened_at),
    sender_event_id = coalesce(change.sender_event_id, email.sender_event_id)
from unnest(
    $1::text[], $2::bigint[], $3::bigint[], $4::boolean[], $5::timestamptz[],
    $6::text[], $7::text[], $8::text[], $9::timestamptz[], $10::uuid[],
    $11::text[], $12::timestamptz[], $13::uuid[]
  ) as change (
    email_id, hits, opens, look_up_last, last_opened_at,
    user_id, recipient, sent_at, first_opened_at, first_event_id,
    sender_email, sender_opened_at, sender_event_id)
where email.email_id = change.email_id
  -- in shards: and email.email_id = any($1)";

/// What changes about one email.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) email_id: &'a str,
    pub(super) hits: i64,
    pub(super) opens: i64,
    pub(super) last_opened_at: LastOpenedAt,
    /// The batch's latest hit and mark.
    pub(super) last_hit_at: Option<Timestamp>,
    pub(super) last_marked_at: Option<Timestamp>,
    /// The hit it now has its identity from, if that changes.
    pub(super) first: Option<&'a JudgedHit<'a>>,
    /// The hit it now has its sender from, if that changes.
    pub(super) sender: Option<(&'a JudgedHit<'a>, &'a str)>,
}

/// When the latest open is, after the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastOpenedAt {
    Is(Option<Timestamp>),
    /// The latest one was withdrawn.
    LookUp,
}

/// What changes about the emails that something is stored near to, as far as it does.
pub(super) fn changes_near<'a>(standings: &[Standing], judged: &'a [Judged<'a>]) -> Vec<Change<'a>> {
    let pairs = standings.iter().zip(judged);
    pairs
        .filter(|(_, judged)| !judged.new_hits.is_empty() || !judged.corrected.is_empty())
        .filter_map(|(standing, judged)| match standing {
            Standing::Near(known) => Some(change(known, judged)),
            Standing::New | Standing::InOrder => None,
        })
        .collect()
}

/// What changes about an email of which `known` is known.
pub(super) fn change<'a>(known: &KnownEmail, judged: &'a Judged<'a>) -> Change<'a> {
    let new_opens = judged
        .new_hits
        .iter()
        .filter(|hit| hit.verdict.is_open())
        .map(|hit| hit.described.hit.opened_at);
    let turned = |into_open: bool| {
        judged
            .corrected
            .iter()
            .filter(move |(_, before, after)| before.is_open() != into_open && after.is_open() == into_open)
            .map(|(key, ..)| key.opened_at)
    };
    let gained: Vec<Timestamp> = new_opens.chain(turned(true)).collect();
    let withdrawn: Vec<Timestamp> = turned(false).collect();

    let is_earlier =
        |hit: &&JudgedHit<'_>, than: Option<_>| than.is_none_or(|than| hit.described.key() < than);
    Change {
        email_id: judged.email_id,
        hits: count(judged.new_hits.len()),
        opens: count(gained.len()) - count(withdrawn.len()),
        last_opened_at: last_opened_at(known.last_opened_at, &gained, &withdrawn),
        last_hit_at: judged.new_hits.last().map(|hit| hit.described.hit.opened_at),
        last_marked_at: judged.new_marks.last().map(|mark| mark.marked_at),
        first: judged.new_hits.first().filter(|hit| is_earlier(hit, known.first)),
        sender: judged
            .new_hits
            .iter()
            .find_map(|hit| Some((hit, hit.described.hit.token.sender_email.as_deref()?)))
            .filter(|(hit, _)| is_earlier(hit, known.sender)),
    }
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn last_opened_at(known: Option<Timestamp>, gained: &[Timestamp], withdrawn: &[Timestamp]) -> LastOpenedAt {
    let latest_gained = gained.iter().max().copied();
    let known_is_withdrawn = known.is_some_and(|known| withdrawn.contains(&known));
    if known_is_withdrawn && latest_gained < known {
        LastOpenedAt::LookUp
    } else {
        LastOpenedAt::Is(known.max(latest_gained))
    }
}

/// Writes the changes.
pub(super) async fn apply(
    tx: &Transaction<'_>,
    statements: &Statements,
    changes: &[Change<'_>],
) -> Result<(), Error> {
    if changes.is_empty() {
        return Ok(());
    }
    let columns = Columns::of(changes.iter());
    let look_up_last: Vec<bool> = changes
        .iter()
        .map(|change| change.last_opened_at == LastOpenedAt::LookUp)
        .collect();
    tx.execute(
        &statements.update_emails,
        &[
            &columns.email_id,
            &columns.hits,
            &columns.opens,
            &look_up_last,
            &columns.last_opened_at,
            &columns.user_id,
            &columns.recipient,
            &columns.sent_at,
            &columns.first_opened_at,
            &columns.first_event_id,
            &columns.sender_email,
            &columns.sender_opened_at,
            &columns.sender_event_id,
        ],
    )
    .await
    .in_statement("update_emails")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_open_is_looked_up_only_when_it_was_withdrawn() {
        let at = |millis: &[i64]| {
            millis
                .iter()
                .copied()
                .map(Timestamp::from_millis)
                .collect::<Vec<_>>()
        };
        let last = |known: &[i64], gained: &[i64], withdrawn: &[i64]| {
            last_opened_at(at(known).first().copied(), &at(gained), &at(withdrawn))
        };
        let is = |millis| LastOpenedAt::Is(Some(Timestamp::from_millis(millis)));
        assert_eq!(last(&[], &[], &[]), LastOpenedAt::Is(None));
        assert_eq!(last(&[], &[3, 5, 4], &[]), is(5));
        assert_eq!(last(&[9], &[3], &[]), is(9));
        assert_eq!(last(&[9], &[], &[3]), is(9));
        assert_eq!(last(&[9], &[], &[9]), LastOpenedAt::LookUp);
        assert_eq!(last(&[9], &[8], &[9]), LastOpenedAt::LookUp);
        assert_eq!(last(&[9], &[9], &[9]), is(9));
        assert_eq!(last(&[9], &[10], &[9]), is(10));
    }
}
