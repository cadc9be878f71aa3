//! From the arguments to the first log line.

use std::net::TcpListener;

use crate::{
    Tests,
    child::{Running, command, run_to_its_end},
};

pub(crate) const TESTS: Tests = &[
    (
        "start::every_wrong_setting_has_a_line_on_stderr",
        every_wrong_setting_has_a_line_on_stderr,
    ),
    ("start::a_port_in_use_is_named", a_port_in_use_is_named),
    (
        "start::help_and_version_are_printed",
        help_and_version_are_printed,
    ),
    (
        "start::unknown_arguments_are_refused",
        unknown_arguments_are_refused,
    ),
    (
        "start::the_first_line_shows_the_settings_and_no_secret",
        the_first_line_shows_the_settings_and_no_secret,
    ),
    (
        "start::the_health_check_says_whether_it_is_ready",
        the_health_check_says_whether_it_is_ready,
    ),
];

fn every_wrong_setting_has_a_line_on_stderr() {
    let ended = run_to_its_end(command(&[
        ("PORT", "http"),
        ("LOG_LEVEL", "loud"),
        ("TOKEN", "s3cret"),
        ("TOKEN_FILE", "/run/secrets/token"),
    ]));
    assert_eq!(ended.code, Some(64));
    assert_eq!(ended.stdout, "");
    let lines: Vec<&str> = ended.stderr.lines().collect();
    assert_eq!(lines.len(), 3, "{}", ended.stderr);
    for (line, name) in lines.iter().zip(["PORT", "LOG_LEVEL", "TOKEN"]) {
        assert!(line.starts_with(&format!("greeter: {name}: ")), "{line}");
    }
    assert!(!ended.stderr.contains("s3cret"));
}

fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for setting in ["PORT", "ADMIN_PORT"] {
        let ended = run_to_its_end(command(&[(setting, &port)]));
        assert_eq!(ended.code, Some(1));
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        let expected = format!("{setting}: cannot listen on 127.0.0.1:{port}");
        assert!(ended.stderr.starts_with(&expected), "{}", ended.stderr);
    }
}

fn help_and_version_are_printed() {
    for (argument, says) in [
        ("--help", "greeter: greets\n"),
        ("-h", "Usage: greeter"),
        ("--version", "greeter 0."),
    ] {
        let mut asked = command(&[("PORT", "wrong, and it does not matter")]);
        asked.arg(argument);
        let ended = run_to_its_end(asked);
        assert_eq!(ended.code, Some(0));
        assert!(ended.stdout.contains(says), "{}", ended.stdout);
    }
}

fn unknown_arguments_are_refused() {
    let mut asked = command(&[]);
    asked.args(["--port", "80"]);
    let ended = run_to_its_end(asked);
    assert_eq!(ended.code, Some(64));
    assert!(ended.stderr.contains("--port"), "{}", ended.stderr);
}

fn the_first_line_shows_the_settings_and_no_secret() {
    let running = Running::start(&[("TOKEN", "s3cret"), ("GREETING", "good morning")]);
    let line = &running.first_line;
    assert_eq!(line["message"], "starting");
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["service"], "greeter");
    assert_eq!(line["version"], service_kit::VERSION);
    let settings = line["settings"].as_str().unwrap();
    for part in [
        "LISTEN=127.0.0.1",
        "PORT=0",
        "LOG_LEVEL=info",
        "GREETING=good morning",
        "TOKEN=<set>",
    ] {
        assert!(settings.contains(part), "no {part} in {settings}");
    }
    assert!(!line.to_string().contains("s3cret"));
}

fn the_health_check_says_whether_it_is_ready() {
    let mut running = Running::start(&[]);
    let port = running.admin.port().to_string();
    let check = |variables: &[(&str, &str)]| {
        let mut asked = command(variables);
        asked.arg("healthcheck");
        run_to_its_end(asked)
    };
    assert_eq!(check(&[("ADMIN_PORT", &port)]).code, Some(0));
    // As in an image, where the service listens on every address.
    assert_eq!(
        check(&[("ADMIN_PORT", &port), ("LISTEN", "0.0.0.0")]).code,
        Some(0)
    );

    running.signal(rustix::process::Signal::TERM);
    assert_eq!(running.end(), (Some(0), String::new()));
    let ended = check(&[("ADMIN_PORT", &port)]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stderr.starts_with("no connection to 127.0.0.1:"),
        "{}",
        ended.stderr
    );
}
