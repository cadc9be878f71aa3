//! The files of the private cluster, made once.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

use super::{account::Account, programs::Programs};

/// The superuser of a private cluster, as compose names it.
pub(crate) const OWNER: &str = "email_tracker_owner";
/// The database in it.
pub(crate) const DATABASE: &str = "email_tracker";

/// The major version that made the cluster in `folder`; `None` where there is none yet.
pub(crate) fn made_by(folder: &Path) -> anyhow::Result<Option<u32>> {
    let file = folder.join("PG_VERSION");
    match std::fs::read_to_string(&file) {
        Ok(text) => {
            let major = text.trim().parse().with_context(|| {
                format!(
                    "{} holds no version number: is the folder a database?",
                    file.display()
                )
            })?;
            Ok(Some(major))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// Makes a cluster in `folder`. It appears there complete or not at all, whenever this process dies.
pub(crate) fn make(folder: &Path, programs: &Programs, account: Account) -> anyhow::Result<()> {
    let unfinished = unfinished(folder);
    match std::fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", unfinished.display()));
        }
        _ => account.make_folder(&unfinished)?,
    }
    let mut initdb = account.command(&programs.path("initdb"), &unfinished);
    initdb.args(["--username", OWNER]);
    // Nobody but root and this account can reach the socket: its folder is private. TCP is off.
    initdb.args(["--auth-local=trust", "--auth-host=reject"]);
    initdb.args(["--encoding=UTF8", "--locale=C.UTF-8", "--data-checksums"]);
    run("initdb", initdb, "")?;

    let mut single = account.command(&programs.path("postgres"), &unfinished);
    single.args(["--single", "-j", "postgres"]);
    run(
        "postgres --single",
        single,
        &format!("create database {DATABASE};\n\n"),
    )?;

    put_in_place(&unfinished, folder).with_context(|| format!("cannot put {} in place", folder.display()))
}

/// Runs one program to its end; an error is the line in which it gave its reason.
fn run(name: &str, mut command: Command, input: &str) -> anyhow::Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ended before it read has said why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .with_context(|| format!("cannot run {name}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let reason = said.lines().rfind(|line| {
        ["error", "ERROR", "FATAL", "PANIC"]
            .iter()
            .any(|word| line.contains(word))
    });
    match reason {
        // A single-user server ends well even where its statement failed.
        None if output.status.success() => Ok(()),
        _ => bail!(
            "{name} failed: {}",
            reason
                .or_else(|| said.lines().last())
                .unwrap_or("it gave no reason")
        ),
    }
}

fn put_in_place(unfinished: &Path, folder: &Path) -> std::io::Result<()> {
    std::fs::rename(unfinished, folder)?;
    match folder.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn unfinished(folder: &Path) -> PathBuf {
    folder.with_extension("unfinished")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_cluster_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(made_by(folder.path()).unwrap(), None);
        std::fs::write(folder.path().join("PG_VERSION"), "15\n").unwrap();
        assert_eq!(made_by(folder.path()).unwrap(), Some(15));
        std::fs::write(folder.path().join("PG_VERSION"), "fifteen\n").unwrap();
        assert!(made_by(folder.path()).is_err());
    }
}
