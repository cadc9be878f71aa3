//! What PostgreSQL itself says: one file of bounded size and the one before it.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

/// Beyond this the file is set aside as `….1` and begins anew.
const LONGEST: u64 = 8 * 1024 * 1024;
/// How far back a reason is looked for.
const LAST_WORDS: u64 = 4096;

/// The log file of the private server.
pub(crate) struct ServerLog {
    path: PathBuf,
}

impl ServerLog {
    /// The log at `path`, which need not exist.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The file to append to; the server keeps it open, even after this process is gone.
    pub(crate) fn open(&self) -> std::io::Result<File> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&self.path)
    }

    /// Sets a file that grew too long aside. The server goes on writing to the same file, so that is copied and
    /// emptied, not renamed; a line written between the two is lost.
    pub(crate) fn keep_short(&self) {
        if let Err(error) = self.cut() {
            tracing::warn!(%error, "cannot keep {} short", self.path.display());
        }
    }

    fn cut(&self) -> std::io::Result<()> {
        match self.path.metadata() {
            Ok(metadata) if metadata.len() > LONGEST => {
                std::fs::copy(&self.path, self.path.with_extension("log.1"))?;
                OpenOptions::new().write(true).open(&self.path)?.set_len(0)
            }
            Ok(_) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The server's last complaint, or where to look for it.
    pub(crate) fn last_words(&self) -> String {
        let complaint = self.tail().ok().and_then(|tail| {
            let lines: Vec<&str> = tail.lines().collect();
            let complaint = lines
                .iter()
                .rfind(|line| ["FATAL:", "PANIC:"].iter().any(|word| line.contains(word)));
            complaint.or(lines.last()).map(|line| (*line).to_owned())
        });
        complaint.unwrap_or_else(|| format!("see {}", self.path.display()))
    }

    fn tail(&self) -> std::io::Result<String> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS)))?;
        let mut bytes = Vec::new();
        file.take(LAST_WORDS).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_long_log_is_set_aside_while_its_writer_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let log = ServerLog::new(folder.path().join("postgres.log"));
        let mut writer = log.open().unwrap();
        writer.set_len(LONGEST).unwrap();
        log.keep_short();
        assert!(
            !folder.path().join("postgres.log.1").exists(),
            "it was not too long yet"
        );
        writer.write_all(b"x\n").unwrap();
        log.keep_short();
        writer.write_all(b"after\n").unwrap();
        assert_eq!(
            std::fs::read(folder.path().join("postgres.log")).unwrap(),
            b"after\n"
        );
        assert_eq!(
            folder.path().join("postgres.log.1").metadata().unwrap().len(),
            LONGEST + 2
        );
    }

    #[test]
    fn the_reason_is_the_last_fatal_line() {
        let folder = tempfile::tempdir().unwrap();
        let log = ServerLog::new(folder.path().join("postgres.log"));
        assert!(log.last_words().contains("postgres.log"));
        let mut writer = log.open().unwrap();
        writer
            .write_all(b"LOG:  starting\nFATAL:  no space\nLOG:  database system is shut down\n")
            .unwrap();
        assert_eq!(log.last_words(), "FATAL:  no space");
    }
}
