//! Reading: from text to types, with every problem kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    net::IpAddr,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use axum::http::Uri;
use ipnet::IpNet;

use super::{Secret, Setting, SettingsError};

/// Reads settings and collects what is wrong with them.
#[derive(Debug, Default)]
pub struct Reader {
    variables: BTreeMap<String, String>,
    /// Names of variables whose values are no UTF-8.
    unreadable: BTreeSet<String>,
    problems: Vec<String>,
    effective: Vec<(&'static str, String)>,
}

impl Reader {
    /// Over the process's own environment.
    #[must_use]
    pub fn from_environment() -> Self {
        let mut reader = Self::default();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else {
                continue; // No setting has such a name.
            };
            match value.into_string() {
                Ok(value) => drop(reader.variables.insert(name, value)),
                Err(_) => drop(reader.unreadable.insert(name)),
            }
        }
        reader
    }

    /// Over the given variables.
    pub fn from_variables<N: Into<String>, V: Into<String>>(
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        let variables = variables.into_iter();
        Self {
            variables: variables
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            ..Self::default()
        }
    }

    /// Sets what a variable holds if neither it nor its `_FILE` is set, for a program that runs several services with
    /// defaults of its own.
    pub fn default_to(&mut self, name: &str, value: impl Into<String>) {
        let file_name = format!("{name}_FILE");
        let is_set = |name: &str| {
            self.unreadable.contains(name) || self.variables.get(name).is_some_and(|value| !value.is_empty())
        };
        if !is_set(name) && !is_set(&file_name) {
            self.set(name, value);
        }
    }

    /// Sets a variable whatever the environment says.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.unreadable.remove(name);
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

    /// The settings in force of those read so far, for the first log line; secrets show only whether they are set.
    #[must_use]
    pub fn printable(&self) -> String {
        self.effective
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Notes a problem that concerns `setting` beyond the form of its value.
    pub fn refuse(&mut self, setting: &Setting, problem: impl fmt::Display) {
        self.problem(setting.name, problem);
    }

    /// A value that may be unset, by any parser; `accepted` says in words what the parser takes.
    pub fn optional<T>(
        &mut self,
        setting: &Setting,
        accepted: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let Some(text) = self.given(setting.name) else {
            self.is_in_force(setting, setting.default);
            return None;
        };
        let value = parse(text.trim());
        if value.is_none() {
            self.problem(
                setting.name,
                format_args!("{text:?} is not accepted; expected {accepted}"),
            );
        }
        self.is_in_force(setting, text);
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
        T: FromStr + PartialOrd + fmt::Display + Copy,
    {
        let parse = |text: &str| text.parse().ok().filter(|number| (min..=max).contains(number));
        check_default(setting, &default, parse);
        let accepted = format!("a whole number from {min} to {max}");
        let given = self.optional(setting, &accepted, parse);
        if given.is_none() {
            self.is_in_force(setting, default.to_string());
        }
        given.unwrap_or(default)
    }

    /// A TCP port; 0 takes any free one.
    pub fn port(&mut self, setting: &Setting, default: u16) -> u16 {
        self.number(setting, default, 0, u16::MAX)
    }

    /// An IP address to listen on.
    pub fn address(&mut self, setting: &Setting, default: IpAddr) -> IpAddr {
        let parse = |text: &str| text.trim_start_matches('[').trim_end_matches(']').parse().ok();
        check_default(setting, &default, parse);
        let given = self.optional(setting, "an IP address, such as 127.0.0.1 or ::", parse);
        if given.is_none() {
            self.is_in_force(setting, default.to_string());
        }
        given.unwrap_or(default)
    }

    /// A comma-separated list of networks in CIDR notation; a bare address is a network of its own.
    pub fn networks(&mut self, setting: &Setting, default: Vec<IpNet>) -> Vec<IpNet> {
        check_default(setting, &default, parse_networks);
        let accepted = "networks such as 127.0.0.0/8,::1/128, separated by commas";
        self.or(setting, default, accepted, parse_networks)
    }

    /// A comma-separated list of host names, in lower case afterwards.
    pub fn hosts(&mut self, setting: &Setting, default: BTreeSet<String>) -> BTreeSet<String> {
        check_default(setting, &default, parse_hosts);
        let accepted = "host names such as mail.google.com, separated by commas";
        self.or(setting, default, accepted, parse_hosts)
    }

    /// A size in bytes: a whole number with an optional `KiB`, `MiB`, `GiB` or `TiB`.
    pub fn bytes(&mut self, setting: &Setting, default: u64, min: u64) -> u64 {
        let parse = |text: &str| parse_bytes(text).filter(|bytes| *bytes >= min);
        check_default(setting, &default, parse);
        let accepted = format!("bytes, at least {min}, such as 1073741824, 512MiB or 10GiB");
        self.or(setting, default, &accepted, parse)
    }

    /// Whole seconds.
    pub fn seconds(&mut self, setting: &Setting, default: u64, min: u64, max: u64) -> Duration {
        Duration::from_secs(self.number(setting, default, min, max))
    }

    /// One of some words, in any case.
    pub fn word<T: Copy + PartialEq>(&mut self, setting: &Setting, default: T, words: &[(&str, T)]) -> T {
        let parse = |text: &str| {
            let known = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text))?;
            Some(known.1)
        };
        check_default(setting, &default, parse);
        let accepted = words.iter().map(|(word, _)| *word).collect::<Vec<_>>();
        self.or(setting, default, &accepted.join(" or "), parse)
    }

