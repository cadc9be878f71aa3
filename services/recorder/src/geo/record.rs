//! What a GeoIP database says of an address, in either of two layouts: MaxMind's own of City and Country databases, where
//! a city is a map of names, and the flat one of freely redistributable databases, where it is a text.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

/// Where a client address is, as far as the database says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Place {
    /// ISO 3166 code of the country.
    pub(crate) country: Option<String>,
    /// Its largest subdivision: a state or province.
    pub(crate) region: Option<String>,
    /// The city.
    pub(crate) city: Option<String>,
    /// Degrees north and degrees east; both or none.
    pub(crate) coordinates: Option<(f64, f64)>,
}

/// One record, of either layout. What is missing there is missing here.
#[derive(Deserialize)]
#[serde(bound(deserialize = "'de: 'a"))]
pub(crate) struct Record<'a> {
    // MaxMind's layout
    #[serde(default)]
    country: Named<'a>,
    #[serde(default)]
    subdivisions: Vec<Named<'a>>,
    location: Option<Location>,
    // in both, of different kinds
    #[serde(default)]
    city: Named<'a>,
    // the flat layout
    country_code: Option<&'a str>,
    state1: Option<&'a str>,
    latitude: Option<Degrees>,
    longitude: Option<Degrees>,
}

#[derive(Default, Deserialize)]
struct Location {
    latitude: Option<Degrees>,
    longitude: Option<Degrees>,
}

/// MaxMind writes doubles; others single precision, or text.
#[derive(Clone, Copy)]
struct Degrees(f64);

/// A thing with a code and an English name. In the flat layout it is the name alone.
#[derive(Clone, Copy, Default)]
struct Named<'a> {
    iso_code: Option<&'a str>,
    name: Option<&'a str>,
}

impl Record<'_> {
    pub(crate) fn place(self) -> Place {
        let region = self.subdivisions.first().copied().unwrap_or_default();
        let (latitude, longitude) = match self.location {
            Some(location) => (location.latitude, location.longitude),
            None => (self.latitude, self.longitude),
        };
        Place {
            country: text(self.country.iso_code.or(self.country_code)),
            region: text(region.name.or(region.iso_code).or(self.state1)),
            city: text(self.city.name),
            coordinates: latitude
                .zip(longitude)
                .map(|(latitude, longitude)| (latitude.0, longitude.0))
                .filter(|(latitude, longitude)| {
                    (-90.0..=90.0).contains(latitude) && (-180.0..=180.0).contains(longitude)
                }),
        }
    }
}

/// Without what PostgreSQL cannot store, and null rather than empty.
fn text(text: Option<&str>) -> Option<String> {
    text.filter(|text| !text.is_empty() && !text.contains('\0'))
        .map(str::to_owned)
}

impl<'de: 'a, 'a> Deserialize<'de> for Named<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamedVisitor)
    }
}

struct NamedVisitor;

impl<'de> Visitor<'de> for NamedVisitor {
    type Value = Named<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name, or a map with names")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Named {
            iso_code: None,
            name: Some(name),
        })
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut named = Named::default();
        while let Some(key) = map.next_key::<&str>()? {
            match key {
                "iso_code" => named.iso_code = map.next_value()?,
                "names" => named.name = map.next_value::<Names<'de>>()?.en,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(named)
    }
}

impl<'de> Deserialize<'de> for Degrees {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DegreesVisitor)
    }
}

struct DegreesVisitor;

impl Visitor<'_> for DegreesVisitor {
    type Value = Degrees;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("degrees")
    }

    fn visit_f64<E>(self, degrees: f64) -> Result<Degrees, E> {
        Ok(Degrees(degrees))
    }

    fn visit_f32<E>(self, degrees: f32) -> Result<Degrees, E> {
        Ok(Degrees(degrees.into()))
    }

    fn visit_str<E>(self, degrees: &str) -> Result<Degrees, E> {
        Ok(Degrees(degrees.parse().unwrap_or(f64::NAN))) // not a number is in no range, so unknown
    }
}

#[derive(Deserialize)]
struct Names<'a> {
    en: Option<&'a str>,
}
