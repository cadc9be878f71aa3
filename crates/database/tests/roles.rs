//! What each role may do, and its password.
#![allow(clippy::expect_used, clippy::panic, reason = "test helpers")]

mod common;

use common::{config, connect, migrated, refusal, server};
use database::{DASHBOARD_ROLE, Error, ErrorKind, RECORDER_ROLE, RolePasswords, migrate};
use test_support::{PrivatePostgres, TestDatabase};
use tokio_postgres::{Client, error::SqlState};

const TABLES: [&str; 12] = [
    "tracked_emails",
    "hits",
    "marks",
    "revisions",
    "webhook_queues",
    "webhook_events",
    "erasures",
    "dashboard_sessions",
    "slot_opens",
    "slot_kinds",
    "day_kinds",
    "stale_slots",
];

async fn log_in(database: &TestDatabase, role: &str, password: &str) -> Result<Client, Error> {
    config(&database.tcp_url_of(role))
        .password(Some(password))
        .connect()
        .await
}

#[tokio::test]
async fn the_dashboard_reads_and_never_writes() {
    let database = migrated().await;
    let client = log_in(&database, DASHBOARD_ROLE, "dashboard's")
        .await
        .expect("logged in");
    let read_only: String = client
        .query_one("show default_transaction_read_only", &[])
        .await
        .expect("a setting")
        .get(0);
    assert_eq!(read_only, "on");

    client
        .batch_execute("set default_transaction_read_only = off")
        .await
        .expect("its own doing");
    for table in TABLES {
        client
            .execute(&format!("select * from {table}"), &[])
            .await
            .expect("may read");
        for write in [
            format!("delete from {table}"),
            format!("insert into {table} default values"),
        ] {
            assert_eq!(
                refusal(&client, &write).await,
                SqlState::INSUFFICIENT_PRIVILEGE,
                "{write}"
            );
        }
    }
    for write in [
        "update tracked_emails set open_count = 1",
        "select nextval('hit_ids')",
        "select add_hits_partition('2026-01-01Z')",
        "select announce_hits_partitions()",
        "create table mine ()",
        "truncate marks",
        "select from erasure_keys",
        "select from erased_emails",
    ] {
        assert_eq!(
            refusal(&client, write).await,
            SqlState::INSUFFICIENT_PRIVILEGE,
            "{write}"
        );
    }
}

#[tokio::test]
async fn the_recorder_writes_facts_and_defines_nothing() {
    let database = migrated().await;
    let client = log_in(&database, RECORDER_ROLE, "recorder's")
        .await
        .expect("logged in");
    client
        .batch_execute(
            "select add_hits_partition('2026-03-01Z');
             select announce_hits_partitions();
             insert into tracked_emails (email_id) values ('a');
             update tracked_emails set hit_count = 1;
             insert into hits (email_id, opened_at, event_id, dedup_key, google_proxy, is_duplicate, compose_window,
                               device_type)
               values ('a', '2026-03-07Z', gen_random_uuid(), 1, false, false, false, 'other');
             update hits set is_duplicate = true;
             insert into marks (email_id, marked_at, mark_id) values ('a', '2026-03-07Z', gen_random_uuid());
             insert into revisions values ('r', 1) on conflict (writer) do update set revision = 2;
             insert into erased_emails values (sha256('a')) on conflict (hash) do nothing;
             delete from hits; delete from marks; delete from tracked_emails; delete from revisions;
             select drop_hits_partition('2026-03-01Z')",
        )
        .await
        .expect("all that recording needs");

    for definition in [
        "create table mine ()",
        "create table hits_2030_01 partition of hits for values from ('2030-01-01') to ('2030-02-01')",
        "drop table marks",
        "alter table tracked_emails add mine int",
        "truncate hits",
        "create role mine",
        "create function mine() returns int language sql as 'select 1'",
        "update refinery_schema_history set version = 0",
        "delete from refinery_schema_history",
        "delete from erased_emails",
        "update erasure_keys set outer_pad = inner_pad",
        "delete from erasure_keys",
        "alter role email_tracker_dashboard password 'mine'",
        "select pg_read_file('/etc/hostname')",
    ] {
        assert_eq!(
            refusal(&client, definition).await,
            SqlState::INSUFFICIENT_PRIVILEGE,
            "{definition}"
        );
    }
}

#[tokio::test]
async fn nobody_else_calls_the_owners_functions() {
    let database = migrated().await;
    let admin = database.superuser().await;
    let stranger = format!("stranger_of_{}", database.name());
    admin
        .batch_execute(&format!("create role {stranger} login"))
        .await
        .expect("a role");
    let client = connect(&database.url_of(&stranger)).await;
    for call in [
        "select add_hits_partition('2026-01-01Z')",
        "select announce_hits_partitions()",
        "select drop_hits_partition('2026-01-01Z')",
    ] {
        assert_eq!(
            refusal(&client, call).await,
            SqlState::INSUFFICIENT_PRIVILEGE,
            "{call}"
        );
    }
}

