//! The operator's GeoIP file, when it is replaced while the recorder runs.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    Geo,
    places::{Places, Version},
};
use crate::metrics::Metrics;

/// How often the file is looked at. A new one is taken over once it has looked the same twice, so that nobody reads what
/// is still being written.
const PERIOD: Duration = Duration::from_secs(5);

/// Takes over the operator's file whenever it is another one, until `stop`. One that cannot be read changes nothing but
/// the log and a metric.
///
/// It looks instead of listening: what the kernel tells of changes does not reach through network drives, and a folder
/// that is mounted anew tells nothing at all.
pub(crate) async fn follow(geo: Arc<Geo>, metrics: Metrics, stop: CancellationToken) -> anyhow::Result<()> {
    if let Some(mut follower) = Follower::new(geo, metrics) {
        stop.run_until_cancelled(async {
            loop {
                tokio::time::sleep(PERIOD).await;
                follower.look().await;
            }
        })
        .await;
    } else {
        stop.cancelled().await;
    }
    Ok(())
}

pub(super) struct Follower {
    path: PathBuf,
    geo: Arc<Geo>,
    metrics: Metrics,
    /// What was taken over or refused last; `None`: that the file was away.
    tried: Option<Version>,
    /// What was there at the last look.
    seen: Option<Version>,
}

impl Follower {
    /// None, if there is no file to follow.
    pub(super) fn new(geo: Arc<Geo>, metrics: Metrics) -> Option<Self> {
        let (path, version) = geo.file.clone()?;
        Some(Self {
            path,
            geo,
            metrics,
            tried: Some(version),
            seen: Some(version),
        })
    }

    /// Looks at the file once.
    pub(super) async fn look(&mut self) {
        let found = Version::at(&self.path);
        let version = found.as_ref().ok().copied();
        let settled = version == self.seen;
        self.seen = version;
        if !settled || version == self.tried {
            return;
        }
        self.tried = version;
        match found {
            Ok(_) => self.take_over().await,
            Err(error) => self.refuse(&missing(&self.path, &error)),
        }
    }

    async fn take_over(&mut self) {
        let path = self.path.clone();
        match tokio::task::spawn_blocking(move || Places::open(&path)).await {
            Ok(Ok((places, version))) => {
                tracing::info!(
                    kind = places.kind(),
                    built_at = places.built_at(),
                    "a new GeoIP database is in use"
                );
                self.tried = Some(version);
                self.geo.replace(places);
                self.metrics.geoip_taken_over(self.geo.built_at());
            }
            Ok(Err(error)) => self.refuse(&error),
            Err(panicked) => self.refuse(&panicked.into()),
        }
    }

    fn refuse(&self, error: &anyhow::Error) {
        tracing::error!("{error:#}; the GeoIP database that was there before stays in use");
        self.metrics.geoip_refused();
    }
}

fn missing(path: &Path, error: &io::Error) -> anyhow::Error {
    anyhow::anyhow!("GEOIP_DATABASE: {}: {error}", path.display())
}
