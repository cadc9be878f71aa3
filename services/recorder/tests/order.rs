//! Verdicts free of order: whatever order, batches, replays and concurrent recorders facts come through, the tables say
//! what the reference model says.
//!
//! `ORDER_CASES=5000 cargo test -p recorder --test order` runs longer; a failure prints the seed for `ORDER_SEED`, and the
//! smallest facts and deliveries that still fail.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use common::{
    announces, facts as fact_list, fresh_database, hit, mark, recorder, stored_emails, stored_marks,
};
use proptest::{
    prelude::*,
    test_runner::{FileFailurePersistence, RngSeed, TestRunner},
};
use recorder::Recorder;
use recorder_api::Outcome;
use tokio_postgres::Client;
use tracking::{Fact, Rules, Timestamp, Verdict, model};

const EMAILS: u8 = 3;
const RECORDERS: usize = 4;
/// Dedup windows: none to speak of, and the default.
const WINDOWS: [i64; 2] = [0, 30_000];

/// A fact without its email's full name, which is another one in each case.
#[derive(Clone, Debug)]
struct Sketch {
    email: u8,
    at: i64,
    tie: u8,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Hit {
        agent: Option<&'static str>,
        referer: Option<&'static str>,
        sender: bool,
    },
    Mark,
}

/// How facts reach the recorders.
#[derive(Clone, Debug)]
struct Delivery {
    recorders: usize,
    /// The order of the facts, by index; some are repeated.
    order: Vec<prop::sample::Index>,
    /// Where batches end, and which recorder gets each.
    batches: Vec<(usize, prop::sample::Index)>,
}

impl Sketch {
    fn fact(&self, prefix: &str) -> Fact {
        let email_id = format!("{prefix}{}", self.email);
        let at = Timestamp::from_millis(self.at);
        match self.kind {
            Kind::Mark => Fact::Mark(mark(&email_id, at, self.tie)),
            Kind::Hit {
                agent,
                referer,
                sender,
            } => {
                let mut hit = hit(&email_id, at, self.tie);
                hit.user_agent = agent.map(str::to_owned);
                hit.referer_host = referer.map(str::to_owned);
                hit.token.sender_email = sender.then(|| format!("sender{}@example.com", self.tie));
                Fact::Hit(hit)
            }
        }
    }

    /// What names it: of two facts of one name, the first is the fact.
    fn name(&self) -> (u8, i64, u8, bool) {
        (self.email, self.at, self.tie, matches!(self.kind, Kind::Mark))
    }
}

/// Times that crowd around a month's border and the borders of both windows, now and years before.
fn times() -> impl Strategy<Value = i64> {
    let month = Timestamp::parse_iso("2026-03-01T00:00:00Z").unwrap().as_millis();
    let eras = prop::sample::select(vec![0, 0, 0, 0, -365 * 86_400_000, -4 * 365 * 86_400_000]);
    let steps = prop::sample::select(vec![0, 1, 9_999, 10_000, 10_001, 29_999, 30_000, 30_001, 60_000]);
    (eras, steps.clone(), steps, -2_i64..3)
        .prop_map(move |(era, before, after, jitter)| month + era - before + after + jitter)
}

fn sketches() -> impl Strategy<Value = Vec<Sketch>> {
    let agents = prop::sample::select(vec![
        None,
        Some("a"),
        Some("b"),
        Some("GoogleImageProxy"),
        Some("via ggpht.com"),
    ]);
    let referers = prop::sample::select(vec![None, None, Some("mail.google.com"), Some("example.com")]);
    let kinds = prop_oneof![
        3 => (agents, referers, any::<bool>())
            .prop_map(|(agent, referer, sender)| Kind::Hit { agent, referer, sender }),
        1 => Just(Kind::Mark),
    ];
    let sketch = (0..EMAILS, times(), 0_u8..3, kinds).prop_map(|(email, at, tie, kind)| Sketch {
        email,
        at,
        tie,
        kind,
    });
    prop::collection::vec(sketch, 1..28).prop_map(|sketches| {
        let mut names = BTreeSet::new();
        sketches
            .into_iter()
            .filter(|sketch| names.insert(sketch.name()))
            .collect()
    })
}

fn deliveries() -> impl Strategy<Value = Delivery> {
    (
        1..=RECORDERS,
        prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        prop::collection::vec((1_usize..7, any::<prop::sample::Index>()), 60),
    )
        .prop_map(|(recorders, order, batches)| Delivery {
            recorders,
            order,
            batches,
        })
}

