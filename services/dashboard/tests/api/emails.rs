//! `/dashboard/api/emails`.

use serde_json::json;
use tracking::Token;

use crate::support::*;

const EMAILS: &str = "/dashboard/api/emails";

fn token(email_id: &str, user_id: &str, recipient: &str) -> Token {
    Token {
        user_id: user_id.into(),
        email_id: email_id.into(),
        recipient: recipient.into(),
        sent_at: "yesterday evening".into(),
        sender_email: Some("me@example.org".into()),
    }
}

#[tokio::test]
async fn an_email_looks_as_the_contract_says() {
    let database = new_database().await;
    let mut facts = Facts::default();
    facts
        .hit_of(token("one", "user-ä", "Jürgen \"J\" <j@example.org>"), 0, READER)
        .hit_of(token("one", "forged", "forged"), 1_000, READER) // a duplicate
        .hit_of(token("one", "forged", "forged"), 40_007, READER)
        .hit("two", 5, PROXY)
        .on_page_of("mail.google.com")
        .hit("never", 6, READER)
        .on_page_of("mail.google.com")
        .mark("marked-only", 0);
    facts.store(&database.superuser().await).await;
    let dashboard = Running::over(&database).await;
    let expected = json!({"ok": true, "items": [
        {
            "email_id": "never", "user_id": "user-1", "recipient": "never@example.org", "sender_email": null,
            "sent_at": "2026-03-01T11:00:00.000Z", "unique_open_count": 0, "total_open_events": 0, "raw_open_events": 1,
            "last_opened_at": null, "opened": false, "created_at": "2026-03-01T12:00:00.006Z",
            "human_open_count": 0, "last_human_open_at": null
        },
        {
            "email_id": "two", "user_id": "user-1", "recipient": "two@example.org", "sender_email": null,
            "sent_at": "2026-03-01T11:00:00.000Z", "unique_open_count": 1, "total_open_events": 1, "raw_open_events": 1,
            "last_opened_at": "2026-03-01T12:00:00.005Z", "opened": true, "created_at": "2026-03-01T12:00:00.005Z",
            "human_open_count": 1, "last_human_open_at": "2026-03-01T12:00:00.005Z"
        },
        {
            "email_id": "one", "user_id": "user-ä", "recipient": "Jürgen \"J\" <j@example.org>",
            "sender_email": "me@example.org", "sent_at": "yesterday evening", "unique_open_count": 2,
            "total_open_events": 2, "raw_open_events": 3, "last_opened_at": "2026-03-01T12:00:40.007Z", "opened": true,
            "created_at": "2026-03-01T12:00:00.000Z",
            "human_open_count": 2, "last_human_open_at": "2026-03-01T12:00:40.007Z"
        },
    ]});
    assert_eq!(dashboard.json(EMAILS).await, expected);
}

#[tokio::test]
async fn without_emails_the_list_is_empty() {
    let dashboard = Running::without_facts().await;
    assert_eq!(dashboard.json(EMAILS).await, json!({"ok": true, "items": []}));
    assert_eq!(
        dashboard.json(&format!("{EMAILS}?limit=5")).await,
        json!({"ok": true, "items": [], "next_cursor": null})
    );
}

#[tokio::test]
async fn emails_of_one_millisecond_are_in_bytewise_order() {
    let database = new_database().await;
    let mut facts = Facts::default();
    for email_id in ["b", "ä", "B", "a", "_", "a-"] {
        facts.hit(email_id, 0, READER);
    }
    facts.hit("later", 1, READER);
    facts.store(&database.superuser().await).await;
    let dashboard = Running::over(&database).await;
    let order = ["later", "B", "_", "a", "a-", "b", "ä"];
    assert_eq!(dashboard.column(EMAILS, "email_id").await, order);
    let mut paged = Vec::new();
    let mut target = format!("{EMAILS}?limit=2");
    loop {
        let page = dashboard.json(&target).await;
        paged.extend(column(&page, "email_id"));
        match page["next_cursor"].as_str() {
            Some(cursor) => target = format!("{EMAILS}?limit=2&cursor={cursor}"),
            None => break,
        }
    }
    assert_eq!(paged, order);
    let all = dashboard.json(&format!("{EMAILS}?limit=7")).await;
    assert!(
        all["next_cursor"].is_null(),
        "nothing follows a page that ends with the list"
    );
}

