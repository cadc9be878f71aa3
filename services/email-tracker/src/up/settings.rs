//! What `up` is told, and what it tells the services.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use database::Config;
use service_kit::{Common, Reader, Secret, Setting, SettingsError};

use crate::migrate;

const PORT: Setting = Setting::new(
    "PORT",
    "8090",
    "Port of the one address that serves everything; 0: any free one.",
);
const DATA_DIR: Setting = Setting::new(
    "DATA_DIR",
    "./data",
    "Folder of everything that outlives a run: database, spool, dashboard token. One `up` uses it at a time.",
);
const DATABASE_URL: Setting = Setting::secret(
    "DATABASE_URL",
    "a private PostgreSQL",
    "A database to use instead, as one login that may change its schema: `postgres://USER@HOST:PORT/DATABASE`.",
);
const DATABASE_PASSWORD: Setting = Setting::secret(
    "DATABASE_PASSWORD",
    "",
    "Password for `DATABASE_URL`, written as it is.",
);
const PG_BIN: Setting = Setting::new(
    "PG_BIN",
    "the newest installed",
    "Folder with the programs of the PostgreSQL (15 or newer) to run, such as `/usr/lib/postgresql/17/bin`.",
);
const DASHBOARD_TOKEN: Setting = Setting::secret(
    "DASHBOARD_TOKEN",
    "made at the first run",
    "What a reader must show in `X-Tracker-Token`; one that is made is kept in `DATA_DIR/dashboard-token`.",
);
const TRUSTED_PROXIES: Setting = Setting::new(
    "TRUSTED_PROXIES",
    "127.0.0.0/8,::1/128",
    "Networks of the reverse proxies in front, whose `X-Forwarded-For` is believed, separated by commas.",
);
const PIXEL_ADMIN_PORT: Setting = Setting::new(
    "PIXEL_ADMIN_PORT",
    "9081",
    "The pixel's admin port, on `ADMIN_LISTEN` (127.0.0.1); 0: any free one.",
);
const DASHBOARD_ADMIN_PORT: Setting =
    Setting::new("DASHBOARD_ADMIN_PORT", "9082", "The dashboard's admin port.");
const RECORDER_ADMIN_PORT: Setting =
    Setting::new("RECORDER_ADMIN_PORT", "9083", "The recorder's admin port.");

/// The settings that only `up` has or treats in its own way, as documented. All others reach the services as they are.
pub(crate) const SETTINGS: [Setting; 10] = [
    PORT,
    DATA_DIR,
    DATABASE_URL,
    DATABASE_PASSWORD,
    PG_BIN,
    DASHBOARD_TOKEN,
    TRUSTED_PROXIES,
    PIXEL_ADMIN_PORT,
    DASHBOARD_ADMIN_PORT,
    RECORDER_ADMIN_PORT,
];

/// Where programs are looked for; not ours to document.
const PATH: Setting = Setting::new("PATH", "", "");

/// What libraries say about their own work tells the user of a first start nothing.
const LOG_LEVEL: &str = "info,opentelemetry_sdk=warn,refinery_core=warn,tokio_postgres=warn";

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What `up` is told.
pub(super) struct Settings {
    /// Where everything is served, and the process's logs.
    pub(super) common: Common,
    pub(super) data_dir: PathBuf,
    /// The database to use instead of a private one.
    pub(super) database: Option<Config>,
    pub(super) pg_bin: Option<PathBuf>,
    pub(super) path: String,
    /// `None`: the one in the data folder is used.
    pub(super) dashboard_token: Option<Secret>,
    pub(super) admin: AdminAddresses,
}

/// Where each service's admin port is.
pub(super) struct AdminAddresses {
    pub(super) pixel: SocketAddr,
    pub(super) dashboard: SocketAddr,
    pub(super) recorder: SocketAddr,
}

/// What the services are told besides the environment.
pub(super) struct Wiring {
    pub(super) spool_dir: PathBuf,
    /// Where the recorder listens, for this process alone.
    pub(super) recorder: SocketAddr,
    pub(super) recorder_token: String,
    /// The token of the data folder; `None` leaves what the environment says.
    pub(super) dashboard_token: Option<String>,
}

/// The private database as each service logs in.
#[derive(Clone)]
pub(super) struct DatabaseUrls {
    pub(super) recorder: String,
    pub(super) dashboard: String,
}

