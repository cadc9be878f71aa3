//! nginx by nginx.conf.example, in a container beside the stack's own.

use std::{fs, net::SocketAddr, path::Path, process::Command, thread, time::Duration};

use anyhow::{Context, ensure};
use test_support::free_port;

use crate::bench::{
    ROOT,
    compose::{Compose, address_of, docker, process_of},
};

/// As the image has it, but for more connections.
const MAIN: &str = "
worker_processes auto;
worker_rlimit_nofile 65536;
error_log /var/log/nginx/error.log warn;
events { worker_connections 8192; }
http {
  include /etc/nginx/mime.types;
  default_type application/octet-stream;
  access_log /dev/null;
  sendfile on;
  keepalive_timeout 65;
  include /etc/nginx/conf.d/*.conf;
}
";

/// A running nginx.
pub(super) struct Nginx {
    container: String,
    /// Of its port 443.
    pub(super) address: SocketAddr,
    /// That port on this machine.
    pub(super) published: u16,
    pub(super) process: u32,
    pub(super) version: String,
}

impl Nginx {
    /// Passes everything on to `to`.
    pub(super) fn start(folder: &Path, to: SocketAddr) -> anyhow::Result<Self> {
        let sites = folder.join("conf.d");
        fs::create_dir_all(&sites)?;
        fs::write(folder.join("nginx.conf"), MAIN)?;
        fs::write(sites.join("email-tracker.conf"), site(to)?)?;
        certificate(folder)?;
        let published = free_port();
        let mounts = [
            (sites, "/etc/nginx/conf.d"),
            (folder.join("nginx.conf"), "/etc/nginx/nginx.conf"),
            (folder.join("tls"), "/tls"),
        ]
        .map(|(from, to)| format!("{}:{to}:ro", from.display()));
        // Published from a second network: that of the services is internal.
        let container = docker(&[
            "run",
            "-d",
            "-p",
            &format!("127.0.0.1:{published}:443"),
            "-v",
            &mounts[0],
            "-v",
            &mounts[1],
            "-v",
            &mounts[2],
            "nginx:1",
        ])?;
        let mut nginx = Self {
            container: container.trim().to_owned(),
            address: ([0, 0, 0, 0], 443).into(),
            published,
            process: 0,
            version: String::new(),
        };
        docker(&["network", "connect", &Compose::network(), &nginx.container])?;
        nginx.address = (address_of(&nginx.container)?, 443).into();
        nginx.process = process_of(&nginx.container)?;
        let said = Command::new("docker")
            .args(["exec", &nginx.container, "nginx", "-v"])
            .output()?;
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        nginx.version = said.trim().rsplit('/').next().unwrap_or_default().to_owned();
        for _ in 0..100 {
            if std::net::TcpStream::connect(nginx.address).is_ok() {
                return Ok(nginx);
            }
            thread::sleep(Duration::from_millis(50));
        }
        anyhow::bail!("nginx does not listen: {}", docker(&["logs", &nginx.container])?)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if let Err(error) = docker(&["rm", "-f", "-v", &self.container]) {
            eprintln!("nginx was not removed: {error:#}");
        }
    }
}

/// nginx.conf.example with this name, these files and this upstream.
fn site(to: SocketAddr) -> anyhow::Result<String> {
    let mut text = fs::read_to_string(Path::new(ROOT).join("nginx.conf.example"))?;
    for (from, into) in [
        ("track.example.com;", "localhost;".to_owned()),
        ("server 127.0.0.1:8090;", format!("server {to};")),
        (
            "/etc/letsencrypt/live/track.example.com/fullchain.pem",
            "/tls/certificate.pem".to_owned(),
        ),
        (
            "/etc/letsencrypt/live/track.example.com/privkey.pem",
            "/tls/key.pem".to_owned(),
        ),
    ] {
        ensure!(text.contains(from), "nginx.conf.example has no {from:?}");
        text = text.replace(from, &into);
    }
    Ok(text)
}

/// A key of the kind that Caddy makes, and its certificate.
fn certificate(folder: &Path) -> anyhow::Result<()> {
    let tls = folder.join("tls");
    fs::create_dir_all(&tls)?;
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
        ])
        .args(["-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout"])
        .arg(tls.join("key.pem"))
        .arg("-out")
        .arg(tls.join("certificate.pem"))
        .output()
        .context("running openssl")?;
    ensure!(
        made.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    Ok(())
}
