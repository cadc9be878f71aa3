//! The gRPC service: who may call it, what a batch may be, and what each fact and each failure is answered with.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use database::{Error, ErrorKind};
use opentelemetry::propagation::Extractor;
use recorder_api::{
    FILE_DESCRIPTOR_SET, MAX_BATCH_FACTS, MAX_MESSAGE_BYTES, Outcome,
    v1::{self, recorder_server},
};
use subtle::{Choice, ConstantTimeEq};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Response, Status,
    metadata::{KeyRef, MetadataMap},
    service::{Interceptor, interceptor::InterceptedService},
    transport::server::TcpIncoming,
};
use tonic_health::pb::health_server::{Health, HealthServer};
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracking::{
    Clock, Fact,
    recipients::Address,
    token::{MAX_FIELD_BYTES, MAX_RECIPIENT_BYTES},
};

use crate::{
    addresses::Addresses,
    erase::{Erased, Erasure, Subject},
    metrics::Metrics,
    range::Range,
    schema::SchemaGate,
    workers::Recorder,
};

/// Most batches taken up at once; each is held in memory. A pixel has few in flight, so this is many pixels.
const MAX_BATCHES: usize = 64;

/// How long one call may erase before it says that there is more.
const ERASING: Duration = Duration::from_secs(10);

/// Most calls of one connection at once; more wait.
const MAX_CALLS_PER_CONNECTION: usize = 16;
/// A pixel that is gone without a word is noticed after this and the time-out.
const KEEPALIVE: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers batches.
pub(crate) struct Service {
    recorder: Recorder,
    schema: Arc<SchemaGate>,
    range: Range,
    addresses: Addresses,
    clock: Arc<dyn Clock>,
    room: Semaphore,
}

/// The service behind its authentication and with its limits.
pub(crate) type Server = InterceptedService<recorder_server::RecorderServer<Service>, Authentication>;

impl Service {
    pub(crate) fn new(
        recorder: Recorder,
        schema: Arc<SchemaGate>,
        range: Range,
        addresses: Addresses,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            recorder,
            schema,
            range,
            addresses,
            clock,
            room: Semaphore::new(MAX_BATCHES),
        }
    }

    /// Puts `authentication` in front.
    pub(crate) fn behind(self, authentication: Authentication) -> Server {
        let server = recorder_server::RecorderServer::new(self).max_decoding_message_size(MAX_MESSAGE_BYTES);
        InterceptedService::new(server, authentication)
    }

    async fn answer(&self, facts: Vec<v1::Fact>) -> Result<Vec<Outcome>, Status> {
        if facts.len() > MAX_BATCH_FACTS {
            return Err(Status::invalid_argument(format!(
                "a batch has at most {MAX_BATCH_FACTS} facts; this one has {}",
                facts.len()
            )));
        }
        let Ok(_room) = self.room.try_acquire() else {
            return Err(Status::resource_exhausted(
                "too many batches at once; send this one again later",
            ));
        };
        self.pass_schema().await?;
        let mut outcomes = Vec::with_capacity(facts.len());
        let mut accepted = Vec::with_capacity(facts.len());
        for fact in facts {
            match self.admit(fact) {
                Ok(fact) => {
                    outcomes.push(None);
                    accepted.push(fact);
                }
                Err(refusal) => outcomes.push(Some(refusal)),
            }
        }
        let mut recorded = self
            .recorder
            .record(accepted)
            .await
            .map_err(|error| status(&error))?
            .into_iter();
        outcomes
            .into_iter()
            .map(|refusal| refusal.or_else(|| recorded.next()))
            .map(|outcome| outcome.ok_or_else(|| Status::internal("a fact was left without an outcome")))
            .collect()
    }

    async fn pass_schema(&self) -> Result<(), Status> {
        let passed = self.schema.pass().await;
        passed.map_err(|error| Status::unavailable(error.to_string()))
    }

    /// The fact in the domain's words, or why it is refused.
    fn admit(&self, fact: v1::Fact) -> Result<Fact, Outcome> {
        let fact = Fact::try_from(fact)
            .inspect_err(|error| tracing::warn!(%error, "refused what is no fact"))
            .map_err(|_| Outcome::Invalid)?;
        fact.check()
            .inspect_err(|error| tracing::warn!(%error, id = %fact.id(), "refused an invalid fact"))
            .map_err(|_| Outcome::Invalid)?;
        match self.range.refusal(&*self.clock, fact.at()) {
            Some(refusal) => {
                tracing::warn!(id = %fact.id(), at = %fact.at(), reason = refusal.as_str(), "refused a fact");
                Err(refusal)
            }
            None => Ok(self.addresses.admit(fact, self.clock.now())),
        }
    }
}

