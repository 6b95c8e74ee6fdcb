//! Networks of a manager: bridges come and go.

use longshore_model::{Error, Result};

use crate::{
    Manager, bridge, host,
    manager::{link_failed, rules_failed, unknown},
    nft::rules,
    state::{Network, State},
    types::{Bridge, BridgeSpec, PoolPlan, Stacked, Subnet, WantedPool},
};

impl Manager {
    /// Decides on the addresses of a network whose link will have the name `key`: what is `wanted` first, in that order, then
    /// a free pool for each other family that is asked for (`[IPv4, IPv6]`). They are the network's until [`Self::give_up`]
    /// or its removal.
    ///
    /// # Errors
    /// dockerd's texts for overlaps, addresses that are wanted twice, and exhausted pools.
    pub fn reserve(
        &self,
        key: &str,
        wanted: &[WantedPool],
        families: [bool; 2],
    ) -> Result<Vec<PoolPlan>> {
        let mut state = self.lock();
        let state = &mut *state;
        let host = bridge::host_networks(&mut state.links, 0)
            .map_err(|e| link_failed("read networks of", "the host", &e))?;
        state
            .space
            .reserve(key, wanted, families, &self.config.pools, &host)
    }

    /// Forgets the addresses of a network that was not made after all.
    pub fn give_up(&self, key: &str) {
        let mut state = self.lock();
        if !state.networks.contains_key(key) {
            state.space.forget(key);
        }
    }

    /// Makes a bridge, or takes the one that is there, and gives it its address. Calling it again changes nothing.
    ///
    /// # Errors
    /// The name belongs to another kind of link, no free address pool, or what the kernel answered.
    pub fn ensure_bridge(&self, spec: &BridgeSpec) -> Result<Bridge> {
        self.undertaker.wait_for(&spec.name);
        let mut state = self.lock();
        if let Some(known) = state.networks.get(&spec.name) {
            return Ok(known.bridge.clone());
        }
        let network = {
            let State { links, space, .. } = &mut *state;
            bridge::ensure(links, spec, &self.config.name, space, &self.config.pools)?
        };
        let mut whole = false;
        if network.pool6.is_some() && self.config.ip_forward && !state.guards[1] {
            state.guards[1] |= host::forward_ipv6()?;
            whole = state.guards[1];
        }
        let bridge = network.bridge.clone();
        if !network.localnet {
            whole = true;
            (self.config.on_repair)(&format!(
                "cannot set route_localnet on {}: published ports on 127.0.0.1 go through the relay",
                spec.name
            ));
        }
        let elements = network.ruled().map(|r| rules::bridge_elements(&r));
        state.networks.insert(spec.name.clone(), network);
        self.tell_relay(&state);
        if state.installed {
            let elements = elements.unwrap_or_default();
            if whole || state.nft.change(&[], &elements).is_err() {
                state.install().map_err(rules_failed)?;
            }
            let _ = state.ensure_passes();
        }
        Ok(bridge)
    }

    /// A network whose containers' links are stacked on one of the host's (macvlan, ipvlan): addresses only. `spec.name` names
    /// it and is no link's name.
    ///
    /// # Errors
    /// Addresses that are reserved twice.
    pub fn ensure_stacked(
        &self,
        spec: &BridgeSpec,
        plans: &[PoolPlan],
        stacked: Stacked,
    ) -> Result<()> {
        let mut state = self.lock();
        if state.networks.contains_key(&spec.name) {
            return Ok(());
        }
        let plan = |ipv6: bool| {
            let plan = plans.iter().find(|p| p.subnet.address.is_ipv6() == ipv6)?;
            Some((plan.subnet, plan.gateway))
        };
        let pool = |plan: Option<(Subnet, _)>| {
            plan.map(|(subnet, gateway)| bridge::pool(subnet, gateway, spec))
                .transpose()
        };
        let (four, six) = (plan(false), plan(true));
        let network = Network {
            pool: pool(four)?,
            pool6: pool(six)?,
            bridge: Bridge {
                index: 0,
                name: spec.name.clone(),
                subnet: four.map(|p| p.0),
                gateway: four.map(|p| p.1),
                subnet6: six.map(|p| p.0),
                gateway6: six.map(|p| p.1),
                mtu: spec.mtu,
                made: false,
            },
            spec: spec.clone(),
            localnet: true,
            stacked: Some(stacked),
        };
        let subnets = [network.bridge.subnet, network.bridge.subnet6];
        state
            .space
            .note(&spec.name, subnets.into_iter().flatten().collect());
        state.networks.insert(spec.name.clone(), network);
        Ok(())
    }

