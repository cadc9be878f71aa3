//! Which PostgreSQL is installed, and who may run it.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

/// The folder of the server's binaries.
pub(super) fn binaries() -> PathBuf {
    if let Some(folder) = std::env::var_os("PG_BIN").map(PathBuf::from) {
        assert!(
            is_server(&folder),
            "PG_BIN is {}, where there are no initdb and postgres",
            folder.display()
        );
        return folder;
    }
    let on_path = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
        .unwrap_or_default();
    packaged().into_iter().chain(on_path).find(|folder| is_server(folder)).expect(
        "these tests need PostgreSQL 15 or newer: install it (`apt-get install postgresql`), or name the folder of its \
         binaries in PG_BIN",
    )
}

/// Debian keeps each major version in a folder of its own, not on the PATH. Newest first.
fn packaged() -> Vec<PathBuf> {
    let Ok(versions) = fs::read_dir("/usr/lib/postgresql") else {
        return Vec::new();
    };
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let major = entry.file_name().to_str()?.parse().ok()?;
            Some((major, entry.path().join("bin")))
        })
        .collect();
    found.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    found.into_iter().map(|(_, folder)| folder).collect()
}

fn is_server(folder: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|name| {
        fs::metadata(folder.join(name))
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    })
}

/// PostgreSQL refuses to run as root; then another account has to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// None if this process can run PostgreSQL itself.
    pub(super) fn needed() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let accounts = fs::read_to_string("/etc/passwd").expect("reading /etc/passwd");
        let account = ["postgres", "nobody"]
            .iter()
            .find_map(|name| Self::named(name, &accounts));
        Some(account.expect("an account postgres or nobody: PostgreSQL does not run as root"))
    }

    fn named(name: &str, accounts: &str) -> Option<Self> {
        let line = accounts
            .lines()
            .find(|line| line.split(':').next() == Some(name))?;
        let mut ids = line.split(':').skip(2).map(str::parse);
        Some(Self {
            uid: ids.next()?.ok()?,
            gid: ids.next()?.ok()?,
        })
    }

    pub(super) fn owns(self, path: &Path) {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid)).expect("giving a file to the account");
    }

    pub(super) fn runs(self, command: &mut Command) {
        command.uid(self.uid).gid(self.gid); // which also leaves root's other groups
    }
}
