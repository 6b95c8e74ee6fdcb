//! A container's place on its networks: endpoints for a start, what inspect shows of them, and what is given back at the end
//! of a run.

use std::{collections::BTreeMap, os::fd::AsFd};

use longshore_model::{Error, Result, port::PublishedPort};
use longshore_network::{Endpoint, Wanted};
use longshore_store::NewEvent;
use serde::{Deserialize, Serialize};

use super::{
    actor::Actor,
    dns, interface,
    record::{Definition, RunRecord},
    snapshot::EndpointState,
    spec::{EndpointSpec, NetworkMode, NetworkSpec},
};
use crate::{
    Inner,
    network::{NetworkRecord, from_mechanism, predefined, wanted_ports},
};

/// A network that a running container is on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plugged {
    /// The network's name.
    pub network: String,
    pub endpoint: Endpoint,
}

/// The endpoint that has the default route of a family: the highest priority, then the network's name, decides.
pub(crate) fn gateway<'a>(
    spec: &NetworkSpec,
    plugged: &'a [Plugged],
    ipv6: bool,
) -> Option<&'a Plugged> {
    let priority = |p: &Plugged| spec.endpoints.get(&p.network).map_or(0, |e| e.gw_priority);
    plugged
        .iter()
        .filter(|p| {
            if ipv6 {
                p.endpoint.gateway6.is_some()
            } else {
                p.endpoint.gateway.is_some()
            }
        })
        .min_by(|a, b| {
            priority(b)
                .cmp(&priority(a))
                .then_with(|| a.network.cmp(&b.network))
        })
}

/// The endpoint that ports are published on.
pub(crate) fn front<'a>(spec: &NetworkSpec, plugged: &'a [Plugged]) -> Option<&'a Endpoint> {
    let found = gateway(spec, plugged, false).or_else(|| gateway(spec, plugged, true))?;
    found.endpoint.stacked.is_none().then_some(&found.endpoint)
}

/// (interface, gateway), at most one a family.
pub(crate) fn default_routes(
    spec: &NetworkSpec,
    plugged: &[Plugged],
) -> Vec<(String, std::net::IpAddr)> {
    let four = gateway(spec, plugged, false)
        .and_then(|p| Some((p.endpoint.interface.clone(), p.endpoint.gateway?)));
    let six = gateway(spec, plugged, true)
        .and_then(|p| Some((p.endpoint.interface.clone(), p.endpoint.gateway6?.into())));
    four.into_iter().chain(six).collect()
}

/// The lowest `ethN` that is free.
fn free_interface(plugged: &[Plugged]) -> String {
    (0..)
        .map(|number| format!("eth{number}"))
        .find(|name| plugged.iter().all(|p| p.endpoint.interface != *name))
        .unwrap_or_default()
}

/// Kernel settings that were asked for the interface of an endpoint.
pub(super) fn interface_settings(
    spec: &NetworkSpec,
    plugged: &[Plugged],
    endpoint: &Endpoint,
) -> Result<Vec<(String, String)>> {
    let network = plugged
        .iter()
        .find(|p| p.endpoint.endpoint_id == endpoint.endpoint_id)
        .and_then(|p| spec.endpoints.get(&p.network));
    match network {
        Some(wanted) => interface::sysctls(wanted, &endpoint.interface),
        None => Ok(Vec::new()),
    }
}

/// The same for all of them.
pub(super) fn settings(spec: &NetworkSpec, plugged: &[Plugged]) -> Result<Vec<(String, String)>> {
    let mut all = Vec::new();
    for p in plugged {
        all.extend(interface_settings(spec, plugged, &p.endpoint)?);
    }
    Ok(all)
}

