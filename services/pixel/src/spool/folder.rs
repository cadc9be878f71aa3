//! A spool's folder: taking it, finding what it holds, and the accounts that writer and reader keep of it together.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use super::{
    cursor::CursorFile,
    files::{Files, make_folder},
    quarantine,
    reader::Reader,
    segment::{self, HEADER_END, Header, HeaderFound, Scan, Step, VOID, ZEROS},
    set_aside::SetAside,
};

/// Why a folder cannot be used as a spool.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "the spool {0} belongs to another running process; each pixel needs a folder of its own: stop that process, or set \
         SPOOL_DIR to another folder"
    )]
    Taken(PathBuf),
    /// It was written by a newer build.
    #[error(
        "the spool {path} holds segments of format {version}, written by a newer version: run that version"
    )]
    Newer {
        /// The folder.
        path: PathBuf,
        /// The format's version that this build does not know.
        version: u8,
    },
    /// The file system refused.
    #[error(
        "cannot {what} in the spool {path}: {source}; the account of this process must be able to write there"
    )]
    Io {
        /// The folder.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A spool's folder, taken by this process and by no other until everything made from it is dropped.
pub struct Folder {
    pub(super) shared: Arc<Shared>,
    set_aside: SetAside,
    cursor: CursorFile,
}

/// What writer and reader of one folder share.
pub(super) struct Shared {
    pub(super) files: Arc<dyn Files>,
    pub(super) path: PathBuf,
    accounts: Mutex<Accounts>,
    /// Woken when there may be more to read.
    pub(super) readable: Notify,
    _lock: Box<dyn Send + Sync>,
}

/// What is on disk, as far as it matters to the other side.
pub(super) struct Accounts {
    /// Oldest first. Only the last one may still be written to.
    pub(super) segments: VecDeque<Segment>,
    /// Every fact with a lower number is settled: recorded, or set aside.
    pub(super) cursor: u64,
    /// Number that the next record gets at least.
    pub(super) next_seq: u64,
    /// Bytes on disk: of segments, of what is set aside and of what is quarantined.
    pub(super) bytes: u64,
}

/// A segment's part of the accounts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    pub(super) first_seq: u64,
    /// Its synced records have lower numbers.
    pub(super) next_seq: u64,
    /// Its synced records end here.
    pub(super) end: u64,
    /// How long its file is.
    pub(super) file_bytes: u64,
    /// Nothing will be written to it any more.
    pub(super) sealed: bool,
}

impl Folder {
    /// Takes `path`, making it if needed, and finds out what it holds.
    ///
    /// The time this takes does not grow with the backlog: it reads the header of each segment and the records of the
    /// last one.
    pub fn open(path: &Path, files: Arc<dyn Files>) -> Result<Self, OpenError> {
        let failed = |what| {
            move |source| OpenError::Io {
                path: path.to_owned(),
                what,
                source,
            }
        };
        make_folder(files.as_ref(), path).map_err(failed("create the folder"))?;
        let lock = files
            .lock(&path.join("lock"))
            .map_err(failed("lock the file \"lock\""))?
            .ok_or_else(|| OpenError::Taken(path.to_owned()))?;
        let (cursor, settled) =
            CursorFile::open(Arc::clone(&files), path.join("cursor")).map_err(failed("read the cursor"))?;
        let mut segments = find_segments(path, files.as_ref())?;
        if let Some(last) = segments.back_mut() {
            recover_last(path, files.as_ref(), last).map_err(failed("read the last segment"))?;
        }
        let set_aside = SetAside::open(Arc::clone(&files), path.join("set-aside"))
            .map_err(failed("read what is set aside"))?;
        let quarantined: u64 = files
            .list(&path.join(quarantine::FOLDER))
            .map_err(failed("list the quarantine"))?
            .iter()
            .map(|(_, bytes)| bytes)
            .sum();
        let on_disk: u64 = segments.iter().map(|segment| segment.file_bytes).sum();
        let oldest = segments.front().map_or(1, |segment| segment.first_seq);
        let accounts = Accounts {
            cursor: settled.max(oldest),
            next_seq: segments
                .back()
                .map_or(1, |last| last.next_seq.max(last.first_seq + 1))
                .max(settled),
            bytes: on_disk + set_aside.bytes() + quarantined,
            segments,
        };
        let shared = Arc::new(Shared {
            files,
            path: path.to_owned(),
            accounts: Mutex::new(accounts),
            readable: Notify::new(),
            _lock: lock,
        });
        shared.remove_settled();
        Ok(Self {
            shared,
            set_aside,
            cursor,
        })
    }

