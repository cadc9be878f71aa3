//! The disk forgets, fails, fills up, or hangs.

use super::{
    support::forgetful::{Left, Moment},
    *,
};

/// A spool that does not wait long for its disk.
fn impatient() -> Options {
    Options {
        patience: Duration::from_millis(300),
        ..options()
    }
}

#[tokio::test]
async fn no_answer_leaves_before_its_sync_has_returned() {
    let disk = ForgetfulDisk::default();
    let spool = open_on(disk.clone(), Path::new("/spool"), options());
    append_all(&spool.spool, &numbered(0..1)).await;
    spool.becomes_readable().await; // The segment is begun, and no sync is under way.
    let syncs = disk.syncs_begun();
    disk.set_faults(|faults| faults.sync_hangs = true);
    let append = tokio::spawn({
        let spool = spool.spool.clone();
        async move { spool.append(b"a fact".to_vec()).await }
    });
    eventually("a sync begins", || {
        assert!(!append.is_finished(), "answered without a sync");
        disk.syncs_begun() > syncs
    })
    .await;
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
        eventually("a sync begins", || {
            assert!(!unanswered.is_finished(), "answered without a sync");
            disk.syncs_begun() > syncs
        })
        .await;
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

/// What the test knows of a moment: how many facts were answered, how many of them were settled, how many set aside.
#[derive(Clone, Copy, Default)]
struct Known {
    answered: usize,
    settled: usize,
    set_aside: usize,
}

impl Known {
    fn packed(self) -> u64 {
        u64::try_from(self.answered | self.settled << 16 | self.set_aside << 32).unwrap()
    }

    fn unpacked(note: u64) -> Self {
        let part = |shift: u32| usize::try_from(note >> shift & 0xffff).unwrap();
        Self {
            answered: part(0),
            settled: part(16),
            set_aside: part(32),
        }
    }
}

fn refused(number: usize) -> SetAsideFact {
    SetAsideFact {
        reason: "invalid".into(),
        at_ms: 0,
        fact: format!("refused {number}").into_bytes(),
    }
}

/// A spool that fills several segments and is delivered meanwhile, on a disk that remembers all of it.
async fn a_life() -> Vec<Moment> {
    let disk = ForgetfulDisk::default();
    disk.remember();
    let mut known = Known::default();
    let mut spool = open_on(disk.clone(), Path::new("/var/spool"), small_segments());
    for number in 0..36 {
        append_all(&spool.spool, &numbered(number..number + 1)).await;
        known.answered += 1;
        disk.note(known.packed());
        if number % 6 == 5 {
            let batch = spool.reader.read(4, 1 << 20).unwrap();
            spool.reader.set_aside(&[refused(known.set_aside)]).unwrap();
            known.set_aside += 1;
            known.settled += batch.facts.len(); // From here on they may be gone.
            disk.note(known.packed());
            spool.reader.trim(&batch).unwrap();
        }
    }
    spool.close().await;
    disk.moments()
}

/// Everything in the spool on `disk`, and that none of it was taken for corrupt.
fn all_of(disk: ForgetfulDisk, what: &str) -> (Vec<String>, Vec<SetAsideFact>) {
    let mut reader = Folder::open(Path::new("/var/spool"), Arc::new(disk))
        .unwrap()
        .into_reader();
    let (mut facts, mut set_aside) = (Vec::new(), Vec::new());
    loop {
        let batch = reader.read(5, 1 << 20).unwrap();
        if batch.facts.is_empty() {
            break;
        }
        facts.extend(support::texts(&batch));
    }
    reader.for_each_set_aside(|fact| set_aside.push(fact)).unwrap();
    assert_eq!(reader.counts().quarantined.load(Ordering::Relaxed), 0, "{what}");
    (facts, set_aside)
}

const LEFT: [Left; 5] = [
    Left::Tail(0),
    Left::Tail(1),
    Left::Tail(20),
    Left::Everything,
    Left::EveryOther(8),
];

/// The power is cut before each single thing that a spool does to its disk, and again before each that the next one does
/// after it, and each time the disk keeps another part of what was not synced.
#[tokio::test]
async fn whenever_the_power_is_cut_everything_answered_is_there_in_order_and_once() {
    let life = a_life().await;
    assert!(life.len() > 60, "{}", life.len());
    for (at, moment) in life.iter().enumerate() {
        let known = Known::unpacked(moment.note);
        for left in LEFT {
            let what = format!("before change {at}, left {left:?}");
            let (found, set_aside) = all_of(moment.after_power_cut(left), &what);
            let first = found
                .first()
                .map_or(known.answered, |fact| fact["fact ".len()..].parse().unwrap());
            assert!(first <= known.settled, "{what}: begins at {first}");
            // One more may be on its way.
            let end = (first + found.len()).clamp(known.answered, known.answered + 1);
            assert_eq!(found, numbered(first..end), "{what}");
            let kept: Vec<_> = (0..set_aside.len().max(known.set_aside)).map(refused).collect();
            assert_eq!(set_aside, kept, "{what}");

            if at % 3 == 0 {
                cut_again(moment.after_power_cut(left), &found, &what).await;
            }
        }
    }
}

const GROUP: usize = 5;

/// The same with groups of several, of which the disk may keep a later part and not an earlier one. The note is how many
/// were answered.
async fn a_life_of_groups() -> Vec<Moment> {
    let disk = ForgetfulDisk::default();
    disk.remember();
    let spool = open_on(
        disk.clone(),
        Path::new("/var/spool"),
        Options {
            segment_bytes: 1_000,
            ..options()
        },
    );
    let mut answered = 0;
    while answered < 60 {
        // The writer is busy with the first one while the others arrive.
        futures::future::join_all(
            numbered(answered..answered + GROUP)
                .into_iter()
                .map(|fact| spool.spool.append(fact.into_bytes())),
        )
        .await
        .into_iter()
        .for_each(|appended| appended.unwrap());
        answered += GROUP;
        disk.note(u64::try_from(answered).unwrap());
    }
    spool.close().await;
    disk.moments()
}

#[tokio::test]
async fn a_group_that_a_power_cut_has_torn_costs_nothing_that_was_answered_and_is_not_taken_for_corrupt() {
    let mut torn_inside = 0;
    for (at, moment) in a_life_of_groups().await.iter().enumerate() {
        let answered = usize::try_from(moment.note).unwrap();
        for left in LEFT
            .into_iter()
            .chain([Left::Tail(60), Left::EveryOther(40), Left::EveryOther(64)])
        {
            let what = format!("before change {at}, left {left:?}");
            let disk = moment.after_power_cut(left);
            let (found, _) = all_of(disk.clone(), &what);
            assert!(found.starts_with(&numbered(0..answered)), "{what}: {found:?}");
            let group = numbered(answered..answered + GROUP);
            let rest: Vec<_> = group
                .iter()
                .filter(|fact| found[answered..].contains(fact))
                .cloned()
                .collect();
            assert_eq!(found[answered..], rest, "{what}");
            torn_inside += usize::from(!group.starts_with(&rest));

            // Nor is it once there is another segment.
            let spool = open_on(disk.clone(), Path::new("/var/spool"), options());
            append_all(&spool.spool, &numbered(1_000..1_001)).await;
            spool.close().await;
            let (again, _) = all_of(disk, &what);
            assert_eq!(again, [found, numbered(1_000..1_001)].concat(), "{what}");
        }
    }
    assert!(torn_inside > 3, "{torn_inside} groups were torn inside");
}

/// As on a disk that has become read-only: nothing can be voided then.
#[tokio::test]
async fn a_torn_group_costs_nothing_that_was_answered_even_where_the_disk_takes_no_writes() {
    let mut torn_inside = 0;
    for (at, moment) in a_life_of_groups().await.iter().enumerate() {
        let what = format!("before change {at}");
        let answered = usize::try_from(moment.note).unwrap();
        let disk = moment.after_power_cut(Left::EveryOther(40));
        disk.set_faults(|faults| faults.write_fails = true);
        let mut reader = Folder::open(Path::new("/var/spool"), Arc::new(disk.clone()))
            .unwrap()
            .into_reader();
        let found = support::texts(&reader.read(100, 1 << 20).unwrap());
        assert!(found.starts_with(&numbered(0..answered)), "{what}: {found:?}");
        // Here it cannot be told from corruption any more, and is said to be lost.
        let quarantined = reader.counts().quarantined.load(Ordering::Relaxed);
        torn_inside += usize::from(quarantined > 0);
        drop(reader);

        // What could not be voided then is voided by the next start, unless a new segment has begun meanwhile.
        disk.set_faults(|faults| faults.write_fails = false);
        let (again, _) = all_of(disk, &what);
        assert_eq!(again, found, "{what}");
    }
    assert!(torn_inside > 3, "{torn_inside} groups were torn inside");
}

async fn cut_again(disk: ForgetfulDisk, found: &[String], what: &str) {
    disk.remember();
    disk.note(0);
    let spool = open_on(disk.clone(), Path::new("/var/spool"), small_segments());
    for number in 0..2 {
        append_all(&spool.spool, &numbered(1_000 + number..1_001 + number)).await;
        disk.note(u64::try_from(number + 1).unwrap());
    }
    spool.close().await;
    for (at, moment) in disk.moments().iter().enumerate() {
        let answered = usize::try_from(moment.note).unwrap();
        for left in [Left::Tail(0), Left::Tail(20), Left::EveryOther(8)] {
            let what = format!("{what}; then before change {at}, left {left:?}");
            let (again, _) = all_of(moment.after_power_cut(left), &what);
            assert!(again.starts_with(found), "{what}: {again:?}, not {found:?}");
            let new = again.len() - found.len();
            assert!(
                (answered..=answered + 1).contains(&new),
                "{what}: {new} of {answered}"
            );
            assert_eq!(again[found.len()..], numbered(1_000..1_000 + new), "{what}");
        }
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

    assert_eq!(disk.syncs_tried_again(), 0, "never the same file again");

    for left in [0, usize::MAX] {
        let mut after = open_on(disk.after_power_cut(left), Path::new("/spool"), options());
        assert_eq!((after.take_all(), quarantined(&after)), (numbered(0..6), 0));
    }
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
    assert_eq!(disk.syncs_tried_again(), 0, "never the same file again");
}

/// Appends numbered facts from this one on, one after the other, until one is not taken; gives its number.
async fn append_until_refused(spool: &Spool, from: usize) -> usize {
    let mut number = from;
    while let Ok(()) = spool.append(numbered(number..number + 1)[0].clone().into()).await {
        number += 1;
        assert!(number < 100, "no end of room");
    }
    number
}

#[tokio::test]
async fn a_full_disk_takes_what_has_its_room_already_and_loses_only_what_it_refused() {
    let disk = ForgetfulDisk::default();
    let small = Options {
        segment_bytes: 4_096,
        ..options()
    };
    let mut spool = open_on(disk.clone(), Path::new("/spool"), small);
    append_all(&spool.spool, &numbered(0..3)).await;
    disk.set_faults(|faults| faults.full = true);
    let taken = append_until_refused(&spool.spool, 3).await;
    assert!(taken > 10, "{taken} are taken");
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
    append_all(&spool.spool, &numbered(taken..taken + 3)).await;
    assert_eq!(spool.take_all(), numbered(0..taken + 3));
    assert_eq!(quarantined(&spool), 0);
}

/// There is room for some facts, and not for the zeros that would be written behind them.
#[tokio::test]
async fn a_disk_that_is_nearly_full_takes_what_fits() {
    let disk = ForgetfulDisk::default();
    let mut spool = open_on(
        disk.clone(),
        Path::new("/spool"),
        Options {
            segment_bytes: 4_096,
            ..options()
        },
    );
    let record = 16 + numbered(0..1)[0].len();
    append_all(&spool.spool, &numbered(0..1)).await;
    disk.set_faults(|faults| faults.room = Some(5 * record));
    let taken = append_until_refused(&spool.spool, 1).await;
    assert_eq!(taken, 1 + (1_024 + 5 * record) / record);
    disk.set_faults(|faults| faults.room = None);
    eventually("it recovers by itself", || spool.spool.failing().is_none()).await;
    append_all(&spool.spool, &numbered(taken..taken + 1)).await;
    assert_eq!(
        (spool.take_all(), quarantined(&spool)),
        (numbered(0..taken + 1), 0)
    );
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
async fn with_an_interval_the_answer_comes_first_and_the_sync_soon() {
    let disk = ForgetfulDisk::default();
    let every = SyncPolicy::Interval(Duration::from_secs(1));
    let mut spool = open_on(disk.clone(), Path::new("/spool"), Options::new(1 << 30, every));
    append_all(&spool.spool, &numbered(0..1)).await;
    spool.becomes_readable().await; // It was synced although nothing came after it.
    assert_eq!(spool.take_all(), numbered(0..1));
    disk.set_faults(|faults| faults.sync_hangs = true);
    append_all(&spool.spool, &numbered(1..2)).await; // Answered although no sync returns.
    assert_eq!(
        spool.reader.read(10, 1 << 20).unwrap().facts.len(),
        0,
        "only what is synced is read"
    );
    let mut cut = open_on(disk.after_power_cut(0), Path::new("/spool"), options());
    assert_eq!(cut.take_all(), numbered(0..1), "the price of an interval");
    disk.set_faults(|faults| faults.sync_hangs = false);
    spool.becomes_readable().await;
    let mut cut = open_on(disk.after_power_cut(0), Path::new("/spool"), options());
    assert_eq!(cut.take_all(), numbered(0..2), "what was synced is there");
    assert_eq!(spool.take_all(), numbered(1..2));

    disk.set_faults(|faults| faults.sync_fails = true);
    append_all(&spool.spool, &numbered(2..5)).await;
    eventually("all three are counted as lost", || {
        spool.spool.lost_after_answer() == 3
    })
    .await;
    disk.set_faults(|faults| faults.sync_fails = false);
    eventually("it recovers by itself", || spool.spool.failing().is_none()).await;
    append_all(&spool.spool, &numbered(5..6)).await;
    spool.becomes_readable().await;
    assert_eq!(
        (spool.take_all(), spool.spool.lost_after_answer()),
        (numbered(5..6), 3)
    );
}
