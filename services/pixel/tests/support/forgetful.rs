//! A file system in memory that knows which bytes and which names were synced, forgets the others in a power cut, and
//! fails when told to.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
};

use ::pixel::spool::files::{Files, SpoolFile};

/// The disk; clones are the same one.
#[derive(Clone, Default)]
pub struct ForgetfulDisk(Arc<Disk>);

#[derive(Default)]
struct Disk {
    names: Mutex<Names>,
    faults: Mutex<Faults>,
    changed: Condvar,
}

#[derive(Default)]
struct Names {
    now: BTreeMap<PathBuf, Arc<Content>>,
    synced: BTreeMap<PathBuf, Arc<Content>>,
}

#[derive(Default)]
struct Content(Mutex<Versions>);

#[derive(Default, Clone)]
struct Versions {
    now: Vec<u8>,
    synced: Vec<u8>,
}

/// What goes wrong at the moment.
#[derive(Default, Clone)]
pub struct Faults {
    /// Syncs of files fail.
    pub sync_fails: bool,
    /// Writes behind the end of a file find no room; half of what they wrote stays.
    pub full: bool,
    /// Syncs do not return before this is taken back.
    pub sync_hangs: bool,
    /// How many syncs have begun.
    pub syncs_begun: u64,
}

impl ForgetfulDisk {
    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.0.faults.lock().unwrap());
        self.0.changed.notify_all();
    }

    pub fn syncs_begun(&self) -> u64 {
        self.0.faults.lock().unwrap().syncs_begun
    }

    /// The disk as it is found after a power cut. Of what was written to a file behind its synced end, `kept_tail` bytes
    /// happen to have reached the disk.
    pub fn after_power_cut(&self, kept_tail: usize) -> Self {
        let names = self.0.names.lock().unwrap();
        let found: BTreeMap<PathBuf, Arc<Content>> = names
            .synced
            .iter()
            .map(|(path, content)| {
                let versions = content.0.lock().unwrap().clone();
                let mut bytes = versions.synced;
                if let Some(tail) = versions.now.get(bytes.len()..) {
                    bytes.extend_from_slice(&tail[..kept_tail.min(tail.len())]);
                }
                let found = Versions {
                    now: bytes.clone(),
                    synced: bytes,
                };
                (path.clone(), Arc::new(Content(Mutex::new(found))))
            })
            .collect();
        let disk = Disk {
            names: Mutex::new(Names {
                now: found.clone(),
                synced: found,
            }),
            ..Disk::default()
        };
        Self(Arc::new(disk))
    }

    fn of(&self, path: &Path) -> io::Result<Arc<Content>> {
        let names = self.0.names.lock().unwrap();
        names
            .now
            .get(path)
            .cloned()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Files for ForgetfulDisk {
    fn create_folder(&self, _folder: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        Ok(Some(Box::new(())))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(String, u64)>> {
        let names = self.0.names.lock().unwrap();
        let of_folder = names.now.iter().filter(|(path, _)| path.parent() == Some(folder));
        Ok(of_folder
            .map(|(path, content)| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                (name, content.0.lock().unwrap().now.len().try_into().unwrap())
            })
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn SpoolFile>> {
        let content = Arc::new(Content::default());
        let mut names = self.0.names.lock().unwrap();
        if names.now.insert(path.to_owned(), Arc::clone(&content)).is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        Ok(Box::new(OpenFile(self.clone(), content)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SpoolFile>> {
        Ok(Box::new(OpenFile(self.clone(), self.of(path)?)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut names = self.0.names.lock().unwrap();
        names
            .now
            .remove(path)
            .map(|_| ())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut names = self.0.names.lock().unwrap();
        let of_folder = |path: &Path| path.parent() == Some(folder);
        names.synced.retain(|path, _| !of_folder(path));
        let now = names.now.clone();
        names
            .synced
            .extend(now.into_iter().filter(|(path, _)| of_folder(path)));
        Ok(())
    }
}

struct OpenFile(ForgetfulDisk, Arc<Content>);

impl SpoolFile for OpenFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let full = self.0.0.faults.lock().unwrap().full;
        let mut versions = self.1.0.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let end = offset + bytes.len();
        let fits = if full && end > versions.now.len() {
            bytes.len() / 2
        } else {
            bytes.len()
        };
        if versions.now.len() < offset + fits {
            versions.now.resize(offset + fits, 0);
        }
        versions.now[offset..offset + fits].copy_from_slice(&bytes[..fits]);
        if fits < bytes.len() {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let versions = self.1.0.lock().unwrap();
        let rest = versions
            .now
            .get(usize::try_from(offset).unwrap()..)
            .unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.1
            .0
            .lock()
            .unwrap()
            .now
            .resize(usize::try_from(length).unwrap(), 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut faults = self.0.0.faults.lock().unwrap();
        faults.syncs_begun += 1;
        while faults.sync_hangs {
            faults = self.0.0.changed.wait(faults).unwrap();
        }
        if faults.sync_fails {
            return Err(io::Error::other("an injected failure of a sync"));
        }
        let mut versions = self.1.0.lock().unwrap();
        let written = versions.now.clone();
        versions.synced = written;
        Ok(())
    }
}
