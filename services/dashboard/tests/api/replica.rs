//! On a hot standby: one that lags, one that must go on while a list is read, one that takes over.

use database::DASHBOARD_ROLE;
use serde_json::json;
use test_support::{PrivatePostgres, TestDatabase, eventually, http::get};
use tokio::io::AsyncReadExt;
use tokio_postgres::Client;

use crate::{
    streaming::{MANY, ask},
    support::*,
};

const EMAILS: &str = "/dashboard/api/emails";
const OPENS: &str = "/dashboard/api/open-events";

/// A primary, its standby, and a database that is on both.
struct Pair {
    primary: PrivatePostgres,
    standby: PrivatePostgres,
    database: TestDatabase,
}

impl Pair {
    async fn with(settings_of_standby: &[&str]) -> Self {
        let primary = PrivatePostgres::start().await;
        primary.migrate_template(migrate).await;
        let standby = primary.standby_with(settings_of_standby).await;
        let database = primary.database().await;
        Self {
            primary,
            standby,
            database,
        }
    }

    async fn dashboard_on(&self, server: &PrivatePostgres) -> Running {
        let url = server.url_of(DASHBOARD_ROLE, self.database.name());
        Running::with(settings(&url, &[("DASHBOARD_TOKEN", TOKEN)])).await
    }

    /// Waits until the standby shows all that is committed.
    async fn level(&self) {
        let primary = self.primary.superuser("postgres").await;
        let row = primary.query_one("select pg_current_wal_lsn()::text", &[]).await;
        let written: String = row.unwrap().get(0);
        let standby = self.standby.superuser("postgres").await;
        eventually("the standby has replayed it", async || {
            let statement = "select 1 where pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
            standby.query_opt(statement, &[&written]).await.unwrap()
        })
        .await;
    }

    /// How often the standby has broken off what was in the way of its replay.
    fn conflicts(&self) -> usize {
        self.standby
            .log()
            .matches("due to conflict with recovery")
            .count()
    }
}

/// Has the standby's replay meet whoever reads `table`.
async fn replay_a_lock_of(table: &str, primary: &Client) {
    let statement = format!("begin; lock table {table} in access exclusive mode; commit");
    primary.batch_execute(&statement).await.unwrap();
}

#[tokio::test]
async fn a_standby_that_lags_shows_later_and_never_wrong() {
    let pair = Pair::with(&[]).await;
    let client = pair.database.superuser().await;
    let mut facts = Facts::default();
    facts.hit("a", 0, READER).store(&client).await;
    pair.level().await;
    let (on_primary, on_standby) = (
        pair.dashboard_on(&pair.primary).await,
        pair.dashboard_on(&pair.standby).await,
    );
    let before = on_standby.get(EMAILS).await;
    let tag = before.header("etag").unwrap().to_owned();

    let standby = pair.standby.superuser("postgres").await;
    standby
        .batch_execute("select pg_wal_replay_pause()")
        .await
        .unwrap();
    eventually("the replay stands still", async || {
        let state = "select 1 where pg_get_wal_replay_pause_state() = 'paused'";
        standby.query_opt(state, &[]).await.unwrap()
    })
    .await;
    facts.hit("a", 60_000, READER).mark("b", 1).hit("b", 2, PROXY);
    facts.store(&client).await;
    let newer = on_primary.get(EMAILS).await;
    assert_ne!(newer.body, before.body);
    for target in [EMAILS, OPENS] {
        let of_before = on_standby.get(target).await;
        assert!(
            of_before.json()["items"].as_array().unwrap().len() == 1,
            "{target}: {}",
            of_before.text()
        );
    }
    let revalidate = async || {
        authorized("GET", EMAILS)
            .header("if-none-match", &tag)
            .send(on_standby.address)
            .await
    };
    assert_eq!(revalidate().await.status, 304);
    assert_eq!(get(on_standby.admin, "/ready").await.status, 200);

    standby
        .batch_execute("select pg_wal_replay_resume()")
        .await
        .unwrap();
    pair.level().await;
    let now = revalidate().await;
    assert_eq!((now.status, &now.body), (200, &newer.body));
    assert_eq!(
        now.header("etag"),
        newer.header("etag"),
        "one state has one tag, wherever it is read"
    );
}

