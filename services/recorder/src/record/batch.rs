//! A batch in the order in which it is recorded: by email, and within each email every fact once.

use std::collections::BTreeMap;

use recorder_api::Outcome;
use tracking::{
    Fact, Mark, Timestamp,
    verdicts::{HitKey, MarkKey},
};

use super::{emails::Standing, verdicts::Judged};
use crate::describe::{BatchDescriber, DescribedHit, Describer};

/// Facts to record in one transaction.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// By email id bytewise: the order in which everyone locks emails.
    pub(crate) emails: Vec<EmailFacts>,
    /// Where each fact given went, in the order given.
    places: Vec<Place>,
}

/// The facts of one email.
#[derive(Debug)]
pub(crate) struct EmailFacts {
    pub(crate) email_id: String,
    /// In boxes: a node of the tree has room for eleven, and most emails have one.
    pub(crate) hits: BTreeMap<HitKey, Box<DescribedHit>>,
    pub(crate) marks: BTreeMap<MarkKey, Mark>,
}

/// One fact given: which email it is of, and whether the batch held it before.
#[derive(Clone, Copy, Debug)]
struct Place {
    email: usize,
    key: FactKey,
    repeats: bool,
}

/// What names a fact among those of its email. A hit and a mark with the same id are two facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FactKey {
    Hit(HitKey),
    Mark(MarkKey),
}

impl Batch {
    /// Sorts `facts` by email. Of facts with the same id, the first is kept.
    pub(crate) fn of(facts: Vec<Fact>, describer: &Describer) -> Self {
        let mut describer = describer.of_batch();
        let mut places = vec![None; facts.len()];
        // A fact is large, so it is moved once, to its place.
        let mut order: Vec<usize> = (0..facts.len()).collect();
        order.sort_by_key(|given| facts.get(*given).map(Fact::email_id));
        let mut facts: Vec<Option<Fact>> = facts.into_iter().map(Some).collect();
        let mut emails: Vec<EmailFacts> = Vec::with_capacity(facts.len());
        for given in order {
            let Some(fact) = facts.get_mut(given).and_then(Option::take) else {
                continue; // each is there, once
            };
            if emails.last().is_none_or(|last| last.email_id != fact.email_id()) {
                emails.push(EmailFacts::new(fact.email_id()));
            }
            let email = emails.len() - 1;
            if let (Some(of_email), Some(place)) = (emails.last_mut(), places.get_mut(given)) {
                let (key, repeats) = of_email.add(fact, &mut describer);
                *place = Some(Place { email, key, repeats });
            }
        }
        let places = places.into_iter().flatten().collect(); // each was just put there
        Self { emails, places }
    }

    /// What became of each fact given, in the order given.
    pub(super) fn outcomes(&self, judged: &[Judged<'_>], standings: &[Standing]) -> Vec<Outcome> {
        let is_new = |place: &Place| {
            !place.repeats
                && judged
                    .get(place.email)
                    .is_some_and(|judged| is_among_new(judged, &place.key))
        };
        self.places
            .iter()
            .map(|place| {
                if standings.get(place.email) == Some(&Standing::Erased) {
                    Outcome::Erased
                } else if is_new(place) {
                    Outcome::Recorded
                } else {
                    Outcome::AlreadyKnown
                }
            })
            .collect()
    }

    /// When its hits were.
    pub(crate) fn hit_times(&self) -> impl Iterator<Item = Timestamp> {
        self.emails
            .iter()
            .flat_map(|email| email.hits.keys().map(|key| key.opened_at))
    }
}

/// Both lists are in the timeline's order.
fn is_among_new(judged: &Judged<'_>, key: &FactKey) -> bool {
    match key {
        FactKey::Hit(key) => judged
            .new_hits
            .binary_search_by_key(key, |hit| hit.described.key())
            .is_ok(),
        FactKey::Mark(key) => judged
            .new_marks
            .binary_search_by_key(key, |mark| mark_key(mark))
            .is_ok(),
    }
}

fn mark_key(mark: &Mark) -> MarkKey {
    MarkKey {
        marked_at: mark.marked_at,
        mark_id: mark.mark_id,
    }
}

impl EmailFacts {
    fn new(email_id: &str) -> Self {
        Self {
            email_id: email_id.to_owned(),
            hits: BTreeMap::new(),
            marks: BTreeMap::new(),
        }
    }

    /// When its first fact was.
    pub(super) fn first_at(&self) -> Option<Timestamp> {
        let hit = self.hits.keys().next().map(|key| key.opened_at);
        let mark = self.marks.keys().next().map(|key| key.marked_at);
        hit.into_iter().chain(mark).min()
    }

    fn add(&mut self, fact: Fact, describer: &mut BatchDescriber<'_>) -> (FactKey, bool) {
        match fact {
            Fact::Hit(hit) => {
                let key = HitKey {
                    opened_at: hit.opened_at,
                    event_id: hit.event_id,
                };
                let repeats = self.hits.contains_key(&key);
                self.hits
                    .entry(key)
                    .or_insert_with(|| Box::new(describer.describe(hit)));
                (FactKey::Hit(key), repeats)
            }
            Fact::Mark(mark) => {
                let key = mark_key(&mark);
                let repeats = self.marks.contains_key(&key);
                self.marks.entry(key).or_insert(mark);
                (FactKey::Mark(key), repeats)
            }
        }
    }
}
