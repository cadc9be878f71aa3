//! Where a client address is: by the countries that come with the recorder, or by the operator's own GeoIP database.

mod follow;
mod places;
mod record;

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use tokio::sync::watch;

use self::places::{Places, Version};
pub(crate) use self::{follow::follow, record::Place};

/// Which GeoIP database to go by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GeoDatabase {
    /// The countries that come with the recorder.
    #[default]
    Shipped,
    /// The operator's file, and the shipped countries of addresses that it says nothing of.
    File(PathBuf),
    /// None: places stay unknown.
    Off,
}

/// What the operator's file says, as it was when it was last good.
type Own = Option<Arc<Places<Vec<u8>>>>;

/// Knows where addresses are.
#[derive(Debug)]
pub(crate) struct Geo {
    shipped: Option<Places<&'static [u8]>>,
    own: watch::Sender<Own>,
    /// The operator's file, and which version of it was read first.
    file: Option<(PathBuf, Version)>,
}

impl Geo {
    /// Opens it. Fails, by name, if the operator's file cannot be read.
    pub(crate) fn open(database: GeoDatabase) -> anyhow::Result<Self> {
        let (own, file) = match &database {
            GeoDatabase::File(path) => {
                let (places, version) = Places::open(path)?;
                (Some(Arc::new(places)), Some((path.clone(), version)))
            }
            GeoDatabase::Shipped | GeoDatabase::Off => (None, None),
        };
        let shipped = match database {
            GeoDatabase::Off => None,
            GeoDatabase::Shipped | GeoDatabase::File(_) => Some(Places::shipped()?),
        };
        Ok(Self {
            shipped,
            own: watch::Sender::new(own),
            file,
        })
    }

    /// Where `address` is, as far as it is known.
    pub(crate) fn of(&self, address: IpAddr) -> Place {
        let address = address.to_canonical();
        let by_own = self.own.borrow().as_ref().and_then(|own| own.of(address));
        by_own
            .or_else(|| {
                let shipped = self.shipped.as_ref()?;
                (!is_example(address)).then(|| shipped.of(address))?
            })
            .unwrap_or_default()
    }

    /// When the one in use was built, in seconds since 1970; 0 if there is none.
    pub(crate) fn built_at(&self) -> u64 {
        let own = self.own.borrow().as_ref().map(|own| own.built_at());
        own.or_else(|| Some(self.shipped.as_ref()?.built_at()))
            .unwrap_or_default()
    }

    /// From now on the operator's file says this.
    fn replace(&self, places: Places<Vec<u8>>) {
        self.own.send_replace(Some(Arc::new(places)));
    }
}

/// Whether it is one for examples and documents, which the shipped countries put where those who set them aside are.
fn is_example(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_documentation(),
        IpAddr::V6(address) => address.segments().starts_with(&[0x2001, 0xdb8]),
    }
}

#[cfg(test)]
mod tests;
