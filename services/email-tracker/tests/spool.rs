//! `email-tracker spool`, on the spool of a pixel that does not run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{path::Path, process::Command, sync::Arc};

use pixel::spool::{Folder, Options, SetAsideFact, Spool, SyncPolicy, files::DiskFiles};
use recorder_api::v1;
use serde_json::Value;
use test_support::{Signal, Spawned};
use tokio::net::TcpListener;
use tracking::{Fact, Mark, Timestamp, facts::new_id};

const AT_MS: i64 = 1_710_000_000_000;

fn mark(email_id: &str) -> Vec<u8> {
    let marked_at = Timestamp::from_millis(AT_MS);
    let mark = Mark {
        mark_id: new_id(marked_at, [7; 10]).unwrap(),
        marked_at,
        email_id: email_id.to_owned(),
        client_address: "203.0.113.7".parse().unwrap(),
        user_agent: None,
    };
    v1::Fact::from(Fact::Mark(mark)).to_bytes()
}

/// A spool with two unsent facts, and refused ones.
async fn abandoned(path: &Path, refused: &[(Vec<u8>, &str)]) {
    let folder = Folder::open(path, Arc::new(DiskFiles)).unwrap();
    let (spool, mut reader, ended) = Spool::start(folder, Options::new(1 << 20, SyncPolicy::Always)).unwrap();
    for email_id in ["unsent-1", "unsent-2"] {
        spool.append(mark(email_id)).await.unwrap();
    }
    let kept = |(fact, reason): &(Vec<u8>, &str)| SetAsideFact {
        reason: (*reason).to_owned(),
        at_ms: AT_MS + 1,
        fact: fact.clone(),
    };
    let refused: Vec<SetAsideFact> = refused.iter().map(kept).collect();
    reader.set_aside(&refused).unwrap();
    spool.close();
    let _ = ended.await;
}

fn command(arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_email-tracker"));
    command.env_clear().arg("spool").args(arguments).arg(folder);
    command
}

#[tokio::test]
async fn what_was_refused_is_listed_with_its_reason() {
    let folder = tempfile::tempdir().unwrap();
    let not_even_a_fact = vec![0xff];
    abandoned(
        folder.path(),
        &[(mark("refused"), "expired"), (not_even_a_fact, "invalid")],
    )
    .await;
    let output = command(&["list"], folder.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "2 set aside, 2 unsent\n");
    let lines: Vec<Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    assert_eq!(lines.len(), 2, "{output:?}");
    assert_eq!(lines[0]["reason"], "expired");
    assert_eq!(lines[0]["set_aside_at"], "2024-03-09T16:00:00.001Z");
    assert_eq!(lines[0]["fact"]["email_id"], "refused");
    assert_eq!(lines[0]["fact"]["ip_address"], "203.0.113.7");
    assert_eq!(lines[1]["fact"]["bytes"], 1);
}

/// Nobody answers: both wait until somebody gives up, and then say at once what is left.
#[tokio::test]
async fn what_cannot_be_delivered_stays() {
    for (what, left) in [("drain", "2 left"), ("resend", "1 left")] {
        let folder = tempfile::tempdir().unwrap();
        abandoned(folder.path(), &[(mark("refused"), "expired")]).await;
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let mut process = Spawned::start(command(&[what], folder.path()).env("RECORDER_URL", url));
        let _open_and_silent = silent.accept().await.unwrap();
        process.signal(Signal::INT);
        let line = process.line_with(left).await;
        assert!(line.starts_with("0 recorded"), "{line}");
        assert_eq!(process.exit().await.code(), Some(1));
    }
}

#[tokio::test]
async fn who_waits_for_a_recorder_says_so() {
    for what in ["drain", "resend"] {
        let folder = tempfile::tempdir().unwrap();
        abandoned(folder.path(), &[(mark("refused"), "expired")]).await;
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", nobody.local_addr().unwrap());
        drop(nobody);
        let mut process = Spawned::start(command(&[what], folder.path()).env("RECORDER_URL", url));
        let line = process.line_with("the recorder does not answer").await;
        assert_eq!(
            serde_json::from_str::<Value>(&line).unwrap()["level"],
            "WARN",
            "{line}"
        );
        process.signal(Signal::INT);
        assert_eq!(process.exit().await.code(), Some(1));
    }
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("spool");
    let output = command(&["list"], &missing).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("there is no folder"),
        "{output:?}"
    );
    assert!(!missing.exists());
}

#[tokio::test]
async fn a_spool_in_use_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let in_use = Folder::open(folder.path(), Arc::new(DiskFiles)).unwrap();
    for what in ["list", "resend", "drain"] {
        let output = command(&[what], folder.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{what}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("another running process"),
            "{what}: {output:?}"
        );
    }
    drop(in_use);
}
