//! Settings: environment variables, typed, all of them checked before a service starts.
//!
//! A service declares each of its settings once, as a [`Setting`]; the table in `docs/settings.md` is made from these
//! declarations. A [`Reader`] reads and parses them and collects *every* problem, so that one start reports all mistakes.
//! An empty variable counts as unset: Compose passes unset ones as empty.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use thiserror::Error;

/// A setting as it is documented.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// What holds when it is unset, in words or as the value; empty if there is nothing.
    pub default: &'static str,
    /// What it does and what is accepted, in a sentence.
    pub help: &'static str,
    /// Whether it may also come from the file that `NAME_FILE` names, and is never printed.
    pub secret: bool,
}

impl Setting {
    /// A setting that may be printed.
    #[must_use]
    pub const fn new(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self {
            name,
            default,
            help,
            secret: false,
        }
    }

    /// A setting that is never printed and may come from a file.
    #[must_use]
    pub const fn secret(name: &'static str, default: &'static str, help: &'static str) -> Self {
        Self {
            name,
            default,
            help,
            secret: true,
        }
    }
}

/// A value that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `value`.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one place that uses it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("<redacted>")
    }
}

/// All that is wrong with the settings, a line each.
#[derive(Debug, Error)]
#[error("{}", .0.join("\n"))]
pub struct SettingsError(pub Vec<String>);

