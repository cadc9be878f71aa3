//! What is behind: disks, the database, the services' own ports.

use std::path::Path;

use axum::http::StatusCode;
use database::SchemaError;
use tokio::time::timeout;

use super::{
    Patient, dns,
    http::{Answer, CONNECT_PATIENCE, Server},
    report::Finding,
    settings::Address,
};

/// Less than this, and the next hour may fill it.
const TOO_LITTLE_BYTES: u64 = 64 << 20;
const SOON_TOO_LITTLE_PERCENT: u64 = 10;

/// A pixel that delivers is never so far behind.
const OLD_SECONDS: f64 = 60.0;

/// Room on the disk of a folder.
pub(super) fn disk(setting: &str, folder: Option<&Path>) -> Finding {
    let Some(folder) = folder else {
        return Finding::needs(setting);
    };
    let stat = match rustix::fs::statvfs(folder) {
        Ok(stat) => stat,
        Err(error) => {
            return Finding::failed(
                format!("it cannot be looked at: {error}"),
                format!("set {setting} to a folder that is there"),
            );
        }
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let all = stat.f_blocks.saturating_mul(stat.f_frsize);
    let found = format!("{} MiB free of {} MiB", free >> 20, all >> 20);
    let advice = "make room: old logs, images (`docker image prune`) and backups first, or a larger disk";
    if free < TOO_LITTLE_BYTES {
        Finding::failed(found, advice)
    } else if free < all / 100 * SOON_TOO_LITTLE_PERCENT {
        Finding::warning(found, advice)
    } else {
        Finding::ok(found)
    }
}

async fn ask(admin: &Address, path: &str) -> anyhow::Result<Answer> {
    let addresses = match admin.host.parse() {
        Ok(address) => vec![address],
        Err(_) => dns::addresses(None, &admin.host).await?,
    };
    let server = Server {
        addresses: &addresses,
        port: admin.port,
        host: admin.authority.clone(),
        tls: None,
    };
    server.get(path, &[]).await
}

/// Whether a service is there, and what it says of itself.
pub(super) async fn service(setting: &str, admin: Option<&Address>, name: &str) -> Finding {
    let Some(admin) = admin else {
        return Finding::needs(setting);
    };
    match ask(admin, "/ready").await {
        Ok(answer) => {
            let status = answer.json("/status");
            let status = status.as_str().unwrap_or("not one of ours");
            if answer.status == StatusCode::OK && matches!(status, "ready" | "degraded") {
                return Finding::ok(status);
            }
            let failing: Vec<String> = answer
                .json("/checks")
                .as_object()
                .into_iter()
                .flatten()
                .filter(|(_, check)| check.get("ok").is_some_and(|ok| *ok == false))
                .map(|(check, found)| {
                    let detail = found.get("detail").and_then(serde_json::Value::as_str);
                    format!("{check}: {}", detail.unwrap_or_default())
                })
                .collect();
            Finding::failed(
                format!("status {}, {status}. {}", answer.status, failing.join("; ")),
                format!("look at the {name}'s log"),
            )
        }
        Err(error) => Finding::failed(
            format!("{error:#}"),
            format!(
                "start the {name} (`docker compose up -d {name}`); if it runs, set {setting} to its admin port"
            ),
        ),
    }
}

/// Whether the dashboard can have the recorder erase and end sessions, as it says itself.
pub(super) async fn dashboard_recorder(admin: Option<&Address>) -> Finding {
    let Some(admin) = admin else {
        return Finding::needs("DASHBOARD_ADMIN_URL");
    };
    let answer = match ask(admin, "/ready").await {
        Ok(answer) => answer,
        Err(error) => return Finding::failed(format!("{error:#}"), "look at the dashboard's log"),
    };
    let check = answer.json("/checks/recorder");
    if check.is_null() {
        return Finding::needs("RECORDER_URL of the dashboard, without which it cannot erase");
    }
    match check.get("detail").and_then(serde_json::Value::as_str) {
        None => Finding::ok("it is let in"),
        Some(detail) => Finding::failed(
            detail,
            "give the dashboard the recorder's RECORDER_URL and RECORDER_TOKEN (`docker compose up -d`); until then nothing \
             can be erased, and a log-out ends one session alone",
        ),
    }
}

impl Patient {
    pub(super) async fn database(&mut self) -> Finding {
        let Some(config) = &self.settings.database else {
            return Finding::needs("DATABASE_URL");
        };
        let advice =
            "start PostgreSQL; compare DATABASE_URL and DATABASE_PASSWORD with what the recorder uses";
        match timeout(CONNECT_PATIENCE * 2, config.connect()).await {
            Ok(Ok(client)) => {
                let schema = timeout(CONNECT_PATIENCE * 2, database::check_schema(&client)).await;
                self.schema = Some(judge_schema(schema.ok()));
                Finding::ok(format!("{config}"))
            }
            Ok(Err(error)) => Finding::failed(format!("{config}: {error}"), advice),
            Err(_) => Finding::failed(format!("{config} does not answer"), advice),
        }
    }

    pub(super) fn schema(&mut self) -> Finding {
        self.schema
            .take()
            .unwrap_or_else(|| Finding::needs("DATABASE_URL"))
    }
}

/// `None`: nothing came.
fn judge_schema(found: Option<Result<(), SchemaError>>) -> Finding {
    match found {
        Some(Ok(())) => Finding::ok("it is"),
        Some(Err(SchemaError::Unreadable(error))) => Finding::failed(
            error.to_string(),
            "use a login that may read, such as the recorder's",
        ),
        Some(Err(error)) => Finding::failed(
            error.to_string(),
            "run `email-tracker migrate` (compose: `docker compose run --rm migrate`), after a backup",
        ),
        None => Finding::failed(
            "the database does not answer",
            "look at its log, and for locks in pg_stat_activity",
        ),
    }
}

/// Whether facts stay in the spool, or do not get into it.
pub(super) async fn spool(pixel_admin: Option<&Address>) -> Finding {
    let Some(admin) = pixel_admin else {
        return Finding::needs("PIXEL_ADMIN_URL");
    };
    let metrics = match ask(admin, "/metrics").await {
        Ok(answer) => String::from_utf8_lossy(&answer.body).into_owned(),
        Err(error) => return Finding::failed(format!("{error:#}"), "look at the pixel's log"),
    };
    let sum = |name: &str| -> f64 {
        let of_name = |line: &&str| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        };
        let values = metrics
            .lines()
            .filter(of_name)
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        values.sum()
    };
    let waiting = sum("email_tracker_pixel_spool_records");
    let age = sum("email_tracker_pixel_spool_oldest_unsent_age_seconds");
    let bytes = sum("email_tracker_pixel_spool_size_bytes");
    let limit = sum("email_tracker_pixel_spool_limit_bytes");
    let (lost, set_aside) = (
        sum("email_tracker_pixel_facts_lost_total"),
        sum("email_tracker_pixel_spool_set_aside"),
    );
    let found = format!("{waiting} facts wait, the oldest for {age:.0} s; {lost} lost, {set_aside} refused");
    if waiting > 0.0 && age > OLD_SECONDS {
        return Finding::failed(
            found,
            "look at the pixel's log for what the recorder answers (RECORDER_URL, RECORDER_TOKEN)",
        );
    }
    if bytes > limit / 2.0 {
        return Finding::warning(
            found,
            "the spool is more than half full: see docs/operations.md, SPOOL_MAX_BYTES",
        );
    }
    if lost > 0.0 || set_aside > 0.0 {
        return Finding::warning(
            found,
            "docs/operations.md, \"What may be lost, and where it shows\" and \"Looking into a spool\"",
        );
    }
    Finding::ok(found)
}
