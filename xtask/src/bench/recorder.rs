//! The recorder against binary COPY of the same rows into the same table, in interleaved rounds; and against a
//! transaction for each hit.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use futures::SinkExt;
use recorder_api::{
    MAX_BATCH_FACTS,
    v1::{self, RecordRequest, recorder_client::RecorderClient},
};
use tempfile::TempDir;
use test_support::PrivatePostgres;
use tokio::task::JoinSet;
use tokio_postgres::{
    Client,
    types::{IsNull, ToSql, Type},
};
use tonic::{Request, metadata::MetadataValue, transport::Channel};
use tracking::{Fact, Hit};

use super::{
    Bench,
    headlines::{Goal, Headlines},
    opens::Opens,
    report::{Cell, Report, Table},
    stats::{Rounds, Times},
};
use crate::stack::{Plan, RECORDER_TOKEN, Stack};

/// PostgreSQL's own defaults, which the tests' servers depart from, and room for the working set.
const POSTGRES: [&str; 7] = [
    "fsync=on",
    "full_page_writes=on",
    "shared_buffers=1GB",
    "max_wal_size=4GB",
    "checkpoint_timeout=1h",
    "autovacuum_naptime=1min",
    "max_connections=100",
];
const EMAILS: u64 = 200_000;
const LOADS: [Load; 9] = [
    Load::full(1, 100),
    Load::full(1, 1_000),
    Load::full(1, 2_000),
    Load::full(2, 100),
    Load::full(2, 500),
    Load::one_call(2, 1_000),
    Load::full(2, 1_000),
    Load::full(4, 100),
    Load::full(4, 500),
];
const ROUNDS: usize = 3;
/// Of the loads that a goal is of.
const ROUNDS_OF_GOALS: usize = 7;
const HITS: usize = 60_000;
/// Of the contestant that commits each hit by itself.
const SINGLE_HITS: usize = 4_000;
/// Of each recorder.
const WORKERS: [usize; 3] = [1, 2, 4];

/// How hits reach the tables.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// Connections; workers of the recorder, which splits each call into as many transactions.
    writers: usize,
    /// Hits in a transaction.
    batch: usize,
    /// Calls under way.
    calls: usize,
}

impl Load {
    /// The recorder is never without a call; each waits for the one before it.
    const fn full(writers: usize, batch: usize) -> Self {
        Self {
            writers,
            batch,
            calls: 2,
        }
    }

    /// Nothing waits, so a call takes as long as its transactions do.
    const fn one_call(writers: usize, batch: usize) -> Self {
        Self {
            writers,
            batch,
            calls: 1,
        }
    }

    /// The goals are of two writers with a thousand hits in a transaction.
    const fn has_goals(self) -> bool {
        self.writers == 2 && self.batch == 1_000
    }
}

