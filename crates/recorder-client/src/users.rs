//! What users ask of a recorder: to erase, and to end sessions.

use std::time::Duration;

use recorder_api::v1::{self, recorder_client::RecorderClient};
use tokio::time::timeout;
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};
use tracing::Instrument;

use crate::{RecorderSettings, channel, client, metadata};

/// How long a recorder may take to erase. It stops long before by itself, and says that there is more.
const ERASING: Duration = Duration::from_secs(25);
/// How long it may take to end sessions: somebody waits to be logged out.
const ENDING: Duration = Duration::from_secs(5);
/// How long it may take to say that it would do either; shorter than a readiness check may take.
const ASKING: Duration = Duration::from_secs(1);

/// What is to be erased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The email with this id.
    Email(String),
    /// All emails that have this address among their recipients.
    Recipient(String),
}

/// What a call has erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    /// Emails that were stored.
    pub emails: u64,
    /// Their hits.
    pub hits: u64,
    /// Their marks.
    pub marks: u64,
    /// Whether that was all; else to be called again.
    pub complete: bool,
}

/// Why a recorder did not do what was asked. Part of it may be done, and all may be asked again.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// It cannot be reached, is busy, or took too long.
    #[error("no recorder has answered: {0}")]
    Away(#[source] Status),
    /// It does not do this for us: another token, or an older version.
    #[error("the recorder refuses this: check that RECORDER_TOKEN is the same on both, and its version: {0}")]
    Refused(#[source] Status),
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unimplemented
            | Code::InvalidArgument
            | Code::OutOfRange => Self::Refused(status),
            _ => Self::Away(status),
        }
    }
}

/// A client for what users ask. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Users {
    client: RecorderClient<Channel>,
    token: Option<MetadataValue<Ascii>>,
}

impl Users {
    /// Reaches the recorders of `settings`, whenever there is one.
    #[must_use]
    pub fn new(settings: &RecorderSettings) -> Self {
        Self {
            client: client(channel(settings.urls.clone())),
            token: settings.authorization(),
        }
    }

    /// Erases what is stored of `subject`, and refuses what comes of it later.
    pub async fn erase(&self, subject: Subject) -> Result<Erased, CallError> {
        let subject = match subject {
            Subject::Email(email_id) => v1::erase_request::Subject::EmailId(email_id),
            Subject::Recipient(address) => v1::erase_request::Subject::Recipient(address),
        };
        let request = v1::EraseRequest {
            subject: Some(subject),
        };
        let answer = self
            .call(ERASING, request, async |mut client, request| {
                client.erase(request).await
            })
            .await?;
        Ok(Erased {
            emails: answer.emails,
            hits: answer.hits,
            marks: answer.marks,
            complete: answer.complete,
        })
    }

    /// Ends all sessions that have begun before.
    pub async fn end_sessions(&self) -> Result<(), CallError> {
        self.call(ENDING, v1::EndSessionsRequest {}, async |mut client, request| {
            client.end_sessions(request).await
        })
        .await?;
        Ok(())
    }

    /// Whether a recorder can be reached and would do what users ask. Nothing is changed by it.
    pub async fn check(&self) -> Result<(), CallError> {
        // An erasure of nothing: who is let in is told that it names nothing, before anything is looked at.
        let nothing = v1::EraseRequest { subject: None };
        let answer = self
            .call(ASKING, nothing, async |mut client, request| {
                client.erase(request).await
            })
            .await;
        match answer {
            Err(CallError::Refused(status)) if status.code() == Code::InvalidArgument => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    async fn call<Q, A>(
        &self,
        deadline: Duration,
        message: Q,
        send: impl AsyncFnOnce(RecorderClient<Channel>, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, CallError> {
        let span = tracing::info_span!("call recorder", otel.kind = "client");
        let metadata = metadata(self.token.as_ref(), &span);
        let mut request = Request::from_parts(metadata, tonic::Extensions::default(), message);
        request.set_timeout(deadline);
        // The deadline of the call itself begins when a connection takes it, which may be never.
        let answer = timeout(deadline, send(self.client.clone(), request).instrument(span)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("it took too long")));
        Ok(answer?.into_inner())
    }
}
