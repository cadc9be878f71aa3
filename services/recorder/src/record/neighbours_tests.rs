//! Where to look, and that what is dropped does not matter.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use proptest::prelude::*;
use tracking::{
    Fact, Hit, Mark, Rules, Token, Verdict,
    agents::{Agents, Confidence},
    facts::new_id,
    verdicts::{MARK_TTL_MS, Neighbourhood},
};

use super::*;
use crate::{
    describe::Describer,
    device::Devices,
    geo::{Geo, GeoDatabase},
    record::verdicts::{Judged, judge_email},
};

static DESCRIBER: LazyLock<Describer> = LazyLock::new(|| {
    let geo = Geo::open(GeoDatabase::Off).unwrap();
    Describer::new(Devices::new().unwrap(), Arc::new(geo), Agents::default())
});

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

fn hit(at: i64, tie: u8, agent: &str) -> Hit {
    let opened_at = Timestamp::from_millis(at);
    Hit {
        event_id: new_id(opened_at, [tie; 10]).unwrap(),
        opened_at,
        token: Token {
            user_id: "u".into(),
            email_id: "e".into(),
            recipient: "r".into(),
            sent_at: "s".into(),
            sender_email: None,
        },
        client_address: [203, 0, 113, 7].into(),
        user_agent: Some(agent.to_owned()),
        referer_host: None,
    }
}

fn mark(at: i64, tie: u8) -> Mark {
    let marked_at = Timestamp::from_millis(at);
    let mark_id = new_id(marked_at, [tie; 10]).unwrap();
    Mark {
        mark_id,
        marked_at,
        email_id: "e".into(),
        client_address: [203, 0, 113, 7].into(),
        user_agent: None,
    }
}

fn known(hit: &Hit, is_duplicate: bool) -> KnownHit {
    KnownHit {
        key: HitKey {
            opened_at: hit.opened_at,
            event_id: hit.event_id,
        },
        dedup_key: hit.dedup_key(),
        verdict: Verdict {
            is_duplicate,
            ..Verdict::default()
        },
        confidence: Confidence::Human,
    }
}

/// What a judgement says, in a form to compare.
fn said(email: &Judged<'_>) -> String {
    let new: Vec<_> = email
        .new_hits
        .iter()
        .map(|hit| (hit.described.key(), hit.verdict))
        .collect();
    let marks: Vec<_> = email.new_marks.iter().map(|mark| mark.mark_id).collect();
    format!("{new:?} {marks:?} {:?}", email.corrected)
}

fn hits(most: usize) -> impl Strategy<Value = Vec<(i64, u8, &'static str)>> {
    let agents = prop::sample::select(vec!["a", "b", "GoogleImageProxy"]);
    prop::collection::vec((0_i64..40_000, 0_u8..3, agents), 0..most)
}

fn marks(most: usize) -> impl Strategy<Value = Vec<(i64, u8)>> {
    prop::collection::vec((0_i64..40_000, 0_u8..3), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_dropped_changes_no_verdict(
        stored_hits in hits(60), stored_marks in marks(20), new_hits in hits(8), new_marks in marks(4),
        replays in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        duplicates in prop::collection::vec(any::<bool>(), 60),
        window in prop::sample::select(vec![0_i64, 500, 5_000, MARK_TTL_MS]),
    ) {
        let rules = Rules { dedup_window_ms: window, ..Rules::default() };
        let mut by_key = BTreeMap::new();
        for ((at, tie, agent), is_duplicate) in stored_hits.iter().zip(duplicates) {
            let hit = hit(*at, *tie, agent);
            by_key.entry(known(&hit, is_duplicate).key).or_insert((known(&hit, is_duplicate), hit));
        }
        let mut batch: Vec<Fact> = new_hits.iter().map(|(at, tie, agent)| Fact::Hit(hit(*at, *tie, agent))).collect();
        batch.extend(new_marks.iter().map(|(at, tie)| Fact::Mark(mark(*at, *tie))));
        let stored: Vec<_> = by_key.values().collect();
        if !stored.is_empty() {
            batch.extend(replays.iter().map(|index| Fact::Hit(index.get(&stored).1.clone())));
        }
        prop_assume!(!batch.is_empty());
        let batch = Batch::of(batch, &DESCRIBER);

        let mut hits: Vec<KnownHit> = stored.iter().map(|(known, _)| *known).collect();
        let mut marks: Vec<MarkKey> = stored_marks
            .iter()
            .map(|(at, tie)| mark(*at, *tie))
            .map(|mark| MarkKey { marked_at: mark.marked_at, mark_id: mark.mark_id })
            .collect();
        marks.sort_unstable();
        marks.dedup();
        let all = Neighbourhood { hits: hits.clone(), marks: marks.clone() };
        let facts = &batch.emails[0];
        KnownHit::drop_needless(&mut hits, facts, window);
        MarkKey::drop_needless(&mut marks, facts, window);
        let few = Neighbourhood { hits, marks };
        prop_assert_eq!(said(&judge_email(&rules, facts, &few)), said(&judge_email(&rules, facts, &all)));
    }
}

#[test]
fn what_is_kept_of_a_hot_email_depends_on_the_batch_alone() {
    let batch = Batch::of(
        vec![Fact::Hit(hit(29_990, 1, "a")), Fact::Mark(mark(29_995, 1))],
        &DESCRIBER,
    );
    let mut hits = Gathering::new(&batch, 30_000);
    let mut marks = Gathering::new(&batch, 30_000);
    for at in 0..30_000 {
        hits.add(
            0,
            known(&hit(at, 2, ["a", "b"][usize::from(at % 2 == 0)]), at > 1),
        );
        let mark = mark(at, 2);
        marks.add(
            0,
            MarkKey {
                marked_at: mark.marked_at,
                mark_id: mark.mark_id,
            },
        );
    }
    let (hits, marks) = (hits.by_email(), marks.by_email());
    assert!(
        hits[0].len() < MANY && marks[0].len() < MANY,
        "{} {}",
        hits[0].len(),
        marks[0].len()
    );
}
