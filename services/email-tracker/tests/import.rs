//! `email-tracker import`, from a server that answers with odd lists and from an installation of our own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod certificates;
mod facts;
#[allow(dead_code, reason = "no test needs all of it")]
mod up;

use std::{
    io::Write as _,
    net::SocketAddr,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use test_support::{PrivatePostgres, TestDatabase};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    certificates::{Certificate, certify},
    facts::{migrated, record_all_kinds},
    up::{Account, Home, Up},
};

const TOKEN: &str = "s3cret-of-old";

/// Answers like the older server, each list in one piece, until the test ends.
async fn older_server(emails: String, opens: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(stream, emails.clone(), opens.clone()));
        }
    });
    address
}

/// The same behind TLS for `localhost`, and a file of the root to trust.
async fn older_server_with(which: Certificate, emails: String, opens: String) -> (SocketAddr, NamedTempFile) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (acceptor, root) = certify(which, "localhost");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, emails, opens) = (acceptor.clone(), emails.clone(), opens.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer(stream, emails, opens).await;
                } // else the client does not like the certificate
            });
        }
    });
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(root.as_bytes()).unwrap();
    (address, file)
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, emails: String, opens: String) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let byte = stream.read_u8().await.unwrap();
        request.push(byte);
    }
    let request = String::from_utf8(request).unwrap();
    let answer = if !request.contains(&format!("x-tracker-token: {TOKEN}\r\n")) {
        "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n".to_owned()
    } else if request.starts_with("GET /dashboard/api/emails HTTP/1.1\r\n") {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{emails}",
            emails.len()
        )
    } else if request.starts_with("GET /dashboard/api/open-events HTTP/1.1\r\n") {
        // As a server that does not know the length.
        format!(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{opens}\r\n0\r\n\r\n",
            opens.len()
        )
    } else {
        "HTTP/1.1 302 Found\r\nlocation: https://new.example.com/\r\ncontent-length: 0\r\n\r\n".to_owned()
    };
    let _ = stream.write_all(answer.as_bytes()).await;
}

async fn import(from: &str, token: &str, into: &TestDatabase) -> Output {
    import_trusting(Path::new(""), from, token, into).await
}

/// With this file of certificates instead of the system's.
async fn import_trusting(roots: &Path, from: &str, token: &str, into: &TestDatabase) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_email-tracker"));
    command
        .args(["import", from])
        .env_clear()
        .env("DATABASE_URL", into.url())
        .env("IMPORT_TOKEN", token);
    if roots.exists() {
        command.env("SSL_CERT_FILE", roots);
    }
    tokio::task::spawn_blocking(move || command.output().expect("the program starts"))
        .await
        .unwrap()
}

fn said(output: &[u8]) -> &str {
    std::str::from_utf8(output).unwrap()
}

fn open(id: &Value, email_id: &str, opened_at: &str, user_agent: Option<&str>) -> Value {
    json!({
        "id": id, "email_id": email_id, "user_id": "u", "recipient": "r@example.com", "opened_at": opened_at,
        "ip_address": user_agent.map(|_| "203.0.113.7"), "user_agent": user_agent, "geo_country": null,
        "device_type": "computer", "is_duplicate": 0, "is_sender_suppressed": 0, "suppression_reason": null, "unknown": [1],
    })
}

fn email(email_id: &str, created_at: &str, raw: u64) -> Value {
    json!({
        "email_id": email_id, "user_id": "u", "recipient": "r@example.com", "sender_email": null,
        "sent_at": "2024-03-09T15:59:59Z", "raw_open_events": raw, "created_at": created_at,
    })
}

/// What the tables hold of each shown email.
async fn stored(database: &TestDatabase) -> Vec<(String, i64, i64, String, Option<String>)> {
    let client = database.superuser().await;
    let sql =
        "select email_id, open_count, hit_count, first_opened_at::timestamptz(3) at time zone 'UTC' || '',
                      last_opened_at at time zone 'UTC' || ''
               from tracked_emails where first_opened_at is not null order by email_id";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4)))
        .collect()
}

