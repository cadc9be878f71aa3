//! Our own programs as child processes.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{eventually, watchdog::Watchdog};

/// A running program, whose output is kept. It is killed, with what it started, when this is dropped or the test
/// process ends; if the test is failing, its output is printed.
#[derive(Debug)]
pub struct Spawned {
    child: Child,
    ended: Option<ExitStatus>,
    stdout: Kept,
    stderr: Kept,
    _watchdog: Watchdog,
}

/// What one output has said so far, and the thread that reads on.
#[derive(Debug)]
struct Kept {
    text: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

/// How long to wait for the last words of a program that has ended: what it started may hold its outputs open for ever.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Spawned {
    /// Starts `command` with its output captured, its input empty, and a process group of its own.
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("starting {command:?}: {error}"));
        let group = format!("-{}", child.id());
        Self {
            stdout: keep(child.stdout.take().expect("captured")),
            stderr: keep(child.stderr.take().expect("captured")),
            _watchdog: Watchdog::start("kill -s KILL -- \"$1\"", &[OsStr::new(&group)]),
            ended: None,
            child,
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it `signal`, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.try_exit().is_none() {
            kill_process(Pid::from_child(&self.child), signal).expect("a signal to our own child");
        }
    }

    /// Its end, if it has ended.
    pub fn try_exit(&mut self) -> Option<ExitStatus> {
        self.ended = self
            .ended
            .or_else(|| self.child.try_wait().expect("asking for a child's end"));
        self.ended
    }

    /// Waits for its end, and for what it wrote before.
    pub async fn exit(&mut self) -> ExitStatus {
        let status = eventually("the program ends", async || self.try_exit()).await;
        let ended = Instant::now();
        while !self.has_said_all() && ended.elapsed() < LAST_WORDS {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        status
    }

    fn has_said_all(&self) -> bool {
        self.stdout.reader.is_finished() && self.stderr.reader.is_finished()
    }

    /// What it has written to its standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.text.lock().expect("readers do not panic").clone()
    }

    /// What it has written to its standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.text.lock().expect("readers do not panic").clone()
    }

    /// Waits until it has written a line with `text` to either output, and gives that line; panics if it ends first.
    pub async fn line_with(&mut self, text: &str) -> String {
        eventually(&format!("the program writes {text:?}"), async || {
            // Asked first, so that its last words are not missed.
            let ended = self.try_exit().filter(|_| self.has_said_all());
            let (stdout, stderr) = (self.stdout(), self.stderr());
            let complete = |output: &str| output.rfind('\n').map_or(0, |end| end + 1);
            let found = [&stdout, &stderr]
                .iter()
                .flat_map(|output| output[..complete(output)].lines())
                .find(|line| line.contains(text))
                .map(str::to_owned);
            assert!(
                found.is_some() || ended.is_none(),
                "it ended ({ended:?}) without {text:?}:\n{stdout}{stderr}"
            );
            found
        })
        .await
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if self.try_exit().is_none() {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("--- standard output of {}:\n{}", self.id(), self.stdout());
            eprintln!("--- standard error of {}:\n{}", self.id(), self.stderr());
        }
    }
}

fn keep(from: impl Read + Send + 'static) -> Kept {
    let text = Arc::new(Mutex::new(String::new()));
    let into = Arc::clone(&text);
    let reader = thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            into.lock()
                .expect("nobody panics with it")
                .push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
    Kept { text, reader }
}
