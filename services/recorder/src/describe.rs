//! What is stored of a hit beyond what the pixel saw: how it compares to others, and what it tells of its reader.

use std::{collections::HashMap, sync::Arc};

use tracking::{
    DedupKey, Hit, Rules, agent,
    agents::{Agent, Agents, Sign},
    verdicts::{HitKey, NewHit},
};

use crate::{
    device::{DeviceType, Devices},
    geo::{Geo, Place},
};

/// A hit with all that follows from it alone. Its verdict, which follows from its neighbours too, is found later.
#[derive(Debug)]
pub(crate) struct DescribedHit {
    pub(crate) hit: Hit,
    pub(crate) dedup_key: DedupKey,
    pub(crate) google_proxy: bool,
    pub(crate) device: DeviceType,
    pub(crate) place: Place,
    pub(crate) agent: Agent,
}

impl DescribedHit {
    /// Its place in its email's timeline.
    pub(crate) fn key(&self) -> HitKey {
        HitKey {
            opened_at: self.hit.opened_at,
            event_id: self.hit.event_id,
        }
    }

    /// What its verdict depends on.
    pub(crate) fn to_judge(&self, rules: &Rules) -> NewHit {
        NewHit {
            key: self.key(),
            dedup_key: self.dedup_key,
            compose_window: rules
                .is_compose_window(self.hit.referer_host.as_deref(), self.hit.user_agent.as_deref()),
        }
    }
}

/// Knows devices, places and agents.
#[derive(Debug)]
pub(crate) struct Describer {
    devices: Devices,
    geo: Arc<Geo>,
    agents: Agents,
}

impl Describer {
    /// One that goes by these.
    pub(crate) fn new(devices: Devices, geo: Arc<Geo>, agents: Agents) -> Self {
        Self { devices, geo, agents }
    }

    /// The places.
    pub(crate) fn geo(&self) -> &Arc<Geo> {
        &self.geo
    }

    /// To describe the hits of one batch.
    pub(crate) fn of_batch(&self) -> BatchDescriber<'_> {
        BatchDescriber {
            describer: self,
            seen: HashMap::new(),
        }
    }

    fn read(&self, user_agent: Option<&str>) -> UserAgent {
        let by_proxy = agent::is_proxy(user_agent);
        let device = match user_agent {
            Some(user_agent) if !by_proxy => self.devices.of(user_agent),
            _ => DeviceType::Other,
        };
        UserAgent {
            by_proxy,
            names_google: agent::is_google_image_proxy(user_agent),
            device,
            sign: self.agents.sign(user_agent),
        }
    }
}

/// Describes the hits of one batch. To read a user agent takes microseconds, and few of a batch are different: each is read
/// once.
#[derive(Debug)]
pub(crate) struct BatchDescriber<'a> {
    describer: &'a Describer,
    seen: HashMap<String, UserAgent>,
}

/// What a user agent says by itself.
#[derive(Clone, Copy, Debug)]
struct UserAgent {
    by_proxy: bool,
    names_google: bool,
    device: DeviceType,
    sign: Option<Sign>,
}

impl BatchDescriber<'_> {
    /// Describes one hit. A proxy's address and agent say where the proxy is and nothing about its reader.
    pub(crate) fn describe(&mut self, hit: Hit) -> DescribedHit {
        let user_agent = hit.user_agent.as_deref();
        let says = self.read(user_agent);
        let agent = self.describer.agents.of_signed_hit(says.sign, &hit);
        let place = if says.by_proxy || agent.class().hides_reader() {
            Place::default()
        } else {
            self.describer.geo.of(hit.client_address)
        };
        let dedup_key = if says.by_proxy {
            DedupKey::PROXY
        } else {
            DedupKey::of_reader(hit.client_address, user_agent)
        };
        DescribedHit {
            dedup_key,
            google_proxy: says.names_google && agent::is_google_proxy_network(hit.client_address),
            device: says.device,
            place,
            agent,
            hit,
        }
    }

    fn read(&mut self, user_agent: Option<&str>) -> UserAgent {
        let Some(text) = user_agent else {
            return self.describer.read(None);
        };
        if let Some(known) = self.seen.get(text) {
            return *known;
        }
        let says = self.describer.read(user_agent);
        self.seen.insert(text.to_owned(), says);
        says
    }
}
