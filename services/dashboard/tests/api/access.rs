//! Who may ask for what, and what bad requests are told.

use serde_json::json;
use test_support::http::{Answer, Connection, Request, get};

use crate::support::*;

const PRIVATE: [&str; 17] = [
    "/dashboard/api/emails",
    "/dashboard/api/open-events",
    "/metrics/gmail-proxy-latency",
    "/metrics/suppress-signals",
    "/metrics/suppression-debug",
    "/dashboard/api/v1/emails",
    "/dashboard/api/v1/charts",
    "/dashboard/api/v1/live",
    "/dashboard/api/v1/erasures",
    "/dashboard/api/v1/erasures/preview",
    "/dashboard/api/v1/export/emails.csv",
    "/dashboard/api/v1/export/emails.json",
    "/dashboard/api/v1/export/opens.csv",
    "/dashboard/api/v1/export/opens.json",
    "/dashboard/api/v1/openapi.json",
    "/dashboard/api/nothing",
    "/dashboard/api",
];

fn assert_failure(answer: &Answer, status: u16, error: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    if !error.is_empty() {
        assert_eq!(answer.json(), json!({"ok": false, "error": error}));
    }
}

#[tokio::test]
async fn without_the_token_nothing_is_looked_at() {
    let dashboard = Running::without_facts().await;
    let mut count = 0;
    for path in PRIVATE {
        for method in ["GET", "POST", "DELETE", "OPTIONS"] {
            let bad_query = format!("{path}?limit=none");
            for target in [path, bad_query.as_str()] {
                for token in [None, Some("wrong"), Some("")] {
                    let mut request = Request::new(method, target);
                    if let Some(token) = token {
                        count += 1; // who is wrong often from one address waits for the answer
                        request = request.header("x-tracker-token", token).header(
                            "x-forwarded-for",
                            &format!("203.0.{}.{}", count / 200, count % 200),
                        );
                    }
                    let answer = request.send(dashboard.address).await;
                    assert_failure(&answer, 401, "Unauthorized");
                }
            }
        }
        let head = Request::new("HEAD", path).send(dashboard.address).await;
        assert_eq!(head.status, 401, "{path}");
    }
    let twice = authorized("GET", PRIVATE[0]).header("x-tracker-token", TOKEN);
    assert_failure(&twice.send(dashboard.address).await, 401, "Unauthorized");
}

#[tokio::test]
async fn without_a_configured_token_nobody_may_read() {
    let database = new_database().await;
    let url = database.url_of(database::DASHBOARD_ROLE);
    let dashboard = Running::with(settings(&url, &[("DASHBOARD_TOKEN", "")])).await;
    for path in PRIVATE {
        for token in ["", TOKEN] {
            let answer = Request::get(path).header("x-tracker-token", token);
            assert_failure(&answer.send(dashboard.address).await, 401, "Unauthorized");
        }
    }
    assert_eq!(get(dashboard.address, "/dashboard").await.status, 200);
    assert_eq!(get(dashboard.address, "/dashboard/health").await.status, 200);
}

#[tokio::test]
async fn the_previous_token_is_accepted_as_well() {
    let database = new_database().await;
    let url = database.url_of(database::DASHBOARD_ROLE);
    let tokens = [("DASHBOARD_TOKEN", "new"), ("DASHBOARD_TOKEN_PREVIOUS", "old")];
    let dashboard = Running::with(settings(&url, &tokens)).await;
    for (token, status) in [("new", 200), ("old", 200), ("older", 401)] {
        let answer = Request::get(PRIVATE[0]).header("x-tracker-token", token);
        assert_eq!(answer.send(dashboard.address).await.status, status, "{token}");
    }
}

