//! `doctor` on a real Email Tracker: well, and with each of the faults that operators meet.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]

mod certificates;
mod documented;
mod services;
mod stack;

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    certificates::Certificate,
    documented::assert_is_documented,
    stack::{DashboardsRecorder, Plan, Stack},
};

/// All that is behind a certificate.
const BEHIND_CERTIFICATE: [&str; 9] = [
    "health",
    "pixel",
    "plain-pixel",
    "dashboard",
    "token",
    "wrong-token",
    "self-test",
    "pixel-clock",
    "public-paths",
];
const CERTIFICATE: [&str; 3] = ["certificate-chain", "certificate-dates", "certificate-name"];

fn check<'r>(report: &'r Value, name: &str) -> &'r Value {
    let checks = report["checks"].as_array().unwrap();
    let found = checks.iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check {name} in {report:#}"))
}

/// `cause` alone failed, with `found` in what was found; exactly `blocked` were not checked, for want of it; all others are
/// well.
fn assert_root_cause(report: &Value, cause: &str, found: &str, blocked: &[&str]) {
    assert_eq!(report["root_causes"], serde_json::json!([cause]), "{report:#}");
    for check in report["checks"].as_array().unwrap() {
        let name = check["name"].as_str().unwrap();
        if name == cause {
            assert_eq!(check["outcome"], "failed", "{report:#}");
            let said = check["found"].as_str().unwrap();
            assert!(said.contains(found), "{said}");
            assert!(check["do"].as_str().is_some_and(|advice| !advice.is_empty()));
        } else if blocked.contains(&name) {
            assert_eq!(
                (check["outcome"].as_str(), check["needs"].as_str()),
                (Some("not checked"), Some(cause)),
                "{name} in {report:#}"
            );
        } else {
            assert_well(check);
        }
    }
    for name in blocked {
        check(report, name);
    }
}

fn assert_well(check: &Value) {
    // The machine that runs the tests may be short of room.
    let is_disk = check["name"].as_str().unwrap().ends_with("-disk");
    assert!(
        check["outcome"] == "ok" || is_disk && check["outcome"] == "warning",
        "{check:#}"
    );
}

fn all<'a>(parts: &[&[&'a str]]) -> Vec<&'a str> {
    parts.concat()
}

#[tokio::test]
async fn a_healthy_one_is_all_green() {
    let stack = Stack::healthy().await;
    let report = stack.json().await;
    for check in report["checks"].as_array().unwrap() {
        assert_well(check);
    }
    assert_eq!(report["ok"], true);

    let output = stack.doctor(&[]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.ends_with("\nNothing failed.\n"), "{text}");
    assert!(text.contains("valid until 2090-01-01T00:00:00.000Z\n"), "{text}");

    let client = stack.database.superuser().await;
    let row = client
        .query_one(
            "select count(*), count(distinct user_id), min(user_id) from tracked_emails",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, i64>(1)),
        (2, 1),
        "one for each run"
    );
    assert_eq!(row.get::<_, &str>(2), "doctor");
}

#[tokio::test]
async fn wrong_dns() {
    let stack = Stack::of(Plan {
        dns: Ipv4Addr::new(127, 0, 0, 9),
        ..Plan::default()
    })
    .await;
    let behind = ["port", "plain-port", "tls", "clock", "admin-ports"];
    assert_root_cause(
        &stack.json().await,
        "dns-a",
        "127.0.0.9 is not this host's address",
        &all(&[&behind, &CERTIFICATE, &BEHIND_CERTIFICATE]),
    );
}

#[tokio::test]
async fn an_expired_certificate() {
    let stack = Stack::of(Plan {
        certificate: Certificate::Expired,
        ..Plan::default()
    })
    .await;
    let found = "expired: it ended 2024-04-01T00:00:00.000Z";
    assert_root_cause(
        &stack.json().await,
        "certificate-dates",
        found,
        &BEHIND_CERTIFICATE,
    );
}

#[tokio::test]
async fn a_missing_intermediate_is_told_from_an_unknown_root() {
    for (certificate, found) in [
        (
            Certificate::WithoutIntermediate,
            "an intermediate certificate is missing: Test Intermediate",
        ),
        (
            Certificate::OfAnotherRoot,
            "unknown root: the chain leads to Test Root",
        ),
    ] {
        let stack = Stack::of(Plan {
            certificate,
            ..Plan::default()
        })
        .await;
        assert_root_cause(
            &stack.json().await,
            "certificate-chain",
            found,
            &all(&[&CERTIFICATE[1..], &BEHIND_CERTIFICATE]),
        );
    }
}

#[tokio::test]
async fn a_certificate_for_another_name() {
    let stack = Stack::of(Plan {
        certificate: Certificate::OfAnotherName,
        ..Plan::default()
    })
    .await;
    assert_root_cause(
        &stack.json().await,
        "certificate-name",
        "other.test",
        &BEHIND_CERTIFICATE,
    );
}

#[tokio::test]
async fn a_closed_port() {
    let mut stack = Stack::healthy().await;
    stack.close_port().await;
    assert_root_cause(
        &stack.json().await,
        "port",
        "127.0.0.2: ",
        &all(&[&["tls", "clock"], &CERTIFICATE, &BEHIND_CERTIFICATE]),
    );
}

#[tokio::test]
async fn a_wrong_token() {
    let mut stack = Stack::healthy().await;
    stack.set("DASHBOARD_TOKEN", "not-it");
    assert_root_cause(
        &stack.json().await,
        "token",
        "refused",
        &["self-test", "pixel-clock"],
    );
}

#[tokio::test]
async fn a_stopped_recorder() {
    let mut stack = Stack::healthy().await;
    stack.stop_recorder().await;
    assert_root_cause(
        &stack.json().await,
        "recorder-service",
        "cannot connect",
        &["dashboard-recorder", "self-test", "pixel-clock", "spool"],
    );
}