/// What has been written, one way or another, in how long.
#[derive(Clone, Debug)]
struct Run {
    per_second: f64,
    /// Of each transaction or call.
    took: Vec<Duration>,
}

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Report> {
    let subject = Subject::start(bench).await?;
    let mut opens = Opens::of(EMAILS);
    subject.fill(&mut opens).await?;
    let mut rows = Vec::new();
    for load in LOADS {
        let mut rounds = Vec::new();
        let count = if load.has_goals() { ROUNDS_OF_GOALS } else { ROUNDS };
        for _ in 0..count {
            let copied = subject.copy(opens.take(HITS), load.writers, load.batch).await?;
            let recorded = subject.record(opens.take(HITS), load).await?;
            rounds.push((copied, recorded));
        }
        let (ratios, calls) = (ratios(&rounds), calls(&rounds));
        note_goals(&bench.headlines, load, &ratios, &calls);
        rows.push(row(load, &rounds, &ratios, &calls));
    }
    let mut singles = Vec::new();
    for writers in [1, 2] {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let single = subject.record_singly(opens.take(SINGLE_HITS), writers).await?;
            let load = Load::full(writers, 1_000);
            let batched = subject.record(opens.take(HITS), load).await?;
            rounds.push((single, batched));
        }
        let times = Rounds::of(
            rounds
                .iter()
                .map(|(single, batched)| batched.per_second / single.per_second),
        );
        bench.headlines.note(
            format!("recorder: 1,000 hits in a transaction / one, writers: {writers}"),
            Goal::AtLeast(25.0),
            Cell::Times(times.median()),
        );
        singles.push(single_row(writers, &rounds, &times));
    }
    subject.agrees(&opens).await?;
    Ok(Report {
        title: "recorder: against binary COPY",
        notes: vec![
            format!(
                "{EMAILS} emails, each with a hit already; a quarter of the hits repeat one of the last 20 seconds. {ROUNDS} \
                 rounds, {ROUNDS_OF_GOALS} of two writers with 1,000 hits in a transaction, of {HITS} hits ({SINGLE_HITS} where \
                 each is a transaction), interleaved. Ratios are medians of the rounds' ratios, with the lowest and the highest; \
                 other figures are medians. Latencies are of a whole call, which a recorder splits into a transaction for each of \
                 its writers."
            ),
            "COPY: the same rows by as many connections, committed by as many rows, with no look at what is stored, no email \
             locked and none counted."
                .to_owned(),
        ],
        tables: vec![
            Table {
                columns: vec![
                    "writers",
                    "hits in a transaction",
                    "calls under way",
                    "COPY",
                    "recorder",
                    "recorder / COPY",
                    "lowest",
                    "highest",
                    "call's p50",
                    "call's p99",
                ],
                rows,
            },
            Table {
                columns: vec!["writers", "a transaction for each hit", "1,000 hits in each", "times"],
                rows: singles,
            },
        ],
    })
}

struct Subject {
    stack: Stack,
    _folder: TempDir,
}

impl Subject {
    async fn start(bench: &Bench) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(&bench.folder)?;
        let recorders = WORKERS.map(|workers| vec![("RECORDER_WORKERS".to_owned(), workers.to_string())]);
        let plan = Plan {
            pixels: Vec::new(),
            recorders: recorders.into(),
            dedup_window_ms: 30_000,
            failing_lines: false,
        };
        let postgres = PrivatePostgres::start_with(&POSTGRES).await;
        let stack = Stack::start_on(postgres, &bench.programs, &plan, folder.path()).await?;
        Ok(Self {
            stack,
            _folder: folder,
        })
    }

    /// Gives each email its first hit.
    async fn fill(&self, opens: &mut Opens) -> anyhow::Result<()> {
        let hits = opens.first_of_each();
        self.record(hits, Load::full(2, 1_000)).await?;
        self.sql("vacuum analyze").await
    }

    async fn sql(&self, sql: &str) -> anyhow::Result<()> {
        Ok(self.stack.database.superuser().await.batch_execute(sql).await?)
    }

    async fn copy(&self, hits: Vec<Hit>, writers: usize, batch: usize) -> anyhow::Result<Run> {
        self.sql("checkpoint").await?;
        let total = hits.len();
        let mut running = JoinSet::new();
        let mut clients = Vec::new();
        for _ in 0..writers {
            clients.push(self.stack.database.superuser().await);
        }
        let begun = Instant::now();
        for (client, share) in clients.into_iter().zip(shares(hits, writers)) {
            running.spawn(async move {
                let mut took = Vec::new();
                for rows in share.chunks(batch) {
                    let begun = Instant::now();
                    copy_rows(&client, rows).await?;
                    took.push(begun.elapsed());
                }
                anyhow::Ok(took)
            });
        }
        finish(running, total, begun).await
    }

    async fn record(&self, hits: Vec<Hit>, load: Load) -> anyhow::Result<Run> {
        let facts = load.writers * load.batch;
        ensure!(facts <= MAX_BATCH_FACTS, "{facts} facts are too many for a call");
        self.call(hits, load, facts).await
    }

    async fn record_singly(&self, hits: Vec<Hit>, writers: usize) -> anyhow::Result<Run> {
        let load = Load {
            writers,
            batch: 1,
            calls: 4 * writers,
        };
        self.call(hits, load, 1).await
    }

    async fn call(&self, hits: Vec<Hit>, load: Load, facts: usize) -> anyhow::Result<Run> {
        self.sql("checkpoint").await?;
        let recorder = WORKERS.iter().position(|workers| *workers == load.writers);
        let service = &self.stack.recorders[recorder.context("a recorder of so many workers")?];
        let channel = Channel::from_shared(format!("http://{}", service.address))?
            .connect()
            .await?;
        let total = hits.len();
        let facts_of = |hits: &[Hit]| -> Vec<v1::Fact> {
            let facts = hits.iter().cloned().map(Fact::Hit);
            facts.map(v1::Fact::from).collect()
        };
        let calls: Vec<Vec<v1::Fact>> = hits.chunks(facts).map(facts_of).collect();
        let calls = Arc::new(std::sync::Mutex::new(calls.into_iter()));
        let mut running = JoinSet::new();
        let begun = Instant::now();
        for _ in 0..load.calls {
            let (calls, channel) = (Arc::clone(&calls), channel.clone());
            running.spawn(async move {
                let mut client = RecorderClient::new(channel);
                let mut took = Vec::new();
                loop {
                    let next = calls.lock().ok().and_then(|mut calls| calls.next());
                    let Some(facts) = next else { return Ok(took) };
                    let begun = Instant::now();
                    record_facts(&mut client, facts).await?;
                    took.push(begun.elapsed());
                }
            });
        }
        finish(running, total, begun).await
    }

    /// Fails unless all that was given is stored, and counted if the recorder stored it.
    async fn agrees(&self, opens: &Opens) -> anyhow::Result<()> {
        let client = self.stack.database.superuser().await;
        let stored: i64 = client.query_one("select count(*) from hits", &[]).await?.get(0);
        let counts = client
            .query_one(
                "select count(*), sum(hit_count)::bigint, sum(open_count)::bigint from tracked_emails",
                &[],
            )
            .await?;
        let (emails, hits, counted): (i64, i64, i64) = (counts.get(0), counts.get(1), counts.get(2));
        ensure!(
            u64::try_from(stored)? == opens.taken() && u64::try_from(emails)? == EMAILS,
            "{} hits of {EMAILS} emails were given, {stored} of {emails} are stored",
            opens.taken()
        );
        ensure!(
            counted > 0 && counted < hits && hits < stored,
            "{counted} opens of {hits} hits"
        );
        Ok(())
    }
}

