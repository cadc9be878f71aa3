//! `email-tracker up` as the tests start it: a data folder of its own, free ports, one account or another.

use std::{
    net::SocketAddr,
    os::unix::{fs::chown, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use test_support::{Spawned, free_port, http::Request};

/// What it prints before the address.
const GREETING: &str = "Email Tracker runs at http://";

/// Who runs it.
#[derive(Clone, Copy)]
pub(crate) enum Account {
    /// Whoever runs the tests.
    Own,
    /// Somebody without rights, because root runs the tests.
    Other { uid: u32, gid: u32 },
}

impl Account {
    /// An account that is not root's.
    pub(crate) fn ordinary() -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self::Own;
        }
        let id = |which: &str| -> u32 {
            let output = Command::new("id")
                .args([which, "nobody"])
                .output()
                .expect("id runs");
            std::str::from_utf8(&output.stdout)
                .unwrap()
                .trim()
                .parse()
                .expect("an account nobody")
        };
        Self::Other {
            uid: id("-u"),
            gid: id("-g"),
        }
    }
}

/// A folder of mode 700 with a data folder in it; whatever still runs there ends with this.
pub(crate) struct Home {
    folder: TempDir,
    program: PathBuf,
    account: Account,
    admin_ports: [u16; 3],
}

impl Home {
    pub(crate) fn of(account: Account) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut program = PathBuf::from(env!("CARGO_BIN_EXE_email-tracker"));
        if let Account::Other { uid, gid } = account {
            // The build may lie where the account cannot go.
            let copy = folder.path().join("email-tracker");
            std::fs::copy(&program, &copy).unwrap();
            program = copy;
            chown(folder.path(), Some(uid), Some(gid)).unwrap();
        }
        Self {
            folder,
            program,
            account,
            admin_ports: [free_port(), free_port(), free_port()],
        }
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn admin_ports(&self) -> [u16; 3] {
        self.admin_ports
    }

    fn command(&self, variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("up")
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command
            .env("DATA_DIR", self.data_dir())
            .env("PORT", "0")
            .env("LOG_FORMAT", "text");
        let names = ["PIXEL_ADMIN_PORT", "DASHBOARD_ADMIN_PORT", "RECORDER_ADMIN_PORT"];
        for (name, port) in names.iter().zip(self.admin_ports) {
            command.env(name, port.to_string());
        }
        if let Account::Other { uid, gid } = self.account {
            command.uid(uid).gid(gid);
        }
        command.envs(variables.iter().copied());
        command
    }

    pub(crate) async fn up(&self) -> Up {
        self.up_with(&[]).await
    }

    /// Starts it and waits until it says that it runs.
    pub(crate) async fn up_with(&self, variables: &[(&str, &str)]) -> Up {
        let mut process = Spawned::start(&mut self.command(variables));
        let greeting = process.line_with(GREETING).await;
        let address: SocketAddr = greeting
            .split(GREETING)
            .nth(1)
            .unwrap()
            .parse()
            .expect("an address");
        let mut value = async |label: &str| {
            let line = process.line_with(&format!("  {label}  ")).await;
            line.trim().strip_prefix(label).unwrap().trim().to_owned()
        };
        let shown = value("dashboard token").await;
        let pixel = value("a pixel to try").await;
        let given = variables
            .iter()
            .find(|(name, _)| *name == "DASHBOARD_TOKEN")
            .map(|(_, token)| (*token).to_owned());
        Up {
            pixel_to_try: pixel
                .strip_prefix(&format!("http://{address}"))
                .unwrap()
                .to_owned(),
            dashboard_token: given.unwrap_or(shown),
            address,
            process,
        }
    }

    /// The lines by which it refuses to start, with this exit code and nothing on standard output but its log.
    pub(crate) async fn complaints(&self, variables: &[(&str, &str)], code: i32) -> Vec<String> {
        let mut process = Spawned::start(&mut self.command(variables));
        assert_eq!(
            process.exit().await.code(),
            Some(code),
            "{}{}",
            process.stdout(),
            process.stderr()
        );
        let read_whole = async || {
            let complaint = process.stderr();
            complaint.ends_with('\n').then_some(complaint)
        };
        let complaint = test_support::eventually("its complaint is read", read_whole).await;
        assert!(!process.stdout().contains(GREETING));
        complaint.lines().map(str::to_owned).collect()
    }

    /// The one line by which it refuses to start.
    pub(crate) async fn refused(&self, variables: &[(&str, &str)], code: i32) -> String {
        let mut lines = self.complaints(variables, code).await;
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }

    /// The private server, if it runs and takes connections.
    pub(crate) fn postgres(&self) -> Option<Pid> {
        let file = std::fs::read_to_string(self.data_dir().join("postgres/postmaster.pid")).ok()?;
        let lines: Vec<&str> = file.lines().map(str::trim).collect();
        if lines.get(7) != Some(&"ready") {
            return None;
        }
        Pid::from_raw(lines[0].parse().ok()?)
    }

    /// Prometheus's own opinion of the metrics.
    pub(crate) fn promtool_accepts(&self, metrics: &str) {
        let file = self.folder.path().join("metrics");
        std::fs::write(&file, metrics).unwrap();
        let output = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::from(std::fs::File::open(&file).unwrap()))
            .output()
            .expect("promtool is needed (Debian, Ubuntu: apt-get install prometheus)");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{metrics}");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Only a test that failed leaves a server behind: its `up` was killed.
        if let Some(pid) = self.postgres()
            && Path::new(&format!("/proc/{}/cwd", pid.as_raw_pid()))
                .read_link()
                .is_ok_and(|cwd| cwd.ends_with("data/postgres"))
        {
            let _ = kill_process(pid, Signal::QUIT);
        }
    }
}

/// A running one.
pub(crate) struct Up {
    pub(crate) process: Spawned,
    pub(crate) address: SocketAddr,
    pub(crate) dashboard_token: String,
    /// Path of the pixel that it printed.
    pub(crate) pixel_to_try: String,
}

impl Up {
    /// An answer of the dashboard's API.
    pub(crate) async fn api(&self, target: &str) -> Value {
        let answer = Request::get(target)
            .header("x-tracker-token", &self.dashboard_token)
            .send(self.address)
            .await;
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        answer.json()
    }

    /// All emails; none while the dashboard has no database.
    pub(crate) async fn emails(&self) -> Vec<Value> {
        let request = Request::get("/dashboard/api/emails").header("x-tracker-token", &self.dashboard_token);
        let answer = request.send(self.address).await;
        if answer.status >= 500 {
            return Vec::new();
        }
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["items"].as_array().expect("items").clone()
    }

    /// Ends it as Ctrl-C or a service manager does.
    pub(crate) async fn stop(mut self) {
        self.process.signal(Signal::TERM);
        assert!(self.process.exit().await.success(), "{}", self.process.stderr());
    }
}
