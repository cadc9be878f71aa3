//! What `doctor` is told: whom to look at, and what it needs to look further.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use axum::http::Uri;
use database::Config;
use service_kit::{Reader, Secret, Setting};

use super::tls::Trust;
use crate::migrate;

const DOMAIN: Setting = Setting::new(
    "DOMAIN",
    "",
    "The public name, if no address is given as the argument: `https://DOMAIN`.",
);
const PUBLIC_ADDRESS: Setting = Setting::new(
    "PUBLIC_ADDRESS",
    "",
    "The public addresses of this host, IPv4 and IPv6, separated by commas, which the name has to lead to.",
);
const DNS_SERVER: Setting = Setting::new(
    "DNS_SERVER",
    "the system's",
    "The name server to ask, such as `9.9.9.9` or `127.0.0.1:5353`; the system's resolver also reads `/etc/hosts`, as nobody \
     outside does.",
);
const PLAIN_PORT: Setting = Setting::new(
    "PLAIN_PORT",
    "80",
    "Port on which pixels are answered without TLS, 1 to 65535.",
);
const ADMIN_PORTS: Setting = Setting::new(
    "ADMIN_PORTS",
    "9081,9082,9083,9090",
    "Ports that must not be reached at the public address.",
);
const CA_FILE: Setting = Setting::new(
    "CA_FILE",
    "the system's authorities",
    "File of certificates in PEM form that are trusted instead, for a certificate of one's own authority.",
);
const DASHBOARD_TOKEN: Setting = Setting::secret(
    "DASHBOARD_TOKEN",
    "",
    "The dashboard's token, for everything that is read there.",
);
const DATABASE_URL: Setting = Setting::secret(
    "DATABASE_URL",
    "",
    "The database, as any login that may connect: `postgres://USER@HOST:PORT/DATABASE`.",
);
const DATABASE_PASSWORD: Setting = Setting::secret(
    "DATABASE_PASSWORD",
    "",
    "Password for `DATABASE_URL`, written as it is.",
);
const PIXEL_ADMIN_URL: Setting = Setting::new(
    "PIXEL_ADMIN_URL",
    "",
    "The pixel's admin port, such as `http://127.0.0.1:9081`.",
);
const RECORDER_ADMIN_URL: Setting = Setting::new(
    "RECORDER_ADMIN_URL",
    "",
    "The recorder's admin port, such as `http://127.0.0.1:9083`.",
);
const DASHBOARD_ADMIN_URL: Setting = Setting::new(
    "DASHBOARD_ADMIN_URL",
    "",
    "The dashboard's admin port, such as `http://127.0.0.1:9082`.",
);
const SPOOL_DIR: Setting = Setting::new("SPOOL_DIR", "", "The pixel's spool, whose disk must have room.");
const DATA_DIR: Setting = Setting::new(
    "DATA_DIR",
    "",
    "Where the database keeps its files, or `up` everything; its disk must have room.",
);

/// The settings of `doctor`, for the table in the documentation.
pub(crate) const SETTINGS: [Setting; 14] = [
    DOMAIN,
    PUBLIC_ADDRESS,
    DNS_SERVER,
    PLAIN_PORT,
    ADMIN_PORTS,
    CA_FILE,
    DASHBOARD_TOKEN,
    DATABASE_URL,
    DATABASE_PASSWORD,
    PIXEL_ADMIN_URL,
    RECORDER_ADMIN_URL,
    DASHBOARD_ADMIN_URL,
    SPOOL_DIR,
    DATA_DIR,
];

const DNS_PORT: u16 = 53;

/// What `doctor` is told besides the address.
pub(super) struct Settings {
    pub(super) public_addresses: Vec<IpAddr>,
    pub(super) dns_server: Option<SocketAddr>,
    pub(super) plain_port: u16,
    pub(super) admin_ports: Vec<u16>,
    pub(super) trust: Option<Trust>,
    pub(super) dashboard_token: Option<Secret>,
    pub(super) database: Option<Config>,
    pub(super) pixel_admin: Option<Address>,
    pub(super) recorder_admin: Option<Address>,
    pub(super) dashboard_admin: Option<Address>,
    pub(super) spool_dir: Option<PathBuf>,
    pub(super) data_dir: Option<PathBuf>,
}

/// Where something is served, `http://HOST:PORT` or `https://HOST`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    pub(super) is_https: bool,
    /// A name or an address, without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// As it is to be written in `Host` and in a URL.
    pub(super) authority: String,
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected https://HOST or http://HOST:PORT, without a path";
        let uri: Uri = text.parse().map_err(|_| EXPECTED)?;
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(EXPECTED),
        };
        let authority = uri.authority().ok_or(EXPECTED)?;
        let has_more = uri.path() != "/" || uri.query().is_some() || authority.as_str().contains('@');
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        // `Uri` lets an unreadable port pass as none.
        let has_no_port = authority.as_str().len() == authority.host().len();
        let port = match authority.port_u16() {
            Some(port) => port,
            None if has_no_port && is_https => 443,
            None if has_no_port => 80,
            None => return Err(EXPECTED),
        };
        if has_more || host.is_empty() || port == 0 {
            return Err(EXPECTED);
        }
        Ok(Self {
            is_https,
            host: host.to_ascii_lowercase(),
            port,
            authority: authority.as_str().to_owned(),
        })
    }
}

