//! A TCP proxy that fails on demand.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinHandle,
    time::sleep,
};

use crate::eventually;

/// Which way bytes go through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From who connected to the proxy, to the server behind it.
    ToServer,
    /// From the server back: its answers.
    ToClient,
}

#[derive(Clone, Copy, Debug, Default)]
struct Flow {
    delay: Duration,
    stalled: bool,
    closed: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    refusing: bool,
    cuts: u64,
    to_server: Flow,
    to_client: Flow,
}

impl Faults {
    const fn flow(&self, direction: Direction) -> Flow {
        match direction {
            Direction::ToServer => self.to_server,
            Direction::ToClient => self.to_client,
        }
    }
}

/// A proxy on 127.0.0.1 between a client and one server. All goes through until told otherwise; it ends when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    server: Arc<Mutex<SocketAddr>>,
    faults: watch::Sender<Faults>,
    open: Arc<AtomicUsize>,
    listening: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl FaultProxy {
    /// A proxy before `server`.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("the address of a bound listener");
        let (faults, seen) = watch::channel(Faults::default());
        let (now_listening, listening) = watch::channel(true);
        let open = Arc::new(AtomicUsize::new(0));
        let server = Arc::new(Mutex::new(server));
        let acceptor = Acceptor {
            address,
            server: Arc::clone(&server),
            faults: seen,
            open: Arc::clone(&open),
            now_listening,
        };
        Self {
            address,
            server,
            faults,
            open,
            listening,
            task: tokio::spawn(acceptor.run(listener)),
        }
    }

    /// Where clients connect.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on new connections lead to `server`, as after a failover. Those there are stay where they are.
    pub fn lead_to(&self, server: SocketAddr) {
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// How many connections go through it now.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Resets all connections there are; new ones go through.
    pub fn cut(&self) {
        self.faults.send_modify(|faults| faults.cuts += 1);
    }

    /// From now on new connections are refused, as by a machine where nothing listens. Those there are stay.
    pub async fn refuse(&self) {
        self.set_refusing(true).await;
    }

    /// New connections go through again.
    pub async fn accept(&self) {
        self.set_refusing(false).await;
    }

    async fn set_refusing(&self, refusing: bool) {
        self.faults.send_modify(|faults| faults.refusing = refusing);
        eventually("the proxy has changed its mind", async || {
            (*self.listening.borrow() != refusing).then_some(())
        })
        .await;
    }

    /// Delays whatever goes in `direction` from now on.
    pub fn delay(&self, direction: Direction, delay: Duration) {
        self.change(direction, |flow| flow.delay = delay);
    }

    /// Holds back whatever goes in `direction`, without an end in sight: to the other side the peer just does not say
    /// anything.
    pub fn stall(&self, direction: Direction) {
        self.change(direction, |flow| flow.stalled = true);
    }

    /// Lets flow again what was held back.
    pub fn resume(&self, direction: Direction) {
        self.change(direction, |flow| flow.stalled = false);
    }

    /// Ends one direction of all connections there are, as a peer that shuts its sending side down; the other
    /// direction stays open.
    pub fn half_close(&self, direction: Direction) {
        self.change(direction, |flow| flow.closed += 1);
    }

    fn change(&self, direction: Direction, change: impl FnOnce(&mut Flow)) {
        self.faults.send_modify(|faults| {
            change(match direction {
                Direction::ToServer => &mut faults.to_server,
                Direction::ToClient => &mut faults.to_client,
            });
        });
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

struct Acceptor {
    address: SocketAddr,
    server: Arc<Mutex<SocketAddr>>,
    faults: watch::Receiver<Faults>,
    open: Arc<AtomicUsize>,
    now_listening: watch::Sender<bool>,
}

impl Acceptor {
    async fn run(mut self, listener: TcpListener) {
        let mut listener = Some(listener);
        loop {
            let refusing = self.faults.borrow_and_update().refusing;
            match (&listener, refusing) {
                (Some(_), true) => listener = None, // only a closed port refuses
                (None, false) => listener = Some(listen_again(self.address).await),
                _ => {}
            }
            self.now_listening.send_replace(listener.is_some());
            tokio::select! {
                changed = self.faults.changed() => if changed.is_err() { return },
                Some(Ok((client, _))) = accept(listener.as_ref()) => self.serve(client),
            }
        }
    }

    fn serve(&self, client: TcpStream) {
        let server = *self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let (faults, open) = (self.faults.clone(), Arc::clone(&self.open));
        tokio::spawn(async move {
            open.fetch_add(1, Ordering::SeqCst);
            carry(client, server, faults).await;
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn accept(listener: Option<&TcpListener>) -> Option<std::io::Result<(TcpStream, SocketAddr)>> {
    match listener {
        Some(listener) => Some(listener.accept().await),
        None => std::future::pending().await,
    }
}

async fn listen_again(address: SocketAddr) -> TcpListener {
    loop {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option of a fresh socket");
        match socket.bind(address).and_then(|()| socket.listen(128)) {
            Ok(listener) => return listener,
            Err(_) => sleep(Duration::from_millis(10)).await, // whoever waits for the proxy loses patience for us
        }
    }
}

/// One connection, until both directions have ended or it is cut.
async fn carry(mut client: TcpStream, server: SocketAddr, mut faults: watch::Receiver<Faults>) {
    let cuts = faults.borrow().cuts;
    let Ok(mut server) = TcpStream::connect(server).await else {
        let _ = client.set_zero_linger();
        return;
    };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let there = pump(from_client, to_server, Direction::ToServer, faults.clone());
    let back = pump(from_server, to_client, Direction::ToClient, faults.clone());
    let cut = tokio::select! {
        ((), ()) = async { tokio::join!(there, back) } => false,
        _ = faults.wait_for(|faults| faults.cuts != cuts) => true,
    };
    if cut {
        for stream in [&client, &server] {
            let _ = stream.set_zero_linger(); // closed so, it resets
        }
    }
}

/// One direction, until its source ends or a half-close is asked for.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    direction: Direction,
    mut faults: watch::Receiver<Faults>,
) {
    let closed = faults.borrow().flow(direction).closed;
    let mut half_closed = faults.clone();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = tokio::select! {
            _ = half_closed.wait_for(|faults| faults.flow(direction).closed != closed) => break,
            read = from.read(&mut buffer) => read,
        };
        let Ok(read @ 1..) = read else { break };
        let Ok(delay) = faults
            .wait_for(|faults| !faults.flow(direction).stalled)
            .await
            .map(|faults| faults.flow(direction).delay)
        else {
            break;
        };
        sleep(delay).await;
        if to.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
