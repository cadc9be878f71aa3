//! The native run, as a user has it: the real program, its own PostgreSQL, HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod up;

use std::{os::unix::fs::PermissionsExt as _, sync::Arc};

use pixel::spool::{Folder, files::DiskFiles};
use test_support::{
    PrivatePostgres, Signal, eventually,
    http::{Request, get},
};

use crate::up::{Account, Home, Up};

const GIF_BYTES: usize = 43;

/// The one email of a data folder, once `ready` says it is as expected.
async fn email(up: &Up, what: &str, ready: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    eventually(what, async || {
        let items = up.emails().await;
        items.first().filter(|email| ready(email)).cloned()
    })
    .await
}

/// Open, repeat, mark, restart.
async fn the_first_try(home: &Home) {
    let up = home.up().await;
    let pixel = up.pixel_to_try.clone();
    let answer = get(up.address, &pixel).await;
    assert_eq!((answer.status, answer.body.len()), (200, GIF_BYTES));
    assert_eq!(answer.header("content-type"), Some("image/gif"));
    let opened = email(&up, "the open shows", |email| email["raw_open_events"] == 1).await;
    assert_eq!(opened["unique_open_count"], 1);
    assert_eq!(opened["recipient"], "someone@example.com");

    get(up.address, &pixel).await;
    let repeated = email(&up, "the repeat shows", |email| email["raw_open_events"] == 2).await;
    assert_eq!(repeated["unique_open_count"], 1);

    let email_id = repeated["email_id"].as_str().unwrap();
    let mark = Request::post_json("/mark-suppress-next", format!("{{\"email_id\":\"{email_id}\"}}"));
    assert_eq!(mark.send(up.address).await.json()["ok"], true);
    let from_elsewhere = Request::get(&pixel)
        .header("x-forwarded-for", "203.0.113.7")
        .header("user-agent", "another");
    assert_eq!(from_elsewhere.send(up.address).await.status, 200);
    let suppressed = email(&up, "the sender's look shows", |email| {
        email["raw_open_events"] == 3
    })
    .await;
    assert_eq!(suppressed["unique_open_count"], 1);
    let hits = up.api("/dashboard/api/open-events?include=all").await["items"].clone();
    assert_eq!(hits[0]["suppression_reason"], "mark_suppress_next");
    assert_eq!(
        hits[0]["ip_address"], "203.0.113.7",
        "loopback is a trusted proxy"
    );

    let token = up.dashboard_token.clone();
    up.stop().await;
    let up = home.up().await;
    assert_eq!(up.dashboard_token, token);
    assert_eq!(email(&up, "the email is still there", |_| true).await, suppressed);

    let file = home.data_dir().join("dashboard-token");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    up.stop().await;
}

/// As root: below a folder of mode 700 that PostgreSQL's account cannot enter.
#[tokio::test]
async fn the_first_try_of_whoever_runs_the_tests() {
    the_first_try(&Home::of(Account::Own)).await;
}

#[tokio::test]
async fn the_first_try_of_an_ordinary_user() {
    the_first_try(&Home::of(Account::ordinary())).await;
}

#[tokio::test]
async fn what_was_answered_before_a_kill_is_there_after_it() {
    let home = Home::of(Account::Own);
    let mut up = home.up().await;
    let postgres = home.postgres().expect("PostgreSQL runs");
    for number in 0..100 {
        let client = format!("203.0.113.{number}");
        let hit = Request::get(&up.pixel_to_try).header("x-forwarded-for", &client);
        assert_eq!(hit.send(up.address).await.status, 200);
    }
    up.process.signal(Signal::KILL);
    up.process.exit().await;

    let up = home.up().await;
    let email = email(&up, "all hits are recorded", |email| {
        email["raw_open_events"] == 100
    })
    .await;
    assert_eq!(email["unique_open_count"], 100);
    assert_ne!(
        home.postgres(),
        Some(postgres),
        "the PostgreSQL left behind was stopped"
    );
    up.stop().await;
    assert_eq!(home.postgres(), None);
}

#[tokio::test]
async fn while_postgresql_is_down_pixels_are_answered_and_then_recorded() {
    let home = Home::of(Account::Own);
    let up = home.up().await;
    let killed = home.postgres().expect("PostgreSQL runs");
    rustix::process::kill_process(killed, Signal::KILL).unwrap();
    assert_eq!(get(up.address, &up.pixel_to_try).await.status, 200);
    assert_eq!(get(up.address, "/health").await.json()["ok"], true);
    email(&up, "PostgreSQL is back and the hit recorded", |email| {
        email["raw_open_events"] == 1
    })
    .await;
    assert_ne!(home.postgres(), Some(killed));
    up.stop().await;
}

