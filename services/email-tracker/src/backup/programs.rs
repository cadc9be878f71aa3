//! `pg_dump`, `pg_restore` and `psql`, of a version that fits the server.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use database::Config;

use super::DatabaseSettings;
use crate::postgres::{folders, major_version};

/// The client programs of one installed PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Programs {
    folder: PathBuf,
    pub(crate) major: u32,
}

impl Programs {
    /// The oldest that is at least of version `needed`: `pg_dump` refuses a newer server, and a newer `pg_dump` writes
    /// what an older `pg_restore` cannot read.
    pub(crate) fn find(settings: &DatabaseSettings, needed: u32) -> anyhow::Result<Self> {
        let found: Vec<Self> = match &settings.pg_bin {
            Some(folder) => vec![
                Self::in_folder(folder)
                    .with_context(|| format!("PG_BIN={}: no pg_dump there", folder.display()))?,
            ],
            None => folders(&settings.path)
                .iter()
                .filter_map(|folder| Self::in_folder(folder))
                .collect(),
        };
        choose(found, needed)
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        let output = Command::new(folder.join("pg_dump"))
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let major = major_version(std::str::from_utf8(&output.stdout).ok()?)?;
        let folder = folder.to_owned();
        Some(Self { folder, major })
    }

    /// One of them, with the login in its environment and nothing else of ours.
    pub(crate) fn command(&self, program: &str, config: Option<&Config>) -> tokio::process::Command {
        let mut command = Command::new(self.folder.join(program));
        command.env_clear().env("LC_ALL", "C.UTF-8");
        // Debian's wrappers are scripts.
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        let login = config.map(Config::libpq_environment).unwrap_or_default();
        command.envs(login).env("PGAPPNAME", OsStr::new(program));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        command
    }
}

fn choose(found: Vec<Programs>, needed: u32) -> anyhow::Result<Programs> {
    let newest = found.iter().map(|programs| programs.major).max();
    let fitting = found.into_iter().filter(|programs| programs.major >= needed);
    if let Some(programs) = fitting.min_by_key(|programs| programs.major) {
        return Ok(programs);
    }
    match newest {
        Some(newest) => bail!(
            "pg_dump {newest} is too old for PostgreSQL {needed}: install its programs (Debian, Ubuntu: apt-get install \
             postgresql-client-{needed}), or name their folder in PG_BIN"
        ),
        None => bail!(
            "no pg_dump found: install it (Debian, Ubuntu: apt-get install postgresql-client-{needed}), or name its folder \
             in PG_BIN"
        ),
    }
}

/// Runs a program to its end; an error is what it said.
pub(crate) async fn run(name: &str, mut command: tokio::process::Command) -> anyhow::Result<()> {
    let output = command
        .stderr(Stdio::piped())
        .output()
        .await
        .with_context(|| format!("cannot run {name}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{name} failed: {}", reason(&output.stderr))
}

/// The first complaint among what a program said: what follows from it comes after it.
pub(crate) fn reason(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let complaint = said.lines().find(|line| {
        ["error:", "ERROR:", "FATAL:"]
            .iter()
            .any(|word| line.contains(word))
    });
    let reason = complaint.or_else(|| said.lines().last());
    reason.unwrap_or("it gave no reason").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(major: u32) -> Programs {
        Programs {
            folder: PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")),
            major,
        }
    }

    #[test]
    fn the_servers_own_version_is_taken_or_the_next() {
        assert_eq!(choose(vec![of(18), of(15), of(16)], 15).unwrap(), of(15));
        assert_eq!(choose(vec![of(18), of(15), of(17)], 16).unwrap(), of(17));
    }

    #[test]
    fn one_that_is_too_old_and_none_are_each_one_line_that_helps() {
        let old = choose(vec![of(15), of(16)], 18).unwrap_err().to_string();
        assert!(
            old.contains("pg_dump 16 is too old for PostgreSQL 18") && old.contains("postgresql-client-18"),
            "{old}"
        );
        let none = choose(Vec::new(), 18).unwrap_err().to_string();
        assert!(none.contains("no pg_dump found"), "{none}");
        assert!(!old.contains('\n') && !none.contains('\n'));
    }

    #[test]
    fn the_first_complaint_is_the_reason() {
        let said =
            b"psql:<stdin>:7: NOTICE:  x\npsql:<stdin>:9: ERROR:  no\npsql:<stdin>:10: ERROR:  aborted\n";
        assert!(reason(said).ends_with("ERROR:  no"));
        assert_eq!(reason(b""), "it gave no reason");
    }
}
