//! `GET /metrics/suppress-signals` and `GET /metrics/suppression-debug`: what became of each mark.
//!
//! A mark ends in one of three ways, as the verdicts say: the email's next fact is a hit within the mark's time to live,
//! which consumes it; or it is a mark within that time, which replaces it; or neither comes, and it expires. So a
//! replaced mark leaves no signal but its own, and a mark is still pending up to and including the last millisecond of
//! its time to live. It expires, for these diagnostics, once the clock has passed that; the signal bears the time
//! mark + time to live.

use std::{collections::BTreeMap, net::IpAddr};

use database::{Error, InStatement, IsolationLevel, Timestamptz, Transaction, Work};
use serde::Serialize;
use tracking::{Timestamp, verdicts::MARK_TTL_MS};
use utoipa::ToSchema;

use crate::openapi::schemas;

/// The newest signals that are looked at.
pub(crate) const MOST_SIGNALS: i64 = 5_000;

/// From when on marks can have expired among the newest signals: at least `$1` marks are no older than `$2` ms after it,
/// and what expired before them is older than all of these. None if there are fewer marks.
const EARLIEST: &str = "-- earliest_mark
select marked_at - $2::bigint * interval '1 ms'
from marks
order by marked_at desc, mark_id desc
offset $1::bigint - 1
limit 1
";

/// The newest signals of each kind, and of these the newest of all, the newest first.
///
/// The order within a millisecond is the timeline's: marks, then hits (their consumption, then the proxy's hit), then
/// what expires. `is not true` makes the planner ask for each mark by itself: they are few. (`limit 1` would
/// as well, but Citus takes no limit in a subquery that looks at the outer row.)
const SIGNALS: &str = "-- suppress_signals
with expired as (
  select m.email_id, m.marked_at + $3::bigint * interval '1 ms' as at, m.mark_id
  from marks m
  where m.marked_at >= $4::timestamptz
    and m.marked_at + $3 * interval '1 ms' < $1::timestamptz
    and exists (select from hits h where h.email_id = m.email_id
         and h.opened_at between m.marked_at and m.marked_at + $3 * interval '1 ms') is not true
    and exists (select from marks later where later.email_id = m.email_id
         and (later.marked_at, later.mark_id) > (m.marked_at, m.mark_id)
         and later.marked_at <= m.marked_at + $3 * interval '1 ms') is not true
),
signals (step, email_id, at, fact_id, client_address, user_agent, consumed_mark_at) as (
  (select 0, email_id, marked_at, mark_id, client_address, user_agent, null::timestamptz
   from marks order by marked_at desc, mark_id desc limit $2)
  union all
  (select 1, email_id, opened_at, event_id, client_address, user_agent, consumed_mark_at
   from hits where consumed_mark_at is not null order by opened_at desc, event_id desc limit $2)
  union all
  (select 2, email_id, opened_at, event_id, client_address, user_agent, consumed_mark_at
   from hits where google_proxy order by opened_at desc, event_id desc limit $2)
  union all
  (select 3, email_id, at, mark_id, null, null, null from expired)
)
select step, email_id, at, client_address, user_agent, consumed_mark_at
from signals
order by at desc, (step + 1) / 2 desc, fact_id desc, step desc
limit $2::bigint
";

/// Marks that are not older than their time to live, and that no hit has consumed and no mark has replaced.
const ACTIVE_EMAILS: &str = "-- active_emails
select count(distinct m.email_id)
from marks m
where m.marked_at >= $1::timestamptz - $2::bigint * interval '1 ms'
  and exists (select from hits h where h.email_id = m.email_id
       and h.opened_at between m.marked_at and m.marked_at + $2 * interval '1 ms') is not true
  and exists (select from marks later where later.email_id = m.email_id
       and (later.marked_at, later.mark_id) > (m.marked_at, m.mark_id)
       and later.marked_at <= m.marked_at + $2 * interval '1 ms') is not true
";

/// The newest signals as of `now`.
pub(crate) struct ReadSignals {
    /// The time by which marks have expired or not.
    pub(crate) now: Timestamp,
}

/// What [`ReadSignals`] found, in one snapshot.
pub(crate) struct Signals {
    /// Emails with a mark that neither a hit has consumed nor time has ended.
    active_email_ids: i64,
    /// The oldest first.
    recent: Vec<Signal>,
}

/// One thing that happened to a mark.
#[derive(Serialize, ToSchema)]
pub(crate) struct Signal {
    event: Event,
    #[schema(min_length = 1, max_length = 1024)]
    email_id: String,
    /// Milliseconds since 1970.
    #[schema(minimum = 0)]
    at_ms: i64,
    #[schema(required, schema_with = schemas::address_or_null)]
    ip: Option<IpAddr>,
    #[schema(required, max_length = 1024)]
    user_agent: Option<String>,
    /// Of `suppression_consumed`: from the mark to the hit, in milliseconds.
    #[schema(nullable = false, minimum = 0, maximum = 10000)]
    #[serde(skip_serializing_if = "Option::is_none")]
    delta_ms: Option<i64>,
    /// Of `google_proxy_hit`: whether it consumed a mark.
    #[schema(nullable = false)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pending_suppression: Option<bool>,
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Serialize, ToSchema)]
#[schema(as = SignalKind)]
#[serde(rename_all = "snake_case")]
enum Event {
    MarkSuppressNext,
    SuppressionConsumed,
    GoogleProxyHit,
    SuppressionExpired,
}

