//! Without its database, and with one that comes later.

use serde_json::json;
use test_support::{
    PrivatePostgres, eventually,
    http::{Answer, Request, get},
};

use crate::support::*;

async fn is_ready(dashboard: &Running) -> bool {
    get(dashboard.admin, "/ready").await.status == 200
}

#[tokio::test]
async fn it_starts_without_its_database_and_lives_through_an_outage() {
    let server = PrivatePostgres::start().await;
    server.migrate_template(migrate).await;
    let database = server.database().await;
    let mut facts = Facts::default();
    facts.hit("a", 0, READER).store(&database.superuser().await).await;
    server.stop().await;

    let dashboard = Running::over(&database).await;
    let away = json!({"status": "unavailable", "ok": false, "error": "The database is not available"});
    assert_unavailable(&dashboard).await;
    let health = get(dashboard.address, "/dashboard/health").await;
    assert_eq!((health.status, health.json()), (503, away.clone()));
    assert!(!is_ready(&dashboard).await);
    assert_eq!(get(dashboard.admin, "/live").await.status, 200);
    assert_eq!(get(dashboard.address, "/dashboard").await.status, 200);

    server.start_again().await;
    eventually("it is ready", async || is_ready(&dashboard).await.then_some(())).await;
    assert_eq!(dashboard.column("/dashboard/api/emails", "email_id").await, ["a"]);
    let health = get(dashboard.address, "/dashboard/health").await;
    assert_eq!(
        (health.status, health.json()),
        (200, json!({"status": "ok", "ok": true}))
    );

    let session = log_in().send(dashboard.address).await;
    server.crash().await;
    assert_unavailable(&dashboard).await;
    assert_sessions_wait(&dashboard, &session).await;
    eventually("its health says so", async || {
        let health = get(dashboard.address, "/dashboard/health").await;
        (health.status == 503 && health.json() == away).then_some(())
    })
    .await;
    server.start_again().await;
    eventually("it is ready again", async || {
        is_ready(&dashboard).await.then_some(())
    })
    .await;
    assert_eq!(dashboard.column("/dashboard/api/emails", "email_id").await, ["a"]);
    dashboard.stop().await.unwrap();
}

async fn assert_unavailable(dashboard: &Running) {
    for path in [
        "/dashboard/api/emails",
        "/dashboard/api/open-events",
        "/metrics/gmail-proxy-latency",
        "/metrics/suppress-signals",
        "/metrics/suppression-debug",
    ] {
        let answer = dashboard.get(path).await;
        let nothing_more = json!({"ok": false, "error": "The database is not available"});
        assert_eq!((answer.status, answer.json()), (503, nothing_more), "{path}");
        assert_eq!(answer.header("retry-after"), Some("5"));
    }
}

fn log_in() -> Request {
    Request::post_json("/dashboard/session", json!({"token": TOKEN}).to_string())
}

/// Whether a session still holds is not known meanwhile: it is neither taken for ended nor for a wrong token.
async fn assert_sessions_wait(dashboard: &Running, session: &Answer) {
    let cookie = session.header("set-cookie").unwrap().split(';').next().unwrap();
    let with_session = |method: &str, path: &str| Request::new(method, path).header("cookie", cookie);
    for request in [
        with_session("GET", "/dashboard/session"),
        with_session("GET", "/dashboard/api/emails"),
        with_session("GET", "/dashboard/api/v1/openapi.json"),
        with_session("POST", "/dashboard/api/v1/erasures"),
        log_in(),
    ] {
        let answer = request.send(dashboard.address).await;
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.header("retry-after"), Some("5"));
    }
    let wrong = "email_tracker_dashboard_wrong_tokens_total{where=\"header\"}";
    assert_eq!(dashboard.metric(wrong).await.to_string(), "0");
    let csrf = session.json()["csrf_token"].as_str().unwrap().to_owned();
    let log_out = with_session("DELETE", "/dashboard/session").header("x-csrf-token", &csrf);
    let done = log_out.send(dashboard.address).await;
    assert_eq!(
        (done.status, done.json()),
        (200, json!({"ok": true, "all_sessions_ended": false}))
    );
}

#[tokio::test]
async fn it_waits_for_its_schema() {
    let server = PrivatePostgres::start().await;
    server
        .migrate_template(|url| async move {
            // The role comes with the migration of another database of the server.
            let client = database::Config::new("DATABASE_URL", &url)
                .unwrap()
                .connect()
                .await
                .unwrap();
            let role = format!("create role {} login", database::DASHBOARD_ROLE);
            client.batch_execute(&role).await.unwrap();
        })
        .await;
    let database = server.database().await;
    let dashboard = Running::over(&database).await;
    assert_unavailable(&dashboard).await;
    let ready = get(dashboard.admin, "/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("no schema yet"), "{}", ready.text());
    migrate(database.url()).await;
    eventually("it is ready", async || is_ready(&dashboard).await.then_some(())).await;
    assert_eq!(
        dashboard.json("/dashboard/api/emails").await,
        json!({"ok": true, "items": []})
    );
}

#[tokio::test]
async fn its_sessions_have_a_name_and_only_read() {
    let database = new_database().await;
    let dashboard = Running::over(&database).await;
    dashboard.json("/dashboard/api/emails").await;
    let client = database.superuser_beside(database::DASHBOARD_ROLE).await;
    let row = client
        .query_one(
            "select application_name, usename::text from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()",
            &[],
        )
        .await
        .unwrap();
    let seen: (String, String) = (row.get(0), row.get(1));
    assert_eq!(seen, ("dashboard".into(), "email_tracker_dashboard".into()));
    // Even with the owner's login, which could write: the last statement's text shows the transaction's kind.
    let owner = Running::with(settings(&database.url(), &[("DASHBOARD_TOKEN", TOKEN)])).await;
    owner.json("/dashboard/api/emails").await;
    let client = database.superuser().await;
    let row = client
        .query_one(
            "select count(*) from pg_stat_activity where datname = current_database() and usename = 'email_tracker_owner'
             and application_name = 'dashboard'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, i64>(0), 1);
}