#[tokio::test]
async fn a_cursor_stays_at_its_place_while_emails_come_in() {
    let database = new_database().await;
    let client = database.superuser().await;
    let mut facts = Facts::default();
    for (at, email_id) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        facts.hit(email_id, i64::try_from(at).unwrap() * 10, READER);
    }
    facts.store(&client).await;
    let dashboard = Running::over(&database).await;
    let first = dashboard.json(&format!("{EMAILS}?limit=2")).await;
    assert_eq!(column(&first, "email_id"), ["e", "d"]);
    facts
        .hit("newest", 100, READER)
        .hit("between", 25, READER)
        .store(&client)
        .await;
    let cursor = first["next_cursor"].as_str().unwrap();
    let rest = dashboard.json(&format!("{EMAILS}?cursor={cursor}")).await;
    assert_eq!(column(&rest, "email_id"), ["between", "c", "b", "a"]);
    assert_eq!(
        keys(&rest),
        ["items", "ok"],
        "without a limit there is no next page"
    );
}

#[tokio::test]
async fn filters_by_user_opened_and_since() {
    let database = new_database().await;
    let mut facts = Facts::default();
    facts
        .hit_of(token("a", "user-1", "a@example.org"), 0, READER)
        .hit_of(token("b", "user-2", "b@example.org"), 1, READER)
        .hit_of(token("c", "user-2", "c@example.org"), 2, READER)
        .on_page_of("mail.google.com");
    facts.store(&database.superuser().await).await;
    let dashboard = Running::over(&database).await;
    for (query, expected) in [
        ("user_id=user-2", &["c", "b"][..]),
        ("user_id=USER-2", &[]),
        ("user_id=user", &[]),
        ("opened=true", &["b", "a"]),
        ("opened=false", &["c"]),
        ("opened=true&user_id=user-2", &["b"]),
        ("since=2026-03-01T12:00:00.001Z", &["c", "b"]),
        ("since=2026-03-01T13:00:00.002%2B01:00", &["c"]),
        ("since=2027-01-01T00:00:00Z", &[]),
        ("since=-009000-01-02T00:00:00Z", &["c", "b", "a"]),
        ("unknown=%ff&since=2026-03-01T12:00:00.002Z&_=1&_=2", &["c"]),
    ] {
        let found = dashboard.column(&format!("{EMAILS}?{query}"), "email_id").await;
        assert_eq!(found, expected, "{query}");
    }
}

#[tokio::test]
async fn a_recipient_is_one_of_the_addresses_in_any_case() {
    let database = new_database().await;
    let mut facts = Facts::default();
    facts
        .hit_of(
            token("both", "u", "Ann@Example.org , JÜRGEN@Example.org"),
            0,
            READER,
        )
        .hit_of(token("ann", "u", "ann@example.org"), 1, READER)
        .hit_of(token("joanne", "u", "joann@example.org"), 2, READER)
        .hit_of(token("kelvin", "u", "\u{212A}im@example.org"), 3, READER)
        .hit_of(token("dot", "u", "İpek@example.org"), 4, READER);
    facts.store(&database.superuser().await).await;
    let dashboard = Running::over(&database).await;
    for (recipient, expected) in [
        ("ann@example.org", &["ann", "both"][..]),
        ("%20ANN@EXAMPLE.ORG%20", &["ann", "both"]),
        ("j%C3%BCrgen@example.ORG", &["both"]),
        ("J%C3%9CRGEN@example.org", &["both"]),
        ("kim@example.org", &["kelvin"]),
        ("%C4%B0PEK@example.org", &["dot"]),
        ("ann", &[]),
        ("Ann@Example.org%20,%20J%C3%9CRGEN@Example.org", &[]),
        ("%25", &[]),
    ] {
        let target = format!("{EMAILS}?recipient={recipient}");
        assert_eq!(
            dashboard.column(&target, "email_id").await,
            expected,
            "{recipient}"
        );
        let paged = format!("{target}&limit=1");
        let first: Vec<_> = expected.iter().copied().take(1).collect();
        assert_eq!(dashboard.column(&paged, "email_id").await, first, "{recipient}");
    }
}

