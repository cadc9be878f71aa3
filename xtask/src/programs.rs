//! The services' programs, built and started.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, ensure};

const PACKAGES: [&str; 4] = ["pixel", "recorder", "dashboard", "email-tracker"];

/// Built programs.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// Builds all of them, as they are shipped or for debugging.
    pub(crate) fn build(release: bool) -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the workspace")?;
        let mut build = Command::new(env!("CARGO"));
        build.current_dir(root).args(["build", "--locked", "--quiet"]);
        for package in PACKAGES {
            build.args(["--package", package]);
        }
        if release {
            build.arg("--release");
        }
        ensure!(build.status()?.success(), "the services do not build");
        let this = std::env::current_exe()?;
        let target = this
            .parent()
            .and_then(Path::parent)
            .context("the target folder")?;
        Ok(Self {
            folder: target.join(if release { "release" } else { "debug" }),
        })
    }

    /// Those that are in `folder` already.
    pub(crate) fn built_in(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Copies of them, so that a build in the meantime changes nothing of what runs.
    pub(crate) fn copied_to(&self, folder: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir_all(&folder)?;
        for name in PACKAGES {
            let copy = folder.join(name);
            let _ = fs::remove_file(&copy); // one that runs cannot be written to
            fs::copy(self.folder.join(name), &copy).with_context(|| format!("copying {name}"))?;
        }
        Ok(Self { folder })
    }

    /// A command to start `name` with no environment but what the caller adds.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.folder.join(name));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("LOG_FORMAT", "json")
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null());
        command
    }
}
