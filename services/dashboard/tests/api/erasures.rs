//! Erasing: who may, what it is about, and what is asked of the recorder.

use recorder_api::v1::erase_request::Subject;
use serde_json::json;
use test_support::{
    TestDatabase,
    http::{Answer, Request, get},
};
use tracking::Token;

use crate::{recorder::*, support::*};

const ERASURES: &str = "/dashboard/api/v1/erasures";
const SESSION: &str = "/dashboard/session";

/// A dashboard over three emails, and the recorder that it asks.
async fn with_recorder(at_once: i64, token: &str) -> (Running, RunningRecorder, TestDatabase) {
    let database = new_database().await;
    let client = database.superuser().await;
    let mut facts = Facts::default();
    facts
        .hit("one", 0, READER)
        .hit("one", 60_000, PROXY)
        .mark("one", 90_000)
        .hit("two", 0, READER);
    for email_id in ["three", "four"] {
        let token = Token {
            user_id: "user-1".into(),
            email_id: email_id.into(),
            recipient: "two@example.org".into(),
            sent_at: "2026-03-01T11:00:00.000Z".into(),
            sender_email: None,
        };
        facts.hit_of(token, 0, READER);
    }
    facts.store(&client).await;
    let recorder = RunningRecorder::over(&database, at_once).await;
    let url = database.url_of(database::DASHBOARD_ROLE);
    let told = [
        ("DASHBOARD_TOKEN", TOKEN),
        ("RECORDER_URL", &recorder.url()),
        ("RECORDER_TOKEN", token),
    ];
    (Running::with(settings(&url, &told)).await, recorder, database)
}

fn wish(body: &serde_json::Value) -> Request {
    Request::post_json(ERASURES, body.to_string())
}

async fn erase(dashboard: &Running, body: serde_json::Value) -> Answer {
    let request = wish(&body).header("x-tracker-token", TOKEN);
    request.send(dashboard.address).await
}

#[tokio::test]
async fn one_email_is_erased_by_the_recorder() {
    let (dashboard, recorder, _database) = with_recorder(10, RECORDER_TOKEN).await;
    let amount = dashboard.json(&format!("{ERASURES}/preview?email_id=one")).await;
    assert_eq!(amount, json!({"ok": true, "emails": 1, "hits": 2}));
    assert_eq!(recorder.seen(), [], "a preview erases nothing");
    let done = erase(&dashboard, json!({"email_id": "one"})).await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(done.header("cache-control"), Some("no-store"));
    assert_eq!(
        done.json(),
        json!({"ok": true, "emails": 1, "hits": 2, "marks": 1, "complete": true})
    );
    assert_eq!(recorder.seen(), [Subject::EmailId("one".into())]);
    let left = dashboard.column("/dashboard/api/emails", "email_id").await;
    assert_eq!(left, ["four", "three", "two"]);
    let amount = dashboard.json(&format!("{ERASURES}/preview?email_id=one")).await;
    assert_eq!(amount, json!({"ok": true, "emails": 0, "hits": 0}));
}

#[tokio::test]
async fn a_recipients_emails_are_counted_and_erased_in_parts() {
    let (dashboard, recorder, database) = with_recorder(2, RECORDER_TOKEN).await;
    let client = database.superuser().await;
    let many = "update tracked_emails set recipient = 'A@b, TWO@example.org' where email_id = 'one'";
    client.execute(many, &[]).await.unwrap();
    let amount = dashboard
        .json(&format!("{ERASURES}/preview?recipient=%20Two@Example.ORG"))
        .await;
    assert_eq!(amount, json!({"ok": true, "emails": 4, "hits": 5}));
    let wish = json!({"recipient": "two@example.org"});
    let first = erase(&dashboard, wish.clone()).await.json();
    assert_eq!((&first["emails"], &first["complete"]), (&json!(2), &json!(false)));
    let rest = erase(&dashboard, wish).await.json();
    assert_eq!((&rest["emails"], &rest["complete"]), (&json!(1), &json!(true)));
    let asked = Subject::Recipient("two@example.org".into());
    assert_eq!(recorder.seen(), [asked.clone(), asked]);
}

#[tokio::test]
async fn what_was_erased_is_listed_without_whose_it_was() {
    let (dashboard, _recorder, database) = with_recorder(10, RECORDER_TOKEN).await;
    let client = database.superuser().await;
    client
        .batch_execute(
            r"insert into erasures values
              ('00000000-0000-4000-8000-000000000001', 'email', '\x01', '2026-03-01T12:00:00Z', '2026-03-01T12:00:01Z', 1, 2, 3),
              ('00000000-0000-4000-8000-000000000002', 'recipient', '\x02', '2026-03-01T13:00:00Z', null, 4, 5, 6)",
        )
        .await
        .unwrap();
    assert_eq!(
        dashboard.json(ERASURES).await,
        json!({"ok": true, "items": [
            {"id": "00000000-0000-4000-8000-000000000002", "kind": "recipient", "asked_at": "2026-03-01T13:00:00.000Z",
             "finished_at": null, "emails": 4, "hits": 5, "marks": 6},
            {"id": "00000000-0000-4000-8000-000000000001", "kind": "email", "asked_at": "2026-03-01T12:00:00.000Z",
             "finished_at": "2026-03-01T12:00:01.000Z", "emails": 1, "hits": 2, "marks": 3},
        ]})
    );
}

