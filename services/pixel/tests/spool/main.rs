//! The spool as a contract: what is appended is there after whatever happened, in order, once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says by that what it needs"
)]

mod damage;
mod disk;
#[path = "../support/mod.rs"]
mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use pixel::spool::{
    AppendError, Failure, Folder, MAX_SET_ASIDE_BYTES, OpenError, Options, SetAsideError, SetAsideFact,
    Spool, SyncPolicy, files::DiskFiles,
};
use support::{append_all, eventually, forgetful::ForgetfulDisk, numbered, open, open_on, options};
use tempfile::TempDir;

fn segments(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "seg"))
        .collect();
    found.sort();
    found
}

/// Segments so small that a few facts fill one.
fn small_segments() -> Options {
    Options {
        segment_bytes: 200,
        ..options()
    }
}

fn quarantined(spool: &support::Opened) -> u64 {
    spool.reader.counts().quarantined.load(Ordering::Relaxed)
}

#[tokio::test]
async fn what_is_appended_is_read_in_order_and_trimmed_from_disk() {
    let folder = TempDir::new().unwrap();
    let mut spool = open_on(DiskFiles, folder.path(), small_segments());
    let facts = numbered(0..100);
    append_all(&spool.spool, &facts).await;
    assert!(segments(folder.path()).len() > 10);
    assert_eq!(spool.spool.holds().unsent, 100);

    assert_eq!(spool.take_all(), facts);

    assert_eq!(spool.spool.holds().unsent, 0);
    assert_eq!(
        segments(folder.path()).len(),
        1,
        "only the one that is written to is left"
    );
}

#[tokio::test]
async fn a_batch_keeps_to_both_its_bounds() {
    let folder = TempDir::new().unwrap();
    let mut spool = open(folder.path());
    append_all(&spool.spool, &numbered(0..10)).await;
    let bytes_of_one = 11;
    assert_eq!(spool.reader.read(3, 1 << 20).unwrap().facts.len(), 3);
    assert_eq!(
        spool
            .reader
            .read(2_000, 4 * bytes_of_one + 1)
            .unwrap()
            .facts
            .len(),
        4
    );
    assert_eq!(
        spool.reader.read(2_000, 1).unwrap().facts.len(),
        1,
        "one larger than the bound goes alone"
    );
    assert_eq!(spool.reader.read(2_000, 1 << 20).unwrap().facts.len(), 2);
    assert_eq!(spool.reader.read(2_000, 1 << 20).unwrap().facts.len(), 0);
}

#[tokio::test]
async fn a_restart_goes_on_behind_the_last_trim() {
    let folder = TempDir::new().unwrap();
    let facts = numbered(0..60);
    let mut spool = open_on(DiskFiles, folder.path(), small_segments());
    append_all(&spool.spool, &facts[..40]).await;
    let first = spool.reader.read(15, 1 << 20).unwrap();
    spool.reader.trim(&first).unwrap();
    let _read_but_not_trimmed = spool.reader.read(15, 1 << 20).unwrap();
    spool.close().await;

    let mut spool = open_on(DiskFiles, folder.path(), small_segments());
    assert_eq!(spool.spool.holds().unsent, 25);
    append_all(&spool.spool, &facts[40..]).await;
    assert_eq!(spool.take_all(), facts[15..]);
    spool.close().await;

    let mut spool = open(folder.path());
    assert_eq!(spool.take_all(), Vec::<String>::new());
    append_all(&spool.spool, &numbered(60..61)).await;
    assert_eq!(spool.take_all(), numbered(60..61));
}

#[tokio::test]
async fn a_second_owner_is_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let spool = open(folder.path());
    let refused = Folder::open(folder.path(), Arc::new(DiskFiles))
        .err()
        .expect("refused");
    assert!(matches!(refused, OpenError::Taken(_)));
    let text = refused.to_string();
    assert!(
        text.contains(folder.path().to_str().unwrap()) && text.contains("SPOOL_DIR"),
        "{text}"
    );
    spool.close().await;
    open(folder.path()).close().await;
}

#[tokio::test]
async fn a_full_spool_refuses_counts_its_bytes_and_recovers_by_itself() {
    let folder = TempDir::new().unwrap();
    let max_bytes = 64 << 10;
    let mut spool = open_on(
        DiskFiles,
        folder.path(),
        Options::new(max_bytes, SyncPolicy::Always),
    );
    let fact = "x".repeat(1_000);
    for round in 0..5 {
        let mut taken = 0;
        let failure = loop {
            match spool.spool.append(fact.clone().into_bytes()).await {
                Ok(()) => taken += 1,
                Err(AppendError::Failed(failure)) => break failure,
                Err(overdue) => panic!("{overdue}"),
            }
        };
        assert_eq!(failure, Failure::SpoolFull);
        assert_eq!(spool.spool.failing(), Some(Failure::SpoolFull));
        let on_disk: u64 = segments(folder.path())
            .iter()
            .map(|path| path.metadata().unwrap().len())
            .sum();
        assert!(
            on_disk <= max_bytes && on_disk == spool.spool.holds().bytes,
            "{on_disk}"
        );
        assert!(
            taken >= 54,
            "only {taken} of 1 KiB fit into 64 KiB, round {round}"
        );
        assert_eq!(spool.take_all().len(), taken);
        eventually("it recovers by itself", || spool.spool.failing().is_none()).await;
    }
}

