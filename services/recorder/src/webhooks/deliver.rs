//! Tells each target what is due, some emails at a time, and each email's events one after the other.
//!
//! A failed event is tried again after pauses that grow; meanwhile the later events of its email wait, and those of other
//! emails do not. When it is the target that fails, a pause for all keeps this from knocking at a door that is closed: one
//! email at a time then tells whether it is open again.

use std::{sync::Arc, time::Duration};

use database::{Database, Error};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracking::{Clock, Timestamp};

use super::{
    body, keep,
    metrics::{End, Metrics},
    outbox::Kind,
    queue::{self, Event, LEASE_MS, LeasedQueue, Open, Settle},
    send::{DEADLINE, Failure, Sender},
    target::Target,
};
use crate::shards::Shards;

/// Emails that a target is told of at once, by one recorder.
const AT_ONCE: usize = 8;
/// Transactions at once for all of this, so that recording has its connections.
pub(super) const CONNECTIONS: usize = 2;
/// How long to wait for what another recorder has queued, or what becomes due.
const IDLE: Duration = Duration::from_secs(1);
/// The database may be away.
const AFTER_DATABASE_FAILURE: Duration = Duration::from_secs(5);
/// No request begins later than this under a lease, so that it has ended before somebody else begins.
const LEASE: Duration = Duration::from_millis(LEASE_MS.unsigned_abs());
const LAST_REQUEST: Duration = LEASE
    .saturating_sub(DEADLINE)
    .saturating_sub(Duration::from_secs(15));
/// The first pause after a failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(15);
/// The longest for all emails of a target: it is looked at again at least so often.
const LONGEST_PAUSE_OF_TARGET: Duration = Duration::from_secs(30);
/// Failures in a row, none of them for one message's sake, after which all that is overdue is given up with the one tried.
const HOPELESS: u32 = 3;

/// Tells one target.
pub(super) struct Delivery {
    pub(super) target: Arc<Target>,
    pub(super) wake: Arc<Notify>,
    pub(super) common: Arc<Common>,
}

/// What all deliveries share.
pub(super) struct Common {
    pub(super) database: Database,
    pub(super) shards: Shards,
    pub(super) sender: Sender,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Metrics,
    pub(super) turns: Semaphore,
    pub(super) stop: CancellationToken,
}

/// Whether the target answers, as far as is known.
#[derive(Default)]
struct Door {
    failures: u32,
    closed_until: Option<Instant>,
}

impl Door {
    fn most_at_once(&self) -> usize {
        if self.failures == 0 { AT_ONCE } else { 1 }
    }

    fn remaining(&self) -> Option<Duration> {
        let until = self.closed_until?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    fn note(&mut self, seen: &Seen) {
        match seen {
            Seen::Open => *self = Self::default(),
            Seen::Nothing => {}
            Seen::Closed { retry_after } => {
                let pause =
                    pause(self.failures, LONGEST_PAUSE_OF_TARGET).max(retry_after.unwrap_or_default());
                self.failures = self.failures.saturating_add(1);
                let until = Instant::now() + pause;
                self.closed_until = Some(self.closed_until.map_or(until, |other| other.max(until)));
            }
        }
    }
}

/// What one email's turn says about the target.
enum Seen {
    Open,
    Closed { retry_after: Option<Duration> },
    Nothing,
}

/// Random, so that those who failed together do not try again together: 1, 2, 4, … seconds, a quarter more or less.
fn pause(failures: u32, longest: Duration) -> Duration {
    let pause = FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(failures))
        .min(longest);
    pause.mul_f64(rand::random_range(0.75..1.25))
}

