//! Real processes and real disks: kill -9, a second owner, a disk that is full, a stop by signal.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says by that what it needs"
)]

// What else tests share knows PostgreSQL, which nothing of the pixel may (deny.toml).
#[allow(unreachable_pub, reason = "it is public where it is from")]
#[path = "../../../crates/test-support/src/net.rs"]
mod net;
mod support;

use std::{
    collections::HashSet,
    fs,
    io::Read,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use net::free_port;
use pixel::spool::{AppendError, Failure, Options, SyncPolicy, files::DiskFiles};
use support::{
    append_all, numbered, open, open_on,
    peer::{Answer, Peer},
    pixel::{get, left_in, mark, path_of},
};
use tempfile::TempDir;
use tracking::Fact;

/// A pixel as a process of its own; killed when dropped.
struct Process {
    child: Child,
    public: SocketAddr,
    admin: SocketAddr,
}

impl Process {
    /// Starts it and waits until it answers. `None` and its words if it ends instead.
    async fn start(folder: &Path, variables: &[(&str, &str)]) -> Result<Self, String> {
        let ports = [free_port(), free_port()];
        let mut child = Command::new(env!("CARGO_BIN_EXE_pixel"))
            .env_clear()
            .env("SPOOL_DIR", folder)
            .env("PORT", ports[0].to_string())
            .env("ADMIN_PORT", ports[1].to_string())
            .env("RECORDER_URL", "http://127.0.0.1:1")
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let public = SocketAddr::from(([127, 0, 0, 1], ports[0]));
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < support::PATIENCE, "it does not answer");
            if is_answering(public).await {
                let admin = SocketAddr::from(([127, 0, 0, 1], ports[1]));
                return Ok(Self { child, public, admin });
            }
            if child.try_wait().unwrap().is_some() {
                let mut words = String::new();
                child.stderr.take().unwrap().read_to_string(&mut words).unwrap();
                return Err(words);
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Ends it as a crash does.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    async fn metric(&self, series: &str) -> String {
        let answer = get(self.admin, "/metrics").await;
        let mut lines = answer.text().lines().filter_map(|line| line.strip_prefix(series));
        lines.next().expect("the series is there").trim().to_owned()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn is_answering(address: SocketAddr) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let Ok(mut stream) = tokio::net::TcpStream::connect(address).await else {
        return false;
    };
    let mut answer = Vec::new();
    stream
        .write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .is_ok()
        && stream.read_to_end(&mut answer).await.is_ok()
        && answer.starts_with(b"HTTP/1.1 200 ")
}

/// Sends hits over keep-alive connections until they break; gives the email ids that were answered.
async fn hits_until_broken(to: SocketAddr, prefix: String) -> Vec<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut answered = Vec::new();
    let Ok(mut stream) = tokio::net::TcpStream::connect(to).await else {
        return answered;
    };
    for number in 0.. {
        let email_id = format!("{prefix}-{number}");
        let request = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", path_of(&email_id));
        if stream.write_all(request.as_bytes()).await.is_err() {
            break;
        }
        let mut answer = Vec::new();
        while !answer.ends_with(&pixel::GIF) {
            let mut buffer = [0; 1_024];
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return answered,
                Ok(read) => answer.extend_from_slice(&buffer[..read]),
            }
        }
        answered.push(email_id);
    }
    answered
}

/// The kernel keeps what was written, so this holds for either policy of syncing.
#[tokio::test]
async fn kill_9_loses_nothing_that_was_answered() {
    for sync in ["always", "interval"] {
        kill_9_again_and_again(&[("SPOOL_SYNC", sync)]).await;
    }
}

async fn kill_9_again_and_again(variables: &[(&str, &str)]) {
    let folder = TempDir::new().unwrap();
    let mut answered = Vec::new();
    for round in 0..4 {
        let mut process = Process::start(folder.path(), variables).await.unwrap();
        let clients: Vec<_> = (0..8)
            .map(|client| tokio::spawn(hits_until_broken(process.public, format!("{round}-{client}"))))
            .collect();
        tokio::time::sleep(std::time::Duration::from_millis(100 + 50 * round)).await;
        process.kill();
        for client in clients {
            answered.extend(client.await.unwrap());
        }
    }
    let recorded: HashSet<String> = left_in(folder.path())
        .iter()
        .map(|fact| fact.email_id().to_owned())
        .collect();
    let lost: Vec<_> = answered
        .iter()
        .filter(|email_id| !recorded.contains(*email_id))
        .collect();
    assert!(answered.len() > 100, "only {} answered", answered.len());
    assert_eq!(lost, Vec::<&String>::new());
}

/// The recorder has the batch and has not answered for it when the pixel dies.
#[tokio::test]
async fn what_the_recorder_has_not_answered_for_is_still_in_the_spool() {
    let folder = TempDir::new().unwrap();
    let peer = Peer::new();
    peer.then(Answer::Never);
    let recorder = peer.listen().await;
    let url = recorder.url().to_string();
    let mut process = Process::start(folder.path(), &[("RECORDER_URL", &url)])
        .await
        .unwrap();
    get(process.public, &path_of("a")).await.assert_gif("a hit");
    peer.wait_until(|seen| !seen.is_empty()).await;
    process.kill();
    let left = left_in(folder.path());
    assert_eq!(left, peer.seen()[0].facts);

    let _process = Process::start(folder.path(), &[("RECORDER_URL", &url)])
        .await
        .unwrap();
    assert_eq!(peer.wait_for_facts(1).await, left);
}

/// A byte is flipped in the middle of the spool while nobody looks: one hit is lost, kept in the quarantine and counted,
/// and every other one reaches the recorder.
#[tokio::test]
async fn a_byte_flipped_in_the_middle_of_the_spool_costs_one_hit() {
    let folder = TempDir::new().unwrap();
    let mut process = Process::start(folder.path(), &[]).await.unwrap();
    for number in 0..300 {
        get(process.public, &path_of(&format!("email {number}")))
            .await
            .assert_gif("a hit");
    }
    process.kill();
    let segment = folder.path().join(format!("{:020}.seg", 1));
    let mut bytes = fs::read(&segment).unwrap();
    // Zeros are written ahead behind the records.
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let middle = end / 2;
    bytes[middle] ^= 0x20;
    fs::write(&segment, bytes).unwrap();

    let peer = Peer::new();
    let recorder = peer.listen().await;
    let url = recorder.url().to_string();
    let process = Process::start(folder.path(), &[("RECORDER_URL", &url)])
        .await
        .unwrap();
    get(process.public, &path_of("email 300"))
        .await
        .assert_gif("a hit after it");
    let facts = peer.wait_for_facts(300).await;
    let delivered: HashSet<&str> = facts.iter().map(Fact::email_id).collect();
    let missing: Vec<usize> = (0..=300)
        .filter(|number| !delivered.contains(format!("email {number}").as_str()))
        .collect();
    assert_eq!((facts.len(), missing.len()), (300, 1), "{missing:?}");
    assert!((100..200).contains(&missing[0]), "{missing:?}");
    for (series, value) in [
        ("email_tracker_pixel_spool_quarantined_total ", "1"),
        ("email_tracker_pixel_facts_lost_total{reason=\"corrupt\"} ", "1"),
        (
            "email_tracker_pixel_facts_lost_total{reason=\"disk_error\"} ",
            "0",
        ),
    ] {
        assert_eq!(process.metric(series).await, value, "{series}");
    }
    let copies = fs::read_dir(folder.path().join("quarantine")).unwrap().count();
    assert_eq!(copies, 1);
    support::eventually_async("all of it is settled", async || {
        process.metric("email_tracker_pixel_spool_records ").await == "0"
    })
    .await;
}

#[tokio::test]
async fn a_second_process_on_the_same_folder_is_refused_in_a_line() {
    let folder = TempDir::new().unwrap();
    let first = Process::start(folder.path(), &[]).await.unwrap();
    let words = Process::start(folder.path(), &[]).await.err().expect("refused");
    assert!(
        words.contains(folder.path().to_str().unwrap()) && words.contains("SPOOL_DIR"),
        "{words}"
    );
    assert_eq!(words.trim_end().lines().count(), 1, "{words}");
    get(first.public, &path_of("e")).await.assert_gif("the first one");
}

#[tokio::test]
async fn wrong_settings_are_all_named_at_one_start() {
    let folder = TempDir::new().unwrap();
    let variables = [
        ("SPOOL_SYNC", "never"),
        ("RECORDER_URL", "recorder"),
        ("TRUSTED_PROXIES", "x"),
    ];
    let words = Process::start(folder.path(), &variables)
        .await
        .err()
        .expect("refused");
    for name in ["SPOOL_SYNC", "RECORDER_URL", "TRUSTED_PROXIES"] {
        assert!(
            words.lines().any(|line| line.contains(&format!("{name}: "))),
            "{words}"
        );
    }
}

/// Sends hits and marks until nobody listens any more, over connections that it gives up only after an answer that says so;
/// gives their email ids. Each must be answered.
async fn requests_until_refused(
    to: SocketAddr,
    prefix: String,
    answers: Arc<AtomicUsize>,
) -> HashSet<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut answered = HashSet::new();
    let mut open = None;
    for number in 0.. {
        let mut stream = match open.take() {
            Some(stream) => stream,
            None => match tokio::net::TcpStream::connect(to).await {
                Ok(stream) => stream,
                Err(_) => break,
            },
        };
        let email_id = format!("{prefix}-{number}");
        let (request, end): (_, &[u8]) = if number % 3 == 0 {
            let body = format!(r#"{{"email_id":"{email_id}"}}"#);
            let head = "POST /mark-suppress-next HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
            (
                format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()),
                b"}",
            )
        } else {
            let path = path_of(&email_id);
            (format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"), &pixel::GIF)
        };
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        while !answer.ends_with(end) {
            let read = stream.read_buf(&mut answer).await.expect("an answer");
            assert!(read > 0, "{email_id} was not answered: {answer:?}");
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{email_id}: {answer:?}");
        answered.insert(email_id);
        answers.fetch_add(1, Ordering::Relaxed);
        let is_last = answer.windows(17).any(|it| it == b"connection: close");
        open = (!is_last).then_some(stream);
    }
    answered
}

/// Sends SIGTERM under load to a pixel with this recorder, which must end well before its grace period is over. Gives the
/// email ids that were answered, and those that it left in its spool.
async fn stopped_under_load(recorder: &str) -> (HashSet<String>, HashSet<String>) {
    let folder = TempDir::new().unwrap();
    // Less than a batch may take at other times.
    let settings = [("RECORDER_URL", recorder), ("SHUTDOWN_GRACE_SECONDS", "14")];
    let mut process = Process::start(folder.path(), &settings).await.unwrap();
    let answers = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..8)
        .map(|client| requests_until_refused(process.public, client.to_string(), Arc::clone(&answers)))
        .map(tokio::spawn)
        .collect();
    support::eventually("there is load", || answers.load(Ordering::Relaxed) > 300).await;
    process.signal(rustix::process::Signal::TERM);
    let mut answered = HashSet::new();
    for client in clients {
        answered.extend(client.await.unwrap());
    }
    let status = process.child.wait().unwrap();
    let mut log = String::new();
    process
        .child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    assert!(status.success(), "{status}: {log}");
    assert!(
        log.contains("what is unsent stays in the spool") && !log.contains("the grace period is over"),
        "{log}"
    );
    let left = left_in(folder.path());
    let left_ids: HashSet<_> = left.iter().map(|fact| fact.email_id().to_owned()).collect();
    assert_eq!(left_ids.len(), left.len(), "once each");
    (answered, left_ids)
}

#[tokio::test]
async fn sigterm_answers_what_is_under_way_and_keeps_it() {
    let (answered, left) = stopped_under_load("http://127.0.0.1:1").await;
    assert_eq!(left, answered);
}

#[tokio::test]
async fn sigterm_forwards_what_it_can() {
    let peer = Peer::new();
    let listening = peer.listen().await;
    let (answered, left) = stopped_under_load(&format!("http://{}", listening.address)).await;
    let recorded: HashSet<_> = peer
        .facts()
        .iter()
        .map(|fact| fact.email_id().to_owned())
        .collect();
    assert_eq!(recorded, answered);
    assert_eq!(left, HashSet::new());
}

/// The system still takes connections for a process that is stopped, and nobody ever answers on them.
#[tokio::test]
async fn sigterm_does_not_wait_for_a_recorder_that_is_stopped() {
    let stopped = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (answered, left) = stopped_under_load(&format!("http://{}", stopped.local_addr().unwrap())).await;
    assert_eq!(left, answered);
}

#[tokio::test]
async fn sigterm_does_not_wait_for_a_recorder_that_never_answers_a_batch() {
    let peer = Peer::new();
    peer.then(Answer::All(recorder_api::v1::Outcome::Recorded.into()));
    peer.always(Answer::Never);
    let listening = peer.listen().await;
    let (answered, left) = stopped_under_load(&format!("http://{}", listening.address)).await;
    let recorded: HashSet<_> = peer
        .facts()
        .iter()
        .map(|fact| fact.email_id().to_owned())
        .collect();
    // What came right behind the first batch may not have been trimmed: it is sent again some day.
    assert!(!recorded.is_empty() && recorded.is_subset(&answered));
    assert_eq!(left.union(&recorded).cloned().collect::<HashSet<_>>(), answered);
}

/// A small file system of its own; unmounted when dropped. `None` if this account may not mount.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, bytes: u64) -> Option<Self> {
        let options = format!("size={bytes}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "none"])
            .arg(at)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_disk_that_is_really_full_loses_exactly_what_is_counted() {
    let at = TempDir::new().unwrap();
    let Some(disk) = SmallDisk::mount(at.path(), 1 << 20) else {
        eprintln!("skipped: mounting needs root");
        return;
    };
    let folder = disk.0.join("spool");
    let pixel = support::pixel::start(&folder, &[support::pixel::NO_RECORDER]).await;
    fs::write(disk.0.join("ballast"), vec![0; 960 << 10]).unwrap();
    let mut sent = 0;
    let lost = "email_tracker_pixel_facts_lost_total{reason=\"disk_full\"}";
    while pixel.metric(lost).await < 20 {
        get(pixel.public, &path_of(&format!("{sent:0>900}")))
            .await
            .assert_gif("a full disk");
        sent += 1;
        assert!(sent < 500);
    }
    let large = format!(r#"{{"email_id":"{}"}}"#, "e".repeat(1_024));
    assert_eq!(mark(pixel.public, large.as_bytes()).await.status, 503);
    let (status, ready) = pixel.ready().await;
    assert!(
        status == 200 && ready.contains("the disk under the spool is full"),
        "{ready}"
    );

    fs::remove_file(disk.0.join("ballast")).unwrap();
    support::eventually_async("it recovers by itself", async || {
        !pixel.ready().await.1.contains("degraded")
    })
    .await;
    for _ in 0..10 {
        get(pixel.public, &path_of("after"))
            .await
            .assert_gif("room again");
        sent += 1;
    }
    let lost = pixel.metric(lost).await;
    pixel.stop().await.unwrap();
    assert_eq!(left_in(&folder).len(), sent - lost);
}

#[tokio::test]
async fn a_pixel_starts_and_answers_on_a_disk_that_is_full_already() {
    let at = TempDir::new().unwrap();
    let Some(disk) = SmallDisk::mount(at.path(), 1 << 20) else {
        eprintln!("skipped: mounting needs root");
        return;
    };
    let folder = disk.0.join("spool");
    let spool = open(&folder);
    append_all(&spool.spool, &numbered(0..3)).await;
    spool.close().await;
    let ballast = fs::File::create(disk.0.join("ballast")).unwrap();
    let mut written = 0;
    while std::os::unix::fs::FileExt::write_all_at(&ballast, &[0; 4_096], written).is_ok() {
        written += 4_096;
    }
    let mut spool = open_on(DiskFiles, &folder, Options::new(1 << 30, SyncPolicy::Always));
    let refused = spool.spool.append(b"refused".to_vec()).await;
    assert!(
        matches!(refused, Err(AppendError::Failed(Failure::DiskFull))),
        "{refused:?}"
    );
    let batch = spool.reader.read(10, 1 << 20).unwrap();
    assert_eq!(support::texts(&batch), numbered(0..3));
    let _without_room = spool.reader.trim(&batch);
    drop(ballast);
    fs::remove_file(disk.0.join("ballast")).unwrap();
    support::eventually("it recovers by itself", || spool.spool.failing().is_none()).await;
    append_all(&spool.spool, &numbered(3..5)).await;
    assert_eq!(spool.take_all(), numbered(3..5));
    spool.close().await;
    let mut spool = open(&folder);
    assert_eq!(spool.take_all(), Vec::<String>::new());
}
