//! What the page costs with 100,000 emails and 5 million hits stored, list by list and chart by chart; and how the lists of
//! hits and the diagnostics are planned.
#![allow(
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a measurement"
)]

use std::time::{Duration, Instant};

use database::DASHBOARD_ROLE;
use test_support::PrivatePostgres;
use tokio_postgres::Client;

use crate::{charts::count_slots, support::*};

/// As PostgreSQL is by default, but for room in memory and no log of what is filled in.
const SETTINGS: [&str; 5] = [
    "shared_buffers=512MB",
    "max_wal_size=4GB",
    "wal_level=minimal",
    "max_wal_senders=0",
    "autovacuum=off",
];
const ROUNDS: usize = 30;

/// Every email is hit some days long, a few of them very often; by ten kinds of agents from thirty countries. One hit in a
/// hundred has consumed a mark; after every other one comes a mark that expires.
const FILL: &str = "
create function pg_temp.fill(hits bigint, emails bigint) returns void language plpgsql as $$
declare
  ends_at   timestamptz := '2026-03-01T12:00Z';
  starts_at timestamptz := ends_at - interval '365 days';
  month     timestamptz := date_trunc('month', starts_at, 'UTC');
  name      text;
begin
  while month < ends_at loop
    name := 'hits_' || to_char(month at time zone 'UTC', 'YYYY_MM');
    execute format('create table %I (like hits including defaults including generated)', name);
    execute format($sql$
      insert into %I (email_id, opened_at, event_id, client_address, user_agent, dedup_key, google_proxy, is_duplicate,
                      compose_window, device_type, geo_country, agent, confidence, consumed_mark_at, consumed_mark_id)
      select 'email-' || case when chance < 0.02 then n %% 50
                              else greatest(0, n * $2 / $1 - (-ln(1 - chance) * $2 / 100)::bigint) end,
             date_trunc('milliseconds', $3 + n * ($4 - $3) / $1), gen_random_uuid(), inet '203.0.0.0' + n %% 16777216,
             'Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36',
             n %% 1000000, n %% 10 = 2, n %% 8 = 7, n %% 31 = 0,
             (array['phone', 'computer', 'other'])[1 + n %% 3],
             case when n %% 5 > 1 then chr(65 + (n %% 6)::int) || chr(65 + (n %% 5)::int) end,
             (array['browser', 'webkit', 'gmail_proxy', 'apple_privacy', 'bot', 'unnamed', 'yahoo_proxy', 'browser',
                    'gmail_proxy', 'browser'])[1 + n %% 10],
             (array['human', 'unclear', 'likely', 'unclear', 'automated', 'unclear', 'likely', 'human', 'likely',
                    'human'])[1 + n %% 10],
             case when n %% 100 = 2 then date_trunc('milliseconds', $3 + n * ($4 - $3) / $1) - interval '2 s' end,
             case when n %% 100 = 2 then gen_random_uuid() end
      from (select n, (hashint8(n) & 1048575) / 1048576.0::float8 as chance
            from generate_series($5, $6) as n offset 0) as numbers$sql$, name)
    using hits, emails, starts_at, ends_at,
      greatest(0, ceil(hits * (extract(epoch from month - starts_at) / extract(epoch from ends_at - starts_at))))::bigint,
      least(hits, ceil(hits * (extract(epoch from month + interval '1 month' - starts_at)
                               / extract(epoch from ends_at - starts_at))))::bigint - 1;
    execute format('alter table hits attach partition %I for values from (%L) to (%L)', name, month,
                   month + interval '1 month');
    month := month + interval '1 month';
  end loop;
end
$$;
set timezone = 'UTC';
set work_mem = '256MB';
set maintenance_work_mem = '512MB';
";

const EMAILS: &str = "
insert into tracked_emails (email_id, user_id, recipient, sent_at, sent_time, first_opened_at, first_event_id, sender_email,
                            open_count, hit_count, last_opened_at, earliest_open_at, credible_open_count,
                            last_credible_open_at, earliest_credible_open_at, human_open_count, last_human_open_at,
                            earliest_human_open_at, last_hit_at)
