//! Backups that restore: a database of all kinds of facts is backed up, destroyed and restored, and nothing is different.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod facts;
mod program;
#[allow(dead_code, reason = "no test needs all of it")]
mod up;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use test_support::{
    OWNER_PASSWORD, PrivatePostgres, Signal, Spawned, TestDatabase, eventually, http::Request,
};

use crate::{
    facts::{migrated, record_all_kinds, record_one},
    program::{command, email_tracker, succeeds},
    up::{Account, Home, Up},
};

const TABLES: [&str; 4] = ["tracked_emails", "hits", "marks", "refinery_schema_history"];

/// The one line by which it fails.
async fn refused(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = email_tracker(arguments, variables).await;
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

/// A backup of `database`, over TCP with a password.
async fn backed_up(database: &TestDatabase, folder: &Path) -> PathBuf {
    let url = database.tcp_url_of("email_tracker_owner");
    let variables = [("DATABASE_URL", &*url), ("DATABASE_PASSWORD", OWNER_PASSWORD)];
    let said = succeeds(&["backup", text(folder)], &variables).await;
    said.split(": ").next().unwrap().into()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Every row of every table, as text, and what is granted on them.
async fn contents(database: &TestDatabase) -> BTreeMap<String, Vec<String>> {
    let client = database.superuser().await;
    let mut contents = BTreeMap::new();
    let mut read = async |name: &str, sql: &str| {
        let rows = client.query(sql, &[]).await.expect(name);
        let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        assert!(!rows.is_empty(), "{name} is empty, so it proves nothing");
        contents.insert(name.to_owned(), rows);
    };
    for table in TABLES {
        read(table, &format!("select t::text from {table} t order by 1")).await;
    }
    read(
        "revisions",
        "select r::text from revisions r where writer <> 'restore' order by 1",
    )
    .await;
    read("hit_ids", "select last_value::text from hit_ids").await;
    read(
        "relations",
        "select format('%s %s %s %s', oid::regclass, relkind, relowner::regrole,
                       (select string_agg(a::text, ' ' order by a::text) from unnest(relacl) a))
         from pg_class where relnamespace = 'public'::regnamespace order by 1",
    )
    .await;
    read(
        "functions",
        "select format('%s %s %s', oid::regprocedure, prosecdef,
                       (select string_agg(a::text, ' ' order by a::text) from unnest(proacl) a))
         from pg_proc where pronamespace = 'public'::regnamespace order by 1",
    )
    .await;
    contents
}

/// The lists as the dashboard answers them, byte by byte.
async fn lists(up: &Up) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    for target in [
        "/dashboard/api/emails",
        "/dashboard/api/open-events",
        "/dashboard/api/open-events?include=all",
    ] {
        let request = Request::get(target).header("x-tracker-token", &up.dashboard_token);
        let answer = eventually("the dashboard answers", async || {
            let answer = request.send(up.address).await;
            (answer.status == 200).then_some(answer)
        })
        .await;
        bodies.push(answer.body);
    }
    bodies
}

