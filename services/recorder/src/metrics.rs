//! What the recorder counts. Everything is there, at zero, from the start.

use std::time::Duration;

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Histogram, Meter, UpDownCounter},
};
use recorder_api::Outcome;
use tonic::Code;

use crate::{erase::Erased, retention::Removed, upkeep::Task};

/// From one fast batch to one that waits for locks.
const SECONDS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0,
];
/// Up to the most facts a batch may have.
const FACTS: [f64; 8] = [1.0, 5.0, 20.0, 50.0, 100.0, 500.0, 1_000.0, 2_000.0];

/// What a batch is answered with.
const CODES: [Code; 5] = [
    Code::Ok,
    Code::InvalidArgument,
    Code::Unauthenticated,
    Code::ResourceExhausted,
    Code::Unavailable,
];

/// The recorder's instruments.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    facts: Counter<u64>,
    batch_duration: Histogram<f64>,
    batch_facts: Histogram<u64>,
    batches: Counter<u64>,
    new_emails: Counter<u64>,
    corrected: Counter<u64>,
    partitions_made: Counter<u64>,
    removed: Counter<u64>,
    erasures: Counter<u64>,
    erased: Counter<u64>,
    sessions_ended: Counter<u64>,
    upkeep: Counter<u64>,
    workers: UpDownCounter<i64>,
    workers_busy: UpDownCounter<i64>,
    geoip_built: Gauge<u64>,
    geoip_refused: Gauge<u64>,
}

impl Metrics {
    pub(crate) fn new(meter: &Meter) -> Self {
        let counter = |name, unit, description| {
            meter
                .u64_counter(name)
                .with_unit(unit)
                .with_description(description)
                .build()
        };
        let gauge = |name, description| {
            meter
                .i64_up_down_counter(name)
                .with_unit("{worker}")
                .with_description(description)
                .build()
        };
        let metrics = Self {
            facts: counter(
                "email_tracker.recorder.facts",
                "{fact}",
                "Facts answered for, by what became of them",
            ),
            batch_duration: meter
                .f64_histogram("email_tracker.recorder.batch.duration")
                .with_unit("s")
                .with_description("From a batch's arrival to its answer")
                .with_boundaries(SECONDS.to_vec())
                .build(),
            batch_facts: meter
                .u64_histogram("email_tracker.recorder.batch.facts")
                .with_unit("{fact}")
                .with_description("Facts in a batch")
                .with_boundaries(FACTS.to_vec())
                .build(),
            batches: counter(
                "email_tracker.recorder.batches",
                "{batch}",
                "Batches answered, by gRPC status code",
            ),
            new_emails: counter(
                "email_tracker.recorder.emails",
                "{email}",
                "Emails that a fact named for the first time",
            ),
            corrected: counter(
                "email_tracker.recorder.verdicts.corrected",
                "{hit}",
                "Stored hits whose verdict a late fact changed",
            ),
            partitions_made: counter(
                "email_tracker.recorder.partitions.made",
                "{partition}",
                "Monthly partitions of hits that this recorder made",
            ),
            removed: counter(
                "email_tracker.recorder.removed",
                "",
                "What retention has removed, by kind",
            ),
            erasures: counter(
                "email_tracker.recorder.erasures",
                "",
                "Erasures that users have asked for, by what they named and by how they ended",
            ),
            erased: counter(
                "email_tracker.recorder.erased",
                "",
                "What erasures have removed, by kind",
            ),
            sessions_ended: counter(
                "email_tracker.recorder.sessions.ended",
                "",
                "Requests to end all sessions of the dashboard, by how they ended",
            ),
            upkeep: counter(
                "email_tracker.recorder.upkeep",
                "",
                "Rounds of upkeep, by task and by how they ended",
            ),
            workers: gauge(
                "email_tracker.recorder.workers",
                "Workers, each with one transaction at a time",
            ),
            workers_busy: gauge(
                "email_tracker.recorder.workers.busy",
                "Workers in a transaction now",
            ),
            geoip_built: meter
                .u64_gauge("email_tracker.recorder.geoip.built.timestamp")
                .with_unit("s")
                .with_description("When the GeoIP database in use was built; 0 if there is none")
                .build(),
            geoip_refused: meter
                .u64_gauge("email_tracker.recorder.geoip.refused")
                .with_unit("{file}")
                .with_description(
                    "1 while the file at GEOIP_DATABASE cannot be read, and the one before it is in use",
                )
                .build(),
        };
        metrics.start_at_zero();
        metrics
    }

