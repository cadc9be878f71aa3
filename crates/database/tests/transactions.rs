//! Transactions by name: what is rerun, what is not, and what their errors say.
#![allow(clippy::expect_used, clippy::panic, reason = "test helpers")]

mod common;

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use common::{config, meter, migrated, open, open_with};
use database::{
    Config, DASHBOARD_ROLE, Database, Error, ErrorKind, InStatement, IsolationLevel, RECORDER_ROLE, Session,
    Transaction, Work,
};
use test_support::{Direction, FaultProxy, PrivatePostgres, TestDatabase, eventually};
use tokio::sync::Barrier;

/// Runs one text; its first column, as text, is the output.
struct Run<'a>(&'a str);

impl Work for Run<'_> {
    const NAME: &'static str = "run";
    type Output = Option<String>;

    async fn run(&self, tx: &Transaction<'_>) -> Result<Self::Output, Error> {
        let statement = tx.prepare_cached(self.0).await.in_statement("the_text")?;
        let rows = tx.query(&statement, &[]).await.in_statement("the_text")?;
        Ok(rows.first().and_then(|row| row.try_get(0).ok()))
    }
}

async fn emails(database: &TestDatabase) -> i64 {
    let client = database.superuser().await;
    client
        .query_one("select count(*) from tracked_emails", &[])
        .await
        .expect("a count")
        .get(0)
}

#[tokio::test]
async fn committed_if_it_returns_and_rolled_back_if_it_fails() {
    struct InsertThen(Result<(), Error>);
    impl Work for InsertThen {
        const NAME: &'static str = "insert_then";
        type Output = ();
        async fn run(&self, tx: &Transaction<'_>) -> Result<(), Error> {
            tx.execute(
                "insert into tracked_emails (email_id) values (gen_random_uuid()::text)",
                &[],
            )
            .await?;
            self.0.clone()
        }
    }
    let test = migrated().await;
    let database = open(&test);
    database.transact(&InsertThen(Ok(()))).await.expect("committed");
    assert_eq!(emails(&test).await, 1);
    let failed = database
        .transact(&InsertThen(Err(Error::unexpected("no"))))
        .await
        .expect_err("its own error");
    assert_eq!(failed.to_string(), "database, insert_then: no");
    assert_eq!(emails(&test).await, 1);
}

/// Locks two rows in an order of its own; the first time it waits between them for the other one to do the same.
struct LockBoth<'a> {
    order: [&'static str; 2],
    runs: AtomicU32,
    both_hold_one: &'a Barrier,
}

impl Work for LockBoth<'_> {
    const NAME: &'static str = "lock_both";
    type Output = ();

    async fn run(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        let first_time = self.runs.fetch_add(1, Ordering::SeqCst) == 0;
        for (turn, email) in self.order.iter().enumerate() {
            if first_time && turn == 1 {
                self.both_hold_one.wait().await;
            }
            tx.execute(
                "update tracked_emails set open_count = open_count + 1 where email_id = $1",
                &[email],
            )
            .await
            .in_statement("count")?;
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_deadlock_is_rerun() {
    let test = migrated().await;
    let database = open(&test);
    database
        .transact(&Run("insert into tracked_emails (email_id) values ('a'), ('b')"))
        .await
        .expect("two rows");
    let both_hold_one = Barrier::new(2);
    let work = |order| LockBoth {
        order,
        runs: AtomicU32::new(0),
        both_hold_one: &both_hold_one,
    };
    let (there, back) = (work(["a", "b"]), work(["b", "a"]));
    let (one, two) = tokio::join!(database.transact(&there), database.transact(&back));
    one.expect("committed in the end");
    two.expect("committed in the end");
    let runs = there.runs.load(Ordering::SeqCst) + back.runs.load(Ordering::SeqCst);
    assert!(runs > 2, "there was a deadlock");
    let counts = database
        .transact(&Run("select sum(open_count)::text from tracked_emails"))
        .await;
    assert_eq!(counts.expect("a sum").as_deref(), Some("4"));
}

/// Reads a counter and writes it back, one higher; another one commits in between, the first time.
struct ReadThenWrite<'a> {
    runs: AtomicU32,
    other: &'a Database,
}

impl Work for ReadThenWrite<'_> {
    const NAME: &'static str = "read_then_write";
    const ISOLATION: IsolationLevel = IsolationLevel::RepeatableRead;
    type Output = i64;

    async fn run(&self, tx: &Transaction<'_>) -> Result<i64, Error> {
        let read = tx
            .query_one("select open_count from tracked_emails", &[])
            .await
            .in_statement("read")?;
        let next = read.try_get::<_, i64>(0)? + 1;
        if self.runs.fetch_add(1, Ordering::SeqCst) == 0 {
            self.other
                .transact(&Run("update tracked_emails set open_count = open_count + 1"))
                .await?;
        }
        tx.execute("update tracked_emails set open_count = $1", &[&next])
            .await
            .in_statement("write")?;
        Ok(next)
    }
}

