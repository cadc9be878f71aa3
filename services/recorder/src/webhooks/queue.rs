//! The other end of the outbox: what is due is leased, told, and settled.
//!
//! A lease is a time until which nobody else looks at an email's queue. Whoever holds it tells the queue's events one after
//! the other, so that their order holds however many recorders there are. If it dies, the lease runs out, and another one
//! begins where it had settled last: each event is told at least once.

use database::{Database, Error, InStatement, Timestamptz, Transaction, Work};
use tokio_postgres::Row;
use tracking::{
    Timestamp,
    agents::{Agent, BURST_REASON, Confidence},
};
use uuid::Uuid;

use super::outbox::Kind;
use crate::shards::{Layout, Shards};

/// How long a lease lasts, in milliseconds.
pub(super) const LEASE_MS: i64 = 60_000;
/// Events told under one lease, and so told again at most if the recorder dies.
const AT_ONCE: i64 = 8;

/// By the index of those that are due.
const DUE: &str = "-- webhooks: due queues
select email_id from webhook_queues where target = $1 and due_at <= $2 order by due_at limit $3";

/// Those that somebody else has just leased, or records facts into, wait for another turn.
const LOCK: &str = "-- webhooks: lock queues
select email_id, attempts from webhook_queues
where email_id = any($1) and target = $2 and due_at <= $3
order by email_id for update skip locked";

const LEASE: &str = "-- webhooks: lease queues
update webhook_queues set due_at = $3 where email_id = any($1) and target = $2";

/// What to tell is what the facts say now: an open that has been withdrawn meanwhile is told to nobody.
const EVENTS: &str = "-- webhooks: events of a queue
select leased.place, event.number, event.kind, event.opened_at, event.event_id, event.queued_at,
       email.user_id, email.recipient, email.sender_email, email.sent_at,
       email.open_count, email.human_open_count,
       hit.is_open, hit.agent, hit.confidence, hit.device_type, hit.geo_country, hit.geo_region, hit.geo_city
from unnest($1::text[]) with ordinality as leased (email_id, place)
cross join lateral (
  select * from webhook_events as event
  where event.email_id = leased.email_id and event.target = $2 and event.set_aside_at is null
    -- in shards: and event.email_id = any($1)
  order by event.number limit $3
) as event
left join lateral (
  select * from tracked_emails as email
  where email.email_id = leased.email_id
    -- in shards: and email.email_id = any($1)
) as email on true
left join lateral (
  select * from hits as hit
  where hit.email_id = leased.email_id and hit.opened_at = event.opened_at and hit.event_id = event.event_id
    -- in shards: and hit.email_id = any($1)
) as hit on true
order by leased.place, event.number";

/// Whoever records another open of the email meanwhile waits for this, or this for them: what the next statements see of
/// its events is all there is.
const HOLD: &str = "-- webhooks: hold a queue
select from webhook_queues where email_id = $1 and target = $2 for update";

const REMOVE: &str = "-- webhooks: remove events that are settled
delete from webhook_events where email_id = $1 and target = $2 and number = any($3)";

const SET_ASIDE: &str = "-- webhooks: set an event aside
update webhook_events set set_aside_at = $4, problem = $5
where email_id = $1 and target = $2 and number = $3 and set_aside_at is null";

/// Unless the lease has run out and somebody else has it.
const RELEASE: &str = "-- webhooks: release a queue
update webhook_queues as queue
set due_at = case when exists (
      select from webhook_events as event
      where event.email_id = queue.email_id and event.target = queue.target and event.set_aside_at is null
    ) then $4::timestamptz end,
    attempts = $5,
    first_open = case when queue.first_open = any($6) then null else queue.first_open end
where queue.email_id = $1 and queue.target = $2 and queue.due_at = $3";

/// The names of its transactions.
pub(super) const NAMES: [&str; 3] = [FindDue::NAME, Lease::NAME, Settle::NAME];

/// Its statements that look at stored rows of some emails.
#[cfg(test)]
pub(crate) const PER_EMAIL: &[&str] = &[EVENTS];

