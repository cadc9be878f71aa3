//! The page in a real browser: Chromium, driven by `ChromeDriver` over its HTTP interface.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helper fails the test by panicking"
)]

#[path = "api/support.rs"]
mod support;

use serde_json::{Value, json};
use support::*;
use test_support::{Browser, eventually};
use tracking::Token;

/// A program that says so.
const BOT: (&str, &str) = (
    "203.0.113.9",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
);
const ENTER: char = '\u{E007}';
const LEFT: char = '\u{E012}';

const MARKUP: &str = "<img src=x onerror=hacked=1> <b>bold</b>@example.org";

fn facts() -> Facts {
    let hostile = Token {
        user_id: "user-1".into(),
        email_id: "two".into(),
        recipient: MARKUP.into(),
        sent_at: "<i>some day</i>".into(),
        sender_email: None,
    };
    let mut facts = Facts::default();
    facts
        .hit("one", 0, READER)
        .hit("one", 60_000, PROXY)
        .hit("one", 61_000, PROXY) // a duplicate
        .hit("one", 300_000, READER)
        .on_page_of("mail.google.com")
        .hit_of(hostile, 120_000, READER);
    facts
}

#[tokio::test]
async fn emails_and_opens_are_shown_in_a_real_browser() {
    let database = new_database().await;
    let client = database.superuser().await;
    let mut facts = facts();
    facts.store(&client).await;
    let dashboard = Running::over(&database).await;
    let browser = Browser::start().await;
    let origin = format!("http://{}", dashboard.address);

    the_badge_leads_to_one_emails_opens(&browser, &origin).await;
    what_comes_from_outside_stays_text(&browser).await;

    let opens_of_one = "return [...document.querySelectorAll('#emails tr')]
                        .find((row) => row.dataset.key === 'one').cells[3].innerText";
    assert_eq!(browser.run(opens_of_one).await, json!("2"));
    facts.hit("one", 900_000, READER).store(&client).await;
    let stored = std::time::Instant::now();
    eventually("a new open comes in by itself", async || {
        (browser.run(opens_of_one).await == json!("3")).then_some(())
    })
    .await;
    println!(
        "a new open was shown {} ms after its commit",
        stored.elapsed().as_millis()
    );
    facts.hit("one", 1_000_000, BOT).store(&client).await;
    eventually("an open by a machine is told from those by people", async || {
        (browser.run(opens_of_one).await == json!("4 (3 by people)")).then_some(())
    })
    .await;
    let unchanged = "email_tracker_dashboard_not_modified_total{route=\"search\"}";
    eventually("an unchanged list is answered by 304", async || {
        (dashboard.metric(unchanged).await > 0.0).then_some(())
    })
    .await;

    a_search_finds_and_its_result_leads_on(&browser).await;
    it_is_readable_in_the_dark_and_on_a_phone(&browser).await;
    nothing_leaves_the_origin_or_stays_behind(&browser, &origin).await;
}

async fn the_badge_leads_to_one_emails_opens(browser: &Browser, origin: &str) {
    browser
        .open(&format!("{origin}/dashboard?tab=opens&email_id=one"))
        .await;
    browser.shows(&["Dashboard token"]).await;
    browser.has_no_barrier("log in").await;
    browser.picture("sign-in.png").await;
    browser.type_into("#token", &format!("wrong{ENTER}")).await;
    browser.shows(&["The server does not accept this token."]).await;
    browser.type_into("#token", &format!("{TOKEN}{ENTER}")).await;
    let own_time = "Mar 1, 2026, 7:00:00";
    browser
        .shows(&[
            "one@example.org",
            own_time,
            "7:01:00",
            "America/New_York",
            "Up to date",
        ])
        .await;
    assert_eq!(browser.rows("opens").await, 2);
    browser.click("#include-all").await;
    browser
        .shows(&["Duplicate", "Suppressed", "Your own compose window", "Counted"])
        .await;
    assert_eq!(browser.rows("opens").await, 4);
    browser.has_no_barrier("timeline").await;
    browser.picture("opens.png").await;
}

async fn what_comes_from_outside_stays_text(browser: &Browser) {
    browser.type_into("#tab-opens", &LEFT.to_string()).await;
    browser.shows(&[MARKUP, "<i>some day</i>"]).await;
    assert_eq!(browser.rows("emails").await, 2);
    assert_eq!(browser.run("return typeof hacked").await, json!("undefined"));
    let made_of_text = "return document.querySelectorAll('td img, td b, td i').length";
    assert_eq!(browser.run(made_of_text).await, json!(0));
    let address = "return location.pathname + location.search";
    assert_eq!(browser.run(address).await, json!("/dashboard"));
    browser.has_no_barrier("emails").await;
    browser.picture("emails.png").await;
}

async fn a_search_finds_and_its_result_leads_on(browser: &Browser) {
    browser.type_into("#search", "BOLD").await;
    eventually("one email is found", async || {
        (browser.rows("emails").await == 1).then_some(())
    })
    .await;
    browser.click("#emails a").await;
    browser.shows(&["Only two"]).await;
    assert_eq!(
        browser.run("return location.search").await,
        json!("?tab=opens&email_id=two")
    );
}

async fn it_is_readable_in_the_dark_and_on_a_phone(browser: &Browser) {
    let dark = json!({"cmd": "Emulation.setEmulatedMedia",
                      "params": {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}});
    assert_eq!(browser.post("goog/cdp/execute", dark).await.status, 200);
    browser.click("#all-opens").await;
    browser.shows(&["one@example.org"]).await;
    browser.has_no_barrier("timeline, dark").await;
    browser.picture("opens-dark.png").await;
    browser.click("#tab-emails").await;
    browser.click("#email-filters [type=reset]").await;
    browser.shows(&["one@example.org"]).await;
    browser.has_no_barrier("emails, dark").await;
    browser.picture("emails-dark.png").await;
    browser
        .post("window/rect", json!({"width": 500, "height": 900}))
        .await;
    browser.picture("emails-narrow.png").await;
    let overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
    assert_eq!(
        browser.run(overflow).await,
        json!(0),
        "nothing sticks out of a narrow window"
    );
}

async fn nothing_leaves_the_origin_or_stays_behind(browser: &Browser, origin: &str) {
    let elsewhere = "return localStorage.length + document.cookie.length";
    assert_eq!(browser.run(elsewhere).await, json!(0));
    let requests = "return performance.getEntriesByType('resource').map((entry) => entry.name)";
    let requests = browser.run(requests).await;
    let requests: Vec<_> = requests
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert!(requests.len() >= 3, "{requests:?}");
    assert!(requests.iter().all(|url| url.starts_with(origin)), "{requests:?}");
    browser.click("#sign-out").await;
    browser.shows(&["Dashboard token"]).await;
    assert_eq!(browser.run("return sessionStorage.length").await, json!(0));
    browser.open(&format!("{origin}/dashboard")).await;
    browser.shows(&["Dashboard token"]).await;
    let mut complaints = browser.complaints().await;
    // The wrong token; and other network interfaces of the machine, which may come and go.
    complaints.retain(|line| !line.contains("401 (Unauthorized)") && !line.contains("ERR_NETWORK_CHANGED"));
    assert!(complaints.is_empty(), "{complaints:?}");
}
