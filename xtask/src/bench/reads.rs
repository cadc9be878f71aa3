//! The dashboard's lists: against `psql` streaming the same JSON from the same rows, unchanged, compressed and by pages;
//! and asked by a hundred clients while the recorder has all it can do.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::{
    Bench,
    headlines::Goal,
    polls,
    process::{cpu_time, forget_peak, memory},
    psql,
    reader::Reader,
    report::{Cell, Report, Table},
    stats::{Rounds, Times},
    subject::Subject,
};
use crate::fill::{Filling, fill};

pub(super) const EMAILS: &str = "/dashboard/api/emails";
const SIZES: [u32; 3] = [1_000, 10_000, 100_000];
/// So that hardly any email is without a hit.
const HITS_OF_AN_EMAIL: u32 = 5;
const ROUNDS: usize = 7;
const UNCHANGED: usize = 300;
const PAGES: usize = 100;
/// The list whose 304 has a goal.
const GOAL_SIZE: u32 = 10_000;

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Report> {
    let mut lists = Vec::new();
    let mut pages = Vec::new();
    for emails in SIZES {
        let mut subject = Subject::start(bench).await?;
        subject.alone().await;
        let filling = Filling {
            hits: emails * HITS_OF_AN_EMAIL,
            emails,
            days: 300,
        };
        fill(&subject.stack.database.url_of("postgres"), filling).await?;
        lists.push(list(bench, &subject, emails).await?);
        if Some(&emails) == SIZES.last() {
            pages = open_events(&subject).await?;
        }
    }
    let mut tables = vec![
        Table {
            columns: vec![
                "emails",
                "bytes",
                "psql",
                "dashboard",
                "psql's time / its",
                "lowest",
                "highest",
                "until its first byte",
                "gzip",
                "gzip's bytes",
                "304",
                "304 / full list",
                "dashboard's peak memory",
                "its CPU for a full list",
            ],
            rows: lists,
        },
        Table {
            columns: vec!["open events", "opens in the page", "p50", "p99"],
            rows: pages,
        },
    ];
    let (polled, note) = polls::measure(bench).await?;
    tables.extend(polled);
    Ok(Report {
        title: "reads: the dashboard's lists",
        notes: vec![
            format!(
                "The complete list of emails, read whole over one kept connection, and psql streaming the same JSON (compared \
                 item by item) by COPY and row_to_json, in {ROUNDS} interleaved rounds; medians. psql's time is what it says \
                 itself, without its start. {HITS_OF_AN_EMAIL} hits an email are stored."
            ),
            format!(
                "304: {UNCHANGED} polls of an unchanged list, one after the other. Pages: {PAGES} times each."
            ),
            note,
        ],
        tables,
    })
}

async fn list(bench: &Bench, subject: &Subject, emails: u32) -> anyhow::Result<Vec<Cell>> {
    let file = subject.folder.path().join("psql.json");
    let dashboard = &subject.stack.dashboard;
    let id = dashboard.id().context("a dashboard that runs")?;
    let mut reader = Reader::connect(dashboard.address).await?;
    psql::stream_emails(&subject.stack, &file).await?;
    let count = same_json(&reader.body(EMAILS).await?, &file)?;
    forget_peak(id)?;

    let mut rounds = Vec::new();
    let (mut cpu, mut heads) = (Duration::ZERO, Vec::new());
    let mut bytes = 0;
    for _ in 0..ROUNDS {
        let by_psql = psql::stream_emails(&subject.stack, &file).await?;
        let before = cpu_time(id)?;
        let read = reader.get(EMAILS, &[]).await?;
        cpu += cpu_time(id)?.saturating_sub(before);
        ensure!(read.status == 200, "the list has status {}", read.status);
        bytes = read.bytes;
        heads.push(read.head_after);
        rounds.push((by_psql, read.took));
    }
    let peak = memory(id)?.peak;
    let ratios = Rounds::of(rounds.iter().map(|(psql, own)| psql.div_duration_f64(*own)));
    let full = Times::of(rounds.iter().map(|(_, own)| *own)).median();
    let zipped = zipped(&mut reader).await?;
    let unchanged = unchanged(&mut reader, EMAILS).await?.median();
    let share = unchanged.div_duration_f64(full);
    bench.headlines.note(
        format!("speed of the list of {emails} emails / psql"),
        Goal::AtLeast(0.5),
        Cell::Times(ratios.median()),
    );
    if emails == GOAL_SIZE {
        bench.headlines.note(
            format!("a 304 / the full list of {emails} emails"),
            Goal::AtMost(2.0),
            Cell::Share(share),
        );
    }
    Ok(vec![
        Cell::Count(count),
        Cell::Bytes(bytes),
        Cell::Time(Times::of(rounds.iter().map(|(psql, _)| *psql)).median()),
        Cell::Time(full),
        Cell::Times(ratios.median()),
        Cell::Times(ratios.lowest()),
        Cell::Times(ratios.highest()),
        Cell::Time(Times::of(heads).median()),
        Cell::Time(zipped.0),
        Cell::Bytes(zipped.1),
        Cell::Time(unchanged),
        Cell::Share(share),
        Cell::Bytes(peak),
        Cell::Time(cpu / u32::try_from(ROUNDS)?),
    ])
}

