//! For the test of what a killed test process leaves behind: starts a private PostgreSQL, says where, and waits.
#![allow(clippy::expect_used, clippy::print_stdout, reason = "a part of a test")]

use test_support::PrivatePostgres;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let server = PrivatePostgres::shared(async |_| {}).await;
    let superuser = server.superuser("postgres").await;
    let data: String = superuser
        .query_one("show data_directory", &[])
        .await
        .expect("a setting")
        .get(0);
    println!("server in {data}");
    std::future::pending::<()>().await;
}
