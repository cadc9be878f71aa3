//! Settings: environment variables, typed, all of them checked before a service starts.
//!
//! A service declares each of its settings once, as a [`Setting`], in a `pub const SETTINGS`; [`table`] makes the tables
//! of `docs/settings.md` from these declarations, and a test of the command line, which knows all services, compares the
//! two. A [`Reader`] parses the variables and collects *every* problem, so that one start reports all mistakes.
//! An empty variable counts as unset: Compose passes unset ones as empty.

mod common;
mod reader;

use std::fmt;

use thiserror::Error;

pub use self::{
    common::{COMMON, Common, LogFormat},
    reader::Reader,
};

/// A setting as it is documented.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// What holds when it is unset, in words or as the value; empty if there is nothing. Where it is a value, debug builds
    /// check that the code's default is the same.
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

/// The table of `docs/settings.md` for one program: its name and its settings.
#[must_use]
pub fn table(program: &str, settings: &[&[Setting]]) -> String {
    let rows: String = settings
        .iter()
        .flat_map(|settings| settings.iter())
        .map(row)
        .collect();
    format!("## {program}\n\n| variable | default | what it does |\n| --- | --- | --- |\n{rows}")
}

fn row(setting: &Setting) -> String {
    let Setting {
        name,
        default,
        help,
        secret,
    } = setting;
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_setting() {
        let settings = [
            Setting::new("SIZE", "5", "How large."),
            Setting::secret("TOKEN", "", "Who may."),
        ];
        assert_eq!(
            table("Pixel", &[&settings]),
            "## Pixel\n\n| variable | default | what it does |\n| --- | --- | --- |\n\
             | `SIZE` | `5` | How large. |\n\
             | `TOKEN` |  | Who may. (secret; also `TOKEN_FILE`) |\n"
        );
    }
}
