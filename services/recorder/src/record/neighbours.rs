//! What is stored around a batch's facts: all that their verdicts, or theirs, can depend on.

use std::collections::{BTreeSet, HashMap};

use database::Timestamptz;
use tokio_postgres::types::ToSql;
use tracking::{
    DedupKey, Timestamp,
    verdicts::{HitKey, KnownHit, MarkKey},
};

use super::{
    Batch,
    batch::EmailFacts,
    emails::{KnownEmail, Standing},
};

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

impl<'a> Spans<'a> {
    /// Everything within `reach_ms` of any fact of those emails of the batch that something may be stored near to, as far
    /// as they are `wanted`. The facts themselves lie within, so that those stored before are found too.
    pub(super) fn around(
        batch: &'a Batch,
        standings: &[Standing],
        reach_ms: i64,
        wanted: impl Fn(&KnownEmail) -> bool,
    ) -> Self {
        let mut spans = Self::default();
        for ((email, facts), standing) in (0..).zip(&batch.emails).zip(standings) {
            if !matches!(standing, Standing::Near(known) if wanted(known)) {
                continue;
            }
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

impl Spans<'_> {
    /// Whether there is nowhere to look.
    pub(super) const fn is_empty(&self) -> bool {
        self.email.is_empty()
    }

    /// As the parameters of a statement.
    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 4] {
        [&self.email, &self.email_id, &self.since, &self.until]
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

/// From how many found of an email on the needless ones are dropped. Few emails ever get there.
const MANY: usize = 1_024;

/// What is found around each email's facts, while it is found.
///
/// An email that is fetched a thousand times a second, by an attacker say, has tens of thousands of neighbours. Nearly
/// none of them can matter, so memory is bounded by the batch and not by what is stored.
pub(super) struct Gathering<'a, T> {
    emails: Vec<(&'a EmailFacts, Vec<T>, usize)>,
    dedup_window_ms: i64,
}

/// A hit or a mark that lies near new facts.
pub(super) trait Neighbour: Copy {
    /// Drops from `found` what cannot change any verdict, given the facts of its email.
    fn drop_needless(found: &mut Vec<Self>, facts: &EmailFacts, dedup_window_ms: i64);
}

impl<'a, T: Neighbour> Gathering<'a, T> {
    pub(super) fn new(batch: &'a Batch, dedup_window_ms: i64) -> Self {
        let emails = batch
            .emails
            .iter()
            .map(|facts| (facts, Vec::new(), MANY))
            .collect();
        Self {
            emails,
            dedup_window_ms,
        }
    }

    /// Adds one found of the batch's `email`.
    pub(super) fn add(&mut self, email: i32, what: T) {
        let place = usize::try_from(email).unwrap_or(usize::MAX);
        let Some((facts, found, many)) = self.emails.get_mut(place) else {
            return;
        };
        found.push(what);
        if found.len() >= *many {
            T::drop_needless(found, facts, self.dedup_window_ms);
            *many = MANY.max(2 * found.len());
        }
    }

    /// What matters of all that was found, for each email of the batch in its order.
    pub(super) fn by_email(self) -> Vec<Vec<T>> {
        self.emails.into_iter().map(|(_, found, _)| found).collect()
    }
}

impl Neighbour for MarkKey {
    /// Of each fact the mark before it and the one after it: a mark acts on the fact that follows, and on no other.
    fn drop_needless(found: &mut Vec<Self>, facts: &EmailFacts, _: i64) {
        found.sort_unstable();
        let mut kept = Kept::new(found.len());
        for key in facts.marks.keys() {
            kept.around(
                found.partition_point(|mark| mark < key),
                found.binary_search(key).ok(),
            );
        }
        for hit in facts.hits.keys() {
            kept.around(
                found.partition_point(|mark| mark.marked_at <= hit.opened_at),
                None,
            );
        }
        kept.retain(found);
    }
}

impl Neighbour for KnownHit {
    /// Of each fact the hit before it and the one after it; of each hit also the latest one before it with its dedup key,
    /// and all after it, within the window, that it might make duplicates.
    fn drop_needless(found: &mut Vec<Self>, facts: &EmailFacts, dedup_window_ms: i64) {
        found.sort_unstable_by_key(|hit| hit.key);
        let mut kept = Kept::new(found.len());
        for mark in facts.marks.keys() {
            kept.around(
                found.partition_point(|hit| hit.key.opened_at < mark.marked_at),
                None,
            );
        }
        for key in facts.hits.keys() {
            let itself = found.binary_search_by_key(key, |hit| hit.key).ok();
            kept.around(found.partition_point(|hit| hit.key < *key), itself);
        }

        let mut same_key: HashMap<DedupKey, Vec<HitKey>> = HashMap::new(); // in the timeline's order
        for (key, described) in &facts.hits {
            same_key.entry(described.dedup_key).or_default().push(*key);
        }
        let mut latest_before: HashMap<HitKey, usize> = HashMap::new();
        for (place, hit) in found.iter().enumerate() {
            let Some(of_batch) = same_key.get(&hit.dedup_key) else {
                continue;
            };
            let next = of_batch.partition_point(|key| *key <= hit.key);
            if let Some(key) = of_batch.get(next) {
                latest_before.insert(*key, place);
            }
            let previous = next.checked_sub(1).and_then(|previous| of_batch.get(previous));
            let within = |key: &HitKey| hit.key.opened_at.millis_since(key.opened_at) <= dedup_window_ms;
            if !hit.verdict.is_duplicate && previous.is_some_and(within) {
                kept.keep(place);
            }
        }
        for place in latest_before.into_values() {
            kept.keep(place);
        }
        kept.retain(found);
    }
}

/// Which places of a sorted list to keep.
struct Kept(Vec<bool>);

impl Kept {
    fn new(length: usize) -> Self {
        Self(vec![false; length])
    }

    fn keep(&mut self, place: usize) {
        if let Some(kept) = self.0.get_mut(place) {
            *kept = true;
        }
    }

    /// Keeps what lies just before and just after the place of a fact, and the fact `itself` if it is stored.
    fn around(&mut self, place: usize, itself: Option<usize>) {
        if let Some(before) = place.checked_sub(1) {
            self.keep(before);
        }
        self.keep(place);
        if itself.is_some() {
            self.keep(place + 1);
        }
    }

    fn retain<T>(&self, list: &mut Vec<T>) {
        let mut kept = self.0.iter();
        list.retain(|_| kept.next().copied().unwrap_or(true));
    }
}

#[cfg(test)]
#[path = "neighbours_tests.rs"]
mod tests;