impl Work for ReadSignals {
    const NAME: &'static str = "suppress_signals";
    const ISOLATION: IsolationLevel = IsolationLevel::RepeatableRead;
    const READ_ONLY: bool = true;
    type Output = Signals;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Signals, Error> {
        let now = Timestamptz(self.now);
        let statement = tx
            .prepare_cached(ACTIVE_EMAILS)
            .await
            .in_statement("active_emails")?;
        let active = tx
            .query_one(&statement, &[&now, &MARK_TTL_MS])
            .await
            .in_statement("active_emails")?;
        let statement = tx.prepare_cached(EARLIEST).await.in_statement("earliest_mark")?;
        let earliest = tx
            .query_opt(&statement, &[&MOST_SIGNALS, &MARK_TTL_MS])
            .await
            .in_statement("earliest_mark")?;
        let earliest = match earliest {
            Some(row) => row.try_get(0)?,
            None => Timestamptz(Timestamp::default()),
        };
        let statement = tx.prepare_cached(SIGNALS).await.in_statement(Self::NAME)?;
        let rows = tx
            .query(&statement, &[&now, &MOST_SIGNALS, &MARK_TTL_MS, &earliest])
            .await
            .in_statement(Self::NAME)?;
        Ok(Signals {
            active_email_ids: active.try_get(0)?,
            recent: rows.iter().rev().map(signal).collect::<Result<_, _>>()?,
        })
    }
}

fn signal(row: &tokio_postgres::Row) -> Result<Signal, Error> {
    let at: Timestamptz = row.try_get(2)?;
    let consumed_mark_at: Option<Timestamptz> = row.try_get(5)?;
    let event = match row.try_get::<_, i32>(0)? {
        0 => Event::MarkSuppressNext,
        1 => Event::SuppressionConsumed,
        2 => Event::GoogleProxyHit,
        _ => Event::SuppressionExpired,
    };
    Ok(Signal {
        event,
        email_id: row.try_get(1)?,
        at_ms: at.0.as_millis(),
        ip: row.try_get(3)?,
        user_agent: row.try_get(4)?,
        delta_ms: consumed_mark_at
            .filter(|_| event == Event::SuppressionConsumed)
            .map(|marked_at| at.0.millis_since(marked_at.0)),
        pending_suppression: (event == Event::GoogleProxyHit).then_some(consumed_mark_at.is_some()),
    })
}

/// The answer of `suppress-signals`.
#[derive(Serialize, ToSchema)]
pub(crate) struct SuppressSignals {
    /// Signals shown.
    #[schema(maximum = 5000)]
    count: usize,
    /// Emails with a mark that no hit has consumed and that has not expired.
    #[schema(minimum = 0)]
    active_email_ids: i64,
    /// How long a mark holds.
    #[schema(minimum = 0)]
    ttl_ms: i64,
    /// The oldest first.
    #[schema(max_items = 5000)]
    recent: Vec<Signal>,
}

impl From<Signals> for SuppressSignals {
    fn from(signals: Signals) -> Self {
        Self {
            count: signals.recent.len(),
            active_email_ids: signals.active_email_ids,
            ttl_ms: MARK_TTL_MS,
            recent: signals.recent,
        }
    }
}

/// The answer of `suppression-debug`: the same signals by email.
#[derive(Serialize, ToSchema)]
pub(crate) struct SuppressionDebug {
    /// Emails with a mark that no hit has consumed and that has not expired.
    #[schema(minimum = 0)]
    active_email_ids: i64,
    /// How long a mark holds.
    #[schema(minimum = 0)]
    ttl_ms: i64,
    /// Signals shown.
    #[schema(maximum = 5000)]
    recent_events: usize,
    /// By `email_id`.
    by_email: BTreeMap<String, EmailSignals>,
}

/// When what happened to one email's marks, in milliseconds since 1970, the oldest first.
#[derive(Default, Serialize, ToSchema)]
struct EmailSignals {
    marks: Vec<i64>,
    google_proxy_hits: Vec<i64>,
    consumed: Vec<i64>,
    expired: Vec<i64>,
}

impl From<Signals> for SuppressionDebug {
    fn from(signals: Signals) -> Self {
        let recent_events = signals.recent.len();
        let mut by_email: BTreeMap<String, EmailSignals> = BTreeMap::new();
        for signal in signals.recent {
            let email = by_email.entry(signal.email_id).or_default();
            let times = match signal.event {
                Event::MarkSuppressNext => &mut email.marks,
                Event::SuppressionConsumed => &mut email.consumed,
                Event::GoogleProxyHit => &mut email.google_proxy_hits,
                Event::SuppressionExpired => &mut email.expired,
            };
            times.push(signal.at_ms);
        }
        Self {
            active_email_ids: signals.active_email_ids,
            ttl_ms: MARK_TTL_MS,
            recent_events,
            by_email,
        }
    }
}
