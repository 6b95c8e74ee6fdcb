//! The manager's books, and how they become rules.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use longshore_model::Result;
use longshore_sys::netlink;

use crate::{
    ipam::Pool,
    link::Links,
    nft::{
        Nft, passes,
        rules::{self, Element, Filtered, RuledBridge, Ruleset},
    },
    ports::Ports,
    space::Space,
    types::{Bridge, BridgeSpec, Endpoint, PublishedPort, Stacked},
};

/// What a netlink request comes to.
pub type Outcome<T> = std::result::Result<T, netlink::Error>;

/// What exists, under the manager's one lock.
pub struct State {
    pub nft: Nft,
    pub links: Links,
    /// By the link's name; networks without a link of their own have a name that no link can have.
    pub networks: BTreeMap<String, Network>,
    pub space: Space,
    /// By endpoint id.
    pub endpoints: HashMap<String, Attached>,
    pub ports: Ports,
    pub wildcard: Vec<IpAddr>,
    /// The kernel has our rules. Until then an older engine's rules are left alone.
    pub installed: bool,
    /// IPv4, IPv6: see [`rules::GUARDS`].
    pub guards: [bool; 2],
    pub filtered: Filtered,
    pub closed: bool,
}

/// A network with its addresses: a bridge, or (`stacked`) links on top of one of the host's.
pub struct Network {
    pub spec: BridgeSpec,
    pub bridge: Bridge,
    pub pool: Option<Pool>,
    pub pool6: Option<Pool>,
    pub localnet: bool,
    pub stacked: Option<Stacked>,
}

impl Network {
    /// What the rules must know of it; nothing of networks that do not pass the host.
    pub fn ruled(&self) -> Option<RuledBridge<'_>> {
        self.stacked.is_none().then_some(RuledBridge {
            bridge: &self.bridge,
            spec: &self.spec,
            localnet: self.localnet,
        })
    }
}

/// An endpoint with its ports.
pub struct Attached {
    pub endpoint: Endpoint,
    pub published: Vec<PublishedPort>,
}

impl State {
    /// The whole table as it should be.
    pub fn ruleset(&self) -> Ruleset {
        let bridges: Vec<RuledBridge<'_>> =
            self.networks.values().filter_map(Network::ruled).collect();
        let mut ruleset = rules::table(&bridges, self.guards, self.filtered);
        for attached in self.endpoints.values() {
            ruleset
                .elements
                .extend(elements_of(&attached.endpoint, &attached.published));
        }
        ruleset.elements.sort_by_key(|e| e.set);
        ruleset
    }

    /// Replaces the table by what it should be.
    pub fn install(&mut self) -> Outcome<()> {
        let ruleset = self.ruleset();
        self.nft.replace(&ruleset)?;
        self.installed = true;
        // Without it users only lack a place for rules of their own.
        let _ = self.nft.ensure_hook();
        // What another's firewall does must not stop us.
        let _ = self.ensure_passes();
        Ok(())
    }

    /// See [`passes`]; true when something was changed.
    pub fn ensure_passes(&mut self) -> Outcome<bool> {
        let bridges = || self.networks.values().filter(|n| n.stacked.is_none());
        let all: Vec<&str> = bridges().map(|n| n.bridge.name.as_str()).collect();
        let with6 = bridges().filter(|n| n.pool6.is_some());
        let six: Vec<&str> = with6.map(|n| n.bridge.name.as_str()).collect();
        let changed4 = self.nft.ensure_passes(passes::IPV4, &all)?;
        let changed6 = self.nft.ensure_passes(passes::IPV6, &six)?;
        Ok(changed4 || changed6)
    }

    /// Installs the rules unless they are.
    pub fn settle(&mut self) -> Outcome<()> {
        if self.installed || self.closed {
            return Ok(());
        }
        self.install()
    }

    /// Adds elements; when that fails because others changed the table, once more after a repair.
    pub fn add(&mut self, elements: &[Element]) -> Outcome<()> {
        if elements.is_empty() {
            return Ok(());
        }
        if self.nft.change(&[], elements).is_ok() {
            return Ok(());
        }
        self.install()?;
        self.nft.change(&[], elements)
    }
}

/// The wanted address, or any.
pub fn take(pool: &mut Pool, wanted: Option<IpAddr>, owner: &str) -> Result<IpAddr> {
    match wanted {
        Some(ip) => pool.take_exactly(ip, owner).map(|()| ip),
        None => pool.take(owner),
    }
}

/// Map entries of an endpoint's ports, grouped by map.
pub fn elements_of(endpoint: &Endpoint, ports: &[PublishedPort]) -> Vec<Element> {
    let mut elements: Vec<Element> = ports
        .iter()
        .filter_map(|port| rules::element(endpoint, port))
        .collect();
    elements.sort_by_key(|e| e.set);
    elements
}
