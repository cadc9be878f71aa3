//! The page in a real browser: Chromium, driven by `ChromeDriver` over its HTTP interface.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helper fails the test by panicking"
)]

#[path = "api/recorder.rs"]
mod recorder;
#[path = "api/support.rs"]
mod support;

use recorder::{RECORDER_TOKEN, RunningRecorder};
use recorder_api::v1::erase_request::Subject;
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
const ESCAPE: char = '\u{E00C}';
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

    the_badge_leads_to_one_emails_timeline(&browser, &origin).await;
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
        (browser.run(opens_of_one).await == json!("4\n3 by people")).then_some(())
    })
    .await;
    let unchanged = "email_tracker_dashboard_not_modified_total{route=\"search\"}";
    eventually("an unchanged list is answered by 304", async || {
        (dashboard.metric(unchanged).await > 0.0).then_some(())
    })
    .await;

    a_search_finds_and_its_result_leads_on(&browser).await;
    the_overview_draws_what_is_stored(&browser).await;
    facts.hit("two", 2_000_000, READER).store(&client).await;
    eventually("a chart shows a new open", async || {
        (drawn(&browser, "hours").await == json!([[0, 0, 0, 0, 0, 0, 0, 5], 1])).then_some(())
    })
    .await;
    it_is_readable_in_the_dark_and_on_a_phone(&browser).await;
    nothing_leaves_the_origin_or_stays_behind(&browser, &origin).await;
}

#[tokio::test]
async fn who_wants_it_is_notified_of_opens_by_people() {
    let database = new_database().await;
    let client = database.superuser().await;
    let mut facts = facts();
    facts.store(&client).await;
    let dashboard = Running::over(&database).await;
    let browser = Browser::start().await;
    let origin = format!("http://{}", dashboard.address);
    let allowed = json!({"origin": origin, "permissions": ["notifications"]});
    let grant = json!({"cmd": "Browser.grantPermissions", "params": allowed});
    assert_eq!(browser.post("goog/cdp/execute", grant).await.status, 200);
    browser.open(&format!("{origin}/dashboard?tab=emails")).await;
    browser.shows(&["Dashboard token"]).await;
    let is_pressed = "return document.getElementById('notify').ariaPressed";
    browser.type_into("#token", &format!("{TOKEN}{ENTER}")).await;
    browser.shows(&["one@example.org", "Notify me"]).await;
    assert_eq!(browser.run(is_pressed).await, json!("false"));

    // What is shown is shown by the browser; here it is written down as well.
    let write_down = "window.told = [];
                      window.Notification = class extends Notification {
                        constructor(title, options) { super(title, options); told.push([title, options.body]); }
                      }";
    browser.run(write_down).await;
    browser.click("#notify").await;
    eventually("notifications are on", async || {
        (browser.run(is_pressed).await == json!("true")).then_some(())
    })
    .await;
    browser.has_no_barrier("notifications are on").await;
    let list = "email_tracker_dashboard_requests_total{route=\"open_events\",status=\"2xx\"}";
    eventually("what is there is known", async || {
        (dashboard.metric(list).await >= 1.0).then_some(())
    })
    .await;

    facts
        .hit("one", 600_000, BOT) // no person
        .hit("one", 700_000, READER)
        .store(&client)
        .await;
    let told = async |expected: Value| {
        eventually("it is told", async || {
            (browser.run("return told").await == expected).then_some(())
        })
        .await;
    };
    told(json!([["Opened: one@example.org", "Browser"]])).await;
    for email in ["three", "four", "five", "six"] {
        facts.hit(email, 800_000, READER);
    }
    facts.store(&client).await;
    eventually("many are told at once", async || {
        (browser.run("return told[1]?.[0]").await == json!("4 emails opened")).then_some(())
    })
    .await;
    let recipients = "return told[1][1].split(', ').sort()";
    let expected = ["five", "four", "six", "three"].map(|name| format!("{name}@example.org"));
    assert_eq!(browser.run(recipients).await, json!(expected));

    browser.click("#notify").await;
    eventually("notifications are off", async || {
        (browser.run(is_pressed).await == json!("false")).then_some(())
    })
    .await;
    assert_eq!(browser.run("return localStorage.length").await, json!(0));
    facts.hit("one", 900_000, READER).store(&client).await;
    browser.shows(&["7:15"]).await;
    assert_eq!(browser.run("return told.length").await, json!(2));
}

