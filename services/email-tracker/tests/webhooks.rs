//! `webhooks`: what is set aside is listed and sent again, and a target is tried.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

#[allow(dead_code, reason = "other tests use the rest")]
mod facts;

use std::process::{Command, Output};

use serde_json::Value;
use test_support::{OWNER_PASSWORD, PrivatePostgres, TestDatabase};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::facts::migrated;

async fn webhooks(arguments: &[&str], variables: &[(&str, String)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_email-tracker"));
    command.arg("webhooks").args(arguments).env_clear();
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    tokio::task::spawn_blocking(move || command.output().expect("the program starts"))
        .await
        .unwrap()
}

async fn of_database(arguments: &[&str], database: &TestDatabase) -> String {
    let variables = [
        ("DATABASE_URL", database.tcp_url_of("email_tracker_owner")),
        ("DATABASE_PASSWORD", OWNER_PASSWORD.to_owned()),
    ];
    let output = webhooks(arguments, &variables).await;
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn what_is_set_aside_is_listed_and_sent_again() {
    let server = PrivatePostgres::start().await;
    let database = migrated(&server).await;
    let client = database.superuser().await;
    client
        .batch_execute(
            "insert into webhook_events (email_id, target, kind, opened_at, event_id, queued_at, set_aside_at, problem)
             select 'email ' || number, case when number > 1000 then 'chat' else 'crm' end, 'open',
                    '2026-03-01T09:30:00Z', gen_random_uuid(), '2026-03-01T09:30:00Z',
                    case when number <> 7 then timestamptz '2026-03-04T09:30:00Z' end, 'it answered 503'
             from generate_series(1, 1500) as number",
        )
        .await
        .unwrap();
    let listed = of_database(&["list"], &database).await;
    let events: Vec<Value> = listed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(events.len(), 1_499);
    let event = events
        .iter()
        .find(|event| event["email_id"] == "email 1001")
        .unwrap();
    assert_eq!(event["target"], "chat");
    assert_eq!(
        (&event["type"], &event["problem"]),
        (&"email.open".into(), &"it answered 503".into())
    );
    assert_eq!(event["set_aside_at"], "2026-03-04T09:30:00.000Z");
    assert_eq!(
        of_database(&["list", "--target", "chat"], &database)
            .await
            .lines()
            .count(),
        500
    );

    let said = of_database(&["resend", "--target", "crm"], &database).await;
    assert_eq!(said, "999 events that were set aside will be sent again\n");
    let due = "select count(*) from webhook_queues where due_at is not null and target = 'crm'";
    assert_eq!(client.query_one(due, &[]).await.unwrap().get::<_, i64>(0), 999);
    assert_eq!(of_database(&["list"], &database).await.lines().count(), 500);
    assert_eq!(
        of_database(&["resend"], &database).await.split(' ').next(),
        Some("500")
    );
    assert_eq!(of_database(&["list"], &database).await, "");
}

#[tokio::test]
async fn a_target_is_tried() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let receiver = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answer in ["204 No Content", "404 Not Found"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = String::new();
            while !request.ends_with('}') {
                let mut bytes = [0; 4096];
                let length = stream.read(&mut bytes).await.unwrap();
                assert!(length > 0, "{request}");
                request.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
            }
            let answer = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            requests.push(request);
        }
        requests
    });
    let targets = format!(r#"[{{"name":"chat","url":"http://127.0.0.1:{port}/s3cret","format":"slack"}}]"#);
    let variables = [
        ("WEBHOOKS", targets),
        ("WEBHOOK_PRIVATE_NETWORKS", "127.0.0.1".to_owned()),
    ];
    let told = webhooks(&["test", "chat"], &variables).await;
    assert_eq!(
        String::from_utf8_lossy(&told.stdout),
        "chat has taken a test message\n",
        "{told:?}"
    );
    let refused = webhooks(&["test", "chat"], &variables).await;
    assert_eq!(refused.status.code(), Some(1));
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        error.contains("chat was not told: it answered 404") && !error.contains("s3cret"),
        "{error}"
    );

    let requests = receiver.await.unwrap();
    assert!(
        requests[0].starts_with("POST /s3cret HTTP/1.1\r\n"),
        "{}",
        requests[0]
    );
    assert!(
        requests[0].contains(r#""text":"A test of Email Tracker"#),
        "{}",
        requests[0]
    );

    let unknown = webhooks(&["test", "other"], &variables).await;
    assert!(
        String::from_utf8_lossy(&unknown.stderr).contains("WEBHOOKS has no target other; it has: chat"),
        "{unknown:?}"
    );
    let inside = webhooks(&["test", "chat"], &variables[..1]).await;
    assert_eq!(
        inside.status.code(),
        Some(64),
        "http:// without a network: {inside:?}"
    );
}
