//! Delivering a folder without a pixel: an orphaned spool, or what was set aside and may be welcome now.
//!
//! Both take the folder as a running pixel does, so they are refused while one has it.

use std::{
    io,
    sync::{Arc, Mutex},
};

use opentelemetry::metrics::Meter;
use recorder_api::MAX_BATCH_FACTS;
use tokio_util::sync::CancellationToken;
use tracking::Clock;

use crate::{
    forward::{self, BATCH_BYTES, Delivered, Forwarder},
    metrics::{ForwardMetrics, RequestCounts},
    recorders,
    settings::RecorderSettings,
    spool::Folder,
};

/// Sends all facts of a spool. Failures are retried until `give_up`; what is unsent then is `left`.
pub async fn drain(
    folder: Folder,
    recorder: &RecorderSettings,
    clock: Arc<dyn Clock>,
    meter: &Meter,
    give_up: CancellationToken,
) -> Delivered {
    let mut forwarder = forwarder(folder, recorder, clock, meter);
    forwarder.run(give_up).await;
    let left = forwarder.lock_reader().holds().unsent;
    Delivered {
        left,
        ..forwarder.delivered
    }
}

/// Sends once more what is set aside. What is refused again stays set aside, with its new reason; failures are retried
/// until `give_up`.
pub async fn resend(
    folder: Folder,
    recorder: &RecorderSettings,
    clock: Arc<dyn Clock>,
    meter: &Meter,
    give_up: CancellationToken,
) -> io::Result<Delivered> {
    let mut forwarder = forwarder(folder, recorder, clock, meter);
    // What is refused again goes to a new file, which is not one of these.
    let files = forwarder.lock_reader().set_aside_files();
    for _ in 0..files {
        let kept = forwarder.lock_reader().oldest_set_aside()?;
        let facts = kept.into_iter().map(|kept| kept.fact).collect();
        for batch in batches(facts) {
            if !forwarder.settle(&batch, &give_up).await {
                break;
            }
        }
        if give_up.is_cancelled() {
            break;
        }
        forwarder.lock_reader().remove_oldest_set_aside()?;
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

fn forwarder(folder: Folder, recorder: &RecorderSettings, clock: Arc<dyn Clock>, meter: &Meter) -> Forwarder {
    Forwarder {
        reader: Arc::new(Mutex::new(folder.into_reader())),
        client: forward::client(recorders::channel(recorder.urls.clone())),
        token: recorder.authorization(),
        metrics: ForwardMetrics::new(meter, Arc::clone(&clock)),
        clock,
        counts: Arc::new(RequestCounts::default()),
        until_empty: true,
        delivered: Delivered::default(),
    }
}

/// Splits facts by the bounds of a batch.
fn batches(facts: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    let mut batches: Vec<Vec<Vec<u8>>> = Vec::new();
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
