//! Live updates: what a client that listens is told, and one that was away.

use test_support::http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::*;

const PATH: &str = "/dashboard/api/v1/live";

/// One who listens, and what came so far.
struct Listener {
    stream: TcpStream,
    text: String,
}

impl Listener {
    async fn start(dashboard: &Running, last_event_id: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(dashboard.address).await.unwrap();
        let last = last_event_id.map_or(String::new(), |id| format!("last-event-id: {id}\r\n"));
        let request = format!("GET {PATH} HTTP/1.1\r\nhost: x\r\nx-tracker-token: {TOKEN}\r\n{last}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut listener = Self {
            stream,
            text: String::new(),
        };
        listener.until("\r\n\r\n").await;
        let head = listener.text.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
        assert!(head.contains("x-accel-buffering: no"), "{head}");
        listener
    }

    async fn until(&mut self, what: &str) {
        while !self.text.contains(what) {
            let mut bytes = [0; 1_024];
            let count = tokio::time::timeout(test_support::PATIENCE, self.stream.read(&mut bytes));
            let count = count.await.expect("more in time").unwrap();
            assert!(count > 0, "ended without {what:?}: {}", self.text);
            self.text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
    }

    /// The id of the next change.
    async fn changed(&mut self) -> String {
        let head = self.text.find("event:").unwrap_or(self.text.len());
        self.text.drain(..head);
        self.until("\n\n").await;
        self.until("data:").await;
        let id = self
            .text
            .split("id: ")
            .nth(1)
            .and_then(|rest| rest.lines().next());
        let id = id.expect("an id").to_owned();
        self.text.clear();
        id
    }
}

#[tokio::test]
async fn who_listens_is_told_of_each_change_and_who_was_away_of_what_was_missed() {
    let database = new_database().await;
    let client = database.superuser().await;
    raise_revision(&client).await;
    let dashboard = Running::over(&database).await;
    let mut listener = Listener::start(&dashboard, None).await;
    let first = listener.changed().await;
    raise_revision(&client).await;
    let second = listener.changed().await;
    assert_ne!(first, second);
    drop(listener);

    raise_revision(&client).await; // while it was away
    let mut again = Listener::start(&dashboard, Some(&second)).await;
    let third = again.changed().await;
    assert_ne!(second, third);

    // Up to date: the first that it hears of is the next change.
    let mut up_to_date = Listener::start(&dashboard, Some(&third)).await;
    raise_revision(&client).await;
    assert_ne!(up_to_date.changed().await, third);
    let refused = Request::get(PATH).send(dashboard.address).await;
    assert_eq!(refused.status, 401);
}

#[tokio::test]
async fn a_stop_ends_who_listens() {
    let database = new_database().await;
    raise_revision(&database.superuser().await).await;
    let dashboard = Running::over(&database).await;
    let mut listener = Listener::start(&dashboard, None).await;
    listener.changed().await;
    dashboard.stop().await.unwrap();
    let mut rest = Vec::new();
    listener.stream.read_to_end(&mut rest).await.unwrap();
}
