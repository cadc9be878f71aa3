//! The stack of docker-compose.yml, under a project name, ports, addresses and volumes of its own. Its images hold the
//! programs that were just built here, as the Dockerfile would build them.

use std::{
    fs,
    net::IpAddr,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::free_port;

use super::{Bench, ROOT};

const PROJECT: &str = "email-tracker-bench";
const IMAGES: [&str; 5] = ["pixel", "recorder", "dashboard", "migrate", "backup"];
const AUTHORITIES: &str = "etc/ssl/certs/ca-certificates.crt";

/// A stack in containers. Dropped, all of it goes: containers, volumes, networks, images.
pub(super) struct Compose {
    pub(super) folder: TempDir,
    /// Where Caddy's port 443 is published on this machine.
    pub(super) https_port: u16,
}

/// An image, and what of it is not its base's.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) name: &'static str,
    pub(super) base: &'static str,
    pub(super) own_layers: u64,
    pub(super) own_bytes: u64,
    pub(super) bytes: u64,
}

impl Compose {
    /// Builds its images.
    pub(super) fn build(bench: &Bench) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("compose-")
            .tempdir_in(&bench.folder)?;
        let built = folder.path().join("built");
        bench.programs.clone().copied_to(built.join("out"))?;
        let authorities = built.join(AUTHORITIES);
        fs::create_dir_all(authorities.parent().context("a folder")?)?;
        fs::copy(Path::new("/").join(AUTHORITIES), authorities).context("certificates of this machine")?;
        // Takes the place of the Dockerfile's stage `build`.
        let services = IMAGES.map(|service| {
            let build = json!({"additional_contexts": {"build": built}});
            (service.to_owned(), json!({"build": build}))
        });
        let services: serde_json::Map<String, Value> = services.into_iter().collect();
        fs::write(
            folder.path().join("override.json"),
            json!({"services": services}).to_string(),
        )?;
        let https_port = free_port();
        let settings = [
            ("DOMAIN", "localhost".to_owned()),
            ("DASHBOARD_TOKEN", "dashboard-of-the-bench".to_owned()),
            ("RECORDER_TOKEN", "recorder-of-the-bench".to_owned()),
            ("POSTGRES_PASSWORD", "owner".to_owned()),
            ("RECORDER_DB_PASSWORD", "recorder".to_owned()),
            ("DASHBOARD_DB_PASSWORD", "dashboard".to_owned()),
            ("HTTP_PORT", free_port().to_string()),
            ("HTTPS_PORT", https_port.to_string()),
            ("PROXY_PORT", free_port().to_string()),
            ("SUBNET_PREFIX", format!("10.215.{}", free_port() % 250)),
            ("SPOOL_MAX_BYTES", "8GiB".to_owned()),
            ("BACKUP_DIR", folder.path().join("backups").display().to_string()),
        ];
        let lines = settings.map(|(name, value)| format!("{name}='{value}'\n"));
        fs::write(folder.path().join(".env"), lines.concat())?;
        let compose = Self { folder, https_port };
        compose.run(&["build"])?;
        Ok(compose)
    }

    /// Starts everything; how long until all of it was well.
    pub(super) fn up(&self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.run(&["up", "-d", "--wait", "--wait-timeout", "180"])?;
        Ok(begun.elapsed())
    }

    /// Removes containers and networks, and the volumes with them if it is to start from nothing.
    pub(super) fn down(&self, volumes: bool) -> anyhow::Result<()> {
        let words: &[&str] = if volumes { &["down", "-v"] } else { &["down"] };
        self.run(words).map(drop)
    }

    /// `docker compose` with these words.
    pub(super) fn run(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("docker");
        command
            .args(["compose", "-p", PROJECT, "--env-file"])
            .arg(self.folder.path().join(".env"))
            .arg("-f")
            .arg(Path::new(ROOT).join("docker-compose.yml"))
            .arg("-f")
            .arg(self.folder.path().join("override.json"))
            .args(words);
        // Compose takes variables of the shell before those of the file.
        command.env_clear().env("PATH", "/usr/bin:/bin");
        if let Some(home) = std::env::var_os("HOME") {
            command.env("HOME", home);
        }
        said(&command.output()?, words)
    }

    /// The address of a service within the network of the services.
    pub(super) fn address(&self, service: &str) -> anyhow::Result<IpAddr> {
        let id = self.run(&["ps", "-q", service])?;
        address_of(id.trim())
    }

    /// The process id of a service's first process.
    pub(super) fn process(&self, service: &str) -> anyhow::Result<u32> {
        let id = self.run(&["ps", "-q", service])?;
        process_of(id.trim())
    }

    /// The network that Caddy and the services share.
    pub(super) fn network() -> String {
        format!("{PROJECT}_services")
    }

    /// What its images weigh beyond their bases.
    pub(super) fn images() -> anyhow::Result<Vec<Image>> {
        IMAGES
            .into_iter()
            .map(|name| {
                let base = if name == "backup" {
                    "postgres:18"
                } else {
                    "debian:bookworm-slim"
                };
                let (bytes, layers) = weight(&format!("{PROJECT}-{name}"))?;
                let (base_bytes, base_layers) = weight(base)?;
                Ok(Image {
                    name: if name == "migrate" { "email-tracker" } else { name },
                    base,
                    own_layers: layers - base_layers,
                    own_bytes: bytes - base_bytes,
                    bytes,
                })
            })
            .collect()
    }
}

impl Drop for Compose {
    fn drop(&mut self) {
        let words = [
            "--profile",
            "*",
            "down",
            "-v",
            "--remove-orphans",
            "--rmi",
            "local",
            "-t",
            "5",
        ];
        if let Err(error) = self.run(&words) {
            eprintln!("the containers of {PROJECT} were not removed: {error:#}");
        }
    }
}

/// `docker` with these words.
pub(super) fn docker(words: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("docker")
        .args(words)
        .output()
        .context("running docker")?;
    said(&output, words)
}

/// The address of a container within the network of the services.
pub(super) fn address_of(container: &str) -> anyhow::Result<IpAddr> {
    let format = format!(
        "{{{{(index .NetworkSettings.Networks \"{}\").IPAddress}}}}",
        Compose::network()
    );
    let address = docker(&["inspect", "--format", &format, container])?;
    address.trim().parse().context("a container's address")
}

/// The process id of a container's first process.
pub(super) fn process_of(container: &str) -> anyhow::Result<u32> {
    let id: u32 = docker(&["inspect", "--format", "{{.State.Pid}}", container])?
        .trim()
        .parse()?;
    ensure!(id > 1, "a container that does not run");
    Ok(id)
}

/// Bytes and layers of an image.
fn weight(image: &str) -> anyhow::Result<(u64, u64)> {
    let said = docker(&[
        "image",
        "inspect",
        "--format",
        "{{.Size}} {{len .RootFS.Layers}}",
        image,
    ])?;
    let (bytes, layers) = said.trim().split_once(' ').context("an image's size")?;
    Ok((bytes.parse()?, layers.parse()?))
}

fn said(output: &Output, words: &[&str]) -> anyhow::Result<String> {
    ensure!(
        output.status.success(),
        "docker {words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
