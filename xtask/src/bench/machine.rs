//! The machine that a measurement ran on.

use std::{fs, process::Command, thread};

use anyhow::Context;
use serde_json::{Value, json};

/// What matters of the machine and of what was built.
pub(super) fn facts() -> anyhow::Result<Value> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let total_kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB")?.parse().ok())
        .context("the machine's memory")?;
    Ok(json!({
        "cores": thread::available_parallelism()?.get(),
        "memory_mib": total_kib / 1_024,
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        "rustc": said_by("rustc", &["--version"]),
        "revision": said_by("git", &["describe", "--always", "--dirty"]),
    }))
}

/// How many threads wanted to run on average, in the last minute. Much of it before a measurement means that others use
/// the machine as well.
pub(super) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// What a program prints, `unknown` if it cannot be asked.
fn said_by(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(super::ROOT);
    match command.output() {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
