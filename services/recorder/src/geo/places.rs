//! A GeoIP database in MaxMind's file format.

use std::{
    collections::HashSet,
    fmt,
    fs::{File, Metadata},
    io::Read as _,
    net::IpAddr,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use anyhow::{Context, bail, ensure};
use maxminddb::{MaxMindDbError, Reader, WithinOptions};

use super::record::{Place, Record};

/// The countries that come with the recorder: data/geo/README.md.
const SHIPPED: &[u8] = include_bytes!("../../data/geo/countries.mmdb");
/// The most bytes that a file may have: a recorder has all of it in memory, and twice that while it takes over a new one.
/// The largest databases of cities that are to be had freely have 130 MiB.
const MOST_BYTES: u64 = 512 * 1024 * 1024;

/// A database, in memory or part of the program.
pub(crate) struct Places<S: AsRef<[u8]>>(Reader<S>);

impl<S: AsRef<[u8]>> fmt::Debug for Places<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Places({})", self.0.metadata().database_type)
    }
}

impl Places<&'static [u8]> {
    /// The shipped one. Only the pages of it that are looked at take memory.
    pub(crate) fn shipped() -> anyhow::Result<Self> {
        let places = Reader::from_source(SHIPPED).context("the shipped GeoIP database cannot be read")?;
        Ok(Self(places))
    }
}

impl Places<Vec<u8>> {
    /// Reads the file at `path`, and every record of it. What cannot be a database is told now, and not at the first hit.
    pub(crate) fn open(path: &Path) -> anyhow::Result<(Self, Version)> {
        Self::read(path).with_context(|| {
            format!(
                "GEOIP_DATABASE: {} is no readable MaxMind DB (.mmdb) file",
                path.display()
            )
        })
    }

    fn read(path: &Path) -> anyhow::Result<(Self, Version)> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        ensure!(metadata.is_file(), "it is no file");
        let version = Version::of(&metadata);
        if version.size > MOST_BYTES {
            bail!(
                "{} bytes are more than the {MOST_BYTES} that are taken",
                version.size
            );
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(usize::try_from(version.size)?.saturating_add(1))?;
        (&mut file).take(MOST_BYTES).read_to_end(&mut bytes)?;
        ensure!(
            Version::of(&file.metadata()?) == version,
            "it was being written while it was read"
        );
        let places = Self(Reader::from_source(bytes)?);
        places.check()?;
        Ok((places, version))
    }
}

impl<S: AsRef<[u8]>> Places<S> {
    /// Where `address` is, if the database says anything of it that can be read.
    pub(crate) fn of(&self, address: IpAddr) -> Option<Place> {
        self.look_up(address)
            .inspect_err(|error| tracing::debug!(%error, "a record of the GeoIP database cannot be read"))
            .ok()
            .flatten()
    }

    /// When it was built, in seconds since 1970.
    pub(crate) fn built_at(&self) -> u64 {
        self.0.metadata().build_epoch
    }

    /// What it calls itself.
    pub(crate) fn kind(&self) -> &str {
        &self.0.metadata().database_type
    }

    fn look_up(&self, address: IpAddr) -> Result<Option<Place>, MaxMindDbError> {
        if address.is_ipv6() && self.0.metadata().ip_version == 4 {
            return Ok(None);
        }
        let record: Option<Record<'_>> = self.0.lookup(address)?.decode()?;
        Ok(record
            .map(Record::place)
            .filter(|place| *place != Place::default()))
    }

    /// Reads every record once. A database of cities takes some seconds.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        // A tree of so many nodes has no more ends than that, unless it goes in circles.
        let most = u64::from(self.0.metadata().node_count) * 3;
        let mut seen = HashSet::new();
        for (found, count) in self.0.networks(WithinOptions::default())?.zip(0_u64..) {
            ensure!(count <= most, "its tree goes in circles");
            let found = found?;
            if found.offset().is_some_and(|offset| seen.insert(offset)) {
                found.decode::<Record<'_>>()?;
            }
        }
        ensure!(!seen.is_empty(), "it holds nothing");
        Ok(())
    }
}

/// Tells one file from the next, whether it was written anew, moved there, or the folder changed under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    /// That of what is at `path`, or why it cannot be told.
    pub(crate) fn at(path: &Path) -> std::io::Result<Self> {
        std::fs::metadata(path).map(|metadata| Self::of(&metadata))
    }

    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}
