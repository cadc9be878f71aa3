//! Log lines and traces.

use rustix::process::Signal;

use crate::{
    Tests,
    child::{Running, get, request},
    collector::Collector,
};

pub(crate) const TESTS: Tests = &[
    (
        "telemetry::the_log_level_changes_while_it_runs",
        the_log_level_changes_while_it_runs,
    ),
    (
        "telemetry::traces_reach_the_collector_at_the_latest_at_the_end",
        traces_reach_the_collector_at_the_latest_at_the_end,
    ),
    (
        "telemetry::a_collector_that_is_away_stops_nothing",
        a_collector_that_is_away_stops_nothing,
    ),
    (
        "telemetry::a_terminal_is_not_needed_for_text",
        a_terminal_is_not_needed_for_text,
    ),
];

fn the_log_level_changes_while_it_runs() {
    let running = Running::start(&[("LOG_LEVEL", "info")]);
    assert!(get(running.admin, "/log-level").ends_with("\r\n\r\ninfo\n"));
    get(running.public, "/debug"); // Leaves no line.
    let answer = request(running.admin, "PUT", "/log-level", "loud");
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("\"loud\" is not accepted"),
        "{answer}"
    );
    assert!(get(running.admin, "/log-level").ends_with("\r\n\r\ninfo\n"));

    let answer = request(running.admin, "PUT", "/log-level", "info,process=debug\n");
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    running.line("the log level was changed");
    get(running.public, "/debug");
    let line = running.line("somebody looks closer");
    assert_eq!(line["level"], "DEBUG");
}

fn traces_reach_the_collector_at_the_latest_at_the_end() {
    let collector = Collector::start();
    // Traces do not depend on which lines are logged.
    let mut running = Running::start_with(
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())],
        crate::child::command,
    );
    request(running.admin, "POST", "/log-level", "error");
    get(running.public, "/traced");
    running.signal(Signal::TERM);
    assert_eq!(running.end(), (Some(0), String::new()));
    let (path, body) = collector.received();
    assert_eq!(
        path,
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    );
    for part in ["a traced piece of work", "service.name", "greeter"] {
        assert!(body.contains(part), "no {part} in {body}");
    }
}

fn a_collector_that_is_away_stops_nothing() {
    // A port that nobody listens on.
    let url = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let mut running = Running::start(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &url)]);
    assert!(get(running.public, "/traced").starts_with("HTTP/1.1 200"));
    running.signal(Signal::TERM);
    assert_eq!(running.end().0, Some(0));
}

fn a_terminal_is_not_needed_for_text() {
    let mut command = crate::child::command(&[("LOG_FORMAT", "text"), ("PORT", "0"), ("ADMIN_PORT", "0")]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(line.contains(" INFO ") && line.contains("starting"), "{line}");
    assert!(
        !line.contains('\u{1b}'),
        "no colours where there is no terminal: {line:?}"
    );
}
