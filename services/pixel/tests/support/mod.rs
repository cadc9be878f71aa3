//! What several of the pixel's tests need.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    reason = "each test crate uses a part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says by that what it needs"
)]

pub mod forgetful;
pub mod peer;
pub mod pixel;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ::pixel::spool::{
    Batch, Ended, Folder, Options, Reader, Spool, SyncPolicy,
    files::{DiskFiles, Files},
};

/// A spool with its reader, on the disk or on what else.
pub struct Opened {
    pub spool: Spool,
    pub reader: Reader,
    pub ended: Ended,
}

pub fn options() -> Options {
    Options::new(1 << 30, SyncPolicy::Always)
}

pub fn open_on(files: impl Files, path: &Path, options: Options) -> Opened {
    let folder = Folder::open(path, Arc::new(files)).expect("the folder opens");
    let (spool, reader, ended) = Spool::start(folder, options).expect("the writer starts");
    Opened { spool, reader, ended }
}

pub fn open(path: &Path) -> Opened {
    open_on(DiskFiles, path, options())
}

impl Opened {
    /// Closes the spool and lets go of its folder.
    pub async fn close(self) {
        self.spool.close();
        let _ = self.ended.await;
    }

    /// Waits until there may be more to read.
    pub async fn becomes_readable(&self) {
        let readable = tokio::time::timeout(PATIENCE, self.reader.readable()).await;
        readable.expect("something becomes readable");
    }

    /// Reads and trims all there is.
    pub fn take_all(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let batch = self.reader.read(2_000, 1 << 20).expect("the spool can be read");
            self.reader.trim(&batch).expect("the cursor can be written");
            if batch.facts.is_empty() {
                return all;
            }
            all.extend(texts(&batch));
        }
    }
}

pub fn texts(batch: &Batch) -> Vec<String> {
    batch
        .facts
        .iter()
        .map(|fact| String::from_utf8(fact.to_vec()).expect("a text"))
        .collect()
}

/// `count` facts, each with its number.
pub fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| format!("fact {number:06}")).collect()
}

/// Appends all of them, one after the other.
pub async fn append_all(spool: &Spool, facts: &[String]) {
    for fact in facts {
        spool.append(fact.clone().into_bytes()).await.expect("appended");
    }
}

/// How long anything may take before its test fails: far longer than it ever should, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Waits until it is so; a test that never gets there fails rather than hangs.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    eventually_async(what, async || is_so()).await;
}

/// The same for what takes waiting itself.
pub async fn eventually_async(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(
            started.elapsed() < PATIENCE,
            "waited {PATIENCE:?} in vain until {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
