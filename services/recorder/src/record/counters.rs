//! What an email's row says about its hits: counters, the latest open, and its identity.

use database::{Error, InStatement, Timestamptz, Transaction};
use tracking::{Timestamp, agents::Confidence};

use super::{
    Batch, Statements,
    emails::{Counts, Identities, KnownEmail, Standing},
    verdicts::{Judged, JudgedHit},
};

/// For emails that something is stored near to. A withdrawn open that was the latest or the earliest one leaves the
/// question which one is now; only the hits know. They are written before this runs. (Of the earliest ones each has a
/// question of its own: where old hits are gone, another one's answer would be wrong.)
pub(super) const UPDATE: &str = "-- record: update the emails
update tracked_emails as email
set hit_count = email.hit_count + change.hits,
    open_count = email.open_count + change.opens,
    credible_open_count = email.credible_open_count + change.credible_opens,
    human_open_count = email.human_open_count + change.human_opens,
    last_opened_at = case when change.look_up_last then (
        select max(hit.opened_at) from hits as hit
        where hit.email_id = email.email_id and hit.is_open
          -- in shards: and hit.email_id = any($1)
      ) else change.last_opened_at end,
    last_credible_open_at = case when change.look_up_last then (
        select max(hit.opened_at) from hits as hit
        where hit.email_id = email.email_id and hit.is_open and hit.confidence <> 'automated'
          -- in shards: and hit.email_id = any($1)
      ) else change.last_credible_open_at end,
    last_human_open_at = case when change.look_up_last then (
        select max(hit.opened_at) from hits as hit
        where hit.email_id = email.email_id and hit.is_open and hit.confidence in ('human', 'likely')
          -- in shards: and hit.email_id = any($1)
      ) else change.last_human_open_at end,
    earliest_open_at = case when change.look_up_earliest_open then (
        select min(hit.opened_at) from hits as hit
        where hit.email_id = email.email_id and hit.is_open
          -- in shards: and hit.email_id = any($1)
      ) else change.earliest_open_at end,
    earliest_credible_open_at = case when change.look_up_earliest_credible_open then (
        select min(hit.opened_at) from hits as hit
        where hit.email_id = email.email_id and hit.is_open and hit.confidence <> 'automated'
          -- in shards: and hit.email_id = any($1)
      ) else change.earliest_credible_open_at end,
    earliest_human_open_at = case when change.look_up_earliest_human_open then (
        select min(hit.opened_at) from hits as hit
        where hit.email_id = email.email_id and hit.is_open and hit.confidence in ('human', 'likely')
          -- in shards: and hit.email_id = any($1)
      ) else change.earliest_human_open_at end,
    user_id = coalesce(change.user_id, email.user_id),
    recipient = coalesce(change.recipient, email.recipient),
    sent_at = coalesce(change.sent_at, email.sent_at),
    sent_time = case when change.sent_at is null then email.sent_time else change.sent_time end,
    first_opened_at = coalesce(change.first_opened_at, email.first_opened_at),
    first_event_id = coalesce(change.first_event_id, email.first_event_id),
    sender_email = coalesce(change.sender_email, email.sender_email),
    sender_opened_at = coalesce(change.sender_opened_at, email.sender_opened_at),
    sender_event_id = coalesce(change.sender_event_id, email.sender_event_id)
from unnest(
    $1::text[], $2::bigint[], $3::bigint[], $4::boolean[], $5::timestamptz[],
    $6::text[], $7::text[], $8::text[], $9::timestamptz[], $10::uuid[],
    $11::text[], $12::timestamptz[], $13::uuid[],
    $14::bigint[], $15::timestamptz[], $16::bigint[], $17::timestamptz[],
    $18::timestamptz[], $19::timestamptz[], $20::boolean[], $21::timestamptz[], $22::boolean[],
    $23::timestamptz[], $24::boolean[]
  ) as change (
    email_id, hits, opens, look_up_last, last_opened_at,
    user_id, recipient, sent_at, first_opened_at, first_event_id,
    sender_email, sender_opened_at, sender_event_id,
    credible_opens, last_credible_open_at, human_opens, last_human_open_at,
    sent_time, earliest_open_at, look_up_earliest_open, earliest_credible_open_at, look_up_earliest_credible_open,
    earliest_human_open_at, look_up_earliest_human_open)
where email.email_id = change.email_id
  -- in shards: and email.email_id = any($1)";

/// What changes about one email.
#[derive(Debug)]
pub(super) struct Change<'a> {
    pub(super) email_id: &'a str,
    pub(super) hits: i64,
    pub(super) opens: Opens<i64>,
    pub(super) last_opened_at: LastOpenedAt,
    pub(super) earliest_open_at: Opens<EarliestOpenAt>,
    /// The batch's latest hit and mark.
    pub(super) last_hit_at: Option<Timestamp>,
    pub(super) last_marked_at: Option<Timestamp>,
    /// The hit it now has its identity from, if that changes.
    pub(super) first: Option<&'a JudgedHit<'a>>,
    /// The hit it now has its sender from, if that changes.
    pub(super) sender: Option<(&'a JudgedHit<'a>, &'a str)>,
}

