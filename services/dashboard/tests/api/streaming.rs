//! Lists of any length: streamed, compressed when asked, never cut off unseen, and not for ever.

use std::{io::Read, net::SocketAddr, process::Command};

use futures::future::join_all;
use serde_json::Value;
use test_support::{Spawned, TestDatabase, eventually, free_port, http::Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::*;

const EMAILS: &str = "/dashboard/api/emails";
/// More JSON than the sockets on the way can hold (about 35 MB).
pub(crate) const MANY: i32 = 60_000;

async fn database_of_many() -> TestDatabase {
    let database = new_database().await;
    store_many_emails(&database.superuser().await, MANY, 300).await;
    database
}

/// Sends a request and leaves the answer unread.
pub(crate) async fn ask(address: SocketAddr, more: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {EMAILS} HTTP/1.1\r\nhost: t\r\nx-tracker-token: {TOKEN}\r\n{more}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// How many of the dashboard's connections have a transaction open.
async fn transactions(database: &TestDatabase) -> i64 {
    let count = "select count(*) from pg_stat_activity where datname = current_database()
                 and application_name = 'dashboard' and xact_start is not null";
    database
        .superuser_beside(database::DASHBOARD_ROLE)
        .await
        .query_one(count, &[])
        .await
        .unwrap()
        .get(0)
}

fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes)
        .read_to_end(&mut plain)
        .expect("complete gzip");
    plain
}

#[tokio::test]
async fn a_long_list_comes_whole_and_compressed_when_asked() {
    let database = database_of_many().await;
    let dashboard = Running::over(&database).await;
    let plain = dashboard.get(EMAILS).await;
    assert_eq!(plain.header("transfer-encoding"), Some("chunked"));
    let ids = column(&plain.json(), "email_id");
    assert_eq!(ids.len(), usize::try_from(MANY).unwrap());
    for (id, n) in ids.iter().zip((1..=MANY).rev()) {
        assert_eq!(*id, format!("email-{n}"));
    }
    let zipped = authorized("GET", EMAILS)
        .header("accept-encoding", "br;q=1, gzip")
        .send(dashboard.address)
        .await;
    assert_eq!(zipped.header("content-encoding"), Some("gzip"));
    assert_eq!(zipped.header("etag"), plain.header("etag"));
    assert_eq!(zipped.header("vary"), plain.header("vary"));
    assert!(zipped.body.len() * 4 < plain.body.len());
    assert!(gunzip(&zipped.body) == plain.body, "the same bytes");
    let page = format!("{EMAILS}?limit=1000");
    let short = authorized("GET", &page)
        .header("accept-encoding", "gzip")
        .send(dashboard.address)
        .await;
    let items: Value = serde_json::from_slice(&gunzip(&short.body)).unwrap();
    assert_eq!(items["items"].as_array().unwrap().len(), 1_000);
    assert_eq!(
        dashboard
            .metric("email_tracker_dashboard_streams_total{end=\"complete\"}")
            .await
            .to_string(),
        "3"
    );
    assert_eq!(
        dashboard
            .metric("email_tracker_dashboard_rows_total")
            .await
            .to_string(),
        (2 * MANY + 1_000).to_string()
    );
}

