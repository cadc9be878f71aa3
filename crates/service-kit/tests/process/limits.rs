//! What happens when files run out.

use std::io::Write;

use rustix::process::{Resource, Rlimit, prlimit};

use crate::{
    Tests,
    child::{Running, ask, command_with_files, connect, get, metric, rest},
};

pub(crate) const TESTS: Tests = &[
    (
        "limits::connections_leave_files_for_everything_else",
        connections_leave_files_for_everything_else,
    ),
    (
        "limits::a_failed_accept_is_counted_and_survived",
        a_failed_accept_is_counted_and_survived,
    ),
    (
        "limits::the_limit_of_open_files_is_raised",
        the_limit_of_open_files_is_raised,
    ),
];

fn connections_leave_files_for_everything_else() {
    const FILES: u32 = 400;
    let running = Running::start_with(&[], |variables| command_with_files(FILES, variables));
    let mut held = Vec::new();
    // 256 files are kept; the rest is for connections. Each is asked something, so it is accepted for certain.
    for _ in 0..FILES - 256 {
        let mut stream = connect(running.public);
        assert!(ask(&mut stream, "/").ends_with("hello"));
        held.push(stream);
    }
    let mut waits = connect(running.public);
    write!(waits, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let metrics = get(running.admin, "/metrics");
    assert_eq!(
        metric(&metrics, "email_tracker_http_connections"),
        u64::from(FILES - 256 + 1),
        "the last one is this scrape's own"
    );
    assert_eq!(metric(&metrics, "email_tracker_http_accept_failures_total"), 0);
    drop(held.pop());
    assert!(rest(&mut waits).ends_with("hello"), "one that left made room");
}

fn a_failed_accept_is_counted_and_survived() {
    let running = Running::start(&[]);
    let mut scrape = connect(running.admin);
    let failures = |answer: String| metric(&answer, "email_tracker_http_accept_failures_total");
    assert_eq!(failures(ask(&mut scrape, "/metrics")), 0);

    let limit = |current| {
        let limit = Rlimit {
            current: Some(current),
            maximum: prlimit_of(&running).maximum,
        };
        prlimit(Some(running.pid()), Resource::Nofile, limit).unwrap();
    };
    limit(3);
    let mut waits = connect(running.public);
    write!(waits, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let line = running.line("a connection could not be accepted; trying again");
    assert_eq!(line["level"], "WARN");
    limit(1_024);
    assert!(rest(&mut waits).ends_with("hello"));
    assert!(failures(ask(&mut scrape, "/metrics")) >= 1);
}

fn prlimit_of(running: &Running) -> Rlimit {
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.pid())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let mut numbers = files.split_whitespace().skip(3).map(|number| number.parse().ok());
    Rlimit {
        current: numbers.next().unwrap(),
        maximum: numbers.next().unwrap(),
    }
}

fn the_limit_of_open_files_is_raised() {
    let running = Running::start_with(&[], |variables| {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", r#"ulimit -Sn 300 && ulimit -Hn 4000 && exec "$0""#]);
        command.arg(std::env::current_exe().unwrap());
        command.env_clear().env(crate::ACT_AS_SERVICE, "yes");
        command.envs(variables.iter().copied());
        command
    });
    // It was raised before the sockets were there, so there is nothing to wait for.
    assert_eq!(prlimit_of(&running).current, Some(4_000));
}
