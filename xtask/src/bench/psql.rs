//! `psql`, which streams what the dashboard lists: the measure for its lists.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, ensure};
use tokio::process::Command;

use crate::stack::{DASHBOARD_PASSWORD, Stack};

/// The list of emails, row by row as the API writes it.
const EMAILS: &str = r#"copy (
  select row_to_json(email) from (
    select email_id, user_id, recipient, sender_email, sent_at,
           open_count as unique_open_count, open_count as total_open_events, hit_count as raw_open_events,
           to_char(last_opened_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as last_opened_at,
           open_count > 0 as opened,
           to_char(first_opened_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as created_at,
           human_open_count,
           to_char(last_human_open_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as last_human_open_at
    from tracked_emails where first_opened_at is not null order by first_opened_at desc, email_id
  ) as email
) to stdout;
"#;

/// Streams the emails to `file`, over TCP as the dashboard's role; the time that psql itself says this took.
pub(super) async fn stream_emails(stack: &Stack, file: &Path) -> anyhow::Result<Duration> {
    let script = file.with_extension("sql");
    let to = file.to_str().context("a path in UTF-8")?;
    fs::write(&script, format!("select 1;\n\\o '{to}'\n\\timing on\n{EMAILS}"))?;
    let output = Command::new("psql")
        .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f"])
        .arg(&script)
        .arg(stack.database.tcp_url_of("email_tracker_dashboard"))
        .env("PGPASSWORD", DASHBOARD_PASSWORD)
        .output()
        .await
        .context("running psql")?;
    ensure!(
        output.status.success(),
        "psql: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &fs::read_to_string(file).unwrap_or_default();
    let millis = said
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("Time: "))
        .and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
    let millis = millis.context("psql did not say how long it took")?;
    Ok(Duration::from_secs_f64(millis / 1e3))
}

/// What it has written there: one JSON value for each line.
pub(super) fn rows_in(file: &Path) -> anyhow::Result<Vec<serde_json::Value>> {
    let text = fs::read_to_string(file)?;
    text.lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| Ok(serde_json::from_str(line)?))
        .collect()
}