#[tokio::test]
async fn an_email_is_erased_with_the_keyboard() {
    let database = new_database().await;
    facts().store(&database.superuser().await).await;
    let recorder = RunningRecorder::over(&database, 10).await;
    let url = database.url_of(database::DASHBOARD_ROLE);
    let told = [
        ("DASHBOARD_TOKEN", TOKEN),
        ("RECORDER_URL", &recorder.url()),
        ("RECORDER_TOKEN", RECORDER_TOKEN),
    ];
    let dashboard = Running::with(settings(&url, &told)).await;
    let browser = Browser::start().await;
    let origin = format!("http://{}", dashboard.address);
    browser
        .open(&format!("{origin}/dashboard?tab=opens&email_id=one"))
        .await;
    browser.type_into("#token", &format!("{TOKEN}{ENTER}")).await;
    browser.shows(&["one@example.org"]).await;
    let enter = ENTER.to_string();

    browser.type_into("#erase-one", &enter).await;
    browser.shows(&["Everything about the recipient"]).await;
    browser.has_no_barrier("what to erase").await;
    browser.type_into("#erase-email", &enter).await;
    browser
        .shows(&["This is about 1 email with 4 hits: the email one."])
        .await;
    browser.has_no_barrier("erase?").await;
    browser.picture("erase.png").await;
    browser.type_into("#erase-word", &format!("eras{ENTER}")).await;
    assert_eq!(recorder.seen(), [], "the word was not complete");
    browser.type_into("#erase-word", &format!("e{ENTER}")).await;
    browser.shows(&["Erased: 1 email with 4 hits."]).await;
    assert_eq!(recorder.seen(), [Subject::EmailId("one".into())]);
    browser.type_into("#erase-close", &enter).await;
    browser.shows(&["No opens here yet."]).await;

    browser.click("#tab-emails").await;
    eventually("the other email is left", async || {
        (browser.rows("emails").await == 1).then_some(())
    })
    .await;
    browser.type_into("#erase-some", &enter).await;
    browser
        .type_into("#erase-recipient", &format!("nobody@example.org{ENTER}"))
        .await;
    browser
        .shows(&["Nothing is stored: everything to nobody@example.org."])
        .await;
    browser.type_into("#erase-word", &ESCAPE.to_string()).await;
    let is_open = "return document.getElementById('erase').open";
    assert_eq!(browser.run(is_open).await, json!(false));
    assert_eq!(recorder.seen().len(), 1);

    browser.click("#sign-out").await;
    browser.shows(&["Dashboard token"]).await;
    let problem = "return document.getElementById('token-problem').textContent";
    assert_eq!(browser.run(problem).await, json!(""), "all sessions are ended");
    let complaints = browser.complaints().await;
    assert!(
        complaints
            .iter()
            .all(|line| line.contains("401 (Unauthorized)") || line.contains("ERR_NETWORK_CHANGED")),
        "{complaints:?}"
    );
}

async fn the_badge_leads_to_one_emails_timeline(browser: &Browser, origin: &str) {
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
            "1 hour after it was sent",
            "America/New_York",
            "Up to date",
        ])
        .await;
    // All that happened to one email, with the reason for each.
    browser
        .shows(&["Duplicate", "Suppressed", "Your own compose window", "Counted"])
        .await;
    assert_eq!(browser.rows("opens").await, 4);
    browser.has_no_barrier("timeline").await;
    browser.picture("timeline-light.png").await;
    browser.click("#include-all").await;
    eventually("only opens are left", async || {
        (browser.rows("opens").await == 2).then_some(())
    })
    .await;
}

async fn what_comes_from_outside_stays_text(browser: &Browser) {
    browser.type_into("#tab-opens", &LEFT.to_string()).await;
    browser.shows(&[MARKUP, "<i>some day</i>"]).await;
    assert_eq!(browser.rows("emails").await, 2);
    assert_eq!(browser.run("return typeof hacked").await, json!("undefined"));
    let made_of_text = "return document.querySelectorAll('td img, td b, td i').length";
    assert_eq!(browser.run(made_of_text).await, json!(0));
    let address = "return location.pathname + location.search";
    assert_eq!(browser.run(address).await, json!("/dashboard?tab=emails"));
    browser.has_no_barrier("emails").await;
    browser.picture("emails-light.png").await;
}

async fn a_search_finds_and_its_result_leads_on(browser: &Browser) {
    browser.type_into("#search", "BOLD").await;
    eventually("one email is found", async || {
        (browser.rows("emails").await == 1).then_some(())
    })
    .await;
    browser.click("#emails a").await;
    browser.shows(&["Email two", MARKUP]).await;
    assert_eq!(
        browser.run("return location.search").await,
        json!("?tab=opens&email_id=two")
    );
}

