//! `restore`: a backup in the place of the database, all of it in one transaction.
//!
//! `pg_restore` writes the backup as SQL, which runs in one session of `psql` between a BEGIN and a COMMIT of ours. The
//! COMMIT is only sent after `pg_restore` has ended well and `psql` has done all that it wrote; whatever dies before that
//! leaves the database as it was.
//! (`pg_restore --clean` itself would stumble over a partition that only one of the two sides has, and leave tables that
//! a newer version has added.)

use std::{
    io::ErrorKind,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use database::{
    Config, DASHBOARD_ROLE, Database, InStatement as _, RECORDER_ROLE, RolePasswords, SCHEMA_VERSION, Session,
};
use recorder::{Recorder, RecorderConfig};
use service_kit::{Metrics, Reader, SystemClock, program, tasks::stop_on_signal};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout},
};
use tracking::{Clock as _, Rules};

use crate::{
    backup::{Complete, Counts, DatabaseSettings, Folder, Programs, reason},
    migrate,
};

const PATIENCE: Duration = Duration::from_secs(10);
/// One for what is done, one to spare.
const CONNECTIONS: usize = 2;
/// `pg_restore` begins with the settings of its session; data come long after them.
const LINES_OF_SETTINGS: usize = 24;
/// What `psql` is told to say when only the COMMIT is left.
const ALL_DONE: &str = "all done but the commit";

/// What `restore` is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The backup: the path of its .dump, or a folder, whose newest one is meant
    file: PathBuf,
    /// Restore although the database holds facts, which are lost
    #[arg(long)]
    replace: bool,
}

/// The whole command.
pub(crate) fn restore(arguments: &Arguments) -> anyhow::Result<()> {
    let mut reader = Reader::from_environment();
    let settings = DatabaseSettings::read(&mut reader, "email-tracker restore");
    let settings = reader.finish(settings)?;
    program::block_on(async {
        let stop = stop_on_signal()?;
        tokio::select! {
            done = run(&settings, &arguments.file, arguments.replace) => done,
            () = stop.cancelled() => bail!("stopped; unless it was already done, the database is as it was"),
        }
    })
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn run(settings: &DatabaseSettings, file: &Path, replace: bool) -> anyhow::Result<()> {
    let backup = backup_at(file)?;
    let config = settings.config()?;
    let server = Target::look_at(&config, replace).await?;
    // pg_restore reads what its own pg_dump or an older one wrote.
    let programs = Programs::find(settings, server.major.max(backup.manifest.pg_dump))?;
    let restoring = Restoring {
        programs: &programs,
        config: &config,
        server: &server,
        backup: &backup,
        replace,
    };
    restoring
        .run()
        .await
        .with_context(|| format!("{config} is as it was"))?;
    println!("{config}: restored {}", backup.manifest);

    let migrated = migrate::patiently(&config, &RolePasswords::default(), PATIENCE).await;
    let migrated = migrated.context("restored, but not yet of this version: run `email-tracker migrate`")?;
    if migrated.from != Some(migrated.to) {
        println!(
            "{config}: brought from version {} to {}",
            backup.manifest.schema_version, migrated.to
        );
    }
    erase_again(&config).await?;
    // Without statistics the first queries would be planned for empty tables.
    let session = config.connect().await?;
    let analyzed = session
        .batch_execute("set statement_timeout = 0; analyze tracked_emails, hits, marks")
        .await;
    analyzed.in_statement("analyze")?;
    Ok(())
}

/// Removes what was erased since the backup was made. A recorder's upkeep would, too, but not before its next round.
#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn erase_again(config: &Config) -> anyhow::Result<()> {
    let metrics = Metrics::new(crate::NAME)?;
    let pooled = config.clone().pool_size(CONNECTIONS).session(Session::recorder());
    let database = Database::open(&pooled, metrics.meter())?;
    let recorder = RecorderConfig {
        instance: "restore".to_owned(),
        workers: NonZeroUsize::MIN,
        rules: Rules::default(),
        geoip_database: recorder::GeoDatabase::Off,
    };
    let recorder = Recorder::new(database, recorder, metrics.meter())?;
    let now = SystemClock.now();
    let erased = recorder
        .finish_erasures(now.saturating_add_millis(1), now)
        .await
        .context(
            "restored, but not yet without what was erased since: a recorder that runs will see to it",
        )?;
    if let Some(erased) = erased.filter(|erased| erased.emails > 0) {
        println!(
            "{config}: {} emails that had been erased since are erased again",
            erased.emails
        );
    }
    Ok(())
}

