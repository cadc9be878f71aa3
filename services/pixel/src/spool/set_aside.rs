//! Facts that the recorder refused, kept in a folder of their own: same format as the spool's segments, with the reason.

use std::{io, path::PathBuf, sync::Arc};

use super::{
    files::{Files, SpoolFile, make_folder},
    segment::{self, Fields, HEADER_END, Header, Scan, Step, encode_record, to_u64},
};

/// Most bytes set aside; what is refused beyond that is counted as lost.
pub const MAX_SET_ASIDE_BYTES: u64 = 64 << 20;
const SEGMENT_BYTES: u64 = 8 << 20;

/// A fact that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAsideFact {
    /// Why: an outcome's name, such as `invalid` or `expired`.
    pub reason: String,
    /// When, in milliseconds since the epoch, by the pixel's clock.
    pub at_ms: i64,
    /// The fact, as it was in the spool.
    pub fact: Vec<u8>,
}

/// Why a fact could not be set aside.
#[derive(Debug, thiserror::Error)]
pub enum SetAsideError {
    /// There are [`MAX_SET_ASIDE_BYTES`] of them already.
    #[error("{MAX_SET_ASIDE_BYTES} bytes of refused facts are set aside already")]
    Full,
    /// The disk failed or is full.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The set-aside folder of an open spool.
pub(super) struct SetAside {
    files: Arc<dyn Files>,
    folder: PathBuf,
    segments: Vec<Kept>,
    /// Begun by this process, and synced so far.
    active: Option<Box<dyn SpoolFile>>,
    next_seq: u64,
}

/// One file, and how much of it counts.
#[derive(Clone, Copy)]
struct Kept {
    first_seq: u64,
    end: u64,
    facts: u64,
}

impl SetAside {
    pub(super) fn open(files: Arc<dyn Files>, folder: PathBuf) -> io::Result<Self> {
        let mut opened = Self {
            files,
            folder,
            segments: Vec::new(),
            active: None,
            next_seq: 1,
        };
        let mut found: Vec<_> = opened
            .files
            .list(&opened.folder)?
            .into_iter()
            .filter_map(|(name, bytes)| Some((segment::first_seq_of(&name)?, bytes)))
            .collect();
        found.sort_unstable();
        for (first_seq, end) in found {
            let kept = Kept {
                first_seq,
                end,
                facts: 0,
            };
            let (mut facts, mut next_seq) = (0, first_seq);
            opened.each_of(kept, &mut |seq, _| {
                facts += 1;
                next_seq = seq;
            })?;
            opened.next_seq = next_seq + 1;
            opened.segments.push(Kept { facts, ..kept });
        }
        Ok(opened)
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|kept| kept.end).sum()
    }

    /// How many facts are set aside.
    pub(super) fn facts(&self) -> u64 {
        self.segments.iter().map(|kept| kept.facts).sum()
    }

    /// How many files they are in.
    pub(super) const fn files(&self) -> usize {
        self.segments.len()
    }

    /// Keeps `facts`; they are synced when this returns. Gives the bytes that this took.
    pub(super) fn keep(&mut self, facts: &[SetAsideFact]) -> Result<u64, SetAsideError> {
        self.keep_beside(facts, self.bytes())
    }

    /// The same with `others` bytes that count towards the bound.
    fn keep_beside(&mut self, facts: &[SetAsideFact], others: u64) -> Result<u64, SetAsideError> {
        if facts.is_empty() {
            return Ok(0);
        }
        let before = self.bytes();
        let mut buffer = Vec::new();
        let mut next_seq = self.next_seq;
        for fact in facts {
            // Whether all before it is synced is asked of segments only.
            encode_record(&mut buffer, next_seq, false, &encode(fact));
            next_seq += 1;
        }
        if others + to_u64(buffer.len()) > MAX_SET_ASIDE_BYTES {
            return Err(SetAsideError::Full);
        }
        let kept = self.append(&buffer, to_u64(facts.len()));
        if kept.is_err() {
            self.active = None; // What is in this file now is unknown: the next try begins another.
            self.next_seq = next_seq;
        }
        kept?;
        self.next_seq = next_seq;
        Ok(self.bytes() - before)
    }

