//! A file system in memory that knows which bytes and which names were synced, forgets the others in a power cut, and
//! fails when told to. It can also remember itself before each of its operations, so that a test can cut the power at any
//! of them.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU64, Ordering},
    },
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
    remembered: Mutex<Option<Vec<Moment>>>,
    /// What the test wants to know of each moment.
    note: AtomicU64,
    bytes_read: AtomicU64,
    largest_read: AtomicU64,
}

#[derive(Default, Clone)]
struct Names {
    now: BTreeMap<PathBuf, Entry>,
    synced: BTreeMap<PathBuf, Entry>,
}

#[derive(Clone)]
enum Entry {
    Folder,
    File(Arc<Content>),
}

#[derive(Default)]
struct Content(Mutex<Versions>);

#[derive(Default, Clone)]
struct Versions {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// A sync has failed: the system has thrown the unsynced bytes away, and later syncs succeed without writing them.
    failed: bool,
}

/// The disk as it was before one of its operations.
pub struct Moment {
    names: BTreeMap<PathBuf, Option<Versions>>,
    /// What [`ForgetfulDisk::note`] was given last.
    pub note: u64,
}

/// What a power cut leaves of the bytes that were written and not synced. It leaves all that were synced.
#[derive(Clone, Copy, Debug)]
pub enum Left {
    /// So many bytes from the first on, of each file, that is not as it was synced.
    Tail(usize),
    /// All of them.
    Everything,
    /// Every other piece of so many bytes; what was never written reads as zeros.
    EveryOther(usize),
}

/// What goes wrong at the moment.
#[derive(Default, Clone)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "any of them may be there with any other"
)]
pub struct Faults {
    /// Syncs of files fail.
    pub sync_fails: bool,
    /// Writes fail, without a byte of them.
    pub write_fails: bool,
    /// Writes behind the end of a file find no room; half of what they wrote stays.
    pub full: bool,
    /// How many bytes files may still grow by, all together; what they are cut by comes back. Writes that find no room
    /// leave what fits.
    pub room: Option<usize>,
    /// Syncs do not return before this is taken back.
    pub sync_hangs: bool,
    /// Reads that reach beyond this offset of any file fail.
    pub unreadable_from: Option<u64>,
    /// How many syncs of files have begun.
    pub syncs_begun: u64,
    /// How many syncs there were of a file of which one had failed before.
    pub syncs_tried_again: u64,
}

