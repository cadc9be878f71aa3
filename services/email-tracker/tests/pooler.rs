//! With PgBouncer in transaction mode between recorder and PostgreSQL, and with a hot standby for the dashboard as well.
//!
//! Ignored where there is no PgBouncer: `PGBOUNCER=$(scripts/pgbouncer) cargo test -p email-tracker --test pooler --
//! --ignored`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod services;

use database::{Config, DASHBOARD_ROLE, RECORDER_ROLE};
use tempfile::TempDir;
use test_support::{PgBouncer, PrivatePostgres, TestDatabase, eventually, http::Request};

use crate::services::{Services, migrate, token};

/// Where the recorder goes through PgBouncer, and the dashboard as the test says.
struct Pooled {
    server: PrivatePostgres,
    bouncer: PgBouncer,
    database: TestDatabase,
    spool: TempDir,
}

impl Pooled {
    /// A PgBouncer with these settings before a server with those.
    async fn with(of_bouncer: &[&str], of_server: &[&str]) -> Self {
        let server = PrivatePostgres::start_with(of_server).await;
        server.migrate_template(migrate).await;
        Self {
            bouncer: server.pooled(&[RECORDER_ROLE], of_bouncer).await,
            database: server.database().await,
            server,
            spool: tempfile::tempdir().unwrap(),
        }
    }

    fn recorder_url(&self) -> String {
        self.bouncer.url_of(RECORDER_ROLE, self.database.name())
    }

    async fn services(&self) -> Services {
        let dashboard_url = self.database.url_of(DASHBOARD_ROLE);
        Services::between(&self.recorder_url(), &dashboard_url, self.spool.path()).await
    }

    /// PgBouncer's own console.
    fn console(&self) -> Config {
        Config::new("DATABASE_URL", &self.bouncer.console_url()).unwrap()
    }

    /// The login of somebody that the recorder shares PgBouncer with.
    fn neighbour(&self) -> Config {
        Config::new("DATABASE_URL", &self.recorder_url()).unwrap()
    }
}

/// What the recorder's role has said to the server, by its log, in lower case.
fn statements_of_recorder(log: &str) -> Vec<String> {
    let begin = format!("<{RECORDER_ROLE}> LOG:  ");
    log.lines()
        .filter_map(|line| line.strip_prefix(&begin)?.split_once(": "))
        .map(|(_, statement)| statement.trim().to_lowercase())
        .collect()
}

mod through_pgbouncer {
    use super::*;

