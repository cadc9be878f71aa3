//! A pixel's clock that steps, by libfaketime.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// The clock of a process that was started with [`variables`](Self::variables).
#[derive(Debug)]
pub(crate) struct FakeClock {
    file: PathBuf,
    steps: Mutex<Vec<Step>>,
}

/// A step to an offset, which took effect at some moment from `begun` to `done`.
#[derive(Clone, Copy, Debug)]
struct Step {
    offset_ms: i64,
    begun: Instant,
    done: Instant,
}

impl FakeClock {
    /// A clock that is `offset` seconds off, told by `file`.
    pub(crate) fn new(file: PathBuf, offset: i64) -> Self {
        let clock = Self {
            file,
            steps: Mutex::default(),
        };
        clock.step_to(offset);
        clock
    }

    /// What makes a program's clock this one. The clock that never steps stays as it is.
    pub(crate) fn variables(&self, library: &Path) -> Vec<(String, String)> {
        [
            ("LD_PRELOAD", library),
            ("FAKETIME_TIMESTAMP_FILE", &self.file),
            ("FAKETIME_NO_CACHE", Path::new("1")),
            ("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1")),
            ("DONT_FAKE_MONOTONIC", Path::new("1")),
        ]
        .map(|(name, value)| (name.to_owned(), value.display().to_string()))
        .into()
    }

    /// From now on it is `offset` seconds off.
    pub(crate) fn step_to(&self, offset: i64) {
        let begun = Instant::now();
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{offset:+}\n")).expect("writing the clock's file");
        fs::rename(&new, &self.file).expect("renaming the clock's file");
        self.steps
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Step {
                offset_ms: offset * 1_000,
                begun,
                done: Instant::now(),
            });
    }

    /// The least and the greatest offset in milliseconds that it may have had between two moments.
    pub(crate) fn offsets(&self, from: Instant, to: Instant) -> (i64, i64) {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = steps.iter().skip(1).map(|next| Some(next.done)).chain([None]);
        let met = steps
            .iter()
            .zip(ends)
            .filter(|(step, end)| step.begun <= to && end.is_none_or(|end| end >= from))
            .map(|(step, _)| step.offset_ms);
        let met: Vec<i64> = met.collect();
        let least = met.iter().min().copied().unwrap_or_default();
        let greatest = met.iter().max().copied().unwrap_or_default();
        (least, greatest)
    }
}

/// Where Debian has the library, of which a program with threads needs the second kind.
pub(crate) fn library() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?;
    folders
        .flatten()
        .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
        .find(|file| file.exists())
}