    fn start_at_zero(&self) {
        for outcome in Outcome::ALL {
            self.facts.add(0, &[label(outcome)]);
        }
        for code in CODES {
            self.batches.add(0, &[code_label(code)]);
        }
        for counter in [&self.new_emails, &self.corrected, &self.partitions_made] {
            counter.add(0, &[]);
        }
        self.removed(Removed::default());
        self.erased(Erased::default());
        for succeeded in [true, false] {
            for kind in ["email", "recipient"] {
                self.erasures.add(0, &erasure_labels(kind, succeeded));
            }
            self.sessions_ended.add(0, &[outcome_label(succeeded)]);
        }
        for task in Task::ALL {
            for succeeded in [true, false] {
                self.upkeep.add(0, &upkeep_labels(task, succeeded));
            }
        }
        self.workers.add(0, &[]);
        self.workers_busy.add(0, &[]);
    }

    /// A batch of `outcomes` was answered after `took`.
    pub(crate) fn answered(&self, outcomes: &[Outcome], took: Duration) {
        for outcome in Outcome::ALL {
            let count = outcomes.iter().filter(|each| **each == outcome).count();
            if count > 0 {
                self.facts.add(number(count), &[label(outcome)]);
            }
        }
        self.batch_facts.record(number(outcomes.len()), &[]);
        self.status(Code::Ok, took);
    }

    /// A batch was answered with `code`, after `took`.
    pub(crate) fn status(&self, code: Code, took: Duration) {
        self.batches.add(1, &[code_label(code)]);
        self.batch_duration.record(took.as_secs_f64(), &[]);
    }

    /// A transaction recorded what it had to.
    pub(crate) fn recorded(&self, new_emails: u64, corrected: usize) {
        self.new_emails.add(new_emails, &[]);
        self.corrected.add(number(corrected), &[]);
    }

    /// A partition was missing and is there now.
    pub(crate) fn partition_made(&self) {
        self.partitions_made.add(1, &[]);
    }

    /// Retention has removed this.
    pub(crate) fn removed(&self, removed: Removed) {
        let Removed {
            months,
            marks,
            emails,
        } = removed;
        for (kind, count) in [("month", months), ("mark", marks), ("email", emails)] {
            self.removed.add(count, &[KeyValue::new("kind", kind)]);
        }
    }

    /// A user has asked to erase something of this kind.
    pub(crate) fn erasure(&self, kind: &'static str, succeeded: bool) {
        self.erasures.add(1, &erasure_labels(kind, succeeded));
    }

    /// Erasures have removed this.
    pub(crate) fn erased(&self, erased: Erased) {
        let Erased { emails, hits, marks } = erased;
        for (kind, count) in [("email", emails), ("hit", hits), ("mark", marks)] {
            self.erased.add(count, &[KeyValue::new("kind", kind)]);
        }
    }

    /// A user has asked to end all sessions.
    pub(crate) fn sessions_ended(&self, succeeded: bool) {
        self.sessions_ended.add(1, &[outcome_label(succeeded)]);
    }

    /// A task of upkeep is done, or has failed.
    pub(crate) fn kept_up(&self, task: Task, succeeded: bool) {
        self.upkeep.add(1, &upkeep_labels(task, succeeded));
    }

    /// The GeoIP database in use is a good one, built then.
    pub(crate) fn geoip_taken_over(&self, built_at: u64) {
        self.geoip_built.record(built_at, &[]);
        self.geoip_refused.record(0, &[]);
    }

    /// There is a GeoIP database that cannot be read.
    pub(crate) fn geoip_refused(&self) {
        self.geoip_refused.record(1, &[]);
    }

    /// This recorder has `count` workers more.
    pub(crate) fn workers(&self, count: usize) {
        self.workers.add(i64::try_from(count).unwrap_or(i64::MAX), &[]);
    }

    /// A worker is busy until the answer is dropped.
    pub(crate) fn busy_worker(&self) -> BusyWorker<'_> {
        self.workers_busy.add(1, &[]);
        BusyWorker(self)
    }
}

/// Counts as a busy worker as long as it lives.
pub(crate) struct BusyWorker<'a>(&'a Metrics);

impl Drop for BusyWorker<'_> {
    fn drop(&mut self) {
        self.0.workers_busy.add(-1, &[]);
    }
}

fn upkeep_labels(task: Task, succeeded: bool) -> [KeyValue; 2] {
    [KeyValue::new("task", task.as_str()), outcome_label(succeeded)]
}

fn erasure_labels(kind: &'static str, succeeded: bool) -> [KeyValue; 2] {
    [KeyValue::new("kind", kind), outcome_label(succeeded)]
}

fn outcome_label(succeeded: bool) -> KeyValue {
    KeyValue::new("outcome", if succeeded { "ok" } else { "error" })
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn code_label(code: Code) -> KeyValue {
    let name = match code {
        Code::Ok => "ok",
        Code::InvalidArgument => "invalid_argument",
        Code::Unauthenticated => "unauthenticated",
        Code::ResourceExhausted => "resource_exhausted",
        Code::Unavailable => "unavailable",
        _ => "other",
    };
    KeyValue::new("code", name)
}

fn label(outcome: Outcome) -> KeyValue {
    KeyValue::new("outcome", outcome.as_str())
}
