//! What clients see at the pixel's own port, over real sockets.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says by that what it needs"
)]

mod support;

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use support::pixel::{
    NO_RECORDER, Pixel, get, left_in, mark, parse, path_of, request, send_raw, start, start_alone, start_at,
    token,
};
use tempfile::TempDir;
use tracking::{Fact, Hit, MockClock, Timestamp, facts::time_of_id};

fn hits(facts: Vec<Fact>) -> Vec<Hit> {
    facts
        .into_iter()
        .map(|fact| match fact {
            Fact::Hit(hit) => hit,
            Fact::Mark(mark) => panic!("{mark:?}"),
        })
        .collect()
}

/// The next good pixel works and is recorded.
async fn assert_works(pixel: &Pixel, after: &str) {
    let before = pixel.metric("email_tracker_pixel_spool_records").await;
    get(pixel.public, &path_of("good")).await.assert_gif(after);
    let after_it = pixel.metric("email_tracker_pixel_spool_records").await;
    assert_eq!(after_it - before, 1, "after {after}");
}

#[tokio::test]
async fn a_pixel_is_answered_and_in_the_spool_with_no_recorder_there() {
    let folder = TempDir::new().unwrap();
    let now = Timestamp::from_millis(1_710_000_000_007);
    let pixel = start_at(Arc::new(MockClock::at(now)), folder.path(), &[NO_RECORDER]).await;
    let headers = "User-Agent: Mozilla/5\r\nReferer: https://Mail.Google.com/mail/u/0/\r\n";
    request(pixel.public, &format!("GET {}", path_of("e")), headers, b"")
        .await
        .assert_gif("a good token");
    let (status, ready) = pixel.ready().await;
    assert_eq!(
        (status, ready.contains(r#""status":"ready""#)),
        (200, true),
        "{ready}"
    );
    pixel.stop().await.unwrap();

    let recorded = hits(left_in(folder.path()));
    assert_eq!(recorded.len(), 1);
    assert_eq!(time_of_id(recorded[0].event_id), Some(now));
    let expected = Hit {
        event_id: recorded[0].event_id,
        opened_at: now,
        token: token("e"),
        client_address: "127.0.0.1".parse().unwrap(),
        user_agent: Some("Mozilla/5".into()),
        referer_host: Some("mail.google.com".into()),
    };
    assert_eq!(recorded[0], expected);
}

#[tokio::test]
async fn every_path_below_t_is_answered_with_the_gif() {
    let (pixel, _folder) = start_alone().await;
    let encode = |json: &[u8]| URL_SAFE_NO_PAD.encode(json);
    let good = token("e").encode();
    let paths = [
        ("no token", "/t/".to_owned(), "no_token"),
        ("an empty token", "/t/.gif".into(), "no_token"),
        ("a token without .gif", format!("/t/{good}"), "no_token"),
        ("another suffix", format!("/t/{good}.png"), "no_token"),
        ("more than one segment", "/t/a/b.gif".into(), "not_json"),
        ("no base64", "/t/!!!.gif".into(), "not_base64"),
        ("no JSON", format!("/t/{}.gif", encode(b"hello")), "not_json"),
        (
            "no UTF-8",
            format!("/t/{}.gif", encode(b"[\"\xff\",\"e\",\"r\",\"s\"]")),
            "not_json",
        ),
        (
            "a field missing",
            format!("/t/{}.gif", encode(b"[\"u\",\"e\",\"r\"]")),
            "field_missing",
        ),
        (
            "NUL in a field",
            format!("/t/{}.gif", encode(b"[\"u\\u0000\",\"e\",\"r\",\"s\"]")),
            "nul",
        ),
        ("a percent-encoded NUL", "/t/%00.gif".into(), "not_base64"),
        (
            "a percent escape of no UTF-8",
            "/t/%ff%fe.gif".into(),
            "not_base64",
        ),
        (
            "a malformed percent escape",
            format!("/t/{good}%zz.gif"),
            "not_base64",
        ),
        ("a percent sign at the end", "/t/%".into(), "no_token"),
        (
            "a token beyond the limit",
            format!("/t/{}.gif", "A".repeat(16_385)),
            "too_long",
        ),
        (
            "a very long token",
            format!("/t/{}.gif", "A".repeat(65_000)),
            "too_long",
        ),
        (
            "a field beyond the limit",
            format!(
                "/t/{}.gif",
                encode(format!("[\"u\",\"{}\",\"r\",\"s\"]", "e".repeat(1_025)).as_bytes())
            ),
            "field_too_long",
        ),
    ];
    for (what, path, reason) in paths {
        let series = format!("email_tracker_pixel_invalid_tokens_total{{reason=\"{reason}\"}}");
        let before = pixel.metric(&series).await;
        get(pixel.public, &path).await.assert_gif(what);
        assert_eq!(
            pixel.metric(&series).await - before,
            1,
            "{what} counts as {reason}"
        );
        assert_works(&pixel, what).await;
    }
}

#[tokio::test]
async fn tokens_in_every_tolerated_spelling_are_recorded() {
    let (pixel, folder) = start_alone().await;
    let longest = tracking::Token {
        recipient: "r".repeat(10_240),
        ..token("long")
    };
    let good = token("e").encode();
    let escaped = percent_encoding::percent_encode(good.as_bytes(), percent_encoding::NON_ALPHANUMERIC);
    let paths = [
        format!("/t/{good}.gif"),
        format!("/t/{good}.gif?a=b&c"),
        format!("/t/{good}{}.gif", "%3D".repeat((4 - good.len() % 4) % 4)),
        format!("/t/{escaped}.gif"),
        format!("http://track.example/t/{good}.gif"),
        format!("/t/{}.gif", longest.encode()),
    ];
    for path in &paths {
        get(pixel.public, path).await.assert_gif(path);
    }
    pixel.stop().await.unwrap();
    assert_eq!(hits(left_in(folder.path())).len(), paths.len());
}

#[tokio::test]
async fn other_methods_record_nothing() {
    let (pixel, folder) = start_alone().await;
    let path = path_of("e");
    let head = request(pixel.public, &format!("HEAD {path}"), "", b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    head.assert_gif_headers("HEAD");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let answer = request(
            pixel.public,
            &format!("{method} {path}"),
            "Content-Length: 0\r\n",
            b"",
        )
        .await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some("GET, HEAD")),
            "{method}"
        );
    }
    for method in ["GET", "HEAD", "OPTIONS", "PUT"] {
        let answer = request(
            pixel.public,
            &format!("{method} /mark-suppress-next"),
            "Content-Length: 0\r\n",
            b"",
        )
        .await;
        assert_eq!(
            (answer.status, answer.header("allow")),
            (405, Some("POST")),
            "{method}"
        );
    }
    let answer = request(pixel.public, "POST /health", "Content-Length: 0\r\n", b"").await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")));
    pixel.stop().await.unwrap();
    assert_eq!(left_in(folder.path()), []);
}

