//! The folder of backups. Each is three files: `NAME.dump`, what is in it as `NAME.dump.json`, and the checksums of both
//! as `NAME.dump.sha256`, which comes last: a backup with that file is complete. `sha256sum -c` reads it as well.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tracking::Timestamp;

const PREFIX: &str = "email-tracker-";
const SUFFIX: &str = ".dump";
const UNFINISHED: &str = ".unfinished";

/// What a backup holds, taken in the snapshot of its dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    #[serde(with = "iso")]
    pub(crate) created_at: Timestamp,
    /// The version that made it.
    pub(crate) email_tracker: String,
    pub(crate) schema_version: i32,
    /// The server's version.
    pub(crate) postgres: String,
    /// The major version of `pg_dump`: an older `pg_restore` may be unable to read the file.
    pub(crate) pg_dump: u32,
    #[serde(flatten)]
    pub(crate) counts: Counts,
}

/// Rows of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) emails: i64,
    pub(crate) hits: i64,
    pub(crate) marks: i64,
}

impl Counts {
    pub(super) fn is_nothing(self) -> bool {
        (self.emails, self.hits, self.marks) == (0, 0, 0)
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { emails, hits, marks } = self.counts;
        write!(
            formatter,
            "{emails} emails, {hits} hits and {marks} marks as of {}",
            self.created_at
        )
    }
}

mod iso {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use tracking::Timestamp;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    pub(super) fn serialize<S: Serializer>(at: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(at)
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(from)?;
        Timestamp::parse_iso(&text).ok_or_else(|| D::Error::custom("no ISO time"))
    }
}

/// A backup with all of its files.
#[derive(Clone, Debug)]
pub(crate) struct Complete {
    pub(crate) path: PathBuf,
    pub(crate) manifest: Manifest,
    /// Bytes of the dump.
    pub(crate) bytes: u64,
}

impl Complete {
    /// The backup whose dump is at `path`, every byte of it compared with its checksums.
    pub(crate) fn checked(path: &Path) -> anyhow::Result<Self> {
        let sums_path = beside(path, ".sha256");
        let sums = fs::read_to_string(&sums_path).with_context(|| {
            format!(
                "{}: its checksums are missing ({}): a backup is three files, NAME.dump, .json and .sha256",
                path.display(),
                sums_path.display()
            )
        })?;
        for file in [path.to_owned(), beside(path, ".json")] {
            let actual = checksum(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let name = file_name(&file);
            let expected = sums
                .lines()
                .filter_map(|line| line.split_once("  "))
                .find(|(_, of)| *of == name)
                .map(|(sum, _)| sum);
            if expected != Some(&*actual) {
                bail!(
                    "{} is not what was backed up: its checksum differs; take another backup",
                    file.display()
                );
            }
        }
        Self::read(path)
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let manifest = beside(path, ".json");
        let text = fs::read(&manifest).with_context(|| format!("cannot read {}", manifest.display()))?;
        Ok(Self {
            path: path.to_owned(),
            manifest: serde_json::from_slice(&text)
                .with_context(|| format!("{} is not understood", manifest.display()))?,
            bytes: path.metadata()?.len(),
        })
    }

    /// How long ago it was made.
    pub(crate) fn age(&self, now: Timestamp) -> Duration {
        let millis = now.millis_since(self.manifest.created_at);
        Duration::from_millis(u64::try_from(millis).unwrap_or_default())
    }
}

/// A folder of backups.
pub(crate) struct Folder {
    path: PathBuf,
    /// Of the one who writes there.
    _lock: Option<File>,
}

impl Folder {
    /// To look only.
    pub(crate) fn look_into(path: &Path) -> anyhow::Result<Self> {
        let path = path
            .canonicalize()
            .with_context(|| format!("there is no folder {}", path.display()))?;
        Ok(Self { path, _lock: None })
    }

    /// To write: makes the folder, private, if it is not there, and clears away what an earlier backup left unfinished.
    pub(super) fn lock(path: &Path) -> anyhow::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot make the folder {}", path.display()))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("cannot use {}", path.display()))?;
        let lock = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(".lock"))
            .with_context(|| format!("cannot write into {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another backup is being made in {}", path.display()),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        let folder = Self {
            path,
            _lock: Some(lock),
        };
        for name in folder.names()? {
            if name.starts_with(PREFIX) && name.ends_with(UNFINISHED) {
                folder.remove(&name)?;
            }
        }
        Ok(folder)
    }

    fn names(&self) -> anyhow::Result<Vec<String>> {
        let context = || format!("cannot read the folder {}", self.path.display());
        let mut names = Vec::new();
        for entry in self.path.read_dir().with_context(context)? {
            let name = entry.with_context(context)?.file_name();
            names.extend(name.into_string()); // ours are all text
        }
        names.sort();
        Ok(names)
    }

