//! TLS to a real server, with the meanings of `sslmode`.
#![allow(clippy::expect_used, clippy::panic, reason = "test helpers")]

mod common;

use std::path::PathBuf;

use common::config;
use database::{Config, Error};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use test_support::{OWNER, OWNER_PASSWORD, PrivatePostgres, TestDatabase};

/// An authority in a file.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("written");
        Self { issuer, folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Makes `server` speak TLS with a certificate for `name`.
    async fn certify(&self, server: &PrivatePostgres, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        server.put_file("server.crt", &certificate.pem());
        server.put_file("server.key", &key.serialize_pem());
        server
            .superuser("postgres")
            .await
            .batch_execute("alter system set ssl = on")
            .await
            .expect("a setting");
        server.stop().await;
        server.start_again().await;
    }
}

/// Whether the connection is encrypted.
async fn encrypted(config: &Config) -> Result<bool, Error> {
    let client = config.connect().await?;
    let row = client
        .query_one("select ssl from pg_stat_ssl where pid = pg_backend_pid()", &[])
        .await?;
    Ok(row.try_get(0)?)
}

fn with(database: &TestDatabase, parameters: &str) -> Config {
    config(&format!("{}?{parameters}", database.tcp_url_of(OWNER))).password(Some(OWNER_PASSWORD))
}

#[tokio::test]
async fn each_sslmode_does_what_libpq_does() {
    let server = PrivatePostgres::start().await;
    let database = server.empty_database().await;
    let (ours, other) = (Authority::new(), Authority::new());

    assert_eq!(
        encrypted(&with(&database, "sslmode=prefer")).await,
        Ok(false),
        "the server speaks none"
    );
    encrypted(&with(&database, "sslmode=require"))
        .await
        .expect_err("it cannot");

    ours.certify(&server, "127.0.0.1").await;
    assert_eq!(encrypted(&with(&database, "sslmode=disable")).await, Ok(false));
    for mode in ["prefer", "require"] {
        assert_eq!(
            encrypted(&with(&database, &format!("sslmode={mode}"))).await,
            Ok(true),
            "{mode}"
        );
    }
    encrypted(&with(&database, "sslmode=verify-full"))
        .await
        .expect_err("no system trusts it");
    for mode in ["require", "verify-ca", "verify-full"] {
        let config = with(&database, &format!("sslmode={mode}"));
        assert_eq!(
            encrypted(&config.clone().ca_file(Some(&ours.file()))).await,
            Ok(true),
            "{mode}"
        );
        encrypted(&config.ca_file(Some(&other.file())))
            .await
            .expect_err("made by another authority");
    }
    let in_url = format!("sslmode=verify-full&sslrootcert={}", ours.file().display());
    assert_eq!(encrypted(&with(&database, &in_url)).await, Ok(true));

    ours.certify(&server, "elsewhere.example").await;
    let config = with(&database, "sslmode=verify-ca").ca_file(Some(&ours.file()));
    assert_eq!(encrypted(&config).await, Ok(true), "whatever the name");
    let config = with(&database, "sslmode=verify-full").ca_file(Some(&ours.file()));
    let refused = encrypted(&config).await.expect_err("another name");
    assert!(refused.to_string().contains("not valid for name"), "{refused}");
}
