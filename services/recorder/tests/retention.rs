//! What is older than the operator wants it kept goes, and nothing else; also while facts come.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{
    at, facts, fresh_database, hit, log_plans, mark, migrate, planned_on_indexes, recorder, revision,
    stored_emails, stored_marks,
};
use recorder::Removed;
use test_support::{PrivatePostgres, eventually};
use tokio_postgres::Client;
use tracking::{Fact, Rules, Timestamp, model};

/// Of the middle of March: January and February are over.
fn floor() -> Timestamp {
    at("2026-03-15T12:00:00.000Z")
}

fn stored() -> Vec<Fact> {
    let (january, february, march) = (
        at("2026-01-10T00:00:00.000Z"),
        at("2026-02-28T23:59:59.999Z"),
        at("2026-03-01T00:00:00.000Z"),
    );
    let hits = [
        hit("gone", january, 1),
        hit("gone", february, 2),
        hit("stays", january, 3),
        hit("stays", march, 4),
        hit("young", march, 5),
        hit("marked since", february, 6),
    ];
    let marks = [
        mark("gone", february, 7),
        mark("stays", march, 8),
        mark("marked since", march, 9),
        mark("old mark only", january, 10),
        mark("young mark only", march, 11),
    ];
    facts(hits, marks)
}

async fn months(client: &Client) -> Vec<String> {
    let rows = client
        .query(
            "select relname::text from pg_class where relname ~ '^hits_\\d{4}_\\d\\d$' order by 1",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

async fn emails(client: &Client) -> Vec<(String, i64)> {
    let rows = client
        .query("select email_id, hit_count from tracked_emails order by 1", &[])
        .await
        .unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn months_marks_and_emails_that_are_over_go() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    recorder.record(stored()).await.unwrap();
    assert_eq!(
        months(&client).await,
        ["hits_2026_01", "hits_2026_02", "hits_2026_03"]
    );
    let before = revision(&client).await;

    let removed = recorder.remove_older_than(floor(), false).await.unwrap();
    assert_eq!(
        removed,
        Removed {
            months: 2,
            marks: 2,
            emails: 1
        }
    );
    assert_eq!(months(&client).await, ["hits_2026_03"]);
    assert!(revision(&client).await > before, "the lists have changed");
    // Counts are for life; an email with a mark that may still suppress a hit stays, too.
    let left = [
        ("marked since", 1),
        ("stays", 2),
        ("young", 1),
        ("young mark only", 0),
    ];
    assert_eq!(
        emails(&client).await,
        left.map(|(email_id, hits)| (email_id.to_owned(), hits))
    );
    let marked: Vec<String> = stored_marks(&client, "")
        .await
        .into_iter()
        .map(|(email_id, _)| email_id)
        .collect();
    assert_eq!(marked, ["marked since", "stays", "young mark only"]);

    let before = revision(&client).await;
    let again = recorder.remove_older_than(floor(), false).await.unwrap();
    assert_eq!(again, Removed::default());
    assert_eq!(revision(&client).await, before, "nothing has changed");
}

#[tokio::test]
async fn an_email_that_comes_back_begins_anew() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    recorder.record(stored()).await.unwrap();
    recorder.remove_older_than(floor(), false).await.unwrap();
    let again = facts([hit("gone", floor(), 1)], []);
    recorder.record(again.clone()).await.unwrap();
    assert_eq!(
        stored_emails(&client, "gone").await,
        model::emails(&Rules::default(), &again)
    );
}

#[tokio::test]
async fn counts_are_kept_if_asked_for() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    recorder.record(stored()).await.unwrap();
    let removed = recorder.remove_older_than(floor(), true).await.unwrap();
    assert_eq!((removed.months, removed.emails), (2, 0));
    let left = emails(&client).await;
    assert!(left.contains(&("gone".to_owned(), 2)), "{left:?}");
    assert!(
        !left.iter().any(|(email_id, _)| email_id == "old mark only"),
        "{left:?}"
    );
}