/// Reads settings and collects what is wrong with them.
#[derive(Debug)]
pub struct Reader {
    variables: BTreeMap<String, String>,
    problems: Vec<String>,
    printable: Vec<(&'static str, String)>,
}

impl Reader {
    /// Over the process's own environment.
    #[must_use]
    pub fn from_environment() -> Self {
        let unicode = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        });
        Self::from_variables(unicode)
    }

    /// Over the given variables.
    pub fn from_variables<N: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        Self {
            variables: variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            problems: Vec::new(),
            printable: Vec::new(),
        }
    }

    /// Sets what a variable holds if it is unset, for a program that runs several services with defaults of its own.
    pub fn default_to(&mut self, name: &str, value: impl Into<String>) {
        if self.raw(name).is_none() {
            self.variables.insert(name.to_owned(), value.into());
        }
    }

    /// Sets a variable whatever the environment says.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.variables.insert(name.to_owned(), value.into());
    }

    /// Ends the reading: `settings`, or all that is wrong.
    pub fn finish<T>(self, settings: T) -> Result<T, SettingsError> {
        if self.problems.is_empty() {
            Ok(settings)
        } else {
            Err(SettingsError(self.problems))
        }
    }

    /// What was read so far, for the first log line; secrets show only whether they are set.
    #[must_use]
    pub fn printable(&self) -> String {
        self.printable
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Notes a problem that concerns `setting` beyond the form of its value.
    pub fn refuse(&mut self, setting: &Setting, problem: impl fmt::Display) {
        self.problems.push(format!("{}: {problem}", setting.name));
    }

    /// A value that may be unset, by any parser; `accepted` says in words what the parser takes.
    pub fn optional<T>(
        &mut self,
        setting: &Setting,
        accepted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.raw(setting.name)?.to_owned();
        self.printable.push((setting.name, text.clone()));
        let value = parse(text.trim());
        if value.is_none() {
            self.problems.push(format!(
                "{}: {text:?} is not accepted; expected {accepted}",
                setting.name
            ));
        }
        value
    }

    /// A value with a default.
    pub fn or<T>(
        &mut self,
        setting: &Setting,
        default: T,
        accepted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> T {
        self.optional(setting, accepted, parse).unwrap_or(default)
    }

    /// Any text.
    pub fn text(&mut self, setting: &Setting) -> Option<String> {
        self.optional(setting, "any text", |text| Some(text.to_owned()))
    }

    /// A whole number between `min` and `max`.
    pub fn number<T>(&mut self, setting: &Setting, default: T, min: T, max: T) -> T
    where
        T: std::str::FromStr + PartialOrd + fmt::Display + Copy,
    {
        self.or(
            setting,
            default,
            &format!("a whole number from {min} to {max}"),
            |text| {
                text.parse()
                    .ok()
                    .filter(|number| *number >= min && *number <= max)
            },
        )
    }

    /// A TCP port; 0 takes any free one.
    pub fn port(&mut self, setting: &Setting, default: u16) -> u16 {
        self.number(setting, default, 0, u16::MAX)
    }

    /// An IP address to listen on.
    pub fn address(&mut self, setting: &Setting, default: IpAddr) -> IpAddr {
        self.or(
            setting,
            default,
            "an IP address, such as 127.0.0.1 or ::",
            |text| text.trim_start_matches('[').trim_end_matches(']').parse().ok(),
        )
    }

    /// A comma-separated list of networks in CIDR notation; a bare address is a network of its own.
    pub fn networks(&mut self, setting: &Setting, default: Vec<IpNet>) -> Vec<IpNet> {
        self.or(
            setting,
            default,
            "networks such as 127.0.0.0/8,::1/128, separated by commas",
            |text| {
                let network = |item: &str| {
                    item.parse()
                        .ok()
                        .or_else(|| Some(IpNet::from(item.parse::<IpAddr>().ok()?)))
                };
                items(text).map(network).collect()
            },
        )
    }

    /// A comma-separated list of host names, in lower case afterwards.
    pub fn hosts(&mut self, setting: &Setting, default: BTreeSet<String>) -> BTreeSet<String> {
        self.or(
            setting,
            default,
            "host names such as mail.google.com, separated by commas",
            |text| {
                let is_host = |host: &&str| {
                    host.bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte))
                };
                let hosts: Vec<&str> = items(text).collect();
                hosts
                    .iter()
                    .all(is_host)
                    .then(|| hosts.iter().map(|host| host.to_ascii_lowercase()).collect())
            },
        )
    }

    /// A size in bytes: a whole number with an optional `KiB`, `MiB` or `GiB`.
    pub fn bytes(&mut self, setting: &Setting, default: u64, min: u64) -> u64 {
        let accepted = format!("bytes, at least {min}, such as 1073741824, 512MiB or 10GiB");
        self.or(setting, default, &accepted, |text| {
            parse_bytes(text).filter(|bytes| *bytes >= min)
        })
    }

    /// Whole seconds.
    pub fn seconds(&mut self, setting: &Setting, default: u64, min: u64, max: u64) -> Duration {
        Duration::from_secs(self.number(setting, default, min, max))
    }

    /// One of some words.
    pub fn word<T: Copy>(&mut self, setting: &Setting, default: T, words: &[(&str, T)]) -> T {
        let accepted = words
            .iter()
            .map(|(word, _)| *word)
            .collect::<Vec<_>>()
            .join(" or ");
        self.or(setting, default, &accepted, |text| {
            words
                .iter()
                .find(|(word, _)| word.eq_ignore_ascii_case(text))
                .map(|(_, value)| *value)
        })
    }

    /// A path; it is not looked at here.
    pub fn path(&mut self, setting: &Setting) -> Option<PathBuf> {
        self.optional(setting, "a path", |text| Some(PathBuf::from(text)))
    }

    /// A secret, from `NAME` or from the file that `NAME_FILE` names. Both set is refused: one of them is a mistake.
    pub fn secret(&mut self, setting: &Setting) -> Option<Secret> {
        let name = setting.name;
        let file_name = format!("{name}_FILE");
        let value = self.raw(name).map(str::to_owned);
        let file = self.raw(&file_name).map(str::to_owned);
        let secret = match (value, file) {
            (Some(_), Some(_)) => {
                self.problems
                    .push(format!("{name}: {file_name} is set as well; set one of the two"));
                None
            }
            (Some(value), None) => Some(Secret(value)),
            (None, Some(file)) => self.secret_from_file(&file_name, &file),
            (None, None) => None,
        };
        let shown = if secret.is_some() { "<set>" } else { "<unset>" };
        self.printable.push((name, shown.to_owned()));
        secret
    }

    fn secret_from_file(&mut self, file_name: &str, file: &str) -> Option<Secret> {
        match fs::read_to_string(file) {
            Ok(text) => {
                let value = text.strip_suffix('\n').unwrap_or(&text);
                let value = value.strip_suffix('\r').unwrap_or(value);
                if value.is_empty() {
                    self.problems
                        .push(format!("{file_name}: {file} is empty; it must hold the secret"));
                    return None;
                }
                Some(Secret::new(value))
            }
            Err(error) => {
                self.problems.push(format!(
                    "{file_name}: {file} cannot be read ({error}); it must hold the secret"
                ));
                None
            }
        }
    }

    fn raw(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|char: char| !char.is_ascii_digit());
    let unit = match text.get(digits.len()..)?.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