    /// Names of the dumps of complete backups, oldest first.
    fn complete(&self) -> anyhow::Result<Vec<String>> {
        let names = self.names()?;
        let is_there = |name: &String| names.binary_search(name).is_ok();
        Ok(names
            .iter()
            .filter(|name| time_of(name).is_some())
            .filter(|name| is_there(&format!("{name}.sha256")) && is_there(&format!("{name}.json")))
            .cloned()
            .collect())
    }

    /// The newest complete backup.
    pub(crate) fn newest(&self) -> anyhow::Result<Option<Complete>> {
        let newest = self.complete()?.pop();
        newest
            .map(|name| Complete::read(&self.path.join(name)))
            .transpose()
    }

    /// Begins a backup.
    pub(super) fn begin(&self, at: Timestamp) -> anyhow::Result<NewBackup<'_>> {
        let name = name_at(at);
        let unfinished = self.path.join(format!("{name}{UNFINISHED}"));
        OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&unfinished)
            .with_context(|| format!("cannot make {}", unfinished.display()))?;
        Ok(NewBackup {
            folder: self,
            name,
            unfinished,
        })
    }

    /// Removes the complete backups that are too many or too old at `now`. The newest always stays.
    pub(super) fn prune(
        &self,
        keep: usize,
        keep_for: Option<Duration>,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let complete = self.complete()?;
        let oldest = keep_for
            .and_then(|age| i64::try_from(age.as_millis()).ok())
            .map(|age| now.saturating_add_millis(-age));
        for (newer, name) in complete.iter().rev().enumerate() {
            let too_old = oldest.is_some_and(|oldest| time_of(name).is_some_and(|at| at < oldest));
            if newer > 0 && (newer >= keep || too_old) {
                // The checksums go last: without its dump they are nothing, and the next time finds them.
                for suffix in ["", ".json", ".sha256"] {
                    self.remove(&format!("{name}{suffix}"))?;
                }
            }
        }
        for name in self.names()? {
            let dump = name
                .strip_suffix(".sha256")
                .filter(|dump| time_of(dump).is_some());
            if dump.is_some_and(|dump| !self.path.join(dump).exists()) {
                self.remove(&name)?;
            }
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// A backup that is being made.
pub(super) struct NewBackup<'a> {
    folder: &'a Folder,
    name: String,
    unfinished: PathBuf,
}

impl NewBackup<'_> {
    /// Where the dump is to be written.
    pub(super) fn path(&self) -> &Path {
        &self.unfinished
    }

    /// Puts it in its place once all of it is on disk.
    pub(super) async fn complete(self, manifest: Manifest) -> anyhow::Result<Complete> {
        let context = format!("cannot complete {}", self.unfinished.display());
        let (folder, name) = (self.folder.path.clone(), self.name.clone());
        let unfinished = self.unfinished.clone();
        // A dump of many gigabytes is read once more and synced: that blocks.
        let done =
            tokio::task::spawn_blocking(move || put_in_place(&folder, &name, &unfinished, &manifest)).await;
        done.context("a thread panicked")?.context(context)
    }
}

impl Drop for NewBackup<'_> {
    fn drop(&mut self) {
        // Nothing is left of one that failed; if even that fails, the next backup clears it away.
        let _ = fs::remove_file(&self.unfinished);
    }
}

fn put_in_place(
    folder: &Path,
    name: &str,
    unfinished: &Path,
    manifest: &Manifest,
) -> anyhow::Result<Complete> {
    let sum = checksum(unfinished)?;
    File::open(unfinished)?.sync_all()?;
    fs::set_permissions(unfinished, fs::Permissions::from_mode(0o600))?;
    let dump = folder.join(name);
    let mut json = serde_json::to_vec_pretty(manifest)?;
    json.push(b'\n');
    fs::rename(unfinished, &dump)?;
    write_synced(&beside(&dump, ".json"), &json)?;
    let sums = format!("{sum}  {name}\n{}  {name}.json\n", hex(&Sha256::digest(&json)));
    File::open(folder)?.sync_all()?;
    write_synced(&beside(&dump, ".sha256"), sums.as_bytes())?;
    File::open(folder)?.sync_all()?;
    Complete::read(&dump)
}

/// Writes a file beside its name and renames it, so that it is there complete or not at all.
pub(super) fn write_synced(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let unfinished = beside(path, UNFINISHED);
    let mut file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&unfinished)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