impl Settings {
    /// Reads what concerns `up` itself, and goes through what the services will read, so that every mistake is known
    /// before anything is started.
    pub(super) fn read(environment: &impl Fn() -> Reader) -> Result<Self, SettingsError> {
        let mut problems = Vec::new();
        let settings = collect(&mut problems, environment(), Self::read_own);
        settings.rehearse(environment, &mut problems);
        finish(settings, problems)
    }

    /// Reads what the services will read, with stand-ins for what is not known yet.
    fn rehearse(&self, environment: &impl Fn() -> Reader, problems: &mut Vec<String>) {
        let wiring = Wiring {
            spool_dir: spool_dir(&self.data_dir),
            recorder: SocketAddr::new(LOOPBACK, 1),
            recorder_token: "rehearsal".to_owned(),
            dashboard_token: None,
        };
        let nowhere = "postgres://nobody@localhost/nothing".to_owned();
        let private = DatabaseUrls {
            recorder: nowhere.clone(),
            dashboard: nowhere,
        };
        let private = self.database.is_none().then_some(&private);
        let found = [
            wiring.pixel(environment).err(),
            wiring.behind(environment, private).err(),
        ];
        for SettingsError(found) in found.into_iter().flatten() {
            note(problems, found);
        }
    }

    fn read_own(reader: &mut Reader) -> Self {
        // The admin ports have settings of their own, and are for this machine unless it is said otherwise.
        reader.set("ADMIN_PORT", "0");
        reader.default_to("ADMIN_LISTEN", LOOPBACK.to_string());
        reader.default_to("LOG_LEVEL", LOG_LEVEL);
        let common = Common::read(reader, 8090, 0);
        let admin_address = common.admin.ip();
        let mut admin = |setting, default| SocketAddr::new(admin_address, reader.port(setting, default));
        let admin = AdminAddresses {
            pixel: admin(&PIXEL_ADMIN_PORT, 9081),
            dashboard: admin(&DASHBOARD_ADMIN_PORT, 9082),
            recorder: admin(&RECORDER_ADMIN_PORT, 9083),
        };
        Self {
            common,
            data_dir: reader
                .path(&DATA_DIR)
                .unwrap_or_else(|| PathBuf::from(DATA_DIR.default)),
            database: migrate::configured(reader),
            pg_bin: reader.path(&PG_BIN),
            path: reader.text(&PATH).unwrap_or_default(),
            dashboard_token: reader.secret(&DASHBOARD_TOKEN),
            admin,
        }
    }
}

impl Wiring {
    /// The pixel's settings, from the environment as far as `up` does not decide them.
    pub(super) fn pixel(&self, environment: &impl Fn() -> Reader) -> Result<pixel::Settings, SettingsError> {
        let mut problems = Vec::new();
        let pixel = collect(
            &mut problems,
            self.told(environment(), None),
            pixel::Settings::read,
        );
        finish(pixel, problems)
    }

    /// The settings of those who need the database: the private one, or as the environment says.
    pub(super) fn behind(
        &self,
        environment: &impl Fn() -> Reader,
        private: Option<&DatabaseUrls>,
    ) -> Result<(recorder::Settings, dashboard::Settings), SettingsError> {
        let mut problems = Vec::new();
        let recorder = collect(
            &mut problems,
            self.told(environment(), private),
            recorder::Settings::read,
        );
        let dashboard = collect(
            &mut problems,
            self.told(environment(), private),
            dashboard::Settings::read,
        );
        finish((recorder, dashboard), problems)
    }

    fn told(&self, mut reader: Reader, private: Option<&DatabaseUrls>) -> Reader {
        // The sockets are made here; what the services would have made is not used.
        for (name, value) in [("LISTEN", "127.0.0.1"), ("PORT", "0"), ("ADMIN_PORT", "0")] {
            reader.set(name, value);
        }
        reader.default_to("SPOOL_DIR", self.spool_dir.to_string_lossy());
        reader.default_to("TRUSTED_PROXIES", TRUSTED_PROXIES.default);
        reader.set("RECORDER_URL", format!("http://{}", self.recorder));
        set_secret(&mut reader, "RECORDER_TOKEN", &self.recorder_token);
        set_secret(&mut reader, "RECORDER_TOKEN_PREVIOUS", "");
        if let Some(token) = &self.dashboard_token {
            set_secret(&mut reader, "DASHBOARD_TOKEN", token);
        }
        if let Some(database) = private {
            set_secret(&mut reader, "DATABASE_URL", &database.recorder);
            set_secret(&mut reader, "DATABASE_PASSWORD", "");
            set_secret(&mut reader, "DASHBOARD_DATABASE_URL", &database.dashboard);
            set_secret(&mut reader, "DASHBOARD_DB_PASSWORD", "");
        }
        reader
    }
}

