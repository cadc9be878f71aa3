//! Serving, sharing a socket, stopping, and the admin port, over real sockets.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{net::SocketAddr, time::Duration};

use axum::{Router, extract::ConnectInfo, http::HeaderMap, routing::get};
use service_kit::{
    Health, Metrics, Readiness,
    http::{Limits, Public, serve, shared_socket},
    program::healthcheck,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

const GRACE: Duration = Duration::from_secs(20);

async fn start(router: Router, stop: &CancellationToken) -> (SocketAddr, JoinHandle<anyhow::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (
        address,
        tokio::spawn(serve(listener, router, Limits::default(), GRACE, stop.clone())),
    )
}

/// Sends `head` as it is and reads until the server closes.
async fn exchange(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get_path(address: SocketAddr, path: &str) -> String {
    exchange(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
    )
    .await
}

fn says(text: &'static str) -> Router {
    Router::new()
        .fallback(async move |ConnectInfo(peer): ConnectInfo<SocketAddr>| format!("{text} to {}", peer.ip()))
}

#[tokio::test]
async fn large_heads_reach_the_service() {
    let stop = CancellationToken::new();
    let count = Router::new()
        .fallback(async |headers: HeaderMap| headers.get_all("x-forwarded-for").iter().count().to_string());
    let (address, _served) = start(count, &stop).await;
    let token = "A".repeat(16_384);
    let agent = "a".repeat(64 << 10);
    let forwarded = "X-Forwarded-For: 203.0.113.7\r\n".repeat(1_000);
    let head = format!(
        "GET /t/{token}.gif HTTP/1.1\r\nHost: x\r\nUser-Agent: {agent}\r\n{forwarded}Connection: close\r\n\r\n"
    );
    let answer = exchange(address, &head).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("1000"),
        "{answer}"
    );
}

#[tokio::test]
async fn what_hyper_answers_by_itself() {
    let stop = CancellationToken::new();
    let (address, _served) = start(says("hello"), &stop).await;
    for (head, code) in [
        ("nonsense\r\n\r\n".to_owned(), "400"),
        (
            format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "A".repeat(70_000)),
            "414",
        ),
        (
            format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(3_000)),
            "431",
        ),
    ] {
        let answer = exchange(address, &head).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{answer}");
    }
    assert!(get_path(address, "/").await.ends_with("hello to 127.0.0.1"));
}

#[tokio::test]
async fn two_services_share_one_socket() {
    let (stop, drained) = (CancellationToken::new(), CancellationToken::new());
    let run = |router: Router| {
        let (public, mount) = shared_socket(drained.clone());
        (
            tokio::spawn(public.serve(router, Limits::default(), GRACE, stop.clone())),
            mount,
        )
    };
    let (pixel, pixel_mount) = run(says("pixel"));
    let (dashboard, dashboard_mount) = run(says("dashboard"));
    let both = Router::new()
        .route_service("/t/{*path}", pixel_mount.router().await.unwrap().into_service())
        .route_service(
            "/dashboard",
            dashboard_mount.router().await.unwrap().into_service(),
        );
    let (address, served) = start(both, &stop).await;
    assert!(
        get_path(address, "/t/x.gif")
            .await
            .ends_with("pixel to 127.0.0.1")
    );
    assert!(
        get_path(address, "/dashboard")
            .await
            .ends_with("dashboard to 127.0.0.1")
    );
    assert!(get_path(address, "/metrics").await.starts_with("HTTP/1.1 404"));

    stop.cancel();
    served.await.unwrap().unwrap();
    assert!(
        !pixel.is_finished(),
        "a service behind a shared socket waits for its last answer"
    );
    drained.cancel();
    pixel.await.unwrap().unwrap();
    dashboard.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_stop_answers_what_is_under_way_and_closes_what_is_idle() {
    static ENTERED: Notify = Notify::const_new();
    static LEAVE: Notify = Notify::const_new();
    let stop = CancellationToken::new();
    let slow = Router::new().route("/", get(async || "fast")).route(
        "/slow",
        get(async || {
            ENTERED.notify_one();
            LEAVE.notified().await;
            "done"
        }),
    );
    let (address, served) = start(slow, &stop).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 4_096];
    assert!(idle.read(&mut first).await.unwrap() > 0);
    let slow = tokio::spawn(async move { get_path(address, "/slow").await });
    ENTERED.notified().await;

    stop.cancel();
    assert_eq!(
        idle.read(&mut first).await.unwrap(),
        0,
        "an idle connection is closed at once"
    );
    assert!(!served.is_finished());
    LEAVE.notify_one();
    assert!(slow.await.unwrap().ends_with("done"));
    served.await.unwrap().unwrap();
    assert!(
        TcpStream::connect(address).await.is_err(),
        "nothing listens any more"
    );
}

#[tokio::test]
async fn the_admin_port_says_what_is_ready_and_what_is_not() {
    let stop = CancellationToken::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, health) = tokio::sync::watch::channel(Health::Ok);
    let readiness = Readiness::new()
        .check("spool", move || {
            let health = health.borrow().clone();
            async move { health }
        })
        .check("other", async || Health::Ok);
    let metrics = Metrics::new("pixel").unwrap();
    let admin = tokio::spawn(service_kit::admin::serve(
        listener,
        readiness,
        metrics,
        None,
        stop.clone(),
    ));

    assert!(get_path(address, "/live").await.starts_with("HTTP/1.1 200"));
    let metrics = get_path(address, "/metrics").await;
    assert!(
        metrics.contains("text/plain; version=0.0.4") && metrics.contains("\nemail_tracker_build_info{"),
        "{metrics}"
    );
    assert!(get_path(address, "/log-level").await.starts_with("HTTP/1.1 404"));
    let asked = async || {
        let answer = get_path(address, "/ready").await;
        let healthy = tokio::task::spawn_blocking(move || healthcheck(address))
            .await
            .unwrap();
        (answer, healthy)
    };
    let (answer, healthy) = asked().await;
    assert!(
        answer.contains(r#""status":"ready""#) && healthy.is_ok(),
        "{answer} {healthy:?}"
    );
    sender.send(Health::Degraded("nearly full".into())).unwrap();
    let (answer, healthy) = asked().await;
    assert!(
        answer.contains(r#""status":"degraded""#) && answer.contains("nearly full") && healthy.is_ok(),
        "{answer}"
    );
    sender.send(Health::Failing("disk gone".into())).unwrap();
    let (answer, healthy) = asked().await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("disk gone"),
        "{answer}"
    );
    assert!(healthy.unwrap_err().to_string().contains("not ready"));

    stop.cancel();
    admin.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_service_on_its_own_socket_is_served_the_same() {
    let stop = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served =
        tokio::spawn(Public::Socket(listener).serve(says("own"), Limits::default(), GRACE, stop.clone()));
    assert!(get_path(address, "/").await.ends_with("own to 127.0.0.1"));
    stop.cancel();
    served.await.unwrap().unwrap();
}
