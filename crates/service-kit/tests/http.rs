//! Serving, sharing a socket, and stopping, over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{ConnectInfo, Request},
    http::HeaderMap,
    routing::get,
};
use service_kit::http::{Limits, Public, serve, shared_socket};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, Semaphore, mpsc},
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
    rest(&mut stream).await
}

/// Everything until the server closes; it may do so with bytes unread, which is a reset.
async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer).await;
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
    let forwarded = "X-Forwarded-For: 203.0.113.7\r\n".repeat(90);
    let head = format!(
        "GET /t/{token}.gif HTTP/1.1\r\nHost: x\r\nUser-Agent: {agent}\r\n{forwarded}Connection: close\r\n\r\n"
    );
    let answer = exchange(address, &head).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("90"),
        "{answer}"
    );
}

/// The table at the top of `service_kit::http`.
#[tokio::test]
async fn what_hyper_answers_by_itself() {
    let stop = CancellationToken::new();
    let (address, _served) = start(says("hello"), &stop).await;
    let target = |length: usize| format!("GET /{} HTTP/1.1", "A".repeat(length - 1));
    let lines = |count: usize| format!("GET / HTTP/1.1\r\n{}X: y", "X: y\r\n".repeat(count - 2));
    let value = |length: usize| format!("GET / HTTP/1.1\r\nX: {}", "A".repeat(length));
    let header = |header: &str| format!("GET / HTTP/1.1\r\n{header}");
    for (head, code) in [
        ("nonsense".to_owned(), "400"),
        ("GET  / HTTP/1.1".into(), "400"),
        ("G@T / HTTP/1.1".into(), "400"),
        ("GET / HTTP/2.0".into(), "400"),
        (header("no colon"), "400"),
        (header("two words: x"), "400"),
        (header("X: \u{1}"), "400"),
        (header("Content-Length: x"), "400"),
        (header("Content-Length: 1\r\nContent-Length: 2"), "400"),
        (header("X: \u{fc}"), "200"),
        (target(65_534), "200"),
        (target(65_535), "414"),
        (target(200_000), "414"),
        (lines(100), "200"),
        (lines(101), "431"),
        (value(511 << 10), "200"),
        (value(513 << 10), "431"),
        (header(&format!("{}: y", "X".repeat(65_535))), "200"),
        (header(&format!("{}: y", "X".repeat(65_536))), "431"),
        ("GET http://x/ HTTP/1.1".into(), "200"),
        ("GET / HTTP/1.0".into(), "200"),
    ] {
        let answer = exchange(address, &format!("{head}\r\nConnection: close\r\n\r\n")).await;
        let expected = [format!("HTTP/1.1 {code} "), format!("HTTP/1.0 {code} ")];
        assert!(
            expected.iter().any(|status| answer.starts_with(status)),
            "{code} for {head:.70}: {answer}"
        );
    }
    assert_eq!(exchange(address, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, "");
    assert!(get_path(address, "/").await.ends_with("hello to 127.0.0.1"));
}

/// In a path, only what no URI may hold is refused: it is for the service to say what is no token.
#[tokio::test]
async fn which_paths_reach_the_service() {
    let stop = CancellationToken::new();
    let (address, _served) = start(says("hello"), &stop).await;
    let mut refused = Vec::new();
    for byte in 0..128_u8 {
        let answer = get_path(address, &format!("/t/a{}b.gif", char::from(byte))).await;
        if !answer.starts_with("HTTP/1.1 200 ") {
            assert!(answer.starts_with("HTTP/1.1 400 "), "{byte}: {answer}");
            refused.push(byte);
        }
    }
    let expected: Vec<u8> = (0..=b' ').chain(*b"<>`\x7f").collect();
    assert_eq!(refused, expected);
    for path in [
        "/t/%zz.gif",
        "/t/%",
        "/t/%00.gif",
        "/t/\u{fc}\u{1f600}.gif",
        "/t/",
        "/t/?%zz",
    ] {
        let answer = get_path(address, path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(b"GET /t/\xff.gif HTTP/1.1\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(rest(&mut stream).await.starts_with("HTTP/1.1 400 "), "no UTF-8");
}

#[tokio::test]
async fn a_client_that_says_no_more_still_gets_its_answer() {
    let stop = CancellationToken::new();
    let (enter, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (entered, left) = (Arc::clone(&enter), Arc::clone(&leave));
    let slow = Router::new().fallback(async move || {
        entered.notify_one();
        left.notified().await;
        "done"
    });
    let (address, _served) = start(slow, &stop).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    enter.notified().await;
    stream.shutdown().await.unwrap();
    leave.notify_one();
    assert!(rest(&mut stream).await.ends_with("done"));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait() {
    let stop = CancellationToken::new();
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, says("hello"), limits, GRACE, stop.clone()));
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(stream.read(&mut [0; 1_024]).await.unwrap() > 0);
        held.push(stream);
    }
    let third = tokio::spawn(async move { get_path(address, "/").await });
    // It has no way in: once the first of the others is gone, it has.
    drop(held.pop());
    assert!(third.await.unwrap().ends_with("hello to 127.0.0.1"));
}

/// Whoever says nothing, or half of a head, or nothing more, is hung up on; but not on whom is still being answered.
#[tokio::test]
async fn a_head_that_does_not_come_ends_its_connection_and_an_answer_that_takes_long_does_not() {
    const HEAD_TIME: Duration = Duration::from_millis(200);
    let stop = CancellationToken::new();
    let slow = Router::new()
        .route("/waits", get(async || tokio::time::sleep(5 * HEAD_TIME).await))
        .route(
            "/streams",
            get(async || {
                let parts = futures::stream::unfold(0, async |number| {
                    tokio::time::sleep(HEAD_TIME / 2).await;
                    (number < 10).then(|| (Ok::<_, std::io::Error>(format!("{number},")), number + 1))
                });
                axum::body::Body::from_stream(parts)
            }),
        )
        .fallback(async || "hello");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Limits {
        head_time: HEAD_TIME,
        ..Limits::default()
    };
    tokio::spawn(serve(listener, slow, limits, GRACE, stop.clone()));
    let exchange = async |says: &'static str| exchange(address, says).await;
    let (silent, half, once, waits, streams) = tokio::join!(
        exchange(""),
        exchange("GET / HTTP/1.1\r\nHo"),
        exchange("GET / HTTP/1.1\r\n\r\n"),
        exchange("GET /waits HTTP/1.1\r\n\r\n"),
        exchange("GET /streams HTTP/1.1\r\n\r\n"),
    );
    assert_eq!((silent.as_str(), half.as_str()), ("", ""));
    assert!(once.ends_with("hello"), "{once}");
    assert!(waits.starts_with("HTTP/1.1 200"), "{waits}");
    assert!(streams.contains("9,"), "{streams}");
}

/// hyper keeps a connection's largest buffer as long as the connection: there must not be many of them, nor for long.
#[tokio::test]
async fn large_heads_are_few_at_once_and_end_their_connection() {
    const AT_ONCE: usize = 64;
    let stop = CancellationToken::new();
    let (entered, mut entries) = mpsc::unbounded_channel();
    let leave = Arc::new(Semaphore::new(0));
    let left = Arc::clone(&leave);
    let slow = Router::new().fallback(async move |request: Request| {
        let path = request.uri().path().to_owned();
        entered.send(path.clone()).unwrap();
        if path == "/large" {
            drop(left.acquire().await.unwrap());
        }
        path
    });
    let (address, _served) = start(slow, &stop).await;
    let agent = "a".repeat(20 << 10);
    let ask = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let agent = if path == "/small" { "small" } else { &agent };
        let head = format!("GET {path} HTTP/1.1\r\nUser-Agent: {agent}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    let mut large = Vec::new();
    for _ in 0..AT_ONCE {
        large.push(ask("/large").await);
        assert_eq!(entries.recv().await.unwrap(), "/large");
    }
    let mut one_more = ask("/one-more").await;
    let mut small = ask("/small").await;
    assert_eq!(
        entries.recv().await.unwrap(),
        "/small",
        "the larger one waits for its turn"
    );
    let mut answer = [0; 1_024];
    let length = small.read(&mut answer).await.unwrap();
    assert!(
        !String::from_utf8_lossy(&answer[..length]).contains("close"),
        "a small one may go on"
    );

    leave.add_permits(1);
    assert_eq!(entries.recv().await.unwrap(), "/one-more");
    for mut stream in large {
        let answer = rest(&mut stream).await;
        assert!(
            answer.contains("connection: close") && answer.ends_with("/large"),
            "{answer}"
        );
    }
    assert!(rest(&mut one_more).await.ends_with("/one-more"));
}

#[tokio::test]
async fn dropping_the_server_cuts_everything_off() {
    let stop = CancellationToken::new();
    let (address, served) = start(says("hello"), &stop).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(stream.read(&mut [0; 1_024]).await.unwrap() > 0);
    served.abort();
    assert_eq!(rest(&mut stream).await, "");
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
        "an idle connection is closed"
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

/// A client as it should be: it gives up a connection after an answer that says so, or when it was closed meanwhile.
struct Client {
    server: SocketAddr,
    keeps_alive: bool,
    /// Between two requests.
    pause: Duration,
    stop: CancellationToken,
}

impl Client {
    /// Sends requests until nobody listens any more; how many were answered. It panics if one was not.
    async fn run(self) -> usize {
        let mut answered = 0;
        let mut open: Option<TcpStream> = None;
        loop {
            let was_told = self.stop.is_cancelled();
            let mut stream = match open.take() {
                Some(stream) => stream,
                None => match TcpStream::connect(self.server).await {
                    Ok(stream) => stream,
                    Err(error) => {
                        assert!(self.stop.is_cancelled(), "refused before the stop: {error}");
                        return answered;
                    }
                },
            };
            let body = "x".repeat(answered % 7);
            let connection = if self.keeps_alive { "keep-alive" } else { "close" };
            let request = format!(
                "POST / HTTP/1.1\r\nHost: x\r\nConnection: {connection}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(request.as_bytes()).await.expect("sent");
            let answer = one_answer(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
            answered += 1;
            let closes = answer.contains("connection: close");
            assert!(closes || !was_told, "an answer after the stop is the last one");
            let end = tokio::time::timeout(self.pause, stream.read(&mut [0])).await;
            open = (!closes && end.is_err()).then_some(stream);
        }
    }
}

/// One answer `done` with its head.
async fn one_answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"done") {
        let read = stream.read_buf(&mut answer).await.expect("an answer");
        assert!(read > 0, "closed unanswered after {answer:?}");
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_stop_leaves_no_request_unanswered() {
    // As many at once as leave each client its turn on a slow machine: one that idles for a second is hung up on.
    const ROUNDS: usize = 16;
    let mut rounds = tokio::task::JoinSet::new();
    for round in 0..ROUNDS {
        rounds.spawn(async move {
            let stop = CancellationToken::new();
            let (count, mut counted) = mpsc::unbounded_channel();
            let router = Router::new().fallback(async move |body: String| {
                count.send(()).ok();
                if body.len() == 1 {
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                "done"
            });
            let (address, served) = start(router, &stop).await;
            let mut clients = tokio::task::JoinSet::new();
            for client in 0..5 {
                clients.spawn(
                    Client {
                        server: address,
                        keeps_alive: client < 3,
                        pause: Duration::from_millis(client % 3 * 5),
                        stop: stop.clone(),
                    }
                    .run(),
                );
            }
            for _ in 0..100 + 10 * round {
                counted.recv().await;
            }
            stop.cancel();
            served.await.unwrap().unwrap();
            clients.join_all().await.into_iter().sum::<usize>()
        });
    }
    let answered: usize = rounds.join_all().await.into_iter().sum();
    assert!(answered > ROUNDS * 100, "{answered}");
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