#[tonic::async_trait]
impl recorder_server::Recorder for Service {
    async fn record(
        &self,
        request: Request<v1::RecordRequest>,
    ) -> Result<Response<v1::RecordResponse>, Status> {
        let began = Instant::now();
        let span = tracing::info_span!("record", facts = request.get_ref().facts.len());
        let _ = span.set_parent(sender_of(request.metadata()));
        let answer = self.answer(request.into_inner().facts).instrument(span).await;
        match &answer {
            Ok(outcomes) => self.recorder.metrics().answered(outcomes, began.elapsed()),
            Err(status) => self.recorder.metrics().status(status.code(), began.elapsed()),
        }
        let outcomes = answer?
            .into_iter()
            .map(|outcome| v1::Outcome::from(outcome).into())
            .collect();
        Ok(Response::new(v1::RecordResponse { outcomes }))
    }

    async fn erase(&self, request: Request<v1::EraseRequest>) -> Result<Response<v1::EraseResponse>, Status> {
        let subject = subject(request.into_inner())?;
        self.pass_schema().await?;
        let done = self.recorder.erase(&subject, self.clock.now(), ERASING).await;
        let Erasure {
            id,
            erased: Erased { emails, hits, marks },
            is_complete,
        } = done.map_err(|error| asked(&error))?;
        tracing::info!(erasure = %id, kind = subject.kind(), emails, hits, marks, is_complete, "erased");
        Ok(Response::new(v1::EraseResponse {
            emails,
            hits,
            marks,
            complete: is_complete,
        }))
    }

    async fn end_sessions(
        &self,
        _: Request<v1::EndSessionsRequest>,
    ) -> Result<Response<v1::EndSessionsResponse>, Status> {
        self.pass_schema().await?;
        let ended = self.recorder.end_sessions(self.clock.now()).await;
        ended.map_err(|error| asked(&error))?;
        tracing::info!("all sessions of the dashboard were ended");
        Ok(Response::new(v1::EndSessionsResponse {}))
    }
}

/// Serves the recorder, gRPC's health and its reflection on `listener` until `stop`. Batches under way are answered if that
/// takes no longer than `patience`; a database that does not answer must not keep a recorder from ending.
pub(crate) async fn serve(
    listener: TcpListener,
    server: Server,
    health: HealthServer<impl Health>,
    stop: CancellationToken,
    patience: Duration,
) -> anyhow::Result<()> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let serving = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .tcp_nodelay(true)
        .concurrency_limit_per_connection(MAX_CALLS_PER_CONNECTION)
        .add_service(server)
        .add_service(health)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .serve_with_incoming_shutdown(TcpIncoming::from(listener), stop.clone().cancelled_owned());
    let too_long = async {
        stop.cancelled().await;
        tokio::time::sleep(patience).await;
    };
    tokio::select! {
        outcome = serving => outcome.context("the gRPC server failed"),
        () = too_long => {
            tracing::warn!(?patience, "batches under way were given up: the pixels keep them, and send them again");
            Ok(())
        }
    }
}

