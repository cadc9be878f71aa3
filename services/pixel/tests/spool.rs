//! The spool as a contract: what is appended is there after whatever happened, in order, once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says by that what it needs"
)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use pixel::spool::{
    AppendError, Failure, Folder, OpenError, Options, SetAsideFact, SyncPolicy, files::DiskFiles,
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

/// The file that a spool of these facts leaves: its name and what is in it.
async fn one_segment_of(facts: &[String]) -> (std::ffi::OsString, Vec<u8>) {
    let folder = TempDir::new().unwrap();
    let spool = open(folder.path());
    append_all(&spool.spool, facts).await;
    spool.close().await;
    let path = segments(folder.path()).remove(0);
    (path.file_name().unwrap().to_owned(), fs::read(path).unwrap())
}

/// A spool that does not wait long for its disk.
fn impatient() -> Options {
    Options {
        patience: Duration::from_millis(300),
        ..options()
    }
}

/// Segments so small that a few facts fill one.
fn small_segments() -> Options {
    Options {
        segment_bytes: 200,
        ..options()
    }
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
async fn a_torn_tail_is_dropped_wherever_it_was_torn() {
    let facts = numbered(0..5);
    let (name, bytes) = one_segment_of(&facts).await;
    let last = 16 + facts[4].len();
    for torn_off in 1..=last {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join(&name), &bytes[..bytes.len() - torn_off]).unwrap();

        let mut spool = open(folder.path());
        append_all(&spool.spool, &numbered(5..7)).await;
        let mut expected = facts[..4].to_vec();
        expected.extend(numbered(5..7));
        assert_eq!(spool.take_all(), expected, "torn off: {torn_off}");
        assert_eq!(quarantined(&spool), 0);
        spool.close().await;
        // The torn bytes stay behind the end that the next segment's header names, also for later openings.
        let mut spool = open(folder.path());
        assert_eq!((spool.take_all(), quarantined(&spool)), (Vec::new(), 0));
    }
}

fn quarantined(spool: &support::Opened) -> u64 {
    spool
        .reader
        .counts()
        .quarantined
        .load(std::sync::atomic::Ordering::Relaxed)
}

#[tokio::test]
async fn any_flipped_byte_costs_its_own_record_only() {
    let facts = numbered(0..5);
    let (name, good) = one_segment_of(&facts).await;
    let record = 16 + facts[0].len();
    for position in (0..36 + record).chain(36 + 3 * record..36 + 4 * record) {
        let folder = TempDir::new().unwrap();
        let mut bytes = good.clone();
        bytes[position] ^= 0x55;
        fs::write(folder.path().join(&name), &bytes).unwrap();

        let mut spool = open(folder.path());
        let mut expected = facts.clone();
        let hit = position.checked_sub(36).map(|in_records| in_records / record);
        if let Some(hit) = hit {
            expected.remove(hit);
        }
        assert_eq!(spool.take_all(), expected, "flipped at {position}");
        assert_eq!(quarantined(&spool), u64::from(hit.is_some()));
        if let Some(hit) = hit {
            let copies: Vec<_> = fs::read_dir(folder.path().join("quarantine")).unwrap().collect();
            let copy = fs::read(copies[0].as_ref().unwrap().path()).unwrap();
            let start = 36 + hit * record;
            assert_eq!(
                (copies.len(), copy.as_slice()),
                (1, &bytes[start..start + record])
            );
        }
    }
}

#[tokio::test]
async fn corruption_at_the_end_of_an_older_segment_is_no_torn_tail() {
    let folder = TempDir::new().unwrap();
    let spool = open_on(DiskFiles, folder.path(), small_segments());
    let facts = numbered(0..20);
    append_all(&spool.spool, &facts).await;
    spool.close().await;
    let path = segments(folder.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();

    let mut spool = open(folder.path());
    let read = spool.take_all();
    assert_eq!(read.len(), 19);
    assert!(facts.iter().filter(|fact| !read.contains(fact)).count() == 1 && quarantined(&spool) == 1);
    assert_eq!(spool.spool.holds().unsent, 0);
}

#[tokio::test]
async fn a_large_stretch_of_garbage_is_skipped() {
    let folder = TempDir::new().unwrap();
    let spool = open(folder.path());
    let large: Vec<String> = (0..40)
        .map(|number| format!("{number:03}{}", "x".repeat(30_000)))
        .collect();
    append_all(&spool.spool, &large).await;
    spool.close().await;
    let path = segments(folder.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let record = 16 + large[0].len();
    for byte in &mut bytes[36 + 5 * record + 7..36 + 25 * record + 9] {
        *byte = byte.wrapping_mul(31).wrapping_add(17);
    }
    fs::write(&path, bytes).unwrap();

    let mut spool = open(folder.path());
    let expected: Vec<_> = large[..5].iter().chain(&large[26..]).cloned().collect();
    assert_eq!(spool.take_all(), expected);
    assert_eq!(quarantined(&spool), 1);
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
    assert_eq!(
        spool
            .reader
            .counts()
            .set_aside
            .load(std::sync::atomic::Ordering::Relaxed),
        3
    );
    assert_eq!(spool.reader.oldest_set_aside().unwrap(), all[..2]);
    assert!(spool.spool.holds().bytes > 0);
    spool.reader.remove_oldest_set_aside().unwrap();
    spool.reader.remove_oldest_set_aside().unwrap();
    assert_eq!(spool.reader.oldest_set_aside().unwrap(), []);
    assert_eq!(spool.spool.holds().bytes, 0);
}

#[tokio::test]
async fn no_answer_leaves_before_its_sync_has_returned() {
    let disk = ForgetfulDisk::default();
    let spool = open_on(disk.clone(), Path::new("/spool"), options());
    disk.set_faults(|faults| faults.sync_hangs = true);
    let append = tokio::spawn({
        let spool = spool.spool.clone();
        async move { spool.append(b"a fact".to_vec()).await }
    });
    while disk.syncs_begun() == 0 {
        assert!(!append.is_finished(), "answered without a sync");
        tokio::task::yield_now().await;
    }
    // The sync has begun and does not return: whatever else could answer has had its chance.
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(!append.is_finished());
    disk.set_faults(|faults| faults.sync_hangs = false);
    append.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_power_cut_loses_nothing_that_was_answered() {
    for kept_tail in [0, 1, 20, 40, 1_000] {
        let disk = ForgetfulDisk::default();
        let mut spool = open_on(disk.clone(), Path::new("/spool"), small_segments());
        let facts = numbered(0..30);
        append_all(&spool.spool, &facts).await;
        let mut untouched = open_on(
            disk.after_power_cut(kept_tail),
            Path::new("/spool"),
            small_segments(),
        );
        assert_eq!(untouched.take_all(), facts);
        let batch = spool.reader.read(10, 1 << 20).unwrap();
        spool.reader.trim(&batch).unwrap();
        // One more is written and not yet synced when the power goes.
        let syncs = disk.syncs_begun();
        disk.set_faults(|faults| faults.sync_hangs = true);
        let unanswered = tokio::spawn({
            let spool = spool.spool.clone();
            async move { spool.append(b"unanswered".to_vec()).await }
        });
        while disk.syncs_begun() == syncs {
            assert!(!unanswered.is_finished(), "answered without a sync");
            tokio::task::yield_now().await;
        }
        let after = disk.after_power_cut(kept_tail);
        disk.set_faults(|faults| faults.sync_hangs = false);
        unanswered.await.unwrap().unwrap();

        let mut spool = open_on(after, Path::new("/spool"), small_segments());
        let found = spool.take_all();
        let missing: Vec<_> = facts[10..].iter().filter(|fact| !found.contains(fact)).collect();
        assert_eq!(
            missing,
            Vec::<&String>::new(),
            "kept {kept_tail} bytes of the tail"
        );
        assert_eq!(quarantined(&spool), 0);
        append_all(&spool.spool, &numbered(30..40)).await;
        assert_eq!(spool.take_all(), numbered(30..40));
    }
}

#[tokio::test]
async fn after_a_failed_sync_another_segment_is_begun_and_nothing_answered_is_lost() {
    let disk = ForgetfulDisk::default();
    let mut spool = open_on(disk.clone(), Path::new("/spool"), options());
    append_all(&spool.spool, &numbered(0..3)).await;
    disk.set_faults(|faults| faults.sync_fails = true);
    let failed = spool.spool.append(b"failed".to_vec()).await;
    assert!(
        matches!(failed, Err(AppendError::Failed(Failure::DiskError))),
        "{failed:?}"
    );
    let syncs = disk.syncs_begun();
    let failed = spool.spool.append(b"failed at once".to_vec()).await;
    assert!(
        failed.is_err() && disk.syncs_begun() == syncs,
        "no sync is tried again so soon"
    );
    disk.set_faults(|faults| faults.sync_fails = false);
    eventually("it recovers by itself", || spool.spool.failing().is_none()).await;
    append_all(&spool.spool, &numbered(3..6)).await;
    let names: Vec<_> = pixel::spool::files::Files::list(&disk, Path::new("/spool"))
        .unwrap()
        .into_iter()
        .filter(|(name, _)| name.contains(".seg"))
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");

    let mut after = open_on(disk.after_power_cut(usize::MAX), Path::new("/spool"), options());
    assert_eq!(after.take_all(), numbered(0..6));
    assert_eq!(quarantined(&after), 0);
    assert_eq!(spool.take_all(), numbered(0..6), "only what was synced is read");
    assert_eq!(spool.spool.holds().unsent, 0);
}

#[tokio::test]
async fn a_disk_whose_syncs_keep_failing_is_degraded_all_along_and_leaves_no_litter() {
    let disk = ForgetfulDisk::default();
    let mut spool = open_on(disk.clone(), Path::new("/spool"), options());
    append_all(&spool.spool, &numbered(0..2)).await;
    assert_eq!(spool.take_all(), numbered(0..2));
    disk.set_faults(|faults| faults.sync_fails = true);
    spool.spool.append(b"failed".to_vec()).await.unwrap_err();
    let syncs = disk.syncs_begun();
    eventually("it tries by itself", || {
        assert_eq!(spool.spool.failing(), Some(Failure::DiskError));
        disk.syncs_begun() >= syncs + 2
    })
    .await;
    let files = pixel::spool::files::Files::list(&disk, Path::new("/spool")).unwrap();
    let segments = files.iter().filter(|(name, _)| name.contains(".seg")).count();
    assert!(segments <= 2, "{files:?}");
    disk.set_faults(|faults| faults.sync_fails = false);
    eventually("it recovers by itself", || spool.spool.failing().is_none()).await;
    append_all(&spool.spool, &numbered(2..4)).await;
    assert_eq!((spool.take_all(), quarantined(&spool)), (numbered(2..4), 0));
    let mut after = open_on(disk.after_power_cut(0), Path::new("/spool"), options());
    let found = after.take_all();
    assert!(
        found.ends_with(&numbered(2..4)) && quarantined(&after) == 0,
        "{found:?}"
    );
}

#[tokio::test]
async fn a_full_disk_loses_only_what_it_refused() {
    let disk = ForgetfulDisk::default();
    let mut spool = open_on(disk.clone(), Path::new("/spool"), options());
    append_all(&spool.spool, &numbered(0..3)).await;
    disk.set_faults(|faults| faults.full = true);
    for _ in 0..3 {
        let failed = spool.spool.append(b"refused".to_vec()).await;
        assert!(
            matches!(failed, Err(AppendError::Failed(Failure::DiskFull))),
            "{failed:?}"
        );
    }
    assert_eq!(spool.spool.failing(), Some(Failure::DiskFull));
    disk.set_faults(|faults| faults.full = false);
    eventually("it recovers by itself", || spool.spool.failing().is_none()).await;
    append_all(&spool.spool, &numbered(3..6)).await;
    assert_eq!(spool.take_all(), numbered(0..6));
    assert_eq!(quarantined(&spool), 0);
}

#[tokio::test]
async fn a_disk_that_hangs_is_waited_for_a_while_and_what_was_given_to_it_is_not_lost() {
    let disk = ForgetfulDisk::default();
    let mut spool = open_on(disk.clone(), Path::new("/spool"), impatient());
    append_all(&spool.spool, &numbered(0..1)).await;
    disk.set_faults(|faults| faults.sync_hangs = true);
    let Err(AppendError::Overdue(first)) = spool.spool.append(numbered(1..2)[0].clone().into_bytes()).await
    else {
        panic!("a hanging disk has answered");
    };
    // From now on nobody waits.
    let Err(AppendError::Overdue(second)) = spool.spool.append(numbered(2..3)[0].clone().into_bytes()).await
    else {
        panic!("a hanging disk has answered");
    };
    assert_eq!(spool.spool.failing(), Some(Failure::Busy));
    disk.set_faults(|faults| faults.sync_hangs = false);
    assert_eq!((first.outcome().await, second.outcome().await), (Ok(()), Ok(())));
    assert_eq!(spool.take_all(), numbered(0..3));
    assert_eq!(spool.spool.failing(), None);
}

#[tokio::test]
async fn memory_for_waiting_facts_is_bounded() {
    let disk = ForgetfulDisk::default();
    let spool = open_on(disk.clone(), Path::new("/spool"), impatient());
    disk.set_faults(|faults| faults.sync_hangs = true);
    assert!(matches!(
        spool.spool.append(b"first".to_vec()).await,
        Err(AppendError::Overdue(_))
    ));
    let large = vec![b'x'; 60_000];
    let mut waiting = Vec::new();
    let refused = loop {
        match spool.spool.append(large.clone()).await {
            Err(AppendError::Overdue(overdue)) => waiting.push(overdue),
            other => break other,
        }
        assert!(waiting.len() < 1_000);
    };
    assert!(
        matches!(refused, Err(AppendError::Failed(Failure::Busy))),
        "{refused:?}"
    );
    assert!(waiting.len() > 200);
    disk.set_faults(|faults| faults.sync_hangs = false);
    for overdue in waiting {
        assert_eq!(overdue.outcome().await, Ok(()));
    }
    spool.spool.append(b"last".to_vec()).await.unwrap();
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
async fn with_an_interval_the_answer_comes_first_and_the_sync_soon() {
    let disk = ForgetfulDisk::default();
    let every = SyncPolicy::Interval(Duration::from_millis(50));
    let mut spool = open_on(disk.clone(), Path::new("/spool"), Options::new(1 << 30, every));
    disk.set_faults(|faults| faults.sync_hangs = true);
    append_all(&spool.spool, &numbered(0..1)).await; // Answered although no sync returns.
    assert_eq!(
        spool.reader.read(10, 1 << 20).unwrap().facts.len(),
        0,
        "only what is synced is read"
    );
    disk.set_faults(|faults| faults.sync_hangs = false);
    spool.reader.readable().await;
    assert_eq!(spool.take_all(), numbered(0..1));

    disk.set_faults(|faults| faults.sync_fails = true);
    append_all(&spool.spool, &numbered(1..4)).await;
    eventually("all three are counted as lost", || {
        spool.spool.lost_after_answer() == 3
    })
    .await;
    disk.set_faults(|faults| faults.sync_fails = false);
    eventually("it recovers by itself", || spool.spool.failing().is_none()).await;
    append_all(&spool.spool, &numbered(4..5)).await;
    spool.reader.readable().await;
    assert_eq!(
        (spool.take_all(), spool.spool.lost_after_answer()),
        (numbered(4..5), 3)
    );
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
