//! The durable spool: facts from the moment they are answered for until the recorder has them.
//!
//! [`Spool::append`] returns when its fact is synced. One thread writes: whatever has arrived while it was busy becomes one
//! write and one sync ([`writer`]). The other side reads batches from the head, sets refused facts aside, and trims what
//! is settled ([`Reader`]). What lies on disk is in [`segment`].
//!
//! Nothing read back is trusted without its checksum. What was cut off at the very end of the last segment was never
//! answered for, and is dropped, as is what a power cut has torn behind the last record that says that all before it is
//! synced. Other bad bytes are corruption: they are copied to the folder `quarantine`, counted, and skipped.

pub mod files;

mod cursor;
mod folder;
mod quarantine;
mod reader;
mod reply;
mod segment;
mod set_aside;
mod writer;

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{Semaphore, TryAcquireError, oneshot};

use self::{
    folder::Shared,
    reply::Reply,
    writer::{Append, Request, Writer, WriterState},
};
pub use self::{
    folder::{Folder, Holdings, OpenError},
    reader::{Batch, Reader, ReaderCounts},
    segment::MAX_PAYLOAD_BYTES,
    set_aside::{MAX_SET_ASIDE_BYTES, SetAsideError, SetAsideFact},
};

/// [`Options::pace`] unless set otherwise.
pub const PACE: Duration = Duration::from_millis(1);
/// [`Options::patience`] unless set otherwise.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Most memory that facts waiting for the disk take, in bytes.
const WAITING_BYTES: usize = 16 << 20;
/// What a waiting fact takes besides its own bytes; with it, [`WAITING_BYTES`] bounds their number too, to 32,768.
const WAITING_OVERHEAD_BYTES: usize = 512;
/// Size at which a new segment is begun, unless the spool's bound calls for smaller ones.
const SEGMENT_BYTES: u64 = 16 << 20;

/// When an append is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// After its sync: what is answered survives a power cut.
    Always,
    /// After its write, with a sync each time this long has passed: what is answered survives the end of the process, and
    /// a power cut takes at most what came in this long before it.
    Interval(Duration),
}

/// How a spool behaves.
pub struct Options {
    /// Most bytes on disk: of segments, of what is set aside, and of what is quarantined.
    pub max_bytes: u64,
    /// When an append is answered.
    pub sync: SyncPolicy,
    /// Size at which a new segment is begun, in bytes.
    pub segment_bytes: u64,
    /// From the beginning of a sync to that of the next one, at least; asked each time. An append after a pause does not
    /// wait for it.
    pub pace: Box<dyn Fn() -> Duration + Send>,
    /// How long an append waits for the disk before it is [`AppendError::Overdue`].
    pub patience: Duration,
    /// Told how long each sync took.
    pub observe_sync: Box<dyn Fn(Duration) + Send>,
}

impl Options {
    /// A spool of at most `max_bytes`.
    #[must_use]
    pub fn new(max_bytes: u64, sync: SyncPolicy) -> Self {
        Self {
            max_bytes,
            sync,
            // What is settled leaves the disk by whole segments; an eighth keeps the bound usable.
            segment_bytes: (max_bytes / 8).min(SEGMENT_BYTES),
            pace: Box::new(|| PACE),
            patience: PATIENCE,
            observe_sync: Box::new(|_| {}),
        }
    }
}

/// Why the spool did not take a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// It holds its `max_bytes`.
    SpoolFull,
    /// The disk has no room.
    DiskFull,
    /// The disk failed.
    DiskError,
    /// Too many facts wait for the disk.
    Busy,
    /// The spool is closing, or its thread is gone.
    Closed,
}

impl Failure {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::SpoolFull,
        Self::DiskFull,
        Self::DiskError,
        Self::Busy,
        Self::Closed,
    ];

    /// Its name as a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SpoolFull => "spool_full",
            Self::DiskFull => "disk_full",
            Self::DiskError => "disk_error",
            Self::Busy => "busy",
            Self::Closed => "closed",
        }
    }

    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::DiskError,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::SpoolFull => "the spool is full",
            Self::DiskFull => "the disk under the spool is full",
            Self::DiskError => "the disk under the spool fails",
            Self::Busy => "too many facts wait for the disk under the spool",
            Self::Closed => "the spool is closing",
        })
    }
}

/// Why an append did not return a synced fact.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The fact is not in the spool.
    #[error("{0}")]
    Failed(Failure),
    /// The disk has not answered within [`Options::patience`]; what becomes of the fact shows later.
    #[error("the disk under the spool does not answer")]
    Overdue(Overdue),
}

/// A fact that the disk has not answered for yet.
#[derive(Debug)]
pub struct Overdue(oneshot::Receiver<reply::Outcome>);