    /// The reading side, for the one who delivers.
    #[must_use]
    pub fn into_reader(self) -> Reader {
        Reader::new(self.shared, self.cursor, self.set_aside)
    }

    /// How much the folder holds.
    #[must_use]
    pub fn holds(&self) -> Holdings {
        self.shared.holds()
    }
}

/// How much a spool holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holdings {
    /// Facts that are neither recorded nor set aside. After a failed sync this may be some too many until they are sent.
    pub unsent: u64,
    /// Bytes on disk: what is unsent, set aside or quarantined, and zeros written ahead.
    pub bytes: u64,
}

impl Shared {
    pub(super) fn accounts(&self) -> MutexGuard<'_, Accounts> {
        // Each change of the accounts is complete in itself, so a panic elsewhere leaves them right.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn segment_path(&self, first_seq: u64) -> PathBuf {
        self.path.join(segment::file_name(first_seq))
    }

    pub(super) fn holds(&self) -> Holdings {
        let accounts = self.accounts();
        let synced = accounts.segments.back().map_or(0, |last| last.next_seq);
        Holdings {
            unsent: synced.saturating_sub(accounts.cursor),
            bytes: accounts.bytes,
        }
    }

    /// Removes the segments whose facts are all settled.
    pub(super) fn remove_settled(&self) {
        let mut removed_any = false;
        while let Some(segment) = self.take_settled() {
            match self.files.remove(&self.segment_path(segment.first_seq)) {
                Ok(()) => {
                    removed_any = true;
                    let mut accounts = self.accounts();
                    accounts.bytes = accounts.bytes.saturating_sub(segment.file_bytes);
                }
                // It goes on counting, and is removed at the next start.
                Err(error) => tracing::error!(
                    file = %self.segment_path(segment.first_seq).display(), %error,
                    "cannot remove a segment of the spool whose facts are all delivered"
                ),
            }
        }
        if removed_any && let Err(error) = self.files.sync_folder(&self.path) {
            tracing::warn!(%error, "cannot sync the spool's folder; after a power cut some facts may be sent again");
        }
    }

    fn take_settled(&self) -> Option<Segment> {
        let mut accounts = self.accounts();
        let cursor = accounts.cursor;
        let settled = |segment: &Segment| segment.sealed && segment.next_seq <= cursor;
        accounts.segments.pop_front_if(|segment| settled(segment))
    }
}

/// The segments by their files' names; what each one's successor says of it tells how much of it was synced.
fn find_segments(path: &Path, files: &dyn Files) -> Result<VecDeque<Segment>, OpenError> {
    let failed = |source| OpenError::Io {
        path: path.to_owned(),
        what: "read the segments",
        source,
    };
    let mut found: Vec<(u64, u64)> = files
        .list(path)
        .map_err(failed)?
        .into_iter()
        .filter_map(|(name, bytes)| Some((segment::first_seq_of(&name)?, bytes)))
        .collect();
    found.sort_unstable();
    let mut segments: VecDeque<Segment> = VecDeque::with_capacity(found.len());
    let newest = found.last().map(|(first_seq, _)| *first_seq);
    for (first_seq, file_bytes) in found {
        let is_last = newest == Some(first_seq);
        let file_path = path.join(segment::file_name(first_seq));
        let file = files.open(&file_path).map_err(failed)?;
        match Header::read(file.as_ref()).map_err(failed)? {
            HeaderFound::Good { header, .. } => {
                if let Some(previous) = segments
                    .back_mut()
                    .filter(|it| it.first_seq == header.previous_first_seq)
                {
                    previous.end = header.previous_end;
                }
            }
            HeaderFound::Newer(version) => {
                return Err(OpenError::Newer {
                    path: path.to_owned(),
                    version,
                });
            }
            // The name tells what matters, and the records have their own checksums.
            HeaderFound::Corrupt => tracing::error!(first_seq, "a segment of the spool has a corrupt header"),
            // Nothing is in it, and it would hide what the one before has behind its records.
            HeaderFound::Unfinished if is_last && files.remove(&file_path).is_ok() => continue,
            HeaderFound::Unfinished => {}
        }
        if let Some(previous) = segments.back_mut() {
            previous.next_seq = first_seq;
        }
        segments.push_back(Segment {
            first_seq,
            next_seq: first_seq,
            end: file_bytes.max(HEADER_END),
            file_bytes,
            sealed: true,
        });
    }
    Ok(segments)
}

