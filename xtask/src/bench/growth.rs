//! What stays the same as the data grow: the recorder's batches, an unchanged poll, first pages, with few and with many
//! hits stored; in interleaved rounds on two servers.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use recorder_api::v1::{self, RecordRequest, recorder_client::RecorderClient};
use test_support::PrivatePostgres;
use tonic::{Request, metadata::MetadataValue, transport::Channel};
use tracking::{Fact, Hit, Timestamp, Token, facts::new_id};

use super::{
    Bench,
    headlines::Goal,
    reader::Reader,
    reads::{EMAILS, cursor_after, pages, unchanged},
    report::{Cell, Report, Table},
    stats::{Rounds, Times},
};
use crate::{
    fill::{Filled, Filling, fill},
    load::Moment,
    stack::{Plan, RECORDER_TOKEN, Stack},
};

/// PostgreSQL's own defaults, room for the working set, and no log for what is filled in.
const POSTGRES: [&str; 10] = [
    "shared_preload_libraries=pg_stat_statements",
    "fsync=on",
    "full_page_writes=on",
    "shared_buffers=1GB",
    "max_wal_size=4GB",
    "checkpoint_timeout=1h",
    "autovacuum=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_connections=60",
];
const FEW: u32 = 1_000_000;
const ROUNDS: usize = 9;
const BATCH: usize = 1_000;
const BATCHES: usize = 40;
const AT_ONCE: usize = 2;
/// Before anything is timed.
const WARM_UP: usize = 60;
const PAGES: usize = 100;
/// Emails that hits come for again.
const SAMPLE: i64 = 20_000;
const GOAL: f64 = 1.2;

const AGENTS: [&str; 3] = [
    "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
    "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36",
];

/// What is measured with few and with many hits.
const FIGURES: [&str; 8] = [
    "a batch of 1,000 hits, p50",
    "a batch of 1,000 hits, p99",
    "1,000 hits, two batches at once",
    "an unchanged poll (304)",
    "the first page of emails, limit=100",
    "the first page of opens, limit=100",
    "its eleventh page, by cursor",
    "the opens of one email",
];

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Report> {
    let many = bench.options.hits;
    let mut few = Grown::start(bench, FEW).await?;
    let mut many = Grown::start(bench, many).await?;
    bench.pause("both databases are filled")?;
    few.warm_up().await?;
    many.warm_up().await?;
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        // Who is first has the caches that the other one left: they take turns.
        let (of_few, of_many) = if round.is_multiple_of(2) {
            let of_few = few.figures().await?;
            (of_few, many.figures().await?)
        } else {
            let of_many = many.figures().await?;
            (few.figures().await?, of_many)
        };
        rounds.push((of_few, of_many));
    }
    few.agrees().await?;
    many.agrees().await?;
    let statements = statements(&few.statements().await?, &many.statements().await?);

    let mut rows = Vec::new();
    for (index, name) in FIGURES.into_iter().enumerate() {
        let seconds = |figures: &[Duration]| figures[index].as_secs_f64();
        let ratios = Rounds::of(rounds.iter().map(|(few, many)| seconds(many) / seconds(few)));
        let median = |values: Vec<Duration>| Cell::Time(Times::of(values).median());
        rows.push(vec![
            name.into(),
            median(rounds.iter().map(|(few, _)| few[index]).collect()),
            median(rounds.iter().map(|(_, many)| many[index]).collect()),
            Cell::Times(ratios.median()),
            Cell::Times(ratios.lowest()),
            Cell::Times(ratios.highest()),
        ]);
        bench.headlines.note(
            format!(
                "{name}: with {} hits stored / with {}",
                many.filled.hits, few.filled.hits
            ),
            Goal::AtMost(GOAL),
            Cell::Times(ratios.median()),
        );
    }
    Ok(Report {
        title: "growth: the same with few and with many hits stored",
        notes: vec![
            format!(
                "Few: {} hits of {} emails, {:.0?} to make. Many: {} hits of {} emails, {:.0?} to make. Both over the last 365 \
                 days, in monthly partitions, vacuumed and analyzed; each on a PostgreSQL of its own (shared_buffers=1GB).",
                few.filled.hits,
                few.filled.emails,
                few.filled.took,
                many.filled.hits,
                many.filled.emails,
                many.filled.took
            ),
            format!(
                "{ROUNDS} interleaved rounds; each of {BATCHES} batches one after the other, as many {AT_ONCE} at a time, and {PAGES} \
                 times each page; medians of the rounds. A third of the hits are of new emails, half of one of the latest \
                 {SAMPLE}, the rest of any of {SAMPLE} others."
            ),
        ],
        tables: vec![
            Table {
                columns: vec!["", "few", "many", "many / few", "lowest", "highest"],
                rows,
            },
            statements,
        ],
    })
}

