//! Signals, and tasks that fail.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use rustix::process::Signal;

use crate::{
    Tests,
    child::{Running, ask, connect, rest},
};

pub(crate) const TESTS: Tests = &[
    (
        "end::either_signal_finishes_what_is_under_way_and_closes_the_rest",
        either_signal_finishes_what_is_under_way_and_closes_the_rest,
    ),
    ("end::a_second_signal_ends_at_once", a_second_signal_ends_at_once),
    (
        "end::what_is_under_way_after_the_grace_is_cut_off",
        what_is_under_way_after_the_grace_is_cut_off,
    ),
    (
        "end::a_task_that_fails_ends_the_process",
        a_task_that_fails_ends_the_process,
    ),
];

/// A request that is answered when its last byte is there.
fn under_way(running: &Running) -> TcpStream {
    let mut stream = connect(running.public);
    stream
        .write_all(b"GET /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        .unwrap();
    // The handler has asked for the body: it is under way for certain.
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream
}

fn either_signal_finishes_what_is_under_way_and_closes_the_rest() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let mut running = Running::start(&[]);
        let mut silent = connect(running.public);
        let mut idle = connect(running.public);
        assert!(ask(&mut idle, "/").ends_with("hello"));
        let mut slow = under_way(&running);

        running.signal(signal);
        let line = running.line("stopping; a second signal ends at once");
        assert_eq!(line["signal"], name);
        assert_eq!(rest(&mut idle), "", "an idle connection is closed");
        assert_eq!(rest(&mut silent), "", "one that never said anything too");
        while TcpStream::connect(running.public).is_ok() {}

        slow.write_all(b"late").unwrap();
        let answer = rest(&mut slow);
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("late"),
            "{answer}"
        );
        assert!(answer.contains("connection: close"), "{answer}");
        assert_eq!(running.end(), (Some(0), String::new()));
        assert_eq!(running.remaining_messages(), ["stopped"]);
    }
}

fn a_second_signal_ends_at_once() {
    let mut running = Running::start(&[("SHUTDOWN_GRACE_SECONDS", "3600")]);
    let mut slow = under_way(&running);
    running.signal(Signal::TERM);
    running.line("stopping; a second signal ends at once");
    running.signal(Signal::INT);
    assert_eq!(running.end(), (Some(130), String::new()));
    assert_eq!(rest(&mut slow), "");
}

fn what_is_under_way_after_the_grace_is_cut_off() {
    let mut running = Running::start(&[("SHUTDOWN_GRACE_SECONDS", "1")]);
    let mut slow = under_way(&running);
    running.signal(Signal::TERM);
    assert_eq!(rest(&mut slow), "");
    let line = running.line("connections were cut off at the end of the grace period");
    assert_eq!(line["connections"], 1);
    assert_eq!(running.end(), (Some(0), String::new()));
}

fn a_task_that_fails_ends_the_process() {
    let mut running = Running::start(&[("SHUTDOWN_GRACE_SECONDS", "1")]);
    let mut stream = connect(running.public);
    write!(stream, "GET /fail HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let (code, stderr) = running.end();
    assert_eq!(code, Some(1));
    assert_eq!(stderr, "worker failed: out of luck\n");
}
