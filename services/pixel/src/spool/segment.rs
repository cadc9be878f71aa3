//! The format on disk: a segment is a header and records, and each of both carries its own checksum.
//!
//! ```text
//! header  magic "ETSPOOL", version u8 · first_seq u64 · previous_first_seq u64 · previous_end u64 · crc32c u32
//! record  length u32 · crc32c u32 (of length, seq and payload) · seq u64 · payload
//! ```
//!
//! Integers are little-endian. A length's highest bit says that everything before the record was synced when it was written.
//! A segment's file is named by the sequence number that its first record has at least. Within a segment numbers rise by one
//! from record to record, so that a gap tells how many records are missing; between segments some are left out after a
//! failed sync. `previous_end` is how much of the segment before was synced when this one was begun: what lies behind that
//! was never answered for. Behind the last record there may be zeros.
//!
//! Version 1 knew neither that bit nor zeros; all else in it is the same.

use std::{io, ops::Range};

use super::files::SpoolFile;

/// Longest payload of a record, in bytes: a hit with every field at its limit takes 17 KiB.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 10;

pub(super) const HEADER_BYTES: usize = 36;
pub(super) const HEADER_END: u64 = 36;
pub(super) const RECORD_HEAD_BYTES: usize = 16;
const MIN_RECORD_BYTES: u64 = 17;
const MAX_RECORD_BYTES: usize = RECORD_HEAD_BYTES + MAX_PAYLOAD_BYTES;
/// How much of a segment is in memory while it is read.
const WINDOW_BYTES: usize = 256 << 10;
const MAGIC: &[u8; 7] = b"ETSPOOL";
const VERSION: u8 = 2;
/// The first version whose records say of what is before them whether it was synced.
const TELLS_SYNCS: u8 = 2;
/// In a record's length: everything before it was synced when it was written.
const AFTER_SYNC: u32 = 1 << 31;

/// What is written over bytes that a power cut has torn. It looks like no record.
pub(super) const VOID: [u8; 8] = *b"etvoided";
/// What lies behind the last record.
pub(super) const ZEROS: [u8; 8] = [0; 8];

/// What a segment's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) first_seq: u64,
    pub(super) previous_first_seq: u64,
    pub(super) previous_end: u64,
}

/// What was found where a header should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFound {
    /// `tells_syncs`: whether records say of what is before them that it was synced.
    Good { header: Header, tells_syncs: bool },
    /// Shorter than a header: its creation was cut off, so it holds no record.
    Unfinished,
    /// Its checksum is wrong; records may still follow.
    Corrupt,
    /// Written by a build that knows a newer format.
    Newer(u8),
}

impl Header {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.first_seq.to_le_bytes());
        bytes.extend_from_slice(&self.previous_first_seq.to_le_bytes());
        bytes.extend_from_slice(&self.previous_end.to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes
    }

    pub(super) fn read(file: &dyn SpoolFile) -> io::Result<HeaderFound> {
        let mut bytes = vec![0; HEADER_BYTES];
        let read = read_full(file, &mut bytes, 0)?;
        bytes.truncate(read);
        Ok(Self::decode(&bytes))
    }

    fn decode(bytes: &[u8]) -> HeaderFound {
        let Some((content, crc)) = bytes
            .split_last_chunk::<4>()
            .filter(|_| bytes.len() == HEADER_BYTES)
        else {
            return HeaderFound::Unfinished;
        };
        let mut fields = Fields(content);
        let good = u32::from_le_bytes(*crc) == crc32c::crc32c(content);
        match (
            fields.take::<7>(),
            fields.take::<1>(),
            fields.u64(),
            fields.u64(),
            fields.u64(),
        ) {
            (Some(magic), Some([version]), Some(first_seq), Some(previous_first_seq), Some(previous_end))
                if good && &magic == MAGIC =>
            {
                if version > VERSION {
                    return HeaderFound::Newer(version);
                }
                HeaderFound::Good {
                    header: Self {
                        first_seq,
                        previous_first_seq,
                        previous_end,
                    },
                    tells_syncs: version >= TELLS_SYNCS,
                }
            }
            _ => HeaderFound::Corrupt,
        }
    }
}

/// The name of the segment that begins with `first_seq`; names sort as their numbers do.
pub(super) fn file_name(first_seq: u64) -> String {
    format!("{first_seq:020}.seg")
}

/// The reverse of [`file_name`]; `None` for any other file.
pub(super) fn first_seq_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".seg").filter(|digits| digits.len() == 20)?;
    digits.parse().ok()
}

/// How many bytes a record of `payload_bytes` takes.
pub(super) fn record_bytes(payload_bytes: usize) -> u64 {
    to_u64(RECORD_HEAD_BYTES + payload_bytes)
}