#[tokio::test]
async fn many_are_removed_bit_by_bit() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    let old = at("2026-01-10T00:00:00.000Z");
    // Many of the same millisecond: where one look ends another begins.
    let hits = (0..2_500).map(|number| hit(&format!("e{number}"), old, 1));
    let marks = (0..2_500).map(|number| mark(&format!("m{number}"), old, 1));
    for batch in facts(hits, marks).chunks(1_000) {
        recorder.record(batch.to_vec()).await.unwrap();
    }
    recorder.record(facts([hit("e7", floor(), 2)], [])).await.unwrap();
    let removed = recorder.remove_older_than(floor(), false).await.unwrap();
    assert_eq!((removed.marks, removed.emails), (2_500, 2_499));
    assert_eq!(emails(&client).await, [("e7".to_owned(), 2)]);
}

#[tokio::test]
async fn facts_are_recorded_meanwhile() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorders = [
        recorder(&database, "one", &Rules::default()),
        recorder(&database, "two", &Rules::default()),
    ];
    let old = at("2026-01-10T00:00:00.000Z");
    let hits = (0..1_500).map(|number| {
        hit(
            &format!("e{}", number % 300),
            old.saturating_add_millis(number),
            1,
        )
    });
    recorders[0].record(facts(hits, [])).await.unwrap();

    let young = |round: i64| {
        let hits = (0..300).map(move |number| {
            hit(
                &format!("e{number}"),
                floor().saturating_add_millis(round * 40_000),
                1,
            )
        });
        facts(hits, [])
    };
    let recording = async {
        for round in 0..20 {
            recorders[0].record(young(round)).await.unwrap();
        }
    };
    let removing = async {
        let mut months = 0;
        for recorder in recorders.iter().cycle().take(10) {
            // Its lock may be asked for in vain while hits are written.
            if let Ok(removed) = recorder.remove_older_than(floor(), false).await {
                months += removed.months;
            }
        }
        months
    };
    let ((), months) = tokio::join!(recording, removing);
    assert_eq!(months, 1);
    let all: Vec<Fact> = (0..20).flat_map(young).collect();
    let expected = model::emails(&Rules::default(), &all);
    let hits: i64 = client
        .query_one("select count(*) from hits", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(hits, 20 * 300);
    // An email was either removed before its first young hit or never: its count says which.
    for (email_id, email) in stored_emails(&client, "e").await {
        assert_eq!(email.verdicts, expected[&email_id].verdicts, "{email_id}");
        assert!([20, 25].contains(&email.hit_count), "{email_id}: {email:?}");
    }
}

/// Whether statistics are missing or fresh, no statement reads a table from end to end.
#[tokio::test]
async fn every_statement_stays_on_its_index() {
    let server = PrivatePostgres::start().await;
    server.migrate_template(migrate).await;
    let database = server.database().await;
    let client = database.superuser().await;
    log_plans(&client).await;
    let (old, young) = (at("2026-01-10T00:00:00.000Z"), floor());
    for (round, prepare) in [(0, ""), (1, "analyze")] {
        client.batch_execute(prepare).await.unwrap();
        let recorder = recorder(&database, "r", &Rules::default()); // plans anew
        for at in [old, young] {
            let name = |number: i64| format!("{round} {at} {number}");
            let hits = (0..1_500).map(|number| hit(&name(number), at, 1));
            let marks = (0..1_500).map(|number| mark(&name(-number), at, 1));
            for batch in facts(hits, marks).chunks(1_000) {
                recorder.record(batch.to_vec()).await.unwrap();
            }
        }
        let removed = recorder.remove_older_than(floor(), false).await.unwrap();
        assert_eq!((removed.marks, removed.emails), (1_500, 1_500));
    }
    let log = eventually("the log has the last plan", async || {
        let log = server.log();
        (log.matches("-- retention: find old emails").count() >= 6).then_some(log)
    })
    .await;
    let seen = planned_on_indexes(&log, &["retention: ", "steps: lock"]);
    assert_eq!(seen.len(), 6, "{seen:?}");
}
