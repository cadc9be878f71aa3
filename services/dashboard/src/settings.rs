//! The dashboard's settings.

use std::time::Duration;

use database::{Config, Session};
use recorder_client::{RecorderSettings, TOKEN_OF_USERS, URL_OF_USERS};
use service_kit::{Common, Reader, Secret, Setting};

const DASHBOARD_DATABASE_URL: Setting = Setting::secret(
    "DASHBOARD_DATABASE_URL",
    "DATABASE_URL",
    "Where the dashboard reads: `postgres://USER@HOST:PORT/DATABASE`, the primary or a replica; \
     `pooling=transaction` if it leads through PgBouncer.",
);
const DASHBOARD_DB_PASSWORD: Setting = Setting::secret(
    "DASHBOARD_DB_PASSWORD",
    "DATABASE_PASSWORD",
    "Password for `DASHBOARD_DATABASE_URL`, written as it is.",
);
const DATABASE_URL: Setting = Setting::secret(
    "DATABASE_URL",
    "",
    "Where the dashboard reads if `DASHBOARD_DATABASE_URL` is unset.",
);
const DATABASE_PASSWORD: Setting = Setting::secret(
    "DATABASE_PASSWORD",
    "",
    "Password for `DATABASE_URL`, written as it is.",
);
const DASHBOARD_TOKEN: Setting = Setting::secret(
    "DASHBOARD_TOKEN",
    "",
    "What a reader must show in `X-Tracker-Token`; without one nobody may read.",
);
const DASHBOARD_TOKEN_PREVIOUS: Setting = Setting::secret(
    "DASHBOARD_TOKEN_PREVIOUS",
    "",
    "Accepted as well, while readers are given a new `DASHBOARD_TOKEN`.",
);

const COUNT_AUTOMATED: Setting = Setting::new(
    "COUNT_AUTOMATED",
    "true",
    "Whether opens by machines count and are listed among the opens: `true` or `false`. They are stored either way.",
);

/// The settings that only the dashboard has, as documented.
pub const SETTINGS: [Setting; 9] = [
    DASHBOARD_DATABASE_URL,
    DASHBOARD_DB_PASSWORD,
    DATABASE_URL,
    DATABASE_PASSWORD,
    DASHBOARD_TOKEN,
    DASHBOARD_TOKEN_PREVIOUS,
    COUNT_AUTOMATED,
    URL_OF_USERS,
    TOKEN_OF_USERS,
];

/// Longest that one statement may run; a fetch of a list's rows is one.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest that a request waits for a connection while all are in use.
const POOL_WAIT: Duration = Duration::from_secs(2);
/// A list that is being streamed to a slow reader holds one.
const POOL_SIZE: usize = 16;

/// What the dashboard is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What every service is told.
    pub common: Common,
    /// Where it reads; always there once the settings were accepted.
    pub database: Option<Config>,
    /// The tokens that it accepts.
    pub tokens: Vec<Secret>,
    /// Whether machines' opens count.
    pub count_automated: bool,
    /// Who does what users ask for, if anybody does.
    pub recorder: Option<RecorderSettings>,
}

impl Settings {
    /// Reads them.
    pub fn read(reader: &mut Reader) -> Self {
        let own_password = reader.secret(&DASHBOARD_DB_PASSWORD);
        let password = reader.secret(&DATABASE_PASSWORD);
        let own_url = reader.secret(&DASHBOARD_DATABASE_URL);
        let url = reader.secret(&DATABASE_URL);
        let database = match (own_url, url) {
            (Some(url), _) => configure(
                reader,
                &DASHBOARD_DATABASE_URL,
                &url,
                own_password.or(password).as_ref(),
            ),
            (None, Some(url)) => configure(reader, &DATABASE_URL, &url, password.as_ref()),
            (None, None) => {
                reader.refuse(
                    &DASHBOARD_DATABASE_URL,
                    "neither it nor DATABASE_URL is set; one must say where the database is, as \
                     postgres://USER@HOST:PORT/DATABASE",
                );
                None
            }
        };
        let tokens = [&DASHBOARD_TOKEN, &DASHBOARD_TOKEN_PREVIOUS];
        Self {
            common: Common::read(reader, 8082, 9082),
            database,
            tokens: tokens
                .into_iter()
                .filter_map(|token| reader.secret(token))
                .collect(),
            count_automated: reader.word(&COUNT_AUTOMATED, true, &[("true", true), ("false", false)]),
            recorder: RecorderSettings::read_optional(reader),
        }
    }
}

fn configure(
    reader: &mut Reader,
    setting: &Setting,
    url: &Secret,
    password: Option<&Secret>,
) -> Option<Config> {
    match Config::new(setting.name, url.expose()) {
        Ok(config) => Some(
            config
                .password(password.map(Secret::expose))
                .application_name("dashboard")
                .session(session())
                .pool_size(POOL_SIZE)
                .pool_wait(POOL_WAIT),
        ),
        Err(error) => {
            reader.refuse(setting, error);
            None
        }
    }
}

/// Lists are read in the order of an index: their first rows come at once, however long the list is, and nothing is
/// sorted on disk. Each statement is planned for its parameters, since most of them are usually absent.
fn session() -> Session {
    Session::dashboard(STATEMENT_TIMEOUT)
        .set("enable_sort", "off")
        .set("plan_cache_mode", "force_custom_plan")
        .set("idle_in_transaction_session_timeout", "2min")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, Vec<String>> {
        let mut reader = Reader::from_variables(variables.iter().copied());
        let settings = Settings::read(&mut reader);
        reader.finish(settings).map_err(|error| error.0)
    }

    #[test]
    fn its_own_database_comes_first() {
        let urls = [
            ("DATABASE_URL", "postgres://owner@primary/tracker"),
            ("DASHBOARD_DATABASE_URL", "postgres://reader@replica/tracker"),
        ];
        let database = |variables| read(variables).unwrap().database.unwrap().to_string();
        assert_eq!(database(&urls), "reader@replica:5432/tracker");
        assert_eq!(database(&urls[..1]), "owner@primary:5432/tracker");
    }

    #[test]
    fn without_a_database_it_does_not_start() {
        let problems = read(&[]).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].starts_with("DASHBOARD_DATABASE_URL: neither it nor DATABASE_URL is set"));
        let problems = read(&[("DATABASE_URL", "mysql://x")]).unwrap_err();
        assert!(problems[0].starts_with("DATABASE_URL"), "{problems:?}");
    }

    #[test]
    fn tokens_are_optional_and_never_printed() {
        let url = ("DATABASE_URL", "postgres://reader:pass-word@db/tracker");
        assert!(read(&[url]).unwrap().tokens.is_empty());
        let settings = read(&[
            url,
            ("DASHBOARD_TOKEN", "to-ken"),
            ("DASHBOARD_TOKEN_PREVIOUS", "old-one"),
        ])
        .unwrap();
        assert_eq!(settings.tokens.len(), 2);
        let printed = format!("{settings:?}");
        for secret in ["to-ken", "old-one", "pass-word"] {
            assert!(!printed.contains(secret), "{printed}");
        }
    }
}
