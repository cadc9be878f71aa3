//! What has to be done from time to time, whether facts come or not.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use database::Database;
use tokio_util::sync::CancellationToken;
use tracking::Clock;

use crate::partitions::{Month, Partitions};

/// A month is known long before it begins.
const PERIOD: Duration = Duration::from_secs(60 * 60);
/// The database may be away or not migrated yet.
const PERIOD_AFTER_FAILURE: Duration = Duration::from_secs(15);

/// Makes the partitions of this month and the next, so that no hit has to wait for its own.
pub(crate) async fn run(
    database: Database,
    partitions: Arc<Partitions>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let months: BTreeSet<Month> = months_ahead(&*clock).into_iter().flatten().collect();
        let nap = match partitions.ensure(&database, &months).await {
            Ok(()) => PERIOD,
            Err(error) => {
                tracing::warn!(%error, "partitions were not made ahead; the next try is in {PERIOD_AFTER_FAILURE:?}");
                PERIOD_AFTER_FAILURE
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(nap) => {}
        }
    }
}

fn months_ahead(clock: &dyn Clock) -> [Option<Month>; 2] {
    let this = Month::of(clock.now());
    [this, this.and_then(Month::next)]
}
