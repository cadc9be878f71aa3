-- The same as before, but for three things:
--
-- - A commit is seen a moment before its notice is sent. Who read in that moment that a month is announced, or that there is
--   one, went on too early. The lock by which months are added and announced is given up after the notices, so this waits
--   for it once, before it looks at anybody.
-- - A month's comment may be refused: for as long as somebody vacuums the month, or for good where the month is another
--   owner's. That failed the announcement, and all hits waited. Now the next who asks announces it once more.
-- - What uses hits is looked up only where there is something to announce.
create or replace function announce_hits_partitions(once_more boolean default false) returns void
language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
declare
  this_database oid := (select oid from pg_database where datname = current_database());
  give_up_at timestamptz := clock_timestamp() + interval '5 seconds';
  new_ones regclass[] := array(
    select inhrelid::regclass from pg_inherits
    where inhparent = 'public.hits'::regclass and obj_description(inhrelid, 'pg_class') is distinct from 'announced'
  );
  users text[];
  new_one regclass;
begin
  begin
    perform pg_advisory_xact_lock_shared(hashtext('add_hits_partition'));
    raise exception 'given up again' using errcode = 'ET001';
  exception when sqlstate 'ET001' then
    null; -- A block that fails, for whatever reason, gives up what it has locked.
  end;
  if new_ones = '{}' and not once_more then
    return;
  end if;
  users := array(
    select virtualtransaction from pg_locks
    where database = this_database and relation = 'public.hits'::regclass and granted and pid <> pg_backend_pid()
  );
  while exists (
    select from pg_locks
    where database = this_database and relation = 'public.hits'::regclass and granted
      and virtualtransaction = any(users)
      and (mode = 'RowExclusiveLock' or clock_timestamp() < give_up_at)
  ) loop
    perform pg_sleep(0.01);
  end loop;
  -- Two that change what the catalog says of one table fail by each other: so this takes turns with others like it, with
  -- grants (roles.rs), and with whoever locks the table against all.
  perform pg_advisory_xact_lock(hashtext('add_hits_partition'));
  lock table only public.hits in access share mode;
  grant select on public.hits to current_user;
  foreach new_one in array new_ones loop
    begin
      execute format('lock table only %s in share update exclusive mode nowait', new_one);
      execute format('comment on table %s is %L', new_one, 'announced');
    exception
      -- Somebody works on it, it is another owner's, or it was dropped meanwhile, and then it has no name. Whatever else it
      -- may be, the month is announced.
      when others then
        raise log 'announced without a comment, %: %', new_one, sqlerrm;
    end;
  end loop;
end
$$;
