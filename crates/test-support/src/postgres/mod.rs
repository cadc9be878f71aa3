//! A private PostgreSQL server from installed binaries.

mod database;
mod installed;
mod server;

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::OnceCell;
use tokio_postgres::{Client, error::SqlState};

pub use database::TestDatabase;
use server::Server;

/// Who owns the test databases: no superuser, but may create roles, as the owner at a hosted PostgreSQL.
pub const OWNER: &str = "email_tracker_owner";
/// The owner's password, for TCP.
pub const OWNER_PASSWORD: &str = "owner-of-the-tests";

const TEMPLATE: &str = "email_tracker_template";

/// A PostgreSQL server of the tests' own, on a Unix socket (where it trusts every role) and on 127.0.0.1 (where it asks
/// for passwords). It goes with its last clone and database, and also when the test process is killed.
///
/// The binaries are those in the folder `PG_BIN`, else of the newest version installed. The tests' own superuser may
/// also be root: the server then runs as `postgres` or `nobody`.
#[derive(Clone, Debug)]
pub struct PrivatePostgres {
    server: Arc<Server>,
    databases: Arc<AtomicU64>,
}

impl PrivatePostgres {
    /// The server that all tests of this process share, up to the end of the process. The first caller's `migrate` gets
    /// the owner's URL of the template that each [`database`](Self::database) is a copy of.
    pub async fn shared<F: Future<Output = ()>>(migrate: impl FnOnce(String) -> F) -> Self {
        static SERVER: OnceCell<PrivatePostgres> = OnceCell::const_new();
        let shared = SERVER
            .get_or_init(async || {
                let server = Self::start().await;
                server.migrate_template(migrate).await;
                server
            })
            .await;
        shared.clone()
    }

    /// A server of the caller's own, whose databases are empty until [`migrate_template`](Self::migrate_template).
    pub async fn start() -> Self {
        let server = Server::start().await;
        let postgres = Self {
            server: Arc::new(server),
            databases: Arc::default(),
        };
        let admin = postgres.superuser("postgres").await;
        let statements = format!(
            "create role {OWNER} login createrole password '{OWNER_PASSWORD}';
             create database {TEMPLATE} owner {OWNER}"
        );
        for statement in statements.split(';') {
            admin
                .batch_execute(statement)
                .await
                .expect("preparing the template database");
        }
        postgres
    }

    /// Lets `migrate` prepare the template, given the owner's URL of it.
    pub async fn migrate_template<F: Future<Output = ()>>(&self, migrate: impl FnOnce(String) -> F) {
        migrate(self.server.socket_url(OWNER, TEMPLATE)).await;
    }

    /// A fresh copy of the template. It is dropped with the value.
    pub async fn database(&self) -> TestDatabase {
        self.copy_of(TEMPLATE).await
    }

    /// A fresh database with nothing in it, not even migrated.
    pub async fn empty_database(&self) -> TestDatabase {
        self.copy_of("template0").await
    }

    async fn copy_of(&self, template: &str) -> TestDatabase {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed) + 1);
        let admin = self.superuser("postgres").await;
        let statement = format!("create database {name} template {template} owner {OWNER}");
        crate::eventually("the template database has no user left", async || {
            match admin.batch_execute(&statement).await {
                Ok(()) => Some(()),
                Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) => None,
                Err(error) => panic!("creating a test database: {error:?}"),
            }
        })
        .await;
        TestDatabase::new(Arc::clone(&self.server), name)
    }

    /// A superuser's connection to the database `name`.
    pub async fn superuser(&self, name: &str) -> Client {
        self.server.superuser(name).await
    }

    /// Where it listens besides its socket.
    pub fn tcp_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.server.port()).into()
    }

    /// Ends it as a power cut would: at once, without a checkpoint.
    pub async fn crash(&self) {
        self.server.end(rustix::process::Signal::QUIT).await;
    }

    /// Ends it in order, cutting all connections.
    pub async fn stop(&self) {
        self.server.end(rustix::process::Signal::INT).await;
    }

    /// Starts it again, on the same data and the same port.
    pub async fn start_again(&self) {
        self.server.launch().await;
    }

    /// Puts a file that only the server may read, such as its TLS key, into its data folder.
    pub fn put_file(&self, name: &str, content: &str) {
        self.server.put_file(name, content);
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.server.log()
    }
}
