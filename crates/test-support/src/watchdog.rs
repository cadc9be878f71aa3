//! Clearing up behind a test process, however it ends.

use std::{
    ffi::OsStr,
    io::Write,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

/// A small shell that waits at the end of a pipe. If this process ends in whatever way, the pipe closes and the shell
/// runs its script; if the watchdog is dropped, it ends without doing so.
///
/// `PR_SET_PDEATHSIG` would not do: it fires when the *thread* that started a child ends, and each test has its own.
#[derive(Debug)]
pub(crate) struct Watchdog(Child);

impl Watchdog {
    /// Will run `script` with `arguments` as `$1`, `$2`, ….
    pub(crate) fn start(script: &str, arguments: &[&OsStr]) -> Self {
        let script = format!("read -r word; [ -n \"$word\" ] && exit 0\n{script}");
        let shell = Command::new("sh")
            .args(["-c", &script, "watchdog"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0) // a Ctrl-C ends the tests, not this
            .spawn()
            .expect("starting sh");
        Self(shell)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.0.stdin.take() {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.0.wait();
    }
}
