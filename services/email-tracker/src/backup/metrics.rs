//! What Prometheus is told, through the textfile collector of the `node_exporter`.

use std::{
    fs::{Permissions, set_permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

use super::{Complete, folder::write_synced};

/// The file of the last backup that succeeded.
pub(super) struct MetricsFile(PathBuf);

impl MetricsFile {
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self(folder.join("email_tracker_backup.prom"))
    }

    /// Says that a backup was made and how long that took.
    pub(super) fn succeeded(&self, backup: &Complete, took: Duration) -> anyhow::Result<()> {
        let context = || format!("BACKUP_METRICS_DIR: cannot write {}", self.0.display());
        write_synced(&self.0, described(backup, took).as_bytes()).with_context(context)?;
        // The node_exporter is another account.
        set_permissions(&self.0, Permissions::from_mode(0o644)).with_context(context)
    }
}

fn described(backup: &Complete, took: Duration) -> String {
    let millis = backup.manifest.created_at.as_millis();
    let gauges = [
        (
            "last_success_timestamp_seconds",
            "When the newest good backup was begun, in seconds since 1970.",
            format!("{}.{:03}", millis / 1_000, millis % 1_000),
        ),
        (
            "last_success_size_bytes",
            "Bytes of the newest good backup.",
            backup.bytes.to_string(),
        ),
        (
            "last_success_duration_seconds",
            "How long the newest good backup took.",
            format!("{:.3}", took.as_secs_f64()),
        ),
    ];
    gauges
        .map(|(name, help, value)| {
            let name = format!("email_tracker_backup_{name}");
            format!("# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n")
        })
        .concat()
}
