//! The server process and its folder.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::installed::{Account, binaries};
use crate::{eventually, net::free_port, watchdog::Watchdog};

pub(super) const SUPERUSER: &str = "postgres";

/// Nothing has to survive the machine; everything has to survive the process.
const SETTINGS: [&str; 12] = [
    "fsync=off",
    "full_page_writes=off",
    "max_connections=300",
    "shared_buffers=64MB",
    "max_wal_size=256MB",
    "deadlock_timeout=200ms",
    "listen_addresses=127.0.0.1",
    "password_encryption=scram-sha-256",
    "timezone=America/St_Johns", // not UTC and not whole hours, to catch who relies on it
    "log_timezone=UTC",
    "log_checkpoints=off",
    "autovacuum_naptime=5s",
];

/// The trust of the socket spares tests the passwords; TCP asks for them, so that tests can.
const ACCESS: &str =
    "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";

/// Ends what still runs on the folder `$1`, and removes it.
const CLEAR_UP: &str = r#"
pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null)
ours() { [ -n "$pid" ] && tr '\0' '\n' <"/proc/$pid/cmdline" 2>/dev/null | grep -qxF -- "$1/data"; }
if ours "$1"; then
  kill -QUIT "$pid"
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do ours "$1" || break; sleep 0.1; done
  ours "$1" && kill -KILL "$pid"
fi
rm -rf -- "$1"
"#;

#[derive(Debug)]
pub(super) struct Server {
    /// Short: the path of a socket has at most 107 bytes.
    folder: TempDir,
    binaries: PathBuf,
    account: Option<Account>,
    port: u16,
    /// Beyond [`SETTINGS`].
    settings: Vec<String>,
    process: Mutex<Option<Child>>,
    _watchdog: Watchdog,
}

impl Server {
    pub(super) async fn start(settings: &[&str]) -> Self {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        Self::launched(move || {
            let server = Self::prepare(settings);
            server.init();
            server
        })
        .await
    }

    /// A hot standby of this server, which follows it through its socket.
    pub(super) async fn standby(&self, more: &[&str]) -> Self {
        let primary = self.folder.path().to_owned();
        let port = self.port.to_string();
        let more = more.iter().map(|setting| (*setting).to_owned());
        let settings = self.settings.iter().cloned().chain(more).collect();
        Self::launched(move || {
            let server = Self::prepare(settings);
            let copied = server
                .command("pg_basebackup")
                .args(["--checkpoint=fast", "--write-recovery-conf", "--no-sync"])
                .arg("--host")
                .arg(&primary)
                .args(["--port", &port, "--username", SUPERUSER])
                .output()
                .expect("running pg_basebackup");
            assert!(
                copied.status.success(),
                "pg_basebackup failed: {}",
                String::from_utf8_lossy(&copied.stderr)
            );
            server
        })
        .await
    }

    async fn launched(prepare: impl FnOnce() -> Self + Send + 'static) -> Self {
        let server = tokio::task::spawn_blocking(prepare)
            .await
            .expect("preparing a PostgreSQL server");
        server.launch().await;
        server
    }

    /// The folder of a cluster to be.
    fn prepare(settings: Vec<String>) -> Self {
        // TMPDIR may be closed to the account that runs the server, or too long.
        let parents = [PathBuf::from("/tmp"), std::env::temp_dir()];
        let folder = tempfile::Builder::new()
            .prefix("pg-")
            .permissions(fs::Permissions::from_mode(0o700)) // who reaches the socket is trusted
            .tempdir_in(
                parents
                    .iter()
                    .find(|folder| folder.is_dir())
                    .expect("a temporary folder"),
            )
            .expect("making a temporary folder");
        let account = Account::needed();
        if let Some(account) = account {
            account.owns(folder.path());
        }
        Self {
            _watchdog: Watchdog::start(CLEAR_UP, &[folder.path().as_os_str()]),
            folder,
            binaries: binaries(),
            account,
            port: free_port(),
            settings,
            process: Mutex::default(),
        }
    }

    fn init(&self) {
        let made = self
            .command("initdb")
            .args([
                "--no-sync",
                "--no-instructions",
                "--encoding=UTF8",
                "--locale=C",
                "--auth=trust",
            ])
            .args(["--username", SUPERUSER])
            .output()
            .expect("running initdb");
        assert!(
            made.status.success(),
            "initdb failed: {}",
            String::from_utf8_lossy(&made.stderr)
        );
        fs::write(self.data().join("pg_hba.conf"), ACCESS).expect("writing pg_hba.conf");
    }

