//! A batch is split over workers by email, and each share is recorded in a transaction of its own.

use std::{
    collections::BTreeSet,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
};

use database::{Database, Error};
use opentelemetry::metrics::Meter;
use recorder_api::Outcome;
use tokio::{sync::Mutex, task::JoinSet};
use tracing::Instrument;
use tracking::{Fact, Rules, Timestamp};

use crate::{
    addresses::{self, Shortened},
    describe::Describer,
    device::Devices,
    doctor,
    geo::Places,
    metrics::Metrics,
    partitions::{Month, Partitions},
    record::{Batch, Recording, is_missing_partition},
    retention::{self, Removed},
};

/// Records facts. Clones share everything.
#[derive(Clone)]
pub struct Recorder(Arc<Shared>);

/// What a recorder goes by.
#[derive(Clone, Debug)]
pub struct RecorderConfig {
    /// Names this recorder among all that record into the same database, the same after each start.
    pub instance: String,
    /// How many transactions it runs at once, each on a connection of its own.
    pub workers: NonZeroUsize,
    /// What the operator set about verdicts.
    pub rules: Rules,
    /// A MaxMind DB file that says where addresses are.
    pub geoip_database: Option<PathBuf>,
}

struct Shared {
    database: Database,
    partitions: Partitions,
    rules: Rules,
    describer: Describer,
    workers: Vec<Worker>,
    /// The row of `revisions` for what is done from time to time.
    upkeep: String,
    metrics: Metrics,
}

/// Facts of an email meet in one worker, where they take turns before they take a connection: no two workers of a
/// recorder wait for each other in the database.
struct Worker {
    /// Its row of `revisions`.
    writer: String,
    turn: Mutex<()>,
}

/// Facts for one worker, with the place of each in the batch.
type Share = Vec<(usize, Fact)>;

impl fmt::Debug for Recorder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Recorder({} workers)", self.0.workers.len())
    }
}

impl Recorder {
    /// A recorder into `database`. Fails, by name, if the GeoIP database cannot be read.
    pub fn new(database: Database, config: RecorderConfig, meter: &Meter) -> anyhow::Result<Self> {
        let RecorderConfig {
            instance,
            workers,
            rules,
            geoip_database,
        } = config;
        let places = geoip_database.as_deref().map(Places::open).transpose()?;
        let describer = Describer::new(Devices::new()?, places);
        let metrics = Metrics::new(meter);
        metrics.workers(workers.get());
        let workers = (0..workers.get())
            .map(|number| Worker {
                writer: format!("{instance}/{number}"),
                turn: Mutex::default(),
            })
            .collect();
        let partitions = Partitions::new(metrics.clone());
        let upkeep = format!("{instance}/upkeep");
        Ok(Self(Arc::new(Shared {
            database,
            partitions,
            rules,
            describer,
            workers,
            upkeep,
            metrics,
        })))
    }

    /// The recorder's instruments.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Sees to it that hits of `months` find their partitions.
    pub(crate) async fn ensure_partitions(&self, months: &BTreeSet<Month>) -> Result<(), Error> {
        self.0.partitions.ensure(&self.0.database, months).await
    }

    /// Removes the emails that `email-tracker doctor` made up, once they are as old as [`tracking::doctor::KEPT_MS`] at
    /// `now`; answers how many.
    pub async fn remove_doctor_emails(&self, now: Timestamp) -> Result<u64, Error> {
        let before = now.saturating_add_millis(-tracking::doctor::KEPT_MS);
        doctor::remove(&self.0.database, &self.0.upkeep, before).await
    }

    /// Removes what is older than `floor`: whole months of hits, their marks, and, unless `keep_counts`, emails that
    /// nothing is left of.
    ///
    /// May be cut off and begun again anywhere. After an error part of it may be done.
    pub async fn remove_older_than(&self, floor: Timestamp, keep_counts: bool) -> Result<Removed, Error> {
        let removed = retention::run(&self.0.database, &self.0.upkeep, floor, keep_counts).await?;
        if removed.months > 0 {
            self.0.partitions.forget_before(floor);
        }
        self.0.metrics.removed(removed);
        Ok(removed)
    }

