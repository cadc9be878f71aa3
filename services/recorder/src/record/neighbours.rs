//! What is stored around a batch's facts: all that their verdicts, or theirs, can depend on.

use std::collections::BTreeSet;

use tracking::{
    Timestamp,
    verdicts::{KnownHit, MarkKey, Neighbourhood},
};

use database::Timestamptz;

use super::{Batch, batch::EmailFacts};

/// Where to look, as the columns of a table: for each email the merged surroundings of its facts.
#[derive(Debug, Default)]
pub(super) struct Spans<'a> {
    /// The email's place in the batch, to come back with each row.
    pub(super) email: Vec<i32>,
    pub(super) email_id: Vec<&'a str>,
    pub(super) since: Vec<Timestamptz>,
    /// Inclusive.
    pub(super) until: Vec<Timestamptz>,
}

/// Something found, and which email of the batch it is of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<T> {
    pub(super) email: i32,
    pub(super) what: T,
}

impl<'a> Spans<'a> {
    /// Everything within `reach_ms` of any fact of the batch. The facts themselves lie within, so that those stored
    /// before are found too.
    pub(super) fn around(batch: &'a Batch, reach_ms: i64) -> Self {
        let mut spans = Self::default();
        for (email, facts) in (0..).zip(&batch.emails) {
            for (since, until) in merged(&times(facts), reach_ms) {
                spans.email.push(email);
                spans.email_id.push(&facts.email_id);
                spans.since.push(since.into());
                spans.until.push(until.into());
            }
        }
        spans
    }
}

fn times(facts: &EmailFacts) -> BTreeSet<Timestamp> {
    let of_hits = facts.hits.keys().map(|key| key.opened_at);
    of_hits
        .chain(facts.marks.keys().map(|key| key.marked_at))
        .collect()
}

/// The surroundings of `times`, those that touch made one.
fn merged(times: &BTreeSet<Timestamp>, reach_ms: i64) -> Vec<(Timestamp, Timestamp)> {
    let mut spans: Vec<(Timestamp, Timestamp)> = Vec::new();
    for time in times {
        let since = time.saturating_add_millis(-reach_ms);
        let until = time.saturating_add_millis(reach_ms);
        match spans.last_mut() {
            Some(last) if since <= last.1 => last.1 = until,
            _ => spans.push((since, until)),
        }
    }
    spans
}

/// What was found, for each email of the batch in its order.
pub(super) fn by_email(
    batch: &Batch,
    hits: Vec<Found<KnownHit>>,
    marks: Vec<Found<MarkKey>>,
) -> Vec<Neighbourhood> {
    let mut neighbourhoods = vec![Neighbourhood::default(); batch.emails.len()];
    let place = |email: i32| usize::try_from(email).unwrap_or(usize::MAX);
    for Found { email, what } in hits {
        if let Some(of_email) = neighbourhoods.get_mut(place(email)) {
            of_email.hits.push(what);
        }
    }
    for Found { email, what } in marks {
        if let Some(of_email) = neighbourhoods.get_mut(place(email)) {
            of_email.marks.push(what);
        }
    }
    neighbourhoods
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn surroundings_that_touch_are_one() {
        let spans = |times: &[i64]| {
            let times = times.iter().copied().map(Timestamp::from_millis).collect();
            let pairs = merged(&times, 10);
            pairs
                .into_iter()
                .map(|(a, b)| (a.as_millis(), b.as_millis()))
                .collect::<Vec<_>>()
        };
        assert_eq!(spans(&[]), []);
        assert_eq!(spans(&[5]), [(-5, 15)]);
        assert_eq!(spans(&[100, 120, 140]), [(90, 150)]);
        assert_eq!(spans(&[100, 121]), [(90, 110), (111, 131)]);
    }
}
