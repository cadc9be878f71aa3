//! What is stored of a hit beyond what the pixel saw: how it compares to others, and what it tells of its reader.

use std::sync::Arc;

use tracking::{
    DedupKey, Hit, Rules, agent,
    agents::{Agent, Agents},
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

    /// Describes one hit. A proxy's address and agent say where the proxy is and nothing about its reader.
    pub(crate) fn describe(&self, hit: Hit) -> DescribedHit {
        let user_agent = hit.user_agent.as_deref();
        let by_proxy = agent::is_proxy(user_agent);
        let device = match user_agent {
            Some(user_agent) if !by_proxy => self.devices.of(user_agent),
            _ => DeviceType::Other,
        };
        let agent = self.agents.of_hit(&hit);
        let place = if by_proxy || agent.class().hides_reader() {
            Place::default()
        } else {
            self.geo.of(hit.client_address)
        };
        DescribedHit {
            dedup_key: hit.dedup_key(),
            google_proxy: agent::is_google_proxy_hit(user_agent, hit.client_address),
            device,
            place,
            agent,
            hit,
        }
    }
}
