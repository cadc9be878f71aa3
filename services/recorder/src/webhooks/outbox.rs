//! What the recording transaction leaves for webhooks: a queue for each email and target, and in it an event for each open.
//!
//! Both statements come last of the transaction and are sent with its others: they cost no round trip, and nothing at all
//! without a target or without a new open. They look at the email's row after it was counted, so what was there before is
//! what is there now without what this batch has added.

use std::sync::Arc;

use database::{Error, InStatement, Timestamptz, Transaction};
use tokio::sync::Notify;
use tokio_postgres::Statement;
use tracking::{Clock, doctor};
use uuid::Uuid;

use super::Target;
use crate::shards::Layout;

/// For each email and target that may have something new to tell: its queue, due at once unless it is being looked after.
/// Nobody is told of what `email-tracker doctor` makes up.
const QUEUES: &str = "-- webhooks: queues of new opens
insert into webhook_queues as queue (email_id, target, first_open, due_at)
select new.email_id, new.target, case when new.wants_first and email.opens_before = 0 then new.first_id end, $8
from unnest($1::text[], $2::text[], $3::uuid[], $4::bigint[], $5::boolean[], $6::boolean[], $7::boolean[])
  as new (email_id, target, first_id, opens, wants_first, wants_each, only_credible)
cross join lateral (
  select case when new.only_credible then email.credible_open_count else email.open_count end - new.opens as opens_before
  from tracked_emails as email
  where email.email_id = new.email_id
    and not (email.email_id >= $9 and email.email_id < $10 and email.user_id = $11)
    -- in shards: and email.email_id = any($1)
) as email
where new.wants_each or email.opens_before = 0
order by new.email_id collate \"C\", new.target collate \"C\"
on conflict (email_id, target) do update
set first_open = coalesce(queue.first_open, excluded.first_open),
    due_at = coalesce(queue.due_at, excluded.due_at)";

/// An event for each open that the target wants. Whether it is the first one is what its queue has just remembered, or has
/// known before.
const EVENTS: &str = "-- webhooks: events of new opens
insert into webhook_events (email_id, target, kind, opened_at, event_id, queued_at)
select new.email_id, new.target, new.kind, new.opened_at, new.event_id, $6
from unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::uuid[]) with ordinality
  as new (email_id, target, kind, opened_at, event_id, place)
cross join lateral (
  select queue.first_open from webhook_queues as queue
  where queue.email_id = new.email_id and queue.target = new.target
    -- in shards: and queue.email_id = any($1)
) as queue
where new.kind = 'open' or queue.first_open = new.event_id
order by new.place";

const FORGET: [(&str, &str); 2] = [
    (
        "forget_webhook_events",
        "-- webhooks: forget events
delete from webhook_events where email_id = any($1)
  and not exists (select from tracked_emails as email where email.email_id = webhook_events.email_id
    -- in shards: and email.email_id = any($1)
  )",
    ),
    (
        "forget_webhook_queues",
        "-- webhooks: forget queues
delete from webhook_queues where email_id = any($1)
  and not exists (select from tracked_emails as email where email.email_id = webhook_queues.email_id
    -- in shards: and email.email_id = any($1)
  )",
    ),
];

/// Its statements that look at stored rows of emails or change them.
#[cfg(test)]
pub(crate) const PER_EMAIL: &[&str] = &[QUEUES, EVENTS, FORGET[0].1, FORGET[1].1];

/// What an open may be to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The first of its email.
    FirstOpen,
    /// Any.
    Open,
}

impl Kind {
    /// Its name in the database and in ids.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::FirstOpen => "first_open",
            Self::Open => "open",
        }
    }

    /// The kind of this name.
    pub(super) fn named(name: &str) -> Self {
        if name == Self::FirstOpen.as_str() {
            Self::FirstOpen
        } else {
            Self::Open
        }
    }
}

/// Where the recording transaction leaves what there is to tell.
pub(crate) struct Outbox {
    targets: Vec<(Arc<Target>, Arc<Notify>)>,
    clock: Arc<dyn Clock>,
}

/// A hit that has become an open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewOpen {
    pub(crate) opened_at: Timestamptz,
    pub(crate) event_id: Uuid,
    /// Not a machine's.
    pub(crate) credible: bool,
}

/// What a batch changes about one email's opens.
#[derive(Debug)]
pub(crate) struct OpensOfEmail<'a> {
    pub(crate) email_id: &'a str,
    /// In the timeline's order.
    pub(crate) new: Vec<NewOpen>,
    /// By how much the count has risen, and that of the credible ones.
    pub(crate) opens: i64,
    pub(crate) credible_opens: i64,
}

/// Its statements, prepared before the transaction's first is sent.
pub(crate) struct Statements {
    queues: Statement,
    events: Statement,
}

