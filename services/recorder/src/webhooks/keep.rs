//! What is done about events apart from telling them: counted, given up, sent again by hand, and in the end removed.

use database::{Database, Error, InStatement, Timestamptz, Transaction, Work};
use tracking::Timestamp;

use super::metrics::Standing;
use crate::shards::{Layout, Shards};

/// How long an event is kept, told or not, in milliseconds since it was queued.
pub(super) const KEPT_MS: i64 = 30 * 24 * 60 * 60 * 1_000;
/// Rows that one transaction changes.
const AT_ONCE: i64 = 1_000;

/// By the index of targets, which has all that is asked for.
const STANDING: &str = "-- webhooks: how the events stand
select target,
       count(*) filter (where set_aside_at is null),
       min(queued_at) filter (where set_aside_at is null),
       count(*) filter (where set_aside_at is not null)
from webhook_events group by target";

/// Those of one target that have waited for too long, by the index of targets.
const OVERDUE: &str = "-- webhooks: overdue events
select email_id, target, number from webhook_events
where target = $1 and queued_at < $2 and set_aside_at is null
order by queued_at limit $3";

/// Whoever they are for, be it a target that is no longer known.
const OLD: &str = "-- webhooks: old events
select email_id, target, number from webhook_events where queued_at < $1 limit $2";

const ASIDE: &str = "-- webhooks: events that are set aside
select email_id, target, number, kind, opened_at, event_id, queued_at, set_aside_at, problem from webhook_events
where set_aside_at is not null and ($1::text is null or target = $1)
  and (target, email_id, number) > ($2, $3, $4)
order by target, email_id, number limit $5";

const SET_ASIDE: &str = "-- webhooks: set events aside
update webhook_events as event set set_aside_at = $4, problem = $5
from unnest($1::text[], $2::text[], $3::bigint[]) as overdue (email_id, target, number)
where event.email_id = overdue.email_id and event.target = overdue.target and event.number = overdue.number
  and event.set_aside_at is null
  -- in shards: and event.email_id = any($1)";

const REMOVE: &str = "-- webhooks: remove events
delete from webhook_events as event
using unnest($1::text[], $2::text[], $3::bigint[]) as old (email_id, target, number)
where event.email_id = old.email_id and event.target = old.target and event.number = old.number
  -- in shards: and event.email_id = any($1)";

/// As if it had just been queued, but in its old place.
const REVIVE: &str = "-- webhooks: revive events
update webhook_events as event set set_aside_at = null, problem = null, queued_at = $4
from unnest($1::text[], $2::text[], $3::bigint[]) as again (email_id, target, number)
where event.email_id = again.email_id and event.target = again.target and event.number = again.number
  and event.set_aside_at is not null
  -- in shards: and event.email_id = any($1)";

const REVIVE_QUEUES: &str = "-- webhooks: revive queues
insert into webhook_queues as queue (email_id, target, due_at)
select distinct again.email_id, again.target, $3::timestamptz
from unnest($1::text[], $2::text[]) as again (email_id, target)
order by 1, 2
on conflict (email_id, target) do update set due_at = coalesce(queue.due_at, excluded.due_at), attempts = 0";

/// The names of its transactions.
pub(super) const NAMES: [&str; 5] = [
    Stand::NAME,
    FindOverdue::NAME,
    FindOld::NAME,
    Change::NAME,
    FindAside::NAME,
];

/// Its statements that change rows of some emails.
#[cfg(test)]
pub(crate) const PER_EMAIL: &[&str] = &[SET_ASIDE, REMOVE, REVIVE];

/// What names an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) email_id: String,
    pub(super) target: String,
    pub(super) number: i64,
}

/// An event that is set aside, as an operator sees it.
#[derive(Clone, Debug)]
pub struct SetAside {
    /// Of which email.
    pub email_id: String,
    /// Whom it was for.
    pub target: String,
    /// `first_open` or `open`.
    pub kind: String,
    /// When the open was.
    pub opened_at: Timestamp,
    /// The hit.
    pub event_id: String,
    /// When it was queued.
    pub queued_at: Timestamp,
    /// When it was given up.
    pub set_aside_at: Timestamp,
    /// Why.
    pub problem: String,
    pub(super) number: i64,
}

