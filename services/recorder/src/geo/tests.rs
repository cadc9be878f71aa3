//! Places from the shipped database, and from small ones made here, in both layouts.

use std::{fs, os::unix::fs::symlink, path::Path};

use super::*;

/// A value of the MaxMind DB format, as far as the tests need it.
enum Value {
    Text(&'static str),
    Double(f64),
    Single(f32),
    Short(u16),
    Number(u32),
    Long(u64),
    Map(Vec<(&'static str, Value)>),
    List(Vec<Value>),
}
use Value::{Double, List, Long, Map, Number, Short, Single, Text};

/// Appends `value` as the format's specification lays it out.
fn write(value: &Value, to: &mut Vec<u8>) {
    let head = |kind: u8, length: usize, to: &mut Vec<u8>| {
        assert!(length < 285, "the tests write nothing longer");
        let (short, extra) = if length < 29 {
            (length, None)
        } else {
            (29, Some(length - 29))
        };
        let (first, extended) = if kind > 7 {
            (0, Some(kind - 7))
        } else {
            (kind, None)
        };
        to.push((first << 5) | u8::try_from(short).unwrap());
        to.extend(extended);
        to.extend(extra.map(|extra| u8::try_from(extra).unwrap()));
    };
    match value {
        Text(text) => {
            head(2, text.len(), to);
            to.extend(text.as_bytes());
        }
        Double(number) => {
            head(3, 8, to);
            to.extend(number.to_be_bytes());
        }
        Single(number) => {
            head(15, 4, to);
            to.extend(number.to_be_bytes());
        }
        Short(number) => {
            head(5, 2, to);
            to.extend(number.to_be_bytes());
        }
        Long(number) => {
            head(9, 8, to);
            to.extend(number.to_be_bytes());
        }
        Number(number) => {
            head(6, 4, to);
            to.extend(number.to_be_bytes());
        }
        Map(entries) => {
            head(7, entries.len(), to);
            for (key, value) in entries {
                write(&Text(key), to);
                write(value, to);
            }
        }
        List(values) => {
            head(11, values.len(), to);
            for value in values {
                write(value, to);
            }
        }
    }
}

/// A database in which all IPv4 addresses of the lower half (0.0.0.0/1) have `record`, and no other has any.
fn database(record: &Value) -> Vec<u8> {
    const NODES: u32 = 1;
    const NOTHING: u32 = NODES;
    const FIRST_RECORD: u32 = NODES + 16; // the tree is followed by 16 zero bytes, then the records
    let mut file = Vec::new();
    for branch in [FIRST_RECORD, NOTHING] {
        file.extend(branch.to_be_bytes());
    }
    file.extend([0; 16]);
    write(record, &mut file);
    file.extend(b"\xab\xcd\xefMaxMind.com");
    let metadata = [
        ("binary_format_major_version", Short(2)),
        ("binary_format_minor_version", Short(0)),
        ("build_epoch", Long(1_700_000_000)),
        ("database_type", Text("Test")),
        ("description", Map(vec![("en", Text("for tests"))])),
        ("ip_version", Short(4)),
        ("languages", List(vec![Text("en")])),
        ("node_count", Number(NODES)),
        ("record_size", Short(32)),
    ];
    write(&Map(metadata.into()), &mut file);
    file
}

fn open(bytes: &[u8]) -> anyhow::Result<Places<Vec<u8>>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("places.mmdb");
    fs::write(&path, bytes).unwrap();
    Places::open(&path).map(|(places, _)| places)
}

const KNOWN: &str = "81.2.69.142";

fn place_of(record: &Value) -> Place {
    let places = open(&database(record)).unwrap();
    places.of(KNOWN.parse().unwrap()).unwrap_or_default()
}

fn full() -> Place {
    Place {
        country: Some("GB".into()),
        region: Some("England".into()),
        city: Some("London".into()),
        coordinates: Some((51.5142, -0.0931)),
    }
}

fn named(name: &'static str, iso_code: &'static str) -> Value {
    let names = Map(vec![("de", Text("anders")), ("en", Text(name))]);
    Map(vec![
        ("geoname_id", Number(7)),
        ("iso_code", Text(iso_code)),
        ("names", names),
    ])
}

#[test]
fn a_nested_record_is_read() {
    let location = Map(vec![
        ("accuracy_radius", Number(10)),
        ("latitude", Double(51.5142)),
        ("longitude", Double(-0.0931)),
        ("time_zone", Text("Europe/London")),
    ]);
    let record = Map(vec![
        ("city", named("London", "")),
        ("continent", named("Europe", "EU")),
        ("country", named("United Kingdom", "GB")),
        ("location", location),
        (
            "subdivisions",
            List(vec![named("England", "ENG"), named("Greater London", "X")]),
        ),
    ]);
    assert_eq!(place_of(&record), full());
}

#[test]
fn a_flat_record_is_read() {
    let record = Map(vec![
        ("city", Text("London")),
        ("country_code", Text("GB")),
        ("latitude", Double(51.5142)),
        ("longitude", Double(-0.0931)),
        ("postcode", Text("")),
        ("state1", Text("England")),
        ("state2", Text("")),
        ("timezone", Text("Europe/London")),
    ]);
    assert_eq!(place_of(&record), full());
}

#[test]
fn coordinates_may_be_single_precision_or_text() {
    let record = |latitude, longitude| Map(vec![("latitude", latitude), ("longitude", longitude)]);
    let at = |latitude, longitude| place_of(&record(latitude, longitude)).coordinates;
    assert_eq!(at(Single(51.5), Single(-0.25)), Some((51.5, -0.25)));
    assert_eq!(at(Text("51.5"), Text("-0.25")), Some((51.5, -0.25)));
    assert_eq!(at(Text(""), Text("-0.25")), None);
}

#[test]
fn what_a_record_lacks_is_unknown() {
    let country = Place {
        country: Some("GB".into()),
        ..Place::default()
    };
    assert_eq!(
        place_of(&Map(vec![("country", named("United Kingdom", "GB"))])),
        country
    );
    assert_eq!(
        place_of(&Map(vec![("country_code", Text("GB")), ("city", Text(""))])),
        country
    );
    assert_eq!(place_of(&Map(vec![])), Place::default());
    let off_the_globe = Map(vec![("latitude", Double(91.0)), ("longitude", Double(0.0))]);
    assert_eq!(place_of(&off_the_globe), Place::default());
}

#[test]
fn addresses_without_a_record_are_nowhere() {
    let places = open(&database(&Map(vec![("country_code", Text("GB"))]))).unwrap();
    for address in ["203.0.113.7", "2001:db8::1"] {
        assert_eq!(places.of(address.parse().unwrap()), None, "{address}");
    }
}

/// A database of one country, big or small, as the file at `path`.
fn write_country(path: &Path, code: &'static str) {
    fs::write(path, database(&Map(vec![("country_code", Text(code))]))).unwrap();
}

#[test]
fn a_broken_file_is_refused_by_name() {
    let whole = database(&Map(vec![("country_code", Text("GB"))]));
    let half = whole.get(..whole.len() / 2).unwrap();
    let unreadable = database(&Map(vec![("country_code", Number(7))]));
    for broken in [&b""[..], b"not a database", half, &unreadable] {
        let error = format!("{:#}", open(broken).unwrap_err());
        assert!(
            error.contains("GEOIP_DATABASE") && error.contains("places.mmdb"),
            "{error}"
        );
    }
    for (path, why) in [("/nowhere/at.mmdb", "No such file"), ("/tmp", "it is no file")] {
        let error = format!("{:#}", Places::open(Path::new(path)).unwrap_err());
        assert!(error.contains(path) && error.contains(why), "{error}");
    }
}

#[test]
fn a_file_beyond_all_measure_is_refused_unread() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(1 << 40).unwrap(); // it has a hole, and no bytes on the disk
    let error = format!("{:#}", Places::open(file.path()).unwrap_err());
    assert!(
        error.contains("more than the 536870912 that are taken"),
        "{error}"
    );
}

fn country(geo: &Geo, address: &str) -> Option<String> {
    geo.of(address.parse().unwrap()).country
}

#[test]
fn the_shipped_countries_are_known() {
    let geo = Geo::open(GeoDatabase::Shipped).unwrap();
    for (address, expected) in [
        ("193.0.6.139", "NL"),        // RIPE NCC
        ("81.2.69.142", "GB"),        // a provider in London
        ("::ffff:81.2.69.142", "GB"), // the same, as a socket of both kinds says it
        ("77.75.77.1", "CZ"),         // a provider in Prague
        ("200.160.2.3", "BR"),        // the registry of .br
        ("202.12.29.1", "AU"),        // APNIC
        ("41.231.21.1", "TN"),        // a provider in Tunis
        ("2001:67c:2e8::1", "NL"),    // RIPE NCC
        ("2001:12ff::1", "BR"),       // the registry of .br
    ] {
        assert_eq!(country(&geo, address).as_deref(), Some(expected), "{address}");
    }
    for address in [
        "10.0.0.1",
        "127.0.0.1",
        "203.0.113.7",
        "::1",
        "fe80::1",
        "2001:db8::1",
    ] {
        assert_eq!(country(&geo, address), None, "{address} is nobody's");
    }
    let place = geo.of("193.0.6.139".parse().unwrap());
    assert_eq!((place.region, place.city, place.coordinates), (None, None, None));
}

#[test]
fn every_record_of_the_shipped_database_can_be_read() {
    Places::shipped().unwrap().check().unwrap();
}

/// What the page beside it says of its state; `UPDATE=1` writes it anew.
#[test]
fn the_shipped_database_is_the_one_described() {
    let built = i64::try_from(Places::shipped().unwrap().built_at()).unwrap();
    let day = jiff::Timestamp::from_second(built).unwrap().strftime("%Y-%m-%d");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/geo");
    let size = fs::metadata(folder.join("countries.mmdb")).unwrap().len();
    let state = format!("| state | {size} bytes, built on {day} |");
    let page = fs::read_to_string(folder.join("README.md")).unwrap();
    let described = page.lines().find(|line| line.starts_with("| state |")).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(folder.join("README.md"), page.replace(described, &state)).unwrap();
    } else {
        assert_eq!(described, state);
    }
}