select email_id, 'user-1', 'reader-' || hashtext(email_id) || '@example.com', sent_time::text, sent_time, first,
       gen_random_uuid(), 'sender' || hashtext(email_id) % 20 || '@example.org',
       opens, hits, last_open, first_open, credible, last_credible, first_credible, human, last_human, first_human, last
from (
  select email_id, min(opened_at) as first, max(opened_at) as last, count(*) as hits,
         min(opened_at) - (hashtext(email_id) & 262143) * interval '1 s' as sent_time,
         count(*) filter (where is_open) as opens,
         min(opened_at) filter (where is_open) as first_open, max(opened_at) filter (where is_open) as last_open,
         count(*) filter (where is_open and confidence <> 'automated') as credible,
         min(opened_at) filter (where is_open and confidence <> 'automated') as first_credible,
         max(opened_at) filter (where is_open and confidence <> 'automated') as last_credible,
         count(*) filter (where is_open and confidence in ('human', 'likely')) as human,
         min(opened_at) filter (where is_open and confidence in ('human', 'likely')) as first_human,
         max(opened_at) filter (where is_open and confidence in ('human', 'likely')) as last_human
  from hits group by email_id
) as counted order by first; -- as they came
insert into marks (email_id, marked_at, mark_id, client_address)
  select email_id, consumed_mark_at, consumed_mark_id, client_address from hits where consumed_mark_at is not null;
insert into marks (email_id, marked_at, mark_id, client_address)
  select email_id, opened_at + interval '1 h', gen_random_uuid(), client_address from hits where dedup_key % 2 = 1;
insert into stale_slots
  select distinct date_bin('15 minutes', opened_at, 'epoch') from hits where opened_at >= '2026-03-01T11:45Z'";

#[expect(
    clippy::disallowed_methods,
    reason = "a measurement's own switches are no settings"
)]
fn asked(name: &str, otherwise: i64) -> i64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