impl Delivery {
    /// Tells what is due, until told to stop; then it ends what is under way.
    pub(super) async fn run(self: Arc<Self>) {
        let stop = self.common.stop.clone();
        let mut door = Door::default();
        // Tasks of their own: what waits for a turn here must not keep those from going on who have one.
        let mut running = JoinSet::new();
        while !stop.is_cancelled() {
            let room = door.most_at_once().saturating_sub(running.len());
            let mut nap = door.remaining().unwrap_or(IDLE);
            if room > 0 && door.remaining().is_none() {
                match self.lease(room).await {
                    Ok(leased) => {
                        if leased.len() == room && door.failures == 0 {
                            nap = Duration::ZERO;
                        }
                        for queue in leased {
                            running.spawn(Arc::clone(&self).tell(queue, door.failures));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(webhook = self.target.name, %error, "webhooks wait for the database");
                        nap = AFTER_DATABASE_FAILURE;
                    }
                }
            }
            let is_full = running.len() >= door.most_at_once();
            tokio::select! {
                Some(seen) = running.join_next() => match seen {
                    Ok(seen) => self.note(&mut door, &seen),
                    // Its lease runs out, and it is told again.
                    Err(error) => tracing::error!(webhook = self.target.name, %error, "telling a webhook panicked"),
                },
                () = self.wake.notified(), if !is_full && door.remaining().is_none() => {}
                () = tokio::time::sleep(nap), if !is_full => {}
                () = stop.cancelled() => {}
            }
        }
        while running.join_next().await.is_some() {}
    }

    fn note(&self, door: &mut Door, seen: &Seen) {
        let before = door.failures;
        door.note(seen);
        match (before, door.failures) {
            (0, 1..) => tracing::warn!(
                webhook = self.target.name,
                "a webhook fails; what it is to be told waits"
            ),
            (1.., 0) => tracing::info!(webhook = self.target.name, "a webhook answers again"),
            _ => {}
        }
    }

    async fn lease(&self, most: usize) -> Result<Vec<LeasedQueue>, Error> {
        let common = &self.common;
        let _turn = common.turns.acquire().await;
        queue::lease(
            &common.database,
            &common.shards,
            &self.target.name,
            common.clock.now(),
            most,
        )
        .await
    }

    /// Tells one email's events as far as it goes, and settles them.
    async fn tell(self: Arc<Self>, queue: LeasedQueue, failures_before: u32) -> Seen {
        let began = Instant::now();
        let mut turn = Turn::default();
        for event in &queue.events {
            if began.elapsed() > LAST_REQUEST || self.common.stop.is_cancelled() {
                break;
            }
            let Some(open) = event.open.as_ref().filter(|open| self.wants(open)) else {
                turn.void(event);
                continue;
            };
            match self.send(&queue.email_id, event, open).await {
                Ok(()) => turn.delivered.push(event.number),
                Err(failure) => {
                    turn.failed = Some((event.number, event.queued_at, failure));
                    break;
                }
            }
        }
        let seen = turn.seen();
        if let Err(error) = self.settle(&queue, turn, failures_before).await {
            tracing::warn!(webhook = self.target.name, %error, "what a webhook was told is not settled; it will be told again");
        }
        seen
    }

    /// It may have turned out to be a machine's since it was queued.
    fn wants(&self, open: &Open) -> bool {
        self.target.automated || !open.confidence.is_automated()
    }

    async fn send(&self, email_id: &str, event: &Event, open: &Open) -> Result<(), Failure> {
        let common = &self.common;
        let message = body::message(self.target.format, email_id, event, open);
        let sent = common
            .sender
            .send(&self.target, &message, common.clock.now())
            .await;
        let failure = sent.as_ref().err();
        common
            .metrics
            .requested(&self.target.name, failure.map(|failure| failure.kind));
        if let Some(failure) = failure {
            tracing::debug!(
                webhook = self.target.name,
                problem = failure.problem,
                "a webhook was not told"
            );
        }
        sent
    }

    async fn settle(&self, queue: &LeasedQueue, turn: Turn, failures_before: u32) -> Result<(), Error> {
        let common = &self.common;
        let name = self.target.name.as_str();
        let now = common.clock.now();
        let given_up = turn
            .failed
            .as_ref()
            .filter(|(_, queued_at, _)| self.is_overdue(*queued_at, now));
        let (due_at, attempts) = match (&turn.failed, given_up) {
            (Some((.., failure)), None) => (
                later(
                    now,
                    pause(queue.attempts, LONGEST_PAUSE).max(failure.retry_after.unwrap_or_default()),
                ),
                queue.attempts.saturating_add(1),
            ),
            _ => (now, 0),
        };
        let settled: Vec<i64> = turn.delivered.iter().chain(&turn.void).copied().collect();
        let settle = Settle {
            email_id: &queue.email_id,
            target: name,
            leased_until: queue.until,
            settled: &settled,
            not_first: &turn.not_first,
            set_aside: given_up.map(|(number, _, failure)| (*number, failure.problem.as_str())),
            now,
            due_at,
            attempts,
        };
        let set_aside = {
            let _turn = common.turns.acquire().await;
            common.database.transact(&settle).await?
        };
        common
            .metrics
            .ended(name, End::Delivered, count(turn.delivered.len()));
        common.metrics.ended(name, End::Void, count(turn.void.len()));
        if let Some((_, _, failure)) = given_up {
            common.metrics.ended(name, End::SetAside, set_aside);
            tracing::warn!(
                webhook = name,
                problem = failure.problem,
                "an event of a webhook is set aside"
            );
            if failure.kind.is_of_the_target() && failures_before + 1 >= HOPELESS {
                self.give_up_with_it(&failure.problem, now).await?;
            }
        }
        Ok(())
    }

    fn is_overdue(&self, queued_at: Timestamp, now: Timestamp) -> bool {
        queued_at < earlier(now, self.target.patience)
    }

    /// A target that fails for all would be tried for each event in vain.
    async fn give_up_with_it(&self, problem: &str, now: Timestamp) -> Result<(), Error> {
        let common = &self.common;
        let _turn = common.turns.acquire().await;
        let count = keep::set_aside_overdue(
            &common.database,
            &common.shards,
            &self.target.name,
            earlier(now, self.target.patience),
            now,
            problem,
        )
        .await?;
        if count > 0 {
            common.metrics.ended(&self.target.name, End::SetAside, count);
            tracing::warn!(
                webhook = self.target.name,
                count,
                problem,
                "events of a webhook are set aside"
            );
        }
        Ok(())
    }
}

/// What became of one email's events.
#[derive(Default)]
struct Turn {
    delivered: Vec<i64>,
    void: Vec<i64>,
    /// Hits that were to be told as first opens and are none.
    not_first: Vec<uuid::Uuid>,
    failed: Option<(i64, Timestamp, Failure)>,
}

impl Turn {
    fn void(&mut self, event: &Event) {
        self.void.push(event.number);
        if event.kind == Kind::FirstOpen {
            self.not_first.push(event.event_id);
        }
    }