#[tokio::test]
async fn with_a_session_only_the_own_page_erases() {
    let (dashboard, recorder, _database) = with_recorder(10, RECORDER_TOKEN).await;
    let body = json!({"email_id": "one"});
    let log_in = Request::post_json(SESSION, json!({"token": TOKEN}).to_string());
    let answer = log_in.send(dashboard.address).await;
    assert_eq!(answer.json()["can_erase"], true);
    let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap();
    let csrf = answer.json()["csrf_token"].as_str().unwrap().to_owned();
    let from = |cookie: &str, csrf: &str| wish(&body).header("cookie", cookie).header("x-csrf-token", csrf);
    let foreign = |name: &str, value: &str| from(cookie, &csrf).header(name, value);
    for (request, status) in [
        (wish(&body), 401),
        (wish(&body).header("x-csrf-token", &csrf), 401),
        (wish(&body).header("x-tracker-token", "wrong"), 401),
        (from("email-tracker-session=1.1.1.x", &csrf), 401),
        (foreign("x-tracker-token", "wrong"), 401),
        (foreign("sec-fetch-site", "cross-site"), 401),
        (foreign("sec-fetch-site", "same-site"), 401),
        (foreign("origin", "https://evil.example"), 401),
        (wish(&body).header("cookie", cookie), 403),
        (from(cookie, ""), 403),
        (from(cookie, "wrong"), 403),
        (from(cookie, TOKEN), 403),
    ] {
        let refused = request.send(dashboard.address).await;
        assert_eq!(refused.status, status, "{}", refused.text());
        assert_eq!(recorder.seen(), []);
    }
    let own = foreign("sec-fetch-site", "same-origin");
    assert_eq!(own.send(dashboard.address).await.status, 200);
    assert_eq!(recorder.seen().len(), 1);
}

#[tokio::test]
async fn bad_wishes_are_told_why_and_reach_nobody() {
    let (dashboard, recorder, _database) = with_recorder(10, RECORDER_TOKEN).await;
    let neither = "email_id or recipient must be given, and not both";
    for (body, error) in [
        (json!({}), neither),
        (json!({"email_id": null}), neither),
        (json!({"email_id": "a", "recipient": "b"}), neither),
        (
            json!({"email_id": ""}),
            "email_id must have 1 to 1024 bytes, none of them NUL",
        ),
        (
            json!({"email_id": "\0"}),
            "email_id must have 1 to 1024 bytes, none of them NUL",
        ),
        (
            json!({"email_id": "x".repeat(1_025)}),
            "email_id must have 1 to 1024 bytes, none of them NUL",
        ),
        (
            json!({"recipient": " "}),
            "recipient must be one address, without commas",
        ),
        (
            json!({"recipient": "a@b,c@d"}),
            "recipient must be one address, without commas",
        ),
        (
            json!({"email_id": 7}),
            "The body must be {\"email_id\":\"…\"} or {\"recipient\":\"…\"}",
        ),
        (
            json!([]),
            "The body must be {\"email_id\":\"…\"} or {\"recipient\":\"…\"}",
        ),
    ] {
        let answer = erase(&dashboard, body).await;
        assert_eq!(
            (answer.status, answer.json()),
            (400, json!({"ok": false, "error": error}))
        );
    }
    for (query, status) in [
        ("", 400),
        ("?email_id=a&recipient=b", 400),
        ("?recipient=a,b", 400),
        ("?email_id=a", 200),
    ] {
        let answer = dashboard.get(&format!("{ERASURES}/preview{query}")).await;
        assert_eq!(answer.status, status, "{query}: {}", answer.text());
    }
    let plain = Request::new("POST", ERASURES)
        .body("{}")
        .header("x-tracker-token", TOKEN);
    assert_eq!(plain.send(dashboard.address).await.status, 415);
    for method in ["PUT", "DELETE"] {
        let answer = authorized(method, ERASURES).send(dashboard.address).await;
        assert_eq!(answer.status, 405);
    }
    assert_eq!(recorder.seen(), []);
}

#[tokio::test]
async fn without_a_recorder_it_says_so() {
    let dashboard = Running::without_facts().await;
    let answer = erase(&dashboard, json!({"email_id": "one"})).await;
    let error = "Erasing is not set up: the dashboard's RECORDER_URL is not set";
    assert_eq!(
        (answer.status, answer.json()),
        (503, json!({"ok": false, "error": error}))
    );
    let log_in = Request::post_json(SESSION, json!({"token": TOKEN}).to_string());
    let session = log_in.send(dashboard.address).await.json();
    assert_eq!(session["can_erase"], false);

    let (dashboard, recorder, _database) = with_recorder(10, "another token").await;
    let refused = erase(&dashboard, json!({"email_id": "one"})).await;
    let error = "The recorder refuses the dashboard; its log says why";
    assert_eq!(
        (refused.status, refused.json()["error"].as_str()),
        (503, Some(error))
    );
    assert_eq!(refused.header("retry-after"), None);
    assert_eq!(recorder.seen(), []);
}

