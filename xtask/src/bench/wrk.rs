//! `wrk`: closed-loop load by a program that costs little itself.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, ensure};
use serde::Deserialize;
use tokio::process::Command;

/// Makes wrk say in JSON what it found.
const SCRIPT: &str = r#"
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"micros":%d,"errors":%d,"p50":%d,"p99":%d,"p999":%d}\n',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"#;

/// What a run of wrk found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) requests: u32,
    pub(super) per_second: f64,
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) p999: Duration,
}

/// As the script says it; times in microseconds.
#[derive(Deserialize)]
struct Said {
    requests: u32,
    micros: u64,
    errors: u64,
    p50: u64,
    p99: u64,
    p999: u64,
}

/// Loads `target` at `server` with two threads. Fails if there is an answer that has no status of success, or none.
pub(super) async fn wrk(
    folder: &Path,
    server: SocketAddr,
    target: &str,
    connections: u32,
    time: Duration,
) -> anyhow::Result<Found> {
    let script = folder.join("wrk.lua");
    fs::write(&script, SCRIPT)?;
    let output = Command::new("wrk")
        .args(["--threads", "2", "--connections", &connections.to_string()])
        .args(["--duration", &format!("{}s", time.as_secs()), "--timeout", "30s"])
        .args([
            "--header",
            "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0",
        ])
        .args(["--header", "Accept: image/avif,image/webp,image/*;q=0.8"])
        .arg("--script")
        .arg(&script)
        .arg(format!("http://{server}{target}"))
        .output()
        .await
        .context("running wrk: please install it (apt-get install wrk)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.lines().find(|line| line.starts_with('{'));
    let said: Said = serde_json::from_str(said.with_context(|| format!("wrk said: {text}"))?)?;
    ensure!(said.errors == 0 && said.requests > 0, "wrk met errors: {text}");
    Ok(Found {
        requests: said.requests,
        per_second: f64::from(said.requests) / Duration::from_micros(said.micros).as_secs_f64(),
        p50: Duration::from_micros(said.p50),
        p99: Duration::from_micros(said.p99),
        p999: Duration::from_micros(said.p999),
    })
}
