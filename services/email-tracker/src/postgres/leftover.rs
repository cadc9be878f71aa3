//! A server that an earlier `up` left running, because it was killed before it could stop it.
//!
//! Whoever calls this holds the lock of the data folder, so no other `up` uses that server.

use std::{fs::Metadata, os::unix::fs::MetadataExt as _, path::Path, time::Duration};

use anyhow::bail;
use rustix::process::{Pid, Signal, kill_process};

use super::{pid_file, server::SOCKET_FOLDER_PREFIX};

/// How long the leftover may take to write its data out; after that it is made to stop, which is as safe, but
/// makes the next start replay its log.
const FAST_STOP: Duration = Duration::from_secs(30);
const IMMEDIATE_STOP: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Stops the server that still runs on the cluster in `folder`, if there is one.
pub(crate) async fn stop(folder: &Path) -> anyhow::Result<()> {
    let Some(file) = pid_file::read(folder) else {
        return Ok(());
    };
    if runs_on(file.pid, folder) {
        tracing::warn!(
            pid = file.pid.as_raw_pid(),
            "stops the PostgreSQL that an earlier run left behind"
        );
        stop_process(file.pid, folder).await?;
    }
    if let Some(socket_folder) = file.socket_folder.filter(|path| is_ours(path)) {
        // Whatever is left of it lies in a folder for temporary files; a failure harms nobody.
        let _ = std::fs::remove_dir_all(socket_folder);
    }
    Ok(())
}

async fn stop_process(pid: Pid, folder: &Path) -> anyhow::Result<()> {
    for (signal, patience) in [(Signal::INT, FAST_STOP), (Signal::QUIT, IMMEDIATE_STOP)] {
        // It may be gone by now, which is what is wanted.
        let _ = kill_process(pid, signal);
        let gone = async {
            while runs_on(pid, folder) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        if tokio::time::timeout(patience, gone).await.is_ok() {
            return Ok(());
        }
    }
    bail!(
        "a PostgreSQL of an earlier run (process {}) does not stop: stop it, then start again",
        pid.as_raw_pid()
    )
}

/// Whether the process is a server on this very folder: a pid alone may have passed to a stranger.
fn runs_on(pid: Pid, folder: &Path) -> bool {
    let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
    let works_in = std::fs::metadata(format!("/proc/{}/cwd", pid.as_raw_pid())).map(identity);
    let data = std::fs::metadata(folder).map(identity);
    matches!((works_in, data), (Ok(works_in), Ok(data)) if works_in == data)
}

fn is_ours(folder: &Path) -> bool {
    folder
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(SOCKET_FOLDER_PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_our_making_are_removed() {
        assert!(is_ours(Path::new("/tmp/email-tracker-x")));
        assert!(!is_ours(Path::new("/run/postgresql")));
    }

    #[tokio::test]
    async fn a_pid_that_passed_to_a_stranger_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut stranger = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        std::fs::write(
            folder.path().join("postmaster.pid"),
            format!("{}\n", stranger.id()),
        )
        .unwrap();
        stop(folder.path()).await.unwrap();
        assert!(stranger.try_wait().unwrap().is_none(), "the stranger was stopped");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
