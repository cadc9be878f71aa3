//! The dashboard: shows the recorded emails and opens to their sender. It only reads; what a user changes, the recorder is
//! asked to change.
//!
//! | asked for | answered in |
//! | --- | --- |
//! | `/dashboard/api/emails` | `api::emails`, streamed by `api::list` |
//! | `/dashboard/api/open-events` | `api::open_events`, streamed by `api::list` |
//! | `/metrics/gmail-proxy-latency` | `diagnostics::latency` |
//! | `/metrics/suppress-signals`, `/metrics/suppression-debug` | `diagnostics::signals` |
//! | `/dashboard/api/v1/emails` | `api::search`, streamed by `api::list` |
//! | `/dashboard/api/v1/charts` | `api::charts` |
//! | `/dashboard/api/v1/export/…` | `api::export`, streamed by `api::list` |
//! | `/dashboard/api/v1/live` | `live` |
//! | `/dashboard/api/v1/erasures` | `api::erasures` |
//! | `/dashboard/api/v1/openapi.json` | `page`, from docs/openapi.json; `openapi` says what the dashboard adds to it |
//! | `/dashboard/session` | `session` |
//! | `/dashboard` and what it loads | `page` |
//! | `/dashboard/health` | `health` |

mod api;
mod auth;
mod diagnostics;
mod failures;
mod health;
mod http;
mod live;
mod metrics;
mod openapi;
mod page;
mod session;
mod settings;

use anyhow::Context;
use database::{Database, Work as _};
use recorder_client::Users;
use service_kit::{
    Readiness, Secret, Surroundings, Tasks, admin,
    http::{Lanes, Limits},
};
use tokio::runtime::Handle;

use crate::{
    api::{charts::READ_CHARTS, erasures, list::ReadRevisions},
    auth::Tokens,
    diagnostics::{latency::ReadLatencies, signals::ReadSignals},
    failures::{Failures, Guesses},
    health::Health,
    http::Dashboard,
    live::Live,
    metrics::Metrics,
    session::ReadGeneration,
};

pub use settings::{SETTINGS, Settings};

/// What one client's connection may use. A filter may be as long as a recipient: 10 KiB, three times that encoded.
const LIMITS: Limits = Limits {
    connections: 2_000,
    head_bytes: 128 << 10,
    head_time: std::time::Duration::from_secs(75),
    lanes: Lanes::None,
};

/// Whoever may ask may guess; 16 random characters are out of reach.
const SHORT_TOKEN: usize = 16;

/// What the dashboard adds to the OpenAPI document: its `paths` and `components`.
#[must_use]
pub fn openapi() -> serde_json::Value {
    openapi::document()
}

/// Runs the dashboard until `surroundings.stop`. It starts without its database, and is ready once that answers.
pub async fn run(settings: Settings, surroundings: Surroundings) -> anyhow::Result<()> {
    let Surroundings {
        sockets,
        clock,
        metrics,
        stop,
    } = surroundings;
    let config = settings.database.context("DATABASE_URL is not set")?;
    let database = Database::open(&config, metrics.meter())?
        .counting(&[ReadSignals::NAME, ReadLatencies::NAME, READ_CHARTS])
        .counting(&[ReadGeneration::NAME, ReadRevisions::NAME])
        .counting(&erasures::NAMES);
    let health = Health::of(database.clone());
    let live = Live::new(stop.clone());
    let recorder = settings.recorder.as_ref().map(Users::new);
    let dashboard = Dashboard {
        tokens: Tokens::new(settings.tokens.iter().map(Secret::expose)),
        metrics: Metrics::new(metrics.meter()),
        health: health.clone(),
        database: database.clone(),
        clock,
        failures: Failures::default(),
        guesses: Guesses::default(),
        live: live.clone(),
        count_automated: settings.count_automated,
        recorder: recorder.clone(),
    };
    if dashboard.tokens.is_empty() {
        tracing::warn!("DASHBOARD_TOKEN is not set: every request for data is refused");
    }
    if settings
        .tokens
        .iter()
        .any(|token| token.expose().len() < SHORT_TOKEN)
    {
        tracing::warn!("a dashboard token is shorter than {SHORT_TOKEN} characters: it can be guessed");
    }
    let router = http::router(dashboard);
    let grace = settings.common.grace;
    let mut tasks = Tasks::new(&stop, grace);
    tasks.spawn(
        "admin",
        admin::serve(
            sockets.admin,
            readiness(health, recorder),
            metrics,
            sockets.log_level,
            stop.clone(),
        ),
    );
    tasks.spawn("live", live.follow(database.clone()));
    let patience = grace.mul_f32(0.8); // the rest is for who ends the connections of those who waited in vain
    tasks.spawn("http", sockets.public.serve(router, LIMITS, patience, stop));
    let ended = tasks.finish().await;
    database.close();
    ended
}

/// Ready means that a read works. Without its recorder the dashboard is still of use, so that is no more than degraded. The
/// check runs on this runtime, not on the admin port's own: a connection that it opens is then driven where it is used later.
fn readiness(health: Health, recorder: Option<Users>) -> Readiness {
    let runtime = Handle::current();
    let reads = Readiness::new().check("database", move || {
        let health = health.clone();
        let checked = runtime.spawn(async move { health.check().await });
        async move {
            match checked.await {
                Ok(Ok(())) => admin::Health::Ok,
                Ok(Err(problem)) => admin::Health::Failing(problem),
                Err(error) => admin::Health::Failing(error.to_string()),
            }
        }
    });
    let Some(recorder) = recorder else {
        return reads;
    };
    reads.check("recorder", move || {
        let recorder = recorder.clone();
        async move {
            match recorder.check().await {
                Ok(()) => admin::Health::Ok,
                Err(error) => admin::Health::Degraded(error.to_string()),
            }
        }
    })
}
