//! The private PostgreSQL.
#![allow(clippy::expect_used, reason = "test helpers")]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use test_support::{OWNER, OWNER_PASSWORD, PrivatePostgres, Signal, Spawned, eventually};
use tokio_postgres::{Client, NoTls, error::SqlState};

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn migrate(url: String) {
    let client = connect(&url).await.expect("the template");
    client
        .batch_execute("create table notes (text text)")
        .await
        .expect("a table");
}

async fn notes(client: &Client) -> i64 {
    client
        .query_one("select count(*) from notes", &[])
        .await
        .expect("the migrated table")
        .get(0)
}

#[tokio::test]
async fn each_database_is_a_fresh_copy_of_the_template() {
    let server = PrivatePostgres::shared(migrate).await;
    let one = server.database().await;
    let client = connect(&one.url()).await.expect("the owner");
    client
        .execute("insert into notes values ('a')", &[])
        .await
        .expect("written");
    assert_eq!(notes(&client).await, 1);

    let other = server.database().await;
    assert_ne!(one.name(), other.name());
    assert_eq!(notes(&connect(&other.url()).await.expect("the owner")).await, 0);
}

#[tokio::test]
async fn a_dropped_database_is_gone() {
    let server = PrivatePostgres::shared(migrate).await;
    let database = server.database().await;
    let (name, url) = (database.name().to_owned(), database.url());
    let _in_use = connect(&url).await.expect("the owner");
    drop(database);
    let refused = connect(&url).await.expect_err("no such database");
    assert_eq!(refused.code(), Some(&SqlState::INVALID_CATALOG_NAME), "{name}");
}

#[tokio::test]
async fn tcp_asks_for_the_password() {
    let server = PrivatePostgres::shared(migrate).await;
    let database = server.database().await;
    let mut config: tokio_postgres::Config = database.tcp_url_of(OWNER).parse().expect("a URL");
    config.password("wrong");
    let refused = config.connect(NoTls).await.map(drop).expect_err("refused");
    assert_eq!(refused.code(), Some(&SqlState::INVALID_PASSWORD));
    config.password(OWNER_PASSWORD);
    let _connected = config.connect(NoTls).await.expect("the right password");
}

#[tokio::test]
async fn what_was_committed_survives_a_crash() {
    let server = PrivatePostgres::start().await;
    server.migrate_template(migrate).await;
    let database = server.database().await;
    let client = connect(&database.url()).await.expect("the owner");
    client
        .execute("insert into notes values ('a')", &[])
        .await
        .expect("written");

    server.crash().await;
    assert!(connect(&database.url()).await.is_err());
    server.start_again().await;
    assert_eq!(notes(&connect(&database.url()).await.expect("again")).await, 1);
}

#[tokio::test]
async fn a_server_goes_with_its_last_user() {
    let server = PrivatePostgres::start().await;
    let folder = folder_of(&server.superuser("postgres").await).await;
    assert!(folder.is_dir());
    let database = server.database().await;
    drop(server);
    connect(&database.url())
        .await
        .expect("the database keeps its server");
    drop(database);
    assert!(!folder.exists());
    assert!(!is_running(&folder));
}

#[tokio::test]
async fn a_killed_test_process_leaves_nothing_behind() {
    let mut child = Spawned::start(&mut Command::new(env!("CARGO_BIN_EXE_holds_a_server")));
    let line = child.line_with("server in ").await;
    let data = Path::new(line.split_once("server in ").expect("as waited for").1);
    let folder = data.parent().expect("a folder").to_owned();
    assert!(is_running(&folder));

    child.signal(Signal::KILL);
    child.exit().await;
    eventually("its server and its folder are gone", async || {
        (!is_running(&folder) && !folder.exists()).then_some(())
    })
    .await;
}

async fn folder_of(superuser: &Client) -> PathBuf {
    let data: String = superuser
        .query_one("show data_directory", &[])
        .await
        .expect("a setting")
        .get(0);
    Path::new(&data).parent().expect("a folder").to_owned()
}

/// Whether any process names the folder's data as its argument.
fn is_running(folder: &Path) -> bool {
    let data = folder.join("data");
    let processes = std::fs::read_dir("/proc").expect("/proc");
    processes
        .flatten()
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .any(|line| {
            line.split(|byte| *byte == 0)
                .any(|argument| argument == data.as_os_str().as_encoded_bytes())
        })
}
