//! What has to be done from time to time, whether facts come or not.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracking::Clock;

use crate::{partitions::Month, workers::Recorder};

/// A month is known long before it begins; nobody counts the minutes of what is to be removed.
const PERIOD: Duration = Duration::from_mins(10);
/// The database may be away or not migrated yet.
const PERIOD_AFTER_FAILURE: Duration = Duration::from_secs(15);

/// Makes the partitions of this month and the next, so that no hit has to wait for its own, and removes what `doctor` left.
pub(crate) async fn run(
    recorder: Recorder,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    // What is under way is rolled back: the next recorder does it.
    stop.run_until_cancelled(keep_up(&recorder, &*clock)).await;
    Ok(())
}

async fn keep_up(recorder: &Recorder, clock: &dyn Clock) {
    loop {
        let mut nap = PERIOD;
        if let Err(error) = recorder.ensure_partitions(&months_ahead(clock)).await {
            tracing::warn!(%error, "partitions were not made ahead; trying again in {PERIOD_AFTER_FAILURE:?}");
            nap = PERIOD_AFTER_FAILURE;
        }
        match recorder.remove_doctor_emails(clock.now()).await {
            Ok(0) => {}
            Ok(count) => tracing::info!(count, "removed what `email-tracker doctor` had left"),
            Err(error) => {
                tracing::warn!(%error, "what `email-tracker doctor` left was not removed; trying again in {PERIOD_AFTER_FAILURE:?}");
                nap = PERIOD_AFTER_FAILURE;
            }
        }
        tokio::time::sleep(nap).await;
    }
}

fn months_ahead(clock: &dyn Clock) -> BTreeSet<Month> {
    let this = Month::of(clock.now());
    this.into_iter().chain(this.and_then(Month::next)).collect()
}