    fn append(&mut self, records: &[u8], facts: u64) -> io::Result<()> {
        if self.active.is_none() || self.segments.last().is_some_and(|last| last.end >= SEGMENT_BYTES) {
            self.active = Some(self.begin()?);
        }
        if let (Some(file), Some(last)) = (&self.active, self.segments.last_mut()) {
            file.write_at(records, last.end)?;
            file.sync()?;
            last.end += to_u64(records.len());
            last.facts += facts;
        }
        Ok(())
    }

    fn begin(&mut self) -> io::Result<Box<dyn SpoolFile>> {
        make_folder(self.files.as_ref(), &self.folder)?;
        let first_seq = self.next_seq;
        let path = self.folder.join(segment::file_name(first_seq));
        let file = self.files.create(&path)?;
        let header = Header {
            first_seq,
            previous_first_seq: 0,
            previous_end: 0,
        };
        let begun = file
            .write_at(&header.encode(), 0)
            .and_then(|()| self.files.sync_folder(&self.folder));
        if let Err(error) = begun {
            let _ = self.files.remove(&path); // What stays is an empty file, which the next opening reads as such.
            return Err(error);
        }
        self.segments.push(Kept {
            first_seq,
            end: HEADER_END,
            facts: 0,
        });
        Ok(file)
    }

    /// Calls `each` for every fact set aside, oldest first.
    pub(super) fn for_each(&self, each: &mut dyn FnMut(SetAsideFact)) -> io::Result<()> {
        for kept in &self.segments {
            self.each_of(*kept, &mut |_, payload| {
                if let Some(fact) = decode(&payload) {
                    each(fact);
                }
            })?;
        }
        Ok(())
    }

    /// Puts `facts` in the place of the oldest file, if there is one; gives the bytes that this took and those it freed.
    pub(super) fn replace_oldest(&mut self, facts: &[SetAsideFact]) -> Result<(u64, u64), SetAsideError> {
        let Some(oldest) = self.segments.first().copied() else {
            return Ok((0, 0));
        };
        self.active = None; // It may be the oldest; they go to a new one.
        let taken = self.keep_beside(facts, self.bytes() - oldest.end)?;
        self.files
            .remove(&self.folder.join(segment::file_name(oldest.first_seq)))?;
        self.segments.remove(0);
        Ok((taken, oldest.end))
    }

    /// The facts of the oldest file; empty if there is none.
    pub(super) fn oldest(&self) -> io::Result<Vec<SetAsideFact>> {
        let mut facts = Vec::new();
        if let Some(oldest) = self.segments.first() {
            self.each_of(*oldest, &mut |_, payload| facts.extend(decode(&payload)))?;
        }
        Ok(facts)
    }

    fn each_of(&self, kept: Kept, each: &mut dyn FnMut(u64, Vec<u8>)) -> io::Result<()> {
        let file = self
            .files
            .open(&self.folder.join(segment::file_name(kept.first_seq)))?;
        let mut scan = Scan::new(file, kept.first_seq);
        loop {
            match scan.step(kept.end, u64::MAX)? {
                Step::Record { seq, payload, .. } => each(seq, payload),
                Step::Bad {
                    offset, bad_bytes, ..
                } => {
                    tracing::warn!(folder = %self.folder.display(), first_seq = kept.first_seq, offset, bad_bytes,
                        "some of what was set aside is unreadable");
                }
                Step::End => return Ok(()),
            }
        }
    }
}

/// `reason length u8 · reason · at_ms i64 · fact`
fn encode(fact: &SetAsideFact) -> Vec<u8> {
    let reason = tracking::facts::cut(&fact.reason, usize::from(u8::MAX));
    let mut bytes = Vec::with_capacity(reason.len() + fact.fact.len() + 9);
    bytes.push(u8::try_from(reason.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(reason.as_bytes());
    bytes.extend_from_slice(&fact.at_ms.to_le_bytes());
    bytes.extend_from_slice(&fact.fact);
    bytes
}

fn decode(payload: &[u8]) -> Option<SetAsideFact> {
    let (length, rest) = payload.split_first()?;
    let (reason, rest) = rest.split_at_checked(usize::from(*length))?;
    let mut fields = Fields(rest);
    let at_ms = i64::from_le_bytes(fields.take()?);
    Some(SetAsideFact {
        reason: String::from_utf8_lossy(reason).into_owned(),
        at_ms,
        fact: fields.0.to_vec(),
    })
}