/// Appends a record to `buffer`, and whether everything before it is synced. The payload is at most [`MAX_PAYLOAD_BYTES`]
/// and not empty; the spool checks that.
pub(super) fn encode_record(buffer: &mut Vec<u8>, seq: u64, after_sync: bool, payload: &[u8]) {
    let flag = if after_sync { AFTER_SYNC } else { 0 };
    let length = (u32::try_from(payload.len()).unwrap_or(u32::MAX) | flag).to_le_bytes();
    let seq = seq.to_le_bytes();
    buffer.extend_from_slice(&length);
    buffer.extend_from_slice(&record_crc(length, seq, payload).to_le_bytes());
    buffer.extend_from_slice(&seq);
    buffer.extend_from_slice(payload);
}

fn record_crc(length: [u8; 4], seq: [u8; 8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&length), &seq), payload)
}

/// A record where it lies.
struct Record<'a> {
    seq: u64,
    after_sync: bool,
    payload: &'a [u8],
}

/// Decodes the record at the start of `bytes` if it is whole, its number lies in `seqs` and its checksum is right.
fn decode_record<'a>(bytes: &'a [u8], seqs: &Range<u64>) -> Option<Record<'a>> {
    let mut fields = Fields(bytes);
    let length = fields.take::<4>()?;
    let crc = u32::from_le_bytes(fields.take::<4>()?);
    let seq_bytes = fields.take::<8>()?;
    let flagged = u32::from_le_bytes(length);
    let payload_bytes = usize::try_from(flagged & !AFTER_SYNC).ok()?;
    let seq = u64::from_le_bytes(seq_bytes);
    // The cheap checks come first: a search for the next good record tries every offset.
    if !seqs.contains(&seq) || payload_bytes == 0 || payload_bytes > MAX_PAYLOAD_BYTES {
        return None;
    }
    let payload = fields.0.get(..payload_bytes)?;
    (record_crc(length, seq_bytes, payload) == crc).then_some(Record {
        seq,
        after_sync: flagged & AFTER_SYNC != 0,
        payload,
    })
}

/// One step through a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A good record; `after_sync` says that everything before it was synced when it was written.
    Record {
        seq: u64,
        after_sync: bool,
        payload: Vec<u8>,
    },
    /// `bad_bytes` at `offset` are no record, in the place of `lost` ones; `more` says whether a good one follows them.
    Bad {
        offset: u64,
        bad_bytes: u64,
        lost: u64,
        more: bool,
    },
    /// Nothing is left before the end.
    End,
}

/// Reads a segment's records in order, through a window of bounded size.
pub(super) struct Scan {
    file: Box<dyn SpoolFile>,
    /// Where the next record begins.
    offset: u64,
    /// What comes next has at least this number.
    next_seq: u64,
    window_start: u64,
    window: Vec<u8>,
}

impl Scan {
    /// Begins behind the header of the segment with this first number.
    pub(super) fn new(file: Box<dyn SpoolFile>, first_seq: u64) -> Self {
        Self {
            file,
            offset: HEADER_END,
            next_seq: first_seq,
            window_start: 0,
            window: Vec::new(),
        }
    }

    /// Where the next record begins.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// One more than the number of the last record read; the segment's first number before any.
    pub(super) const fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Goes back to where `offset` and `next_seq` were these.
    pub(super) const fn go_back(&mut self, offset: u64, next_seq: u64) {
        self.offset = offset;
        self.next_seq = next_seq;
    }

    /// The next step, of a segment that holds `end` bytes and only numbers below `seq_limit`.
    ///
    /// After [`Step::Bad`] the scan stands at the next good record, or at `end`.
    pub(super) fn step(&mut self, end: u64, seq_limit: u64) -> io::Result<Step> {
        if self.offset >= end {
            return Ok(Step::End);
        }
        let next_seq = self.next_seq;
        let bytes = self.bytes_at(self.offset, end)?;
        if let Some(record) = decode_record(bytes, &numbers_behind(0, next_seq, seq_limit)) {
            let (seq, after_sync) = (record.seq, record.after_sync);
            let payload = record.payload.to_vec();
            self.offset += record_bytes(payload.len());
            self.next_seq = seq + 1;
            return Ok(Step::Record {
                seq,
                after_sync,
                payload,
            });
        }
        let offset = self.offset;
        let resume = self.find_record(offset, end, seq_limit)?;
        let (resume_at, resume_seq) = resume.unwrap_or_else(|| {
            let most = next_seq.saturating_add((end - offset) / MIN_RECORD_BYTES);
            (end, most.min(seq_limit))
        });
        self.offset = resume_at;
        if resume.is_some() {
            self.next_seq = resume_seq;
        }
        Ok(Step::Bad {
            offset,
            bad_bytes: resume_at - offset,
            lost: resume_seq.saturating_sub(next_seq),
            more: resume.is_some(),
        })
    }

    /// Copies what [`Step::Bad`] told of into `file`, as much of it as is there; gives how much that is.
    pub(super) fn copy_to(&self, file: &dyn SpoolFile, offset: u64, bytes: u64) -> io::Result<u64> {
        let mut copied = 0;
        self.for_each_piece(offset, bytes, |piece| {
            file.write_at(piece, copied)?;
            copied += to_u64(piece.len());
            Ok(true)
        })?;
        Ok(copied)
    }

