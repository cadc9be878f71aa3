//! Where emails lie in shards, no transaction holds those of two, and what is stored is the same as anywhere.
//!
//! Citus itself is not needed: a stand-in in plain PostgreSQL refuses what Citus would.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{collections::BTreeSet, time::Duration};

use common::{at, facts, fresh_database, hit, mark, recorder, revision, stored_emails};
use database::Config;
use recorder::{Recorder, Removed, Shortened, Subject};
use recorder_api::Outcome;
use test_support::{CITUS_STAND_IN, TestDatabase};
use tokio_postgres::{Client, error::SqlState};
use tracking::{Fact, Rules, model, recipients::Address};

const SHARDS: u16 = 8;

/// As a server is that has loaded Citus, before any database of it is distributed.
async fn load_citus(database: &TestDatabase) {
    let statement = "do $$ begin execute format('alter database %I set citus.shard_count = 32', current_database()); end $$";
    database.superuser().await.batch_execute(statement).await.unwrap();
}

async fn distribute(database: &TestDatabase) -> Client {
    let client = database.superuser().await;
    client.batch_execute(CITUS_STAND_IN).await.unwrap();
    let owner = Config::new("DATABASE_URL", &database.url()).unwrap();
    database::distribute(&owner, SHARDS).await.unwrap();
    client
}

/// Thirty emails' facts over two months: hits that count, duplicates, hits that marks consume, marks alone.
fn many() -> Vec<Fact> {
    let (january, march) = (at("2026-01-10T00:00:00.000Z"), at("2026-03-10T00:00:00.000Z"));
    (0..30)
        .flat_map(|email| {
            let email_id = format!("email {email}");
            let later = |at: tracking::Timestamp, millis| at.saturating_add_millis(millis);
            let mut hits = vec![
                hit(&email_id, january, 1),
                hit(&email_id, later(january, 5_000), 2),
            ];
            if email % 2 == 0 {
                hits.push(hit(&email_id, later(march, 2_000), 3));
            }
            let marks = [
                mark(&email_id, march, 4),
                mark(&format!("marked {email}"), january, 5),
            ];
            facts(hits, marks)
        })
        .collect()
}

async fn shards_in_use(client: &Client) -> BTreeSet<i64> {
    let statement = "select distinct get_shard_id_for_distribution_column('tracked_emails', email_id) from tracked_emails";
    let rows = client.query(statement, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn record(recorder: &Recorder, facts: &[Fact]) -> Vec<Outcome> {
    recorder.record(facts.to_vec()).await.unwrap()
}

#[tokio::test]
async fn a_batch_is_recorded_shard_by_shard_in_any_order() {
    let database = fresh_database().await;
    let client = distribute(&database).await;
    let recorder = recorder(&database, "r", &Rules::default());
    let all = many();
    // The later half first, so that verdicts are corrected as well.
    let (first, second) = all.split_at(all.len() / 2);
    let mut second = second.to_vec();
    second.reverse();
    assert!(
        record(&recorder, &second)
            .await
            .iter()
            .all(|outcome| *outcome == Outcome::Recorded)
    );
    record(&recorder, first).await;
    let expected = model::emails(&Rules::default(), &all);
    assert_eq!(stored_emails(&client, "").await, expected);
    assert_eq!(
        shards_in_use(&client).await.len(),
        usize::from(SHARDS),
        "all shards were used"
    );

    // The lists count as changed even if nothing was new: the shard may have committed, and the revision not.
    let before = revision(&client).await;
    assert!(
        record(&recorder, first)
            .await
            .iter()
            .all(|outcome| *outcome == Outcome::AlreadyKnown)
    );
    assert!(revision(&client).await > before);
    assert_eq!(stored_emails(&client, "").await, expected);
}

#[tokio::test]
async fn what_comes_out_of_order_is_judged_as_anywhere() {
    let database = fresh_database().await;
    let client = distribute(&database).await;
    let recorder = recorder(&database, "r", &Rules::default());
    let mut all = many();
    all.reverse();
    for fact in &all {
        record(&recorder, std::slice::from_ref(fact)).await;
    }
    assert_eq!(
        stored_emails(&client, "").await,
        model::emails(&Rules::default(), &all)
    );
}

#[tokio::test]
async fn a_recorder_that_runs_while_the_tables_are_distributed_goes_on_after_one_refusal() {
    let database = fresh_database().await;
    load_citus(&database).await;
    let recorder = recorder(&database, "r", &Rules::default());
    let all = many();
    let (first, second) = all.split_at(all.len() / 2);
    record(&recorder, first).await;

    let client = distribute(&database).await;
    let refused = recorder.record(second.to_vec()).await.unwrap_err();
    assert_eq!(refused.sqlstate(), Some(&SqlState::FEATURE_NOT_SUPPORTED));
    record(&recorder, second).await;
    assert_eq!(
        stored_emails(&client, "").await,
        model::emails(&Rules::default(), &all)
    );
}

#[tokio::test]
async fn upkeep_goes_shard_by_shard() {
    let database = fresh_database().await;
    let client = distribute(&database).await;
    let recorder = recorder(&database, "r", &Rules::default());
    record(&recorder, &many()).await;
    let floor = at("2026-03-15T12:00:00.000Z");

    let shortened = recorder.shorten_addresses(floor, 1_000).await.unwrap();
    let expected = Shortened {
        hits: 75,
        marks: 60,
        more: false,
    };
    assert_eq!(shortened, expected);
    let full = "select count(*) from (select client_address from hits union all select client_address from marks) as a
                where host(client_address) <> '203.0.113.0'";
    assert_eq!(client.query_one(full, &[]).await.unwrap().get::<_, i64>(0), 0);

    let removed = recorder.remove_older_than(floor, false).await.unwrap();
    // Those with a hit or a mark of March stay.
    assert_eq!(
        removed,
        Removed {
            months: 1,
            marks: 30,
            emails: 0
        }
    );
    let left: i64 = client
        .query_one("select count(*) from tracked_emails", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(left, 30);
    let removed = recorder
        .remove_older_than(at("2026-04-01T00:00:00.000Z"), false)
        .await
        .unwrap();
    assert_eq!(
        removed,
        Removed {
            months: 1,
            marks: 30,
            emails: 30
        }
    );
}

#[tokio::test]
async fn erasing_goes_shard_by_shard() {
    let database = fresh_database().await;
    let client = distribute(&database).await;
    let recorder = recorder(&database, "r", &Rules::default());
    let all = many();
    record(&recorder, &all).await;
    let subject = Subject::Recipient(Address::new("recipient1@example.com").unwrap());
    let patience = Duration::from_mins(1);
    let done = recorder
        .erase(&subject, at("2026-03-20T00:00:00Z"), patience)
        .await
        .unwrap();
    assert!(done.is_complete);
    assert_eq!((done.erased.emails, done.erased.hits), (30, 75));
    let kept: Vec<Fact> = all
        .iter()
        .filter(|fact| fact.email_id().starts_with("marked"))
        .cloned()
        .collect();
    for (fact, outcome) in all.iter().zip(record(&recorder, &all).await) {
        let is_kept = fact.email_id().starts_with("marked");
        assert_eq!(outcome == Outcome::Erased, !is_kept, "{fact:?}");
    }
    assert_eq!(
        stored_emails(&client, "").await,
        model::emails(&Rules::default(), &kept)
    );
}
