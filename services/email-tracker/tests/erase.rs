//! Erasing, from the dashboard's API to everything by which an email might come back: a pixel's spool, an older server's
//! list, a backup.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod facts;
mod program;
mod services;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use recorder::Subject;
use recorder_api::Outcome;
use serde_json::json;
use service_kit::SystemClock;
use test_support::{OWNER_PASSWORD, PrivatePostgres, TestDatabase, eventually};
use tracking::Clock as _;

use crate::{
    facts::{all_kinds, migrated, record_all_kinds, recorder},
    program::succeeds,
    services::{Services, TOKEN, token, urls},
};

async fn server() -> PrivatePostgres {
    let server = PrivatePostgres::start().await;
    server.migrate_template(services::migrate).await;
    server
}

/// Rows of any table that name this email.
async fn rows(database: &TestDatabase, email_id: &str) -> i64 {
    let statement = "select (select count(*) from tracked_emails where email_id = $1)
                          + (select count(*) from hits where email_id = $1)
                          + (select count(*) from marks where email_id = $1)";
    let client = database.superuser().await;
    client.query_one(statement, &[&email_id]).await.unwrap().get(0)
}

#[tokio::test]
async fn what_a_pixel_still_has_of_an_erased_email_comes_to_nothing() {
    let server = server().await;
    let database = server.database().await;
    let (recorder_url, dashboard_url) = urls(&database);
    let spool = tempfile::tempdir().unwrap();
    let mut services = Services::between(&recorder_url, &dashboard_url, spool.path()).await;
    for email_id in ["gone", "stays"] {
        services.hit(&token(email_id), 1).await;
    }
    eventually("both are listed", async || {
        (services.items("/dashboard/api/emails").await.len() == 2).then_some(())
    })
    .await;
    services.stop_behind().await;
    for reader in 2..7 {
        services.hit(&token("gone"), reader).await;
    }
    services.hit(&token("stays"), 2).await;

    // By another recorder and another dashboard, while the pixel reaches none.
    let wish = json!({"email_id": "gone"});
    let erased = services::erase_elsewhere(&recorder_url, &dashboard_url, &wish).await;
    assert_eq!(
        erased,
        json!({"ok": true, "emails": 1, "hits": 1, "marks": 0, "complete": true})
    );
    services.start_behind(&recorder_url, &dashboard_url).await;
    services.shows(2, 2).await; // of the one email that there is
    eventually("the rest is refused", async || {
        let refused = services
            .recorders("email_tracker_recorder_facts_total{outcome=\"erased\"}")
            .await;
        (refused == 5).then_some(())
    })
    .await;
    services.hit(&token("gone"), 9).await;
    services.hit(&token("stays"), 9).await;
    services.shows(3, 3).await;
    assert_eq!(rows(&database, "gone").await, 0);
    let kept = services.pixels("email_tracker_pixel_spool_set_aside").await;
    assert_eq!(kept, 0, "the pixel keeps nothing of it either");
}

#[tokio::test]
async fn an_import_leaves_out_what_was_erased() {
    let server = server().await;
    let (old, new) = (server.database().await, server.database().await);
    record_all_kinds(&old).await;
    let (recorder_url, dashboard_url) = urls(&old);
    let spool = tempfile::tempdir().unwrap();
    let older = Services::between(&recorder_url, &dashboard_url, spool.path()).await;
    let erasing = recorder(&new);
    let subject = Subject::Email("1".to_owned());
    erasing
        .erase(&subject, SystemClock.now(), Duration::from_mins(1))
        .await
        .unwrap();
    let from = older.dashboard_url();
    let owner = new.tcp_url_of("email_tracker_owner");
    let variables = [
        ("DATABASE_URL", &*owner),
        ("DATABASE_PASSWORD", OWNER_PASSWORD),
        ("IMPORT_TOKEN", TOKEN),
    ];
    let said = succeeds(&["import", &from], &variables).await;
    assert!(
        said.contains("hits were left out: their emails were erased here"),
        "{said}"
    );
    assert_eq!(rows(&new, "1").await, 0);
    assert!(rows(&new, "2").await > 0, "the others are taken over");
}

/// A backup of `database` in `folder`.
async fn backed_up(database: &TestDatabase, folder: &Path) -> PathBuf {
    let owner = database.tcp_url_of("email_tracker_owner");
    let variables = [("DATABASE_URL", &*owner), ("DATABASE_PASSWORD", OWNER_PASSWORD)];
    let said = succeeds(&["backup", folder.to_str().unwrap()], &variables).await;
    said.split(": ").next().unwrap().into()
}