/// A statement of the recording transaction, and what it took on average.
struct Statement {
    name: String,
    took: Duration,
    /// Pages that were not in the server's own memory.
    read: f64,
    /// Bytes of its log.
    logged: u64,
}

fn statements(few: &[Statement], many: &[Statement]) -> Table {
    let mut rows = Vec::new();
    for many in many {
        let Some(few) = few.iter().find(|few| few.name == many.name) else {
            continue;
        };
        rows.push(vec![
            Cell::Text(many.name.clone()),
            Cell::Time(few.took),
            Cell::Time(many.took),
            Cell::Times(many.took.as_secs_f64() / few.took.as_secs_f64()),
            Cell::Text(format!("{:.1}; {:.1}", few.read, many.read)),
            Cell::Text(format!("{}; {} KiB", few.logged / 1024, many.logged / 1024)),
        ]);
    }
    Table {
        columns: vec![
            "a transaction's statements but for COPY, on average",
            "few",
            "many",
            "many / few",
            "pages read",
            "log written",
        ],
        rows,
    }
}

/// Those that took a hundredth of a millisecond at least; each is named by its first line.
const STATEMENTS: &str = "
select substring(query from '-- record: ([^\\n]+)'), sum(total_exec_time) / sum(calls) / 1000,
       (sum(shared_blks_read) / sum(calls))::float8, (sum(wal_bytes) / sum(calls))::bigint
from pg_stat_statements
where query like '-- record: %'
group by 1
having sum(total_exec_time) / sum(calls) > 0.01
order by 2 desc";

/// A stack on a database that has grown.
struct Grown {
    stack: Stack,
    filled: Filled,
    client: RecorderClient<Channel>,
    hits: NewHits,
    recorded: u64,
    _folder: tempfile::TempDir,
}

impl Grown {
    async fn start(bench: &Bench, hits: u32) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(&bench.folder)?;
        let plan = Plan {
            pixels: Vec::new(),
            recorders: vec![Vec::new()],
            dedup_window_ms: 30_000,
            failing_lines: false,
        };
        let postgres = PrivatePostgres::start_with(&POSTGRES).await;
        let stack = Stack::start_on(postgres, &bench.programs, &plan, folder.path()).await?;
        let filling = Filling {
            hits,
            emails: hits / 3,
            days: 365,
        };
        stack
            .database
            .superuser()
            .await
            .batch_execute("create extension pg_stat_statements")
            .await
            .context("PostgreSQL's contrib is needed")?;
        let filled = fill(&stack.database.url_of("postgres"), filling).await?;
        let recorder = format!("http://{}", stack.recorders[0].address);
        Ok(Self {
            client: RecorderClient::new(Channel::from_shared(recorder)?.connect().await?),
            hits: NewHits::of(&stack).await?,
            recorded: 0,
            stack,
            filled,
            _folder: folder,
        })
    }

    async fn warm_up(&mut self) -> anyhow::Result<()> {
        self.batches(WARM_UP, 1).await?;
        self.stack
            .database
            .superuser()
            .await
            .batch_execute("checkpoint; select pg_stat_statements_reset()")
            .await?;
        Ok(())
    }

    /// What each statement of the recording transaction took since the warm-up, the dearest first.
    async fn statements(&self) -> anyhow::Result<Vec<Statement>> {
        let client = self.stack.database.superuser().await;
        let rows = client.query(STATEMENTS, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| Statement {
                name: row.get(0),
                took: Duration::from_secs_f64(row.get(1)),
                read: row.get(2),
                logged: u64::try_from(row.get::<_, i64>(3)).unwrap_or_default(),
            })
            .collect())
    }

    /// In the order of [`FIGURES`].
    async fn figures(&mut self) -> anyhow::Result<Vec<Duration>> {
        let single = Times::of(self.batches(BATCHES, 1).await?);
        let begun = Instant::now();
        self.batches(BATCHES, AT_ONCE).await?;
        let at_once = begun.elapsed() / u32::try_from(BATCHES)?;
        let email = format!("/dashboard/api/open-events?email_id={}", self.hits.recent[0]);
        let opens = "/dashboard/api/open-events?limit=100";
        // A connection of its own: the dashboard has ended one that nothing was asked on for long.
        let mut reader = Reader::connect(self.stack.dashboard.address).await?;
        let later = cursor_after(&mut reader, opens, 10).await?;
        let mut figures = vec![single.median(), single.permille(990), at_once];
        // A poll of a page costs what a poll of the complete list costs, as long as nothing has changed.
        figures.push(
            unchanged(&mut reader, "/dashboard/api/emails?limit=1")
                .await?
                .median(),
        );
        for target in [&format!("{EMAILS}?limit=100"), opens, &later, &email] {
            figures.push(pages(&mut reader, target, PAGES).await?.median());
        }
        Ok(figures)
    }

    /// Records so many batches, so many at a time; how long each took.
    async fn batches(&mut self, count: usize, at_once: usize) -> anyhow::Result<Vec<Duration>> {
        let mut batches: Vec<Vec<v1::Fact>> = Vec::new();
        for _ in 0..count {
            batches.push(self.hits.batch()?);
            self.recorded += u64::try_from(BATCH)?;
        }
        let mut lanes: Vec<Vec<Vec<v1::Fact>>> = vec![Vec::new(); at_once];
        for (place, batch) in batches.into_iter().enumerate() {
            lanes[place % at_once].push(batch);
        }
        let lanes = lanes
            .into_iter()
            .map(|batches| record(self.client.clone(), batches));
        let took = futures::future::try_join_all(lanes).await?;
        Ok(took.concat())
    }

    /// Fails unless all is stored.
    async fn agrees(&self) -> anyhow::Result<()> {
        let client = self.stack.database.superuser().await;
        let stored: i64 = client.query_one("select count(*) from hits", &[]).await?.get(0);
        let expected = self.filled.hits + self.recorded;
        ensure!(
            u64::try_from(stored)? == expected,
            "{stored} hits are stored instead of {expected}"
        );
        Ok(())
    }
}