/// One email's events for one target, leased.
#[derive(Debug)]
pub(super) struct LeasedQueue {
    pub(super) email_id: String,
    pub(super) until: Timestamp,
    pub(super) attempts: u32,
    /// The oldest ones, in order.
    pub(super) events: Vec<Event>,
}

/// One open to be told.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) number: i64,
    pub(super) kind: Kind,
    pub(super) opened_at: Timestamp,
    pub(super) event_id: Uuid,
    pub(super) queued_at: Timestamp,
    /// What the facts say of it; `None` if it is no open any more, or its email is gone.
    pub(super) open: Option<Open>,
}

/// What is told of an open.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) user_id: String,
    pub(super) recipient: String,
    pub(super) sender_email: Option<String>,
    pub(super) sent_at: String,
    pub(super) open_count: i64,
    pub(super) human_open_count: i64,
    pub(super) agent: Agent,
    pub(super) confidence: Confidence,
    pub(super) device_type: String,
    pub(super) country: Option<String>,
    pub(super) region: Option<String>,
    pub(super) city: Option<String>,
}

impl Open {
    /// Why it is believed so far. Only a burst makes a machine of what is none by itself.
    pub(super) const fn reason(&self) -> &'static str {
        if self.confidence.is_automated() && !self.agent.confidence().is_automated() {
            BURST_REASON
        } else {
            self.agent.reason()
        }
    }
}

impl Event {
    fn read(row: &Row) -> Result<Self, Error> {
        let at = |column: usize| row.try_get::<_, Timestamptz>(column).map(Timestamp::from);
        let is_open: Option<bool> = row.try_get(12)?;
        let recipient: Option<String> = row.try_get(7)?;
        let open = match (is_open, recipient) {
            (Some(true), Some(recipient)) => Some(Open {
                user_id: row.try_get::<_, Option<_>>(6)?.unwrap_or_default(),
                recipient,
                sender_email: row.try_get(8)?,
                sent_at: row.try_get::<_, Option<_>>(9)?.unwrap_or_default(),
                open_count: row.try_get(10)?,
                human_open_count: row.try_get(11)?,
                // What a later version named says least to this one.
                agent: Agent::named(row.try_get(13)?).unwrap_or(Agent::Unfamiliar),
                confidence: Confidence::named(row.try_get(14)?).unwrap_or(Confidence::Unclear),
                device_type: row.try_get(15)?,
                country: row.try_get(16)?,
                region: row.try_get(17)?,
                city: row.try_get(18)?,
            }),
            _ => None,
        };
        Ok(Self {
            number: row.try_get(1)?,
            kind: Kind::named(row.try_get(2)?),
            opened_at: at(3)?,
            event_id: row.try_get(4)?,
            queued_at: at(5)?,
            open,
        })
    }
}

/// Leases up to `most` queues of `target` that are due at `now`.
pub(super) async fn lease(
    database: &Database,
    shards: &Shards,
    target: &str,
    now: Timestamp,
    most: usize,
) -> Result<Vec<LeasedQueue>, Error> {
    let due = database.transact(&FindDue { target, now, most }).await?;
    let layout = shards.layout(database).await?;
    let mut leased = Vec::new();
    for email_ids in shards.split(database, due, String::as_str).await?.into_values() {
        let lease = Lease {
            email_ids: &email_ids,
            target,
            now,
            layout,
        };
        leased.extend(database.transact(&lease).await?);
    }
    Ok(leased)
}

struct FindDue<'a> {
    target: &'a str,
    now: Timestamp,
    most: usize,
}

impl Work for FindDue<'_> {
    const NAME: &'static str = "find_due_webhooks";
    const READ_ONLY: bool = true;
    type Output = Vec<String>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Vec<String>, Error> {
        let due = tx.prepare_cached(DUE).await.in_statement(Self::NAME)?;
        let most = i64::try_from(self.most).unwrap_or(i64::MAX);
        let rows = tx
            .query(&due, &[&self.target, &Timestamptz(self.now), &most])
            .await
            .in_statement(Self::NAME)?;
        rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }
}

/// Leases queues of one shard.
struct Lease<'a> {
    email_ids: &'a [String],
    target: &'a str,
    now: Timestamp,
    layout: Layout,
}

