//! A private PostgreSQL server from installed binaries.

mod database;
mod installed;
mod pgbouncer;
mod server;
mod topology;

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
pub use pgbouncer::PgBouncer;
use server::Server;
use topology::Topology;

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
    topology: Topology,
}

impl PrivatePostgres {
    /// The server that all tests of this process share, up to the end of the process. The first caller's `migrate` gets
    /// the owner's URL of the template that each [`database`](Self::database) is a copy of.
    ///
    /// With `TEST_TOPOLOGY=pooled` in the environment the recorder's URL leads through PgBouncer in transaction mode, with
    /// `replica` the dashboard's to a hot standby, with `pooled,replica` both. A commit then waits until the standby shows
    /// it, so that tests need not.
    pub async fn shared<F: Future<Output = ()>>(migrate: impl FnOnce(String) -> F) -> Self {
        static SERVER: OnceCell<PrivatePostgres> = OnceCell::const_new();
        let shared = SERVER
            .get_or_init(async || {
                let mut server = Self::start().await;
                server.migrate_template(migrate).await;
                server.topology = Topology::of_environment(&server).await;
                server
            })
            .await;
        shared.clone()
    }

    /// A server of the caller's own, whose databases are empty until [`migrate_template`](Self::migrate_template).
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with `settings` of its own, such as `max_connections=20`.
    pub async fn start_with(settings: &[&str]) -> Self {
        let server = Server::start(settings).await;
        let postgres = Self {
            server: Arc::new(server),
            databases: Arc::default(),
            topology: Topology::default(),
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
        TestDatabase::new(Arc::clone(&self.server), self.topology.clone(), name)
    }

    /// A superuser's connection to the database `name`.
    pub async fn superuser(&self, name: &str) -> Client {
        self.server.superuser(name).await
    }

    /// The URL of `role` at the database `name`, over the Unix socket.
    pub fn url_of(&self, role: &str, name: &str) -> String {
        self.server.socket_url(role, name)
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

    /// Ends it as the kernel would for want of memory: the postmaster by SIGKILL, whereupon its backends end themselves.
    pub async fn kill(&self) {
        self.server.kill().await;
    }

    /// Ends one of `role`'s backends by SIGKILL, whereupon the postmaster ends all others and recovers. False if `role` has
    /// none.
    pub async fn kill_backend_of(&self, role: &str) -> bool {
        let statement = "select pid from pg_stat_activity where usename = $1 order by random() limit 1";
        let admin = self.superuser("postgres").await;
        let found = admin
            .query_opt(statement, &[&role])
            .await
            .expect("looking for a backend");
        let pid = found.and_then(|row| rustix::process::Pid::from_raw(row.get(0)));
        pid.is_some_and(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok())
    }

    /// Stops all its processes where they are, by SIGSTOP; to the others it just does not answer.
    pub fn freeze(&self) {
        self.server.signal_all(rustix::process::Signal::STOP);
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.server.signal_all(rustix::process::Signal::CONT);
    }

    /// A PgBouncer before it, in transaction mode, for `roles`, with `settings` of its own, such as `default_pool_size = 1`.
    pub async fn pooled(&self, roles: &[&str], settings: &[&str]) -> PgBouncer {
        PgBouncer::before(&self.server, roles, settings).await
    }

    /// A hot standby of it. From then on each commit waits until the standby has it.
    pub async fn standby(&self) -> Self {
        self.standby_with(&[]).await
    }

    /// The same, where the standby has `settings` of its own.
    pub async fn standby_with(&self, settings: &[&str]) -> Self {
        let server = self.server.standby(settings).await;
        let admin = self.superuser("postgres").await;
        for statement in [
            "alter system set synchronous_standby_names = '*'",
            "select pg_reload_conf()",
        ] {
            admin
                .batch_execute(statement)
                .await
                .expect("asking for synchronous commits");
        }
        crate::eventually("the standby is synchronous", async || {
            let statement = "select 1 from pg_stat_replication where sync_state in ('sync', 'quorum')";
            admin.query_opt(statement, &[]).await.ok()?
        })
        .await;
        Self {
            server: Arc::new(server),
            databases: Arc::clone(&self.databases),
            topology: Topology::default(),
        }
    }

    /// From now on each commit waits until its synchronous standby shows it to readers.
    pub async fn commits_wait_until_applied(&self) {
        let admin = self.superuser("postgres").await;
        for statement in [
            "alter system set synchronous_commit = 'remote_apply'",
            "select pg_reload_conf()",
        ] {
            admin
                .batch_execute(statement)
                .await
                .expect("asking for applied commits");
        }
    }

    /// Makes a standby the primary, once it has taken in all that it got.
    pub async fn promote(&self) {
        let admin = self.superuser("postgres").await;
        let promoted = admin
            .query_one("select pg_promote()", &[])
            .await
            .expect("promoting a standby");
        assert!(promoted.get::<_, bool>(0), "the standby was not promoted in time");
    }

    /// Starts it again, on the same data and the same port.
    pub async fn start_again(&self) {
        self.server.launch().await;
    }

    /// Whether it takes connections.
    pub async fn answers(&self) -> bool {
        self.server.answers().await
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
