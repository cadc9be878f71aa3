//! `reclassify`: stored hits are by whom the operator's networks say, and the counters follow.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod facts;

use std::{
    path::Path,
    process::{Command, Output},
};

use test_support::{OWNER_PASSWORD, PrivatePostgres, TestDatabase};

use crate::facts::{migrated, record_all_kinds};

async fn reclassify(database: &TestDatabase, networks: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_email-tracker"));
    command
        .arg("reclassify")
        .env_clear()
        .env("DATABASE_URL", database.tcp_url_of("email_tracker_owner"))
        .env("DATABASE_PASSWORD", OWNER_PASSWORD)
        .env("AGENT_NETWORKS", networks);
    tokio::task::spawn_blocking(move || command.output().expect("the program starts"))
        .await
        .unwrap()
}

/// Hits of the network's, all of them and those taken for machines', and the opens that are credible.
async fn counts(database: &TestDatabase) -> (i64, i64, i64) {
    let client = database.superuser().await;
    let statement = "select count(*), count(*) filter (where confidence = 'automated'),
                            (select sum(credible_open_count)::bigint from tracked_emails)
                     from hits where client_address <<= '203.0.113.0/24'";
    let row = client.query_one(statement, &[]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[tokio::test]
async fn the_operators_networks_apply_to_what_is_stored() {
    let server = PrivatePostgres::start().await;
    let database = migrated(&server).await;
    record_all_kinds(&database).await;
    let (all, automated, credible) = counts(&database).await;
    assert!(all > 0 && automated == 0, "{all} {automated}");

    let networks = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(networks.path(), "scanner\t203.0.113.0\n").unwrap();
    let refused = reclassify(&database, networks.path()).await;
    assert_eq!(refused.status.code(), Some(64));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("AGENT_NETWORKS: "),
        "{refused:?}"
    );

    std::fs::write(networks.path(), "scanner\t203.0.113.0/24\n").unwrap();
    let done = reclassify(&database, networks.path()).await;
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success() && said.contains("all hits are classified"),
        "{done:?}"
    );
    let (_, automated, credible_since) = counts(&database).await;
    assert!(
        automated > 0 && credible_since < credible,
        "{automated} {credible} {credible_since}"
    );
    assert!(!said.contains("; 0 changed"), "{said}");

    let again = reclassify(&database, networks.path()).await;
    assert!(
        String::from_utf8_lossy(&again.stdout).contains("; 0 changed"),
        "{again:?}"
    );
}