#[tokio::test]
async fn the_public_address_has_what_the_contract_names_and_nothing_else() {
    let home = Home::of(Account::Own);
    let up = home.up().await;
    for path in [
        "/",
        "/metrics",
        "/metrics/x",
        "/ready",
        "/live",
        "/log-level",
        "/t",
        "/favicon.ico",
    ] {
        assert_eq!(get(up.address, path).await.status, 404, "{path}");
    }
    for path in [
        "/health",
        "/dashboard",
        "/dashboard/health",
        "/dashboard?tab=opens&email_id=x",
    ] {
        assert_eq!(get(up.address, path).await.status, 200, "{path}");
    }
    for path in [
        "/dashboard/api/emails",
        "/metrics/gmail-proxy-latency",
        "/metrics/suppress-signals",
        "/metrics/suppression-debug",
    ] {
        assert_eq!(get(up.address, path).await.status, 401, "{path}");
        assert!(up.api(path).await.is_object(), "{path}");
    }
    for port in home.admin_ports() {
        let metrics = get(([127, 0, 0, 1], port).into(), "/metrics").await;
        assert_eq!(metrics.status, 200);
        home.promtool_accepts(metrics.text());
    }
    up.stop().await;
}

#[tokio::test]
async fn a_second_one_on_the_same_data_is_refused() {
    let home = Home::of(Account::Own);
    let up = home.up().await;
    let complaint = home.refused(&[], 1).await;
    assert!(
        complaint.contains("is in use") && complaint.contains(&up.process.id().to_string()),
        "{complaint}"
    );
    assert_eq!(get(up.address, "/dashboard/health").await.status, 200);
    up.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let home = Home::of(Account::Own);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for name in ["PORT", "DASHBOARD_ADMIN_PORT"] {
        let complaint = home.refused(&[(name, &port)], 1).await;
        assert!(
            complaint.contains(&format!("{name}: cannot listen on 127.0.0.1:{port}")),
            "{complaint}"
        );
    }
    assert!(
        !home.data_dir().join("postgres").exists(),
        "nothing was made before the ports were known to be free"
    );
}

#[tokio::test]
async fn data_of_another_major_version_is_named_and_left_alone() {
    let home = Home::of(Account::Own);
    let version = home.data_dir().join("postgres/PG_VERSION");
    std::fs::create_dir_all(version.parent().unwrap()).unwrap();
    std::fs::write(&version, "9\n").unwrap();
    let complaint = home.refused(&[], 1).await;
    assert!(
        complaint.contains("made by PostgreSQL 9,") && complaint.contains("postgresql-9"),
        "{complaint}"
    );
    assert_eq!(std::fs::read_to_string(&version).unwrap(), "9\n");
}

#[tokio::test]
async fn without_postgresql_it_says_what_to_do() {
    let home = Home::of(Account::Own);
    let empty = tempfile::tempdir().unwrap();
    let complaint = home
        .refused(&[("PG_BIN", empty.path().to_str().unwrap())], 1)
        .await;
    assert!(
        complaint.contains("PG_BIN=") && complaint.contains("no PostgreSQL there"),
        "{complaint}"
    );
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_made_is_named() {
    let home = Home::of(Account::ordinary());
    let complaint = home.refused(&[("DATA_DIR", "/proc/email-tracker")], 1).await;
    assert!(
        complaint.contains("DATA_DIR=/proc/email-tracker: cannot make the folder"),
        "{complaint}"
    );
    let complaint = home.refused(&[("DATA_DIR", "/usr")], 1).await;
    assert!(
        complaint.contains("DATA_DIR=/usr: cannot write there"),
        "{complaint}"
    );
}

#[tokio::test]
async fn a_spool_in_use_is_named() {
    let home = Home::of(Account::Own);
    let spool = home.data_dir().join("spool");
    std::fs::create_dir_all(&spool).unwrap();
    let _in_use = Folder::open(&spool, Arc::new(DiskFiles)).unwrap();
    let complaint = home.refused(&[], 1).await;
    assert!(
        complaint.contains("belongs to another running process"),
        "{complaint}"
    );
    assert_eq!(home.postgres(), None);
}

#[tokio::test]
async fn a_given_database_is_used_instead() {
    let server = PrivatePostgres::start().await;
    let database = server.empty_database().await;
    let home = Home::of(Account::Own);
    let url = database.url();
    let up = home
        .up_with(&[("DATABASE_URL", &url), ("DASHBOARD_TOKEN", "given")])
        .await;
    get(up.address, &up.pixel_to_try).await;
    email(&up, "the open shows", |email| email["unique_open_count"] == 1).await;
    assert!(!home.data_dir().join("postgres").exists());
    assert!(!home.data_dir().join("dashboard-token").exists());
    up.stop().await;
}

#[tokio::test]
async fn a_given_database_that_does_not_answer_is_named() {
    let home = Home::of(Account::Own);
    let complaint = home
        .refused(&[("DATABASE_URL", "postgres://me:s3cret@127.0.0.1:1/mine")], 1)
        .await;
    assert!(
        complaint.contains("DATABASE_URL") && complaint.contains("me@127.0.0.1:1/mine"),
        "{complaint}"
    );
    assert!(!complaint.contains("s3cret"), "{complaint}");
}

#[tokio::test]
async fn all_wrong_settings_are_named_at_once() {
    let home = Home::of(Account::Own);
    let complaints = home
        .complaints(
            &[("PORT", "x"), ("SPOOL_SYNC", "never"), ("RETENTION_DAYS", "-1")],
            64,
        )
        .await;
    let names: Vec<&str> = complaints
        .iter()
        .filter_map(|line| line.split(": ").nth(1))
        .collect();
    assert_eq!(names, ["PORT", "SPOOL_SYNC", "RETENTION_DAYS"], "{complaints:?}");
}