/// Upkeep makes partitions as it begins. One that it makes later is no difference that matters.
async fn next_month_is_there(database: &TestDatabase) {
    let client = database.superuser().await;
    let next = "select to_regclass('hits_' || to_char(now() at time zone 'UTC' + interval '1 month', 'YYYY_MM')) is not null";
    eventually("upkeep has made the partition of the next month", async || {
        let row = client.query_one(next, &[]).await.unwrap();
        row.get::<_, bool>(0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_destroyed_database_is_restored_to_the_byte_while_everything_runs() {
    let server = PrivatePostgres::start().await;
    let database = migrated(&server).await;
    record_all_kinds(&database).await;
    let home = Home::of(Account::Own);
    let url = database.url();
    let up = home.up_with(&[("DATABASE_URL", &url)]).await;
    next_month_is_there(&database).await;
    let before = (lists(&up).await, contents(&database).await);
    let folder = tempfile::tempdir().unwrap();
    let dump = backed_up(&database, folder.path()).await;

    // What came since is lost, a month that the backup does not know and a table of a newer version too.
    record_one(&database, "since", "2019-05-05T05:05:05Z").await;
    let owner = database.superuser().await;
    owner
        .batch_execute(
            "create type mood as enum ('good'); create table newer (mood mood); create view v as select 1 as one;
             delete from marks",
        )
        .await
        .unwrap();
    assert_ne!(lists(&up).await, before.0);
    let said = refused(&["restore", text(&dump)], &[("DATABASE_URL", &url)]).await;
    assert!(said.contains("holds facts already: --replace"), "{said}");

    // Under the feet of a recorder and a dashboard that hold connections and prepared statements.
    let said = succeeds(
        &["restore", "--replace", text(folder.path())],
        &[("DATABASE_URL", &url)],
    )
    .await;
    assert!(said.contains("restored"), "{said}");
    assert_eq!(contents(&database).await, before.1);
    assert_eq!(lists(&up).await, before.0);
    assert_eq!(Request::get(&up.pixel_to_try).send(up.address).await.status, 200);
    eventually("a hit is recorded after it", async || {
        (up.emails().await.len() > serde_json_items(&before.0[0])).then_some(())
    })
    .await;
    up.stop().await;

    // And on another machine, where nothing is.
    drop(owner);
    drop(database);
    let other = PrivatePostgres::start().await;
    let empty = other.empty_database().await;
    let url = empty.url();
    succeeds(&["restore", text(&dump)], &[("DATABASE_URL", &url)]).await;
    assert_eq!(contents(&empty).await, before.1);
    let home = Home::of(Account::Own);
    let up = home.up_with(&[("DATABASE_URL", &url)]).await;
    assert_eq!(lists(&up).await, before.0);
    up.stop().await;
}

fn serde_json_items(body: &[u8]) -> usize {
    let list: serde_json::Value = serde_json::from_slice(body).unwrap();
    list["items"].as_array().unwrap().len()
}

/// Makes the checksums again, as somebody who changed the files knowingly.
fn sign(dump: &Path) {
    let name = dump.file_name().unwrap().to_str().unwrap();
    let output = Command::new("sha256sum")
        .args([name, &format!("{name}.json")])
        .current_dir(dump.parent().unwrap())
        .output()
        .unwrap();
    assert!(output.status.success());
    fs::write(format!("{}.sha256", text(dump)), output.stdout).unwrap();
}

#[tokio::test]
async fn a_backup_that_is_not_whole_is_refused_and_the_database_stays() {
    let server = PrivatePostgres::start().await;
    let database = migrated(&server).await;
    record_all_kinds(&database).await;
    let folder = tempfile::tempdir().unwrap();
    let dump = backed_up(&database, folder.path()).await;
    record_one(&database, "since", "2026-03-03T03:03:03Z").await;
    let before = contents(&database).await;
    let url = database.url();
    let restore = async |expected: &str| {
        let said = refused(&["restore", "--replace", text(&dump)], &[("DATABASE_URL", &url)]).await;
        assert!(said.contains(expected), "{said}");
        assert_eq!(contents(&database).await, before);
    };

    let good = fs::read(&dump).unwrap();
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    fs::write(&dump, &flipped).unwrap();
    restore("its checksum differs").await;

    // Checksums that are right do not make a dump whole.
    fs::write(&dump, &good[..good.len() * 3 / 4]).unwrap();
    sign(&dump);
    restore("is as it was").await;

    fs::write(&dump, &good).unwrap();
    let manifest = format!("{}.json", text(&dump));
    let honest = fs::read_to_string(&manifest).unwrap();
    for (from, to, expected) in [
        (
            "\"schema_version\": ",
            "\"schema_version\": 9",
            "has schema version 9",
        ),
        ("\"hits\": ", "\"hits\": 1", "other numbers of rows"),
    ] {
        fs::write(&manifest, honest.replace(from, to)).unwrap();
        sign(&dump);
        restore(expected).await;
    }
    fs::remove_file(format!("{}.sha256", text(&dump))).unwrap();
    restore("checksums are missing").await;
}

/// It is killed when all rows are in and the indexes are being made.
#[tokio::test]
async fn a_restore_that_is_killed_leaves_the_database_as_it_was() {
    let server = PrivatePostgres::start().await;
    let database = migrated(&server).await;
    record_all_kinds(&database).await;
    let folder = tempfile::tempdir().unwrap();
    let dump = backed_up(&database, folder.path()).await;
    record_one(&database, "since", "2026-03-03T03:03:03Z").await;
    let before = contents(&database).await;

    let holder = database.superuser().await;
    holder
        .batch_execute(
            "create schema test;
             create function test.wait() returns event_trigger language plpgsql as $$
               begin perform pg_advisory_lock_shared(42); end $$;
             create event trigger wait on ddl_command_end when tag in ('CREATE INDEX') execute function test.wait();
             select pg_advisory_lock(42)",
        )
        .await
        .unwrap();
    let url = database.url();
    for signal in [Signal::KILL, Signal::TERM] {
        let variables = [("DATABASE_URL", &*url)];
        let mut restore = Spawned::start(&mut command(&["restore", "--replace", text(&dump)], &variables));
        let waits =
            "select 1 from pg_stat_activity where application_name = 'psql' and wait_event_type = 'Lock'";
        eventually("it makes indexes", async || {
            holder.query_opt(waits, &[]).await.unwrap()
        })
        .await;
        restore.signal(signal);
        assert!(!restore.exit().await.success());
        holder
            .batch_execute("select pg_advisory_unlock(42)")
            .await
            .unwrap();
        let left = "select 1 from pg_stat_activity where application_name = 'psql'";
        eventually("its session is gone", async || {
            holder.query_opt(left, &[]).await.unwrap().is_none().then_some(())
        })
        .await;
        assert!(
            contents(&database).await == before,
            "after {signal:?} it is not as it was"
        );
        holder.batch_execute("select pg_advisory_lock(42)").await.unwrap();
    }
}

#[tokio::test]
async fn the_private_database_is_found_kept_by_number_and_told_to_prometheus() {
    let home = Home::of(Account::Own);
    let up = home.up().await;
    assert_eq!(Request::get(&up.pixel_to_try).send(up.address).await.status, 200);
    eventually("the hit is recorded", async || {
        (!up.emails().await.is_empty()).then_some(())
    })
    .await;
    let folders = tempfile::tempdir().unwrap();
    let (backups, metrics) = (folders.path().join("backups"), folders.path().join("metrics"));
    fs::create_dir(&metrics).unwrap();
    let data_dir = home.data_dir();
    let variables = [
        ("DATA_DIR", text(&data_dir)),
        ("BACKUP_DIR", text(&backups)),
        ("BACKUP_METRICS_DIR", text(&metrics)),
        ("BACKUP_KEEP", "2"),
        ("LOG_FORMAT", "text"),
    ];
    let missing = refused(&["backup", "--fresh", "1h"], &variables).await;
    assert!(missing.contains("no folder"), "{missing}");
    for _ in 0..3 {
        let said = succeeds(&["backup"], &variables).await;
        assert!(said.contains("1 emails, 1 hits and 0 marks"), "{said}");
    }
    let dumps = || {
        let entries = backups.read_dir().unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension() == Some("dump".as_ref()))
            .count()
    };
    assert_eq!(dumps(), 2);
    assert_eq!(backups.read_dir().unwrap().count(), 2 * 3 + 1, "and the lock");
    succeeds(&["backup", "--fresh", "1h"], &variables).await;
    let told = fs::read_to_string(metrics.join("email_tracker_backup.prom")).unwrap();
    assert!(
        told.contains("\nemail_tracker_backup_last_success_timestamp_seconds 1"),
        "{told}"
    );
    home.promtool_accepts(&told);

    // The schedule goes by the newest backup, and ends at once.
    let mut schedule = Spawned::start(&mut command(&["backup", "--every", "2s"], &variables));
    schedule.line_with("backed up").await;
    schedule.signal(Signal::TERM);
    assert!(schedule.exit().await.success(), "{}", schedule.stderr());
    assert_eq!(dumps(), 2);

    up.stop().await;
    // A failure is told, and removes nothing.
    let mut schedule = Spawned::start(&mut command(&["backup", "--every", "1s"], &variables));
    let failure = schedule.line_with("the backup failed").await;
    assert!(
        failure.contains("no `email-tracker up` runs on DATA_DIR"),
        "{failure}"
    );
    schedule.signal(Signal::TERM);
    assert!(schedule.exit().await.success(), "{}", schedule.stderr());
    assert_eq!(dumps(), 2);
}

/// A database that was lost and begun anew: what is in the folder is what is wanted back.
#[tokio::test]
async fn the_schedule_does_not_put_an_empty_database_on_top_of_a_full_backup() {
    let server = PrivatePostgres::start().await;
    let full = migrated(&server).await;
    record_all_kinds(&full).await;
    let folder = tempfile::tempdir().unwrap();
    let dump = backed_up(&full, folder.path()).await;
    let empty = migrated(&server).await;
    let url = empty.url();
    let variables = [("DATABASE_URL", &*url), ("LOG_FORMAT", "text")];
    let mut schedule = Spawned::start(&mut command(
        &["backup", "--every", "1s", text(folder.path())],
        &variables,
    ));
    let failure = schedule.line_with("the backup failed").await;
    assert!(
        failure.contains(&format!("is empty, and {} holds ", text(&dump))),
        "{failure}"
    );

    // That one is the newest, and once it is restored, the schedule goes on.
    succeeds(&["restore", text(folder.path())], &variables).await;
    assert_eq!(contents(&empty).await, contents(&full).await);
    schedule.line_with("backed up").await;
    schedule.signal(Signal::TERM);
    assert!(schedule.exit().await.success(), "{}", schedule.stderr());

    let empty = migrated(&server).await;
    let url = empty.url();
    let said = succeeds(&["backup", text(folder.path())], &[("DATABASE_URL", &url)]).await;
    assert!(said.contains("0 emails"), "who asks by hand knows: {said}");
}

#[tokio::test]
async fn a_pg_dump_that_is_too_old_is_told_in_one_line() {
    use std::os::unix::fs::PermissionsExt as _;

    let server = PrivatePostgres::start().await;
    let database = migrated(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("pg_dump");
    fs::write(&old, "#!/bin/sh\necho 'pg_dump (PostgreSQL) 13.1'\n").unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o755)).unwrap();
    let url = database.url();
    let variables = [("DATABASE_URL", &*url), ("PG_BIN", text(folder.path()))];
    let said = refused(&["backup", text(&folder.path().join("backups"))], &variables).await;
    assert!(said.contains("pg_dump 13 is too old for PostgreSQL"), "{said}");
    assert_eq!(
        folder.path().join("backups").read_dir().unwrap().count(),
        1,
        "the lock"
    );
}
