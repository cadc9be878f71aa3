//! The list of emails as the page searches it.

use tracking::Token;

use crate::support::*;

const PATH: &str = "/dashboard/api/v1/emails";

fn token(email_id: &str, sender: Option<&str>) -> Token {
    Token {
        user_id: "user-1".into(),
        email_id: email_id.into(),
        recipient: format!("{email_id}@Example.org"),
        sent_at: "2026-03-01T11:00:00.000Z".into(),
        sender_email: sender.map(Into::into),
    }
}

/// `a` was hit first and opened last and most; `b` was opened once; `c` was never opened.
async fn three_emails() -> (Running, test_support::TestDatabase) {
    let database = new_database().await;
    let mut facts = Facts::default();
    facts
        .hit_of(token("a", Some("Me@example.com")), 0, READER)
        .hit_of(token("bé", Some("ÄNNE@example.com")), 60_000, READER)
        .hit_of(token("c", None), 120_000, READER)
        .on_page_of("mail.google.com")
        .hit_of(token("a", Some("Me@example.com")), 180_000, READER)
        .hit_of(token("doctor-1", None), 181_000, READER);
    let client = database.superuser().await;
    facts.store(&client).await;
    client
        .batch_execute(
            "update tracked_emails set user_id = 'doctor' where email_id = 'doctor-1';
             update hits set device_type = 'phone' where email_id = 'bé'",
        )
        .await
        .unwrap();
    (Running::over(&database).await, database)
}

#[tokio::test]
async fn each_filter_and_order_shows_what_it_says() {
    let (dashboard, _database) = three_emails().await;
    for (query, expected) in [
        ("", &["c", "bé", "a"][..]),
        ("?sort=created", &["c", "bé", "a"]),
        ("?sort=last_open", &["a", "bé", "c"]),
        ("?sort=opens", &["a", "bé", "c"]),
        ("?opened=true", &["bé", "a"]),
        ("?opened=false", &["c"]),
        ("?since=2026-03-01T12:01:00Z", &["c", "bé"]),
        ("?until=2026-03-01T12:01:00Z", &["a"]),
        ("?sender=me@EXAMPLE.com", &["a"]),
        ("?sender=%C3%A4nne@example.com", &["bé"]),
        ("?sender=example.com", &[]),
        ("?q=B%C3%89@exam", &["bé"]),
        ("?q=C@e&opened=false", &["c"]),
        ("?class=browser", &["bé", "a"]),
        ("?class=gmail_proxy", &[]),
        ("?human=true", &["bé", "a"]),
        ("?human=false", &["c"]),
        ("?device=phone", &["bé"]),
        ("?device=other", &["a"]),
        ("?device=computer", &[]),
    ] {
        let found = dashboard.column(&format!("{PATH}{query}"), "email_id").await;
        assert_eq!(found, expected, "{query}");
    }
}

#[tokio::test]
async fn pages_follow_each_other_in_every_order() {
    let (dashboard, _database) = three_emails().await;
    for sort in ["created", "last_open", "opens"] {
        for filter in ["", "&q=example"] {
            let all = dashboard
                .column(&format!("{PATH}?sort={sort}{filter}"), "email_id")
                .await;
            let mut paged = Vec::new();
            let mut cursor = String::new();
            loop {
                let page = dashboard
                    .json(&format!("{PATH}?sort={sort}{filter}&limit=1{cursor}"))
                    .await;
                paged.extend(column(&page, "email_id"));
                let Some(next) = page["next_cursor"].as_str() else {
                    break;
                };
                cursor = format!("&cursor={next}");
            }
            assert_eq!(paged, all, "{sort}{filter}");
            assert_eq!(all.len(), 3);
        }
    }
}

#[tokio::test]
async fn an_item_is_as_in_the_list_and_an_unchanged_page_is_known() {
    let (dashboard, database) = three_emails().await;
    let listed = dashboard.json("/dashboard/api/emails").await;
    assert_eq!(dashboard.json(PATH).await["items"], listed["items"]);
    let answer = dashboard.get(PATH).await;
    let again = || authorized("GET", PATH).header("if-none-match", answer.header("etag").unwrap());
    assert_eq!(again().send(dashboard.address).await.status, 304);
    raise_revision(&database.superuser().await).await;
    assert_eq!(again().send(dashboard.address).await.status, 200);
}

#[tokio::test]
async fn bad_parameters_are_named() {
    let (dashboard, _database) = three_emails().await;
    let page = dashboard.json(&format!("{PATH}?sort=opens&limit=1")).await;
    let other_order = format!("cursor={}", page["next_cursor"].as_str().unwrap());
    for (query, name) in [
        ("sort=size", "sort"),
        ("limit=0", "limit"),
        ("until=today", "until"),
        ("since=2026", "since"),
        ("device=fridge", "device"),
        ("sender=", "sender"),
        ("q=%00", "q"),
        ("opened=1", "opened"),
        (other_order.as_str(), "cursor"),
    ] {
        let answer = dashboard.get(&format!("{PATH}?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.starts_with(&format!("{name} ")), "{error}");
    }
}