/// Fails unless the dashboard's list and psql's rows say the same; how many emails there are.
fn same_json(list: &[u8], file: &Path) -> anyhow::Result<u64> {
    let list: Value = serde_json::from_slice(list)?;
    let items = list["items"].as_array().context("a list without items")?;
    let rows = psql::rows_in(file)?;
    ensure!(
        items.len() == rows.len(),
        "{} emails are listed, psql knows {}",
        items.len(),
        rows.len()
    );
    for (item, row) in items.iter().zip(&rows) {
        ensure!(item == row, "the dashboard says {item}, psql {row}");
    }
    fs::remove_file(file)?;
    Ok(u64::try_from(items.len())?)
}

/// How long the compressed list takes, and how many bytes it has.
async fn zipped(reader: &mut Reader) -> anyhow::Result<(Duration, u64)> {
    let mut times = Vec::new();
    let mut bytes = 0;
    for _ in 0..3 {
        let read = reader.get(EMAILS, &[("accept-encoding", "gzip")]).await?;
        bytes = read.bytes;
        times.push(read.took);
    }
    Ok((Times::of(times).median(), bytes))
}

/// Polls what has not changed.
pub(super) async fn unchanged(reader: &mut Reader, target: &str) -> anyhow::Result<Times> {
    let etag = reader
        .get(target, &[])
        .await?
        .etag
        .context("a list without an ETag")?;
    let mut times = Vec::new();
    for _ in 0..UNCHANGED {
        let read = reader.get(target, &[("if-none-match", &etag)]).await?;
        ensure!(read.status == 304, "an unchanged list has status {}", read.status);
        times.push(read.took);
    }
    Ok(Times::of(times))
}

/// Pages of opens: of all emails, of one with a few and of the one with the most; and the pages after them.
async fn open_events(subject: &Subject) -> anyhow::Result<Vec<Vec<Cell>>> {
    let mut reader = Reader::connect(subject.stack.dashboard.address).await?;
    let client = subject.stack.database.superuser().await;
    let email = async |order: &str| -> anyhow::Result<String> {
        let sql =
            format!("select email_id from tracked_emails where open_count > 2 order by {order} limit 1");
        Ok(client.query_one(&sql, &[]).await?.get(0))
    };
    let hottest = email("open_count desc").await?;
    let typical = email("open_count, email_id").await?;
    let mut rows = Vec::new();
    for (name, question) in [
        ("one email with few, all of them", format!("email_id={typical}")),
        ("the email with most, all of them", format!("email_id={hottest}")),
        ("the same, limit=100", format!("email_id={hottest}&limit=100")),
        ("all emails, limit=100", "limit=100".to_owned()),
        ("all emails, limit=1000", "limit=1000".to_owned()),
    ] {
        let target = format!("/dashboard/api/open-events?{question}");
        rows.push(page(&mut reader, name, &target).await?);
        if question.contains("limit=100") {
            let next = cursor_after(&mut reader, &target, 10).await?;
            rows.push(page(&mut reader, "· the eleventh page, by cursor", &next).await?);
        }
    }
    Ok(rows)
}

/// The target of the page that follows after so many.
pub(super) async fn cursor_after(reader: &mut Reader, target: &str, pages: usize) -> anyhow::Result<String> {
    let mut next = target.to_owned();
    for _ in 0..pages {
        let page: Value = serde_json::from_slice(&reader.body(&next).await?)?;
        let cursor = page["next_cursor"]
            .as_str()
            .context("a page without a next one")?;
        next = format!("{target}&cursor={cursor}");
    }
    Ok(next)
}

async fn page(reader: &mut Reader, name: &str, target: &str) -> anyhow::Result<Vec<Cell>> {
    let page: Value = serde_json::from_slice(&reader.body(target).await?)?;
    let items = page["items"].as_array().context("a page without items")?.len();
    let times = pages(reader, target, PAGES).await?;
    Ok(vec![
        name.into(),
        Cell::Count(u64::try_from(items)?),
        Cell::Time(times.median()),
        Cell::Time(times.permille(990)),
    ])
}

/// Reads a page so many times.
pub(super) async fn pages(reader: &mut Reader, target: &str, count: usize) -> anyhow::Result<Times> {
    let mut times = Vec::new();
    for _ in 0..count {
        let read = reader.get(target, &[]).await?;
        ensure!(read.status == 200, "{target} has status {}", read.status);
        times.push(read.took);
    }
    Ok(Times::of(times))
}