#[tokio::test]
async fn a_failure_in_mid_stream_cuts_the_connection() {
    let database = database_of_many().await;
    for more in ["", "accept-encoding: gzip\r\n"] {
        let dashboard = Running::over(&database).await;
        let mut stream = ask(dashboard.address, more).await;
        let mut received = vec![0; 100];
        stream.read_exact(&mut received).await.unwrap();
        assert!(received.starts_with(b"HTTP/1.1 200 OK\r\n"));
        let terminate = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                         where datname = current_database() and application_name = 'dashboard'
                         and xact_start is not null";
        let row = database
            .superuser_beside(database::DASHBOARD_ROLE)
            .await
            .query_one(terminate, &[])
            .await
            .unwrap();
        assert_eq!(row.get::<_, i64>(0), 1, "the list was still being read");
        let _ = stream.read_to_end(&mut received).await; // a reset would do as well
        assert!(
            !received.ends_with(b"0\r\n\r\n"),
            "a cut list must not look complete"
        );
        let cut = "email_tracker_dashboard_streams_total{end=\"database_failed\"}";
        assert_eq!(dashboard.metric(cut).await.to_string(), "1");
        let page = format!("{EMAILS}?limit=1");
        eventually("the next request is answered", async || {
            (dashboard.get(&page).await.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn readers_that_leave_or_crowd_hold_nothing_back() {
    let database = database_of_many().await;
    let dashboard = Running::over(&database).await;
    let crowd = join_all((0..16).map(|_| ask(dashboard.address, ""))).await;
    eventually("all connections are in use", async || {
        (transactions(&database).await == 16).then_some(())
    })
    .await;
    let answer = dashboard.get(&format!("{EMAILS}?limit=1")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    drop(crowd);
    eventually("their transactions have ended", async || {
        (transactions(&database).await == 0).then_some(())
    })
    .await;
    dashboard.json(&format!("{EMAILS}?limit=1")).await;
    let gone = "email_tracker_dashboard_streams_total{end=\"client_gone\"}";
    assert_eq!(dashboard.metric(gone).await.to_string(), "16");
}

#[tokio::test]
async fn a_list_and_its_tag_are_of_one_moment() {
    let database = database_of_many().await;
    let client = database.superuser().await;
    let dashboard = Running::over(&database).await;
    let tag = async || {
        let head = authorized("HEAD", EMAILS).send(dashboard.address).await;
        head.header("etag").unwrap().to_owned()
    };
    let before = tag().await;
    let mut stream = ask(dashboard.address, "connection: close\r\n").await;
    let mut received = vec![0; 1_000];
    stream.read_exact(&mut received).await.unwrap();
    // The oldest email, so that it would come last; and the first one counts differently.
    client
        .batch_execute(
            "insert into tracked_emails (email_id, user_id, recipient, sent_at, first_opened_at)
             values ('late', 'u', 'r', 's', '2026-01-01T00:00Z');
             update tracked_emails set open_count = 77 where email_id = 'email-1'",
        )
        .await
        .unwrap();
    raise_revision(&client).await;
    assert_ne!(tag().await, before);
    stream.read_to_end(&mut received).await.unwrap();
    let received = String::from_utf8(received).unwrap();
    assert!(received.contains(&format!("etag: {before}\r\n")));
    assert!(received.ends_with("]}\r\n0\r\n\r\n"));
    assert!(received.contains("\"email_id\":\"email-1\""));
    assert!(!received.contains("\"late\"") && !received.contains(":77,"));
}

#[tokio::test]
async fn a_stop_lets_a_list_end() {
    let database = database_of_many().await;
    let url = database.url_of(database::DASHBOARD_ROLE);
    let patient = settings(
        &url,
        &[("DASHBOARD_TOKEN", TOKEN), ("SHUTDOWN_GRACE_SECONDS", "60")],
    );
    let dashboard = Running::with(patient).await;
    let mut stream = ask(dashboard.address, "connection: close\r\n").await;
    let mut received = vec![0; 100];
    stream.read_exact(&mut received).await.unwrap();
    let stopped = tokio::spawn(dashboard.stop());
    stream.read_to_end(&mut received).await.unwrap();
    assert!(received.ends_with(b"]}\r\n0\r\n\r\n"));
    stopped.await.unwrap().unwrap();
}

#[tokio::test]
async fn memory_does_not_grow_with_the_list() {
    let database = new_database().await;
    store_many_emails(&database.superuser().await, 100_000, 600).await;
    let (port, admin_port) = (free_port(), free_port());
    let mut command = Command::new(env!("CARGO_BIN_EXE_dashboard"));
    command
        .env("DATABASE_URL", database.url_of(database::DASHBOARD_ROLE))
        .env("DASHBOARD_TOKEN", TOKEN)
        .env("PORT", port.to_string())
        .env("ADMIN_PORT", admin_port.to_string());
    let process = Spawned::start(&mut command);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("it listens", async || TcpStream::connect(address).await.ok()).await;
    Request::get(&format!("{EMAILS}?limit=1000"))
        .header("x-tracker-token", TOKEN)
        .send(address)
        .await;
    let before = peak_memory(process.id());
    let mut stream = ask(address, "connection: close\r\n").await;
    let mut chunk = vec![0; 1 << 20];
    let (mut rows, mut bytes) = (0, 0);
    loop {
        let read = stream.read(&mut chunk).await.unwrap();
        if read == 0 {
            break;
        }
        bytes += read;
        rows += chunk[..read]
            .windows(3)
            .filter(|window| *window == b"},{")
            .count();
    }
    assert!(rows > 99_000 && bytes > 80_000_000, "{rows} rows, {bytes} bytes");
    let growth = peak_memory(process.id()) - before;
    assert!(growth < 30_000, "{growth} KiB more for {bytes} bytes");
}

/// The most memory that the process has had resident, in KiB.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