#[tokio::test]
async fn other_paths_and_methods_are_refused_in_one_shape() {
    let dashboard = Running::without_facts().await;
    for path in [
        "/dashboard/api/nothing",
        "/dashboard/api",
        "/dashboard/api/emails/",
        "/metrics/nothing",
    ] {
        assert_failure(&dashboard.get(path).await, 404, "Not found");
    }
    for path in [
        "/",
        "/metrics",
        "/dashboard/nothing",
        "/dashboard/..%2f",
        "/t/x.gif",
        "/health",
    ] {
        assert_failure(&get(dashboard.address, path).await, 404, "Not found");
    }
    for path in PRIVATE
        .iter()
        .take(5)
        .chain(&["/dashboard", "/dashboard/health", "/dashboard/app.js"])
    {
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let answer = authorized(method, path).send(dashboard.address).await;
            assert_failure(&answer, 405, "Method not allowed");
            assert_eq!(answer.header("allow"), Some("GET,HEAD"), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn head_answers_the_headers_alone() {
    let dashboard = Running::without_facts().await;
    for path in [
        "/dashboard",
        "/dashboard/",
        "/dashboard/app.js",
        "/dashboard/style.css",
        "/dashboard/icon.svg",
        "/dashboard/health",
        "/dashboard/api/emails",
        "/metrics/suppress-signals",
    ] {
        let mut connection = Connection::open(dashboard.address).await;
        let head = connection.exchange(&authorized("HEAD", path)).await;
        let get = connection.exchange(&authorized("GET", path)).await;
        assert_eq!((head.status, get.status), (200, 200), "{path}");
        let without_date = |answer: Answer| {
            let headers = answer.headers.into_iter();
            headers.filter(|(name, _)| name != "date").collect::<Vec<_>>()
        };
        assert_eq!(without_date(head), without_date(get), "{path}");
    }
}

#[tokio::test]
async fn bad_parameters_are_named_and_the_next_request_works() {
    let database = new_database().await;
    facts_of_one_email(&database).await;
    let dashboard = Running::over(&database).await;
    let emails = "/dashboard/api/emails";
    let opens = "/dashboard/api/open-events";
    let email_cursor = next_cursor(&dashboard, &format!("{emails}?limit=1")).await;
    let hit_cursor = next_cursor(&dashboard, &format!("{opens}?limit=1")).await;
    let long = "x".repeat(10_241);
    let bad = [
        (emails, "limit=0".to_owned(), "limit"),
        (emails, "limit=1001".into(), "limit"),
        (emails, "limit=ten".into(), "limit"),
        (emails, "limit=".into(), "limit"),
        (emails, "limit".into(), "limit"),
        (emails, "limit=1&limit=1".into(), "limit"),
        (emails, "cursor=".into(), "cursor"),
        (emails, "cursor=nonsense".into(), "cursor"),
        (emails, format!("cursor={hit_cursor}"), "cursor"),
        (emails, format!("cursor={email_cursor}x"), "cursor"),
        (
            emails,
            format!("cursor={email_cursor}&cursor={email_cursor}"),
            "cursor",
        ),
        (emails, "user_id=".into(), "user_id"),
        (emails, "user_id=%00".into(), "user_id"),
        (emails, "user_id=%ff%fe".into(), "user_id"),
        (emails, "user_id=%".into(), "user_id"),
        (emails, format!("user_id={}", &long[..1_025]), "user_id"),
        (emails, "recipient=%c3".into(), "recipient"),
        (emails, format!("recipient={long}"), "recipient"),
        (emails, "opened=yes".into(), "opened"),
        (emails, "opened=True".into(), "opened"),
        (emails, "since=yesterday".into(), "since"),
        (emails, "since=2026-03-01".into(), "since"),
        (emails, "since=2026-13-01T00:00:00Z".into(), "since"),
        (emails, "q=a%00b".into(), "q"),
        (emails, "q=a&q=b".into(), "q"),
        (emails, format!("q={long}"), "q"),
        (opens, "email_id=".into(), "email_id"),
        (opens, "email_id=%00".into(), "email_id"),
        (opens, "email_id=%C0%AF".into(), "email_id"),
        (opens, "email_id=a&email_id=b".into(), "email_id"),
        (opens, format!("email_id={}", &long[..1_025]), "email_id"),
        (opens, "include=some".into(), "include"),
        (opens, "include=".into(), "include"),
        (opens, "limit=-1".into(), "limit"),
        (opens, format!("cursor={email_cursor}"), "cursor"),
    ];
    let mut connection = Connection::open(dashboard.address).await;
    for (path, query, name) in &bad {
        let answer = connection
            .exchange(&authorized("GET", &format!("{path}?{query}")))
            .await;
        assert_failure(&answer, 400, "");
        if answer.header("connection") == Some("close") {
            connection = Connection::open(dashboard.address).await; // after a head of many KiB
        }
        let body = answer.json();
        assert_eq!((keys(&body), &body["ok"]), (vec!["error", "ok"], &json!(false)));
        let error = body["error"].as_str().unwrap();
        assert!(error.starts_with(&format!("{name} ")), "{query}: {error}");
        let good = connection.exchange(&authorized("GET", path)).await;
        assert_eq!(
            (good.status, column(&good.json(), "email_id").len()),
            (200, 2),
            "after {query}"
        );
    }
    for (path, query) in [
        (emails, format!("user_id={}", &long[..1_024])),
        (emails, format!("recipient={}", &long[..10_240])),
        (emails, "q=%25%5F%5C'%22%3B--".into()),
        (opens, format!("email_id={}", &long[..1_024])),
    ] {
        assert_eq!(
            dashboard
                .column(&format!("{path}?{query}"), "email_id")
                .await
                .len(),
            0
        );
    }
}

async fn facts_of_one_email(database: &test_support::TestDatabase) {
    let mut facts = Facts::default();
    facts.hit("a", 0, READER).hit("b", 1, READER);
    facts.store(&database.superuser().await).await;
}

async fn next_cursor(dashboard: &Running, target: &str) -> String {
    dashboard.json(target).await["next_cursor"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn the_page_is_strict_and_revalidated() {
    let dashboard = Running::without_facts().await;
    for (path, content_type, says) in [
        (
            "/dashboard?tab=opens&email_id=x",
            "text/html; charset=utf-8",
            "<title>Email Tracker</title>",
        ),
        ("/dashboard/", "text/html; charset=utf-8", "/dashboard/app.js"),
        (
            "/dashboard/session.js",
            "text/javascript; charset=utf-8",
            "/dashboard/session",
        ),
        (
            "/dashboard/erase.js",
            "text/javascript; charset=utf-8",
            "/dashboard/api/v1/erasures",
        ),
        (
            "/dashboard/export.js",
            "text/javascript; charset=utf-8",
            "/dashboard/api/v1/export/",
        ),
        (
            "/dashboard/style.css",
            "text/css; charset=utf-8",
            "prefers-color-scheme",
        ),
        ("/dashboard/icon.svg", "image/svg+xml", "<svg"),
    ] {
        let answer = get(dashboard.address, path).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some(content_type)),
            "{path}"
        );
        assert!(answer.text().contains(says), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'self'; "),
            "{policy}"
        );
        assert!(!policy.contains("unsafe"), "{policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-cache"),
        ] {
            assert_eq!(answer.header(name), Some(value), "{path}");
        }
        let known = Request::get(path).header("if-none-match", answer.header("etag").unwrap());
        assert_eq!(known.send(dashboard.address).await.status, 304, "{path}");
    }
}

#[tokio::test]
async fn every_series_begins_at_zero_and_counts() {
    let dashboard = Running::without_facts().await;
    let metrics = dashboard.metrics().await;
    for route in [
        "emails",
        "open_events",
        "search",
        "export",
        "live",
        "erasures",
        "document",
        "session",
        "diagnostics",
        "page",
        "health",
        "unknown",
    ] {
        for status in ["2xx", "3xx", "4xx", "5xx"] {
            let line =
                format!("email_tracker_dashboard_requests_total{{route=\"{route}\",status=\"{status}\"}} 0");
            assert!(metrics.contains(&line), "{line} in\n{metrics}");
        }
    }
    for end in [
        "complete",
        "client_gone",
        "client_slow",
        "database_failed",
        "defect",
    ] {
        let line = format!("email_tracker_dashboard_streams_total{{end=\"{end}\"}} 0");
        assert!(metrics.contains(&line), "{line} in\n{metrics}");
    }
    dashboard.get("/dashboard/api/emails").await;
    dashboard.get("/dashboard/api/emails?limit=0").await;
    dashboard.get("/somewhere/else").await;
    for (series, count) in [
        (
            "email_tracker_dashboard_requests_total{route=\"emails\",status=\"2xx\"}",
            "1",
        ),
        (
            "email_tracker_dashboard_requests_total{route=\"emails\",status=\"4xx\"}",
            "1",
        ),
        (
            "email_tracker_dashboard_requests_total{route=\"unknown\",status=\"4xx\"}",
            "1",
        ),
        (
            "email_tracker_dashboard_request_duration_seconds_count{route=\"emails\"}",
            "2",
        ),
    ] {
        assert_eq!(dashboard.metric(series).await.to_string(), count, "{series}");
    }
}