/// One thing about an email's opens, and the same about those that are not by machines, and about those by people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Opens<T> {
    pub(super) all: T,
    pub(super) credible: T,
    pub(super) human: T,
}

impl<T> Opens<T> {
    fn map<U>(self, into: impl Fn(T) -> U) -> Opens<U> {
        Opens {
            all: into(self.all),
            credible: into(self.credible),
            human: into(self.human),
        }
    }
}

/// When the latest opens are, after the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LastOpenedAt {
    Are(Opens<Option<Timestamp>>),
    /// A latest one was withdrawn.
    LookUp,
}

/// When the earliest open is, after the batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EarliestOpenAt {
    Is(Option<Timestamp>),
    /// It was withdrawn.
    LookUp,
}

impl EarliestOpenAt {
    pub(super) fn known(self) -> Option<Timestamptz> {
        match self {
            Self::Is(at) => at.map(Timestamptz::from),
            Self::LookUp => None,
        }
    }
}

/// What changes about the emails that something is stored near to, beyond the hits of the batch, which are counted.
pub(super) fn changes_near<'a>(
    batch: &Batch,
    standings: &[Standing],
    judged: &'a [Judged<'a>],
) -> Vec<Change<'a>> {
    let emails = batch.emails.iter().zip(standings).zip(judged);
    emails
        .filter_map(|((facts, standing), judged)| match standing {
            Standing::Near(known) => {
                let mut change = change(known, judged);
                change.hits -= count(facts.hits.len());
                change.says_something(known).then_some(change)
            }
            Standing::New | Standing::InOrder | Standing::Erased => None,
        })
        .collect()
}

impl Change<'_> {
    fn says_something(&self, known: &KnownEmail) -> bool {
        self.hits != 0
            || self.opens != Opens::default()
            || self.last_opened_at != LastOpenedAt::Are(known.last_opened_at)
            || self.earliest_open_at != known.earliest_open_at.map(EarliestOpenAt::Is)
            || self.first.is_some()
            || self.sender.is_some()
    }
}