impl Work for Lease<'_> {
    const NAME: &'static str = "lease_webhooks";
    type Output = Vec<LeasedQueue>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Vec<LeasedQueue>, Error> {
        let until = self.now.saturating_add_millis(LEASE_MS);
        let lock = tx.prepare_cached(LOCK).await.in_statement("lock_webhooks")?;
        let rows = tx
            .query(&lock, &[&self.email_ids, &self.target, &Timestamptz(self.now)])
            .await
            .in_statement("lock_webhooks")?;
        let mut queues = Vec::with_capacity(rows.len());
        for row in &rows {
            queues.push(LeasedQueue {
                email_id: row.try_get(0)?,
                until,
                attempts: u32::try_from(row.try_get::<_, i32>(1)?).unwrap_or_default(),
                events: Vec::new(),
            });
        }
        if queues.is_empty() {
            return Ok(queues);
        }
        let email_ids: Vec<String> = queues.iter().map(|queue| queue.email_id.clone()).collect();
        let lease = tx.prepare_cached(LEASE).await.in_statement(Self::NAME)?;
        tx.execute(&lease, &[&email_ids, &self.target, &Timestamptz(until)])
            .await
            .in_statement(Self::NAME)?;
        let events = tx
            .prepare_cached(&self.layout.form(EVENTS))
            .await
            .in_statement("webhook_events_of_queues")?;
        let rows = tx
            .query(&events, &[&email_ids, &self.target, &AT_ONCE])
            .await
            .in_statement("webhook_events_of_queues")?;
        for row in &rows {
            let place = usize::try_from(row.try_get::<_, i64>(0)? - 1).unwrap_or(usize::MAX);
            if let Some(queue) = queues.get_mut(place) {
                queue.events.push(Event::read(row)?);
            }
        }
        Ok(queues)
    }
}

/// What became of a leased queue.
#[derive(Debug)]
pub(super) struct Settle<'a> {
    pub(super) email_id: &'a str,
    pub(super) target: &'a str,
    pub(super) leased_until: Timestamp,
    /// Those told, and those that there is nothing to tell of any more.
    pub(super) settled: &'a [i64],
    /// The hit of a first open that was not told: another one may be the first.
    pub(super) not_first: &'a [Uuid],
    /// The event that is given up, and why.
    pub(super) set_aside: Option<(i64, &'a str)>,
    pub(super) now: Timestamp,
    /// When to look at it again, if there is more.
    pub(super) due_at: Timestamp,
    pub(super) attempts: u32,
}

impl Work for Settle<'_> {
    const NAME: &'static str = "settle_webhooks";
    /// How many were set aside.
    type Output = u64;

    async fn run(&self, tx: &Transaction<'_>) -> Result<u64, Error> {
        let hold = tx.prepare_cached(HOLD).await.in_statement("hold_webhooks")?;
        tx.execute(&hold, &[&self.email_id, &self.target])
            .await
            .in_statement("hold_webhooks")?;
        if !self.settled.is_empty() {
            let remove = tx.prepare_cached(REMOVE).await.in_statement("remove_webhooks")?;
            tx.execute(&remove, &[&self.email_id, &self.target, &self.settled])
                .await
                .in_statement("remove_webhooks")?;
        }
        let mut set_aside_now = 0;
        if let Some((number, problem)) = self.set_aside {
            let set_aside = tx
                .prepare_cached(SET_ASIDE)
                .await
                .in_statement("set_webhook_aside")?;
            let now = Timestamptz(self.now);
            set_aside_now = tx
                .execute(
                    &set_aside,
                    &[&self.email_id, &self.target, &number, &now, &problem],
                )
                .await
                .in_statement("set_webhook_aside")?;
        }
        let release = tx.prepare_cached(RELEASE).await.in_statement(Self::NAME)?;
        tx.execute(
            &release,
            &[
                &self.email_id,
                &self.target,
                &Timestamptz(self.leased_until),
                &Timestamptz(self.due_at),
                &i32::try_from(self.attempts).unwrap_or(i32::MAX),
                &self.not_first,
            ],
        )
        .await
        .in_statement(Self::NAME)?;
        Ok(set_aside_now)
    }
}