#[tokio::test]
async fn what_is_set_aside_is_kept_with_its_reason_until_removed() {
    let folder = TempDir::new().unwrap();
    let mut spool = open(folder.path());
    let refused = |reason: &str, fact: &str| SetAsideFact {
        reason: reason.into(),
        at_ms: 1_710_000_000_000,
        fact: fact.into(),
    };
    let all = [
        refused("invalid", "a"),
        refused("expired", "b"),
        refused("erased", "c"),
    ];
    spool.reader.set_aside(&all[..2]).unwrap();
    spool.close().await;

    let mut spool = open(folder.path());
    spool.reader.set_aside(&all[2..]).unwrap();
    let mut listed = Vec::new();
    spool.reader.for_each_set_aside(|fact| listed.push(fact)).unwrap();
    assert_eq!(listed, all);
    assert_eq!(spool.reader.counts().set_aside.load(Ordering::Relaxed), 3);
    assert_eq!(spool.reader.oldest_set_aside().unwrap(), all[..2]);
    assert!(spool.spool.holds().bytes > 0);
    let again = [refused("erased", "b")];
    spool.reader.replace_oldest_set_aside(&again).unwrap();
    assert_eq!(spool.reader.oldest_set_aside().unwrap(), all[2..]);
    spool.reader.replace_oldest_set_aside(&[]).unwrap();
    assert_eq!(spool.reader.oldest_set_aside().unwrap(), again);
    spool.reader.replace_oldest_set_aside(&[]).unwrap();
    assert_eq!(spool.reader.oldest_set_aside().unwrap(), []);
    assert_eq!(spool.spool.holds().bytes, 0);
}

#[tokio::test]
async fn a_client_that_is_gone_neither_loses_nor_corrupts_anything() {
    let folder = TempDir::new().unwrap();
    let mut spool = open(folder.path());
    for number in 0..500 {
        let fact = format!("gone {number}").into_bytes();
        let task = tokio::spawn({
            let spool = spool.spool.clone();
            async move { spool.append(fact).await }
        });
        if number % 3 > 0 {
            tokio::task::yield_now().await;
        }
        task.abort();
    }
    append_all(&spool.spool, &numbered(0..10)).await;
    let all = spool.take_all();
    assert_eq!(all.iter().filter(|fact| fact.starts_with("fact")).count(), 10);
    assert_eq!(quarantined(&spool), 0);
}

#[tokio::test]
async fn closing_syncs_what_came_before_and_refuses_what_comes_after() {
    let folder = TempDir::new().unwrap();
    let every = SyncPolicy::Interval(Duration::from_hours(1));
    let spool = open_on(DiskFiles, folder.path(), Options::new(1 << 30, every));
    append_all(&spool.spool, &numbered(0..10)).await;
    spool.spool.close();
    spool.ended.await.unwrap_err();
    let refused = spool.spool.append(b"late".to_vec()).await;
    assert!(
        matches!(refused, Err(AppendError::Failed(Failure::Closed))),
        "{refused:?}"
    );
    drop((spool.spool, spool.reader));
    assert_eq!(open(folder.path()).take_all(), numbered(0..10));
}

#[tokio::test]
async fn what_is_set_aside_is_bounded() {
    let disk = ForgetfulDisk::default();
    let mut spool = open_on(disk.clone(), Path::new("/spool"), options());
    let many = vec![
        SetAsideFact {
            reason: "invalid".into(),
            at_ms: 0,
            fact: vec![b'x'; 60_000],
        };
        100
    ];
    let mut kept = 0;
    let refused = loop {
        match spool.reader.set_aside(&many) {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 100);
    };
    assert!(matches!(refused, SetAsideError::Full), "{refused}");
    let bytes = spool.spool.holds().bytes;
    assert!(bytes <= MAX_SET_ASIDE_BYTES && kept >= 10, "{bytes}");
    let counts = spool.reader.counts();
    assert_eq!(counts.set_aside.load(Ordering::Relaxed), kept * 100);
    // Sending them again must not need more room than there is.
    for _ in 0..3 {
        let oldest = spool.reader.oldest_set_aside().unwrap();
        spool.reader.replace_oldest_set_aside(&oldest).unwrap();
    }
    assert_eq!(
        (
            spool.spool.holds().bytes,
            counts.set_aside.load(Ordering::Relaxed)
        ),
        (bytes, kept * 100)
    );
}

/// Whatever the backlog: what is read is the header of each segment, and the last one to find where its records end.
#[tokio::test]
async fn opening_reads_the_headers_and_the_last_segment_only() {
    let disk = ForgetfulDisk::default();
    let options = || Options {
        segment_bytes: 4_096,
        ..options()
    };
    for count in [1_000, 20_000] {
        let spool = open_on(disk.clone(), Path::new("/spool"), options());
        for group in numbered(0..count).chunks(100) {
            let appends = group
                .iter()
                .map(|fact| spool.spool.append(fact.clone().into_bytes()));
            futures::future::try_join_all(appends).await.unwrap();
        }
        let closed = spool.spool.clone();
        spool.close().await;
        let backlog = closed.holds();
        drop(closed);
        let files = pixel::spool::files::Files::list(&disk, Path::new("/spool")).unwrap();
        let segments: Vec<u64> = files.iter().map(|(_, bytes)| *bytes).collect();
        let last = segments.last().unwrap();

        let (before, _) = disk.bytes_read();
        let spool = open_on(disk.clone(), Path::new("/spool"), options());
        let (after, _) = disk.bytes_read();
        let headers = u64::try_from(segments.len()).unwrap() * 36;
        assert!(
            after - before <= headers + last,
            "{} bytes were read of {} in {} segments",
            after - before,
            backlog.bytes,
            segments.len()
        );
        assert_eq!(spool.spool.holds(), backlog);
        spool.close().await;
    }
    // However much there is, it is read in pieces.
    let mut spool = open_on(disk.clone(), Path::new("/spool"), options());
    assert_eq!(spool.take_all().len(), 21_000);
    assert!(disk.bytes_read().1 <= 256 << 10, "{}", disk.bytes_read().1);
}
