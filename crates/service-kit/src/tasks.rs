//! Background tasks that cannot end unseen, and the signal that ends them all.

use std::{future::Future, time::Duration};

use anyhow::{Context, anyhow};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// How long aborted tasks may take to be gone.
const ABORT_TIME: Duration = Duration::from_secs(1);

/// A deadline that is noticed later than this was not noticed because the whole process stood still.
const STOOD_STILL: Duration = Duration::from_millis(200);

/// The tasks of one service. One that fails, panics, or ends before it was told to stops all of them.
pub struct Tasks {
    running: JoinSet<anyhow::Result<()>>,
    names: Vec<(Id, &'static str)>,
    stop: CancellationToken,
    grace: Duration,
}

impl Tasks {
    /// No task yet. From `stop` on they may take `grace` to end.
    #[must_use]
    pub fn new(stop: &CancellationToken, grace: Duration) -> Self {
        Self {
            running: JoinSet::new(),
            names: Vec::new(),
            stop: stop.clone(),
            grace,
        }
    }

    /// Starts a task, which is to run until `stop`.
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let handle = self.running.spawn(task);
        self.names.push((handle.id(), name));
    }

    /// Waits until all have ended: after `stop`, or after the first that ended by itself. `Err` names the first task that
    /// failed, or those that still ran when the grace was over (they are aborted).
    pub async fn finish(mut self) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        let mut deadline = None;
        loop {
            let ended = tokio::select! {
                ended = self.running.join_next_with_id() => ended,
                () = self.stop.cancelled(), if deadline.is_none() => {
                    deadline = Some(Instant::now() + self.grace);
                    continue;
                }
                () = until(deadline), if deadline.is_some() => {
                    // A process that was frozen finds all its timers overdue at once. A task that gives up some time
                    // before the deadline has to get the chance.
                    if deadline.is_some_and(|due| due.elapsed() > STOOD_STILL) {
                        deadline = Some(Instant::now() + ABORT_TIME);
                        continue;
                    }
                    let late = self.names.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
                    // One that never yields cannot be aborted; nobody waits for it.
                    let _ended = tokio::time::timeout(ABORT_TIME, self.running.shutdown()).await;
                    return outcome.and(Err(anyhow!("still running {:?} after the stop: {late}", self.grace)));
                }
            };
            let Some(ended) = ended else { return outcome };
            let was_told = self.stop.is_cancelled();
            let failure = self.failure(ended, was_told);
            if outcome.is_ok() {
                outcome = failure;
            }
            self.stop.cancel();
        }
    }

    fn failure(
        &mut self,
        ended: Result<(Id, anyhow::Result<()>), JoinError>,
        was_told: bool,
    ) -> anyhow::Result<()> {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let name = self
            .names
            .iter()
            .find(|(named, _)| *named == id)
            .map_or("unnamed", |(_, name)| *name);
        self.names.retain(|(named, _)| *named != id);
        match ended {
            Ok((_, Ok(()))) if was_told => Ok(()),
            Ok((_, Ok(()))) => Err(anyhow!("{name} ended by itself")),
            Ok((_, Err(error))) => Err(error).with_context(|| format!("{name} failed")),
            Err(error) => Err(anyhow!("{name} panicked: {error}")),
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A token that SIGTERM or SIGINT cancels. A second signal ends the process at once, with exit code 130.
pub fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be listened for")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be listened for")?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if first {
                tracing::info!(signal = name, "stopping; a second signal ends at once");
                token.cancel();
            }
        }
        std::process::exit(130);
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_or_fails_or_panics_stops_the_others() {
        for (task, says) in [
            ("ends", "bad ended by itself"),
            ("fails", "bad failed"),
            ("panics", "bad panicked"),
        ] {
            let stop = CancellationToken::new();
            let mut tasks = Tasks::new(&stop, Duration::from_mins(1));
            let waits = stop.clone();
            tasks.spawn("good", async move {
                waits.cancelled().await;
                Ok(())
            });
            tasks.spawn("bad", async move {
                match task {
                    "ends" => Ok(()),
                    "fails" => Err(anyhow!("no luck")),
                    _ => panic!("no luck"),
                }
            });
            let error = tasks.finish().await.unwrap_err();
            assert!(error.to_string().starts_with(says), "{error}");
        }
    }

    #[tokio::test]
    async fn all_that_end_when_told_is_well() {
        let stop = CancellationToken::new();
        let mut tasks = Tasks::new(&stop, Duration::from_mins(1));
        let waits = stop.clone();
        tasks.spawn("good", async move {
            waits.cancelled().await;
            Ok(())
        });
        stop.cancel();
        tasks.finish().await.unwrap();
    }

    #[tokio::test]
    async fn after_a_standstill_of_the_process_tasks_may_still_end() {
        let stop = CancellationToken::new();
        let mut tasks = Tasks::new(&stop, Duration::from_millis(100));
        tasks.spawn("gives up in time", async {
            tokio::time::sleep(Duration::from_millis(80)).await;
            // Some turns of the scheduler, as closing takes.
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            Ok(())
        });
        tasks.spawn("freezes all", async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            std::thread::sleep(Duration::from_millis(600));
            Ok(())
        });
        stop.cancel();
        tasks.finish().await.unwrap();
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_named() {
        let stop = CancellationToken::new();
        let mut tasks = Tasks::new(&stop, Duration::from_millis(10));
        tasks.spawn("stubborn", std::future::pending());
        stop.cancel();
        assert!(
            tasks
                .finish()
                .await
                .unwrap_err()
                .to_string()
                .ends_with("stubborn")
        );
    }
}
