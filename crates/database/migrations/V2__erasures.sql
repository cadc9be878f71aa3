-- What users have erased, so that it never comes back; and which sessions of the dashboard hold.
--
-- None of these tables holds personal data, and none is distributed: they stay where `revisions` is.

-- The keys of the hashes below: HMAC-SHA-256, whose key is kept as it is used, combined with the two pads of RFC 2104. There
-- is one, made here with the server's own strong random numbers. After a restore there may be the backup's as well: an email
-- is erased if its hash under any of them is noted.
create table erasure_keys (
  id        uuid primary key,
  inner_pad bytea not null check (octet_length(inner_pad) = 64),
  outer_pad bytea not null check (octet_length(outer_pad) = 64)
);

-- The hash of 'email ' and the email_id, for each email that was erased. A recorder asks for it before it adds an email.
create table erased_emails (
  hash bytea primary key
);

-- Who asked for what is not known; what was done is.
create table erasures (
  id          uuid primary key,
  kind        text not null,          -- email, recipient, or restore
  subject     bytea,                  -- the hash of 'email ' or 'recipient ', and what was named; none of a restore
  asked_at    timestamptz not null,
  finished_at timestamptz,            -- until then a recorder's upkeep removes what is noted as erased and still there
  emails      bigint not null default 0,
  hits        bigint not null default 0,
  marks       bigint not null default 0
);
create index erasures_by_time on erasures (asked_at, id);

-- One row: the generation of the sessions that hold. Log-out makes it another one, from the clock. It begins at random, far
-- below any time, so that a database made anew holds none of the sessions of before.
create table dashboard_sessions (
  only_row   boolean primary key default true check (only_row),
  generation bigint not null
);
insert into dashboard_sessions (generation) values (floor(random() * 1000000000)::bigint);

do $$
declare
  key       bytea := sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
  inner_key bytea := decode(repeat('36', 64), 'hex');
  outer_key bytea := decode(repeat('5c', 64), 'hex');
begin
  for place in 0..31 loop
    inner_key := set_byte(inner_key, place, get_byte(key, place) # 54);
    outer_key := set_byte(outer_key, place, get_byte(key, place) # 92);
  end loop;
  insert into erasure_keys (id, inner_pad, outer_pad) values (gen_random_uuid(), inner_key, outer_key);
  -- Restoring a backup of before this migration leaves here what was erased since.
  if to_regclass('public.erasures_kept') is not null then
    execute 'insert into erasure_keys select id, inner_pad, outer_pad from public.erasures_kept_keys';
    execute 'insert into erased_emails select hash from public.erasures_kept_emails';
    execute 'insert into erasures select id, kind, subject, asked_at, finished_at, emails, hits, marks
             from public.erasures_kept';
    drop table public.erasures_kept, public.erasures_kept_keys, public.erasures_kept_emails;
  end if;
end
$$;
