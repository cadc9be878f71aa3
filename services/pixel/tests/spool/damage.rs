//! What lies on disk is damaged: torn, flipped, overwritten, unreadable.

use proptest::{prelude::*, sample::Index};

use super::*;

/// The file that a spool of these facts leaves: its name and what is in it.
async fn one_segment_of(facts: &[String]) -> (std::ffi::OsString, Vec<u8>) {
    let folder = TempDir::new().unwrap();
    let spool = open(folder.path());
    append_all(&spool.spool, facts).await;
    spool.close().await;
    let path = segments(folder.path()).remove(0);
    (path.file_name().unwrap().to_owned(), fs::read(path).unwrap())
}

/// At every byte, those of the header included; where the rest of the write was, there is nothing, or zeros, or garbage.
#[tokio::test]
async fn a_torn_tail_is_dropped_wherever_it_was_torn() {
    let facts = numbered(0..5);
    let (name, bytes) = one_segment_of(&facts).await;
    let record = 16 + facts[0].len();
    for length in 0..bytes.len() {
        for filled_with in [None, Some(0), Some(0xa5)] {
            let mut torn = bytes[..length].to_vec();
            torn.resize(
                filled_with.map_or(length, |_| bytes.len()),
                filled_with.unwrap_or(0),
            );
            let path = Path::new("/spool").join(&name);
            let disk = ForgetfulDisk::with_file(&path, &torn);
            let what = format!("{length} bytes, then {filled_with:?}");

            let mut spool = open_on(disk.clone(), Path::new("/spool"), options());
            append_all(&spool.spool, &numbered(5..6)).await;
            let whole = length.saturating_sub(36) / record;
            let mut expected = facts[..whole].to_vec();
            expected.extend(numbered(5..6));
            assert_eq!(spool.take_all(), expected, "{what}");
            assert_eq!(quarantined(&spool), 0, "{what}");
            spool.close().await;
            // The torn bytes stay behind the end that the next segment's header names, also for later openings.
            let mut spool = open_on(disk, Path::new("/spool"), options());
            assert_eq!((spool.take_all(), quarantined(&spool)), (Vec::new(), 0), "{what}");
        }
    }
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
    assert_eq!(quarantined(&spool), 21);
}

/// A record that somebody put into a fact on purpose, and whose number is far ahead, would make every one behind it look
/// old; so a number that is not due is not believed.
#[tokio::test]
async fn bytes_that_look_like_a_record_do_not_hide_the_ones_behind_them() {
    let folder = TempDir::new().unwrap();
    let spool = open(folder.path());
    let (length, seq, payload) = (5_u32.to_le_bytes(), u64::MAX / 2, b"bogus");
    let checked = [&length[..], &seq.to_le_bytes(), payload].concat();
    let crc = crc32c::crc32c(&checked).to_le_bytes();
    let bogus = [&length[..], &crc, &seq.to_le_bytes(), payload].concat();
    spool.spool.append(bogus).await.unwrap();
    append_all(&spool.spool, &numbered(0..5)).await;
    spool.close().await;
    let path = segments(folder.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[36] ^= 0xff;
    fs::write(&path, bytes).unwrap();

    let mut spool = open(folder.path());
    assert_eq!((spool.take_all(), quarantined(&spool)), (numbered(0..5), 1));
}

/// The same bytes as `version` would have written them.
fn of_version(version: u8, bytes: &[u8]) -> Vec<u8> {
    let mut old = bytes.to_vec();
    old[7] = version;
    let crc = crc32c::crc32c(&old[..32]).to_le_bytes();
    old[32..36].copy_from_slice(&crc);
    let record = 16 + numbered(0..1)[0].len();
    for record in old[36..].chunks_exact_mut(record) {
        record[3] = 0; // The highest byte of its length, whose highest bit version 1 did not know.
        let checked = [&record[..4], &record[8..]].concat();
        record[4..8].copy_from_slice(&crc32c::crc32c(&checked).to_le_bytes());
    }
    old
}

/// Nothing in it says what was synced, so all that is bad in front of a good record counts as corrupt.
#[tokio::test]
async fn a_spool_of_version_1_is_read_as_it_was() {
    let facts = numbered(0..5);
    let (name, bytes) = one_segment_of(&facts).await;
    let old = of_version(1, &bytes);
    let record = 16 + facts[0].len();
    for flipped in [None, Some(0), Some(3), Some(4)] {
        let folder = TempDir::new().unwrap();
        let mut old = old.clone();
        let mut expected = facts.clone();
        if let Some(flipped) = flipped {
            old[36 + flipped * record + 20] ^= 0x55;
            expected.remove(flipped);
        }
        fs::write(folder.path().join(&name), &old).unwrap();

        let mut spool = open(folder.path());
        append_all(&spool.spool, &numbered(5..7)).await;
        expected.extend(numbered(5..7));
        assert_eq!(spool.take_all(), expected, "flipped {flipped:?}");
        let corrupt = flipped.is_some_and(|flipped| flipped < 4);
        assert_eq!(quarantined(&spool), u64::from(corrupt), "flipped {flipped:?}");
    }
}

#[tokio::test]
async fn a_spool_of_a_newer_version_is_refused_by_name() {
    let (name, bytes) = one_segment_of(&numbered(0..5)).await;
    let folder = TempDir::new().unwrap();
    let newer = of_version(3, &bytes);
    fs::write(folder.path().join(name), &newer).unwrap();
    let refused = Folder::open(folder.path(), Arc::new(DiskFiles)).err().unwrap();
    assert!(
        matches!(&refused, OpenError::Newer { version: 3, .. }),
        "{refused}"
    );
}

/// A process is killed while it writes, with zeros ahead; the next one just after it has made the file of its segment.
#[tokio::test]
async fn zeros_of_a_killed_process_are_nobodys_loss_and_take_no_room() {
    let folder = TempDir::new().unwrap();
    let alive = open(folder.path());
    append_all(&alive.spool, &numbered(0..5)).await;
    let path = segments(folder.path()).remove(0);
    let left_behind = fs::read(&path).unwrap();
    assert!(left_behind.len() > 100_000, "{} bytes", left_behind.len());
    for unfinished in [None, Some(0), Some(20)] {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join(path.file_name().unwrap()), &left_behind).unwrap();
        if let Some(bytes) = unfinished {
            fs::write(
                folder.path().join(format!("{:020}.seg", 6)),
                &left_behind[..bytes],
            )
            .unwrap();
        }
        let mut spool = open(folder.path());
        assert!(
            spool.spool.holds().bytes < 1_000,
            "{} bytes",
            spool.spool.holds().bytes
        );
        append_all(&spool.spool, &numbered(5..6)).await;
        assert_eq!(spool.take_all(), numbered(0..6), "{unfinished:?}");
        let counts = spool.reader.counts();
        assert_eq!(
            counts.quarantined_bytes.load(Ordering::Relaxed),
            0,
            "{unfinished:?}"
        );
    }
}