#[tokio::test]
async fn a_list_in_the_way_of_the_replay_is_begun_again_and_then_refused() {
    let pair = Pair::with(&["max_standby_streaming_delay=0"]).await;
    let client = pair.database.superuser().await;
    let mut facts = Facts::default();
    facts.hit("a", 0, READER).store(&client).await;
    pair.level().await;
    let dashboard = pair.dashboard_on(&pair.standby).await;
    // The list has read the revisions, and waits for the hits.
    let holder = pair.database.superuser().await;
    let hold = "begin; lock table hits in access exclusive mode";
    let standby = pair.standby.superuser(pair.database.name()).await;
    let waits = async || {
        // For the hits: for the revisions it waits too, while their lock is replayed.
        let statement = "select 1 from pg_locks where relation = 'hits'::regclass and not granted";
        standby.query_opt(statement, &[]).await.unwrap()
    };

    for (times, status) in [(1, 200), (4, 503)] {
        holder.batch_execute(hold).await.unwrap();
        raise_revision(&client).await; // a commit, so that the lock is sent along
        pair.level().await;
        let before = pair.conflicts();
        let (answer, ()) = tokio::join!(dashboard.get(OPENS), async {
            for time in 1..=times {
                eventually("the list waits", waits).await;
                replay_a_lock_of("revisions", &client).await;
                eventually("the standby has broken it off", async || {
                    (pair.conflicts() >= before + time).then_some(())
                })
                .await;
            }
            if status == 200 {
                eventually("the list waits again", waits).await;
                holder.batch_execute("commit").await.unwrap();
            }
        });
        assert_eq!(answer.status, status, "{}", answer.text());
        if status == 503 {
            let away = json!({"ok": false, "error": "The database is not available"});
            assert_eq!((answer.json(), answer.header("retry-after")), (away, Some("5")));
            holder.batch_execute("commit").await.unwrap();
        }
    }
    eventually("it reads again", async || {
        (dashboard.get(OPENS).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_long_list_in_the_way_of_the_replay_breaks_off_and_never_looks_complete() {
    let pair = Pair::with(&["max_standby_streaming_delay=0"]).await;
    let client = pair.database.superuser().await;
    store_many_emails(&client, MANY, 300).await;
    pair.level().await;
    let dashboard = pair.dashboard_on(&pair.standby).await;
    let mut stream = ask(dashboard.address, "").await;
    let mut received = vec![0; 100];
    stream.read_exact(&mut received).await.unwrap();
    assert!(received.starts_with(b"HTTP/1.1 200 OK\r\n"));
    replay_a_lock_of("tracked_emails", &client).await;
    eventually("the standby has broken it off", async || {
        (pair.conflicts() > 0).then_some(())
    })
    .await;
    let _ = stream.read_to_end(&mut received).await; // a reset would do as well
    assert!(
        !received.ends_with(b"0\r\n\r\n"),
        "a cut list must not look complete"
    );
    let cut = "email_tracker_dashboard_streams_total{end=\"database_failed\"}";
    assert_eq!(dashboard.metric(cut).await.to_string(), "1");
    // What autovacuum on the primary removes is replayed as well, and breaks off who reads just then.
    let again = eventually("the list is read again", async || {
        let again = dashboard.get(EMAILS).await;
        (again.status == 200).then_some(again)
    })
    .await;
    assert_eq!(
        column(&again.json(), "email_id").len(),
        usize::try_from(MANY).unwrap()
    );
}

#[tokio::test]
async fn it_reads_on_while_the_primary_dies_and_its_standby_takes_over() {
    let pair = Pair::with(&[]).await;
    let mut facts = Facts::default();
    facts
        .hit("a", 0, READER)
        .store(&pair.database.superuser().await)
        .await;
    pair.level().await;
    let dashboard = pair.dashboard_on(&pair.standby).await;
    let before = dashboard.get(EMAILS).await;
    pair.primary.kill().await;
    let meanwhile = dashboard.get(EMAILS).await;
    assert_eq!(meanwhile.header("etag"), before.header("etag"));
    assert_eq!(meanwhile.body, before.body);
    assert_eq!(get(dashboard.admin, "/ready").await.status, 200);

    pair.standby.promote().await;
    let promoted = pair.standby.superuser(pair.database.name()).await;
    facts.hit("b", 0, READER).store(&promoted).await;
    let ids = dashboard.column(EMAILS, "email_id").await;
    assert_eq!(ids, ["a", "b"]);
    assert!(dashboard.get(EMAILS).await.header("etag") != before.header("etag"));
}
