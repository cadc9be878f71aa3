//! Where the database is and how to log in.

use std::{
    ffi::OsString,
    fmt,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    Error as DatabaseError, Session,
    tls::{self, Verify},
};

const ACCEPTED: &str = "accepted is postgres://USER@HOST:PORT/DATABASE?sslmode=…, with any of the characters @ : / ? # % \
                        in user or password percent-encoded, or the password given apart";

/// A setting that is wrong. It repeats nothing of the setting's value, which may hold a password.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    setting: &'static str,
    problem: String,
}

/// Where the database is and how to log in; `Debug` and `Display` leave the password out.
#[derive(Clone)]
pub struct Config {
    setting: &'static str,
    driver: tokio_postgres::Config,
    verify: Verify,
    ca_file: Option<PathBuf>,
    session: Session,
    pooled: bool,
    pool_size: usize,
    wait_limit: Duration,
    attempt_limit: Duration,
}

impl Config {
    /// From a URL, `postgres://user:password@host:port/database?sslmode=…`, as the setting named `setting` gave it.
    ///
    /// A folder of a Unix socket goes as `?host=/folder`, several hosts as `host1:5432,host2:5432`. `sslmode` is
    /// `disable`, `prefer` (the default), `require`, `verify-ca` or `verify-full`, with the meaning they have in libpq:
    /// only the last two verify the certificate, unless [`ca_file`](Self::ca_file) or `sslrootcert` is given.
    /// `pooling=transaction` says that a pooler stands between, which lends a connection for one transaction at a time:
    /// see [`Session::per_transaction`]. All other parameters are those of `tokio-postgres`.
    pub fn new(setting: &'static str, url: &str) -> Result<Self, ConfigError> {
        let error = |problem: String| ConfigError { setting, problem };
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(error(format!("this is no PostgreSQL URL; {ACCEPTED}")));
        }
        // The driver would take the rest of such a password for the host.
        if url.matches('@').count() > 1 {
            return Err(error(format!("the URL holds more than one @; {ACCEPTED}")));
        }
        let (url, ssl) = tls::take_ssl_parameters(url).map_err(error)?;
        let (url, pooled) = take_pooling(&url).map_err(error)?;
        let mut driver: tokio_postgres::Config = url
            .parse()
            .map_err(|_| error(format!("the URL cannot be understood; {ACCEPTED}")))?;
        if driver.get_hosts().is_empty() && driver.get_hostaddrs().is_empty() {
            return Err(error(format!("the URL names no host; {ACCEPTED}")));
        }
        driver.ssl_mode(ssl.mode);
        if driver.get_connect_timeout().is_none() {
            driver.connect_timeout(Duration::from_secs(5));
        }
        driver.keepalives_idle(Duration::from_secs(30));
        driver.keepalives_interval(Duration::from_secs(10));
        driver.tcp_user_timeout(Duration::from_secs(30));
        Ok(Self {
            setting,
            driver,
            verify: ssl.verify,
            ca_file: ssl.ca_file,
            session: Session::default(),
            pooled,
            pool_size: 4,
            wait_limit: Duration::from_secs(5),
            attempt_limit: Duration::from_mins(1),
        })
    }

    /// A password given apart, which overrides the URL's. None and the empty one change nothing.
    #[must_use]
    pub fn password(mut self, password: Option<&str>) -> Self {
        if let Some(password) = password.filter(|password| !password.is_empty()) {
            self.driver.password(password);
        }
        self
    }

    /// Another role than the URL's, for roles that share one.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        self.driver.user(user);
        self
    }

    /// The name that `pg_stat_activity` shows, unless the URL has one.
    #[must_use]
    pub fn application_name(mut self, name: &str) -> Self {
        if self.driver.get_application_name().is_none() {
            self.driver.application_name(name);
        }
        self
    }

    /// The certificates to trust, a PEM file, instead of the system's. With it, `require` verifies too (as `verify-ca`).
    #[must_use]
    pub fn ca_file(mut self, file: Option<&Path>) -> Self {
        if let Some(file) = file {
            self.ca_file = Some(file.to_owned());
        }
        self
    }

    /// What each session sets; each transaction, if the URL says that a pooler stands between.
    #[must_use]
    pub fn session(mut self, session: Session) -> Self {
        self.session = if self.pooled {
            session.per_transaction()
        } else {
            session
        };
        self
    }

    /// Refuses a URL that says that it leads through a pooler, for `what`, which needs a session of its own.
    pub fn direct_for(self, what: &str) -> Result<Self, ConfigError> {
        if self.pooled {
            return Err(self.error(format!(
                "{what} needs PostgreSQL itself, and pooling=transaction says that a pooler stands between"
            )));
        }
        Ok(self)
    }

    /// The most connections; 4 unless set.
    #[must_use]
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.pool_size = connections.max(1);
        self
    }

    /// The longest wait for a connection of the pool; 5 s unless set.
    #[must_use]
    pub const fn pool_wait(mut self, limit: Duration) -> Self {
        self.wait_limit = limit;
        self
    }

    /// How long a transaction may go on before the server counts as gone; 1 min unless set. Let it be longer than what the
    /// server itself allows a statement: it is for a server, or a proxy before it, that has fallen silent without
    /// closing the connection.
    #[must_use]
    pub const fn attempt_limit(mut self, limit: Duration) -> Self {
        self.attempt_limit = limit;
        self
    }

    /// One connection outside any pool, without session settings; it ends when the client is dropped.
    pub async fn connect(&self) -> Result<tokio_postgres::Client, DatabaseError> {
        let tls = self
            .tls_connector()
            .map_err(|error| DatabaseError::unexpected(error.to_string()))?;
        let (client, connection) = self.driver.connect(tls).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %DatabaseError::from(error), "connection ended");
            }
        });
        Ok(client)
    }

    /// The same login for libpq's programs, such as `pg_dump`: the variables of their environment, the password among
    /// them, so that it stands on no command line.
    #[must_use]
    pub fn libpq_environment(&self) -> Vec<(&'static str, OsString)> {
        let mut environment = Vec::new();
        let mut set = |name, value: Option<OsString>| environment.extend(value.map(|value| (name, value)));
        let hosts = self.driver.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => OsString::from(name),
            Host::Unix(folder) => folder.clone().into_os_string(),
        });
        set("PGHOST", listed(hosts));
        let addresses = self.driver.get_hostaddrs().iter();
        set(
            "PGHOSTADDR",
            listed(addresses.map(|address| address.to_string().into())),
        );
        let ports = self.driver.get_ports().iter();
        set("PGPORT", listed(ports.map(|port| port.to_string().into())));
        set("PGUSER", self.driver.get_user().map(OsString::from));
        set("PGDATABASE", self.driver.get_dbname().map(OsString::from));
        let password = self.driver.get_password();
        set(
            "PGPASSWORD",
            password.map(|password| OsString::from_vec(password.to_vec())),
        );
        let seconds = self.driver.get_connect_timeout().map(Duration::as_secs);
        set(
            "PGCONNECT_TIMEOUT",
            seconds.map(|seconds| seconds.max(2).to_string().into()),
        );
        let verify = match (self.verify, &self.ca_file) {
            (Verify::Nothing, Some(_)) => Verify::Chain,
            (verify, _) => verify,
        };
        let mode = match (self.driver.get_ssl_mode(), verify) {
            (SslMode::Disable, _) => "disable",
            (SslMode::Require, Verify::Nothing) => "require",
            (SslMode::Require, Verify::Chain) => "verify-ca",
            (SslMode::Require, Verify::ChainAndName) => "verify-full",
            _ => "prefer",
        };
        set("PGSSLMODE", Some(mode.into()));
        let system = (mode == "verify-full").then(|| OsString::from("system"));
        let ca_file = self.ca_file.clone().map(PathBuf::into_os_string);
        set("PGSSLROOTCERT", ca_file.or(system));
        environment
    }

    pub(crate) fn driver_config(&self) -> tokio_postgres::Config {
        self.driver.clone()
    }

    pub(crate) fn tls_connector(&self) -> Result<MakeRustlsConnect, ConfigError> {
        let verify = match (self.verify, &self.ca_file) {
            (Verify::Nothing, Some(_)) => Verify::Chain,
            (verify, _) => verify,
        };
        let needless = self.driver.get_ssl_mode() == SslMode::Disable;
        let verify = if needless { Verify::Nothing } else { verify };
        tls::connector(verify, self.ca_file.as_deref()).map_err(|problem| self.error(problem))
    }

    pub(crate) const fn session_settings(&self) -> &Session {
        &self.session
    }

    pub(crate) const fn connections(&self) -> usize {
        self.pool_size
    }

    pub(crate) const fn wait_limit(&self) -> Duration {
        self.wait_limit
    }

    pub(crate) const fn attempt_limited_to(&self) -> Duration {
        self.attempt_limit
    }

    /// Of one host; a URL with several may need longer in all.
    pub(crate) fn connect_limit(&self) -> Duration {
        let hosts = u32::try_from(self.driver.get_hosts().len().max(1)).unwrap_or(1);
        self.driver
            .get_connect_timeout()
            .copied()
            .unwrap_or(Duration::from_secs(5))
            * hosts
            + Duration::from_secs(5)
    }

    pub(crate) fn error(&self, problem: String) -> ConfigError {
        ConfigError {
            setting: self.setting,
            problem,
        }
    }
}

