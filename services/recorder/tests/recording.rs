//! The recording transaction by example, where the property test says nothing: repeats, revisions, partitions, plans.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::as_conversions,
    reason = "a test may panic"
)]

mod common;

use std::{collections::BTreeSet, time::Instant};

use common::{
    at, facts, fresh_database, hit, mark, migrate, recorder, revision, stored_emails, stored_marks,
};
use database::RECORDER_ROLE;
use recorder_api::Outcome::{AlreadyKnown, Recorded};
use test_support::{PrivatePostgres, eventually};
use tokio_postgres::Client;
use tracking::{Fact, Hit, Rules, Timestamp, model};

fn now() -> Timestamp {
    at("2026-03-01T00:00:00.000Z")
}

fn later(millis: i64) -> Timestamp {
    now().saturating_add_millis(millis)
}

#[tokio::test]
async fn of_two_facts_with_one_id_the_first_is_the_fact() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    let first = hit("a", now(), 1);
    let mut forged = first.clone();
    forged.token.recipient = "forged@example.com".to_owned();
    forged.user_agent = None;
    forged.token.sender_email = Some("forged@example.org".to_owned());

    let outcomes = recorder
        .record(facts([first.clone(), forged.clone()], []))
        .await
        .unwrap();
    assert_eq!(outcomes, [Recorded, AlreadyKnown], "in one batch");
    assert_eq!(
        recorder.record(facts([forged], [])).await.unwrap(),
        [AlreadyKnown],
        "in another"
    );
    let stored = stored_emails(&client, "a").await;
    assert_eq!(stored, model::emails(&Rules::default(), &facts([first], [])));
}

#[tokio::test]
async fn a_hit_and_a_mark_with_one_id_are_two_facts() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    let (hit, mark) = (hit("a", now(), 1), mark("a", now(), 1));
    assert_eq!(hit.event_id, mark.mark_id);
    let both = facts([hit.clone()], [mark.clone()]);
    assert_eq!(recorder.record(both.clone()).await.unwrap(), [Recorded, Recorded]);
    assert_eq!(
        recorder.record(both.clone()).await.unwrap(),
        [AlreadyKnown, AlreadyKnown]
    );
    assert_eq!(
        stored_emails(&client, "a").await,
        model::emails(&Rules::default(), &both)
    );
    assert_eq!(stored_marks(&client, "a").await, [("a".to_owned(), mark.mark_id)]);
}

#[tokio::test]
async fn an_email_with_marks_only_has_a_row_and_is_not_shown() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    recorder.record(facts([], [mark("a", now(), 1)])).await.unwrap();
    let row = client
        .query_one(
            "select hit_count, user_id, first_opened_at is null from tracked_emails",
            &[],
        )
        .await;
    let row = row.unwrap();
    assert_eq!(
        (row.get(0), row.get::<_, Option<String>>(1), row.get(2)),
        (0_i64, None, true)
    );
    assert_eq!(stored_emails(&client, "a").await.len(), 0);
}

/// The list's `ETag` hangs on it.
#[tokio::test]
async fn the_revision_rises_when_a_list_would_change_and_only_then() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    let mut before = revision(&client).await;
    let open = facts([hit("a", later(5_000), 1)], []);
    let late_mark = facts([], [mark("a", now(), 1)]);
    for (batch, changes, why) in [
        (&open, true, "a new hit"),
        (&open, false, "a replay"),
        (
            &facts([], [mark("a", later(60_000), 1)]),
            false,
            "a mark that concerns no hit",
        ),
        (&late_mark, true, "a mark that withdraws an open"),
        (&late_mark, false, "its replay"),
    ] {
        recorder.record(batch.clone()).await.unwrap();
        let after = revision(&client).await;
        assert_eq!(after > before, changes, "{why}");
        before = after;
    }
}

/// As when a standby takes over that lacks the last commits: what follows must not pass for what was lost.
#[tokio::test]
async fn histories_that_part_come_to_different_revisions() {
    let mut revisions = BTreeSet::new();
    for _ in 0..3 {
        let database = fresh_database().await;
        let recorder = recorder(&database, "r", &Rules::default());
        recorder.record(facts([hit("a", now(), 1)], [])).await.unwrap();
        assert!(revisions.insert(revision(&database.superuser().await).await));
    }
}

