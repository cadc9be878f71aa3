//! How far the facts of a spool are settled, kept in a small file of two slots.
//!
//! The slots are written in turn, each with a checksum and a generation, so that a torn write leaves the other one. It is
//! not synced: after a power cut an older cursor means that some facts are sent again, which the recorder is made for.

use std::{io, path::PathBuf, sync::Arc};

use super::{
    files::{Files, SpoolFile},
    segment::{Fields, read_full},
};

const SLOT_BYTES: usize = 20;
/// The slots lie in different sectors, which a disk writes whole or not at all.
const SLOT_OFFSETS: [u64; 2] = [0, 512];

/// The cursor file of an open spool.
pub(super) struct CursorFile {
    files: Arc<dyn Files>,
    path: PathBuf,
    file: Option<Box<dyn SpoolFile>>,
    generation: u64,
}

impl CursorFile {
    /// Reads the cursor: the number of the first fact that is not settled. 0 if no slot is readable.
    pub(super) fn open(files: Arc<dyn Files>, path: PathBuf) -> io::Result<(Self, u64)> {
        let file = match files.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            file => Some(file?),
        };
        let mut newest = (0, 0);
        if let Some(file) = &file {
            for offset in SLOT_OFFSETS {
                let mut slot = [0; SLOT_BYTES];
                if read_full(file.as_ref(), &mut slot, offset)? == SLOT_BYTES
                    && let Some(found) = decode(&slot)
                {
                    newest = newest.max(found);
                }
            }
        }
        let (generation, next_seq) = newest;
        let cursor = Self {
            files,
            path,
            file,
            generation,
        };
        Ok((cursor, next_seq))
    }

    /// Writes the cursor. The file comes into being with the first write, so that a full disk does not stop an opening.
    pub(super) fn write(&mut self, next_seq: u64) -> io::Result<()> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(self.files.create(&self.path)?),
        };
        let generation = self.generation + 1;
        let offset = if generation.is_multiple_of(2) {
            SLOT_OFFSETS[0]
        } else {
            SLOT_OFFSETS[1]
        };
        file.write_at(&encode(generation, next_seq), offset)?;
        self.generation = generation;
        Ok(())
    }
}

fn encode(generation: u64, next_seq: u64) -> Vec<u8> {
    let mut slot = Vec::with_capacity(SLOT_BYTES);
    slot.extend_from_slice(&generation.to_le_bytes());
    slot.extend_from_slice(&next_seq.to_le_bytes());
    slot.extend_from_slice(&crc32c::crc32c(&slot).to_le_bytes());
    slot
}

fn decode(slot: &[u8; SLOT_BYTES]) -> Option<(u64, u64)> {
    let (content, crc) = slot.split_last_chunk::<4>()?;
    let mut fields = Fields(content);
    let found = (fields.u64()?, fields.u64()?);
    // A slot never written reads as zeros, whose checksum is not zero.
    (u32::from_le_bytes(*crc) == crc32c::crc32c(content)).then_some(found)
}
