-- Has every session read anew which partitions hits has. To be called, in a transaction of its own, between adding a month
-- and storing its first hit.
--
-- PostgreSQL attaches a partition while others read the table. A session that is just listing the partitions then, without
-- the new one, may take notice of it before its own list is done, and keeps that list until something about hits changes
-- again, as a rule the next month: till then it neither finds the hits of the new month nor stores any. (Shown with 15, 17
-- and 18; docs/adr/0026.) So this waits until everyone who was reading hits has finished, and then changes something about
-- the table that changes nothing: who gets notice of it after his list is done makes a new one.
--
-- Who reads for longer, a backup say, is not waited for beyond five seconds: making the list takes milliseconds.
create function announce_hits_partitions() returns void
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  give_up_at timestamptz := clock_timestamp() + interval '5 seconds';
  this_database oid := (select oid from pg_database where datname = current_database());
  readers text[] := array(
    select virtualtransaction from pg_locks
    where database = this_database and relation = 'public.hits'::regclass and granted and pid <> pg_backend_pid()
  );
begin
  while clock_timestamp() < give_up_at and exists (
    select from pg_locks
    where database = this_database and relation = 'public.hits'::regclass and granted
      and virtualtransaction = any(readers)
  ) loop
    perform pg_sleep(0.01);
  end loop;
  -- Two that change what the catalog says of one table fail by each other: so this takes turns with others like it, with
  -- grants (roles.rs), and with whoever changes the table itself.
  perform pg_advisory_xact_lock(hashtext('add_hits_partition'));
  lock table only public.hits in access share mode;
  grant select on public.hits to current_user;
end
$$;

-- `migrate` grants it to the recorder's role alone.
revoke execute on function announce_hits_partitions() from public;
