//! Made-up hits, many of them fast: what a database looks like after months of use.
//!
//! The hits come evenly over time. Most emails get none to three, within days of their first one; a twentieth of all hits
//! are of a few emails that everybody opens, which get thousands. Every eighth hit repeats the one before within the dedup
//! window. Emails are counted from their hits, so that everything agrees. It is the same each time but for the times.
//!
//! What makes it fast: the server makes the rows, month by month in two sessions, into tables that get their indexes when
//! they are full; and with `wal_level=minimal` none of it goes through the log.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Args;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

use crate::load::Moment;

/// A database to fill.
#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// The owner's: `postgres://email_tracker_owner:PASSWORD@HOST:PORT/DATABASE`. It must be migrated and hold no hits.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    #[command(flatten)]
    filling: Filling,
}

/// How much of it.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Filling {
    /// How many hits.
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) hits: u32,
    /// About how many emails; those that chance gives no hit are missing.
    #[arg(long, default_value_t = 500_000)]
    pub(crate) emails: u32,
    /// Over how many days, up to now.
    #[arg(long, default_value_t = 365)]
    pub(crate) days: u32,
}

/// What was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filled {
    pub(crate) hits: u64,
    pub(crate) emails: u64,
    pub(crate) took: Duration,
}

/// One of the emails that everybody opens for so many hits.
const HITS_OF_A_HOT_EMAIL: u32 = 100_000;
const SESSIONS: usize = 2;

/// Fills the database that it is told of.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let filled = fill(&options.database_url, options.filling).await?;
    println!(
        "{} hits of {} emails in {:.0?}",
        filled.hits, filled.emails, filled.took
    );
    Ok(())
}

/// Fills the database at `url`, a superuser's or the owner's.
pub(crate) async fn fill(url: &str, filling: Filling) -> anyhow::Result<Filled> {
    let begun = Instant::now();
    let client = connect(url).await?;
    let stored: bool = client
        .query_one("select exists (select from hits)", &[])
        .await?
        .get(0);
    ensure!(!stored, "there are hits already");
    let spacing_ms = i64::from(filling.days) * 86_400_000 / i64::from(filling.hits.max(1));
    ensure!(
        spacing_ms >= 1_000,
        "a hit needs a second of its own: fewer hits, or more days"
    );
    let begin_ms = Moment::now().unix_ms - spacing_ms * i64::from(filling.hits);
    let plan = Plan {
        filling,
        begin_ms,
        spacing_ms,
    };
    let months = months(&client, &plan).await?;
    let months = Arc::new(Mutex::new(months));
    let mut sessions = JoinSet::new();
    for _ in 0..SESSIONS {
        let (client, months) = (connect(url).await?, Arc::clone(&months));
        sessions.spawn(async move {
            loop {
                let next = months.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some(month) = next else {
                    return anyhow::Ok(());
                };
                let filled = fill_month(&client, plan, &month).await;
                filled.with_context(|| format!("filling {}", month.name))?;
            }
        });
    }
    while let Some(done) = sessions.join_next().await {
        done??;
    }
    let hits: i64 = client.query_one("select count(*) from hits", &[]).await?.get(0);
    let emails = EMAILS.replace("{EVENT_ID}", EVENT_ID);
    client
        .batch_execute(&emails)
        .await
        .context("counting the emails")?;
    client.batch_execute("vacuum analyze").await?;
    let emails: i64 = client
        .query_one("select count(*) from tracked_emails", &[])
        .await?
        .get(0);
    Ok(Filled {
        hits: hits.try_into()?,
        emails: emails.try_into()?,
        took: begun.elapsed(),
    })
}

/// Which hit is when.
#[derive(Clone, Copy, Debug)]
struct Plan {
    filling: Filling,
    begin_ms: i64,
    spacing_ms: i64,
}

/// A partition to be.
#[derive(Clone, Debug)]
struct Month {
    name: String,
    start_ms: i64,
    end_ms: i64,
}

/// Times and the names of months in UTC, whatever the server thinks.
async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .context("connecting to the database to be filled")?;
    tokio::spawn(connection);
    client.batch_execute("set timezone = 'UTC'").await?;
    // Its tables belong to their owner, whoever fills them.
    let owner: String = client
        .query_one(
            "select quote_ident(relowner::regrole::text) from pg_class where oid = 'hits'::regclass",
            &[],
        )
        .await
        .context("looking for the table of hits: has the database been migrated?")?
        .get(0);
    client
        .batch_execute(&format!(
            "set role {owner}; set work_mem = '512MB'; set maintenance_work_mem = '512MB'; set max_parallel_maintenance_workers = 0"
        ))
        .await?;
    Ok(client)
}