    #[tokio::test]
    #[ignore = "needs PGBOUNCER, which scripts/pgbouncer prints"]
    async fn opens_repeats_and_marks_through_the_pooler_show_on_the_standby() {
        let pooled = Pooled::with(&[], &[]).await;
        let standby = pooled.server.standby_with(&["hot_standby_feedback=on"]).await;
        let dashboard_url = standby.url_of(DASHBOARD_ROLE, pooled.database.name());
        let services = Services::between(&pooled.recorder_url(), &dashboard_url, pooled.spool.path()).await;
        let token = token("one");
        services.hit(&token, 1).await;
        services.hit(&token, 1).await;
        services.shows(2, 1).await;
        let mark = Request::post_json("/mark-suppress-next", r#"{"email_id":"one"}"#);
        assert_eq!(mark.send(services.pixel).await.json()["ok"], true);
        services.hit(&token, 2).await;
        services.shows(3, 1).await;
        services.hit(&token, 3).await;
        services.shows(4, 2).await;
        let hits = services.items("/dashboard/api/open-events?include=all").await;
        let reasons: Vec<&str> = hits
            .iter()
            .filter_map(|hit| hit["suppression_reason"].as_str())
            .collect();
        assert_eq!(reasons, ["mark_suppress_next", "duplicate"]);
        assert!(standby.answers().await);
    }

    /// What a session would keep is gone with the transaction, for the next one has another session.
    #[tokio::test]
    #[ignore = "needs PGBOUNCER, which scripts/pgbouncer prints"]
    async fn nothing_that_the_recorder_says_outlives_its_transaction() {
        let of_server = ["log_statement=all", "log_line_prefix=<%u> "];
        let pooled = Pooled::with(&["min_pool_size = 3"], &of_server).await;
        let services = pooled.services().await;
        let sessions =
            "select count(*) from pg_stat_activity where datname = current_database() and usename = $1";
        let client = pooled.database.superuser().await;
        eventually("there are sessions to take turns", async || {
            let row = client.query_one(sessions, &[&RECORDER_ROLE]).await.unwrap();
            (row.get::<_, i64>(0) > 1).then_some(())
        })
        .await;
        for reader in 0..20 {
            services.hit(&token("one"), reader).await;
            services.shows(u64::from(reader) + 1, u64::from(reader) + 1).await;
        }
        // One that has just begun is given the time to go on.
        let said = eventually("each transaction has its time limits", async || {
            let said = statements_of_recorder(&pooled.server.log());
            let limits =
                |said: &&String| said.starts_with("set local") && said.contains("statement_timeout = '30s'");
            let transactions = said.iter().filter(|said| said.starts_with("start transaction"));
            let transactions = transactions.count();
            (transactions >= 20 && said.iter().filter(limits).count() == transactions).then_some(said)
        })
        .await;
        for statement in said.iter().flat_map(|said| said.split("; ")) {
            if statement.starts_with("set application_name=") {
                continue; // by PgBouncer itself, which keeps each client's own
            }
            let keeps = [
                "listen",
                "create temp",
                "declare",
                "prepare ",
                "deallocate",
                "discard",
            ]
            .iter()
            .any(|begin| statement.starts_with(begin))
                || (statement.starts_with("set ") && !statement.starts_with("set local "))
                || statement.contains("pg_advisory_lock")
                // `true`: for the transaction alone.
                || (statement.contains("set_config(") && !statement.ends_with(", true)"));
            assert!(!keeps, "{statement}");
        }
        let settings = pooled.neighbour().connect().await.unwrap();
        for name in [
            "statement_timeout",
            "enable_seqscan",
            "plan_cache_mode",
            "search_path",
        ] {
            let show = format!("show {name}");
            let left: String = settings.query_one(&show, &[]).await.unwrap().get(0);
            let fresh: String = client.query_one(&show, &[]).await.unwrap().get(0);
            assert_eq!(left, fresh, "{name} was left behind");
        }
    }

    #[tokio::test]
    #[ignore = "needs PGBOUNCER, which scripts/pgbouncer prints"]
    async fn a_pooler_that_dies_again_and_again_costs_no_hit() {
        let pooled = Pooled::with(&[], &[]).await;
        let services = pooled.services().await;
        for round in 0..3_u8 {
            for reader in 0..40 {
                services.hit(&token("one"), round * 40 + reader).await;
                if reader == 20 {
                    pooled.bouncer.kill().await;
                }
            }
            eventually("the recorder has seen it gone", async || {
                (services.batches("unavailable").await > u64::from(round)).then_some(())
            })
            .await;
            pooled.bouncer.start_again().await;
        }
        services.shows(120, 120).await;
    }

    /// Orderly: connections are closed as soon as their transactions are done, as when its settings are changed.
    #[tokio::test]
    #[ignore = "needs PGBOUNCER, which scripts/pgbouncer prints"]
    async fn its_connections_may_be_renewed_under_load() {
        let pooled = Pooled::with(&[], &[]).await;
        let services = pooled.services().await;
        let console = pooled.console().connect().await.unwrap();
        for reader in 0..60 {
            services.hit(&token("one"), reader).await;
            if reader % 20 == 10 {
                console.batch_execute("reconnect").await.unwrap();
            }
        }
        services.shows(60, 60).await;
        // As when the database moves behind it.
        console.batch_execute("pause").await.unwrap();
        for reader in 60..80 {
            services.hit(&token("one"), reader).await;
        }
        console.batch_execute("reload").await.unwrap();
        console.batch_execute("resume").await.unwrap();
        services.shows(80, 80).await;
        assert_eq!(services.batches("unavailable").await, 0);
    }

    #[tokio::test]
    #[ignore = "needs PGBOUNCER, which scripts/pgbouncer prints"]
    async fn a_pool_that_is_used_up_costs_no_hit() {
        let pooled = Pooled::with(&["default_pool_size = 1", "query_wait_timeout = 1"], &[]).await;
        let services = pooled.services().await;
        services.hit(&token("one"), 0).await;
        services.shows(1, 1).await;
        let neighbour = pooled.neighbour().connect().await.unwrap();
        neighbour.batch_execute("begin").await.unwrap();
        for reader in 1..10 {
            services.hit(&token("one"), reader).await;
        }
        eventually("the recorder has waited in vain", async || {
            (services.batches("unavailable").await > 0).then_some(())
        })
        .await;
        neighbour.batch_execute("commit").await.unwrap();
        services.shows(10, 10).await;
    }

    #[tokio::test]
    #[ignore = "needs PGBOUNCER, which scripts/pgbouncer prints"]
    async fn a_pooler_that_takes_no_more_clients_costs_no_hit() {
        let pooled = Pooled::with(&["max_client_conn = 8"], &[]).await;
        let mut crowd = Vec::new();
        eventually("nobody else gets in", async || {
            match pooled.neighbour().connect().await {
                Ok(client) => {
                    crowd.push(client);
                    None
                }
                Err(refused) => {
                    assert!(refused.to_string().contains("max_client_conn"), "{refused}");
                    Some(())
                }
            }
        })
        .await;
        let dashboard_url = pooled.database.url_of(DASHBOARD_ROLE);
        let services = Services::begun(&pooled.recorder_url(), &dashboard_url, pooled.spool.path()).await;
        for reader in 0..10 {
            services.hit(&token("one"), reader).await;
        }
        eventually("the recorder was refused", async || {
            (services.batches("unavailable").await > 0).then_some(())
        })
        .await;
        drop(crowd);
        services.shows(10, 10).await;
    }
}