    /// The first half of removing a network: no endpoint can be made on it any more, all else stays.
    ///
    /// # Errors
    /// It has endpoints. A network that is not known (its link could not be made) is no error.
    pub fn retire(&self, key: &str) -> Result<Retired> {
        let mut state = self.lock();
        if state.endpoints.values().any(|a| a.endpoint.bridge == key) {
            return Err(Error::conflict(format!("bridge {key} has endpoints")));
        }
        Ok(Retired {
            key: key.to_owned(),
            network: state.networks.remove(key),
        })
    }

    /// Takes a retirement back.
    pub fn revive(&self, retired: Retired) {
        if let Some(network) = retired.network {
            self.lock().networks.insert(retired.key, network);
        }
    }

    /// The second half: rules and addresses go now, the link (when an engine made it) soon after.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn bury(&self, retired: Retired) -> Result<()> {
        let mut state = self.lock();
        state.space.forget(&retired.key);
        let Some(network) = retired.network else {
            return Ok(());
        };
        self.tell_relay(&state);
        if state.installed
            && let Some(ruled) = network.ruled()
        {
            let gone = rules::bridge_elements(&ruled);
            if !network.localnet || state.nft.change(&gone, &[]).is_err() {
                state.install().map_err(rules_failed)?;
            }
            let _ = state.ensure_passes();
        }
        if network.bridge.made {
            // The addresses first: a new network may have the same ones before the link is gone.
            let cleared = state.links.clear_addresses(network.bridge.index);
            drop(state);
            self.undertaker.take(retired.key.clone());
            cleared.map_err(|e| link_failed("take addresses from", &retired.key, &e))?;
        }
        Ok(())
    }

    /// Forgets a bridge without endpoints and removes its link when we made it.
    ///
    /// # Errors
    /// Endpoints left, or what the kernel answered.
    pub fn remove_bridge(&self, name: &str) -> Result<()> {
        let retired = self.retire(name)?;
        if retired.network.is_none() {
            return Err(unknown(name));
        }
        self.bury(retired)?;
        self.undertaker.wait_for(name);
        Ok(())
    }

    /// Removes bridges that an engine of this name made for a purpose (see [`BridgeSpec::purpose`]) and that nobody knows any
    /// more: their networks' records are gone, or were never completed.
    pub fn sweep_bridges(&self) {
        let mut state = self.lock();
        let ours = bridge::alias(&self.config.name, "") + ": ";
        let links = state.links.list().unwrap_or_default();
        for link in links {
            if link.kind == "bridge"
                && link.alias.starts_with(&ours)
                && !state.networks.contains_key(&link.name)
            {
                let _ = state.links.clear_addresses(link.index);
                self.undertaker.take(link.name);
            }
        }
    }

    fn tell_relay(&self, state: &State) {
        let subnets = state
            .networks
            .values()
            .filter(|n| n.stacked.is_none())
            .flat_map(|n| [n.bridge.subnet, n.bridge.subnet6])
            .flatten();
        self.relay.set_subnets(subnets.collect());
    }
}

/// A network on its way out.
#[must_use]
pub struct Retired {
    key: String,
    network: Option<Network>,
}
