//! Lanes: threads that each answer the connections given to them, on a runtime of their own.
//!
//! On a runtime of several threads, a connection that becomes readable while its thread sleeps wakes another one, which
//! looks for work and finds that it was taken: measured, a third of the processor time of a small answer. A connection that
//! stays where it is costs none of that.

use std::{
    future::Future,
    io,
    num::NonZero,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{runtime::Handle, sync::oneshot, task::JoinSet};

/// Well below any time that a handler would wait for something.
const TICK: Duration = Duration::from_millis(500);

/// How many lanes a listener has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lanes {
    /// None: connections are answered on the runtime that serves them, as handlers like it that wait for what lives there.
    None,
    /// One for each processor: for handlers that do their work themselves.
    OnePerProcessor,
}

/// Where connections are answered.
pub(super) enum Where {
    /// Here.
    Here,
    /// In one of these.
    In(Vec<Lane>),
}

/// A thread and its runtime; both end when this is dropped, and what they were doing with them.
pub(super) struct Lane {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
    _end: oneshot::Sender<()>,
}

impl Where {
    pub(super) fn new(lanes: Lanes) -> io::Result<Self> {
        match lanes {
            Lanes::None => Ok(Self::Here),
            Lanes::OnePerProcessor => {
                let count = thread::available_parallelism().map_or(1, NonZero::get);
                Ok(Self::In((0..count).map(Lane::start).collect::<io::Result<_>>()?))
            }
        }
    }

    /// Spawns what answers one connection, where the fewest are.
    pub(super) fn spawn(
        &self,
        tasks: &mut JoinSet<()>,
        connection: impl Future<Output = ()> + Send + 'static,
    ) {
        let emptiest = match self {
            Self::Here => None,
            Self::In(lanes) => lanes
                .iter()
                .min_by_key(|lane| lane.connections.load(Ordering::Relaxed)),
        };
        let Some(lane) = emptiest else {
            tasks.spawn(connection);
            return;
        };
        let place = Place::take(&lane.connections);
        let counted = async move {
            let _place = place;
            connection.await;
        };
        tasks.spawn_on(counted, &lane.runtime);
    }
}

impl Lane {
    fn start(index: usize) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let (end, when_ended) = oneshot::channel::<()>();
        thread::Builder::new()
            .name(format!("http-{index}"))
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ended = when_ended => {} // Its sender is dropped, without a word.
                        () = tick() => {}
                    }
                });
            })?;
        Ok(Self {
            runtime: handle,
            connections: Arc::default(),
            _end: end,
        })
    }
}

/// A timer that is due sooner than all others of its runtime wakes it, by a system call even from within: it might sleep
/// for too long. Each hit sets one for the disk. With this one, which is always due sooner, none of them does.
async fn tick() {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
    }
}

/// A connection's place in the count of its lane.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
