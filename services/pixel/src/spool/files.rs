//! The few things the spool asks of a file system, behind a trait, so that tests can forget what was not synced and fail
//! what they like.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::Path,
};

/// A folder's files, as the spool uses them. [`DiskFiles`] is the real one.
pub trait Files: Send + Sync + 'static {
    /// Makes `folder` below a parent that is there, for its owner alone: facts are personal data. False if it was there.
    fn create_folder(&self, folder: &Path) -> io::Result<bool>;
    /// Takes the folder for this process until the returned guard is dropped or the process dies, however it dies.
    /// `Ok(None)` if another process has it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>>;
    /// The files in `folder` by name with their length in bytes; empty if there is no such folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<(String, u64)>>;
    /// Creates a file that must not exist yet, to write and read it.
    fn create(&self, path: &Path) -> io::Result<Box<dyn SpoolFile>>;
    /// Opens a file that exists, to write and read it.
    fn open(&self, path: &Path) -> io::Result<Box<dyn SpoolFile>>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Returns when the files and folders created in and removed from `folder` will still be so after a power cut.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// An open file.
pub trait SpoolFile: Send + Sync {
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Reads up to a buffer's length at `offset`; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Cuts the file to `length` bytes.
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Returns when what was written will still be there after a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// Makes `folder` and what is missing above it. What this made will still be there after a power cut, and so will what
/// somebody made who was killed before that was certain.
pub(super) fn make_folder(files: &dyn Files, folder: &Path) -> io::Result<()> {
    let parent = match folder.parent() {
        None => return Ok(()),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    let made = match files.create_folder(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folder(files, parent)?;
            files.create_folder(folder)?
        }
        made => made?,
    };
    match files.sync_folder(parent) {
        // Somebody else made it, who may keep this account from reading the folder above.
        Err(error) if !made => {
            tracing::debug!(folder = %folder.display(), %error, "cannot sync the folder above");
            Ok(())
        }
        synced => synced,
    }
}

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFiles;

impl Files for DiskFiles {
    fn create_folder(&self, folder: &Path) -> io::Result<bool> {
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(false),
            created => created.map(|()| true),
        }
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(String, u64)>> {
        let entries = match fs::read_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if metadata.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                files.push((name, metadata.len()));
            }
        }
        Ok(files)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn SpoolFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SpoolFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        fs::File::open(folder)?.sync_all()
    }
}

impl SpoolFile for fs::File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match FileExt::read_at(self, buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        fs::File::set_len(self, length)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
