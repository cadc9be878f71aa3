//! Ports for those who cannot be given a listening socket.

use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    net::{Ipv4Addr, TcpListener},
    ops::Range,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    sync::Mutex,
};

/// Below the ports that the system gives to outgoing connections: one of those could be taken while the server whose port
/// it is restarts.
const PORTS: Range<u16> = 10_000..32_000;

/// What says to other test processes whose ports these are. Each costs a file descriptor.
static RESERVED: Mutex<VecDeque<UnixListener>> = Mutex::new(VecDeque::new());
const MOST_RESERVED: usize = 256;

/// A port of 127.0.0.1 that nothing listened on a moment ago, and that no test process is given while this one runs and
/// has not asked for hundreds more: whose port it is may end and start again. Prefer handing over a bound listener.
pub fn free_port() -> u16 {
    let anywhere = RandomState::new().hash_one(()) % u64::from(PORTS.end - PORTS.start);
    let first = PORTS.start + u16::try_from(anywhere).expect("less than the range");
    (first..PORTS.end)
        .chain(PORTS.start..first)
        .find(|port| reserve(*port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port on 127.0.0.1")
}

/// By a name that belongs to one socket of the network namespace, as a port does, and that goes with its process.
fn reserve(port: u16) -> bool {
    let name = format!("email-tracker-test-port-{port}");
    let address = SocketAddr::from_abstract_name(name).expect("a short name");
    let Ok(reservation) = UnixListener::bind_addr(&address) else {
        return false;
    };
    let mut reserved = RESERVED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    reserved.push_back(reservation);
    if reserved.len() > MOST_RESERVED {
        reserved.pop_front();
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_was_given_is_not_reserved_again() {
        let port = free_port();
        assert!(!reserve(port));
    }
}
