//! The instruments of the pool and its transactions.

use std::time::Duration;

use deadpool_postgres::Pool;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter},
};

use crate::{Error, ErrorKind};

/// From a prepared lookup on the same machine to a transaction that waited for another's locks.
const SECONDS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pool_wait: Histogram<f64>,
    attempt: Histogram<f64>,
    transaction: Histogram<f64>,
    reruns: Counter<u64>,
    errors: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new(meter: &Meter, pool: &Pool) -> Self {
        observe_connections(meter, pool.clone());
        let seconds = |name: &'static str, description: &'static str| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(description)
                .with_boundaries(SECONDS.to_vec())
                .build()
        };
        Self {
            pool_wait: seconds(
                "email_tracker.database.pool.wait",
                "Time until a connection of the pool was at hand, a new one's creation included",
            ),
            attempt: seconds(
                "email_tracker.database.transaction.attempt",
                "One attempt of a transaction, from BEGIN to COMMIT or failure",
            ),
            transaction: seconds(
                "email_tracker.database.transaction",
                "A transaction with its wait for a connection, its reruns and their pauses",
            ),
            reruns: meter
                .u64_counter("email_tracker.database.transaction.reruns")
                .with_description("Transactions rerun after a serialization failure or a deadlock")
                .build(),
            errors: meter
                .u64_counter("email_tracker.database.transaction.errors")
                .with_description("Transactions that failed in the end, by kind of error")
                .build(),
        }
    }

    pub(crate) fn start_at_zero(&self, name: &'static str) {
        let transaction = KeyValue::new("transaction", name);
        self.reruns.add(0, std::slice::from_ref(&transaction));
        for kind in ErrorKind::ALL {
            let labels = [transaction.clone(), KeyValue::new("kind", kind.label())];
            self.errors.add(0, &labels);
        }
    }

    pub(crate) fn waited(&self, time: Duration) {
        self.pool_wait.record(time.as_secs_f64(), &[]);
    }

    pub(crate) fn attempted(&self, name: &'static str, time: Duration) {
        self.attempt
            .record(time.as_secs_f64(), &[KeyValue::new("transaction", name)]);
    }

    /// Counts a finished transaction.
    pub(crate) fn finished<T>(
        &self,
        name: &'static str,
        time: Duration,
        reruns: u32,
        result: &Result<T, Error>,
    ) {
        let transaction = KeyValue::new("transaction", name);
        self.transaction
            .record(time.as_secs_f64(), std::slice::from_ref(&transaction));
        self.reruns
            .add(u64::from(reruns), std::slice::from_ref(&transaction));
        let failed_with = |kind: ErrorKind| [transaction.clone(), KeyValue::new("kind", kind.label())];
        match result {
            Ok(_) => {}
            Err(error) => self.errors.add(1, &failed_with(error.kind())),
        }
    }
}

/// The pool's connections are counted when somebody asks.
fn observe_connections(meter: &Meter, pool: Pool) {
    meter
        .u64_observable_gauge("email_tracker.database.pool.connections")
        .with_description("Connections of the pool, by state, and callers that wait for one")
        .with_callback(move |observer| {
            let status = pool.status();
            let in_use = status.size.saturating_sub(status.available);
            for (state, count) in [
                ("idle", status.available),
                ("in_use", in_use),
                ("waited_for", status.waiting),
            ] {
                observer.observe(
                    u64::try_from(count).unwrap_or(u64::MAX),
                    &[KeyValue::new("state", state)],
                );
            }
        })
        .build();
}