/// Lets calls in that carry the shared secret.
#[derive(Clone)]
pub(crate) struct Authentication {
    /// What the `authorization` header may say; nothing lets everyone in.
    accepted: Arc<[Vec<u8>]>,
    metrics: Metrics,
}

impl Authentication {
    /// Any of `tokens` lets in. With none everyone is let in: the settings allow that on loopback alone.
    pub(crate) fn new<'t>(tokens: impl Iterator<Item = &'t str>, metrics: Metrics) -> Self {
        Self {
            accepted: tokens
                .map(|token| format!("Bearer {token}").into_bytes())
                .collect(),
            metrics,
        }
    }
}

impl Interceptor for Authentication {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        if self.accepted.is_empty() {
            return Ok(request);
        }
        let given = request
            .metadata()
            .get("authorization")
            .map(AsRef::as_ref)
            .unwrap_or_default();
        // All are compared, so that the time says nothing about which one it was.
        let accepted = self.accepted.iter().fold(Choice::from(0), |found, accepted| {
            found | accepted.as_slice().ct_eq(given)
        });
        if accepted.into() {
            Ok(request)
        } else {
            self.metrics.status(Code::Unauthenticated, Duration::ZERO);
            Err(Status::unauthenticated(
                "authorization: Bearer RECORDER_TOKEN is missing or wrong",
            ))
        }
    }
}

/// What is to be erased, in the domain's words.
fn subject(request: v1::EraseRequest) -> Result<Subject, Status> {
    let is_sound = |text: &str, most: usize| !text.is_empty() && text.len() <= most && !text.contains('\0');
    let subject = match request.subject {
        Some(v1::erase_request::Subject::EmailId(email_id)) => {
            is_sound(&email_id, MAX_FIELD_BYTES).then_some(Subject::Email(email_id))
        }
        Some(v1::erase_request::Subject::Recipient(text)) => is_sound(&text, MAX_RECIPIENT_BYTES)
            .then(|| Address::new(&text).map(Subject::Recipient))
            .flatten(),
        None => None,
    };
    subject.ok_or_else(|| Status::invalid_argument("it names neither one email nor one address"))
}

/// What is answered when what a user asked for failed. Part of it may be done.
fn asked(error: &Error) -> Status {
    tracing::warn!(%error, "what a user asked for was not done");
    Status::unavailable(format!(
        "the database cannot do it now ({})",
        error.kind().label()
    ))
}

/// What a failed transaction is answered with. After the first kind the pixel looks for the fact at fault by halves; after
/// the second it sends less at once; after the others it repeats the batch as it is. None says what the batch holds.
fn status(error: &Error) -> Status {
    tracing::warn!(%error, "a batch was not recorded");
    let sqlstate = error.sqlstate().map_or("none", |code| code.code());
    match error.kind() {
        ErrorKind::Data => Status::invalid_argument(format!(
            "the database refuses a value of this batch (SQLSTATE {sqlstate}); send its halves"
        )),
        ErrorKind::TimedOut => Status::deadline_exceeded(format!(
            "the database took too long for this batch (SQLSTATE {sqlstate}); send less at once"
        )),
        ErrorKind::Other => Status::internal(format!("the batch was not recorded (SQLSTATE {sqlstate})")),
        kind => Status::unavailable(format!(
            "the database cannot record now ({}, SQLSTATE {sqlstate})",
            kind.label()
        )),
    }
}

/// The pixel's span, if it sent one.
fn sender_of(metadata: &MetadataMap) -> opentelemetry::Context {
    opentelemetry::global::get_text_map_propagator(|propagator| propagator.extract(&Carrier(metadata)))
}

struct Carrier<'a>(&'a MetadataMap);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0
            .keys()
            .map(|key| match key {
                KeyRef::Ascii(key) => key.as_str(),
                KeyRef::Binary(key) => key.as_str(),
            })
            .collect()
    }
}