    fn seen(&self) -> Seen {
        match &self.failed {
            Some((.., failure)) if failure.kind.is_of_the_target() => Seen::Closed {
                retry_after: failure.retry_after,
            },
            Some(_) => Seen::Open,
            None if self.delivered.is_empty() => Seen::Nothing,
            None => Seen::Open,
        }
    }
}

fn later(now: Timestamp, pause: Duration) -> Timestamp {
    now.saturating_add_millis(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX))
}

fn earlier(now: Timestamp, span: Duration) -> Timestamp {
    now.saturating_add_millis(-i64::try_from(span.as_millis()).unwrap_or(i64::MAX))
}

fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        for (failures, least, most) in [(0, 0.75, 1.25), (3, 6.0, 10.0), (40, 675.0, 1_125.0)] {
            for _ in 0..100 {
                let pause = pause(failures, LONGEST_PAUSE).as_secs_f64();
                assert!((least..most).contains(&pause), "{failures}: {pause}");
            }
        }
        assert!(pause(9, LONGEST_PAUSE_OF_TARGET) < Duration::from_secs(38));
    }

    #[test]
    fn a_request_ends_before_its_lease_does() {
        assert!(LAST_REQUEST + DEADLINE < LEASE && LAST_REQUEST >= Duration::from_secs(30));
    }

    #[tokio::test]
    async fn a_closed_door_is_tried_by_one_at_a_time() {
        let mut door = Door::default();
        assert_eq!((door.most_at_once(), door.remaining()), (AT_ONCE, None));
        door.note(&Seen::Closed {
            retry_after: Some(Duration::from_secs(1_000)),
        });
        assert_eq!(door.most_at_once(), 1);
        assert!(door.remaining().unwrap() > Duration::from_secs(900));
        door.note(&Seen::Nothing);
        assert_eq!(door.most_at_once(), 1);
        door.note(&Seen::Open);
        assert_eq!((door.most_at_once(), door.remaining()), (AT_ONCE, None));
    }
}
