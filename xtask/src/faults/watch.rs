//! A reader of the dashboard, as the extension is one: it may be turned away, but never gets half an answer.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::ensure;
use serde_json::Value;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{client, stack::DASHBOARD_TOKEN};

/// What a reader got.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watched {
    pub(crate) lists: u64,
    pub(crate) unchanged: u64,
    pub(crate) turned_away: u64,
}

/// Asks for the list of emails again and again; fails if an answer is wrong.
pub(crate) async fn dashboard(address: SocketAddr, stop: CancellationToken) -> anyhow::Result<Watched> {
    let mut watched = Watched::default();
    let mut tag: Option<String> = None;
    while !stop.is_cancelled() {
        let mut headers = vec![("x-tracker-token", DASHBOARD_TOKEN)];
        if let Some(tag) = &tag {
            headers.push(("if-none-match", tag));
        }
        let asked = client::get(address, "/dashboard/api/emails", &headers);
        match timeout(Duration::from_secs(10), asked).await {
            Ok(Ok(answer)) => match answer.status {
                200 => {
                    check_list(&answer.body)?;
                    tag = answer.header("etag").map(str::to_owned);
                    watched.lists += 1;
                }
                304 => watched.unchanged += 1,
                503 => watched.turned_away += 1,
                other => anyhow::bail!("the dashboard answered {other}"),
            },
            // It is down, or its database is in mid-answer: the connection ends, and the answer is not taken for whole.
            Ok(Err(_)) | Err(_) => watched.turned_away += 1,
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(watched)
}

/// Complete JSON, each email once, newest first.
fn check_list(body: &[u8]) -> anyhow::Result<()> {
    let list: Value = serde_json::from_slice(body)?;
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    let emails: BTreeSet<&str> = items
        .iter()
        .filter_map(|item| item["email_id"].as_str())
        .collect();
    ensure!(emails.len() == items.len(), "an email is listed twice");
    let times: Vec<&str> = items
        .iter()
        .filter_map(|item| item["created_at"].as_str())
        .collect();
    ensure!(times.is_sorted_by(|a, b| a >= b), "the list is out of order");
    Ok(())
}
