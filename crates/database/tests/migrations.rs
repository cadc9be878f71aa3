//! Migrations against a real server.
#![allow(clippy::expect_used, clippy::panic, reason = "test helpers")]

mod common;

use common::{config, connect, migrated, server};
use database::{
    MigrateError, Migrated, RolePasswords, SCHEMA_VERSION, SchemaError, check_schema, migrate, schema_version,
};
use tokio_postgres::Client;

/// Every relation and function with its identity, and the history of migrations.
async fn everything(client: &Client) -> Vec<String> {
    let rows = client
        .query(
            "select format('%s %s %s', oid, relname, relacl) from pg_class where relnamespace = 'public'::regnamespace
             union all
             select format('%s %s %s', oid, proname, proacl) from pg_proc where pronamespace = 'public'::regnamespace
             union all
             select format('%s %s %s', version, applied_on, checksum) from refinery_schema_history
             order by 1",
            &[],
        )
        .await
        .expect("the catalog");
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn the_second_time_changes_nothing() {
    let database = migrated().await;
    let client = connect(&database.url()).await;
    let before = everything(&client).await;
    let again = migrate(&config(&database.url()), &RolePasswords::default())
        .await
        .expect("migrated");
    assert_eq!(
        again,
        Migrated {
            from: Some(SCHEMA_VERSION),
            to: SCHEMA_VERSION
        }
    );
    assert_eq!(everything(&client).await, before);
    assert!(before.len() > 10, "{before:?}");
}

#[tokio::test]
async fn many_at_once_migrate_once() {
    let database = server().await.empty_database().await;
    let config = config(&database.url());
    let passwords = common::passwords();
    let done = futures::future::join_all((0..5).map(|_| migrate(&config, &passwords))).await;
    let done: Vec<Migrated> = done.into_iter().collect::<Result<_, _>>().expect("all succeed");
    assert_eq!(
        done.iter().filter(|migrated| migrated.from.is_none()).count(),
        1,
        "{done:?}"
    );
    let client = connect(&database.url()).await;
    assert_eq!(schema_version(&client).await, Ok(Some(SCHEMA_VERSION)));
}

#[tokio::test]
async fn a_changed_migration_is_refused() {
    let database = migrated().await;
    let client = connect(&database.url()).await;
    client
        .batch_execute("update refinery_schema_history set checksum = '1'")
        .await
        .expect("another build's history");
    let before = everything(&client).await;
    let refused = migrate(&config(&database.url()), &RolePasswords::default())
        .await
        .expect_err("refused");
    assert!(matches!(refused, MigrateError::Divergent(_)), "{refused}");
    assert_eq!(everything(&client).await, before);
}

#[tokio::test]
async fn a_failed_migration_leaves_nothing_behind() {
    let database = server().await.empty_database().await;
    let client = connect(&database.url()).await;
    client
        .batch_execute("create table marks (of_somebody_else int)")
        .await
        .expect("in the way");
    let failed = migrate(&config(&database.url()), &RolePasswords::default())
        .await
        .expect_err("it is in the way");
    assert!(
        failed.to_string().contains("\"marks\" already exists"),
        "{failed}"
    );
    assert_eq!(check_schema(&client).await, Err(SchemaError::Missing));

    client
        .batch_execute("drop table marks")
        .await
        .expect("out of the way");
    migrate(&config(&database.url()), &RolePasswords::default())
        .await
        .expect("now it works");
}

#[tokio::test]
async fn a_newer_database_is_left_as_it_is_and_serves() {
    let database = migrated().await;
    let client = connect(&database.url()).await;
    let newer = SCHEMA_VERSION + 1;
    client
        .execute(
            "insert into refinery_schema_history values ($1, 'to_come', '2100-01-01T00:00:00Z', '1')",
            &[&newer],
        )
        .await
        .expect("a newer build's history");
    let done = migrate(&config(&database.url()), &RolePasswords::default())
        .await
        .expect("nothing to do");
    assert_eq!(
        done,
        Migrated {
            from: Some(newer),
            to: newer
        }
    );
    assert_eq!(check_schema(&client).await, Ok(()));
}

#[tokio::test]
async fn the_gate_tells_missing_from_old() {
    let database = server().await.empty_database().await;
    let client = connect(&database.url()).await;
    assert_eq!(check_schema(&client).await, Err(SchemaError::Missing));
    assert_eq!(schema_version(&client).await, Ok(None));

    migrate(&config(&database.url()), &RolePasswords::default())
        .await
        .expect("migrated");
    assert_eq!(check_schema(&client).await, Ok(()));
    assert_eq!(common::open(&database).check_schema().await, Ok(()));

    client
        .batch_execute(
            "delete from refinery_schema_history where version > 1; update refinery_schema_history set version = 0",
        )
        .await
        .expect("an old one");
    assert_eq!(
        check_schema(&client).await,
        Err(SchemaError::TooOld {
            found: 0,
            needed: SCHEMA_VERSION
        })
    );
}
