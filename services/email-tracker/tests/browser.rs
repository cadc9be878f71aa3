//! What a person does, in a real browser against everything that `email-tracker up` starts: log in, search, filter, page,
//! look at a timeline, see an open come in, download, erase, log out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
#![allow(dead_code, reason = "each test file uses its part of what they share")]
#![allow(clippy::print_stdout, reason = "how soon an open is seen is printed")]

mod up;

use std::time::Instant;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use test_support::{Browser, eventually, http::Request};

use crate::up::{Account, Home, Up};

/// More than two pages of them.
const EMAILS: usize = 120;
const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
const IPHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) \
                      Version/18.5 Mobile/15E148 Safari/604.1";
const ENTER: char = '\u{E007}';

/// The path of an email's pixel.
fn pixel_of(number: usize) -> String {
    let fields = json!([
        "user-1",
        format!("email-{number}"),
        format!("person{number}@example.org"),
        "2026-03-01T11:00:00.000Z",
        "me@example.com"
    ]);
    format!("/t/{}.gif", BASE64_URL_SAFE_NO_PAD.encode(fields.to_string()))
}

async fn open(up: &Up, number: usize, user_agent: &str) {
    let pixel = Request::get(&pixel_of(number)).header("user-agent", user_agent);
    assert_eq!(pixel.send(up.address).await.status, 200);
}

#[tokio::test]
async fn a_person_finds_what_became_of_their_mails() {
    let home = Home::of(Account::ordinary());
    let up = home.up().await;
    for number in 0..EMAILS {
        open(&up, number, if number == 7 { IPHONE } else { FIREFOX }).await;
    }
    eventually("all emails are recorded", async || {
        (up.emails().await.len() == EMAILS).then_some(())
    })
    .await;
    let browser = Browser::start().await;
    let origin = format!("http://{}", up.address);

    the_token_lets_in(&browser, &origin, &up.dashboard_token).await;
    pages_are_turned(&browser).await;
    one_email_is_found(&browser).await;
    its_opens_come_in_live(&browser, &up).await;
    files_are_downloaded(&browser).await;
    an_email_is_erased_for_good(&browser, &up).await;
    logging_out_closes_the_door(&browser, &origin).await;
    nothing_left_the_origin(&browser, &origin).await;
    drop(browser);
    up.stop().await;
}

async fn the_token_lets_in(browser: &Browser, origin: &str, token: &str) {
    browser.open(&format!("{origin}/dashboard")).await;
    browser.shows(&["Dashboard token"]).await;
    browser.has_no_barrier("log in").await;
    browser.type_into("#token", &format!("not-{token}{ENTER}")).await;
    browser.shows(&["The server does not accept this token."]).await;
    browser.type_into("#token", &format!("{token}{ENTER}")).await;
    browser.shows(&["Up to date", "Opens over time"]).await;
    browser.has_no_barrier("overview").await;
    browser.click("#tab-emails").await;
    browser.shows(&["person119@example.org"]).await;
    browser.has_no_barrier("emails").await;
}

async fn rows_are(browser: &Browser, list: &str, count: u64) {
    eventually(&format!("{list} has {count} rows"), async || {
        (browser.rows(list).await == count).then_some(())
    })
    .await;
}

async fn pages_are_turned(browser: &Browser) {
    rows_are(browser, "emails", 50).await;
    browser.click("#older-emails").await;
    browser.shows(&["Page 2", "person69@example.org"]).await;
    browser.click("#older-emails").await;
    browser.shows(&["Page 3", "person0@example.org"]).await;
    rows_are(browser, "emails", 20).await;
    browser.has_no_barrier("the last page").await;
    browser.click("#newer-emails").await;
    browser.shows(&["Page 2"]).await;
}

async fn one_email_is_found(browser: &Browser) {
    browser.type_into("#search", "PERSON7").await;
    rows_are(browser, "emails", 11).await; // 7 and 70 to 79
    browser.click("#device option[value=phone]").await;
    rows_are(browser, "emails", 1).await;
    browser.has_no_barrier("one email").await;
    browser.click("#emails a").await;
    browser.shows(&["Email email-7", "Phone"]).await;
    rows_are(browser, "opens", 1).await;
    browser.has_no_barrier("its timeline").await;
}

/// Its file would hold these rows.
async fn its_opens_come_in_live(browser: &Browser, up: &Up) {
    for round in 0..5_u64 {
        let agent = format!("{FIREFOX} round/{round}");
        let asked = Instant::now();
        open(up, 7, &agent).await;
        let answered = asked.elapsed();
        rows_are(browser, "opens", 2 + round).await;
        println!(
            "a new open was on the page {} ms after its pixel was asked for (answered in {} ms)",
            asked.elapsed().as_millis(),
            answered.as_millis()
        );
    }
}

