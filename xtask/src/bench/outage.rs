//! What mail clients notice of an outage: the pixel's latency while recorder and PostgreSQL are away, and while what has
//! gathered in the meantime is delivered.

use std::{sync::Arc, time::Duration};

use super::{
    Bench,
    headlines::Goal,
    hits::Hits,
    phases::{self, Phase},
    report::{Cell, Report, Table},
    steady::Steady,
    subject::Subject,
};

/// Hits per second.
const RATE: u32 = 1_500;
const EMAILS: u64 = 20_000;
const WARM_UP: Duration = Duration::from_secs(10);
const BEFORE: Duration = Duration::from_secs(30);
const OUTAGE: Duration = Duration::from_mins(1);
const AFTER: Duration = Duration::from_secs(20);
/// With less than this in the spool the backlog is gone: what arrives in a tenth of a second is on its way at any time.
const UNDER_WAY: u64 = 150;

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Report> {
    let mut subject = Subject::start(bench).await?;
    let hits = Arc::new(Hits::of(EMAILS));
    let load = Steady::start(&hits, subject.pixel().address, RATE)?;
    load.go_on_for(WARM_UP).await;

    let before = load.now();
    load.go_on_for(BEFORE).await;
    let outage = load.now();
    subject.kill_recorder().await;
    subject.stack.postgres.stop().await;
    load.go_on_for((outage + OUTAGE).saturating_sub(load.now())).await;
    let recovery = load.now();
    let backlog = subject.unsent().await?;
    subject.stack.postgres.start_again().await;
    subject.start_recorder();
    subject.drained(UNDER_WAY).await?;
    let drained = load.now();
    load.go_on_for(AFTER).await;
    let end = load.now();
    let samples = load.stop()?;

    subject.drained(0).await?;
    subject.nothing_was_lost().await?;
    hits.agree_with_the_dashboard(&subject.stack).await?;

    let phase = |name, from, to| Phase::of(&samples, name, from, to);
    let phases = [
        phase("before", before, outage),
        phase("outage of recorder and PostgreSQL", outage, recovery),
        phase("both are back, the backlog drains", recovery, drained),
        phase("after", drained, end),
    ];
    bench.headlines.note(
        "the pixel's p99 during an outage / before it",
        Goal::AtMost(3.0),
        Cell::Times(phases[1].p99().div_duration_f64(phases[0].p99())),
    );
    let drain = Table {
        columns: vec!["backlog", "gone after", "hits recorded"],
        rows: vec![vec![
            Cell::Count(backlog),
            Cell::Time(drained.saturating_sub(recovery)),
            Cell::Count(hits.taken()),
        ]],
    };
    Ok(Report {
        title: "outage: recorder and PostgreSQL are away for a minute",
        notes: vec![
            format!(
                "{RATE} hits a second over 64 connections, each at its own time; latency counts from then."
            ),
            format!(
                "The recorder is killed, PostgreSQL {} (fsync on) is stopped; then both are started, which is part of the \
                 time after which the backlog is gone.",
                subject.postgres_version().await?
            ),
            format!(
                "All {} hits were answered by a GIF with status 200, and the dashboard counts each of them for its email.",
                hits.taken()
            ),
        ],
        tables: vec![phases::table(&phases)?, drain],
    })
}