/// The names that others on a user's network know a container by.
pub(crate) fn dns_names(definition: &Definition, endpoint: &EndpointSpec) -> Vec<String> {
    let mut names = vec![definition.name.clone()];
    let more = endpoint.aliases.iter().map(String::as_str);
    let own = [definition.id.short(), definition.hostname.as_str()];
    for name in more.chain(own) {
        if !name.is_empty() && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// The networks as inspect shows them: wanted ones before the first run, live values while running.
pub(super) fn networks_of(
    engine: &Inner,
    definition: &Definition,
    run: &RunRecord,
) -> BTreeMap<String, EndpointState> {
    let spec = &definition.spec.network;
    let mut networks = BTreeMap::new();
    for (name, wanted) in &spec.endpoints {
        let mut state = EndpointState {
            aliases: wanted.aliases.clone(),
            links: wanted.links.clone(),
            driver_opts: wanted.driver_opts.clone(),
            gw_priority: wanted.gw_priority,
            echo: wanted.echo.clone(),
            ..EndpointState::default()
        };
        let known = run.networked || wanted.connected;
        if known {
            state.network_id = if wanted.network_id.is_empty() {
                engine.network_id(name).unwrap_or_default()
            } else {
                wanted.network_id.clone()
            };
        }
        if predefined(name) {
            if run.renamed {
                state.dns_names = vec![definition.name.clone(), definition.id.short().to_owned()];
            }
        } else if known {
            state.dns_names = dns_names(definition, wanted);
        }
        if let Some(plugged) = run.endpoints.iter().find(|p| p.network == *name) {
            let endpoint = &plugged.endpoint;
            state.endpoint_id.clone_from(&endpoint.endpoint_id);
            // A route without a gateway shows none.
            state.gateway = endpoint.gateway.filter(|gateway| !gateway.is_unspecified());
            state.ip_address = endpoint.ip;
            state.ip_prefix = if endpoint.ip.is_some() {
                endpoint.prefix
            } else {
                0
            };
            state.ipv6_gateway = endpoint
                .gateway6
                .filter(|gateway| !gateway.is_unspecified())
                .map(Into::into);
            state.ipv6_address = endpoint.ip6.map(Into::into);
            state.ipv6_prefix = endpoint.prefix6;
            // An ipvlan link has its parent's.
            let own = endpoint.stacked.as_ref().is_none_or(|s| s.kind != "ipvlan");
            state.mac_address = if own {
                endpoint.mac_text()
            } else {
                String::new()
            };
        }
        networks.insert(name.clone(), state);
    }
    networks
}

impl Actor {
    /// Endpoints on all networks that the container is to be on: the mode's own first, then by priority and name.
    pub(super) fn allocate(&self) -> Result<Vec<Plugged>> {
        let spec = &self.definition.spec.network;
        let mut plugged = Vec::new();
        if spec.disabled || matches!(spec.mode, NetworkMode::Container(_)) {
            return Ok(plugged);
        }
        let main = match &spec.mode {
            NetworkMode::Named(name) => self.engine.networks.find(name).ok(),
            _ => self.engine.networks.named("bridge"),
        };
        let mut order: Vec<(&String, &EndpointSpec)> = spec.endpoints.iter().collect();
        order.sort_by(|(a, left), (b, right)| {
            let is_main = |name: &str| main.as_ref().is_some_and(|n| n.name == name);
            is_main(b)
                .cmp(&is_main(a))
                .then_with(|| right.gw_priority.cmp(&left.gw_priority))
                .then_with(|| a.cmp(b))
        });
        for (name, wanted) in order {
            match self.endpoint(name, wanted, &plugged) {
                Ok(Some(endpoint)) => plugged.push(Plugged {
                    network: name.clone(),
                    endpoint,
                }),
                Ok(None) => {}
                Err(error) => {
                    for done in &plugged {
                        self.engine.network.release(&done.endpoint, &[]);
                    }
                    return Err(error.context("failed to set up container networking"));
                }
            }
        }
        Ok(plugged)
    }

    pub(super) fn endpoint(
        &self,
        name: &str,
        wanted: &EndpointSpec,
        others: &[Plugged],
    ) -> Result<Option<Endpoint>> {
        let found = self.engine.networks.named(name);
        // One that was made anew under the same name is another network.
        let same = found.filter(|n| wanted.network_id.is_empty() || n.id == wanted.network_id);
        let network = same.ok_or_else(|| {
            let given = if wanted.network_id.is_empty() {
                name
            } else {
                &wanted.network_id
            };
            Error::not_found(format!("network {given} not found"))
        })?;
        let Some(link) = self.engine.network_link(&network)? else {
            return Ok(None);
        };
        let interface = interface::name(wanted)
            .cloned()
            .unwrap_or_else(|| free_interface(others));
        // Before anything is taken.
        interface::sysctls(wanted, &interface)?;
        let wanted = Wanted {
            ip: wanted.ipv4_address,
            ip6: wanted.ipv6_address,
            mac: wanted.mac_address,
            interface,
        };
        self.engine
            .network
            .allocate(&link, &wanted, self.definition.id.as_str())
            .map(Some)
    }

    /// `connect` or `disconnect` of everything that the run is on.
    pub(super) fn network_events(&self, plugged: &[Plugged], action: &str) -> Vec<NewEvent> {
        if plugged.is_empty() {
            return self
                .engine
                .special_network(&self.definition.spec.network.mode)
                .map(|network| self.network_event(&network, action))
                .into_iter()
                .collect();
        }
        plugged
            .iter()
            .filter_map(|p| self.engine.networks.named(&p.network))
            .map(|network| self.network_event(&network, action))
            .collect()
    }

    pub(super) fn network_event(&self, network: &NetworkRecord, action: &str) -> NewEvent {
        crate::events::event(
            "network",
            action,
            &network.id,
            BTreeMap::from([
                ("container".to_owned(), self.definition.id.to_string()),
                ("name".to_owned(), network.name.clone()),
                ("type".to_owned(), network.driver.clone()),
            ]),
        )
    }

    /// Addresses and ports go back; the disconnect events.
    pub(super) async fn release_network(&mut self) -> Vec<NewEvent> {
        let plugged = std::mem::take(&mut self.run.endpoints);
        let ports = std::mem::take(&mut self.run.ports);
        let events = self.network_events(&plugged, "disconnect");
        if plugged.is_empty() {
            return events;
        }
        dns::leave(&self.engine, &self.definition.id, &plugged);
        let donor = self.is_donor();
        if donor || !ports.is_empty() {
            let engine = self.engine.clone();
            let unplugged = crate::blocking(move || {
                let mut outcome = Ok(());
                for p in &plugged {
                    // The namespace lives on in those who joined it: the address must not, as the next container gets it.
                    if donor {
                        outcome = outcome.and(engine.network.remove_link(&p.endpoint.host_name));
                    }
                    engine.network.release(&p.endpoint, &[]);
                }
                outcome
            })
            .await;
            if let Err(error) = unplugged {
                tracing::error!(container = %self.definition.id, "link not removed: {error}");
            }
        } else {
            for p in &plugged {
                self.engine.network.release(&p.endpoint, &[]);
            }
        }
        events
    }

    /// Does another container share this one's network namespace, or is about to? Also by way of a third one.
    fn is_donor(&self) -> bool {
        /// Longer chains of donors are circles.
        const DEPTH: usize = 32;
        let containers = &self.engine.containers;
        let joined_me = |other: &std::sync::Arc<super::snapshot::Snapshot>| {
            let mut link = other.clone();
            for _ in 0..DEPTH {
                let NetworkMode::Container(donor) = &link.spec.network.mode else {
                    return false;
                };
                let Ok(donor) = containers.find(donor) else {
                    return false;
                };
                if donor.id == self.definition.id {
                    return true;
                }
                link = donor.snapshot();
            }
            false
        };
        containers.snapshots().iter().any(|other| {
            let up =
                other.state.phase.is_up() || other.state.phase == super::phase::Phase::Starting;
            up && joined_me(other)
        })
    }
}

/// Publishes the container's ports on one of its endpoints.
pub(super) fn publish(
    engine: &Inner,
    definition: &Definition,
    endpoint: &Endpoint,
) -> Result<Vec<PublishedPort>> {
    let wanted = wanted_ports(&definition.spec);
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let published = engine.network.publish(endpoint, &wanted).map_err(|error| {
        let id = &endpoint.endpoint_id;
        error
            .context(format!(
                "driver failed programming external connectivity on endpoint {} ({id})",
                definition.name
            ))
            .context("failed to set up container networking")
    })?;
    Ok(from_mechanism(published))
}

/// Completes what the daemon's death left half done: links that the record knows and the container does not have.
pub(super) fn complete(engine: &Inner, definition: &Definition, run: &RunRecord) -> Result<()> {
    let missing: Vec<_> = run
        .endpoints
        .iter()
        .filter(|p| p.endpoint.stacked.is_none() && !engine.network.has_link(&p.endpoint.host_name))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let netns = std::fs::File::open(format!("/proc/{}/ns/net", run.state.pid()))
        .map_err(|e| Error::io("open the container's network namespace", e))?;
    for p in missing {
        engine.network.plug(netns.as_fd(), &p.endpoint)?;
        let settings = interface_settings(&definition.spec.network, &run.endpoints, &p.endpoint)?;
        engine.network.set_sysctls(netns.as_fd(), &settings)?;
        super::files::add_host_lines(definition, &p.endpoint);
    }
    let routes = default_routes(&definition.spec.network, &run.endpoints);
    engine.network.set_gateways(netns.as_fd(), &routes)
}
