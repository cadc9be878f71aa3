//! The pixel's instruments. What a hit touches are plain atomics, read when somebody asks; the rest records directly.
//! Every series exists from the start, at zero.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter},
};
use recorder_api::Outcome;
use tonic::Code;
use tracking::Clock;

use crate::{
    hit::InvalidToken,
    spool::{Failure, ReaderCounts, Spool},
};

/// Bounds of the histograms of seconds: from a fast sync to a hanging disk or recorder.
const SECONDS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0,
];

/// Why a fact that was answered for is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// The spool did not take it.
    Spool(Failure),
    /// Its sync failed after its answer, under `SPOOL_SYNC=interval`.
    Unsynced,
    /// It was in the spool, and its bytes are corrupt.
    Corrupt,
    /// The recorder refused it, and it could not be set aside.
    NotSetAside,
    /// The clock shows a time before 1970, of which no id can be made.
    Clock,
}

impl Loss {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Spool(failure) => failure.as_str(),
            Self::Unsynced => "unsynced",
            Self::Corrupt => "corrupt",
            Self::NotSetAside => "not_set_aside",
            Self::Clock => "clock",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Spool(Failure::SpoolFull) => 0,
            Self::Spool(Failure::DiskFull) => 1,
            Self::Spool(Failure::DiskError) => 2,
            Self::Spool(Failure::Busy) => 3,
            Self::Spool(Failure::Closed) => 4,
            Self::Unsynced => 5,
            Self::NotSetAside => 6,
            Self::Clock => 7,
            Self::Corrupt => 8,
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        let spool = Failure::ALL.into_iter().map(Self::Spool);
        spool.chain([Self::Unsynced, Self::NotSetAside, Self::Clock, Self::Corrupt])
    }
}

/// What became of a request for a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkOutcome {
    Recorded,
    Refused,
    NotStored,
}

impl MarkOutcome {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Recorded, "recorded"),
        (Self::Refused, "refused"),
        (Self::NotStored, "not_stored"),
    ];
}

/// Counts of the requests, touched by each of them.
#[derive(Debug, Default)]
pub(crate) struct RequestCounts {
    hits: AtomicU64,
    marks: [AtomicU64; 3],
    invalid_tokens: [AtomicU64; 7],
    lost: [AtomicU64; 9],
    overdue: AtomicI64,
}

impl RequestCounts {
    pub(crate) fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn mark(&self, outcome: MarkOutcome) {
        add_one(
            &self.marks,
            MarkOutcome::ALL.iter().position(|(it, _)| *it == outcome),
        );
    }

    pub(crate) fn invalid_token(&self, why: InvalidToken) {
        add_one(
            &self.invalid_tokens,
            InvalidToken::ALL.iter().position(|it| *it == why),
        );
    }

    pub(crate) fn lost(&self, why: Loss) {
        add_one(&self.lost, Some(why.index()));
    }

