//! Ports for those who cannot be given a listening socket.

use std::net::{Ipv4Addr, TcpListener};

/// A port of 127.0.0.1 that nothing listened on a moment ago. Prefer handing over a bound listener.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on 127.0.0.1");
    listener
        .local_addr()
        .expect("the address of a bound listener")
        .port()
}
