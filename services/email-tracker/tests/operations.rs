//! What docs/operations.md promises of upgrades, of going back, and of a move to another server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod program;
mod services;

use std::path::Path;

use database::{Config, DASHBOARD_ROLE, RECORDER_ROLE};
use test_support::{OWNER, OWNER_PASSWORD, PrivatePostgres, TestDatabase, eventually, http::Request};

use crate::{
    program::email_tracker,
    services::{Services, migrate, token, urls},
};

/// A migration that expands: whatever a newer version may add.
const EXPANSION: &str = "
    begin;
    alter table tracked_emails add column to_come text not null default 'later', add column more jsonb;
    alter table hits add column to_come integer;
    alter table marks add column to_come text collate \"C\" default 'x';
    alter table revisions add column to_come timestamptz;
    create index on marks (to_come);
    create table to_come (id bigint primary key, email_id text);
    create view emails_to_come as select email_id from tracked_emails;
    insert into refinery_schema_history select max(version) + 1, 'to_come', '2100-01-01T00:00:00Z', '1'
      from refinery_schema_history;
    commit";

async fn mark(services: &Services) {
    let mark = Request::post_json("/mark-suppress-next", r#"{"email_id":"one"}"#);
    assert_eq!(mark.send(services.pixel).await.json()["ok"], true);
}

/// The services of this version, running and newly started, on the schema of a version to come.
#[tokio::test]
async fn a_schema_that_grows_serves_the_services_of_before() {
    let database = PrivatePostgres::shared(migrate).await.database().await;
    let spool = tempfile::tempdir().unwrap();
    let (recorder, dashboard) = urls(&database);
    let mut services = Services::between(&recorder, &dashboard, spool.path()).await;
    for reader in 0..10 {
        services.hit(&token("one"), reader).await;
    }
    services.shows(10, 10).await;
    database.superuser().await.batch_execute(EXPANSION).await.unwrap();
    for reader in 10..20 {
        services.hit(&token("one"), reader).await;
    }
    services.shows(20, 20).await;
    assert_eq!(services.items("/dashboard/api/open-events").await.len(), 20);

    services.stop_behind().await;
    services.start_behind(&recorder, &dashboard).await;
    mark(&services).await;
    services.hit(&token("one"), 20).await;
    services.shows(21, 20).await;
    let migrated = email_tracker(&["migrate"], &[("DATABASE_URL", &database.url())]).await;
    assert!(migrated.status.success(), "{migrated:?}");
    services.hit(&token("one"), 21).await;
    services.shows(22, 21).await;
}

/// The steps of docs/operations.md, "To another server".
#[tokio::test]
async fn a_database_moves_to_another_server_and_no_hit_is_lost() {
    let (old_server, new_server) = (PrivatePostgres::start().await, PrivatePostgres::start().await);
    for server in [&old_server, &new_server] {
        server.migrate_template(migrate).await;
    }
    let (old, new) = (old_server.database().await, new_server.empty_database().await);
    let spool = tempfile::tempdir().unwrap();
    let backups = tempfile::tempdir().unwrap();
    let (recorder, dashboard) = urls(&old);
    let mut services = Services::between(&recorder, &dashboard, spool.path()).await;
    for reader in 0..20 {
        services.hit(&token("one"), reader).await;
    }
    services.shows(20, 20).await;

    services.stop_behind().await;
    for reader in 20..40 {
        services.hit(&token("one"), reader).await; // pixels answer, and keep what they see
    }
    let owner = |database: &TestDatabase| database.tcp_url_of(OWNER);
    let (from, to) = (owner(&old), owner(&new));
    let password = ("DATABASE_PASSWORD", OWNER_PASSWORD);
    let folder = backups.path().to_str().unwrap();
    let made = email_tracker(&["backup", folder], &[("DATABASE_URL", &from), password]).await;
    assert!(made.status.success(), "{made:?}");
    let migrated = email_tracker(
        &["migrate"],
        &[
            ("DATABASE_URL", &to),
            password,
            ("RECORDER_DB_PASSWORD", "recorder"),
            ("DASHBOARD_DB_PASSWORD", "dashboard"),
        ],
    )
    .await;
    assert!(migrated.status.success(), "{migrated:?}");
    let restored = email_tracker(&["restore", folder], &[("DATABASE_URL", &to), password]).await;
    assert!(restored.status.success(), "{restored:?}");
    drop(old);
    old_server.stop().await;

    let (recorder, dashboard) = urls(&new);
    services.start_behind(&recorder, &dashboard).await;
    services.shows(40, 40).await;
    services.hit(&token("one"), 40).await;
    services.shows(41, 41).await;
    assert!(Path::new(folder).exists());
}

/// Every statement that the page shows, by the database's owner, while hits are recorded.
#[tokio::test]
async fn the_pages_statements_disturb_nobody() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let page = std::fs::read_to_string(page).unwrap();
    let statements: Vec<&str> = page
        .split("```sql\n")
        .skip(1)
        .flat_map(|block| block.split("```").next().unwrap().lines())
        .collect();
    assert!(statements.len() >= 7, "{statements:?}");

    let database = PrivatePostgres::shared(migrate).await.database().await;
    let spool = tempfile::tempdir().unwrap();
    let (recorder, dashboard) = urls(&database);
    let services = Services::between(&recorder, &dashboard, spool.path()).await;
    let owner = Config::new("DATABASE_URL", &database.url()).unwrap();
    let owner = owner.connect().await.unwrap();
    let month = "select add_hits_partition('2026-02-01T00:00Z')";
    owner.batch_execute(month).await.unwrap();
    for (reader, statement) in (0..).zip(&statements) {
        services.hit(&token("one"), reader).await;
        if let Err(error) = owner.batch_execute(statement).await {
            panic!("{statement}: {error:?}");
        }
        services.shows(u64::from(reader) + 1, u64::from(reader) + 1).await;
    }
}

