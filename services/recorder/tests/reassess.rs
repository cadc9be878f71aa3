//! Who made stored hits is found anew, and the counters follow; also while facts come, in shards, and after a cut.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::IpAddr;

use common::{
    at, facts, fresh_database, hit, log_plans, mark, migrate, planned_on_indexes, recorder,
    recorder_of_workers, revision, stored_emails,
};
use recorder::{Reclassified, Recorder};
use test_support::{CITUS_STAND_IN, PrivatePostgres, TestDatabase};
use tokio_postgres::Client;
use tracking::{
    Fact, Hit, Rules, Timestamp,
    agents::{Agent, Agents},
    model,
};

/// Networks that make scanners of what `common::hit` comes from.
fn stricter() -> Rules {
    Rules {
        agents: Agents::with_networks("scanner\t203.0.113.0/24").unwrap(),
        ..Rules::default()
    }
}

fn now() -> Timestamp {
    at("2026-06-01T00:00:00.000Z")
}

/// Hits that count, duplicates, and some that marks consume, of `count` emails.
fn some(count: u32) -> Vec<Fact> {
    (0..count)
        .flat_map(|email| {
            let email_id = format!("e{email}");
            let first = at("2026-03-01T12:00:00.000Z").saturating_add_millis(i64::from(email) * 100_000);
            let hits = [
                hit(&email_id, first, 1),
                hit(&email_id, first.saturating_add_millis(1_000), 2),
                hit(&email_id, first.saturating_add_millis(60_000), 3),
                Hit {
                    user_agent: Some("Mozilla/5.0 (via ggpht.com GoogleImageProxy)".to_owned()),
                    ..hit(&email_id, first.saturating_add_millis(70_000), 4)
                },
            ];
            let marks = (email % 3 == 0).then(|| mark(&email_id, first.saturating_add_millis(59_000), 5));
            facts(hits, marks)
        })
        .collect()
}

async fn reclassify_all(recorder: &Recorder) -> u64 {
    let mut hits = 0;
    loop {
        let step = recorder.reclassify(now()).await.unwrap();
        hits += step.hits;
        if step.until.is_none() {
            return hits;
        }
    }
}

#[tokio::test]
async fn stored_hits_and_counters_are_as_if_the_new_rules_had_always_been() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let all = some(700); // more than a step's hits
    let before = recorder(&database, "r", &Rules::default());
    for batch in all.chunks(900) {
        before.record(batch.to_vec()).await.unwrap();
    }
    let after = recorder(&database, "r", &stricter());
    let revision_before = revision(&client).await;
    let first = after.reclassify(now()).await.unwrap();
    assert!(first.hits > 0 && first.until.is_some(), "{first:?}");
    // Cut off there; another one goes on.
    let other = recorder(&database, "other", &stricter());
    let rest = reclassify_all(&other).await;
    assert_eq!(
        first.hits + rest,
        3 * 700,
        "those of browsers, whether they count or not"
    );
    assert!(revision(&client).await > revision_before);
    assert_eq!(stored_emails(&client, "").await, model::emails(&stricter(), &all));

    let revision_before = revision(&client).await;
    assert_eq!(
        reclassify_all(&other).await,
        0,
        "from the beginning, with nothing to change"
    );
    assert_eq!(revision(&client).await, revision_before);
    assert_eq!(reclassify_all(&before).await, 3 * 700, "and back");
    assert_eq!(
        stored_emails(&client, "").await,
        model::emails(&Rules::default(), &all)
    );
}

#[tokio::test]
async fn facts_are_recorded_meanwhile() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let all = some(300);
    let (old, new) = all.split_at(all.len() / 2);
    let before = recorder(&database, "r", &Rules::default());
    before.record(old.to_vec()).await.unwrap();
    let after = recorder_of_workers(2, &database, "r", &stricter());
    let other = recorder(&database, "other", &stricter());
    let recording = async {
        for batch in new.chunks(20) {
            after.record(batch.to_vec()).await.unwrap();
        }
    };
    tokio::join!(recording, reclassify_all(&other));
    assert_eq!(stored_emails(&client, "").await, model::emails(&stricter(), &all));
}

