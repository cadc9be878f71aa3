//! The running server: started, watched, restarted when it dies, stopped last.

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::{account::Account, cluster, leftover, pid_file, programs::Programs, server_log::ServerLog};

/// How the folders begin that hold sockets.
pub(super) const SOCKET_FOLDER_PREFIX: &str = "email-tracker-";

/// The longest folder name whose socket every system can bind: 104 bytes with the socket's own name and a NUL.
const LONGEST_SOCKET_FOLDER: usize = 80;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often a start is tried before `up` gives up: children of a server that was killed may take a moment to go.
const STARTS: u32 = 4;
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long the server may take to write its data out at the end.
const FAST_STOP: Duration = Duration::from_mins(1);
const IMMEDIATE_STOP: Duration = Duration::from_secs(10);
const LOG_CHECK: Duration = Duration::from_mins(1);

/// A server on the private cluster, which runs until [`PrivatePostgres::stop`].
pub(crate) struct PrivatePostgres {
    socket_folder: TempDir,
    keeper: tokio::task::JoinHandle<()>,
    stop: CancellationToken,
}

/// What it takes to start the server, again and again.
struct Launch {
    folder: PathBuf,
    log: ServerLog,
    programs: Programs,
    account: Account,
    socket_folder: PathBuf,
}

impl PrivatePostgres {
    /// Starts the server on `DATA_DIR/postgres`, makes that first if it is not there, and waits until it answers.
    /// The caller holds the lock of `data_dir`. `give_up` ends the waiting.
    pub(crate) async fn start(
        data_dir: &Path,
        programs: Programs,
        give_up: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let folder = cluster_folder(data_dir);
        let account = Account::of(&folder)?;
        if cluster::made_by(&folder)?.is_none() {
            tracing::info!("makes a private database with {programs}");
            cluster::make(&folder, &programs, account)?;
        }
        leftover::stop(&folder).await?;

        let socket_folder = private_socket_folder(account)?;
        let log = ServerLog::new(data_dir.join("postgres.log"));
        let launch = Launch {
            folder,
            log,
            programs,
            account,
            socket_folder: socket_folder.path().to_owned(),
        };
        let child = launch.first_start(give_up).await?;
        let stop = CancellationToken::new();
        let keeper = tokio::spawn(keep(launch, child, stop.clone()));
        Ok(Self {
            socket_folder,
            keeper,
            stop,
        })
    }

    /// The folder of the socket, which takes the place of a host name.
    pub(crate) fn socket_folder(&self) -> &Path {
        self.socket_folder.path()
    }

    /// Stops the server: open transactions are rolled back, everything committed is on disk.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.keeper.await {
            tracing::error!(%error, "nobody watched over PostgreSQL any more");
        }
    }
}

/// Where the cluster of a data folder is.
pub(crate) fn cluster_folder(data_dir: &Path) -> PathBuf {
    data_dir.join("postgres")
}

/// A socket's name is short on every system (104 bytes or so), a data folder's need not be. So the socket has a
/// folder of its own, which only the account can enter.
fn private_socket_folder(account: Account) -> anyhow::Result<TempDir> {
    let mut parent = std::env::temp_dir();
    if parent.as_os_str().len() + SOCKET_FOLDER_PREFIX.len() + 8 > LONGEST_SOCKET_FOLDER {
        parent = PathBuf::from("/tmp");
    }
    let folder = tempfile::Builder::new()
        .prefix(SOCKET_FOLDER_PREFIX)
        .tempdir_in(&parent)
        .with_context(|| {
            format!(
                "cannot make a folder in {} for PostgreSQL's socket",
                parent.display()
            )
        })?;
    account
        .take_over(folder.path())
        .with_context(|| format!("cannot use {}", folder.path().display()))?;
    Ok(folder)
}

/// Runs the server until `stop`: one that dies is started again.
async fn keep(launch: Launch, mut child: Child, stop: CancellationToken) {
    loop {
        let status = tokio::select! {
            status = child.wait() => status,
            () = tokio::time::sleep(LOG_CHECK) => {
                launch.log.keep_short();
                continue;
            }
            () = stop.cancelled() => return stop_server(child).await,
        };
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        tracing::error!(%status, said = launch.log.last_words(), "PostgreSQL ended by itself and is started again");
        let Some(restarted) = launch.restart(&stop).await else {
            return;
        };
        child = restarted;
    }
}

impl Launch {
    /// Starts the server; an error is what the server itself gave as its reason.
    async fn first_start(&self, give_up: &CancellationToken) -> anyhow::Result<Child> {
        let mut tries = 1;
        loop {
            match self.start(give_up).await {
                Err(error) if tries < STARTS && !give_up.is_cancelled() => {
                    tracing::warn!("{error:#}; tries again");
                    tokio::time::sleep(FIRST_PAUSE).await;
                    tries += 1;
                }
                done => return done,
            }
        }
    }