/// Finds where the last segment's records end, and sees to it that nothing in it passes for corrupt, now or later, that was
/// only cut off.
fn recover_last(path: &Path, files: &dyn Files, last: &mut Segment) -> io::Result<()> {
    let first_seq = last.first_seq;
    let file = files.open(&path.join(segment::file_name(first_seq)))?;
    let tells_syncs = matches!(
        Header::read(file.as_ref())?,
        HeaderFound::Good {
            tells_syncs: true,
            ..
        }
    );
    let mut scan = Scan::new(file, first_seq);
    let (good_end, torn) = find_torn(&mut scan, last.end, tells_syncs)?;
    for Torn {
        offset,
        bad_bytes,
        lost,
    } in torn
    {
        if scan.holds_only(VOID, offset, bad_bytes)? {
            continue;
        }
        let copy = quarantine::keep(files, path, &scan, first_seq, offset, bad_bytes);
        let voided = scan.void(offset, bad_bytes);
        tracing::warn!(
            first_seq, offset, bad_bytes, lost, copy = quarantine::described(&copy), error = ?voided.err(),
            "dropped what was torn in the spool's last group"
        );
    }
    if last.file_bytes > good_end {
        if !scan.holds_only(ZEROS, good_end, last.file_bytes - good_end)? {
            let bad_bytes = last.file_bytes - good_end;
            tracing::info!(
                first_seq,
                offset = good_end,
                bad_bytes,
                "dropped the spool's torn tail"
            );
        }
        if scan.cut(good_end).is_ok() {
            last.file_bytes = good_end;
        }
    }
    last.end = good_end;
    last.next_seq = scan.next_seq();
    // What a killed process had written but not synced is about to be read.
    if let Err(error) = scan.sync() {
        tracing::warn!(first_seq, %error, "cannot sync the spool's last segment; reading it all the same");
    }
    Ok(())
}

/// Bytes that are no record, with a good record behind them.
struct Torn {
    offset: u64,
    bad_bytes: u64,
    lost: u64,
}

/// Where the last good record ends, and what is torn before that: whatever is bad, unless a record behind it says that it
/// was synced. The disk may write a later part of a group and not an earlier one.
fn find_torn(scan: &mut Scan, end: u64, tells_syncs: bool) -> io::Result<(u64, Vec<Torn>)> {
    let mut good_end = HEADER_END;
    let mut torn = Vec::new();
    loop {
        match scan.step(end, u64::MAX)? {
            Step::Record { after_sync, .. } => {
                good_end = scan.offset();
                // Corruption, then, as whatever is bad is in version 1: the reader deals with it when it comes there.
                if after_sync || !tells_syncs {
                    torn.clear();
                }
            }
            Step::Bad {
                offset,
                bad_bytes,
                lost,
                more: true,
            } => torn.push(Torn {
                offset,
                bad_bytes,
                lost,
            }),
            Step::Bad { more: false, .. } => {} // Behind the last good record: cut off before it was answered for.
            Step::End => return Ok((good_end, torn)),
        }
    }
}
