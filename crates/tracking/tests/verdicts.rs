//! The step-by-step verdicts against the reference model, and the contract's rules by example.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tracking::{
    Fact, Hit, Mark, Rules, SuppressionReason, Timestamp, Token, Verdict,
    agents::Confidence,
    facts::new_id,
    model,
    verdicts::{HitKey, KnownHit, MARK_TTL_MS, MarkKey, Neighbourhood, NewHit, judge},
};

const START: i64 = 1_710_000_000_000;

fn hit(at: i64, tie: u8, agent: Option<&str>, referer: Option<&str>) -> Fact {
    let opened_at = Timestamp::from_millis(START + at);
    Fact::Hit(Hit {
        event_id: new_id(opened_at, [tie; 10]).unwrap(),
        opened_at,
        token: Token {
            user_id: format!("u{tie}"),
            email_id: "e".into(),
            recipient: "r".into(),
            sent_at: "s".into(),
            sender_email: tie.is_multiple_of(3).then(|| format!("sender{tie}")),
        },
        client_address: [203, 0, 113, 7].into(),
        user_agent: agent.map(str::to_owned),
        referer_host: referer.map(str::to_owned),
    })
}

fn mark(at: i64, tie: u8) -> Fact {
    let marked_at = Timestamp::from_millis(START + at);
    Fact::Mark(Mark {
        mark_id: new_id(marked_at, [tie; 10]).unwrap(),
        marked_at,
        email_id: "e".into(),
        client_address: [203, 0, 113, 9].into(),
        user_agent: None,
    })
}

/// One email as the recorder keeps it: judged batch by batch, seeing only what is near the new facts.
#[derive(Default)]
struct Stored {
    hits: BTreeMap<HitKey, KnownHit>,
    marks: BTreeSet<MarkKey>,
}

impl Stored {
    fn record(&mut self, rules: &Rules, batch: &[Fact]) {
        let mut new_hits: BTreeMap<HitKey, NewHit> = BTreeMap::new();
        let mut new_marks: BTreeSet<MarkKey> = BTreeSet::new();
        for fact in batch {
            match fact {
                Fact::Hit(hit) => {
                    let key = HitKey {
                        opened_at: hit.opened_at,
                        event_id: hit.event_id,
                    };
                    let compose_window =
                        rules.is_compose_window(hit.referer_host.as_deref(), hit.user_agent.as_deref());
                    new_hits.insert(
                        key,
                        NewHit {
                            key,
                            dedup_key: hit.dedup_key(),
                            compose_window,
                        },
                    );
                }
                Fact::Mark(mark) => {
                    new_marks.insert(MarkKey {
                        marked_at: mark.marked_at,
                        mark_id: mark.mark_id,
                    });
                }
            }
        }
        new_hits.retain(|key, _| !self.hits.contains_key(key));
        new_marks.retain(|key| !self.marks.contains(key));
        let times: Vec<Timestamp> = new_hits
            .keys()
            .map(|key| key.opened_at)
            .chain(new_marks.iter().map(|key| key.marked_at))
            .collect();
        let near = |at: Timestamp| {
            times
                .iter()
                .any(|new| at.millis_since(*new).abs() <= rules.reach_ms())
        };
        let neighbourhood = Neighbourhood {
            hits: self
                .hits
                .values()
                .filter(|hit| near(hit.key.opened_at))
                .copied()
                .collect(),
            marks: self
                .marks
                .iter()
                .filter(|mark| near(mark.marked_at))
                .copied()
                .collect(),
        };
        let new_hits: Vec<NewHit> = new_hits.into_values().collect();
        let new_marks: Vec<MarkKey> = new_marks.into_iter().collect();
        let judgement = judge(rules, &neighbourhood, &new_hits, &new_marks);
        for (hit, (key, verdict)) in new_hits.iter().zip(judgement.new) {
            assert_eq!(hit.key, key);
            self.hits.insert(
                key,
                KnownHit {
                    key,
                    dedup_key: hit.dedup_key,
                    verdict,
                    confidence: Confidence::Human,
                },
            );
        }
        for (key, before, after) in judgement.changed {
            let known = self.hits.get_mut(&key).unwrap();
            assert_eq!(known.verdict, before);
            known.verdict = after;
        }
        self.marks.extend(new_marks);
    }

    fn verdicts(&self) -> BTreeMap<uuid::Uuid, Verdict> {
        self.hits
            .values()
            .map(|hit| (hit.key.event_id, hit.verdict))
            .collect()
    }
}

fn reasons(facts: &[Fact]) -> Vec<Option<SuppressionReason>> {
    let email = model::emails(&Rules::default(), facts).remove("e").unwrap();
    let mut hits: Vec<&Fact> = facts.iter().filter(|fact| matches!(fact, Fact::Hit(_))).collect();
    hits.sort_by_key(|hit| (hit.at(), hit.id()));
    hits.iter()
        .map(|hit| email.verdicts[&hit.id()].suppression_reason())
        .collect()
}

#[test]
fn the_dedup_window_is_inclusive_and_slides() {
    use SuppressionReason::Duplicate;
    let at = |at| hit(at, 1, Some("a"), None);
    assert_eq!(reasons(&[at(0), at(30_000)]), [None, Some(Duplicate)]);
    assert_eq!(reasons(&[at(0), at(30_001)]), [None, None]);
    assert_eq!(
        reasons(&[at(0), at(20_000), at(40_000)]),
        [None, Some(Duplicate), Some(Duplicate)]
    );
}

