//! What the recorder's tests share: migrated databases, recorders on them, and what the tables say.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test's helper may panic, and no test needs all of them"
)]

use std::{collections::BTreeSet, num::NonZeroUsize};

use database::{Config, Database, RECORDER_ROLE, RolePasswords, Session};
use recorder::{Recorder, RecorderConfig};
use service_kit::Metrics;
pub use test_support::tables::stored_emails;
use test_support::{PrivatePostgres, TestDatabase};
use tokio_postgres::Client;
use tracking::{Fact, Hit, Mark, Rules, Timestamp, Token, facts::new_id};
use uuid::Uuid;

/// A fresh, migrated database on the server that this process's tests share.
pub async fn fresh_database() -> TestDatabase {
    PrivatePostgres::shared(migrate).await.database().await
}

/// Migrates the database at the owner's `url`, and makes the recorder's role.
pub async fn migrate(url: String) {
    let config = Config::new("DATABASE_URL", &url).unwrap();
    let passwords = RolePasswords {
        recorder: Some("recorder".into()),
        dashboard: None,
    };
    database::migrate(&config, &passwords).await.unwrap();
}

/// A pool of the recorder's role.
pub fn pool(database: &TestDatabase, connections: usize) -> Database {
    let config = Config::new("DATABASE_URL", &database.url_of(RECORDER_ROLE))
        .unwrap()
        .pool_size(connections)
        .session(Session::recorder());
    Database::open(&config, Metrics::new("test").unwrap().meter()).unwrap()
}

/// A recorder with a pool of its own.
pub fn recorder(database: &TestDatabase, instance: &str, rules: &Rules) -> Recorder {
    recorder_of_workers(2, database, instance, rules)
}

/// The same with so many workers, which a batch is split over.
pub fn recorder_of_workers(
    workers: usize,
    database: &TestDatabase,
    instance: &str,
    rules: &Rules,
) -> Recorder {
    let config = RecorderConfig {
        instance: instance.to_owned(),
        workers: NonZeroUsize::new(workers).unwrap(),
        rules: rules.clone(),
        geoip_database: recorder::GeoDatabase::Off,
    };
    Recorder::new(pool(database, 3), config, Metrics::new("test").unwrap().meter()).unwrap()
}

/// A time in words.
pub fn at(text: &str) -> Timestamp {
    Timestamp::parse_iso(text).unwrap()
}

/// A hit of `email_id`, whose id also holds `tie`.
pub fn hit(email_id: &str, opened_at: Timestamp, tie: u8) -> Hit {
    Hit {
        event_id: new_id(opened_at, [tie; 10]).unwrap(),
        opened_at,
        token: Token {
            user_id: format!("user {tie}"),
            email_id: email_id.to_owned(),
            recipient: format!("recipient{tie}@example.com"),
            sent_at: format!("sent {tie}"),
            sender_email: None,
        },
        client_address: [203, 0, 113, 7].into(),
        user_agent: Some("Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0".to_owned()),
        referer_host: None,
    }
}

/// A mark of `email_id`, whose id also holds `tie`.
pub fn mark(email_id: &str, marked_at: Timestamp, tie: u8) -> Mark {
    Mark {
        mark_id: new_id(marked_at, [tie; 10]).unwrap(),
        marked_at,
        email_id: email_id.to_owned(),
        client_address: [203, 0, 113, 9].into(),
        user_agent: None,
    }
}