/// The indexes of all facts, in some order, with some repeated.
fn order_of(count: usize, delivery: &Delivery) -> Vec<usize> {
    let mut order: Vec<usize> = delivery.order.iter().map(|index| index.index(count)).collect();
    let missing: Vec<usize> = (0..count).filter(|index| !order.contains(index)).collect();
    for (index, at) in missing.into_iter().zip(delivery.order.iter().cycle()) {
        order.insert(at.index(order.len() + 1), index);
    }
    let missing: Vec<usize> = (0..count).filter(|index| !order.contains(index)).collect();
    order.extend(missing); // no order was given at all
    order
}

/// Cuts `facts` into batches, and gives each to a recorder.
fn batches_of(facts: &[Fact], delivery: &Delivery) -> Vec<Vec<Vec<Fact>>> {
    let order = order_of(facts.len(), delivery);
    let mut batches = vec![Vec::new(); delivery.recorders];
    let mut rest = order.as_slice();
    for (size, recorder) in delivery.batches.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (batch, after) = rest.split_at((*size).min(rest.len()));
        batches[recorder.index(delivery.recorders)]
            .push(batch.iter().map(|index| facts[*index].clone()).collect());
        rest = after;
    }
    batches
}

/// What a case is a test of. How often each came up is told at the end, and too seldom is a failure: a generator that no
/// longer reaches a case would make this test say nothing about it.
const FEATURES: [&str; 14] = [
    "clocks disagree: an email's facts come in another order than that of their times",
    "hits of one email in one millisecond",
    "a mark and a hit of one email in one millisecond",
    "a mark that suppresses a hit",
    "a mark after its email's last hit",
    "marks of an email without hits",
    "a hit that consumes a mark and is a duplicate",
    "a hit of the compose window",
    "an open that a late fact withdraws",
    "facts of one email that are years apart",
    "hits of one email on both sides of a month's border, within a window",
    "a fact delivered more than once",
    "more than one batch of one recorder",
    "several recorders at once",
];

#[derive(Default)]
struct Coverage([AtomicUsize; FEATURES.len()]);

impl Coverage {
    fn count(&self, rules: &Rules, facts: &[Fact], batches: &[Vec<Vec<Fact>>]) {
        let emails = model::emails(rules, facts);
        let times = |email_id: &str, hits: bool| -> Vec<i64> {
            let of_email = facts
                .iter()
                .filter(|fact| fact.email_id() == email_id && matches!(fact, Fact::Hit(_)) == hits);
            let mut times: Vec<i64> = of_email.map(|fact| fact.at().as_millis()).collect();
            times.sort_unstable();
            times
        };
        let email_ids: BTreeSet<&str> = facts.iter().map(Fact::email_id).collect();
        let any = |is_so: &dyn Fn(&[i64], &[i64]) -> bool| {
            email_ids
                .iter()
                .any(|email_id| is_so(&times(email_id, true), &times(email_id, false)))
        };
        let any_verdict = |is_so: &dyn Fn(&Verdict) -> bool| {
            emails
                .values()
                .flat_map(|email| email.verdicts.values())
                .any(is_so)
        };
        let border = Timestamp::parse_iso("2026-03-01T00:00:00Z").unwrap().as_millis();
        let year = 360 * 86_400_000;
        let delivered: Vec<&Fact> = batches.iter().flatten().flatten().collect();
        let by_recorder_in_order = |facts: &[&Fact]| {
            email_ids.iter().all(|email_id| {
                let of_email = facts.iter().filter(|fact| fact.email_id() == *email_id);
                of_email.map(|fact| fact.at()).is_sorted()
            })
        };
        let is_covered = [
            !by_recorder_in_order(&delivered),
            any(&|hits, _| hits.windows(2).any(|pair| pair[0] == pair[1])),
            any(&|hits, marks| marks.iter().any(|mark| hits.contains(mark))),
            any_verdict(&|verdict| verdict.consumed_mark.is_some()),
            any(&|hits, marks| !hits.is_empty() && marks.last() > hits.last()),
            any(&|hits, marks| hits.is_empty() && !marks.is_empty()),
            any_verdict(&|verdict| verdict.consumed_mark.is_some() && verdict.is_duplicate),
            any_verdict(&|verdict| verdict.compose_window),
            withdraws_an_open(rules, &delivered),
            any(&|hits, _| {
                hits.last()
                    .zip(hits.first())
                    .is_some_and(|(last, first)| last - first > year)
            }),
            any(&|hits, _| {
                hits.windows(2).any(|pair| {
                    pair[0] < border && border <= pair[1] && pair[1] - pair[0] <= rules.dedup_window_ms
                })
            }),
            delivered.len() > facts.len(),
            batches.iter().any(|batches| batches.len() > 1),
            batches.iter().filter(|batches| !batches.is_empty()).count() > 1,
        ];
        for (count, is_covered) in self.0.iter().zip(is_covered) {
            count.fetch_add(usize::from(is_covered), Ordering::Relaxed);
        }
    }

