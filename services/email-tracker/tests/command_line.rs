//! The command line as a user meets it: help, exit codes, the documented settings, `migrate`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod documented;

use std::process::{Command, Output};

use test_support::{OWNER_PASSWORD, PrivatePostgres};

use crate::documented::assert_is_documented;

fn email_tracker(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_email-tracker"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .expect("the program starts")
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

/// The lines of standard error; an end other than `code` fails the test.
fn complaints(output: &Output, code: i32) -> Vec<&str> {
    let stderr = std::str::from_utf8(&output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    stderr.lines().collect()
}

#[test]
fn the_help_is_the_one_in_the_repository() {
    for (arguments, file) in [
        (vec!["--help"], "tests/help/email-tracker.txt"),
        (vec!["healthcheck", "--help"], "tests/help/healthcheck.txt"),
        (vec!["spool", "--help"], "tests/help/spool.txt"),
        (vec!["backup", "--help"], "tests/help/backup.txt"),
        (vec!["migrate", "--help"], "tests/help/migrate.txt"),
        (vec!["restore", "--help"], "tests/help/restore.txt"),
        (vec!["import", "--help"], "tests/help/import.txt"),
    ] {
        let output = email_tracker(&arguments, &[]);
        assert!(output.status.success());
        assert_is_documented(stdout(&output), file, "command_line");
    }
}

#[test]
fn the_documented_settings_are_those_of_the_code() {
    let output = email_tracker(&["settings"], &[]);
    assert!(output.status.success());
    assert_is_documented(stdout(&output), "../../docs/settings.md", "command_line");
}

#[test]
fn what_it_does_not_understand_is_a_usage_error() {
    for arguments in [
        &["down"][..],
        &["healthcheck"],
        &["healthcheck", "localhost"],
        &["up", "--port=1"],
        &[],
    ] {
        let output = email_tracker(arguments, &[]);
        assert_eq!(output.status.code(), Some(64), "{arguments:?}: {output:?}");
    }
}

#[test]
fn the_version_is_printed() {
    let expected = format!("email-tracker {}\n", env!("CARGO_PKG_VERSION"));
    for argument in ["version", "--version"] {
        assert_eq!(stdout(&email_tracker(&[argument], &[])), expected);
    }
}

#[test]
fn nobody_there_is_not_well() {
    let output = email_tracker(&["healthcheck", "http://127.0.0.1:1/health"], &[]);
    let lines = complaints(&output, 1);
    assert!(
        lines.len() == 1 && lines[0].contains("cannot connect to 127.0.0.1:1"),
        "{lines:?}"
    );
}

#[test]
fn migrate_names_each_wrong_setting() {
    let output = email_tracker(
        &["migrate"],
        &[
            ("DATABASE_WAIT_SECONDS", "long"),
            ("RECORDER_DB_PASSWORD_FILE", "/nowhere"),
        ],
    );
    let lines = complaints(&output, 64);
    for name in ["DATABASE_URL", "DATABASE_WAIT_SECONDS", "RECORDER_DB_PASSWORD"] {
        assert!(lines.iter().any(|line| line.contains(name)), "{name}: {lines:?}");
    }
    assert_eq!(lines.len(), 3, "{lines:?}");
}

#[test]
fn migrate_gives_up_on_a_database_that_is_not_there() {
    let variables = [
        ("DATABASE_URL", "postgres://owner:s3cret@127.0.0.1:1/tracker"),
        ("DATABASE_WAIT_SECONDS", "1"),
    ];
    let output = email_tracker(&["migrate"], &variables);
    let lines = complaints(&output, 1);
    assert!(
        lines.len() == 1 && lines[0].contains("owner@127.0.0.1:1/tracker"),
        "{lines:?}"
    );
    assert!(!lines[0].contains("s3cret"), "{lines:?}");
}

#[tokio::test]
async fn migrate_may_run_again_and_applies_changed_passwords() {
    let server = PrivatePostgres::start().await;
    let database = server.empty_database().await;
    let owner = database.tcp_url_of("email_tracker_owner");
    let migrate = |recorder_password| {
        email_tracker(
            &["migrate"],
            &[
                ("DATABASE_URL", owner.as_str()),
                ("DATABASE_PASSWORD", OWNER_PASSWORD),
                ("RECORDER_DB_PASSWORD", recorder_password),
                ("DASHBOARD_DB_PASSWORD", "reads"),
            ],
        )
    };
    let first = migrate("first@/:");
    assert_eq!(complaints(&first, 0), [""; 0]);
    assert!(stdout(&first).contains("empty before"), "{}", stdout(&first));
    let again = migrate("second");
    assert_eq!(complaints(&again, 0), [""; 0]);
    assert!(stdout(&again).contains("already"), "{}", stdout(&again));

    let log_in = async |role: &str, password: &str| {
        let config = database::Config::new("URL", &database.tcp_url_of(role)).unwrap();
        config.password(Some(password)).connect().await.map(drop)
    };
    log_in("email_tracker_recorder", "second")
        .await
        .expect("the changed password");
    log_in("email_tracker_recorder", "first@/:")
        .await
        .expect_err("the password before");
    log_in("email_tracker_dashboard", "reads")
        .await
        .expect("the other role");

    let wrong = email_tracker(
        &["migrate"],
        &[("DATABASE_URL", &owner), ("DATABASE_PASSWORD", "wrong")],
    );
    let lines = complaints(&wrong, 1);
    assert!(
        lines.len() == 1 && lines[0].contains("password authentication failed"),
        "{lines:?}"
    );
}