/// The disk refuses to read the bad bytes once more: they are counted all the same.
#[tokio::test]
async fn bad_bytes_that_cannot_be_read_again_are_not_passed_over() {
    let facts = numbered(0..5);
    let (name, mut bytes) = one_segment_of(&facts).await;
    let record = 16 + facts[0].len();
    bytes[36 + 2 * record + 20] ^= 0x55;
    let path = Path::new("/spool").join(name);
    let disk = ForgetfulDisk::with_file(&path, &bytes);
    let mut spool = open_on(disk.clone(), Path::new("/spool"), options());
    let first = spool.reader.read(1, 1 << 20).unwrap();
    assert_eq!(
        support::texts(&first),
        facts[..1],
        "all of the file is in memory now"
    );
    disk.set_faults(|faults| faults.unreadable_from = Some(0));
    let rest = spool.reader.read(10, 1 << 20).unwrap();
    assert_eq!(support::texts(&rest), [&facts[1..2], &facts[3..]].concat());
    assert_eq!(quarantined(&spool), 1);
}

const FACTS: usize = 40;
const TRIMMED: usize = 10;

/// A spool of many segments whose first facts are settled, as its files.
async fn several_segments() -> Vec<(String, Vec<u8>)> {
    let folder = TempDir::new().unwrap();
    let mut spool = open_on(DiskFiles, folder.path(), small_segments());
    append_all(&spool.spool, &numbered(0..FACTS)).await;
    for _ in 0..2 {
        let batch = spool.reader.read(TRIMMED / 2, 1 << 20).unwrap();
        spool.reader.trim(&batch).unwrap();
    }
    spool.close().await;
    let mut files: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            (name, fs::read(&path).unwrap())
        })
        .filter(|(name, _)| name != "lock")
        .collect();
    files.sort();
    files
}

/// The facts that a segment's bytes hold, each with where its record is.
fn records(name: &str, bytes: &[u8]) -> Vec<(usize, std::ops::Range<usize>)> {
    let Some(first_seq) = name.strip_suffix(".seg") else {
        return Vec::new();
    };
    let first: usize = first_seq.parse::<usize>().unwrap() - 1;
    let record = 16 + numbered(0..1)[0].len();
    (0..(bytes.len() - 36) / record)
        .map(|at| (first + at, 36 + at * record..36 + (at + 1) * record))
        .collect()
}