#[tokio::test]
async fn health_and_what_is_not_there() {
    let (pixel, _folder) = start_alone().await;
    let health = get(pixel.public, "/health").await;
    assert_eq!(
        (health.status, health.text()),
        (200, r#"{"status":"ok","ok":true}"#)
    );
    assert_eq!(health.header("content-type"), Some("application/json"));
    let head = request(pixel.public, "HEAD /health", "", b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    for path in [
        "/",
        "/t",
        "/metrics",
        "/ready",
        "/dashboard",
        "/T/x.gif",
        "/mark-suppress-next/",
    ] {
        assert_eq!(get(pixel.public, path).await.status, 404, "{path}");
    }
    assert_eq!(get(pixel.admin, "/live").await.status, 200);
}

#[tokio::test]
async fn marks_are_answered_as_the_contract_says() {
    let folder = TempDir::new().unwrap();
    let now = Timestamp::from_millis(1_710_000_000_000);
    let pixel = start_at(Arc::new(MockClock::at(now)), folder.path(), &[NO_RECORDER]).await;
    for (body, email_id) in [
        (r#"{"email_id":"a-b"}"#, "a-b"),
        (r#"{"email_id":"  ü  "}"#, "ü"),
        (r#"{"email_id":12.50}"#, "12.50"),
        (r#"{"email_id":true}"#, "true"),
    ] {
        let answer = mark(pixel.public, body.as_bytes()).await;
        let expected = format!(r#"{{"ok":true,"email_id":"{email_id}","recorded_at_ms":1710000000000}}"#);
        assert_eq!((answer.status, answer.text()), (200, expected.as_str()));
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
    let required = r#"{"ok":false,"error":"email_id is required"}"#;
    let padded = |bytes: usize| format!("{{\"email_id\":\"e\"}}{}", " ".repeat(bytes - 16));
    let refused: [(&[u8], u16, &str); 13] = [
        (b"", 400, required),
        (b"{\"email_id\":\"a", 400, required),
        (b"[\"email_id\"]", 400, required),
        (b"[]", 400, required),
        (b"{}", 400, required),
        (br#"{"email_id":null}"#, 400, required),
        (br#"{"email_id":""}"#, 400, required),
        (br#"{"email_id":["a"]}"#, 400, required),
        (br#"{"email_id":{}}"#, 400, required),
        (b"{\"email_id\":\"\xff\"}", 400, required),
        (
            format!(r#"{{"email_id":"{}"}}"#, "e".repeat(1_025))
                .leak()
                .as_bytes(),
            400,
            r#"{"ok":false,"error":"email_id is longer than 1024 bytes"}"#,
        ),
        (
            br#"{"email_id":"a\u0000b"}"#,
            400,
            r#"{"ok":false,"error":"email_id contains a NUL character"}"#,
        ),
        (
            padded((16 << 10) + 1).leak().as_bytes(),
            413,
            r#"{"ok":false,"error":"the body is larger than 16 KiB"}"#,
        ),
    ];
    for (body, status, text) in refused {
        let answer = mark(pixel.public, body).await;
        assert_eq!(
            (answer.status, answer.text()),
            (status, text),
            "{}",
            body.escape_ascii()
        );
        assert_eq!(
            mark(pixel.public, padded(16 << 10).as_bytes()).await.status,
            200,
            "the next good one"
        );
    }
    assert_eq!(
        pixel
            .metric("email_tracker_pixel_marks_total{outcome=\"recorded\"}")
            .await,
        17
    );
    assert_eq!(
        pixel
            .metric("email_tracker_pixel_marks_total{outcome=\"refused\"}")
            .await,
        13
    );
    pixel.stop().await.unwrap();
    assert_eq!(left_in(folder.path()).len(), 17);
}

#[tokio::test]
async fn a_mark_is_json_in_one_piece_or_in_chunks() {
    let folder = TempDir::new().unwrap();
    let now = Timestamp::from_millis(1_710_000_000_000);
    let pixel = start_at(Arc::new(MockClock::at(now)), folder.path(), &[NO_RECORDER]).await;
    for headers in [
        "Content-Length: 16\r\n",
        "Content-Type: text/plain\r\nContent-Length: 16\r\n",
    ] {
        let answer = request(
            pixel.public,
            "POST /mark-suppress-next",
            headers,
            br#"{"email_id":"e"}"#,
        )
        .await;
        let text = r#"{"ok":false,"error":"Content-Type must be application/json"}"#;
        assert_eq!((answer.status, answer.text()), (415, text));
    }
    let chunked =
        "Content-Type: Application/JSON; charset=utf-8\r\nTransfer-Encoding: chunked\r\nUser-Agent: a\r\n";
    let body = b"8\r\n{\"email_\r\n8\r\nid\":\"e\"}\r\n0\r\n\r\n";
    assert_eq!(
        request(pixel.public, "POST /mark-suppress-next", chunked, body)
            .await
            .status,
        200
    );
    pixel.stop().await.unwrap();

    let facts = left_in(folder.path());
    let Fact::Mark(last) = facts.last().unwrap() else {
        panic!("no mark")
    };
    assert_eq!(
        (facts.len(), last.email_id.as_str(), last.marked_at),
        (1, "e", now)
    );
    assert_eq!(
        (last.user_agent.as_deref(), last.client_address.to_string()),
        (Some("a"), "127.0.0.1".into())
    );
}

#[tokio::test]
async fn a_mark_is_refused_if_the_spool_cannot_take_it_and_a_pixel_is_answered() {
    let folder = TempDir::new().unwrap();
    let pixel = start(folder.path(), &[NO_RECORDER, ("SPOOL_MAX_BYTES", "64KiB")]).await;
    let long = "x".repeat(1_024);
    let mut taken = 0;
    loop {
        let answer = mark(pixel.public, format!(r#"{{"email_id":"{long}"}}"#).as_bytes()).await;
        match answer.status {
            200 => taken += 1,
            503 => {
                let text = r#"{"ok":false,"error":"the mark cannot be stored right now; try again"}"#;
                assert_eq!(answer.text(), text);
                break;
            }
            other => panic!("{other}"),
        }
    }
    let lost = "email_tracker_pixel_facts_lost_total{reason=\"spool_full\"}";
    let before = pixel.metric(lost).await;
    assert_eq!(before, 0, "a mark that was refused is not lost");
    let mut recorded = 0;
    for number in 0..20 {
        get(pixel.public, &path_of(&format!("{number:0>900}")))
            .await
            .assert_gif("a full spool");
        recorded = pixel.metric("email_tracker_pixel_spool_records").await - taken;
    }
    assert_eq!(pixel.metric(lost).await, 20 - recorded);
    let (status, ready) = pixel.ready().await;
    assert!(
        status == 200 && ready.contains(r#""status":"degraded""#) && ready.contains("the spool is full"),
        "{ready}"
    );
    pixel.stop().await.unwrap();
    assert_eq!(left_in(folder.path()).len(), taken + recorded);
}

#[tokio::test]
async fn strange_headers_are_kept_within_bounds() {
    let folder = TempDir::new().unwrap();
    let pixel = start(
        folder.path(),
        &[NO_RECORDER, ("TRUSTED_PROXIES", "127.0.0.0/8,10.0.0.0/8")],
    )
    .await;
    let thousand = vec!["10.0.0.1"; 1_000].join(", ");
    let repeated = "X-Forwarded-For: 10.0.0.1\r\n".repeat(90);
    let cases: [(String, &str, Option<String>); 9] = [
        (
            format!("User-Agent: {}\r\n", "x".repeat(64 << 10)),
            "127.0.0.1",
            Some("x".repeat(1_024)),
        ),
        (String::new(), "127.0.0.1", None),
        (
            "X-Forwarded-For: garbage, \u{1}\u{2}\r\n".replace(['\u{1}', '\u{2}'], "?"),
            "127.0.0.1",
            None,
        ),
        ("X-Forwarded-For: 198.51.100.7\r\n".into(), "198.51.100.7", None),
        (
            "X-Forwarded-For: 1.1.1.1, 198.51.100.7, 10.0.0.3\r\n".into(),
            "198.51.100.7",
            None,
        ),
        (
            "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-For: 10.0.0.3\r\n".into(),
            "198.51.100.7",
            None,
        ),
        (
            format!("X-Forwarded-For: 198.51.100.7, {thousand}\r\n"),
            "198.51.100.7",
            None,
        ),
        (
            format!("X-Forwarded-For: [2001:db8::1]:443\r\n{repeated}"),
            "2001:db8::1",
            None,
        ),
        (
            "X-Forwarded-For: 198.51.100.7, nobody, 10.0.0.3\r\n".into(),
            "10.0.0.3",
            None,
        ),
    ];
    for (headers, ..) in &cases {
        request(pixel.public, &format!("GET {}", path_of("e")), headers, b"")
            .await
            .assert_gif(&headers[..headers.len().min(80)]);
        assert_works(&pixel, &headers[..headers.len().min(80)]).await;
    }
    pixel.stop().await.unwrap();
    let recorded = hits(left_in(folder.path()));
    let of_cases: Vec<_> = recorded.iter().filter(|hit| hit.token.email_id == "e").collect();
    for (hit, (headers, address, user_agent)) in of_cases.iter().zip(&cases) {
        let headers = &headers[..headers.len().min(80)];
        assert_eq!(hit.client_address.to_string(), *address, "{headers}");
        assert_eq!(&hit.user_agent, user_agent, "{headers}");
    }
}

#[tokio::test]
async fn an_untrusted_peer_is_the_client_whatever_it_says() {
    let (pixel, folder) = start_alone().await;
    let line = format!("GET {}", path_of("e"));
    request(pixel.public, &line, "X-Forwarded-For: 198.51.100.7\r\n", b"")
        .await
        .assert_gif("a forged header");
    pixel.stop().await.unwrap();
    assert_eq!(
        hits(left_in(folder.path()))[0].client_address.to_string(),
        "127.0.0.1"
    );
}

#[tokio::test]
async fn what_is_no_http_does_no_harm() {
    let (pixel, _folder) = start_alone().await;
    let long_line = format!("GET /t/{} HTTP/1.1\r\n\r\n", "A".repeat(70_000));
    let raw: [(&str, &[u8]); 9] = [
        ("nothing", b""),
        ("half a request", b"GET /t/x.gif HTT"),
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        ("a space in the path", b"GET /t/a b.gif HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("a NUL in a header", b"GET /t/a.gif HTTP/1.1\r\nHost: x\0y\r\n\r\n"),
        ("HTTP/2 without an agreement", b"PRI * HTTP/2\r\n\r\nSM\r\n\r\n"),
        ("two lengths", b"POST /mark-suppress-next HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
        ("a bad chunk", b"POST /mark-suppress-next HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        ("a request line beyond all bounds", long_line.as_bytes()),
    ];
    for (what, bytes) in raw {
        let mut stream = tokio::net::TcpStream::connect(pixel.public).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, bytes)
            .await
            .unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer).await;
        assert!(
            answer.is_empty() || (400..500).contains(&parse(&answer).status),
            "{what}: {}",
            answer.escape_ascii()
        );
        assert_works(&pixel, what).await;
    }
    // Bytes beyond ASCII in a path are answered as every path below /t/.
    let answer = send_raw(
        pixel.public,
        b"GET /t/\xc3\xbc.gif HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    .await;
    parse(&answer).assert_gif("UTF-8 in the path");
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let (pixel, folder) = start_alone().await;
    let one = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", path_of("e"));
    let last = format!(
        "GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        path_of("e")
    );
    let answer = send_raw(pixel.public, format!("{}{last}", one.repeat(49)).as_bytes()).await;
    let gifs = answer
        .windows(pixel::GIF.len())
        .filter(|bytes| *bytes == pixel::GIF)
        .count();
    assert_eq!(gifs, 50);
    pixel.stop().await.unwrap();
    assert_eq!(left_in(folder.path()).len(), 50);
}

#[tokio::test]
async fn every_series_is_there_from_the_start() {
    let (pixel, _folder) = start_alone().await;
    let text = get(pixel.admin, "/metrics").await.text().to_owned();
    for series in [
        "email_tracker_pixel_hits_total 0",
        "email_tracker_pixel_marks_total{outcome=\"not_stored\"} 0",
        "email_tracker_pixel_invalid_tokens_total{reason=\"nul\"} 0",
        "email_tracker_pixel_facts_lost_total{reason=\"disk_full\"} 0",
        "email_tracker_pixel_facts_lost_total{reason=\"unsynced\"} 0",
        "email_tracker_pixel_facts_lost_total{reason=\"corrupt\"} 0",
        "email_tracker_pixel_facts_overdue 0",
        "email_tracker_pixel_spool_size_bytes 0",
        "email_tracker_pixel_spool_limit_bytes 1073741824",
        "email_tracker_pixel_spool_records 0",
        "email_tracker_pixel_spool_oldest_unsent_age_seconds 0",
        "email_tracker_pixel_spool_set_aside 0",
        "email_tracker_pixel_spool_quarantined_total 0",
        "email_tracker_pixel_forward_facts_total{outcome=\"recorded\"} 0",
        "email_tracker_pixel_forward_errors_total{code=\"unavailable\"} 0",
    ] {
        assert!(text.lines().any(|line| line == series), "no {series} in\n{text}");
    }
    get(pixel.public, &path_of("e")).await.assert_gif("a hit");
    assert!(
        pixel
            .metric("email_tracker_pixel_spool_sync_duration_seconds_count")
            .await
            >= 1
    );
}

#[tokio::test]
async fn a_pixel_and_a_mark_are_answered_after_their_sync() {
    let disk = support::forgetful::ForgetfulDisk::default();
    let clock = Arc::new(service_kit::SystemClock);
    let folder = std::path::Path::new("/spool");
    let pixel = support::pixel::start_on(Arc::new(disk.clone()), clock, folder, &[NO_RECORDER]).await;
    get(pixel.public, &path_of("before"))
        .await
        .assert_gif("a good disk");
    support::eventually_async("it is synced", async || {
        pixel.metric("email_tracker_pixel_spool_records").await == 1
    })
    .await;
    let to = pixel.public;
    for what in ["a pixel", "a mark"] {
        let syncs = disk.syncs_begun();
        disk.set_faults(|faults| faults.sync_hangs = true);
        let request = tokio::spawn(async move {
            match what {
                "a pixel" => get(to, &path_of("e")).await.status,
                _ => mark(to, br#"{"email_id":"e"}"#).await.status,
            }
        });
        support::eventually("a sync begins", || {
            assert!(!request.is_finished(), "{what} is answered without a sync");
            disk.syncs_begun() > syncs
        })
        .await;
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert!(
            !request.is_finished(),
            "{what} is answered before its sync has returned"
        );
        disk.set_faults(|faults| faults.sync_hangs = false);
        assert_eq!(request.await.unwrap(), 200);
    }
    pixel.stop().await.unwrap();
}

#[tokio::test]
async fn while_the_disk_hangs_pixels_are_answered_and_nothing_is_counted_twice() {
    let disk = support::forgetful::ForgetfulDisk::default();
    let clock = Arc::new(service_kit::SystemClock);
    let folder = std::path::Path::new("/spool");
    let pixel = support::pixel::start_on(Arc::new(disk.clone()), clock, folder, &[NO_RECORDER]).await;
    get(pixel.public, &path_of("before"))
        .await
        .assert_gif("a good disk");
    disk.set_faults(|faults| faults.sync_hangs = true);
    let (line, path) = (format!("GET {}", path_of("e")), path_of("e"));
    // The first ones wait until their patience is over, later ones do not wait at all.
    let waiting = (0..3).map(|_| request(pixel.public, &line, "", b""));
    for answer in futures::future::join_all(waiting).await {
        answer.assert_gif("a hanging disk");
    }
    get(pixel.public, &path).await.assert_gif("a hanging disk");
    assert_eq!(mark(pixel.public, br#"{"email_id":"e"}"#).await.status, 503);
    let overdue = "email_tracker_pixel_facts_overdue";
    assert_eq!(
        (
            pixel.metric(overdue).await,
            pixel.metric("email_tracker_pixel_spool_records").await
        ),
        (4, 1)
    );
    assert!(pixel.ready().await.1.contains("degraded"));

    disk.set_faults(|faults| faults.sync_hangs = false);
    support::eventually_async("nothing is overdue", async || pixel.metric(overdue).await == 0).await;
    // The mark whose sender was told to try again is there as well.
    assert_eq!(pixel.metric("email_tracker_pixel_spool_records").await, 6);
    assert_eq!(lost(&pixel).await, 0);
    assert!(pixel.ready().await.1.contains(r#""status":"ready""#));

    disk.set_faults(|faults| faults.sync_fails = true);
    get(pixel.public, &path).await.assert_gif("a failing disk");
    get(pixel.public, &path).await.assert_gif("a failing disk");
    assert_eq!(lost(&pixel).await, 2);
    pixel.stop().await.unwrap();
}

async fn lost(pixel: &Pixel) -> usize {
    let text = get(pixel.admin, "/metrics").await.text().to_owned();
    let series = text
        .lines()
        .filter_map(|line| line.strip_prefix("email_tracker_pixel_facts_lost_total{"));
    series
        .map(|rest| rest.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
        .sum()
}

#[tokio::test]
async fn only_what_no_request_line_may_hold_is_refused_by_the_parser() {
    let (pixel, _folder) = start_alone().await;
    let mut refused = String::new();
    for byte in (b'!'..=b'~').chain([0x80, 0xff]) {
        let mut line = b"GET /t/a".to_vec();
        line.push(byte);
        line.extend_from_slice(b"b.gif HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = parse(&send_raw(pixel.public, &line).await);
        if answer.status != 200 {
            refused.push(char::from(byte));
        }
    }
    // A client that sends these has to escape them; escaped, they are answered like anything else.
    assert_eq!(refused, "<>`\u{80}\u{ff}");
    get(pixel.public, "/t/%3C%3E%60%80%FF.gif")
        .await
        .assert_gif("escaped");
}
