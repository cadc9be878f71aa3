//! Certificates of an authority of the tests' own, good ones and bad ones.
#![allow(dead_code, reason = "no test needs all of it")]

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// What a server shows.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Certificate {
    Good,
    Expired,
    WithoutIntermediate,
    OfAnotherRoot,
    OfAnotherName,
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// The server's side of TLS for `name`, and the root to trust in PEM form.
pub(crate) fn certify(which: Certificate, name: &str) -> (TlsAcceptor, String) {
    let key = || KeyPair::generate().unwrap();
    let root = CertifiedIssuer::self_signed(authority("Test Root"), key()).unwrap();
    let intermediate = CertifiedIssuer::signed_by(authority("Test Intermediate"), key(), &root).unwrap();
    let name = if which == Certificate::OfAnotherName {
        "other.test"
    } else {
        name
    };
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "leaf");
    params.not_after = date_time_ymd(2090, 1, 1);
    if which == Certificate::Expired {
        params.not_before = date_time_ymd(2024, 1, 1);
        params.not_after = date_time_ymd(2024, 4, 1);
    }
    let leaf_key = key();
    let leaf = params.signed_by(&leaf_key, &intermediate).unwrap();
    let mut chain = vec![leaf.der().clone()];
    if which != Certificate::WithoutIntermediate {
        chain.push(intermediate.der().clone());
    }
    let trusted = if which == Certificate::OfAnotherRoot {
        CertifiedIssuer::self_signed(authority("Another Root"), key()).unwrap()
    } else {
        root
    };
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::try_from(leaf_key.serialize_der()).unwrap())
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), trusted.pem())
}
