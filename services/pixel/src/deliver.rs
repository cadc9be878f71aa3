//! Delivering a folder without a pixel: an orphaned spool, or what was set aside and may be welcome now.
//!
//! Both take the folder as a running pixel does, so they are refused while one has it.

use std::{
    io,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use opentelemetry::metrics::Meter;
use recorder_api::{EncodedFactsClient, MAX_BATCH_FACTS};
use recorder_client::RecorderSettings;
use tokio_util::sync::CancellationToken;
use tracking::Clock;

use crate::{
    forward::{BATCH_BYTES, Delivered, Forwarder},
    metrics::{ForwardMetrics, RequestCounts},
    spool::{Folder, SetAsideFact},
};

/// Sends all facts of a spool. Failures are retried until `give_up`; what is unsent then is `left`.
pub async fn drain(
    folder: Folder,
    recorder: &RecorderSettings,
    clock: Arc<dyn Clock>,
    meter: &Meter,
    give_up: CancellationToken,
) -> Delivered {
    let mut forwarder = forwarder(folder, recorder, clock, meter, give_up.clone());
    forwarder.run(give_up).await;
    let left = forwarder.lock_reader().holds().unsent;
    Delivered {
        left,
        ..forwarder.delivered
    }
}

/// Sends once more what is set aside. What is refused again stays set aside, with its new reason; failures are retried
/// until `give_up`. A file of which anything is still unanswered then stays as it is.
pub async fn resend(
    folder: Folder,
    recorder: &RecorderSettings,
    clock: Arc<dyn Clock>,
    meter: &Meter,
    give_up: CancellationToken,
) -> io::Result<Delivered> {
    let mut forwarder = forwarder(folder, recorder, clock, meter, give_up.clone());
    // What is refused again goes to a new file, which is not one of these.
    let files = forwarder.lock_reader().set_aside_files();
    for _ in 0..files {
        let Some(refused) = resend_oldest(&mut forwarder, &give_up).await? else {
            break;
        };
        forwarder
            .lock_reader()
            .replace_oldest_set_aside(&refused)
            .map_err(io::Error::other)?;
        forwarder.delivered.set_aside += u64::try_from(refused.len()).unwrap_or(u64::MAX);
    }
    let left = forwarder
        .lock_reader()
        .counts()
        .set_aside
        .load(std::sync::atomic::Ordering::Relaxed);
    Ok(Delivered {
        left,
        ..forwarder.delivered
    })
}

/// Sends the oldest file's facts; gives those refused again, or `None` if there was no time for all of them.
async fn resend_oldest(
    forwarder: &mut Forwarder,
    give_up: &CancellationToken,
) -> io::Result<Option<Vec<SetAsideFact>>> {
    let kept = forwarder.lock_reader().oldest_set_aside()?;
    let mut refused = Vec::new();
    for batch in batches(kept.into_iter().map(|kept| kept.fact.into()).collect()) {
        match forwarder.settle(&batch, give_up).await {
            Some(again) => refused.extend(again),
            None => return Ok(None),
        }
    }
    Ok(Some(refused))
}

fn forwarder(
    folder: Folder,
    recorder: &RecorderSettings,
    clock: Arc<dyn Clock>,
    meter: &Meter,
    give_up: CancellationToken,
) -> Forwarder {
    Forwarder {
        reader: Arc::new(Mutex::new(folder.into_reader())),
        client: EncodedFactsClient::new(recorder_client::channel(recorder.urls.clone())),
        token: recorder.authorization(),
        metrics: ForwardMetrics::new(meter, Arc::clone(&clock)),
        clock,
        counts: Arc::new(RequestCounts::default()),
        until_empty: true,
        give_up,
        most_facts: MAX_BATCH_FACTS,
        delivered: Delivered::default(),
    }
}

/// Splits facts by the bounds of a batch.
fn batches(facts: Vec<Bytes>) -> Vec<Vec<Bytes>> {
    let mut batches: Vec<Vec<Bytes>> = Vec::new();
    let mut bytes = 0;
    for fact in facts {
        bytes += fact.len();
        match batches.last_mut() {
            Some(last) if last.len() < MAX_BATCH_FACTS && bytes <= BATCH_BYTES => last.push(fact),
            _ => {
                bytes = fact.len();
                batches.push(vec![fact]);
            }
        }
    }
    batches
}
