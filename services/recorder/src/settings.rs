//! What the operator sets.

use std::{collections::BTreeSet, num::NonZeroUsize, path::Path};

use database::{Config, Session};
use service_kit::{Common, Reader, Secret, Setting};
use tracking::{Rules, agents::Agents};

use crate::geo::GeoDatabase;
use crate::webhooks::{self, Webhooks};

const DATABASE_URL: Setting = Setting::secret(
    "DATABASE_URL",
    "",
    "PostgreSQL to record into, `postgres://email_tracker_recorder@HOST:PORT/email_tracker?sslmode=…`; \
     `pooling=transaction` if it leads through PgBouncer. Required.",
);
const DATABASE_PASSWORD: Setting = Setting::secret(
    "DATABASE_PASSWORD",
    "",
    "Its password, apart from the URL, where `@`, `:` and `/` would have to be percent-encoded.",
);
const RECORDER_TOKEN: Setting = Setting::secret(
    "RECORDER_TOKEN",
    "",
    "What pixels and dashboards must say to be let in; required unless the recorder listens on loopback alone.",
);
const RECORDER_TOKEN_PREVIOUS: Setting = Setting::secret(
    "RECORDER_TOKEN_PREVIOUS",
    "",
    "Accepted as well, while pixels and dashboards are given a new `RECORDER_TOKEN`.",
);
const RECORDER_WORKERS: Setting = Setting::new(
    "RECORDER_WORKERS",
    "2",
    "Transactions at once, each on a connection of its own, 1 to 64.",
);
const DEDUP_WINDOW_MS: Setting = Setting::new(
    "DEDUP_WINDOW_MS",
    "30000",
    "Milliseconds, 0 to 86400000, within which a hit repeats an earlier one of the same reader. A change applies to facts \
     recorded from then on.",
);
const COMPOSE_WINDOW_HOSTS: Setting = Setting::new(
    "COMPOSE_WINDOW_HOSTS",
    "mail.google.com",
    "Hosts, separated by commas, whose pages load a pixel because the sender writes the mail there.",
);
const RETENTION_DAYS: Setting = Setting::new(
    "RETENTION_DAYS",
    "",
    "Days, 1 to 36500, after which a hit is too old to be recorded, and after whose month it is removed; unset: never.",
);
const KEEP_COUNTS: Setting = Setting::new(
    "KEEP_COUNTS",
    "false",
    "`true`: an email whose hits are all removed by `RETENTION_DAYS` stays listed with its counts; `false`: it leaves too.",
);
const ANONYMIZE_DAYS: Setting = Setting::new(
    "ANONYMIZE_DAYS",
    "",
    "Days, 1 to 36500, after which client addresses are shortened, IPv4 to 24 bits and IPv6 to 48; unset: never.",
);
const GEOIP_DATABASE: Setting = Setting::new(
    "GEOIP_DATABASE",
    "the countries shipped with it",
    "A MaxMind DB (`.mmdb`) file of cities or countries, taken over anew when it is replaced; `off`: places stay unknown.",
);

/// Whose networks tell agents, where the operator says.
pub const AGENT_NETWORKS: Setting = Setting::new(
    "AGENT_NETWORKS",
    "",
    "A file that says whose networks tell who fetches pixels, in the place of the built-in list; its form is that of \
     crates/tracking/data/networks.tsv.",
);

const BURST_MAILS: Setting = Setting::new(
    "BURST_MAILS",
    "10",
    "Of how many mails one address has to fetch the pixels within ten seconds to be taken for a machine, 2 to 10000; \
     0: it never is for that.",
);

/// The recorder's own settings, for the table in the documentation.
pub const SETTINGS: [Setting; 15] = [
    DATABASE_URL,
    DATABASE_PASSWORD,
    RECORDER_TOKEN,
    RECORDER_TOKEN_PREVIOUS,
    RECORDER_WORKERS,
    DEDUP_WINDOW_MS,
    COMPOSE_WINDOW_HOSTS,
    RETENTION_DAYS,
    KEEP_COUNTS,
    ANONYMIZE_DAYS,
    GEOIP_DATABASE,
    AGENT_NETWORKS,
    BURST_MAILS,
    webhooks::SETTINGS[0],
    webhooks::SETTINGS[1],
];

/// More than this and every hit of a day would be one reader's.
const MAX_DEDUP_WINDOW_MS: i64 = 24 * 60 * 60 * 1_000;
/// No statement of a batch takes nearly as long, unless it waits for a lock that somebody keeps.
const STATEMENT_TIMEOUT: &str = "30s";
/// A recorder that stands still in a transaction would keep its emails from all others.
const IDLE_IN_TRANSACTION_TIMEOUT: &str = "15s";
/// Connections more than workers, so that readiness, upkeep and what users ask never wait for a batch.
const SPARE_CONNECTIONS: usize = 3;

