//! Times through a real server.
#![allow(clippy::expect_used, clippy::panic, reason = "test helpers")]

mod common;

use std::net::IpAddr;

use common::{connect, migrated};
use database::Timestamptz;
use tracking::Timestamp;

const fn at(millis: i64) -> Timestamptz {
    Timestamptz(Timestamp::from_millis(millis))
}

#[tokio::test]
async fn times_go_in_and_come_out_to_the_millisecond() {
    let database = migrated().await;
    let client = connect(&database.url()).await;
    for millis in [
        0,
        -1,
        1_710_000_000_007,
        946_684_799_999,
        946_684_800_000,
        -62_000_000_000_001,
        Timestamp::MAX_IN_ID.as_millis(),
    ] {
        let row = client
            .query_one(
                "select $1::timestamptz, (extract(epoch from $1::timestamptz) * 1000)::bigint",
                &[&at(millis)],
            )
            .await
            .unwrap_or_else(|error| panic!("{millis}: {error:?}"));
        assert_eq!(row.get::<_, Timestamptz>(0), at(millis));
        assert_eq!(row.get::<_, i64>(1), millis, "what the server understood");
    }
}

#[tokio::test]
async fn the_server_reads_our_text_as_the_same_time() {
    let database = migrated().await;
    let client = connect(&database.url()).await;
    for millis in [0, -1, 1_710_000_000_007, 253_400_000_000_000] {
        let text = Timestamp::from_millis(millis).to_string();
        let row = client
            .query_one("select ($1::text)::timestamptz", &[&text])
            .await
            .expect("a time");
        assert_eq!(row.get::<_, Timestamptz>(0), at(millis), "{text}");
    }
}

#[tokio::test]
async fn arrays_and_nulls_are_parameters_too() {
    let database = migrated().await;
    let client = connect(&database.url()).await;
    let times = vec![Some(at(1)), None, Some(at(-1))];
    let row = client
        .query_one("select $1::timestamptz[]", &[&times])
        .await
        .expect("an array");
    assert_eq!(row.get::<_, Vec<Option<Timestamptz>>>(0), times);
    let addresses: Vec<Option<IpAddr>> = ["192.0.2.1", "2001:db8::1"]
        .map(|address| address.parse().ok())
        .to_vec();
    let row = client
        .query_one("select $1::inet[], host(($1::inet[])[2])", &[&addresses])
        .await
        .expect("inet");
    assert_eq!(row.get::<_, Vec<Option<IpAddr>>>(0), addresses);
    assert_eq!(row.get::<_, String>(1), "2001:db8::1");
}

#[tokio::test]
async fn finer_times_are_cut_and_impossible_ones_are_errors() {
    let database = migrated().await;
    let client = connect(&database.url()).await;
    for (text, millis) in [
        ("1970-01-01 00:00:00.0019Z", 1),
        ("1969-12-31 23:59:59.9999Z", -1),
    ] {
        let row = client
            .query_one(&format!("select '{text}'::timestamptz"), &[])
            .await
            .expect("a time");
        assert_eq!(row.get::<_, Timestamptz>(0), at(millis), "{text}");
    }
    for text in ["infinity", "-infinity"] {
        let row = client
            .query_one(&format!("select '{text}'::timestamptz"), &[])
            .await
            .expect("a time");
        assert!(row.try_get::<_, Timestamptz>(0).is_err(), "{text}");
    }
    for millis in [i64::MAX, i64::MIN, i64::MIN / 1_000] {
        assert!(
            client
                .query_one("select $1::timestamptz", &[&at(millis)])
                .await
                .is_err(),
            "{millis}"
        );
    }
}
