//! Two recorders with facts of one email at the same moment: the first is held up at its commit, when it has read and
//! written everything, and the second begins. Whatever it reads too early shows in the verdicts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod common;

use common::{HeldCommits, at, facts, fresh_database, hit, mark, recorder, stored_emails};
use recorder_api::Outcome;
use test_support::eventually;
use tracking::{Fact, Hit, Mark, Rules, Timestamp, model};

fn later(millis: i64) -> Timestamp {
    at("2026-03-01T00:00:00Z").saturating_add_millis(millis)
}

fn hit_at(email_id: &str, millis: i64) -> Fact {
    Fact::Hit(hit(email_id, later(millis), 1))
}

fn mark_at(email_id: &str, millis: i64) -> Fact {
    Fact::Mark(mark(email_id, later(millis), 1))
}

/// What it shows, and the two facts of an email.
type Pair = (&'static str, fn(&str) -> [Fact; 2]);

/// Gives each pair to two recorders, the second while the first is at its commit; for an email that nobody has heard of,
/// and for one with a hit of another day.
async fn in_turns(pairs: &[Pair]) {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let rules = Rules::default();
    let recorders = [
        recorder(&database, "one", &rules),
        recorder(&database, "two", &rules),
    ];
    for (number, recorder) in recorders.iter().enumerate() {
        let known = pairs
            .iter()
            .map(|(name, _)| hit(&format!("known {number} {name}"), later(-86_400_000), 1));
        recorder.record(facts(known, [])).await.unwrap(); // Partitions and plans are made.
    }
    let commits = HeldCommits::of(&database).await;
    commits.release().await;
    for (name, pair) in pairs {
        for email_id in [format!("new {name}"), format!("known 0 {name}")] {
            commits.hold().await;
            let [first, second] = pair(&email_id);
            let begin = |number: usize, fact: &Fact| {
                let (recorder, batch) = (recorders.get(number).unwrap().clone(), vec![fact.clone()]);
                tokio::spawn(async move { recorder.record(batch).await })
            };
            let one = begin(0, &first);
            eventually("the first is at its commit", async || {
                (commits.waiting().await == 1).then_some(())
            })
            .await;
            let two = begin(1, &second);
            eventually("the second waits, or does not", async || {
                (two.is_finished() || commits.waiting().await == 2).then_some(())
            })
            .await;
            commits.release().await;
            assert_eq!(one.await.unwrap().unwrap(), [Outcome::Recorded], "{email_id}");
            assert_eq!(two.await.unwrap().unwrap(), [Outcome::Recorded], "{email_id}");

            let mut all = vec![first, second];
            if email_id.starts_with("known") {
                all.push(hit_at(&email_id, -86_400_000));
            }
            assert_eq!(
                stored_emails(&client, &email_id).await,
                model::emails(&rules, &all),
                "{email_id}"
            );
        }
    }
}

#[tokio::test]
async fn a_mark_and_the_hit_it_suppresses_wait_for_each_other() {
    in_turns(&[
        ("hit, then its mark", |email_id| {
            [hit_at(email_id, 1_000), mark_at(email_id, 0)]
        }),
        ("mark, then its hit", |email_id| {
            [mark_at(email_id, 0), hit_at(email_id, 1_000)]
        }),
        ("mark and hit of one millisecond", |email_id| {
            [mark_at(email_id, 0), hit_at(email_id, 0)]
        }),
    ])
    .await;
}

#[tokio::test]
async fn a_hit_and_its_duplicate_wait_for_each_other() {
    in_turns(&[
        ("hit, then its duplicate", |email_id| {
            [hit_at(email_id, 0), hit_at(email_id, 30_000)]
        }),
        ("duplicate, then what it repeats", |email_id| {
            [hit_at(email_id, 30_000), hit_at(email_id, 0)]
        }),
        ("a tie", |email_id| {
            [
                Fact::Hit(hit(email_id, later(0), 2)),
                Fact::Hit(hit(email_id, later(0), 1)),
            ]
        }),
    ])
    .await;
}

/// The same fact through both, as after a time-out: it is stored once, and only one of them says that it was new.
#[tokio::test]
async fn one_fact_given_to_two_recorders_is_recorded_by_one() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let rules = Rules::default();
    let recorders = [
        recorder(&database, "one", &rules),
        recorder(&database, "two", &rules),
    ];
    let (hit, mark): (Hit, Mark) = (hit("a", later(1_000), 1), mark("a", later(0), 1));
    let batch = facts([hit], [mark]);
    let commits = HeldCommits::of(&database).await;
    let begin = |number: usize| {
        let (recorder, batch) = (recorders.get(number).unwrap().clone(), batch.clone());
        tokio::spawn(async move { recorder.record(batch).await })
    };
    let one = begin(0);
    eventually("the first is at its commit", async || {
        (commits.waiting().await == 1).then_some(())
    })
    .await;
    let two = begin(1);
    eventually("the second waits", async || {
        (two.is_finished() || commits.waiting().await == 2).then_some(())
    })
    .await;
    commits.release().await;
    assert_eq!(one.await.unwrap().unwrap(), [Outcome::Recorded; 2]);
    assert_eq!(two.await.unwrap().unwrap(), [Outcome::AlreadyKnown; 2]);
    assert_eq!(stored_emails(&client, "a").await, model::emails(&rules, &batch));
}