    /// A hit was answered although the disk has not answered yet; [`Self::no_longer_overdue`] follows.
    pub(crate) fn overdue(&self) {
        self.overdue.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn no_longer_overdue(&self) {
        self.overdue.fetch_sub(1, Ordering::Relaxed);
    }

    /// Hits that were answered and that the disk has not answered for.
    pub(crate) fn overdue_now(&self) -> i64 {
        self.overdue.load(Ordering::Relaxed)
    }

    /// Has `meter` show these counts, and of those that spool and reader keep what was lost.
    pub(crate) fn register(self: &Arc<Self>, meter: &Meter, spool: &Spool, reader: Arc<ReaderCounts>) {
        let counts = Arc::clone(self);
        meter
            .u64_observable_counter("email_tracker.pixel.hits")
            .with_unit("{hit}")
            .with_description("GETs of a pixel with a valid token")
            .with_callback(move |seen| seen.observe(counts.hits.load(Ordering::Relaxed), &[]))
            .build();
        let counts = Arc::clone(self);
        meter
            .u64_observable_counter("email_tracker.pixel.marks")
            .with_unit("{mark}")
            .with_description("Requests for a mark, by what became of them")
            .with_callback(move |seen| {
                for (count, (_, name)) in counts.marks.iter().zip(MarkOutcome::ALL) {
                    seen.observe(count.load(Ordering::Relaxed), &[KeyValue::new("outcome", name)]);
                }
            })
            .build();
        let counts = Arc::clone(self);
        meter
            .u64_observable_counter("email_tracker.pixel.invalid_tokens")
            .with_unit("{request}")
            .with_description("GETs of a pixel without a valid token, by what is wrong with it")
            .with_callback(move |seen| {
                for (count, why) in counts.invalid_tokens.iter().zip(InvalidToken::ALL) {
                    seen.observe(
                        count.load(Ordering::Relaxed),
                        &[KeyValue::new("reason", why.as_str())],
                    );
                }
            })
            .build();
        let (counts, spool) = (Arc::clone(self), spool.clone());
        meter
            .u64_observable_counter("email_tracker.pixel.facts.lost")
            .with_unit("{fact}")
            .with_description("Facts answered for and then lost, by reason")
            .with_callback(move |seen| {
                for why in Loss::all() {
                    let here = counts
                        .lost
                        .get(why.index())
                        .map_or(0, |count| count.load(Ordering::Relaxed));
                    let of_spool = match why {
                        Loss::Unsynced => spool.lost_after_answer(),
                        Loss::Corrupt => reader.quarantined.load(Ordering::Relaxed),
                        _ => 0,
                    };
                    seen.observe(here + of_spool, &[KeyValue::new("reason", why.as_str())]);
                }
            })
            .build();
        let counts = Arc::clone(self);
        meter
            .i64_observable_gauge("email_tracker.pixel.facts.overdue")
            .with_unit("{fact}")
            .with_description("Hits answered without waiting any longer for the disk, which still has them")
            .with_callback(move |seen| seen.observe(counts.overdue_now(), &[]))
            .build();
    }
}

fn add_one(counts: &[AtomicU64], index: Option<usize>) {
    if let Some(count) = index.and_then(|index| counts.get(index)) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// The histogram of the spool's syncs, as what [`crate::spool::Options`] wants.
pub(crate) fn observe_syncs(meter: &Meter) -> Box<dyn Fn(Duration) + Send> {
    let seconds = meter
        .f64_histogram("email_tracker.pixel.spool.sync.duration")
        .with_unit("s")
        .with_description("One sync of the spool, which a whole group of facts waits for")
        .with_boundaries(SECONDS.to_vec())
        .build();
    Box::new(move |took| seconds.record(took.as_secs_f64(), &[]))
}

/// Has `meter` show what the spool holds.
pub(crate) fn register_spool(meter: &Meter, spool: &Spool, max_bytes: u64, counts: Arc<ReaderCounts>) {
    let gauge = |name: &'static str, unit: &'static str, about: &'static str| {
        meter
            .u64_observable_gauge(name)
            .with_unit(unit)
            .with_description(about)
    };
    let of = spool.clone();
    gauge(
        "email_tracker.pixel.spool.size",
        "By",
        "Bytes of the spool on disk",
    )
    .with_callback(move |seen| seen.observe(of.holds().bytes, &[]))
    .build();
    gauge(
        "email_tracker.pixel.spool.limit",
        "By",
        "SPOOL_MAX_BYTES: most bytes of the spool on disk",
    )
    .with_callback(move |seen| seen.observe(max_bytes, &[]))
    .build();
    let of = spool.clone();
    gauge(
        "email_tracker.pixel.spool.records",
        "{fact}",
        "Facts that the recorder has not answered for yet",
    )
    .with_callback(move |seen| seen.observe(of.holds().unsent, &[]))
    .build();
    let of = Arc::clone(&counts);
    gauge(
        "email_tracker.pixel.spool.set_aside",
        "{fact}",
        "Refused facts that are set aside",
    )
    .with_callback(move |seen| seen.observe(of.set_aside.load(Ordering::Relaxed), &[]))
    .build();
    let of = Arc::clone(&counts);
    meter
        .u64_observable_counter("email_tracker.pixel.spool.quarantined")
        .with_unit("{fact}")
        .with_description("Facts lost to corrupt bytes in the spool, which were quarantined and skipped")
        .with_callback(move |seen| seen.observe(of.quarantined.load(Ordering::Relaxed), &[]))
        .build();
    meter
        .u64_observable_counter("email_tracker.pixel.spool.quarantined_size")
        .with_unit("By")
        .with_description("Corrupt bytes in the spool that were skipped")
        .with_callback(move |seen| seen.observe(counts.quarantined_bytes.load(Ordering::Relaxed), &[]))
        .build();
}

/// How the forwarding goes, for readiness and gauges.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// When the oldest fact of the batch in hand happened, in milliseconds since the epoch; 0 if none is in hand.
    oldest_at_ms: AtomicI64,
    /// Since when no batch was answered for, in milliseconds since the epoch; 0 while all is well.
    failing_since_ms: AtomicI64,
}

