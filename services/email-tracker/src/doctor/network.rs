//! From the name to the socket: DNS, ports, and what is open that should not be.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use tokio::{net::TcpStream, time::timeout};

use super::{
    Patient, dns,
    http::{CONNECT_PATIENCE, Server},
    report::Finding,
};

impl Patient {
    pub(super) async fn dns(&mut self) -> Finding {
        let host = &self.address.host;
        if let Ok(address) = host.parse() {
            self.addresses = vec![address];
            return Finding::ok("it is an address itself");
        }
        match dns::addresses(self.settings.dns_server, host).await {
            Ok(found) if found.is_empty() => Finding::failed(
                "there is none",
                format!(
                    "make an A record (and an AAAA record, if it has IPv6) of {host} with its public address"
                ),
            ),
            Ok(found) => {
                self.addresses = found;
                Finding::ok(joined(&self.addresses))
            }
            Err(error) => Finding::failed(
                format!("{error:#}"),
                format!(
                    "make an A record of {host}; if there is one, look at this host's resolver, or set DNS_SERVER"
                ),
            ),
        }
    }

    /// Compares the records of one family with what this host is said to have.
    pub(super) fn dns_points_here(&self, family: fn(&IpAddr) -> bool, record: &str) -> Finding {
        let public = &self.settings.public_addresses;
        if public.is_empty() {
            return Finding::needs("PUBLIC_ADDRESS");
        }
        let of_family = |addresses: &[IpAddr]| -> Vec<IpAddr> {
            addresses
                .iter()
                .filter(|address| family(address))
                .copied()
                .collect()
        };
        let (found, wanted) = (of_family(&self.addresses), of_family(public));
        if found.is_empty() && wanted.is_empty() {
            return Finding::ok(format!("no {record} record and no such address"));
        }
        if found.is_empty() {
            let advice = format!("make an {record} record with {}", joined(&wanted));
            return Finding::warning("there is none", advice);
        }
        let elsewhere: Vec<IpAddr> = found
            .iter()
            .copied()
            .filter(|address| !wanted.contains(address))
            .collect();
        if elsewhere.is_empty() {
            return Finding::ok(joined(&found));
        }
        let advice = if wanted.is_empty() {
            format!("remove the {record} record, or name this host's address in PUBLIC_ADDRESS")
        } else {
            format!("set the {record} record to {}", joined(&wanted))
        };
        Finding::failed(
            format!("{} is not this host's address", joined(&elsewhere)),
            advice,
        )
    }

    /// Connects to each address.
    pub(super) async fn port(&self, port: u16) -> Finding {
        let host = &self.address.host;
        let (mut open, mut closed, mut no_way) = (Vec::new(), Vec::new(), Vec::new());
        for address in &self.addresses {
            match timeout(CONNECT_PATIENCE, TcpStream::connect((*address, port))).await {
                Ok(Ok(_)) => open.push(*address),
                Ok(Err(error)) if is_no_way(&error) => no_way.push(*address),
                Ok(Err(error)) => closed.push(format!("{address}: {error}")),
                Err(_) => closed.push(format!("{address}: nothing came within {CONNECT_PATIENCE:?}")),
            }
        }
        let from_outside =
            format!("ask from outside too: `curl -v --connect-timeout 5 telnet://{host}:{port}`");
        if !closed.is_empty() || open.is_empty() && no_way.is_empty() {
            let advice = format!(
                "start what listens there (Caddy), and open port {port} in the firewall, at the provider and in the router; \
                 {from_outside}"
            );
            return Finding::failed(closed.join(", "), advice);
        }
        if no_way.is_empty() {
            return Finding::ok(format!("open at {}; {from_outside}", joined(&open)));
        }
        let found = format!("this host has no way to {}", joined(&no_way));
        if open.is_empty() {
            return Finding::failed(found, from_outside);
        }
        Finding::warning(found, from_outside)
    }

    /// Whatever answers `/metrics` there is open to the world, ours or not.
    pub(super) async fn admin_ports(&self) -> Finding {
        let addresses = if self.settings.public_addresses.is_empty() {
            &self.addresses
        } else {
            &self.settings.public_addresses
        };
        if self.settings.public_addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback) {
            return Finding::needs("PUBLIC_ADDRESS");
        }
        let sockets = addresses.iter().flat_map(|address| {
            let ports = self.settings.admin_ports.iter();
            ports.map(move |port| SocketAddr::new(*address, *port))
        });
        let asked: Vec<_> = sockets
            .map(|socket| tokio::spawn(async move { shows_metrics(socket).await.then_some(socket) }))
            .collect();
        let mut exposed = Vec::new();
        for answer in asked {
            exposed.extend(answer.await.ok().flatten().map(|socket| socket.to_string()));
        }
        let ports: Vec<String> = self.settings.admin_ports.iter().map(u16::to_string).collect();
        if exposed.is_empty() {
            return Finding::ok(format!("none of {} shows metrics", ports.join(", ")));
        }
        Finding::failed(
            format!("{} shows metrics to everybody", exposed.join(", ")),
            "leave ADMIN_LISTEN at 127.0.0.1 (natively) or do not publish the port (containers), and close it in the firewall",
        )
    }
}

/// No address of this family, or no route: that says nothing about the other side.
fn is_no_way(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable | io::ErrorKind::AddrNotAvailable
    )
}

async fn shows_metrics(socket: SocketAddr) -> bool {
    let server = Server {
        addresses: &[socket.ip()],
        port: socket.port(),
        host: socket.to_string(),
        tls: None,
    };
    let answer = server.get("/metrics", &[]).await;
    answer.is_ok_and(|answer| answer.status.is_success())
}

fn joined(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(", ")
}