    /// Tells how many cases had each feature, and sees to it that each was in at least one of a hundred.
    #[expect(
        clippy::print_stdout,
        reason = "shown when the test fails or is asked to tell"
    )]
    fn tell(&self, cases: usize) {
        for (count, feature) in self.0.iter().zip(FEATURES) {
            let count = count.load(Ordering::Relaxed);
            println!("{count:6} of {cases}: {feature}");
            assert!(count >= cases / 100, "{count} of {cases}: {feature}");
        }
    }
}

/// Whether the open count of an email goes down on the way.
fn withdraws_an_open(rules: &Rules, delivered: &[&Fact]) -> bool {
    let mut so_far = Vec::new();
    let mut before = BTreeMap::new();
    delivered.iter().any(|fact| {
        so_far.push((*fact).clone());
        let opens: BTreeMap<String, i64> = model::emails(rules, &so_far)
            .into_iter()
            .map(|(email_id, email)| (email_id, email.open_count))
            .collect();
        let withdrawn = opens
            .iter()
            .any(|(email_id, opens)| before.get(email_id).is_some_and(|before| before > opens));
        before = opens;
        withdrawn
    })
}

/// Each recorder takes its batches one after the other, all recorders at once; answers how many facts became recorded.
async fn deliver(recorders: &[Recorder], batches: Vec<Vec<Vec<Fact>>>) -> usize {
    let running: Vec<_> = recorders
        .iter()
        .cloned()
        .zip(batches)
        .map(|(recorder, batches)| {
            tokio::spawn(async move {
                let mut recorded = 0;
                for batch in batches {
                    let count = batch.len();
                    let outcomes = recorder.record(batch).await.unwrap();
                    assert_eq!(outcomes.len(), count);
                    recorded += outcomes
                        .iter()
                        .filter(|outcome| **outcome == Outcome::Recorded)
                        .count();
                }
                recorded
            })
        })
        .collect();
    let mut recorded = 0;
    for recorder in running {
        recorded += recorder.await.unwrap();
    }
    recorded
}

async fn check(
    client: &Client,
    rules: &Rules,
    recorders: &[Recorder],
    prefix: &str,
    facts: Vec<Fact>,
    batches: Vec<Vec<Vec<Fact>>>,
) -> Result<(), TestCaseError> {
    let recorded = deliver(recorders, batches).await;
    prop_assert_eq!(
        recorded,
        facts.len(),
        "each fact is recorded by exactly one delivery"
    );

    let expected = model::emails(rules, &facts);
    prop_assert_eq!(stored_emails(client, prefix).await, expected);
    let mut marks: Vec<_> = facts
        .iter()
        .filter(|fact| matches!(fact, Fact::Mark(_)))
        .map(|fact| (fact.email_id().to_owned(), fact.id()))
        .collect();
    marks.sort_unstable();
    prop_assert_eq!(stored_marks(client, prefix).await, marks);

    let again = deliver(&recorders[..1], vec![vec![facts.clone()]]).await;
    prop_assert_eq!(again, 0, "a full replay records nothing");
    prop_assert_eq!(stored_emails(client, prefix).await, model::emails(rules, &facts));
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a test's own switches are no settings")]
fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn any_order_batches_replays_and_recorders_give_the_models_tables() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let database = runtime.block_on(fresh_database());
    let client = runtime.block_on(database.superuser());
    let recorders: BTreeMap<i64, (Rules, Vec<Recorder>)> = WINDOWS
        .iter()
        .map(|&dedup_window_ms| {
            let rules = Rules {
                dedup_window_ms,
                ..Rules::default()
            };
            let recorders = (0..RECORDERS)
                .map(|number| recorder(&database, &format!("r{number}"), &rules))
                .collect();
            (dedup_window_ms, (rules, recorders))
        })
        .collect();

    let seed = number_from_environment("ORDER_SEED").unwrap_or_else(rand::random);
    let cases = number_from_environment("ORDER_CASES").unwrap_or(250);
    println!("ORDER_SEED={seed} ORDER_CASES={cases}");
    let config = ProptestConfig {
        cases: cases.try_into().unwrap(),
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: Some(Box::new(FileFailurePersistence::Off)),
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    };
    let (runs, coverage) = (AtomicUsize::new(0), Coverage::default());
    let outcome = TestRunner::new(config).run(
        &(sketches(), deliveries(), prop::sample::select(WINDOWS.to_vec())),
        |(sketches, delivery, window)| {
            let prefix = format!("case{}/", runs.fetch_add(1, Ordering::Relaxed));
            let (rules, recorders) = &recorders[&window];
            let recorders = &recorders[..delivery.recorders];
            let facts: Vec<Fact> = sketches.iter().map(|sketch| sketch.fact(&prefix)).collect();
            let batches = batches_of(&facts, &delivery);
            coverage.count(rules, &facts, &batches);
            runtime.block_on(check(&client, rules, recorders, &prefix, facts, batches))
        },
    );
    if let Err(failure) = outcome {
        panic!("ORDER_SEED={seed}: {failure}");
    }
    coverage.tell(runs.into_inner());
}

