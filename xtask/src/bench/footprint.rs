//! What the services take of the machine's memory: after their start, and under load.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::time::sleep;

use super::{
    Bench,
    flood::flood,
    headlines::Goal,
    hits::Hits,
    process::{Memory, forget_peak, memory},
    report::{Cell, Report, Table},
    subject::Subject,
};
use crate::{
    client,
    stack::{DASHBOARD_TOKEN, Service},
};

const IDLE: Duration = Duration::from_secs(5);
const EMAILS: u64 = 10_000;
const HITS: u64 = 200_000;
const CONNECTIONS: u32 = 64;
const POLL_EVERY: Duration = Duration::from_millis(500);

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Report> {
    let mut subject = Subject::start(bench).await?;
    sleep(IDLE).await;
    let idle = memories(&subject)?;
    for service in services(&subject) {
        forget_peak(service.id().context("a service that runs")?)?;
    }
    let hits = Arc::new(Hits::of(EMAILS));
    let address = subject.pixel().address;
    let begun = Instant::now();
    let load = flood(&hits, address, HITS, CONNECTIONS);
    let dashboard = subject.stack.dashboard.address;
    let polls = async {
        let mut polls: u64 = 0;
        loop {
            let token = [("x-tracker-token", DASHBOARD_TOKEN)];
            let answer = client::get(dashboard, "/dashboard/api/emails", &token).await?;
            ensure!(
                answer.status == 200,
                "the dashboard's list has status {}",
                answer.status
            );
            polls += 1;
            if begun.elapsed() > Duration::from_secs(2) && subject.unsent().await? == 0 {
                return Ok(polls);
            }
            sleep(POLL_EVERY).await;
        }
    };
    let (filled, polls) = tokio::join!(load, polls);
    let (filled, polls) = (filled?, polls?);
    subject.drained(0).await?;
    let loaded = memories(&subject)?;
    subject.nothing_was_lost().await?;
    hits.agree_with_the_dashboard(&subject.stack).await?;

    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for (name, (idle, loaded)) in ["pixel", "recorder", "dashboard"]
        .into_iter()
        .zip(idle.iter().zip(&loaded))
    {
        rows.push(row(name, idle, loaded));
    }
    let sum = |memories: &[Memory]| Memory {
        resident: memories.iter().map(|memory| memory.resident).sum(),
        peak: memories.iter().map(|memory| memory.peak).sum(),
    };
    rows.push(row("all three", &sum(&idle), &sum(&loaded)));
    bench.headlines.note(
        "memory of the three services, idle",
        Goal::AtMost(60.0),
        Cell::Bytes(sum(&idle).resident),
    );
    bench.headlines.note(
        format!("the pixel's memory at {CONNECTIONS} connections under load"),
        Goal::AtMost(32.0),
        Cell::Bytes(loaded[0].peak),
    );
    Ok(Report {
        title: "footprint: memory of the services",
        notes: vec![
            format!("Idle: {} s after all of them were ready.", IDLE.as_secs()),
            format!(
                "Under load: {HITS} hits of {EMAILS} emails as fast as the pixel takes them over {CONNECTIONS} connections \
                 ({filled:.1?}), recorded as they come, while the whole list of emails is read {polls} times without \
                 compression."
            ),
        ],
        tables: vec![Table {
            columns: vec!["service", "idle", "peak under load", "after it"],
            rows,
        }],
    })
}

fn row(name: &str, idle: &Memory, loaded: &Memory) -> Vec<Cell> {
    vec![
        name.into(),
        Cell::Bytes(idle.resident),
        Cell::Bytes(loaded.peak),
        Cell::Bytes(loaded.resident),
    ]
}

fn services(subject: &Subject) -> [&Service; 3] {
    let stack = &subject.stack;
    [&stack.pixels[0], &stack.recorders[0], &stack.dashboard]
}

fn memories(subject: &Subject) -> anyhow::Result<Vec<Memory>> {
    services(subject)
        .into_iter()
        .map(|service| memory(service.id().context("a service that runs")?))
        .collect()
}