#[tokio::test]
async fn a_withdrawn_latest_open_gives_way_to_the_one_before() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let rules = Rules::default();
    let recorder = recorder(&database, "r", &rules);
    let mut all = Vec::new();
    for batch in [
        facts([hit("a", now(), 1), hit("a", later(100_000), 2)], []),
        facts([hit("a", later(80_000), 3)], []), // the open at 100 s repeats it
        facts([], [mark("a", later(75_000), 1)]), // and it is the sender's
        facts([], [mark("a", later(-1), 2)]),    // and so is the first
    ] {
        all.extend(batch.clone());
        recorder.record(batch).await.unwrap();
        assert_eq!(stored_emails(&client, "a").await, model::emails(&rules, &all));
    }
    assert_eq!(stored_emails(&client, "a").await["a"].last_opened_at, None);
}

#[tokio::test]
async fn a_partition_that_is_gone_is_made_again() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    recorder
        .record(facts([hit("a", now(), 1), hit("a", later(-1), 2)], []))
        .await
        .unwrap();
    client
        .batch_execute("select drop_hits_partition('2026-03-01 00:00Z')")
        .await
        .unwrap();
    let outcomes = recorder
        .record(facts([hit("b", now(), 1), hit("b", later(-1), 2)], []))
        .await
        .unwrap();
    assert_eq!(outcomes, [Recorded, Recorded]);
    assert_eq!(stored_emails(&client, "b").await["b"].hit_count, 2);
}

/// Batches with the same emails in different orders would deadlock if locks were taken as facts come. A deadlock would be
/// rerun and go unseen, so they are counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_with_the_same_emails_do_not_deadlock() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let rules = Rules::default();
    let batch = |recorder: u8, round: i64| {
        let at = |email: u32| later(round * 40_000 + i64::from(email % 7));
        let mut batch: Vec<Fact> = (0..200)
            .map(|email| Fact::Hit(hit(&format!("e{email:03}"), at(email), recorder)))
            .collect();
        batch.rotate_left(usize::from(recorder) * 50);
        if recorder % 2 == 1 {
            batch.reverse();
        }
        batch
    };
    let running: Vec<_> = (0..4)
        .map(|number: u8| {
            let recorder = recorder(&database, &format!("r{number}"), &rules);
            tokio::spawn(async move {
                for round in 0..8 {
                    recorder.record(batch(number, round)).await.unwrap();
                }
            })
        })
        .collect();
    for recorder in running {
        recorder.await.unwrap();
    }
    let all: Vec<Fact> = (0..4)
        .flat_map(|number| (0..8).flat_map(move |round| batch(number, round)))
        .collect();
    assert_eq!(stored_emails(&client, "e").await, model::emails(&rules, &all));

    // A pooler would keep them.
    let sessions = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                    where datname = current_database() and usename = $1";
    eventually(
        "all of the recorders' sessions have ended and told what they counted",
        async || {
            let open: i64 = client
                .query_one(sessions, &[&RECORDER_ROLE])
                .await
                .unwrap()
                .get(0);
            (open == 0).then_some(())
        },
    )
    .await;
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(
        client.query_one(deadlocks, &[]).await.unwrap().get::<_, i64>(0),
        0
    );
}

/// Of an email that is fetched again and again, most stored hits are left aside when new facts are judged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_email_gets_the_models_verdicts() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let rules = Rules::default();
    let recorders = [
        recorder(&database, "one", &rules),
        recorder(&database, "two", &rules),
    ];
    let mut all: Vec<Fact> = (0..2_400)
        .map(|number: i64| {
            let mut hit = hit("hot", later(number * 17), 1);
            hit.user_agent =
                Some(["GoogleImageProxy", "a", "b"][usize::try_from(number % 3).unwrap()].to_owned());
            Fact::Hit(hit)
        })
        .collect();
    all.extend((0..300).map(|number| Fact::Mark(mark("hot", later(number * 130 + 5), 1))));
    all.sort_by_key(|fact| {
        fact.id()
            .as_u128()
            .wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835)
    }); // any order
    let (early, late) = all.split_at(all.len() - 40);
    for (number, batch) in early.chunks(700).chain(late.chunks(8)).enumerate() {
        recorders[number % 2].record(batch.to_vec()).await.unwrap();
    }
    assert_eq!(stored_emails(&client, "hot").await, model::emails(&rules, &all));
}

