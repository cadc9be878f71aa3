//! Which installed PostgreSQL runs the private cluster.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

/// The oldest major version whose SQL the schema and the recorder use.
pub(crate) const OLDEST_MAJOR: u32 = 15;

/// The server programs of one installed PostgreSQL.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Programs {
    folder: PathBuf,
    major: u32,
}

impl Programs {
    /// The path of one program, for example `initdb`.
    pub(crate) fn path(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }

    /// The major version, for example 17.
    pub(crate) fn major(&self) -> u32 {
        self.major
    }

    /// What `folder` holds, or `None` where it is no complete, running PostgreSQL.
    fn in_folder(folder: &Path) -> Option<Self> {
        // A link such as /usr/local/bin/postgres leads to the folder that has the others.
        let postgres = folder.join("postgres").canonicalize().ok()?;
        let folder = postgres.parent()?.to_owned();
        if !folder.join("initdb").is_file() {
            return None;
        }
        let output = Command::new(&postgres).arg("--version").output().ok()?;
        let major = major_version(std::str::from_utf8(&output.stdout).ok()?)?;
        Some(Self { folder, major })
    }
}

impl fmt::Display for Programs {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "PostgreSQL {} in {}",
            self.major,
            self.folder.display()
        )
    }
}

/// Finds the PostgreSQL that is to run a cluster: the one in `given` (`PG_BIN`) if that is set, else the newest
/// of those on `path` and in the usual places. An existing cluster (`made_by`) can only be run by its own major
/// version.
pub(crate) fn find(given: Option<&Path>, path: &str, made_by: Option<u32>) -> anyhow::Result<Programs> {
    let found = match given {
        Some(folder) => {
            let programs = Programs::in_folder(folder).with_context(|| {
                format!(
                    "PG_BIN={}: no PostgreSQL there (it needs postgres and initdb)",
                    folder.display()
                )
            })?;
            vec![programs]
        }
        None => installed(path),
    };
    choose(found, made_by)
}

fn choose(mut found: Vec<Programs>, made_by: Option<u32>) -> anyhow::Result<Programs> {
    found.sort_by_key(Programs::major);
    if let Some(major) = made_by {
        let versions: BTreeSet<String> = found.iter().map(|programs| programs.major.to_string()).collect();
        let versions: Vec<String> = versions.into_iter().collect();
        return found
            .into_iter()
            .find(|programs| programs.major == major)
            .with_context(|| {
                let installed = if versions.is_empty() {
                    "none".to_owned()
                } else {
                    versions.join(", ")
                };
                format!(
                    "the database in DATA_DIR was made by PostgreSQL {major}, found: {installed}; install \
                 postgresql-{major} (or name its folder in PG_BIN), or set DATA_DIR to another folder"
                )
            });
    }
    match found.pop() {
        Some(newest) if newest.major >= OLDEST_MAJOR => Ok(newest),
        Some(too_old) => bail!("{too_old} is too old: install PostgreSQL {OLDEST_MAJOR} or newer"),
        None => bail!(
            "no PostgreSQL found: install it (Debian, Ubuntu: apt-get install postgresql), name its program folder in \
             PG_BIN, or give a running database as DATABASE_URL"
        ),
    }
}

/// Everything installed, in no order.
fn installed(path: &str) -> Vec<Programs> {
    folders(path)
        .iter()
        .filter_map(|folder| Programs::in_folder(folder))
        .collect()
}

/// Where programs of PostgreSQL may be.
pub(crate) fn folders(path: &str) -> BTreeSet<PathBuf> {
    let on_path = path
        .split(':')
        .filter(|folder| folder.starts_with('/'))
        .map(PathBuf::from);
    // Debian and Ubuntu keep the server programs off the PATH; so do the community's packages for Red Hat.
    let debian = entries(Path::new("/usr/lib/postgresql"));
    let red_hat = entries(Path::new("/usr")).into_iter().filter(|folder| {
        folder
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("pgsql-"))
    });
    let usual = debian.into_iter().chain(red_hat).map(|folder| folder.join("bin"));
    on_path.chain(usual).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect()
}

/// The major version in a line such as `postgres (PostgreSQL) 15.18 (Debian …)`.
pub(crate) fn major_version(line: &str) -> Option<u32> {
    let version = line.split("(PostgreSQL) ").nth(1)?;
    // `18beta2` and `17.5` alike.
    version
        .split(|character: char| !character.is_ascii_digit())
        .next()?
        .parse()
        .ok()
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
    fn the_version_line_of_each_packager_is_read() {
        assert_eq!(
            major_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(major_version("postgres (PostgreSQL) 18beta2\n"), Some(18));
        assert_eq!(major_version("postgres (PostgreSQL) 9.6.24\n"), Some(9));
        assert_eq!(major_version("postgres: command not found"), None);
    }

    #[test]
    fn a_new_cluster_gets_the_newest() {
        assert_eq!(choose(vec![of(16), of(18), of(15)], None).unwrap(), of(18));
    }

    #[test]
    fn an_existing_cluster_gets_its_own_version() {
        assert_eq!(choose(vec![of(16), of(18), of(15)], Some(15)).unwrap(), of(15));
    }

    #[test]
    fn an_existing_cluster_of_a_version_that_is_gone_is_refused_by_name() {
        let error = choose(vec![of(16), of(18)], Some(15)).unwrap_err().to_string();
        assert!(
            error.contains("PostgreSQL 15") && error.contains("found: 16, 18"),
            "{error}"
        );
        assert!(
            error.contains("postgresql-15") && !error.contains('\n'),
            "{error}"
        );
    }

    #[test]
    fn none_and_too_old_say_what_to_install() {
        let none = choose(Vec::new(), None).unwrap_err().to_string();
        assert!(none.contains("apt-get install postgresql"), "{none}");
        let old = choose(vec![of(13)], None).unwrap_err().to_string();
        assert!(
            old.contains("PostgreSQL 13") && old.contains("15 or newer"),
            "{old}"
        );
    }

    #[test]
    fn a_given_folder_without_postgresql_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = find(Some(folder.path()), "", None).unwrap_err().to_string();
        assert!(
            error.contains("PG_BIN") && error.contains(&*folder.path().to_string_lossy()),
            "{error}"
        );
    }
}