/// The backup at `path`, all its bytes checked and of a version that this one knows.
fn backup_at(path: &Path) -> anyhow::Result<Complete> {
    let newest = if path.is_dir() {
        let newest = Folder::look_into(path)?.newest()?;
        newest
            .with_context(|| format!("{} holds no complete backup", path.display()))?
            .path
    } else {
        path.to_owned()
    };
    let backup = Complete::checked(&newest)?;
    let version = backup.manifest.schema_version;
    if version > SCHEMA_VERSION {
        bail!(
            "{} has schema version {version}, which email-tracker {} made; this one knows {SCHEMA_VERSION}: use that one",
            newest.display(),
            backup.manifest.email_tracker
        );
    }
    Ok(backup)
}

/// What is to be known of the server beforehand.
struct Target {
    major: u32,
}

impl Target {
    async fn look_at(config: &Config, replace: bool) -> anyhow::Result<Self> {
        let session = config
            .connect()
            .await
            .with_context(|| format!("cannot reach {config}"))?;
        let version = database::schema_version(&session).await?;
        if let Some(version) = version.filter(|version| *version > SCHEMA_VERSION) {
            bail!(
                "{config} has schema version {version}, this one knows {SCHEMA_VERSION}: use the newer email-tracker"
            );
        }
        migrate::refuse_distributed(database::is_distributed(&session).await?, "`restore`")?;
        // It is asked once more under the locks; this spares the way there.
        if version.is_some() && !replace {
            let row = session
                .query_one("select exists (select from public.tracked_emails)", &[])
                .await
                .in_statement("find_facts")?;
            if row.try_get(0)? {
                bail!("{config} holds facts already: --replace puts the backup in their place");
            }
        }
        let row = session
            .query_one("select current_setting('server_version_num')::int", &[])
            .await
            .in_statement("server_version")?;
        Ok(Self {
            major: u32::try_from(row.try_get::<_, i32>(0)?)? / 10_000,
        })
    }
}

struct Restoring<'a> {
    programs: &'a Programs,
    config: &'a Config,
    server: &'a Target,
    backup: &'a Complete,
    replace: bool,
}

