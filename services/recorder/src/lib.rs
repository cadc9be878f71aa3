//! The recorder: stores facts once each, with verdicts that do not depend on the order in which they came.
//!
//! A batch comes in through `grpc`, is split by email over `workers`, and each share of it is one transaction of
//! `record`.

mod addresses;
mod describe;
mod device;
mod doctor;
mod erase;
mod geo;
mod grpc;
mod health;
mod metrics;
mod partitions;
mod range;
mod reassess;
mod record;
mod retention;
mod revisions;
mod schema;
mod sessions;
mod settings;
mod shards;
mod slots;
mod steps;
mod upkeep;
pub mod webhooks;
mod workers;

use std::{hash::BuildHasher, sync::Arc};

use anyhow::{Context, bail};
use database::Database;
use service_kit::{Public, Sockets, Surroundings, Tasks, admin};
use tokio::net::TcpListener;

use crate::{
    addresses::Addresses,
    grpc::{Authentication, Service},
    range::Range,
    schema::SchemaGate,
    upkeep::Keeping,
};
pub use crate::{
    addresses::Shortened,
    erase::{Erased, Erasure, Subject},
    geo::GeoDatabase,
    reassess::Reclassified,
    retention::Removed,
    settings::{AGENT_NETWORKS, SETTINGS, Settings, read_agents},
    slots::mark_stale,
    workers::{Recorder, RecorderConfig},
};

/// The recorder's name in logs and metrics.
pub const NAME: &str = "recorder";

/// Records what pixels send, until told to stop. Without its database it starts and waits: it is not ready, and answers
/// `Unavailable`.
pub async fn run(settings: Settings, surroundings: Surroundings) -> anyhow::Result<()> {
    let Surroundings {
        sockets: Sockets {
            public,
            admin,
            log_level,
        },
        clock,
        metrics,
        stop,
    } = surroundings;
    let Public::Socket(listener) = public else {
        bail!("the recorder speaks gRPC and needs a socket of its own");
    };
    let config = settings.database.context("DATABASE_URL: missing")?;
    let database = Database::open(&config, metrics.meter())?
        .counting(&[record::NAME])
        .counting(&partitions::NAMES)
        .counting(&doctor::NAMES)
        .counting(&retention::NAMES)
        .counting(&addresses::NAMES)
        .counting(&shards::NAMES)
        .counting(&steps::NAMES)
        .counting(&reassess::NAMES)
        .counting(&slots::NAMES)
        .counting(&erase::NAMES)
        .counting(&sessions::NAMES)
        .counting(&webhooks::names());
    let schema = Arc::new(SchemaGate::new(database.clone()));
    let recorder = Recorder::new(
        database.clone(),
        RecorderConfig {
            instance: instance(&listener)?,
            workers: settings.workers,
            rules: settings.rules,
            geoip_database: settings.geoip_database,
        },
        metrics.meter(),
    )?;
    let telling = settings.webhooks.start(
        database.clone(),
        Arc::clone(&clock),
        metrics.meter(),
        stop.clone(),
    )?;
    if let Some(telling) = &telling {
        recorder.tell(telling);
    }
    let range = Range::new(settings.retention_days);
    let addresses = Addresses::new(settings.anonymize_days);
    let keeping = Keeping {
        range,
        counts: settings.keep_counts,
        addresses,
    };
    let tokens = settings.tokens.iter().map(service_kit::Secret::expose);
    let authentication = Authentication::new(tokens, recorder.metrics().clone());
    let service = Service::new(
        recorder.clone(),
        Arc::clone(&schema),
        range,
        addresses,
        Arc::clone(&clock),
    );

    let (reporter, health) = tonic_health::server::health_reporter();
    let patience = settings.common.grace.mul_f32(0.8);
    let mut tasks = Tasks::new(&stop, settings.common.grace);
    tasks.spawn(
        "admin",
        admin::serve(
            admin,
            health::readiness(&schema),
            metrics,
            log_level,
            stop.clone(),
        ),
    );
    tasks.spawn("health", health::report(schema, reporter, stop.clone()));
    if let Some(telling) = telling {
        tasks.spawn("webhooks", telling.run(patience));
    }
    tasks.spawn(
        "geoip",
        geo::follow(recorder.geo(), recorder.metrics().clone(), stop.clone()),
    );
    tasks.spawn("upkeep", upkeep::run(recorder, keeping, clock, stop.clone()));
    tasks.spawn(
        "grpc",
        grpc::serve(
            listener,
            service.behind(authentication),
            health,
            stop.clone(),
            patience,
        ),
    );
    let ended = tasks.finish().await;
    database.close();
    ended
}

/// How many names recorders share: each worker of each name leaves a row that every list reads.
const INSTANCES: u64 = 256;

/// Names this recorder by its machine and port: the same after each start, while the names of containers that come and
/// go do not add up. Two recorders of one name are no harm: their commits take turns.
fn instance(listener: &TcpListener) -> anyhow::Result<String> {
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let port = listener
        .local_addr()
        .context("PORT: the socket has no address")?
        .port();
    let hasher = std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default();
    Ok(format!(
        "recorder-{}",
        hasher.hash_one((machine.trim(), port)) % INSTANCES
    ))
}
