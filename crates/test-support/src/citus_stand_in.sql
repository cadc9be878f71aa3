-- Stands in for Citus in one plain database: its list of distributed tables and the functions that Email Tracker calls, as
-- far as they can be seen from outside. Every row stays where it is; but a transaction that changes rows of two shards is
-- refused as Citus refuses the statements that would. So is one whose statements are planned before their parameters are
-- known, of which Citus says "could not create distributed plan".
do $$ begin execute format('alter database %I set citus.shard_count = 32', current_database()); end $$;

create table pg_dist_partition (
  logicalrelid   regclass primary key,
  colocated_with text not null,
  shard_count    int,
  is_truncated   boolean not null default false
);
grant select, insert, update on pg_dist_partition to public;

create function get_shard_id_for_distribution_column(relation regclass, value text) returns bigint
language sql stable as $$
  select 102008 + (hashtext(value) & (coalesce(shard_count, 32) - 1)) from pg_dist_partition
  where logicalrelid = 'tracked_emails'::regclass
$$;

create function stay_in_one_shard() returns trigger language plpgsql as $$
declare
  shard    text := get_shard_id_for_distribution_column('tracked_emails', coalesce(new.email_id, old.email_id));
  touched  text := nullif(current_setting('stand_in.shard', true), '');
begin
  if current_setting('plan_cache_mode') = 'force_generic_plan' then
    raise exception 'could not create distributed plan' using errcode = '0A000';
  end if;
  if touched <> shard then
    raise exception 'rows of the shards % and % in one transaction', touched, shard using errcode = '0A000';
  end if;
  perform set_config('stand_in.shard', shard, true);
  return coalesce(new, old);
end
$$;

create function create_distributed_table(
  table_name regclass, distribution_column text, distribution_type text default 'hash',
  colocate_with text default 'default', shard_count int default null) returns void
language plpgsql as $$
begin
  if distribution_column <> 'email_id' or distribution_type <> 'hash' then
    raise exception 'not the column or the way';
  end if;
  if exists (select from pg_dist_partition where logicalrelid = table_name) then
    raise exception 'table "%" is already distributed', table_name;
  end if;
  if colocate_with not in ('default', 'none')
     and not exists (select from pg_dist_partition where logicalrelid = to_regclass(colocate_with)) then
    raise exception 'relation % is not distributed', colocate_with;
  end if;
  insert into pg_dist_partition values (table_name, colocate_with, shard_count);
  execute format('create trigger stay_in_one_shard before insert or update or delete on %s
                  for each row execute function stay_in_one_shard()', table_name);
end
$$;

create function truncate_local_data_after_distributing_table(function_name regclass) returns void language sql as $$
  update pg_dist_partition set is_truncated = true where logicalrelid = function_name
$$;
