//! The certificate: what the server sends, and what is wrong with it.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio_rustls::TlsConnector;
use tracking::Timestamp;

/// Later than any certificate of a public authority ends; what is then wrong with a good one says when it does.
const FAR: Duration = Duration::from_hours(24 * 365 * 100);

/// Whom to trust, and how to speak with whom.
pub(super) struct Trust {
    verifier: Arc<WebPkiServerVerifier>,
    provider: Arc<CryptoProvider>,
}

/// What the server showed.
pub(super) struct Shown {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) name: ServerName<'static>,
}

/// Why there is no way from the certificate to a known authority.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gap {
    /// Nothing was sent between the server's certificate and this authority, which is none of the known.
    MissingIntermediate(String),
    /// The certificates lead to this authority, which is none of the known.
    UnknownRoot(String),
    /// Something else.
    Other(String),
}

impl Trust {
    /// The system's authorities, or those of a file.
    pub(super) fn new(ca_file: Option<&Path>) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        if let Some(file) = ca_file {
            for certificate in CertificateDer::pem_file_iter(file).context("CA_FILE cannot be read")? {
                roots.add(certificate.context("CA_FILE is no file of certificates in PEM form")?)?;
            }
        } else {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .context("this system trusts no authority: install ca-certificates, or set CA_FILE")?;
        Ok(Self { verifier, provider })
    }

    /// Speaks with a server whose certificate is in order only.
    pub(super) fn careful(&self) -> anyhow::Result<TlsConnector> {
        self.connector(Arc::<WebPkiServerVerifier>::clone(&self.verifier))
    }

    /// Speaks with anybody, to see who it is. Nothing secret goes this way.
    pub(super) fn careless(&self) -> anyhow::Result<TlsConnector> {
        self.connector(Arc::new(Anybody(Arc::clone(&self.provider))))
    }

    fn connector(&self, verifier: Arc<dyn ServerCertVerifier>) -> anyhow::Result<TlsConnector> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsConnector::from(Arc::new(config)))
    }

    fn verify(&self, shown: &Shown, at: UnixTime) -> Result<(), CertificateError> {
        let (leaf, others) = shown.chain.split_first().ok_or(CertificateError::BadEncoding)?;
        match self
            .verifier
            .verify_server_cert(leaf, others, &shown.name, &[], at)
        {
            Ok(_) => Ok(()),
            Err(Error::InvalidCertificate(error)) => Err(error),
            Err(other) => Err(CertificateError::Other(rustls::OtherError(Arc::new(other)))),
        }
    }

    /// Whether the certificates lead to a known authority, and a time at which all of them hold, if there is one.
    pub(super) fn chain(&self, shown: &Shown, now: Timestamp) -> Result<UnixTime, Gap> {
        let mut at = unix_time(now);
        // Each certificate on the way may move the time once or twice.
        for _ in 0..8 {
            match self.verify(shown, at) {
                Ok(()) => return Ok(at),
                Err(CertificateError::ExpiredContext { not_after, .. }) => at = not_after,
                Err(CertificateError::NotValidYetContext { not_before, .. }) => at = not_before,
                // The name is looked at last: all else was right.
                Err(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
                    return Ok(at);
                }
                Err(CertificateError::UnknownIssuer) => return Err(gap(&shown.chain)),
                Err(other) => return Err(Gap::Other(other.to_string())),
            }
        }
        Err(Gap::Other("its certificates hold at no common time".to_owned()))
    }

    /// The names that the certificate is for, if the server's is not among them.
    pub(super) fn foreign_names(&self, shown: &Shown, valid_at: UnixTime) -> Option<String> {
        match self.verify(shown, valid_at) {
            Err(CertificateError::NotValidForNameContext { presented, .. }) if !presented.is_empty() => {
                Some(presented.join(", "))
            }
            Err(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
                Some("other names".to_owned())
            }
            _ => None,
        }
    }

    /// Since or until when the certificates do not hold at `at`.
    pub(super) fn dates(&self, shown: &Shown, at: Timestamp) -> Dates {
        match self.verify(shown, unix_time(at)) {
            Err(CertificateError::ExpiredContext { not_after, .. }) => Dates::Ended(timestamp(not_after)),
            Err(CertificateError::NotValidYetContext { not_before, .. }) => {
                Dates::NotBegun(timestamp(not_before))
            }
            _ => Dates::Valid,
        }
    }

    /// When the certificate will end.
    pub(super) fn end(&self, shown: &Shown, now: Timestamp) -> Option<Timestamp> {
        let far = i64::try_from(FAR.as_millis()).ok()?;
        match self.dates(shown, now.saturating_add_millis(far)) {
            Dates::Ended(at) => Some(at),
            _ => None,
        }
    }
}

/// How a time stands to the certificates'.
pub(super) enum Dates {
    Valid,
    Ended(Timestamp),
    NotBegun(Timestamp),
}

fn unix_time(at: Timestamp) -> UnixTime {
    let millis = u64::try_from(at.as_millis()).unwrap_or_default();
    UnixTime::since_unix_epoch(Duration::from_millis(millis))
}

fn timestamp(at: UnixTime) -> Timestamp {
    let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    Timestamp::from_millis(seconds.saturating_mul(1_000))
}

/// Follows the certificates from the server's own to the last that was sent, and says what should come then.
fn gap(chain: &[CertificateDer<'_>]) -> Gap {
    let parsed: Result<Vec<_>, _> = chain.iter().map(webpki::EndEntityCert::try_from).collect();
    let Ok(parsed) = parsed else {
        return Gap::Other("a certificate cannot be read".to_owned());
    };
    let Some((leaf, others)) = parsed.split_first() else {
        return Gap::Other("no certificate was sent".to_owned());
    };
    let mut top = leaf;
    // Bounded by the number of certificates: two may name each other.
    for _ in others {
        let next = others
            .iter()
            .find(|other| top.issuer() != top.subject() && other.subject() == top.issuer());
        match next {
            Some(next) => top = next,
            None => break,
        }
    }
    let issuer = common_name(top.issuer());
    if top.subject() == leaf.subject() && top.issuer() != top.subject() {
        Gap::MissingIntermediate(issuer)
    } else {
        Gap::UnknownRoot(issuer)
    }
}

/// The common name in a DER-encoded name, or what to say instead.
fn common_name(name: &[u8]) -> String {
    const COMMON_NAME: [u8; 5] = [0x06, 0x03, 0x55, 0x04, 0x03];
    let text = || {
        let at = name
            .windows(COMMON_NAME.len())
            .position(|window| window == COMMON_NAME)?;
        let [_tag, length, rest @ ..] = name.get(at + COMMON_NAME.len()..)? else {
            return None;
        };
        let text = rest.get(..usize::from(*length))?;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    text().unwrap_or_else(|| "an authority without a common name".to_owned())
}

/// Lets every certificate pass; its holder still has to hold its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