/// Takes `pooling` out of the URL, and whether it says `transaction`.
fn take_pooling(url: &str) -> Result<(String, bool), String> {
    let Some((base, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), false));
    };
    let mut pooled = false;
    let mut rest = Vec::new();
    for parameter in query.split('&') {
        match parameter.split_once('=') {
            Some(("pooling", "transaction")) => pooled = true,
            Some(("pooling", "session")) => pooled = false,
            Some(("pooling", _)) => return Err("pooling must be transaction or session".to_owned()),
            _ => rest.push(parameter),
        }
    }
    if rest.is_empty() {
        return Ok((base.to_owned(), pooled));
    }
    Ok((format!("{base}?{}", rest.join("&")), pooled))
}

/// Separated by commas, as libpq lists several; none if there is none.
fn listed(values: impl Iterator<Item = OsString>) -> Option<OsString> {
    values.reduce(|mut list, value| {
        list.push(",");
        list.push(value);
        list
    })
}

/// For example `email_tracker_recorder@db.example.com:5432/email_tracker`.
impl fmt::Display for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@", self.driver.get_user().unwrap_or_default())?;
        let ports = self.driver.get_ports();
        for (index, host) in self.driver.get_hosts().iter().enumerate() {
            if index > 0 {
                formatter.write_str(",")?;
            }
            match host {
                Host::Tcp(name) => formatter.write_str(name)?,
                Host::Unix(folder) => write!(formatter, "{}", folder.display())?,
            }
            if let Some(port) = ports.get(index).or(ports.first()) {
                write!(formatter, ":{port}")?;
            }
        }
        write!(formatter, "/{}", self.driver.get_dbname().unwrap_or_default())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Config({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Config, ConfigError> {
        Config::new("DATABASE_URL", url)
    }

    #[test]
    fn no_form_of_it_shows_a_password() {
        let config = parse(
            "postgres://anna:s3cret@db.example.com:5433,[2001:db8::1]/email_tracker?password=s3cret&sslmode=require",
        )
        .expect("a URL")
        .password(Some("s3cret too"));
        assert_eq!(
            config.to_string(),
            "anna@db.example.com:5433,2001:db8::1:5432/email_tracker"
        );
        assert!(!format!("{config:?} {config:#?}").contains("s3cret"));
    }

    #[test]
    fn a_wrong_url_is_told_by_the_setting_and_never_repeated() {
        for url in [
            "",
            "s3cret",
            "mysql://anna:s3cret@db/email_tracker",
            "host=db password=s3cret",
            "postgres://anna:s3cret@x@db/email_tracker",
            "postgres://anna:s3cret/@x@db/email_tracker",
            "postgres://anna:x@db:s3cret/email_tracker",
            "postgres://anna:s3cret%zz@[db/email_tracker",
            "postgres://anna:x@db/email_tracker?s3cret=1",
            "postgres://anna:x@db/email_tracker?s3cret",
            "postgres://anna:x@db/email_tracker?sslmode=s3cret",
            "postgres://anna:x@db/email_tracker?sslkey=s3cret",
            "postgres:///email_tracker?user=s3cret",
            "postgres://anna:x@db/email_tracker?pooling=s3cret",
        ] {
            let error = parse(url).expect_err(url).to_string();
            assert!(
                error.starts_with("DATABASE_URL: ") && !error.contains("s3cret"),
                "{url}: {error}"
            );
        }
    }

    #[test]
    fn hosts_sockets_and_parameters_of_the_driver_are_understood() {
        for (url, shown) in [
            (
                "postgres://anna@/mail?host=/run/postgresql&port=5433",
                "anna@/run/postgresql:5433/mail",
            ),
            (
                "postgresql://anna@%2Frun%2Fpostgresql/mail",
                "anna@/run/postgresql:5432/mail",
            ),
            (
                "postgres://anna@a,b:5433/mail?target_session_attrs=read-write",
                "anna@a:5432,b:5433/mail",
            ),
            (
                "postgres://anna@a/mail?sslmode=verify-full&connect_timeout=1",
                "anna@a:5432/mail",
            ),
        ] {
            assert_eq!(parse(url).expect(url).to_string(), shown);
        }
    }

    #[test]
    fn behind_a_pooler_settings_are_those_of_the_transaction_and_a_session_is_refused() {
        let settings = |url: &str| {
            let config = parse(url).expect("a URL").session(Session::recorder());
            let session = config.session_settings();
            (
                session.on_connection().is_some(),
                session.on_transaction().is_some(),
            )
        };
        for (url, expected) in [
            ("postgres://anna@db/mail", (true, false)),
            ("postgres://anna@db/mail?pooling=session", (true, false)),
            ("postgres://anna@db/mail?pooling=transaction", (false, true)),
            (
                "postgres://anna@db/mail?sslmode=disable&pooling=transaction&connect_timeout=1",
                (false, true),
            ),
        ] {
            assert_eq!(settings(url), expected, "{url}");
        }
        let direct = |url: &str| parse(url).expect("a URL").direct_for("a migration");
        assert!(direct("postgres://anna@db/mail").is_ok());
        let refused = direct("postgres://anna@db/mail?pooling=transaction").expect_err("a pooler");
        assert!(
            refused
                .to_string()
                .starts_with("DATABASE_URL: a migration needs PostgreSQL itself"),
            "{refused}"
        );
    }

    #[test]
    fn a_password_given_apart_overrides_and_an_empty_one_does_not() {
        let config = parse("postgres://anna:of-the-url@db/mail").expect("a URL");
        let password = |config: Config| config.driver.get_password().map(<[u8]>::to_vec);
        assert_eq!(password(config.clone()), Some(b"of-the-url".to_vec()));
        assert_eq!(
            password(config.clone().password(Some(""))),
            Some(b"of-the-url".to_vec())
        );
        assert_eq!(
            password(config.password(Some("p@ss/w:rd"))),
            Some(b"p@ss/w:rd".to_vec())
        );
    }

    #[test]
    fn libpq_gets_the_same_login() {
        let environment = |url: &str| {
            let config = parse(url).expect("a URL").password(Some("p@ss/w:rd"));
            let pairs = config.libpq_environment();
            let text = |value: OsString| value.into_string().expect("text");
            let pairs = pairs.into_iter().map(|(name, value)| (name, text(value)));
            pairs.collect::<std::collections::BTreeMap<_, _>>()
        };
        let several = environment("postgres://anna@a,b:5433/mail?sslmode=verify-full");
        for (name, value) in [
            ("PGHOST", "a,b"),
            ("PGPORT", "5432,5433"),
            ("PGUSER", "anna"),
            ("PGDATABASE", "mail"),
            ("PGPASSWORD", "p@ss/w:rd"),
            ("PGSSLMODE", "verify-full"),
            ("PGSSLROOTCERT", "system"),
        ] {
            assert_eq!(several.get(name).map(String::as_str), Some(value), "{name}");
        }
        let socket = environment("postgres://anna@/mail?host=/run/postgresql");
        assert_eq!(socket.get("PGHOST").map(String::as_str), Some("/run/postgresql"));
        assert_eq!(socket.get("PGSSLMODE").map(String::as_str), Some("prefer"));
    }

    #[test]
    fn certificates_that_cannot_be_used_are_told_by_the_setting() {
        for (file, problem) in [("/no/such/file", "No such file"), ("/dev/null", "no certificate")] {
            let config = parse("postgres://anna@db/mail?sslmode=verify-full").expect("a URL");
            let error = config
                .ca_file(Some(Path::new(file)))
                .tls_connector()
                .err()
                .expect(file)
                .to_string();
            assert!(
                error.starts_with("DATABASE_URL: ") && error.contains(problem),
                "{error}"
            );
        }
    }
}