/// The ids of the marks stored of the emails whose id begins with `prefix`.
pub async fn stored_marks(client: &Client, prefix: &str) -> Vec<(String, Uuid)> {
    let statement =
        "select email_id, mark_id from marks where starts_with(email_id, $1) order by 1, marked_at, mark_id";
    let rows = client.query(statement, &[&prefix]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The sum of all revisions: it rises with each transaction that changes what a list shows.
pub async fn revision(client: &Client) -> i64 {
    let statement = "select coalesce(sum(revision), 0)::bigint from revisions";
    client.query_one(statement, &[]).await.unwrap().get(0)
}

/// Both kinds as facts.
pub fn facts(hits: impl IntoIterator<Item = Hit>, marks: impl IntoIterator<Item = Mark>) -> Vec<Fact> {
    hits.into_iter()
        .map(Fact::Hit)
        .chain(marks.into_iter().map(Fact::Mark))
        .collect()
}

/// How many sessions of recorders wait for a lock.
pub async fn waiting(client: &Client) -> i64 {
    let statement = "select count(*) from pg_stat_activity
                     where datname = current_database() and usename = $1 and wait_event_type = 'Lock'";
    let row = client.query_one(statement, &[&RECORDER_ROLE]).await.unwrap();
    row.get(0)
}

/// An announcement of months that is under way.
pub struct Announcement {
    /// When, as PostgreSQL writes it.
    pub begun_at: String,
    pub took_seconds: f64,
    /// The event that it waits for, by PostgreSQL's name.
    pub waits_for: Option<String>,
}

/// The announcements that are under way.
pub async fn announcements(client: &Client) -> Vec<Announcement> {
    let statement =
        "select query_start::text, extract(epoch from clock_timestamp() - query_start)::float8, wait_event
                     from pg_stat_activity
                     where datname = current_database() and state = 'active'
                       and query like '-- announce_partitions%'";
    let rows = client.query(statement, &[]).await.unwrap();
    let read = |row: &tokio_postgres::Row| Announcement {
        begun_at: row.get(0),
        took_seconds: row.get(1),
        waits_for: row.get(2),
    };
    rows.iter().map(read).collect()
}

/// Whether exactly one is under way, and that is `such`.
pub async fn announces(client: &Client, such: impl Fn(&Announcement) -> bool) -> bool {
    matches!(announcements(client).await.as_slice(), [one] if such(one))
}

/// Holds up every recording transaction at its commit, when it has read and written everything, so that a test decides
/// what happens in between.
pub struct HeldCommits(Client);

impl HeldCommits {
    /// From now on, in this database.
    pub async fn of(database: &TestDatabase) -> Self {
        let client = database.superuser().await;
        client
            .batch_execute(
                "create function wait_for_the_test() returns trigger language plpgsql as
                   $$ begin perform pg_advisory_xact_lock_shared(1); return null; end $$;
                 create constraint trigger wait_for_the_test after insert or update on tracked_emails
                   deferrable initially deferred for each row execute function wait_for_the_test();
                 create constraint trigger wait_for_the_test after insert on marks
                   deferrable initially deferred for each row execute function wait_for_the_test();
                 select pg_advisory_lock(1)",
            )
            .await
            .unwrap();
        Self(client)
    }

    /// How many sessions of recorders wait: for this at their commit, or for the locks of another one.
    pub async fn waiting(&self) -> i64 {
        waiting(&self.0).await
    }

    /// Ends the sessions that wait at their commit, as a crash of the server does; answers how many.
    pub async fn kill_waiting(&self) -> i64 {
        let statement = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                         where datname = current_database() and usename = $1 and wait_event = 'advisory'";
        let row = self.0.query_one(statement, &[&RECORDER_ROLE]).await.unwrap();
        row.get(0)
    }

    /// Lets all commits pass.
    pub async fn release(&self) {
        self.0
            .batch_execute("select pg_advisory_unlock(1)")
            .await
            .unwrap();
    }

    /// Holds them up again.
    pub async fn hold(&self) {
        self.0.batch_execute("select pg_advisory_lock(1)").await.unwrap();
    }
}

/// Has the server log the plan of each statement that recorders run from now on.
pub async fn log_plans(client: &Client) {
    client
        .batch_execute(&format!(
            "alter role {RECORDER_ROLE} set session_preload_libraries = 'auto_explain';
             alter role {RECORDER_ROLE} set auto_explain.log_min_duration = 0;"
        ))
        .await
        .unwrap();
}

/// The names of the statements of these families whose plans are in the log. Fails if one of them reads a table from end to
/// end, unless that is one of a few rows: how far upkeep is done, and the keys of hashes.
pub fn planned_on_indexes(log: &str, families: &[&str]) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    for plan in log.split("Query Text: -- ").skip(1) {
        let (name, plan) = plan.split_once('\n').unwrap();
        if !families.iter().any(|family| name.starts_with(family)) {
            continue;
        }
        let plan = plan.split("LOG:").next().unwrap();
        assert!(
            !plan
                .replace("Seq Scan on upkeep", "")
                .replace("Seq Scan on erasure_keys", "")
                .contains("Seq Scan on"),
            "{name}: {plan}"
        );
        seen.insert(name.trim().to_owned());
    }
    seen
}
