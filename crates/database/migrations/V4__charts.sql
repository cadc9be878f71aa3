-- What charts are drawn from (docs/adr/0018).

-- The first opens, as the last ones: of all, of those that are not by machines, of those by people. With the time that
-- the mail says it was sent at, if that is one, they tell how long it took until somebody looked.
alter table tracked_emails
  add column sent_time                 timestamptz,
  add column earliest_open_at          timestamptz,
  add column earliest_credible_open_at timestamptz,
  add column earliest_human_open_at    timestamptz;

-- Opens by slots: quarters of an hour, of which the days and hours of every time zone are made. By how far they are
-- believed. A slot without opens has no row.
create table slot_opens (
  slot_at   timestamptz primary key,
  human     bigint not null,
  likely    bigint not null,
  unclear   bigint not null,
  automated bigint not null
);

-- The same by what made them: dimension is agent, device or country.
create table slot_kinds (
  slot_at   timestamptz not null,
  dimension text not null,
  value     text collate "C" not null,  -- '' is unknown
  human     bigint not null,
  likely    bigint not null,
  unclear   bigint not null,
  automated bigint not null,
  primary key (slot_at, dimension, value)
);

-- The sums of slot_kinds by days in UTC, for charts of a long time.
create table day_kinds (
  day_at    timestamptz not null,
  dimension text not null,
  value     text collate "C" not null,
  human     bigint not null,
  likely    bigint not null,
  unclear   bigint not null,
  automated bigint not null,
  primary key (day_at, dimension, value)
);

-- The slots whose counts no longer hold. Each transaction that changes hits adds those that it touched, once each and
-- with no look at what is here already, so that no two of them wait for each other. Upkeep counts them anew.
create table stale_slots (
  slot_at timestamptz not null
);

-- What was recorded before.
insert into stale_slots
select distinct date_bin(interval '15 minutes', opened_at, timestamptz 'epoch') from hits;

update tracked_emails as email
set earliest_open_at = opens.earliest,
    earliest_credible_open_at = opens.earliest_credible,
    earliest_human_open_at = opens.earliest_human
from (
  select email_id, min(opened_at) as earliest,
         min(opened_at) filter (where confidence <> 'automated') as earliest_credible,
         min(opened_at) filter (where confidence in ('human', 'likely')) as earliest_human
  from hits
  where is_open
  group by email_id
) as opens
where opens.email_id = email.email_id;

-- Built up from the first of the month: a day that the month does not have must not stop the migration.
update tracked_emails
set sent_time = (substr(sent_at, 1, 8) || '01' || substr(sent_at, 11))::timestamptz
                + (substr(sent_at, 9, 2)::int - 1) * interval '24 hours'
where sent_at ~ '^(19|20)\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-](0\d|1[0-4]):[0-5]\d)$';
