//! The program itself, with these arguments and nothing else in its environment than these variables.
#![allow(dead_code, reason = "no test needs all of it")]

use std::process::{Command, Output};

/// To be started.
pub(crate) fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_email-tracker"));
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .envs(variables.iter().copied());
    command
}

/// Runs it to its end.
pub(crate) async fn email_tracker(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = command(arguments, variables);
    tokio::task::spawn_blocking(move || command.output().expect("the program starts"))
        .await
        .unwrap()
}

/// What it prints; it has to succeed.
pub(crate) async fn succeeds(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let output = email_tracker(arguments, variables).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}
