//! The account that owns and runs the private cluster.
//!
//! PostgreSQL refuses to run as root. Started by root, its programs run as the account `postgres`, which every
//! package of PostgreSQL makes. That account may be unable to reach the data folder by its path (a parent folder
//! of mode 700, such as /root). So root opens the folder and hands it over as a file descriptor: the account
//! needs no right on any parent and no capability, and can read nothing else.

use std::{
    ffi::OsStr,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

/// The descriptor under which the programs find their data folder, where they cannot use its path.
const DATA_FOLDER_FD: &str = "9";

/// Where sh and setpriv are.
const SYSTEM_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Who runs PostgreSQL's programs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Account {
    /// The account of this process.
    Own,
    /// Another one, because this process is root.
    Other {
        /// User id.
        uid: u32,
        /// Id of the group that files get.
        gid: u32,
    },
}

impl Account {
    /// The account for the cluster in `folder`, which may not exist yet.
    pub(crate) fn of(folder: &Path) -> anyhow::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Own);
        }
        // A cluster that an ordinary user made stays that user's.
        if let Ok(existing) = folder.metadata()
            && existing.uid() != 0
        {
            return Ok(Self::Other {
                uid: existing.uid(),
                gid: existing.gid(),
            });
        }
        match (id("-u"), id("-g")) {
            (Some(uid), Some(gid)) => Ok(Self::Other { uid, gid }),
            _ => bail!(
                "PostgreSQL does not run as root and there is no account `postgres` to run it: make one (useradd \
                 --system postgres), or start as an ordinary user"
            ),
        }
    }

    /// Makes `folder`, private to the account, unless it is there.
    pub(crate) fn make_folder(self, folder: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(folder)
            .and_then(|()| self.take_over(folder))
            .with_context(|| format!("cannot make {}", folder.display()))
    }

    /// Makes an existing `folder` private to the account.
    pub(crate) fn take_over(self, folder: &Path) -> std::io::Result<()> {
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700))?;
        match self {
            Self::Own => Ok(()),
            Self::Other { uid, gid } => chown(folder, Some(uid), Some(gid)),
        }
    }

    /// A command that runs `program` as this account on the given data folder.
    pub(crate) fn command(self, program: &Path, data_folder: &Path) -> Command {
        let (mut command, data_folder) = match self {
            Self::Own => (Command::new(program), data_folder.to_owned()),
            Self::Other { uid, gid } => (
                as_other(uid, gid, program, data_folder),
                ["/proc/self/fd", DATA_FOLDER_FD].iter().collect::<PathBuf>(),
            ),
        };
        // The working folder of this process may be closed to the account, and its environment holds secrets.
        command.current_dir("/").env_clear();
        command
            .env("PATH", SYSTEM_PATH)
            .env("LC_ALL", "C.UTF-8")
            .env("PGDATA", data_folder);
        command
    }
}

/// The shell opens the folder while it is still root, and setpriv, of util-linux, then gives root up for good.
fn as_other(uid: u32, gid: u32, program: &Path, data_folder: &Path) -> Command {
    let script = format!("exec {DATA_FOLDER_FD}<\"$1\"; shift; exec \"$@\"");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &script, "sh"]).arg(data_folder);
    command.args([
        "setpriv",
        "--reuid",
        &uid.to_string(),
        "--regid",
        &gid.to_string(),
    ]);
    command.args(["--clear-groups", "--no-new-privs"]).arg(program);
    command
}

/// A number that `id` knows about the account `postgres`.
fn id(which: &str) -> Option<u32> {
    let output = Command::new("id")
        .args([OsStr::new(which), OsStr::new("postgres")])
        .output()
        .ok()?;
    std::str::from_utf8(&output.stdout).ok()?.trim().parse().ok()
}
