//! One service: the same program with the same settings and ports whenever it runs.

use std::{
    fs,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use test_support::{Signal, Spawned, eventually};
use tokio::{net::TcpStream, time::timeout};

use crate::{client, programs::Programs};

/// A service that may be ended and started again.
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    programs: Programs,
    program: &'static str,
    environment: Vec<(String, String)>,
    log: PathBuf,
    process: Option<Spawned>,
}

impl Service {
    pub(super) fn new(
        programs: &Programs,
        program: &'static str,
        name: &str,
        environment: Vec<(String, String)>,
        folder: &Path,
    ) -> Self {
        let port = |variable: &str| -> u16 {
            let (_, value) = environment
                .iter()
                .find(|(own, _)| own == variable)
                .expect("a port");
            value.parse().expect("a port")
        };
        Self {
            name: name.to_owned(),
            address: (Ipv4Addr::LOCALHOST, port("PORT")).into(),
            admin: (Ipv4Addr::LOCALHOST, port("ADMIN_PORT")).into(),
            programs: programs.clone(),
            program,
            log: folder.join(format!("{name}.log")),
            environment,
            process: None,
        }
    }

    /// Starts it, unless it runs.
    pub(crate) fn start(&mut self) {
        if self.is_running() {
            return;
        }
        let mut command = super::with(self.programs.command(self.program), &self.environment);
        self.process = Some(Spawned::start(&mut command));
    }

    /// Whether there is a process, frozen or not.
    pub(crate) fn is_running(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|process| process.try_exit().is_none())
    }

    /// Its process id while it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Spawned::id)
    }

    /// Waits until its port takes connections.
    pub(crate) async fn listening(&mut self) {
        let what = format!("{} listens", self.name);
        eventually(&what, async || {
            self.check_alive();
            TcpStream::connect(self.address).await.ok()
        })
        .await;
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn ready(&mut self) {
        let what = format!("{} is ready", self.name);
        eventually(&what, async || {
            self.check_alive();
            let answer = timeout(Duration::from_secs(5), client::get(self.admin, "/ready", &[])).await;
            answer.ok()?.ok().filter(|answer| answer.status == 200)
        })
        .await;
    }

    fn check_alive(&mut self) {
        let ended = self.process.as_mut().and_then(Spawned::try_exit);
        if let (Some(status), Some(process)) = (ended, &self.process) {
            panic!("{} ended by itself ({status}): {}", self.name, process.stderr());
        }
    }

    pub(crate) fn signal(&mut self, signal: Signal) {
        if let Some(process) = &mut self.process {
            process.signal(signal);
        }
    }

    /// Sends `signal`, waits for its end, and keeps what it wrote.
    pub(crate) async fn end(&mut self, signal: Signal) -> Option<ExitStatus> {
        self.signal(signal);
        let status = self.process.as_mut()?.exit().await;
        self.keep_log();
        self.process = None;
        Some(status)
    }

    /// Adds what the process wrote to the service's log file.
    pub(crate) fn keep_log(&self) {
        let Some(process) = &self.process else { return };
        if let Ok(mut file) = fs::File::options().create(true).append(true).open(&self.log) {
            let _ = write!(file, "{}{}", process.stdout(), process.stderr());
        }
    }

    /// The sum of all series of `metric`, by its name in Prometheus's text; `None` if there is none or no answer.
    pub(crate) async fn metric(&self, metric: &str) -> Option<f64> {
        let answer = timeout(Duration::from_secs(5), client::get(self.admin, "/metrics", &[])).await;
        let text = String::from_utf8(answer.ok()?.ok()?.body).ok()?;
        let values: Vec<f64> = text
            .lines()
            .filter_map(|line| {
                let rest = line.strip_prefix(metric)?;
                if !rest.starts_with(['{', ' ']) {
                    return None;
                }
                rest.rsplit(' ').next()?.parse().ok()
            })
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.keep_log();
    }
}