#[test]
fn proxies_look_like_one_reader_and_absent_agents_too() {
    use SuppressionReason::Duplicate;
    let first = hit(0, 1, Some("x GoogleImageProxy"), None);
    assert_eq!(
        reasons(&[first, hit(5, 2, Some("via ggpht.com"), None)]),
        [None, Some(Duplicate)]
    );
    assert_eq!(
        reasons(&[hit(0, 1, None, None), hit(5, 2, None, None)]),
        [None, Some(Duplicate)]
    );
    assert_eq!(
        reasons(&[hit(0, 1, None, None), hit(5, 2, Some(""), None)]),
        [None, None]
    );
}

#[test]
fn one_mark_suppresses_the_one_hit_just_after_it() {
    use SuppressionReason::{Duplicate, MarkSuppressNext};
    let (a, b) = (|at| hit(at, 1, Some("a"), None), |at| hit(at, 2, Some("b"), None));
    assert_eq!(
        reasons(&[mark(0, 0), a(MARK_TTL_MS), b(MARK_TTL_MS + 1)]),
        [Some(MarkSuppressNext), None]
    );
    assert_eq!(reasons(&[mark(0, 0), a(MARK_TTL_MS + 1)]), [None]);
    assert_eq!(
        reasons(&[a(0), mark(0, 9)]),
        [Some(MarkSuppressNext)],
        "a mark precedes hits of its millisecond"
    );
    assert_eq!(
        reasons(&[mark(0, 0), mark(9_000, 1), a(15_000)]),
        [Some(MarkSuppressNext)],
        "a newer mark replaces"
    );
    assert_eq!(
        reasons(&[a(0), mark(1, 0), a(2), b(3)]),
        [None, Some(Duplicate), None],
        "a duplicate consumes it"
    );
}

#[test]
fn the_compose_window_is_the_senders_own_but_for_proxies() {
    use SuppressionReason::{ComposeWindow, MarkSuppressNext};
    let composing = |at, agent| hit(at, 1, Some(agent), Some("mail.google.com"));
    assert_eq!(reasons(&[composing(0, "Chrome")]), [Some(ComposeWindow)]);
    assert_eq!(reasons(&[composing(0, "GoogleImageProxy")]), [None]);
    assert_eq!(
        reasons(&[hit(0, 1, Some("Chrome"), Some("mail.example.com"))]),
        [None]
    );
    assert_eq!(
        reasons(&[mark(0, 0), composing(5, "Chrome")]),
        [Some(MarkSuppressNext)]
    );
    let reader = hit(9, 2, Some("b"), None);
    assert_eq!(
        reasons(&[mark(0, 0), composing(5, "Chrome"), reader]),
        [Some(MarkSuppressNext), None]
    );
}

#[test]
fn identity_is_the_earliest_hits_and_the_sender_the_earliest_named() {
    let emails = model::emails(
        &Rules::default(),
        &[hit(5, 3, None, None), hit(1, 1, None, None), mark(0, 9)],
    );
    let email = &emails["e"];
    assert_eq!(
        (email.user_id.as_str(), email.created_at.as_millis()),
        ("u1", START + 1)
    );
    assert_eq!(email.sender_email.as_deref(), Some("sender3"));
    assert!(model::emails(&Rules::default(), &[mark(0, 0)]).is_empty());
}

/// Times that crowd around the borders of both windows.
fn times() -> impl Strategy<Value = i64> {
    let borders = prop::sample::select(vec![
        0,
        1,
        9_999,
        10_000,
        10_001,
        29_999,
        30_000,
        30_001,
        60_000,
        86_400_000 * 365,
    ]);
    (borders.clone(), borders, -2_i64..3).prop_map(|(a, b, jitter)| a + b + jitter)
}

fn facts() -> impl Strategy<Value = Fact> {
    let agents = prop::sample::select(vec![
        None,
        Some("a"),
        Some("b"),
        Some("GoogleImageProxy"),
        Some("via ggpht.com"),
    ]);
    let referers = prop::sample::select(vec![None, Some("mail.google.com"), Some("example.com")]);
    prop_oneof![
        3 => (times(), 0_u8..4, agents, referers).prop_map(|(at, tie, agent, referer)| {
            hit(at, tie, agent, referer)
        }),
        1 => (times(), 0_u8..4).prop_map(|(at, tie)| mark(at, tie)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_order_and_any_batches_give_the_models_verdicts(
        facts in prop::collection::vec(facts(), 1..24).prop_shuffle(),
        cuts in prop::collection::vec(1_usize..6, 24),
        window in prop::sample::select(vec![0_i64, 1, 5_000, 30_000]),
    ) {
        let rules = Rules { dedup_window_ms: window, ..Rules::default() };
        // An id names one fact: of two with the same id, keep the first.
        let mut by_id = BTreeMap::new();
        for fact in &facts { by_id.entry(fact.id()).or_insert_with(|| fact.clone()); }
        let facts: Vec<Fact> = facts.iter().filter_map(|fact| by_id.get(&fact.id()).cloned()).collect();

        let mut stored = Stored::default();
        let mut rest = facts.as_slice();
        for cut in cuts {
            let (batch, after) = rest.split_at(cut.min(rest.len()));
            stored.record(&rules, batch);
            rest = after;
        }
        stored.record(&rules, rest);
        stored.record(&rules, &facts); // a full replay changes nothing

        let expected = model::emails(&rules, &facts).remove("e").map(|email| email.verdicts).unwrap_or_default();
        prop_assert_eq!(stored.verdicts(), expected);
    }
}
