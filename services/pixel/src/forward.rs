//! The forwarder: batches from the spool's head to a recorder, until each fact in them is settled.
//!
//! A fact is settled when the recorder has answered for it, and if that answer is a refusal, when it is set aside. Until
//! then it stays in the spool, whatever fails. The recorder knows facts by their ids, so sending one twice does no harm.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use rand::RngExt;
use recorder_api::{EncodedFacts, EncodedFactsClient, MAX_BATCH_BYTES, MAX_BATCH_FACTS, Outcome, v1};
use tokio::{task::spawn_blocking, time::sleep};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
};
use tracing::Instrument;
use tracking::Clock;

use crate::{
    metrics::{ForwardMetrics, Loss, RequestCounts, UNDECODABLE, UNKNOWN_OUTCOME},
    spool::{Batch, Reader, SetAsideFact},
};

/// How long a recorder may take for a batch.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long it may take once the pixel is to end: one that is away must not hold up who waits for this pixel's return.
const LAST_DEADLINE: Duration = Duration::from_secs(2);
/// Most of the pause after a failure, at first and at last.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));
/// The pause after a failure that only a person can mend; half of it and a random part of the other half.
const SLOW: Duration = Duration::from_secs(30);
/// Most bytes of facts in a batch, with room for the eight that frame each.
pub(crate) const BATCH_BYTES: usize = MAX_BATCH_BYTES - 8 * MAX_BATCH_FACTS;

/// Sends a spool's facts.
pub(crate) struct Forwarder {
    pub(crate) reader: Arc<Mutex<Reader>>,
    pub(crate) client: EncodedFactsClient,
    pub(crate) token: Option<MetadataValue<Ascii>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: ForwardMetrics,
    pub(crate) counts: Arc<RequestCounts>,
    /// Whether to end as soon as the spool is empty, rather than wait for more.
    pub(crate) until_empty: bool,
    /// Ends even a call under way, whose facts then stay unsettled.
    pub(crate) give_up: CancellationToken,
    /// Most facts sent at once: fewer after a batch has taken too long, or a recorder that is slow would never finish one.
    pub(crate) most_facts: usize,
    pub(crate) delivered: Delivered,
}

/// What became of the facts that a forwarder sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Stored now.
    pub recorded: u64,
    /// Stored before.
    pub already_known: u64,
    /// Of an email that was erased; dropped.
    pub erased: u64,
    /// Refused, and set aside.
    pub set_aside: u64,
    /// Refused, and not set aside for want of room.
    pub lost: u64,
    /// Still in the spool, or still set aside if it was that which was sent.
    pub left: u64,
}

/// What to do about a batch that failed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Remedy {
    /// One of its facts is at fault: find it by halves.
    Halve,
    /// Try again soon.
    Retry,
    /// It took too long: try again soon with half of it.
    RetryHalf,
    /// Somebody has to change a setting; try again from time to time.
    RetrySlowly,
}

/// The remedy by code. tonic's own deadline comes as `Cancelled`.
const fn remedy(code: Code) -> Remedy {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Remedy::Halve,
        Code::DeadlineExceeded | Code::Cancelled => Remedy::RetryHalf,
        Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented => Remedy::RetrySlowly,
        _ => Remedy::Retry,
    }
}

/// The pauses after failures in a row: at most twice as long each time, and of that a random part, so that many pixels do
/// not come back to a recorder at the same moment.
struct Backoff(Duration);

impl Backoff {
    const fn new() -> Self {
        Self(BACKOFF.0)
    }

    fn next(&mut self) -> Duration {
        let most = self.0;
        self.0 = (most * 2).min(BACKOFF.1);
        between(Duration::ZERO, most)
    }
}

impl Forwarder {
    /// Sends whatever comes into the spool. Once `finish` is cancelled it ends when the spool is empty, or at the first
    /// batch that fails or takes more than two seconds; the rest stays in the spool.
    pub(crate) async fn run(&mut self, finish: CancellationToken) {
        let mut settled = Batch::default();
        loop {
            let Some(batch) = self.next(settled, &finish).await else {
                return;
            };
            if batch.facts.is_empty() {
                self.metrics.progress.set_oldest(None);
                if self.until_empty || finish.is_cancelled() {
                    return;
                }
                let readable = self.lock_reader().readable();
                tokio::select! {
                    () = readable => {}
                    () = finish.cancelled() => {}
                }
            } else {
                let Some(refused) = self.settle(&batch.facts, &finish).await else {
                    return;
                };
                self.set_aside(refused).await;
            }
            settled = batch;
        }
    }

