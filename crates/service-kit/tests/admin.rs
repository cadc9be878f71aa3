//! The admin port over a real socket.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use service_kit::{Health, Metrics, Readiness, admin, program::healthcheck};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::Handle,
    sync::watch,
    task::{JoinHandle, spawn_blocking},
};
use tokio_util::sync::CancellationToken;

fn start(readiness: Readiness, stop: &CancellationToken) -> (SocketAddr, JoinHandle<anyhow::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = Metrics::new("pixel").unwrap();
    let served = admin::serve(listener, readiness, metrics, None, stop.clone());
    (address, tokio::spawn(served))
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Status and body of `/ready`.
async fn ready(address: SocketAddr) -> (String, serde_json::Value) {
    let answer = get(address, "/ready").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().to_owned();
    (status, serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn what_is_ready_and_what_is_not() {
    let stop = CancellationToken::new();
    let (set, health) = watch::channel(Health::Ok);
    let watched = move || {
        let health = health.borrow().clone();
        async move { health }
    };
    let readiness = Readiness::new()
        .check("spool", watched)
        .check("other", async || Health::Ok);
    let (address, admin) = start(readiness, &stop);
    for (health, status, body, healthy) in [
        (
            Health::Ok,
            "200",
            r#"{"status":"ready","checks":{"spool":{"ok":true},"other":{"ok":true}}}"#,
            true,
        ),
        (
            Health::Degraded("nearly full".into()),
            "200",
            r#"{"status":"degraded","checks":{"spool":{"ok":true,"detail":"nearly full"},"other":{"ok":true}}}"#,
            true,
        ),
        (
            Health::Failing("disk gone".into()),
            "503",
            r#"{"status":"not ready","checks":{"spool":{"ok":false,"detail":"disk gone"},"other":{"ok":true}}}"#,
            false,
        ),
    ] {
        set.send(health).unwrap();
        let expected: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(ready(address).await, (status.to_owned(), expected));
        let checked = spawn_blocking(move || healthcheck(address)).await.unwrap();
        assert_eq!(checked.is_ok(), healthy, "{checked:?}");
    }
    stop.cancel();
    admin.await.unwrap().unwrap();
    let checked = spawn_blocking(move || healthcheck(address)).await.unwrap();
    assert!(checked.unwrap_err().to_string().starts_with("no connection"));
}

#[tokio::test]
async fn a_check_that_hangs_or_panics_is_failing() {
    let stop = CancellationToken::new();
    let readiness = Readiness::new()
        .check("hangs", std::future::pending)
        .check("panics", async || -> Health { panic!("no luck") })
        .check("other", async || Health::Ok);
    let (address, _admin) = start(readiness, &stop);
    let (status, body) = ready(address).await;
    assert_eq!(status, "503");
    assert_eq!(body["checks"]["hangs"]["detail"], "no answer within 2s");
    let detail = body["checks"]["panics"]["detail"].as_str().unwrap();
    assert!(detail.contains("no luck"), "{detail}");
    assert_eq!(body["checks"]["other"]["ok"], true);
}

/// A service whose runtime is stuck is alive, as far as the admin port can tell, measured, and not ready.
#[tokio::test(flavor = "current_thread")]
async fn it_answers_while_the_service_is_stuck() {
    let stop = CancellationToken::new();
    let service = Handle::current().id();
    let on_the_service = move || async move {
        if Handle::current().id() == service {
            Health::Ok
        } else {
            Health::Failing("on another runtime".into())
        }
    };
    let readiness = Readiness::new().check("where", on_the_service);
    let (address, _admin) = start(readiness, &stop);
    assert_eq!(ready(address).await.0, "200");

    // Nothing else runs on this thread, the service's only one, while it asks in the manner of a blocking program.
    let ask = |path: &str| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask("/live").starts_with("HTTP/1.1 200"));
    assert!(ask("/metrics").contains("\nemail_tracker_build_info{"));
    assert!(ask("/ready").starts_with("HTTP/1.1 503"));
}

#[tokio::test]
async fn metrics_are_in_the_text_format_and_nothing_else_is_there() {
    let stop = CancellationToken::new();
    let (address, _admin) = start(Readiness::new(), &stop);
    assert!(get(address, "/live").await.starts_with("HTTP/1.1 200"));
    let metrics = get(address, "/metrics").await;
    assert!(
        metrics.contains("content-type: text/plain; version=0.0.4")
            && metrics.contains("\nemail_tracker_build_info{"),
        "{metrics}"
    );
    for path in ["/", "/log-level", "/metrics/"] {
        assert!(get(address, path).await.starts_with("HTTP/1.1 404"), "{path}");
    }
}
