-- Has every session read anew which partitions hits has. To be called, in a transaction of its own, between adding a month
-- and storing its first hit.
--
-- PostgreSQL attaches a partition while others use the table, and two of these may go by a list of partitions without it:
--
-- - A session that is just making its list may take notice of the new one before the list is done, and keeps that list
--   until something about hits changes again, as a rule the next month. (Shown with 15, 17 and 18.)
-- - A transaction that has locked hits takes no notice before it locks something else. What it reads then, after a wait
--   for a row for example, lacks the new month, although its snapshot has it.
--
-- So this waits until everyone has finished who was using hits, and then changes something about the table that changes
-- nothing: who gets notice of it after his list is done makes a new one. docs/adr/0026 tells more. The partition's comment
-- then says that it is done, so that a recorder that starts has nothing to wait for; `once_more` does it nevertheless.
--
-- Who only reads, a backup say, is not waited for beyond five seconds: making a list takes milliseconds, and no verdict
-- comes from what such a transaction reads later. Who writes is.
create function announce_hits_partitions(once_more boolean default false) returns void
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  this_database oid := (select oid from pg_database where datname = current_database());
  give_up_at timestamptz := clock_timestamp() + interval '5 seconds';
  new_ones regclass[] := array(
    select inhrelid::regclass from pg_inherits
    where inhparent = 'public.hits'::regclass and obj_description(inhrelid, 'pg_class') is distinct from 'announced'
  );
  users text[] := array(
    select virtualtransaction from pg_locks
    where database = this_database and relation = 'public.hits'::regclass and granted and pid <> pg_backend_pid()
  );
  new_one regclass;
begin
  if new_ones = '{}' and not once_more then
    return;
  end if;
  while exists (
    select from pg_locks
    where database = this_database and relation = 'public.hits'::regclass and granted
      and virtualtransaction = any(users)
      and (mode = 'RowExclusiveLock' or clock_timestamp() < give_up_at)
  ) loop
    perform pg_sleep(0.01);
  end loop;
  -- Two that change what the catalog says of one table fail by each other: so this takes turns with others like it, with
  -- grants (roles.rs), and with whoever changes the table itself.
  perform pg_advisory_xact_lock(hashtext('add_hits_partition'));
  lock table only public.hits in access share mode;
  grant select on public.hits to current_user;
  foreach new_one in array new_ones loop
    execute format('comment on table %s is %L', new_one, 'announced');
  end loop;
end
$$;

-- `migrate` grants it to the recorder's role alone.
revoke execute on function announce_hits_partitions(boolean) from public;

-- What was there before is known to all who will ever write by this version.
do $$
declare
  partition_name regclass;
begin
  for partition_name in select inhrelid::regclass from pg_inherits where inhparent = 'public.hits'::regclass loop
    execute format('comment on table %s is %L', partition_name, 'announced');
  end loop;
end
$$;
