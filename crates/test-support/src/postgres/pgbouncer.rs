//! PgBouncer before a private PostgreSQL.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{
    installed::Account,
    server::{SUPERUSER, Server},
};
use crate::{Spawned, eventually, net::free_port, watchdog::Watchdog};

/// Each transaction goes to the server's connection that has rested longest, never to the one of before if there is
/// another: whoever relies on a session finds it gone.
const SETTINGS: [&str; 8] = [
    "pool_mode = transaction",
    "max_prepared_statements = 200",
    "server_round_robin = 1",
    "default_pool_size = 20",
    "max_client_conn = 500",
    "server_login_retry = 1",
    "auth_type = trust",
    "listen_addr = 127.0.0.1",
];

/// A PgBouncer in transaction mode; it ends with this value.
#[derive(Debug)]
pub struct PgBouncer {
    folder: TempDir,
    account: Option<Account>,
    port: u16,
    process: Mutex<Option<Spawned>>,
    _watchdog: Watchdog,
}

impl PgBouncer {
    /// The program that the environment's `PGBOUNCER` names, as scripts/pgbouncer prints it; `None`: nothing of it can be
    /// proven here.
    pub fn program() -> Option<PathBuf> {
        std::env::var_os("PGBOUNCER")
            .filter(|name| !name.is_empty())
            .map(PathBuf::from)
    }

    pub(super) async fn before(server: &Server, roles: &[&str], settings: &[&str]) -> Self {
        let program = Self::program().expect("PGBOUNCER names no program: scripts/pgbouncer prints one");
        let folder = tempfile::Builder::new()
            .prefix("pgbouncer-")
            .permissions(fs::Permissions::from_mode(0o700))
            .tempdir_in(Path::new("/tmp"))
            .expect("making a temporary folder");
        let bouncer = Self {
            account: Account::needed(),
            port: free_port(),
            process: Mutex::default(),
            _watchdog: Watchdog::start("rm -rf -- \"$1\"", &[folder.path().as_os_str()]),
            folder,
        };
        bouncer.write(&program, server, roles, settings);
        bouncer.start_again().await;
        bouncer
    }

    /// Its files. The program is copied: it may lie where the account cannot go.
    fn write(&self, program: &Path, server: &Server, roles: &[&str], settings: &[&str]) {
        fs::copy(program, self.file("pgbouncer")).expect("copying pgbouncer");
        let users: Vec<String> = roles
            .iter()
            .chain([&SUPERUSER])
            .map(|role| format!("\"{role}\" \"\""))
            .collect();
        fs::write(self.file("users.txt"), users.join("\n")).expect("writing PgBouncer's users");
        let configuration = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_port = {}\nunix_socket_dir =\nauth_file = {}\n\
             admin_users = {SUPERUSER}\n{}\n{}\n",
            server.folder().display(),
            server.port(),
            self.port,
            self.file("users.txt").display(),
            SETTINGS.join("\n"),
            settings.join("\n"),
        );
        fs::write(self.file("pgbouncer.ini"), configuration).expect("writing PgBouncer's configuration");
        if let Some(account) = self.account {
            for file in ["", "pgbouncer", "users.txt", "pgbouncer.ini"] {
                account.owns(&self.file(file));
            }
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts it, on the same port each time, and waits until it takes connections.
    pub async fn start_again(&self) {
        let mut command = Command::new(self.file("pgbouncer"));
        command.arg(self.file("pgbouncer.ini")).current_dir("/");
        if let Some(account) = self.account {
            account.runs(&mut command);
        }
        command.env_clear().process_group(0);
        *self.process.lock().expect("no test panicked here") = Some(Spawned::start(&mut command));
        eventually("PgBouncer takes connections", async || {
            tokio::net::TcpStream::connect(self.address()).await.ok()
        })
        .await;
    }

    /// Ends it at once, with all connections.
    pub async fn kill(&self) {
        let process = self.process.lock().expect("no test panicked here").take();
        let mut process = process.expect("it runs");
        process.signal(Signal::KILL);
        process.exit().await;
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The URL of `role` at the database `name` through it.
    pub fn url_of(&self, role: &str, name: &str) -> String {
        format!(
            "postgres://{role}@{}/{name}?sslmode=disable&pooling=transaction",
            self.address()
        )
    }

    /// The URL of its own console.
    pub fn console_url(&self) -> String {
        format!(
            "postgres://{SUPERUSER}@{}/pgbouncer?sslmode=disable",
            self.address()
        )
    }
}
