//! How long after the pixel's answer an open is in the dashboard's API: while nothing else happens, and at half of what
//! the whole chain can record as it comes.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::time::sleep;
use tracking::Token;

use super::{
    Bench,
    flood::flood,
    headlines::Goal,
    hits::Hits,
    reader::Reader,
    report::{Cell, Report, Table},
    stats::{Times, rate},
    steady::Steady,
    subject::Subject,
};
use crate::{client, load::target};

const PROBES: usize = 200;
/// No more of them after this time: under load each may take long.
const PROBING: Duration = Duration::from_secs(40);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_mins(1);
const EMAILS: u64 = 200_000;
/// To find out what can be recorded.
const FLOOD: u64 = 150_000;
const CONNECTIONS: u32 = 64;
const WARM_UP: Duration = Duration::from_secs(5);
/// How long each rate is tried.
const TRY: Duration = Duration::from_secs(15);

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Report> {
    let mut subject = Subject::start(bench).await?;
    let address = subject.pixel().address;
    let mut prober = Prober::start(&mut subject).await?;
    prober.probe(20).await?; // plans, caches, connections
    let idle = prober.probe(PROBES).await?;

    let hits = Arc::new(Hits::of(EMAILS));
    let begun = Instant::now();
    flood(&hits, address, FLOOD, CONNECTIONS).await?;
    subject.drained(0).await?;
    let drained = rate(FLOOD, begun.elapsed());
    let (most, tried) = sustained(&subject, &hits, address, drained).await?;
    let half = most / 2;
    let load = Steady::start(&hits, address, half)?;
    load.go_on_for(WARM_UP).await;
    let loaded = prober.probe(PROBES).await?;
    let left = subject.unsent().await?;
    let ran = load.now();
    load.stop()?;
    subject.drained(0).await?;
    subject.nothing_was_lost().await?;
    let stored: i64 = subject
        .stack
        .database
        .superuser()
        .await
        .query_one("select count(*) from hits", &[])
        .await?
        .get(0);
    let sent = hits.taken() + prober.sent;
    ensure!(
        u64::try_from(stored)? == sent,
        "{sent} hits were answered, {stored} are stored"
    );

    let mut rows = Vec::new();
    for (name, rate, times, goal) in [
        ("idle", 0.0, &idle, 250.0),
        ("half of the most", f64::from(half), &loaded, 1_000.0),
    ] {
        bench.headlines.note(
            format!("from the pixel's answer to the API, p99, {name}"),
            Goal::AtMost(goal),
            Cell::Time(times.permille(990)),
        );
        rows.push(vec![
            name.into(),
            Cell::PerSecond(rate),
            Cell::Count(times.count()),
            Cell::Time(times.median()),
            Cell::Time(times.permille(990)),
            Cell::Time(times.longest()),
        ]);
    }
    Ok(Report {
        title: "visible: from the pixel's answer to the dashboard's API",
        notes: vec![
            format!(
                "A hit of a new email is sent, and its open looked for every {} ms from the pixel's answer on, by the request of \
                 the extension's popup; one after the other.",
                LOOK_EVERY.as_millis()
            ),
            format!(
                "The most: {most} hits a second, the highest of the rates tried ({tried}) that nothing of more than a second's \
                 hits was left of in the spool after {} s; {FLOOD} hits as fast as the pixel takes them over {CONNECTIONS} \
                 connections were recorded at {drained:.0} a second, most of them while no more came. Half of the most was \
                 sent for {:.0} s at fixed times; {left} hits were in the spool at its end.",
                TRY.as_secs(),
                ran.as_secs_f64()
            ),
            format!("All {sent} hits are stored."),
        ],
        tables: vec![Table {
            columns: vec!["load", "hits", "probes", "p50", "p99", "longest"],
            rows,
        }],
    })
}

/// The most that can be recorded while it comes, of ever lower rates from `from` on; and which were tried.
async fn sustained(
    subject: &Subject,
    hits: &Arc<Hits>,
    address: SocketAddr,
    from: f64,
) -> anyhow::Result<(u32, String)> {
    let mut tried = Vec::new();
    let mut next = from;
    loop {
        let per_second: u32 = format!("{next:.0}").parse()?;
        tried.push(per_second.to_string());
        let before = hits.taken();
        let load = Steady::start(hits, address, per_second)?;
        load.go_on_for(TRY).await;
        let sent = rate(hits.taken() - before, load.now());
        let left = subject.unsent().await?;
        load.stop()?;
        subject.drained(0).await?;
        if left <= u64::from(per_second) && sent > 0.95 * next {
            return Ok((per_second, tried.join(", ")));
        }
        next *= 0.85;
        ensure!(
            next > 100.0,
            "not even a hundred hits a second are recorded as they come"
        );
    }
}

/// Sends hits of new emails, one after the other, and looks until they are in the API.
pub(super) struct Prober {
    pixel: client::Connection,
    pixel_address: SocketAddr,
    reader: Reader,
    dashboard_address: SocketAddr,
    sent: u64,
}

impl Prober {
    pub(super) async fn start(subject: &mut Subject) -> anyhow::Result<Self> {
        let pixel_address = subject.pixel().address;
        let dashboard_address = subject.stack.dashboard.address;
        Ok(Self {
            pixel: client::Connection::open(pixel_address).await?,
            pixel_address,
            reader: Reader::connect(dashboard_address).await?,
            dashboard_address,
            sent: 0,
        })
    }

    async fn probe(&mut self, count: usize) -> anyhow::Result<Times> {
        // What nothing was asked on for long has been ended.
        self.pixel = client::Connection::open(self.pixel_address).await?;
        self.reader = Reader::connect(self.dashboard_address).await?;
        let begun = Instant::now();
        let mut times = Vec::new();
        while times.is_empty() || (times.len() < count && begun.elapsed() < PROBING) {
            times.push(self.one().await?);
            // So that the next one does not keep step with anything.
            sleep(Duration::from_millis(20 + self.sent * 37 % 80)).await;
        }
        Ok(Times::of(times))
    }

    /// One hit; how long after the answer its open was there.
    pub(super) async fn one(&mut self) -> anyhow::Result<Duration> {
        self.sent += 1;
        let token = Token {
            user_id: "prober".to_owned(),
            email_id: format!("probe-{}", self.sent),
            recipient: "reader@example.com".to_owned(),
            sent_at: "2026-01-02T03:04:05.678Z".to_owned(),
            sender_email: None,
        };
        let headers = [(
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Firefox/141.0",
        )];
        let hit = client::request("GET", &target(&token), self.pixel_address, &headers, b"");
        let answer = self.pixel.exchange(&hit).await.context("a probe's hit")?;
        let answered = Instant::now();
        ensure!(answer.status == 200, "a probe's hit has status {}", answer.status);
        if answer.closes {
            self.pixel = client::Connection::open(self.pixel_address).await?;
        }
        let question = format!("/dashboard/api/open-events?email_id={}", token.email_id);
        loop {
            let opens: Value = serde_json::from_slice(&self.reader.body(&question).await?)?;
            if opens["items"].as_array().is_some_and(|items| !items.is_empty()) {
                return Ok(answered.elapsed());
            }
            ensure!(
                answered.elapsed() < PATIENCE,
                "an open is not in the API after {PATIENCE:?}"
            );
            sleep(LOOK_EVERY).await;
        }
    }
}
