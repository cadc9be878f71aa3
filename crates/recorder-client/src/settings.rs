//! Where the recorders are, and the secret shared with them.

use service_kit::{Reader, Secret, Setting};
use tonic::metadata::{Ascii, MetadataValue};

use crate::RecorderUrl;

/// Where a pixel finds recorders.
pub const RECORDER_URL: Setting = Setting::new(
    "RECORDER_URL",
    "http://127.0.0.1:50051",
    "Where the recorder is; several URLs are separated by commas, and every address of each name is used. https:// is checked \
     against the system's certificates.",
);
/// What a pixel says to be let in.
pub const RECORDER_TOKEN: Setting = Setting::secret(
    "RECORDER_TOKEN",
    "",
    "Shared with the recorder, which takes facts only from who knows it.",
);
/// Where recorders are for who can do without them.
pub const URL_OF_USERS: Setting = Setting::new(
    "RECORDER_URL",
    "",
    "Where the recorder is, which does what users ask for: erasing, and ending all sessions at log-out; as the pixel has it. \
     Unset: neither can be done.",
);
/// What they say to be let in.
pub const TOKEN_OF_USERS: Setting = Setting::secret("RECORDER_TOKEN", "", "Shared with the recorder.");

/// Where recorders are, and the secret shared with them.
#[derive(Clone, Debug)]
pub struct RecorderSettings {
    /// The recorders.
    pub urls: Vec<RecorderUrl>,
    /// The secret shared with them.
    pub token: Option<Secret>,
}

impl RecorderSettings {
    /// Reads them; without `RECORDER_URL` the recorder is on this machine.
    pub fn read(reader: &mut Reader) -> Self {
        let token = read_token(reader, &RECORDER_TOKEN);
        let urls = read_urls(reader, &RECORDER_URL)
            .or_else(|| parse_urls(RECORDER_URL.default))
            .unwrap_or_default();
        Self { urls, token }
    }

    /// Reads them for who can do without; `None` without `RECORDER_URL`.
    pub fn read_optional(reader: &mut Reader) -> Option<Self> {
        let token = read_token(reader, &TOKEN_OF_USERS);
        let urls = read_urls(reader, &URL_OF_USERS)?;
        Some(Self { urls, token })
    }

    /// The value of the `authorization` that each call carries.
    #[must_use]
    pub fn authorization(&self) -> Option<MetadataValue<Ascii>> {
        self.token.as_ref().and_then(bearer)
    }
}

fn read_urls(reader: &mut Reader, setting: &'static Setting) -> Option<Vec<RecorderUrl>> {
    let accepted = "URLs of a scheme, a host and a port, such as http://recorder:50051, separated by commas";
    reader.optional(setting, accepted, parse_urls)
}

fn read_token(reader: &mut Reader, setting: &'static Setting) -> Option<Secret> {
    let token = reader.secret(setting);
    if token.as_ref().is_some_and(|token| bearer(token).is_none()) {
        reader.refuse(
            setting,
            "it must be of visible ASCII characters, as an HTTP header takes them",
        );
    }
    token
}

fn parse_urls(text: &str) -> Option<Vec<RecorderUrl>> {
    text.split(',').map(|url| url.parse().ok()).collect()
}

fn bearer(token: &Secret) -> Option<MetadataValue<Ascii>> {
    let mut value: MetadataValue<Ascii> = format!("Bearer {}", token.expose()).parse().ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn who_can_do_without_a_recorder_needs_no_setting() {
        let mut reader = Reader::from_variables([("", ""); 0]);
        assert!(RecorderSettings::read_optional(&mut reader).is_none());
        let urls = RecorderSettings::read(&mut reader).urls;
        assert_eq!(urls, ["http://127.0.0.1:50051".parse().unwrap()]);
        reader.finish(()).unwrap();
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_is_printed() {
        let mut reader = Reader::from_variables([
            ("RECORDER_URL", "http://a:1,recorder"),
            ("RECORDER_TOKEN", "geheim\u{7}"),
        ]);
        let settings = RecorderSettings::read_optional(&mut reader);
        let printed = format!("{settings:?} {}", reader.printable());
        let problems = reader.finish(()).unwrap_err().to_string();
        for name in ["RECORDER_URL", "RECORDER_TOKEN"] {
            assert!(problems.lines().any(|line| line.starts_with(name)), "{problems}");
        }
        assert!(!printed.contains("geheim") && !problems.contains("geheim"));
    }
}
