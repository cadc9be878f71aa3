//! What a hit costs on disk and in PostgreSQL's log, and what hits leave behind for vacuum: the figures of docs/scaling.md,
//! and of docs/operations.md those of marks and indexes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a measurement"
)]

mod common;

use std::time::Instant;

use common::{at, facts, hit, mark, migrate, recorder_of_workers};
use test_support::{PrivatePostgres, TestDatabase};
use tokio_postgres::Client;
use tracking::{Hit, Rules, facts::new_id};
use uuid::Uuid;

/// As PostgreSQL is by default, but for room in memory.
const SETTINGS: [&str; 6] = [
    "full_page_writes=on",
    "shared_buffers=512MB",
    "max_wal_size=4GB",
    "autovacuum_naptime=1min",
    "log_checkpoints=on",
    "log_autovacuum_min_duration=0",
];
const HITS_A_BATCH: u64 = 1_000;
/// Each email is first seen, then opened again now and then, and once by its sender, after a mark.
const HITS_AN_EMAIL: u64 = 5;
const EMAILS_A_BATCH: u64 = HITS_A_BATCH / HITS_AN_EMAIL;
/// Between two batches, by the pixels' clocks: 1,000 hits a second.
const STEP_MS: i64 = 1_000;

const AGENTS: [&str; 4] = [
    "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    "Mozilla/5.0",
];

/// As random as is needed, and the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 20
    }
}

/// The id of an email, as the extension makes them.
fn email_id(number: u64) -> String {
    let mut dice = Dice(number);
    let bits = (u128::from(dice.roll()) << 64) | (u128::from(dice.roll()) << 20) | u128::from(number);
    uuid::Builder::from_random_bytes(bits.to_be_bytes())
        .into_uuid()
        .to_string()
}

/// A batch of so many new emails' first hits and of later hits of earlier emails, most of them recent.
fn batch(number: u64, dice: &mut Dice) -> (Vec<Hit>, Vec<tracking::Mark>) {
    let begin = at("2026-03-02T00:00:00Z");
    let mut hits = Vec::new();
    let mut marks = Vec::new();
    for place in 0..HITS_A_BATCH {
        let newest = (number + 1) * EMAILS_A_BATCH;
        let email = if place < EMAILS_A_BATCH {
            newest - 1 - place
        } else {
            // Half of what has come so far is four times as likely as the other half, and so on.
            let back = newest >> (dice.roll() % 6);
            newest - 1 - dice.roll() % back.max(1)
        };
        let opened_at = begin.saturating_add_millis(
            i64::try_from(number).unwrap() * STEP_MS + i64::try_from(place).unwrap() * STEP_MS / 1_000,
        );
        let agent = usize::try_from((dice.roll() % 8).saturating_sub(4)).unwrap();
        let mut made = hit(&email_id(email), opened_at, 0);
        let mut random = [0; 10];
        random[..8].copy_from_slice(&dice.roll().to_be_bytes());
        made.event_id = new_id(opened_at, random).unwrap();
        made.token.user_id = email_id(email % 1_000);
        made.token.recipient = format!("recipient.number.{}@example.com", email % 50_000);
        "2026-03-02T00:00:00.000Z".clone_into(&mut made.token.sent_at);
        made.user_agent = AGENTS.get(agent).map(|agent| (*agent).to_owned());
        made.client_address = if agent == 0 {
            [66, 249, 84, u8::try_from(dice.roll() % 256).unwrap()].into()
        } else {
            let [.., a, b, c] = dice.roll().to_be_bytes();
            [203, a, b, c].into()
        };
        if place < EMAILS_A_BATCH / 4 {
            let before = opened_at.saturating_add_millis(-1);
            let mut made = mark(&email_id(email), before, 0);
            made.mark_id = Uuid::from_bytes(new_id(before, random).unwrap().into_bytes());
            marks.push(made);
        }
        hits.push(made);
    }
    (hits, marks)
}

async fn number(client: &Client, sql: &str) -> f64 {
    let row = client.query_one(&format!("select ({sql})::float8"), &[]).await;
    row.unwrap().get(0)
}

