//! From the spool to the recorder: a real gRPC server of the interface that answers as each test has scripted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says by that what it needs"
)]

mod support;

use std::{sync::Arc, time::Duration};

use pixel::{
    Delivered,
    deliver::{drain, resend},
};
use recorder_api::{Outcome, v1};
use support::{
    forgetful::ForgetfulDisk,
    peer::{Answer, Away, Peer},
    pixel::{NO_RECORDER, Pixel, get, left_in, path_of, start, start_on},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracking::Fact;

fn outcome(of: Outcome) -> i32 {
    v1::Outcome::from(of).into()
}

async fn hit(pixel: &Pixel, email_ids: impl IntoIterator<Item = &str>) {
    for email_id in email_ids {
        get(pixel.public, &path_of(email_id)).await.assert_gif(email_id);
    }
}

fn email_ids(facts: &[Fact]) -> Vec<&str> {
    facts.iter().map(Fact::email_id).collect()
}

/// Waits until the pixel's metric is this.
async fn wait_for(pixel: &Pixel, series: &str, value: usize) {
    let mut now = pixel.metric(series).await;
    for _ in 0..3_000 {
        if now == value {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        now = pixel.metric(series).await;
    }
    panic!("{series} is {now}, not {value}");
}

const UNSENT: &str = "email_tracker_pixel_spool_records";

fn forwarded(of: &str) -> String {
    format!("email_tracker_pixel_forward_facts_total{{outcome=\"{of}\"}}")
}

/// Leaves facts of these emails in a spool.
async fn fill(folder: &TempDir, email_ids: &[&str]) {
    let pixel = start(folder.path(), &[NO_RECORDER]).await;
    hit(&pixel, email_ids.iter().copied()).await;
    pixel.stop().await.unwrap();
}

fn set_aside_in(folder: &TempDir) -> Vec<(String, String)> {
    let files = Arc::new(pixel::spool::files::DiskFiles);
    let reader = pixel::spool::Folder::open(folder.path(), files)
        .unwrap()
        .into_reader();
    let mut found = Vec::new();
    reader
        .for_each_set_aside(|kept| {
            let fact: Fact = v1::Fact::from_bytes(&kept.fact).unwrap().try_into().unwrap();
            found.push((fact.email_id().to_owned(), kept.reason));
        })
        .unwrap();
    found
}

#[tokio::test]
async fn facts_reach_the_recorder_with_the_token_and_leave_the_spool() {
    let peer = Peer::new();
    let recorder = peer.listen().await;
    let folder = TempDir::new().unwrap();
    let url = recorder.url().to_string();
    let pixel = start(
        folder.path(),
        &[("RECORDER_URL", &url), ("RECORDER_TOKEN", "geheim")],
    )
    .await;
    hit(&pixel, ["a", "b"]).await;
    assert_eq!(email_ids(&peer.wait_for_facts(2).await), ["a", "b"]);
    assert!(
        peer.seen()
            .iter()
            .all(|seen| seen.authorization.as_deref() == Some("Bearer geheim"))
    );
    wait_for(&pixel, UNSENT, 0).await;
    assert_eq!(pixel.metric(&forwarded("recorded")).await, 2);
    pixel.stop().await.unwrap();
    assert_eq!(left_in(folder.path()), []);
}

#[tokio::test]
async fn a_recorder_that_comes_back_gets_all_that_waited_once() {
    let peer = Peer::new();
    let recorder = peer.listen().await;
    let (address, url) = (recorder.address, recorder.url().to_string());
    let folder = TempDir::new().unwrap();
    let pixel = start(folder.path(), &[("RECORDER_URL", &url)]).await;
    hit(&pixel, ["a"]).await;
    peer.wait_for_facts(1).await;
    recorder.stop().await;
    let away = Away::at(address);
    hit(&pixel, ["b", "c"]).await;
    wait_for(&pixel, UNSENT, 2).await;
    let _recorder = peer.listen_at(away).await;
    hit(&pixel, ["d"]).await;
    assert_eq!(email_ids(&peer.wait_for_facts(4).await), ["a", "b", "c", "d"]);
    wait_for(&pixel, UNSENT, 0).await;
    assert!(
        pixel
            .metric("email_tracker_pixel_forward_errors_total{code=\"unavailable\"}")
            .await
            >= 1
    );
    pixel.stop().await.unwrap();
}

#[tokio::test]
async fn what_a_stopped_pixel_left_is_sent_by_the_next() {
    let folder = TempDir::new().unwrap();
    fill(&folder, &["a", "b", "c"]).await;
    let peer = Peer::new();
    let recorder = peer.listen().await;
    let url = recorder.url().to_string();
    let pixel = start(folder.path(), &[("RECORDER_URL", &url)]).await;
    assert_eq!(email_ids(&peer.wait_for_facts(3).await), ["a", "b", "c"]);
    pixel.stop().await.unwrap();
    assert_eq!(left_in(folder.path()), []);
}

#[tokio::test]
async fn at_the_end_what_is_there_is_still_sent() {
    let peer = Peer::new();
    let recorder = peer.listen().await;
    let url = recorder.url().to_string();
    let folder = TempDir::new().unwrap();
    let pixel = start(folder.path(), &[("RECORDER_URL", &url)]).await;
    for number in 0..50 {
        hit(&pixel, [number.to_string().as_str()]).await;
    }
    pixel.stop().await.unwrap();
    assert_eq!((peer.facts().len(), left_in(folder.path()).len()), (50, 0));
}

#[tokio::test]
async fn refused_facts_are_set_aside_unless_erased_and_the_others_go_on() {
    let folder = TempDir::new().unwrap();
    fill(&folder, &["good", "bad", "old", "gone", "known", "new", "last"]).await;
    let peer = Peer::new();
    peer.then(Answer::Each(Arc::new(|fact| match fact.email_id() {
        "bad" => outcome(Outcome::Invalid),
        "old" => outcome(Outcome::Expired),
        "gone" => outcome(Outcome::Erased),
        "known" => outcome(Outcome::AlreadyKnown),
        "new" => 99, // Of a recorder that knows more than this pixel.
        _ => outcome(Outcome::Recorded),
    })));
    let recorder = peer.listen().await;
    let url = recorder.url().to_string();
    let pixel = start(folder.path(), &[("RECORDER_URL", &url)]).await;
    peer.wait_for_facts(7).await;
    wait_for(&pixel, UNSENT, 0).await;
    for (of, count) in [
        ("recorded", 2),
        ("already_known", 1),
        ("invalid", 1),
        ("expired", 1),
        ("erased", 1),
        ("unknown", 1),
    ] {
        assert_eq!(pixel.metric(&forwarded(of)).await, count, "{of}");
    }
    assert_eq!(pixel.metric("email_tracker_pixel_spool_set_aside").await, 3);
    pixel.stop().await.unwrap();
    let expected = [("bad", "invalid"), ("old", "expired"), ("new", "unknown: 99")];
    assert_eq!(
        set_aside_in(&folder),
        expected.map(|(email_id, reason)| (email_id.to_owned(), reason.to_owned()))
    );
}

#[tokio::test]
async fn a_refused_fact_that_cannot_be_set_aside_is_counted_and_holds_up_nothing() {
    let disk = ForgetfulDisk::default();
    let peer = Peer::new();
    let away = Away::new();
    let url = away.url();
    let (files, clock) = (Arc::new(disk.clone()), Arc::new(service_kit::SystemClock));
    let folder = std::path::Path::new("/spool");
    let pixel = start_on(files, clock, folder, &[("RECORDER_URL", &url)]).await;
    hit(&pixel, ["a", "bad", "b"]).await;
    disk.set_faults(|faults| faults.full = true);
    peer.always(Answer::Each(Arc::new(|fact| match fact.email_id() {
        "bad" => outcome(Outcome::Invalid),
        _ => outcome(Outcome::Recorded),
    })));
    let _recorder = peer.listen_at(away).await;
    wait_for(&pixel, UNSENT, 0).await;
    let lost = "email_tracker_pixel_facts_lost_total{reason=\"not_set_aside\"}";
    assert_eq!(pixel.metric(lost).await, 1);
    assert_eq!(pixel.metric(&forwarded("recorded")).await, 2);
    assert_eq!(pixel.metric("email_tracker_pixel_spool_set_aside").await, 0);
    pixel.stop().await.unwrap();
}

#[tokio::test]
async fn a_fact_that_spoils_its_batch_is_found_by_halves() {
    for code in [Code::InvalidArgument, Code::OutOfRange] {
        let folder = TempDir::new().unwrap();
        let mut all: Vec<String> = (0..37).map(|number| format!("good {number}")).collect();
        all.insert(20, "poison".into());
        all.insert(3, "poison".into());
        let names: Vec<&str> = all.iter().map(String::as_str).collect();
        fill(&folder, &names).await;
        let peer = Peer::new();
        let spoilt = |facts: &[Fact]| facts.iter().any(|fact| fact.email_id() == "poison");
        peer.always(Answer::FailIf(code, Arc::new(spoilt)));
        let recorder = peer.listen().await;
        let url = recorder.url().to_string();
        let pixel = start(folder.path(), &[("RECORDER_URL", &url)]).await;
        let facts = peer.wait_for_facts(37).await;
        let good: Vec<&str> = names.iter().copied().filter(|name| *name != "poison").collect();
        assert_eq!(email_ids(&facts), good);
        wait_for(&pixel, UNSENT, 0).await;
        pixel.stop().await.unwrap();
        let poison = ("poison".to_owned(), "invalid".to_owned());
        assert_eq!(set_aside_in(&folder), [poison.clone(), poison]);
    }
}

#[tokio::test]
async fn every_other_failure_is_retried_and_nothing_is_dropped() {
    let codes = [
        Code::Unavailable,
        Code::ResourceExhausted,
        Code::Aborted,
        Code::Internal,
        Code::Unknown,
        Code::FailedPrecondition,
        Code::DataLoss,
    ];
    let failures = codes.map(|code| Answer::FailIf(code, Arc::new(|_| true)));
    for failure in failures.into_iter().chain([Answer::OneShort]) {
        let folder = TempDir::new().unwrap();
        fill(&folder, &["a", "b"]).await;
        let peer = Peer::new();
        peer.then(failure.clone());
        peer.then(failure);
        let recorder = peer.listen().await;
        let url = recorder.url().to_string();
        let pixel = start(folder.path(), &[("RECORDER_URL", &url)]).await;
        assert_eq!(email_ids(&peer.wait_for_facts(2).await), ["a", "b"]);
        assert_eq!(peer.seen().len(), 3);
        wait_for(&pixel, UNSENT, 0).await;
        assert_eq!(pixel.metric("email_tracker_pixel_spool_set_aside").await, 0);
        pixel.stop().await.unwrap();
    }
}

/// A recorder that is too slow for a large batch would never answer for it, however often it is sent.
#[tokio::test]
async fn what_took_too_long_is_sent_in_smaller_batches_until_it_goes_well() {
    for code in [Code::Cancelled, Code::DeadlineExceeded] {
        let folder = TempDir::new().unwrap();
        let names: Vec<String> = (0..64).map(|number| number.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        fill(&folder, &names).await;
        let peer = Peer::new();
        for _ in 0..3 {
            peer.then(Answer::FailIf(code, Arc::new(|_| true)));
        }
        let recorder = peer.listen().await;
        let url = recorder.url().to_string();
        let pixel = start(folder.path(), &[("RECORDER_URL", &url)]).await;
        assert_eq!(email_ids(&peer.wait_for_facts(64).await), names);
        let sizes: Vec<usize> = peer.seen().iter().map(|seen| seen.facts.len()).collect();
        assert_eq!(sizes, [64, 32, 16, 8, 8, 16, 32], "{code:?}");
        wait_for(&pixel, UNSENT, 0).await;
        pixel.stop().await.unwrap();
    }
}

/// After an outage every pixel has a backlog, and there is one recorder, which has no room for all of them at once.
#[tokio::test]
async fn many_pixels_come_back_to_one_recorder_one_batch_each_at_a_time() {
    const PIXELS: usize = 24;
    let peer = Peer::with_room_for(3);
    let away = Away::new();
    let url = away.url();
    let mut pixels = Vec::new();
    for number in 0..PIXELS {
        let folder = TempDir::new().unwrap();
        let token = format!("pixel {number}");
        let variables = [("RECORDER_URL", url.as_str()), ("RECORDER_TOKEN", &token)];
        let pixel = start(folder.path(), &variables).await;
        hit(&pixel, ["a", "b"]).await;
        pixels.push((pixel, folder));
    }
    for (pixel, _) in &pixels {
        wait_for(pixel, UNSENT, 2).await;
    }
    let _recorder = peer.listen_at(away).await;
    peer.wait_for_facts(2 * PIXELS).await;
    for (pixel, _) in pixels {
        wait_for(&pixel, UNSENT, 0).await;
        pixel.stop().await.unwrap();
    }
    assert_eq!(peer.facts().len(), 2 * PIXELS, "each once");
    let most = peer.most_under_way();
    assert_eq!(most.len(), PIXELS);
    assert!(most.values().all(|most| *most == 1), "{most:?}");
}

#[tokio::test]
async fn a_spool_that_an_outage_has_filled_recovers_with_the_recorder() {
    let peer = Peer::new();
    let away = Away::new();
    let url = away.url();
    let folder = TempDir::new().unwrap();
    let variables = [("RECORDER_URL", url.as_str()), ("SPOOL_MAX_BYTES", "64KiB")];
    let pixel = start(folder.path(), &variables).await;
    let lost = "email_tracker_pixel_facts_lost_total{reason=\"spool_full\"}";
    let mut sent = 0;
    while pixel.metric(lost).await < 10 {
        hit(&pixel, [format!("{sent:0>900}").as_str()]).await;
        sent += 1;
        assert!(sent < 500);
    }
    let (status, ready) = pixel.ready().await;
    assert!(
        status == 200 && ready.contains("degraded") && ready.contains("the spool is full"),
        "{ready}"
    );

    let _recorder = peer.listen_at(away).await;
    wait_for(&pixel, UNSENT, 0).await;
    support::eventually_async("it is ready again", async || {
        pixel.ready().await.1.contains(r#""status":"ready""#)
    })
    .await;
    for _ in 0..20 {
        hit(&pixel, [format!("{sent:0>900}").as_str()]).await;
        sent += 1;
    }
    wait_for(&pixel, UNSENT, 0).await;
    let lost = pixel.metric(lost).await;
    assert_eq!(peer.facts().len(), sent - lost);
    pixel.stop().await.unwrap();
}

#[tokio::test]
async fn a_wrong_token_keeps_everything_in_the_spool() {
    for code in [Code::Unauthenticated, Code::PermissionDenied, Code::Unimplemented] {
        let folder = TempDir::new().unwrap();
        let peer = Peer::new();
        peer.always(Answer::FailIf(code, Arc::new(|_| true)));
        let recorder = peer.listen().await;
        let url = recorder.url().to_string();
        let pixel = start(folder.path(), &[("RECORDER_URL", &url)]).await;
        hit(&pixel, ["a"]).await;
        peer.wait_until(|seen| !seen.is_empty()).await;
        hit(&pixel, ["b"]).await;
        assert_eq!(peer.seen().len(), 1, "{code:?} is not hammered at");
        pixel.stop().await.unwrap();
        assert_eq!(email_ids(&left_in(folder.path())), ["a", "b"]);
    }
}

#[tokio::test]
async fn several_recorders_are_used_and_one_that_is_dead_holds_up_nothing() {
    let (one, two) = (Peer::new(), Peer::new());
    let (first, second) = (one.listen().await, two.listen().await);
    let urls = format!("{},{},http://127.0.0.1:1", first.url(), second.url());
    let folder = TempDir::new().unwrap();
    let pixel = start(folder.path(), &[("RECORDER_URL", &urls)]).await;
    let mut sent = 0;
    while one.facts().is_empty() || two.facts().is_empty() {
        hit(&pixel, [sent.to_string().as_str()]).await;
        sent += 1;
        assert!(sent < 10_000, "{} and {}", one.facts().len(), two.facts().len());
    }
    first.stop().await;
    for number in 0..20 {
        hit(&pixel, [number.to_string().as_str()]).await;
    }
    wait_for(&pixel, UNSENT, 0).await;
    assert_eq!(one.facts().len() + two.facts().len(), sent + 20);
    pixel.stop().await.unwrap();
}

#[tokio::test]
async fn a_name_that_cannot_be_looked_up_keeps_everything_in_the_spool() {
    let folder = TempDir::new().unwrap();
    let pixel = start(
        folder.path(),
        &[
            ("RECORDER_URL", "http://recorder.invalid:50051"),
            ("SHUTDOWN_GRACE_SECONDS", "1"),
        ],
    )
    .await;
    hit(&pixel, ["a"]).await;
    pixel.stop().await.unwrap();
    assert_eq!(email_ids(&left_in(folder.path())), ["a"]);
}

#[tokio::test]
async fn batches_keep_to_the_bounds_of_the_interface() {
    let folder = TempDir::new().unwrap();
    let spool = support::open(folder.path());
    let mut appends = Vec::new();
    for number in 0..5_000_u32 {
        let large = number % 50 == 0;
        let token = tracking::Token {
            recipient: "r".repeat(if large { 10_000 } else { 10 }),
            ..support::pixel::token(&number.to_string())
        };
        let opened_at = tracking::Timestamp::from_millis(1_710_000_000_000 + i64::from(number));
        let fact = Fact::Hit(tracking::Hit {
            event_id: tracking::facts::new_id(opened_at, [1; 10]).unwrap(),
            opened_at,
            token,
            client_address: [198, 51, 100, 7].into(),
            user_agent: None,
            referer_host: None,
        });
        let bytes = prost::Message::encode_to_vec(&v1::Fact::from(fact));
        let spool = spool.spool.clone();
        appends.push(tokio::spawn(async move { spool.append(bytes).await }));
    }
    for append in appends {
        append.await.unwrap().unwrap();
    }
    spool.close().await;
    let peer = Peer::new();
    let recorder = peer.listen().await;
    let url = recorder.url().to_string();
    let pixel = start(folder.path(), &[("RECORDER_URL", &url)]).await;
    peer.wait_for_facts(5_000).await;
    pixel.stop().await.unwrap();
    let seen = peer.seen();
    assert!(seen.len() < 10, "{} batches", seen.len());
    for batch in seen {
        let facts = batch.facts.iter().cloned().map(v1::Fact::from).collect();
        let bytes = prost::Message::encoded_len(&v1::RecordRequest { facts });
        assert!(
            batch.facts.len() <= recorder_api::MAX_BATCH_FACTS && bytes <= recorder_api::MAX_BATCH_BYTES,
            "{bytes}"
        );
    }
}

fn settings(url: &str) -> pixel::RecorderSettings {
    let mut reader = service_kit::Reader::from_variables([("RECORDER_URL", url)]);
    pixel::RecorderSettings::read(&mut reader)
}

fn folder_at(path: &std::path::Path) -> pixel::spool::Folder {
    pixel::spool::Folder::open(path, Arc::new(pixel::spool::files::DiskFiles)).unwrap()
}

#[tokio::test]
async fn an_orphaned_folder_is_drained_and_what_was_set_aside_is_sent_again() {
    let folder = TempDir::new().unwrap();
    fill(&folder, &["a", "old", "b", "bad"]).await;
    let peer = Peer::new();
    peer.then(Answer::Each(Arc::new(|fact| match fact.email_id() {
        "old" => outcome(Outcome::Expired),
        "bad" => outcome(Outcome::Invalid),
        _ => outcome(Outcome::Recorded),
    })));
    let recorder = peer.listen().await;
    let settings = settings(&recorder.url().to_string());
    let (clock, meter) = (
        Arc::new(service_kit::SystemClock),
        service_kit::Metrics::new("test").unwrap(),
    );
    let give_up = CancellationToken::new();

    let drained = drain(
        folder_at(folder.path()),
        &settings,
        clock.clone(),
        meter.meter(),
        give_up.clone(),
    )
    .await;
    let expected = Delivered {
        recorded: 2,
        set_aside: 2,
        ..Delivered::default()
    };
    assert_eq!(drained, expected);
    assert_eq!(
        (left_in(folder.path()), set_aside_in(&folder).len()),
        (Vec::new(), 2)
    );

    // Meanwhile more is retained, but what is invalid stays so.
    peer.then(Answer::Each(Arc::new(|fact| match fact.email_id() {
        "bad" => outcome(Outcome::Invalid),
        _ => outcome(Outcome::Recorded),
    })));
    let resent = resend(
        folder_at(folder.path()),
        &settings,
        clock.clone(),
        meter.meter(),
        give_up.clone(),
    )
    .await
    .unwrap();
    let expected = Delivered {
        recorded: 1,
        set_aside: 1,
        left: 1,
        ..Delivered::default()
    };
    assert_eq!(resent, expected);
    assert_eq!(set_aside_in(&folder), [("bad".to_owned(), "invalid".to_owned())]);

    // Without a recorder both give up when told to, and lose nothing.
    recorder.stop().await;
    fill(&folder, &["c"]).await;
    give_up.cancel();
    let left = drain(
        folder_at(folder.path()),
        &settings,
        clock.clone(),
        meter.meter(),
        give_up.clone(),
    )
    .await;
    assert_eq!((left.left, left.recorded), (1, 0));
    let left = resend(folder_at(folder.path()), &settings, clock, meter.meter(), give_up)
        .await
        .unwrap();
    assert_eq!((left.left, set_aside_in(&folder).len()), (1, 1));
}

/// The reasons of all that is set aside, without their details.
fn reasons_in(folder: &TempDir) -> Vec<String> {
    let mut reasons = Vec::new();
    folder_at(folder.path())
        .into_reader()
        .for_each_set_aside(|kept| {
            let reason = kept.reason.split(':').next().unwrap_or_default();
            reasons.push(reason.to_owned());
        })
        .unwrap();
    reasons
}

/// Somebody presses Ctrl-C while the recorder has a batch and does not answer: neither command waits for the call's
/// deadline, which would count as a failure, and neither sets anything aside a second time.
#[tokio::test]
async fn giving_up_leaves_everything_as_it_was() {
    let folder = TempDir::new().unwrap();
    fill(&folder, &["a", "bad"]).await;
    let spool = support::open(folder.path());
    spool.spool.append(vec![0xff]).await.unwrap();
    spool.close().await;
    let peer = Peer::new();
    peer.always(Answer::Each(Arc::new(|fact| match fact.email_id() {
        "bad" => outcome(Outcome::Invalid),
        _ => outcome(Outcome::Recorded),
    })));
    let recorder = peer.listen().await;
    let settings = settings(&recorder.url().to_string());
    let clock = Arc::new(service_kit::SystemClock);
    let metrics = service_kit::Metrics::new("test").unwrap();
    let deliver = async |command: &str, give_up: CancellationToken| {
        let from = folder_at(folder.path());
        match command {
            "drain" => drain(from, &settings, clock.clone(), metrics.meter(), give_up).await,
            _ => resend(from, &settings, clock.clone(), metrics.meter(), give_up)
                .await
                .unwrap(),
        }
    };
    let interrupted = async |command: &str| {
        let give_up = CancellationToken::new();
        let seen = peer.seen().len();
        peer.then(Answer::Never);
        let interrupt = async {
            peer.wait_until(|all| all.len() > seen).await;
            give_up.cancel();
        };
        tokio::join!(deliver(command, give_up.clone()), interrupt).0
    };
    let nothing_but = |left| Delivered {
        left,
        ..Delivered::default()
    };

    for _ in 0..2 {
        assert_eq!(interrupted("drain").await, nothing_but(3));
        assert_eq!(reasons_in(&folder), Vec::<String>::new());
    }
    let expected = Delivered {
        recorded: 1,
        set_aside: 2,
        ..Delivered::default()
    };
    assert_eq!(deliver("drain", CancellationToken::new()).await, expected);
    for _ in 0..2 {
        assert_eq!(interrupted("resend").await, nothing_but(2));
        assert_eq!(reasons_in(&folder), ["undecodable", "invalid"]);
    }
    let resent = deliver("resend", CancellationToken::new()).await;
    assert_eq!((resent.set_aside, resent.left), (2, 2));
    assert_eq!(reasons_in(&folder), ["undecodable", "invalid"]);

    let told = metrics.render().unwrap();
    let failures = told.lines().filter(|line| {
        line.starts_with("email_tracker_pixel_forward_errors_total{") && !line.ends_with(" 0")
    });
    assert_eq!(failures.collect::<Vec<_>>(), Vec::<&str>::new());
}
