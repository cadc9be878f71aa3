//! The pixel: answers `GET /t/{token}.gif` and `POST /mark-suppress-next`, and has each fact in its durable spool before
//! its answer leaves. The forwarder brings them to the recorder, whenever there is one.

mod client_address;
pub mod deliver;
mod forward;
mod gif;
mod hit;
mod http;
mod mark;
mod metrics;
mod openapi;
mod settings;
pub mod spool;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, bail};
use recorder_api::{EncodedFactsClient, MAX_BATCH_FACTS};
use service_kit::{
    Health, Metrics, Readiness, Surroundings, Tasks, admin,
    http::{Lanes, Limits},
};
use tokio::{runtime::Handle, task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use tracking::Clock;

pub use crate::{
    forward::Delivered,
    gif::GIF,
    settings::{SETTINGS, Settings},
};
use crate::{
    forward::Forwarder,
    gif::GifResponse,
    http::App,
    metrics::{ForwardMetrics, Progress, RequestCounts},
    spool::{
        Ended, Folder, Options, Reader, Spool,
        files::{DiskFiles, Files},
    },
};
pub use recorder_client::{NoRecorderUrl, RecorderSettings, RecorderUrl};

/// How long the recorder may be away, with facts waiting for it, before `/ready` tells.
const RECORDER_AWAY_MS: i64 = 60_000;

/// A pace of a millisecond up to 250 connections, and of two from 500 on.
const PACE_MICROS_PER_CONNECTION: u64 = 4;
const LONGEST_PACE: Duration = Duration::from_millis(2);

/// What the pixel adds to the OpenAPI document: its `paths` and `components`.
#[must_use]
pub fn openapi() -> serde_json::Value {
    openapi::document()
}

/// Runs a pixel until it is told to stop: then it answers what is under way, syncs, forwards what the grace period allows,
/// and leaves the rest in the spool.
pub async fn run(settings: Settings, surroundings: Surroundings) -> anyhow::Result<()> {
    run_on(Arc::new(DiskFiles), settings, surroundings).await
}

/// [`run`] with its spool on any file system, such as one that fails on demand.
pub async fn run_on(
    files: Arc<dyn Files>,
    settings: Settings,
    surroundings: Surroundings,
) -> anyhow::Result<()> {
    let Surroundings {
        sockets,
        clock,
        metrics,
        stop,
    } = surroundings;
    let grace = settings.common.grace;
    let (spool, reader, ended) = open_spool(files, &settings, &metrics).await?;
    let counts = Arc::new(RequestCounts::default());
    counts.register(metrics.meter(), &spool, reader.counts());
    metrics::register_spool(metrics.meter(), &spool, settings.spool_max_bytes, reader.counts());
    let forward_metrics = ForwardMetrics::new(metrics.meter(), Arc::clone(&clock));
    let readiness = readiness(
        spool.clone(),
        Arc::clone(&forward_metrics.progress),
        Arc::clone(&clock),
        settings.spool_max_bytes,
    );
    let forwarder = Forwarder {
        reader: Arc::new(Mutex::new(reader)),
        client: EncodedFactsClient::new(recorder_client::channel(settings.recorder.urls.clone())),
        token: settings.recorder.authorization(),
        clock: Arc::clone(&clock),
        metrics: forward_metrics,
        counts: Arc::clone(&counts),
        until_empty: false,
        give_up: CancellationToken::new(),
        most_facts: MAX_BATCH_FACTS,
        delivered: Delivered::default(),
    };
    let app = http::Shared(Arc::new(App {
        spool: spool.clone(),
        clock,
        counts: Arc::clone(&counts),
        trusted_proxies: settings.trusted_proxies,
        gif: GifResponse::new(),
        background: Handle::current(),
    }));
    let limits = Limits {
        lanes: Lanes::OnePerProcessor,
        ..Limits::default()
    };

    // The end runs from the front to the back: no more requests, then no more appends, then no more to forward.
    let requests_done = CancellationToken::new();
    let spool_done = CancellationToken::new();
    let mut tasks = Tasks::new(&stop, grace);
    tasks.spawn(
        "admin",
        admin::serve(sockets.admin, readiness, metrics, sockets.log_level, stop.clone()),
    );
    tasks.spawn("http", {
        let (stop, requests_done) = (stop.clone(), requests_done.clone());
        async move {
            let _done = requests_done.drop_guard();
            sockets.public.serve(app, limits, grace / 2, stop).await
        }
    });
    tasks.spawn(
        "spool",
        end_spool(spool, ended, requests_done, spool_done.clone()),
    );
    tasks.spawn("forward", forward_until(forwarder, spool_done, stop, grace));
    let ended = tasks.finish().await;
    let overdue = counts.overdue_now();
    if overdue > 0 {
        tracing::error!(
            overdue,
            "the disk under the spool still does not answer for hits that were answered: they may be lost"
        );
    }
    ended
}

async fn open_spool(
    files: Arc<dyn Files>,
    settings: &Settings,
    metrics: &Metrics,
) -> anyhow::Result<(Spool, Reader, Ended)> {
    let mut options = Options::new(settings.spool_max_bytes, settings.spool_sync);
    options.pace = Box::new(|| pace(service_kit::http::open_connections()));
    options.observe_sync = metrics::observe_syncs(metrics.meter());
    let path = settings.spool_dir.clone();
    let folder = spawn_blocking(move || Folder::open(&path, files)).await??;
    let holds = folder.holds();
    tracing::info!(folder = %settings.spool_dir.display(), unsent = holds.unsent, bytes = holds.bytes, "opened the spool");
    Spool::start(folder, options).context("cannot start the spool's thread")
}

/// How far apart syncs begin while so many connections are open: where hundreds are, each waits for the others anyway, so
/// that more hits can share a sync and none is later for it. Where few are, there would be nobody left to come.
fn pace(connections: u64) -> Duration {
    Duration::from_micros(connections.saturating_mul(PACE_MICROS_PER_CONNECTION))
        .clamp(spool::PACE, LONGEST_PACE)
}

/// Closes the spool once no request needs it any more. A writer that ends before that is a failure.
async fn end_spool(
    spool: Spool,
    mut ended: Ended,
    requests_done: CancellationToken,
    spool_done: CancellationToken,
) -> anyhow::Result<()> {
    let _done = spool_done.drop_guard();
    tokio::select! {
        _ = &mut ended => bail!("the spool's writer ended by itself"),
        () = requests_done.cancelled() => spool.close(),
    }
    let _ = ended.await; // Its sender is dropped at the end of the writer, without a word.
    Ok(())
}

/// Forwards until all is forwarded after `finish`, or most of the grace period is over.
async fn forward_until(
    mut forwarder: Forwarder,
    finish: CancellationToken,
    stop: CancellationToken,
    grace: Duration,
) -> anyhow::Result<()> {
    let reader = Arc::clone(&forwarder.reader);
    let grace_over = async {
        stop.cancelled().await;
        sleep(grace.mul_f32(0.9)).await;
    };
    tokio::select! {
        () = forwarder.run(finish) => {}
        () = grace_over => tracing::info!("the grace period is over"),
    }
    if let Ok(reader) = reader.try_lock() {
        let unsent = reader.holds().unsent;
        tracing::info!(unsent, "what is unsent stays in the spool");
    }
    Ok(())
}

/// Ready is who can answer, and this pixel can, whatever is behind it. What an operator should look at is `degraded`.
fn readiness(spool: Spool, progress: Arc<Progress>, clock: Arc<dyn Clock>, max_bytes: u64) -> Readiness {
    let of = spool.clone();
    let taking = move || {
        let failing = of.failing();
        async move {
            failing.map_or(Health::Ok, |failure| {
                Health::Degraded(format!("facts are being lost: {failure}"))
            })
        }
    };
    let room = move || {
        let bytes = spool.holds().bytes;
        async move {
            if bytes < max_bytes / 2 {
                return Health::Ok;
            }
            Health::Degraded(format!("the spool holds {bytes} of {max_bytes} bytes"))
        }
    };
    let recorder = move || {
        let now_ms = clock.now().as_millis();
        let away_ms = progress
            .failing_since()
            .map_or(0, |since| now_ms.saturating_sub(since));
        async move {
            if away_ms < RECORDER_AWAY_MS {
                return Health::Ok;
            }
            Health::Degraded(format!("no recorder has taken facts for {} s", away_ms / 1_000))
        }
    };
    Readiness::new()
        .check("spool", taking)
        .check("spool_room", room)
        .check("recorder", recorder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_are_a_millisecond_apart_and_two_in_a_crowd() {
        for (connections, micros) in [
            (0, 1_000),
            (250, 1_000),
            (251, 1_004),
            (499, 1_996),
            (500, 2_000),
            (u64::MAX, 2_000),
        ] {
            assert_eq!(pace(connections), Duration::from_micros(micros), "{connections}");
        }
    }
}
