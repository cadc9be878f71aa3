//! Lists as files: CSV and JSON, whole, with the filters of the page.

use std::net::SocketAddr;

use serde_json::Value;
use test_support::http::{Answer, Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tracking::Token;

use crate::{streaming::MANY, support::*};

const EXPORT: &str = "/dashboard/api/v1/export";
const FORMULA: &str = "=HYPERLINK(\"http://evil.example\";\"x\"),@b.example";

fn facts() -> Facts {
    let hostile = Token {
        user_id: "+user".into(),
        email_id: "-two".into(),
        recipient: FORMULA.into(),
        sent_at: "'quoted'\r\n@later".into(),
        sender_email: Some("jürgen, \"J\" <j@example.org>".into()),
    };
    let mut facts = Facts::default();
    facts
        .hit("one", 0, READER)
        .hit("one", 60_000, PROXY)
        .hit("one", 61_000, PROXY) // a duplicate
        .hit_of(hostile, 120_000, ("2001:db8::7", "=1+1"));
    facts
}

async fn running() -> (Running, test_support::TestDatabase) {
    let database = new_database().await;
    facts().store(&database.superuser().await).await;
    (Running::over(&database).await, database)
}

/// The lines of a CSV file with their names, as a reader that knows nothing of us has them.
fn lines(answer: &Answer) -> (Vec<String>, Vec<Vec<String>>) {
    let text = answer.text().strip_prefix('\u{feff}').expect("a byte order mark");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let owned = |record: &csv::StringRecord| record.iter().map(str::to_owned).collect::<Vec<_>>();
    let names = owned(reader.headers().unwrap());
    let lines = reader.records().map(|record| owned(&record.unwrap())).collect();
    (names, lines)
}

/// What a program makes of a cell, as docs/api.md says.
fn restored(cell: &str) -> String {
    let mut may_begin = true;
    let is_kept = |character: &char| {
        let is_ours = may_begin && *character == '\'';
        may_begin = matches!(character, ';' | '\t' | '\r' | '\n');
        !is_ours
    };
    cell.chars().filter(is_kept).collect()
}

/// A JSON value as a cell has it.
fn as_cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[tokio::test]
async fn both_formats_hold_what_the_lists_show() {
    let (dashboard, _database) = running().await;
    for (name, list, query, count) in [
        ("emails", "/dashboard/api/v1/emails", "", 2),
        ("emails", "/dashboard/api/v1/emails", "?sort=opens&q=ONE", 1),
        ("emails", "/dashboard/api/v1/emails", "?opened=false", 0),
        ("opens", "/dashboard/api/open-events", "", 3),
        (
            "opens",
            "/dashboard/api/open-events",
            "?include=all&email_id=one",
            3,
        ),
    ] {
        let items = dashboard.json(&format!("{list}{query}")).await["items"].take();
        let items = items.as_array().unwrap();
        assert_eq!(items.len(), count, "{name}{query}");

        let json = dashboard.get(&format!("{EXPORT}/{name}.json{query}")).await;
        assert_eq!(json.header("content-type"), Some("application/json"));
        assert_eq!(json.json(), Value::Array(items.clone()), "{name}{query}");
        assert_eq!(json.text().lines().count(), count.max(1) + 2, "a line for each");

        let csv = dashboard.get(&format!("{EXPORT}/{name}.csv{query}")).await;
        assert_eq!(
            csv.header("content-type"),
            Some("text/csv; charset=utf-8; header=present")
        );
        let (names, lines) = lines(&csv);
        assert_eq!(lines.len(), count);
        for (line, item) in lines.iter().zip(items) {
            let mut sorted = names.clone();
            sorted.sort();
            assert_eq!(sorted, keys(item), "the fields are the API's");
            for (field, cell) in names.iter().zip(line) {
                assert_eq!(restored(cell), as_cell(&item[field]), "{field}");
            }
        }
        for (answer, extension) in [(&json, "json"), (&csv, "csv")] {
            let disposition = format!("attachment; filename=\"email-tracker-{name}-2026-03-01.{extension}\"");
            assert_eq!(answer.header("content-disposition"), Some(&*disposition));
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
            assert_eq!(answer.header("etag"), None);
        }
    }
}

#[tokio::test]
async fn what_came_from_outside_is_no_formula() {
    let (dashboard, _database) = running().await;
    let (names, lines) = lines(&dashboard.get(&format!("{EXPORT}/emails.csv?q=-two")).await);
    let cell = |name: &str| &lines[0][names.iter().position(|own| own == name).unwrap()];
    assert_eq!(cell("email_id"), "'-two");
    assert_eq!(cell("user_id"), "'+user");
    assert_eq!(
        cell("recipient"),
        "'=HYPERLINK(\"http://evil.example\";'\"x\"),@b.example"
    );
    assert_eq!(cell("sent_at"), "''quoted'\r'\n'@later");
    assert_eq!(cell("sender_email"), "jürgen, \"J\" <j@example.org>");
}

#[tokio::test]
async fn bad_filters_are_named_and_nobody_is_told_that_nothing_changed() {
    let (dashboard, _database) = running().await;
    for (path, name) in [
        ("emails.csv?since=yesterday", "since"),
        ("emails.json?class=none", "class"),
        ("opens.csv?include=some", "include"),
        ("opens.json?email_id=", "email_id"),
    ] {
        let answer = dashboard.get(&format!("{EXPORT}/{path}")).await;
        assert_eq!(answer.status, 400, "{path}");
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.starts_with(&format!("{name} ")), "{error}");
        assert_eq!(answer.header("content-disposition"), None);
    }
    let known = authorized("GET", &format!("{EXPORT}/emails.csv")).header("if-none-match", "*");
    assert_eq!(known.send(dashboard.address).await.status, 200);
    // There is no limit, and so no cursor either: what does not know them ignores them.
    let (_, lines) = lines(
        &dashboard
            .get(&format!("{EXPORT}/opens.csv?limit=1&cursor=x"))
            .await,
    );
    assert_eq!(lines.len(), 3);
}

