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
mod door;
mod public;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::Router;
use tokio::{
    net::TcpListener,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::public::{Mount, Public, SharedSocket, shared_socket};
use self::{
    connection::Server,
    door::{Accepted, Door},
};

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

/// How long a stop waits, at most, for the connections that are open to be used once more. Each is closed by the answer to
/// that; one that were closed by itself could meet the next request on its way.
const LINGER: Duration = Duration::from_secs(1);

/// Of all listeners in this process, for [`crate::Metrics`].
pub(crate) struct Connections {
    pub(crate) open: AtomicU64,
    pub(crate) not_accepted: AtomicU64,
}

pub(crate) static CONNECTIONS: Connections = Connections {
    open: AtomicU64::new(0),
    not_accepted: AtomicU64::new(0),
};

impl Connections {
    fn not_accepted(&self) {
        self.not_accepted.fetch_add(1, Ordering::Relaxed);
    }
}

/// Serves `router` on `listener` until `stop`, and then for as long as the end takes, which is at most `grace`. Dropping the
/// future cuts everything off.
///
/// The end, so that no request meets a closed door:
///
/// 1. Every answer says `Connection: close` from `stop` on, and connections are still let in, until none is open, or for
///    a second. A client or proxy in front thus gives up each connection after an answer, and comes back to a port where
///    nobody listens, which it can tell from a request that was lost.
/// 2. The socket is closed.
/// 3. Connections that were not used meanwhile are closed, and what is under way is answered. Those who came after `stop`
///    have two seconds to say something. What takes longer than `grace` is cut off.
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
    let hang_up = CancellationToken::new();
    let cut = CancellationToken::new();
    let _cut_at_the_end = cut.clone().drop_guard();
    let server = Arc::new(Server::new(router, limits, stop.clone(), hang_up.clone()));
    let answer = |accepted: Accepted| {
        let connection = Arc::clone(&server).serve(accepted);
        connections.spawn(cut.clone().run_until_cancelled_owned(connection));
    };

    let door = Door::new(listener, limits.connections);
    while let Some(accepted) = stop.run_until_cancelled(door.next()).await {
        answer(accepted);
    }

    let end = Instant::now() + grace;
    connections.close(); // To be waited for; more may still come.
    let all_gone = async {
        loop {
            tokio::select! {
                biased;
                accepted = door.next() => answer(accepted),
                () = connections.wait() => break,
            }
        }
    };
    let _gone_or_not = timeout(LINGER.min(grace / 4), all_gone).await;
    door.close().into_iter().for_each(answer);
    hang_up.cancel();
    if timeout_at(end, connections.wait()).await.is_err() && !grace.is_zero() {
        tracing::warn!(
            connections = connections.len(),
            ?grace,
            "connections were cut off at the end of the grace period"
        );
    }
    Ok(())
}
