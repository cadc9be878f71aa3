//! The folder `quarantine`: copies of bytes of the spool that are no record, for whoever looks into what became of them.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    files::{Files, make_folder},
    segment::Scan,
};

/// The name of the folder within the spool's.
pub(super) const FOLDER: &str = "quarantine";

/// A copy, and how many bytes it added to the folder.
pub(super) struct Copy {
    path: PathBuf,
    pub(super) bytes: u64,
}

/// Keeps a copy of the `bad_bytes` at `offset` of the segment that `scan` reads; it is on disk when this returns.
pub(super) fn keep(
    files: &dyn Files,
    spool: &Path,
    scan: &Scan,
    first_seq: u64,
    offset: u64,
    bad_bytes: u64,
) -> io::Result<Copy> {
    let folder = spool.join(FOLDER);
    let path = folder.join(format!("{first_seq:020}-{offset}.bad"));
    make_folder(files, &folder)?;
    let bytes = match files.create(&path) {
        // Seen before this process: the same bytes are there.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => 0,
        file => {
            let file = file?;
            let copied = scan.copy_to(file.as_ref(), offset, bad_bytes)?;
            file.sync()?;
            files.sync_folder(&folder)?;
            copied
        }
    };
    Ok(Copy { path, bytes })
}

/// Where the copy is, for the log.
pub(super) fn described(copy: &io::Result<Copy>) -> String {
    match copy {
        Ok(copy) => copy.path.display().to_string(),
        Err(error) => format!("none, because {error}"),
    }
}
