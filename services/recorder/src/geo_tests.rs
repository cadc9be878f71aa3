//! Places from small databases made here, in both layouts.

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

fn open(bytes: &[u8]) -> anyhow::Result<Places> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("places.mmdb");
    std::fs::write(&path, bytes).unwrap();
    Places::open(&path)
}

const KNOWN: &str = "81.2.69.142";

fn place_of(record: &Value) -> Place {
    open(&database(record)).unwrap().of(KNOWN.parse().unwrap())
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
        assert_eq!(places.of(address.parse().unwrap()), Place::default(), "{address}");
    }
    assert_eq!(
        places
            .of("::ffff:81.2.69.142".parse().unwrap())
            .country
            .as_deref(),
        Some("GB")
    );
}

#[test]
fn a_broken_file_is_refused_by_name() {
    let whole = database(&Map(vec![("country_code", Text("GB"))]));
    let half = whole.get(..whole.len() / 2).unwrap();
    for broken in [&b""[..], b"not a database", half] {
        let error = format!("{:#}", open(broken).unwrap_err());
        assert!(
            error.contains("GEOIP_DATABASE") && error.contains("places.mmdb"),
            "{error}"
        );
    }
    let error = format!("{:#}", Places::open(Path::new("/nowhere/at.mmdb")).unwrap_err());
    assert!(error.contains("/nowhere/at.mmdb"), "{error}");
}
