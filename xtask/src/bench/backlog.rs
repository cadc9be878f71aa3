//! A pixel with a million hits in its spool: its memory, how fast it starts, and how it answers while they drain.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::fs::{Advice, fadvise};
use test_support::Signal;
use tokio::time::sleep;

use super::{
    Bench,
    flood::{flood, hit},
    headlines::{Goal, Headlines},
    hits::Hits,
    phases::{self, Phase},
    process::{Memory, forget_peak, memory},
    report::{Cell, Report, Table},
    stats::Times,
    steady::Steady,
    subject::Subject,
};

const BACKLOG: u64 = 1_000_000;
const EMAILS: u64 = 300_000;
/// Connections that fill the spool.
const CONNECTIONS: u32 = 256;
/// Hits per second, beside the backlog.
const RATE: u32 = 1_500;
const WARM_UP: Duration = Duration::from_secs(10);
const PHASE: Duration = Duration::from_secs(20);
const STARTS: usize = 5;
/// With less than this in the spool the backlog is gone: what arrives in a tenth of a second is on its way at any time.
const UNDER_WAY: u64 = 150;

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Report> {
    let mut subject = Subject::start(bench).await?;
    let hits = Arc::new(Hits::of(EMAILS));
    let address = subject.pixel().address;
    let mut memories = Memories::default();
    memories.note("started with an empty spool", &mut subject)?;

    let load = Steady::start(&hits, address, RATE)?;
    load.go_on_for(WARM_UP).await;
    let warm = load.now();
    load.go_on_for(PHASE).await;
    let end = load.now();
    let mut phases = vec![Phase::of(&load.stop()?, "no backlog", warm, end)];
    subject.drained(0).await?;
    memories.note("after that, without a backlog", &mut subject)?;

    // The backlog comes as it would: by hits, while the recorder is away.
    subject.kill_recorder().await;
    let filling = flood(&hits, address, BACKLOG, CONNECTIONS).await?;
    memories.note("filled with the backlog over 256 connections", &mut subject)?;
    let starts = starts(&mut subject, &hits).await?;
    memories.note("started again with the backlog", &mut subject)?;
    let backlog = subject.unsent().await?;
    let metric = subject
        .pixel()
        .metric("email_tracker_pixel_spool_size_bytes")
        .await;
    let disk: u64 = format!("{:.0}", metric.context("the spool's size")?).parse()?;

    let load = Steady::start(&hits, address, RATE)?;
    load.go_on_for(WARM_UP).await;
    let warm = load.now();
    load.go_on_for(PHASE).await;
    let draining = load.now();
    let before_drain = subject.unsent().await?;
    subject.start_recorder();
    subject.drained(UNDER_WAY).await?;
    let drained = load.now();
    load.go_on_for(PHASE).await;
    let end = load.now();
    let drain = drained.saturating_sub(draining);
    let taken_meanwhile = u64::from(RATE) * drain.as_secs();
    let samples = load.stop()?;
    memories.note("after the backlog has drained", &mut subject)?;
    note_goals(&bench.headlines, &memories, &starts);
    for (name, from, to) in [
        ("the backlog waits, the recorder is away", warm, draining),
        ("the backlog drains", draining, drained),
        ("the backlog is gone", drained, end),
    ] {
        phases.push(Phase::of(&samples, name, from, to));
    }

    subject.drained(0).await?;
    subject.nothing_was_lost().await?;
    hits.agree_with_the_dashboard(&subject.stack).await?;

    let per_second = |count: u64, time: Duration| {
        Cell::PerSecond(f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / time.as_secs_f64())
    };
    let rates = Table {
        columns: vec![
            "backlog",
            "on disk",
            "filled in",
            "filled at",
            "drained in",
            "drained at",
        ],
        rows: vec![vec![
            Cell::Count(backlog),
            Cell::Bytes(disk),
            Cell::Time(filling),
            per_second(BACKLOG, filling),
            Cell::Time(drain),
            per_second(before_drain + taken_meanwhile, drain),
        ]],
    };
    Ok(Report {
        title: "backlog: a million hits in the spool",
        notes: vec![
            format!(
                "The backlog is made by {BACKLOG} hits of {EMAILS} emails over {CONNECTIONS} connections while the recorder is \
                 away; PostgreSQL {} (fsync on).",
                subject.postgres_version().await?
            ),
            format!(
                "Latencies: {RATE} hits a second over 64 connections, each at its own time; latency counts from then."
            ),
            "A start is from the making of the process, after kill -9, to the first GIF, whose hit is synced.".to_owned(),
            format!(
                "All {} hits were answered by a GIF with status 200, and the dashboard counts each of them for its email.",
                hits.taken()
            ),
        ],
        tables: vec![
            memories.table(),
            table_of_starts(&starts),
            rates,
            phases::table(&phases)?,
        ],
    })
}

