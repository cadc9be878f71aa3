//! What a running server writes into its data folder about itself: `postmaster.pid`.

use std::path::{Path, PathBuf};

use rustix::process::Pid;

/// The lines of the file that matter here.
pub(crate) struct PidFile {
    /// Line 1.
    pub(crate) pid: Pid,
    /// Line 5: the folder of its socket.
    pub(crate) socket_folder: Option<PathBuf>,
    /// Line 8: whether it takes connections.
    pub(crate) ready: bool,
}

/// Reads the file in the cluster's folder; `None` where no server runs or it has only just begun to write.
pub(crate) fn read(folder: &Path) -> Option<PidFile> {
    parse(&std::fs::read_to_string(folder.join("postmaster.pid")).ok()?)
}

fn parse(text: &str) -> Option<PidFile> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let pid = Pid::from_raw(lines.first()?.parse().ok()?)?;
    let socket_folder = lines
        .get(4)
        .filter(|line| line.starts_with('/'))
        .map(PathBuf::from);
    Some(PidFile {
        pid,
        socket_folder,
        ready: lines.get(7) == Some(&"ready"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTING: &str =
        "4711\n/proc/self/fd/9\n1795430457\n5432\n/tmp/email-tracker-x\n\n 10117157  9\nstarting\n";

    #[test]
    fn the_servers_own_file_is_read() {
        let file = parse(STARTING).unwrap();
        assert_eq!(file.pid.as_raw_pid(), 4711);
        assert_eq!(file.socket_folder.unwrap(), Path::new("/tmp/email-tracker-x"));
        assert!(!file.ready);
        assert!(parse(&STARTING.replace("starting", "ready   ")).unwrap().ready);
    }

    #[test]
    fn a_file_cut_short_or_with_nonsense_is_no_running_server() {
        assert!(parse("").is_none());
        assert!(parse("0\n").is_none());
        assert!(parse("postgres\n").is_none());
        let cut = parse("4711\n").unwrap();
        assert!(cut.socket_folder.is_none() && !cut.ready);
    }
}