    /// Starts the server again, however long it takes; `None` once nobody wants it any more.
    async fn restart(&self, stop: &CancellationToken) -> Option<Child> {
        let mut pause = FIRST_PAUSE;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return None,
            }
            match self.start(stop).await {
                Ok(child) => return Some(child),
                Err(error) => tracing::error!("{error:#}; tries again"),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn start(&self, give_up: &CancellationToken) -> anyhow::Result<Child> {
        let mut child = self
            .spawn()
            .with_context(|| format!("cannot start {}", self.programs))?;
        loop {
            if let Some(status) = child.try_wait().context("cannot watch PostgreSQL")? {
                bail!("PostgreSQL did not start ({status}): {}", self.log.last_words());
            }
            if pid_file::read(&self.folder).is_some_and(|file| file.ready && Some(file.pid) == pid_of(&child))
            {
                return Ok(child);
            }
            if give_up.is_cancelled() {
                stop_server(child).await;
                bail!("stopped before PostgreSQL was ready");
            }
            // After a crash it first replays its log, which takes as long as it takes.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn spawn(&self) -> std::io::Result<Child> {
        let mut command = self
            .account
            .command(&self.programs.path("postgres"), &self.folder);
        command.args(["-c", "listen_addresses=", "-c", "unix_socket_permissions=0700"]);
        command.arg("-c").arg(format!(
            "unix_socket_directories={}",
            self.socket_folder.display()
        ));
        command.args(["-c", "cluster_name=email-tracker"]);
        self.log.keep_short();
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.log.open()?);
        // A group of its own: Ctrl-C must reach `up` alone, which stops the server last.
        command.process_group(0);
        Command::from(command).spawn()
    }
}

/// Stops the server in good order; one that does not stop in time is made to, which is as safe but makes the next
/// start replay its log.
async fn stop_server(mut child: Child) {
    for (signal, patience) in [(Signal::INT, FAST_STOP), (Signal::QUIT, IMMEDIATE_STOP)] {
        if let Some(pid) = pid_of(&child) {
            // It may just have ended, which is what is wanted.
            let _ = kill_process(pid, signal);
        }
        if tokio::time::timeout(patience, child.wait()).await.is_ok() {
            return;
        }
        tracing::warn!("PostgreSQL takes more than {} s to stop", patience.as_secs());
    }
    if let Err(error) = child.kill().await {
        tracing::error!(%error, "cannot stop PostgreSQL");
    }
}

fn pid_of(child: &Child) -> Option<Pid> {
    Pid::from_raw(i32::try_from(child.id()?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::programs;

    async fn start(data_dir: &Path) -> PrivatePostgres {
        let path = "/usr/local/bin:/usr/bin:/bin";
        let made_by = cluster::made_by(&cluster_folder(data_dir)).unwrap();
        let programs = programs::find(None, path, made_by).unwrap();
        PrivatePostgres::start(data_dir, programs, &CancellationToken::new())
            .await
            .unwrap()
    }

    fn running(data_dir: &Path) -> Option<Pid> {
        pid_file::read(&cluster_folder(data_dir))
            .filter(|file| file.ready)
            .map(|file| file.pid)
    }

    /// A temporary folder has mode 700: run by root, this is the case of a parent closed to the account.
    #[tokio::test]
    async fn a_server_that_is_killed_is_started_again_until_it_is_stopped() {
        let data_dir = tempfile::tempdir().unwrap();
        let postgres = start(data_dir.path()).await;
        let socket_folder = postgres.socket_folder().to_owned();
        assert!(socket_folder.join(".s.PGSQL.5432").exists());

        let killed = running(data_dir.path()).unwrap();
        kill_process(killed, Signal::KILL).unwrap();
        while running(data_dir.path()).is_none_or(|pid| pid == killed) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        postgres.stop().await;
        assert!(running(data_dir.path()).is_none());
        assert!(!socket_folder.exists());
    }

    #[tokio::test]
    async fn a_server_left_behind_is_stopped_by_the_next_start() {
        let data_dir = tempfile::tempdir().unwrap();
        let left_behind = start(data_dir.path()).await;
        let pid = running(data_dir.path()).unwrap();
        let socket_folder = left_behind.socket_folder().to_owned();
        // As a process that is killed: nobody stops the server or removes its folder.
        left_behind.keeper.abort();
        std::mem::forget(left_behind.socket_folder);

        let postgres = start(data_dir.path()).await;
        assert_ne!(running(data_dir.path()).unwrap(), pid);
        assert!(!socket_folder.exists());
        postgres.stop().await;
    }

    #[tokio::test]
    async fn waiting_for_a_server_that_is_not_ready_can_be_given_up() {
        let data_dir = tempfile::tempdir().unwrap();
        let programs = programs::find(None, "/usr/local/bin:/usr/bin:/bin", None).unwrap();
        let give_up = CancellationToken::new();
        give_up.cancel();
        let error = PrivatePostgres::start(data_dir.path(), programs, &give_up)
            .await
            .err()
            .unwrap();
        assert!(error.to_string().contains("stopped before"), "{error:#}");
        assert!(running(data_dir.path()).is_none());
    }
}