impl Address {
    pub(super) fn url(&self) -> String {
        let scheme = if self.is_https { "https" } else { "http" };
        format!("{scheme}://{}", self.authority)
    }
}

impl Settings {
    /// Reads them, and the address to look at unless it is `given`.
    pub(super) fn read(reader: &mut Reader, given: Option<Address>) -> (Option<Address>, Self) {
        let domain = reader.optional(&DOMAIN, "a host name such as track.example.com", |domain| {
            format!("https://{domain}").parse().ok()
        });
        let address: Option<Address> = given.or(domain);
        if address.is_none() {
            reader.refuse(
                &DOMAIN,
                "it is not set, and no address is given as the argument, such as https://track.example.com",
            );
        }
        let settings = Self {
            public_addresses: reader.or(
                &PUBLIC_ADDRESS,
                Vec::new(),
                "IP addresses separated by commas",
                list,
            ),
            dns_server: reader.optional(
                &DNS_SERVER,
                "an IP address, with a port if it is not 53",
                parse_server,
            ),
            plain_port: reader.number(&PLAIN_PORT, 80, 1, u16::MAX),
            admin_ports: reader.or(
                &ADMIN_PORTS,
                vec![9081, 9082, 9083, 9090],
                "ports separated by commas",
                list,
            ),
            trust: read_trust(reader),
            dashboard_token: reader.secret(&DASHBOARD_TOKEN),
            database: migrate::through_any(reader)
                .map(|database| database.application_name("email-tracker doctor")),
            pixel_admin: read_admin(reader, &PIXEL_ADMIN_URL),
            recorder_admin: read_admin(reader, &RECORDER_ADMIN_URL),
            dashboard_admin: read_admin(reader, &DASHBOARD_ADMIN_URL),
            spool_dir: reader.path(&SPOOL_DIR),
            data_dir: reader.path(&DATA_DIR),
        };
        (address, settings)
    }
}

/// `None` without any authority to trust, of which the check of the chain tells.
fn read_trust(reader: &mut Reader) -> Option<Trust> {
    let file = reader.path(&CA_FILE);
    match Trust::new(file.as_deref()) {
        Ok(trust) => Some(trust),
        Err(error) => {
            if file.is_some() {
                reader.refuse(&CA_FILE, format!("{error:#}"));
            }
            None
        }
    }
}

fn read_admin(reader: &mut Reader, setting: &Setting) -> Option<Address> {
    reader.optional(setting, "http://HOST:PORT", |text| {
        text.parse().ok().filter(|address: &Address| !address.is_https)
    })
}

fn list<T: FromStr>(text: &str) -> Option<Vec<T>> {
    text.split(',').map(|item| item.trim().parse().ok()).collect()
}

fn parse_server(text: &str) -> Option<SocketAddr> {
    let address = || Some(SocketAddr::new(text.parse().ok()?, DNS_PORT));
    text.parse().ok().or_else(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let of = |text: &str| {
            let address: Address = text.parse().map_err(|_| ())?;
            Ok::<_, ()>((address.is_https, address.host, address.port))
        };
        for (text, expected) in [
            ("https://Track.example.com", (true, "track.example.com", 443)),
            ("https://track.example.com/", (true, "track.example.com", 443)),
            ("http://127.0.0.1:8090", (false, "127.0.0.1", 8090)),
            ("https://[::1]:8443", (true, "::1", 8443)),
        ] {
            let (is_https, host, port) = expected;
            assert_eq!(of(text), Ok((is_https, host.to_owned(), port)), "{text}");
        }
        for wrong in [
            "",
            "track.example.com",
            "ftp://x",
            "https://",
            "https://x/dashboard",
            "https://x?y",
            "https://me:secret@x",
            "https://x:0",
            "https://x:99999",
            "https://x y",
            "https://x:",
        ] {
            assert_eq!(of(wrong), Err(()), "{wrong}");
        }
    }

    #[test]
    fn every_mistake_is_named() {
        let mut reader = Reader::from_variables([
            ("PUBLIC_ADDRESS", "here"),
            ("DNS_SERVER", "x"),
            ("ADMIN_PORTS", "1,-1"),
            ("CA_FILE", "/nowhere"),
            ("PIXEL_ADMIN_URL", "https://x"),
        ]);
        let _ = Settings::read(&mut reader, None);
        let problems = reader.finish(()).unwrap_err().0;
        let names: Vec<&str> = problems
            .iter()
            .filter_map(|line| line.split(':').next())
            .collect();
        let expected = [
            "DOMAIN",
            "PUBLIC_ADDRESS",
            "DNS_SERVER",
            "ADMIN_PORTS",
            "CA_FILE",
            "PIXEL_ADMIN_URL",
        ];
        assert_eq!(names, expected, "{problems:#?}");
    }
}
