//! A recorder that answers as its script says: a real gRPC server of the same interface.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use ::pixel::RecorderUrl;
use recorder_api::v1::{
    self, RecordRequest, RecordResponse,
    recorder_server::{Recorder, RecorderServer},
};
use tokio::{
    net::TcpSocket,
    sync::{Semaphore, watch},
};
use tonic::{Code, Request, Response, Status};
use tracking::Fact;

/// Whether a batch is at fault.
pub type AtFault = Arc<dyn Fn(&[Fact]) -> bool + Send + Sync>;

/// What is done about one batch.
#[derive(Clone)]
pub enum Answer {
    /// This outcome for every fact.
    All(i32),
    /// By fact.
    Each(Arc<dyn Fn(&Fact) -> i32 + Send + Sync>),
    /// This code, if the test finds the batch to be at fault; else all is recorded.
    FailIf(Code, AtFault),
    /// Fewer answers than facts.
    OneShort,
    /// None: the call stays open.
    Never,
}

/// A batch as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub facts: Vec<Fact>,
    pub authorization: Option<String>,
    pub traceparent: Option<String>,
    pub accepted: bool,
}

/// The recorder; clones share what was seen and the script.
#[derive(Clone)]
pub struct Peer {
    script: Arc<Mutex<VecDeque<Answer>>>,
    always: Arc<Mutex<Answer>>,
    seen: Arc<watch::Sender<Vec<Seen>>>,
    room: Arc<Semaphore>,
    under_way: Arc<Mutex<UnderWay>>,
}

/// Calls under way now, and the most of them at any time, by what authorized them.
type UnderWay = HashMap<Option<String>, (usize, usize)>;

/// A running [`Peer`]; it stops when this is dropped.
pub struct Listening {
    pub address: SocketAddr,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Peer {
    pub fn new() -> Self {
        Self {
            script: Arc::default(),
            always: Arc::new(Mutex::new(Answer::All(v1::Outcome::Recorded.into()))),
            seen: Arc::new(watch::Sender::new(Vec::new())),
            room: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            under_way: Arc::default(),
        }
    }

    /// One that refuses more than so many batches at once, as a recorder does.
    pub fn with_room_for(batches: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(batches)),
            ..Self::new()
        }
    }

    /// The most calls that were under way at once, by what authorized them.
    pub fn most_under_way(&self) -> HashMap<Option<String>, usize> {
        let under_way = self.under_way.lock().unwrap();
        under_way
            .iter()
            .map(|(who, (_, most))| (who.clone(), *most))
            .collect()
    }

    /// For the next batch only.
    pub fn then(&self, answer: Answer) {
        self.script.lock().unwrap().push_back(answer);
    }

    /// For every batch that the script has nothing for.
    pub fn always(&self, answer: Answer) {
        *self.always.lock().unwrap() = answer;
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }

    /// The facts of all accepted batches so far.
    pub fn facts(&self) -> Vec<Fact> {
        self.seen()
            .into_iter()
            .filter(|seen| seen.accepted)
            .flat_map(|seen| seen.facts)
            .collect()
    }

    /// Waits until what was seen is as wanted.
    pub async fn wait_until(&self, wanted: impl FnMut(&Vec<Seen>) -> bool) {
        let mut watching = self.seen.subscribe();
        let seen = tokio::time::timeout(super::PATIENCE, watching.wait_for(wanted)).await;
        seen.expect("the recorder has seen what it waits for").unwrap();
    }

    /// Waits for so many facts in accepted batches.
    pub async fn wait_for_facts(&self, count: usize) -> Vec<Fact> {
        let accepted = |seen: &Vec<Seen>| {
            seen.iter()
                .filter(|it| it.accepted)
                .map(|it| it.facts.len())
                .sum::<usize>()
        };
        self.wait_until(|seen| accepted(seen) >= count).await;
        self.facts()
    }

    pub async fn listen(&self) -> Listening {
        self.listen_at(Away::new()).await
    }

    /// Comes to where it was away from.
    pub async fn listen_at(&self, place: Away) -> Listening {
        // On a runtime of its own, so that stopping it closes its connections too, as the end of a process does.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let service = RecorderServer::new(self.clone());
        let (bound, address_bound) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let listener = place.0.listen(1_024).unwrap();
            bound.send(listener.local_addr().unwrap()).unwrap();
            let incoming = tonic::transport::server::TcpIncoming::from(listener);
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Listening {
            address: address_bound.await.unwrap(),
            runtime: Some(runtime),
        }
    }
}