    /// Whether there is nothing but `pattern` in what [`Step::Bad`] told of.
    pub(super) fn holds_only(&self, pattern: [u8; 8], offset: u64, bytes: u64) -> io::Result<bool> {
        let mut only = true;
        self.for_each_piece(offset, bytes, |piece| {
            // A whole piece is a multiple of the pattern's length.
            only = piece.iter().eq(pattern.iter().cycle().take(piece.len()));
            Ok(only)
        })?;
        Ok(only)
    }

    /// Writes [`VOID`] over what [`Step::Bad`] told of.
    pub(super) fn void(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let voided: Vec<u8> = VOID.iter().copied().cycle().take(WINDOW_BYTES).collect();
        let mut at = offset;
        self.for_each_piece(offset, bytes, |piece| {
            self.file
                .write_at(voided.get(..piece.len()).unwrap_or_default(), at)?;
            at += to_u64(piece.len());
            Ok(true)
        })
    }

    /// Cuts the file off behind its records.
    pub(super) fn cut(&self, end: u64) -> io::Result<()> {
        self.file.set_len(end)
    }

    /// Reads so many bytes from `offset` on, as far as the file reaches, and gives them to `each` piece by piece until it
    /// wants no more.
    fn for_each_piece(
        &self,
        offset: u64,
        bytes: u64,
        mut each: impl FnMut(&[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; WINDOW_BYTES];
        let mut done = 0;
        while done < bytes {
            let wanted = usize::try_from(bytes - done)
                .unwrap_or(usize::MAX)
                .min(WINDOW_BYTES);
            let piece = buffer.get_mut(..wanted).unwrap_or_default();
            let read = read_full(self.file.as_ref(), piece, offset + done)?;
            if read == 0 || !each(piece.get(..read).unwrap_or_default())? {
                break;
            }
            done += to_u64(read);
        }
        Ok(())
    }

    /// Returns when what was read will still be there after a power cut.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }

    /// The next good record behind `bad`, where none is: where it begins, and its number.
    fn find_record(&mut self, bad: u64, end: u64, seq_limit: u64) -> io::Result<Option<(u64, u64)>> {
        let next_seq = self.next_seq;
        let mut offset = bad + 1;
        while offset < end {
            let bytes = self.bytes_at(offset, end)?;
            // Fewer bytes than a record may have: the segment ends here, or its file is shorter than it should be.
            let is_last = bytes.len() < MAX_RECORD_BYTES || to_u64(bytes.len()) == end - offset;
            // A record that begins near the window's end may reach beyond it: the next window begins there.
            let tries = if is_last {
                bytes.len()
            } else {
                bytes.len() - (MAX_RECORD_BYTES - 1)
            };
            let found = (0..tries).find_map(|at| {
                let seqs = numbers_behind(offset + to_u64(at) - bad, next_seq, seq_limit);
                let record = decode_record(bytes.get(at..)?, &seqs)?;
                Some((offset + to_u64(at), record.seq))
            });
            if found.is_some() {
                return Ok(found);
            }
            if is_last {
                break;
            }
            offset += to_u64(tries);
        }
        Ok(None)
    }

    /// The bytes at `offset` up to `end`, at least as many as a record may have unless the end is nearer.
    fn bytes_at(&mut self, offset: u64, end: u64) -> io::Result<&[u8]> {
        let needed_end = end.min(offset + to_u64(MAX_RECORD_BYTES));
        let window_end = self.window_start + to_u64(self.window.len());
        if offset < self.window_start || needed_end > window_end {
            let length = usize::try_from(end - offset)
                .unwrap_or(usize::MAX)
                .min(WINDOW_BYTES);
            self.window.resize(length, 0);
            let read = read_full(self.file.as_ref(), &mut self.window, offset);
            self.window.truncate(*read.as_ref().unwrap_or(&0));
            self.window_start = offset;
            read?;
        }
        let skip = usize::try_from(offset - self.window_start).unwrap_or(usize::MAX);
        let bytes = self.window.get(skip..).unwrap_or_default();
        let limit = usize::try_from(end - offset).unwrap_or(usize::MAX);
        Ok(bytes.get(..limit).unwrap_or(bytes))
    }
}

/// The numbers that a record may have behind `skipped` bytes in which the records from `next_seq` on should be.
///
/// Bytes that only look like a record, in somebody's user agent for example, do not pass for one with any number, or all
/// the records behind them would be too old to be believed.
fn numbers_behind(skipped: u64, next_seq: u64, seq_limit: u64) -> Range<u64> {
    let most = next_seq.saturating_add(skipped / MIN_RECORD_BYTES);
    next_seq..seq_limit.min(most.saturating_add(1))
}

/// Fills `buffer` from `offset` on, as far as the file reaches.
pub(super) fn read_full(file: &dyn SpoolFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + to_u64(filled))? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

/// Integers one after the other.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

/// A length in memory as a length on disk; no machine has a wider `usize`.
pub(super) fn to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
