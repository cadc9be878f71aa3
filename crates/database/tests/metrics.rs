//! What the metrics say, as Prometheus reads them.
#![allow(clippy::expect_used, clippy::panic, reason = "test helpers")]

mod common;

use common::{config, migrated};
use database::{Database, Error, Transaction, Work};
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Encoder, TextEncoder};

struct Say(&'static str);

impl Work for Say {
    const NAME: &'static str = "say";
    type Output = ();
    async fn run(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        Ok(tx.batch_execute(self.0).await?)
    }
}

#[tokio::test]
async fn transactions_and_the_pool_are_counted_and_timed() {
    let registry = prometheus::Registry::new();
    let exporter = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .build()
        .expect("exporter");
    let provider = SdkMeterProvider::builder().with_reader(exporter).build();
    let stored = migrated().await;
    let database = Database::open(&config(&stored.url()), &provider.meter("test"))
        .expect("a pool")
        .counting(&[Say::NAME]);

    database.transact(&Say("select 1")).await.expect("committed");
    let rerun = "do $$ begin raise exception 'no' using errcode = '40001'; end $$";
    database.transact(&Say(rerun)).await.expect_err("in the end");

    let mut text = Vec::new();
    TextEncoder::new()
        .encode(&registry.gather(), &mut text)
        .expect("encoded");
    let text = String::from_utf8(text).expect("text");
    let value = |name: &str, label: &str| {
        let line = text.lines().find(|line| {
            line.split(['{', ' ']).next() == Some(name) && line.contains(label) && !line.starts_with('#')
        });
        line.and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
    };
    let say = "transaction=\"say\"";
    for (name, label, expected) in [
        ("email_tracker_database_transaction_seconds_count", say, "2"),
        (
            "email_tracker_database_transaction_attempt_seconds_count",
            say,
            "8",
        ),
        ("email_tracker_database_transaction_reruns_total", say, "6"),
        (
            "email_tracker_database_transaction_errors_total",
            "kind=\"transient\"",
            "1",
        ),
        (
            "email_tracker_database_transaction_errors_total",
            "kind=\"lost_connection\"",
            "0",
        ),
        ("email_tracker_database_pool_wait_seconds_count", "", "8"),
        ("email_tracker_database_pool_connections", "state=\"idle\"", "1"),
        ("email_tracker_database_pool_connections", "state=\"in_use\"", "0"),
    ] {
        assert_eq!(
            value(name, label).as_deref(),
            Some(expected),
            "{name} {label}\n{text}"
        );
    }
}
