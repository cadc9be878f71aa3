//! A small disk of a spool's own, which can be filled.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// A file system in memory, mounted where only this suite sees it.
pub(crate) struct Disk {
    folder: PathBuf,
}

impl Disk {
    /// Mounts one. Needs root and a mount namespace of one's own, see [`super::run`].
    pub(crate) fn mount(folder: &Path) -> Self {
        fs::create_dir_all(folder).expect("a folder to mount on");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs"])
            .arg(folder)
            .status()
            .expect("running mount");
        assert!(mounted.success(), "cannot mount a disk at {}", folder.display());
        Self {
            folder: folder.to_owned(),
        }
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) {
        let mut file = fs::File::create(self.filler()).expect("a file on the disk");
        let zeros = [0; 4096];
        while file.write_all(&zeros).is_ok() {}
    }

    /// Takes the filler away again.
    pub(crate) fn clear(&self) {
        fs::remove_file(self.filler()).expect("removing the filler");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}