#[test]
fn the_shipped_countries_fill_what_the_own_database_lacks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.mmdb");
    write_country(&path, "ZZ"); // IPv4 alone, and its lower half
    let geo = Geo::open(GeoDatabase::File(path)).unwrap();
    assert_eq!(country(&geo, KNOWN).as_deref(), Some("ZZ"));
    assert_eq!(country(&geo, "193.0.6.139").as_deref(), Some("NL"));
    assert_eq!(country(&geo, "2001:67c:2e8::1").as_deref(), Some("NL"));
}

#[test]
fn places_can_be_turned_off() {
    let geo = Geo::open(GeoDatabase::Off).unwrap();
    assert_eq!(country(&geo, "193.0.6.139"), None);
    assert_eq!(geo.built_at(), 0);
}

/// A follower of the file at `path`, and what it changes.
fn followed(path: &Path) -> (Arc<Geo>, follow::Follower) {
    let geo = Arc::new(Geo::open(GeoDatabase::File(path.to_owned())).unwrap());
    let metrics = service_kit::Metrics::new("test").unwrap();
    let metrics = crate::metrics::Metrics::new(metrics.meter());
    let follower = follow::Follower::new(Arc::clone(&geo), metrics).unwrap();
    (geo, follower)
}

#[tokio::test]
async fn a_replaced_file_is_taken_over_however_it_was_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    // As Kubernetes mounts: the file is behind a link to a folder that is swapped.
    for (name, code) in [("one", "AA"), ("two", "BB")] {
        fs::create_dir(at(name)).unwrap();
        write_country(&at(name).join("own.mmdb"), code);
    }
    symlink("one", at("..data")).unwrap();
    symlink("..data/own.mmdb", at("own.mmdb")).unwrap();
    let (geo, mut follower) = followed(&at("own.mmdb"));
    assert_eq!(country(&geo, KNOWN).as_deref(), Some("AA"));

    symlink("two", at("new")).unwrap();
    fs::rename(at("new"), at("..data")).unwrap();
    follower.look().await;
    assert_eq!(
        country(&geo, KNOWN).as_deref(),
        Some("AA"),
        "it may still be written"
    );
    follower.look().await;
    assert_eq!(country(&geo, KNOWN).as_deref(), Some("BB"), "by the folder");

    write_country(&at("new.mmdb"), "CC");
    fs::rename(at("new.mmdb"), at("two").join("own.mmdb")).unwrap();
    follower.look().await;
    follower.look().await;
    assert_eq!(country(&geo, KNOWN).as_deref(), Some("CC"), "by its name");

    write_country(&at("two").join("own.mmdb"), "DD");
    follower.look().await;
    follower.look().await;
    assert_eq!(country(&geo, KNOWN).as_deref(), Some("DD"), "where it is");
}

#[tokio::test]
async fn a_broken_or_missing_file_keeps_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.mmdb");
    write_country(&path, "AA");
    let (geo, mut follower) = followed(&path);
    let whole = fs::read(&path).unwrap();
    fs::write(&path, whole.get(..whole.len() - 40).unwrap()).unwrap();
    for _ in 0..3 {
        follower.look().await;
        assert_eq!(country(&geo, KNOWN).as_deref(), Some("AA"));
    }
    fs::remove_file(&path).unwrap();
    for _ in 0..3 {
        follower.look().await;
        assert_eq!(country(&geo, KNOWN).as_deref(), Some("AA"));
    }
    write_country(&path, "BB");
    follower.look().await;
    follower.look().await;
    assert_eq!(country(&geo, KNOWN).as_deref(), Some("BB"));
}