impl ForgetfulDisk {
    pub fn set_faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.0.faults.lock().unwrap());
        self.0.changed.notify_all();
    }

    pub fn syncs_begun(&self) -> u64 {
        self.0.faults.lock().unwrap().syncs_begun
    }

    pub fn syncs_tried_again(&self) -> u64 {
        self.0.faults.lock().unwrap().syncs_tried_again
    }

    /// How many bytes were read so far, and how many by the largest read.
    pub fn bytes_read(&self) -> (u64, u64) {
        let (all, largest) = (&self.0.bytes_read, &self.0.largest_read);
        (all.load(Ordering::Relaxed), largest.load(Ordering::Relaxed))
    }

    /// A disk with this one file.
    pub fn with_file(path: &Path, bytes: &[u8]) -> Self {
        let versions = Versions {
            now: bytes.to_vec(),
            synced: bytes.to_vec(),
            failed: false,
        };
        let folder = path.parent().unwrap().to_owned();
        let names = BTreeMap::from([(folder, None), (path.to_owned(), Some(versions))]);
        Moment { names, note: 0 }.after_power_cut(Left::Everything)
    }

    /// From now on the disk remembers itself before each operation that changes it.
    pub fn remember(&self) {
        *self.0.remembered.lock().unwrap() = Some(Vec::new());
    }

    /// What it remembers, and how it is now.
    pub fn moments(&self) -> Vec<Moment> {
        let mut moments = self.0.remembered.lock().unwrap().take().unwrap();
        moments.push(self.moment());
        moments
    }

    /// Writes something about this moment into all moments from now on.
    pub fn note(&self, note: u64) {
        self.0.note.store(note, Ordering::SeqCst);
    }

    /// The disk as it is found after a power cut at this moment. Of what was written to a file since its sync, the
    /// first `kept_tail` bytes happen to have reached the disk.
    pub fn after_power_cut(&self, kept_tail: usize) -> Self {
        self.moment().after_power_cut(Left::Tail(kept_tail))
    }

    fn moment(&self) -> Moment {
        let names = self.0.names.lock().unwrap();
        let frozen = names.synced.iter().map(|(path, entry)| {
            let versions = match entry {
                Entry::Folder => None,
                Entry::File(content) => Some(content.0.lock().unwrap().clone()),
            };
            (path.clone(), versions)
        });
        Moment {
            names: frozen.collect(),
            note: self.0.note.load(Ordering::SeqCst),
        }
    }

    fn before_a_change(&self) {
        let mut remembered = self.0.remembered.lock().unwrap();
        if let Some(moments) = remembered.as_mut() {
            moments.push(self.moment());
        }
    }

    fn of(&self, path: &Path) -> io::Result<Arc<Content>> {
        match self.0.names.lock().unwrap().now.get(path) {
            Some(Entry::File(content)) => Ok(Arc::clone(content)),
            Some(Entry::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

impl Moment {
    /// The disk as it is found after a power cut at this moment.
    pub fn after_power_cut(&self, left: Left) -> ForgetfulDisk {
        let mut found = Names::default();
        for (path, versions) in &self.names {
            // What is in a folder of which no trace is left is gone with it.
            let parent = path.parent().filter(|parent| *parent != Path::new("/"));
            if parent.is_some_and(|parent| !found.now.contains_key(parent)) {
                continue;
            }
            let entry = versions.as_ref().map_or(Entry::Folder, |versions| {
                let bytes = left.of(versions);
                let found = Versions {
                    now: bytes.clone(),
                    synced: bytes,
                    failed: false,
                };
                Entry::File(Arc::new(Content(Mutex::new(found))))
            });
            found.now.insert(path.clone(), entry.clone());
            found.synced.insert(path.clone(), entry);
        }
        ForgetfulDisk(Arc::new(Disk {
            names: Mutex::new(found),
            ..Disk::default()
        }))
    }
}

impl Left {
    fn of(self, Versions { now, synced, .. }: &Versions) -> Vec<u8> {
        match self {
            Self::Tail(kept) => {
                let differs = now.iter().zip(synced).position(|(now, synced)| now != synced);
                let from = differs.unwrap_or(now.len().min(synced.len()));
                let to = from.saturating_add(kept).min(now.len());
                [&now[..to], synced.get(to..).unwrap_or_default()].concat()
            }
            Self::Everything => now.clone(),
            Self::EveryOther(piece) => (0..now.len().max(synced.len()))
                .map(|at| {
                    let version = if (at / piece) % 2 == 0 { now } else { synced };
                    *version.get(at).unwrap_or(&0)
                })
                .collect(),
        }
    }
}

impl Files for ForgetfulDisk {
    fn create_folder(&self, folder: &Path) -> io::Result<bool> {
        self.before_a_change();
        let mut names = self.0.names.lock().unwrap();
        let is_there = |parent: &Path| parent == Path::new("/") || names.now.contains_key(parent);
        if !folder.parent().is_some_and(is_there) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let made = !names.now.contains_key(folder);
        names.now.entry(folder.to_owned()).or_insert(Entry::Folder);
        Ok(made)
    }

    fn lock(&self, _path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        Ok(Some(Box::new(())))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(String, u64)>> {
        let names = self.0.names.lock().unwrap();
        let of_folder = names.now.iter().filter(|(path, _)| path.parent() == Some(folder));
        Ok(of_folder
            .filter_map(|(path, entry)| {
                let Entry::File(content) = entry else { return None };
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                Some((name, content.0.lock().unwrap().now.len().try_into().unwrap()))
            })
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn SpoolFile>> {
        self.before_a_change();
        let content = Arc::new(Content::default());
        let mut names = self.0.names.lock().unwrap();
        if !names.now.contains_key(path.parent().unwrap()) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if names.now.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        names
            .now
            .insert(path.to_owned(), Entry::File(Arc::clone(&content)));
        Ok(Box::new(OpenFile(self.clone(), content)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn SpoolFile>> {
        Ok(Box::new(OpenFile(self.clone(), self.of(path)?)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.before_a_change();
        let mut names = self.0.names.lock().unwrap();
        names
            .now
            .remove(path)
            .map(|_| ())
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.before_a_change();
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
        self.0.before_a_change();
        let mut faults = self.0.0.faults.lock().unwrap();
        if faults.write_fails {
            return Err(io::Error::other("a write fails"));
        }
        let mut versions = self.1.0.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let growth = (offset + bytes.len()).saturating_sub(versions.now.len());
        let mut fits = bytes.len();
        if faults.full && growth > 0 {
            fits = bytes.len() / 2;
        }
        if let Some(room) = &mut faults.room {
            fits = fits.min(bytes.len() - growth.saturating_sub(*room));
            *room = room.saturating_sub(growth);
        }
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
        let end = offset + u64::try_from(buffer.len()).unwrap();
        let unreadable_from = self.0.0.faults.lock().unwrap().unreadable_from;
        let versions = self.1.0.lock().unwrap();
        let rest = versions
            .now
            .get(usize::try_from(offset).unwrap()..)
            .unwrap_or_default();
        if unreadable_from.is_some_and(|from| end > from && !rest.is_empty()) {
            return Err(io::Error::other("an injected failure of a read"));
        }
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        let bytes = u64::try_from(read).unwrap();
        self.0.0.bytes_read.fetch_add(bytes, Ordering::Relaxed);
        self.0.0.largest_read.fetch_max(bytes, Ordering::Relaxed);
        Ok(read)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.before_a_change();
        let mut faults = self.0.0.faults.lock().unwrap();
        let mut versions = self.1.0.lock().unwrap();
        let length = usize::try_from(length).unwrap();
        if let Some(room) = &mut faults.room {
            *room += versions.now.len().saturating_sub(length);
        }
        versions.now.resize(length, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.before_a_change();
        let mut faults = self.0.0.faults.lock().unwrap();
        faults.syncs_begun += 1;
        while faults.sync_hangs {
            faults = self.0.0.changed.wait(faults).unwrap();
        }
        let mut versions = self.1.0.lock().unwrap();
        if versions.failed {
            faults.syncs_tried_again += 1;
            return Ok(());
        }
        if faults.sync_fails {
            versions.failed = true;
            return Err(io::Error::other("an injected failure of a sync"));
        }
        let written = versions.now.clone();
        versions.synced = written;
        Ok(())
    }
}