/// With a standby that commits wait for, and the recorder told of both servers.
#[tokio::test]
async fn a_standby_takes_over_and_no_hit_is_lost() {
    let primary = PrivatePostgres::start().await;
    primary.migrate_template(migrate).await;
    let standby = primary.standby().await;
    let database = primary.database().await;
    let spool = tempfile::tempdir().unwrap();
    // The password is the one that `migrate` gave.
    let recorder = format!(
        "postgres://{RECORDER_ROLE}:recorder@{},{}/{}?target_session_attrs=read-write",
        primary.tcp_address(),
        standby.tcp_address(),
        database.name()
    );
    let dashboard = standby.url_of(DASHBOARD_ROLE, database.name());
    let services = Services::between(&recorder, &dashboard, spool.path()).await;
    for reader in 0..20 {
        services.hit(&token("one"), reader).await;
    }
    primary.kill().await;
    for reader in 20..40 {
        services.hit(&token("one"), reader).await;
    }
    standby.promote().await;
    for reader in 40..60 {
        services.hit(&token("one"), reader).await;
    }
    services.shows(60, 60).await;
}

/// What a pooler must not stand in between of says so, and changes nothing.
#[tokio::test]
async fn commands_that_need_a_session_refuse_a_pooler() {
    let server = PrivatePostgres::shared(migrate).await;
    let database = server.empty_database().await;
    let url = format!("{}&pooling=transaction", database.url());
    for command in ["migrate", "backup", "up"] {
        let refused = email_tracker(&[command], &[("DATABASE_URL", &url)]).await;
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(64), "{command}: {said}");
        assert!(
            said.contains("DATABASE_URL: this command needs PostgreSQL itself"),
            "{command}: {said}"
        );
    }
    let client = database.superuser().await;
    let tables = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
    let nothing = eventually("the tables are counted", async || {
        client.query_one(tables, &[]).await.ok()
    })
    .await;
    assert_eq!(nothing.get::<_, i64>(0), 0);
}