#[tokio::test]
async fn a_serialization_failure_is_rerun_on_what_is_true_by_then() {
    let test = migrated().await;
    let database = open(&test);
    database
        .transact(&Run("insert into tracked_emails (email_id) values ('a')"))
        .await
        .expect("a row");
    let work = ReadThenWrite {
        runs: AtomicU32::new(0),
        other: &database,
    };
    assert_eq!(database.transact(&work).await.expect("committed in the end"), 2);
    assert_eq!(work.runs.load(Ordering::SeqCst), 2);
}

/// Counts its runs and then fails by `statement`.
struct Failing<'a> {
    runs: AtomicU32,
    statement: &'a str,
}

impl Work for Failing<'_> {
    const NAME: &'static str = "failing";
    type Output = ();

    async fn run(&self, tx: &Transaction<'_>) -> Result<(), Error> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        tx.batch_execute(self.statement).await.in_statement("fail")
    }
}

async fn fail(database: &Database, statement: &str) -> (Error, u32) {
    let work = Failing {
        runs: AtomicU32::new(0),
        statement,
    };
    let error = database.transact(&work).await.expect_err(statement);
    (error, work.runs.into_inner())
}

#[tokio::test]
async fn reruns_end_and_other_errors_have_none() {
    let test = migrated().await;
    let database = open(&test);
    let raise = |code: &str| format!("do $$ begin raise exception 'no' using errcode = '{code}'; end $$");
    let (error, runs) = fail(&database, &raise("40001")).await;
    assert_eq!((error.kind(), runs), (ErrorKind::Transient, 7));
    for (code, kind) in [
        ("40002", ErrorKind::Other),
        ("40003", ErrorKind::Other),
        ("22000", ErrorKind::Data),
        ("23505", ErrorKind::Data),
        ("54000", ErrorKind::Data),
        ("42501", ErrorKind::Permission),
        ("25006", ErrorKind::ReadOnly),
        ("53300", ErrorKind::TooManyConnections),
        ("57014", ErrorKind::TimedOut),
        ("08006", ErrorKind::LostConnection),
        ("42P01", ErrorKind::Other),
    ] {
        let (error, runs) = fail(&database, &raise(code)).await;
        assert_eq!((error.kind(), runs), (kind, 1), "{code}");
        assert_eq!(
            error.sqlstate().map(tokio_postgres::error::SqlState::code),
            Some(code)
        );
    }
}

#[tokio::test]
async fn a_lost_connection_is_not_rerun_and_the_next_transaction_has_another() {
    let test = migrated().await;
    let database = Database::open(&config(&test.url()).pool_size(1), &meter()).expect("a pool");
    let (error, runs) = fail(&database, "select pg_terminate_backend(pg_backend_pid())").await;
    assert_eq!((error.kind(), runs), (ErrorKind::LostConnection, 1), "{error}");
    database
        .transact(&Run("select 'again'"))
        .await
        .expect("a new connection");
}

