-- Webhooks: what is still to be told to whom. Both tables lie beside the facts of their email, and nothing in them is more
-- than a name of what the facts say: a body is made of the facts when it is sent. Forget an email's rows here with its facts.

-- One row for each email and target that has ever had something to tell. Whoever tells it holds this row's lease.
create table webhook_queues (
  email_id   text collate "C" not null,
  target     text collate "C" not null,  -- the name that the operator gave it
  -- The hit that was told as the email's first open: it is told once, whatever late facts do to the counts.
  first_open uuid,
  -- When to look at it next: at once, after a pause, or when a lease has run out. Null: nothing is left to tell.
  due_at     timestamptz,
  attempts   int not null default 0,     -- failures in a row of its oldest event
  primary key (email_id, target)
);
create index webhook_queues_due on webhook_queues (target, due_at) where due_at is not null;

-- The order in which an email's events are told: the transaction that takes a number holds the email's row.
create sequence webhook_numbers;

create table webhook_events (
  email_id     text collate "C" not null,
  target       text collate "C" not null,
  number       bigint not null default nextval('webhook_numbers'),
  kind         text not null,             -- first_open or open
  opened_at    timestamptz not null,      -- of the hit, with its event id
  event_id     uuid not null,
  queued_at    timestamptz not null,
  -- Given up, and why, until somebody has it sent again.
  set_aside_at timestamptz,
  problem      text,
  primary key (email_id, target, number)
);
create index webhook_events_by_target on webhook_events (target, queued_at) include (set_aside_at);
create index webhook_events_set_aside on webhook_events (target, email_id, number) where set_aside_at is not null;