/// What changes about an email of which `known` is known.
pub(super) fn change<'a>(known: &KnownEmail, judged: &'a Judged<'a>) -> Change<'a> {
    let new_opens = judged
        .new_hits
        .iter()
        .filter(|hit| hit.verdict.is_open())
        .map(|hit| (hit.described.hit.opened_at, hit.described.agent.confidence()));
    let turned = |into_open: bool| {
        judged
            .corrected
            .iter()
            .filter(move |hit| hit.before.is_open() != into_open && hit.after.is_open() == into_open)
            .map(|hit| (hit.key.opened_at, hit.confidence))
    };
    let gained: Vec<Open> = new_opens.chain(turned(true)).collect();
    let withdrawn: Vec<Open> = turned(false).collect();

    let is_earlier =
        |hit: &&JudgedHit<'_>, than: Option<_>| than.is_none_or(|than| hit.described.key() < than);
    Change {
        email_id: judged.email_id,
        hits: count(judged.new_hits.len()),
        opens: opens(&gained, &withdrawn),
        last_opened_at: last_opened_at(known.last_opened_at, &gained, &withdrawn),
        earliest_open_at: Opens {
            all: earliest(known.earliest_open_at.all, &gained, &withdrawn, |_| true),
            credible: earliest(
                known.earliest_open_at.credible,
                &gained,
                &withdrawn,
                |confidence| !confidence.is_automated(),
            ),
            human: earliest(
                known.earliest_open_at.human,
                &gained,
                &withdrawn,
                Confidence::is_human,
            ),
        },
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

/// When an open was, and how far it is believed.
type Open = (Timestamp, Confidence);

/// By how much the counts change.
fn opens(gained: &[Open], withdrawn: &[Open]) -> Opens<i64> {
    let change = |whose| count(times(gained, whose).count()) - count(times(withdrawn, whose).count());
    Opens {
        all: change(|_| true),
        credible: change(|confidence| !confidence.is_automated()),
        human: change(Confidence::is_human),
    }
}

/// When those of `opens` were that are `whose`.
fn times(opens: &[Open], whose: fn(Confidence) -> bool) -> impl Iterator<Item = Timestamp> {
    let wanted = opens.iter().filter(move |(_, confidence)| whose(*confidence));
    wanted.map(|(at, _)| *at)
}

fn last_opened_at(known: Opens<Option<Timestamp>>, gained: &[Open], withdrawn: &[Open]) -> LastOpenedAt {
    let latest = |known: Option<Timestamp>, whose: fn(Confidence) -> bool| {
        let latest_gained = times(gained, whose).max();
        let known_is_withdrawn = known.is_some_and(|known| times(withdrawn, whose).any(|at| at == known));
        if known_is_withdrawn && latest_gained < known {
            None
        } else {
            Some(known.max(latest_gained))
        }
    };
    let all = latest(known.all, |_| true);
    let credible = latest(known.credible, |confidence| !confidence.is_automated());
    let human = latest(known.human, Confidence::is_human);
    match (all, credible, human) {
        (Some(all), Some(credible), Some(human)) => LastOpenedAt::Are(Opens { all, credible, human }),
        _ => LastOpenedAt::LookUp,
    }
}

fn earliest(
    known: Option<Timestamp>,
    gained: &[Open],
    withdrawn: &[Open],
    whose: fn(Confidence) -> bool,
) -> EarliestOpenAt {
    let gained = times(gained, whose).min();
    let Some(known) = known else {
        return EarliestOpenAt::Is(gained);
    };
    match gained {
        Some(gained) if gained <= known => EarliestOpenAt::Is(Some(gained)),
        _ if times(withdrawn, whose).any(|at| at == known) => EarliestOpenAt::LookUp,
        _ => EarliestOpenAt::Is(Some(known)),
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
    let counts = Counts::of(changes.iter());
    let identities = Identities::of(changes.iter());
    let look_up_last: Vec<bool> = changes
        .iter()
        .map(|change| change.last_opened_at == LastOpenedAt::LookUp)
        .collect();
    let look_up = |whose: fn(&Opens<EarliestOpenAt>) -> EarliestOpenAt| -> Vec<bool> {
        let changes = changes.iter().map(|change| whose(&change.earliest_open_at));
        changes
            .map(|earliest| earliest == EarliestOpenAt::LookUp)
            .collect()
    };
    tx.execute(
        &statements.update_emails,
        &[
            &counts.email_id,
            &counts.hits,
            &counts.opens.all,
            &look_up_last,
            &counts.last_opened_at.all,
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
            &look_up(|earliest| earliest.all),
            &counts.earliest_open_at.credible,
            &look_up(|earliest| earliest.credible),
            &counts.earliest_open_at.human,
            &look_up(|earliest| earliest.human),
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
            let by_people = |millis: &[i64]| -> Vec<Open> {
                at(millis).into_iter().map(|at| (at, Confidence::Human)).collect()
            };
            let known = at(known).first().copied();
            let known = Opens {
                all: known,
                credible: known,
                human: known,
            };
            last_opened_at(known, &by_people(gained), &by_people(withdrawn))
        };
        let are = |all| {
            LastOpenedAt::Are(Opens {
                all,
                credible: all,
                human: all,
            })
        };
        let is = |millis| are(Some(Timestamp::from_millis(millis)));
        assert_eq!(last(&[], &[], &[]), are(None));
        assert_eq!(last(&[], &[3, 5, 4], &[]), is(5));
        assert_eq!(last(&[9], &[3], &[]), is(9));
        assert_eq!(last(&[9], &[], &[3]), is(9));
        assert_eq!(last(&[9], &[], &[9]), LastOpenedAt::LookUp);
        assert_eq!(last(&[9], &[8], &[9]), LastOpenedAt::LookUp);
        assert_eq!(last(&[9], &[9], &[9]), is(9));
        assert_eq!(last(&[9], &[10], &[9]), is(10));
    }

    #[test]
    fn the_earliest_open_is_looked_up_only_when_it_was_withdrawn() {
        let by_people = |millis: &[i64]| -> Vec<Open> {
            let at = millis.iter().copied().map(Timestamp::from_millis);
            at.map(|at| (at, Confidence::Human)).collect()
        };
        let earliest = |known: Option<i64>, gained: &[i64], withdrawn: &[i64]| {
            let known = known.map(Timestamp::from_millis);
            earliest(
                known,
                &by_people(gained),
                &by_people(withdrawn),
                Confidence::is_human,
            )
        };
        let is = |millis| EarliestOpenAt::Is(Some(Timestamp::from_millis(millis)));
        assert_eq!(earliest(None, &[], &[]), EarliestOpenAt::Is(None));
        assert_eq!(earliest(None, &[5, 3, 4], &[]), is(3));
        assert_eq!(earliest(Some(3), &[9], &[]), is(3));
        assert_eq!(earliest(Some(3), &[2], &[]), is(2));
        assert_eq!(earliest(Some(3), &[], &[9]), is(3));
        assert_eq!(earliest(Some(3), &[4], &[3]), EarliestOpenAt::LookUp);
        assert_eq!(earliest(Some(3), &[2], &[3]), is(2));
        assert_eq!(earliest(Some(3), &[3], &[3]), is(3));
    }

    #[test]
    fn each_open_is_counted_for_those_it_is_by() {
        let at = Timestamp::from_millis;
        let known = Opens {
            all: Some(at(5)),
            credible: Some(at(4)),
            human: Some(at(3)),
        };
        let gained = [(at(9), Confidence::Automated), (at(7), Confidence::Unclear)];
        assert_eq!(
            opens(&gained, &[(at(3), Confidence::Likely)]),
            Opens {
                all: 1,
                credible: 0,
                human: -1
            }
        );
        let now = Opens {
            all: Some(at(9)),
            credible: Some(at(7)),
            human: Some(at(3)),
        };
        assert_eq!(last_opened_at(known, &gained, &[]), LastOpenedAt::Are(now));
        let withdrawn = [(at(3), Confidence::Human)];
        assert_eq!(last_opened_at(known, &gained, &withdrawn), LastOpenedAt::LookUp);
    }
}
