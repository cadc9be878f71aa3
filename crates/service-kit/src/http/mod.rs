//! Serving HTTP/1: an accept loop that lets nothing but the service decide what is answered, and ends without cutting
//! anything off.
//!
//! What hyper 1.12 answers by itself, before a service sees anything (a test shows each):
//!
//! | status | to what |
//! | --- | --- |
//! | 400 | a request line of another form than `METHOD TARGET HTTP/1.x` with single spaces |
//! | 400 | a request target with a control character, a space, one of `<`, `>` and the backtick, or bytes that are no UTF-8 |
//! | 400 | a header line without a colon, with a character in its name that no header has, or a control character in its value |
//! | 400 | a `Content-Length` that is no number, or two that differ |
//! | 414 | a request target of more than 65,534 bytes, which is as much as `http::Uri` can hold |
//! | 431 | more header lines or bytes than [`Limits`] allow, or a header name of more than 65,535 bytes |
//! | none | HTTP/2's preface: the connection is closed |
//!
//! Malformed percent-escapes, UTF-8 beyond ASCII in a path, and any bytes from 0x80 on in a header's value do reach the
//! service. The reverse proxy in front speaks HTTP/2 and 3 to the world and HTTP/1 to us.

mod connection;
mod public;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::Router;
use rustix::process::{Resource, getrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::connection::Server;
pub use self::public::{Mount, Public, SharedSocket, shared_socket};

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
            // Measured: 4 KiB for one that has said nothing yet, 23 KiB once it was answered; so these are 270 MiB at worst.
            connections: 12_000,
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
/// Handlers find the peer's address as axum's `ConnectInfo<SocketAddr>`.
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
    let server = Arc::new(Server::new(router, limits, stop.clone()));
    while let Some((stream, peer, permit)) = accept(&listener, &room, &stop).await {
        let connection = Arc::clone(&server).serve(stream, peer, permit);
        connections.spawn(cut.clone().run_until_cancelled_owned(connection));
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
