//! Logging in and out: sessions beside the header.

use serde_json::json;
use test_support::http::{Answer, Request};

use crate::support::*;

const SESSION: &str = "/dashboard/session";
const EMAILS: &str = "/dashboard/api/emails";

fn log_in(token: &str) -> Request {
    Request::post_json(SESSION, json!({"token": token}).to_string())
}

/// The cookie of an answer, as a browser sends it back.
fn cookie(answer: &Answer) -> String {
    let line = answer.header("set-cookie").expect("a cookie");
    line.split(';').next().unwrap().to_owned()
}

async fn over(tokens: &[(&str, &str)]) -> (Running, test_support::TestDatabase) {
    let database = new_database().await;
    let url = database.url_of(database::DASHBOARD_ROLE);
    (Running::with(settings(&url, tokens)).await, database)
}

#[tokio::test]
async fn a_session_reads_until_it_ends() {
    let dashboard = Running::without_facts().await;
    let answer = log_in(TOKEN).send(dashboard.address).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let line = answer.header("set-cookie").unwrap();
    assert!(
        line.ends_with("; Path=/dashboard; Max-Age=604800; HttpOnly; SameSite=Strict"),
        "{line}"
    );
    assert!(!line.contains(TOKEN));
    let with_cookie =
        |method: &str, path: &str| Request::new(method, path).header("cookie", &cookie(&answer));
    for path in [
        EMAILS,
        "/dashboard/api/v1/emails",
        "/metrics/suppress-signals",
        SESSION,
    ] {
        let read = with_cookie("GET", path).send(dashboard.address).await;
        assert_eq!(read.status, 200, "{path}: {}", read.text());
    }
    let shown = with_cookie("GET", SESSION).send(dashboard.address).await.json();
    assert_eq!(shown, answer.json());
    assert_eq!(shown["expires_at"], "2026-03-08T12:00:00.000Z");

    // A header decides if there is one, and another site's page is not helped by the cookie.
    for (name, value) in [("x-tracker-token", "wrong"), ("sec-fetch-site", "same-site")] {
        let refused = with_cookie("GET", EMAILS).header(name, value);
        assert_eq!(refused.send(dashboard.address).await.status, 401, "{name}");
    }
    dashboard.clock.advance_millis(7 * 24 * 60 * 60 * 1_000);
    let late = with_cookie("GET", EMAILS).send(dashboard.address).await;
    assert_eq!(
        (late.status, late.json()),
        (401, json!({"ok": false, "error": "Unauthorized"}))
    );
}

#[tokio::test]
async fn logging_out_needs_the_own_page_and_takes_the_cookie() {
    let dashboard = Running::without_facts().await;
    let secure = log_in(TOKEN).header("x-forwarded-proto", "https");
    let answer = secure.send(dashboard.address).await;
    assert!(
        answer
            .header("set-cookie")
            .unwrap()
            .ends_with("; SameSite=Strict; Secure")
    );
    let csrf = answer.json()["csrf_token"].as_str().unwrap().to_owned();
    let log_out = || Request::new("DELETE", SESSION).header("cookie", &cookie(&answer));
    for request in [
        log_out(),
        log_out().header("x-csrf-token", "wrong"),
        log_out()
            .header("x-csrf-token", &csrf)
            .header("sec-fetch-site", "cross-site"),
        log_out()
            .header("x-csrf-token", &csrf)
            .header("origin", "https://evil.example"),
    ] {
        assert_eq!(request.send(dashboard.address).await.status, 403);
    }
    let done = log_out()
        .header("x-csrf-token", &csrf)
        .header("sec-fetch-site", "same-origin");
    let done = done.send(dashboard.address).await;
    assert_eq!(
        (done.status, done.json()),
        (200, json!({"ok": true, "all_sessions_ended": false}))
    );
    let line = done.header("set-cookie").unwrap();
    assert!(
        line.starts_with("email-tracker-session=; ") && line.contains("Max-Age=0"),
        "{line}"
    );
    let without = Request::new("DELETE", SESSION).header("x-csrf-token", &csrf);
    assert_eq!(without.send(dashboard.address).await.status, 401);
}

#[tokio::test]
async fn a_token_that_is_no_longer_accepted_ends_its_sessions() {
    let (before, database) = over(&[("DASHBOARD_TOKEN", "old")]).await;
    let url = database.url_of(database::DASHBOARD_ROLE);
    let with = async |tokens: &[(&str, &str)]| Running::with(settings(&url, tokens)).await;
    let old = cookie(&log_in("old").send(before.address).await);
    let during = with(&[("DASHBOARD_TOKEN", "new"), ("DASHBOARD_TOKEN_PREVIOUS", "old")]).await;
    let new = cookie(&log_in("new").send(during.address).await);
    let after = with(&[("DASHBOARD_TOKEN", "new")]).await;
    for (dashboard, cookie, status) in [
        (&during, &old, 200),
        (&during, &new, 200),
        (&after, &old, 401),
        (&after, &new, 200),
    ] {
        let read = Request::get(EMAILS).header("cookie", cookie);
        assert_eq!(read.send(dashboard.address).await.status, status);
    }
}

#[tokio::test]
async fn without_a_token_nobody_logs_in() {
    let (dashboard, _database) = over(&[]).await;
    assert_eq!(log_in("").send(dashboard.address).await.status, 401);
    assert_eq!(log_in(TOKEN).send(dashboard.address).await.status, 401);
}

#[tokio::test]
async fn bad_log_ins_are_told_why() {
    let dashboard = Running::without_facts().await;
    let long = json!({"token": "x".repeat(20_000)}).to_string();
    for (request, status) in [
        (Request::post_json(SESSION, "{}"), 400),
        (Request::post_json(SESSION, "[]"), 400),
        (Request::post_json(SESSION, ""), 400),
        (Request::post_json(SESSION, long), 413),
        (Request::new("POST", SESSION).body("token=x"), 415),
        (log_in(TOKEN).header("sec-fetch-site", "cross-site"), 403),
        (log_in(TOKEN).header("origin", "null"), 403),
        (Request::new("PUT", SESSION), 405),
        (Request::get(SESSION), 401),
    ] {
        let answer = request.send(dashboard.address).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.json()["ok"], false);
        assert_eq!(answer.header("set-cookie"), None);
    }
}

#[tokio::test]
async fn wrong_tokens_are_limited_by_address() {
    let dashboard = Running::without_facts().await;
    let from = |address: &str, token: &str| log_in(token).header("x-forwarded-for", address);
    for _ in 0..10 {
        let answer = from("203.0.113.1", "wrong").send(dashboard.address).await;
        assert_eq!(answer.status, 401);
    }
    for token in ["wrong", TOKEN] {
        let answer = from("203.0.113.1", token).send(dashboard.address).await;
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("601")));
    }
    assert_eq!(
        from("203.0.113.2", TOKEN).send(dashboard.address).await.status,
        200
    );
    assert_eq!(dashboard.get(EMAILS).await.status, 200, "the header is as it was");
    dashboard.clock.advance_millis(600_000);
    assert_eq!(
        from("203.0.113.1", TOKEN).send(dashboard.address).await.status,
        200
    );
}