/// All can be read, but a user cannot erase.
#[tokio::test]
async fn a_dashboard_that_does_not_reach_the_recorder() {
    for (dashboards_recorder, found) in [
        (
            DashboardsRecorder::AnotherToken,
            "RECORDER_TOKEN is the same on both",
        ),
        (DashboardsRecorder::Elsewhere, "no recorder has answered"),
    ] {
        let stack = Stack::of(Plan {
            dashboards_recorder,
            ..Plan::default()
        })
        .await;
        assert_root_cause(&stack.json().await, "dashboard-recorder", found, &[]);
    }
    let stack = Stack::of(Plan {
        dashboards_recorder: DashboardsRecorder::Nothing,
        ..Plan::default()
    })
    .await;
    let report = stack.json().await;
    assert_eq!(report["ok"], true, "{report:#}");
    let needs = check(&report, "dashboard-recorder")["needs"].as_str().unwrap();
    assert!(needs.starts_with("RECORDER_URL of the dashboard"), "{needs}");
}

/// A file system of its own; it needs root.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=128m", "tmpfs"])
            .arg(at)
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(folder.path()) else {
        eprintln!("SKIPPED: mounting a small disk takes root");
        return;
    };
    let stack = Stack::of(Plan {
        spool_dir: Some(folder.path().join("spool")),
        ..Plan::default()
    })
    .await;
    let filled = std::fs::write(folder.path().join("ballast"), vec![1; 256 << 20]);
    assert_eq!(filled.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert_root_cause(
        &stack.json().await,
        "spool-disk",
        "0 MiB free of 128 MiB",
        &["self-test", "pixel-clock", "spool"],
    );
}

#[tokio::test]
async fn an_old_schema() {
    let stack = Stack::healthy().await;
    let client = stack.database.superuser().await;
    let newest = "(select max(version) from refinery_schema_history)";
    let statement = format!("delete from refinery_schema_history where version = {newest}");
    client.batch_execute(&statement).await.unwrap();
    let blocked = [
        "recorder-service",
        "dashboard-service",
        "dashboard-recorder",
        "dashboard",
        "token",
        "wrong-token",
        "self-test",
        "pixel-clock",
        "spool",
    ];
    assert_root_cause(
        &stack.json().await,
        "schema",
        "run `email-tracker migrate`",
        &blocked,
    );
}

/// Debian's library, which shows a program another time.
fn libfaketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    folders
        .filter_map(|folder| Some(folder.ok()?.path().join("faketime/libfaketimeMT.so.1")))
        .find(|file| file.exists())
}

#[tokio::test]
async fn a_skewed_clock() {
    let Some(library) = libfaketime() else {
        eprintln!("SKIPPED: it takes libfaketime (Debian, Ubuntu: apt-get install libfaketime)");
        return;
    };
    // Long after the end of any certificate: that is not what is wrong.
    let mut stack = Stack::healthy().await;
    stack.set("LD_PRELOAD", library.to_str().unwrap());
    stack.set("FAKETIME", "+400000000");
    stack.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    assert_root_cause(
        &stack.json().await,
        "clock",
        "s ahead of the server's",
        &all(&[&CERTIFICATE, &BEHIND_CERTIFICATE]),
    );
}

#[tokio::test]
async fn an_exposed_admin_port() {
    let stack = Stack::of(Plan {
        pixel_admin: Ipv4Addr::UNSPECIFIED,
        ..Plan::default()
    })
    .await;
    assert_root_cause(
        &stack.json().await,
        "admin-ports",
        "shows metrics to everybody",
        &[],
    );
}

#[tokio::test]
async fn what_is_not_given_is_not_checked_and_nothing_fails() {
    let mut stack = Stack::healthy().await;
    for name in [
        "PUBLIC_ADDRESS",
        "DASHBOARD_TOKEN",
        "DATABASE_URL",
        "PIXEL_ADMIN_URL",
        "RECORDER_ADMIN_URL",
        "DASHBOARD_ADMIN_URL",
        "SPOOL_DIR",
        "DATA_DIR",
    ] {
        stack.set(name, "");
    }
    let report = stack.json().await;
    assert_eq!(report["ok"], true);
    for (name, needs) in [
        ("dns-a", "PUBLIC_ADDRESS"),
        ("token", "DASHBOARD_TOKEN"),
        ("self-test", "DASHBOARD_TOKEN"),
        ("database", "DATABASE_URL"),
        ("recorder-service", "RECORDER_ADMIN_URL"),
        ("dashboard-recorder", "DASHBOARD_ADMIN_URL"),
        ("spool", "PIXEL_ADMIN_URL"),
        ("spool-disk", "SPOOL_DIR"),
        ("admin-ports", "PUBLIC_ADDRESS"),
    ] {
        assert_eq!(check(&report, name)["needs"], needs, "{report:#}");
    }
    for name in ["pixel", "plain-pixel", "dashboard", "wrong-token"] {
        assert_eq!(check(&report, name)["outcome"], "ok", "{report:#}");
    }
}

#[test]
fn the_help_is_the_one_in_the_repository() {
    let doctor = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_email-tracker"));
        command
            .arg("doctor")
            .args(arguments)
            .env_clear()
            .output()
            .unwrap()
    };
    let help = doctor(&["--help"]);
    assert_is_documented(
        std::str::from_utf8(&help.stdout).unwrap(),
        "tests/help/doctor.txt",
        "doctor",
    );
    for arguments in [&[][..], &["track.example.com"], &["https://x", "--yaml"]] {
        assert_eq!(doctor(arguments).status.code(), Some(64), "{arguments:?}");
    }
}