#[tokio::test]
async fn a_server_that_falls_silent_counts_as_gone() {
    let test = migrated().await;
    let proxy = FaultProxy::start(test.tcp_address()).await;
    let url = test.tcp_url_through(RECORDER_ROLE, proxy.address());
    let password = common::passwords().recorder;
    let config = Config::new("DATABASE_URL", &url)
        .expect("a URL")
        .password(password.as_deref())
        .pool_size(1)
        .attempt_limit(Duration::from_secs(2));
    let database = Database::open(&config, &meter()).expect("a pool");
    database
        .transact(&Run("select 'before'"))
        .await
        .expect("connected");
    proxy.stall(Direction::ToClient);
    let silent = database
        .transact(&Run("select 'silence'"))
        .await
        .expect_err("no answer comes");
    assert_eq!(silent.kind(), ErrorKind::LostConnection, "{silent}");
    let client = test.superuser().await;
    eventually("the server has no session of it any more", async || {
        let statement = "select 1 from pg_stat_activity where datname = $1 and usename = $2";
        let sessions = client.query(statement, &[&test.name(), &RECORDER_ROLE]).await;
        sessions.expect("the sessions").is_empty().then_some(())
    })
    .await;
    proxy.resume(Direction::ToClient);
    database
        .transact(&Run("select 'after'"))
        .await
        .expect("another connection");
}

#[tokio::test]
async fn a_pool_finds_a_restarted_server_again() {
    let server = PrivatePostgres::start().await;
    let test = server.empty_database().await;
    let database = open(&test);
    database
        .transact(&Run("select 'before'"))
        .await
        .expect("connected");
    server.crash().await;
    let away = database
        .transact(&Run("select 'away'"))
        .await
        .expect_err("nothing is there");
    assert_eq!(away.kind(), ErrorKind::LostConnection, "{away}");
    server.start_again().await;
    database
        .transact(&Run("select 'after'"))
        .await
        .expect("found again");
}

#[tokio::test]
async fn errors_hold_no_values() {
    const SECRET: &str = "alice@example.com";
    let test = migrated().await;
    let database = open(&test);
    let failing = [
        format!("insert into tracked_emails (email_id) values ('{SECRET}'), ('{SECRET}')"),
        format!("select '{SECRET}'::inet"),
        format!("select '{SECRET}'::bigint"),
        format!(
            "insert into hits (email_id, opened_at, event_id, dedup_key, google_proxy, is_duplicate, compose_window,
                               device_type)
             values ('{SECRET}', '2026-03-07Z', gen_random_uuid(), 1, false, false, false, 'other')"
        ),
        format!("insert into marks (email_id, marked_at) values ('{SECRET}', '2026-03-07Z')"),
    ];
    for statement in failing {
        let (error, _) = fail(&database, &statement).await;
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(error.statement(), Some("fail"));
        for text in [error.to_string(), format!("{error:?}"), format!("{error:#?}")] {
            assert!(!text.contains("alice"), "{text}");
        }
        assert!(std::error::Error::source(&error).is_none());
    }
}

