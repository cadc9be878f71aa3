//! One database of a test.

use std::{net::SocketAddr, sync::Arc};

use tokio_postgres::Client;

use super::{OWNER, server::Server, topology::Topology};

/// A database that only its test uses; dropped with the value.
#[derive(Debug)]
#[must_use = "it is dropped, and its connections are ended, with this value"]
pub struct TestDatabase {
    server: Arc<Server>,
    topology: Topology,
    name: String,
}

impl TestDatabase {
    pub(super) const fn new(server: Arc<Server>, topology: Topology, name: String) -> Self {
        Self {
            server,
            topology,
            name,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The owner's URL, over the Unix socket.
    pub fn url(&self) -> String {
        self.url_of(OWNER)
    }

    /// The URL of `role`, over the Unix socket, where no password is asked for. `postgres` is the superuser. Those of the
    /// services' roles lead where `TEST_TOPOLOGY` says.
    pub fn url_of(&self, role: &str) -> String {
        let routed = self.topology.url_of(role, &self.name);
        routed.unwrap_or_else(|| self.server.socket_url(role, &self.name))
    }

    /// Where its server listens besides its socket.
    pub fn tcp_address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.server.port()).into()
    }

    /// The URL of `role` over TCP, where it needs its password.
    pub fn tcp_url_of(&self, role: &str) -> String {
        self.tcp_url_through(role, self.tcp_address())
    }

    /// The same through a proxy at `address`.
    pub fn tcp_url_through(&self, role: &str, address: SocketAddr) -> String {
        format!("postgres://{role}@{address}/{}", self.name)
    }

    /// A superuser's connection, to look at what was stored or to disturb others.
    pub async fn superuser(&self) -> Client {
        self.server.superuser(&self.name).await
    }

    /// The same on the server that `role` reads at, to look at its sessions.
    pub async fn superuser_beside(&self, role: &str) -> Client {
        match self.topology.server_of(role) {
            Some(server) => server.superuser(&self.name).await,
            None => self.superuser().await,
        }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        self.server.drop_database(&self.name);
    }
}
