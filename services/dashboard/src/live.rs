//! `GET /dashboard/api/v1/live`: tells the page, within a second, that something it shows has changed.
//!
//! Server-sent events whose id names a state of the data, the digest of the revisions. So nothing has to be remembered
//! for a client that was away: it shows the id that it saw last, and is told at once if the state is another one by now,
//! by whichever dashboard it reaches. What has changed it asks the lists, which answer 304 where nothing has.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use database::Database;
use futures::stream;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    api::{errors::ApiError, etag::ETag, list::ReadRevisions},
    http::Dashboard,
};

/// How often the database is asked, while anybody listens.
const PACE: Duration = Duration::from_millis(500);
/// How many may listen at once.
const MOST_LISTENERS: usize = 500;
/// Then the client has to come again, and to be let in again.
const LONGEST: Duration = Duration::from_mins(10);
/// A sign of life, shorter than the patience of proxies.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The state of the data, for all who listen. Clones share it.
#[derive(Clone)]
pub(crate) struct Live {
    state: Arc<watch::Sender<Option<String>>>,
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Live {
    /// Ends all listening with `stop`.
    pub(crate) fn new(stop: CancellationToken) -> Self {
        Self {
            state: Arc::new(watch::Sender::new(None)),
            places: Arc::new(Semaphore::new(MOST_LISTENERS)),
            stop,
        }
    }

    /// Follows the revisions in `database` until `stop`. A database that is away is asked again.
    pub(crate) async fn follow(self, database: Database) -> anyhow::Result<()> {
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while let Some(_tick) = self.stop.run_until_cancelled(ticks.tick()).await {
            if self.state.receiver_count() == 0 {
                continue;
            }
            match self.stop.run_until_cancelled(state_of(&database)).await {
                Some(Ok(now)) => {
                    self.state.send_if_modified(|state| {
                        let is_new = state.as_ref() != Some(&now);
                        *state = Some(now);
                        is_new
                    });
                }
                Some(Err(error)) => tracing::debug!(%error, "the revisions could not be read"),
                None => break,
            }
        }
        Ok(())
    }
}

/// Names the state of all that lists show.
async fn state_of(database: &Database) -> Result<String, ApiError> {
    let revisions = database.transact(&ReadRevisions).await?;
    Ok(ETag::new("live", &"", &revisions).into_text())
}

/// One who listens.
struct Listener {
    state: watch::Receiver<Option<String>>,
    known: Option<String>,
    until: Instant,
    stop: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    /// Waits for a state that the client does not know; `None` ends the answer.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            let state = self.state.borrow_and_update().clone();
            if state.is_some() && state != self.known {
                let event = Event::default()
                    .event("changed")
                    .id(state.as_deref().unwrap_or_default())
                    .data("{}");
                self.known = state;
                return Some((Ok(event), self));
            }
            tokio::select! {
                changed = self.state.changed() => changed.ok()?,
                () = sleep_until(self.until) => return None,
                () = self.stop.cancelled() => return None,
            }
        }
    }
}

/// Answers with events, beginning with one if the client's `Last-Event-ID` is not the present state.
pub(crate) async fn listen(
    State(dashboard): State<Dashboard>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let live = dashboard.live;
    let place = Arc::clone(&live.places).try_acquire_owned();
    let place = place.map_err(|_| ApiError::Full("Too many listen already"))?;
    let known = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let listener = Listener {
        state: live.state.subscribe(),
        known: known.map(str::to_owned),
        until: Instant::now() + LONGEST,
        stop: live.stop,
        _place: place,
    };
    // What was followed before the last one went away may be old by now.
    let state = state_of(&dashboard.database).await?;
    live.state.send_replace(Some(state));
    let events = Sse::new(stream::unfold(listener, Listener::next));
    // nginx would hold events back.
    let headers = [
        (HeaderName::from_static("x-accel-buffering"), "no"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, events.keep_alive(KeepAlive::new().interval(KEEP_ALIVE))).into_response())
}
