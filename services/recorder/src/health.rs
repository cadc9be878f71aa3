//! Whether the recorder can record, for whoever asks: the admin port, and gRPC's own health service.

use std::{sync::Arc, time::Duration};

use recorder_api::v1::recorder_server::RecorderServer;
use service_kit::{Health, Readiness};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{grpc::Service, schema::SchemaGate};

/// How often gRPC's health is brought up to date.
const PERIOD: Duration = Duration::from_secs(1);

/// Ready: the database answers, and its schema is new enough.
pub(crate) fn readiness(schema: &Arc<SchemaGate>) -> Readiness {
    // Not on the admin port's own runtime: a connection made there would end with it, before the last batches do.
    let runtime = Handle::current();
    let schema = Arc::clone(schema);
    Readiness::new().check("database", move || {
        let schema = Arc::clone(&schema);
        let asked = runtime.spawn(async move { schema.check().await });
        async move {
            match asked.await {
                Ok(Ok(())) => Health::Ok,
                Ok(Err(error)) => Health::Failing(error.to_string()),
                Err(_) => Health::Failing("the check was abandoned".to_owned()),
            }
        }
    })
}

/// Tells gRPC's health service the same, for the server as a whole and for the recorder's service.
pub(crate) async fn report(
    schema: Arc<SchemaGate>,
    reporter: HealthReporter,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    set(&reporter, ServingStatus::NotServing).await;
    stop.run_until_cancelled(keep_reporting(&schema, &reporter)).await;
    set(&reporter, ServingStatus::NotServing).await;
    Ok(())
}

async fn keep_reporting(schema: &SchemaGate, reporter: &HealthReporter) {
    let mut was_ready = None; // neither is known yet
    loop {
        let found = schema.check().await;
        let is_ready = found.is_ok();
        if was_ready != Some(is_ready) {
            match &found {
                Ok(()) => tracing::info!("ready: the database answers, and its schema is new enough"),
                Err(error) => tracing::warn!(%error, "not ready: batches are answered with Unavailable"),
            }
            set(
                reporter,
                if is_ready {
                    ServingStatus::Serving
                } else {
                    ServingStatus::NotServing
                },
            )
            .await;
            was_ready = Some(is_ready);
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn set(reporter: &HealthReporter, status: ServingStatus) {
    reporter.set_service_status("", status).await;
    match status {
        ServingStatus::Serving => reporter.set_serving::<RecorderServer<Service>>().await,
        _ => reporter.set_not_serving::<RecorderServer<Service>>().await,
    }
}
