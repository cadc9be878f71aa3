//! Serving HTTP/1: an accept loop that lets nothing but the service decide what is answered, and ends without cutting
//! anything off.
//!
//! What hyper answers by itself, before a service sees anything (a test shows each):
//!
//! | status | to what |
//! | --- | --- |
//! | 400 | what is no HTTP/1: a request line that does not parse, a request target with a control character, a space or one of the characters that no URI has, a header name with such a character, a control character in a header, a `Content-Length` that is no number or contradicts `Transfer-Encoding` |
//! | 414 | a request target of more than 65,534 bytes, which is as much as `http::Uri` can hold |
//! | 431 | more header lines or more bytes of them than [`Limits`] allow |
//!
//! Malformed percent-escapes and bytes beyond ASCII in a path do reach the service. The reverse proxy in front speaks
//! HTTP/2 and 3 to the world and HTTP/1 to us.

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
use rustix::process::{Resource, getrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

/// What one listener may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more wait to be accepted. It is lowered to what the process's limit of open files allows.
    pub connections: usize,
    /// Bytes of request line and headers.
    pub head_bytes: usize,
    /// Header lines.
    pub header_lines: usize,
    /// From the end of an answer, or the start of a connection, to the end of the next request's headers. So it bounds slow
    /// senders and is how long an idle connection is kept: longer than the proxy in front keeps it, or a request could meet
    /// a connection that is just closing.
    pub head_time: Duration,
}

impl Default for Limits {
    /// As generous as a public port can be: see each value.
    fn default() -> Self {
        Self {
            // An idle connection costs about IDLE_KIB KiB.
            connections: 20_000,
            // A request target of 64 KiB, a user agent of 64 KiB and a thousand lines of X-Forwarded-For at once.
            head_bytes: 512 << 10,
            // A thousand of X-Forwarded-For, and as many others.
            header_lines: 2_048,
            head_time: Duration::from_secs(75),
        }
    }
}

/// Open files that connections leave to everything else: the spool, database connections, admin ports.
const FILES_KEPT: usize = 256;
/// Connections that are allowed for even then.
const FEWEST_CONNECTIONS: usize = 64;
/// How long to wait after an accept that failed for want of something: those under way will free some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Of all listeners in this process, for [`crate::Metrics`].
pub(crate) struct Connections {
    pub(crate) open: AtomicU64,
    pub(crate) not_accepted: AtomicU64,
}

pub(crate) static CONNECTIONS: Connections = Connections {
    open: AtomicU64::new(0),
    not_accepted: AtomicU64::new(0),
};

/// Serves `router` on `listener` until `stop`; then closes what is idle, answers what is under way, and after `grace` cuts
/// off the rest. Dropping the future cuts everything off.
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
    let cut = CancellationToken::new();
    let _cut_at_the_end = cut.clone().drop_guard();
    let room = Arc::new(Semaphore::new(room_for(limits.connections)));
    while let Some((stream, peer, permit)) = accept(&listener, &room, &stop).await {
        let served = serve_connection(stream, peer, router.clone(), limits, stop.clone(), permit);
        connections.spawn(cut.clone().run_until_cancelled_owned(served));
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

/// How many of the `wanted` connections the process's limit of open files leaves room for: a connection too many would be
/// refused by the system, and so would the next file of the spool.
fn room_for(wanted: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    wanted.min(files.saturating_sub(FILES_KEPT).max(FEWEST_CONNECTIONS))
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
                    CONNECTIONS.not_accepted.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%error, "a connection could not be accepted; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
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
    let _open = OpenConnection::count();
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
        .max_buf_size(limits.head_bytes)
        .max_header_size(limits.head_bytes)
        // A client that has said all it has to say still gets its answer.
        .half_close(true);
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

/// Counts a connection as open as long as it lives.
struct OpenConnection;

impl OpenConnection {
    fn count() -> Self {
        CONNECTIONS.open.fetch_add(1, Ordering::Relaxed);
        Self
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        CONNECTIONS.open.fetch_sub(1, Ordering::Relaxed);
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
