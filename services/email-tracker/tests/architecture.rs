//! Dependencies point one way: services → crates → `tracking`. What may speak SQL or gRPC is deny.toml's part.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use serde_json::Value;

/// The only package that may know all services.
const COMMAND_LINE: &str = "email-tracker";

/// Crates that talk to the world outside the process.
const IO: [&str; 8] = [
    "axum",
    "hyper",
    "mio",
    "rustls",
    "socket2",
    "tokio",
    "tokio-postgres",
    "tonic",
];

/// Two versions of these share no types and no state. deny.toml says the same of those it can say it of.
const ONE_VERSION: [&str; 6] = ["axum", "opentelemetry", "prost", "rustls", "tonic", "tracing"];

/// The dependency graph of the workspace as Cargo resolves it.
struct Workspace {
    /// Id to name.
    names: BTreeMap<String, String>,
    /// Ids of the members, by folder: `services/pixel`.
    members: BTreeMap<String, String>,
    /// Direct dependencies of a running program: id to ids.
    normal: BTreeMap<String, BTreeSet<String>>,
    /// All direct dependencies, those of tests and build scripts included.
    any: BTreeMap<String, BTreeSet<String>>,
}

impl Workspace {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version=1", "--locked"])
            .current_dir(&root)
            .output()
            .expect("cargo runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");

        let root = metadata["workspace_root"].as_str().unwrap().to_owned();
        let is_member: BTreeSet<&str> = metadata["workspace_members"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_str().unwrap())
            .collect();
        let mut names = BTreeMap::new();
        let mut members = BTreeMap::new();
        for package in metadata["packages"].as_array().unwrap() {
            let id = package["id"].as_str().unwrap();
            names.insert(id.to_owned(), package["name"].as_str().unwrap().to_owned());
            if is_member.contains(id) {
                let folder = Path::new(package["manifest_path"].as_str().unwrap())
                    .parent()
                    .unwrap();
                let folder = folder.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
                members.insert(folder, id.to_owned());
            }
        }
        let mut normal = BTreeMap::new();
        let mut any = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array().unwrap() {
            let id = node["id"].as_str().unwrap().to_owned();
            let dependencies = node["deps"].as_array().unwrap();
            let ids = |only_normal: bool| -> BTreeSet<String> {
                let wanted = |dependency: &&Value| {
                    !only_normal
                        || dependency["dep_kinds"]
                            .as_array()
                            .unwrap()
                            .iter()
                            .any(|kind| kind["kind"].is_null())
                };
                dependencies
                    .iter()
                    .filter(wanted)
                    .map(|dep| dep["pkg"].as_str().unwrap().to_owned())
                    .collect()
            };
            normal.insert(id.clone(), ids(true));
            any.insert(id, ids(false));
        }
        Self {
            names,
            members,
            normal,
            any,
        }
    }

    fn member(&self, folder: &str) -> &str {
        &self.members[folder]
    }

    /// Folders of the members under `services` or `crates`.
    fn folders<'a>(&'a self, under: &'a str) -> impl Iterator<Item = &'a str> {
        self.members
            .keys()
            .map(String::as_str)
            .filter(move |folder| Path::new(folder).starts_with(under))
    }

    /// Names of everything that a program made of the package contains.
    fn reaches(&self, folder: &str) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut ahead = vec![self.member(folder)];
        while let Some(id) = ahead.pop() {
            if seen.insert(id) {
                ahead.extend(self.normal[id].iter().map(String::as_str));
            }
        }
        seen.into_iter().map(|id| self.names[id].as_str()).collect()
    }
}

#[test]
fn no_service_depends_on_another_one() {
    let workspace = Workspace::read();
    let services: BTreeSet<&str> = workspace
        .folders("services")
        .map(|folder| workspace.member(folder))
        .collect();
    assert!(services.len() >= 4, "{services:?}");
    for folder in workspace
        .members
        .keys()
        .filter(|folder| !folder.ends_with(COMMAND_LINE))
    {
        let id = workspace.member(folder);
        for dependency in &workspace.any[id] {
            assert!(
                dependency == id || !services.contains(dependency.as_str()),
                "{folder} depends on the service {}",
                workspace.names[dependency]
            );
        }
    }
}

#[test]
fn the_domain_does_no_io() {
    let reached = Workspace::read();
    let reached = reached.reaches("crates/tracking");
    let io: Vec<&&str> = reached.iter().filter(|name| IO.contains(name)).collect();
    assert!(io.is_empty(), "tracking reaches {io:?}");
}

#[test]
fn the_pixel_cannot_reach_the_database() {
    let workspace = Workspace::read();
    for name in ["database", "tokio-postgres", "deadpool-postgres"] {
        assert!(
            !workspace.reaches("services/pixel").contains(name),
            "the pixel reaches {name}"
        );
        assert!(
            workspace.reaches("services/recorder").contains(name),
            "this test does not look where {name} is"
        );
    }
}

#[test]
fn crates_whose_types_must_agree_have_one_version() {
    let workspace = Workspace::read();
    for name in ONE_VERSION {
        let versions = workspace.names.values().filter(|other| *other == name).count();
        assert_eq!(versions, 1, "versions of {name}");
    }
}

#[test]
fn decisions_have_numbers_of_their_own() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/adr");
    let mut numbers = BTreeSet::new();
    for entry in folder.read_dir().unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let number = name.split('-').next().unwrap_or_default();
        assert!(
            number.len() == 4 && number.parse::<u16>().is_ok(),
            "{name} is not NNNN-title.md"
        );
        assert!(
            numbers.insert(number.to_owned()),
            "two decisions have the number {number}"
        );
    }
    assert!(numbers.contains("0001"));
}