impl Restoring<'_> {
    async fn run(&self) -> anyhow::Result<()> {
        let mut pg_restore = self.programs.command("pg_restore", None);
        pg_restore
            .args(["--no-owner", "--schema=public", "--file=-"])
            .arg(&self.backup.path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut psql = self.programs.command("psql", Some(self.config));
        psql.args(["-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut pg_restore = pg_restore.spawn().context("cannot run pg_restore")?;
        let mut psql = psql.spawn().context("cannot run psql")?;
        let (pg_restore_said, psql_said) = (listen(&mut pg_restore), listen(&mut psql));

        let fed = match (psql.stdin.take(), psql.stdout.take()) {
            (Some(stdin), Some(stdout)) => self.feed(stdin, stdout, &mut pg_restore).await, // and closes them
            _ => bail!("psql has no input"),
        };
        let ended = psql.wait().await.context("cannot watch psql")?;
        let psql_said = psql_said.await.context("a task panicked")?;
        if ended.success() {
            return match fed {
                Err(Fed::PgRestore) => {
                    let said = pg_restore_said.await.context("a task panicked")?;
                    bail!("pg_restore failed: {}", reason(&said))
                }
                Err(Fed::Io(error)) => Err(error).context("psql took no more"),
                Ok(()) => Ok(()),
            };
        }
        let lost = ended.code() == Some(2) && fed.is_ok();
        bail!(
            "psql failed: {}{}",
            reason(&psql_said),
            if lost {
                "; the connection broke at the very end, so look whether the backup is there"
            } else {
                ""
            }
        )
    }

    /// Sends the whole transaction; its COMMIT only once `psql` says that all before it was done. Sent with the rest it
    /// might lie in the pipe, and be done after this process is gone.
    async fn feed(
        &self,
        mut psql: ChildStdin,
        psql_says: ChildStdout,
        pg_restore: &mut Child,
    ) -> Result<(), Fed> {
        let Some(stdout) = pg_restore.stdout.take() else {
            return Err(Fed::PgRestore);
        };
        let mut sql = BufReader::new(stdout);
        psql.write_all(before(self.replace).as_bytes()).await?;
        for _ in 0..LINES_OF_SETTINGS {
            let mut line = Vec::new();
            sql.read_until(b'\n', &mut line).await?;
            // Programs of 17 and newer write it for every server, and older ones do not know it.
            let unknown = self.server.major < 17 && line.starts_with(b"SET transaction_timeout");
            if !unknown {
                psql.write_all(&line).await?;
            }
        }
        tokio::io::copy_buf(&mut sql, &mut psql).await?;
        if !pg_restore.wait().await?.success() {
            return Err(Fed::PgRestore);
        }
        let now = SystemClock.now().as_millis();
        psql.write_all(after(self.backup.manifest.counts, now).as_bytes())
            .await?;
        psql.flush().await?;
        let mut says = String::new();
        BufReader::new(psql_says).read_line(&mut says).await?;
        if says.trim_end() != ALL_DONE {
            return Err(Fed::Io(ErrorKind::BrokenPipe.into())); // and psql says why
        }
        psql.write_all(b"commit;\n").await?;
        psql.flush().await?;
        Ok(())
    }
}

/// Why the transaction was not sent to its end.
enum Fed {
    PgRestore,
    Io(std::io::Error),
}

impl From<std::io::Error> for Fed {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads what a program complains of, so that it never waits for a reader.
fn listen(child: &mut Child) -> tokio::task::JoinHandle<Vec<u8>> {
    let stderr = child.stderr.take();
    tokio::spawn(async move {
        let mut said = Vec::new();
        if let Some(mut stderr) = stderr {
            // What could be read is what there is to say.
            let _ = stderr.read_to_end(&mut said).await;
        }
        said
    })
}

/// The beginning of the transaction: nobody else may use the tables, in the order in which the recorder locks them; the
/// roles that the backup grants to are there (`migrate` lets them log in); and what is ours in the schema is gone, what
/// extensions have put there is not.
fn before(replace: bool) -> String {
    format!(
        r"set client_min_messages = warning;
set statement_timeout = 0;
set lock_timeout = '60s';
set search_path = pg_catalog, pg_temp;
begin;
do $$
declare
  replace constant boolean := {replace};
  facts   boolean;
  object  text;
begin
  foreach object in array array['public.tracked_emails', 'public.hits', 'public.marks', 'public.stale_slots',
                             'public.slot_opens', 'public.slot_kinds', 'public.day_kinds', 'public.revisions',
                             'public.upkeep', 'public.erasure_keys', 'public.erased_emails', 'public.erasures',
                             'public.dashboard_sessions', 'public.webhook_queues', 'public.webhook_events'] loop
    if to_regclass(object) is not null then
      execute 'lock table ' || object || ' in access exclusive mode';
    end if;
  end loop;
  if to_regclass('public.tracked_emails') is not null and not replace then
    execute 'select exists (select from public.tracked_emails)' into facts;
    if facts then
      raise exception 'it holds facts by now: --replace puts the backup in their place';
    end if;
  end if;

  -- What was erased stays so.
  create temp table kept_keys (id uuid, inner_pad bytea, outer_pad bytea) on commit drop;
  create temp table kept_emails (hash bytea) on commit drop;
  create temp table kept_erasures (id uuid, kind text, subject bytea, asked_at timestamptz, finished_at timestamptz,
                                   emails bigint, hits bigint, marks bigint) on commit drop;
  if to_regclass('public.erased_emails') is not null then
    execute 'insert into kept_keys select id, inner_pad, outer_pad from public.erasure_keys';
    execute 'insert into kept_emails select hash from public.erased_emails';
    execute 'insert into kept_erasures
             select id, kind, subject, asked_at, finished_at, emails, hits, marks from public.erasures';
  end if;

  foreach object in array array['{RECORDER_ROLE}', '{DASHBOARD_ROLE}'] loop
    if not exists (select from pg_roles where rolname = object) then
      begin
        execute format('create role %I', object);
      exception when insufficient_privilege then
        null; -- a set-up with one login has no other roles, and its backup names none
      end;
    end if;
  end loop;

  for object in
    select format('drop %s if exists public.%I cascade',
                  case relkind when 'v' then 'view' when 'm' then 'materialized view' when 'S' then 'sequence'
                               else 'table' end,
                  relname)
    from pg_class
    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'S') and not relispartition
      and not exists (select from pg_depend
                      where classid = 'pg_class'::regclass and objid = pg_class.oid and deptype = 'e')
    union all
    select format('drop routine if exists %s cascade', pg_proc.oid::regprocedure)
    from pg_proc
    where pronamespace = 'public'::regnamespace
      and not exists (select from pg_depend
                      where classid = 'pg_proc'::regclass and objid = pg_proc.oid and deptype = 'e')
    union all
    select format('drop type if exists public.%I cascade', typname)
    from pg_type
    where typnamespace = 'public'::regnamespace and typtype in ('e', 'd')
      and not exists (select from pg_depend
                      where classid = 'pg_type'::regclass and objid = pg_type.oid and deptype = 'e')
  loop
    execute object;
  end loop;
end
$$;
"
    )
}

/// The end of the transaction: all rows are there, and no list has the `ETag` of another time, for which the browser would
/// keep showing what it showed.
fn after(counts: Counts, now_ms: i64) -> String {
    let Counts { emails, hits, marks } = counts;
    format!(
        r"
do $$
begin
  if (select count(*) from public.tracked_emails) <> {emails} or (select count(*) from public.hits) <> {hits}
    or (select count(*) from public.marks) <> {marks} then
    raise exception 'the backup holds other numbers of rows than were counted when it was made';
  end if;

  -- A recorder's upkeep looks for what is erased and there, while an erasure is not finished.
  insert into pg_temp.kept_erasures
    values (gen_random_uuid(), 'restore', null, to_timestamp({now_ms} / 1000.0), null, 0, 0, 0);
  if to_regclass('public.erased_emails') is not null then
    insert into public.erasure_keys (id, inner_pad, outer_pad)
      select id, inner_pad, outer_pad from pg_temp.kept_keys on conflict do nothing;
    insert into public.erased_emails (hash) select hash from pg_temp.kept_emails on conflict do nothing;
    insert into public.erasures (id, kind, subject, asked_at, finished_at, emails, hits, marks)
      select id, kind, subject, asked_at, finished_at, emails, hits, marks from pg_temp.kept_erasures
      on conflict (id) do nothing;
    -- Nor does any session hold again that was ended since.
    update public.dashboard_sessions set generation = greatest(generation + 1, {now_ms});
  elsif exists (select from pg_temp.kept_keys) then
    -- A backup of before there were such tables; the migration that makes them takes these in.
    create table public.erasures_kept_keys as select * from pg_temp.kept_keys;
    create table public.erasures_kept_emails as select * from pg_temp.kept_emails;
    create table public.erasures_kept as select * from pg_temp.kept_erasures;
  end if;
end
$$;
insert into public.revisions as r (writer, revision) values ('restore', {now_ms})
  on conflict (writer) do update set revision = greatest(r.revision + 1, excluded.revision);
\echo {ALL_DONE}
"
    )
}