async fn files_are_downloaded(browser: &Browser) {
    let day = browser.run("return new Date().toISOString().slice(0, 10)").await;
    let day = day.as_str().unwrap();
    browser.click("#export-opens-csv").await;
    let csv = downloaded(browser, "opens", day, "csv").await;
    assert_eq!(csv.lines().count(), 1 + 6, "{csv}");
    assert!(csv.starts_with("\u{feff}id,email_id,user_id,recipient,opened_at,"));
    assert!(
        csv.lines().skip(1).all(|line| line.contains(",email-7,")),
        "{csv}"
    );

    browser.click("#tab-emails").await;
    rows_are(browser, "emails", 1).await;
    browser.click("#export-emails-json").await;
    let found: Value = serde_json::from_str(&downloaded(browser, "emails", day, "json").await).unwrap();
    let found = found.as_array().unwrap();
    assert_eq!(
        (found.len(), &found[0]["email_id"]),
        (1, &json!("email-7")),
        "as filtered"
    );
    assert_eq!(found[0]["unique_open_count"], 6);

    browser.click("#email-filters [type=reset]").await;
    rows_are(browser, "emails", 50).await;
    browser.click("#export-emails-csv").await;
    let all = downloaded(browser, "emails", day, "csv").await;
    assert_eq!(all.lines().count(), 1 + EMAILS, "all pages");
}

async fn downloaded(browser: &Browser, list: &str, day: &str, extension: &str) -> String {
    let file = browser
        .downloaded(&format!("email-tracker-{list}-{day}.{extension}"))
        .await;
    String::from_utf8(file).unwrap()
}

async fn an_email_is_erased_for_good(browser: &Browser, up: &Up) {
    browser.type_into("#search", "person7@").await;
    rows_are(browser, "emails", 1).await;
    browser.click("#emails a").await;
    browser.shows(&["Email email-7"]).await;
    let enter = ENTER.to_string();
    browser.type_into("#erase-one", &enter).await;
    browser.shows(&["Everything about the recipient"]).await;
    browser.type_into("#erase-email", &enter).await;
    browser
        .shows(&["This is about 1 email with 6 hits: the email email-7."])
        .await;
    browser.has_no_barrier("erase?").await;
    browser.type_into("#erase-word", &format!("erase{ENTER}")).await;
    browser.shows(&["Erased: 1 email with 6 hits."]).await;
    browser.type_into("#erase-close", &enter).await;
    browser.shows(&["No opens here yet."]).await;

    // What still comes of it stays out: it is handed over before what comes of another one.
    open(up, 7, FIREFOX).await;
    open(up, EMAILS, FIREFOX).await;
    let after = format!("email-{EMAILS}");
    let emails = eventually("the email after it is recorded", async || {
        let emails = up.emails().await;
        emails
            .iter()
            .any(|email| email["email_id"] == after.as_str())
            .then_some(emails)
    })
    .await;
    assert_eq!(emails.len(), EMAILS, "one less, one more");
    assert!(emails.iter().all(|email| email["email_id"] != "email-7"));
    browser.click("#tab-emails").await;
    browser.click("#email-filters [type=reset]").await;
    browser.shows(&["person120@example.org"]).await;
}

async fn logging_out_closes_the_door(browser: &Browser, origin: &str) {
    browser.click("#sign-out").await;
    browser.shows(&["Dashboard token"]).await;
    browser.has_no_barrier("logged out").await;
    browser
        .open(&format!("{origin}/dashboard?tab=opens&email_id=email-7"))
        .await;
    browser.shows(&["Dashboard token"]).await;
    let kept = "return [localStorage.length, sessionStorage.length, document.cookie]";
    assert_eq!(browser.run(kept).await, json!([0, 0, ""]));
}

async fn nothing_left_the_origin(browser: &Browser, origin: &str) {
    let requests = browser.requests().await;
    assert!(requests.len() > 20, "{requests:?}");
    // The browser's own controls have pictures of their own.
    let stays = |url: &&String| url.starts_with(origin) || url.starts_with("data:");
    let elsewhere: Vec<_> = requests.iter().filter(|url| !stays(url)).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    let mut complaints = browser.complaints().await;
    // The wrong token, and no session at first and at last; other network interfaces may come and go.
    complaints.retain(|line| !line.contains("401 (Unauthorized)") && !line.contains("ERR_NETWORK_CHANGED"));
    assert!(complaints.is_empty(), "{complaints:?}");
    let page = test_support::http::get(
        origin.strip_prefix("http://").unwrap().parse().unwrap(),
        "/dashboard",
    )
    .await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.contains("script-src 'self';") && !policy.contains("unsafe"),
        "{policy}"
    );
}
