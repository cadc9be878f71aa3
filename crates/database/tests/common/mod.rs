//! Databases for the tests of this crate.
#![allow(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    reason = "each test file uses a part of it"
)]

use std::sync::OnceLock;

use database::{Config, Database, RolePasswords, Session, migrate};
use opentelemetry::metrics::{Meter, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use test_support::{PrivatePostgres, TestDatabase};
use tokio_postgres::{Client, error::SqlState};

/// The shared server, with migrated databases and both roles.
pub(crate) async fn server() -> PrivatePostgres {
    PrivatePostgres::shared(async |url| {
        migrate(&config(&url), &passwords())
            .await
            .expect("a migrated template");
    })
    .await
}

/// A migrated database of the test's own.
pub(crate) async fn migrated() -> TestDatabase {
    server().await.database().await
}

pub(crate) fn passwords() -> RolePasswords {
    RolePasswords {
        recorder: Some("recorder's".to_owned()),
        dashboard: Some("dashboard's".to_owned()),
    }
}

pub(crate) fn config(url: &str) -> Config {
    Config::new("DATABASE_URL", url).expect("a URL")
}

pub(crate) async fn connect(url: &str) -> Client {
    config(url).connect().await.expect("connected")
}

/// A pool of the owner, without session settings.
pub(crate) fn open(database: &TestDatabase) -> Database {
    open_with(database, Session::default())
}

pub(crate) fn open_with(database: &TestDatabase, session: Session) -> Database {
    Database::open(&config(&database.url()).session(session), &meter()).expect("a pool")
}

/// A meter that nobody reads.
pub(crate) fn meter() -> Meter {
    static PROVIDER: OnceLock<SdkMeterProvider> = OnceLock::new();
    PROVIDER.get_or_init(SdkMeterProvider::default).meter("test")
}

/// The SQLSTATE with which `statement` was refused.
pub(crate) async fn refusal(client: &Client, statement: &str) -> SqlState {
    let refused = client.batch_execute(statement).await.expect_err(statement);
    refused
        .code()
        .unwrap_or_else(|| panic!("{statement}: {refused:?}"))
        .clone()
}
