//! Serving HTTP/1: an accept loop that lets nothing but the service decide what is answered, and ends without cutting
//! anything off.
//!
//! What hyper answers by itself, before a service sees anything: 400 to what is no HTTP/1, 414 to a request target of
//! 65,535 bytes or more, 431 to more header lines or header bytes than [`Limits`] allow. The reverse proxy in front
//! speaks HTTP/2 and 3 to the world and HTTP/1 to us.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

/// What one connection may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more wait to be accepted. Each idle one costs a few KiB.
    pub connections: usize,
    /// Bytes of request line and headers.
    pub head_bytes: usize,
    /// Header lines.
    pub header_lines: usize,
    /// From the first byte of a request to the end of its headers; also how long an idle connection is kept.
    pub head_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            // A token of 16 KiB, a user agent of 64 KiB and X-Forwarded-For of a thousand entries at once.
            head_bytes: 512 << 10,
            header_lines: 2_048,
            head_time: Duration::from_secs(75),
        }
    }
}

/// How many accepts failed, in this process (out of file descriptors, for example).
pub static ACCEPT_FAILURES: AtomicU64 = AtomicU64::new(0);

/// Serves `router` on `listener` until `stop`; then answers what is under way, for at most `grace`, and closes.
///
/// Handlers find the peer's address as [`ConnectInfo<SocketAddr>`].
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    grace: Duration,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(limits.connections));
    while let Some((stream, peer, permit)) = accept(&listener, &room, &stop).await {
        connections.spawn(serve_connection(
            stream,
            peer,
            router.clone(),
            limits,
            stop.clone(),
            permit,
        ));
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(grace, connections.wait()).await.is_err() && !grace.is_zero() {
        tracing::warn!(
            connections = connections.len(),
            ?grace,
            "connections were cut off at the end of the grace period"
        );
    }
    Ok(())
}

/// The next connection; `None` after `stop`.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
    stop: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let next = async {
        let permit = Arc::clone(room).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => return Some((stream, peer, permit)),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    // Out of descriptors or memory: those under way will free some.
                    ACCEPT_FAILURES.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%error, "a connection could not be accepted; trying again");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        accepted = next => accepted,
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
) {
    // Answers are one small packet each; waiting to fill it up only delays them.
    let _without = stream.set_nodelay(true);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = router.clone().oneshot(request.map(axum::body::Body::new));
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_headers(limits.header_lines)
        .max_buf_size(limits.head_bytes);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Where a service's router is served.
pub enum Public {
    /// On a socket of its own.
    Socket(TcpListener),
    /// By somebody who serves several services on one socket.
    Shared(SharedSocket),
}

/// A service's end of a socket that it shares with others.
pub struct SharedSocket {
    router: oneshot::Sender<Router>,
    drained: CancellationToken,
}

/// The other end: whoever serves the socket takes each service's router from one of these.
pub struct Mount {
    router: oneshot::Receiver<Router>,
}

/// Makes both ends. `drained` is to be cancelled when the shared socket has answered its last request, so that the
/// services behind it do not close what an answer still needs.
#[must_use]
pub fn shared_socket(drained: CancellationToken) -> (Public, Mount) {
    let (sender, receiver) = oneshot::channel();
    (
        Public::Shared(SharedSocket {
            router: sender,
            drained,
        }),
        Mount { router: receiver },
    )
}

impl Mount {
    /// Waits for the service's router; `None` if the service ended before it had one.
    pub async fn router(self) -> Option<Router> {
        self.router.await.ok()
    }
}

impl Public {
    /// Serves `router` until `stop`, and until what is under way has been answered or `grace` is over.
    pub async fn serve(
        self,
        router: Router,
        limits: Limits,
        grace: Duration,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        match self {
            Self::Socket(listener) => serve(listener, router, limits, grace, stop).await,
            Self::Shared(shared) => {
                if shared.router.send(router).is_err() {
                    anyhow::bail!("nobody serves the shared socket any more");
                }
                shared.drained.cancelled().await;
                Ok(())
            }
        }
    }
}