/// As many equal parts.
fn shares(hits: Vec<Hit>, count: usize) -> Vec<Vec<Hit>> {
    let mut shares: Vec<Vec<Hit>> = vec![Vec::new(); count];
    for (place, hit) in hits.into_iter().enumerate() {
        shares[place % count].push(hit);
    }
    shares
}

async fn finish(
    mut running: JoinSet<anyhow::Result<Vec<Duration>>>,
    hits: usize,
    begun: Instant,
) -> anyhow::Result<Run> {
    let mut took = Vec::new();
    while let Some(done) = running.join_next().await {
        took.extend(done??);
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Run {
        per_second: f64::from(u32::try_from(hits)?) / seconds,
        took,
    })
}

async fn record_facts(client: &mut RecorderClient<Channel>, facts: Vec<v1::Fact>) -> anyhow::Result<()> {
    let mut request = Request::new(RecordRequest { facts });
    let token: MetadataValue<_> = format!("Bearer {RECORDER_TOKEN}").parse()?;
    request.metadata_mut().insert("authorization", token);
    let outcomes = client.record(request).await?.into_inner().outcomes;
    let recorded = i32::from(v1::Outcome::Recorded);
    ensure!(
        outcomes.iter().all(|outcome| *outcome == recorded),
        "a new hit was not recorded"
    );
    Ok(())
}

const COPY: &str = "copy hits (
  email_id, opened_at, event_id, client_address, user_agent, dedup_key, google_proxy, is_duplicate, compose_window, device_type
) from stdin binary";