    /// An `http://` or `https://` URL with a host, and without user name and password, since it is printed.
    pub fn url(&mut self, setting: &Setting) -> Option<String> {
        let accepted = "a URL such as http://collector:4317, without user name and password";
        self.optional(setting, accepted, |text| {
            let url: Uri = text.parse().ok()?;
            let host = url.authority()?.as_str();
            let is_http = matches!(url.scheme_str(), Some("http" | "https"));
            (is_http && !host.contains('@')).then(|| text.to_owned())
        })
    }

    /// A path; it is not looked at here.
    pub fn path(&mut self, setting: &Setting) -> Option<PathBuf> {
        self.optional(setting, "a path", |text| Some(PathBuf::from(text)))
    }

    /// A secret, from `NAME` or from the file that `NAME_FILE` names. Both set is refused: one of them is a mistake.
    pub fn secret(&mut self, setting: &Setting) -> Option<Secret> {
        let file_name = format!("{}_FILE", setting.name);
        let secret = match (self.given(setting.name), self.given(&file_name)) {
            (Some(_), Some(_)) => {
                self.refuse(
                    setting,
                    format_args!("{file_name} is set as well; set one of the two"),
                );
                None
            }
            (Some(value), None) => Some(Secret(value)),
            (None, Some(file)) => self.secret_in(&file_name, &file),
            (None, None) => None,
        };
        let shown = if secret.is_some() { "<set>" } else { "<unset>" };
        self.is_in_force(setting, shown);
        secret
    }

    fn secret_in(&mut self, file_name: &str, file: &str) -> Option<Secret> {
        let problem = match fs::read_to_string(file) {
            Ok(text) => {
                let value = text.strip_suffix('\n').unwrap_or(&text);
                let value = value.strip_suffix('\r').unwrap_or(value);
                if !value.is_empty() {
                    return Some(Secret::new(value));
                }
                format!("{file} is empty; it must hold the secret")
            }
            Err(error) => format!("{file} cannot be read ({error}); it must hold the secret"),
        };
        self.problem(file_name, problem);
        None
    }

    /// What a variable holds; `None` if that is nothing.
    fn given(&mut self, name: &str) -> Option<String> {
        if self.unreadable.contains(name) {
            self.problem(name, "the value is no UTF-8; expected text in UTF-8");
            return None;
        }
        self.variables.get(name).filter(|text| !text.is_empty()).cloned()
    }

