//! What the pixel is told.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;
use recorder_client::{RECORDER_TOKEN, RECORDER_URL, RecorderSettings};
use service_kit::{Common, Reader, Setting};

use crate::spool::SyncPolicy;

const SPOOL_DIR: Setting = Setting::new(
    "SPOOL_DIR",
    "./data/spool",
    "Folder of the durable spool; it belongs to one pixel. What is answered is here until the recorder has it: keep it on a \
     disk that outlives the process.",
);
const SPOOL_MAX_BYTES: Setting = Setting::new(
    "SPOOL_MAX_BYTES",
    "1GiB",
    "Most bytes on disk of the spool, at least 64KiB, with KiB, MiB or GiB. A hit takes about 300; beyond the bound hits are \
     answered, lost and counted.",
);
const SPOOL_SYNC: Setting = Setting::new(
    "SPOOL_SYNC",
    "always",
    "always: what is answered survives a power cut. interval: it survives the end of the process, and a power cut takes at most \
     the last 50 ms and what was being written.",
);
const TRUSTED_PROXIES: Setting = Setting::new(
    "TRUSTED_PROXIES",
    "",
    "Networks of the reverse proxies in front, whose `X-Forwarded-For` is believed, separated by commas.",
);

/// The pixel's own settings, for the table in the documentation.
pub const SETTINGS: [Setting; 6] = [
    RECORDER_URL,
    RECORDER_TOKEN,
    SPOOL_DIR,
    SPOOL_MAX_BYTES,
    SPOOL_SYNC,
    TRUSTED_PROXIES,
];

const SYNC_INTERVAL: Duration = Duration::from_millis(50);

/// What the pixel is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What every service is told.
    pub common: Common,
    /// Where and how facts are delivered.
    pub recorder: RecorderSettings,
    /// Folder of the spool.
    pub spool_dir: PathBuf,
    /// Most bytes on disk of the spool.
    pub spool_max_bytes: u64,
    /// When a fact counts as being in the spool.
    pub spool_sync: SyncPolicy,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

impl Settings {
    /// Reads all of them; problems are kept by `reader`.
    pub fn read(reader: &mut Reader) -> Self {
        Self {
            common: Common::read(reader, 8081, 9081),
            recorder: RecorderSettings::read(reader),
            spool_dir: reader
                .path(&SPOOL_DIR)
                .unwrap_or_else(|| PathBuf::from(SPOOL_DIR.default)),
            spool_max_bytes: reader.bytes(&SPOOL_MAX_BYTES, 1 << 30, 64 << 10),
            spool_sync: reader.word(
                &SPOOL_SYNC,
                SyncPolicy::Always,
                &[
                    ("always", SyncPolicy::Always),
                    ("interval", SyncPolicy::Interval(SYNC_INTERVAL)),
                ],
            ),
            trusted_proxies: reader.networks(&TRUSTED_PROXIES, Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_have_defaults() {
        let mut reader = Reader::from_variables([("", ""); 0]);
        let settings = Settings::read(&mut reader);
        let settings = reader.finish(settings).unwrap();
        assert_eq!(
            settings.recorder.urls,
            ["http://127.0.0.1:50051".parse().unwrap()]
        );
        assert_eq!(settings.spool_dir, PathBuf::from("./data/spool"));
        assert_eq!(
            (settings.spool_max_bytes, settings.spool_sync),
            (1 << 30, SyncPolicy::Always)
        );
        assert_eq!(settings.recorder.authorization(), None);
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_is_printed() {
        let mut reader = Reader::from_variables([
            ("RECORDER_URL", "http://a:1,recorder"),
            ("RECORDER_TOKEN", "geheim\u{7}"),
            ("SPOOL_MAX_BYTES", "1KiB"),
            ("SPOOL_SYNC", "never"),
            ("TRUSTED_PROXIES", "loopback"),
        ]);
        let settings = Settings::read(&mut reader);
        let printed = format!("{settings:?} {}", reader.printable());
        let problems = reader.finish(()).unwrap_err().to_string();
        for name in [
            "RECORDER_URL",
            "RECORDER_TOKEN",
            "SPOOL_MAX_BYTES",
            "SPOOL_SYNC",
            "TRUSTED_PROXIES",
        ] {
            assert!(
                problems.lines().any(|line| line.starts_with(name)),
                "{name} in {problems}"
            );
        }
        assert!(!printed.contains("geheim") && !problems.contains("geheim"));
    }
}