/// How the events of each target stand at `now`.
pub(super) async fn standings(database: &Database, now: Timestamp) -> Result<Vec<(String, Standing)>, Error> {
    database.transact(&Stand { now }).await
}

/// Gives up some events of `target` that were queued before `before`; answers how many.
pub(super) async fn set_aside_overdue(
    database: &Database,
    shards: &Shards,
    target: &str,
    before: Timestamp,
    now: Timestamp,
    problem: &str,
) -> Result<u64, Error> {
    let overdue = database.transact(&FindOverdue { target, before }).await?;
    change(database, shards, overdue, Doing::SetAside { now, problem }).await
}

/// Removes some events that were queued before `before`; answers those it found, of which there may be more.
pub(super) async fn remove_old(
    database: &Database,
    shards: &Shards,
    before: Timestamp,
) -> Result<Vec<Place>, Error> {
    let old = database.transact(&FindOld { before }).await?;
    change(database, shards, old.clone(), Doing::Remove).await?;
    Ok(old)
}

/// Some events that are set aside, after `after`.
pub(super) async fn find_set_aside(
    database: &Database,
    target: Option<&str>,
    after: Option<&SetAside>,
) -> Result<Vec<SetAside>, Error> {
    database.transact(&FindAside { target, after }).await
}

/// Has these told again from `now` on; answers how many were set aside still.
pub(super) async fn revive(
    database: &Database,
    shards: &Shards,
    events: &[SetAside],
    now: Timestamp,
) -> Result<u64, Error> {
    let places = events.iter().map(|event| Place {
        email_id: event.email_id.clone(),
        target: event.target.clone(),
        number: event.number,
    });
    change(database, shards, places.collect(), Doing::Revive { now }).await
}

async fn change(
    database: &Database,
    shards: &Shards,
    places: Vec<Place>,
    doing: Doing<'_>,
) -> Result<u64, Error> {
    let layout = shards.layout(database).await?;
    let mut changed = 0;
    let by_shard = shards
        .split(database, places, |place: &Place| &place.email_id)
        .await?;
    for places in by_shard.values() {
        let change = Change {
            places,
            doing,
            layout,
        };
        changed += database.transact(&change).await?;
    }
    Ok(changed)
}

struct Stand {
    now: Timestamp,
}

impl Work for Stand {
    const NAME: &'static str = "count_webhooks";
    const READ_ONLY: bool = true;
    type Output = Vec<(String, Standing)>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Self::Output, Error> {
        let standing = tx.prepare_cached(STANDING).await.in_statement(Self::NAME)?;
        let rows = tx.query(&standing, &[]).await.in_statement(Self::NAME)?;
        let mut standings = Vec::with_capacity(rows.len());
        for row in &rows {
            let oldest: Option<Timestamptz> = row.try_get(2)?;
            let age = oldest.map_or(0, |oldest| self.now.millis_since(oldest.0).max(0));
            let standing = Standing {
                pending: u64::try_from(row.try_get::<_, i64>(1)?).unwrap_or_default(),
                oldest_pending_seconds: std::time::Duration::from_millis(
                    u64::try_from(age).unwrap_or_default(),
                )
                .as_secs_f64(),
                set_aside: u64::try_from(row.try_get::<_, i64>(3)?).unwrap_or_default(),
            };
            standings.push((row.try_get(0)?, standing));
        }
        Ok(standings)
    }
}

struct FindOverdue<'a> {
    target: &'a str,
    before: Timestamp,
}

impl Work for FindOverdue<'_> {
    const NAME: &'static str = "find_overdue_webhooks";
    const READ_ONLY: bool = true;
    type Output = Vec<Place>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Vec<Place>, Error> {
        let overdue = tx.prepare_cached(OVERDUE).await.in_statement(Self::NAME)?;
        let rows = tx
            .query(&overdue, &[&self.target, &Timestamptz(self.before), &AT_ONCE])
            .await
            .in_statement(Self::NAME)?;
        rows.iter().map(place).collect()
    }
}