async fn months(client: &Client, plan: &Plan) -> anyhow::Result<VecDeque<Month>> {
    let end_ms = plan.begin_ms + plan.spacing_ms * i64::from(plan.filling.hits);
    let rows = client
        .query(
            "select 'hits_' || to_char(month, 'YYYY_MM'),
                    (extract(epoch from month) * 1000)::bigint,
                    (extract(epoch from month + interval '1 month') * 1000)::bigint
             from generate_series(
               date_trunc('month', to_timestamp($1::bigint / 1000.0)), to_timestamp(($2::bigint - 1) / 1000.0), '1 month'
             ) as month
             order by month",
            &[&plan.begin_ms, &end_ms],
        )
        .await?;
    let month = |row: &tokio_postgres::Row| Month {
        name: row.get(0),
        start_ms: row.get(1),
        end_ms: row.get(2),
    };
    Ok(rows.iter().map(month).collect())
}

/// Makes the partition of a month, in one transaction.
async fn fill_month(client: &Client, plan: Plan, month: &Month) -> anyhow::Result<()> {
    let hits = i64::from(plan.filling.hits);
    let first_from = |ms: i64| ((ms - plan.begin_ms).max(0) + plan.spacing_ms - 1) / plan.spacing_ms;
    let first = first_from(month.start_ms);
    let until = first_from(month.end_ms).min(hits);
    let insert = HITS
        .replace("{TABLE}", &month.name)
        .replace("{EVENT_ID}", EVENT_ID)
        .replace("{FIRST}", &first.to_string())
        .replace("{LAST}", &(until - 1).to_string())
        .replace("{BEGIN_MS}", &plan.begin_ms.to_string())
        .replace("{SPACING_MS}", &plan.spacing_ms.to_string())
        .replace("{HITS}", &hits.to_string())
        .replace("{EMAILS}", &plan.filling.emails.to_string())
        .replace(
            "{HOT}",
            &(plan.filling.hits / HITS_OF_A_HOT_EMAIL)
                .clamp(1, plan.filling.emails.max(1))
                .to_string(),
        )
        // The later hits of an email come within days.
        .replace(
            "{SPREAD}",
            &(plan.filling.emails * 3 / plan.filling.days.max(1)).to_string(),
        );
    let Month {
        name,
        start_ms,
        end_ms,
    } = month;
    client
        .batch_execute(&format!(
            "begin;
             select drop_hits_partition(to_timestamp({start_ms} / 1000));
             create table {name} (like hits including defaults including generated including storage);
             {insert};
             do $$ begin execute format('alter table hits attach partition {name} for values from (%L) to (%L)',
               to_timestamp({start_ms} / 1000), to_timestamp({end_ms} / 1000)); end $$;
             commit"
        ))
        .await?;
    Ok(())
}

/// A UUIDv7 that follows from its time: no two hits have the same.
const EVENT_ID: &str =
    "(lpad(to_hex(ms), 12, '0') || '7' || left(md5(ms::text), 3) || '8' || right(md5(ms::text), 15))::uuid";

/// Chance is a hash of the hit's number; that of a repeat is the number of the hit that it repeats.
const HITS: &str = "
insert into {TABLE} (email_id, opened_at, event_id, client_address, user_agent, referer_host, dedup_key, google_proxy,
                     is_duplicate, compose_window, device_type, geo_country, agent, confidence)
select md5('email ' || email)::uuid::text, to_timestamp(ms / 1000.0), {EVENT_ID},
       case when is_proxy then inet '66.249.84.0' + (a & 255) else inet '203.0.0.0' + (a & 16777215) end,
       (array['Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148',
              'Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36',
              'Mozilla/5.0',
              'Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)'])[who],
       case when is_own then 'mail.google.com' end,
       case when is_proxy then 0 else hashint8extended(source, 5) | 1 end,
       is_proxy, is_repeat, is_own,
       (array['phone', 'computer', 'other', 'other'])[who],
       case when not is_proxy then (array['DE', 'US', 'FR', 'GB'])[1 + (a >> 24 & 3)] end,
       (array['webkit', 'browser', 'apple_privacy', 'gmail_proxy'])[who],
       (array['unclear', 'human', 'automated', 'likely'])[who]
