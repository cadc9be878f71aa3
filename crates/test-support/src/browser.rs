//! A real browser: Chromium, driven by `ChromeDriver` over its HTTP interface.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    Spawned, eventually,
    http::{Answer, Request},
};

const NEEDED: &str = "the test needs Chromium and ChromeDriver: apt-get install chromium chromium-driver";

/// A browser session; it is closed with the value.
pub struct Browser {
    driver: SocketAddr,
    session: String,
    _process: Spawned,
    downloads: TempDir,
}

impl Browser {
    /// A headless browser in New York's time zone.
    pub async fn start() -> Self {
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
        let downloads = tempfile::tempdir().unwrap();
        let preferences = json!({"download.default_directory": downloads.path()});
        let options = json!({"binary": chromium, "args": arguments, "prefs": preferences});
        let logs = json!({"browser": "ALL", "performance": "ALL"});
        let capabilities = json!({"goog:chromeOptions": options, "goog:loggingPrefs": logs});
        let new = json!({"capabilities": {"alwaysMatch": capabilities}}).to_string();
        let answer = Request::post_json("/session", new).send(driver).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Self {
            driver,
            session: answer.json()["value"]["sessionId"].as_str().unwrap().to_owned(),
            _process: process,
            downloads,
        }
    }

    /// One of the driver's commands for the session.
    pub async fn post(&self, command: &str, body: Value) -> Answer {
        let target = format!("/session/{}/{command}", self.session);
        Request::post_json(&target, body.to_string())
            .send(self.driver)
            .await
    }

    /// Goes to the address.
    pub async fn open(&self, url: &str) {
        let answer = self.post("url", json!({"url": url})).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// What the script returns.
    pub async fn run(&self, script: &str) -> Value {
        let answer = self
            .post("execute/sync", json!({"script": script, "args": []}))
            .await;
        assert_eq!(answer.status, 200, "{script}: {}", answer.text());
        answer.json()["value"].take()
    }

    /// Lets axe look for whatever keeps people out (WCAG 2.2 AA and its best practices).
    pub async fn has_no_barrier(&self, what: &str) {
        self.run(include_str!("../axe/axe.min.js")).await;
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

    /// Types into the element once it can be used.
    pub async fn type_into(&self, selector: &str, text: &str) {
        self.on(selector, "value", json!({"text": text})).await;
    }

    /// Clicks the element once it can be used.
    pub async fn click(&self, selector: &str) {
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
    pub async fn shows(&self, texts: &[&str]) {
        let mut last = String::new();
        let found = async || {
            let text = self.run("return document.body.innerText").await;
            last = text.as_str().unwrap_or_default().into();
            texts.iter().all(|text| last.contains(text)).then_some(())
        };
        eventually(&format!("the page shows {texts:?}"), found).await;
    }

    /// How many rows the list has.
    pub async fn rows(&self, list: &str) -> u64 {
        let count = format!("return document.querySelectorAll('#{list} tr').length");
        self.run(&count).await.as_u64().unwrap()
    }

    /// Keeps a picture of the page for people to look at.
    pub async fn picture(&self, name: &str) {
        let target = format!("/session/{}/screenshot", self.session);
        let answer = Request::get(&target).send(self.driver).await.json();
        let png = decode_base64(answer["value"].as_str().unwrap());
        assert!(png.starts_with(b"\x89PNG"));
        // Where cargo has the temporary files of tests.
        let program = std::env::current_exe().unwrap();
        let folder = program.ancestors().nth(3).unwrap().join("tmp");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), png).unwrap();
    }

    /// What the browser complained about.
    pub async fn complaints(&self) -> Vec<String> {
        self.log("browser").await
    }

    /// The addresses of all requests since this was asked last; downloads are not among them.
    pub async fn requests(&self) -> Vec<String> {
        let log = self.log("performance").await;
        let events = log
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        events
            .filter(|event| event["message"]["method"] == "Network.requestWillBeSent")
            .map(|event| {
                event["message"]["params"]["request"]["url"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    }

    async fn log(&self, kind: &str) -> Vec<String> {
        let log = self.post("se/log", json!({"type": kind})).await.json();
        let entries = log["value"].as_array().expect("a log").iter();
        entries
            .map(|entry| entry["message"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The bytes of the file that the page let the browser save, once it is whole.
    pub async fn downloaded(&self, name: &str) -> Vec<u8> {
        // Until it is whole, the browser gives it another name.
        let path = self.downloads.path().join(name);
        eventually(&format!("{name} is downloaded"), async || fs::read(&path).ok()).await
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
    BASE64_STANDARD.decode(text).expect("base64")
}
