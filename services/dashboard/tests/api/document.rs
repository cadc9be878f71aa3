//! The OpenAPI document: who is given it, and whether the router answers what it says.

use serde_json::{Value, json};
use test_support::http::Request;

use crate::support::*;

const DOCUMENT: &str = "/dashboard/api/v1/openapi.json";

#[tokio::test]
async fn the_document_is_served_whole_to_who_may_read() {
    let dashboard = Running::without_facts().await;
    let served = dashboard.json(DOCUMENT).await;
    assert_eq!(served["openapi"], "3.1.0");
    let paths = served["paths"].as_object().unwrap();
    assert!(paths.contains_key("/t/{token}.gif"), "the pixel is in it too");
    assert!(paths.contains_key(DOCUMENT));
    let own = dashboard::openapi();
    for (path, item) in own["paths"].as_object().unwrap() {
        assert_eq!(&paths[path], item, "{path}");
    }
    let answer = dashboard.get(DOCUMENT).await;
    let known = authorized("GET", DOCUMENT).header("if-none-match", answer.header("etag").unwrap());
    assert_eq!(known.send(dashboard.address).await.status, 304);
    assert_eq!(answer.header("cache-control"), Some("private, no-cache"));
}

#[tokio::test]
async fn the_methods_of_each_path_are_those_of_the_document() {
    let dashboard = Running::without_facts().await;
    let document = dashboard::openapi();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            let is_documented = item.get(method.to_lowercase()).is_some();
            // What is asked for is not looked at; it only matters whether somebody looks.
            let request = authorized(method, path).header("sec-fetch-site", "cross-site");
            if path.ends_with("/live") && is_documented {
                continue; // it would not end
            }
            let status = request.send(dashboard.address).await.status;
            assert_ne!(status, 404, "{method} {path}");
            assert_eq!(status == 405, !is_documented, "{method} {path}: {status}");
        }
    }
}

#[tokio::test]
async fn nothing_invites_other_origins() {
    let dashboard = Running::without_facts().await;
    let document = dashboard::openapi();
    for path in document["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .chain(["/dashboard"])
    {
        for method in ["GET", "OPTIONS"] {
            if path.ends_with("/live") {
                continue;
            }
            let answer = authorized(method, path)
                .header("origin", "https://evil.example")
                .header("access-control-request-method", "GET")
                .header("access-control-request-headers", "x-tracker-token")
                .send(dashboard.address)
                .await;
            let invitation = answer
                .headers
                .iter()
                .find(|(name, _)| name.starts_with("access-control-"));
            assert_eq!(invitation, None, "{method} {path}");
            for (name, value) in [
                ("x-content-type-options", "nosniff"),
                ("x-frame-options", "DENY"),
                ("referrer-policy", "no-referrer"),
                ("cross-origin-resource-policy", "same-origin"),
                ("cross-origin-opener-policy", "same-origin"),
            ] {
                assert_eq!(answer.header(name), Some(value), "{method} {path}");
            }
            let policy = answer.header("content-security-policy").unwrap();
            assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        }
    }
}

#[tokio::test]
async fn many_wrong_tokens_are_told_so_and_lock_nobody_out() {
    let dashboard = Running::without_facts().await;
    let emails = "/dashboard/api/emails";
    let from = |token: &str| {
        Request::get(emails)
            .header("x-tracker-token", token)
            .header("x-forwarded-for", "203.0.113.1")
    };
    for number in 0..12 {
        let answer = from(&format!("guess-{number}")).send(dashboard.address).await;
        assert_eq!(answer.status, 401);
        assert_eq!(answer.json(), json!({"ok": false, "error": "Unauthorized"}));
        assert_eq!(from(TOKEN).send(dashboard.address).await.status, 200);
    }
    assert_eq!(Request::get(emails).send(dashboard.address).await.status, 401);
    let log_in = Request::post_json("/dashboard/session", format!("{{\"token\":\"{TOKEN}\"}}"));
    let log_in = log_in.header("x-forwarded-for", "203.0.113.1");
    assert_eq!(
        log_in.send(dashboard.address).await.status,
        200,
        "an old extension keeps nobody from it"
    );
    let wrong = "email_tracker_dashboard_wrong_tokens_total{where=\"header\"}";
    assert_eq!(dashboard.metric(wrong).await.to_string(), "12");
}

#[tokio::test]
async fn an_answer_is_what_its_schema_says_it_requires() {
    let database = new_database().await;
    let mut facts = Facts::default();
    facts
        .hit("one", 0, READER)
        .hit("one", 60_000, PROXY)
        .mark("one", 70_000);
    let client = database.superuser().await;
    facts.store(&client).await;
    let erased = r"insert into erasures values
                   ('00000000-0000-4000-8000-000000000001', 'email', '\x01', '2026-03-01T12:00:00Z', null, 1, 2, 3)";
    client.execute(erased, &[]).await.unwrap();
    let dashboard = Running::over(&database).await;
    let document = dashboard::openapi();
    let required = |schema: &str| -> Vec<String> {
        let fields = &document["components"]["schemas"][schema]["required"];
        let mut fields: Vec<_> = fields
            .as_array()
            .unwrap()
            .iter()
            .map(|name| name.as_str().unwrap().to_owned())
            .collect();
        fields.sort();
        fields
    };
    let item = |list: Value| list["items"][0].clone();
    assert_eq!(
        required("Email"),
        keys(&item(dashboard.json("/dashboard/api/emails").await))
    );
    assert_eq!(
        required("OpenEvent"),
        keys(&item(dashboard.json("/dashboard/api/open-events").await))
    );
    let erasures = "/dashboard/api/v1/erasures";
    assert_eq!(required("Erasure"), keys(&item(dashboard.json(erasures).await)));
    let amount = dashboard.json(&format!("{erasures}/preview?email_id=one")).await;
    assert_eq!(required("ErasureAmount"), keys(&amount));
    let log_in = Request::post_json("/dashboard/session", json!({"token": TOKEN}).to_string());
    let session = log_in.send(dashboard.address).await.json();
    assert_eq!(required("Session"), keys(&session));
    assert_eq!(
        required("Latencies"),
        keys(&dashboard.json("/metrics/gmail-proxy-latency").await)
    );
    assert_eq!(
        required("SuppressSignals"),
        keys(&dashboard.json("/metrics/suppress-signals").await)
    );
    assert_eq!(
        required("SuppressionDebug"),
        keys(&dashboard.json("/metrics/suppression-debug").await)
    );
}
