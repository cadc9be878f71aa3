//! The listening socket: who comes in, and how it is closed with nobody left standing in it.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Resource, getrlimit};
use socket2::{SockFilter, SockRef};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::CONNECTIONS;

/// Open files that connections leave to everything else: the spool, database connections, admin ports.
const FILES_KEPT: usize = 256;
/// Connections that are allowed for even then.
const FEWEST_CONNECTIONS: usize = 64;
/// How long to wait after an accept that failed for want of something: those under way will free some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening socket and the room behind it.
pub(super) struct Door {
    listener: TcpListener,
    room: Arc<Semaphore>,
}

/// A connection that was let in; the permit is its place.
pub(super) struct Accepted {
    /// Of no runtime yet; it does not block.
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) permit: OwnedSemaphorePermit,
}

impl Door {
    pub(super) fn new(listener: TcpListener, connections: usize) -> Self {
        Self {
            listener,
            room: Arc::new(Semaphore::new(room_for(connections))),
        }
    }

    /// The next connection, once there is room for it. Dropping the future loses none.
    pub(super) async fn next(&self) -> Accepted {
        loop {
            let Ok(permit) = Arc::clone(&self.room).acquire_owned().await else {
                return std::future::pending().await; // Nobody closes the semaphore.
            };
            let accepted = self.listener.accept().await;
            match accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
                Ok((stream, peer)) => return Accepted { stream, peer, permit },
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    CONNECTIONS.not_accepted();
                    tracing::warn!(%error, "a connection could not be accepted; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Closes it. Those that the system has connected already are let in as far as there is room: it would reset them.
    pub(super) fn close(self) -> Vec<Accepted> {
        // Without this, one could come in after the last was let in, and be reset with its request.
        if let Err(error) = SockRef::from(&self.listener).attach_filter(&no_more_connections()) {
            tracing::debug!(%error, "connections cannot be turned away before the socket is closed");
        }
        let mut waiting = Vec::new();
        // tokio asks the system only after a notice that somebody is there, which may be on its way.
        let Ok(listener) = self.listener.into_std() else {
            return waiting;
        };
        while let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
            match listener.accept().and_then(|(stream, peer)| {
                stream.set_nonblocking(true)?;
                Ok((stream, peer))
            }) {
                Ok((stream, peer)) => waiting.push(Accepted { stream, peer, permit }),
                Err(error) if is_of_one_connection(&error) => {}
                Err(_) => break, // Nobody is waiting any more, or nobody can be let in.
            }
        }
        waiting
    }
}

/// A program for the system's packet filter: it drops what asks for a connection, and lets pass what belongs to one. Who was
/// dropped asks again after a second, and is then told that nobody listens.
fn no_more_connections() -> [SockFilter; 5] {
    // Operations of the classic packet filter, as the kernel's documentation numbers them.
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    /// Where a TCP header has its flags.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const ACK: u32 = 0x10;
    const DROP: u32 = 0;
    const PASS: u32 = u32::MAX;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN | ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, DROP),
        SockFilter::new(RETURN, 0, 0, PASS),
    ]
}

/// How many of the `wanted` connections the process's limit of open files leaves room for: a connection too many would be
/// refused by the system, and so would the next file of the spool.
fn room_for(wanted: usize) -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let files = usize::try_from(files).unwrap_or(usize::MAX);
    wanted.min(files.saturating_sub(FILES_KEPT).max(FEWEST_CONNECTIONS))
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