/// A mark of an email that nobody has heard of, and its first hit, at the same moment through two recorders.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_and_the_first_hit_of_an_unknown_email_meet() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let rules = Rules::default();
    let recorders = [
        recorder(&database, "one", &rules),
        recorder(&database, "two", &rules),
    ];
    let now = common::at("2026-03-01T00:00:00Z");
    for round in 0..60 {
        let email_id = format!("unknown{round}/");
        let marks = fact_list([], [mark(&email_id, now, 1)]);
        let hits = fact_list([hit(&email_id, now.saturating_add_millis(round * 300), 2)], []);
        let all: Vec<Fact> = marks.iter().chain(&hits).cloned().collect();
        let (one, two) = (recorders[0].clone(), recorders[1].clone());
        let (one, two) = tokio::join!(
            tokio::spawn(async move { one.record(marks).await }),
            tokio::spawn(async move { two.record(hits).await })
        );
        assert_eq!(one.unwrap().unwrap(), [Outcome::Recorded]);
        assert_eq!(two.unwrap().unwrap(), [Outcome::Recorded]);
        assert_eq!(
            stored_emails(&client, &email_id).await,
            model::emails(&rules, &all),
            "round {round}"
        );
    }
}

/// One recorder makes a month's partition and stores its first hit, while another one waits, in the first transaction of
/// its connection, for an email that comes before that hit's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mark_that_waits_meets_the_first_hit_of_a_month() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let other = database.superuser().await;
    let rules = Rules::default();
    let first = recorder(&database, "first", &rules);
    let known_at = common::at("2026-03-01T00:00:00Z");
    // Whether both emails are in one transaction of the waiting recorder is up to their hashes.
    for round in 0..12 {
        let begin = common::at(&format!("{}-03-01T00:00:00Z", 2000 + round));
        let (held, email_id) = (format!("round{round}/a"), format!("round{round}/b"));
        let known = fact_list([hit(&held, known_at, 1), hit(&email_id, known_at, 2)], []);
        first.record(known.clone()).await.unwrap();
        let late = fact_list([hit(&email_id, begin, 3)], []);
        let marks = fact_list(
            [],
            [
                mark(&held, known_at, 4),
                mark(&email_id, begin.saturating_add_millis(-9_999), 5),
            ],
        );
        let all: Vec<Fact> = known.iter().chain(&late).chain(&marks).cloned().collect();

        other
            .batch_execute(&format!(
                "begin; select from tracked_emails where email_id = '{held}' for update"
            ))
            .await
            .unwrap();
        let second = recorder(&database, &format!("second{round}"), &rules);
        let waiting = tokio::spawn(async move { second.record(marks).await });
        test_support::eventually("it waits for the email", async || {
            (common::waiting(&client).await == 1).then_some(())
        })
        .await;
        let storing = tokio::spawn({
            let first = first.clone();
            async move { first.record(late).await }
        });
        // A transaction that has locked hits already is waited for before the new month takes a hit.
        test_support::eventually("the hit is stored, or waits for who waits", async || {
            (storing.is_finished() || announces(&client, |_| true).await).then_some(())
        })
        .await;
        other.batch_execute("commit").await.unwrap();
        waiting.await.unwrap().unwrap();
        storing.await.unwrap().unwrap();
        let prefix = format!("round{round}/");
        assert_eq!(
            stored_emails(&client, &prefix).await,
            model::emails(&rules, &all),
            "round {round}"
        );
    }
}