#[tokio::test]
async fn a_changed_password_replaces_the_old_one() {
    let server = PrivatePostgres::start().await;
    let database = server.empty_database().await;
    let owner = config(&database.url());
    let mut old: Option<&str> = None;
    for password in [
        "simple",
        "p@ss/w:rd?#%25 'quoted\" \\ $$ é 😀;--",
        "postgres://u:p@h/d",
        " spaces ",
    ] {
        let passwords = RolePasswords {
            recorder: Some(password.to_owned()),
            dashboard: Some(password.to_owned()),
        };
        migrate(&owner, &passwords).await.expect("migrated");
        for role in [RECORDER_ROLE, DASHBOARD_ROLE] {
            log_in(&database, role, password)
                .await
                .unwrap_or_else(|error| panic!("{password}: {error}"));
            if let Some(old) = old {
                let refused = log_in(&database, role, old).await.expect_err("the old password");
                assert_eq!(refused.kind(), ErrorKind::Permission, "{refused}");
            }
        }
        old = Some(password);
    }
    let admin = database.superuser().await;
    admin
        .batch_execute("alter system set log_statement = 'ddl'")
        .await
        .expect("a setting");
    admin
        .batch_execute("select pg_reload_conf()")
        .await
        .expect("a reload");
    test_support::eventually("DDL is logged", async || {
        migrate(
            &owner,
            &RolePasswords {
                recorder: Some("s3cret".to_owned()),
                ..RolePasswords::default()
            },
        )
        .await
        .expect("migrated");
        server
            .log()
            .contains("alter role email_tracker_recorder")
            .then_some(())
    })
    .await;
    assert!(!server.log().contains("s3cret"), "the log holds a password");
}

#[tokio::test]
async fn one_login_for_everything_needs_no_roles() {
    let server = PrivatePostgres::start().await;
    let database = server.empty_database().await;
    migrate(&config(&database.url()), &RolePasswords::default())
        .await
        .expect("migrated");
    let client = connect(&database.url()).await;
    let roles: i64 = client
        .query_one(
            "select count(*) from pg_roles where rolname in ($1, $2)",
            &[&RECORDER_ROLE, &DASHBOARD_ROLE],
        )
        .await
        .expect("a count")
        .get(0);
    assert_eq!(roles, 0);
}

#[tokio::test]
async fn roles_that_somebody_else_made_get_their_grants() {
    let server = PrivatePostgres::start().await;
    let database = server.empty_database().await;
    let admin = database.superuser().await;
    for statement in [
        format!("create role {RECORDER_ROLE} login"),
        format!("create role {DASHBOARD_ROLE} login"),
        "alter role email_tracker_owner nocreaterole".to_owned(),
    ] {
        admin
            .batch_execute(&statement)
            .await
            .expect("an administrator may");
    }
    migrate(&config(&database.url()), &RolePasswords::default())
        .await
        .expect("no right over roles is needed");
    let recorder = connect(&database.url_of(RECORDER_ROLE)).await;
    recorder
        .batch_execute("insert into revisions values ('r', 1)")
        .await
        .expect("granted");
    let dashboard = connect(&database.url_of(DASHBOARD_ROLE)).await;
    dashboard
        .execute("select * from revisions", &[])
        .await
        .expect("granted");

    let refused = migrate(&config(&database.url()), &common::passwords())
        .await
        .expect_err("a password is");
    assert!(refused.to_string().contains("set_role_password: "), "{refused}");
}

#[tokio::test]
async fn tables_of_later_migrations_are_granted_and_others_are_left_alone() {
    let database = migrated().await;
    connect(&database.url())
        .await
        .batch_execute("create table later (n int)")
        .await
        .expect("a migration");
    database
        .superuser()
        .await
        .batch_execute("create table of_others (n int)")
        .await
        .expect("not ours");
    migrate(&config(&database.url()), &RolePasswords::default())
        .await
        .expect("migrated");

    let recorder = connect(&database.url_of(RECORDER_ROLE)).await;
    recorder
        .batch_execute("insert into later values (1)")
        .await
        .expect("granted");
    let dashboard = connect(&database.url_of(DASHBOARD_ROLE)).await;
    dashboard
        .execute("select * from later", &[])
        .await
        .expect("granted");
    assert_eq!(
        refusal(&dashboard, "select * from of_others").await,
        SqlState::INSUFFICIENT_PRIVILEGE
    );
}

#[tokio::test]
async fn databases_of_one_server_apply_the_same_roles_at_once() {
    let server = server().await;
    let databases = futures::future::join_all((0..4).map(|_| server.empty_database())).await;
    let configs: Vec<_> = databases.iter().map(|database| config(&database.url())).collect();
    let passwords = common::passwords();
    for done in futures::future::join_all(configs.iter().map(|config| migrate(config, &passwords))).await {
        done.expect("migrated");
    }
}