/// What the pixel saw, and what follows from it, lands in its columns.
#[tokio::test]
async fn every_column_of_a_hit_and_a_mark_is_kept() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let recorder = recorder(&database, "r", &Rules::default());
    let mut phone = hit("a", now(), 1);
    phone.client_address = "2001:db8::7".parse().unwrap();
    phone.user_agent = Some("Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) é".to_owned());
    phone.referer_host = Some("webmail.example.com".to_owned());
    let mut proxy = hit("a", later(1), 2);
    proxy.client_address = [66, 249, 84, 1].into();
    proxy.user_agent = Some("Mozilla/5.0 (via ggpht.com GoogleImageProxy)".to_owned());
    let mut bare = hit("a", later(2), 3);
    bare.user_agent = None;
    let mut mark = mark("a", later(3), 4);
    mark.user_agent = Some("extension".to_owned());
    recorder
        .record(facts([phone.clone(), proxy, bare], [mark]))
        .await
        .unwrap();

    let rows = client
        .query(
            "select host(client_address), user_agent, referer_host, dedup_key, google_proxy, device_type,
                    geo_country is null, id <= 9007199254740991
             from hits order by opened_at",
            &[],
        )
        .await
        .unwrap();
    let text = |row: usize, column: usize| rows[row].get::<_, Option<String>>(column);
    assert_eq!(text(0, 0).as_deref(), Some("2001:db8::7"));
    assert_eq!(
        (text(0, 1), text(0, 2)),
        (phone.user_agent.clone(), phone.referer_host.clone())
    );
    assert_eq!(rows[0].get::<_, i64>(3), phone.dedup_key().as_i64());
    let devices: Vec<_> = (0..3).map(|row| text(row, 5).unwrap()).collect();
    assert_eq!(devices, ["phone", "other", "other"]);
    let by_google: Vec<bool> = rows.iter().map(|row| row.get(4)).collect();
    assert_eq!(by_google, [false, true, false]);
    assert_eq!(text(2, 1), None);
    assert!(rows.iter().all(|row| row.get(6) && row.get(7)));
    let row = client
        .query_one("select host(client_address), user_agent from marks", &[])
        .await
        .unwrap();
    assert_eq!(
        (row.get(0), row.get(1)),
        ("203.0.113.9".to_owned(), "extension".to_owned())
    );
}

/// Whether statistics are missing or fresh, no statement of the transaction reads a table from end to end.
#[tokio::test]
async fn every_statement_stays_on_its_index() {
    let server = PrivatePostgres::start().await;
    server.migrate_template(migrate).await;
    let database = server.database().await;
    let client = database.superuser().await;
    client
        .batch_execute(&format!(
            "alter role {RECORDER_ROLE} set session_preload_libraries = 'auto_explain';
             alter role {RECORDER_ROLE} set auto_explain.log_min_duration = 0;"
        ))
        .await
        .unwrap();
    let batch = |round: i64| {
        let hits = (0..20).flat_map(move |email| {
            [later(round * 100_000), later(round * 100_000 - 86_400_000)]
                .map(|at| hit(&format!("e{email}"), at, 1))
        });
        let marks = (0..20).map(move |email| mark(&format!("e{email}"), later(round * 100_000 + 50_000), 1));
        facts(hits, marks)
    };
    let late = |round: i64| {
        facts(
            (0..20).map(|email| hit(&format!("e{email}"), later(round * 100_000 - 9), 2)),
            [],
        )
    };
    for (round, prepare) in [(0, ""), (1, FILL), (2, "analyze")] {
        client.batch_execute(prepare).await.unwrap();
        let recorder = recorder(&database, "r", &Rules::default()); // plans anew
        recorder.record(batch(round)).await.unwrap();
        recorder.record(late(round)).await.unwrap(); // corrects verdicts, and looks up the latest open
    }
    let log = eventually("the log has the last plan", async || {
        let log = server.log();
        (log.matches("raise the writer's revision").count() >= 6).then_some(log)
    })
    .await;
    assert_plans(&log);
}

