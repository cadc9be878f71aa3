//! The service over a real socket, by the generated client.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::{sync::Arc, time::Duration};

use common::{HeldCommits, at, fresh_database, hit, mark, migrate, stored_emails};
use database::RECORDER_ROLE;
use recorder::Settings;
use recorder_api::{
    MAX_BATCH_FACTS,
    Outcome::{self, AlreadyKnown, Expired, Invalid, OutOfRange, Recorded},
    v1::{self, recorder_client::RecorderClient},
};
use service_kit::{Metrics, Public, Reader, Sockets, Surroundings};
use test_support::{Direction, FaultProxy, OWNER, OWNER_PASSWORD, PrivatePostgres, eventually, http};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status,
    transport::{Channel, Uri},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tracking::{Fact, MockClock, Timestamp};

const TOKEN: &str = "the pixels' secret";

/// The recorder as its main runs it, stopped with the test.
struct Service {
    uri: Uri,
    channel: Channel,
    admin: std::net::SocketAddr,
    clock: MockClock,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

impl Service {
    async fn start(database_url: &str, more: &[(&str, &str)]) -> Self {
        let variables = [("DATABASE_URL", database_url), ("RECORDER_TOKEN", TOKEN)];
        let mut reader = Reader::from_variables(variables.into_iter().chain(more.iter().copied()));
        let settings = Settings::read(&mut reader);
        let settings = reader.finish(settings).unwrap();
        let public = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = public.local_addr().unwrap();
        let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let admin_address = admin.local_addr().unwrap();
        let clock = MockClock::at(now());
        let stop = CancellationToken::new();
        let surroundings = Surroundings {
            sockets: Sockets {
                public: Public::Socket(public),
                admin,
                log_level: None,
            },
            clock: Arc::new(clock.clone()),
            metrics: Metrics::new("recorder").unwrap(),
            stop: stop.clone(),
        };
        let running = tokio::spawn(recorder::run(settings, surroundings));
        let uri: Uri = format!("http://{address}").parse().unwrap();
        let channel = Channel::builder(uri.clone()).connect_lazy();
        Self {
            uri,
            channel,
            admin: admin_address,
            clock,
            stop,
            running,
        }
    }

    async fn record(&self, facts: Vec<v1::Fact>) -> Result<Vec<Outcome>, Status> {
        self.record_as(Some(&format!("Bearer {TOKEN}")), facts).await
    }

    async fn record_as(
        &self,
        authorization: Option<&str>,
        facts: Vec<v1::Fact>,
    ) -> Result<Vec<Outcome>, Status> {
        let mut request = Request::new(v1::RecordRequest { facts });
        if let Some(authorization) = authorization {
            request
                .metadata_mut()
                .insert("authorization", authorization.parse().unwrap());
        }
        let answer = RecorderClient::new(self.channel.clone())
            .record(request)
            .await?
            .into_inner();
        Ok(answer
            .outcomes()
            .map(|outcome| outcome.known().unwrap())
            .collect())
    }

    async fn becomes_ready(&self) {
        eventually("the recorder is ready", async || {
            (http::get(self.admin, "/ready").await.status == 200).then_some(())
        })
        .await;
    }

    async fn health(&self, service: &str) -> ServingStatus {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        HealthClient::new(self.channel.clone())
            .check(request)
            .await
            .unwrap()
            .into_inner()
            .status()
    }

    async fn metric(&self, line_start: &str) -> Option<String> {
        let answer = http::get(self.admin, "/metrics").await;
        answer
            .text()
            .lines()
            .find_map(|line| line.strip_prefix(line_start))
            .map(|rest| rest.trim().to_owned())
    }

