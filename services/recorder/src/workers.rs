//! A batch is split over workers by email, and each share is recorded in a transaction of its own; where emails lie in
//! shards, in one for each shard.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    num::NonZeroUsize,
    sync::{Arc, OnceLock},
    time::Duration,
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
    erase::{Erased, Eraser, Erasure, Subject},
    geo::{Geo, GeoDatabase},
    metrics::Metrics,
    partitions::{Month, Partitions},
    reassess::{self, Reclassified},
    record::{Batch, Recording, is_missing_partition, judge_alone},
    retention::{self, Removed},
    sessions,
    shards::{Layout, Shards},
    slots,
    webhooks::{Outbox, Telling},
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
    /// What says where addresses are.
    pub geoip_database: GeoDatabase,
}

struct Shared {
    database: Database,
    partitions: Partitions,
    shards: Shards,
    rules: Rules,
    describer: Describer,
    workers: Vec<Worker>,
    /// The row of `revisions` for what is done from time to time.
    upkeep: String,
    metrics: Metrics,
    /// Where new opens are left for those who are to be told.
    outbox: OnceLock<Arc<Outbox>>,
}

/// Facts of an email meet in one worker, where they take turns before they take a connection: no two workers of a
/// recorder wait for each other in the database.
struct Worker {
    /// Its row of `revisions`.
    writer: String,
    turn: Mutex<()>,
}