impl Statements {
    /// Prepares what this connection has not prepared yet.
    pub(crate) async fn prepare(tx: &Transaction<'_>, layout: Layout) -> Result<Self, Error> {
        Ok(Self {
            queues: tx.prepare_cached(&layout.form(QUEUES)).await?,
            events: tx.prepare_cached(&layout.form(EVENTS)).await?,
        })
    }
}

impl Outbox {
    /// For these targets, each with the one to wake when there is something for it.
    pub(super) fn new(targets: Vec<(Arc<Target>, Arc<Notify>)>, clock: Arc<dyn Clock>) -> Self {
        Self { targets, clock }
    }

    /// Says that a transaction which left something has been committed.
    pub(crate) fn wake(&self) {
        for (_, delivery) in &self.targets {
            delivery.notify_one();
        }
    }

    /// Leaves what there is to tell of `emails`, after they were counted; answers whether it was anything.
    pub(crate) async fn leave(
        &self,
        tx: &Transaction<'_>,
        statements: &Statements,
        emails: &[OpensOfEmail<'_>],
    ) -> Result<bool, Error> {
        let (queues, events) = self.columns(emails);
        if queues.email_id.is_empty() {
            return Ok(false);
        }
        let now = Timestamptz(self.clock.now());
        let range = (doctor::EMAIL_ID_PREFIX, doctor::EMAIL_ID_END);
        // In this order on the line: the second looks at what the first has written.
        let add_queues = async {
            tx.execute(
                &statements.queues,
                &[
                    &queues.email_id,
                    &queues.target,
                    &queues.first_id,
                    &queues.opens,
                    &queues.wants_first,
                    &queues.wants_each,
                    &queues.only_credible,
                    &now,
                    &range.0,
                    &range.1,
                    &doctor::USER_ID,
                ],
            )
            .await
            .in_statement("webhook_queues")
        };
        let add_events = async {
            tx.execute(
                &statements.events,
                &[
                    &events.email_id,
                    &events.target,
                    &events.kind,
                    &events.opened_at,
                    &events.event_id,
                    &now,
                ],
            )
            .await
            .in_statement("webhook_events")
        };
        let (_, left) = futures::try_join!(add_queues, add_events)?;
        Ok(left > 0)
    }

    fn columns<'a>(&'a self, emails: &'a [OpensOfEmail<'a>]) -> (QueueColumns<'a>, EventColumns<'a>) {
        let (mut queues, mut events) = (QueueColumns::default(), EventColumns::default());
        for email in emails {
            for (target, _) in &self.targets {
                let wanted = || email.new.iter().filter(|open| target.automated || open.credible);
                let Some(first) = wanted().next() else {
                    continue;
                };
                queues.add(email, target, first);
                if target.events.first_open {
                    events.add(email, target, Kind::FirstOpen, first);
                }
                if target.events.open {
                    for open in wanted() {
                        events.add(email, target, Kind::Open, open);
                    }
                }
            }
        }
        (queues, events)
    }
}

/// What may change about queues, as the columns of a table.
#[derive(Default)]
struct QueueColumns<'a> {
    email_id: Vec<&'a str>,
    target: Vec<&'a str>,
    first_id: Vec<Uuid>,
    opens: Vec<i64>,
    wants_first: Vec<bool>,
    wants_each: Vec<bool>,
    only_credible: Vec<bool>,
}

impl<'a> QueueColumns<'a> {
    fn add(&mut self, email: &OpensOfEmail<'a>, target: &'a Target, first: &NewOpen) {
        self.email_id.push(email.email_id);
        self.target.push(&target.name);
        self.first_id.push(first.event_id);
        self.opens.push(if target.automated {
            email.opens
        } else {
            email.credible_opens
        });
        self.wants_first.push(target.events.first_open);
        self.wants_each.push(target.events.open);
        self.only_credible.push(!target.automated);
    }
}

/// Events, as the columns of a table.
#[derive(Default)]
struct EventColumns<'a> {
    email_id: Vec<&'a str>,
    target: Vec<&'a str>,
    kind: Vec<&'a str>,
    opened_at: Vec<Timestamptz>,
    event_id: Vec<Uuid>,
}

impl<'a> EventColumns<'a> {
    fn add(&mut self, email: &OpensOfEmail<'a>, target: &'a Target, kind: Kind, open: &NewOpen) {
        self.email_id.push(email.email_id);
        self.target.push(&target.name);
        self.kind.push(kind.as_str());
        self.opened_at.push(open.opened_at);
        self.event_id.push(open.event_id);
    }
}

/// Forgets what was still to be told of these emails, of one shard, as far as they are gone: part of every transaction that
/// removes emails.
pub(crate) async fn forget(tx: &Transaction<'_>, layout: Layout, email_ids: &[&str]) -> Result<(), Error> {
    for (name, statement) in FORGET {
        let forget = tx
            .prepare_cached(&layout.form(statement))
            .await
            .in_statement(name)?;
        tx.execute(&forget, &[&email_ids]).await.in_statement(name)?;
    }
    Ok(())
}
