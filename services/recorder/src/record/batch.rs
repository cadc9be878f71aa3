//! A batch in the order in which it is recorded: by email, and within each email every fact once.

use std::collections::{BTreeMap, HashSet};

use recorder_api::Outcome;
use tracking::{
    Fact, Mark, Timestamp,
    verdicts::{HitKey, MarkKey},
};

use super::{emails::Standing, verdicts::Judged};
use crate::describe::{DescribedHit, Describer};

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
    pub(crate) hits: BTreeMap<HitKey, DescribedHit>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum FactKey {
    Hit(HitKey),
    Mark(MarkKey),
}

impl Batch {
    /// Sorts `facts` by email. Of facts with the same id, the first is kept.
    pub(crate) fn of(facts: Vec<Fact>, describer: &Describer) -> Self {
        let mut positions: BTreeMap<String, usize> =
            facts.iter().map(|fact| (fact.email_id().to_owned(), 0)).collect();
        let mut emails = Vec::with_capacity(positions.len());
        for (position, (email_id, at)) in positions.iter_mut().enumerate() {
            *at = position;
            emails.push(EmailFacts {
                email_id: email_id.clone(),
                hits: BTreeMap::new(),
                marks: BTreeMap::new(),
            });
        }
        let mut places = Vec::with_capacity(facts.len());
        for fact in facts {
            let Some(&email) = positions.get(fact.email_id()) else {
                continue; // every email id was just put there
            };
            if let Some(of_email) = emails.get_mut(email) {
                let (key, repeats) = of_email.add(fact, describer);
                places.push(Place { email, key, repeats });
            }
        }
        Self { emails, places }
    }

    /// What became of each fact given, in the order given.
    pub(super) fn outcomes(&self, judged: &[Judged<'_>], standings: &[Standing]) -> Vec<Outcome> {
        let recorded: Vec<HashSet<FactKey>> = judged.iter().map(new_keys).collect();
        let is_new = |place: &Place| {
            !place.repeats
                && recorded
                    .get(place.email)
                    .is_some_and(|keys| keys.contains(&place.key))
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

fn new_keys(judged: &Judged<'_>) -> HashSet<FactKey> {
    let hits = judged
        .new_hits
        .iter()
        .map(|hit| FactKey::Hit(hit.described.key()));
    let marks = judged.new_marks.iter().map(|mark| FactKey::Mark(mark_key(mark)));
    hits.chain(marks).collect()
}

fn mark_key(mark: &Mark) -> MarkKey {
    MarkKey {
        marked_at: mark.marked_at,
        mark_id: mark.mark_id,
    }
}

impl EmailFacts {
    /// When its first fact was.
    pub(super) fn first_at(&self) -> Option<Timestamp> {
        let hit = self.hits.keys().next().map(|key| key.opened_at);
        let mark = self.marks.keys().next().map(|key| key.marked_at);
        hit.into_iter().chain(mark).min()
    }

    fn add(&mut self, fact: Fact, describer: &Describer) -> (FactKey, bool) {
        match fact {
            Fact::Hit(hit) => {
                let key = HitKey {
                    opened_at: hit.opened_at,
                    event_id: hit.event_id,
                };
                let repeats = self.hits.contains_key(&key);
                self.hits.entry(key).or_insert_with(|| describer.describe(hit));
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