impl Progress {
    pub(crate) fn set_oldest(&self, at_ms: Option<i64>) {
        self.oldest_at_ms.store(at_ms.unwrap_or(0), Ordering::Relaxed);
    }

    /// Notes that a batch failed at `now_ms`; true if it is the first one of a row.
    pub(crate) fn failed(&self, now_ms: i64) -> bool {
        self.failing_since_ms
            .compare_exchange(0, now_ms, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Notes that a batch was answered for; gives since when none was.
    pub(crate) fn succeeded(&self) -> Option<i64> {
        Some(self.failing_since_ms.swap(0, Ordering::Relaxed)).filter(|since| *since != 0)
    }

    pub(crate) fn failing_since(&self) -> Option<i64> {
        Some(self.failing_since_ms.load(Ordering::Relaxed)).filter(|since| *since != 0)
    }
}

/// Instruments of the forwarder.
#[derive(Clone)]
pub(crate) struct ForwardMetrics {
    facts: Counter<u64>,
    errors: Counter<u64>,
    batch_seconds: Histogram<f64>,
    pub(crate) progress: Arc<Progress>,
}

/// The label of facts that a newer recorder answered for in a way this build does not know.
pub(crate) const UNKNOWN_OUTCOME: &str = "unknown";
/// The label of facts in the spool that cannot be decoded.
pub(crate) const UNDECODABLE: &str = "undecodable";

impl ForwardMetrics {
    pub(crate) fn new(meter: &Meter, clock: Arc<dyn Clock>) -> Self {
        let progress = Arc::new(Progress::default());
        let of = Arc::clone(&progress);
        meter
            .f64_observable_gauge("email_tracker.pixel.spool.oldest_unsent_age")
            .with_unit("s")
            .with_description("Age of the oldest fact that the recorder has not answered for")
            .with_callback(move |seen| {
                let at_ms = of.oldest_at_ms.load(Ordering::Relaxed);
                let age_ms = if at_ms == 0 {
                    0
                } else {
                    clock.now().as_millis().saturating_sub(at_ms).max(0)
                };
                seen.observe(Duration::from_millis(age_ms.unsigned_abs()).as_secs_f64(), &[]);
            })
            .build();
        let metrics = Self {
            facts: meter
                .u64_counter("email_tracker.pixel.forward.facts")
                .with_unit("{fact}")
                .with_description("Facts that the recorder answered for, by its answer")
                .build(),
            errors: meter
                .u64_counter("email_tracker.pixel.forward.errors")
                .with_unit("{batch}")
                .with_description("Batches that the recorder did not answer for, by gRPC code")
                .build(),
            batch_seconds: meter
                .f64_histogram("email_tracker.pixel.forward.batch.duration")
                .with_unit("s")
                .with_description("One batch from its sending to the recorder's answer or failure")
                .with_boundaries(SECONDS.to_vec())
                .build(),
            progress,
        };
        for outcome in Outcome::ALL
            .map(Outcome::as_str)
            .into_iter()
            .chain([UNKNOWN_OUTCOME, UNDECODABLE])
        {
            metrics.facts(outcome, 0);
        }
        for code in (1..=16).map(Code::from_i32) {
            metrics.errors.add(0, &[KeyValue::new("code", code_name(code))]);
        }
        metrics
    }

    pub(crate) fn facts(&self, outcome: &'static str, count: u64) {
        self.facts.add(count, &[KeyValue::new("outcome", outcome)]);
    }

    pub(crate) fn error(&self, code: Code) {
        self.errors.add(1, &[KeyValue::new("code", code_name(code))]);
    }

    pub(crate) fn batch_took(&self, took: Duration) {
        self.batch_seconds.record(took.as_secs_f64(), &[]);
    }
}

const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}
