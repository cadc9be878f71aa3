//! Addresses older than the operator wants to know them are shortened, and nothing else changes; also while facts come.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::net::IpAddr;

use common::{
    at, facts, fresh_database, hit, log_plans, mark, migrate, planned_on_indexes, recorder, revision,
    stored_emails,
};
use recorder::Shortened;
use test_support::{
    PrivatePostgres, eventually,
    tables::{stored_hits, stored_marks},
};
use tokio_postgres::Client;
use tracking::{DedupKey, Fact, Hit, Rules, Timestamp, model};

/// More steps than any test needs.
const ALL: u32 = 1_000;

/// What is before it is old.
fn floor() -> Timestamp {
    at("2026-03-15T12:00:00.000Z")
}

fn just_old() -> Timestamp {
    floor().saturating_add_millis(-1)
}

/// A hit from this address.
fn hit_from(email_id: &str, opened_at: Timestamp, tie: u8, client_address: &str) -> Hit {
    Hit {
        client_address: client_address.parse().unwrap(),
        ..hit(email_id, opened_at, tie)
    }
}

/// The addresses of the stored hits, by email and time.
async fn of_hits(client: &Client) -> Vec<String> {
    let hits = stored_hits(client, "").await;
    hits.iter()
        .map(|hit| hit.client_address.map_or_else(String::new, |it| it.to_string()))
        .collect()
}

async fn of_marks(client: &Client) -> Vec<String> {
    let marks = stored_marks(client, "").await;
    marks
        .iter()
        .map(|mark| mark.client_address.map_or_else(String::new, |it| it.to_string()))
        .collect()
}

/// Each stored hit's address, agent and dedup key agree.
async fn keys_are_of_the_stored_addresses(client: &Client) {
    let rows = client
        .query("select client_address, user_agent, dedup_key from hits", &[])
        .await
        .unwrap();
    for row in rows {
        let address: IpAddr = row.get(0);
        assert_eq!(DedupKey::of(address, row.get(1)).as_i64(), row.get::<_, i64>(2));
    }
}

#[tokio::test]
async fn old_addresses_are_shortened_and_nothing_else_changes() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    let all = facts(
        [
            hit_from("a", at("2026-01-10T00:00:00.000Z"), 1, "198.51.100.77"),
            // Of the same reader, within the window; and one of a neighbour of theirs, who counts.
            hit_from("a", at("2026-01-10T00:00:01.000Z"), 2, "198.51.100.77"),
            hit_from("a", at("2026-01-10T00:00:02.000Z"), 3, "198.51.100.78"),
            hit_from("b", just_old(), 4, "2001:db8:1:2:3:4:5:6"),
            hit_from("c", floor(), 5, "198.51.100.77"),
        ],
        [mark("a", just_old(), 6), mark("b", floor(), 7)],
    );
    recorder.record(all.clone()).await.unwrap();
    let expected = model::emails(&Rules::default(), &all);
    assert_eq!(stored_emails(&client, "").await, expected);
    let before = revision(&client).await;

    let shortened = recorder.shorten_addresses(floor(), ALL).await.unwrap();
    assert_eq!(
        shortened,
        Shortened {
            hits: 4,
            marks: 1,
            more: false
        }
    );
    assert_eq!(
        of_hits(&client).await,
        [
            "198.51.100.0",
            "198.51.100.0",
            "198.51.100.0",
            "2001:db8:1::",
            "198.51.100.77"
        ]
    );
    assert_eq!(of_marks(&client).await, ["203.0.113.0", "203.0.113.9"]);
    keys_are_of_the_stored_addresses(&client).await;
    assert_eq!(
        stored_emails(&client, "").await,
        expected,
        "verdicts and counts stay"
    );
    assert!(revision(&client).await > before, "the lists have changed");

    // What was recorded is known when it comes again, whatever address it has.
    recorder.record(all).await.unwrap();
    assert_eq!(stored_emails(&client, "").await, expected);
    let before = revision(&client).await;
    let again = recorder.shorten_addresses(floor(), ALL).await.unwrap();
    assert_eq!(again, Shortened::default());
    assert_eq!(revision(&client).await, before, "nothing has changed");

    let later = floor().saturating_add_millis(1);
    let more = recorder.shorten_addresses(later, ALL).await.unwrap();
    assert_eq!(
        more,
        Shortened {
            hits: 1,
            marks: 1,
            more: false
        }
    );
}

