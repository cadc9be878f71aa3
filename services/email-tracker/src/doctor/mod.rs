//! `doctor`: looks at a running Email Tracker from where it is started, and names what is wrong first.
//!
//! Each [`checks::Check`] says which others it needs. One that needs a failed one is not made: what it would find is that
//! failure once more. So whatever fails is a cause, and not the consequence of something else that was looked at.

mod certificate;
mod checks;
mod dns;
mod host;
mod http;
mod network;
mod public;
mod report;
mod settings;
mod tls;

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use rustls::pki_types::{ServerName, UnixTime};
use service_kit::{Reader, SystemClock};
use tracking::{Clock as _, Timestamp};

pub(crate) use self::settings::{Address, SETTINGS};
use self::{
    checks::Check,
    http::Server,
    report::{Finding, Report},
    settings::Settings,
    tls::Shown,
};

/// What `doctor` is asked.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(
        help = "Where Email Tracker is reached, for example https://track.example.com; without it, https://DOMAIN"
    )]
    address: Option<Address>,
    /// Print JSON instead
    #[arg(long)]
    json: bool,
}

/// The whole command.
pub(crate) fn doctor(arguments: Arguments) -> anyhow::Result<()> {
    let mut reader = Reader::from_environment();
    let (address, settings) = Settings::read(&mut reader, arguments.address);
    let settings = reader.finish(settings)?;
    let address = address.context("no address is given")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("no runtime")?;
    let report = runtime.block_on(examine(Patient::new(address, settings)));
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    print(&report, arguments.json);
    match report.root_causes().as_slice() {
        [] => Ok(()),
        [cause] => bail!("{cause} failed"),
        causes => bail!("{} failed", causes.join(", ")),
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn print(report: &Report, as_json: bool) {
    if as_json {
        println!("{:#}", report.json());
    } else {
        print!("{report}");
    }
}

async fn examine(mut patient: Patient) -> Report {
    let mut report = Report::new(patient.address.url());
    for check in Check::ALL {
        let finding = match report.obstacle(check) {
            Some(cause) => Finding::needs(cause.name()),
            None => patient.look_at(check).await,
        };
        report.add(check, patient.asked(check), finding);
    }
    report
}

/// What is looked at, with what is known of it so far.
struct Patient {
    address: Address,
    settings: Settings,
    /// Where the name leads.
    addresses: Vec<IpAddr>,
    /// The certificates, and a time at which they hold.
    shown: Option<(Shown, UnixTime)>,
    /// What the database says of its schema.
    schema: Option<Finding>,
    /// The email made up for the self-test.
    test: TestEmail,
}

/// An email that nobody sent.
struct TestEmail {
    email_id: String,
    /// Path of its pixel.
    pixel: String,
    /// Between what times its pixel was fetched.
    fetched: Option<(Timestamp, Timestamp)>,
    /// When the recorded open was, as the dashboard says.
    opened_at: Option<Timestamp>,
}

impl TestEmail {
    fn new(now: Timestamp) -> Self {
        let name = format!("{}-{:08x}", now.as_millis(), rand::random::<u32>());
        let token = tracking::doctor::token(&name, now);
        Self {
            pixel: format!("/t/{}.gif", token.encode()),
            email_id: token.email_id,
            fetched: None,
            opened_at: None,
        }
    }
}

impl Patient {
    fn new(address: Address, settings: Settings) -> Self {
        Self {
            address,
            settings,
            addresses: Vec::new(),
            shown: None,
            schema: None,
            test: TestEmail::new(SystemClock.now()),
        }
    }

    /// Makes one check.
    async fn look_at(&mut self, check: Check) -> Finding {
        match check {
            Check::Dns => self.dns().await,
            Check::DnsA => self.dns_points_here(IpAddr::is_ipv4, "A"),
            Check::DnsAaaa => self.dns_points_here(IpAddr::is_ipv6, "AAAA"),
            Check::HttpsPort => self.port(self.address.port).await,
            Check::HttpPort => self.port(self.settings.plain_port).await,
            Check::Tls => self.tls().await,
            Check::Clock => self.clock().await,
            Check::CertificateChain => self.certificate_chain(),
            Check::CertificateDates => self.certificate_dates(),
            Check::CertificateName => self.certificate_name(),
            Check::SpoolDisk => host::disk("SPOOL_DIR", self.settings.spool_dir.as_deref()),
            Check::DataDisk => host::disk("DATA_DIR", self.settings.data_dir.as_deref()),
            Check::Database => self.database().await,
            Check::Schema => self.schema(),
            Check::PixelService => {
                host::service("PIXEL_ADMIN_URL", self.settings.pixel_admin.as_ref(), "pixel").await
            }
            Check::RecorderService => {
                host::service(
                    "RECORDER_ADMIN_URL",
                    self.settings.recorder_admin.as_ref(),
                    "recorder",
                )
                .await
            }
            Check::DashboardService => {
                host::service(
                    "DASHBOARD_ADMIN_URL",
                    self.settings.dashboard_admin.as_ref(),
                    "dashboard",
                )
                .await
            }
            Check::DashboardRecorder => {
                host::dashboard_recorder(self.settings.dashboard_admin.as_ref()).await
            }
            Check::Health => self.health("/health", "pixel").await,
            Check::Dashboard => self.health("/dashboard/health", "dashboard").await,
            Check::Pixel => self.pixel().await,
            Check::PlainPixel => self.plain_pixel().await,
            Check::Token => self.token().await,
            Check::WrongToken => self.wrong_token().await,
            Check::SelfTest => self.self_test().await,
            Check::PixelClock => self.pixel_clock(),
            Check::Spool => host::spool(self.settings.pixel_admin.as_ref()).await,
            Check::PublicPaths => self.public_paths().await,
            Check::AdminPorts => self.admin_ports().await,
        }
    }

    /// What a check looks at, in words.
    fn asked(&self, check: Check) -> String {
        let Address { host, port, .. } = &self.address;
        let url = self.address.url();
        let folder = |folder: &Option<std::path::PathBuf>, name: &str| match folder {
            Some(folder) => format!("room on the disk of {}", folder.display()),
            None => format!("room on the disk of {name}"),
        };
        match check {
            Check::Dns => format!("addresses of {host}"),
            Check::DnsA => format!("A records of {host} against PUBLIC_ADDRESS"),
            Check::DnsAaaa => format!("AAAA records of {host} against PUBLIC_ADDRESS"),
            Check::HttpsPort => format!("port {port} from this host"),
            Check::HttpPort => format!("port {} from this host", self.settings.plain_port),
            Check::Tls => format!("TLS handshake with {host}"),
            Check::Clock => "this host's clock against the server's `Date`".to_owned(),
            Check::CertificateChain => "certificate, up to a known authority".to_owned(),
            Check::CertificateDates => "certificate, from when to when".to_owned(),
            Check::CertificateName => format!("certificate, for {host}"),
            Check::SpoolDisk => folder(&self.settings.spool_dir, "the spool"),
            Check::DataDisk => folder(&self.settings.data_dir, "the data"),
            Check::Database => "connection to the database".to_owned(),
            Check::Schema => format!("schema, version {} or newer", database::SCHEMA_VERSION),
            Check::PixelService => "the pixel's /ready".to_owned(),
            Check::RecorderService => "the recorder's /ready".to_owned(),
            Check::DashboardService => "the dashboard's /ready".to_owned(),
            Check::DashboardRecorder => "the dashboard's way to the recorder".to_owned(),
            Check::Health => format!("{url}/health"),
            Check::Dashboard => format!("{url}/dashboard/health"),
            Check::Pixel => format!("a pixel at {url}"),
            Check::PlainPixel => format!("the same pixel on port {}", self.settings.plain_port),
            Check::Token => "DASHBOARD_TOKEN at the dashboard".to_owned(),
            Check::WrongToken => "no token and a wrong one at the dashboard".to_owned(),
            Check::SelfTest => "that pixel's open at the dashboard".to_owned(),
            Check::PixelClock => "the time of that open against this host's clock".to_owned(),
            Check::Spool => "what the pixel's spool holds".to_owned(),
            Check::PublicPaths => format!("/metrics, /ready and /live at {url}"),
            Check::AdminPorts => "admin ports at the public address".to_owned(),
        }
    }

    /// The public address; with TLS, only if its certificate is in order.
    fn server(&self) -> anyhow::Result<Server<'_>> {
        self.server_trusting(true)
    }

    /// The same, with whatever certificate.
    fn anybody(&self) -> anyhow::Result<Server<'_>> {
        self.server_trusting(false)
    }

    fn server_trusting(&self, careful: bool) -> anyhow::Result<Server<'_>> {
        let tls = if self.address.is_https {
            let trust = self
                .settings
                .trust
                .as_ref()
                .context("there is no authority to trust")?;
            let connector = if careful {
                trust.careful()?
            } else {
                trust.careless()?
            };
            let name = ServerName::try_from(self.address.host.clone())?;
            Some((connector, name))
        } else {
            None
        };
        Ok(Server {
            addresses: &self.addresses,
            port: self.address.port,
            host: self.address.authority.clone(),
            tls,
        })
    }
}