    /// A command on the cluster, as the account that owns it.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.binaries.join(name));
        command
            .arg("-D")
            .arg(self.data())
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command.env("LC_ALL", "C");
        if let Some(account) = self.account {
            account.runs(&mut command);
        }
        command
    }

    pub(super) async fn launch(&self) {
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_file())
            .expect("opening the server's log");
        let mut command = self.command("postgres");
        command
            .arg("-k")
            .arg(self.folder.path())
            .args(["-p", &self.port.to_string()]);
        for setting in SETTINGS
            .into_iter()
            .chain(self.settings.iter().map(String::as_str))
        {
            command.args(["-c", setting]);
        }
        let child = command
            .stdout(log.try_clone().expect("sharing the server's log"))
            .stderr(log)
            .process_group(0) // a Ctrl-C ends the tests, and the watchdog this
            .spawn()
            .expect("starting postgres");
        *self.process.lock().expect("no test panicked here") = Some(child);
        eventually("PostgreSQL accepts connections", async || {
            let ended = self
                .process
                .lock()
                .expect("as above")
                .as_mut()?
                .try_wait()
                .expect("asking for its end");
            assert!(
                ended.is_none(),
                "PostgreSQL did not start ({ended:?}): {}",
                self.log()
            );
            self.connect(SUPERUSER, "postgres").await.ok()
        })
        .await;
    }

    /// Sends it `signal` and waits for its end.
    pub(super) async fn end(&self, signal: Signal) {
        self.send(signal);
        eventually("PostgreSQL has ended", async || {
            let mut process = self.process.lock().expect("no test panicked here");
            let ended = process
                .as_mut()
                .is_none_or(|child| child.try_wait().is_ok_and(|end| end.is_some()));
            ended.then(|| *process = None)
        })
        .await;
    }

    /// Kills the postmaster and waits until nobody uses its memory any more, or it could not start again.
    pub(super) async fn kill(&self) {
        let backends = self.children();
        self.end(Signal::KILL).await;
        eventually("the backends of the killed server have ended", async || {
            let gone = |pid: &Pid| fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).is_err();
            backends.iter().all(gone).then_some(())
        })
        .await;
    }

    /// Sends `signal` to the postmaster, and then to all the processes it has started.
    pub(super) fn signal_all(&self, signal: Signal) {
        self.send(signal);
        for child in self.children() {
            let _ = kill_process(child, signal); // it may have ended by itself
        }
    }

    /// The postmaster's processes.
    fn children(&self) -> Vec<Pid> {
        let process = self.process.lock().expect("no test panicked here");
        let Some(postmaster) = process.as_ref().map(Child::id) else {
            return Vec::new();
        };
        let entries = fs::read_dir("/proc").expect("reading /proc").flatten();
        entries
            .filter_map(|entry| {
                let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
                let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
                // The name, in brackets, may hold anything; the state and the parent follow it.
                let (_, after_name) = stat.rsplit_once(") ")?;
                let parent: u32 = after_name.split(' ').nth(1)?.parse().ok()?;
                (parent == postmaster).then(|| Pid::from_raw(pid))?
            })
            .collect()
    }

    pub(super) async fn answers(&self) -> bool {
        self.connect(SUPERUSER, "postgres").await.is_ok()
    }

    fn send(&self, signal: Signal) {
        let process = self.process.lock().expect("no test panicked here");
        if let Some(pid) = process.as_ref().map(Pid::from_child) {
            let _ = kill_process(pid, signal); // fails if it has ended by itself
        }
    }

    pub(super) async fn superuser(&self, database: &str) -> Client {
        self.connect(SUPERUSER, database)
            .await
            .expect("connecting to the private PostgreSQL")
    }

    async fn connect(&self, role: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.socket_url(role, database), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Drops a database, ending its connections. For `Drop`, which may run inside an async runtime.
    pub(super) fn drop_database(&self, name: &str) {
        let statement = format!("drop database if exists {name} with (force)");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a small runtime").block_on(async {
                    if let Ok(client) = self.connect(SUPERUSER, "postgres").await {
                        // Its standby may be gone.
                        let _ = client.batch_execute("set synchronous_commit = local").await;
                        let _ = client.batch_execute(&statement).await;
                    } // else the server was ended by its test
                });
            });
        });
    }

    pub(super) fn socket_url(&self, role: &str, database: &str) -> String {
        let folder = self.folder.path().display();
        format!("postgres://{role}@/{database}?host={folder}&port={}", self.port)
    }

    pub(super) const fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn put_file(&self, name: &str, content: &str) {
        let path = self.data().join(name);
        fs::write(&path, content).expect("writing into the data folder");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("closing a file to others");
        if let Some(account) = self.account {
            account.owns(&path);
        }
    }

    /// Where its socket is.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.send(Signal::QUIT);
        if let Some(child) = self.process.lock().expect("no test panicked here").as_mut() {
            let _ = child.wait();
        }
    }
}