struct FindOld {
    before: Timestamp,
}

impl Work for FindOld {
    const NAME: &'static str = "find_old_webhooks";
    const READ_ONLY: bool = true;
    type Output = Vec<Place>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Vec<Place>, Error> {
        let old = tx.prepare_cached(OLD).await.in_statement(Self::NAME)?;
        let rows = tx
            .query(&old, &[&Timestamptz(self.before), &AT_ONCE])
            .await
            .in_statement(Self::NAME)?;
        rows.iter().map(place).collect()
    }
}

fn place(row: &tokio_postgres::Row) -> Result<Place, Error> {
    Ok(Place {
        email_id: row.try_get(0)?,
        target: row.try_get(1)?,
        number: row.try_get(2)?,
    })
}

struct FindAside<'a> {
    target: Option<&'a str>,
    after: Option<&'a SetAside>,
}

impl Work for FindAside<'_> {
    const NAME: &'static str = "find_webhooks_set_aside";
    const READ_ONLY: bool = true;
    type Output = Vec<SetAside>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Vec<SetAside>, Error> {
        let aside = tx.prepare_cached(ASIDE).await.in_statement(Self::NAME)?;
        let (target, email_id, number) = self.after.map_or(("", "", 0), |after| {
            (after.target.as_str(), after.email_id.as_str(), after.number)
        });
        let rows = tx
            .query(&aside, &[&self.target, &target, &email_id, &number, &AT_ONCE])
            .await
            .in_statement(Self::NAME)?;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            let at = |column: usize| row.try_get::<_, Timestamptz>(column).map(Timestamp::from);
            found.push(SetAside {
                email_id: row.try_get(0)?,
                target: row.try_get(1)?,
                number: row.try_get(2)?,
                kind: row.try_get(3)?,
                opened_at: at(4)?,
                event_id: row.try_get::<_, uuid::Uuid>(5)?.to_string(),
                queued_at: at(6)?,
                set_aside_at: at(7)?,
                problem: row.try_get::<_, Option<_>>(8)?.unwrap_or_default(),
            });
        }
        Ok(found)
    }
}

/// What is done to events.
#[derive(Clone, Copy)]
enum Doing<'a> {
    SetAside { now: Timestamp, problem: &'a str },
    Remove,
    Revive { now: Timestamp },
}

/// Does it to those of one shard; answers to how many.
struct Change<'a> {
    places: &'a [Place],
    doing: Doing<'a>,
    layout: Layout,
}

impl Work for Change<'_> {
    const NAME: &'static str = "change_webhooks";
    type Output = u64;

    async fn run(&self, tx: &Transaction<'_>) -> Result<u64, Error> {
        let email_ids: Vec<&str> = self.places.iter().map(|place| place.email_id.as_str()).collect();
        let targets: Vec<&str> = self.places.iter().map(|place| place.target.as_str()).collect();
        let numbers: Vec<i64> = self.places.iter().map(|place| place.number).collect();
        let statement = match self.doing {
            Doing::SetAside { .. } => SET_ASIDE,
            Doing::Remove => REMOVE,
            Doing::Revive { .. } => REVIVE,
        };
        let statement = tx
            .prepare_cached(&self.layout.form(statement))
            .await
            .in_statement(Self::NAME)?;
        let done = match self.doing {
            Doing::SetAside { now, problem } => {
                let now = Timestamptz(now);
                tx.execute(&statement, &[&email_ids, &targets, &numbers, &now, &problem])
                    .await
            }
            Doing::Remove => tx.execute(&statement, &[&email_ids, &targets, &numbers]).await,
            Doing::Revive { now } => {
                let now = Timestamptz(now);
                // The queues first: whoever settles one then sees what is revived, or waits.
                let queues = tx
                    .prepare_cached(REVIVE_QUEUES)
                    .await
                    .in_statement("revive_webhook_queues")?;
                tx.execute(&queues, &[&email_ids, &targets, &now])
                    .await
                    .in_statement("revive_webhook_queues")?;
                tx.execute(&statement, &[&email_ids, &targets, &numbers, &now])
                    .await
            }
        };
        done.in_statement(Self::NAME)
    }
}