async fn restored(backup: &Path, database: &TestDatabase) -> String {
    let owner = database.tcp_url_of("email_tracker_owner");
    let variables = [("DATABASE_URL", &*owner), ("DATABASE_PASSWORD", OWNER_PASSWORD)];
    succeeds(&["restore", "--replace", backup.to_str().unwrap()], &variables).await
}

async fn number(database: &TestDatabase, statement: &str) -> i64 {
    let client = database.superuser().await;
    client.query_one(statement, &[]).await.unwrap().get(0)
}

const KEYS: &str = "select count(*) from erasure_keys";
const GENERATION: &str = "select generation from dashboard_sessions";
const UNFINISHED: &str = "select count(*) from erasures where finished_at is null";

#[tokio::test]
async fn a_restored_backup_does_not_bring_back_what_was_erased_since() {
    let server = PrivatePostgres::start().await;
    let database = migrated(&server).await;
    record_all_kinds(&database).await;
    let folder = tempfile::tempdir().unwrap();
    let backup = backed_up(&database, folder.path()).await;
    let others = rows(&database, "2").await;
    let erase = async |database: &TestDatabase, email_id: &str| {
        let subject = Subject::Email(email_id.to_owned());
        let erasing = recorder(database);
        let patience = Duration::from_mins(1);
        erasing
            .erase(&subject, SystemClock.now(), patience)
            .await
            .unwrap();
    };
    erase(&database, "1").await;
    let before = number(&database, GENERATION).await;
    let said = restored(&backup, &database).await;
    assert!(
        said.contains("1 emails that had been erased since are erased again"),
        "{said}"
    );
    assert_eq!(
        (rows(&database, "1").await, rows(&database, "2").await),
        (0, others)
    );
    assert_eq!(
        [number(&database, KEYS).await, number(&database, UNFINISHED).await],
        [1, 0]
    );
    assert!(number(&database, GENERATION).await > before);
    for (fact, outcome) in all_kinds()
        .iter()
        .zip(recorder(&database).record(all_kinds()).await.unwrap())
    {
        assert_eq!(outcome == Outcome::Erased, fact.email_id() == "1", "{fact:?}");
    }

    // Into the database of another installation, with another key and erasures of its own.
    let another = migrated(&server).await;
    erase(&another, "2").await;
    let backup = backed_up(&database, folder.path()).await;
    restored(&backup, &another).await;
    assert_eq!(number(&another, KEYS).await, 2);
    for email_id in ["1", "2"] {
        assert_eq!(rows(&another, email_id).await, 0);
    }
    let outcomes = recorder(&another).record(all_kinds()).await.unwrap();
    for (fact, outcome) in all_kinds().iter().zip(outcomes) {
        let is_erased = ["1", "2"].contains(&fact.email_id());
        assert_eq!(outcome == Outcome::Erased, is_erased, "{fact:?}");
    }
}

/// A backup of before there were erasures: the migration takes them in, and then they are done again.
#[tokio::test]
async fn a_backup_of_the_first_version_does_not_either() {
    let server = PrivatePostgres::start().await;
    let old = server.empty_database().await;
    let owner = old.superuser().await;
    let checksum = include_str!("../../../crates/database/migrations/checksums.txt");
    let checksum = checksum.lines().next().unwrap().split(' ').nth(1).unwrap();
    owner
        .batch_execute(&format!(
            "set role email_tracker_owner;
             {}
             create table refinery_schema_history (version int4 primary key, name varchar(255), applied_on varchar(255),
                                                   checksum varchar(255));
             insert into refinery_schema_history
               values (1, 'facts_and_emails', '2026-01-01T00:00:00.000000000Z', '{checksum}');
             insert into tracked_emails (email_id, user_id, recipient, sent_at, first_opened_at, last_hit_at)
               select id, 'u', 'r', 's', '2026-03-01Z', '2026-03-01Z' from unnest(array['gone', 'stays']) id;",
            include_str!("../../../crates/database/migrations/V1__facts_and_emails.sql")
        ))
        .await
        .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let backup = backed_up(&old, folder.path()).await;

    let database = migrated(&server).await;
    let subject = Subject::Email("gone".to_owned());
    let erasing = recorder(&database);
    erasing
        .erase(&subject, SystemClock.now(), Duration::from_mins(1))
        .await
        .unwrap();
    let said = restored(&backup, &database).await;
    assert!(said.contains("brought from version 1 to"), "{said}");
    assert_eq!(
        (rows(&database, "gone").await, rows(&database, "stays").await),
        (0, 1)
    );
    assert_eq!(
        [number(&database, KEYS).await, number(&database, UNFINISHED).await],
        [2, 0]
    );
    let left = "select count(*) from pg_class where relname like 'erasures_kept%'";
    assert_eq!(number(&database, left).await, 0);
}
