//! The writer: one thread that turns whatever has arrived into one write and one sync, then answers all of it.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::OwnedSemaphorePermit;

use super::{
    Failure, Options, SyncPolicy,
    files::SpoolFile,
    folder::{Segment, Shared},
    reply::{Outcome, Replies, Reply},
    segment::{HEADER_END, Header, encode_record, record_bytes, to_u64},
};

/// Most records of one group commit.
const MAX_GROUP_RECORDS: usize = 4_096;
/// A group takes no more records once it has this many bytes.
const MAX_GROUP_BYTES: usize = 4 << 20;
/// How much of the file behind the records is written ahead, at most: a sync that changes neither a file's length nor
/// where it lies on the disk leaves the file system's journal alone.
const ZEROS_AHEAD: u64 = 256 << 10;
/// How long appends fail at once after the disk failed, at first and at most: each new try costs a new file.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// While appends fail and none come: how often to try, and with how much.
const PROBE_EVERY: Duration = Duration::from_millis(500);
const PROBE_BYTES: u64 = 4_096;

/// What the writer is asked to do.
pub(super) enum Request {
    Append(Append),
    /// Finish what came before, sync, and end.
    Close,
}

/// A fact on its way to the disk.
pub(super) struct Append {
    pub(super) fact: Vec<u8>,
    pub(super) reply: Reply,
    /// The fact's share of the memory that waiting facts may take.
    pub(super) memory: OwnedSemaphorePermit,
}

/// What the writer shows of itself.
#[derive(Default)]
pub(super) struct WriterState {
    /// Milliseconds from the spool's start to that of the disk access in progress, plus one; 0 if there is none.
    busy_since: AtomicU64,
    /// The [`Failure`] that the last append met, as its index plus one; 0 if it went well.
    failing: AtomicU64,
    /// Facts answered before their sync (policy `interval`) whose sync then failed.
    pub(super) lost_after_answer: AtomicU64,
}

impl WriterState {
    /// Since how many milliseconds the disk has not answered.
    pub(super) fn busy_for(&self, started: Instant) -> Option<u64> {
        let since = self.busy_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(millis(started.elapsed()).saturating_sub(since))
    }

    pub(super) fn failing(&self) -> Option<Failure> {
        let index = usize::try_from(self.failing.load(Ordering::Relaxed))
            .ok()?
            .checked_sub(1)?;
        Failure::ALL.get(index).copied()
    }

    fn set_failing(&self, failure: Option<Failure>) {
        let index = failure.and_then(|failure| Failure::ALL.iter().position(|it| *it == failure));
        self.failing
            .store(index.map_or(0, |index| to_u64(index) + 1), Ordering::Relaxed);
    }
}

/// The thread's own state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    state: Arc<WriterState>,
    options: Options,
    started: Instant,
    active: Option<Active>,
    buffer: Vec<u8>,
    /// After a failure: until when appends fail at once, and how long the next pause is.
    pause: Option<(Instant, Failure)>,
    next_pause: Duration,
}

/// What became of a group.
#[derive(Default)]
struct Written {
    taken: Vec<Append>,
    refused: Vec<(Append, Failure)>,
}

impl Written {
    fn none(group: Vec<Append>, failure: Failure) -> Self {
        let refused = group.into_iter().map(|append| (append, failure)).collect();
        Self {
            taken: Vec::new(),
            refused,
        }
    }
}

/// The segment that is written to.
struct Active {
    first_seq: u64,
    file: Box<dyn SpoolFile>,
    /// How much was written.
    written: u64,
    /// How long the file is: zeros may follow what was written.
    length: u64,
    /// The disk had no room for zeros, so no more are tried: each try would fill it for a moment.
    no_room_for_zeros: bool,
    /// How many of the written records wait for their sync, and what comes after them. Only under policy `interval` is
    /// this more than the group in hand.
    unsynced: u64,
    next_seq: u64,
    last_sync_begun: Instant,
    last_sync: Instant,
}

