//! A recorder for dashboards under test: the service's real interface on a real socket, over the test's database. What a
//! recorder really does is its own tests' part, and the end-to-end ones'.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use recorder_api::v1::{
    EndSessionsRequest, EndSessionsResponse, EraseRequest, EraseResponse, RecordRequest, RecordResponse,
    erase_request::Subject,
    recorder_server::{Recorder, RecorderServer},
};
use test_support::TestDatabase;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tonic::{Request, Response, Status, transport::server::TcpIncoming};

/// What it lets in.
pub const RECORDER_TOKEN: &str = "between the services";

/// Listens until it is dropped.
pub struct RunningRecorder {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Subject>>>,
    task: JoinHandle<()>,
}

struct Service {
    client: Client,
    seen: Arc<Mutex<Vec<Subject>>>,
    /// How many emails one call erases.
    at_once: i64,
}

impl RunningRecorder {
    /// Over `database`, erasing so many emails in a call.
    pub async fn over(database: &TestDatabase, at_once: i64) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Subject>>>::default();
        let service = Service {
            client: database.superuser().await,
            seen: Arc::clone(&seen),
            at_once,
        };
        let server = tonic::transport::Server::builder().add_service(RecorderServer::new(service));
        let task = tokio::spawn(async move {
            server
                .serve_with_incoming(TcpIncoming::from(listener))
                .await
                .unwrap();
        });
        Self { address, seen, task }
    }

    /// What it was asked to erase.
    pub fn seen(&self) -> Vec<Subject> {
        self.seen.lock().unwrap().clone()
    }

    /// For the setting of a dashboard that asks it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for RunningRecorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn check<T>(request: &Request<T>) -> Result<(), Status> {
    let given = request.metadata().get("authorization");
    if given.is_some_and(|given| given == &format!("Bearer {RECORDER_TOKEN}")) {
        return Ok(());
    }
    Err(Status::unauthenticated("another token"))
}

#[tonic::async_trait]
impl Recorder for Service {
    async fn record(&self, _: Request<RecordRequest>) -> Result<Response<RecordResponse>, Status> {
        Err(Status::unimplemented("no dashboard records"))
    }

    async fn erase(&self, request: Request<EraseRequest>) -> Result<Response<EraseResponse>, Status> {
        check(&request)?;
        let subject = request.into_inner().subject;
        let subject = subject.ok_or_else(|| Status::invalid_argument("nothing is named"))?;
        self.seen.lock().unwrap().push(subject.clone());
        let (condition, text) = match &subject {
            Subject::EmailId(email_id) => ("email_id = $1", email_id),
            Subject::Recipient(address) => ("recipient = $1", address),
        };
        let some = format!("select email_id from tracked_emails where {condition} limit $2");
        let erased: Vec<String> = self
            .client
            .query(&some, &[&text, &self.at_once])
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        let mut counts = [0; 3];
        for (count, table) in counts.iter_mut().zip(["tracked_emails", "hits", "marks"]) {
            let delete = format!("delete from {table} where email_id = any($1)");
            *count = self.client.execute(&delete, &[&erased]).await.unwrap();
        }
        crate::support::raise_revision(&self.client).await;
        Ok(Response::new(EraseResponse {
            emails: counts[0],
            hits: counts[1],
            marks: counts[2],
            complete: i64::try_from(erased.len()).unwrap() < self.at_once,
        }))
    }

    async fn end_sessions(
        &self,
        request: Request<EndSessionsRequest>,
    ) -> Result<Response<EndSessionsResponse>, Status> {
        check(&request)?;
        let end = "update dashboard_sessions set generation = generation + 1";
        self.client.execute(end, &[]).await.unwrap();
        Ok(Response::new(EndSessionsResponse {}))
    }
}