from (
  select source, is_repeat, a,
         {BEGIN_MS} + {SPACING_MS} * source + case when is_repeat then 500 else 0 end as ms,
         who, who = 4 as is_proxy, who = 2 and a >> 32 & 15 = 0 as is_own,
         case when b & 1048575 < 52429 then ((a >> 36) & 1048575) % {HOT} * ({EMAILS} / {HOT})
              else abs(source * {EMAILS} / {HITS}
                       + floor(ln(1 - (b >> 20 & 1048575) / 1048576.0::float8) * {SPREAD})::bigint) end as email
  from (
    select source, is_repeat, hashint8extended(source, 1) as a, hashint8extended(source, 2) as b,
           least(4, 1 + (hashint8extended(source, 3) & 7))::int as who
    from (
      select n - case when n % 8 = 7 and n > {FIRST} then 1 else 0 end as source, n % 8 = 7 and n > {FIRST} as is_repeat
      from generate_series({FIRST}::bigint, {LAST}::bigint) as n
    ) as numbers
    offset 0
  ) as chances
  offset 0 -- or each use of a value computes it again
) as hits";

/// The table is emptied in the same transaction, so that its new rows need not be logged; they come in the order in which
/// emails came.
const EMAILS: &str = "
begin;
truncate tracked_emails;
insert into tracked_emails (email_id, user_id, recipient, sent_at, first_opened_at, first_event_id,
                            sender_email, sender_opened_at, sender_event_id,
                            open_count, hit_count, last_opened_at, credible_open_count, last_credible_open_at,
                            human_open_count, last_human_open_at, last_hit_at, sent_time,
                            earliest_open_at, earliest_credible_open_at, earliest_human_open_at)
select email_id, 'user-' || (hashtext(email_id) & 63), 'reader-' || left(email_id, 8) || '@example.com',
       to_char(first, 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), first, {EVENT_ID},
       'sender@example.org', first, {EVENT_ID},
       opens, hits, last_open, credible_opens, last_credible_open, human_opens, last_human_open, last, first,
       first_open, first_credible_open, first_human_open
from (
  select email_id, min(opened_at) as first, max(opened_at) as last, (extract(epoch from min(opened_at)) * 1000)::bigint as ms,
         count(*) as hits,
         count(*) filter (where is_open) as opens,
         max(opened_at) filter (where is_open) as last_open,
         min(opened_at) filter (where is_open) as first_open,
         min(opened_at) filter (where is_open and confidence <> 'automated') as first_credible_open,
         min(opened_at) filter (where is_open and confidence in ('human', 'likely')) as first_human_open,
         count(*) filter (where is_open and confidence <> 'automated') as credible_opens,
         max(opened_at) filter (where is_open and confidence <> 'automated') as last_credible_open,
         count(*) filter (where is_open and confidence in ('human', 'likely')) as human_opens,
         max(opened_at) filter (where is_open and confidence in ('human', 'likely')) as last_human_open
  from hits
  group by email_id
) as counted
order by first;
-- For charts, as upkeep counts them (docs/adr/0018); what follows on this may be in the latest slot.
create temporary table counted on commit drop as
with opens as materialized (
  select date_bin(interval '15 minutes', opened_at, timestamptz 'epoch') as slot_at,
         agent, device_type, geo_country, confidence, count(*) as number
  from hits
  where is_open
  group by slot_at, agent, device_type, geo_country, confidence
)
select slot_at,
       case when grouping(agent) = 0 then 'agent' when grouping(device_type) = 0 then 'device'
            when grouping(geo_country) = 0 then 'country' else '' end as dimension,
       coalesce(agent, device_type, geo_country, '') as value,
       coalesce(sum(number) filter (where confidence = 'human'), 0)::bigint as human,
       coalesce(sum(number) filter (where confidence = 'likely'), 0)::bigint as likely,
       coalesce(sum(number) filter (where confidence not in ('human', 'likely', 'automated')), 0)::bigint as unclear,
       coalesce(sum(number) filter (where confidence = 'automated'), 0)::bigint as automated
from opens
group by slot_at, grouping sets ((), (agent), (device_type), (geo_country));
insert into slot_opens select slot_at, human, likely, unclear, automated from counted where dimension = '';
insert into slot_kinds select * from counted where dimension <> '';
insert into day_kinds
select date_bin(interval '24 hours', slot_at, timestamptz 'epoch'), dimension, value,
       sum(human), sum(likely), sum(unclear), sum(automated)
from slot_kinds
group by 1, 2, 3;
insert into stale_slots select max(slot_at) from slot_opens having count(*) > 0;
insert into revisions values ('fill', 1) on conflict (writer) do update set revision = revisions.revision + 1;
commit";
