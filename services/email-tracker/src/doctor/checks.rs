//! The checks, and what each of them needs to make sense.

/// One check. They are made in the order given here, in which none needs a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Dns,
    DnsA,
    DnsAaaa,
    HttpsPort,
    HttpPort,
    Tls,
    Clock,
    CertificateChain,
    CertificateDates,
    CertificateName,
    SpoolDisk,
    DataDisk,
    Database,
    Schema,
    PixelService,
    RecorderService,
    DashboardService,
    DashboardRecorder,
    Health,
    Pixel,
    PlainPixel,
    Dashboard,
    Token,
    WrongToken,
    SelfTest,
    PixelClock,
    Spool,
    PublicPaths,
    AdminPorts,
}

impl Check {
    pub(super) const ALL: [Self; 29] = [
        Self::Dns,
        Self::DnsA,
        Self::DnsAaaa,
        Self::HttpsPort,
        Self::HttpPort,
        Self::Tls,
        Self::Clock,
        Self::CertificateChain,
        Self::CertificateDates,
        Self::CertificateName,
        Self::SpoolDisk,
        Self::DataDisk,
        Self::Database,
        Self::Schema,
        Self::PixelService,
        Self::RecorderService,
        Self::DashboardService,
        Self::DashboardRecorder,
        Self::Health,
        Self::Pixel,
        Self::PlainPixel,
        Self::Dashboard,
        Self::Token,
        Self::WrongToken,
        Self::SelfTest,
        Self::PixelClock,
        Self::Spool,
        Self::PublicPaths,
        Self::AdminPorts,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::DnsA => "dns-a",
            Self::DnsAaaa => "dns-aaaa",
            Self::HttpsPort => "port",
            Self::HttpPort => "plain-port",
            Self::Tls => "tls",
            Self::Clock => "clock",
            Self::CertificateChain => "certificate-chain",
            Self::CertificateDates => "certificate-dates",
            Self::CertificateName => "certificate-name",
            Self::SpoolDisk => "spool-disk",
            Self::DataDisk => "data-disk",
            Self::Database => "database",
            Self::Schema => "schema",
            Self::PixelService => "pixel-service",
            Self::RecorderService => "recorder-service",
            Self::DashboardService => "dashboard-service",
            Self::DashboardRecorder => "dashboard-recorder",
            Self::Health => "health",
            Self::Pixel => "pixel",
            Self::PlainPixel => "plain-pixel",
            Self::Dashboard => "dashboard",
            Self::Token => "token",
            Self::WrongToken => "wrong-token",
            Self::SelfTest => "self-test",
            Self::PixelClock => "pixel-clock",
            Self::Spool => "spool",
            Self::PublicPaths => "public-paths",
            Self::AdminPorts => "admin-ports",
        }
    }

    /// The checks that have to be well before this one says anything of its own.
    pub(super) const fn needs(self) -> &'static [Self] {
        match self {
            Self::Dns | Self::SpoolDisk | Self::DataDisk | Self::Database | Self::PixelService => &[],
            Self::DnsA | Self::DnsAaaa => &[Self::Dns],
            Self::HttpsPort | Self::HttpPort | Self::AdminPorts => &[Self::Dns, Self::DnsA, Self::DnsAaaa],
            Self::Tls => &[Self::HttpsPort],
            Self::Clock => &[Self::Tls, Self::HttpsPort],
            // By a wrong clock any certificate is out of date.
            Self::CertificateChain => &[Self::Tls, Self::Clock],
            Self::CertificateDates | Self::CertificateName => &[Self::CertificateChain],
            Self::Schema => &[Self::Database],
            Self::RecorderService | Self::DashboardService => &[Self::Schema],
            Self::DashboardRecorder => &[Self::RecorderService, Self::DashboardService],
            Self::Health => &[
                Self::CertificateChain,
                Self::CertificateDates,
                Self::CertificateName,
                Self::HttpsPort,
                Self::PixelService,
            ],
            Self::Pixel | Self::PublicPaths => &[Self::Health],
            Self::PlainPixel => &[Self::HttpPort, Self::Health],
            Self::Dashboard => &[Self::Health, Self::Schema, Self::DashboardService],
            Self::Token | Self::WrongToken => &[Self::Dashboard],
            Self::SelfTest => &[Self::Pixel, Self::Token, Self::RecorderService, Self::SpoolDisk],
            Self::PixelClock => &[Self::SelfTest],
            Self::Spool => &[Self::PixelService, Self::SpoolDisk, Self::RecorderService],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn none_needs_a_later_one_and_no_two_share_a_name() {
        let place = |wanted: Check| Check::ALL.iter().position(|check| *check == wanted);
        for check in Check::ALL {
            for needed in check.needs() {
                assert!(
                    place(*needed).unwrap() < place(check).unwrap(),
                    "{} needs {}",
                    check.name(),
                    needed.name()
                );
            }
        }
        let names: BTreeSet<&str> = Check::ALL.iter().map(|check| check.name()).collect();
        assert_eq!(names.len(), Check::ALL.len());
    }
}
