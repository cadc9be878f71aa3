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
    programs::find,
    server::{PrivatePostgres, cluster_folder},
};