/// What the recorder goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What every service is told.
    pub common: Common,
    /// Where to record; `None` only in settings that were refused.
    pub database: Option<Config>,
    /// What callers must say, one of these; none of them lets everyone in, on loopback.
    pub tokens: Vec<Secret>,
    /// Transactions at once.
    pub workers: NonZeroUsize,
    /// What counts.
    pub rules: Rules,
    /// Days after which a fact is refused as expired.
    pub retention_days: Option<u32>,
    /// Whether an email stays when all its hits are gone.
    pub keep_counts: bool,
    /// Days after which addresses are shortened.
    pub anonymize_days: Option<u32>,
    /// Where addresses are.
    pub geoip_database: GeoDatabase,
    /// Whom to tell of opens.
    pub webhooks: Webhooks,
}

impl Settings {
    /// Reads them all; `reader` keeps what is wrong.
    pub fn read(reader: &mut Reader) -> Self {
        let common = Common::read(reader, 50_051, 9_083);
        let token = reader.secret(&RECORDER_TOKEN);
        let previous = reader.secret(&RECORDER_TOKEN_PREVIOUS);
        if token.is_none() && previous.is_some() {
            reader.refuse(
                &RECORDER_TOKEN_PREVIOUS,
                "set without RECORDER_TOKEN, the one that is to follow it",
            );
        }
        if token.is_none() && !common.listen.ip().is_loopback() {
            reader.refuse(
                &RECORDER_TOKEN,
                format_args!(
                    "missing; without it the recorder listens on loopback alone, and LISTEN is {}",
                    common.listen.ip()
                ),
            );
        }
        let defaults = Rules::default();
        let workers = reader.number(&RECORDER_WORKERS, 2_usize, 1, 64);
        let webhooks = Webhooks::read(reader);
        Self {
            database: read_database(reader, workers + webhooks.connections()),
            tokens: token.into_iter().chain(previous).collect(),
            workers: NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN),
            rules: Rules {
                dedup_window_ms: reader.number(
                    &DEDUP_WINDOW_MS,
                    defaults.dedup_window_ms,
                    0,
                    MAX_DEDUP_WINDOW_MS,
                ),
                compose_window_hosts: read_hosts(reader, defaults.compose_window_hosts),
                agents: read_agents(reader),
                burst_mails: reader
                    .optional(&BURST_MAILS, "0, or a whole number from 2 to 10000", |text| {
                        text.parse()
                            .ok()
                            .filter(|mails| *mails == 0 || (2..=10_000).contains(mails))
                    })
                    .unwrap_or(defaults.burst_mails),
            },
            retention_days: read_days(reader, &RETENTION_DAYS),
            keep_counts: reader.word(&KEEP_COUNTS, false, &[("true", true), ("false", false)]),
            anonymize_days: read_days(reader, &ANONYMIZE_DAYS),
            geoip_database: match reader.path(&GEOIP_DATABASE) {
                None => GeoDatabase::Shipped,
                Some(off) if off == Path::new("off") => GeoDatabase::Off,
                Some(path) => GeoDatabase::File(path),
            },
            webhooks,
            common,
        }
    }
}

fn read_days(reader: &mut Reader, setting: &'static Setting) -> Option<u32> {
    reader.optional(setting, "a whole number of days from 1 to 36500", |text| {
        text.parse().ok().filter(|days| (1..=36_500).contains(days))
    })
}

/// The rules by which agents are told, with the operator's networks.
pub fn read_agents(reader: &mut Reader) -> Agents {
    let Some(path) = reader.path(&AGENT_NETWORKS) else {
        return Agents::default();
    };
    let read = std::fs::read_to_string(&path)
        .map_err(|error| error.to_string())
        .and_then(|text| Agents::with_networks(&text).map_err(|error| error.to_string()));
    read.unwrap_or_else(|problem| {
        reader.refuse(&AGENT_NETWORKS, format_args!("{}: {problem}", path.display()));
        Agents::default()
    })
}

fn read_hosts(reader: &mut Reader, default: BTreeSet<String>) -> BTreeSet<String> {
    reader.hosts(&COMPOSE_WINDOW_HOSTS, default)
}