impl Active {
    /// How many zeros to write behind so many `bytes` of records, if the file ends there: not beyond where the segment ends
    /// anyway, and with the records no more than the spool has `free`.
    fn zeros_due(&self, bytes: u64, segment_bytes: u64, free: u64) -> u64 {
        let end = self.written + bytes;
        if end <= self.length || self.no_room_for_zeros {
            return 0;
        }
        let most = ZEROS_AHEAD.min(segment_bytes / 4);
        most.min(segment_bytes.saturating_sub(end))
            .min(free.saturating_sub(end - self.length))
    }

    /// Writes what is in `buffer`, and so many zeros behind it; if these find no room, without them.
    fn append(&mut self, buffer: &mut Vec<u8>, zeros: u64) -> io::Result<()> {
        let bytes = buffer.len();
        let end = self.written + to_u64(bytes);
        if zeros > 0 {
            buffer.resize(bytes + usize::try_from(zeros).unwrap_or(0), 0);
            let written = self.file.write_at(buffer, self.written);
            buffer.truncate(bytes);
            match written {
                Ok(()) => {
                    self.written = end;
                    self.length = end + zeros;
                    return Ok(());
                }
                Err(error) => {
                    self.length = end + zeros; // At most.
                    if Failure::of(&error) != Failure::DiskFull {
                        return Err(error);
                    }
                    self.no_room_for_zeros = true;
                    self.cut()?;
                }
            }
        }
        self.length = self.length.max(end); // Even if only a part of it gets there.
        self.file.write_at(buffer, self.written)?;
        self.written = end;
        Ok(())
    }