async fn table(client: &Client, sql: &str) {
    for row in client.query(sql, &[]).await.unwrap() {
        let name: String = row.get(0);
        let values: Vec<String> = (1..row.len())
            .map(|column| {
                let value: Option<f64> = row.get(column);
                format!("{:>14.2}", value.unwrap_or_default())
            })
            .collect();
        println!("  {name:<40}{}", values.concat());
    }
}

async fn report(client: &Client, hits: u64, what: &str) {
    client.batch_execute("analyze").await.unwrap();
    let hits = hits as f64;
    println!("\n{what}: {hits} hits");
    println!("  relation, bytes, of it indexes, rows, bytes a row");
    table(
        client,
        "select relname::text, pg_total_relation_size(oid)::float8, pg_indexes_size(oid)::float8, reltuples::float8,
                pg_total_relation_size(oid) / nullif(reltuples, 0)::float8
         from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r' and reltuples > 1000 order by 1",
    )
    .await;
    println!("  index, bytes a row of its table, leaf density %, fragmentation %");
    table(
        client,
        "select i.relname::text, pg_relation_size(i.oid) / nullif(t.reltuples, 0)::float8,
                s.avg_leaf_density, s.leaf_fragmentation
         from pg_index x join pg_class i on i.oid = indexrelid join pg_class t on t.oid = indrelid,
              lateral pgstatindex(i.oid::regclass) s
         where t.relnamespace = 'public'::regnamespace and t.relkind = 'r' and t.reltuples > 1000
           and pg_relation_size(i.oid) > 8192 order by 1",
    )
    .await;
    println!("  table, live rows, updates, of them HOT %, dead rows %, free space %, autovacuums");
    table(
        client,
        "select s.relname::text, n_live_tup::float8, n_tup_upd::float8,
                100.0 * n_tup_hot_upd / nullif(n_tup_upd, 0)::float8, p.dead_tuple_percent, p.free_percent,
                autovacuum_count::float8
         from pg_stat_user_tables s, lateral pgstattuple(s.relid::regclass) p
         where n_live_tup > 1000 or n_tup_upd > 1000 order by 1",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: HITS=3000000 cargo test -p recorder --test storage -- --ignored --nocapture"]
async fn what_hits_cost() {
    let asked = std::env::var_os("HITS").map(|hits| hits.into_string().unwrap());
    let hits: u64 = asked.map_or(200_000, |hits| hits.parse().unwrap());
    let server = PrivatePostgres::start_with(&SETTINGS).await;
    server.migrate_template(migrate).await;
    let database: TestDatabase = server.database().await;
    let client = database.superuser().await;
    client
        .batch_execute("create extension pgstattuple; checkpoint")
        .await
        .unwrap();
    let recorder = recorder_of_workers(2, &database, "r", &Rules::default());
    let wal = "pg_current_wal_insert_lsn() - '0/0'::pg_lsn";
    let pages = "select wal_fpi from pg_stat_wal";
    let before = (number(&client, wal).await, number(&client, pages).await);
    let mut dice = Dice(7);
    let began = Instant::now();
    let batches = hits / HITS_A_BATCH;
    for number in 0..batches {
        let (hits, marks) = batch(number, &mut dice);
        recorder.record(facts(hits, marks)).await.unwrap();
        if number + 1 == batches / 2 {
            report(&client, (number + 1) * HITS_A_BATCH, "half of it").await;
        }
    }
    println!(
        "\nlog: {:.0} bytes a hit, {:.3} full pages a hit; {:.0} hits a second",
        (number(&client, wal).await - before.0) / hits as f64,
        (number(&client, pages).await - before.1) / hits as f64,
        hits as f64 / began.elapsed().as_secs_f64()
    );
    report(&client, hits, "all of it").await;
    client.batch_execute("vacuum").await.unwrap();
    report(&client, hits, "after vacuum").await;
    let log = server.log();
    for line in log
        .lines()
        .filter(|line| line.contains("checkpoint complete") || line.contains("automatic vacuum"))
    {
        println!("{line}");
    }
}