/// What the recorder stores of hits without referer and place.
async fn copy_rows(client: &Client, hits: &[Hit]) -> anyhow::Result<()> {
    let types = [
        Type::TEXT,
        Type::TIMESTAMPTZ,
        Type::UUID,
        Type::INET,
        Type::TEXT,
        Type::INT8,
        Type::BOOL,
        Type::BOOL,
        Type::BOOL,
        Type::TEXT,
    ];
    let mut bytes = BytesMut::from(&b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0"[..]);
    for (number, hit) in (0_i64..).zip(hits) {
        let at = std::time::UNIX_EPOCH + Duration::from_millis(u64::try_from(hit.opened_at.as_millis())?);
        let row: [&(dyn ToSql + Sync); 10] = [
            &hit.token.email_id,
            &at,
            &hit.event_id,
            &hit.client_address,
            &hit.user_agent,
            &number,
            &false,
            &false,
            &false,
            &"computer",
        ];
        encode(&mut bytes, &types, &row)?;
    }
    bytes.put_i16(-1);
    // All at once, as the recorder does nearly: it is the bound, so small pieces must not hold it back.
    let mut sink = pin!(client.copy_in::<_, Bytes>(COPY).await?);
    sink.send(bytes.freeze()).await?;
    let written = sink.as_mut().finish().await?;
    ensure!(
        usize::try_from(written)? == hits.len(),
        "COPY wrote {written} rows"
    );
    Ok(())
}

fn encode(bytes: &mut BytesMut, types: &[Type], row: &[&(dyn ToSql + Sync)]) -> anyhow::Result<()> {
    bytes.put_i16(i16::try_from(row.len())?);
    for (kind, value) in types.iter().zip(row) {
        let at = bytes.len();
        bytes.put_i32(-1);
        let encoded = value.to_sql_checked(kind, bytes);
        if let IsNull::No = encoded.map_err(|error| anyhow!("a value of {kind}: {error}"))? {
            let length = i32::try_from(bytes.len() - at - 4)?;
            bytes[at..at + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
    Ok(())
}

fn ratios(rounds: &[(Run, Run)]) -> Rounds {
    let ratio = |(copied, recorded): &(Run, Run)| recorded.per_second / copied.per_second;
    Rounds::of(rounds.iter().map(ratio))
}

fn calls(rounds: &[(Run, Run)]) -> Times {
    Times::of(rounds.iter().flat_map(|(_, recorded)| recorded.took.clone()))
}

fn note_goals(headlines: &Headlines, load: Load, ratios: &Rounds, calls: &Times) {
    if !load.has_goals() {
        return;
    }
    let what = format!(
        "{} writers, {} hits in a transaction, calls under way: {}",
        load.writers, load.batch, load.calls
    );
    headlines.note(
        format!("recorder / COPY, {what}"),
        Goal::AtLeast(0.5),
        Cell::Times(ratios.median()),
    );
    headlines.note(
        format!("a call's p99, {what}"),
        Goal::AtMost(150.0),
        Cell::Time(calls.permille(990)),
    );
}

fn row(load: Load, rounds: &[(Run, Run)], ratios: &Rounds, calls: &Times) -> Vec<Cell> {
    let per_second =
        |run: fn(&(Run, Run)) -> f64| Cell::PerSecond(Rounds::of(rounds.iter().map(run)).median());
    vec![
        Cell::Text(load.writers.to_string()),
        Cell::Text(load.batch.to_string()),
        Cell::Text(load.calls.to_string()),
        per_second(|(copied, _)| copied.per_second),
        per_second(|(_, recorded)| recorded.per_second),
        Cell::Times(ratios.median()),
        Cell::Times(ratios.lowest()),
        Cell::Times(ratios.highest()),
        Cell::Time(calls.median()),
        Cell::Time(calls.permille(990)),
    ]
}

fn single_row(writers: usize, rounds: &[(Run, Run)], times: &Rounds) -> Vec<Cell> {
    let per_second =
        |run: fn(&(Run, Run)) -> f64| Cell::PerSecond(Rounds::of(rounds.iter().map(run)).median());
    vec![
        Cell::Text(writers.to_string()),
        per_second(|(single, _)| single.per_second),
        per_second(|(_, batched)| batched.per_second),
        Cell::Times(times.median()),
    ]
}
