//! The reading side: batches from the head, and what became of them.

use std::{
    io,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;

use super::{
    cursor::CursorFile,
    folder::{Holdings, Segment, Shared},
    quarantine,
    segment::{Scan, Step, VOID, ZEROS},
    set_aside::{SetAside, SetAsideError, SetAsideFact},
};

/// Facts from the head of the spool, in the order of their appending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Each fact as it was appended.
    pub facts: Vec<Bytes>,
    /// All facts with a lower number are in this batch or before it.
    upto: u64,
}

/// Counts that the reader keeps for metrics.
#[derive(Debug, Default)]
pub struct ReaderCounts {
    /// Facts that are set aside now.
    pub set_aside: AtomicU64,
    /// Facts lost to corrupt bytes, which were quarantined and skipped, since the start.
    pub quarantined: AtomicU64,
    /// These bytes.
    pub quarantined_bytes: AtomicU64,
}

/// Reads a spool from its head. There is one of it for each folder.
pub struct Reader {
    shared: Arc<Shared>,
    cursor: CursorFile,
    set_aside: SetAside,
    place: Option<Place>,
    counts: Arc<ReaderCounts>,
}

/// Where the next record is read.
struct Place {
    first_seq: u64,
    scan: Scan,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, cursor: CursorFile, set_aside: SetAside) -> Self {
        let counts = Arc::new(ReaderCounts::default());
        counts.set_aside.store(set_aside.facts(), Ordering::Relaxed);
        Self {
            shared,
            cursor,
            set_aside,
            place: None,
            counts,
        }
    }

    /// The reader's counts, which go on being kept.
    #[must_use]
    pub fn counts(&self) -> Arc<ReaderCounts> {
        Arc::clone(&self.counts)
    }

    /// How much the folder holds.
    #[must_use]
    pub fn holds(&self) -> Holdings {
        self.shared.holds()
    }

    /// Waits until there may be more to read.
    pub fn readable(&self) -> impl Future<Output = ()> + Send + use<> {
        let shared = Arc::clone(&self.shared);
        async move { shared.readable.notified().await }
    }

    /// The next facts: at most `max_facts`, and of no more than `max_bytes` unless the first alone has more.
    ///
    /// Only synced facts are read. Facts are in no batch twice until the folder is opened again; until [`trim`] they stay
    /// on disk. An empty batch means that there is no more for now. What a disk refuses to read is an error only if nothing
    /// could be read before it.
    ///
    /// [`trim`]: Self::trim
    pub fn read(&mut self, max_facts: usize, max_bytes: usize) -> io::Result<Batch> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        while batch.facts.len() < max_facts && bytes < max_bytes {
            match self.read_on(&mut batch, &mut bytes, max_bytes) {
                Ok(ControlFlow::Continue(())) => {}
                Err(error) if batch.facts.is_empty() => return Err(error),
                // Facts are not read again, so those read must not be forgotten; the error comes again with the next batch.
                Ok(ControlFlow::Break(())) | Err(_) => break,
            }
        }
        Ok(batch)
    }

    /// One step of [`read`](Self::read).
    fn read_on(
        &mut self,
        batch: &mut Batch,
        bytes: &mut usize,
        max_bytes: usize,
    ) -> io::Result<ControlFlow<()>> {
        let Some((segment, successor)) = self.current_segment() else {
            return Ok(ControlFlow::Break(()));
        };
        let place = match (self.place_in(segment.first_seq), successor) {
            (Err(error), Some(successor)) if error.kind() == io::ErrorKind::NotFound => {
                let file = self.shared.segment_path(segment.first_seq);
                tracing::error!(file = %file.display(), "a segment of the spool was removed by someone else");
                self.place = Some(self.open_place(successor)?);
                return Ok(ControlFlow::Continue(()));
            }
            (place, _) => place?,
        };
        let (offset, next_seq) = (place.scan.offset(), place.scan.next_seq());
        match place.scan.step(segment.end, segment.next_seq)? {
            Step::Record { payload, .. } if !batch.facts.is_empty() && *bytes + payload.len() > max_bytes => {
                place.scan.go_back(offset, next_seq);
                return Ok(ControlFlow::Break(()));
            }
            Step::Record { seq, payload, .. } => {
                batch.upto = seq + 1;
                if seq >= self.shared.accounts().cursor {
                    *bytes += payload.len();
                    batch.facts.push(payload.into());
                }
            }
            Step::Bad {
                offset,
                bad_bytes,
                lost,
                ..
            } => {
                // What cannot be read again is corrupt.
                let holds_only = |pattern| place.scan.holds_only(pattern, offset, bad_bytes).unwrap_or(false);
                // Torn, and dropped at a start; or written ahead of records that never came.
                if holds_only(VOID) || lost == 0 && holds_only(ZEROS) {
                    return Ok(ControlFlow::Continue(()));
                }
                let unsettled = next_seq.max(self.shared.accounts().cursor);
                let lost_now = (next_seq + lost).saturating_sub(unsettled);
                // Nobody misses a fact that was settled before.
                if lost_now > 0 || lost == 0 {
                    self.quarantine(segment.first_seq, offset, bad_bytes, lost_now);
                }
            }
            Step::End => {
                let Some(successor) = successor else {
                    batch.upto = batch.upto.max(segment.next_seq); // Also past numbers that no fact has.
                    return Ok(ControlFlow::Break(()));
                };
                self.place = Some(self.open_place(successor)?);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Says that all facts up to the end of `batch` are settled: each was recorded, or set aside.
    ///
    /// They are not read again. The cursor is not synced: after a power cut some may be.
    pub fn trim(&mut self, batch: &Batch) -> io::Result<()> {
        {
            let mut accounts = self.shared.accounts();
            if batch.upto <= accounts.cursor {
                return Ok(());
            }
            accounts.cursor = batch.upto;
        }
        let written = self.cursor.write(batch.upto);
        self.shared.remove_settled();
        written
    }

    /// Keeps refused facts, with the reason of each; they are on disk when this returns. Comes before the [`trim`] of
    /// their batch.
    ///
    /// [`trim`]: Self::trim
    pub fn set_aside(&mut self, facts: &[SetAsideFact]) -> Result<(), SetAsideError> {
        let taken = self.set_aside.keep(facts)?;
        self.shared.accounts().bytes += taken;
        self.counts
            .set_aside
            .store(self.set_aside.facts(), Ordering::Relaxed);
        Ok(())
    }

    /// Calls `each` for every fact set aside, oldest first.
    pub fn for_each_set_aside(&self, mut each: impl FnMut(SetAsideFact)) -> io::Result<()> {
        self.set_aside.for_each(&mut each)
    }

    /// How many files there are of what is set aside.
    #[must_use]
    pub const fn set_aside_files(&self) -> usize {
        self.set_aside.files()
    }

    /// The facts of the oldest file of what is set aside; empty if nothing is.
    pub fn oldest_set_aside(&self) -> io::Result<Vec<SetAsideFact>> {
        self.set_aside.oldest()
    }

    /// Removes the file that [`oldest_set_aside`](Self::oldest_set_aside) read, and keeps `facts` instead, in a new file.
    /// They are on disk before the other is removed.
    pub fn replace_oldest_set_aside(&mut self, facts: &[SetAsideFact]) -> Result<(), SetAsideError> {
        let (taken, freed) = self.set_aside.replace_oldest(facts)?;
        {
            let mut accounts = self.shared.accounts();
            accounts.bytes = (accounts.bytes + taken).saturating_sub(freed);
        }
        self.counts
            .set_aside
            .store(self.set_aside.facts(), Ordering::Relaxed);
        Ok(())
    }

    /// The segment to read from, and the first number of the one behind it.
    fn current_segment(&self) -> Option<(Segment, Option<u64>)> {
        let accounts = self.shared.accounts();
        let from = self.place.as_ref().map_or(0, |place| place.first_seq);
        // The one that was read last may be gone: settled facts need no file.
        let mut rest = accounts
            .segments
            .iter()
            .filter(|segment| segment.first_seq >= from);
        let current = *rest.next()?;
        Some((current, rest.next().map(|next| next.first_seq)))
    }

    fn place_in(&mut self, first_seq: u64) -> io::Result<&mut Place> {
        let place = match self.place.take().filter(|place| place.first_seq == first_seq) {
            Some(place) => place,
            None => self.open_place(first_seq)?,
        };
        Ok(self.place.insert(place))
    }

    fn open_place(&self, first_seq: u64) -> io::Result<Place> {
        let file = self.shared.files.open(&self.shared.segment_path(first_seq))?;
        let scan = Scan::new(file, first_seq);
        Ok(Place { first_seq, scan })
    }

    /// Keeps a copy of bytes that are no record, counts them, and goes on behind them.
    fn quarantine(&mut self, first_seq: u64, offset: u64, bad_bytes: u64, lost: u64) {
        self.counts.quarantined.fetch_add(lost, Ordering::Relaxed);
        self.counts
            .quarantined_bytes
            .fetch_add(bad_bytes, Ordering::Relaxed);
        let Some(place) = &self.place else { return };
        let copy = quarantine::keep(
            self.shared.files.as_ref(),
            &self.shared.path,
            &place.scan,
            first_seq,
            offset,
            bad_bytes,
        );
        tracing::error!(
            segment = %self.shared.segment_path(first_seq).display(), offset, bad_bytes, lost,
            copy = quarantine::described(&copy),
            "skipped corrupt bytes in the spool; check the disk"
        );
        self.shared.accounts().bytes += copy.map_or(0, |copy| copy.bytes);
    }
}