    async fn end(self) {
        self.stop.cancel();
        self.running.await.unwrap().unwrap();
    }
}

fn now() -> Timestamp {
    at("2026-03-01T00:00:00.500Z")
}

fn one(email_id: &str) -> Vec<v1::Fact> {
    vec![v1::Fact::from(Fact::Hit(hit(email_id, now(), 1)))]
}

#[tokio::test]
async fn only_the_shared_secret_lets_in() {
    let database = fresh_database().await;
    let service = Service::start(&database.url_of(RECORDER_ROLE), &[]).await;
    for wrong in [
        None,
        Some(""),
        Some("Bearer"),
        Some("Bearer x"),
        Some(TOKEN),
        Some("Bearer the pixels' secret!"),
        Some("bearer the pixels' secret"),
    ] {
        let refused = service.record_as(wrong, one("a")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{wrong:?}");
        assert!(!refused.message().contains(TOKEN));
    }
    assert_eq!(service.record(one("a")).await.unwrap(), [Recorded]);
    assert_eq!(
        service
            .metric("email_tracker_recorder_batches_total{code=\"unauthenticated\"}")
            .await
            .as_deref(),
        Some("7")
    );
    service.end().await;
}

#[tokio::test]
async fn the_secret_of_before_lets_in_while_it_is_named() {
    let database = fresh_database().await;
    let service = Service::start(
        &database.url_of(RECORDER_ROLE),
        &[("RECORDER_TOKEN_PREVIOUS", "the old one")],
    )
    .await;
    for (given, email) in [("Bearer the old one", "a"), (&format!("Bearer {TOKEN}"), "b")] {
        let recorded = service.record_as(Some(given), one(email)).await;
        assert_eq!(recorded.unwrap(), [Recorded], "{given}");
    }
    for wrong in ["Bearer", "Bearer ", "Bearer the old one!", "Bearer the older one"] {
        let refused = service.record_as(Some(wrong), one("c")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{wrong:?}");
    }
    service.end().await;

    let service = Service::start(&database.url_of(RECORDER_ROLE), &[]).await;
    let refused = service.record_as(Some("Bearer the old one"), one("c")).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    service.end().await;
}

#[tokio::test]
async fn addresses_are_kept_in_full_as_long_as_the_operator_says() {
    let database = fresh_database().await;
    let client = database.superuser().await;
    let day = 86_400_000;
    let stored_before = hit("before", now().saturating_add_millis(-31 * day), 1);
    let before = common::recorder(&database, "before", &tracking::Rules::default());
    before.record(vec![Fact::Hit(stored_before)]).await.unwrap();

    let service = Service::start(&database.url_of(RECORDER_ROLE), &[("ANONYMIZE_DAYS", "30")]).await;
    let late = hit("late", now().saturating_add_millis(-30 * day), 2);
    let young = hit("young", now().saturating_add_millis(-29 * day), 3);
    let sent = [late, young].map(|hit| v1::Fact::from(Fact::Hit(hit)));
    service.record(sent.to_vec()).await.unwrap();
    eventually("upkeep has shortened what was stored", async || {
        let hits = test_support::tables::stored_hits(&client, "").await;
        let addresses: Vec<_> = hits
            .iter()
            .map(|hit| hit.client_address.unwrap().to_string())
            .collect();
        (addresses == ["203.0.113.0", "203.0.113.0", "203.0.113.7"]).then_some(())
    })
    .await;
    service.end().await;
}

#[tokio::test]
async fn bad_facts_are_refused_one_by_one_and_good_ones_recorded() {
    let database = fresh_database().await;
    let service = Service::start(&database.url_of(RECORDER_ROLE), &[("RETENTION_DAYS", "30")]).await;
    let good = |tie| Fact::Hit(hit("a", now(), tie));
    let sent = |fact: Fact| v1::Fact::from(fact);
    let bad_id = v1::Fact {
        fact: Some(v1::fact::Fact::Mark(v1::Mark {
            mark_id: vec![1, 2, 3],
            ..v1::Mark::default()
        })),
    };
    let mut other_time = hit("a", now(), 9);
    other_time.opened_at = now().saturating_add_millis(1);
    let mut nul = hit("a", now(), 9);
    nul.token.recipient = "a\0b".to_owned();
    let mut nameless = mark("a", now(), 9);
    nameless.email_id = String::new();
    let mut long = hit("a", now(), 9);
    long.token.recipient = "x".repeat(10_241);
    let day = 86_400_000;
    let batch = vec![
        sent(good(1)),
        v1::Fact { fact: None },
        bad_id,
        sent(Fact::Hit(other_time)),
        sent(Fact::Hit(nul)),
        sent(Fact::Mark(nameless)),
        sent(Fact::Hit(long)),
        sent(Fact::Hit(hit("a", now().saturating_add_millis(day + 1), 1))),
        sent(Fact::Mark(mark("a", at("1999-12-31T23:59:59.999Z"), 1))),
        sent(Fact::Mark(mark(
            "a",
            now().saturating_add_millis(-30 * day - 1),
            1,
        ))),
        sent(Fact::Hit(hit("a", now().saturating_add_millis(day), 1))),
        sent(Fact::Hit(hit("a", now().saturating_add_millis(-30 * day), 1))),
        sent(good(1)),
        sent(good(2)),
    ];
    assert_eq!(
        service.record(batch).await.unwrap(),
        [
            Recorded,
            Invalid,
            Invalid,
            Invalid,
            Invalid,
            Invalid,
            Invalid,
            OutOfRange,
            OutOfRange,
            Expired,
            Recorded,
            Recorded,
            AlreadyKnown,
            Recorded
        ]
    );
    let stored = stored_emails(&database.superuser().await, "a").await;
    assert_eq!(stored["a"].hit_count, 4);

    service.clock.advance_millis(1); // and now the oldest has expired
    let oldest = sent(Fact::Hit(hit("a", now().saturating_add_millis(-30 * day), 1)));
    assert_eq!(service.record(vec![oldest]).await.unwrap(), [Expired]);

    for (outcome, count) in [
        ("recorded", "4"),
        ("already_known", "1"),
        ("invalid", "6"),
        ("expired", "2"),
    ] {
        let series = format!("email_tracker_recorder_facts_total{{outcome=\"{outcome}\"}}");
        assert_eq!(service.metric(&series).await.as_deref(), Some(count), "{outcome}");
    }
    service.end().await;
}

#[tokio::test]
async fn a_batch_sent_again_is_already_known() {
    let database = fresh_database().await;
    let service = Service::start(&database.url_of(RECORDER_ROLE), &[]).await;
    let batch: Vec<v1::Fact> = (0..200)
        .map(|number| v1::Fact::from(Fact::Hit(hit(&format!("email{number}"), now(), 1))))
        .collect();
    assert_eq!(service.record(batch.clone()).await.unwrap(), vec![Recorded; 200]);
    assert_eq!(service.record(batch).await.unwrap(), vec![AlreadyKnown; 200]);
    assert_eq!(service.record(Vec::new()).await.unwrap(), []);
    assert_eq!(stored_emails(&database.superuser().await, "").await.len(), 200);
    service.end().await;
}

#[tokio::test]
async fn a_batch_beyond_the_limits_is_to_be_halved() {
    let database = fresh_database().await;
    let service = Service::start(&database.url_of(RECORDER_ROLE), &[]).await;
    let facts = |count: usize, recipient: usize| -> Vec<v1::Fact> {
        let mut hit = hit("a", now(), 1);
        hit.token.recipient = "x".repeat(recipient);
        vec![v1::Fact::from(Fact::Hit(hit)); count]
    };
    let too_many = service.record(facts(MAX_BATCH_FACTS + 1, 10)).await.unwrap_err();
    assert_eq!(too_many.code(), Code::InvalidArgument, "{too_many}");
    let too_large = service.record(facts(300, 10_000)).await.unwrap_err();
    assert_eq!(too_large.code(), Code::OutOfRange, "{too_large}");
    let outcomes = service.record(facts(MAX_BATCH_FACTS, 10)).await.unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Recorded).count(), 1);
    service.end().await;
}

#[tokio::test]
async fn health_and_reflection_answer_without_the_secret() {
    let database = fresh_database().await;
    let service = Service::start(&database.url_of(RECORDER_ROLE), &[]).await;
    for name in ["", "email_tracker.recorder.v1.Recorder"] {
        eventually("gRPC health says serving", async || {
            (service.health(name).await == ServingStatus::Serving).then_some(())
        })
        .await;
    }
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(service.channel.clone())
        .server_reflection_info(futures::stream::iter([ask]))
        .await
        .unwrap()
        .into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) =
        answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services");
    };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"email_tracker.recorder.v1.Recorder"), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
    drop(answers);
    service.end().await;
}

