//! What has to be done from time to time, whether facts come or not.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracking::Clock;

use crate::{
    addresses::{Addresses, Shortened},
    erase::Erased,
    range::Range,
    retention::Removed,
    workers::Recorder,
};

/// A month is known long before it begins; nobody counts the minutes of what is to be removed.
const PERIOD: Duration = Duration::from_mins(10);
/// The database may be away or not migrated yet.
const PERIOD_AFTER_FAILURE: Duration = Duration::from_secs(15);
/// How many transactions of one task run before the others have their turn.
const MOST_STEPS: u32 = 200;
/// A task that does a bounded part at a time has more to do.
const PERIOD_WITH_MORE: Duration = Duration::from_secs(1);

/// How long a burst waits until it is looked for, so that hits that a pixel had to keep for a while are there.
const BURSTS_AFTER_MS: i64 = 2 * 60 * 1_000;

/// How long an erasure may take before it counts as cut off.
const ERASURES_AFTER_MS: i64 = 5 * 60 * 1_000;

/// What upkeep does, each time it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Makes the partitions of this month and the next, so that no hit has to wait for its own.
    Partitions,
    /// Removes what was erased and is there nevertheless.
    Erasures,
    /// Removes what `email-tracker doctor` left.
    Doctor,
    /// Removes what is older than the operator wants it kept.
    Retention,
    /// Shortens the addresses that are older than the operator wants to know them.
    Addresses,
    /// Finds the hits of machines that fetch the pixels of many mails at once.
    Bursts,
    /// Counts the opens that charts show.
    Charts,
}

impl Task {
    /// All of them.
    pub(crate) const ALL: [Self; 7] = [
        Self::Partitions,
        Self::Erasures,
        Self::Doctor,
        Self::Retention,
        Self::Addresses,
        Self::Bursts,
        Self::Charts,
    ];

    /// Its name as a metric label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Partitions => "partitions",
            Self::Erasures => "erasures",
            Self::Doctor => "doctor",
            Self::Retention => "retention",
            Self::Addresses => "addresses",
            Self::Bursts => "bursts",
            Self::Charts => "charts",
        }
    }
}

/// How long to keep what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keeping {
    /// Before when nothing is kept.
    pub(crate) range: Range,
    /// Whether emails stay, with their counts, when all their hits are gone.
    pub(crate) counts: bool,
    /// For how long addresses are kept in full.
    pub(crate) addresses: Addresses,
}

/// Does all tasks again and again, until `stop`.
pub(crate) async fn run(
    recorder: Recorder,
    keeping: Keeping,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // What is under way is rolled back: the next recorder does it.
    stop.run_until_cancelled(keep_up(&recorder, keeping, &*clock))
        .await;
    Ok(())
}

async fn keep_up(recorder: &Recorder, keeping: Keeping, clock: &dyn Clock) {
    loop {
        let mut nap = PERIOD;
        for task in Task::ALL {
            let done = perform(task, recorder, keeping, clock).await;
            recorder.metrics().kept_up(task, done.is_ok());
            match done {
                Ok(Done::All) => {}
                Ok(Done::Part) => nap = nap.min(PERIOD_WITH_MORE),
                Err(error) => {
                    tracing::warn!(task = task.as_str(), %error, "upkeep failed; trying again soon");
                    nap = nap.min(PERIOD_AFTER_FAILURE);
                }
            }
        }
        tokio::time::sleep(nap).await;
    }
}

/// How much of a task was done.
enum Done {
    All,
    Part,
}

async fn perform(
    task: Task,
    recorder: &Recorder,
    keeping: Keeping,
    clock: &dyn Clock,
) -> Result<Done, database::Error> {
    match task {
        Task::Partitions => recorder.ensure_partitions_ahead(clock.now()).await?,
        Task::Erasures => {
            let now = clock.now();
            let before = now.saturating_add_millis(-ERASURES_AFTER_MS);
            if let Some(Erased { emails, hits, marks }) = recorder.finish_erasures(before, now).await? {
                tracing::info!(emails, hits, marks, "finished an erasure that had been cut off");
            }
        }
        Task::Doctor => {
            let count = recorder.remove_doctor_emails(clock.now()).await?;
            if count > 0 {
                tracing::info!(count, "removed what `email-tracker doctor` had left");
            }
        }
        Task::Retention => {
            if let Some(floor) = keeping.range.floor(clock.now()) {
                let removed = recorder.remove_older_than(floor, keeping.counts).await?;
                if removed != Removed::default() {
                    let Removed {
                        months,
                        marks,
                        emails,
                    } = removed;
                    tracing::info!(months, marks, emails, "removed what is older than RETENTION_DAYS");
                }
            }
        }
        Task::Addresses => {
            if let Some(floor) = keeping.addresses.floor(clock.now()) {
                let Shortened { hits, marks, more } = recorder.shorten_addresses(floor, MOST_STEPS).await?;
                if hits + marks > 0 {
                    tracing::info!(
                        hits,
                        marks,
                        "shortened the addresses that are older than ANONYMIZE_DAYS"
                    );
                }
                if more {
                    return Ok(Done::Part);
                }
            }
        }
        Task::Bursts => {
            let before = clock.now().saturating_add_millis(-BURSTS_AFTER_MS);
            let (hits, more) = recorder.find_bursts(before, MOST_STEPS).await?;
            if hits > 0 {
                tracing::info!(
                    hits,
                    "one address fetched the pixels of many mails within seconds"
                );
            }
            if more {
                return Ok(Done::Part);
            }
        }
        Task::Charts => {
            let (slots, more) = recorder.recount_slots(clock.now(), MOST_STEPS).await?;
            tracing::debug!(slots, "counted opens for charts");
            if more {
                return Ok(Done::Part);
            }
        }
    }
    Ok(Done::All)
}