/// An address where nobody listens, and that nobody else can take meanwhile: a pixel that goes on trying to connect to a
/// free port of its own machine may meet itself there.
pub struct Away(TcpSocket);

impl Away {
    pub fn new() -> Self {
        Self::at("127.0.0.1:0".parse().unwrap())
    }

    pub fn at(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        Self(socket)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }
}

impl Listening {
    pub fn url(&self) -> RecorderUrl {
        format!("http://{}", self.address).parse().unwrap()
    }

    /// Stops at once, whatever is under way.
    pub async fn stop(mut self) {
        let runtime = self.runtime.take();
        tokio::task::spawn_blocking(move || drop(runtime)).await.unwrap();
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A call under way, until it is dropped.
struct OneMore<'a>(&'a Peer, Option<String>);

impl<'a> OneMore<'a> {
    fn of(peer: &'a Peer, authorization: Option<String>) -> Self {
        let mut all = peer.under_way.lock().unwrap();
        let (now, most) = all.entry(authorization.clone()).or_default();
        *now += 1;
        *most = (*most).max(*now);
        drop(all);
        Self(peer, authorization)
    }
}

impl Drop for OneMore<'_> {
    fn drop(&mut self) {
        if let Some((now, _)) = self.0.under_way.lock().unwrap().get_mut(&self.1) {
            *now -= 1;
        }
    }
}

#[tonic::async_trait]
impl Recorder for Peer {
    async fn record(&self, request: Request<RecordRequest>) -> Result<Response<RecordResponse>, Status> {
        let text = |name: &str| {
            request
                .metadata()
                .get(name)
                .map(|value| value.to_str().unwrap().to_owned())
        };
        let (authorization, traceparent) = (text("authorization"), text("traceparent"));
        let _under_way = OneMore::of(self, authorization.clone());
        let Ok(_room) = self.room.try_acquire() else {
            return Err(Status::resource_exhausted("no room"));
        };
        let facts: Vec<Fact> = request
            .into_inner()
            .facts
            .into_iter()
            .map(|fact| Fact::try_from(fact).unwrap())
            .collect();
        for fact in &facts {
            fact.check().unwrap();
        }
        let scripted = self.script.lock().unwrap().pop_front();
        let answer = scripted.unwrap_or_else(|| self.always.lock().unwrap().clone());
        let is_never = matches!(answer, Answer::Never);
        let recorded = i32::from(v1::Outcome::Recorded);
        let outcomes = match answer {
            Answer::All(outcome) => Ok(vec![outcome; facts.len()]),
            Answer::Each(each) => Ok(facts.iter().map(|fact| each(fact)).collect()),
            Answer::FailIf(code, at_fault) if at_fault(&facts) => Err(Status::new(code, "as scripted")),
            Answer::FailIf(..) => Ok(vec![recorded; facts.len()]),
            Answer::OneShort => Ok(vec![recorded; facts.len() - 1]),
            Answer::Never => Err(Status::unavailable("nobody ever reads this")),
        };
        let accepted = outcomes
            .as_ref()
            .is_ok_and(|outcomes| outcomes.len() == facts.len());
        let seen = Seen {
            facts,
            authorization,
            traceparent,
            accepted,
        };
        self.seen.send_modify(|all| all.push(seen));
        if is_never {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(RecordResponse { outcomes: outcomes? }))
    }

    async fn erase(&self, _: Request<v1::EraseRequest>) -> Result<Response<v1::EraseResponse>, Status> {
        Err(Status::unimplemented("no pixel asks for it"))
    }

    async fn end_sessions(
        &self,
        _: Request<v1::EndSessionsRequest>,
    ) -> Result<Response<v1::EndSessionsResponse>, Status> {
        Err(Status::unimplemented("no pixel asks for it"))
    }
}
