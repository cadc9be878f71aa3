//! Child processes and the HTTP client.
#![allow(clippy::expect_used, reason = "test helpers")]

use std::process::Command;

use test_support::{
    Signal, Spawned,
    http::{Connection, Request, send_raw},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

fn shell(script: &str) -> Spawned {
    Spawned::start(Command::new("sh").args(["-c", script]))
}

#[tokio::test]
async fn output_is_kept_and_the_end_is_told() {
    let mut program = shell("echo one; echo two >&2; echo three; exit 3");
    assert_eq!(program.line_with("tw").await, "two");
    assert_eq!(program.exit().await.code(), Some(3));
    program.line_with("three").await;
    assert_eq!(program.stdout(), "one\nthree\n");
}

#[tokio::test]
async fn signals_arrive() {
    let mut program = shell("trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done");
    program.line_with("up").await;
    program.signal(Signal::TERM);
    assert!(program.exit().await.success());
    program.line_with("bye").await;
}

#[tokio::test]
async fn a_dropped_program_takes_its_children_along() {
    let mut program = shell("sleep 600 & echo child $!; wait");
    let line = program.line_with("child ").await;
    let child = line.trim_start_matches("child ").to_owned();
    assert!(is_alive(&child));
    drop(program);
    test_support::eventually("the child is gone", async || (!is_alive(&child)).then_some(())).await;
}

fn is_alive(process: &str) -> bool {
    // Nobody may be there to collect an orphan, which then stays as a zombie.
    std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

const PRINTS: &str = "PRINTS_THE_PROCESS_THAT_IT_STARTED";

/// Nothing by itself: what the next test starts as a process of its own.
#[tokio::test]
async fn a_program_is_started_and_waited_for() {
    if std::env::var_os(PRINTS).is_some() {
        let mut program = shell("sleep 600");
        println!("\nstarted {}", program.id());
        program.exit().await;
    }
}

#[tokio::test]
async fn a_test_process_that_is_killed_leaves_no_program_behind() {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "a_program_is_started_and_waited_for", "--nocapture"]);
    let mut tests = Spawned::start(command.env(PRINTS, "1"));
    let line = tests.line_with("started ").await;
    let program = line.trim_start_matches("started ").to_owned();
    assert!(is_alive(&program));
    tests.signal(Signal::KILL);
    tests.exit().await;
    test_support::eventually("the program is gone", async || {
        (!is_alive(&program)).then_some(())
    })
    .await;
}

/// A server that reads whatever comes and answers each of `answers` once.
async fn serving(answers: Vec<&'static [u8]>) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        for answer in answers {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(answer).await;
        }
    });
    address
}

#[tokio::test]
async fn answers_of_every_framing_on_one_connection() {
    let address = serving(vec![
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n3\r\n:1}\r\n0\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 43\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\nup to the end",
    ])
    .await;
    let mut connection = Connection::open(address).await;
    let get = Request::get("/");
    let answer = connection.exchange(&get).await;
    assert_eq!(
        (answer.status, answer.text(), answer.header("x-a")),
        (200, "hello", Some("b"))
    );
    assert_eq!(connection.exchange(&get).await.json()["a"], 1);
    assert_eq!(connection.exchange(&get).await.status, 304);
    assert_eq!(connection.exchange(&Request::new("HEAD", "/")).await.body, b"");
    assert_eq!(connection.exchange(&get).await.text(), "up to the end");
}

#[tokio::test]
async fn bytes_go_out_as_they_are() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let received = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut bytes = [0; 9];
        stream.read_exact(&mut bytes).await.expect("the bytes");
        bytes
    });
    assert_eq!(
        send_raw(address, b"GET /\xff\0\r\n").await,
        None,
        "closed without an answer"
    );
    assert_eq!(&received.await.expect("received"), b"GET /\xff\0\r\n");
}