#[tokio::test]
async fn lists_with_all_their_quirks_become_facts_and_the_rest_is_told_in_numbers() {
    let server = PrivatePostgres::start().await;
    let database = migrated(&server).await;
    let mut with_place = open(&json!(4), "opened", "2024-05-01T10:00:00.5+02:00", Some("Chrome"));
    with_place["geo_country"] = json!("DE");
    with_place["latitude"] = json!("52.5");
    let opens = json!({"ok": true, "items": [
        open(&json!(1), "opened", "2024-03-09T16:00:00.007Z", Some("Chrome")),
        open(&json!("2"), "opened", "2024-03-09 16:00:10", Some("Chrome")),
        open(&Value::Null, "opened", "2024-04-01T00:00:00Z", None),
        with_place,
        open(&json!(5), "opened", "some day", None),
        open(&json!(6), "gone", "2024-04-01T00:00:00Z", None),
    ]});
    let mut too_many = email("many", "2024-03-09T16:00:00Z", 1);
    too_many["recipient"] = json!("someone@example.com,".repeat(1_000));
    let mut nobodys = email("nobody's", "2024-03-09T16:00:00Z", 1);
    nobodys["user_id"] = Value::Null;
    let emails = json!({"ok": true, "items": [
        email("opened", "2024-03-09T15:59:59.900Z", 9),
        email("never", "2019-01-02 03:04:05", 3),
        too_many,
        nobodys,
    ]});
    let from = older_server(emails.to_string(), opens.to_string()).await;

    let first = import(&format!("http://{from}/"), TOKEN, &database).await;
    assert_eq!(first.status.code(), Some(1), "{first:?}");
    let complaints = said(&first.stderr);
    assert!(
        complaints.contains("\"nobody's\" is left out: it has no user_id"),
        "{complaints}"
    );
    let summary = said(&first.stdout);
    for line in [
        "lists 4 emails and 6 opens; 6 hits were recorded now, 0 were there already",
        "7 hits of the older server's raw_open_events",
        "2 emails have such hits",
        "2 emails had a first hit that did not count",
        "1 listed opens are duplicates by the rules here",
        "1 emails have fewer recipients here",
        "1 opens were left out: without a time",
        "1 opens were left out: their email is not listed",
        "1 emails were left out, see above",
    ] {
        assert!(summary.contains(line), "{line}:\n{summary}");
    }

    let expected = |email: &str, opens, hits, created: &str, last: Option<&str>| {
        (
            email.to_owned(),
            opens,
            hits,
            created.to_owned(),
            last.map(str::to_owned),
        )
    };
    let is_stored = vec![
        expected("many", 0, 1, "2024-03-09 16:00:00", None),
        expected("never", 0, 1, "2019-01-02 03:04:05", None),
        expected(
            "opened",
            3,
            4,
            "2024-03-09 16:00:00.007",
            Some("2024-05-01 08:00:00.5"),
        ),
    ];
    assert_eq!(stored(&database).await, is_stored);
    let client = database.superuser().await;
    let sql =
        "select count(*) filter (where client_address is null), count(*) filter (where geo_country = 'DE'
                      and latitude = 52.5), max(length(recipient))::bigint
               from hits join tracked_emails using (email_id)";
    let row = client.query_one(sql, &[]).await.unwrap();
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, i64>(1)),
        (3, 1),
        "two made up, one without"
    );
    assert!((10_000..=10_240).contains(&row.get::<_, i64>(2)));

    let revision = "select sum(revision)::bigint from revisions";
    let before: i64 = client.query_one(revision, &[]).await.unwrap().get(0);
    let again = import(&format!("http://{from}/dashboard"), TOKEN, &database).await;
    assert!(
        said(&again.stdout).contains("0 hits were recorded now, 6 were there already"),
        "{again:?}"
    );
    assert_eq!(stored(&database).await, is_stored);
    let after: i64 = client.query_one(revision, &[]).await.unwrap().get(0);
    assert_eq!(after, before, "the second one changed nothing");

    // As if charts had been counted between a hit and its place.
    client
        .batch_execute("truncate stale_slots; update hits set geo_country = null where geo_country = 'DE'")
        .await
        .unwrap();
    import(&format!("http://{from}/dashboard"), TOKEN, &database).await;
    let stale =
        "select count(*) from stale_slots join hits on date_bin('15 minutes', opened_at, 'epoch') = slot_at
                 where geo_country = 'DE'";
    let stale: i64 = client.query_one(stale, &[]).await.unwrap().get(0);
    assert_eq!(stale, 1, "its slot is counted anew");
}