#[tokio::test]
async fn it_waits_for_a_database_that_is_absent_and_then_not_migrated() {
    let server = PrivatePostgres::start().await;
    let database = server.database().await;
    let url = database.tcp_url_of(OWNER);
    server.stop().await;
    let service = Service::start(&url, &[("DATABASE_PASSWORD", OWNER_PASSWORD)]).await;

    let absent = service.record(one("a")).await.unwrap_err();
    assert_eq!(absent.code(), Code::Unavailable, "{absent}");
    assert_eq!(http::get(service.admin, "/ready").await.status, 503);
    assert_eq!(http::get(service.admin, "/live").await.status, 200);
    assert_eq!(service.health("").await, ServingStatus::NotServing);

    server.start_again().await;
    let empty = eventually("the database answers", async || {
        let error = service.record(one("a")).await.unwrap_err();
        error.message().contains("migrate").then_some(error)
    })
    .await;
    assert_eq!(empty.code(), Code::Unavailable, "{empty}");
    let ready = http::get(service.admin, "/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.text().contains("migrate"), "{}", ready.text());

    migrate(database.url()).await;
    service.becomes_ready().await;
    assert_eq!(service.record(one("a")).await.unwrap(), [Recorded]);
    service.end().await;
}

#[tokio::test]
async fn a_restart_of_the_database_loses_and_doubles_nothing() {
    let server = PrivatePostgres::start().await;
    server.migrate_template(migrate).await;
    let database = server.database().await;
    let service = Service::start(&database.url_of(RECORDER_ROLE), &[]).await;
    service.becomes_ready().await;
    assert_eq!(service.record(one("before")).await.unwrap(), [Recorded]);

    server.crash().await;
    let away = service.record(one("between")).await.unwrap_err();
    assert_eq!(away.code(), Code::Unavailable, "{away}");
    assert!(!away.message().contains("between"), "{away}");
    server.start_again().await;

    let outcomes = eventually("the batch is taken", async || {
        service.record(one("between")).await.ok()
    })
    .await;
    assert_eq!(outcomes, [Recorded]);
    assert_eq!(service.record(one("before")).await.unwrap(), [AlreadyKnown]);
    let stored = stored_emails(&database.superuser().await, "be").await;
    assert!(
        stored.values().all(|email| email.hit_count == 1) && stored.len() == 2,
        "{stored:?}"
    );
    service.end().await;
}

/// A batch is answered for when it is committed, not when it is written: what is lost at the commit was not recorded.
#[tokio::test]
async fn no_batch_is_answered_for_before_its_commit() {
    let database = fresh_database().await;
    let service = Service::start(&database.url_of(RECORDER_ROLE), &[]).await;
    service.becomes_ready().await;
    assert_eq!(service.record(one("before")).await.unwrap(), [Recorded]);
    let commits = HeldCommits::of(&database).await;
    let at_its_commit = async || {
        eventually("it is at its commit", async || {
            (commits.waiting().await == 1).then_some(())
        })
        .await;
    };
    for (email_id, killed) in [("killed", true), ("committed", false), ("killed", false)] {
        let answer = service.record(one(email_id));
        let meanwhile = async {
            at_its_commit().await;
            if killed {
                assert_eq!(commits.kill_waiting().await, 1);
            } else {
                commits.release().await;
            }
        };
        let (answer, ()) = tokio::join!(answer, meanwhile);
        match (answer, killed) {
            (Err(status), true) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            (Ok(outcomes), false) => {
                assert_eq!(outcomes, [Recorded], "{email_id}");
                commits.hold().await;
            }
            (answer, _) => panic!("{email_id}: {answer:?}"),
        }
    }
    commits.release().await;
    service.end().await;
}

/// What bounds its memory: batches beyond those that there is room for are refused at once, and their pixels come again.
#[tokio::test]
async fn more_batches_than_there_is_room_for_are_sent_away() {
    let database = fresh_database().await;
    let service = Service::start(&database.url_of(RECORDER_ROLE), &[]).await;
    service.becomes_ready().await;
    let commits = HeldCommits::of(&database).await;
    let connections = [(); 5].map(|()| Channel::builder(service.uri.clone()).connect_lazy());
    let mut calls = JoinSet::new();
    for number in 0..80 {
        let mut request = Request::new(v1::RecordRequest {
            facts: one(&format!("email {number}")),
        });
        let authorization = format!("Bearer {TOKEN}").parse().unwrap();
        request.metadata_mut().insert("authorization", authorization);
        let mut client = RecorderClient::new(connections[number % 5].clone());
        calls.spawn(async move { client.record(request).await });
    }
    for _ in 64..80 {
        let refused = calls.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    }
    commits.release().await;
    for answer in calls.join_all().await {
        answer.unwrap();
    }
    let client = database.superuser().await;
    assert_eq!(stored_emails(&client, "email ").await.len(), 64);
    service.end().await;
}

/// A batch that a time-out of the server ends is sent again in halves, so the answer says what it was.
#[tokio::test]
async fn a_statement_that_takes_too_long_is_told_apart_from_an_absent_database() {
    let database = fresh_database().await;
    let service = Service::start(&database.url_of(RECORDER_ROLE), &[]).await;
    service.becomes_ready().await;
    assert_eq!(service.record(one("a")).await.unwrap(), [Recorded]);
    let client = database.superuser().await;
    client
        .batch_execute("begin; select from tracked_emails for update")
        .await
        .unwrap();
    let answer = service.record(one("a"));
    let cancel = async {
        let statement = "select count(pg_cancel_backend(pid)) from pg_stat_activity
                         where datname = current_database() and usename = $1 and wait_event_type = 'Lock'";
        eventually("it waits, and is cancelled", async || {
            let row = client.query_one(statement, &[&RECORDER_ROLE]).await.unwrap();
            (row.get::<_, i64>(0) == 1).then_some(())
        })
        .await;
    };
    let (answer, ()) = tokio::join!(answer, cancel);
    assert_eq!(answer.unwrap_err().code(), Code::DeadlineExceeded);
    client.batch_execute("rollback").await.unwrap();
    assert_eq!(service.record(one("b")).await.unwrap(), [Recorded]);
    service.end().await;
}

#[tokio::test]
async fn a_read_only_database_is_unavailable_and_not_a_data_error() {
    let database = fresh_database().await;
    let admin = database.superuser().await;
    let read_only = |yes: &str| {
        format!(
            "alter database {} set default_transaction_read_only = {yes}",
            database.name()
        )
    };
    admin.batch_execute(&read_only("on")).await.unwrap();
    let service = Service::start(&database.url_of(RECORDER_ROLE), &[]).await;
    let refused = service.record(one("a")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    service.end().await;

    admin
        .batch_execute("set default_transaction_read_only = off")
        .await
        .unwrap();
    admin.batch_execute(&read_only("off")).await.unwrap();
    // A session keeps what it began with, and a pooler keeps sessions.
    let end = "select pg_terminate_backend(pid, 10000) from pg_stat_activity
               where datname = current_database() and usename = $1";
    admin.execute(end, &[&RECORDER_ROLE]).await.unwrap();
    let service = Service::start(&database.url_of(RECORDER_ROLE), &[]).await;
    assert_eq!(service.record(one("a")).await.unwrap(), [Recorded]);
    service.end().await;
}

/// What the database refuses although it passed all checks is told as such, without a word of what it was.
#[tokio::test]
async fn a_data_error_asks_for_halves_and_says_nothing_personal() {
    let database = fresh_database().await;
    let admin = database.superuser().await;
    admin
        .batch_execute("alter table tracked_emails add check (recipient <> 'recipient7@example.com')")
        .await
        .unwrap();
    let service = Service::start(&database.url_of(RECORDER_ROLE), &[("RECORDER_WORKERS", "1")]).await;
    let fact = |email_id: &str, tie| v1::Fact::from(Fact::Hit(hit(email_id, now(), tie)));
    let refused = service
        .record(vec![fact("good", 1), fact("bad", 7)])
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    assert!(refused.message().contains("23514"), "{refused}");
    for personal in ["recipient7", "bad", "user 7", "203.0.113.7"] {
        assert!(!refused.message().contains(personal), "{refused}");
    }
    assert_eq!(service.record(vec![fact("good", 1)]).await.unwrap(), [Recorded]);
    let still = service.record(vec![fact("bad", 7)]).await.unwrap_err();
    assert_eq!(still.code(), Code::InvalidArgument);
    service.end().await;
}

#[tokio::test]
async fn a_broken_geoip_file_refuses_the_start_by_name() {
    let database = fresh_database().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.mmdb");
    std::fs::write(&file, "nothing of the kind").unwrap();
    let service = Service::start(
        &database.url_of(RECORDER_ROLE),
        &[("GEOIP_DATABASE", file.to_str().unwrap())],
    )
    .await;
    let error = service.running.await.unwrap().unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains("GEOIP_DATABASE") && error.contains("broken.mmdb"),
        "{error}"
    );
}

#[tokio::test]
async fn every_metric_is_there_from_the_start() {
    let database = fresh_database().await;
    let service = Service::start(&database.url_of(RECORDER_ROLE), &[]).await;
    service.becomes_ready().await;
    for outcome in Outcome::ALL {
        let series = format!(
            "email_tracker_recorder_facts_total{{outcome=\"{}\"}}",
            outcome.as_str()
        );
        assert_eq!(service.metric(&series).await.as_deref(), Some("0"), "{series}");
    }
    for (series, value) in [
        ("email_tracker_recorder_emails_total", "0"),
        ("email_tracker_recorder_verdicts_corrected_total", "0"),
        ("email_tracker_recorder_workers", "2"),
        ("email_tracker_recorder_workers_busy", "0"),
        ("email_tracker_recorder_batches_total{code=\"ok\"}", "0"),
    ] {
        assert_eq!(
            service.metric(&format!("{series} ")).await.as_deref(),
            Some(value),
            "{series}"
        );
    }
    eventually(
        "upkeep has made this month's and the next month's partitions",
        async || {
            let made = service
                .metric("email_tracker_recorder_partitions_made_total ")
                .await;
            (made.as_deref() == Some("2")).then_some(())
        },
    )
    .await;
    service.end().await;
}

/// A stop lets a batch under way be answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_answers_what_is_under_way() {
    let database = fresh_database().await;
    let service = Service::start(&database.url_of(RECORDER_ROLE), &[]).await;
    service.becomes_ready().await;
    assert_eq!(service.record(one("a")).await.unwrap(), [Recorded]);

    let mut admin = database.superuser().await;
    let lock = admin.transaction().await.unwrap();
    lock.execute("select from tracked_emails where email_id = 'a' for update", &[])
        .await
        .unwrap();
    let mut client = RecorderClient::new(service.channel.clone());
    let mut request = Request::new(v1::RecordRequest {
        facts: vec![v1::Fact::from(Fact::Hit(hit("a", now(), 2)))],
    });
    request
        .metadata_mut()
        .insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    let under_way = tokio::spawn(async move { client.record(request).await });
    let watcher = database.superuser().await;
    eventually("the batch waits for the email's row", async || {
        let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and application_name = 'recorder'";
        (watcher.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    service.stop.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await; // whichever comes first, the answer must come
    lock.rollback().await.unwrap();
    let outcomes = under_way.await.unwrap().unwrap().into_inner();
    assert_eq!(outcomes.outcomes().next(), Some(v1::Outcome::Recorded));
    service.running.await.unwrap().unwrap();
}

#[tokio::test]
async fn it_ends_although_its_database_does_not_answer() {
    let database = fresh_database().await;
    let proxy = FaultProxy::start(database.tcp_address()).await;
    let url = database.tcp_url_through(RECORDER_ROLE, proxy.address());
    let more = [("DATABASE_PASSWORD", "recorder"), ("SHUTDOWN_GRACE_SECONDS", "1")];
    let service = Service::start(&url, &more).await;
    service.becomes_ready().await;
    proxy.stall(Direction::ToClient);
    let mut client = RecorderClient::new(service.channel.clone());
    let fact = v1::Fact::from(Fact::Hit(hit("never answered", now(), 1)));
    let mut request = Request::new(v1::RecordRequest { facts: vec![fact] });
    let authorization = format!("Bearer {TOKEN}").parse().unwrap();
    request.metadata_mut().insert("authorization", authorization);
    let unanswered = tokio::spawn(async move { client.record(request).await });
    let superuser = database.superuser().await;
    eventually("the recorder waits for its database", async || {
        let statement = "select 1 from pg_stat_activity
                         where datname = $1 and usename = $2 and state = 'idle in transaction'";
        let sessions = superuser
            .query(statement, &[&database.name(), &RECORDER_ROLE])
            .await;
        (!sessions.unwrap().is_empty()).then_some(())
    })
    .await;
    service.stop.cancel();
    service.running.await.unwrap().expect("a clean end");
    unanswered.abort();
}
