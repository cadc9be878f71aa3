//! What a load leaves behind for vacuum, and whether anybody has to wait while retention drops months and removes emails.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use test_support::Signal;
use tokio::time::sleep;
use tokio_postgres::Client;

use super::{
    Bench,
    headlines::Goal,
    hits::Hits,
    reader::Reader,
    report::{Cell, Report, Table},
    stats::Times,
    steady::Steady,
    subject::Subject,
    visible::Prober,
};
use crate::fill::{Filling, fill};

/// Hits a second: in twenty minutes as many as an hour brings at a thousand a second.
const RATE: u32 = 3_000;
const EMAILS: u64 = 200_000;
/// What retention finds: of four months three go.
const OLD: Filling = Filling {
    hits: 1_000_000,
    emails: 300_000,
    days: 120,
};
const RETENTION_DAYS: &str = "20";
/// Before retention begins.
const BEFORE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_mins(3);

const BLOAT: &str = "
select relname::text, pg_total_relation_size(relid), n_live_tup, n_dead_tup,
       n_tup_upd, n_tup_hot_upd, autovacuum_count, (pgstattuple(relid)).dead_tuple_percent, (pgstattuple(relid)).free_percent
from pg_stat_user_tables
where relname in ('tracked_emails', 'revisions') or relname = (
  select 'hits_' || to_char(max(opened_at) at time zone 'UTC', 'YYYY_MM') from hits)
order by relname";

pub(super) async fn measure(bench: &Bench) -> anyhow::Result<Report> {
    let retention = vec![("RETENTION_DAYS".to_owned(), RETENTION_DAYS.to_owned())];
    let mut subject = Subject::with_recorders(bench, vec![Vec::new(), retention]).await?;
    subject.stack.recorders[1].end(Signal::KILL).await;
    fill(&subject.stack.database.url_of("postgres"), OLD).await?;
    let client = subject.stack.database.superuser().await;
    client.batch_execute("create extension pgstattuple").await?;
    let mut tables = vec![bloat(&client).await?];

    let hits = Arc::new(Hits::of(EMAILS));
    let load = Steady::start(&hits, subject.pixel().address, RATE)?;
    load.go_on_for(Duration::from_secs(60 * u64::from(bench.options.minutes)))
        .await;
    tables.push(bloat(&client).await?);

    let mut watch = Watch::start(&mut subject).await?;
    let before = watch.go_on(async |begun| Ok(begun.elapsed() < BEFORE)).await?;
    let months_before = months(&client).await?;
    subject.stack.recorders[1].start();
    let begun = Instant::now();
    let during = watch
        .go_on(async |_| {
            ensure!(begun.elapsed() < PATIENCE, "retention does not end");
            removable(&client).await
        })
        .await?;
    let took = begun.elapsed();
    let months_after = months(&client).await?;
    ensure!(months_after < months_before, "no month was dropped");
    let after = watch.go_on(async |begun| Ok(begun.elapsed() < BEFORE)).await?;
    load.stop()?;
    subject.drained(0).await?;
    subject.nothing_was_lost().await?;
    let sent = hits.taken();
    let stored: i64 = client
        .query_one(
            "select count(*) from hits where opened_at > now() - interval '1 day'",
            &[],
        )
        .await?
        .get(0);
    ensure!(
        u64::try_from(stored)? >= sent,
        "{sent} hits were answered, {stored} are stored"
    );

    let longest = during.visible.longest();
    bench.headlines.note(
        "from the pixel's answer to the API while retention drops months, longest",
        Goal::AtMost(1_000.0),
        Cell::Time(longest),
    );
    tables.push(Table {
        columns: vec![
            "",
            "from the answer to the API, p50",
            "p99",
            "longest",
            "first page of opens, p50",
            "p99",
            "longest ",
        ],
        rows: [("before", before), ("while it removes", during), ("after", after)]
            .into_iter()
            .map(|(name, seen)| seen.row(name))
            .collect(),
    });
    Ok(Report {
        title: "upkeep: vacuum, bloat and retention under load",
        notes: vec![
            format!(
                "The first table: before the load, {} hits of {} emails over the last {} days, just vacuumed. The second: after {} \
                 minutes of {RATE} hits a second of {EMAILS} emails, with PostgreSQL's own settings for autovacuum.",
                OLD.hits, OLD.emails, OLD.days, bench.options.minutes
            ),
            format!(
                "Then, while the load goes on, a recorder starts with RETENTION_DAYS={RETENTION_DAYS}: it drops {} of {months_before} \
                 months and removes the emails that nothing is left of, in {took:.1?}. The third table: hits of new emails are \
                 looked for in the API, one after the other, and the first page of opens is read, all the time.",
                months_before - months_after
            ),
        ],
        tables,
    })
}