/// The table of `docs/settings.md` for one program: its name and its settings.
#[must_use]
pub fn table(program: &str, settings: &[&[Setting]]) -> String {
    let row = |Setting {
                   name,
                   default,
                   help,
                   secret,
               }: &Setting| {
        let default = if default.is_empty() {
            String::new()
        } else {
            format!("`{default}`")
        };
        let also = if *secret {
            format!(" (secret; also `{name}_FILE`)")
        } else {
            String::new()
        };
        format!("| `{name}` | {default} | {help}{also} |\n")
    };
    let rows: String = settings
        .iter()
        .flat_map(|settings| settings.iter())
        .map(row)
        .collect();
    format!("## {program}\n\n| variable | default | what it does |\n| --- | --- | --- |\n{rows}")
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// What every service is told.
#[derive(Clone, Debug)]
pub struct Common {
    /// Where the service itself listens.
    pub listen: SocketAddr,
    /// Where `/live`, `/ready` and `/metrics` are.
    pub admin: SocketAddr,
    /// Which log lines are written, as tracing's directives.
    pub log_level: String,
    /// How they look.
    pub log_format: LogFormat,
    /// Where traces go, by OTLP over gRPC; none are made without it.
    pub otlp_endpoint: Option<String>,
    /// How long the end may take, from the signal on.
    pub grace: Duration,
}

const LISTEN: Setting = Setting::new("LISTEN", "127.0.0.1", "Address to listen on; images set 0.0.0.0.");
const PORT: Setting = Setting::new(
    "PORT",
    "8081 pixel, 8082 dashboard, 50051 recorder",
    "Port of the service itself.",
);
const ADMIN_LISTEN: Setting = Setting::new("ADMIN_LISTEN", "LISTEN", "Address of the admin port.");
const ADMIN_PORT: Setting = Setting::new(
    "ADMIN_PORT",
    "9081 pixel, 9082 dashboard, 9083 recorder",
    "Port of `/live`, `/ready` and `/metrics`; images set 9090. Never let the public reach it.",
);
const LOG_LEVEL: Setting = Setting::new(
    "LOG_LEVEL",
    "info",
    "error, warn, info, debug or trace, or directives such as `info,pixel=debug`.",
);
const LOG_FORMAT: Setting = Setting::new(
    "LOG_FORMAT",
    "auto",
    "json, text, or auto: text on a terminal, else JSON.",
);
const SHUTDOWN_GRACE_SECONDS: Setting = Setting::new(
    "SHUTDOWN_GRACE_SECONDS",
    "10",
    "How long a stop may take to finish what is under way, 0 to 3600.",
);
const OTEL_EXPORTER_OTLP_ENDPOINT: Setting = Setting::new(
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "",
    "Where traces are sent, by OTLP over gRPC, such as `http://collector:4317`; unset: no traces.",
);

/// The settings that every service has.
pub const COMMON: [Setting; 8] = [
    LISTEN,
    PORT,
    ADMIN_LISTEN,
    ADMIN_PORT,
    LOG_LEVEL,
    LOG_FORMAT,
    SHUTDOWN_GRACE_SECONDS,
    OTEL_EXPORTER_OTLP_ENDPOINT,
];

impl Common {
    /// Reads what every service has; the ports' defaults are the service's own.
    pub fn read(reader: &mut Reader, default_port: u16, default_admin_port: u16) -> Self {
        let listen = reader.address(&LISTEN, IpAddr::from([127, 0, 0, 1]));
        let admin = reader.address(&ADMIN_LISTEN, listen);
        Self {
            listen: SocketAddr::new(listen, reader.port(&PORT, default_port)),
            admin: SocketAddr::new(admin, reader.port(&ADMIN_PORT, default_admin_port)),
            log_level: reader.or(
                &LOG_LEVEL,
                "info".to_owned(),
                "a level or tracing directives",
                |text| {
                    text.parse::<tracing_subscriber::filter::Targets>()
                        .ok()
                        .map(|_| text.to_owned())
                },
            ),
            log_format: reader.word(
                &LOG_FORMAT,
                LogFormat::Auto,
                &[
                    ("auto", LogFormat::Auto),
                    ("json", LogFormat::Json),
                    ("text", LogFormat::Text),
                ],
            ),
            otlp_endpoint: reader.optional(
                &OTEL_EXPORTER_OTLP_ENDPOINT,
                "a URL beginning with http:// or https://",
                |text| (text.starts_with("http://") || text.starts_with("https://")).then(|| text.to_owned()),
            ),
            grace: reader.seconds(&SHUTDOWN_GRACE_SECONDS, 10, 0, 3_600),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBER: Setting = Setting::new("NUMBER", "5", "A number.");
    const SECRET: Setting = Setting::secret("SECRET", "", "A secret.");

    #[test]
    fn every_problem_is_reported_with_its_name_and_what_is_accepted() {
        let mut reader = Reader::from_variables([
            ("NUMBER", "eleven"),
            ("LISTEN", "localhost"),
            ("PORT", "65536"),
            ("LOG_FORMAT", "xml"),
            ("LOG_LEVEL", "a=b=c"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector"),
        ]);
        reader.number(&NUMBER, 5, 1, 10);
        Common::read(&mut reader, 1, 2);
        let SettingsError(problems) = reader.finish(()).unwrap_err();
        assert_eq!(problems.len(), 6, "{problems:#?}");
        assert_eq!(
            problems[0],
            "NUMBER: \"eleven\" is not accepted; expected a whole number from 1 to 10"
        );
    }

    #[test]
    fn an_empty_variable_is_unset() {
        let mut reader = Reader::from_variables([("NUMBER", ""), ("SECRET", "")]);
        assert_eq!(reader.number(&NUMBER, 5, 1, 10), 5);
        assert_eq!(reader.secret(&SECRET), None);
        reader.finish(()).unwrap();
    }

    #[test]
    fn a_secret_comes_from_either_place_but_not_from_both_and_is_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let path = file.to_str().unwrap();
        fs::write(&file, "s3cret/ with\nlines\r\n").unwrap();

        let mut reader = Reader::from_variables([("SECRET_FILE", path)]);
        let secret = reader.secret(&SECRET).unwrap();
        assert_eq!(secret.expose(), "s3cret/ with\nlines");
        assert!(!format!("{secret:?}{}", reader.printable()).contains("s3cret"));

        let problem = |variables: &[(&str, &str)]| {
            let mut reader = Reader::from_variables(variables.iter().copied());
            assert_eq!(reader.secret(&SECRET), None);
            reader.finish(()).unwrap_err().to_string()
        };
        let both = problem(&[("SECRET", "topsecret"), ("SECRET_FILE", path)]);
        assert!(
            both.contains("SECRET_FILE is set as well") && !both.contains("topsecret"),
            "{both}"
        );
        assert!(problem(&[("SECRET_FILE", "/nowhere/secret")]).contains("/nowhere/secret cannot be read"));
        fs::write(&file, "\n").unwrap();
        assert!(problem(&[("SECRET_FILE", path)]).contains("is empty"));
    }

    #[test]
    fn sizes_networks_and_hosts() {
        for (text, bytes) in [
            ("5", Some(5)),
            ("1KiB", Some(1_024)),
            ("2 GiB", Some(2 << 30)),
            ("x", None),
            ("1XB", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
        assert_eq!(parse_bytes("99999999999999999999"), None);
        let networks = Setting::new("NETWORKS", "", "");
        let mut reader = Reader::from_variables([("NETWORKS", "10.0.0.0/8, ::1 ,")]);
        assert_eq!(
            reader.networks(&networks, Vec::new()),
            ["10.0.0.0/8".parse::<IpNet>().unwrap(), "::1/128".parse().unwrap()]
        );
        let mut reader = Reader::from_variables([("NETWORKS", "10.0.0.0/33")]);
        reader.networks(&networks, Vec::new());
        reader.finish(()).unwrap_err();
        let hosts = Setting::new("HOSTS", "", "");
        let mut reader = Reader::from_variables([("HOSTS", "Mail.Google.com,x.example")]);
        assert_eq!(
            reader.hosts(&hosts, BTreeSet::new()),
            BTreeSet::from(["mail.google.com".into(), "x.example".into()])
        );
    }
}
