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

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
};

use recorder::{RECORDER_TOKEN, RunningRecorder};
use recorder_api::v1::erase_request::Subject;
use serde_json::{Value, json};
use support::*;
use test_support::{
    Spawned, eventually,
    http::{Answer, Request},
};
use tracking::Token;

/// A program that says so.
const BOT: (&str, &str) = (
    "203.0.113.9",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
);
const NEEDED: &str =
    "the page's test needs Chromium and ChromeDriver: apt-get install chromium chromium-driver";
const ENTER: char = '\u{E007}';
const ESCAPE: char = '\u{E00C}';
const LEFT: char = '\u{E012}';

/// A browser session; it is closed with the value.
struct Browser {
    driver: SocketAddr,
    session: String,
    _process: Spawned,
}

impl Browser {
    /// A headless browser in New York's time zone.
    async fn start() -> Self {
        let chromium = program(&["chromium", "chromium-browser", "google-chrome"]);
        let mut command = Command::new(program(&["chromedriver"]));
        command
            .arg("--port=0")
            .env("TZ", "America/New_York")
            .env("LC_ALL", "C.UTF-8");
        let mut process = Spawned::start(&mut command);
        let line = process.line_with("started successfully on port").await;
        let port: String = line.chars().filter(char::is_ascii_digit).collect();
        let driver = SocketAddr::from(([127, 0, 0, 1], port.parse().expect("ChromeDriver's port")));
        let arguments = [
            "--headless",
            "--no-sandbox", // which root may not have, and this page does not need
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--lang=en-US",
            "--window-size=1200,800",
        ];
        let options = json!({"binary": chromium, "args": arguments});
        let capabilities = json!({"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}});
        let new = json!({"capabilities": {"alwaysMatch": capabilities}}).to_string();
        let answer = Request::post_json("/session", new).send(driver).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Self {
            driver,
            session: answer.json()["value"]["sessionId"].as_str().unwrap().to_owned(),
            _process: process,
        }
    }

    async fn post(&self, command: &str, body: Value) -> Answer {
        let target = format!("/session/{}/{command}", self.session);
        Request::post_json(&target, body.to_string())
            .send(self.driver)
            .await
    }

    async fn open(&self, url: &str) {
        let answer = self.post("url", json!({"url": url})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// What the script returns.
    async fn run(&self, script: &str) -> Value {
        let answer = self
            .post("execute/sync", json!({"script": script, "args": []}))
            .await;
        assert_eq!(answer.status, 200, "{script}: {}", answer.text());
        answer.json()["value"].take()
    }

    /// Lets axe look for whatever keeps people out (WCAG 2.2 AA and its best practices).
    async fn has_no_barrier(&self, what: &str) {
        self.run(include_str!("axe/axe.min.js")).await;
        let script = "const done = arguments[arguments.length - 1];
                      axe.run(document).then((found) => done(found.violations.map((one) =>
                        `${one.id}: ${one.nodes.map((node) => node.html + node.failureSummary).join()}`)),
                        (error) => done([String(error)]))";
        let answer = self
            .post("execute/async", json!({"script": script, "args": []}))
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json()["value"], json!([]), "{what}");
    }

    async fn type_into(&self, selector: &str, text: &str) {
        self.on(selector, "value", json!({"text": text})).await;
    }

    async fn click(&self, selector: &str) {
        self.on(selector, "click", json!({})).await;
    }

    /// Does something to the element once it is there and can be used.
    async fn on(&self, selector: &str, action: &str, body: Value) {
        eventually(&format!("{action} on {selector}"), async || {
            let find = json!({"using": "css selector", "value": selector});
            let found = self.post("element", find).await.json()["value"].take();
            let element = found.as_object()?.values().next()?.as_str()?.to_owned();
            let done = self
                .post(&format!("element/{element}/{action}"), body.clone())
                .await;
            (done.status == 200).then_some(())
        })
        .await;
    }

    /// Waits until the visible text of the page contains all of these.
    async fn shows(&self, texts: &[&str]) {
        let mut last = String::new();
        let found = async || {
            let text = self.run("return document.body.innerText").await;
            last = text.as_str().unwrap_or_default().into();
            texts.iter().all(|text| last.contains(text)).then_some(())
        };
        eventually(&format!("the page shows {texts:?}"), found).await;
    }

    /// How many rows the list has.
    async fn rows(&self, list: &str) -> u64 {
        let count = format!("return document.querySelectorAll('#{list} tr').length");
        self.run(&count).await.as_u64().unwrap()
    }

    /// Keeps a picture of the page for people to look at.
    async fn picture(&self, name: &str) {
        let target = format!("/session/{}/screenshot", self.session);
        let answer = Request::get(&target).send(self.driver).await.json();
        let png = decode_base64(answer["value"].as_str().unwrap());
        assert!(png.starts_with(b"\x89PNG"));
        fs::write(PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name), png).unwrap();
    }

    /// What the browser complained about.
    async fn complaints(&self) -> Vec<String> {
        let log = self.post("se/log", json!({"type": "browser"})).await.json();
        let entries = log["value"].as_array().expect("a log").iter();
        entries
            .map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let Ok(mut stream) = TcpStream::connect(self.driver) else {
            return;
        };
        let _ = write!(
            stream,
            "DELETE /session/{} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.session, self.driver
        );
        let _ = stream.read(&mut [0]); // answered once the browser is gone
    }
}

/// The first of these that is installed.
fn program(names: &[&str]) -> PathBuf {
    let folders = ["/usr/bin", "/usr/local/bin", "/snap/bin"];
    let mut paths = folders
        .iter()
        .flat_map(|folder| names.iter().map(move |name| PathBuf::from(folder).join(name)));
    paths.find(|path| path.exists()).expect(NEEDED)
}

fn decode_base64(text: &str) -> Vec<u8> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.decode(text).expect("base64")
}

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
