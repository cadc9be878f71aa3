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
//! | 431 | more than 100 header lines, more bytes of them than [`Limits`] allow, or a header name of more than 65,535 bytes |
//! | none | HTTP/2's preface: the connection is closed |
//!
//! Malformed percent-escapes, UTF-8 beyond ASCII in a path, and any bytes from 0x80 on in a header's value do reach the
//! service. The reverse proxy in front speaks HTTP/2 and 3 to the world and HTTP/1 to us.

mod answer;
mod connection;
mod door;
mod lanes;
mod public;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

pub use self::{
    answer::Answer,
    lanes::Lanes,
    public::{Mount, Public, SharedSocket, shared_socket},
};
use self::{
    connection::Server,
    door::{Accepted, Door},
    lanes::Where,
};

/// What one listener may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more wait to be accepted. It is lowered to what the process's limit of open files allows.
    pub connections: usize,
    /// Bytes of request line and headers.
    pub head_bytes: usize,
    /// From the end of an answer, or the start of a connection, to the end of the next request's headers, and up to a quarter
    /// longer. So it bounds slow senders and is how long an idle connection is kept: longer than the proxy in front keeps it,
    /// or a request could meet a connection that is just closing.
    pub head_time: Duration,
    /// Where connections are answered.
    pub lanes: Lanes,
}

impl Default for Limits {
    /// As generous as a public port can be: see each value.
    fn default() -> Self {
        Self {
            // Measured: 4 KiB for one that has said nothing yet, 23 KiB once it was answered; so these are 270 MiB at worst.
            connections: 12_000,
            // A request target of 64 KiB, a user agent of 64 KiB and headers of as much again, several times over.
            head_bytes: 512 << 10,
            head_time: Duration::from_secs(75),
            lanes: Lanes::None,
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

/// How many HTTP connections are open in this process, to admin ports as well.
#[must_use]
pub fn open_connections() -> u64 {
    CONNECTIONS.open.load(Ordering::Relaxed)
}

impl Connections {
    fn not_accepted(&self) {
        self.not_accepted.fetch_add(1, Ordering::Relaxed);
    }
}

/// Serves requests on `listener` until `stop`, and then for as long as the end takes, which is at most `grace`. Dropping the
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
pub async fn serve(
    listener: TcpListener,
    answers: impl Answer,
    limits: Limits,
    grace: Duration,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let hang_up = CancellationToken::new();
    let server = Arc::new(Server::new(answers, limits, stop.clone(), hang_up.clone()));
    let lanes = Where::new(limits.lanes).context("cannot start the threads that answer connections")?;
    // Those in it are cut off when it is dropped.
    let mut connections = JoinSet::new();
    let answer = |connections: &mut JoinSet<()>, accepted: Accepted| {
        lanes.spawn(connections, Arc::clone(&server).serve(accepted));
    };

    let door = Door::new(listener, limits.connections);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_ended) = connections.join_next() => {}
            accepted = door.next() => answer(&mut connections, accepted),
        }
    }

    let end = Instant::now() + grace;
    let all_gone = async {
        loop {
            tokio::select! {
                biased;
                accepted = door.next() => answer(&mut connections, accepted),
                ended = connections.join_next() => if ended.is_none() { break },
            }
        }
    };
    let _gone_or_not = timeout(LINGER.min(grace / 4), all_gone).await;
    for accepted in door.close() {
        answer(&mut connections, accepted);
    }
    hang_up.cancel();
    let all_gone = async { while connections.join_next().await.is_some() {} };
    if timeout_at(end, all_gone).await.is_err() && !grace.is_zero() {
        tracing::warn!(
            connections = connections.len(),
            ?grace,
            "connections were cut off at the end of the grace period"
        );
    }
    Ok(())
}
