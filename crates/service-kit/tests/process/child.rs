//! Starting the service, and talking to it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::ACT_AS_SERVICE;

/// Longer than anything takes that does not hang.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A command that runs the service with these variables alone.
pub(crate) fn command(variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    set_up(&mut command, variables);
    command
}

/// The same under a limit of open files.
pub(crate) fn command_with_files(limit: u32, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", &format!(r#"ulimit -n {limit} && exec "$0""#)]);
    command.arg(std::env::current_exe().unwrap());
    set_up(&mut command, variables);
    command
}

fn set_up(command: &mut Command, variables: &[(&str, &str)]) {
    command
        .env_clear()
        .env(ACT_AS_SERVICE, "yes")
        .envs(variables.iter().copied())
        .stdin(Stdio::null());
}

/// What a process left that ended by itself.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn run_to_its_end(mut command: Command) -> Ended {
    let output = command.output().unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// The service, running. It is killed if the test fails.
pub(crate) struct Running {
    child: Child,
    /// Its first log line.
    pub(crate) first_line: Value,
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    lines: Receiver<Value>,
}

impl Running {
    /// Starts it on free ports.
    pub(crate) fn start(variables: &[(&str, &str)]) -> Self {
        Self::start_with(variables, command)
    }

    pub(crate) fn start_with(
        variables: &[(&str, &str)],
        command: impl FnOnce(&[(&str, &str)]) -> Command,
    ) -> Self {
        let mut all = vec![("PORT", "0"), ("ADMIN_PORT", "0")];
        all.extend(variables);
        let mut child = command(&all)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let line = line.unwrap();
                let value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
                let _test_is_over = sender.send(value);
            }
        });
        let first_line: Value = lines.recv_timeout(PATIENCE).expect("a first line");
        let address = |field: &str| first_line[field].as_str().unwrap().parse().unwrap();
        Self {
            child,
            public: address("listens"),
            admin: address("admin"),
            first_line,
            lines,
        }
    }

    fn stderr(&mut self) -> String {
        let mut text = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// The next log line with this message.
    pub(crate) fn line(&self, message: &str) -> Value {
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("no line {message:?}"));
            if line["message"] == message {
                return line;
            }
        }
    }

    /// Messages of all lines that are still there after the end.
    pub(crate) fn remaining_messages(&self) -> Vec<String> {
        let lines = self.lines.iter();
        lines
            .map(|line| line["message"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits for its end: exit code and stderr.
    pub(crate) fn end(&mut self) -> (Option<i32>, String) {
        let stderr = self.stderr();
        (self.child.wait().unwrap().code(), stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _it_ended = self.child.kill();
        let _it_ended = self.child.wait();
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// One request on a connection of its own, and its whole answer.
pub(crate) fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> String {
    let mut stream = connect(address);
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    rest(&mut stream)
}

pub(crate) fn get(address: SocketAddr, path: &str) -> String {
    request(address, "GET", path, "")
}

/// Asks on a connection that stays open; the answer must be small.
pub(crate) fn ask(stream: &mut TcpStream, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let mut part = [0; 8_192];
    loop {
        let read = stream.read(&mut part).unwrap();
        assert!(read > 0, "closed after {answer:?}");
        answer.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            line.to_ascii_lowercase()
                .strip_prefix("content-length: ")?
                .parse()
                .ok()
        });
        if body.len() >= length.unwrap_or(0_usize) {
            return text.into_owned();
        }
    }
}

/// Everything until the server closes.
pub(crate) fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// A value in the text of `/metrics`.
pub(crate) fn metric(text: &str, name: &str) -> u64 {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}