#[tokio::test]
async fn an_error_names_transaction_statement_and_code() {
    let test = migrated().await;
    let (error, _) = fail(&open(&test), "select * from no_such_table").await;
    let expected = "database, failing, fail: relation \"no_such_table\" does not exist (SQLSTATE 42P01)";
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_full_pool_and_a_full_server_are_told_apart_from_failures() {
    let test = migrated().await;
    let config = config(&test.url())
        .pool_size(1)
        .pool_wait(Duration::from_millis(20));
    let database = Database::open(&config, &meter()).expect("a pool");
    let held = database.client().await.expect("the only connection");
    let error = database
        .transact(&Run("select 1"))
        .await
        .expect_err("none is free");
    assert_eq!(error.kind(), ErrorKind::TooManyConnections, "{error}");
    drop(held);
    database.transact(&Run("select 1")).await.expect("free again");

    let admin = test.superuser().await;
    let limited = format!("limited_{}", test.name());
    admin
        .batch_execute(&format!("create role {limited} login connection limit 1"))
        .await
        .expect("a role");
    let config = common::config(&test.url_of(&limited));
    let _held = config.connect().await.expect("the only connection");
    let error = config.connect().await.expect_err("the server allows one");
    assert_eq!(error.kind(), ErrorKind::TooManyConnections, "{error}");
}

#[tokio::test]
async fn sessions_have_their_services_settings() {
    let test = migrated().await;
    let show = async |database: &Database, setting: &str| {
        database
            .transact(&Run(&format!("select current_setting('{setting}')")))
            .await
            .expect("a setting")
    };
    let config = |role: &str| config(&test.url_of(role)).application_name("a test");
    for session in [Session::recorder(), Session::recorder().per_transaction()] {
        let recorder = Database::open(&config(RECORDER_ROLE).session(session), &meter()).expect("a pool");
        for (setting, value) in [
            ("enable_seqscan", "off"),
            ("plan_cache_mode", "force_generic_plan"),
            ("jit", "off"),
            ("timezone", "UTC"),
            ("application_name", "a test"),
        ] {
            assert_eq!(
                show(&recorder, setting).await.as_deref(),
                Some(value),
                "{setting}"
            );
        }
    }
    // As where Citus is loaded, which plans nothing before it knows the parameters.
    let admin = test.superuser().await;
    let load = "do $$ begin execute format('alter database %I set citus.shard_count = 32', current_database()); end $$";
    admin.batch_execute(load).await.expect("a setting");
    for session in [Session::recorder(), Session::recorder().per_transaction()] {
        let recorder = Database::open(&config(RECORDER_ROLE).session(session), &meter()).expect("a pool");
        assert_eq!(show(&recorder, "plan_cache_mode").await.as_deref(), Some("auto"));
        assert_eq!(show(&recorder, "enable_seqscan").await.as_deref(), Some("off"));
    }
    let dashboard = Session::dashboard(Duration::from_millis(1_500));
    for session in [dashboard.clone(), dashboard.per_transaction()] {
        let dashboard = Database::open(&config(DASHBOARD_ROLE).session(session), &meter()).expect("a pool");
        assert_eq!(
            show(&dashboard, "statement_timeout").await.as_deref(),
            Some("1500ms")
        );
        assert_eq!(
            show(&dashboard, "transaction_read_only").await.as_deref(),
            Some("on")
        );
        let (error, _) = fail(&dashboard, "select pg_sleep(60)").await;
        assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    }
}

#[tokio::test]
async fn settings_per_transaction_leave_the_connection_as_it_was() {
    let test = migrated().await;
    let config = config(&test.url())
        .pool_size(1)
        .session(Session::recorder().per_transaction());
    let database = Database::open(&config, &meter()).expect("a pool");
    database.transact(&Run("select 1")).await.expect("a transaction");
    let client = database.client().await.expect("the same connection");
    let outside: String = client
        .query_one("show enable_seqscan", &[])
        .await
        .expect("a setting")
        .get(0);
    assert_eq!(outside, "on");
}

#[tokio::test]
async fn the_owner_in_a_read_only_session_cannot_write_either() {
    let test = migrated().await;
    let database = open_with(&test, Session::dashboard(Duration::from_secs(5)));
    let (error, _) = fail(&database, "insert into tracked_emails (email_id) values ('a')").await;
    assert_eq!(error.kind(), ErrorKind::ReadOnly, "{error}");
}

#[tokio::test]
async fn a_streamed_answer_has_one_snapshot() {
    let test = migrated().await;
    let database = open(&test);
    let mut client = database.client().await.expect("a connection");
    let tx = database
        .begin(&mut client, IsolationLevel::RepeatableRead, true)
        .await
        .expect("a snapshot");
    let count = async || {
        tx.query_one("select count(*) from tracked_emails", &[])
            .await
            .expect("a count")
            .get(0)
    };
    let before: i64 = count().await;
    database
        .transact(&Run("insert into tracked_emails (email_id) values ('a')"))
        .await
        .expect("written");
    assert_eq!(count().await, before);
}

#[tokio::test]
async fn a_password_given_apart_wins() {
    let test = migrated().await;
    let url = test.tcp_url_of("email_tracker_recorder:not-this-one");
    let refused = config(&url)
        .connect()
        .await
        .expect_err("the URL's password is wrong");
    assert_eq!(refused.kind(), ErrorKind::Permission);
    let config: Config = config(&url).password(Some("recorder's"));
    config.connect().await.expect("the password given apart");
}