#[tokio::test]
async fn many_are_shortened_step_by_step_by_whoever_comes_by() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorders = [
        recorder(&database, "one", &Rules::default()),
        recorder(&database, "two", &Rules::default()),
    ];
    // Many of the same millisecond, which a step does not part, and emails that many steps share.
    let of = |number: i64| {
        hit(
            &format!("e{}", number % 50),
            just_old().saturating_add_millis(-(number / 700)),
            u8::try_from(number % 251).unwrap(),
        )
    };
    let marks = (0..2_500).map(|number| mark(&format!("m{number}"), just_old(), 1));
    let old = facts((0..5_600).map(of), marks);
    for batch in old.chunks(1_000) {
        recorders[0].record(batch.to_vec()).await.unwrap();
    }
    let stored = stored_hits(&client, "").await.len();

    let young = |round: i64| {
        let hits = (0..50).map(move |number| {
            let opened_at = floor().saturating_add_millis(round * 40_000);
            hit(&format!("e{number}"), opened_at, 1)
        });
        facts(hits, [])
    };
    let recording = async {
        for round in 0..20 {
            recorders[0].record(young(round)).await.unwrap();
        }
    };
    let [one, two] = [0, 1].map(|index| recorders[index].shorten_addresses(floor(), ALL));
    let ((), one, two) = tokio::join!(recording, one, two);
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.hits + two.hits, u64::try_from(stored).unwrap());
    assert_eq!(one.marks + two.marks, 2_500);

    let hits = stored_hits(&client, "").await;
    assert_eq!(hits.len(), stored + 20 * 50);
    for hit in hits {
        let expected = if hit.opened_at < floor() {
            "203.0.113.0"
        } else {
            "203.0.113.7"
        };
        assert_eq!(hit.client_address, Some(expected.parse().unwrap()), "{hit:?}");
    }
    assert!(
        of_marks(&client)
            .await
            .iter()
            .all(|address| address == "203.0.113.0")
    );
    keys_are_of_the_stored_addresses(&client).await;
    let all: Vec<Fact> = old.into_iter().chain((0..20).flat_map(young)).collect();
    assert_eq!(
        stored_emails(&client, "").await,
        model::emails(&Rules::default(), &all)
    );
}

#[tokio::test]
async fn a_round_ends_after_some_steps_and_the_next_one_goes_on() {
    let database = fresh_database().await;
    let recorder = recorder(&database, "r", &Rules::default());
    let hits = (0..2_500).map(|number| {
        let opened_at = just_old().saturating_add_millis(-number);
        hit(&format!("e{number}"), opened_at, 1)
    });
    for batch in facts(hits, [mark("m", just_old(), 1)]).chunks(1_000) {
        recorder.record(batch.to_vec()).await.unwrap();
    }
    let mut rounds = Vec::new();
    loop {
        let Shortened { hits, marks, more } = recorder.shorten_addresses(floor(), 2).await.unwrap();
        rounds.push((hits, marks));
        if !more {
            break;
        }
    }
    assert_eq!(rounds, [(2_000, 0), (500, 1)]);
}

#[tokio::test]
async fn every_statement_stays_on_its_index() {
    let server = PrivatePostgres::start().await;
    server.migrate_template(migrate).await;
    let database = server.database().await;
    let client = database.superuser().await;
    log_plans(&client).await;
    let mut old = at("2026-01-10T00:00:00.000Z");
    for prepare in ["", "analyze"] {
        client.batch_execute(prepare).await.unwrap();
        let recorder = recorder(&database, "r", &Rules::default()); // plans anew
        for first in [old, floor()] {
            let at = |number: i64| first.saturating_add_millis(number);
            let hits = (0..3_000).map(|number| hit(&format!("{first} {number}"), at(number), 1));
            let marks = (0..3_000).map(|number| mark(&format!("{first} -{number}"), at(number), 1));
            for batch in facts(hits, marks).chunks(1_000) {
                recorder.record(batch.to_vec()).await.unwrap();
            }
        }
        let shortened = recorder.shorten_addresses(floor(), ALL).await.unwrap();
        assert_eq!((shortened.hits, shortened.marks), (3_000, 3_000));
        // The next round begins where nothing is left.
        client
            .execute("update upkeep set done_until = default", &[])
            .await
            .unwrap();
        old = at("2026-02-10T00:00:00.000Z");
    }
    let log = eventually("the log has the last plan", async || {
        let log = server.log();
        (log.matches("-- addresses: shorten those of marks").count() >= 6).then_some(log)
    })
    .await;
    let seen = planned_on_indexes(&log, &["addresses: ", "steps: "]);
    assert_eq!(seen.len(), 9, "{seen:?}");
}