fn check_damaged(good: &[(String, Vec<u8>)], damaged: &[(String, Vec<u8>)]) {
    let folder = TempDir::new().unwrap();
    for (name, bytes) in damaged {
        fs::write(folder.path().join(name), bytes).unwrap();
    }
    let mut reader = Folder::open(folder.path(), Arc::new(DiskFiles))
        .unwrap()
        .into_reader();
    let mut found = Vec::new();
    loop {
        let batch = reader.read(7, 1 << 20).unwrap();
        if batch.facts.is_empty() {
            break;
        }
        found.extend(support::texts(&batch));
    }

    let touched: Vec<usize> = good
        .iter()
        .zip(damaged)
        .flat_map(|((name, good), (_, damaged))| {
            records(name, good)
                .into_iter()
                .filter(|(_, range)| good[range.clone()] != damaged[range.clone()])
                .map(|(fact, _)| fact)
        })
        .collect();
    let cursor =
        |files: &[(String, Vec<u8>)]| files.iter().find(|(name, _)| name == "cursor").unwrap().1.clone();
    let from = if cursor(good) == cursor(damaged) {
        TRIMMED
    } else {
        // The older slot, or none: what was settled may come again, but nothing is passed over.
        let first = found.first().and_then(|fact| fact["fact ".len()..].parse().ok());
        first.unwrap_or(TRIMMED).min(TRIMMED)
    };
    let expected: Vec<String> = (from..FACTS)
        .filter(|fact| !touched.contains(fact))
        .map(|fact| numbered(fact..fact + 1).remove(0))
        .collect();
    assert_eq!(found, expected);
    // Bad records at the very end cannot be told from a write that was cut off before its answer.
    // "cursor" sorts behind all segments.
    let (last_name, last_bytes) = good.iter().rfind(|(name, _)| name != "cursor").unwrap();
    let torn = records(last_name, last_bytes)
        .iter()
        .rev()
        .take_while(|(fact, _)| touched.contains(fact))
        .count();
    let due = touched.iter().filter(|fact| **fact >= TRIMMED).count() - torn;
    let counted = reader.counts().quarantined.load(Ordering::Relaxed);
    if from == TRIMMED && cursor(good) == cursor(damaged) {
        assert_eq!(counted, u64::try_from(due).unwrap());
    } else {
        assert!(counted >= u64::try_from(due).unwrap(), "{counted} of {due}");
    }
    let copies = fs::read_dir(folder.path().join("quarantine")).map_or(0, Iterator::count);
    assert_eq!(copies > 0, counted > 0, "{copies} copies");
}

/// Several bytes changed anywhere, in records, in segments' headers and in the cursor's file: every record that is whole
/// is read, in order and once, and the others are counted.
#[test]
fn any_bytes_changed_anywhere_cost_their_own_records_only() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let good = runtime.block_on(several_segments());
    assert!(good.len() > 4, "{}", good.len());
    let changes = proptest::collection::vec((any::<Index>(), any::<Index>(), 1_u8..), 1..9);
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }, |(changes in changes)| {
        let mut damaged = good.clone();
        for (file, at, mask) in changes {
            let file = file.index(damaged.len());
            let bytes = &mut damaged[file].1;
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
        }
        check_damaged(&good, &damaged);
    });
}

#[tokio::test]
async fn a_damaged_cursor_sends_again_and_passes_over_nothing() {
    let good = several_segments().await;
    let place = good.iter().position(|(name, _)| name == "cursor").unwrap();
    let length = good[place].1.len();
    let slots = || (0..20).chain(512..length);
    for at in slots() {
        let mut damaged = good.clone();
        damaged[place].1[at] ^= 0x10;
        check_damaged(&good, &damaged);
    }
    for (first, second) in slots().zip(slots().rev()) {
        let mut damaged = good.clone();
        damaged[place].1[first] ^= 1;
        damaged[place].1[second] ^= 2;
        check_damaged(&good, &damaged);
    }
    for length in (0..length).step_by(5) {
        let mut damaged = good.clone();
        damaged[place].1.truncate(length);
        check_damaged(&good, &damaged);
    }
}

/// A disk that refuses to read holds up what lies there and behind it; nothing is passed over, and what was read before is
/// delivered.
#[tokio::test]
async fn what_cannot_be_read_for_a_while_is_neither_lost_nor_doubled() {
    let disk = ForgetfulDisk::default();
    let mut spool = open_on(disk.clone(), Path::new("/spool"), options());
    let large: Vec<String> = (0..20)
        .map(|number| format!("{number:03}{}", "x".repeat(60_000)))
        .collect();
    append_all(&spool.spool, &large).await;
    disk.set_faults(|faults| faults.unreadable_from = Some(700_000));
    let mut found = Vec::new();
    let batch = spool.reader.read(2_000, 1 << 20).unwrap();
    spool.reader.trim(&batch).unwrap();
    found.extend(support::texts(&batch));
    assert!((5..15).contains(&found.len()), "{}", found.len());
    for _ in 0..3 {
        spool.reader.read(2_000, 1 << 20).unwrap_err();
    }
    disk.set_faults(|faults| faults.unreadable_from = None);
    found.extend(spool.take_all());
    assert_eq!((found, quarantined(&spool)), (large, 0));
}