fn checksum(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut piece)?;
        match piece.get(..read) {
            Some(bytes) if read > 0 => hasher.update(bytes),
            _ => return Ok(hex(&hasher.finalize())),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        use fmt::Write as _;
        // A string takes everything.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// For example `email-tracker-20261123T143719250Z.dump`: sorted by name is sorted by time.
fn name_at(at: Timestamp) -> String {
    let compact: String = at
        .to_string()
        .chars()
        .filter(|character| !"-:.".contains(*character))
        .collect();
    format!("{PREFIX}{compact}{SUFFIX}")
}

/// The time in the name of a dump of ours.
fn time_of(name: &str) -> Option<Timestamp> {
    let compact = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let part = |from: usize, to: usize| compact.get(from..to);
    let text = format!(
        "{}-{}-{}{}:{}:{}.{}",
        part(0, 4)?,
        part(4, 6)?,
        part(6, 8)?,
        part(8, 11)?,
        part(11, 13)?,
        part(13, 15)?,
        compact.get(15..)?
    );
    let at = Timestamp::parse_iso(&text)?;
    (name_at(at) == name).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse_iso(text).unwrap()
    }

    fn days(count: i64) -> Timestamp {
        at("2026-03-01T09:30:00.250Z").saturating_add_millis(count * 86_400_000)
    }

    async fn backup(folder: &Folder, created_at: Timestamp) -> Complete {
        let new = folder.begin(created_at).unwrap();
        fs::write(new.path(), "a dump").unwrap();
        let manifest = Manifest {
            created_at,
            email_tracker: "0".to_owned(),
            schema_version: 1,
            postgres: "18.1".to_owned(),
            pg_dump: 18,
            counts: Counts {
                emails: 1,
                hits: 2,
                marks: 3,
            },
        };
        new.complete(manifest).await.unwrap()
    }

    #[test]
    fn a_name_says_when() {
        let name = name_at(days(0));
        assert_eq!(name, "email-tracker-20260301T093000250Z.dump");
        assert_eq!(time_of(&name), Some(days(0)));
        for stranger in [
            "email-tracker-20260301T093000250Z.dump.json",
            "email-tracker-2026.dump",
            "email-tracker-20260301T093000250Zé.dump",
            "mine.dump",
        ] {
            assert_eq!(time_of(stranger), None, "{stranger}");
        }
    }

    #[tokio::test]
    async fn a_backup_is_private_complete_and_what_sha256sum_checks() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("new");
        let folder = Folder::lock(&path).unwrap();
        let made = backup(&folder, days(0)).await;
        assert_eq!(Complete::checked(&made.path).unwrap().manifest, made.manifest);
        assert_eq!(made.path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let checked = std::process::Command::new("sha256sum")
            .arg("-c")
            .arg(file_name(&beside(&made.path, ".sha256")))
            .current_dir(&path)
            .output()
            .unwrap();
        assert!(checked.status.success(), "{checked:?}");
    }

    #[tokio::test]
    async fn too_many_and_too_old_ones_leave_but_never_the_newest() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::lock(parent.path()).unwrap();
        for day in 0..6 {
            backup(&folder, days(day)).await;
        }
        fs::write(parent.path().join("mine.dump"), "x").unwrap();
        let left = || folder.complete().unwrap().len();
        folder.prune(5, None, days(6)).unwrap();
        assert_eq!(left(), 5);
        folder.prune(5, Some(Duration::from_hours(72)), days(6)).unwrap();
        assert_eq!(left(), 3, "of the days 3, 4 and 5");
        folder
            .prune(5, Some(Duration::from_hours(24)), days(100))
            .unwrap();
        assert_eq!(folder.newest().unwrap().unwrap().manifest.created_at, days(5));
        assert_eq!(left(), 1);
        let mut names = folder.names().unwrap();
        names.retain(|name| !name.starts_with(PREFIX));
        assert_eq!(names, [".lock", "mine.dump"]);
    }

    #[tokio::test]
    async fn what_is_unfinished_is_no_backup_and_is_cleared_away() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::lock(parent.path()).unwrap();
        let good = backup(&folder, days(0)).await;
        // Killed in the middle of the dump, and between dump and checksums.
        fs::write(parent.path().join(name_at(days(1)) + UNFINISHED), "half").unwrap();
        fs::write(parent.path().join(name_at(days(2))), "no checksums").unwrap();
        assert!(Folder::lock(parent.path()).is_err(), "one at a time");
        drop(folder);
        let folder = Folder::lock(parent.path()).unwrap();
        assert!(!parent.path().join(name_at(days(1)) + UNFINISHED).exists());
        folder.prune(1, None, days(3)).unwrap();
        assert_eq!(folder.newest().unwrap().unwrap().path, good.path);
        let error = Complete::checked(&parent.path().join(name_at(days(2)))).unwrap_err();
        assert!(error.to_string().contains("checksums are missing"), "{error}");
    }

    #[tokio::test]
    async fn a_flipped_byte_is_noticed_in_each_file() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::lock(parent.path()).unwrap();
        let made = backup(&folder, days(0)).await;
        for file in [made.path.clone(), beside(&made.path, ".json")] {
            let good = fs::read(&file).unwrap();
            let mut bad = good.clone();
            bad[2] ^= 1;
            fs::write(&file, bad).unwrap();
            let error = Complete::checked(&made.path).unwrap_err().to_string();
            assert!(error.contains("its checksum differs"), "{error}");
            fs::write(&file, good).unwrap();
        }
        Complete::checked(&made.path).unwrap();
    }
}