/// Many hits and marks of many emails, and of one hot email.
const FILL: &str = "
insert into tracked_emails (email_id) select 'filler' || n from generate_series(1, 5000) n;
insert into hits (email_id, opened_at, event_id, dedup_key, google_proxy, is_duplicate, compose_window, device_type)
select case when n % 5 = 0 then 'hot' else 'filler' || n % 5000 end,
       timestamptz '2026-02-20 00:00Z' + n * interval '17 s', gen_random_uuid(), n, false, false, false, 'other'
from generate_series(1, 60000) n;
insert into marks (email_id, marked_at, mark_id)
select 'filler' || n % 5000, timestamptz '2026-02-20 00:00Z' + n * interval '17 s', gen_random_uuid()
from generate_series(1, 20000) n;
";

fn assert_plans(log: &str) {
    let mut seen = BTreeSet::new();
    for plan in log.split("Query Text: -- record: ").skip(1) {
        let (name, plan) = plan.split_once('\n').unwrap();
        let plan = plan.split("LOG:").next().unwrap();
        seen.insert(name.trim());
        assert!(!plan.contains("Seq Scan on"), "{name}: {plan}");
        if name.contains("hits stored around") {
            assert!(
                !plan.contains("opened_at_event_id_idx"),
                "{name} must look by email: {plan}"
            );
        }
    }
    assert_eq!(seen.len(), 8, "{seen:?}"); // COPY has no plan
}

/// An email that is fetched many times a second, as by an attacker: the facts around a new one are many then. Prints what
/// it costs beside the same hits of many emails; run it in release to see figures.
#[tokio::test]
#[ignore = "a measurement: cargo test --release -p recorder --test recording -- --ignored --nocapture"]
async fn what_a_hot_email_costs() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let rules = Rules::default();
    for (per_second, batch_size) in [
        (100, 10),
        (1_000, 100),
        (1_000, 1_000),
        (5_000, 1_000),
        (10_000, 2_000),
    ] {
        for (kind, emails, agents) in [
            ("many emails", 100_000, 1),
            ("one email", 1, 1),
            ("one email, many agents", 1, 9_999),
        ] {
            let seconds = 60;
            let name = format!("{kind}/{per_second}/{batch_size}/");
            let recorder = recorder(&database, "hot", &rules);
            let mut batches = Vec::new();
            for number in 0..per_second * seconds {
                let mut hit: Hit = hit(
                    &format!("{name}{}", number % emails),
                    later(number * 1_000 / per_second),
                    0,
                );
                hit.event_id = tracking::facts::new_id(hit.opened_at, rand::random()).unwrap();
                hit.user_agent = Some(format!("agent {}", number % agents));
                batches.push(Fact::Hit(hit));
            }
            let (warm_up, measured) = batches.split_at(batches.len() / 2);
            for batch in warm_up.chunks(2_000) {
                recorder.record(batch.to_vec()).await.unwrap();
            }
            let began = Instant::now();
            let measured = &measured[..measured.len().min(batch_size * 40)];
            for batch in measured.chunks(batch_size) {
                recorder.record(batch.to_vec()).await.unwrap();
            }
            let took = began.elapsed();
            println!(
                "{kind:24} at {per_second:6}/s in batches of {batch_size:4}: {:8.0} facts/s, {:6.1} ms a batch",
                measured.len() as f64 / took.as_secs_f64(),
                took.as_secs_f64() * 1_000.0 / (measured.len() as f64 / batch_size as f64),
            );
        }
    }
    drop::<Client>(client);
}
