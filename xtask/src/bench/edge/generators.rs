//! Load through TLS: wrk for HTTP/1.1, h2load for HTTP/2 and for new connections.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, ensure};
use serde::Deserialize;
use tokio::process::Command;

const AGENT: &str = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0";

/// What to ask for, and at which address: a name in the URL is for TLS alone.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) url: String,
    pub(super) address: SocketAddr,
}

/// What a run found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) requests: u32,
    pub(super) per_second: f64,
    pub(super) p50: Option<Duration>,
    pub(super) p99: Option<Duration>,
}

/// Makes wrk go to the address, and say in JSON what it found.
const SCRIPT: &str = r#"
local addresses = wrk.lookup("HOST", "PORT")
function setup(thread)
  thread.addr = addresses[1]
end
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"micros":%d,"errors":%d,"p50":%d,"p99":%d}\n',
    summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"#;

#[derive(Deserialize)]
struct Said {
    requests: u32,
    micros: u64,
    errors: u64,
    p50: u64,
    p99: u64,
}

/// HTTP/1.1 over connections that are kept.
pub(super) async fn wrk(folder: &Path, way: &Way, connections: u32, time: Duration) -> anyhow::Result<Found> {
    let script = folder.join("wrk.lua");
    let text = SCRIPT
        .replace("HOST", &way.address.ip().to_string())
        .replace("PORT", &way.address.port().to_string());
    fs::write(&script, text)?;
    let mut command = Command::new("wrk");
    command
        .args(["--threads", "2", "--connections", &connections.to_string()])
        .args(["--duration", &format!("{}s", time.as_secs()), "--timeout", "30s"])
        .args(["--header", AGENT, "--script"])
        .arg(&script)
        .arg(&way.url);
    let text = said(command, "wrk").await?;
    let json = text.lines().find(|line| line.starts_with('{'));
    let said: Said = serde_json::from_str(json.with_context(|| format!("wrk said: {text}"))?)?;
    ensure!(said.errors == 0 && said.requests > 0, "wrk met errors: {text}");
    Ok(Found {
        requests: said.requests,
        per_second: f64::from(said.requests) / Duration::from_micros(said.micros).as_secs_f64(),
        p50: Some(Duration::from_micros(said.p50)),
        p99: Some(Duration::from_micros(said.p99)),
    })
}

/// HTTP/2 over connections that are kept, so many requests at a time on each.
pub(super) async fn h2load_kept(
    way: &Way,
    connections: u32,
    at_once: u32,
    time: Duration,
) -> anyhow::Result<Found> {
    let words = [
        format!("--clients={connections}"),
        format!("--max-concurrent-streams={at_once}"),
        format!("--duration={}", time.as_secs()),
    ];
    h2load(way, &words).await
}

/// A connection for each request.
pub(super) async fn h2load_new(way: &Way, count: u32, http2: bool) -> anyhow::Result<Found> {
    let mut words = vec![format!("--clients={count}"), format!("--requests={count}")];
    if !http2 {
        words.push("--h1".to_owned());
    }
    h2load(way, &words).await
}

async fn h2load(way: &Way, words: &[String]) -> anyhow::Result<Found> {
    let mut command = Command::new("h2load");
    command
        .args(words)
        .arg(format!("--connect-to={}", way.address))
        .args(["--header", AGENT])
        .arg(&way.url);
    let text = said(command, "h2load (apt-get install nghttp2-client)").await?;
    let number_before = |word: &str| -> Option<u32> {
        let line = text.lines().find(|line| line.starts_with("requests: "))?;
        let (before, _) = line.split_once(word)?;
        before.trim().rsplit(' ').next()?.parse().ok()
    };
    let rate = text.lines().find_map(|line| {
        let rest = line.strip_prefix("finished in ")?;
        rest.split(", ").nth(1)?.strip_suffix(" req/s")?.parse().ok()
    });
    let (succeeded, failed) = (number_before(" succeeded"), number_before(" failed"));
    ensure!(
        failed == Some(0) && number_before(" errored") == Some(0) && succeeded > Some(0),
        "h2load met errors: {text}"
    );
    Ok(Found {
        requests: succeeded.unwrap_or_default(),
        per_second: rate.with_context(|| format!("h2load said: {text}"))?,
        p50: None,
        p99: None,
    })
}

async fn said(mut command: Command, what: &str) -> anyhow::Result<String> {
    let output = command
        .output()
        .await
        .with_context(|| format!("running {what}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success(),
        "{what}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}