fn note_goals(headlines: &Headlines, memories: &Memories, starts: &[(&'static str, Times)]) {
    headlines.note(
        "the pixel's memory with a backlog",
        Goal::AtMost(64.0),
        Cell::Bytes(memories.highest()),
    );
    for (spool, times) in starts {
        headlines.note(
            format!("a start with a backlog until the first GIF, {spool}"),
            Goal::AtMost(1_000.0),
            Cell::Time(times.longest()),
        );
    }
}

/// Kills and starts the pixel several times: with its spool in the page cache, and with nothing of it there.
async fn starts(subject: &mut Subject, hits: &Hits) -> anyhow::Result<Vec<(&'static str, Times)>> {
    let mut starts = Vec::new();
    for (spool, from_disk) in [
        ("the spool is in the page cache", false),
        ("the spool is read from the disk", true),
    ] {
        let mut times = Vec::new();
        for _ in 0..STARTS {
            times.push(start(subject, hits, from_disk).await?);
        }
        starts.push((spool, Times::of(times)));
    }
    Ok(starts)
}

fn table_of_starts(starts: &[(&'static str, Times)]) -> Table {
    let row = |(spool, times): &(&'static str, Times)| {
        vec![
            (*spool).into(),
            Cell::Time(times.permille(0)),
            Cell::Time(times.median()),
            Cell::Time(times.longest()),
        ]
    };
    Table {
        columns: vec!["start until the first GIF", "shortest", "median", "longest"],
        rows: starts.iter().map(row).collect(),
    }
}

async fn start(subject: &mut Subject, hits: &Hits, from_disk: bool) -> anyhow::Result<Duration> {
    subject.pixel().end(Signal::KILL).await;
    if from_disk {
        forget_pages(&subject.folder.path().join("spool-0"))?;
    }
    let address = subject.pixel().address;
    let request = hits.take(address);
    let begun = Instant::now();
    subject.pixel().start();
    while hit(address, &request).await.is_err() {
        anyhow::ensure!(
            begun.elapsed() < Duration::from_mins(1),
            "the pixel does not start"
        );
        sleep(Duration::from_millis(1)).await;
    }
    Ok(begun.elapsed())
}

/// Has the kernel read the files in `folder` from the disk again.
fn forget_pages(folder: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            let file = fs::File::open(path)?;
            file.sync_all()?; // only what is on the disk can be forgotten
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// The pixel's memory at some moments.
#[derive(Default)]
struct Memories(Vec<(&'static str, Memory)>);

impl Memories {
    /// Notes the memory of now and its peak since the last note.
    fn note(&mut self, moment: &'static str, subject: &mut Subject) -> anyhow::Result<()> {
        let id = subject.pixel().id().context("a pixel that runs")?;
        self.0.push((moment, memory(id)?));
        forget_peak(id)
    }

    fn highest(&self) -> u64 {
        self.0
            .iter()
            .map(|(_, memory)| memory.peak)
            .max()
            .unwrap_or_default()
    }

    fn table(self) -> Table {
        let row = |(moment, memory): (&'static str, Memory)| {
            vec![
                moment.into(),
                Cell::Bytes(memory.resident),
                Cell::Bytes(memory.peak),
            ]
        };
        Table {
            columns: vec!["the pixel's memory", "resident", "peak since the row above"],
            rows: self.0.into_iter().map(row).collect(),
        }
    }
}
