//! Which database is meant: the one of `DATABASE_URL`, else that of the `up` that runs on `DATA_DIR`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use database::{Config, Database, Session};
use service_kit::{Metrics, Reader, Setting};

use crate::postgres::{self, DATABASE, OWNER};

pub(super) const DATABASE_URL: Setting = Setting::secret(
    "DATABASE_URL",
    "that of the `up` on `DATA_DIR`",
    "The owner's login: `postgres://OWNER@HOST:PORT/DATABASE`, the primary itself, not through a pooler.",
);
pub(super) const DATABASE_PASSWORD: Setting = Setting::secret(
    "DATABASE_PASSWORD",
    "",
    "Password for `DATABASE_URL`, written as it is.",
);
pub(super) const DATA_DIR: Setting = Setting::new(
    "DATA_DIR",
    "./data",
    "The data folder of a running `email-tracker up`, whose private database is meant without `DATABASE_URL`.",
);
pub(super) const PG_BIN: Setting = Setting::new(
    "PG_BIN",
    "the installed one that fits",
    "Folder with `pg_dump`, `pg_restore` and `psql`, of the server's version or newer.",
);
/// Where programs are looked for; not ours to document.
const PATH: Setting = Setting::new("PATH", "", "");

/// Where the database is, and the programs that copy it.
pub(crate) struct DatabaseSettings {
    given: Option<Config>,
    data_dir: PathBuf,
    pub(crate) pg_bin: Option<PathBuf>,
    pub(crate) path: String,
    name: &'static str,
}

impl DatabaseSettings {
    /// Reads them; `name` is how the sessions call themselves.
    pub(crate) fn read(reader: &mut Reader, name: &'static str) -> Self {
        let data_dir = reader.path(&DATA_DIR);
        Self {
            given: crate::migrate::configured(reader),
            data_dir: data_dir.unwrap_or_else(|| PathBuf::from(DATA_DIR.default)),
            pg_bin: reader.path(&PG_BIN),
            path: reader.text(&PATH).unwrap_or_default(),
            name,
        }
    }

    /// The database, as its owner.
    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        match &self.given {
            Some(config) => Ok(config.clone()),
            None => private(&self.data_dir, self.name),
        }
    }
}

/// A pool of `connections` to `config`, with sessions like a recorder's, and the metrics that it counts in. Fails unless the
/// schema is one that this version can use.
pub(crate) async fn open_as_recorder(
    config: &Config,
    connections: usize,
) -> anyhow::Result<(Database, Metrics)> {
    let metrics = Metrics::new(crate::NAME)?;
    let pooled = config.clone().pool_size(connections).session(Session::recorder());
    let database = Database::open(&pooled, metrics.meter())?;
    database
        .check_schema()
        .await
        .with_context(|| format!("cannot use {config}"))?;
    Ok((database, metrics))
}

/// The private database of the `up` that runs on `data_dir`.
fn private(data_dir: &Path, name: &'static str) -> anyhow::Result<Config> {
    let socket_folder = postgres::running(data_dir).with_context(|| {
        format!(
            "no `email-tracker up` runs on DATA_DIR={}: start it, or say where the database is in DATABASE_URL",
            data_dir.display()
        )
    })?;
    let url = format!("postgres://{OWNER}@/{DATABASE}?host={}", socket_folder.display());
    Ok(Config::new("DATA_DIR", &url)?.application_name(name))
}