async fn fill(client: &Client) {
    let (hits, emails) = (asked("HITS", 5_000_000), asked("EMAILS", 100_000));
    let began = Instant::now();
    client.batch_execute(FILL).await.unwrap();
    let fill = "select pg_temp.fill($1, $2)";
    client.execute(fill, &[&hits, &emails]).await.unwrap();
    client.batch_execute(EMAILS).await.unwrap();
    count_slots(client, "false").await; // the last two stay stale
    raise_revision(client).await;
    client.batch_execute("vacuum analyze").await.unwrap();
    println!("filled in {:.0?}", began.elapsed());
    for table in [
        "hits",
        "marks",
        "tracked_emails",
        "slot_opens",
        "slot_kinds",
        "day_kinds",
        "stale_slots",
    ] {
        let sql = format!("select count(*) from {table}");
        let count: i64 = client.query_one(&sql, &[]).await.unwrap().get(0);
        println!("  {table:<16} {count:>9} rows");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement: cargo test --release -p dashboard --test api what_the_page_costs -- --ignored --nocapture"]
async fn what_the_page_costs() {
    let server = PrivatePostgres::start_with(&SETTINGS).await;
    server.migrate_template(migrate).await;
    let database = server.database().await;
    fill(&database.superuser().await).await;
    let dashboard = Running::over(&database).await;
    println!("\n  milliseconds: first, median, longest of {ROUNDS}; bytes");
    let emails = "/dashboard/api/v1/emails?limit=50";
    let charts = "/dashboard/api/v1/charts?zone=America/New_York";
    for (what, target) in [
        ("emails: first page", emails.to_owned()),
        ("emails: last open first", format!("{emails}&sort=last_open")),
        ("emails: most opens first", format!("{emails}&sort=opens")),
        ("emails: search, some", format!("{emails}&q=reader-1234")),
        ("emails: search, none", format!("{emails}&q=nobody@example.net")),
        (
            "emails: one sender's",
            format!("{emails}&sender=sender7@example.org"),
        ),
        ("emails: not opened", format!("{emails}&opened=false")),
        ("emails: opened by a bot", format!("{emails}&class=bot")),
        ("emails: on a phone", format!("{emails}&device=phone")),
        ("emails: one", format!("{emails}&email_id=email-0")),
        (
            "timeline of one",
            "/dashboard/api/open-events?limit=50&include=all&email_id=email-70001".to_owned(),
        ),
        (
            "timeline of the busiest",
            "/dashboard/api/open-events?limit=50&include=all&email_id=email-0".to_owned(),
        ),
        ("opens of all", "/dashboard/api/open-events?limit=50".to_owned()),
        ("charts: 7 days", format!("{charts}&since=2026-02-22T05:00:00Z")),
        ("charts: 30 days", format!("{charts}&since=2026-01-31T05:00:00Z")),
        ("charts: 3 months", format!("{charts}&since=2025-12-01T05:00:00Z")),
        (
            "charts: a year",
            format!("{charts}&by=week&since=2025-03-03T05:00:00Z"),
        ),
        ("charts: ever", format!("{charts}&by=month")),
    ] {
        let mut times: Vec<Duration> = Vec::new();
        let mut bytes = 0;
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let answer = dashboard.get(&target).await;
            times.push(began.elapsed());
            assert_eq!(answer.status, 200, "{what}: {}", answer.text());
            bytes = answer.body.len();
        }
        let first = times[0];
        times.sort_unstable();
        let millis = |time: Duration| time.as_secs_f64() * 1_000.0;
        println!(
            "  {what:<26} {:>8.1} {:>8.1} {:>8.1} {bytes:>8}",
            millis(first),
            millis(times[ROUNDS / 2]),
            millis(times[ROUNDS - 1])
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "prints: HITS=1000000 cargo test --release -p dashboard --test api how_hits_are_planned -- --ignored --nocapture"]
async fn how_hits_are_planned() {
    let server = PrivatePostgres::start_with(&SETTINGS).await;
    server.migrate_template(migrate).await;
    let database = server.database().await;
    let client = database.superuser().await;
    fill(&client).await;
    client
        .batch_execute(&format!(
            "alter role {DASHBOARD_ROLE} set session_preload_libraries = 'auto_explain';
             alter role {DASHBOARD_ROLE} set auto_explain.log_min_duration = 0;
             alter role {DASHBOARD_ROLE} set auto_explain.log_analyze = on;
             alter role {DASHBOARD_ROLE} set auto_explain.log_timing = off"
        ))
        .await
        .unwrap();
    let dashboard = Running::over(&database).await;
    let opens = "/dashboard/api/open-events?limit=100";
    let first = dashboard.json(opens).await;
    let cursor = first["next_cursor"]
        .as_str()
        .expect("more than a page")
        .to_owned();
    for (what, target) in [
        ("opens of all", opens.to_owned()),
        ("their second page", format!("{opens}&cursor={cursor}")),
        ("the opens of one email", format!("{opens}&email_id=email-0")),
        ("latencies", "/metrics/gmail-proxy-latency".to_owned()),
        ("signals", "/metrics/suppress-signals".to_owned()),
        ("debug", "/metrics/suppression-debug".to_owned()),
    ] {
        let before = server.log().len();
        let answer = dashboard.get(&target).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        let log = server.log();
        println!("\n## {what}");
        for plan in plans(log.get(before..).unwrap_or_default()) {
            println!("{plan}");
        }
    }
}

/// The plans in a log, without the nodes that were never run.
fn plans(log: &str) -> Vec<String> {
    let mut plans = Vec::new();
    for plan in log.split("Query Text: -- ").skip(1) {
        let plan = plan.split("LOG:").next().unwrap_or_default();
        let (name, rest) = plan.split_once('\n').unwrap_or((plan, ""));
        let run: Vec<&str> = rest
            .lines()
            .filter(|line| line.contains("rows=") && !line.contains("never executed"))
            .collect();
        plans.push(format!("-- {name}\n{}", run.join("\n")));
    }
    plans
}