    /// Shortens the client addresses of hits and marks that are older than `floor`, and makes their dedup keys those of the
    /// shortened ones, in `most_steps` transactions at most; answers how many, and whether there may be more.
    ///
    /// May be cut off and begun again anywhere. After an error part of it may be done.
    pub async fn shorten_addresses(&self, floor: Timestamp, most_steps: u32) -> Result<Shortened, Error> {
        addresses::run(&self.0.database, &self.0.upkeep, floor, most_steps).await
    }

    /// Records `facts`, each of which has passed [`Fact::check`]; answers, after the commit, what became of each, in
    /// their order.
    ///
    /// After an error any part of the facts may be stored. They can all be given again.
    pub async fn record(&self, facts: Vec<Fact>) -> Result<Vec<Outcome>, Error> {
        let mut outcomes = vec![Outcome::AlreadyKnown; facts.len()];
        let mut running = JoinSet::new(); // if this is cancelled, so are they
        for (worker, share) in self.split(facts).into_iter().enumerate() {
            if !share.is_empty() {
                let shared = Arc::clone(&self.0);
                running.spawn(async move { shared.record_share(worker, share).await }.in_current_span());
            }
        }
        let mut failed = None;
        while let Some(done) = running.join_next().await {
            match done {
                Ok(Ok(places)) => {
                    for (place, outcome) in places {
                        if let Some(slot) = outcomes.get_mut(place) {
                            *slot = outcome;
                        }
                    }
                }
                Ok(Err(error)) => failed = failed.or(Some(error)),
                Err(panicked) => {
                    tracing::error!(%panicked, "a worker panicked");
                    failed = failed.or(Some(Error::unexpected("a worker panicked")));
                }
            }
        }
        failed.map_or(Ok(outcomes), Err)
    }

    /// All facts of an email go to one worker.
    fn split(&self, facts: Vec<Fact>) -> Vec<Share> {
        let mut shares: Vec<Share> = self.0.workers.iter().map(|_| Share::new()).collect();
        let count = u64::try_from(shares.len()).unwrap_or(1).max(1);
        for (place, fact) in facts.into_iter().enumerate() {
            let mut hasher = DefaultHasher::new();
            fact.email_id().hash(&mut hasher);
            let worker = usize::try_from(hasher.finish() % count).unwrap_or_default();
            if let Some(share) = shares.get_mut(worker) {
                share.push((place, fact));
            }
        }
        shares
    }
}

impl Shared {
    async fn record_share(&self, worker: usize, share: Share) -> Result<Vec<(usize, Outcome)>, Error> {
        let (places, facts): (Vec<usize>, Vec<Fact>) = share.into_iter().unzip();
        let Some(worker) = self.workers.get(worker) else {
            return Ok(Vec::new());
        };
        let outcomes = self
            .record_batch(worker, &Batch::of(facts, &self.describer))
            .await?;
        Ok(places.into_iter().zip(outcomes).collect())
    }

    async fn record_batch(&self, worker: &Worker, batch: &Batch) -> Result<Vec<Outcome>, Error> {
        let recording = Recording {
            batch,
            rules: &self.rules,
            writer: &worker.writer,
        };
        let months: BTreeSet<Month> = batch.hit_times().filter_map(Month::of).collect();

        let _turn = worker.turn.lock().await;
        let _busy = self.metrics.busy_worker();
        self.partitions.ensure(&self.database, &months).await?;
        let recorded = match self.database.transact(&recording).await {
            Err(error) if is_missing_partition(&error) => {
                self.partitions.forget(&months); // dropped since
                self.partitions.ensure(&self.database, &months).await?;
                self.database.transact(&recording).await?
            }
            done => done?,
        };
        self.metrics.recorded(recorded.new_emails, recorded.corrected);
        Ok(recorded.outcomes)
    }
}