#[tokio::test]
async fn a_late_mark_withdraws_a_reclassified_open_from_all_its_counters() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let opened_at = at("2026-03-01T12:00:00.000Z");
    let mut all = facts([hit("a", opened_at, 1)], []);
    recorder(&database, "r", &Rules::default())
        .record(all.clone())
        .await
        .unwrap();
    let after = recorder(&database, "r", &stricter());
    assert_eq!(reclassify_all(&after).await, 1);
    all.extend(facts([], [mark("a", opened_at.saturating_add_millis(-5), 2)]));
    after.record(all.clone()).await.unwrap();
    assert_eq!(stored_emails(&client, "").await, model::emails(&stricter(), &all));
}

/// Of each hit whether it is taken for a machine's, by email.
async fn automated(client: &Client) -> Vec<(String, bool)> {
    let statement = "select email_id, confidence = 'automated' from hits order by opened_at, email_id";
    let rows = client.query(statement, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

async fn counts(client: &Client, email_id: &str) -> (i64, i64, i64, bool, bool) {
    let statement = "select open_count, credible_open_count, human_open_count,
                            last_credible_open_at is null, last_human_open_at is null
                     from tracked_emails where email_id = $1";
    let row = client.query_one(statement, &[&email_id]).await.unwrap();
    (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))
}

fn from(address: &str, hit: Hit) -> Hit {
    Hit {
        client_address: address.parse::<IpAddr>().unwrap(),
        ..hit
    }
}

/// Ten mails within nine seconds from one address, nine from another, ten from a third over longer, ten by a proxy.
fn bursts() -> Vec<Fact> {
    let noon = at("2026-03-01T12:00:00.000Z");
    let later = |seconds: i64| noon.saturating_add_millis(seconds * 1_000 + 300);
    let mut hits = Vec::new();
    for number in 0..10_u8 {
        let at = i64::from(number);
        hits.push(from(
            "198.51.100.1",
            hit(&format!("burst {number}"), later(at * 4 / 10), number),
        ));
        if number < 9 {
            hits.push(from(
                "198.51.100.2",
                hit(&format!("nine {number}"), later(at / 3), number),
            ));
        }
        hits.push(from(
            "198.51.100.3",
            hit(&format!("slow {number}"), later(at * 3), number),
        ));
        hits.push(Hit {
            user_agent: Some("GoogleImageProxy".to_owned()),
            ..from("66.249.84.1", hit(&format!("proxy {number}"), later(0), number))
        });
    }
    // One mail many times is a reader who scrolls.
    hits.extend((0..20_u8).map(|tie| from("198.51.100.4", hit("one", later(i64::from(tie) / 4), tie))));
    facts(hits, [])
}

async fn finds_bursts(database: &TestDatabase) {
    let client = database.superuser().await;
    let recorder = recorder(database, "r", &Rules::default());
    recorder.record(bursts()).await.unwrap();
    let before = revision(&client).await;
    assert_eq!(recorder.find_bursts(now(), 100).await.unwrap(), (10, false));
    for (email_id, is_automated) in automated(&client).await {
        assert_eq!(is_automated, email_id.starts_with("burst"), "{email_id}");
    }
    assert_eq!(counts(&client, "burst 3").await, (1, 0, 0, true, true));
    assert_eq!(counts(&client, "slow 3").await, (1, 1, 1, false, false));
    assert!(revision(&client).await > before);

    let before = revision(&client).await;
    assert_eq!(recorder.find_bursts(now(), 100).await.unwrap(), (0, false));
    assert_eq!(revision(&client).await, before);
    // What the rules alone say does not undo it.
    assert_eq!(reclassify_all(&recorder).await, 0);
    assert_eq!(counts(&client, "burst 3").await, (1, 0, 0, true, true));
    let stored: String = client
        .query_one("select agent from hits where email_id = 'burst 3'", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(Agent::named(&stored), Some(Agent::Browser));
}

#[tokio::test]
async fn one_address_that_fetches_many_mails_at_once_is_a_machine() {
    finds_bursts(&fresh_database().await).await;
}

#[tokio::test]
async fn unless_the_operator_says_that_it_never_is() {
    let database = fresh_database().await;
    let never = Rules {
        burst_mails: 0,
        ..Rules::default()
    };
    let recorder = recorder(&database, "r", &never);
    recorder.record(bursts()).await.unwrap();
    assert_eq!(recorder.find_bursts(now(), 100).await.unwrap(), (0, false));
    let of_nine = Rules {
        burst_mails: 9,
        ..Rules::default()
    };
    let recorder = common::recorder(&database, "r", &of_nine);
    assert_eq!(recorder.find_bursts(now(), 100).await.unwrap(), (19, false));
}

#[tokio::test]
async fn so_it_is_in_shards() {
    let database = fresh_database().await;
    database
        .superuser()
        .await
        .batch_execute(CITUS_STAND_IN)
        .await
        .unwrap();
    let owner = database::Config::new("DATABASE_URL", &database.url()).unwrap();
    database::distribute(&owner, 8).await.unwrap();
    finds_bursts(&database).await;
}

#[tokio::test]
async fn what_came_since_is_looked_at_next_time() {
    let database = fresh_database().await;
    let recorder = recorder(&database, "r", &Rules::default());
    let noon = at("2026-03-01T12:00:00.000Z");
    assert_eq!(recorder.find_bursts(noon, 100).await.unwrap(), (0, false));
    recorder.record(bursts()).await.unwrap();
    // Half of the burst is over by then.
    let half = noon.saturating_add_millis(2_000);
    assert_eq!(
        recorder.find_bursts(half, 100).await.unwrap(),
        (10, false),
        "it looks beyond"
    );
    assert_eq!(
        recorder.reclassify(noon).await.unwrap(),
        Reclassified {
            hits: 0,
            until: Some(noon)
        }
    );
}

/// Whether statistics are missing or fresh, no statement reads a table from end to end.
#[tokio::test]
async fn every_statement_stays_on_its_index() {
    let server = PrivatePostgres::start().await;
    server.migrate_template(migrate).await;
    let database = server.database().await;
    let client = database.superuser().await;
    let filler = recorder(&database, "filler", &Rules::default());
    for (month, prepare) in [("01", ""), ("02", "analyze")] {
        let first = at(&format!("2026-{month}-01T00:00:00.000Z"));
        let old = (0..20_000_i64).map(|number| {
            hit(
                &format!("old {month} {number}"),
                first.saturating_add_millis(number * 60_000),
                1,
            )
        });
        for batch in facts(old, []).chunks(2_000) {
            filler.record(batch.to_vec()).await.unwrap();
        }
        client.batch_execute(prepare).await.unwrap();
        log_plans(&client).await;
        let again = recorder(&database, "r", &stricter()); // plans anew
        for _ in 0..3 {
            again.reclassify(now()).await.unwrap();
            again.find_bursts(now(), 3).await.unwrap();
        }
        client
            .batch_execute("delete from upkeep where task like '%of hits'")
            .await
            .unwrap();
        client
            .batch_execute("insert into upkeep (task) values ('addresses of hits')")
            .await
            .unwrap();
    }
    let seen = planned_on_indexes(&server.log(), &["reassess: ", "steps: "]);
    for name in [
        "hits of a step",
        "hits in bursts",
        "hits as they are",
        "update hits",
        "update emails",
    ] {
        assert!(seen.contains(&format!("reassess: {name}")), "{name}: {seen:?}");
    }
}