async fn bloat(client: &Client) -> anyhow::Result<Table> {
    // What sessions did is known to the statistics after their next pause.
    sleep(Duration::from_secs(2)).await;
    let mut rows = Vec::new();
    for row in client.query(BLOAT, &[]).await? {
        let count = |column: usize| u64::try_from(row.get::<_, i64>(column)).unwrap_or_default();
        let (updates, hot) = (row.get::<_, i64>(4), row.get::<_, i64>(5));
        let share = |part: i64, whole: i64| -> anyhow::Result<Cell> {
            let (part, whole) = (f64::from(i32::try_from(part)?), f64::from(i32::try_from(whole)?));
            Ok(if whole > 0.0 {
                Cell::Share(part / whole)
            } else {
                Cell::None
            })
        };
        rows.push(vec![
            Cell::Text(row.get(0)),
            Cell::Bytes(count(1)),
            Cell::Count(count(2)),
            Cell::Count(count(3)),
            Cell::Count(count(4)),
            share(hot, updates)?,
            Cell::Count(count(6)),
            Cell::Share(row.get::<_, f64>(7) / 100.0),
            Cell::Share(row.get::<_, f64>(8) / 100.0),
        ]);
    }
    Ok(Table {
        columns: vec![
            "table",
            "size with indexes",
            "rows",
            "dead rows",
            "updates",
            "HOT among them",
            "autovacuums",
            "dead space",
            "free space",
        ],
        rows,
    })
}

async fn months(client: &Client) -> anyhow::Result<i64> {
    let sql = "select count(*) from pg_inherits where inhparent = 'hits'::regclass";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

/// Whether there is still something that retention removes.
async fn removable(client: &Client) -> anyhow::Result<bool> {
    let sql = format!(
        "select exists (select from tracked_emails
                        where first_opened_at < date_trunc('month', now() - interval '{RETENTION_DAYS} days', 'UTC')
                          and last_hit_at < date_trunc('month', now() - interval '{RETENTION_DAYS} days', 'UTC'))"
    );
    Ok(client.query_one(&sql, &[]).await?.get(0))
}

/// Who would notice that something waits.
struct Watch {
    prober: Prober,
    reader: Reader,
}

struct Seen {
    visible: Times,
    pages: Times,
}

impl Watch {
    async fn start(subject: &mut Subject) -> anyhow::Result<Self> {
        Ok(Self {
            prober: Prober::start(subject).await?,
            reader: Reader::connect(subject.stack.dashboard.address).await?,
        })
    }

    /// Looks as long as `on` says; it is given when this began.
    async fn go_on(&mut self, on: impl AsyncFn(Instant) -> anyhow::Result<bool>) -> anyhow::Result<Seen> {
        let begun = Instant::now();
        let (mut visible, mut pages) = (Vec::new(), Vec::new());
        while on(begun).await? || visible.is_empty() {
            visible.push(self.prober.one().await?);
            let page = self
                .reader
                .get("/dashboard/api/open-events?limit=100", &[])
                .await?;
            ensure!(page.status == 200, "a page of opens has status {}", page.status);
            pages.push(page.took);
            sleep(Duration::from_millis(20)).await;
        }
        Ok(Seen {
            visible: Times::of(visible),
            pages: Times::of(pages),
        })
    }
}

impl Seen {
    fn row(&self, name: &str) -> Vec<Cell> {
        let mut row = vec![name.into()];
        for times in [&self.visible, &self.pages] {
            row.extend([times.median(), times.permille(990), times.longest()].map(Cell::Time));
        }
        row
    }
}
