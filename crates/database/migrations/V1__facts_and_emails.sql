-- The facts (hits and marks), and what is kept of each email so that a read costs what it shows.
--
-- Times are whole milliseconds by the pixels' clocks; nothing here asks the database for the time. Text keys compare
-- bytewise (collate "C"): that is the order in which emails are locked and listed, on any server.

-- One row for each email that any fact names. Everything that locks emails locks these rows, in the order of email_id.
-- A mark may come before the first hit; such a row has no identity yet and is not shown.
create table tracked_emails (
  email_id         text collate "C" primary key,
  -- Of the earliest hit, by (opened_at, event_id): a later token cannot rewrite them.
  user_id          text,
  recipient        text,
  sent_at          text,
  first_opened_at  timestamptz,  -- shown as created_at
  first_event_id   uuid,
  -- Of the earliest hit whose token names a sender.
  sender_email     text,
  sender_opened_at timestamptz,
  sender_event_id  uuid,
  -- For life: retention does not lower them.
  open_count       bigint not null default 0,
  hit_count        bigint not null default 0,
  last_opened_at   timestamptz,  -- of the latest open; goes back when a late fact withdraws it
  -- The same of the opens that are not by machines, and of those by people (tracking::agents).
  credible_open_count   bigint not null default 0,
  last_credible_open_at timestamptz,
  human_open_count      bigint not null default 0,
  last_human_open_at    timestamptz,
  -- What tells the recorder, without a look at the facts, that a batch comes after all that is stored: nearly every
  -- batch does. The latest hit, counting or not, and the latest mark; never too early. (When facts were removed they may
  -- be too late, which costs a look and nothing else.)
  last_hit_at      timestamptz,
  last_marked_at   timestamptz,
  -- Names, by a random number, the transaction that last counted without a look.
  counted_by       bigint
)
-- No index has the columns that each hit updates; room on the page keeps such updates off the indexes (HOT).
with (fillfactor = 70);

-- The list of emails. A row enters it with its first hit and moves only if an earlier one arrives late.
create index tracked_emails_by_creation on tracked_emails (first_opened_at desc, email_id)
  where first_opened_at is not null;

-- The API's `id` of a hit: fits a double, and says nothing about order.
create sequence hit_ids maxvalue 9007199254740991;

-- The primary key serves idempotence, the look around a new hit, and the timeline of an email. There is no foreign key:
-- the recording transaction holds the email's row.
create table hits (
  email_id         text collate "C" not null,
  opened_at        timestamptz not null,
  event_id         uuid not null,
  id               bigint not null default nextval('hit_ids'),
  client_address   inet,
  user_agent       text,
  referer_host     text,
  dedup_key        bigint not null,          -- tracking::DedupKey
  google_proxy     boolean not null,         -- Google's image proxy, by agent and network
  -- The verdict.
  is_duplicate     boolean not null,
  consumed_mark_at timestamptz,
  consumed_mark_id uuid,
  compose_window   boolean not null,
  is_open          boolean not null generated always as
                     (not is_duplicate and consumed_mark_at is null and not compose_window) stored,
  -- What is known of the reader's device and place.
  device_type      text not null,            -- phone, computer or other
  geo_country      text,
  geo_region       text,
  geo_city         text,
  latitude         double precision,
  longitude        double precision,
  -- Who fetched it, and how far its open is to be believed (tracking::agents).
  agent            text not null default 'unnamed',
  confidence       text not null default 'unclear',
  primary key (email_id, opened_at, event_id)
) partition by range (opened_at);

-- Opens over all emails, newest first.
create index hits_by_time on hits (opened_at, event_id);
-- The diagnostics: how long after a mark its hit came, and Google's proxy by itself.
create index hits_consuming_marks on hits (opened_at, event_id) where consumed_mark_at is not null;
create index hits_of_google_proxy on hits (opened_at, event_id) where google_proxy;

create table marks (
  email_id       text collate "C" not null,
  marked_at      timestamptz not null,
  mark_id        uuid not null,
  client_address inet,
  user_agent     text,
  primary key (email_id, marked_at, mark_id)
);
create index marks_by_time on marks (marked_at, mark_id);

-- Each recorder worker raises its own row in each of its transactions. Together the rows say whether anything that a
-- list shows has changed, and no two workers wait for each other.
create table revisions (
  writer   text primary key,
  revision bigint not null
);

-- How far the recorders have come with what they do to all hits or marks in the order of time, so that none of it is done
-- twice.
create table upkeep (
  task       text primary key,
  done_until timestamptz not null default '2000-01-01T00:00:00Z'
);
insert into upkeep (task) values ('addresses of hits'), ('addresses of marks');

-- Adds the partition of hits for the month that begins at `month_start` (UTC). Answers whether it was missing.
-- Created apart and then attached, so that readers and writers of the other months do not wait for it.
create function add_hits_partition(month_start timestamptz) returns boolean
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  partition_name text := 'hits_' || to_char(month_start at time zone 'UTC', 'YYYY_MM');
  month_end      timestamptz := ((month_start at time zone 'UTC') + interval '1 month') at time zone 'UTC';
begin
  if month_start <> date_trunc('month', month_start, 'UTC') then
    raise exception 'add_hits_partition: % is not the beginning of a month in UTC', month_start;
  end if;
  perform pg_advisory_xact_lock(hashtext('add_hits_partition'));
  if to_regclass('public.' || quote_ident(partition_name)) is not null then
    return false;
  end if;
  execute format('create table public.%I (like public.hits including all)', partition_name);
  execute format('alter table public.hits attach partition public.%I for values from (%L) to (%L)',
                 partition_name, month_start, month_end);
  return true;
end
$$;

-- Drops the partition of hits for the month that begins at `month_start` (UTC). Answers whether there was one.
create function drop_hits_partition(month_start timestamptz) returns boolean
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  partition_name text := 'hits_' || to_char(month_start at time zone 'UTC', 'YYYY_MM');
begin
  if month_start <> date_trunc('month', month_start, 'UTC') then
    raise exception 'drop_hits_partition: % is not the beginning of a month in UTC', month_start;
  end if;
  if to_regclass('public.' || quote_ident(partition_name)) is null then
    return false;
  end if;
  execute format('drop table public.%I', partition_name);
  return true;
end
$$;

-- `migrate` grants them to the recorder's role alone.
revoke execute on function add_hits_partition(timestamptz), drop_hits_partition(timestamptz) from public;