async fn begin(address: SocketAddr, file: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET {EXPORT}/{file} HTTP/1.1\r\nhost: t\r\nx-tracker-token: {TOKEN}\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_long_file_is_streamed_and_a_failure_cuts_it() {
    let database = new_database().await;
    store_many_emails(&database.superuser().await, MANY, 300).await;
    let dashboard = Running::over(&database).await;
    let (_, whole) = lines(&dashboard.get(&format!("{EXPORT}/emails.csv")).await);
    assert_eq!(whole.len(), usize::try_from(MANY).unwrap());
    assert_eq!(whole[0][0], format!("email-{MANY}"));
    for file in ["emails.csv", "emails.json"] {
        let dashboard = Running::over(&database).await;
        let mut stream = begin(dashboard.address, file).await;
        let mut received = vec![0; 100];
        stream.read_exact(&mut received).await.unwrap();
        assert!(received.starts_with(b"HTTP/1.1 200 OK\r\n"));
        let terminate = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                         where datname = current_database() and application_name = 'dashboard'
                         and xact_start is not null";
        let superuser = database.superuser_beside(database::DASHBOARD_ROLE).await;
        let row = superuser.query_one(terminate, &[]).await.unwrap();
        assert_eq!(row.get::<_, i64>(0), 1, "the file was still being written");
        let _ = stream.read_to_end(&mut received).await; // a reset would do as well
        assert!(
            !received.ends_with(b"0\r\n\r\n"),
            "a cut file must not look complete"
        );
        let cut = "email_tracker_dashboard_streams_total{end=\"database_failed\"}";
        assert_eq!(dashboard.metric(cut).await.to_string(), "1", "{file}");
    }
}

#[tokio::test]
async fn a_file_is_read_by_a_session_and_by_no_other_site() {
    let (dashboard, _database) = running().await;
    let log_in = Request::post_json("/dashboard/session", format!("{{\"token\":\"{TOKEN}\"}}"));
    let cookie = log_in
        .send(dashboard.address)
        .await
        .header("set-cookie")
        .unwrap()
        .to_owned();
    let cookie = cookie.split(';').next().unwrap();
    for (site, status) in [
        ("same-origin", 200),
        ("none", 200),
        ("same-site", 401),
        ("cross-site", 401),
    ] {
        let request = Request::get(&format!("{EXPORT}/opens.csv"))
            .header("cookie", cookie)
            .header("sec-fetch-site", site);
        assert_eq!(request.send(dashboard.address).await.status, status, "{site}");
    }
}