impl Overdue {
    /// Waits for what becomes of it.
    pub async fn outcome(self) -> Result<(), Failure> {
        self.0.await.unwrap_or(Err(Failure::Closed))
    }
}

/// The writing side of an open spool; clones share it.
#[derive(Clone)]
pub struct Spool(Arc<Inner>);

struct Inner {
    requests: Sender<Request>,
    memory: Arc<Semaphore>,
    state: Arc<WriterState>,
    shared: Arc<Shared>,
    started: Instant,
    patience: Duration,
}

/// Resolves when the spool's writer has ended: after [`Spool::close`], or because it failed.
pub type Ended = oneshot::Receiver<()>;

impl Spool {
    /// Starts writing to `folder`; the reader is for the one who delivers.
    pub fn start(folder: Folder, options: Options) -> io::Result<(Self, Reader, Ended)> {
        let started = Instant::now();
        let patience = options.patience;
        let state = Arc::new(WriterState::default());
        let shared = Arc::clone(&folder.shared);
        let (requests, inbox) = channel();
        let (ended, when_ended) = oneshot::channel();
        let writer = Writer::new(Arc::clone(&shared), Arc::clone(&state), options, started);
        thread::Builder::new()
            .name("spool-writer".into())
            .spawn(move || {
                let _ended = ended; // Dropped at the end, however it comes.
                writer.run(&inbox);
            })?;
        let inner = Inner {
            requests,
            memory: Arc::new(Semaphore::new(WAITING_BYTES)),
            state,
            shared,
            started,
            patience,
        };
        Ok((Self(Arc::new(inner)), folder.into_reader(), when_ended))
    }

    /// Puts a fact into the spool; it is on disk, synced, when this returns `Ok` (see [`SyncPolicy`]).
    ///
    /// Dropping the future takes nothing back: a fact that is already on its way is written. Facts are bounded in number
    /// and size while they wait; when the disk stands still, this waits at most [`Options::patience`], and not at all once the disk
    /// has not answered for that long.
    pub async fn append(&self, fact: Vec<u8>) -> Result<(), AppendError> {
        if fact.is_empty() || fact.len() > MAX_PAYLOAD_BYTES {
            return Err(AppendError::Failed(Failure::DiskError)); // No fact of ours: each field has a limit.
        }
        let deadline = tokio::time::Instant::now()
            + if self.is_stalled() {
                Duration::ZERO
            } else {
                self.0.patience
            };
        let memory_wanted = u32::try_from(fact.len() + WAITING_OVERHEAD_BYTES).unwrap_or(u32::MAX);
        let memory = match Arc::clone(&self.0.memory).try_acquire_many_owned(memory_wanted) {
            Ok(memory) => memory,
            Err(TryAcquireError::Closed) => return Err(AppendError::Failed(Failure::Closed)),
            Err(TryAcquireError::NoPermits) => {
                let memory = Arc::clone(&self.0.memory).acquire_many_owned(memory_wanted);
                match tokio::time::timeout_at(deadline, memory).await {
                    Ok(Ok(memory)) => memory,
                    Ok(Err(_)) => return Err(AppendError::Failed(Failure::Closed)),
                    Err(_) => return Err(AppendError::Failed(Failure::Busy)),
                }
            }
        };
        let (reply, mut answer) = Reply::channel();
        let append = Append { fact, reply, memory };
        if self.0.requests.send(Request::Append(append)).is_err() {
            return Err(AppendError::Failed(Failure::Closed));
        }
        match tokio::time::timeout_at(deadline, &mut answer).await {
            Ok(answer) => answer
                .unwrap_or(Err(Failure::Closed))
                .map_err(AppendError::Failed),
            Err(_) => Err(AppendError::Overdue(Overdue(answer))),
        }
    }

    /// Ends the writer after everything appended so far; later appends fail.
    pub fn close(&self) {
        let _ = self.0.requests.send(Request::Close); // It may have ended already.
    }

    /// How much the spool holds.
    #[must_use]
    pub fn holds(&self) -> Holdings {
        self.0.shared.holds()
    }

    /// Why facts are being lost right now, if they are.
    #[must_use]
    pub fn failing(&self) -> Option<Failure> {
        self.0
            .state
            .failing()
            .or_else(|| self.is_stalled().then_some(Failure::Busy))
    }

    /// Facts that were answered before their sync, under [`SyncPolicy::Interval`], and then lost by it.
    #[must_use]
    pub fn lost_after_answer(&self) -> u64 {
        self.0.state.lost_after_answer.load(Ordering::Relaxed)
    }

    fn is_stalled(&self) -> bool {
        self.0
            .state
            .busy_for(self.0.started)
            .is_some_and(|millis| u128::from(millis) >= self.0.patience.as_millis())
    }
}