#[tokio::test]
async fn q_is_found_literally_in_recipient_or_id_in_any_case() {
    let database = new_database().await;
    let mut facts = Facts::default();
    facts
        .hit_of(token("ID-100%", "u", "ann@example.org"), 0, READER)
        .hit_of(token("id-100", "u", "under_score@example.org"), 1, READER)
        .hit_of(token("Straße", "u", "back\\slash@example.org"), 2, READER)
        .hit_of(token("x", "u", "ÉLAN@example.org, other@example.net"), 3, READER);
    facts.store(&database.superuser().await).await;
    let dashboard = Running::over(&database).await;
    for (q, expected) in [
        ("example.ORG", &["x", "Straße", "id-100", "ID-100%"][..]),
        ("id-100", &["id-100", "ID-100%"]),
        ("0%25", &["ID-100%"]),
        ("r_s", &["id-100"]),
        ("n_n", &[]),
        ("k%5Cs", &["Straße"]),
        ("%5C", &["Straße"]),
        ("STRAß", &["Straße"]),
        ("%C3%A9lan", &["x"]),
        ("g,+OTHER", &["x"]),
        ("nobody", &[]),
    ] {
        let target = format!("{EMAILS}?q={}", q.replace('ß', "%C3%9F"));
        assert_eq!(dashboard.column(&target, "email_id").await, expected, "{q}");
    }
    let mut found = Vec::new();
    let mut target = format!("{EMAILS}?q=example&limit=1");
    while found.len() < 9 {
        let page = dashboard.json(&target).await;
        found.extend(column(&page, "email_id"));
        let Some(cursor) = page["next_cursor"].as_str() else {
            break;
        };
        target = format!("{EMAILS}?q=example&limit=1&cursor={cursor}");
    }
    assert_eq!(found, ["x", "Straße", "id-100", "ID-100%"]);
}

#[tokio::test]
async fn an_unchanged_list_is_not_sent_again() {
    let database = new_database().await;
    let client = database.superuser().await;
    let mut facts = Facts::default();
    facts.hit("a", 0, READER).store(&client).await;
    let dashboard = Running::over(&database).await;
    let first = dashboard.get(EMAILS).await;
    let etag = first.header("etag").unwrap().to_owned();
    assert!(etag.starts_with("W/\""), "{etag}");
    let policy = |answer: &test_support::http::Answer| {
        assert_eq!(answer.header("cache-control"), Some("private, no-cache"));
        assert_eq!(
            answer.header("vary"),
            Some("X-Tracker-Token, Cookie, Accept-Encoding")
        );
    };
    policy(&first);

    let ask = async |target: &str, if_none_match: &str| {
        authorized("GET", target)
            .header("if-none-match", if_none_match)
            .send(dashboard.address)
            .await
    };
    for known in [
        etag.as_str(),
        etag.trim_start_matches("W/"),
        "*",
        &format!("\"x\", {etag}"),
    ] {
        let answer = ask(EMAILS, known).await;
        assert_eq!((answer.status, answer.body.len()), (304, 0), "{known}");
        assert_eq!(answer.header("etag"), Some(etag.as_str()));
        policy(&answer);
    }
    for unknown in ["\"x\"", "", "nonsense", &etag.to_lowercase()] {
        assert_eq!(ask(EMAILS, unknown).await.status, 200, "{unknown}");
    }
    assert_eq!(
        ask(&format!("{EMAILS}?opened=true"), &etag).await.status,
        200,
        "another question"
    );
    assert_eq!(
        ask("/dashboard/api/open-events", &etag).await.status,
        200,
        "another list"
    );

    facts.hit("b", 1, READER).store(&client).await;
    let changed = ask(EMAILS, &etag).await;
    assert_eq!(
        (changed.status, column(&changed.json(), "email_id").len()),
        (200, 2)
    );
    assert_ne!(changed.header("etag"), Some(etag.as_str()));
    client
        .batch_execute("insert into revisions values ('worker-2', 1)")
        .await
        .unwrap();
    assert_eq!(
        ask(EMAILS, changed.header("etag").unwrap()).await.status,
        200,
        "another worker"
    );
    let series = "email_tracker_dashboard_not_modified_total{route=\"emails\"}";
    assert_eq!(dashboard.metric(series).await.to_string(), "4");
}
