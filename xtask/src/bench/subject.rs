//! What is measured: one pixel, one recorder, a dashboard, and a PostgreSQL that keeps what it commits.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tempfile::TempDir;
use test_support::{PrivatePostgres, Signal};
use tokio::time::sleep;

use super::Bench;
use crate::stack::{PixelPlan, Plan, Service, Stack};

/// PostgreSQL's own defaults, which the tests' servers depart from.
const POSTGRES: [&str; 5] = [
    "fsync=on",
    "full_page_writes=on",
    "shared_buffers=128MB",
    "max_wal_size=1GB",
    "autovacuum_naptime=1min",
];
/// Longest that a backlog may take.
const DRAIN_PATIENCE: Duration = Duration::from_mins(10);

/// A stack of its own, gone with the value.
pub(super) struct Subject {
    pub(super) stack: Stack,
    pub(super) folder: TempDir,
}

impl Subject {
    pub(super) async fn start(bench: &Bench) -> anyhow::Result<Self> {
        Self::with_recorders(bench, vec![Vec::new()]).await
    }

    /// The same with recorders that have settings of their own.
    pub(super) async fn with_recorders(
        bench: &Bench,
        recorders: Vec<Vec<(String, String)>>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(&bench.folder)?;
        let plan = Plan {
            pixels: vec![PixelPlan {
                spool: None,
                variables: vec![("SPOOL_MAX_BYTES".to_owned(), "8GiB".to_owned())],
            }],
            recorders,
            dedup_window_ms: 30_000,
            failing_lines: false,
        };
        let postgres = PrivatePostgres::start_with(&POSTGRES).await;
        let stack = Stack::start_on(postgres, &bench.programs, &plan, folder.path()).await?;
        Ok(Self { stack, folder })
    }

    pub(super) fn pixel(&mut self) -> &mut Service {
        &mut self.stack.pixels[0]
    }

    /// Ends the recorder as nobody would wish it to end.
    pub(super) async fn kill_recorder(&mut self) {
        self.stack.recorders[0].end(Signal::KILL).await;
    }

    /// Ends recorder and pixel, which a measurement of what is stored does not need.
    pub(super) async fn alone(&mut self) {
        self.kill_recorder().await;
        self.stack.pixels[0].end(Signal::KILL).await;
    }

    pub(super) fn start_recorder(&mut self) {
        self.stack.recorders[0].start();
    }

    /// Facts in the spool that no recorder has answered for.
    pub(super) async fn unsent(&self) -> anyhow::Result<u64> {
        let records = self.stack.pixels[0]
            .metric("email_tracker_pixel_spool_records")
            .await
            .context("the pixel's metrics")?;
        // A gauge of whole numbers, printed as such.
        format!("{records:.0}").parse().context("a number of facts")
    }

    /// Waits until at most this many facts are in the spool.
    pub(super) async fn drained(&self, to: u64) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.unsent().await? > to {
            ensure!(
                begun.elapsed() < DRAIN_PATIENCE,
                "the backlog does not drain: {} facts after {DRAIN_PATIENCE:?}",
                self.unsent().await?
            );
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Fails if the pixel says that it has lost a hit, or did not take one for what it is.
    pub(super) async fn nothing_was_lost(&self) -> anyhow::Result<()> {
        for metric in [
            "email_tracker_pixel_facts_lost_total",
            "email_tracker_pixel_invalid_tokens_total",
            "email_tracker_pixel_spool_quarantined_total",
            "email_tracker_pixel_spool_set_aside",
        ] {
            let count = self.stack.pixels[0]
                .metric(metric)
                .await
                .with_context(|| metric.to_owned())?;
            ensure!(count == 0.0, "the pixel's {metric} is {count}");
        }
        Ok(())
    }

    /// Which PostgreSQL it is.
    pub(super) async fn postgres_version(&self) -> anyhow::Result<String> {
        let row = self
            .stack
            .database
            .superuser()
            .await
            .query_one("show server_version", &[])
            .await?;
        let version: String = row.get(0);
        Ok(version.split(' ').next().unwrap_or_default().to_owned())
    }
}