/// Facts for one transaction, with the place of each in the batch.
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
        let geo = Arc::new(Geo::open(&geoip_database)?);
        let metrics = Metrics::new(meter);
        metrics.geoip_taken_over(geo.built_at());
        metrics.workers(workers.get());
        let describer = Describer::new(Devices::new()?, geo, rules.agents.clone());
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
            shards: Shards::default(),
            rules,
            describer,
            workers,
            upkeep,
            metrics,
            outbox: OnceLock::new(),
        })))
    }

    /// Leaves new opens in `telling`'s outbox from now on.
    pub fn tell(&self, telling: &Telling) {
        // Whom to tell does not change in a process's life.
        let _ = self.0.outbox.set(telling.outbox());
    }

    /// The recorder's instruments.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Where it looks places up.
    pub(crate) fn geo(&self) -> Arc<Geo> {
        Arc::clone(self.0.describer.geo())
    }

    /// Makes the partitions of the month of `now` and of the next, so that no hit has to wait for its own.
    pub async fn ensure_partitions_ahead(&self, now: Timestamp) -> Result<(), Error> {
        self.0.partitions.ensure_ahead(&self.0.database, now).await
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
        let removed = retention::run(
            &self.0.database,
            &self.0.shards,
            &self.0.upkeep,
            floor,
            keep_counts,
        )
        .await;
        self.0.partitions.forget_before(floor);
        let removed = removed?;
        self.0.metrics.removed(removed);
        Ok(removed)
    }

    /// Shortens the client addresses of hits and marks that are older than `floor`, and makes their dedup keys those of the
    /// shortened ones, in `most_steps` transactions at most; answers how many, and whether there may be more.
    ///
    /// May be cut off and begun again anywhere. After an error part of it may be done.
    pub async fn shorten_addresses(&self, floor: Timestamp, most_steps: u32) -> Result<Shortened, Error> {
        addresses::run(
            &self.0.database,
            &self.0.shards,
            &self.0.upkeep,
            floor,
            most_steps,
        )
        .await
    }

    /// Classifies some hits before `now` by the present rules, the oldest that are not yet; to be called until it says that
    /// these were all. Called again after that, it begins anew.
    ///
    /// May be cut off and begun again anywhere, and facts be recorded meanwhile.
    pub async fn reclassify(&self, now: Timestamp) -> Result<Reclassified, Error> {
        let shared = &self.0;
        reassess::reclassify(
            &shared.database,
            &shared.shards,
            &shared.upkeep,
            &shared.rules.agents,
            now,
        )
        .await
    }

    /// Takes for machines' the hits before `before` by which one address fetched the pixels of many mails within seconds,
    /// in so many steps at most; answers how many hits, and whether there may be more.
    pub async fn find_bursts(&self, before: Timestamp, most_steps: u32) -> Result<(u64, bool), Error> {
        let shared = &self.0;
        reassess::find_bursts(
            &shared.database,
            &shared.shards,
            &shared.upkeep,
            shared.rules.burst_mails,
            before,
            most_steps,
        )
        .await
    }

    /// Counts anew, for charts, the opens of the quarters of an hour that are over at `now` and in which any have changed, but
    /// of no more than `most` quarters; answers how many, and whether there may be more.
    pub async fn recount_slots(&self, now: Timestamp, most: u32) -> Result<(u64, bool), Error> {
        slots::recount(&self.0.database, now, most).await
    }

    /// Erases `subject`, as much of it as `patience` allows: what is stored of it goes, and what comes of it later is refused.
    ///
    /// May be cut off and begun again anywhere. After an error part of it may be done.
    pub async fn erase(
        &self,
        subject: &Subject,
        now: Timestamp,
        patience: Duration,
    ) -> Result<Erasure, Error> {
        let done = self.eraser().erase(subject, now, patience).await;
        self.0.metrics.erasure(subject.kind(), done.is_ok());
        if let Ok(done) = &done {
            self.0.metrics.erased(done.erased);
        }
        done
    }

    /// Removes what was erased and is there nevertheless: because an erasure asked for before `before` was cut off, or an
    /// older state of the database was restored. `None` if there is no reason to look.
    pub async fn finish_erasures(&self, before: Timestamp, now: Timestamp) -> Result<Option<Erased>, Error> {
        let erased = self.eraser().finish(before, now).await?;
        self.0.metrics.erased(erased.unwrap_or_default());
        Ok(erased)
    }

    fn eraser(&self) -> Eraser<'_> {
        Eraser {
            database: &self.0.database,
            shards: &self.0.shards,
            writer: &self.0.upkeep,
        }
    }

    /// Ends all sessions of the dashboard that have begun before.
    pub(crate) async fn end_sessions(&self, now: Timestamp) -> Result<(), Error> {
        let ended = sessions::end(&self.0.database, now).await;
        self.0.metrics.sessions_ended(ended.is_ok());
        ended
    }

    /// Records `facts`, each of which has passed [`Fact::check`]; answers, after the commit, what became of each, in
    /// their order.
    ///
    /// After an error any part of the facts may be stored. They can all be given again.
    pub async fn record(&self, facts: Vec<Fact>) -> Result<Vec<Outcome>, Error> {
        let mut outcomes = vec![Outcome::AlreadyKnown; facts.len()];
        let mut running = JoinSet::new(); // if this is cancelled, so are they
        for (worker, shares) in self.0.split(facts).await?.into_iter().enumerate() {
            if !shares.is_empty() {
                let shared = Arc::clone(&self.0);
                running.spawn(async move { shared.record_shares(worker, shares).await }.in_current_span());
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
}

impl Shared {
    /// What each worker is to record, a transaction for each share. All facts of an email go to one worker, and one shard's
    /// to one transaction.
    async fn split(&self, facts: Vec<Fact>) -> Result<Vec<Vec<Share>>, Error> {
        let numbered: Share = facts.into_iter().enumerate().collect();
        let of_shards = match self.shards.layout(&self.database).await? {
            Layout::Whole => by_hash(numbered, self.workers.len()),
            Layout::Sharded => {
                self.shards
                    .split(&self.database, numbered, |(_, fact)| fact.email_id())
                    .await?
            }
        };
        let mut shares: Vec<Vec<Share>> = self.workers.iter().map(|_| Vec::new()).collect();
        let count = i64::try_from(shares.len()).unwrap_or(1).max(1);
        for (number, share) in of_shards {
            let worker = usize::try_from(number.rem_euclid(count)).unwrap_or_default();
            if let Some(of_worker) = shares.get_mut(worker) {
                of_worker.push(share);
            }
        }
        Ok(shares)
    }

    async fn record_shares(&self, worker: usize, shares: Vec<Share>) -> Result<Vec<(usize, Outcome)>, Error> {
        let Some(worker) = self.workers.get(worker) else {
            return Ok(Vec::new());
        };
        let mut done = Vec::new();
        for share in shares {
            let (places, facts): (Vec<usize>, Vec<Fact>) = share.into_iter().unzip();
            let outcomes = self
                .record_batch(worker, &Batch::of(facts, &self.describer))
                .await
                .inspect_err(|error| self.shards.look_again_after(error))?;
            done.extend(places.into_iter().zip(outcomes));
        }
        Ok(done)
    }

    async fn record_batch(&self, worker: &Worker, batch: &Batch) -> Result<Vec<Outcome>, Error> {
        let recording = Recording {
            batch,
            alone: &judge_alone(&self.rules, batch),
            rules: &self.rules,
            layout: self.shards.layout(&self.database).await?,
            writer: &worker.writer,
            outbox: self.outbox.get().map(Arc::as_ref),
        };
        let months: BTreeSet<Month> = batch.hit_times().filter_map(Month::of).collect();

        let _turn = worker.turn.lock().await;
        let _busy = self.metrics.busy_worker();
        self.partitions.ensure(&self.database, &months).await?;
        let recorded = match self.database.transact(&recording).await {
            Err(error) if is_missing_partition(&error) => {
                self.partitions.ensure_again(&self.database, &months).await?;
                self.database.transact(&recording).await?
            }
            done => done?,
        };
        self.metrics.recorded(recorded.new_emails, recorded.corrected);
        if let Some(outbox) = self.outbox.get().filter(|_| recorded.to_tell) {
            outbox.wake();
        }
        Ok(recorded.outcomes)
    }
}

/// Deals facts out by the hash of their email, in so many shares.
fn by_hash(facts: Share, count: usize) -> BTreeMap<i64, Share> {
    let count = u64::try_from(count).unwrap_or(1).max(1);
    let mut shares: BTreeMap<i64, Share> = BTreeMap::new();
    for (place, fact) in facts {
        let mut hasher = DefaultHasher::new();
        fact.email_id().hash(&mut hasher);
        let number = i64::try_from(hasher.finish() % count).unwrap_or_default();
        shares.entry(number).or_default().push((place, fact));
    }
    shares
}
