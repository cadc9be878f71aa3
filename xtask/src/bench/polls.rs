//! A hundred readers that poll the list of emails every ten seconds, as the extension does, while the recorder has all it
//! can do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::{task::JoinSet, time::sleep};

use super::{
    Bench,
    flood::flood,
    hits::Hits,
    process::{forget_peak, memory},
    reader::Reader,
    reads::EMAILS,
    report::{Cell, Table},
    stats::{Times, rate},
    subject::Subject,
};

const READERS: u32 = 100;
const EVERY: Duration = Duration::from_secs(10);
const EMAILS_HIT: u64 = 10_000;
const HITS: u64 = 200_000;
const CONNECTIONS: u32 = 64;

/// What the readers saw.
#[derive(Default)]
struct Seen {
    times: Vec<Duration>,
    unchanged: u64,
    bytes: u64,
}

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<(Vec<Table>, String)> {
    let mut subject = Subject::start(bench).await?;
    let hits = Arc::new(Hits::of(EMAILS_HIT));
    // Each email has its row before anything is timed.
    load(&mut subject, &hits).await?;
    let alone = load(&mut subject, &hits).await?;

    let id = subject.stack.dashboard.id().context("a dashboard that runs")?;
    forget_peak(id)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut readers = JoinSet::new();
    for number in 0..READERS {
        let reader = Reader::connect(subject.stack.dashboard.address).await?;
        readers.spawn(poll(reader, EVERY * number / READERS, Arc::clone(&stop)));
    }
    sleep(EVERY).await; // now each has the list
    let polled = load(&mut subject, &hits).await?;
    stop.store(true, Ordering::Relaxed);
    let mut seen = Seen::default();
    while let Some(ended) = readers.join_next().await {
        let one = ended??;
        seen.times.extend(one.times);
        seen.unchanged += one.unchanged;
        seen.bytes += one.bytes;
    }
    ensure!(!seen.times.is_empty(), "no reader has polled");
    let peak = memory(id)?.peak;
    subject.nothing_was_lost().await?;
    hits.agree_with_the_dashboard(&subject.stack).await?;

    let times = Times::of(seen.times);
    let row = vec![
        Cell::Count(times.count()),
        Cell::Count(seen.unchanged),
        Cell::Bytes(seen.bytes / times.count()),
        Cell::Time(times.median()),
        Cell::Time(times.permille(990)),
        Cell::Time(times.longest()),
        Cell::Bytes(peak),
        Cell::PerSecond(polled),
        Cell::PerSecond(alone),
    ];
    let table = Table {
        columns: vec![
            "polls",
            "304 among them",
            "bytes of a poll",
            "p50",
            "p99",
            "longest",
            "dashboard's peak memory",
            "hits recorded",
            "the same without readers",
        ],
        rows: vec![row],
    };
    let note = format!(
        "{READERS} readers, each with a connection of its own, poll the complete list of {EMAILS_HIT} emails every {} s with \
         the last ETag and `Accept-Encoding: gzip`, while {HITS} hits are sent over {CONNECTIONS} connections as fast as the \
         pixel takes them and recorded at once.",
        EVERY.as_secs()
    );
    Ok((vec![table], note))
}

/// As many hits as go, until all are recorded; how many a second that were.
async fn load(subject: &mut Subject, hits: &Arc<Hits>) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let address = subject.pixel().address;
    flood(hits, address, HITS, CONNECTIONS).await?;
    subject.drained(0).await?;
    Ok(rate(HITS, begun.elapsed()))
}

async fn poll(mut reader: Reader, first: Duration, stop: Arc<AtomicBool>) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    let mut etag = String::from("\"none\"");
    let mut due = Instant::now() + first;
    loop {
        while Instant::now() < due {
            if stop.load(Ordering::Relaxed) {
                return Ok(seen);
            }
            sleep(
                due.saturating_duration_since(Instant::now())
                    .min(Duration::from_millis(100)),
            )
            .await;
        }
        let read = reader
            .get(EMAILS, &[("if-none-match", &etag), ("accept-encoding", "gzip")])
            .await?;
        ensure!(
            matches!(read.status, 200 | 304),
            "a poll has status {}",
            read.status
        );
        seen.unchanged += u64::from(read.status == 304);
        seen.bytes += read.bytes;
        seen.times.push(read.took);
        etag = read.etag.context("a list without an ETag")?;
        due += EVERY;
    }
}
