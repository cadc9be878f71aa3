//! `migrate --citus`, on a stand-in for Citus in plain PostgreSQL; and what refuses to work there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod facts;

use std::{
    collections::BTreeMap,
    process::{Command, Output},
};

use test_support::{CITUS_STAND_IN, OWNER_PASSWORD, PrivatePostgres, TestDatabase};

use crate::facts::{migrated, record_all_kinds};

async fn email_tracker(database: &TestDatabase, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_email-tracker"));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("DATABASE_URL", database.tcp_url_of("email_tracker_owner"))
        .env("DATABASE_PASSWORD", OWNER_PASSWORD)
        .env("IMPORT_TOKEN", "s3cret-of-old");
    tokio::task::spawn_blocking(move || command.output().expect("the program starts"))
        .await
        .unwrap()
}

async fn says(database: &TestDatabase, arguments: &[&str]) -> String {
    let output = email_tracker(database, arguments).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

async fn refused(database: &TestDatabase, arguments: &[&str]) -> String {
    let output = email_tracker(database, arguments).await;
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

async fn add_citus(database: &TestDatabase) {
    let client = database.superuser().await;
    client.batch_execute(CITUS_STAND_IN).await.unwrap();
}

/// Of each distributed table, where it lies, over how many shards if it was asked, and whether nothing was left behind.
async fn distributed(database: &TestDatabase) -> BTreeMap<String, (String, Option<i32>, bool)> {
    let statement =
        "select logicalrelid::text, colocated_with, shard_count, is_truncated from pg_dist_partition";
    let rows = database.superuser().await.query(statement, &[]).await.unwrap();
    rows.iter()
        .map(|row| (row.get(0), (row.get(1), row.get(2), row.get(3))))
        .collect()
}

#[tokio::test]
async fn the_tables_of_facts_are_distributed_side_by_side_once() {
    let server = PrivatePostgres::start().await;
    let database = migrated(&server).await;
    let error = refused(&database, &["migrate", "--citus"]).await;
    assert!(
        error.contains("the database has no Citus: `create extension citus`"),
        "{error}"
    );

    add_citus(&database).await;
    let said = says(&database, &["migrate", "--citus", "--shards", "64"]).await;
    assert!(
        said.contains("distributed tracked_emails, hits, marks, webhook_queues, webhook_events by email_id"),
        "{said}"
    );
    let beside = |shards| ("tracked_emails".to_owned(), shards, true);
    let expected = BTreeMap::from([
        ("tracked_emails".to_owned(), ("none".to_owned(), Some(64), true)),
        ("hits".to_owned(), beside(None)),
        ("marks".to_owned(), beside(None)),
        ("webhook_queues".to_owned(), beside(None)),
        ("webhook_events".to_owned(), beside(None)),
    ]);
    assert_eq!(distributed(&database).await, expected);

    let said = says(&database, &["migrate", "--citus"]).await;
    assert!(said.contains("distributed already"), "{said}");
    assert_eq!(distributed(&database).await, expected);

    // Cut off in the middle, it is finished by the next one.
    let cut = "drop trigger stay_in_one_shard on marks; delete from pg_dist_partition where logicalrelid = 'marks'::regclass";
    database.superuser().await.batch_execute(cut).await.unwrap();
    let said = says(&database, &["migrate", "--citus"]).await;
    assert!(said.contains("distributed marks by email_id"), "{said}");
    assert_eq!(distributed(&database).await, expected);

    record_all_kinds(&database).await;
}

#[tokio::test]
async fn what_does_not_work_there_says_so_and_changes_nothing() {
    let server = PrivatePostgres::start().await;
    let database = migrated(&server).await;
    record_all_kinds(&database).await;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    says(&database, &["backup", folder]).await;
    add_citus(&database).await;
    says(&database, &["migrate", "--citus"]).await;

    let error = refused(&database, &["backup", folder]).await;
    assert!(
        error.contains("distributed by Citus, where `backup` does not work"),
        "{error}"
    );
    // It refuses before it asks the older server, which is not there.
    let error = refused(&database, &["import", "http://127.0.0.1:9"]).await;
    assert!(
        error.contains("distributed by Citus, where `import` does not work"),
        "{error}"
    );
    let error = refused(&database, &["restore", "--replace", folder]).await;
    assert!(
        error.contains("distributed by Citus, where `restore` does not work"),
        "{error}"
    );
}
