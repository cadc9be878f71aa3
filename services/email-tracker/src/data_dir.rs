//! `DATA_DIR`: everything that outlives one run of `up`, used by one run at a time.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{TryRng as _, rngs::SysRng};

/// The data folder, locked for as long as this value lives.
pub(crate) struct DataDir {
    path: PathBuf,
    /// The kernel gives the lock back when the process ends, however it ends.
    _lock: File,
}

impl DataDir {
    /// Makes the folder if it is not there and locks it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("DATA_DIR={}: cannot make the folder", path.display()))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("DATA_DIR={}", path.display()))?;
        let lock = lock(&path)?;
        Ok(Self { path, _lock: lock })
    }

    /// The folder, as an absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The dashboard token of this folder: made at the first run, kept in `dashboard-token`.
    pub(crate) fn dashboard_token(&self) -> anyhow::Result<String> {
        let file = self.path.join("dashboard-token");
        match std::fs::read_to_string(&file) {
            Ok(token) if token.trim().is_empty() => {
                bail!("{} is empty: delete it to have a new token made", file.display())
            }
            Ok(token) => {
                std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600))
                    .with_context(|| format!("cannot make {} private", file.display()))?;
                Ok(token.trim().to_owned())
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let token = random_token()?;
                keep_private(&file, &token).with_context(|| format!("cannot write {}", file.display()))?;
                Ok(token)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }
}

/// 256 random bits from the system, in letters that need no quoting in a URL, a header or a shell.
pub(crate) fn random_token() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 32];
    SysRng
        .try_fill_bytes(&mut bytes)
        .context("the system gives no random numbers")?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join("lock");
    let mut file = OpenOptions::new()
        .create(true)
        .read(true)
        .write(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("DATA_DIR={}: cannot write there", folder.display()))?;
    match file.try_lock() {
        Ok(()) => {
            let written = file
                .set_len(0)
                .and_then(|()| writeln!(file, "{}", std::process::id()));
            written.with_context(|| format!("DATA_DIR={}: cannot write there", folder.display()))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            // Between its lock and its first write the owner has no number yet.
            let _ = file.read_to_string(&mut owner);
            let owner = owner.trim();
            bail!(
                "DATA_DIR={} is in use by another `email-tracker up`{}: stop that one first, or set another DATA_DIR",
                folder.display(),
                if owner.is_empty() {
                    String::new()
                } else {
                    format!(" (process {owner})")
                }
            )
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("DATA_DIR={}: cannot lock it", folder.display()))
        }
    }
}

/// Writes a secret so that its file is there complete, on disk and private, or not at all.
fn keep_private(file: &Path, secret: &str) -> std::io::Result<()> {
    let unfinished = file.with_extension("unfinished");
    let mut writer = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    writeln!(writer, "{secret}")?;
    writer.sync_all()?;
    std::fs::rename(&unfinished, file)?;
    match file.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_made_once_and_private() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(&folder.path().join("data")).unwrap();
        let token = data.dashboard_token().unwrap();
        assert_eq!(token.len(), 43);
        let file = data.path().join("dashboard-token");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);

        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(data.dashboard_token().unwrap(), token);
        assert_eq!(
            file.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "tightened again"
        );
    }

    #[test]
    fn an_empty_token_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::open(folder.path()).unwrap();
        std::fs::write(folder.path().join("dashboard-token"), "\n").unwrap();
        assert!(
            data.dashboard_token()
                .unwrap_err()
                .to_string()
                .contains("dashboard-token is empty")
        );
    }

    #[test]
    fn a_second_user_is_told_who_has_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let first = DataDir::open(folder.path()).unwrap();
        let error = DataDir::open(folder.path()).err().unwrap().to_string();
        assert!(
            error.contains(&format!("process {}", std::process::id())),
            "{error}"
        );
        drop(first);
        DataDir::open(folder.path()).unwrap();
    }
}