#[tokio::test]
async fn a_server_that_is_not_the_older_one_is_told_in_one_line() {
    let server = PrivatePostgres::start().await;
    let database = migrated(&server).await;
    let from = older_server("<html>".to_owned(), "<html>".to_owned()).await;
    for (path, token, expected) in [
        ("", "wrong", "the token was refused"),
        ("", TOKEN, "is no list as the older server makes it"),
        ("/elsewhere", TOKEN, "it sends to https://new.example.com/"),
    ] {
        let output = import(&format!("http://{from}{path}"), token, &database).await;
        let complaint = said(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            complaint.contains(expected) && complaint.lines().count() == 1,
            "{complaint}"
        );
        assert!(!complaint.contains(TOKEN));
    }
    let nobody = import("http://127.0.0.1:1", TOKEN, &database).await;
    assert!(said(&nobody.stderr).contains("no connection"), "{nobody:?}");
    assert!(stored(&database).await.is_empty());
}

/// A list's items without what differs by nature.
async fn items(up: &Up, target: &str, without: &str) -> Vec<Value> {
    let mut items = up.api(target).await["items"].as_array().unwrap().clone();
    for item in &mut items {
        let removed = item.as_object_mut().unwrap().remove(without);
        assert!(removed.is_some(), "{without}");
    }
    items
}

#[tokio::test]
async fn from_one_installation_into_another_the_opens_are_the_same() {
    let server = PrivatePostgres::start().await;
    let (old, new) = (migrated(&server).await, migrated(&server).await);
    record_all_kinds(&old).await;
    let (old_home, new_home) = (Home::of(Account::Own), Home::of(Account::Own));
    let source = old_home.up_with(&[("DATABASE_URL", &old.url())]).await;
    let imported = import(
        &format!("http://{}", source.address),
        &source.dashboard_token,
        &new,
    )
    .await;
    assert!(imported.status.success(), "{imported:?}");
    let summary = said(&imported.stdout);
    for line in [
        "lists 4 emails and 9 opens; 13 hits were recorded now",
        "6 hits of the older server's raw_open_events",
        "4 emails had a first hit that did not count",
    ] {
        assert!(summary.contains(line), "{line}:\n{summary}");
    }
    assert!(!summary.contains("duplicates by the rules here"), "{summary}");

    let target = new_home.up_with(&[("DATABASE_URL", &new.url())]).await;
    for (list, without) in [
        ("/dashboard/api/open-events", "id"),
        ("/dashboard/api/emails", "raw_open_events"),
    ] {
        let expected = items(&source, list, without).await;
        assert!(!expected.is_empty());
        assert_eq!(items(&target, list, without).await, expected, "{list}");
    }
    let again = import(
        &format!("http://{}", source.address),
        &source.dashboard_token,
        &new,
    )
    .await;
    assert!(said(&again.stdout).contains("0 hits were recorded now, 13 were there already"));
    source.stop().await;
    target.stop().await;
}

#[tokio::test]
async fn over_tls_the_server_has_to_be_who_it_says() {
    let server = PrivatePostgres::start().await;
    let database = migrated(&server).await;
    let opens = json!({"ok": true, "items": [
        open(&json!(1), "opened", "2024-03-09T16:00:00.007Z", Some("Chrome")),
    ]});
    let emails = json!({"ok": true, "items": [email("opened", "2024-03-09T16:00:00.007Z", 1)]});
    let (opens, emails) = (opens.to_string(), emails.to_string());
    for (certificate, complaint) in [
        (Certificate::OfAnotherRoot, "UnknownIssuer"),
        (Certificate::WithoutIntermediate, "UnknownIssuer"),
        (Certificate::Expired, "expired"),
        (Certificate::OfAnotherName, "not valid for name"),
    ] {
        let (address, roots) = older_server_with(certificate, emails.clone(), opens.clone()).await;
        let url = format!("https://localhost:{}", address.port());
        let refused = import_trusting(roots.path(), &url, TOKEN, &database).await;
        let said_of_it = said(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{said_of_it}");
        assert!(
            said_of_it.contains("TLS failed") && said_of_it.contains(complaint),
            "{complaint}: {said_of_it}"
        );
        assert!(!said_of_it.contains(TOKEN));
    }
    assert!(stored(&database).await.is_empty());

    let (address, roots) = older_server_with(Certificate::Good, emails, opens).await;
    let url = format!("https://localhost:{}", address.port());
    let imported = import_trusting(roots.path(), &url, TOKEN, &database).await;
    assert!(imported.status.success(), "{imported:?}");
    let stored = stored(&database).await;
    assert_eq!(stored.len(), 1, "{stored:?}");
    assert_eq!((stored[0].0.as_str(), stored[0].1, stored[0].2), ("opened", 1, 1));
}