fn read_database(reader: &mut Reader, connections: usize) -> Option<Config> {
    let password = reader.secret(&DATABASE_PASSWORD);
    let Some(url) = reader.secret(&DATABASE_URL) else {
        reader.refuse(
            &DATABASE_URL,
            "missing; expected postgres://USER@HOST:PORT/DATABASE",
        );
        return None;
    };
    match Config::new(DATABASE_URL.name, url.expose()) {
        Ok(config) => Some(
            config
                .password(password.as_ref().map(Secret::expose))
                .application_name("recorder")
                .pool_size(connections + SPARE_CONNECTIONS)
                .session(
                    Session::recorder()
                        .set("statement_timeout", STATEMENT_TIMEOUT)
                        .set("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION_TIMEOUT),
                ),
        ),
        Err(error) => {
            let error = error.to_string();
            let prefix = format!("{}: ", DATABASE_URL.name);
            reader.refuse(&DATABASE_URL, error.strip_prefix(&prefix).unwrap_or(&error));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: (&str, &str) = (
        "DATABASE_URL",
        "postgres://recorder:s3cret@db.example.com/email_tracker",
    );

    fn read(variables: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
        let mut reader = Reader::from_variables(variables.iter().copied());
        let settings = Settings::read(&mut reader);
        assert!(!reader.printable().contains("s3cret"), "{}", reader.printable());
        reader.finish(settings).map_err(|error| error.0)
    }

    #[test]
    fn the_documented_defaults_hold() {
        let settings = read(&[URL]).unwrap();
        assert_eq!(settings.rules, Rules::default());
        assert_eq!(settings.workers.get(), 2);
        assert_eq!(settings.retention_days, None);
        assert_eq!(settings.geoip_database, GeoDatabase::Shipped);
        assert_eq!(settings.common.listen.to_string(), "127.0.0.1:50051");
        assert_eq!(settings.common.admin.to_string(), "127.0.0.1:9083");
    }

    #[test]
    fn networks_come_from_a_file_or_are_refused_by_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        std::fs::write(path, "# ours\nscanner\t198.51.100.0/24\n").unwrap();
        let settings = read(&[URL, ("AGENT_NETWORKS", path)]).unwrap();
        assert_ne!(settings.rules, Rules::default());
        std::fs::write(path, "# ours\nscanner\t198.51.100.0\n").unwrap();
        let problems = read(&[URL, ("AGENT_NETWORKS", path)]).unwrap_err();
        assert!(
            problems[0].starts_with("AGENT_NETWORKS: ") && problems[0].contains("line 2: the second column"),
            "{problems:?}"
        );
        let problems = read(&[URL, ("AGENT_NETWORKS", "/nowhere/at/all")]).unwrap_err();
        assert!(
            problems[0].contains("/nowhere/at/all: No such file"),
            "{problems:?}"
        );
    }

    #[test]
    fn beyond_loopback_a_token_is_required() {
        let problems = read(&[URL, ("LISTEN", "0.0.0.0")]).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("RECORDER_TOKEN: missing"), "{problems:?}");
        assert!(read(&[URL, ("LISTEN", "0.0.0.0"), ("RECORDER_TOKEN", "s3cret")]).is_ok());
        assert!(read(&[URL, ("LISTEN", "::1")]).is_ok());
    }

    #[test]
    fn a_previous_token_goes_with_a_new_one() {
        let both = [URL, ("RECORDER_TOKEN", "new"), ("RECORDER_TOKEN_PREVIOUS", "old")];
        assert_eq!(read(&both).unwrap().tokens.len(), 2);
        let alone = read(&[URL, ("RECORDER_TOKEN_PREVIOUS", "s3cret")]).unwrap_err();
        assert_eq!(alone.len(), 1);
        assert!(
            alone[0].starts_with("RECORDER_TOKEN_PREVIOUS: set without"),
            "{alone:?}"
        );
    }

    #[test]
    fn every_wrong_setting_is_named() {
        let problems = read(&[
            ("RECORDER_WORKERS", "0"),
            ("DEDUP_WINDOW_MS", "-1"),
            ("RETENTION_DAYS", "0"),
            ("COMPOSE_WINDOW_HOSTS", "https://mail.google.com/"),
        ])
        .unwrap_err();
        let names: BTreeSet<&str> = problems
            .iter()
            .filter_map(|problem| problem.split(':').next())
            .collect();
        let expected = [
            "COMPOSE_WINDOW_HOSTS",
            "DATABASE_URL",
            "DEDUP_WINDOW_MS",
            "RECORDER_WORKERS",
            "RETENTION_DAYS",
        ];
        assert_eq!(names, BTreeSet::from(expected));
        let problems = read(&[("DATABASE_URL", "mysql://root:s3cret@db")]).unwrap_err();
        assert!(
            problems[0].starts_with("DATABASE_URL: this is no"),
            "{problems:?}"
        );
        assert!(!problems[0].contains("s3cret"));
    }
}