/// Where the pixel keeps its facts, unless `SPOOL_DIR` says otherwise.
pub(super) fn spool_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("spool")
}

/// Decides a secret, whatever the environment says, also by way of a file.
fn set_secret(reader: &mut Reader, name: &str, value: &str) {
    reader.set(name, value);
    reader.set(&format!("{name}_FILE"), "");
}

/// Reads one part; its problems are noted once, though several parts may read the same variable.
fn collect<T>(problems: &mut Vec<String>, mut reader: Reader, read: impl FnOnce(&mut Reader) -> T) -> T {
    let settings = read(&mut reader);
    if let Err(SettingsError(found)) = reader.finish(()) {
        note(problems, found);
    }
    settings
}

fn note(problems: &mut Vec<String>, found: Vec<String>) {
    for problem in found {
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
}

fn finish<T>(settings: T, problems: Vec<String>) -> Result<T, SettingsError> {
    if problems.is_empty() {
        Ok(settings)
    } else {
        Err(SettingsError(problems))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&'static str, &'static str)]) -> Result<Settings, Vec<String>> {
        let environment = || Reader::from_variables(variables.iter().copied());
        Settings::read(&environment).map_err(|error| error.0)
    }

    #[test]
    fn nothing_needs_to_be_set() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.common.listen, "127.0.0.1:8090".parse().unwrap());
        assert_eq!(settings.data_dir, Path::new("./data"));
        assert_eq!(settings.admin.recorder, "127.0.0.1:9083".parse().unwrap());
        assert!(settings.database.is_none() && settings.dashboard_token.is_none());
    }

    #[test]
    fn the_admin_ports_stay_on_this_machine() {
        let settings = read(&[("LISTEN", "0.0.0.0"), ("ADMIN_PORT", "9090")]).unwrap();
        assert_eq!(settings.common.listen, "0.0.0.0:8090".parse().unwrap());
        assert_eq!(settings.admin.pixel, "127.0.0.1:9081".parse().unwrap());
    }

    #[test]
    fn every_mistake_of_any_service_is_named_once() {
        let problems = read(&[
            ("PORT", "none"),
            ("LOG_LEVEL", "a=b=c"),
            ("SPOOL_SYNC", "never"),
            ("DEDUP_WINDOW_MS", "soon"),
            ("PIXEL_ADMIN_PORT", "-1"),
        ])
        .err()
        .unwrap();
        let names: Vec<&str> = problems
            .iter()
            .filter_map(|line| line.split(':').next())
            .collect();
        assert_eq!(
            names,
            [
                "PORT",
                "LOG_LEVEL",
                "PIXEL_ADMIN_PORT",
                "SPOOL_SYNC",
                "DEDUP_WINDOW_MS"
            ],
            "{problems:#?}"
        );
    }

    #[test]
    fn the_private_database_and_the_tokens_are_decided_here() {
        let environment = || {
            Reader::from_variables([
                ("RECORDER_TOKEN_FILE", "/nowhere"),
                ("DATABASE_PASSWORD", "of another database"),
                ("DASHBOARD_TOKEN_FILE", "/nowhere"),
                ("SPOOL_DIR", "/elsewhere"),
            ])
        };
        let wiring = Wiring {
            spool_dir: PathBuf::from("/data/spool"),
            recorder: "127.0.0.1:4711".parse().unwrap(),
            recorder_token: "recorder's".to_owned(),
            dashboard_token: Some("dashboard's".to_owned()),
        };
        let private = DatabaseUrls {
            recorder: "postgres://writer@/t?host=/tmp/x".to_owned(),
            dashboard: "postgres://reader@/t?host=/tmp/x".to_owned(),
        };
        let pixel = wiring.pixel(&environment).unwrap();
        let (_, dashboard) = wiring.behind(&environment, Some(&private)).unwrap();
        assert_eq!(pixel.spool_dir, Path::new("/elsewhere"), "a given folder is kept");
        assert_eq!(pixel.recorder.urls, ["http://127.0.0.1:4711".parse().unwrap()]);
        assert_eq!(pixel.trusted_proxies.len(), 2);
        assert!(dashboard.database.unwrap().to_string().starts_with("reader@"));
    }
}
