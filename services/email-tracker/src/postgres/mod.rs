//! A private PostgreSQL made from the installed programs, for those who run everything with `email-tracker up`.

mod account;
mod cluster;
mod leftover;
mod pid_file;
mod programs;
mod server;
mod server_log;

pub(crate) use self::{
    cluster::{DATABASE, OWNER, made_by},
    programs::{find, folders, major_version},
    server::{PrivatePostgres, cluster_folder},
};

use std::path::{Path, PathBuf};

/// The folder of the socket of the server that a running `up` has on this data folder.
pub(crate) fn running(data_dir: &Path) -> Option<PathBuf> {
    pid_file::read(&cluster_folder(data_dir))
        .filter(|file| file.ready)?
        .socket_folder
}
