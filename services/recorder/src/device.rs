//! Whether a user agent is a phone's or a computer's (`docs/adr/0005-device-types.md` says how that is found).

use anyhow::Context;
use ua_parser::os;

/// uap-core's patterns of operating systems, see `data/uap-core/README.md`.
const OS_PATTERNS: &str = include_str!("../data/uap-core/os_parsers.json");

/// What an open was read on, as far as the user agent tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeviceType {
    /// A phone.
    Phone,
    /// A desktop or laptop computer.
    Computer,
    /// A tablet, a television, a proxy, a program, or unknown.
    Other,
}

impl DeviceType {
    /// Its name in the database and in the API.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Phone => "phone",
            Self::Computer => "computer",
            Self::Other => "other",
        }
    }
}

/// Tells devices by their operating systems. About 5 MB once made, and 2 µs for each user agent.
pub(crate) struct Devices(os::Extractor<'static>);

impl std::fmt::Debug for Devices {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Devices")
    }
}

impl Devices {
    /// Compiles the patterns.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let patterns: Vec<os::Parser<'static>> =
            serde_json::from_str(OS_PATTERNS).context("reading the built-in device patterns")?;
        let extractor = patterns
            .into_iter()
            .try_fold(os::Builder::new(), os::Builder::push)
            .context("compiling the built-in device patterns")?
            .build()
            .context("compiling the built-in device patterns")?;
        Ok(Self(extractor))
    }

    /// The device behind a user agent that is no proxy's.
    pub(crate) fn of(&self, user_agent: &str) -> DeviceType {
        let Some(found) = self.0.extract(user_agent) else {
            return DeviceType::Other;
        };
        match &*found.os {
            // Tablets share the phone's system; each vendor has one word that tells them apart.
            "iOS" if contains_ignoring_case(user_agent, "ipad") => DeviceType::Other,
            "Android" if !contains_ignoring_case(user_agent, "mobile") => DeviceType::Other,
            "iOS" | "Android" | "Windows Phone" | "Windows Mobile" | "BlackBerry OS" | "KaiOS"
            | "Symbian OS" | "HarmonyOS" => DeviceType::Phone,
            "Windows" | "Mac OS X" | "Mac OS" | "Linux" | "Chrome OS" | "Ubuntu" | "Debian" | "Fedora"
            | "Red Hat" | "SUSE" | "Arch Linux" | "Gentoo" | "Mint" | "Mandriva" | "CentOS" | "FreeBSD"
            | "OpenBSD" | "NetBSD" | "Solaris"
                if !is_television(user_agent) =>
            {
                DeviceType::Computer
            }
            _ => DeviceType::Other,
        }
    }
}

/// Televisions and consoles run the systems of computers.
fn is_television(user_agent: &str) -> bool {
    ["tv", "xbox"]
        .iter()
        .any(|word| contains_ignoring_case(user_agent, word))
}

fn contains_ignoring_case(text: &str, lower_case_word: &str) -> bool {
    text.as_bytes()
        .windows(lower_case_word.len())
        .any(|part| part.eq_ignore_ascii_case(lower_case_word.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn todays_user_agents_are_told_apart() {
        let devices = Devices::new().unwrap();
        for line in include_str!("../data/user_agents.tsv")
            .lines()
            .filter(|line| !line.starts_with('#'))
        {
            let (expected, user_agent) = line.split_once('\t').unwrap();
            assert_eq!(devices.of(user_agent).as_str(), expected, "{user_agent}");
        }
    }

    #[test]
    fn any_text_is_some_device() {
        let devices = Devices::new().unwrap();
        for text in ["", "\u{1F4E7}", "Android", "iPad", &"Mobile ".repeat(146)] {
            assert_ne!(devices.of(text), DeviceType::Computer, "{text}");
        }
    }
}