/// Who only wants to read needs no recorder: no proxy is to take such a dashboard out.
#[tokio::test]
async fn readiness_tells_of_a_recorder_that_is_away_and_stays() {
    let told = async |dashboard: &Running| {
        let answer = get(dashboard.admin, "/ready").await;
        let found = answer.json();
        assert_eq!(
            (answer.status, &found["checks"]["database"]),
            (200, &json!({"ok": true}))
        );
        (
            found["status"].as_str().unwrap().to_owned(),
            found["checks"]["recorder"].clone(),
        )
    };
    let (dashboard, recorder, database) = with_recorder(10, RECORDER_TOKEN).await;
    assert_eq!(told(&dashboard).await, ("ready".to_owned(), json!({"ok": true})));
    assert_eq!(recorder.seen(), [], "asking erases nothing");

    let url = database.url_of(database::DASHBOARD_ROLE);
    for (of_recorder, token, expected) in [
        ("http://127.0.0.1:1", RECORDER_TOKEN, "no recorder has answered"),
        (
            recorder.url().as_str(),
            "another token",
            "RECORDER_TOKEN is the same on both",
        ),
    ] {
        let dashboard = Running::with(settings(
            &url,
            &[
                ("DASHBOARD_TOKEN", TOKEN),
                ("RECORDER_URL", of_recorder),
                ("RECORDER_TOKEN", token),
            ],
        ))
        .await;
        let (status, found) = told(&dashboard).await;
        assert_eq!((status.as_str(), &found["ok"]), ("degraded", &json!(true)));
        assert!(found["detail"].as_str().unwrap().contains(expected), "{found}");
    }

    let dashboard = Running::without_facts().await;
    assert_eq!(told(&dashboard).await, ("ready".to_owned(), json!(null)));
}

/// Two dashboards over one database, as behind one address.
#[tokio::test]
async fn logging_out_ends_the_sessions_of_all_dashboards() {
    let (one, recorder, database) = with_recorder(10, RECORDER_TOKEN).await;
    let url = database.url_of(database::DASHBOARD_ROLE);
    let two = Running::with(settings(&url, &[("DASHBOARD_TOKEN", TOKEN)])).await;
    let log_in = async |dashboard: &Running| {
        let request = Request::post_json(SESSION, json!({"token": TOKEN}).to_string());
        let answer = request.send(dashboard.address).await;
        let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap();
        let csrf = answer.json()["csrf_token"].as_str().unwrap().to_owned();
        (cookie.to_owned(), csrf)
    };
    let reads = async |cookie: &str| {
        let mut found = Vec::new();
        for dashboard in [&one, &two] {
            let read = Request::get("/dashboard/api/emails").header("cookie", cookie);
            found.push(read.send(dashboard.address).await.status);
        }
        found
    };
    let log_out = async |dashboard: &Running, cookie: &str, csrf: &str| {
        let request = Request::new("DELETE", SESSION);
        let request = request.header("cookie", cookie).header("x-csrf-token", csrf);
        request.send(dashboard.address).await
    };
    let (phone, _) = log_in(&two).await;
    let (desk, csrf) = log_in(&one).await;
    assert_eq!(
        [reads(&phone).await, reads(&desk).await],
        [[200, 200], [200, 200]]
    );

    // Where no recorder is known, the cookie goes and nothing else.
    let done = log_out(&two, &desk, &csrf).await;
    assert_eq!(done.json(), json!({"ok": true, "all_sessions_ended": false}));
    assert!(done.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert_eq!(
        [reads(&phone).await, reads(&desk).await],
        [[200, 200], [200, 200]]
    );

    let done = log_out(&one, &desk, &csrf).await;
    assert_eq!(done.json(), json!({"ok": true, "all_sessions_ended": true}));
    assert_eq!(
        [reads(&phone).await, reads(&desk).await],
        [[401, 401], [401, 401]]
    );
    for path in [SESSION, "/dashboard/api/v1/live"] {
        let copied = Request::get(path).header("cookie", &phone);
        assert_eq!(copied.send(two.address).await.status, 401, "{path}");
    }
    assert_eq!(
        log_out(&one, &desk, &csrf).await.status,
        401,
        "a dead cookie ends nothing"
    );
    let (again, csrf) = log_in(&two).await;
    assert_eq!(reads(&again).await, [200, 200]);

    // A recorder that is away.
    drop(recorder);
    let away = Running::with(settings(
        &url,
        &[
            ("DASHBOARD_TOKEN", TOKEN),
            ("RECORDER_URL", "http://127.0.0.1:1"),
            ("RECORDER_TOKEN", RECORDER_TOKEN),
        ],
    ))
    .await;
    let done = log_out(&away, &again, &csrf).await;
    assert_eq!(done.json(), json!({"ok": true, "all_sessions_ended": false}));
    let failed = erase(&away, json!({"email_id": "one"})).await;
    assert_eq!((failed.status, failed.header("retry-after")), (503, Some("5")));
}