async fn record(
    mut client: RecorderClient<Channel>,
    batches: Vec<Vec<v1::Fact>>,
) -> anyhow::Result<Vec<Duration>> {
    let mut took = Vec::new();
    for facts in batches {
        let mut request = Request::new(RecordRequest { facts });
        let token: MetadataValue<_> = format!("Bearer {RECORDER_TOKEN}").parse()?;
        request.metadata_mut().insert("authorization", token);
        let begun = Instant::now();
        let outcomes = client.record(request).await?.into_inner().outcomes;
        took.push(begun.elapsed());
        let recorded = i32::from(v1::Outcome::Recorded);
        ensure!(
            outcomes.iter().all(|outcome| *outcome == recorded),
            "a new hit was not recorded"
        );
    }
    Ok(took)
}

/// Hits of now.
struct NewHits {
    recent: Vec<String>,
    others: Vec<String>,
    random: SmallRng,
}

impl NewHits {
    async fn of(stack: &Stack) -> anyhow::Result<Self> {
        let client = stack.database.superuser().await;
        let emails = async |sql: &str| -> anyhow::Result<Vec<String>> {
            let rows = client.query(sql, &[&SAMPLE]).await?;
            ensure!(!rows.is_empty(), "there are no emails");
            Ok(rows.iter().map(|row| row.get(0)).collect())
        };
        Ok(Self {
            recent: emails("select email_id from tracked_emails order by first_opened_at desc limit $1")
                .await?,
            others: emails("select email_id from tracked_emails order by hashtext(email_id) limit $1")
                .await?,
            random: SmallRng::seed_from_u64(1),
        })
    }

    fn batch(&mut self) -> anyhow::Result<Vec<v1::Fact>> {
        (0..BATCH)
            .map(|_| self.hit().map(|hit| v1::Fact::from(Fact::Hit(hit))))
            .collect()
    }

    fn hit(&mut self) -> anyhow::Result<Hit> {
        let opened_at = Timestamp::from_millis(Moment::now().unix_ms);
        let dice: u32 = self.random.random_range(0..6);
        let email_id = match dice {
            0 | 1 => {
                let id: u128 = self.random.random();
                let id = format!("{id:032x}");
                format!("{}-{}-4000-8000-{}", &id[..8], &id[8..12], &id[20..])
            }
            2..5 => self.recent[self.random.random_range(0..self.recent.len())].clone(),
            _ => self.others[self.random.random_range(0..self.others.len())].clone(),
        };
        let agent = AGENTS[self.random.random_range(0..AGENTS.len())];
        Ok(Hit {
            event_id: new_id(opened_at, self.random.random()).context("a time of this century")?,
            opened_at,
            token: Token {
                user_id: "user-1".to_owned(),
                recipient: format!("reader-{}@example.com", &email_id[..8]),
                email_id,
                sent_at: "2026-01-02T03:04:05.678Z".to_owned(),
                sender_email: Some("sender@example.org".to_owned()),
            },
            client_address: std::net::Ipv4Addr::from_bits(0x0a00_0000 | self.random.random_range(0..1 << 24))
                .into(),
            user_agent: Some(agent.to_owned()),
            referer_host: None,
        })
    }
}