/// What a chart draws for people, up to the last hour or day with any, and for machines altogether.
async fn drawn(browser: &Browser, chart: &str) -> Value {
    let script = format!(
        "const sets = globalThis.Chart?.getChart('{chart}')?.data.datasets;
         if (!sets) return null;
         const people = sets[0].data.map((one, place) => one + sets[1].data[place]);
         while (people.at(-1) === 0) people.pop();
         return [people, sets[3].data.reduce((sum, one) => sum + one, 0)]"
    );
    browser.run(&script).await
}

async fn the_overview_draws_what_is_stored(browser: &Browser) {
    browser.click("#tab-overview").await;
    browser.click("#spans label:last-child").await;
    browser
        .shows(&["Opens over time", "3 hours", "4 by people", "Countries"])
        .await;
    assert_eq!(
        browser
            .run("return document.getElementById('all-opens-count').textContent")
            .await,
        json!("5")
    );
    // New York's clock said seven; the bot came a quarter of an hour later.
    assert_eq!(
        drawn(browser, "hours").await,
        json!([[0, 0, 0, 0, 0, 0, 0, 4], 1])
    );
    assert_eq!(
        drawn(browser, "weekdays").await,
        json!([[0, 0, 0, 0, 0, 0, 4], 1])
    );
    browser.has_no_barrier("overview").await;
    browser.picture("overview-light.png").await;
    // Who sees no chart reads its table, by keyboard alone.
    browser
        .type_into("figure:has(#hours) summary", &ENTER.to_string())
        .await;
    browser.shows(&["7 AM"]).await;
    let row = "return [...document.querySelectorAll('#hours-table tr')].find((row) => row.innerText.startsWith('7 AM')).innerText";
    assert_eq!(browser.run(row).await, json!("7 AM\t3\t1\t0\t1"));
    let said = "return document.getElementById('hours').getAttribute('aria-label')";
    assert_eq!(
        browser.run(said).await,
        json!("Hours of the day: most are 7 AM, 5; the table below has all")
    );
    browser.type_into("[name=span]:checked", &LEFT.to_string()).await;
    let first_column = "return document.querySelector('#over-time-table th').textContent";
    eventually("a year is drawn by weeks", async || {
        (browser.run(first_column).await == json!("Week of")).then_some(())
    })
    .await;
    browser.has_no_barrier("overview with a table").await;
}

async fn it_is_readable_in_the_dark_and_on_a_phone(browser: &Browser) {
    let dark = json!({"cmd": "Emulation.setEmulatedMedia",
                      "params": {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}});
    assert_eq!(browser.post("goog/cdp/execute", dark).await.status, 200);
    browser.has_no_barrier("overview, dark").await;
    browser.picture("overview-dark.png").await;
    browser.click("#tab-opens").await;
    browser.shows(&["one@example.org"]).await;
    browser.has_no_barrier("opens, dark").await;
    browser.picture("timeline-dark.png").await;
    browser.click("#tab-emails").await;
    browser.click("#email-filters [type=reset]").await;
    browser.shows(&["one@example.org"]).await;
    browser.has_no_barrier("emails, dark").await;
    browser.picture("emails-dark.png").await;
    browser
        .post("window/rect", json!({"width": 500, "height": 900}))
        .await;
    browser.picture("emails-phone.png").await;
    let overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth";
    for tab in ["emails", "opens", "overview"] {
        browser.click(&format!("#tab-{tab}")).await;
        browser.shows(&["Up to date"]).await;
        assert_eq!(
            browser.run(overflow).await,
            json!(0),
            "nothing of {tab} sticks out of a narrow window"
        );
    }
    browser.has_no_barrier("overview on a phone").await;
    browser.picture("overview-phone.png").await;
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
    let offers = "return document.getElementById('erase-some').hidden";
    assert_eq!(
        browser.run(offers).await,
        json!(true),
        "without a recorder nothing can be erased"
    );
    browser.click("#sign-out").await;
    browser
        .shows(&["Dashboard token", "You are logged out of this browser."])
        .await;
    assert_eq!(browser.run("return sessionStorage.length").await, json!(0));
    browser.open(&format!("{origin}/dashboard")).await;
    browser.shows(&["Dashboard token"]).await;
    let mut complaints = browser.complaints().await;
    // The wrong token; and other network interfaces of the machine, which may come and go.
    complaints.retain(|line| !line.contains("401 (Unauthorized)") && !line.contains("ERR_NETWORK_CHANGED"));
    assert!(complaints.is_empty(), "{complaints:?}");
}
