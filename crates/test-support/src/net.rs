//! Ports for those who cannot be given a listening socket.

use std::{
    hash::{BuildHasher, RandomState},
    net::{Ipv4Addr, TcpListener},
    ops::Range,
};

/// Below the ports that the system gives to outgoing connections: one of those could be taken while the server whose port
/// it is restarts.
const PORTS: Range<u16> = 10_000..32_000;

/// A port of 127.0.0.1 that nothing listened on a moment ago. Prefer handing over a bound listener.
pub fn free_port() -> u16 {
    let anywhere = RandomState::new().hash_one(()) % u64::from(PORTS.end - PORTS.start);
    let first = PORTS.start + u16::try_from(anywhere).expect("less than the range");
    (first..PORTS.end)
        .chain(PORTS.start..first)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port on 127.0.0.1")
}