    /// Each problem is reported once, however often its setting is read.
    fn problem(&mut self, name: &str, problem: impl fmt::Display) {
        let line = format!("{name}: {problem}");
        if !self.problems.contains(&line) {
            self.problems.push(line);
        }
    }

    fn is_in_force(&mut self, setting: &Setting, value: impl Into<String>) {
        let value = value.into();
        self.effective.retain(|(name, _)| *name != setting.name);
        if !value.is_empty() {
            self.effective.push((setting.name, value));
        }
    }
}

/// A default is written twice, for people and for the code. Where the one for people is a value, they must agree.
fn check_default<T: PartialEq>(setting: &Setting, default: &T, parse: impl FnOnce(&str) -> Option<T>) {
    debug_assert!(
        parse(setting.default).is_none_or(|documented| documented == *default),
        "{}: the default of the code is not the documented one, {}",
        setting.name,
        setting.default
    );
}

fn parse_networks(text: &str) -> Option<Vec<IpNet>> {
    let network = |item: &str| {
        let address = || item.parse::<IpAddr>().ok().map(IpNet::from);
        item.parse().ok().or_else(address)
    };
    items(text).map(network).collect()
}

fn parse_hosts(text: &str) -> Option<BTreeSet<String>> {
    let host = |item: &str| {
        let mut bytes = item.bytes();
        let is_host = bytes.all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte));
        is_host.then(|| item.to_ascii_lowercase())
    };
    items(text).map(host).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBER: Setting = Setting::new("NUMBER", "5", "A number.");
    const SECRET: Setting = Setting::secret("SECRET", "", "A secret.");
    const LIST: Setting = Setting::new("LIST", "", "Some of them.");

    fn reader(variables: &[(&str, &str)]) -> Reader {
        Reader::from_variables(variables.iter().copied())
    }

    fn problems(reader: Reader) -> Vec<String> {
        reader.finish(()).unwrap_err().0
    }

    #[test]
    fn a_problem_says_its_name_and_what_is_accepted_once() {
        let mut reader = reader(&[("NUMBER", "eleven")]);
        reader.number(&NUMBER, 5, 1, 10);
        reader.number(&NUMBER, 5, 1, 10);
        let expected = r#"NUMBER: "eleven" is not accepted; expected a whole number from 1 to 10"#;
        assert_eq!(problems(reader), [expected]);
    }

    #[test]
    fn numbers_have_bounds() {
        for (text, number) in [("1", Some(1)), ("10", Some(10)), (" 7 ", Some(7))] {
            let mut reader = reader(&[("NUMBER", text)]);
            assert_eq!(Some(reader.number(&NUMBER, 5, 1, 10)), number, "{text}");
            reader.finish(()).unwrap();
        }
        for text in ["0", "11", "-1", "1.5", "99999999999999999999", " "] {
            let mut reader = reader(&[("NUMBER", text)]);
            reader.number(&NUMBER, 5, 1, 10);
            assert_eq!(problems(reader).len(), 1, "{text}");
        }
    }

    #[test]
    fn an_empty_variable_is_unset() {
        let mut reader = reader(&[("NUMBER", ""), ("SECRET", ""), ("SECRET_FILE", "")]);
        assert_eq!(reader.number(&NUMBER, 5, 1, 10), 5);
        assert_eq!(reader.secret(&SECRET), None);
        assert_eq!(reader.printable(), "NUMBER=5 SECRET=<unset>");
        reader.finish(()).unwrap();
    }

    #[test]
    fn the_first_log_line_shows_what_is_in_force_and_no_secret() {
        let mut reader = reader(&[("SECRET", "topsecret"), ("LIST", "::1")]);
        reader.number(&NUMBER, 5, 1, 10);
        reader.secret(&SECRET);
        reader.networks(&LIST, Vec::new());
        assert_eq!(reader.printable(), "NUMBER=5 SECRET=<set> LIST=::1");
    }

    #[test]
    #[should_panic(expected = "NUMBER: the default of the code is not the documented one, 5")]
    fn the_documented_default_is_the_one_in_the_code() {
        reader(&[]).number(&NUMBER, 6, 1, 10);
    }

    #[test]
    fn a_secret_comes_from_either_place_but_not_from_both_and_is_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        let path = file.to_str().unwrap();
        fs::write(&file, "s3cret/ with\nlines\r\n").unwrap();

        let mut from_file = reader(&[("SECRET_FILE", path)]);
        let secret = from_file.secret(&SECRET).unwrap();
        assert_eq!(secret.expose(), "s3cret/ with\nlines");
        assert!(!format!("{secret:?}{}", from_file.printable()).contains("s3cret"));

        let problem = |variables: &[(&str, &str)]| {
            let mut reader = reader(variables);
            assert_eq!(reader.secret(&SECRET), None);
            problems(reader).join("\n")
        };
        let both = problem(&[("SECRET", "topsecret"), ("SECRET_FILE", path)]);
        assert!(
            both.contains("SECRET_FILE is set as well") && !both.contains("topsecret"),
            "{both}"
        );
        let missing = problem(&[("SECRET_FILE", "/nowhere/secret")]);
        assert!(
            missing.starts_with("SECRET_FILE: /nowhere/secret cannot be read"),
            "{missing}"
        );
        let folder_path = folder.path().to_str().unwrap();
        assert!(problem(&[("SECRET_FILE", folder_path)]).contains("cannot be read"));
        fs::write(&file, "\n").unwrap();
        assert!(problem(&[("SECRET_FILE", path)]).contains("is empty"));
        fs::write(&file, b"\xff").unwrap();
        assert!(problem(&[("SECRET_FILE", path)]).contains("cannot be read"));
    }

    #[test]
    fn another_default_yields_to_what_is_set() {
        let mut reader = reader(&[("NUMBER", "7"), ("SECRET_FILE", "/nowhere/secret")]);
        reader.default_to("NUMBER", "8");
        reader.default_to("SECRET", "made here");
        reader.default_to("LIST", "::1");
        assert_eq!(reader.number(&NUMBER, 5, 1, 10), 7);
        assert_eq!(reader.networks(&LIST, Vec::new()).len(), 1);
        reader.secret(&SECRET);
        assert!(problems(reader)[0].starts_with("SECRET_FILE: /nowhere/secret cannot be read"));
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("5", Some(5)),
            ("1KiB", Some(1_024)),
            ("2 GiB", Some(2 << 30)),
            ("1t", Some(1 << 40)),
            ("x", None),
            ("1XB", None),
            ("-1", None),
            ("99999999999999999999", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
    }

    #[test]
    fn networks_and_hosts() {
        let networks = parse_networks("10.0.0.0/8, ::1 ,").unwrap();
        assert_eq!(
            networks,
            ["10.0.0.0/8".parse::<IpNet>().unwrap(), "::1/128".parse().unwrap()]
        );
        assert_eq!(parse_networks("10.0.0.0/33"), None);
        assert_eq!(parse_networks("loopback"), None);
        let hosts = parse_hosts("Mail.Google.com,x.example").unwrap();
        assert_eq!(
            hosts,
            BTreeSet::from(["mail.google.com".into(), "x.example".into()])
        );
        assert_eq!(parse_hosts("https://mail.google.com/"), None);
    }

    #[test]
    fn urls_are_of_http_and_without_a_password() {
        for (text, accepted) in [
            ("http://collector:4317", true),
            ("https://collector.example/v1", true),
            ("collector:4317", false),
            ("ftp://collector", false),
            ("http://", false),
            ("http://me:s3cret@collector", false),
        ] {
            let mut reader = reader(&[("LIST", text)]);
            assert_eq!(reader.url(&LIST).is_some(), accepted, "{text}");
        }
    }
}