    /// Cuts off whatever is behind what was written.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.written)?;
        self.length = self.written;
        Ok(())
    }
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        state: Arc<WriterState>,
        options: Options,
        started: Instant,
    ) -> Self {
        Self {
            shared,
            state,
            options,
            started,
            active: None,
            buffer: Vec::new(),
            pause: None,
            next_pause: PAUSES.0,
        }
    }

    /// Serves until it is told to close, or nobody is left who could ask.
    pub(super) fn run(mut self, requests: &Receiver<Request>) {
        let mut open = true;
        while open {
            let mut group = Vec::new();
            match self.next_request(requests) {
                Ok(Request::Append(append)) => {
                    group.push(append);
                    self.keep_pace();
                }
                Ok(Request::Close) | Err(RecvTimeoutError::Disconnected) => open = false,
                Err(RecvTimeoutError::Timeout) => {
                    self.sync_answered();
                    self.probe();
                    continue;
                }
            }
            let mut bytes = 0;
            while group.len() < MAX_GROUP_RECORDS && bytes < MAX_GROUP_BYTES {
                match requests.try_recv() {
                    Ok(Request::Append(append)) => {
                        bytes += append.fact.len();
                        group.push(append);
                    }
                    Ok(Request::Close) => open = false,
                    Err(_) => break,
                }
            }
            self.commit(group);
        }
        self.sync_answered();
        self.cut_zeros();
    }

    fn next_request(&self, requests: &Receiver<Request>) -> Result<Request, RecvTimeoutError> {
        match (&self.options.sync, &self.active) {
            (SyncPolicy::Interval(interval), Some(active)) if active.unsynced > 0 => {
                requests.recv_timeout(interval.saturating_sub(active.last_sync.elapsed()))
            }
            _ if self.state.failing().is_some() => requests.recv_timeout(PROBE_EVERY),
            _ => requests.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    /// Waits a little if the last sync has only just begun: what comes meanwhile shares the next one. A fast disk would
    /// otherwise sync a few hits at a time, and each sync has its price.
    fn keep_pace(&self) {
        if self.options.sync == SyncPolicy::Always
            && let Some(active) = &self.active
            && let Some(rest) = (self.options.pace)().checked_sub(active.last_sync_begun.elapsed())
        {
            thread::sleep(rest);
        }
    }

    /// Finds out without any traffic whether what failed works again, so that readiness recovers by itself.
    fn probe(&mut self) {
        let Some(failure) = self.state.failing() else {
            return;
        };
        let works = match (failure, self.paused()) {
            (_, Some(_)) => false,
            (Failure::SpoolFull, None) => {
                self.make_room(PROBE_BYTES);
                self.fits(PROBE_BYTES)
            }
            (_, None) => self.begin_segment_if_needed().is_ok() && self.can_write(),
        };
        if works {
            self.state.set_failing(None);
        }
    }

    /// Whether the disk works, by writing and syncing a little behind the records and cutting it off again.
    fn can_write(&mut self) -> bool {
        let Some(active) = &mut self.active else {
            return false;
        };
        let zeros = vec![0; usize::try_from(PROBE_BYTES).unwrap_or_default()];
        self.state.begin_access(self.started);
        let written = active.file.write_at(&zeros, active.written);
        let synced = if written.is_ok() {
            active.file.sync()
        } else {
            Ok(())
        };
        let cut = active.cut();
        self.state.end_access();
        self.account();
        if let Err(error) = synced.and(cut) {
            self.seal();
            self.failed("try", &error);
            return false;
        }
        written.is_ok()
    }

    /// Writes a group, syncs it as the policy says, and answers each of it.
    fn commit(&mut self, group: Vec<Append>) {
        let Written { taken, refused } = self.write(group);
        let outcome = if taken.is_empty() {
            Ok(())
        } else {
            self.sync_as_due(to_u64(taken.len()))
        };
        // Only what just failed says whether the spool takes facts; a group of none says nothing.
        match (&outcome, refused.last()) {
            (Err(failure), _) | (Ok(()), Some((_, failure))) => self.state.set_failing(Some(*failure)),
            (Ok(()), None) if !taken.is_empty() => self.state.set_failing(None),
            (Ok(()), None) => {}
        }
        let taken = taken.into_iter().map(|append| (append, outcome));
        let refused = refused
            .into_iter()
            .map(|(append, failure)| (append, Err(failure)));
        answer(taken.chain(refused));
    }

    /// Writes what fits into the spool's bound.
    fn write(&mut self, group: Vec<Append>) -> Written {
        if group.is_empty() {
            return Written::default();
        }
        if let Some(failure) = self.paused() {
            return Written::none(group, failure);
        }
        let wanted = group.iter().map(|append| record_bytes(append.fact.len())).sum();
        self.make_room(wanted);
        if let Err(failure) = self.begin_segment_if_needed() {
            return Written::none(group, failure);
        }
        let Some(active) = &mut self.active else {
            return Written::none(group, Failure::DiskError);
        };
        let free = self
            .options
            .max_bytes
            .saturating_sub(self.shared.accounts().bytes);
        let room = free + (active.length - active.written);
        self.buffer.clear();
        let mut next_seq = active.next_seq;
        let (mut taken, mut refused) = (Vec::with_capacity(group.len()), Vec::new());
        for append in group {
            if to_u64(self.buffer.len()) + record_bytes(append.fact.len()) > room {
                refused.push((append, Failure::SpoolFull));
                continue;
            }
            let after_sync = taken.is_empty() && active.unsynced == 0;
            encode_record(&mut self.buffer, next_seq, after_sync, &append.fact);
            next_seq += 1;
            taken.push(append);
        }
        if taken.is_empty() {
            return Written { taken, refused };
        }
        let zeros = active.zeros_due(to_u64(self.buffer.len()), self.options.segment_bytes, free);
        self.state.begin_access(self.started);
        let written = active.append(&mut self.buffer, zeros);
        self.state.end_access();
        if let Err(error) = written {
            let failure = self.write_failed(&error, next_seq);
            taken.extend(refused.into_iter().map(|(append, _)| append));
            return Written::none(taken, failure);
        }
        active.unsynced += to_u64(taken.len());
        active.next_seq = next_seq;
        self.shared.accounts().next_seq = next_seq;
        self.account();
        Written { taken, refused }
    }

    /// Notes in the accounts how long the active segment's file is.
    fn account(&self) {
        let Some(active) = &self.active else { return };
        let mut accounts = self.shared.accounts();
        let Some(last) = accounts.segments.back_mut() else {
            return;
        };
        let before = std::mem::replace(&mut last.file_bytes, active.length);
        accounts.bytes = (accounts.bytes + active.length).saturating_sub(before);
    }

    /// Gives back what was written ahead, and whatever a failed write has left.
    fn cut_zeros(&mut self) {
        if let Some(active) = &mut self.active
            && active.length > active.written
        {
            self.state.begin_access(self.started);
            let _ = active.cut(); // If it fails, some zeros stay until the segment goes.
            self.state.end_access();
            self.account();
        }
    }

    /// Whether the spool's bound has room for so many bytes of records; zeros ahead are room that it has already.
    fn fits(&self, bytes: u64) -> bool {
        let active = self.active.as_ref();
        let ahead = active.map_or(0, |active| active.length - active.written);
        let more = bytes.saturating_sub(ahead);
        self.shared.accounts().bytes.saturating_add(more) <= self.options.max_bytes
    }

    /// If the bound is near: seals the active segment once its facts are all settled, so that its room is free again.
    fn make_room(&mut self, wanted: u64) {
        if self.fits(wanted) {
            return;
        }
        let settled = {
            let accounts = self.shared.accounts();
            let last = accounts.segments.back();
            last.is_some_and(|last| last.next_seq <= accounts.cursor && last.end > HEADER_END)
        };
        if settled && self.active.as_ref().is_some_and(|active| active.unsynced == 0) {
            self.seal();
            self.shared.remove_settled();
        }
    }

    fn paused(&self) -> Option<Failure> {
        let (until, failure) = self.pause?;
        (Instant::now() < until).then_some(failure)
    }

    fn begin_segment_if_needed(&mut self) -> Result<(), Failure> {
        if self
            .active
            .as_ref()
            .is_some_and(|active| active.written >= self.options.segment_bytes)
        {
            self.sync_answered();
            self.seal();
        }
        if self.active.is_some() {
            return Ok(());
        }
        if let Some(failure) = self.paused() {
            return Err(failure);
        }
        self.state.begin_access(self.started);
        let begun = self.begin_segment();
        self.state.end_access();
        match begun {
            Ok(active) => {
                self.active = Some(active);
                Ok(())
            }
            Err(error) => Err(self.failed("begin a new segment of", &error)),
        }
    }

    /// Creates the next segment. Its header is on disk before its name, and both before anything in it is answered for:
    /// whatever has its name also says how much of the segment before was synced.
    fn begin_segment(&self) -> io::Result<Active> {
        let (first_seq, previous) = {
            let accounts = self.shared.accounts();
            (accounts.next_seq, accounts.segments.back().copied())
        };
        let header = Header {
            first_seq,
            previous_first_seq: previous.map_or(0, |previous| previous.first_seq),
            previous_end: previous.map_or(0, |previous| previous.end),
        };
        let path = self.shared.segment_path(first_seq);
        let file = self.shared.files.create(&path)?;
        let begun = file
            .write_at(&header.encode(), 0)
            .and_then(|()| file.sync())
            .and_then(|()| self.shared.files.sync_folder(&self.shared.path));
        if let Err(error) = begun {
            self.forget_file(&path);
            return Err(error);
        }
        let mut accounts = self.shared.accounts();
        accounts.bytes += HEADER_END;
        accounts.segments.push_back(Segment {
            first_seq,
            next_seq: first_seq,
            end: HEADER_END,
            file_bytes: HEADER_END,
            sealed: false,
        });
        Ok(Active {
            first_seq,
            file,
            written: HEADER_END,
            length: HEADER_END,
            no_room_for_zeros: false,
            unsynced: 0,
            next_seq: first_seq,
            last_sync_begun: Instant::now(),
            last_sync: Instant::now(),
        })
    }

    /// Removes the file of a segment without records. If even that fails, its number is left out, so that the next one has
    /// another name.
    fn forget_file(&self, path: &Path) {
        if self.shared.files.remove(path).is_err() {
            self.shared.accounts().next_seq += 1;
        }
    }

    /// Writes no more to the active segment. One without records is removed, or a disk that keeps failing would fill the
    /// folder with them.
    fn seal(&mut self) {
        self.cut_zeros();
        let Some(active) = self.active.take() else { return };
        let mut accounts = self.shared.accounts();
        if active.next_seq > active.first_seq {
            if let Some(last) = accounts.segments.back_mut() {
                last.sealed = true;
            }
            return;
        }
        if let Some(empty) = accounts.segments.pop_back() {
            accounts.bytes = accounts.bytes.saturating_sub(empty.file_bytes);
        }
        // The reader may have it open, and tells segments apart by their numbers.
        accounts.next_seq = accounts.next_seq.max(active.first_seq + 1);
        drop(accounts);
        self.forget_file(&self.shared.segment_path(active.first_seq));
    }

    fn sync_as_due(&mut self, unanswered: u64) -> Result<(), Failure> {
        match (&self.options.sync, &self.active) {
            (SyncPolicy::Interval(interval), Some(active)) if active.last_sync.elapsed() < *interval => {
                Ok(())
            }
            _ => self.sync(unanswered),
        }
    }

    /// Syncs what was already answered for under policy `interval`.
    fn sync_answered(&mut self) {
        if self.active.as_ref().is_some_and(|active| active.unsynced > 0)
            && let Err(failure) = self.sync(0)
        {
            self.state.set_failing(Some(failure));
        }
    }

    /// Syncs the active segment and shows the reader what it now may read.
    ///
    /// After a failure nobody can tell what is on disk, and a second sync of the same file may claim success for data
    /// that the system has thrown away. So the segment is left as it is, and the next append begins another.
    /// Of the records that this loses, all but the `unanswered` ones are counted here.
    fn sync(&mut self, unanswered: u64) -> Result<(), Failure> {
        let Some(active) = &mut self.active else {
            return Ok(());
        };
        let begun = Instant::now();
        active.last_sync_begun = begun;
        self.state.begin_access(self.started);
        let synced = active.file.sync();
        self.state.end_access();
        (self.options.observe_sync)(begun.elapsed());
        active.last_sync = Instant::now();
        if let Err(error) = synced {
            let answered = active.unsynced.saturating_sub(unanswered);
            self.state
                .lost_after_answer
                .fetch_add(answered, Ordering::Relaxed);
            self.seal();
            return Err(self.failed("sync a segment of", &error));
        }
        active.unsynced = 0;
        let (first_seq, end, next_seq) = (active.first_seq, active.written, active.next_seq);
        self.pause = None;
        self.next_pause = PAUSES.0;
        if let Some(last) = self
            .shared
            .accounts()
            .segments
            .back_mut()
            .filter(|last| last.first_seq == first_seq)
        {
            last.end = end;
            last.next_seq = next_seq;
        }
        self.shared.readable.notify_one();
        Ok(())
    }

    /// A write failed: on a full disk the part that got through is cut off and the segment goes on when there is room
    /// again; any other failure ends the segment.
    fn write_failed(&mut self, error: &io::Error, next_seq: u64) -> Failure {
        let failure = Failure::of(error);
        if failure == Failure::DiskFull
            && let Some(active) = &mut self.active
            && active.cut().is_ok()
        {
            self.account();
            if self.state.failing() != Some(failure) {
                tracing::error!(spool = %self.shared.path.display(), "the disk under the spool is full: hits are being lost");
            }
            return failure;
        }
        self.shared.accounts().next_seq = next_seq; // The file may hold records of the failed group.
        self.sync_answered();
        self.seal();
        self.failed("write to", error)
    }

    /// Notes a failure that calls for a new file, and lets a while pass before the next try.
    fn failed(&mut self, what: &'static str, error: &io::Error) -> Failure {
        let failure = Failure::of(error);
        self.pause = Some((Instant::now() + self.next_pause, failure));
        tracing::error!(
            spool = %self.shared.path.display(), %error, retry_in = ?self.next_pause,
            "cannot {what} the spool: hits are being lost; check the disk"
        );
        self.next_pause = (self.next_pause * 2).min(PAUSES.1);
        failure
    }
}

/// Answers each of a group, and gives back the memory that it took in one piece.
fn answer(group: impl Iterator<Item = (Append, Outcome)>) {
    let mut replies = Replies::default();
    let mut memory: Option<OwnedSemaphorePermit> = None;
    for (append, outcome) in group {
        let Append {
            fact,
            reply,
            memory: share,
        } = append;
        replies.add(reply, outcome, fact);
        match &mut memory {
            Some(memory) => memory.merge(share),
            None => memory = Some(share),
        }
    }
}

impl WriterState {
    fn begin_access(&self, started: Instant) {
        self.busy_since
            .store(millis(started.elapsed()) + 1, Ordering::Relaxed);
    }

    fn end_access(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
