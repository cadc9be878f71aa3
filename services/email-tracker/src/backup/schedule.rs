//! `--every`: a backup each time that the newest one is old enough, until told to stop.

use std::time::Duration;

use service_kit::SystemClock;
use tokio_util::sync::CancellationToken;
use tracking::Clock as _;

use super::{By, Folder, Settings, once};

/// After a failure; doubled with each one that follows.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_mins(15);
/// A machine that slept wakes with a backup overdue, so nobody sleeps for longer than this.
const LONGEST_SLEEP: Duration = Duration::from_mins(10);

/// Makes backups until `stop`. A start does not make one that is not due.
pub(super) async fn run(settings: &Settings, every: Duration, stop: &CancellationToken) {
    let mut pause = FIRST_PAUSE;
    tracing::info!(
        folder = %settings.folder.display(),
        every_seconds = every.as_secs(),
        "makes backups"
    );
    loop {
        let sleep = match due_in(settings, every) {
            Duration::ZERO => {
                let done = tokio::select! {
                    done = once(settings, By::Schedule) => done,
                    () = stop.cancelled() => return,
                };
                match done {
                    Ok(backup) => {
                        pause = FIRST_PAUSE;
                        tracing::info!(file = %backup.path.display(), bytes = backup.bytes, "backed up {}", backup.manifest);
                        continue;
                    }
                    Err(error) => {
                        let seconds = pause.as_secs();
                        tracing::error!("the backup failed: {error:#}; tries again in {seconds} s");
                        let sleep = pause;
                        pause = (pause * 2).min(LONGEST_PAUSE).min(every);
                        sleep
                    }
                }
            }
            wait => wait.min(LONGEST_SLEEP),
        };
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Zero if the next backup is due.
fn due_in(settings: &Settings, every: Duration) -> Duration {
    // A folder that is not there or cannot be read is what the backup itself will say.
    let newest = Folder::look_into(&settings.folder).and_then(|folder| folder.newest());
    match newest {
        Ok(Some(newest)) => every.saturating_sub(newest.age(SystemClock.now())),
        _ => Duration::ZERO,
    }
}
