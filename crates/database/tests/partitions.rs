//! The functions that add and drop the months of hits.
#![allow(clippy::expect_used, clippy::panic, reason = "test helpers")]

mod common;

use common::{connect, migrated, refusal};
use database::RECORDER_ROLE;
use test_support::TestDatabase;
use tokio_postgres::{Client, error::SqlState};

async fn recorder(database: &TestDatabase) -> Client {
    connect(&database.url_of(RECORDER_ROLE)).await
}

async fn call(client: &Client, function: &str, month: &str) -> bool {
    let statement = format!("select {function}('{month}'::timestamptz)");
    client.query_one(&statement, &[]).await.expect("called").get(0)
}

fn hit_at(time: &str) -> String {
    format!(
        "insert into hits (email_id, opened_at, event_id, dedup_key, google_proxy, is_duplicate, compose_window,
                           device_type)
         values ('a', '{time}', gen_random_uuid(), 1, false, false, false, 'other')"
    )
}

async fn months(client: &Client) -> Vec<(String, i64)> {
    let rows = client
        .query(
            "select tableoid::regclass::text, count(*) from hits group by 1 order by 1",
            &[],
        )
        .await
        .expect("hits");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn added_by_many_at_once_exactly_once() {
    let database = migrated().await;
    let clients = futures::future::join_all((0..6).map(|_| recorder(&database))).await;
    let added = futures::future::join_all(
        clients
            .iter()
            .map(|client| call(client, "add_hits_partition", "2026-03-01Z")),
    )
    .await;
    assert_eq!(added.iter().filter(|added| **added).count(), 1, "{added:?}");
    clients[0]
        .batch_execute(&hit_at("2026-03-07Z"))
        .await
        .expect("its month is there");
}

#[tokio::test]
async fn a_month_begins_and_ends_in_utc_whatever_the_sessions_time_zone() {
    let database = migrated().await;
    let client = recorder(&database).await;
    for zone in ["America/St_Johns", "Pacific/Kiritimati", "UTC"] {
        client
            .batch_execute(&format!("set timezone = '{zone}'"))
            .await
            .expect("a zone");
        let month = match zone {
            "UTC" => "2026-04-01Z",
            "America/St_Johns" => "2026-02-01Z",
            _ => "2026-03-01Z",
        };
        assert!(call(&client, "add_hits_partition", month).await);
        assert!(!call(&client, "add_hits_partition", month).await);
    }
    for time in [
        "2026-02-28 23:59:59.999Z",
        "2026-03-01 00:00:00Z",
        "2026-03-31 23:59:59.999Z",
        "2026-04-01Z",
    ] {
        client
            .batch_execute(&hit_at(time))
            .await
            .expect("its month is there");
    }
    let found = months(&client).await;
    assert_eq!(
        found,
        [
            ("hits_2026_02".to_owned(), 1),
            ("hits_2026_03".to_owned(), 2),
            ("hits_2026_04".to_owned(), 1)
        ]
    );
}

#[tokio::test]
async fn only_beginnings_of_months_and_only_known_months_take_hits() {
    let database = migrated().await;
    let client = recorder(&database).await;
    for function in ["add_hits_partition", "drop_hits_partition"] {
        for time in [
            "2026-03-02Z",
            "2026-03-01 00:00:00.001Z",
            "2026-03-01 00:00:00-03:30",
        ] {
            let refused = refusal(&client, &format!("select {function}('{time}')")).await;
            assert_eq!(refused, SqlState::RAISE_EXCEPTION, "{function} {time}");
        }
    }
    assert_eq!(
        refusal(&client, &hit_at("2026-03-07Z")).await,
        SqlState::CHECK_VIOLATION
    );
}

#[tokio::test]
async fn adding_a_month_does_not_wait_for_writers_of_others() {
    let database = migrated().await;
    let (mut writer, upkeep) = (recorder(&database).await, recorder(&database).await);
    assert!(call(&upkeep, "add_hits_partition", "2026-03-01Z").await);
    let open = writer.transaction().await.expect("a transaction");
    open.batch_execute(&hit_at("2026-03-07Z"))
        .await
        .expect("written, not committed");

    upkeep
        .batch_execute("set lock_timeout = '5s'")
        .await
        .expect("a limit");
    assert!(call(&upkeep, "add_hits_partition", "2026-04-01Z").await);
    open.batch_execute(&hit_at("2026-04-07Z"))
        .await
        .expect("the open transaction sees it too");
    open.commit().await.expect("committed");
}

#[tokio::test]
async fn a_dropped_month_takes_its_hits_along() {
    let database = migrated().await;
    let client = recorder(&database).await;
    for month in ["2026-03-01Z", "2026-04-01Z"] {
        assert!(call(&client, "add_hits_partition", month).await);
    }
    client.batch_execute(&hit_at("2026-03-07Z")).await.expect("a hit");
    client.batch_execute(&hit_at("2026-04-07Z")).await.expect("a hit");
    assert!(call(&client, "drop_hits_partition", "2026-03-01Z").await);
    assert!(!call(&client, "drop_hits_partition", "2026-03-01Z").await);
    assert_eq!(months(&client).await, [("hits_2026_04".to_owned(), 1)]);
    assert!(
        call(&client, "add_hits_partition", "2026-03-01Z").await,
        "it can come back"
    );
}

#[tokio::test]
async fn a_month_has_the_indexes_and_the_verdict_of_the_whole() {
    let database = migrated().await;
    let client = recorder(&database).await;
    call(&client, "add_hits_partition", "2026-03-01Z").await;
    client.batch_execute(&hit_at("2026-03-07Z")).await.expect("a hit");
    let row = client
        .query_one(
            "select is_open, id > 0,
                    (select count(*) from pg_index where indrelid = 'hits'::regclass),
                    (select count(*) from pg_index where indrelid = 'hits_2026_03'::regclass),
                    (select count(*) from pg_inherits where inhparent in
                       (select indexrelid from pg_index where indrelid = 'hits'::regclass))
             from hits",
            &[],
        )
        .await
        .expect("the hit");
    assert!(row.get::<_, bool>(0), "neither duplicate nor suppressed");
    assert!(row.get::<_, bool>(1));
    let [of_all, of_month, attached]: [i64; 3] = [row.get(2), row.get(3), row.get(4)];
    assert_eq!(
        (of_month, attached),
        (of_all, of_all),
        "every index once, and attached"
    );
}