    /// Trims what is settled and reads on. `None` if the disk fails at the end of all.
    async fn next(&self, mut settled: Batch, finish: &CancellationToken) -> Option<Batch> {
        let mut pause = BACKOFF.0;
        loop {
            let (reader, settled) = (Arc::clone(&self.reader), std::mem::take(&mut settled));
            let read = spawn_blocking(move || {
                let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = reader.trim(&settled) {
                    tracing::warn!(%error, "cannot write the spool's cursor; after a restart some facts are sent again");
                }
                let batch = reader.read(MAX_BATCH_FACTS, BATCH_BYTES)?;
                if batch.facts.is_empty() {
                    let _ = reader.trim(&batch); // Past what is corrupt; a cursor that fails has told so.
                }
                Ok::<_, std::io::Error>(batch)
            });
            match read.await {
                Ok(Ok(batch)) => return Some(batch),
                Ok(Err(error)) => {
                    self.metrics.progress.failed(self.clock.now().as_millis());
                    tracing::error!(%error, retry_in = ?pause, "cannot read the spool; check the disk");
                }
                Err(_) => return None, // The process is ending.
            }
            if !wait(pause, finish).await {
                return None;
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// Sends the facts of a batch, in parts if need be, until the recorder has answered for each; gives those that it
    /// refused, which are settled once they are set aside. `None` if `finish` came first: then none of them is.
    pub(crate) async fn settle(
        &mut self,
        facts: &[Bytes],
        finish: &CancellationToken,
    ) -> Option<Vec<SetAsideFact>> {
        let (facts, mut refused) = self.look_into(facts);
        let mut parts = vec![facts];
        let mut backoff = Backoff::new();
        let give_up = self.give_up.clone();
        while let Some(mut part) = parts.pop() {
            if part.len() > self.most_facts {
                parts.push(part.split_off(self.most_facts));
            }
            if part.is_empty() {
                continue;
            }
            let answer = tokio::select! {
                answer = self.send(&part, finish) => answer,
                () = give_up.cancelled() => return None,
            };
            let status = match answer {
                Ok(outcomes) if outcomes.len() == part.len() => {
                    refused.extend(self.take_outcomes(&part, &outcomes));
                    self.most_facts = (self.most_facts * 2).min(MAX_BATCH_FACTS);
                    backoff = Backoff::new();
                    continue;
                }
                Ok(outcomes) => {
                    Status::internal(format!("{} answers for {} facts", outcomes.len(), part.len()))
                }
                Err(status) => status,
            };
            self.metrics.error(status.code());
            match remedy(status.code()) {
                Remedy::Halve if part.len() == 1 => {
                    tracing::warn!(code = ?status.code(), message = status.message(), "the recorder refuses a fact");
                    refused.extend(self.take_outcomes(&part, &[v1::Outcome::from(Outcome::Invalid).into()]));
                    continue;
                }
                Remedy::Halve => {
                    let second = part.split_off(part.len() / 2);
                    parts.extend([second, part]);
                    continue;
                }
                remedy @ (Remedy::Retry | Remedy::RetryHalf) => {
                    self.note_failure(&status);
                    if remedy == Remedy::RetryHalf {
                        self.most_facts = (part.len() / 2).max(1);
                    }
                    if !wait(backoff.next(), finish).await {
                        return None;
                    }
                }
                Remedy::RetrySlowly => {
                    self.metrics.progress.failed(self.clock.now().as_millis());
                    tracing::error!(
                        code = ?status.code(), message = status.message(), retry_in = ?SLOW,
                        "the recorder refuses this pixel: check that RECORDER_TOKEN is the same on both and that RECORDER_URL \
                         names a recorder of this version; facts stay in the spool until then"
                    );
                    if !wait(between(SLOW / 2, SLOW), finish).await {
                        return None;
                    }
                }
            }
            parts.push(part);
        }
        Some(refused)
    }

    /// One call. There is a span for each, whose context travels along.
    async fn send(&mut self, part: &[Bytes], finish: &CancellationToken) -> Result<Vec<i32>, Status> {
        let span = tracing::info_span!("forward batch", facts = part.len(), otel.kind = "client");
        let mut request = Request::from_parts(
            recorder_client::metadata(self.token.as_ref(), &span),
            tonic::Extensions::default(),
            EncodedFacts { facts: part.to_vec() },
        );
        request.set_timeout(DEADLINE);
        let begun = Instant::now();
        // The deadline of the call itself begins when a connection takes it, which may be never.
        let answer = tokio::select! {
            answer = self.client.record(request).instrument(span) => answer,
            () = overdue(finish) => Err(Status::deadline_exceeded("no recorder has answered in time")),
        };
        self.metrics.batch_took(begun.elapsed());
        Ok(answer?.into_inner().outcomes)
    }

    /// Counts the outcomes; gives the refused facts.
    fn take_outcomes(&mut self, part: &[Bytes], outcomes: &[i32]) -> Vec<SetAsideFact> {
        if let Some(since) = self.metrics.progress.succeeded() {
            let outage_ms = self.clock.now().as_millis().saturating_sub(since);
            tracing::info!(outage_ms, "the recorder answers again");
        }
        let mut refused = Vec::new();
        for (fact, outcome) in part.iter().zip(outcomes) {
            let known = v1::Outcome::try_from(*outcome).ok().and_then(v1::Outcome::known);
            self.metrics
                .facts(known.map_or(UNKNOWN_OUTCOME, Outcome::as_str), 1);
            match known {
                Some(Outcome::Recorded) => self.delivered.recorded += 1,
                Some(Outcome::AlreadyKnown) => self.delivered.already_known += 1,
                // Somebody wants it to be nowhere: it is not kept here either.
                Some(Outcome::Erased) => self.delivered.erased += 1,
                Some(outcome) => refused.push(self.refused(outcome.as_str().to_owned(), fact)),
                None => refused.push(self.refused(format!("{UNKNOWN_OUTCOME}: {outcome}"), fact)),
            }
        }
        refused
    }

    /// Sees to it that no fact makes the message that it is sent in undecodable: what cannot be decoded is as good as
    /// refused. Notes of when the oldest is.
    fn look_into(&self, facts: &[Bytes]) -> (Vec<Bytes>, Vec<SetAsideFact>) {
        let mut decodable = Vec::with_capacity(facts.len());
        let mut undecodable = Vec::new();
        let mut oldest = None;
        for bytes in facts {
            match v1::Fact::from_bytes(bytes) {
                Ok(fact) => {
                    oldest = oldest.into_iter().chain(at_ms(&fact)).min();
                    decodable.push(bytes.clone());
                }
                Err(error) => {
                    self.metrics.facts(UNDECODABLE, 1);
                    undecodable.push(self.refused(format!("{UNDECODABLE}: {error}"), bytes));
                }
            }
        }
        self.metrics.progress.set_oldest(oldest);
        (decodable, undecodable)
    }

    fn refused(&self, reason: String, fact: &Bytes) -> SetAsideFact {
        SetAsideFact {
            reason,
            at_ms: self.clock.now().as_millis(),
            fact: fact.to_vec(),
        }
    }

    /// Sets facts aside, which settles them; comes just before the trim of their batch, so that a batch that is
    /// interrupted and sent again does not set them aside twice.
    async fn set_aside(&mut self, facts: Vec<SetAsideFact>) {
        if facts.is_empty() {
            return;
        }
        let count = facts.len();
        tracing::warn!(
            count,
            reason = facts.first().map(|fact| fact.reason.as_str()),
            "the recorder refused facts"
        );
        let reader = Arc::clone(&self.reader);
        let kept = spawn_blocking(move || {
            let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
            // A second try goes to a new file. A third would hold up every fact behind these, and a full disk for ever.
            reader.set_aside(&facts).or_else(|_| reader.set_aside(&facts))
        })
        .await;
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        match kept {
            Ok(Ok(())) => self.delivered.set_aside += count,
            Ok(Err(error)) => {
                tracing::error!(count, %error, "cannot set refused facts aside; they are lost");
                self.delivered.lost += count;
                (0..count).for_each(|_| self.counts.lost(Loss::NotSetAside));
            }
            Err(_) => {} // The process is ending; the batch is not trimmed.
        }
    }

    fn note_failure(&self, status: &Status) {
        if self.metrics.progress.failed(self.clock.now().as_millis()) {
            tracing::warn!(code = ?status.code(), message = status.message(), "the recorder does not answer; the spool keeps what comes");
        } else {
            tracing::debug!(code = ?status.code(), message = status.message(), "the recorder still does not answer");
        }
    }

    pub(crate) fn lock_reader(&self) -> std::sync::MutexGuard<'_, Reader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a batch has taken too long.
async fn overdue(finish: &CancellationToken) {
    let last = async {
        finish.cancelled().await;
        sleep(LAST_DEADLINE).await;
    };
    tokio::select! {
        () = sleep(DEADLINE) => {}
        () = last => {}
    }
}

fn between(least: Duration, most: Duration) -> Duration {
    rand::rng().random_range(least..=most)
}

/// Waits; false if there is no more time for another try.
async fn wait(pause: Duration, finish: &CancellationToken) -> bool {
    tokio::select! {
        () = sleep(pause) => !finish.is_cancelled(),
        () = finish.cancelled() => false,
    }
}

fn at_ms(fact: &v1::Fact) -> Option<i64> {
    match fact.fact.as_ref()? {
        v1::fact::Fact::Hit(hit) => Some(hit.opened_at_ms),
        v1::fact::Fact::Mark(mark) => Some(mark.marked_at_ms),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thousand pixels that lost their recorder at the same moment come back spread over all of the pause.
    #[test]
    fn pauses_grow_to_a_limit_and_are_spread_over_all_of_it() {
        let after = |failures: usize| -> Vec<Duration> {
            (0..1_000)
                .map(|_| {
                    let mut backoff = Backoff::new();
                    for _ in 0..failures {
                        let _ = backoff.next();
                    }
                    backoff.next()
                })
                .collect()
        };
        for (failures, most) in [(0, 50), (1, 100), (5, 1_600), (8, 10_000), (100, 10_000)] {
            let most = Duration::from_millis(most);
            let mut tenths = [0; 10];
            for pause in after(failures) {
                assert!(pause <= most, "{pause:?} after {failures} failures");
                let tenth = pause.as_nanos() * 10 / (most.as_nanos() + 1);
                tenths[usize::try_from(tenth).unwrap()] += 1;
            }
            assert!(
                tenths.iter().all(|pixels| (30..300).contains(pixels)),
                "after {failures} failures: {tenths:?}"
            );
        }
    }
}
