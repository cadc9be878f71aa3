//! One socket for a service, or one for several.

use std::time::Duration;

use axum::Router;
use tokio::{net::TcpListener, sync::oneshot};
use tokio_util::sync::CancellationToken;

use super::{Answer, Limits, serve};

/// Where a service's router is served.
pub enum Public {
    /// On a socket of its own.
    Socket(TcpListener),
    /// By somebody who serves several services on one socket.
    Shared(SharedSocket),
}

/// A service's end of a socket that it shares with others.
pub struct SharedSocket {
    router: oneshot::Sender<Router>,
    drained: CancellationToken,
}

/// The other end: whoever serves the socket takes each service's router from one of these.
pub struct Mount {
    router: oneshot::Receiver<Router>,
}

/// Makes both ends. `drained` is to be cancelled when the shared socket has answered its last request, so that the
/// services behind it do not close what an answer still needs.
#[must_use]
pub fn shared_socket(drained: CancellationToken) -> (Public, Mount) {
    let (sender, receiver) = oneshot::channel();
    (
        Public::Shared(SharedSocket {
            router: sender,
            drained,
        }),
        Mount { router: receiver },
    )
}

impl Mount {
    /// Waits for the service's router; `None` if the service ended before it had one.
    pub async fn router(self) -> Option<Router> {
        self.router.await.ok()
    }
}

impl Public {
    /// Serves requests until `stop`, and until what is under way has been answered or `grace` is over.
    pub async fn serve(
        self,
        answers: impl Answer,
        limits: Limits,
        grace: Duration,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        match self {
            Self::Socket(listener) => serve(listener, answers, limits, grace, stop).await,
            Self::Shared(shared) => {
                if shared.router.send(answers.into_router()).is_err() {
                    anyhow::bail!("nobody serves the shared socket any more");
                }
                shared.drained.cancelled().await;
                Ok(())
            }
        }
    }
}
