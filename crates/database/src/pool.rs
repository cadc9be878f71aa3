//! The pool, and transactions by name.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use opentelemetry::metrics::Meter;
use tokio_postgres::IsolationLevel;

use crate::{Config, ConfigError, Error, ErrorKind, SchemaError, Session, metrics::Metrics};

pub use deadpool_postgres::{Client, Transaction};

/// Reruns of one transaction; with the pauses between them, about a second.
const MAX_RERUNS: u32 = 6;

/// One transaction as a value.
///
/// It may run several times, each time from the beginning, so [`run`](Self::run) touches nothing but `tx`. An error of
/// a statement must be returned: after it, PostgreSQL turns the COMMIT into a ROLLBACK without a word.
pub trait Work: Sync {
    /// The transaction's name in metrics, errors and SQL comments.
    const NAME: &'static str;
    /// The isolation level. Under READ COMMITTED each statement sees what others have committed before it.
    const ISOLATION: IsolationLevel = IsolationLevel::ReadCommitted;
    /// Whether the transaction only reads.
    const READ_ONLY: bool = false;
    /// What a committed transaction yields.
    type Output: Send;

    /// The statements, between BEGIN and COMMIT. Statements should be prepared by `tx.prepare_cached`.
    fn run(&self, tx: &Transaction<'_>) -> impl Future<Output = Result<Self::Output, Error>> + Send;
}

/// A pool of connections to one database. Clones share it.
#[derive(Clone, Debug)]
pub struct Database {
    pool: Pool,
    session: Session,
    attempt_limit: Duration,
    metrics: Metrics,
}

impl Database {
    /// Makes the pool; it connects when it is first used, and again whenever a connection is lost.
    pub fn open(config: &Config, meter: &Meter) -> Result<Self, ConfigError> {
        let manager = Manager::from_config(
            config.driver_config(),
            config.tls_connector()?,
            ManagerConfig {
                recycling_method: RecyclingMethod::Fast,
            },
        );
        let session = config.session_settings().clone();
        let pool = Pool::builder(manager)
            .max_size(config.connections())
            .wait_timeout(Some(config.wait_limit()))
            .create_timeout(Some(config.connect_limit()))
            .runtime(Runtime::Tokio1)
            .post_create(apply_session(&session))
            .build()
            .map_err(|error| config.error(error.to_string()))?;
        let metrics = Metrics::new(meter, &pool);
        Ok(Self {
            pool,
            session,
            attempt_limit: config.attempt_limited_to(),
            metrics,
        })
    }

    /// Has the counters of these transactions, by [`Work::NAME`], begin at zero now. A counter that appears with its
    /// first error already in it has not risen, as Prometheus sees it.
    #[must_use]
    pub fn counting(self, transactions: &[&'static str]) -> Self {
        for name in transactions {
            self.metrics.start_at_zero(name);
        }
        self
    }

    /// Runs `work` in one transaction and commits it.
    ///
    /// After a serialization failure or a deadlock it is rerun a few times, with growing random pauses. After a lost
    /// connection it is not: whether it was committed is unknown then.
    pub async fn transact<W: Work>(&self, work: &W) -> Result<W::Output, Error> {
        let started = Instant::now();
        let mut reruns = 0;
        let result = loop {
            match self.attempt(work).await {
                Err(error) if error.is_transient() && reruns < MAX_RERUNS => {
                    reruns += 1;
                    tracing::debug!(transaction = W::NAME, %error, reruns, "transaction is rerun");
                    tokio::time::sleep(pause_before(reruns)).await;
                }
                done => break done,
            }
        };
        self.metrics.finished(W::NAME, started.elapsed(), reruns, &result);
        result.map_err(|error| error.in_transaction(W::NAME))
    }

    async fn attempt<W: Work>(&self, work: &W) -> Result<W::Output, Error> {
        let mut client = self.client().await?;
        let started = Instant::now();
        let result = tokio::time::timeout(self.attempt_limit, async {
            let tx = self.begin(&mut client, W::ISOLATION, W::READ_ONLY).await?;
            let output = work.run(&tx).await?; // an early return drops `tx`, which rolls back
            tx.commit().await?;
            Ok(output)
        })
        .await
        .unwrap_or_else(|_| Err(Error::silent(self.attempt_limit)));
        self.metrics.attempted(W::NAME, started.elapsed());
        if result
            .as_ref()
            .is_err_and(|error: &Error| error.kind() == ErrorKind::LostConnection)
        {
            drop(Client::take(client)); // the pool may not have noticed yet, and would hand it out again
        }
        result
    }

    /// A connection of the pool, for what is no [`Work`], such as an answer that is streamed while it is read. Dropped,
    /// it goes back.
    ///
    /// With [`Session::per_transaction`], the session's settings hold only in transactions begun by
    /// [`begin`](Self::begin).
    pub async fn client(&self) -> Result<Client, Error> {
        let started = Instant::now();
        let client = self.pool.get().await;
        self.metrics.waited(started.elapsed());
        Ok(client?)
    }

    /// Begins a transaction on `client`, with the session's settings.
    pub async fn begin<'a>(
        &self,
        client: &'a mut Client,
        isolation: IsolationLevel,
        read_only: bool,
    ) -> Result<Transaction<'a>, Error> {
        let mut begin = client.build_transaction().isolation_level(isolation);
        if read_only || self.session.is_read_only() {
            begin = begin.read_only(true);
        } // else as the server says: an operator, or a provider with a full disk, may have made it read-only
        let tx = begin.start().await?;
        if let Some(settings) = self.session.on_transaction() {
            tx.batch_execute(&settings).await?;
        }
        Ok(tx)
    }

    /// Whether the database answers and its schema is new enough: what a service's readiness means.
    pub async fn check_schema(&self) -> Result<(), SchemaError> {
        let client = self.client().await?;
        crate::check_schema(&client).await
    }

    /// Closes all connections; what still uses one keeps it until it is done, and nothing gets another.
    pub fn close(&self) {
        self.pool.close();
    }
}

fn apply_session(session: &Session) -> Hook {
    let settings = session.on_connection();
    Hook::async_fn(move |client, _| {
        let settings = settings.clone();
        Box::pin(async move {
            match settings {
                Some(settings) => client.batch_execute(&settings).await.map_err(HookError::Backend),
                None => Ok(()),
            }
        })
    })
}

/// Random, so that those who collided do not collide again; at most 10, 20, 40, … 320 ms.
fn pause_before(rerun: u32) -> Duration {
    let longest = Duration::from_millis(10) * 2_u32.saturating_pow(rerun.saturating_sub(1));
    longest.mul_f64(rand::random_range(0.1..1.0))
}
